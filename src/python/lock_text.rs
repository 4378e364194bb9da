//! `pylock.toml` as it is written: from wheels that were chosen, and what it was made from.
//!
//! Follows the pylock specification (PEP 751). The text is a function of its inputs alone: no time, no
//! machine. What a resolver wrote itself stays as it is; only the table `tool.lambimg` is added.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::python::Target;
use crate::python::lock::{Builds, Location, Locked, LockedSource, LockedWheel, Origin};

/// What a lock was made from, kept in its table `tool.lambimg`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MadeFrom {
    /// Checksum of the requirements.
    pub inputs: Digest,
    /// The full Python version it was resolved for.
    pub python: String,
    /// The architecture it was resolved for.
    pub machine: String,
    /// The glibc it was resolved for.
    pub glibc: String,
    /// The date that no package was to be newer than.
    pub exclude_newer: Option<String>,
    /// Names of packages that were allowed to be built, `:all:` for any.
    #[serde(default)]
    pub builds: Vec<String>,
}

/// What beside requirements and target decides a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The date that no package may be newer than, as `YYYY-MM-DD` or in RFC 3339.
    pub exclude_newer: Option<String>,
    /// Which packages may be built from source.
    pub builds: Builds,
}

/// A package as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What was chosen.
    pub locked: Locked,
    /// Normal names of those that it requires, as far as they are known.
    pub dependencies: BTreeSet<String>,
}

impl MadeFrom {
    /// What a lock for `target` within these limits is made from.
    pub fn new(inputs: Digest, target: Target, limits: &Limits) -> Self {
        let all = limits.builds.all.then(|| ":all:".to_owned());
        Self {
            inputs,
            python: target.full_version().to_string(),
            machine: target.machine.to_string(),
            glibc: target.glibc.to_string(),
            exclude_newer: limits.exclude_newer.clone(),
            builds: all
                .into_iter()
                .chain(limits.builds.names.iter().cloned())
                .collect(),
        }
    }

    /// What keeps a lock with this record from standing for these requirements, this target and these limits;
    /// nothing where it stands. Where no date is given, that of the lock does.
    pub fn difference(
        &self,
        inputs: Digest,
        target: Target,
        limits: &Limits,
    ) -> Option<Difference> {
        let wanted = Self::new(inputs, target, limits);
        let of_target = |it: &Self| (it.python.clone(), it.machine.clone(), it.glibc.clone());
        let has_date = limits.exclude_newer.is_some();
        if self.inputs != wanted.inputs {
            Some(Difference::Requirements)
        } else if of_target(self) != of_target(&wanted) {
            let (python, machine, glibc) = of_target(self);
            Some(Difference::Target(format!(
                "python {python}, {machine}, glibc {glibc}"
            )))
        } else if has_date && self.exclude_newer != wanted.exclude_newer {
            Some(Difference::Date)
        } else if self.builds != wanted.builds {
            Some(Difference::Builds)
        } else {
            None
        }
    }
}

/// What a lock was made from that is another now, as a clause that follows the lock's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The requirements.
    #[error("was made from other requirements")]
    Requirements,
    /// The target, with the one that it was made for.
    #[error("was made for another target: {0}")]
    Target(String),
    /// The date.
    #[error("was made with another date that no package is newer than")]
    Date,
    /// What may be built.
    #[error("was made with other packages that may be built")]
    Builds,
}

/// The text of a lock that holds `packages` for `target`, sorted by name as other tools sort.
///
/// Where one resolution serves one target alone, its environment says so.
pub fn write(packages: &[Package], target: Target) -> String {
    let (python, machine) = (target.python, target.machine);
    let mut text = format!(
        "lock-version = \"1.0\"\n\
         environments = [\"implementation_name == 'cpython' and sys_platform == 'linux' and \
         platform_machine == '{machine}'\"]\n\
         requires-python = \"=={python}.*\"\n\
         created-by = \"lambimg\"\n"
    );
    let mut packages: Vec<&Package> = packages.iter().collect();
    packages.sort_by_key(|package| package.name());
    for package in packages {
        let _ = write!(text, "\n[[packages]]\nname = {}\n", quoted(package.name()));
        if let Some(version) = package.version() {
            let _ = writeln!(text, "version = {}", quoted(version));
        }
        if !package.dependencies.is_empty() {
            let names = package.dependencies.iter();
            let names: Vec<_> = names
                .map(|name| format!("{{ name = {} }}", quoted(name)))
                .collect();
            let _ = writeln!(text, "dependencies = [{}]", names.join(", "));
        }
        let _ = writeln!(text, "{}", package.files());
    }
    text
}

