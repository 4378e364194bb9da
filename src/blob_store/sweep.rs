//! What lies in a store, and how it is removed: by one user who has the store alone.
//!
//! While anybody else has the store open nothing may go, for it may have been found there a moment ago. It
//! does not know what is worth keeping.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::{BlobStore, Error, UNFINISHED};
use crate::digest::Digest;

/// What is known of a file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its size in bytes.
    pub size: u64,
    /// When it was last used, to a day.
    pub used: SystemTime,
}

impl Held {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

/// A remembered answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The kind of question, as [`super::MemoKey::kind`] gives it.
    pub kind: String,
    /// The question, as [`super::MemoKey::digest`] gives it.
    pub key: Digest,
    /// Its size and last use.
    pub held: Held,
    path: PathBuf,
}

impl Answer {
    /// The answer itself, unless it is damaged or of another form.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&fs::read(&self.path).ok()?).ok()
    }
}

/// All that lies in a store, in a fixed order; what comes or goes meanwhile may be missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The blobs.
    pub blobs: BTreeMap<Digest, Held>,
    /// The answers.
    pub answers: Vec<Answer>,
    /// The directories, with the sizes of all files in them.
    pub trees: BTreeMap<Digest, Held>,
    /// Unfinished files and directories, and answers of old forms, with their sizes in bytes. Unless the store is held alone,
    /// they may be somebody's work.
    pub strays: BTreeMap<PathBuf, u64>,
}

impl Inventory {
    /// Lists what lies in `store`, which need not be there.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn of(store: &BlobStore) -> Result<Self, Error> {
        let mut inventory = Self::default();
        for (path, metadata) in entries(&store.blobs())? {
            if let Ok(digest) = Digest::from_hex(&name_of(&path)) {
                inventory.blobs.insert(digest, Held::of(&metadata));
            }
        }
        for (path, metadata) in entries(&store.memos())? {
            if metadata.is_dir() {
                inventory.list_answers(&path)?;
            } else if Digest::from_hex(&name_of(&path)).is_ok() {
                // Answers lay here before they were kept by kind.
                inventory.stray(path, &metadata);
            }
        }
        for (path, metadata) in entries(&store.trees())? {
            let name = name_of(&path);
            if let Ok(digest) = Digest::from_hex(&name) {
                let size = size_of(&path);
                let held = Held::of(&metadata);
                inventory.trees.insert(digest, Held { size, ..held });
            } else if name.starts_with(UNFINISHED) {
                inventory.strays.insert(path.clone(), size_of(&path));
            }
        }
        let beside = entries(&store.root)?.into_iter();
        for (path, metadata) in entries(&store.temporary())?.into_iter().chain(beside) {
            if name_of(&path).starts_with(UNFINISHED) && metadata.is_file() {
                inventory.stray(path, &metadata);
            }
        }
        Ok(inventory)
    }

    /// Bytes of everything listed.
    pub fn bytes(&self) -> u64 {
        let blobs = self.blobs.values().map(|held| held.size);
        let answers = self.answers.iter().map(|answer| answer.held.size);
        let trees = self.trees.values().map(|held| held.size);
        blobs
            .chain(answers)
            .chain(trees)
            .chain(self.strays.values().copied())
            .sum()
    }

    fn list_answers(&mut self, directory: &Path) -> Result<(), Error> {
        for (path, metadata) in entries(directory)? {
            if let Ok(key) = Digest::from_hex(&name_of(&path)) {
                self.answers.push(Answer {
                    kind: name_of(directory),
                    key,
                    held: Held::of(&metadata),
                    path,
                });
            }
        }
        Ok(())
    }

    fn stray(&mut self, path: PathBuf, metadata: &Metadata) {
        self.strays.insert(path, metadata.len());
    }
}

/// The bytes of all files below a directory, as far as they can be told; one of several names counts once.
fn size_of(directory: &Path) -> u64 {
    let mut directories = vec![directory.to_owned()];
    let mut linked = BTreeSet::new();
    let mut size = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.nlink() == 1 || linked.insert(metadata.ino()) {
                size += metadata.len();
            }
        }
    }
    size
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What is in a directory, by name; nothing if there is no directory.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, Metadata)>, Error> {
    let mut found = Vec::new();
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        listed => listed.map_err(Error::io("read", directory))?,
    };
    for entry in listed {
        let path = entry.map_err(Error::io("read", directory))?.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) => found.push((path, metadata)),
            // Somebody has just finished or dropped it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &path)(error)),
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

