//! Our tree of a wheel beside what `pip install --target` makes of it, file by file, for real wheels; and its
//! layer in both packings, as GNU tar and Python's `tarfile` read it.
//!
//! Not a part of `cargo test`: it asks PyPI for some seventy wheels, by name in `wheels.txt`, and keeps
//! them below `target`. What differs on purpose is said where it is passed over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ignore::gitignore::Gitignore;
use lambimg::blob_store::BlobStore;
use lambimg::file_tree::{FileTree, ImagePath, Node};
use lambimg::oci::layer::{self, Options, Packing};
use lambimg::progress::Progress;
use lambimg::python::examination;
use lambimg::python::wheel::{self, Archive, Placement};
use lambimg::python::{Glibc, Target, WheelFilename};

/// One line of the list: a requirement, a Python and a machine.
struct Wanted<'a> {
    requirement: &'a str,
    python: &'a str,
    machine: &'a str,
}

/// Contents and execute bit by path.
type Files = BTreeMap<String, (Vec<u8>, bool)>;

#[test]
fn trees_are_what_pip_installs() {
    let mut differences = Vec::new();
    for line in include_str!("wheels.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        let [requirement, python, machine] = words[..] else {
            panic!("{line}: a requirement, a Python and a machine");
        };
        let wanted = Wanted {
            requirement,
            python,
            machine,
        };
        let wheel = downloaded(&wanted);
        let found = compare(&wanted, &wheel);
        differences.extend(found.into_iter().map(|found| format!("{line}: {found}")));
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// The platforms of a base with glibc 2.34, as pip wants them: one by one.
fn platforms(wanted: &Wanted<'_>) -> Vec<String> {
    let machine = wanted.machine;
    let oldest = if machine == "x86_64" { 5 } else { 17 };
    let levels = (oldest..=34).rev();
    let levels = levels.map(|minor| format!("--platform=manylinux_2_{minor}_{machine}"));
    let old = ["manylinux2014", "manylinux2010", "manylinux1"];
    let old = old.map(|name| format!("--platform={name}_{machine}"));
    levels.chain(old).collect()
}

fn pip(wanted: &Wanted<'_>, action: &[&str]) {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    command
        .args(action)
        .args(["--no-deps", "--only-binary=:all:"]);
    command.args(["--implementation=cp", "--python-version", wanted.python]);
    let status = command.args(platforms(wanted)).status().unwrap();
    assert!(status.success(), "{command:?}");
}

/// The wheel, asked for once.
fn downloaded(wanted: &Wanted<'_>) -> PathBuf {
    let name = format!(
        "{}-{}-{}",
        wanted.requirement, wanted.python, wanted.machine
    );
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/compare")
        .join(name);
    if !directory.exists() {
        let part = directory.with_extension("part");
        let to = part.to_str().unwrap();
        pip(wanted, &["download", "--dest", to, wanted.requirement]);
        fs::rename(&part, &directory).unwrap();
    }
    let entry = fs::read_dir(&directory).unwrap().next().unwrap();
    entry.unwrap().path()
}

fn compare(wanted: &Wanted<'_>, wheel: &Path) -> Vec<String> {
    let file = wheel.file_name().unwrap().to_str().unwrap();
    let filename = WheelFilename::parse(file).unwrap();
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let glibc = Glibc {
        major: 2,
        minor: 34,
    };
    let (python, machine) = (
        wanted.python.parse().unwrap(),
        wanted.machine.parse().unwrap(),
    );
    let target = Target::new(python, machine, glibc);
    let begun = Instant::now();
    let version = filename.version.to_string();
    let archive = match Archive::open(wheel, &filename.name, &version) {
        Ok(archive) => archive,
        Err(error) => return vec![format!("refused: {error}")],
    };
    let examined = examination::examine(archive, scratch.path());
    let examination = match examined {
        Ok(examination) => examination,
        Err(error) => return vec![format!("refused: {error}")],
    };
    let megabytes = fs::metadata(wheel).unwrap().len() >> 20;
    println!(
        "{file}: {megabytes} MiB examined in {:.2?}",
        begun.elapsed()
    );
    // A wheel that lies about what it needs is no difference.
    let fit = examination.fit(&filename, target, |_| true);
    let fit = fit.unwrap_or_else(|error| vec![error.to_string()]);
    let words = examination.warnings.iter().chain(&examination.details);
    for word in words.chain(&fit) {
        println!("    {word}");
    }

    let into = scratch.path().join("installed");
    let to = into.to_str().unwrap();
    let flags = [
        "install",
        "--no-compile",
        "--no-index",
        "--ignore-requires-python",
    ];
    let rest = ["--target", to, wheel.to_str().unwrap()];
    pip(wanted, &[&flags[..], &rest].concat());
    let theirs = of_directory(&into);
    let tree = tree_of(wheel, &filename);
    let ours = of_tree(&tree);
    let mut found = differences(&ours, &theirs);
    found.extend(packings(&tree, &ours, scratch.path()));
    found
}

/// Whether the spliced layer of a tree has the tar of the one compressed anew, and is what it should be to other
/// readers.
fn packings(tree: &FileTree, ours: &Files, scratch: &Path) -> Vec<String> {
    let store = BlobStore::open(scratch.join("store")).unwrap();
    let made = |packing| {
        let options = Options { epoch: 0, packing };
        let task = Progress::default().task("make", None);
        layer::make(&store, tree, options, &task).unwrap().0
    };
    let (spliced, anew) = (made(Packing::Spliced), made(Packing::Recompressed));
    println!(
        "    layer of {} bytes, {} when compressed anew",
        spliced.size, anew.size
    );
    let mut found = Vec::new();
    if spliced.diff_id != anew.diff_id {
        found.push("spliced it is another tar than compressed anew".to_owned());
    }
    let blob = store.path(&spliced.digest);
    let with_tarfile =
        "import sys, tarfile; tarfile.open(sys.argv[1], 'r:gz').extractall(sys.argv[2])";
    let readers: [(&str, &[&str]); 2] = [
        ("tar", &["tar", "-xzf", "BLOB", "-C", "TO"]),
        (
            "tarfile",
            &["python3", "-Wignore", "-c", with_tarfile, "BLOB", "TO"],
        ),
    ];
    for (reader, command) in readers {
        let to = scratch.join(reader);
        fs::create_dir(&to).unwrap();
        let words = command.iter().map(|&word| match word {
            "BLOB" => blob.as_os_str(),
            "TO" => to.as_os_str(),
            word => word.as_ref(),
        });
        let words: Vec<_> = words.collect();
        let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
        if !status.success() {
            found.push(format!("{reader} does not read its layer"));
        } else if of_directory(&to.join("task")) != *ours {
            found.push(format!("{reader} reads other files in its layer"));
        }
    }
    found
}

fn tree_of(wheel: &Path, filename: &WheelFilename) -> FileTree {
    let root = ImagePath::new("task").unwrap();
    let placement = Placement {
        root: &root,
        interpreter: "/var/lang/bin/python3",
        exclude: &Gitignore::empty(),
    };
    let version = filename.version.to_string();
    let archive = Archive::open(wheel, &filename.name, &version).unwrap();
    wheel::file_tree(&archive, &placement).unwrap().tree
}

fn of_tree(tree: &FileTree) -> Files {
    let mut files = Files::new();
    for (path, entry) in tree.iter() {
        if let Node::File {
            content,
            executable,
        } = &entry.node
        {
            let mut bytes = Vec::new();
            content.open().unwrap().read_to_end(&mut bytes).unwrap();
            let path = path.as_str().strip_prefix("task/").unwrap().to_owned();
            files.insert(path, (bytes, *executable));
        }
    }
    files
}

fn of_directory(root: &Path) -> Files {
    let mut files = Files::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            files.insert(
                name.to_owned(),
                (fs::read(&path).unwrap(), mode & 0o111 != 0),
            );
        }
    }
    files
}

