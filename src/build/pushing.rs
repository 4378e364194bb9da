//! Layers go up while others are still made.
//!
//! The first layer that is made anew says that no repository can have this image, so from then on each
//! layer is sent as soon as it has a name, and the base's with it; where all layers are remembered, nothing
//! goes before the image, for one look at its manifest may do. A layer without a name yet is not sent: a
//! repository that has it would be sent it again. Where tags are to stay and one is not seen to be free, nothing
//! goes early, for the image may be refused. What fails here is tried again with the image.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt as _, stream};
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::build::sbom::{self, Format};
use crate::build::{Error, Pushed, Tools, checking};
use crate::oci::image::Image;
use crate::oci::layer::Layer;
use crate::oci::reference::{Name, Reference};
use crate::oci::{Descriptor, Family};
use crate::registry::push::{self, Push};
use crate::registry::referrers::Artifact;

/// Tells of layers as they are made; the default tells nobody.
#[derive(Debug, Clone, Default)]
pub struct Announcer(Option<UnboundedSender<News>>);

#[derive(Debug)]
enum News {
    Base(Box<Image>),
    Made(Layer),
}

impl Announcer {
    fn tell(&self, news: News) {
        if let Some(sender) = &self.0 {
            // Whoever does not listen any more has all it wants.
            let _ = sender.send(news);
        }
    }

    /// Tells of the image that the layers go onto.
    pub(super) fn base(&self, image: &Image) {
        if self.0.is_some() {
            self.tell(News::Base(Box::new(image.clone())));
        }
    }

    /// Tells of a layer that was not there before.
    pub(super) fn made(&self, layer: &Layer) {
        self.tell(News::Made(layer.clone()));
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

/// One repository to push to, and what for.
struct Destination {
    push: Push,
    references: Vec<Reference>,
}

/// All pushes of a run.
pub(super) struct Destinations(Vec<Destination>);

impl Destinations {
    /// Begins the pushes to all references, one for each repository; nothing is sent yet.
    pub(super) fn begin(references: &[Reference], tools: &Tools) -> Result<Self, Error> {
        let mut repositories: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
        for reference in references {
            let group = repositories.entry(reference.name()).or_default();
            group.push(reference.clone());
        }
        let begin = |references: Vec<Reference>| {
            let (store, registries) = (&tools.store, &tools.registries);
            let (options, progress) = (&tools.pushing, &tools.progress);
            let tags = references.iter().filter_map(tag).collect();
            let push = Push::begin(&references[0], tags, store, registries, options, progress)?;
            Ok(Destination { push, references })
        };
        let destinations: Result<_, Error> = repositories.into_values().map(begin).collect();
        Ok(Self(destinations?))
    }

    /// Who is to be told of layers, and who sends what is told until nobody tells any more.
    pub(super) fn listen(&self) -> (Announcer, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let announcer = if self.0.is_empty() {
            Announcer::default()
        } else {
            Announcer(Some(sender))
        };
        (announcer, self.send_early(receiver))
    }

    async fn send_early(&self, receiver: UnboundedReceiver<News>) {
        let state = (receiver, None::<Box<Image>>, false);
        let news = stream::unfold(state, |(mut receiver, base, begun)| async move {
            Some(match receiver.recv().await? {
                News::Made(layer) => {
                    let mut blobs = vec![(descriptor(&layer), None)];
                    blobs.extend(base.iter().flat_map(|base| layers_of(base)));
                    (blobs, (receiver, None, true))
                }
                News::Base(image) if begun => (layers_of(&image), (receiver, None, true)),
                News::Base(image) => (Vec::new(), (receiver, Some(image), false)),
            })
        });
        let pushes = self.0.iter().map(|to| &to.push);
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

    /// The first push to each registry: the others take over what it brought, once a manifest there refers to it.
    fn one_a_registry(&self) -> impl Iterator<Item = &Push> {
        let mut registries = BTreeSet::new();
        self.0.iter().filter_map(move |destination| {
            let registry = destination.references[0].registry.as_str();
            registries.insert(registry).then_some(&destination.push)
        })
    }

    /// Ends all pushes with the image.
    pub(super) async fn finish(self, image: &Image) -> Result<Vec<Pushed>, Error> {
        let actual = image.manifest.digest();
        let all = self.0.iter().flat_map(|to| &to.references);
        let mut digests = all.filter_map(|reference| reference.digest);
        if let Some(wanted) = digests.find(|wanted| *wanted != actual) {
            return Err(Error::OtherDigest { wanted, actual });
        }
        // All are looked at before anything goes to one of them.
        let looks = self.0.iter().map(|to| to.push.look(image));
        let looks = try_join_all(looks).await?;
        let mut pushed: Vec<Pushed> = Vec::new();
        for (destination, look) in self.0.into_iter().zip(&looks) {
            let Destination {
                mut push,
                references,
            } = destination;
            let registry = &references[0].registry;
            let done = pushed.iter().map(|pushed| &pushed.reference);
            for near in done.filter(|done| done.registry == *registry) {
                push.mount_from(&near.repository);
            }
            let summary = match push.finish(image, look).await {
                Ok(summary) => summary,
                Err(source) => {
                    pushed.extend(moved(&push, image, &references));
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
        let artifact = Artifact {
            media_type: format.media_type(),
            document: document.into_bytes(),
            created: sbom::created(&subject),
        };
        let (store, registries) = (&tools.store, &tools.registries);
        let (options, progress) = (&tools.pushing, &tools.progress);
        let to = &pushed.reference;
        let attached = async {
            let push = Push::begin(to, Vec::new(), store, registries, options, progress)?;
            let described = image.manifest.descriptor();
            let earlier = if lacks {
                push.attached(&described, &artifact).await
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
