//! Layers go up while others are still made.
//!
//! The first layer that is made anew says that no repository can have this image, so from then on each
//! layer is sent as soon as it has a name, and the base's with it; where all layers are remembered, nothing
//! goes before the image, for one look at its manifest may do. A layer without a name yet is not sent: a
//! repository that has it would be sent it again. Where tags are to stay and one is not seen to be free, nothing
//! goes early, for the image may be refused. What fails here is tried again with the image.
//!
//! Of several images only one goes early, and what others have of it is sent once: to one repository of a registry,
//! from which the rest mount it. Registries may know a blob to mount only once a manifest refers to it, so the manifest
//! goes there by its digest first. Tags come last of all.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::build::sbom::{self, Format};
use crate::build::{Error, Pushed, Tools, checking, many};
use crate::digest::Digest;
use crate::oci::image::Image;
use crate::oci::layer::Layer;
use crate::oci::reference::{Name, Reference};
use crate::oci::{Descriptor, Family};
use crate::registry;
use crate::registry::push::{self, Push};
use crate::registry::referrers::Artifact;
use crate::registry::tags::Look;

/// Repositories that are looked at together, and that are sent to together.
const LOOKS: usize = 16;
const PUSHES: usize = 4;

/// When an image was made, in RFC 3339: what is made of it again is the same.
const CREATED: &str = "org.opencontainers.image.created";
/// What a document that was made here knows of the image's wheels: their hashes, or not of all layers.
const SBOM: &str = "lambimg.sbom";
const WHOLE: &str = "whole";
const LESS: &str = "without-wheels";

/// Tells of layers as they are made; the default tells nobody. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Announcer {
    sender: Option<UnboundedSender<News>>,
    /// Whose image is made.
    plan: usize,
    /// Whether no other image of the run has what is told of.
    is_own: bool,
}

#[derive(Debug)]
enum News {
    Base {
        plan: usize,
        image: Box<Image>,
    },
    Made {
        plan: usize,
        is_own: bool,
        layer: Layer,
    },
    /// All that there will be is told.
    End,
}

impl Announcer {
    fn tell(&self, news: impl FnOnce() -> News) {
        if let Some(sender) = &self.sender {
            // Whoever does not listen any more has all it wants.
            let _ = sender.send(news());
        }
    }

    /// Tells of the image of this plan.
    pub(super) fn of(&self, plan: usize) -> Self {
        Self {
            plan,
            ..self.clone()
        }
    }

    /// Tells of what this plan's image alone has.
    pub(super) fn own(&self) -> Self {
        Self {
            is_own: true,
            ..self.clone()
        }
    }

    /// Tells of the image that the layers go onto.
    pub(super) fn base(&self, image: &Image) {
        self.tell(|| News::Base {
            plan: self.plan,
            image: Box::new(image.clone()),
        });
    }

    /// Tells of a layer that was not there before.
    pub(super) fn made(&self, layer: &Layer) {
        self.tell(|| News::Made {
            plan: self.plan,
            is_own: self.is_own,
            layer: layer.clone(),
        });
    }

    /// Says that nothing more will be told, by whomever.
    pub(super) fn end(&self) {
        self.tell(|| News::End);
    }
}

type Blob = (Descriptor, Option<Reference>);

/// An upload says nothing of media types.
fn descriptor(layer: &Layer) -> Descriptor {
    Descriptor {
        media_type: Family::Oci.layer().to_owned(),
        digest: layer.digest,
        size: layer.size,
        annotations: BTreeMap::new(),
    }
}

/// An image's layers, each once, and where each can be had.
fn layers_of(image: &Image) -> Vec<Blob> {
    let layers = image.manifest.layers.iter();
    let once: BTreeMap<_, _> = layers.map(|layer| (layer.digest, layer)).collect();
    let blob = |layer: &Descriptor| (layer.clone(), image.origins.get(&layer.digest).cloned());
    once.into_values().map(blob).collect()
}

