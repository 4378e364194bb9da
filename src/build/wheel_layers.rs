//! Wheels become layers: fetched, placed, seen as they go by, stacked so that the later in the lock wins.
//!
//! A layer is made as soon as its own wheels are there, the most expensive first, while others are still
//! fetched. Where two layers bring a path with other bytes the higher one wins; where that would be the wrong
//! one, the path is left out of it. This is seen when all wheels are there, and such a layer made again. No
//! timing decides a byte: what a layer holds follows from the wheels alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use futures_util::future::try_join_all;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use crate::blob_store::{self, MemoKey};
use crate::build::claims::{self, Claims};
use crate::build::compiling::{self, Bytecode, Compiler, Counts};
use crate::build::earlier::{Found, Key};
use crate::build::layering::{self, Package, Rule};
use crate::build::{Error, Tools, function};
use crate::file_tree::{self, Collision, Content, Entry, FileTree, ImagePath, Node};
use crate::oci::layer::{self, Layer, Look, Options, Packing, Witness};
use crate::progress::Progress;
use crate::python::credentials::Credentials;
use crate::python::examination::{self, Examination, Examiner};
use crate::python::lock::{LockedFile, LockedWheel};
use crate::python::wheel::{self, Archive, Placed, Placement};
use crate::python::{Target, fetch};

/// Changes whenever the tree of a wheel does.
pub(super) const FORMAT: &str = "wheels 4";
/// Changes whenever more is found in a wheel, or refused.
const EXAMINED: &str = "examined 1";
/// Layers made at once; more would wait for the disk.
const MAX_PARALLEL: usize = 4;

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
    /// Whether bytecode may lie below that would be taken unseen for that of the wheels' modules.
    pub(super) over_bytecode: bool,
}

/// Wheels, and where they can be had.
#[derive(Debug, Clone, Default)]
pub(super) struct Wheels {
    /// The wheels, in the order of their lock.
    pub(super) locked: Vec<LockedWheel>,
    /// The directory that relative paths in the lock start from.
    pub(super) directory: PathBuf,
    /// Who the user is for whoever has them.
    pub(super) credentials: Credentials,
}

/// Layers of wheels, the lowest first, and what all of them were made for together.
#[derive(Debug, Clone)]
pub(super) struct WheelLayers {
    pub(super) layers: Vec<WheelLayer>,
    pub(super) key: Key,
}

/// A layer of wheels.
#[derive(Debug, Clone)]
pub struct WheelLayer {
    /// The layer.
    pub layer: Layer,
    /// What it was made for.
    pub key: Key,
    /// What it lays claim to, if that is few enough.
    pub(super) claims: Option<Claims>,
    /// What is in it, in words.
    pub what: String,
    /// The packages in it, by normal names in the order of their lock.
    pub packages: Vec<String>,
    /// What patterns kept out of it, by its path below the root.
    pub left_out: Vec<String>,
    /// How much bytecode is in it.
    pub bytecode: Counts,
}

/// What a layer of these packages is, in a few words.
pub(super) fn in_words(packages: &[(&str, Option<&str>)], first_party: bool) -> String {
    let whose = if first_party {
        "own packages"
    } else {
        "dependencies"
    };
    format!("{whose}: {}", names_of(packages))
}

/// The first few of some packages, and how many more there are.
fn names_of(packages: &[(&str, Option<&str>)]) -> String {
    const NAMED: usize = 4;
    let names = packages.iter().take(NAMED);
    let names = names.map(|(name, version)| match version {
        Some(version) => format!("{name} {version}"),
        None => (*name).to_owned(),
    });
    let mut text = names.collect::<Vec<_>>().join(", ");
    if let Some(more) = packages.len().checked_sub(NAMED).filter(|n| *n > 0) {
        let _ = write!(text, " and {more} more");
    }
    text
}

