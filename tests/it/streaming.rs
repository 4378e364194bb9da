//! boto3's `invoke_with_response_stream` against `lambimg serve`, with a runtime that answers in parts.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::support::functions::Built;
use crate::support::functions::Served;
use crate::support::http;

fn serve(flags: &[&str]) -> Served {
    // One environment, so that each call meets what the one before it left.
    let mut all = vec!["--concurrency", "1"];
    all.extend(flags);
    Built::with_own_runtime().serve(&all)
}

/// What boto3 is streamed by one call.
fn stream(served: &Served, event: &Value, more: &Value) -> Value {
    let calls = json!([[event, more]]).to_string();
    let mut done = served.boto3(&["streams", &calls]);
    done[0].take()
}

/// The one event at the end.
fn complete(said: &Value) -> &Value {
    let events = said["complete"].as_array();
    let events = events.unwrap_or_else(|| panic!("it ended: {said}"));
    assert_eq!(events.len(), 1, "{said}");
    &events[0]
}

/// The error at the end: its document.
fn error(said: &Value) -> Value {
    let complete = complete(said);
    assert_eq!(complete["ErrorCode"], "Unhandled", "{said}");
    let details = complete["ErrorDetails"].as_str().expect("it is text");
    serde_json::from_str(details).expect("it is a document")
}

#[test]
fn parts_leave_as_they_come() {
    let served = serve(&["--timeout", "20s"]);
    let event = json!({"parts": ["eins ü", "zwei", "drei"], "pause": 1});
    let said = stream(&served, &event, &json!({"LogType": "Tail"}));
    assert_eq!(said["StatusCode"], 200);
    assert_eq!(said["version"], "$LATEST");
    assert_eq!(said["type"], "application/vnd.amazon.eventstream");
    assert_eq!(said["chunks"], json!(["eins ü", "zwei", "drei"]));
    let times = said["times"].as_array().expect("a list");
    let times: Vec<f64> = times.iter().filter_map(Value::as_f64).collect();
    // The first was here two pauses before the last, and that a pause before the end.
    assert!(
        times[2] - times[0] > 1.5 && times[3] - times[2] > 0.5,
        "{times:?}"
    );
    let id = said["headers"]["x-amzn-requestid"].as_str();
    let id = id.expect("it has an identifier");
    let log = complete(&said)["LogResult"].as_str().expect("it is text");
    assert!(log.starts_with(&format!("START RequestId: {id} ")), "{log}");
    assert!(
        log.contains(&format!("\nREPORT RequestId: {id}\t")),
        "{log}"
    );
    assert_eq!(complete(&said).get("ErrorCode"), None);
    // Without being asked for there is no log, and a whole answer is one part.
    let said = stream(&served, &json!({"whole": {"a": 1}}), &json!({}));
    assert_eq!(said["chunks"], json!(["{\"a\": 1}"]));
    assert_eq!(complete(&said), &json!({}));
    // Who asks for no stream is given one document.
    let answer = served.post(&[], &json!({"parts": ["[1,", "2]"]}));
    assert_eq!(answer.text(), "[1,2]");
}

#[test]
fn every_byte_is_as_it_was() {
    let served = serve(&["--timeout", "60s"]);
    for seed in 0..3 {
        let event = json!({"count": 100, "seed": seed, "pause": 0});
        let said = stream(&served, &event, &json!({}));
        let expected = crate::support::process::run(
            crate::support::process::command(crate::support::python("3.12")).args([
                "-c",
                SAME_BYTES,
                &seed.to_string(),
            ]),
        );
        assert_eq!(said["sha256"], expected.trim(), "{seed}: {said}");
        assert_eq!(complete(&said), &json!({}));
    }
}

/// What `streamer.py` makes of a seed.
const SAME_BYTES: &str = "
import hashlib, random, sys
chance, digest = random.Random(int(sys.argv[1])), hashlib.sha256()
for _ in range(100):
    digest.update(chance.randbytes(chance.randrange(1, 100_000)))
print(digest.hexdigest())
";

