//! `check`: images that are wrong in one way each are found by one rule, and sound ones by none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::architecture;
use crate::support::base::Base;
use crate::support::forge::Archive;
use crate::support::forge::DOCKER;
use crate::support::forge::Forge;
use crate::support::forge::OCI;
use crate::support::forge::Packing;
use crate::support::is_root;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::python_directories;
use crate::support::registry::Registry;
use crate::support::tools;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;

/// What is wrong with an image, and how it is made so.
type Case = (&'static str, fn(&mut Forge));

/// The identifiers of what was found, each once, in their order.
fn rules_in(report: &str) -> BTreeSet<String> {
    let report: Value = serde_json::from_str(report).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| finding["rule"].as_str().unwrap().to_owned())
        .collect()
}

fn check(project: &Project, image: &str) -> BTreeSet<String> {
    let outcome = project.lambimg(["check", image, "--format", "json"]).run();
    assert!(
        matches!(outcome.code, Some(0 | REFUSED)),
        "{}",
        outcome.rendering()
    );
    rules_in(&outcome.stdout)
}

/// A line for each case: what is wrong, which rule finds it, and how bad that is.
fn found_in(cases: &[Case]) -> String {
    let project = Project::new();
    let mut lines = Vec::new();
    for (name, change) in cases {
        let mut forge = Forge::sound();
        change(&mut forge);
        let directory = project.beside(&name.replace(' ', "-"));
        forge.write(&directory);
        let image = format!("oci:{}", directory.display());
        let outcome = project.lambimg(["check", &image, "--format", "json"]).run();
        let report: Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}\n{}", outcome.rendering()));
        let findings = report["findings"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let found: Vec<_> = findings
            .map(|finding| format!("{} {}", text(&finding["rule"]), text(&finding["level"])))
            .collect();
        lines.push(format!("{name}: {}", found.join(", ")));
    }
    lines.join("\n")
}

fn hard_link(forge: &mut Forge) {
    forge.function.file("var/task/data.txt", "x");
    let function = &mut forge.function;
    function.raw("var/task/link.txt", b'1', 0o644, b"", "var/task/data.txt");
}

