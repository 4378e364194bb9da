//! `pylock.toml` as it is written: from wheels that were chosen, and what it was made from.
//!
//! Follows the pylock specification (PEP 751). The text is a function of its inputs alone: no time, no
//! machine. What a resolver wrote itself stays as it is; only the table `tool.lambimg` is added.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::python::Target;
use crate::python::lock::{Location, LockedWheel};

/// What a lock was made from, kept in its table `tool.lambimg`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFrom {
    /// Checksum of the requirements.
    pub inputs: Digest,
    /// The full Python version it was resolved for.
    pub python: String,
    /// The architecture it was resolved for.
    pub machine: String,
    /// The glibc it was resolved for.
    pub glibc: String,
}

impl MadeFrom {
    /// What a lock for `target` is made from.
    pub fn new(inputs: Digest, target: Target) -> Self {
        Self {
            inputs,
            python: target.full_version().to_string(),
            machine: target.machine.to_string(),
            glibc: target.glibc.to_string(),
        }
    }

    /// Whether a lock with this record still stands for these requirements and this target.
    pub fn stands_for(&self, inputs: Digest, target: Target) -> bool {
        *self == Self::new(inputs, target)
    }
}

/// The text of a lock that holds `wheels` for `target`, sorted by name as other tools sort.
///
/// Where one resolution serves one target alone, its environment says so.
pub fn write(wheels: &[LockedWheel], target: Target) -> String {
    let (python, machine) = (target.python, target.machine);
    let mut text = format!(
        "lock-version = \"1.0\"\n\
         environments = [\"implementation_name == 'cpython' and sys_platform == 'linux' and \
         platform_machine == '{machine}'\"]\n\
         requires-python = \"=={python}.*\"\n\
         created-by = \"lambimg\"\n"
    );
    let mut wheels: Vec<&LockedWheel> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| &wheel.name);
    for wheel in wheels {
        let location = match &wheel.location {
            Location::Url(url) => format!("url = {}", quoted(url.as_str())),
            Location::Path(path) => format!("path = {}", quoted(&path.to_string_lossy())),
        };
        let size = wheel.size.map(|size| format!(", size = {size}"));
        let _ = write!(
            text,
            "\n[[packages]]\nname = {}\nversion = {}\n\
             wheels = [{{ {location}{}, hashes = {{ sha256 = \"{}\" }} }}]\n",
            quoted(&wheel.name),
            quoted(&wheel.version),
            size.unwrap_or_default(),
            wheel.digest.hex(),
        );
    }
    text
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Adds the record of what a lock was made from at the end of its `text`, which stays as it is.
pub fn with_made_from(text: &str, made_from: &MadeFrom) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!(
        "{text}{end}\n[tool.lambimg]\ninputs = \"{}\"\npython = {}\nmachine = {}\nglibc = {}\n",
        made_from.inputs,
        quoted(&made_from.python),
        quoted(&made_from.machine),
        quoted(&made_from.glibc),
    )
}
