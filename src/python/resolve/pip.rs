//! pip as the resolver: every platform by its name, and its installation report becomes a lock.
//!
//! pip takes another platform only where nothing may be built, and says so of its arguments; what stands in
//! a requirements file it does not hold to that. So the packages that may be built are named in a file of
//! their own. pip keeps no versions by itself: they are constraints, and go if nothing is found with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr as _;

use pep440_rs::Version;
use serde::Deserialize;
use tokio::process::Command;

use crate::digest::Digest;
use crate::http::{self, Url};
use crate::python::lock::pylock::Pylock;
use crate::python::lock::{
    Builds, Location, Locked, LockedFile, LockedSource, LockedWheel, Origin, Wanted, is_archive,
    is_wheel,
};
use crate::python::lock_text::{self, Package};
use crate::python::markers::Markers;
use crate::python::requirement::Requirement;
use crate::python::requirements::{self, Requirements};
use crate::python::resolve::{Answer, Error, Request, relative_path, remove_credentials, run};
use crate::python::{Target, WheelFilename, normalize_name};

/// Runs pip as `-m pip` does, but without the working directory among the places of modules: a
/// project's own `logging.py` is none of pip's business. The option for it, `-P`, came with Python 3.11.
const RUN_PIP: &str = "import sys; sys.path[:] = [p for p in sys.path if p]; import runpy; \
                       runpy.run_module('pip', run_name='__main__', alter_sys=True)";

/// Asks pip.
pub(super) async fn ask(
    request: &Request,
    directory: &Path,
    builds: &Builds,
) -> Result<Answer, Error> {
    let kept = kept_versions(request)?;
    if !kept.is_empty() {
        match once(request, directory, builds, &kept).await {
            Err(Error::Unresolved { .. }) => {}
            other => return other,
        }
    }
    once(request, directory, builds, "").await
}

/// Constraints for the versions of the lock before.
fn kept_versions(request: &Request) -> Result<String, Error> {
    let Some(previous) = &request.previous else {
        return Ok(String::new());
    };
    let lock: Pylock = previous.parse()?;
    // Of a lock for another machine too the versions are kept.
    let pins = lock.pins().into_iter();
    let kept = pins.filter(|(name, _)| !request.upgrades.contains(name));
    // A line of the file may be an option too, and names an index then.
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let lines: Vec<_> = kept
        .filter(|(name, _)| is_name(name) && !name.starts_with('-'))
        .filter_map(|(name, version)| Some((name, Version::from_str(&version).ok()?)))
        .map(|(name, version)| format!("{name}=={version}"))
        .collect();
    Ok(lines.join("\n"))
}

async fn once(
    request: &Request,
    directory: &Path,
    builds: &Builds,
    constraints: &str,
) -> Result<Answer, Error> {
    let exchange = |source| Error::Exchange {
        resolver: "pip",
        source,
    };
    let temporary = tempfile::tempdir().map_err(exchange)?;
    let mut command = Command::new(request.resolver.program());
    command.arg("-c").arg(RUN_PIP);
    command.args(arguments(request));
    // Rules for installing: nothing is installed here.
    command.env("PIP_REQUIRE_VIRTUALENV", "0");
    for variable in ["PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT"] {
        command.env_remove(variable);
    }
    let lines = match &request.requirements {
        Requirements::File(path) => {
            let name = path.file_name().unwrap_or_default();
            command.arg("--requirement").arg(name);
            String::new()
        }
        Requirements::Lines { text, .. } => text.clone(),
        Requirements::Project { pyproject, wanted } => {
            project_lines(pyproject, wanted, request.target)?
        }
    };
    let written = [
        ("--requirement", "requirements.txt", lines.as_str()),
        ("--requirement", "builds.txt", &build_options(builds)),
        ("--constraint", "kept.txt", constraints),
    ];
    for (option, name, text) in written.into_iter().filter(|file| !file.2.is_empty()) {
        let path = temporary.path().join(name);
        tokio::fs::write(&path, text).await.map_err(exchange)?;
        command.arg(option).arg(path);
    }
    let report = temporary.path().join("report.json");
    command.arg("--report").arg(&report);
    // Nothing is installed, but before pip 23.1 tags of another platform were tied to a target directory.
    command.arg("--target").arg(temporary.path().join("none"));
    run(request, command, directory, "")
        .await
        .map_err(|error| match error {
            Error::Unresolved { stderr, .. }
                if stderr.contains("no such option: --uploaded-prior-to") =>
            {
                Error::OldPip(request.resolver.program().to_owned())
            }
            other => other,
        })?;
    let report = tokio::fs::read(&report).await.map_err(exchange)?;
    let packages = packages_of_report(&report, directory, request.target)?;
    Ok(Answer {
        text: lock_text::write(&packages, request.target),
        warnings: Vec::new(),
    })
}

