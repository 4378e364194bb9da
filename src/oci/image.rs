//! An image as a value: stack layers on a base, and prove that all its parts agree.
//!
//! The base's config is edited as the JSON value it is, so that fields unknown here survive. An image
//! knows what its blobs are, and of some which repository has them too; it moves none.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::str::SplitAsciiWhitespace;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::digest::{Digest, HashingWriter, VerifyingReader};
use crate::oci::layer::Layer;
use crate::oci::reference::Reference;
use crate::oci::{self, Config, Descriptor, Family, Manifest};

/// The image that this one's lower layers are from.
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The digest of that image's manifest.
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
/// What the history says of who made a layer.
pub const MADE_BY: &str = "lambimg build";
/// What it says of a layer of a base that was made here begins so.
pub const BASE_COMMENT: &str = "base: ";
/// The label by which an image says which layers were put on its base: separated by blanks, up to a semicolon.
pub const LAYERS: &str = "lambimg.layers";

/// An image: its documents, and where its blobs can be had.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: Config,
    /// Repositories that have blobs of it, be they in the store or not.
    pub origins: BTreeMap<Digest, Reference>,
}

impl Image {
    /// The config and all layers, each once.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = BTreeSet::new();
        std::iter::once(&self.manifest.config)
            .chain(&self.manifest.layers)
            .filter(|descriptor| seen.insert(descriptor.digest))
            .collect()
    }
}

/// The steps of a config's history that made layers, lowest first.
pub fn layer_steps(config: &Value) -> Vec<&Value> {
    let steps = config["history"].as_array().into_iter().flatten();
    steps.filter(|step| step["empty_layer"] != true).collect()
}

/// The places of the layers that an image says in its label were put on its base, lowest first: the topmost that are
/// those, in that order. Nothing where it says none, or one that it has not, as after a copy that compressed anew.
pub fn own_layers(config: &Value, layers: &[Digest]) -> Option<Vec<usize>> {
    let mut said = said_layers(config)?.rev().peekable();
    let mut places = Vec::new();
    for (place, layer) in layers.iter().enumerate().rev() {
        let is_said = said.peek().is_some_and(|said| {
            let digest = said.rsplit_once(':').map(|(_, digest)| digest);
            digest.is_some_and(|digest| !digest.is_empty() && layer.hex().starts_with(digest))
        });
        if is_said {
            said.next();
            places.push(place);
        }
    }
    places.reverse();
    said.next().is_none().then_some(places)
}

fn said_layers(config: &Value) -> Option<SplitAsciiWhitespace<'_>> {
    let label = config["config"]["Labels"][LAYERS].as_str()?;
    let said = label.split(';').next().unwrap_or_default();
    Some(said.split_ascii_whitespace())
}

/// How many of the lowest of `layers` are the base's, as far as the config says so: what lies above is the image's own,
/// or somebody's who has put it on the image.
///
/// The label says it by digests. Where none of those is there, the history does, by its steps alone: a base may be an
/// image of ours itself, with steps like ours, so how many of the topmost of them are the image's own its label says.
pub fn base_layers(config: &Value, layers: &[Digest]) -> Option<usize> {
    if let Some(first) = own_layers(config, layers).and_then(|own| own.first().copied()) {
        return Some(first);
    }
    let steps = layer_steps(config);
    let own = steps.iter().enumerate().filter(|(_, step)| {
        let comment = step["comment"].as_str().unwrap_or_default();
        step["created_by"] == MADE_BY && !comment.starts_with(BASE_COMMENT)
    });
    let own: Vec<usize> = own.map(|(number, _)| number).collect();
    let base = match said_layers(config).map(Iterator::count) {
        // It says so only on a base that has layers of ours, and they are its topmost.
        Some(0) => own.last()? + 1,
        Some(count) => own[own.len().checked_sub(count)?],
        None => *own.first()?,
    };
    Some(base.min(layers.len()))
}

/// A layer to be put on top, and what a history should say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// The layer.
    pub layer: Layer,
    /// What is in it.
    pub what: String,
}