/// The tag that a reference asks for; one beside a digest is put all the same.
fn tag(reference: &Reference) -> Option<String> {
    let only = || reference.digest.is_none().then(|| reference.version());
    reference.tag.clone().or_else(only)
}

/// What a push that failed has done, if a tag has moved.
fn moved(push: &Push, image: &Image, references: &[Reference]) -> Option<Pushed> {
    let (tags, summary) = push.so_far(image);
    let first = tags.first()?.clone();
    let mut named = references.iter();
    let reference = named.find(|reference| tag(reference).as_ref() == Some(&first))?;
    Some(Pushed {
        reference: reference.clone(),
        tags,
        summary,
        sbom: None,
    })
}

/// One repository that one image of the run goes to, and what for.
struct Destination {
    plan: usize,
    push: Push,
    references: Vec<Reference>,
}

impl Destination {
    fn registry(&self) -> &str {
        &self.push.target().registry
    }
}

/// All pushes of a run, in the order of its plans.
pub(super) struct Destinations {
    pushes: Vec<Destination>,
    /// How many images there are.
    plans: usize,
    /// Whose blobs go early.
    lead: OnceLock<usize>,
}

/// What is known while blobs go early.
struct Hearing {
    receiver: UnboundedReceiver<News>,
    bases: BTreeMap<usize, Box<Image>>,
}

impl Destinations {
    /// Begins the pushes of each plan to all its references, one for each repository; nothing is sent yet.
    pub(super) fn begin(plans: &[&[Reference]], tools: &Tools) -> Result<Self, Error> {
        let mut pushes = Vec::new();
        for (plan, references) in plans.iter().enumerate() {
            let mut repositories: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
            for reference in *references {
                let group = repositories.entry(reference.name()).or_default();
                group.push(reference.clone());
            }
            for references in repositories.into_values() {
                let (store, registries) = (&tools.store, &tools.registries);
                let (options, progress) = (&tools.pushing, &tools.progress);
                let tags = references.iter().filter_map(tag).collect();
                let push = Push::begin(&references[0], tags, store, registries, options, progress)?;
                pushes.push(Destination {
                    plan,
                    push,
                    references,
                });
            }
        }
        Ok(Self {
            pushes,
            plans: plans.len(),
            lead: OnceLock::new(),
        })
    }

    /// Who is to be told of layers, and who sends what is told until all is told.
    pub(super) fn listen(&self) -> (Announcer, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let announcer = Announcer {
            sender: (!self.pushes.is_empty()).then_some(sender),
            ..Announcer::default()
        };
        (announcer, self.send_early(receiver))
    }

    async fn send_early(&self, receiver: UnboundedReceiver<News>) {
        let hearing = Hearing {
            receiver,
            bases: BTreeMap::new(),
        };
        let news = stream::unfold(hearing, |mut hearing| async move {
            let blobs = self.early(hearing.receiver.recv().await?, &mut hearing.bases)?;
            Some((blobs, hearing))
        });
        let pushes = self.pushes.iter().map(|to| &to.push);
        let may_begin = OnceCell::new();
        let may_begin = async || {
            let ask = async || {
                let answers = pushes.clone().map(Push::may_begin_early);
                join_all(answers).await.into_iter().all(|may| may)
            };
            *may_begin.get_or_init(ask).await
        };
        let blobs = news.flat_map(stream::iter);
        blobs
            .for_each_concurrent(push::PARALLEL, |(blob, origin)| async move {
                if !may_begin().await {
                    return;
                }
                let pushes = self.one_a_registry();
                join_all(pushes.map(|push| push.bring_early(&blob, origin.as_ref()))).await;
            })
            .await;
    }

    /// What is to go early by what is told now; nothing where all is told. Only what one image has goes early: the
    /// first of which a layer is made that others may have too.
    fn early(&self, news: News, bases: &mut BTreeMap<usize, Box<Image>>) -> Option<Vec<Blob>> {
        let is_lead = |plan| self.lead.get() == Some(&plan);
        match news {
            News::End => None,
            News::Base { plan, image } if is_lead(plan) => Some(layers_of(&image)),
            News::Base { plan, image } => {
                bases.insert(plan, image);
                Some(Vec::new())
            }
            News::Made {
                plan,
                is_own,
                layer,
            } => {
                let mut blobs = Vec::new();
                if (!is_own || self.plans == 1) && self.lead.set(plan).is_ok() {
                    blobs.extend(bases.remove(&plan).iter().flat_map(|base| layers_of(base)));
                }
                if is_lead(plan) {
                    blobs.insert(0, (descriptor(&layer), None));
                }
                Some(blobs)
            }
        }
    }

