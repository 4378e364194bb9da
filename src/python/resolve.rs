//! Requirements → a new lock, by uv or by pip, for a target and not for the machine at hand.
//!
//! The resolver is asked for wheels alone and installs nothing. uv evaluates markers for the target; pip
//! evaluates them for the interpreter that it runs under, so that must be of the target's version and
//! machine, which the caller sees to. What a resolver says of a failure is kept whole, secrets aside.
//! Where resolvers and interpreters are found is not known here.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::{Output, Stdio};

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::digest::Digest;
use crate::http::{self, Url};
use crate::progress::Progress;
use crate::python::lock::{Location, LockedWheel};
use crate::python::lock_text::{self, MadeFrom};
use crate::python::requirements::{self, Requirements};
use crate::python::tags::FilenameError;
use crate::python::{Target, WheelFilename, normalize_name};

/// The glibc levels that uv 0.13 offers as platforms, as the number after `2.`.
const UV_LEVELS: [u16; 12] = [17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];

/// Runs pip as `-m pip` does, but without the working directory among the places of modules: a
/// project's own `logging.py` is none of pip's business. The option for it, `-P`, came with Python 3.11.
const RUN_PIP: &str = "import sys; sys.path[:] = [p for p in sys.path if p]; import runpy; \
                       runpy.run_module('pip', run_name='__main__', alter_sys=True)";

/// Who resolves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolver {
    /// The program uv, by its absolute path.
    Uv(PathBuf),
    /// An interpreter of the target's version and machine that has pip 22.2 or later, by its absolute path.
    Pip(PathBuf),
}

impl Resolver {
    fn name(&self) -> &'static str {
        match self {
            Self::Uv(_) => "uv",
            Self::Pip(_) => "pip",
        }
    }

    fn program(&self) -> &Path {
        match self {
            Self::Uv(program) | Self::Pip(program) => program,
        }
    }
}

