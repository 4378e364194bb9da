//! Images outside a registry: what `-o` writes is read by skopeo and umoci as it stands, and what
//! others wrote is taken as a base. Here all bases have Docker's media types unless a test says else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::is_root;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::registry::Registry;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;

#[test]
fn directory_is_read_as_it_stands() {
    let project = Project::with_handler();
    let directory = project.beside("layout");
    let output = format!("oci:{}:orders:1", directory.display());
    build(&project, &[&output]);
    assert_eq!(skopeo_inspect(&output)["Os"], "linux");
    assert_copied(&project, &output);
    let bundle = project.beside("bundle");
    let mut umoci = Command::new(program("umoci", "umoci"));
    umoci.args(["unpack", "--keep-dirlinks", "--image"]);
    umoci.arg(format!("{}:orders:1", directory.display()));
    if !is_root() {
        umoci.arg("--rootless");
    }
    run(umoci.arg(&bundle));
    assert!(bundle.join("rootfs/var/task/app.py").exists());
    assert_whole(&directory);
    Image::in_directory(&directory).assert_accepted_by_lambda();
}

#[test]
fn oci_archive_is_read_as_it_stands() {
    let project = Project::with_handler();
    let file = project.beside("image.tar");
    let output = format!("oci-archive:{}:orders:1", file.display());
    build(&project, &[&output]);
    assert_eq!(skopeo_inspect(&output)["Os"], "linux");
    assert_copied(&project, &output);
    let directory = project.beside("extracted");
    let archive = fs::File::open(&file).unwrap();
    tar::Archive::new(archive).unpack(&directory).unwrap();
    assert_whole(&directory);
    Image::in_directory(&directory).assert_accepted_by_lambda();
}

#[test]
fn docker_archive_gets_a_whole_tag() {
    let project = Project::with_handler();
    let file = project.beside("image.tar");
    let output = format!("docker-archive:{}:orders", file.display());
    build(&project, &[&output]);
    let mut listing = String::new();
    for entry in tar::Archive::new(fs::File::open(&file).unwrap())
        .entries()
        .unwrap()
    {
        let mut entry = entry.unwrap();
        if entry.path_bytes().as_ref() == b"manifest.json" {
            std::io::Read::read_to_string(&mut entry, &mut listing).unwrap();
        }
    }
    let listing: Value = serde_json::from_str(&listing).unwrap();
    assert_eq!(listing[0]["RepoTags"], serde_json::json!(["orders:latest"]));
    let tagged = format!("{output}:latest");
    assert_eq!(skopeo_inspect(&tagged)["Os"], "linux");
    assert_copied(&project, &tagged);
    // What the archive holds has no manifest of its own; pushed, it has one again.
    let registry = Registry::start();
    let name = registry.name("orders:1");
    project.lambimg(["push", &tagged, &name]).succeed();
    Image::in_registry(&registry, &name).assert_accepted_by_lambda();
}

/// As where nothing is built: there is no such base.
const NO_BASE: [&str; 3] = ["build", "--base", "127.0.0.1:1/absent"];

#[test]
fn directories_on_the_way_are_made() {
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let outputs = [
        "zip:dist/zips/f.zip",
        "oci:dist/layouts/f",
        "oci-archive:dist/archives/of/f.tar",
        "docker-archive:./f.tar",
        "docker-archive:../beside/f.tar",
    ];
    let build = || {
        let flags = outputs.iter().flat_map(|output| ["-o", output]);
        let flags = flags.chain(["--metadata-file", "dist/about/f.json"]);
        let build = ["build", "--base", &base].into_iter().chain(flags);
        project.lambimg(build).succeed()
    };
    // With nothing in it it would be the function's, and is none of it once outputs are there.
    fs::create_dir(project.path().join("dist")).unwrap();
    let first = build();
    assert_eq!(build(), first);
    let made = |path: &str| project.path().join(path);
    Image::in_directory(&made("dist/layouts/f")).assert_accepted_by_lambda();
    let directory = project.beside("extracted");
    let archive = fs::File::open(made("dist/archives/of/f.tar")).unwrap();
    tar::Archive::new(archive).unpack(&directory).unwrap();
    Image::in_directory(&directory).assert_accepted_by_lambda();
    let archive = project.beside("beside/f.tar");
    skopeo_inspect(&format!("docker-archive:{}", archive.display()));
    assert!(made("dist/zips/f.zip").is_file() && made("dist/about/f.json").is_file());
}

