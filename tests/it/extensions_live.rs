//! Extensions that run: what an external one sees and in which order, what telemetry brings, ones inside the runtime,
//! and how all end.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::archive::Tree;
use crate::support::functions::Built;
use crate::support::functions::Called;

/// The events that the observer tells of.
fn events(called: &Called) -> Vec<Value> {
    let told = called.logged("observer: event ");
    told.iter()
        .map(|text| serde_json::from_str(text).expect("it tells JSON"))
        .collect()
}

#[test]
fn an_external_extension_sees_its_events_in_order() {
    let built = Built::on_host("3.12").with_observer();
    let called = built.invoke(
        &["--name", "judged"],
        &[json!({"do": "count"}), json!({"do": "count"})],
    );
    assert_eq!(called.answers(), [1, 2]);
    let registered = called.logged("observer: registered ");
    let registered: Value = serde_json::from_str(&registered[0]).expect("it tells JSON");
    assert_eq!(
        (
            &registered["functionName"],
            &registered["functionVersion"],
            &registered["handler"]
        ),
        (&json!("judged"), &json!("$LATEST"), &json!("app.handler"))
    );
    let events = events(&called);
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event["eventType"].as_str().expect("text"))
        .collect();
    assert_eq!(kinds, ["INVOKE", "INVOKE", "SHUTDOWN"], "{}", called.log());
    let started: Vec<_> = called.logged("START RequestId: ");
    for (event, start) in events.iter().zip(&started) {
        assert!(
            start.starts_with(event["requestId"].as_str().expect("text")),
            "{event} {start}"
        );
        assert!(
            event["invokedFunctionArn"]
                .as_str()
                .expect("text")
                .ends_with(":function:judged"),
            "{event}"
        );
        assert!(event["deadlineMs"].is_u64(), "{event}");
    }
    assert_eq!(events[2]["shutdownReason"], "spindown");
    assert!(events[2]["deadlineMs"].is_u64());
}

#[test]
fn why_an_environment_ends_is_told() {
    let built = Built::on_host("3.12").with_observer();
    for (event, reason) in [
        (json!({"do": "sleep", "seconds": 60}), "timeout"),
        (json!({"do": "exit", "code": 1}), "failure"),
    ] {
        let called = built.invoke(&["--timeout", "5s"], &[event, json!({"do": "count"})]);
        assert_eq!(called.lines()[1], 1, "{}", called.outcome.rendering());
        let kinds: Vec<_> = events(&called)
            .iter()
            .map(|event| {
                format!(
                    "{} {}",
                    event["eventType"].as_str().expect("text"),
                    event["shutdownReason"].as_str().unwrap_or("-")
                )
            })
            .collect();
        let wanted = [
            "INVOKE -".to_owned(),
            format!("SHUTDOWN {reason}"),
            "INVOKE -".to_owned(),
            "SHUTDOWN spindown".to_owned(),
        ];
        assert_eq!(kinds, wanted, "{}", called.log());
    }
}

#[test]
fn telemetry_of_platform_function_and_extension() {
    let built = Built::on_host("3.12").with_observer();
    let events = [
        json!({"do": "print"}),
        json!({"do": "echo_slowly", "number": 1, "seconds": 0.3}),
        json!({"do": "read", "path": "/tmp/telemetry"}),
    ];
    let called = built.invoke(&["--env", "TELEMETRY=1", "--timeout", "9s"], &events);
    let answers = called.answers();
    assert_eq!(
        called.logged("observer: subscribed "),
        ["200 \"OK\""],
        "{}",
        called.log()
    );
    let lines = answers[2].as_str().expect("text").lines();
    let records: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("it keeps JSON"))
        .collect();
    let kinds: Vec<_> = records
        .iter()
        .map(|record| record["type"].as_str().expect("text"))
        .collect();
    for kind in [
        "platform.initStart",
        "platform.initRuntimeDone",
        "platform.initReport",
        "platform.extension",
        "platform.telemetrySubscription",
        "platform.start",
        "platform.runtimeDone",
        "platform.report",
        "function",
        "extension",
    ] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    for record in &records {
        assert!(
            record["time"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z')),
            "{record}"
        );
        assert!(!record["record"].is_null(), "{record}");
    }
    let of_kind = |kind: &str| {
        records
            .iter()
            .find(|record| record["type"] == kind)
            .map(|record| &record["record"])
            .expect("it is there")
    };
    assert!(
        records.iter().any(|record| record["type"] == "function"
            && record["record"]
                .as_str()
                .is_some_and(|text| text.contains("to stdout: ü"))),
        "{records:?}"
    );
    assert_eq!(
        of_kind("platform.initStart")["initializationType"],
        "on-demand"
    );
    assert_eq!(of_kind("platform.runtimeDone")["status"], "success");
    assert!(of_kind("platform.report")["metrics"]["durationMs"].is_number());
    assert!(of_kind("platform.report")["metrics"]["memorySizeMB"] == 128);
    let place = |kind: &str| kinds.iter().position(|other| *other == kind);
    assert!(
        place("platform.start") < place("platform.runtimeDone"),
        "{kinds:?}"
    );
    assert!(
        place("platform.runtimeDone") < place("platform.report"),
        "{kinds:?}"
    );
}

