//! The platform's own words for what goes wrong: types of errors, and the documents that a caller is given.
//!
//! Plain text from plain facts; when something counts as wrong is decided elsewhere.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::states::Fatal;
use super::states::MAX_EXTENSIONS;
use crate::lambda::sandbox::Error;
use crate::lambda::sandbox::Exit;
use crate::lambda::sandbox::SpawnError;

/// The most bytes of a response that is not streamed: six mebibytes, and room for an envelope.
pub(super) const MAX_RESPONSE: usize = crate::lambda::function::MAX_PAYLOAD + 100;
/// The most bytes of a response that is streamed.
pub(super) const MAX_STREAMED_RESPONSE: usize = 200 << 20;

/// Why an environment failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The platform's word for it.
    pub error_type: String,
    /// What happened, as it follows `RequestId: … Error: `.
    pub message: String,
    /// The runtime's own document, which goes before the platform's.
    pub document: Option<Bytes>,
    /// How the platform's reports count it.
    pub status: Status,
}

/// Why something came to an end.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The function or an extension failed.
    Function(Failure),
    /// The place did, or the machine: the function has nothing to do with it.
    Place(Error),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Function(failure)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Place(error)
    }
}

impl From<SpawnError> for Stopped {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::WorkingDir { path, source } => Self::Function(Failure::new(
                "Runtime.InvalidWorkingDir",
                format!("chdir {path}: {}", reason(&source)),
            )),
            SpawnError::Exec { path, source } => Self::Function(Failure::new(
                "Runtime.InvalidEntrypoint",
                format!("fork/exec {path}: {}", reason(&source)),
            )),
            SpawnError::Sandbox(error) => Self::Place(error),
        }
    }
}

/// How something went, in the platform's reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Well.
    Success,
    /// The function says that it failed.
    Error,
    /// A process ended.
    Failure,
    /// Time was over.
    Timeout,
}

impl Status {
    /// The word for it in events.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
        }
    }

    /// The word for it in lines of text, which know no third one.
    pub(super) fn line_word(self) -> &'static str {
        match self {
            Self::Failure => "error",
            other => other.word(),
        }
    }
}

impl Failure {
    fn new(error_type: &str, message: String) -> Self {
        Self {
            error_type: error_type.to_owned(),
            message,
            document: None,
            status: Status::Failure,
        }
    }

    /// A call or an INIT that took too long.
    pub(super) fn timeout(timeout: Duration) -> Self {
        Self {
            status: Status::Timeout,
            ..Self::new("Sandbox.Timedout", timed_out(timeout))
        }
    }

    /// What the states hold for the end. `out_of_memory` is whether the memory's limit was met meanwhile.
    pub(super) fn fatal(fatal: Fatal, out_of_memory: bool) -> Self {
        match fatal {
            Fatal::InitError(posted) => Self {
                document: Some(posted.document),
                status: Status::Error,
                ..Self::new(&posted.error_type, String::new())
            },
            Fatal::RuntimeExit(exit) if out_of_memory => {
                Self::new("Runtime.OutOfMemory", runtime_exited(exit))
            }
            Fatal::RuntimeExit(exit) => Self::new("Runtime.ExitError", runtime_exited(exit)),
            Fatal::ExtensionInit(error_type) => Self::new("Extension.InitError", error_type),
            Fatal::ExtensionExit(error_type) => Self::new("Extension.ExitError", error_type),
            Fatal::ExtensionLaunch(error) => Self::new("Extension.LaunchError", error),
            Fatal::ExtensionCrash(exit) if out_of_memory => {
                Self::new("Runtime.OutOfMemory", exit_status(exit))
            }
            Fatal::ExtensionCrash(exit) => Self::new("Extension.Crash", exit_status(exit)),
        }
    }

    /// More extensions than there may be.
    pub(super) fn too_many_extensions() -> Self {
        Self::new(
            "Extension.TooManyExtensions",
            format!("Extension limit ({MAX_EXTENSIONS}) reached"),
        )
    }

    /// A response that broke off on its way to the caller.
    pub(super) fn truncated() -> Self {
        Self {
            status: Status::Error,
            ..Self::new(
                "Runtime.TruncatedResponse",
                "Response was truncated".to_owned(),
            )
        }
    }

    /// A response of more bytes than the limit.
    pub(super) fn too_large(limit: usize) -> Self {
        Self {
            status: Status::Error,
            document: Some(document(
                "Function.ResponseSizeTooLarge",
                &format!(
                    "Response payload size exceeded maximum allowed payload size ({limit} bytes)."
                ),
            )),
            ..Self::new("Function.ResponseSizeTooLarge", String::new())
        }
    }