/// By the part of the image that their rule is about.
const CASES: &[Case] = &[
    ("hard link", hard_link),
    ("index with attestation", |forge| forge.attested = true),
    ("zstd by its type", |forge| {
        forge.family = OCI;
        forge.packing = Packing::Zstd;
        forge.media_type = Some("application/vnd.oci.image.layer.v1.tar+zstd");
    }),
    ("zstd under another type", |forge| {
        forge.packing = Packing::Zstd;
    }),
    ("uncompressed under a gzip type", |forge| {
        forge.packing = Packing::Plain;
    }),
    ("two gzip members", |forge| {
        forge.packing = Packing::TwoMembers;
    }),
    ("layer of the other family", |forge| {
        forge.media_type = Some(OCI.layer);
    }),
    ("wrong diff_id", |forge| {
        forge.bend_config = |config| {
            config["rootfs"]["diff_ids"][2] = config["rootfs"]["diff_ids"][1].clone();
        };
    }),
    ("wrong size of a layer", |forge| {
        forge.bend_manifest = |manifest| manifest["layers"][2]["size"] = json!(7);
    }),
    ("wrong system", |forge| {
        forge.bend_config = |config| config["os"] = json!("windows");
    }),
    ("wrong architecture", |forge| {
        forge.architecture = if architecture() == "amd64" {
            "arm64"
        } else {
            "amd64"
        };
    }),
    ("entry point with CRLF", |forge| {
        let script = "#!/bin/sh\r\nexec /var/runtime/bootstrap\r\n";
        forge.function.program("lambda-entrypoint.sh", script);
    }),
    ("entry point missing", |forge| {
        forge.run["Entrypoint"] = json!(["/start.sh"]);
    }),
    ("entry point a symbolic link", |forge| {
        forge.function.link("start.sh", "lambda-entrypoint.sh");
        forge.run["Entrypoint"] = json!(["/start.sh"]);
    }),
    ("entry point not executable", |forge| {
        let script = "#!/bin/sh\nexec /var/runtime/bootstrap\n";
        forge.function.file("lambda-entrypoint.sh", script);
    }),
    ("entry point relative", |forge| {
        forge.run["Entrypoint"] = json!(["lambda-entrypoint.sh"]);
    }),
    ("command of two", |forge| {
        forge.run["Cmd"] = json!(["app.handler", "more"]);
    }),
    ("PYTHONPATH", |forge| {
        let variables = forge.run["Env"].as_array_mut().unwrap();
        variables.push(json!("PYTHONPATH=/var/task"));
    }),
    ("working directory missing", |forge| {
        forge.run["WorkingDir"] = json!("/app");
    }),
    ("missing parents", |forge| {
        forge
            .function
            .raw("opt/data/file.txt", b'0', 0o644, b"x", "");
    }),
    ("name with dots", |forge| {
        forge
            .function
            .raw("var/task/../file.txt", b'0', 0o644, b"x", "");
    }),
    ("absolute name", |forge| {
        forge.function.raw("/file.txt", b'0', 0o644, b"x", "");
    }),
    ("device", |forge| {
        forge.function.raw("null", b'3', 0o666, b"", "");
    }),
    ("duplicate", |forge| {
        forge.function.file("var/task/data.txt", "x");
        forge.function.file("var/task/data.txt", "x");
    }),
    ("unreadable file", |forge| {
        forge.function.mode("var/task/data.txt", 0o600, "x");
    }),
    ("module missing", |forge| forge.app = None),
    ("syntax error", |forge| {
        forge.app = Some("def handler(event, context:\n".into());
    }),
    ("function missing", |forge| {
        forge.app = Some("def other(event, context): ...\n".into());
    }),
    ("built-in module", |forge| {
        forge
            .function
            .file("var/task/time.py", "def handler(event, context): ...\n");
        forge.run["Cmd"] = json!(["time.handler"]);
    }),
    ("broken RECORD", |forge| {
        let info = "var/task/one-1.0.dist-info";
        forge.function.file("var/task/one.py", "a = 1\n");
        forge.function.file(
            &format!("{info}/METADATA"),
            "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n",
        );
        forge.function.file(
            &format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        );
        let record = "one.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n";
        forge.function.file(&format!("{info}/RECORD"), record);
    }),
    ("stale bytecode", |forge| {
        // 3.12's magic number, no flags, a date and a size that are not the source's.
        let header = [
            &[203, 13, 13, 10, 0, 0, 0, 0][..],
            &[1, 0, 0, 0, 2, 0, 0, 0],
        ]
        .concat();
        forge.function.file("var/task/one.py", "a = 1\n");
        forge
            .function
            .file("var/task/__pycache__/one.cpython-312.pyc", header);
    }),
    ("extension not executable", |forge| {
        forge.function.file("opt/extensions/watch", "#!/bin/sh\n");
    }),
    ("eleven extensions", |forge| {
        for number in 0..11 {
            forge
                .function
                .program(&format!("opt/extensions/watch{number}"), "#!/bin/sh\n");
        }
    }),
    ("old system", |forge| {
        let release = "NAME=\"Amazon Linux\"\nID=\"amzn\"\nVERSION_ID=\"2\"\n";
        forge.function.file("etc/os-release", release);
    }),
    ("secrets", |forge| {
        forge
            .function
            .file("var/task/.env", "DATABASE_PASSWORD=hunter2\n");
    }),
];

#[test]
fn one_defect_is_found_by_one_rule() {
    insta::assert_snapshot!(found_in(CASES));
}

/// An image of the family that other tools write, with a hard link in its top layer.
fn linked() -> Forge {
    let mut forge = Forge::sound();
    forge.family = OCI;
    hard_link(&mut forge);
    forge
}

#[test]
fn an_image_is_checked_wherever_it_is() {
    let project = Project::new();
    let registry = Registry::start();
    let forge = linked();
    let directory = project.beside("image");
    forge.write(&directory);
    let layout = format!("oci:{}", directory.display());
    let mut places = vec![layout.clone()];
    for form in ["docker-archive", "oci-archive"] {
        let place = format!("{form}:{}", project.beside(form).display());
        let mut skopeo = Command::new(program("skopeo", "skopeo"));
        let copy = ["--insecure-policy", "copy", "--quiet", &layout];
        run(skopeo.args(copy).arg(format!("{place}:app:1")));
        places.push(place);
    }
    let remote = forge.push(&registry, "app", "1");
    places.push(format!("docker://{remote}"));
    for place in places {
        let found = check(&project, &place);
        assert_eq!(found, ["LMB036".to_owned()].into(), "{place}");
    }
}

