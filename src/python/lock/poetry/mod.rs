//! `poetry.lock`, as poetry 1 and 2 write it.
//!
//! Since version 2.1 of the format each package says in which groups and under which marker it is wanted.
//! Before, only `pyproject.toml` says what the project asks for, and the lock is walked from there. Poetry
//! itself is never asked, and where its index has a file is not known.

mod constraint;
mod project;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Component;
use std::path::Path;
use std::str::FromStr;

use pep440_rs::VersionSpecifiers;
use serde::Deserialize;

use crate::http::Url;
use crate::python::credentials::without_user;
use crate::python::lock::{
    ARCHIVES, Entry, Error, File, Location, Request, Source, check_known, is_wheel,
};
use crate::python::markers::Markers;
use crate::python::{Target, normalize_name};
use constraint::Constraint;
use project::Project;

/// The lock's name.
const LOCK: &str = "poetry.lock";
const PROJECT: &str = "pyproject.toml";
/// The group of what the project always needs.
const MAIN: &str = "main";
/// The first version of the format that says of each package when it is wanted.
const SELF_SUFFICIENT: (u32, u32) = (2, 1);

#[derive(Debug, Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Package>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    lock_version: Option<String>,
    #[serde(default)]
    python_versions: String,
    /// The files of each package, where the packages do not have them.
    #[serde(default)]
    files: BTreeMap<String, Vec<LockFile>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    python_versions: String,
    groups: Option<Vec<String>>,
    markers: Option<ByGroup>,
    /// The one marker of early locks.
    marker: Option<String>,
    #[serde(default)]
    files: Vec<LockFile>,
    #[serde(default)]
    dependencies: BTreeMap<String, Listed>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    source: Option<Origin>,
}

/// A marker for every group, or one for each of some.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ByGroup {
    All(String),
    Each(BTreeMap<String, String>),
}

#[derive(Debug, Clone, Deserialize)]
struct LockFile {
    file: String,
    #[serde(default)]
    hash: String,
}

#[derive(Debug, Deserialize)]
struct Origin {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    url: String,
    reference: Option<String>,
    resolved_reference: Option<String>,
    subdirectory: Option<String>,
}

/// What is asked for by one name: where it differs by environment, several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Listed {
    One(Dependency),
    Several(Vec<Dependency>),
}

