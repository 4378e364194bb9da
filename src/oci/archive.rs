//! Images in tar files: an archive's members read in any order, archives written whole, and Docker's
//! own format, the one that `docker save` writes and `docker load` takes.
//!
//! Docker's listing names a config and layers, often uncompressed, and no manifest: reading makes one.
//! Moby's image specification v1.2 tells of it, and writers have outgrown that; skopeo's reader is
//! the measure. What an OCI index says is not known here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::blob_store::BlobStore;
use crate::digest::{Digest, HashingWriter};
use crate::oci::image::Image;
use crate::oci::layout::{self, Error, Place, failed};
use crate::oci::reference::Name;
use crate::oci::{self, Config, Descriptor, Family, Manifest};

const LISTING_FILE: &str = "manifest.json";
const GZIP_MARK: [u8; 2] = [0x1f, 0x8b];

/// Writes the archive `path` with the files of `listing` first and then the blobs of `image`, each
/// where `path_of` says.
///
/// # Errors
/// When it cannot be written; what stood there before stands there still.
pub(super) fn write(
    path: &Path,
    image: &Image,
    listing: &[(String, Vec<u8>)],
    path_of: impl Fn(&Descriptor) -> String,
    store: &BlobStore,
) -> Result<(), Error> {
    // A link's own target is what is meant.
    let target = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let write = |source| failed("write", target)(source);
    let file = layout::new_file(directory).map_err(write)?;
    let mut archive = tar::Builder::new(BufWriter::with_capacity(256 << 10, file));
    for (name, bytes) in listing {
        append(&mut archive, name, bytes.len() as u64, &**bytes).map_err(write)?;
    }
    for descriptor in image.blobs() {
        let name = path_of(descriptor);
        if descriptor.digest == image.manifest.config.digest {
            append(&mut archive, &name, descriptor.size, &*image.config.raw).map_err(write)?;
        } else {
            let reader = store.reader(&descriptor.digest)?;
            append(&mut archive, &name, descriptor.size, reader).map_err(write)?;
        }
    }
    let buffer = archive.into_inner().map_err(write)?;
    let file = buffer.into_inner().map_err(|e| write(e.into_error()))?;
    layout::persist(file, target)
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    reader: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, reader)
}

/// Writes `image` as `docker load` takes it, under the place's name or else under all of `names`.
///
/// # Errors
/// When the place's name is none, or the archive cannot be written.
pub(super) fn write_docker(
    place: &Place,
    image: &Image,
    names: &[Name],
    store: &BlobStore,
) -> Result<(), Error> {
    let path_of = docker_path(image);
    // `docker load` takes no name without a tag.
    let tags: Vec<String> = match &place.name {
        Some(name) => vec![name.parse::<Name>()?.tagged()],
        None => names.iter().map(Name::tagged).collect(),
    };
    let layers: Vec<_> = image.manifest.layers.iter().map(&path_of).collect();
    let listing = json!([{
        "Config": path_of(&image.manifest.config), "RepoTags": tags, "Layers": layers,
    }]);
    let listing = [(LISTING_FILE.to_owned(), oci::to_json(&listing))];
    write(&place.path, image, &listing, path_of, store)
}

fn docker_path(image: &Image) -> impl Fn(&Descriptor) -> String {
    let config = image.manifest.config.digest;
    move |descriptor| {
        let hex = descriptor.digest.hex();
        if descriptor.digest == config {
            format!("{hex}.json")
        } else {
            format!("{hex}.tar.gz")
        }
    }
}

/// Reads the image of Docker's archive at `place` into `store`, for `architecture` if one is wanted.
///
/// # Errors
/// When the archive is none, lacks the image, or holds a layer that its config does not name.
pub(super) fn read_docker(
    place: &Place,
    architecture: Option<&str>,
    store: &BlobStore,
) -> Result<Image, Error> {
    let members = Members::index(&place.path)?;
    let entry = listing(&members, place)?;
    let config = Config::read(members.read(config_path(&entry, place)?)?)?;
    config.require_any(architecture)?;
    store.put(&config.raw)?;
    let layers = take_layers(&members, &entry["Layers"], &config.diff_ids, store)?;
    let manifest = docker_manifest(&config, &layers)?;
    store.put(&manifest.raw)?;
    Ok(Image {
        manifest,
        config,
        origins: BTreeMap::new(),
    })
}

/// What Docker's archive says of the image that `place` names.
///
/// # Errors
/// When it is none, or lacks the image.
pub(super) fn listing(members: &Members, place: &Place) -> Result<Value, Error> {
    let listing = serde_json::from_slice(&members.read(LISTING_FILE)?)
        .map_err(|e| no_docker_archive(&place.path, e.to_string()))?;
    choose(&listing, place).cloned()
}

