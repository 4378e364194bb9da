//! The servers of the Runtime API, the Extensions API and the Telemetry API, which are one.
//!
//! Requests become steps of the states, and what comes of these becomes answers. When something happens is decided
//! elsewhere.

mod extensions;
mod runtime;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::header::HOST;
use hyper::header::HeaderValue;
use hyper::header::ORIGIN;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::documents::MAX_RESPONSE;
use super::shared::Shared;
use super::states::Refused;

/// What this machine is called inside, beside its address.
const OWN_NAMES: [&str; 3] = ["localhost", "sandbox.localdomain", "sandbox"];

/// Where a request comes from, as browsers alone tell it.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// So many connections are served at once, of one each that runtime and extensions need; others wait.
const MOST_CONNECTIONS: usize = 64;
/// How long to wait before the next connection, where one was not accepted.
const TOO_MANY: Duration = Duration::from_millis(50);

/// What an API answers.
type Reply = Response<Full<Bytes>>;

/// A server that listens, until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    resets: mpsc::Sender<oneshot::Sender<()>>,
    _accepting: JoinSet<()>,
}

impl Server {
    /// Serves whoever connects.
    pub(super) fn start(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) -> Self {
        let (resets, asked) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, address, shared, asked));
        Self {
            address,
            resets,
            _accepting: accepting,
        }
    }

    /// Where it is, as `host:port`.
    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections, and returns when none of them can take a step any more.
    pub(super) async fn reset(&self) {
        let (done, is_done) = oneshot::channel();
        if self.resets.send(done).await.is_ok() {
            // It is dropped unanswered only where the server has ended, and all connections with it.
            let _ = is_done.await;
        }
    }
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    mut resets: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, address, Arc::clone(&shared)));
                }
                // One that is gone before it was accepted is nobody's loss; too few descriptors would come again at
                // once.
                Err(_) => tokio::time::sleep(TOO_MANY).await,
            },
            Some(done) = resets.recv() => {
                connections.shutdown().await;
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, address: SocketAddr, shared: Arc<Shared>) {
    // Another user of the machine would be given events, and could answer them.
    let Ok(peer) = stream.peer_addr() else { return };
    if !shared.place.admits(peer, address).await {
        return;
    }
    // Small answers go at once. Where that cannot be set they go a little later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, address, request).await) }
    });
    // A connection that breaks off ends its task; a process that ends is seen elsewhere.
    let _ = hyper::server::conn::http1::Builder::new()
        // As Lambda writes them: runtimes in shell look for names by their letters.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(shared: &Arc<Shared>, address: SocketAddr, request: Request<Incoming>) -> Reply {
    if !is_of_program(request.headers(), address) {
        let message = "only the environment's own programs are answered here";
        return Problem::forbidden("Forbidden", message).reply();
    }
    let path = request.uri().path().to_owned();
    let parts = path.trim_start_matches('/').split('/').collect::<Vec<_>>();
    let handled = match (request.method(), parts.as_slice()) {
        (&Method::GET, ["2018-06-01", "ping"]) => Ok(text(StatusCode::OK, "pong")),
        (&Method::GET, ["2018-06-01", "runtime", "invocation", "next"]) => {
            runtime::next(shared).await
        }
        (&Method::POST, ["2018-06-01", "runtime", "invocation", id, "response"]) => {
            runtime::response(shared, id, request).await
        }
        (&Method::POST, ["2018-06-01", "runtime", "invocation", id, "error"]) => {
            runtime::error(shared, id, request).await
        }
        (&Method::POST, ["2018-06-01", "runtime", "init", "error"]) => {
            runtime::init_error(shared, request).await
        }
        (&Method::POST, ["2020-01-01", "extension", "register"]) => {
            extensions::register(shared, request).await
        }
        (&Method::GET, ["2020-01-01", "extension", "event", "next"]) => {
            extensions::next(shared, &request).await
        }
        (&Method::POST, ["2020-01-01", "extension", "init", "error"]) => {
            extensions::init_error(shared, &request)
        }
        (&Method::POST, ["2020-01-01", "extension", "exit", "error"]) => {
            extensions::exit_error(shared, &request)
        }
        (&Method::PUT, ["2022-07-01", "telemetry"]) => extensions::subscribe(shared, request).await,
        _ => Ok(text(StatusCode::NOT_FOUND, "404 page not found\n")),
    };
    handled.unwrap_or_else(Problem::reply)
}

