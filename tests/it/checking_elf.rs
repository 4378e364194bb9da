//! `check` on real wheels of the package index: each that cannot work in its image is found by one rule, by what
//! its own programs and libraries say, and those that can by none.
//!
//! Their bases are two: one of which only Lambda's own word tells the C library's version, and one that has this
//! machine's system libraries.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::architecture;
use crate::support::elf;
use crate::support::forge::Archive;
use crate::support::forge::Forge;
use crate::support::process::run;
use crate::support::project::Project;
use crate::support::tool;

/// What the system of Lambda's bases brings, as far as wheels need it.
const SYSTEM: [&str; 9] = [
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libz.so.1",
];

/// Where this machine's loader finds a library.
fn system_library(name: &str) -> PathBuf {
    let cache = run(Command::new("/sbin/ldconfig").arg("-p"));
    let of_machine = if architecture() == "arm64" {
        "AArch64"
    } else {
        "x86-64"
    };
    let mut lines = cache.lines().filter(|line| {
        let words = line.trim_start().strip_prefix(name);
        words.is_some_and(|rest| rest.starts_with(' ') && rest.contains(of_machine))
    });
    let line = lines.next();
    let (_, path) = line.unwrap().rsplit_once(" => ").unwrap();
    fs::canonicalize(path).unwrap()
}

fn loader() -> &'static str {
    if architecture() == "arm64" {
        "ld-linux-aarch64.so.1"
    } else {
        "ld-linux-x86-64.so.2"
    }
}

/// A function on a base with this machine's system libraries, where Amazon Linux has them.
fn with_system() -> Forge {
    let mut forge = Forge::sound();
    add_system(&mut forge, |_, bytes| bytes);
    forge
}

/// Adds the system's libraries to the base, each as `bend` makes it.
fn add_system(forge: &mut Forge, bend: impl Fn(&str, Vec<u8>) -> Vec<u8>) {
    let base = &mut forge.base[0];
    for name in SYSTEM.into_iter().chain([loader()]) {
        let bytes = fs::read(system_library(name)).unwrap();
        base.program(&format!("usr/lib64/{name}"), bend(name, bytes));
    }
    base.link("lib", "usr/lib").link(
        "usr/lib/ld-linux-aarch64.so.1",
        "../lib64/ld-linux-aarch64.so.1",
    );
}

/// Both bases, for Python 3.12.
fn bases() -> [(&'static str, Forge); 2] {
    [
        ("without a system", Forge::sound()),
        ("with a system", with_system()),
    ]
}

/// Adds a wheel's files to the function, as they were installed, but for those that `leave_out` tells.
fn install_but(forge: &mut Forge, wheel: &str, leave_out: impl Fn(&str) -> bool) {
    let root = tool("wheels").join(wheel);
    assert!(
        root.is_dir(),
        "{wheel} is missing: run python3 tests/tools.py first"
    );
    let mut left_out = false;
    add(&mut forge.function, &root, &root, &mut |path| {
        let out = leave_out(path);
        left_out |= out;
        out || path == ".lock"
    });
    assert!(
        left_out || !leave_out(""),
        "{wheel} has none of what is left out"
    );
}

fn install(forge: &mut Forge, wheel: &str) {
    let nothing = |_: &str| false;
    install_but(forge, wheel, nothing);
}

fn add(archive: &mut Archive, root: &Path, directory: &Path, is_out: &mut dyn FnMut(&str) -> bool) {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let relative = path.strip_prefix(root).unwrap().to_str().unwrap();
        if path.is_dir() {
            add(archive, root, &path, is_out);
        } else if !is_out(relative) {
            let bytes = fs::read(&path).unwrap();
            archive.file(&format!("var/task/{relative}"), bytes);
        }
    }
}

