//! How a program is started in the sandbox: found, in its directory, with Lambda's limits.
//!
//! A failure is told by its step, because Lambda does so. Who asks, and what for, is not known here.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, CWD, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Resource, Rlimit};

use crate::lambda::sandbox::control::{Answer, errno};
use crate::lambda::sandbox::{FRAMED_LOG, Program, Spec};

/// Open files of a process, as on Lambda.
const FILES: u64 = 1024;
/// Processes and threads, as on Lambda.
const PROCESSES: u64 = 1024;
/// What a process may have beyond the memory's limit, which is held by looking: the stacks of as many threads as
/// there may be. Nobody fills that between two looks.
const UNTOUCHED: u64 = 8 << 30;
/// Where programs are looked for when nothing is said.
const PATH: &str = "/bin:/usr/bin";

/// Limits this process, and so all that it starts.
pub(super) fn limit(spec: &Spec) -> io::Result<()> {
    let limits = [
        (Resource::Nofile, FILES),
        (Resource::Nproc, PROCESSES),
        // None is written at one byte either, and a program that the machine has for them is not started, as at none.
        (Resource::Core, 1),
        // Of files without a name in memory each counts, as those in `/tmp` do.
        (Resource::Fsize, spec.memory.max(spec.tmp)),
        (Resource::Data, spec.memory.saturating_add(UNTOUCHED)),
    ];
    for (resource, limit) in limits {
        // Nobody may raise what is lower already.
        let most = rustix::process::getrlimit(resource).maximum;
        let limit = Some(most.map_or(limit, |most| most.min(limit)));
        let limit = Rlimit {
            current: limit,
            maximum: limit,
        };
        rustix::process::setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Starts a program that writes to these pipes.
pub(super) fn start(program: &Program, pipes: Vec<OwnedFd>) -> Result<Pid, Answer> {
    let directory = match &*program.working_dir {
        "" => "/",
        directory => directory,
    };
    let entered = rustix::process::chdir(directory);
    entered.map_err(|error| Answer::NoWorkingDir(error.raw_os_error()))?;
    let started = execute(program, pipes);
    // The root is always there.
    let _ = rustix::process::chdir("/");
    started.map_err(|error| Answer::NotExecuted(errno(&error)))
}

fn execute(program: &Program, pipes: Vec<OwnedFd>) -> io::Result<Pid> {
    let missing = || io::Error::from(Errno::INVAL);
    let (name, arguments) = program.command.split_first().ok_or(Errno::NOENT)?;
    let path = found(name, program)?;
    can_be_executed(&path)?;
    let mut pipes = pipes.into_iter();
    let mut command = Command::new(path);
    command
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(program.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(pipes.next().ok_or_else(missing)?)
        .stderr(pipes.next().ok_or_else(missing)?)
        .process_group(0);
    let framed = program.framed_log.then(|| pipes.next()).flatten();
    if let Some(framed) = &framed {
        // Inherited by this one program: nothing else is started meanwhile, and then it is closed.
        rustix::io::fcntl_setfd(framed, FdFlags::empty())?;
        command.env(FRAMED_LOG, framed.as_raw_fd().to_string());
    }
    let child = command.spawn()?;
    Ok(Pid::from_child(&child))
}

/// The file that a name means.
fn found(name: &str, program: &Program) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let path = program.variables.iter().rfind(|(name, _)| name == "PATH");
    let path = path.map_or(PATH, |(_, value)| value);
    let mut error = Errno::NOENT;
    for directory in path.split(':') {
        // No name at all is the working directory.
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match rustix::fs::accessat(
            CWD,
            &candidate,
            Access::EXEC_OK,
            rustix::fs::AtFlags::empty(),
        ) {
            Ok(()) if candidate.is_file() => return Ok(candidate),
            Err(Errno::ACCESS) => error = Errno::ACCESS,
            _ => {}
        }
    }
    Err(error.into())
}

/// The C library would give a file without a first line that says otherwise to the shell; Lambda does not.
fn can_be_executed(path: &Path) -> io::Result<()> {
    // What a function has put there may be a pipe, which nobody opens at its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, path, flags, Mode::empty()).map(File::from);
    if let Ok(file) = &opened
        && !file.metadata()?.is_file()
    {
        return Err(Errno::ACCESS.into());
    }
    let mut start = Vec::new();
    let read = opened.map(|file| file.take(4).read_to_end(&mut start));
    // One that may not be read may be executed all the same; what is missing is told when it is.
    if !matches!(read, Ok(Ok(_))) || start.starts_with(b"#!") || start == b"\x7fELF" {
        Ok(())
    } else {
        Err(Errno::NOEXEC.into())
    }
}
