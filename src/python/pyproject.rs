//! `pyproject.toml`: what a project says it needs, as lines that any resolver reads.
//!
//! Follows the specifications of project metadata (PEP 621) and of dependency groups (PEP 735). What a
//! build backend would say is not asked for, so metadata that are dynamic are only told to be so. Where
//! the file lies is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use pep440_rs::VersionSpecifiers;
use serde::Deserialize;

use crate::python::lock::{Wanted, or_only};
use crate::python::markers::Markers;
use crate::python::requirement::Requirement;
use crate::python::{Target, normalize_name};

/// Keys of `tool.uv` that decide nothing about versions.
const IRRELEVANT: [&str; 8] = [
    "build-backend",
    "cache-dir",
    "cache-keys",
    "check-url",
    "default-groups",
    "preview",
    "publish-url",
    "trusted-publishing",
];

/// Why a project's needs are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not TOML, or its tables are not of the form they should have.
    #[error("{0}")]
    Form(String),
    /// An extra or group is wanted that the project does not have.
    #[error("the project has no {kind} `{name}`{}", or_only(.known))]
    Unknown {
        /// `extra` or `dependency group`.
        kind: &'static str,
        /// Its normal name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Groups include each other in a circle.
    #[error("dependency groups include each other: {}", .0.join(" → "))]
    Cycle(Vec<String>),
    /// The project is for other versions of Python.
    #[error("the project requires Python {requires}, which {version} is not")]
    RequiresPython {
        /// What it requires.
        requires: String,
        /// The target's version.
        version: String,
    },
    /// Only uv can resolve this project.
    #[error("{0}, which uv reads and pip does not")]
    NeedsUv(String),
}

/// A project's own words about what it needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pyproject {
    /// Its name, as written.
    pub name: Option<String>,
    requires_python: Option<String>,
    dependencies: Vec<String>,
    extras: BTreeMap<String, Vec<String>>,
    groups: BTreeMap<String, Vec<Item>>,
    /// Which of its dependencies a build backend has to be asked for, if any.
    dynamic: Option<String>,
    uv: toml::Table,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Document {
    project: Option<ProjectTable>,
    #[serde(default)]
    dependency_groups: BTreeMap<String, Vec<Item>>,
    #[serde(default)]
    tool: toml::Table,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct ProjectTable {
    name: Option<String>,
    requires_python: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    optional_dependencies: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    dynamic: Vec<String>,
}

/// What stands in a dependency group.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Item {
    Requirement(String),
    #[serde(rename_all = "kebab-case")]
    Include {
        include_group: String,
    },
}

impl FromStr for Pyproject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = toml::from_str(text.trim_start_matches('\u{feff}'));
        let mut document: Document =
            read.map_err(|error| Error::Form(error.to_string().trim_end().to_owned()))?;
        let has_project = document.project.is_some();
        let project = document.project.take().unwrap_or_default();
        let dynamic = project.dynamic.iter();
        let mut dynamic: Vec<&str> = dynamic
            .map(String::as_str)
            .filter(|field| ["dependencies", "optional-dependencies"].contains(field))
            .collect();
        let poetry = document.tool.get("poetry");
        // Without a table of its own, what a project needs is its build backend's to say.
        if !has_project && poetry.is_some() {
            dynamic.push("dependencies");
        }
        let poetry_name = poetry.and_then(|poetry| poetry.get("name")?.as_str());
        let name = project.name.or_else(|| poetry_name.map(str::to_owned));
        let uv = document.tool.get("uv").and_then(toml::Value::as_table);
        Ok(Self {
            name,
            requires_python: project.requires_python,
            dependencies: project.dependencies,
            extras: normalized(project.optional_dependencies),
            groups: normalized(document.dependency_groups),
            dynamic: (!dynamic.is_empty()).then(|| dynamic.join(" and ")),
            uv: uv.cloned().unwrap_or_default(),
        })
    }
}

fn normalized<T>(table: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let pairs = table.into_iter();
    pairs
        .map(|(name, value)| (normalize_name(&name), value))
        .collect()
}

impl Pyproject {
    /// Which of what the project needs only its build backend can say, as `dependencies`.
    pub fn dynamic(&self) -> Option<&str> {
        self.dynamic.as_deref()
    }

    /// What of `tool.uv` may decide a resolution.
    pub fn uv_settings(&self) -> String {
        let mut table = self.uv.clone();
        table.retain(|key, _| !IRRELEVANT.iter().any(|known| **known == *key));
        table.to_string()
    }

    /// The versions of Python that the project is for, as written.
    pub fn requires_python(&self) -> Option<&str> {
        self.requires_python.as_deref()
    }

