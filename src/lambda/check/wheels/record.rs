//! What distributions' `RECORD`s say: which files they have, and whether these are there and as they were installed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::lambda::check::contents::Seen;
use crate::lambda::check::modules::text_at;
use crate::lambda::check::paths::{self, below, joined};
use crate::lambda::check::subject::{Python, Subject};
use crate::lambda::check::wheels::{Distribution, added, distributions};
use crate::lambda::check::{Fault, Level, MOST, elf, folded};
use crate::oci::flatten::Kind;
use crate::python::wheel::read_record;

/// Path below the distribution's directory → hash and size as recorded.
pub(super) type Record = BTreeMap<String, (String, String)>;

/// Whether its `RECORD` was too long to be kept: which files are its own is not known.
fn is_unknown(image: &Subject, one: &Distribution) -> bool {
    let record = image.find(&joined(&one.info, "RECORD"));
    let seen = record
        .as_ref()
        .and_then(|(_, found)| found.entry.seen.as_ref());
    seen.is_some_and(|seen| seen.is_dropped)
}

pub(super) fn record<'a>(image: &Subject, one: &'a Distribution) -> &'a Record {
    one.record.get_or_init(|| {
        let text = text_at(image, &joined(&one.info, "RECORD")).unwrap_or_default();
        read_record(&text).unwrap_or_default()
    })
}

/// What may be deleted without a loss to any program: sources and tests of the distribution, and its own papers.
fn is_dispensable(path: &str) -> bool {
    let mut directories = path.split('/').rev().skip(1);
    let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
    let papers = [
        "pyi", "typed", "pyx", "pxd", "pxi", "c", "cc", "cpp", "h", "hpp", "md", "rst", "pyc",
    ];
    // Other texts may be data.
    let texts = [
        "AUTHORS",
        "CHANGE",
        "CONTRIBUT",
        "COPYING",
        "COPYRIGHT",
        "HISTORY",
        "LICEN",
        "NEWS",
        "NOTICE",
        "README",
        "THANKS",
        "THIRD",
    ];
    let name = paths::name(path).to_uppercase();
    let is_text = ending == "txt" && texts.iter().any(|start| name.starts_with(start));
    directories.any(|directory| {
        matches!(
            directory,
            "tests" | "test" | "testing" | "docs" | "doc" | "examples" | "__pycache__"
        ) || directory.ends_with(".dist-info")
    }) || is_text
        || papers.contains(&ending)
}

pub(super) fn is_whole(image: &Subject) -> Vec<Fault> {
    let Some(python) = &image.python else {
        return Vec::new();
    };
    let all = distributions(image, python);
    let told = OnceCell::new();
    let mut faults = Vec::new();
    for one in added(image, all) {
        faults.extend(tell_invalid(image, one));
        let mut missing = Vec::new();
        let mut other = Vec::new();
        for (path, row) in record(image, one) {
            // What is above the directory was moved by whoever installed, or is a script.
            if path.starts_with("..") || path.starts_with('/') || path.starts_with("bin/") {
                continue;
            }
            match state(image, &joined(&one.directory, path), row) {
                State::Missing if !is_dispensable(path) => missing.push(path),
                State::Other(layer) if !is_rewritten(path) => {
                    let claimed = all.iter().any(|owner| {
                        owner.info != one.info
                            && owner.directory == one.directory
                            && record(image, owner).contains_key(path)
                    });
                    other.push((path, layer, claimed || layer > one.layer));
                }
                _ => {}
            }
        }
        leave_out_told(image, &mut missing, &told);
        faults.extend(tell_missing(one, &missing));
        let (over, changed): (Vec<_>, Vec<_>) = other.into_iter().partition(|(_, _, over)| *over);
        faults.extend(tell_other(
            one,
            &changed,
            "is not the file that RECORD states",
            Level::Warning,
        ));
        faults.extend(tell_other(
            one,
            &over,
            "was replaced by another file",
            Level::Note,
        ));
    }
    folded(faults, MOST)
}

/// Leaves out libraries of directories where one is missing that another file needs: the rules of ELF files tell it.
fn leave_out_told(image: &Subject, missing: &mut Vec<&String>, told: &OnceCell<BTreeSet<String>>) {
    let is_library = |path: &str| {
        let is_module = path.contains(".cpython-") || path.ends_with(".abi3.so");
        path.contains(".so") && !is_module
    };
    if !missing.iter().any(|path| is_library(path)) {
        return;
    }
    let told = told.get_or_init(|| elf::missing_libraries(image));
    let directories = missing
        .iter()
        .filter(|path| told.contains(paths::name(path)));
    let directories: BTreeSet<&str> = directories.map(|path| paths::directory(path)).collect();
    missing.retain(|path| !is_library(path) || !directories.contains(paths::directory(path)));
}

/// The papers that installers write or change after the hash was taken.
fn is_rewritten(path: &str) -> bool {
    let name = paths::name(path);
    path.contains(".dist-info/")
        && matches!(
            name,
            "RECORD" | "INSTALLER" | "REQUESTED" | "direct_url.json" | "RECORD.jws" | "RECORD.p7s"
        )
}

