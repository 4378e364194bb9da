//! The life of an environment: INIT, one INVOKE after the other, a reset after what failed, SHUTDOWN.
//!
//! It decides what happens when, and leaves how to the servers, the programs and the log.

use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::api::Server;
use super::documents::Failure;
use super::documents::Status;
use super::documents::Stopped;
use super::documents::timed_out;
use super::journal::CallReport;
use super::journal::Journal;
use super::journal::Told;
use super::place::Place;
use super::programs::Programs;
use super::programs::SIGKILL;
use super::programs::SIGTERM;
use super::programs::Who;
use super::shared::Shared;
use super::states::Answer;
use super::states::Call;
use super::states::MAX_EXTENSIONS;
use super::states::Phase;
use super::states::Reason;
use super::states::States;
use super::variables::Variables;
use crate::lambda::function::Clock;
use crate::lambda::function::Function;
use crate::lambda::function::Invocation;
use crate::lambda::function::Log;
use crate::lambda::function::LogFormat;
use crate::lambda::function::Outcome;
use crate::lambda::function::Report;
use crate::lambda::sandbox::Error;
use crate::lambda::sandbox::Program;

/// How long INIT may take before the first call.
const INIT_LIMIT: Duration = Duration::from_secs(10);
/// How long SHUTDOWN may take where there are external extensions.
const WITH_EXTERNAL: Duration = Duration::from_secs(2);
/// How long it may take where all extensions are internal: all of it is the runtime's.
const WITH_INTERNAL: Duration = Duration::from_millis(500);
/// The runtime's part of the time, in tenths, where external extensions are to be told after it.
const RUNTIME_TENTHS: u32 = 3;
/// How long telemetry that is kept may take to be sent at the end.
const LAST_TELEMETRY: Duration = Duration::from_millis(200);
/// Where external extensions are.
const EXTENSIONS: &str = "/opt/extensions";
/// The file by which external extensions are left alone.
const DISABLE_EXTENSIONS: &str = "/opt/disable-extensions-jwigqn8j";

/// An execution environment: a runtime and its extensions, which serve one call after the other.
///
/// What goes wrong inside is answered in Lambda's own documents, as an [`Outcome`]. Dropping it ends its tasks;
/// its programs end with the place.
pub struct Environment {
    shared: Arc<Shared>,
    clock: Clock,
    log_stream: String,
    server: Option<Server>,
    programs: Programs,
    condition: Condition,
    /// How many programs had been ended for want of memory, when what is done now began.
    kills: u32,
    /// The call that is answered, and that extensions are not through with.
    answered: Option<Answered>,
}

/// A call whose caller has the answer already.
struct Answered {
    call: Call,
    answer: Option<Answer>,
    begun: Instant,
    init: Option<Duration>,
}

impl Answered {
    /// What the caller is given.
    fn outcome(&self, failure: Option<Failure>, report: Report, log_tail: Bytes) -> Outcome {
        let answer = self.answer.clone();
        let (payload, content_type, is_error) = said(answer, failure, &self.call.request_id);
        Outcome {
            request_id: self.call.request_id.clone(),
            payload,
            content_type,
            is_error,
            log_tail,
            report,
        }
    }
}

/// Whether there is a runtime to call.
enum Condition {
    /// There is, and this long is what its INIT took, if no call has been told yet.
    Ready { init: Option<Duration> },
    /// What failed still runs: it is to be told why, and ended.
    Failed(Reason),
    /// There is none: the next call has to start it.
    Down,
}

impl Environment {
    /// Starts extensions and runtime, and waits for them for at most ten seconds, as Lambda does.
    ///
    /// An INIT that fails is told in the log, and once more tried by the first call, in its time.
    ///
    /// # Errors
    /// When the place fails, which is ended then.
    pub async fn start(
        function: Arc<Function>,
        place: Arc<dyn Place>,
        log: Log,
        clock: Clock,
    ) -> Result<Self, Error> {
        let journal = Journal::new(&function, log, clock);
        let shared = Arc::new(Shared::new(function, place, journal));
        let date = humantime::format_rfc3339_seconds(clock()).to_string();
        let log_stream = format!(
            "{}/[$LATEST]{}",
            date[..10].replace('-', "/"),
            Uuid::new_v4().simple()
        );
        let mut environment = Self {
            shared,
            clock,
            log_stream,
            server: None,
            programs: Programs::default(),
            condition: Condition::Down,
            kills: 0,
            answered: None,
        };
        match environment.init("init", INIT_LIMIT, None).await {
            Ok(took) => environment.condition = Condition::Ready { init: Some(took) },
            // It is in the log, and met again by the first call.
            Err(Stopped::Function(_)) => {}
            Err(Stopped::Place(error)) => {
                environment.shared.place.end().await;
                return Err(error);
            }
        }
        environment.shared.place.watch(false).await;
        Ok(environment)
    }

