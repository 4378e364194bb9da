//! Bytes by digest on disk, and small answers by the digest of what they were made from.
//!
//! The contract: a blob has its name only when whole and verified; putting one twice is one; an
//! interrupted write leaves nothing but a temporary file; what is read is proven as it is read.
//! Any number of processes may share a store, because there is no index and every name appears by
//! rename. The blobs lie as an OCI image layout has them, but what they mean is not known here.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::digest::{Digest, Hasher, HashingWriter, Mismatch, VerifyingReader};

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

/// A directory of blobs.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: PathBuf,
}

impl BlobStore {
    /// Opens the store at `root`, making the directory if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let store = Self { root: root.into() };
        for directory in [store.blobs(), store.temporary(), store.memos()] {
            fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        }
        Ok(store)
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

    /// Where the blob of `digest` is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// The size of a blob in bytes, if it is here.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Whether a blob of this digest and size is here.
    pub fn contains(&self, digest: &Digest, size: u64) -> bool {
        self.size(digest) == Some(size)
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

    /// Keeps `bytes`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if !self.contains(&digest, bytes.len() as u64) {
            let mut writer = self.writer()?;
            writer
                .write_all(bytes)
                .map_err(Error::io("write", &self.path(&digest)))?;
            writer.commit()?;
        }
        Ok(digest)
    }

    /// Opens a blob; reading to its end fails if it is damaged.
    ///
    /// # Errors
    /// When it is not here or cannot be opened.
    pub fn reader(&self, digest: &Digest) -> Result<VerifyingReader<File>, Error> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(*digest)),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let size = file.metadata().map_err(Error::io("read", &path))?.len();
        Ok(VerifyingReader::new(file, *digest, size))
    }

    /// Reads a small blob whole, proven.
    ///
    /// # Errors
    /// When it is not here, cannot be read or is damaged.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.reader(digest)?
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.path(digest)))?;
        Ok(bytes)
    }

    /// Drops a blob, which may be gone already.
    pub fn discard(&self, digest: &Digest) {
        // Whoever cannot delete it will be told of the damage again.
        let _ = fs::remove_file(self.path(digest));
    }

    /// The answer remembered for `key`; a damaged or foreign one counts as none.
    pub fn recall<T: DeserializeOwned>(&self, key: &MemoKey) -> Option<T> {
        let bytes = fs::read(self.memos().join(key.0.hex())).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Remembers `value` as the answer for `key`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn remember<T: Serialize>(&self, key: &MemoKey, value: &T) -> Result<(), Error> {
        let path = self.memos().join(key.0.hex());
        let bytes = serde_json::to_vec(value).map_err(|e| Error::io("write", &path)(e.into()))?;
        replace_file(&path, &bytes, &self.temporary())
    }
}

/// The digest of everything that decides an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoKey(Digest);

impl MemoKey {
    /// Hashes `kind`, which names the question and the version of its answer, and the inputs.
    pub fn new<I: AsRef<[u8]>>(kind: &str, inputs: impl IntoIterator<Item = I>) -> Self {
        let mut hasher = Hasher::default();
        hasher.field(kind);
        for input in inputs {
            hasher.field(input);
        }
        Self(hasher.finish())
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
        persist(buffer, &self.store.path(&digest))?;
        Ok((digest, size))
    }

    /// Gives the blob its name if it is the promised one.
    ///
    /// # Errors
    /// [`Error::Mismatch`] otherwise, and those of writing.
    pub fn commit_as(self, digest: Digest, size: Option<u64>) -> Result<u64, Error> {
        let (buffer, actual, written) = self.writer.finish();
        Mismatch::check((digest, size.unwrap_or(written)), (actual, written))?;
        persist(buffer, &self.store.path(&digest))?;
        Ok(written)
    }
}

fn persist(buffer: BufWriter<NamedTempFile>, path: &Path) -> Result<(), Error> {
    let file = buffer.into_inner();
    let file = file.map_err(|e| Error::io("write", path)(e.into_error()))?;
    let named = file.persist(path);
    named.map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
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
        .prefix(".lambimg-")
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
        assert!(matches!(store.read(&digest), Err(Error::Io { .. })));
        assert!(matches!(
            store.read(&Digest::of("other")),
            Err(Error::Missing(_))
        ));
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
