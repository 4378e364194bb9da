//! What an environment tells about itself: the log with its lines of the platform, its tail, and the same as events.
//!
//! It knows how things are said, in text and in JSON, and not why they happened. Telemetry takes the events from here.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use serde_json::json;

use super::VERSION;
use super::documents::Status;
use super::states::Events;
use super::telemetry::Record;
use super::telemetry::Stream;
use super::telemetry::Telemetry;
use crate::lambda::function::Clock;
use crate::lambda::function::Function;
use crate::lambda::function::Log;
use crate::lambda::function::LogFormat;

/// How much of a call's log its caller is given, in bytes.
const TAIL: usize = 4 << 10;

/// What the platform tells.
pub(super) enum Told<'a> {
    /// INIT begins.
    InitStart { phase: &'static str },
    /// The runtime asked for its first event, or failed to.
    InitRuntimeDone {
        phase: &'static str,
        status: Status,
        error_type: Option<&'a str>,
    },
    /// INIT is over.
    InitReport {
        phase: &'static str,
        duration: Duration,
        status: Status,
        error_type: Option<&'a str>,
    },
    /// How far an extension came.
    Extension {
        name: &'a str,
        state: &'a str,
        events: Events,
        error_type: Option<&'a str>,
    },
    /// An extension takes telemetry.
    Subscription { name: &'a str, types: &'a [Stream] },
    /// A call begins.
    Start {
        request_id: &'a str,
        trace_id: &'a str,
    },
    /// The runtime is through with a call.
    RuntimeDone {
        request_id: &'a str,
        trace_id: &'a str,
        status: Status,
        error_type: Option<&'a str>,
        duration: Duration,
        produced: usize,
    },
    /// A call is over.
    Report(&'a CallReport<'a>),
}

/// What is told of a call that is over.
pub(super) struct CallReport<'a> {
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub status: Status,
    pub error_type: Option<&'a str>,
    /// Whether the environment failed, and not only what the function answered.
    pub has_failed: bool,
    pub duration: Duration,
    pub init: Option<Duration>,
    /// In megabytes.
    pub memory_size: u32,
    /// In megabytes.
    pub memory_used: u64,
}

impl CallReport<'_> {
    /// Begun milliseconds count whole, and so does the INIT that a call waited for.
    fn billed_ms(&self) -> u128 {
        let billed = self.duration + self.init.unwrap_or_default();
        billed.as_micros().div_ceil(1000)
    }
}

/// The log of an environment.
pub(super) struct Journal {
    log: Log,
    clock: Clock,
    format: LogFormat,
    name: String,
    memory: u32,
    tail: Mutex<Vec<u8>>,
    /// Who takes it as events.
    pub(super) telemetry: Telemetry,
}

impl Journal {
    /// The log of a function.
    pub(super) fn new(function: &Function, log: Log, clock: Clock) -> Self {
        Self {
            log,
            clock,
            format: function.log_format,
            name: function.name.clone(),
            memory: function.memory,
            tail: Mutex::default(),
            telemetry: Telemetry::new(clock),
        }
    }

    /// What the function writes: a line, or a piece that holds several.
    pub(super) fn function(&self, text: &[u8]) {
        self.written(Stream::Function, text);
    }

    /// What an extension writes.
    pub(super) fn extension(&self, text: &[u8]) {
        self.written(Stream::Extension, text);
    }

    fn written(&self, stream: Stream, text: &[u8]) {
        self.write(text);
        let text = String::from_utf8_lossy(text);
        let document = match self.format {
            LogFormat::Json => serde_json::from_str(&text).ok().filter(Value::is_object),
            LogFormat::Text => None,
        };
        let record = document.unwrap_or_else(|| Value::from(text.as_ref()));
        let record = self.record(stream.word(), record);
        self.telemetry.publish(stream, &record);
    }

    /// What the platform tells, in the log's own form.
    pub(super) fn tell(&self, told: &Told<'_>) {
        let (kind, record) = event(told, self);
        let record = self.record(kind, record);
        match self.format {
            LogFormat::Json => self.write(record.json().as_bytes()),
            LogFormat::Text => {
                for line in text(told) {
                    self.write(line.as_bytes());
                }
            }
        }
        self.telemetry.publish(Stream::Platform, &record);
    }

    /// A line of the platform's that is no event.
    pub(super) fn remark(&self, line: &str) {
        self.write(line.as_bytes());
    }

    fn record(&self, kind: &'static str, record: Value) -> Record {
        Record {
            time: self.now(),
            kind,
            content: record,
        }
    }

