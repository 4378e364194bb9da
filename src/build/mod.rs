//! From a plan to an image and its destinations: the recipe, and the hands it needs.
//!
//! Four arms: base, bootstrap, dependencies, function. The function is listed first, because that costs
//! nothing and finds mistakes; then its layer is made while bootstrap and dependencies wait for what the
//! base says of itself. A project that goes in as its wheel waits for that too, as does one without bytecode.
//! They share no state, and their results are stacked in a fixed order, so that no timing can reach a byte.

mod approval;
pub mod base;
pub mod bootstrap;
pub mod cache;
pub mod changes;
pub mod checking;
mod claims;
pub mod compiling;
pub mod dependencies;
pub mod earlier;
mod explicit;
pub mod files;
pub mod function;
pub mod host_base;
mod installed;
pub mod inventory;
pub mod layering;
pub mod locking;
pub mod many;
pub mod metadata;
pub mod once;
pub mod opt;
pub mod outdated;
mod outputs;
pub mod package;
pub mod pinning;
pub mod pins;
pub mod project;
pub mod pushing;
pub mod rebase;
pub mod running;
pub mod sbom;
pub mod verify;
pub mod wheel_layers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::aws::Aws;
use crate::blob_store::{self, BlobStore, MemoKey};
use crate::build::base::Base;
use crate::build::compiling::{Compiler, Counts, Report};
use crate::build::dependencies::Dependencies;
use crate::build::earlier::{Earlier, Key};
use crate::build::explicit::Explicit;
pub use crate::build::many::lock;
use crate::build::once::Once;
use crate::build::package::Package;
use crate::build::pinning::{Asker, Pinning, Refusal, Renewal};
use crate::build::pins::Bytecode;
use crate::build::pushing::{Announcer, Destinations};
use crate::build::wheel_layers::WheelLayer;
use crate::digest::Digest;
use crate::file_tree::{self, Content, FileTree, ImagePath, Node};
use crate::http::{self, Client, Secret};
use crate::lambda::check::Finding;
use crate::lambda::{Architecture, Handler, TASK_ROOT};
use crate::oci;
use crate::oci::compare;
use crate::oci::image::{self, Addition, Edit, Image};
use crate::oci::layer::{self, Layer, Packing};
use crate::oci::layout;
use crate::oci::reference::{Name, Reference};
use crate::plan::{Needs, Plan, ResolverChoice};
use crate::progress::Progress;
use crate::python::credentials::Credentials;
use crate::python::index::Indexes;
use crate::python::lock::LockedWheel;
use crate::python::source::{self, Workshop};
use crate::python::{self, PythonVersion, interpreter, marshal};
use crate::registry::pull;
use crate::registry::push::{self, Summary};
use crate::registry::{self, Registries};

