//! A registry that behaves as ECR does, and as networks do: every departure from the specification is a
//! switch, and every request is noted.
//!
//! It stands in for what cannot be asked in a test; what it takes, it checks as strictly as the real
//! ones (`content`). Three hosts: the registry, the bucket behind its redirects, and one for uploads.

mod answers;
mod content;

use std::collections::BTreeMap;
use std::io;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::digest;
use crate::support::ecr::answers::Answer;
use crate::support::ecr::answers::Asked;
use crate::support::ecr::answers::send;
use crate::support::ecr::content::Content;
use crate::support::http;
use crate::support::wire::Connection;
use crate::support::wire::Head;
use crate::support::wire::Listener;

/// What a private registry of ECR's is called.
pub(crate) const REAL: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
pub(crate) const USER: &str = "AWS";
const PASSWORD: &str = "eyJwYXNzd29yZCI6";
const TOKEN: &str = "bearer-of-the-tests";
const SIGNATURE: &str = "9f8e7d6c5b4a";

/// Who may do what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    Nobody,
    /// As private ECR: a password for everything.
    Basic,
    /// As the public ECR: a token for everything, without a password one to read.
    Bearer,
}

/// What becomes of a push to a repository that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Created,
    /// The connection ends without an answer.
    Cut,
    NameUnknown,
}

/// Where an upload is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    Absolute,
    Relative,
    OtherHost,
}

/// What happens to a request instead of its answer, or to the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Another status, with seconds for `Retry-After`.
    Status(u16, Option<u32>),
    /// The connection ends when so many bytes of the body have come.
    CutRequest(u64),
    /// The connection ends when so many bytes of the answer's body have gone.
    CutAnswer(u64),
    /// Nothing is answered for so long.
    Stall(Duration),
    /// The body is not read for so long.
    Deaf(Duration),
    /// One byte of the answer is another.
    Corrupt,
    /// The length is said to be so many bytes more, or fewer.
    Length(i64),
    /// Half a document with its right length.
    Truncated,
    /// `Docker-Content-Digest` names something else.
    Lie,
}

/// Which requests have a trouble.
#[derive(Clone)]
pub(crate) struct Troubled {
    pub(crate) trouble: Trouble,
    /// Nothing for any.
    /// Nothing for any.
    pub(crate) method: &'static str,
    /// A part of the target, such as `/blobs/uploads/`.
    pub(crate) part: String,
    /// One such request of so many, the first one first.
    pub(crate) every: u64,
    /// How many have it in all.
    pub(crate) times: u64,
}

impl Troubled {
    /// The first such request and no other.
    pub(crate) fn once(trouble: Trouble, method: &'static str, part: &str) -> Troubled {
        Troubled {
            trouble,
            method,
            part: part.to_owned(),
            every: 1,
            times: 1,
        }
    }

    pub(crate) fn always(trouble: Trouble, method: &'static str, part: &str) -> Troubled {
        Troubled {
            times: u64::MAX,
            ..Troubled::once(trouble, method, part)
        }
    }
}

/// The switches.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) login: Login,
    /// How many requests a token or password is good for.
    pub(crate) token_life: Option<u64>,
    /// A password that is over is refused by 403, as one without the right is.
    pub(crate) denies_expired: bool,
    pub(crate) repositories: Vec<&'static str>,
    pub(crate) missing: Missing,
    pub(crate) mounts: bool,
    pub(crate) immutable: bool,
    /// Blobs are had from the bucket, which refuses credentials.
    pub(crate) redirects: bool,
    /// A look for a blob is refused by 401, whoever asks.
    pub(crate) refuses_blob_head: bool,
    pub(crate) location: Location,
    /// For how many requests a manifest that was just put is not there.
    pub(crate) late: u32,
    pub(crate) troubles: Vec<Troubled>,
}

impl Behaviour {
    /// Private ECR as it is by default, but open to everyone.
    pub(crate) fn private() -> Behaviour {
        Behaviour {
            login: Login::Nobody,
            token_life: None,
            denies_expired: false,
            repositories: Vec::new(),
            missing: Missing::Created,
            mounts: false,
            immutable: false,
            redirects: true,
            refuses_blob_head: false,
            location: Location::Absolute,
            late: 0,
            troubles: Vec::new(),
        }
    }

