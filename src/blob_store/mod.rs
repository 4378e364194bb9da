//! Bytes by digest on disk, and small answers by the digest of what they were made from.
//!
//! The contract: a blob has its name only when whole and verified; putting one twice is one; an
//! interrupted write leaves nothing but a temporary file; what is read is proven as it is read, and
//! dropped if it is damaged. Any number of processes may share a store, because there is no index and
//! every name appears by rename; only what removes (see `sweep`) has to have it alone. The blobs lie as an
//! OCI image layout has them, but what they mean is not known here.

mod claim;
mod sweep;

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::digest::{Digest, Hasher, HashingWriter, Mismatch, VerifyingReader};

pub use claim::{Claim, Notes};
pub use sweep::{Alone, Answer, Held, Inventory, remove_tree};

/// How old the note of a blob's last use gets before it is renewed: to write it at each use would cost more
/// than it tells.
pub const RENEWED_AFTER: Duration = Duration::from_hours(24);
const LOCK_FILE: &str = "lock";
/// How the names of unfinished files begin; nobody else's do, so that they may be removed.
pub const UNFINISHED: &str = ".lambimg-";
/// What else a store may have in it, beside what `sweep` lists: the documents of an image layout, its users' notes
/// of their logins, and what file systems and backups put anywhere.
const OTHERS: [&str; 6] = [
    LOCK_FILE,
    "index.json",
    "oci-layout",
    "login",
    "lost+found",
    "CACHEDIR.TAG",
];

/// What a store can fail at.
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
    /// The bytes are not the promised ones; they got no name.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// No blob of that digest is here.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// A blob was not what its name says, and is gone now.
    #[error("blob {0} of the store was damaged and is dropped")]
    Damaged(Digest),
    /// The directory is in use for something else, which is left alone.
    #[error("`{}` is not empty and no store: `{found}` is in it", root.display())]
    Foreign {
        /// The directory.
        root: PathBuf,
        /// Something in it that no store has.
        found: String,
    },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// A directory of blobs. Cheap to clone; clones are one user of it.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: PathBuf,
    now: Option<SystemTime>,
    session: Arc<Session>,
}

/// What one user of a store holds and has done.
#[derive(Debug, Default)]
struct Session {
    /// Held shared while the store is open, so that nobody removes what is in use; none where the file
    /// system has no locks.
    lock: Option<File>,
    /// Blobs that were found here or came here.
    used: Mutex<BTreeSet<Digest>>,
    /// Blobs that came here, proven.
    brought: Mutex<BTreeSet<Digest>>,
    /// Blobs that were dropped because they were damaged.
    damaged: Mutex<BTreeSet<Digest>>,
    /// Bytes of new blobs.
    written: AtomicU64,
}

