//! Deployment packages: what `-o zip:` writes is read by Python's own `zipfile` and held against the image and against
//! pip; what others zipped becomes an image that answers, or is refused by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::build::is_compared;
use crate::build::pip_install;
use crate::build::record_rows;
use crate::support::base::Base;
use crate::support::elf;
use crate::support::image::Image;
use crate::support::index::Index;
use crate::support::process::run;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::wheel::Wheel;

const FUNCTION_FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;

/// Lists an archive as `zipfile` sees it, and proves every member.
const LIST: &str = "
import json, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    print(json.dumps([
        [i.filename, oct(i.external_attr >> 16), i.date_time, i.compress_type, i.create_system, archive.read(i).hex()]
        for i in archive.infolist()
    ]))
";

/// Writes an archive of JSON's members: name, mode and text.
const WRITE: &str = "
import json, sys, warnings, zipfile
warnings.simplefilter('ignore')
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, mode, text in json.loads(sys.argv[2]):
        info = zipfile.ZipInfo(name, (2024, 2, 29, 12, 30, 2))
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        archive.writestr(info, text)
";

const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

#[derive(Debug, PartialEq, Eq)]
struct Member {
    mode: String,
    date: Value,
    deflated: bool,
    content: Vec<u8>,
}

/// The members of an archive by their names, which are in order.
fn members(zip: &Path) -> BTreeMap<String, Member> {
    let listed = run(Command::new(python("3.12")).args(["-c", LIST]).arg(zip));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let listed = listed.as_array().unwrap();
    let names: Vec<_> = listed.iter().map(|one| one[0].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "{names:?}");
    let member = |one: &Value| {
        assert_eq!(one[4], 3, "made by Unix");
        let hex = one[5].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Member {
            mode: one[1].as_str().unwrap().to_owned(),
            date: one[2].clone(),
            deflated: one[3] == 8,
            content: (0..hex.len()).step_by(2).map(byte).collect(),
        }
    };
    let members = listed
        .iter()
        .map(|one| (one[0].as_str().unwrap().to_owned(), member(one)));
    let members: BTreeMap<_, _> = members.collect();
    assert_eq!(members.len(), names.len());
    members
}

/// Zips these members beside the project.
fn zipped(project: &Project, members: &[(&str, u32, &str)]) -> PathBuf {
    let zip = project.beside("function.zip");
    let members = serde_json::to_string(members).unwrap();
    let mut command = Command::new(python("3.12"));
    run(command.args(["-c", WRITE]).arg(&zip).arg(members));
    zip
}

fn with_bytecode<'a>(run: Run<'a>, index: &Index) -> Run<'a> {
    compiling(run).index(&index.url())
}

