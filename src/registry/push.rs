//! A whole image into a repository: skip what is there, mount what is near, send the rest, name last.
//!
//! Bytes go straight from the store or from the registry that has them; none is kept in memory or on
//! disk on the way. Until the manifest is put, nothing in the repository refers to the new blobs, so an
//! interruption leaves every tag as it was. The manifest goes by its digest first and by its tags then.
//!
//! A blob is taken to be there when the manifest that stands under the tag refers to it, or when the registry
//! says so; then it is mounted from a repository of the same registry, else uploaded in one request. What
//! failed is begun anew, never gone on with: registries differ in what they kept of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OnceCell, watch};

use crate::aws::repository::RepositorySettings;
use crate::aws::{Aws, ecr};
use crate::blob_store::{BlobStore, Claim};
use crate::digest::Digest;
use crate::http;
use crate::http::retry::Trouble;
use crate::oci::Descriptor;
use crate::oci::image::Image;
use crate::oci::reference::Reference;
use crate::progress::Progress;
use crate::registry::claimed::noting;
use crate::registry::manifests::{Put, Standing};
use crate::registry::tags::Look;
use crate::registry::upload::{Broken, Failed, proven_stream, trouble};
use crate::registry::{Access, Error, FURTHER, Registries, Repository, Session, Tries, Upload};

/// Blobs on their way to one repository at once.
pub const PARALLEL: usize = 4;
/// So long an upload by another run may stand still.
const CLAIM_PATIENCE: Duration = Duration::from_mins(1);

/// What a push may do beside bringing an image.
#[derive(Debug, Clone)]
pub struct Options {
    /// AWS, to make repositories of ECR and to say which are there.
    pub aws: Option<Aws>,
    /// What a missing repository is to be like, if it is to be made. Registries that are none of ECR's make
    /// theirs by themselves.
    pub create: Option<RepositorySettings>,
    /// Whether a tag that is another image's stays so, whatever the registry would allow.
    pub immutable_tags: bool,
    /// How long a blob that another run sends is waited for while nothing of it moves.
    pub claim_patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            aws: None,
            create: None,
            immutable_tags: false,
            claim_patience: CLAIM_PATIENCE,
        }
    }
}

/// What moved, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Sent.
    pub uploaded: u64,
    /// Taken over from another repository of the registry.
    pub mounted: u64,
    /// There already.
    pub skipped: u64,
    /// Whether nothing was done at all: manifest and tags were there.
    pub was_there: bool,
}

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Uploaded,
    Mounted,
    Skipped,
    /// There already, by a manifest's word.
    Known,
}

/// Another push of the run, which brings a blob before this one takes it over.
#[derive(Debug, Clone)]
struct Near {
    repository: String,
    /// Whether a manifest there refers to the blob; nothing while that is not decided.
    has_landed: watch::Receiver<Option<bool>>,
}

/// A push to one repository, which may begin before the image is whole.
#[derive(Debug)]
pub struct Push {
    pub(super) repository: Repository,
    target: Reference,
    /// None: by its digest alone.
    pub(super) tags: Vec<String>,
    pub(super) store: BlobStore,
    registries: Registries,
    pub(super) progress: Progress,
    pub(super) options: Options,
    /// Who brings what to the same registry first.
    near: BTreeMap<Digest, Near>,
    /// Whether the image is there by its digest; nothing while that is not decided.
    landed: watch::Sender<Option<bool>>,
    /// How blobs came; whoever wants one that is under way waits for it.
    ways: Mutex<BTreeMap<Digest, Arc<OnceCell<Way>>>>,
    /// Tags that were put.
    moved: Mutex<Vec<String>>,
    /// What stands under the first tag, if that could be asked.
    pub(super) standing: OnceCell<Option<Standing>>,
    /// Whether a blob could not be brought early; to find that out again and again helps nobody.
    falters: AtomicBool,
    /// Whether manifests there are no proof of blobs.
    distrusts_manifests: AtomicBool,
    /// Whether nothing is but to have sent them.
    distrusts_looks: AtomicBool,
    created: OnceCell<()>,
    /// Whether the repository ever took the wish to upload.
    opened: AtomicBool,
}

