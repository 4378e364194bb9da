//! Blobs read to their end, over networks that break off, from a mirror where there is one.
//!
//! What broke off goes on where it was, by a range asked for at the registry again. Length and digest are
//! proven before the last bytes are given out, so nobody downstream ever has the whole of a wrong blob. A
//! mirror is only another place for the same bytes: whatever fails there, the registry itself is asked, and
//! no name of an image ever tells of it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, stream};

use crate::blob_store::{self, BlobStore};
use crate::digest::Hasher;
use crate::http::header::CONTENT_RANGE;
use crate::http::retry::{self, Retry, Trouble};
use crate::http::{self, Response, StatusCode};
use crate::oci::reference::{Name, ParseError, Reference};
use crate::oci::{self, Descriptor};
use crate::progress::Progress;
use crate::registry::{Error, FURTHER, Registries, Repository};

/// So many failures in a row are a mirror's end: the registry itself is left, and a mirror that is silent is silent
/// for long each time.
const MIRROR_ATTEMPTS: u32 = 2;

/// Where a registry's repositories are found too, as a pull-through cache has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    registry: String,
    /// What stands before the repository's own name, with the slash.
    prefix: String,
}

impl Mirror {
    /// Reads `HOST` or `HOST/PREFIX`.
    ///
    /// # Errors
    /// When it is no place in a registry.
    pub fn read(text: &str) -> Result<Self, ParseError> {
        let error = |reason| ParseError::new(text, reason);
        // Any repository will do to read a host alone.
        let name: Name = if text.contains('/') {
            text.parse()?
        } else {
            format!("{text}/any").parse()?
        };
        if name.tag.is_some() || name.digest.is_some() {
            return Err(error("a mirror is a place for images, without a tag"));
        }
        let registry = name.registry.ok_or_else(|| error("it names no registry"))?;
        let prefix = if text.contains('/') {
            format!("{}/", name.repository)
        } else {
            String::new()
        };
        Ok(Self { registry, prefix })
    }

    /// Reads `HOST`, the registry that a mirror is for, as references have it.
    ///
    /// # Errors
    /// When it is no registry alone.
    pub fn read_registry(text: &str) -> Result<String, ParseError> {
        const ANY: &str = "any/any";
        let read = Reference::read(&format!("{text}/{ANY}"));
        let only = read.ok().filter(|reference| reference.repository == ANY);
        let registry = only.map(|reference| reference.registry);
        registry.ok_or_else(|| ParseError::new(text, "it is not the host of a registry alone"))
    }

    /// Where the mirror has what `reference` names.
    pub(super) fn of(&self, reference: &Reference) -> Reference {
        Reference {
            registry: self.registry.clone(),
            repository: format!("{}{}", self.prefix, reference.repository),
            tag: reference.tag.clone(),
            digest: reference.digest,
        }
    }
}

/// Repositories of mirrors that failed once, which are not asked again.
#[derive(Debug, Clone, Default)]
pub(super) struct FailedMirrors(Arc<Mutex<BTreeSet<String>>>);

impl FailedMirrors {
    fn set(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an image is read from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    mirror: Option<Repository>,
    own: Repository,
    failed: FailedMirrors,
}

impl Source {
    pub(super) fn new(mirror: Option<Repository>, own: Repository, failed: FailedMirrors) -> Self {
        Self {
            mirror,
            own,
            failed,
        }
    }

    fn progress(&self) -> &Progress {
        self.own.registries.client.progress()
    }

    /// The mirror, unless it has failed.
    fn mirror(&self) -> Option<&Repository> {
        let mirror = self.mirror.as_ref()?;
        (!self.failed.set().contains(&mirror.display())).then_some(mirror)
    }

    /// Asks `place` no more, if it is the mirror; whether it was.
    fn give_up(&self, place: &Repository, why: &Error) -> bool {
        let name = place.display();
        let is_mirror = self.mirror.is_some() && name != self.own.display();
        if is_mirror && self.failed.set().insert(name.clone()) {
            self.progress().detail(format!(
                "the mirror {name} fails: {why}; on with {}",
                self.own.display()
            ));
        }
        is_mirror
    }

