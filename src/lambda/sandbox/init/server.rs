//! The first process of a sandbox: does what the owner asks for, tells who has ended, holds the memory's limit, and
//! ends with its owner, and with it the sandbox.
//!
//! One thread and one wait for everything. Whom it serves is not known here.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use super::programs;
use super::usage::{self, EVERY, SELDOM, Usage};
use crate::lambda::sandbox::control::{self, Answer, Ask, Message, Request, errno};
use crate::lambda::sandbox::{Exit, Program, Spec};

/// So many ended processes are noted at once.
const REAPED: usize = 256;

/// Serves the owner until it is gone.
pub(super) fn serve(socket: BorrowedFd<'_>, spec: &Spec) {
    let mut server = Server {
        socket,
        programs: HashMap::new(),
        usage: Usage::new(spec.memory),
        watches: true,
    };
    // With this process ends the sandbox, whatever the reason.
    let _ = server.run();
}

struct Server<'a> {
    socket: BorrowedFd<'a>,
    /// The programs that were asked for, by their process.
    programs: HashMap<Pid, Started>,
    usage: Usage,
    /// Whether the memory is looked at closely.
    watches: bool,
}

struct Started {
    number: u64,
    /// Tells when it has ended, so that nobody has to look; there is no safe way to hear of signals.
    ended: OwnedFd,
}

impl Server<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut has_children = false;
        loop {
            let is_asked = self.wait(has_children)?;
            if is_asked {
                let received = control::receive::<Request>(self.socket, &mut buffer)?;
                let Some((request, descriptors)) = received else {
                    return Ok(());
                };
                self.answer(request, descriptors)?;
            }
            // Orphans become this process's children and end unheard.
            has_children = self.reap()?;
            if has_children {
                self.usage.look()?;
            }
        }
    }

    /// Waits until there is something to do; whether the owner asks for something.
    fn wait(&self, has_children: bool) -> io::Result<bool> {
        let soon = if self.watches { EVERY } else { SELDOM };
        let soon = Timespec::try_from(soon).map_err(|_| Errno::INVAL)?;
        let ended = self.programs.values().map(|program| &program.ended);
        let mut waited: Vec<_> = [PollFd::new(&self.socket, PollFlags::IN)]
            .into_iter()
            .chain(ended.map(|ended| PollFd::new(ended, PollFlags::IN)))
            .collect();
        match rustix::event::poll(&mut waited, has_children.then_some(&soon)) {
            Ok(_) => Ok(!waited[0].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes note of all that have ended; whether others are left.
    fn reap(&mut self) -> io::Result<bool> {
        // A family that multiplies ends as fast as it grows: there is more to do than to bury it.
        for _ in 0..REAPED {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.has_ended(pid, status)?,
                Ok(None) => return Ok(true),
                Err(Errno::CHILD) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn has_ended(&mut self, pid: Pid, status: WaitStatus) -> io::Result<()> {
        let Some(program) = self.programs.remove(&pid) else {
            return Ok(());
        };
        let code = status.exit_status().map(Exit::Code);
        let exit = code.or(status.terminating_signal().map(Exit::Signal));
        let message = Message::Ended {
            process: program.number,
            exit: exit.unwrap_or(Exit::Signal(Signal::KILL.as_raw())),
            memory: self.usage.known(),
        };
        control::send(self.socket, &message, &[])
    }

    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let mut beside = None;
        let refused = |error: io::Error| Answer::Refused(errno(&error));
        let done = |done: io::Result<()>| done.map_or_else(refused, |()| Answer::Done);
        let mut socket = |socket: io::Result<OwnedFd>| match socket {
            Ok(socket) => {
                beside = Some(socket);
                Answer::Socket
            }
            Err(error) => refused(error),
        };
        let answer = match request.ask {
            Ask::Spawn { process, program } => self.spawn(process, &program, descriptors),
            Ask::Signal { process, signal } => done(self.signal(process, signal)),
            Ask::KillAll => {
                let killed = self.kill_all();
                // They would count for ever: what comes next is to have a new sandbox.
                if usage::has_detached() {
                    return Err(io::Error::other("segments are left"));
                }
                done(killed)
            }
            Ask::Listen { port } => socket(listen(port)),
            Ask::Connect { port } => socket(connect(port)),
            Ask::List { directory } => names(&directory).map_or_else(refused, Answer::Names),
            Ask::HasFile { path } => Answer::Is(is_file(&path)),
            Ask::Memory => Answer::Memory(self.usage.look()?),
            Ask::Watch { closely } => {
                self.watches = closely;
                Answer::Done
            }
        };
        let message = Message::Answer {
            id: request.id,
            answer,
        };
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        match control::send(self.socket, &message, &beside) {
            // A list too long to be told.
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                let answer = refused(error);
                let id = request.id;
                control::send(self.socket, &Message::Answer { id, answer }, &[])
            }
            sent => sent,
        }
    }

    fn spawn(&mut self, number: u64, program: &Program, pipes: Vec<OwnedFd>) -> Answer {
        let pid = match programs::start(program, pipes) {
            Ok(pid) => pid,
            Err(answer) => return answer,
        };
        self.usage.begins();
        // It is not reaped yet, so that its number is its own.
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(ended) => {
                self.programs.insert(pid, Started { number, ended });
                Answer::Done
            }
            Err(error) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                Answer::Refused(error.raw_os_error())
            }
        }
    }

    fn signal(&self, number: u64, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
        let mut programs = self.programs.iter();
        let program = programs.find(|(_, program)| program.number == number);
        match program.map(|(pid, _)| rustix::process::kill_process(*pid, signal)) {
            None | Some(Ok(()) | Err(Errno::SRCH)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn kill_all(&mut self) -> io::Result<()> {
        while self.reap()? {
            // The first process's group, as a number below zero, means every process but the first; the kernel lets
            // none be forked meanwhile.
            match rustix::process::kill_process_group(Pid::INIT, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.has_ended(pid, status)?,
                Ok(None) | Err(Errno::CHILD | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.usage.is_over();
        Ok(())
    }
}

fn listen(port: u16) -> io::Result<OwnedFd> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let bound = bound.or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    bound.map(OwnedFd::from)
}

/// Begins to connect; who gets the socket waits for the rest.
fn connect(port: u16) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn is_file(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir())
}

fn names(directory: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
