//! A sandbox as its owner has it: starts the helper, asks its first process for things, hears when programs end.
//!
//! How a sandbox is made, and what its first process does about a request, is not known here.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::net::unix::pipe::Receiver;
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::process::Child;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::control::{self, Answer, Ask, Message, Request, Step};
use super::{Error, Exit, HELPER, Memory, Program, SpawnError, Spec, peers};

/// How long the first process has for ending all others: one that multiplies may leave it little time.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it has for a number that is of no great use.
const SOON: Duration = Duration::from_millis(500);
/// How long to wait for others to close files, where there are too many.
const AGAIN: Duration = Duration::from_millis(50);
/// The port that the Runtime API has on Lambda.
const PORT: u16 = 9001;
/// How a process ends whose sandbox is ended.
const KILLED: Exit = Exit::Signal(9);
/// What may be wrong where user namespaces are refused: the setting, its file, and the value that forbids them.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "kernel.unprivileged_userns_clone",
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
    ),
    (
        "user.max_user_namespaces",
        "/proc/sys/user/max_user_namespaces",
        "0",
    ),
    (
        "kernel.apparmor_restrict_unprivileged_userns",
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ),
];

/// A sandbox. Clones are the same one; it ends with the last of them, or with this process, however that ends.
#[derive(Debug, Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

/// Ends the sandbox when it is dropped.
#[derive(Debug)]
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Debug)]
struct Shared {
    /// Of packets, as a datagram's is, but it tells when the other end is closed.
    socket: UnixDatagram,
    next: AtomicU64,
    network: bool,
    open: Mutex<Open>,
    memory: Mutex<Memory>,
    /// Whether the helper is gone.
    gone: watch::Sender<bool>,
    /// The sandbox does not end in time: the helper is to be killed, and is waited for no longer.
    given_up: Notify,
}

/// What is waited for.
#[derive(Debug, Default)]
struct Open {
    answers: HashMap<u64, oneshot::Sender<(Answer, Vec<OwnedFd>)>>,
    processes: HashMap<u64, oneshot::Sender<Exit>>,
    /// Nothing comes any more.
    is_closed: bool,
}

