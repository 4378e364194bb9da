//! Dependencies: from what the project needs to one layer of wheels below the task root.
//!
//! A lock that fits is used as it is; requirements without one are resolved for the target and the lock
//! is kept beside them. What a lock has as sources is built first. A layer made before is taken without its
//! wheels being fetched again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::blob_store::{self, MemoKey};
use crate::build::base::Base;
use crate::build::{Error, Tools, function};
use crate::file_tree::{FileTree, ImagePath};
use crate::lambda::TASK_ROOT;
use crate::oci::layer::{self, Layer};
use crate::plan::{Needs, Plan, ResolverChoice};
use crate::python::credentials::Credentials;
use crate::python::examination::{self, Examination};
use crate::python::lock::pylock::Pylock;
use crate::python::lock::{self, Entry, Locked, LockedFile, LockedSource, LockedWheel, Origin};
use crate::python::lock_text::Limits;
use crate::python::requirements::{self, Inputs, Requirements};
use crate::python::resolve::{self, Resolver};
use crate::python::source;
use crate::python::wheel::{self, Placed, Placement};
use crate::python::{Target, fetch, interpreter};

/// Changes whenever the tree of a wheel does.
const FORMAT: &str = "wheels 3";
/// Changes whenever more is found in a wheel, or refused.
const EXAMINED: &str = "examined 1";

/// What a function needs, and where it went.
#[derive(Debug, Clone, Default)]
pub struct Dependencies {
    /// The wheels, in the order of their lock.
    pub wheels: Vec<LockedWheel>,
    /// The directory that relative paths in the lock start from.
    directory: PathBuf,
    /// Who the user is for whoever has them.
    credentials: Credentials,
    /// Their layer, if there are any.
    pub layer: Option<Layer>,
    /// What patterns kept out of it, by its path below the task root.
    pub left_out: Vec<String>,
}

impl Dependencies {
    /// One wheel that is in the store.
    pub(super) fn of_one(wheel: LockedWheel) -> Self {
        Self {
            wheels: vec![wheel],
            ..Self::default()
        }
    }

    /// The packages in a few words.
    pub fn summary(&self) -> String {
        const NAMED: usize = 4;
        let names = self
            .wheels
            .iter()
            .take(NAMED)
            .map(|w| format!("{} {}", w.name, w.version));
        let mut text = names.collect::<Vec<_>>().join(", ");
        if let Some(more) = self
            .wheels
            .len()
            .checked_sub(NAMED)
            .filter(|more| *more > 0)
        {
            let _ = write!(text, " and {more} more");
        }
        text
    }
}

/// Makes the layer of what the function needs.
///
/// # Errors
/// Those of locks, resolvers, indexes and wheels.
pub async fn layer(plan: &Arc<Plan>, base: &Base, tools: &Tools) -> Result<Dependencies, Error> {
    let target = target(plan, base);
    let mut credentials = tools.credentials.clone();
    let (locked, directory) = match &plan.needs {
        Needs::Nothing => return Ok(Dependencies::default()),
        Needs::Lock(path) => {
            let lock: Pylock = in_file(path, read(path)?.parse())?;
            let locked = choose(plan, target, &entries(plan, target, &lock)?)?;
            (locked, directory_of(path))
        }
        Needs::Requirements { file, lock: path } => {
            let requirements = requirements_of(plan, file);
            let inputs = requirements::read(&requirements, target)?;
            credentials = credentials.with_texts(&inputs.urls);
            let lock = kept_lock(plan, target, &requirements, &inputs, path, tools).await?;
            let locked = choose(plan, target, &entries(plan, target, &lock)?)?;
            check_against(&locked, &inputs, &requirements.to_string(), path)?;
            (locked, directory_of(path))
        }
    };
    let wheels = built(plan, target, locked, &directory, tools).await?;
    let mut dependencies = Dependencies {
        wheels,
        directory,
        credentials,
        ..Dependencies::default()
    };
    if !dependencies.wheels.is_empty() {
        let place = task_root(plan, base);
        let (layer, left_out) = make_layer(plan, &dependencies, &place, None, tools).await?;
        dependencies.layer = Some(layer);
        dependencies.left_out = left_out;
    }
    Ok(dependencies)
}