#[test]
fn an_image_of_the_store_is_checked() {
    let project = Project::with_handler();
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    project.file(
        "pyproject.toml",
        settings + "env = { DB_PASSWORD = 'hunter2-hunter2' }\n",
    );
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "app:1"];
    project.lambimg(build).succeed();
    assert!(check(&project, "app:1").contains("LMB100"));
    // A directory of the same name is another thing.
    fs::create_dir(project.path().join("app:1")).unwrap();
    let checked = project.lambimg(["check", "app:1"]).run();
    assert!(
        checked
            .stderr
            .contains("note: `app:1` is an image in the store"),
        "{}",
        checked.rendering()
    );
    let outcome = project.lambimg(["check", "./app:1"]).run();
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
}

#[test]
fn sound_images_have_no_findings() {
    let project = Project::new();
    for family in [DOCKER, OCI] {
        let mut forge = Forge::sound();
        forge.family = family;
        let directory = project.beside(family.layer.rsplit('.').nth(3).unwrap());
        forge.write(&directory);
        let outcome = project
            .lambimg(["check", "--strict", &format!("oci:{}", directory.display())])
            .run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn a_project_is_built_and_checked() {
    let project = Project::with_handler();
    project.file("requirements.txt", "");
    let base = Base::aws("3.12").reference();
    for target in [&[][..], &["."], &["../project"]] {
        let check = [&["check", "--base", &base, "--format", "json"], target].concat();
        let outcome = project.lambimg(check).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_eq!(rules_in(&outcome.stdout), BTreeSet::new());
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(report["image"], *target.first().unwrap_or(&"."));
    }
    let sized = project.lambimg(["cache", "size"]).succeed();
    assert!(!sized.contains("project"), "it got no name: {sized}");
}

/// buildah's own store, and an image in its way: AWS's base with what the documentation of AWS adds.
#[test]
fn what_buildah_makes_of_the_documented_dockerfile_is_sound() {
    let project = Project::new();
    let registry = Registry::start();
    let base = Base::aws("3.12").copy_to(&registry);
    project.file("requirements.txt", "");
    project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
    project.file(
        "Dockerfile",
        format!(
            "FROM {base}\n\
             COPY requirements.txt ${{LAMBDA_TASK_ROOT}}\n\
             COPY app.py ${{LAMBDA_TASK_ROOT}}\n\
             CMD [ \"app.handler\" ]\n"
        ),
    );
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new(program("buildah", "buildah"));
        let [root, run_root] = ["containers", "containers-run"].map(|name| project.beside(name));
        command
            .arg("--root")
            .arg(root)
            .arg("--runroot")
            .arg(run_root);
        command.args(["--storage-driver", "vfs"]).args(arguments);
        run(command.current_dir(project.path()))
    };
    let bud = ["bud", "--isolation", "chroot", "--tls-verify=false"];
    let output = format!("oci:{}", project.beside("image").display());
    for format in ["oci", "docker"] {
        buildah(&[&bud[..], &["--format", format, "-t", format, "."]].concat());
        let name = registry.name(&format!("built:{format}"));
        let target = format!("docker://{name}");
        buildah(&["push", "--tls-verify=false", format, &target]);
        assert_eq!(check(&project, &target), BTreeSet::new(), "{format}");
    }
    buildah(&["push", "oci", &output]);
    assert_eq!(check(&project, &output), BTreeSet::new());
}

#[test]
fn what_umoci_changes_is_checked() {
    let project = Project::new();
    let mut forge = Forge::sound();
    forge.family = OCI;
    let directory = project.beside("image");
    forge.write(&directory);
    let umoci = |arguments: &[&str]| {
        let mut command = Command::new(program("umoci", "umoci"));
        run(command.args(arguments).current_dir(project.path()))
    };
    let image = format!("{}:image", directory.display());
    let bundle = project.beside("bundle");
    let bundle = bundle.to_str().unwrap();
    let rootless = if is_root() { &[][..] } else { &["--rootless"] };
    let unpack = ["unpack", "--keep-dirlinks", "--image", &image];
    umoci(&[&unpack[..], rootless, &[bundle]].concat());
    let task = Path::new(bundle).join("rootfs/var/task");
    fs::write(task.join("one.txt"), "x").unwrap();
    fs::hard_link(task.join("one.txt"), task.join("two.txt")).unwrap();
    umoci(&["repack", "--image", &image, bundle]);
    let found = check(&project, &format!("oci:{image}"));
    assert!(found.contains("LMB036"), "{found:?}");
}

/// The base's variable becomes the image's.
#[test]
fn a_build_tells_what_the_cheap_rules_find() {
    let project = Project::with_handler();
    let registry = Registry::start();
    let mut forge = Forge::sound();
    let variables = forge.run["Env"].as_array_mut().unwrap();
    variables.push(json!("NO_VALUE"));
    let base = forge.push(&registry, "lambda/python", "3.12");
    let build = ["build", "--base", &base];
    let outcome = project.lambimg(build).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let told = outcome.stderr.matches("(LMB032)").count();
    assert_eq!(told, 1, "{}", outcome.rendering());
    let ignoring = project
        .lambimg(build)
        .env("LAMBIMG_CHECK_IGNORE", "LMB032")
        .run();
    assert!(!ignoring.stderr.contains("LMB032"));
}

// --- How it is told -----------------------------------------------------------------------------

/// A project with an image of two layers with hard links beside it, one with a name that would steer a terminal.
fn with_links() -> (Project, String) {
    let project = Project::new();
    let mut forge = linked();
    let steering = "var/task/\u{1b}[2J\u{202e}b";
    let mut below = Archive::default();
    below.file("var/task/data.txt", "x");
    below.raw(steering, b'1', 0o644, b"", "var/task/data.txt");
    forge.base.push(below);
    let directory = project.beside("image");
    forge.write(&directory);
    let image = format!("oci:{}", directory.display());
    (project, image)
}

#[test]
fn findings_are_told_with_their_remedies() {
    let (project, image) = with_links();
    let outcome = project.lambimg(["check", &image]).run();
    assert_eq!(outcome.code, Some(REFUSED));
    assert_said!(outcome);
}

#[test]
fn verbose_findings_say_why() {
    let (project, image) = with_links();
    assert_said!(project.lambimg(["check", "-v", &image]).run());
}

#[test]
fn quiet_checks_have_findings_alone() {
    let (project, image) = with_links();
    let quiet = project.lambimg(["check", "-q", &image]).run();
    assert_eq!(quiet.stderr, "");
    assert!(quiet.stdout.contains("LMB036"), "{}", quiet.rendering());
}

#[test]
fn what_could_not_be_looked_at_is_told() {
    let project = Project::new();
    let mut forge = Forge::sound();
    forge.packing = Packing::Zstd;
    forge.app = None;
    let directory = project.beside("image");
    forge.write(&directory);
    let image = format!("oci:{}", directory.display());
    assert_said!(project.lambimg(["check", &image]).run());
    let report = project.lambimg(["check", &image, "--format", "json"]).run();
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["findings"].as_array().unwrap().len(), 1);
    assert_eq!(report["summary"]["unread"], json!([3]));
}

