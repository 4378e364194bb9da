//! boto3 against `lambimg serve`: what AWS's own client makes of each kind of call.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::functions::Built;

#[test]
fn each_kind_of_call() {
    // One environment: what one call leaves in /tmp the next one finds.
    let served = Built::on_host("3.12").serve(&[
        "--concurrency",
        "1",
        "--timeout",
        "20s",
        "--memory",
        "512",
    ]);
    let said = served.boto3(&["each"]);
    let payload = |name: &str| {
        let text = said[name]["Payload"].as_str().expect("a payload is text");
        serde_json::from_str::<Value>(text)
            .unwrap_or_else(|error| panic!("{name}: {error}: {text:?}"))
    };
    assert_eq!(
        (&said["sync"]["StatusCode"], payload("sync")),
        (&json!(200), json!({"ü": [1, null]}))
    );
    assert_eq!(said["sync"]["ExecutedVersion"], "$LATEST");
    assert_eq!(said["sync"].get("FunctionError"), None);
    assert_eq!(said["sync"].get("Log"), None);
    assert_eq!(said["by ARN"], 200);
    assert_eq!(
        (&said["dry run"]["StatusCode"], &said["dry run"]["Payload"]),
        (&json!(204), &json!(""))
    );
    assert_eq!(
        (&said["async"]["StatusCode"], &said["async"]["Payload"]),
        (&json!(202), &json!(""))
    );
    assert_eq!(said["what the async call left"], "true");

    assert_eq!(
        (
            &said["error"]["StatusCode"],
            &said["error"]["FunctionError"]
        ),
        (&json!(200), &json!("Unhandled"))
    );
    let error = payload("error");
    assert_eq!(
        (&error["errorType"], &error["errorMessage"]),
        (&json!("ValueError"), &json!("so nicht: ü ☃"))
    );
    assert_eq!(error["requestId"], said["error"]["RequestId"]);

    let log = said["tail"]["Log"].as_str().expect("the log is text");
    let request = said["tail"]["RequestId"]
        .as_str()
        .expect("an identifier is text");
    assert!(
        log.starts_with(&format!("START RequestId: {request} Version: $LATEST\n")),
        "{log}"
    );
    assert!(
        log.contains("to stdout: ü\n")
            && log.contains(&format!(
                "\nEND RequestId: {request}\nREPORT RequestId: {request}\t"
            )),
        "{log}"
    );
    let log = said["long tail"]["Log"].as_str().expect("the log is text");
    assert!(
        log.len() <= 4096 && log.len() > 3500 && log.contains("line 000999"),
        "{} {log}",
        log.len()
    );

    assert_eq!(
        payload("context")["client_context"]["custom"],
        json!({"wer": "ich ü"})
    );
    assert_eq!(said["large"], 5_000_002);

    assert_refusals(&said);
    let outcome = served.end(Duration::from_mins(1));
    // To be ended is how serving ends.
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
}

/// What the service would refuse is refused in its words, and so by exceptions of boto3's own.
fn assert_refusals(said: &Value) {
    let refusal = |name: &str| {
        let said = &said[name];
        (
            said["code"].as_str().unwrap_or_default().to_owned(),
            said["status"].as_u64().unwrap_or(0),
        )
    };
    assert_eq!(
        refusal("no such function"),
        ("ResourceNotFoundException".to_owned(), 404)
    );
    assert_eq!(
        said["no such function"]["class"],
        "ResourceNotFoundException"
    );
    assert_eq!(
        refusal("no such qualifier"),
        ("ResourceNotFoundException".to_owned(), 404)
    );
    assert_eq!(
        refusal("no JSON"),
        ("InvalidRequestContentException".to_owned(), 400)
    );
    assert_eq!(
        refusal("too large"),
        ("RequestTooLargeException".to_owned(), 413)
    );
    assert_eq!(
        refusal("too large async"),
        ("RequestTooLargeException".to_owned(), 413)
    );
}

#[test]
fn every_answer_names_its_trace() {
    let served = Built::on_host("3.12").serve(&[]);
    let event = json!({"do": "env", "names": ["_X_AMZN_TRACE_ID"]});
    let trace = |headers: &[(&str, &str)]| {
        let answer = served.post(headers, &event);
        let trace = answer.header("x-amzn-trace-id").to_owned();
        (answer.status, trace, answer.text())
    };
    let (_, made, said) = trace(&[]);
    let said: Value = serde_json::from_str(&said).expect("it is JSON");
    assert_eq!(said, json!({"_X_AMZN_TRACE_ID": made}));
    let parts: Vec<_> = made.split(';').collect();
    assert!(
        parts.len() == 4
            && parts[0].starts_with("Root=1-")
            && parts[1].starts_with("Parent=")
            && parts[2] == "Sampled=0"
            && parts[3].starts_with("Lineage=1:"),
        "{made}"
    );
    assert_ne!(trace(&[]).1, made);
    let sent = "Root=1-5759e988-bd862e3fe1be46a994272793";
    assert_eq!(trace(&[("x-amzn-trace-id", sent)]).1, sent);
    let (status, made, _) = trace(&[("x-amz-invocation-type", "Event")]);
    assert!(status == 202 && made.starts_with("Root=1-"), "{made}");
}

#[test]
fn a_thousand_calls_from_sixteen_clients() {
    let served = Built::on_host("3.12").serve(&["--concurrency", "4", "--timeout", "30s"]);
    let said = served.boto3(&["many"]);
    assert_eq!(said["answered"], 1000);
    assert_eq!(said["mixed up"], json!([]));
    assert_eq!(said["requests"], 1000);
    let environments = said["calls of each environment"]
        .as_array()
        .expect("a list");
    assert!((1..=4).contains(&environments.len()), "{environments:?}");
    let outcome = served.end(Duration::from_mins(1));
    for line in ["START RequestId: ", "END RequestId: ", "REPORT RequestId: "] {
        let found = outcome
            .stderr
            .lines()
            .filter(|found| found.starts_with(line))
            .count();
        assert_eq!(found, 1000, "{line}");
    }
}
