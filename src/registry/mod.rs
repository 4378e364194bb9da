//! One repository of a registry, as the OCI distribution specification has it: manifests, blobs,
//! uploads.
//!
//! Requests are single and plain here; which blobs go, in what order and from where is `push`'s.
//! This room knows nothing of Python or Lambda, nor what is in a layer.

pub mod auth;
pub mod push;

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::digest::Digest;
use crate::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use crate::http::{self, Client, Method, Request, Response, Secret, StatusCode, Url};
use crate::oci::reference::Reference;
use crate::oci::{self, Descriptor, Manifest};
use crate::registry::auth::{Keychain, Tokens};

/// Error answers are small; more of one is not read.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// How many tokens a request may be answered with: stored credentials, a login that was kept, a new one.
const MAX_ANSWERS: usize = 3;

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
        /// Whether credentials were sent.
        with_credentials: bool,
        /// The registry's own words, or the status.
        detail: String,
    },
    /// There is no such image or repository.
    #[error("`{reference}` is not there: {detail}")]
    NotFound {
        /// What was asked for.
        reference: String,
        /// What was meant to be done there.
        access: Access,
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
    #[error("the registry's answer for {expected} is {actual}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
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
    Store(#[from] crate::blob_store::Error),
    /// A blob in the store could not be read.
    #[error("cannot read blob {digest} of the store")]
    Read {
        /// The blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
}

/// What is meant to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

/// All registries, reached by one client with one set of credentials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registries {
    client: Client,
    tokens: Arc<Tokens>,
}

impl Registries {
    /// Speaks through `client`, with what `keychain` knows.
    pub fn new(client: Client, keychain: Keychain) -> Self {
        Self {
            client,
            tokens: Arc::new(Tokens::new(keychain)),
        }
    }

    /// The repository of `reference`.
    ///
    /// # Errors
    /// When its host can be no part of a URL.
    pub fn repository(&self, reference: &Reference, access: Access) -> Result<Repository, Error> {
        let host = reference.host();
        let scheme = if self.client.is_plain(host) {
            "http"
        } else {
            "https"
        };
        let base = format!("{scheme}://{host}/v2/{}/", reference.repository);
        let base = Url::parse(&base).map_err(|e| Error::Protocol {
            registry: reference.registry.clone(),
            detail: format!("is no host name: {e}"),
        })?;
        Ok(Repository {
            registries: self.clone(),
            registry: reference.registry.clone(),
            name: reference.repository.clone(),
            base,
            access,
        })
    }
}

/// One repository.
#[derive(Debug, Clone)]
pub struct Repository {
    registries: Registries,
    registry: String,
    name: String,
    /// `https://HOST/v2/NAME/`.
    base: Url,
    access: Access,
}

/// What became of the wish to mount a blob.
#[derive(Debug)]
pub enum Upload {
    /// It is there now.
    Done,
    /// Its bytes are wanted at this address after all.
    Session(Url),
}

impl Repository {
    /// Registry and name.
    pub fn display(&self) -> String {
        format!("{}/{}", self.registry, self.name)
    }

    /// What a token has to be good for.
    fn scope(&self) -> String {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.name)
    }

    fn url(&self, path: &str) -> Result<Url, Error> {
        self.base
            .join(path)
            .map_err(|e| self.protocol(format!("cannot be asked for `{path}`: {e}")))
    }

    fn protocol(&self, detail: impl Into<String>) -> Error {
        Error::Protocol {
            registry: self.registry.clone(),
            detail: detail.into(),
        }
    }

    /// Sends a request with the credentials for this repository, asking for them when told to.
    async fn send(&self, request: Request) -> Result<Response, Error> {
        self.send_with_scopes(request, &[self.scope()]).await
    }

    async fn send_with_scopes(
        &self,
        mut request: Request,
        scopes: &[String],
    ) -> Result<Response, Error> {
        let registries = &self.registries;
        request.authorization = registries.tokens.known(&self.host(), scopes).await;
        let mut response = registries.client.send(&request).await?;
        for answers in 0..MAX_ANSWERS {
            let sent = (request.authorization.take(), answers > 0);
            let Some(token) = self.fresh_token(&response, scopes, sent).await? else {
                break;
            };
            request.authorization = Some(token);
            response = registries.client.send(&request).await?;
        }
        Ok(response)
    }

    /// A better token than the one that was sent, and whether that answered this request before, if the registry
    /// itself asks for one: what answers behind a redirect is nobody to answer with credentials.
    async fn fresh_token(
        &self,
        response: &Response,
        scopes: &[String],
        sent: (Option<Secret>, bool),
    ) -> Result<Option<Secret>, Error> {
        let own = response.url().origin() == self.base.origin();
        if !matches!(response.status().as_u16(), 401 | 403 | 429) || !own {
            return Ok(None);
        }
        let (client, tokens) = (&self.registries.client, &self.registries.tokens);
        let challenge = (self.registry.as_str(), self.name.as_str(), response);
        Ok(tokens
            .answer(client, (&self.host(), scopes), sent, challenge)
            .await?)
    }

    fn host(&self) -> String {
        http::host_and_port(&self.base)
    }

    async fn refusal(&self, what: &str, response: Response) -> Error {
        let status = response.status();
        let body = http::read_limited(response, MAX_ERROR_BODY).await;
        let detail = error_detail(&body.unwrap_or_default(), status);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unauthorized {
                registry: self.registry.clone(),
                repository: self.name.clone(),
                with_credentials: self
                    .registries
                    .tokens
                    .has_credentials(&self.registry, &self.name)
                    .await,
                detail,
            },
            StatusCode::NOT_FOUND => Error::NotFound {
                reference: format!("{} of {}", what, self.display()),
                access: self.access,
                detail,
            },
            _ => Error::Status {
                registry: self.registry.clone(),
                status: status.as_u16(),
                what: what.to_owned(),
                detail,
            },
        }
    }

    /// Reads the manifest or index at a tag or digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn manifest(&self, version: &str) -> Result<(Vec<u8>, Option<String>), Error> {
        let mut request = Request::new(Method::GET, self.url(&format!("manifests/{version}"))?);
        let accepted = HeaderValue::from_str(&oci::ACCEPTED.join(", "));
        if let Ok(accepted) = accepted {
            request.headers.insert(ACCEPT, accepted);
        }
        let response = self.send(request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let body = http::read_limited(response, MAX_ERROR_BODY).await;
            let separator = if version.starts_with("sha256:") {
                '@'
            } else {
                ':'
            };
            return Err(Error::NotFound {
                reference: format!("{}{separator}{version}", self.display()),
                access: self.access,
                detail: error_detail(&body.unwrap_or_default(), StatusCode::NOT_FOUND),
            });
        }
        if response.status() != StatusCode::OK {
            return Err(self
                .refusal(&format!("the manifest `{version}`"), response)
                .await);
        }
        let media_type = header(response.headers(), CONTENT_TYPE.as_str());
        let promised = header(response.headers(), "docker-content-digest");
        let raw = http::read_limited(response, oci::MAX_DOCUMENT).await?;
        let actual = Digest::of(&raw);
        let expected = [Some(version.to_owned()), promised];
        for expected in expected
            .into_iter()
            .flatten()
            .filter_map(|text| text.parse().ok())
        {
            if expected != actual {
                return Err(Error::Digest { expected, actual });
            }
        }
        Ok((raw, media_type))
    }

    /// The digest now at a tag or digest, if the registry has one there and tells.
    ///
    /// # Errors
    /// See [`Error`]; an absent manifest is not one.
    pub async fn head_manifest(&self, version: &str) -> Result<Option<Digest>, Error> {
        let mut request = Request::new(Method::HEAD, self.url(&format!("manifests/{version}"))?);
        if let Ok(accepted) = HeaderValue::from_str(&oci::ACCEPTED.join(", ")) {
            request.headers.insert(ACCEPT, accepted);
        }
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK => {
                let digest = header(response.headers(), "docker-content-digest");
                Ok(digest.and_then(|text| text.parse().ok()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self
                .refusal(&format!("a look for the manifest `{version}`"), response)
                .await),
        }
    }

    /// Whether the repository is known to have a blob. A registry that refuses to tell (the public ECR
    /// answers 401 to every such look) is taken to have none; what comes next says why.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let request = Request::new(Method::HEAD, self.url(&format!("blobs/{digest}"))?);
        Ok(self.send(request).await?.status() == StatusCode::OK)
    }

    /// Begins to read a blob; the caller proves the bytes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn blob(&self, digest: &Digest) -> Result<Response, Error> {
        let request = Request::new(Method::GET, self.url(&format!("blobs/{digest}"))?);
        let response = self.send(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        Err(self.refusal(&format!("blob {digest}"), response).await)
    }

    /// Reads a small blob whole, proven.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let response = self.blob(&descriptor.digest).await?;
        let raw = http::read_limited(response, descriptor.size.min(oci::MAX_DOCUMENT)).await?;
        let actual = Digest::of(&raw);
        if actual != descriptor.digest {
            return Err(Error::Digest {
                expected: descriptor.digest,
                actual,
            });
        }
        Ok(raw)
    }

    /// Has a blob mounted from the repository `from` of the same registry; a refusal of any kind (no leave to
    /// read there, mounting unknown or turned off) is no error, because the bytes can still be sent.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<Option<Upload>, Error> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let scopes = [self.scope(), format!("repository:{from}:pull")];
        let response = match self.send_with_scopes(empty_post(url), &scopes).await {
            Err(Error::Credentials(_)) => return Ok(None),
            response => response?,
        };
        match response.status() {
            StatusCode::CREATED => Ok(Some(Upload::Done)),
            StatusCode::ACCEPTED => Ok(self.session(&response).ok().map(Upload::Session)),
            _ => Ok(None),
        }
    }

    /// Opens an upload of a blob.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin_upload(&self) -> Result<Url, Error> {
        let response = self.send(empty_post(self.url("blobs/uploads/")?)).await?;
        if response.status() == StatusCode::ACCEPTED {
            return self.session(&response);
        }
        Err(self.refusal("an upload", response).await)
    }

    fn session(&self, response: &Response) -> Result<Url, Error> {
        let nowhere = || self.protocol("names no place for an upload");
        let location = header(response.headers(), LOCATION.as_str()).ok_or_else(nowhere)?;
        let url = response.url().join(&location).map_err(|_| nowhere())?;
        if self.base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.protocol("wants an upload without TLS"));
        }
        Ok(url)
    }

    /// Sends a blob's bytes in one request to the address of a session. A session on another host is data:
    /// it gets no credentials.
    ///
    /// # Errors
    /// See [`Error`]; the session is spent then. Where only the token had run out, the status is 401 and
    /// a new one is known for the next try.
    pub async fn finish_upload(
        &self,
        mut session: Url,
        descriptor: &Descriptor,
        bytes: http::Stream,
    ) -> Result<(), Error> {
        let digest = descriptor.digest.to_string();
        session.query_pairs_mut().append_pair("digest", &digest);
        let mut request = Request::new(Method::PUT, session);
        let scopes = [self.scope()];
        if request.url.origin() == self.base.origin() {
            let tokens = &self.registries.tokens;
            request.authorization = tokens.known(&self.host(), &scopes).await;
        }
        let headers = &mut request.headers;
        headers.insert(CONTENT_LENGTH, HeaderValue::from(descriptor.size));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let response = self.registries.client.send_stream(&request, bytes).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let what = format!("the upload of blob {digest}");
        let sent = (request.authorization, false);
        if self.fresh_token(&response, &scopes, sent).await?.is_some() {
            return Err(Error::Status {
                registry: self.registry.clone(),
                status: StatusCode::UNAUTHORIZED.as_u16(),
                what,
                detail: "the token has run out".to_owned(),
            });
        }
        Err(self.refusal(&what, response).await)
    }

    /// Puts a manifest at a tag or at its digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_manifest(&self, manifest: &Manifest, version: &str) -> Result<(), Error> {
        let mut request = Request::new(Method::PUT, self.url(&format!("manifests/{version}"))?);
        let media_type = HeaderValue::from_static(manifest.family.manifest());
        request.headers.insert(CONTENT_TYPE, media_type);
        request.body = Some(Bytes::from(manifest.raw.clone()));
        let response = self.send(request).await?;
        if !response.status().is_success() {
            return Err(self
                .refusal(&format!("the manifest `{version}`"), response)
                .await);
        }
        let stored = header(response.headers(), "docker-content-digest");
        match stored.and_then(|text| text.parse::<Digest>().ok()) {
            Some(actual) if actual != manifest.digest() => Err(Error::Digest {
                expected: manifest.digest(),
                actual,
            }),
            _ => Ok(()),
        }
    }
}

fn empty_post(url: Url) -> Request {
    let mut request = Request::new(Method::POST, url);
    request.body = Some(Bytes::new());
    request
        .headers
        .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    request
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The registry's own words for an error, else the status.
fn error_detail(body: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let told = serde_json::from_slice::<Body>(body).ok();
    let items = told.into_iter().flat_map(|body| body.errors);
    let texts: Vec<_> = items
        .map(|item| match (&*item.code, &*item.message) {
            (code, "") => code.to_owned(),
            ("", message) => message.to_owned(),
            (code, message) => format!("{message} ({code})"),
        })
        .collect();
    if texts.is_empty() {
        status.to_string()
    } else {
        texts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_passed_on() {
        let detail = |body: &str| error_detail(body.as_bytes(), StatusCode::BAD_REQUEST);
        assert_eq!(
            detail(r#"{"errors":[{"code":"TAG_INVALID","message":"tag is immutable"}]}"#),
            "tag is immutable (TAG_INVALID)"
        );
        assert_eq!(detail("<html>"), "400 Bad Request");
        assert_eq!(detail(r#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
    }
}
