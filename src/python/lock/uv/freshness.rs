//! Whether a `uv.lock` still is of what its project asks for.
//!
//! `uv lock --check` resolves to know that. Here what the lock says that was asked for is held against
//! `pyproject.toml`: names, extras and specifiers, under each extra and group. uv rewrites markers, and puts a
//! source in the place of a specifier; what may only look different for that is never refused. What a tool
//! other than uv makes of the requirements is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use pep440_rs::{VersionSpecifier, VersionSpecifiers};
use toml::{Table, Value};

use crate::python::lock::uv::Error;
use crate::python::lock::uv::document::{Document, Package, Place, Requirement};
use crate::python::normalize_name;
use crate::python::requirement;

/// What uv writes for a marker that can never hold, whatever stood in it.
const NEVER: [&str; 2] = ["python_version < '0'", "python_full_version < '0'"];

/// A requirement, as far as it is compared.
#[derive(Debug, Clone)]
struct Asked {
    name: String,
    /// The extra that it is for, or nothing.
    context: String,
    extras: BTreeSet<String>,
    /// Nothing where they are not known.
    specifiers: Option<Vec<VersionSpecifier>>,
    /// Whether `context` is not known.
    anywhere: bool,
}

/// Refuses a lock that `root`, a project or the root of a workspace, no longer agrees with.
pub(super) fn check(
    document: &Document,
    root: Option<&Package>,
    pyproject: &str,
) -> Result<(), Error> {
    // Whoever reads the project tells what is wrong with it.
    let Ok(pyproject) = toml::from_str::<Table>(pyproject) else {
        return Ok(());
    };
    let project = pyproject.get("project").and_then(Value::as_table);
    if let Some(project) = project {
        check_project(root, project)?;
    }
    let groups = match root {
        Some(Package { metadata, .. }) => match metadata {
            Some(metadata) => &metadata.requires_dev,
            None => &BTreeMap::new(),
        },
        None => &document.manifest.dependency_groups,
    };
    let Some(wanted) = groups_of(&pyproject) else {
        return Ok(());
    };
    let names: BTreeSet<&String> = groups.keys().chain(wanted.keys()).collect();
    for name in names {
        let locked = groups.get(name).into_iter().flatten();
        let locked: Vec<Asked> = locked
            .map(|requirement| asked_by_lock(requirement, ""))
            .collect();
        let asked = wanted.get(name).map_or(&[][..], Vec::as_slice);
        compare(asked, &locked)?;
    }
    Ok(())
}

fn check_project(root: Option<&Package>, project: &Table) -> Result<(), Error> {
    let name = project.get("name").and_then(Value::as_str);
    let name = name.map(normalize_name).unwrap_or_default();
    let Some(root) = root.filter(|root| root.name == name) else {
        return Err(Error::Stale { package: name });
    };
    let locked = match &root.metadata {
        Some(metadata) => metadata.requires_dist.as_slice(),
        // Early locks say nothing of what was asked for.
        None if !root.dependencies.is_empty() || !root.optional_dependencies.is_empty() => {
            return Ok(());
        }
        None => &[],
    };
    let Some(asked) = requirements_of(project) else {
        return Ok(());
    };
    let locked: Vec<Asked> = locked.iter().flat_map(asked_by_metadata).collect();
    compare(&asked, &locked)
}

/// What a project's metadata will ask for; nothing where its build backend says that, or it cannot be read.
fn requirements_of(project: &Table) -> Option<Vec<Asked>> {
    let dynamic = project.get("dynamic").and_then(Value::as_array);
    let is_dynamic = |field| dynamic.is_some_and(|fields| fields.contains(&Value::from(field)));
    if is_dynamic("dependencies") || is_dynamic("optional-dependencies") {
        return None;
    }
    let mut asked = Vec::new();
    if let Some(dependencies) = project.get("dependencies") {
        asked.extend(asked_of_list(dependencies, "")?);
    }
    if let Some(extras) = project.get("optional-dependencies") {
        for (extra, dependencies) in extras.as_table()? {
            asked.extend(asked_of_list(dependencies, &normalize_name(extra))?);
        }
    }
    Some(asked)
}

fn asked_of_list(list: &Value, context: &str) -> Option<Vec<Asked>> {
    let list = list.as_array()?.iter();
    list.map(|text| parse(text.as_str()?, context)).collect()
}

