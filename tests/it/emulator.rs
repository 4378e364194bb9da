//! Side by side with the genuine emulator, on the same image: the same answers, and what Lambda documents where the
//! emulator does something else.

use std::thread;

use serde_json::Value;
use serde_json::json;

use crate::support::emulator::Root;
use crate::support::functions::Built;

/// What is asked of both.
fn events() -> Vec<Value> {
    let values = json!([
        null, true, false, 0, -1, 1.5, 1e300, 12_345_678_901_234_567_890_u64, "", "text", "Grüße ☃ 𝄞", "\u{0}\n\t\"\\",
        "\u{2028}", [], {}, [[1, [2, [3]]]], {"ü": {"a": [null, true]}},
    ]);
    let values = values.as_array().expect("a list").iter();
    let mut events: Vec<Value> = values
        .map(|value| json!({"do": "value", "value": value}))
        .collect();
    for name in [
        "none",
        "tuple",
        "decimal",
        "bytes",
        "date",
        "nan",
        "raise",
        "raise_own",
        "raise_chained",
        "raise_empty",
        "print",
        "log",
    ] {
        events.push(json!({"do": name}));
    }
    events.push(json!({"do": "absent"}));
    for count in [1_000, 1_000_000, 6_000_000] {
        events.push(json!({"do": "text_of", "letter": "x", "count": count}));
    }
    events.push(json!({"do": "text_of", "letter": "ü", "count": 1_000_000}));
    events
}

/// Without what differs from call to call.
fn masked(body: &str) -> String {
    let Ok(mut document) = serde_json::from_str::<Value>(body) else {
        return body.to_owned();
    };
    if let Some(request) = document.get_mut("requestId") {
        *request = "REQUEST".into();
        return document.to_string();
    }
    body.to_owned()
}