/// What is changed in the base's config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// The arguments: the handler.
    pub cmd: Vec<String>,
    /// Another entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Another working directory.
    pub working_dir: Option<String>,
    /// Another user.
    pub user: Option<String>,
    /// Variables set or replaced, in order.
    pub env: Vec<(String, String)>,
    /// Labels set or replaced.
    pub labels: BTreeMap<String, String>,
    /// Name and digest of the base, as far as they mean something elsewhere.
    pub base: Option<(Option<Reference>, Digest)>,
    /// Seconds since 1970 that every date says.
    pub epoch: u64,
}

/// Stacks `additions` on `base`. The media types stay the base's; the documents made are small and
/// are returned whole.
///
/// # Errors
/// When a layer of the base is of a kind that Lambda refuses, or its config is no object.
pub fn stack(base: &Image, additions: &[Addition], edit: &Edit) -> Result<Image, oci::Error> {
    let family = base.manifest.family;
    check_base(base)?;
    let config = edit_config(&base.config, base.manifest.layers.len(), additions, edit)?;
    let mut layers = base.manifest.layers.clone();
    layers.extend(additions.iter().map(|addition| Descriptor {
        media_type: family.layer().to_owned(),
        digest: addition.layer.digest,
        size: addition.layer.size,
        annotations: BTreeMap::new(),
    }));
    let annotations = base_annotations(edit.base.as_ref());
    Ok(Image {
        manifest: manifest(family, &config, &layers, &annotations)?,
        config: Config::read(config)?,
        origins: base.origins.clone(),
    })
}

/// Fails unless layers can be put on an image.
pub(super) fn check_base(base: &Image) -> Result<(), oci::Error> {
    let family = base.manifest.family;
    for layer in &base.manifest.layers {
        if layer.media_type != family.layer() {
            return Err(oci::Error::Layer {
                digest: layer.digest,
                media_type: layer.media_type.clone(),
            });
        }
    }
    let (layers, ids) = (base.manifest.layers.len(), base.config.diff_ids.len());
    if layers != ids {
        return Err(oci::Error::Malformed {
            what: "config",
            detail: format!("it tells of {ids} layers, and there are {layers}"),
        });
    }
    Ok(())
}

/// A manifest as this house writes it.
pub(super) fn manifest(
    family: Family,
    config: &[u8],
    layers: &[Descriptor],
    annotations: &BTreeMap<String, String>,
) -> Result<Manifest, oci::Error> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": family.manifest(),
        "config": descriptor_json(&Descriptor::of(family.config(), config)),
        "layers": layers.iter().map(descriptor_json).collect::<Vec<_>>(),
    });
    // Docker's schema has no annotations; there the labels say it.
    if family == Family::Oci && !annotations.is_empty() {
        manifest["annotations"] = json!(annotations);
    }
    Manifest::read(oci::to_json(&manifest))
}

fn descriptor_json(descriptor: &Descriptor) -> Value {
    let mut value = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    });
    if !descriptor.annotations.is_empty() {
        value["annotations"] = json!(descriptor.annotations);
    }
    value
}

/// What an image says of its base.
pub(super) fn base_annotations(
    base: Option<&(Option<Reference>, Digest)>,
) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    if let Some((reference, digest)) = base {
        annotations.insert(BASE_DIGEST.to_owned(), digest.to_string());
        if let Some(reference) = reference {
            let without_digest = Reference {
                digest: None,
                ..reference.clone()
            };
            annotations.insert(BASE_NAME.to_owned(), without_digest.to_string());
        }
    }
    annotations
}

/// The last second of the year 9999.
const LAST_DATE: u64 = 253_402_300_799;

/// A date as image documents write it; one that they cannot write as the number of its second.
pub fn date(epoch: u64) -> String {
    if epoch > LAST_DATE {
        return format!("second {epoch}");
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(epoch)).to_string()
}

