//! `build` and `push`, from a project to an image that Lambda's emulator answers from: on each Python,
//! on each kind of base, to each kind of destination.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::fs::FileTimes;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::base::Base;
use crate::support::cpython::Cpython;
use crate::support::emulator::Root;
use crate::support::example;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::python;
use crate::support::registry::PASSWORD;
use crate::support::registry::Registry;
use crate::support::registry::USER;

/// ELF's number for 64-bit ARM.
const AARCH64: u16 = 183;

#[test]
fn answers_on_python_3_9() {
    answers_on("3.9");
}

#[test]
fn answers_on_python_3_10() {
    answers_on("3.10");
}

#[test]
fn answers_on_python_3_11() {
    answers_on("3.11");
}

#[test]
fn answers_on_python_3_12() {
    answers_on("3.12");
}

#[test]
fn answers_on_python_3_13() {
    answers_on("3.13");
}

#[test]
fn an_interpreter_is_believed_as_long_as_its_base_is_the_same() {
    let project = Project::with_handler();
    let interpreter = fs::canonicalize(python("3.12")).unwrap();
    let build = || {
        let arguments = ["build", "--base", "host", "-t", "host", "--interpreter"].map(Path::new);
        let outcome = project
            .lambimg([&arguments[..], &[&*interpreter]].concat())
            .run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        outcome
    };
    let first = build();
    // What it said is kept beside the digest of the base that was made of it.
    let memos = fs::read_dir(project.cache().join("memo/host")).unwrap();
    let said = |path: &Path| {
        serde_json::from_slice::<Value>(&fs::read(path).unwrap())
            .is_ok_and(|memo| memo["interpreter"]["version"].is_string())
    };
    let mut memos = memos.map(|entry| entry.unwrap().path());
    let memo = memos.find(|path| said(path)).unwrap();
    let asked = || serde_json::from_slice::<Value>(&fs::read(&memo).unwrap()).unwrap();
    let said = asked();
    // Nothing of the base follows from this.
    let mut changed = said.clone();
    changed["interpreter"]["abi_flags"] = "another".into();
    fs::write(&memo, changed.to_string()).unwrap();
    assert_eq!(build().stdout, first.stdout);
    assert_eq!(asked(), changed, "it was asked again");
    changed["tree"] = format!("sha256:{}", "0".repeat(64)).into();
    fs::write(&memo, changed.to_string()).unwrap();
    assert_eq!(build().stdout, first.stdout);
    assert_eq!(asked(), said);
}

/// A CPython below `at` whose modules are links to a real one's, but for those named, which can be written to.
fn writable_cpython(at: &Path, modules: [&str; 2]) -> PathBuf {
    let real = Cpython::find("3.12");
    let library = at.join("lib/python3.12");
    fs::create_dir_all(&library).unwrap();
    fs::create_dir(at.join("bin")).unwrap();
    for entry in fs::read_dir(&real.standard_library).unwrap() {
        let entry = entry.unwrap();
        let to = library.join(entry.file_name());
        if modules.iter().any(|module| entry.file_name() == *module) {
            fs::copy(entry.path(), to).unwrap();
        } else {
            symlink(entry.path(), to).unwrap();
        }
    }
    if let Some(shared) = &real.library {
        symlink(shared, at.join("lib").join(shared.file_name().unwrap())).unwrap();
    }
    let executable = at.join("bin/python3.12");
    fs::copy(&real.executable, &executable).unwrap();
    executable
}