    /// Calls the function and waits for its answer, at most for the function's timeout.
    ///
    /// Its extensions may go on with the call: [`Self::finish`] waits for them. After a failure the environment is to
    /// be reset: by [`Self::reset`]. Both are done by the next call, before its time begins, if nobody has.
    ///
    /// # Errors
    /// When the place fails before the function has the call: the environment is of no use then.
    pub async fn invoke(&mut self, call: Invocation) -> Result<Outcome, Error> {
        self.reset().await;
        self.shared.place.watch(true).await;
        let begun = Instant::now();
        let timeout = self.shared.function.timeout;
        let pieces = call.pieces.clone();
        let call = self.call(call, timeout);
        // What was written before belongs to no call.
        self.shared.journal.take_tail();
        let mut init = None;
        let mut failure = None;
        match &mut self.condition {
            Condition::Ready { init: took } => init = took.take(),
            Condition::Failed(_) | Condition::Down => {
                match self.init("invoke", timeout, Some(begun)).await {
                    Ok(_) => self.condition = Condition::Ready { init: None },
                    Err(Stopped::Function(error)) => failure = Some(error),
                    Err(Stopped::Place(error)) => return Err(error),
                }
            }
        }
        self.shared.journal.tell(&Told::Start {
            request_id: &call.request_id,
            trace_id: &call.trace_id,
        });
        let mut answer = None;
        if failure.is_none() {
            self.kills = self.shared.place.memory().await.kills;
            failure = self.serve(&call, pieces, begun + timeout).await.err();
            answer = self.shared.look(|states| states.answer().cloned());
        }
        let answered = Answered {
            call,
            answer,
            begun,
            init,
        };
        let duration = begun.elapsed();
        if failure.is_none() && !self.shared.look(States::call_is_done) {
            self.programs.drain().await;
            let report = self.report(&answered, None, duration).await;
            let log_tail = self.shared.journal.take_tail();
            let outcome = answered.outcome(None, report, log_tail);
            self.answered = Some(answered);
            return Ok(outcome);
        }
        self.programs.drain().await;
        let report = self.conclude(&answered, failure.as_ref(), duration).await;
        let log_tail = self.shared.journal.take_tail();
        Ok(answered.outcome(failure, report, log_tail))
    }

    /// Waits until the extensions are through with the call that was answered, at most for what is left of the
    /// function's timeout. Whoever gives this up can begin it again.
    pub async fn finish(&mut self) {
        let Some(answered) = &self.answered else {
            return;
        };
        let deadline = answered.begun + self.shared.function.timeout;
        let done = self.in_time(deadline, States::call_is_done).await;
        self.close(done.err()).await;
    }

    /// Tells what came of the call that was answered.
    async fn close(&mut self, failure: Option<Failure>) {
        if let Some(answered) = self.answered.take() {
            let duration = answered.begun.elapsed();
            self.programs.drain().await;
            self.conclude(&answered, failure.as_ref(), duration).await;
        }
    }

    /// Ends what failed: its programs are told, and have Lambda's time for it. Nothing else is touched.
    pub async fn reset(&mut self) {
        self.finish().await;
        if let Condition::Failed(reason) = self.condition {
            self.condition = Condition::Down;
            self.end_programs(reason).await;
        }
    }

    /// Whether the place where it runs has ended: no later call can be answered.
    pub fn is_gone(&self) -> bool {
        self.shared.place.is_gone()
    }

    /// Ends it: where there are extensions, runtime and extensions are told, and have Lambda's time for it.
    ///
    /// Extensions that are not through with a call have as long for that.
    pub async fn shutdown(mut self) {
        let _ = tokio::time::timeout(WITH_EXTERNAL, self.finish()).await;
        self.close(None).await;
        self.reset().await;
        self.end_programs(Reason::Spindown).await;
        self.shared.place.end().await;
    }

    fn call(&self, call: Invocation, timeout: Duration) -> Call {
        let given = call.trace_id.filter(|trace| !trace.is_empty());
        Call {
            request_id: call
                .request_id
                .unwrap_or_else(|| Uuid::new_v4().to_string()),
            invocation_id: Uuid::new_v4().to_string(),
            event: call.event,
            deadline_ms: self.epoch_ms() + milliseconds(timeout),
            trace_id: given.unwrap_or_else(|| self.shared.function.trace_id((self.clock)())),
            client_context: call.client_context,
            cognito_identity: call.cognito_identity,
            tenant_id: call.tenant_id,
        }
    }

