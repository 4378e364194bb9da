//! Wheels that no honest tool makes: refused by name, with nothing written but the store's own files,
//! and the store as good as before.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::elf;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::wheel::Wheel;

const NOT_BUILDABLE: i32 = 3;
/// Where a hostile member wants to be.
const CANARY: &str = "/tmp/lambimg-canary";

/// Builds with this wheel and no other.
fn build(project: &Project, wheel: &Wheel, flags: &[&str]) -> Outcome {
    let index = Index::start();
    index.serve(wheel);
    let (name, file) = (wheel.name(), wheel.file_name());
    let version = file.split('-').nth(1).unwrap();
    let lock = format!(
        "lock-version = \"1.0\"\ncreated-by = \"another\"\n\n[[packages]]\nname = \"{name}\"\n\
         version = \"{version}\"\nwheels = [{{ url = \"{}/{file}\", hashes = {{ sha256 = \"{}\" }} }}]\n",
        index.url().replace("/simple", "/files"),
        &digest(&wheel.bytes())[7..],
    );
    project.file("pylock.toml", lock);
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "some:1"];
    let run = project.lambimg(build.iter().chain(flags));
    run.index(&index.url()).run()
}

/// Every file in the test's directory that is not the store's.
fn files(project: &Project) -> BTreeSet<PathBuf> {
    fn list(directory: &Path, store: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != store {
                list(&path, store, found);
            } else {
                found.insert(path);
            }
        }
    }
    let mut found = BTreeSet::new();
    list(&project.beside(""), &project.cache(), &mut found);
    found
}

/// Replaces each place where the bytes stand.
fn replace(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "places in the archive stay");
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

/// The first entry of the directory, or the first local header.
fn place(bytes: &[u8], signature: [u8; 4]) -> usize {
    let mut windows = bytes.windows(4);
    windows.position(|window| window == signature).unwrap()
}

const LOCAL: [u8; 4] = *b"PK\x03\x04";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";

/// What stands in the first member's headers, in both.
fn in_headers(mut bytes: Vec<u8>, field: usize, value: &[u8]) -> Vec<u8> {
    for at in [
        place(&bytes, LOCAL) + field,
        place(&bytes, CENTRAL) + field + 2,
    ] {
        bytes[at..at + value.len()].copy_from_slice(value);
    }
    bytes
}