fn differences(ours: &Files, theirs: &Files) -> Vec<String> {
    let mut found = Vec::new();
    let paths = ours.keys().chain(theirs.keys());
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        if is_the_installers(path) {
            continue;
        }
        match (ours.get(path), theirs.get(path)) {
            // pip drops what `.data/data` has below `lib`: see `python::wheel`.
            (Some(_), None) if path.starts_with("lib/") => {}
            (Some(_), None) => found.push(format!("{path} is ours alone")),
            (None, Some(_)) => found.push(format!("{path} is pip's alone")),
            (Some(ours), Some(theirs)) if ours.1 != theirs.1 => {
                found.push(format!("{path}: our execute bit is {}", ours.1));
            }
            (Some(ours), Some(theirs)) if path.starts_with("bin/") => {
                if meaning(&ours.0) != meaning(&theirs.0) {
                    found.push(format!("{path} means something else"));
                }
            }
            (Some(ours), Some(theirs)) if path.ends_with(".dist-info/RECORD") => {
                found.extend(record_differences(&ours.0, &theirs.0));
            }
            (Some(ours), Some(theirs)) if ours.0 != theirs.0 => {
                found.push(format!("{path} has other bytes"));
            }
            _ => {}
        }
    }
    found
}

/// Files that each installer writes in its own name, and scripts that pip names after the Python that it
/// runs under itself.
fn is_the_installers(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap();
    let own = ["INSTALLER", "REQUESTED", "direct_url.json"].contains(&file);
    (own && path.contains(".dist-info/")) || path.starts_with("bin/pip")
}

/// A script without its first line, and without what pip does to the name of the program.
fn meaning(script: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(script) else {
        return script.to_vec();
    };
    let lines = text.lines().skip(usize::from(text.starts_with("#!")));
    let lines = lines.map(|line| line.replace('\'', "\""));
    let telling = lines.filter(|line| {
        let pips = [
            "# -*- coding",
            "import re",
            "import sys",
            "    sys.argv[0] =",
        ];
        !line.is_empty() && !pips.iter().any(|start| line.starts_with(start))
    });
    telling.collect::<Vec<_>>().join("\n").into_bytes()
}

/// Each file of ours is listed with the hash that pip lists; scripts and generated files have others.
fn record_differences(ours: &[u8], theirs: &[u8]) -> Vec<String> {
    let rows = |text: &[u8]| -> BTreeMap<String, String> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let rows = text.lines().filter_map(|line| line.split_once(",sha"));
        let name = |path: &str| path.trim_matches('"').replace("../../", "");
        rows.map(|(path, rest)| (name(path), rest.to_owned()))
            .filter(|(path, _)| !is_the_installers(path) && !path.starts_with("bin/"))
            .collect()
    };
    let (ours, theirs) = (rows(ours), rows(theirs));
    let differing = theirs.iter().filter(|(path, hash)| {
        // pip says of data and headers where they lay before it moved them.
        let moved = ["share/", "include/", "../"];
        let moved = moved.iter().any(|start| path.starts_with(start));
        !moved && ours.get(*path) != Some(hash)
    });
    differing
        .map(|(path, hash)| format!("RECORD: {path} is {:?}, pip has {hash}", ours.get(path)))
        .collect()
}
