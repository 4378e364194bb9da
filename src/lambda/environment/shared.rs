//! What the servers, the programs and the life cycle of one environment have in common: its states, and its log.
//!
//! Whoever changes the states wakes everybody who waits for one; what the states mean is theirs alone.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::watch;

use super::journal::Journal;
use super::place::Place;
use super::states::States;
use crate::lambda::function::Function;

/// What an environment's tasks have in common.
pub(super) struct Shared {
    /// The function.
    pub(super) function: Arc<Function>,
    /// Where its programs run.
    pub(super) place: Arc<dyn Place>,
    /// Its log.
    pub(super) journal: Journal,
    states: Mutex<States>,
    changed: watch::Sender<()>,
}

impl Shared {
    /// Nothing has begun.
    pub(super) fn new(function: Arc<Function>, place: Arc<dyn Place>, journal: Journal) -> Self {
        Self {
            function,
            place,
            journal,
            states: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the states.
    pub(super) fn look<T>(&self, look: impl FnOnce(&States) -> T) -> T {
        look(&self.states())
    }

    /// Takes a step.
    pub(super) fn step<T>(&self, step: impl FnOnce(&mut States) -> T) -> T {
        let result = step(&mut self.states());
        self.changed.send_replace(());
        result
    }

    /// Waits until a step can be taken, and takes it.
    pub(super) async fn until<T>(&self, mut step: impl FnMut(&mut States) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            let result = step(&mut self.states());
            if let Some(result) = result {
                self.changed.send_replace(());
                return result;
            }
            if changes.changed().await.is_err() {
                // The sender is ours, so this cannot be; waiting is what is left.
                std::future::pending::<()>().await;
            }
        }
    }
}
