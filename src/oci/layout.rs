//! Images outside a registry: the places they can have, and the OCI image layout with its index.
//!
//! The local store is such a layout too, with names of its own in its index. What a tar file looks
//! like is not known here (see `archive`). Nothing is written before every blob is known to be there,
//! and an archive or a name appears whole.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};

use crate::blob_store::{self, BlobStore};
use crate::digest::{Digest, VerifyingReader};
use crate::http;
use crate::oci::archive::{self, Members};
use crate::oci::image::{self, Image};
use crate::oci::reference::{self, Name};
use crate::oci::{self, Config, Descriptor, Document, Manifest};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// In the store's index: the digest of the manifest that an entry stands for, where that is not OCI's.
const TRUE_MANIFEST: &str = "dev.lambimg.manifest";
const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The forms an image can have outside a registry; the names are those of skopeo and podman.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `oci:`, an image layout in a directory.
    OciDirectory,
    /// `oci-archive:`, an image layout in a tar file.
    OciArchive,
    /// `docker-archive:`, what `docker load` takes.
    DockerArchive,
}

impl Form {
    const ALL: [Self; 3] = [Self::OciDirectory, Self::OciArchive, Self::DockerArchive];

    fn prefix(self) -> &'static str {
        match self {
            Self::OciDirectory => "oci",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
        }
    }
}

/// A place for an image: `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`, `docker-archive:FILE[:NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What is there.
    pub form: Form,
    /// The directory or file.
    pub path: PathBuf,
    /// Which image of it.
    pub name: Option<String>,
}

/// A text that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`")]
pub struct PlaceError(pub String);

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let error = || PlaceError(http::redact_name(text));
        let (prefix, rest) = text.split_once(':').ok_or_else(error)?;
        let form = Form::ALL.into_iter().find(|form| form.prefix() == prefix);
        // As skopeo has it: the path ends at the first colon, a name may have more of them.
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (rest, None),
        };
        if path.is_empty() || name == Some("") {
            return Err(error());
        }
        Ok(Self {
            form: form.ok_or_else(error)?,
            path: path.into(),
            name: name.map(str::to_owned),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.form.prefix(), self.path.display())?;
        match &self.name {
            Some(name) => write!(f, ":{name}"),
            None => Ok(()),
        }
    }
}

/// What can go wrong with a place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// A verb, as `write`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The place is no regular file, and would be replaced by one.
    #[error("`{}` is not a regular file", .0.display())]
    Special(PathBuf),
    /// The name an image should have in an archive is none.
    #[error(transparent)]
    Name(#[from] reference::ParseError),
    /// The place holds something else, which is left alone.
    #[error("`{}` is not empty and no OCI image layout", .0.display())]
    Occupied(PathBuf),
    /// The place is not what its name says.
    #[error("`{}` is no {what}: {detail}", path.display())]
    Malformed {
        /// Where.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// There is no image of that name, or more than one to choose from.
    #[error("`{}` has no image `{wanted}`, only {offered}", path.display())]
    NoImage {
        /// Where.
        path: PathBuf,
        /// The name looked for.
        wanted: String,
        /// The names there are.
        offered: String,
    },
    /// A blob of the image is not in the store.
    #[error("blob {0} of the image is not in the store")]
    Missing(Digest),
    /// A document cannot be taken.
    #[error(transparent)]
    Document(#[from] oci::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

/// One image of a layout's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name there.
    pub name: Option<String>,
    /// Its manifest as all readers of layouts take it.
    pub descriptor: Descriptor,
    /// The manifest that it was built with, which may have Docker's media types.
    pub manifest: Digest,
    /// `linux/arm64` or the like, if the index says it.
    pub platform: Option<String>,
}

/// The index of the layout at `directory`, if it has one yet.
fn read_index(directory: &Path) -> Result<Option<Value>, Error> {
    let path = directory.join(INDEX_FILE);
    let mut bytes = Vec::new();
    match open_regular(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => parse_index(&bytes, &path).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", &path)(e)),
    }
}

fn parse_index(bytes: &[u8], path: &Path) -> Result<Value, Error> {
    let index: Value = serde_json::from_slice(bytes).map_err(|e| no_index(path, e.to_string()))?;
    index_entries(&index, path)?;
    Ok(index)
}

fn index_entries<'a>(index: &'a Value, path: &Path) -> Result<&'a [Value], Error> {
    let entries = index["manifests"].as_array();
    entries
        .map(Vec::as_slice)
        .ok_or_else(|| no_index(path, "it lists no manifests".to_owned()))
}

