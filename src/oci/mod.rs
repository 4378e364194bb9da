//! The OCI image specification and Docker's schema 2, which Lambda takes as one: descriptors,
//! manifests, indexes and configs, the exact bytes kept beside the parsed view.
//!
//! Reading goes through `oci-spec`. Writing never does: it serialises maps in random order and drops
//! fields that it does not know. This room knows no registry, no Python and no Lambda.

mod archive;
pub mod compare;
pub mod flatten;
pub mod image;
mod inflate;
pub mod layer;
pub mod layout;
pub mod opened;
pub mod rebase;
pub mod reference;
mod splice;
pub mod unpack;
mod ustar;

use std::collections::BTreeMap;

use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// No manifest or config is larger; ECR's limit for a manifest is 4 MiB as well.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Which of the two vocabularies of media types an image speaks. One image never mixes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Docker's image manifest, version 2, schema 2.
    Docker,
    /// OCI image-spec 1.x.
    Oci,
}

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a registry is asked for when it is asked for an image.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

impl Family {
    /// The media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Docker => DOCKER_MANIFEST,
            Self::Oci => OCI_MANIFEST,
        }
    }

    /// The media type of a config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Docker => DOCKER_CONFIG,
            Self::Oci => OCI_CONFIG,
        }
    }

    /// The media type of a gzip layer, the one kind that Lambda takes.
    pub fn layer(self) -> &'static str {
        match self {
            Self::Docker => DOCKER_LAYER,
            Self::Oci => OCI_LAYER,
        }
    }
}

/// What is wrong with an image's documents.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The JSON is not what its place needs.
    #[error("the {what} cannot be read: {detail}")]
    Malformed {
        /// `manifest`, `index` or `config`.
        what: &'static str,
        /// The reader's own words.
        detail: String,
    },
    /// It is some other document.
    #[error("media type `{0}` is neither an image manifest nor an index")]
    NoImage(String),
    /// The index has nothing for this platform.
    #[error("the image index has no {wanted}, only {offered}")]
    Architecture {
        /// The platform in OCI's words.
        wanted: String,
        /// The platforms there are.
        offered: String,
    },
    /// A single image is of another architecture.
    #[error("the image is for {actual}, not for linux/{wanted}")]
    OtherArchitecture {
        /// The architecture in OCI's words.
        wanted: String,
        /// The platform of the image.
        actual: String,
    },
    /// A layer is of a kind that Lambda refuses.
    #[error("layer {digest} has media type `{media_type}`, which Lambda does not take")]
    Layer {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
}

fn malformed(what: &'static str) -> impl FnOnce(String) -> Error {
    move |detail| Error::Malformed { what, detail }
}

/// A reference to bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// Their length.
    pub size: u64,
    /// What else is said of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }

    fn read(descriptor: &oci_spec::image::Descriptor) -> Result<Self, String> {
        let digest = descriptor.digest().to_string();
        Ok(Self {
            media_type: descriptor.media_type().to_string(),
            digest: digest.parse().map_err(|e| format!("{e}"))?,
            size: descriptor.size(),
            annotations: descriptor
                .annotations()
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        })
    }
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The bytes as they were received or made; the digest is theirs.
    pub raw: Vec<u8>,
    /// Whose media types it uses.
    pub family: Family,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest and keeps its bytes.
    ///
    /// # Errors
    /// When it is no manifest.
    pub fn read(raw: Vec<u8>) -> Result<Self, Error> {
        let parsed = ImageManifest::from_reader(&*raw)
            .map_err(|e| e.to_string())
            .map_err(malformed("manifest"))?;
        let config = Descriptor::read(parsed.config()).map_err(malformed("manifest"))?;
        let layers: Result<Vec<_>, _> = parsed.layers().iter().map(Descriptor::read).collect();
        let stated = parsed.media_type().as_ref().map(ToString::to_string);
        Ok(Self {
            family: match stated.as_deref() {
                Some(DOCKER_MANIFEST) => Family::Docker,
                None if config.media_type == DOCKER_CONFIG => Family::Docker,
                _ => Family::Oci,
            },
            config,
            layers: layers.map_err(malformed("manifest"))?,
            annotations: parsed
                .annotations()
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            raw,
        })
    }

    /// The digest of the bytes: the image's name for good.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.raw)
    }

    /// The digests of the layers, lowest first.
    pub fn layer_digests(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.digest).collect()
    }

    /// The descriptor that points to this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(self.family.manifest(), &self.raw)
    }
}