#[test]
fn a_base_of_this_machine_is_read_again_when_a_file_of_it_was_changed() {
    let project = Project::with_handler();
    // By the first of these an interpreter knows where it is.
    let executable = writable_cpython(&project.home().join("py"), ["os.py", "this.py"]);
    let module = project.home().join("py/lib/python3.12/this.py");
    let build = |more: &[&str]| {
        let arguments = ["build", "--base", "host", "-t", "host", "--interpreter"].map(Path::new);
        let more: Vec<_> = more.iter().map(Path::new).collect();
        let outcome = project
            .lambimg([&arguments[..], &[&*executable], &more].concat())
            .run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        outcome.stdout
    };
    let listings = || fs::read_dir(project.cache().join("memo/listing")).map_or(0, Iterator::count);
    let first = build(&[]);
    let (before, begun) = (listings(), Instant::now());
    let mode = fs::metadata(&module).unwrap().permissions();
    fs::set_permissions(&module, mode).unwrap();
    assert_eq!(build(&[]), first);
    // In so short a time a file could change without a new time.
    assert!(listings() == before || begun.elapsed() > Duration::from_secs(2));
    thread::sleep(Duration::from_secs(4));
    assert_eq!(build(&[]), first);
    let settled = listings();
    assert_ne!(settled, 0);
    assert_eq!(build(&[]), first);
    assert_eq!(listings(), settled);

    let text = fs::read_to_string(&module).unwrap();
    let before = fs::metadata(&module).unwrap();
    fs::write(&module, text.replacen("Ornhgvshy", "Ornhgvful", 1)).unwrap();
    let file = File::options().write(true).open(&module).unwrap();
    file.set_times(FileTimes::new().set_modified(before.modified().unwrap()))
        .unwrap();
    let after = fs::metadata(&module).unwrap();
    assert_eq!(
        (after.len(), after.modified().unwrap()),
        (before.len(), before.modified().unwrap())
    );
    let changed = build(&[]);
    assert_ne!(changed, first);
    assert_eq!(build(&["--no-cache"]), changed);
    fs::write(&module, text).unwrap();
    assert_eq!(build(&[]), first);
}