    /// The first push of the image that goes early to each registry: the others take over what it brought, once a
    /// manifest there refers to it.
    fn one_a_registry(&self) -> impl Iterator<Item = &Push> {
        let mut registries = BTreeSet::new();
        let lead = self.lead.get().copied();
        let of_lead = self.pushes.iter().filter(move |to| Some(to.plan) == lead);
        of_lead.filter_map(move |to| registries.insert(to.registry()).then_some(&to.push))
    }

    /// Ends all pushes with the images, one for each plan, and gives what came of each. Before a tag moves, all images
    /// are under their digests in all repositories. What ends that ends it for all, so that no tag moves.
    pub(super) async fn finish(mut self, images: &[&Image]) -> Vec<Result<Vec<Pushed>, Error>> {
        let wrong = images.iter().enumerate().map(|(plan, image)| {
            let actual = image.manifest.digest();
            let of_plan = self.pushes.iter().filter(|to| to.plan == plan);
            let mut digests = of_plan
                .flat_map(|to| &to.references)
                .filter_map(|r| r.digest);
            match digests.find(|wanted| *wanted != actual) {
                Some(wanted) => Err(Error::OtherDigest { wanted, actual }),
                None => Ok(()),
            }
        });
        if let Err(errors) = many::whole(wrong.collect()) {
            return errors;
        }
        // All are looked at before anything goes to one of them.
        let looks = self.pushes.iter();
        let looks = looks.map(|to| async { (to.plan, to.push.look(images[to.plan]).await) });
        let looks: Vec<_> = stream::iter(looks).buffered(LOOKS).collect().await;
        let mut failed = BTreeMap::new();
        let mut seen = Vec::new();
        for (plan, look) in looks {
            match look {
                Ok(look) => seen.push(look),
                Err(error) => drop(failed.entry(plan).or_insert(error)),
            }
        }
        if !failed.is_empty() {
            return self.failed(failed);
        }
        let order = self.take_over(images, &seen);
        let landing = order.into_iter().map(|at| {
            let (to, look) = (&self.pushes[at], &seen[at]);
            async move { (to.plan, to.push.land(images[to.plan], look).await) }
        });
        // Begun in their order, so that nobody waits for one that is not begun.
        let mut landing = stream::iter(landing).buffer_unordered(PUSHES);
        while let Some((plan, landed)) = landing.next().await {
            if let Err(error) = landed {
                drop(landing);
                return self.failed([(plan, error)].into());
            }
        }
        drop(landing);
        let named = (0..self.plans).map(|plan| self.name(plan, images[plan], &seen));
        stream::iter(named).buffered(PUSHES).collect().await
    }

    /// What came of each where some failed before any tag moved.
    fn failed(
        &self,
        mut errors: BTreeMap<usize, registry::Error>,
    ) -> Vec<Result<Vec<Pushed>, Error>> {
        let of = |plan| errors.remove(&plan).map_or(Error::Undelivered, Error::from);
        (0..self.plans).map(of).map(Err).collect()
    }

