//! The base: from what the plan says to a pinned manifest and config, its layers left where they are.
//!
//! Only documents are read. Whether a base is Lambda's own is read off its config, and so is the C
//! library of a base that this tool made; a base that says neither is taken at the user's word.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::blob_store::{BlobStore, MemoKey};
use crate::build::compiling::Compiler;
use crate::build::host_base::{self, Listing};
use crate::build::pins::{BaseKey, Digests, Found};
use crate::build::{Error, Tools, cache, pinning, tree_key};
use crate::digest::Digest;
use crate::lambda::{Architecture, ENTRY_POINT, RUNTIME_DIR_VARIABLE, Runtime};
use crate::oci::image::{self, BASE_COMMENT, Image, MADE_BY};
use crate::oci::layer::{self, Layer};
use crate::oci::reference::Reference;
use crate::oci::{self, Config, Descriptor, Document, Family, Manifest, layout};
use crate::plan::{self, Plan};
use crate::python::interpreter::{self as pythons, Interpreter};
use crate::python::{Glibc, PythonVersion, marshal};
use crate::registry::pull::Source;
use crate::registry::{self, Registries};

/// The label by which a base says its C library.
pub(super) const GLIBC_LABEL: &str = "lambimg.glibc";
/// The label by which a base says its Python version.
const PYTHON_LABEL: &str = "lambimg.python";
/// The label by which a base says what starts its Python.
const INTERPRETER_LABEL: &str = "lambimg.interpreter";
/// The repository of Lambda's own bases, in whatever registry a copy of it is.
const LAMBDA_REPOSITORY: &str = "lambda/python";

/// A base, pinned.
#[derive(Debug, Clone)]
pub struct Base {
    /// Its documents, and where its layers are.
    pub image: Image,
    /// Its name for other people, if it has one.
    pub reference: Option<Reference>,
    /// Whether Lambda's runtime client is in it.
    pub has_runtime_client: bool,
    /// Its C library.
    pub glibc: Glibc,
    /// What starts its Python, as a script's first line has it.
    pub interpreter: String,
}

impl Base {
    /// Whether layers of this tool's are in it, whose bytecode Python takes without a look at its source.
    pub(super) fn is_ours(&self) -> bool {
        is_ours(&self.image.config)
    }
}

/// Whether the image of this config has layers of this tool's.
pub(super) fn is_ours(config: &Config) -> bool {
    config.labels.contains_key(image::LAYERS)
}

/// Pins the plan's base.
///
/// # Errors
/// See [`Error`].
pub async fn resolve(plan: &Plan, tools: &Tools) -> Result<Base, Error> {
    let architecture = plan.architecture.oci();
    let (image, reference) = match &plan.base {
        plan::Base::Registry(reference) => (
            pinned(plan, &pinning::base_key(plan), reference, tools).await?,
            Some(reference.clone()),
        ),
        plan::Base::Place(place) => {
            let (place, store) = (place.clone(), tools.store.clone());
            let read = move || layout::read(&place, Some(architecture), &store);
            let image = tools.block(read).await??;
            tools.pins.settle_base(plan, found_in(&image, plan))?;
            (image, None)
        }
        plan::Base::Host(interpreter) => {
            let (image, files) = from_host(plan, interpreter.as_deref(), tools).await?;
            let digests = Digests::default().with(plan.architecture, files);
            tools.pins.settle_base(
                plan,
                Found {
                    digests,
                    ..Found::default()
                },
            )?;
            (image, None)
        }
    };
    let base = describe(plan, image, reference, tools);
    match base.python(plan) {
        Some(has) if has != plan.runtime.python => Err(Error::BasePython {
            base: plan.base.to_string(),
            has,
            wanted: plan.runtime.python,
        }),
        _ => Ok(base),
    }
}

/// Whether a reference is of one of Lambda's own bases, or a copy of it.
pub(super) fn is_lambda_repository(reference: &Reference) -> bool {
    let prefix = reference.repository.strip_suffix(LAMBDA_REPOSITORY);
    prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('/'))
}

impl Base {
    fn python(&self, plan: &Plan) -> Option<PythonVersion> {
        let reference = match &plan.base {
            plan::Base::Registry(reference) => Some(reference),
            plan::Base::Place(_) | plan::Base::Host(_) => None,
        };
        python_of(&self.image.config, reference)
    }

