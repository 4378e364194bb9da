//! What AWS's pages on Python functions promise to a function, each promise by a function that is called: what it
//! answers and logs, what its context says, where its handler may be.

use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::archive::Tree;
use crate::support::functions::Built;
use crate::support::python_directories;

/// Every Python that this machine has.
fn pythons() -> Vec<&'static str> {
    python_directories().keys().map(String::as_str).collect()
}

fn minor(python: &str) -> u64 {
    let (_, minor) = python.split_once('.').expect("a version has a dot");
    minor.parse().expect("a minor version is a number")
}

#[test]
fn unicode_is_plain_from_3_12_on() {
    for python in pythons() {
        let called =
            Built::on_host(python).invoke(&[], &[json!({"do": "value", "value": "Grüße ☃ 𝄞"})]);
        assert_eq!(called.answer(), "Grüße ☃ 𝄞", "{python}");
        let escaped = r#""Gr\u00fc\u00dfe \u2603 \ud834\udd1e""#;
        let wanted = if minor(python) >= 12 {
            "\"Grüße ☃ 𝄞\""
        } else {
            escaped
        };
        assert_eq!(called.outcome.stdout.trim_end(), wanted, "{python}");
    }
}

#[test]
fn surroundings_of_the_runtime() {
    for python in pythons() {
        let called = Built::on_host(python).invoke(&[], &[json!({"do": "where"})]);
        assert_eq!(
            called.answer(),
            json!({
                "python": [3, minor(python)],
                "uid": 993,
                "gid": 990,
                "cwd": "/var/task",
                "path": "/var/task",
                "written": "Read-only file system",
                "handler": "app.handler",
                "shm": false,
                "own": "task",
            })
        );
    }
}

/// Calls the kernel's calls for keys, whatever they are called with, and prints what came of them.
fn keys(arguments: &str) -> String {
    let script = format!(
        "import ctypes, platform
call = ctypes.CDLL(None).syscall
add_key, keyctl = {{'x86_64': (248, 250), 'aarch64': (217, 219)}}[platform.machine()]
print({arguments})"
    );
    let called = Command::new("python3").args(["-c", &script]).output();
    let called = String::from_utf8(called.expect("a python").stdout).expect("text");
    called.trim().to_owned()
}

#[test]
fn keys_and_namespaces_of_the_machine_are_out_of_reach() {
    // The user's keyring, and a key in it.
    let ring = keys("call(keyctl, 0, -4, 1)");
    let key = keys("call(add_key, b'user', b'lambimg-test', b'secret', 6, -4)");
    let number = |serial: &str| serial.parse::<i32>().expect("a number");
    let event = json!({"do": "keyring", "ring": number(&ring), "key": number(&key)});
    assert!(number(&ring) > 0 && number(&key) > 0, "{ring} {key}");
    let called = Built::on_host("3.12").invoke(&[], &[event]);
    keys(&format!("call(keyctl, 9, {key}, -4)"));
    assert_eq!(
        called.answer(),
        json!({
            "session": "Operation not permitted",
            "link": "Operation not permitted",
            "read": "Operation not permitted",
            "add": "Operation not permitted",
            "request": "Operation not permitted",
            "namespaces": 0,
        })
    );
}

#[test]
fn handlers_in_packages_and_folders() {
    let built = Built::on_host("3.12");
    for (handler, event, wanted) in [
        (
            "pkg.app.handler",
            json!({"do": "value", "value": 1}),
            json!(1),
        ),
        (
            "pkg/app.handler",
            json!({"do": "value", "value": 2}),
            json!(2),
        ),
        ("pkg/sub/deep.handler", json!({}), json!("pkg.sub.deep")),
        ("pkg.sub.deep.handler", json!({}), json!("pkg.sub.deep")),
    ] {
        assert_eq!(
            built.invoke(&[handler], &[event]).answer(),
            wanted,
            "{handler}"
        );
    }
}

