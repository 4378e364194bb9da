//! Rules of installed distributions: whether they are for this machine, whole, and have what they require.
//!
//! Follows the specifications of wheels and of recorded installations. What a shared library itself says of its
//! machine and libraries is the rules' of ELF files: where those speak, the tags of its wheel are silent.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pep440_rs::{Version, VersionSpecifiers};

use crate::lambda::check::contents::Seen;
use crate::lambda::check::modules::{self, below, joined, text_at};
use crate::lambda::check::subject::{Python, Subject};
use crate::lambda::check::{Fault, Level, Look, Rule, elf, folded, program};
use crate::oci::flatten::Kind;
use crate::python::elf::Watched;
use crate::python::markers::Markers;
use crate::python::requirement::Requirement;
use crate::python::wheel::read_record;
use crate::python::{Glibc, Misfit, Target, WheelFilename, normalize_name};

/// Findings of one rule at most.
const MOST: usize = 10;
/// What a lenient judge takes for the C library where none is known.
const ANY_GLIBC: Glibc = Glibc {
    major: 2,
    minor: 99,
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB076",
        level: Level::Error,
        title: "Installed wheels are for the image's Python and machine",
        why: "A wheel for another Python, processor or C library was installed past pip's own check; its import ends with \
              `Runtime.ImportModuleError: Unable to import module`.",
        remedy: "Install with the Python, `--platform` and `--python-version` of the image.",
        look: Look::Files(fits),
    },
    Rule {
        id: "LMB077",
        level: Level::Warning,
        title: "Installed distributions are whole",
        why: "A file is gone or another than `RECORD` says; what was deleted to save space may be imported after all and \
              ends with `Runtime.ImportModuleError`, and of one without `METADATA` the version is `None`.",
        remedy: "Install the distribution again, or leave out only what it does not need.",
        look: Look::Files(is_whole),
    },
    Rule {
        id: "LMB078",
        level: Level::Warning,
        title: "Installed distributions have what they require",
        why: "`pip check` would say the same; the import of what is not there ends with `Runtime.ImportModuleError: Unable \
              to import module`.",
        remedy: "Install the requirement at a version that fits.",
        look: Look::Files(has_requirements),
    },
    Rule {
        id: "LMB079",
        level: Level::Warning,
        title: "Installed distributions allow the image's Python",
        why: "`Requires-Python` shuts this version out, so that pip would not have installed it here; syntax and modules \
              that it relies on may not be there.",
        remedy: "Install a version of it that is made for the image's Python.",
        look: Look::Files(allows_python),
    },
    Rule {
        id: "LMB080",
        level: Level::Warning,
        title: "A directory has one version of a distribution",
        why: "Files of both lie over each other, and which of the two versions `importlib.metadata` tells is chance.",
        remedy: "Install into an empty directory, or with `pip install --upgrade --target`.",
        look: Look::Files(is_there_once),
    },
];

/// An installed distribution.
#[derive(Debug)]
pub(super) struct Distribution {
    /// The directory of the module path that it is in.
    directory: String,
    /// Its `.dist-info`.
    info: String,
    name: String,
    version: Option<Version>,
    layer: usize,
    fields: String,
    /// Its `RECORD`, once it is asked for.
    record: OnceLock<Record>,
}

/// Path below the distribution's directory → hash and size as recorded.
type Record = BTreeMap<String, (String, String)>;

impl Distribution {
    fn field<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        fields(&self.fields, name)
    }

    /// What only another version of itself has as well.
    fn key(&self) -> (&str, &str) {
        (&self.directory, &self.name)
    }

    fn fault(&self, message: String) -> Fault {
        Fault::new(message).layer(self.layer).path(&self.info)
    }

    fn title(&self) -> String {
        match &self.version {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }
}

fn fields<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// All distributions in directories of the module path, in its order; of one directory by name.
fn distributions<'a>(image: &'a Subject, python: &Python) -> &'a [Distribution] {
    image
        .known
        .distributions
        .get_or_init(|| listed(image, python))
}

