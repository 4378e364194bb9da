//! What is installed in an image, for inventories: whether a module path leads to it or not.
//!
//! Where rules ask what can be imported, an inventory asks what is there. So all directories count that Python, Lambda
//! or a distribution of Linux look in, and the user's own. What lies inside of a package is that package's.

use std::collections::BTreeSet;

use crate::lambda::RUNTIME_DIR;
use crate::lambda::check::modules::{self, text_at};
use crate::lambda::check::paths::{self, joined};
use crate::lambda::check::subject::Subject;
use crate::lambda::check::wheels::record::record;
use crate::lambda::check::wheels::{
    DIST_INFO, Distribution, fields, in_places, infos, led, values, written,
};
use crate::oci::flatten::normal;
use crate::python::normalize_name;

/// A distribution of an image, as its own documents tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed<'a> {
    /// The project's normal name.
    pub name: &'a str,
    /// Its version as written.
    pub version: &'a str,
    /// The directory that it is in, below the root.
    pub directory: &'a str,
    /// Its `.dist-info` or `.egg-info`, below the root.
    pub info: &'a str,
    /// The layer that has it, counted from 0, the lowest.
    pub layer: usize,
    /// The fields of its `METADATA`.
    pub metadata: &'a str,
    /// The paths of the files that it states, below the root.
    pub files: BTreeSet<String>,
}

impl<'a> Installed<'a> {
    /// The values of a field of its `METADATA`, without the lines that continue them.
    pub fn field(&self, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        fields(self.metadata, name)
    }

    /// The values of a field of its `METADATA`, whole.
    pub fn values(&self, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        values(self.metadata, name)
    }
}

/// All distributions of an image: by the order of its module path, then of other directories, and of one by path.
pub fn installed(image: &Subject) -> Vec<Installed<'_>> {
    let all = image.known.installed.get_or_init(|| listed(image));
    let all = all.iter().map(|one| {
        let version = fields(&one.fields, "Version").next();
        let version = version.or(written(&one.info).map(|(_, version)| version));
        Installed {
            name: &one.name,
            version: version.unwrap_or_default(),
            directory: &one.directory,
            info: &one.info,
            layer: one.layer,
            metadata: &one.fields,
            files: files(image, one),
        }
    });
    all.collect()
}

fn listed(image: &Subject) -> Vec<Distribution> {
    let python = image.python.as_ref();
    let mut places: Vec<_> = python.map(|it| it.path.clone()).unwrap_or_default();
    places.extend(modules::roots(&image.documents));
    places.push(RUNTIME_DIR.to_owned());
    let places = led(image, &places);
    in_places(image, infos(image).into_iter(), |directory| {
        let known = places.iter().position(|other| other == directory);
        known.or_else(|| is_packages(directory).then_some(places.len()))
    })
}

/// Whether Pythons and systems have their packages in a directory of this name.
fn is_packages(directory: &str) -> bool {
    matches!(paths::name(directory), "site-packages" | "dist-packages")
}

/// The normal name and the version of the distribution that a base has by this path, the one of its `METADATA`: as the
/// names of directories say, whatever the file does.
pub fn of_base(path: &str) -> Option<(String, String)> {
    let info = path.strip_suffix("/METADATA")?;
    let directory = paths::directory(info);
    let is_place = directory == RUNTIME_DIR || is_packages(directory);
    let (name, version) = written(info).filter(|_| info.ends_with(DIST_INFO))?;
    is_place.then(|| (normalize_name(name), version.to_owned()))
}

/// The files that a distribution states: of its `RECORD`, or of the list that pip wrote of an egg.
fn files(image: &Subject, one: &Distribution) -> BTreeSet<String> {
    if one.info.ends_with(DIST_INFO) {
        let paths = record(image, one).keys();
        return paths.map(|path| beside(&one.directory, path)).collect();
    }
    let list = text_at(image, &joined(&one.info, "installed-files.txt")).unwrap_or_default();
    let paths = list.lines().filter(|path| !path.is_empty());
    paths.map(|path| beside(&one.info, path)).collect()
}

/// A path from a directory on, which may begin with some `../`, below the image's root.
fn beside(directory: &str, path: &str) -> String {
    if path.starts_with('/') {
        return normal(path);
    }
    let mut parts: Vec<&str> = directory.split('/').collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    normal(&parts.join("/"))
}