/// What is to be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who resolves.
    pub resolver: Resolver,
    /// What is asked for.
    pub requirements: Requirements,
    /// For which machine.
    pub target: Target,
    /// Whether the network may not be used. pip then takes `--find-links` alone, for it reads no index
    /// from its cache.
    pub offline: bool,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A requirements file cannot be read.
    #[error(transparent)]
    Requirements(#[from] requirements::Error),
    /// The resolver does not run.
    #[error("cannot run `{}`", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files cannot be passed to the resolver or taken from it.
    #[error("cannot exchange files with {resolver}")]
    Exchange {
        /// The resolver's name.
        resolver: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The resolver found no answer; its own words follow.
    #[error("{resolver} cannot resolve `{requirements}` for {target}:\n{}", stderr.trim_end())]
    Unresolved {
        /// The resolver's name.
        resolver: &'static str,
        /// The requirements file, or the lines.
        requirements: String,
        /// For which machine.
        target: Target,
        /// All that the resolver said, without user names and passwords in URLs.
        stderr: String,
    },
    /// The resolver's answer is not of the form that it should have.
    #[error("the answer of {resolver} cannot be read: {reason}")]
    Answer {
        /// The resolver's name.
        resolver: &'static str,
        /// Why.
        reason: String,
    },
    /// The answer has something that is not a wheel.
    #[error("`{package}` is not a wheel but {url}")]
    NotAWheel {
        /// The package.
        package: String,
        /// Where it is, without credentials.
        url: String,
    },
    /// The answer has a wheel of an unreadable name.
    #[error(transparent)]
    Filename(#[from] FilenameError),
}

/// Whether an interpreter has pip, by importing it.
pub async fn has_pip(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", "import pip"]).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// Resolves, and gives the text of the lock with the record of what it was made from. The lock has to lie
/// in [`Requirements::directory`], from where its relative paths start.
///
/// # Errors
/// See [`Error`].
pub async fn resolve(request: &Request, progress: &Progress) -> Result<String, Error> {
    let inputs = requirements::read(&request.requirements, request.target)?;
    let directory = request.requirements.directory();
    let directory = directory
        .canonicalize()
        .map_err(|source| requirements::Error {
            path: directory.to_owned(),
            source,
        })?;
    let text = match &request.resolver {
        Resolver::Uv(_) => by_uv(request, &directory, progress).await?,
        Resolver::Pip(_) => by_pip(request, &directory).await?,
    };
    let made_from = MadeFrom::new(inputs.checksum, request.target);
    Ok(lock_text::with_made_from(&text, &made_from))
}

async fn by_uv(request: &Request, directory: &Path, progress: &Progress) -> Result<String, Error> {
    let (source, lines) = match &request.requirements {
        Requirements::File(path) => (path.file_name().unwrap_or_default().to_owned(), ""),
        Requirements::Lines { text, .. } => ("-".into(), text.as_str()),
    };
    let mut command = Command::new(request.resolver.program());
    command.args(uv_arguments(request, source));
    let output = run(request, command, directory, lines).await?;
    for warning in uv_warnings(&String::from_utf8_lossy(&output.stderr)) {
        progress.warn(warning);
    }
    let text = String::from_utf8(output.stdout).map_err(|_| Error::Answer {
        resolver: "uv",
        reason: "it is not UTF-8".to_owned(),
    })?;
    Ok(with_shareable_urls(&text, directory))
}

fn uv_arguments(request: &Request, source: OsString) -> Vec<OsString> {
    let target = request.target;
    let levels = UV_LEVELS.iter().rev();
    let level = levels.copied().find(|level| *level <= target.glibc.minor);
    // Below uv's lowest level its answer may have wheels that do not fit; choosing them finds that out.
    let level = level.unwrap_or(UV_LEVELS[0]);
    let mut arguments: Vec<OsString> = ["pip", "compile"].map(OsString::from).into();
    arguments.push(source);
    let platform = format!("{}-manylinux_2_{level}", target.machine);
    let options = [
        ["--format", "pylock.toml"],
        ["--python-platform", &platform],
        ["--python-version", &target.full_version().to_string()],
        ["--only-binary", ":all:"],
        ["--color", "never"],
    ];
    arguments.extend(options.iter().flatten().map(OsString::from));
    // A header would hold paths of this machine.
    let switches = ["--no-header", "--no-progress", "--no-python-downloads"];
    arguments.extend(switches.map(OsString::from));
    arguments.extend(request.offline.then(|| "--offline".into()));
    arguments
}

/// The warnings among what uv said. Which Python would build is of no interest where nothing is built.
fn uv_warnings(stderr: &str) -> Vec<String> {
    let warnings = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("warning: "));
    warnings
        .filter(|warning| !warning.contains("will be used to build dependencies"))
        .map(|warning| format!("uv: {}", http::redact_text(warning)))
        .collect()
}

/// Puts relative paths where a text of uv has `file:` URLs, for a lock is the same on every machine, and
/// takes out user names and passwords, which uv leaves in a requirement's own URL.
fn with_shareable_urls(text: &str, directory: &Path) -> String {
    const KEY: &str = "url = \"";
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(KEY) {
        let (before, tail) = rest.split_at(at);
        let value = &tail[KEY.len()..];
        let Some(end) = value.find('"') else {
            break;
        };
        result.push_str(before);
        result.push_str(&shareable(&value[..end], directory).unwrap_or_else(|| {
            // What is fit to be seen stays as uv wrote it.
            tail[..=KEY.len() + end].to_owned()
        }));
        rest = &value[end + 1..];
    }
    result.push_str(rest);
    result
}

/// The key and value to write in place of a URL that is not fit to be shared.
fn shareable(url: &str, directory: &Path) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    let quoted = |text: &str| toml::Value::from(text).to_string();
    match url.scheme() {
        "file" => {
            let path = relative_path(&url.to_file_path().ok()?, directory);
            Some(format!("path = {}", quoted(&path.to_string_lossy())))
        }
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            remove_credentials(&mut url);
            Some(format!("url = {}", quoted(url.as_str())))
        }
        _ => None,
    }
}

