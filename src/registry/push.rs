//! A whole image into a repository: skip what is there, mount what is near, send the rest, name last.
//!
//! Bytes go straight from the store or from the registry that has them; none is kept in memory or on
//! disk on the way. Until the manifest is put, nothing in the repository refers to the new blobs, so an
//! interruption leaves every tag as it was.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio::io::AsyncReadExt as _;

use crate::blob_store::{self, BlobStore};
use crate::digest::{Digest, Hasher};
use crate::http::{self, Url};
use crate::oci::Descriptor;
use crate::oci::image::Image;
use crate::oci::reference::Reference;
use crate::progress::Progress;
use crate::registry::{Access, Error, Registries, Repository, Upload};

/// Blobs on their way to one repository at once.
pub const PARALLEL: usize = 4;
const CHUNK: usize = 128 << 10;
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What moved, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Sent.
    pub uploaded: u64,
    /// Taken over from another repository of the registry.
    pub mounted: u64,
    /// There already.
    pub skipped: u64,
}

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Uploaded,
    Mounted,
    Skipped,
}

/// A push to one repository, which may begin before the image is whole.
#[derive(Debug)]
pub struct Push {
    repository: Repository,
    target: Reference,
    store: BlobStore,
    registries: Registries,
    progress: Progress,
    /// Blobs that are there.
    brought: Mutex<BTreeMap<Digest, Way>>,
}

impl Push {
    /// Begins; nothing is sent yet.
    ///
    /// # Errors
    /// When no client for the registry can be made.
    pub fn begin(
        target: &Reference,
        store: &BlobStore,
        registries: &Registries,
        progress: &Progress,
    ) -> Result<Self, Error> {
        Ok(Self {
            repository: registries.repository(target, Access::Push)?,
            target: target.clone(),
            store: store.clone(),
            registries: registries.clone(),
            progress: progress.clone(),
            brought: Mutex::default(),
        })
    }

    /// Brings a blob of an image that is still being made, from the store or from `origin`. What fails here
    /// is tried again with the image, and told then.
    pub async fn bring_early(&self, blob: &Descriptor, origin: Option<&Reference>) {
        if let Err(error) = self.bring(blob, origin, None).await {
            self.progress.detail(format!(
                "blob {}: {error}; again with the image",
                blob.digest
            ));
        }
    }

    /// Puts `image` into the repository under `tags` (none: by digest alone).
    ///
    /// # Errors
    /// See [`Error`]; no tag has moved then, or only those before the one that failed.
    pub async fn finish(self, image: &Image, tags: &[String]) -> Result<Summary, Error> {
        let repository = &self.repository;
        let digest = image.manifest.digest().to_string();
        // A manifest is only taken when all its blobs are there, so one look can stand for all of them.
        let is_there = self.is_untouched() && repository.head_manifest(&digest).await?.is_some();
        if is_there {
            for blob in image.blobs() {
                self.note(blob.digest, Way::Skipped);
            }
        } else {
            stream::iter(image.blobs())
                .map(|blob| {
                    let is_config = blob.digest == image.manifest.config.digest;
                    let raw = is_config.then_some(&image.config.raw);
                    self.bring(blob, image.origins.get(&blob.digest), raw)
                })
                .buffer_unordered(PARALLEL)
                .try_collect::<()>()
                .await?;
            if tags.is_empty() {
                repository.put_manifest(&image.manifest, &digest).await?;
            }
        }
        for tag in tags {
            if repository.head_manifest(tag).await? != Some(image.manifest.digest()) {
                repository.put_manifest(&image.manifest, tag).await?;
            }
        }
        Ok(self.summary(image))
    }

    fn summary(&self, image: &Image) -> Summary {
        let mut summary = Summary::default();
        for blob in image.blobs() {
            let counter = match self.way(&blob.digest) {
                Some(Way::Uploaded) => &mut summary.uploaded,
                Some(Way::Mounted) => &mut summary.mounted,
                Some(Way::Skipped) | None => &mut summary.skipped,
            };
            *counter += blob.size;
        }
        summary
    }

