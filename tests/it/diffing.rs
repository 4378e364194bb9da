//! `diff`: what changed from one image to another, told to people, programs and pull requests.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;
use serde_json::json;

use crate::support::base::Base;
use crate::support::forge::Archive;
use crate::support::forge::Forge;
use crate::support::forge::Packing;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::registry::Registry;

const REFUSED: i32 = 1;
const SITE: &str = "var/lang/lib/python3.12/site-packages";
/// Nobody's password.
const SECRET: &str = "hunter2-hunter2-hunter2";

/// Installs a package of these files.
fn install(archive: &mut Archive, root: &str, name: &str, version: &str, files: &[(&str, &str)]) {
    let info = format!("{name}-{version}.dist-info");
    let mut record = String::new();
    for (path, content) in files {
        archive.file(&format!("{root}/{path}"), content);
        let _ = writeln!(record, "{path},,");
    }
    let _ = writeln!(record, "{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,");
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    archive.file(&format!("{root}/{info}/METADATA"), metadata);
    let wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    archive.file(&format!("{root}/{info}/WHEEL"), wheel);
    archive.file(&format!("{root}/{info}/RECORD"), record);
}

/// A release of a function.
fn older() -> Forge {
    let mut forge = Forge::sound();
    install(
        &mut forge.base[1],
        SITE,
        "boto3",
        "1.34.0",
        &[("boto3/__init__.py", "")],
    );
    let function = &mut forge.function;
    let task = "var/task";
    install(
        function,
        task,
        "urllib3",
        "2.9.3",
        &[("urllib3/__init__.py", "v = 293\n")],
    );
    install(function, task, "six", "1.16.0", &[("six.py", "")]);
    install(function, task, "idna", "3.10", &[("idna/__init__.py", "")]);
    install(
        function,
        task,
        "numpy",
        "2.0",
        &[("numpy/__init__.py", "1\n"), ("numpy/tests.py", "2\n")],
    );
    function
        .file("var/task/data/old.txt", "1 2 3\n")
        .file("var/task/same.txt", "same\n")
        .mode("var/task/run.sh", 0o644, "#!/bin/sh\n")
        .link("var/task/current", "data/old.txt")
        .program("usr/local/bin/tool", "#!/bin/sh\nexit 1\n");
    forge.run["Env"]
        .as_array_mut()
        .unwrap()
        .extend(["LEVEL=info", "GONE=1"].map(Value::from));
    forge.run["Labels"] = json!({"team": "blue", "lambimg.layers": "0123"});
    forge
}

/// The next one.
fn newer() -> Forge {
    let mut forge = Forge::sound();
    install(
        &mut forge.base[1],
        SITE,
        "boto3",
        "1.35.0",
        &[("boto3/__init__.py", "")],
    );
    let function = &mut forge.function;
    let task = "var/task";
    install(
        function,
        task,
        "urllib3",
        "2.10.0",
        &[("urllib3/__init__.py", "v = 'two ten'\n")],
    );
    install(function, task, "six", "1.15.0", &[("six.py", "")]);
    install(
        function,
        task,
        "attrs",
        "24.2.0",
        &[("attr/__init__.py", "")],
    );
    install(
        function,
        task,
        "numpy",
        "2.0",
        &[("numpy/__init__.py", "3\n")],
    );
    function
        .file("var/task/data/a|b`c`<i>.txt", "1 2 3 4\n")
        .file("var/task/same.txt", "same\n")
        .mode("var/task/run.sh", 0o755, "#!/bin/sh\n")
        .link("var/task/current", "same.txt")
        .program("usr/local/bin/tool", "#!/bin/sh\nexit 2\n");
    forge.app = Some("def main(event, context):\n    return 'more than that'\n".to_owned());
    forge.run["Cmd"] = json!(["app.main"]);
    let password = format!("DB_PASSWORD={SECRET}");
    forge.run["Env"]
        .as_array_mut()
        .unwrap()
        .extend(["LEVEL=debug", &password].map(Value::from));
    forge.run["Labels"] = json!({"team": "green", "lambimg.layers": "4567"});
    forge
}