    /// Whether the project is for the target's Python.
    ///
    /// # Errors
    /// When it is not, or what it says of Python has no meaning.
    pub fn check_python(&self, target: Target) -> Result<(), Error> {
        let Some(text) = &self.requires_python else {
            return Ok(());
        };
        let requires = VersionSpecifiers::from_str(text).map_err(|_| {
            Error::Form(format!(
                "`requires-python` is `{text}`, which says no versions"
            ))
        })?;
        let version = target.full_version();
        if requires.contains(&version) {
            return Ok(());
        }
        Err(Error::RequiresPython {
            requires: text.clone(),
            version: version.to_string(),
        })
    }

    /// What the project needs with these extras and groups, one requirement a line, each once. Of the
    /// project's own extras, which it may name as `name[extra]`, their requirements stand there instead.
    ///
    /// # Errors
    /// When an extra or group does not exist, or groups include each other in a circle.
    pub fn lines(&self, wanted: &Wanted, markers: &Markers) -> Result<Vec<String>, Error> {
        let mut found = Lines {
            project: self,
            own: self.name.as_deref().map(normalize_name),
            markers,
            found: Vec::new(),
            extras: BTreeSet::new(),
            groups: BTreeSet::new(),
        };
        for requirement in &self.dependencies {
            found.requirement(requirement)?;
        }
        for extra in &wanted.extras {
            found.extra(extra)?;
        }
        for group in &wanted.groups {
            found.group(group, &mut Vec::new())?;
        }
        Ok(found.found)
    }

    /// Those lines, for a resolver that reads no settings of uv.
    ///
    /// # Errors
    /// Also when metadata are dynamic, or `tool.uv` says where one of the requirements comes from.
    pub fn lines_without_uv(
        &self,
        wanted: &Wanted,
        markers: &Markers,
    ) -> Result<Vec<String>, Error> {
        if let Some(fields) = &self.dynamic {
            return Err(Error::NeedsUv(format!("its {fields} are dynamic")));
        }
        let lines = self.lines(wanted, markers)?;
        let sources = self.uv.get("sources").and_then(toml::Value::as_table);
        let sources: BTreeSet<String> = sources
            .into_iter()
            .flat_map(|table| table.keys().map(|name| normalize_name(name)))
            .collect();
        let asked = lines.iter().filter_map(|line| Requirement::parse(line));
        let mut bound = asked.filter(|asked| sources.contains(&asked.name));
        if let Some(Requirement { name, .. }) = bound.next() {
            return Err(Error::NeedsUv(format!(
                "`tool.uv.sources` says where `{name}` comes from"
            )));
        }
        // These change which versions there are, so that another answer would come out without them.
        let deciding = [
            "constraint-dependencies",
            "override-dependencies",
            "exclude-dependencies",
        ];
        match deciding.into_iter().find(|key| self.uv.contains_key(*key)) {
            None => Ok(lines),
            Some(key) => Err(Error::NeedsUv(format!("it has `tool.uv.{key}`"))),
        }
    }
}

/// What was gathered so far.
struct Lines<'a> {
    project: &'a Pyproject,
    /// The project's normal name.
    own: Option<String>,
    markers: &'a Markers,
    found: Vec<String>,
    extras: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Lines<'_> {
    fn requirement(&mut self, requirement: &str) -> Result<(), Error> {
        let own = Requirement::parse(requirement)
            .filter(|asked| self.own.as_ref() == Some(&asked.name) && !asked.extras.is_empty());
        let Some(own) = own else {
            let line = requirement.trim().to_owned();
            if !self.found.contains(&line) {
                self.found.push(line);
            }
            return Ok(());
        };
        let marker = own.marker.as_deref();
        let holds = marker.is_none_or(|marker| self.markers.hold(marker) != Ok(false));
        for extra in own.extras.iter().filter(|_| holds) {
            self.extra(extra)?;
        }
        Ok(())
    }

    fn extra(&mut self, name: &str) -> Result<(), Error> {
        let name = normalize_name(name);
        let Some(requirements) = self.project.extras.get(&name) else {
            // A backend may know more of them.
            if self.project.dynamic.is_some() {
                return Ok(());
            }
            return Err(unknown("extra", name, self.project.extras.keys()));
        };
        if self.extras.insert(name) {
            for requirement in requirements {
                self.requirement(requirement)?;
            }
        }
        Ok(())
    }

    fn group(&mut self, name: &str, path: &mut Vec<String>) -> Result<(), Error> {
        let name = normalize_name(name);
        let Some(items) = self.project.groups.get(&name) else {
            return Err(unknown(
                "dependency group",
                name,
                self.project.groups.keys(),
            ));
        };
        let circular = path.contains(&name);
        path.push(name.clone());
        if circular {
            return Err(Error::Cycle(path.clone()));
        }
        if self.groups.insert(name) {
            for item in items {
                match item {
                    Item::Requirement(requirement) => self.requirement(requirement)?,
                    Item::Include { include_group } => self.group(include_group, path)?,
                }
            }
        }
        path.pop();
        Ok(())
    }
}

