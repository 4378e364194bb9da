//! Layers of earlier images, taken over by what they were made for: the repository is everybody's cache.
//!
//! An image says in a label what decided each layer that was put on its base, and which it is, the lowest first; then,
//! behind a semicolon, what all layers of packages were made for together, which of the layers is the first of them,
//! and what each lays claim to. One label, so that nothing of it can be a base's. A label, because Docker's manifests
//! have no annotations, because a copy into other media types keeps it, and because a manifest is to stay
//! small. What it says is believed, so nobody is asked but the repositories that are pushed to and
//! those that the user names. It knows keys, not what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::blob_store::MemoKey;
use crate::build::claims::Claims;
use crate::build::dependencies::Dependencies;
use crate::build::{Made, PARALLEL, Tools, base};
use crate::digest::Digest;
use crate::oci::image::{Image, LAYERS};
use crate::oci::layer::Layer;
use crate::oci::reference::Reference;
use crate::plan::Plan;
use crate::registry::{self, Access};

/// Where the claims of one are not said.
const UNSAID: &str = "-";
/// Enough of a digest to tell keys apart, in hexadecimal digits, and layers of one image.
const DIGITS: usize = 32;
const OF_LAYER: usize = 16;
/// Images asked at once.
const ASKED: usize = 16;

/// What decides a layer, in short.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(String);

impl From<&MemoKey> for Key {
    fn from(key: &MemoKey) -> Self {
        Self(key.digest().hex()[..DIGITS].to_owned())
    }
}

/// What an image's label says of its layers, of which `first` is the lowest of `packages`.
pub(super) fn label(made: &[Made], packages: &Dependencies, first: usize) -> (String, String) {
    let said = made.iter().map(|made| {
        let digest = made.layer.digest.hex();
        format!("{}:{}", made.key.0, &digest[..OF_LAYER])
    });
    let mut text = said.collect::<Vec<_>>().join(" ");
    if let Some(key) = &packages.key {
        let claims = packages.layers.iter().map(|layer| {
            let claims = layer.claims.as_ref();
            claims.map_or_else(|| UNSAID.to_owned(), Claims::to_text)
        });
        let claims: Vec<_> = claims.collect();
        let _ = write!(text, ";{} {first} {}", key.0, claims.join(","));
    }
    (LAYERS.to_owned(), text)
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
    access: Access,
    /// In the order of the label; nothing where the image does not have what it says.
    layers: Vec<Option<Found>>,
    /// What all layers of packages were made for together, and which they are.
    packages: Option<(Key, Range<usize>)>,
}

impl Prior {
    /// What an image says of itself, if it is one of ours. Whoever copied it may have put layers onto it, or have
    /// compressed them anew: of such a layer it says nothing.
    fn of(image: &Image, asked: &Asked) -> Option<Self> {
        let label = image.config.labels.get(LAYERS)?;
        let (said, packages) = match label.split_once(';') {
            Some((said, packages)) => (said, Some(packages)),
            None => (&**label, None),
        };
        let all = image.manifest.layers.iter().zip(&image.config.diff_ids);
        let all: Vec<_> = all.collect();
        let family = image.manifest.family;
        let find = |digest: &str| {
            let mut all = all.iter();
            let (descriptor, diff_id) = all.find(|(descriptor, _)| {
                let is_ours = descriptor.media_type == family.layer();
                is_ours && descriptor.digest.hex().starts_with(digest)
            })?;
            Some(Layer {
                digest: descriptor.digest,
                size: descriptor.size,
                diff_id: **diff_id,
            })
        };
        let layers = said.split(' ').map(|said| {
            let (key, digest) = said.split_once(':')?;
            let layer = find(digest).filter(|_| digest.len() == OF_LAYER);
            Some(layer.map(|layer| Found {
                layer,
                key: Key(key.to_owned()),
                claims: None,
            }))
        });
        let mut prior = Self {
            reference: asked.reference.clone(),
            access: asked.access,
            layers: layers.collect::<Option<_>>()?,
            packages: None,
        };
        if let Some(packages) = packages {
            let mut words = packages.split(' ');
            let (key, first, claims) = (words.next()?, words.next()?, words.next()?);
            let first: usize = first.parse().ok()?;
            let claims: Vec<_> = claims.split(',').collect();
            let which = first..first.checked_add(claims.len())?;
            let packages = prior.layers.get_mut(which.clone())?;
            for (found, text) in packages.iter_mut().zip(claims) {
                let said = match text {
                    UNSAID => None,
                    text => Some(Claims::from_text(text)?),
                };
                if let Some(found) = found {
                    found.claims = said;
                }
            }
            prior.packages = Some((Key(key.to_owned()), which));
        }
        Some(prior)
    }

    /// The layers of packages.
    fn packages(&self) -> &[Option<Found>] {
        let which = self.packages.as_ref().map(|(_, which)| which.clone());
        which
            .and_then(|which| self.layers.get(which))
            .unwrap_or_default()
    }
}

/// The images that layers may be taken from; none by default. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Earlier(Arc<Sources>);

/// An image to ask.
#[derive(Debug)]
struct Asked {
    reference: Reference,
    /// Whether the user named it.
    is_named: bool,
    /// What is meant to be done in its repository.
    access: Access,
    architecture: &'static str,
}