    /// The labels by which an image with this base can be told what it is.
    pub(super) fn labels(&self, plan: &Plan) -> BTreeMap<String, String> {
        labels(self.glibc, plan.runtime.python, &self.interpreter)
    }
}

/// The labels by which an image can be told what it is.
pub(super) fn labels(
    glibc: Glibc,
    python: PythonVersion,
    interpreter: &str,
) -> BTreeMap<String, String> {
    let labels = [
        (GLIBC_LABEL, glibc.to_string()),
        (PYTHON_LABEL, python.to_string()),
        (INTERPRETER_LABEL, interpreter.to_owned()),
    ];
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The Python version that a base says it has: by our label, by the variable of Docker's Python images, or by the
/// tag of Lambda's own.
pub(super) fn python_of(config: &Config, reference: Option<&Reference>) -> Option<PythonVersion> {
    let minor = |text: &str| {
        let mut parts = text.split(['.', '-']);
        format!("{}.{}", parts.next()?, parts.next()?).parse().ok()
    };
    let label = config.labels.get(PYTHON_LABEL).map(String::as_str);
    let told = label.or_else(|| config.variable("PYTHON_VERSION"));
    let lambdas = reference.filter(|reference| is_lambda_repository(reference));
    let tag = lambdas.and_then(|reference| reference.tag.as_deref());
    told.or(tag).and_then(minor)
}

/// Whether Lambda's runtime client is in an image of this config.
pub(super) fn has_runtime_client(config: &Config) -> bool {
    let entry = config.entrypoint.first();
    entry.is_some_and(|entry| entry.ends_with(ENTRY_POINT))
        && config.variable(RUNTIME_DIR_VARIABLE).is_some()
}

/// What starts the Python of a base from a registry, as a script's first line has it.
pub(super) fn interpreter(config: &Config, runtime: &Runtime) -> String {
    if let Some(interpreter) = config.labels.get(INTERPRETER_LABEL) {
        interpreter.clone()
    } else if has_runtime_client(config) {
        runtime.interpreter.clone()
    } else {
        format!("/usr/bin/env python{}", runtime.python)
    }
}

fn describe(plan: &Plan, image: Image, reference: Option<Reference>, tools: &Tools) -> Base {
    let config = &image.config;
    let has_runtime_client = has_runtime_client(config);
    let on_host = matches!(plan.base, plan::Base::Host(_));
    let labelled = config
        .labels
        .get(GLIBC_LABEL)
        .and_then(|text| text.parse().ok());
    let glibc = plan.glibc.or(labelled).unwrap_or_else(|| {
        if !has_runtime_client {
            tools.progress.warn(format!(
                "the base `{}` does not say its C library; wheels are chosen for glibc {}",
                plan.base, plan.runtime.glibc
            ));
        }
        plan.runtime.glibc
    });
    let interpreter = if on_host && !config.labels.contains_key(INTERPRETER_LABEL) {
        plan.runtime.interpreter.clone()
    } else {
        interpreter(config, plan.runtime)
    };
    Base {
        image,
        reference,
        has_runtime_client,
        glibc,
        interpreter,
    }
}

/// What a reference led to when the registry was last asked.
#[derive(Serialize, Deserialize)]
struct Known {
    manifest: Digest,
    found: Found,
}

fn known_key(reference: &Reference, architecture: &str) -> MemoKey {
    MemoKey::new("base 2", [reference.to_string(), architecture.to_owned()])
}

/// An image at the digest that the lock has for it, else as its reference leads to it now.
///
/// # Errors
/// Those of registries, and of a lock that must not change.
pub(super) async fn pinned(
    plan: &Plan,
    key: &BaseKey,
    reference: &Reference,
    tools: &Tools,
) -> Result<Image, Error> {
    let architecture = plan.architecture.oci();
    let asked = reference.digest;
    let Some(digest) = tools.pins.image(plan, key, asked)? else {
        let (image, found) = from_registry(plan, reference, key, tools).await?;
        tools.pins.settle_image(plan, key, asked, found)?;
        return Ok(with_origins(image, reference));
    };
    if let Ok(image) = layout::load(&tools.store, &digest) {
        image.config.require(architecture)?;
        return Ok(with_origins(image, reference));
    }
    // It is read anew, so that nothing else has to be.
    cache::tell_damage(tools);
    let exact = Reference {
        digest: Some(digest),
        ..reference.clone()
    };
    match from_registry(plan, &exact, key, tools).await {
        Ok((image, found)) => {
            tools.pins.settle_image(plan, key, asked, found)?;
            Ok(with_origins(image, reference))
        }
        Err(Error::Registry(source @ registry::Error::NotFound { .. })) => Err(Error::BaseGone {
            base: key.clone(),
            digest,
            source,
        }),
        Err(error) => Err(error),
    }
}

async fn from_registry(
    plan: &Plan,
    reference: &Reference,
    for_what: &BaseKey,
    tools: &Tools,
) -> Result<(Image, Found), Error> {
    let architecture = plan.architecture.oci();
    let key = known_key(reference, architecture);
    // A digest leads to the same image for ever; a tag only as long as nobody can be asked.
    if (reference.digest.is_some() || plan.policy.offline)
        && let Some(known) = tools.store.recall::<Known>(&key)
    {
        if let Ok(image) = layout::load(&tools.store, &known.manifest) {
            return Ok((image, known.found));
        }
        // It is read anew, so that nothing else has to be.
        cache::tell_damage(tools);
    }
    let task = tools
        .progress
        .task(format!("{} {reference}", for_what.role), None);
    let (image, found) = look(
        reference,
        Some(architecture),
        &tools.registries,
        &tools.store,
    )
    .await?;
    task.done();
    drop(task);
    let manifest = image.manifest.digest();
    let known = Known { manifest, found };
    tools.store.remember(&key, &known)?;
    Ok((image, known.found))
}

/// What an image alone is found to be.
pub(super) fn found_in(image: &Image, plan: &Plan) -> Found {
    let digest = image.manifest.digest();
    Found {
        created: created(&image.config),
        index: None,
        digests: Digests::default().with(plan.architecture, digest),
    }
}

/// The config's date, if it is one: what else stands there is no word for a lock.
fn created(config: &Config) -> Option<String> {
    let date = config.value["created"].as_str()?;
    let is_date = |byte: u8| byte.is_ascii_digit() || b"-:.+TZtz".contains(&byte);
    (date.len() <= 40 && date.bytes().all(is_date)).then(|| date.to_owned())
}

/// Reads an image's documents from a registry into the store.
pub(super) async fn fetch(
    reference: &Reference,
    architecture: Option<&str>,
    registries: &Registries,
    store: &BlobStore,
) -> Result<Image, registry::Error> {
    let (image, _) = look(reference, architecture, registries, store).await?;
    Ok(image)
}

/// As [`fetch`], with all that is at the reference.
pub(super) async fn look(
    reference: &Reference,
    architecture: Option<&str>,
    registries: &Registries,
    store: &BlobStore,
) -> Result<(Image, Found), registry::Error> {
    let source = registries.source(reference)?;
    look_in(&source, reference, architecture, store).await
}

/// As [`look`], in this place.
pub(super) async fn look_in(
    source: &Source,
    reference: &Reference,
    architecture: Option<&str>,
    store: &BlobStore,
) -> Result<(Image, Found), registry::Error> {
    let wrong = |error| registry::Error::Document {
        reference: reference.to_string(),
        source: error,
    };
    let (raw, came_with) = source.manifest(&reference.version()).await?;
    let digest = Digest::of(&raw);
    let mut found = Found::default();
    let mut document = Document::read(raw, came_with.as_deref()).map_err(wrong)?;
    if let Document::Index(index) = &document {
        found.index = Some(digest);
        for each in [Architecture::X86_64, Architecture::Arm64] {
            if let Ok(entry) = index.select(Some(each.oci())) {
                found.digests = found.digests.with(each, entry.digest);
            }
        }
        let descriptor = index.select(architecture).map_err(wrong)?;
        let (raw, came_with) = source.manifest(&descriptor.digest.to_string()).await?;
        document = Document::read(raw, came_with.as_deref()).map_err(wrong)?;
    }
    let Document::Manifest(manifest) = document else {
        return Err(wrong(oci::Error::NoImage(
            "an index inside an index".into(),
        )));
    };
    let config = source.small_blob(&manifest.config).await?;
    let config = Config::read(config).map_err(wrong)?;
    config.require_any(architecture).map_err(wrong)?;
    found.created = created(&config);
    if found.index.is_none()
        && let Ok(own) = config.architecture.parse()
    {
        found.digests = found.digests.with(own, digest);
    }
    store.put(&manifest.raw)?;
    store.put(&config.raw)?;
    let image = Image {
        manifest,
        config,
        origins: BTreeMap::new(),
    };
    Ok((image, found))
}

/// A base of this machine's own Python, in the layout of the AWS bases but for the runtime client, and the digest
/// of its files.
async fn from_host(
    plan: &Plan,
    given: Option<&Path>,
    tools: &Tools,
) -> Result<(Image, Digest), Error> {
    let (interpreter, layer, files) = host_layer(plan, given, tools).await?;
    let glibc = interpreter_glibc(plan, &interpreter)?;
    let config = host_config(plan, glibc, &layer);
    let manifest = oci::to_json(&json!({
        "schemaVersion": 2,
        "mediaType": Family::Oci.manifest(),
        "config": Descriptor::of(Family::Oci.config(), &config),
        "layers": [{
            "mediaType": Family::Oci.layer(), "digest": layer.digest, "size": layer.size,
        }],
    }));
    let (manifest, config) = (Manifest::read(manifest)?, Config::read(config)?);
    tools.store.put(&manifest.raw)?;
    tools.store.put(&config.raw)?;
    let image = Image {
        manifest,
        config,
        origins: BTreeMap::new(),
    };
    Ok((image, files))
}

/// What an interpreter said when it was last asked, and the digest of the base that was made of it.
///
/// Of the interpreter, its libraries and its standard library nothing is elsewhere than in that tree, so as
/// long as the answer leads to the very same tree, another question would bring the same answer. What a shim
/// says may depend on more, and is not remembered.
#[derive(Serialize, Deserialize)]
struct Asked {
    interpreter: Interpreter,
    tree: Digest,
}

/// The interpreter that a base is made of, its layer, and the digest of what is in it.
async fn host_layer(
    plan: &Plan,
    given: Option<&Path>,
    tools: &Tools,
) -> Result<(Interpreter, Layer, Digest), Error> {
    let minor = plan.runtime.python.minor();
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None => pythons::candidates(minor, &tools.directories, &tools.installations),
    };
    let first = candidates.first().and_then(|path| path.canonicalize().ok());
    let key = first.as_ref().map(|first| {
        let minor = minor.to_string();
        MemoKey::new(
            "host 1",
            [minor.as_bytes(), first.as_os_str().as_encoded_bytes()],
        )
    });
    let asked = key.and_then(|key| tools.store.recall::<Asked>(&key));
    if let Some(Asked { interpreter, tree }) = asked.filter(|_| !plan.policy.no_cache)
        && interpreter_glibc(plan, &interpreter).is_ok()
        && let Ok((layer, digest)) = layer_from(plan, &interpreter, tools).await
        && digest == tree
    {
        return Ok((interpreter, layer, tree));
    }
    let find = move || pythons::find(minor, &candidates);
    let interpreter = tools.block(find).await??;
    interpreter_glibc(plan, &interpreter)?;
    let (layer, tree) = layer_from(plan, &interpreter, tools).await?;
    if let Some(key) = key.filter(|_| first.as_ref() == Some(&interpreter.executable)) {
        let asked = Asked { interpreter, tree };
        tools.store.remember(&key, &asked)?;
        return Ok((asked.interpreter, layer, tree));
    }
    Ok((interpreter, layer, tree))
}

