//! The helper of a sandbox: this program again, before it is anything else, and therefore with one thread.
//!
//! It runs twice. The first makes the namespaces and starts the second in them, which is the sandbox's first process
//! then: that one makes the root and does what the owner asks for. No code of ours runs between a fork and an
//! execution, so that need not be unsafe. Only the second can be seen in the sandbox, and its file cannot be changed
//! (see `ourselves`). What a function is, is not known here.

mod descriptors;
mod network;
mod ourselves;
mod programs;
mod refusals;
mod root;
mod server;
mod signals;
mod usage;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{self, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::control::{self, Message, Step};
use super::{GROUP, HELPER, Spec, USER};

/// The second argument of the second run.
const FIRST_PROCESS: &str = "first-process";
/// What a program's new files are not allowed, as on Lambda.
const UMASK: u32 = 0o022;

/// What went wrong while a sandbox was made.
#[derive(Debug)]
struct Failure {
    step: Step,
    what: String,
    source: io::Error,
}

impl Failure {
    fn of<E: Into<io::Error>>(step: Step, what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self {
            step,
            what,
            source: source.into(),
        }
    }

    fn message(&self) -> Message {
        Message::Failed {
            step: self.step,
            what: self.what.clone(),
            errno: control::errno(&self.source),
        }
    }
}

/// Is the helper of a sandbox, whose owner is at the other end of standard input, until the sandbox has ended.
/// `stage` is the program's second argument.
pub fn run(stage: Option<&OsStr>) -> ExitCode {
    // A copy, because a program's input may not be closed in safe code; nothing else is done with the original.
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let made = if stage == Some(OsStr::new(FIRST_PROCESS)) {
        become_first(&socket).map(|spec| {
            server::serve(socket.as_fd(), &spec);
        })
    } else {
        start_first(&socket).map(|mut first| {
            // It ends when the owner does, unless something holds it up that its programs have done.
            if wait_for_an_end(&first, &socket).is_ok() {
                let _ = first.kill();
            }
            // Whoever has started it reaps it, or it would stay behind where nobody else does.
            let _ = first.wait();
        })
    };
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if stage.is_none() {
                // What was for the first process: left unread, it would make the owner's socket fail before it tells.
                let _ = spec(&socket);
            }
            // Without an owner nobody is there to tell.
            let _ = control::send(&socket, &failure.message(), &[]);
            ExitCode::FAILURE
        }
    }
}

/// Waits until the first process has ended or the owner is gone.
fn wait_for_an_end(first: &Child, owner: &OwnedFd) -> io::Result<()> {
    let first = rustix::process::pidfd_open(Pid::from_child(first), PidfdFlags::empty())?;
    // Of the owner's socket it is told in any case when it is closed; what comes there is the first process's.
    let mut ends = [
        PollFd::new(&first, PollFlags::IN),
        PollFd::new(owner, PollFlags::empty()),
    ];
    loop {
        match rustix::event::poll(&mut ends, None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn spec(socket: &OwnedFd) -> Result<Spec, Failure> {
    let received = control::receive::<Spec>(socket, &mut Vec::new());
    let received = received.map_err(Failure::of(Step::Other, "read what is asked for"))?;
    let (spec, _) = received
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        .map_err(Failure::of(Step::Other, "read what is asked for"))?;
    Ok(spec)
}

/// Makes the namespaces and starts what runs in them.
fn start_first(socket: &OwnedFd) -> Result<Child, Failure> {
    let spec = spec(socket)?;
    let kept = descriptors::keep_to_ourselves();
    kept.map_err(Failure::of(Step::Other, "close descriptors"))?;
    // A terminal's signals are for the owner, who ends this in order.
    let _ = rustix::process::setsid();
    // What a function is started with does not depend on how this was.
    signals::default();
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    let namespaces = |what| Failure::of::<io::Error>(Step::Namespaces, what);
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(&spec).map_err(namespaces("make namespaces"))?;
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{USER} {} 1", user.as_raw())),
        ("gid_map", format!("{GROUP} {} 1", group.as_raw())),
    ];
    for (name, content) in maps {
        let written = fs::write(format!("/proc/self/{name}"), content);
        written.map_err(namespaces("be another user in a namespace"))?;
    }
    keep_capabilities().map_err(namespaces("keep capabilities"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount::mount_change("/", private).map_err(Failure::of(Step::Mount, "anything"))?;
    let ourselves = ourselves::unchangeable();
    let ourselves = ourselves.map_err(Failure::of(Step::Other, "keep this program as it is"))?;
    let first = Command::new(format!("/proc/self/fd/{}", ourselves.as_raw_fd()))
        .args([HELPER, FIRST_PROCESS])
        .stdin(Stdio::inherit())
        .spawn();
    first.map_err(Failure::of(Step::Other, "start the first process"))
}

#[expect(
    deprecated,
    reason = "it is deprecated for what it does with descriptors, which is not asked for"
)]
fn unshare(spec: &Spec) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    flags.set(UnshareFlags::NEWNET, !spec.network);
    Ok(rustix::thread::unshare(flags)?)
}

/// What making the root takes, through the execution of the first process.
fn keep_capabilities() -> io::Result<()> {
    let needed = [
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::NET_ADMIN,
        // The limits of a namespace are its resources.
        CapabilitySet::SYS_RESOURCE,
        // Directories that the function may not read lie below others that it may.
        CapabilitySet::DAC_OVERRIDE,
    ];
    let mut all = rustix::thread::capabilities(None)?;
    all.inheritable = needed.into_iter().collect();
    rustix::thread::set_capabilities(None, all)?;
    for capability in needed {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Makes the root and gives up everything that took.
fn become_first(socket: &OwnedFd) -> Result<Spec, Failure> {
    let spec = spec(socket)?;
    root::make(&spec)?;
    let other = |what| Failure::of::<io::Error>(Step::Other, what);
    programs::limit(&spec).map_err(other("limit resources"))?;
    give_up().map_err(other("give up capabilities"))?;
    refusals::refuse_outside().map_err(other("have the kernel refuse sockets"))?;
    refusals::refuse_calls().map_err(other("have the kernel refuse calls"))?;
    control::send(socket, &Message::Ready, &[]).map_err(other("answer"))?;
    Ok(spec)
}

fn give_up() -> io::Result<()> {
    let nothing = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(None, nothing)?;
    rustix::thread::set_no_new_privs(true)?;
    // Its programs are the same user, and could trace it or take its socket.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // The process that has started it waits for nothing else; where that is killed, this ends too.
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::KILL,
    ))?)
}
