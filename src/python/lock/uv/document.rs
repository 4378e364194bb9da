//! `uv.lock` as it is written: its fields, and what one package of it is as an entry.
//!
//! Follows version 1 as uv 0.13 writes it (revision 5) and as it read older revisions; unknown fields are
//! passed over. Which packages are wanted is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::http::Url;
use crate::python::credentials::without_user;
use crate::python::lock::{Entry, File, Location, Source, percent_decoded};

/// A lock as it was read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) version: u64,
    pub(super) requires_python: Option<String>,
    /// The environments that it was made for; all where there are none.
    #[serde(default)]
    pub(super) supported_markers: Vec<String>,
    #[serde(default)]
    pub(super) conflicts: Vec<Vec<Conflict>>,
    #[serde(default)]
    pub(super) manifest: Manifest,
    #[serde(default, rename = "package")]
    pub(super) packages: Vec<Package>,
}

/// All that has to be read to tell a version that is not understood from a broken file.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) version: u64,
}

/// One of those that exclude each other.
#[derive(Debug, Deserialize)]
pub(super) struct Conflict {
    pub(super) package: String,
    pub(super) extra: Option<String>,
    pub(super) group: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Manifest {
    pub(super) members: Vec<String>,
    /// Those of a workspace's root that is no project.
    pub(super) dependency_groups: BTreeMap<String, Vec<Requirement>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Package {
    pub(super) name: String,
    /// Absent where it is dynamic.
    pub(super) version: Option<String>,
    pub(super) source: Place,
    /// Where more versions are locked, the environments that have this one.
    #[serde(default)]
    pub(super) resolution_markers: Vec<String>,
    #[serde(default)]
    pub(super) dependencies: Vec<Dependency>,
    #[serde(default)]
    pub(super) optional_dependencies: BTreeMap<String, Vec<Dependency>>,
    #[serde(default)]
    pub(super) dev_dependencies: BTreeMap<String, Vec<Dependency>>,
    pub(super) metadata: Option<Metadata>,
    sdist: Option<Artifact>,
    #[serde(default)]
    wheels: Vec<Artifact>,
}

/// Where a package comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Place {
    /// The address of an index, or the directory of a flat one.
    Registry {
        registry: String,
    },
    Git {
        git: String,
    },
    Url {
        url: String,
        subdirectory: Option<String>,
    },
    Path {
        path: String,
        subdirectory: Option<String>,
    },
    Directory {
        directory: String,
    },
    Editable {
        editable: String,
    },
    /// A project that is no package: only its dependencies are installed.
    Virtual {
        r#virtual: String,
    },
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Dependency {
    pub(super) name: String,
    /// This and `source` are absent where the name says enough.
    pub(super) version: Option<String>,
    pub(super) source: Option<Place>,
    #[serde(default)]
    pub(super) extra: Vec<String>,
    pub(super) marker: Option<String>,
}

/// What a project itself asked for when it was locked.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Metadata {
    pub(super) requires_dist: Vec<Requirement>,
    pub(super) provides_extras: BTreeSet<String>,
    pub(super) requires_dev: BTreeMap<String, Vec<Requirement>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Requirement {
    pub(super) name: String,
    #[serde(default)]
    pub(super) extras: Vec<String>,
    pub(super) specifier: Option<String>,
    pub(super) marker: Option<String>,
    /// Anything but an index, which hides the specifier.
    #[serde(flatten)]
    pub(super) place: Option<Place>,
}

#[derive(Debug, Deserialize)]
struct Artifact {
    url: Option<String>,
    path: Option<String>,
    filename: Option<String>,
    hash: Option<String>,
    size: Option<u64>,
}

impl Place {
    /// Where a project of this machine is, relative to the lock's directory.
    pub(super) fn local(&self) -> Option<&str> {
        match self {
            Self::Directory { directory } => Some(directory),
            Self::Editable { editable } => Some(editable),
            Self::Virtual { r#virtual } => Some(r#virtual),
            Self::Registry { .. } | Self::Git { .. } | Self::Url { .. } | Self::Path { .. } => None,
        }
    }

    fn index(&self) -> Option<Url> {
        let Self::Registry { registry } = self else {
            return None;
        };
        // Whoever fetches has their own.
        Some(without_user(&Url::parse(registry).ok()?))
    }

    /// Where a file of it is that says nothing else.
    fn location(&self) -> Option<Location> {
        match self {
            Self::Url { url, .. } => Some(located(url, None)),
            Self::Path { path, .. } => Some(Location::Path(path.into())),
            _ => None,
        }
    }

    /// What the paths of its files start from.
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Registry { registry } if Url::parse(registry).is_err() => {
                Some(Path::new(registry))
            }
            _ => None,
        }
    }

    fn subdirectory(&self) -> Option<String> {
        match self {
            Self::Url { subdirectory, .. } | Self::Path { subdirectory, .. } => {
                subdirectory.clone()
            }
            _ => None,
        }
    }
}

/// A path without what does not change it, so that two spellings of it are the same; `.` has no part.
pub(super) fn parts(path: &Path) -> Vec<Component<'_>> {
    let parts = path.components();
    parts.filter(|part| *part != Component::CurDir).collect()
}