fn close_to_others(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

fn lock_set(set: &Mutex<BTreeSet<Digest>>) -> MutexGuard<'_, BTreeSet<Digest>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlobStore {
    /// Opens the store at `root`, making the directory if there is none. Nobody removes anything from it until
    /// the last clone is dropped.
    ///
    /// # Errors
    /// When it cannot be made, or the directory has something else in it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let mut store = Self::at(root);
        store.check_own()?;
        for directory in [store.blobs(), store.temporary(), store.memos()] {
            fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        }
        // Earlier ones could be entered by all; who does not own it has no say in it.
        let _ = close_to_others(&store.trees());
        let lock = open_lock(&store.root.join(LOCK_FILE))?;
        store.session = Arc::new(Session {
            lock: lock.filter(|file| file.lock_shared().is_ok()),
            ..Session::default()
        });
        Ok(store)
    }

    /// A directory without a store's lock has to be one that a store could have left.
    fn check_own(&self) -> Result<(), Error> {
        if self.root.join(LOCK_FILE).exists() {
            return Ok(());
        }
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(Error::io("read", &self.root))?,
        };
        for entry in entries {
            let name = entry.map_err(Error::io("read", &self.root))?.file_name();
            let found = name.to_string_lossy();
            let is_own = ["blobs", "tmp", "memo", "unpacked"].contains(&&*found)
                || OTHERS.contains(&&*found)
                || found.starts_with(UNFINISHED);
            if !is_own {
                return Err(Error::Foreign {
                    root: self.root.clone(),
                    found: found.into_owned(),
                });
            }
        }
        Ok(())
    }

    /// The store at `root` to be looked at: nothing is made, held or noted as used.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            now: None,
            session: Arc::default(),
        }
    }

    /// Notes `now` as the time of last use on what is used. That decides what is removed first, and nothing
    /// else.
    #[must_use]
    pub fn used_at(mut self, now: SystemTime) -> Self {
        self.now = Some(now);
        self
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn memos(&self) -> PathBuf {
        self.root.join("memo")
    }

    /// Where directories by digest are.
    pub fn trees(&self) -> PathBuf {
        self.root.join("unpacked")
    }

    /// Makes the directory of [`Self::trees`], which nobody else may enter: what is in them has modes of its own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_trees(&self) -> io::Result<()> {
        fs::create_dir_all(self.trees())?;
        close_to_others(&self.trees())
    }

    /// Where the directory of `digest` is, or would be.
    pub fn tree_path(&self, digest: &Digest) -> PathBuf {
        self.trees().join(digest.hex())
    }

    /// The directory of `digest`, if it is here. To ask is to use it.
    pub fn tree(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.tree_path(digest);
        let metadata = fs::metadata(&path).ok().filter(Metadata::is_dir)?;
        self.note_use(digest, &path, &metadata);
        Some(path)
    }

    /// Notes that this user of the store has made the directory of `digest`, of so many bytes.
    pub fn has_made_tree(&self, digest: &Digest, bytes: u64) {
        lock_set(&self.session.used).insert(*digest);
        self.session.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Where the blob of `digest` is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// The size of a blob in bytes, if it is here. To ask is to use it.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let path = self.path(digest);
        let metadata = fs::metadata(&path).ok()?;
        self.note_use(digest, &path, &metadata);
        Some(metadata.len())
    }

    /// Whether a blob of this digest and size is here. To ask is to use it.
    pub fn contains(&self, digest: &Digest, size: u64) -> bool {
        self.size(digest) == Some(size)
    }

    fn note_use(&self, digest: &Digest, path: &Path, metadata: &Metadata) {
        lock_set(&self.session.used).insert(*digest);
        self.renew(path, metadata);
    }

    fn renew(&self, path: &Path, metadata: &Metadata) {
        let Some(now) = self.now else { return };
        let age = metadata.modified().map(|used| now.duration_since(used));
        if age.is_ok_and(|age| age.is_ok_and(|age| age > RENEWED_AFTER)) {
            // In a store that may only be read nothing is removed either.
            let _ = File::open(path).and_then(|file| file.set_modified(now));
        }
    }

    /// Begins a blob whose digest is not known yet.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn writer(&self) -> Result<BlobWriter<'_>, Error> {
        let file = temporary_file(&self.temporary())?;
        Ok(BlobWriter {
            store: self,
            writer: HashingWriter::new(BufWriter::with_capacity(256 << 10, file)),
        })
    }

    /// Keeps `bytes`, which are few; a damaged blob of theirs is replaced.
    ///
    /// # Errors
    /// Those of writing.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        // Another process may drop what is damaged at any moment.
        let is_here = self.contains(&digest, bytes.len() as u64)
            && fs::read(&path).is_ok_and(|there| there == bytes);
        if !is_here {
            let mut writer = self.writer()?;
            let written = writer.write_all(bytes);
            written.map_err(Error::io("write", &path))?;
            writer.commit()?;
        }
        Ok(digest)
    }

    /// Opens a blob; reading to its end fails if it is damaged, with [`Error::Damaged`] within the error.
    ///
    /// # Errors
    /// When it is not here or cannot be opened.
    pub fn reader(&self, digest: &Digest) -> Result<Reader, Error> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(*digest)),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let metadata = file.metadata().map_err(Error::io("read", &path))?;
        self.note_use(digest, &path, &metadata);
        Ok(Reader {
            inner: VerifyingReader::new(file, *digest, metadata.len()),
            digest: *digest,
            metadata,
            store: self.clone(),
        })
    }

    /// Reads a small blob whole, proven.
    ///
    /// # Errors
    /// When it is not here, cannot be read or is damaged.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.reader(digest)?.read_to_end(&mut bytes);
        read.map_err(|error| self.of_reading(digest, error))?;
        Ok(bytes)
    }

    /// Reads a small blob whole, proven, as it is: nothing is noted as used, and what is damaged stays.
    ///
    /// # Errors
    /// When it is not here, cannot be read or is damaged.
    pub fn look(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(bytes),
            Ok(_) => Err(Error::Damaged(*digest)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Missing(*digest)),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Drops a blob that was seen to be damaged in the file `seen`: another may have its name by now, whole.
    pub fn discard(&self, digest: &Digest, seen: &Metadata) {
        let path = self.path(digest);
        let is_it = |there: Metadata| (there.dev(), there.ino()) == (seen.dev(), seen.ino());
        if fs::metadata(&path).is_ok_and(is_it) {
            // Whoever cannot delete it will be told of the damage again.
            let _ = fs::remove_file(path);
        }
        lock_set(&self.session.damaged).insert(*digest);
    }

    /// The blobs dropped for their damage since this was last asked.
    pub fn take_damaged(&self) -> BTreeSet<Digest> {
        std::mem::take(&mut *lock_set(&self.session.damaged))
    }

    /// Reads a blob to its end; a damaged one is dropped.
    ///
    /// # Errors
    /// When it is not here, cannot be read or is damaged.
    pub fn prove(&self, digest: &Digest) -> Result<(), Error> {
        let copied = io::copy(&mut self.reader(digest)?, &mut io::sink());
        copied
            .map(drop)
            .map_err(|error| self.of_reading(digest, error))
    }

    fn of_reading(&self, digest: &Digest, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::InvalidData {
            Error::Damaged(*digest)
        } else {
            Error::io("read", &self.path(digest))(error)
        }
    }

    /// Proves every blob that this user of the store has used, and drops the damaged ones: for when something
    /// that reads blobs without proving them cannot make sense of one.
    pub fn prove_used(&self) {
        let used = lock_set(&self.session.used).clone();
        for digest in used {
            // What cannot be read at all is not for us to judge.
            let _ = self.prove(&digest);
        }
    }

    /// Whether others can see that this user is here, and the other way round.
    pub fn is_locked(&self) -> bool {
        self.session.lock.is_some()
    }

    /// Blobs that this user of the store has found here or brought here.
    pub fn used(&self) -> BTreeSet<Digest> {
        lock_set(&self.session.used).clone()
    }

    /// Whether this user of the store has brought a blob here, and so proven it.
    pub fn has_brought(&self, digest: &Digest) -> bool {
        lock_set(&self.session.brought).contains(digest)
    }

    /// How many bytes of new blobs and directories this user of the store has brought here.
    pub fn written(&self) -> u64 {
        self.session.written.load(Ordering::Relaxed)
    }

    /// The answer remembered for `key`; a damaged or foreign one counts as none.
    pub fn recall<T: DeserializeOwned>(&self, key: &MemoKey) -> Option<T> {
        serde_json::from_slice(&self.recall_bytes(&self.memo(key))?).ok()
    }

    fn recall_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let mut file = File::open(path).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        self.renew(path, &file.metadata().ok()?);
        Some(bytes)
    }

    /// Remembers `value` as the answer for `key`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn remember<T: Serialize>(&self, key: &MemoKey, value: &T) -> Result<(), Error> {
        let path = self.memo(key);
        let bytes = serde_json::to_vec(value).map_err(|e| Error::io("write", &path)(e.into()))?;
        // What is known already need not be forced to the disk again.
        if self.recall_bytes(&path).is_some_and(|known| known == bytes) {
            return Ok(());
        }
        let directory = self.memos().join(key.kind);
        fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        replace_file(&path, &bytes, &self.temporary())
    }

    fn memo(&self, key: &MemoKey) -> PathBuf {
        self.memos().join(key.kind).join(key.digest.hex())
    }

    /// Gives a written blob its name.
    fn name(
        &self,
        buffer: BufWriter<NamedTempFile>,
        digest: Digest,
        size: u64,
    ) -> Result<(), Error> {
        let path = self.path(&digest);
        let file = buffer.into_inner();
        let file = file.map_err(|e| Error::io("write", &path)(e.into_error()))?;
        let named = file.persist(&path);
        named.map_err(|e| Error::io("write", &path)(e.error))?;
        lock_set(&self.session.used).insert(digest);
        lock_set(&self.session.brought).insert(digest);
        self.session.written.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }
}