    /// The public ECR.
    pub(crate) fn public() -> Behaviour {
        Behaviour {
            login: Login::Bearer,
            refuses_blob_head: true,
            ..Behaviour::private()
        }
    }

    pub(crate) fn troubled(troubles: impl IntoIterator<Item = Troubled>) -> Behaviour {
        Behaviour {
            troubles: troubles.into_iter().collect(),
            ..Behaviour::private()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Registry,
    Bucket,
    Uploads,
}

/// A request as it was noted.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) host: Host,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) authorized: bool,
    /// Bytes of its body.
    pub(crate) sent: u64,
    /// 0 where the connection was cut.
    pub(crate) status: u16,
}

struct Shared {
    behaviour: Behaviour,
    addresses: OnceLock<BTreeMap<&'static str, String>>,
    state: Mutex<State>,
}

struct State {
    content: Content,
    requests: Vec<Request>,
    /// Requests that each trouble had to do with.
    met: Vec<u64>,
    /// Requests left of each token.
    tokens: BTreeMap<String, u64>,
    /// How many passwords there were, and the requests that this one was used for.
    password: (u64, u64),
    /// After how many more requests this password is over, beside `token_life`.
    password_left: Option<u64>,
    /// How often a manifest is still not there.
    late: BTreeMap<String, u32>,
    faults: Vec<String>,
}

pub(crate) struct Ecr {
    registry: Listener,
    shared: Arc<Shared>,
    _others: [Listener; 2],
}

impl Ecr {
    pub(crate) fn start(behaviour: Behaviour) -> Ecr {
        let mut content = Content::new();
        for name in &behaviour.repositories {
            content.create(name);
        }
        let met = vec![0; behaviour.troubles.len()];
        let shared = Arc::new(Shared {
            behaviour,
            addresses: OnceLock::new(),
            state: Mutex::new(State {
                content,
                requests: Vec::new(),
                met,
                tokens: BTreeMap::new(),
                password: (0, 0),
                password_left: None,
                late: BTreeMap::new(),
                faults: Vec::new(),
            }),
        });
        let listen = |address: &str, host: Host| {
            let shared = Arc::clone(&shared);
            Listener::start(address, move |connection, head| {
                shared.serve(host, connection, &head)
            })
        };
        let registry = listen("127.0.0.1", Host::Registry);
        let bucket = listen("127.0.0.2", Host::Bucket);
        let uploads = listen("127.0.0.3", Host::Uploads);
        let addresses = BTreeMap::from([
            ("registry", registry.address.to_string()),
            ("bucket", bucket.address.to_string()),
            ("uploads", uploads.address.to_string()),
        ]);
        shared.addresses.get_or_init(|| addresses);
        let others = [bucket, uploads];
        Ecr {
            registry,
            shared,
            _others: others,
        }
    }

    /// Host and port, as a reference begins.
    pub(crate) fn address(&self) -> String {
        self.registry.address.to_string()
    }

    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address())
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Tags and their digests.
    pub(crate) fn tags(&self, repository: &str) -> BTreeMap<String, String> {
        self.shared.state().content.tags(repository)
    }

    pub(crate) fn has_blob(&self, repository: &str, digest: &str) -> bool {
        self.shared
            .state()
            .content
            .blob(repository, digest)
            .is_some()
    }

    /// Loses all blobs, not the manifests.
    pub(crate) fn lose_blobs(&self) {
        self.shared.state().content.lose_blobs();
    }

    /// Makes a repository, as its control API would.
    pub(crate) fn create(&self, repository: &str) {
        self.shared.state().content.create(repository);
    }

    /// A name of a private registry of ECR's, for who goes through this one as a proxy.
    pub(crate) fn real_name(repository: &str) -> String {
        format!("{REAL}/{repository}")
    }

    /// The password that is good now.
    pub(crate) fn password(&self) -> String {
        self.shared.password(&self.shared.state())
    }

    /// Has the password be over after so many more requests, once.
    pub(crate) fn end_password_after(&self, requests: u64) {
        self.shared.state().password_left = Some(requests);
    }

