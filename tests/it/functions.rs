//! Many functions of one project: each an image of its own, from one file of settings and one run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::base::Base;
use crate::support::image::Image;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::registry::Registry;
use crate::support::tool;
use crate::support::wheel::Wheel;

const USAGE: i32 = 2;

const ANSWER: &str = r#"
import os

def handler(event, context):
    shared = open("/opt/shared.txt").read()
    return [context.function_name, os.environ["LEVEL"], os.environ["SHOP"], shared, sorted(os.listdir("."))]
"#;

/// Two functions, each with files of its own, and one that is the whole project.
fn shop() -> Project {
    let project = Project::new();
    let base = Base::aws("3.12").reference();
    project.file("orders/app.py", ANSWER);
    project.file("orders/prices.csv", "1\n");
    project.file("pay/app.py", ANSWER);
    project.file("shared.txt", "for all");
    project.file(
        "lambimg.toml",
        format!(
            "python = \"3.12\"\nbase = \"{base}\"\nhandler = \"app.handler\"\nexclude = [\"/*.md\"]\n\
             env = {{ LEVEL = \"info\", SHOP = \"books\" }}\n\
             files = [{{ from = \"shared.txt\", to = \"/opt/shared.txt\" }}]\n\n\
             [functions.Orders]\nsource = \"orders\"\nenv = {{ LEVEL = \"debug\" }}\n\n\
             [functions.pay]\nsource = \"pay\"\n\n\
             [functions.whole]\nhandler = \"pay.app.handler\"\nimage = \"all-of-it:1\"\n"
        ),
    );
    project
}

fn metadata(project: &Project) -> Value {
    serde_json::from_slice(&fs::read(project.beside("metadata.json")).unwrap()).unwrap()
}

fn expect_failure(code: i32, outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    outcome
}