impl Wheels {
    fn files<'a>(&self, places: impl IntoIterator<Item = &'a usize>) -> Vec<LockedFile> {
        let places = places.into_iter();
        places.map(|&place| self.locked[place].file()).collect()
    }

    async fn fetch(
        &self,
        files: &[LockedFile],
        tools: &Tools,
        arrived: &(dyn Fn(usize) + Sync),
    ) -> Result<(), Error> {
        let (client, store, progress) = (&tools.client, &tools.store, &tools.progress);
        // Others of the run may want the same; in one order, so that nobody waits for whoever waits for him.
        let absent = files.iter().map(|file| file.digest);
        let absent: BTreeSet<_> = absent.filter(|wheel| store.size(wheel).is_none()).collect();
        let mut turns = Vec::new();
        for wheel in absent {
            turns.push(tools.once.turn(&format!("fetch {wheel}")).await);
        }
        let (credentials, directory) = (&self.credentials, &self.directory);
        let fetching = fetch::fetch_each(
            client,
            credentials,
            store,
            directory,
            files,
            progress,
            arrived,
        );
        Ok(fetching.await?)
    }

    /// The wheels' lengths in bytes; those that the lock does not give are found out once.
    async fn sizes(&self, tools: &Tools) -> Result<Vec<u64>, Error> {
        let told: Option<Vec<u64>> = self.locked.iter().map(|wheel| wheel.size).collect();
        if let Some(told) = told {
            return Ok(told);
        }
        let store = &tools.store;
        let known = store.recall::<Vec<u64>>(&self.sizes_key());
        if let Some(sizes) = known.filter(|sizes| sizes.len() == self.locked.len()) {
            return Ok(sizes);
        }
        let size = |wheel: &LockedWheel| wheel.size.or_else(|| store.size(&wheel.digest));
        let absent = self.locked.iter().filter(|wheel| size(wheel).is_none());
        let absent: Vec<_> = absent.map(LockedWheel::file).collect();
        self.fetch(&absent, tools, &|_| {}).await?;
        let sizes = self
            .locked
            .iter()
            .map(|wheel| size(wheel).ok_or(Error::Store(blob_store::Error::Missing(wheel.digest))));
        sizes.collect()
    }

    /// Remembers the lengths that the lock does not give, once the wheels are seen to be whole.
    fn remember(&self, sizes: &[u64], tools: &Tools) -> Result<(), Error> {
        if self.locked.iter().any(|wheel| wheel.size.is_none()) {
            tools.store.remember(&self.sizes_key(), &sizes)?;
        }
        Ok(())
    }

    fn sizes_key(&self) -> MemoKey {
        let digests = self.locked.iter().map(|wheel| wheel.digest.to_string());
        MemoKey::new("sizes 2", digests)
    }
}

/// Makes the layers of these wheels, at most `most` of them, with `beside` over them; those made before are taken
/// unless `no_cache` is set. With `compiler` they have bytecode in them.
#[expect(
    clippy::too_many_arguments,
    reason = "each is said by another part of the plan"
)]
pub(super) async fn make(
    wheels: &Wheels,
    place: &Place,
    beside: Option<FileTree>,
    most: usize,
    options: Options,
    no_cache: bool,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<WheelLayers, Error> {
    let sizes = wheels.sizes(tools).await?;
    let packages = wheels.locked.iter().zip(&sizes);
    let packages = packages.map(|(wheel, &size)| Package {
        name: &wheel.name,
        // As much as its file, if that follows from what is in it.
        size: wheel.built.map_or(size, |contents| contents.size),
        first_party: wheel.first_party,
    });
    let packages: Vec<_> = packages.collect();
    let mut groups = layering::groups(&packages, Rule::with_most(most));
    if groups.is_empty() && beside.is_some() {
        groups.push(Vec::new());
    }
    let expense = |group: &Vec<usize>| group.iter().map(|&place| packages[place].size).sum();
    let stack = Arc::new(Stack {
        expense: groups.iter().map(expense).collect(),
        groups,
        wheels: wheels.clone(),
        place: place.clone(),
        beside,
        options,
        no_cache,
        compiler: compiler.cloned(),
        placed: wheels.locked.iter().map(|_| OnceLock::new()).collect(),
        bytecode: wheels.locked.iter().map(|_| OnceLock::new()).collect(),
        makers: Semaphore::new(makers()),
        tools: tools.clone(),
    });
    let together = stack.shadows_key()?.digest();
    let key = Key::from(&layer::memo_key(options, [together.as_bytes()]));
    let layers = stack.layers(&key).await?;
    wheels.remember(&sizes, tools)?;
    Ok(WheelLayers { layers, key })
}

fn makers() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    processors.min(MAX_PARALLEL)
}

/// The files of these wheels, as they will stand in the image.
pub(super) async fn tree(wheels: &Wheels, place: &Place, tools: &Tools) -> Result<FileTree, Error> {
    let files: Vec<_> = wheels.locked.iter().map(LockedWheel::file).collect();
    wheels.fetch(&files, tools, &|_| {}).await?;
    let (wheels, place, owned) = (wheels.locked.clone(), place.clone(), tools.clone());
    let read = move || {
        let mut tree = FileTree::default();
        for wheel in &wheels {
            let archive = open(wheel, &owned)?;
            let placed = place.wheel(wheel, &archive)?;
            let examination = examined(wheel, &owned, || examiner(wheel, archive))?;
            for told in held_against(place.target, examination, wheel, &placed)? {
                told.say(wheel, &owned.progress);
            }
            tree.merge(placed.tree)?;
        }
        Ok(tree)
    };
    tools.block(read).await?
}