fn compiling(run: Run<'_>) -> Run<'_> {
    run.env("LAMBIMG_BYTECODE", "true")
        .env("LAMBIMG_INTERPRETER", python("3.12"))
}

/// A function with a program, a link, a package of its own and one that it needs, and nothing that only a umask,
/// a clock or an order decides.
fn project(index: &Index) -> Project {
    let wheel = Wheel::pure("upper", "1.0")
        .member("upper/up.py", "def up(text):\n    return text.upper()\n")
        .member("upper/data.bin", "many words ".repeat(9_000).into_bytes())
        .member_with_mode(
            "upper-1.0.data/scripts/upper",
            "#!python\nimport upper\n",
            0o100_755,
        );
    index.serve(&wheel);
    let project = Project::with_handler();
    project.file("requirements.txt", "upper\n");
    let app =
        "from upper.up import up\ndef handler(event, context):\n    return up(event['text'])\n";
    project.file("app.py", app);
    project.file("assets/run.sh", "#!/bin/sh\nexit 0\n");
    project.file("own/__init__.py", "");
    project.file("own/Zoë.txt", "Zoë");
    let program = project.path().join("assets/run.sh");
    fs::set_permissions(program, fs::Permissions::from_mode(0o700)).unwrap();
    symlink("../app.py", project.path().join("assets/link.py")).unwrap();
    fs::create_dir(project.path().join("empty")).unwrap();
    project
}

/// What is in an image's task root: mode, link and bytes by path.
fn task_root(directory: &Path) -> BTreeMap<String, (u32, Option<PathBuf>, Vec<u8>)> {
    let files = Image::in_directory(directory).files_below("var/task");
    let files = files.into_iter().map(|(path, entry)| {
        let link = entry.header.link_name().unwrap().map(Cow::into_owned);
        let mode = entry.header.mode().unwrap() & 0o7777;
        (
            path,
            (
                mode,
                link.filter(|link| link != Path::new("")),
                entry.content,
            ),
        )
    });
    files.collect()
}

fn output(kind: &str, path: &Path) -> String {
    format!("{kind}:{}", path.display())
}

// --- out ----------------------------------------------------------------------------------------

#[test]
fn the_package_is_what_pip_installs_and_the_source() {
    let project = Project::of_example("powertools");
    let (zip, layout) = (project.beside("f.zip"), project.beside("image"));
    let base = Base::aws("3.12").reference();
    let outputs = [output("zip", &zip), output("oci", &layout)];
    let build = [
        "build",
        "--base",
        &base,
        "-o",
        &outputs[0],
        "-o",
        &outputs[1],
    ];
    project.lambimg(build).succeed();

    let members = members(&zip);
    let files = members.iter().filter(|(name, _)| !name.ends_with('/'));
    let files: BTreeMap<_, _> = files.collect();
    let image = task_root(&layout);
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        image.keys().collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    for (name, member) in &files {
        let (mode, _, content) = &image[*name];
        assert!(
            member.content == *content,
            "{name} has other bytes than in the image"
        );
        assert_eq!(member.mode, format!("0o{:o}", 0o100_000 | mode), "{name}");
    }
    let is_source = |name: &str| project.path().join(name).exists();
    let mut installed = files;
    installed.retain(|name, _| !is_source(name) && is_compared(name));
    let expected = pip_install(&project);
    assert_eq!(
        installed
            .keys()
            .map(|name| name.as_str())
            .collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (path, content) in &expected {
        let ours = &installed[path].content;
        if path.starts_with("bin/") {
            // The first line names the interpreter: Lambda's own, and for pip that of the machine it runs on.
            assert!(ours.starts_with(b"#!/var/lang/bin/python3.12\n"), "{path}");
        } else if path.ends_with(".dist-info/RECORD") {
            assert_eq!(record_rows(ours), record_rows(content), "{path}");
        } else {
            assert!(ours == content, "{path} has other bytes than pip's");
        }
    }
    let dates = members.values().map(|member| &member.date);
    assert!(
        dates
            .into_iter()
            .all(|date| *date == serde_json::json!([1980, 1, 1, 0, 0, 0]))
    );
    assert!(!members.keys().any(|name| name.starts_with("awslambdaric")));
}

#[test]
fn the_same_project_gives_the_same_bytes() {
    let index = Index::start();
    let project = project(&index);
    let zips = ["one.zip", "two.zip"].map(|name| project.beside(name));
    let base = Base::aws("3.12").reference();
    let outputs = zips.each_ref().map(|zip| output("zip", zip));
    let first = ["build", "--base", &base, "-o", &outputs[0]];
    with_bytecode(project.lambimg(first), &index).succeed();

    // Another cache, umask, zone, order of directories, and modes and dates of files.
    let other = project.beside("other");
    fs::create_dir(&other).unwrap();
    let copy = "cd \"$1\" && ls -r -A | while read -r name; do cp -r -P -- \"$name\" \"$2\"; done";
    run(Command::new("sh")
        .args(["-c", copy, "sh"])
        .arg(project.path())
        .arg(&other));
    fs::set_permissions(other.join("app.py"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "umask 077; cd \"$1\"; shift; exec \"$@\"", "sh"])
        .arg(&other);
    shell.arg(env!("CARGO_BIN_EXE_lambimg"));
    shell.args([
        "build",
        "--locked",
        "--no-cache",
        "--layers",
        "1",
        "--base",
        &base,
        "-o",
        &outputs[1],
    ]);
    let second = with_bytecode(project.run_by(shell), &index);
    let second = second.env("LAMBIMG_CACHE_DIR", project.beside("cache-2"));
    second.env("TZ", "Pacific/Auckland").succeed();
    assert!(fs::read(&zips[0]).unwrap() == fs::read(&zips[1]).unwrap());
    let mode = |zip: &PathBuf| fs::metadata(zip).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&zips[1]), 0o600);

    let members = members(&zips[0]);
    let told = |name: &str| (&*members[name].mode, members[name].deflated);
    assert_eq!(told("app.py"), ("0o100644", true));
    assert_eq!(told("assets/"), ("0o40755", false));
    assert_eq!(told("assets/run.sh"), ("0o100755", true));
    assert_eq!(told("assets/link.py"), ("0o120777", false));
    assert_eq!(told("bin/upper"), ("0o100755", true));
    assert_eq!(told("empty/"), ("0o40755", false));
    assert_eq!(told("own/Zoë.txt"), ("0o100644", true));
    // Unchecked, by its hash: a zip has no dates that bytecode could be held against.
    for module in [
        "__pycache__/app.cpython-312.pyc",
        "upper/__pycache__/up.cpython-312.pyc",
    ] {
        assert_eq!(members[module].content[4], 1, "{module}");
    }
}

