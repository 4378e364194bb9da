//! An image opened for its rules, from wherever it lies: every layer read once, and nothing proven.
//!
//! What is wrong with an image is for the rules to say, so it is no error here as long as there is something to
//! look at. Blobs of layouts and archives are read in place; a registry's layers come into the store. Which rules
//! there are is not known here.

use std::collections::BTreeMap;
use std::io::{self, Read};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::build::{self, Error, PARALLEL, Tools};
use crate::lambda::Architecture;
use crate::lambda::check::contents::{Contents, Seen};
use crate::lambda::check::subject::{Document, Documents, Subject};
use crate::lambda::check::{self, Finding};
use crate::oci::Descriptor;
use crate::oci::flatten::{self, Layer};
use crate::oci::image::Image;
use crate::oci::layout::{self, Place};
use crate::oci::opened::{self, Blobs, Descent, Raw};
use crate::oci::reference::{Name, Reference};
use crate::progress::{Progress, Task};
use crate::registry;
use crate::registry::pull::Source;

/// An image under way.
struct Opened {
    documents: opened::Documents,
    blobs: Blobs,
    /// What stands in messages for the place.
    place: String,
    /// Layers that could not be had, by their numbers, and why.
    lost: BTreeMap<usize, String>,
}

/// Opens the image that the user calls `text`, as [`build::open`] understands it, and reads its layers. Of an index
/// it is the image for `architecture`, else the first that Lambda could run. `today` is a day, as `YYYY-MM-DD`.
///
/// # Errors
/// When there is nothing to look at, and those of networks and disks.
pub async fn open(
    text: &str,
    architecture: Option<&str>,
    today: &str,
    tools: &Tools,
) -> Result<Subject, Error> {
    let wanted = oci_name(architecture);
    let opened = find(text, wanted, tools).await?;
    opened.read(wanted, today, tools).await
}

/// Opens two images as [`open`] does one, to compare them: the digests of all their files are known.
///
/// # Errors
/// Those of [`open`].
pub async fn open_two(
    texts: [&str; 2],
    architecture: Option<&str>,
    today: &str,
    tools: &Tools,
) -> Result<[Subject; 2], Error> {
    let wanted = oci_name(architecture);
    // One after the other: layers that both have come from a registry once.
    let first = find(texts[0], wanted, tools).await?;
    let second = find(texts[1], wanted, tools).await?;
    let (progress, today) = (tools.progress.clone(), today.to_owned());
    let work = move || read_two([first, second], wanted, &today, &progress);
    tools.block(work).await?
}

fn oci_name(architecture: Option<&str>) -> Option<&'static str> {
    let wanted = architecture.and_then(|name| name.parse::<Architecture>().ok());
    wanted.map(Architecture::oci)
}

async fn find(text: &str, wanted: Option<&'static str>, tools: &Tools) -> Result<Opened, Error> {
    if let Some(rest) = text.strip_prefix("docker://") {
        let reference = Reference::read(rest).map_err(|_| build::no_image(text, tools))?;
        remote(&reference, wanted, tools).await
    } else if let Ok(place) = text.parse::<Place>() {
        let own = place.clone();
        let opened = tools.block(move || opened::open(&own, wanted)).await??;
        Ok(Opened::new(opened, place.path.display().to_string()))
    } else {
        stored(text, tools).await
    }
}

/// An image that was just built, its layers read; those of its base are brought into the store.
///
/// # Errors
/// Those of networks and disks.
pub async fn built(
    image: &Image,
    wanted: Option<&'static str>,
    today: &str,
    tools: &Tools,
) -> Result<Subject, Error> {
    build::bring_here(image, tools).await?;
    let (manifest, config) = (&image.manifest, &image.manifest.config);
    let documents = opened::Documents {
        index: None,
        manifest: Some(Raw {
            bytes: manifest.raw.clone(),
            media_type: Some(manifest.family.manifest().to_owned()),
            stated: None,
        }),
        config: Raw {
            bytes: image.config.raw.clone(),
            media_type: Some(config.media_type.clone()),
            stated: Some((config.digest, config.size)),
        },
        layers: manifest.layers.iter().cloned().map(Some).collect(),
    };
    let blobs = Blobs::of_store(&tools.store);
    let place = tools.store.root().display().to_string();
    let opened = Opened::new((documents, blobs), place);
    opened.read(wanted, today, tools).await
}