/// One image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The image's manifest.
    pub descriptor: Descriptor,
    /// `linux/arm64` or the like; attestations say `unknown/unknown`.
    pub platform: Option<String>,
}

/// An index (manifest list) of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// What it lists.
    pub entries: Vec<IndexEntry>,
}

impl Index {
    fn read(raw: &[u8]) -> Result<Self, Error> {
        let parsed = ImageIndex::from_reader(raw)
            .map_err(|e| e.to_string())
            .map_err(malformed("index"))?;
        let entry = |descriptor: &oci_spec::image::Descriptor| {
            let platform = descriptor.platform().as_ref();
            Ok(IndexEntry {
                descriptor: Descriptor::read(descriptor)?,
                platform: platform.map(|p| format!("{}/{}", p.os(), p.architecture())),
            })
        };
        let entries: Result<_, String> = parsed.manifests().iter().map(entry).collect();
        Ok(Self {
            entries: entries.map_err(malformed("index"))?,
        })
    }

    /// The image for Linux on `architecture` (`amd64`, `arm64`); if none is named, the only one.
    ///
    /// # Errors
    /// When there is none, or several; the error lists the platforms there are.
    pub fn select(&self, architecture: Option<&str>) -> Result<&Descriptor, Error> {
        let known = |entry: &&IndexEntry| {
            let platform = entry.platform.as_deref();
            platform.is_none_or(|platform| !platform.contains("unknown"))
        };
        let known: Vec<_> = self.entries.iter().filter(known).collect();
        let found = match (architecture, &*known) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(architecture), _) => {
                let wanted = format!("linux/{architecture}");
                known
                    .iter()
                    .find(|e| e.platform.as_deref() == Some(&*wanted))
            }
        };
        found.map(|entry| &entry.descriptor).ok_or_else(|| {
            let platforms = known.iter().filter_map(|entry| entry.platform.as_deref());
            let offered = platforms.collect::<Vec<_>>().join(", ");
            Error::Architecture {
                wanted: architecture.map_or("one image".to_owned(), |a| format!("linux/{a}")),
                offered: if offered.is_empty() {
                    "nothing".to_owned()
                } else {
                    offered
                },
            }
        })
    }
}

/// What an image reference can lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several images.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

impl Document {
    /// Reads a document by the media type it states, else by the one it came with.
    ///
    /// # Errors
    /// When it is no image.
    pub fn read(raw: Vec<u8>, came_with: Option<&str>) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            media_type: Option<String>,
            manifests: Option<Value>,
        }
        let probe: Probe = serde_json::from_slice(&raw)
            .map_err(|e| e.to_string())
            .map_err(malformed("manifest"))?;
        let header = came_with.map(|value| value.split(';').next().unwrap_or(value).trim());
        let stated = probe.media_type.as_deref().or(header);
        match stated {
            Some(OCI_INDEX | DOCKER_LIST) => Index::read(&raw).map(Self::Index),
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => Manifest::read(raw).map(Self::Manifest),
            Some(other) if probe.media_type.is_some() => Err(Error::NoImage(other.to_owned())),
            _ if probe.manifests.is_some() => Index::read(&raw).map(Self::Index),
            _ => Manifest::read(raw).map(Self::Manifest),
        }
    }
}

/// An image config.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The bytes as they were received or made.
    pub raw: Vec<u8>,
    /// All of it, the fields included that no specification knows.
    pub value: Value,
    /// `linux`.
    pub os: String,
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The variables, as `NAME=value`.
    pub env: Vec<String>,
    /// The entry point.
    pub entrypoint: Vec<String>,
    /// The arguments: the handler.
    pub cmd: Vec<String>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

impl Config {
    /// Reads a config and keeps its bytes.
    ///
    /// # Errors
    /// When it is no image config.
    pub fn read(raw: Vec<u8>) -> Result<Self, Error> {
        let parsed = ImageConfiguration::from_reader(&*raw)
            .map_err(|e| e.to_string())
            .map_err(malformed("config"))?;
        let value: Value = serde_json::from_slice(&raw)
            .map_err(|e| e.to_string())
            .map_err(malformed("config"))?;
        let diff_ids: Result<_, _> = parsed
            .rootfs()
            .diff_ids()
            .iter()
            .map(|id| id.parse())
            .collect();
        let run = parsed.config().clone().unwrap_or_default();
        Ok(Self {
            value,
            os: parsed.os().to_string(),
            architecture: parsed.architecture().to_string(),
            diff_ids: diff_ids
                .map_err(|e: crate::digest::ParseError| e.to_string())
                .map_err(malformed("config"))?,
            env: run.env().clone().unwrap_or_default(),
            entrypoint: run.entrypoint().clone().unwrap_or_default(),
            cmd: run.cmd().clone().unwrap_or_default(),
            labels: run
                .labels()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            raw,
        })
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let split = self.env.iter().filter_map(|line| line.split_once('='));
        split
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .next_back()
    }

