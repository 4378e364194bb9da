//! What a function needs, as locked packages: the lock that the project has, or the one made for it.
//!
//! Another tool's lock is read as it is. Requirements that bind every file by its hash are a lock
//! themselves. All else is resolved for the target, and the answer is kept beside it and made again only
//! when what it was made from changes. What requirements say for themselves holds whoever made the lock.
//! Nothing is fetched here, and what a package is for is not known.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::blob_store::{self, MemoKey};
use crate::build::{Error, Tools};
use crate::plan::{self, Needs, Plan, ResolverChoice};
use crate::python::credentials::Credentials;
use crate::python::index::Indexes;
use crate::python::lock::pylock::Pylock;
use crate::python::lock::{
    self, Entry, Format, Location, Locked, LockedSource, Origin, Wanted, hashed,
};
use crate::python::lock_text::{Difference, Limits};
use crate::python::requirements::{self, Inputs, Requirements};
use crate::python::resolve::{self, Resolver, relative_path};
use crate::python::{Target, interpreter};

/// What a lock says is needed.
pub(super) struct Needed {
    /// The packages.
    pub(super) entries: Vec<Entry>,
    /// The lock, or the requirements that are one.
    pub(super) lock: PathBuf,
    /// The directory that relative paths among them start from: the lock's.
    pub(super) directory: PathBuf,
    /// Where files are looked up whose lock does not say where they are.
    pub(super) indexes: Indexes,
    /// Who the user is there.
    pub(super) credentials: Credentials,
    /// What holds beside the lock.
    pub(super) bound: Option<Bound>,
}

/// What requirements say for themselves, whoever made their lock.
pub(super) struct Bound {
    inputs: Inputs,
    requirements: String,
    lock: PathBuf,
}

/// What the function needs, by the lock that the project has or that is made for it; nothing where it needs
/// nothing.
pub(super) async fn needed(
    plan: &Arc<Plan>,
    target: Target,
    tools: &Tools,
) -> Result<Option<Needed>, Error> {
    let Some(file) = plan.needs.file() else {
        return Ok(None);
    };
    tools
        .progress
        .step(format!("dependencies from {}", file.display()));
    let own = Needed {
        entries: Vec::new(),
        lock: file.to_owned(),
        directory: directory_of(file),
        indexes: tools.indexes.clone(),
        credentials: tools.credentials.clone(),
        bound: None,
    };
    if let Needs::Lock { format, .. } = plan.needs {
        let entries = locked_entries(plan, target, file, format)?;
        return Ok(Some(Needed { entries, ..own }));
    }
    let Some((requirements, path)) = requirements(plan) else {
        return Ok(None);
    };
    let inputs = requirements::read(&requirements, target)?;
    let credentials = tools.credentials.with_texts(&inputs.urls);
    let question = Question::of(plan, target, &requirements);
    let kept = question.kept(path, &inputs)?;
    if !matches!(kept, Kept::Foreign(_))
        && let Some(entries) = hashed::entries(&requirements, target)?
    {
        let directory = requirements.directory().to_owned();
        let indexes = hashed::indexes(&inputs.lines, &directory, &tools.indexes);
        return Ok(Some(Needed {
            entries,
            lock: file.to_owned(),
            directory,
            indexes,
            credentials,
            bound: None,
        }));
    }
    let bound = Bound {
        inputs,
        requirements: requirements.to_string(),
        lock: path.to_owned(),
    };
    // What others of the run resolve meanwhile stands then.
    let turn = tools.once.turn(&format!("lock {}", path.display())).await;
    let kept = match turn {
        Some(_) => question.kept(path, &bound.inputs)?,
        None => kept,
    };
    let lock = question.lock(plan, kept, &bound, tools).await?;
    drop(turn);
    let entries = in_file(path, entries_of(&lock, plan, target))?;
    // What a resolver was asked for it answered, or left out as the user's settings say.
    if lock.made_from().is_none() {
        bound.check_names(&entries)?;
    }
    Ok(Some(Needed {
        entries,
        lock: path.to_owned(),
        directory: directory_of(path),
        credentials,
        bound: Some(bound),
        ..own
    }))
}

/// What is known of a function's needs before anything is resolved.
pub(super) enum Known {
    /// It has none.
    Nothing,
    /// There is no lock that stands, and why.
    NoLock(String),
    /// What the lock says.
    Entries(Vec<Entry>),
}