fn listed(image: &Subject, python: &Python) -> Vec<Distribution> {
    let infos = image.tree.paths().filter_map(|path| {
        let (info, name) = path.rsplit_once('/')?;
        let is_one =
            info.ends_with(".dist-info") && matches!(name, "METADATA" | "RECORD" | "WHEEL");
        is_one.then_some(info)
    });
    let infos: BTreeSet<&str> = infos.collect();
    // Its directories may be links, and the files are where these lead.
    let places = python.path.iter().map(|place| {
        let led = image.tree.resolve(place, &image.layers);
        led.unwrap_or_else(|_| place.clone())
    });
    let places: Vec<_> = places.collect();
    let place = |directory: &str| places.iter().position(|other| other == directory);
    let mut found: Vec<_> = infos
        .into_iter()
        .filter_map(|info| {
            let (directory, stem) = info.rsplit_once('/').unwrap_or(("", info));
            let place = place(directory)?;
            let metadata = text_at(image, &joined(info, "METADATA")).unwrap_or_default();
            let (name, version) = stem.strip_suffix(".dist-info")?.split_once('-')?;
            let name = fields(&metadata, "Name").next().unwrap_or(name);
            let version = fields(&metadata, "Version").next().unwrap_or(version);
            let documents = ["METADATA", "RECORD", "WHEEL"].map(|name| joined(info, name));
            let layers = documents.iter().filter_map(|path| image.get(path));
            let distribution = Distribution {
                directory: directory.to_owned(),
                info: info.to_owned(),
                name: normalize_name(name),
                version: Version::from_str(version).ok(),
                layer: layers.map(|found| found.layer).max()?,
                fields: metadata,
                record: OnceLock::new(),
            };
            Some((place, distribution))
        })
        .collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, one)| one).collect()
}

/// Those that layers above the base bring, and that no other version of themselves lies beside.
fn added<'a>(image: &Subject, all: &'a [Distribution]) -> Vec<&'a Distribution> {
    let counts = counts(all);
    let added = all.iter().filter(|one| one.layer >= image.base);
    added.filter(|one| counts[&one.key()] == 1).collect()
}

/// How often each is there.
fn counts(all: &[Distribution]) -> HashMap<(&str, &str), usize> {
    let mut counts = HashMap::new();
    for one in all {
        *counts.entry(one.key()).or_default() += 1;
    }
    counts
}

fn is_same(one: &Distribution, other: &Distribution) -> bool {
    one.key() == other.key()
}

fn target(image: &Subject, python: &Python) -> Option<Target> {
    let machine = program::machine_of_base(image)?;
    let of_runtime = || {
        let runtime = image
            .runtime()
            .filter(|_| modules::is_lambdas(&image.documents));
        runtime.map(|runtime| runtime.glibc)
    };
    let glibc = elf::glibc_of(image).or_else(of_runtime);
    Some(Target::new(
        python.version,
        machine,
        glibc.unwrap_or(ANY_GLIBC),
    ))
}

/// A distribution whose tags are for others.
pub(super) struct Unfit {
    pub(super) name: String,
    tags: String,
    /// Whether it tells its files.
    pub(super) is_recorded: bool,
    fault: Fault,
}

impl Unfit {
    /// The Pythons that it is for, as `cp312`.
    pub(super) fn pythons(&self) -> impl Iterator<Item = &str> {
        let tags = self.tags.split(", ");
        tags.filter_map(|tag| tag.split('-').next())
    }
}

fn fits(image: &Subject) -> Vec<Fault> {
    let unfit = unfit(image).into_iter().map(|unfit| unfit.fault);
    folded(unfit.collect(), MOST)
}

