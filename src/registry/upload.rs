//! One blob on its way up: its bytes from the store, whether it arrived, at which end it failed, and whether a new
//! try may pass.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::io::AsyncReadExt as _;

use crate::blob_store::{self, BlobStore};
use crate::digest::{Digest, Hasher};
use crate::http::header::HeaderMap;
use crate::http::retry::{self, Trouble};
use crate::http::{self, StatusCode};
use crate::oci::Descriptor;
use crate::registry::manifests::DIGEST_HEADER;
use crate::registry::{Answer, Error, Repository, Tries, header};

impl Repository {
    /// Believes that a blob was taken where the answer is 201 or has its digest; else it is looked for.
    pub(super) async fn proven(
        &self,
        (status, headers): (StatusCode, &HeaderMap),
        digest: &Digest,
    ) -> Result<(), Error> {
        let told = header(headers, DIGEST_HEADER).and_then(|text| text.parse().ok());
        let is_there = status == StatusCode::CREATED
            || told == Some(*digest)
            || self.has_blob(digest).await?
            // Some refuse every HEAD.
            || self.look_by_get(digest, Tries::Many).await?;
        if is_there {
            return Ok(());
        }
        Err(self.pretends(status, &format!("the upload of blob {digest}")))
    }

    /// The refusal of an upload by another host than the registry.
    pub(super) async fn elsewhere(&self, what: String, answer: Answer) -> Error {
        let response = &answer.response;
        let (status, host) = (response.status(), http::host_and_port(response.url()));
        let after = retry::retry_after(response.headers());
        Error::Elsewhere {
            registry: self.registry.clone(),
            host,
            status: status.as_u16(),
            what,
            detail: self.told(answer).await.detail,
            after,
        }
    }

    /// The error where a request succeeded and did nothing.
    pub(super) fn pretends(&self, status: StatusCode, what: &str) -> Error {
        let status = status.as_u16();
        self.protocol(format!("answered {status} to {what} and does not have it"))
    }
}

const CHUNK: usize = 128 << 10;

/// Why the bytes of a blob stopped coming from where they come from: the client that sends them on only knows
/// that they did.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(Arc<Mutex<Option<Error>>>);

impl Broken {
    fn slot(&self) -> MutexGuard<'_, Option<Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep(&self, error: Error) -> io::Error {
        let shown = io::Error::other(error.to_string());
        *self.slot() = Some(error);
        shown
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.slot().take()
    }
}

/// At which end an upload failed.
pub(super) enum Failed {
    /// The bytes could not be had, however often that was tried.
    Here(Error),
    /// They could not be brought.
    There(Error),
}

impl Failed {
    pub(super) fn into_inner(self) -> Error {
        match self {
            Self::Here(error) | Self::There(error) => error,
        }
    }
}

/// What is wrong with an upload, if a new one may pass.
pub(super) fn trouble(failed: &Failed) -> Option<Trouble> {
    /// What a registry says when bytes were changed on the way, or a session is known no more.
    const BROKEN: [&str; 4] = [
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "SIZE_INVALID",
    ];
    let error = match failed {
        // Where bytes come from has a budget of its own, spent by now; wrong ones may be right the next time.
        Failed::Here(error) => {
            let is_wrong = matches!(
                error,
                Error::Digest { .. } | Error::Store(blob_store::Error::Damaged(_))
            );
            return error.trouble().filter(|_| is_wrong);
        }
        Failed::There(error) => error,
    };
    match error {
        // 401 is a token that ran out and has a successor by now.
        Error::Status { status, codes, .. }
            if matches!(status, 401 | 404 | 416)
                || codes.iter().any(|code| BROKEN.contains(&code.as_str())) =>
        {
            Some(Trouble::new(error.to_string()))
        }
        error => error.trouble(),
    }
}

/// A blob of the store as it is read. Damage breaks the stream off before its last bytes and drops the blob, so
/// that the next try has it from elsewhere or says that it is gone; no registry ever gets all of it.
pub(super) fn proven_stream(
    file: tokio::fs::File,
    blob: &Descriptor,
    store: BlobStore,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + use<> {
    let digest = blob.digest;
    let unreadable = move |source| Error::Read { digest, source };
    let state = (file, Hasher::default(), blob.size);
    stream::try_unfold(state, move |(mut file, mut hasher, left)| {
        let store = store.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let mut chunk = BytesMut::with_capacity(CHUNK);
            let count = file.read_buf(&mut chunk).await.map_err(unreadable)?;
            hasher.update(&chunk);
            let left = left.saturating_sub(count as u64);
            let is_end = count == 0 || left == 0;
            if is_end && hasher.clone().finish() != digest {
                let metadata = file.metadata().await.map_err(unreadable)?;
                store.discard(&digest, &metadata);
                return Err(Error::Store(blob_store::Error::Damaged(digest)));
            }
            Ok(Some((chunk.freeze(), (file, hasher, left))))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_session_may_mend_is_tried_again() {
        let status = |status, code: &str| {
            Failed::There(Error::Status {
                registry: "r.test".into(),
                status,
                what: "an upload".into(),
                detail: String::new(),
                codes: vec![code.to_owned()],
                after: None,
            })
        };
        let mends = [
            status(416, "BLOB_UPLOAD_INVALID"),
            status(400, "DIGEST_INVALID"),
            status(404, "BLOB_UPLOAD_UNKNOWN"),
            status(401, ""),
            status(429, ""),
            status(500, ""),
        ];
        assert!(mends.iter().all(|failed| trouble(failed).is_some()));
        let stays = [
            status(400, "NAME_INVALID"),
            status(413, ""),
            status(403, "DENIED"),
        ];
        assert!(stays.iter().all(|failed| trouble(failed).is_none()));
        let here = Failed::Here(Error::Missing(Digest::of(b"x")));
        assert!(
            trouble(&here).is_none(),
            "where bytes come from has its own budget"
        );
    }
}