/// What the lock says that the project has, if it stands.
pub(super) fn known(plan: &Plan, target: Target) -> Result<Known, Error> {
    if let Needs::Lock { file, format } = &plan.needs {
        return Ok(Known::Entries(locked_entries(plan, target, file, *format)?));
    }
    let Some((requirements, path)) = requirements(plan) else {
        return Ok(Known::Nothing);
    };
    let inputs = requirements::read(&requirements, target)?;
    let kept = Question::of(plan, target, &requirements).kept(path, &inputs)?;
    if !matches!(kept, Kept::Foreign(_))
        && let Some(entries) = hashed::entries(&requirements, target)?
    {
        return Ok(Known::Entries(entries));
    }
    Ok(match kept {
        Kept::Absent => Known::NoLock(format!("`{}` is not there", path.display())),
        Kept::Stale(_, difference) => Known::NoLock(format!("`{}` {difference}", path.display())),
        Kept::Standing(text) | Kept::Foreign(text) => {
            let lock: Pylock = in_file(path, text.parse())?;
            Known::Entries(in_file(path, entries_of(&lock, plan, target))?)
        }
    })
}

/// What would have to be resolved, and where its lock is kept; nothing for what is locked by another tool.
fn requirements(plan: &Plan) -> Option<(Requirements, &Path)> {
    match &plan.needs {
        Needs::Nothing | Needs::Lock { .. } => None,
        Needs::Requirements { file, lock } => Some((Requirements::File(file.clone()), lock)),
        Needs::Project { file, lock } => {
            let (pyproject, wanted) = (file.clone(), plan.wanted.clone());
            Some((Requirements::Project { pyproject, wanted }, lock))
        }
    }
}

/// What a lock beside its requirements says. One of ours was made from what is wanted, so nothing further is.
fn entries_of(lock: &Pylock, plan: &Plan, target: Target) -> Result<Vec<Entry>, lock::Error> {
    let nothing = Wanted::default();
    let wanted = match lock.made_from() {
        Some(_) => &nothing,
        None => &plan.wanted,
    };
    lock.entries(&request(wanted, target))
}

/// What a lock is read for that says by itself what the project asks for.
fn request(wanted: &Wanted, target: Target) -> lock::Request<'_> {
    lock::Request {
        target,
        wanted,
        pyproject: None,
        member: Path::new(""),
    }
}

/// What a lock says that is all there is.
fn locked_entries(
    plan: &Plan,
    target: Target,
    file: &Path,
    format: Format,
) -> Result<Vec<Entry>, Error> {
    let text = read(file)?;
    let directory = Some(directory_of(file)).filter(|path| path != Path::new(""));
    let directory = directory.unwrap_or_else(|| PathBuf::from("."));
    let directory = directory.canonicalize().map_err(|source| Error::File {
        action: "read",
        path: directory,
        source,
    })?;
    let owner = owner(plan, &directory, format)?;
    let pyproject = read_optional(&owner.join("pyproject.toml"))?;
    let request = lock::Request {
        pyproject: pyproject.as_deref(),
        member: &relative_path(owner, &directory),
        ..request(&plan.wanted, target)
    };
    in_file(file, lock::entries(format, &text, &request))
}

/// The directory of the project that a lock is asked about. A lock is of the project beside it, but uv's is of
/// each project of a workspace; and what is built may be no project at all.
fn owner<'a>(plan: &'a Plan, directory: &'a Path, format: Format) -> Result<&'a Path, Error> {
    let is_project = match format {
        Format::Uv => {
            let text = read_optional(&plan.project.join("pyproject.toml"))?;
            let table = text.and_then(|text| text.parse::<toml::Table>().ok());
            table.is_some_and(|table| table.contains_key("project"))
        }
        Format::Poetry | Format::Pylock | Format::Pipfile => {
            !directory.join("pyproject.toml").is_file()
        }
    };
    // A lock of uv's lies where its workspace begins, any other where its project is.
    Ok(if is_project { &plan.project } else { directory })
}

/// The packages for requirements of this tool's own: their versions are fixed, and what they led to is remembered.
pub(super) async fn of_lines(
    plan: &Plan,
    target: Target,
    lines: &[String],
    tools: &Tools,
) -> Result<Vec<Entry>, Error> {
    let requirements = Requirements::Lines {
        text: lines.join("\n"),
        directory: tools.store.root().to_owned(),
    };
    let key = MemoKey::new("resolved 1", [lines.join("\n"), target.to_string()]);
    let known = tools.store.recall::<String>(&key);
    let text = if let Some(text) = known.filter(|_| !tools.pins.is_upgrade()) {
        text
    } else {
        // What the user says of versions and of building is about the function, not about this.
        let question = Question {
            target,
            requirements: &requirements,
            limits: Limits::default(),
        };
        let text = question
            .resolve(plan, None, &Upgrade::Nothing, tools)
            .await?;
        tools.store.remember(&key, &text)?;
        text
    };
    let lock: Pylock = text.parse()?;
    Ok(lock.entries(&request(&Wanted::default(), target))?)
}