/// The files of these wheels as one layer of all of them has them, with bytecode by `compiler`.
pub(super) async fn tree_of_all(
    wheels: &Wheels,
    place: &Place,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let all: Vec<_> = (0..wheels.locked.len()).collect();
    wheels.fetch(&wheels.files(&all), tools, &|_| {}).await?;
    let stack = Stack {
        expense: Vec::new(),
        groups: vec![all.clone()],
        wheels: wheels.clone(),
        place: place.clone(),
        beside: None,
        options: Options::default(),
        no_cache: false,
        compiler: compiler.cloned(),
        placed: wheels.locked.iter().map(|_| OnceLock::new()).collect(),
        bytecode: wheels.locked.iter().map(|_| OnceLock::new()).collect(),
        makers: Semaphore::new(makers()),
        tools: tools.clone(),
    };
    let read = move || {
        let mut witnesses = Witnesses::default();
        for wheel in all {
            // What there is to say of it was said when its layer was made.
            stack.examined(wheel, &mut witnesses)?;
        }
        stack.tree(0, &BTreeSet::new())
    };
    tools.block(read).await?
}

impl Place {
    /// Puts one wheel into its place, as far as its archive's directory tells.
    fn wheel(&self, wheel: &LockedWheel, archive: &Archive) -> Result<Placed, Error> {
        let root = ImagePath::new(self.root).map_err(file_tree::Error::from)?;
        let exclude = patterns(&self.exclude)?;
        let placement = Placement {
            root: &root,
            interpreter: &self.interpreter,
            exclude: &exclude,
        };
        let placed = wheel::file_tree(archive, &placement);
        placed.map_err(|source| refused(wheel, source))
    }
}

fn refused(wheel: &LockedWheel, source: wheel::Error) -> Error {
    Error::Wheel {
        file: wheel.filename.to_string(),
        source,
    }
}

/// The key of what was found in a wheel, which its digest decides.
fn examination_key(wheel: &LockedWheel) -> MemoKey {
    let names = [wheel.name.as_bytes(), wheel.version.as_bytes()];
    let digest = [wheel.digest.as_bytes().as_slice()];
    MemoKey::new(EXAMINED, digest.into_iter().chain(names))
}

/// Opens a wheel of the store. What no check sum of its own covers is held against what it was when all of the
/// wheel was last held against its digest.
fn open(wheel: &LockedWheel, tools: &Tools) -> Result<Archive, Error> {
    let store = &tools.store;
    let path = store.path(&wheel.digest);
    let archive = Archive::open(&path, &wheel.name, &wheel.version);
    let archive = archive.map_err(|source| refused(wheel, source))?;
    let key = MemoKey::new("directory 1", [wheel.digest.as_bytes()]);
    if store.recall(&key) != Some(archive.digest) {
        if !store.has_brought(&wheel.digest) {
            store.prove(&wheel.digest)?;
        }
        store.remember(&key, &archive.digest)?;
    }
    Ok(archive)
}

fn examiner(wheel: &LockedWheel, archive: Archive) -> Result<Examiner, Error> {
    Examiner::of(archive).map_err(|source| refused(wheel, source))
}

/// What was found in a wheel before.
fn found_before(wheel: &LockedWheel, tools: &Tools) -> Option<Examination> {
    tools.store.recall(&examination_key(wheel))
}

/// What is in a wheel: looked at once, and remembered unless it is refused.
fn examined(
    wheel: &LockedWheel,
    tools: &Tools,
    examiner: impl FnOnce() -> Result<Examiner, Error>,
) -> Result<Examination, Error> {
    if let Some(examination) = found_before(wheel, tools) {
        return Ok(examination);
    }
    let examination = examiner()?.finish(tools.store.root());
    let examination = examination.map_err(|source| refused(wheel, source))?;
    tools
        .store
        .remember(&examination_key(wheel), &examination)?;
    Ok(examination)
}

/// Holds what was found in a wheel against the target, and gives what there is to say of it.
fn held_against(
    target: Target,
    found: Examination,
    wheel: &LockedWheel,
    placed: &Placed,
) -> Result<Vec<Told>, Error> {
    let is_taken = |member: &str| placed.members.contains(member);
    let fit = found.fit(&wheel.filename, target, is_taken);
    let fit = fit.map_err(|source| refused(wheel, source))?;
    let details = found.details.into_iter().chain(fit).map(Told::Detail);
    let warnings = found.warnings.into_iter().map(Told::Warning);
    Ok(details.chain(warnings).collect())
}

/// Paths that each layer has to leave to one below it.
type Shadows = Vec<BTreeSet<String>>;

/// What came of one layer, with what its user should be told of each wheel.
#[derive(Clone)]
struct Outcome {
    layer: Layer,
    key: Key,
    about: About,
    told: Vec<(usize, Told)>,
}

/// What is known of a layer beside its bytes.
#[derive(Clone, Default, Serialize, Deserialize)]
struct About {
    /// What patterns kept out of it.
    left_out: Vec<String>,
    /// What it lays claim to, if that is few enough.
    claims: Option<Claims>,
    /// How much bytecode is in it, as far as that is known.
    bytecode: Counts,
}

