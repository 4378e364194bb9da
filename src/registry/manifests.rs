//! Manifests of a repository: read, looked for, put.
//!
//! Which of them go, and when, is `push`'s and `tags`'; blobs are unknown here.

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use crate::http::retry::{self, Retry};
use crate::http::{self, Method, Request, StatusCode};
use crate::oci::{self, Manifest};
use crate::registry::error::Error;
use crate::registry::{Repository, Tries, header};

pub(super) const DIGEST_HEADER: &str = "docker-content-digest";
/// By this a registry says that it knows what a manifest's subject is.
const SUBJECT_HEADER: &str = "oci-subject";
/// What is said of a manifest whose blobs are not there: by the specification, by some, by ECR.
const LACKS: [&str; 3] = [
    "MANIFEST_BLOB_UNKNOWN",
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_UNKNOWN",
];

/// What became of a manifest.
#[derive(Debug)]
pub enum Put {
    /// It is there now.
    Done {
        /// Whether the registry says that it lists it among the referrers of its subject.
        is_listed: bool,
    },
    /// The registry lacks a blob of it.
    BlobsUnknown(Error),
}

/// What a registry has under a tag.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Its digest.
    pub digest: Option<Digest>,
    /// The blobs that its manifest, if it is one, refers to; the repository has them.
    pub blobs: Vec<Digest>,
}

impl Repository {
    fn manifest_request(&self, method: Method, version: &str) -> Result<Request, Error> {
        let mut request = Request::new(method, self.url(&format!("manifests/{version}"))?);
        if let Ok(accepted) = HeaderValue::from_str(&oci::ACCEPTED.join(", ")) {
            request.headers.insert(ACCEPT, accepted);
        }
        Ok(request)
    }