fn edit_config(
    base: &Config,
    base_layers: usize,
    additions: &[Addition],
    edit: &Edit,
) -> Result<Vec<u8>, oci::Error> {
    let mut value = base.value.clone();
    let root = object(&mut value, "config")?;
    let created = date(edit.epoch);
    root.insert("created".to_owned(), json!(created));

    let mut history = complete_history(root.remove("history"), base_layers, &json!(created));
    history.extend(additions.iter().map(
        |addition| json!({"created": created, "created_by": MADE_BY, "comment": addition.what}),
    ));
    root.insert("history".to_owned(), Value::Array(history));

    let diff_ids = base.diff_ids.iter().copied();
    let diff_ids = diff_ids.chain(additions.iter().map(|addition| addition.layer.diff_id));
    let diff_ids: Vec<_> = diff_ids.map(|id| id.to_string()).collect();
    root.insert(
        "rootfs".to_owned(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );

    let run = root.entry("config").or_insert_with(|| json!({}));
    if run.is_null() {
        *run = json!({});
    }
    let run = object(run, "config")?;
    run.insert("Cmd".to_owned(), json!(edit.cmd));
    if let Some(entrypoint) = &edit.entrypoint {
        run.insert("Entrypoint".to_owned(), json!(entrypoint));
    }
    if let Some(directory) = &edit.working_dir {
        run.insert("WorkingDir".to_owned(), json!(directory));
    }
    if let Some(user) = &edit.user {
        run.insert("User".to_owned(), json!(user));
    }
    if !edit.env.is_empty() {
        run.insert("Env".to_owned(), json!(merge_env(&base.env, &edit.env)));
    }
    let mut labels = base.labels.clone();
    labels.extend(edit.labels.clone());
    labels.extend(base_annotations(edit.base.as_ref()));
    if !labels.is_empty() {
        run.insert("Labels".to_owned(), json!(labels));
    }
    Ok(oci::to_json(&value))
}

/// A history that leaves layers out is completed: some readers count.
pub(super) fn complete_history(
    history: Option<Value>,
    layers: usize,
    created: &Value,
) -> Vec<Value> {
    let mut history = match history {
        Some(Value::Array(history)) => history,
        _ => Vec::new(),
    };
    let told = history
        .iter()
        .filter(|entry| entry["empty_layer"] != json!(true));
    let missing = layers.saturating_sub(told.count());
    history.extend((0..missing).map(|_| json!({"created": created, "created_by": "base image"})));
    history
}

pub(super) fn object<'a>(
    value: &'a mut Value,
    what: &'static str,
) -> Result<&'a mut Map<String, Value>, oci::Error> {
    value.as_object_mut().ok_or(oci::Error::Malformed {
        what,
        detail: "it is not an object".to_owned(),
    })
}

pub(super) fn merge_env(base: &[String], edits: &[(String, String)]) -> Vec<String> {
    let mut lines = base.to_vec();
    for (name, value) in edits {
        let line = format!("{name}={value}");
        let place = lines.iter_mut().find(|l| l.split('=').next() == Some(name));
        match place {
            Some(place) => *place = line,
            None => lines.push(line),
        }
    }
    lines
}

/// The same image in OCI's media types, for places where nothing else is understood: the blobs stay, the
/// manifest and so its digest become others. An image that is OCI's already stays as it is.
///
/// # Errors
/// When the manifest cannot be read back.
pub fn in_oci_types(image: &Image) -> Result<Image, oci::Error> {
    if image.manifest.family == Family::Oci {
        return Ok(image.clone());
    }
    let retyped = |descriptor: &Descriptor, media_type: &str| {
        descriptor_json(&Descriptor {
            media_type: media_type.to_owned(),
            ..descriptor.clone()
        })
    };
    let layers = image.manifest.layers.iter();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": Family::Oci.manifest(),
        "config": retyped(&image.manifest.config, Family::Oci.config()),
        "layers": layers.map(|layer| retyped(layer, Family::Oci.layer())).collect::<Vec<_>>(),
    });
    Ok(Image {
        manifest: Manifest::read(oci::to_json(&manifest))?,
        ..image.clone()
    })
}

/// One thing that does not hold of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub String);

