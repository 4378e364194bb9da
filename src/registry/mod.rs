//! One repository of a registry, as the OCI distribution specification has it: manifests, blobs,
//! uploads.
//!
//! Requests are single and plain here; which blobs go, in what order and from where is `push`'s, and how a
//! blob is read to its end `pull`'s.
//! This room knows nothing of Python or Lambda, nor what is in a layer.

pub mod auth;
mod claimed;
mod error;
mod manifests;
pub mod pull;
pub mod push;
pub mod referrers;
pub mod tags;
mod told;
mod upload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::aws::ecr;
use crate::digest::Digest;
use crate::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use crate::http::retry::{self, Retry, Trouble};
use crate::http::{self, Client, Method, Request, Response, Secret, StatusCode, Url};
use crate::oci::Descriptor;
use crate::oci::reference::Reference;
use crate::registry::auth::{Fresh, Keychain, Refusal, Tokens};
pub use crate::registry::error::{Access, Error};
use crate::registry::pull::{FailedMirrors, Mirror, Source};
use crate::registry::told::{Told, read_told};

/// Error answers are small; more of one is not read.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// What gets so many bytes further than ever before is on its way, and its failures count anew.
const FURTHER: u64 = 1 << 20;
/// How many tokens a request may be answered with: stored credentials, a login that was kept, a new one.
const MAX_ANSWERS: usize = 3;

/// All registries, reached by one client with one set of credentials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registries {
    client: Client,
    tokens: Arc<Tokens>,
    mirrors: Arc<BTreeMap<String, Mirror>>,
    failed_mirrors: FailedMirrors,
}

impl Registries {
    /// Speaks through `client`, with what `keychain` knows.
    pub fn new(client: Client, keychain: Keychain) -> Self {
        Self {
            client,
            tokens: Arc::new(Tokens::new(keychain)),
            mirrors: Arc::default(),
            failed_mirrors: FailedMirrors::default(),
        }
    }

    /// Reads what is in the registries that are the keys from their mirrors first.
    #[must_use]
    pub fn with_mirrors(mut self, mirrors: BTreeMap<String, Mirror>) -> Self {
        self.mirrors = Arc::new(mirrors);
        self
    }

    /// Where `reference` is read from: its mirror, if there is one, and its own registry.
    ///
    /// # Errors
    /// When a host can be no part of a URL.
    pub fn source(&self, reference: &Reference) -> Result<Source, Error> {
        let mirror = self.mirrors.get(&reference.registry);
        let mirror = mirror.map(|mirror| self.repository(&mirror.of(reference), Access::Pull));
        let own = self.repository(reference, Access::Pull)?;
        let failed = self.failed_mirrors.clone();
        Ok(Source::new(mirror.transpose()?, own, failed))
    }

    /// Where `reference` is read from by whoever means to do more there: from itself.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub fn own_source(&self, reference: &Reference, access: Access) -> Result<Source, Error> {
        let own = self.repository(reference, access)?;
        Ok(Source::new(None, own, self.failed_mirrors.clone()))
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

/// The address of an upload under way. It may be presigned, so `Debug` has no query.
#[derive(Clone)]
pub struct Session(Url);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session")
            .field(&http::redact(&self.0))
            .finish()
    }
}

/// What became of the wish to mount a blob.
#[derive(Debug)]
pub enum Upload {
    /// It is there now.
    Done,
    /// Its bytes are wanted at this address after all.
    Session(Session),
}

/// An answer, with the credentials that went with the question.
struct Answer {
    response: Response,
    sent: Option<Secret>,
    /// The body of a refusal, once it is read.
    refusal: Option<Vec<u8>>,
}

impl Answer {
    fn new(response: Response, sent: Option<Secret>) -> Self {
        Self {
            response,
            sent,
            refusal: None,
        }
    }

    /// The words of a refusal; what cannot be read says nothing.
    async fn words(&mut self) -> Told {
        let status = self.response.status();
        if self.refusal.is_none() {
            let body = http::read_body(&mut self.response, MAX_ERROR_BODY).await;
            self.refusal = Some(body.unwrap_or_default());
        }
        read_told(self.refusal.as_deref().unwrap_or_default(), status)
    }
}

/// Whether a request is tried again here, or by a caller with a budget of its own.
#[derive(Clone, Copy)]
enum Tries {
    One,
    Many,
    /// Once, and a redirect is an answer.
    AsIs,
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

    /// The budget for work here.
    fn retry(&self) -> Retry {
        self.registries.client.retry(&self.base)
    }

    fn protocol(&self, detail: impl Into<String>) -> Error {
        Error::Protocol {
            registry: self.registry.clone(),
            detail: detail.into(),
        }
    }

