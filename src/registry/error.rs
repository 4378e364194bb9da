//! What a registry can fail at, as facts; what to do about it is not said here.

use std::time::Duration;

use crate::aws;
use crate::blob_store;
use crate::digest::Digest;
use crate::http::retry::Trouble;
use crate::http::{self, StatusCode};
use crate::oci;
use crate::registry::auth;

/// What a registry can fail at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing came back, or not over this network.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The registry wants other credentials, or any.
    #[error("`{registry}` refuses access to `{repository}`: {detail}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Whose credentials were sent.
        credentials: auth::Source,
        /// The registry's own words, or the status.
        detail: String,
    },
    /// There is no such image.
    #[error("`{reference}` is not there: {detail}")]
    NotFound {
        /// What was asked for.
        reference: String,
        /// The registry's own words, or the status.
        detail: String,
    },
    /// Any other refusal.
    #[error("`{registry}` answered {status} to {what}: {detail}")]
    Status {
        /// The registry.
        registry: String,
        /// The status code.
        status: u16,
        /// The request in words.
        what: String,
        /// The registry's own words.
        detail: String,
        /// The registry's codes for it, as the specification has them.
        codes: Vec<String>,
        /// How long it wants to be left alone.
        after: Option<Duration>,
    },
    /// The host that a registry has uploads sent to refuses one. It knows no credentials but those in its address.
    #[error("`{host}`, where `{registry}` takes uploads, answered {status} to {what}: {detail}")]
    Elsewhere {
        /// The registry.
        registry: String,
        /// The other host, with its port if any.
        host: String,
        /// The status code.
        status: u16,
        /// The request in words.
        what: String,
        /// The host's own words.
        detail: String,
        /// How long it wants to be left alone.
        after: Option<Duration>,
    },
    /// The repository to push to is not there.
    #[error("`{registry}` has no repository `{repository}`{}: {detail}", if *.certain { "" } else { ", it seems" })]
    NoRepository {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Whether the registry says so, and does not only hang up, as ECR does.
        certain: bool,
        /// The registry's own words, or what happened.
        detail: String,
    },
    /// A missing repository could not be made.
    #[error("cannot create the repository `{repository}` of `{registry}`")]
    Create {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Why.
        source: aws::Error,
    },
    /// A tag is another image's and does not move.
    #[error("the tag `{tag}` of `{repository}` is {}, and the image is {wanted}", or_unknown(.there.as_ref()))]
    TagTaken {
        /// Registry and repository.
        repository: String,
        /// The tag.
        tag: String,
        /// The digest it is, if the registry tells.
        there: Option<Digest>,
        /// The digest it was to be.
        wanted: Digest,
        /// The registry's own words where it is the one that refuses; else the user had said that tags stay.
        refusal: Option<String>,
    },
    /// The tag that is to list what belongs to an image is something else's.
    #[error("what `{repository}` has under the tag `{tag}` is no list of what refers to an image")]
    NoList {
        /// Registry and repository.
        repository: String,
        /// The tag.
        tag: String,
    },
    /// The registry broke the protocol.
    #[error("`{registry}` {detail}")]
    Protocol {
        /// The registry.
        registry: String,
        /// What it did, as a clause that follows its name.
        detail: String,
    },
    /// The bytes are not those of the digest they were asked by.
    #[error("what `{registry}` has as {expected} is {actual}")]
    Digest {
        /// The registry.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A blob is longer or shorter than the manifest has it.
    #[error("blob {digest} of `{registry}` has {expected} bytes, and {actual} came")]
    Length {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Its bytes by the manifest.
        expected: u64,
        /// The bytes that came, or more than there may be.
        actual: u64,
    },
    /// What the registry has there is not the image that was wanted.
    #[error("`{reference}`: {source}")]
    Document {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        source: oci::Error,
    },
    /// Credentials could not be had.
    #[error(transparent)]
    Credentials(#[from] auth::Error),
    /// A blob of the image is nowhere to be had.
    #[error("blob {0} is neither in the store nor in a registry that is known to have it")]
    Missing(Digest),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
    /// A blob in the store could not be read.
    #[error("cannot read blob {digest} of the store")]
    Read {
        /// The blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// What is wrong, if it may pass.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Http(error) => Trouble::of_error(error),
            // The next session has another address, which is good for longer.
            Self::Elsewhere {
                status: 400 | 401 | 403 | 404 | 410 | 416,
                ..
            } => Some(Trouble::new(self.to_string())),
            Self::Status { status, after, .. } | Self::Elsewhere { status, after, .. } => {
                Trouble::of_status(StatusCode::from_u16(*status).ok()?, *after)
            }
            Self::Length {
                expected, actual, ..
            } if actual < expected => Some(Trouble::new(self.to_string())),
            // The way here may have changed them; the registry itself hardly does, so not often.
            Self::Digest { .. } | Self::Document { .. } | Self::Length { .. } => {
                Some(Trouble::rare(self.to_string()))
            }
            // Dropped by now, so that the next try has it from elsewhere.
            Self::Store(blob_store::Error::Damaged(_)) => Some(Trouble::rare(self.to_string())),
            Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::NoRepository { .. }
            | Self::Create { .. }
            | Self::TagTaken { .. }
            | Self::NoList { .. }
            | Self::Protocol { .. }
            | Self::Credentials(_)
            | Self::Missing(_)
            | Self::Store(_)
            | Self::Read { .. } => None,
        }
    }
}

fn or_unknown(digest: Option<&Digest>) -> String {
    digest.map_or_else(|| "another image's".to_owned(), ToString::to_string)
}

/// What is meant to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}