#[derive(Clone)]
enum Told {
    Detail(String),
    Warning(String),
}

impl Told {
    fn say(&self, wheel: &LockedWheel, progress: &Progress) {
        let file = wheel.filename.as_str();
        match self {
            Self::Detail(text) => progress.detail(format!("{file}: {text}")),
            Self::Warning(text) => progress.warn(format!("{file}: {text}")),
        }
    }
}

/// The layers to be, lowest first.
struct Stack {
    groups: Vec<Vec<usize>>,
    /// Bytes of each one's wheels.
    expense: Vec<u64>,
    wheels: Wheels,
    place: Place,
    /// What lies over the wheels, in the highest.
    beside: Option<FileTree>,
    options: Options,
    no_cache: bool,
    compiler: Option<Compiler>,
    placed: Vec<OnceLock<Placed>>,
    bytecode: Vec<OnceLock<Bytecode>>,
    makers: Semaphore,
    tools: Tools,
}

impl Stack {
    async fn layers(self: Arc<Self>, key: &Key) -> Result<Vec<WheelLayer>, Error> {
        let known = self.recall_shadows()?;
        let shadows = known
            .clone()
            .unwrap_or_else(|| vec![BTreeSet::new(); self.groups.len()]);
        let mut done = Vec::new();
        for (group, shadowed) in shadows.iter().enumerate() {
            done.push(self.recall(group, shadowed)?);
        }
        let all_taken = self.take_over(key, &shadows, &mut done).await?;
        let missing = self.by_expense(|group| done[group].is_none());
        self.bring(&missing, &shadows, &mut done).await?;
        if known.is_none() && !all_taken {
            let seen = self.seen(missing, &done).await?;
            let work = Arc::clone(&self);
            let (shadows, collisions) = self.tools.block(move || work.shadows(&seen)).await??;
            self.make_again(&shadows, &mut done).await?;
            self.tools.store.remember(&self.shadows_key()?, &shadows)?;
            for Collision {
                path,
                earlier,
                later,
            } in collisions
            {
                self.tools.progress.warn(format!(
                    "{path} is in {earlier} and in {later} with other contents; the later in the lock has it"
                ));
            }
        }
        self.tell(&done);
        let layers = done.into_iter().flatten().zip(&self.groups);
        Ok(layers
            .map(|(outcome, group)| self.layer(outcome, group))
            .collect())
    }

    /// Takes over what earlier images have of the layers that are not done; whether these are all of one image
    /// with the same packages, so that it is known how they lie above each other.
    async fn take_over(
        &self,
        key: &Key,
        shadows: &Shadows,
        done: &mut [Option<Outcome>],
    ) -> Result<bool, Error> {
        if self.no_cache || done.iter().all(Option::is_some) {
            return Ok(false);
        }
        let (earlier, count) = (&self.tools.earlier, self.groups.len());
        let taken = |found: Found| Outcome {
            layer: found.layer,
            key: found.key,
            about: About {
                claims: found.claims,
                ..About::default()
            },
            told: Vec::new(),
        };
        if let Some(layers) = earlier.packages(key, count, &self.tools).await {
            for (done, layer) in done.iter_mut().zip(layers) {
                // What is known here says more.
                done.get_or_insert_with(|| taken(layer));
            }
            return Ok(true);
        }
        for (group, done) in done.iter_mut().enumerate() {
            if done.is_none() {
                let key = Key::from(&self.keys(group, &shadows[group])?.0);
                let found = if self.beside.is_some() {
                    // No layer of packages, so nothing is claimed.
                    earlier.single(&key, &self.tools).await
                } else {
                    earlier.package(&key, &self.tools).await
                };
                *done = found.map(taken);
            }
        }
        Ok(false)
    }

    fn layer(&self, outcome: Outcome, group: &[usize]) -> WheelLayer {
        let mut wheels = group.iter().map(|&place| &self.wheels.locked[place]);
        let packages = self.packages(group);
        WheelLayer {
            layer: outcome.layer,
            key: outcome.key,
            claims: outcome.about.claims,
            what: in_words(&packages, wheels.all(|wheel| wheel.first_party)),
            packages: packages
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            left_out: outcome.about.left_out,
            bytecode: outcome.about.bytecode,
        }
    }

    fn packages(&self, group: &[usize]) -> Vec<(&str, Option<&str>)> {
        let wheels = group.iter().map(|&place| &self.wheels.locked[place]);
        wheels
            .map(|wheel| (&*wheel.name, Some(&*wheel.version)))
            .collect()
    }