fn no_index(path: &Path, detail: String) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        what: "OCI index",
        detail,
    }
}

fn entry_name(entry: &Value) -> Option<&str> {
    entry["annotations"][REF_NAME].as_str()
}

fn index_bytes(entries: &[Value]) -> Vec<u8> {
    oci::to_json(&json!({"schemaVersion": 2, "manifests": entries}))
}

fn image_entry(image: &Image, name: Option<&str>) -> Value {
    let descriptor = image.manifest.descriptor();
    let mut entry = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
        "platform": {"os": image.config.os, "architecture": image.config.architecture},
    });
    if let Some(name) = name {
        entry["annotations"] = json!({ REF_NAME: name });
    }
    entry
}

/// Makes `directory` a layout, if it is none yet, and gives the file that says so.
fn open_layout(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LAYOUT_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed("write", &path))?;
    // Where the file system knows no locks, of two names given at once one may be lost, and nothing else.
    let _ = file.lock();
    if file.metadata().map_err(failed("read", &path))?.len() == 0 {
        (&file)
            .write_all(LAYOUT.as_bytes())
            .map_err(failed("write", &path))?;
    }
    Ok(file)
}

/// Gives `image` the name `name` in the layout at `directory`; whoever had it loses it. Several
/// processes may do so at once.
///
/// # Errors
/// When the layout cannot be read or written; it is as it was then.
pub fn tag(directory: &Path, image: &Image, name: Option<&str>) -> Result<(), Error> {
    enter(directory, image_entry(image, name))
}

/// Gives `image`, whose documents are in the store, the name `name` there; whoever had it loses it. skopeo and
/// its like find no image of Docker's media types in a layout, so the index names the same image in OCI's, and
/// beside it the true manifest.
///
/// # Errors
/// When the store cannot be read or written; its names are as they were then.
pub fn tag_in_store(store: &BlobStore, image: &Image, name: &str) -> Result<(), Error> {
    let readable = image::in_oci_types(image)?;
    let mut entry = image_entry(&readable, Some(name));
    if readable.manifest != image.manifest {
        store.put(&readable.manifest.raw)?;
        entry["annotations"][TRUE_MANIFEST] = json!(image.manifest.digest().to_string());
    }
    enter(store.root(), entry)
}

/// Puts an entry into the index in the place of those of its name.
fn enter(directory: &Path, entry: Value) -> Result<(), Error> {
    let _lock = open_layout(directory)?;
    edit_index(directory, |entries| {
        entries.retain(|other| entry_name(other) != entry_name(&entry));
        entries.push(entry);
        entries.sort_by_key(|entry| entry_name(entry).map(str::to_owned));
    })
}

/// Takes names away in the layout at `directory`; what they named stays.
///
/// # Errors
/// When the layout cannot be read or written; it is as it was then.
pub fn untag(directory: &Path, names: &[Option<String>]) -> Result<(), Error> {
    let _lock = open_layout(directory)?;
    edit_index(directory, |entries| {
        entries.retain(|entry| !names.contains(&entry_name(entry).map(str::to_owned)));
    })
}

fn edit_index(directory: &Path, edit: impl FnOnce(&mut Vec<Value>)) -> Result<(), Error> {
    let path = directory.join(INDEX_FILE);
    let before = read_index(directory)?;
    let mut index = before.clone();
    let index = index.get_or_insert_with(|| json!({"schemaVersion": 2}));
    let mut entries = index_entries(index, &path).unwrap_or_default().to_vec();
    edit(&mut entries);
    index["manifests"] = Value::Array(entries);
    // What stands there already need not be forced to the disk again.
    if before.as_ref() != Some(index) {
        blob_store::replace_file(&path, &oci::to_json(index), directory)?;
    }
    Ok(())
}

/// The images of the layout at `directory`.
///
/// # Errors
/// When its index cannot be read.
pub fn list(directory: &Path) -> Result<Vec<Listed>, Error> {
    let index = read_index(directory)?;
    let entries = index.as_ref().map(|index| index_entries(index, directory));
    listed(entries.transpose()?.unwrap_or_default(), directory)
}

