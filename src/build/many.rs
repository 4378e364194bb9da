//! Several functions of one project: each an image of its own, and what they share made, kept and sent once.
//!
//! First all images are made, and only when all are is one named, written or pushed. What several need is
//! done once in a run, told apart by all of a plan that may decide it. A function alone is a run of one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use crate::build::base::{self, Base};
use crate::build::bootstrap;
use crate::build::compiling::Compiler;
use crate::build::dependencies::{self, Dependencies};
use crate::build::earlier::Earlier;
use crate::build::locking::Upgrade;
use crate::build::once::Once;
use crate::build::pinning::{Pinning, Renewal};
use crate::build::pushing::Destinations;
use crate::build::wheel_layers::WheelLayer;
use crate::build::{
    Built, Error, Tools, Unnamed, cache, keep, locking, make, opt, outputs, project,
};
use crate::file_tree::FileTree;
use crate::plan::{self, Plan};
use crate::progress::Progress;
use crate::python::lock::LockedWheel;

/// Functions made at once: more than there are processors, for some wait for the network.
const PARALLEL: usize = 8;
/// Tries where blobs of the store are damaged: a layer, the wheel that it is made of, the sources of that.
const TRIES: usize = 4;

/// Builds what the plans say and brings it where they say, the results in the plans' order. Where one cannot be made,
/// nothing is named, written or pushed: each that failed has its error, by [`Error::Shared`] where several have it in
/// common, and the others have [`Error::Undelivered`].
pub async fn build_all(plans: Vec<Plan>, tools: &Tools) -> Vec<Result<Built, Error>> {
    let plans = together(plans);
    match Box::pin(run(&plans, tools)).await {
        Ok(done) => done,
        Err(errors) => errors,
    }
}

/// What each plan's step came to: all that came of it, or errors, one for each plan.
pub(super) fn whole<T, U>(results: Vec<Result<T, Error>>) -> Result<Vec<T>, Vec<Result<U, Error>>> {
    if results.iter().all(Result::is_ok) {
        return Ok(results.into_iter().flatten().collect());
    }
    let errors = results.into_iter().map(|result| match result {
        Ok(_) => Error::Undelivered,
        Err(error) => error,
    });
    Err(errors.map(Err).collect())
}

/// The plans of one run: what one of them writes is an input of none.
fn together(plans: Vec<Plan>) -> Vec<Arc<Plan>> {
    let own: BTreeSet<PathBuf> = plans
        .iter()
        .flat_map(|plan| plan.own_files.clone())
        .collect();
    let of = |plan: Plan| {
        let own_files = own.iter().cloned().collect();
        Arc::new(Plan { own_files, ..plan })
    };
    plans.into_iter().map(of).collect()
}

async fn run(
    plans: &[Arc<Plan>],
    tools: &Tools,
) -> Result<Vec<Result<Built, Error>>, Vec<Result<Built, Error>>> {
    warn(plans, &tools.progress);
    whole(plans.iter().map(|plan| outputs::check(plan)).collect())?;
    let pins = whole(pinnings(plans))?;
    let (mut has_told, mut tries) = (false, 0);
    loop {
        let done = Box::pin(bring(plans, &pins, &mut has_told, tools)).await;
        let (Ok(results) | Err(results)) = &done;
        let errors = results.iter().filter_map(|result| result.as_ref().err());
        let is_damaged = cache::has_dropped_damage(errors, tools).await;
        tries += 1;
        if !is_damaged || tries == TRIES {
            return done;
        }
        // Once more, with what was dropped made or fetched anew.
    }
}

/// Makes all images and brings them where the plans say.
async fn bring(
    plans: &[Arc<Plan>],
    pins: &[Pinning],
    has_told: &mut bool,
    tools: &Tools,
) -> Result<Vec<Result<Built, Error>>, Vec<Result<Built, Error>>> {
    let (made, destinations) = attempt(plans, pins, tools).await?;
    let made = whole(made)?;
    for pins in pins {
        // That of one lock is kept once.
        pins.keep(false, &tools.progress)
            .map_err(|error| alike(plans, error))?;
    }
    if !std::mem::replace(has_told, true) {
        let told = made.iter().map(|made| made.told.clone());
        tell(plans, &told.collect::<Vec<_>>(), &tools.progress);
    }
    deliver(made, destinations, tools).await
}