/// The files of what the function needs, as they will stand in the image.
///
/// # Errors
/// Those of fetching and of wheels.
pub async fn tree(
    plan: &Plan,
    base: &Base,
    dependencies: &Dependencies,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let (tree, _) = wheel_tree(dependencies, &task_root(plan, base), tools).await?;
    Ok(tree)
}

/// The wheels for requirements of this tool's own, which need no lock beside the project: their versions
/// are fixed, and what they led to is remembered.
pub(super) async fn of_lines(
    plan: &Arc<Plan>,
    base: &Base,
    lines: &[String],
    tools: &Tools,
) -> Result<Dependencies, Error> {
    let target = target(plan, base);
    let requirements = Requirements::Lines {
        text: lines.join("\n"),
        directory: tools.store.root().to_owned(),
    };
    let key = MemoKey::new("resolved 1", [lines.join("\n"), target.to_string()]);
    let text = if let Some(text) = tools.store.recall::<String>(&key) {
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
    let locked = choose(plan, target, &entries(plan, target, &lock)?)?;
    Ok(Dependencies {
        wheels: built(plan, target, locked, Path::new(""), tools).await?,
        credentials: tools.credentials.clone(),
        ..Dependencies::default()
    })
}

fn entries(plan: &Plan, target: Target, lock: &Pylock) -> Result<Vec<Entry>, lock::Error> {
    lock.entries(&lock::Request {
        target,
        wanted: &plan.wanted,
        pyproject: None,
        member: Path::new(""),
    })
}

fn choose(plan: &Plan, target: Target, entries: &[Entry]) -> Result<Vec<Locked>, lock::Error> {
    lock::choose(entries, target, &plan.builds)
}

/// The wheels of what was chosen, those built that are none yet; paths are meant from `directory`.
async fn built(
    plan: &Plan,
    target: Target,
    chosen: Vec<Locked>,
    directory: &Path,
    tools: &Tools,
) -> Result<Vec<LockedWheel>, Error> {
    let workshop = tools.workshop(plan);
    let mut wheels = Vec::new();
    for locked in chosen {
        match locked {
            Locked::Wheel(wheel) => wheels.push(wheel),
            // It goes in as the function.
            Locked::Source(source) if is_project(plan, &source, directory) => {}
            Locked::Source(source) => {
                let wheel = source::wheel_of(&source, directory, target, &workshop);
                wheels.push(wheel.await?);
            }
        }
    }
    Ok(wheels)
}

/// Whether a source is the project that is built, which some tools lock among what it needs.
fn is_project(plan: &Plan, source: &LockedSource, directory: &Path) -> bool {
    match &source.origin {
        Origin::Directory(path) => {
            let path = directory.join(path).canonicalize();
            path.is_ok_and(|path| path == plan.project)
        }
        Origin::Archive { .. } | Origin::Repository { .. } => false,
    }
}

/// What the wheels have to fit.
pub(super) fn target(plan: &Plan, base: &Base) -> Target {
    let machine = plan.architecture.machine();
    Target::new(plan.runtime.python, machine, base.glibc)
}

/// A directory of the image that wheels are placed into.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The directory, which is on `sys.path`.
    pub(super) root: &'static str,
    /// What starts the image's Python.
    pub(super) interpreter: String,
    /// What the wheels' programs have to run on.
    pub(super) target: Target,
    /// Patterns of what is left out, in gitignore's language.
    pub(super) exclude: Vec<String>,
}

fn task_root(plan: &Plan, base: &Base) -> Place {
    Place {
        root: TASK_ROOT,
        interpreter: base.interpreter.clone(),
        target: target(plan, base),
        exclude: Vec::new(),
    }
}