#[test]
fn a_package_has_the_date_that_the_user_says() {
    let project = Project::with_handler();
    let zip = project.beside("f.zip");
    let base = Base::aws("3.12").reference();
    let output = output("zip", &zip);
    let build = project.lambimg(["build", "--base", &base, "-o", &output]);
    build.env("SOURCE_DATE_EPOCH", "1700000001").succeed();
    let date = serde_json::json!([2023, 11, 14, 22, 13, 20]);
    assert_eq!(members(&zip)["app.py"].date, date);
}

#[test]
fn more_than_lambda_unpacks_is_no_package() {
    let project = Project::with_handler();
    let data = File::create(project.path().join("model.bin")).unwrap();
    data.set_len(262_144_000).unwrap();
    let (zip, base) = (project.beside("f.zip"), Base::aws("3.12").reference());
    let output = output("zip", &zip);
    let build = ["build", "--base", &base, "-t", "some:1", "-o", &output];
    let outcome = project.lambimg(build).run();
    assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
    assert!(!zip.exists());
    assert_said!(outcome);
}

/// This machine in Lambda's words.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        machine => machine,
    }
}

/// The base of the image may have a newer glibc, and a function need no zip runtime.
#[test]
fn a_wheel_for_another_glibc_is_in_no_package() {
    let index = Index::start();
    let machine = std::env::consts::ARCH;
    let library = elf::library(elf::machine(machine), "GLIBC_2.37");
    let wheel = Wheel::tagged(
        "new",
        "1.0",
        &format!("cp312-cp312-manylinux_2_37_{machine}"),
    );
    index.serve(&wheel.member("new/ext.so", library));
    let project = Project::with_handler();
    project.file("requirements.txt", "new\n");
    let (zip, base) = (project.beside("f.zip"), Base::aws("3.12").reference());
    let output = output("zip", &zip);
    let build = [
        "build",
        "--base",
        &base,
        "--glibc",
        "2.38",
        "--arch",
        arch(),
    ];
    project.lambimg(build).index(&index.url()).succeed();
    let more = ["-o", &output];
    let with_package = build.iter().chain(&more);
    let outcome = project.lambimg(with_package).index(&index.url()).run();
    assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
    let told = "`new/ext.so` needs glibc 2.37 (GLIBC_2.37), and the target has 2.34";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    assert!(!zip.exists());
}

#[test]
fn what_goes_by_s3_alone_is_told() {
    let project = Project::with_handler();
    let noise = (0..13_500_000_u64).flat_map(|n| {
        let mixed = (n ^ 0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32).to_le_bytes()[..4]
            .to_vec()
    });
    project.file("model.bin", noise.collect::<Vec<_>>());
    let (zip, base) = (project.beside("f.zip"), Base::aws("3.12").reference());
    let output = output("zip", &zip);
    let outcome = project
        .lambimg(["build", "--base", &base, "-o", &output])
        .run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let size = fs::metadata(&zip).unwrap().len();
    assert!(size > 52_428_800, "{size}");
    let told = format!("is {size} bytes: Lambda takes one of more than 52428800 from S3 alone");
    assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
}

