//! Blobs from registries that break off, send other bytes or trickle; it knows nothing of pushes.

use super::*;
use crate::digest::Digest;
use crate::http::{Client, Settings};
use crate::registry::auth::Keychain;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;

#[test]
fn mirrors_are_read() {
    let reference = Reference::read("public.ecr.aws/lambda/python:3.12").unwrap();
    let at = |text: &str| Mirror::read(text).map(|mirror| mirror.of(&reference).to_string());
    assert_eq!(
        at("123456789012.dkr.ecr.eu-west-1.amazonaws.com/ecr-public").unwrap(),
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/ecr-public/lambda/python:3.12"
    );
    assert_eq!(at("m.test:5000").unwrap(), "m.test:5000/lambda/python:3.12");
    for text in ["", "nowhere", "m.test/a:tag", "m.test/A", "https://m.test"] {
        assert!(at(text).is_err(), "{text}");
    }
}

/// A registry that gives one answer after the other, the last one for ever, and closes after each; what it
/// was asked is kept.
struct Scripted {
    host: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn new(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&asked);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let mut range = "all".to_owned();
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    if let Some(text) = line.strip_prefix("range: bytes=") {
                        text.clone_into(&mut range);
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                kept.lock().unwrap().push(range);
                let answer = &answers[number.min(answers.len() - 1)];
                let _ = (&stream).write_all(answer);
            }
        });
        Self { host, asked }
    }

    fn reference(&self) -> Reference {
        Reference::read(&format!("{}/some/image", self.host)).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn part(from: usize, length: usize, body: &[u8]) -> Vec<u8> {
    let status = format!("206 Part\r\ncontent-range: bytes {from}-999/1000");
    answer(&status, length, body)
}

fn registries() -> Registries {
    Registries::new(Client::new(Settings::default()), Keychain::default())
}

fn bytes() -> Vec<u8> {
    (0..1000_u32).map(|n| (n % 251) as u8).collect()
}

async fn fetched(registries: &Registries, from: &Scripted) -> Result<(), Error> {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let blob = Descriptor::of("any", &bytes());
    let (origin, progress) = (from.reference(), Progress::default());
    let result = fetch_blob(&blob, &origin, &store, registries, &progress).await;
    match &result {
        Ok(()) => assert_eq!(store.read(&blob.digest).unwrap(), bytes()),
        Err(_) => assert_eq!(store.size(&blob.digest), None),
    }
    result
}

#[tokio::test]
async fn what_breaks_off_goes_on() {
    let all = bytes();
    let registry = Scripted::new(vec![
        answer("200 OK", 1000, &all[..300]),
        part(300, 700, &all[300..500]),
        // Closed where it says it is whole.
        part(500, 100, &all[500..600]),
        part(600, 400, &all[600..]),
    ]);
    fetched(&registries(), &registry).await.unwrap();
    assert_eq!(registry.asked(), ["all", "300-", "500-", "600-"]);
}

#[tokio::test]
async fn ranges_may_be_unknown() {
    let all = bytes();
    let cut = answer("200 OK", 1000, &all[..300]);
    let whole = answer("200 OK", 1000, &all);
    let registry = Scripted::new(vec![cut.clone(), whole.clone()]);
    fetched(&registries(), &registry).await.unwrap();
    assert_eq!(registry.asked(), ["all", "300-"]);

    let unfit = answer("416 No", 0, b"");
    let registry = Scripted::new(vec![cut.clone(), unfit, whole.clone()]);
    fetched(&registries(), &registry).await.unwrap();
    assert_eq!(registry.asked(), ["all", "300-", "all"]);

    let other = part(0, 1000, &all);
    let registry = Scripted::new(vec![cut, other, whole]);
    fetched(&registries(), &registry).await.unwrap();
    assert_eq!(registry.asked(), ["all", "300-", "all"]);
}

#[tokio::test]
async fn wrong_bytes_are_never_given_whole() {
    let mut wrong = bytes();
    wrong[999] ^= 1;
    let registry = Scripted::new(vec![answer("200 OK", 1000, &wrong)]);
    let error = fetched(&registries(), &registry).await.unwrap_err();
    let actual = Digest::of(&wrong);
    assert!(matches!(error, Error::Digest { actual: told, .. } if told == actual));
    assert_eq!(
        registry.asked().len(),
        3,
        "the way here may have changed them"
    );

    let blob = Descriptor::of("any", &bytes());
    let source = registries().source(&registry.reference()).unwrap();
    let mut chunks = std::pin::pin!(source.blob(&blob));
    let mut given = 0;
    while let Ok(Some(chunk)) = chunks.try_next().await {
        given += chunk.len();
    }
    assert!(given < 1000, "{given}");

    let long = Scripted::new(vec![answer("200 OK", 1001, &[0; 1001])]);
    let error = fetched(&registries(), &long).await.unwrap_err();
    assert!(
        matches!(error, Error::Length { expected: 1000, .. }),
        "{error}"
    );
    assert_eq!(long.asked().len(), 3, "as wrong bytes are");
}

#[test]
fn registries_of_mirrors_are_read() {
    let read = |text: &str| Mirror::read_registry(text).ok();
    for (text, registry) in [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("Public.ECR.aws", "public.ecr.aws"),
        ("localhost:5000", "localhost:5000"),
    ] {
        assert_eq!(read(text).as_deref(), Some(registry));
    }
    for text in [
        "",
        "https://public.ecr.aws",
        "nowhere",
        "a.test/b",
        "a.test/",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

/// A few bytes each time would go on without end.
#[tokio::test]
async fn a_trickle_is_no_progress() {
    let all = bytes();
    let own = Scripted::new(vec![part(200, 800, &all[200..])]);
    let mirror = Scripted::new(vec![
        answer("200 OK", 1000, &all[..100]),
        part(100, 900, &all[100..200]),
        part(200, 800, &all[200..300]),
    ]);
    let place = Mirror::read(&mirror.host).unwrap();
    let registries = registries().with_mirrors(BTreeMap::from([(own.host.clone(), place)]));
    fetched(&registries, &own).await.unwrap();
    assert_eq!(mirror.asked(), ["all", "100-"]);
    assert_eq!(own.asked(), ["200-"]);
}

#[tokio::test]
async fn a_mirror_that_fails_is_asked_no_more() {
    let all = bytes();
    let own = Scripted::new(vec![
        part(300, 700, &all[300..]),
        answer("200 OK", 1000, &all),
    ]);
    let mirror = Scripted::new(vec![
        answer("200 OK", 1000, &all[..300]),
        answer("404 Gone", 0, b""),
    ]);
    let place = Mirror::read(&mirror.host).unwrap();
    let registries = registries().with_mirrors(BTreeMap::from([(own.host.clone(), place)]));
    fetched(&registries, &own).await.unwrap();
    assert_eq!(mirror.asked(), ["all", "300-"]);
    assert_eq!(own.asked(), ["300-"]);
    fetched(&registries, &own).await.unwrap();
    assert_eq!((mirror.asked().len(), own.asked().len()), (2, 2));
}