/// Has the paths of files that are chosen of [`of_lines`] start from the project.
pub(super) fn from_project(plan: &Plan, chosen: &mut [Locked], tools: &Tools) -> Result<(), Error> {
    let real = |path: PathBuf| {
        path.canonicalize().map_err(|source| Error::File {
            action: "read",
            path,
            source,
        })
    };
    let root = real(tools.store.root().to_owned())?;
    for locked in chosen {
        let location = match locked {
            Locked::Wheel(wheel) => &mut wheel.location,
            Locked::Source(LockedSource {
                origin: Origin::Archive { file, .. },
                ..
            }) => &mut file.location,
            Locked::Source(_) => continue,
        };
        if let Location::Path(path) = location {
            let whole = root.join(&path);
            // A link may have another name than the file, and the name tells what is in it.
            let directory = real(directory_of(&whole))?;
            let name = whole.file_name().unwrap_or_default();
            *path = relative_path(&directory.join(name), &plan.project);
        }
    }
    Ok(())
}

impl Bound {
    /// Each name that is asked for has to be in the lock.
    fn check_names(&self, entries: &[Entry]) -> Result<(), Error> {
        let locked: BTreeSet<_> = entries.iter().map(|entry| &entry.name).collect();
        let mut names = self.inputs.requested.iter();
        match names.find(|name| !locked.contains(name)) {
            None => Ok(()),
            Some(absent) => Err(Error::NotInLock {
                name: absent.clone(),
                requirements: self.requirements.clone(),
                lock: self.lock.clone(),
            }),
        }
    }

    /// Each file has to have one of the hashes that were asked for.
    pub(super) fn check_hashes(&self, locked: &[Locked]) -> Result<(), Error> {
        let files = locked.iter().filter_map(Locked::file);
        for (name, file) in files {
            if let Some(hashes) = self.inputs.hashes.get(name)
                && !hashes.contains(&file.digest)
            {
                return Err(Error::RequiredHash {
                    package: file.package,
                    file: file.filename,
                    requirements: self.requirements.clone(),
                    actual: file.digest,
                });
            }
        }
        Ok(())
    }
}

/// Which versions of a lock are not kept when it is made anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// All are kept that can be.
    #[default]
    Nothing,
    /// Those of these packages, by normal names.
    Packages(BTreeSet<String>),
    /// None is kept.
    Everything,
}