/// As [`list`], of what has to be a layout.
pub(super) fn list_layout(directory: &Path) -> Result<Vec<Listed>, Error> {
    // An absent index is a layout without images only where there is a layout.
    let layout = directory.join(LAYOUT_FILE);
    fs::metadata(&layout).map_err(failed("read", &layout))?;
    list(directory)
}

/// The images of a layout in an archive.
pub(super) fn list_archive(members: &Members, path: &Path) -> Result<Vec<Listed>, Error> {
    let index = parse_index(&members.read(INDEX_FILE)?, path)?;
    listed(index_entries(&index, path)?, path)
}

fn listed(entries: &[Value], path: &Path) -> Result<Vec<Listed>, Error> {
    let read = |entry: &Value| {
        let descriptor = serde_json::from_value::<Descriptor>(entry.clone());
        let descriptor = descriptor.map_err(|e| no_index(path, e.to_string()))?;
        let manifest = descriptor.annotations.get(TRUE_MANIFEST);
        let manifest = manifest.map_or(Ok(descriptor.digest), |digest| digest.parse());
        let platform = &entry["platform"];
        let platform = (platform["os"].as_str(), platform["architecture"].as_str());
        Ok(Listed {
            name: entry_name(entry).map(str::to_owned),
            manifest: manifest.map_err(|e| no_index(path, e.to_string()))?,
            descriptor,
            platform: platform
                .0
                .zip(platform.1)
                .map(|(os, arch)| format!("{os}/{arch}")),
        })
    };
    entries.iter().map(read).collect()
}

pub(super) fn choose<'a>(
    images: &'a [Listed],
    wanted: Option<&str>,
    architecture: Option<&str>,
    path: &Path,
) -> Result<&'a Listed, Error> {
    let named = |image: &&Listed| match (wanted, images) {
        (None, [_]) => true,
        _ => image.name.as_deref() == wanted,
    };
    let platform = architecture.map(|architecture| format!("linux/{architecture}"));
    let named: Vec<_> = images.iter().filter(named).collect();
    let found = match (&*named, &platform) {
        ([only], _) => Some(only),
        (several, Some(_)) => several.iter().find(|image| image.platform == platform),
        (several, None) => several.first(),
    };
    found.copied().ok_or_else(|| {
        let name = |image: &Listed| {
            let name = image.name.as_deref().unwrap_or("one without a name");
            let platform = image.platform.as_ref();
            platform.map_or(name.to_owned(), |platform| format!("{name} ({platform})"))
        };
        let offered: Vec<_> = images.iter().map(name).collect();
        Error::NoImage {
            path: path.to_owned(),
            wanted: wanted.unwrap_or("without a name").to_owned(),
            offered: if offered.is_empty() {
                "nothing".to_owned()
            } else {
                offered.join(", ")
            },
        }
    })
}

/// The image called `name` in the store.
///
/// # Errors
/// When there is none, or its documents are damaged.
pub fn find(store: &BlobStore, name: &str) -> Result<Image, Error> {
    let images = list(store.root())?;
    load(
        store,
        &choose(&images, Some(name), None, store.root())?.manifest,
    )
}

/// The image whose manifest in the store has this digest.
///
/// # Errors
/// When a document is missing or damaged.
pub fn load(store: &BlobStore, manifest: &Digest) -> Result<Image, Error> {
    let manifest = Manifest::read(store.read(manifest)?)?;
    let config = Config::read(store.read(&manifest.config.digest)?)?;
    Ok(Image {
        manifest,
        config,
        origins: BTreeMap::new(),
    })
}

/// Whether something may be written to `place` at all: what is there already is not replaced by another kind.
///
/// # Errors
/// [`Error::Occupied`] and [`Error::Special`].
pub fn check_writable(place: &Place) -> Result<(), Error> {
    let path = &place.path;
    if place.form != Form::OciDirectory {
        return match fs::metadata(path) {
            Ok(there) if !there.is_file() => Err(Error::Special(path.clone())),
            _ => Ok(()),
        };
    }
    let occupied = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some() && !path.join(LAYOUT_FILE).exists(),
        // Not a directory, if it is there at all.
        Err(_) => path.exists(),
    };
    if occupied {
        Err(Error::Occupied(path.clone()))
    } else {
        Ok(())
    }
}