/// Each group with those that it includes, as uv's locks have it.
fn groups_of(pyproject: &Table) -> Option<BTreeMap<String, Vec<Asked>>> {
    let mut groups: BTreeMap<String, (Vec<Asked>, BTreeSet<String>)> = BTreeMap::new();
    for (name, items) in table(pyproject.get("dependency-groups"))? {
        let (asked, included) = groups.entry(normalize_name(&name)).or_default();
        for item in items.as_array()? {
            match item {
                Value::String(text) => asked.push(parse(text, "")?),
                Value::Table(table) => {
                    included.insert(normalize_name(table.get("include-group")?.as_str()?));
                }
                _ => return None,
            }
        }
    }
    // The field from before groups were standardised.
    let uv = pyproject.get("tool").and_then(|tool| tool.get("uv"));
    if let Some(list) = uv.and_then(|uv| uv.get("dev-dependencies")) {
        let (asked, _) = groups.entry("dev".to_owned()).or_default();
        asked.extend(asked_of_list(list, "")?);
    }
    let with_included = |name: &String| {
        let mut all = Vec::new();
        let mut seen = BTreeSet::from([name]);
        let mut open = vec![name];
        while let Some((asked, included)) = open.pop().and_then(|name| groups.get(name)) {
            all.extend(asked.iter().cloned());
            open.extend(included.iter().filter(|name| seen.insert(*name)));
        }
        (name.clone(), all)
    };
    Some(groups.keys().map(with_included).collect())
}

fn table(value: Option<&Value>) -> Option<Table> {
    match value {
        Some(value) => value.as_table().cloned(),
        None => Some(Table::new()),
    }
}

/// Where an address stands in the specifiers' place, they are not known.
fn parse(text: &str, context: &str) -> Option<Asked> {
    let requirement = requirement::Requirement::parse(text)?;
    let has_address = requirement.address.is_some();
    Some(Asked {
        name: requirement.name,
        context: context.to_owned(),
        extras: requirement.extras,
        specifiers: specifiers(&requirement.specifiers).filter(|_| !has_address),
        anywhere: requirement
            .marker
            .is_some_and(|marker| marker.contains("extra")),
    })
}

fn specifiers(text: &str) -> Option<Vec<VersionSpecifier>> {
    let specifiers = VersionSpecifiers::from_str(text).ok()?;
    Some(specifiers.iter().cloned().collect())
}

/// What the lock says that a project's metadata ask for: the extra stands in the marker.
fn asked_by_metadata(requirement: &Requirement) -> Vec<Asked> {
    let extras = requirement
        .marker
        .as_deref()
        .map(extras_of)
        .unwrap_or_default();
    if extras.is_empty() {
        return vec![asked_by_lock(requirement, "")];
    }
    let asked = extras.iter().map(|extra| asked_by_lock(requirement, extra));
    asked.collect()
}

/// The values that a marker compares `extra` with, as uv writes it.
fn extras_of(marker: &str) -> BTreeSet<&str> {
    let values = marker.split("extra == '").skip(1);
    values
        .filter_map(|rest| Some(rest.split_once('\'')?.0))
        .collect()
}

fn asked_by_lock(requirement: &Requirement, context: &str) -> Asked {
    let specifier = requirement.specifier.as_deref().unwrap_or("");
    let hidden = matches!(
        requirement.place,
        Some(
            Place::Git { .. }
                | Place::Url { .. }
                | Place::Path { .. }
                | Place::Directory { .. }
                | Place::Editable { .. }
                | Place::Virtual { .. }
        )
    );
    Asked {
        name: requirement.name.clone(),
        context: context.to_owned(),
        extras: requirement.extras.iter().cloned().collect(),
        specifiers: specifiers(specifier).filter(|_| !hidden),
        anywhere: (requirement.marker.as_deref()).is_some_and(|marker| NEVER.contains(&marker)),
    }
}

fn compare(asked: &[Asked], locked: &[Asked]) -> Result<(), Error> {
    let (asked, locked) = (by_name(asked), by_name(locked));
    let names: BTreeSet<&&str> = asked.keys().chain(locked.keys()).collect();
    let agree = |name: &str| match (asked.get(name), locked.get(name)) {
        (Some(asked), Some(locked)) => all_in(asked, locked) && all_in(locked, asked),
        _ => false,
    };
    match names.into_iter().find(|name| !agree(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Stale {
            package: (*name).to_owned(),
        }),
    }
}

fn by_name(all: &[Asked]) -> BTreeMap<&str, Vec<&Asked>> {
    let mut by_name: BTreeMap<&str, Vec<&Asked>> = BTreeMap::new();
    for asked in all {
        by_name.entry(&asked.name).or_default().push(asked);
    }
    by_name
}

fn all_in(some: &[&Asked], others: &[&Asked]) -> bool {
    let mut some = some.iter();
    some.all(|one| others.iter().any(|other| one.agrees(other)))
}

impl Asked {
    fn agrees(&self, other: &Self) -> bool {
        let specifiers = match (&self.specifiers, &other.specifiers) {
            (Some(some), Some(others)) => {
                some.iter().all(|one| others.contains(one))
                    && others.iter().all(|one| some.contains(one))
            }
            _ => true,
        };
        let same_place = self.context == other.context && self.extras == other.extras;
        self.anywhere || other.anywhere || same_place && specifiers
    }
}
