//! The environments of one function: as many calls at once as wanted, each in an environment of its own.
//!
//! A call takes an environment that is idle or soon will be, or a new one, or waits. Where environments run, who
//! calls, and how, is not known here.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{self, BoxFuture};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::lambda::environment::{Environment, Place};
use crate::lambda::function::{Clock, Function, Invocation, Log, Outcome};
use crate::lambda::sandbox;

/// Why a call was not made, or not waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nowhere to run.
    #[error("no environment can be started")]
    Place(#[source] sandbox::Error),
    /// Everything was ended meanwhile.
    #[error("the function was ended")]
    Ended,
}

/// Makes a place for one environment.
pub type Places =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Place>, sandbox::Error>> + Send + Sync>;

/// Environments of a function. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    size: u32,
    /// One permit for each environment that may be at work.
    turns: Semaphore,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
    /// How many that no call will have are still to be ended.
    leaving: watch::Sender<usize>,
    log: Log,
    clock: Clock,
}

struct State {
    origin: Origin,
    idle: Vec<Idle>,
}

/// An environment that waits for a call, or will as soon as what failed in it is ended; and the version that it is of.
struct Idle {
    version: u64,
    environment: oneshot::Receiver<Environment>,
}

/// What environments are made of, and which version of it that is.
#[derive(Clone)]
struct Origin {
    version: u64,
    function: Arc<Function>,
    places: Places,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = &self.0.size;
        formatter
            .debug_struct("Fleet")
            .field("size", size)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// At most `size` environments of `function`, none of them started yet.
    pub fn new(function: Function, places: Places, size: u32, log: Log, clock: Clock) -> Self {
        let size = size.max(1);
        let function = Arc::new(function);
        Self(Arc::new(Shared {
            size,
            turns: Semaphore::new(size as usize),
            state: Mutex::new(State {
                origin: Origin {
                    version: 0,
                    function,
                    places,
                },
                idle: Vec::new(),
            }),
            ended: watch::Sender::new(false),
            leaving: watch::Sender::new(0),
            log,
            clock,
        }))
    }

    /// The function, as the next environment has it.
    pub fn function(&self) -> Arc<Function> {
        Arc::clone(&self.0.origin().function)
    }

    /// A header of X-Ray's for a call without one.
    pub fn trace_id(&self) -> String {
        self.function().trace_id((self.0.clock)())
    }

    /// Starts an environment before anybody calls.
    ///
    /// # Errors
    /// When there is nowhere to run. A function that does not start is no error: its log says so, and its first call
    /// tries again.
    pub async fn warm(&self) -> Result<(), Error> {
        let _turn = self.0.turn().await?;
        let (version, environment) = self.0.start().await?;
        match self.0.keep(version) {
            Some(kept) => give(kept, environment).await,
            None => environment.shutdown().await,
        }
        Ok(())
    }

    /// Calls the function. A caller that does not wait for the answer ends no call.
    ///
    /// # Errors
    /// When there is nowhere to run, and after [`Self::end`].
    pub async fn invoke(&self, call: Invocation) -> Result<Outcome, Error> {
        let shared = Arc::clone(&self.0);
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move { shared.call(call, answer).await });
        answered.await.unwrap_or(Err(Error::Ended))
    }

    /// Has every later call answered by environments made of this; older ones finish theirs and are ended meanwhile.
    pub fn replace(&self, function: Function, places: Places) {
        {
            let mut state = self.0.state();
            state.origin = Origin {
                version: state.origin.version + 1,
                function: Arc::new(function),
                places,
            };
        }
        self.0.retire();
    }

    /// Ends the environments that no call has, once their extensions are through with the last one. Whoever gives
    /// this up is left with [`Self::end`].
    pub async fn wind_down(&self) {
        self.0.retire();
        self.0.all_left().await;
    }

    /// Ends every environment, with the time to shut down that Lambda gives; calls under way are given up.
    pub async fn end(&self) {
        self.0.ended.send_replace(true);
        // Whoever has a turn gives it back at once now.
        let _all = self.0.turns.acquire_many(self.0.size).await;
        self.wind_down().await;
    }
}

async fn shut_down(environments: Vec<Idle>) {
    let each = environments.into_iter();
    let ended = each.map(|idle| async {
        if let Ok(environment) = idle.environment.await {
            environment.shutdown().await;
        }
    });
    future::join_all(ended).await;
}

