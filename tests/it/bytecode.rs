//! Bytecode in images: Lambda's Python takes it from a disk that it cannot write, it tells of the places in the
//! image alone, and nothing but sources and interpreter decides it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::emulator::Root;
use crate::support::image::Image;
use crate::support::index::Index;
use crate::support::program;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::python;
use crate::support::wheel::Wheel;

/// Notes what is compiled from here on, and where a failure of a package says that it was.
const HANDLER: &str = r#"
import importlib.machinery, os, sys, traceback
compiled = []
original = importlib.machinery.SourceFileLoader.source_to_code
def noting(self, data, path, **options):
    compiled.append(path)
    return original(self, data, path, **options)
importlib.machinery.SourceFileLoader.source_to_code = noting
import some, helper
def handler(event, context):
    try:
        some.fail()
    except ValueError as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = [path for path in compiled if path.startswith("/var/task/")]
    return {"compiled": ours, "where": where, "helper": helper.where(), "app": handler.__code__.co_filename,
            "writable": os.access("/var/task", os.W_OK), "dont_write": sys.dont_write_bytecode}
"#;

/// A module of many constants, for whose marks an order of compiling could matter.
fn module(seed: usize) -> String {
    let mut text = String::from("def fail():\n    raise ValueError('no')\n");
    for number in 0..40 {
        let _ = writeln!(
            text,
            "def f{number}(x, *, name='shared'):\n    return x in {{'a', None, {seed}}} and ('shared', {number}.5, '{{', b'x')"
        );
    }
    text
}

fn some() -> Wheel {
    Wheel::tagged("some", "1.0", "py3-none-any")
        .member("some/__init__.py", module(1))
        .member("some/more.py", module(2))
        .member("some/deep/__init__.py", "")
        .member("some/tests/test_it.py", "x = 1\n")
}

/// A project of the handler that needs these wheels.
fn project(wheels: &[Wheel]) -> (Project, Index) {
    let project = Project::with_handler();
    project.file("app.py", HANDLER);
    project.file(
        "helper.py",
        "def where():\n    return where.__code__.co_filename\n",
    );
    let index = Index::start();
    let mut lock = "lock-version = \"1.0\"\ncreated-by = \"another\"\n".to_owned();
    for wheel in wheels {
        index.serve(wheel);
        let (name, file) = (wheel.name(), wheel.file_name());
        let version = file.split('-').nth(1).unwrap();
        let url = format!("{}/{file}", index.url().replace("/simple", "/files"));
        let hash = &digest(&wheel.bytes())[7..];
        let _ = write!(
            lock,
            "\n[[packages]]\nname = \"{name}\"\nversion = \"{version}\"\n\
             wheels = [{{ url = \"{url}\", hashes = {{ sha256 = \"{hash}\" }} }}]\n"
        );
    }
    project.file("pylock.toml", lock);
    (project, index)
}

/// A run of `build` with bytecode.
fn building<'p>(project: &'p Project, index: &Index, flags: &[&str]) -> Run<'p> {
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "some:1"];
    let run = project.lambimg(build.iter().chain(flags));
    run.index(&index.url()).env("LAMBIMG_BYTECODE", "true")
}

fn built(project: &Project, index: &Index, flags: &[&str]) -> String {
    building(project, index, flags).succeed()
}

/// What is in the image at `var/task`, and what is told of its bytecode.
fn image(project: &Project, index: &Index, flags: &[&str]) -> (BTreeMap<String, Vec<u8>>, Value) {
    let (layout, told) = (project.beside("image"), project.beside("told.json"));
    let _ = fs::remove_dir_all(&layout);
    let output = format!("oci:{}", layout.display());
    let own = ["-o", &output, "--metadata-file", told.to_str().unwrap()];
    built(project, index, &[flags, &own].concat());
    let image = Image::in_directory(&layout);
    image.assert_accepted_by_lambda();
    let files = image.files_below("var/task").into_iter();
    let told: Value = serde_json::from_slice(&fs::read(told).unwrap()).unwrap();
    let files = files.map(|(path, entry)| (path, entry.content)).collect();
    (files, told["bytecode"].clone())
}

