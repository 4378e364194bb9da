//! Locks: which packages a target needs, and the files that each can be had as.
//!
//! Each format has its reader here. What all of them say ends in an [`Entry`], and from there on nobody
//! asks which tool wrote it: [`choose`] takes of each package the wheel that fits best. A lock promises
//! bytes, so a file without a sha256 is refused. Nothing is fetched here, and where a lock lies is not
//! known.

pub mod hashed;
pub mod pipfile;
pub mod poetry;
pub mod pylock;
pub mod uv;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};

use crate::digest::{self, Digest};
use crate::http::Url;
use crate::python::markers;
use crate::python::tags::FilenameError;
use crate::python::wheel::Contents;
use crate::python::{Misfit, Rank, Target, WheelFilename, normalize_name};

/// Who speaks in a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The standard: `pylock.toml`, `pylock.NAME.toml`.
    Pylock,
    /// `uv.lock`.
    Uv,
    /// `poetry.lock`.
    Poetry,
    /// `Pipfile.lock`.
    Pipfile,
}

impl Format {
    /// The format of a lock of this file name.
    pub fn of(filename: &str) -> Option<Self> {
        match filename {
            "uv.lock" => Some(Self::Uv),
            "poetry.lock" => Some(Self::Poetry),
            "Pipfile.lock" => Some(Self::Pipfile),
            name => {
                let middle = name.strip_prefix("pylock.")?;
                (middle == "toml" || middle.strip_suffix(".toml").is_some()).then_some(Self::Pylock)
            }
        }
    }
}

/// What of a project is wanted beside what it always needs, by normal names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its extras.
    pub extras: BTreeSet<String>,
    /// Its dependency groups.
    pub groups: BTreeSet<String>,
}

/// What a lock is read for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The machine that will run the code.
    pub target: Target,
    /// What is wanted.
    pub wanted: &'a Wanted,
    /// The project's `pyproject.toml`, if it has one: not every lock says what the project itself asks for.
    pub pyproject: Option<&'a str>,
    /// The project's directory as seen from the lock's; empty when they are one.
    pub member: &'a Path,
}

/// Which packages may be built from source, which is to run what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Builds {
    /// Any that has no fitting wheel.
    pub all: bool,
    /// These, by normal names.
    pub names: BTreeSet<String>,
}

impl Builds {
    /// Whether the package of this normal name may be.
    pub fn allow(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

/// A package that a lock wants on a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The project's normal name.
    pub name: String,
    /// The version; nothing for one that is only known by its source.
    pub version: Option<String>,
    /// The versions of Python that it is for, as written.
    pub requires_python: Option<String>,
    /// Its wheels, fitting or not.
    pub wheels: Vec<File>,
    /// What a wheel of it could be built from.
    pub source: Option<Source>,
    /// Its files, where a lock knows them by their sha256 alone. Looking them up in the index makes wheels and
    /// a source of them.
    pub hashes: BTreeSet<Digest>,
    /// The index that has its files, where the lock does not say where they are; nothing is the user's own.
    pub index: Option<Url>,
    /// Normal names of those that require it; empty for what the project itself asks for, or where the lock
    /// does not say.
    pub required_by: BTreeSet<String>,
    /// Whether it is a file of this machine that the user names, not an index's.
    pub first_party: bool,
}

/// A file of a package, as a lock has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Its name, where that is not the last of its location.
    pub name: Option<String>,
    /// Where it can be had, if the lock says so.
    pub location: Option<Location>,
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its hashes in hexadecimal digits, by algorithm.
    pub hashes: BTreeMap<String, String>,
}

/// What a wheel could be built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A source distribution, or another archive of sources.
    Archive {
        /// The archive.
        file: File,
        /// Where in it the project is.
        subdirectory: Option<String>,
    },
    /// A commit of a git repository.
    Repository {
        /// Its address, without `git+`.
        url: String,
        /// The whole hash of the commit.
        commit: String,
        /// Where in it the project is.
        subdirectory: Option<String>,
    },
    /// A directory of this machine, relative to the lock's unless absolute.
    Directory(PathBuf),
}