/// Hands an environment to whoever waits for it, or will.
async fn give(kept: oneshot::Sender<Environment>, environment: Environment) {
    if let Err(unwanted) = kept.send(environment) {
        unwanted.shutdown().await;
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn origin(&self) -> Origin {
        self.state().origin.clone()
    }

    /// Ends the environments that wait for calls, whoever waits for that or does not.
    fn retire(self: &Arc<Self>) {
        let old = std::mem::take(&mut self.state().idle);
        if old.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        shared.leaving.send_modify(|count| *count += old.len());
        tokio::spawn(async move {
            let count = old.len();
            shut_down(old).await;
            shared.leaving.send_modify(|leaving| *leaving -= count);
        });
    }

    async fn all_left(&self) {
        // Its sender is this value's own.
        let _ = self.leaving.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Waits until no more than the others are at work.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        self.unless_ended(async {
            let turn = self.turns.acquire().await;
            turn.map_err(|_| Error::Ended)
        })
        .await
    }

    /// Gives `work` up when everything is ended.
    async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => Err(Error::Ended),
            done = work => done,
        }
    }

    async fn call(&self, call: Invocation, answer: oneshot::Sender<Result<Outcome, Error>>) {
        let made = async {
            let turn = self.turn().await?;
            let environment = match self.idle().await {
                Some(environment) => environment,
                None => self.start().await?,
            };
            Ok((turn, environment))
        };
        let (turn, (version, mut environment)) = match made.await {
            Ok(made) => made,
            Err(error) => return tell(answer, Err(error)),
        };
        let work = async { environment.invoke(call).await.map_err(Error::Place) };
        let outcome = self.unless_ended(work).await;
        // Whoever calls again at the answer meets the same environment, as on Lambda.
        let kept = outcome.as_ref().ok().and_then(|_| self.keep(version));
        let Some(kept) = kept else {
            tell(answer, outcome);
            return environment.shutdown().await;
        };
        drop(turn);
        // Extensions may go on, and what failed may take seconds to end: that is not the caller's time.
        tell(answer, outcome);
        let finished = self.unless_ended(async {
            environment.finish().await;
            Ok(())
        });
        if finished.await.is_ok() {
            environment.reset().await;
        }
        give(kept, environment).await;
    }

    /// The environment that was last at work among those that can be had at once, or else the one that was last at
    /// work. Those that were killed meanwhile are dropped.
    async fn idle(&self) -> Option<(u64, Environment)> {
        loop {
            let (version, environment) = if let Some(ready) = self.ready() {
                ready
            } else {
                let last = self.state().idle.pop()?;
                let Ok(environment) = last.environment.await else {
                    continue;
                };
                (last.version, environment)
            };
            if !environment.is_gone() {
                return Some((version, environment));
            }
        }
    }

    /// The last of those whose extensions and failures nobody has to wait for.
    fn ready(&self) -> Option<(u64, Environment)> {
        let mut state = self.state();
        for place in (0..state.idle.len()).rev() {
            if let Ok(environment) = state.idle[place].environment.try_recv() {
                return Some((state.idle.remove(place).version, environment));
            }
        }
        None
    }

    /// A new environment, of the newest origin.
    async fn start(&self) -> Result<(u64, Environment), Error> {
        let Origin {
            version,
            function,
            places,
        } = self.origin();
        self.unless_ended(async {
            let place = places().await.map_err(Error::Place)?;
            let environment = Environment::start(function, place, self.log.clone(), self.clock);
            Ok((version, environment.await.map_err(Error::Place)?))
        })
        .await
    }

    /// Makes room for an environment that the next call will have, unless what it was made of was replaced.
    fn keep(&self, version: u64) -> Option<oneshot::Sender<Environment>> {
        let mut state = self.state();
        if state.origin.version != version || *self.ended.borrow() {
            return None;
        }
        let (kept, environment) = oneshot::channel();
        state.idle.push(Idle {
            version,
            environment,
        });
        Some(kept)
    }
}

