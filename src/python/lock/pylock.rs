//! `pylock.toml` as it is read.
//!
//! Follows the pylock specification (PEP 751), version 1.x. Whatever resolved a lock, it is read the same
//! way; what it leaves open, an installer's choice of file, is not made here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

use pep440_rs::VersionSpecifiers;
use serde::Deserialize;

use crate::http::Url;
use crate::python::lock::{Entry, Error, File, Location, Request, Source, check_known, is_wheel};
use crate::python::lock_text::MadeFrom;
use crate::python::markers::Markers;
use crate::python::{Target, normalize_name};

/// A lock as it was read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pylock {
    #[serde(rename = "lock-version")]
    version: String,
    requires_python: Option<VersionSpecifiers>,
    #[serde(default)]
    environments: Vec<String>,
    #[serde(default)]
    extras: BTreeSet<String>,
    #[serde(default)]
    dependency_groups: BTreeSet<String>,
    #[serde(default)]
    default_groups: Vec<String>,
    #[serde(default)]
    packages: Vec<Package>,
    #[serde(default)]
    tool: toml::Table,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    requires_python: Option<String>,
    index: Option<String>,
    #[serde(default)]
    dependencies: Vec<Dependency>,
    #[serde(default)]
    wheels: Vec<LockFile>,
    archive: Option<LockFile>,
    sdist: Option<LockFile>,
    vcs: Option<Vcs>,
    directory: Option<Directory>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct LockFile {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    subdirectory: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Vcs {
    url: Option<String>,
    path: Option<String>,
    commit_id: String,
    subdirectory: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Directory {
    path: String,
    subdirectory: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Dependency {
    name: Option<String>,
}

impl FromStr for Pylock {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let lock: Self = toml::from_str(text).map_err(|e| Error::Syntax(Box::new(e)))?;
        match lock.version.split_once('.') {
            Some(("1", minor)) if minor.bytes().all(|b| b.is_ascii_digit()) => Ok(lock),
            _ => Err(Error::Version(lock.version)),
        }
    }
}

impl Pylock {
    /// What lambimg made this lock from; nothing for a lock of another's making.
    pub fn made_from(&self) -> Option<MadeFrom> {
        self.tool.get("lambimg")?.clone().try_into().ok()
    }

    /// The normal name of each package, whatever the target.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let packages = self.packages.iter();
        packages.map(|package| normalize_name(&package.name))
    }

    /// The version of each package that came from an index, by normal name, whatever the target.
    pub fn pins(&self) -> BTreeMap<String, String> {
        let indexed = |package: &&Package| {
            let elsewhere =
                package.vcs.is_some() || package.directory.is_some() || package.archive.is_some();
            !elsewhere
        };
        let pins = self.packages.iter().filter(indexed);
        pins.filter_map(|package| Some((normalize_name(&package.name), package.version.clone()?)))
            .collect()
    }

    /// The packages that are wanted, in the lock's order. Where no group is wanted, the lock's default groups
    /// are.
    ///
    /// # Errors
    /// When the lock is not for the target, or a marker has no meaning.
    pub fn entries(&self, request: &Request<'_>) -> Result<Vec<Entry>, Error> {
        let names = |names: &BTreeSet<String>| names.iter().map(|n| normalize_name(n)).collect();
        let (extras, groups) = (names(&self.extras), names(&self.dependency_groups));
        check_known("extra", &request.wanted.extras, extras)?;
        check_known("dependency group", &request.wanted.groups, groups)?;
        let groups: Vec<&str> = if request.wanted.groups.is_empty() {
            self.default_groups.iter().map(String::as_str).collect()
        } else {
            request.wanted.groups.iter().map(String::as_str).collect()
        };
        let extras = request.wanted.extras.iter().map(String::as_str);
        let markers = Markers::new(request.target).with(extras, groups);
        self.check(request.target, &markers)?;
        let mut entries = Vec::new();
        for package in &self.packages {
            let holds = package.marker.as_ref().map(|marker| markers.hold(marker));
            let holds = holds.transpose().map_err(|source| Error::Marker {
                package: package.name.clone(),
                source,
            })?;
            if holds != Some(false) {
                entries.push(package.entry(self.users_of(&package.name))?);
            }
        }
        Ok(entries)
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

    fn users_of(&self, name: &str) -> BTreeSet<String> {
        let name = normalize_name(name);
        let names = |dependency: &Dependency| {
            let own = dependency.name.as_deref().map(normalize_name);
            own.as_ref() == Some(&name)
        };
        let users = self
            .packages
            .iter()
            .filter(|user| user.dependencies.iter().any(names));
        users.map(|user| normalize_name(&user.name)).collect()
    }
}

impl Package {
    fn entry(&self, required_by: BTreeSet<String>) -> Result<Entry, Error> {
        let mut wheels: Vec<File> = self.wheels.iter().map(LockFile::file).collect();
        let archived = self.archive.as_ref();
        // An archive that is a wheel counts, for that is how a wheel given by its address is locked.
        let is_wheel = archived.map(|file| file.is_wheel(&self.name)).transpose()?;
        let source = match (&self.vcs, &self.directory, archived) {
            (Some(vcs), _, _) => Some(vcs.source(&self.name)?),
            (None, Some(directory), _) => Some(directory.source()),
            (None, None, Some(archive)) if is_wheel == Some(true) => {
                wheels.push(archive.file());
                None
            }
            (None, None, Some(archive)) => Some(archive.source()),
            (None, None, None) => self.sdist.as_ref().map(LockFile::source),
        };
        let location = archived.and_then(|archive| archive.file().location);
        Ok(Entry {
            first_party: location.is_some_and(|location| location.is_local()),
            name: normalize_name(&self.name),
            version: self.version.clone(),
            requires_python: self.requires_python.clone(),
            wheels,
            source,
            hashes: BTreeSet::new(),
            index: self.index.as_ref().and_then(|url| Url::parse(url).ok()),
            required_by,
        })
    }
}

impl LockFile {
    fn file(&self) -> File {
        let url = self.url.as_ref().and_then(|url| Url::parse(url).ok());
        let path = self.path.as_ref().map(|path| Location::Path(path.into()));
        File {
            name: self.name.clone(),
            location: url.map(Location::Url).or(path),
            size: self.size,
            hashes: self.hashes.clone(),
        }
    }

    fn source(&self) -> Source {
        Source::Archive {
            file: self.file(),
            subdirectory: self.subdirectory.clone(),
        }
    }

    fn is_wheel(&self, package: &str) -> Result<bool, Error> {
        let filename = self.file().filename(package)?;
        Ok(is_wheel(&filename))
    }
}

impl Vcs {
    fn source(&self, package: &str) -> Result<Source, Error> {
        let url = self.url.as_ref().or(self.path.as_ref());
        let url = url.ok_or_else(|| Error::Location {
            package: package.to_owned(),
        })?;
        Ok(Source::Repository {
            url: url.clone(),
            commit: self.commit_id.clone(),
            subdirectory: self.subdirectory.clone(),
        })
    }
}

impl Directory {
    fn source(&self) -> Source {
        let path = Path::new(&self.path);
        Source::Directory(match &self.subdirectory {
            Some(below) => path.join(below),
            None => path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::python::Machine;
    use crate::python::lock::tests::{plain, wheels_of};
    use crate::python::lock::{Builds, Locked, LockedWheel, Origin, choose};
    use crate::python::lock_text::{self, Difference};
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
        let entries = text.parse::<Pylock>()?.entries(&plain(target))?;
        Ok(wheels_of(choose(&entries, target, &Builds::default())?))
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
        no wheel of `a` 1.0 fits python 3.12, x86_64, glibc 2.34
          a-1.0-cp312-cp312-manylinux_2_39_x86_64.whl needs glibc 2.39
          a-1.0-cp312-cp312t-manylinux_2_17_x86_64.whl is for free-threaded Python
          a-1.0-cp313-cp313-manylinux_2_17_x86_64.whl is for Python 3.13
          a-1.0-cp312-cp312-musllinux_1_2_x86_64.whl is for musl, not glibc
          a-1.0-cp312-cp312-manylinux_2_17_aarch64.whl is for aarch64
          a-1.0-cp312-cp312-win_amd64.whl is for `win_amd64`
          a-1.0-none-any.whl has no wheel's file name: it has not five or six parts
          a-1.0.tar.gz would have to be built
        ");
        insta::assert_snapshot!(refusal(&lock_of("", &[]), lambda()), @"no wheel of `a` 1.0 fits python 3.12, x86_64, glibc 2.34: the lock has no file of it");
        let many = ["cp313-cp313-win_amd64"; 20];
        let message = refusal(&lock_of("", &many), lambda());
        insta::assert_snapshot!(message.lines().last().unwrap(), @"  and 8 more that are further off");
        let wheel = lock_of("", &["py3-none-any"]);
        let other = wheel.replace("\"A\"\nversion = \"1.0\"", "\"A\"\nversion = \"1.1\"");
        insta::assert_snapshot!(refusal(&other, lambda()), @"
        no wheel of `a` 1.1 fits python 3.12, x86_64, glibc 2.34
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
        `a` 1.0 requires Python <3.9, which 3.12.7 is not
        package `A` cannot be read
        no wheel of `a` 1.0 fits python 3.12, x86_64, glibc 2.34
          https://x.test would have to be built
        no wheel of `a` 1.0 fits python 3.12, x86_64, glibc 2.34
          a.zip would have to be built
        the lock has no sha256 of `a-1.0-py3-none-any.whl`, but md5
        the lock's sha256 of `a-1.0-py3-none-any.whl` is none
        the lock does not say where a file of `a` can be had
        the lock has two entries for `a` that both apply to python 3.12, x86_64, glibc 2.34
        ");
        // What no reader understands excludes nothing.
        let odd = lock_of("requires-python = \">=2.*\"", &["py3-none-any"]);
        assert_eq!(chosen(&odd, lambda()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = lock_of("", &["cp312-cp312-manylinux_2_17_x86_64"]);
        let wheels = chosen(&text, lambda()).unwrap();
        let package = |wheel: &LockedWheel| lock_text::Package {
            locked: Locked::Wheel(wheel.clone()),
            dependencies: BTreeSet::new(),
        };
        let packages: Vec<_> = wheels.iter().map(package).collect();
        let written = lock_text::write(&packages, lambda());
        assert_eq!(chosen(&written, lambda()).unwrap(), wheels);
        assert!(chosen(&written, target("3.12", Machine::Aarch64, "2.34")).is_err());
        assert!(chosen(&written, target("3.13", Machine::X86_64, "2.34")).is_err());

        let inputs = Digest::of("numpy");
        let limits = lock_text::Limits::default();
        let made_from = MadeFrom::new(inputs, lambda(), &limits);
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
        let lock: Pylock = marked.parse().unwrap();
        assert_eq!(lock.made_from(), Some(made_from.clone()));
        assert_eq!(chosen(&marked, lambda()).unwrap(), wheels);
        let difference = |inputs, target, limits: &lock_text::Limits| {
            made_from.difference(inputs, target, limits)
        };
        assert_eq!(difference(inputs, lambda(), &limits), None);
        let other = difference(Digest::of("pandas"), lambda(), &limits);
        assert_eq!(other, Some(Difference::Requirements));
        let newer = target("3.12", Machine::X86_64, "2.35");
        let other = difference(inputs, newer, &limits).unwrap().to_string();
        insta::assert_snapshot!(other, @"was made for another target: python 3.12.7, x86_64, glibc 2.34");
        assert_eq!(written.parse::<Pylock>().unwrap().made_from(), None);
    }

    #[test]
    fn sources_are_taken_where_they_may_be_built() {
        let sources = [
            format!("sdist = {{ path = \"s/a-1.0.tar.gz\", hashes = {{ sha256 = \"{HASH}\" }} }}"),
            format!(
                "archive = {{ url = \"https://x.test/a.zip\", subdirectory = \"d\", hashes = {{ sha256 = \"{HASH}\" }} }}"
            ),
            "vcs = { type = \"git\", url = \"https://x.test/r\", commit-id = \"1\" }".to_owned(),
            "directory = { path = \"lib\", subdirectory = \"d\" }".to_owned(),
        ];
        let builds = Builds {
            all: false,
            names: ["a".to_owned()].into(),
        };
        let origins = sources.map(|source| {
            let lock: Pylock = lock_of(&source, &[]).parse().unwrap();
            let entries = lock.entries(&plain(lambda())).unwrap();
            match choose(&entries, lambda(), &builds).unwrap().remove(0) {
                Locked::Source(source) => source.origin,
                Locked::Wheel(wheel) => panic!("{wheel:?}"),
            }
        });
        let [sdist, archive, repository, directory] = origins;
        let Origin::Archive { file, subdirectory } = sdist else {
            panic!("{sdist:?}")
        };
        assert_eq!((&*file.package, &*file.filename), ("a 1.0", "a-1.0.tar.gz"));
        assert_eq!(subdirectory, None);
        assert!(matches!(archive, Origin::Archive { subdirectory: Some(d), .. } if d == "d"));
        assert!(matches!(repository, Origin::Repository { commit, .. } if commit == "1"));
        assert_eq!(directory, Origin::Directory("lib/d".into()));
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
