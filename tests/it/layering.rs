//! Which wheels share a layer, as an image shows it: one changed wheel changes one layer, whoever wrote the
//! lock, and of two wheels with one path the later in the lock has it wherever it lies in the stack.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::wheel::Wheel;

/// More than a wheel needs for a layer of its own.
const LARGE: usize = 5 << 20;

fn large(name: &str, version: &str) -> Wheel {
    let content = format!("{name} {version}").repeat(LARGE / 8);
    Wheel::pure(name, version).member(&format!("{name}/data.bin"), content)
}

/// A project with such a lock.
fn project(index: &Index, wheels: &[&Wheel]) -> Project {
    let project = Project::with_handler();
    for wheel in wheels {
        index.serve(wheel);
    }
    project.file("pylock.toml", index.lock(wheels, true));
    project
}

fn build<'project>(project: &'project Project, index: &Index, flags: &[&str]) -> Run<'project> {
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "some:1"];
    let more = ["--metadata-file", "../made.json"];
    let run = project.lambimg(build.iter().chain(&more).chain(flags));
    run.index(&index.url())
}

/// Builds into a directory and gives the image with what was said.
fn image(project: &Project, index: &Index, flags: &[&str]) -> (Image, Outcome) {
    let directory = project.beside("image");
    let _ = fs::remove_dir_all(&directory);
    let output = format!("oci:{}", directory.display());
    let outcome = build(project, index, &[&["-o", &*output], flags].concat()).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let image = Image::in_directory(&directory);
    image.assert_accepted_by_lambda();
    assert_whole(&project.cache());
    (image, outcome)
}

/// What the layers of the last build are called, lowest first, those of the base left out.
fn made(project: &Project) -> Vec<String> {
    let made = fs::read(project.beside("made.json")).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let layers = made["layers"].as_array().unwrap().iter();
    let made = layers.filter(|layer| layer["from"] == "build");
    made.map(|layer| layer["what"].as_str().unwrap().to_owned())
        .collect()
}

fn digests(image: &Image) -> BTreeSet<String> {
    let layers = image.manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].to_string()).collect()
}

#[test]
fn one_changed_wheel_changes_one_layer() {
    let index = Index::start();
    let (big, huge) = (large("big", "1.0"), large("huge", "1.0"));
    let (one, two) = (Wheel::pure("one", "1.0"), Wheel::pure("two", "1.0"));
    let project = project(&index, &[&two, &huge, &one, &big]);
    let (before, _) = image(&project, &index, &[]);
    assert_eq!(
        made(&project),
        [
            "dependencies: big 1.0",
            "dependencies: huge 1.0",
            "dependencies: two 1.0, one 1.0",
            "function"
        ]
    );
    let (next_big, next_one) = (large("big", "1.1"), Wheel::pure("one", "1.1"));
    for wheel in [&next_big, &next_one] {
        index.serve(wheel);
    }
    for wheels in [
        [&two, &huge, &one, &next_big],
        [&two, &huge, &next_one, &big],
    ] {
        project.file("pylock.toml", index.lock(&wheels, true));
        let (after, _) = image(&project, &index, &[]);
        let (before, after) = (digests(&before), digests(&after));
        assert_eq!(before.difference(&after).count(), 1, "{before:?} {after:?}");
        assert_eq!(after.difference(&before).count(), 1, "{before:?} {after:?}");
    }
}

#[test]
fn the_later_in_the_lock_wins_wherever_it_lies() {
    let index = Index::start();
    let shared = |wheel: Wheel| {
        let text = format!("NAME = '{}'\n", wheel.name());
        wheel.member("shared.py", text).member("same.py", "")
    };
    let big = shared(large("big", "1.0"));
    let small = shared(Wheel::pure("small", "1.0"));
    // A large wheel lies below the small ones.
    for wheels in [[&big, &small], [&small, &big]] {
        let winner = wheels[1].name();
        let project = project(&index, &wheels);
        let (first, outcome) = image(&project, &index, &[]);
        let task = first.files_below("var/task");
        assert_eq!(
            task["shared.py"].content,
            format!("NAME = '{winner}'\n").as_bytes()
        );
        assert!(task.contains_key("same.py"));
        let told = outcome.stderr.lines();
        let warnings = told.filter(|line| line.starts_with("warning: "));
        assert_eq!(
            warnings.collect::<Vec<_>>(),
            [format!(
                "warning: /var/task/shared.py is in {} 1.0 and in {winner} 1.0 with other contents; \
                 the later in the lock has it",
                wheels[0].name()
            )]
        );
        for flags in [&["--offline"][..], &["--no-cache"], &["--recompress"]] {
            let (again, _) = image(&project, &index, flags);
            let task = again.files_below("var/task");
            assert_eq!(
                task["shared.py"].content,
                format!("NAME = '{winner}'\n").as_bytes(),
                "{flags:?}"
            );
            assert_eq!(first.config["rootfs"], again.config["rootfs"]);
        }
    }
}

#[test]
fn a_file_and_a_directory_in_two_layers() {
    let index = Index::start();
    let big = large("big", "1.0").member("shared", "a file\n");
    let small = Wheel::pure("small", "1.0").member("shared/module.py", "");
    let project = project(&index, &[&big, &small]);
    let outcome = build(&project, &index, &[]).run();
    assert_eq!(outcome.code, Some(3), "{}", outcome.rendering());
    assert!(
        outcome.stderr.contains(
            "/var/task/shared is a directory for one of big 1.0 and small 1.0, and a file for the other"
        ),
        "{}",
        outcome.rendering()
    );
}