#[test]
fn all_are_built_and_pushed_each_under_its_name() {
    let project = shop();
    let registry = Registry::start();
    let tag = registry.name("shop-{function}:1");
    let file = project.beside("metadata.json");
    let told = ["output", "summary"].map(|name| project.beside(name));
    let file = file.to_str().unwrap();
    let build = [
        "build",
        "-t",
        &tag,
        "--push",
        "--github",
        "--metadata-file",
        file,
    ];
    let outcome = project
        .lambimg(build)
        .env("GITHUB_OUTPUT", &told[0])
        .env("GITHUB_STEP_SUMMARY", &told[1])
        .run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let told_last: Vec<_> = outcome.stderr.lines().rev().take(4).collect();
    let told_last = told_last.into_iter().rev().collect::<Vec<_>>().join("\n");
    outcome.settings().bind(|| {
        insta::assert_snapshot!(format!("{}{told_last}", outcome.stdout), @r"
        127.0.0.1:[port]/shop-orders@sha256:[sha256]
        127.0.0.1:[port]/shop-pay@sha256:[sha256]
        127.0.0.1:[port]/shop-whole@sha256:[sha256]
        function Orders [size]: 1 layer [size] of its own, 1 layer [size] shared, [size] uploaded
        function pay [size]: 1 layer [size] of its own, 1 layer [size] shared, [size] uploaded
        function whole [size]: 1 layer [size] of its own, 1 layer [size] shared, [size] uploaded
        3 functions: 4 layers [size] above the base, [size] uploaded
        ");
    });
    let document = metadata(&project);
    let functions = document["functions"].as_object().unwrap();
    let names: Vec<_> = functions.keys().map(String::as_str).collect();
    assert_eq!(names, ["Orders", "pay", "whole"]);
    for (name, one) in functions {
        let repository = format!("shop-{}", name.to_lowercase());
        let image = Image::in_registry(&registry, &registry.name(&format!("{repository}:1")));
        image.assert_accepted_by_lambda();
        assert_eq!(one["digest"], image.digest());
        assert_eq!(one["pushed"][0]["tags"], json!(["1"]));
    }
    // No single image is the job's.
    let output = fs::read_to_string(&told[0]).unwrap();
    assert!(output.starts_with("images<<end-of-images\n"), "{output}");
    assert_eq!(output.lines().count(), 5);
    let summary = fs::read_to_string(&told[1]).unwrap();
    assert_eq!(summary.matches("### `").count(), 3, "{summary}");

    // One alone is the same image, told of as of a project without others.
    let one = ["build", "--function", "Orders", "--metadata-file", file];
    let stdout = project.lambimg(one).succeed();
    let digest = functions["Orders"]["digest"].as_str().unwrap();
    assert_eq!(stdout, format!("project/orders@{digest}\n"));
    assert_eq!(metadata(&project)["digest"], digest);
    assert_eq!(
        metadata(&project)["names"],
        json!(["project/orders:latest"])
    );
    let two = [
        "build",
        "--function",
        "whole",
        "--function",
        "pay",
        "--format",
        "json",
    ];
    let document: Value = serde_json::from_str(&project.lambimg(two).succeed()).unwrap();
    assert_eq!(
        document["functions"]["whole"]["names"],
        json!(["all-of-it:1"])
    );
    assert_eq!(
        document["functions"]["pay"]["names"],
        json!(["project/pay:latest"])
    );
    assert_eq!(document["functions"].as_object().unwrap().len(), 2);
}

#[test]
fn each_answers_as_itself() {
    let project = shop();
    let call = |name: &str, more: &[&str]| -> Value {
        let arguments = ["invoke", ".", "--function", name, "-d", "{}"];
        let run = project.lambimg(arguments.iter().chain(more));
        serde_json::from_str(&run.succeed()).unwrap()
    };
    let expected = json!([
        "Orders",
        "debug",
        "books",
        "for all",
        ["app.py", "prices.csv"]
    ]);
    assert_eq!(call("Orders", &[]), expected);
    let expected = json!(["other", "info", "books", "for all", ["app.py"]]);
    assert_eq!(call("pay", &["--name", "other"]), expected);
    // What goes elsewhere is no part of any function.
    let expected = json!(["whole", "info", "books", "for all", ["orders", "pay"]]);
    assert_eq!(call("whole", &[]), expected);
    for verb in ["check", "inspect", "sbom"] {
        let run = project.lambimg([verb, ".", "--function", "pay"]).run();
        assert_eq!(run.code, Some(0), "{}", run.rendering());
    }
    project.lambimg(["build", "--function", "pay"]).succeed();
    let verify = ["verify", "project/pay", ".", "--function", "pay"];
    project.lambimg(verify).succeed();
    let other = project.lambimg(["verify", "project/pay", ".", "--function", "Orders"]);
    assert_eq!(other.run().code, Some(1));
}

#[test]
fn each_is_written_to_its_own_place() {
    let project = shop();
    let outputs = [
        "zip:dist/{function}.zip",
        "oci-archive:dist/{function}.tar",
        "oci:layout:{function}",
    ];
    let build = || {
        let flags = outputs.iter().flat_map(|output| ["-o", output]);
        project
            .lambimg(["build"].into_iter().chain(flags))
            .succeed()
    };
    fs::create_dir(project.path().join("dist")).unwrap();
    let first = build();
    assert_eq!(first.lines().count(), 3);
    // What a run wrote is no part of what the next makes.
    assert_eq!(build(), first);
    for name in ["orders", "pay", "whole"] {
        let archive = fs::File::open(project.path().join(format!("dist/{name}.tar"))).unwrap();
        let directory = project.beside(name);
        tar::Archive::new(archive).unpack(&directory).unwrap();
        Image::in_directory(&directory).assert_accepted_by_lambda();
        let package = project.path().join(format!("dist/{name}.zip"));
        assert!(package.is_file());
    }
    let index = fs::read(project.path().join("layout/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
}

/// What is so of all is said once.
#[test]
fn what_a_package_leaves_out_is_told_of_its_function() {
    let project = shop();
    let told = || {
        let build = ["build", "-o", "zip:dist/{function}.zip"];
        let outcome = project.lambimg(build).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        let lines = outcome.stderr.lines();
        let lines = lines.filter(|line| line.contains("has nothing of"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let of_all = told();
    let settings = fs::read_to_string(project.path().join("lambimg.toml")).unwrap();
    let settings = settings.replace("files = ", "labels = { a = \"b\" }\n# ");
    let files = "[functions.pay]\nfiles = [{ from = \"shared.txt\", to = \"/opt/x\" }]\n";
    project.file("lambimg.toml", settings.replace("[functions.pay]\n", files));
    insta::assert_snapshot!([of_all, told()].concat().join("\n"), @r"
    warning: the deployment package has nothing of the image's files: on Lambda they come from its layers and configuration
    warning: function `pay`: the deployment package has nothing of the image's files: on Lambda they come from its layers and configuration
    ");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_built() {
    let project = shop();
    let mut told = String::new();
    let mut refused = |arguments: &[&str]| {
        let outcome = expect_failure(USAGE, project.lambimg(arguments).run());
        let _ = writeln!(
            told,
            "$ lambimg {}\n{}",
            arguments.join(" "),
            outcome.stderr
        );
        outcome.settings()
    };
    refused(&["invoke", ".", "-d", "{}"]);
    refused(&["check", ".", "--function", "order"]);
    refused(&["build", "--function", "x"]);
    refused(&["build", "-t", "shop:1"]);
    refused(&["build", "-o", "zip:x.zip"]);
    refused(&["build", "--handler", "app.other"]);
    refused(&["inspect", "docker://r.test/x", "--function", "pay"]);
    refused(&["build", "--python", "3.1", "-t", "x-{function}"]);
    let settings = refused(&["serve", "."]);
    assert!(!project.path().join("lambimg.lock").exists());
    settings.bind(|| insta::assert_snapshot!("refused_flags", told));
}

#[test]
fn settings_of_functions_are_placed() {
    let mut all = String::new();
    let mut settings = insta::Settings::clone_current();
    for (settings_text, flags) in [
        ("[functions.a]\ntags = ['x']\n", &[][..]),
        ("[functions.a]\nmirrors = {}\n", &[]),
        ("[functions.a]\nhandel = 'a.b'\n", &[]),
        ("[functions.'a.b']\n", &[]),
        ("[functions.a]\n[functions.A]\n", &[]),
        ("[functions.a]\nsource = '..'\n", &[]),
        ("[functions.a]\nsource = 'link'\n", &[]),
        (
            "[functions.a]\nhandler = 'x'\n[functions.b]\npython = '2.7'\n[functions.c]\n[functions.d]\n",
            &[],
        ),
        ("handler = 'a.b'\n", &["-t", "x-{function}"]),
        ("handler = 'a.b'\n", &["-o", "zip:{function}.zip"]),
        ("handler = 'a.b'\n", &["--function", "a"]),
    ] {
        let project = Project::new();
        std::os::unix::fs::symlink("/etc", project.path().join("link")).unwrap();
        project.file("lambimg.toml", settings_text);
        let outcome = project.lambimg(["build"].iter().chain(flags)).run();
        let outcome = expect_failure(USAGE, outcome);
        let _ = writeln!(all, "{settings_text}{}", outcome.stderr);
        settings = outcome.settings();
    }
    let project = Project::new();
    let outcome = project.lambimg(["build"]).env("LAMBIMG_SOURCE", "x").run();
    all += &expect_failure(USAGE, outcome).stderr;
    settings.bind(|| insta::assert_snapshot!("refused_settings", all));
}

#[test]
fn a_handler_is_missed_where_its_function_is() {
    let project = Project::new();
    project.file("pay/other.py", "");
    let base = Base::aws("3.12").reference();
    project.file(
        "lambimg.toml",
        format!(
            "base = \"{base}\"\n[functions.pay]\nsource = \"pay\"\nhandler = \"app.handler\"\n"
        ),
    );
    let outcome = expect_failure(USAGE, project.lambimg(["build"]).run());
    let told = outcome.stderr.lines().next().unwrap_or_default();
    insta::assert_snapshot!(told, @"error: function `pay`: handler `app.handler`: neither `app.py` nor `app/__init__.py` is in `pay` of the project");
}

#[test]
fn every_failure_is_told() {
    let project = shop();
    fs::remove_file(project.path().join("orders/app.py")).unwrap();
    fs::remove_file(project.path().join("pay/app.py")).unwrap();
    let outcome = expect_failure(USAGE, project.lambimg(["build"]).run());
    assert_said!(outcome);
}

#[test]
fn what_would_be_built_is_shown_function_by_function() {
    let project = shop();
    let outcome = project
        .lambimg([
            "build",
            "--dry-run",
            "--function",
            "Orders",
            "--function",
            "pay",
        ])
        .run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn what_another_function_needs_is_no_part_of_a_function() {
    let project = Project::new();
    project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
    let secret = "--index-url https://user:secret@index.test/\n";
    project.file("wanted/for-pay.txt", secret);
    project.file("for-all.txt", secret);
    project.file(
        "lambimg.toml",
        "base = 'host'\npython = '3.12'\nhandler = 'app.handler'\nrequirements = 'for-all.txt'\n\
         [functions.orders]\nrequirements = 'for-orders.txt'\n\
         [functions.pay]\nrequirements = 'wanted/for-pay.txt'\n",
    );
    project.file("for-orders.txt", "");
    let build = ["build", "--dry-run", "--function", "orders"];
    let told = project.lambimg(build).succeed();
    let files = told.lines().filter(|line| line.contains("/var/task"));
    assert_eq!(files.count(), 1, "{told}");
}

/// A project of groups, and an index that has what they want.
fn grouped() -> (Project, Index) {
    let index = Index::start();
    for name in ["common", "pdf", "web"] {
        let wheel = Wheel::pure(name, "1.0").member(&format!("{name}.py"), "");
        index.serve(&wheel);
    }
    let project = Project::new();
    project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
    let base = Base::aws("3.12").reference();
    project.file(
        "pyproject.toml",
        format!(
            "[project]\nname = 'shop'\nversion = '1'\nrequires-python = '>=3.10'\ndependencies = ['common']\n\
             [project.optional-dependencies]\npdf = ['pdf']\n[dependency-groups]\nweb = ['web']\n\
             [tool.lambimg]\npython = '3.12'\nhandler = 'app.handler'\nbase = '{base}'\n\
             [tool.lambimg.functions.print]\nextras = ['pdf']\n\
             [tool.lambimg.functions.site]\ngroups = ['web']\nenv = {{ A = '1' }}\n\
             [tool.lambimg.functions.plain]\n\
             [tool.lambimg.functions.plain-too]\nenv = {{ A = '2' }}\n"
        ),
    );
    (project, index)
}

/// The packages of each function by the document of a build.
fn packages(document: &str) -> Vec<(String, BTreeSet<String>)> {
    let document: Value = serde_json::from_str(document).unwrap();
    let functions = document["functions"].as_object().unwrap().iter();
    let of_one = |one: &Value| {
        let packages = one["packages"].as_array().unwrap().iter();
        packages
            .map(|package| package["name"].as_str().unwrap().to_owned())
            .collect()
    };
    functions
        .map(|(name, one)| (name.clone(), of_one(one)))
        .collect()
}

fn assert_grouped(document: &str) {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<BTreeSet<_>>()
    };
    let expected = [
        ("plain", set(&["common"])),
        ("plain-too", set(&["common"])),
        ("print", set(&["common", "pdf"])),
        ("site", set(&["common", "web"])),
    ];
    assert_eq!(
        packages(document),
        expected.map(|(name, set)| (name.to_owned(), set))
    );
}

fn locks(project: &Project) -> Vec<String> {
    let entries = fs::read_dir(project.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.contains("lock")).collect();
    names.sort();
    names
}

#[test]
fn functions_that_want_other_packages_have_other_locks() {
    let (project, index) = grouped();
    let expected = [
        "lambimg.lock",
        "pylock.pdf.toml",
        "pylock.toml",
        "pylock.web.toml",
    ];
    let lock = project.lambimg(["lock"]).index(&index.url()).succeed();
    assert_eq!(locks(&project), expected);
    let listed: BTreeSet<_> = lock
        .lines()
        .map(|line| line.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(listed, BTreeSet::from(expected));
    assert_eq!(lock.lines().count(), expected.len());
    let read = || expected.map(|name| fs::read(project.path().join(name)).unwrap());
    let before = read();
    let build = |flags: &[&str]| {
        let arguments = ["build", "--format", "json"].iter().chain(flags);
        project.lambimg(arguments).index(&index.url()).succeed()
    };
    assert_grouped(&build(&[]));
    assert_grouped(&build(&["--locked"]));
    assert_eq!(read(), before);
    for name in ["plain", "print", "site"] {
        let output = format!("oci:{}", project.beside(name).display());
        build(&["--locked", "--function", name, "-o", &output]);
        Image::in_directory(&project.beside(name)).assert_accepted_by_lambda();
    }
}

/// A lock that one build makes would move the image that the next makes of another function.
#[test]
fn no_lock_of_any_function_is_sent() {
    let (project, index) = grouped();
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let files = "handler = 'app.handler'\nfiles = [{ from = '.', to = '/opt/all' }]\n";
    let settings = settings.replace("handler = 'app.handler'\n", files);
    project.file("pyproject.toml", settings);
    project.file("sub/pylock.other.toml", "lock-version = '1.0'\n");
    let dry_run = || project.lambimg(["build", "--dry-run"]).succeed();
    let before = dry_run();
    assert!(
        before.contains("/opt/all/sub/pylock.other.toml"),
        "{before}"
    );
    project.lambimg(["lock"]).index(&index.url()).succeed();
    let sent = |told: &str| {
        let lines = told.lines().filter(|line| line.contains("/opt/all"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sent(&dry_run()), sent(&before));
}

#[test]
fn what_cannot_be_locked_is_told_of_its_function() {
    let project = shop();
    let settings = fs::read_to_string(project.path().join("lambimg.toml")).unwrap();
    let other = "[functions.pay]\npython = \"3.13\"\n";
    project.file("lambimg.toml", settings.replace("[functions.pay]\n", other));
    let outcome = expect_failure(USAGE, project.lambimg(["lock"]).run());
    assert_said!(outcome);
}

#[test]
fn a_function_without_packages_is_no_reason_to_upgrade_none() {
    let project = shop();
    let index = Index::start();
    index.serve(&Wheel::pure("common", "1.0"));
    let settings = fs::read_to_string(project.path().join("lambimg.toml")).unwrap();
    let other = "[functions.pay]\nrequirements = \"pay.txt\"\n";
    project.file("lambimg.toml", settings.replace("[functions.pay]\n", other));
    project.file("pay.txt", "common\n");
    let run = |arguments: &[&str]| project.lambimg(arguments).index(&index.url()).run();
    assert_eq!(run(&["lock"]).code, Some(0));
    index.serve(&Wheel::pure("common", "1.1"));
    let outcome = run(&["lock", "--upgrade-package", "common"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let lock = fs::read_to_string(project.path().join("pylock.pay.toml")).unwrap();
    assert!(lock.contains("1.1"), "{lock}");
}

/// By `lock` alone, where no flag decides which locks there are, and never what may be made again.
#[test]
fn the_lock_of_a_function_that_is_gone_is_told() {
    let (project, index) = grouped();
    let lock = |flags: &[&str]| {
        let arguments = ["lock"].iter().chain(flags);
        let outcome = project.lambimg(arguments).index(&index.url()).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        let lines = outcome.stderr.lines().map(str::to_owned);
        lines
            .filter(|line| line.contains("no function"))
            .collect::<Vec<_>>()
    };
    assert!(lock(&[]).is_empty());
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let gone = "[tool.lambimg.functions.print]\nextras = ['pdf']\n";
    project.file("pyproject.toml", settings.replace(gone, ""));
    // By these flags some of these could have been made.
    project.file("dev.txt", "");
    let before = fs::read_to_string(project.path().join("pylock.pdf.toml")).unwrap();
    for name in [
        "pylock.dev.toml",
        "pylock.dev-arm64.toml",
        "sub/pylock.x.toml",
    ] {
        project.file(name, &before);
    }
    fs::create_dir(project.path().join("pdf")).unwrap();
    let told = lock(&[]);
    assert_eq!(told.len(), 1, "{told:?}");
    insta::assert_snapshot!(told[0], @"locks that no function has any more and that may be deleted: pylock.pdf.toml");
    assert!(lock(&["--python", "3.12"]).is_empty());
    let after = fs::read_to_string(project.path().join("pylock.pdf.toml"));
    assert_eq!(after.unwrap(), before);
}

#[test]
fn another_tools_lock_is_read_for_each() {
    let (project, index) = grouped();
    let mut uv = Command::new(tool("uv"));
    uv.args(["lock", "--quiet", "--python"]).arg(python("3.12"));
    project.run_by(uv).index(&index.url()).succeed();
    let build = project.lambimg(["build", "--format", "json"]);
    assert_grouped(&build.index(&index.url()).succeed());
    assert_eq!(locks(&project), ["lambimg.lock", "uv.lock"]);
}

#[test]
fn each_base_is_asked_for_once() {
    let project = shop();
    project.lambimg(["lock"]).succeed();
    let outcome = project.lambimg(["outdated"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(outcome.stdout.matches("pinned").count(), 1);
    let document = project.lambimg(["outdated", "--format", "json"]).succeed();
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["bases"].as_array().unwrap().len(), 1);
    assert_eq!(document["bases"][0]["outdated"], false);
    assert_eq!(document["extensions"], json!([]));
    let settings = fs::read_to_string(project.path().join("lambimg.toml")).unwrap();
    let other = Base::aws_oci("3.12").reference();
    let changed = settings.replace(
        "[functions.pay]\n",
        &format!("[functions.pay]\nbase = \"{other}\"\n"),
    );
    project.file("lambimg.toml", changed);
    // Which has none in the lock yet.
    let outcome = project.lambimg(["outdated"]).run();
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    assert_eq!(outcome.stdout.matches("pinned").count(), 1);
    assert!(
        outcome.stderr.starts_with("error: function `pay`: "),
        "{}",
        outcome.stderr
    );
    project.lambimg(["lock"]).succeed();
    let both = project.lambimg(["outdated"]).succeed();
    assert_eq!(both.matches("pinned").count(), 2);
    project.lambimg(["build", "--locked"]).succeed();
}