    /// Reads the manifest or index at a tag or digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn manifest(&self, version: &str) -> Result<(Vec<u8>, Option<String>), Error> {
        if let Some(mirror) = self.mirror() {
            let retry = mirror.retry().at_most(MIRROR_ATTEMPTS);
            match mirror.manifest(version, retry).await {
                Err(error) => self.give_up(mirror, &error),
                found => return found,
            };
        }
        self.own.manifest(version, self.own.retry()).await
    }

    /// The bytes of a blob. The last of them come only when all of them are proven.
    pub fn blob(
        &self,
        blob: &Descriptor,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send + use<> {
        let reading = Reading::new(self.clone(), blob);
        stream::try_unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        })
    }

    /// Reads a small blob whole.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > oci::MAX_DOCUMENT {
            return Err(Error::Http(http::Error::TooLarge {
                url: format!("{}@{}", self.own.display(), descriptor.digest),
                limit: oci::MAX_DOCUMENT,
            }));
        }
        self.whole(descriptor, async || {
            let chunks: Vec<Bytes> = self.blob(descriptor).try_collect().await?;
            Ok(chunks.concat())
        })
        .await
    }

    /// Reads a blob into the store.
    ///
    /// # Errors
    /// See [`Error`]; the store has no part of it then.
    pub async fn fetch(
        &self,
        blob: &Descriptor,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<(), Error> {
        self.whole(blob, async || {
            let hex = blob.digest.hex();
            let task = progress.task(format!("fetch {}", &hex[..12]), Some(blob.size));
            let mut writer = store.writer()?;
            let mut chunks = std::pin::pin!(self.blob(blob));
            while let Some(chunk) = chunks.try_next().await? {
                writer.write_all(&chunk).map_err(|source| {
                    Error::Store(blob_store::Error::Io {
                        action: "write",
                        path: store.path(&blob.digest),
                        source,
                    })
                })?;
                task.advance(chunk.len() as u64);
            }
            writer.commit_as(blob.digest, Some(blob.size))?;
            task.done();
            Ok(())
        })
        .await
    }

    /// Does `work`, which reads all of a blob, again where all that came was the wrong bytes.
    async fn whole<T>(
        &self,
        blob: &Descriptor,
        work: impl AsyncFn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut retry = Retry::default();
        loop {
            let error = match work().await {
                Err(error @ Error::Digest { .. }) => error,
                result => return result,
            };
            let what = format!("blob {}", blob.digest);
            match error.trouble() {
                Some(trouble) if retry.again(&what, &trouble, self.progress()).await => {}
                _ => return Err(error),
            }
        }
    }
}

/// Reads a blob from the registry that has it into the store, proven.
///
/// # Errors
/// See [`Error`]; the store has no part of it then.
pub async fn fetch_blob(
    blob: &Descriptor,
    origin: &Reference,
    store: &BlobStore,
    registries: &Registries,
    progress: &Progress,
) -> Result<(), Error> {
    let source = registries.source(origin)?;
    source.fetch(blob, store, progress).await
}

/// A blob under way.
struct Reading {
    source: Source,
    blob: Descriptor,
    /// Where it comes from at the moment.
    place: Repository,
    answer: Option<Response>,
    /// Bytes of the answer that are here already.
    skip: u64,
    /// Whether the place may know ranges.
    ranges: bool,
    hasher: Hasher,
    /// Bytes that came.
    at: u64,
    /// As many when failures last began to count anew.
    furthest: u64,
    /// What came last, until it is known whether it was the end.
    held: Option<Bytes>,
    ended: bool,
    retry: Retry,
}

/// A step that failed.
struct Fault {
    error: Error,
    /// Set where it may pass.
    trouble: Option<Trouble>,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let trouble = error.trouble();
        Self { error, trouble }
    }
}

impl Reading {
    fn new(source: Source, blob: &Descriptor) -> Self {
        let (place, retry) = match source.mirror() {
            Some(mirror) => (mirror, mirror.retry().at_most(MIRROR_ATTEMPTS)),
            None => (&source.own, source.own.retry()),
        };
        Self {
            retry,
            place: place.clone(),
            furthest: 0,
            source,
            blob: blob.clone(),
            answer: None,
            skip: 0,
            ranges: true,
            hasher: Hasher::default(),
            at: 0,
            held: None,
            ended: false,
        }
    }