enum State {
    Sound,
    Missing,
    /// It is another file; from which layer.
    Other(usize),
}

fn state(image: &Subject, path: &str, (hash, size): &(String, String)) -> State {
    let Some((_, found)) = image.find(path) else {
        return if image.tree.contains(path) {
            State::Sound
        } else {
            State::Missing
        };
    };
    let entry = found.entry;
    if entry.kind != Kind::File || paths::has_ending(path, "pyc") {
        return State::Sound;
    }
    let digest = entry.seen.as_ref().and_then(|seen| seen.digest);
    let stated = hash
        .strip_prefix("sha256=")
        .map(|hash| hash.trim_end_matches('='));
    let other_hash = match (stated, digest) {
        (Some(stated), Some(digest)) => stated != URL_SAFE_NO_PAD.encode(digest.as_bytes()),
        _ => false,
    };
    let other_size = !hash.is_empty() && size.parse().is_ok_and(|size: u64| size != entry.size);
    if other_hash || other_size {
        State::Other(found.layer)
    } else {
        State::Sound
    }
}

/// A distribution of which nobody can tell name and version. One without a `RECORD` is only not removed by pip, and
/// Debian's are all so.
fn tell_invalid(image: &Subject, one: &Distribution) -> Option<Fault> {
    let metadata = joined(&one.info, "METADATA");
    let message = format!(
        "{} has no `METADATA`: pip skips it, and `importlib.metadata` does not know its version",
        one.title()
    );
    image.find(&metadata).is_none().then(|| one.fault(message))
}

fn tell_missing(one: &Distribution, missing: &[&String]) -> Option<Fault> {
    let first = missing.first()?;
    let message = format!("{} has no file here{}", one.title(), others(missing.len()));
    let path = joined(&one.directory, first);
    Some(Fault::new(message).layer(one.layer).path(path))
}

fn tell_other(
    one: &Distribution,
    files: &[(&String, usize, bool)],
    what: &str,
    level: Level,
) -> Option<Fault> {
    let (path, layer, _) = files.first()?;
    let message = format!("this file of {} {what}{}", one.title(), others(files.len()));
    let path = joined(&one.directory, path);
    Some(Fault::new(message).layer(*layer).path(path).level(level))
}

fn others(count: usize) -> String {
    match count {
        1 => String::new(),
        2 => ", nor is 1 other as it was installed".to_owned(),
        _ => format!(", nor are {} others as they were installed", count - 1),
    }
}

/// The files that distributions record, of which `is_one` says so: path and the distribution's name.
pub(in crate::lambda::check) fn owners(
    image: &Subject,
    is_one: fn(&Seen) -> bool,
) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    let Some(python) = &image.python else {
        return owners;
    };
    for one in distributions(image, python) {
        for path in record(image, one).keys() {
            let path = joined(&one.directory, path);
            let found = image.get(&path);
            let seen = found.and_then(|found| found.entry.seen.as_ref());
            if seen.is_some_and(is_one) {
                owners.insert(path, one.name.clone());
            }
        }
    }
    owners
}

/// Whether a distribution lists a file of this name, in whatever directory.
pub(in crate::lambda::check) fn has_recorded(image: &Subject, name: &str) -> bool {
    let Some(python) = &image.python else {
        return false;
    };
    let is_it = |path: &String| paths::name(path) == name;
    recorded(image, python).iter().any(is_it)
}

/// The files with this ending that distributions list with a hash: those that were in their wheels.
pub(in crate::lambda::check) fn with_hash(
    image: &Subject,
    python: &Python,
    ending: &str,
) -> BTreeSet<String> {
    let all = distributions(image, python).iter();
    let paths = all.flat_map(|one| {
        let rows = record(image, one).iter();
        let rows = rows.filter(|(path, (hash, _))| path.ends_with(ending) && !hash.is_empty());
        rows.map(|(path, _)| joined(&one.directory, path))
    });
    paths.collect()
}

/// The paths that distributions list.
fn recorded<'a>(image: &'a Subject, python: &Python) -> &'a HashSet<String> {
    image.known.recorded.get_or_init(|| {
        let all = distributions(image, python).iter();
        let paths = all.flat_map(|one| {
            let rows = record(image, one).keys();
            rows.map(|row| joined(&one.directory, row))
        });
        paths.collect()
    })
}

/// Directories in which there may be files of distributions that nobody can tell.
fn unknown<'a>(image: &'a Subject, python: &Python) -> &'a BTreeSet<String> {
    image.known.unknown.get_or_init(|| {
        let all = distributions(image, python).iter();
        let unknown = all.filter(|one| is_unknown(image, one));
        unknown.map(|one| one.directory.clone()).collect()
    })
}

/// Whether a distribution lists the file at this path, or one beside it may.
pub(in crate::lambda::check) fn is_recorded(image: &Subject, python: &Python, path: &str) -> bool {
    let mut unknown = unknown(image, python).iter();
    recorded(image, python).contains(path)
        || unknown.any(|directory| below(directory, path).is_some())
}
