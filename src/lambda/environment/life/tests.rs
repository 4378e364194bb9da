//! Whole lives: programs that are tasks, the real HTTP between them, and what caller and log are told.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::lambda::environment::testing;
use crate::lambda::environment::testing::Inside;
use crate::lambda::environment::testing::RUNTIME;
use crate::lambda::environment::testing::Stage;
use crate::lambda::environment::testing::echo;
use crate::lambda::sandbox::Exit;

struct Lived {
    environment: Environment,
    stage: Arc<Stage>,
    text: Arc<Mutex<Vec<u8>>>,
}

async fn start(stage: Stage) -> Lived {
    start_with(stage, Duration::from_secs(20)).await
}

async fn start_with(stage: Stage, timeout: Duration) -> Lived {
    let function = Function {
        timeout,
        ..testing::function()
    };
    start_function(stage, function).await
}

async fn start_function(stage: Stage, function: Function) -> Lived {
    let stage = Arc::new(stage);
    let (log, text) = testing::log();
    let place = Arc::clone(&stage);
    let environment = Environment::start(Arc::new(function), place, log, testing::clock).await;
    Lived {
        environment: environment.unwrap(),
        stage,
        text,
    }
}

impl Lived {
    async fn invoke(&mut self, event: &str) -> Outcome {
        let call = Invocation {
            event: Bytes::from(event.to_owned()),
            ..Invocation::default()
        };
        self.environment.invoke(call).await.unwrap()
    }

    /// The log, with numbers and identifiers that differ from run to run taken out.
    fn log(&self) -> String {
        let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
        let mut lines = Vec::new();
        for line in text.lines() {
            let words = line.split([' ', '\t']).map(|word| {
                if Uuid::try_parse(word).is_ok() {
                    "ID"
                } else if word.parse::<f64>().is_ok() {
                    "N"
                } else {
                    word
                }
            });
            lines.push(words.collect::<Vec<_>>().join(" "));
        }
        lines.join("\n")
    }
}

fn stage() -> Stage {
    Stage::default().with(RUNTIME, echo)
}

#[tokio::test]
async fn calls_are_answered_one_after_the_other() {
    let mut lived = start(stage()).await;
    let cold = lived.invoke("\"one\"").await;
    assert_eq!(
        (cold.payload.as_ref(), cold.is_error),
        (&b"\"one\""[..], false)
    );
    assert!(cold.report.init.is_some());
    assert_eq!(cold.report.memory, 31 << 20);
    let warm = lived.invoke("print").await;
    assert_eq!(warm.report.init, None);
    assert_ne!(warm.request_id, cold.request_id);
    let tail = String::from_utf8(warm.log_tail.to_vec()).unwrap();
    assert!(tail.contains("\na line\nand half of one\nEND"), "{tail}");
    insta::assert_snapshot!(lived.log());
    lived.environment.shutdown().await;
    assert!(!lived.stage.is_running());
}

#[tokio::test]
async fn a_place_that_fails_is_no_failing_init() {
    let stage = Arc::new(stage());
    stage.exhausted.store(true, Ordering::Relaxed);
    let (log, text) = testing::log();
    let function = Arc::new(testing::function());
    let started = Environment::start(function, stage, log, testing::clock).await;
    assert!(matches!(started, Err(Error::Refused { .. })));
    assert_eq!(*text.lock().unwrap(), b"");
}

#[tokio::test]
async fn no_more_memory_is_told_than_there_is() {
    let function = Function {
        memory: 30,
        ..testing::function()
    };
    let mut lived = start_function(stage(), function).await;
    let outcome = lived.invoke("1").await;
    assert_eq!(outcome.report.memory, 30 << 20);
    let text = String::from_utf8(lived.text.lock().unwrap().clone()).unwrap();
    assert!(text.contains("Max Memory Used: 30 MB"), "{text}");
}

