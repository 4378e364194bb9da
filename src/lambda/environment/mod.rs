//! One execution environment: what Lambda says to a function and its extensions, and when.
//!
//! The servers of the Runtime API, the Extensions API and the Telemetry API, the variables, the log, and the life
//! cycle of INIT, INVOKE and SHUTDOWN. Who calls, and how many environments there are, is not known here.

mod api;
mod documents;
mod frames;
mod journal;
mod life;
mod place;
mod programs;
mod shared;
mod states;
mod telemetry;
mod variables;

#[cfg(test)]
pub(in crate::lambda) mod testing;

pub use life::Environment;
pub use place::Place;
pub use place::Reader;
pub use place::Running;
pub use place::Started;

/// The version of every function here.
const VERSION: &str = "$LATEST";
