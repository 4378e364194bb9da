//! Work that one process at a time does for all: who comes second waits, and finds it done.
//!
//! A claim is a lock on a file, which the system lets go whatever happens to its holder. It knows nothing of the
//! work.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{BlobStore, Error, UNFINISHED};
use crate::digest::Digest;

/// Work that is this holder's until it is dropped.
#[derive(Debug)]
pub struct Claim {
    /// None where the file system has no locks: then everybody works for themselves.
    _lock: Option<File>,
    path: PathBuf,
    /// Whether somebody else had it before, and may have done it.
    pub waited: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked, so that whoever waits for it sees that it is gone. One that stays harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

impl BlobStore {
    /// Claims the work that `work` stands for among all who use this store, after waiting for whoever has it;
    /// `waiting` is called if there is anybody.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn claim(&self, work: &Digest, waiting: impl Fn()) -> Result<Claim, Error> {
        let name = format!("{UNFINISHED}claim-{}", work.hex());
        let path = self.temporary().join(name);
        let mut waited = false;
        loop {
            let mut options = File::options();
            let file = options.create(true).append(true).open(&path);
            let file = file.map_err(Error::io("create", &path))?;
            let is_locked = match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    waited = true;
                    file.lock().is_ok()
                }
                Err(TryLockError::Error(_)) => false,
            };
            // Whoever had it has removed it, and somebody else may have made it anew.
            if is_locked && !is_at(&file, &path) {
                continue;
            }
            return Ok(Claim {
                _lock: is_locked.then_some(file),
                path,
                waited,
            });
        }
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
    fn the_second_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let (work, other) = (Digest::of("work"), Digest::of("other"));
        let first = store.claim(&work, || panic!("nobody is there")).unwrap();
        assert!(!first.waited);
        let free = store.claim(&other, || panic!("that is other work"));
        assert!(!free.unwrap().waited);
        let (waits, waited) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| store.claim(&work, || waits.send(()).unwrap()).unwrap());
            waited.recv().unwrap();
            assert!(!second.is_finished());
            drop(first);
            let second = second.join().unwrap();
            assert!(second.waited);
            // It is the second's now, whatever the first has removed.
            let third = scope.spawn(|| store.claim(&work, || waits.send(()).unwrap()).unwrap());
            waited.recv().unwrap();
            drop(second);
            assert!(third.join().unwrap().waited);
        });
        assert_eq!(fs::read_dir(store.temporary()).unwrap().count(), 0);
    }
}