/// Where the config lies of an image that is listed so.
///
/// # Errors
/// When the listing does not say.
pub(super) fn config_path<'a>(entry: &'a Value, place: &Place) -> Result<&'a str, Error> {
    let path = entry["Config"].as_str();
    path.ok_or_else(|| no_docker_archive(&place.path, "it names no config".to_owned()))
}

fn no_docker_archive(path: &Path, detail: String) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        what: "Docker archive",
        detail,
    }
}

/// The image that `place` names; where it names none, the only one.
fn choose<'a>(listing: &'a Value, place: &Place) -> Result<&'a Value, Error> {
    let malformed = |detail: &str| no_docker_archive(&place.path, detail.to_owned());
    let images = listing.as_array();
    let images = images.ok_or_else(|| malformed("its listing is no list"))?;
    let Some(name) = &place.name else {
        return match &**images {
            [only] => Ok(only),
            [] => Err(malformed("it has no image")),
            _ => Err(malformed("it has several images; name one")),
        };
    };
    let wanted = name.parse::<Name>()?.tagged();
    let has_name = |image: &&Value| {
        let mut tags = image["RepoTags"].as_array().into_iter().flatten();
        tags.any(|tag| tag.as_str() == Some(&wanted))
    };
    let found = images.iter().find(has_name);
    found.ok_or_else(|| malformed("it has no image of that name"))
}

/// Takes the layers at `paths` into the store, each of which must be the one that the config names.
fn take_layers(
    members: &Members,
    paths: &Value,
    diff_ids: &[Digest],
    store: &BlobStore,
) -> Result<Vec<Descriptor>, Error> {
    let malformed = |detail: String| no_docker_archive(&members.path, detail);
    let paths: Option<Vec<_>> = paths
        .as_array()
        .into_iter()
        .flatten()
        .map(Value::as_str)
        .collect();
    let paths = paths.ok_or_else(|| malformed("a layer has no path".to_owned()))?;
    if paths.len() != diff_ids.len() {
        let detail = "its config tells of another number of layers";
        return Err(malformed(detail.to_owned()));
    }
    let take = |(path, diff_id): (&str, &Digest)| {
        let taken = members
            .open(path)
            .and_then(|reader| take_layer(BufReader::new(reader), store));
        let (layer, actual) = taken.map_err(failed("read a layer of", &members.path))?;
        if actual != *diff_id {
            let detail = format!("its layer {path} is {actual}, not {diff_id}");
            return Err(malformed(detail));
        }
        Ok(layer)
    };
    paths.into_iter().zip(diff_ids).map(take).collect()
}

/// Keeps a layer as it is when it is gzip already, else compresses it. Gives it and its `diff_id`.
fn take_layer(mut reader: impl BufRead, store: &BlobStore) -> io::Result<(Descriptor, Digest)> {
    let mut writer = store.writer().map_err(io::Error::other)?;
    if reader.fill_buf()?.starts_with(&GZIP_MARK) {
        io::copy(&mut reader, &mut writer)?;
        let (digest, size) = writer.commit().map_err(io::Error::other)?;
        let blob = store.reader(&digest).map_err(io::Error::other)?;
        let mut tar = flate2::bufread::GzDecoder::new(BufReader::new(blob));
        let (diff_id, _) = Digest::of_reader(&mut tar)?;
        return Ok((docker_layer(digest, size), diff_id));
    }
    let level = flate2::Compression::new(6);
    let gzip = flate2::GzBuilder::new()
        .operating_system(255)
        .write(writer, level);
    let mut tar = HashingWriter::new(gzip);
    io::copy(&mut reader, &mut tar)?;
    let (gzip, diff_id, _) = tar.finish();
    let (digest, size) = gzip.finish()?.commit().map_err(io::Error::other)?;
    Ok((docker_layer(digest, size), diff_id))
}

fn docker_layer(digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: Family::Docker.layer().to_owned(),
        digest,
        size,
        annotations: BTreeMap::new(),
    }
}

fn docker_manifest(config: &Config, layers: &[Descriptor]) -> Result<Manifest, oci::Error> {
    let config = Descriptor::of(Family::Docker.config(), &config.raw);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": Family::Docker.manifest(),
        "config": config,
        "layers": layers,
    });
    Manifest::read(oci::to_json(&manifest))
}

/// As many links one after another are followed.
const MAX_LINKS: usize = 8;