/// Where a file can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// On the network, or by a `file:` URL.
    Url(Url),
    /// On disk, relative to the lock's directory unless absolute.
    Path(PathBuf),
}

/// What a lock chose for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locked {
    /// A wheel.
    Wheel(LockedWheel),
    /// Something to build a wheel from.
    Source(LockedSource),
}

impl Locked {
    /// The package's normal name and the file that is known by its bytes, where there is one.
    pub fn file(&self) -> Option<(&str, LockedFile)> {
        match self {
            Self::Wheel(wheel) => Some((&wheel.name, wheel.file())),
            Self::Source(source) => match &source.origin {
                Origin::Archive { file, .. } => Some((&source.name, file.clone())),
                Origin::Repository { .. } | Origin::Directory(_) => None,
            },
        }
    }
}

/// A file that is known by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedFile {
    /// Name and version of its package, for messages.
    pub package: String,
    /// Its name.
    pub filename: String,
    /// Where it can be had.
    pub location: Location,
    /// What its bytes must hash to.
    pub digest: Digest,
    /// Its length in bytes, when the lock gives it.
    pub size: Option<u64>,
}

/// A wheel that a lock chose for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedWheel {
    /// The project's normal name.
    pub name: String,
    /// The version as written.
    pub version: String,
    /// The wheel's file name.
    pub filename: WheelFilename,
    /// Where it can be had.
    pub location: Location,
    /// What its bytes must hash to.
    pub digest: Digest,
    /// Its length in bytes, when the lock gives it.
    pub size: Option<u64>,
    /// Whether it is the user's own: a file of this machine that they name, or built from their directory.
    pub first_party: bool,
    /// What is in it, where it was built here: its bytes follow from when and on which machine that was.
    pub built: Option<Contents>,
}

impl LockedWheel {
    /// What decides the files in it.
    pub fn identity(&self) -> Digest {
        self.built.map_or(self.digest, |contents| contents.digest)
    }

    /// The file that it is.
    pub fn file(&self) -> LockedFile {
        LockedFile {
            package: format!("{} {}", self.name, self.version),
            filename: self.filename.to_string(),
            location: self.location.clone(),
            digest: self.digest,
            size: self.size,
        }
    }
}

/// What a wheel has to be built from, as a lock chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSource {
    /// The project's normal name.
    pub name: String,
    /// The version as written, where the lock gives it.
    pub version: Option<String>,
    /// What to build.
    pub origin: Origin,
}

/// Sources that are known by their bytes, or lie on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An archive.
    Archive {
        /// The archive.
        file: LockedFile,
        /// Where in it the project is.
        subdirectory: Option<String>,
    },
    /// A commit of a git repository, and where in it the project is.
    Repository {
        /// Its address, without `git+`.
        url: String,
        /// The whole hash of the commit.
        commit: String,
        /// Where in it the project is.
        subdirectory: Option<String>,
    },
    /// A directory, relative to the lock's unless absolute.
    Directory(PathBuf),
}

/// A file of a lock that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Its name.
    pub filename: String,
    /// Why it is not taken.
    pub reason: Unfit,
}

