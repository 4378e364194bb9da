//! What stands for a sandbox in tests: programs are tasks of this process, which speak the real HTTP.
//!
//! It knows no state of an environment: whatever a test sees came over the wire or is in the log.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::task::JoinHandle;

use super::place::Place;
use super::place::Running;
use super::place::Started;
use crate::lambda::function::Function;
use crate::lambda::function::Log;
use crate::lambda::function::LogFormat;
use crate::lambda::sandbox::Error;
use crate::lambda::sandbox::Exit;
use crate::lambda::sandbox::Memory;
use crate::lambda::sandbox::Program;
use crate::lambda::sandbox::SpawnError;

/// The program of every function here.
pub(in crate::lambda) const RUNTIME: &str = "/entry";

pub(in crate::lambda) fn function() -> Function {
    Function {
        name: "hello".to_owned(),
        account: "123456789012".to_owned(),
        region: "eu-central-1".to_owned(),
        memory: 128,
        timeout: Duration::from_secs(3),
        command: vec![RUNTIME.to_owned(), "app.handler".to_owned()],
        handler: Some("app.handler".to_owned()),
        working_dir: "/var/task".to_owned(),
        image_variables: BTreeMap::new(),
        variables: BTreeMap::new(),
        log_format: LogFormat::Text,
    }
}

/// It is always the same moment.
pub(in crate::lambda) fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// A log, and where it goes.
pub(in crate::lambda) fn log() -> (Log, Arc<Mutex<Vec<u8>>>) {
    let text = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&text);
    let log = Log::new(move |lines: &[u8]| to.lock().unwrap().extend_from_slice(lines));
    (log, text)
}

/// What a program has.
pub(in crate::lambda) struct Inside {
    pub client: Client,
    pub stdout: DuplexStream,
    /// Turns true at SIGTERM.
    pub terminated: watch::Receiver<bool>,
}

impl Inside {
    pub(super) async fn print(&mut self, text: &str) {
        self.stdout.write_all(text.as_bytes()).await.unwrap();
    }
}

/// Answers each event with itself, except for what is told to do otherwise.
pub(in crate::lambda) async fn echo(mut inside: Inside) -> Exit {
    loop {
        let event = inside.client.next().await;
        match event.body.as_str() {
            "exit" => return Exit::Code(1),
            "sleep" => std::future::pending().await,
            "print" => inside.print("a line\nand half of one").await,
            _ => {}
        }
        let body = event.body.clone();
        inside.client.respond(&event, &body).await;
    }
}

type Script = Arc<dyn Fn(Inside) -> BoxFuture<'static, Exit> + Send + Sync>;

/// A place whose programs are given.
#[derive(Default)]
pub(in crate::lambda) struct Stage {
    scripts: BTreeMap<String, Script>,
    running: Mutex<Vec<AbortHandle>>,
    pub kills: AtomicU32,
    pub gone: AtomicBool,
    /// How long it takes to end what runs.
    pub ending: Duration,
    /// Whether everybody is a stranger.
    pub closed: AtomicBool,
    /// Whether the machine has nothing left to start programs with.
    pub exhausted: AtomicBool,
    pub spawned: Mutex<Vec<Program>>,
}

impl Stage {
    pub(in crate::lambda) fn with<F>(
        mut self,
        path: &str,
        script: impl Fn(Inside) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Exit> + Send + 'static,
    {
        let script: Script = Arc::new(move |inside| script(inside).boxed());
        self.scripts.insert(path.to_owned(), script);
        self
    }

    pub(in crate::lambda) fn is_running(&self) -> bool {
        let running = self.running.lock().unwrap();
        running.iter().any(|one| !one.is_finished())
    }

    fn spawn_now(&self, program: &Program) -> Result<Started, SpawnError> {
        if self.exhausted.load(Ordering::Relaxed) {
            return Err(SpawnError::Sandbox(Error::Refused {
                action: "make a pipe",
                // EMFILE
                source: io::Error::from_raw_os_error(24),
            }));
        }
        let path = program.command[0].clone();
        let script = self.scripts.get(&path).ok_or_else(|| SpawnError::Exec {
            path: path.clone(),
            source: io::Error::from_raw_os_error(2),
        })?;
        self.spawned.lock().unwrap().push(program.clone());
        let api = program
            .variables
            .iter()
            .find(|(name, _)| name == "AWS_LAMBDA_RUNTIME_API")
            .unwrap()
            .1
            .clone();
        let (stdout, theirs) = tokio::io::duplex(1 << 20);
        let (term, terminated) = watch::channel(false);
        let inside = Inside {
            client: Client::new(&api),
            stdout: theirs,
            terminated,
        };
        let task = tokio::spawn(script(inside));
        self.running.lock().unwrap().push(task.abort_handle());
        Ok(Started {
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::empty()),
            framed: None,
            process: Box::new(Task { task, term }),
        })
    }
}

