//! One HTTP client for registries and package indexes: time-outs, retry, redirects, redaction.
//!
//! Credentials travel only to the origin they were given for: a redirect to another one drops them.
//! URLs in errors have neither user information nor query, where presigned ones keep their secrets.
//! A request that may pass the next time is tried again, by one budget for the request and all its redirects.
//! This room knows no registry and no index, and looks at no environment but the proxy variables and
//! `SSL_CERT_FILE` and `SSL_CERT_DIR`, which the TLS library reads for the machine's own authorities.

mod redaction;
mod resolve;
pub mod retry;

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
pub use reqwest::{Certificate, Method, Response, StatusCode, Url, header};

pub use crate::http::redaction::{redact, redact_answer, redact_name, redact_text};
use crate::http::resolve::{Resolver, Unresolved};
use crate::http::retry::{Retry, Trouble};
use crate::progress::Progress;

const MAX_REDIRECTS: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Who has got a body may hash or copy all of it before he answers: one second more for each so many bytes.
const HASHED_IN_A_SECOND: u64 = 64 << 20;

/// A password or token; it prints as nothing but its name.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes charge of `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What the client may do.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Refuse every request.
    pub offline: bool,
    /// Hosts, with port if any, that are spoken to without TLS, beside loopback addresses.
    pub plain_http: BTreeSet<String>,
    /// Authorities that are trusted beside the machine's own.
    pub authorities: Vec<Certificate>,
    /// Who is told of every retry.
    pub progress: Progress,
}

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client may not use the network.
    #[error("{url} is needed, but the network may not be used")]
    Offline {
        /// What was asked for.
        url: String,
    },
    /// The host's name has no address.
    #[error("the host name `{host}` does not resolve")]
    Resolve {
        /// The host.
        host: String,
        /// Whether that may pass: nobody could say that the name has none.
        is_temporary: bool,
    },
    /// Nobody answers there.
    #[error("cannot connect to `{host}`: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// The innermost cause.
        reason: String,
    },
    /// The exchange broke off.
    #[error("the exchange with `{host}` failed: {reason}")]
    Exchange {
        /// Host and port.
        host: String,
        /// Whether the connection ended before an answer; nobody's patience did then.
        hung_up: bool,
        /// The innermost cause.
        reason: String,
    },
    /// The answer is larger than anything of its kind may be.
    #[error("the answer of {url} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A redirect cannot be followed.
    #[error("the redirect from {url} {reason}")]
    Redirect {
        /// Where it came from.
        url: String,
        /// Why not.
        reason: &'static str,
    },
    /// The client could not be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] Arc<reqwest::Error>),
}

/// A request that can be sent again. In `Debug` its URL has no query, where presigned ones keep their secrets.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Headers without credentials.
    pub headers: HeaderMap,
    /// The value of the `Authorization` header.
    pub authorization: Option<Secret>,
    /// The body, if any.
    pub body: Option<Bytes>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &redact(&self.url))
            .field("authorization", &self.authorization)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// A request without headers, credentials or body.
    pub fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: None,
        }
    }
}

/// The client; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    connections: Arc<Connections>,
    /// Hosts that have answered.
    answered: Arc<Mutex<BTreeSet<String>>>,
    settings: Settings,
}

/// A client of the library's, or why there is none.
type Made<E = Arc<reqwest::Error>> = Result<reqwest::Client, E>;

/// A client of the library's for each way of speaking, made when it is first spoken so: to read the machine's
/// authorities is most of the work of a build that finds everything made.
#[derive(Debug, Default)]
struct Connections {
    outside: OnceLock<Made>,
    loopback: OnceLock<Made>,
    plain_loopback: OnceLock<Made>,
    /// As the three above, for bodies that take their time to send.
    outside_sending: OnceLock<Made>,
    loopback_sending: OnceLock<Made>,
    plain_loopback_sending: OnceLock<Made>,
}

/// What is seen of a body on its way.
#[derive(Debug, Default)]
struct Watch {
    /// How often it gave something.
    moved: AtomicU64,
    /// Whether it was asked for more and has not given it yet: then nobody waits for the other side, and where the
    /// bytes come from has a patience of its own.
    waits: AtomicBool,
    /// Its bytes so far.
    sent: AtomicU64,
    /// Whether that was all.
    has_ended: AtomicBool,
}

