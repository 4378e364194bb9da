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
use crate::python::lock::{self, Entry, Request, Wanted, check_known};
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

/// Whether a package is the wanted project.
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
    check_known("extra", &wanted.extras, known.cloned().collect())?;
    start.extend(
        wanted
            .extras
            .iter()
            .filter_map(|extra| extras.get(extra))
            .map(Vec::as_slice),
    );
    let groups = &root.dev_dependencies;
    let known = groups.keys().chain(metadata.requires_dev.keys());
    check_known("dependency group", &wanted.groups, known.cloned().collect())?;
    start.extend(
        wanted
            .groups
            .iter()
            .filter_map(|group| groups.get(group))
            .map(Vec::as_slice),
    );
    Ok(start)
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
        check_known("extra", &wanted.extras, BTreeSet::new())?;
        let groups = &self.document.manifest.dependency_groups;
        let known = groups.keys().cloned().collect();
        check_known("dependency group", &wanted.groups, known)?;
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
        let mut direct = BTreeSet::new();
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
                match from.filter(|from| !is(root, from)) {
                    Some(from) => required_by.insert(from.name.clone()),
                    None => direct.insert(at),
                };
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
        // What the project asks for itself is there for no other's sake.
        for at in direct {
            reached.insert(at, BTreeSet::new());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Url;
    use crate::python::lock::tests::plain;
    use crate::python::lock::{File, Location, Source};
    use crate::python::tests::target;
    use crate::python::{Machine, Target};
    use proptest::prelude::*;

    const CONFLICTS: &str = include_str!("../fixtures/uv-conflicts.lock");
    const CONFLICTS_PROJECT: &str = include_str!("../fixtures/uv-conflicts.toml");
    const WORKSPACE: &str = include_str!("../fixtures/uv-workspace.lock");
    const WORKSPACE_PROJECT: &str = include_str!("../fixtures/uv-workspace.toml");
    const SOURCES: &str = include_str!("../fixtures/uv-sources.lock");
    const SOURCES_PROJECT: &str = include_str!("../fixtures/uv-sources.toml");

    fn lambda() -> Target {
        target("3.12", Machine::X86_64, "2.34")
    }

    fn wanted(extras: &[&str], groups: &[&str]) -> Wanted {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Wanted {
            extras: names(extras),
            groups: names(groups),
        }
    }

    fn read(text: &str, pyproject: &str) -> Vec<Entry> {
        let request = Request {
            pyproject: Some(pyproject),
            ..plain(lambda())
        };
        entries(text, &request).unwrap()
    }

    /// Each entry with those that require it, or the refusal.
    fn outline(text: &str, member: &str, extras: &[&str], groups: &[&str]) -> String {
        let request = Request {
            wanted: &wanted(extras, groups),
            member: Path::new(member),
            ..plain(lambda())
        };
        let line = |entry: Entry| {
            let version = entry.version.unwrap_or_default();
            let users: Vec<String> = entry.required_by.into_iter().collect();
            format!("{} {version} < {}", entry.name, users.join(" "))
        };
        match entries(text, &request) {
            Ok(entries) => entries.into_iter().map(line).collect::<Vec<_>>().join("\n"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn extras_groups_and_conflicts_decide() {
        let read = |extras: &[&str], groups: &[&str]| outline(CONFLICTS, "", extras, groups);
        insta::assert_snapshot!(read(&[], &[]), @"
        certifi 2024.2.2 < requests
        charset-normalizer 3.5.2 < requests
        idna 3.20 < 
        pysocks 1.7.1 < requests
        requests 2.34.2 < 
        urllib3 2.1.0 < requests
        ");
        insta::assert_snapshot!(read(&["x1", "all", "empty"], &["g1", "nothing"]), @"
        certifi 2023.7.22 < 
        charset-normalizer 3.5.2 < requests
        idna 3.20 < 
        iniconfig 2.3.1 < 
        pysocks 1.7.1 < requests
        requests 2.34.2 < 
        tomli 2.5.0 < 
        urllib3 2.0.0 <
        ");
        insta::assert_snapshot!(read(&[], &["g2", "dev"]), @"
        certifi 2024.2.2 < requests
        charset-normalizer 3.5.2 < requests
        idna 3.20 < 
        iniconfig 2.3.1 < pytest
        packaging 26.3 < pytest
        pluggy 1.7.0 < pytest
        pycodestyle 2.15.0 < 
        pygments 2.21.0 < pytest
        pysocks 1.7.1 < requests
        pytest 9.2.0 < 
        requests 2.34.2 < 
        urllib3 2.1.0 <
        ");
        insta::assert_snapshot!(read(&["x1", "x2"], &[]), @"extra `x1` of `my-conf` and extra `x2` of `my-conf` exclude each other, but all are wanted");
        insta::assert_snapshot!(read(&["x5"], &[]), @"the project has no extra `x5`, only all, empty, x1, x2, x3, x4");
        insta::assert_snapshot!(read(&[], &["test"]), @"the project has no dependency group `test`, only dev, g1, g2, lint, nothing");
    }

    #[test]
    fn a_member_has_its_own_closure() {
        insta::assert_snapshot!(outline(WORKSPACE, "", &[], &[]), @"
        certifi 2026.10.18 < liba
        colorama 0.4.6 < virt
        idna 3.20 < 
        liba 1 < 
        libb 1 < liba
        six 1.17.0 < liba
        tomli 2.5.0 < libb
        ");
        insta::assert_snapshot!(outline(WORKSPACE, "packages/liba", &[], &["test"]), @"
        certifi 2026.10.18 < 
        colorama 0.4.6 < virt
        idna 3.20 < ws-root
        iniconfig 2.3.1 < 
        libb 1 < 
        six 1.17.0 < 
        tomli 2.5.0 < libb
        ws-root 1 < libb
        ");
        insta::assert_snapshot!(outline(WORKSPACE, "./packages/virt/", &[], &[]), @"colorama 0.4.6 <");
        insta::assert_snapshot!(outline(WORKSPACE, "packages/libc", &[], &[]), @"the lock has no project in `packages/libc`, only in packages/liba, packages/libb, packages/virt, .");
    }

    #[test]
    fn every_source_is_known() {
        let file = |file: &File| {
            let location = match file.location.as_ref().unwrap() {
                Location::Url(url) => url.to_string(),
                Location::Path(path) => format!("path {}", path.display()),
            };
            let hashes: Vec<String> = file
                .hashes
                .iter()
                .map(|(a, d)| format!("{a} {d:.8}"))
                .collect();
            let name = file.filename("a").unwrap();
            format!("{name} at {location}, {:?}, {hashes:?}", file.size)
        };
        let entries = read(SOURCES, SOURCES_PROJECT);
        let lines = entries.iter().flat_map(|entry| {
            let index = entry.index.as_ref().map_or("-", Url::as_str);
            let head = format!("{} {:?} {index}", entry.name, entry.version);
            let wheels = entry
                .wheels
                .iter()
                .map(|wheel| format!("  {}", file(wheel)));
            let source = entry.source.as_ref().map(|source| match source {
                Source::Archive { file: sdist, .. } => format!("  source {}", file(sdist)),
                other => format!("  {other:?}"),
            });
            [head]
                .into_iter()
                .chain(wheels)
                .chain(source)
                .collect::<Vec<_>>()
        });
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
        certifi Some("2026.10.18") https://pypi.org/simple
          certifi-2026.10.18-py3-none-any.whl at https://files.pythonhosted.org/packages/08/ba/95dd616042484f7c83a06974388b37b837732740ee70bc5dc715b5fcd55a/certifi-2026.10.18-py3-none-any.whl, Some(134093), ["sha256 73191c47"]
          source certifi-2026.10.18.tar.gz at https://files.pythonhosted.org/packages/7e/eb/a2aa1ac3ea30dd3f30ca57f40232138b6b0040719316ecb85daf61167771/certifi-2026.10.18.tar.gz, Some(135227), ["sha256 b9995d97"]
        colorama Some("0.4.6") -
          colorama-0.4.6-py2.py3-none-any.whl at path ../dl/colorama-0.4.6-py2.py3-none-any.whl, None, ["sha256 4f1d9991"]
        gp Some("3") -
          Repository { url: "file:///srv/repo", commit: "66bc9fa91e0a4651774a45753a08b738f1eaa258", subdirectory: Some("sub") }
        idna Some("3.7") -
          idna-3.7-py3-none-any.whl at https://files.pythonhosted.org/packages/e5/3e/741d8c82801c347547f8a2a06aa57dbb1992be9e948df2ea0eda2c8b79e8/idna-3.7-py3-none-any.whl, None, ["sha256 82fee1fc"]
        iniconfig Some("2.0.0") -
          iniconfig-2.0.0-py3-none-any.whl at path ../flat/iniconfig-2.0.0-py3-none-any.whl, None, []
        local-dir None -
          Directory("../ld")
        noproj Some("1") -
          Directory("../np")
        pycodestyle Some("2.15.0") https://pypi.org/simple
          pycodestyle-2.15.0-py2.py3-none-any.whl at https://files.pythonhosted.org/packages/56/e2/480bcdb153feecde4d736b18c908c7eee4846f11d7547d2e0c71499af630/pycodestyle-2.15.0-py2.py3-none-any.whl, Some(31583), ["sha256 12fd2f73"]
          source pycodestyle-2.15.0.tar.gz at https://files.pythonhosted.org/packages/86/df/178e41c9ed0ff33c23b3f3757e4e658c889f9abc5ad76ece6cd607b12e9c/pycodestyle-2.15.0.tar.gz, Some(39765), ["sha256 318f5db0"]
        six Some("1.17.0") https://pypi.org/simple
          six-1.17.0-py2.py3-none-any.whl at https://files.pythonhosted.org/packages/b7/ce/149a00dd41f10bc29e5921b496af8b574d8413afcd5e30dfa0ed46c2cc5e/six-1.17.0-py2.py3-none-any.whl, Some(11050), ["sha256 4721f391"]
          source six-1.17.0.tar.gz at https://files.pythonhosted.org/packages/94/e7/b2c673351809dca68a0e064b6af791aa332cf192da575fd474ed7d6f16a2/six-1.17.0.tar.gz, Some(34031), ["sha256 ff70335d"]
        toml Some("0.10.2") -
          source toml-0.10.2.tar.gz at path ../dl/toml-0.10.2.tar.gz, None, ["sha256 b3bda1d1"]
        tomli Some("2.0.2") -
          source tomli-2.0.2.tar.gz at https://files.pythonhosted.org/packages/35/b9/de2a5c0144d7d75a57ff355c0c24054f965b2dc3036456ae03a51ea6264b/tomli-2.0.2.tar.gz, None, ["sha256 d46d457a"]
        "#);
    }

    /// A lock of a project `p` with these fields, and of its dependencies.
    fn lock_of(fields: &str, packages: &str) -> String {
        format!(
            "version = 1\nrequires-python = \">=3.9\"\n{packages}\n[[package]]\nname = \"p\"\n\
             source = {{ virtual = \".\" }}\n{fields}\n"
        )
    }

    fn package(name: &str, fields: &str) -> String {
        format!("[[package]]\nname = \"{name}\"\nversion = \"1\"\n{fields}\n")
    }

    #[test]
    fn a_root_that_is_no_project_has_groups_alone() {
        let packages = ["python_full_version < '3.11'", "python_full_version >= '3.11'"]
            .map(|marker| {
                let version = marker.len();
                format!(
                    "[[package]]\nname = \"a\"\nversion = \"{version}\"\nsource = {{ registry = \"https://x.test\" }}\n\
                     resolution-markers = [\"{marker}\"]\n"
                )
            });
        let groups = "[manifest]\nmembers = [\"m\"]\n[manifest.dependency-groups]\n\
                      g = [{ name = \"a\", specifier = \">1\" }, { name = \"b\", marker = \"os_name == 'nt'\" }]\n";
        let text = format!("version = 1\n{groups}{}", packages.concat());
        insta::assert_snapshot!(outline(&text, "", &[], &["g"]), @"a 29 <");
        insta::assert_snapshot!(outline(&text, "", &[], &["h"]), @"the project has no dependency group `h`, only g");
        insta::assert_snapshot!(outline(&text, "", &[], &[]), @"the lock has no project in `.`");
        assert_eq!(outline("version = 1", "", &[], &[]), "");
        let twice = text.replace("< '3.11'", ">= '3.9'");
        insta::assert_snapshot!(outline(&twice, "", &[], &["g"]), @"the lock does not say which `a` it is that `the workspace` depends on");
    }

    #[test]
    fn what_has_no_meaning_or_is_for_others_is_refused() {
        let registry = "source = { registry = \"https://user:secret@x.test/simple\" }";
        let one = "dependencies = [{ name = \"a\" }]";
        let a = package("a", registry);
        let marked = one.replace("\"a\"", "\"a\", marker = \"os == 'x'\"");
        let other_version = one.replace("\"a\"", "\"a\", version = \"2\"");
        let refused = [
            "version = 2\npackage = 1".to_owned(),
            "version = 1\npackage = 1".to_owned(),
            "version = 2".to_owned(),
            "lock-version = \"1.0\"".to_owned(),
            lock_of(one, ""),
            lock_of(one, &format!("{a}{a}")),
            lock_of(&other_version, &a),
            lock_of(&marked, &a),
            lock_of(one, &a).replace(">=3.9", ">=3.13"),
            lock_of(
                one,
                &format!("supported-markers = [\"os_name == 'nt'\"]\n{a}"),
            ),
            lock_of(one, &format!("supported-markers = [\"os == 'nt'\"]\n{a}")),
        ]
        .map(|text| outline(&text, "", &[], &[]));
        insta::assert_snapshot!(refused.join("\n"), @"
        version 2 of uv.lock is not 1
        not a uv.lock file
        version 2 of uv.lock is not 1
        not a uv.lock file
        the lock does not say which `a` it is that `p` depends on
        the lock does not say which `a` it is that `p` depends on
        the lock does not say which `a` it is that `p` depends on
        package `a` cannot be read
        the lock requires Python >=3.13, which 3.12.7 is not
        the lock is not for python 3.12, x86_64, glibc 2.34; it is for os_name == 'nt'
        the lock's environments cannot be read
        ");
        let read = entries(&lock_of(one, &a), &plain(lambda())).unwrap();
        assert_eq!(
            read[0].index.as_ref().unwrap().as_str(),
            "https://x.test/simple"
        );
    }

    #[test]
    fn a_git_address_is_taken_apart() {
        let git = "source = { git = \"ssh://git@host/r.git?subdirectory=a%2Fb&rev=v1#0123\" }";
        let text = lock_of("dependencies = [{ name = \"a\" }]", &package("a", git));
        let read = entries(&text, &plain(lambda())).unwrap();
        // What names no commit can be anything.
        let floating = entries(&text.replace("#0123", ""), &plain(lambda())).unwrap();
        assert_eq!(floating[0].source, None);
        assert_eq!(
            read[0].source,
            Some(Source::Repository {
                url: "ssh://git@host/r.git".to_owned(),
                commit: "0123".to_owned(),
                subdirectory: Some("a/b".to_owned()),
            })
        );
    }

    #[test]
    fn a_long_and_a_dense_graph_are_walked() {
        // Deeper than any stack, and with more ways than any clock allows.
        let names = |range: std::ops::Range<usize>| {
            let names = range.map(|n| format!("{{ name = \"n{n}\" }}"));
            names.collect::<Vec<_>>().join(",")
        };
        let registry = "source = { registry = \"https://x.test/simple\" }";
        let of = |n: usize, next: &str| {
            package(
                &format!("n{n}"),
                &format!("{registry}\ndependencies = [{next}]"),
            )
        };
        let next = |n: usize| (n + 1) % 5000;
        let chain: Vec<String> = (0..5000)
            .map(|n| of(n, &names(next(n)..next(n) + 1)))
            .collect();
        let dense: Vec<String> = (0..60).map(|n| of(n, &names(0..60))).collect();
        for (packages, count) in [(chain, 5000), (dense, 60)] {
            let text = lock_of("dependencies = [{ name = \"n0\" }]", &packages.concat());
            assert_eq!(entries(&text, &plain(lambda())).unwrap().len(), count);
        }
    }

    #[test]
    fn a_lock_is_held_against_its_project() {
        for (text, project) in [
            (CONFLICTS, CONFLICTS_PROJECT),
            (WORKSPACE, WORKSPACE_PROJECT),
            (SOURCES, SOURCES_PROJECT),
        ] {
            assert!(!read(text, project).is_empty());
        }
        let held = |from: &str, to: &str| {
            assert!(CONFLICTS_PROJECT.contains(from), "{from}");
            let request = Request {
                pyproject: Some(&CONFLICTS_PROJECT.replace(from, to)),
                ..plain(lambda())
            };
            match entries(CONFLICTS, &request) {
                Ok(_) => "fresh".to_owned(),
                Err(error) => error.to_string(),
            }
        };
        for (from, to) in [
            ("\"idna>=3,<4\"", "\"Idna ( <4.0, >= 3 )\""),
            (
                "requests[socks] >= 2 ; python_version>='3.8'",
                "requests[ SOCKS ]>=2;python_version >= \\\"3.8\\\"",
            ),
            ("sys_platform=='win32'", "os_name == 'nt'"),
            (
                "version = \"0.1\"",
                "dynamic = [\"dependencies\"]\nversion = \"0.1\"",
            ),
            (
                "\"idna>=3,<4\"",
                "\"idna @ https://x.test/idna-3.zip ; os_name == 'x'\"",
            ),
            (
                "{include-group = \"lint\"}",
                "{include-group = \"Lint\"}, {include-group = \"dev\"}",
            ),
            ("My.Conf", "my_conf"),
            ("[project]", "[project"),
            ("\"six ;", "\"six >= 1.* ;"),
        ] {
            assert_eq!(held(from, to), "fresh", "{to}");
        }
        let stale = [
            ("\"idna>=3,<4\"", "\"idna>=3,<5\""),
            ("\"idna>=3,<4\"", "\"idna>=3,<4\", \"httpx\""),
            ("\"idna>=3,<4\", ", ""),
            ("requests[socks]", "requests"),
            ("x3 = [\"tomli\"]", "x3 = []\nx5 = [\"tomli\"]"),
            ("[\"pytest\", ", "["),
            (
                "lint = [\"pycodestyle\"]",
                "lint = [\"pycodestyle\", \"ruff\"]",
            ),
            ("My.Conf", "other"),
            ("[tool.uv]", "[tool.uv]\ndev-dependencies = [\"mypy\"]"),
        ]
        .map(|(from, to)| held(from, to));
        insta::assert_snapshot!(stale.join("\n"), @"
        the lock and pyproject.toml do not agree on `idna`
        the lock and pyproject.toml do not agree on `httpx`
        the lock and pyproject.toml do not agree on `idna`
        the lock and pyproject.toml do not agree on `requests`
        the lock and pyproject.toml do not agree on `tomli`
        the lock and pyproject.toml do not agree on `pytest`
        the lock and pyproject.toml do not agree on `ruff`
        the lock and pyproject.toml do not agree on `other`
        the lock and pyproject.toml do not agree on `mypy`
        ");
    }

    proptest! {
        #[test]
        fn any_change_is_read_or_refused(which in 0usize..3, at in any::<prop::sample::Index>(), text in "[\"\\[\\]{}=\n0-9a-z.,%é'#-]{0,6}", cut in 0usize..60) {
            let (lock, project) = [
                (CONFLICTS, CONFLICTS_PROJECT),
                (WORKSPACE, WORKSPACE_PROJECT),
                (SOURCES, SOURCES_PROJECT),
            ][which];
            let mut both = [lock, project].map(str::to_owned);
            for changed in &mut both {
                let start = at.index(changed.len());
                let end = (start + cut).min(changed.len());
                changed.replace_range(start..end, &text);
            }
            let wanted = wanted(&["x1"], &["dev"]);
            for (lock, project) in [(&*both[0], project), (lock, &*both[1])] {
                let request = Request { pyproject: Some(project), ..plain(lambda()) };
                let _ = entries(lock, &request).map_err(|error| error.to_string());
                let _ = entries(lock, &Request { wanted: &wanted, ..request });
            }
        }
    }
}
