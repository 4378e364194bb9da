//! A package index on loopback: pages of the simple repository API, and the files they list. It may ask for a
//! name and a password, and may speak JSON to whoever understands it.

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
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;

use crate::support::digest;
use crate::support::wheel::Wheel;

const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// What the index serves.
#[derive(Default)]
struct Content {
    /// The links of each project's page.
    pages: BTreeMap<String, Vec<Link>>,
    /// Bodies by path.
    files: BTreeMap<String, Vec<u8>>,
    /// Whether it speaks JSON.
    json: bool,
    /// The header that it asks for.
    authorization: Option<String>,
}

struct Link {
    name: String,
    /// As `sha256=…`.
    hash: String,
    /// That of the metadata, in the same form.
    metadata: String,
    requires_python: String,
}

impl Link {
    fn html(&self) -> String {
        let Link {
            name,
            hash,
            metadata,
            ..
        } = self;
        let requires = self
            .requires_python
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        format!(
            "<a href=\"/files/{name}#{hash}\" data-requires-python=\"{requires}\" \
             data-dist-info-metadata=\"{metadata}\" data-core-metadata=\"{metadata}\">{name}</a><br>\n"
        )
    }

    fn json(&self) -> Value {
        let hashes = |hash: &str| {
            let (algorithm, hex) = hash.split_once('=').expect("a hash has an algorithm");
            json!({algorithm: hex})
        };
        let mut file = json!({
            "filename": self.name,
            "url": format!("../../files/{}", self.name),
            "hashes": hashes(&self.hash),
            "core-metadata": hashes(&self.metadata),
            "yanked": false,
        });
        if !self.requires_python.is_empty() {
            file["requires-python"] = self.requires_python.clone().into();
        }
        file
    }
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

    /// The same, for those only who give this name and password.
    pub(crate) fn guarded(user: &str, password: &str) -> Index {
        let index = Index::start();
        let pair = STANDARD.encode(format!("{user}:{password}"));
        index.content().authorization = Some(format!("Basic {pair}"));
        index
    }

    /// Speaks JSON from now on.
    pub(crate) fn speak_json(&self) {
        self.content().json = true;
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Host and port.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
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
        let mut content = self.content();
        let name = wheel.file_name();
        let link = Link {
            name: name.clone(),
            hash: hash.to_owned(),
            metadata: digest(wheel.metadata().as_bytes()).replace(':', "="),
            requires_python: wheel.requires_python_specifiers().unwrap_or("").to_owned(),
        };
        let project = wheel.name().replace('_', "-");
        content.pages.entry(project).or_default().push(link);
        content
            .files
            .insert(format!("/files/{name}"), wheel.bytes());
        content.files.insert(
            format!("/files/{name}.metadata"),
            wheel.metadata().into_bytes(),
        );
    }

    /// A lock of wheels as another tool writes it, with or without the files' sizes.
    pub(crate) fn lock(&self, wheels: &[&Wheel], with_sizes: bool) -> String {
        let files = self.url().replace("/simple", "/files");
        let mut text = "lock-version = \"1.0\"\ncreated-by = \"another\"\n".to_owned();
        for wheel in wheels {
            let (name, file, bytes) = (wheel.name(), wheel.file_name(), wheel.bytes());
            let version = file
                .split('-')
                .nth(1)
                .expect("a wheel's name has a version");
            let sha256 = digest(&bytes).replace("sha256:", "");
            let size = if with_sizes {
                format!(", size = {}", bytes.len())
            } else {
                String::new()
            };
            let _ = write!(
                text,
                "\n[[packages]]\nname = \"{name}\"\nversion = \"{version}\"\nwheels = [{{ url = \
                 \"{files}/{file}\"{size}, hashes = {{ sha256 = \"{sha256}\" }} }}]\n"
            );
        }
        text
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
    let (mut json, mut authorization) = (false, None);
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        let (name, value) = header.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "accept" => json = value.contains(JSON),
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
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
    let (status, kind, body) = {
        let content = content.lock().unwrap_or_else(PoisonError::into_inner);
        if content.authorization.is_some() && content.authorization != authorization {
            let challenge = "text/plain\r\nWWW-Authenticate: Basic realm=\"tests\"";
            ("401 Unauthorized", challenge, b"who are you?\n".to_vec())
        } else if let Some((kind, body)) = find(&content, path, json) {
            ("200 OK", kind, body)
        } else {
            ("404 Not Found", "text/plain", b"not here\n".to_vec())
        }
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

fn find(content: &Content, path: &str, json: bool) -> Option<(&'static str, Vec<u8>)> {
    if let Some(body) = content.files.get(path) {
        return Some(("application/octet-stream", body.clone()));
    }
    let name = path.strip_prefix("/simple/")?.trim_end_matches('/');
    let links = content.pages.get(name)?;
    if content.json && json {
        let files: Vec<_> = links.iter().map(Link::json).collect();
        let page =
            json!({"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": files});
        return Some((JSON, page.to_string().into_bytes()));
    }
    let links: String = links.iter().map(Link::html).collect();
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
