//! The thread pool that verbs run on, and what Ctrl-C, SIGTERM and the end of a terminal do to them.
//!
//! What is under way is dropped at the first signal, or, where a function runs, told of it, so that the function
//! gets Lambda's time to shut down; the second ends it at once. What the work is, is not known here.

use std::fs;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// How long threads that are still at work are waited for.
const AT_A_SIGNAL: Duration = Duration::from_millis(200);
const AT_THE_END: Duration = Duration::from_secs(5);
/// How long after the second signal this process ends whatever it does.
const AT_THE_LATEST: Duration = Duration::from_secs(1);

/// Does `work`, unless a signal ends it: then what it has begun is dropped.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    until_stopped(Failure::signalled, async |stop| stop.unless(work).await)?
}

/// Does `work`, which hears of the first signal and ends itself; at the second it is dropped. `told` is what is said of
/// work that a signal ended.
pub(crate) fn until_stopped<T>(
    told: fn(i32) -> Failure,
    work: impl AsyncFnOnce(Stop) -> T,
) -> Result<T, Failure> {
    let runtime = runtime()?;
    end_at_the_second()?;
    let (done, is_stopped) = runtime.block_on(async {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(failure) => return (Err(failure), false),
        };
        let stopper = watch::Sender::new(None);
        let mut work = Box::pin(work(Stop {
            signal: stopper.subscribe(),
            told,
        }));
        let first = tokio::select! {
            biased;
            signal = signals.next() => signal,
            done = &mut work => return (Ok(done), false),
        };
        stopper.send_replace(Some(first));
        tokio::select! {
            biased;
            signal = signals.next() => (Err(told(signal)), true),
            done = work => (Ok(done), true),
        }
    });
    // Threads that nobody waits for any more clear up behind them, if they hear of it soon.
    runtime.shutdown_timeout(if is_stopped { AT_A_SIGNAL } else { AT_THE_END });
    done
}

/// Ends this process soon after the second signal, even where all threads wait for what never comes, as for somebody
/// to read what they print.
#[expect(clippy::exit, reason = "nothing is left that could return")]
fn end_at_the_second() -> Result<(), Failure> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| cannot_start(&error))?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let waiting = async move {
        signals.next().await;
        let second = signals.next().await;
        tokio::time::sleep(AT_THE_LATEST).await;
        std::process::exit(128 + second)
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    let started = thread.spawn(move || runtime.block_on(waiting));
    started.map(drop).map_err(|error| cannot_start(&error))
}

fn cannot_start(error: &std::io::Error) -> Failure {
    Failure::bug(&format!("cannot start threads: {error}"))
}

fn runtime() -> Result<Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .enable_all()
        .build()
        .map_err(|error| cannot_start(&error))
}

/// Ctrl-C, SIGTERM, and SIGHUP where it is not ignored, as `nohup` has it.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(|error| cannot_start(&error));
        // Whoever listens is no longer one who ignores it.
        let hangup = (!is_hangup_ignored()).then(|| of(SignalKind::hangup()));
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: hangup.transpose()?,
        })
    }

    /// The next of them, by its number.
    async fn next(&mut self) -> i32 {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = hung_up => SignalKind::hangup(),
        };
        kind.as_raw_value()
    }
}

/// Whether whoever started this has it ignore SIGHUP. Where nobody tells, it is left to do what it does.
fn is_hangup_ignored() -> bool {
    fs::read_to_string("/proc/self/status").map_or(true, |status| ignores_hangup(&status))
}

/// What the kernel says of a process, as proc_pid_status(5) has it: a bit for each ignored signal.
fn ignores_hangup(status: &str) -> bool {
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_none_or(|mask| mask & 1 != 0)
}

/// Knows whether a signal has come.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    signal: watch::Receiver<Option<i32>>,
    told: fn(i32) -> Failure,
}

impl Stop {
    /// Waits for the first signal, and gives its number.
    pub(crate) async fn wait(&self) -> i32 {
        let mut stopped = self.signal.clone();
        let signal = stopped.wait_for(Option::is_some).await.ok();
        match signal.and_then(|signal| *signal) {
            Some(signal) => signal,
            // Nobody is left who could send one.
            None => std::future::pending().await,
        }
    }

    /// Does `work`, or drops it at a signal.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            signal = self.wait() => Err((self.told)(signal)),
            done = work => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ignores_a_hangup_is_known() {
        let status =
            |mask: &str| format!("Name:\tlambimg\nSigBlk:\t0\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        assert!(ignores_hangup(&status("0000000000000001")));
        assert!(ignores_hangup(&status("0000000000001005")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(ignores_hangup("Name:\tlambimg\n"), "nobody tells");
    }
}
