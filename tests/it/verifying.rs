//! `verify`: an image is built again in a fresh cache and compared, or two images are, down to the byte.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;

use crate::support::archive::Tree;
use crate::support::base::of_tree;
use crate::support::bent::said;
use crate::support::image::Image;
use crate::support::image::files_of;
use crate::support::index::Index;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::registry::Registry;
use crate::support::wheel::Wheel;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;

/// A project with one locked package and its image `app:1`, on a small base of a registry of its own.
struct Built {
    project: Project,
    registry: Registry,
    index: Index,
    base: String,
}

impl Built {
    fn new() -> Built {
        let project = Project::with_handler();
        project.file("requirements.txt", "one\n");
        project.file("data/table.txt", "1 2 3\n");
        let registry = Registry::start();
        let base = of_tree(&registry, &base_tree("first"));
        let built = Built {
            project,
            registry,
            index: Index::start(),
            base,
        };
        built.index.serve(&Wheel::pure("one", "1.0"));
        built.build(&["-t", "app:1"]);
        built
    }

    /// Builds, and holds what comes of it against Lambda's rules.
    fn build(&self, arguments: &[&str]) -> String {
        let layout = self.project.beside("layout");
        let _ = fs::remove_dir_all(&layout);
        let output = format!("oci:{}", layout.display());
        let build = ["build", "--base", &self.base, "-o", &output];
        let run = self.project.lambimg([&build[..], arguments].concat());
        let printed = run.index(&self.index.url()).succeed();
        Image::in_directory(&layout).assert_accepted_by_lambda();
        printed
    }

    fn verify(&self, arguments: &[&str]) -> Outcome {
        self.verify_at(arguments, None)
    }

    fn verify_at(&self, arguments: &[&str], epoch: Option<&str>) -> Outcome {
        let temporary = self.project.beside("temporary");
        fs::create_dir_all(&temporary).unwrap();
        let verify = ["verify", "--progress", "none"];
        let run = self.project.lambimg([&verify[..], arguments].concat());
        let run = run.index(&self.index.url()).env("TMPDIR", &temporary);
        let run = match epoch {
            Some(epoch) => run.env("SOURCE_DATE_EPOCH", epoch),
            None => run,
        };
        let outcome = run.run();
        let left = files_of(&temporary);
        assert!(left.is_empty(), "{left:?}");
        outcome
    }

    fn against_project(&self) -> Outcome {
        self.verify(&["app:1", "--base", &self.base])
    }

    fn blob(&self, digest: &str) -> std::path::PathBuf {
        let path = digest.replace(':', "/");
        self.project.cache().join("blobs").join(path)
    }
}

fn base_tree(text: &str) -> Tree {
    let mut tree = Tree::default();
    tree.file("etc/base", text, 0o644)
        .directory("var/task", 0o755);
    tree
}

#[test]
fn an_image_is_proven_out_of_nothing_but_sources_and_locks() {
    let built = Built::new();
    let printed = built.build(&["-t", "app:1"]);
    let before = files_of(&built.project.cache());
    let asked = built.index.requests().len();
    let outcome = built.against_project();
    assert_eq!((outcome.code, &outcome.stdout), (Some(0), &printed));
    assert_eq!(files_of(&built.project.cache()), before);
    assert!(
        built.index.requests().len() > asked,
        "the wheel is fetched anew"
    );
    let report = built.verify(&["app:1", "--base", &built.base, "--format", "json"]);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["same"], true);
    assert_eq!(report["differences"], Value::Array(Vec::new()));
    assert!(printed.contains(report["first"].as_str().unwrap()));
}

