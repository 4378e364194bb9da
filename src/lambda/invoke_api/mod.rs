//! The Invoke API of Lambda's service for one function on this machine, so that every SDK of AWS's can call it.
//!
//! Nobody's signature is looked at, and the function alone is there, as its unpublished version. An event that
//! nobody waits for is tried once, where the service tries twice more. How calls are made is not known here.

mod event_stream;
mod request;
mod streaming;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::lambda::fleet::Fleet;
use crate::lambda::function::{Invocation, MAX_PAYLOAD, Outcome};
use crate::progress::in_words;
use request::{Call, Kind, Refusal};
use streaming::{Next, Streaming, UNHANDLED};

/// What is answered.
type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The version that is called: the one that nobody has published.
const VERSION: &str = "$LATEST";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
/// So much of a body that is too large is read all the same: many clients look at no answer before they have sent
/// everything.
const MOST_READ: usize = 64 << 20;
/// How long connections may take to send what they have, when everything is ended.
const AT_THE_END: Duration = Duration::from_secs(1);
/// How long to wait before the next connection, where there are too many of them.
const TOO_MANY: Duration = Duration::from_millis(50);

/// The room for events that nobody waits for and that were not handled yet, in bytes.
const WAITING: u32 = 64 << 20;
/// An event takes no less of it: what is known of it takes room too.
const LEAST: u32 = 64 << 10;

/// What all connections call.
#[derive(Clone)]
struct Called {
    fleet: Fleet,
    /// A permit for each byte of [`WAITING`].
    room: Arc<Semaphore>,
    /// How many events came to nothing.
    lost: Arc<AtomicUsize>,
}

/// Answers calls of `fleet`'s function on `listener` until `ended`, and then ends the fleet. Gives the number of
/// events that were taken and not handled: at the end those that waited, before it those that had nowhere to run.
pub async fn serve(listener: TcpListener, fleet: Fleet, ended: impl Future<Output = ()>) -> usize {
    let called = Called {
        fleet,
        room: Arc::new(Semaphore::new(WAITING as usize)),
        lost: Arc::default(),
    };
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut ended = Box::pin(ended.fuse());
    loop {
        tokio::select! {
            biased;
            () = &mut ended => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, called.clone(), closing.subscribe()));
                }
                Err(error) if is_of_one(&error) => {}
                Err(_) => tokio::time::sleep(TOO_MANY).await,
            },
        }
    }
    drop(listener);
    closing.send_replace(true);
    called.fleet.end().await;
    let all = async {
        while connections.join_next().await.is_some() {}
        // All room is free when each event is through.
        let _all = called.room.acquire_many(WAITING).await;
    };
    // Those that are left are dropped.
    let _ = tokio::time::timeout(AT_THE_END, all).await;
    called.lost.load(Ordering::Relaxed)
}

/// Whether only the one connection failed.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

/// Serves one connection until its end; when all are closing, until the request under way is answered.
async fn connection(stream: TcpStream, called: Called, mut closing: watch::Receiver<bool>) {
    // What is answered is small, and waited for, in pieces too.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let called = called.clone();
        async move { Ok::<_, Infallible>(answer(request, &called).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let mut connection = Box::pin(connection);
    // A connection that fails has nobody to be told.
    tokio::select! {
        _ = &mut connection => return,
        _ = closing.wait_for(|closing| *closing) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, called: &Called) -> Reply {
    let (mut parts, body) = request.into_parts();
    // The service gives every call a trace, and its caller the name of it.
    if request::text(&parts.headers, TRACE_ID.as_str()).is_none() {
        set(&mut parts.headers, TRACE_ID, &called.fleet.trace_id());
    }
    let function = called.fleet.function();
    let call = Call::read(&parts.method, &parts.uri, &parts.headers, &function);
    // Read whatever the answer is: the connection goes on after it.
    let event = read(body).await;
    let call = call.and_then(|call| Ok((call.check(&event?)?, call)));
    let trace = parts.headers.get(TRACE_ID).cloned();
    let mut response = match call {
        Ok((invocation, call)) => perform(call, invocation, called).await,
        Err(refusal) => refused(&refusal),
    };
    let headers = response.headers_mut();
    if let Some(trace) = trace {
        headers.insert(TRACE_ID, trace);
    }
    if !headers.contains_key(REQUEST_ID) {
        set(headers, REQUEST_ID, &Uuid::new_v4().to_string());
    }
    response
}

/// The event; too large a one is read and forgotten, up to a limit.
async fn read(mut body: Incoming) -> Result<Bytes, Refusal> {
    let (mut event, mut size) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Refusal::Incomplete);
        };
        let Some(data) = frame.data_ref() else {
            continue;
        };
        size += data.len();
        if size <= MAX_PAYLOAD {
            event.extend_from_slice(data);
        } else if size > MOST_READ {
            break;
        }
    }
    if size > MAX_PAYLOAD {
        return Err(Refusal::TooLarge(MAX_PAYLOAD));
    }
    Ok(event.into())
}

