//! Dependencies: from what the project needs to wheels in layers below the task root.
//!
//! What is needed is `locking`'s to say. Files are looked up whose lock does not say where they are, and what
//! a lock has as sources is built first. How wheels become layers is `wheel_layers`' to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::blob_store::MemoKey;
use crate::build::base::Base;
use crate::build::compiling::{Compiler, Counts};
use crate::build::earlier::Key;
use crate::build::layering::{self, Package, Rule};
use crate::build::locking::{self, Known, Needed};
use crate::build::wheel_layers::{self, Place, WheelLayer, Wheels};
use crate::build::{Error, Tools, installed};
use crate::digest::Digest;
use crate::file_tree::FileTree;
use crate::lambda::TASK_ROOT;
use crate::plan::Plan;
use crate::python::lock::{self, Builds, Entry, Locked, LockedSource, LockedWheel, Origin};
use crate::python::{Target, index, source, wheel};

/// No image has more layers than this. Docker's own limit is 127, and a manifest of so many is of 17 kB, where
/// Lambda advises to stay below 25,400 bytes.
const MOST_IN_IMAGE: usize = 100;

/// What a function needs, and where it went.
#[derive(Debug, Clone, Default)]
pub struct Dependencies {
    wheels: Wheels,
    /// Their layers, lowest first.
    pub layers: Vec<WheelLayer>,
    /// What all of these were made for together.
    pub key: Option<Key>,
    /// Packages that were left for the base to bring, by normal names.
    pub left_out_packages: Vec<String>,
}

impl Dependencies {
    /// The wheels, in the order of their lock.
    pub fn wheels(&self) -> &[LockedWheel] {
        &self.wheels.locked
    }

    /// The wheels in each layer.
    pub(super) fn wheels_by_layer(&self) -> BTreeMap<Digest, Vec<&LockedWheel>> {
        let layers = self.layers.iter().map(|layer| {
            let names: BTreeSet<_> = layer.packages.iter().collect();
            let wheels = self.wheels().iter();
            let wheels = wheels.filter(|wheel| names.contains(&wheel.name));
            (layer.layer.digest, wheels.collect())
        });
        layers.collect()
    }

    /// How much bytecode is in the layers.
    pub fn bytecode(&self) -> Counts {
        let mut counts = Counts::default();
        for layer in &self.layers {
            counts += layer.bytecode;
        }
        counts
    }

    /// What patterns kept out of the layers, by its path below the task root.
    pub fn left_out(&self) -> Vec<&str> {
        let left_out = self.layers.iter().flat_map(|layer| &layer.left_out);
        let mut left_out: Vec<_> = left_out.map(String::as_str).collect();
        left_out.sort_unstable();
        left_out
    }
}

/// Makes the layers of what the function needs.
///
/// # Errors
/// Those of locks, resolvers, indexes and wheels.
pub async fn layers(
    plan: &Arc<Plan>,
    base: &Base,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<Dependencies, Error> {
    let target = target(plan, base);
    let Some(chosen) = choose(plan, base, tools).await? else {
        return Ok(Dependencies::default());
    };
    let (needed, left_out_packages) = (chosen.needed, chosen.left_out_packages);
    let wheels = Wheels {
        locked: built(plan, target, chosen.locked, &needed.directory, tools).await?,
        directory: needed.directory,
        credentials: needed.credentials,
    };
    let place = task_root(plan, base);
    let (options, no_cache) = (plan.layer_options(), plan.policy.no_cache);
    let most = most_layers(plan, base);
    let made = wheel_layers::make(
        &wheels, &place, None, most, options, no_cache, compiler, tools,
    )
    .await?;
    Ok(Dependencies {
        wheels,
        key: (!made.layers.is_empty()).then_some(made.key),
        layers: made.layers,
        left_out_packages,
    })
}

/// What was chosen of what the function needs.
struct Chosen {
    locked: Vec<Locked>,
    needed: Needed,
    left_out_packages: Vec<String>,
}

/// Chooses what fits of what the function needs; nothing where it needs nothing.
async fn choose(plan: &Arc<Plan>, base: &Base, tools: &Tools) -> Result<Option<Chosen>, Error> {
    let target = target(plan, base);
    let Some(mut needed) = locking::needed(plan, target, tools).await? else {
        return Ok(None);
    };
    let entries = std::mem::take(&mut needed.entries);
    let (mut entries, left_out_packages) = leave_out(plan, base, entries, tools).await?;
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
    Ok(Some(Chosen {
        locked,
        needed,
        left_out_packages,
    }))
}

/// Has the lock know what comes out of the sources that the function needs.
///
/// # Errors
/// Those of locks, indexes and builds.
pub(super) async fn pin(plan: &Arc<Plan>, base: &Base, tools: &Tools) -> Result<(), Error> {
    // Only what may be built from elsewhere is; a directory is the user's own.
    if plan.builds == Builds::default() {
        return Ok(());
    }
    let Some(chosen) = choose(plan, base, tools).await? else {
        return Ok(());
    };
    let is_bound = |locked: &Locked| match locked {
        Locked::Wheel(_) => false,
        Locked::Source(source) => !matches!(source.origin, Origin::Directory(_)),
    };
    let bound = chosen.locked.into_iter().filter(is_bound).collect();
    let target = target(plan, base);
    built(plan, target, bound, &chosen.needed.directory, tools).await?;
    Ok(())
}

/// What can be said of the layers before anything is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outline {
    /// The function needs nothing.
    Nothing,
    /// They are not known yet, and why.
    Unknown(String),
    /// What is in each, the lowest first, and the bytes of its wheels if all are known.
    Layers(Vec<(String, Option<u64>)>),
}

