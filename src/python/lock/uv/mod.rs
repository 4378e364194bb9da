//! `uv.lock`: the packages that one project of it needs on a target.
//!
//! A uv lock holds a graph for all members of a workspace and all environments at once. Here it is walked
//! from the wanted project, taking the edges whose markers hold, as `uv sync` does. uv is not run, and which
//! of a package's files is taken is not decided here.

mod document;
mod freshness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pep440_rs::VersionSpecifiers;

use crate::python::lock::uv::document::{
    Conflict, Dependency, Document, Head, Metadata, Package, parts,
};
use crate::python::lock::{self, Entry, Request, Wanted};
use crate::python::markers::Markers;

/// Why a `uv.lock` cannot be used, beside what holds for every lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no TOML, or its fields are not those of a `uv.lock`.
    #[error("not a uv.lock file")]
    Syntax(#[source] Box<toml::de::Error>),
    /// It is of a version that is not understood.
    #[error("version {0} of uv.lock is not 1")]
    Version(u64),
    /// It was not made for the project.
    #[error("the lock has no project in `{}`{}", shown(directory), only_in(.known))]
    NoProject {
        /// The project's directory, from the lock's.
        directory: PathBuf,
        /// The directories that it has projects in.
        known: Vec<String>,
    },
    /// It was made before the project's requirements were changed.
    #[error("the lock and pyproject.toml do not agree on `{package}`")]
    Stale {
        /// What is asked for in another way, or in only one of them.
        package: String,
    },
    /// Something that was declared to exclude each other is wanted at once.
    #[error("{} exclude each other, but all are wanted", items.join(" and "))]
    Conflict {
        /// Extras, groups and projects.
        items: Vec<String>,
    },
    /// A dependency has no entry, or more than one.
    #[error("the lock does not say which `{dependency}` it is that `{package}` depends on")]
    Dependency {
        /// The package that depends on it.
        package: String,
        /// Its name.
        dependency: String,
    },
}

fn shown(directory: &Path) -> String {
    match directory.to_string_lossy() {
        path if path.is_empty() => ".".to_owned(),
        path => path.into_owned(),
    }
}

fn only_in(known: &[String]) -> String {
    match known {
        [] => String::new(),
        known => format!(", only in {}", known.join(", ")),
    }
}

/// The packages that the wanted project needs on the target, sorted by name. It is not among them itself, and
/// no dependency group is wanted but those that the request names.
///
/// # Errors
/// When the lock is not for the project or the target, is older than the project's requirements, or has no
/// meaning.
pub fn entries(text: &str, request: &Request<'_>) -> Result<Vec<Entry>, lock::Error> {
    let document = read(text)?;
    let mut markers = Markers::new(request.target);
    check_target(&document, request, &markers)?;
    let graph = Graph::new(&document);
    let root = graph.root(request)?;
    if let Some(pyproject) = request.pyproject {
        freshness::check(&document, root, pyproject)?;
    }
    let (groups, start);
    if let Some(root) = root {
        start = wanted_of(root, request.wanted)?;
    } else {
        groups = graph.wanted_groups(request.wanted, &markers)?;
        start = vec![groups.as_slice()];
    }
    graph.activate(root, request.wanted, &start, &mut markers)?;
    let reached = graph.walk(root, &start, |dependency| holds(&markers, dependency))?;
    let mut entries: Vec<Entry> = reached
        .into_iter()
        .map(|(at, required_by)| (&document.packages[at], required_by))
        .filter(|(package, _)| !is(root, package) && package.is_installed())
        .map(|(package, required_by)| package.entry(required_by))
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn read(text: &str) -> Result<Document, Error> {
    let document: Document = match toml::from_str(text) {
        Ok(document) => document,
        // Fields of another version may differ in any way.
        Err(error) => match toml::from_str::<Head>(text) {
            Ok(Head { version }) if version != 1 => return Err(Error::Version(version)),
            _ => return Err(Error::Syntax(Box::new(error))),
        },
    };
    match document.version {
        1 => Ok(document),
        other => Err(Error::Version(other)),
    }
}

fn check_target(
    document: &Document,
    request: &Request<'_>,
    markers: &Markers,
) -> Result<(), lock::Error> {
    let version = request.target.full_version();
    let requires = document.requires_python.as_deref();
    let requires = requires.and_then(|text| VersionSpecifiers::from_str(text).ok());
    if let Some(requires) = requires.filter(|requires| !requires.contains(&version)) {
        return Err(lock::Error::RequiresPython {
            requires: requires.to_string(),
            version,
        });
    }
    let environments = &document.supported_markers;
    for environment in environments {
        if markers
            .hold(environment)
            .map_err(lock::Error::EnvironmentMarker)?
        {
            return Ok(());
        }
    }
    if environments.is_empty() {
        return Ok(());
    }
    Err(lock::Error::Environment {
        environments: environments.clone(),
        target: request.target,
    })
}

fn holds(markers: &Markers, dependency: &Dependency) -> Result<bool, lock::Error> {
    let Some(marker) = &dependency.marker else {
        return Ok(true);
    };
    markers.hold(marker).map_err(|source| lock::Error::Marker {
        package: dependency.name.clone(),
        source,
    })
}

/// The extra that a lock's markers test for to know whether something that conflicts is active. The length
/// tells where the package's name ends.
fn encoded(kind: &str, package: &str, name: Option<&str>) -> String {
    let length = package.len();
    match name {
        Some(name) => format!("{kind}-{length}-{package}-{name}"),
        None => format!("{kind}-{length}-{package}"),
    }
}

impl Conflict {
    fn encoded(&self) -> String {
        match (&self.extra, &self.group) {
            (Some(extra), _) => encoded("extra", &self.package, Some(extra)),
            (None, Some(group)) => encoded("group", &self.package, Some(group)),
            (None, None) => encoded("project", &self.package, None),
        }
    }

    fn shown(&self) -> String {
        let package = &self.package;
        match (&self.extra, &self.group) {
            (Some(extra), _) => format!("extra `{extra}` of `{package}`"),
            (None, Some(group)) => format!("group `{group}` of `{package}`"),
            (None, None) => format!("`{package}`"),
        }
    }
}

/// The project, or a root that is none, is no package that requires anything.
fn is(root: Option<&Package>, package: &Package) -> bool {
    root.is_some_and(|root| std::ptr::eq(root, package))
}

/// What is wanted of a project, as lists of dependencies.
fn wanted_of<'a>(root: &'a Package, wanted: &Wanted) -> Result<Vec<&'a [Dependency]>, lock::Error> {
    let nothing = Metadata::default();
    let metadata = root.metadata.as_ref().unwrap_or(&nothing);
    let mut start = vec![root.dependencies.as_slice()];
    // An extra that needs nothing is only told of as provided, a group only as required.
    let extras = &root.optional_dependencies;
    let known = extras.keys().chain(&metadata.provides_extras);
    check_known("extra", known, &wanted.extras)?;
    start.extend(
        wanted
            .extras
            .iter()
            .filter_map(|extra| extras.get(extra))
            .map(Vec::as_slice),
    );
    let groups = &root.dev_dependencies;
    let known = groups.keys().chain(metadata.requires_dev.keys());
    check_known("dependency group", known, &wanted.groups)?;
    start.extend(
        wanted
            .groups
            .iter()
            .filter_map(|group| groups.get(group))
            .map(Vec::as_slice),
    );
    Ok(start)
}