/// Why a file of a lock is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The target does not accept it.
    #[error(transparent)]
    Target(#[from] Misfit),
    /// Its name cannot be read.
    #[error("has no wheel's file name: {}", .0.reason)]
    Name(#[from] FilenameError),
    /// It is of another project or version than its entry.
    #[error("is not of that name and version")]
    Other,
}

/// No wheel of a package fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no wheel of `{package}`{} fits {target}{}", self.version_and_users(), self.outline())]
pub struct NoWheel {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: Option<String>,
    /// Those that require it, where the lock says so.
    pub required_by: Vec<String>,
    /// The target.
    pub target: Target,
    /// Every wheel there is, the nearest to fitting first.
    pub offered: Vec<Offered>,
    /// What a wheel could be built from, if that were allowed.
    pub sources: Option<String>,
}

/// As many misfits as a message shows.
const SHOWN: usize = 12;

impl NoWheel {
    fn version_and_users(&self) -> String {
        let version = self.version.as_ref().map(|version| format!(" {version}"));
        let mut text = version.unwrap_or_default();
        if !self.required_by.is_empty() {
            let verb = if self.required_by.len() == 1 {
                "requires"
            } else {
                "require"
            };
            let users = self.required_by.join(" and ");
            text = format!("{text}, which {users} {verb},");
        }
        text
    }

    fn outline(&self) -> String {
        use fmt::Write as _;
        let mut text = String::new();
        for Offered { filename, reason } in self.offered.iter().take(SHOWN) {
            let _ = write!(text, "\n  {filename} {reason}");
        }
        if let Some(more) = self.offered.len().checked_sub(SHOWN).filter(|n| *n > 0) {
            let _ = write!(text, "\n  and {more} more that are further off");
        }
        match &self.sources {
            Some(source) => {
                let _ = write!(text, "\n  {source} would have to be built");
            }
            None if self.offered.is_empty() => text.push_str(": the lock has no file of it"),
            None => {}
        }
        text
    }
}

/// Why a lock gives no wheels.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no TOML, or its fields are not those of a lock.
    #[error("not a pylock file")]
    Syntax(#[source] Box<toml::de::Error>),
    /// It is of a version that is not understood.
    #[error("lock-version `{0}` is not 1.x")]
    Version(String),
    /// It is for other versions of Python.
    #[error("the lock requires Python {requires}, which {version} is not")]
    RequiresPython {
        /// What it requires.
        requires: String,
        /// The target's version.
        version: Version,
    },
    /// None of the environments that it names is the target.
    #[error("the lock is not for {target}; it is for {}", environments.join(" or for "))]
    Environment {
        /// The environments, as markers.
        environments: Vec<String>,
        /// The target.
        target: Target,
    },
    /// An environment's marker has no meaning.
    #[error("the lock's environments cannot be read")]
    EnvironmentMarker(#[source] markers::Error),
    /// A package's marker has no meaning.
    #[error("package `{package}` cannot be read")]
    Marker {
        /// The package.
        package: String,
        /// Why.
        source: markers::Error,
    },
    /// An extra or a group is wanted that the project does not have.
    #[error("the project has no {kind} `{name}`{}", or_only(.known))]
    Unknown {
        /// `extra` or `dependency group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// A package is for other versions of Python.
    #[error("`{package}` {version} requires Python {requires}, which {target_version} is not")]
    PackagePython {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// What it requires.
        requires: String,
        /// The target's version.
        target_version: Version,
    },
    /// Two entries for one package apply at once.
    #[error("the lock has two entries for `{package}` that both apply to {target}")]
    Ambiguous {
        /// The package.
        package: String,
        /// The target.
        target: Target,
    },
    /// A file has no hash that is trusted here.
    #[error("the lock has no sha256 of `{filename}`{}", but_others(.algorithms))]
    Hash {
        /// The file.
        filename: String,
        /// The algorithms that it has hashes of.
        algorithms: Vec<String>,
    },
    /// A file of which the place is known may be one of several.
    #[error("the lock has {count} hashes for `{filename}`, and does not say which is its own")]
    SeveralHashes {
        /// The file.
        filename: String,
        /// How many.
        count: usize,
    },
    /// The sha256 of a file is none.
    #[error("the lock's sha256 of `{filename}` is none")]
    Digest {
        /// The file.
        filename: String,
        /// Why.
        source: digest::ParseError,
    },
    /// A file's address is none.
    #[error("the lock does not say where a file of `{package}` can be had")]
    Location {
        /// The package.
        package: String,
    },
    /// A file is not of its format.
    #[error("`{file}` cannot be read")]
    Unreadable {
        /// The file's name.
        file: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file is of a version of its format that is not understood.
    #[error("`{file}` is of version `{version}`, not {known}")]
    Format {
        /// The file's name.
        file: &'static str,
        /// Its version.
        version: String,
        /// Those that are understood.
        known: &'static str,
    },
    /// A version constraint has no meaning.
    #[error("`{constraint}` of `{package}` is no version constraint")]
    Constraint {
        /// What it is written for.
        package: String,
        /// The constraint.
        constraint: String,
    },
    /// The lock does not say what the project itself asks for, and there is no project.
    #[error(
        "`{file}` does not say what the project itself asks for, and there is no pyproject.toml"
    )]
    NoProject {
        /// The lock's name.
        file: &'static str,
    },
    /// Something is asked for that the lock does not have.
    #[error("`{file}` has no `{package}`, which {asked_by} asks for")]
    Missing {
        /// The lock's name.
        file: &'static str,
        /// What it does not have.
        package: String,
        /// A package, or pyproject.toml.
        asked_by: String,
    },
    /// No wheel of a package fits.
    #[error(transparent)]
    NoWheel(#[from] Box<NoWheel>),
    /// A `uv.lock` cannot be used.
    #[error(transparent)]
    Uv(#[from] uv::Error),
}

fn but_others(algorithms: &[String]) -> String {
    if algorithms.is_empty() {
        ", nor any other hash".to_owned()
    } else {
        format!(", but {}", algorithms.join(" and "))
    }
}

/// The names there are, in place of one that is not among them.
pub(crate) fn or_only(names: &[String]) -> String {
    if names.is_empty() {
        ", and no other".to_owned()
    } else {
        format!(", only {}", names.join(", "))
    }
}

/// Refuses an extra or a group that is wanted and not known.
fn check_known(
    kind: &'static str,
    wanted: &BTreeSet<String>,
    known: BTreeSet<String>,
) -> Result<(), Error> {
    match wanted.difference(&known).next() {
        None => Ok(()),
        Some(name) => Err(Error::Unknown {
            kind,
            name: name.clone(),
            known: known.into_iter().collect(),
        }),
    }
}

/// What the text of a lock in this format wants on a target.
///
/// # Errors
/// Those of the format's reader.
pub fn entries(format: Format, text: &str, request: &Request<'_>) -> Result<Vec<Entry>, Error> {
    match format {
        Format::Pylock => text.parse::<pylock::Pylock>()?.entries(request),
        Format::Uv => uv::entries(text, request),
        Format::Poetry => poetry::entries(text, request),
        Format::Pipfile => pipfile::entries(text, request),
    }
}

/// What to install of these entries, in their order: of each the wheel that fits best, and of equals the latest
/// build; without one, what a wheel may be built from.
///
/// # Errors
/// See [`Error`]; the first package that cannot be had decides.
pub fn choose(entries: &[Entry], target: Target, builds: &Builds) -> Result<Vec<Locked>, Error> {
    let mut seen = BTreeSet::new();
    for entry in entries {
        if !seen.insert(&entry.name) {
            let package = entry.name.clone();
            return Err(Error::Ambiguous { package, target });
        }
    }
    let chosen = entries.iter().map(|entry| entry.choose(target, builds));
    chosen.collect()
}

impl Entry {
    /// Puts in what is at a place and has one of these hashes. Of several the file's own is not known; they stay
    /// the entry's.
    fn put(&mut self, location: Location, hashes: BTreeSet<Digest>, subdirectory: Option<String>) {
        let is_wheel = location.filename().is_some_and(|name| is_wheel(&name));
        self.first_party = location.is_local();
        let mut file = File {
            location: Some(location),
            ..File::default()
        };
        let mut each = hashes.iter();
        if let (Some(only), None) = (each.next(), each.next()) {
            file.hashes.insert("sha256".to_owned(), only.hex());
        } else {
            self.hashes = hashes;
        }
        if is_wheel {
            self.wheels.push(file);
        } else {
            self.source = Some(Source::Archive { file, subdirectory });
        }
    }

    fn choose(&self, target: Target, builds: &Builds) -> Result<Locked, Error> {
        let target_version = target.full_version();
        // Indexes hold old texts that no reader understands; they exclude nothing, as with pip.
        let requires = self.requires_python.as_ref();
        let requires = requires.and_then(|text| VersionSpecifiers::from_str(text).ok());
        if let Some(requires) = requires.filter(|r| !r.contains(&target_version)) {
            return Err(Error::PackagePython {
                package: self.name.clone(),
                version: self.version.clone().unwrap_or_default(),
                requires: requires.to_string(),
                target_version,
            });
        }
        let mut fitting = Vec::new();
        let mut offered = Vec::new();
        for file in &self.wheels {
            let filename = file.filename(&self.name)?;
            match self.fit(&filename, target) {
                Ok((rank, wheel)) => fitting.push((rank, wheel, file)),
                Err(reason) => offered.push(Offered { filename, reason }),
            }
        }
        let best = fitting
            .into_iter()
            .min_by_key(|(rank, wheel, _)| (*rank, Reverse(wheel.build.clone())));
        if let Some((_, wheel, file)) = best {
            return Ok(Locked::Wheel(self.locked_wheel(wheel, file)?));
        }
        match &self.source {
            Some(source) if source.may_be_built(&self.name, builds) => {
                Ok(Locked::Source(self.locked_source(source)?))
            }
            _ => Err(self.no_wheel(target, offered)?.into()),
        }
    }

    fn fit(&self, filename: &str, target: Target) -> Result<(Rank, WheelFilename), Unfit> {
        let wheel = WheelFilename::parse(filename)?;
        let version = self.version.as_deref().map(Version::from_str);
        let same_version = version.is_none_or(|v| v.is_ok_and(|v| v == wheel.version));
        if wheel.name != normalize_name(&self.name) || !same_version {
            return Err(Unfit::Other);
        }
        Ok((target.fit(&wheel)?, wheel))
    }

    fn locked_wheel(&self, filename: WheelFilename, file: &File) -> Result<LockedWheel, Error> {
        let locked = self.locked_file(file)?;
        let version = self.version.clone();
        Ok(LockedWheel {
            name: filename.name.clone(),
            version: version.unwrap_or_else(|| filename.version.to_string()),
            location: locked.location,
            filename,
            digest: locked.digest,
            size: locked.size,
            first_party: self.first_party,
            built: None,
        })
    }

    fn locked_source(&self, source: &Source) -> Result<LockedSource, Error> {
        let origin = match source.clone() {
            Source::Archive { file, subdirectory } => Origin::Archive {
                file: self.locked_file(&file)?,
                subdirectory,
            },
            Source::Repository {
                url,
                commit,
                subdirectory,
            } => Origin::Repository {
                url,
                commit,
                subdirectory,
            },
            Source::Directory(path) => Origin::Directory(path),
        };
        Ok(LockedSource {
            name: self.name.clone(),
            version: self.version.clone(),
            origin,
        })
    }

    fn locked_file(&self, file: &File) -> Result<LockedFile, Error> {
        let filename = file.filename(&self.name)?;
        let Some(hex) = file.hashes.get("sha256") else {
            if self.hashes.len() > 1 {
                let count = self.hashes.len();
                return Err(Error::SeveralHashes { filename, count });
            }
            let algorithms = file.hashes.keys().cloned().collect();
            return Err(Error::Hash {
                filename,
                algorithms,
            });
        };
        let digest = match Digest::from_hex(&hex.to_ascii_lowercase()) {
            Ok(digest) => digest,
            Err(source) => return Err(Error::Digest { filename, source }),
        };
        let version = self.version.as_deref().unwrap_or_default();
        Ok(LockedFile {
            package: format!("{} {version}", self.name).trim_end().to_owned(),
            filename,
            location: file.location.clone().ok_or_else(|| nowhere(&self.name))?,
            digest,
            size: file.size,
        })
    }

    fn no_wheel(&self, target: Target, mut offered: Vec<Offered>) -> Result<Box<NoWheel>, Error> {
        offered.sort_by_key(|offer| match &offer.reason {
            Unfit::Target(misfit) => misfit.distance(),
            Unfit::Name(_) | Unfit::Other => u8::MAX,
        });
        let sources = match &self.source {
            Some(Source::Archive { file, .. }) => Some(file.filename(&self.name)?),
            Some(Source::Repository { url, .. }) => Some(crate::http::redact_text(url)),
            Some(Source::Directory(path)) => Some(path.display().to_string()),
            None => None,
        };
        Ok(Box::new(NoWheel {
            package: self.name.clone(),
            version: self.version.clone(),
            required_by: self.required_by.iter().cloned().collect(),
            target,
            offered,
            sources,
        }))
    }
}

impl Source {
    /// A directory of this machine is the user's own code; what comes from elsewhere has to be named.
    fn may_be_built(&self, name: &str, builds: &Builds) -> bool {
        matches!(self, Self::Directory(_)) || builds.allow(name)
    }
}

impl File {
    /// Its name; `package` is for the error when it has none.
    pub(crate) fn filename(&self, package: &str) -> Result<String, Error> {
        let named = self.name.clone();
        let located = || self.location.as_ref().and_then(Location::filename);
        named.or_else(located).ok_or_else(|| nowhere(package))
    }
}

fn nowhere(package: &str) -> Error {
    let package = package.to_owned();
    Error::Location { package }
}

impl Location {
    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Url(url) => url.scheme() == "file",
            Self::Path(_) => true,
        }
    }

    /// The last name of the path, decoded.
    pub fn filename(&self) -> Option<String> {
        match self {
            Self::Url(url) => Some(percent_decoded(url.path_segments()?.next_back()?)),
            Self::Path(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
        }
    }
}

/// What sources are packed as, the usual form first.
pub(crate) const ARCHIVES: [&str; 5] = [".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz"];

pub(crate) fn is_wheel(filename: &str) -> bool {
    Path::new(filename).extension() == Some("whl".as_ref())
}

/// Whether a file of this name can be a package.
pub(crate) fn is_archive(filename: &str) -> bool {
    is_wheel(filename) || ARCHIVES.iter().any(|ending| filename.ends_with(ending))
}

/// Undoes the percent signs of a URL's part.
pub(crate) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match rest {
            [b'%', digits @ ..] => digits.get(..2).and_then(|d| str::from_utf8(d).ok()),
            _ => None,
        };
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A reading for `target` that wants nothing beside.
    pub(crate) fn plain(target: Target) -> Request<'static> {
        static NOTHING: Wanted = Wanted {
            extras: BTreeSet::new(),
            groups: BTreeSet::new(),
        };
        Request {
            target,
            wanted: &NOTHING,
            pyproject: None,
            member: Path::new(""),
        }
    }

    /// The wheels, where all are.
    pub(crate) fn wheels_of(locked: Vec<Locked>) -> Vec<LockedWheel> {
        let wheel = |locked| match locked {
            Locked::Wheel(wheel) => wheel,
            Locked::Source(source) => panic!("{source:?} is no wheel"),
        };
        locked.into_iter().map(wheel).collect()
    }

    #[test]
    fn a_url_gives_the_decoded_name() {
        let url = Location::Url(
            "https://x.test/a/torch-2%2Bcpu-py3-none-any.whl?x=1#sha256=0"
                .parse()
                .unwrap(),
        );
        assert_eq!(url.filename().unwrap(), "torch-2+cpu-py3-none-any.whl");
        assert_eq!(percent_decoded("%zz%4"), "%zz%4");
    }
}
