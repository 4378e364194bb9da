//! `invoke` and `serve`: the real binary runs a real image, and is called as users and AWS's SDKs call.

use std::fs;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::support::architecture;
use crate::support::forge::Forge;
use crate::support::functions::Built;
use crate::support::http::Answer;
use crate::support::http::send;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Running;
use crate::support::python;
use crate::support::tool;

const FUNCTION_FAILED: i32 = 1;
const USAGE: i32 = 2;
const PATIENCE: Duration = Duration::from_mins(1);

const APP: &str = r#"
import os, time, uuid

ENVIRONMENT = str(uuid.uuid4())
calls = 0

def echo(event, context):
    return event

def count(event, context):
    global calls
    calls += 1
    print(f"call {calls}")
    time.sleep(event.get("sleep", 0))
    return {"calls": calls, "environment": ENVIRONMENT, "event": event}

def fail(event, context):
    raise ValueError("no such order")

def variables(event, context):
    return {name: os.environ.get(name) for name in event}

def client(event, context):
    return context.client_context.custom

def identity(event, context):
    return {"id": context.aws_request_id, "name": context.function_name, "arn": context.invoked_function_arn,
            "memory": context.memory_limit_in_mb}
"#;

/// A project whose image, of this machine's Python, is in its store as `orders`.
fn orders() -> &'static Project {
    static PROJECT: OnceLock<Project> = OnceLock::new();
    PROJECT.get_or_init(|| {
        let project = Project::with_handler();
        project.file("app.py", APP);
        let build = [
            "build",
            "--base",
            "host",
            "--handler",
            "app.echo",
            "-t",
            "orders",
        ];
        project.lambimg(build).succeed();
        project
    })
}

fn invoke<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
    orders()
        .lambimg(["invoke", "orders"].into_iter().chain(arguments))
        .run()
}

/// The responses of a run that succeeded.
fn responses<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let outcome = invoke(arguments);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let lines = outcome.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_smallest_function_answers_with_its_log_on_stderr() {
    let project = Project::of_example("hello");
    let run = project
        .lambimg(["invoke", ".", "--base", "host", "-e", "event.json"])
        .run();
    assert_eq!(run.code, Some(0), "{}", run.rendering());
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(answer["greeting"], "Grüße, Zoë!");
    for line in [
        "START RequestId: ",
        "END RequestId: ",
        "REPORT RequestId: ",
        "Init Duration: ",
    ] {
        assert!(run.stderr.contains(line), "{line}: {}", run.stderr);
    }
}

#[test]
fn events_come_in_turn_from_flags_files_and_stdin() {
    let project = orders();
    let file = project.beside("events.json");
    fs::write(&file, "{\"from\": \"file\"}\n[1,\n 2]\n").unwrap();
    let file = file.to_str().unwrap();
    let echoed = responses(["-d", "\"first\"", "-e", file, "--data=-1"]);
    assert_eq!(
        echoed,
        [
            json!("first"),
            json!({"from": "file"}),
            json!([1, 2]),
            json!(-1)
        ]
    );

    let mut piped = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_lambimg");
    piped.args([
        "-c",
        &format!("echo '\"a\" \"b\"' | {binary} -q invoke orders"),
    ]);
    let piped = project.run_by(piped).run();
    assert_eq!((&*piped.stdout, &*piped.stderr), ("\"a\"\n\"b\"\n", ""));
    // Nothing at all is what the service takes for an empty object.
    assert_eq!(responses([]), [json!({})]);
}

#[test]
fn calls_in_turn_are_warm_and_calls_at_once_have_environments_of_their_own() {
    let call = [
        "-d",
        "{\"n\": 1, \"sleep\": 0.5}",
        "-d",
        "{\"n\": 2, \"sleep\": 0.1}",
    ];
    let of = |concurrency| {
        let arguments = ["app.count", "--concurrency", concurrency];
        responses(arguments.into_iter().chain(call))
    };
    let [first, second] = &of("1")[..] else {
        panic!("two calls")
    };
    assert_eq!((&first["calls"], &second["calls"]), (&json!(1), &json!(2)));
    assert_eq!(first["environment"], second["environment"]);
    let [first, second] = &of("2")[..] else {
        panic!("two calls")
    };
    assert_eq!((&first["calls"], &second["calls"]), (&json!(1), &json!(1)));
    assert_ne!(first["environment"], second["environment"]);
    // The second ended first; they are printed as they were given.
    assert_eq!(
        (&first["event"]["n"], &second["event"]["n"]),
        (&json!(1), &json!(2))
    );
}

