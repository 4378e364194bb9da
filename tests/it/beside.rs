//! What goes into the image beside the function: how it is run, further files, and what `/opt` is given.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::archive::Tree;
use crate::support::base;
use crate::support::base::Base;
use crate::support::digest;
use crate::support::emulator::Root;
use crate::support::forge::Archive;
use crate::support::forge::Forge;
use crate::support::image::Image;
use crate::support::process::run;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::registry::Registry;
use crate::support::tool;

const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;

/// A project with a handler and these settings.
pub(crate) fn project(settings: &str) -> Project {
    let project = Project::with_handler();
    let text = format!("[tool.lambimg]\npython = \"3.12\"\nhandler = \"app.handler\"\n{settings}");
    project.file("pyproject.toml", text);
    project
}

/// What a build with these flags says, on a base in the shape of Lambda's own.
pub(crate) fn build(project: &Project, flags: &[&str]) -> Outcome {
    let base = Base::aws_oci("3.12").reference();
    let build = ["build", "--base", &base, "-t", "some:1"];
    project.lambimg(build.iter().chain(flags)).run()
}

/// The image of such a build, which succeeds.
pub(crate) fn image(project: &Project, flags: &[&str]) -> (Image, Outcome) {
    let directory = project.beside("image");
    let _ = fs::remove_dir_all(&directory);
    let output = format!("oci:{}", directory.display());
    let outcome = build(project, &[&["-o", &output], flags].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    (Image::in_directory(&directory), outcome)
}

/// What the history says of the layers on the base.
pub(crate) fn layers(image: &Image) -> Vec<&str> {
    let history = image.config["history"].as_array().unwrap().iter();
    let own = history.filter(|step| step["created_by"] == "lambimg build");
    own.map(|step| step["comment"].as_str().unwrap()).collect()
}

// --- settings of the image ------------------------------------------------------------------------

#[test]
fn how_the_image_is_run() {
    let settings = "workdir = '/opt'\nuser = 'app'\nenv = { LEVEL = 'debug', PATH = '/opt/bin:/usr/bin:/bin' }\n\
                    labels = { 'org.opencontainers.image.source' = 'https://example.test/app' }\n\
                    files = [{ from = 'a', to = '/opt/a' }]\n";
    let project = project(settings);
    project.file("a", "a");
    let (image, outcome) = image(&project, &[]);
    image.assert_accepted_by_lambda();
    let run = &image.config["config"];
    assert_eq!(run["WorkingDir"], "/opt");
    assert_eq!(run["User"], "app");
    assert_eq!(run["Cmd"], json!(["app.handler"]));
    let variables: Vec<_> = run["Env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    assert!(variables.contains(&"LEVEL=debug"), "{variables:?}");
    let paths = variables.iter().filter(|line| line.starts_with("PATH="));
    assert_eq!(paths.collect::<Vec<_>>(), [&"PATH=/opt/bin:/usr/bin:/bin"]);
    let labels = &run["Labels"];
    assert_eq!(
        labels["org.opencontainers.image.source"],
        "https://example.test/app"
    );
    assert!(labels["lambimg.layers"].is_string());
    assert!(
        outcome.stderr.contains("the user `app`"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn another_program_needs_no_handler() {
    let project = project("");
    let own =
        "[tool.lambimg]\npython = \"3.12\"\nentrypoint = ['/var/task/run']\ncmd = ['a', 'b']\n";
    project.file("pyproject.toml", own);
    project.file("run", "#!/bin/sh\n");
    let (image, _) = image(&project, &[]);
    let run = &image.config["config"];
    assert_eq!(run["Entrypoint"], json!(["/var/task/run"]));
    assert_eq!(run["Cmd"], json!(["a", "b"]));
    // Its lock asks for no handler either.
    project
        .lambimg(["lock", "--base", &Base::aws_oci("3.12").reference()])
        .succeed();
    let plan = build(&project, &["--dry-run"]);
    assert!(
        plan.stdout
            .contains("entrypoint   [\"/var/task/run\"]\ncmd          [\"a\",\"b\"]\n"),
        "{}",
        plan.stdout
    );
}

#[test]
fn a_secret_is_warned_of_without_its_value() {
    let project = project("env = { DB_PASSWORD = 'hunter2-hunter2' }\n");
    let (_, outcome) = image(&project, &[]);
    assert!(outcome.stderr.contains("LMB100"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
}

#[test]
fn what_lambda_decides_is_not_set() {
    let outcome = build(
        &project("[tool.lambimg.env]\nA = 'b'\nAWS_REGION = 'eu-west-1'\n"),
        &["--quiet"],
    );
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn a_handler_and_a_command_are_one_too_many() {
    let outcome = build(
        &project("cmd = ['app.other']\n"),
        &["--quiet", "--handler", "app.handler"],
    );
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

// --- files ----------------------------------------------------------------------------------------

#[test]
fn files_go_where_they_are_sent_and_nowhere_else() {
    let project = project(
        "files = [\n  { from = 'models', to = '/opt/models' },\n  { from = 'ca.pem', to = '/etc/ssl/', mode = '0755' },\n]\n",
    );
    project.file("models/a/x.onnx", "x");
    project.file("models/__pycache__/y.pyc", "y");
    project.file("ca.pem", "pem");
    symlink("a/x.onnx", project.path().join("models/link")).unwrap();
    let (first, _) = image(&project, &[]);
    first.assert_accepted_by_lambda();
    assert_eq!(layers(&first), ["files", "function"]);
    let below = |directory| first.files_below(directory).into_keys().collect::<Vec<_>>();
    assert_eq!(
        below("opt/models"),
        ["__pycache__/y.pyc", "a/x.onnx", "link"]
    );
    assert_eq!(below("var/task"), ["app.py", "pyproject.toml"]);
    let mode = first.files_below("etc/ssl")["ca.pem"]
        .header
        .mode()
        .unwrap();
    assert_eq!(mode & 0o777, 0o755);
    let (again, outcome) = image(&project, &["--no-cache"]);
    assert_eq!(again.digest(), first.digest());
    let plan = build(&project, &["--dry-run"]).stdout;
    assert!(plan.contains("file         /opt/models/a/x.onnx"), "{plan}");
    assert!(
        !plan.contains("/var/task/models"),
        "{plan} {}",
        outcome.stderr
    );
    // A file that changes moves its own layer alone.
    project.file("ca.pem", "other");
    let (other, _) = image(&project, &[]);
    let count = first.layers.len();
    assert_eq!(first.layers[count - 1], other.layers[count - 1]);
    assert_ne!(first.layers[count - 2], other.layers[count - 2]);
}

/// The second build finds what the first has written.
#[test]
fn what_builds_write_is_not_sent() {
    let project = project(
        "files = [{ from = '.', to = '/srv/all' }]\nextensions = [{ path = '.', to = '/opt/all' }]\n",
    );
    project.file("requirements.txt", "");
    let output = format!("oci:{}", project.path().join("out/image").display());
    let mut digests = Vec::new();
    for _ in 0..2 {
        let (image, outcome) = image(&project, &["-o", &output]);
        for place in ["srv/all", "opt/all"] {
            let sent: Vec<_> = image.files_below(place).into_keys().collect();
            let wanted = ["app.py", "pyproject.toml", "requirements.txt"];
            assert_eq!(sent, wanted, "{}", outcome.rendering());
        }
        digests.push(image.digest());
    }
    assert!(project.path().join("out/image/oci-layout").is_file());
    assert!(project.path().join("lambimg.lock").is_file());
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_file_in_a_place_that_is_taken() {
    let settings = "files = [{ from = '../project/other.py', to = '/var/task/app.py' }]\n";
    let project = project(&settings.replace("../project/", ""));
    project.file(
        "other.py",
        "def handler(event, context):\n    return 'other'\n",
    );
    let outcome = build(&project, &["--quiet"]);
    assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn a_file_that_is_not_there() {
    let outcome = build(
        &project("files = [{ from = 'model', to = '/opt/model' }]\n"),
        &["--quiet"],
    );
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn a_link_out_of_what_is_sent() {
    let project = project("files = [{ from = 'models', to = '/opt/models' }]\n");
    fs::create_dir(project.path().join("models")).unwrap();
    symlink("../app.py", project.path().join("models/link")).unwrap();
    let outcome = build(&project, &["--quiet"]);
    assert_eq!(outcome.code, Some(NOT_BUILDABLE));
    assert_said!(outcome);
    fs::remove_dir_all(project.path().join("models")).unwrap();
    fs::create_dir(project.beside("models")).unwrap();
    symlink(project.beside("models"), project.path().join("models")).unwrap();
    let outcome = build(&project, &["--quiet"]);
    assert!(
        outcome.stderr.contains("leads out of the project"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_function_has_its_files_and_variables() {
    let project = project(
        "base = 'host'\nfiles = [{ from = 'model', to = '/opt/models/' }]\nenv = { LEVEL = 'debug' }\n",
    );
    project.file("model", "weights");
    project.file(
        "app.py",
        "import os\ndef handler(event, context):\n    return [open('/opt/models/model').read(), os.environ['LEVEL']]\n",
    );
    let outcome = project.lambimg(["invoke", ".", "-d", "{}"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let answer: Value = serde_json::from_str(outcome.stdout.trim()).unwrap();
    assert_eq!(answer, json!(["weights", "debug"]));
}

// --- extensions -----------------------------------------------------------------------------------

/// Registers, leaves a word of it in `/tmp`, and waits for events for ever. Given its name.
pub(crate) const WATCHER: &str = r#"
import json, os, sys, urllib.request
API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2020-01-01/extension"
body = json.dumps({"events": ["INVOKE", "SHUTDOWN"]}).encode()
headers = {"Lambda-Extension-Name": sys.argv[1]}
request = urllib.request.Request(f"{API}/register", data=body, headers=headers, method="POST")
with urllib.request.urlopen(request) as answer:
    headers = {"Lambda-Extension-Identifier": answer.headers["Lambda-Extension-Identifier"]}
    open(f"/tmp/{sys.argv[1]}", "w").write(str(answer.status))
while True:
    request = urllib.request.Request(f"{API}/event/next", headers=headers)
    with urllib.request.urlopen(request) as answer:
        if json.loads(answer.read())["eventType"] == "SHUTDOWN":
            break
"#;

/// Makes an archive of these members: name, content, mode. A mode of 0o12xxxx makes a link.
pub(crate) fn archive(path: &Path, members: &[(&str, &str, u32)]) {
    let script = "import json, sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as archive:\n\
        \x20   for name, content, mode in json.loads(sys.argv[2]):\n\
        \x20       info = zipfile.ZipInfo(name)\n\
        \x20       info.external_attr = mode << 16\n\
        \x20       info.compress_type = zipfile.ZIP_DEFLATED\n\
        \x20       archive.writestr(info, content)\n";
    let mut command = Command::new(python("3.12"));
    run(command
        .args(["-c", script])
        .arg(path)
        .arg(json!(members).to_string()));
}

/// A program that starts the watcher, which is elsewhere.
pub(crate) fn starter(name: &str) -> String {
    format!("#!/bin/sh\nexec python3 /opt/watch/watcher.py {name}\n")
}

#[test]
fn a_layer_zip_is_unpacked_as_lambda_does() {
    let project =
        project("extensions = [{ zip = 'layer.zip' }, { path = 'bin', to = '/opt/bin' }]\n");
    let members = [
        ("python/own/", "", 0o40755),
        ("python/own/__init__.py", "x = 1\n", 0o100_600),
        ("extensions/watcher", "#!/bin/sh\n", 0o755),
        ("lib/libx.so.1", "elf", 0o100_644),
        ("lib/libx.so", "libx.so.1", 0o120_777),
        ("bin/tool", "one\n", 0o100_777),
    ];
    archive(&project.path().join("layer.zip"), &members);
    project.file("bin/tool", "two\n");
    let (image, outcome) = image(&project, &[]);
    image.assert_accepted_by_lambda();
    assert_eq!(
        layers(&image),
        ["extension layer.zip", "extension bin", "function"]
    );
    let files = image.files_below("opt");
    let modes = files
        .iter()
        .map(|(path, entry)| format!("{path} {:o}", entry.header.mode().unwrap()));
    assert_eq!(
        modes.collect::<Vec<_>>(),
        [
            "bin/tool 644",
            "extensions/watcher 755",
            "lib/libx.so 777",
            "lib/libx.so.1 644",
            "python/own/__init__.py 644",
        ]
    );
    let note = "extensions: /opt/bin/tool of layer.zip is replaced by that of bin";
    assert!(outcome.stderr.contains(note), "{}", outcome.stderr);
    let task = image.files_below("var/task").into_keys();
    assert_eq!(task.collect::<Vec<_>>(), ["app.py", "pyproject.toml"]);
    // One that nobody can start is told at once.
    archive(
        &project.path().join("layer.zip"),
        &[("extensions/watcher", "x", 0)],
    );
    let told = build(&project, &[]).stderr;
    assert!(
        told.contains("/opt/extensions/watcher of layer.zip has no execute bit"),
        "{told}"
    );
}

/// Whole directories go behind a file or a link, and files behind a directory.
#[test]
fn what_hides_more_than_one_file_is_told() {
    let project = project(
        "extensions = [{ path = 'a', to = '/opt/x' }, { path = 'b', to = '/opt/x' }, { path = 'c', to = '/opt/d' }]\n\
         files = [{ from = 'bootstrap', to = '/var/runtime/bootstrap' }, { from = 'c', to = '/opt/x/bin/new' }]\n",
    );
    for file in [
        "a/bin/one",
        "a/bin/two",
        "a/lib",
        "b/lib/x",
        "c",
        "bootstrap",
    ] {
        project.file(file, "#!/bin/sh\n");
    }
    symlink("lib", project.path().join("b/bin")).unwrap();
    let (image, outcome) = image(&project, &[]);
    image.assert_accepted_by_lambda();
    let told = |line: &&str| line.contains(": /opt/x") || line.contains("warning: ");
    let lines: Vec<_> = outcome.stderr.lines().filter(told).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    extensions: /opt/x/bin of b hides a directory of a with 2 files
    extensions: /opt/x/lib of a is replaced by a directory of b
    files: /opt/x/bin of b is replaced by a directory of `files`
    warning: /var/runtime/bootstrap of `files` goes over what starts the function
    ");
}

#[test]
fn names_of_an_archive_may_begin_with_a_dot() {
    let project = project("extensions = [{ zip = 'layer.zip' }]\n");
    let of = |members: &[(&str, &str, u32)]| {
        archive(&project.path().join("layer.zip"), members);
    };
    of(&[
        ("./", "", 0o40755),
        ("./python/", "", 0o40755),
        ("./python/own.py", "x = 1\n", 0o100_644),
    ]);
    let (image, _) = image(&project, &[]);
    image.assert_accepted_by_lambda();
    let files: Vec<_> = image.files_below("opt").into_keys().collect();
    assert_eq!(files, ["python/own.py"]);
    for name in [
        "./../etc/passwd",
        ".//etc/passwd",
        "./a/./b",
        "./a\\b",
        "./.wh.a",
        "a/../b",
    ] {
        of(&[(name, "x", 0o100_644)]);
        let outcome = build(&project, &["--quiet"]);
        let told = outcome.rendering();
        assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{name}: {told}");
    }
}

/// As a layer that wraps the user's handler does.
#[test]
fn a_handler_of_an_extension_is_there() {
    let project = project("extensions = [{ path = 'layer', to = '/opt/python' }]\n");
    fs::remove_file(project.path().join("app.py")).unwrap();
    project.file("other.py", "");
    project.file(
        "layer/lib/python3.12/site-packages/app.py",
        "def handler(event, context): pass\n",
    );
    let (image, _) = image(&project, &[]);
    image.assert_accepted_by_lambda();
    fs::remove_dir_all(project.path().join("layer/lib")).unwrap();
    project.file("layer/other.py", "");
    let outcome = build(&project, &["--quiet"]);
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
}

#[test]
fn what_a_run_writes_is_no_file_of_its_image() {
    let project = project("files = [{ from = 'out.tar', to = '/srv/out.tar' }]\n");
    project.file("out.tar", "of before");
    let outcome = build(&project, &["--quiet", "-o", "oci-archive:out.tar"]);
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    assert_said!(outcome);
    let settings = project.path().join("pyproject.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let (text, _) = text.split_once("files").unwrap();
    fs::write(
        settings,
        format!("{text}extensions = [{{ zip = 'out.tar' }}]\n"),
    )
    .unwrap();
    let outcome = build(&project, &["--quiet", "-o", "oci-archive:out.tar"]);
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
}

#[test]
fn what_is_set_is_told_without_secrets() {
    let project = project(
        "cmd = ['a.b', '--token', 'hunter2']\nworkdir = '/var'\nuser = 'me'\n\
         env = { LEVEL = 'info', DB_PASSWORD = 'hunter2hunter2' }\nlabels = { team = 'a', api-token = 'hunter2hunter2' }\n",
    );
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let settings = settings.replace("handler = \"app.handler\"\n", "");
    project.file("pyproject.toml", settings);
    let told = build(&project, &["--quiet", "--dry-run"]).stdout;
    assert!(!told.contains("hunter2"), "{told}");
    let set = ["cmd", "workdir", "user", "env", "label"];
    let lines = told
        .lines()
        .filter(|line| set.contains(&line.split(' ').next().unwrap()));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
    cmd          ["a.b","--token","…"]
    workdir      /var
    user         me
    env          DB_PASSWORD=…
    env          LEVEL=info
    label        api-token=…
    label        team=a
    "#);
}

/// What another runner made of an image's files is taken over by what it was made for.
#[test]
fn a_part_that_was_laid_anew_is_taken_over() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("lambda-adapter", "#!/bin/sh\n", 0o755);
    let reference = base::of_tree(&registry, &tree);
    let project = project(&format!(
        "extensions = [{{ image = '{reference}', path = '/lambda-adapter', to = '/opt/extensions/x' }}]\n"
    ));
    let target = registry.name("functions/app:1");
    let first = build(&project, &["-t", &target, "--push"]);
    assert_eq!(first.code, Some(0), "{}", first.rendering());
    fs::remove_dir_all(project.cache()).unwrap();
    let again = build(&project, &["--cache-from", &target, "--progress", "plain"]);
    assert_eq!(again.code, Some(0), "{}", again.rendering());
    let note = format!("took 2 layers over from {target}");
    assert!(again.stderr.contains(&note), "{}", again.stderr);
}

#[test]
fn a_file_goes_into_a_directory_by_its_name() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("adapters/one", "#!/bin/sh\n", 0o755);
    let reference = base::of_tree(&registry, &tree);
    let project = project(&format!(
        "extensions = [{{ path = 'ext/agent', to = '/opt/extensions/' }}, {{ path = 'ext/agent' }}, {{ path = 'all' }},\n\
         {{ image = '{reference}', path = '/adapters/one', to = '/opt/extensions/' }},\n\
         {{ image = '{reference}', path = '/adapters', to = '/opt/adapters/' }}]\n"
    ));
    project.file("ext/agent", "#!/bin/sh\n");
    project.file("all/lib/x", "x");
    let (image, _) = image(&project, &[]);
    let files = image.files_below("opt").into_keys();
    assert_eq!(
        files.collect::<Vec<_>>(),
        [
            "adapters/one",
            "agent",
            "extensions/agent",
            "extensions/one",
            "lib/x"
        ]
    );
}

#[test]
fn an_archive_that_leaves_its_root() {
    let project = project("extensions = [{ zip = 'layer.zip' }]\n");
    archive(
        &project.path().join("layer.zip"),
        &[("../etc/passwd", "x", 0o644)],
    );
    let outcome = build(&project, &["--quiet"]);
    assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn an_archive_that_is_not_there() {
    let outcome = build(
        &project("extensions = [{ zip = 'layer.zip' }]\n"),
        &["--quiet"],
    );
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn layers_of_an_image_are_taken_over_unchanged() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("opt/extensions/watcher", "#!/bin/sh\n", 0o755);
    let reference = base::of_tree(&registry, &tree);
    let project = project(&format!("extensions = [{{ image = '{reference}' }}]\n"));
    let (first, _) = image(&project, &[]);
    let wanted = digest(&tree.layer().content);
    let own = first.layers.iter().map(|layer| digest(layer));
    assert!(own.collect::<Vec<_>>().contains(&wanted));
    assert_eq!(
        layers(&first),
        [&format!("extension {reference}"), "function"]
    );
    let lock = fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    assert!(
        lock.contains(&format!("[[extension]]\nreference = \"{reference}\"")),
        "{lock}"
    );
    // The tag moves, and the image does not before the lock is made anew.
    tree.file("opt/extensions/other", "#!/bin/sh\n", 0o755);
    base::of_tree(&registry, &tree);
    let (same, _) = image(&project, &["--locked"]);
    assert_eq!(same.digest(), first.digest());
    let (offline, _) = image(&project, &["--locked", "--offline"]);
    assert_eq!(offline.digest(), first.digest());
    project
        .lambimg([
            "lock",
            "--upgrade",
            "--base",
            &Base::aws_oci("3.12").reference(),
        ])
        .succeed();
    let (renewed, _) = image(&project, &["--locked"]);
    assert!(renewed.files_below("opt/extensions").contains_key("other"));
    // A lock without it does not do.
    let lock = fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    let (before, after) = lock.split_once("\n[[extension]]").unwrap();
    let rest = after.find("\n[[").map_or("", |at| &after[at..]);
    fs::write(
        project.path().join("lambimg.lock"),
        format!("{before}{rest}"),
    )
    .unwrap();
    let outcome = build(&project, &["--locked", "--quiet"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.rendering());
    assert_said!(outcome);
}

/// A build leaves what it does not need, for another function may; `lock` knows all.
#[test]
fn a_lock_forgets_what_is_no_extension_any_more() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("opt/extensions/watcher", "#!/bin/sh\n", 0o755);
    let reference = base::of_tree(&registry, &tree);
    let row = format!("extensions = [{{ image = '{reference}' }}]\n");
    let project = project(&row);
    image(&project, &[]);
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    project.file("pyproject.toml", settings.replace(&row, ""));
    image(&project, &[]);
    let lock = || fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    let before = lock();
    assert!(before.contains("[[extension]]"), "{before}");
    let base = Base::aws_oci("3.12").reference();
    let outcome = project.lambimg(["lock", "--base", &base]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let said = format!("the extension `{reference}` is not taken any more");
    assert!(outcome.stderr.contains(&said), "{}", outcome.rendering());
    let after = lock();
    assert!(!after.contains("[[extension]]"), "{after}");
    assert!(after.contains("[[base]]"), "{after}");
}

#[test]
fn a_part_of_an_image_is_laid_anew() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("lambda-adapter", "#!/bin/sh\n", 0o700);
    tree.file("usr/share/doc", "x", 0o644);
    let reference = base::of_tree(&registry, &tree);
    let part = |part: &str| {
        project(&format!(
            "extensions = [{{ image = '{reference}', {part} }}]\n"
        ))
    };
    let with_adapter = part("path = '/lambda-adapter', to = '/opt/extensions/lambda-adapter'");
    let (first, _) = image(&with_adapter, &[]);
    first.assert_accepted_by_lambda();
    let files = first.files_below("opt");
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ["extensions/lambda-adapter"]
    );
    assert_eq!(
        files["extensions/lambda-adapter"].header.mode().unwrap(),
        0o755
    );
    assert_eq!(files["extensions/lambda-adapter"].content, b"#!/bin/sh\n");
    assert!(first.files_below("usr/share").is_empty());
    let (again, _) = image(&with_adapter, &["--no-cache"]);
    assert_eq!(again.digest(), first.digest());
    let outcome = build(&part("path = '/opt'"), &["--quiet"]);
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn an_image_without_the_functions_architecture() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("opt/extensions/watcher", "#!/bin/sh\n", 0o755);
    base::of_tree(&registry, &tree);
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let mut list: Value = serde_json::from_slice(&list).unwrap();
    list["manifests"].as_array_mut().unwrap().pop();
    let media_type = list["mediaType"].as_str().unwrap();
    let raw = list.to_string().into_bytes();
    registry.put_manifest("lambda/python", "x86", media_type, raw);
    let one = list["manifests"][0]["digest"].as_str().unwrap();
    let images = [
        ("list", registry.name("lambda/python:x86")),
        ("image", registry.name(&format!("lambda/python@{one}"))),
        ("place", "oci:../extension".to_owned()),
    ];
    for (name, image) in images {
        let project = project(&format!("extensions = [{{ image = '{image}' }}]\n"));
        Forge::sound().write(&project.beside("extension"));
        let outcome = build(&project, &["--quiet", "--arch", "arm64"]);
        assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
        let name = format!("an_extension_for_another_architecture_{name}");
        let said = outcome.settings();
        said.bind(|| insta::assert_snapshot!(name, outcome.rendering()));
    }
}

/// What the image's layers leave is what is taken, in a layer that Lambda unpacks.
#[test]
fn removed_and_linked_files_of_an_image() {
    let project = project("extensions = [{ image = 'oci:EXTENSION' }]\n");
    let directory = project.beside("extension");
    let mut forge = Forge::sound();
    let mut lower = Archive::default();
    lower
        .program("opt/extensions/watcher", "#!/bin/sh\n")
        .file("opt/gone", "gone")
        .file("opt/old/a", "old")
        .raw(
            "opt/extensions/again",
            b'1',
            0o755,
            b"",
            "opt/extensions/watcher",
        );
    forge
        .function
        .file("opt/.wh.gone", "")
        .file("opt/old/.wh..wh..opq", "")
        .file("opt/old/b", "new");
    forge.base.push(lower);
    forge.write(&directory);
    let text = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let place = format!("oci:{}", directory.display());
    project.file("pyproject.toml", text.replace("oci:EXTENSION", &place));
    let (image, _) = image(&project, &[]);
    image.assert_accepted_by_lambda();
    let files = image.files_below("opt");
    let told: Vec<_> = files
        .iter()
        .map(|(path, file)| (&**path, &*file.content))
        .collect();
    let wanted: [(&str, &[u8]); 3] = [
        ("extensions/again", b"#!/bin/sh\n"),
        ("extensions/watcher", b"#!/bin/sh\n"),
        ("old/b", b"new"),
    ];
    assert_eq!(told, wanted);
}

/// What is beside the function is taken over by whoever has neither the archive's layer nor the image's.
#[test]
fn layers_of_extensions_are_taken_over() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("opt/extensions/watcher", "#!/bin/sh\n", 0o755);
    let reference = base::of_tree(&registry, &tree);
    let project = project(&format!(
        "extensions = [{{ image = '{reference}' }}, {{ zip = 'layer.zip' }}]\n"
    ));
    let members = [("extensions/of-zip", "#!/bin/sh\n", 0o100_755)];
    archive(&project.path().join("layer.zip"), &members);
    let name = format!("{}:1", registry.name("app"));
    let (first, _) = image(&project, &["-t", &name, "--push"]);
    fs::remove_dir_all(project.cache()).unwrap();
    let (second, outcome) = image(&project, &["--cache-from", &name]);
    assert_eq!(second.digest(), first.digest());
    let told = format!("took 2 layers over from {name}");
    assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
    assert_eq!(second.files_below("opt/extensions").len(), 2);
}

#[test]
fn extensions_run_and_modules_of_a_layer_import() {
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("opt/extensions/of-image", starter("of-image"), 0o755);
    let reference = base::of_tree(&registry, &tree);
    let project = project(&format!(
        "base = 'host'\nextensions = [{{ zip = 'layer.zip' }}, {{ zip = 'powertools.zip' }}, {{ image = '{reference}' }}]\n"
    ));
    let members = [
        ("watch/watcher.py", WATCHER, 0o100_644),
        ("extensions/of-zip", &starter("of-zip"), 0o100_755),
    ];
    archive(&project.path().join("layer.zip"), &members);
    powertools(&project);
    project.file(
        "app.py",
        "import os, sys\nimport aws_lambda_powertools\ndef handler(event, context):\n\
        \x20   return [aws_lambda_powertools.__file__] + [open('/tmp/' + name).read() for name in ('of-zip', 'of-image')]\n",
    );
    let directory = project.beside("image");
    let name = format!("oci:{}", directory.display());
    project
        .lambimg(["build", "-t", "some:1", "-o", &name])
        .succeed();
    let wanted = json!([
        "/opt/python/aws_lambda_powertools/__init__.py",
        "200",
        "200"
    ]);
    let outcome = project.lambimg(["invoke", &name, "-d", "{}"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let answer: Value = serde_json::from_str(outcome.stdout.trim()).unwrap();
    assert_eq!(answer, wanted);
    let answer: Value = serde_json::from_str(&Root::copy(&name).answer("{}")).unwrap();
    assert_eq!(answer, wanted);
    project.lambimg(["check", &name]).succeed();
}

/// Makes a layer zip of Powertools as its users do.
fn powertools(project: &Project) {
    let target = project.beside("powertools/python");
    let mut command = Command::new(tool("uv"));
    command.args([
        "pip",
        "install",
        "--quiet",
        "--python-version",
        "3.12",
        "--only-binary",
        ":all:",
    ]);
    command.args([
        "--target",
        target.to_str().unwrap(),
        "aws-lambda-powertools",
    ]);
    run(command.arg("--python").arg(python("3.12")));
    let script = "import shutil, sys\nshutil.make_archive(sys.argv[1], 'zip', sys.argv[2])\n";
    let mut command = Command::new(python("3.12"));
    let archive = project.path().join("powertools");
    run(command
        .args(["-c", script])
        .arg(archive)
        .arg(project.beside("powertools")));
}