/// Puts a copy of the third member into the contents of the second, for the directory to lead there.
fn inner_into_outer(mut bytes: Vec<u8>) -> Vec<u8> {
    let all = |signature: [u8; 4]| {
        let windows = bytes.windows(4).enumerate();
        let found = windows.filter(|(_, window)| *window == signature);
        found.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (locals, entries) = (all(LOCAL), all(CENTRAL));
    let (inner, contents) = (locals[2], locals[1] + 30 + "outer".len());
    bytes.copy_within(inner..inner + 36, contents);
    let offset = u32::try_from(contents).unwrap().to_le_bytes();
    bytes[entries[2] + 42..entries[2] + 46].copy_from_slice(&offset);
    bytes
}

/// What no archive should hold.
fn hostile_contents() -> Vec<(&'static str, Wheel)> {
    let some = || Wheel::pure("some", "1.0");
    let member = |path: &str| some().member(path, "#");
    vec![
        (
            "a hash that lies",
            some().record(|record| Some(record.replace("sha256=", "sha256=x"))),
        ),
        (
            "a size that lies",
            some().record(|record| Some(record.replacen(",16\n", ",17\n", 1))),
        ),
        (
            "two rows",
            some().record(|record| Some(record + "some/__init__.py,,1\n")),
        ),
        ("no RECORD", some().record(|_| None)),
        ("an absolute path", member(CANARY)),
        ("a path upwards", member("../../../canary")),
        (
            "a path upwards by a scheme",
            member("some-1.0.data/data/../../../../canary"),
        ),
        ("a backslash", member("..\\canary")),
        (
            "a link",
            some().member_with_mode("some/link", "/etc/passwd", 0o120_777),
        ),
        ("two members of one name", member("some/__init__.py")),
        (
            "a file and a directory",
            some().member("some/__init__.py/", ""),
        ),
        ("a file below a file", member("some/__init__.py/x")),
        ("no such scheme", member("some-1.0.data/etc/x")),
        ("a script elsewhere", some().script("../canary = some:main")),
        ("another project", member("other-1.0.dist-info/METADATA")),
        (
            "a name for terminals",
            some().member_with_mode("\u{1b}[2J", "", 0o120_777),
        ),
        ("a name that deletes", member("some/.wh.x")),
    ]
}

/// Archives that readers take two ways, or that are not what they say.
fn hostile_archives() -> Vec<(&'static str, Wheel)> {
    let some = || Wheel::pure("some", "1.0");
    let bomb = |count: u32| {
        let zeros = vec![0; 1 << 20];
        (0..count).fold(some(), |wheel, number| {
            wheel.deflated(&format!("{number}"), zeros.clone(), u32::MAX - 1)
        })
    };
    vec![
        (
            "two names",
            some().archive(|bytes| {
                let at = place(&bytes, LOCAL) + 30;
                let mut bytes = bytes;
                bytes[at] = b'x';
                bytes
            }),
        ),
        (
            "members that overlap",
            some()
                .member("outer", [0; 36])
                .member("inner", "x")
                .archive(inner_into_outer),
        ),
        (
            "encryption",
            some().archive(|bytes| in_headers(bytes, 6, &[1, 8])),
        ),
        (
            "a size in its headers that lies",
            some().archive(|bytes| in_headers(bytes, 18, &[17, 0, 0, 0, 17])),
        ),
        (
            "a damaged member",
            some().archive(|bytes| replace(bytes, b"VERSION =", b"VERSION +")),
        ),
        (
            "a NUL in a name",
            some().archive(|bytes| replace(bytes, b"some/__init__", b"some/\0_init__")),
        ),
        ("an unpack bomb that is declared", bomb(3)),
        (
            "an unpack bomb that is not",
            some()
                .deflated("zeros", vec![0; 1 << 20], 10)
                .record(|record| {
                    Some(record.replace(
                        ",1048576
",
                        ",10
",
                    ))
                }),
        ),
        (
            "bytes in front",
            some().archive(|bytes| [b"#!/bin/sh\n", &bytes[..]].concat()),
        ),
        (
            "bytes behind",
            some().archive(|bytes| [&bytes[..], b"more"].concat()),
        ),
        (
            "half an archive",
            some().archive(|bytes| bytes[..bytes.len() / 2].to_vec()),
        ),
        (
            "no data descriptor",
            some().archive(|bytes| in_headers(bytes, 6, &[8, 8])),
        ),
    ]
}

#[test]
fn hostile_wheels() {
    let project = Project::with_handler();
    let honest = Wheel::pure("some", "1.0");
    assert_eq!(build(&project, &honest, &[]).code, Some(0));
    let before = files(&project);
    let mut told = String::new();
    for (what, wheel) in [hostile_contents(), hostile_archives()].concat() {
        let outcome = build(&project, &wheel, &[]);
        assert_eq!(
            outcome.code,
            Some(NOT_BUILDABLE),
            "{what}: {}",
            outcome.rendering()
        );
        assert_eq!(outcome.stdout, "", "{what}");
        let error = outcome.stderr.split("error: ").nth(1).unwrap_or_default();
        let _ = writeln!(told, "--- {what}\n{}", error.trim_end());
        assert_eq!(files(&project), before, "{what}");
        assert!(!Path::new(CANARY).exists(), "{what}");
        assert_whole(&project.cache());
    }
    insta::assert_snapshot!(told);
    // The store is as good as before.
    let another = Wheel::pure("some", "1.0").member("some/more.py", "");
    for wheel in [&honest, &another] {
        let outcome = build(&project, wheel, &["--no-cache"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    }
}

#[test]
fn what_is_odd_is_told_and_taken() {
    let project = Project::with_handler();
    let wheel = Wheel::pure("some", "1.0")
        .member("some/A.py", "")
        .member("some/a.py", "")
        .member("some/caf\u{e9}.py", "")
        .member("some/cafe\u{301}.py", "")
        .record(|record| {
            let rows = record
                .lines()
                .filter(|row| !row.starts_with("some-1.0.dist-info/WHEEL"));
            Some(rows.collect::<Vec<_>>().join("\n") + "\nsome/absent.py,,\n")
        });
    let place = project.beside("image");
    let output = format!("oci:{}", place.display());
    let outcome = build(&project, &wheel, &["-o", &output]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let lines = outcome.stderr.lines();
    let warnings: Vec<_> = lines.filter(|line| line.starts_with("warning: ")).collect();
    let warnings = warnings.join("\n").replace('\u{301}', "[accent]");
    insta::assert_snapshot!(warnings, @"
    warning: some-1.0-py3-none-any.whl: not in its RECORD: `some-1.0.dist-info/WHEEL`
    warning: some-1.0-py3-none-any.whl: one file where case or composition of letters does not count: `some/A.py` and `some/a.py`, `some/cafe[accent].py` and `some/café.py`
    ");
    let image = Image::in_directory(&place);
    image.assert_accepted_by_lambda();
    let task = image.files_below("var/task");
    for file in ["A.py", "a.py", "caf\u{e9}.py", "cafe\u{301}.py"] {
        assert!(task.contains_key(&format!("some/{file}")), "{file}");
    }
    let record = &task["some-1.0.dist-info/RECORD"].content;
    let record = String::from_utf8(record.clone()).unwrap();
    assert!(
        record.contains("some-1.0.dist-info/WHEEL,sha256="),
        "{record}"
    );
    assert!(!record.contains("absent"), "{record}");
}

#[test]
fn programs_that_the_base_cannot_load() {
    let here = std::env::consts::ARCH;
    let other = if here == "aarch64" {
        "x86_64"
    } else {
        "aarch64"
    };
    let wheel = |library: Vec<u8>| {
        Wheel::tagged("some", "1.0", &format!("cp312-cp312-manylinux_2_17_{here}"))
            .member("some/ordinary.py", "")
            .member("some/native.so", library)
    };
    let project = Project::with_handler();
    let mut told = String::new();
    for library in [
        elf::library(elf::machine(here), "GLIBC_2.99"),
        elf::library(elf::machine(other), "GLIBC_2.17"),
    ] {
        // The second time too: what is remembered of a wheel is not that it fits.
        for _ in 0..2 {
            let outcome = build(&project, &wheel(library.clone()), &[]);
            assert_eq!(outcome.code, Some(NOT_BUILDABLE), "{}", outcome.rendering());
            assert_whole(&project.cache());
            let error = outcome.stderr.split("error: ").nth(1).unwrap_or_default();
            told += error;
        }
    }
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&format!("{here}\\b"), "[here]");
    settings.add_filter(&format!("{other}\\b"), "[other]");
    settings.add_filter(r"has 2\.\d+", "has [glibc]");
    settings.bind(|| insta::assert_snapshot!(told));
    let old = elf::library(elf::machine(here), "GLIBC_2.17");
    let outcome = build(&project, &wheel(old), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
}

/// Every wheel stays open while layers are made; a shell's limit of open files is none of ours.
#[test]
fn more_wheels_than_open_files() {
    let index = Index::start();
    let project = Project::with_handler();
    let mut wanted = String::new();
    for number in 0..80 {
        let name = format!("part{number}");
        index.serve(&Wheel::pure(&name, "1.0"));
        wanted += &name;
        wanted.push('\n');
    }
    project.file("requirements.txt", wanted);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 64 && exec \"$@\"", "sh"]);
    shell.arg(env!("CARGO_BIN_EXE_lambimg"));
    shell.args([
        "build",
        "-t",
        "some:1",
        "--base",
        &Base::aws("3.12").reference(),
    ]);
    project.run_by(shell).index(&index.url()).succeed();
}
