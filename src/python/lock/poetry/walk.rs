//! From what is asked for, through a lock's dependencies, to every package that is needed.
//!
//! Names and constraints choose among a lock's packages as poetry's installer does. Files are not looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::str::FromStr;

use pep440_rs::Version;

use super::project::Wish;
use super::{Dependency, Detailed, LOCK, Lock, PROJECT, Package, constraint};
use crate::python::lock::Error;
use crate::python::markers::Markers;
use crate::python::requirement::Requirement;
use crate::python::{Target, normalize_name};

/// Early releases of poetry locked none of these.
const NEVER_LOCKED: [&str; 4] = ["distribute", "pip", "setuptools", "wheel"];

/// Something that is asked for.
#[derive(Debug, Clone)]
struct Ask {
    name: String,
    dependency: Detailed,
    /// The package that asks; nothing for the project.
    user: Option<String>,
}

/// A package that is needed.
#[derive(Debug, Default)]
struct Needed {
    extras: BTreeSet<String>,
    users: BTreeSet<String>,
    /// Whether the project itself asks for it.
    direct: bool,
}

struct Walk<'a> {
    lock: &'a Lock,
    project: Option<&'a str>,
    target: Target,
    by_name: BTreeMap<String, Vec<usize>>,
    needed: BTreeMap<usize, Needed>,
    queue: VecDeque<Ask>,
}

/// The places of the packages that `wishes` need, each with those that require it.
pub(super) fn walk(
    lock: &Lock,
    project: Option<&str>,
    wishes: Vec<Wish>,
    target: Target,
) -> Result<Vec<(usize, BTreeSet<String>)>, Error> {
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, name) in lock.names().enumerate() {
        by_name.entry(name).or_default().push(at);
    }
    let mut walk = Walk {
        lock,
        project,
        target,
        by_name,
        needed: BTreeMap::new(),
        queue: VecDeque::new(),
    };
    let markers = Markers::new(target).with_active::<&str>([]);
    for (name, dependency) in wishes {
        if meant(&name, &dependency, target, &markers)? {
            let user = None;
            walk.queue.push_back(Ask {
                name,
                dependency,
                user,
            });
        }
    }
    walk.run()?;
    let users = |needed: Needed| {
        if needed.direct {
            BTreeSet::new()
        } else {
            needed.users
        }
    };
    let needed = walk.needed.into_iter();
    Ok(needed.map(|(at, needed)| (at, users(needed))).collect())
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Error> {
        // What several packages would do for waits until another has asked for one of them.
        let mut open = VecDeque::new();
        loop {
            if let Some(ask) = self.queue.pop_front() {
                match self.candidates(&ask)?.as_slice() {
                    [] => {}
                    [only] => self.need(*only, &ask)?,
                    _ => open.push_back(ask),
                }
            } else if let Some(ask) = open.pop_front() {
                let candidates = self.candidates(&ask)?;
                if let Some(at) = self.best(&candidates) {
                    self.need(at, &ask)?;
                }
            } else {
                return Ok(());
            }
        }
    }

    fn candidates(&self, ask: &Ask) -> Result<Vec<usize>, Error> {
        let Some(named) = self.by_name.get(&ask.name) else {
            let is_project = self.project == Some(ask.name.as_str());
            if is_project || NEVER_LOCKED.contains(&ask.name.as_str()) {
                return Ok(Vec::new());
            }
            return Err(Error::Missing {
                file: LOCK,
                package: ask.name.clone(),
                asked_by: ask.user.clone().unwrap_or_else(|| PROJECT.to_owned()),
            });
        };
        let package = |at: &usize| &self.lock.package[*at];
        let fitting = narrowed(named, |at| package(at).satisfies(&ask.dependency));
        let fitting = narrowed(&fitting, |at| package(at).is_for(self.target));
        let markers = Markers::new(self.target);
        let mut held = Vec::new();
        for at in fitting {
            if holds(&ask.name, package(&at).marker.as_ref(), &markers)? {
                held.push(at);
            }
        }
        Ok(held)
    }

    /// The one that is needed anyway, else the latest.
    fn best(&self, candidates: &[usize]) -> Option<usize> {
        let version = |at: &usize| Version::from_str(&self.lock.package[*at].version).ok();
        let known = candidates.iter().find(|at| self.needed.contains_key(at));
        known
            .or_else(|| candidates.iter().max_by_key(|at| version(at)))
            .copied()
    }

    fn need(&mut self, at: usize, ask: &Ask) -> Result<(), Error> {
        let is_new = !self.needed.contains_key(&at);
        let needed = self.needed.entry(at).or_default();
        match &ask.user {
            Some(user) => drop(needed.users.insert(user.clone())),
            None => needed.direct = true,
        }
        let package = &self.lock.package[at];
        let before = needed.extras.len();
        let asked = ask
            .dependency
            .extras
            .iter()
            .map(|name| normalize_name(name));
        needed.extras.extend(asked);
        if is_new || needed.extras.len() > before {
            package.complete(&mut needed.extras);
            let asks = package.asks(&needed.extras, self.target)?;
            self.queue.extend(asks);
        }
        Ok(())
    }
}

/// Those that `fit`, or all when none does.
fn narrowed(all: &[usize], fit: impl Fn(&usize) -> bool) -> Vec<usize> {
    if all.len() == 1 {
        return all.to_vec();
    }
    let fitting: Vec<usize> = all.iter().copied().filter(fit).collect();
    if fitting.is_empty() {
        all.to_vec()
    } else {
        fitting
    }
}