impl Package {
    pub(super) fn entry(&self, required_by: BTreeSet<String>) -> Entry {
        let wheels = self.wheels.iter().map(|wheel| wheel.file(&self.source));
        Entry {
            name: self.name.clone(),
            version: self.version.clone(),
            requires_python: None,
            wheels: wheels.collect(),
            source: self.source(),
            hashes: BTreeSet::new(),
            index: self.source.index(),
            required_by,
            first_party: self.source.location().is_some_and(|place| place.is_local()),
        }
    }

    fn source(&self) -> Option<Source> {
        if let Some(path) = self.source.local() {
            return Some(Source::Directory(path.into()));
        }
        if let Place::Git { git } = &self.source {
            return repository(git);
        }
        self.sdist.as_ref().map(|sdist| Source::Archive {
            file: sdist.file(&self.source),
            subdirectory: self.source.subdirectory(),
        })
    }

    pub(super) fn is_installed(&self) -> bool {
        !matches!(self.source, Place::Virtual { .. })
    }
}

impl Artifact {
    fn file(&self, place: &Place) -> File {
        let directory = place.directory();
        let path = self.path.as_ref().map(|path| {
            let path = Path::new(path);
            Location::Path(directory.map_or_else(|| path.into(), |base| base.join(path)))
        });
        let url = self.url.as_ref().map(|url| located(url, directory));
        let hash = self.hash.as_ref().and_then(|hash| hash.split_once(':'));
        File {
            name: self.filename.clone(),
            location: url.or(path).or_else(|| place.location()),
            size: self.size,
            hashes: hash
                .map(|(algorithm, digits)| (algorithm.to_owned(), digits.to_owned()))
                .into_iter()
                .collect(),
        }
    }
}

/// An address, or a path where it is relative.
fn located(url: &str, directory: Option<&Path>) -> Location {
    match Url::parse(url) {
        Ok(url) => Location::Url(url),
        Err(_) => Location::Path(directory.map_or_else(|| PathBuf::from(url), |d| d.join(url))),
    }
}

/// `https://host/repository?subdirectory=x&rev=main#commit`: what follows the `?` is uv's own.
fn repository(git: &str) -> Option<Source> {
    let (address, commit) = git.split_once('#')?;
    let (url, query) = address.split_once('?').unwrap_or((address, ""));
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let subdirectory = pairs.find(|(name, _)| *name == "subdirectory");
    Some(Source::Repository {
        url: url.to_owned(),
        commit: commit.to_owned(),
        subdirectory: subdirectory.map(|(_, path)| percent_decoded(path)),
    })
}