/// The file that users of a store hold, unless this one may not have it.
fn open_lock(path: &Path) -> Result<Option<File>, Error> {
    let mut options = File::options();
    match options.create(true).append(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) => match error.kind() {
            // A store that may only be read; whoever can write there has made the file.
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Ok(File::open(path).ok())
            }
            _ => Err(Error::io("create", path)(error)),
        },
    }
}

/// A blob that is proven as it is read.
pub struct Reader {
    inner: VerifyingReader<File>,
    digest: Digest,
    metadata: Metadata,
    store: BlobStore,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            if error.kind() != io::ErrorKind::InvalidData {
                return error;
            }
            self.store.discard(&self.digest, &self.metadata);
            io::Error::new(io::ErrorKind::InvalidData, Error::Damaged(self.digest))
        })
    }
}

/// The digest of everything that decides an answer, and the kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoKey {
    kind: &'static str,
    digest: Digest,
}

impl MemoKey {
    /// Hashes `question` and its inputs. The question's first word is its kind, which is a directory of the
    /// store; the rest is the version of its answers.
    pub fn new<I: AsRef<[u8]>>(
        question: &'static str,
        inputs: impl IntoIterator<Item = I>,
    ) -> Self {
        let kind = question.split(' ').next().unwrap_or(question);
        debug_assert!(kind.bytes().all(|b| b.is_ascii_lowercase()) && !kind.is_empty());
        let mut hasher = Hasher::default();
        hasher.field(question);
        for input in inputs {
            hasher.field(input);
        }
        Self {
            kind,
            digest: hasher.finish(),
        }
    }

