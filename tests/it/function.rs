//! The function's own files and the words that steer its build: what goes in and what stays out, which
//! setting counts, what the two output streams say.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::emulator::Root;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::index::Index;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::registry::Registry;
use crate::support::wheel::Wheel;

const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;

/// A base for Python 3.12.
fn base() -> String {
    Base::aws("3.12").reference()
}

/// Builds with these flags into a directory and reads the image from there.
fn image(project: &Project, flags: &[&str]) -> Image {
    let directory = project.beside("image");
    let _ = fs::remove_dir_all(&directory);
    let (base, output) = (base(), format!("oci:{}", directory.display()));
    let build = ["build", "--base", &base, "-t", "some:1", "-o", &output];
    project.lambimg(build.iter().chain(flags)).succeed();
    let image = Image::in_directory(&directory);
    image.assert_accepted_by_lambda();
    image
}

/// A failure with a remedy, before anything is built.
fn fail(project: &Project, code: i32, flags: &[&str]) -> Outcome {
    let base = base();
    let build = ["build", "--base", &base, "-t", "some:1"];
    let outcome = project.lambimg(build.iter().chain(flags)).run();
    expect_failure(project, code, outcome)
}

fn expect_failure(project: &Project, code: i32, outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("\n\nhint: "));
    assert_whole(&project.cache());
    outcome
}

/// The paths below the task root that a plan lists.
fn listed(project: &Project, flags: &[&str]) -> Vec<String> {
    let base = base();
    let build = ["build", "--base", &base, "--dry-run"];
    let plan = project.lambimg(build.iter().chain(flags)).succeed();
    let lines = plan.lines().filter_map(|line| {
        let (kind, rest) = line.split_once(' ')?;
        let path = rest.trim_start().split(' ').next()?;
        let below = path.trim_start_matches('/').strip_prefix("var/task/")?;
        ["file", "link"].contains(&kind).then(|| below.to_owned())
    });
    lines.collect()
}

// --- what is in the function --------------------------------------------------------------------

#[test]
fn only_the_function_is_taken() {
    let project = Project::with_handler();
    let taken = [
        ".lambimgrc",
        "app.py",
        "data/settings.env",
        "data/table.csv",
        "docs/keep.md",
        "environment/notes.txt",
        "pkg/__init__.py",
        "pyproject.toml",
        "tests/fixture.json",
    ];
    let left = [
        ".DS_Store",
        ".env",
        ".env.production",
        ".git/config",
        ".gitignore",
        ".idea/workspace.xml",
        ".lambimgignore",
        ".mypy_cache/3.12/app.json",
        ".pytest_cache/README.md",
        ".ruff_cache/0/1",
        ".venv/lib/site.py",
        "app.pyc",
        "build/wheel.whl",
        "data/.env",
        "docs/manual.md",
        "env/lib/site.py",
        "env/pyvenv.cfg",
        "lambimg.lock",
        "notes.ipynb",
        "pkg/__pycache__/app.cpython-312.pyc",
        "pkg/deep/venv/bin/python",
        "pkg/deep/venv/pyvenv.cfg",
        "requirements.txt",
        "some.egg-info/PKG-INFO",
    ];
    // The build makes its lock by itself.
    let own = ["pyproject.toml", "app.py", "lambimg.lock"];
    for path in taken.iter().chain(&left) {
        if !own.contains(path) {
            project.file(path, "");
        }
    }
    project.file(".lambimgignore", "# prose\ndocs/*\n!docs/keep.md\n");
    // Git's own list says nothing here: what is built is often ignored there.
    project.file(".gitignore", "data/\n");
    project.file(
        "pyproject.toml",
        "[tool.lambimg]\npython = \"3.12\"\nhandler = \"app.handler\"\nexclude = [\"*.ipynb\", \"/build\"]\n",
    );
    assert_eq!(listed(&project, &[]), taken);
    // A flag adds to the file's list: what leaves more out lets nothing else in.
    let mut other = taken.to_vec();
    other.retain(|path| !path.starts_with("tests/"));
    assert_eq!(listed(&project, &["--exclude", "tests/"]), other);

    // The first build makes the lock, and the second finds it there.
    for _ in 0..2 {
        let image = image(&project, &[]);
        let built = image.files_below("var/task").into_keys();
        assert_eq!(built.collect::<Vec<_>>(), taken);
        assert!(project.path().join("lambimg.lock").exists());
    }
}

