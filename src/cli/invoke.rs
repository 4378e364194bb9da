//! The verb `invoke`: calls a function that runs here, in the order of its events.

use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use lambimg::lambda::fleet::Fleet;
use lambimg::lambda::function::Invocation;

use crate::Arguments;
use crate::events::{self, Events};
use crate::failure::{self, Failure};
use crate::running::{Run, RunArguments};
use crate::signals::until_stopped;
use crate::terminal::Terminal;

#[derive(Debug, Args)]
pub(crate) struct InvokeArguments {
    #[command(flatten)]
    run: RunArguments,

    #[command(flatten)]
    events: Events,

    /// As many calls at once, each in an environment of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,

    /// The client's context: a JSON object, or the file that has it
    #[arg(long, value_name = "JSON|FILE")]
    client_context: Option<String>,
}

/// Calls, and prints what comes back.
pub(crate) fn invoke(
    arguments: &Arguments,
    wanted: &InvokeArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let run = Run::new(arguments, &wanted.run, terminal)?;
    let calls = wanted.calls(terminal)?;
    until_stopped(Failure::calls_signalled, async |stop| {
        let ready = stop.unless(run.ready()).await??;
        let fleet = ready.fleet(wanted.concurrency, terminal);
        let done = stop
            .unless(call(&fleet, calls, wanted.concurrency, terminal))
            .await;
        if matches!(done, Ok(Ok(_))) {
            // Nothing of the calls is lost where a signal gives this up: extensions have less time.
            let _ = stop.unless(fleet.wind_down()).await;
        }
        fleet.end().await;
        Ok(if done?? {
            ExitCode::from(failure::REFUSED)
        } else {
            ExitCode::SUCCESS
        })
    })?
}

/// Makes the calls, and prints each response when those before it are printed; whether any was an error.
async fn call(
    fleet: &Fleet,
    calls: Vec<Invocation>,
    at_once: u32,
    terminal: &Terminal,
) -> Result<bool, Failure> {
    let each = stream::iter(calls).map(|call| fleet.invoke(call));
    let mut outcomes = each.buffered(at_once as usize);
    let mut has_failed = false;
    while let Some(outcome) = outcomes.next().await {
        let outcome = outcome?;
        has_failed |= outcome.is_error;
        terminal.print_bytes(&in_one_line(&outcome.payload))?;
    }
    Ok(has_failed)
}

impl InvokeArguments {
    fn calls(&self, terminal: &Terminal) -> Result<Vec<Invocation>, Failure> {
        let context = self.client_context.as_deref().map(events::client_context);
        let client_context = context.transpose()?;
        let events = self.events.read(terminal)?.into_iter();
        let calls = events.map(|event| Invocation {
            event,
            client_context: client_context.clone(),
            ..Invocation::default()
        });
        Ok(calls.collect())
    }
}

/// A response and the end of its line. In JSON line ends stand between values alone, and mean nothing.
fn in_one_line(payload: &Bytes) -> Vec<u8> {
    let mut line = payload.to_vec();
    if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() {
        line.iter_mut()
            .filter(|byte| b"\r\n".contains(byte))
            .for_each(|byte| *byte = b' ');
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_a_line() {
        let line = |text: &'static str| String::from_utf8(in_one_line(&text.into())).unwrap();
        assert_eq!(line("{\"a\":\n  \"b\\nc\"}"), "{\"a\":   \"b\\nc\"}\n");
        assert_eq!(line(""), "\n");
        // What is no JSON is nobody's to change.
        assert_eq!(line("a\nb"), "a\nb\n");
    }
}