impl Push {
    /// Begins the push to the repository of `target` under `tags` (none: by digest alone); nothing is sent yet.
    ///
    /// # Errors
    /// When no client for the registry can be made.
    pub fn begin(
        target: &Reference,
        tags: Vec<String>,
        store: &BlobStore,
        registries: &Registries,
        options: &Options,
        progress: &Progress,
    ) -> Result<Self, Error> {
        Ok(Self {
            repository: registries.repository(target, Access::Push)?,
            target: target.clone(),
            tags,
            store: store.clone(),
            registries: registries.clone(),
            progress: progress.clone(),
            options: options.clone(),
            near: BTreeMap::new(),
            landed: watch::Sender::new(None),
            ways: Mutex::default(),
            moved: Mutex::default(),
            standing: OnceCell::new(),
            falters: AtomicBool::new(false),
            distrusts_manifests: AtomicBool::new(false),
            distrusts_looks: AtomicBool::new(false),
            created: OnceCell::new(),
            opened: AtomicBool::new(false),
        })
    }

    /// Has these blobs wait for `other`, which brings them to the same registry, and be taken over then. It must not
    /// wait for this one in turn.
    pub fn take_over<'a>(&mut self, other: &Self, blobs: impl IntoIterator<Item = &'a Digest>) {
        let near = Near {
            repository: other.target.repository.clone(),
            has_landed: other.landed.subscribe(),
        };
        let blobs = blobs.into_iter().map(|blob| (*blob, near.clone()));
        self.near.extend(blobs);
    }

    /// The registry and the repository.
    pub fn target(&self) -> &Reference {
        &self.target
    }

    /// Brings a blob of an image that is still being made, from the store or from `origin`. What fails here
    /// is tried again with the image, and told then.
    pub async fn bring_early(&self, blob: &Descriptor, origin: Option<&Reference>) {
        if self.falters.load(Ordering::Relaxed) {
            return;
        }
        let brought = self.with_repository(async || self.bring(blob, origin, None).await);
        if let Err(error) = brought.await {
            self.falters.store(true, Ordering::Relaxed);
            self.progress.detail(format!(
                "blob {}: {error}; again with the image",
                blob.digest
            ));
        }
    }

    /// Does what `look` says is to be done.
    ///
    /// # Errors
    /// See [`Error`]; [`Self::so_far`] says which tags have moved then.
    pub async fn finish(&self, image: &Image, look: &Look) -> Result<Summary, Error> {
        self.land(image, look).await?;
        self.name(image, look).await
    }

    /// Brings the image under its digest, so that no tag moves.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn land(&self, image: &Image, look: &Look) -> Result<(), Error> {
        let digest = image.manifest.digest();
        let bring = async || {
            if !look.is_there {
                self.bring_all(image).await?;
                self.put_version(image, &digest.to_string()).await?;
            }
            Ok(())
        };
        let done = self.with_repository(bring).await;
        self.landed.send_replace(Some(done.is_ok()));
        done
    }

    /// Puts the tags on an image that is there.
    ///
    /// # Errors
    /// As those of [`Self::finish`].
    pub async fn name(&self, image: &Image, look: &Look) -> Result<Summary, Error> {
        for tag in &look.moves {
            self.put_tag(image, tag).await?;
            self.moved().push(tag.clone());
        }
        if !look.is_there {
            self.settle(image.manifest.digest()).await;
        }
        Ok(Summary {
            was_there: look.is_there && look.moves.is_empty(),
            ..self.summary(image)
        })
    }

    /// The tags that were put, and what moved for them.
    pub fn so_far(&self, image: &Image) -> (Vec<String>, Summary) {
        (self.moved().clone(), self.summary(image))
    }

    async fn bring_all(&self, image: &Image) -> Result<(), Error> {
        stream::iter(image.blobs())
            .map(|blob| {
                let is_config = blob.digest == image.manifest.config.digest;
                let raw = is_config.then_some(&image.config.raw);
                self.bring(blob, image.origins.get(&blob.digest), raw)
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await
    }

    /// Puts the manifest. A registry that misses a blob that it said was there is asked for each again: others
    /// may be at work there. Where it misses one then, it gets all of them, once.
    pub(super) async fn put_manifest(&self, image: &Image, version: &str) -> Result<(), Error> {
        let mut retry = self.repository.retry();
        loop {
            let put = self.repository.put_manifest(&image.manifest, version);
            let Put::BlobsUnknown(error) = put.await? else {
                return Ok(());
            };
            let trouble = Trouble::rare(error.to_string());
            let what = format!("manifest {version}");
            if !retry.again(&what, &trouble, &self.progress).await {
                return Err(error);
            }
            self.believe_less();
            self.bring_all(image).await?;
        }
    }

    /// Forgets what the registry only said of blobs, and the second time all that is known of them.
    pub(super) fn believe_less(&self) {
        let mut ways = self.ways();
        if !self.distrusts_manifests.swap(true, Ordering::Relaxed) {
            let is_found = |way: &Way| matches!(way, Way::Known | Way::Skipped);
            ways.retain(|_, way| !way.get().is_some_and(is_found));
        } else if !self.distrusts_looks.swap(true, Ordering::Relaxed) {
            ways.clear();
        }
    }

    fn summary(&self, image: &Image) -> Summary {
        let mut summary = Summary::default();
        for blob in image.blobs() {
            let counter = match self.way(&blob.digest) {
                Some(Way::Uploaded) => &mut summary.uploaded,
                Some(Way::Mounted) => &mut summary.mounted,
                Some(Way::Skipped | Way::Known) | None => &mut summary.skipped,
            };
            *counter += blob.size;
        }
        summary
    }

    fn moved(&self) -> MutexGuard<'_, Vec<String>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ways(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<OnceCell<Way>>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, digest: &Digest) -> Option<Way> {
        self.ways().get(digest)?.get().copied()
    }

    /// Does `work`, and where the repository is missing has it made and does it again.
    pub(super) async fn with_repository<T>(
        &self,
        work: impl AsyncFn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let error = match work().await {
            Err(error) => self.explained(error).await,
            done => return done,
        };
        if matches!(error, Error::NoRepository { .. }) && self.create().await? {
            return work().await;
        }
        Err(error)
    }

    /// ECR and whoever may ask it, where the image goes there.
    fn ecr(&self) -> Option<(ecr::Registry, &Aws)> {
        let registry = ecr::Registry::parse(&self.target.registry)?;
        Some((registry, self.options.aws.as_ref()?))
    }

    /// Has the repository made, once; whether anybody could.
    async fn create(&self) -> Result<bool, Error> {
        let Some(settings) = &self.options.create else {
            return Ok(false);
        };
        let Some((registry, aws)) = self.ecr() else {
            return Ok(false);
        };
        let make = async || {
            let name = &self.target.repository;
            let made = aws.create_repository(&registry, name, settings).await;
            let made = made.map_err(|source| Error::Create {
                registry: self.target.registry.clone(),
                repository: name.clone(),
                source,
            })?;
            if made {
                let name = self.repository.display();
                self.progress.step(format!("created the repository {name}"));
            }
            Ok::<_, Error>(())
        };
        self.created.get_or_try_init(make).await?;
        Ok(true)
    }

    /// The error for what it is: to a repository that is missing ECR answers nothing at all.
    async fn explained(&self, error: Error) -> Error {
        let hung_up = matches!(
            &error,
            Error::Http(http::Error::Exchange { hung_up: true, .. })
        );
        let is_private = |registry: &ecr::Registry| !registry.is_public();
        let registry = ecr::Registry::parse(&self.target.registry).filter(is_private);
        let (true, false, Some(registry)) =
            (hung_up, self.opened.load(Ordering::Relaxed), registry)
        else {
            return error;
        };
        let name = &self.target.repository;
        let exists = match &self.options.aws {
            Some(aws) => aws.repository_exists(&registry, name).await.ok(),
            None => None,
        };
        if exists == Some(true) {
            return error;
        }
        Error::NoRepository {
            registry: self.target.registry.clone(),
            repository: name.clone(),
            certain: exists.is_some(),
            detail: error.to_string(),
        }
    }

    /// What stands under the first of the tags, if that could be asked once.
    pub(super) async fn standing(&self) -> Option<&Standing> {
        let ask = async || {
            let tag = self.tags.first()?;
            self.repository.standing(tag).await.ok()
        };
        self.standing.get_or_init(ask).await.as_ref()
    }

    /// Brings a blob, whose bytes are `raw` or in the store or where it comes from, unless it is there.
    pub(super) async fn bring(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        raw: Option<&Vec<u8>>,
    ) -> Result<(), Error> {
        let cell = Arc::clone(self.ways().entry(blob.digest).or_default());
        let climb = async || self.climb(blob, origin, raw).await;
        cell.get_or_try_init(climb).await?;
        Ok(())
    }

    /// The ladder: known, there, mounted, sent.
    async fn climb(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        raw: Option<&Vec<u8>>,
    ) -> Result<Way, Error> {
        if self.distrusts_looks.load(Ordering::Relaxed) {
            let claim = Claim::default();
            self.upload((blob, origin, raw), None, &claim).await?;
            return Ok(Way::Uploaded);
        }
        let standing = self.standing().await;
        let is_known = standing.is_some_and(|standing| standing.blobs.contains(&blob.digest));
        if is_known && !self.distrusts_manifests.load(Ordering::Relaxed) {
            return Ok(Way::Known);
        }
        let near = self.landed_near(&blob.digest).await;
        if self.repository.has_blob(&blob.digest).await? {
            return Ok(Way::Skipped);
        }
        let Some(claim) = self.claimed(blob).await? else {
            return Ok(Way::Skipped);
        };
        let session = match self.mount(blob, origin, near).await? {
            Some(Upload::Done) => return Ok(Way::Mounted),
            Some(Upload::Session(session)) => Some(session),
            None => None,
        };
        self.upload((blob, origin, raw), session, &claim).await?;
        Ok(Way::Uploaded)
    }

    /// The repository that the blob can be taken over from, once a manifest there refers to it: before, some registries
    /// do not say that they have it.
    async fn landed_near(&self, blob: &Digest) -> Option<&String> {
        let near = self.near.get(blob)?;
        let mut has_landed = near.has_landed.clone();
        let landed = has_landed.wait_for(Option::is_some).await;
        let is_there = landed.is_ok_and(|landed| *landed == Some(true));
        let is_other = near.repository != self.target.repository;
        (is_there && is_other).then_some(&near.repository)
    }

    /// Mounts the blob from another repository of the same registry, if one is known to have it.
    async fn mount(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        near: Option<&String>,
    ) -> Result<Option<Upload>, Error> {
        let origin = origin.filter(|origin| {
            origin.registry == self.target.registry && !origin.same_repository(&self.target)
        });
        let near = origin.map(|origin| &origin.repository).or(near);
        let Some(near) = near else { return Ok(None) };
        let upload = match self.repository.mount(&blob.digest, near).await {
            // The bytes can still be sent, whatever became of the wish.
            Err(Error::Http(_)) => None,
            upload => upload?,
        };
        if upload.is_some() {
            self.opened.store(true, Ordering::Relaxed);
        }
        Ok(upload)
    }

    /// Sends a blob, in a session of its own each time.
    async fn upload(
        &self,
        (blob, origin, raw): (&Descriptor, Option<&Reference>, Option<&Vec<u8>>),
        mut session: Option<Session>,
        claim: &Claim,
    ) -> Result<(), Error> {
        let what = format!("blob {}", blob.digest);
        let (mut retry, mut furthest) = (self.repository.retry(), 0);
        let mut is_renewed = false;
        loop {
            let sent = Arc::new(AtomicU64::new(0));
            let tried = self.try_upload(blob, origin, raw, (session.take(), is_renewed), &sent);
            let Err(error) = noting(claim, &sent, tried).await else {
                return Ok(());
            };
            is_renewed |= matches!(&error, Failed::There(Error::Status { status: 401, .. }));
            let is_lost = matches!(&error, Failed::There(Error::Http(_)));
            let sent = sent.load(Ordering::Relaxed);
            if sent >= furthest + FURTHER {
                furthest = sent;
                retry.moved();
            }
            match trouble(&error) {
                Some(trouble) if retry.again(&what, &trouble, &self.progress).await => {}
                Some(_) if self.is_there(blob).await => return Ok(()),
                _ => return Err(error.into_inner()),
            }
            // Only the answer may have been lost. After an answer nobody looks before the end: a look between all
            // tries would have the same one of three requests fail for ever.
            if is_lost && self.is_there(blob).await {
                return Ok(());
            }
        }
    }

    /// Whether one look sees the blob.
    async fn is_there(&self, blob: &Descriptor) -> bool {
        let look = self.repository.look_for_blob(&blob.digest, Tries::One);
        matches!(look.await, Ok(true))
    }

    async fn try_upload(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        raw: Option<&Vec<u8>>,
        (session, is_renewed): (Option<Session>, bool),
        sent: &Arc<AtomicU64>,
    ) -> Result<(), Failed> {
        let session = match session {
            Some(session) => session,
            None => self
                .repository
                .begin_upload()
                .await
                .map_err(Failed::There)?,
        };
        self.opened.store(true, Ordering::Relaxed);
        let hex = blob.digest.hex();
        let task = self
            .progress
            .task(format!("push {}", &hex[..12]), Some(blob.size));
        let task = Arc::new(task);
        let (moving, counter) = (Arc::clone(&task), Arc::clone(sent));
        let (bytes, broken) = self.bytes(blob, origin, raw).await.map_err(Failed::Here)?;
        let bytes = bytes.inspect_ok(move |chunk| {
            moving.advance(chunk.len() as u64);
            counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        let finished = self
            .repository
            .finish_upload(session, blob, bytes.boxed(), is_renewed);
        finished.await.map_err(|error| match broken.take() {
            Some(cause) => Failed::Here(cause),
            None => Failed::There(error),
        })?;
        task.done();
        Ok(())
    }

    async fn bytes(
        &self,
        blob: &Descriptor,
        origin: Option<&Reference>,
        raw: Option<&Vec<u8>>,
    ) -> Result<(http::Stream, Broken), Error> {
        let broken = Broken::default();
        if let Some(raw) = raw {
            let raw = Bytes::from(raw.clone());
            return Ok((stream::once(async { Ok(raw) }).boxed(), broken));
        }
        if self.store.contains(&blob.digest, blob.size) {
            let path = self.store.path(&blob.digest);
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|source| Error::Read {
                    digest: blob.digest,
                    source,
                })?;
            let slot = broken.clone();
            let bytes = proven_stream(file, blob, self.store.clone());
            let bytes = bytes.map_err(move |error| slot.keep(error)).boxed();
            return Ok((bytes, broken));
        }
        let origin = origin.ok_or(Error::Missing(blob.digest))?;
        let bytes = self.registries.source(origin)?.blob(blob);
        let slot = broken.clone();
        let bytes = bytes.map_err(move |error| slot.keep(error)).boxed();
        Ok((bytes, broken))
    }
}