#[test]
fn findings_are_json() {
    let (project, image) = with_links();
    let outcome = project.lambimg(["check", &image, "--format", "json"]).run();
    assert_eq!(outcome.code, Some(REFUSED));
    assert_said!(outcome);
}

#[test]
fn the_page_has_each_key_of_the_json() {
    let (project, image) = with_links();
    let told = project.lambimg(["check", &image, "--format", "json"]).run();
    let mut said = BTreeSet::new();
    keys(&serde_json::from_str(&told.stdout).unwrap(), "", &mut said);
    let rules = project.lambimg(["check", "--list", "--format", "json"]);
    let rules: Value = serde_json::from_str(&rules.succeed()).unwrap();
    keys(&rules, "", &mut said);

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<_> = rows
        .map(|row| row.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(said, listed);
}

/// Every key with those above it, as `findings[].rule`.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{key}");
                found.insert(path.clone());
                keys(value, &path, found);
            }
        }
        Value::Array(list) => {
            let path = format!("{path}[]");
            for value in list {
                keys(value, &path, found);
            }
        }
        _ => {}
    }
}

/// Holds a log against the schema that OASIS gives.
fn assert_is_sarif(log: &str, directory: &Path) {
    let file = directory.join("log.sarif");
    fs::write(&file, log).unwrap();
    // The Python that the tools were installed for.
    let python = python_directories()["3.12"].join("python3.12");
    let script = "import json, sys\n\
                  from jsonschema import Draft4Validator\n\
                  schema, log = (json.load(open(file)) for file in sys.argv[1:])\n\
                  Draft4Validator(schema).validate(log)";
    let mut validate = Command::new(python);
    validate.env("PYTHONPATH", tools().join("moto"));
    validate.args(["-c", script]);
    run(validate.arg(tools().join("sarif-schema.json")).arg(file));
}