/// Who of these packages requires whom, by normal names.
pub(super) fn users(
    packages: &[&Package],
    target: Target,
) -> Result<BTreeMap<String, BTreeSet<String>>, Error> {
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        let extras = package
            .extras
            .keys()
            .map(|name| normalize_name(name))
            .collect();
        for ask in package.asks(&extras, target)? {
            if let Some(user) = ask.user.filter(|user| *user != ask.name) {
                users.entry(ask.name).or_default().insert(user);
            }
        }
    }
    Ok(users)
}

impl Package {
    /// Whether a dependency can mean this one of several packages of its name.
    fn satisfies(&self, dependency: &Detailed) -> bool {
        let origin = self.source.as_ref();
        let kind = origin.and_then(|origin| origin.kind.as_deref());
        let url = origin.map(|origin| origin.url.as_str());
        let reference = origin.and_then(|origin| origin.reference.as_deref());
        let path = dependency.path.as_deref().or(dependency.file.as_deref());
        if dependency.git.is_some() {
            let commitish = [&dependency.rev, &dependency.tag, &dependency.branch];
            let commitish = commitish.into_iter().flatten().next();
            let same = commitish.is_none_or(|name| reference == Some(name.as_str()));
            return kind == Some("git") && same;
        }
        if let Some(path) = path {
            return matches!(kind, Some("file" | "directory")) && url == Some(path);
        }
        if let Some(address) = &dependency.url {
            return url == Some(address.as_str());
        }
        if let Some(index) = &dependency.source {
            let named = reference.map(str::to_lowercase);
            return named == Some(index.to_lowercase()) && self.has_version_of(dependency);
        }
        self.has_version_of(dependency)
    }

    fn has_version_of(&self, dependency: &Detailed) -> bool {
        let version = Version::from_str(&self.version);
        let text = dependency.version.as_deref().unwrap_or("*");
        match (version, constraint(&self.name, text)) {
            (Ok(version), Ok(constraint)) => constraint.allows(&version),
            _ => true,
        }
    }

    /// Adds the extras that these ask for of the same package.
    fn complete(&self, extras: &mut BTreeSet<String>) {
        let own = normalize_name(&self.name);
        let mut queue: Vec<String> = extras.iter().cloned().collect();
        while let Some(extra) = queue.pop() {
            for requirement in self.of_extra(&extra).filter(|it| it.name == own) {
                let new = requirement.extras.into_iter();
                let new = new.filter(|name| extras.insert(name.clone()));
                queue.extend(new);
            }
        }
    }

    fn of_extra(&self, extra: &str) -> impl Iterator<Item = Requirement> {
        let lists = self.extras.iter();
        let lists = lists.filter(move |(name, _)| normalize_name(name) == extra);
        lists.flat_map(|(_, list)| list.iter().filter_map(|text| Requirement::parse(text)))
    }

    /// What it asks for on a target when these extras of it are wanted.
    fn asks(&self, extras: &BTreeSet<String>, target: Target) -> Result<Vec<Ask>, Error> {
        let markers = Markers::new(target).with_active(extras);
        let switched = extras.iter().flat_map(|extra| self.of_extra(extra));
        let switched: BTreeSet<String> = switched.map(|requirement| requirement.name).collect();
        let mut asks = Vec::new();
        for (name, listed) in &self.dependencies {
            let name = normalize_name(name);
            for dependency in listed.all() {
                let dependency = Detailed::from(Dependency::clone(dependency));
                let marker = dependency.markers.as_deref().unwrap_or_default();
                // Some releases write the extra into the marker, others leave it to the list of extras.
                let is_on =
                    !dependency.optional || marker.contains("extra") || switched.contains(&name);
                if is_on && meant(&self.name, &dependency, target, &markers)? {
                    asks.push(Ask {
                        name: name.clone(),
                        dependency,
                        user: Some(normalize_name(&self.name)),
                    });
                }
            }
        }
        Ok(asks)
    }
}

/// Whether a dependency of `package` is meant for the target.
pub(super) fn meant(
    package: &str,
    dependency: &Detailed,
    target: Target,
    markers: &Markers,
) -> Result<bool, Error> {
    if let Some(python) = &dependency.python
        && !constraint(package, python)?.allows(&target.full_version())
    {
        return Ok(false);
    }
    let platform = dependency.platform.as_deref();
    Ok(platform.is_none_or(is_linux) && holds(package, dependency.markers.as_ref(), markers)?)
}

/// Whether Linux is among the platforms of a constraint such as `linux || darwin` or `!=win32`.
fn is_linux(platforms: &str) -> bool {
    let term = |term: &str| {
        let term = term.trim();
        match term.strip_prefix("!=") {
            Some(other) => other.trim() != "linux",
            None => matches!(term.trim_start_matches('=').trim(), "linux" | "*"),
        }
    };
    let mut alternatives = platforms.split('|').filter(|text| !text.is_empty());
    alternatives.any(|alternative| alternative.split(',').all(term))
}

pub(super) fn holds(
    package: &str,
    marker: Option<&String>,
    markers: &Markers,
) -> Result<bool, Error> {
    let holds = marker.map(|marker| markers.hold(marker)).transpose();
    let holds = holds.map_err(|source| Error::Marker {
        package: package.to_owned(),
        source,
    })?;
    Ok(holds != Some(false))
}