/// A lock is for everyone to read.
fn remove_credentials(url: &mut Url) {
    // Both fail for URLs that can have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// The way from `directory` to `path`, both absolute.
fn relative_path(path: &Path, directory: &Path) -> PathBuf {
    let (mut to, mut from) = (
        path.components().peekable(),
        directory.components().peekable(),
    );
    while to.peek().is_some() && to.peek() == from.peek() {
        to.next();
        from.next();
    }
    from.map(|_| Component::ParentDir).chain(to).collect()
}

async fn by_pip(request: &Request, directory: &Path) -> Result<String, Error> {
    let exchange = |source| Error::Exchange {
        resolver: "pip",
        source,
    };
    let temporary = tempfile::tempdir().map_err(exchange)?;
    let lines = temporary.path().join("requirements.txt");
    let source = match &request.requirements {
        Requirements::File(path) => path.file_name().unwrap_or_default().to_owned(),
        Requirements::Lines { text, .. } => {
            tokio::fs::write(&lines, text).await.map_err(exchange)?;
            lines.into()
        }
    };
    let report = temporary.path().join("report.json");
    let mut command = Command::new(request.resolver.program());
    command.arg("-c").arg(RUN_PIP);
    command.args(pip_arguments(request));
    // Rules for installing: nothing is installed here.
    command.env("PIP_REQUIRE_VIRTUALENV", "0");
    for variable in ["PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT"] {
        command.env_remove(variable);
    }
    command.arg("--requirement").arg(source);
    command.arg("--report").arg(&report);
    // Nothing is installed, but before pip 23.1 tags of another platform were tied to a target directory.
    command.arg("--target").arg(temporary.path().join("none"));
    run(request, command, directory, "").await?;
    let report = tokio::fs::read(&report).await.map_err(exchange)?;
    let wheels = wheels_of_report(&report, directory)?;
    Ok(lock_text::write(&wheels, request.target))
}

fn pip_arguments(request: &Request) -> Vec<String> {
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
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    #[serde(default)]
    archive_info: ArchiveInfo,
}

#[derive(Deserialize, Default)]
struct ArchiveInfo {
    /// `ALGORITHM=HEX`; all that pip 22 and 23.0 say of a local file.
    hash: Option<String>,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
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

fn wheels_of_report(report: &[u8], directory: &Path) -> Result<Vec<LockedWheel>, Error> {
    let answer = |reason: String| Error::Answer {
        resolver: "pip",
        reason,
    };
    let report: Report = serde_json::from_slice(report).map_err(|e| answer(e.to_string()))?;
    if report.version != "1" {
        let version = report.version;
        return Err(answer(format!("its report is of version `{version}`")));
    }
    let items = report.install.into_iter();
    items.map(|item| item.wheel(directory)).collect()
}

impl Item {
    fn wheel(self, directory: &Path) -> Result<LockedWheel, Error> {
        let package = self.metadata.name;
        let not_a_wheel = |url: &str| Error::NotAWheel {
            package: package.clone(),
            url: http::redact_text(url),
        };
        let mut url = Url::parse(&self.download_info.url)
            .map_err(|_| not_a_wheel(&self.download_info.url))?;
        let location = if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| not_a_wheel(url.as_str()))?;
            Location::Path(relative_path(&path, directory))
        } else {
            url.set_fragment(None);
            remove_credentials(&mut url);
            Location::Url(url.clone())
        };
        let filename = location.filename().unwrap_or_default();
        if Path::new(&filename).extension() != Some("whl".as_ref()) {
            return Err(not_a_wheel(url.as_str()));
        }
        let digest = self.download_info.archive_info.sha256();
        let digest = digest.ok_or_else(|| Error::Answer {
            resolver: "pip",
            reason: format!("it has no sha256 of `{filename}`"),
        })?;
        Ok(LockedWheel {
            name: normalize_name(&package),
            version: self.metadata.version,
            filename: WheelFilename::parse(&filename)?,
            location,
            digest,
            size: None,
        })
    }
}

