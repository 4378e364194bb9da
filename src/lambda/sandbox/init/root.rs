//! The root that a sandbox's programs see: an image's layers under one another, read-only, and over them what no
//! image brings: `/proc`, a small `/dev`, an empty `/tmp`, and how names of hosts are found.
//!
//! `/dev/shm` is missing and `/sys` empty, as on Lambda. What runs there is not known here.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{self, MountFlags, UnmountFlags};

use super::{Failure, network};
use crate::lambda::sandbox::Spec;
use crate::lambda::sandbox::control::Step;
use crate::oci::unpack;

/// Directories that something is mounted on.
const PLACES: [&str; 5] = ["dev", "etc", "proc", "sys", "tmp"];
/// What Lambda's own file says.
const HOSTS: &str = "127.0.0.1 localhost sandbox.localdomain sandbox\n::1 localhost\n";
const RESOLVER: &str = "etc/resolv.conf";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// What of `/proc` is the whole machine's and may be written to by its owner, who is root where root has started
/// this.
const OF_THE_MACHINE: [&str; 9] = [
    "acpi",
    "bus",
    "fs",
    "irq",
    "mtrr",
    "pressure",
    "scsi",
    "sys",
    "sysrq-trigger",
];
/// What of `/proc` tells too much of the machine.
const SECRET: [&str; 9] = [
    "kcore",
    "keys",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "sched_debug",
    "slabinfo",
    "timer_list",
    "vmallocinfo",
];
/// What holds in the sandbox's namespaces alone: so many processes and threads, since Linux 6.14, for root has no such
/// limit otherwise; and no namespaces of the function's own, in which it could mount memory without a limit.
const SETTINGS: [(&str, &str); 2] = [
    ("sys/kernel/pid_max", "1400"),
    ("sys/user/max_user_namespaces", "0"),
];
const NAME: &[u8] = b"sandbox";

fn mounting<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    Failure::of(Step::Mount, what)
}

/// Makes the root and enters it; the mounts are private already.
pub(super) fn make(spec: &Spec) -> Result<(), Failure> {
    make_places(&spec.places).map_err(Failure::of(Step::Other, "make its places"))?;
    // Read before the places hide them.
    let resolver = fs::read("/etc/resolv.conf").unwrap_or_default();
    mount_layers(spec)?;
    let root = &spec.places;
    mount_proc(root)?;
    mount_dev(root, &resolver)?;
    mount_tmp(root, spec.tmp)?;
    let other = |what| Failure::of::<io::Error>(Step::Other, what);
    rustix::system::sethostname(NAME).map_err(|e| other("set the host's name")(e.into()))?;
    if !spec.network {
        network::raise_loopback().map_err(other("raise the loopback device"))?;
    }
    enter(root).map_err(mounting("its root"))
}

/// Other sandboxes may be making them, or using them.
fn make_places(places: &Path) -> io::Result<()> {
    for name in PLACES {
        let place = places.join(name);
        fs::create_dir_all(&place)?;
        open_to_all(&place)?;
    }
    open_to_all(places)?;
    for (name, content) in [("etc/hosts", HOSTS), (RESOLVER, "")] {
        let path = places.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == content) {
            continue;
        }
        let mut file = tempfile::NamedTempFile::new_in(places)?;
        file.write_all(content.as_bytes())?;
        file.as_file()
            .set_permissions(Permissions::from_mode(0o644))?;
        file.persist(path)?;
    }
    Ok(())
}

/// Somebody else's directory cannot be changed, and need not be where it is right.
fn open_to_all(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.permissions().mode() & 0o7777;
    if mode == 0o755 {
        return Ok(());
    }
    fs::set_permissions(directory, Permissions::from_mode(0o755))
}

/// Lays the layers under one another. They are named by descriptors: what a mount is told has to fit in a page,
/// which the paths of many layers do not, and a path may have a colon in it.
fn mount_layers(spec: &Spec) -> Result<(), Failure> {
    let mut opened = vec![open(&spec.places)?];
    let mut seen = HashSet::new();
    for layer in spec.layers.iter().rev() {
        // Below itself a layer shows nothing more, and overlayfs refuses it.
        if seen.insert(layer) {
            opened.push(open(layer)?);
            if unpack::is_opaque(layer) {
                break;
            }
        }
    }
    let numbers: Vec<_> = opened.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let options = format!("userxattr,lowerdir={}", numbers.join(":"));
    let options = CString::new(options)
        .map_err(io::Error::from)
        .map_err(mounting("its layers"))?;
    rustix::process::chdir("/proc/self/fd").map_err(mounting("its layers"))?;
    mount::mount(
        "overlay",
        &spec.places,
        "overlay",
        MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID,
        &*options,
    )
    .map_err(mounting("its layers"))
}