/// Makes the layer of these wheels with `beside` over them, or takes the one made before; with it comes
/// what was left out of it.
pub(super) async fn make_layer(
    plan: &Plan,
    dependencies: &Dependencies,
    place: &Place,
    beside: Option<FileTree>,
    tools: &Tools,
) -> Result<(Layer, Vec<String>), Error> {
    let mut inputs = vec![
        FORMAT.to_owned(),
        place.root.to_owned(),
        place.interpreter.clone(),
        place.target.to_string(),
        place.exclude.join("\n"),
    ];
    let wheels = dependencies.wheels.iter();
    inputs.extend(wheels.map(|wheel| wheel.digest.to_string()));
    if let Some(beside) = &beside {
        inputs.push(beside.digest()?.to_string());
    }
    let key = layer::memo_key(plan.epoch, &inputs);
    let left_out_key = MemoKey::new("left out 1", &inputs);
    let recalled = layer::recall(&tools.store, &key);
    if let Some(layer) = recalled.filter(|_| !plan.policy.no_cache) {
        if place.exclude.is_empty() {
            return Ok((layer, Vec::new()));
        }
        if let Some(left_out) = tools.store.recall(&left_out_key) {
            return Ok((layer, left_out));
        }
    }
    let (mut tree, left_out) = wheel_tree(dependencies, place, tools).await?;
    if let Some(beside) = beside {
        tree.merge(beside)?;
    }
    if !place.exclude.is_empty() {
        tools.store.remember(&left_out_key, &left_out)?;
    }
    Ok((tools.layer(plan, key, tree).await?, left_out))
}

/// Fetches the wheels and reads them into one tree; where two bring a path, the later has it, as with pip.
/// With it comes what was left out.
async fn wheel_tree(
    dependencies: &Dependencies,
    place: &Place,
    tools: &Tools,
) -> Result<(FileTree, Vec<String>), Error> {
    let (client, store) = (&tools.client, &tools.store);
    let (wheels, progress) = (&dependencies.wheels, &tools.progress);
    let files: Vec<LockedFile> = wheels.iter().map(LockedWheel::file).collect();
    let (credentials, directory) = (&dependencies.credentials, &dependencies.directory);
    fetch::fetch(client, credentials, store, directory, &files, progress).await?;
    let (wheels, place, tools) = (wheels.clone(), place.clone(), tools.clone());
    let read = {
        let tools = tools.clone();
        move || read_wheels(&wheels, &place, &tools)
    };
    tools.block(read).await?
}

fn read_wheels(
    wheels: &[LockedWheel],
    place: &Place,
    tools: &Tools,
) -> Result<(FileTree, Vec<String>), Error> {
    let root = ImagePath::new(place.root).map_err(crate::file_tree::Error::from)?;
    let exclude = patterns(&place.exclude)?;
    let placement = Placement {
        root: &root,
        interpreter: &place.interpreter,
        exclude: &exclude,
    };
    let mut tree = FileTree::default();
    let mut left_out = Vec::new();
    for wheel in wheels {
        let placed = read_wheel(wheel, &placement, place.target, tools)?;
        left_out.extend(placed.left_out);
        for collision in tree.merge(placed.tree)? {
            tools.progress.warn(format!(
                "{} is in {} and in {} with other contents; the later in the lock has it",
                collision.path, collision.earlier, collision.later
            ));
        }
    }
    Ok((tree, left_out))
}

/// Reads one wheel into its place, once it is seen to be what it says and to run on the target.
fn read_wheel(
    wheel: &LockedWheel,
    placement: &Placement<'_>,
    target: Target,
    tools: &Tools,
) -> Result<Placed, Error> {
    let file = wheel.filename.as_str();
    let refused = |source| Error::Wheel {
        file: file.to_owned(),
        source,
    };
    let examination = examined(wheel, tools, refused)?;
    let path = tools.store.path(&wheel.digest);
    let placed = wheel::file_tree(&path, &wheel.name, &wheel.version, placement);
    let placed = placed.map_err(refused)?;
    let is_taken = |member: &str| placed.members.contains(member);
    let fit = examination.fit(&wheel.filename, target, is_taken);
    for detail in examination.details.iter().chain(&fit.map_err(refused)?) {
        tools.progress.detail(format!("{file}: {detail}"));
    }
    for warning in &examination.warnings {
        tools.progress.warn(format!("{file}: {warning}"));
    }
    Ok(placed)
}

