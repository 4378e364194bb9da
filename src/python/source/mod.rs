//! Sources → a wheel: a source distribution, a commit or a directory is built in an isolated environment.
//!
//! To build is to run what is in the sources; whether that may be is decided before this. What comes out
//! pure fits every machine. What comes out compiled is for the machine that built it, and taken only where
//! that is like the target. A wheel is remembered by its sources, so that unchanged ones are built once.
//! This never knows what the wheel is for.

mod builder;
mod directory;

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};
use serde::{Deserialize, Serialize};

use crate::blob_store::{self, BlobStore, MemoKey};
use crate::digest::Digest;
use crate::http::{self, Client, Url};
use crate::progress::Progress;
use crate::python::credentials::Credentials;
use crate::python::fetch;
use crate::python::interpreter::{self, Interpreter};
use crate::python::lock::{Location, LockedSource, LockedWheel, Origin};
use crate::python::resolve;
use crate::python::tags::FilenameError;
use crate::python::{Misfit, Target, WheelFilename, examination, normalize_name, wheel};
use builder::Builder;
use directory::Directory;

/// Changes whenever the same sources would be built in another way.
pub const FORMAT: &str = "built wheel 2";

/// The oldest and the newest Python that a wheel for any is built under, where the target's is not here.
const OTHERS: std::ops::RangeInclusive<u8> = 9..=15;

/// What builds work with.
#[derive(Debug, Clone)]
pub struct Workshop {
    /// Where wheels are kept.
    pub store: BlobStore,
    /// For archives.
    pub client: Client,
    /// Who the user is for whoever has them.
    pub credentials: Credentials,
    /// Who is told what happens.
    pub progress: Progress,
    /// uv, if it is there and may be used.
    pub uv: Option<PathBuf>,
    /// Whether pip may be used.
    pub pip: bool,
    /// Directories to look for git and for interpreters in, first to last.
    pub directories: Vec<PathBuf>,
    /// Directories each of whose children may be an installed Python.
    pub installations: Vec<PathBuf>,
    /// Absolute paths that are no part of any sources: what this run itself writes.
    pub leave_out: Vec<PathBuf>,
    /// The date of builds, in seconds since 1970.
    pub epoch: u64,
    /// The user's flags for compilers, by the variable that has them.
    pub compiler_flags: Vec<(&'static str, String)>,
    /// Whether no program may use the network.
    pub offline: bool,
    /// Whether what was built before counts for nothing.
    pub anew: bool,
}

/// Why there is no wheel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither uv nor pip can be had.
    #[error(
        "`{package}` has to be built, and there is neither uv with a Python nor a pip: {detail}"
    )]
    NoBuilder {
        /// What is to be built.
        package: String,
        /// What is missing.
        detail: String,
    },
    /// git is not there.
    #[error("`{package}` is in a git repository, and git is not on the PATH")]
    NoGit {
        /// What is to be built.
        package: String,
    },
    /// The sources are elsewhere, and the network may not be used.
    #[error("`{package}` has to be fetched from {url}, and the network may not be used")]
    Offline {
        /// What is to be built.
        package: String,
        /// Where it is, without secrets.
        url: String,
    },
    /// A program does not run.
    #[error("cannot run `{}`", program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The commit cannot be had; git's own words follow.
    #[error("git cannot check out `{package}` from {url}:\n{said}")]
    Repository {
        /// What is to be built.
        package: String,
        /// Where it is, without secrets.
        url: String,
        /// All that git said, without secrets.
        said: String,
    },
    /// The build failed; the builder's own words follow.
    #[error("{builder} cannot build `{package}` under Python {python}:\n{said}")]
    Failed {
        /// `uv` or `pip`.
        builder: &'static str,
        /// What was to be built.
        package: String,
        /// The version of the interpreter.
        python: String,
        /// All that it said, without secrets.
        said: String,
    },
    /// Where the sources are said to be cannot be meant.
    #[error("`{package}` cannot be built from `{place}`: it {reason}")]
    Place {
        /// What is to be built.
        package: String,
        /// A commit, a subdirectory or a file's name.
        place: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The build gave no wheel, or another one.
    #[error("the build of `{package}` gave {gave}")]
    Outcome {
        /// What was to be built.
        package: String,
        /// What came out.
        gave: String,
    },
    /// The wheel is compiled, and the machine that built it is not the target.
    #[error(
        "`{package}` comes out compiled, as `{file}`: it was built under Python {python} on {machine}, \
         and the target is {target}"
    )]
    Compiled {
        /// What was built.
        package: String,
        /// The wheel.
        file: String,
        /// The version of the interpreter.
        python: String,
        /// The machine.
        machine: String,
        /// What it had to be for.
        target: Target,
    },
    /// The wheel is for something else.
    #[error("`{file}`, built from `{package}`, {misfit}, and the target is {target}")]
    Misfit {
        /// What was built.
        package: String,
        /// The wheel.
        file: String,
        /// Why it does not fit.
        misfit: Misfit,
        /// What it had to be for.
        target: Target,
    },
    /// A program or library in the wheel does not load on the target.
    #[error("`{file}`, built from `{package}`, does not run on {target}")]
    Unloadable {
        /// What was built.
        package: String,
        /// The wheel.
        file: String,
        /// What it had to be for.
        target: Target,
        /// Which file of it needs what, or how it is damaged.
        source: Box<wheel::Error>,
    },
    /// The wheel has an unreadable name.
    #[error(transparent)]
    Filename(#[from] FilenameError),
    /// Sources cannot be read or copied.
    #[error(transparent)]
    Directory(#[from] directory::Error),
    /// There is no room to build in.
    #[error("cannot lay out the sources of `{package}`")]
    Exchange {
        /// What is to be built.
        package: String,
        /// Why.
        source: io::Error,
    },
    /// The archive cannot be had.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
    /// The work was given up.
    #[error("the build was interrupted")]
    Interrupted,
}

/// What is remembered of a build.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    file: String,
    digest: Digest,
}

