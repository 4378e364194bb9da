//! Debian's Chromium without a window, driven over its DevTools protocol: what a page does in the hands of its reader.
//!
//! The protocol goes through the descriptors 3 and 4 as `--remote-debugging-pipe` has it, each message ended by a
//! zero byte, so that neither a port nor another program stands between.

use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::program;

/// How long an answer of the browser may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A browser with one page open; it ends on drop.
pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: mpsc::Receiver<Value>,
    session: Value,
    number: u64,
    events: Vec<Value>,
    /// Its profile and log.
    directory: TempDir,
}

impl Browser {
    /// Opens a file of this machine and waits until it is loaded.
    pub(crate) fn open(page: &Path) -> Browser {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // The pipes are made as the shell's own input and output, and handed on under the numbers that are wanted.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c"]);
        command.arg("exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2");
        command.arg(program("chromium", "chromium"));
        command.args([
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1280,1600",
            // The pages are ours, and not every machine has what the sandbox needs.
            "--no-sandbox",
        ]);
        let profile = directory.path().join("profile");
        command.arg(format!("--user-data-dir={}", profile.display()));
        let log = File::create(directory.path().join("log")).expect("a log can be created");
        let spawned = command
            .env("HOME", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn();
        let mut child = spawned.expect("setpriv is everywhere");
        let commands = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (send, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("messages are JSON");
                // Nobody waits for what comes after the test.
                let _ = send.send(message);
            }
        });
        let mut browser = Browser {
            child,
            commands,
            messages,
            session: Value::Null,
            number: 0,
            events: Vec::new(),
            directory,
        };
        let blank = browser.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let target = json!({"targetId": blank["targetId"], "flatten": true});
        browser.session = browser.ask("Target.attachToTarget", &target)["sessionId"].clone();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), &json!({}));
        }
        let url = format!("file://{}", page.display());
        browser.ask("Page.navigate", &json!({"url": url}));
        while !browser.events_of("Page.loadEventFired").any(|_| true) {
            let message = browser.next();
            browser.events.push(message);
        }
        browser
    }

    fn next(&self) -> Value {
        let message = self.messages.recv_timeout(PATIENCE);
        message.unwrap_or_else(|_| {
            let log = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
            panic!("the browser is silent: {}", String::from_utf8_lossy(&log))
        })
    }

    fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": parameters});
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        let message = format!("{command}\0");
        let sent = self.commands.write_all(message.as_bytes());
        sent.expect("the browser listens");
        loop {
            let mut message = self.next();
            if message["id"] == self.number {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    fn events_of(&self, method: &str) -> impl Iterator<Item = &Value> {
        let events = self.events.iter();
        events
            .filter(move |event| event["method"] == method)
            .map(|event| &event["params"])
    }

    /// The value of an expression in the page, once it has one if it is a promise.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.ask("Runtime.evaluate", &asked);
        assert_eq!(
            answer["exceptionDetails"],
            Value::Null,
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    /// Clicks with the mouse in the middle of what a selector finds first.
    pub(crate) fn click(&mut self, selector: &str) {
        let at = self.value(&format!(
            "(() => {{ const element = document.querySelector({selector:?});
                element.scrollIntoView({{block: 'center'}});
                const {{left, top, width, height}} = element.getBoundingClientRect();
                return {{x: left + width / 2, y: top + height / 2}}; }})()"
        ));
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let mut event = json!({"type": kind, "button": button, "clickCount": 1});
            event["x"] = at["x"].clone();
            event["y"] = at["y"].clone();
            self.ask("Input.dispatchMouseEvent", &event);
        }
    }

    /// Presses a key that stands for itself, as `Escape`.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            other => panic!("no number is known of {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if key == "Enter" && kind == "keyDown" {
                event["text"] = json!("\r");
            }
            self.ask("Input.dispatchKeyEvent", &event);
        }
    }

    /// Types text where the page listens.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.ask("Input.insertText", &json!({"text": text}));
    }

    /// Has the page be read as by one who prefers `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.ask(
            "Emulation.setEmulatedMedia",
            &json!({"features": [feature]}),
        );
    }

    /// The addresses of all that the page has asked for, itself first.
    pub(crate) fn requests(&self) -> Vec<String> {
        let sent = self.events_of("Network.requestWillBeSent");
        sent.map(|event| event["request"]["url"].as_str().expect("a text").to_owned())
            .collect()
    }

    /// What the page or the browser complained of: errors, warnings, refusals of its policy.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let kinds = [
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Page.javascriptDialogOpening",
        ];
        let all = kinds.iter().flat_map(|kind| self.events_of(kind));
        all.map(Value::to_string).collect()
    }

    /// A picture of the page, for whoever wants to look at it.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        use base64::Engine as _;
        let answer = self.ask("Page.captureScreenshot", &json!({"format": "png"}));
        let data = answer["data"].as_str().expect("a text");
        let engine = base64::engine::general_purpose::STANDARD;
        engine.decode(data).expect("it is base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