/// Writes `image`, all of whose blobs are in `store`, to `place`; `names` are told where the form
/// has room for them.
///
/// # Errors
/// See [`Error`]; what stood there before is as it was then, unreferenced blobs aside.
pub fn write(place: &Place, image: &Image, names: &[Name], store: &BlobStore) -> Result<(), Error> {
    check_writable(place)?;
    let blobs = image.blobs();
    for blob in &blobs {
        if !store.contains(&blob.digest, blob.size) && blob.digest != image.manifest.config.digest {
            return Err(Error::Missing(blob.digest));
        }
    }
    match place.form {
        // Readers of layouts find no image of Docker's types, or refuse it.
        Form::OciDirectory => write_directory(place, &image::in_oci_types(image)?, store),
        Form::OciArchive => {
            let image = image::in_oci_types(image)?;
            let listing = oci_listing(place, &image);
            archive::write(&place.path, &image, &listing, blob_path, store)
        }
        Form::DockerArchive => archive::write_docker(place, image, names, store),
    }
}

fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

fn oci_listing(place: &Place, image: &Image) -> Vec<(String, Vec<u8>)> {
    let entry = image_entry(image, place.name.as_deref());
    vec![
        (LAYOUT_FILE.to_owned(), LAYOUT.into()),
        (INDEX_FILE.to_owned(), index_bytes(&[entry])),
        (
            blob_path(&image.manifest.descriptor()),
            image.manifest.raw.clone(),
        ),
    ]
}

fn write_directory(place: &Place, image: &Image, store: &BlobStore) -> Result<(), Error> {
    let directory = &place.path;
    fs::create_dir_all(directory).map_err(failed("create", directory))?;
    // First of all: whatever interrupts this, the next run may go on here.
    drop(open_layout(directory)?);
    let blobs = directory.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(failed("create", &blobs))?;
    for descriptor in image.blobs() {
        let path = blobs.join(descriptor.digest.hex());
        if is_there(&path, descriptor) {
            continue;
        }
        let mut file = new_file(directory).map_err(failed("write", &path))?;
        copy_blob(image, descriptor, store, &mut file).map_err(failed("write", &path))?;
        persist(file, &path)?;
    }
    let manifest = image.manifest.descriptor();
    let path = blobs.join(manifest.digest.hex());
    blob_store::replace_file(&path, &image.manifest.raw, directory)?;
    tag(directory, image, place.name.as_deref())
}

/// Whether a file has the bytes of a blob.
fn is_there(path: &Path, descriptor: &Descriptor) -> bool {
    let Ok(file) = open_regular(path) else {
        return false;
    };
    let mut reader = VerifyingReader::new(file, descriptor.digest, descriptor.size);
    io::copy(&mut reader, &mut io::sink()).is_ok()
}

/// Opens a file; one that would wait for a writer, or never end, is refused.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// A temporary file with the mode that the umask gives to any file; else it would be its owner's alone.
pub(super) fn new_file(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    let readable = fs::Permissions::from_mode(0o666);
    tempfile::Builder::new()
        .prefix(blob_store::UNFINISHED)
        .permissions(readable)
        .tempfile_in(directory)
}

pub(super) fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result<(), Error> {
    file.persist(path)
        .map_err(|e| failed("write", path)(e.error))?;
    Ok(())
}

fn copy_blob(
    image: &Image,
    descriptor: &Descriptor,
    store: &BlobStore,
    out: &mut impl Write,
) -> io::Result<u64> {
    if descriptor.digest == image.manifest.config.digest {
        return out.write_all(&image.config.raw).map(|()| descriptor.size);
    }
    let mut reader = store.reader(&descriptor.digest).map_err(io::Error::other)?;
    io::copy(&mut reader, out)
}

