//! From requirements or a lock to the packages in the image: who resolves, when a lock stands and when
//! it is made anew, and what is said where nothing fits.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;

use serde_json::Value;

use crate::support::architecture;
use crate::support::base::Base;
use crate::support::digest;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::wheel::Wheel;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;
const NETWORK: i32 = 4;

/// A base for Python 3.12.
fn base() -> String {
    Base::aws("3.12").reference()
}

/// A project that requires these lines.
fn project(requirements: &str) -> Project {
    let project = Project::with_handler();
    project.file("requirements.txt", requirements);
    project
}

/// `upper`, which needs `lower`.
fn index() -> Index {
    let index = Index::start();
    index.serve(&Wheel::pure("upper", "2.0").requires("lower>=1"));
    index.serve(&Wheel::pure("lower", "1.5"));
    index
}

/// `build` with these flags, asking this index.
fn build<'project>(project: &'project Project, index: &Index, flags: &[&str]) -> Run<'project> {
    let base = base();
    let build = ["build", "--base", &base, "-t", "some:1"];
    let run = project.lambimg(build.iter().chain(flags));
    run.index(&index.url())
}

fn lock(project: &Project) -> String {
    fs::read_to_string(project.path().join("pylock.toml")).unwrap()
}

/// What every failure has in common.
fn expect_failure(project: &Project, code: i32, outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("\n\nhint: "));
    assert_whole(&project.cache());
    outcome
}

/// The wheels of the image that this run builds, with their checksums.
fn packages(project: &Project, run: Run<'_>) -> Vec<String> {
    run.succeed();
    let made = fs::read(project.path().join("made.json")).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let packages = made["packages"].as_array().unwrap().iter();
    packages
        .map(|package| format!("{} {}", package["file"], package["sha256"]))
        .collect()
}

// --- who resolves -------------------------------------------------------------------------------

/// A `PATH` with this CPython on it, and no uv.
fn path_without_uv(version: &str) -> String {
    let directory = python(version).parent().unwrap().to_owned();
    format!("{}:/usr/bin:/bin", directory.display())
}

#[test]
fn pip_finds_the_wheels_that_uv_finds() {
    let index = Index::start();
    let machine = std::env::consts::ARCH;
    let needs = "lower[extra]>=1 ; python_version < '3.10'";
    let other = "lower>=1 ; python_version >= '3.10'";
    index.serve(&Wheel::pure("upper", "2.0").requires(needs).requires(other));
    index.serve(
        &Wheel::pure("lower", "1.5")
            .provides_extra("extra")
            .requires("native>=1.0,<3 ; sys_platform == 'linux'")
            .requires("for_windows ; sys_platform == 'win32'")
            .requires("for_extra ; extra == 'extra'"),
    );
    index.serve(&Wheel::pure("lower", "1.6").requires_python(">=3.14"));
    index.serve(&Wheel::pure("for_extra", "1.0"));
    for tag in [
        "cp39-cp39-manylinux_2_17_MACHINE.manylinux2014_MACHINE",
        "cp312-cp312-manylinux_2_17_MACHINE",
        "cp312-cp312-manylinux_2_28_MACHINE",
        "cp312-cp312-manylinux_2_39_MACHINE",
        "cp39-abi3-manylinux2014_MACHINE",
        "cp312-cp312-musllinux_1_2_MACHINE",
        "cp312-cp312-macosx_11_0_arm64",
        "py3-none-any",
    ] {
        index.serve(&Wheel::tagged(
            "native",
            "2.0",
            &tag.replace("MACHINE", machine),
        ));
    }
    index.serve(&Wheel::pure("native", "3.0"));
    for version in ["3.9", "3.12"] {
        let base = Base::aws(version).reference();
        let arch = if architecture() == "arm64" {
            "arm64"
        } else {
            "x86_64"
        };
        let by = |resolver: &str| {
            let project = project("upper\n");
            let build = [
                "build", "--base", &base, "--python", version, "--arch", arch,
            ];
            let run = project.lambimg(build.iter().chain(&["--metadata-file", "made.json"]));
            let mut run = run.index(&index.url());
            if resolver == "pip" {
                run = run.env("PATH", path_without_uv(version));
            }
            let packages = packages(&project, run);
            // Only lambimg itself calls itself the maker of a lock.
            let by_pip = lock(&project).contains("created-by = \"lambimg\"");
            assert_eq!(by_pip, resolver == "pip", "{}", lock(&project));
            packages
        };
        let by_uv = by("uv");
        assert_eq!(by("pip"), by_uv, "for Python {version}");
        let count = if version == "3.9" { 4 } else { 3 };
        assert_eq!(by_uv.len(), count, "{by_uv:#?}");
        let chosen = by_uv.iter().find(|file| file.contains("native"));
        let best = if version == "3.9" {
            "cp39-cp39-"
        } else {
            "cp312-cp312-manylinux_2_28"
        };
        assert!(chosen.is_some_and(|file| file.contains(best)), "{by_uv:#?}");
    }
}

