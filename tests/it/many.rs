//! Many functions of one project in one run: what they share is made once and goes to a registry once.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::registry::Registry;
use crate::support::wheel::Wheel;

/// More than a wheel needs for a layer of its own.
const LARGE: usize = 1 << 20;
const FUNCTIONS: [&str; 4] = ["a", "b", "c", "d"];

struct Many {
    project: Project,
    index: Index,
}

impl Many {
    fn new() -> Many {
        let many = Many {
            project: Project::new(),
            index: Index::start(),
        };
        let content = "big".repeat(LARGE);
        let wheels = [
            Wheel::pure("big", "1.0").member("big/data.bin", content),
            Wheel::pure("small", "1.0"),
        ];
        let wheels: Vec<_> = wheels.iter().collect();
        for wheel in &wheels {
            many.index.serve(wheel);
        }
        many.project
            .file("pylock.toml", many.index.lock(&wheels, true));
        let base = Base::aws("3.12").reference();
        let mut settings =
            format!("python = \"3.12\"\nbase = \"{base}\"\nhandler = \"app.handler\"\n");
        for name in FUNCTIONS {
            let text = format!("def handler(event, context):\n    return '{name}'\n");
            many.project.file(&format!("{name}/app.py"), text);
            writeln!(settings, "\n[functions.{name}]\nsource = \"{name}\"").unwrap();
        }
        many.project.file("lambimg.toml", settings);
        many
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let file = ["--metadata-file", "../made.json"];
        let arguments = ["build"].iter().chain(&file).chain(arguments);
        let run = self.project.lambimg(arguments);
        run.index(&self.index.url()).run()
    }

    fn build(&self, arguments: &[&str]) -> Value {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        self.made()
    }

    /// What the last build told, of which nothing in the store is half done.
    fn made(&self) -> Value {
        assert_whole(&self.project.cache());
        serde_json::from_slice(&fs::read(self.project.beside("made.json")).unwrap()).unwrap()
    }

    fn forget(&self) {
        let _ = fs::remove_dir_all(self.project.cache());
    }
}

/// What moved of each function, in bytes.
fn moved(made: &Value, name: &str) -> [u64; 3] {
    let pushed = &made["functions"][name]["pushed"][0];
    ["uploaded", "mounted", "skipped"].map(|word| pushed[word].as_u64().unwrap())
}

#[test]
fn what_functions_share_is_made_and_sent_once() {
    let (many, registry) = (Many::new(), Registry::start());
    let tag = registry.name("shop-{function}:1");
    let push = ["-t", &tag, "--push"];
    let outcome = many.run(&push);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    // Names of their own make it no other work.
    let worked = outcome.stderr.matches("dependencies from");
    assert_eq!(worked.count(), 1, "{}", outcome.stderr);
    let made = many.made();
    let fetched = many.index.requests();
    let big = fetched.iter().filter(|asked| asked.contains("big-1.0"));
    assert_eq!(big.count(), 1, "{fetched:?}");
    let moved = FUNCTIONS.map(|name| moved(&made, name));
    let sent_large = moved.iter().filter(|[uploaded, ..]| *uploaded > 10_000);
    assert_eq!(sent_large.count(), 1, "{moved:?}");
    let took = moved.iter().filter(|[_, mounted, _]| *mounted > 0);
    assert_eq!(took.count(), FUNCTIONS.len() - 1, "{moved:?}");
    for name in FUNCTIONS {
        let reference = registry.name(&format!("shop-{name}:1"));
        Image::in_registry(&registry, &reference).assert_accepted_by_lambda();
    }
    // As each alone on another machine, and again.
    for name in FUNCTIONS {
        many.forget();
        let alone = many.build(&["--function", name, "-t", "alone:1"]);
        assert_eq!(alone["digest"], made["functions"][name]["digest"]);
    }
    let again = many.build(&push);
    for name in FUNCTIONS {
        let digest = &made["functions"][name]["digest"];
        assert_eq!(&again["functions"][name]["digest"], digest);
    }
}