impl Watch {
    /// How long nothing may move now, where that is `patience` while bytes go.
    fn patience(&self, patience: Duration) -> Duration {
        if !self.has_ended.load(Ordering::Relaxed) {
            return patience;
        }
        let sent = self.sent.load(Ordering::Relaxed);
        patience + Duration::from_secs(sent / HASHED_IN_A_SECOND)
    }
}

/// `length`: after how many bytes nobody asks for more, if that is known.
fn watched(mut stream: Stream, length: Option<u64>, watch: Arc<Watch>) -> Stream {
    let next = move |context: &mut Context<'_>| {
        let next = stream.poll_next_unpin(context);
        let sent = match &next {
            Poll::Ready(Some(Ok(bytes))) => bytes.len() as u64,
            _ => 0,
        };
        let sent = watch.sent.fetch_add(sent, Ordering::Relaxed) + sent;
        let has_ended = matches!(next, Poll::Ready(None)) || length.is_some_and(|all| sent >= all);
        watch.has_ended.fetch_or(has_ended, Ordering::Relaxed);
        watch.waits.store(next.is_pending(), Ordering::Relaxed);
        if next.is_ready() {
            watch.moved.fetch_add(1, Ordering::Relaxed);
        }
        next
    };
    futures_util::stream::poll_fn(next).boxed()
}

fn nothing_moved(url: &Url, patience: Duration) -> Error {
    Error::Exchange {
        host: host_and_port(url),
        hung_up: false,
        reason: format!("nothing moved for {} seconds", patience.as_secs()),
    }
}

/// The bytes of a body that is sent as they come, once.
pub type Stream = BoxStream<'static, io::Result<Bytes>>;

impl Client {
    /// A client by these settings. No connection is made, and whether TLS can be set up is not known before
    /// the first.
    pub fn new(settings: Settings) -> Self {
        Self {
            connections: Arc::default(),
            answered: Arc::default(),
            settings,
        }
    }

    /// Whether `host` (with port, if any) is spoken to without TLS.
    pub fn is_plain(&self, host: &str) -> bool {
        is_loopback(without_port(host)) || self.settings.plain_http.contains(host)
    }

    /// Whether the network may not be used.
    pub fn is_offline(&self) -> bool {
        self.settings.offline
    }

    fn client_for(&self, url: &Url, sending: bool) -> Result<&reqwest::Client, Error> {
        // So is what is beside this machine alone: a cloud's own service for it.
        let is_loopback = url
            .host_str()
            .is_some_and(|host| is_loopback(host) || is_link_local(host));
        let is_plain = is_loopback && url.scheme() == "http";
        let of = &self.connections;
        let cell = match (is_loopback, is_plain, sending) {
            (false, _, false) => &of.outside,
            (false, _, true) => &of.outside_sending,
            (true, false, false) => &of.loopback,
            (true, false, true) => &of.loopback_sending,
            (true, true, false) => &of.plain_loopback,
            (true, true, true) => &of.plain_loopback_sending,
        };
        let made = cell.get_or_init(|| {
            self.connection(is_loopback, is_plain, sending)
                .map_err(Arc::new)
        });
        made.as_ref().map_err(|why| Error::Setup(Arc::clone(why)))
    }