    /// Says of the wheels what there is to say, in the order of their lock.
    fn tell(&self, done: &[Option<Outcome>]) {
        let outcomes = done.iter().flatten();
        let mut told: Vec<_> = outcomes.flat_map(|outcome| &outcome.told).collect();
        told.sort_by_key(|(place, _)| *place);
        for (place, told) in told {
            told.say(&self.wheels.locked[*place], &self.tools.progress);
        }
    }

    /// The groups that `wanted` holds for, those with most bytes first.
    fn by_expense(&self, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut groups: Vec<_> = (0..self.groups.len())
            .filter(|&group| wanted(group))
            .collect();
        groups.sort_by_key(|&group| (Reverse(self.expense[group]), group));
        groups
    }

    /// The groups whose paths have to be looked at to know which has to leave what to another: those made `now`
    /// where all layers are apart as far as they say, else all, whose wheels are fetched for it.
    async fn seen(
        &self,
        now: Vec<usize>,
        done: &[Option<Outcome>],
    ) -> Result<BTreeSet<usize>, Error> {
        let now: BTreeSet<_> = now.into_iter().collect();
        let claims = done.iter().flatten();
        if claims::are_apart(claims.map(|outcome| outcome.about.claims.as_ref())) {
            return Ok(now);
        }
        let others = self.by_expense(|group| !now.contains(&group));
        let files = self
            .wheels
            .files(others.iter().flat_map(|&group| &self.groups[group]));
        self.wheels.fetch(&files, &self.tools, &|_| {}).await?;
        Ok((0..self.groups.len()).collect())
    }

    /// Makes these layers, each once its wheels are there.
    async fn bring(
        self: &Arc<Self>,
        missing: &[usize],
        shadows: &Shadows,
        done: &mut [Option<Outcome>],
    ) -> Result<(), Error> {
        let groups = || missing.iter().map(|&group| &self.groups[group]);
        let (arrivals, waiting) = Arrivals::new(groups());
        let files = self.wheels.files(groups().flatten());
        let arrived = |file| arrivals.file(file);
        let fetching = self.wheels.fetch(&files, &self.tools, &arrived);
        let making = missing
            .iter()
            .zip(waiting)
            .map(|(&group, is_there)| async move {
                is_there.await.map_err(|_| Error::Interrupted)?;
                Ok((group, self.made(group, shadows[group].clone()).await?))
            });
        let ((), made) = tokio::try_join!(fetching, try_join_all(making))?;
        for (group, outcome) in made {
            done[group] = Some(outcome);
        }
        Ok(())
    }

    /// Makes those layers anew that turned out to have to leave something out.
    async fn make_again(
        self: &Arc<Self>,
        shadows: &Shadows,
        done: &mut [Option<Outcome>],
    ) -> Result<(), Error> {
        let again = self.by_expense(|group| !shadows[group].is_empty());
        let making = again.into_iter().map(|group| async move {
            let recalled = self.recall(group, &shadows[group])?;
            let outcome = match recalled {
                Some(outcome) => outcome,
                None => self.made(group, shadows[group].clone()).await?,
            };
            Ok::<_, Error>((group, outcome))
        });
        for (group, mut outcome) in try_join_all(making).await? {
            // What was found in the wheels when it was first made holds for one that is recalled.
            if let Some(before) = done[group].take().filter(|_| outcome.told.is_empty()) {
                outcome.told = before.told;
            }
            done[group] = Some(outcome);
        }
        Ok(())
    }

    /// Makes a layer when it is its turn.
    async fn made(
        self: &Arc<Self>,
        group: usize,
        shadowed: BTreeSet<String>,
    ) -> Result<Outcome, Error> {
        let _turn = self
            .makers
            .acquire()
            .await
            .map_err(|_| Error::Interrupted)?;
        let key = self.keys(group, &shadowed)?.0.digest();
        let work = Arc::clone(self);
        let make = async {
            let made = self.tools.block(move || work.make(group, &shadowed));
            made.await?
        };
        self.tools.once.of(&format!("layer {key}"), make).await
    }

    /// What decides the layer of a group.
    fn inputs(&self, group: usize, shadowed: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let place = &self.place;
        let mut inputs = vec![
            FORMAT.to_owned(),
            claims::FORMAT.to_owned(),
            place.root.to_owned(),
            place.interpreter.clone(),
            place.target.to_string(),
            place.exclude.join("\n"),
        ];
        let wheels = self.groups[group].iter();
        inputs.extend(wheels.map(|&place| self.wheels.locked[place].identity().to_string()));
        if let Some(beside) = self.beside(group) {
            inputs.push(beside.digest()?.to_string());
        }
        inputs.extend(self.compiler.iter().map(Compiler::identity));
        if self.is_masked() {
            inputs.push("masked".to_owned());
        }
        if !shadowed.is_empty() {
            inputs.push("without".to_owned());
            inputs.extend(shadowed.iter().cloned());
        }
        Ok(inputs)
    }