impl Listed {
    fn all(&self) -> &[Dependency] {
        match self {
            Self::One(dependency) => std::slice::from_ref(dependency),
            Self::Several(dependencies) => dependencies,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Dependency {
    Version(String),
    Detailed(Box<Detailed>),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Detailed {
    version: Option<String>,
    markers: Option<String>,
    python: Option<String>,
    platform: Option<String>,
    optional: bool,
    extras: BTreeSet<String>,
    /// The name of an index.
    source: Option<String>,
    git: Option<String>,
    rev: Option<String>,
    tag: Option<String>,
    branch: Option<String>,
    path: Option<String>,
    file: Option<String>,
    url: Option<String>,
}

impl From<Dependency> for Detailed {
    fn from(dependency: Dependency) -> Self {
        match dependency {
            Dependency::Detailed(detailed) => *detailed,
            Dependency::Version(version) => Self {
                version: Some(version),
                ..Self::default()
            },
        }
    }
}

/// The packages that are wanted, by name.
///
/// # Errors
/// When the lock is not for the target or not of this project, or what is wanted is unknown.
pub fn entries(text: &str, request: &Request<'_>) -> Result<Vec<Entry>, Error> {
    let mut lock: Lock = toml::from_str(text).map_err(|error| unreadable(LOCK, error))?;
    let version = lock.version()?;
    lock.check_python(request.target)?;
    for package in &mut lock.package {
        if package.files.is_empty() {
            let files = lock.metadata.files.get(&package.name);
            package.files = files.cloned().unwrap_or_default();
        }
    }
    let project = request.pyproject.map(Project::parse).transpose()?;
    lock.check_wanted(project.as_ref(), request)?;
    if let Some(project) = &project {
        lock.check_complete(project, request.target)?;
    }
    let mut entries = if version >= SELF_SUFFICIENT {
        lock.marked(project.as_ref(), request)?
    } else {
        let project = project.ok_or(Error::NoProject { file: LOCK })?;
        lock.walked(&project, request)?
    };
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

fn unreadable(file: &'static str, error: toml::de::Error) -> Error {
    let source = Box::new(error);
    Error::Unreadable { file, source }
}

fn constraint(of: &str, text: &str) -> Result<Constraint, Error> {
    text.parse().map_err(|_| Error::Constraint {
        package: of.to_owned(),
        constraint: text.to_owned(),
    })
}

impl Lock {
    fn version(&self) -> Result<(u32, u32), Error> {
        let text = self.metadata.lock_version.as_deref().unwrap_or("1.0");
        let parts = text.split_once('.');
        let numbers = parts.and_then(|(major, minor)| {
            let numbers = (major.parse().ok()?, minor.parse().ok()?);
            matches!(numbers.0, 1 | 2).then_some(numbers)
        });
        numbers.ok_or_else(|| Error::Format {
            file: LOCK,
            version: text.to_owned(),
            known: "1.x or 2.x",
        })
    }

    fn check_python(&self, target: Target) -> Result<(), Error> {
        let version = target.full_version();
        let requires = &self.metadata.python_versions;
        if requires.is_empty() || constraint("python", requires)?.allows(&version) {
            return Ok(());
        }
        Err(Error::RequiresPython {
            requires: requires.clone(),
            version,
        })
    }

    fn check_wanted(&self, project: Option<&Project>, request: &Request<'_>) -> Result<(), Error> {
        let normal = |name: &String| normalize_name(name);
        let mut extras: BTreeSet<String> = self.extras.keys().map(normal).collect();
        let of_packages = self.package.iter().flat_map(|p| &p.groups).flatten();
        let mut groups: BTreeSet<String> = of_packages.map(normal).collect();
        if let Some(project) = project {
            extras.extend(project.extras.keys().cloned());
            groups.extend(project.groups.keys().cloned());
        }
        groups.remove(MAIN);
        let mut wanted = request.wanted.groups.clone();
        wanted.remove(MAIN);
        check_known("extra", &request.wanted.extras, extras)?;
        check_known("dependency group", &wanted, groups)
    }

    /// What the project always asks for has to be in the lock, or the lock is older than the project.
    fn check_complete(&self, project: &Project, target: Target) -> Result<(), Error> {
        let names: BTreeSet<String> = self.names().collect();
        let markers = Markers::new(target).with_active::<&str>([]);
        for (name, dependency) in &project.main {
            let is_there = names.contains(name) || project.name.as_ref() == Some(name);
            if !is_there && !dependency.optional && walk::meant(name, dependency, target, &markers)?
            {
                return Err(Error::Missing {
                    file: LOCK,
                    package: name.clone(),
                    asked_by: PROJECT.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.package.iter().map(|p| normalize_name(&p.name))
    }

    /// The packages that say themselves that they are wanted.
    fn marked(
        &self,
        project: Option<&Project>,
        request: &Request<'_>,
    ) -> Result<Vec<Entry>, Error> {
        let markers = Markers::new(request.target).with_active(&request.wanted.extras);
        let mut groups = request.wanted.groups.clone();
        groups.insert(MAIN.to_owned());
        let mut wanted = Vec::new();
        for package in &self.package {
            if package.is_wanted(&groups, &markers)? && !package.is_the_project() {
                wanted.push(package);
            }
        }
        let users = walk::users(&wanted, request.target)?;
        let asked = |name: &String| {
            project.is_some_and(|project| project.main.iter().any(|(own, _)| own == name))
        };
        let entry = |package: &&Package| {
            let name = normalize_name(&package.name);
            let users = if asked(&name) { None } else { users.get(&name) };
            package.entry(request.target, users.cloned().unwrap_or_default())
        };
        wanted.iter().map(entry).collect()
    }

    /// The packages that the project's own wishes lead to.
    fn walked(&self, project: &Project, request: &Request<'_>) -> Result<Vec<Entry>, Error> {
        let wishes = project.wishes(request.wanted, &self.extras);
        let found = walk::walk(self, project.name.as_deref(), wishes, request.target)?;
        let found = found
            .into_iter()
            .filter(|(at, _)| !self.package[*at].is_the_project());
        let entry =
            |(at, users): (usize, BTreeSet<String>)| self.package[at].entry(request.target, users);
        found.map(entry).collect()
    }
}

impl Package {
    /// Whether one of these groups wants it here.
    fn is_wanted(&self, groups: &BTreeSet<String>, markers: &Markers) -> Result<bool, Error> {
        let own = self
            .groups
            .iter()
            .flatten()
            .map(|name| normalize_name(name));
        let mut own: Vec<String> = own.collect();
        if self.groups.is_none() {
            own.push(MAIN.to_owned());
        }
        for group in own.iter().filter(|group| groups.contains(*group)) {
            let marker = match &self.markers {
                Some(ByGroup::All(marker)) => Some(marker),
                Some(ByGroup::Each(markers)) => {
                    let mut each = markers.iter();
                    let of_group = each.find(|(name, _)| normalize_name(name) == *group);
                    of_group.map(|(_, marker)| marker)
                }
                None => None,
            };
            if self.holds(marker, markers)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn holds(&self, marker: Option<&String>, markers: &Markers) -> Result<bool, Error> {
        walk::holds(&self.name, marker, markers)
    }

    /// Whether it is for the target's Python; what cannot be read excludes nothing.
    fn is_for(&self, target: Target) -> bool {
        let constraint = Constraint::from_str(&self.python_versions);
        !constraint.is_ok_and(|constraint| !constraint.allows(&target.full_version()))
    }

    /// Whether it is the directory of the lock, which is the function's own code.
    fn is_the_project(&self) -> bool {
        let here = |url: &str| Path::new(url).components().all(|c| c == Component::CurDir);
        let source = self.source.as_ref();
        source.is_some_and(|s| s.kind.as_deref() == Some("directory") && here(&s.url))
    }

    fn entry(&self, target: Target, required_by: BTreeSet<String>) -> Result<Entry, Error> {
        let mut entry = Entry {
            name: normalize_name(&self.name),
            version: Some(self.version.clone()),
            requires_python: self.requires_python(target),
            required_by,
            ..Entry::default()
        };
        let Some(origin) = &self.source else {
            self.take_files(&mut entry, None);
            return Ok(entry);
        };
        let subdirectory = origin.subdirectory.clone();
        match origin.kind.as_deref() {
            Some("git") => {
                let commit = origin.resolved_reference.clone();
                let commit = commit.or_else(|| origin.reference.clone());
                entry.source = Some(Source::Repository {
                    url: origin.url.clone(),
                    commit: commit.ok_or_else(|| self.nowhere())?,
                    subdirectory,
                });
            }
            Some("directory") => {
                let path = Path::new(&origin.url);
                let below = subdirectory.map(|below| path.join(below));
                entry.source = Some(Source::Directory(below.unwrap_or_else(|| path.into())));
            }
            Some("file") => {
                let location = Location::Path((&origin.url).into());
                entry.first_party = true;
                self.take_files(&mut entry, Some((location, subdirectory)));
            }
            Some("url") => {
                let url = Url::parse(&origin.url).map_err(|_| self.nowhere())?;
                self.take_files(&mut entry, Some((Location::Url(url), subdirectory)));
            }
            _ => {
                self.take_files(&mut entry, None);
                entry.index = Url::parse(&origin.url).ok().map(|url| without_user(&url));
            }
        }
        Ok(entry)
    }

    fn nowhere(&self) -> Error {
        let package = normalize_name(&self.name);
        Error::Location { package }
    }

    /// Gives `entry` the package's files: those of an index, or the one at a place.
    fn take_files(&self, entry: &mut Entry, place: Option<(Location, Option<String>)>) {
        let mut archives = Vec::new();
        if let Some((location, subdirectory)) = place {
            let name = location.filename().unwrap_or_default();
            let own = self.files.iter().find(|own| own.file == name);
            let own = own.or(self.files.first());
            let file = File {
                location: Some(location),
                hashes: own.map(LockFile::hashes).unwrap_or_default(),
                ..File::default()
            };
            if is_wheel(&name) {
                entry.wheels.push(file);
            } else {
                archives.push((file, subdirectory));
            }
        } else {
            let (wheels, others): (Vec<_>, Vec<_>) =
                self.files.iter().partition(|file| is_wheel(&file.file));
            entry.wheels = wheels.into_iter().map(LockFile::of_index).collect();
            // Of several the usual form; what is neither is no source, as an egg or an installer.
            for ending in ARCHIVES {
                let archive = others.iter().find(|file| file.file.ends_with(ending));
                archives.extend(archive.map(|file| (file.of_index(), None)));
            }
        }
        let archive = archives.into_iter().next();
        entry.source = archive.map(|(file, subdirectory)| Source::Archive { file, subdirectory });
    }

    /// The versions of Python that it is for, in the terms of PEP 440.
    fn requires_python(&self, target: Target) -> Option<String> {
        let text = self.python_versions.trim();
        if text.is_empty() || text == "*" {
            return None;
        }
        // What is built in a directory has poetry's own terms.
        let standard = VersionSpecifiers::from_str(text).is_ok();
        let constraint = Constraint::from_str(text).ok().filter(|_| !standard);
        let text = constraint.map_or_else(
            || text.to_owned(),
            |constraint| {
                let specifiers = constraint.specifiers_for(&target.full_version());
                specifiers.to_string()
            },
        );
        Some(text)
    }
}

impl LockFile {
    fn of_index(&self) -> File {
        File {
            name: Some(self.file.clone()),
            hashes: self.hashes(),
            ..File::default()
        }
    }

    fn hashes(&self) -> BTreeMap<String, String> {
        let hash = self.hash.split_once(':');
        let hash = hash.map(|(algorithm, hex)| (algorithm.to_owned(), hex.to_owned()));
        hash.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
