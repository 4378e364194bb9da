//! A request of the Invoke API as what it asks for, or why the service would refuse it.
//!
//! Errors have the names, statuses and fields of the service's own model. No connection is known here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::ORIGIN;
use hyper::{HeaderMap, Method, StatusCode, Uri};
use serde::de::IgnoredAny;

use crate::http::Url;
use crate::lambda::function::{
    Function, Invocation, MAX_ASYNC_PAYLOAD, MAX_CLIENT_CONTEXT, MAX_PAYLOAD,
};
use crate::python::lock::percent_decoded;

/// The name by which the emulator's users call whatever function it has.
const ANY_FUNCTION: &str = "function";
/// What a call without an event gets.
const NO_EVENT: &[u8] = b"{}";

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The caller waits for the answer.
    RequestResponse,
    /// The caller takes the answer as it comes.
    Streaming,
    /// The caller waits for nothing.
    Event,
    /// The caller wants to know whether it could call.
    DryRun,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) kind: Kind,
    /// Whether the end of the log is part of the answer.
    pub(super) with_log: bool,
    /// The call without its event.
    invocation: Invocation,
}

/// Why there is no call. Messages are the service's own where they are known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "there is no such operation here: calls are POST /2015-03-31/functions/NAME/invocations"
    )]
    Operation,
    #[error("web pages may not call functions here")]
    WebPage,
    #[error("Function not found: {0}")]
    NoFunction(String),
    #[error("The derived qualifier from the function name does not match the specified qualifier.")]
    Qualifiers,
    #[error(
        "1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: Member must \
         satisfy enum value set: [{known}]"
    )]
    Word {
        field: &'static str,
        value: String,
        known: &'static str,
    },
    #[error("Client context must be a valid Base64-encoded JSON object.")]
    ClientContext,
    #[error("Client context must be no more than {MAX_CLIENT_CONTEXT} bytes.")]
    LongClientContext,
    #[error("Could not parse request body into json: {0}")]
    NoJson(String),
    #[error("Request must be smaller than {0} bytes for the InvokeFunction operation")]
    TooLarge(usize),
    #[error("the request's body ended early")]
    Incomplete,
    #[error("Rate Exceeded.")]
    TooMany,
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// The error's name in the service's model.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Operation => "UnknownOperationException",
            Self::WebPage => "AccessDeniedException",
            Self::NoFunction(_) => "ResourceNotFoundException",
            Self::Qualifiers => "InvalidParameterValueException",
            Self::Word { .. } => "ValidationException",
            Self::ClientContext | Self::LongClientContext | Self::NoJson(_) | Self::Incomplete => {
                "InvalidRequestContentException"
            }
            Self::TooLarge(_) => "RequestTooLargeException",
            Self::TooMany => "TooManyRequestsException",
            Self::Failed(_) => "ServiceException",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Operation | Self::NoFunction(_) => StatusCode::NOT_FOUND,
            Self::WebPage => StatusCode::FORBIDDEN,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Qualifiers
            | Self::Word { .. }
            | Self::ClientContext
            | Self::LongClientContext
            | Self::NoJson(_)
            | Self::Incomplete => StatusCode::BAD_REQUEST,
        }
    }

    /// The field that has the message: the service writes it either way.
    pub(super) fn message_key(&self) -> &'static str {
        match self {
            Self::NoFunction(_) | Self::Failed(_) | Self::Operation | Self::WebPage => "Message",
            _ => "message",
        }
    }
}

impl Call {
    /// Reads all but the body.
    pub(super) fn read(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        function: &Function,
    ) -> Result<Self, Refusal> {
        // Whoever can be lured onto a page would call it from there: a browser asks before no such request.
        if headers.contains_key(ORIGIN) {
            return Err(Refusal::WebPage);
        }
        let operation = operation(uri.path()).filter(|_| method == Method::POST);
        let (name, is_streaming) = operation.ok_or(Refusal::Operation)?;
        let name = percent_decoded(name);
        check_name(&name, qualifier(uri).as_deref(), function)?;
        Ok(Self {
            kind: kind(text(headers, "x-amz-invocation-type"), is_streaming)?,
            with_log: with_log(text(headers, "x-amz-log-type"))?,
            invocation: Invocation {
                client_context: client_context(text(headers, "x-amz-client-context"))?,
                trace_id: text(headers, "x-amzn-trace-id").map(str::to_owned),
                tenant_id: text(headers, "x-amz-tenant-id").map(str::to_owned),
                ..Invocation::default()
            },
        })
    }

