//! Whether a registry has another base by now than the one that the lock names.
//!
//! Nothing is changed, and nothing but documents is read.

use serde::Serialize;

use crate::build::pinning::{Pinning, Renewal};
use crate::build::{Error, Tools, base};
use crate::digest::Digest;
use crate::lambda::Architecture;
use crate::plan::{self, Plan};

/// A base in the lock, and in its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// The base, as the plan names it.
    pub reference: String,
    /// The architecture that was compared.
    pub architecture: Architecture,
    /// The lock's.
    pub pinned: Dated,
    /// The registry's.
    pub current: Dated,
}

/// An image and its own date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dated {
    /// The digest of its manifest.
    pub digest: Option<Digest>,
    /// As it says it; an image need not.
    pub created: Option<String>,
}

impl Outdated {
    /// Whether the registry has another.
    pub fn is_outdated(&self) -> bool {
        self.pinned.digest != self.current.digest
    }
}

/// Asks the registry of the plan's base what is at its tag now.
///
/// # Errors
/// When there is nothing to ask or nothing to compare with, and those of the registry.
pub async fn outdated(plan: &Plan, tools: &Tools) -> Result<Outdated, Error> {
    let nothing = |reason| Error::NothingToAsk {
        base: plan.base.to_string(),
        reason,
    };
    let reference = match &plan.base {
        plan::Base::Registry(reference) if reference.digest.is_some() => {
            return Err(nothing(
                "is named by its digest, which leads to the same image for ever",
            ));
        }
        plan::Base::Registry(reference) => reference,
        plan::Base::Place(_) => return Err(nothing("lies on this machine, and in no registry")),
        plan::Base::Host(_) => {
            return Err(nothing(
                "is made of this machine's Python, and in no registry",
            ));
        }
    };
    let pinned = Pinning::open(plan, Renewal::default())?.pinned_base(plan)?;
    let architecture = plan.architecture;
    let now = base::look(
        reference,
        Some(architecture.oci()),
        &tools.registries,
        &tools.store,
    );
    let (_, current) = now.await?;
    Ok(Outdated {
        reference: reference.to_string(),
        architecture,
        pinned: Dated {
            digest: pinned.digests.get(architecture),
            created: pinned.created,
        },
        current: Dated {
            digest: current.digests.get(architecture),
            created: current.created,
        },
    })
}