/// The name of all that this room decides of an image's bytes: how layers are grouped, scripts that start the
/// function, the layout of the base `host`, config and labels. Another number where any of it comes out otherwise.
pub(super) const FORMAT: &str = "image 2";
/// The label by which an image says which interpreter compiled what is in it, as `cpython 3.12.7`.
const BYTECODE_LABEL: &str = "lambimg.bytecode";
/// What a build says of its own layers, and never of its base's.
const OWN_LABELS: [&str; 3] = [BYTECODE_LABEL, image::LAYERS, explicit::LABEL];
/// Blobs fetched at once for an output that needs them all.
const PARALLEL: usize = 4;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The handler's module is nowhere.
    #[error("handler `{handler}`: neither `{stem}.py` nor `{stem}/__init__.py` is in {searched}")]
    HandlerAbsent {
        /// The handler.
        handler: String,
        /// Its module's path.
        stem: String,
        /// Where it was looked for.
        searched: String,
    },
    /// The host's Python is of another machine than the target.
    #[error("the base `host` is {host}, and the function is to be {wanted}")]
    HostArchitecture {
        /// This machine, in the kernel's words.
        host: String,
        /// The target.
        wanted: Architecture,
    },
    /// The host's interpreter has no C library that wheels know.
    #[error("the interpreter `{}` does not run on glibc", .0.display())]
    HostLibrary(PathBuf),
    /// Neither resolver is there.
    #[error("there are requirements to resolve, and neither uv nor a pip that could: {detail}")]
    NoResolver {
        /// Why pip cannot.
        detail: String,
    },
    /// The lock does not fit, and must not change.
    #[error("the lock `{}` {reason}", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Why it does not fit, as a clause that follows its name.
        reason: String,
    },
    /// `lambimg.lock` cannot be read.
    #[error("cannot read the lock `{}`", path.display())]
    PinsFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pins::Error,
    },
    /// `lambimg.lock` does not decide what is built, and must not change.
    #[error("the lock `{}` {refusal}", path.display())]
    Pinned {
        /// The lock.
        path: PathBuf,
        /// Why.
        refusal: Box<Refusal>,
        /// For whom it was asked.
        asker: Asker,
    },
    /// The registry does not have the base that the lock names.
    #[error("{base} is {digest} in the lock, and its registry does not have that")]
    BaseGone {
        /// The base, or another image that something is taken from.
        base: pins::BaseKey,
        /// Its digest in the lock.
        digest: Digest,
        /// What the registry says.
        source: registry::Error,
    },
    /// No registry has a newer base.
    #[error("the base `{base}` {reason}")]
    NothingToAsk {
        /// The base.
        base: String,
        /// Why, as a clause that follows its name.
        reason: &'static str,
    },
    /// There is nothing to lock.
    #[error("the project `{}` has no requirements to lock", .0.display())]
    NothingToLock(PathBuf),
    /// A lock is another tool's.
    #[error("the lock `{}` was made by another tool", .0.display())]
    ForeignLock(PathBuf),
    /// What is asked for is not known.
    #[error(transparent)]
    Requirements(#[from] python::requirements::Error),
    /// The requirements ask for what the lock does not have.
    #[error("`{}` asks for {name}, which the lock `{}` does not have", requirements, lock.display())]
    NotInLock {
        /// The normal name.
        name: String,
        /// The requirements.
        requirements: String,
        /// The lock.
        lock: PathBuf,
    },
    /// The requirements bind a package to other files than the lock has.
    #[error(
        "`{file}` of {package} is {actual}, and `{}` has no such hash for it",
        requirements
    )]
    RequiredHash {
        /// The package and version.
        package: String,
        /// The wheel.
        file: String,
        /// The requirements.
        requirements: String,
        /// The hash in the lock.
        actual: Digest,
    },
    /// The base has another Python.
    #[error("the base `{base}` has Python {has}, and the function is to have {wanted}")]
    BasePython {
        /// The base.
        base: String,
        /// What it has.
        has: PythonVersion,
        /// What was asked for.
        wanted: PythonVersion,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// A verb.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A wheel cannot be placed.
    #[error("`{file}`: {source}")]
    Wheel {
        /// The wheel's file name.
        file: String,
        /// Why.
        source: python::wheel::Error,
    },
    /// There is no deployment package.
    #[error(transparent)]
    Package(#[from] package::Error),
    /// An image of that name is not in the store.
    #[error("there is no image `{name}` in the store{}", or_known(.known))]
    NoImage {
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A push asks for a digest that the image does not have.
    #[error("the image is {actual}, not {wanted}")]
    OtherDigest {
        /// What was asked for.
        wanted: Digest,
        /// What the image is.
        actual: Digest,
    },
    /// An image cannot be moved to another base.
    #[error(transparent)]
    Rebase(#[from] rebase::Refusal),
    /// Two images cannot be compared.
    #[error(transparent)]
    Compare(#[from] compare::Error),
    /// Lambda would refuse what was built, for these reasons.
    #[error("Lambda would refuse this image: {}", messages(.0))]
    Refused(Vec<Finding>),
    /// What several functions of a run need failed.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// Another function of the run failed, so that nothing was brought anywhere. What failed says why.
    #[error("it was not brought anywhere, because another function failed")]
    Undelivered,
    /// A part of the work was given up.
    #[error("the work was interrupted")]
    Interrupted,
    /// The host base failed.
    #[error(transparent)]
    HostBase(#[from] host_base::Error),
    /// No interpreter fits.
    #[error(transparent)]
    Interpreter(#[from] interpreter::Error),
    /// Compiling is not possible.
    #[error(transparent)]
    Compiling(#[from] python::bytecode::Error),
    /// What was compiled cannot be read back.
    #[error("the bytecode `{archive}` of the store cannot be read")]
    Bytecode {
        /// The archive.
        archive: Digest,
        /// Why.
        source: crate::zip::Error,
    },
    /// What `/opt` is to be given cannot be had.
    #[error("the extension `{written}` cannot be taken")]
    Extension {
        /// As written.
        written: String,
        /// Why.
        source: opt::Error,
    },
    /// The function's files cannot be taken.
    #[error(transparent)]
    Function(#[from] function::Error),
    /// A lock file cannot be read.
    #[error("cannot read the lock `{}`", path.display())]
    LockFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: python::lock::Error,
    },
    /// What a lock has does not fit, or cannot be taken.
    #[error("{source}")]
    Unusable {
        /// The lock.
        lock: PathBuf,
        /// Why.
        source: python::lock::Error,
    },
    /// What was resolved and is in no lock yet does not fit.
    #[error(transparent)]
    Lock(#[from] python::lock::Error),
    /// Resolving failed.
    #[error(transparent)]
    Resolve(#[from] python::resolve::Error),
    /// Looking up where files are failed.
    #[error(transparent)]
    Index(#[from] python::index::Error),
    /// No wheel came of sources.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The project is a package, and there is no wheel of it.
    #[error("the project itself gives no wheel")]
    Project(#[source] Box<source::Error>),
    /// Fetching failed.
    #[error(transparent)]
    Fetch(#[from] python::fetch::Error),
    /// Two owners of a path cannot both have it.
    #[error(transparent)]
    Tree(#[from] file_tree::Error),
    /// A layer cannot be made.
    #[error(transparent)]
    Layer(#[from] layer::Error),
    /// A document is not as it must be.
    #[error(transparent)]
    Document(#[from] oci::Error),
    /// A place cannot be read or written.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A registry failed after others, other repositories of it or other tags had the image.
    #[error("the image is at {}, and could not be brought everywhere", names(.pushed))]
    PartlyPushed {
        /// What is done.
        pushed: Vec<Pushed>,
        /// The image.
        image: Box<Image>,
        /// What ended it.
        source: registry::Error,
    },
    /// A registry has an image, and did not take what is to belong to it.
    #[error("the image is pushed as `{image}`, and its SBOM could not be attached")]
    NotAttached {
        /// Registry, repository and digest.
        image: String,
        /// The document's form.
        format: sbom::Format,
        /// What ended it.
        source: registry::Error,
    },
    /// What software is in a layer is not known.
    #[error(
        "layer {layer} of the image cannot be read, and an SBOM has to list what is in it: {why}"
    )]
    Unlisted {
        /// Which, counted from 1, the lowest.
        layer: usize,
        /// Why, as a clause.
        why: String,
    },
    /// The network failed.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
}

impl Error {
    /// The error itself, whoever has it in common.
    pub fn own(&self) -> &Self {
        match self {
            Self::Shared(error) => error.own(),
            error => error,
        }
    }
}

fn messages(findings: &[Finding]) -> String {
    let messages = findings.iter();
    let messages = messages.map(|found| format!("{} ({})", found.message, found.rule.id));
    messages.collect::<Vec<_>>().join("; ")
}

fn or_known(names: &[String]) -> String {
    if names.is_empty() {
        ", which is empty".to_owned()
    } else {
        format!(", only {}", names.join(", "))
    }
}

/// What a build works with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The HTTP client.
    pub client: Client,
    /// AWS, as the user may use it.
    pub aws: Aws,
    /// The registries.
    pub registries: Registries,
    /// The local store.
    pub store: BlobStore,
    /// The user's places of packages.
    pub indexes: Indexes,
    /// Who the user is for them.
    pub credentials: Credentials,
    /// uv, if there is one.
    pub uv: Option<PathBuf>,
    /// Variables that tell uv what only pip was told of indexes.
    pub for_uv: Vec<(&'static str, Secret)>,
    /// The user's flags for compilers, by the variable that has them.
    pub compiler_flags: Vec<(&'static str, String)>,
    /// Directories to look for interpreters in, first to last.
    pub directories: Vec<PathBuf>,
    /// Directories each of whose children may be an installed Python.
    pub installations: Vec<PathBuf>,
    /// What pushes may do.
    pub pushing: push::Options,
    /// Who is told what happens.
    pub progress: Progress,
    /// Who is told of layers as they are made.
    pub made: Announcer,
    /// What layers are taken over from.
    pub earlier: Earlier,
    /// What `lambimg.lock` decides; a build takes that of its project.
    pub pins: Pinning,
    /// What is done once for all functions of a run; a build begins its own.
    pub once: Once,
}

impl Tools {
    /// Runs what computes or waits for files on a thread of its own.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the runtime ends meanwhile.
    pub async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| Error::Interrupted)
    }

    /// The same for what is one function's alone, which is told under its name.
    fn own(&self, plan: &Plan) -> Self {
        Self {
            progress: self.progress.headed(plan.heading()),
            made: self.made.own(),
            ..self.clone()
        }
    }

    /// What sources are built with.
    fn workshop(&self, plan: &Plan) -> Workshop {
        Workshop {
            store: self.store.clone(),
            client: self.client.clone(),
            credentials: self.credentials.clone(),
            progress: self.progress.clone(),
            uv: self
                .uv
                .clone()
                .filter(|_| plan.resolver != ResolverChoice::Pip),
            pip: plan.resolver != ResolverChoice::Uv,
            directories: self.directories.clone(),
            installations: self.installations.clone(),
            leave_out: own_files(plan),
            epoch: plan.epoch,
            compiler_flags: self.compiler_flags.clone(),
            offline: plan.policy.offline,
            anew: plan.policy.no_cache,
        }
    }

    /// The layer of `tree`, made unless one of the same bytes was made before, here or elsewhere, and may be
    /// taken; with what it was made for. Its files have the contents that are `known`.
    async fn layer_of(
        &self,
        plan: &Plan,
        options: layer::Options,
        tree: FileTree,
        known: Known,
        what: &str,
    ) -> Result<(Layer, Key), Error> {
        let key = |digest| Key::from(&tree_key(options, digest));
        let recalled = self.recall_of(plan, options, tree.clone(), Arc::clone(&known));
        let (recalled, digest) = recalled.await?;
        if let Some(layer) = recalled {
            return Ok((layer, key(digest)));
        }
        if let Some(layer) = self.earlier.layer(&key(digest), self).await {
            return Ok((layer, key(digest)));
        }
        let (layer, digest) = self.made_of(options, tree, known, what).await?;
        Ok((layer, key(digest)))
    }

    /// The layer of `tree`, made unless that was done here before and may be taken; with the digest of the tree
    /// that is in it.
    async fn layer_and_digest_of(
        &self,
        plan: &Plan,
        tree: FileTree,
        known: Known,
        what: &str,
    ) -> Result<(Layer, Digest), Error> {
        let options = plan.layer_options();
        let recalled = self.recall_of(plan, options, tree.clone(), Arc::clone(&known));
        let (recalled, digest) = recalled.await?;
        match recalled {
            Some(layer) => Ok((layer, digest)),
            None => self.made_of(options, tree, known, what).await,
        }
    }

    /// The layer made here before of such a tree, if it may be taken, and the digest of the tree.
    async fn recall_of(
        &self,
        plan: &Plan,
        options: layer::Options,
        tree: FileTree,
        known: Known,
    ) -> Result<(Option<Layer>, Digest), Error> {
        let (store, no_cache) = (self.store.clone(), plan.policy.no_cache);
        let work = move || {
            let digest = tree.digest_with(&known)?;
            let recalled = layer::recall(&store, &tree_key(options, digest));
            Ok((recalled.filter(|_| !no_cache), digest))
        };
        self.block(work).await?
    }

    async fn made_of(
        &self,
        options: layer::Options,
        tree: FileTree,
        known: Known,
        what: &str,
    ) -> Result<(Layer, Digest), Error> {
        let store = self.store.clone();
        let (progress, made) = (self.progress.clone(), self.made.clone());
        let label = format!("make {what}");
        let work = move || {
            let task = progress.task(label, None);
            // Remembered for what was read into it, which an editor may have changed meanwhile.
            let (layer, digest) = layer::make_expecting(&store, &tree, options, &known, &task)?;
            layer::remember(&store, &tree_key(options, digest), &layer)?;
            task.done();
            made.made(&layer);
            Ok((layer, digest))
        };
        self.block(work).await?
    }
}

/// The digests of files that something was made of already.
type Known = Arc<BTreeMap<ImagePath, Digest>>;

/// The key of the layer of a tree.
fn tree_key(options: layer::Options, digest: Digest) -> MemoKey {
    layer::memo_key(options, [b"tree", &digest.as_bytes()[..]])
}

/// One layer that the build put on the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The layer.
    pub layer: Layer,
    /// What it was made for.
    pub key: Key,
    /// What is in it.
    pub what: String,
    /// The repository that it was taken over from.
    pub taken_from: Option<Reference>,
    /// The packages in it, if that is what it has.
    pub packages: Option<Vec<String>>,
}

/// A built image.
#[derive(Debug)]
pub struct Built {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The image.
    pub image: Image,
    /// The base.
    pub base: Base,
    /// The layers on it, lowest first.
    pub made: Vec<Made>,
    /// The packages in it.
    pub dependencies: Dependencies,
    /// The bytecode in it, if any could be made.
    pub bytecode: Option<Report>,
    /// What was pushed where.
    pub pushed: Vec<Pushed>,
}

/// One repository's part of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The repository, with the first of its tags.
    pub reference: Reference,
    /// All its tags; none where the image went by its digest alone.
    pub tags: Vec<String>,
    /// What moved.
    pub summary: Summary,
    /// The manifest of its bill of materials, if one was attached.
    pub sbom: Option<Digest>,
}

/// All that was pushed, as references.
fn names(pushed: &[Pushed]) -> String {
    let names = pushed.iter().flat_map(|pushed| {
        let name = pushed.reference.name();
        let tagged = pushed.tags.iter().map(|tag| format!("{name}:{tag}"));
        let tagged: Vec<_> = tagged.collect();
        if tagged.is_empty() {
            vec![name]
        } else {
            tagged
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Builds what the plan says and brings it where the plan says.
///
/// # Errors
/// See [`Error`].
pub async fn build(plan: Plan, tools: &Tools) -> Result<Built, Error> {
    let built = many::build_all(vec![plan], tools).await.pop();
    built.unwrap_or(Err(Error::Interrupted))
}

/// An image that is made and has no name yet.
struct Unnamed {
    built: Built,
    package: Option<Package>,
    /// What there is to say of it, and whether it is a warning.
    told: Vec<(bool, String)>,
}

/// Makes the plan's image.
async fn make(plan: &Arc<Plan>, tools: &Tools) -> Result<Unnamed, Error> {
    let Parts {
        base,
        bootstrap,
        extensions,
        dependencies,
        files,
        function,
        bytecode,
        package,
    } = Box::pin(parts(plan, tools)).await?;
    let earlier = &tools.earlier;
    let taken = earlier.taken();
    let mut made = Vec::new();
    let other = |layer: Layer, key: Key, what: &str| Made {
        taken_from: taken.get(&layer.digest).cloned(),
        layer,
        key,
        what: what.to_owned(),
        packages: None,
    };
    let is_bootstrapped = bootstrap.is_some();
    let (bootstrap, client) = bootstrap.unzip();
    let mut wheels = dependencies.wheels_by_layer();
    if let Some((bootstrap, client)) = bootstrap.iter().zip(&client).next() {
        wheels.insert(bootstrap.layer.digest, client.iter().collect());
    }
    made.extend(
        bootstrap.map(|made| other(made.layer, made.key, "runtime client and entry point")),
    );
    let mut origins = BTreeMap::new();
    made.extend(extensions.iter().map(|given| {
        let origin = given.origin.clone();
        origins.extend(origin.map(|origin| (given.layer.digest, origin)));
        other(given.layer.clone(), given.key.clone(), &given.what)
    }));
    let first = made.len();
    made.extend(dependencies.layers.iter().map(|layer| Made {
        packages: Some(layer.packages.clone()),
        ..other(layer.layer.clone(), layer.key.clone(), &layer.what)
    }));
    made.extend(files.map(|(layer, key)| other(layer, key, "files")));
    made.extend(function.map(|(layer, key)| other(layer, key, "function")));
    let mut edit = edit(plan, &base, is_bootstrapped);
    // Of a base of ours it would tell that one's layers.
    if !made.is_empty() || base.is_ours() {
        let label = earlier::label(&made, &dependencies, first);
        edit.labels.extend([label]);
    }
    let built_on = &base.image.config.labels;
    // Whatever was taken over, and so not counted.
    if let Some(report) = &bytecode {
        let compiler = format!("{} {}", report.implementation, report.version);
        edit.labels.insert(BYTECODE_LABEL.to_owned(), compiler);
    } else if built_on.contains_key(BYTECODE_LABEL) {
        // What the base says of its own layers is not so of these.
        edit.labels
            .insert(BYTECODE_LABEL.to_owned(), pins::NONE.to_owned());
    }
    let additions: Vec<_> = made
        .iter()
        .map(|made| Addition {
            layer: made.layer.clone(),
            what: made.what.clone(),
        })
        .collect();
    let mut image = image::stack(&base.image, &additions, &edit)?;
    tell_taken(&made, &tools.own(plan).progress);
    image.origins.extend(origins);
    // Others of the run may have taken more.
    let own = made
        .iter()
        .filter_map(|made| Some((made.layer.digest, made.taken_from.clone()?)));
    image.origins.extend(own);
    // Before anything has its name, and anybody else the image.
    let mut told = approval::approve(&image, plan)?;
    let warnings = package.iter().flat_map(|package| &package.warnings);
    told.extend(warnings.map(|text| (true, text.clone())));
    remember_wheels(&made, wheels, tools)?;
    let built = Built {
        plan: Arc::clone(plan),
        image,
        base,
        made,
        dependencies,
        bytecode,
        pushed: Vec::new(),
    };
    Ok(Unnamed {
        built,
        package,
        told,
    })
}

/// Remembers of each layer which wheels are in it, if any.
fn remember_wheels(
    made: &[Made],
    mut wheels: BTreeMap<Digest, Vec<&LockedWheel>>,
    tools: &Tools,
) -> Result<(), Error> {
    for Made { layer, .. } in made {
        sbom::remember(&tools.store, layer.digest, wheels.remove(&layer.digest))?;
    }
    Ok(())
}

/// What an image is made of.
struct Parts {
    base: Base,
    /// The runtime client's layer, and its wheels.
    bootstrap: Option<(WheelLayer, Vec<LockedWheel>)>,
    extensions: Arc<Vec<opt::Given>>,
    dependencies: Dependencies,
    files: Option<(Layer, Key)>,
    function: Option<(Layer, Key)>,
    bytecode: Option<Report>,
    package: Option<Package>,
}

/// Says how many layers came from where.
fn tell_taken(made: &[Made], progress: &Progress) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reference in made.iter().filter_map(|made| made.taken_from.as_ref()) {
        *counts.entry(reference.to_string()).or_default() += 1;
    }
    for (reference, count) in counts {
        let layers = if count == 1 { "layer" } else { "layers" };
        progress.step(format!("took {count} {layers} over from {reference}"));
    }
}

/// The four arms.
async fn parts(plan: &Arc<Plan>, tools: &Tools) -> Result<Parts, Error> {
    let is_package = project::is_package(plan)?;
    let extra = list_files(plan, tools).await?;
    let source = list_function(plan, is_package, &extra, tools).await?;
    let compiler = many::compiler(plan, tools).await?;
    let compiler = compiler.as_ref();
    let own = &tools.own(plan);
    let from_base = async {
        let base = many::base(plan, tools).await?;
        tools.made.base(&base.image);
        let bootstrap = many::bootstrap(plan, &base, compiler, tools);
        let dependencies = many::dependencies(plan, &base, compiler, tools);
        let extensions = many::extensions(plan, tools);
        let options = function_options(plan);
        let package = async {
            let (tree, options) = if is_package {
                let tree = project::tree(plan, &base, &source, tools).await?;
                // How a backend compresses is up to the machine that it runs on.
                let packing = Packing::Recompressed;
                (tree, layer::Options { packing, ..options })
            } else if compiler.is_none() {
                (source.clone(), options)
            } else {
                return Ok(None);
            };
            let is_masked = compiler.is_none() && base.is_ours();
            let in_layer = tree.clone();
            let in_layer = if is_masked {
                masked(in_layer, plan)?
            } else {
                in_layer
            };
            let layer = function_layer(plan, options, in_layer, compiler, own).await?;
            Ok(Some((layer, tree)))
        };
        let (bootstrap, extensions, dependencies, package) =
            tokio::try_join!(bootstrap, extensions, dependencies, package)?;
        Ok((base, bootstrap, extensions, dependencies, package))
    };
    let beside = async {
        if extra.is_empty() {
            return Ok(None);
        }
        let options = plan.layer_options();
        let layer = own.layer_of(plan, options, extra.clone(), Known::default(), "files");
        layer.await.map(Some)
    };
    // Files that are taken as they are wait for nothing, unless their bytecode may be the base's.
    let files = async {
        if is_package || compiler.is_none() {
            return Ok(None);
        }
        let options = function_options(plan);
        let layer = function_layer(plan, options, source.clone(), compiler, own).await;
        layer.map(Some)
    };
    let (function, beside, (base, bootstrap, extensions, dependencies, package)) =
        tokio::try_join!(files, beside, from_base)?;
    let package = package.map(|(layer, tree)| (Some(layer), tree));
    let (function, source) = package.unwrap_or((function, source.clone()));
    let trees = [&source, &extra];
    check_handler(plan, trees, &extensions, &base, &dependencies, tools).await?;
    opt::tell_covered(&extensions, &extra, &own.progress);
    let package = if plan.packages.is_empty() {
        None
    } else {
        let source = source.clone();
        let gathered = package::gather(plan, &base, &dependencies, source, compiler, own);
        Some(Box::pin(gathered).await?)
    };
    check_places(plan, source, extra, &base, &dependencies, tools).await?;
    let (function, counts) = function.unzip();
    let mut counts: Counts = counts.unwrap_or_default();
    counts += bootstrap
        .as_ref()
        .map(|(made, _)| made.bytecode)
        .unwrap_or_default();
    counts += dependencies.bytecode();
    Ok(Parts {
        base,
        bootstrap,
        extensions,
        dependencies,
        files: beside,
        function,
        bytecode: compiler.map(|compiler| compiler.report(counts)),
        package,
    })
}

/// How the function's layer is made: that two deployment packages have the same files does not say that both
/// compressed them alike.
fn function_options(plan: &Plan) -> layer::Options {
    let options = plan.layer_options();
    if plan.is_archive {
        let packing = Packing::Recompressed;
        return layer::Options { packing, ..options };
    }
    options
}

/// The layer of the function's files, with bytecode beside them where it can be had.
async fn function_layer(
    plan: &Plan,
    options: layer::Options,
    tree: FileTree,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<((Layer, Key), Counts), Error> {
    let Some(compiler) = compiler else {
        let layer = tools.layer_of(plan, options, tree, Known::default(), "function");
        return Ok((layer.await?, Counts::default()));
    };
    match compiled_layer(plan, options, tree.clone(), compiler, tools).await {
        // Bytecode of what was there before would be taken for that of what is there now.
        Err(Error::Layer(layer::Error::Changed { .. })) => {
            let tree = listed_again(&tree)?;
            compiled_layer(plan, options, tree, compiler, tools).await
        }
        result => result,
    }
}

/// The layer of the function's files with bytecode beside them, of the very files that were compiled.
async fn compiled_layer(
    plan: &Plan,
    options: layer::Options,
    tree: FileTree,
    compiler: &Compiler,
    tools: &Tools,
) -> Result<((Layer, Key), Counts), Error> {
    let (no_cache, owned) = (plan.policy.no_cache, tools.clone());
    let (compiler, is_archive) = (compiler.clone(), plan.is_archive);
    let compile = move || compiled(is_archive, tree, &compiler, no_cache, &owned);
    let (tree, counts, digests) = tools.block(compile).await??;
    let layer = tools.layer_of(plan, options, tree, Arc::new(digests), "function");
    Ok((layer.await?, counts))
}

/// The function's files with bytecode beside them, and the digests of what was compiled. What a deployment package has
/// of its own stays as it is.
fn compiled(
    is_archive: bool,
    tree: FileTree,
    compiler: &Compiler,
    no_cache: bool,
    tools: &Tools,
) -> Result<(FileTree, Counts, BTreeMap<ImagePath, Digest>), Error> {
    let own = is_archive.then(|| tree.clone());
    let (mut tree, counts, digests) = compiler.with_bytecode(tree, no_cache, tools)?;
    if let Some(own) = own {
        tree.merge(own)?;
    }
    Ok((tree, counts, digests))
}

/// `tree`, which has no bytecode, over a base that has some.
fn masked(mut tree: FileTree, plan: &Plan) -> Result<FileTree, file_tree::Error> {
    tree.merge(compiling::masks(plan.runtime.python.minor(), &tree)?)?;
    Ok(tree)
}

/// The same files, as long as they are now.
fn listed_again(tree: &FileTree) -> Result<FileTree, Error> {
    let mut again = FileTree::default();
    for (path, entry) in tree.iter() {
        let mut node = entry.node.clone();
        if let Node::File {
            content: Content::File(file, size),
            ..
        } = &mut node
        {
            let listed = fs::metadata(&*file);
            let listed = listed.map_err(|source| Error::File {
                action: "read",
                path: file.clone(),
                source,
            });
            *size = listed?.len();
        }
        again.insert(path.clone(), node, &entry.owner)?;
    }
    Ok(again)
}

/// Who will compile for the plan; no lock is changed.
///
/// # Errors
/// As those of [`build`].
pub async fn foreseen_compiler(plan: &Plan, tools: &Tools) -> Result<Option<Compiler>, Error> {
    let tools = Tools {
        pins: Pinning::open(plan, Renewal::default())?,
        ..tools.clone()
    };
    compiler(plan, false, &tools).await
}

/// Who compiles for the plan, as the lock decides it, which hears of it where it does not. With `anew` it is looked
/// for again where the lock has none.
async fn compiler(plan: &Plan, anew: bool, tools: &Tools) -> Result<Option<Compiler>, Error> {
    if !plan.bytecode {
        return Ok(None);
    }
    let python = plan.runtime.python;
    if !marshal::knows(python.minor()) {
        tools.progress.warn(format!(
            "this lambimg does not know the bytecode of Python {python}, so each cold start compiles what it imports: \
             a later one may, and `bytecode = false` says that none is wanted"
        ));
        return Ok(None);
    }
    let pinned = match tools.pins.bytecode(python)? {
        Some(Bytecode::None) if !anew => {
            tools.progress.warn(format!(
                "{} says that there was no CPython {python} to compile with, so each cold start compiles what it \
                 imports: run `lambimg lock` where there is one, or set `bytecode = false`",
                pins::FILE
            ));
            return Ok(None);
        }
        Some(Bytecode::Interpreter {
            implementation,
            version,
        }) => Some((implementation, version)),
        Some(Bytecode::None) | None => None,
    };
    let demanded = pinned.as_ref().map(|(_, version)| version);
    let mut found = compiling::find(plan, demanded.map(String::as_str), tools).await?;
    if found.is_err() && demanded.is_some() {
        found = compiling::find(plan, None, tools).await?;
    }
    let actual = found.as_ref().map_or(Bytecode::None, Compiler::pinned);
    // Where all was compiled before nobody is needed.
    if plan.policy.locked
        && let Some((implementation, version)) = pinned.clone()
        && !matches!(&actual, Bytecode::Interpreter { version: has, .. } if *has == version)
    {
        let absent = Compiler::absent(python, implementation, version, actual);
        return Ok(Some(absent));
    }
    match pinned {
        // The lock stays: this machine may be the one that lacks something.
        Some((implementation, version)) if !anew => {
            let locked = Bytecode::Interpreter {
                implementation,
                version,
            };
            if locked != actual {
                tools.progress.warn(format!(
                    "{} has {locked} for the bytecode of Python {python}, and there is {actual}, so the image is \
                     another: have that version here, or lock again by `lambimg lock`",
                    pins::FILE
                ));
            }
        }
        _ => tools.pins.settle_bytecode(python, actual)?,
    }
    match found {
        Ok(compiler) => Ok(Some(compiler)),
        Err(tried) => {
            compiling::tell_none(python, &tried, &tools.progress);
            Ok(None)
        }
    }
}

/// Lists the function's files. Where nothing else can bring the handler it is looked for here, before anything
/// is fetched.
async fn list_function(
    plan: &Arc<Plan>,
    is_package: bool,
    extra: &FileTree,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let listed = Arc::clone(plan);
    let tree = tools.block(move || function_tree(&listed)).await??;
    let nowhere_else = plan.needs == Needs::Nothing && plan.extensions.is_empty();
    let is_there = has_handler(plan, &tree)
        || has_handler(plan, extra)
        || (is_package && project::may_hold(plan, &tree));
    if nowhere_else && !is_there {
        return handler_absent(plan, "").map_or(Ok(tree), Err);
    }
    Ok(tree)
}

/// Lists what goes in beside the function.
async fn list_files(plan: &Arc<Plan>, tools: &Tools) -> Result<FileTree, Error> {
    let plan = Arc::clone(plan);
    Ok(tools.block(move || files::tree(&plan)).await??)
}

/// The function's files, as they will stand in the image.
///
/// # Errors
/// See [`function::Error`].
pub fn function_tree(plan: &Plan) -> Result<FileTree, function::Error> {
    if plan.is_archive {
        return Ok(package::reading::file_tree(&plan.source)?);
    }
    let mut out = own_files(plan);
    out.extend(files::sources(plan));
    // It steers the build, and may say who the user is to an index.
    let others = plan.others_needs.iter().map(PathBuf::as_path);
    let needs = plan.needs.file().into_iter().chain(others);
    let needs = needs.filter(|file| file.file_name() != Some("pyproject.toml".as_ref()));
    out.extend(needs.filter_map(real));
    function::file_tree(&plan.source, &plan.exclude, &out)
}

/// What this run itself writes.
fn own_files(plan: &Plan) -> Vec<PathBuf> {
    let own = plan.own_files.iter();
    let own = own.filter_map(|path| real(path));
    own.chain([plan.project.join(pins::FILE)]).collect()
}

/// The project's path has no links in it; neither may what is compared with it.
fn real(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let parent = path.parent()?;
    // Directories that are not there yet are no links.
    let parent = match parent.canonicalize() {
        Err(_) => real(parent)?,
        Ok(parent) => parent,
    };
    Some(parent.join(path.file_name()?))
}

/// Whether the handler's module is there, or nobody looks for one.
fn has_handler(plan: &Plan, tree: &FileTree) -> bool {
    let Some(handler) = plan.own_handler() else {
        return true;
    };
    tree.iter()
        .any(|(path, _)| is_handlers(plan, handler, path.as_str()))
}

/// Whether this is the handler's module, where Lambda's Python looks for it.
fn is_handlers(plan: &Plan, handler: &Handler, path: &str) -> bool {
    let of_layers = "opt/python";
    let version = plan.runtime.python;
    let site = format!("{of_layers}/lib/python{version}/site-packages");
    [TASK_ROOT, of_layers, &site].iter().any(|root| {
        let rest = path.strip_prefix(root);
        let rest = rest.and_then(|rest| rest.strip_prefix('/'));
        rest.is_some_and(|rest| handler.is_module(rest))
    })
}

/// The handler's module is neither where the function's files are nor in these `others`.
fn handler_absent(plan: &Plan, others: &str) -> Option<Error> {
    let handler = plan.own_handler()?;
    let inside = plan.source.strip_prefix(&plan.project);
    let searched = match inside {
        Ok(inside) if inside.as_os_str().is_empty() => "the project".to_owned(),
        Ok(inside) => format!("`{}` of the project", inside.display()),
        Err(_) => format!("`{}`", plan.source.display()),
    };
    Some(Error::HandlerAbsent {
        handler: handler.to_string(),
        stem: handler.stem(),
        searched: searched + others,
    })
}

/// The handler's module is the function's, or that of a package or layer which wraps it.
async fn check_handler(
    plan: &Plan,
    own: [&FileTree; 2],
    extensions: &[opt::Given],
    base: &Base,
    dependencies: &Dependencies,
    tools: &Tools,
) -> Result<(), Error> {
    let mut given = extensions.iter().flat_map(opt::Given::paths);
    let is_given = plan
        .own_handler()
        .is_some_and(|handler| given.any(|path| is_handlers(plan, handler, path)));
    if is_given || own.iter().any(|tree| has_handler(plan, tree)) {
        return Ok(());
    }
    let tree = many::tree(plan, base, dependencies, tools).await?;
    if has_handler(plan, &tree) {
        return Ok(());
    }
    handler_absent(plan, " or its dependencies").map_or(Ok(()), Err)
}

/// What goes in beside the function hides none of its files and none of its dependencies'.
async fn check_places(
    plan: &Plan,
    source: FileTree,
    extra: FileTree,
    base: &Base,
    dependencies: &Dependencies,
    tools: &Tools,
) -> Result<(), Error> {
    let below_root = |path: &ImagePath| path.as_str().starts_with(TASK_ROOT);
    if !extra.iter().any(|(path, _)| below_root(path)) {
        return Ok(());
    }
    let mut packages = many::tree(plan, base, dependencies, tools).await?;
    let check = move || {
        // Where the function has a file of a package it has it on purpose.
        files::put(&mut packages, extra.clone())?;
        let mut extra = extra;
        files::put(&mut extra, source)
    };
    Ok(tools.block(check).await??)
}

fn edit(plan: &Plan, base: &Base, bootstrapped: bool) -> Edit {
    let runtime = plan.runtime;
    let mut edit = Edit {
        cmd: plan.handler.iter().map(ToString::to_string).collect(),
        epoch: plan.epoch,
        base: Some((base.reference.clone(), base.image.manifest.digest())),
        ..Edit::default()
    };
    if bootstrapped {
        edit.entrypoint = Some(runtime.entrypoint.clone());
        edit.working_dir = Some(runtime.working_dir.clone());
        edit.env = bootstrap::variables(runtime, &base.image.config);
        // For whoever takes this image as a base.
        edit.labels = base.labels(plan);
    }
    let said = plan.running.clone();
    edit.labels
        .extend(Explicit::of(&said).label(&base.image.config));
    edit.cmd = said.cmd.unwrap_or(edit.cmd);
    edit.entrypoint = said.entrypoint.or(edit.entrypoint);
    edit.working_dir = said.workdir.or(edit.working_dir);
    edit.user = said.user;
    edit.env.extend(said.env);
    edit.labels.extend(said.labels);
    edit
}

/// Keeps an image's documents and names in the store; its layers are there or elsewhere.
fn keep(image: &Image, names: &[Name], tools: &Tools) -> Result<(), Error> {
    tools.store.put(&image.config.raw)?;
    tools.store.put(&image.manifest.raw)?;
    for (digest, reference) in &image.origins {
        let origin = Origin {
            registry: reference.registry.clone(),
            repository: reference.repository.clone(),
        };
        tools.store.remember(&origin_key(digest), &origin)?;
    }
    for name in names {
        layout::tag_in_store(&tools.store, image, &name.tagged())?;
    }
    Ok(())
}

/// Which repository was seen to have a blob.
#[derive(Serialize, Deserialize)]
struct Origin {
    registry: String,
    repository: String,
}

fn origin_key(digest: &Digest) -> MemoKey {
    MemoKey::new("origin 1", [digest.as_bytes()])
}

/// Brings every blob of an image into the store.
async fn bring_here(image: &Image, tools: &Tools) -> Result<(), Error> {
    let absent = image.blobs().into_iter().filter_map(|blob| {
        let origin = image.origins.get(&blob.digest)?;
        (!tools.store.contains(&blob.digest, blob.size)).then_some((blob, origin))
    });
    stream::iter(absent)
        .map(|(layer, origin)| {
            pull::fetch_blob(
                layer,
                origin,
                &tools.store,
                &tools.registries,
                &tools.progress,
            )
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    Ok(())
}

/// Pushes an image to all references, each repository once.
///
/// # Errors
/// Those of the registries; [`Error::PartlyPushed`] where repositories or tags before what failed are done.
pub async fn push_all(
    image: &Image,
    references: &[Reference],
    tools: &Tools,
) -> Result<Vec<Pushed>, Error> {
    let destinations = Destinations::begin(&[references], tools)?;
    let done = Box::pin(destinations.finish(&[image])).await.pop();
    done.unwrap_or(Err(Error::Interrupted))
}

/// Finds an image by what the user calls it: a name in the store, `oci:DIR`, an archive, or
/// `docker://REFERENCE`.
///
/// # Errors
/// See [`Error`].
pub async fn open(text: &str, tools: &Tools) -> Result<Image, Error> {
    open_for(text, None, tools).await
}

/// As [`open`]; of an index it is the image for `architecture`, if one is wanted.
///
/// # Errors
/// See [`Error`].
pub async fn open_for(
    text: &str,
    architecture: Option<&'static str>,
    tools: &Tools,
) -> Result<Image, Error> {
    if let Some(rest) = text.strip_prefix("docker://") {
        let reference = Reference::read(rest).map_err(|_| no_image(text, tools))?;
        let (registries, store) = (&tools.registries, &tools.store);
        let image = base::fetch(&reference, architecture, registries, store).await?;
        return Ok(base::with_origins(image, &reference));
    }
    if let Ok(place) = text.parse::<layout::Place>() {
        let store = tools.store.clone();
        return Ok(tools
            .block(move || layout::read(&place, architecture, &store))
            .await??);
    }
    let name: Name = text.parse().map_err(|_| no_image(text, tools))?;
    let mut image = match layout::find(&tools.store, &name.tagged()) {
        Err(layout::Error::NoImage { .. }) => return Err(no_image(&name.tagged(), tools)),
        found => found?,
    };
    for layer in &image.manifest.layers {
        if let Some(reference) = origin_of(&layer.digest, tools) {
            image.origins.insert(layer.digest, reference);
        }
    }
    Ok(image)
}

/// The repository that was seen to have a blob.
fn origin_of(blob: &Digest, tools: &Tools) -> Option<Reference> {
    let origin = tools.store.recall::<Origin>(&origin_key(blob))?;
    Some(Reference {
        registry: origin.registry,
        repository: origin.repository,
        tag: None,
        digest: None,
    })
}

fn no_image(name: &str, tools: &Tools) -> Error {
    let listed = layout::list(tools.store.root()).unwrap_or_default();
    Error::NoImage {
        name: http::redact_name(name),
        known: listed.into_iter().filter_map(|image| image.name).collect(),
    }
}
