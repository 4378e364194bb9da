//! Work that several functions of a run have in common: done once, by whoever asks first, for all who ask.
//!
//! What came of it is there for all who ask later, failures as well. Where who began gives up the next one begins anew.
//! It knows no plan: work is told apart by its key alone.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, OwnedMutexGuard};

use crate::build::Error;
use crate::digest::Digest;

type Answer = Result<Arc<dyn Any + Send + Sync>, Arc<Error>>;

/// The work of one run; the default shares nothing. Cheap to clone.
#[derive(Clone, Default)]
pub struct Once(Option<Arc<Mutex<State>>>);

#[derive(Default)]
struct State {
    answers: BTreeMap<Digest, Arc<OnceCell<Answer>>>,
    turns: BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>,
}

/// Forgets what a run has done when it is dropped.
pub(super) struct Run(Once);

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut state) = self.0.state() {
            *state = State::default();
        }
    }
}

impl Once {
    /// The work of a run that begins here.
    pub(super) fn begin() -> (Self, Run) {
        let once = Self(Some(Arc::default()));
        (once.clone(), Run(once))
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.0.as_deref()?;
        Some(state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, key: &str) -> Option<Arc<OnceCell<Answer>>> {
        let mut state = self.state()?;
        Some(Arc::clone(
            state.answers.entry(Digest::of(key)).or_default(),
        ))
    }

    /// What comes of `work`, which is done unless that of the same key is or was.
    ///
    /// # Errors
    /// Those of the work; [`Error::Shared`] where the work is shared.
    pub(super) async fn of<T: Clone + Send + Sync + 'static>(
        &self,
        key: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(answer) = self.answer(key) else {
            return work.await;
        };
        let work = async || match work.await {
            Ok(value) => Ok(Arc::new(value) as Arc<dyn Any + Send + Sync>),
            Err(Error::Shared(error)) => Err(error),
            Err(error) => Err(Arc::new(error)),
        };
        let value = answer.get_or_init(work).await;
        let value = value
            .as_ref()
            .map_err(|error| Error::Shared(Arc::clone(error)))?;
        // Of one key is work of one kind.
        value.downcast_ref().cloned().ok_or(Error::Interrupted)
    }

    /// Waits until nobody else of the run has the turn of this key; nobody has it twice at the same time.
    pub(super) async fn turn(&self, key: &str) -> Option<OwnedMutexGuard<()>> {
        let turn = Arc::clone(self.state()?.turns.entry(Digest::of(key)).or_default());
        Some(turn.lock_owned().await)
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn work_is_done_once_though_who_began_it_gives_up() {
        let (once, _run) = Once::begin();
        let count = AtomicUsize::new(0);
        let work = async || {
            tokio::task::yield_now().await;
            Ok(count.fetch_add(1, Ordering::Relaxed))
        };
        {
            let begun = std::pin::pin!(once.of("a", work()));
            let mut context = Context::from_waker(Waker::noop());
            assert!(begun.poll(&mut context).is_pending());
        }
        let both = tokio::join!(once.of("a", work()), once.of("a", work()));
        assert!(matches!(both, (Ok(0), Ok(0))));
        assert!(matches!(once.of("b", work()).await, Ok(1)));
        // Where nothing is shared each does its own.
        let alone = Once::default();
        assert!(matches!(alone.of("a", work()).await, Ok(2)));
        assert!(matches!(alone.of("a", work()).await, Ok(3)));
    }

    #[tokio::test]
    async fn failures_are_shared_as_well() {
        let (once, _run) = Once::begin();
        let fail = || async { Err::<(), _>(Error::Interrupted) };
        let both = tokio::join!(once.of("a", fail()), once.of("a", fail()));
        let (Err(Error::Shared(first)), Err(Error::Shared(second))) = both else {
            panic!("both fail");
        };
        assert!(Arc::ptr_eq(&first, &second));
    }
}
