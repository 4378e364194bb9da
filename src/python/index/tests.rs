//! Look-ups against an index on loopback whose pages are given.

use super::*;
use crate::http::Settings;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// Answers each path with its status, type and body; notes path and authorization of every request.
struct Index {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Index {
    fn start(pages: Vec<(&str, u16, &'static str, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let pages: BTreeMap<String, _> = pages
            .into_iter()
            .map(|(path, status, kind, body)| (path.to_owned(), (status, kind, body)))
            .collect();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let path = head[0].split(' ').nth(1).unwrap().to_owned();
                let secret = head
                    .iter()
                    .find_map(|line| line.strip_prefix("authorization: "));
                noted
                    .lock()
                    .unwrap()
                    .push(format!("{path} {}", secret.unwrap_or_default()));
                let nothing = (404, "text/plain", String::new());
                let (status, kind, body) = pages
                    .get(path.split('?').next().unwrap())
                    .cloned()
                    .unwrap_or(nothing);
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    fn indexes(&self) -> Indexes {
        Indexes {
            index: Some(self.url("/simple")),
            ..Indexes::default()
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

struct Bench {
    directory: tempfile::TempDir,
    store: BlobStore,
    credentials: Credentials,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path().join("cache")).unwrap();
        Self {
            directory,
            store,
            credentials: Credentials::default(),
        }
    }

    async fn locate(&self, entry: Entry, sources: &Indexes, offline: bool) -> Result<Entry, Error> {
        let settings = Settings {
            offline,
            ..Settings::default()
        };
        let client = Client::new(settings);
        let mut entries = [entry];
        let progress = Progress::default();
        locate(
            &mut entries,
            sources,
            &client,
            &self.store,
            &self.credentials,
            &progress,
        )
        .await?;
        let [entry] = entries;
        Ok(entry)
    }
}

fn hex(content: &str) -> String {
    Digest::of(content).hex()
}

fn file(name: &str) -> File {
    File {
        name: Some(name.to_owned()),
        hashes: [("sha256".to_owned(), hex(name))].into(),
        ..File::default()
    }
}

/// As poetry has it: names and hashes.
fn named(names: &[&str]) -> Entry {
    Entry {
        name: "demo".to_owned(),
        version: Some("1.0".to_owned()),
        wheels: names.iter().map(|name| file(name)).collect(),
        ..Entry::default()
    }
}

/// As Pipfile.lock and hashed requirements have it.
fn hashed(names: &[&str]) -> Entry {
    Entry {
        wheels: Vec::new(),
        hashes: names.iter().map(Digest::of).collect(),
        ..named(&[])
    }
}

/// A page of HTML; a name stands for the contents, too.
fn page(names: &[&str]) -> String {
    let anchor = |name: &&str| format!("<a href=\"/files/{name}#sha256={}\">x</a>\n", hex(name));
    names.iter().map(anchor).collect()
}

fn rendering(entry: &Entry, index: &Index) -> String {
    let line = |file: &File| {
        let location = match &file.location {
            Some(Location::Url(url)) => url.to_string(),
            Some(Location::Path(path)) => path.file_name().unwrap().to_string_lossy().into_owned(),
            None => "nowhere".to_owned(),
        };
        let location = location.replace(&index.address, "INDEX");
        format!(
            "{} {:?} {location}",
            file.name.as_deref().unwrap(),
            file.size
        )
    };
    let mut lines: Vec<String> = entry.wheels.iter().map(line).collect();
    if let Some(Source::Archive { file, .. }) = &entry.source {
        lines.push(format!("source {}", line(file)));
    }
    lines.join("\n")
}

const WHEEL: &str = "demo-1.0-py3-none-any.whl";
const NATIVE: &str = "demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl";
const SDIST: &str = "demo-1.0.tar.gz";
const OTHER: &str = "demo-2.0-py3-none-any.whl";

#[tokio::test]
async fn named_files_are_located_and_remembered() {
    let listed = page(&[OTHER, WHEEL, SDIST]);
    let index = Index::start(vec![("/simple/demo/", 200, "text/html", listed)]);
    let mut bench = Bench::new();
    let url = index
        .url("/simple")
        .to_string()
        .replace("://", "://me:p%40ss@");
    bench.credentials.add_url(&url.parse().unwrap());
    let entry = named(&[WHEEL, SDIST]);
    let located = bench.locate(entry.clone(), &index.indexes(), false).await;
    let located = located.unwrap();
    insta::assert_snapshot!(rendering(&located, &index), @r"
    demo-1.0-py3-none-any.whl None http://INDEX/files/demo-1.0-py3-none-any.whl
    source demo-1.0.tar.gz None http://INDEX/files/demo-1.0.tar.gz
    ");
    assert_eq!(index.asked(), ["/simple/demo/ Basic bWU6cEBzcw=="]);
    // The next build asks nothing, even without a network.
    for offline in [false, true] {
        let again = bench.locate(entry.clone(), &index.indexes(), offline).await;
        assert_eq!(again.unwrap(), located);
    }
    assert!(index.asked().is_empty());
    // What is located is left alone.
    bench
        .locate(located, &Indexes::default(), true)
        .await
        .unwrap();
    let error = bench.locate(named(&[OTHER]), &index.indexes(), true).await;
    let error = error.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Http {
                source: http::Error::Offline { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn hashes_alone_are_enough() {
    let item = |name: &str| {
        serde_json::json!({"filename": name, "url": format!("../../f/{name}?token=s"), "size": 7,
            "hashes": {"sha256": hex(name)}, "yanked": "broken"})
    };
    let files: Vec<_> = [OTHER, NATIVE, SDIST, WHEEL].map(item).into();
    let body = serde_json::json!({"meta": {"api-version": "1.1"}, "name": "demo", "files": files});
    let index = Index::start(vec![("/simple/demo/", 200, JSON, body.to_string())]);
    let bench = Bench::new();
    let entry = hashed(&[WHEEL, NATIVE, SDIST, "gone"]);
    let located = bench.locate(entry, &index.indexes(), false).await.unwrap();
    insta::assert_snapshot!(rendering(&located, &index), @r"
    demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl Some(7) http://INDEX/f/demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl?token=s
    demo-1.0-py3-none-any.whl Some(7) http://INDEX/f/demo-1.0-py3-none-any.whl?token=s
    source demo-1.0.tar.gz Some(7) http://INDEX/f/demo-1.0.tar.gz?token=s
    ");
    assert_eq!(located.wheels[0].hashes["sha256"], hex(NATIVE));
    // A query may be a secret.
    let memo = bench.store.root().join("memo");
    assert_eq!(fs::read_dir(memo).unwrap().count(), 0);
}

#[tokio::test]
async fn places_are_asked_until_nothing_is_missing() {
    let (native, wheel) = (page(&[NATIVE]), page(&[WHEEL, NATIVE]));
    let index = Index::start(vec![
        ("/own/demo/", 200, "text/html", native),
        ("/extra/demo/", 200, "text/html", wheel),
        ("/flat", 200, "text/html", page(&["other-1.0.zip", SDIST])),
    ]);
    let bench = Bench::new();
    let local = bench.directory.path().join("wheels");
    fs::create_dir(&local).unwrap();
    fs::write(local.join(OTHER), OTHER).unwrap();
    fs::write(local.join("demo-0.9.tar.gz"), "not asked for").unwrap();
    let sources = Indexes {
        index: Some(index.url("/never")),
        extra: vec![
            index.url("/absent"),
            index.url("/extra/"),
            index.url("/never"),
        ],
        find_links: vec![Location::Url(index.url("/flat")), Location::Path(local)],
        no_index: false,
    };
    let mut entry = named(&[WHEEL, NATIVE]);
    entry.index = Some(index.url("/own/"));
    bench.locate(entry, &sources, false).await.unwrap();
    assert_eq!(
        index.asked(),
        ["/own/demo/ ", "/absent/demo/ ", "/extra/demo/ "]
    );

    let mut entry = hashed(&[SDIST, OTHER]);
    entry.index = Some(index.url("/own/"));
    let located = bench.locate(entry, &sources, false).await.unwrap();
    insta::assert_snapshot!(rendering(&located, &index), @r"
    demo-2.0-py3-none-any.whl Some(25) demo-2.0-py3-none-any.whl
    source demo-1.0.tar.gz None http://INDEX/files/demo-1.0.tar.gz
    ");
    index.asked();
    let alone = Indexes {
        no_index: true,
        ..sources
    };
    bench.locate(named(&[OTHER]), &alone, false).await.unwrap();
    assert_eq!(index.asked(), ["/flat "]);
}

#[tokio::test]
async fn a_page_without_hashes_serves_names() {
    let listed = format!("<a href=/f/{WHEEL}>x</a>");
    let index = Index::start(vec![("/simple/demo/", 200, "text/html", listed)]);
    let bench = Bench::new();
    let located = bench.locate(named(&[WHEEL]), &index.indexes(), false).await;
    insta::assert_snapshot!(rendering(&located.unwrap(), &index), @"demo-1.0-py3-none-any.whl None http://INDEX/f/demo-1.0-py3-none-any.whl");
    let error = bench
        .locate(hashed(&[WHEEL]), &index.indexes(), false)
        .await;
    let error = error.unwrap_err().to_string();
    insta::assert_snapshot!(error.replace(&index.address, "INDEX"), @"the lock has only hashes of the files of `demo 1.0`, and http://INDEX/simple has none");
}

#[tokio::test]
async fn failures_name_package_and_place() {
    let swapped = format!("<a href=/f/{WHEEL}#sha256={}>x</a>", hex("other"));
    let index = Index::start(vec![
        ("/simple/demo/", 200, "text/html", swapped),
        ("/refused/demo/", 401, "text/plain", String::new()),
        ("/forbidden/demo/", 403, "text/plain", String::new()),
        ("/teapot/demo/", 418, "text/plain", String::new()),
        ("/broken/demo/", 200, JSON, "<html>".to_owned()),
        (
            "/local/demo/",
            200,
            "text/html",
            "<a href=file:///etc/passwd>x</a>".to_owned(),
        ),
    ]);
    let mut bench = Bench::new();
    let forbidden = index
        .url("/forbidden")
        .to_string()
        .replace("://", "://me:pw@");
    bench.credentials.add_url(&forbidden.parse().unwrap());
    let mut messages = Vec::new();
    for path in [
        "/simple",
        "/absent",
        "/forbidden",
        "/teapot",
        "/broken",
        "/local",
    ] {
        let url = index.url(path).to_string().replace("://", "://me:pw@") + "?token=s";
        let sources = Indexes {
            index: Some(url.parse().unwrap()),
            ..Indexes::default()
        };
        let error = bench.locate(named(&[WHEEL]), &sources, false).await;
        messages.push(error.unwrap_err().to_string());
    }
    bench.credentials = Credentials::default();
    let sources = Indexes {
        index: Some(index.url("/refused")),
        ..Indexes::default()
    };
    let error = bench.locate(hashed(&[WHEEL]), &sources, false).await;
    messages.push(error.unwrap_err().to_string());
    let nowhere = Indexes {
        no_index: true,
        ..Indexes::default()
    };
    let many = [WHEEL, NATIVE, SDIST, OTHER, "demo-3.zip"];
    let error = bench.locate(named(&many), &nowhere, false).await;
    messages.push(error.unwrap_err().to_string());
    let messages = messages.join("\n").replace(&index.address, "INDEX");
    assert!(!messages.contains("pw") && !messages.contains("token"));
    insta::assert_snapshot!(messages);
}