    /// Has each push wait for what one before it brings to the same registry, and gives their order: those first whose
    /// image is there already, then that which went early.
    fn take_over(&mut self, images: &[&Image], looks: &[Look]) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.pushes.len()).collect();
        let lead = self.lead.get().copied();
        order.sort_by_key(|&at| (!looks[at].is_there, Some(self.pushes[at].plan) != lead, at));
        let mut first: BTreeMap<(String, Digest), usize> = BTreeMap::new();
        for &at in &order {
            let to = &self.pushes[at];
            let mut near: BTreeMap<usize, Vec<Digest>> = BTreeMap::new();
            for blob in images[to.plan].blobs() {
                let key = (to.registry().to_owned(), blob.digest);
                match first.entry(key) {
                    Entry::Occupied(other) => {
                        near.entry(*other.get()).or_default().push(blob.digest);
                    }
                    Entry::Vacant(own) => drop(own.insert(at)),
                }
            }
            for (other, blobs) in near {
                if let Ok([to, other]) = self.pushes.get_disjoint_mut([at, other]) {
                    to.push.take_over(&other.push, &blobs);
                }
            }
        }
        order
    }

    /// Puts the tags of one plan's image.
    async fn name(&self, plan: usize, image: &Image, looks: &[Look]) -> Result<Vec<Pushed>, Error> {
        let mut pushed: Vec<Pushed> = Vec::new();
        let all = self.pushes.iter().zip(looks);
        for (to, look) in all.filter(|(to, _)| to.plan == plan) {
            let (push, references) = (&to.push, &to.references);
            let summary = match push.name(image, look).await {
                Ok(summary) => summary,
                Err(source) => {
                    pushed.extend(moved(push, image, references));
                    return Err(if pushed.is_empty() {
                        source.into()
                    } else {
                        let image = Box::new(image.clone());
                        Error::PartlyPushed {
                            pushed,
                            image,
                            source,
                        }
                    });
                }
            };
            pushed.push(Pushed {
                reference: references[0].clone(),
                tags: references.iter().filter_map(tag).collect(),
                summary,
                sbom: None,
            });
        }
        Ok(pushed)
    }
}

/// Has a bill of materials belong to a pushed image in each of its repositories, as an artifact of its own. Where one of
/// an earlier push is there and says of wheels what is not known here, that one stays alone.
///
/// # Errors
/// [`Error::NotAttached`], [`Error::Unlisted`], and those of reading the image.
pub async fn attach(
    image: &Image,
    pushed: &mut [Pushed],
    format: Format,
    tools: &Tools,
) -> Result<(), Error> {
    // What is installed only the layers say, so the base's come here as well.
    let subject = checking::built(image, None, "", tools).await?;
    let wheels = sbom::wheels(&tools.store, &subject);
    let lacks = sbom::lacks(&subject, &wheels);
    for pushed in pushed {
        let name = Name {
            registry: Some(pushed.reference.registry.clone()),
            repository: pushed.reference.repository.clone(),
            tag: None,
            digest: None,
        };
        let document = sbom::document(&subject, Some(&name), &wheels, format)?;
        let knowledge = if lacks { LESS } else { WHOLE };
        let mut annotations = BTreeMap::from([(SBOM, knowledge.to_owned())]);
        annotations.extend(sbom::created(&subject).map(|date| (CREATED, date)));
        let artifact = Artifact {
            media_type: format.media_type(),
            document: document.into_bytes(),
            annotations,
            replaces: (!lacks).then_some((SBOM, LESS)),
        };
        let (store, registries) = (&tools.store, &tools.registries);
        let (options, progress) = (&tools.pushing, &tools.progress);
        let to = &pushed.reference;
        let attached = async {
            let push = Push::begin(to, Vec::new(), store, registries, options, progress)?;
            let described = image.manifest.descriptor();
            let earlier = if lacks {
                let ours = (SBOM, [WHOLE, LESS].as_slice());
                push.attached(&described, artifact.media_type, ours).await
            } else {
                None
            };
            match earlier {
                Some(digest) => Ok((digest, " of an earlier push: wheels are not known here")),
                None => Ok((push.attach(&described, &artifact).await?, "")),
            }
        };
        let (digest, why) = attached.await.map_err(|source| Error::NotAttached {
            image: format!("{}@{}", name.without_version(), image.manifest.digest()),
            format,
            source,
        })?;
        progress.step(format!(
            "the SBOM of {}@{} is {digest}{why}",
            name.without_version(),
            image.manifest.digest()
        ));
        pushed.sbom = Some(digest);
    }
    Ok(())
}
