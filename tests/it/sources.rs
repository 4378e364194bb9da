//! What has to be built before it goes in: source distributions, commits, directories, and the project
//! itself where it is a package.
//!
//! The backend is a file of the sources, so that no build needs an index; it writes beside what it builds,
//! as setuptools does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::architecture;
use crate::support::base::Base;
use crate::support::digest;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::tools;

const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;

/// A backend for the package NAME in `src`, which compiles what is in C.
const BACKEND: &str = r#"
import os, subprocess, sys, sysconfig, zipfile

def build_wheel(out, config_settings=None, metadata_directory=None):
    os.makedirs("build", exist_ok=True)
    open("build/left.txt", "w").close()
    open("src/NAME/left.pyc", "w").close()
    tag = "py3-none-any"
    if os.path.exists("src/NAME/native.c"):
        python = "cp%d%d" % sys.version_info[:2]
        tag = "%s-%s-linux_%s" % (python, python, os.uname().machine)
        made = "src/NAME/native" + sysconfig.get_config_var("EXT_SUFFIX")
        include = "-I" + sysconfig.get_paths()["include"]
        subprocess.check_call(["gcc", "-shared", "-fPIC", include, "src/NAME/native.c", "-o", made])
    information = "NAME-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(out, "NAME-1.0-%s.whl" % tag), "w") as wheel:
        for directory, _, files in sorted(os.walk("src")):
            for file in sorted(files):
                path = os.path.join(directory, file)
                if not file.endswith((".pyc", ".c")):
                    wheel.write(path, os.path.relpath(path, "src"))
        wheel.writestr("NAME/epoch.txt", os.environ["SOURCE_DATE_EPOCH"])
        wheel.writestr(information + "METADATA", "Metadata-Version: 2.1\nName: NAME\nVersion: 1.0\n")
        wheel.writestr(information + "WHEEL", "Wheel-Version: 1.0\nTag: %s\n" % tag)
        wheel.writestr(information + "entry_points.txt", "[console_scripts]\nNAME = NAME:main\n")
        wheel.writestr(information + "RECORD", "")
    return "NAME-1.0-%s.whl" % tag
"#;

const SYSTEM: &str =
    "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";

const NATIVE: &str = r#"
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "native", 0, -1, 0};
PyMODINIT_FUNC PyInit_native(void) { return PyModule_Create(&module); }
"#;

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The sources of a package in a directory.
fn sources(directory: &Path, name: &str) {
    write(directory.join("pyproject.toml"), SYSTEM);
    write(directory.join("backend.py"), &BACKEND.replace("NAME", name));
    let package = directory.join("src").join(name);
    write(package.join("__init__.py"), "def main():\n    pass\n");
    write(package.join("data/words.txt"), "hello\n");
}

/// A source distribution beside the project, as `sdist` of a lock.
fn sdist(project: &Project, name: &str, more: &[(&str, &str)]) -> String {
    let stem = format!("{name}-1.0");
    let directory = project.beside("sdists").join(&stem);
    sources(&directory, name);
    for (path, text) in more {
        write(directory.join(path), text);
    }
    let archive = project.beside("sdists").join(format!("{stem}.tar.gz"));
    run(Command::new("tar")
        .current_dir(project.beside("sdists"))
        .arg("czf")
        .args([&archive, Path::new(&stem)]));
    let sha256 = digest(&fs::read(&archive).unwrap()).replace("sha256:", "");
    let path = archive.display();
    format!(
        "version = \"1.0\"\nsdist = {{ path = \"{path}\", hashes = {{ sha256 = \"{sha256}\" }} }}"
    )
}

/// A lock of one package.
fn lock(project: &Project, name: &str, source: &str) {
    let text = format!(
        "lock-version = \"1.0\"\ncreated-by = \"another\"\n\n[[packages]]\nname = \"{name}\"\n{source}\n"
    );
    project.file("pylock.toml", text);
}

fn build<'project>(project: &'project Project, flags: &[&str]) -> Run<'project> {
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "some:1"];
    project.lambimg(build.iter().chain(flags))
}