impl Place for Stage {
    fn listen(&self) -> BoxFuture<'_, Result<(TcpListener, SocketAddr), Error>> {
        async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            Ok((listener, address))
        }
        .boxed()
    }

    fn admits(&self, _peer: SocketAddr, _ours: SocketAddr) -> BoxFuture<'_, bool> {
        std::future::ready(!self.closed.load(Ordering::Relaxed)).boxed()
    }

    fn connect(&self, port: u16) -> BoxFuture<'_, io::Result<TcpStream>> {
        TcpStream::connect(("127.0.0.1", port)).boxed()
    }

    fn list<'a>(&'a self, directory: &'a str) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        let directory = format!("{directory}/");
        let below = self
            .scripts
            .keys()
            .filter_map(|path| path.strip_prefix(&directory));
        let names = below.map(|rest| rest.split('/').next().unwrap().to_owned());
        let mut names = names.collect::<Vec<_>>();
        names.dedup();
        std::future::ready(Ok(names)).boxed()
    }

    fn has_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        std::future::ready(Ok(self.scripts.contains_key(path))).boxed()
    }

    fn spawn<'a>(&'a self, program: &'a Program) -> BoxFuture<'a, Result<Started, SpawnError>> {
        std::future::ready(self.spawn_now(program)).boxed()
    }

    fn kill_all(&self) -> BoxFuture<'_, Result<(), Error>> {
        async {
            tokio::time::sleep(self.ending).await;
            let running = std::mem::take(&mut *self.running.lock().unwrap());
            for one in &running {
                one.abort();
            }
            while running.iter().any(|one| !one.is_finished()) {
                tokio::task::yield_now().await;
            }
            Ok(())
        }
        .boxed()
    }

    fn memory(&self) -> BoxFuture<'_, Memory> {
        std::future::ready(Memory {
            now: 0,
            most: 31 << 20,
            kills: self.kills.load(Ordering::Relaxed),
        })
        .boxed()
    }

    fn watch(&self, _closely: bool) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

struct Task {
    task: JoinHandle<Exit>,
    term: watch::Sender<bool>,
}

impl Running for Task {
    fn wait(&mut self) -> BoxFuture<'_, Exit> {
        async { (&mut self.task).await.unwrap_or(Exit::Signal(9)) }.boxed()
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<(), Error>> {
        if signal == 9 {
            self.task.abort();
        } else {
            self.term.send_replace(true);
        }
        std::future::ready(Ok(())).boxed()
    }
}

/// Speaks with the APIs.
#[derive(Clone)]
pub(in crate::lambda) struct Client {
    http: reqwest::Client,
    pub api: String,
}

/// An answer of the APIs.
#[derive(Debug)]
pub(in crate::lambda) struct Answered {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Answered {
    pub(in crate::lambda) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The status, and the type of the error.
    pub(super) fn refusal(&self) -> (u16, String) {
        let error_type = self.json()["errorType"].as_str().unwrap().to_owned();
        (self.status, error_type)
    }
}

impl Client {
    pub(in crate::lambda) fn new(api: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            http,
            api: api.to_owned(),
        }
    }

    pub(in crate::lambda) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answered {
        let url = format!("http://{}/{path}", self.api);
        let mut request = self.http.request(method.parse().unwrap(), url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        Answered {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    pub(super) async fn next(&self) -> Answered {
        let path = "2018-06-01/runtime/invocation/next";
        self.send("GET", path, &[], "").await
    }

    /// Answers an event.
    pub(super) async fn respond(&self, event: &Answered, body: &str) -> Answered {
        let id = event.header("lambda-runtime-aws-request-id").unwrap();
        let path = format!("2018-06-01/runtime/invocation/{id}/response");
        let attempt = event.header("lambda-runtime-invocation-id").unwrap();
        let headers = [("lambda-runtime-invocation-id", attempt)];
        self.send("POST", &path, &headers, body.to_owned()).await
    }

    pub(super) async fn register(&self, name: &str, events: &str) -> Answered {
        let path = "2020-01-01/extension/register";
        let headers = [("lambda-extension-name", name)];
        let body = format!(r#"{{"events":{events}}}"#);
        self.send("POST", path, &headers, body).await
    }

    /// An extension that has registered asks for an event.
    pub(super) async fn event(&self, identifier: &str) -> Answered {
        let path = "2020-01-01/extension/event/next";
        let headers = [("lambda-extension-identifier", identifier)];
        self.send("GET", path, &headers, "").await
    }
}

impl Answered {
    /// The identifier that a registration gave.
    pub(super) fn identifier(&self) -> String {
        self.header("lambda-extension-identifier")
            .unwrap()
            .to_owned()
    }
}