/// The layers that a build would make, by the lock that there is: nothing is resolved or looked up. The C library is
/// taken for the runtime's where the plan does not say it.
///
/// # Errors
/// When requirements or locks cannot be read.
pub fn outline(plan: &Plan) -> Result<Outline, Error> {
    let glibc = plan.glibc.unwrap_or(plan.runtime.glibc);
    let target = Target::new(plan.runtime.python, plan.architecture.machine(), glibc);
    let mut entries = match locking::known(plan, target)? {
        Known::Nothing => return Ok(Outline::Nothing),
        Known::NoLock(reason) => return Ok(Outline::Unknown(reason)),
        Known::Entries(entries) => entries,
    };
    entries.retain(|entry| !plan.exclude_packages.contains(&entry.name));
    let unplaced = |entry: &Entry| {
        let mut files = entry.wheels.iter();
        !entry.hashes.is_empty() || files.any(|file| file.location.is_none())
    };
    if let Some(entry) = entries.iter().find(|entry| unplaced(entry)) {
        let reason = format!("the lock does not say where {} is", entry.name);
        return Ok(Outline::Unknown(reason));
    }
    let chosen = match lock::choose(&entries, target, &plan.builds) {
        Ok(chosen) => chosen,
        Err(error) => return Ok(Outline::Unknown(error.to_string())),
    };
    let directory = locking::directory_of(plan.needs.file().unwrap_or(Path::new("")));
    let chosen = chosen.iter().filter(
        |locked| !matches!(locked, Locked::Source(source) if is_project(plan, source, &directory)),
    );
    let listed: Vec<_> = chosen.map(Listed::of).collect();
    let unsized_one = listed
        .iter()
        .find(|one| one.size.is_none() && !one.first_party);
    if let Some(one) = unsized_one.filter(|_| plan.layers > 1) {
        let reason = format!("the lock does not say how large {} is", one.name);
        return Ok(Outline::Unknown(reason));
    }
    Ok(Outline::Layers(outlined(&listed, plan.layers)))
}

/// What a lock says of a package to be.
struct Listed<'a> {
    name: &'a str,
    version: Option<&'a str>,
    size: Option<u64>,
    first_party: bool,
}

impl<'a> Listed<'a> {
    fn of(locked: &'a Locked) -> Self {
        match locked {
            Locked::Wheel(wheel) => Self {
                name: &wheel.name,
                version: Some(&wheel.version),
                size: wheel.size,
                first_party: wheel.first_party,
            },
            Locked::Source(source) => Self {
                name: &source.name,
                version: source.version.as_deref(),
                size: None,
                first_party: matches!(source.origin, Origin::Directory(_)),
            },
        }
    }
}

