//! One execution environment: what Lambda says to a function and its extensions, and when.
//!
//! The servers of the Runtime API, the Extensions API and the Telemetry API, the variables, the log, and the life
//! cycle of INIT, INVOKE and SHUTDOWN. Who calls, and how many environments there are, is not known here.

mod place;

use std::sync::Arc;

use super::function::Clock;
use super::function::Function;
use super::function::Invocation;
use super::function::Log;
use super::function::Outcome;

pub use place::Place;
pub use place::Reader;
pub use place::Refusal;
pub use place::Running;
pub use place::Started;
pub use place::Usage;

/// An execution environment: a runtime and its extensions, which serve one call after the other.
///
/// What goes wrong inside is answered in Lambda's own documents, as an [`Outcome`]. Dropping it ends its tasks;
/// its programs end with the place.
pub struct Environment {
    place: Arc<dyn Place>,
    function: Arc<Function>,
}

impl Environment {
    /// Starts extensions and runtime, and waits for them for at most ten seconds, as Lambda does.
    ///
    /// An INIT that fails is told in the log, and once more tried by the first call.
    pub async fn start(
        function: Arc<Function>,
        place: Arc<dyn Place>,
        _log: Log,
        _clock: Clock,
    ) -> Self {
        Self { place, function }
    }

    /// Calls the function and waits for its answer, at most for the function's timeout.
    pub async fn invoke(&mut self, _call: Invocation) -> Outcome {
        unimplemented!("{} {:?}", self.function.name, self.place.memory())
    }

    /// Ends it: runtime and extensions are told, where there are extensions, and have Lambda's time for it.
    pub async fn shutdown(self) {}
}