/// Nothing on the `PATH`, and no interpreter elsewhere.
fn without_programs(run: Run<'_>) -> Run<'_> {
    run.env("PATH", "").env("UV_PYTHON_INSTALL_DIR", "")
}

/// What of the image that this run builds is below the task root.
fn files(project: &Project, flags: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let directory = project.beside("image");
    let _ = fs::remove_dir_all(&directory);
    let output = format!("oci:{}", directory.display());
    build(project, &[flags, &["-o", &output]].concat()).succeed();
    let image = Image::in_directory(&directory);
    image.assert_accepted_by_lambda();
    let files = image.files_below("var/task").into_iter();
    files.map(|(path, file)| (path, file.content)).collect()
}

fn expect_failure(project: &Project, code: i32, outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("\n\nhint: "));
    assert_whole(&project.cache());
    outcome
}

/// Every file below a directory, with its contents.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

// --- what a lock has as sources -----------------------------------------------------------------

#[test]
fn an_sdist_is_not_built_unasked() {
    let project = Project::with_handler();
    let source = sdist(&project, "lower", &[]);
    lock(&project, "lower", &source);
    let outcome = build(&project, &[]).run();
    assert_said!(expect_failure(&project, NOT_BUILDABLE, outcome));
}

#[test]
fn an_sdist_is_built_once() {
    for resolver in ["uv", "pip"] {
        let project = Project::with_handler();
        let source = sdist(&project, "lower", &[]);
        lock(&project, "lower", &source);
        let flags = ["--build", "lower", "--locked", "--resolver", resolver];
        let unlocked = ["--build", "lower", "--resolver", resolver];
        let built = files(&project, &unlocked);
        assert!(built.contains_key("bin/lower"), "{built:#?}");
        assert_eq!(built["lower/data/words.txt"], b"hello\n");
        assert_eq!(built["lower/epoch.txt"], b"315532800");
        let first = build(&project, &flags).succeed();
        let again = without_programs(build(&project, &flags)).succeed();
        assert_eq!(again, first, "by {resolver}");
        // A wheel built anew is the same function.
        let anew = build(&project, &[&flags[..], &["--no-cache"]].concat());
        assert_eq!(anew.succeed(), first, "by {resolver}");
    }
}

#[test]
fn how_a_backend_compresses_changes_nothing() {
    let deflating = |project: &Project, name: &str| {
        let level = format!("open({:?}).read()", project.beside("level"));
        let options = format!("tag), \"w\", zipfile.ZIP_DEFLATED, compresslevel=int({level}))");
        let backend = BACKEND.replace("tag), \"w\")", &options);
        assert!(backend.contains(&options));
        backend.replace("NAME", name)
    };
    let words: Vec<_> = (0..20_000).map(|n| format!("word {}\n", n * n)).collect();
    let words = words.concat();
    let sdist_of_one = Project::with_handler();
    let more = [
        ("backend.py", &*deflating(&sdist_of_one, "lower")),
        ("src/lower/data/words.txt", &words),
    ];
    let source = sdist(&sdist_of_one, "lower", &more);
    lock(&sdist_of_one, "lower", &source);
    let own = package();
    own.file("backend.py", deflating(&own, "orders"));
    own.file("src/orders/data/words.txt", &words);
    for project in [sdist_of_one, own] {
        let built = |level: &str| {
            fs::write(project.beside("level"), level).unwrap();
            build(&project, &["--build", "lower", "--no-cache"]).succeed()
        };
        assert_eq!(built("1"), built("9"));
    }
}

#[test]
fn an_sdist_in_a_subdirectory_of_an_archive() {
    let project = Project::with_handler();
    let inner = project.beside("sdists").join("lower-1.0/python");
    sources(&inner, "lower");
    let source = sdist(&project, "lower", &[("pyproject.toml", "broken")]);
    let source = source.replace("sdist = {", "archive = { subdirectory = \"python\",");
    lock(&project, "lower", &source);
    let built = files(&project, &["--build", ":all:"]);
    assert!(built.contains_key("lower/data/words.txt"), "{built:#?}");
}

#[test]
fn nobody_builds() {
    let project = Project::with_handler();
    let source = sdist(&project, "lower", &[]);
    lock(&project, "lower", &source);
    let run = without_programs(build(&project, &["--build", "lower"]));
    assert_said!(expect_failure(&project, USAGE, run.run()));
}