/// Proves that an image is whole and as Lambda's unpacker wants it: media types of one family, digests
/// and sizes true, one gzip member a layer, `diff_ids` true, history complete; and of the layers from
/// `own` on (those that this house made) parents before children, no hard links or devices, plain
/// modes, owner 0:0, one date, no name twice.
///
/// # Errors
/// All faults found.
pub fn validate<R: Read>(
    image: &Image,
    own: usize,
    open: impl Fn(&Descriptor) -> io::Result<R>,
) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    let mut fault = |text: String| faults.push(Fault(text));
    let (manifest, config) = (&image.manifest, &image.config);
    if manifest.config.media_type != manifest.family.config() {
        fault(format!(
            "config has media type {}",
            manifest.config.media_type
        ));
    }
    if manifest.config != Descriptor::of(&manifest.config.media_type, &config.raw) {
        fault("config is not the one that the manifest names".to_owned());
    }
    if manifest.layers.len() != config.diff_ids.len() {
        let (layers, ids) = (manifest.layers.len(), config.diff_ids.len());
        fault(format!("{layers} layers but {ids} diff_ids"));
    }
    let history = config.value["history"].as_array();
    let told = history
        .into_iter()
        .flatten()
        .filter(|e| e["empty_layer"] != json!(true))
        .count();
    if told != manifest.layers.len() {
        fault(format!("history tells of {told} layers"));
    }
    for (number, (layer, diff_id)) in manifest.layers.iter().zip(&config.diff_ids).enumerate() {
        if layer.media_type != manifest.family.layer() {
            fault(format!(
                "layer {number} has media type {}",
                layer.media_type
            ));
        }
        let checked = open(layer)
            .map_err(|e| e.to_string())
            .and_then(|reader| check_layer(reader, layer, diff_id, number >= own));
        if let Err(text) = checked {
            fault(format!("layer {number}: {text}"));
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

fn check_layer(
    reader: impl Read,
    layer: &Descriptor,
    diff_id: &Digest,
    own: bool,
) -> Result<(), String> {
    let blob = VerifyingReader::new(reader, layer.digest, layer.size);
    let blob = io::BufReader::with_capacity(64 << 10, blob);
    let mut gzip = flate2::bufread::GzDecoder::new(blob);
    let mut tee = Tee {
        inner: &mut gzip,
        hash: HashingWriter::new(io::sink()),
    };
    let entries = if own { check_entries(&mut tee) } else { Ok(()) };
    io::copy(&mut tee, &mut io::sink()).map_err(|e| e.to_string())?;
    let (_, actual, _) = tee.hash.finish();
    let mut rest = gzip.into_inner();
    let behind = io::copy(&mut rest, &mut io::sink()).map_err(|e| e.to_string())?;
    entries?;
    if behind > 0 {
        return Err(format!("{behind} bytes behind its gzip member"));
    }
    if actual != *diff_id {
        return Err(format!("its tar is {actual}, not {diff_id}"));
    }
    Ok(())
}

struct Tee<'a, R> {
    inner: &'a mut R,
    hash: HashingWriter<io::Sink>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.hash, &buffer[..count])?;
        Ok(count)
    }
}