fn outlined(listed: &[Listed<'_>], most: usize) -> Vec<(String, Option<u64>)> {
    let packages = listed.iter().map(|one| Package {
        name: one.name,
        size: one.size.unwrap_or_default(),
        first_party: one.first_party,
    });
    let groups = layering::groups(&packages.collect::<Vec<_>>(), Rule::with_most(most));
    let layer = |group: Vec<usize>| {
        let members: Vec<_> = group.iter().map(|&place| &listed[place]).collect();
        let names: Vec<_> = members.iter().map(|one| (one.name, one.version)).collect();
        let own = members.iter().all(|one| one.first_party);
        let size = members.iter().map(|one| one.size).sum();
        (wheel_layers::in_words(&names, own), size)
    };
    groups.into_iter().map(layer).collect()
}

/// As many layers as the user allows and the image has room for.
fn most_layers(plan: &Plan, base: &Base) -> usize {
    // The runtime client and the function have one each.
    let others = base.image.manifest.layers.len() + 2;
    plan.layers.min(MOST_IN_IMAGE.saturating_sub(others)).max(1)
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
    wheel_layers::tree(&dependencies.wheels, &task_root(plan, base), tools).await
}

/// The files of what the function needs as they stand in a deployment package: for Lambda's own runtime, whatever the
/// base is, with bytecode by `compiler`.
///
/// # Errors
/// Those of fetching and of wheels, such as one that was chosen for a base with a newer C library than the runtime's and
/// does not run on that.
pub(super) async fn packaged(
    plan: &Plan,
    base: &Base,
    dependencies: &Dependencies,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let managed = Base {
        glibc: plan.runtime.glibc,
        interpreter: plan.runtime.interpreter.clone(),
        ..base.clone()
    };
    let place = Place {
        over_bytecode: false,
        ..task_root(plan, &managed)
    };
    wheel_layers::tree_of_all(&dependencies.wheels, &place, compiler, tools).await
}

/// The files of one wheel that is in the store, as they will stand in the image.
pub(super) async fn tree_of_one(
    plan: &Plan,
    base: &Base,
    wheel: LockedWheel,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let wheels = Wheels {
        locked: vec![wheel],
        ..Wheels::default()
    };
    wheel_layers::tree(&wheels, &task_root(plan, base), tools).await
}

/// The wheels for requirements of this tool's own: those of the lock, else as they are resolved.
pub(super) async fn of_lines(
    plan: &Arc<Plan>,
    base: &Base,
    lines: &[String],
    tools: &Tools,
) -> Result<Wheels, Error> {
    let target = target(plan, base);
    let locked = if let Some(locked) = tools.pins.runtime_client(plan, target, lines)? {
        locked
    } else {
        let entries = locking::of_lines(plan, target, lines, tools).await?;
        let mut locked = lock::choose(&entries, target, &plan.builds)?;
        // As they are read from the lock the next time, whoever's machine that is.
        locking::from_project(plan, &mut locked, tools)?;
        let pins = &tools.pins;
        pins.settle_runtime_client(target, lines, locked.clone());
        locked
    };
    Ok(Wheels {
        locked: built(plan, target, locked, &plan.project, tools).await?,
        directory: plan.project.clone(),
        credentials: tools.credentials.clone(),
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
                let mut wheel = source::wheel_of(&source, directory, target, &workshop).await?;
                let contents = contents(&wheel, tools).await?;
                if !matches!(source.origin, Origin::Directory(_)) {
                    tools.pins.settle_built(&source, target, contents.digest)?;
                }
                wheel.built = Some(contents);
                wheels.push(wheel);
            }
        }
    }
    Ok(wheels)
}

/// What is in a wheel of the store. The digest of the wheel itself has the date of the build in it, which
/// no layer takes over.
async fn contents(wheel: &LockedWheel, tools: &Tools) -> Result<wheel::Contents, Error> {
    let key = MemoKey::new("contents 2", [wheel.digest.as_bytes()]);
    if let Some(known) = tools.store.recall(&key) {
        return Ok(known);
    }
    let path = tools.store.path(&wheel.digest);
    let read = tools.block(move || wheel::contents(&path)).await?;
    let contents = read.map_err(|source| Error::Wheel {
        file: wheel.filename.to_string(),
        source,
    })?;
    tools.store.remember(&key, &contents)?;
    Ok(contents)
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

fn task_root(plan: &Plan, base: &Base) -> Place {
    Place {
        root: TASK_ROOT,
        interpreter: base.interpreter.clone(),
        target: target(plan, base),
        exclude: plan.exclude_in_packages.clone(),
        over_bytecode: base.is_ours(),
    }
}