#[test]
fn a_build_that_fails() {
    let project = Project::with_handler();
    let broken =
        "def build_wheel(*_):\n    raise SystemExit('see http://me:secret@index.invalid/')\n";
    let source = sdist(&project, "lower", &[("backend.py", broken)]);
    lock(&project, "lower", &source);
    let outcome = build(&project, &["--build", "lower"]).run();
    let outcome = expect_failure(&project, NOT_BUILDABLE, outcome);
    let said = &outcome.stderr;
    assert!(
        said.contains("see http://[secret]@index.invalid/"),
        "{said}"
    );
    assert!(!said.contains("me:secret"), "{said}");
}

#[test]
fn a_build_of_something_else() {
    let project = Project::with_handler();
    let source = sdist(&project, "lower", &[]);
    lock(&project, "lower", &source.replace("\"1.0\"", "\"1.1\""));
    let outcome = build(&project, &["--build", "lower"]).run();
    assert_said!(expect_failure(&project, NOT_BUILDABLE, outcome));
}

// --- compiled -----------------------------------------------------------------------------------

fn native() -> Project {
    let project = Project::with_handler();
    let source = sdist(&project, "lower", &[("src/lower/native.c", NATIVE)]);
    lock(&project, "lower", &source);
    project
}

/// This machine's architecture and another, in Lambda's words.
fn architectures() -> (&'static str, &'static str) {
    match architecture() {
        "arm64" => ("arm64", "x86_64"),
        _ => ("x86_64", "arm64"),
    }
}

#[test]
fn what_is_compiled_is_for_this_machine() {
    let project = native();
    let built = files(&project, &["--build", "lower", "--arch", architectures().0]);
    let is_module = |path: &&String| path.starts_with("lower/native.cpython-312-");
    assert!(built.keys().any(|path| is_module(&path)), "{built:#?}");
}

#[test]
fn what_is_compiled_is_not_for_another_machine() {
    let project = native();
    let flags = ["--build", "lower", "--arch", architectures().1];
    let outcome = build(&project, &flags).run();
    assert_said!(expect_failure(&project, NOT_BUILDABLE, outcome));
}

/// A `PATH` with uv and CPython 3.11 alone.
fn path_with_another_python() -> String {
    let directory = python("3.11").parent().unwrap().to_owned();
    let (tools, directory) = (tools(), directory);
    format!("{}:{}:/usr/bin:/bin", tools.display(), directory.display())
}

#[test]
fn what_is_compiled_is_not_for_another_python() {
    let project = native();
    let run = build(&project, &["--build", "lower", "--arch", architectures().0]);
    let run = run.env("PATH", path_with_another_python());
    let outcome = run.env("UV_PYTHON_INSTALL_DIR", "").run();
    assert_said!(expect_failure(&project, NOT_BUILDABLE, outcome));
}

#[test]
fn what_is_pure_is_built_by_any_python_for_any_machine() {
    let project = Project::with_handler();
    let source = sdist(&project, "lower", &[]);
    lock(&project, "lower", &source);
    let run = build(
        &project,
        &["--build", "lower", "--arch", architectures().1, "-v"],
    );
    let run = run.env("PATH", path_with_another_python());
    let outcome = run.env("UV_PYTHON_INSTALL_DIR", "").run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let said = &outcome.stderr;
    assert!(said.contains("Python 3.12 is not here"), "{said}");
}

// --- directories and commits --------------------------------------------------------------------

#[test]
fn a_directory_is_built_and_left_as_it_is() {
    let project = Project::with_handler();
    let shared = project.beside("shared");
    sources(&shared, "shared");
    write(shared.join("build/lib/old.py"), "");
    write(shared.join(".venv/pyvenv.cfg"), "");
    lock(
        &project,
        "shared",
        "directory = { path = \"../shared\", editable = true }",
    );
    let before = contents(&shared);
    let built = files(&project, &[]);
    assert!(built.contains_key("shared/data/words.txt"), "{built:#?}");
    assert_eq!(contents(&shared), before);

    let first = build(&project, &[]).succeed();
    assert_eq!(without_programs(build(&project, &[])).succeed(), first);
    write(shared.join("src/shared/data/words.txt"), "other\n");
    assert_eq!(files(&project, &[])["shared/data/words.txt"], b"other\n");
}