#[test]
fn what_goes_wrong_on_the_way_is_told_at_the_end() {
    let served = serve(&["--timeout", "4s"]);
    let wrong = json!({"errorType": "Function.Broken", "errorMessage": "in the middle"});
    let late = json!({"parts": ["half"], "error": wrong});
    let said = stream(&served, &late, &json!({}));
    assert_eq!(said["chunks"], json!(["half"]));
    assert_eq!(error(&said), wrong);
    let said = stream(&served, &json!({"wrong": wrong}), &json!({}));
    assert_eq!((&said["chunks"], error(&said)), (&json!([]), wrong));

    let ending = |then: &str| {
        let event = json!({"parts": ["half"], "then": then});
        let said = stream(&served, &event, &json!({"LogType": "Tail"}));
        assert_eq!(said["chunks"], json!(["half"]), "{then}");
        let log = complete(&said)["LogResult"].as_str().expect("it is text");
        assert!(log.contains("\nREPORT RequestId: "), "{then}: {log}");
        let error = error(&said);
        let message = error["errorMessage"].as_str().expect("it is text");
        let told = message.split_once(" Error: ").expect("the request's").1;
        format!(
            "{}: {told}",
            error["errorType"].as_str().expect("it is text")
        )
    };
    assert_eq!(
        ending("exit"),
        "Runtime.ExitError: Runtime exited with error: exit status 3"
    );
    assert_eq!(
        ending("sleep"),
        "Sandbox.Timedout: Task timed out after 4.00 seconds"
    );
    assert_eq!(
        ending("break off"),
        "Runtime.TruncatedResponse: Response was truncated"
    );
    // The function goes on after each of them.
    let said = stream(&served, &json!({"whole": 1}), &json!({}));
    assert_eq!(said["chunks"], json!(["1"]));
}

#[test]
fn who_goes_away_ends_nothing() {
    let served = serve(&["--timeout", "30s"]);
    let process = served.post(&[], &json!({"process": 1})).text();
    let event = json!({"mebibytes": 40, "pause": 0});
    let said = stream(&served, &event, &json!({"leave_after": 1}));
    assert_eq!(said["complete"], json!([]));
    let started = Instant::now();
    assert_eq!(served.post(&[], &json!({"process": 1})).text(), process);
    assert!(started.elapsed() < Duration::from_secs(20), "it went on");
    let log = served.log();
    assert!(!log.contains("Status: "), "{log}");
}

#[test]
fn a_runtime_waits_for_who_reads_slowly_as_long_as_it_has_time() {
    let served = serve(&["--timeout", "3s"]);
    let event = json!({"mebibytes": 100, "pause": 0});
    let said = stream(&served, &event, &json!({"wait": 5}));
    let bytes = said["bytes"].as_u64().expect("a number");
    assert!(bytes > 0 && bytes < 90 << 20, "{bytes}");
    assert_eq!(error(&said)["errorType"], "Sandbox.Timedout");
    let said = stream(&served, &json!({"whole": 1}), &json!({}));
    assert_eq!(said["chunks"], json!(["1"]));
}

#[test]
fn a_stream_of_any_size_is_not_held() {
    let served = serve(&["--timeout", "5m"]);
    let event = json!({"mebibytes": 201, "pause": 0});
    let said = stream(&served, &event, &json!({}));
    assert_eq!(said["bytes"], 200 << 20);
    assert_eq!(error(&said)["errorType"], "Function.ResponseSizeTooLarge");
    let peak = served.peak() >> 20;
    assert!((1..64).contains(&peak), "{peak} MiB");
}

#[test]
fn what_is_no_call_is_refused_before_a_stream_begins() {
    let served = serve(&[]);
    let calls = json!([
        [{}, {"Qualifier": "prod"}],
        [{"whole": 1}, {"InvocationType": "DryRun"}],
    ]);
    let done = served.boto3(&["streams", &calls.to_string()]);
    assert_eq!(done[0]["Code"], "ResourceNotFoundException");
    assert_eq!(
        (&done[1]["StatusCode"], &done[1]["chunks"]),
        (&json!(204), &json!([]))
    );
    let url = format!(
        "{}/2021-11-15/functions/judged/response-streaming-invocations",
        served.url
    );
    let event = http::send("POST", &url, &[("x-amz-invocation-type", "Event")], vec![]);
    assert_eq!(event.expect("it answers").status, 400);
}