async fn perform(call: Call, invocation: Invocation, called: &Called) -> Reply {
    match call.kind {
        Kind::DryRun => status(StatusCode::NO_CONTENT),
        Kind::Event => called
            .later(invocation)
            .unwrap_or_else(|refusal| refused(&refusal)),
        Kind::RequestResponse => match called.fleet.invoke(invocation).await {
            Ok(outcome) => answered(outcome, call.with_log),
            Err(error) => refused(&Refusal::Failed(in_words(&error))),
        },
        Kind::Streaming => streamed(invocation, call.with_log, called).await,
    }
}

/// Begins to answer when there is something to answer, as what cannot run is refused with a status of its own.
async fn streamed(mut invocation: Invocation, with_log: bool, called: &Called) -> Reply {
    let request_id = Uuid::new_v4().to_string();
    invocation.request_id = Some(request_id.clone());
    let mut streaming = Streaming::new(called.fleet.clone(), invocation);
    let first = streaming.next().await;
    if let Next::End(Err(error)) = &first {
        return refused(&Refusal::Failed(in_words(error)));
    }
    let events = streaming.events(first, with_log);
    let body = StreamBody::new(events.map(|event| Ok(Frame::data(event))));
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    set(headers, REQUEST_ID, &request_id);
    set(headers, EXECUTED_VERSION, VERSION);
    set(headers, CONTENT_TYPE, event_stream::MEDIA_TYPE);
    response
}

impl Called {
    /// Takes an event that nobody waits for, if there is room.
    fn later(&self, mut invocation: Invocation) -> Result<Reply, Refusal> {
        let size = u32::try_from(invocation.event.len()).unwrap_or(WAITING);
        let room = Arc::clone(&self.room).try_acquire_many_owned(size.max(LEAST));
        let room = room.map_err(|_| Refusal::TooMany)?;
        let request_id = Uuid::new_v4().to_string();
        invocation.request_id = Some(request_id.clone());
        let called = self.clone();
        // The fleet knows of it and ends it; what comes of it is in its log.
        tokio::spawn(async move {
            if called.fleet.invoke(invocation).await.is_err() {
                called.lost.fetch_add(1, Ordering::Relaxed);
            }
            drop(room);
        });
        let mut response = status(StatusCode::ACCEPTED);
        set(response.headers_mut(), REQUEST_ID, &request_id);
        Ok(response)
    }
}

fn whole(body: impl Into<Bytes>) -> Reply {
    Response::new(Full::new(body.into()).boxed_unsync())
}

fn status(status: StatusCode) -> Reply {
    let mut response = whole(Bytes::new());
    *response.status_mut() = status;
    response
}

fn answered(outcome: Outcome, with_log: bool) -> Reply {
    let mut response = whole(outcome.payload);
    let headers = response.headers_mut();
    set(headers, REQUEST_ID, &outcome.request_id);
    set(headers, EXECUTED_VERSION, VERSION);
    let content_type = outcome.content_type.as_deref();
    set(
        headers,
        CONTENT_TYPE,
        content_type.unwrap_or("application/json"),
    );
    if outcome.is_error {
        set(headers, FUNCTION_ERROR, UNHANDLED);
    }
    if with_log {
        set(headers, LOG_RESULT, &STANDARD.encode(&outcome.log_tail));
    }
    response
}

