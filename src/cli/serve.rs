//! The verb `serve`: a function that runs here, behind the Invoke API, until it is ended.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use lambimg::build::running::Glance;
use lambimg::lambda::fleet::Fleet;
use lambimg::lambda::invoke_api;
use lambimg::plan::Plan;
use tokio::net::TcpListener;

use crate::Arguments;
use crate::failure::Failure;
use crate::running::{Built, Ready, Run, RunArguments};
use crate::signals::{Stop, until_stopped};
use crate::surroundings;
use crate::terminal::{Terminal, counted};

/// How often a project is looked at. That costs a look at each file's date; to be told by the kernel would need a
/// crate and watches by the thousand, and would still miss network file systems.
const LOOK: Duration = Duration::from_millis(300);
/// How long whoever changes one file after the other is waited for: what changes all the time is built as it is.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    run: RunArguments,

    /// The port on this machine; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value_t = 9000)]
    port: u16,

    /// As many calls at once, each in an environment of its own; others wait
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,

    /// Build again when a file of the project changes; calls under way are finished by the old environments
    #[arg(long)]
    watch: bool,
}

/// Serves until a signal ends it.
pub(crate) fn serve(
    arguments: &Arguments,
    wanted: &ServeArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let run = Run::new(arguments, &wanted.run, terminal)?;
    if wanted.watch && !run.is_project() {
        return Err(Failure::nothing_to_watch());
    }
    until_stopped(Failure::serving_signalled, async |stop| {
        let bound = async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted.port)).await?;
            let address = listener.local_addr()?;
            Ok::<_, io::Error>((listener, address))
        };
        let refused = |error| Failure::cannot_listen(wanted.port, &error);
        let (listener, address) = bound.await.map_err(refused)?;
        let ready = stop.unless(run.ready()).await??;
        let fleet = ready.fleet(wanted.concurrency, terminal);
        let serving = Serving {
            run: &run,
            fleet: &fleet,
            terminal,
        };
        // What cannot run is told now, and not to the first who calls.
        stop.unless(fleet.warm()).await??;
        let name = &fleet.function().name;
        terminal.step(&format!(
            "serving the function `{name}` at http://{address} until Ctrl-C"
        ));
        terminal.print(&format!("http://{address}\n"))?;
        let lost = Box::pin(serving.until_ended(listener, ready, wanted.watch, &stop)).await;
        if lost > 0 {
            let events = counted(lost, "event");
            terminal.warn(&format!("{events} that nobody waited for came to nothing"));
        }
        Ok(ExitCode::SUCCESS)
    })?
}

struct Serving<'a> {
    run: &'a Run<'a>,
    fleet: &'a Fleet,
    terminal: &'a Terminal,
}

impl Serving<'_> {
    /// Serves, and gives the number of events that came to nothing.
    async fn until_ended(
        &self,
        listener: TcpListener,
        mut ready: Ready,
        watch: bool,
        stop: &Stop,
    ) -> usize {
        let ended = async {
            stop.wait().await;
        };
        let serving = invoke_api::serve(listener, self.fleet.clone(), ended);
        match ready.built.take().filter(|_| watch) {
            None => serving.await,
            Some(built) => {
                // What is being built when it ends is dropped.
                let watching = stop.unless(self.watch(ready, built));
                let (lost, _stopped) = tokio::join!(serving, watching);
                lost
            }
        }
    }

    /// Builds again whenever a file has changed, and has later calls answered by what comes of it.
    async fn watch(&self, mut ready: Ready, built: Built) -> Infallible {
        let Built { mut plan, mut seen } = built;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = glance(&ready, &plan).await;
            if now == seen {
                continue;
            }
            seen = self.settled(&ready, &plan, now).await;
            match self.run.ready().await {
                Err(failure) => {
                    self.terminal.failure(&failure);
                    self.terminal
                        .step("the function is as it was until that is mended");
                }
                Ok(mut next) => {
                    if !next.is(&ready) {
                        let (function, places) = next.parts();
                        self.fleet.replace(function, places);
                        self.terminal
                            .step("a file has changed: calls are answered by the new function");
                    }
                    plan = next.built.take().map_or(plan, |built| built.plan);
                    ready = next;
                }
            }
        }
    }

    /// Waits until whoever changes files has done so, within reason.
    async fn settled(&self, ready: &Ready, plan: &Arc<Plan>, mut seen: Glance) -> Glance {
        let begun = Instant::now();
        loop {
            tokio::time::sleep(LOOK / 3).await;
            let now = glance(ready, plan).await;
            if now == seen || begun.elapsed() > SETTLED {
                return now;
            }
            seen = now;
        }
    }
}

/// A look at the project's files; nothing where the work was given up.
async fn glance(ready: &Ready, plan: &Arc<Plan>) -> Glance {
    let plan = Arc::clone(plan);
    ready
        .tools
        .block(move || Glance::of(&plan, &surroundings::outputs()))
        .await
        .unwrap_or_default()
}
