//! The Runtime API of 2018-06-01: a runtime asks for an event, and says what came of it.
//!
//! It knows the headers and the documents; which request is allowed when, the states know.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Problem;
use super::Received;
use super::Reply;
use super::accepted;
use super::header;
use super::receive;
use super::reply;
use super::truncated;
use crate::lambda::environment::documents::MAX_RESPONSE;
use crate::lambda::environment::documents::MAX_STREAMED_RESPONSE;
use crate::lambda::environment::documents::runtime_error_type;
use crate::lambda::environment::shared::Shared;
use crate::lambda::environment::states::Answer;
use crate::lambda::environment::states::Call;
use crate::lambda::environment::states::Claim;
use crate::lambda::environment::states::Posted;
use crate::lambda::environment::states::Refused;
use crate::lambda::environment::states::States;
use crate::lambda::function::Function;

const INVOCATION_ID: &str = "lambda-runtime-invocation-id";
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";
/// The form of an error that carries its cause for X-Ray, which is none of the caller's.
const ERROR_WITH_CAUSE: &str = "application/vnd.aws.lambda.error.cause+json";

pub(super) async fn next(shared: &Arc<Shared>) -> Result<Reply, Problem> {
    shared.step(States::runtime_next)?;
    let call = shared.until(States::runtime_takes).await;
    let mut given = reply(StatusCode::OK, "application/json", call.event.clone());
    set_headers(given.headers_mut(), &call, &shared.function);
    Ok(given)
}

fn set_headers(headers: &mut HeaderMap, call: &Call, function: &Function) {
    let mut set = |name: &'static str, value: &str| {
        // What no header can hold is not told.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("lambda-runtime-aws-request-id", &call.request_id);
    set(INVOCATION_ID, &call.invocation_id);
    set("lambda-runtime-deadline-ms", &call.deadline_ms.to_string());
    set("lambda-runtime-invoked-function-arn", &function.arn());
    set("lambda-runtime-trace-id", &call.trace_id);
    let optional = [
        (
            "lambda-runtime-client-context",
            call.client_context.as_deref().map(on_one_line),
        ),
        (
            "lambda-runtime-cognito-identity",
            call.cognito_identity.as_deref().map(on_one_line),
        ),
        ("lambda-runtime-aws-tenant-id", call.tenant_id.clone()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            set(name, &value);
        }
    }
}

/// JSON without the ends of lines, which a header cannot hold.
fn on_one_line(json: &str) -> String {
    let document = serde_json::from_str::<Value>(json);
    document.map_or_else(|_| json.to_owned(), |document| document.to_string())
}

pub(super) async fn response(
    shared: &Arc<Shared>,
    request_id: &str,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let (parts, body) = request.into_parts();
    let limit = limit(&parts.headers)?;
    let pieces = answers(shared, request_id, &parts.headers)?;
    let guard = Broken(shared);
    if let Some(pieces) = pieces
        && limit == MAX_STREAMED_RESPONSE
    {
        return guard.answered(pass_on(body, &pieces).await);
    }
    let received = receive(body, limit).await;
    let content_type = header(&parts.headers, CONTENT_TYPE.as_str());
    let answer = received.map(|received| answer_of(received, limit, content_type));
    guard.answered(answer)
}

pub(super) async fn error(
    shared: &Arc<Shared>,
    request_id: &str,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let (parts, body) = request.into_parts();
    answers(shared, request_id, &parts.headers)?;
    let guard = Broken(shared);
    let received = receive(body, MAX_RESPONSE).await;
    let answer = received.map(|received| {
        if received.length > MAX_RESPONSE as u64 {
            return Answer::TooLarge {
                limit: MAX_RESPONSE,
            };
        }
        Answer::Error(posted(&parts.headers, received.body))
    });
    guard.answered(answer)
}

pub(super) async fn init_error(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let (parts, body) = request.into_parts();
    let received = receive(body, MAX_RESPONSE).await.ok_or_else(truncated)?;
    let posted = posted(&parts.headers, received.body);
    shared.step(|states| states.runtime_init_error(posted))?;
    Ok(accepted())
}