fn project_lines(path: &Path, wanted: &Wanted, target: Target) -> Result<String, Error> {
    let project = requirements::read_project(path)?;
    let lines = project.lines_without_uv(wanted, &Markers::new(target));
    let lines = lines.map_err(|source| requirements::Error::Project {
        path: path.to_owned(),
        source,
    })?;
    // A file without a line asks for nothing, which pip does not take.
    Ok(lines.join("\n") + "\n")
}

/// The lines that allow packages to be built.
fn build_options(builds: &Builds) -> String {
    if builds.all {
        return "--only-binary :none:\n".to_owned();
    }
    let names = builds.names.iter();
    names.fold(String::new(), |mut lines, name| {
        let _ = writeln!(lines, "--no-binary {name}");
        lines
    })
}

fn arguments(request: &Request) -> Vec<String> {
    let target = request.target;
    let mut arguments: Vec<String> = [
        "install",
        "--dry-run",
        "--ignore-installed",
        "--only-binary=:all:",
        "--quiet",
        "--no-input",
        "--no-color",
        "--no-user",
        "--disable-pip-version-check",
        "--implementation=cp",
        "--abi=abi3",
        "--abi=none",
    ]
    .map(String::from)
    .into();
    arguments.push(format!("--abi=cp3{}", target.python.minor()));
    arguments.push(format!("--python-version={}", target.full_version()));
    // pip takes a platform by its name alone: a later glibc implies no earlier one.
    let platforms = target.platforms().into_iter();
    arguments.extend(platforms.map(|platform| format!("--platform={platform}")));
    let date = request.limits.exclude_newer.iter();
    arguments.extend(date.map(|date| format!("--uploaded-prior-to={date}")));
    arguments.extend(request.offline.then(|| "--no-index".to_owned()));
    arguments
}

/// pip's installation report, version 1, as far as a lock needs it.
#[derive(Deserialize)]
struct Report {
    version: String,
    install: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    download_info: DownloadInfo,
    metadata: Metadata,
    /// Whether it was asked for by its place.
    #[serde(default)]
    is_direct: bool,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
    #[serde(default)]
    requires_dist: Vec<String>,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    #[serde(default)]
    archive_info: ArchiveInfo,
    dir_info: Option<serde_json::Value>,
    vcs_info: Option<VcsInfo>,
    subdirectory: Option<String>,
}

#[derive(Deserialize)]
struct VcsInfo {
    vcs: String,
    commit_id: String,
}

#[derive(Deserialize, Default)]
struct ArchiveInfo {
    /// `ALGORITHM=HEX`; all that pip 22 and 23.0 say of a local file.
    hash: Option<String>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

impl ArchiveInfo {
    fn sha256(&self) -> Option<Digest> {
        let legacy = self
            .hash
            .as_ref()
            .and_then(|hash| hash.strip_prefix("sha256="));
        let hex = self.hashes.get("sha256").map(String::as_str).or(legacy)?;
        Digest::from_hex(hex).ok()
    }
}

fn packages_of_report(
    report: &[u8],
    directory: &Path,
    target: Target,
) -> Result<Vec<Package>, Error> {
    let answer = |reason: String| Error::Answer {
        resolver: "pip",
        reason,
    };
    let report: Report = serde_json::from_slice(report).map_err(|e| answer(e.to_string()))?;
    if report.version != "1" {
        let version = report.version;
        return Err(answer(format!("its report is of version `{version}`")));
    }
    let names = report.install.iter();
    let names: BTreeSet<_> = names
        .map(|item| normalize_name(&item.metadata.name))
        .collect();
    let markers = Markers::new(target);
    let items = report.install.iter();
    let package = |item: &Item| {
        Ok(Package {
            locked: item.locked(directory)?,
            dependencies: item.dependencies(&names, &markers),
        })
    };
    items.map(package).collect()
}

impl Item {
    /// Those of `installed` that it requires for itself, extras aside.
    fn dependencies(&self, installed: &BTreeSet<String>, markers: &Markers) -> BTreeSet<String> {
        let required = self.metadata.requires_dist.iter();
        required
            .filter_map(|requirement| Requirement::parse(requirement))
            .filter(|required| {
                let marker = required.marker.as_deref();
                marker.is_none_or(|marker| markers.hold(marker) == Ok(true))
            })
            .map(|required| required.name)
            .filter(|name| installed.contains(name))
            .collect()
    }