fn open(directory: &PathBuf) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty());
    opened.map_err(mounting(format!("`{}`", directory.display())))
}

fn mount_proc(root: &Path) -> Result<(), Failure> {
    let place = root.join("proc");
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount::mount("proc", &place, "proc", flags, None).map_err(mounting("`/proc`"))?;
    for (name, value) in SETTINGS {
        // Not every kernel has them, and without they are held less well.
        let _ = fs::write(place.join(name), value);
    }
    for name in OF_THE_MACHINE {
        let path = place.join(name);
        let done = mount::mount_bind(&path, &path).and_then(|()| {
            let flags = flags | MountFlags::BIND | MountFlags::RDONLY;
            mount::mount_remount(&path, flags, c"")
        });
        if_there(done).map_err(mounting(format!("`/proc/{name}`")))?;
    }
    for name in SECRET {
        let done = bind_device(Path::new("/dev/null"), &place.join(name));
        if_there(done).map_err(mounting(format!("`/proc/{name}`")))?;
    }
    Ok(())
}

/// Shows a device of the machine's: it can be used, but not changed by its owner.
fn bind_device(device: &Path, place: &Path) -> rustix::io::Result<()> {
    mount::mount_bind(device, place)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount::mount_remount(place, flags | MountFlags::BIND | MountFlags::RDONLY, c"")
}

/// Not every kernel has all of them.
fn if_there(done: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match done {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        done => done,
    }
}

fn mount_dev(root: &Path, resolver: &[u8]) -> Result<(), Failure> {
    let place = root.join("dev");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"mode=755,size=1m";
    mount::mount("tmpfs", &place, "tmpfs", flags, options).map_err(mounting("`/dev`"))?;
    let failed = |name: &str| mounting::<io::Error>(format!("`/dev/{name}`"));
    for name in DEVICES {
        let device = place.join(name);
        File::create(&device).map_err(failed(name))?;
        let bound = bind_device(&Path::new("/dev").join(name), &device);
        bound.map_err(|error| failed(name)(error.into()))?;
    }
    for (name, target) in LINKS {
        symlink(target, place.join(name)).map_err(failed(name))?;
    }
    let sealed = flags | MountFlags::BIND | MountFlags::RDONLY;
    // A copy: the machine's own file would be its owner's to write to. It has no name any more where it lies.
    let copy = place.join("resolver");
    let bound = write_readable(&copy, resolver)
        .and_then(|()| {
            // The function owns it, and could give itself the permission to write.
            let shown = root.join(RESOLVER);
            mount::mount_bind(&copy, &shown)?;
            Ok(mount::mount_remount(&shown, sealed, c"")?)
        })
        .and_then(|()| fs::remove_file(&copy));
    bound.map_err(mounting(format!("`/{RESOLVER}`")))?;
    mount::mount_remount(&place, sealed, c"").map_err(mounting("`/dev`"))
}

fn write_readable(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o444))
}

fn mount_tmp(root: &Path, size: u64) -> Result<(), Failure> {
    let options = CString::new(format!("mode=1777,size={size}"));
    let options = options.map_err(|error| mounting("`/tmp`")(io::Error::from(error)))?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    let place = root.join("tmp");
    mount::mount("tmpfs", place, "tmpfs", flags, &*options).map_err(mounting("`/tmp`"))
}

/// Makes `root` the root; nothing else can be reached from then on.
fn enter(root: &Path) -> io::Result<()> {
    rustix::process::chdir(root)?;
    // The old root comes to lie over the new one, and is taken away from there.
    rustix::process::pivot_root(".", ".")?;
    mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn places_that_are_right_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let places = directory.path().join("places");
        make_places(&places).unwrap();
        fs::set_permissions(places.join("sys"), Permissions::from_mode(0o700)).unwrap();
        let changes = || {
            let all = ["", "dev", "etc/hosts", "proc", "sys", "tmp"].iter();
            all.map(|name| {
                let metadata = fs::metadata(places.join(name)).unwrap();
                assert!(name.contains('/') || metadata.mode() & 0o7777 == 0o755 || *name == "sys");
                (*name, metadata.ctime(), metadata.ctime_nsec())
            })
            .collect::<Vec<_>>()
        };
        let before = changes();
        // Longer than the clock of the file system takes for a step.
        thread::sleep(Duration::from_millis(30));
        make_places(&places).unwrap();
        let touched: Vec<_> = changes()
            .into_iter()
            .filter(|one| !before.contains(one))
            .collect();
        let names: Vec<_> = touched.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, ["sys"]);
        let mode = fs::metadata(places.join("sys")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
}