#[test]
fn a_directory_of_another_name_is_another() {
    let project = Project::with_handler();
    let name = "os.path.basename(os.getcwd())";
    let backend = BACKEND.replace("os.environ[\"SOURCE_DATE_EPOCH\"]", name);
    for name in ["one", "two"] {
        let directory = project.beside(name);
        sources(&directory, "shared");
        write(
            directory.join("backend.py"),
            &backend.replace("NAME", "shared"),
        );
        let source = format!("directory = {{ path = \"../{name}\" }}");
        lock(&project, "shared", &source);
        let built = files(&project, &[]);
        assert_eq!(built["shared/epoch.txt"], name.as_bytes());
    }
}

#[test]
fn sources_that_are_edited_during_their_build_are_built_again() {
    let project = Project::with_handler();
    let (shared, log) = (project.beside("shared"), project.beside("log"));
    sources(&shared, "shared");
    let words = shared.join("src/shared/data/words.txt");
    let edits = format!(
        "open({log:?}, 'a').write('x'); open({words:?}, 'w').close(); os.makedirs(\"build\""
    );
    let backend = BACKEND.replace("os.makedirs(\"build\"", &edits);
    write(
        shared.join("backend.py"),
        &backend.replace("NAME", "shared"),
    );
    lock(&project, "shared", "directory = { path = \"../shared\" }");
    for builds in ["x", "xx"] {
        fs::write(&words, "hello\n").unwrap();
        build(&project, &[]).succeed();
        assert_eq!(fs::read_to_string(&log).unwrap(), builds);
    }
}

#[test]
fn a_commit_is_checked_out() {
    let project = Project::with_handler();
    let repository = project.beside("repository");
    sources(&repository.join("python"), "lower");
    let git = |arguments: &[&str]| {
        let mut git = Command::new(program("git", "git"));
        git.current_dir(&repository)
            .args(["-c", "user.name=a", "-c", "user.email=a@b.invalid"]);
        run(git.args(arguments))
    };
    git(&["init", "--quiet", "--initial-branch=main"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "first"]);
    let commit = git(&["rev-parse", "HEAD"]).trim().to_owned();
    write(
        repository.join("python/src/lower/data/words.txt"),
        "later\n",
    );
    git(&["commit", "--quiet", "-a", "-m", "second"]);
    let url = format!("file://{}", repository.display());
    let vcs = |commit: &str| {
        format!(
            "vcs = {{ type = \"git\", url = \"{url}\", commit-id = \"{commit}\", subdirectory = \"python\" }}"
        )
    };
    lock(&project, "lower", &vcs(&commit));
    let built = files(&project, &["--build", "lower"]);
    assert_eq!(built["lower/data/words.txt"], b"hello\n");
    without_programs(build(&project, &["--build", "lower"])).succeed();
    let by_path = format!("url = \"{url}\"");
    let by_path = vcs(&commit).replace(&by_path, "path = \"../repository\"");
    lock(&project, "lower", &by_path);
    assert_eq!(files(&project, &["--build", "lower"]), built);

    lock(&project, "lower", &vcs(&"0".repeat(40)));
    let outcome = build(&project, &["--build", "lower"]).run();
    let outcome = expect_failure(&project, 4, outcome);
    assert!(outcome.stderr.contains("git cannot check out `lower`"));
    let elsewhere = vcs(&commit).replace("file://", "https://me:secret@git.invalid");
    lock(&project, "lower", &elsewhere);
    // The base has to be there for what comes after it to fail.
    let outcome = build(&project, &["--build", "lower", "--offline"]).run();
    let outcome = expect_failure(&project, 4, outcome);
    let said = &outcome.stderr;
    assert!(said.contains("https://[secret]@git.invalid"), "{said}");
}

// --- the project itself -------------------------------------------------------------------------

/// A project that is a package, with a handler in it.
fn package() -> Project {
    let project = Project::new();
    sources(&project.path(), "orders");
    project.file(
        "pyproject.toml",
        format!("{SYSTEM}[tool.lambimg]\npython = \"3.12\"\nhandler = \"orders.app.handler\"\n"),
    );
    project.file(
        "src/orders/app.py",
        "def handler(event, context):\n    return 'ok'\n",
    );
    project
}

