//! What can go wrong, one test each: the message and its remedy as a snapshot, nothing on stdout, and a
//! store without anything half written.

use std::fs;
use std::fs::File;
use std::process::Command;

use serde_json::json;

use crate::support::architecture;
use crate::support::archive::Tree;
use crate::support::base::Base;
use crate::support::digest;
use crate::support::emulator::free_address;
use crate::support::image::assert_whole;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::registry::PASSWORD;
use crate::support::registry::Registry;
use crate::support::registry::USER;
use crate::support::wheel::Wheel;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;
const NETWORK: i32 = 4;

/// Runs lambimg to its failure, and holds what every failure has in common.
fn fail(project: &Project, arguments: &[&str]) -> Outcome {
    expect_failure(project, project.lambimg(arguments).run())
}

/// The same with a package index of our own.
fn fail_with(index: &Index, project: &Project, arguments: &[&str]) -> Outcome {
    expect_failure(
        project,
        project.lambimg(arguments).index(&index.url()).run(),
    )
}

fn expect_failure(project: &Project, outcome: Outcome) -> Outcome {
    let told = outcome.rendering();
    assert!(![Some(0), Some(70), None].contains(&outcome.code), "{told}");
    assert_eq!(outcome.stdout, "", "{told}");
    assert!(outcome.stderr.contains("error: "), "{told}");
    assert!(outcome.stderr.contains("\n\nhint: "), "{told}");
    assert_whole(&project.cache());
    outcome
}