/// The distributions whose tags are for others, where no rule of ELF files tells it.
pub(super) fn unfit(image: &Subject) -> Vec<Unfit> {
    let Some(python) = &image.python else {
        return Vec::new();
    };
    let Some(target) = target(image, python) else {
        return Vec::new();
    };
    let all = distributions(image, python);
    let foreign = OnceCell::new();
    let unfit = added(image, all).into_iter().filter_map(|one| {
        let wheel = text_at(image, &joined(&one.info, "WHEEL"))?;
        let tags: Vec<_> = fields(&wheel, "Tag").collect();
        let wheels = tags.iter().filter_map(|tag| {
            WheelFilename::parse(&format!("{}-0-{tag}.whl", one.name.replace('-', "_"))).ok()
        });
        let mut nearest: Option<Misfit> = None;
        for wheel in wheels {
            let misfit = match target.fit(&wheel) {
                Ok(_) | Err(Misfit::AnyLinux { .. }) => return None,
                Err(Misfit::Musl) if is_musl(image) => return None,
                Err(misfit) => misfit,
            };
            if nearest
                .as_ref()
                .is_none_or(|other| misfit.distance() < other.distance())
            {
                nearest = Some(misfit);
            }
        }
        let misfit = nearest.filter(|misfit| {
            let foreign = || foreign.get_or_init(|| elf::foreign(image));
            !is_told_by_libraries(image, one, misfit, foreign)
        })?;
        let message = format!("{} {misfit}, and the image is {target}", one.title());
        let message = message.replace(&format!(", glibc {ANY_GLIBC}"), "");
        let pure = tags.iter().all(|tag| tag.ends_with("-none-any"));
        let level = if pure { Level::Warning } else { Level::Error };
        let tags = tags.join(", ");
        Some(Unfit {
            name: one.name.clone(),
            is_recorded: !record(image, one).is_empty(),
            fault: one.fault(message).value(&tags).level(level),
            tags,
        })
    });
    unfit.collect()
}

fn is_musl(image: &Subject) -> bool {
    ["x86_64", "aarch64"]
        .iter()
        .any(|machine| image.find(&format!("lib/ld-musl-{machine}.so.1")).is_some())
}

/// Whether the rules of ELF files see the same in the distribution's own libraries: all but for which Python it is.
fn is_told_by_libraries<'a>(
    image: &Subject,
    one: &Distribution,
    misfit: &Misfit,
    foreign: impl Fn() -> &'a BTreeSet<&'a str>,
) -> bool {
    if matches!(misfit, Misfit::System { .. }) {
        let mut files = record(image, one).keys();
        return files.any(|path| foreign().contains(&*joined(&one.directory, path)));
    }
    if !matches!(
        misfit,
        Misfit::Glibc { .. } | Misfit::Musl | Misfit::Architecture { .. }
    ) {
        return false;
    }
    let machine = program::machine_of_base(image);
    let record = record(image, one);
    let mut files = record.keys().flat_map(|row| {
        // pip leaves the row of a program as it was before it put all into one directory.
        let moved = row.starts_with("../").then(|| row.split_once("/bin/"));
        let moved = moved
            .flatten()
            .map(|(_, program)| format!("{}/bin/{program}", one.directory));
        [joined(&one.directory, row)].into_iter().chain(moved)
    });
    files.any(|path| {
        let Some((path, found)) = image.find(&path) else {
            return false;
        };
        if let Misfit::Architecture { .. } = misfit {
            return machine.is_some_and(|machine| elf::is_for_another(image, machine, &path));
        }
        let seen = found.entry.seen.as_ref();
        seen.is_some_and(|seen| !matches!(seen.elf, Watched::Other))
    })
}

/// Whether its `RECORD` was too long to be kept: which files are its own is not known.
fn is_unknown(image: &Subject, one: &Distribution) -> bool {
    let record = image.find(&joined(&one.info, "RECORD"));
    let seen = record
        .as_ref()
        .and_then(|(_, found)| found.entry.seen.as_ref());
    seen.is_some_and(|seen| seen.is_dropped)
}

fn record<'a>(image: &Subject, one: &'a Distribution) -> &'a Record {
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
    let name = path.rsplit('/').next().unwrap_or(path).to_uppercase();
    let is_text = ending == "txt" && texts.iter().any(|start| name.starts_with(start));
    directories.any(|directory| {
        matches!(
            directory,
            "tests" | "test" | "testing" | "docs" | "doc" | "examples" | "__pycache__"
        ) || directory.ends_with(".dist-info")
    }) || is_text
        || papers.contains(&ending)
}