/// Whether what is to be upgraded could be; asked before anything is fetched.
///
/// # Errors
/// When single packages are to be upgraded and none is ours to lock.
pub(super) fn to_lock(plan: &Plan, upgrade: &Upgrade) -> Result<(), Error> {
    match (upgrade, plan.needs.file()) {
        (Upgrade::Packages(_), None) => Err(Error::NothingToLock(plan.project.clone())),
        (Upgrade::Packages(_), Some(file)) if requirements(plan).is_none() => {
            Err(Error::ForeignLock(file.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Makes the lock of the project's requirements, or leaves it as it is if it stands and nothing is to be upgraded;
/// gives its path. Packages that another tool has locked are left to it.
///
/// # Errors
/// Those of resolving, and when single packages of another tool's lock are to be upgraded.
pub(super) async fn lock(
    plan: &Plan,
    target: Target,
    upgrade: &Upgrade,
    tools: &Tools,
) -> Result<Option<PathBuf>, Error> {
    let Some(file) = plan.needs.file() else {
        return Ok(None);
    };
    let left = |to: &Path| match upgrade {
        Upgrade::Packages(_) => Err(Error::ForeignLock(to.to_owned())),
        Upgrade::Nothing | Upgrade::Everything => {
            let text = format!("packages stay as {} has them", to.display());
            tools.progress.step(text);
            Ok(None)
        }
    };
    let Some((requirements, path)) = requirements(plan) else {
        return left(file);
    };
    let inputs = requirements::read(&requirements, target)?;
    let question = Question::of(plan, target, &requirements);
    let previous = match question.kept(path, &inputs)? {
        Kept::Foreign(_) => return left(path),
        Kept::Standing(_) if *upgrade == Upgrade::Nothing => {
            tools.progress.step(format!("{} stands", path.display()));
            return Ok(Some(path.to_owned()));
        }
        Kept::Standing(text) | Kept::Stale(text, _) => Some(text),
        Kept::Absent => None,
    };
    if hashed::entries(&requirements, target)?.is_some() {
        return left(file);
    }
    let bound = Bound {
        inputs,
        requirements: requirements.to_string(),
        lock: path.to_owned(),
    };
    let before = previous
        .as_ref()
        .map(|text| in_file(path, text.parse::<Pylock>()));
    let before = before.transpose()?;
    let (lock, kept) = question
        .make(plan, &bound, previous, upgrade, tools)
        .await?;
    kept?;
    if let Upgrade::Packages(names) = upgrade {
        let has = |lock: &Pylock, name: &String| lock.names().any(|own| own == *name);
        let nowhere = |name: &&String| {
            !has(&lock, name) && !before.as_ref().is_some_and(|before| has(before, name))
        };
        for name in names.iter().filter(nowhere) {
            tools.progress.warn(format!(
                "{name} is to be upgraded, but {} does not have it",
                path.display()
            ));
        }
    }
    Ok(Some(path.to_owned()))
}

/// The names of locks of our making beside the project that none of its plans has, sorted. One that a flag may have had
/// made is not among them.
///
/// # Errors
/// When the project cannot be read.
pub(super) fn left_over(plans: &[Arc<Plan>]) -> Result<Vec<String>, Error> {
    let Some(plan) = plans
        .first()
        .filter(|plan| plan.has_own_locks && !plan.is_archive)
    else {
        return Ok(Vec::new());
    };
    let is_taken = |path: &Path| {
        let is_of = |plan: &Arc<Plan>| plan.locks.contains(path) || plan.needs.file() == Some(path);
        plans.iter().any(is_of)
    };
    let names = names_in(&plan.project)?;
    let is_left = |name: &&String| {
        let path = plan.project.join(name);
        let is_flags = || names.iter().any(|other| plan::is_lock_of(name, other));
        let is_ours = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lock = text.parse::<Pylock>();
            lock.is_ok_and(|lock| lock.made_from().is_some())
        };
        Format::of(name) == Some(Format::Pylock) && !is_taken(&path) && !is_flags() && is_ours()
    };
    Ok(names.iter().filter(is_left).cloned().collect())
}

/// The names of the files in a directory, sorted.
fn names_in(directory: &Path) -> Result<Vec<String>, Error> {
    let read_error = |source| Error::File {
        action: "read",
        path: directory.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        if !entry.file_type().map_err(read_error)?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

/// What lies where a lock is kept; each with its text.
enum Kept {
    Absent,
    /// Another tool's, which is the user's own choice.
    Foreign(String),
    Standing(String),
    /// With what it was made from that is another now.
    Stale(String, Difference),
}

/// What is asked of a resolver.
struct Question<'a> {
    target: Target,
    requirements: &'a Requirements,
    limits: Limits,
}

impl<'a> Question<'a> {
    fn of(plan: &Plan, target: Target, requirements: &'a Requirements) -> Self {
        Self {
            target,
            requirements,
            limits: Limits {
                exclude_newer: plan.exclude_newer.clone(),
                builds: plan.builds.clone(),
            },
        }
    }

    fn kept(&self, path: &Path, inputs: &Inputs) -> Result<Kept, Error> {
        let Some(text) = read_optional(path)? else {
            return Ok(Kept::Absent);
        };
        let lock: Pylock = in_file(path, text.parse())?;
        let Some(made_from) = lock.made_from() else {
            return Ok(Kept::Foreign(text));
        };
        let difference = made_from.difference(inputs.checksum, self.target, &self.limits);
        Ok(match difference {
            None => Kept::Standing(text),
            Some(difference) => Kept::Stale(text, difference),
        })
    }

    /// The lock that was kept, if it still stands; else a new one, kept there.
    async fn lock(
        &self,
        plan: &Plan,
        kept: Kept,
        bound: &Bound,
        tools: &Tools,
    ) -> Result<Pylock, Error> {
        let path = &bound.lock;
        let (previous, reason) = match kept {
            Kept::Standing(text) | Kept::Foreign(text) => return in_file(path, text.parse()),
            Kept::Stale(text, difference) => (Some(text), difference.to_string()),
            Kept::Absent => (None, "is not there".to_owned()),
        };
        if plan.policy.locked {
            return Err(Error::Locked {
                path: path.clone(),
                reason,
            });
        }
        let (lock, kept) = self
            .make(plan, bound, previous, &Upgrade::Nothing, tools)
            .await?;
        match kept {
            // A checkout that cannot be written is built all the same.
            Err(Error::File { source, .. }) if is_read_only(&source) => {
                tools.progress.warn(format!(
                    "{} cannot be kept, so the next build resolves anew",
                    path.display()
                ));
                Ok(lock)
            }
            kept => kept.map(|()| lock),
        }
    }

    /// Makes the lock anew and keeps it, if it can be kept.
    async fn make(
        &self,
        plan: &Plan,
        bound: &Bound,
        previous: Option<String>,
        upgrade: &Upgrade,
        tools: &Tools,
    ) -> Result<(Pylock, Result<(), Error>), Error> {
        let path = &bound.lock;
        let verb = if previous.is_some() {
            "updated"
        } else {
            "made"
        };
        let text = self.resolve(plan, previous, upgrade, tools).await?;
        let lock: Pylock = in_file(path, text.parse())?;
        // Before it is kept: what must not be taken must not be found there the next time.
        let entries = entries_of(&lock, plan, self.target)?;
        bound.check_hashes(&lock::choose(&entries, self.target, &plan.builds)?)?;
        let kept = write_lock(path, &text);
        if kept.is_ok() {
            tools.progress.step(format!("{verb} {}", path.display()));
        }
        Ok((lock, kept))
    }

    async fn resolve(
        &self,
        plan: &Plan,
        previous: Option<String>,
        upgrade: &Upgrade,
        tools: &Tools,
    ) -> Result<String, Error> {
        let (previous, upgrades) = match upgrade {
            Upgrade::Nothing => (previous, BTreeSet::new()),
            Upgrade::Packages(names) => (previous, names.clone()),
            Upgrade::Everything => (None, BTreeSet::new()),
        };
        let request = resolve::Request {
            resolver: choose_resolver(plan, self.target, tools).await?,
            requirements: self.requirements.clone(),
            target: self.target,
            limits: self.limits.clone(),
            previous,
            upgrades,
            for_uv: tools.for_uv.clone(),
            offline: plan.policy.offline,
        };
        Ok(resolve::resolve(&request, &tools.progress).await?)
    }
}

pub(super) fn is_read_only(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

pub(super) fn write_lock(path: &Path, text: &str) -> Result<(), Error> {
    // Where a link leads, somebody else may read it too.
    let path = &real_path(path);
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    let directory = directory.unwrap_or(Path::new("."));
    blob_store::replace_file(path, text.as_bytes(), directory).map_err(|error| match error {
        blob_store::Error::Io {
            action,
            path,
            source,
        } => Error::File {
            action,
            path,
            source,
        },
        other => other.into(),
    })
}

/// Where the links at `path` lead, though there may be nothing yet.
fn real_path(path: &Path) -> PathBuf {
    match fs::canonicalize(path) {
        Ok(real) => real,
        Err(_) => match fs::read_link(path) {
            Ok(target) => directory_of(path).join(target),
            Err(_) => path.to_owned(),
        },
    }
}

/// uv resolves for any target; pip only under an interpreter like the target's, whose markers it takes.
async fn choose_resolver(plan: &Plan, target: Target, tools: &Tools) -> Result<Resolver, Error> {
    let uv = tools.uv.clone().map(Resolver::Uv);
    match (plan.resolver, uv) {
        (ResolverChoice::Auto | ResolverChoice::Uv, Some(uv)) => return Ok(uv),
        (ResolverChoice::Uv, None) => {
            let detail = "`resolver` is uv, which is not on the PATH".to_owned();
            return Err(Error::NoResolver { detail });
        }
        _ => {}
    }
    let minor = target.python.minor();
    let candidates = interpreter::candidates(minor, &tools.directories, &tools.installations);
    let mut detail = format!("there is no Python 3.{minor} to run pip under");
    for candidate in candidates {
        let path = candidate.clone();
        let found = tools
            .block(move || interpreter::find(minor, &[path]))
            .await?;
        match found {
            Ok(found) if found.machine != target.machine.as_str() => {
                detail = format!(
                    "pip takes markers from the machine it runs on, and this is {}, not {}",
                    found.machine, target.machine
                );
            }
            // The one that was found, not what it stands for: pip may live in a virtual environment.
            Ok(_) if resolve::has_pip(&candidate).await => return Ok(Resolver::Pip(candidate)),
            Ok(_) => detail = format!("`{}` has no pip", candidate.display()),
            Err(error) => detail = format!("pip takes markers from its own Python: {error}"),
        }
    }
    Err(Error::NoResolver { detail })
}

fn in_file<T>(path: &Path, result: Result<T, lock::Error>) -> Result<T, Error> {
    result.map_err(|source| Error::LockFile {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn directory_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

pub(super) fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}