#[test]
fn a_command_is_told_without_its_secrets() {
    let of = |secret: &str| {
        let mut forge = Forge::sound();
        forge.run["Cmd"] = json!(["app.handler", "--token", secret]);
        forge
    };
    let images = [("older", &of("0123456789")), ("newer", &of(SECRET))];
    let project = with(&images);
    for format in ["text", "json", "markdown"] {
        let outcome = diff(&project, ["older", "newer"], &["-q", "--format", format]);
        assert!(!outcome.stdout.contains("0123456789"), "{}", outcome.stdout);
        // Each writes the list in its own way.
        assert!(outcome.stdout.contains("--token"), "{}", outcome.stdout);
        assert!(outcome.stdout.contains('…'), "{}", outcome.stdout);
    }
}

/// A project beside which images lie as `oci:` directories.
fn with(images: &[(&str, &Forge)]) -> Project {
    let project = Project::new();
    for (name, forge) in images {
        forge.write(&project.beside(name));
    }
    project
}

fn diff(project: &Project, sides: [&str; 2], arguments: &[&str]) -> Outcome {
    let images = sides.map(|name| format!("oci:{}", project.beside(name).display()));
    let mut all = vec!["diff", &*images[0], &*images[1]];
    all.extend(arguments);
    let outcome = project.lambimg(all).run();
    assert!(
        !outcome.rendering().contains(SECRET),
        "{}",
        outcome.rendering()
    );
    outcome
}

#[test]
fn a_release_is_told_to_people() {
    let project = with(&[("older", &older()), ("newer", &newer())]);
    assert_said!(diff(&project, ["older", "newer"], &["-q"]));
}

#[test]
fn a_release_is_told_to_a_pull_request() {
    let project = with(&[("older", &older()), ("newer", &newer())]);
    assert_said!(diff(
        &project,
        ["older", "newer"],
        &["-q", "--format", "markdown"]
    ));
}

