//! `pylock.toml` as it is read: which wheels it has for a target.
//!
//! Follows the pylock specification (PEP 751), version 1.x. A lock promises bytes, so a file without a
//! sha256 is refused, and so is what would have to be built. Whatever resolved a lock, it is read the
//! same way; nothing is fetched here, and where the lock lies is not known.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};
use serde::Deserialize;

use crate::digest::Digest;
use crate::http::Url;
use crate::python::lock_text::MadeFrom;
use crate::python::markers::{self, Markers};
use crate::python::tags::FilenameError;
use crate::python::{Misfit, Rank, Target, WheelFilename, normalize_name};

/// A lock as it was read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lock {
    #[serde(rename = "lock-version")]
    version: String,
    requires_python: Option<VersionSpecifiers>,
    #[serde(default)]
    environments: Vec<String>,
    #[serde(default)]
    default_groups: Vec<String>,
    /// The packages, in the lock's order.
    #[serde(default)]
    pub packages: Vec<Package>,
    #[serde(default)]
    tool: toml::Table,
}

/// One package of a lock.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Package {
    /// The project's name as written.
    pub name: String,
    /// The version; nothing for one that is only known by its source.
    pub version: Option<String>,
    /// What must hold for it to be installed.
    pub marker: Option<String>,
    requires_python: Option<String>,
    #[serde(default)]
    wheels: Vec<File>,
    archive: Option<File>,
    sdist: Option<File>,
    vcs: Option<toml::Table>,
    directory: Option<toml::Table>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct File {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

/// Where a file can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// On the network, or by a `file:` URL.
    Url(Url),
    /// On disk, relative to the lock's directory unless absolute.
    Path(PathBuf),
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
#[error("no wheel of `{package}` {version} fits {target}{}", self.outline())]
pub struct NoWheel {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The target.
    pub target: Target,
    /// Every wheel there is, the nearest to fitting first.
    pub offered: Vec<Offered>,
    /// The file name of the source distribution, if there is one.
    pub sdist: Option<String>,
}

/// As many misfits as a message shows.
const SHOWN: usize = 12;

impl NoWheel {
    fn outline(&self) -> String {
        use fmt::Write as _;
        let mut text = String::new();
        for Offered { filename, reason } in self.offered.iter().take(SHOWN) {
            let _ = write!(text, "\n  {filename} {reason}");
        }
        if let Some(more) = self.offered.len().checked_sub(SHOWN).filter(|n| *n > 0) {
            let _ = write!(text, "\n  and {more} more that are further off");
        }
        match &self.sdist {
            Some(sdist) => {
                let _ = write!(text, "\n  {sdist} would have to be built");
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
    /// A package is locked as sources.
    #[error("`{package}` is locked as {kind}, not as a wheel")]
    Source {
        /// The package.
        package: String,
        /// What it is locked as, with an article.
        kind: &'static str,
    },
    /// A wheel has no hash that is trusted here.
    #[error("the lock has no sha256 of `{filename}`, but [{}]", algorithms.join(", "))]
    Hash {
        /// The file.
        filename: String,
        /// The algorithms that it has hashes of.
        algorithms: Vec<String>,
    },
    /// The sha256 of a wheel is none.
    #[error("the lock's sha256 of `{filename}` is none")]
    Digest {
        /// The file.
        filename: String,
        /// Why.
        source: crate::digest::ParseError,
    },
    /// A file's address is none.
    #[error("the lock does not say where a file of `{package}` can be had")]
    Location {
        /// The package.
        package: String,
    },
    /// No wheel of a package fits.
    #[error(transparent)]
    NoWheel(#[from] Box<NoWheel>),
}

impl FromStr for Lock {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let lock: Self = toml::from_str(text).map_err(|e| Error::Syntax(Box::new(e)))?;
        match lock.version.split_once('.') {
            Some(("1", minor)) if minor.bytes().all(|b| b.is_ascii_digit()) => Ok(lock),
            _ => Err(Error::Version(lock.version)),
        }
    }
}

impl Lock {
    /// What lambimg made this lock from; nothing for a lock of another's making.
    pub fn made_from(&self) -> Option<MadeFrom> {
        self.tool.get("lambimg")?.clone().try_into().ok()
    }

    fn check(&self, target: Target, markers: &Markers) -> Result<(), Error> {
        let version = target.full_version();
        if let Some(requires) = self.requires_python.as_ref()
            && !requires.contains(&version)
        {
            let requires = requires.to_string();
            return Err(Error::RequiresPython { requires, version });
        }
        for environment in &self.environments {
            if markers
                .hold(environment)
                .map_err(Error::EnvironmentMarker)?
            {
                return Ok(());
            }
        }
        if self.environments.is_empty() {
            return Ok(());
        }
        Err(Error::Environment {
            environments: self.environments.clone(),
            target,
        })
    }
}

/// The wheels that `lock` has for `target`, in the lock's order: of each package the one that fits best,
/// and of equals the latest build. No extra is wanted, and the groups are the lock's default groups.
///
/// # Errors
/// See [`Error`]; the first package that cannot be had decides.
pub fn select(lock: &Lock, target: Target) -> Result<Vec<LockedWheel>, Error> {
    let markers = Markers::new(target).with([], lock.default_groups.iter().map(String::as_str));
    lock.check(target, &markers)?;
    let mut seen = BTreeSet::new();
    let mut wheels = Vec::new();
    for package in &lock.packages {
        let holds = package.marker.as_ref().map(|marker| markers.hold(marker));
        let holds = holds.transpose().map_err(|source| Error::Marker {
            package: package.name.clone(),
            source,
        })?;
        if holds == Some(false) {
            continue;
        }
        if !seen.insert(normalize_name(&package.name)) {
            let package = package.name.clone();
            return Err(Error::Ambiguous { package, target });
        }
        wheels.push(package.select(target)?);
    }
    Ok(wheels)
}

impl Package {
    fn select(&self, target: Target) -> Result<LockedWheel, Error> {
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
        for file in self.wheel_files()? {
            let filename = file.filename(&self.name)?;
            match self.fit(&filename, target) {
                Ok((rank, wheel)) => fitting.push((rank, wheel, file)),
                Err(reason) => offered.push(Offered { filename, reason }),
            }
        }
        let best = fitting
            .into_iter()
            .min_by_key(|(rank, wheel, _)| (*rank, Reverse(wheel.build.clone())));
        match best {
            Some((_, wheel, file)) => self.locked(wheel, file),
            None => Err(self.no_wheel(target, offered)?.into()),
        }
    }

    /// The wheels; an archive that is one counts, for that is how a wheel given by its address is locked.
    fn wheel_files(&self) -> Result<Vec<&File>, Error> {
        let source = |kind| Error::Source {
            package: self.name.clone(),
            kind,
        };
        if self.vcs.is_some() {
            return Err(source("a repository"));
        }
        if self.directory.is_some() {
            return Err(source("a directory"));
        }
        let Some(archive) = &self.archive else {
            return Ok(self.wheels.iter().collect());
        };
        if Path::new(&archive.filename(&self.name)?).extension() == Some("whl".as_ref()) {
            return Ok(vec![archive]);
        }
        Err(source("a source archive"))
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

    fn locked(&self, filename: WheelFilename, file: &File) -> Result<LockedWheel, Error> {
        let Some(hex) = file.hashes.get("sha256") else {
            return Err(Error::Hash {
                filename: filename.to_string(),
                algorithms: file.hashes.keys().cloned().collect(),
            });
        };
        let digest = Digest::from_hex(&hex.to_ascii_lowercase());
        let digest = digest.map_err(|source| Error::Digest {
            filename: filename.to_string(),
            source,
        })?;
        let version = self.version.clone();
        Ok(LockedWheel {
            name: filename.name.clone(),
            version: version.unwrap_or_else(|| filename.version.to_string()),
            location: file.location(&self.name)?,
            filename,
            digest,
            size: file.size,
        })
    }

    fn no_wheel(&self, target: Target, mut offered: Vec<Offered>) -> Result<Box<NoWheel>, Error> {
        offered.sort_by_key(|offer| match &offer.reason {
            Unfit::Target(misfit) => misfit.distance(),
            Unfit::Name(_) | Unfit::Other => u8::MAX,
        });
        let sdist = self.sdist.as_ref().map(|file| file.filename(&self.name));
        Ok(Box::new(NoWheel {
            package: self.name.clone(),
            version: self.version.clone().unwrap_or_default(),
            target,
            offered,
            sdist: sdist.transpose()?,
        }))
    }
}

impl File {
    fn location(&self, package: &str) -> Result<Location, Error> {
        let url = self.url.as_ref().and_then(|url| Url::parse(url).ok());
        let path = self.path.as_ref().map(|path| Location::Path(path.into()));
        let location = url.map(Location::Url).or(path);
        location.ok_or_else(|| nowhere(package))
    }

    fn filename(&self, package: &str) -> Result<String, Error> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let location = self.location(package)?;
        location.filename().ok_or_else(|| nowhere(package))
    }
}

fn nowhere(package: &str) -> Error {
    let package = package.to_owned();
    Error::Location { package }
}

impl Location {
    /// The last name of the path, decoded.
    pub fn filename(&self) -> Option<String> {
        match self {
            Self::Url(url) => Some(percent_decoded(url.path_segments()?.next_back()?)),
            Self::Path(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
        }
    }
}

fn percent_decoded(text: &str) -> String {
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
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::lock_text;
    use crate::python::tests::target;
    use proptest::prelude::*;

    const HASH: &str = "1275f7a45be9464efc1173084eaa30f866fe2e47d389406136d332ed4967ec56";

    fn lambda() -> Target {
        target("3.12", Machine::X86_64, "2.34")
    }

    /// A lock of one package `a` 1.0 with wheels of these tags, after `fields`.
    fn lock_of(fields: &str, tags: &[&str]) -> String {
        let wheels: Vec<String> = tags
            .iter()
            .map(|tags| {
                format!("{{ url = \"https://files.test/x%2B/a-1.0-{tags}.whl\", size = 7, hashes = {{ sha256 = \"{HASH}\" }} }}")
            })
            .collect();
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"test\"\n[[packages]]\nname = \"A\"\nversion = \"1.0\"\n{fields}\nwheels = [{}]\n",
            wheels.join(", ")
        )
    }

    fn chosen(text: &str, target: Target) -> Result<Vec<LockedWheel>, Error> {
        select(&text.parse()?, target)
    }

    fn refusal(text: &str, target: Target) -> String {
        chosen(text, target).unwrap_err().to_string()
    }

    #[test]
    fn the_best_wheel_is_chosen_and_of_equals_the_latest_build() {
        let text = lock_of(
            "",
            &[
                "py3-none-any",
                "cp39-abi3-manylinux_2_34_x86_64",
                "cp312-cp312-manylinux_2_17_x86_64",
                "2-cp312-cp312-manylinux_2_17_x86_64",
                "10-cp312-cp312-manylinux_2_17_x86_64",
                "cp312-cp312-manylinux_2_39_x86_64",
            ],
        );
        let best = |target| {
            chosen(&text, target)
                .unwrap()
                .remove(0)
                .filename
                .to_string()
        };
        assert_eq!(
            best(lambda()),
            "a-1.0-10-cp312-cp312-manylinux_2_17_x86_64.whl"
        );
        let newer = target("3.13", Machine::X86_64, "2.34");
        assert_eq!(best(newer), "a-1.0-cp39-abi3-manylinux_2_34_x86_64.whl");
        let arm = target("3.12", Machine::Aarch64, "2.34");
        assert_eq!(best(arm), "a-1.0-py3-none-any.whl");

        let wheel = chosen(&text, arm).unwrap().remove(0);
        assert_eq!((wheel.name.as_str(), wheel.version.as_str()), ("a", "1.0"));
        assert_eq!(wheel.size, Some(7));
        assert_eq!(wheel.digest.hex(), HASH);
    }

    #[test]
    fn markers_decide_and_order_stays() {
        let text = format!(
            "{}\n[[packages]]\nname = \"b\"\nversion = \"2\"\nmarker = \"sys_platform == 'win32'\"\n\
             [[packages]]\nname = \"0\"\nmarker = \"python_version >= '3.9' and 'x' not in extras\"\n\
             archive = {{ path = \"w/0-3-py3-none-any.whl\", hashes = {{ sha256 = \"{HASH}\" }} }}\n",
            lock_of("", &["py3-none-any"])
        );
        let wheels = chosen(&text, lambda()).unwrap();
        let names: Vec<&str> = wheels.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names, ["a", "0"]);
        assert_eq!(wheels[1].version, "3");
        assert_eq!(
            wheels[1].location,
            Location::Path("w/0-3-py3-none-any.whl".into())
        );
    }

    #[test]
    fn without_a_fitting_wheel_all_are_told() {
        let text = lock_of(
            "sdist = { name = \"a-1.0.tar.gz\", url = \"https://files.test/a-1.0.tar.gz\" }",
            &[
                "cp312-cp312-win_amd64",
                "cp313-cp313-manylinux_2_17_x86_64",
                "cp312-cp312-manylinux_2_17_aarch64",
                "cp312-cp312-musllinux_1_2_x86_64",
                "cp312-cp312-manylinux_2_39_x86_64",
                "cp312-cp312t-manylinux_2_17_x86_64",
                "none-any",
            ],
        );
        insta::assert_snapshot!(refusal(&text, lambda()), @"
        no wheel of `A` 1.0 fits python 3.12, x86_64, glibc 2.34
          a-1.0-cp312-cp312-manylinux_2_39_x86_64.whl needs glibc 2.39
          a-1.0-cp312-cp312t-manylinux_2_17_x86_64.whl is for free-threaded Python
          a-1.0-cp313-cp313-manylinux_2_17_x86_64.whl is for Python 3.13
          a-1.0-cp312-cp312-musllinux_1_2_x86_64.whl is for musl, not glibc
          a-1.0-cp312-cp312-manylinux_2_17_aarch64.whl is for aarch64
          a-1.0-cp312-cp312-win_amd64.whl is for `win_amd64`
          a-1.0-none-any.whl has no wheel's file name: it has not five or six parts
          a-1.0.tar.gz would have to be built
        ");
        insta::assert_snapshot!(refusal(&lock_of("", &[]), lambda()), @"no wheel of `A` 1.0 fits python 3.12, x86_64, glibc 2.34: the lock has no file of it");
        let many = ["cp313-cp313-win_amd64"; 20];
        let message = refusal(&lock_of("", &many), lambda());
        insta::assert_snapshot!(message.lines().last().unwrap(), @"  and 8 more that are further off");
        let wheel = lock_of("", &["py3-none-any"]);
        let other = wheel.replace("\"A\"\nversion = \"1.0\"", "\"A\"\nversion = \"1.1\"");
        insta::assert_snapshot!(refusal(&other, lambda()), @"
        no wheel of `A` 1.1 fits python 3.12, x86_64, glibc 2.34
          a-1.0-py3-none-any.whl is not of that name and version
        ");
    }

    #[test]
    fn what_promises_no_bytes_for_this_target_is_refused() {
        let wheel = lock_of("", &["py3-none-any"]);
        let top = |line: &str| wheel.replace("created-by", &format!("{line}\ncreated-by"));
        let refused: Vec<String> = [
            wheel.replace("1.0\"\ncreated", "2.0\"\ncreated"),
            wheel.replace("name = ", "nam = "),
            top("requires-python = \">=3.13\""),
            top("environments = [\"sys_platform == 'win32'\", \"platform_machine == 'arm64'\"]"),
            top("environments = [\"os == 'x'\"]"),
            lock_of("requires-python = \"<3.9\"", &["py3-none-any"]),
            lock_of("marker = \"os ==\"", &["py3-none-any"]),
            lock_of(
                "vcs = { type = \"git\", url = \"https://x.test\", commit-id = \"1\" }",
                &[],
            ),
            lock_of("directory = { path = \".\" }", &[]),
            lock_of("archive = { url = \"https://x.test/a.zip\" }", &[]),
            wheel.replace("sha256", "md5"),
            wheel.replace(HASH, "12"),
            wheel.replace("url = \"https", "url = \":"),
            format!(
                "{wheel}{}",
                wheel
                    .split_once("[[")
                    .map(|(_, rest)| format!("[[{rest}"))
                    .unwrap()
            ),
        ]
        .map(|text| refusal(&text, lambda()))
        .into();
        insta::assert_snapshot!(refused.join("\n"), @"
        lock-version `2.0` is not 1.x
        not a pylock file
        the lock requires Python >=3.13, which 3.12.7 is not
        the lock is not for python 3.12, x86_64, glibc 2.34; it is for sys_platform == 'win32' or for platform_machine == 'arm64'
        the lock's environments cannot be read
        `A` 1.0 requires Python <3.9, which 3.12.7 is not
        package `A` cannot be read
        `A` is locked as a repository, not as a wheel
        `A` is locked as a directory, not as a wheel
        `A` is locked as a source archive, not as a wheel
        the lock has no sha256 of `a-1.0-py3-none-any.whl`, but [md5]
        the lock's sha256 of `a-1.0-py3-none-any.whl` is none
        the lock does not say where a file of `A` can be had
        the lock has two entries for `A` that both apply to python 3.12, x86_64, glibc 2.34
        ");
        // What no reader understands excludes nothing.
        let odd = lock_of("requires-python = \">=2.*\"", &["py3-none-any"]);
        assert_eq!(chosen(&odd, lambda()).unwrap().len(), 1);
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

    #[test]
    fn what_is_written_reads_back() {
        let text = lock_of("", &["cp312-cp312-manylinux_2_17_x86_64"]);
        let wheels = chosen(&text, lambda()).unwrap();
        let written = lock_text::write(&wheels, lambda());
        assert_eq!(chosen(&written, lambda()).unwrap(), wheels);
        assert!(chosen(&written, target("3.12", Machine::Aarch64, "2.34")).is_err());
        assert!(chosen(&written, target("3.13", Machine::X86_64, "2.34")).is_err());

        let inputs = Digest::of("numpy");
        let made_from = MadeFrom::new(inputs, lambda());
        let marked = lock_text::with_made_from(&written, &made_from);
        assert!(marked.starts_with(&written));
        insta::assert_snapshot!(marked, @r#"
        lock-version = "1.0"
        environments = ["implementation_name == 'cpython' and sys_platform == 'linux' and platform_machine == 'x86_64'"]
        requires-python = "==3.12.*"
        created-by = "lambimg"

        [[packages]]
        name = "a"
        version = "1.0"
        wheels = [{ url = "https://files.test/x%2B/a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl", size = 7, hashes = { sha256 = "1275f7a45be9464efc1173084eaa30f866fe2e47d389406136d332ed4967ec56" } }]

        [tool.lambimg]
        inputs = "sha256:73dd0baf8e5438da8816254a073ee43b61f8b2cdef6f393e0059cdbc55cb8d9c"
        python = "3.12.7"
        machine = "x86_64"
        glibc = "2.34"
        "#);
        let lock: Lock = marked.parse().unwrap();
        assert_eq!(lock.made_from(), Some(made_from.clone()));
        assert_eq!(select(&lock, lambda()).unwrap(), wheels);
        assert!(made_from.stands_for(inputs, lambda()));
        assert!(!made_from.stands_for(Digest::of("pandas"), lambda()));
        assert!(!made_from.stands_for(inputs, target("3.12", Machine::X86_64, "2.35")));
        assert_eq!(written.parse::<Lock>().unwrap().made_from(), None);
    }

    proptest! {
        #[test]
        fn any_change_is_read_or_refused(at in 0usize..400, text in "[\"\\[\\]{}=\n0-9a-z.,%é-]{0,6}", cut in 0usize..40) {
            let mut lock = lock_of("marker = \"python_version > '3'\"", &["py3-none-any", "cp312-cp312-win_amd64"]);
            let start = at % lock.len();
            let end = (start + cut).min(lock.len());
            lock.replace_range(start..end, &text);
            let _ = chosen(&lock, lambda()).map_err(|e| e.to_string());
        }
    }
}