fn check_entries(reader: &mut impl Read) -> Result<(), String> {
    let mut archive = tar::Archive::new(reader);
    let mut directories: BTreeSet<String> = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut dates = BTreeSet::new();
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let header = entry.header();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.trim_end_matches('/').to_owned();
        let clean = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !clean {
            return Err(format!("`{path}` is no plain path"));
        }
        if let Some((parent, _)) = name.rsplit_once('/')
            && !directories.contains(parent)
        {
            return Err(format!("`{path}` comes before its directory"));
        }
        let mode = header.mode().map_err(|e| e.to_string())?;
        let plain = match header.entry_type() {
            tar::EntryType::Directory => {
                directories.insert(name.clone());
                mode == 0o755
            }
            tar::EntryType::Regular => matches!(mode, 0o644 | 0o755),
            tar::EntryType::Symlink => mode == 0o777,
            other => return Err(format!("`{path}` is a {other:?}")),
        };
        if !plain {
            return Err(format!("`{path}` has mode {mode:o}"));
        }
        if (header.uid().ok(), header.gid().ok()) != (Some(0), Some(0)) {
            return Err(format!("`{path}` is not owned by 0:0"));
        }
        dates.insert(header.mtime().map_err(|e| e.to_string())?);
        if !names.insert(name) {
            return Err(format!("`{path}` is there twice"));
        }
    }
    if dates.len() > 1 {
        return Err("its entries have different dates".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::BlobStore;
    use crate::file_tree::{Content, FileTree, ImagePath};
    use crate::oci::layer;
    use crate::progress::Progress;

    fn base(family: Family, store: &BlobStore) -> Image {
        let layer = made(store, "etc/base", "b");
        let config = oci::to_json(&json!({
            "architecture": "amd64", "os": "linux", "docker_version": "kept",
            "config": {"Env": ["PATH=/bin", "A=1"], "Entrypoint": ["/e"], "Healthcheck": {"Test": ["x"]}},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id.to_string()]},
        }));
        let manifest = oci::to_json(&json!({
            "schemaVersion": 2, "mediaType": family.manifest(),
            "config": descriptor_json(&Descriptor::of(family.config(), &config)),
            "layers": [{"mediaType": family.layer(), "digest": layer.digest.to_string(), "size": layer.size}],
        }));
        Image {
            manifest: Manifest::read(manifest).unwrap(),
            config: Config::read(config).unwrap(),
            origins: BTreeMap::new(),
        }
    }

    fn made(store: &BlobStore, path: &str, bytes: &str) -> Layer {
        let mut tree = FileTree::default();
        tree.insert_file(
            ImagePath::new(path).unwrap(),
            Content::bytes(bytes),
            false,
            &"t".into(),
        )
        .unwrap();
        let options = layer::Options::default();
        let task = Progress::default().task("make", None);
        layer::make(store, &tree, options, &task).unwrap().0
    }

    fn stacked(family: Family, store: &BlobStore) -> Image {
        let addition = Addition {
            layer: made(store, "var/task/app.py", "code"),
            what: "function".to_owned(),
        };
        let edit = Edit {
            cmd: vec!["app.handler".to_owned()],
            env: vec![
                ("A".to_owned(), "2".to_owned()),
                ("B".to_owned(), "3".to_owned()),
            ],
            base: Some((
                Some(Reference::read("r.test/base:1").unwrap()),
                Digest::of("m"),
            )),
            epoch: 315_532_800,
            ..Edit::default()
        };
        stack(&base(family, store), &[addition], &edit).unwrap()
    }

    #[test]
    fn a_stacked_image_is_sound_in_both_families() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        for family in [Family::Docker, Family::Oci] {
            let image = stacked(family, &store);
            let open = |d: &Descriptor| std::fs::File::open(store.path(&d.digest));
            assert_eq!(validate(&image, 1, open), Ok(()));
            assert_eq!(image.manifest.family, family);
            assert_eq!(image.config.cmd, ["app.handler"]);
            assert_eq!(image.config.env, ["PATH=/bin", "A=2", "B=3"]);
            assert_eq!(image.config.value["docker_version"], "kept");
            assert_eq!(image.config.value["config"]["Healthcheck"]["Test"][0], "x");
            assert_eq!(image.config.value["created"], "1980-01-01T00:00:00Z");
            assert_eq!(image.config.labels[BASE_NAME], "r.test/base:1");
            let annotated = image.manifest.annotations.contains_key(BASE_DIGEST);
            assert_eq!(annotated, family == Family::Oci);
        }
    }

    #[test]
    fn the_validator_sees_what_does_not_agree() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let open = |d: &Descriptor| std::fs::File::open(store.path(&d.digest));
        let mut image = stacked(Family::Oci, &store);
        image.config.diff_ids.swap(0, 1);
        let faults = validate(&image, 1, open).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        let mut image = stacked(Family::Oci, &store);
        image.manifest.layers[1].media_type = Family::Docker.layer().to_owned();
        let faults = validate(&image, 1, open).unwrap_err();
        assert!(
            faults[0].0.starts_with("layer 1 has media type"),
            "{faults:?}"
        );
        let mut image = stacked(Family::Oci, &store);
        std::fs::write(store.path(&image.manifest.layers[1].digest), "damaged").unwrap();
        image.config.raw.push(b' ');
        assert_eq!(validate(&image, 1, open).unwrap_err().len(), 2);
    }

    #[test]
    fn layers_that_lambda_refuses_are_refused_here() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let mut image = base(Family::Oci, &store);
        image.manifest.layers[0].media_type =
            "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
        let error = stack(&image, &[], &Edit::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("tar+zstd`, which Lambda does not take"),
            "{error}"
        );
    }

    fn config(label: Option<&str>, history: &[Value]) -> Value {
        let mut config = json!({"history": history, "config": {"Labels": {}}});
        if let Some(label) = label {
            config["config"]["Labels"][LAYERS] = json!(label);
        }
        config
    }

    fn ours(comment: &str) -> Value {
        json!({"created_by": MADE_BY, "comment": comment})
    }

    #[test]
    fn layers_of_a_base_of_ours_are_told_from_own_ones() {
        let other = json!({"created_by": "COPY . ."});
        let empty = json!({"created_by": "ENV A=b", "empty_layer": true});
        let layers = ["0", "1", "2", "3", "4", "5"].map(Digest::of);
        let base_of = |config: &Value, count: usize| base_layers(config, &layers[..count]);
        // Whoever copied it has compressed its layers anew.
        let two = "a:1 b:2;c 0 -";
        let all = [
            &other,
            &ours("base: Python"),
            &empty,
            &ours("a"),
            &ours("b"),
            &ours("c"),
        ];
        let all = all.map(Clone::clone);
        assert_eq!(base_of(&config(None, &all), 5), Some(2));
        assert_eq!(base_of(&config(Some(two), &all), 5), Some(3));
        assert_eq!(base_of(&config(Some(""), &all), 5), Some(5));
        // Somebody has put a layer on it.
        let more = [&all[..], std::slice::from_ref(&other)].concat();
        assert_eq!(base_of(&config(Some(two), &more), 6), Some(3));
        assert_eq!(base_of(&config(Some(""), &more), 6), Some(5));
        assert_eq!(base_of(&config(Some(two), &all), 1), Some(1));
        // What the history has lost is not guessed.
        assert_eq!(base_of(&config(Some(two), &[]), 5), None);
        assert_eq!(base_of(&config(Some(""), &[]), 5), None);
        assert_eq!(base_of(&config(None, &[other]), 1), None);
        assert_eq!(base_layers(&Value::Null, &layers[..1]), None);
    }

    #[test]
    fn layers_that_the_label_names_are_told_wherever_they_lie() {
        let layers = ["base", "a", "b", "a", "b", "more"].map(Digest::of);
        let short = |text: &str| format!("k:{}", &Digest::of(text).hex()[..16]);
        let label = format!("{} {};key 0 -,-", short("a"), short("b"));
        // Whatever a history says, or that it is lost.
        for history in [vec![], vec![ours("a"); 6]] {
            let config = config(Some(&label), &history);
            assert_eq!(own_layers(&config, &layers), Some(vec![3, 4]));
            assert_eq!(base_layers(&config, &layers), Some(3));
            assert_eq!(own_layers(&config, &layers[..3]), Some(vec![1, 2]));
            assert_eq!(base_layers(&config, &layers[..3]), Some(1));
        }
        let config = |label: &str| config(Some(label), &[]);
        for gone in ["k: k:", ":", "k", &format!("{} x", short("a"))] {
            assert_eq!(own_layers(&config(gone), &layers), None, "{gone}");
        }
        assert_eq!(own_layers(&config(""), &layers), Some(Vec::new()));
        assert_eq!(own_layers(&Value::Null, &layers), None);
    }
}