#[test]
fn a_release_is_told_to_programs() {
    let project = with(&[("older", &older()), ("newer", &newer())]);
    let outcome = diff(&project, ["older", "newer"], &["-q", "--format", "json"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let told: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        (&told["version"], &told["changed"]),
        (&json!(1), &json!(true))
    );
    let lines = |key: &str, fields: &[&str]| {
        let all = told[key].as_array().unwrap().iter();
        let all = all.map(|one| fields.iter().map(|field| one[*field].to_string()));
        let all = all.map(|fields| fields.collect::<Vec<_>>().join(" ").replace('"', ""));
        all.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(lines("packages", &["area", "name", "change"]), @r"
    base boto3 upgraded
    dependencies attrs added
    dependencies idna removed
    dependencies numpy files
    dependencies six downgraded
    dependencies urllib3 upgraded
    ");
    let numpy = &told["packages"][3]["files"];
    assert_eq!(*numpy, json!({"added": 0, "removed": 1, "changed": 1}));
    insta::assert_snapshot!(lines("files", &["area", "path", "change"]), @r"
    function var/task/app.py changed
    function var/task/current changed
    function var/task/data/a|b`c`<i>.txt added
    function var/task/data/old.txt removed
    function var/task/run.sh changed
    other usr/local/bin/tool changed
    ");
    insta::assert_snapshot!(lines("settings", &["setting", "name", "first", "second", "secret"]), @r"
    handler null app.handler app.main false
    variable DB_PASSWORD null null true
    variable GONE 1 null false
    variable LEVEL info debug false
    label team blue green false
    ");
    let again = diff(&project, ["older", "newer"], &["-q", "--format", "json"]);
    assert_eq!(again.stdout, outcome.stdout);
}

#[test]
fn what_no_function_reads_is_no_change() {
    let mut dated = older();
    dated.bend_config = |config| config["created"] = json!("2026-11-23T00:00:00Z");
    let project = with(&[("one", &older()), ("other", &dated), ("newer", &newer())]);
    let code = |sides, arguments: &[&str]| diff(&project, sides, arguments).code;
    assert_eq!(code(["one", "newer"], &[]), Some(0));
    assert_eq!(code(["one", "newer"], &["--exit-code"]), Some(REFUSED));
    let same = diff(&project, ["one", "one"], &["-q", "--exit-code"]);
    assert_eq!(same.code, Some(0));
    assert_eq!(same.stdout, "nothing changed: it is the same image\n");
    let other = diff(&project, ["one", "other"], &["-q", "--exit-code"]);
    assert_eq!(other.code, Some(0));
    let start = "nothing changed but bytes that no function reads";
    assert!(other.stdout.starts_with(start), "{}", other.rendering());
}

#[test]
fn a_layer_that_both_have_is_read_once() {
    let mut changed = older();
    changed.app = Some("def handler(event, context):\n    return 2\n".to_owned());
    let project = with(&[("one", &older()), ("other", &changed)]);
    // What is not there cannot be read a second time.
    let blobs = project.beside("other/blobs/sha256");
    let mut removed = 0;
    for blob in fs::read_dir(project.beside("one/blobs/sha256")).unwrap() {
        let name = blob.unwrap().file_name();
        removed += usize::from(fs::remove_file(blobs.join(name)).is_ok());
    }
    assert_eq!(removed, 2, "the layers of the base");
    let outcome = diff(&project, ["one", "other"], &[]);
    let sentence = outcome.stdout.lines().next().unwrap();
    assert!(
        sentence.starts_with("app.py changed"),
        "{}",
        outcome.rendering()
    );
    assert!(
        !outcome.stderr.contains("warning"),
        "{}",
        outcome.rendering()
    );
}

#[test]
fn a_layer_that_cannot_be_read_and_a_new_error_are_told() {
    let mut broken = older();
    broken.packing = Packing::Zstd;
    let mut without = older();
    without.app = None;
    let project = with(&[
        ("one", &older()),
        ("broken", &broken),
        ("without", &without),
    ]);
    let outcome = diff(&project, ["one", "broken"], &[]);
    assert!(
        outcome.stderr.contains("warning: layer 3 of `oci:"),
        "{}",
        outcome.rendering()
    );
    let outcome = diff(&project, ["one", "without"], &["-q", "--format", "json"]);
    let told: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(told["findings"]["new"]["errors"], 1, "{told:#}");
    assert_eq!(
        told["findings"]["new_errors"][0]["rule"], "LMB052",
        "{told:#}"
    );
}

/// Real wheels, on a base in the shape of Lambda's own, out of a registry.
#[test]
fn a_release_with_wheels_of_pypi_is_told() {
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let registry = Registry::start();
    let names = ["1", "2"].map(|tag| registry.name(&format!("app:{tag}")));
    let build = |name: &str, requirements: &str| {
        project.file("requirements.txt", requirements);
        let build = ["build", "--base", &base, "-t", name, "--push"];
        project.lambimg(build).succeed();
    };
    build(&names[0], "urllib3==2.2.3\nsix==1.16.0\n");
    project.file(
        "app.py",
        "def handler(event, context):\n    return 'fine'\n",
    );
    build(&names[1], "urllib3==2.3.0\nsix==1.16.0\n");
    let images = names.map(|name| format!("docker://{name}"));
    let outcome = project
        .lambimg(["diff", &images[0], &images[1], "-q"])
        .run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let sentence = outcome.stdout.lines().next().unwrap();
    assert!(
        sentence.starts_with("urllib3 2.2.3 → 2.3.0, app.py changed, "),
        "{}",
        outcome.rendering()
    );
    assert!(!outcome.stdout.contains("six"), "{}", outcome.rendering());
}
