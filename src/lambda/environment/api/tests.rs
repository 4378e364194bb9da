//! The APIs over real HTTP: headers, documents, and each refusal with its status and type.

use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::lambda::environment::journal::Journal;
use crate::lambda::environment::states::Answer;
use crate::lambda::environment::states::Call;
use crate::lambda::environment::states::Runtime;
use crate::lambda::environment::states::States;
use crate::lambda::environment::testing;
use crate::lambda::environment::testing::Answered;
use crate::lambda::environment::testing::Client;
use crate::lambda::environment::testing::Stage;

/// A server whose runtime has been started, and somebody who speaks with it.
struct Served {
    shared: Arc<Shared>,
    server: Server,
    client: Client,
}

async fn serve() -> Served {
    serve_in(Stage::default()).await
}

async fn serve_in(stage: Stage) -> Served {
    let function = testing::function();
    let journal = Journal::new(&function, testing::log().0, testing::clock);
    let place = Arc::new(stage);
    let shared = Arc::new(Shared::new(Arc::new(function), place, journal));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::start(listener, address, Arc::clone(&shared));
    shared.step(|states| {
        states.expect_extension("watch".to_owned(), uuid::Uuid::new_v4().to_string());
        states.runtime_started();
    });
    Served {
        client: Client::new(&server.address()),
        shared,
        server,
    }
}