/// Gives an answer to whoever still waits for it.
fn tell(answer: oneshot::Sender<Result<Outcome, Error>>, outcome: Result<Outcome, Error>) {
    let _ = answer.send(outcome);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;
    use crate::lambda::environment::testing::{self, RUNTIME, Stage, echo};

    type Stages = Arc<Mutex<Vec<Arc<Stage>>>>;

    /// A fleet, and the stages that it has made.
    fn fleet(size: u32) -> (Fleet, Stages) {
        fleet_that_ends_in(size, Duration::from_millis(100))
    }

    /// The same, where it takes so long to end what runs.
    fn fleet_that_ends_in(size: u32, ending: Duration) -> (Fleet, Stages) {
        let stages = Stages::default();
        let made = Arc::clone(&stages);
        let places: Places = Arc::new(move || {
            let mut stage = Stage::default().with(RUNTIME, echo);
            stage.ending = ending;
            let stage = Arc::new(stage);
            made.lock().unwrap().push(Arc::clone(&stage));
            Box::pin(async { Ok(stage as Arc<dyn Place>) })
        });
        let log = testing::log().0;
        let fleet = Fleet::new(testing::function(), places, size, log, testing::clock);
        (fleet, stages)
    }

    async fn call(fleet: &Fleet, event: &'static str) -> Result<Outcome, Error> {
        let call = Invocation {
            event: event.into(),
            ..Invocation::default()
        };
        fleet.invoke(call).await
    }

    #[tokio::test]
    async fn an_environment_that_was_killed_is_replaced() {
        let (fleet, stages) = fleet(1);
        for _ in 0..2 {
            assert_eq!(call(&fleet, "1").await.unwrap().payload, "1");
        }
        assert_eq!(stages.lock().unwrap().len(), 1);
        stages.lock().unwrap()[0]
            .gone
            .store(true, Ordering::Relaxed);
        assert_eq!(call(&fleet, "1").await.unwrap().payload, "1");
        assert_eq!(stages.lock().unwrap().len(), 2);
        fleet.end().await;
    }

    #[tokio::test]
    async fn what_the_machine_fails_in_is_no_failure_of_the_function() {
        let (fleet, stages) = fleet(1);
        assert!(call(&fleet, "exit").await.unwrap().is_error);
        // The next call has to start it again, and there is nothing to start it with.
        stages.lock().unwrap()[0]
            .exhausted
            .store(true, Ordering::Relaxed);
        let failed = call(&fleet, "1").await;
        assert!(matches!(failed, Err(Error::Place(_))), "{failed:?}");
        // Of what failed nothing is used again.
        assert_eq!(call(&fleet, "1").await.unwrap().payload, "1");
        assert_eq!(stages.lock().unwrap().len(), 2);
        fleet.end().await;
    }

    #[tokio::test]
    async fn what_is_given_up_is_ended_all_the_same() {
        let (fleet, stages) = fleet(2);
        let (one, other) = tokio::join!(call(&fleet, "1"), call(&fleet, "exit"));
        assert!(one.is_ok() && other.is_ok());
        // Nobody waits, as after a signal.
        let given_up = tokio::time::timeout(Duration::ZERO, fleet.wind_down()).await;
        assert!(given_up.is_err());
        fleet.end().await;
        assert!(stages.lock().unwrap().iter().all(|one| !one.is_running()));
    }

    #[tokio::test]
    async fn nobody_waits_for_one_while_another_is_idle() {
        let (fleet, stages) = fleet_that_ends_in(2, Duration::from_hours(1));
        let (one, other) = tokio::join!(call(&fleet, "1"), call(&fleet, "1"));
        assert!(one.is_ok() && other.is_ok());
        assert!(call(&fleet, "exit").await.unwrap().is_error);
        let answered = tokio::time::timeout(Duration::from_mins(1), call(&fleet, "1")).await;
        assert_eq!(answered.unwrap().unwrap().payload, "1");
        assert_eq!(stages.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn who_calls_again_meets_the_same_environment() {
        let (fleet, stages) = fleet(3);
        for _ in 0..3 {
            assert!(call(&fleet, "exit").await.unwrap().is_error);
            assert_eq!(call(&fleet, "1").await.unwrap().payload, "1");
        }
        assert_eq!(stages.lock().unwrap().len(), 1);
        // Who calls meanwhile has one of his own.
        let (one, other) = tokio::join!(call(&fleet, "1"), call(&fleet, "exit"));
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(stages.lock().unwrap().len(), 2);
        fleet.end().await;
        assert!(stages.lock().unwrap().iter().all(|one| !one.is_running()));
    }
}
