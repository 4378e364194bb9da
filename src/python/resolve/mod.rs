//! Requirements → a new lock, by uv or by pip, for a target and not for the machine at hand.
//!
//! The resolver is asked for wheels, but for the packages that may be built, and installs nothing. uv
//! evaluates markers for the target; pip evaluates them for the interpreter that it runs under, so that
//! must be of the target's version and machine, which the caller sees to. What a resolver says of a
//! failure is kept whole, secrets aside. Where resolvers and interpreters are found is not known here.

mod pip;
mod uv;

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::http::{self, Secret, Url};
use crate::progress::Progress;
use crate::python::Target;
use crate::python::lock::{self, Builds, hashed};
use crate::python::lock_text::{self, Limits, MadeFrom};
use crate::python::requirements::{self, Requirements};
use crate::python::tags::FilenameError;

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
    /// What else an answer has to keep to.
    pub limits: Limits,
    /// The text of the lock that this one takes the place of: its versions are kept where they can be.
    pub previous: Option<String>,
    /// Normal names of packages whose versions are not kept.
    pub upgrades: BTreeSet<String>,
    /// Variables that tell uv what only pip was told of indexes.
    pub for_uv: Vec<(&'static str, Secret)>,
    /// Whether the network may not be used. pip then takes `--find-links` alone, for it reads no index
    /// from its cache.
    pub offline: bool,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is asked for is not known.
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
    /// pip knows no dates.
    #[error("`{}` has a pip that cannot leave out what is newer than a date: that came with pip 26.0", .0.display())]
    OldPip(PathBuf),
    /// The resolver's answer is not of the form that it should have.
    #[error("the answer of {resolver} cannot be read: {reason}")]
    Answer {
        /// The resolver's name.
        resolver: &'static str,
        /// Why.
        reason: String,
    },
    /// The answer has something that a lock cannot hold.
    #[error("`{package}` is neither a wheel nor something to build one from, but {url}")]
    NotAWheel {
        /// The package.
        package: String,
        /// Where it is, without credentials.
        url: String,
    },
    /// The answer has a wheel of an unreadable name.
    #[error(transparent)]
    Filename(#[from] FilenameError),
    /// The answer is no lock.
    #[error("the answer of the resolver cannot be used")]
    Lock(#[from] lock::Error),
}

/// Whether an interpreter has pip, by importing it.
pub async fn has_pip(python: &Path) -> bool {
    let status = import_of_pip(python).status().await;
    status.is_ok_and(|status| status.success())
}

/// The working directory is no place of modules: what is called `pip` there would be run.
fn import_of_pip(python: &Path) -> Command {
    const IMPORT: &str = "import sys; sys.path[:] = [p for p in sys.path if p]; import pip";
    let mut command = Command::new(python);
    command.args(["-c", IMPORT]).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
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
        .map_err(|source| requirements::Error::Read {
            path: directory.to_owned(),
            source,
        })?;
    let mut request = request.clone();
    // uv puts a variable before what requirements name, and pip after it.
    if hashed::names_index(&inputs.lines) {
        request.for_uv.clear();
    }
    let answer = answer(&request, &directory, &inputs.directories).await?;
    for warning in answer.warnings {
        progress.warn(warning);
    }
    let made_from = MadeFrom::new(inputs.checksum, request.target, &request.limits);
    Ok(lock_text::with_made_from(&answer.text, &made_from))
}

/// What a resolver answered.
struct Answer {
    /// The text of a lock.
    text: String,
    /// What the user should hear.
    warnings: Vec<String>,
}

/// Asks, and allows to be built what may be built and has no wheel.
///
/// To both resolvers a package is either taken as a wheel or built, so those with a wheel that fits have to be
/// found out: of the packages that may be built each is left out that can be.
async fn answer(
    request: &Request,
    directory: &Path,
    own: &BTreeSet<String>,
) -> Result<Answer, Error> {
    let allowed = &request.limits.builds;
    if allowed.all {
        return ask(request, directory, allowed).await;
    }
    // Directories are the user's own code.
    let mut builds = Builds {
        all: false,
        names: own.clone(),
    };
    match ask(request, directory, &builds).await {
        Err(Error::Unresolved { .. }) if !allowed.names.is_empty() => {}
        other => return other,
    }
    builds.names.extend(allowed.names.iter().cloned());
    let mut answer = ask(request, directory, &builds).await?;
    for name in allowed.names.iter().filter(|_| allowed.names.len() > 1) {
        builds.names.remove(name);
        match ask(request, directory, &builds).await {
            Ok(without) => answer = without,
            Err(_) => drop(builds.names.insert(name.clone())),
        }
    }
    Ok(answer)
}

async fn ask(request: &Request, directory: &Path, builds: &Builds) -> Result<Answer, Error> {
    match &request.resolver {
        Resolver::Uv(_) => uv::ask(request, directory, builds).await,
        Resolver::Pip(_) => pip::ask(request, directory, builds).await,
    }
}

/// A lock is for everyone to read.
fn remove_credentials(url: &mut Url) {
    // Both fail for URLs that can have neither.
    let _ = url.set_password(None);
    // Of `ssh://git@host` the user is part of the address.
    if matches!(url.scheme(), "http" | "https") {
        let _ = url.set_username("");
    }
}

/// The way from `directory` to `path`, both absolute.
pub(crate) fn relative_path(path: &Path, directory: &Path) -> PathBuf {
    let path = without_dots(path);
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

/// The path with each `..` taken back.
fn without_dots(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            whole.pop();
        } else {
            whole.push(component);
        }
    }
    whole
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
pub(super) mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::tests::target;

    pub(super) fn request(resolver: Resolver, target: Target) -> Request {
        Request {
            for_uv: Vec::new(),
            resolver,
            requirements: Requirements::Lines {
                text: "six".to_owned(),
                directory: "/".into(),
            },
            target,
            limits: Limits::default(),
            previous: None,
            upgrades: BTreeSet::new(),
            offline: false,
        }
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
    async fn a_module_of_the_project_is_not_taken_for_pip() {
        let directory = tempfile::tempdir().unwrap();
        let module = "open('ran', 'w').close()\n";
        std::fs::write(directory.path().join("pip.py"), module).unwrap();
        let mut command = import_of_pip("python3".as_ref());
        command
            .current_dir(directory.path())
            .status()
            .await
            .unwrap();
        assert!(!directory.path().join("ran").exists());
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
}