impl Package {
    fn name(&self) -> &str {
        match &self.locked {
            Locked::Wheel(wheel) => &wheel.name,
            Locked::Source(source) => &source.name,
        }
    }

    /// The version; a directory's may change without the lock being made anew, so the format has none of it.
    fn version(&self) -> Option<&str> {
        match &self.locked {
            Locked::Wheel(wheel) => Some(&wheel.version),
            Locked::Source(LockedSource {
                origin: Origin::Directory(_),
                ..
            }) => None,
            Locked::Source(source) => source.version.as_deref(),
        }
    }

    /// The key that says where its files are.
    fn files(&self) -> String {
        match &self.locked {
            // What the user names by its place is an archive, for `wheels` are an index's.
            Locked::Wheel(wheel) if wheel.first_party => format!("archive = {}", wheel_file(wheel)),
            Locked::Wheel(wheel) => format!("wheels = [{}]", wheel_file(wheel)),
            Locked::Source(source) => source_key(&source.origin),
        }
    }
}

fn wheel_file(wheel: &LockedWheel) -> String {
    file(&wheel.location, wheel.size, wheel.digest, None)
}

fn source_key(origin: &Origin) -> String {
    match origin {
        Origin::Archive {
            file: archive,
            subdirectory,
        } => {
            // A source distribution is one; where in an archive the project is, only `archive` can say.
            let key = if subdirectory.is_some() {
                "archive"
            } else {
                "sdist"
            };
            let subdirectory = subdirectory.as_deref();
            let table = file(
                &archive.location,
                archive.size,
                archive.digest,
                subdirectory,
            );
            format!("{key} = {table}")
        }
        Origin::Repository {
            url,
            commit,
            subdirectory,
        } => format!(
            "vcs = {{ type = \"git\", url = {}, commit-id = {}{} }}",
            quoted(url),
            quoted(commit),
            subdirectory_key(subdirectory.as_deref()),
        ),
        Origin::Directory(path) => format!("directory = {{ path = {} }}", quoted(&shown(path))),
    }
}

fn file(
    location: &Location,
    size: Option<u64>,
    digest: Digest,
    subdirectory: Option<&str>,
) -> String {
    let location = match location {
        Location::Url(url) => format!("url = {}", quoted(url.as_str())),
        Location::Path(path) => format!("path = {}", quoted(&shown(path))),
    };
    let size = size.map(|size| format!(", size = {size}"));
    format!(
        "{{ {location}{}, hashes = {{ sha256 = \"{}\" }}{} }}",
        size.unwrap_or_default(),
        digest.hex(),
        subdirectory_key(subdirectory),
    )
}

fn subdirectory_key(subdirectory: Option<&str>) -> String {
    let key = subdirectory.map(|path| format!(", subdirectory = {}", quoted(path)));
    key.unwrap_or_default()
}

/// An empty path is the lock's own directory.
fn shown(path: &Path) -> String {
    if path == Path::new("") {
        return ".".to_owned();
    }
    path.to_string_lossy().into_owned()
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Adds the record of what a lock was made from at the end of its `text`, which stays as it is.
pub fn with_made_from(text: &str, made_from: &MadeFrom) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let mut text = format!(
        "{text}{end}\n[tool.lambimg]\ninputs = \"{}\"\npython = {}\nmachine = {}\nglibc = {}\n",
        made_from.inputs,
        quoted(&made_from.python),
        quoted(&made_from.machine),
        quoted(&made_from.glibc),
    );
    if let Some(date) = &made_from.exclude_newer {
        let _ = writeln!(text, "exclude-newer = {}", quoted(date));
    }
    if !made_from.builds.is_empty() {
        let names: Vec<_> = made_from.builds.iter().map(|name| quoted(name)).collect();
        let _ = writeln!(text, "builds = [{}]", names.join(", "));
    }
    text
}