/// Tags of one repository: the shared blobs are sent for one and there for the others.
#[test]
fn functions_of_one_repository_send_a_blob_once() {
    let (many, registry) = (Many::new(), Registry::start());
    let tag = registry.name("shop:{function}");
    let made = many.build(&["-t", &tag, "--push"]);
    let moved = FUNCTIONS.map(|name| moved(&made, name));
    let sent_large = moved.iter().filter(|[uploaded, ..]| *uploaded > 10_000);
    assert_eq!(sent_large.count(), 1, "{moved:?}");
    assert!(moved.iter().all(|[_, mounted, _]| *mounted == 0));
    assert_eq!(registry.tags("shop"), FUNCTIONS);
}

#[test]
fn where_one_cannot_be_made_none_is_named_or_pushed() {
    let (many, registry) = (Many::new(), Registry::start());
    fs::remove_file(many.project.path().join("c/app.py")).unwrap();
    let tag = registry.name("shop-{function}:1");
    let outcome = many.run(&["-t", &tag, "--push"]);
    assert_ne!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    for name in FUNCTIONS {
        assert_eq!(registry.tags(&format!("shop-{name}")), [""; 0]);
    }
    let index = fs::read_to_string(many.project.cache().join("index.json"));
    assert!(!index.unwrap_or_default().contains("shop-"));
    let errors = outcome.stderr.lines();
    let errors = errors.filter(|line| line.starts_with("error"));
    assert_eq!(errors.count(), 1, "{}", outcome.stderr);
}

/// A backend that writes down, beside the project, that it was asked.
const BACKEND: &str = r#"
import os, zipfile

def build_wheel(out, config_settings=None, metadata_directory=None):
    with open("LOG", "a") as log:
        log.write("built\n")
    with zipfile.ZipFile(os.path.join(out, "shop-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.write("src/shop.py", "shop.py")
        wheel.writestr("shop-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
        wheel.writestr("shop-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("shop-1.0.dist-info/RECORD", "")
    return "shop-1.0-py3-none-any.whl"
"#;

#[test]
fn the_projects_wheel_is_built_once_for_all() {
    let project = Project::new();
    let log = project.beside("log");
    project.file(
        "backend.py",
        BACKEND.replace("LOG", &log.display().to_string()),
    );
    project.file(
        "src/shop.py",
        "def handler(event, context):\n    return 'ok'\n",
    );
    let base = Base::aws("3.12").reference();
    let mut settings = format!(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n\
         [tool.lambimg]\npython = '3.12'\nbase = '{base}'\nhandler = 'shop.handler'\n"
    );
    for name in FUNCTIONS {
        writeln!(settings, "[tool.lambimg.functions.{name}]").unwrap();
    }
    project.file("pyproject.toml", settings);
    let outcome = project.lambimg(["build", "-o", "oci:../{function}"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(fs::read_to_string(&log).unwrap(), "built\n");
    let warned = outcome.stderr.matches("not in its RECORD");
    assert_eq!(warned.count(), 1, "{}", outcome.stderr);
    for name in FUNCTIONS {
        Image::in_directory(&project.beside(name)).assert_accepted_by_lambda();
    }
}

#[test]
fn where_one_cannot_be_written_none_is_named() {
    let many = Many::new();
    let made = many.build(&[]);
    let layer = &made["functions"]["c"]["layers"][0]["digest"];
    let blob = format!("out/c/blobs/{}", layer.as_str().unwrap().replace(':', "/"));
    // A blob cannot take the place of a directory with something in it.
    let version = "{\"imageLayoutVersion\":\"1.0.0\"}";
    many.project.file("out/c/oci-layout", version);
    many.project.file(&format!("{blob}/in-the-way"), "");
    let outcome = many.run(&["-t", "shop-{function}:1", "-o", "oci:out/{function}"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.rendering());
    let index = fs::read_to_string(many.project.cache().join("index.json"));
    assert!(!index.unwrap().contains("shop-"));
    let errors = outcome.stderr.lines();
    let errors: Vec<_> = errors.filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{}", outcome.stderr);
    assert!(
        errors[0].starts_with("error: function `c`: cannot write"),
        "{}",
        outcome.stderr
    );
}