fn is_whole(image: &Subject) -> Vec<Fault> {
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
    let in_parts = |path: &str| {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        (directory.to_owned(), name.to_owned())
    };
    let directories: BTreeSet<String> = missing
        .iter()
        .map(|path| in_parts(path))
        .filter(|(_, name)| told.contains(name))
        .map(|(directory, _)| directory)
        .collect();
    missing.retain(|path| !is_library(path) || !directories.contains(&in_parts(path).0));
}

/// The papers that installers write or change after the hash was taken.
fn is_rewritten(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
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
    if entry.kind != Kind::File || modules::has_ending(path, "pyc") {
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

/// Whether a module of the name that a distribution's would have is there although nothing records it.
fn is_there_unrecorded(image: &Subject, python: &Python, name: &str) -> bool {
    modules::find_in(image, &python.path, &name.replace('-', "_")).is_some()
}

/// The versions of what is installed in the old form, where only a name tells them.
fn eggs(image: &Subject) -> BTreeMap<String, Option<Version>> {
    let mut eggs = BTreeMap::new();
    for path in image.tree.paths() {
        let Some(at) = path.find(".egg-info") else {
            continue;
        };
        let stem = path[..at].rsplit('/').next().unwrap_or_default();
        let mut parts = stem.split('-');
        let name = normalize_name(parts.next().unwrap_or_default());
        let version = parts
            .next()
            .and_then(|version| Version::from_str(version).ok());
        eggs.insert(name, version);
    }
    eggs
}

fn has_requirements(image: &Subject) -> Vec<Fault> {
    let Some(python) = &image.python else {
        return Vec::new();
    };
    let Some(target) = target(image, python) else {
        return Vec::new();
    };
    let markers = Markers::new(target);
    let all = distributions(image, python);
    let mut installed = eggs(image);
    // The first on the path is the one that is imported.
    for one in all.iter().rev() {
        installed.insert(one.name.clone(), one.version.clone());
    }
    let mut faults = Vec::new();
    let mut unrecorded: HashMap<String, bool> = HashMap::new();
    for one in added(image, all) {
        let mut told = HashSet::new();
        let mut gone = Vec::new();
        let mut misfits = Vec::new();
        for text in one.field("Requires-Dist").filter(|text| told.insert(*text)) {
            let Some(required) = Requirement::parse(text) else {
                continue;
            };
            let marker = required.marker.as_deref();
            if marker.is_some_and(|marker| markers.hold(marker) != Ok(true)) {
                continue;
            }
            let version = installed.get(&required.name);
            let specifiers = VersionSpecifiers::from_str(&required.specifiers);
            let mut is_there = || {
                let known = unrecorded.entry(required.name.clone());
                *known.or_insert_with(|| is_there_unrecorded(image, python, &required.name))
            };
            let message = match (version, specifiers) {
                (None, _) if is_there() => continue,
                (None, _) => {
                    gone.push((format!("`{}{}`", required.name, required.specifiers), text));
                    continue;
                }
                (Some(Some(version)), Ok(specifiers)) if !specifiers.contains(version) => {
                    format!("version {version} is in the image")
                }
                _ => continue,
            };
            let wanted = format!("`{}{}`", required.name, required.specifiers);
            let message = format!("{} requires {wanted}, and {message}", one.title());
            misfits.push(one.fault(message).value(text));
        }
        if let Some((_, text)) = gone.first() {
            let names: Vec<_> = gone.iter().map(|(name, _)| &**name).collect();
            let what = if names.len() == 1 {
                "it is"
            } else {
                "they are"
            };
            let message = format!(
                "{} requires {}, and {what} not in the image",
                one.title(),
                names.join(", ")
            );
            faults.push(one.fault(message).value(*text));
        }
        faults.extend(misfits);
    }
    folded(faults, MOST)
}

fn allows_python(image: &Subject) -> Vec<Fault> {
    let Some(python) = &image.python else {
        return Vec::new();
    };
    let minor = u64::from(python.version.minor());
    let all = distributions(image, python);
    let faults = added(image, all).into_iter().filter_map(|one| {
        let text = one.field("Requires-Python").next()?;
        let specifiers = VersionSpecifiers::from_str(text).ok()?;
        // Which patch release the image has is not known; no line has come to so many.
        let allowed = (0..60).any(|patch| specifiers.contains(&Version::new([3, minor, patch])));
        let version = python.version;
        let message = format!(
            "{} requires Python {text}, and the image has {version}",
            one.title()
        );
        (!allowed).then(|| one.fault(message).value(text))
    });
    folded(faults.collect(), MOST)
}

fn is_there_once(image: &Subject) -> Vec<Fault> {
    let Some(python) = &image.python else {
        return Vec::new();
    };
    let all = distributions(image, python);
    let counts = counts(all);
    let mut faults = Vec::new();
    for (number, one) in all.iter().enumerate() {
        if counts[&one.key()] == 1 {
            continue;
        }
        let others = || {
            all.iter()
                .filter(|other| is_same(one, other) && other.info != one.info)
        };
        let first = !all[..number].iter().any(|other| is_same(one, other));
        let Some(other) = others().next().filter(|_| first) else {
            continue;
        };
        let layer = one.layer.max(other.layer);
        if layer >= image.base {
            let beside = below(&one.directory, &other.info).unwrap_or(&other.info);
            let message = format!("{} is here, and so is `{beside}`", one.title());
            faults.push(one.fault(message).layer(layer));
        }
    }
    folded(faults, MOST)
}

/// The files that distributions record, of which `is_one` says so: path and the distribution's name.
pub(super) fn owners(image: &Subject, is_one: fn(&Seen) -> bool) -> BTreeMap<String, String> {
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
pub(super) fn has_recorded(image: &Subject, name: &str) -> bool {
    let Some(python) = &image.python else {
        return false;
    };
    let is_it = |path: &String| path.rsplit('/').next() == Some(name);
    recorded(image, python).iter().any(is_it)
}

/// The files with this ending that distributions list with a hash: those that were in their wheels.
pub(super) fn with_hash(image: &Subject, python: &Python, ending: &str) -> BTreeSet<String> {
    let all = distributions(image, python).iter();
    let paths = all.flat_map(|one| {
        let rows = record(image, one).into_iter();
        let rows = rows.filter(|(path, (hash, _))| path.ends_with(ending) && !hash.is_empty());
        rows.map(|(path, _)| joined(&one.directory, &path))
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

/// Whether a distribution lists the file at this path, or one beside it may.
pub(super) fn is_recorded(image: &Subject, python: &Python, path: &str) -> bool {
    let may = |one: &Distribution| below(&one.directory, path).is_some() && is_unknown(image, one);
    recorded(image, python).contains(path) || distributions(image, python).iter().any(may)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use crate::digest::Digest;
    use crate::lambda::check::testing::{Forge, aws, only};
    use crate::python::elf::testing::Made;

    /// Adds a distribution of one module: its files, what they are recorded as, metadata and tags.
    fn install(forge: Forge, name: &str, version: &str, fields: &str, tag: &str) -> Forge {
        let module = format!("{name}.py");
        let hash = super::URL_SAFE_NO_PAD.encode(Digest::of("x = 1\n").as_bytes());
        let info = format!("{name}-{version}.dist-info");
        let record = format!(
            "{module},sha256={hash},6\n../../bin/{name},sha256=x,1\n__pycache__/{name}.cpython-312.pyc,,\n\
             {info}/METADATA,,\n{info}/RECORD,,\n"
        );
        let metadata = format!(
            "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{fields}\nRequires-Dist: no\n"
        );
        let wheel = format!("Wheel-Version: 1.0\nTag: {tag}\n");
        forge
            .file(&format!("var/task/{module}"), "x = 1\n")
            .file(&format!("var/task/{info}/METADATA"), metadata)
            .file(&format!("var/task/{info}/WHEEL"), wheel)
            .file(&format!("var/task/{info}/RECORD"), record)
    }

    fn pure(forge: Forge, name: &str, fields: &str) -> Forge {
        install(forge, name, "1.0", fields, "py3-none-any")
    }

    fn told(forge: Forge) -> String {
        let findings = forge.findings();
        let seventies = only(&findings, "LMB07", '6'..='9');
        [seventies, only(&findings, "LMB08", '0'..='5')]
            .join("\n")
            .trim()
            .to_owned()
    }

    #[test]
    fn sound_distributions_are_not_reported() {
        let fields = "Requires-Python: >=3.9,!=3.12.0\nRequires-Dist: b (>=1.0)\nRequires-Dist: win ; os_name == 'nt'\n\
                      Requires-Dist: more ; extra == 'x'\nRequires-Dist: vendored\n";
        let image = pure(aws("app.handler"), "a", fields).file("var/task/vendored/__init__.py", "");
        let image = install(image, "b", "1.5", "", "cp312-cp312-manylinux_2_17_x86_64");
        let image = install(image, "c", "1.5", "", "cp39-abi3-linux_x86_64");
        assert_eq!(told(image), "");
        let base = pure(Forge::new(), "a", "Requires-Dist: gone\n");
        assert_eq!(told(base), "");
    }

    #[test]
    fn wheels_for_others_are_found() {
        let tags = [
            "cp311-cp311-manylinux_2_17_x86_64",
            "cp312-cp312-manylinux_2_17_aarch64",
            "cp312-cp312-manylinux_2_39_x86_64",
            "cp312-cp312-musllinux_1_2_x86_64",
            "py2-none-any",
        ];
        let found = tags.map(|tag| told(install(aws("app.handler"), "a", "1.0", "", tag)));
        insta::assert_snapshot!(found.join("\n"));
    }

    #[test]
    fn the_images_own_c_library_is_what_wheels_are_held_against() {
        let image = |handler: &str, libc: &str| {
            let versions = [&*format!("GLIBC_{libc}"), "GLIBC_2.17"];
            let libc = Made {
                soname: "libc.so.6",
                defines: &versions,
                ..Made::default()
            };
            let mut image = Forge::new()
                .link("usr/local/bin/python", "python3")
                .link("usr/local/bin/python3", "python3.12")
                .program("usr/local/bin/python3.12", "")
                .file("lib/x86_64-linux-gnu/libc.so.6", libc.bytes())
                .layer();
            let python = "/usr/local/bin/python";
            image.run = json!({"Entrypoint": [python, "-m", "awslambdaric"], "Cmd": [handler], "WorkingDir": "/var/task"});
            install(image, "a", "1.0", "", "cp312-cp312-manylinux_2_36_x86_64")
        };
        assert_eq!(told(image("app.handler", "2.36")), "");
        insta::assert_snapshot!(told(image("app.handler", "2.31")), @"LMB076 error 1 var/task/a-1.0.dist-info: a 1.0 needs glibc 2.36, and the image is python 3.12, x86_64, glibc 2.31");
    }

    #[test]
    fn a_distribution_without_its_metadata_is_found() {
        let without = |forge: Forge, name: &str| {
            forge
                .layer()
                .file(&format!("var/task/a-1.0.dist-info/.wh.{name}"), "")
        };
        let image = || pure(aws("app.handler"), "a", "");
        insta::assert_snapshot!(told(without(image(), "METADATA")), @"LMB077 warning 1 var/task/a-1.0.dist-info: a 1.0 has no `METADATA`: pip skips it, and `importlib.metadata` does not know its version");
        assert_eq!(told(without(image(), "RECORD")), "");
        assert_eq!(told(without(image(), "WHEEL")), "");
        // As Debian and conda install, and other programs.
        let directory = "var/task/b-1.0.dist-info";
        let image = aws("app.handler")
            .file(&format!("{directory}/METADATA"), "Name: b\nVersion: 1.0\n")
            .file(&format!("{directory}/INSTALLER"), "debian\n")
            .file(
                "var/task/c-1.0.egg-info/PKG-INFO",
                "Name: c\nVersion: 1.0\n",
            );
        assert_eq!(told(image), "");
        let base = Forge::new()
            .file("var/task/a-1.0.dist-info/RECORD", "")
            .layer();
        assert_eq!(told(base), "");
    }

    #[test]
    fn records_that_are_not_true_are_found() {
        let missing = pure(aws("app.handler"), "a", "")
            .layer()
            .file("var/task/.wh.a.py", "");
        let changed = pure(aws("app.handler"), "a", "").file("var/task/a.py", "x = 2\n");
        let over = pure(aws("app.handler"), "a", "")
            .layer()
            .file("var/task/a.py", "x = 2\n");
        let found = [missing, changed, over].map(told);
        insta::assert_snapshot!(found.join("\n"));
    }

    #[test]
    fn of_a_record_that_is_too_long_nothing_is_told() {
        let image = |length: usize| {
            let row = "__pycache__/one_of_many.cpython-312.pyc,,\n";
            let rows = row.repeat(length / row.len());
            let record = format!("{rows}gone.py,sha256=x,1\nhelper.py,,\n");
            aws("app.handler")
                .file(
                    "var/task/app.py",
                    "import helper\ndef handler(a, b): pass\n",
                )
                .file("var/task/helper.py", "import nowhere\n")
                .dir("var/task/a-1.0.dist-info")
                .file(
                    "var/task/a-1.0.dist-info/METADATA",
                    "Name: a\nVersion: 1.0\n",
                )
                .file("var/task/a-1.0.dist-info/RECORD", record)
                .findings()
        };
        insta::assert_snapshot!(image(5 << 20), @"LMB077 warning 1 var/task/gone.py: a 1.0 has no file here");
        insta::assert_snapshot!(image(17 << 20), @"LMB072 note 1 var/task/a-1.0.dist-info/RECORD: it is too long, or its layer has too many of its kind; what it says is not checked");
    }

    #[test]
    fn a_module_path_may_be_a_link() {
        let mut image = Forge::new()
            .program("usr/local/bin/python3.12", "")
            .layer()
            .link("app", "srv/app")
            .file(
                "srv/app/a-1.0.dist-info/METADATA",
                "Name: a\nVersion: 1.0\nRequires-Dist: gone\n",
            );
        let python = "/usr/local/bin/python3.12";
        image.run = json!({"Entrypoint": [python, "-m", "awslambdaric"], "Cmd": ["app.handler"], "WorkingDir": "/app"});
        insta::assert_snapshot!(told(image), @"LMB078 warning 1 srv/app/a-1.0.dist-info: a 1.0 requires `gone`, and it is not in the image");
    }

    #[test]
    fn texts_that_may_be_data_are_missed() {
        let image = |row: &str| {
            let record = format!("a.py,,\n{row},sha256=x,1\n");
            pure(aws("app.handler"), "a", "").file("var/task/a-1.0.dist-info/RECORD", record)
        };
        for row in [
            "a/LICENSE.txt",
            "a/readme.txt",
            "a-1.0.dist-info/top_level.txt",
        ] {
            assert_eq!(told(image(row)), "", "{row}");
        }
        assert_eq!(
            told(image("a/schema.txt")),
            "LMB077 warning 1 var/task/a/schema.txt: a 1.0 has no file here"
        );
    }

    #[test]
    fn what_requirements_lack_is_found() {
        let fields = "Requires-Python: <3.12\nRequires-Dist: gone>=2\nRequires-Dist: b<1\n";
        let image = pure(pure(aws("app.handler"), "a", fields), "b", "");
        insta::assert_snapshot!(told(image));
    }

    #[test]
    fn a_requirement_that_is_repeated_is_told_once() {
        let fields = "Requires-Dist: gone\n".repeat(200_000);
        insta::assert_snapshot!(told(pure(aws("app.handler"), "a", &fields)), @"LMB078 warning 1 var/task/a-1.0.dist-info: a 1.0 requires `gone`, and it is not in the image");
    }

    #[test]
    fn requirements_that_are_not_there_are_one_finding() {
        let fields = "Requires-Dist: b\nRequires-Dist: c>=1\nRequires-Dist: d\n";
        let image = pure(aws("app.handler"), "a", fields);
        insta::assert_snapshot!(told(image), @"LMB078 warning 1 var/task/a-1.0.dist-info: a 1.0 requires `b`, `c>=1`, `d`, and they are not in the image");
    }

    #[test]
    fn two_versions_in_a_directory_are_one_finding() {
        let image = pure(aws("app.handler"), "a", "Requires-Dist: gone\n");
        let image = install(image, "a", "2.0", "", "py3-none-any");
        insta::assert_snapshot!(told(image));
    }
}