    /// How a group is compressed: how the backend of a wheel built here did is up to the machine that it ran on.
    fn options(&self, group: usize) -> Options {
        let mut wheels = self.groups[group].iter();
        if wheels.any(|&place| self.wheels.locked[place].built.is_some()) {
            let packing = Packing::Recompressed;
            return Options {
                packing,
                ..self.options
            };
        }
        self.options
    }

    fn is_masked(&self) -> bool {
        self.compiler.is_none() && self.place.over_bytecode
    }

    fn beside(&self, group: usize) -> Option<&FileTree> {
        let is_highest = group + 1 == self.groups.len();
        self.beside.as_ref().filter(|_| is_highest)
    }

    /// The keys of a group's layer and of what is known of it.
    fn keys(&self, group: usize, shadowed: &BTreeSet<String>) -> Result<(MemoKey, MemoKey), Error> {
        let inputs = self.inputs(group, shadowed)?;
        let key = layer::memo_key(self.options(group), &inputs);
        Ok((key, MemoKey::new("about 1", &inputs)))
    }

    /// The layer made before, unless it may not be taken.
    fn recall(&self, group: usize, shadowed: &BTreeSet<String>) -> Result<Option<Outcome>, Error> {
        if self.no_cache {
            return Ok(None);
        }
        let store = &self.tools.store;
        let (key, about_key) = self.keys(group, shadowed)?;
        let recalled = layer::recall(store, &key).zip(store.recall(&about_key));
        Ok(recalled.map(|(layer, about)| Outcome {
            layer,
            key: Key::from(&key),
            about,
            told: Vec::new(),
        }))
    }

    fn shadows_key(&self) -> Result<MemoKey, Error> {
        let mut inputs = Vec::new();
        for group in 0..self.groups.len() {
            inputs.push(format!("{:?}", self.groups[group]));
            inputs.extend(self.inputs(group, &BTreeSet::new())?);
        }
        Ok(MemoKey::new("shadows 1", inputs))
    }

    fn recall_shadows(&self) -> Result<Option<Shadows>, Error> {
        if self.no_cache {
            return Ok(None);
        }
        let known: Option<Shadows> = self.tools.store.recall(&self.shadows_key()?);
        Ok(known.filter(|shadows| shadows.len() == self.groups.len()))
    }

    /// A wheel in its place.
    fn placed(&self, wheel: usize) -> Result<&Placed, Error> {
        if let Some(placed) = self.placed[wheel].get() {
            return Ok(placed);
        }
        self.place(wheel, &open(&self.wheels.locked[wheel], &self.tools)?)
    }

    fn place(&self, wheel: usize, archive: &Archive) -> Result<&Placed, Error> {
        let placed = self.place.wheel(&self.wheels.locked[wheel], archive)?;
        Ok(self.placed[wheel].get_or_init(|| placed))
    }

    /// A wheel's bytecode, if there is to be any.
    fn bytecode(&self, wheel: usize) -> Result<Option<&Bytecode>, Error> {
        let Some(compiler) = &self.compiler else {
            return Ok(None);
        };
        if let Some(bytecode) = self.bytecode[wheel].get() {
            return Ok(Some(bytecode));
        }
        let (digest, tree) = (&self.wheels.locked[wheel].digest, &self.placed(wheel)?.tree);
        let programs = format!("{}/bin/", self.place.root);
        let made = compiler.of_wheel(digest, tree, &programs, self.no_cache, &self.tools);
        let made = made.map_err(|error| match error {
            Error::Layer(error) => self.in_its_wheel(error, tree),
            error => error,
        })?;
        Ok(Some(self.bytecode[wheel].get_or_init(|| made)))
    }

    /// These paths, and those of the bytecode that wheels bring for them.
    fn kept_out(&self, shadowed: &BTreeSet<String>) -> BTreeSet<String> {
        let mut paths = shadowed.clone();
        if let Some(compiler) = &self.compiler {
            let cached = shadowed.iter();
            paths.extend(cached.filter_map(|path| compiler.cached_path(path)));
        }
        paths
    }

    /// Puts wheels into their places and has those examined that were not before, each archive opened once.
    fn witnesses(&self, wheels: &[usize]) -> Result<Witnesses, Error> {
        let mut witnesses = Witnesses::default();
        for &wheel in wheels {
            let locked = &self.wheels.locked[wheel];
            if found_before(locked, &self.tools).is_some() {
                continue;
            }
            let archive = open(locked, &self.tools)?;
            self.place(wheel, &archive)?;
            witnesses.add(wheel, locked, examiner(locked, archive)?);
        }
        Ok(witnesses)
    }