impl Sandbox {
    /// Makes a sandbox by the program at `helper`, which calls [`super::run_helper`] where its first argument is
    /// [`HELPER`].
    ///
    /// # Errors
    /// When the helper cannot be executed, or this user may not do what a sandbox needs.
    pub async fn start(helper: &Path, spec: &Spec) -> Result<Self, Error> {
        let setup = |action: &str| {
            let action = action.to_owned();
            move |source: io::Error| Error::Setup { action, source }
        };
        let pair = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        );
        let (socket, theirs) = pair.map_err(|e| setup("make a socket")(e.into()))?;
        let started = tokio::process::Command::new(helper)
            .arg(HELPER)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = started.map_err(|source| Error::Helper {
            path: helper.to_owned(),
            source,
        })?;
        let socket = net::UnixDatagram::from(socket);
        let socket = socket
            .set_nonblocking(true)
            .and_then(|()| UnixDatagram::from_std(socket))
            .map_err(setup("make a socket"))?;
        // The helper reads the first, and its child, who is the sandbox's first process, the second.
        let made = async || {
            send(&socket, spec, &[]).await?;
            send(&socket, spec, &[]).await?;
            receive::<Message>(&socket, &mut Vec::new()).await
        };
        let made = match made().await {
            Ok(Some((message, _))) => made_of(message),
            Ok(None) => Err(Error::Gone),
            Err(error) => Err(setup("speak with its helper")(error)),
        };
        if let Err(error) = made {
            drop(socket);
            // It has nothing to wait for.
            let _ = child.wait().await;
            return Err(error);
        }
        let shared = Arc::new(Shared {
            socket,
            next: AtomicU64::new(0),
            network: spec.network,
            open: Mutex::default(),
            memory: Mutex::default(),
            gone: watch::Sender::new(false),
            given_up: Notify::new(),
        });
        tokio::spawn(listen_to(Arc::clone(&shared), child));
        Ok(Self {
            _last: Arc::new(Last(Arc::clone(&shared))),
            shared,
        })
    }

    /// Starts a program.
    ///
    /// # Errors
    /// When its working directory cannot be entered, it cannot be executed, or the sandbox fails.
    pub async fn spawn(&self, program: &Program) -> Result<Process, SpawnError> {
        let piped = |source| Error::Refused {
            action: "make a pipe",
            source,
        };
        let (stdout, to_stdout) = pipe().map_err(piped)?;
        let (stderr, to_stderr) = pipe().map_err(piped)?;
        let mut theirs = vec![to_stdout, to_stderr];
        let mut framed = None;
        if program.framed_log {
            let (ours, to_framed) = pipe().map_err(piped)?;
            framed = Some(ours);
            theirs.push(to_framed);
        }
        let process = self.shared.number();
        let (ended, exit) = oneshot::channel();
        self.shared.open().processes.insert(process, ended);
        let ask = Ask::Spawn {
            process,
            program: program.clone(),
        };
        let answer = self.shared.ask(ask, &theirs, "start a program").await;
        let failed = match answer {
            Ok((Answer::Done, _)) => {
                return Ok(Process {
                    stdout,
                    stderr,
                    framed,
                    handle: Handle {
                        number: process,
                        exit: Ended::NotYet(exit),
                        shared: Arc::clone(&self.shared),
                    },
                });
            }
            Ok((Answer::NoWorkingDir(errno), _)) => SpawnError::WorkingDir {
                path: program.working_dir.clone(),
                source: io::Error::from_raw_os_error(errno),
            },
            Ok((Answer::NotExecuted(errno), _)) => SpawnError::Exec {
                path: program.command.first().cloned().unwrap_or_default(),
                source: io::Error::from_raw_os_error(errno),
            },
            Ok(_) => Error::Gone.into(),
            Err(error) => error.into(),
        };
        self.shared.open().processes.remove(&process);
        Err(failed)
    }

    /// Listens where the sandbox's programs, and nobody beyond this machine, can connect to the address.
    ///
    /// # Errors
    /// When there is no free port, or the sandbox has ended.
    pub async fn listen(&self) -> Result<(TcpListener, SocketAddr), Error> {
        let refused = |source| Error::Refused {
            action: "listen",
            source,
        };
        let listener = if self.shared.network {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        } else {
            let ask = Ask::Listen { port: PORT };
            let socket = self.shared.socket(ask, "listen").await?;
            let listener = std::net::TcpListener::from(socket);
            listener
                .set_nonblocking(true)
                .and_then(|()| TcpListener::from_std(listener))
        };
        let listener = listener.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok((listener, address))
    }

    /// Whether the program at `peer` that has connected to `ours`, where this sandbox listens, is none of another
    /// user's. With the machine's network everybody here can connect; where that cannot be told nobody is trusted.
    pub async fn admits(&self, peer: SocketAddr, ours: SocketAddr) -> bool {
        if !self.shared.network {
            return true;
        }
        loop {
            // The tables are long where there are many connections.
            let is_own = tokio::task::spawn_blocking(move || peers::is_own(peer, ours));
            match is_own.await {
                Ok(Err(error)) if is_out_of_files(&error) => tokio::time::sleep(AGAIN).await,
                is_own => return matches!(is_own, Ok(Ok(true))),
            }
        }
    }

    /// Connects to a port on which a program of the sandbox listens.
    ///
    /// # Errors
    /// When nobody does, or the sandbox has ended.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        if self.shared.network {
            return TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        }
        let socket = self.shared.socket(Ask::Connect { port }, "connect").await;
        let socket = socket.map_err(|error| match error {
            Error::Refused { source, .. } => source,
            error => io::Error::new(io::ErrorKind::NotConnected, error),
        })?;
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    /// The names of the files in a directory of the image, in order, without directories in it; none where there is no such directory.
    ///
    /// # Errors
    /// When it cannot be read, or the sandbox has ended.
    pub async fn list(&self, directory: &str) -> Result<Vec<String>, Error> {
        let ask = Ask::List {
            directory: directory.to_owned(),
        };
        match self.shared.ask(ask, &[], "read a directory").await? {
            (Answer::Names(names), _) => Ok(names),
            _ => Err(Error::Gone),
        }
    }

    /// Whether there is a file at a path of the image, or a link; a directory is none.
    ///
    /// # Errors
    /// When the sandbox has ended.
    pub async fn has_file(&self, path: &str) -> Result<bool, Error> {
        let ask = Ask::HasFile {
            path: path.to_owned(),
        };
        match self.shared.ask(ask, &[], "look for a file").await? {
            (Answer::Is(is_there), _) => Ok(is_there),
            _ => Err(Error::Gone),
        }
    }

    /// Ends every program and whatever they have started, and returns when they are gone. `/tmp` is kept.
    ///
    /// # Errors
    /// When the sandbox has ended, with which they have ended too. It is ended if they leave its first process no time,
    /// or memory that is in none of them.
    pub async fn kill_all(&self) -> Result<(), Error> {
        let answer = self.shared.ask(Ask::KillAll, &[], "end its programs");
        let Ok(answer) = timeout(PATIENCE, answer).await else {
            // It may take a while to be gone: nobody is to ask it for anything meanwhile.
            self.shared.close();
            return Err(Error::Gone);
        };
        answer.map(drop)
    }

    /// The memory of its processes; what was last known, if the sandbox has ended or does not answer soon.
    pub async fn memory(&self) -> Memory {
        let answer = self.shared.ask(Ask::Memory, &[], "tell its memory");
        let answer = timeout(SOON, answer).await;
        let mut known = lock(&self.shared.memory);
        if let Ok(Ok((Answer::Memory(memory), _))) = answer {
            *known = memory;
        }
        *known
    }

    /// Has its memory looked at closely, as in the beginning, or only once a second, as is enough where nobody calls.
    pub async fn watch(&self, closely: bool) {
        let answer = self.shared.ask(Ask::Watch { closely }, &[], "look");
        // Who is too busy to answer has heard of it all the same.
        let _ = timeout(SOON, answer).await;
    }

    /// Whether it has ended or is about to, by itself or because somebody killed it: nothing can be done in it any
    /// more.
    pub fn is_gone(&self) -> bool {
        self.shared.open().is_closed
    }

    /// Ends the sandbox and everything in it, and returns when it is gone.
    pub async fn end(self) {
        let mut gone = self.shared.gone.subscribe();
        self.shared.close();
        if timeout(PATIENCE, gone.wait_for(|gone| *gone))
            .await
            .is_err()
        {
            self.shared.given_up.notify_one();
            // The task that tells it does so whatever happens.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells the sandbox to end; the task that listens to it ends too.
    fn close(&self) {
        {
            let mut open = self.open();
            open.is_closed = true;
            open.answers.clear();
        }
        // It may be gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    async fn ask(
        &self,
        ask: Ask,
        descriptors: &[OwnedFd],
        action: &'static str,
    ) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let id = self.number();
        let (answers, answer) = oneshot::channel();
        {
            let mut open = self.open();
            if open.is_closed {
                return Err(Error::Gone);
            }
            open.answers.insert(id, answers);
        }
        let sent = send(&self.socket, &Request { id, ask }, descriptors).await;
        if let Err(source) = sent {
            self.open().answers.remove(&id);
            return Err(match source.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Gone,
                _ => Error::Refused { action, source },
            });
        }
        match answer.await {
            Ok((Answer::Refused(errno), _)) => Err(Error::Refused {
                action,
                source: io::Error::from_raw_os_error(errno),
            }),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Error::Gone),
        }
    }

    async fn socket(&self, ask: Ask, action: &'static str) -> Result<OwnedFd, Error> {
        let (_, descriptors) = self.ask(ask, &[], action).await?;
        descriptors.into_iter().next().ok_or(Error::Gone)
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| errno == Errno::MFILE || errno == Errno::NFILE)
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pipe whose end to read from is ours.
fn pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((Receiver::from_owned_fd(reader.into())?, writer.into()))
}