#[test]
fn no_such_project() {
    let project = Project::new();
    let outcome = fail(&project, &["build", "absent", "--base", "host"]);
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn unknown_configuration_key() {
    let project = Project::with_handler();
    project.file(
        "pyproject.toml",
        "[tool.lambimg]\npython = \"3.12\"\nhandlr = \"app.handler\"\n",
    );
    let outcome = fail(&project, &["build", "--base", "host"]);
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn handler_without_a_dot() {
    let project = Project::with_handler();
    let outcome = fail(
        &project,
        &["build", "--base", "host", "--handler", "handler"],
    );
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn handler_file_absent() {
    let project = Project::with_handler();
    let outcome = fail(
        &project,
        &[
            "build",
            "--base",
            &Base::aws("3.12").reference(),
            "--handler",
            "ap.handler",
        ],
    );
    assert_said!(outcome);
}

#[test]
fn unknown_python() {
    let project = Project::with_handler();
    let outcome = fail(&project, &["build", "--base", "host", "--python", "3.7"]);
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn base_not_found() {
    let project = Project::with_handler();
    let registry = Registry::start();
    let outcome = fail(
        &project,
        &["build", "--base", &registry.name("lambda/python:3.12")],
    );
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

#[test]
fn base_archive_with_another_layer() {
    let project = Project::with_handler();
    let mut tree = Tree::default();
    tree.file("etc/os-release", "ID=amzn\n", 0o644);
    let layer = tree.layer();
    let config = json!({"architecture": architecture(), "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(b"another layer")]}});
    let listing = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["layer.tar"]}]);
    let file = File::create(project.beside("base.tar")).unwrap();
    let mut archive = tar::Builder::new(file);
    for (name, content) in [
        ("manifest.json", listing.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer.content),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        let written = archive.append_data(&mut header, name, content.as_slice());
        written.unwrap();
    }
    archive.into_inner().unwrap();
    let base = format!("docker-archive:{}", project.beside("base.tar").display());
    assert_said!(fail(&project, &["build", "--base", &base]));
}

#[test]
fn output_into_a_foreign_directory() {
    let project = Project::with_handler();
    let directory = project.beside("taken");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("precious"), "kept").unwrap();
    let base = Base::aws("3.12").reference();
    let output = format!("oci:{}:orders", directory.display());
    let outcome = fail(
        &project,
        &[
            "build", "-q", "--base", &base, "-t", "orders", "-o", &output,
        ],
    );
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    assert_eq!(fs::read(directory.join("precious")).unwrap(), b"kept");
    assert_said!(outcome);
}

#[test]
fn base_name_does_not_resolve() {
    let project = Project::with_handler();
    // The name is kept free for ever; a proxy that resolves it for us would say something else.
    let run = project
        .lambimg(["build", "--base", "registry.invalid/lambda/python:3.12"])
        .env("NO_PROXY", "*");
    let outcome = expect_failure(&project, run.env("no_proxy", "*").run());
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

#[test]
fn architecture_absent_from_the_base() {
    let project = Project::with_handler();
    let registry = Registry::start();
    let base = Base::aws("3.12").copy_to(&registry);
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let mut list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    list["manifests"]
        .as_array_mut()
        .unwrap()
        .retain(|entry| entry["platform"]["architecture"] == "amd64");
    let media_type = list["mediaType"].as_str().unwrap().to_owned();
    registry.put_manifest(
        "lambda/python",
        "3.12",
        &media_type,
        list.to_string().into_bytes(),
    );
    let outcome = fail(&project, &["build", "--arch", "arm64", "--base", &base]);
    assert_said!(outcome);
}

#[test]
fn requirement_does_not_exist() {
    let (index, project) = (Index::start(), Project::with_handler());
    project.file("requirements.txt", "no-such-package==1.0\n");
    let outcome = fail_with(
        &index,
        &project,
        &["build", "--base", &Base::aws("3.12").reference()],
    );
    assert_eq!(outcome.code, Some(NOT_BUILDABLE));
    assert_said!(outcome);
}

#[test]
fn no_wheel_for_the_target() {
    let (index, project) = (Index::start(), Project::with_handler());
    index.serve(&Wheel::tagged(
        "native",
        "1.0",
        "cp312-cp312-macosx_11_0_arm64",
    ));
    index.serve(&Wheel::tagged(
        "native",
        "1.0",
        "cp312-cp312-manylinux_2_39_x86_64",
    ));
    project.file("requirements.txt", "native==1.0\n");
    let outcome = fail_with(
        &index,
        &project,
        &["build", "--base", &Base::aws("3.12").reference()],
    );
    assert_eq!(outcome.code, Some(NOT_BUILDABLE));
    assert_said!(outcome);
}

#[test]
fn wheel_with_a_wrong_hash() {
    let (index, project) = (Index::start(), Project::with_handler());
    index.serve_with_hash(
        &Wheel::pure("changed", "1.0"),
        &format!("sha256={}", "0".repeat(64)),
    );
    project.file("requirements.txt", "changed==1.0\n");
    let outcome = fail_with(
        &index,
        &project,
        &["build", "--base", &Base::aws("3.12").reference()],
    );
    assert_said!(outcome);
}

#[test]
fn wheel_with_a_path_that_leaves_the_root() {
    for path in [
        "../../etc/cron.d/job",
        "/etc/cron.d/job",
        "inside/../../job",
        "..\\job",
    ] {
        let (index, project) = (Index::start(), Project::with_handler());
        index.serve(&Wheel::pure("hostile", "1.0").member(path, "#"));
        project.file("requirements.txt", "hostile==1.0\n");
        let outcome = fail_with(
            &index,
            &project,
            &["build", "--base", &Base::aws("3.12").reference()],
        );
        assert_eq!(
            outcome.code,
            Some(NOT_BUILDABLE),
            "{path}: {}",
            outcome.rendering()
        );
        if path.starts_with("../") {
            assert_said!(outcome);
        }
    }
}

#[test]
fn registry_down() {
    let project = Project::with_handler();
    let name = format!("{}/some:1", free_address());
    let base = Base::aws("3.12").reference();
    let outcome = fail(&project, &["build", "--base", &base, "-t", &name, "--push"]);
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

#[test]
fn registry_asks_for_credentials() {
    let (registry, project) = (Registry::start_with_password(), Project::with_handler());
    let base = Base::aws("3.12").reference();
    let outcome = fail(
        &project,
        &[
            "build",
            "--base",
            &base,
            "-t",
            &registry.name("some:1"),
            "--push",
        ],
    );
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

#[test]
fn registry_refuses_credentials() {
    let (registry, project) = (Registry::start_with_password(), Project::with_handler());
    project.login(registry.address(), USER, &PASSWORD.to_uppercase());
    let base = Base::aws("3.12").reference();
    let outcome = fail(
        &project,
        &[
            "build",
            "--base",
            &base,
            "-t",
            &registry.name("some:1"),
            "--push",
        ],
    );
    assert_eq!(outcome.code, Some(NETWORK));
    assert!(
        !outcome.rendering().contains(&PASSWORD.to_uppercase()),
        "a password is never shown"
    );
    assert_said!(outcome);
}

/// The store is on a file system of a quarter of a megabyte, the function is larger.
#[test]
fn full_disk() {
    let project = Project::with_handler();
    // Bytes that do not compress.
    let mut state = 1_u32;
    let noise = (0..1_000_000).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    });
    project.file("noise.bin", noise.collect::<Vec<_>>());
    fs::create_dir(project.cache()).unwrap();
    let script = "mount -t tmpfs -o size=256k tmpfs \"$LAMBIMG_CACHE_DIR\" || exit 70\n\
                  \"$@\"\n\
                  code=$?\n\
                  cp -R \"$LAMBIMG_CACHE_DIR\" \"$HOME/left\"\n\
                  exit $code\n";
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_lambimg"),
    ]);
    unshare.args([
        "build",
        "-t",
        "some:1",
        "--base",
        &Base::aws("3.12").reference(),
    ]);
    let mut outcome = expect_failure(&project, project.run_by(unshare).run());
    assert_eq!(outcome.code, Some(REFUSED));
    // The base's documents are written beside the layer; whichever comes to the end first is told.
    let lines = outcome.stderr.lines().map(|line| {
        if line.starts_with("error: cannot write `") && line.contains("/blobs/sha256/") {
            "error: cannot write a layer into the store"
        } else {
            line
        }
    });
    outcome.stderr = lines.collect::<Vec<_>>().join("\n");
    let left = project.home().join("left");
    assert_whole(&left);
    assert!(!left.join("index.json").exists(), "no image has a name");

    // What is left is no hindrance once there is room.
    fs::remove_dir(project.cache()).unwrap();
    fs::rename(&left, project.cache()).unwrap();
    project
        .lambimg([
            "build",
            "-t",
            "some:1",
            "--base",
            &Base::aws("3.12").reference(),
        ])
        .succeed();
    assert_whole(&project.cache());
    assert_said!(outcome);
}