#[test]
fn extensions_inside_the_runtime_and_how_many() {
    let built = Built::on_host("3.12");
    let called = built.invoke(
        &[
            "--env",
            "INTERNAL_EXTENSIONS=1",
            "--env",
            "INTERNAL_SHUTDOWN=1",
        ],
        &[json!({"do": "internal"})],
    );
    let answer = called.answer();
    assert_eq!(
        answer["seen"],
        json!([["internal-0", "INVOKE", answer["request"]]])
    );
    let refused = &answer["refused"][0];
    assert_eq!((&refused[0], &refused[1]), (&json!("late"), &json!(403)));
    assert_eq!(
        refused[2]["errorType"], "Extension.InvalidEventType",
        "{refused}"
    );
    let message = refused[2]["errorMessage"].as_str().expect("text");
    assert!(
        message.contains("ShutdownEventNotSupportedForInternalExtension"),
        "{message}"
    );

    let called = built.with_observer().invoke(
        &["--env", "INTERNAL_EXTENSIONS=10"],
        &[json!({"do": "internal"})],
    );
    let answer = called.answer();
    let seen = answer["seen"].as_array().expect("a list");
    assert!(!seen.is_empty() && seen.len() <= 9, "{seen:?}");
    let refused = answer["refused"].as_array().expect("a list");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(
        (&refused[0][0], &refused[0][1]),
        (&json!("internal-9"), &json!(403))
    );
    assert_eq!(
        refused[0][2]["errorType"], "Extension.TooManyExtensions",
        "{refused:?}"
    );
}

#[test]
fn an_extension_that_fails() {
    let built = Built::on_host("3.12");
    let mut files = Tree::default();
    files.file("opt/extensions/broken", "#!/bin/sh\nexit 3\n", 0o755);
    let called = built
        .with("broken", &files)
        .invoke(&[], &[json!({"do": "count"})]);
    let error = called.error();
    assert_eq!(
        error["errorType"],
        "Extension.Crash",
        "{}",
        called.outcome.rendering()
    );

    let mut files = Tree::default();
    files.file("opt/extensions/unready", "no program", 0o644);
    let called = built
        .with("unready", &files)
        .invoke(&[], &[json!({"do": "count"})]);
    let error = called.error();
    assert_eq!(
        error["errorType"],
        "Extension.LaunchError",
        "{}",
        called.outcome.rendering()
    );
}

#[test]
fn more_extensions_than_lambda_has() {
    let mut files = Tree::default();
    for number in 0..11 {
        let path = format!("opt/extensions/number{number}");
        files.file(&path, "#!/bin/sh\nexec sleep 600\n", 0o755);
    }
    let built = Built::on_host("3.12").with("eleven", &files);
    let error = built.invoke(&[], &[json!({"do": "count"})]).error();
    assert_eq!(error["errorType"], "Extension.TooManyExtensions", "{error}");
}

#[test]
fn one_inside_the_runtime_gives_it_time_to_end() {
    let built = Built::on_host("3.12");
    let flags = ["--env", "ON_SIGTERM=tell", "--env", "INTERNAL_EXTENSIONS=1"];
    let called = built.invoke(&flags, &[json!({"do": "count"})]);
    called.answer();
    assert!(
        called.log().contains("runtime: SIGTERM was seen"),
        "{}",
        called.log()
    );
}

#[test]
fn the_runtime_ends_gracefully_where_an_extension_is_registered() {
    let told = "runtime: SIGTERM was seen";
    for python in ["3.12", "3.13"] {
        let built = Built::on_host(python);
        let flags = ["--env", "ON_SIGTERM=tell"];
        let called = built
            .with_observer()
            .invoke(&flags, &[json!({"do": "count"})]);
        called.answer();
        assert!(called.log().contains(told), "{python}: {}", called.log());
        // The runtime first, then the extension.
        let place = |what: &str| called.log().find(what);
        assert!(
            place(told) < place("\"SHUTDOWN\""),
            "{python}: {}",
            called.log()
        );
        // Without one there is no time for it.
        let called = built.invoke(&flags, &[json!({"do": "count"})]);
        called.answer();
        assert!(!called.log().contains(told), "{python}: {}", called.log());
    }
}

#[test]
fn who_ignores_the_end_is_ended() {
    let built = Built::on_host("3.12").with_observer();
    let called = built.invoke(
        &["--env", "ON_SIGTERM=ignore", "--env", "STAY=1"],
        &[json!({"do": "count"})],
    );
    assert_eq!(called.answer(), 1);
    // The shutdown phase has 2 s for both; the extension would stay for minutes, the runtime for ever.
    let took = called.took;
    assert!(took > Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_mins(1), "{took:?}");
}
