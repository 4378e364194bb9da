//! Layers of earlier images, taken over by what they were made for: the repository is everybody's cache.
//!
//! An image says in its labels what decided each layer that was put on its base. Labels, because Docker's
//! manifests have no annotations, because a copy into other media types keeps them, and because a manifest is to
//! stay small. What they say is believed, so nobody is asked but the repositories that are pushed to and
//! those that the user names. It knows keys, not what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::sync::OnceCell;

use crate::blob_store::MemoKey;
use crate::build::claims::Claims;
use crate::build::dependencies::Dependencies;
use crate::build::{PARALLEL, Tools, base};
use crate::digest::Digest;
use crate::oci::image::Image;
use crate::oci::layer::Layer;
use crate::oci::reference::Reference;
use crate::plan::Plan;
use crate::registry::{self, Access};

/// What each layer on the base was made for, the lowest first.
const LAYERS_LABEL: &str = "lambimg.layers";
/// What all layers of packages were made for together, and which of the layers is the first of them.
const PACKAGES_LABEL: &str = "lambimg.packages";
/// What each of those lays claim to.
const PATHS_LABEL: &str = "lambimg.paths";
/// Where the claims of one are not said.
const UNSAID: &str = "-";
/// Enough of a digest to tell keys apart, in hexadecimal digits.
const DIGITS: usize = 32;

/// What decides a layer, in short.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

impl From<&MemoKey> for Key {
    fn from(key: &MemoKey) -> Self {
        Self(key.digest().hex()[..DIGITS].to_owned())
    }
}

/// What an image's labels say of its layers, of which `first` is the lowest of `packages`.
pub(super) fn labels(
    keys: &[&Key],
    packages: &Dependencies,
    first: usize,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if !keys.is_empty() {
        let keys: Vec<_> = keys.iter().map(|key| &*key.0).collect();
        labels.insert(LAYERS_LABEL.to_owned(), keys.join(" "));
    }
    if let Some(key) = &packages.key {
        labels.insert(PACKAGES_LABEL.to_owned(), format!("{} {first}", key.0));
        let claims = packages.layers.iter().map(|layer| {
            let claims = layer.claims.as_ref();
            claims.map_or_else(|| UNSAID.to_owned(), Claims::to_text)
        });
        let claims: Vec<_> = claims.collect();
        labels.insert(PATHS_LABEL.to_owned(), claims.join(","));
    }
    labels
}

/// A layer that an earlier image has.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) layer: Layer,
    /// What it was made for.
    pub(super) key: Key,
    /// What it lays claim to, if that is said.
    pub(super) claims: Option<Claims>,
}

/// An image that somebody built.
#[derive(Debug)]
struct Prior {
    reference: Reference,
    layers: Vec<Found>,
    /// What all layers of packages were made for together, and which they are.
    packages: Option<(Key, Range<usize>)>,
}

impl Prior {
    /// What an image says of itself, if it is one of ours.
    fn of(image: &Image, reference: &Reference) -> Option<Self> {
        let labels = &image.config.labels;
        let keys: Vec<_> = labels.get(LAYERS_LABEL)?.split(' ').collect();
        let all = image.manifest.layers.iter().zip(&image.config.diff_ids);
        let own = image.manifest.layers.len().checked_sub(keys.len())?;
        let layers = all.skip(own).map(|(descriptor, diff_id)| Layer {
            digest: descriptor.digest,
            size: descriptor.size,
            diff_id: *diff_id,
        });
        let layers = keys.into_iter().zip(layers).map(|(key, layer)| Found {
            layer,
            key: Key(key.to_owned()),
            claims: None,
        });
        let mut prior = Self {
            reference: reference.clone(),
            layers: layers.collect(),
            packages: None,
        };
        if let Some(label) = labels.get(PACKAGES_LABEL) {
            let (key, first) = label.split_once(' ')?;
            let first: usize = first.parse().ok()?;
            let claims: Vec<_> = labels.get(PATHS_LABEL)?.split(',').collect();
            let which = first..first.checked_add(claims.len())?;
            let packages = prior.layers.get_mut(which.clone())?;
            for (found, text) in packages.iter_mut().zip(claims) {
                if text != UNSAID {
                    found.claims = Some(Claims::from_text(text)?);
                }
            }
            prior.packages = Some((Key(key.to_owned()), which));
        }
        Some(prior)
    }

    /// The layers of packages.
    fn packages(&self) -> &[Found] {
        let which = self.packages.as_ref().map(|(_, which)| which.clone());
        which
            .and_then(|which| self.layers.get(which))
            .unwrap_or_default()
    }
}

/// The images that layers may be taken from; none by default. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Earlier(Arc<Sources>);