#[test]
fn handlers_that_are_not_there() {
    let built = Built::on_host("3.12");
    let error = |handler: &str| {
        let error = built.invoke(&[handler], &[json!({})]).error();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        (text("errorType"), text("errorMessage"))
    };
    assert_eq!(
        error("app.absent"),
        (
            "Runtime.HandlerNotFound".to_owned(),
            "Handler 'absent' missing on module 'app'".to_owned()
        )
    );
    assert_eq!(
        error("absent.handler"),
        (
            "Runtime.ImportModuleError".to_owned(),
            "Unable to import module 'absent': No module named 'absent'".to_owned()
        )
    );
}

#[test]
fn the_context_has_every_property_and_method() {
    let client = json!({
        "client": {"installation_id": "i", "app_title": "t", "app_version_name": "v", "app_version_code": "c", "app_package_name": "p"},
        "custom": {"a": 1},
        "env": {"locale": "de_DE"},
    });
    let flags = [
        "--name",
        "judged",
        "--memory",
        "256",
        "--timeout",
        "9s",
        "--client-context",
        &client.to_string(),
    ];
    let called =
        Built::on_host("3.12").invoke(&flags, &[json!({"do": "context"}), json!({"do": "left"})]);
    let answers = called.answers();
    let said = &answers[0];
    let request = said["aws_request_id"]
        .as_str()
        .expect("the identifier is text");
    assert_eq!(request.len(), 36);
    assert_eq!(
        called.logged("START RequestId: ")[0],
        format!("{request} Version: $LATEST")
    );
    assert_eq!(said["function_name"], "judged");
    assert_eq!(said["function_version"], "$LATEST");
    let arn = said["invoked_function_arn"]
        .as_str()
        .expect("the ARN is text");
    assert_eq!(
        arn.split(':').collect::<Vec<_>>()[..3],
        ["arn", "aws", "lambda"]
    );
    assert!(arn.ends_with(":123456789012:function:judged"), "{arn}");
    assert_eq!(said["log_group_name"], "/aws/lambda/judged");
    let stream = said["log_stream_name"]
        .as_str()
        .expect("the stream is text");
    assert!(stream.contains("/[$LATEST]"), "{stream}");
    // What the runtime client gives is what the variable says.
    assert_eq!(said["memory_limit_in_mb"], "256");
    assert_eq!(said["identity"], json!([null, null]));
    assert_eq!(said["client_context"]["custom"], client["custom"]);
    assert_eq!(said["client_context"]["env"], client["env"]);
    assert_eq!(said["client_context"]["client"], client["client"]);
    assert_eq!(said["left_is"], "int");
    let left = said["left"].as_i64().expect("a number");
    assert!((7000..=9000).contains(&left), "{left}");
    assert!(called.log().contains("by the context"), "{}", called.log());
    // Time goes by, and each call has its own.
    let times = [&answers[1][0], &answers[1][1]].map(|time| time.as_i64().expect("a number"));
    assert!((8000..=9000).contains(&times[0]), "{times:?}");
    assert!((190..1500).contains(&(times[0] - times[1])), "{times:?}");
}

#[test]
fn variables_of_the_platform_and_of_the_user() {
    let names = [
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_EXECUTION_ENV",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
        "TZ",
        "_HANDLER",
        "AWS_ACCESS_KEY_ID",
        "OWN",
        "EQUALS",
        "HOME_OF_USER",
    ];
    let flags = [
        "--name",
        "judged",
        "--env",
        "OWN=value",
        "--env",
        "EQUALS=a=b",
    ];
    let called = Built::on_host("3.12").invoke(&flags, &[json!({"do": "env", "names": names})]);
    assert_eq!(
        called.answer(),
        json!({
            "AWS_LAMBDA_FUNCTION_NAME": "judged",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
            "LAMBDA_TASK_ROOT": "/var/task",
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "TZ": ":UTC",
            "_HANDLER": "app.handler",
            "AWS_ACCESS_KEY_ID": null,
            "OWN": "value",
            "EQUALS": "a=b",
            "HOME_OF_USER": null,
        })
    );
}