/// Reads the image at `place`, for `architecture` if one is wanted; its blobs are in `store` then.
///
/// # Errors
/// See [`Error`].
pub fn read(place: &Place, architecture: Option<&str>, store: &BlobStore) -> Result<Image, Error> {
    match place.form {
        Form::OciDirectory => {
            let entries = list_layout(&place.path)?;
            let blobs = place.path.join("blobs/sha256");
            let open = |digest: &Digest| open_regular(&blobs.join(digest.hex()));
            import(place, &entries, architecture, store, open)
        }
        Form::OciArchive => {
            let members = Members::index(&place.path)?;
            let entries = list_archive(&members, &place.path)?;
            let open = |digest: &Digest| members.open(&format!("blobs/sha256/{}", digest.hex()));
            import(place, &entries, architecture, store, open)
        }
        Form::DockerArchive => archive::read_docker(place, architecture, store),
    }
}

fn import<R: Read>(
    place: &Place,
    entries: &[Listed],
    architecture: Option<&str>,
    store: &BlobStore,
    open: impl Fn(&Digest) -> io::Result<R>,
) -> Result<Image, Error> {
    let take = |descriptor: &Descriptor| -> Result<(), Error> {
        if store.contains(&descriptor.digest, descriptor.size) {
            return Ok(());
        }
        let reader = open(&descriptor.digest).map_err(failed("read a blob of", &place.path))?;
        // One byte more proves that it is another.
        let mut reader = reader.take(descriptor.size.saturating_add(1));
        let mut writer = store.writer()?;
        io::copy(&mut reader, &mut writer).map_err(failed("read a blob of", &place.path))?;
        writer.commit_as(descriptor.digest, Some(descriptor.size))?;
        Ok(())
    };
    let take_document = |descriptor: &Descriptor| -> Result<(), Error> {
        if descriptor.size > oci::MAX_DOCUMENT {
            return Err(too_large(&place.path, &descriptor.digest.to_string()));
        }
        take(descriptor)
    };
    let chosen = choose(entries, place.name.as_deref(), architecture, &place.path)?;
    let mut descriptor = chosen.descriptor.clone();
    take_document(&descriptor)?;
    let raw = store.read(&descriptor.digest)?;
    if let Document::Index(index) = Document::read(raw, Some(&descriptor.media_type))? {
        descriptor = index.select(architecture)?.clone();
        take_document(&descriptor)?;
    }
    let manifest = Manifest::read(store.read(&descriptor.digest)?)?;
    take_document(&manifest.config)?;
    for layer in &manifest.layers {
        take(layer)?;
    }
    let image = load(store, &descriptor.digest)?;
    image.config.require_any(architecture)?;
    Ok(image)
}

