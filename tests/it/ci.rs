//! The jobs under `examples/ci`, as far as they run without their services: the shell in them, step by step, on
//! a registry of loopback; and what such jobs read of a build.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::bent::Registry;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::python_directories;
use crate::support::tools;

/// A file in YAML, read by the YAML reader that came with moto.
fn yaml(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let (version, directory) = python_directories().iter().next_back().unwrap();
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = Command::new(directory.join(format!("python{version}")))
        .args(["-c", script])
        .arg(path)
        .env("PYTHONPATH", tools().join("moto"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A project whose locks are there, with a base of loopback.
fn locked() -> Project {
    let project = Project::with_handler();
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let base = Base::aws("3.12").reference();
    project.file("pyproject.toml", format!("{settings}base = \"{base}\"\n"));
    let build = project.lambimg(["build"]);
    build.env("LAMBIMG_BYTECODE", "true").succeed();
    fs::remove_dir_all(project.cache()).unwrap();
    project
}

/// Of uv what the jobs use: it notes what is to be installed.
const INSTALL: &str = "[ \"$1\" != python ] || echo \"$@\" >> ../installed\n";

/// The very interpreter that the lock names was installed, once in each job.
fn assert_installed(project: &Project, jobs: usize) {
    let lock = fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    let version = lock["bytecode"][0]["version"].as_str().unwrap();
    let installed = fs::read_to_string(project.beside("installed")).unwrap();
    let once = format!("python install {version}\n");
    assert_eq!(installed, once.repeat(jobs));
}

/// Runs a step's shell as GitHub does, with these variables.
fn step(project: &Project, shell: &str, variables: &BTreeMap<&str, String>) -> Outcome {
    let mut command = Command::new("bash");
    command.args(["-e", "-o", "pipefail", "-c", shell]);
    command.current_dir(project.path());
    let lambimg = format!("exec {} \"$@\"\n", env!("CARGO_BIN_EXE_lambimg"));
    let run = project.run_by(command).script("lambimg", &lambimg);
    let run = run.script("uv", INSTALL).env("LAMBIMG_BYTECODE", "true");
    let mut run = run.script("aws", "printf '%s\\n' \"$@\" > ../deployed\n");
    for (name, value) in variables {
        run = run.env(name, value);
    }
    run.run()
}

/// What a step has appended for those after it.
fn outputs(project: &Project) -> BTreeMap<String, String> {
    let text = fs::read_to_string(project.beside("output")).unwrap();
    let mut outputs = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some((name, end)) = line.split_once("<<") {
            let value: Vec<_> = lines.by_ref().take_while(|line| *line != end).collect();
            outputs.insert(name.to_owned(), value.join("\n"));
        } else {
            let (name, value) = line.split_once('=').unwrap();
            outputs.insert(name.to_owned(), value.to_owned());
        }
    }
    outputs
}

#[test]
fn the_workflow_for_github_builds_pushes_and_deploys() {
    let workflow = yaml("examples/ci/github.yml");
    let jobs = ["try", "image"].map(|name| &workflow["jobs"][name]);
    let job = jobs[1];
    // Whoever asks for changes gets no identity.
    assert_eq!(
        jobs[0]["permissions"],
        serde_json::json!({"contents": "read"})
    );
    assert_eq!(job["if"], "github.event_name == 'push'");
    let registry = Registry::bent(|_, _| None);
    let project = locked();
    let image = registry.name("x").trim_end_matches(":x").to_owned();
    assert!(job["env"]["IMAGE"].is_string());
    let mut variables = BTreeMap::from([
        ("IMAGE", image.clone()),
        ("GITHUB_REF_NAME", "main".to_owned()),
        ("GITHUB_SHA", "0123abc".to_owned()),
        (
            "GITHUB_OUTPUT",
            project.beside("output").display().to_string(),
        ),
        (
            "GITHUB_STEP_SUMMARY",
            project.beside("summary.md").display().to_string(),
        ),
    ]);
    let mut ran = Vec::new();
    let steps = jobs.map(|job| job["steps"].as_array().unwrap());
    for wanted in steps.into_iter().flatten() {
        let Some(shell) = wanted["run"].as_str() else {
            assert!(wanted["uses"].is_string(), "{wanted}");
            continue;
        };
        if let Some(uri) = wanted["env"]["URI"].as_str() {
            assert_eq!(uri, "${{ steps.image.outputs.image }}");
            variables.insert("URI", outputs(&project)["image"].clone());
        }
        let outcome = step(&project, shell, &variables);
        assert_eq!(outcome.code, Some(0), "{shell}\n{}", outcome.rendering());
        ran.push(wanted["name"].as_str().unwrap());
    }
    assert_eq!(
        ran,
        [
            "Interpreter to try with",
            "Build",
            "Interpreter",
            "Build and push",
            "Deploy"
        ]
    );
    assert_installed(&project, 2);
    let outputs = outputs(&project);
    let digest = &outputs["digest"];
    assert_eq!(outputs["image"], format!("{image}@{digest}"));
    assert_eq!(outputs["images"], format!("{image}@{digest}"));
    for tag in ["main", "0123abc"] {
        assert!(registry.kept().manifests.contains_key(tag));
    }
    let deployed = fs::read_to_string(project.beside("deployed")).unwrap();
    assert!(
        deployed.ends_with(&format!("--image-uri\n{image}@{digest}\n")),
        "{deployed}"
    );
    let summary = fs::read_to_string(project.beside("summary.md")).unwrap();
    let summary = summary
        .replace(&image, "[image]")
        .replace(digest, "[digest]");
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d[\d.]* (B|KiB|MiB)", "[size]");
    settings.bind(|| insta::assert_snapshot!(summary));
}

#[test]
fn the_job_for_gitlab_builds_and_pushes() {
    let job = &yaml("examples/ci/gitlab.yml")["image"];
    let token = job["variables"]["AWS_WEB_IDENTITY_TOKEN_FILE"].as_str();
    assert_eq!(token, Some("$CI_PROJECT_DIR/.lambimg-aws-token"));
    let registry = Registry::bent(|_, _| None);
    let project = locked();
    let image = registry.name("x").trim_end_matches(":x").to_owned();
    let identity = project.path().join(".lambimg-aws-token");
    let token = identity.display().to_string();
    let variables = BTreeMap::from([
        ("IMAGE", image.clone()),
        ("CI_COMMIT_REF_SLUG", "main".to_owned()),
        ("CI_DEFAULT_BRANCH", "main".to_owned()),
        ("CI_COMMIT_SHA", "0123abc".to_owned()),
        ("GITLAB_TOKEN", "a.b.c".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
    ]);
    let lines = job["script"].as_array().unwrap().iter();
    let script: Vec<_> = lines.map(|line| line.as_str().unwrap()).collect();
    let outcome = step(&project, &script.join("\n"), &variables);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(registry.kept().manifests.contains_key("main"));
    assert_installed(&project, 1);
    let permissions = fs::metadata(&identity).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);
    let last = job["after_script"][0].as_str().unwrap();
    let cleaned = step(&project, last, &variables);
    assert_eq!(cleaned.code, Some(0), "{}", cleaned.rendering());
    assert!(!identity.exists());
    let made = fs::read(project.path().join(".lambimg-image.json")).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert_eq!(
        made["pushed"][0]["tags"],
        serde_json::json!(["main", "0123abc"])
    );
    assert_eq!(made["pushed"][0]["repository"], image);
}

/// A file that cannot be written is found before anything is pushed.
#[test]
fn where_results_cannot_go_nothing_is_done() {
    let registry = Registry::bent(|_, _| None);
    let project = locked();
    let target = registry.name("main");
    fs::write(project.beside("file"), "").unwrap();
    let nowhere = project.beside("file/told.json").display().to_string();
    let push = ["build", "--push", "-t", &target, "--metadata-file"];
    let outcome = project.lambimg([&push[..], &[&nowhere]].concat()).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.rendering());
    assert!(registry.kept().manifests.is_empty());
    let told = project.beside("told.json");
    let wrong = ["--handler", "absent.handler", "--locked"];
    let outcome = project
        .lambimg([&push[..], &[told.to_str().unwrap()], &wrong].concat())
        .run();
    assert_ne!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(!told.exists(), "nothing was done");
}

#[test]
fn outside_of_a_job_nobody_is_told() {
    let project = Project::with_handler();
    let outcome = project.lambimg(["build", "--github"]).run();
    outcome
        .settings()
        .bind(|| insta::assert_snapshot!(outcome.rendering()));
}

/// Every key that a build says, as `a[].b`.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                found.insert(path.clone());
                keys(value, &path, found);
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

/// The page about it has each key and no other.
#[test]
fn metadata_is_as_its_page_says() {
    let registry = Registry::bent(|_, _| None);
    let project = locked();
    let target = registry.name("main");
    let build = ["build", "--push", "-t", &target, "--format", "json"];
    let first = project.lambimg(build).succeed();
    fs::remove_dir_all(project.cache()).unwrap();
    let again = project.lambimg(build).succeed();
    project.file("app.py", "def handler(event, context): ...\n");
    let third = project.lambimg(build).env("LAMBIMG_BYTECODE", "true");
    let third = third.succeed();
    let mut said = BTreeSet::new();
    for text in [first, again, third] {
        keys(&serde_json::from_str(&text).unwrap(), "", &mut said);
    }
    // Of packages there are none here.
    let of_packages = [
        "layers[].packages",
        "packages[].name",
        "packages[].version",
        "packages[].file",
        "packages[].sha256",
    ];
    said.extend(of_packages.map(str::to_owned));

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metadata.md");
    let page = fs::read_to_string(page).unwrap();
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split('|').nth(1).unwrap();
        let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        let parent = names[0].rsplit_once('.').map_or("", |(parent, _)| parent);
        for name in names {
            let below = name
                .strip_prefix('.')
                .map(|name| format!("{parent}.{name}"));
            listed.insert(below.unwrap_or_else(|| name.to_owned()));
        }
    }
    assert_eq!(
        said.difference(&listed).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    assert_eq!(
        listed.difference(&said).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}
