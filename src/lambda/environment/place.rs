//! Where an environment's programs run, as the environment needs it: a sandbox, or in tests what stands for one.
//!
//! It says nothing of how programs are kept apart, and nothing of what Lambda tells them.

use std::io;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::lambda::sandbox::Exit;
use crate::lambda::sandbox::Program;

/// A place to run programs in.
pub trait Place: Send + Sync {
    /// Listens where the place's programs can connect, by the address that is given with it.
    fn listen(&self) -> BoxFuture<'_, io::Result<(TcpListener, SocketAddr)>>;

    /// Connects to a port on which one of the place's programs listens.
    fn connect(&self, port: u16) -> BoxFuture<'_, io::Result<TcpStream>>;

    /// The names of the files that are directly in a directory, in order; none where there is no such directory.
    fn list<'a>(&'a self, directory: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>>;

    /// Starts a program.
    fn spawn<'a>(&'a self, program: &'a Program) -> BoxFuture<'a, Result<Started, Refusal>>;

    /// Ends every program at once, and waits until they are gone.
    fn kill_all(&self) -> BoxFuture<'_, io::Result<()>>;

    /// The memory in use.
    fn memory(&self) -> Usage;
}

/// The memory that a place's programs use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most in use since the place was made, in bytes.
    pub most: u64,
    /// How often programs were ended for want of memory.
    pub limit_hits: u64,
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

    /// Asks it to end: `SIGTERM`.
    fn terminate(&self) -> BoxFuture<'_, io::Result<()>>;

    /// Ends it at once, with its descendants as far as they are known: `SIGKILL`.
    fn kill(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its working directory cannot be entered.
    #[error("chdir {path}: {source}")]
    WorkingDir {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It cannot be executed.
    #[error("exec {path}: {source}")]
    Exec {
        /// The program.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The place itself fails.
    #[error("{0}")]
    Place(String),
}