#[test]
fn a_function_that_fails_is_exit_code_one_and_its_error_the_response() {
    let run = invoke(["app.fail", "-d", "1", "-d", "2"]);
    assert_eq!(run.code, Some(FUNCTION_FAILED), "{}", run.rendering());
    assert_eq!(run.stdout.lines().count(), 2);
    let error: Value = serde_json::from_str(run.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(error["errorType"], "ValueError");
    assert_eq!(error["errorMessage"], "no such order");
}

#[test]
fn variables_are_those_that_are_given_and_no_others() {
    let project = orders();
    let file = project.beside("variables");
    fs::write(
        &file,
        "# docker's format\nOF_BOTH=file\nOF_FILE=file\n\nSECRET\n",
    )
    .unwrap();
    let asked = "[\"OF_BOTH\", \"OF_FILE\", \"SECRET\", \"AWS_SECRET_ACCESS_KEY\", \"AWS_ACCESS_KEY_ID\", \"LANG\"]";
    let run = project
        .lambimg(
            [
                "invoke",
                "orders",
                "app.variables",
                "-d",
                asked,
                "--env",
                "OF_BOTH=flag=1",
            ]
            .into_iter()
            .chain([
                "--env",
                "AWS_ACCESS_KEY_ID",
                "--env-file",
                file.to_str().unwrap(),
            ]),
        )
        .env("SECRET", "mine")
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "never");
    let answer: Value = serde_json::from_str(&run.succeed()).unwrap();
    assert_eq!(answer["OF_BOTH"], "flag=1");
    assert_eq!(answer["OF_FILE"], "file");
    assert_eq!(answer["SECRET"], "mine");
    assert_eq!(answer["AWS_ACCESS_KEY_ID"], "AKIAEXAMPLE");
    assert_eq!(answer["AWS_SECRET_ACCESS_KEY"], Value::Null);
}

#[test]
fn the_function_has_its_context() {
    let [context] = &responses([
        "app.client",
        "--client-context",
        "{\"custom\": {\"k\": \"ü\"}}",
    ])[..] else {
        panic!("one call")
    };
    assert_eq!(context, &json!({"k": "ü"}));
    let [identity] = &responses(["app.identity", "--memory", "256", "--name", "billing"])[..]
    else {
        panic!("one call")
    };
    assert_eq!(identity["name"], "billing");
    assert_eq!(identity["memory"], "256");
    assert_eq!(
        identity["arn"],
        "arn:aws:lambda:us-east-1:123456789012:function:billing"
    );
    // A region and a time zone can be given, and are what the function sees.
    let given = ["--env", "AWS_REGION=eu-west-1", "--env", "TZ=Asia/Tokyo"];
    let of_call =
        |handler, event| responses([handler].into_iter().chain(given).chain(["-d", event]));
    let [identity] = &of_call("app.identity", "{}")[..] else {
        panic!("one call")
    };
    assert_eq!(
        identity["arn"],
        "arn:aws:lambda:eu-west-1:123456789012:function:orders"
    );
    let [variables] = &of_call("app.variables", "[\"AWS_REGION\", \"TZ\"]")[..] else {
        panic!("one call")
    };
    assert_eq!(
        variables,
        &json!({"AWS_REGION": "eu-west-1", "TZ": "Asia/Tokyo"})
    );
}

#[test]
fn a_call_that_takes_too_long_is_ended() {
    let run = invoke(["app.count", "--timeout", "1", "-d", "{\"sleep\": 60}"]);
    assert_eq!(run.code, Some(FUNCTION_FAILED), "{}", run.rendering());
    assert!(
        run.stdout.contains("Task timed out after 1.00 seconds"),
        "{}",
        run.stdout
    );
}

#[test]
fn ctrl_c_ends_a_call_and_leaves_nothing_behind() {
    let arguments = [
        "invoke",
        "orders",
        "app.count",
        "--timeout",
        "5m",
        "-d",
        "{\"sleep\": 120}",
    ];
    let mut running = orders().lambimg(arguments).spawn();
    until_said(&running, "START RequestId: ");
    running.signal("INT");
    let ended = running.outcome(PATIENCE);
    assert_eq!(ended.code, Some(130), "{}", ended.rendering());
    let said = "error: interrupted: not every call was answered\n";
    assert!(ended.stderr.ends_with(said), "{}", ended.rendering());
}