fn cached(files: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    let paths = files.keys().map(String::as_str);
    paths.filter(|path| path.contains("__pycache__")).collect()
}

/// What a module's bytecode in the image says its text `TEXT` is, by the interpreter that it is for.
fn text_in(bytes: &[u8], directory: &Path) -> String {
    let file = directory.join("one.pyc");
    fs::write(&file, bytes).unwrap();
    let ask = "import marshal, sys\nnames = {}\n\
               exec(marshal.loads(open(sys.argv[1], 'rb').read()[16:]), names)\nprint(names['TEXT'])";
    let output = Command::new(python("3.12"))
        .args(["-c", ask])
        .arg(file)
        .output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn lambda_compiles_nothing_on_its_read_only_disk() {
    let answer = |bytecode: &str| -> Value {
        let (project, index) = project(&[some()]);
        let layout = format!("oci:{}", project.beside("image").display());
        let run = building(&project, &index, &["-o", &layout]);
        run.env("LAMBIMG_BYTECODE", bytecode).succeed();
        serde_json::from_str(&Root::copy(&layout).answer("{}")).unwrap()
    };
    let told = |compiled: &[&str]| {
        json!({"compiled": compiled, "where": "/var/task/some/__init__.py", "helper": "/var/task/helper.py",
            "app": "/var/task/app.py", "writable": false, "dont_write": false})
    };
    assert_eq!(answer("true"), told(&[]));
    let all = ["/var/task/some/__init__.py", "/var/task/helper.py"];
    assert_eq!(answer("false"), told(&all));
}

/// As AWS's bases have it, and whatever is asked for the function.
#[test]
fn the_standard_library_of_a_base_made_here_is_compiled() {
    let project = Project::of_example("hello");
    let handler = "import os, sys\ndef handler(event, context):\n    \
                   modules = [module for module in sys.modules.values() if getattr(module, '__cached__', None)]\n    \
                   library = [module for module in modules if module.__file__.startswith(os.path.dirname(os.__file__))]\n    \
                   return [len(library), [module.__name__ for module in library if not os.path.exists(module.__cached__)]]\n";
    project.file("app.py", handler);
    let layout = project.beside("image");
    let output = format!("oci:{}", layout.display());
    let arguments = ["build", "--base", "host", "--python", "3.12", "-t", "hello"];
    let arguments = [&arguments[..], &["-o", &output]].concat();
    let first = project.lambimg(&arguments).succeed();
    let files = Image::in_directory(&layout).files_below("var/lang/lib/python3.12");
    let modules = files.keys().filter_map(|path| path.strip_suffix(".py"));
    let modules: Vec<_> = modules.collect();
    assert!(modules.len() > 300, "{modules:?}");
    for module in modules {
        let (directory, name) = module.rsplit_once('/').unwrap_or(("", module));
        let slash = if directory.is_empty() { "" } else { "/" };
        let cached = format!("{directory}{slash}__pycache__/{name}.cpython-312.pyc");
        // Unchecked, by the hash of its source.
        assert_eq!(files[&cached].content[4..8], [1, 0, 0, 0], "{cached}");
    }
    let answer = Root::copy(&output).answer("{}");
    let answer: (usize, Vec<String>) = serde_json::from_str(&answer).unwrap();
    assert!(answer.0 > 20 && answer.1.is_empty(), "{answer:?}");
    let checked = project.lambimg(["check", &output]).run();
    assert!(
        checked.code == Some(0) && checked.stderr.starts_with("no findings "),
        "{}",
        checked.rendering()
    );
    let again = project.lambimg(&arguments);
    let again = again.env("LAMBIMG_CACHE_DIR", project.beside("another cache"));
    assert_eq!(again.succeed(), first);
}

#[test]
fn every_module_has_bytecode_of_its_place_and_of_no_other() {
    let (project, index) = project(&[some()]);
    let (files, told) = image(&project, &index, &[]);
    assert_eq!(
        cached(&files),
        [
            "__pycache__/app.cpython-312.pyc",
            "__pycache__/helper.cpython-312.pyc",
            "some/__pycache__/__init__.cpython-312.pyc",
            "some/__pycache__/more.cpython-312.pyc",
            "some/deep/__pycache__/__init__.cpython-312.pyc",
            "some/tests/__pycache__/test_it.cpython-312.pyc",
        ]
    );
    assert_eq!((&told["compiled"], &told["failed"]), (&json!(6), &json!(0)));
    assert_eq!(told["implementation"], "cpython");
    assert!(told["version"].as_str().unwrap().starts_with("3.12."));
    let here = project.beside("").to_str().unwrap().as_bytes().to_owned();
    for (path, bytes) in &files {
        assert!(
            !bytes.windows(here.len()).any(|part| part == here),
            "{path}"
        );
        if path.contains("__pycache__") {
            // Flags of an unchecked hash.
            assert_eq!(bytes[4..8], [1, 0, 0, 0], "{path}");
        }
    }
    // Its interpreter may be of any machine.
    let (for_arm, told_of_arm) = image(&project, &index, &["--arch", "arm64"]);
    assert!(files == for_arm && told == told_of_arm);
    let (fewer, _) = image(&project, &index, &["--exclude-in-packages", "some/tests"]);
    assert!(!cached(&fewer).iter().any(|path| path.contains("tests")));
    assert_eq!(cached(&fewer).len(), 5);
}

#[test]
fn neither_processors_nor_cache_nor_what_was_compiled_before_change_the_digest() {
    let (project, index) = project(&[some()]);
    let first = built(&project, &index, &[]);
    assert_eq!(first, built(&project, &index, &[]));
    assert_eq!(first, built(&project, &index, &["--no-cache"]));
    let base = Base::aws("3.12").reference();
    let mut pinned = Command::new(program("taskset", "util-linux"));
    pinned.args(["-c", "0", env!("CARGO_BIN_EXE_lambimg")]);
    pinned.args(["build", "--base", &base, "-t", "some:1"]);
    let run = project.run_by(pinned).index(&index.url());
    let run = run.env("LAMBIMG_CACHE_DIR", project.beside("another cache"));
    let run = run
        .env("PYTHONHASHSEED", "7")
        .env("LC_ALL", "C")
        .env("PYTHONOPTIMIZE", "2");
    assert_eq!(first, run.env("LAMBIMG_BYTECODE", "true").succeed());
    assert_ne!(first, built(&project, &index, &["--no-bytecode"]));
}

#[test]
fn an_unchanged_build_starts_no_interpreter() {
    let (project, index) = project(&[some()]);
    let first = built(&project, &index, &[]);
    let started = project.beside("started");
    let script = format!("echo >> {}\nexit 1\n", started.display());
    let run = building(&project, &index, &[]).script("python3.12", &script);
    assert_eq!(first, run.succeed());
    assert!(!started.exists());
}

#[test]
fn what_does_not_compile_is_left_as_it_is_and_counted() {
    let old = "print 'two'\n";
    let wheel = some().member("some/old.py", old);
    let (project, index) = project(&[wheel]);
    project.file("broken.py", "def\n");
    let (files, told) = image(&project, &index, &[]);
    assert_eq!((&told["compiled"], &told["failed"]), (&json!(6), &json!(2)));
    assert_eq!(files["some/old.py"], old.as_bytes());
    // Python passes over it, whatever lies below.
    assert!(files["some/__pycache__/old.cpython-312.pyc"].is_empty());
    let again = image(&project, &index, &[]).1;
    assert_eq!(told, again, "counted although nothing was compiled again");
    let outcome = building(&project, &index, &["-v", "--no-cache"]).run();
    let lines = outcome.stderr.lines();
    let mut lines: Vec<_> = lines.filter(|line| line.contains("uncompiled")).collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @r"
    function: left uncompiled: /var/task/broken.py (SyntaxError: invalid syntax (broken.py, line 1))
    some-1.0-py3-none-any.whl: left uncompiled: /var/task/some/old.py (SyntaxError: Missing parentheses in call to 'print'. Did you mean print(...)? (old.py, line 1))
    ");
}

#[test]
fn the_file_that_wins_has_the_bytecode() {
    let text = |name: &str| format!("TEXT = '{name}'\n");
    let bringing = |name: &str, shared: &str| {
        Wheel::pure(name, "1.0")
            .member("shared.py", text(name))
            .member("fixed.py", shared)
            .member(
                "broken.py",
                if name == "first" {
                    "TEXT = 'stale'\n"
                } else {
                    "def\n"
                },
            )
    };
    for layers in ["1", "8"] {
        let wheels = [
            bringing("first", "TEXT = 'x'\n"),
            bringing("second", "TEXT = 'x'\n"),
        ];
        let (project, index) = project(&wheels);
        project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
        let (files, _) = image(&project, &index, &["--layers", layers]);
        let shared = &files["__pycache__/shared.cpython-312.pyc"];
        assert_eq!(text_in(shared, &project.beside("")), "second", "{layers}");
        assert!(files.contains_key("__pycache__/fixed.cpython-312.pyc"));
        let broken = &files["__pycache__/broken.cpython-312.pyc"];
        assert!(broken.is_empty(), "{layers}");

        // The function is over both. Python passes over bytecode that is empty.
        project.file("fixed.py", "def\n");
        project.file("shared.py", text("function"));
        let (files, _) = image(&project, &index, &["--layers", layers]);
        let shared = &files["__pycache__/shared.cpython-312.pyc"];
        assert_eq!(text_in(shared, &project.beside("")), "function", "{layers}");
        assert!(files["__pycache__/fixed.cpython-312.pyc"].is_empty());
    }
}

#[test]
fn a_link_in_the_function_is_not_taken_for_the_package_in_whose_place_it_is() {
    let wheel = Wheel::pure("six", "1.0").member("six.py", "TEXT = 'package'\n");
    let (project, index) = project(&[wheel]);
    project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
    project.file("vendored/six.py", "TEXT = 'vendored'\n");
    symlink("vendored/six.py", project.path().join("six.py")).unwrap();
    let (files, _) = image(&project, &index, &[]);
    assert!(files["__pycache__/six.cpython-312.pyc"].is_empty());
    assert!(!files["vendored/__pycache__/six.cpython-312.pyc"].is_empty());
}

#[test]
fn without_bytecode_that_of_a_base_is_not_taken_for_what_lies_over_it() {
    let (project, index) = project(&[some()]);
    image(&project, &index, &[]);
    let base = project.beside("base");
    fs::rename(project.beside("image"), &base).unwrap();
    project.file("helper.py", "def where():\n    return 'changed'\n");
    let layout = project.beside("over");
    let base = format!("oci:{}", base.display());
    let output = format!("oci:{}", layout.display());
    let build = ["build", "--base", &base, "--no-bytecode", "-o", &output];
    project.lambimg(build).index(&index.url()).succeed();
    let files = Image::in_directory(&layout).files_below("var/task");
    for name in ["", "some/", "some/deep/"] {
        let prefix = format!("{name}__pycache__/");
        let cached = files.iter().filter(|(path, _)| path.starts_with(&prefix));
        let cached: Vec<_> = cached.collect();
        assert!(!cached.is_empty(), "{name}");
        for (path, entry) in cached {
            assert!(entry.content.is_empty(), "{path}");
        }
    }
    let other = building(&project, &index, &["--no-bytecode", "-o", &output]);
    other.succeed();
    let files = Image::in_directory(&layout).files_below("var/task");
    assert!(!files.keys().any(|path| path.contains("__pycache__")));
}

#[test]
fn without_an_interpreter_the_cost_is_told() {
    let (project, index) = project(&[some()]);
    let run = building(&project, &index, &["--dry-run"]).env("PATH", project.beside("nothing"));
    let outcome = run.run();
    assert!(outcome.stdout.contains("\nbytecode     none\n"));
    outcome
        .settings()
        .bind(|| insta::assert_snapshot!(outcome.stderr, @"warning: no CPython 3.12 was found to compile with, so each cold start compiles every module that it imports: Lambda's file system is read-only. Install one (`uv python install 3.12`), name it by `--interpreter`, or set `bytecode = false`"));
    let metadata = project.beside("told.json");
    let flags = ["--metadata-file", metadata.to_str().unwrap()];
    let run = building(&project, &index, &flags).env("PATH", project.beside("nothing"));
    run.succeed();
    let told: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    assert_eq!(told["bytecode"], Value::Null);
    // Who wants none needs none.
    let quiet =
        building(&project, &index, &["--no-bytecode"]).env("PATH", project.beside("nothing"));
    assert!(!quiet.run().stderr.contains("warning"));
}

/// A machine that lacks something decides nothing for others.
#[test]
fn without_the_interpreter_that_is_locked_the_lock_stays() {
    let (project, index) = project(&[some()]);
    built(&project, &index, &[]);
    let lock = || fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    let before = lock();
    let run = building(&project, &index, &[]).env("PATH", project.beside("nothing"));
    let outcome = run.run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let said = "for the bytecode of Python 3.12, and there is none, so the image is another";
    assert!(outcome.stderr.contains(said), "{}", outcome.rendering());
    assert_eq!(lock(), before);
}

/// What a module is called may be anybody's.
#[test]
fn names_do_not_steer_the_terminal() {
    let (project, index) = project(&[]);
    project.file("a\u{1b}[31mred.py", "def\n");
    let outcome = building(&project, &index, &["-v"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(outcome.stderr.contains("a\\u{1b}[31mred.py"));
    assert!(!outcome.stderr.contains('\u{1b}'));
}

#[test]
fn a_link_called_as_the_cache_is_stays_out() {
    let (project, index) = project(&[]);
    fs::create_dir(project.path().join("cache_here")).unwrap();
    let link = project.path().join("__pycache__");
    symlink("cache_here", link).unwrap();
    let files = image(&project, &index, &[]).0;
    assert!(files["__pycache__/app.cpython-312.pyc"].len() > 16);
}

#[test]
fn a_locked_build_with_nothing_to_compile_needs_no_interpreter() {
    let (project, index) = project(&[some()]);
    let first = built(&project, &index, &[]);
    let locked = || {
        let run = building(&project, &index, &["--locked"]);
        run.env("PATH", project.beside("nothing"))
    };
    assert_eq!(first, locked().succeed());
    project.file("helper.py", "def where():\n    return 'changed'\n");
    let outcome = locked().run();
    assert_ne!(outcome.code, Some(0));
    let said = "for the bytecode of Python 3.12, and there is none";
    assert!(outcome.stderr.contains(said), "{}", outcome.rendering());
}

#[test]
fn an_interpreter_that_is_named_must_do() {
    let (project, index) = project(&[some()]);
    let other = python("3.11");
    let outcome = building(
        &project,
        &index,
        &["--interpreter", other.to_str().unwrap()],
    )
    .run();
    assert_eq!(outcome.code, Some(2), "{}", outcome.rendering());
    let named = python("3.12");
    let dry = ["--dry-run", "--interpreter", named.to_str().unwrap()];
    let outcome = building(&project, &index, &dry).run();
    assert!(
        outcome.stdout.contains("\nbytecode     cpython 3.12."),
        "{}",
        outcome.rendering()
    );
}