/// The layer of a base of `interpreter`, and the digest of what is in it.
///
/// Files that are listed as they were when they were last read are not read again.
async fn layer_from(
    plan: &Plan,
    interpreter: &Interpreter,
    tools: &Tools,
) -> Result<(Layer, Digest), Error> {
    let path = interpreter.executable.display();
    tools
        .progress
        .step(format!("base from {path}, Python {}", interpreter.version));
    // The interpreter is the image's own, so its bytecode is right whatever version it is; as AWS's bases do, this one
    // has that of the standard library, without which each cold start compiles what it imports of it.
    let compiler = marshal::knows(interpreter.minor)
        .then(|| Compiler::new(plan.runtime.python, interpreter.clone()));
    let (interpreter, progress) = (interpreter.clone(), tools.progress.clone());
    let list = move || -> Result<_, host_base::Error> {
        let tree = host_base::file_tree(&interpreter, &progress)?;
        let listing = Listing::of(&tree)?;
        Ok((tree, listing))
    };
    let (tree, listing) = tools.block(list).await??;
    let key = listing_key(&listing, compiler.as_ref());
    let known = tools.store.recall::<Digest>(&key);
    if let Some(digest) = known.filter(|_| !plan.policy.no_cache)
        && let Some(layer) = layer::recall(&tools.store, &tree_key(plan.layer_options(), digest))
    {
        return Ok((layer, digest));
    }
    let begun = seconds_of_files(&tools.store);
    let (whole, known_files) = match compiler {
        Some(compiler) => {
            let (tree, no_cache, owned) = (tree.clone(), plan.policy.no_cache, tools.clone());
            let compile = move || compiler.with_bytecode_of_base(tree, no_cache, &owned);
            tools.block(compile).await??
        }
        None => (tree.clone(), BTreeMap::new()),
    };
    let (layer, digest) = tools
        .layer_and_digest_of(plan, whole, Arc::new(known_files), "base")
        .await?;
    if begun.is_some_and(|begun| listing.is_settled(begun)) {
        let relist = move || Listing::of(&tree);
        // What changed while it was read has no one digest.
        if tools.block(relist).await?.is_ok_and(|now| now == listing) {
            tools.store.remember(&key, &digest)?;
        }
    }
    Ok((layer, digest))
}