    /// All that nobody may ever print or keep.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let pair = STANDARD.encode(format!("{USER}:{}", self.password()));
        [PASSWORD, &pair, TOKEN, SIGNATURE]
            .map(str::to_owned)
            .into()
    }

    /// What clients did that no registry asked for: credentials to others, bodies without a length.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.shared.state().faults.clone()
    }

    /// Fails unless the tag has this digest and each of its blobs, as another client reads them.
    pub(crate) fn assert_has(&self, repository: &str, tag: &str, digest: &str) {
        let tags = self.tags(repository);
        assert_eq!(tags.get(tag).map(String::as_str), Some(digest), "{tags:?}");
        assert_eq!(self.faults(), Vec::<String>::new());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, host: &str) -> &str {
        let addresses = self.addresses.get();
        addresses.map_or("", |known| known[host].as_str())
    }

    fn password(&self, state: &State) -> String {
        match (self.behaviour.token_life, state.password.0) {
            (None, 0) => PASSWORD.to_owned(),
            (_, number) => format!("{PASSWORD}{number}"),
        }
    }

    fn serve(&self, host: Host, connection: &mut Connection, head: &Head) -> io::Result<bool> {
        let asked = Asked::new(host, head);
        let number = self.note(&asked);
        let trouble = self.trouble(&asked);
        if let Some(Trouble::Deaf(pause)) = trouble {
            thread::sleep(pause);
        }
        let length = head.length().unwrap_or(u64::MAX);
        let limit = match trouble {
            Some(Trouble::CutRequest(count)) => count.min(length),
            _ => u64::MAX,
        };
        let (answer, sent) = {
            let mut body = connection.body(head).take(limit);
            let answer = match trouble {
                Some(Trouble::Status(status, retry_after)) => {
                    let answer = Answer::new(status).body("trouble");
                    Some(match retry_after {
                        Some(seconds) => answer.header("Retry-After", seconds.to_string()),
                        None => answer,
                    })
                }
                _ => self.answer(&asked, &mut body)?,
            };
            io::copy(&mut body, &mut io::sink())?;
            (answer, limit - body.limit())
        };
        self.state().requests[number].sent = sent;
        if let Some(Trouble::Stall(pause)) = trouble {
            thread::sleep(pause);
        }
        match (answer, trouble) {
            (Some(_), Some(Trouble::CutRequest(_))) | (None, _) => Ok(false),
            (Some(answer), trouble) => {
                self.state().requests[number].status = answer.status;
                send(connection, answer, trouble, asked.method == "HEAD")
            }
        }
    }

    fn note(&self, asked: &Asked<'_>) -> usize {
        let mut state = self.state();
        let authorized = asked.authorization().is_some();
        if authorized && asked.host != Host::Registry {
            let fault = format!("{:?} got credentials", asked.host);
            state.faults.push(fault);
        }
        state.requests.push(Request {
            host: asked.host,
            method: asked.method.to_owned(),
            target: asked.target(),
            authorized,
            sent: 0,
            status: 0,
        });
        state.requests.len() - 1
    }

    fn trouble(&self, asked: &Asked<'_>) -> Option<Trouble> {
        let mut state = self.state();
        let mut found = None;
        for (number, troubled) in self.behaviour.troubles.iter().enumerate() {
            let is_method = ["", asked.method].contains(&troubled.method);
            let fits = is_method && asked.target().contains(&troubled.part);
            if fits {
                let met = state.met[number];
                state.met[number] += 1;
                if met.is_multiple_of(troubled.every) && met / troubled.every < troubled.times {
                    found = found.or(Some(troubled.trouble));
                }
            }
        }
        found
    }
}

#[test]
fn skopeo_takes_it_for_a_registry() {
    use std::process::Command;

    use crate::support::layout::Layout;
    use crate::support::process::run;
    use crate::support::program;

    let directory = tempfile::tempdir().unwrap();
    let image = Layout::make(&directory.path().join("image"), &[(1, 300_000), (2, 10)]);
    let skopeo = |arguments: &[&str]| {
        let mut skopeo = Command::new(program("skopeo", "skopeo"));
        run(skopeo
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(arguments));
    };
    let credentials = format!("{USER}:{PASSWORD}");
    for login in [Login::Nobody, Login::Basic, Login::Bearer] {
        let ecr = Ecr::start(Behaviour {
            login,
            ..Behaviour::private()
        });
        let name = format!("docker://{}", ecr.name("some/thing:1"));
        let flags = ["--dest-tls-verify=false", "--dest-creds", &credentials];
        skopeo(&[&flags[..], &[&image.name(), &name]].concat());
        ecr.assert_has("some/thing", "1", &image.digest);
        let copy = format!("dir:{}", tempfile::tempdir().unwrap().path().display());
        let flags = ["--src-tls-verify=false", "--src-creds", &credentials];
        skopeo(&[&flags[..], &[&name, &copy]].concat());
        assert_eq!(ecr.faults(), Vec::<String>::new());
        let patched = ecr
            .requests()
            .iter()
            .any(|r| r.method == "PATCH" && r.status == 201);
        assert!(patched, "skopeo sends in chunks: {:#?}", ecr.requests());
    }
}