#[test]
fn links_inside_stay_links() {
    let project = Project::with_handler();
    project.file("shared/words.txt", "hello");
    fs::create_dir(project.path().join("pkg")).unwrap();
    symlink("../shared/words.txt", project.path().join("pkg/words.txt")).unwrap();
    symlink("shared", project.path().join("same")).unwrap();
    assert_eq!(
        listed(&project, &[]),
        [
            "app.py",
            "pkg/words.txt",
            "pyproject.toml",
            "same",
            "shared/words.txt"
        ]
    );
    let image = image(&project, &[]);
    let task = image.files_below("var/task");
    for (path, target) in [("pkg/words.txt", "../shared/words.txt"), ("same", "shared")] {
        let header = &task[path].header;
        assert!(header.entry_type().is_symlink(), "{path}");
        let found = header.link_name_bytes().unwrap();
        assert_eq!(found, target.as_bytes(), "{path}");
    }
}

#[test]
fn link_that_leaves_the_project() {
    for target in ["../../secrets.txt", "/etc/passwd"] {
        let project = Project::with_handler();
        fs::create_dir(project.path().join("pkg")).unwrap();
        symlink(target, project.path().join("pkg/secrets.txt")).unwrap();
        // Quiet, for the base may be asked for before or after the files are read.
        let outcome = fail(&project, NOT_BUILDABLE, &["--quiet"]);
        if target.starts_with("..") {
            assert_said!(outcome);
        }
    }
}

#[test]
fn what_the_build_writes_is_not_taken() {
    let project = Project::with_handler();
    // In a layout, only an image on an OCI base keeps its digest.
    let base = Base::aws_oci("3.12").reference();
    let build = [
        "build",
        "--base",
        &base,
        "-t",
        "some:1",
        "-o",
        "oci:out",
        "-o",
        "oci-archive:./image.tar",
        "--metadata-file",
        "made.json",
    ];
    let first = project.lambimg(build).succeed();
    assert_eq!(project.lambimg(build).succeed(), first);
    let image = Image::in_directory(&project.path().join("out"));
    image.assert_accepted_by_lambda();
    let files = image.files_below("var/task").into_keys();
    assert_eq!(files.collect::<Vec<_>>(), ["app.py", "pyproject.toml"]);
    // From elsewhere, by another way of writing the path.
    let path = project.path();
    let out = format!("oci:{}/../project/out", path.display());
    let archive = format!("oci-archive:{}/image.tar", path.display());
    let made = path.join("made.json").display().to_string();
    let elsewhere = [
        "build",
        ".",
        "--base",
        &base,
        "-t",
        "some:1",
        "-o",
        &out,
        "-o",
        &archive,
        "--metadata-file",
        &made,
    ];
    assert_eq!(project.lambimg(elsewhere).succeed(), first);
}

/// Builds, pushes, and gives what the function answers.
fn answer(project: &Project, handler: &str, index: &Index) -> String {
    let registry = Registry::start();
    let (base, name) = (base(), registry.name("some:1"));
    let build = [
        "build",
        "--base",
        &base,
        "-t",
        &name,
        "--push",
        "--handler",
        handler,
    ];
    project.lambimg(build).index(&index.url()).succeed();
    let image = Image::in_registry(&registry, &name);
    image.assert_accepted_by_lambda();
    assert_eq!(image.config["config"]["Cmd"][0], handler);
    Root::pull(&name).answer("{}")
}