    /// The call with its event, if that can be one.
    pub(super) fn check(&self, event: &Bytes) -> Result<Invocation, Refusal> {
        let most = match self.kind {
            Kind::Event => MAX_ASYNC_PAYLOAD,
            Kind::RequestResponse | Kind::Streaming | Kind::DryRun => MAX_PAYLOAD,
        };
        if event.len() > most {
            return Err(Refusal::TooLarge(most));
        }
        let event = if event.is_empty() {
            Bytes::from_static(NO_EVENT)
        } else {
            event.clone()
        };
        is_json(&event).map_err(Refusal::NoJson)?;
        let call = self.invocation.clone();
        Ok(Invocation { event, ..call })
    }
}

/// Whether `text` is one document of JSON, or why it is none.
fn is_json(text: &[u8]) -> Result<(), String> {
    std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let read = serde_json::from_slice::<IgnoredAny>(text);
    read.map(drop).map_err(|error| error.to_string())
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value).filter(|value| !value.is_empty())
}

/// The name in the path of a call, and whether its answer is to be streamed.
fn operation(path: &str) -> Option<(&str, bool)> {
    let whole = ("/2015-03-31/functions/", "/invocations", false);
    let streaming = (
        "/2021-11-15/functions/",
        "/response-streaming-invocations",
        true,
    );
    let mut found = [whole, streaming]
        .into_iter()
        .filter_map(|(start, end, is_streaming)| {
            let rest = path.strip_prefix(start)?;
            let name = rest.trim_end_matches('/').strip_suffix(end)?;
            Some((name, is_streaming))
        });
    found
        .next()
        .filter(|(name, _)| !name.is_empty() && !name.contains('/'))
}

fn qualifier(uri: &Uri) -> Option<String> {
    let url = Url::parse(&format!("http://localhost/?{}", uri.query()?)).ok()?;
    let (_, value) = url.query_pairs().find(|(name, _)| name == "Qualifier")?;
    Some(value.into_owned()).filter(|value| !value.is_empty())
}

/// Whether this is the function's name, alone, with its account, or as an ARN; whose account and region is not asked.
fn check_name(text: &str, qualifier: Option<&str>, function: &Function) -> Result<(), Refusal> {
    let (name, own) = split(text);
    let qualifier = match (own, qualifier) {
        (Some(own), Some(given)) if own != given => return Err(Refusal::Qualifiers),
        (own, given) => own.or(given),
    };
    let is_version = matches!(qualifier, None | Some("$LATEST"));
    if is_version && (name == function.name || name == ANY_FUNCTION) {
        return Ok(());
    }
    let named = Function {
        name: name.to_owned(),
        ..function.clone()
    };
    let suffix = qualifier.map_or_else(String::new, |qualifier| format!(":{qualifier}"));
    Err(Refusal::NoFunction(named.arn() + &suffix))
}

/// Name and qualifier of what stands for a function.
fn split(text: &str) -> (&str, Option<&str>) {
    let parts: Vec<_> = text.split(':').collect();
    match parts[..] {
        ["arn", _, "lambda", _, _, "function", name] | [_, "function", name] => (name, None),
        ["arn", _, "lambda", _, _, "function", name, qualifier]
        | [_, "function", name, qualifier]
        | [name, qualifier] => (name, Some(qualifier)),
        _ => (text, None),
    }
}

fn kind(text: Option<&str>, is_streaming: bool) -> Result<Kind, Refusal> {
    match text {
        None | Some("RequestResponse") if is_streaming => Ok(Kind::Streaming),
        None | Some("RequestResponse") => Ok(Kind::RequestResponse),
        Some("Event") if !is_streaming => Ok(Kind::Event),
        Some("DryRun") => Ok(Kind::DryRun),
        Some(other) => Err(Refusal::Word {
            field: "invocationType",
            value: other.to_owned(),
            known: if is_streaming {
                "RequestResponse, DryRun"
            } else {
                "Event, RequestResponse, DryRun"
            },
        }),
    }
}