/// The same error for all plans: the first has it.
fn alike(plans: &[Arc<Plan>], error: Error) -> Vec<Result<Built, Error>> {
    let others = plans.iter().skip(1).map(|_| Err(Error::Undelivered));
    std::iter::once(Err(error)).chain(others).collect()
}

/// The lock of each plan's project, opened once.
fn pinnings(plans: &[Arc<Plan>]) -> Vec<Result<Pinning, Error>> {
    let mut opened: BTreeMap<(&Path, bool), Pinning> = BTreeMap::new();
    let pins = plans.iter().map(|plan| {
        let key = (plan.project.as_path(), plan.is_archive);
        if let Some(pins) = opened.get(&key) {
            return Ok(pins.clone());
        }
        let pins = Pinning::open(plan, Renewal::default())?;
        opened.insert(key, pins.clone());
        Ok(pins)
    });
    pins.collect()
}

/// Makes all images, while layers of one go up already.
async fn attempt(
    plans: &[Arc<Plan>],
    pins: &[Pinning],
    tools: &Tools,
) -> Result<(Vec<Result<Unnamed, Error>>, Destinations), Vec<Result<Built, Error>>> {
    let references: Vec<_> = plans.iter().map(|plan| plan.push.as_slice()).collect();
    let destinations = Destinations::begin(&references, tools);
    let destinations = destinations.map_err(|error| alike(plans, error))?;
    let (announcer, early) = destinations.listen();
    let (progress, _attempt) = tools.progress.attempt();
    let (once, run) = Once::begin();
    let earlier = Earlier::of(plans);
    let of = |(plan, pins): (usize, &Pinning)| Tools {
        made: announcer.of(plan),
        earlier: earlier.clone(),
        progress: progress.clone(),
        pins: pins.clone(),
        once: once.clone(),
        ..tools.clone()
    };
    let all = plans.iter().zip(pins.iter().enumerate().map(of));
    let all = all.map(|(plan, tools)| async move { Box::pin(make(plan, &tools)).await });
    let making = async {
        let made: Vec<_> = stream::iter(all).buffered(PARALLEL).collect().await;
        // Of images that never come nothing has to be sent.
        if made.iter().any(Result::is_err) {
            return Err(made);
        }
        announcer.end();
        Ok(made)
    };
    let early = async {
        early.await;
        Ok(())
    };
    let done = tokio::try_join!(making, early);
    let made = done.map_or_else(|failed| failed, |(made, ())| made);
    // It holds what failed as well.
    drop(run);
    Ok((made.into_iter().map(own).collect(), destinations))
}

/// Has an error that nobody else has be itself.
fn own<T>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(Error::Shared(error)) => Err(Arc::try_unwrap(error).unwrap_or_else(Error::Shared)),
        result => result,
    }
}

/// Writes the images, names them once all are written, and pushes them.
async fn deliver(
    made: Vec<Unnamed>,
    destinations: Destinations,
    tools: &Tools,
) -> Result<Vec<Result<Built, Error>>, Vec<Result<Built, Error>>> {
    let mut written = Vec::new();
    for Unnamed { built, package, .. } in made {
        let done = outputs::write(&built, package, &tools.own(&built.plan)).await;
        written.push(done.map(|()| built));
    }
    let built = whole(written)?;
    let kept = built
        .iter()
        .map(|built| keep(&built.image, &built.plan.names, tools));
    whole(kept.collect())?;
    let images: Vec<_> = built.iter().map(|built| &built.image).collect();
    let pushed = Box::pin(destinations.finish(&images)).await;
    // Of what failed it decides whether there is another try.
    if pushed.iter().all(Result::is_ok) {
        cache::tell_damage(tools);
    }
    let done = built.into_iter().zip(pushed);
    Ok(done
        .map(|(built, pushed)| {
            Ok(Built {
                pushed: pushed?,
                ..built
            })
        })
        .collect())
}

/// Tells what the user should know before.
fn warn(plans: &[Arc<Plan>], progress: &Progress) {
    let warnings = plans.iter().map(|plan| {
        let warnings = plan.warnings.iter();
        warnings.map(|text| (true, text.clone())).collect()
    });
    tell(plans, &warnings.collect::<Vec<_>>(), progress);
}