#[test]
fn nobody_resolves() {
    let (index, project) = (index(), project("upper\n"));
    let run = build(&project, &index, &[]).env("PATH", "");
    let outcome = run.env("UV_PYTHON_INSTALL_DIR", "").run();
    let outcome = expect_failure(&project, USAGE, outcome);
    assert_eq!(index.requests(), Vec::<String>::new());
    assert_said!(outcome);
}

/// pip under another Python would take other markers, and so would pip on another machine.
#[test]
fn a_pip_that_does_not_fit_is_not_asked() {
    let index = index();
    let other = if architecture() == "arm64" {
        "x86_64"
    } else {
        "arm64"
    };
    let of_another_version = ("3.11", &[][..], "is 3.11.");
    let of_another_machine = (
        "3.12",
        &["--arch", other][..],
        "takes markers from the machine",
    );
    for (version, flags, told) in [of_another_version, of_another_machine] {
        let project = project("upper\n");
        let directory = project.beside("only");
        fs::create_dir(&directory).unwrap();
        symlink(python(version), directory.join("python3")).unwrap();
        let run = build(&project, &index, flags).env("PATH", directory);
        let outcome = run.env("UV_PYTHON_INSTALL_DIR", "").run();
        let outcome = expect_failure(&project, USAGE, outcome);
        assert!(outcome.stderr.contains(told), "{}", outcome.rendering());
        assert!(
            outcome.stderr.contains("install uv"),
            "{}",
            outcome.rendering()
        );
    }
    assert_eq!(index.requests(), Vec::<String>::new());
}

// --- locks --------------------------------------------------------------------------------------

/// A lock as another tool writes it, its wheels on this index.
fn foreign_lock(index: &Index, wheels: &[&Wheel]) -> String {
    let files = index.url().replace("/simple", "/files");
    let mut text = "lock-version = \"1.0\"\ncreated-by = \"another\"\n".to_owned();
    for wheel in wheels {
        let (name, file) = (wheel.name(), wheel.file_name());
        let version = file.split('-').nth(1).unwrap();
        let sha256 = digest(&wheel.bytes()).replace("sha256:", "");
        let _ = write!(
            text,
            "\n[[packages]]\nname = \"{name}\"\nversion = \"{version}\"\n\
             wheels = [{{ url = \"{files}/{file}\", hashes = {{ sha256 = \"{sha256}\" }} }}]\n"
        );
    }
    text
}