#[test]
fn handler_in_a_package() {
    let (index, project) = (Index::start(), Project::with_handler());
    let answers = |text: &str| format!("def handler(event, context):\n    return {text:?}\n");
    project.file("pkg/__init__.py", answers("the package"));
    project.file("pkg/module.py", answers("its module"));
    for (handler, text) in [
        ("pkg.handler", "\"the package\""),
        ("pkg.module.handler", "\"its module\""),
        ("pkg/module.handler", "\"its module\""),
    ] {
        assert_eq!(answer(&project, handler, &index), text, "{handler}");
    }
}

#[test]
fn handler_in_a_dependency() {
    let (index, project) = (Index::start(), Project::with_handler());
    let module = "def handler(event, context):\n    return 'from the wheel'\n";
    index.serve(&Wheel::tagged("wrapper", "1.0", "py3-none-any").member("wrapper/main.py", module));
    project.file("requirements.txt", "wrapper\n");
    assert_eq!(
        answer(&project, "wrapper.main.handler", &index),
        "\"from the wheel\""
    );

    let base = base();
    let build = [
        "build",
        "--base",
        &base,
        "--handler",
        "wrapper.other.handler",
    ];
    let outcome = project.lambimg(build).index(&index.url()).run();
    let outcome = expect_failure(&project, USAGE, outcome);
    let told = "neither `wrapper/other.py` nor `wrapper/other/__init__.py` is in the project or its dependencies";
    assert!(outcome.stderr.contains(told), "{}", outcome.rendering());
}

#[test]
fn a_handler_that_the_base_brings() {
    let project = Project::with_handler();
    let base = base();
    let build = ["build", "--base", &base, "--handler", "wrapper.handler"];
    expect_failure(&project, USAGE, project.lambimg(build).run());
    let told = project.lambimg(build.iter().chain(&["--handler-in-base"]));
    told.succeed();
    let variable = project
        .lambimg(build)
        .env("LAMBIMG_HANDLER_IN_BASE", "true");
    variable.succeed();
    let odd = project
        .lambimg(build)
        .env("LAMBIMG_HANDLER_IN_BASE", "perhaps");
    expect_failure(&project, USAGE, odd.run());
}

// --- the runtime's dates ------------------------------------------------------------------------