    /// What goes into a group's layer; of two wheels with one path the later has it, as with pip.
    fn tree(&self, group: usize, shadowed: &BTreeSet<String>) -> Result<FileTree, Error> {
        let kept_out = self.kept_out(shadowed);
        let mut tree = FileTree::default();
        for &wheel in &self.groups[group] {
            for (path, entry) in self.placed(wheel)?.tree.iter() {
                if !kept_out.contains(path.as_str()) {
                    tree.insert(path.clone(), entry.node.clone(), &entry.owner)?;
                }
            }
        }
        for &wheel in &self.groups[group] {
            if let Some(bytecode) = self.bytecode(wheel)? {
                let owner = owner_of(&self.wheels.locked[wheel]);
                bytecode.put_into(&mut tree, &owner, |path| kept_out.contains(path))?;
            }
        }
        if let Some(beside) = self.beside(group) {
            tree.merge(beside.clone())?;
        }
        if self.is_masked() {
            tree.merge(compiling::masks(self.place.target.python.minor(), &tree)?)?;
        }
        Ok(tree)
    }

    /// Makes a group's layer; it gets its name when all its wheels are seen to be what they say, and to run on the
    /// target.
    fn make(&self, group: usize, shadowed: &BTreeSet<String>) -> Result<Outcome, Error> {
        let (store, wheels) = (&self.tools.store, &self.groups[group]);
        let mut witnesses = self.witnesses(wheels)?;
        let tree = self.tree(group, shadowed)?;
        let what = names_of(&self.packages(wheels));
        let size = tree.iter().map(|(_, entry)| match &entry.node {
            Node::File { content, .. } => content.size(),
            Node::Directory | Node::Symlink(_) => 0,
        });
        let task = self
            .tools
            .progress
            .task(format!("make {what}"), Some(size.sum()));
        let written = layer::write(store, &tree, self.options(group), &witnesses, &task);
        let unnamed = written.map_err(|error| self.in_its_wheel(error, &tree))?;
        let mut told = Vec::new();
        let (mut left_out, mut counts) = (Vec::new(), Counts::default());
        for &wheel in wheels {
            told.extend(self.examined(wheel, &mut witnesses)?);
            if let Some(bytecode) = self.bytecode(wheel)? {
                counts += bytecode.counts();
                told.extend(bytecode.told().map(|text| (wheel, Told::Detail(text))));
            }
            left_out.extend(self.placed(wheel)?.left_out.iter().cloned());
        }
        left_out.sort();
        let layer = unnamed.commit()?;
        let (key, about_key) = self.keys(group, shadowed)?;
        let claims = Claims::of(&tree, self.place.root.trim_start_matches('/'));
        let about = About {
            left_out,
            claims,
            bytecode: counts,
        };
        store.remember(&about_key, &about)?;
        layer::remember(store, &key, &layer)?;
        task.done();
        self.tools.made.made(&layer);
        Ok(Outcome {
            layer,
            key: Key::from(&key),
            about,
            told,
        })
    }

    /// Holds a wheel against the target, once all of it was seen.
    fn examined(
        &self,
        wheel: usize,
        witnesses: &mut Witnesses,
    ) -> Result<Vec<(usize, Told)>, Error> {
        let locked = &self.wheels.locked[wheel];
        let examination = examined(locked, &self.tools, || match witnesses.take(wheel) {
            Some(examiner) => Ok(examiner),
            None => examiner(locked, open(locked, &self.tools)?),
        })?;
        let told = held_against(self.place.target, examination, locked, self.placed(wheel)?)?;
        Ok(told.into_iter().map(|told| (wheel, told)).collect())
    }

    /// A member that cannot be read is its wheel's fault, not the layer's.
    fn in_its_wheel(&self, error: layer::Error, tree: &FileTree) -> Error {
        let layer::Error::Read { path, source } = error else {
            return error.into();
        };
        let entry = tree.get(path.as_str());
        let member = entry.and_then(|entry| Some((member_of(entry)?, &entry.owner)));
        let wheels = self.wheels.locked.iter();
        let wheel = member.and_then(|(member, owner)| {
            let mut wheels = wheels.filter(|wheel| owner_of(wheel) == **owner);
            Some((member, wheels.next()?))
        });
        match wheel {
            Some((member, wheel)) => refused(
                wheel,
                wheel::Error::Read {
                    member: member.to_owned(),
                    source,
                },
            ),
            None => layer::Error::Read { path, source }.into(),
        }
    }