/// Builds examples/hello on a base as Lambda's, pushes, and reads it back with other tools than ours.
fn answers_on(python: &str) {
    let registry = Registry::start();
    let project = Project::of_example("hello");
    let name = registry.name("functions/hello");
    let base = Base::aws(python).reference();
    let tag = format!("{name}:1");
    let build = [
        "build", "--python", python, "--base", &base, "-t", &tag, "--push",
    ];
    let reference = one_reference(&project.lambimg(build).succeed(), &name);
    let image = Image::in_registry(&registry, &reference);
    image.assert_accepted_by_lambda();
    assert_eq!(
        image.manifest["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        image.config["config"]["Entrypoint"],
        serde_json::json!(["/lambda-entrypoint.sh"])
    );
    assert_eq!(
        image.config["config"]["Cmd"],
        serde_json::json!(["app.handler"])
    );
    assert_eq!(registry.tags("functions/hello"), ["1"]);
    let inspected = skopeo_inspect(&format!("docker://{tag}"));
    assert_eq!(inspected["Digest"], image.digest());
    assert_eq!(inspected["Os"], "linux");
    assert_hello(&Root::pull(&reference), python);
    assert_whole(&project.cache());
}

#[test]
fn answers_on_this_machines_python() {
    for python in ["3.11", "3.13"] {
        let registry = Registry::start();
        let project = Project::of_example("hello");
        let name = registry.name("hello");
        let build = [
            "build", "--python", python, "--base", "host", "-t", &name, "--push",
        ];
        let reference = one_reference(&project.lambimg(build).succeed(), &name);
        Image::in_registry(&registry, &reference).assert_accepted_by_lambda();
        assert_hello(&Root::pull(&reference), python);
    }
}

/// The runtime client comes from the index, and the layers' directories are searched as on Lambda's bases.
#[test]
fn answers_on_a_base_without_the_runtime_client() {
    for python in ["3.9", "3.12"] {
        let registry = Registry::start();
        let project = Project::of_example("hello");
        let handler = "import sys\ndef handler(event, context):\n    return sys.path\n";
        project.file("paths.py", handler);
        let base = Base::bare(python).reference();
        for (handler, tag) in [("app.handler", "app"), ("paths.handler", "paths")] {
            let name = registry.name(tag);
            let build = [
                "build",
                "--python",
                python,
                "--base",
                &base,
                "--handler",
                handler,
                "-t",
                &name,
                "--push",
            ];
            let reference = one_reference(&project.lambimg(build).succeed(), &name);
            let image = Image::in_registry(&registry, &reference);
            image.assert_accepted_by_lambda();
            assert_eq!(
                image.manifest["mediaType"],
                "application/vnd.oci.image.manifest.v1+json"
            );
            let root = Root::pull(&reference);
            if tag == "app" {
                assert_hello(&root, python);
                continue;
            }
            let answer = root.answer("{}");
            let paths: Vec<String> =
                serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
            let layers = format!("/opt/python/lib/python{python}/site-packages");
            assert_eq!(
                paths[..3],
                ["/var/task", layers.as_str(), "/opt/python"],
                "{paths:?}"
            );
            assert!(
                paths.contains(&format!("/usr/local/lib/python{python}")),
                "{paths:?}"
            );
        }
    }
}

#[test]
fn keeps_the_media_types_of_an_oci_base() {
    let registry = Registry::start();
    let project = Project::of_example("hello");
    let name = registry.name("hello");
    let base = Base::aws_oci("3.12").reference();
    let reference = one_reference(
        &project
            .lambimg(["build", "--base", &base, "-t", &name, "--push"])
            .succeed(),
        &name,
    );
    let image = Image::in_registry(&registry, &reference);
    image.assert_accepted_by_lambda();
    assert_eq!(
        image.manifest["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_hello(&Root::pull(&reference), "3.12");
}

#[test]
fn data_example_is_what_pip_installs() {
    let answer = assert_example_is_what_pip_installs("data");
    assert_eq!(
        answer,
        serde_json::json!({"total": 705.0, "best_weekday": "Friday", "trend_per_day": 11.65})
    );
}

#[test]
fn powertools_example_is_what_pip_installs() {
    let answer = assert_example_is_what_pip_installs("powertools");
    assert_eq!(
        answer,
        serde_json::json!({"number": 1017, "articles": 2, "total": "28.90"})
    );
}

/// Builds an example, compares its /var/task with pip's own directory, and gives the function's answer.
fn assert_example_is_what_pip_installs(name: &str) -> Value {
    let registry = Registry::start();
    let project = Project::of_example(name);
    let base = Base::aws("3.12").copy_to(&registry);
    let target = registry.name(name);
    let build = ["build", "--base", &base, "-t", &target, "--push"];
    let reference = one_reference(&project.lambimg(build).succeed(), &target);
    let image = Image::in_registry(&registry, &reference);
    image.assert_accepted_by_lambda();

    let mut installed = task_files(&image);
    installed.retain(|path, _| !project.path().join(path).exists());
    let expected = pip_install(&project);
    for (path, entry) in image.files_below("var/task/bin") {
        let mode = entry.header.mode().expect("a mode");
        assert_eq!(mode & 0o777, 0o755, "bin/{path}");
    }
    assert_eq!(
        installed.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (path, content) in &expected {
        let ours = &installed[path];
        if path.starts_with("bin/") {
            // The first line names the interpreter, which pip takes from the machine it runs on.
            assert!(ours.starts_with(b"#!/"), "{path} is no script");
        } else if path.ends_with(".dist-info/RECORD") {
            assert_eq!(record_rows(ours), record_rows(content), "{path}");
        } else {
            assert!(ours == content, "{path} has other bytes than pip's");
        }
    }
    let event = fs::read_to_string(example(name).join("event.json")).unwrap();
    let answer = Root::pull(&reference).answer(&event);
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"))
}

/// The files of /var/task that both installers should have made.
fn task_files(image: &Image) -> BTreeMap<String, Vec<u8>> {
    let files = image
        .files_below("var/task")
        .into_iter()
        .map(|(path, entry)| (path, entry.content));
    files.filter(|(path, _)| is_compared(path)).collect()
}

/// What pip puts into a directory for this project's requirements on Lambda's Python 3.12.
pub(crate) fn pip_install(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let directory = project.beside("pip");
    let mut pip = Command::new(python("3.12"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--only-binary=:all:",
        "--implementation=cp",
    ]);
    pip.args([
        "--python-version=3.12",
        "--requirement=requirements.txt",
        "--target",
    ])
    .arg(&directory);
    // pip takes platforms as they are written, without those that they imply; glibc 2.34 is the base's.
    let machine = std::env::consts::ARCH;
    for minor in (5..=34).rev() {
        pip.arg(format!("--platform=manylinux_2_{minor}_{machine}"));
    }
    for legacy in ["manylinux2014", "manylinux2010", "manylinux1"] {
        pip.arg(format!("--platform={legacy}_{machine}"));
    }
    project.run_by(pip).succeed();
    let mut files = BTreeMap::new();
    read_files(&directory, &directory, &mut files);
    files.retain(|path, _| is_compared(path));
    files
}

fn read_files(top: &Path, directory: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_files(top, &path, files);
        } else {
            let name = path
                .strip_prefix(top)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// Bytecode and what an installer says about itself may differ.
pub(crate) fn is_compared(path: &str) -> bool {
    let own = [
        ".dist-info/INSTALLER",
        ".dist-info/REQUESTED",
        ".dist-info/direct_url.json",
    ];
    !path.contains("__pycache__/") && !own.iter().any(|name| path.ends_with(name))
}

/// A RECORD's rows in one order, without those of files that may differ.
pub(crate) fn record_rows(record: &[u8]) -> Vec<String> {
    let rows = String::from_utf8(record.to_vec()).expect("RECORD is text");
    let rows = rows.lines().filter(|row| {
        let path = row.split(',').next().unwrap_or_default();
        is_compared(path) && !path.contains("bin/")
    });
    let mut rows = rows.map(str::to_owned).collect::<Vec<_>>();
    rows.sort();
    rows
}

#[test]
fn arm64_image_holds_aarch64_wheels_only() {
    for name in ["data", "powertools"] {
        let project = Project::of_example(name);
        let directory = project.beside("image");
        let base = Base::aws("3.12").reference();
        let output = format!("oci:{}", directory.display());
        project
            .lambimg([
                "build", "--arch", "arm64", "--base", &base, "-t", name, "-o", &output,
            ])
            .succeed();
        let image = Image::in_directory(&directory);
        image.assert_accepted_by_lambda();
        assert_eq!(image.config["architecture"], "arm64");
        let files = image.files_below("var/task");
        let elf = files
            .iter()
            .filter(|(_, entry)| entry.content.starts_with(b"\x7fELF"))
            .collect::<Vec<_>>();
        assert!(!elf.is_empty(), "{name} has compiled modules");
        for (path, entry) in elf {
            assert_eq!(
                u16::from_le_bytes([entry.content[18], entry.content[19]]),
                AARCH64,
                "{path}"
            );
        }
        let tags = files
            .iter()
            .filter(|(path, _)| path.ends_with(".dist-info/WHEEL"));
        for (path, entry) in tags {
            let text = String::from_utf8(entry.content.clone()).unwrap();
            let tags = text.lines().filter_map(|line| line.strip_prefix("Tag: "));
            for tag in tags {
                assert!(
                    tag.ends_with("-any") || tag.ends_with("_aarch64"),
                    "{path}: {tag}"
                );
            }
        }
    }
}

#[test]
fn every_destination_holds_the_same_image() {
    let registry = Registry::start();
    let project = Project::of_example("hello");
    let base = Base::aws("3.12").reference();
    let outputs = [
        format!("oci:{}", project.beside("directory").display()),
        format!("oci-archive:{}", project.beside("archive.tar").display()),
        format!("docker-archive:{}", project.beside("docker.tar").display()),
    ];
    let mut build = vec!["build", "--base", &base, "-t", "hello:1"];
    build.extend(outputs.iter().flat_map(|output| ["-o", output.as_str()]));
    let printed = project.lambimg(build).succeed();
    let digest = printed
        .trim()
        .strip_prefix("hello@")
        .unwrap_or_else(|| panic!("{printed}"));
    let image = Image::in_directory(&project.beside("directory"));
    image.assert_accepted_by_lambda();
    // Layouts speak OCI's types, whatever the base's: another manifest of the same config and layers.
    assert_ne!(image.digest(), digest);
    let layers = image.config["rootfs"]["diff_ids"].clone();
    for output in &outputs {
        assert_hello(&Root::copy(output), "3.12");
        let mut skopeo = Command::new(program("skopeo", "skopeo"));
        let config = run(skopeo.args(["--insecure-policy", "inspect", "--config", output]));
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], layers, "{output}");
    }

    // The store has it by name; a push needs neither the project nor another build.
    let target = registry.name("pushed");
    let printed = project
        .lambimg(["push", "hello:1", &format!("{target}:2")])
        .succeed();
    assert_eq!(printed, format!("{target}@{digest}\n"));
    let pushed = Image::in_registry(&registry, &format!("{target}:2"));
    pushed.assert_accepted_by_lambda();
    assert_eq!(pushed.digest(), digest);
    // A layout speaks OCI's types alone: another manifest, with the same blobs.
    assert_eq!(pushed.config, image.config);
    assert_eq!(pushed.layers, image.layers);
    assert_whole(&project.cache());
}

#[test]
fn pushes_only_what_the_registry_lacks() {
    let registry = Registry::start_with_password();
    let project = Project::of_example("hello");
    project.login(registry.address(), USER, PASSWORD);
    let base = Base::aws("3.12").copy_to(&registry);
    let name = registry.name("functions/hello");
    let push = |tag: &str| {
        let before = registry.log().len();
        let name = format!("{name}:{tag}");
        project
            .lambimg(["build", "--base", &base, "-t", &name, "--push"])
            .succeed();
        let log = registry.log();
        let begun = log[before..]
            .lines()
            .filter(|line| line.contains("response completed"));
        begun
            .filter(|line| line.contains("http.request.method=POST"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let uploads = push("1");
    let mounted = uploads
        .iter()
        .filter(|line| line.contains("mount=sha256"))
        .count();
    assert!(
        mounted >= 4,
        "the base's layers come from its repository: {uploads:#?}"
    );
    assert_eq!(
        push("2"),
        Vec::<String>::new(),
        "everything is there already"
    );
    project.file(
        "app.py",
        "def handler(event, context):\n    return 'changed'\n",
    );
    assert_eq!(
        push("3").len(),
        2,
        "one layer and the configuration have changed"
    );
}

#[test]
fn dry_run_tells_and_does_nothing() {
    let project = Project::of_example("hello");
    project.file(".env", "SECRET=1");
    project.file(".git/config", "");
    project.file("__pycache__/app.cpython-312.pyc", "");
    let base = Base::aws("3.12").reference();
    let outcome = project
        .lambimg(["build", "--base", &base, "-t", "hello", "--dry-run"])
        .run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let told = outcome.rendering();
    for word in ["app.py", "app.handler", "3.12"] {
        assert!(told.contains(word), "{word} in {told}");
    }
    for word in [".env", ".git/config", ".pyc"] {
        assert!(!told.contains(word), "{word} in {told}");
    }
    assert!(
        !project.cache().join("index.json").exists(),
        "a plan leaves no image"
    );
}

#[test]
fn metadata_file_describes_the_image() {
    let project = Project::of_example("powertools");
    let directory = project.beside("image");
    // In a layout, only an image on an OCI base keeps its digest.
    let base = Base::aws_oci("3.12").reference();
    let output = format!("oci:{}", directory.display());
    let build = [
        "build",
        "--base",
        &base,
        "-t",
        "orders:1",
        "-o",
        &output,
        "--metadata-file",
        "made.json",
    ];
    project.lambimg(build).succeed();
    let image = Image::in_directory(&directory);
    let made: Value =
        serde_json::from_slice(&fs::read(project.path().join("made.json")).unwrap()).unwrap();
    assert_eq!(made["config_digest"], image.manifest["config"]["digest"]);
    let layers = made["layers"].as_array().unwrap();
    assert_eq!(layers.len(), image.layers.len());
    for ((told, descriptor), diff_id) in layers
        .iter()
        .zip(image.manifest["layers"].as_array().unwrap())
        .zip(image.config["rootfs"]["diff_ids"].as_array().unwrap())
    {
        assert_eq!(
            (&told["digest"], &told["size"]),
            (&descriptor["digest"], &descriptor["size"])
        );
        assert_eq!(&told["diff_id"], diff_id);
    }
    assert!(made["packages"].to_string().contains("pydantic"), "{made}");
}

#[test]
fn bases_are_listed() {
    let project = Project::new();
    let listed: Value =
        serde_json::from_str(&project.lambimg(["bases", "--format", "json"]).succeed()).unwrap();
    let text = listed.to_string();
    for word in ["3.9", "3.13", "2.26", "2.34"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let table = project.lambimg(["bases"]).succeed();
    assert!(
        table
            .lines()
            .any(|line| line.contains("3.12") && line.contains("2.34")),
        "{table}"
    );
}

/// What `build` and `push` print: one reference by digest, and nothing else.
fn one_reference(printed: &str, name: &str) -> String {
    let reference = printed
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("{printed:?}"));
    let digest = reference
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix("@sha256:"));
    let digest = digest.unwrap_or_else(|| panic!("{printed:?} is not of {name}"));
    assert!(digest.len() == 64 && !digest.contains('\n'), "{printed:?}");
    reference.to_owned()
}

/// examples/hello answers, with text as the runtime of this Python writes it.
fn assert_hello(root: &Root, python: &str) {
    let event = fs::read_to_string(example("hello").join("event.json")).unwrap();
    let answer = root.answer(&event);
    let escapes = ["3.9", "3.10", "3.11"].contains(&python);
    let greeting = if escapes {
        r"Gr\u00fc\u00dfe, Zo\u00eb!"
    } else {
        "Grüße, Zoë!"
    };
    assert!(answer.contains(greeting), "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(answer["greeting"], "Grüße, Zoë!");
    let version = answer["python"].as_str().unwrap();
    assert!(version.starts_with(&format!("{python}.")), "{version}");
}

fn skopeo_inspect(name: &str) -> Value {
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    let said = run(skopeo.args(["inspect", "--tls-verify=false", name]));
    serde_json::from_str(&said).unwrap()
}