async fn send(
    socket: &UnixDatagram,
    message: &impl serde::Serialize,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let send = || control::send(socket, message, &descriptors);
    socket.async_io(Interest::WRITABLE, send).await
}

async fn receive<T: serde::de::DeserializeOwned>(
    socket: &UnixDatagram,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let receive = || control::receive(socket, buffer);
    socket.async_io(Interest::READABLE, receive).await
}

/// What the first message says of the sandbox.
fn made_of(message: Message) -> Result<(), Error> {
    let (step, what, errno) = match message {
        Message::Ready => return Ok(()),
        Message::Failed { step, what, errno } => (step, what, errno),
        Message::Answer { .. } | Message::Ended { .. } => return Err(Error::Gone),
    };
    let source = io::Error::from_raw_os_error(errno);
    let is_forbidden = source.kind() == io::ErrorKind::PermissionDenied;
    let setting = SETTINGS.iter().find(|(_, path, forbids)| {
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() == *forbids)
    });
    let setting = setting.map(|(name, ..)| *name);
    Err(match step {
        Step::Namespaces => Error::NoUserNamespaces { setting, source },
        // AppArmor lets a namespace be made and then nothing be done in it.
        Step::Mount if is_forbidden && setting.is_some() => {
            Error::NoUserNamespaces { setting, source }
        }
        Step::Mount => Error::Mount { what, source },
        Step::Other => Error::Setup {
            action: what,
            source,
        },
    })
}