/// An interpreter and what drives it.
struct Maker {
    builder: Builder,
    interpreter: Interpreter,
}

impl Maker {
    /// Whether what it compiles is for the target, glibc aside.
    fn is_like(&self, target: Target) -> bool {
        let Interpreter {
            major,
            minor,
            machine,
            ..
        } = &self.interpreter;
        (*major, *minor) == (3, target.python.minor()) && machine == target.machine.as_str()
    }
}

/// The wheel of `source` for `target`, built unless it was before; paths in it are meant from `directory`.
///
/// # Errors
/// See [`Error`].
pub async fn wheel_of(
    source: &LockedSource,
    directory: &Path,
    target: Target,
    workshop: &Workshop,
) -> Result<LockedWheel, Error> {
    let package = match &source.version {
        Some(version) => format!("{} {version}", source.name),
        None => source.name.clone(),
    };
    let job = Job {
        package,
        name: Some(&source.name),
        // What lies on this machine may be newer than its lock; the others are bound to bytes.
        version: match &source.origin {
            Origin::Directory(_) => None,
            Origin::Archive { .. } | Origin::Repository { .. } => source.version.as_deref(),
        },
        origin: &source.origin,
        directory,
        target,
        workshop,
    };
    job.wheel().await
}

/// The wheel of the project in `directory`, whatever it calls itself.
///
/// # Errors
/// See [`Error`].
pub async fn wheel_of_directory(
    directory: &Path,
    target: Target,
    workshop: &Workshop,
) -> Result<LockedWheel, Error> {
    let name = directory.file_name().unwrap_or_default();
    let job = Job {
        package: name.to_string_lossy().into_owned(),
        name: None,
        version: None,
        origin: &Origin::Directory(PathBuf::new()),
        directory,
        target,
        workshop,
    };
    job.wheel().await
}