fn unknown<'a>(kind: &'static str, name: String, known: impl Iterator<Item = &'a String>) -> Error {
    Error::Unknown {
        kind,
        name,
        known: known.cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::tests::target;
    use proptest::prelude::*;

    const PROJECT: &str = r#"
        [project]
        name = "My.App"
        requires-python = ">=3.11"
        dependencies = ["idna>=3", "my-app[Base_Extra]"]
        [project.optional-dependencies]
        base-extra = ["six"]
        all = ["my_app[base_extra, old]", "attrs"]
        old = ["toolz"]
        here = ["my-app[all]; python_version < '3.12'"]
        [dependency-groups]
        Ops = ["boto3", {include-group = "more"}]
        more = ["six", "idna>=3"]
        round = [{include-group = "trip"}]
        trip = [{include-group = "Round"}]
        [tool.uv.sources]
        boto3 = { path = "../boto3" }
        [tool.uv.build-backend]
        x = 1
    "#;

    fn wanted(extras: &[&str], groups: &[&str]) -> Wanted {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Wanted {
            extras: set(extras),
            groups: set(groups),
        }
    }

    fn markers() -> Markers {
        Markers::new(target("3.12", Machine::X86_64, "2.34"))
    }

    fn lines(extras: &[&str], groups: &[&str]) -> Result<String, Error> {
        let project: Pyproject = PROJECT.parse().unwrap();
        let lines = project.lines(&wanted(extras, groups), &markers())?;
        Ok(lines.join(" "))
    }

    #[test]
    fn extras_and_groups_are_gathered_once() {
        assert_eq!(lines(&[], &[]).unwrap(), "idna>=3 six");
        assert_eq!(lines(&["all"], &[]).unwrap(), "idna>=3 six toolz attrs");
        assert_eq!(lines(&["here"], &[]).unwrap(), "idna>=3 six");
        assert_eq!(lines(&[], &["ops"]).unwrap(), "idna>=3 six boto3");
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let told = [
            lines(&["none"], &[]),
            lines(&[], &["none"]),
            lines(&[], &["round"]),
        ];
        let told = told.map(|result| result.unwrap_err().to_string());
        insta::assert_snapshot!(told.join("\n"), @"
        the project has no extra `none`, only all, base-extra, here, old
        the project has no dependency group `none`, only more, ops, round, trip
        dependency groups include each other: round → trip → round
        ");
        let broken = [
            "[project]\ndependencies = 3",
            "[dependency-groups]\na = [{b = 1}]",
        ];
        for text in broken {
            assert!(matches!(text.parse::<Pyproject>(), Err(Error::Form(_))));
        }
    }

    #[test]
    fn pip_is_not_asked_for_what_it_would_not_see() {
        let told = |text: &str, groups: &[&str]| {
            let project: Pyproject = text.parse().unwrap();
            let lines = project.lines_without_uv(&wanted(&[], groups), &markers());
            lines.map_or_else(|error| error.to_string(), |lines| lines.join(" "))
        };
        let poetry = "[tool.poetry]\nname = 'a'\n[tool.poetry.dependencies]\npython = '3'";
        let dynamic = "[project]\nname = 'a'\ndynamic = ['version', 'dependencies']";
        let overrides = "[project]\nname = 'a'\n[tool.uv]\noverride-dependencies = ['six']";
        insta::assert_snapshot!([told(PROJECT, &[]), told(PROJECT, &["ops"]), told(poetry, &[]), told(dynamic, &[]), told(overrides, &[])].join("\n"), @"
        idna>=3 six
        `tool.uv.sources` says where `boto3` comes from, which uv reads and pip does not
        its dependencies are dynamic, which uv reads and pip does not
        its dependencies are dynamic, which uv reads and pip does not
        it has `tool.uv.override-dependencies`, which uv reads and pip does not
        ");
    }

    #[test]
    fn a_project_for_another_python_is_refused() {
        let project: Pyproject = PROJECT.parse().unwrap();
        let on = |version| project.check_python(target(version, Machine::X86_64, "2.34"));
        assert_eq!(on("3.12"), Ok(()));
        insta::assert_snapshot!(on("3.10").unwrap_err(), @"the project requires Python >=3.11, which 3.10.15 is not");
        assert!(!project.uv_settings().contains("build-backend"));
        assert!(project.uv_settings().contains("../boto3"));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\[project\\]\n|name = 'a'\n|dependencies = |\\['a\\[b\\]'\\]\n|[a-z\\[\\]'=;{}]){0,12}") {
            let _ = text.parse::<Pyproject>().map(|project| project.lines(&wanted(&[], &[]), &markers()));
        }
    }
}