    /// What each layer has to leave to one below it, and which paths two wheels bring with other bytes, by the
    /// groups that are `seen`.
    fn shadows(&self, seen: &BTreeSet<usize>) -> Result<(Shadows, Vec<Collision>), Error> {
        let wheels: BTreeSet<_> = seen.iter().flat_map(|&group| &self.groups[group]).collect();
        let mut taken: BTreeMap<&ImagePath, &Node> = BTreeMap::new();
        let mut contested: BTreeMap<&ImagePath, Vec<usize>> = BTreeMap::new();
        for &&wheel in &wheels {
            for (path, entry) in self.placed(wheel)?.tree.iter() {
                let other = taken.insert(path, &entry.node);
                let both_directories = |other: &Node| {
                    matches!((other, &entry.node), (Node::Directory, Node::Directory))
                };
                if other.is_some_and(|other| !both_directories(other)) {
                    contested.insert(path, Vec::new());
                }
            }
        }
        // Contents are compared where it matters alone.
        let mut tree = FileTree::default();
        let mut collisions = Vec::new();
        for &&wheel in &wheels {
            for (path, brought_by) in &mut contested {
                if let Some(entry) = self.placed(wheel)?.tree.get(path.as_str()) {
                    brought_by.push(wheel);
                    let node = entry.node.clone();
                    collisions.extend(tree.insert((*path).clone(), node, &entry.owner)?);
                }
            }
        }
        let mut shadows = vec![BTreeSet::new(); self.groups.len()];
        let group_of = |wheel| self.groups.iter().position(|group| group.contains(&wheel));
        for collision in &collisions {
            let brought_by = contested.get(&collision.path).into_iter().flatten();
            let groups = brought_by.filter_map(|&wheel| group_of(wheel));
            // The last of the lock has it, wherever in the stack that is.
            let Some(winner) = groups.clone().next_back() else {
                continue;
            };
            for group in groups.filter(|group| *group > winner) {
                shadows[group].insert(collision.path.as_str().to_owned());
            }
        }
        Ok((shadows, collisions))
    }
}

fn owner_of(wheel: &LockedWheel) -> String {
    format!("{} {}", wheel.name, wheel.version)
}

/// The member of an archive that a path is.
fn member_of(entry: &Entry) -> Option<&str> {
    match &entry.node {
        Node::File {
            content: Content::Member(member),
            ..
        } => Some(&member.name),
        _ => None,
    }
}

/// Shows the wheels' examiners the members that go into a layer.
#[derive(Default)]
struct Witnesses(BTreeMap<String, (usize, Examiner)>);

impl Witnesses {
    /// Has a wheel examined.
    fn add(&mut self, place: usize, wheel: &LockedWheel, examiner: Examiner) {
        self.0.insert(owner_of(wheel), (place, examiner));
    }

    fn take(&mut self, place: usize) -> Option<Examiner> {
        let mut owners = self.0.iter();
        let owner = owners.find(|(_, (other, _))| *other == place)?.0.clone();
        self.0.remove(&owner).map(|(_, examiner)| examiner)
    }
}

impl Witness for Witnesses {
    fn look(&self, _: &ImagePath, entry: &Entry) -> Option<Box<dyn Look + Send + '_>> {
        let (_, examiner) = self.0.get(&*entry.owner)?;
        Some(Box::new(examiner.look(member_of(entry)?)?))
    }
}

impl Look for examination::Look<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        Self::bytes(self, bytes);
    }

    fn end(self: Box<Self>) {
        Self::end(*self);
    }
}

/// Tells each group when the last of its files is there.
struct Arrivals(Mutex<Vec<Waiting>>);

/// A group's first file and the one behind its last, in the order of all, and how many are not there.
struct Waiting {
    files: std::ops::Range<usize>,
    missing: usize,
    waits: Option<oneshot::Sender<()>>,
}

impl Arrivals {
    fn new<'a>(groups: impl Iterator<Item = &'a Vec<usize>>) -> (Self, Vec<oneshot::Receiver<()>>) {
        let mut first = 0;
        let pairs = groups.map(|group| {
            let (sender, receiver) = oneshot::channel();
            let files = first..first + group.len();
            first = files.end;
            let missing = files.len();
            let mut waits = Some(sender);
            if missing == 0 {
                // Nothing has to come for it.
                let _ = waits.take().map(|waits| waits.send(()));
            }
            (
                Waiting {
                    files,
                    missing,
                    waits,
                },
                receiver,
            )
        });
        let (waiting, receivers) = pairs.unzip();
        (Self(Mutex::new(waiting)), receivers)
    }

    fn file(&self, file: usize) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = groups.iter_mut().find(|group| group.files.contains(&file)) else {
            return;
        };
        group.missing -= 1;
        if group.missing == 0
            && let Some(waits) = group.waits.take()
        {
            // Nobody waits for a layer that is done.
            let _ = waits.send(());
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_waits_for_its_own_files() {
        let (arrivals, mut waiting) = Arrivals::new([vec![3], vec![], vec![1, 2]].iter());
        let mut there = |group: usize| waiting[group].try_recv().is_ok();
        assert!(there(1), "nothing has to come for it");
        arrivals.file(1);
        assert!(!there(0) && !there(2));
        arrivals.file(2);
        assert!(there(2));
        arrivals.file(0);
        assert!(there(0));
    }
}