#[test]
fn an_image_of_a_registry_or_an_archive_is_proven() {
    let built = Built::new();
    let name = built.registry.name("functions/app:1");
    let pushed = built.project.lambimg(["push", "app:1", &name]).succeed();
    Image::in_registry(&built.registry, &name).assert_accepted_by_lambda();
    let remote = format!("docker://{name}");
    let outcome = built.verify(&[&remote, "--base", &built.base]);
    assert_eq!(
        (outcome.code, &outcome.stdout),
        (Some(0), &pushed),
        "{}",
        outcome.stderr
    );
    // In a layout the same image has other media types.
    let layout = format!("oci:{}", built.project.beside("layout").display());
    let verify = ["verify", &layout, "--base", &built.base];
    let run = built.project.lambimg(verify).index(&built.index.url());
    let outcome = run.run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(
        outcome
            .stderr
            .contains("the same image in other media types"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_changed_handler_is_shown_to_the_byte() {
    let built = Built::new();
    built
        .project
        .file("app.py", "def handler(event, context):\n    return 'no'\n");
    let outcome = built.against_project();
    assert_eq!(outcome.code, Some(REFUSED));
    assert_said!(outcome);
}

#[test]
fn files_of_one_side_and_modes_are_shown() {
    let built = Built::new();
    built.project.file("new.txt", "");
    fs::remove_file(built.project.path().join("data/table.txt")).unwrap();
    fs::set_permissions(
        built.project.path().join("app.py"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let outcome = built.against_project();
    assert_eq!(outcome.code, Some(REFUSED));
    assert_said!(outcome);
}

#[test]
fn another_wheel_is_named() {
    let built = Built::new();
    built.index.serve(&Wheel::pure("one", "1.1"));
    let lock = ["lock", "--upgrade", "--base", &built.base];
    built
        .project
        .lambimg(lock)
        .index(&built.index.url())
        .succeed();
    let outcome = built.against_project();
    assert_eq!(outcome.code, Some(REFUSED));
    assert!(
        outcome.stdout.contains("another lock: one 1.0, not 1.1"),
        "{}",
        outcome.stdout
    );
    assert_said!(outcome);
}

#[test]
fn another_base_is_named() {
    let built = Built::new();
    of_tree(&built.registry, &base_tree("second"));
    // The lock holds the base that the image was built on.
    assert_eq!(built.against_project().code, Some(0));
    built
        .project
        .lambimg(["lock", "--upgrade-base", "--base", &built.base])
        .succeed();
    let outcome = built.against_project();
    assert_eq!(outcome.code, Some(REFUSED));
    assert!(
        outcome.stdout.contains("another base"),
        "{}",
        outcome.stdout
    );
    assert_said!(outcome);
}

#[test]
fn another_epoch_is_named() {
    let built = Built::new();
    let outcome = built.verify_at(&["app:1", "--base", &built.base], Some("1700000000"));
    assert_eq!(outcome.code, Some(REFUSED));
    assert_said!(outcome);
}

#[test]
fn other_settings_and_another_compression_are_named() {
    let built = Built::new();
    built
        .project
        .file("other.py", "def handler(event, context):\n    return 1\n");
    built.project.file("noise.txt", "noise ".repeat(20_000));
    built.build(&["-t", "app:1"]);
    let outcome = built.verify(&["app:1", "--base", &built.base, "--handler", "other.handler"]);
    assert_eq!(outcome.code, Some(REFUSED));
    assert!(
        outcome.stdout.contains("other settings"),
        "{}",
        outcome.stdout
    );
    // A wheel's large member is spliced, or not.
    let text: String = (0..40_000).map(|number| number.to_string()).collect();
    let size = u32::try_from(text.len()).unwrap();
    let large = Wheel::pure("one", "2.0").deflated("one/large.txt", text.into_bytes(), size);
    built.index.serve(&large);
    let lock = ["lock", "--upgrade", "--base", &built.base];
    built
        .project
        .lambimg(lock)
        .index(&built.index.url())
        .succeed();
    built.build(&["-t", "app:1", "--recompress"]);
    let outcome = built.against_project();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn a_lock_is_not_made_for_a_proof() {
    let built = Built::new();
    fs::remove_file(built.project.path().join("pylock.toml")).unwrap();
    let outcome = built.against_project();
    assert_eq!(outcome.code, Some(REFUSED));
    assert!(!built.project.path().join("pylock.toml").exists());
    assert_said!(outcome);
}

#[test]
fn damage_is_told_as_damage() {
    let built = Built::new();
    let layer = Image::in_directory(&built.project.beside("layout")).manifest["layers"]
        .as_array()
        .and_then(|layers| layers.last()?["digest"].as_str().map(str::to_owned))
        .unwrap();
    built
        .project
        .file("app.py", "def handler(event, context):\n    return 'no'\n");
    let path = built.blob(&layer);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let outcome = built.against_project();
    assert_eq!(outcome.code, Some(REFUSED));
    assert!(outcome.stderr.contains("damaged"), "{}", outcome.stderr);
    assert_said!(outcome);
}

#[test]
fn a_registry_that_gives_other_bytes_is_not_believed() {
    let built = Built::new();
    let bent = crate::support::bent::Registry::bent(|asked, _| {
        let is_layer = asked.method == "GET" && asked.target.contains("/blobs/");
        is_layer.then(|| said(500, "UNKNOWN", "not today"))
    });
    let name = bent.name("1");
    built.project.lambimg(["push", "app:1", &name]).succeed();
    let outcome = built.verify(&[&format!("docker://{name}"), "--against", "app:1"]);
    assert_eq!(outcome.code, Some(4), "{}", outcome.rendering());
}

#[test]
fn two_images_are_compared_wherever_they_are() {
    let built = Built::new();
    let name = built.registry.name("functions/app:1");
    built.project.lambimg(["push", "app:1", &name]).succeed();
    built
        .project
        .file("app.py", "def handler(event, context):\n    return 'no'\n");
    built.build(&["-t", "app:2"]);
    let other = built.registry.name("functions/app:2");
    built.project.lambimg(["push", "app:2", &other]).succeed();
    fs::remove_dir_all(built.project.cache()).unwrap();
    let (first, second) = (format!("docker://{name}"), format!("docker://{other}"));
    let before = built.registry.log();
    let outcome = built.verify(&[&first, "--against", &second]);
    assert_eq!(outcome.code, Some(REFUSED));
    let log = built.registry.log();
    let base = built.registry.manifest("functions/app", "1").unwrap();
    let base: Value = serde_json::from_slice(&base).unwrap();
    let base = base["layers"][0]["digest"].as_str().unwrap();
    assert!(
        !log[before.len()..].contains(&format!("blobs/{base}")),
        "equal layers stay there"
    );
    assert_said!(outcome);
    let same = built.verify(&[&first, "--against", &first]);
    assert_eq!(same.code, Some(0));
}

#[test]
fn nothing_that_decides_a_build_goes_with_two_images() {
    let built = Built::new();
    let outcome = built.verify(&["app:1", "--against", "app:1", "--python", "3.12"]);
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

/// Images of umoci's, with layers of GNU tar's: another order, other owners, no word of a base.
#[test]
fn foreign_images_are_compared_as_well() {
    let project = Project::with_handler();
    let tree = project.beside("tree");
    fs::create_dir_all(tree.join("opt/below")).unwrap();
    for (image, text, sort) in [("one", "some text", "name"), ("two", "some test", "none")] {
        fs::write(tree.join("opt/below/file.txt"), text).unwrap();
        fs::write(tree.join("opt/same.txt"), "same").unwrap();
        let (layer, layout) = (project.beside("layer.tar"), project.beside(image));
        let mut tar = Command::new(program("tar", "tar"));
        tar.args([
            "--create",
            "--mtime=@1000000000",
            &format!("--sort={sort}"),
            "--file",
        ]);
        run(tar.arg(&layer).arg("--directory").arg(&tree).arg("./opt"));
        let (layer, at) = (layer.display().to_string(), layout.display().to_string());
        let tagged = format!("{at}:1");
        for arguments in [
            &["init", "--layout", &at][..],
            &["new", "--image", &tagged],
            &["raw", "add-layer", "--image", &tagged, &layer],
        ] {
            run(Command::new(program("umoci", "umoci")).args(arguments));
        }
    }
    let place = |name: &str| format!("oci:{}:1", project.beside(name).display());
    let verify = [
        "verify",
        &place("one"),
        "--against",
        &place("two"),
        "--format",
        "json",
    ];
    let outcome = project.lambimg(verify).run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let differences = report["differences"].as_array().unwrap();
    let mut files = differences.iter().filter(|found| found["path"].is_string());
    let file = files.next().unwrap();
    assert_eq!(file["path"], "opt/below/file.txt");
    assert_eq!(
        (&file["kind"], &file["offset"]),
        (&"contents".into(), &7.into())
    );
    assert!(files.next().is_none(), "{report:#}");
}
