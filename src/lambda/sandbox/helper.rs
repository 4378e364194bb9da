//! The program that makes sandboxes, as a copy in memory that nothing can change.
//!
//! A function may have the kernel execute `/proc/self/exe` in the sandbox's first process, and so get at the file that
//! this is: were it the user's own program, it could be written to or given other modes. What the helper does is not
//! known here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::Error;

/// A program that calls [`super::run_helper`] where its first argument is [`super::HELPER`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Helper(Arc<OwnedFd>);

impl Helper {
    /// A copy of the program at this absolute path.
    ///
    /// # Errors
    /// When it cannot be read, or held in memory.
    pub fn of(program: &Path) -> Result<Self, Error> {
        let copy = copy(program).map_err(|source| Error::Helper {
            path: program.to_owned(),
            source,
        })?;
        Ok(Self(Arc::new(copy)))
    }

    /// Where children of this process execute it.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

fn copy(program: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 all could be executed.
    let made = match rustix::fs::memfd_create("lambimg", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("lambimg", flags)?,
        made => made?,
    };
    let mut made = File::from(made);
    io::copy(&mut File::open(program)?, &mut made)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&made, seals)?;
    Ok(made.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::{fs, process};

    #[test]
    fn it_is_a_copy_that_runs_and_cannot_be_changed() {
        let program = fs::canonicalize("/bin/sh").unwrap();
        let helper = Helper::of(&program).unwrap();
        let path = helper.path();
        let (own, copy) = (
            fs::metadata(&program).unwrap(),
            fs::metadata(&path).unwrap(),
        );
        assert_ne!((own.dev(), own.ino()), (copy.dev(), copy.ino()));
        assert_eq!(own.len(), copy.len());
        assert!(fs::OpenOptions::new().append(true).open(&path).map_or_else(
            |_| true,
            |mut file| io::Write::write(&mut file, b"x").is_err()
        ));
        let ran = process::Command::new(&path).args(["-c", "exit 7"]).status();
        assert_eq!(ran.unwrap().code(), Some(7));
    }
}
