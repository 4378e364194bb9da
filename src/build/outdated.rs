//! Whether registries have other images by now than those that the lock names: the base, and those that extensions are
//! of.
//!
//! Nothing is changed, and nothing but documents is read.

use serde::Serialize;

use crate::build::pinning::{Pinning, Renewal, base_key};
use crate::build::pins::{BaseKey, Found, Role};
use crate::build::{Error, Tools, base, opt};
use crate::digest::Digest;
use crate::lambda::Architecture;
use crate::oci::reference::Reference;
use crate::plan::image::{Elsewhere, Extension, Source};
use crate::plan::{self, Plan};

/// An image in the lock, and in its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// What it is taken for.
    pub role: Role,
    /// The image, as the plan names it.
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

/// An image of a plan whose registry may have another by now.
#[derive(Debug)]
pub struct Question<'a> {
    plan: &'a Plan,
    key: BaseKey,
    /// What is taken from it, unless it is the base.
    extension: Option<&'a Extension>,
    /// Where to ask, or why there is nothing to ask.
    reference: Result<&'a Reference, &'static str>,
}

/// What can be asked of registries: the plan's base, and what its extensions name by a tag.
///
/// Where extensions are asked for, a base that has nothing to ask is left out.
pub fn questions(plan: &Plan) -> Vec<Question<'_>> {
    let extensions = plan.extensions.iter().filter_map(|extension| {
        let Source::Image { from, .. } = &extension.source else {
            return None;
        };
        let Elsewhere::Registry(reference) = from else {
            return None;
        };
        reference.digest.is_none().then(|| Question {
            plan,
            key: Pinning::extension_key(plan, from),
            extension: Some(extension),
            reference: Ok(reference),
        })
    });
    let mut all: Vec<_> = extensions.collect();
    let reference = tag_of(&plan.base);
    if reference.is_ok() || all.is_empty() {
        let base = Question {
            plan,
            key: base_key(plan),
            extension: None,
            reference,
        };
        all.insert(0, base);
    }
    all
}

/// The tag of a base in a registry, or why there is none.
fn tag_of(base: &plan::Base) -> Result<&Reference, &'static str> {
    match base {
        plan::Base::Registry(reference) if reference.digest.is_some() => {
            Err("is named by its digest, which leads to the same image for ever")
        }
        plan::Base::Registry(reference) => Ok(reference),
        plan::Base::Place(_) => Err("lies on this machine, and in no registry"),
        plan::Base::Host(_) => Err("is made of this machine's Python, and in no registry"),
    }
}

impl Question<'_> {
    /// The same for those that have one answer.
    pub fn name(&self) -> String {
        format!("{} for {}", self.key, self.plan.architecture)
    }

    /// Asks the registry what is at the tag now.
    ///
    /// # Errors
    /// When there is nothing to ask or nothing to compare with, and those of the registry.
    pub async fn ask(&self, tools: &Tools) -> Result<Outdated, Error> {
        let plan = self.plan;
        let reference = self.reference.map_err(|reason| Error::NothingToAsk {
            base: plan.base.to_string(),
            reason,
        })?;
        let pins = Pinning::open(plan, Renewal::default())?;
        let pinned = pins.pinned_image(plan, &self.key)?;
        let architecture = plan.architecture;
        let now = base::look(
            reference,
            Some(architecture.oci()),
            &tools.registries,
            &tools.store,
        );
        let (_, current) = now.await.map_err(|error| match self.extension {
            Some(extension) => opt::unfit(error.into(), extension),
            None => error.into(),
        })?;
        let dated = |found: Found| Dated {
            digest: found.digests.get(architecture),
            created: found.created,
        };
        Ok(Outdated {
            role: self.key.role,
            reference: self.key.reference.clone(),
            architecture,
            pinned: dated(pinned),
            current: dated(current),
        })
    }
}
