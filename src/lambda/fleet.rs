//! The environments of one function: as many calls at once as wanted, each in an environment of its own.
//!
//! A call takes an environment that is idle, or a new one, or waits. Where environments run, who calls, and how, is
//! not known here.

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
    log: Log,
    clock: Clock,
}

struct State {
    origin: Origin,
    idle: Vec<(u64, Environment)>,
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
            log,
            clock,
        }))
    }

    /// The function, as the next environment has it.
    pub fn function(&self) -> Arc<Function> {
        Arc::clone(&self.0.origin().function)
    }

    /// Starts an environment before anybody calls.
    ///
    /// # Errors
    /// When there is nowhere to run. A function that does not start is no error: its log says so, and its first call
    /// tries again.
    pub async fn warm(&self) -> Result<(), Error> {
        let _turn = self.0.turn().await?;
        let started = self.0.start().await?;
        self.0.give_back(started).await;
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

    /// Has every later call answered by environments made of this; older ones finish theirs.
    pub async fn replace(&self, function: Function, places: Places) {
        let old = {
            let mut state = self.0.state();
            state.origin = Origin {
                version: state.origin.version + 1,
                function: Arc::new(function),
                places,
            };
            std::mem::take(&mut state.idle)
        };
        shut_down(old).await;
    }

    /// Ends every environment, with the time to shut down that Lambda gives; calls under way are given up.
    pub async fn end(&self) {
        self.0.ended.send_replace(true);
        // Whoever has a turn gives it back at once now.
        let _all = self.0.turns.acquire_many(self.0.size).await;
        let idle = std::mem::take(&mut self.0.state().idle);
        shut_down(idle).await;
    }
}

async fn shut_down(environments: Vec<(u64, Environment)>) {
    let each = environments.into_iter();
    future::join_all(each.map(|(_, environment)| environment.shutdown())).await;
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn origin(&self) -> Origin {
        self.state().origin.clone()
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
            let environment = match self.idle() {
                Some(environment) => environment,
                None => self.start().await?,
            };
            Ok((turn, environment))
        };
        let (_turn, (version, mut environment)) = match made.await {
            Ok(made) => made,
            Err(error) => return tell(answer, Err(error)),
        };
        let work = async { environment.invoke(call).await.map_err(Error::Place) };
        let outcome = self.unless_ended(work).await;
        let is_over = outcome.is_err();
        // What failed may take seconds to end: that is not the caller's time.
        tell(answer, outcome);
        if is_over {
            environment.shutdown().await;
        } else {
            environment.reset().await;
            self.give_back((version, environment)).await;
        }
    }

    /// An environment that waits for a call. Those that were killed meanwhile are dropped.
    fn idle(&self) -> Option<(u64, Environment)> {
        let mut state = self.state();
        state.idle.retain(|(_, environment)| !environment.is_gone());
        state.idle.pop()
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

    /// Keeps an environment for the next call, unless it was killed or what it was made of was replaced.
    async fn give_back(&self, (version, environment): (u64, Environment)) {
        if environment.is_gone() {
            return;
        }
        let old = {
            let mut state = self.state();
            if state.origin.version == version && !*self.ended.borrow() {
                state.idle.push((version, environment));
                None
            } else {
                Some(environment)
            }
        };
        if let Some(old) = old {
            old.shutdown().await;
        }
    }
}

/// Gives an answer to whoever still waits for it.
fn tell(answer: oneshot::Sender<Result<Outcome, Error>>, outcome: Result<Outcome, Error>) {
    let _ = answer.send(outcome);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::lambda::environment::testing::{self, RUNTIME, Stage, echo};

    type Stages = Arc<Mutex<Vec<Arc<Stage>>>>;

    /// A fleet of one, and the stages that it has made.
    fn fleet() -> (Fleet, Stages) {
        let stages = Stages::default();
        let made = Arc::clone(&stages);
        let places: Places = Arc::new(move || {
            let stage = Arc::new(Stage::default().with(RUNTIME, echo));
            made.lock().unwrap().push(Arc::clone(&stage));
            Box::pin(async { Ok(stage as Arc<dyn Place>) })
        });
        let log = testing::log().0;
        let fleet = Fleet::new(testing::function(), places, 1, log, testing::clock);
        (fleet, stages)
    }

    async fn call(fleet: &Fleet, event: &str) -> Result<Outcome, Error> {
        let event = event.to_owned().into();
        let call = Invocation {
            event,
            ..Invocation::default()
        };
        fleet.invoke(call).await
    }

    #[tokio::test]
    async fn an_environment_that_was_killed_is_replaced() {
        let (fleet, stages) = fleet();
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
        let (fleet, stages) = fleet();
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
}
