//! A layer as a directory, in the form that overlayfs stacks without root: what a layer removes is a character device
//! of no number, and a directory that hides those below says so in an extended attribute.
//!
//! Contents come first, each file under a number; only when the blob is proven are they put where the tar says, and
//! only below directories that were made here, so that no name leads out. All belongs to who unpacks it. Whoever is
//! stacked on them, and for what, is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::blob_store::{self, BlobStore, UNFINISHED};
use crate::digest::Digest;
use crate::oci::Descriptor;
use crate::oci::flatten::{self, Kind, Layer, Packing};

/// How a name begins that removes something of the layers below.
const WHITEOUT: &str = ".wh.";
/// How the names begin that say something of the directory they are in.
const META: &str = ".wh..wh.";
/// The name in a directory that hides what lies below it.
const OPAQUE: &str = ".wh..wh..opq";
/// Where overlayfs looks for the same.
const OPAQUE_ATTRIBUTE: &str = "user.overlay.opaque";

/// Why a layer is no directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob could not be read.
    #[error("cannot read the layer {0}")]
    Read(Digest, #[source] io::Error),
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is packed in a way that is not read.
    #[error("the layer {0} is neither gzip nor a plain tar")]
    Packing(Digest),
    /// It cannot be unpacked to its end.
    #[error("the layer {0} is damaged: {1}")]
    Damaged(Digest, String),
    /// Its bytes or its tar are not those that were promised.
    #[error("the layer {stated} is not what it should be: it is {found}")]
    Mismatch {
        /// What was promised of the blob or the tar.
        stated: Digest,
        /// What it is.
        found: Digest,
    },
    /// An entry has no place below the root.
    #[error("the layer {layer} has an entry `{name}` that {why}")]
    Entry {
        /// The layer.
        layer: Digest,
        /// The entry's name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Error {
    fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// Whether the root of an unpacked layer hides everything below it; overlayfs itself does not ask that of a root.
pub fn is_opaque(layer: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(layer, OPAQUE_ATTRIBUTE, &mut value).is_ok_and(|_| value == *b"y")
}

type Entry = flatten::Entry<io::Result<PathBuf>>;

/// The directory of a layer in the store, made from its blob where it is not there yet.
///
/// # Errors
/// When the blob is not the stated one, its tar is not `diff_id`'s, it has an entry that no layer may have, or
/// something cannot be read or written. A layer that is packed with zstd is refused.
pub fn unpack<R: Read + Send>(
    store: &BlobStore,
    stated: &Descriptor,
    diff_id: &Digest,
    blob: impl FnOnce() -> Result<R, io::Error>,
) -> Result<PathBuf, Error> {
    if let Some(there) = store.tree(diff_id) {
        return Ok(there);
    }
    let blob = blob().map_err(|source| Error::Read(stated.digest, source))?;
    let trees = store.trees();
    fs::create_dir_all(&trees).map_err(Error::write(&trees))?;
    let work = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&trees);
    let work = work.map_err(Error::write(&trees))?;
    let (files, root) = (work.path().join("files"), work.path().join("root"));
    for directory in [&files, &root] {
        fs::create_dir(directory).map_err(Error::write(directory))?;
    }
    let layer = read(stated, blob, &files)?;
    prove(&layer, diff_id)?;
    Tree::new(&root, stated.digest).build(layer.entries)?;
    let named = store.tree_path(diff_id);
    sync(&root).map_err(Error::write(&root))?;
    match fs::rename(&root, &named) {
        Ok(()) => Ok(named),
        // Another process was faster.
        Err(_) if named.is_dir() => {
            let _ = blob_store::remove_tree(&root);
            Ok(named)
        }
        Err(error) => Err(Error::write(&named)(error)),
    }
}

/// A name stands for whole files, whatever happens to the machine.
fn sync(root: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

/// Reads a layer and keeps the contents of its files by number.
fn read(
    stated: &Descriptor,
    blob: impl Read + Send,
    files: &Path,
) -> Result<Layer<io::Result<PathBuf>>, Error> {
    let count = AtomicUsize::new(0);
    let layer = flatten::read(stated, blob, |entry: &Entry| {
        let path = files.join(count.fetch_add(1, Ordering::Relaxed).to_string());
        let mode = entry.mode;
        Some(Box::new(Contents::new(path, mode)) as Box<dyn flatten::Reader<Seen = _>>)
    });
    layer.map_err(|source| Error::Read(stated.digest, source))
}

/// Writes a file as it comes.
struct Contents {
    path: PathBuf,
    file: io::Result<File>,
}

impl Contents {
    fn new(path: PathBuf, mode: u32) -> Self {
        let file = File::create_new(&path).and_then(|file| {
            file.set_permissions(permissions(mode))?;
            Ok(file)
        });
        Self { path, file }
    }
}

impl flatten::Reader for Contents {
    type Seen = io::Result<PathBuf>;

    fn bytes(&mut self, bytes: &[u8]) {
        if let Ok(file) = &mut self.file
            && let Err(error) = file.write_all(bytes)
        {
            self.file = Err(error);
        }
    }

    fn end(self: Box<Self>) -> Self::Seen {
        let Self { path, file } = *self;
        file.map(|_| path)
    }
}

/// The function's user is nobody in particular on Lambda and the owner here: it may read and execute what others
/// may. It cannot write where all is read-only, but what it is told of that stays the same. No set-id bits.
fn permissions(mode: u32) -> Permissions {
    let owner = ((mode & 0o005) << 6) | (mode & 0o200);
    Permissions::from_mode(owner | (mode & 0o077))
}

fn prove(layer: &Layer<io::Result<PathBuf>>, diff_id: &Digest) -> Result<(), Error> {
    let stated = layer.stated.digest;
    if layer.digest != stated {
        let found = layer.digest;
        return Err(Error::Mismatch { stated, found });
    }
    if let Some(damage) = &layer.damage {
        return Err(Error::Damaged(stated, damage.clone()));
    }
    match layer.diff_id {
        Some(found) if found == *diff_id => Ok(()),
        Some(found) => Err(Error::Mismatch {
            stated: *diff_id,
            found,
        }),
        None if matches!(layer.packing, Packing::Zstd | Packing::Unknown) => {
            Err(Error::Packing(stated))
        }
        None => Err(Error::Damaged(stated, "it does not end".to_owned())),
    }
}

/// What a directory is made of, as far as it is.
struct Tree<'a> {
    root: &'a Path,
    layer: Digest,
    /// All that is there, by its path below the root; a directory has its permissions, which it gets at last.
    there: BTreeMap<String, Made>,
    /// What is removed of the layers below.
    removed: BTreeSet<String>,
    /// Directories that hide those below.
    opaque: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Directory(u32),
    Other,
}

impl<'a> Tree<'a> {
    fn new(root: &'a Path, layer: Digest) -> Self {
        Self {
            root,
            layer,
            there: BTreeMap::from([(String::new(), Made::Directory(0o755))]),
            removed: BTreeSet::new(),
            opaque: BTreeSet::new(),
        }
    }

    fn build(mut self, entries: Vec<Entry>) -> Result<(), Error> {
        for entry in entries {
            self.add(entry)?;
        }
        self.remove_below()?;
        // Those inside first: what has no permission to enter is not entered again.
        for (path, made) in self.there.iter().rev() {
            if let Made::Directory(mode) = made {
                let path = self.root.join(path);
                let set = fs::set_permissions(&path, permissions(*mode));
                set.map_err(Error::write(&path))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry) -> Result<(), Error> {
        let path = entry.path();
        if path.split('/').any(|part| part == "..") {
            return Err(self.refused(&entry, "leads out of the root"));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == OPAQUE {
            self.make_directories(parent, &entry)?;
            self.opaque.insert(parent.to_owned());
            return Ok(());
        }
        if let Some(name) = name.strip_prefix(WHITEOUT) {
            if format!("{WHITEOUT}{name}").starts_with(META) || matches!(name, "" | "." | "..") {
                return Ok(());
            }
            self.make_directories(parent, &entry)?;
            let slash = if parent.is_empty() { "" } else { "/" };
            self.removed.insert(format!("{parent}{slash}{name}"));
            return Ok(());
        }
        // Lambda has no devices and pipes of an image's, and nobody could make them without root.
        if matches!(entry.kind, Kind::Device | Kind::Fifo | Kind::Other(_)) {
            return Ok(());
        }
        self.make_directories(parent, &entry)?;
        if entry.kind == Kind::Directory {
            return self.make_directory(path, entry.mode);
        }
        self.clear(&path)?;
        self.place(&path, entry)?;
        self.there.insert(path, Made::Other);
        Ok(())
    }

    fn refused(&self, entry: &Entry, why: &'static str) -> Error {
        Error::Entry {
            layer: self.layer,
            name: entry.name.to_string(),
            why,
        }
    }

    /// Makes a directory and those above it, if a tar has left them out.
    fn make_directories(&mut self, path: &str, entry: &Entry) -> Result<(), Error> {
        match self.there.get(path) {
            Some(Made::Directory(_)) => return Ok(()),
            Some(Made::Other) => return Err(self.refused(entry, "lies below a file or a link")),
            None => {}
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.make_directories(parent, entry)?;
        self.make_directory(path.to_owned(), 0o755)
    }

    fn make_directory(&mut self, path: String, mode: u32) -> Result<(), Error> {
        if !matches!(self.there.get(&path), Some(Made::Directory(_))) {
            self.clear(&path)?;
            let directory = self.root.join(&path);
            fs::create_dir(&directory).map_err(Error::write(&directory))?;
        }
        self.there.insert(path, Made::Directory(mode));
        Ok(())
    }

    /// Takes away what an earlier entry has put there.
    fn clear(&mut self, path: &str) -> Result<(), Error> {
        let Some(made) = self.there.remove(path) else {
            return Ok(());
        };
        let there = self.root.join(path);
        let cleared = if made == Made::Other {
            fs::remove_file(&there)
        } else {
            let inside = format!("{path}/");
            self.there.retain(|path, _| !path.starts_with(&inside));
            fs::remove_dir_all(&there)
        };
        cleared.map_err(Error::write(&there))
    }

    fn place(&self, path: &str, mut entry: Entry) -> Result<(), Error> {
        let place = self.root.join(path);
        if path.is_empty() {
            return Err(self.refused(&entry, "is the root and no directory"));
        }
        let placed = match entry.kind {
            Kind::Symlink => symlink(entry.target.as_deref().unwrap_or_default(), &place),
            Kind::Hardlink => {
                let target = flatten::normal(entry.target.as_deref().unwrap_or_default());
                // Only what was made here is taken for a file, so that no link leads out.
                if self.there.get(&target) != Some(&Made::Other) {
                    return Err(self.refused(&entry, "is a hard link to no file of the layer"));
                }
                fs::hard_link(self.root.join(target), &place)
            }
            _ => match entry.seen.take() {
                Some(written) => written.and_then(|written| fs::rename(written, &place)),
                None => return Err(self.refused(&entry, "is a sparse file")),
            },
        };
        placed.map_err(Error::write(&place))
    }

    fn remove_below(&mut self) -> Result<(), Error> {
        for path in std::mem::take(&mut self.removed) {
            match self.there.get(&path) {
                // What the layer has itself is seen; only what lies below it goes.
                Some(Made::Directory(_)) => drop(self.opaque.insert(path)),
                Some(Made::Other) => {}
                None => {
                    let place = self.root.join(&path);
                    whiteout(&place).map_err(Error::write(&place))?;
                }
            }
        }
        for path in &self.opaque {
            // It may have been replaced by something that hides all by itself.
            if matches!(self.there.get(path), Some(Made::Directory(_))) {
                let place = self.root.join(path);
                let set = rustix::fs::setxattr(&place, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty());
                set.map_err(|error| Error::write(&place)(error.into()))?;
            }
        }
        Ok(())
    }
}

/// A character device of no number, which anybody may make.
fn whiteout(place: &Path) -> io::Result<()> {
    let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
    Ok(rustix::fs::mknodat(CWD, place, kind, mode, 0)?)
}
