//! Where a function runs on this machine: an image's files, read-only, in namespaces of their own, without root.
//!
//! Whoever owns a sandbox speaks over one socket with its first process, which is this program again (see `init`):
//! when the socket closes, however that comes, that process ends, and the kernel ends all others with it. What
//! Lambda says to a function, and when, is not known here.

#[cfg(target_os = "linux")]
mod control;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod owner;
#[cfg(target_os = "linux")]
mod peers;

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Handle, Process, Sandbox, run_helper};
#[cfg(target_os = "linux")]
pub use init::run as run_helper;
#[cfg(target_os = "linux")]
pub use owner::{Handle, Process, Sandbox};

/// The first argument by which this program knows that it is a sandbox's helper; [`run_helper`] is all that it does
/// then.
pub const HELPER: &str = "sandbox-init";
/// The user that a function is, inside.
pub const USER: u32 = 993;
/// The group that a function is in, inside.
pub const GROUP: u32 = 990;
/// The variable that names the descriptor for framed log lines.
pub const FRAMED_LOG: &str = "_LAMBDA_TELEMETRY_LOG_FD";

/// As many layers as lie under one another: the kernel's overlays have 500, of which one is the sandbox's own.
pub const MAX_LAYERS: usize = 499;

/// What a sandbox is made of. All paths are absolute: the helper has another working directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The image's layers as directories, lowest first, as [`crate::oci::unpack`] makes them.
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
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Program {
    /// What is executed, and its arguments. A name without a slash is looked for on the variables' `PATH`.
    pub command: Vec<String>,
    /// All its variables.
    pub variables: Vec<(String, String)>,
    /// Its working directory, in the image.
    pub working_dir: String,
    /// Whether it gets a descriptor for framed log lines; the variable that names it is set then.
    pub framed_log: bool,
}

/// Without the variables' values, which may be secrets.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variables.iter().map(|(name, _)| name).collect();
        f.debug_struct("Program")
            .field("command", &self.command)
            .field("variables", &names)
            .field("working_dir", &self.working_dir)
            .field("framed_log", &self.framed_log)
            .finish()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The memory of a sandbox's processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use, in bytes.
    pub now: u64,
    /// The most in use since the first program was started, or the first after all were ended, in bytes.
    pub most: u64,
    /// How many processes were killed because the limit was passed.
    pub kills: u32,
}

/// Why there is no sandbox, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This is another system.
    #[error("an image's programs run on Linux alone")]
    NotLinux,
    /// The helper could not be executed.
    #[error("cannot execute `{}`", path.display())]
    Helper {
        /// The helper.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This user may not make user namespaces here.
    #[error("this user may make no user namespaces on this machine")]
    NoUserNamespaces {
        /// The kernel's setting that forbids it, as `sysctl` names it; none where something else does, as the
        /// filter of a container.
        setting: Option<&'static str>,
        /// Why.
        source: io::Error,
    },
    /// Something could not be mounted in the sandbox.
    #[error("cannot mount {what} in a sandbox")]
    Mount {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Another step of making it failed.
    #[error("cannot {action} for a sandbox")]
    Setup {
        /// The step, as `set the host's name`.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// The sandbox did not do what it was asked for.
    #[error("the sandbox cannot {action}")]
    Refused {
        /// What it was asked for.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The sandbox has ended.
    #[error("the sandbox has ended")]
    Gone,
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its working directory cannot be entered: Lambda's `Runtime.InvalidWorkingDir`.
    #[error("cannot enter `{path}`")]
    WorkingDir {
        /// The directory, in the image.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It cannot be executed: Lambda's `Runtime.InvalidEntrypoint`.
    #[error("cannot execute `{path}`")]
    Exec {
        /// The program, as it was given.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_not_shown() {
        let program = Program {
            variables: vec![("NAME".to_owned(), "secret".to_owned())],
            ..Program::default()
        };
        let shown = format!("{program:?}");
        assert!(
            shown.contains("NAME") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