    /// Milliseconds of the epoch.
    fn epoch_ms(&self) -> u64 {
        let now = (self.clock)().duration_since(UNIX_EPOCH);
        milliseconds(now.unwrap_or_default())
    }

    /// Starts everything, and tells how that went; what failed is ended again, unless its place failed.
    async fn init(
        &mut self,
        phase: &'static str,
        limit: Duration,
        since: Option<Instant>,
    ) -> Result<Duration, Stopped> {
        let begun = since.unwrap_or_else(Instant::now);
        self.kills = self.shared.place.memory().await.kills;
        self.shared.journal.tell(&Told::InitStart { phase });
        let up = tokio::time::timeout_at(begun + limit, self.bring_up()).await;
        let up = match up {
            Err(_) => Err(Failure::timeout(limit)),
            Ok(Err(Stopped::Function(failure))) => Err(failure),
            // Nothing of it is the function's.
            Ok(Err(error @ Stopped::Place(_))) => return Err(error),
            Ok(Ok(())) => Ok(()),
        };
        let duration = begun.elapsed();
        self.shared.journal.telemetry.close();
        self.programs.drain().await;
        let failure = up.as_ref().err();
        let status = failure.map_or(Status::Success, |failure| failure.status);
        let error_type = failure.map(|failure| failure.error_type.as_str());
        self.shared.journal.tell(&Told::InitRuntimeDone {
            phase,
            status,
            error_type,
        });
        self.tell_extensions();
        self.shared.journal.tell(&Told::InitReport {
            phase,
            duration,
            status,
            error_type,
        });
        match up {
            Ok(()) => Ok(duration),
            Err(failure) => {
                self.end_programs(reason(&failure)).await;
                Err(failure.into())
            }
        }
    }

    fn tell_extensions(&self) {
        let extensions = self.shared.look(|states| states.extensions().to_vec());
        for extension in &extensions {
            let error_type = match &extension.phase {
                Phase::InitError(error_type) | Phase::ExitError(error_type) => {
                    Some(error_type.as_str())
                }
                Phase::LaunchError(_) => Some("Extension.LaunchError"),
                Phase::Exited(_) => Some("Extension.Crash"),
                _ => None,
            };
            self.shared.journal.tell(&Told::Extension {
                name: &extension.name,
                state: extension.phase.name(),
                events: extension.events,
                error_type,
            });
        }
    }

    /// Extensions first, then the runtime, then all of them until they wait for an event.
    async fn bring_up(&mut self) -> Result<(), Stopped> {
        let api = self.listen().await?;
        let variables = Variables {
            function: &self.shared.function,
            api: &api,
            log_stream: &self.log_stream,
        };
        let for_extensions = variables.extension();
        let runtime = Program {
            command: self.shared.function.command.clone(),
            variables: variables.runtime(),
            working_dir: self.shared.function.working_dir.clone(),
            framed_log: true,
        };
        self.start_extensions(for_extensions).await?;
        self.until(|states| states.all_registered().then_some(()))
            .await?;
        self.shared.step(States::runtime_started);
        self.programs
            .start(Who::Runtime, &runtime, &self.shared)
            .await?;
        self.until(|states| states.init_is_done().then_some(()))
            .await?;
        Ok(())
    }

    async fn listen(&mut self) -> Result<String, Error> {
        if let Some(server) = &self.server {
            return Ok(server.address());
        }
        let (listener, address) = self.shared.place.listen().await?;
        let server = Server::start(listener, address, Arc::clone(&self.shared));
        let address = server.address();
        self.server = Some(server);
        Ok(address)
    }

    async fn start_extensions(&mut self, variables: Vec<(String, String)>) -> Result<(), Stopped> {
        let names = self.external_extensions().await?;
        if names.len() > MAX_EXTENSIONS {
            return Err(Failure::too_many_extensions().into());
        }
        self.shared.step(|states| {
            for name in &names {
                states.expect_extension(name.clone(), Uuid::new_v4().to_string());
            }
        });
        for name in names {
            let program = Program {
                command: vec![format!("{EXTENSIONS}/{name}")],
                variables: variables.clone(),
                working_dir: "/".to_owned(),
                framed_log: false,
            };
            let who = Who::Extension(name.clone());
            let started = self.programs.start(who, &program, &self.shared).await;
            match started.map_err(Stopped::from) {
                Ok(()) => {}
                Err(Stopped::Function(failure)) => self
                    .shared
                    .step(|states| states.extension_not_launched(&name, failure.message)),
                Err(error @ Stopped::Place(_)) => return Err(error),
            }
        }
        Ok(())
    }