#[test]
fn no_wheel_of_a_lock_fits() {
    let project = Project::with_handler();
    let hash = "0".repeat(64);
    let files = [
        "native-1.0-cp312-cp312-macosx_11_0_arm64",
        "native-1.0-cp312-cp312-musllinux_1_2_x86_64",
        "native-1.0-cp311-cp311-manylinux_2_28_x86_64",
        "native-1.0-cp312-cp312-manylinux_2_39_x86_64",
        "native-1.0-cp312-cp312-manylinux_2_28_aarch64",
    ];
    let entry = |name: String| {
        format!("{{ url = \"https://files.invalid/{name}\", hashes = {{ sha256 = \"{hash}\" }} }}")
    };
    let wheels = files.map(|file| entry(format!("{file}.whl"))).join(", ");
    let lock = format!(
        "lock-version = \"1.0\"\ncreated-by = \"another\"\n\n[[packages]]\nname = \"native\"\n\
         version = \"1.0\"\nsdist = {}\nwheels = [{wheels}]\n",
        entry("native-1.0.tar.gz".to_owned())
    );
    project.file("pylock.toml", lock);
    let outcome = build(&project, &Index::start(), &[]).run();
    assert_said!(expect_failure(&project, NOT_BUILDABLE, outcome));
}

#[test]
fn locked_without_a_lock() {
    let (index, project) = (index(), project("upper\n"));
    build(&project, &index, &[]).succeed();
    let requests = index.requests();
    // All else is decided by `lambimg.lock`.
    fs::remove_file(project.path().join("pylock.toml")).unwrap();
    let outcome = build(&project, &index, &["--locked"]).run();
    let outcome = expect_failure(&project, REFUSED, outcome);
    assert!(!project.path().join("pylock.toml").exists());
    assert_eq!(index.requests(), requests);
    assert_said!(outcome);
}

#[test]
fn locked_with_a_stale_lock() {
    let (index, project) = (index(), project("upper\n"));
    build(&project, &index, &[]).succeed();
    build(&project, &index, &["--locked"]).succeed();
    let before = lock(&project);
    project.file("requirements.txt", "lower\n");
    let requests = index.requests();
    let outcome = build(&project, &index, &["--locked"]).run();
    let outcome = expect_failure(&project, REFUSED, outcome);
    assert_eq!(lock(&project), before, "the lock is untouched");
    assert_eq!(index.requests(), requests);
    assert_said!(outcome);
}

#[test]
fn a_lock_stands_until_the_requirements_change() {
    let (index, project) = (index(), project("upper\n"));
    let first = build(&project, &index, &[]).succeed();
    let (written, requests) = (lock(&project), index.requests());
    assert!(!requests.is_empty());

    // Neither a comment nor another run changes what is required, and all wheels are in the cache.
    project.file("requirements.txt", "# why\nupper   # this one\n\n");
    build(&project, &index, &["--no-cache"]).succeed();
    assert_eq!(lock(&project), written);
    assert_eq!(index.requests(), requests, "nothing was asked for");

    // With an empty cache the lock still stands, so only the wheels themselves are asked for.
    fs::remove_dir_all(project.cache()).unwrap();
    build(&project, &index, &[]).succeed();
    assert_eq!(lock(&project), written);
    let new = &index.requests()[requests.len()..];
    assert!(
        new.len() == 2 && new.iter().all(|path| path.ends_with("-py3-none-any.whl")),
        "{new:?}"
    );

    project.file("requirements.txt", "lower\n");
    let changed = build(&project, &index, &[]).succeed();
    assert_ne!(changed, first);
    assert_ne!(lock(&project), written);
    assert!(
        !lock(&project).contains("name = \"upper\""),
        "{}",
        lock(&project)
    );
    assert!(
        index
            .requests()
            .iter()
            .skip(requests.len() + 2)
            .any(|path| path == "/simple/lower/")
    );
}

