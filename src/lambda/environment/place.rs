//! Where an environment's programs run, as the environment needs it: a sandbox, or in tests what stands for one.
//!
//! It says nothing of how programs are kept apart, and nothing of what Lambda tells them.

use std::io;
use std::net::SocketAddr;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::lambda::sandbox::Error;
use crate::lambda::sandbox::Exit;
use crate::lambda::sandbox::Handle;
use crate::lambda::sandbox::Memory;
use crate::lambda::sandbox::Process;
use crate::lambda::sandbox::Program;
use crate::lambda::sandbox::Sandbox;
use crate::lambda::sandbox::SpawnError;

/// A place to run programs in; [`Sandbox`] is one, and says what each of these does.
pub trait Place: Send + Sync {
    /// Listens where the place's programs can connect, by the address that is given with it.
    fn listen(&self) -> BoxFuture<'_, Result<(TcpListener, SocketAddr), Error>>;

    /// Whether who has connected from `peer` to `ours`, where the place listens, may be one of its programs.
    fn admits(&self, peer: SocketAddr, ours: SocketAddr) -> BoxFuture<'_, bool>;

    /// Connects to a port on which one of the place's programs listens.
    fn connect(&self, port: u16) -> BoxFuture<'_, io::Result<TcpStream>>;

    /// The names of the files directly in a directory, in order, without directories in it; none where there is no such directory.
    fn list<'a>(&'a self, directory: &'a str) -> BoxFuture<'a, Result<Vec<String>, Error>>;

    /// Whether there is a file at a path, or a link; a directory is none.
    fn has_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<bool, Error>>;

    /// Starts a program.
    fn spawn<'a>(&'a self, program: &'a Program) -> BoxFuture<'a, Result<Started, SpawnError>>;

    /// Ends every program at once, and waits until they are gone.
    fn kill_all(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// The memory of its programs.
    fn memory(&self) -> BoxFuture<'_, Memory>;

    /// Has the memory looked at closely, or as seldom as is enough between calls.
    fn watch(&self, closely: bool) -> BoxFuture<'_, ()>;

    /// Whether it has ended, so that nothing can be done in it any more.
    fn is_gone(&self) -> bool;

    /// Ends the place, and waits until it is gone.
    fn end(&self) -> BoxFuture<'_, ()>;
}

/// A program that runs.
pub struct Started {
    /// What it writes to its standard output.
    pub stdout: Reader,
    /// What it writes to its standard error.
    pub stderr: Reader,
    /// What it writes to the descriptor for framed log lines, where it has one.
    pub framed: Option<Reader>,
    /// The program itself.
    pub process: Box<dyn Running>,
}

/// What a program writes.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// A program that runs, to be waited for.
pub trait Running: Send + Sync {
    /// Waits for its end. May be given up and called again.
    fn wait(&mut self) -> BoxFuture<'_, Exit>;

    /// Sends it a signal, by its number.
    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<(), Error>>;
}

impl Place for Sandbox {
    fn listen(&self) -> BoxFuture<'_, Result<(TcpListener, SocketAddr), Error>> {
        self.listen().boxed()
    }

    fn admits(&self, peer: SocketAddr, ours: SocketAddr) -> BoxFuture<'_, bool> {
        self.admits(peer, ours).boxed()
    }

    fn connect(&self, port: u16) -> BoxFuture<'_, io::Result<TcpStream>> {
        self.connect(port).boxed()
    }

    fn list<'a>(&'a self, directory: &'a str) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        self.list(directory).boxed()
    }

    fn has_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        self.has_file(path).boxed()
    }

    fn spawn<'a>(&'a self, program: &'a Program) -> BoxFuture<'a, Result<Started, SpawnError>> {
        async move {
            let Process {
                stdout,
                stderr,
                framed,
                handle,
            } = self.spawn(program).await?;
            Ok(Started {
                stdout: Box::new(stdout),
                stderr: Box::new(stderr),
                framed: framed.map(|framed| Box::new(framed) as Reader),
                process: Box::new(handle),
            })
        }
        .boxed()
    }

    fn kill_all(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.kill_all().boxed()
    }

    fn memory(&self) -> BoxFuture<'_, Memory> {
        self.memory().boxed()
    }

    fn watch(&self, closely: bool) -> BoxFuture<'_, ()> {
        self.watch(closely).boxed()
    }

    fn is_gone(&self) -> bool {
        self.is_gone()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        self.clone().end().boxed()
    }
}

impl Running for Handle {
    fn wait(&mut self) -> BoxFuture<'_, Exit> {
        self.wait().boxed()
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<(), Error>> {
        self.signal(signal).boxed()
    }
}
