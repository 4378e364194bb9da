//! An image read byte for byte, and the rules that Lambda's unpacker has and other readers do not.
//!
//! Every test that makes an image ends in `assert_accepted_by_lambda`. It asks the library's own
//! validator, the one that users have, and adds what that does not say.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

use flate2::bufread::GzDecoder;
use lambimg::digest::Digest;
use lambimg::oci;
use lambimg::oci::Config;
use lambimg::oci::Descriptor;
use lambimg::oci::Manifest;
use serde_json::Value;

use crate::support::digest;
use crate::support::registry::Registry;

/// What Lambda's documentation advises a manifest not to exceed.
const MANIFEST_LIMIT: usize = 25_400;

pub(crate) struct Image {
    raw_manifest: Vec<u8>,
    raw_config: Vec<u8>,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
    /// Compressed, lowest first.
    pub(crate) layers: Vec<Vec<u8>>,
}

/// One entry of a layer.
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) header: tar::Header,
    pub(crate) content: Vec<u8>,
}

impl Image {
    /// The image of a reference such as `127.0.0.1:5000/name@sha256:…` or `…:tag`.
    pub(crate) fn in_registry(registry: &Registry, reference: &str) -> Image {
        let name = reference
            .strip_prefix(registry.address())
            .expect("the reference is of this registry");
        let name = name.trim_start_matches('/');
        let (repository, tag) = name
            .split_once('@')
            .or_else(|| name.rsplit_once(':'))
            .expect("a tag or a digest");
        let manifest = registry.manifest(repository, tag);
        let manifest = manifest.unwrap_or_else(|| panic!("{reference} is not in the registry"));
        Image::read(manifest, &|digest| registry.blob(repository, digest))
    }

    /// The only image of an OCI directory.
    pub(crate) fn in_directory(directory: &Path) -> Image {
        let blob =
            |digest: &str| fs::read(directory.join("blobs").join(digest.replace(':', "/"))).ok();
        let index = fs::read(directory.join("index.json")).expect("an OCI directory has an index");
        let index: Value = serde_json::from_slice(&index).expect("the index is JSON");
        let [entry] = index["manifests"]
            .as_array()
            .expect("the index has manifests")
            .as_slice()
        else {
            panic!("not one image: {index}");
        };
        let manifest = blob(entry["digest"].as_str().expect("the entry has a digest"))
            .expect("the manifest is there");
        Image::read(manifest, &blob)
    }

    fn read(raw_manifest: Vec<u8>, blob: &dyn Fn(&str) -> Option<Vec<u8>>) -> Image {
        let manifest: Value = serde_json::from_slice(&raw_manifest).expect("the manifest is JSON");
        let fetch = |descriptor: &Value| {
            let name = descriptor["digest"]
                .as_str()
                .unwrap_or_else(|| panic!("not an image's manifest: {manifest}"));
            let content = blob(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(digest(&content), name, "a blob has another's name");
            assert_eq!(
                Some(content.len() as u64),
                descriptor["size"].as_u64(),
                "{name} has another size"
            );
            content
        };
        let raw_config = fetch(&manifest["config"]);
        let config = serde_json::from_slice(&raw_config).expect("the configuration is JSON");
        let layers = manifest["layers"]
            .as_array()
            .expect("the manifest has layers")
            .iter()
            .map(fetch)
            .collect();
        Image {
            raw_manifest,
            raw_config,
            manifest,
            config,
            layers,
        }
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.raw_manifest)
    }

    /// The entries of one layer, in its order.
    pub(crate) fn entries(&self, layer: usize) -> Vec<Entry> {
        let tar = inflate(&self.layers[layer]);
        let mut archive = tar::Archive::new(tar.as_slice());
        let entries = archive
            .entries()
            .expect("a layer is a tar archive")
            .map(|entry| {
                let mut entry = entry.expect("a layer's entry can be read");
                let mut content = Vec::new();
                entry
                    .read_to_end(&mut content)
                    .expect("a layer's file can be read");
                let path =
                    String::from_utf8(entry.path_bytes().into_owned()).expect("paths are text");
                Entry {
                    path,
                    header: entry.header().clone(),
                    content,
                }
            });
        entries.collect()
    }

    /// All files and links below a directory such as `var/task`, as upper layers leave them.
    pub(crate) fn files_below(&self, directory: &str) -> BTreeMap<String, Entry> {
        let mut found = BTreeMap::new();
        for entry in (0..self.layers.len()).flat_map(|layer| self.entries(layer)) {
            let path = entry.path.trim_start_matches("./").trim_start_matches('/');
            let below = path
                .strip_prefix(directory)
                .and_then(|rest| rest.strip_prefix('/'));
            let below = below
                .filter(|rest| !rest.is_empty() && !rest.ends_with('/'))
                .map(str::to_owned);
            if let Some(below) = below {
                found.insert(below, entry);
            }
        }
        found
    }