fn with_log(text: Option<&str>) -> Result<bool, Refusal> {
    match text {
        None | Some("None") => Ok(false),
        Some("Tail") => Ok(true),
        Some(other) => Err(Refusal::Word {
            field: "logType",
            value: other.to_owned(),
            known: "None, Tail",
        }),
    }
}

fn client_context(text: Option<&str>) -> Result<Option<String>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    if text.len() > MAX_CLIENT_CONTEXT {
        return Err(Refusal::LongClientContext);
    }
    let decoded = STANDARD.decode(text).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let object = decoded.filter(|text| {
        let read = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text);
        read.is_ok()
    });
    object.map(Some).ok_or(Refusal::ClientContext)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::function::{DEFAULT_MEMORY, DEFAULT_TIMEOUT, LogFormat};
    use hyper::header::{HeaderName, HeaderValue};

    fn function() -> Function {
        Function {
            name: "orders".to_owned(),
            account: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            memory: DEFAULT_MEMORY,
            timeout: DEFAULT_TIMEOUT,
            command: Vec::new(),
            handler: None,
            working_dir: "/".to_owned(),
            image_variables: std::collections::BTreeMap::default(),
            variables: std::collections::BTreeMap::default(),
            log_format: LogFormat::Text,
        }
    }

    fn read(path: &str, headers: &[(&'static str, &'static str)]) -> Result<Call, Refusal> {
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let uri = format!("/2015-03-31/functions/{path}").parse().unwrap();
        Call::read(&Method::POST, &uri, &headers.collect(), &function())
    }

    /// What the caller is told.
    fn told<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
        let refusal = result.unwrap_err();
        let status = refusal.status().as_u16();
        format!("{status} {}: {refusal}", refusal.kind())
    }

    #[test]
    fn every_form_of_the_name_is_the_function() {
        for name in [
            "orders",
            "function",
            "orders:$LATEST",
            "orders:%24LATEST",
            "123456789012:function:orders",
            "arn:aws:lambda:us-east-1:999999999999:function:orders",
            "arn%3Aaws%3Alambda%3Aus-east-1%3A999999999999%3Afunction%3Aorders%3A%24LATEST",
        ] {
            let call = read(&format!("{name}/invocations"), &[]).unwrap();
            assert_eq!(call.kind, Kind::RequestResponse, "{name}");
        }
        assert!(read("orders/invocations?Qualifier=%24LATEST", &[]).is_ok());
    }

    #[test]
    fn what_the_service_refuses_is_refused_in_its_words() {
        let refused = |path: &str| told(read(path, &[]));
        insta::assert_snapshot!(refused("other/invocations"), @"404 ResourceNotFoundException: Function not found: arn:aws:lambda:eu-central-1:123456789012:function:other");
        insta::assert_snapshot!(refused("orders/invocations?Qualifier=live"), @"404 ResourceNotFoundException: Function not found: arn:aws:lambda:eu-central-1:123456789012:function:orders:live");
        insta::assert_snapshot!(refused("orders:a/invocations?Qualifier=b"), @"400 InvalidParameterValueException: The derived qualifier from the function name does not match the specified qualifier.");
        insta::assert_snapshot!(refused("orders"), @"404 UnknownOperationException: there is no such operation here: calls are POST /2015-03-31/functions/NAME/invocations");
        let with = |name, value| told(read("orders/invocations", &[(name, value)]));
        insta::assert_snapshot!(with("x-amz-invocation-type", "Later"), @"400 ValidationException: 1 validation error detected: Value 'Later' at 'invocationType' failed to satisfy constraint: Member must satisfy enum value set: [Event, RequestResponse, DryRun]");
        insta::assert_snapshot!(with("x-amz-log-type", "All"), @"400 ValidationException: 1 validation error detected: Value 'All' at 'logType' failed to satisfy constraint: Member must satisfy enum value set: [None, Tail]");
        for context in ["{}", "WzFd"] {
            insta::allow_duplicates!(
                insta::assert_snapshot!(with("x-amz-client-context", context), @"400 InvalidRequestContentException: Client context must be a valid Base64-encoded JSON object.")
            );
        }
        insta::assert_snapshot!(with("origin", "https://evil.example"), @"403 AccessDeniedException: web pages may not call functions here");
    }

    #[test]
    fn answers_are_streamed_to_who_waits_for_them() {
        let read = |path: &str, word: &'static str| {
            let kind = (
                HeaderName::from_static("x-amz-invocation-type"),
                HeaderValue::from_static(word),
            );
            let uri = format!("/2021-11-15/functions/{path}").parse().unwrap();
            Call::read(
                &Method::POST,
                &uri,
                &HeaderMap::from_iter([kind]),
                &function(),
            )
        };
        let kind = |word: &'static str| {
            read("orders/response-streaming-invocations", word)
                .unwrap()
                .kind
        };
        assert_eq!(kind(""), Kind::Streaming);
        assert_eq!(kind("RequestResponse"), Kind::Streaming);
        assert_eq!(kind("DryRun"), Kind::DryRun);
        let refused = |path: &str, word: &'static str| told(read(path, word));
        insta::assert_snapshot!(refused("orders/response-streaming-invocations", "Event"), @"400 ValidationException: 1 validation error detected: Value 'Event' at 'invocationType' failed to satisfy constraint: Member must satisfy enum value set: [RequestResponse, DryRun]");
        // Each operation has its own date.
        insta::assert_snapshot!(refused("orders/invocations", ""), @"404 UnknownOperationException: there is no such operation here: calls are POST /2015-03-31/functions/NAME/invocations");
    }

    #[test]
    fn headers_are_what_they_ask_for() {
        let call = read(
            "orders/invocations",
            &[
                ("x-amz-invocation-type", "Event"),
                ("x-amz-log-type", "Tail"),
                // {"custom":{"k":"v"}}
                ("x-amz-client-context", "eyJjdXN0b20iOnsiayI6InYifX0="),
                (
                    "x-amzn-trace-id",
                    "Root=1-5759e988-bd862e3fe1be46a994272793",
                ),
                ("x-amz-tenant-id", "blue"),
            ],
        );
        let call = call.unwrap();
        assert_eq!((call.kind, call.with_log), (Kind::Event, true));
        let sent = call.check(&Bytes::from_static(b" [1] ")).unwrap();
        assert_eq!(
            sent.client_context.as_deref(),
            Some("{\"custom\":{\"k\":\"v\"}}")
        );
        assert_eq!(
            sent.trace_id.as_deref(),
            Some("Root=1-5759e988-bd862e3fe1be46a994272793")
        );
        assert_eq!(sent.tenant_id.as_deref(), Some("blue"));
        assert_eq!(&sent.event[..], b" [1] ");
    }

    #[test]
    fn events_are_json_of_a_size() {
        let call = read("orders/invocations", &[]).unwrap();
        let event = |text: &[u8]| call.check(&Bytes::copy_from_slice(text));
        assert_eq!(&event(b"").unwrap().event[..], b"{}");
        insta::assert_snapshot!(told(event(b"{'a': 1}")), @"400 InvalidRequestContentException: Could not parse request body into json: key must be a string at line 1 column 2");
        insta::assert_snapshot!(told(event(b"1 2")), @"400 InvalidRequestContentException: Could not parse request body into json: trailing characters at line 1 column 3");
        assert!(told(event(b"\"\xff\"")).contains("invalid utf-8"));
        let of_size = |size: usize| format!("\"{}\"", "x".repeat(size - 2)).into_bytes();
        assert!(event(&of_size(MAX_PAYLOAD)).is_ok());
        insta::assert_snapshot!(told(event(&of_size(MAX_PAYLOAD + 1))), @"413 RequestTooLargeException: Request must be smaller than 6291456 bytes for the InvokeFunction operation");
        let later = read("orders/invocations", &[("x-amz-invocation-type", "Event")]).unwrap();
        assert!(later.check(&of_size(MAX_ASYNC_PAYLOAD).into()).is_ok());
        insta::assert_snapshot!(told(later.check(&of_size(MAX_ASYNC_PAYLOAD + 1).into())), @"413 RequestTooLargeException: Request must be smaller than 1048576 bytes for the InvokeFunction operation");
        // Deeper than a reader that calls itself could go.
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(event(deep.as_bytes()).is_ok());
    }
}