impl Served {
    fn begin(&self, number: u32) {
        let call = Call {
            request_id: format!("request-{number}"),
            invocation_id: format!("attempt-{number}"),
            event: Bytes::from(r#"{"a":1}"#),
            deadline_ms: 1_700_000_003_000,
            trace_id: "Root=1-2-3".to_owned(),
            client_context: Some("{\n\"custom\": {\"ü\": 1}}".to_owned()),
            cognito_identity: None,
            tenant_id: Some("tenant".to_owned()),
        };
        self.shared.step(|states| states.begin(call));
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        let body = body.to_owned();
        self.client.send("POST", path, headers, body).await
    }

    fn answer(&self) -> Option<Answer> {
        self.shared.look(|states| states.answer().cloned())
    }
}

const RESPONSE: &str = "2018-06-01/runtime/invocation/request-1/response";
const ERROR: &str = "2018-06-01/runtime/invocation/request-1/error";

fn refused(status: u16, error_type: &str) -> (u16, String) {
    (status, error_type.to_owned())
}

#[tokio::test]
async fn an_event_comes_with_its_headers() {
    let served = serve().await;
    served.begin(1);
    let event = served.client.next().await;
    assert_eq!((event.status, event.body.as_str()), (200, r#"{"a":1}"#));
    let headers = [
        ("content-type", "application/json"),
        ("lambda-runtime-aws-request-id", "request-1"),
        ("lambda-runtime-invocation-id", "attempt-1"),
        ("lambda-runtime-deadline-ms", "1700000003000"),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-central-1:123456789012:function:hello",
        ),
        ("lambda-runtime-trace-id", "Root=1-2-3"),
        ("lambda-runtime-aws-tenant-id", "tenant"),
    ];
    for (name, value) in headers {
        assert_eq!(event.header(name), Some(value), "{name}");
    }
    let context = event.headers["lambda-runtime-client-context"].as_bytes();
    assert_eq!(context, r#"{"custom":{"ü":1}}"#.as_bytes());
    assert_eq!(event.header("lambda-runtime-cognito-identity"), None);
}

#[tokio::test]
async fn a_response_is_taken_once() {
    let served = serve().await;
    served.begin(1);
    let event = served.client.next().await;
    let mode = [("lambda-runtime-function-response-mode", "other")];
    let wrong = served.post(RESPONSE, &mode, "1").await;
    assert_eq!(wrong.refusal(), refused(400, "InvalidFunctionResponseMode"));
    let other = RESPONSE.replace("request-1", "request-0");
    let other = served.post(&other, &[], "1").await;
    assert_eq!(other.refusal(), refused(400, "InvalidRequestID"));
    let stale = [("lambda-runtime-invocation-id", "attempt-0")];
    for path in [RESPONSE, ERROR] {
        let stale = served.post(path, &stale, "1").await;
        assert_eq!(stale.refusal(), refused(410, "InvokeTimeout"));
        assert_eq!(stale.json()["errorMessage"], "Invoke timeout");
    }
    let taken = served.client.respond(&event, "\"yes\"").await;
    assert_eq!((taken.status, taken.json()), (202, json!({"status": "OK"})));
    let twice = served.client.respond(&event, "\"no\"").await;
    assert_eq!(twice.refusal(), refused(403, "InvalidStateTransition"));
    let Some(Answer::Response { payload, .. }) = served.answer() else {
        panic!("{:?}", served.answer());
    };
    assert_eq!(payload, "\"yes\"");
}

#[tokio::test]
async fn a_response_has_its_limit() {
    let served = serve().await;
    served.begin(1);
    let event = served.client.next().await;
    let bytes = "a".repeat(MAX_RESPONSE + 1);
    let large = served.client.respond(&event, &bytes).await;
    assert_eq!(large.refusal(), refused(413, "RequestEntityTooLarge"));
    let kept = served.answer();
    assert_eq!(
        kept,
        Some(Answer::TooLarge {
            limit: MAX_RESPONSE
        })
    );
    served.shared.step(States::runtime_next).unwrap();
    served.begin(2);
    let event = served.client.next().await;
    let just = served.client.respond(&event, &bytes[1..]).await;
    assert_eq!(just.status, 202);
}

#[tokio::test]
async fn an_error_is_taken_with_its_type() {
    let served = serve().await;
    served.begin(1);
    served.client.next().await;
    let headers = [
        ("lambda-runtime-function-error-type", "KeyError"),
        (
            "content-type",
            "application/vnd.aws.lambda.error.cause+json",
        ),
    ];
    let body = r#"{"errorMessage":"x","errorCause":{"working_directory":"/"}}"#;
    assert_eq!(served.post(ERROR, &headers, body).await.status, 202);
    let Some(Answer::Error(posted)) = served.answer() else {
        panic!("{:?}", served.answer());
    };
    assert_eq!(posted.error_type, "Runtime.Unknown");
    assert_eq!(posted.document, r#"{"errorMessage":"x"}"#);
    let late = "2018-06-01/runtime/init/error";
    let late = served.post(late, &[], "{}").await;
    assert_eq!(late.refusal(), refused(403, "InvalidStateTransition"));
}

/// Sends bytes as they are, and gives what comes back until the connection is closed or quiet.
async fn raw(served: &Served, request: &str) -> String {
    let mut stream = TcpStream::connect(served.client.api.as_str())
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_streamed_response_can_fail_in_its_middle() {
    let served = serve().await;
    served.begin(1);
    served.client.next().await;
    // The body is base64 of `{"errorType":"Late"}`.
    let request = format!(
        "POST /{RESPONSE} HTTP/1.1\r\nConnection: close\r\n\
         Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n\
         Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n\
         5\r\nbegun\r\n0\r\nLambda-Runtime-Function-Error-Type: Runtime.Late\r\n\
         Lambda-Runtime-Function-Error-Body: eyJlcnJvclR5cGUiOiJMYXRlIn0=\r\n\r\n"
    );
    let mut stream = TcpStream::connect(served.client.api.as_str())
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let Some(Answer::Error(posted)) = served.answer() else {
        panic!("{:?}", served.answer());
    };
    assert_eq!(posted.error_type, "Runtime.Late");
    assert_eq!(posted.document, r#"{"errorType":"Late"}"#);
}

/// A streamed response: its first chunk, and what follows that.
async fn stream(served: &Served, rest: &str) -> TcpStream {
    let request = format!(
        "POST /{RESPONSE} HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n5\r\nbegun\r\n{rest}"
    );
    let mut stream = TcpStream::connect(served.client.api.as_str())
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_streamed_response_is_passed_on_as_it_comes() {
    let served = serve().await;
    served.begin(1);
    let (to, mut pieces) = mpsc::channel(1);
    served.shared.step(|states| states.pass_on(Some(to)));
    served.client.next().await;
    let mut connection = stream(&served, "").await;
    assert_eq!(pieces.recv().await.unwrap(), "begun");
    connection.write_all(b"4\r\nmore\r\n").await.unwrap();
    assert_eq!(pieces.recv().await.unwrap(), "more");
    // Whoever took the pieces has gone: the runtime goes on.
    drop(pieces);
    connection
        .write_all(b"3\r\nend\r\n0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(served.answer(), Some(Answer::Streamed(12)));
    // None of it goes to the next call.
    served.shared.step(States::runtime_next).unwrap();
    served.begin(2);
    assert!(served.shared.look(States::pieces).is_none());
}

#[tokio::test]
async fn a_response_that_was_passed_on_in_part_is_not_given_again() {
    let served = serve().await;
    served.begin(1);
    let (to, mut pieces) = mpsc::channel(1);
    served.shared.step(|states| states.pass_on(Some(to)));
    let event = served.client.next().await;
    let connection = stream(&served, "9\r\nhalf").await;
    assert_eq!(pieces.recv().await.unwrap(), "begun");
    drop(connection);
    let answered = served.shared.until(|states| states.answer().cloned());
    let answered = tokio::time::timeout(Duration::from_secs(5), answered).await;
    assert_eq!(answered.expect("it is seen"), Answer::Truncated);
    let again = served.client.respond(&event, "1").await;
    assert_eq!(again.refusal(), refused(403, "InvalidStateTransition"));
}

#[tokio::test]
async fn a_response_that_breaks_off_can_be_given_again() {
    let served = serve().await;
    served.begin(1);
    let event = served.client.next().await;
    let begun = format!("POST /{RESPONSE} HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf");
    raw(&served, &begun).await;
    let again = async {
        loop {
            let again = served.client.respond(&event, "1").await;
            if again.status == 202 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again)
        .await
        .expect("it is taken");
}

#[tokio::test]
async fn other_addresses_are_not_found() {
    let served = serve().await;
    let nothing = served.client.send("GET", "2018-06-01/x", &[], "").await;
    assert_eq!(nothing.status, 404);
    let ping = served.client.send("GET", "2018-06-01/ping", &[], "").await;
    assert_eq!((ping.status, ping.body.as_str()), (200, "pong"));
}

#[tokio::test]
async fn an_extension_registers() {
    let served = serve().await;
    let path = "2020-01-01/extension/register";
    let headers = [
        ("lambda-extension-name", "watch"),
        ("lambda-extension-accept-feature", "other, accountId"),
    ];
    let body = r#"{"events":["INVOKE","SHUTDOWN"]}"#;
    let registered = served.post(path, &headers, body).await;
    assert_eq!(registered.status, 200);
    uuid::Uuid::try_parse(&registered.identifier()).unwrap();
    let expected = json!({
        "functionName": "hello",
        "functionVersion": "$LATEST",
        "handler": "app.handler",
        "accountId": "123456789012",
    });
    assert_eq!(registered.json(), expected);
    let internal = served.client.register("inside", "[]").await;
    assert_eq!(internal.json().get("accountId"), None);
}

#[tokio::test]
async fn registrations_are_refused_by_their_types() {
    let served = serve().await;
    let register = async |name: &str, events: &str| {
        let answer = served.client.register(name, events).await;
        if answer.status == 200 {
            (200, String::new())
        } else {
            answer.refusal()
        }
    };
    let is = |error_type: &str| refused(403, error_type);
    assert_eq!(
        register("", "[]").await,
        is("Extension.InvalidExtensionName")
    );
    assert_eq!(register("a", "{").await, is("InvalidRequestFormat"));
    let keys = served
        .post(
            "2020-01-01/extension/register",
            &[("lambda-extension-name", "a")],
            r#"{"events":[],"configurationKeys":["a"]}"#,
        )
        .await;
    assert_eq!(keys.refusal(), is("InvalidRequestFormat"));
    assert_eq!(
        register("a", r#"["SHUTDOWN"]"#).await,
        is("Extension.InvalidEventType")
    );
    assert_eq!(register("watch", "[]").await.0, 200);
    assert_eq!(
        register("watch", "[]").await,
        is("Extension.InvalidExtensionState")
    );
    for number in 1..10 {
        assert_eq!(register(&format!("inside {number}"), "[]").await.0, 200);
    }
    assert_eq!(
        register("eleventh", "[]").await,
        is("Extension.TooManyExtensions")
    );
    served.begin(1);
    served.client.next().await;
    assert_eq!(
        register("late", "[]").await,
        is("Extension.RegistrationClosed")
    );
}

#[tokio::test]
async fn extensions_are_refused_by_their_types() {
    let served = serve().await;
    let is = |error_type: &str| refused(403, error_type);
    let registered = served.client.register("inside", r#"["INVOKE"]"#).await;
    let known = registered.identifier();
    let unknown = uuid::Uuid::new_v4().to_string();
    let path = "2020-01-01/extension/event/next";
    let missing = served.client.send("GET", path, &[], "").await;
    assert_eq!(
        missing.refusal(),
        is("Extension.MissingExtensionIdentifier")
    );
    assert_eq!(
        served.client.event("no uuid").await.refusal(),
        is("Extension.InvalidExtensionIdentifier")
    );
    assert_eq!(
        served.client.event(&unknown).await.refusal(),
        is("Extension.UnknownExtensionIdentifier")
    );
    let failed = "lambda-extension-function-error-type";
    for path in [
        "2020-01-01/extension/init/error",
        "2020-01-01/extension/exit/error",
    ] {
        let known = ("lambda-extension-identifier", known.as_str());
        let no_type = served.post(path, &[known], "").await;
        assert_eq!(no_type.refusal(), is("Extension.MissingHeader"));
        let unknown = ("lambda-extension-identifier", unknown.as_str());
        let headers = [unknown, (failed, "Extension.X")];
        let nobody = served.post(path, &headers, "").await;
        assert_eq!(nobody.refusal(), is("Extension.UnknownExtensionIdentifier"));
    }
    let known = ("lambda-extension-identifier", known.as_str());
    let headers = [known, (failed, "Extension.Bad")];
    let exit = served.post("2020-01-01/extension/exit/error", &headers, "");
    assert_eq!(exit.await.status, 202);
    let init = served.post("2020-01-01/extension/init/error", &headers, "");
    assert_eq!(init.await.refusal(), is("Extension.InvalidExtensionState"));
    assert_eq!(
        served.client.event(known.1).await.refusal(),
        is("Extension.InvalidExtensionState")
    );
}

#[tokio::test]
async fn an_extension_is_told_of_a_call() {
    let served = serve().await;
    let registered = served.client.register("inside", r#"["INVOKE"]"#).await;
    served.begin(1);
    let event = served.client.event(&registered.identifier()).await;
    assert!(event.header("lambda-extension-event-identifier").is_some());
    let expected = json!({
        "eventType": "INVOKE",
        "deadlineMs": 1_700_000_003_000_u64,
        "requestId": "request-1",
        "invokedFunctionArn": "arn:aws:lambda:eu-central-1:123456789012:function:hello",
        "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1-2-3"},
    });
    assert_eq!(event.json(), expected);
}

#[tokio::test]
async fn a_subscription_is_taken_during_init_alone() {
    let served = serve().await;
    let registered = served.client.register("watch", "[]").await.identifier();
    let put = async |identifier: &str, body: &str| {
        let headers = [("lambda-extension-identifier", identifier)];
        let body = body.to_owned();
        served
            .client
            .send("PUT", "2022-07-01/telemetry", &headers, body)
            .await
    };
    let body = r#"{"schemaVersion":"2022-12-13","types":["platform"],
        "destination":{"protocol":"HTTP","URI":"http://sandbox.localdomain:1/"}}"#;
    let taken = put(&registered, body).await;
    assert_eq!((taken.status, taken.json()), (200, json!("OK")));
    let wrong = put(&registered, "{}").await;
    assert_eq!(wrong.refusal(), refused(400, "ValidationError"));
    let unknown = put(&uuid::Uuid::new_v4().to_string(), body).await;
    assert_eq!(
        unknown.refusal(),
        refused(403, "Extension.UnknownExtensionIdentifier")
    );
    served.shared.journal.telemetry.close();
    let late = put(&registered, body).await;
    assert_eq!(late.refusal(), refused(403, "Telemetry.SubscriptionClosed"));
}

#[tokio::test]
async fn a_subscription_whose_body_comes_after_init_is_not_taken() {
    let served = serve().await;
    let registered = served.client.register("watch", "[]").await.identifier();
    let body = r#"{"schemaVersion":"2022-12-13","types":["platform"],
        "destination":{"protocol":"HTTP","URI":"http://sandbox.localdomain:1/"}}"#;
    let mut stream = TcpStream::connect(&served.client.api).await.unwrap();
    let head = format!(
        "PUT /2022-07-01/telemetry HTTP/1.1\r\nLambda-Extension-Identifier: {registered}\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The body is asked for: everything before it was found good.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    served.shared.journal.telemetry.close();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.contains("HTTP/1.1 403") && answer.contains("Telemetry.SubscriptionClosed"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_kept_of_a_long_document_is_its_beginning() {
    let served = serve().await;
    let mut stream = TcpStream::connect(&served.client.api).await.unwrap();
    let head = "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for (letter, length) in [("a", MAX_RESPONSE - 10), ("b", 20), ("c", 5)] {
        let chunk = format!("{length:x}\r\n{}\r\n", letter.repeat(length));
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    let Runtime::InitError(posted) = served.shared.look(|states| states.runtime().clone()) else {
        panic!("no error was posted");
    };
    assert_eq!(posted.document.len(), MAX_RESPONSE);
    assert!(posted.document.ends_with(b"abbbbbbbbbb"));
}

#[tokio::test]
async fn a_reset_ends_all_connections() {
    let served = serve().await;
    let waiting = tokio::spawn({
        let api = served.client.api.clone();
        async move {
            let mut stream = TcpStream::connect(api).await.unwrap();
            let request = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer
        }
    });
    let ready = served.shared.until(|states| {
        let is_ready = *states.runtime() == Runtime::Ready;
        is_ready.then_some(())
    });
    ready.await;
    served.server.reset().await;
    assert_eq!(waiting.await.unwrap(), b"");
}

#[tokio::test]
async fn browsers_are_not_answered() {
    let served = serve().await;
    let ping = async |name: &str, value: &str| {
        let headers = [(name, value)];
        let path = "2018-06-01/ping";
        served.client.send("GET", path, &headers, "").await.status
    };
    let (_, port) = served.client.api.rsplit_once(':').unwrap();
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("host", "evil.example"),
        ("host", "127.0.0.1.evil.example"),
        ("host", "127.0.0.1:1"),
        ("host", ""),
        ("host", &format!("evil.example:{port}")),
        ("host", &format!("localhost.evil.example:{port}")),
    ] {
        assert_eq!(ping(name, value).await, 403, "{name}: {value}");
    }
    for name in ["127.0.0.1", "localhost", "sandbox.localdomain", "Sandbox"] {
        assert_eq!(ping("host", &format!("{name}:{port}")).await, 200, "{name}");
        // Not every program says a port.
        assert_eq!(ping("host", name).await, 200, "{name}");
    }
    // As the `fetch` of Node has it.
    assert_eq!(ping("sec-fetch-mode", "cors").await, 200);
}

#[tokio::test]
async fn strangers_are_not_answered() {
    let stage = Stage::default();
    stage.closed.store(true, Ordering::Relaxed);
    let served = serve_in(stage).await;
    served.begin(1);
    let mut stream = TcpStream::connect(&served.client.api).await.unwrap();
    let request = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n";
    // It may be closed before that.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(String::from_utf8_lossy(&answer), "");
    served
        .shared
        .look(|states| assert_eq!(*states.runtime(), Runtime::Started));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_the_end_of_another() {
    let served = serve().await;
    let api = served.client.api.as_str();
    let mut streams = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        let mut stream = TcpStream::connect(api).await.unwrap();
        let request = "GET /2018-06-01/ping HTTP/1.1\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        // An answer: it was accepted.
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        streams.push(stream);
    }
    let ping = served.client.send("GET", "2018-06-01/ping", &[], "");
    tokio::pin!(ping);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut ping).await;
    assert!(early.is_err(), "{early:?}");
    streams.pop();
    assert_eq!(ping.await.status, 200);
}