    /// Fails with the first rule of Lambda's that the image breaks.
    pub(crate) fn assert_accepted_by_lambda(&self) {
        self.assert_valid();
        assert!(
            self.raw_manifest.len() < MANIFEST_LIMIT,
            "the manifest has {} bytes",
            self.raw_manifest.len()
        );
        for absent in ["manifests", "subject", "artifactType"] {
            assert!(
                self.manifest.get(absent).is_none(),
                "the manifest has {absent}"
            );
        }
        let command = self.config["config"]["Cmd"].as_array().map_or(0, Vec::len);
        assert_eq!(command, 1, "the entry point takes the handler alone");
        let variables = self.config["config"]["Env"].to_string();
        assert!(
            !variables.contains("\"PYTHONPATH="),
            "PYTHONPATH hides the layers' directories: {variables}"
        );
        for layer in 0..self.layers.len() {
            self.assert_layer(layer);
        }
    }

    /// Fails with all that the library's validator finds.
    fn assert_valid(&self) {
        assert!(
            self.manifest["mediaType"].is_string(),
            "the manifest names its media type"
        );
        let manifest = Manifest::read(self.raw_manifest.clone());
        let config = Config::read(self.raw_config.clone());
        let image = oci::image::Image {
            manifest: manifest.expect("the library reads the manifest"),
            config: config.expect("the library reads the configuration"),
            origins: BTreeMap::new(),
        };
        let blob = |descriptor: &Descriptor| {
            let wanted = |layer: &&Vec<u8>| Digest::of(layer) == descriptor.digest;
            let found = self.layers.iter().find(wanted);
            found
                .map(Vec::as_slice)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let valid = oci::image::validate(&image, self.layers_of_the_base(), blob);
        assert_eq!(valid, Ok(()), "{}", self.config);
    }

    /// The layers that lambimg has not made itself; they lie lowest.
    fn layers_of_the_base(&self) -> usize {
        let history = self.config["history"].as_array();
        let layers = history
            .into_iter()
            .flatten()
            .filter(|entry| entry["empty_layer"] != true);
        layers
            .filter(|entry| entry["created_by"] != "lambimg build")
            .count()
    }

    fn assert_layer(&self, layer: usize) {
        let mut seen = BTreeSet::new();
        for entry in self.entries(layer) {
            let Entry { path, header, .. } = &entry;
            let kind = header.entry_type();
            let allowed = kind.is_file() || kind.is_dir() || kind.is_symlink();
            assert!(
                allowed,
                "layer {layer}: {path} is neither file, directory nor symbolic link: {kind:?}"
            );
            let name = path.trim_end_matches('/');
            assert!(
                !name.starts_with('/') && !name.split('/').any(|part| part == ".."),
                "layer {layer}: {path}"
            );
            if let Some((parent, _)) = name.rsplit_once('/') {
                assert!(
                    seen.contains(parent),
                    "layer {layer}: {path} comes before its directory"
                );
            }
            assert!(
                seen.insert(name.to_owned()),
                "layer {layer}: {path} comes twice"
            );
            let owner = (
                header.uid().expect("an owner"),
                header.gid().expect("a group"),
            );
            assert_eq!(owner, (0, 0), "layer {layer}: owner of {path}");
            let mode = header.mode().expect("a mode");
            let wanted = if kind.is_dir() { 0o5 } else { 0o4 };
            // Only root's own home is closed, as it is in every base.
            assert!(
                mode & wanted == wanted || name == "root",
                "layer {layer}: {path} has mode {mode:o}"
            );
        }
    }
}

/// Fails unless every blob of an OCI directory is what its name says, everything that the index names is
/// there, and no file is left over from a write that did not end.
pub(crate) fn assert_whole(directory: &Path) {
    for path in files_of(directory) {
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            ![".tmp", ".lambimg-"].iter().any(|mark| name.contains(mark)),
            "left over: {}",
            path.display()
        );
        if path.starts_with(directory.join("blobs/sha256")) {
            let content = fs::read(&path).expect("a blob can be read");
            assert_eq!(digest(&content), format!("sha256:{name}"), "half written");
        }
    }
    let Ok(index) = fs::read(directory.join("index.json")) else {
        return;
    };
    let index: Value = serde_json::from_slice(&index).expect("the index is JSON");
    for entry in index["manifests"]
        .as_array()
        .expect("the index has manifests")
    {
        let name = entry["digest"].as_str().expect("an entry has a digest");
        assert!(
            directory
                .join("blobs")
                .join(name.replace(':', "/"))
                .exists(),
            "the index names {name}"
        );
    }
}

/// All files below a directory, none if there is no such directory.
pub(crate) fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_of(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Exactly one gzip member: Lambda reads no more.
pub(crate) fn inflate(compressed: &[u8]) -> Vec<u8> {
    let mut decoder = GzDecoder::new(compressed);
    let mut content = Vec::new();
    decoder
        .read_to_end(&mut content)
        .expect("a layer is compressed by gzip");
    assert!(
        decoder.into_inner().is_empty(),
        "a layer has more than one gzip member"
    );
    content
}
