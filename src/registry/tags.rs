//! The end of a push: what is under its tags, the manifest by its digest, then the tags.
//!
//! A tag that nothing is under and one that could not be asked for are two things: where tags of other images
//! are to stay only the first is free. This file knows no blob.

use std::time::Duration;

use crate::digest::Digest;
use crate::oci::image::Image;
use crate::registry::push::Push;
use crate::registry::{Error, Tries};

/// The pauses between looks for a manifest that was just put.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// All looks together: most show it at once, and nothing is left to do but to wait.
const LOOKING: Duration = Duration::from_secs(15);

/// What a look at the repository says is to be done.
#[derive(Debug)]
pub struct Look {
    /// Whether the image is there under its digest.
    pub is_there: bool,
    /// The tags to put, those first that are another image's: where such a one is refused, none has moved.
    pub(super) moves: Vec<String>,
}

impl Push {
    /// Looks at what is there. Nothing is sent by that, so that several pushes can look before one of them
    /// moves a tag.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::TagTaken`] where a tag is another image's and is to stay so.
    pub async fn look(&self, image: &Image) -> Result<Look, Error> {
        self.with_repository(async || self.try_look(image).await)
            .await
    }

    async fn try_look(&self, image: &Image) -> Result<Look, Error> {
        let wanted = image.manifest.digest();
        let version = wanted.to_string();
        // A manifest is only taken when all its blobs are there, so one look can stand for all of them.
        let is_there = match self.repository.head_manifest(&version, Tries::Many).await {
            Ok(there) => there == Some(wanted),
            Err(error) if is_refusal(&error) => self.unknown(&version, &error),
            Err(error) => return Err(error),
        };
        let moves = self.moves(wanted, is_there).await?;
        Ok(Look { is_there, moves })
    }

    /// Who may push need not be allowed to look; what comes next says whether he may push.
    fn unknown(&self, version: &str, error: &Error) -> bool {
        self.progress
            .detail(format!("whether `{version}` is there is unknown: {error}"));
        false
    }

    async fn moves(&self, wanted: Digest, is_there: bool) -> Result<Vec<String>, Error> {
        let (mut taken, mut free) = (Vec::new(), Vec::new());
        for tag in &self.tags {
            match self.digest_under(tag, is_there).await {
                Ok(Some(there)) if there == wanted => {}
                Ok(Some(there)) if self.options.immutable_tags => {
                    return Err(self.tag_taken(tag, there, wanted));
                }
                Ok(Some(_)) => taken.push(tag.clone()),
                Ok(None) => free.push(tag.clone()),
                Err(error) if is_answer(&error) && !self.options.immutable_tags => {
                    self.unknown(tag, &error);
                    taken.push(tag.clone());
                }
                Err(error) => return Err(error),
            }
        }
        // A registry whose tags stay may let this one move.
        taken.sort_by_key(|tag| *tag == "latest");
        taken.append(&mut free);
        Ok(taken)
    }

    /// What is under a tag now. Where blobs are to be brought, the first tag's manifest is read whole, which may
    /// tell of some.
    async fn digest_under(&self, tag: &String, is_there: bool) -> Result<Option<Digest>, Error> {
        let is_first = !is_there && self.tags.first() == Some(tag);
        // What was read while the image was made may be old by now.
        if is_first
            && !self.standing.initialized()
            && let Some(standing) = self.standing().await
        {
            return Ok(standing.digest);
        }
        self.repository.head_manifest(tag, Tries::Many).await
    }

    /// Whether blobs may go before the image is whole: where tags are to stay, only when all are seen to be
    /// free, for nothing is to be sent for an image that is refused then.
    pub async fn may_begin_early(&self) -> bool {
        if !self.options.immutable_tags {
            return true;
        }
        for tag in &self.tags {
            let there = if self.tags.first() == Some(tag) {
                let standing = self.standing().await;
                standing.map(|standing| standing.digest)
            } else {
                self.repository.head_manifest(tag, Tries::Many).await.ok()
            };
            if there != Some(None) {
                return false;
            }
        }
        true
    }

    fn tag_taken(&self, tag: &str, there: Digest, wanted: Digest) -> Error {
        Error::TagTaken {
            repository: self.repository.display(),
            tag: tag.to_owned(),
            there: Some(there),
            wanted,
            refusal: None,
        }
    }

    /// Puts the manifest at its digest or at a tag.
    pub(super) async fn put_version(&self, image: &Image, version: &str) -> Result<(), Error> {
        let Err(error) = self.put_manifest(image, version).await else {
            return Ok(());
        };
        let is_taken = matches!(error, Error::TagTaken { .. });
        if !is_taken && error.trouble().is_none() {
            return Err(error);
        }
        // Only the answers may have been lost, or somebody was faster with the same.
        let looked = self.repository.head_manifest(version, Tries::One).await;
        let now = looked.ok().flatten();
        if now == Some(image.manifest.digest()) {
            return Ok(());
        }
        Err(match error {
            Error::TagTaken {
                repository,
                tag,
                wanted,
                refusal,
                ..
            } => Error::TagTaken {
                repository,
                tag,
                there: now,
                wanted,
                refusal,
            },
            error => error,
        })
    }

    /// Puts a tag. Where tags are to stay it is looked at once more: the blobs took their time.
    pub(super) async fn put_tag(&self, image: &Image, tag: &str) -> Result<(), Error> {
        let wanted = image.manifest.digest();
        if self.options.immutable_tags {
            match self.repository.head_manifest(tag, Tries::Many).await? {
                Some(there) if there == wanted => return Ok(()),
                Some(there) => return Err(self.tag_taken(tag, there, wanted)),
                None => {}
            }
        }
        self.put_version(image, tag).await
    }

    /// Waits until the registry has the digest for whoever asks: some take a moment.
    pub(super) async fn settle(&self, digest: Digest) {
        let shown = tokio::time::timeout(LOOKING, self.shown(digest)).await;
        if !matches!(shown, Ok(true)) {
            self.progress.warn(format!(
                "{} took {digest} and does not show it yet",
                self.repository.display()
            ));
        }
    }

    /// Ends when the digest is seen, or the registry will not tell; false where it is to be asked no more for now.
    async fn shown(&self, digest: Digest) -> bool {
        let mut pause = FIRST_LOOK;
        for look in 1_u32.. {
            let version = digest.to_string();
            let why = match self.repository.head_manifest(&version, Tries::One).await {
                Ok(Some(there)) if there == digest => return true,
                Ok(_) => "not there yet".to_owned(),
                Err(error) if is_refusal(&error) => {
                    self.unknown(&version, &error);
                    return true;
                }
                Err(error) => {
                    if let Error::Status {
                        after: Some(after), ..
                    } = &error
                    {
                        pause = pause.max(*after);
                    }
                    error.to_string()
                }
            };
            self.progress
                .detail(format!("{digest}: {why}; look {look}"));
            if pause > LOOKING {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
        false
    }
}

/// Whether the registry answered, and did not tell.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::Unauthorized { .. } | Error::Status { .. })
}

/// Whether the registry will not tell, however often it is asked.
fn is_refusal(error: &Error) -> bool {
    is_answer(error) && error.trouble().is_none()
}