#[derive(Debug, Default)]
struct Sources {
    /// With whether the user named it.
    references: Vec<(Reference, bool)>,
    architecture: &'static str,
    /// What they have, read when it is first asked for.
    priors: OnceCell<Vec<Prior>>,
    /// Where the layers are that were taken.
    taken: Mutex<BTreeMap<Digest, Reference>>,
}

impl Earlier {
    /// The images that a build may take from.
    pub(super) fn of(plan: &Plan) -> Self {
        if plan.policy.no_cache || plan.policy.offline {
            return Self::default();
        }
        let named = plan.cache_from.iter().map(|named| (named.clone(), true));
        let pushed = plan.push.iter().map(|pushed| (pushed.clone(), false));
        let mut seen = BTreeSet::new();
        let once = named
            .chain(pushed)
            .filter(|(reference, _)| seen.insert(reference.to_string()));
        Self(Arc::new(Sources {
            references: once.collect(),
            architecture: plan.architecture.oci(),
            ..Sources::default()
        }))
    }

    /// The layer that was made for `key`, if one of the images has it and its repository still does.
    pub(super) async fn layer(&self, key: &Key, tools: &Tools) -> Option<Layer> {
        let found = self.find(key, |prior| &prior.layers, tools).await;
        found.map(|found| found.layer)
    }

    /// As [`Self::layer`], of packages.
    pub(super) async fn package(&self, key: &Key, tools: &Tools) -> Option<Found> {
        self.find(key, Prior::packages, tools).await
    }

    async fn find(
        &self,
        key: &Key,
        layers: impl Fn(&Prior) -> &[Found],
        tools: &Tools,
    ) -> Option<Found> {
        for prior in self.priors(tools).await {
            let found = layers(prior).iter().find(|found| found.key == *key);
            if let Some(found) = found
                && self.take(prior, &found.layer, tools).await
            {
                return Some(found.clone());
            }
        }
        None
    }

    /// All layers of packages, so many, that were made for `key` together.
    pub(super) async fn packages(
        &self,
        key: &Key,
        count: usize,
        tools: &Tools,
    ) -> Option<Vec<Found>> {
        for prior in self.priors(tools).await {
            let layers = prior.packages();
            let is_same = prior
                .packages
                .as_ref()
                .is_some_and(|(other, _)| other == key);
            if !is_same || layers.len() != count {
                continue;
            }
            let looks = layers
                .iter()
                .map(|found| self.take(prior, &found.layer, tools));
            let found: Vec<bool> = stream::iter(looks).buffered(PARALLEL).collect().await;
            if found.into_iter().all(|found| found) {
                return Some(layers.to_vec());
            }
        }
        None
    }

    /// Where the layers are that were taken.
    pub(super) fn taken(&self) -> BTreeMap<Digest, Reference> {
        let taken = self.0.taken.lock();
        taken.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Proves that a layer is still there.
    async fn take(&self, prior: &Prior, layer: &Layer, tools: &Tools) -> bool {
        let look = async {
            let repository = tools
                .registries
                .repository(&prior.reference, Access::Pull)?;
            repository.has_blob(&layer.digest).await
        };
        let is_there = look.await.is_ok_and(|is_there| is_there);
        if is_there {
            let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.insert(layer.digest, prior.reference.clone());
        }
        is_there
    }

    async fn priors(&self, tools: &Tools) -> &[Prior] {
        let read = async || {
            let references = self.0.references.iter();
            let priors = references.map(|(reference, named)| self.read(reference, *named, tools));
            join_all(priors).await.into_iter().flatten().collect()
        };
        self.0.priors.get_or_init(read).await
    }

    /// Reads what an image says of itself. That there is none is the rule for what is pushed first.
    async fn read(&self, reference: &Reference, named: bool, tools: &Tools) -> Option<Prior> {
        let architecture = Some(self.0.architecture);
        let (registries, store) = (&tools.registries, &tools.store);
        match base::fetch(reference, architecture, registries, store).await {
            Ok(image) => {
                let prior = Prior::of(&image, reference);
                if prior.is_none() && named {
                    let text = format!("{reference} does not say what its layers were made for");
                    tools.progress.warn(text);
                }
                prior
            }
            Err(error) => {
                let text = format!("no layer is taken from {reference}: {error}");
                let is_absent = matches!(
                    error,
                    registry::Error::NotFound { .. } | registry::Error::NoRepository { .. }
                );
                if named && !is_absent {
                    tools.progress.warn(text);
                } else if named {
                    tools.progress.step(text);
                } else {
                    tools.progress.detail(text);
                }
                None
            }
        }
    }
}