/// Where the files of a tar archive lie, so that they can be read in any order.
#[derive(Debug)]
pub struct Members {
    path: PathBuf,
    extents: BTreeMap<String, (u64, u64)>,
    /// Where links lead; Docker up to 24 wrote a layer once and linked to it from further images.
    links: BTreeMap<String, String>,
}

impl Members {
    /// Finds the files of the archive at `path`, once through it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn index(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(failed("read", path))?;
        let mut archive = tar::Archive::new(file);
        let (mut extents, mut links) = (BTreeMap::new(), BTreeMap::new());
        let entries = archive.entries_with_seek().map_err(failed("read", path))?;
        for entry in entries {
            let entry = entry.map_err(failed("read", path))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = clean(&name);
            let kind = entry.header().entry_type();
            if kind.is_file() {
                extents.insert(name, (entry.raw_file_position(), entry.size()));
            } else if let Some(target) = entry.link_name_bytes() {
                let target = String::from_utf8_lossy(&target).into_owned();
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let target = if kind.is_symlink() {
                    clean(&format!("{directory}/{target}"))
                } else {
                    clean(&target)
                };
                links.insert(name, target);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            extents,
            links,
        })
    }

    /// Position and size of a file, links followed.
    fn extent(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = clean(name);
        for _ in 0..MAX_LINKS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        self.extents.get(&name).copied()
    }

    /// The number of bytes of a file, if the archive has it.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.extent(name).map(|(_, size)| size)
    }

    /// A file of the archive, of any size.
    ///
    /// # Errors
    /// When the archive has none of that name.
    pub(super) fn open(&self, name: &str) -> io::Result<impl Read + use<>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("it has no `{name}`"));
        let (position, size) = self.extent(name).ok_or_else(missing)?;
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(position))?;
        Ok(file.take(size))
    }

    /// A document of the archive, whole.
    ///
    /// # Errors
    /// When the archive has none of that name, or it is larger than any document.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        if self.size(name).is_some_and(|size| size > oci::MAX_DOCUMENT) {
            return Err(layout::too_large(&self.path, name));
        }
        let mut bytes = Vec::new();
        self.open(name)
            .and_then(|mut reader| reader.read_to_end(&mut bytes))
            .map_err(failed("read", &self.path))?;
        Ok(bytes)
    }
}

/// A member's name without `.` and `..`.
fn clean(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Docker's archive of images with these tags, all with one layer of these bytes and one `diff_id`.
    fn archive(path: &Path, tags: &[&str], layer: &[u8], diff_id: &Digest) {
        let config = json!({"architecture": "arm64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]}});
        let image = |tag| json!({"Config": "c.json", "RepoTags": [tag], "Layers": ["l/layer.tar"]});
        let listing = Value::Array(tags.iter().map(image).collect());
        let mut archive = tar::Builder::new(File::create(path).unwrap());
        // The layer first: members are found wherever they lie.
        for (name, bytes) in [
            ("./l/layer.tar", layer.to_vec()),
            (LISTING_FILE, oci::to_json(&listing)),
            ("c.json", oci::to_json(&config)),
        ] {
            append(&mut archive, name, bytes.len() as u64, &*bytes).unwrap();
        }
        archive.into_inner().unwrap();
    }

    #[test]
    fn uncompressed_layers_are_compressed_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path().join("store")).unwrap();
        let path = directory.path().join("image.tar");
        let place: Place = format!("docker-archive:{}", path.display())
            .parse()
            .unwrap();
        archive(&path, &["a:1"], b"tar", &Digest::of("tar"));
        let image = read_docker(&place, Some("arm64"), &store).unwrap();
        let blob = store.read(&image.manifest.layers[0].digest).unwrap();
        assert!(blob.starts_with(&GZIP_MARK));
        assert_eq!(image.manifest.family, Family::Docker);

        archive(&path, &["a:1"], b"another", &Digest::of("tar"));
        let error = read_docker(&place, None, &store).unwrap_err().to_string();
        assert!(
            error.contains("its layer l/layer.tar is sha256:"),
            "{error}"
        );
    }

    #[test]
    fn an_image_is_named_only_where_there_are_several() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path().join("store")).unwrap();
        let path = directory.path().join("image.tar");
        archive(&path, &["a:1", "a:latest"], b"tar", &Digest::of("tar"));
        let read = |name: &str| {
            let place = format!("docker-archive:{}{name}", path.display());
            read_docker(&place.parse().unwrap(), None, &store).map_err(|e| e.to_string())
        };
        assert!(read(":a:1").is_ok());
        assert!(read(":a").is_ok());
        assert!(
            read("")
                .unwrap_err()
                .ends_with("it has several images; name one")
        );
        assert!(
            read(":b")
                .unwrap_err()
                .ends_with("it has no image of that name")
        );
    }
}