/// One wheel to be had.
struct Job<'a> {
    /// For messages.
    package: String,
    /// The normal name that it must have.
    name: Option<&'a str>,
    /// The version that it must have.
    version: Option<&'a str>,
    origin: &'a Origin,
    directory: &'a Path,
    target: Target,
    workshop: &'a Workshop,
}

impl Job<'_> {
    async fn wheel(&self) -> Result<LockedWheel, Error> {
        let store = &self.workshop.store;
        let listed = match self.origin {
            Origin::Directory(path) => Some(self.list(path).await?),
            Origin::Archive { .. } | Origin::Repository { .. } => None,
        };
        let (listed, digest) = listed.unzip();
        let key = self.key(digest);
        let remembered = store.recall::<Remembered>(&key);
        let remembered = remembered.filter(|wheel| store.size(&wheel.digest).is_some());
        if let Some(wheel) = remembered.filter(|_| !self.workshop.anew) {
            return self.locked(&wheel);
        }
        let built = self.build(listed.as_ref()).await?;
        let wheel = self.locked(&built)?;
        let still = match self.origin {
            Origin::Directory(path) => Some(self.list(path).await?.1),
            Origin::Archive { .. } | Origin::Repository { .. } => None,
        };
        // Of sources that were edited meanwhile nobody knows which ones were built.
        if still == digest {
            store.remember(&key, &built)?;
        }
        Ok(wheel)
    }

    async fn list(&self, path: &Path) -> Result<(Directory, Digest), Error> {
        let path = self.directory.join(path);
        let leave_out = self.workshop.leave_out.clone();
        let work = move || {
            let listed = Directory::list(&path, &leave_out)?;
            let digest = listed.digest()?;
            Ok((listed, digest))
        };
        aside(work).await?
    }

    /// Everything that decides the wheel but the builder itself: to learn that would be to run it.
    fn key(&self, directory: Option<Digest>) -> MemoKey {
        let target = self.target;
        let mut inputs = vec![target.to_string(), self.workshop.epoch.to_string()];
        let beside = |subdirectory: &Option<String>| subdirectory.clone().unwrap_or_default();
        inputs.extend(match self.origin {
            Origin::Archive { file, subdirectory } => {
                vec![
                    "archive".into(),
                    file.digest.to_string(),
                    beside(subdirectory),
                ]
            }
            Origin::Repository {
                url,
                commit,
                subdirectory,
            } => vec![
                "commit".into(),
                url.clone(),
                commit.clone(),
                beside(subdirectory),
            ],
            Origin::Directory(path) => vec![
                "directory".into(),
                self.title(path).to_string_lossy().into_owned(),
            ],
        });
        inputs.extend(directory.map(|digest| digest.to_string()));
        MemoKey::new(FORMAT, inputs)
    }

    fn locked(&self, wheel: &Remembered) -> Result<LockedWheel, Error> {
        let store = &self.workshop.store;
        let filename = WheelFilename::parse(&wheel.file)?;
        let other_name = self
            .name
            .is_some_and(|name| normalize_name(name) != filename.name);
        let version = self.version.map(Version::from_str);
        let other_version = version.is_some_and(|v| v.is_ok_and(|v| v != filename.version));
        if other_name || other_version {
            return Err(self.outcome(format!("`{filename}`")));
        }
        Ok(LockedWheel {
            name: filename.name.clone(),
            version: filename.version.to_string(),
            location: Location::Path(store.path(&wheel.digest)),
            digest: wheel.digest,
            size: store.size(&wheel.digest),
            first_party: matches!(self.origin, Origin::Directory(_)),
            built: None,
            filename,
        })
    }

    async fn build(&self, listed: Option<&Directory>) -> Result<Remembered, Error> {
        let room = tempfile::tempdir().map_err(|e| self.exchange(e))?;
        let (tree, out) = (room.path().join("tree"), room.path().join("out"));
        for directory in [&tree, &out] {
            fs::create_dir(directory).map_err(|e| self.exchange(e))?;
        }
        let sources = self.lay_out(&tree, listed).await?;
        let maker = self.maker(&sources).await?;
        let sources = self.project_in(sources, &tree, &maker.builder).await?;
        let python = &maker.interpreter.version;
        let name = maker.builder.name();
        let progress = &self.workshop.progress;
        if maker.interpreter.minor != self.target.python.minor() {
            progress.detail(format!(
                "{} is built under Python {python}: Python {} is not here, and of a pure wheel that is no \
                 matter",
                self.package, self.target.python
            ));
        }
        let task = progress.task(format!("build {}", self.package), None);
        let (epoch, offline) = (self.workshop.epoch, self.workshop.offline);
        let flags = &self.workshop.compiler_flags;
        let building = maker.builder.build(&sources, &out, epoch, offline, flags);
        let done = building.await;
        done.map_err(|error| self.of_builder(error, &maker))?;
        let (path, file) = self.only_wheel(&out)?;
        self.check(&path, &file, &maker)?;
        let digest = keep(&self.workshop.store, &path)?;
        task.done();
        progress.detail(format!("built {file} by {name} under Python {python}"));
        Ok(Remembered { file, digest })
    }

    /// The name of a directory of sources: old projects are called as their directory is.
    fn title(&self, path: &Path) -> OsString {
        let path = self.directory.join(path);
        let path = path.canonicalize().unwrap_or(path);
        path.file_name().unwrap_or("project".as_ref()).to_owned()
    }

    /// Brings the sources into `tree`, and gives the archive or the directory that they are.
    async fn lay_out(&self, tree: &Path, listed: Option<&Directory>) -> Result<PathBuf, Error> {
        match self.origin {
            Origin::Archive { file, .. } => {
                let name = Path::new(&file.filename).file_name();
                let name = name.ok_or_else(|| self.place(&file.filename, "is no file's name"))?;
                let workshop = self.workshop;
                let (client, store) = (&workshop.client, &workshop.store);
                let files = std::slice::from_ref(file);
                let credentials = &workshop.credentials;
                let progress = &workshop.progress;
                fetch::fetch(client, credentials, store, self.directory, files, progress).await?;
                let sources = tree.join(name);
                // A copy: a builder that wrote to it would write to the store.
                fs::copy(store.path(&file.digest), &sources).map_err(|e| self.exchange(e))?;
                Ok(sources)
            }
            Origin::Repository { url, commit, .. } => self.check_out(url, commit, tree).await,
            Origin::Directory(path) => {
                let sources = tree.join(self.title(path));
                if let Some(listed) = listed {
                    listed.copy_to(&sources)?;
                }
                Ok(sources)
            }
        }
    }

    /// The address as git is to have it: a path is meant from the lock's directory. Where a colon comes before any
    /// slash, it is none.
    fn address(&self, url: &str) -> String {
        let before = url.split(':').next().filter(|before| *before != url);
        if before.is_some_and(|before| !before.contains('/')) {
            return url.to_owned();
        }
        let path = self.directory.join(url);
        let path = path.canonicalize().unwrap_or(path);
        path.to_string_lossy().into_owned()
    }

    async fn check_out(&self, url: &str, commit: &str, tree: &Path) -> Result<PathBuf, Error> {
        // Of sha1, or of sha256.
        if !(matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(self.place(commit, "is no whole hash of a commit"));
        }
        let url = &self.address(url);
        let is_local =
            Url::parse(url).is_ok_and(|url| url.scheme() == "file") || Path::new(url).is_absolute();
        let shown = http::redact_text(url);
        if self.workshop.offline && !is_local {
            return Err(Error::Offline {
                package: self.package.clone(),
                url: shown,
            });
        }
        let directories = self.workshop.directories.iter();
        let git = directories
            .map(|directory| directory.join("git"))
            .find(|git| git.is_file());
        let git = git.ok_or_else(|| Error::NoGit {
            package: self.package.clone(),
        })?;
        let sources = tree.join("repository");
        let done = builder::check_out(&git, url, commit, &sources, self.workshop.offline).await;
        done.map_err(|error| match error {
            builder::Error::Run { program, source } => Error::Run { program, source },
            builder::Error::Write { source, .. } => self.exchange(source),
            builder::Error::Failed { said } => Error::Repository {
                package: self.package.clone(),
                url: shown,
                said,
            },
        })?;
        Ok(sources)
    }

    /// The project itself, where that is only a part of what was laid out.
    async fn project_in(
        &self,
        sources: PathBuf,
        tree: &Path,
        builder: &Builder,
    ) -> Result<PathBuf, Error> {
        let (Origin::Archive { subdirectory, .. } | Origin::Repository { subdirectory, .. }) =
            self.origin
        else {
            return Ok(sources);
        };
        let Some(subdirectory) = subdirectory.as_deref().filter(|path| !path.is_empty()) else {
            return Ok(sources);
        };
        let mut steps = Path::new(subdirectory).components();
        if !steps.all(|step| matches!(step, Component::Normal(_) | Component::CurDir)) {
            return Err(self.place(subdirectory, "leads out of the sources"));
        }
        let top = if matches!(self.origin, Origin::Archive { .. }) {
            let unpacked = tree.join("unpacked");
            fs::create_dir(&unpacked).map_err(|e| self.exchange(e))?;
            let done = builder.unpack(&sources, &unpacked).await;
            done.map_err(|_| self.place(&sources.display().to_string(), "cannot be unpacked"))?;
            only_entry(&unpacked).unwrap_or(unpacked)
        } else {
            sources
        };
        let project = top.join(subdirectory);
        if !project.is_dir() {
            return Err(self.place(subdirectory, "is no directory of the sources"));
        }
        Ok(project)
    }

    /// The interpreter of the target's version; without one, the nearest that the sources accept.
    async fn maker(&self, sources: &Path) -> Result<Maker, Error> {
        let minor = self.target.python.minor();
        let mut minors: Vec<u8> = OTHERS.filter(|other| *other != minor).collect();
        minors.sort_by_key(|other| (other.abs_diff(minor), Reverse(*other)));
        let mut detail = format!("there is no Python 3.{minor}, nor another from 3.9 on");
        let requires = requires_python(sources);
        for minor in std::iter::once(minor).chain(minors) {
            for candidate in self.candidates(minor) {
                let path = candidate.clone();
                let found = aside(move || interpreter::find(minor, &[path])).await?;
                let Ok(interpreter) = found else { continue };
                let version = Version::from_str(&interpreter.version).ok();
                let unfit = requires.as_ref().zip(version);
                if unfit.is_some_and(|(requires, version)| !requires.contains(&version)) {
                    detail = format!("it is not for Python {}", interpreter.version);
                    continue;
                }
                let builder = match &self.workshop.uv {
                    Some(uv) => Builder::Uv {
                        program: uv.clone(),
                        python: interpreter.executable.clone(),
                    },
                    None if self.workshop.pip && resolve::has_pip(&candidate).await => {
                        Builder::Pip { python: candidate }
                    }
                    None if !self.workshop.pip => {
                        "`resolver` is uv, which is not on the PATH".clone_into(&mut detail);
                        continue;
                    }
                    None => {
                        detail = format!("`{}` has no pip", candidate.display());
                        continue;
                    }
                };
                return Ok(Maker {
                    builder,
                    interpreter,
                });
            }
        }
        Err(Error::NoBuilder {
            package: self.package.clone(),
            detail,
        })
    }

    /// Files that may be Python 3.`minor`; another than the target's must be so by name.
    fn candidates(&self, minor: u8) -> Vec<PathBuf> {
        let workshop = self.workshop;
        let all = interpreter::candidates(minor, &workshop.directories, &workshop.installations);
        let exact = format!("python3.{minor}");
        let is_exact = |path: &PathBuf| path.file_name() == Some(exact.as_ref());
        let of_target = minor == self.target.python.minor();
        all.into_iter()
            .filter(|path| of_target || is_exact(path))
            .collect()
    }

    fn only_wheel(&self, out: &Path) -> Result<(PathBuf, String), Error> {
        let mut wheels: Vec<PathBuf> = fs::read_dir(out)
            .map_err(|e| self.exchange(e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension() == Some("whl".as_ref()))
            .collect();
        match (wheels.pop(), wheels.len()) {
            (Some(path), 0) => {
                let name = path.file_name().unwrap_or_default();
                let name = name.to_string_lossy().into_owned();
                Ok((path, name))
            }
            (None, _) => Err(self.outcome("no wheel".to_owned())),
            (Some(_), more) => Err(self.outcome(format!("{} wheels", more + 1))),
        }
    }

    /// Whether the wheel that came out may be taken.
    fn check(&self, path: &Path, file: &str, maker: &Maker) -> Result<(), Error> {
        let target = self.target;
        let package = self.package.clone();
        let file = file.to_owned();
        let wheel = WheelFilename::parse(&file)?;
        let is_pure = wheel.platform.iter().any(|platform| platform == "any");
        if !is_pure && !maker.is_like(target) {
            return Err(Error::Compiled {
                package,
                file,
                python: maker.interpreter.version.clone(),
                machine: maker.interpreter.machine.clone(),
                target,
            });
        }
        if let Err(misfit) = target.fit(&as_for_the_target(wheel.clone(), target)) {
            return Err(Error::Misfit {
                package,
                file,
                misfit,
                target,
            });
        }
        // Whatever its tag says: what it was linked with is the machine's at hand.
        let scratch = path.parent().unwrap_or(Path::new("."));
        let checked = examination::check(path, &wheel, scratch, target);
        checked.map(drop).map_err(|source| Error::Unloadable {
            package,
            file,
            target,
            source: Box::new(source),
        })
    }

    fn of_builder(&self, error: builder::Error, maker: &Maker) -> Error {
        match error {
            builder::Error::Run { program, source } => Error::Run { program, source },
            builder::Error::Write { source, .. } => self.exchange(source),
            builder::Error::Failed { said } => Error::Failed {
                builder: maker.builder.name(),
                package: self.package.clone(),
                python: maker.interpreter.version.clone(),
                said,
            },
        }
    }

    fn outcome(&self, gave: String) -> Error {
        let package = self.package.clone();
        Error::Outcome { package, gave }
    }

    fn exchange(&self, source: io::Error) -> Error {
        let package = self.package.clone();
        Error::Exchange { package, source }
    }

    fn place(&self, place: &str, reason: &'static str) -> Error {
        Error::Place {
            package: self.package.clone(),
            place: place.to_owned(),
            reason,
        }
    }
}