#[test]
fn a_package_goes_in_as_its_wheel() {
    let project = package();
    project.file("README.md", "");
    let before = contents(&project.path());
    let built = files(&project, &[]);
    let paths = built.keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        paths,
        [
            "bin/orders",
            "orders-1.0.dist-info/INSTALLER",
            "orders-1.0.dist-info/METADATA",
            "orders-1.0.dist-info/RECORD",
            "orders-1.0.dist-info/WHEEL",
            "orders-1.0.dist-info/entry_points.txt",
            "orders/__init__.py",
            "orders/app.py",
            "orders/data/words.txt",
            "orders/epoch.txt",
        ]
    );
    let mut after = contents(&project.path());
    assert!(after.remove(&project.path().join("lambimg.lock")).is_some());
    assert_eq!(after, before);

    // What a build itself writes does not make the package another.
    let flags = ["-o", "oci:out", "--metadata-file", "made.json"];
    let first = build(&project, &flags).succeed();
    let again = without_programs(build(&project, &flags)).succeed();
    assert_eq!(again, first);
    project.file("src/orders/data/words.txt", "other\n");
    assert_ne!(build(&project, &flags).succeed(), first);
}

#[test]
fn a_handler_beside_the_package_brings_the_projects_files() {
    let project = package();
    project.file("app.py", "import orders\n");
    let flags = ["--handler", "app.handler"];
    let built = files(&project, &flags);
    for path in [
        "app.py",
        "orders/app.py",
        "pyproject.toml",
        "src/orders/app.py",
    ] {
        assert!(built.contains_key(path), "{path}");
    }
}

/// Tools lock the project among what it needs.
#[test]
fn a_project_in_its_own_lock_goes_in_once() {
    let project = package();
    lock(
        &project,
        "orders",
        "directory = { path = \".\", editable = true }",
    );
    let built = files(&project, &["--metadata-file", "made.json"]);
    assert!(built.contains_key("orders/app.py"), "{built:#?}");
    let made = fs::read_to_string(project.path().join("made.json")).unwrap();
    assert!(made.contains("\"packages\": []"), "{made}");
}

#[test]
fn a_package_can_be_taken_as_files() {
    let project = package();
    let outcome = build(&project, &["--package", "false"]).run();
    let outcome = expect_failure(&project, USAGE, outcome);
    assert!(outcome.stderr.contains("is in the project"));
    let flags = ["--package", "false", "--handler", "src.orders.app.handler"];
    let built = files(&project, &flags);
    assert!(!built.contains_key("orders/app.py"), "{built:#?}");
    project.file(
        "pyproject.toml",
        format!("{SYSTEM}[tool.uv]\npackage = false\n[tool.lambimg]\npython = \"3.12\"\n"),
    );
    assert_eq!(files(&project, &flags[2..]).len(), built.len());
}

#[test]
fn a_handler_that_no_build_could_bring() {
    let project = package();
    let base = "registry.invalid/base:1";
    let build = ["build", "--base", base, "--handler", "orders.api.handler"];
    let outcome = project.lambimg(build).run();
    expect_failure(&project, USAGE, outcome);
}

#[test]
fn a_package_that_does_not_build() {
    let project = package();
    project.file(
        "backend.py",
        "def build_wheel(*_):\n    raise SystemExit('no compiler')\n",
    );
    let outcome = build(&project, &[]).run();
    let outcome = expect_failure(&project, NOT_BUILDABLE, outcome);
    let said = &outcome.stderr;
    assert!(said.contains("no compiler"), "{said}");
    assert!(said.contains("`package = false`"), "{said}");
}

#[test]
fn a_package_that_nobody_builds() {
    let project = package();
    let outcome = without_programs(build(&project, &[])).run();
    assert_said!(expect_failure(&project, USAGE, outcome));
}

#[test]
fn a_plan_of_a_package_builds_nothing() {
    let project = package();
    project.file("backend.py", "");
    let run = without_programs(project.lambimg(["build", "--dry-run"]));
    let plan = run.succeed();
    assert!(
        plan.contains("\npackage      the project's wheel"),
        "{plan}"
    );
}