/// What another tool locked is the user's own choice, whatever the requirements say.
#[test]
fn a_foreign_lock_is_used_as_it_is() {
    let (index, project) = (index(), project("upper\n"));
    // Not what a resolver would choose: it lacks what `upper` needs.
    let text = foreign_lock(&index, &[&Wheel::pure("upper", "2.0").requires("lower>=1")]);
    project.file("pylock.toml", &text);
    for flags in [
        &["--metadata-file", "made.json"][..],
        &["--metadata-file", "made.json", "--locked"],
    ] {
        let found = packages(&project, build(&project, &index, flags));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("upper-2.0"), "{found:?}");
        assert_eq!(lock(&project), text);
    }
    assert_eq!(index.requests(), ["/files/upper-2.0-py3-none-any.whl"]);

    // What the requirements ask for by name is not built without.
    project.file("requirements.txt", "upper\nlower\n");
    let outcome = expect_failure(&project, USAGE, build(&project, &index, &[]).run());
    assert_said!(outcome);
}

#[test]
fn hashes_hold_whoever_resolves() {
    let (index, wheel) = (index(), Wheel::pure("lower", "1.5"));
    for resolver in ["uv", "pip"] {
        let wrong = "0".repeat(64);
        let project = project(&format!("lower==1.5 --hash=sha256:{wrong}\n"));
        let outcome = build(&project, &index, &["--resolver", resolver]).run();
        let outcome = expect_failure(&project, NOT_BUILDABLE, outcome);
        assert!(
            outcome.stderr.contains(&digest(&wheel.bytes())[7..]),
            "{}",
            outcome.rendering()
        );
        let kept = project.path().join("pylock.toml");
        assert!(!kept.exists(), "a lock of what is not taken");
    }
}

#[test]
fn a_lock_needs_no_program_at_all() {
    let (index, project) = (Index::start(), Project::with_handler());
    let wheels = [Wheel::pure("upper", "2.0"), Wheel::pure("lower", "1.5")];
    for wheel in &wheels {
        index.serve(wheel);
    }
    let lock = foreign_lock(&index, &[&wheels[0], &wheels[1]]);
    project.file("pylock.toml", lock);
    for flags in [&[][..], &["--locked", "--no-cache"]] {
        build(&project, &index, flags).env("PATH", "").succeed();
    }
    assert_eq!(index.requests().len(), 2, "{:?}", index.requests());
}

/// Several builds of one project with one cache, as a matrix of jobs on one machine has them.
#[test]
fn builds_at_once_do_not_disturb_each_other() {
    let (index, project) = (index(), project("upper\n"));
    let digests = thread::scope(|scope| {
        let builds = (0..4).map(|_| scope.spawn(|| build(&project, &index, &[]).succeed()));
        let builds = builds.collect::<Vec<_>>();
        let done = builds.into_iter().map(|build| build.join().unwrap());
        done.collect::<BTreeSet<_>>()
    });
    assert_eq!(digests.len(), 1, "{digests:?}");
    assert_whole(&project.cache());
    build(&project, &index, &["--locked"]).succeed();
}

#[test]
fn a_lock_lies_beside_its_requirements() {
    let (index, project) = (index(), Project::with_handler());
    project.file("needs/requirements.txt", "-r more.txt\n");
    project.file("needs/more.txt", "lower\n");
    let flags = ["--requirements", "needs/requirements.txt"];
    build(&project, &index, &flags).succeed();
    assert!(!project.path().join("pylock.toml").exists());
    let lock = fs::read_to_string(project.path().join("needs/pylock.toml")).unwrap();
    assert!(lock.contains("name = \"lower\""), "{lock}");
    // What a file includes is part of what is required.
    project.file("needs/more.txt", "upper\n");
    let outcome = build(&project, &index, &[&flags[..], &["--locked"]].concat()).run();
    expect_failure(&project, REFUSED, outcome);
}

// --- the network --------------------------------------------------------------------------------

#[test]
fn offline_with_everything_in_the_cache() {
    let (index, project) = (index(), project("upper\n"));
    let first = build(&project, &index, &[]).succeed();
    let requests = index.requests();
    for flags in [&["--offline"][..], &["--offline", "--no-cache", "--locked"]] {
        assert_eq!(build(&project, &index, flags).succeed(), first);
    }
    assert_eq!(index.requests(), requests);
}