    /// Sends a request with the credentials for this repository, asking for them when told to.
    async fn send(&self, request: Request, tries: Tries) -> Result<Answer, Error> {
        self.send_with_scopes(request, &[self.scope()], tries).await
    }

    async fn send_with_scopes(
        &self,
        mut request: Request,
        scopes: &[String],
        tries: Tries,
    ) -> Result<Answer, Error> {
        let Registries { client, tokens, .. } = &self.registries;
        request.authorization = tokens.known(&self.host(), scopes).await;
        let ask = async |request: &Request| match tries {
            Tries::One => client.send_once(request).await,
            Tries::Many => client.send(request).await,
            Tries::AsIs => client.send_as_is(request).await,
        };
        let mut answer = Answer::new(ask(&request).await?, request.authorization.clone());
        let mut again = false;
        for _ in 0..MAX_ANSWERS {
            let Some(fresh) = self.fresh_token(&mut answer, scopes, again).await? else {
                break;
            };
            again = fresh.is_made;
            request.authorization = Some(fresh.header);
            answer = Answer::new(ask(&request).await?, request.authorization.clone());
        }
        Ok(answer)
    }

    /// A better token than the one that was sent, which may have been made for this request, if the registry
    /// itself asks for one: what answers behind a redirect is nobody to answer with credentials.
    async fn fresh_token(
        &self,
        answer: &mut Answer,
        scopes: &[String],
        again: bool,
    ) -> Result<Option<Fresh>, Error> {
        if answer.response.url().origin() != self.base.origin() {
            return Ok(None);
        }
        let refusal = match answer.response.status().as_u16() {
            401 => Refusal::Credentials,
            403 if answer.words().await.is_expired_login() => Refusal::Credentials,
            403 => Refusal::Unclear,
            429 => Refusal::Haste,
            _ => return Ok(None),
        };
        let (client, tokens) = (&self.registries.client, &self.registries.tokens);
        let sent = (answer.sent.clone(), again);
        let asks = (&*self.registry, &*self.name, &answer.response, refusal);
        Ok(tokens
            .answer(client, (&self.host(), scopes), sent, asks)
            .await?)
    }

    fn host(&self) -> String {
        http::host_and_port(&self.base)
    }

    fn wrong_digest(&self, expected: Digest, actual: Digest) -> Error {
        Error::Digest {
            registry: self.registry.clone(),
            expected,
            actual,
        }
    }

    async fn told(&self, mut answer: Answer) -> Told {
        let mut told = answer.words().await;
        told.detail = http::redact_answer(&told.detail, &answer.sent);
        told
    }

    async fn refusal(&self, what: &str, answer: Answer) -> Error {
        let status = answer.response.status();
        let after = retry::retry_after(answer.response.headers());
        let told = self.told(answer).await;
        self.refused(what, status, after, told).await
    }

