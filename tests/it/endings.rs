//! What a function leaves behind: nothing, whatever it does and however lambimg ends; and that no root is needed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::functions::Built;
use crate::support::functions::run_alone;
use crate::support::image::files_of;
use crate::support::is_root;
use crate::support::project::Project;
use crate::support::project::copy_directory;

/// Calls the function in namespaces of its own, and has nothing be left in them, nor in any directory but the store.
fn alone(script: &str, flags: &[&str], events: &[Value]) -> String {
    let built = Built::on_host("3.12");
    let project = Project::new();
    let temporary = project.beside("temporary");
    fs::create_dir(&temporary).expect("a directory can be made");
    let mut arguments = vec![env!("CARGO_BIN_EXE_lambimg").to_owned()];
    arguments.extend(built.arguments(flags, events));
    let environment = [
        ("HOME", project.home()),
        ("TMPDIR", temporary.clone()),
        ("LAMBIMG_CACHE_DIR", built.store().to_owned()),
    ];
    let environment: Vec<(&str, &Path)> = environment
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .collect();
    let said = run_alone(script, &arguments, &environment);
    assert!(!said.contains("left: "), "{said}");
    assert_eq!(
        files_of(&temporary),
        Vec::<std::path::PathBuf>::new(),
        "{said}"
    );
    assert_eq!(
        files_of(&project.home()),
        Vec::<std::path::PathBuf>::new(),
        "{said}"
    );
    said
}

const CALL: &str = "\"$@\"\necho \"code: $?\"\n";

#[test]
fn what_is_left_is_seen() {
    let said = run_alone(
        "sleep 600 &\nuntil grep -q sleep /proc/$!/comm; do :; done\nmount -t tmpfs tmpfs /mnt\n",
        &[],
        &[],
    );
    assert!(
        said.contains("left: process") && said.contains("(sleep)"),
        "{said}"
    );
    assert!(said.contains("left: mounts"), "{said}");
    assert!(!run_alone("sleep 0\n", &[], &[]).contains("left: "));
}

#[test]
fn a_family_that_stays() {
    let said = alone(
        CALL,
        &["--timeout", "10s"],
        &[json!({"do": "fork"}), json!({"do": "count"})],
    );
    assert!(
        said.contains("\"forked\"\n2\n") && said.contains("code: 0"),
        "{said}"
    );
}

#[test]
fn a_family_that_sleeps_past_the_time_out() {
    let said = alone(
        CALL,
        &["--timeout", "5s"],
        &[json!({"do": "fork", "seconds": 60}), json!({"do": "count"})],
    );
    assert!(
        said.contains("Task timed out after 5.00 seconds")
            && said.contains("\n1\n")
            && said.contains("code: 1"),
        "{said}"
    );
}

#[test]
fn memory_without_end() {
    for what in ["eat", "eat_in_child"] {
        let said = alone(
            CALL,
            &["--timeout", "20s", "--memory", "128"],
            &[
                json!({"do": what}),
                json!({"do": "value", "value": "after"}),
            ],
        );
        assert!(said.contains("\"after\""), "{what}: {said}");
        if what == "eat" {
            assert!(said.contains("code: 1"), "{said}");
            assert!(
                said.contains("\"errorType\":\"Runtime.OutOfMemory\"")
                    || said.contains("Runtime exited with error: signal: killed"),
                "{said}"
            );
        }
    }
    // What is within is left alone.
    let said = alone(
        CALL,
        &["--timeout", "20s", "--memory", "512"],
        &[json!({"do": "hold", "megabytes": 300})],
    );
    assert!(
        said.contains("314572800\n") && said.contains("code: 0"),
        "{said}"
    );
}

#[test]
fn lambimg_is_ended_during_a_call() {
    for (signal, code) in [
        ("INT", "130"),
        ("TERM", "143"),
        ("HUP", "129"),
        ("KILL", "137"),
    ] {
        // Whoever runs the tests may ignore SIGHUP. At the end only this shell is left.
        let script = format!(
            "log=$(mktemp)\nenv --default-signal=HUP \"$@\" 2> \"$log\" &\npid=$!\n\
             for i in $(seq 1200); do grep -q 'going to sleep' \"$log\" && break; sleep 0.05; done\n\
             grep -q 'going to sleep' \"$log\" || {{ echo 'it never slept'; cat \"$log\"; }}\nrm \"$log\"\n\
             kill -{signal} $pid\nwait $pid\necho \"code: $?\"\n\
             for i in $(seq 600); do all=(/proc/[0-9]*); [ ${{#all[@]}} = 1 ] && break; sleep 0.05; done\n"
        );
        let said = alone(
            &script,
            &["--timeout", "10m"],
            &[json!({"do": "sleep", "seconds": 500})],
        );
        assert!(
            said.contains(&format!("code: {code}")) && !said.contains("never slept"),
            "{signal}: {said}"
        );
    }
}

#[test]
fn nobody_needs_root() {
    // Whoever is not root has shown it with every other test.
    let built = Built::on_host("3.12").with_observer();
    let project = Project::new();
    let own = project.beside("own");
    copy_directory(&built.directory, &own.join("image"));
    let program = own.join("lambimg");
    fs::copy(env!("CARGO_BIN_EXE_lambimg"), &program).expect("a program can be copied");
    let mut command = Command::new("setpriv");
    if is_root() {
        let give = Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(&own)
            .status();
        assert!(give.expect("chown is everywhere").success());
        let parent = own.parent().expect("it has a parent");
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("our own directory");
        command.args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]);
    }
    let image = format!("oci:{}", own.join("image").display());
    command.arg(&program).args([
        "invoke",
        &image,
        "-d",
        r#"{"do": "where"}"#,
        "-d",
        r#"{"do": "remember", "word": "w"}"#,
        "-d",
        r#"{"do": "exit", "code": 1}"#,
    ]);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", &own)
        .current_dir(&own);
    let output = command.output().expect("setpriv is everywhere");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3, "{stdout}{stderr}");
    assert_eq!(
        (&lines[0]["uid"], &lines[0]["written"]),
        (&json!(993), &json!("Read-only file system"))
    );
    assert_eq!(lines[1], json!(["w"]));
    assert_eq!(lines[2]["errorType"], "Runtime.ExitError");
    assert!(stderr.contains("\"SHUTDOWN\""), "{stderr}");
}

#[test]
fn the_machines_network_or_none() {
    let built = Built::on_host("3.12");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let port = listener.local_addr().expect("it has an address").port();
    let event = [json!({"do": "connect", "port": port})];
    assert_eq!(built.invoke(&[], &event).answer(), "connected");
    assert_eq!(
        built.invoke(&["--no-network"], &event).answer(),
        "Connection refused"
    );
    // Extensions and telemetry need none.
    let events = [
        json!({"do": "print"}),
        json!({"do": "echo_slowly", "number": 1, "seconds": 0.3}),
        json!({"do": "read", "path": "/tmp/telemetry"}),
    ];
    let called = built.with_observer().invoke(
        &["--no-network", "--env", "TELEMETRY=1", "--timeout", "9s"],
        &events,
    );
    let telemetry = &called.answers()[2];
    assert!(
        telemetry
            .as_str()
            .is_some_and(|text| text.contains("to stdout")),
        "{telemetry}"
    );
}