    /// Reads the manifest or index at a tag or digest. One that comes cut or changed is asked for again.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn manifest(
        &self,
        version: &str,
        mut retry: Retry,
    ) -> Result<(Vec<u8>, Option<String>), Error> {
        let what = format!("the manifest `{version}` of {}", self.display());
        loop {
            let error = match self.try_manifest(version).await {
                Err(error) => error,
                found => return found,
            };
            let trouble = error.trouble();
            let progress = self.registries.client.progress();
            match trouble {
                Some(trouble) if retry.again(&what, &trouble, progress).await => {}
                _ => return Err(error),
            }
        }
    }

    async fn try_manifest(&self, version: &str) -> Result<(Vec<u8>, Option<String>), Error> {
        let request = self.manifest_request(Method::GET, version)?;
        let answer = self.send(request, Tries::One).await?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            let separator = if version.starts_with("sha256:") {
                '@'
            } else {
                ':'
            };
            return Err(Error::NotFound {
                reference: format!("{}{separator}{version}", self.display()),
                detail: self.told(answer).await.detail,
            });
        }
        if answer.response.status() != StatusCode::OK {
            return Err(self
                .refusal(&format!("the manifest `{version}`"), answer)
                .await);
        }
        let response = answer.response;
        let media_type = header(response.headers(), CONTENT_TYPE.as_str());
        let promised = header(response.headers(), DIGEST_HEADER);
        let raw = http::read_limited(response, oci::MAX_DOCUMENT).await?;
        let actual = Digest::of(&raw);
        let expected = [Some(version.to_owned()), promised];
        for expected in expected
            .into_iter()
            .flatten()
            .filter_map(|text| text.parse().ok())
        {
            if expected != actual {
                return Err(self.wrong_digest(expected, actual));
            }
        }
        // What no digest was promised for may be cut and not be missed.
        if let Err(error) = serde_json::from_slice::<IgnoredAny>(&raw) {
            return Err(Error::Document {
                reference: format!("{} {version}", self.display()),
                source: oci::Error::Malformed {
                    what: "manifest",
                    detail: error.to_string(),
                },
            });
        }
        Ok((raw, media_type))
    }

    /// What is under a tag now; nothing only where the registry says that nothing is.
    ///
    /// # Errors
    /// See [`Error`]; whatever leaves the tag unknown.
    pub async fn standing(&self, tag: &str) -> Result<Standing, Error> {
        let request = self.manifest_request(Method::GET, tag)?;
        let answer = self.send(request, Tries::Many).await?;
        match answer.response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Standing::default()),
            _ => {
                return Err(self
                    .refusal(&format!("a look for the manifest `{tag}`"), answer)
                    .await);
            }
        }
        let came_with = header(answer.response.headers(), CONTENT_TYPE.as_str());
        let raw = http::read_limited(answer.response, oci::MAX_DOCUMENT).await?;
        let digest = Some(Digest::of(&raw));
        let blobs = match oci::Document::read(raw, came_with.as_deref()) {
            Ok(oci::Document::Manifest(manifest)) => {
                let layers = manifest.layers.iter().chain([&manifest.config]);
                layers.map(|blob| blob.digest).collect()
            }
            _ => Vec::new(),
        };
        Ok(Standing { digest, blobs })
    }

    /// The digest now at a tag or digest, if the registry has one there. Where it does not tell the digest, the
    /// manifest itself does.
    ///
    /// # Errors
    /// See [`Error`]; an absent manifest is not one.
    pub(super) async fn head_manifest(
        &self,
        version: &str,
        tries: Tries,
    ) -> Result<Option<Digest>, Error> {
        let request = self.manifest_request(Method::HEAD, version)?;
        let answer = self.send(request, tries).await?;
        match answer.response.status() {
            StatusCode::OK => {
                let told = header(answer.response.headers(), DIGEST_HEADER);
                let told = told.and_then(|text| text.parse().ok());
                // Who says yes to everything has it by its digest, too, and something else there.
                match told {
                    Some(digest) => Ok(Some(digest)),
                    None => Ok(self.standing(version).await?.digest),
                }
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self
                .refusal(&format!("a look for the manifest `{version}`"), answer)
                .await),
        }
    }

    /// Puts a manifest at a tag or at its digest.
    ///
    /// # Errors
    /// As [`Self::put_document`].
    pub async fn put_manifest(&self, manifest: &Manifest, version: &str) -> Result<Put, Error> {
        let media_type = manifest.family.manifest();
        self.put_document(&manifest.raw, media_type, version).await
    }

    /// Puts a manifest or an index at a tag or at its digest. What is answered by another success than 201 is looked for, unless
    /// the answer has its digest: somebody between may say yes to everything.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::TagTaken`] where the tag is another's for good.
    pub async fn put_document(
        &self,
        raw: &[u8],
        media_type: &'static str,
        version: &str,
    ) -> Result<Put, Error> {
        let wanted = Digest::of(raw);
        let mut request = Request::new(Method::PUT, self.url(&format!("manifests/{version}"))?);
        let media_type = HeaderValue::from_static(media_type);
        request.headers.insert(CONTENT_TYPE, media_type);
        request.body = Some(Bytes::copy_from_slice(raw));
        let answer = self.send(request, Tries::Many).await?;
        let status = answer.response.status();
        if !status.is_success() {
            let after = retry::retry_after(answer.response.headers());
            let told = self.told(answer).await;
            let may_be_taken = !version.starts_with("sha256:") && status.is_client_error();
            if may_be_taken && told.is_immutable_tag() {
                return Err(Error::TagTaken {
                    repository: self.display(),
                    tag: version.to_owned(),
                    there: None,
                    wanted,
                    refusal: Some(told.detail),
                });
            }
            let lacks = LACKS.iter().any(|code| told.has(code));
            let what = format!("the manifest `{version}`");
            let error = self.refused(&what, status, after, told).await;
            return if lacks {
                Ok(Put::BlobsUnknown(error))
            } else {
                Err(error)
            };
        }
        let stored = header(answer.response.headers(), DIGEST_HEADER);
        let is_listed = header(answer.response.headers(), SUBJECT_HEADER).is_some();
        let done = Put::Done { is_listed };
        match stored.and_then(|text| text.parse::<Digest>().ok()) {
            Some(actual) if actual != wanted => return Err(self.wrong_digest(wanted, actual)),
            Some(_) => return Ok(done),
            None if status == StatusCode::CREATED => return Ok(done),
            None => {}
        }
        if self.head_manifest(version, Tries::Many).await? == Some(wanted) {
            return Ok(done);
        }
        Err(self.pretends(status, &format!("the manifest `{version}`")))
    }
}
