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

use rustix::fs::XattrFlags;

use crate::blob_store::{self, BlobStore, Claim, UNFINISHED};
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
    let claim = store.claim(&work_on(diff_id)).filter(Claim::is_held);
    let prefix = match claim {
        Some(_) => sweep(store, diff_id),
        None => UNFINISHED.to_owned(),
    };
    let blob = blob().map_err(|source| Error::Read(stated.digest, source))?;
    let trees = store.trees();
    store.make_trees().map_err(Error::write(&trees))?;
    let work = tempfile::Builder::new().prefix(&prefix).tempdir_in(&trees);
    let work = Work(work.map_err(Error::write(&trees))?);
    let (files, root) = (work.0.path().join("files"), work.0.path().join("root"));
    for directory in [&files, &root] {
        fs::create_dir(directory).map_err(Error::write(directory))?;
    }
    let layer = read(stated, blob, &files)?;
    prove(&layer, diff_id)?;
    let bytes = layer.unpacked;
    let mode = Tree::new(&root, stated.digest).build(layer.entries)?;
    let named = store.tree_path(diff_id);
    sync(&root).map_err(Error::write(&root))?;
    match fs::rename(&root, &named) {
        // Only now: a directory that its owner may not write to cannot be moved.
        Ok(()) => {
            fs::set_permissions(&named, permissions(mode)).map_err(Error::write(&named))?;
            store.has_made_tree(diff_id, bytes);
            Ok(named)
        }
        // Another process was faster.
        Err(_) if named.is_dir() => store.tree(diff_id).ok_or_else(|| {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            Error::write(&named)(gone)
        }),
        Err(error) => Err(Error::write(&named)(error)),
    }
}

/// What stands for unpacking a layer among all who use the store.
fn work_on(diff_id: &Digest) -> Digest {
    Digest::of(format!("unpack {diff_id}"))
}

/// Removes what was left by those who were killed while they unpacked a layer, and gives how its names begin: only who
/// has the claim uses them, and only who has it calls this.
fn sweep(store: &BlobStore, diff_id: &Digest) -> String {
    let prefix = format!("{UNFINISHED}{}-", diff_id.hex());
    let listed = fs::read_dir(store.trees()).into_iter().flatten().flatten();
    for entry in listed {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // What stays is in nobody's way.
            let _ = blob_store::remove_tree(&entry.path());
        }
    }
    prefix
}

/// What is not finished: it goes whatever permissions it has by then.
struct Work(tempfile::TempDir);

impl Drop for Work {
    fn drop(&mut self) {
        let _ = blob_store::remove_tree(self.0.path());
    }
}

/// A name stands for whole files, whatever happens to the machine.
fn sync(root: &Path) -> io::Result<()> {
    let root = File::open(root)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&root)?;
    #[cfg(not(target_os = "linux"))]
    root.sync_all()?;
    Ok(())
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
/// may. It cannot write where all is read-only, but what it is told of that stays the same. No set-id bits, and nobody
/// else of this machine writes to what is run.
fn permissions(mode: u32) -> Permissions {
    let owner = ((mode & 0o005) << 6) | (mode & 0o200);
    Permissions::from_mode(owner | (mode & 0o055))
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

    /// Makes it, and tells the mode of its root, which is still to be set.
    fn build(mut self, entries: Vec<Entry>) -> Result<u32, Error> {
        for entry in entries {
            self.add(entry)?;
        }
        self.remove_below()?;
        // Those inside first: what has no permission to enter is not entered again.
        let mut root = 0o755;
        for (path, made) in self.there.iter().rev() {
            match made {
                Made::Directory(mode) if path.is_empty() => root = *mode,
                Made::Directory(mode) => {
                    let path = self.root.join(path);
                    let set = fs::set_permissions(&path, permissions(*mode));
                    set.map_err(Error::write(&path))?;
                }
                Made::Other => {}
            }
        }
        Ok(root)
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
        if path.is_empty() {
            return Err(self.refused(&entry, "is the root and no directory"));
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
        self.make_directories(parent(path), entry)?;
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
        let mut removed = std::mem::take(&mut self.removed);
        removed.retain(|path| match self.there.get(path) {
            // What the layer has itself is seen; only what lies below it goes.
            Some(Made::Directory(_)) => {
                self.opaque.insert(path.clone());
                false
            }
            Some(Made::Other) => false,
            // A later entry may have made a link of the directory it was in: then it leads anywhere.
            None => matches!(self.there.get(parent(path)), Some(Made::Directory(_))),
        });
        for path in &removed {
            let directory = parent(path);
            // An opaque directory shows nothing of those below that could be removed.
            if !self.opaque.contains(directory) {
                let (place, directory) = (self.root.join(path), self.root.join(directory));
                whiteout(&place, &directory).map_err(Error::write(&place))?;
            }
        }
        for path in &self.opaque {
            // It may have been replaced by something that hides all by itself.
            if matches!(self.there.get(path), Some(Made::Directory(_))) {
                let place = self.root.join(path);
                set_attribute(&place, OPAQUE_ATTRIBUTE, b"y").map_err(Error::write(&place))?;
            }
        }
        Ok(())
    }
}

/// The directory that a path is in.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn set_attribute(place: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(
        place,
        name,
        value,
        XattrFlags::empty(),
    )?)
}

