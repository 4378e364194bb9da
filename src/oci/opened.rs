//! An image opened as it lies there, for whoever is to say what is wrong with it.
//!
//! Nothing is proven, refused or copied: documents are bytes and what was said of them, blobs are read in place
//! whatever their names promise. Only what leaves nothing to look at is an error. What is wrong is not said here,
//! and registries are not known.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::blob_store::BlobStore;
use crate::digest::Digest;
use crate::oci::archive::{self, Members};
use crate::oci::layout::{self, Error, Form, Listed, Place, failed};
use crate::oci::{self, Descriptor, OCI_INDEX};

/// Indexes inside indexes are followed so deep.
const MAX_DEPTH: usize = 4;
/// What an index says of an entry that describes another one of its entries.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// A document, and what the document that names it says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The media type that it came with.
    pub media_type: Option<String>,
    /// Digest and size that were promised, if they were.
    pub stated: Option<(Digest, u64)>,
}

impl Raw {
    /// The document as JSON; null if it is none.
    fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

/// An image's documents, and its layers as they are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The index that the name led to, where it led to one.
    pub index: Option<Raw>,
    /// The manifest; none where the form has none.
    pub manifest: Option<Raw>,
    /// The config.
    pub config: Raw,
    /// A descriptor of each layer, lowest first; none where the manifest's cannot be read.
    pub layers: Vec<Option<Descriptor>>,
}

/// Where an image's layers lie.
#[derive(Debug)]
pub enum Blobs {
    /// Files of these names in a directory.
    Directory(PathBuf),
    /// Members of an archive in the layout of OCI.
    Archive(Members),
    /// Members of Docker's archive, by the layer's number.
    Docker(Members, Vec<String>),
}

impl Blobs {
    /// The blobs of a store.
    pub fn of_store(store: &BlobStore) -> Self {
        Self::Directory(store.root().join("blobs/sha256"))
    }

    fn document(&self, digest: &Digest, place: &Path) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let limit = oci::MAX_DOCUMENT;
        self.open(digest)
            .and_then(|reader| reader.take(limit + 1).read_to_end(&mut bytes))
            .map_err(failed("read a blob of", place))?;
        if bytes.len() as u64 > limit {
            return Err(layout::too_large(place, &digest.to_string()));
        }
        Ok(bytes)
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Directory(directory) => {
                Box::new(layout::open_regular(&directory.join(digest.hex()))?)
            }
            Self::Archive(members) | Self::Docker(members, _) => {
                Box::new(members.open(&format!("blobs/sha256/{}", digest.hex()))?)
            }
        })
    }

    /// The bytes of a layer, by its number and descriptor.
    ///
    /// # Errors
    /// Those of opening; [`io::ErrorKind::NotFound`] where there is none.
    pub fn layer(
        &self,
        number: usize,
        descriptor: &Descriptor,
    ) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Docker(members, paths) => {
                let missing = || io::Error::from(io::ErrorKind::NotFound);
                Ok(Box::new(
                    members.open(paths.get(number).ok_or_else(missing)?)?,
                ))
            }
            _ => self.open(&descriptor.digest),
        }
    }
}

/// Opens the image at `place`, of an index that for `architecture` if it has one.
///
/// # Errors
/// When nothing is there to look at.
pub fn open(place: &Place, architecture: Option<&str>) -> Result<(Documents, Blobs), Error> {
    let path = &place.path;
    let (entries, blobs) = match place.form {
        Form::OciDirectory => {
            let entries = layout::list_layout(path)?;
            (entries, Blobs::Directory(path.join("blobs/sha256")))
        }
        Form::OciArchive => {
            let members = Members::index(path)?;
            (
                layout::list_archive(&members, path)?,
                Blobs::Archive(members),
            )
        }
        Form::DockerArchive => return open_docker(place),
    };
    let listed = layout::choose(&entries, place.name.as_deref(), architecture, path)?;
    let mut documents = documents(listed, architecture, &blobs, path)?;
    let twins = entries.iter().filter(|entry| entry.name == listed.name);
    let twins: Vec<_> = twins.map(|entry| &entry.descriptor).collect();
    // Whoever pushes all that has the name pushes an index.
    if twins.len() > 1 && documents.index.is_none() {
        documents.index = Some(Raw {
            bytes: oci::to_json(&json!({"schemaVersion": 2, "manifests": twins})),
            media_type: Some(OCI_INDEX.to_owned()),
            stated: None,
        });
    }
    Ok((documents, blobs))
}

/// Opens the image of this name in the store; its layers may be elsewhere.
///
/// # Errors
/// When the store has none of that name, or lacks a document of it.
pub fn find(store: &BlobStore, name: &str) -> Result<(Documents, Blobs), Error> {
    let entries = layout::list(store.root())?;
    let listed = layout::choose(&entries, Some(name), None, store.root())?;
    let mut own = listed.clone();
    if own.manifest != own.descriptor.digest {
        // The index speaks of its twin in OCI's types.
        let size = store.size(&own.manifest).unwrap_or_default();
        own.descriptor = Descriptor {
            media_type: String::new(),
            digest: own.manifest,
            size,
            annotations: BTreeMap::new(),
        };
    }
    let blobs = Blobs::of_store(store);
    let documents = documents(&own, None, &blobs, store.root())?;
    Ok((documents, blobs))
}