/// Whether no browser sends this: where the machine's network is the function's, every page that somebody visits
/// could send requests to this address, and by a name of its own read what is answered too.
fn is_of_program(headers: &HeaderMap, address: SocketAddr) -> bool {
    // A `sec-fetch-mode` says nothing: the `fetch` of Node has it too.
    if headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE) {
        return false;
    }
    // Every browser says which host it wants; what says nothing is a program.
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    host.to_str().is_ok_and(|host| {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        };
        let is_ours = |ours: &str| name.eq_ignore_ascii_case(ours);
        port.is_none_or(|port| port == address.port().to_string())
            && (is_ours(&address.ip().to_string()) || OWN_NAMES.into_iter().any(is_ours))
    })
}

/// Why a request is not answered as it was meant.
enum Problem {
    /// The states do not allow it.
    Refused(Refused),
    /// It is not as it has to be: status, type, message.
    Malformed(StatusCode, &'static str, String),
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Problem {
    fn forbidden(error_type: &'static str, message: impl Into<String>) -> Self {
        Self::Malformed(StatusCode::FORBIDDEN, error_type, message.into())
    }

    fn reply(self) -> Reply {
        let (status, error_type, message) = match self {
            Self::Malformed(status, error_type, message) => (status, error_type, message),
            Self::Refused(refused) => {
                let (status, error_type) = kind(&refused);
                (status, error_type, refused.to_string())
            }
        };
        let document = json!({"errorMessage": message, "errorType": error_type});
        json_reply(status, &document)
    }
}

/// The status and the platform's type of what the states refuse.
fn kind(refused: &Refused) -> (StatusCode, &'static str) {
    match refused {
        Refused::Runtime { .. } => (StatusCode::FORBIDDEN, "InvalidStateTransition"),
        Refused::RequestId => (StatusCode::BAD_REQUEST, "InvalidRequestID"),
        Refused::Stale => (StatusCode::GONE, "InvokeTimeout"),
        Refused::Extension { .. } | Refused::NameTaken => {
            (StatusCode::FORBIDDEN, "Extension.InvalidExtensionState")
        }
        Refused::RegistrationClosed => (StatusCode::FORBIDDEN, "Extension.RegistrationClosed"),
        Refused::TooManyExtensions => (StatusCode::FORBIDDEN, "Extension.TooManyExtensions"),
        Refused::EventType(_) => (StatusCode::FORBIDDEN, "Extension.InvalidEventType"),
        Refused::UnknownExtension => (
            StatusCode::FORBIDDEN,
            "Extension.UnknownExtensionIdentifier",
        ),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

fn text(status: StatusCode, text: &'static str) -> Reply {
    reply(status, "text/plain; charset=utf-8", Bytes::from(text))
}

fn json_reply(status: StatusCode, document: &Value) -> Reply {
    reply(
        status,
        "application/json",
        Bytes::from(document.to_string()),
    )
}

fn accepted() -> Reply {
    json_reply(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

/// A header's text, where it is there and text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What a request brought.
struct Received {
    body: Bytes,
    trailers: Option<HeaderMap>,
    /// How many bytes came, of which the first are kept, up to the limit.
    length: u64,
}

/// Reads a request to its end, whatever its length, and keeps its beginning up to the limit; none where it broke off.
async fn receive(mut incoming: Incoming, limit: usize) -> Option<Received> {
    let (mut body, mut trailers, mut length) = (Vec::new(), None, 0);
    while let Some(frame) = incoming.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) => {
                length += data.len() as u64;
                let room = limit - body.len();
                body.extend_from_slice(&data[..data.len().min(room)]);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Some(Received {
        body: Bytes::from(body),
        trailers,
        length,
    })
}

/// The body of a request that has to be short.
async fn short_body(incoming: Incoming) -> Result<Bytes, Problem> {
    let received = receive(incoming, MAX_RESPONSE).await;
    received.map(|received| received.body).ok_or_else(truncated)
}

fn truncated() -> Problem {
    Problem::Malformed(
        StatusCode::BAD_REQUEST,
        "TruncatedHTTPRequest",
        "HTTP request detected as truncated".to_owned(),
    )
}

#[cfg(test)]
mod tests;
