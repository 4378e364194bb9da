//! Rules of installed distributions: whether they are for this machine, whole, and have what they require.
//!
//! Follows the specifications of wheels and of recorded installations. What a shared library itself says of its
//! machine and libraries is the rules' of ELF files: where those speak, the tags of its wheel are silent.

mod installed;
mod record;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::iter;
use std::str::FromStr as _;
use std::sync::OnceLock;

use pep440_rs::{Version, VersionSpecifiers};

use record::{Record, is_whole, record};

use crate::lambda;
use crate::lambda::check::modules::{self, text_at};
use crate::lambda::check::paths::{self, below, joined};
use crate::lambda::check::subject::{Python, Subject};
use crate::lambda::check::{Fault, Level, Look, MOST, Rule, elf, folded, program};
use crate::oci::flatten::Kind;
use crate::python::elf::Watched;
use crate::python::markers::Markers;
use crate::python::requirement::Requirement;
use crate::python::{Glibc, Misfit, Target, WheelFilename, normalize_name};

pub use installed::{Installed, installed, of_base};
pub(super) use record::{has_recorded, is_recorded, owners, with_hash};

/// How names of directories end that wheels are recorded in.
const DIST_INFO: &str = ".dist-info";
/// And of directories and files of what was installed in the old forms.
const EGG_INFO: &str = ".egg-info";
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
    /// The directory that it is in.
    directory: String,
    /// Its `.dist-info` or `.egg-info`.
    info: String,
    name: String,
    version: Option<Version>,
    layer: usize,
    fields: String,
    /// Its `RECORD`, once it is asked for.
    record: OnceLock<Record>,
}

impl Distribution {
    fn field<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        fields(&self.fields, name)
    }

    /// Whether it is imported before the function's directories are searched at all, so that what it requires is
    /// first looked for beside it.
    fn is_of_runtime(&self) -> bool {
        self.directory == lambda::RUNTIME_DIR
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

/// The values of a field, without the lines that continue them.
fn fields<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    values(text, name).map(|value| value.lines().next().unwrap_or_default().trim_end())
}

/// The values of a field, each with the lines that continue it.
fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    let all = iter::from_fn(move || {
        let ends = rest.match_indices('\n').map(|(at, _)| at + 1);
        let mut ends = ends.filter(|at| !rest[*at..].starts_with([' ', '\t']));
        let (field, others) = rest.split_at(ends.next().unwrap_or(rest.len()));
        rest = others;
        (!field.is_empty()).then_some(field)
    });
    all.filter_map(move |field| {
        let (key, value) = field.split_once(':')?;
        let value = value.trim_start_matches([' ', '\t']).trim_end();
        key.eq_ignore_ascii_case(name).then_some(value)
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
    let places = led(image, &python.path);
    let infos = infos(image).into_iter();
    let infos = infos.filter(|info| info.ends_with(DIST_INFO));
    in_places(image, infos, |directory| {
        places.iter().position(|other| other == directory)
    })
}

/// Where directories lead, which may be links.
fn led(image: &Subject, directories: &[String]) -> Vec<String> {
    let led = directories.iter().map(|directory| {
        let led = image.tree.resolve(directory, &image.layers);
        led.unwrap_or_else(|_| directory.clone())
    });
    led.collect()
}

/// The directories and files that distributions have of their own, by path.
fn infos(image: &Subject) -> BTreeSet<&str> {
    let infos = image.tree.paths().filter_map(|path| {
        let is_file = || {
            let found = image.get(path);
            found.is_some_and(|found| found.entry.kind == Kind::File)
        };
        // What `distutils` wrote is a file.
        if path.ends_with(EGG_INFO) && is_file() {
            return Some(path);
        }
        let (info, name) = path.rsplit_once('/')?;
        let is_one = match name {
            "METADATA" | "RECORD" | "WHEEL" => info.ends_with(DIST_INFO),
            "PKG-INFO" => info.ends_with(EGG_INFO),
            _ => false,
        };
        is_one.then_some(info)
    });
    infos.collect()
}

/// The distributions in directories that have a place, in the order of these, and of one by path.
fn in_places<'a>(
    image: &Subject,
    infos: impl Iterator<Item = &'a str>,
    place: impl Fn(&str) -> Option<usize>,
) -> Vec<Distribution> {
    let found = infos.filter_map(|info| {
        let place = place(paths::directory(info))?;
        Some((place, distribution(image, info)?))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, one)| one).collect()
}

fn distribution(image: &Subject, info: &str) -> Option<Distribution> {
    let own = joined(info, "PKG-INFO");
    let papers = if info.ends_with(DIST_INFO) {
        ["METADATA", "RECORD", "WHEEL"]
            .map(|name| joined(info, name))
            .to_vec()
    } else if image.get(&own).is_some() {
        vec![own]
    } else {
        vec![info.to_owned()]
    };
    let metadata = text_at(image, papers.first()?).unwrap_or_default();
    let layers = papers.iter().filter_map(|path| image.get(path));
    let (name, version) = written(info)?;
    let name = fields(&metadata, "Name").next().unwrap_or(name);
    let version = fields(&metadata, "Version").next().unwrap_or(version);
    Some(Distribution {
        directory: paths::directory(info).to_owned(),
        info: info.to_owned(),
        name: normalize_name(name),
        version: Version::from_str(version).ok(),
        layer: layers.map(|found| found.layer).max()?,
        fields: metadata,
        record: OnceLock::new(),
    })
}

/// Name and version by the name that `info` has; eggs may have no version, and say for which Python they are.
fn written(info: &str) -> Option<(&str, &str)> {
    let name = paths::name(info);
    if let Some(stem) = name.strip_suffix(DIST_INFO) {
        return stem.split_once('-');
    }
    let stem = name.strip_suffix(EGG_INFO)?;
    let (name, rest) = stem.split_once('-').unwrap_or((stem, ""));
    Some((name, rest.split("-py").next().unwrap_or_default()))
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

/// The machine and the Python of an image, if both are known.
pub fn target(image: &Subject) -> Option<Target> {
    target_of(image, image.python.as_ref()?)
}

fn target_of(image: &Subject, python: &Python) -> Option<Target> {
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
    let Some(target) = target_of(image, python) else {
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
        let stem = paths::name(&path[..at]);
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
    let Some(target) = target_of(image, python) else {
        return Vec::new();
    };
    let markers = Markers::new(target);
    let all = distributions(image, python);
    let mut installed = eggs(image);
    // The first on the path is the one that is imported.
    for one in all.iter().rev() {
        installed.insert(one.name.clone(), one.version.clone());
    }
    let of_runtime = all.iter().filter(|one| one.is_of_runtime());
    let of_runtime: HashMap<_, _> = of_runtime.map(|one| (&*one.name, &one.version)).collect();
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
            let version = of_runtime.get(&*required.name).copied();
            let version = version.filter(|_| one.is_of_runtime());
            let version = version.or_else(|| installed.get(&required.name));
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
            let names = gone.iter().take(MOST).map(|(name, _)| &**name);
            let names = names.collect::<Vec<_>>().join(", ");
            let others = match gone.len().saturating_sub(MOST) {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            let what = if gone.len() == 1 { "it is" } else { "they are" };
            let message = format!(
                "{} requires {names}{others}, and {what} not in the image",
                one.title()
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