    /// The kind of question.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The digest of the question and its inputs.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// A blob being written; dropped without commit it leaves nothing.
pub struct BlobWriter<'a> {
    store: &'a BlobStore,
    writer: HashingWriter<BufWriter<NamedTempFile>>,
}

impl BlobWriter<'_> {
    /// Gives the blob its name.
    ///
    /// # Errors
    /// Those of writing.
    pub fn commit(self) -> Result<(Digest, u64), Error> {
        let (buffer, digest, size) = self.writer.finish();
        self.store.name(buffer, digest, size)?;
        Ok((digest, size))
    }

    /// Gives the blob its name if it is the promised one.
    ///
    /// # Errors
    /// [`Error::Mismatch`] otherwise, and those of writing.
    pub fn commit_as(self, digest: Digest, size: Option<u64>) -> Result<u64, Error> {
        let (buffer, actual, written) = self.writer.finish();
        Mismatch::check((digest, size.unwrap_or(written)), (actual, written))?;
        self.store.name(buffer, digest, written)?;
        Ok(written)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn temporary_file(directory: &Path) -> Result<NamedTempFile, Error> {
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(Error::io("write into", directory))
}

/// Makes `path` hold `bytes`, whole or not at all; `temporary` is a directory of the same file system.
///
/// # Errors
/// Those of writing; `path` is as it was then.
pub fn replace_file(path: &Path, bytes: &[u8], temporary: &Path) -> Result<(), Error> {
    let mut file = temporary_file(temporary)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    // Small, and what the rest hangs on: it must not come back empty after a power cut.
    file.as_file()
        .sync_all()
        .map_err(Error::io("write", path))?;
    file.persist(path)
        .map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path().join("cache")).unwrap();
        (directory, store)
    }

    fn files(store: &BlobStore) -> usize {
        let count = |p: PathBuf| fs::read_dir(p).unwrap().count();
        count(store.blobs()) + count(store.temporary())
    }

    #[test]
    fn put_twice_is_one_and_reads_back() {
        let (_guard, store) = store();
        let digest = store.put(b"abc").unwrap();
        assert_eq!(store.put(b"abc").unwrap(), digest);
        assert_eq!(store.read(&digest).unwrap(), b"abc");
        assert_eq!(files(&store), 1);
    }

    #[test]
    fn unpromised_bytes_get_no_name() {
        let (_guard, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"abd").unwrap();
        let error = writer.commit_as(Digest::of("abc"), Some(3)).unwrap_err();
        assert!(matches!(error, Error::Mismatch(_)));
        let mut abandoned = store.writer().unwrap();
        abandoned.write_all(b"half").unwrap();
        drop(abandoned);
        assert_eq!(files(&store), 0);
    }

    #[test]
    fn damage_is_noticed_when_read() {
        let (_guard, store) = store();
        let digest = store.put(b"abc").unwrap();
        fs::write(store.path(&digest), b"abd").unwrap();
        assert!(matches!(store.read(&digest), Err(Error::Damaged(_))));
        assert_eq!(store.size(&digest), None);
        assert_eq!(store.take_damaged(), BTreeSet::from([digest]));
        assert_eq!(store.take_damaged(), BTreeSet::new());
        assert!(matches!(
            store.read(&Digest::of("other")),
            Err(Error::Missing(_))
        ));
    }

    #[test]
    fn what_is_put_again_is_mended() {
        let (_guard, store) = store();
        let digest = store.put(b"abc").unwrap();
        fs::write(store.path(&digest), b"abd").unwrap();
        store.put(b"abc").unwrap();
        assert_eq!(store.read(&digest).unwrap(), b"abc");
    }

    #[test]
    fn what_was_used_can_be_proven() {
        let (_guard, store) = store();
        let (whole, broken) = (store.put(b"abc").unwrap(), store.put(b"xyz").unwrap());
        fs::write(store.path(&broken), b"xyw").unwrap();
        let later = BlobStore::open(store.root()).unwrap();
        later.prove_used();
        assert_eq!(later.take_damaged(), BTreeSet::new(), "it used nothing");
        assert!(later.contains(&whole, 3) && later.contains(&broken, 3));
        assert_eq!((later.used().len(), later.written()), (2, 0));
        later.prove_used();
        assert_eq!(later.take_damaged(), BTreeSet::from([broken]));
        assert_eq!((later.size(&whole), later.size(&broken)), (Some(3), None));
    }

    #[test]
    fn last_use_is_noted_once_a_day() {
        let (_guard, store) = store();
        let digest = store.put(b"abc").unwrap();
        let key = MemoKey::new("size of", ["a"]);
        store.remember(&key, &1u32).unwrap();
        let paths = [store.path(&digest), store.memo(&key)];
        let noted = || {
            paths
                .each_ref()
                .map(|path| fs::metadata(path).unwrap().modified().unwrap())
        };
        let hours = |count| SystemTime::UNIX_EPOCH + Duration::from_hours(count);
        for path in &paths {
            File::open(path).unwrap().set_modified(hours(100)).unwrap();
        }
        for (now, expected) in [
            (Some(99), 100),
            (Some(124), 100),
            (None, 100),
            (Some(125), 125),
        ] {
            let store = BlobStore {
                now: now.map(hours),
                ..store.clone()
            };
            assert_eq!(store.size(&digest), Some(3));
            assert_eq!(store.recall::<u32>(&key), Some(1));
            assert_eq!(noted(), [hours(expected); 2], "{now:?}");
        }
    }

    #[test]
    fn answers_are_kept_by_question() {
        let (_guard, store) = store();
        let key = MemoKey::new("size of", ["a", "b"]);
        assert_eq!(store.recall::<u32>(&key), None);
        store.remember(&key, &7u32).unwrap();
        assert_eq!(store.recall::<u32>(&key), Some(7));
        assert_eq!(store.recall::<u32>(&MemoKey::new("size of", ["ab"])), None);
        assert_eq!(store.recall::<String>(&key), None);
    }
}
