//! A function as Lambda would know it, what it is called with, and what comes of a call.
//!
//! Plain values between whoever calls and whoever runs. How it runs, and where its files lie, is not known here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

/// The largest event and the largest response of a call that waits, in bytes.
pub const MAX_PAYLOAD: usize = 6 << 20;
/// The largest event of a call that does not wait, in bytes.
pub const MAX_ASYNC_PAYLOAD: usize = 1 << 20;
/// The longest client context, in the letters of base64 that it is sent in.
pub const MAX_CLIENT_CONTEXT: usize = 3583;
/// The memory that Lambda gives where nothing is said, in megabytes.
pub const DEFAULT_MEMORY: u32 = 128;
/// The time that Lambda gives where nothing is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// The most memory, in megabytes.
pub const MAX_MEMORY: u32 = 10_240;
/// The most time.
pub const MAX_TIMEOUT: Duration = Duration::from_mins(15);

/// The most that a function's own variables take, in bytes of their JSON.
pub const MAX_VARIABLES: usize = 4 << 10;
/// Variables whose values Lambda decides: it takes no function whose configuration names one.
pub const RESERVED: [&str; 21] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_REGION",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_METADATA_API",
    "AWS_LAMBDA_METADATA_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];

/// Tells the time: the library has no clock of its own.
pub type Clock = fn() -> SystemTime;

/// A function.
#[derive(Clone)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its account's number.
    pub account: String,
    /// Its region.
    pub region: String,
    /// Its memory, in megabytes.
    pub memory: u32,
    /// How long a call may take.
    pub timeout: Duration,
    /// What is executed: the image's entry point and command in one.
    pub command: Vec<String>,
    /// The handler where the command names one: its only element beside the entry point.
    pub handler: Option<String>,
    /// The working directory.
    pub working_dir: String,
    /// The image's variables.
    pub image_variables: BTreeMap<String, String>,
    /// The variables of the function's configuration, which win over the image's.
    pub variables: BTreeMap<String, String>,
    /// The log's form: AWS's text, or lines of JSON.
    pub log_format: LogFormat,
}

/// Without the variables' values, which may be secrets.
impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .field("command", &self.command)
            .field("variables", &self.variables.keys())
            .finish_non_exhaustive()
    }
}

impl Function {
    /// The ARN that a call is made by.
    pub fn arn(&self) -> String {
        let Self {
            name,
            account,
            region,
            ..
        } = self;
        format!("arn:aws:lambda:{region}:{account}:function:{name}")
    }

    /// A header of X-Ray's for a call at the time `now`, as Lambda makes it where the caller gives none.
    pub fn trace_id(&self, now: SystemTime) -> String {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let random = || Uuid::new_v4().simple().to_string();
        // Which function it was passed on by, and how often it came by there.
        let lineage = crc32fast::hash(self.arn().as_bytes());
        format!(
            "Root=1-{seconds:08x}-{};Parent={};Sampled=0;Lineage=1:{lineage:08x}:0",
            &random()[..24],
            &random()[..16]
        )
    }
}

/// The form of a function's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines as they are written, with START, END and REPORT.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A call.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    /// Its identifier, where the caller has told somebody already; else one is made.
    pub request_id: Option<String>,
    /// The event.
    pub event: Bytes,
    /// The client's context as JSON, decoded.
    pub client_context: Option<String>,
    /// The identity of Cognito's as JSON.
    pub cognito_identity: Option<String>,
    /// X-Ray's header.
    pub trace_id: Option<String>,
    /// The caller's tenant.
    pub tenant_id: Option<String>,
    /// Takes a response that the runtime streams, piece by piece as it comes: no part of it is in the outcome then.
    /// The runtime waits while it is full; who drops the other end loses the rest, and the call goes on.
    pub pieces: Option<mpsc::Sender<Bytes>>,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The identifier of the call.
    pub request_id: String,
    /// What the function answered, if not in pieces, or the error's document.
    pub payload: Bytes,
    /// The content type that the runtime gave.
    pub content_type: Option<String>,
    /// Whether the payload is an error's document.
    pub is_error: bool,
    /// The last 4 KiB of the call's log.
    pub log_tail: Bytes,
    /// What it took.
    pub report: Report,
}

/// What a call took.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// From the event to the end.
    pub duration: Duration,
    /// How long the environment took to start, where this call waited for that.
    pub init: Option<Duration>,
    /// The most memory in use, in bytes.
    pub memory: u64,
    /// Why it failed, in the platform's words: `Runtime.ExitError`.
    pub error_type: Option<String>,
}

/// Takes a function's log, a line or more at a time, as it is written.
#[derive(Clone)]
pub struct Log(Arc<Lines>);

type Lines = dyn Fn(&[u8]) + Send + Sync;

impl Log {
    /// A log that goes there. What is given ends at a line's end.
    pub fn new(to: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(to))
    }

    /// Writes lines.
    pub fn write(&self, lines: &[u8]) {
        (self.0)(lines);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Log")
    }
}