#[test]
fn old_and_new_runtimes_warn() {
    let project = Project::with_handler();
    let warnings = |python: &str, base: &str, flags: &[&str]| {
        let build = ["build", "--python", python, "--base", base];
        let outcome = project.lambimg(build.iter().chain(flags)).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        let lines = outcome.stderr.lines();
        let warnings = lines.filter(|line| line.starts_with("warning: "));
        warnings.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(warnings("3.10", &Base::aws("3.10").reference(), &[]), @"warning: python3.10 is deprecated since 2026-10-31: its base image gets no more security updates (dates as of 2026-11-22)");
    // A base for a Python that this machine has not got: nothing of it is run here, and a digest does not say
    // which Python it has.
    let registry = Registry::start();
    Base::aws("3.13").copy_to(&registry);
    let list = registry.manifest("lambda/python", "3.13").unwrap();
    let preview = registry.name(&format!("lambda/python@{}", digest(&list)));
    insta::assert_snapshot!(warnings("3.15", &preview, &[]), @"warning: python3.15 is a preview since 2026-08-25: it may change and is not for production (as of 2026-11-22)");
    assert_eq!(warnings("3.12", &Base::aws("3.12").reference(), &[]), "");
    assert_eq!(
        warnings("3.10", &Base::aws("3.10").reference(), &["--quiet"]),
        ""
    );
}

// --- time ---------------------------------------------------------------------------------------

#[test]
fn source_date_epoch_is_every_date() {
    let (index, project) = (Index::start(), Project::with_handler());
    index.serve(&Wheel::pure("some", "1.0"));
    project.file("requirements.txt", "some\n");
    let base = Base::bare("3.12").reference();
    // The runtime client's layer is made too, so all layers but the base's are of this build.
    for (name, version) in [
        ("awslambdaric", "4.2.2"),
        ("simplejson", "4.3.0"),
        ("snapshot_restore_py", "1.0.0"),
    ] {
        index.serve(&Wheel::pure(name, version));
    }
    let cases = [
        (Some("1700000000"), 1_700_000_000, "2023-11-14T22:13:20Z"),
        (Some("0"), 0, "1970-01-01T00:00:00Z"),
        (Some(""), 315_532_800, "1980-01-01T00:00:00Z"),
        (None, 315_532_800, "1980-01-01T00:00:00Z"),
    ];
    for (number, (value, seconds, text)) in cases.into_iter().enumerate() {
        let directory = project.beside(&number.to_string());
        let (output, made) = (
            format!("oci:{}", directory.display()),
            project.beside("made"),
        );
        let file = made.display().to_string();
        let build = [
            "build",
            "--base",
            &base,
            "-o",
            &output,
            "--metadata-file",
            &file,
        ];
        let mut run = project.lambimg(build).index(&index.url());
        if let Some(value) = value {
            run = run.env("SOURCE_DATE_EPOCH", value);
        }
        run.succeed();
        let image = Image::in_directory(&directory);
        image.assert_accepted_by_lambda();
        assert_eq!(image.config["created"], text);
        let made: Value = serde_json::from_slice(&fs::read(made).unwrap()).unwrap();
        let layers = made["layers"].as_array().unwrap();
        let of_base = layers
            .iter()
            .filter(|layer| layer["from"] == "base")
            .count();
        assert_eq!(layers.len() - of_base, 3, "{made:#}");
        for layer in of_base..layers.len() {
            for entry in image.entries(layer) {
                assert_eq!(entry.header.mtime().unwrap(), seconds, "{}", entry.path);
            }
        }
        let history = image.config["history"].as_array().unwrap();
        for entry in &history[history.len() - 3..] {
            assert_eq!(entry["created"], text);
        }
    }
}

#[test]
fn source_date_epoch_is_no_date() {
    let project = Project::with_handler();
    let base = base();
    for value in ["-1", "1e9", "253402300800", "yesterday"] {
        let run = project.lambimg(["build", "--base", &base]);
        let outcome = run.env("SOURCE_DATE_EPOCH", value).run();
        let outcome = expect_failure(&project, USAGE, outcome);
        assert!(outcome.stderr.contains(&format!("`{value}`")));
        if value == "yesterday" {
            assert_said!(outcome);
        }
    }
}

// --- settings -----------------------------------------------------------------------------------

/// A line of the plan that a run prints.
fn planned(plan: &str, name: &str) -> String {
    let line = plan.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {plan}"))
        .trim()
        .to_owned()
}

#[test]
fn flags_count_before_variables_before_files() {
    for file in ["pyproject.toml", "lambimg.toml"] {
        let project = Project::new();
        project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
        project.file(
            "other.py",
            "def handler(event, context):\n    return 'ok'\n",
        );
        let settings = "python = \"3.11\"\nhandler = \"app.handler\"\narch = \"arm64\"\ntags = [\"of-file:1\"]\n";
        let header = if file == "pyproject.toml" {
            "[tool.lambimg]\n"
        } else {
            ""
        };
        project.file(file, format!("{header}{settings}"));
        let base = base();
        let told = |flags: &[&str], variables: &[(&str, &str)]| {
            let build = ["build", "--base", &base, "--dry-run"];
            let run = project.lambimg(build.iter().chain(flags));
            let run = variables
                .iter()
                .fold(run, |run, (name, value)| run.env(name, value));
            let plan = run.succeed();
            ["runtime", "handler", "architecture", "name"].map(|name| planned(&plan, name))
        };
        assert_eq!(
            told(&[], &[]),
            ["python3.11", "app.handler", "arm64", "of-file:1"]
        );
        let variables = [
            ("LAMBIMG_PYTHON", "3.12"),
            ("LAMBIMG_TAGS", "of-variable:1"),
            // An empty variable is none.
            ("LAMBIMG_HANDLER", ""),
        ];
        assert_eq!(
            told(&[], &variables),
            ["python3.12", "app.handler", "arm64", "of-variable:1"]
        );
        assert_eq!(
            told(&["--python", "3.13", "-t", "of-flag:1"], &variables),
            ["python3.13", "app.handler", "arm64", "of-flag:1"]
        );
        assert_eq!(
            told(
                &["--handler", "other.handler"],
                &[("LAMBIMG_ARCH", "x86_64")]
            ),
            ["python3.11", "other.handler", "x86_64", "of-file:1"]
        );
    }
}

#[test]
fn bad_value_in_a_variable() {
    let project = Project::with_handler();
    let run = project.lambimg(["build", "--base", "host"]);
    let outcome = run.env("LAMBIMG_ARCH", "sparc").run();
    assert_said!(expect_failure(&project, USAGE, outcome));
}

#[test]
fn two_files_configure_the_project() {
    let project = Project::with_handler();
    project.file("lambimg.toml", "python = \"3.12\"\n");
    assert_said!(fail(&project, USAGE, &[]));
}

/// A `pyproject.toml` that says nothing to lambimg stands in nobody's way.
#[test]
fn own_file_beside_another_tools() {
    let project = Project::with_handler();
    project.file("pyproject.toml", "[tool.ruff]\nline-length = 100\n");
    project.file(
        "lambimg.toml",
        "python = \"3.12\"\nhandler = \"app.handler\"\n",
    );
    assert_eq!(listed(&project, &[]), ["app.py", "pyproject.toml"]);
}

// --- output streams -----------------------------------------------------------------------------

#[test]
fn stdout_is_the_reference_alone() {
    let registry = Registry::start();
    let project = Project::with_handler();
    let (base, name) = (base(), registry.name("some"));
    let build = ["build", "--base", &base, "-t", &name, "--push"];
    let push = ["push", &name];
    let mut printed = Vec::new();
    for flags in [&["-v"][..], &[], &["--progress", "none"], &["-q"]] {
        for verb in [&build[..], &push] {
            let outcome = project.lambimg(verb.iter().chain(flags)).run();
            assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
            let is_silent = flags.first().is_some_and(|flag| *flag != "-v");
            assert_eq!(
                outcome.stderr.is_empty(),
                is_silent,
                "{}",
                outcome.rendering()
            );
            printed.push(outcome.stdout);
        }
    }
    printed.dedup();
    let digest = Image::in_registry(&registry, &format!("{name}:latest")).digest();
    assert_eq!(printed, [format!("{name}@{digest}\n")]);
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let project = Project::new();
    for format in ["table", "json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_lambimg"));
        command.args(["bases", "--format", format]).stdout(writer);
        let outcome = project.run_by(command).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_eq!((outcome.stdout, outcome.stderr), Default::default());
    }
}