fn documents(
    listed: &Listed,
    architecture: Option<&str>,
    blobs: &Blobs,
    place: &Path,
) -> Result<Documents, Error> {
    let read = |descriptor: &Descriptor| -> Result<Raw, Error> {
        let media_type = Some(descriptor.media_type.clone()).filter(|text| !text.is_empty());
        Ok(Raw {
            bytes: blobs.document(&descriptor.digest, place)?,
            media_type,
            stated: Some((descriptor.digest, descriptor.size)),
        })
    };
    let mut descent = Descent::new(read(&listed.descriptor)?);
    while let Some(descriptor) = descent.next(architecture)? {
        descent.take(read(&descriptor)?);
    }
    let config = descent.config()?;
    let bytes = match blobs.document(&config.digest, place) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    Ok(descent.finish(config, bytes))
}

/// The way from the document that a name leads to down to an image, whoever reads what is on it.
#[derive(Debug)]
pub struct Descent {
    document: Raw,
    index: Option<Raw>,
    depth: usize,
}

impl Descent {
    /// Begins at a manifest or an index.
    pub fn new(document: Raw) -> Self {
        Self {
            document,
            index: None,
            depth: 0,
        }
    }

    /// What is to be read next; none where the manifest is reached.
    ///
    /// # Errors
    /// When an index lists no image that Lambda could run.
    pub fn next(&self, architecture: Option<&str>) -> Result<Option<Descriptor>, oci::Error> {
        if self.depth == MAX_DEPTH {
            return Ok(None);
        }
        select(&self.document, architecture)
    }

    /// Goes on to what was read.
    pub fn take(&mut self, inner: Raw) {
        self.depth += 1;
        let outer = std::mem::replace(&mut self.document, inner);
        self.index.get_or_insert(outer);
    }

    /// The config's descriptor; a size that cannot be read is 0.
    ///
    /// # Errors
    /// When the manifest names no config.
    pub fn config(&self) -> Result<Descriptor, oci::Error> {
        config_of(&self.document)
    }

    /// The documents, with the config's bytes; that it is not there is for a rule to say.
    pub fn finish(self, config: Descriptor, bytes: Option<Vec<u8>>) -> Documents {
        Documents {
            config: Raw {
                bytes: bytes.unwrap_or_default(),
                media_type: Some(config.media_type),
                stated: Some((config.digest, config.size)),
            },
            index: self.index,
            layers: layers_of(&self.document),
            manifest: Some(self.document),
        }
    }
}

/// The image to look at of an index; none where the document is no index.
///
/// It is that for Linux on `architecture`, else the only one, else the first that Lambda could run. Attestations
/// are none.
///
/// # Errors
/// When it lists none of these.
fn select(document: &Raw, architecture: Option<&str>) -> Result<Option<Descriptor>, oci::Error> {
    let value = document.value();
    let Some(entries) = value["manifests"].as_array() else {
        return Ok(None);
    };
    let platform = |entry: &Value| {
        let platform = &entry["platform"];
        let (os, machine) = (platform["os"].as_str()?, platform["architecture"].as_str()?);
        Some(format!("{os}/{machine}"))
    };
    let images: Vec<_> = entries
        .iter()
        .filter(|entry| entry["annotations"][REFERENCE_TYPE].is_null())
        .filter(|entry| platform(entry).is_none_or(|platform| !platform.contains("unknown")))
        .filter_map(|entry| {
            let descriptor = serde_json::from_value::<Descriptor>(entry.clone()).ok()?;
            Some((descriptor, platform(entry)))
        })
        .collect();
    let of = |machine: &str| {
        let wanted = format!("linux/{machine}");
        let mut images = images.iter();
        images.find(move |(_, platform)| platform.as_deref() == Some(&*wanted))
    };
    let found = match (&*images, architecture) {
        ([only], _) => Some(only),
        (_, Some(machine)) => of(machine),
        (_, None) => of("amd64").or_else(|| of("arm64")),
    };
    let found = found.map(|(descriptor, _)| descriptor.clone());
    found.map(Some).ok_or_else(|| {
        let offered: Vec<_> = entries.iter().filter_map(platform).collect();
        oci::Error::Architecture {
            wanted: architecture.map_or("image for Linux".to_owned(), |a| format!("linux/{a}")),
            offered: if offered.is_empty() {
                "nothing".to_owned()
            } else {
                offered.join(", ")
            },
        }
    })
}

fn config_of(manifest: &Raw) -> Result<Descriptor, oci::Error> {
    let value = manifest.value();
    let descriptor = lenient(&value["config"]);
    descriptor.ok_or_else(|| match value["mediaType"].as_str() {
        Some(other) if !oci::ACCEPTED.contains(&other) => oci::Error::NoImage(other.to_owned()),
        _ => oci::Error::Malformed {
            what: "manifest",
            detail: "it names no config by a sha256 digest".to_owned(),
        },
    })
}