    /// The time, as the platform writes it.
    pub(super) fn now(&self) -> String {
        humantime::format_rfc3339_millis((self.clock)()).to_string()
    }

    fn write(&self, text: &[u8]) {
        let mut line = text.to_vec();
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&line);
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
        // Under the lock, so that lines come in one order everywhere.
        self.log.write(&line);
    }

    /// The end of what was written since the last time that somebody asked.
    pub(super) fn take_tail(&self) -> Bytes {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        Bytes::from(std::mem::take(&mut *tail))
    }
}

/// What is told, as an event of the Telemetry API's schema of 2022-12-13.
fn event(told: &Told<'_>, journal: &Journal) -> (&'static str, Value) {
    match told {
        Told::InitStart { phase } => (
            "platform.initStart",
            json!({
                "initializationType": "on-demand",
                "phase": phase,
                "functionName": journal.name,
                "functionVersion": VERSION,
                "instanceMaxMemory": u64::from(journal.memory) << 20,
            }),
        ),
        Told::InitRuntimeDone {
            phase,
            status,
            error_type,
        } => (
            "platform.initRuntimeDone",
            with_error(
                json!({
                    "initializationType": "on-demand",
                    "phase": phase,
                    "status": status.word(),
                }),
                *error_type,
            ),
        ),
        Told::InitReport {
            phase,
            duration,
            status,
            error_type,
        } => (
            "platform.initReport",
            with_error(
                json!({
                    "initializationType": "on-demand",
                    "phase": phase,
                    "status": status.word(),
                    "metrics": {"durationMs": milliseconds(*duration)},
                }),
                *error_type,
            ),
        ),
        Told::Extension {
            name,
            state,
            events,
            error_type,
        } => (
            "platform.extension",
            with_error(
                json!({"name": name, "state": state, "events": events.names()}),
                *error_type,
            ),
        ),
        Told::Subscription { name, types } => (
            "platform.telemetrySubscription",
            json!({
                "name": name,
                "state": "Subscribed",
                "types": types.iter().map(|stream| stream.word()).collect::<Vec<_>>(),
            }),
        ),
        Told::Start {
            request_id,
            trace_id,
        } => (
            "platform.start",
            json!({"requestId": request_id, "version": VERSION, "tracing": tracing(trace_id)}),
        ),
        Told::RuntimeDone {
            request_id,
            trace_id,
            status,
            error_type,
            duration,
            produced,
        } => (
            "platform.runtimeDone",
            with_error(
                json!({
                    "requestId": request_id,
                    "status": status.word(),
                    "tracing": tracing(trace_id),
                    "metrics": {"durationMs": milliseconds(*duration), "producedBytes": produced},
                }),
                *error_type,
            ),
        ),
        Told::Report(report) => ("platform.report", report_event(report)),
    }
}

fn report_event(report: &CallReport<'_>) -> Value {
    let mut metrics = json!({
        "durationMs": milliseconds(report.duration),
        "billedDurationMs": u64::try_from(report.billed_ms()).unwrap_or(u64::MAX),
        "memorySizeMB": report.memory_size,
        "maxMemoryUsedMB": report.memory_used,
    });
    if let Some(init) = report.init {
        metrics["initDurationMs"] = milliseconds(init);
    }
    with_error(
        json!({
            "requestId": report.request_id,
            "status": report.status.word(),
            "tracing": tracing(report.trace_id),
            "metrics": metrics,
        }),
        report.error_type,
    )
}

fn with_error(mut record: Value, error_type: Option<&str>) -> Value {
    if let Some(error_type) = error_type {
        record["errorType"] = Value::from(error_type);
    }
    record
}

fn tracing(trace_id: &str) -> Value {
    json!({"type": "X-Amzn-Trace-Id", "value": trace_id})
}

/// Thousandths of a second with three digits after the point.
fn milliseconds(duration: Duration) -> Value {
    let thousandths = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    Value::from(f64::from(thousandths) / 1000.0)
}

