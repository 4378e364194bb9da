//! Where a function runs on this machine: an image's files, read-only, in namespaces of their own, without root.
//!
//! What Lambda says to a function, and when, is not known here.

use std::path::PathBuf;

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The image's layers as directories, lowest first.
    pub layers: Vec<PathBuf>,
    /// A directory for empty places that are mounted over, the same for every sandbox; made where it is not there.
    pub places: PathBuf,
    /// The memory of all its processes, in bytes.
    pub memory: u64,
    /// The room in `/tmp`, in bytes.
    pub tmp: u64,
    /// Whether it has the machine's network; without, it has a loopback device of its own.
    pub network: bool,
}

/// A program to start in a sandbox.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// What is executed, and its arguments.
    pub command: Vec<String>,
    /// All its variables.
    pub variables: Vec<(String, String)>,
    /// Its working directory, in the image.
    pub working_dir: String,
    /// Whether it gets a descriptor for framed log lines; the variable that names it is set then.
    pub framed_log: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}