#[test]
fn a_terminal_that_is_closed_ends_all_in_order_unless_nobody_minds() {
    let image = Built::on_host("3.12").with_observer();
    let served = image.serve(&[]);
    assert_eq!(served.post(&[], &json!({"do": "count"})).status, 200);
    let ended = served.end_by("HUP", PATIENCE);
    assert_eq!(ended.code, Some(0), "{}", ended.rendering());
    assert!(
        ended.stderr.contains("\"SHUTDOWN\""),
        "{}",
        ended.rendering()
    );

    let mut ignoring = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_lambimg");
    let served = format!("trap '' HUP; exec {binary} serve orders --port 0");
    ignoring.args(["-c", &served]);
    let mut served = Served::of(orders().run_by(ignoring).spawn());
    served.running.signal("HUP");
    assert_eq!(served.call("orders", &[], "1").text(), "1");
    assert!(!served.running.has_ended());
    served.end();
}

/// Waits until this stands on stderr.
fn until_said(running: &Running, text: &str) {
    let start = Instant::now();
    while !running.so_far().1.contains(text) {
        let said = running.so_far().1;
        assert!(start.elapsed() < PATIENCE, "`{text}` is not in: {said}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A function that is served.
struct Served {
    running: Running,
    url: String,
}

impl Served {
    fn start<'a>(project: &Project, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let serve = ["serve", "--port", "0"].into_iter().chain(arguments);
        Self::of(project.lambimg(serve).spawn())
    }

    /// Waits until calls are answered.
    fn of(mut running: Running) -> Self {
        let start = Instant::now();
        let url = loop {
            let said = running.stdout();
            if let Some(url) = said.strip_suffix('\n') {
                break url.to_owned();
            }
            assert!(
                !running.has_ended() && start.elapsed() < PATIENCE,
                "nothing is served"
            );
            thread::sleep(Duration::from_millis(10));
        };
        Self { running, url }
    }

    fn call(&self, name: &str, headers: &[(&str, &str)], event: &str) -> Answer {
        let url = format!("{}/2015-03-31/functions/{name}/invocations", self.url);
        send("POST", &url, headers, event.as_bytes().to_vec()).unwrap()
    }

    /// Calls until this is the answer.
    fn until(&self, answer: &str) {
        let start = Instant::now();
        while self.call("function", &[], "{}").text() != format!("\"{answer}\"") {
            let said = self.running.so_far().1;
            assert!(start.elapsed() < PATIENCE, "{answer} is not served: {said}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn end(mut self) -> Outcome {
        self.running.signal("TERM");
        let ended = self.running.outcome(PATIENCE);
        assert_eq!(ended.code, Some(0), "{}", ended.rendering());
        ended
    }
}

#[test]
fn the_invoke_api_is_that_of_the_service() {
    let served = Served::start(orders(), ["orders", "app.count"]);
    let answer = served.call("orders", &[("X-Amz-Log-Type", "Tail")], "{\"n\": 7}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["event"], json!({"n": 7}));
    assert_eq!(answer.header("x-amz-executed-version"), "$LATEST");
    assert_eq!(answer.header("x-amz-function-error"), "");
    let log = answer.header("x-amz-log-result");
    let log = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, log).unwrap();
    let log = String::from_utf8(log).unwrap();
    assert!(
        log.contains("call 1") && log.contains(answer.header("x-amzn-requestid")),
        "{log}"
    );

    let dry = served.call("orders", &[("X-Amz-Invocation-Type", "DryRun")], "{}");
    assert_eq!((dry.status, dry.body.len()), (204, 0));
    let later = served.call(
        "orders",
        &[("X-Amz-Invocation-Type", "Event")],
        "{\"sleep\": 0.1}",
    );
    assert_eq!((later.status, later.body.len()), (202, 0));
    assert_ne!(later.header("x-amzn-requestid"), "");

    let unknown = served.call("other", &[], "{}");
    assert_eq!(
        (unknown.status, unknown.header("x-amzn-errortype")),
        (404, "ResourceNotFoundException")
    );
    let broken = served.call("orders", &[], "{'a': 1}");
    assert_eq!(
        (broken.status, broken.header("x-amzn-errortype")),
        (400, "InvalidRequestContentException")
    );
    let large = served.call("orders", &[], &format!("\"{}\"", "x".repeat(7 << 20)));
    assert_eq!(
        (large.status, large.header("x-amzn-errortype")),
        (413, "RequestTooLargeException")
    );
    let ended = served.end();
    // The call that nobody waited for was made.
    assert!(
        ended.stderr.contains(later.header("x-amzn-requestid")),
        "{}",
        ended.rendering()
    );
}

#[test]
fn a_function_error_is_told_in_a_header() {
    let served = Served::start(orders(), ["orders", "app.fail"]);
    let answer = served.call("function", &[], "{}");
    assert_eq!(
        (answer.status, answer.header("x-amz-function-error")),
        (200, "Unhandled")
    );
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(error["errorType"], "ValueError");
    served.end();
}

/// What AWS's own client makes of it: every kind of call, and many at once, each with its own answer.
const BOTO3: &str = r#"
import base64, boto3, json, sys
from botocore.config import Config
from concurrent.futures import ThreadPoolExecutor

client = boto3.client("lambda", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="any",
                      aws_secret_access_key="any", config=Config(retries={"total_max_attempts": 1}, max_pool_connections=16))
call = lambda event, **how: client.invoke(FunctionName="orders", Payload=json.dumps(event), **how)
read = lambda answer: json.loads(answer["Payload"].read())

answer = call({"n": 1}, LogType="Tail")
assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST"), answer
assert "FunctionError" not in answer and read(answer) == {"n": 1}
assert b"REPORT RequestId: " in base64.b64decode(answer["LogResult"])
assert call({}, InvocationType="Event")["StatusCode"] == 202
assert call({}, InvocationType="DryRun")["StatusCode"] == 204
assert read(client.invoke(FunctionName="arn:aws:lambda:us-east-1:123456789012:function:orders:$LATEST")) == {}
try:
    client.invoke(FunctionName="other")
    raise SystemExit("another function answered")
except client.exceptions.ResourceNotFoundException as error:
    assert "function:other" in str(error), error
try:
    client.invoke(FunctionName="orders", Payload=b"{")
    raise SystemExit("no JSON was taken")
except client.exceptions.InvalidRequestContentException:
    pass
try:
    call("x" * (7 << 20))
    raise SystemExit("too much was taken")
except client.exceptions.RequestTooLargeException:
    pass
with ThreadPoolExecutor(16) as pool:
    answers = list(pool.map(lambda n: read(call({"n": n})), range(300)))
assert answers == [{"n": n} for n in range(300)], answers
print("good")
"#;

#[test]
fn boto3_takes_it_for_lambda() {
    let served = Served::start(orders(), ["orders"]);
    let mut boto3 = Command::new(python("3.12"));
    boto3
        .args(["-c", BOTO3, &served.url])
        .env("PYTHONPATH", tool("moto"));
    let output = boto3.env("NO_PROXY", "*").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good\n", "{said}");
    served.end();
}

#[test]
fn a_change_is_served_at_once() {
    let project = Project::with_handler();
    let app = |answer: &str| format!("def handler(event, context):\n    return '{answer}'\n");
    project.file("app.py", app("old"));
    let served = Served::start(
        &project,
        [".", "--base", "host", "--watch", "--name", "orders"],
    );
    assert_eq!(served.call("orders", &[], "{}").text(), "\"old\"");
    project.file("app.py", app("newer"));
    served.until("newer");
    // What cannot be built is told, and changes nothing.
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    project.file("pyproject.toml", "[tool.lambimg]\nnonsense = true\n");
    until_said(
        &served.running,
        "the function is as it was until that is mended",
    );
    assert_eq!(served.call("orders", &[], "{}").text(), "\"newer\"");
    project.file("app.py", app("newest of all"));
    project.file("pyproject.toml", settings);
    served.until("newest of all");
    let ended = served.end();
    assert!(
        ended.stderr.contains("unknown key `nonsense`"),
        "{}",
        ended.rendering()
    );
}

#[test]
fn a_change_is_served_although_another_file_never_rests() {
    let project = Project::with_handler();
    let app = |answer: &str| format!("def handler(event, context):\n    return '{answer}'\n");
    project.file("app.py", app("old"));
    // The image has nothing of it, so that it may change while it is built.
    project.file(".lambimgignore", "");
    let served = Served::start(&project, [".", "--base", "host", "--watch"]);
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let restless = project.path().join(".lambimgignore");
            let mut restless = OpenOptions::new().append(true).open(restless).unwrap();
            while !is_over.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                restless.write_all(b"#\n").unwrap();
                thread::sleep(Duration::from_millis(50));
            }
        });
        project.file("app.py", app("newer"));
        served.until("newer");
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(start.elapsed() < PATIENCE, "it waited for the file to rest");
    served.end();
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let project = Project::with_handler();
    let app =
        "def handler(event, context):\n    print(('a' * 1000 + '\\n') * 1000)\n    return 'done'\n";
    project.file("app.py", app);
    let mut shell = Command::new("sh");
    // Both ends of the pipe are open, and nobody reads.
    let unread =
        "mkfifo ../log && exec 3<>../log && exec \"$0\" serve . --base host --port 0 2>../log";
    shell.args(["-c", unread, env!("CARGO_BIN_EXE_lambimg")]);
    let mut served = Served::of(project.run_by(shell).spawn());
    for _ in 0..4 {
        assert_eq!(served.call("function", &[], "{}").text(), "\"done\"");
    }
    served.running.signal("TERM");
    let ended = served.running.outcome(PATIENCE);
    assert_eq!(ended.code, Some(0), "{}", ended.rendering());
}

#[test]
fn a_change_while_the_first_environment_starts_is_served() {
    let project = Project::with_handler();
    let app = |answer: &str| {
        format!(
            "import time\nprint('started as {answer}', flush=True)\ntime.sleep(1)\n\
             def handler(event, context):\n    return '{answer}'\n"
        )
    };
    project.file("app.py", app("old"));
    let arguments = ["serve", "--port", "0", ".", "--base", "host", "--watch"];
    let running = project.lambimg(arguments).spawn();
    until_said(&running, "started as old");
    project.file("app.py", app("newer"));
    let served = Served::of(running);
    served.until("newer");
    served.end();
}

#[test]
fn an_image_for_other_machines_is_refused_with_the_remedy() {
    let project = Project::new();
    let mut forge = Forge::sound();
    forge.architecture = if architecture() == "amd64" {
        "arm64"
    } else {
        "amd64"
    };
    forge.write(&project.path().join("image"));
    let run = project.lambimg(["invoke", "oci:image"]).run();
    assert_eq!(run.code, Some(USAGE), "{}", run.rendering());
    let other = if architecture() == "amd64" {
        "arm64"
    } else {
        "x86_64"
    };
    let asked = Project::with_handler();
    let asked = asked.lambimg(["invoke", ".", "--arch", other]).run();
    assert_eq!(asked.code, Some(USAGE), "{}", asked.rendering());
    let own = if other == "arm64" { "x86_64" } else { "arm64" };
    for (run, what) in [
        (&run, "the image is for linux/"),
        (&asked, "the function is to be for "),
    ] {
        let said = &run.stderr;
        assert!(
            said.contains(what) && said.contains(&format!("this machine is {own}")),
            "{said}"
        );
        assert!(said.contains(&format!("`--arch {own}`")), "{said}");
    }
}

#[test]
fn what_is_asked_wrongly_is_told_before_anything_is_done() {
    let project = Project::with_handler();
    let large = project.beside("large");
    fs::write(&large, format!("LARGE={}", "x".repeat(4096))).unwrap();
    let refused = |arguments: &[&str]| {
        let run = project.lambimg(arguments).run();
        assert_eq!(run.code, Some(USAGE), "{}", run.rendering());
        run.stderr
    };
    let said = [
        refused(&["invoke", ".", "-e", "absent.json"]),
        refused(&["invoke", ".", "-d", "{'a': 1}"]),
        refused(&["invoke", ".", "--env", "NOT_SET"]),
        refused(&["invoke", ".", "--env", "A B=secret"]),
        refused(&["invoke", ".", "--env", "1A=secret"]),
        refused(&["invoke", ".", "--env-file", "absent"]),
        refused(&["invoke", ".", "--env", "AWS_LAMBDA_RUNTIME_API=here"]),
        refused(&["serve", ".", "--env-file", large.to_str().unwrap()]),
        refused(&["invoke", ".", "--client-context", "{"]),
        refused(&["serve", "oci:image", "--watch"]),
        refused(&["invoke", "oci:image", "--python", "3.12"]),
        refused(&["invoke", "absent"]),
        refused(&["invoke", ".", "--timeout", "16m"]),
        refused(&["invoke", ".", "--memory", "64"]),
        refused(&["serve", ".", "--name", "a b"]),
    ];
    insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("wrong_calls", said.join("\n"));
    });
}

#[test]
fn a_current_directory_that_was_removed_is_told() {
    let project = Project::new();
    for verb in [
        "invoke oci:/image",
        "check oci:/image",
        "build",
        "build app",
    ] {
        let mut nowhere = Command::new("sh");
        let binary = env!("CARGO_BIN_EXE_lambimg");
        let script = format!("mkdir gone && cd gone && rmdir ../gone && exec {binary} {verb}");
        nowhere.args(["-c", &script]);
        let run = project.run_by(nowhere).run();
        assert_eq!(run.code, Some(USAGE), "{}", run.rendering());
        let said = "error: the current directory has been removed\n\nhint: go to one that is there, by `cd`\n";
        assert_eq!(run.stderr, said, "{verb}");
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = orders().lambimg(["serve", "orders", "--port", &port]).run();
    assert_eq!(run.code, Some(USAGE), "{}", run.rendering());
    assert!(
        run.stderr
            .contains(&format!("cannot listen on port {port}")),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("`--port`"), "{}", run.stderr);
}