    /// The next bytes to give out.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.ended {
            let chunk = match self.step().await {
                Ok(chunk) => chunk,
                Err(fault) => {
                    self.recover(fault).await?;
                    continue;
                }
            };
            let before = if let Some(chunk) = chunk {
                self.hasher.update(&chunk);
                self.at += chunk.len() as u64;
                if self.at >= self.blob.size.min(self.furthest + FURTHER) {
                    self.furthest = self.at;
                    self.retry.moved();
                }
                self.held.replace(chunk)
            } else {
                self.prove()?;
                self.ended = true;
                self.held.take()
            };
            if before.is_some() {
                return Ok(before);
            }
        }
        Ok(None)
    }

    fn prove(&self) -> Result<(), Error> {
        let actual = self.hasher.clone().finish();
        if actual == self.blob.digest {
            return Ok(());
        }
        let error = self.place.wrong_digest(self.blob.digest, actual);
        // What went out is beyond recall, but the next who asks need not ask there.
        self.source.give_up(&self.place, &error);
        Err(error)
    }

    /// More bytes, or the end of all.
    async fn step(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.answer.is_none() && self.at < self.blob.size {
                self.open().await?;
            }
            let Some(answer) = &mut self.answer else {
                return Ok(None);
            };
            let chunk = match answer.chunk().await {
                Ok(chunk) => chunk,
                // Whatever broke, all is here.
                Err(_) if self.at == self.blob.size => None,
                Err(error) => {
                    return Err(Error::Http(http::classify(answer.url(), error)).into());
                }
            };
            let Some(mut chunk) = chunk else {
                if self.at < self.blob.size {
                    return Err(self.wrong_length(self.at));
                }
                return Ok(None);
            };
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            // No chunk is longer than memory.
            let chunk = chunk.split_off(usize::try_from(skipped).unwrap_or(chunk.len()));
            if self.at + chunk.len() as u64 > self.blob.size {
                return Err(self.wrong_length(self.at + chunk.len() as u64));
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    fn wrong_length(&self, actual: u64) -> Fault {
        Fault::from(Error::Length {
            registry: self.place.registry.clone(),
            digest: self.blob.digest,
            expected: self.blob.size,
            actual,
        })
    }

    async fn open(&mut self) -> Result<(), Fault> {
        let from = if self.ranges { self.at } else { 0 };
        let answer = self.place.ask_for_blob(&self.blob.digest, from).await?;
        let response = &answer.response;
        self.skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(response, from) => 0,
            StatusCode::OK => self.at,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                self.ranges = false;
                let error = self
                    .place
                    .protocol("sends another range than it was asked for");
                return Err(Fault {
                    trouble: Some(Trouble::new(error.to_string())),
                    error,
                });
            }
            status => {
                let trouble = Trouble::of_status(status, retry::retry_after(response.headers()));
                let what = format!("blob {}", self.blob.digest);
                let error = self.place.refusal(&what, answer).await;
                return Err(Fault { error, trouble });
            }
        };
        self.answer = Some(answer.response);
        Ok(())
    }

    /// Gets ready for another try, here or at the next place.
    async fn recover(&mut self, fault: Fault) -> Result<(), Error> {
        self.answer = None;
        let what = format!("blob {} of {}", self.blob.digest, self.place.display());
        if let Some(trouble) = &fault.trouble
            && self
                .retry
                .again(&what, trouble, self.source.progress())
                .await
        {
            return Ok(());
        }
        if !self.source.give_up(&self.place, &fault.error) {
            return Err(fault.error);
        }
        self.place = self.source.own.clone();
        self.ranges = true;
        self.retry = self.place.retry();
        Ok(())
    }
}

fn begins_at(response: &Response, at: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok());
    let start = range.and_then(|text| text.strip_prefix("bytes ")?.split_once('-'));
    start.is_some_and(|(start, _)| start.trim().parse() == Ok(at))
}

#[cfg(test)]
mod tests;