    fn brought(&self) -> MutexGuard<'_, BTreeMap<Digest, Way>> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_untouched(&self) -> bool {
        self.brought().is_empty()
    }

    fn way(&self, digest: &Digest) -> Option<Way> {
        self.brought().get(digest).copied()
    }

    fn note(&self, digest: Digest, way: Way) {
        self.brought().insert(digest, way);
    }

    /// Brings a blob, whose bytes are `raw` or in the store or where it comes from, unless it is there.
    async fn bring(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        raw: Option<&Vec<u8>>,
    ) -> Result<(), Error> {
        if self.way(&blob.digest).is_some() {
            return Ok(());
        }
        if self.repository.has_blob(&blob.digest).await? {
            self.note(blob.digest, Way::Skipped);
            return Ok(());
        }
        let mut session = match self.mount(blob, origin).await? {
            Some(Upload::Done) => {
                self.note(blob.digest, Way::Mounted);
                return Ok(());
            }
            Some(Upload::Session(session)) => Some(session),
            None => None,
        };
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            // A session that failed is never used again: registries differ in what they kept of it.
            let tried = self.try_upload(blob, origin, raw, session.take()).await;
            match tried {
                Ok(()) => break,
                Err(error) if attempt < ATTEMPTS && may_pass(&error) => {
                    let next = attempt + 1;
                    self.progress
                        .detail(format!("blob {}: {error}; try {next}", blob.digest));
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
        self.note(blob.digest, Way::Uploaded);
        Ok(())
    }

    /// Mounts the blob from another repository of the same registry, if one is known to have it.
    async fn mount(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
    ) -> Result<Option<Upload>, Error> {
        let near = origin.filter(|origin| {
            origin.registry == self.target.registry && !origin.same_repository(&self.target)
        });
        match near {
            Some(near) => self.repository.mount(&blob.digest, &near.repository).await,
            None => Ok(None),
        }
    }

    async fn try_upload(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        raw: Option<&Vec<u8>>,
        session: Option<Url>,
    ) -> Result<(), Error> {
        let session = match session {
            Some(session) => session,
            None => self.repository.begin_upload().await?,
        };
        let hex = blob.digest.hex();
        let task = self
            .progress
            .task(format!("push {}", &hex[..12]), Some(blob.size));
        let task = Arc::new(task);
        let moving = Arc::clone(&task);
        let bytes = self.bytes(blob, origin, raw).await?;
        let bytes = bytes.inspect_ok(move |chunk| moving.advance(chunk.len() as u64));
        self.repository
            .finish_upload(session, blob, bytes.boxed())
            .await?;
        task.done();
        Ok(())
    }

    async fn bytes(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        raw: Option<&Vec<u8>>,
    ) -> Result<http::Stream, Error> {
        if let Some(raw) = raw {
            let raw = Bytes::from(raw.clone());
            return Ok(stream::once(async { Ok(raw) }).boxed());
        }
        if self.store.contains(&blob.digest, blob.size) {
            let path = self.store.path(&blob.digest);
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|source| Error::Read {
                    digest: blob.digest,
                    source,
                })?;
            return Ok(proven_stream(file, blob, self.store.clone()).boxed());
        }
        let origin = origin.ok_or(Error::Missing(blob.digest))?;
        let source = self.registries.repository(origin, Access::Pull)?;
        let response = source.blob(&blob.digest).await?;
        Ok(response.bytes_stream().map_err(io::Error::other).boxed())
    }
}

fn may_pass(error: &Error) -> bool {
    match error {
        Error::Http(http::Error::Connect { .. } | http::Error::Exchange { .. }) => true,
        // 401 is a token that ran out and has a successor by now.
        Error::Status { status, .. } => matches!(status, 401 | 408 | 416 | 429 | 500..=599),
        _ => false,
    }
}

/// A blob of the store as it is read. Damage breaks the stream off before its last bytes and drops the blob, so
/// that the next try has it from elsewhere or says that it is gone; no registry ever gets all of it.
fn proven_stream(
    file: tokio::fs::File,
    blob: &Descriptor,
    store: BlobStore,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let digest = blob.digest;
    let state = (file, Hasher::default(), blob.size);
    stream::try_unfold(state, move |(mut file, mut hasher, left)| {
        let store = store.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let mut chunk = BytesMut::with_capacity(CHUNK);
            let count = file.read_buf(&mut chunk).await?;
            hasher.update(&chunk);
            let left = left.saturating_sub(count as u64);
            let is_end = count == 0 || left == 0;
            if is_end && hasher.clone().finish() != digest {
                store.discard(&digest);
                let damaged = blob_store::Error::Damaged(digest);
                return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
            }
            Ok(Some((chunk.freeze(), (file, hasher, left))))
        }
    })
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
    let repository = registries.repository(origin, Access::Pull)?;
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match try_fetch(blob, &repository, store, progress).await {
            Ok(()) => break,
            Err(error) if attempt < ATTEMPTS && may_pass(&error) => {
                progress.detail(format!(
                    "blob {}: {error}; try {}",
                    blob.digest,
                    attempt + 1
                ));
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn try_fetch(
    blob: &Descriptor,
    repository: &Repository,
    store: &BlobStore,
    progress: &Progress,
) -> Result<(), Error> {
    use std::io::Write as _;
    let mut response = repository.blob(&blob.digest).await?;
    let hex = blob.digest.hex();
    let task = progress.task(format!("fetch {}", &hex[..12]), Some(blob.size));
    let url = response.url().clone();
    let (mut writer, mut left) = (store.writer()?, blob.size);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| http::classify(&url, e))?
    {
        // What is too long is not the blob; it need not fill the disk to prove that.
        left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
            Error::Http(http::Error::TooLarge {
                url: http::redact(&url),
                limit: blob.size,
            })
        })?;
        writer
            .write_all(&chunk)
            .map_err(|source| write_error(store, blob.digest, source))?;
        task.advance(chunk.len() as u64);
    }
    writer.commit_as(blob.digest, Some(blob.size))?;
    task.done();
    Ok(())
}

fn write_error(store: &BlobStore, digest: Digest, source: io::Error) -> Error {
    Error::Store(blob_store::Error::Io {
        action: "write",
        path: store.path(&digest),
        source,
    })
}
