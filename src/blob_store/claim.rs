//! Work that one process at a time does for all: who comes second finds it claimed, and later done.
//!
//! A claim is a lock on a file, which the system lets go whatever happens to its holder. A holder may be stopped
//! all the same, so it notes what moves in the file, where who waits can see it. It knows nothing of the work.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{BlobStore, UNFINISHED};
use crate::digest::Digest;

/// Work that is this holder's until it is dropped. The default is nobody's: whoever has that works for himself.
#[derive(Debug, Default)]
pub struct Claim(Option<Lock>);

#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

/// How far a holder's notes are: another value is another holder or another note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notes {
    file: u64,
    count: u64,
}

impl Claim {
    /// Whether it keeps others out: nobody's does not.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }

    /// Notes that the work moves, for those who wait.
    pub fn note(&self) {
        if let Some(Lock { file, .. }) = &self.0 {
            // One that is missed costs the others no more than their patience.
            let _ = (&*file).write_all(b".");
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked, so that whoever opened it meanwhile sees that it is gone. One that stays harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

impl BlobStore {
    /// Claims the work that `work` stands for among all who use this store; nothing while somebody else has it.
    /// Where the file system has no locks, or may only be read, everybody works for themselves.
    pub fn claim(&self, work: &Digest) -> Option<Claim> {
        let path = self.claim_path(work);
        let mut options = File::options();
        let Ok(file) = options.create(true).append(true).open(&path) else {
            // A store that may only be read.
            return Some(Claim::default());
        };
        match file.try_lock() {
            // Whoever had it has removed it since it was opened.
            Ok(()) if !is_at(&file, &path) => None,
            Ok(()) => Some(Claim(Some(Lock { file, path }))),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(_)) => Some(Claim::default()),
        }
    }

    /// What whoever has claimed `work` has noted; nothing where nobody has.
    pub fn notes(&self, work: &Digest) -> Option<Notes> {
        let metadata = fs::metadata(self.claim_path(work)).ok()?;
        Some(Notes {
            file: metadata.ino(),
            count: metadata.len(),
        })
    }

    fn claim_path(&self, work: &Digest) -> PathBuf {
        let name = format!("{UNFINISHED}claim-{}", work.hex());
        self.temporary().join(name)
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
        assert!(store.notes(&work).is_none());
        let first = store.claim(&work);
        assert!(first.is_some());
        let before = other.notes(&work);
        assert!(before.is_some() && other.notes(&work) == before);
        first.iter().for_each(Claim::note);
        assert_ne!(other.notes(&work), before);
        assert!(store.claim(&work).is_none());
        assert!(other.claim(&work).is_none());
        assert!(other.claim(&Digest::of("other")).is_some());
        assert!(first.iter().all(Claim::is_held) && !Claim::default().is_held());
        drop(Claim::default());
        assert!(other.claim(&work).is_none(), "only its holder ends it");
        drop(first);
        let second = other.claim(&work);
        assert!(second.is_some() && store.claim(&work).is_none());
        drop(second);
        assert_eq!(fs::read_dir(store.temporary()).unwrap().count(), 0);
    }
}