/// A character device of no number, which anybody may make. Where the store is on an overlay itself, as in a
/// container, that is what its own whiteouts are: an empty file with an attribute then, in a directory with another,
/// which Linux 6.7 understands.
#[cfg(target_os = "linux")]
fn whiteout(place: &Path, directory: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode};

    match rustix::fs::mknodat(CWD, place, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(rustix::io::Errno::PERM) => {
            File::create_new(place)?;
            set_attribute(place, "user.overlay.whiteout", b"y")?;
            set_attribute(directory, OPAQUE_ATTRIBUTE, b"x")
        }
        made => Ok(made?),
    }
}

/// There is nothing that could stack such a directory.
#[cfg(not(target_os = "linux"))]
fn whiteout(_place: &Path, _directory: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    use tar::EntryType;

    const MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

    struct Shelf {
        directory: tempfile::TempDir,
        store: BlobStore,
    }

    impl Shelf {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = BlobStore::open(directory.path().join("store")).unwrap();
            Self { directory, store }
        }

        fn unpack(&self, tar: &[u8]) -> Result<PathBuf, Error> {
            let stated = Descriptor::of(MEDIA_TYPE, tar);
            unpack(&self.store, &stated, &Digest::of(tar), || Ok(tar))
        }
    }

    /// A tar of entries as they are, however bad: kind, name, mode, contents or target.
    fn tar_of(entries: &[(EntryType, &str, u32, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (kind, name, mode, rest) in entries {
            let mut header = tar::Header::new_gnu();
            let is_link = matches!(kind, Link | Symlink);
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_size(if is_link { 0 } else { rest.len() as u64 });
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let content = if is_link {
                header.as_old_mut().linkname[..rest.len()].copy_from_slice(rest.as_bytes());
                ""
            } else {
                rest
            };
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    use EntryType::{Directory, Fifo, Link, Regular, Symlink};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn work_of_others_is_left_alone_and_what_nobody_holds_goes() {
        let shelf = Shelf::new();
        let tar = tar_of(&[(Regular, "file", 0o644, "text")]);
        let diff_id = Digest::of(&tar);
        let name = format!("{UNFINISHED}{}-x", diff_id.hex());
        let (theirs, other) = (
            shelf.store.trees().join(name),
            shelf.store.trees().join(".lambimg-y"),
        );
        for directory in [&theirs, &other] {
            fs::create_dir_all(directory.join("closed/in")).unwrap();
            fs::set_permissions(directory.join("closed"), Permissions::from_mode(0o0)).unwrap();
        }
        let claim = shelf.store.claim(&work_on(&diff_id));
        let unpacked = shelf.unpack(&tar).unwrap();
        assert!(theirs.exists());
        drop(claim);
        blob_store::remove_tree(&unpacked).unwrap();
        shelf.unpack(&tar).unwrap();
        assert!(!theirs.exists() && other.exists());
        assert_eq!(fs::read_dir(shelf.store.trees()).unwrap().count(), 2);
        blob_store::remove_tree(&other).unwrap();
    }

    #[test]
    fn a_layer_becomes_a_directory() {
        let shelf = Shelf::new();
        let root = shelf.unpack(&tar_of(&[
            (Directory, "./", 0o755, ""),
            (Directory, "usr/", 0o750, ""),
            (Regular, "usr/public", 0o644, "text"),
            (Regular, "usr/secret", 0o640, "text"),
            (Regular, "usr/setuid", 0o6755, "text"),
            (Regular, "usr/twice", 0o644, "first"),
            (Regular, "usr/twice", 0o644, "second"),
            (Link, "hard", 0o644, "usr/public"),
            (Symlink, "soft", 0o777, "/usr/public"),
            (Regular, "no/parent", 0o644, "text"),
            (Fifo, "fifo", 0o644, ""),
            (Regular, "usr/.wh.gone", 0o644, ""),
            (Regular, "usr/.wh.public", 0o644, ""),
            (Regular, "no/.wh..wh..opq", 0o644, ""),
        ]));
        let root = root.unwrap();
        assert_eq!(
            root,
            shelf
                .store
                .root()
                .join("unpacked")
                .join(root.file_name().unwrap())
        );
        assert_eq!(mode(&root.join("usr/public")), 0o644);
        assert_eq!(mode(&root.join("usr/secret")), 0o240);
        assert_eq!(mode(&root.join("usr/setuid")), 0o755);
        assert_eq!(mode(&root.join("usr")), 0o250);
        assert_eq!(fs::metadata(root.join("hard")).unwrap().nlink(), 2);
        assert_eq!(
            fs::read_link(root.join("soft")).unwrap(),
            Path::new("/usr/public")
        );
        assert!(!root.join("fifo").exists());
        // Of a directory that may not be read only the owner's superuser sees what is in it.
        fs::set_permissions(root.join("usr"), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(
            fs::read_to_string(root.join("usr/twice")).unwrap(),
            "second"
        );
        let gone = fs::symlink_metadata(root.join("usr/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert!(is_opaque(&root.join("no")) && !is_opaque(&root));
        let there = fs::read_dir(root.parent().unwrap()).unwrap().count();
        assert_eq!(there, 1, "nothing unfinished is left");
        // Asked for again, nobody reads the blob.
        let digest = Digest::from_hex(root.file_name().unwrap().to_str().unwrap()).unwrap();
        let blob = || -> io::Result<&[u8]> { panic!("it is there") };
        let again = unpack(
            &shelf.store,
            &Descriptor::of(MEDIA_TYPE, b""),
            &digest,
            blob,
        );
        assert_eq!(again.unwrap(), root);
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let shelf = Shelf::new();
        for entries in [
            &[(Regular, "a/../../x", 0o644, "")][..],
            &[(Symlink, "a", 0o777, "/etc"), (Regular, "a/x", 0o644, "")],
            &[(Regular, "a", 0o644, ""), (Regular, "a/x", 0o644, "")],
            &[(Link, "a", 0o644, "/etc/passwd")],
            &[(Link, "a", 0o644, "../../victim")],
            &[(Regular, "./", 0o644, "")],
        ] {
            let refused = shelf.unpack(&tar_of(entries)).unwrap_err();
            assert!(matches!(refused, Error::Entry { .. }), "{refused:?}");
        }
        assert_eq!(fs::read_dir(shelf.store.trees()).unwrap().count(), 0);
    }

    #[test]
    fn bytes_that_were_not_promised_get_no_name() {
        let shelf = Shelf::new();
        let tar = tar_of(&[(Regular, "a", 0o644, "text")]);
        let stated = Descriptor::of(MEDIA_TYPE, &tar);
        let other = Digest::of("other");
        let wrong = unpack(&shelf.store, &stated, &other, || Ok(&*tar)).unwrap_err();
        assert!(matches!(wrong, Error::Mismatch { stated, .. } if stated == other));
        let wrong = Descriptor::of(MEDIA_TYPE, b"x");
        let wrong = unpack(&shelf.store, &wrong, &Digest::of(&tar), || Ok(&*tar)).unwrap_err();
        assert!(matches!(wrong, Error::Mismatch { found, .. } if found == Digest::of(&tar)));
        let cut = &tar[..514];
        assert!(matches!(shelf.unpack(cut), Err(Error::Damaged(..))));
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0, 0];
        assert!(matches!(shelf.unpack(&zstd), Err(Error::Packing(_))));
        assert_eq!(fs::read_dir(shelf.store.trees()).unwrap().count(), 0);
    }

    #[test]
    fn a_removal_does_not_follow_what_its_directory_became() {
        let shelf = Shelf::new();
        let victim = shelf.directory.path().join("victim");
        fs::create_dir(&victim).unwrap();
        let target = victim.to_str().unwrap();
        for became in [
            (Symlink, "a", 0o777, target),
            (Regular, "a", 0o644, ""),
            (Symlink, "a", 0o777, ".."),
        ] {
            let root = shelf.unpack(&tar_of(&[
                (Directory, "a/", 0o755, ""),
                (Directory, "a/b/", 0o755, ""),
                (Regular, "a/.wh.pwned", 0o644, ""),
                (Regular, "a/b/.wh.pwned", 0o644, ""),
                (Regular, "a/b/.wh..wh..opq", 0o644, ""),
                became,
            ]));
            let root = root.unwrap();
            assert!(!fs::symlink_metadata(root.join("a")).unwrap().is_dir());
            assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
            assert!(!is_opaque(&victim));
        }
    }

    #[test]
    fn nobody_else_writes_to_it() {
        let shelf = Shelf::new();
        let trees = shelf.store.trees();
        fs::create_dir(&trees).unwrap();
        fs::set_permissions(&trees, Permissions::from_mode(0o755)).unwrap();
        let root = shelf.unpack(&tar_of(&[
            (Directory, "open/", 0o1777, ""),
            (Regular, "open/app.py", 0o777, ""),
            (Regular, "plain", 0o666, ""),
        ]));
        let root = root.unwrap();
        assert_eq!(mode(&root.join("open")), 0o755);
        assert_eq!(mode(&root.join("open/app.py")), 0o755);
        assert_eq!(mode(&root.join("plain")), 0o644);
        assert_eq!(mode(&trees), 0o700);
        // What is there already is not asked for again, but whoever opens the store closes it to others.
        fs::set_permissions(&trees, Permissions::from_mode(0o755)).unwrap();
        BlobStore::open(shelf.store.root()).unwrap();
        assert_eq!(mode(&trees), 0o700);
    }

    fn name() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "a",
            "b",
            "..",
            ".",
            "",
            "victim",
            ".wh.a",
            ".wh..",
            ".wh..wh..opq",
        ]);
        prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_leads_out(
            entries in prop::collection::vec(
                (prop::sample::select(vec![Directory, Regular, Symlink, Link]), name(), 0u32..0o10000, name(), 0..3),
                1..12,
            )
        ) {
            let shelf = Shelf::new();
            let victim = shelf.directory.path().join("victim");
            fs::create_dir(&victim).unwrap();
            fs::write(victim.join("a"), "untouched").unwrap();
            fs::set_permissions(victim.join("a"), Permissions::from_mode(0o604)).unwrap();
            let leads = victim.to_str().unwrap();
            let targets: Vec<_> = entries.iter().map(|(.., target, victim)| match victim {
                0 => target.clone(),
                1 => leads.to_owned(),
                _ => format!("{leads}/a"),
            }).collect();
            let entries: Vec<_> = entries.iter().zip(&targets)
                .map(|((kind, name, mode, ..), target)| (*kind, &**name, *mode, &**target))
                .collect();
            let made = shelf.unpack(&tar_of(&entries));
            prop_assert_eq!(fs::read_to_string(victim.join("a")).unwrap(), "untouched");
            prop_assert_eq!(fs::metadata(victim.join("a")).unwrap().nlink(), 1);
            prop_assert_eq!(mode(&victim.join("a")), 0o604);
            prop_assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
            let beside: Vec<_> = fs::read_dir(shelf.directory.path()).unwrap()
                .map(|entry| entry.unwrap().file_name()).collect();
            prop_assert_eq!(beside.len(), 2);
            let trees = fs::read_dir(shelf.store.trees()).unwrap().count();
            prop_assert_eq!(trees, usize::from(made.is_ok()));
            if let Ok(tree) = made {
                blob_store::remove_tree(&tree).unwrap();
            }
        }
    }
}