/// Where the digest is remembered of a base whose files were listed like this when they were read and compiled.
fn listing_key(listing: &Listing, compiler: Option<&Compiler>) -> MemoKey {
    let identity = compiler.map(Compiler::identity).unwrap_or_default();
    MemoKey::new(
        "listing 2",
        [listing.digest.as_bytes(), identity.as_bytes()],
    )
}

/// The second in which a file made now was made, by the clock that times files.
fn seconds_of_files(store: &BlobStore) -> Option<i64> {
    let made = tempfile::tempfile_in(store.root()).ok()?;
    Some(made.metadata().ok()?.ctime())
}

/// The C library of an interpreter that the function could run on.
fn interpreter_glibc(plan: &Plan, interpreter: &Interpreter) -> Result<Glibc, Error> {
    if interpreter.machine != plan.architecture.machine().as_str() {
        return Err(Error::HostArchitecture {
            host: interpreter.machine.clone(),
            wanted: plan.architecture,
        });
    }
    let glibc = interpreter.glibc;
    let glibc = glibc.map(|(major, minor)| Glibc { major, minor });
    glibc.ok_or_else(|| Error::HostLibrary(interpreter.executable.clone()))
}

fn host_config(plan: &Plan, glibc: Glibc, layer: &Layer) -> Vec<u8> {
    let runtime = plan.runtime;
    let env: Vec<_> = runtime
        .variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let created = image::date(plan.epoch);
    oci::to_json(&json!({
        "architecture": plan.architecture.oci(),
        "os": "linux",
        "created": created,
        "config": {
            "Env": env,
            "WorkingDir": runtime.working_dir,
            "Labels": { GLIBC_LABEL: glibc.to_string() },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{
            "created": created, "created_by": MADE_BY,
            "comment": format!("{BASE_COMMENT}this machine's Python"),
        }],
    }))
}

/// An image whose layers can be had in its own repository.
pub(super) fn with_origins(mut image: Image, reference: &Reference) -> Image {
    let layers = image.manifest.layers.iter();
    image.origins = layers
        .map(|layer| (layer.digest, reference.clone()))
        .collect();
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_date_is_taken_for_one() {
        let of = |text: &str| {
            let config = json!({"architecture": "amd64", "os": "linux", "created": text,
                "rootfs": {"type": "layers", "diff_ids": []}});
            let config = Config::read(config.to_string().into_bytes());
            created(&config.unwrap())
        };
        for date in [
            "2026-11-01T00:00:00Z",
            "2026-11-01t00:00:00.123456789+02:00",
        ] {
            assert_eq!(of(date).as_deref(), Some(date));
        }
        for other in ["x\n<<<<<<< y", "\u{1b}[2J", "yesterday"] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }
}
