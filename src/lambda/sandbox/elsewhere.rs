//! What stands for a sandbox on systems that have none.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use tokio::net::unix::pipe::Receiver;
use tokio::net::{TcpListener, TcpStream};

use super::{Error, Exit, Memory, Program, SpawnError, Spec};

/// Never called here.
pub fn run_helper(_stage: Option<&OsStr>) -> ExitCode {
    ExitCode::FAILURE
}

/// Does not exist here.
#[derive(Debug, Clone)]
pub struct Sandbox(Infallible);

#[allow(clippy::unused_async, missing_docs, reason = "as on Linux")]
impl Sandbox {
    /// # Errors
    /// Always.
    pub async fn start(_helper: &Path, _spec: &Spec) -> Result<Self, Error> {
        Err(Error::NotLinux)
    }

    /// # Errors
    /// Never called.
    pub async fn spawn(&self, _program: &Program) -> Result<Process, SpawnError> {
        match self.0 {}
    }

    /// # Errors
    /// Never called.
    pub async fn listen(&self) -> Result<(TcpListener, SocketAddr), Error> {
        match self.0 {}
    }

    pub async fn admits(&self, _peer: SocketAddr, _ours: SocketAddr) -> bool {
        match self.0 {}
    }

    /// # Errors
    /// Never called.
    pub async fn connect(&self, _port: u16) -> io::Result<TcpStream> {
        match self.0 {}
    }

    /// # Errors
    /// Never called.
    pub async fn list(&self, _directory: &str) -> Result<Vec<String>, Error> {
        match self.0 {}
    }

    /// # Errors
    /// Never called.
    pub async fn has_file(&self, _path: &str) -> Result<bool, Error> {
        match self.0 {}
    }

    /// # Errors
    /// Never called.
    pub async fn kill_all(&self) -> Result<(), Error> {
        match self.0 {}
    }

    pub async fn memory(&self) -> Memory {
        match self.0 {}
    }

    pub async fn watch(&self, _closely: bool) {
        match self.0 {}
    }

    pub fn is_gone(&self) -> bool {
        match self.0 {}
    }

    pub async fn end(self) {
        match self.0 {}
    }
}

/// Does not exist here.
#[derive(Debug)]
pub struct Process {
    /// What it writes.
    pub stdout: Receiver,
    /// What it writes of errors.
    pub stderr: Receiver,
    /// Its framed log.
    pub framed: Option<Receiver>,
    /// The program itself.
    pub handle: Handle,
}

/// Does not exist here.
#[derive(Debug)]
pub struct Handle(Infallible);

#[allow(clippy::unused_async, missing_docs, reason = "as on Linux")]
impl Handle {
    pub async fn wait(&mut self) -> Exit {
        match self.0 {}
    }

    /// # Errors
    /// Never called.
    pub async fn signal(&self, _signal: i32) -> Result<(), Error> {
        match self.0 {}
    }
}