#[tokio::test]
async fn a_runtime_that_exits_is_started_again_by_the_next_call() {
    let mut lived = start(stage()).await;
    let failed = lived.invoke("exit").await;
    assert!(failed.is_error);
    let expected = format!(
        r#"{{"errorType":"Runtime.ExitError","errorMessage":"RequestId: {} Error: Runtime exited with error: exit status 1"}}"#,
        failed.request_id
    );
    assert_eq!(failed.payload, expected);
    assert_eq!(
        failed.report.error_type.as_deref(),
        Some("Runtime.ExitError")
    );
    let next = lived.invoke("2").await;
    assert_eq!((next.payload.as_ref(), next.is_error), (&b"2"[..], false));
    assert_eq!(next.report.init, None, "its INIT was in its own time");
    insta::assert_snapshot!(lived.log());
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended() {
    let mut lived = start_with(stage(), Duration::from_millis(500)).await;
    let failed = lived.invoke("sleep").await;
    let expected = format!(
        r#"{{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: {} Error: Task timed out after 0.50 seconds"}}"#,
        failed.request_id
    );
    assert_eq!(failed.payload, expected);
    assert_eq!(failed.report.duration, Duration::from_millis(500));
    assert!(lived.stage.is_running(), "its caller did not wait for that");
    lived.environment.reset().await;
    assert!(!lived.stage.is_running());
    insta::assert_snapshot!(lived.log());
}

#[tokio::test]
async fn want_of_memory_is_told_as_such() {
    let mut lived = start(stage()).await;
    lived.stage.kills.fetch_add(1, Ordering::Relaxed);
    // The call counts from its own beginning.
    let failed = lived.invoke("exit").await;
    assert_eq!(
        failed.report.error_type.as_deref(),
        Some("Runtime.ExitError")
    );
    let stage = Arc::clone(&lived.stage);
    lived.invoke("1").await;
    let (failed, ()) = tokio::join!(lived.invoke("sleep"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage.kills.fetch_add(1, Ordering::Relaxed);
        stage.kill_all().await.unwrap();
    });
    assert_eq!(
        failed.report.error_type.as_deref(),
        Some("Runtime.OutOfMemory")
    );
    let text = String::from_utf8(failed.payload.to_vec()).unwrap();
    assert!(text.contains("Runtime exited with error: signal: killed"));
}

#[tokio::test]
async fn an_entry_point_that_is_missing_is_told() {
    let mut lived = start(Stage::default()).await;
    let failed = lived.invoke("1").await;
    let expected = format!(
        r#"{{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: {} Error: fork/exec /entry: no such file or directory"}}"#,
        failed.request_id
    );
    assert_eq!(failed.payload, expected);
}

#[tokio::test]
async fn an_init_that_fails_is_tried_again_and_told_in_the_runtimes_words() {
    let document = r#"{"errorType":"Runtime.ImportModuleError","errorMessage":"no app"}"#;
    let stage = Stage::default().with(RUNTIME, move |mut inside| async move {
        inside.print("cannot start\n").await;
        let path = "2018-06-01/runtime/init/error";
        let headers = [(
            "lambda-runtime-function-error-type",
            "Runtime.ImportModuleError",
        )];
        inside.client.send("POST", path, &headers, document).await;
        Exit::Code(1)
    });
    let mut lived = start(stage).await;
    let failed = lived.invoke("1").await;
    assert_eq!(
        (failed.payload.as_ref(), failed.is_error),
        (document.as_bytes(), true)
    );
    insta::assert_snapshot!(lived.log());
}

/// An external extension that writes down what it is told.
fn with_extension(stage: Stage, told: &Arc<Mutex<Vec<String>>>, ends: bool) -> Stage {
    let told = Arc::clone(told);
    stage.with("/opt/extensions/watch", move |inside| {
        let told = Arc::clone(&told);
        async move {
            let both = r#"["INVOKE","SHUTDOWN"]"#;
            let registered = inside.client.register("watch", both).await;
            let identifier = registered.identifier();
            loop {
                let event = inside.client.event(&identifier).await.json();
                let kind = event["eventType"].as_str().unwrap();
                let reason = event["shutdownReason"].as_str().unwrap_or_default();
                told.lock().unwrap().push(format!("{kind} {reason}"));
                if kind == "SHUTDOWN" && ends {
                    return Exit::Code(0);
                }
            }
        }
    })
}

#[tokio::test]
async fn an_extension_is_told_of_calls_and_of_the_end() {
    let told = Arc::default();
    let graceful = Arc::new(Mutex::new(false));
    let saw_term = Arc::clone(&graceful);
    let stage = Stage::default().with(RUNTIME, move |inside| {
        let saw_term = Arc::clone(&saw_term);
        async move {
            let mut terminated = inside.terminated.clone();
            tokio::select! {
                exit = echo(Inside { terminated: inside.terminated.clone(), ..inside }) => exit,
                _ = terminated.wait_for(|is| *is) => {
                    *saw_term.lock().unwrap() = true;
                    Exit::Code(0)
                }
            }
        }
    });
    let mut lived = start(with_extension(stage, &told, true)).await;
    for event in ["1", "2"] {
        assert_eq!(lived.invoke(event).await.payload, event);
    }
    let spawned = lived.stage.spawned.lock().unwrap().clone();
    assert_eq!(spawned[0].command, ["/opt/extensions/watch"]);
    assert_eq!(spawned[1].command, [RUNTIME, "app.handler"]);
    let log = lived.log();
    assert!(
        log.contains("EXTENSION Name: watch State: Ready Events: [INVOKE, SHUTDOWN]"),
        "{log}"
    );
    let began = Instant::now();
    lived.environment.shutdown().await;
    assert!(began.elapsed() < WITH_EXTERNAL, "all ended by themselves");
    assert!(*graceful.lock().unwrap());
    assert_eq!(
        *told.lock().unwrap(),
        ["INVOKE ", "INVOKE ", "SHUTDOWN spindown"]
    );
}

#[tokio::test]
async fn who_ignores_the_end_is_ended_in_time() {
    let told = Arc::default();
    let mut lived = start(with_extension(stage(), &told, false)).await;
    lived.invoke("1").await;
    let began = Instant::now();
    lived.environment.shutdown().await;
    let took = began.elapsed();
    assert!(
        took >= WITH_EXTERNAL && took < WITH_EXTERNAL * 2,
        "{took:?}"
    );
    assert!(!lived.stage.is_running());
    assert_eq!(told.lock().unwrap().last().unwrap(), "SHUTDOWN spindown");
}

#[tokio::test]
async fn who_ignores_the_end_is_waited_for_by_no_caller() {
    let told = Arc::default();
    let stage = with_extension(stage(), &told, false);
    let mut lived = start_with(stage, Duration::from_secs(1)).await;
    let failed = lived.invoke("sleep").await;
    assert!(failed.is_error);
    assert_eq!(*told.lock().unwrap(), ["INVOKE "]);
    lived.environment.reset().await;
    assert!(!lived.stage.is_running());
    // The next call has all of its own time.
    assert_eq!(lived.invoke("2").await.payload, "2");
    let expected = ["INVOKE ", "SHUTDOWN timeout", "INVOKE "];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[tokio::test]
async fn an_extension_is_told_why_its_environment_is_reset() {
    let told = Arc::default();
    let stage = with_extension(stage(), &told, true);
    let mut lived = start_with(stage, Duration::from_secs(1)).await;
    lived.invoke("exit").await;
    lived.invoke("sleep").await;
    assert_eq!(lived.invoke("3").await.payload, "3");
    assert_eq!(
        *told.lock().unwrap(),
        [
            "INVOKE ",
            "SHUTDOWN failure",
            "INVOKE ",
            "SHUTDOWN timeout",
            "INVOKE "
        ]
    );
}

#[tokio::test]
async fn an_extension_that_crashes_fails_init() {
    let crashed = stage().with("/opt/extensions/bad", |_| async { Exit::Code(2) });
    let mut lived = start(crashed).await;
    let failed = lived.invoke("1").await;
    let text = String::from_utf8(failed.payload.to_vec()).unwrap();
    assert!(text.contains("Extension.Crash"), "{text}");
    assert!(text.contains("exit status 2"), "{text}");
}

/// An external extension that hears of calls, and is through with none: it sleeps, or crashes a moment later.
fn with_failing(stage: Stage, crashes: bool) -> Stage {
    stage.with("/opt/extensions/watch", move |inside| async move {
        let registered = inside.client.register("watch", r#"["INVOKE"]"#).await;
        inside.client.event(&registered.identifier()).await;
        if !crashes {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        Exit::Code(2)
    })
}

#[tokio::test]
async fn an_extension_that_fails_after_the_answer_takes_nothing_from_it() {
    let failing = [
        (true, " Status: error Error Type: Extension.Crash"),
        (false, " Status: timeout"),
    ];
    for (crashes, told) in failing {
        let stage = with_failing(stage(), crashes);
        let mut lived = start_with(stage, Duration::from_secs(1)).await;
        // The environment is made anew for each.
        for event in ["1", "2"] {
            let outcome = lived.invoke(event).await;
            assert_eq!(
                (outcome.payload.as_ref(), outcome.is_error),
                (event.as_bytes(), false)
            );
        }
        lived.environment.reset().await;
        let log = lived.log();
        assert_eq!(log.matches(told).count(), 2, "{log}");
    }
}

/// An external extension that is through with a call only after this long.
fn with_slow(stage: Stage, pause: Duration) -> Stage {
    stage.with("/opt/extensions/watch", move |inside| async move {
        let registered = inside.client.register("watch", r#"["INVOKE"]"#).await;
        loop {
            inside.client.event(&registered.identifier()).await;
            tokio::time::sleep(pause).await;
        }
    })
}

#[tokio::test]
async fn no_caller_waits_for_an_extension() {
    let mut lived = start(with_slow(stage(), Duration::from_millis(500))).await;
    let outcome = lived.invoke("1").await;
    assert_eq!(outcome.payload, "1");
    assert!(outcome.report.duration < Duration::from_millis(400));
    assert!(!lived.log().contains("REPORT"), "it is not over");
    // The next call has its own time, and the log tells them one after the other.
    let outcome = lived.invoke("2").await;
    assert_eq!(outcome.payload, "2");
    assert!(outcome.report.duration < Duration::from_millis(400));
    assert_eq!(lived.log().matches("REPORT").count(), 1);
    lived.environment.finish().await;
    let log = lived.log();
    assert_eq!(log.matches("REPORT").count(), 2, "{log}");
}

#[tokio::test]
async fn an_extension_without_an_end_holds_up_no_shutdown() {
    let lived = start_with(with_slow(stage(), Duration::MAX), Duration::from_mins(15));
    let mut lived = lived.await;
    lived.invoke("1").await;
    let text = Arc::clone(&lived.text);
    let began = Instant::now();
    lived.environment.shutdown().await;
    assert!(began.elapsed() < WITH_EXTERNAL * 3, "{:?}", began.elapsed());
    let log = String::from_utf8(text.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("REPORT").count(), 1, "{log}");
}

#[tokio::test]
async fn where_all_extensions_are_internal_the_runtime_has_half_a_second() {
    for ends in [false, true] {
        let stage = Stage::default().with(RUNTIME, move |inside| async move {
            let registered = inside.client.register("inside", r#"["INVOKE"]"#).await;
            let (client, identifier) = (inside.client.clone(), registered.identifier());
            let follow = async {
                loop {
                    client.event(&identifier).await;
                }
            };
            let mut terminated = inside.terminated.clone();
            let told = async { terminated.wait_for(|is| *is && ends).await.map(|_| ()).ok() };
            tokio::select! {
                exit = echo(inside) => exit,
                () = follow => Exit::Code(1),
                Some(()) = told => Exit::Code(0),
            }
        });
        let mut lived = start(stage).await;
        assert_eq!(lived.invoke("1").await.payload, "1");
        let began = Instant::now();
        lived.environment.shutdown().await;
        let took = began.elapsed();
        assert_eq!(took < WITH_INTERNAL, ends, "{took:?}");
        assert!(took < WITH_EXTERNAL, "{took:?}");
        assert!(!lived.stage.is_running());
    }
}

#[tokio::test]
async fn more_extensions_than_there_may_be_fail_init() {
    let mut stage = stage();
    for number in 0..=MAX_EXTENSIONS {
        let path = format!("/opt/extensions/number{number}");
        stage = stage.with(&path, |_| async { Exit::Code(0) });
    }
    let mut lived = start(stage).await;
    let failed = lived.invoke("1").await;
    assert_eq!(
        failed.report.error_type.as_deref(),
        Some("Extension.TooManyExtensions")
    );
    assert!(lived.stage.spawned.lock().unwrap().is_empty());
}

#[tokio::test]
async fn extensions_can_be_disabled() {
    let disabled = stage()
        .with("/opt/extensions/bad", |_| async { Exit::Code(2) })
        .with(DISABLE_EXTENSIONS, |_| async { Exit::Code(2) });
    let mut lived = start(disabled).await;
    assert!(!lived.invoke("1").await.is_error);
}

/// Takes one delivery after the other, and gives all bodies.
async fn collect(listener: TcpListener, bodies: Arc<Mutex<String>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            request.extend_from_slice(&buffer[..read]);
            if request.ends_with(b"]") || read == 0 {
                break;
            }
        }
        bodies
            .lock()
            .unwrap()
            .push_str(&String::from_utf8(request).unwrap());
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn telemetry_is_delivered() {
    let bodies = Arc::<Mutex<String>>::default();
    let delivered = Arc::clone(&bodies);
    let subscribed = stage().with("/opt/extensions/watch", move |inside| {
        let bodies = Arc::clone(&delivered);
        async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let collecting = tokio::spawn(collect(listener, bodies));
            let registered = inside.client.register("watch", r#"["SHUTDOWN"]"#).await;
            let identifier = registered.identifier();
            let body = serde_json::json!({
                "schemaVersion": "2022-12-13",
                "types": ["platform", "function"],
                "destination": {
                    "protocol": "HTTP",
                    "URI": format!("http://sandbox.localdomain:{port}/"),
                },
            });
            let headers = [("lambda-extension-identifier", identifier.as_str())];
            inside
                .client
                .send("PUT", "2022-07-01/telemetry", &headers, body.to_string())
                .await;
            inside.client.event(&identifier).await;
            collecting.abort();
            Exit::Code(0)
        }
    });
    let mut lived = start(subscribed).await;
    lived.invoke("print").await;
    lived.environment.shutdown().await;
    let bodies = bodies.lock().unwrap();
    let mut place = 0;
    for kind in [
        "platform.telemetrySubscription",
        "platform.initRuntimeDone",
        "platform.extension",
        "platform.initReport",
        "platform.start",
        "a line",
        "platform.runtimeDone",
        "platform.report",
    ] {
        let found = bodies.find(kind);
        let found = found.unwrap_or_else(|| panic!("{kind} is missing in {bodies}"));
        assert!(
            kind == "a line" || found >= place,
            "{kind} is too early in {bodies}"
        );
        place = place.max(found);
    }
}