    fn connection(&self, is_loopback: bool, is_plain: bool, sending: bool) -> Made<reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lambimg/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Resolver)
            .connect_timeout(CONNECT_TIMEOUT);
        // reqwest counts from the request on, whatever is still being sent.
        if !sending {
            builder = builder.read_timeout(IDLE_TIMEOUT);
        }
        // A proxy's loopback is another machine's.
        if is_loopback {
            builder = builder.no_proxy();
        }
        // Plain HTTP needs no authorities; to a proxy it may go over TLS.
        if is_plain {
            builder.tls_certs_only([]).build()
        } else {
            builder
                .tls_certs_merge(usable(&self.settings.authorities)?)
                .build()
        }
    }

    /// Sends `request`, follows redirects of GET and HEAD, and tries again what may pass the next time.
    ///
    /// # Errors
    /// See [`Error`]; an answer of any status is not one.
    pub async fn send(&self, request: &Request) -> Result<Response, Error> {
        let mut retry = self.retry(&request.url);
        loop {
            let result = self.send_once(request).await;
            let trouble = match &result {
                Ok(response) => Trouble::of_response(response),
                Err(error) => Trouble::of_error(error),
            };
            let Some(trouble) = trouble else {
                return result;
            };
            let what = redact(&request.url);
            if !retry.again(&what, &trouble, &self.settings.progress).await {
                return result;
            }
        }
    }

    /// Sends `request` and follows redirects of GET and HEAD, for whoever has a [`Retry`] of its own.
    ///
    /// # Errors
    /// See [`Error`]; an answer of any status is not one.
    pub async fn send_once(&self, request: &Request) -> Result<Response, Error> {
        let mut request = request.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(&request, None).await?;
            let follows = matches!(request.method, Method::GET | Method::HEAD);
            if !follows || !response.status().is_redirection() {
                return Ok(response);
            }
            let Some(target) = self.redirect_target(&request.url, &response)? else {
                return Ok(response);
            };
            if target.origin() != request.url.origin() {
                request.authorization = None;
            }
            request.url = target;
        }
        Err(Error::Redirect {
            url: redact(&request.url),
            reason: "leads to too many others",
        })
    }

    /// The budget for work with a host.
    pub fn retry(&self, url: &Url) -> Retry {
        Retry::with_host(self.answered().contains(&host_and_port(url)))
    }

    fn redirect_target(&self, from: &Url, response: &Response) -> Result<Option<Url>, Error> {
        let error = |reason| Error::Redirect {
            url: redact(from),
            reason,
        };
        let Some(location) = response.headers().get(LOCATION) else {
            return Ok(None);
        };
        let location = location.to_str().map_err(|_| error("names no address"))?;
        let target = from.join(location).map_err(|_| error("names no address"))?;
        match (from.scheme(), target.scheme()) {
            ("https", "http") => Err(error("would leave TLS")),
            ("http", "http") if !self.may_go_on(from, &target) => {
                Err(error("leads to a host that is not spoken to without TLS"))
            }
            (_, "http" | "https") => Ok(Some(target)),
            _ => Err(error("leaves HTTP")),
        }
    }

    /// Whether what answers at `from`, or was sent there, without TLS may lead to `target`, as far as TLS goes: to
    /// the same host, or to one that is known to be spoken to so.
    pub fn may_go_on(&self, from: &Url, target: &Url) -> bool {
        target.scheme() == "https"
            || (from.scheme() == "http"
                && (from.host_str() == target.host_str() || self.is_plain(&host_and_port(target))))
    }

    fn answered(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is told of retries.
    pub fn progress(&self) -> &Progress {
        &self.settings.progress
    }

    /// Sends `request` once with `stream` as its body, which cannot be sent again. It may take as long as it
    /// moves: only when nothing does for a while is it given up.
    ///
    /// # Errors
    /// See [`Error`]; an answer of any status is not one.
    pub async fn send_stream(&self, request: &Request, stream: Stream) -> Result<Response, Error> {
        self.send_watched(request, stream, IDLE_TIMEOUT).await
    }

    async fn send_watched(
        &self,
        request: &Request,
        stream: Stream,
        patience: Duration,
    ) -> Result<Response, Error> {
        let watch = Arc::new(Watch::default());
        let length = request.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let body = reqwest::Body::wrap_stream(watched(stream, length, Arc::clone(&watch)));
        let mut answer = std::pin::pin!(self.exchange(request, Some(body)));
        let mut seen = 0;
        loop {
            let patience = watch.patience(patience);
            if let Ok(result) = tokio::time::timeout(patience, &mut answer).await {
                return result;
            }
            let now = watch.moved.load(Ordering::Relaxed);
            if now == seen && !watch.waits.load(Ordering::Relaxed) {
                return Err(nothing_moved(&request.url, patience));
            }
            seen = now;
        }
    }

    /// Sends `request` once, and follows no redirect.
    ///
    /// # Errors
    /// See [`Error`]; an answer of any status is not one.
    pub async fn send_as_is(&self, request: &Request) -> Result<Response, Error> {
        self.exchange(request, None).await
    }

    async fn exchange(
        &self,
        request: &Request,
        stream: Option<reqwest::Body>,
    ) -> Result<Response, Error> {
        if self.settings.offline {
            return Err(Error::Offline {
                url: redact(&request.url),
            });
        }
        let mut headers = request.headers.clone();
        if let Some(secret) = &request.authorization
            && let Ok(mut value) = HeaderValue::from_str(secret.reveal())
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = self.client_for(&request.url, stream.is_some())?;
        let mut builder = client
            .request(request.method.clone(), request.url.clone())
            .headers(headers);
        if let Some(body) = stream.or_else(|| request.body.clone().map(Into::into)) {
            builder = builder.body(body);
        }
        let response = builder.send().await;
        let response = response.map_err(|error| {
            let is_late = error.is_timeout();
            match classify(&request.url, error) {
                Error::Exchange { host, reason, .. } => Error::Exchange {
                    host,
                    hung_up: !is_late,
                    reason,
                },
                error => error,
            }
        })?;
        self.answered().insert(host_and_port(&request.url));
        Ok(response)
    }
}