/// `linux_*` names no C library, which is why an index has no such wheels; of one that was built here all that
/// it needs is in it to be read, so its name is taken to say nothing.
fn as_for_the_target(mut wheel: WheelFilename, target: Target) -> WheelFilename {
    let built_here = format!("linux_{}", target.machine);
    if wheel.platform == [built_here] {
        wheel.platform = target.platforms();
    }
    wheel
}

/// What a directory's `pyproject.toml` requires of Python.
fn requires_python(sources: &Path) -> Option<VersionSpecifiers> {
    let text = fs::read_to_string(sources.join("pyproject.toml")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let requires = table.get("project")?.get("requires-python")?.as_str()?;
    VersionSpecifiers::from_str(requires).ok()
}

/// The one directory that an archive of sources mostly holds.
fn only_entry(directory: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?;
    let only = entries.next()?.ok()?.path();
    (entries.next().is_none() && only.is_dir()).then_some(only)
}

fn keep(store: &BlobStore, path: &Path) -> Result<Digest, Error> {
    let failed = |source| blob_store::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut writer = store.writer()?;
    let mut file = fs::File::open(path).map_err(failed)?;
    io::copy(&mut file, &mut writer).map_err(failed)?;
    Ok(writer.commit()?.0)
}

/// Runs what reads files or waits for programs on a thread of its own.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Interrupted)
}