/// What is told, as the lines of a log of text. What goes well during INIT is not in it.
fn text(told: &Told<'_>) -> Vec<String> {
    match told {
        Told::InitStart { .. } | Told::InitRuntimeDone { .. } | Told::RuntimeDone { .. } => {
            Vec::new()
        }
        Told::InitReport {
            status: Status::Success,
            ..
        } => Vec::new(),
        Told::InitReport {
            phase,
            duration,
            status,
            error_type,
        } => {
            let error_type = error_type.filter(|_| *status != Status::Timeout);
            let error = error_type.map(|word| format!("\tError Type: {word}"));
            vec![format!(
                "INIT_REPORT Init Duration: {} ms\tPhase: {phase}\tStatus: {}{}",
                two_digits(*duration),
                status.line_word(),
                error.unwrap_or_default()
            )]
        }
        Told::Extension {
            name,
            state,
            events,
            error_type,
        } => {
            let error = error_type.map(|word| format!("\tError Type: {word}"));
            vec![format!(
                "EXTENSION\tName: {name}\tState: {state}\tEvents: [{events}]{}",
                error.unwrap_or_default()
            )]
        }
        Told::Subscription { name, types } => {
            let types = types.iter().map(|stream| stream.title());
            let types = types.collect::<Vec<_>>().join(", ");
            vec![format!(
                "TELEMETRY\tName: {name}\tState: Subscribed\tTypes: [{types}]"
            )]
        }
        Told::Start { request_id, .. } => {
            vec![format!("START RequestId: {request_id} Version: {VERSION}")]
        }
        Told::Report(report) => vec![
            format!("END RequestId: {}", report.request_id),
            report_line(report),
        ],
    }
}

fn report_line(report: &CallReport<'_>) -> String {
    let mut parts = vec![
        format!("REPORT RequestId: {}", report.request_id),
        format!("Duration: {} ms", two_digits(report.duration)),
        format!("Billed Duration: {} ms", report.billed_ms()),
        format!("Memory Size: {} MB", report.memory_size),
        format!("Max Memory Used: {} MB", report.memory_used),
    ];
    if let Some(init) = report.init {
        parts.push(format!("Init Duration: {} ms", two_digits(init)));
    }
    // What the function itself calls an error is no failure of the platform's.
    if report.has_failed {
        parts.push(format!("Status: {}", report.status.line_word()));
        let error_type = report
            .error_type
            .filter(|_| report.status != Status::Timeout);
        parts.extend(error_type.map(|error_type| format!("Error Type: {error_type}")));
    }
    parts.join("\t")
}

fn two_digits(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lambda::environment::testing;

    fn journal(format: LogFormat) -> (Journal, Arc<Mutex<Vec<u8>>>) {
        let (log, text) = testing::log();
        let function = Function {
            log_format: format,
            ..testing::function()
        };
        (Journal::new(&function, log, testing::clock), text)
    }

    fn written(text: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(text.lock().unwrap().clone()).unwrap()
    }

    fn tell_all(journal: &Journal) {
        journal.tell(&Told::InitStart { phase: "init" });
        journal.tell(&Told::InitReport {
            phase: "init",
            duration: Duration::from_micros(12_345),
            status: Status::Failure,
            error_type: Some("Runtime.ExitError"),
        });
        journal.tell(&Told::Extension {
            name: "watch",
            state: "Ready",
            events: Events {
                invoke: true,
                shutdown: true,
            },
            error_type: None,
        });
        journal.tell(&Told::Start {
            request_id: "ID",
            trace_id: "Root=1",
        });
        journal.function(b"hello");
        let report = CallReport {
            request_id: "ID",
            trace_id: "Root=1",
            status: Status::Success,
            error_type: None,
            has_failed: false,
            duration: Duration::from_micros(1_831),
            init: Some(Duration::from_micros(100_100)),
            memory_size: 128,
            memory_used: 31,
        };
        journal.tell(&Told::Report(&report));
        journal.tell(&Told::Report(&CallReport {
            status: Status::Failure,
            error_type: Some("Runtime.ExitError"),
            has_failed: true,
            init: None,
            ..report
        }));
    }

    #[test]
    fn the_log_is_text() {
        let (journal, text) = journal(LogFormat::Text);
        tell_all(&journal);
        insta::assert_snapshot!(written(&text));
    }

    #[test]
    fn the_log_is_json() {
        let (journal, text) = journal(LogFormat::Json);
        tell_all(&journal);
        insta::assert_snapshot!(written(&text));
    }

    #[test]
    fn the_tail_is_the_end_of_a_call() {
        let (journal, _) = journal(LogFormat::Text);
        for number in 0..1000 {
            journal.function(format!("line {number:04}").as_bytes());
        }
        let tail = journal.take_tail();
        assert_eq!(tail.len(), TAIL);
        assert!(tail.ends_with(b"line 0999\n"));
        assert!(journal.take_tail().is_empty());
    }
}