    /// As [`Self::require`], where an architecture is wanted at all.
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`].
    pub fn require_any(&self, architecture: Option<&str>) -> Result<(), Error> {
        architecture.map_or(Ok(()), |architecture| self.require(architecture))
    }

    /// Fails unless the image is for Linux on `architecture`.
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`].
    pub fn require(&self, architecture: &str) -> Result<(), Error> {
        if self.os == "linux" && self.architecture == architecture {
            return Ok(());
        }
        Err(Error::OtherArchitecture {
            wanted: architecture.to_owned(),
            actual: format!("{}/{}", self.os, self.architecture),
        })
    }
}

/// Compact JSON with sorted keys: the one way this house writes a document.
pub(crate) fn to_json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(text: &str) -> String {
        Digest::of(text).to_string()
    }

    #[test]
    fn keys_are_written_sorted() {
        // A dependency that turns on serde_json's `preserve_order` would change every digest.
        let value = json!({"b": 1, "a": {"d": 1, "c": 2}});
        assert_eq!(to_json(&value), br#"{"a":{"c":2,"d":1},"b":1}"#);
    }

    #[test]
    fn index_selects_by_platform_and_lists_what_it_has() {
        let entry = |architecture: &str| {
            json!({"mediaType": DOCKER_MANIFEST, "size": 3, "digest": digest(architecture),
                   "platform": {"os": "linux", "architecture": architecture}})
        };
        let attestation = json!({"mediaType": OCI_MANIFEST, "size": 3, "digest": digest("att"),
                   "platform": {"os": "unknown", "architecture": "unknown"}});
        let raw = to_json(&json!({"schemaVersion": 2, "mediaType": DOCKER_LIST,
                   "manifests": [entry("amd64"), attestation]}));
        let Document::Index(index) = Document::read(raw, None).unwrap() else {
            panic!("a list is an index");
        };
        assert_eq!(
            index.select(Some("amd64")).unwrap().digest,
            Digest::of("amd64")
        );
        insta::assert_snapshot!(index.select(Some("arm64")).unwrap_err(),
            @"the image index has no linux/arm64, only linux/amd64");
    }

    #[test]
    fn a_manifest_keeps_its_bytes_and_its_family() {
        let text = format!(
            "{{ \"schemaVersion\": 2,\n \"config\": {{\"mediaType\": \"{DOCKER_CONFIG}\", \"size\": 2, \"digest\": \"{}\"}}, \"layers\": [] }}",
            digest("c")
        );
        let Document::Manifest(manifest) =
            Document::read(text.clone().into(), Some("application/json")).unwrap()
        else {
            panic!("a manifest");
        };
        assert_eq!(manifest.family, Family::Docker);
        assert_eq!(manifest.digest(), Digest::of(&text));
    }

    #[test]
    fn a_config_tells_its_variables() {
        let raw = to_json(
            &json!({"os": "linux", "architecture": "arm64", "docker_version": "x",
            "rootfs": {"type": "layers", "diff_ids": [digest("l")]}, "history": [],
            "config": {"Env": ["A=1=2", "B="], "Cmd": null, "Volumes": null}}),
        );
        let config = Config::read(raw).unwrap();
        assert_eq!(config.variable("A"), Some("1=2"));
        assert_eq!(config.variable("C"), None);
        assert!(config.cmd.is_empty());
        assert_eq!(config.value["docker_version"], "x");
        insta::assert_snapshot!(config.require("amd64").unwrap_err(),
            @"the image is for linux/arm64, not for linux/amd64");
    }

    #[test]
    fn other_documents_are_named() {
        let read = |raw: &str| Document::read(raw.into(), None).unwrap_err().to_string();
        insta::assert_snapshot!(read(r#"{"mediaType": "application/vnd.cncf.helm.config.v1+json"}"#),
            @"media type `application/vnd.cncf.helm.config.v1+json` is neither an image manifest nor an index");
        assert!(read("<html>").starts_with("the manifest cannot be read"));
    }
}