    async fn refused(
        &self,
        what: &str,
        status: StatusCode,
        after: Option<Duration>,
        told: Told,
    ) -> Error {
        let is_push = self.access == Access::Push;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unauthorized {
                registry: self.registry.clone(),
                repository: self.name.clone(),
                credentials: self
                    .registries
                    .tokens
                    .source(&self.registry, &self.name)
                    .await,
                detail: told.detail,
            },
            StatusCode::NOT_FOUND if is_push && told.is_missing_repository() => {
                Error::NoRepository {
                    registry: self.registry.clone(),
                    repository: self.name.clone(),
                    certain: true,
                    detail: told.detail,
                }
            }
            StatusCode::NOT_FOUND if !is_push => Error::NotFound {
                reference: format!("{} of {}", what, self.display()),
                detail: told.detail,
            },
            _ => Error::Status {
                registry: self.registry.clone(),
                status: status.as_u16(),
                what: what.to_owned(),
                detail: told.detail,
                codes: told.codes,
                after,
            },
        }
    }

    /// Whether the repository is known to have a blob. A registry that refuses to tell is taken to have none;
    /// what comes next says why.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        match self.look_for_blob(digest, Tries::Many).await {
            Err(Error::Credentials(error)) if error.is_of_others() => Ok(false),
            look => look,
        }
    }

    async fn look_for_blob(&self, digest: &Digest, tries: Tries) -> Result<bool, Error> {
        if ecr::Registry::parse(&self.registry).is_some_and(|ecr| ecr.is_public()) {
            return self.look_by_get(digest, tries).await;
        }
        let request = Request::new(Method::HEAD, self.url(&format!("blobs/{digest}"))?);
        let answer = self.send(request, tries).await?;
        Ok(answer.response.status() == StatusCode::OK)
    }

    /// The public ECR answers 401 to every HEAD, whoever asks, and a GET by the address of the bytes.
    async fn look_by_get(&self, digest: &Digest, tries: Tries) -> Result<bool, Error> {
        let get = Request::new(Method::GET, self.url(&format!("blobs/{digest}"))?);
        let progress = self.registries.client.progress();
        let mut retry = self.retry();
        loop {
            let answer = self.send(get.clone(), Tries::AsIs).await;
            let trouble = match &answer {
                Ok(answer) => Trouble::of_response(&answer.response),
                Err(error) => error.trouble(),
            };
            let trouble = trouble.filter(|_| matches!(tries, Tries::Many));
            if let Some(trouble) = trouble
                && retry
                    .again(&http::redact(&get.url), &trouble, progress)
                    .await
            {
                continue;
            }
            let status = answer?.response.status();
            return Ok(status == StatusCode::OK || status.is_redirection());
        }
    }

    /// Asks once for a blob's bytes from `at` on. A redirect is resolved anew each time: the presigned address
    /// of the last time may be good no more.
    async fn ask_for_blob(&self, digest: &Digest, at: u64) -> Result<Answer, Error> {
        let mut request = Request::new(Method::GET, self.url(&format!("blobs/{digest}"))?);
        if at > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={at}-"))
        {
            request.headers.insert(RANGE, range);
        }
        self.send(request, Tries::One).await
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
        let sending = self.send_with_scopes(empty_post(url), &scopes, Tries::Many);
        let response = match sending.await {
            Err(Error::Credentials(error)) if error.is_of_others() => return Ok(None),
            answer => answer?.response,
        };
        match response.status() {
            StatusCode::CREATED => Ok(Some(Upload::Done)),
            StatusCode::ACCEPTED => Ok(self.session(&response).ok().map(Upload::Session)),
            _ => Ok(None),
        }
    }

    /// Opens an upload of a blob, asking once: one that nobody uses ends by itself.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin_upload(&self) -> Result<Session, Error> {
        let post = empty_post(self.url("blobs/uploads/")?);
        let answer = self.send(post, Tries::One).await?;
        if answer.response.status() == StatusCode::ACCEPTED {
            return self.session(&answer.response);
        }
        if answer.response.status() != StatusCode::NOT_FOUND {
            return Err(self.refusal("an upload", answer).await);
        }
        let told = self.told(answer).await;
        Err(Error::NoRepository {
            registry: self.registry.clone(),
            repository: self.name.clone(),
            certain: told.is_missing_repository(),
            detail: told.detail,
        })
    }

    fn session(&self, response: &Response) -> Result<Session, Error> {
        let nowhere = || self.protocol("names no place for an upload");
        let location = header(response.headers(), LOCATION.as_str()).ok_or_else(nowhere)?;
        let url = response.url().join(&location).map_err(|_| nowhere())?;
        if !self.registries.client.may_go_on(&self.base, &url) {
            return Err(self.protocol(format!(
                "wants an upload to `{}` without TLS",
                http::host_and_port(&url)
            )));
        }
        Ok(Session(url))
    }

    /// Sends a blob's bytes in one request to the address of a session. A session on another host is data:
    /// it gets no credentials.
    ///
    /// # Errors
    /// See [`Error`]; the session is spent then. Where only the token seems to have run out, the status is 401
    /// and a new one is known for the next try, unless it `is_renewed`: that a new one was had for this blob before
    /// and the refusal was not the token's.
    pub async fn finish_upload(
        &self,
        Session(mut session): Session,
        descriptor: &Descriptor,
        bytes: http::Stream,
        is_renewed: bool,
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
            let answer = (response.status(), response.headers());
            return self.proven(answer, &descriptor.digest).await;
        }
        if response.status().is_redirection() {
            return Err(self.protocol("redirects an upload, whose bytes are gone by then"));
        }
        let what = format!("the upload of blob {digest}");
        let mut answer = Answer::new(response, request.authorization);
        if answer.response.url().origin() != self.base.origin() {
            return Err(self.elsewhere(what, answer).await);
        }
        if !is_renewed
            && self
                .fresh_token(&mut answer, &scopes, false)
                .await?
                .is_some()
        {
            return Err(Error::Status {
                registry: self.registry.clone(),
                status: StatusCode::UNAUTHORIZED.as_u16(),
                what,
                detail: "the token has run out".to_owned(),
                codes: Vec::new(),
                after: None,
            });
        }
        Err(self.refusal(&what, answer).await)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_does_not_print_its_query() {
        let url = "https://r.test/v2/a/blobs/uploads/1?_state=s3cr3t";
        let session = Upload::Session(Session(url.parse().unwrap()));
        assert!(!format!("{session:?}").contains("s3cr3t"));
    }
}