/// A line for each finding: rule, level, path and message.
fn findings(forge: &Forge) -> Vec<String> {
    let project = Project::new();
    let image = forge.write_beside(&project);
    // The older system's age, and the tests that pandas brings, are told as well.
    let check = [
        "check",
        &image,
        "--format",
        "json",
        "--ignore",
        "LMB096,LMB102",
    ];
    let outcome = project.lambimg(check).run();
    let report: Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}\n{}", outcome.rendering()));
    let findings = report["findings"].as_array().unwrap().iter();
    let line = |finding: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} {}: {}",
            text(&finding["rule"]),
            text(&finding["level"]),
            text(&finding["where"]["path"]),
            text(&finding["message"])
        )
    };
    findings.map(line).collect()
}

/// That there is one finding, of this rule, with these words in it.
fn assert_one(forge: &Forge, rule: &str, words: &[&str]) {
    assert_one_of("the image", forge, rule, words);
}

/// The same of one of several images, which a failure names.
fn assert_one_of(image: &str, forge: &Forge, rule: &str, words: &[&str]) {
    let found = findings(forge);
    let [only] = &found[..] else {
        panic!("{image}: one finding of {rule}: {found:#?}");
    };
    let told = only.starts_with(rule) && words.iter().all(|word| only.contains(word));
    assert!(told, "{image}: {rule} with {words:?}: {only}");
}

// --- Versions of libraries ----------------------------------------------------------------------

#[test]
fn a_newer_c_library_than_amazon_linux_2_has_is_found_by_its_symbol() {
    let mut forge = Forge::of_python("3.11", "2");
    // What it requires is there in a form of its own.
    forge.function.file("var/task/numpy/__init__.py", "");
    install(&mut forge, "newer-than-2.26");
    let words = [
        "`GLIBC_2.27` of `libm.so.6`",
        "glibc 2.26",
        "var/task/ml_dtypes/",
    ];
    assert_one(&forge, "LMB067 error", &words);
}

#[test]
fn a_newer_c_library_than_amazon_linux_2023_has_is_found_by_its_symbol() {
    let mut forge = Forge::sound();
    install(&mut forge, "newer-than-2.34");
    let words = [
        "`GLIBC_2.35` of `libm.so.6`",
        "glibc 2.34",
        "var/task/mlx/lib/libmlx.so",
    ];
    assert_one(&forge, "LMB067 error", &words);
}

/// Names that are a library's versions become others, and so does what it tells by them.
fn without_versions(bytes: Vec<u8>, family: &str, from: u8) -> Vec<u8> {
    let mut bytes = bytes;
    let start = format!("\0{family}").into_bytes();
    let places: Vec<_> = (0..bytes.len() - start.len() - 3)
        .filter(|at| bytes[*at..].starts_with(&start))
        .map(|at| at + start.len())
        .collect();
    let mut changed = 0;
    for at in places {
        let rest = &bytes[at..at + 3];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number: u8 = str::from_utf8(&rest[..digits])
            .unwrap()
            .parse()
            .unwrap_or(0);
        if rest.get(digits) == Some(&0) && number >= from {
            bytes[at..at + digits].fill(b'x');
            changed += 1;
        }
    }
    assert!(changed > 0, "it has versions from {family}{from} on");
    bytes
}

#[test]
fn a_newer_c_library_than_the_bases_own_is_found() {
    let mut forge = Forge::sound();
    add_system(&mut forge, |name, bytes| match name {
        "libm.so.6" | "libc.so.6" => without_versions(bytes, "GLIBC_2.", 27),
        _ => bytes,
    });
    install(&mut forge, "numpy");
    let words = ["`GLIBC_2.27`", "glibc 2.26", "`numpy`"];
    assert_one(&forge, "LMB067 error", &words);
}

