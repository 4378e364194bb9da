//! A whole image into a repository: skip what is there, mount what is near, send the rest, name last.
//!
//! Bytes go straight from the store or from the registry that has them; none is kept in memory or on
//! disk on the way. Until the manifest is put, nothing in the repository refers to the new blobs, so an
//! interruption leaves every tag as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio::io::AsyncReadExt as _;

use crate::blob_store::BlobStore;
use crate::digest::Digest;
use crate::http;
use crate::oci::Descriptor;
use crate::oci::image::Image;
use crate::oci::reference::Reference;
use crate::progress::{Progress, Task};
use crate::registry::{Access, Error, Registries, Repository, Upload};

const PARALLEL: usize = 4;
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

#[derive(Default)]
struct Counters {
    uploaded: AtomicU64,
    mounted: AtomicU64,
    skipped: AtomicU64,
}

/// Puts `image` into the repository of `target` under `tags` (none: by digest alone).
///
/// # Errors
/// See [`Error`]; no tag has moved then, or only those before the one that failed.
pub async fn push(
    image: &Image,
    target: &Reference,
    tags: &[String],
    store: &BlobStore,
    registries: &Registries,
    progress: &Progress,
) -> Result<Summary, Error> {
    let mut repository = registries.repository(target, Access::Push)?;
    let neighbour = image
        .origins
        .values()
        .find(|o| o.registry == target.registry);
    if let Some(origin) = neighbour.filter(|o| !o.same_repository(target)) {
        repository = repository.mounting_from(&origin.repository);
    }
    let digest = image.manifest.digest().to_string();
    let counters = Counters::default();
    // A manifest is only taken when all its blobs are there, so one look can stand for all of them.
    if repository.head_manifest(&digest).await?.is_some() {
        let bytes = image.blobs().iter().map(|blob| blob.size).sum();
        counters.skipped.store(bytes, Ordering::Relaxed);
    } else {
        let job = Job {
            image,
            target,
            store,
            registries,
            repository: &repository,
            progress,
            counters: &counters,
        };
        stream::iter(image.blobs())
            .map(|blob| job.bring(blob))
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
    Ok(Summary {
        uploaded: counters.uploaded.into_inner(),
        mounted: counters.mounted.into_inner(),
        skipped: counters.skipped.into_inner(),
    })
}

struct Job<'a> {
    image: &'a Image,
    target: &'a Reference,
    store: &'a BlobStore,
    registries: &'a Registries,
    repository: &'a Repository,
    progress: &'a Progress,
    counters: &'a Counters,
}

impl Job<'_> {
    async fn bring(&self, blob: &Descriptor) -> Result<(), Error> {
        let count = |counter: &AtomicU64| counter.fetch_add(blob.size, Ordering::Relaxed);
        let origin = self.image.origins.get(&blob.digest);
        let at_home = origin.is_some_and(|origin| origin.same_repository(self.target));
        if at_home || self.repository.has_blob(&blob.digest).await? {
            count(&self.counters.skipped);
            return Ok(());
        }
        let near = origin.filter(|origin| origin.registry == self.target.registry);
        let mut mount = near.map(|origin| origin.repository.as_str());
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            // A session that failed is never used again: registries differ in what they kept of it.
            let result = self.try_upload(blob, origin, mount.take()).await;
            match result {
                Ok(true) => {
                    count(&self.counters.mounted);
                    return Ok(());
                }
                Ok(false) => {
                    count(&self.counters.uploaded);
                    return Ok(());
                }
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
        Ok(())
    }

    /// Whether the blob was mounted; otherwise it was sent.
    async fn try_upload(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        mount: Option<&str>,
    ) -> Result<bool, Error> {
        let session = match self.repository.begin_upload(&blob.digest, mount).await? {
            Upload::Mounted => return Ok(true),
            Upload::Session(session) => session,
        };
        let hex = blob.digest.hex();
        let task = self
            .progress
            .task(format!("push {}", &hex[..12]), Some(blob.size));
        let body = self.body(blob, origin, Arc::new(task)).await?;
        self.repository.finish_upload(session, blob, body).await?;
        Ok(false)
    }

    async fn body(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        task: Arc<Task>,
    ) -> Result<reqwest::Body, Error> {
        if blob.digest == self.image.manifest.config.digest {
            return Ok(Bytes::from(self.image.config.raw.clone()).into());
        }
        if self.store.contains(&blob.digest, blob.size) {
            let path = self.store.path(&blob.digest);
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|source| Error::Read {
                    digest: blob.digest,
                    source,
                })?;
            let bytes = file_stream(file).inspect_ok(move |chunk| task.advance(chunk.len() as u64));
            return Ok(reqwest::Body::wrap_stream(bytes));
        }
        let origin = origin.ok_or(Error::Missing(blob.digest))?;
        let source = self.registries.repository(origin, Access::Pull)?;
        let response = source.blob(&blob.digest).await?;
        let bytes = response.bytes_stream();
        let bytes = bytes.inspect_ok(move |chunk| task.advance(chunk.len() as u64));
        Ok(reqwest::Body::wrap_stream(bytes))
    }
}

fn may_pass(error: &Error) -> bool {
    match error {
        Error::Http(http::Error::Connect { .. } | http::Error::Exchange { .. }) => true,
        Error::Status { status, .. } => matches!(status, 408 | 416 | 429 | 500..=599),
        _ => false,
    }
}

fn file_stream(file: tokio::fs::File) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::try_unfold(file, async |mut file| {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let count = file.read_buf(&mut chunk).await?;
        Ok((count > 0).then(|| (chunk.freeze(), file)))
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
    use std::io::Write as _;
    let repository = registries.repository(origin, Access::Pull)?;
    let mut response = repository.blob(&blob.digest).await?;
    let hex = blob.digest.hex();
    let task = progress.task(format!("fetch {}", &hex[..12]), Some(blob.size));
    let url = response.url().clone();
    let mut writer = store.writer()?;
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| http::classify(&url, e))?
    {
        writer
            .write_all(&chunk)
            .map_err(|source| write_error(store, blob.digest, source))?;
        task.advance(chunk.len() as u64);
    }
    writer.commit_as(blob.digest, Some(blob.size))?;
    Ok(())
}

fn write_error(store: &BlobStore, digest: Digest, source: std::io::Error) -> Error {
    Error::Store(crate::blob_store::Error::Io {
        action: "write",
        path: store.path(&digest),
        source,
    })
}