// --- in -----------------------------------------------------------------------------------------

#[test]
fn a_package_comes_back_as_the_image_of_its_project() {
    let project = project(&Index::start());
    // Beside the runtime client this needs something that was made for a glibc, and has a program.
    project.file("requirements.txt", "charset-normalizer==3.4.0\n");
    let app = "import charset_normalizer\ndef handler(event, context):\n    return event['text'].upper()\n";
    project.file("app.py", app);
    let zip = project.beside("function.zip");
    let [one, two] = ["one", "two"].map(|name| project.beside(name));
    let (package, first) = (output("zip", &zip), output("oci", &one));
    let build = ["build", "--base", "host", "-o", &package, "-o", &first];
    let outcome = compiling(project.lambimg(build)).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let told =
        "the deployment package is for Lambda's own python3.12 with glibc 2.34; the base `host";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);

    let path = zip.to_str().unwrap();
    let flags = [
        "--base",
        "host",
        "--python",
        "3.12",
        "--handler",
        "app.handler",
    ];
    let second = output("oci", &two);
    let build = ["build", path, "-o", &second].into_iter().chain(flags);
    let printed = compiling(project.lambimg(build)).succeed();
    assert!(printed.starts_with("function@sha256:"), "{printed}");
    let (expected, actual) = (task_root(&one), task_root(&two));
    assert!(expected.contains_key("bin/normalizer"));
    assert!(
        expected == actual,
        "{:?}\n{:?}",
        expected.keys(),
        actual.keys()
    );
    assert!(!project.beside("lambimg.lock").exists());

    let call = ["-d", r#"{"text": "Zoë"}"#];
    for what in ["function", path] {
        let project_flags: &[&str] = if what == path { &flags[..4] } else { &[] };
        let verb = ["invoke", what, "app.handler"];
        let invoke = verb.iter().chain(project_flags).chain(&call);
        let answer = compiling(project.lambimg(invoke)).succeed();
        assert_eq!(answer, "\"ZOË\"\n");
    }
}

