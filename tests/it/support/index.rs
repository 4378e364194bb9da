//! A package index on loopback: pages of the simple repository API, and the files they list.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::support::digest;
use crate::support::wheel::Wheel;

/// What the index serves: content type and body by path.
#[derive(Default)]
struct Content {
    pages: BTreeMap<String, String>,
    files: BTreeMap<String, Vec<u8>>,
}

/// Serves until it is dropped.
pub(crate) struct Index {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Index {
    pub(crate) fn start() -> Index {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let index = Index {
            address: listener.local_addr().expect("a listener has an address"),
            content: Arc::default(),
            requests: Arc::default(),
            stop: Arc::default(),
        };
        let (content, requests, stop) = (
            Arc::clone(&index.content),
            Arc::clone(&index.requests),
            Arc::clone(&index.stop),
        );
        thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (content, requests) = (Arc::clone(&content), Arc::clone(&requests));
                thread::spawn(move || {
                    // A client that goes away is no concern of the index.
                    let _ = answer(stream, &content, &requests);
                });
            }
        });
        index
    }

    /// The address for `--index-url`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/simple", self.address)
    }

    /// Lists a wheel with its true hash.
    pub(crate) fn serve(&self, wheel: &Wheel) {
        let hash = digest(&wheel.bytes()).replace(':', "=");
        self.serve_with_hash(wheel, &hash);
    }

    /// Lists a wheel with a hash such as `sha256=…`, true or not.
    pub(crate) fn serve_with_hash(&self, wheel: &Wheel, hash: &str) {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let name = wheel.file_name();
        let requires = wheel
            .requires_python_specifiers()
            .unwrap_or("")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let metadata = digest(wheel.metadata().as_bytes()).replace(':', "=");
        let page = content
            .pages
            .entry(wheel.name().replace('_', "-"))
            .or_default();
        let _ = writeln!(
            page,
            "<a href=\"/files/{name}#{hash}\" data-requires-python=\"{requires}\" \
             data-dist-info-metadata=\"{metadata}\" data-core-metadata=\"{metadata}\">{name}</a><br>"
        );
        content
            .files
            .insert(format!("/files/{name}"), wheel.bytes());
        content.files.insert(
            format!("/files/{name}.metadata"),
            wheel.metadata().into_bytes(),
        );
    }

    /// The path of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One more connection wakes the thread that accepts them.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

/// Answers one request; the connection is closed after it.
fn answer(
    mut stream: TcpStream,
    content: &Mutex<Content>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut words = line.split_whitespace();
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(path.to_owned());
    let found = find(
        &content.lock().unwrap_or_else(PoisonError::into_inner),
        path,
    );
    let (status, kind, body) = match found {
        Some((kind, body)) => ("200 OK", kind, body),
        None => ("404 Not Found", "text/plain", b"not here\n".to_vec()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

fn find(content: &Content, path: &str) -> Option<(&'static str, Vec<u8>)> {
    if let Some(body) = content.files.get(path) {
        return Some(("application/octet-stream", body.clone()));
    }
    let name = path.strip_prefix("/simple/")?.trim_end_matches('/');
    let links = content.pages.get(name)?;
    Some((
        "text/html",
        format!("<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n").into_bytes(),
    ))
}

/// Both resolvers read its pages and its metadata.
#[test]
fn is_read_by_pip_and_uv() {
    let index = Index::start();
    index.serve(&Wheel::pure("upper", "2.0").requires("lower_one>=1"));
    index.serve(&Wheel::pure("lower_one", "1.5").requires_python(">=3.8"));
    let project = crate::support::project::Project::new();
    project.file("requirements.txt", "upper\n");
    let mut uv = std::process::Command::new(crate::support::tool("uv"));
    uv.args([
        "pip",
        "compile",
        "requirements.txt",
        "--no-header",
        "--no-annotate",
        "--quiet",
    ]);
    let said = project.run_by(uv).index(&index.url()).succeed();
    assert_eq!(said, "lower-one==1.5\nupper==2.0\n");
    assert!(
        !index
            .requests()
            .contains(&"/files/upper-2.0-py3-none-any.whl".to_owned()),
        "{:?}",
        index.requests()
    );

    let mut pip = std::process::Command::new(crate::support::python("3.12"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--target",
        "installed",
        "-r",
        "requirements.txt",
    ]);
    project.run_by(pip).index(&index.url()).succeed();
    assert!(
        project
            .path()
            .join("installed/lower_one/__init__.py")
            .exists()
    );
}