#[test]
fn logs_as_text() {
    let events = [
        json!({"do": "print"}),
        json!({"do": "log"}),
        json!({"do": "log", "level": "DEBUG"}),
    ];
    let called = Built::on_host("3.12").invoke(&[], &events);
    called.answers();
    let requests = called.logged("START RequestId: ");
    assert_eq!(requests.len(), 3, "{}", called.log());
    let lines: Vec<_> = called.log().lines().collect();
    for line in ["to stdout: ü", "to stderr", "two", "lines"] {
        assert!(lines.contains(&line), "{line}: {}", called.log());
    }
    // The level, the date, the call and the message, with tabs between.
    for (level, times) in [
        ("ERROR", 4),
        ("CRITICAL", 2),
        ("WARNING", 4),
        ("INFO", 1),
        ("DEBUG", 1),
    ] {
        let start = format!("[{level}]\t");
        let found: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with(&start))
            .collect();
        assert_eq!(found.len(), times, "{level}: {}", called.log());
        let fields: Vec<_> = found[0].split('\t').collect();
        assert_eq!(fields.len(), 4, "{found:?}");
        assert!(
            requests
                .iter()
                .any(|request| request.starts_with(fields[2])),
            "{found:?}"
        );
    }
    assert!(
        called.log().contains("ZeroDivisionError: division by zero"),
        "{}",
        called.log()
    );
}

#[test]
fn logs_as_json() {
    let flags = ["--log-format", "json", "--env", "AWS_LAMBDA_LOG_LEVEL=WARN"];
    let called =
        Built::on_host("3.12").invoke(&flags, &[json!({"do": "log"}), json!({"do": "print"})]);
    called.answers();
    let documents: Vec<Value> = called
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let of_level = |level: &str| {
        documents
            .iter()
            .filter(|document| document["level"] == level)
            .collect::<Vec<_>>()
    };
    assert_eq!(of_level("INFO").len(), 0, "{}", called.log());
    assert_eq!(
        of_level("WARNING").len() + of_level("WARN").len(),
        2,
        "{}",
        called.log()
    );
    assert_eq!(of_level("CRITICAL").len(), 1, "{}", called.log());
    let more = documents
        .iter()
        .find(|document| document["message"] == "with more");
    assert_eq!(
        more.map(|document| &document["order"]),
        Some(&json!(17)),
        "{}",
        called.log()
    );
    let divided = documents
        .iter()
        .find(|document| document["message"] == "divided")
        .expect("it is logged");
    assert_eq!(divided["errorType"], "ZeroDivisionError");
    assert_eq!(divided["logger"], "orders");
    assert!(
        divided["requestId"].is_string() && divided["timestamp"].is_string(),
        "{divided}"
    );
    // The platform's own lines are documents too.
    let platform: Vec<_> = documents
        .iter()
        .filter_map(|document| document["type"].as_str())
        .collect();
    for kind in ["platform.start", "platform.report"] {
        assert!(platform.contains(&kind), "{kind}: {}", called.log());
    }
}

#[test]
fn reports_in_the_log() {
    let called = Built::on_host("3.12").invoke(
        &["--memory", "256"],
        &[json!({"do": "count"}), json!({"do": "count"})],
    );
    assert_eq!(called.answers(), [1, 2]);
    let reports = called.logged("REPORT RequestId: ");
    assert_eq!(reports.len(), 2, "{}", called.log());
    for (report, is_first) in [(&reports[0], true), (&reports[1], false)] {
        for field in [
            "\tDuration: ",
            "\tBilled Duration: ",
            "\tMemory Size: 256 MB",
            "\tMax Memory Used: ",
        ] {
            assert!(report.contains(field), "{field}: {report}");
        }
        assert_eq!(report.contains("\tInit Duration: "), is_first, "{report}");
        let (_, used) = report.split_once("Max Memory Used: ").expect("it is there");
        let used: u64 = used
            .split(' ')
            .next()
            .expect("a number")
            .parse()
            .expect("a number");
        assert!((5..=256).contains(&used), "{report}");
    }
    assert_eq!(called.logged("END RequestId: ").len(), 2);
}

