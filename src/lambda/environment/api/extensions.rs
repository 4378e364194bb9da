//! The Extensions API of 2020-01-01, and the Telemetry API of 2022-07-01 by which extensions subscribe.
//!
//! It knows the headers and the documents; which request is allowed when, the states know.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use super::Problem;
use super::Reply;
use super::accepted;
use super::header;
use super::json_reply;
use super::short_body;
use crate::lambda::environment::VERSION;
use crate::lambda::environment::journal::Told;
use crate::lambda::environment::shared::Shared;
use crate::lambda::environment::states::Call;
use crate::lambda::environment::states::Event;
use crate::lambda::environment::telemetry::Subscription;
use crate::lambda::function::Function;

const NAME: &str = "lambda-extension-name";
const IDENTIFIER: &str = "lambda-extension-identifier";
const EVENT_IDENTIFIER: &str = "lambda-extension-event-identifier";
const ERROR_TYPE: &str = "lambda-extension-function-error-type";
const FEATURES: &str = "lambda-extension-accept-feature";

/// What an extension posts to register.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    configuration_keys: Vec<Value>,
}

pub(super) async fn register(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let (parts, body) = request.into_parts();
    let name = header(&parts.headers, NAME).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| {
        Problem::forbidden("Extension.InvalidExtensionName", "Empty extension name")
    })?;
    let malformed = |text: String| Problem::forbidden("InvalidRequestFormat", text);
    let body = short_body(body).await?;
    let registration = serde_json::from_slice::<Registration>(&body);
    let registration = registration.map_err(|error| malformed(error.to_string()))?;
    if !registration.configuration_keys.is_empty() {
        return Err(malformed(
            "configurationKeys are deprecated; use environment variables instead".to_owned(),
        ));
    }
    let identifier = shared.step(|states| {
        let registered = states.register(name, &registration.events, Uuid::new_v4().to_string());
        registered.map(|extension| extension.identifier.clone())
    })?;
    let features = header(&parts.headers, FEATURES).unwrap_or_default();
    let wants_account = features
        .split(',')
        .any(|feature| feature.trim() == "accountId");
    let document = registered(&shared.function, wants_account);
    let mut answer = json_reply(StatusCode::OK, &document);
    set(answer.headers_mut(), IDENTIFIER, &identifier);
    Ok(answer)
}

fn registered(function: &Function, wants_account: bool) -> Value {
    let mut document = json!({
        "functionName": function.name,
        "functionVersion": VERSION,
        "handler": function.handler.as_deref().unwrap_or_default(),
    });
    if wants_account {
        document["accountId"] = Value::from(function.account.as_str());
    }
    document
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// What an extension names itself by.
fn identifier(headers: &HeaderMap) -> Result<String, Problem> {
    let given = header(headers, IDENTIFIER).filter(|given| !given.is_empty());
    let given = given.ok_or_else(|| {
        Problem::forbidden(
            "Extension.MissingExtensionIdentifier",
            "Missing Lambda-Extension-Identifier header",
        )
    })?;
    let identifier = Uuid::try_parse(given).map_err(|_| {
        Problem::forbidden(
            "Extension.InvalidExtensionIdentifier",
            "Invalid Lambda-Extension-Identifier",
        )
    })?;
    Ok(identifier.to_string())
}

pub(super) async fn next(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
) -> Result<Reply, Problem> {
    let identifier = identifier(request.headers())?;
    shared.step(|states| states.extension_next(&identifier))?;
    let (event, call) = shared
        .until(|states| states.extension_takes(&identifier))
        .await;
    let document = match event {
        Event::Invoke => invoke_event(&call.unwrap_or_default(), &shared.function),
        Event::Shutdown(deadline_ms, reason) => json!({
            "eventType": "SHUTDOWN",
            "deadlineMs": deadline_ms,
            "shutdownReason": reason.word(),
        }),
    };
    let mut answer = json_reply(StatusCode::OK, &document);
    let event_identifier = Uuid::new_v4().to_string();
    set(answer.headers_mut(), EVENT_IDENTIFIER, &event_identifier);
    Ok(answer)
}

fn invoke_event(call: &Call, function: &Function) -> Value {
    json!({
        "eventType": "INVOKE",
        "deadlineMs": call.deadline_ms,
        "requestId": call.request_id,
        "invokedFunctionArn": function.arn(),
        "tracing": {"type": "X-Amzn-Trace-Id", "value": call.trace_id},
    })
}

fn error_type(headers: &HeaderMap) -> Result<String, Problem> {
    let given = header(headers, ERROR_TYPE).filter(|given| !given.is_empty());
    given.map(str::to_owned).ok_or_else(|| {
        Problem::forbidden(
            "Extension.MissingHeader",
            "Lambda-Extension-Function-Error-Type not found",
        )
    })
}

pub(super) fn init_error(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
) -> Result<Reply, Problem> {
    let identifier = identifier(request.headers())?;
    let error_type = error_type(request.headers())?;
    shared.step(|states| states.extension_init_error(&identifier, error_type))?;
    Ok(accepted())
}

pub(super) fn exit_error(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
) -> Result<Reply, Problem> {
    let identifier = identifier(request.headers())?;
    let error_type = error_type(request.headers())?;
    shared.step(|states| states.extension_exit_error(&identifier, error_type))?;
    Ok(accepted())
}

pub(super) async fn subscribe(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let (parts, body) = request.into_parts();
    let identifier = identifier(&parts.headers)?;
    let name = shared.step(|states| states.extension(&identifier).map(|one| one.name.clone()))?;
    let telemetry = &shared.journal.telemetry;
    let closed = || {
        let message = "Telemetry API subscription is closed already";
        Problem::forbidden("Telemetry.SubscriptionClosed", message)
    };
    // Told before what is wrong with the body.
    if telemetry.is_closed() {
        return Err(closed());
    }
    let subscription = Subscription::read(&short_body(body).await?);
    let subscription = subscription.map_err(|error| {
        Problem::Malformed(
            StatusCode::BAD_REQUEST,
            "ValidationError",
            error.to_string(),
        )
    })?;
    let types = subscription.types.clone();
    let place = Arc::clone(&shared.place);
    // It may have been closed while the body was on its way.
    if !telemetry.subscribe(&name, subscription, place) {
        return Err(closed());
    }
    shared.journal.tell(&Told::Subscription {
        name: &name,
        types: &types,
    });
    Ok(json_reply(StatusCode::OK, &Value::from("OK")))
}