fn refused(refusal: &Refusal) -> Reply {
    let (kind, is_of_user) = (refusal.kind(), refusal.status().is_client_error());
    let side = if is_of_user { "User" } else { "Service" };
    let document = json!({"Type": side, refusal.message_key(): refusal.to_string()});
    let mut response = whole(document.to_string());
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    set(headers, ERROR_TYPE, kind);
    set(headers, CONTENT_TYPE, "application/json");
    response
}

/// Sets a header; a value that can be none is left out.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::environment::Place;
    use crate::lambda::environment::testing;
    use crate::lambda::environment::testing::{Inside, RUNTIME, Stage};
    use crate::lambda::fleet::Places;
    use crate::lambda::sandbox::Exit;
    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::oneshot;

    /// Begins to answer, and never ends that.
    async fn begin(inside: Inside) -> Exit {
        let next = "2018-06-01/runtime/invocation/next";
        let event = inside.client.send("GET", next, &[], "").await;
        let id = event.header("lambda-runtime-aws-request-id").unwrap();
        let request = format!(
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\
             Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n5\r\nbegun\r\n"
        );
        let connected = TcpStream::connect(inside.client.api.as_str()).await;
        let mut connection = connected.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        std::future::pending().await
    }

    #[tokio::test]
    async fn a_stream_ends_whole_when_everything_is_ended() {
        let places: Places = Arc::new(|| {
            let stage = Arc::new(Stage::default().with(RUNTIME, begin));
            Box::pin(async { Ok(stage as Arc<dyn Place>) })
        });
        let fleet = Fleet::new(
            testing::function(),
            places,
            1,
            testing::log().0,
            testing::clock,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "http://{}/2021-11-15/functions/hello/response-streaming-invocations",
            listener.local_addr().unwrap()
        );
        let (end, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, fleet, async {
            let _ = ended.await;
        }));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut answer = client.post(url).send().await.unwrap();
        let piece = answer.chunk().await.unwrap().unwrap();
        assert_eq!(
            piece,
            event_stream::event("PayloadChunk", "application/octet-stream", b"begun")
        );
        end.send(()).unwrap();
        let last = answer.chunk().await.unwrap().unwrap();
        let told = br#"{"ErrorCode":"ServiceException","ErrorDetails":"the function was ended"}"#;
        assert_eq!(
            last,
            event_stream::event("InvokeComplete", "application/json", told)
        );
        assert_eq!(answer.chunk().await.unwrap(), None);
        assert_eq!(serving.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn events_that_find_no_room_are_refused_and_those_left_at_the_end_are_counted() {
        let places: Places = Arc::new(|| Box::pin(std::future::pending()));
        let log = testing::log().0;
        let fleet = Fleet::new(testing::function(), places, 1, log, testing::clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = testing::Client::new(&listener.local_addr().unwrap().to_string());
        let (end, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, fleet, async {
            let _ = ended.await;
        }));
        let call = async |event: String| {
            let path = "2015-03-31/functions/function/invocations";
            let headers = [("x-amz-invocation-type", "Event")];
            client.send("POST", path, &headers, event).await
        };
        let large = format!("\"{}\"", "x".repeat((1 << 20) - 2));
        for _ in 0..63 {
            assert_eq!(call(large.clone()).await.status, 202);
        }
        // Small ones take room too.
        for _ in 0..16 {
            assert_eq!(call("1".to_owned()).await.status, 202);
        }
        let refused = call("1".to_owned()).await;
        assert_eq!(refused.status, 429);
        let kind = refused.header("x-amzn-errortype");
        assert_eq!(kind, Some("TooManyRequestsException"));
        end.send(()).unwrap();
        assert_eq!(serving.await.unwrap(), 63 + 16);
    }
}
