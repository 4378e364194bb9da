//! What goes into the image beside the function: how it is run, further files, and what `/opt` is given.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;
use serde_json::json;

use crate::support::base::Base;
use crate::support::image::Image;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;

const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;

/// A project with a handler and these settings.
fn project(settings: &str) -> Project {
    let project = Project::with_handler();
    let text = format!("[tool.lambimg]\npython = \"3.12\"\nhandler = \"app.handler\"\n{settings}");
    project.file("pyproject.toml", text);
    project
}

/// What a build with these flags says, on a base in the shape of Lambda's own.
fn build(project: &Project, flags: &[&str]) -> Outcome {
    let base = Base::aws_oci("3.12").reference();
    let build = ["build", "--base", &base, "-t", "some:1"];
    project.lambimg(build.iter().chain(flags)).run()
}

/// The image of such a build, which succeeds.
fn image(project: &Project, flags: &[&str]) -> (Image, Outcome) {
    let directory = project.beside("image");
    let _ = fs::remove_dir_all(&directory);
    let output = format!("oci:{}", directory.display());
    let outcome = build(project, &[&["-o", &output], flags].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    (Image::in_directory(&directory), outcome)
}

/// What the history says of the layers on the base.
fn layers(image: &Image) -> Vec<&str> {
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