/// Whatever kind it is of, and nothing is made on the way.
#[test]
fn where_nothing_can_be_written_is_told_before_anything_is_built() {
    let project = Project::with_handler();
    project.file("taken", "");
    fs::create_dir_all(project.path().join("full/of")).unwrap();
    let told = |kind: &str, path: &str| {
        let output = format!("{kind}:{path}");
        let flags = ["-o", "oci:new/layout", "-o", &output];
        let outcome = project.lambimg(NO_BASE.iter().chain(&flags)).run();
        assert!(!project.path().join("new").exists());
        let told = outcome.stderr.replace(&output, "OUTPUT");
        (outcome.code, told)
    };
    let kinds = ["zip", "oci", "oci-archive", "docker-archive"];
    let below_a_file = kinds.map(|kind| told(kind, "taken/dist/f"));
    insta::assert_snapshot!(below_a_file[0].1, @r"
    error: cannot write `taken/dist/f`
      caused by: Not a directory (os error 20)

    hint: check the spelling of the path
    ");
    for one in &below_a_file {
        assert_eq!(*one, (Some(USAGE), below_a_file[0].1.clone()));
    }
    let over_a_directory = ["zip", "oci-archive", "docker-archive"].map(|kind| told(kind, "full"));
    insta::assert_snapshot!(over_a_directory[0].1, @r"
    error: `full` is not a regular file

    hint: name a file that may be replaced, or a new one
    ");
    for one in &over_a_directory {
        assert_eq!(*one, (Some(REFUSED), over_a_directory[0].1.clone()));
    }
}

#[test]
fn where_results_cannot_be_written_is_told_before_anything_is_built() {
    let project = Project::with_handler();
    project.file("taken", "");
    let told = ["taken/made.json", "."].map(|path| {
        let flags = ["--metadata-file", path];
        let outcome = project.lambimg(NO_BASE.iter().chain(&flags)).run();
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        outcome.stderr
    });
    insta::assert_snapshot!(told.concat(), @r"
    error: cannot write `taken/made.json`: Not a directory (os error 20)

    hint: name another path for the file
    error: cannot write `.`: Is a directory (os error 21)

    hint: name another path for the file
    ");
}

#[test]
fn two_outputs_on_one_path_are_refused() {
    let project = Project::with_handler();
    let mut told = String::new();
    for outputs in [
        ["oci-archive:x", "docker-archive:./x"],
        ["zip:x", "zip:x"],
        ["oci:out", "zip:out/f.zip"],
    ] {
        let flags = outputs.iter().flat_map(|output| ["-o", output]);
        let outcome = project.lambimg(NO_BASE.into_iter().chain(flags)).run();
        assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
        told.push_str(&outcome.stderr);
    }
    // What the shell knows as the same file.
    let whole = format!("zip:{}", project.path().join("f.zip").display());
    let flags = ["--dry-run", "-o", "zip:f.zip", "-o", &whole];
    let outcome = project.lambimg(NO_BASE.iter().chain(&flags)).run();
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    insta::assert_snapshot!(told, @r"
    error: the outputs `docker-archive:./x` and `oci-archive:x` are one path

    hint: give each output a path of its own
    error: the output `zip:x` is named twice

    hint: give each output a path of its own
    error: the output `zip:out/f.zip` is inside the output `oci:out`

    hint: give each output a path of its own
    ");
}

#[test]
fn interrupted_directory_is_completed() {
    let project = Project::with_handler();
    let whole = project.beside("whole");
    build(&project, &[&format!("oci:{}:1", whole.display())]);
    let expected = Image::in_directory(&whole);
    for (name, layout_file, kept) in [
        ("blobs", r#"{"imageLayoutVersion":"1.0.0"}"#, 3),
        ("nothing", "", 0),
    ] {
        let directory = project.beside(name);
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(directory.join("oci-layout"), layout_file).unwrap();
        for (number, path) in blobs_of(&whole).iter().take(kept).enumerate() {
            let content = fs::read(path).unwrap();
            // A power cut can leave a file that has its name and not its bytes.
            let end = if number == 0 { 1 } else { content.len() };
            fs::write(blobs.join(path.file_name().unwrap()), &content[..end]).unwrap();
        }
        let output = format!("oci:{}:1", directory.display());
        build(&project, &[&output]);
        assert_eq!(skopeo_inspect(&output)["Digest"], expected.digest());
        assert_whole(&directory);
        let image = Image::in_directory(&directory);
        assert_eq!(image.digest(), expected.digest());
        image.assert_accepted_by_lambda();
    }
}

#[test]
fn modes_follow_the_umask() {
    let project = Project::with_handler();
    for (umask, mode) in [("022", 0o644), ("002", 0o664), ("077", 0o600)] {
        let path = |name: &str| project.beside(&format!("{name}-{umask}"));
        let (directory, oci, docker) = (path("directory"), path("oci"), path("docker"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_lambimg"));
        shell.args(["build", "--base", &Base::aws("3.12").reference()]);
        shell.args(["-t", "orders:1"]);
        for (form, path) in [
            ("oci", &directory),
            ("oci-archive", &oci),
            ("docker-archive", &docker),
        ] {
            shell.arg("-o").arg(format!("{form}:{}", path.display()));
        }
        project.run_by(shell).succeed();
        assert_eq!((mode_of(&oci), mode_of(&docker)), (mode, mode), "{umask}");
        let others = mode & 0o044;
        for blob in blobs_of(&directory) {
            assert_eq!(
                mode_of(&blob) & 0o044,
                others,
                "{umask}: {}",
                blob.display()
            );
        }
        assert_eq!(mode_of(&directory.join("index.json")) & 0o044, others);
        Image::in_directory(&directory).assert_accepted_by_lambda();
    }
}

/// The index has no names and lists both architectures itself, as `docker buildx` writes it.
#[test]
fn base_in_a_layout_is_chosen_by_platform() {
    let project = Project::with_handler();
    let base = project.beside("base");
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--all"]);
    skopeo.arg("--src-tls-verify=false");
    skopeo.arg(format!("docker://{}", Base::aws_oci("3.12").reference()));
    run(skopeo.arg(format!("oci:{}", base.display())));
    spread_index(&base);
    for (argument, architecture) in [("x86_64", "amd64"), ("arm64", "arm64")] {
        let directory = project.beside(architecture);
        let from = format!("oci:{}", base.display());
        let output = format!("oci:{}", directory.display());
        let build = [
            "build", "--arch", argument, "--base", &from, "-t", "orders:1", "-o", &output,
        ];
        project.lambimg(build).succeed();
        let image = Image::in_directory(&directory);
        image.assert_accepted_by_lambda();
        assert_eq!(image.config["architecture"], architecture);
    }
}

/// Puts the images of a layout's only index into the layout's own.
fn spread_index(layout: &Path) {
    let path = layout.join("index.json");
    let outer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let digest = outer["manifests"][0]["digest"].as_str().unwrap();
    let inner = fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
    let listed: Value = serde_json::from_slice(&inner).unwrap();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 2);
    fs::write(path, inner).unwrap();
}

/// Builds on a base as Lambda's own.
fn build(project: &Project, outputs: &[&str]) {
    let base = Base::aws("3.12").reference();
    let mut arguments = vec!["build", "--base", &base, "-t", "orders:1"];
    arguments.extend(outputs.iter().flat_map(|output| ["-o", output]));
    project.lambimg(arguments).succeed();
}

fn skopeo_inspect(name: &str) -> Value {
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    let said = run(skopeo.args(["inspect", name]));
    serde_json::from_str(&said).unwrap()
}

/// skopeo copies the image, and checks every digest on the way.
fn assert_copied(project: &Project, source: &str) {
    let copy = project.beside("copy");
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args(["--insecure-policy", "copy", "--quiet", source]);
    run(skopeo.arg(format!("oci:{}:copy", copy.display())));
    Image::in_directory(&copy).assert_accepted_by_lambda();
}

fn blobs_of(layout: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let mut paths = entries
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>();
    paths.sort();
    paths
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