/// Applies every rule, where whoever waits can be interrupted.
///
/// # Errors
/// When the work was given up.
pub async fn judge(subject: Subject, tools: &Tools) -> Result<(Subject, Vec<Finding>), Error> {
    let work = move || {
        let findings = check::check(&subject);
        (subject, findings)
    };
    tools.block(work).await
}

/// The documents of an image that was just made, or opened with proof.
pub fn of_image(image: &Image, today: &str, wanted: Option<&'static str>) -> Documents {
    let config = &image.manifest.config;
    Documents {
        index: None,
        manifest: Some(Document::new(
            image.manifest.raw.clone(),
            Some(image.manifest.family.manifest().to_owned()),
            None,
        )),
        config: Document::new(
            image.config.raw.clone(),
            Some(config.media_type.clone()),
            Some((config.digest, config.size)),
        ),
        wanted,
        today: today.to_owned(),
    }
}

impl Opened {
    fn new((documents, blobs): (opened::Documents, Blobs), place: String) -> Self {
        Self {
            documents,
            blobs,
            place,
            lost: BTreeMap::new(),
        }
    }

    async fn read(
        self,
        wanted: Option<&'static str>,
        today: &str,
        tools: &Tools,
    ) -> Result<Subject, Error> {
        let (progress, today) = (tools.progress.clone(), today.to_owned());
        let work = move || read(self, wanted, today, &progress);
        tools.block(work).await?
    }