impl BlobStore {
    /// Waits until nobody else has the store open, and keeps others out; `waiting` is called if that takes a
    /// while. Where the file system has no locks it is the caller's word that nobody is there.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn alone(&self, waiting: impl FnOnce()) -> Result<Alone<'_>, Error> {
        let alone = Alone { store: self };
        let Some(lock) = &self.session.lock else {
            return Ok(alone);
        };
        let failed = |error| Error::io("lock", &self.root)(error);
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(alone)
    }

    /// The numbers of the other processes that have the store open, as far as the system tells.
    pub fn others(&self) -> BTreeSet<u32> {
        let lock = self.session.lock.as_ref();
        let Some(file) = lock.and_then(|lock| rustix::fs::fstat(lock).ok()) else {
            return BTreeSet::new();
        };
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let mut others = holders(&locks, file.st_dev, file.st_ino);
        others.remove(&std::process::id());
        others
    }

    /// The same if nobody else has the store open now and locks say so; else nothing. Others may have had the
    /// store alone before this returns.
    pub fn alone_now(&self) -> Option<Alone<'_>> {
        // Dropped, it holds the lock shared again: to ask in vain gives it away.
        let alone = Alone { store: self };
        let lock = self.session.lock.as_ref()?;
        lock.try_lock().is_ok().then_some(alone)
    }
}

/// Who holds locks on a file, as Linux lists them: `1: FLOCK ADVISORY READ 4711 fe:01:131 0 EOF`. Those who wait have an
/// arrow before the kind.
fn holders(locks: &str, device: rustix::fs::Dev, file: u64) -> BTreeSet<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{file}");
    let held = locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_lock = words.next() == Some("FLOCK");
        let process = words.nth(2)?.parse().ok()?;
        (is_lock && words.next() == Some(&file)).then_some(process)
    });
    held.collect()
}

/// The only user of a store, until it is dropped.
#[derive(Debug)]
pub struct Alone<'a> {
    store: &'a BlobStore,
}