/// Says what there is to say of each function, and of all at once what is so of all.
fn tell(plans: &[Arc<Plan>], told: &[Vec<(bool, String)>], progress: &Progress) {
    let say = |progress: &Progress, (is_warning, text): &(bool, String)| {
        if *is_warning {
            progress.warn(text.clone());
        } else {
            progress.detail(text.clone());
        }
    };
    let first = told.first().into_iter().flatten();
    let of_all: Vec<_> = first
        .filter(|text| told.iter().all(|told| told.contains(text)))
        .collect();
    for text in &of_all {
        say(progress, text);
    }
    for (plan, told) in plans.iter().zip(told) {
        let progress = progress.headed(plan.heading());
        for text in told.iter().filter(|text| !of_all.contains(text)) {
            say(&progress, text);
        }
    }
}

/// All of a plan that may decide what is beside the function itself.
fn common(plan: &Plan) -> String {
    let plan = Plan {
        function: None,
        source: PathBuf::new(),
        handler: None,
        handler_in_base: false,
        running: plan::image::Running::default(),
        files: Vec::new(),
        exclude: Vec::new(),
        names: Vec::new(),
        outputs: Vec::new(),
        packages: Vec::new(),
        push: Vec::new(),
        cache_from: Vec::new(),
        flags: Vec::new(),
        warnings: Vec::new(),
        ignored: BTreeSet::new(),
        ..plan.clone()
    };
    format!("{plan:?}")
}

/// What the wheels of a plan are placed and compiled for.
fn onto(base: &Base, compiler: Option<&Compiler>) -> String {
    let digest = base.image.manifest.digest();
    let compiler = compiler.map(Compiler::identity);
    format!("{digest} {} {} {compiler:?}", base.glibc, base.interpreter)
}

/// All of a plan that decides who compiles.
fn compiler_key(plan: &Plan) -> String {
    let by = (&plan.base, &plan.interpreter, plan.bytecode, &plan.policy);
    let project = plan.project.display();
    format!("compiler {} {by:?} {project}", plan.runtime.python)
}

/// All of a plan that decides the base.
fn base_key(plan: &Plan) -> String {
    let base = (&plan.base, plan.architecture, plan.glibc, &plan.interpreter);
    let policy = (&plan.policy, plan.epoch, &plan.project);
    format!("base {} {base:?} {policy:?}", plan.runtime.python)
}

/// Who compiles, found once.
pub(super) async fn compiler(plan: &Arc<Plan>, tools: &Tools) -> Result<Option<Compiler>, Error> {
    let key = compiler_key(plan);
    let find = super::compiler(plan, false, tools);
    tools.once.of(&key, Box::pin(find)).await
}

/// The base, pinned once.
pub(super) async fn base(plan: &Arc<Plan>, tools: &Tools) -> Result<Base, Error> {
    let key = base_key(plan);
    tools
        .once
        .of(&key, Box::pin(base::resolve(plan, tools)))
        .await
}

