//! Dependencies: from what the project needs to one layer of wheels below the task root.
//!
//! What is needed is `locking`'s to say. Files are looked up whose lock does not say where they are, and what
//! a lock has as sources is built first. A layer made before is taken without its wheels being fetched again.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::blob_store::MemoKey;
use crate::build::base::Base;
use crate::build::{Error, Tools, function, installed, locking};
use crate::file_tree::{FileTree, ImagePath};
use crate::lambda::TASK_ROOT;
use crate::oci::layer::{self, Layer};
use crate::plan::Plan;
use crate::python::credentials::Credentials;
use crate::python::examination::{self, Examination};
use crate::python::lock::{self, Entry, Locked, LockedFile, LockedSource, LockedWheel, Origin};
use crate::python::wheel::{self, Placed, Placement};
use crate::python::{Target, fetch, index, source};

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
    /// Packages that were left for the base to bring, by normal names.
    pub left_out_packages: Vec<String>,
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
    let Some(needed) = locking::needed(plan, target, tools).await? else {
        return Ok(Dependencies::default());
    };
    let (mut entries, left_out_packages) = leave_out(plan, base, needed.entries, tools).await?;
    let (indexes, credentials) = (&needed.indexes, &needed.credentials);
    let (client, store) = (&tools.client, &tools.store);
    index::locate(
        &mut entries,
        indexes,
        client,
        store,
        credentials,
        &tools.progress,
    )
    .await?;
    let locked = lock::choose(&entries, target, &plan.builds);
    let locked = locked.map_err(|source| Error::Unusable {
        lock: needed.lock.clone(),
        source,
    })?;
    if let Some(bound) = &needed.bound {
        bound.check_hashes(&locked)?;
    }
    let wheels = built(plan, target, locked, &needed.directory, tools).await?;
    let mut dependencies = Dependencies {
        wheels,
        directory: needed.directory,
        credentials: needed.credentials,
        left_out_packages,
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

/// The entries without those that the user has the base bring, and the names of these. What it brings instead is
/// told, for its versions are others than the lock's.
async fn leave_out(
    plan: &Plan,
    base: &Base,
    entries: Vec<Entry>,
    tools: &Tools,
) -> Result<(Vec<Entry>, Vec<String>), Error> {
    let excluded = &plan.exclude_packages;
    if excluded.is_empty() {
        return Ok((entries, Vec::new()));
    }
    let in_base = installed::packages(base, tools).await?;
    for name in excluded {
        let entry = entries.iter().find(|entry| entry.name == *name);
        let version = entry.map(|entry| entry.version.as_deref().unwrap_or_default());
        match (version, in_base.get(name)) {
            (None, _) => tools
                .progress
                .warn(format!("{name} is to be left out, but nothing needs it")),
            (Some(version), Some(has)) => tools
                .progress
                .step(format!("left out {name} {version}; the base has {has}")),
            (Some(version), None) => tools.progress.warn(format!(
                "left out {name} {version}, and the base does not have it"
            )),
        }
    }
    let is_out = |entry: &Entry| excluded.contains(&entry.name);
    let (out, kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_out);
    Ok((kept, out.into_iter().map(|entry| entry.name).collect()))
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
    let entries = locking::of_lines(plan, target, lines, tools).await?;
    let locked = lock::choose(&entries, target, &plan.builds)?;
    Ok(Dependencies {
        wheels: built(plan, target, locked, Path::new(""), tools).await?,
        credentials: tools.credentials.clone(),
        ..Dependencies::default()
    })
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
        exclude: plan.exclude_in_packages.clone(),
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
    let key = layer::memo_key(plan.layer_options(), &inputs);
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
    left_out.sort();
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