impl Alone<'_> {
    /// The store.
    pub fn store(&self) -> &BlobStore {
        self.store
    }

    /// Removes a blob.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), Error> {
        remove(&self.store.path(digest))
    }

    /// Removes a directory.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove_tree(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.store.tree_path(digest);
        // Under another name, so that no half of it is ever taken for the whole.
        let unfinished = self
            .store
            .trees()
            .join(format!("{UNFINISHED}{}", digest.hex()));
        remove_tree(&unfinished)?;
        match fs::rename(&path, &unfinished) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", &path)(error)),
            Ok(()) => remove_tree(&unfinished),
        }
    }

    /// Removes an answer.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_answer(&self, answer: &Answer) -> Result<(), Error> {
        remove(&answer.path)
    }

    /// Removes a directory beside the blobs that is another room's, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_beside(&self, name: &str) -> Result<(), Error> {
        let path = self.store.root.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes unfinished files and answers of old forms.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove_strays(&self, inventory: &Inventory) -> Result<(), Error> {
        inventory.strays.keys().try_for_each(|path| {
            if path.is_dir() {
                remove_tree(path)
            } else {
                remove(path)
            }
        })
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some(lock) = &self.store.session.lock {
            // Without it the store is used as one whose file system has no locks.
            let _ = lock.lock_shared();
        }
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it, be it such as its owner may not read.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path).and_then(|()| fs::remove_dir_all(path))
        }
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Lets the owner into every directory.
fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::MemoKey;

    #[test]
    fn everything_is_listed_and_can_go() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let store = BlobStore::open(root).unwrap();
        let digest = store.put(b"abc").unwrap();
        store
            .remember(&MemoKey::new("size of", ["a"]), &7u32)
            .unwrap();
        let old = format!("memo/{}", Digest::of("old").hex());
        let strays = ["tmp/.lambimg-1", &old, ".lambimg-2"];
        let foreign = ["tmp/x", "memo/x", ".tmpx", "blobs/sha256/x", "x"];
        for file in strays.into_iter().chain(foreign) {
            fs::write(root.join(file), "half").unwrap();
        }
        fs::create_dir(root.join("tmp/.lambimg-mine")).unwrap();
        fs::write(root.join("index.json"), "{}").unwrap();
        let inventory = Inventory::of(&BlobStore::at(root)).unwrap();
        assert_eq!(inventory.blobs.keys().collect::<Vec<_>>(), [&digest]);
        assert_eq!(inventory.blobs[&digest].size, 3);
        let [answer] = &*inventory.answers else {
            panic!("{:?}", inventory.answers)
        };
        assert_eq!((&*answer.kind, answer.read()), ("size", Some(7u32)));
        assert_eq!(inventory.strays.len(), strays.len());

        let alone = store.alone(|| panic!("nobody else is there")).unwrap();
        alone.remove_strays(&inventory).unwrap();
        alone.remove_answer(answer).unwrap();
        alone.remove_blob(&digest).unwrap();
        alone.remove_blob(&digest).unwrap();
        assert_eq!(Inventory::of(&store).unwrap(), Inventory::default());
        assert!(root.join("index.json").exists() && root.join("tmp/.lambimg-mine").exists());
        assert!(foreign.iter().all(|file| root.join(file).exists()));
    }

    #[test]
    fn directories_are_listed_and_can_go() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let digest = Digest::of("tar");
        assert_eq!(store.tree(&digest), None);
        let tree = store.tree_path(&digest);
        let unfinished = store.trees().join(".lambimg-x");
        for tree in [&tree, &unfinished] {
            fs::create_dir_all(tree.join("closed")).unwrap();
            fs::write(tree.join("closed/file"), "four").unwrap();
            fs::hard_link(tree.join("closed/file"), tree.join("closed/same")).unwrap();
        }
        assert_eq!(store.tree(&digest), Some(tree.clone()));
        assert!(store.used().contains(&digest));
        let inventory = Inventory::of(&store).unwrap();
        assert_eq!((inventory.trees[&digest].size, inventory.bytes()), (4, 8));
        for tree in [&tree, &unfinished] {
            fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
        }
        let alone = store.alone(|| panic!("nobody else is there")).unwrap();
        alone.remove_strays(&inventory).unwrap();
        alone.remove_tree(&digest).unwrap();
        alone.remove_tree(&digest).unwrap();
        assert_eq!(Inventory::of(&store).unwrap(), Inventory::default());
    }

    #[test]
    fn a_directory_of_somebody_else_is_no_store() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("thesis.txt"), "years").unwrap();
        let refused = BlobStore::open(root).unwrap_err();
        assert!(matches!(refused, Error::Foreign { found, .. } if found == "thesis.txt"));
        assert_eq!(fs::read_dir(root).unwrap().count(), 1);
        fs::remove_file(root.join("thesis.txt")).unwrap();
        // As a cache of a build service may give it back: files alone.
        fs::create_dir(root.join("blobs")).unwrap();
        BlobStore::open(root).unwrap();
    }

    #[test]
    fn holders_of_a_lock_are_told() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 fe:01:131 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 11 fe:01:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 fe:01:131 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 13 fe:01:1311 0 EOF\n\
                     4: FLOCK  ADVISORY  READ 14 fe:02:131 0 EOF\n\
                     5: FLOCK  ADVISORY  READ 15 fe:01:131 0 EOF\n\
                     6: FLOCK";
        let device = rustix::fs::makedev(0xfe, 1);
        assert_eq!(holders(locks, device, 131), BTreeSet::from([11, 15]));
    }

    #[test]
    fn a_store_that_is_not_there_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("absent");
        let inventory = Inventory::of(&BlobStore::at(&absent)).unwrap();
        assert_eq!(inventory, Inventory::default());
        assert!(!absent.exists());
    }

    #[test]
    fn nobody_is_alone_while_another_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let other = BlobStore::open(directory.path()).unwrap();
        assert!(store.alone_now().is_none());
        // Asking in vain leaves the store in use.
        assert!(other.alone_now().is_none());
        let (waits, waited) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let pruner = scope.spawn(|| {
                let alone = other.alone(|| waits.send(()).unwrap()).unwrap();
                assert!(store.root().exists());
                drop(alone);
            });
            waited.recv().unwrap();
            assert!(!pruner.is_finished());
            drop(store.clone());
            assert!(!pruner.is_finished(), "a clone is the same user");
            let lock = store.session.lock.as_ref().unwrap();
            lock.unlock().unwrap();
        });
        assert!(other.alone_now().is_some());
    }
}