/// Takes what the sandbox says until it is gone.
async fn listen_to(shared: Arc<Shared>, mut child: Child) {
    hear(&shared).await;
    shared.close();
    // The helper kills the sandbox's processes and ends after the last of them; where it is killed all of them end too.
    tokio::select! {
        _ = child.wait() => {}
        () = shared.given_up.notified() => drop(child.kill().await),
    }
    shared.open().processes.clear();
    shared.gone.send_replace(true);
}

async fn hear(shared: &Shared) {
    let mut buffer = Vec::new();
    while let Ok(Some((message, descriptors))) = receive(&shared.socket, &mut buffer).await {
        match message {
            Message::Answer { id, answer } => {
                let asked = shared.open().answers.remove(&id);
                // Whoever has asked may have gone.
                let _ = asked.map(|asked| asked.send((answer, descriptors)));
            }
            Message::Ended {
                process,
                exit,
                memory,
            } => {
                *lock(&shared.memory) = memory;
                let waiting = shared.open().processes.remove(&process);
                let _ = waiting.map(|waiting| waiting.send(exit));
            }
            Message::Ready | Message::Failed { .. } => {}
        }
    }
}

/// A program that was started in a sandbox. To drop it leaves it running.
#[derive(Debug)]
pub struct Process {
    /// What it, and whatever it has started, writes to its output.
    pub stdout: Receiver,
    /// What it, and whatever it has started, writes to its error output.
    pub stderr: Receiver,
    /// The framed log, if it was asked for.
    pub framed: Option<Receiver>,
    /// The program itself.
    pub handle: Handle,
}

/// A program that was started in a sandbox, without what it writes.
#[derive(Debug)]
pub struct Handle {
    number: u64,
    exit: Ended,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Ended {
    NotYet(oneshot::Receiver<Exit>),
    With(Exit),
}

impl Handle {
    /// Waits for its end, again and again if need be; may be given up and called again. A process ends with its
    /// sandbox as by SIGKILL.
    pub async fn wait(&mut self) -> Exit {
        if let Ended::NotYet(exit) = &mut self.exit {
            let exit = exit.await.unwrap_or(KILLED);
            self.exit = Ended::With(exit);
        }
        match &self.exit {
            Ended::With(exit) => *exit,
            Ended::NotYet(_) => KILLED,
        }
    }

    /// Sends it a signal, by its number; nothing happens where it has ended.
    ///
    /// # Errors
    /// When there is no such signal, or the sandbox has ended.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        let ask = Ask::Signal {
            process: self.number,
            signal,
        };
        let answer = self.shared.ask(ask, &[], "send a signal");
        answer.await.map(drop)
    }
}