/// What is in a wheel, which its digest decides: looked at once, and remembered unless it is refused.
fn examined(
    wheel: &LockedWheel,
    tools: &Tools,
    refused: impl Fn(wheel::Error) -> Error,
) -> Result<Examination, Error> {
    let store = &tools.store;
    let names = [wheel.name.as_bytes(), wheel.version.as_bytes()];
    let inputs = [wheel.digest.as_bytes().as_slice()]
        .into_iter()
        .chain(names);
    let key = MemoKey::new(EXAMINED, inputs);
    if let Some(examination) = store.recall(&key) {
        return Ok(examination);
    }
    let path = store.path(&wheel.digest);
    let examination = examination::examine(&path, &wheel.name, &wheel.version, store.root());
    let examination = examination.map_err(refused)?;
    store.remember(&key, &examination)?;
    Ok(examination)
}

fn patterns(exclude: &[String]) -> Result<Gitignore, Error> {
    let wrong = |pattern: &str, error: &ignore::Error| {
        Error::Function(function::Error::Pattern {
            pattern: pattern.to_owned(),
            detail: error.to_string(),
        })
    };
    let mut builder = GitignoreBuilder::new("");
    for pattern in exclude {
        let added = builder.add_line(None, pattern);
        added.map_err(|error| wrong(pattern, &error))?;
    }
    builder
        .build()
        .map_err(|error| wrong(&exclude.join(", "), &error))
}

/// What the requirements say for themselves holds whoever made the lock: each name is in it, and each file
/// has one of the hashes that were asked for.
fn check_against(
    chosen: &[Locked],
    inputs: &Inputs,
    requirements: &str,
    lock: &Path,
) -> Result<(), Error> {
    let locked: BTreeSet<_> = chosen.iter().map(name_of).collect();
    let mut requested = inputs.requested.iter();
    if let Some(absent) = requested.find(|name| !locked.contains(name.as_str())) {
        return Err(Error::NotInLock {
            name: absent.clone(),
            requirements: requirements.to_owned(),
            lock: lock.to_owned(),
        });
    }
    for locked in chosen {
        let file = match locked {
            Locked::Wheel(wheel) => wheel.file(),
            Locked::Source(source) => match &source.origin {
                Origin::Archive { file, .. } => file.clone(),
                // These have no hash to be asked for.
                Origin::Repository { .. } | Origin::Directory(_) => continue,
            },
        };
        if let Some(hashes) = inputs.hashes.get(name_of(locked))
            && !hashes.contains(&file.digest)
        {
            return Err(Error::RequiredHash {
                package: file.package,
                file: file.filename,
                requirements: requirements.to_owned(),
                actual: file.digest,
            });
        }
    }
    Ok(())
}

