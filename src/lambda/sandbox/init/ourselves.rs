//! The file that a sandbox's first process is executed from: this program's own, where nobody can change it.
//!
//! A function may have the kernel execute `/proc/self/exe` in the first process, and so get at that file. Reached as
//! its owner reaches it, it could be written to, or be given other modes, times or attributes. What the first process
//! does is not known here.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{self, MountFlags};

/// This program, wherever it lies.
const OURSELVES: &str = "/proc/self/exe";

/// This program's file, to be executed; the mounts must be private ones.
///
/// It is a mount of its own that is read-only for ever: nobody in the sandbox can come by the capability to change
/// it, or see another mount of that file. Where there is none, because the file has been replaced or removed since,
/// it is a copy in memory.
pub(super) fn unchangeable() -> io::Result<OwnedFd> {
    let path = fs::read_link(OURSELVES)?;
    read_only(&path).or_else(|_| copy())
}

fn read_only(path: &Path) -> io::Result<OwnedFd> {
    mount::mount_bind(path, path)?;
    // What the mount below had may stay or be added to; these are all that matter for one file.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount::mount_remount(path, flags | MountFlags::BIND, c"")?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    // At that path may be another file by now, of another version, or one that is not mounted.
    let (found, ours) = (rustix::fs::fstat(&opened)?, fs::metadata(OURSELVES)?);
    let is_ours = (found.st_dev, found.st_ino) == (ours.dev(), ours.ino());
    let mount = rustix::fs::fstatvfs(&opened)?.f_flag;
    if is_ours && mount.contains(StatVfsMountFlags::RDONLY) {
        Ok(opened)
    } else {
        Err(Errno::STALE.into())
    }
}

fn copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 all could be executed.
    let made = match rustix::fs::memfd_create("lambimg", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("lambimg", flags)?,
        made => made?,
    };
    let mut made = File::from(made);
    io::copy(&mut File::open(OURSELVES)?, &mut made)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&made, seals)?;
    Ok(made.into())
}