#[test]
fn a_broken_session_cannot_begin_again() {
    let ecr = Ecr::start(Behaviour {
        troubles: vec![Troubled::once(
            Trouble::CutRequest(10),
            "PUT",
            "/blobs/uploads/",
        )],
        ..Behaviour::private()
    });
    let url = format!("http://{}/v2/some/blobs/uploads/", ecr.address());
    let begun = http::send("POST", &url, &[], Vec::new()).unwrap();
    let content = vec![7; 4000];
    let place = format!("{}&digest={}", begun.header("Location"), digest(&content));
    assert!(
        http::send("PUT", &place, &[], content.clone()).is_err(),
        "it was cut"
    );
    let again = http::send("PUT", &place, &[], content.clone()).unwrap();
    assert_eq!(again.status, 416);
    assert!(
        again.text().contains("is 0 instead of 10"),
        "{}",
        again.text()
    );
    let begun = http::send("POST", &url, &[], Vec::new()).unwrap();
    let place = format!("{}&digest={}", begun.header("Location"), digest(&content));
    assert_eq!(
        http::send("PUT", &place, &[], content.clone())
            .unwrap()
            .status,
        201
    );
    assert!(ecr.has_blob("some", &digest(&content)));
}

/// What a reader gets of the same document by each fault.
#[test]
fn faults_are_what_they_are_called() {
    let content = b"{\"mediaType\": \"some/thing\"}".to_vec();
    let name = digest(&content);
    let get = |trouble: Option<Trouble>| {
        let troubled = trouble.map(|trouble| Troubled::always(trouble, "GET", "/manifests/"));
        let ecr = Ecr::start(Behaviour {
            repositories: vec!["some"],
            ..Behaviour::troubled(troubled)
        });
        let url = format!("http://{}/v2/some/manifests/{name}", ecr.address());
        let headers = [("Content-Type", "some/thing")];
        let put = http::send("PUT", &url, &headers, content.clone()).unwrap();
        assert_eq!(put.status, 201, "{}", put.text());
        http::send("GET", &url, &[], Vec::new())
    };
    let body = |trouble| get(Some(trouble)).unwrap().body;
    assert_eq!(get(None).unwrap().body, content);
    assert_eq!(body(Trouble::Truncated), content[..content.len() / 2]);
    assert_eq!(body(Trouble::Length(-3)), content[..content.len() - 3]);
    assert_eq!(body(Trouble::Corrupt).len(), content.len());
    assert_ne!(body(Trouble::Corrupt), content);
    assert_eq!(body(Trouble::Lie), content);
    let lie = get(Some(Trouble::Lie)).unwrap();
    assert_ne!(lie.header("Docker-Content-Digest"), name);
    assert_eq!(
        get(Some(Trouble::Status(418, Some(7)))).unwrap().status,
        418
    );
    for cut in [
        Trouble::CutAnswer(3),
        Trouble::CutRequest(0),
        Trouble::Length(3),
    ] {
        assert!(get(Some(cut)).is_err(), "it was cut");
    }
}

#[test]
fn it_is_a_proxy_to_its_real_name() {
    let ecr = Ecr::start(Behaviour::private());
    let proxy = reqwest::Proxy::http(format!("http://{}", ecr.address())).unwrap();
    let client = reqwest::Client::builder().proxy(proxy).build().unwrap();
    let url = format!("http://{REAL}/v2/some/blobs/uploads/");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(client.post(url).send()).unwrap();
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["Location"].to_str().unwrap();
    let name = Ecr::real_name("some");
    let (host, repository) = name.split_once('/').unwrap();
    let begin = format!("http://{host}/v2/{repository}/blobs/uploads/");
    assert!(location.starts_with(&begin), "{location}");
}