pub(super) fn too_large(path: &Path, what: &str) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        what: "image",
        detail: format!(
            "its document {what} is larger than {} bytes",
            oci::MAX_DOCUMENT
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_tree::{Content, FileTree, ImagePath};
    use crate::oci::Family;
    use crate::oci::image::{Addition, Edit, stack, validate};
    use crate::oci::layer;
    use crate::progress::Progress;

    fn scratch(store: &BlobStore) -> Image {
        let config = oci::to_json(&json!({"architecture": "arm64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []}}));
        let manifest = oci::to_json(&json!({"schemaVersion": 2, "layers": [],
            "mediaType": Family::Oci.manifest(),
            "config": {"mediaType": Family::Oci.config(), "size": config.len(),
                       "digest": Digest::of(&config).to_string()}}));
        let base = Image {
            manifest: Manifest::read(manifest).unwrap(),
            config: Config::read(config).unwrap(),
            origins: BTreeMap::new(),
        };
        let mut tree = FileTree::default();
        let path = ImagePath::new("var/task/app.py").unwrap();
        tree.insert_file(path, Content::bytes("code"), false, &"f".into())
            .unwrap();
        let options = layer::Options::default();
        let task = Progress::default().task("make", None);
        let (layer, _) = layer::make(store, &tree, options, &task).unwrap();
        let what = "function".to_owned();
        let image = stack(&base, &[Addition { layer, what }], &Edit::default()).unwrap();
        store.put(&image.manifest.raw).unwrap();
        store.put(&image.config.raw).unwrap();
        image
    }

    #[test]
    fn every_form_gives_back_what_it_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path().join("store")).unwrap();
        let image = scratch(&store);
        for form in ["oci:", "oci-archive:", "docker-archive:"] {
            let path = directory.path().join(form.trim_end_matches(':'));
            let place: Place = format!("{form}{}:a:1", path.display()).parse().unwrap();
            write(&place, &image, &["a:1".parse().unwrap()], &store).unwrap();
            let other = BlobStore::open(directory.path().join(format!("other-{form}"))).unwrap();
            let read_back = read(&place, Some("arm64"), &other).unwrap();
            assert_eq!(read_back.config, image.config, "{place}");
            assert_eq!(
                read_back.manifest.layers[0].digest,
                image.manifest.layers[0].digest
            );
            let open = |d: &Descriptor| File::open(other.path(&d.digest));
            assert_eq!(validate(&read_back, 0, open), Ok(()));
            let error = read(&place, Some("amd64"), &other).unwrap_err().to_string();
            assert_eq!(error, "the image is for linux/arm64, not for linux/amd64");
        }
    }

    #[test]
    fn names_are_replaced_and_kept_apart() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let image = scratch(&store);
        for name in ["b:1", "a:1", "b:1"] {
            tag(store.root(), &image, Some(name)).unwrap();
        }
        let names: Vec<_> = list(store.root())
            .unwrap()
            .into_iter()
            .map(|i| i.name)
            .collect();
        assert_eq!(names, [Some("a:1".to_owned()), Some("b:1".to_owned())]);
        assert_eq!(find(&store, "a:1").unwrap().manifest, image.manifest);
        let error = find(&store, "c:1").unwrap_err().to_string();
        assert!(
            error.ends_with("has no image `c:1`, only a:1 (linux/arm64), b:1 (linux/arm64)"),
            "{error}"
        );
    }

    #[test]
    fn names_are_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let image = scratch(&store);
        for name in ["a:1", "b:1", "c:1"] {
            tag_in_store(&store, &image, name).unwrap();
        }
        untag(
            store.root(),
            &[Some("a:1".to_owned()), None, Some("c:1".to_owned())],
        )
        .unwrap();
        let left = list(store.root()).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].name.as_deref(), Some("b:1"));
    }

    #[test]
    fn images_of_dockers_types_are_found_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let oci = scratch(&store);
        let text = String::from_utf8(oci.manifest.raw.clone()).unwrap();
        let text = text
            .replace(Family::Oci.manifest(), Family::Docker.manifest())
            .replace(Family::Oci.config(), Family::Docker.config())
            .replace(Family::Oci.layer(), Family::Docker.layer());
        let docker = Image {
            manifest: Manifest::read(text.into_bytes()).unwrap(),
            ..oci.clone()
        };
        assert_eq!(docker.manifest.family, Family::Docker);
        store.put(&docker.manifest.raw).unwrap();
        tag_in_store(&store, &docker, "docker:1").unwrap();
        tag_in_store(&store, &oci, "oci:1").unwrap();
        let images = list(store.root()).unwrap();
        for (listed, image) in images.iter().zip([&docker, &oci]) {
            assert_eq!(listed.manifest, image.manifest.digest());
            assert_eq!(listed.descriptor.media_type, Family::Oci.manifest());
            let there = store.read(&listed.descriptor.digest).unwrap();
            assert_eq!(Manifest::read(there).unwrap().family, Family::Oci);
            let name = listed.name.as_deref().unwrap();
            assert_eq!(find(&store, name).unwrap().manifest, image.manifest);
        }
    }

    #[test]
    fn what_is_no_layout_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path().join("store")).unwrap();
        let image = scratch(&store);
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("precious"), "x").unwrap();
        let place = Place {
            form: Form::OciDirectory,
            path: taken.clone(),
            name: None,
        };
        assert!(matches!(
            write(&place, &image, &[], &store),
            Err(Error::Occupied(_))
        ));
        assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
    }

    #[test]
    fn places_are_read_as_skopeo_reads_them() {
        let place = |text: &str| {
            text.parse::<Place>()
                .map(|p| (p.path.display().to_string(), p.name))
        };
        assert_eq!(place("oci:dir"), Ok(("dir".into(), None)));
        assert_eq!(
            place("oci:/a/b:1.4"),
            Ok(("/a/b".into(), Some("1.4".into())))
        );
        assert_eq!(
            place("docker-archive:a:b/c:1"),
            Ok(("a".into(), Some("b/c:1".into())))
        );
        for bad in ["dir", "oci:", "tar:x", "oci:a:"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