    /// The names of the files in `/opt/extensions`; a directory in it is none.
    async fn external_extensions(&self) -> Result<Vec<String>, Error> {
        let place = &self.shared.place;
        if place.has_file(DISABLE_EXTENSIONS).await? {
            return Ok(Vec::new());
        }
        let mut names = place.list(EXTENSIONS).await?;
        names.sort();
        Ok(names)
    }

    /// Waits for states, or what makes them impossible.
    async fn until<T>(
        &self,
        mut reached: impl FnMut(&mut States) -> Option<T>,
    ) -> Result<T, Failure> {
        let ended = self.shared.until(|states| match reached(states) {
            Some(value) => Some(Ok(value)),
            None => states.fatal().map(Err),
        });
        match ended.await {
            Ok(value) => Ok(value),
            Err(fatal) => {
                let kills = self.shared.place.memory().await.kills;
                Err(Failure::fatal(fatal, kills > self.kills))
            }
        }
    }

    /// Waits for states until a deadline.
    async fn in_time(&self, deadline: Instant, done: fn(&States) -> bool) -> Result<(), Failure> {
        let reached = self.until(|states| done(states).then_some(()));
        let reached = tokio::time::timeout_at(deadline, reached).await;
        reached.unwrap_or_else(|_| Err(Failure::timeout(self.shared.function.timeout)))
    }

    /// One call, until the runtime is through.
    async fn serve(
        &mut self,
        call: &Call,
        pieces: Option<mpsc::Sender<Bytes>>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let given = call.clone();
        self.shared.step(|states| {
            states.begin(given);
            states.pass_on(pieces);
        });
        let done = self.in_time(deadline, States::runtime_is_done).await;
        let duration = begun.elapsed();
        let answer = self.shared.look(|states| states.answer().cloned());
        self.tell_runtime_done(call, answer.as_ref(), done.as_ref().err(), duration);
        done
    }

    fn tell_runtime_done(
        &self,
        call: &Call,
        answer: Option<&Answer>,
        failure: Option<&Failure>,
        duration: Duration,
    ) {
        let (status, error_type) = verdict(answer, failure);
        let produced = match answer {
            Some(Answer::Response { payload, .. }) => payload.len(),
            Some(Answer::Error(posted)) => posted.document.len(),
            Some(Answer::Streamed(length)) => *length,
            Some(Answer::Truncated | Answer::TooLarge { .. }) | None => 0,
        };
        self.shared.journal.tell(&Told::RuntimeDone {
            request_id: &call.request_id,
            trace_id: &call.trace_id,
            status,
            error_type: error_type.as_deref(),
            duration,
            produced,
        });
    }

    /// Tells what came of a call, and whether there is something to reset.
    async fn conclude(
        &mut self,
        answered: &Answered,
        failure: Option<&Failure>,
        duration: Duration,
    ) -> Report {
        let report = self.report(answered, failure, duration).await;
        self.shared.place.watch(false).await;
        let Answered { call, answer, .. } = answered;
        let (status, error_type) = verdict(answer.as_ref(), failure);
        if let Some(failure) = failure {
            self.remark(call, failure);
        }
        self.shared.journal.tell(&Told::Report(&CallReport {
            request_id: &call.request_id,
            trace_id: &call.trace_id,
            status,
            error_type: error_type.as_deref(),
            has_failed: failure.is_some(),
            duration: report.duration,
            init: report.init,
            memory_size: self.shared.function.memory,
            memory_used: report.memory.div_ceil(1 << 20),
        }));
        if let Some(failure) = failure {
            // An INIT that failed has been ended already.
            if matches!(self.condition, Condition::Ready { .. }) {
                self.condition = Condition::Failed(reason(failure));
            }
        }
        report
    }

    /// What a call of this duration has cost.
    async fn report(
        &self,
        answered: &Answered,
        failure: Option<&Failure>,
        duration: Duration,
    ) -> Report {
        let limit = u64::from(self.shared.function.memory) << 20;
        // For a moment there can be more than the limit allows; Lambda tells no more than that.
        let memory = self.shared.place.memory().await.most.min(limit);
        let (_, error_type) = verdict(answered.answer.as_ref(), failure);
        Report {
            duration: duration.min(self.shared.function.timeout),
            init: answered.init,
            memory,
            error_type,
        }
    }