#[test]
fn a_package_has_lambdas_handler_and_keeps_its_bytecode() {
    let project = Project::new();
    let zip = zipped(
        &project,
        &[
            ("./", 0o040_755, ""),
            (
                "./lambda_function.py",
                0,
                "def lambda_handler(event, context):\n    return 'ok'\n",
            ),
            ("./bin/tool", 0o755, "#!/bin/sh\n"),
            (
                "./__pycache__/lambda_function.cpython-312.pyc",
                FILE,
                "stale",
            ),
            ("./__pycache__/lambda_function.cpython-39.pyc", FILE, "old"),
        ],
    );
    // By its first bytes and not by its name.
    let path = project.path().join("some.pack");
    fs::rename(zip, &path).unwrap();
    let (base, layout) = (Base::aws("3.12").reference(), project.beside("image"));
    let told = output("oci", &layout);
    let build = [
        "build",
        "some.pack",
        "--python",
        "3.12",
        "--base",
        &base,
        "-o",
        &told,
    ];
    let outcome = with_bytecode(project.lambimg(build), &Index::start()).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let note = "note: the handler is `lambda_function.lambda_handler`, as Lambda has it where nobody names another";
    assert!(outcome.stderr.contains(note), "{}", outcome.stderr);
    let files = task_root(&layout);
    let told = files
        .iter()
        .map(|(path, (mode, _, content))| (&**path, *mode, content.len()));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("__pycache__/lambda_function.cpython-312.pyc", 0o644, 5),
            ("__pycache__/lambda_function.cpython-39.pyc", 0o644, 3),
            ("bin/tool", 0o755, 10),
            ("lambda_function.py", 0o644, 52),
        ]
    );
    let image = Image::in_directory(&layout);
    assert_eq!(
        image.config["config"]["Cmd"][0],
        "lambda_function.lambda_handler"
    );
    let check = [
        "check",
        "some.pack",
        "--python",
        "3.12",
        "--base",
        &base,
        "--strict",
    ];
    let outcome = project.lambimg(check).run();
    assert_eq!(
        outcome.code,
        Some(FUNCTION_FAILED),
        "{}",
        outcome.rendering()
    );
    assert!(
        outcome.stdout.contains("lambda_function.cpython-3"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn a_package_is_told_nothing_of_a_project() {
    let project = Project::new();
    zipped(
        &project,
        &[("app.py", FILE, "def handler(event, context): ...\n")],
    );
    let mut told = String::new();
    for flags in [
        &["--requirements", "requirements.txt"][..],
        &["--exclude", "*.md"],
        &["--locked"],
    ] {
        let start = ["build", "../function.zip", "--handler", "app.handler"];
        let outcome = project.lambimg(start.iter().chain(flags)).run();
        assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
        told.push_str(&outcome.stderr);
    }
    let without_handler = project.lambimg(["build", "../function.zip"]).run();
    told.push_str(&without_handler.rendering());
    let settings = without_handler.settings();
    settings.bind(|| insta::assert_snapshot!(told));
}

#[test]
fn hostile_packages_are_refused_by_name() {
    let app = ("app.py", FILE, "def handler(event, context): ...\n");
    let bomb = "0".repeat(17 << 20);
    let mut told = String::new();
    let project = Project::new();
    let zip = project.beside("function.zip");
    for member in [
        ("../x", FILE, ""),
        ("/etc/x", FILE, ""),
        ("a/../../x", FILE, ""),
        ("deep/out", LINK, "../../x"),
        ("passwd", LINK, "/etc/passwd"),
        ("pipe", 0o010_644, ""),
        ("app.py", FILE, "pass\n"),
    ] {
        zipped(&project, &[app, member]);
        told.push_str(&refusal(&project, &zip));
    }
    // Too long for an argument.
    let write = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w', 8) as archive:\n    \
                 archive.writestr('zeros.bin', '0' * int(sys.argv[2]))\n";
    let mut command = Command::new(python("3.12"));
    run(command
        .args(["-c", write])
        .arg(&zip)
        .arg(bomb.len().to_string()));
    told.push_str(&refusal(&project, &zip));
    let settings = project.lambimg(["--version"]).run().settings();
    settings.bind(|| insta::assert_snapshot!(told));
}

#[test]
fn what_is_wrong_inside_is_told() {
    let project = Project::new();
    let app = "import native\ndef handler(event, context): ...\n";
    let zip = zipped(&project, &[("app.py", FILE, app)]);
    let base = Base::aws("3.12").reference();
    let flags = [
        "../function.zip",
        "--handler",
        "app.handler",
        "--python",
        "3.12",
        "--base",
        &base,
    ];
    let whole = fs::read(&zip).unwrap();
    // The first byte of the data, behind a header of thirty bytes and the name.
    let mut damaged = whole.clone();
    damaged[36] ^= 0x20;
    fs::write(&zip, damaged).unwrap();
    let outcome = project.lambimg(["build"].iter().chain(&flags)).run();
    assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
    assert!(
        outcome.stderr.contains("member `app.py` is damaged"),
        "{}",
        outcome.stderr
    );

    fs::write(&zip, whole).unwrap();
    let add = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'a') as archive:\n    \
               archive.write(sys.argv[2], 'native.so')\n";
    let library = project.beside("native.so");
    let other = if std::env::consts::ARCH == "aarch64" {
        "x86_64"
    } else {
        "aarch64"
    };
    fs::write(&library, elf::library(elf::machine(other), "GLIBC_2.17")).unwrap();
    let mut command = Command::new(python("3.12"));
    run(command.args(["-c", add]).args([&zip, &library]));
    let outcome = project
        .lambimg(["check", "--arch", arch()].iter().chain(&flags))
        .run();
    assert_eq!(
        outcome.code,
        Some(FUNCTION_FAILED),
        "{}",
        outcome.rendering()
    );
    assert!(
        outcome.stdout.contains("var/task/native.so"),
        "{}",
        outcome.stdout
    );
}

/// What is said of a package that is refused, without the hint.
fn refusal(project: &Project, zip: &Path) -> String {
    let zip = zip.to_str().unwrap();
    let outcome = project
        .lambimg(["build", zip, "--handler", "app.handler"])
        .run();
    assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    let told = outcome.stderr.split("\n\nhint: ").next().unwrap();
    format!("{told}\n")
}