#[test]
fn the_boto3_that_the_base_brings() {
    // The base's own, as it would be in Lambda's.
    let mut files = Tree::default();
    files.file(
        "var/runtime/boto3/__init__.py",
        "__version__ = '1.2.3+base'\n",
        0o644,
    );
    let base = Built::on_aws("3.12").with("boto3", &files);
    assert_eq!(
        base.invoke(&[], &[json!({"do": "boto3"})]).answer(),
        "1.2.3+base"
    );
    // One that the function brings is before it.
    files.file(
        "var/task/boto3/__init__.py",
        "__version__ = '4.5.6+own'\n",
        0o644,
    );
    let own = Built::on_aws("3.12").with("boto3-own", &files);
    assert_eq!(
        own.invoke(&[], &[json!({"do": "boto3"})]).answer(),
        "4.5.6+own"
    );
}

#[test]
fn bases_in_lambdas_shape() {
    for python in ["3.9", "3.12"] {
        let called = Built::on_aws(python).invoke(
            &[],
            &[
                json!({"do": "where"}),
                json!({"do": "env", "names": ["AWS_EXECUTION_ENV"]}),
            ],
        );
        let answers = called.answers();
        assert_eq!(answers[0]["python"], json!([3, minor(python)]));
        assert_eq!(
            (&answers[0]["uid"], &answers[0]["handler"]),
            (&json!(993), &json!("app.handler"))
        );
        assert_eq!(
            answers[1]["AWS_EXECUTION_ENV"],
            format!("AWS_Lambda_python{python}")
        );
    }
}

#[test]
fn tmp_is_kept_between_calls_and_is_as_large_as_said() {
    let events = [
        json!({"do": "remember", "word": "one"}),
        json!({"do": "remember", "word": "two"}),
        json!({"do": "fill_tmp", "megabytes": 600}),
    ];
    let called = Built::on_host("3.12").invoke(&["--timeout", "30s", "--memory", "1024"], &events);
    assert_eq!(
        called.answers(),
        [
            json!(["one"]),
            json!(["one", "two"]),
            json!("No space left on device")
        ]
    );
}

#[test]
fn answers_in_parts() {
    let built = Built::with_own_runtime();
    let called = built.invoke(&[], &[json!({"parts": ["{\"a\":", " [1,", "2]}"]})]);
    assert_eq!(called.answer(), json!({"a": [1, 2]}));
    // What goes wrong on the way is told in the trailers.
    let wrong = json!({"errorType": "Function.Broken", "errorMessage": "in the middle"});
    let called = built.invoke(&[], &[json!({"parts": ["half"], "error": wrong})]);
    assert_eq!(called.error(), wrong);
}

#[test]
fn what_a_runtime_is_refused() {
    let called = Built::with_own_runtime().invoke(&[], &[json!({})]);
    let said = called.answer();
    let refusal = |name: &str| (said[name][0].clone(), said[name][1]["errorType"].clone());
    assert_eq!(refusal("another"), (json!(400), json!("InvalidRequestID")));
    assert_eq!(
        refusal("mode"),
        (json!(400), json!("InvalidFunctionResponseMode"))
    );
    assert_eq!(
        refusal("late"),
        (json!(403), json!("InvalidStateTransition"))
    );
    let headers = said["headers"].as_array().expect("a list");
    for name in [
        "aws-request-id",
        "deadline-ms",
        "invoked-function-arn",
        "trace-id",
    ] {
        let name = format!("lambda-runtime-{name}");
        assert!(
            headers.iter().any(|header| *header == name),
            "{name}: {headers:?}"
        );
    }
}
