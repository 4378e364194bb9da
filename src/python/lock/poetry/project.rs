//! What a project that poetry locks asks for, as its `pyproject.toml` says it.
//!
//! Poetry's own tables, those of the project's metadata, and dependency groups end in one form. The lock is
//! not known here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Detailed, Listed, MAIN, PROJECT, unreadable};
use crate::python::lock::{Error, Wanted};
use crate::python::normalize_name;
use crate::python::requirement::Requirement;

/// What is asked for, by normal name.
pub(super) type Wish = (String, Detailed);

/// A project's wishes.
#[derive(Debug, Default)]
pub(super) struct Project {
    /// Its normal name.
    pub(super) name: Option<String>,
    /// What it always asks for, and what its extras may switch on.
    pub(super) main: Vec<Wish>,
    /// What its groups ask for, by normal name.
    pub(super) groups: BTreeMap<String, Vec<Wish>>,
    /// What its extras switch on or ask for, by normal name.
    pub(super) extras: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Document {
    project: Metadata,
    tool: Tool,
    dependency_groups: BTreeMap<String, Vec<Member>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Metadata {
    name: Option<String>,
    dependencies: Vec<String>,
    optional_dependencies: BTreeMap<String, Vec<String>>,
    dynamic: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tool {
    poetry: Poetry,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Poetry {
    name: Option<String>,
    dependencies: BTreeMap<String, Listed>,
    dev_dependencies: BTreeMap<String, Listed>,
    group: BTreeMap<String, Group>,
    extras: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Group {
    dependencies: BTreeMap<String, Listed>,
    include_groups: Vec<String>,
}

/// A member of a dependency group: a requirement, or another group.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Member {
    Requirement(String),
    Include {
        #[serde(rename = "include-group")]
        group: String,
    },
}

impl Project {
    /// Reads `pyproject.toml`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let document: Document =
            toml::from_str(text).map_err(|error| unreadable(PROJECT, error))?;
        let Document {
            project,
            tool: Tool { poetry },
            dependency_groups,
        } = document;
        let name = project.name.or(poetry.name);
        let mut main: Vec<Wish> = requirements(&project.dependencies).collect();
        // Beside the project's own list, poetry's only says more about the same.
        if main.is_empty() || project.dynamic.iter().any(|field| field == "dependencies") {
            main.extend(wishes(&poetry.dependencies));
        }
        let mut extras: BTreeMap<String, Vec<String>> = normal_keys(poetry.extras).collect();
        extras.extend(normal_keys(project.optional_dependencies));
        Ok(Self {
            name: name.as_deref().map(normalize_name),
            main,
            groups: groups(poetry.group, &poetry.dev_dependencies, dependency_groups),
            extras,
        })
    }

    /// What is asked for when `wanted` is, where the lock has `locked` extras.
    pub(super) fn wishes(
        &self,
        wanted: &Wanted,
        locked: &BTreeMap<String, Vec<String>>,
    ) -> Vec<Wish> {
        let mut switched = BTreeSet::new();
        let mut wishes = Vec::new();
        let locked = locked
            .iter()
            .map(|(name, list)| (normalize_name(name), list));
        let all = self.extras.iter().map(|(name, list)| (name.clone(), list));
        for (_, list) in all
            .chain(locked)
            .filter(|(name, _)| wanted.extras.contains(name))
        {
            switched.extend(requirements(list).map(|(name, _)| name));
            // Poetry's list switches on what stands elsewhere; the metadata's is all there is.
            let elsewhere = |name: &String| {
                let mut main = self.main.iter();
                main.any(|(own, dependency)| own == name && dependency.optional)
            };
            wishes.extend(requirements(list).filter(|(name, _)| !elsewhere(name)));
        }
        let is_asked = |wish: &&Wish| !wish.1.optional || switched.contains(&wish.0);
        wishes.extend(self.main.iter().filter(is_asked).cloned());
        let groups = wanted.groups.iter().filter(|group| *group != MAIN);
        let of_groups = groups.filter_map(|group| self.groups.get(group)).flatten();
        wishes.extend(of_groups.cloned());
        wishes
    }
}

fn normal_keys<V>(map: BTreeMap<String, V>) -> impl Iterator<Item = (String, V)> {
    map.into_iter()
        .map(|(name, value)| (normalize_name(&name), value))
}

fn wishes(table: &BTreeMap<String, Listed>) -> impl Iterator<Item = Wish> {
    let others = table.iter().filter(|(name, _)| *name != "python");
    others.flat_map(|(name, listed)| {
        let all = listed.all().iter().cloned();
        all.map(|dependency| (normalize_name(name), dependency.into()))
    })
}

fn requirements(list: &[String]) -> impl Iterator<Item = Wish> {
    let list = list.iter().filter_map(|text| Requirement::parse(text));
    list.map(|requirement| {
        let dependency = Detailed {
            version: Some(requirement.specifiers).filter(|text| !text.is_empty()),
            markers: requirement.marker,
            extras: requirement.extras,
            ..Detailed::default()
        };
        (requirement.name, dependency)
    })
}

fn groups(
    poetry: BTreeMap<String, Group>,
    dev: &BTreeMap<String, Listed>,
    standard: BTreeMap<String, Vec<Member>>,
) -> BTreeMap<String, Vec<Wish>> {
    let mut own: BTreeMap<String, Vec<Wish>> = BTreeMap::new();
    let mut includes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if !dev.is_empty() {
        own.insert("dev".to_owned(), wishes(dev).collect());
    }
    for (name, group) in normal_keys(poetry) {
        own.entry(name.clone())
            .or_default()
            .extend(wishes(&group.dependencies));
        let others = group
            .include_groups
            .iter()
            .map(|group| normalize_name(group));
        includes.entry(name).or_default().extend(others);
    }
    for (name, members) in normal_keys(standard) {
        let list = own.entry(name.clone()).or_default();
        for member in members {
            match member {
                Member::Requirement(text) => list.extend(requirements(&[text])),
                Member::Include { group } => {
                    let others = includes.entry(name.clone()).or_default();
                    others.insert(normalize_name(&group));
                }
            }
        }
    }
    let whole = |name: &String| {
        let parts = reached(name, &includes);
        let parts = parts.iter().filter_map(|part| own.get(part)).flatten();
        (name.clone(), parts.cloned().collect())
    };
    own.keys().map(whole).collect()
}

/// A group and all that it includes, at any depth.
fn reached(name: &str, includes: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut reached = BTreeSet::from([name.to_owned()]);
    let mut queue = vec![name.to_owned()];
    while let Some(next) = queue.pop() {
        for included in includes.get(&next).into_iter().flatten() {
            if reached.insert(included.clone()) {
                queue.push(included.clone());
            }
        }
    }
    reached
}