/// The layers' descriptors, lowest first; none for one that names no digest.
fn layers_of(manifest: &Raw) -> Vec<Option<Descriptor>> {
    let value = manifest.value();
    let layers = value["layers"].as_array().into_iter().flatten();
    layers.map(lenient).collect()
}

fn lenient(value: &Value) -> Option<Descriptor> {
    Some(Descriptor {
        media_type: value["mediaType"].as_str().unwrap_or_default().to_owned(),
        digest: value["digest"].as_str()?.parse().ok()?,
        size: value["size"].as_u64().unwrap_or_default(),
        annotations: BTreeMap::new(),
    })
}

fn open_docker(place: &Place) -> Result<(Documents, Blobs), Error> {
    let members = Members::index(&place.path)?;
    let listing = archive::listing(&members, place)?;
    let paths = &listing["Layers"].as_array().cloned().unwrap_or_default();
    let paths = paths.iter().map(|path| path.as_str().unwrap_or_default());
    let paths: Vec<_> = paths.map(str::to_owned).collect();
    let config = archive::config_path(&listing, place)?;
    // Docker's listing says no digest: the layers' own are put in their place when they are read.
    let layer = |path: &String| {
        Some(Descriptor {
            media_type: String::new(),
            digest: Digest::of(""),
            size: members.size(path).unwrap_or_default(),
            annotations: BTreeMap::new(),
        })
    };
    let documents = Documents {
        index: None,
        manifest: None,
        config: Raw {
            bytes: members.read(config)?,
            media_type: None,
            stated: None,
        },
        layers: paths.iter().map(layer).collect(),
    };
    Ok((documents, Blobs::Docker(members, paths)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(directory: &Path, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of("some/type", bytes);
        fs::write(
            directory.join("blobs/sha256").join(descriptor.digest.hex()),
            bytes,
        )
        .unwrap();
        descriptor
    }

    fn layout(directory: &Path, entry: &Descriptor) {
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
    }

    #[test]
    fn what_is_wrong_is_read_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        let config = put(directory, b"no JSON");
        let layer = json!({"mediaType": "a", "digest": config.digest, "size": -1});
        let manifest =
            json!({"config": {"digest": config.digest}, "layers": [layer, {"digest": "sha512:0"}]});
        let manifest = put(directory, manifest.to_string().as_bytes());
        let entry = |descriptor: &Descriptor, platform: &str| {
            let (os, architecture) = platform.split_once('/').unwrap();
            json!({"mediaType": "m", "digest": descriptor.digest, "size": descriptor.size + 1,
                   "platform": {"os": os, "architecture": architecture}})
        };
        let index = json!({"manifests": [entry(&config, "unknown/unknown"), entry(&manifest, "linux/arm64")]});
        let index = put(directory, index.to_string().as_bytes());
        layout(directory, &index);
        let place: Place = format!("oci:{}", directory.display()).parse().unwrap();
        let (documents, blobs) = open(&place, Some("amd64")).unwrap();
        assert!(documents.index.is_some());
        let stated = documents.manifest.unwrap().stated;
        assert_eq!(stated, Some((manifest.digest, manifest.size + 1)));
        assert_eq!(documents.config.bytes, b"no JSON");
        let [Some(layer), None] = &*documents.layers else {
            panic!("{:?}", documents.layers)
        };
        assert_eq!(layer.size, 0);
        let mut bytes = Vec::new();
        blobs
            .layer(0, layer)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes, b"no JSON");

        let only = json!({"manifests": [entry(&config, "unknown/unknown")]});
        layout(directory, &put(directory, only.to_string().as_bytes()));
        let error = open(&place, None).unwrap_err().to_string();
        insta::assert_snapshot!(error, @"the image index has no image for Linux, only unknown/unknown");
    }

    #[test]
    fn layers_of_docker_archives_are_found_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
        let listing =
            br#"[{"Config": "c.json", "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}]"#;
        for (name, bytes) in [
            ("a/layer.tar", &b"one"[..]),
            ("manifest.json", listing),
            ("c.json", b"{}"),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive
            .append_link(&mut header, "b/layer.tar", "../a/layer.tar")
            .unwrap();
        archive.into_inner().unwrap();
        let place: Place = format!("docker-archive:{}", path.display())
            .parse()
            .unwrap();
        let (documents, blobs) = open(&place, None).unwrap();
        assert_eq!(documents.manifest, None);
        let sizes: Vec<_> = documents
            .layers
            .iter()
            .flatten()
            .map(|layer| layer.size)
            .collect();
        assert_eq!(sizes, [3, 3, 0]);
        let read = |number: usize| {
            let mut text = String::new();
            let layer = documents.layers[number].as_ref().unwrap();
            blobs.layer(number, layer)?.read_to_string(&mut text)?;
            Ok::<_, io::Error>(text)
        };
        assert_eq!(read(1).unwrap(), "one");
        assert_eq!(read(2).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