    fn locked(&self, directory: &Path) -> Result<Locked, Error> {
        let refused = || self.refused(&self.download_info.url);
        let mut url = Url::parse(&self.download_info.url).map_err(|_| refused())?;
        url.set_fragment(None);
        remove_credentials(&mut url);
        if let Some(vcs) = &self.download_info.vcs_info {
            if vcs.vcs != "git" {
                return Err(refused());
            }
            return Ok(self.source(Origin::Repository {
                url: url.to_string(),
                commit: vcs.commit_id.clone(),
                subdirectory: self.download_info.subdirectory.clone(),
            }));
        }
        let location = if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| refused())?;
            Location::Path(relative_path(&path, directory))
        } else {
            Location::Url(url)
        };
        if self.download_info.dir_info.is_some() {
            return match location {
                Location::Path(path) => Ok(self.source(Origin::Directory(path))),
                Location::Url(_) => Err(refused()),
            };
        }
        self.archive(location)
    }

    fn archive(&self, location: Location) -> Result<Locked, Error> {
        let Metadata { name, version, .. } = &self.metadata;
        let filename = location.filename().unwrap_or_default();
        let digest = self.download_info.archive_info.sha256();
        let digest = digest.ok_or_else(|| Error::Answer {
            resolver: "pip",
            reason: format!("it has no sha256 of `{filename}`"),
        })?;
        if is_wheel(&filename) {
            return Ok(Locked::Wheel(LockedWheel {
                name: normalize_name(name),
                version: version.clone(),
                filename: WheelFilename::parse(&filename)?,
                first_party: self.is_direct && location.is_local(),
                location,
                digest,
                size: None,
                built: None,
            }));
        }
        if !is_archive(&filename) {
            return Err(self.refused(&self.download_info.url));
        }
        let file = LockedFile {
            package: format!("{} {version}", normalize_name(name)),
            filename,
            location,
            digest,
            size: None,
        };
        Ok(self.source(Origin::Archive {
            file,
            subdirectory: self.download_info.subdirectory.clone(),
        }))
    }

    fn source(&self, origin: Origin) -> Locked {
        Locked::Source(LockedSource {
            name: normalize_name(&self.metadata.name),
            version: Some(self.metadata.version.clone()),
            origin,
        })
    }

    fn refused(&self, url: &str) -> Error {
        Error::NotAWheel {
            package: self.metadata.name.clone(),
            url: http::redact_text(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::lock::choose;
    use crate::python::lock::tests::plain;
    use crate::python::resolve::Resolver;
    use crate::python::resolve::tests::request;
    use crate::python::tests::target;

    fn lambda() -> Target {
        target("3.12", Machine::X86_64, "2.34")
    }

    #[test]
    fn pip_is_given_every_platform() {
        let target = target("3.9", Machine::Aarch64, "2.19");
        let mut request = request(Resolver::Pip("python".into()), target);
        insta::assert_snapshot!(arguments(&request).join(" "), @"install --dry-run --ignore-installed --only-binary=:all: --quiet --no-input --no-color --no-user --disable-pip-version-check --implementation=cp --abi=abi3 --abi=none --abi=cp39 --python-version=3.9.20 --platform=manylinux_2_19_aarch64 --platform=manylinux_2_18_aarch64 --platform=manylinux_2_17_aarch64 --platform=manylinux2014_aarch64");
        request.limits.exclude_newer = Some("2026-11-01".to_owned());
        let last = arguments(&request).pop();
        assert_eq!(last.as_deref(), Some("--uploaded-prior-to=2026-11-01"));
    }

    #[test]
    fn versions_of_a_lock_are_no_options() {
        let mut request = request(Resolver::Pip("python".into()), lambda());
        let package = |name: &str, version: &str| {
            format!("[[packages]]\nname = \"{name}\"\nversion = \"{version}\"\n")
        };
        let packages = [
            package("Six", "1.16.0"),
            package("a", r"1\n--index-url https://thief.test"),
            package(r"b\n--index-url https://thief.test#", "1"),
        ];
        let lock = "lock-version = \"1.0\"\ncreated-by = \"another\"\n".to_owned();
        request.previous = Some(lock + &packages.concat());
        assert_eq!(kept_versions(&request).unwrap(), "six==1.16.0");
    }

    #[test]
    fn what_may_be_built_stands_in_a_file() {
        let mut builds = Builds::default();
        assert_eq!(build_options(&builds), "");
        builds.names = ["a".to_owned(), "b".to_owned()].into();
        assert_eq!(build_options(&builds), "--no-binary a\n--no-binary b\n");
        builds.all = true;
        assert_eq!(build_options(&builds), "--only-binary :none:\n");
    }

    const REPORT: &str = r#"{"version": "1", "pip_version": "23.0.1", "install": [
        {"download_info": {"url": "file:///p/w/six-1.16.0-py2.py3-none-any.whl",
          "archive_info": {"hash": "sha256=8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"}},
         "is_direct": true, "requested": true, "metadata": {"name": "six", "version": "1.16.0", "extra": []}},
        {"download_info": {"url": "https://me:pw@files.test/My%5FPkg-1-py3-none-any.whl#sha256=1",
          "archive_info": {"hashes": {"sha256": "73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62"}}},
         "is_direct": false, "requested": false, "metadata": {"name": "My_Pkg", "version": "1",
          "requires_dist": ["Six>=1", "gone; python_version<'3'", "built; extra == 'x'"]}},
        {"download_info": {"url": "https://files.test/built-2.tar.gz",
          "archive_info": {"hashes": {"sha256": "73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62"}}},
         "metadata": {"name": "built", "version": "2"}},
        {"download_info": {"url": "file:///p/lib", "dir_info": {"editable": true}},
         "metadata": {"name": "lib", "version": "0"}},
        {"download_info": {"url": "ssh://git@host.test/a/b", "subdirectory": "c",
          "vcs_info": {"vcs": "git", "commit_id": "9039182986438745c680174516ec727abbe3a934"}},
         "metadata": {"name": "repo", "version": "3"}}]}"#;

    #[test]
    fn the_report_of_pip_becomes_a_lock() {
        let packages = packages_of_report(REPORT.as_bytes(), Path::new("/p"), lambda()).unwrap();
        let text = lock_text::write(&packages, lambda());
        insta::assert_snapshot!(text, @r#"
        lock-version = "1.0"
        environments = ["implementation_name == 'cpython' and sys_platform == 'linux' and platform_machine == 'x86_64'"]
        requires-python = "==3.12.*"
        created-by = "lambimg"

        [[packages]]
        name = "built"
        version = "2"
        sdist = { url = "https://files.test/built-2.tar.gz", hashes = { sha256 = "73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62" } }

        [[packages]]
        name = "lib"
        directory = { path = "lib" }

        [[packages]]
        name = "my-pkg"
        version = "1"
        dependencies = [{ name = "six" }]
        wheels = [{ url = "https://files.test/My%5FPkg-1-py3-none-any.whl", hashes = { sha256 = "73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62" } }]

        [[packages]]
        name = "repo"
        version = "3"
        vcs = { type = "git", url = "ssh://git@host.test/a/b", commit-id = "9039182986438745c680174516ec727abbe3a934", subdirectory = "c" }

        [[packages]]
        name = "six"
        version = "1.16.0"
        archive = { path = "w/six-1.16.0-py2.py3-none-any.whl", hashes = { sha256 = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254" } }
        "#);
        let lock: Pylock = text.parse().unwrap();
        let entries = lock.entries(&plain(lambda())).unwrap();
        let builds = Builds {
            all: true,
            ..Builds::default()
        };
        let chosen = choose(&entries, lambda(), &builds).unwrap();
        let sources = chosen
            .iter()
            .filter(|chosen| matches!(chosen, Locked::Source(_)));
        assert_eq!((chosen.len(), sources.count()), (5, 3));
        let six = entries.iter().find(|entry| entry.name == "six").unwrap();
        assert_eq!(six.required_by, ["my-pkg".to_owned()].into());
        let pins = lock.pins();
        // What is named by its place is no version to keep.
        assert_eq!(pins.keys().collect::<Vec<_>>(), ["built", "my-pkg"]);
    }

    #[test]
    fn reports_that_promise_no_file_are_refused() {
        let refusal = |from: &str, to: &str| {
            let report = REPORT.replace(from, to);
            let error = packages_of_report(report.as_bytes(), Path::new("/p"), lambda());
            error.unwrap_err().to_string()
        };
        let refused = [
            refusal("\"version\": \"1\", \"pip", "\"version\": \"2\", \"pip"),
            refusal("\"install\"", "\"installed\""),
            refusal("hashes", "digests"),
            refusal("My%5FPkg-1-py3-none-any.whl", "My%5FPkg-1.egg"),
            refusal("six-1.16.0-py2.py3-none-any.whl", "six.whl"),
            refusal("\"git\"", "\"hg\""),
        ];
        insta::assert_snapshot!(refused.join("\n"), @"
        the answer of pip cannot be read: its report is of version `2`
        the answer of pip cannot be read: missing field `install` at line 16 column 56
        the answer of pip cannot be read: it has no sha256 of `My_Pkg-1-py3-none-any.whl`
        `My_Pkg` is neither a wheel nor something to build one from, but https://[secret]@files.test/My%5FPkg-1.egg#sha256=1
        `six.whl` is not a wheel's file name: it has not five or six parts
        `repo` is neither a wheel nor something to build one from, but ssh://[secret]@host.test/a/b
        ");
    }
}