#[test]
fn findings_are_sarif() {
    let (project, image) = with_links();
    let check = ["check", &image, "--format", "sarif"];
    let outcome = project.lambimg(check).run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_is_sarif(&outcome.stdout, &project.path());
    let again = project.lambimg(check).run();
    assert_eq!(outcome.stdout, again.stdout, "the same each time");
    let mut log: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &mut log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap().clone();
    let results = run["results"].as_array().unwrap();
    let mut prints = BTreeSet::new();
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        let location = &result["locations"][0];
        let uri = &location["physicalLocation"]["artifactLocation"]["uri"];
        let uri = uri.as_str().unwrap();
        assert!(
            uri.is_ascii() && !uri.contains([' ', ':', '\u{1b}']),
            "{uri}"
        );
        prints.insert(result["partialFingerprints"]["lambimg/v1"].to_string());
    }
    assert_eq!(prints.len(), results.len(), "no two are the same");
    for rule in &rules {
        for key in ["shortDescription", "fullDescription", "help"] {
            assert!(rule[key]["text"].is_string(), "{rule}");
        }
        let level = &rule["defaultConfiguration"]["level"];
        assert!(["error", "warning", "note"].contains(&level.as_str().unwrap()));
    }
    let driver = &mut run["tool"]["driver"];
    driver["rules"] = json!("[rules]");
    for result in run["results"].as_array_mut().unwrap() {
        result["ruleIndex"] = json!("[index]");
    }
    let shown = format!("{log:#}").replace(env!("CARGO_PKG_VERSION"), "[version]");
    outcome
        .settings()
        .bind(|| insta::assert_snapshot!("findings_are_sarif", shown));
}

#[test]
fn rules_are_explained() {
    let project = Project::new();
    assert_said!(project.lambimg(["check", "--explain", "lmb036"]).run());
}

#[test]
fn unknown_rules_are_refused() {
    let project = Project::new();
    assert_said!(project.lambimg(["check", "--explain", "LMB0036"]).run());
}

#[test]
fn unknown_rules_are_refused_with_their_line() {
    let (project, image) = with_links();
    project.file(
        "lambimg.toml",
        "python = \"3.12\"\n[check]\nignore = [\n  \"LMB036\",\n  \"LNB001\",\n]\n",
    );
    assert_said!(project.lambimg(["check", &image]).run());
}

#[test]
fn a_build_refuses_unknown_rules_too() {
    let project = Project::with_handler();
    let build = project
        .lambimg(["build"])
        .env("LAMBIMG_CHECK_IGNORE", "all");
    assert_said!(build.run());
}

#[test]
fn rules_are_ignored_by_whoever_says_so() {
    let (project, image) = with_links();
    let ignored = |arguments: &[&str], variable: &str| {
        let check = [&["check", &image], arguments].concat();
        let outcome = project.lambimg(check).env("LAMBIMG_CHECK_IGNORE", variable);
        let outcome = outcome.run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_eq!(outcome.stdout, "");
        outcome.stderr
    };
    ignored(&["--ignore", "LMB036"], "");
    ignored(&["--ignore", "LMB001, lmb036"], "");
    ignored(&[], "LMB001,LMB036");
    project.file(
        "lambimg.toml",
        "[check]\nignore = [\"LMB036\"]\nstrict = true\n",
    );
    let said = ignored(&["--ignore", "LMB001"], "");
    assert!(
        said.contains("no findings and 2 ignored in 4 layers"),
        "{said}"
    );
}

#[test]
fn neither_image_nor_project_is_told_as_both() {
    let project = Project::with_handler();
    assert_said!(project.lambimg(["check", "ordres"]).run());
}

#[test]
fn no_project_is_told() {
    let project = Project::new();
    assert_said!(project.lambimg(["check", "./absent"]).run());
}

#[test]
fn flags_of_a_build_are_refused_for_an_image() {
    let (project, image) = with_links();
    assert_said!(project.lambimg(["check", &image, "--python", "3.12"]).run());
}

#[test]
fn rules_are_no_findings() {
    let project = Project::new();
    assert_said!(
        project
            .lambimg(["check", "--list", "--format", "sarif"])
            .run()
    );
}

/// `UPDATE_DOCS=1` writes the page anew.
#[test]
fn the_page_of_rules_is_what_the_code_says() {
    let project = Project::new();
    let list = ["check", "--list", "--format", "markdown"];
    let made = project.lambimg(list).succeed();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(page, made, "UPDATE_DOCS=1 writes docs/rules.md anew");
    let table = project.lambimg(["check", "--list"]).succeed();
    assert_eq!(table.lines().count() - 1, made.matches("\n## LMB").count());
}
