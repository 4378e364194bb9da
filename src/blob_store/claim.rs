//! Work that one process at a time does for all: who comes second finds it claimed, and later done.
//!
//! A claim is a lock on a file, which the system lets go whatever happens to its holder. It knows nothing of the
//! work.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{BlobStore, UNFINISHED};
use crate::digest::Digest;

/// Work that is this holder's until it is dropped.
#[derive(Debug)]
pub struct Claim {
    /// None where the file system has no locks, or may only be read: then everybody works for themselves.
    _lock: Option<File>,
    path: PathBuf,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked, so that whoever opened it meanwhile sees that it is gone. One that stays harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

impl BlobStore {
    /// Claims the work that `work` stands for among all who use this store; nothing while somebody else has it.
    pub fn claim(&self, work: &Digest) -> Option<Claim> {
        let name = format!("{UNFINISHED}claim-{}", work.hex());
        let path = self.temporary().join(name);
        let mut options = File::options();
        let Ok(file) = options.create(true).append(true).open(&path) else {
            // A store that may only be read.
            return Some(Claim { _lock: None, path });
        };
        let lock = match file.try_lock() {
            // Whoever had it has removed it since it was opened.
            Ok(()) if !is_at(&file, &path) => return None,
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => return None,
            Err(TryLockError::Error(_)) => None,
        };
        Some(Claim { _lock: lock, path })
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let there = fs::metadata(path).map(identity);
    let here = file.metadata().map(identity);
    there.is_ok_and(|there| here.is_ok_and(|here| here == there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_one_holders_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let other = BlobStore::open(directory.path()).unwrap();
        let work = Digest::of("work");
        let first = store.claim(&work);
        assert!(first.is_some());
        assert!(store.claim(&work).is_none());
        assert!(other.claim(&work).is_none());
        assert!(other.claim(&Digest::of("other")).is_some());
        drop(first);
        let second = other.claim(&work);
        assert!(second.is_some() && store.claim(&work).is_none());
        drop(second);
        assert_eq!(fs::read_dir(store.temporary()).unwrap().count(), 0);
    }
}