fn check_known<'n>(
    kind: &'static str,
    known: impl Iterator<Item = &'n String>,
    wanted: &BTreeSet<String>,
) -> Result<(), lock::Error> {
    let known: BTreeSet<&String> = known.collect();
    match wanted.iter().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => Err(lock::Error::Unknown {
            kind,
            name: name.clone(),
            known: known.into_iter().cloned().collect(),
        }),
    }
}

/// A lock's packages with the ways between them.
struct Graph<'a> {
    document: &'a Document,
    by_name: BTreeMap<&'a str, Vec<usize>>,
}

/// Packages by their places in the lock, with the names of those that require them.
type Reached = BTreeMap<usize, BTreeSet<String>>;

impl<'a> Graph<'a> {
    fn new(document: &'a Document) -> Self {
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, package) in document.packages.iter().enumerate() {
            by_name.entry(&package.name).or_default().push(at);
        }
        Self { document, by_name }
    }

    /// The wanted project; nothing for a root that is none, of which only groups can be wanted.
    fn root(&self, request: &Request<'_>) -> Result<Option<&'a Package>, Error> {
        let wanted = parts(request.member);
        let directory = |package: &'a Package| package.source.local().map(Path::new);
        let mut packages = self.document.packages.iter();
        let found = packages.find(|p| directory(p).is_some_and(|path| parts(path) == wanted));
        let members = &self.document.manifest.members;
        let may_be_none = members.is_empty() || !request.wanted.groups.is_empty();
        if found.is_some() || wanted.is_empty() && may_be_none {
            return Ok(found);
        }
        let known = self
            .document
            .packages
            .iter()
            .filter_map(|p| p.source.local());
        Err(Error::NoProject {
            directory: request.member.to_owned(),
            known: known.map(str::to_owned).collect(),
        })
    }

    /// The wanted groups of a root that is no project. They are requirements still, each of the one version
    /// that is locked for the target.
    fn wanted_groups(
        &self,
        wanted: &Wanted,
        markers: &Markers,
    ) -> Result<Vec<Dependency>, lock::Error> {
        check_known("extra", [].iter(), &wanted.extras)?;
        let groups = &self.document.manifest.dependency_groups;
        check_known("dependency group", groups.keys(), &wanted.groups)?;
        let mut dependencies = Vec::new();
        let wanted = wanted.groups.iter().filter_map(|group| groups.get(group));
        for requirement in wanted.flatten() {
            let mut dependency = Dependency {
                name: requirement.name.clone(),
                version: None,
                source: None,
                extra: requirement.extras.clone(),
                marker: requirement.marker.clone(),
            };
            if holds(markers, &dependency)? {
                let package = self.for_target(&dependency, markers)?;
                dependency.version.clone_from(&package.version);
                dependency.source = Some(package.source.clone());
                dependencies.push(dependency);
            }
        }
        Ok(dependencies)
    }

    fn for_target(
        &self,
        dependency: &Dependency,
        markers: &Markers,
    ) -> Result<&'a Package, lock::Error> {
        let mut found = None;
        for at in self.by_name.get(&*dependency.name).into_iter().flatten() {
            let package = &self.document.packages[*at];
            let mut applies = package.resolution_markers.is_empty();
            for marker in &package.resolution_markers {
                applies |= markers.hold(marker).map_err(|source| lock::Error::Marker {
                    package: package.name.clone(),
                    source,
                })?;
            }
            if applies && found.replace(package).is_some() {
                return Err(unclear(None, dependency).into());
            }
        }
        found.ok_or_else(|| unclear(None, dependency).into())
    }

    /// Lets the markers know which of those that exclude each other are active: what is wanted of the project,
    /// and the extras that its dependencies are required with.
    fn activate(
        &self,
        root: Option<&'a Package>,
        wanted: &Wanted,
        start: &[&'a [Dependency]],
        markers: &mut Markers,
    ) -> Result<(), lock::Error> {
        let sets = &self.document.conflicts;
        if sets.is_empty() {
            return Ok(());
        }
        let conflicting: BTreeSet<String> = sets.iter().flatten().map(Conflict::encoded).collect();
        if let Some(Package { name, .. }) = root {
            markers.activate(&encoded("project", name, None));
            for extra in &wanted.extras {
                markers.activate(&encoded("extra", name, Some(extra)));
            }
            for group in &wanted.groups {
                markers.activate(&encoded("group", name, Some(group)));
            }
        }
        self.walk(root, start, |dependency| {
            let extras = dependency.extra.iter();
            let names = extras.map(|extra| encoded("extra", &dependency.name, Some(extra)));
            // A dependency's marker is read as if its own extras were active already.
            let added: Vec<String> = names
                .filter(|name| conflicting.contains(name) && markers.activate(name))
                .collect();
            let holds = holds(markers, dependency)?;
            if !holds {
                for name in &added {
                    markers.deactivate(name);
                }
            }
            Ok(holds)
        })?;
        for set in sets {
            let active = set.iter().filter(|item| markers.is_active(&item.encoded()));
            let items: BTreeSet<String> = active.map(Conflict::shown).collect();
            if items.len() > 1 {
                let items = items.into_iter().collect();
                return Err(Error::Conflict { items }.into());
            }
        }
        Ok(())
    }

    /// All that is reached from `start` over the dependencies that count. Each package and each extra of one is
    /// gone through once, so cycles end.
    fn walk(
        &self,
        root: Option<&'a Package>,
        start: &[&'a [Dependency]],
        mut counts: impl FnMut(&Dependency) -> Result<bool, lock::Error>,
    ) -> Result<Reached, lock::Error> {
        let mut reached = Reached::new();
        let mut seen = BTreeSet::new();
        let mut queue: VecDeque<_> = start.iter().map(|list| (root, *list)).collect();
        while let Some((from, dependencies)) = queue.pop_front() {
            for dependency in dependencies {
                if !counts(dependency)? {
                    continue;
                }
                let at = self.find(from, dependency)?;
                let package = &self.document.packages[at];
                let required_by = reached.entry(at).or_default();
                if let Some(from) = from.filter(|from| !is(root, from)) {
                    required_by.insert(from.name.clone());
                }
                if seen.insert((at, None)) {
                    queue.push_back((Some(package), &package.dependencies));
                }
                for extra in &dependency.extra {
                    let more = package.optional_dependencies.get(extra);
                    if let Some(more) = more.filter(|_| seen.insert((at, Some(extra)))) {
                        queue.push_back((Some(package), more));
                    }
                }
            }
        }
        Ok(reached)
    }

    fn find(&self, from: Option<&Package>, dependency: &Dependency) -> Result<usize, Error> {
        let fits = |at: &&usize| {
            let package = &self.document.packages[**at];
            let source = dependency.source.as_ref();
            (dependency.version.is_none() || dependency.version == package.version)
                && source.is_none_or(|source| *source == package.source)
        };
        let mut found = self.by_name.get(&*dependency.name).into_iter().flatten();
        match (found.by_ref().find(fits), found.find(fits)) {
            (Some(at), None) => Ok(*at),
            _ => Err(unclear(from, dependency)),
        }
    }
}

fn unclear(from: Option<&Package>, dependency: &Dependency) -> Error {
    Error::Dependency {
        package: from.map_or_else(|| "the workspace".to_owned(), |from| from.name.clone()),
        dependency: dependency.name.clone(),
    }
}