    /// Brings layers into the store that are not there, where it is known who has them.
    async fn bring(
        &mut self,
        origin: impl Fn(&Descriptor) -> Option<Reference>,
        tools: &Tools,
    ) -> Result<(), Error> {
        let layers = self.documents.layers.iter().enumerate();
        let mut absent: BTreeMap<_, (Descriptor, Reference, Vec<usize>)> = BTreeMap::new();
        for (number, layer) in layers {
            let Some(layer) = layer else { continue };
            if tools.store.size(&layer.digest).is_none()
                && let Some(origin) = origin(layer)
            {
                let of_digest = absent.entry(layer.digest);
                let (_, _, numbers) =
                    of_digest.or_insert_with(|| (layer.clone(), origin, Vec::new()));
                numbers.push(number);
            }
        }
        let fetched: Vec<_> = stream::iter(absent.into_values())
            .map(async |(layer, origin, numbers)| {
                let why = fetch(&layer, &origin, tools).await?;
                Ok::<_, Error>(why.map(|why| (why, numbers)))
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        for (why, numbers) in fetched.into_iter().flatten() {
            let each = numbers.into_iter().map(|number| (number, why.clone()));
            self.lost.extend(each);
        }
        Ok(())
    }
}

/// Fetches a layer; why it is not to be had, where that is the image's own fault.
async fn fetch(
    layer: &Descriptor,
    origin: &Reference,
    tools: &Tools,
) -> Result<Option<String>, Error> {
    let source = tools.registries.source(origin)?;
    let fetched = with_true_size(layer, async |layer: &Descriptor| {
        source.fetch(layer, &tools.store, &tools.progress).await
    });
    match fetched.await {
        Ok(()) => Ok(None),
        Err(error) if is_of_image(&error) => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Asks again by the size that came, where the one in the manifest was wrong.
async fn with_true_size<T>(
    blob: &Descriptor,
    ask: impl AsyncFn(&Descriptor) -> Result<T, registry::Error>,
) -> Result<T, registry::Error> {
    match ask(blob).await {
        Err(registry::Error::Length { actual, .. }) => {
            let mut blob = blob.clone();
            blob.size = actual;
            ask(&blob).await
        }
        answer => answer,
    }
}

/// Whether it is the image that is wrong, and not the way to it.
fn is_of_image(error: &registry::Error) -> bool {
    matches!(
        error,
        registry::Error::Length { .. }
            | registry::Error::Digest { .. }
            | registry::Error::NotFound { .. }
            | registry::Error::Status { status: 404, .. }
    )
}

async fn stored(text: &str, tools: &Tools) -> Result<Opened, Error> {
    let name: Name = text.parse().map_err(|_| build::no_image(text, tools))?;
    let name = name.tagged();
    let opened = match opened::find(&tools.store, &name) {
        Err(layout::Error::NoImage { .. }) => return Err(build::no_image(&name, tools)),
        found => found?,
    };
    let mut opened = Opened::new(opened, tools.store.root().display().to_string());
    let origin = |layer: &Descriptor| build::origin_of(&layer.digest, tools);
    opened.bring(origin, tools).await?;
    Ok(opened)
}

async fn remote(
    reference: &Reference,
    architecture: Option<&str>,
    tools: &Tools,
) -> Result<Opened, Error> {
    let wrong = |source| registry::Error::Document {
        reference: reference.to_string(),
        source,
    };
    let source = tools.registries.source(reference)?;
    let mut descent = Descent::new(manifest(&source, &reference.version()).await?);
    while let Some(descriptor) = descent.next(architecture).map_err(wrong)? {
        let mut inner = manifest(&source, &descriptor.digest.to_string()).await?;
        inner.stated = Some((descriptor.digest, descriptor.size));
        descent.take(inner);
    }
    let config = descent.config().map_err(wrong)?;
    let bytes = with_true_size(&config, async |config: &Descriptor| {
        source.small_blob(config).await
    });
    let bytes = match bytes.await {
        Err(registry::Error::NotFound { .. } | registry::Error::Status { status: 404, .. }) => None,
        read => Some(read?),
    };
    let documents = descent.finish(config, bytes);
    let blobs = Blobs::of_store(&tools.store);
    let mut opened = Opened::new((documents, blobs), reference.to_string());
    opened.bring(|_| Some(reference.clone()), tools).await?;
    Ok(opened)
}

async fn manifest(source: &Source, version: &str) -> Result<Raw, registry::Error> {
    let (bytes, media_type) = source.manifest(version).await?;
    Ok(Raw {
        bytes,
        media_type: media_type.map(|text| {
            let end = text.find(';').unwrap_or(text.len());
            text[..end].trim().to_owned()
        }),
        stated: None,
    })
}

/// Reads all layers, and puts the image together.
fn read(
    opened: Opened,
    wanted: Option<&'static str>,
    today: String,
    progress: &Progress,
) -> Result<Subject, Error> {
    let image = Readable::new(opened, wanted, today, "");
    let open = |number| image.open(number, progress);
    let reader = |number: usize, entry: &_| image.contents[number].reader(entry);
    let layers = flatten::read_all(&image.stated, open, reader);
    image.finish(layers)
}

/// Reads the layers of two images at once, the bytes of all their files looked at. One that both have is read once.
fn read_two(
    [first, second]: [Opened; 2],
    wanted: Option<&'static str>,
    today: &str,
    progress: &Progress,
) -> Result<[Subject; 2], Error> {
    let readable = |opened, of| {
        let mut image = Readable::new(opened, wanted, today.to_owned(), of);
        for contents in &mut image.contents {
            contents.hashes_all = true;
        }
        image
    };
    let images = [
        readable(first, " of the first image"),
        readable(second, " of the second image"),
    ];
    let shared: Vec<_> = (0..images[1].stated.len())
        .map(|number| images[1].shared_with(&images[0], number))
        .collect();
    let of_first = (0..images[0].stated.len()).map(|number| (0, number));
    let of_second = shared.iter().enumerate();
    let of_second = of_second.filter(|(_, shared)| shared.is_none());
    let all: Vec<(usize, usize)> = of_first
        .chain(of_second.map(|(number, _)| (1, number)))
        .collect();
    let stated: Vec<_> = all
        .iter()
        .map(|(image, number)| images[*image].stated[*number].clone())
        .collect();
    let open = |job: usize| {
        let (image, number) = all[job];
        images[image].open(number, progress)
    };
    let reader = |job: usize, entry: &_| {
        let (image, number) = all[job];
        images[image].contents[number].reader(entry)
    };
    let mut read = flatten::read_all(&stated, open, reader);
    let mut rest = read.split_off(images[0].stated.len()).into_iter();
    let of_second = shared.iter().enumerate().filter_map(|(number, shared)| {
        let Some(place) = shared else {
            return rest.next();
        };
        let stated = images[1].stated[number].clone();
        let again = |layer: &Layer<Seen>| Layer {
            stated,
            ..layer.clone()
        };
        // An error of reading has no copy; its text is what anybody is told.
        let failed = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        Some(read[*place].as_ref().map(again).map_err(failed))
    });
    let of_second: Vec<_> = of_second.collect();
    let [first, second] = images;
    Ok([first.finish(read)?, second.finish(of_second)?])
}

/// An image whose layers can be read.
struct Readable {
    documents: Documents,
    /// Its layers, one that is named by no digest too.
    stated: Vec<Descriptor>,
    /// Which of them can be had.
    is_there: Vec<bool>,
    has_digests: bool,
    contents: Vec<Contents>,
    blobs: Blobs,
    place: String,
    lost: BTreeMap<usize, String>,
    /// What stands behind a layer's number where it is told.
    of: &'static str,
}

impl Readable {
    fn new(opened: Opened, wanted: Option<&'static str>, today: String, of: &'static str) -> Self {
        let Opened {
            documents,
            blobs,
            place,
            lost,
        } = opened;
        let document = |raw: Raw| Document::new(raw.bytes, raw.media_type, raw.stated);
        let has_digests = documents.manifest.is_some();
        let layers = documents.layers;
        let documents = Documents {
            index: documents.index.map(document),
            manifest: documents.manifest.map(document),
            config: document(documents.config),
            wanted,
            today,
        };
        let there = layers.iter().enumerate();
        let is_there = there
            .map(|(number, layer)| layer.is_some() && !lost.contains_key(&number))
            .collect();
        // A layer that is named by no digest has its place all the same.
        let nameless = || Descriptor::of("", b"");
        let stated: Vec<_> = layers
            .into_iter()
            .map(|layer| layer.unwrap_or_else(nameless))
            .collect();
        let sizes: Vec<_> = stated.iter().map(|layer| layer.size).collect();
        Self {
            contents: Contents::of(&documents).of_layers(&sizes),
            documents,
            stated,
            is_there,
            has_digests,
            blobs,
            place,
            lost,
            of,
        }
    }

    fn open(&self, number: usize, progress: &Progress) -> io::Result<Told> {
        if !self.is_there[number] {
            return Err(io::ErrorKind::NotFound.into());
        }
        let layer = &self.stated[number];
        let label = format!("read layer {}{}", number + 1, self.of);
        Ok(Told {
            inner: self.blobs.layer(number, layer)?,
            task: progress.task(label, Some(layer.size)),
        })
    }

    /// The layer of another image that is this one's of a number to the byte, where the same is looked at in both. As
    /// much is kept of it as the other has room for.
    fn shared_with(&self, other: &Self, number: usize) -> Option<usize> {
        // Without a manifest nothing says what a layer is before it is read.
        if !(self.has_digests && other.has_digests && self.is_there[number]) {
            return None;
        }
        let own = &self.stated[number];
        let mut others = other.stated.iter().enumerate();
        let (place, _) = others.find(|(place, layer)| {
            other.is_there[*place] && (layer.digest, layer.size) == (own.digest, own.size)
        })?;
        let sees_same = self.contents[number].sees_same(&other.contents[place]);
        sees_same.then_some(place)
    }

    /// Puts the image together.
    fn finish(self, read: Vec<io::Result<Layer<Seen>>>) -> Result<Subject, Error> {
        let mut layers: Vec<Layer<Seen>> = Vec::new();
        for (number, layer) in read.into_iter().enumerate() {
            let mut layer = match layer {
                Ok(layer) => layer,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let mut layer = Layer::unread(self.stated[number].clone());
                    let why = self.lost.get(&number).cloned();
                    layer.damage = Some(why.unwrap_or_else(|| "it is not there".to_owned()));
                    layer
                }
                Err(source) => {
                    let (action, path) = ("read a layer of", self.place.into());
                    return Err(layout::Error::Io {
                        action,
                        path,
                        source,
                    }
                    .into());
                }
            };
            if !self.has_digests {
                layer.stated.digest = layer.digest;
                layer.stated.size = layer.size;
            }
            layers.push(layer);
        }
        Ok(Subject::new(self.documents, layers))
    }
}

/// Tells of the bytes of a layer as they are read, and not that they were: what is found is told.
struct Told {
    inner: Box<dyn Read + Send>,
    task: Task,
}

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.task.advance(count as u64);
        Ok(count)
    }
}