#[derive(Debug, Default)]
struct Sources {
    references: Vec<Asked>,
    /// What they have, read when it is first asked for.
    priors: OnceCell<Vec<Prior>>,
    /// Where the layers are that were taken.
    taken: Mutex<BTreeMap<Digest, Reference>>,
}

impl Earlier {
    /// The images that the builds of a run may take from: what one of them is pushed over all may take from.
    pub(super) fn of(plans: &[Arc<Plan>]) -> Self {
        let may = |plan: &&Arc<Plan>| !plan.policy.no_cache && !plan.policy.offline;
        let plans = || plans.iter().filter(may);
        let named = plans().flat_map(|plan| plan.cache_from.iter().map(move |r| (plan, r, true)));
        let pushed = plans().flat_map(|plan| plan.push.iter().map(move |r| (plan, r, false)));
        let mut seen = BTreeSet::new();
        let once = named.chain(pushed).filter(|(plan, reference, _)| {
            seen.insert((plan.architecture.oci(), reference.to_string()))
        });
        let repositories: BTreeSet<_> = plans()
            .flat_map(|plan| plan.push.iter().map(Reference::name))
            .collect();
        let once = once.map(|(plan, reference, named)| {
            let is_pushed = repositories.contains(&reference.name());
            // One login, one token, for both.
            let access = if is_pushed {
                Access::Push
            } else {
                Access::Pull
            };
            Asked {
                reference: reference.clone(),
                is_named: named,
                access,
                architecture: plan.architecture.oci(),
            }
        });
        Self(Arc::new(Sources {
            references: once.collect(),
            ..Sources::default()
        }))
    }

    /// The layer that was made for `key`, if one of the images has it and its repository still does.
    pub(super) async fn layer(&self, key: &Key, tools: &Tools) -> Option<Layer> {
        self.single(key, tools).await.map(|found| found.layer)
    }

    /// As [`Self::layer`], with what is said of it.
    pub(super) async fn single(&self, key: &Key, tools: &Tools) -> Option<Found> {
        self.find(key, |prior| &prior.layers, tools).await
    }

    /// As [`Self::layer`], of packages.
    pub(super) async fn package(&self, key: &Key, tools: &Tools) -> Option<Found> {
        self.find(key, Prior::packages, tools).await
    }

    async fn find(
        &self,
        key: &Key,
        layers: impl Fn(&Prior) -> &[Option<Found>],
        tools: &Tools,
    ) -> Option<Found> {
        for prior in self.priors(tools).await {
            let mut found = layers(prior).iter().flatten();
            let found = found.find(|found| found.key == *key);
            if let Some(found) = found
                && is_there(prior, &found.layer, tools).await
            {
                self.take(prior, [found]);
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
            let layers = prior.packages().iter().cloned().collect::<Option<Vec<_>>>();
            let is_same = prior
                .packages
                .as_ref()
                .is_some_and(|(other, _)| other == key);
            let Some(layers) = layers.filter(|layers| is_same && layers.len() == count) else {
                continue;
            };
            let looks = layers
                .iter()
                .map(|found| is_there(prior, &found.layer, tools));
            let found: Vec<bool> = stream::iter(looks).buffered(PARALLEL).collect().await;
            if found.into_iter().all(|found| found) {
                self.take(prior, &layers);
                return Some(layers);
            }
        }
        None
    }

    /// Where the layers are that were taken.
    pub(super) fn taken(&self) -> BTreeMap<Digest, Reference> {
        let taken = self.0.taken.lock();
        taken.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes where layers come from that are proven to be there.
    fn take<'a>(&self, prior: &Prior, layers: impl IntoIterator<Item = &'a Found>) {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = layers.into_iter();
        taken.extend(layers.map(|found| (found.layer.digest, prior.reference.clone())));
    }

    async fn priors(&self, tools: &Tools) -> &[Prior] {
        let read = async || {
            let references = self.0.references.iter();
            let priors = references.map(|asked| self.read(asked, tools));
            let priors: Vec<_> = stream::iter(priors).buffered(ASKED).collect().await;
            priors.into_iter().flatten().collect()
        };
        self.0.priors.get_or_init(read).await
    }

    /// Reads what an image says of itself. That there is none is the rule for what is pushed first.
    async fn read(&self, asked: &Asked, tools: &Tools) -> Option<Prior> {
        let (reference, named) = (&asked.reference, asked.is_named);
        let image = async {
            let source = match asked.access {
                Access::Pull => tools.registries.source(reference)?,
                access @ Access::Push => tools.registries.own_source(reference, access)?,
            };
            base::look_in(&source, reference, Some(asked.architecture), &tools.store).await
        };
        match image.await {
            Ok((image, _)) => {
                let prior = Prior::of(&image, asked);
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

/// Proves that a layer is still there.
async fn is_there(prior: &Prior, layer: &Layer, tools: &Tools) -> bool {
    let repository = tools.registries.repository(&prior.reference, prior.access);
    match repository {
        Ok(repository) => repository.has_blob(&layer.digest).await.unwrap_or(false),
        Err(_) => false,
    }
}