/// The runtime client's layer, made once.
pub(super) async fn bootstrap(
    plan: &Arc<Plan>,
    base: &Base,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<Option<(WheelLayer, Vec<LockedWheel>)>, Error> {
    let key = format!("bootstrap {} {}", onto(base, compiler), common(plan));
    let make = bootstrap::layer(plan, base, compiler, tools);
    tools.once.of(&key, Box::pin(make)).await
}

/// The layers of what several functions need alike, made once.
pub(super) async fn dependencies(
    plan: &Arc<Plan>,
    base: &Base,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<Dependencies, Error> {
    let key = format!("dependencies {} {}", onto(base, compiler), common(plan));
    let make = dependencies::layers(plan, base, compiler, tools);
    tools.once.of(&key, Box::pin(make)).await
}

/// The files of what several functions need alike, listed once.
pub(super) async fn tree(
    plan: &Plan,
    base: &Base,
    dependencies: &Dependencies,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let key = format!("tree {} {}", onto(base, None), common(plan));
    let read = dependencies::tree(plan, base, dependencies, tools);
    tools.once.of(&key, Box::pin(read)).await
}

/// What `/opt` is given alike, made once.
pub(super) async fn extensions(
    plan: &Arc<Plan>,
    tools: &Tools,
) -> Result<Arc<Vec<opt::Given>>, Error> {
    let key = format!("extensions {}", common(plan));
    let make = async { opt::layers(plan, tools).await.map(Arc::new) };
    tools.once.of(&key, Box::pin(make)).await
}

/// What the project's wheel holds, which is built once.
pub(super) async fn project(
    plan: &Arc<Plan>,
    base: &Base,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let target = dependencies::target(plan, base);
    let by = (&plan.project, plan.resolver, &plan.policy, plan.epoch);
    let of_wheel = format!("project {target} {by:?}");
    let of_tree = format!("project's tree {} {}", onto(base, None), common(plan));
    let work = async {
        let build = Box::pin(project::wheel(plan, target, tools));
        let wheel = tools.once.of(&of_wheel, build).await?;
        dependencies::tree_of_one(plan, base, wheel, tools).await
    };
    tools.once.of(&of_tree, Box::pin(work)).await
}

/// Why there are no locks.
#[derive(Debug)]
pub struct Unlocked {
    /// The function that it is so of, if it is one's.
    pub function: Option<String>,
    /// Why.
    pub error: Error,
}

impl From<Error> for Unlocked {
    fn from(error: Error) -> Self {
        Self {
            function: None,
            error,
        }
    }
}

/// What is locked already.
#[derive(Default)]
struct Locked {
    bases: BTreeMap<String, Base>,
    /// Questions that are answered.
    done: BTreeSet<String>,
}

/// Makes the locks of what decides the plans' images, each once, and gives their paths: those of packages, unless there
/// are none or another tool has them, and that of all else.
///
/// # Errors
/// Those of the first function that has one.
pub async fn lock(
    plans: Vec<Plan>,
    renewal: Renewal,
    tools: &Tools,
) -> Result<Vec<PathBuf>, Unlocked> {
    let plans = together(plans);
    warn(&plans, &tools.progress);
    let to_lock = plans
        .iter()
        .map(|plan| locking::to_lock(plan, &renewal.others));
    let to_lock: Vec<_> = to_lock.collect();
    // One that has nothing to lock is no reason to leave the others.
    let has_nothing = |done: &Result<(), Error>| matches!(done, Err(Error::NothingToLock(_)));
    let nobody_has = to_lock.iter().all(has_nothing);
    let refused = to_lock
        .into_iter()
        .filter(|done| nobody_has || !has_nothing(done));
    refused.collect::<Result<(), _>>()?;
    let Some(first) = plans.first() else {
        return Ok(Vec::new());
    };
    let upgrade = renewal.others.clone();
    let tools = &Tools {
        pins: Pinning::open(first, renewal)?,
        ..tools.clone()
    };
    let (mut paths, mut locked) = (Vec::new(), Locked::default());
    for plan in &plans {
        let of_plan = lock_one(plan, &upgrade, &mut locked, tools).await;
        let of_plan = of_plan.map_err(|error| Unlocked {
            function: plan.function.clone(),
            error,
        });
        paths.extend(of_plan?);
    }
    tools
        .pins
        .retain_extensions(plans.iter().map(|plan| &**plan));
    tools.pins.keep(true, &tools.progress)?;
    let left = locking::left_over(&plans)?;
    if !left.is_empty() {
        let names = left.join(", ");
        tools.progress.step(format!(
            "locks that no function has any more and that may be deleted: {names}"
        ));
    }
    paths.extend(tools.pins.path().map(Path::to_owned));
    let mut seen = BTreeSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    Ok(paths)
}

/// Locks what one plan asks that was not asked yet, and gives the path of its packages' lock.
async fn lock_one(
    plan: &Arc<Plan>,
    upgrade: &Upgrade,
    locked: &mut Locked,
    tools: &Tools,
) -> Result<Option<PathBuf>, Error> {
    // The base decides what fits.
    let base = match locked.bases.entry(base_key(plan)) {
        Entry::Occupied(base) => base.into_mut(),
        Entry::Vacant(base) => base.insert(base::resolve(plan, tools).await?),
    };
    let done = &mut locked.done;
    let target = dependencies::target(plan, base);
    let question = (&plan.needs, &plan.wanted, &plan.exclude_newer, &plan.builds);
    let question = format!("packages {target} {:?} {question:?}", plan.resolver);
    let path = if done.insert(question) {
        locking::lock(plan, target, upgrade, tools).await?
    } else {
        None
    };
    if done.insert(format!("rest {} {}", onto(base, None), common(plan))) {
        dependencies::pin(plan, base, tools).await?;
        if !base.has_runtime_client {
            let lines = &plan.runtime.runtime_client;
            dependencies::of_lines(plan, base, lines, tools).await?;
        }
        opt::pin(plan, tools).await?;
        if done.insert(compiler_key(plan)) {
            super::compiler(plan, true, tools).await?;
        }
    }
    Ok(path)
}