#[test]
fn offline_without_the_base() {
    let (index, project) = (index(), Project::with_handler());
    let outcome = build(&project, &index, &["--offline"]).run();
    assert_said!(expect_failure(&project, NETWORK, outcome));
}

#[test]
fn offline_without_the_wheels() {
    let (index, project) = (index(), Project::with_handler());
    build(&project, &index, &[]).succeed();
    project.file(
        "pylock.toml",
        foreign_lock(&index, &[&Wheel::pure("lower", "1.5")]),
    );
    let outcome = build(&project, &index, &["--offline"]).run();
    assert_eq!(index.requests(), Vec::<String>::new());
    assert_said!(expect_failure(&project, NETWORK, outcome));
}

// --- what is in the image -----------------------------------------------------------------------

/// Builds into a directory and gives the image with what was said.
fn image(project: &Project, index: &Index) -> (Image, Outcome) {
    let directory: PathBuf = project.beside("image");
    let output = format!("oci:{}", directory.display());
    let outcome = build(project, index, &["-o", &output]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let image = Image::in_directory(&directory);
    image.assert_accepted_by_lambda();
    (image, outcome)
}

#[test]
fn of_two_wheels_with_one_path_the_later_has_it() {
    let (index, project) = (Index::start(), Project::with_handler());
    let one = Wheel::pure("one", "1.0")
        .member("shared/__init__.py", "NAME = 'one'\n")
        .member("shared/same.py", "");
    let two = Wheel::pure("two", "1.0")
        .member("shared/__init__.py", "NAME = 'two'\n")
        .member("shared/same.py", "");
    for wheel in [&one, &two] {
        index.serve(wheel);
    }
    for (wheels, winner) in [([&one, &two], "two"), ([&two, &one], "one")] {
        project.file("pylock.toml", foreign_lock(&index, &wheels));
        let _ = fs::remove_dir_all(project.beside("image"));
        let (image, outcome) = image(&project, &index);
        let task = image.files_below("var/task");
        let expected = format!("NAME = '{winner}'\n");
        assert_eq!(task["shared/__init__.py"].content, expected.as_bytes());
        let lines = outcome.stderr.lines();
        let warnings = lines.filter(|line| line.starts_with("warning: "));
        let warnings = warnings.collect::<Vec<_>>();
        assert_eq!(
            warnings.len(),
            1,
            "equal bytes are no collision: {warnings:?}"
        );
        for word in ["var/task/shared/__init__.py", "one", "two"] {
            assert!(warnings[0].contains(word), "{word} in {}", warnings[0]);
        }
    }
}

#[test]
fn scripts_start_with_the_images_own_python() {
    let index = Index::start();
    index.serve(&Wheel::pure("tool", "1.0").script("tool = tool:main"));
    let project = project("tool\n");
    let (image, _) = image(&project, &index);
    let task = image.files_below("var/task");
    let script = &task["bin/tool"];
    let text = String::from_utf8(script.content.clone()).unwrap();
    assert_eq!(text.lines().next(), Some("#!/var/lang/bin/python3.12"));
    assert_eq!(script.header.mode().unwrap() & 0o777, 0o755);
}

// --- what does not hold yet ---------------------------------------------------------------------

/// The remedy is the network, not another version.
#[test]
fn offline_without_a_lock() {
    let (index, project) = (index(), Project::with_handler());
    build(&project, &index, &[]).succeed();
    project.file("requirements.txt", "upper\n");
    let outcome = build(&project, &index, &["--offline"]).run();
    assert_eq!(index.requests(), Vec::<String>::new());
    assert!(!project.path().join("pylock.toml").exists());
    let told = outcome.rendering();
    assert!(![Some(0), Some(70), None].contains(&outcome.code), "{told}");
    let hint = outcome.stderr.rsplit("\nhint: ").next().unwrap();
    assert!(hint.contains("`--offline`"), "{told}");
}