fn name_of(locked: &Locked) -> &str {
    match locked {
        Locked::Wheel(wheel) => &wheel.name,
        Locked::Source(source) => &source.name,
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

/// Makes the lock of the project's requirements, or leaves it as it is if it stands and nothing is to be upgraded;
/// gives its path.
///
/// # Errors
/// Also when the project has no requirements, or a lock that another tool made.
pub async fn lock(
    plan: &Plan,
    base: &Base,
    upgrade: &Upgrade,
    tools: &Tools,
) -> Result<PathBuf, Error> {
    let (file, path) = match &plan.needs {
        Needs::Nothing => return Err(Error::NothingToLock(plan.project.clone())),
        Needs::Lock(path) => return Err(Error::ForeignLock(path.clone())),
        Needs::Requirements { file, lock } => (file, lock),
    };
    let target = target(plan, base);
    let requirements = requirements_of(plan, file);
    let inputs = requirements::read(&requirements, target)?;
    let question = Question::of(plan, target, &requirements);
    match question.kept(path, &inputs)? {
        Kept::Foreign(_) => return Err(Error::ForeignLock(path.clone())),
        Kept::Standing(_) if *upgrade == Upgrade::Nothing => {
            tools.progress.step(format!("{} stands", path.display()));
        }
        Kept::Standing(text) | Kept::Stale(text) => {
            question
                .make(plan, path, &inputs, Some(text), upgrade, tools)
                .await?;
        }
        Kept::Absent => {
            question
                .make(plan, path, &inputs, None, upgrade, tools)
                .await?;
        }
    }
    Ok(path.clone())
}

/// What a file asks for: a project if it is a `pyproject.toml`.
fn requirements_of(plan: &Plan, file: &Path) -> Requirements {
    if file.file_name() == Some("pyproject.toml".as_ref()) {
        return Requirements::Project {
            pyproject: file.to_owned(),
            wanted: plan.wanted.clone(),
        };
    }
    Requirements::File(file.to_owned())
}

/// The lock beside the requirements, if it still stands for them; else a new one, kept there.
async fn kept_lock(
    plan: &Arc<Plan>,
    target: Target,
    requirements: &Requirements,
    inputs: &Inputs,
    path: &Path,
    tools: &Tools,
) -> Result<Pylock, Error> {
    let question = Question::of(plan, target, requirements);
    let previous = match question.kept(path, inputs)? {
        Kept::Standing(text) | Kept::Foreign(text) => return in_file(path, text.parse()),
        Kept::Stale(text) => Some(text),
        Kept::Absent => None,
    };
    if plan.policy.locked {
        return Err(Error::Locked {
            path: path.to_owned(),
            reason: if previous.is_some() {
                "was made from other requirements or for another target"
            } else {
                "is not there"
            },
        });
    }
    question
        .make(plan, path, inputs, previous, &Upgrade::Nothing, tools)
        .await
}

/// What lies where a lock is kept; each with its text.
enum Kept {
    Absent,
    /// Another tool's, which is the user's own choice.
    Foreign(String),
    Standing(String),
    Stale(String),
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
        Ok(match lock.made_from() {
            None => Kept::Foreign(text),
            Some(made_from) if made_from.stands_for(inputs.checksum, self.target, &self.limits) => {
                Kept::Standing(text)
            }
            Some(_) => Kept::Stale(text),
        })
    }

    /// Makes the lock anew and keeps it.
    async fn make(
        &self,
        plan: &Plan,
        path: &Path,
        inputs: &Inputs,
        previous: Option<String>,
        upgrade: &Upgrade,
        tools: &Tools,
    ) -> Result<Pylock, Error> {
        let verb = if previous.is_some() {
            "updated"
        } else {
            "made"
        };
        let text = self.resolve(plan, previous, upgrade, tools).await?;
        let lock: Pylock = in_file(path, text.parse())?;
        // Before it is kept: what must not be taken must not be found there the next time.
        check_against(
            &choose(plan, self.target, &entries(plan, self.target, &lock)?)?,
            inputs,
            &self.requirements.to_string(),
            path,
        )?;
        match write_lock(path, &text) {
            Ok(()) => tools.progress.step(format!("{verb} {}", path.display())),
            // A checkout that cannot be written is built all the same.
            Err(Error::File { source, .. }) if is_read_only(&source) => {
                tools.progress.warn(format!(
                    "{} cannot be kept, so the next build resolves anew",
                    path.display()
                ));
            }
            Err(error) => return Err(error),
        }
        Ok(lock)
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
            offline: plan.policy.offline,
        };
        Ok(resolve::resolve(&request, &tools.progress).await?)
    }
}

fn is_read_only(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

fn write_lock(path: &Path, text: &str) -> Result<(), Error> {
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

fn directory_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn read_optional(path: &Path) -> Result<Option<String>, Error> {
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