#[test]
fn same_answers() {
    for python in ["3.9", "3.12"] {
        let built = Built::on_host(python);
        let root = Root::copy(&built.name());
        let mut emulator = root.start();
        let served = built.serve(&["--concurrency", "1", "--timeout", "30s", "--memory", "1024"]);
        for event in events() {
            let genuine = emulator.answer(&event.to_string());
            let ours = served.post(&[], &event);
            assert_eq!(ours.status, 200, "{python} {event}: {}", ours.text());
            let (genuine, text) = (masked(&genuine), masked(&ours.text()));
            assert!(
                genuine == text,
                "{python} {event}:\n{}\n{}",
                shown(&genuine),
                shown(&text)
            );
            // Only ours says that it is an error.
            let is_error = text.contains("\"errorType\"");
            let wanted = if is_error { "Unhandled" } else { "" };
            assert_eq!(
                ours.header("x-amz-function-error"),
                wanted,
                "{python} {event}"
            );
            assert_eq!(ours.header("x-amz-executed-version"), "$LATEST");
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(500).collect()
}

#[test]
fn the_same_bases_answers() {
    let built = Built::on_aws("3.12");
    let root = Root::copy(&built.name());
    let mut emulator = root.start();
    let served = built.serve(&["--concurrency", "1"]);
    for event in [
        json!({"do": "value", "value": "ü"}),
        json!({"do": "raise_own"}),
        json!({"do": "where"}),
    ] {
        let (genuine, ours) = (
            emulator.answer(&event.to_string()),
            served.post(&[], &event),
        );
        let is_unlike =
            |field: &str| event["do"] == "where" && !crate::support::is_root() && field == "uid";
        if !is_unlike("uid") && event["do"] != "where" {
            assert_eq!(masked(&genuine), masked(&ours.text()), "{event}");
        } else {
            let [genuine, ours] = [genuine, ours.text()]
                .map(|text| serde_json::from_str::<Value>(&text).expect("JSON"));
            for field in ["python", "cwd", "path", "written", "handler", "own"] {
                assert_eq!(genuine[field], ours[field], "{field}");
            }
        }
    }
}

#[test]
fn what_the_emulator_cannot() {
    let built = Built::on_host("3.12");
    let served = built.serve(&["--concurrency", "2", "--timeout", "5s"]);
    // Two at once, each in an environment of its own: the second begins before the first ends.
    let answers: Vec<Value> = thread::scope(|scope| {
        let calls = [1, 2].map(|number| {
            let event = json!({"do": "echo_slowly", "number": number, "seconds": 3});
            let served = &served;
            scope.spawn(move || {
                serde_json::from_str(&served.post(&[], &event).text()).expect("JSON")
            })
        });
        calls
            .map(|call| call.join().expect("it answers"))
            .into_iter()
            .collect()
    });
    assert_eq!(
        (&answers[0]["number"], &answers[1]["number"]),
        (&json!(1), &json!(2))
    );
    let log = served.log();
    let lines = log.lines().filter_map(|line| {
        let (what, _) = line.split_once(" RequestId: ")?;
        ["START", "END"].contains(&what).then_some(what)
    });
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines, ["START", "START", "END", "END"], "{log}");

    // An error is one by its header, a time-out too, and the next call is answered again.
    let late = served.post(&[], &json!({"do": "sleep", "seconds": 60}));
    let document: Value = serde_json::from_str(&late.text()).expect("JSON");
    assert_eq!(
        (late.status, late.header("x-amz-function-error")),
        (200, "Unhandled")
    );
    assert_eq!(document["errorType"], "Sandbox.Timedout");
    let message = document["errorMessage"].as_str().expect("text");
    assert!(
        message.ends_with("Error: Task timed out after 5.00 seconds"),
        "{message}"
    );
    assert_eq!(
        served.post(&[], &json!({"do": "value", "value": 1})).text(),
        "1"
    );

    // X-Ray's header reaches the function.
    let trace = "Root=1-6968bf6e-0123456789abcdef01234567;Parent=0123456789abcdef;Sampled=1";
    let event = json!({"do": "env", "names": ["_X_AMZN_TRACE_ID"]});
    let answer = served.post(&[("X-Amzn-Trace-Id", trace)], &event);
    let said: Value = serde_json::from_str(&answer.text()).expect("JSON");
    let said = said["_X_AMZN_TRACE_ID"].as_str().expect("text").to_owned();
    assert!(
        said.starts_with("Root=1-6968bf6e-0123456789abcdef01234567"),
        "{said}"
    );

    // What comes too large is refused with an error of the function's.
    let large = served.post(
        &[],
        &json!({"do": "text_of", "letter": "x", "count": 6_400_000}),
    );
    let document: Value = serde_json::from_str(&large.text()).expect("JSON");
    assert_eq!(
        document["errorType"], "Function.ResponseSizeTooLarge",
        "{document}"
    );
    assert_eq!(large.header("x-amz-function-error"), "Unhandled");
}

#[test]
fn runtimes_that_end() {
    let built = Built::on_host("3.12");
    let flags = ["--timeout", "10s"];
    for (event, message) in [
        (
            json!({"do": "exit", "code": 1}),
            "Error: Runtime exited with error: exit status 1",
        ),
        (
            json!({"do": "exit", "code": 0}),
            "Error: Runtime exited without providing a reason",
        ),
        (
            json!({"do": "kill"}),
            "Error: Runtime exited with error: signal: killed",
        ),
        (
            json!({"do": "crash"}),
            "Error: Runtime exited with error: signal: segmentation fault",
        ),
    ] {
        let called = built.invoke(&flags, std::slice::from_ref(&event));
        let error = called.error();
        assert_eq!(error["errorType"], "Runtime.ExitError", "{event}: {error}");
        let said = error["errorMessage"].as_str().expect("text");
        assert!(
            said.starts_with("RequestId: ") && said.contains(message),
            "{event}: {said}"
        );
    }
}

#[test]
fn initialisations_that_fail() {
    let built = Built::on_host("3.12");
    let called = built.invoke(&["--env", "INIT=raise"], &[json!({"do": "count"})]);
    let error = called.error();
    assert_eq!(
        (&error["errorType"], &error["errorMessage"]),
        (&json!("RuntimeError"), &json!("no start")),
        "{error}"
    );
    let error = built
        .invoke(&["--env", "INIT=exit"], &[json!({"do": "count"})])
        .error();
    assert_eq!(error["errorType"], "Runtime.ExitError", "{error}");
    // A second time is inside the first call.
    let called = built.invoke(&["--env", "INIT=raise once"], &[json!({"do": "count"})]);
    assert_eq!(called.answer(), 1);
}

#[test]
fn an_init_that_takes_too_long_is_ended_and_tried_again_by_the_first_call() {
    // It would take 12 s, and then has the function's own time.
    let built = Built::on_host("3.12");
    let called = built.invoke(&["--env", "INIT=sleep once"], &[json!({"do": "count"})]);
    assert_eq!(called.answer(), 1);
    let told = called.logged("INIT_REPORT Init Duration: ");
    let took = told[0].split_once(" ms\tPhase: init\tStatus: timeout");
    let (took, _) = took.unwrap_or_else(|| panic!("{}", called.log()));
    let took: f64 = took.parse().expect("a number");
    assert!((10_000.0..12_000.0).contains(&took), "{told:?}");
    let report = called.logged("REPORT RequestId: ");
    assert!(!report[0].contains("Init Duration"), "{report:?}");
}

#[test]
fn a_working_directory_that_is_missing_is_told() {
    let built = Built::on_host("3.12").in_working_dir("/not/there");
    let error = built.invoke(&[], &[json!({"do": "count"})]).error();
    assert_eq!(error["errorType"], "Runtime.InvalidWorkingDir", "{error}");
    let message = error["errorMessage"].as_str().expect("text");
    assert!(
        message.ends_with("Error: chdir /not/there: no such file or directory"),
        "{message}"
    );
}

#[test]
fn an_answer_to_an_attempt_that_is_over_is_refused() {
    let event = json!({"do": "stale", "attempt": "8d7bd5a2-0000-4000-8000-000000000000"});
    let called = Built::on_host("3.12").invoke(&[], &[event]);
    let refusal = json!([410, {"errorMessage": "Invoke timeout", "errorType": "InvokeTimeout"}]);
    assert_eq!(called.answer(), refusal);
}

#[test]
fn an_environment_is_made_anew_after_a_crash_and_keeps_its_tmp() {
    let events = [
        json!({"do": "remember", "word": "one"}),
        json!({"do": "exit", "code": 3}),
        json!({"do": "remember", "word": "two"}),
        json!({"do": "count"}),
    ];
    let called = Built::on_host("3.12").invoke(&["--timeout", "10s"], &events);
    assert_eq!(
        called.outcome.code,
        Some(1),
        "{}",
        called.outcome.rendering()
    );
    let lines = called.lines();
    assert_eq!(lines[0], json!(["one"]));
    assert_eq!(lines[1]["errorType"], "Runtime.ExitError");
    assert_eq!((&lines[2], &lines[3]), (&json!(["one", "two"]), &json!(2)));
}