#[test]
fn locks_without_sizes_give_the_same_layers() {
    let index = Index::start();
    let wheels = [
        large("big", "1.0"),
        Wheel::pure("one", "1.0"),
        Wheel::pure("two", "1.0"),
    ];
    let wheels = wheels.each_ref();
    let project = project(&index, &wheels);
    let first = build(&project, &index, &[]).succeed();
    let layers = made(&project);
    assert_eq!(layers.len(), 3, "{layers:?}");

    project.file("pylock.toml", index.lock(&wheels, false));
    fs::remove_dir_all(project.cache()).unwrap();
    assert_eq!(build(&project, &index, &[]).succeed(), first);

    fs::remove_file(project.path().join("pylock.toml")).unwrap();
    let line = |wheel: &Wheel| {
        let sha256 = digest(&wheel.bytes()).replace("sha256:", "");
        format!("{}==1.0 --hash=sha256:{sha256}\n", wheel.name())
    };
    project.file("requirements.txt", wheels.map(line).concat());
    fs::remove_dir_all(project.cache()).unwrap();
    assert_eq!(build(&project, &index, &[]).succeed(), first);
    assert_eq!(made(&project), layers);
}

#[test]
fn what_is_made_needs_no_wheel() {
    let index = Index::start();
    let one = Wheel::pure("one", "1.0").member("one/stub.pyi", "");
    let wheels = [&large("big", "1.0"), &one];
    let project = project(&index, &wheels);
    for with_sizes in [true, false] {
        project.file("pylock.toml", index.lock(&wheels, with_sizes));
        let flags = ["--exclude-in-packages", "*.pyi"];
        let first = build(&project, &index, &flags).succeed();
        let before = fs::read(project.beside("made.json")).unwrap();
        for wheel in wheels {
            let name = digest(&wheel.bytes()).replace(':', "/");
            fs::remove_file(project.cache().join("blobs").join(name)).unwrap();
        }
        let flags = ["--exclude-in-packages", "*.pyi", "--offline"];
        assert_eq!(build(&project, &index, &flags).succeed(), first);
        let made = fs::read(project.beside("made.json")).unwrap();
        assert!(made == before && String::from_utf8(made).unwrap().contains("stub.pyi"));
        // One changed wheel needs the others' directories, but their layers stay.
        fs::remove_dir_all(project.cache()).unwrap();
    }
}

#[test]
fn own_packages_are_apart_and_the_budget_is_kept() {
    let index = Index::start();
    let (big, huge) = (large("big", "1.0"), large("huge", "1.0"));
    let (own, small) = (Wheel::pure("own", "1.0"), Wheel::pure("small", "1.0"));
    let project = project(&index, &[&big, &huge, &small]);
    project.file("wheels/own-1.0-py3-none-any.whl", own.bytes());
    let sha256 = digest(&own.bytes()).replace("sha256:", "");
    let lock = index.lock(&[&big, &huge, &small], true);
    let of_own = format!(
        "\n[[packages]]\nname = \"own\"\nversion = \"1.0\"\narchive = {{ path = \
         \"wheels/own-1.0-py3-none-any.whl\", hashes = {{ sha256 = \"{sha256}\" }} }}\n"
    );
    project.file("pylock.toml", lock + &of_own);
    let layers = |flags: &[&str]| {
        build(&project, &index, flags).succeed();
        made(&project)
    };
    let mut all = vec![
        "dependencies: big 1.0",
        "dependencies: huge 1.0",
        "dependencies: small 1.0",
        "own packages: own 1.0",
        "function",
    ];
    assert_eq!(layers(&[]), all);
    let planned = build(&project, &index, &["--dry-run"]).succeed();
    let planned = planned
        .lines()
        .filter_map(|line| line.strip_prefix("layer        "));
    let planned: Vec<_> = planned
        .map(|line| line.rsplitn(3, ' ').last().unwrap())
        .collect();
    // The size of what lies in the project is not in the lock.
    assert_eq!(planned[..3], all[..3]);
    assert_eq!(planned.len(), 4);

    all.splice(1..3, ["dependencies: huge 1.0, small 1.0"]);
    assert_eq!(layers(&["--layers", "3"]), all);
    all.splice(0..2, ["dependencies: big 1.0, huge 1.0, small 1.0"]);
    assert_eq!(layers(&["--layers", "2"]), all);
    all.splice(
        0..2,
        ["dependencies: big 1.0, huge 1.0, small 1.0, own 1.0"],
    );
    assert_eq!(layers(&["--layers", "1"]), all);
    project.file(
        "pyproject.toml",
        "[tool.lambimg]\npython = \"3.12\"\nhandler = \"app.handler\"\nlayers = 1\n",
    );
    assert_eq!(layers(&[]), all);
    assert_said!(build(&project, &index, &["--layers", "61"]).run());
}

#[test]
fn a_plan_without_a_lock_says_so() {
    let index = Index::start();
    let project = Project::with_handler();
    project.file("requirements.txt", "one\n");
    let outcome = build(&project, &index, &["--dry-run"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(index.requests(), Vec::<String>::new());
    assert!(
        outcome
            .stdout
            .contains("layers       known when it is built: `"),
        "{}",
        outcome.rendering()
    );
}