/// How many bytes a response may have, by whether it is streamed.
fn limit(headers: &HeaderMap) -> Result<usize, Problem> {
    let mode = header(headers, RESPONSE_MODE).map(str::to_ascii_lowercase);
    match mode.as_deref() {
        None | Some("buffered") => Ok(MAX_RESPONSE),
        Some("streaming") => Ok(MAX_STREAMED_RESPONSE),
        Some(_) => Err(Problem::Malformed(
            StatusCode::BAD_REQUEST,
            "InvalidFunctionResponseMode",
            "Invalid function response mode".to_owned(),
        )),
    }
}

/// Begins an answer; gives what takes it where it is streamed.
fn answers(
    shared: &Arc<Shared>,
    request_id: &str,
    headers: &HeaderMap,
) -> Result<Option<mpsc::Sender<Bytes>>, Problem> {
    let claim = Claim {
        request_id,
        invocation_id: header(headers, INVOCATION_ID),
    };
    Ok(shared.step(|states| {
        states.runtime_answers(claim)?;
        Ok::<_, Refused>(states.pieces())
    })?)
}

/// An answer on its way: where it breaks off, even with its connection, the runtime may answer again.
struct Broken<'a>(&'a Arc<Shared>);

impl Broken<'_> {
    fn answered(self, answer: Option<Answer>) -> Result<Reply, Problem> {
        let answer = answer.ok_or_else(truncated)?;
        let reply = match answer {
            Answer::TooLarge { limit } => Err(Problem::Malformed(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                format!("Exceeded maximum allowed payload size ({limit} bytes)."),
            )),
            Answer::Truncated => Err(truncated()),
            Answer::Response { .. } | Answer::Streamed(_) | Answer::Error(_) => Ok(accepted()),
        };
        self.0.step(|states| states.runtime_answered(Some(answer)));
        reply
    }
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        // After an answer this is no step.
        self.0.step(|states| states.runtime_answered(None));
    }
}

fn answer_of(received: Received, limit: usize, content_type: Option<&str>) -> Answer {
    if received.length > limit as u64 {
        return Answer::TooLarge { limit };
    }
    let error = received.trailers.as_ref().and_then(posted_late);
    error.map_or_else(
        || Answer::Response {
            payload: received.body,
            content_type: content_type.map(str::to_owned),
        },
        Answer::Error,
    )
}

/// Passes a response on as it comes, and keeps nothing of it; none where it broke off before it began.
///
/// It waits for whoever takes the pieces. Where nobody does any more the runtime is heard to its end all the same.
async fn pass_on(mut incoming: Incoming, pieces: &mpsc::Sender<Bytes>) -> Option<Answer> {
    let (mut error, mut length) = (None, 0_usize);
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else {
            return (length > 0).then_some(Answer::Truncated);
        };
        match frame.into_data() {
            Ok(piece) => {
                length = length.saturating_add(piece.len());
                if length <= MAX_STREAMED_RESPONSE && !piece.is_empty() {
                    let _ = pieces.send(piece).await;
                }
            }
            Err(frame) => error = frame.trailers_ref().and_then(posted_late),
        }
    }
    if length > MAX_STREAMED_RESPONSE {
        let limit = MAX_STREAMED_RESPONSE;
        return Some(Answer::TooLarge { limit });
    }
    Some(error.map_or(Answer::Streamed(length), Answer::Error))
}

/// The error that a streamed response ended in, where it did.
fn posted_late(trailers: &HeaderMap) -> Option<Posted> {
    let error_type = header(trailers, ERROR_TYPE)?;
    let body = header(trailers, ERROR_BODY).unwrap_or_default();
    Some(Posted {
        error_type: runtime_error_type(Some(error_type)),
        document: BASE64_STANDARD
            .decode(body)
            .map_or_else(|_| Bytes::from(body.to_owned()), Bytes::from),
    })
}

fn posted(headers: &HeaderMap, body: Bytes) -> Posted {
    let has_cause = header(headers, CONTENT_TYPE.as_str()) == Some(ERROR_WITH_CAUSE);
    Posted {
        error_type: runtime_error_type(header(headers, ERROR_TYPE)),
        document: if has_cause { without_cause(body) } else { body },
    }
}

fn without_cause(body: Bytes) -> Bytes {
    match serde_json::from_slice::<Value>(&body) {
        Ok(Value::Object(mut document)) => {
            document.remove("errorCause");
            Bytes::from(Value::Object(document).to_string())
        }
        _ => body,
    }
}