    /// The document for the caller of a request.
    pub(super) fn document(&self, request_id: &str) -> Bytes {
        self.document.clone().unwrap_or_else(|| {
            let message = format!("RequestId: {request_id} Error: {}", self.message);
            document(&self.error_type, &message)
        })
    }
}

/// A document of an error.
pub(super) fn document(error_type: &str, message: &str) -> Bytes {
    // Fields in the platform's order, which a value of JSON does not keep.
    Bytes::from(format!(
        r#"{{"errorType":{},"errorMessage":{}}}"#,
        Value::from(error_type),
        Value::from(message)
    ))
}

/// What is said of a call that took too long.
pub(super) fn timed_out(timeout: Duration) -> String {
    format!("Task timed out after {:.2} seconds", timeout.as_secs_f64())
}

fn runtime_exited(exit: Exit) -> String {
    match exit {
        Exit::Code(0) => "Runtime exited without providing a reason".to_owned(),
        other => format!("Runtime exited with error: {}", exit_status(other)),
    }
}

fn exit_status(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("signal: {}", signal_name(signal)),
    }
}

/// What Go's `os` calls a signal, whose words the platform's are.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// An operating system's error in the words of Go's `syscall`.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// The type of a runtime's error as the platform takes it: only what names its origin and a reason is told on.
pub(super) fn runtime_error_type(given: Option<&str>) -> String {
    let given = given.unwrap_or_default();
    let reason = given
        .strip_prefix("Runtime.")
        .or_else(|| given.strip_prefix("Function."));
    let is_word = |word: &str| {
        word.len() > 1
            && word.starts_with(|letter: char| letter.is_ascii_uppercase())
            && word.chars().all(|letter| letter.is_ascii_alphabetic())
    };
    match reason {
        Some(word) if is_word(word) => given.to_owned(),
        _ if given.starts_with("Function.") => "Function.Unknown".to_owned(),
        _ => "Runtime.Unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_types_are_taken_by_their_form() {
        let types = [
            ("Runtime.ImportModuleError", "Runtime.ImportModuleError"),
            ("Function.Oops", "Function.Oops"),
            ("Function.oops", "Function.Unknown"),
            ("Runtime.X", "Runtime.Unknown"),
            ("Runtime.No1", "Runtime.Unknown"),
            ("KeyError", "Runtime.Unknown"),
            ("", "Runtime.Unknown"),
        ];
        for (given, taken) in types {
            assert_eq!(runtime_error_type(Some(given)), taken, "{given}");
        }
        assert_eq!(runtime_error_type(None), "Runtime.Unknown");
    }

    fn said(failure: &Failure) -> String {
        String::from_utf8(failure.document("ID").to_vec()).unwrap()
    }

    #[test]
    fn ends_are_told_in_the_platforms_words() {
        let exits = [
            (Exit::Code(1), "Runtime exited with error: exit status 1"),
            (Exit::Code(0), "Runtime exited without providing a reason"),
            (Exit::Signal(9), "Runtime exited with error: signal: killed"),
        ];
        for (exit, words) in exits {
            let failure = Failure::fatal(Fatal::RuntimeExit(exit), false);
            assert_eq!(
                said(&failure),
                format!(
                    r#"{{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: {words}"}}"#
                )
            );
        }
        let memory = Failure::fatal(Fatal::RuntimeExit(Exit::Signal(9)), true);
        assert_eq!(memory.error_type, "Runtime.OutOfMemory");
        assert_eq!(
            said(&Failure::timeout(Duration::from_millis(2500))),
            r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: ID Error: Task timed out after 2.50 seconds"}"#
        );
        let refused = |error: SpawnError| match Stopped::from(error) {
            Stopped::Function(failure) => failure,
            Stopped::Place(error) => panic!("{error}"),
        };
        let missing = SpawnError::Exec {
            path: "/entry".to_owned(),
            source: std::io::Error::from_raw_os_error(2),
        };
        assert_eq!(
            said(&refused(missing)),
            r#"{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: ID Error: fork/exec /entry: no such file or directory"}"#
        );
        let nowhere = SpawnError::WorkingDir {
            path: "/none".to_owned(),
            source: std::io::Error::from_raw_os_error(13),
        };
        assert_eq!(
            said(&refused(nowhere)),
            r#"{"errorType":"Runtime.InvalidWorkingDir","errorMessage":"RequestId: ID Error: chdir /none: permission denied"}"#
        );
    }
}
