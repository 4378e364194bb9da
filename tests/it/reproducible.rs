//! The same inputs give the same digest, whatever the directory, the user's mask and locale, the time
//! zone, the files' own times and modes, and the order in which a directory lists them.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::SystemTime;

use crate::support::base::Base;
use crate::support::image::Image;
use crate::support::index::Index;
use crate::support::project::Project;
use crate::support::wheel::Wheel;

#[test]
fn surroundings_do_not_change_the_digest() {
    let index = index();
    for base in [Base::aws("3.12"), Base::bare("3.12")] {
        let base = base.reference();
        let first = build(
            &project(&["app.py", "lib/one.py", "lib/two.py"], 0o644),
            &base,
            &index,
            "umask 022",
            &[],
        );
        let other = project(&["lib/two.py", "lib/one.py", "app.py"], 0o600);
        age(&other.path());
        let surroundings = [
            ("TZ", "Asia/Kathmandu"),
            ("LANG", "tr_TR.UTF-8"),
            ("LC_ALL", "C"),
            ("USER", "other"),
        ];
        assert_eq!(
            first,
            build(&other, &base, &index, "umask 077", &surroundings)
        );
    }
}

#[test]
fn building_again_gives_the_same_image() {
    let index = index();
    let project = project(&["app.py", "lib/one.py"], 0o644);
    let base = Base::aws("3.12").reference();
    let first = build(&project, &base, &index, "umask 022", &[]);
    // Out of the store, and anew without it.
    assert_eq!(first, build(&project, &base, &index, "umask 022", &[]));
    fs::remove_dir_all(project.cache()).unwrap();
    assert_eq!(first, build(&project, &base, &index, "umask 022", &[]));
}

#[test]
fn a_changed_byte_or_mode_changes_the_digest() {
    let index = index();
    let project = project(&["app.py", "lib/one.py"], 0o644);
    let base = Base::aws("3.12").reference();
    let first = build(&project, &base, &index, "umask 022", &[]);
    fs::set_permissions(
        project.path().join("lib/one.py"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let executable = build(&project, &base, &index, "umask 022", &[]);
    assert_ne!(first, executable);
    project.file("lib/one.py", "NAME = 'changed'\n");
    assert_ne!(executable, build(&project, &base, &index, "umask 022", &[]));
}

/// An index with two packages, one of them with a script and one that the other needs. The runtime client
/// for a base without it comes from here too, reduced to a name.
fn index() -> Index {
    let index = Index::start();
    index.serve(
        &Wheel::pure("upper", "2.0")
            .requires("lower>=1")
            .script("upper = upper:main"),
    );
    index.serve(&Wheel::pure("lower", "1.5"));
    for (name, version) in [
        ("awslambdaric", "4.2.2"),
        ("simplejson", "4.3.0"),
        ("snapshot_restore_py", "1.0.0"),
    ] {
        index.serve(&Wheel::pure(name, version));
    }
    index
}

/// The same project, its files made in the given order.
fn project(files: &[&str], mode: u32) -> Project {
    let project = Project::with_handler();
    project.file("requirements.txt", "upper\n");
    for path in files {
        project.file(path, format!("NAME = {path:?}\n"));
        fs::set_permissions(project.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    project
}

/// Gives every file a time of its own.
fn age(directory: &Path) {
    for (place, entry) in fs::read_dir(directory).unwrap().enumerate() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        }
        let seconds = 1_000_000_000 + 86_400 * place as u64;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(&path).unwrap().set_modified(time).unwrap();
    }
}

/// Builds in the given surroundings and gives the image's digest.
fn build(
    project: &Project,
    base: &str,
    index: &Index,
    umask: &str,
    surroundings: &[(&str, &str)],
) -> String {
    let directory = project.beside("image");
    let _ = fs::remove_dir_all(&directory);
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        &format!("{umask}; exec \"$@\""),
        "sh",
        env!("CARGO_BIN_EXE_lambimg"),
    ]);
    shell
        .args(["build", "--base", base, "-t", "some:1", "-o"])
        .arg(format!("oci:{}", directory.display()));
    let run = project.run_by(shell).index(&index.url());
    let run = surroundings
        .iter()
        .fold(run, |run, (name, value)| run.env(name, value));
    let printed = run.succeed();
    let image = Image::in_directory(&directory);
    image.assert_accepted_by_lambda();
    // Both digests: on a base of Docker's types the layout's manifest is another than the image's own.
    assert!(printed.starts_with("some@sha256:"), "{printed}");
    printed + &image.digest()
}