/// The certificates of a text in PEM; none where it has none that can be read.
pub fn certificates(pem: &[u8]) -> Vec<Certificate> {
    Certificate::from_pem_bundle(pem).unwrap_or_default()
}

/// Those that can be an authority: a bundle may hold some that cannot, and one of them would spoil the rest.
fn usable(authorities: &[Certificate]) -> reqwest::Result<Vec<Certificate>> {
    let alone = |certificates: Vec<Certificate>| {
        let builder = reqwest::Client::builder().no_proxy();
        builder.tls_certs_only(certificates).build()
    };
    if authorities.is_empty() || alone(authorities.to_vec()).is_ok() {
        return Ok(authorities.to_vec());
    }
    let each = authorities.iter();
    let usable: Vec<_> = each
        .filter(|one| alone(vec![(*one).clone()]).is_ok())
        .cloned()
        .collect();
    alone(usable.clone())?;
    Ok(usable)
}

/// Turns a failed exchange into an error that names the host.
pub fn classify(url: &Url, error: reqwest::Error) -> Error {
    let source = error.without_url();
    let host = host_and_port(url);
    // What lies between says only that something below it failed.
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&source);
    let mut reason = String::new();
    while let Some(error) = cause {
        if let Some(unresolved) = error.downcast_ref::<Unresolved>() {
            return Error::Resolve {
                host: unresolved.host.clone(),
                is_temporary: unresolved.is_temporary(),
            };
        }
        reason = error.to_string();
        cause = error.source();
    }
    if source.is_connect() {
        Error::Connect { host, reason }
    } else {
        Error::Exchange {
            host,
            hung_up: false,
            reason,
        }
    }
}

/// Reads an answer of at most `limit` bytes.
///
/// # Errors
/// When it is larger, or the exchange breaks off.
pub async fn read_limited(mut response: Response, limit: u64) -> Result<Vec<u8>, Error> {
    read_body(&mut response, limit).await
}

/// As [`read_limited`], where status and headers are still looked at.
///
/// # Errors
/// The same.
pub async fn read_body(response: &mut Response, limit: u64) -> Result<Vec<u8>, Error> {
    read_within(response, limit, IDLE_TIMEOUT).await
}

/// As [`read_limited`]. The answer to an upload comes from a client without a patience of its own.
async fn read_within(
    response: &mut Response,
    limit: u64,
    patience: Duration,
) -> Result<Vec<u8>, Error> {
    let url = response.url().clone();
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::time::timeout(patience, response.chunk()).await;
        let chunk = chunk.map_err(|_| nothing_moved(&url, patience))?;
        let Some(chunk) = chunk.map_err(|e| classify(&url, e))? else {
            break;
        };
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(Error::TooLarge {
                url: redact(&url),
                limit,
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The host, with its port if the URL names one.
pub fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_link_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    match address {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        // Amazon's own for machines and containers, a unique local one.
        Ok(IpAddr::V6(address)) => address.segments()[..2] == [0xfd00, 0xec2],
        Err(_) => false,
    }
}

/// Whether a host, without a port, is this machine itself.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