    /// What the log of text says of a failure beside the report.
    fn remark(&self, call: &Call, failure: &Failure) {
        let journal = &self.shared.journal;
        if self.shared.function.log_format == LogFormat::Json {
            return;
        }
        let id = &call.request_id;
        if failure.status == Status::Timeout {
            let text = timed_out(self.shared.function.timeout);
            journal.remark(&format!("{} {id} {text}\n\n", journal.now()));
        } else if failure.document.is_none() {
            let Failure {
                message,
                error_type,
                ..
            } = failure;
            journal.remark(&format!("RequestId: {id} Error: {message}\n{error_type}\n"));
        }
    }

    /// Tells the programs, gives them the time that Lambda does, and ends them. `/tmp` stays.
    async fn end_programs(&mut self, reason: Reason) {
        let began = Instant::now();
        self.shared.step(States::ends);
        let extensions = self.shared.look(|states| states.extensions().to_vec());
        let has_external = extensions.iter().any(|extension| extension.external);
        if has_external {
            self.end_runtime(began + WITH_EXTERNAL * RUNTIME_TENTHS / 10)
                .await;
            self.end_extensions(began + WITH_EXTERNAL, reason).await;
        } else if !extensions.is_empty() {
            self.end_runtime(began + WITH_INTERNAL).await;
        }
        // A place that cannot do this has ended, and all that was in it.
        let _ = self.shared.place.kill_all().await;
        self.programs.forget().await;
        if let Some(server) = &self.server {
            server.reset().await;
        }
        self.shared.journal.telemetry.reset().await;
        self.shared.step(|states| *states = States::default());
    }

    async fn end_runtime(&self, deadline: Instant) {
        self.programs.signal(&Who::Runtime, SIGTERM).await;
        let ended = self.programs.ended(&Who::Runtime);
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            self.programs.signal(&Who::Runtime, SIGKILL).await;
        }
    }

    async fn end_extensions(&self, deadline: Instant, reason: Reason) {
        let telemetry = &self.shared.journal.telemetry;
        telemetry.flush(LAST_TELEMETRY).await;
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline_ms = self.epoch_ms() + milliseconds(left);
        let others = self
            .shared
            .step(|states| states.shut_down(deadline_ms, reason));
        for name in others {
            self.programs.signal(&Who::Extension(name), SIGKILL).await;
        }
        let extensions = self.shared.look(|states| states.extensions().to_vec());
        let all_ended = async {
            for extension in extensions {
                self.programs.ended(&Who::Extension(extension.name)).await;
            }
        };
        // Who takes longer is ended.
        let _ = tokio::time::timeout_at(deadline, all_ended).await;
    }
}

/// How a call went, and the type of its error.
fn verdict(answer: Option<&Answer>, failure: Option<&Failure>) -> (Status, Option<String>) {
    match (failure, answer) {
        (Some(failure), _) => (failure.status, Some(failure.error_type.clone())),
        (None, Some(Answer::Error(posted))) => (Status::Error, Some(posted.error_type.clone())),
        (None, Some(Answer::TooLarge { limit })) => {
            (Status::Error, Some(Failure::too_large(*limit).error_type))
        }
        (None, Some(Answer::Truncated)) => (Status::Error, Some(Failure::truncated().error_type)),
        (None, _) => (Status::Success, None),
    }
}

/// What the caller is given: what the runtime answered, even where it failed afterwards, or why it did not answer.
fn said(
    answer: Option<Answer>,
    failure: Option<Failure>,
    request_id: &str,
) -> (Bytes, Option<String>, bool) {
    match (answer, failure) {
        (
            Some(Answer::Response {
                payload,
                content_type,
            }),
            _,
        ) => (payload, content_type, false),
        (Some(Answer::Error(posted)), _) => (posted.document, None, true),
        (Some(Answer::Streamed(_)), _) => (Bytes::new(), None, false),
        (Some(Answer::TooLarge { limit }), _) => {
            (Failure::too_large(limit).document(request_id), None, true)
        }
        (Some(Answer::Truncated), None) => (Failure::truncated().document(request_id), None, true),
        (Some(Answer::Truncated) | None, Some(failure)) => {
            (failure.document(request_id), None, true)
        }
        // A runtime is through only when it has answered.
        (None, None) => (Bytes::new(), None, true),
    }
}

fn reason(failure: &Failure) -> Reason {
    match failure.status {
        Status::Timeout => Reason::Timeout,
        _ => Reason::Failure,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