// --- bases on disk ------------------------------------------------------------------------------

/// Has skopeo copy an image from a registry.
fn copy(from: &str, to: &str) {
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
    ]);
    run(skopeo.args([&format!("docker://{from}"), to]));
}

/// The image of a base on disk, from the project's file, which means paths from its own directory.
fn built_on(project: &Project, base: &str, directory: &Path) -> Image {
    let settings = "python = \"3.12\"\nhandler = \"app.handler\"\n";
    project.file(
        "pyproject.toml",
        format!("[tool.lambimg]\n{settings}base = \"{base}\"\n"),
    );
    let output = format!("oci:{}", directory.display());
    // No registry is needed any more.
    let build = ["build", "--offline", "-t", "some:1", "-o", &output];
    project.lambimg(build).succeed();
    let image = Image::in_directory(directory);
    image.assert_accepted_by_lambda();
    let output = format!("oci:{}", directory.display());
    assert_eq!(Root::copy(&output).answer("{}"), "\"ok\"");
    image
}

#[test]
fn base_in_a_directory_or_an_archive() {
    let project = Project::with_handler();
    let beside = |name: &str| project.beside(name);
    let (aws, oci) = (base(), Base::aws_oci("3.12").reference());
    copy(&oci, &format!("oci:{}:base", beside("base").display()));
    copy(
        &oci,
        &format!("oci-archive:{}", beside("base.tar").display()),
    );
    copy(
        &aws,
        &format!("docker-archive:{}", beside("docker.tar").display()),
    );
    let from_directory = built_on(&project, "oci:../base", &beside("from-directory"));
    assert_eq!(
        from_directory.manifest["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    // The project's file is part of the function, so the digest of the base's layers is compared.
    let layers = |image: &Image| {
        let all = image.manifest["layers"].as_array().unwrap();
        all[..all.len() - 1].to_vec()
    };
    let from_archive = built_on(&project, "oci-archive:../base.tar", &beside("from-archive"));
    assert_eq!(layers(&from_archive), layers(&from_directory));
    let from_docker = built_on(
        &project,
        "docker-archive:../docker.tar",
        &beside("from-docker"),
    );
    assert_eq!(
        from_docker.layers.len(),
        from_directory.layers.len(),
        "the same base in another wrapping"
    );
}

// --- links ---------------------------------------------------------------------

/// A setting that cannot be read is refused, not passed over in silence.
#[test]
fn a_variable_that_is_no_text_is_refused() {
    let project = Project::with_handler();
    let base = base();
    for name in ["LAMBIMG_PYTHON", "SOURCE_DATE_EPOCH"] {
        let run = project.lambimg(["build", "--base", &base, "--dry-run"]);
        let outcome = run.env(name, OsStr::from_bytes(b"\xff")).run();
        assert_eq!(outcome.code, Some(USAGE), "{name}: {}", outcome.rendering());
    }
}

/// Each link alone stays inside by its text; followed one after the other, they leave.
#[test]
fn link_that_leaves_the_project_by_another() {
    let project = Project::with_handler();
    project.file("one/two/file.txt", "");
    symlink("../..", project.path().join("one/two/top")).unwrap();
    symlink(
        "one/two/top/../../../secrets.txt",
        project.path().join("out"),
    )
    .unwrap();
    fail(&project, NOT_BUILDABLE, &[]);
}

/// Directories that stand there only for what the build itself writes are no part of the function.
#[test]
fn places_of_the_builds_own_files_stay_out() {
    let project = Project::with_handler();
    fs::create_dir(project.path().join("empty")).unwrap();
    let base = base();
    let cache = project.path().join(".cache/lambimg");
    let build = || {
        let build = ["build", "--base", &base, "-t", "some:1"];
        let outputs = [
            "-o",
            "oci:dist/images/one",
            "--metadata-file",
            "dist/made.json",
        ];
        let run = project.lambimg(build.iter().chain(&outputs));
        run.env("LAMBIMG_CACHE_DIR", &cache).succeed()
    };
    let first = build();
    assert_eq!(build(), first);
    let elsewhere = project.lambimg([
        "build",
        "--base",
        &base,
        "-t",
        "some:1",
        "--exclude",
        "dist",
        "--exclude",
        ".cache",
    ]);
    assert_eq!(elsewhere.succeed(), first);
}

#[test]
fn ignore_file_may_begin_with_a_byte_order_mark() {
    let project = Project::with_handler();
    project.file(".lambimgignore", "\u{feff}secret.txt\r\n");
    project.file("secret.txt", "secret");
    assert!(
        !listed(&project, &[])
            .iter()
            .any(|path| path.contains("secret"))
    );
}