#[test]
fn a_newer_c_plus_plus_library_than_the_bases_own_is_found() {
    let mut forge = Forge::sound();
    add_system(&mut forge, |name, bytes| match name {
        "libstdc++.so.6" => without_versions(bytes, "GLIBCXX_3.4.", 18),
        _ => bytes,
    });
    install(&mut forge, "grpcio");
    install(&mut forge, "typing-extensions");
    let words = [
        "`GLIBCXX_3.4.",
        "`libstdc++.so.6`",
        "whose newest is `GLIBCXX_3.4.17`",
    ];
    assert_one(&forge, "LMB068 error", &words);
}

// --- Other machines, C libraries and Pythons ----------------------------------------------------

#[test]
fn a_wheel_for_another_processor_is_found_once() {
    for (wheel, name) in [
        ("pillow-other", "`pillow`"),
        ("psycopg2-other", "`psycopg2-binary`"),
    ] {
        for (base, mut forge) in bases() {
            install(&mut forge, wheel);
            let image = format!("{wheel} on a base {base}");
            assert_one_of(&image, &forge, "LMB066 error", &["the image is for", name]);
        }
    }
}

#[test]
fn two_wheels_for_another_processor_are_two_findings() {
    let mut forge = with_system();
    for wheel in ["pillow-other", "psycopg2-other"] {
        install(&mut forge, wheel);
    }
    let found = findings(&forge);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found.iter().all(|line| line.starts_with("LMB066 error")));
}

/// The config is wrong, and all that it is wrong about is right.
#[test]
fn an_image_that_says_another_processor_is_found_without_its_wheels() {
    for (base, mut forge) in bases() {
        forge.architecture = if architecture() == "amd64" {
            "arm64"
        } else {
            "amd64"
        };
        for wheel in ["pillow", "psycopg2", "cryptography", "cffi", "pycparser"] {
            install(&mut forge, wheel);
        }
        let image = format!("a base {base}");
        let rule = if base == "with a system" {
            "LMB017 error"
        } else {
            "LMB026 error"
        };
        assert_one_of(&image, &forge, rule, &[]);
    }
}

#[test]
fn a_wheel_for_musl_is_found_once() {
    let wheels: [&[&str]; 4] = [
        &["markupsafe-musl"],
        &["psycopg2-musl"],
        &["pydantic-core-musl", "typing-extensions"],
        &["cryptography-musl", "cffi", "pycparser"],
    ];
    for wheels in wheels {
        for (base, mut forge) in bases() {
            for wheel in wheels {
                install(&mut forge, wheel);
            }
            let image = format!("{wheels:?} on a base {base}");
            assert_one_of(&image, &forge, "LMB069 error", &["musl"]);
        }
    }
}

#[test]
fn a_wheel_for_another_python_is_found_once() {
    for (base, mut forge) in bases() {
        install(&mut forge, "pillow-3.11");
        let image = format!("a base {base}");
        assert_one_of(
            &image,
            &forge,
            "LMB076 error",
            &["pillow 12.0.0 is for Python 3.11"],
        );
    }
}

/// Nothing but the names of the modules tells it.
#[test]
fn modules_for_another_python_are_found_without_the_wheels_own_word() {
    for (base, mut forge) in bases() {
        install_but(&mut forge, "pillow-3.11", |path| {
            path.is_empty() || path.contains(".dist-info/")
        });
        let image = format!("a base {base}");
        assert_one_of(&image, &forge, "LMB071 warning", &["`cpython-311`"]);
    }
}

// --- What is missing ----------------------------------------------------------------------------

#[test]
fn a_bundled_library_that_was_removed_is_found_once() {
    let removed: [(&[&str], &str); 5] = [
        (&["numpy"], "numpy.libs/libscipy_openblas64_"),
        (&["pillow"], "pillow.libs/libjpeg-"),
        // That one is needed by others of the same directory alone.
        (&["pillow"], "pillow.libs/libsharpyuv-"),
        (&["psycopg2"], "psycopg2_binary.libs/libpq-"),
        (&["psycopg2"], "psycopg2_binary.libs/libcom_err-"),
    ];
    for (wheels, library) in removed {
        for (base, mut forge) in bases() {
            for wheel in wheels {
                install_but(&mut forge, wheel, |path| {
                    path.is_empty() || path.starts_with(library)
                });
            }
            let image = format!("{library} on a base {base}");
            let name = library.rsplit('/').next().unwrap();
            assert_one_of(
                &image,
                &forge,
                "LMB069 error",
                &[&format!("it needs `{name}")],
            );
        }
    }
}