/// Runs the resolver in `directory` with `input` to read, and gives what it wrote if it was content.
async fn run(
    request: &Request,
    mut command: Command,
    directory: &Path,
    input: &str,
) -> Result<Output, Error> {
    let error = |source| Error::Run {
        program: request.resolver.program().to_owned(),
        source,
    };
    command
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(error)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read to the end says so by failing.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(error)?;
    if output.status.success() {
        return Ok(output);
    }
    let mut stderr = http::redact_text(&String::from_utf8_lossy(&output.stderr));
    if stderr.trim().is_empty() {
        stderr = output.status.to_string();
    }
    Err(Error::Unresolved {
        resolver: request.resolver.name(),
        requirements: http::redact_text(&request.requirements.to_string()),
        target: request.target,
        stderr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::lock::pylock::Pylock;
    use crate::python::lock::tests::{plain, wheels_of};
    use crate::python::lock::{Builds, choose};
    use crate::python::tests::target;
    use proptest::prelude::*;

    fn request(resolver: Resolver, target: Target) -> Request {
        Request {
            resolver,
            requirements: Requirements::Lines {
                text: "six".to_owned(),
                directory: "/".into(),
            },
            target,
            offline: false,
        }
    }

    #[test]
    fn uv_is_asked_for_the_highest_level_that_fits() {
        let platform = |glibc: &str| {
            let target = target("3.9", Machine::Aarch64, glibc);
            let request = request(Resolver::Uv("uv".into()), target);
            let arguments = uv_arguments(&request, "-".into());
            let at = arguments
                .iter()
                .position(|a| a == "--python-platform")
                .unwrap();
            arguments[at + 1].to_string_lossy().into_owned()
        };
        for (glibc, level) in [
            ("2.26", 17),
            ("2.28", 28),
            ("2.30", 28),
            ("2.34", 34),
            ("2.99", 40),
            ("2.12", 17),
        ] {
            assert_eq!(platform(glibc), format!("aarch64-manylinux_2_{level}"));
        }
        let mut offline = request(
            Resolver::Uv("uv".into()),
            target("3.12", Machine::X86_64, "2.34"),
        );
        offline.offline = true;
        let arguments = uv_arguments(&offline, "requirements.txt".into());
        let arguments: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
        insta::assert_snapshot!(arguments.join(" "), @"pip compile requirements.txt --format pylock.toml --python-platform x86_64-manylinux_2_34 --python-version 3.12.7 --only-binary :all: --color never --no-header --no-progress --no-python-downloads --offline");
    }

    #[test]
    fn pip_is_given_every_platform() {
        let target = target("3.9", Machine::Aarch64, "2.19");
        let arguments = pip_arguments(&request(Resolver::Pip("python".into()), target));
        insta::assert_snapshot!(arguments.join(" "), @"install --dry-run --ignore-installed --only-binary=:all: --quiet --no-input --no-color --no-user --disable-pip-version-check --implementation=cp --abi=abi3 --abi=none --abi=cp39 --python-version=3.9.20 --platform=manylinux_2_19_aarch64 --platform=manylinux_2_18_aarch64 --platform=manylinux_2_17_aarch64 --platform=manylinux2014_aarch64");
    }

    #[test]
    fn only_warnings_about_packages_are_told() {
        let stderr = "warning: The requested Python version 3.12 is not available; 3.11.7 will be used to build dependencies instead.\n\
                      Resolved 2 packages in 3ms\nwarning: `a==1` is yanked (see https://me:pw@index.test/a)\n";
        assert_eq!(
            uv_warnings(stderr),
            ["uv: `a==1` is yanked (see https://[secret]@index.test/a)"]
        );
    }

    #[test]
    fn addresses_are_fit_to_be_shared() {
        let text = r#"wheels = [{ url = "file:///p/deps/w%20x/six-1-py3-none-any.whl", hashes = {} }, { url = "https://a/file:///b" }]
archive = { url = "file:///q/b.whl" }
secret = { url = "https://me:pw@host/c.whl" }
vcs = { url = "ssh://git@host/c" }
odd = { url = "file://"#;
        insta::assert_snapshot!(with_shareable_urls(text, Path::new("/p/deps")), @r#"
        wheels = [{ path = "w x/six-1-py3-none-any.whl", hashes = {} }, { url = "https://a/file:///b" }]
        archive = { path = "../../q/b.whl" }
        secret = { url = "https://host/c.whl" }
        vcs = { url = "ssh://git@host/c" }
        odd = { url = "file://
        "#);
    }

    const REPORT: &str = r#"{"version": "1", "pip_version": "23.0.1", "install": [
        {"download_info": {"url": "file:///p/w/six-1.16.0-py2.py3-none-any.whl",
          "archive_info": {"hash": "sha256=8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"}},
         "is_direct": true, "requested": true, "metadata": {"name": "six", "version": "1.16.0", "extra": []}},
        {"download_info": {"url": "https://me:pw@files.test/My%5FPkg-1-py3-none-any.whl#sha256=1",
          "archive_info": {"hashes": {"sha256": "73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62"}}},
         "is_direct": false, "requested": false, "metadata": {"name": "My_Pkg", "version": "1"}}]}"#;

    #[test]
    fn the_report_of_pip_becomes_a_lock() {
        let target = target("3.12", Machine::X86_64, "2.34");
        let wheels = wheels_of_report(REPORT.as_bytes(), Path::new("/p")).unwrap();
        let text = lock_text::write(&wheels, target);
        insta::assert_snapshot!(text, @r#"
        lock-version = "1.0"
        environments = ["implementation_name == 'cpython' and sys_platform == 'linux' and platform_machine == 'x86_64'"]
        requires-python = "==3.12.*"
        created-by = "lambimg"

        [[packages]]
        name = "my-pkg"
        version = "1"
        wheels = [{ url = "https://files.test/My%5FPkg-1-py3-none-any.whl", hashes = { sha256 = "73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62" } }]

        [[packages]]
        name = "six"
        version = "1.16.0"
        wheels = [{ path = "w/six-1.16.0-py2.py3-none-any.whl", hashes = { sha256 = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254" } }]
        "#);
        let lock: Pylock = text.parse().unwrap();
        let entries = lock.entries(&plain(target)).unwrap();
        let chosen = choose(&entries, target, &Builds::default()).unwrap();
        assert_eq!(wheels_of(chosen).len(), 2);
    }

    #[test]
    fn reports_that_promise_no_wheel_are_refused() {
        let refusal = |from: &str, to: &str| {
            let report = REPORT.replace(from, to);
            let error = wheels_of_report(report.as_bytes(), Path::new("/p")).unwrap_err();
            error.to_string()
        };
        let refused = [
            refusal("\"version\": \"1\", \"pip", "\"version\": \"2\", \"pip"),
            refusal("\"install\"", "\"installed\""),
            refusal("hashes", "digests"),
            refusal("My%5FPkg-1-py3-none-any.whl", "My%5FPkg-1.tar.gz"),
            refusal("six-1.16.0-py2.py3-none-any.whl", "six.whl"),
        ];
        insta::assert_snapshot!(refused.join("\n"), @"
        the answer of pip cannot be read: its report is of version `2`
        the answer of pip cannot be read: missing field `install` at line 7 column 98
        the answer of pip cannot be read: it has no sha256 of `My_Pkg-1-py3-none-any.whl`
        `My_Pkg` is not a wheel but https://files.test/My%5FPkg-1.tar.gz
        `six.whl` is not a wheel's file name: it has not five or six parts
        ");
    }

    #[test]
    fn secrets_are_not_repeated() {
        for (text, safe) in [
            (
                "at https://me:p@ss@host/a?b@c, no",
                "at https://[secret]@host/a?b@c, no",
            ),
            (
                "`https://token@h` git+ssh://git@g.test/x",
                "`https://[secret]@h` git+ssh://[secret]@g.test/x",
            ),
            ("https://host/a@b mail@host", "https://host/a@b mail@host"),
        ] {
            assert_eq!(http::redact_text(text), safe);
        }
    }

    #[tokio::test]
    async fn failures_tell_who_and_why() {
        let lambda = target("3.12", Machine::X86_64, "2.34");
        let failed = request(Resolver::Uv("/bin/false".into()), lambda);
        let error = resolve(&failed, &Progress::default()).await.unwrap_err();
        insta::assert_snapshot!(error, @"
        uv cannot resolve `six` for python 3.12, x86_64, glibc 2.34:
        exit status: 1
        ");
        let missing = request(Resolver::Pip("/nowhere/python".into()), lambda);
        let error = resolve(&missing, &Progress::default()).await.unwrap_err();
        insta::assert_snapshot!(error, @"cannot run `/nowhere/python`");
    }

    proptest! {
        #[test]
        fn any_text_is_rewritten(text in "(url = \"|file://|[a-z/%\"@: é]){0,12}") {
            let _ = with_shareable_urls(&text, Path::new("/p/deps"));
            let _ = http::redact_text(&text);
        }
    }
}