/// Whoever leaves out all of a wheel's libraries has done one thing, although each is missed.
#[test]
fn a_directory_of_bundled_libraries_that_was_removed_is_no_matter_of_the_record() {
    let mut forge = with_system();
    install_but(&mut forge, "pillow", |path| {
        path.is_empty() || path.starts_with("pillow.libs/")
    });
    let found = findings(&forge);
    assert!(!found.is_empty());
    assert!(
        found.iter().all(|line| line.starts_with("LMB069 error")),
        "{found:#?}"
    );
}

/// A module is no library: nothing but the record tells that it is gone.
#[test]
fn an_extension_module_that_was_removed_is_found_by_the_record() {
    let mut forge = with_system();
    install_but(&mut forge, "pillow", |path| {
        path.is_empty() || path.starts_with("PIL/_imaging.cpython")
    });
    assert_one(&forge, "LMB077 warning", &["PIL/_imaging.cpython"]);
}

#[test]
fn a_program_without_its_loader_is_found_once() {
    let program = needing_loader();
    let mut forge = with_system();
    forge.function.program("opt/extensions/watch", &program);
    assert_one(
        &forge,
        "LMB092 error",
        &["/ld-other-", "opt/extensions/watch"],
    );

    let mut forge = with_system();
    forge.function.program("opt/bin/tool", &program);
    assert_one(&forge, "LMB070 error", &["/ld-other-", "opt/bin/tool"]);

    let mut forge = with_system();
    forge.function.program("start", &program);
    forge.run["Entrypoint"] = serde_json::json!(["/start"]);
    assert_one(&forge, "LMB023 error", &["/ld-other-"]);
}

/// A real program that asks for a loader that no system has.
fn needing_loader() -> Vec<u8> {
    let mut bytes = fs::read("/bin/true").unwrap();
    let (own, other) = (b"/ld-linux-", b"/ld-other-");
    let mut windows = bytes.windows(own.len());
    let at = windows.position(|window| window == own).unwrap();
    bytes[at..at + other.len()].copy_from_slice(other);
    bytes
}

// --- What is sound ------------------------------------------------------------------------------

#[test]
fn wheels_that_fit_have_no_findings() {
    let all: [&[&str]; 2] = [
        &["numpy", "pandas", "python-dateutil", "tzdata"],
        &[
            "cryptography",
            "cffi",
            "pycparser",
            "pydantic-core",
            "typing-extensions",
            "pillow",
            "psycopg2",
            "lxml",
            "grpcio",
        ],
    ];
    for wheels in all {
        for (base, mut forge) in bases() {
            for wheel in wheels {
                install(&mut forge, wheel);
            }
            let found = findings(&forge);
            assert!(found.is_empty(), "{wheels:?} on a base {base}: {found:#?}");
        }
    }
}

#[test]
fn a_wheel_for_the_older_system_has_no_findings_there() {
    let mut forge = Forge::of_python("3.11", "2");
    install(&mut forge, "pillow-3.11");
    let found = findings(&forge);
    assert!(found.is_empty(), "{found:#?}");
}

/// One that tells no versions is taken, whatever is asked of it.
#[test]
fn programs_of_the_base_are_of_no_concern() {
    let mut forge = with_system();
    let machine = if architecture() == "arm64" {
        "aarch64"
    } else {
        "x86_64"
    };
    let newer = elf::library(elf::machine(machine), "GLIBC_2.99");
    forge.base[0].program("usr/bin/newer", newer);
    assert_eq!(findings(&forge), [""; 0]);
}
