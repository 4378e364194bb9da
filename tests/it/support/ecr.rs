//! A registry that behaves as ECR does, and as networks do: every departure from the specification is a
//! switch, and every request is noted.
//!
//! It stands in for what cannot be asked in a test; what it takes, it checks as strictly as the real
//! ones (`content`). Three hosts: the registry, the bucket behind its redirects, and one for uploads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::content;
use crate::support::content::Content;
use crate::support::content::Refusal;
use crate::support::digest;
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
    /// How often a manifest is still not there.
    late: BTreeMap<String, u32>,
    faults: Vec<String>,
}

pub(crate) struct Ecr {
    registry: Listener,
    shared: Arc<Shared>,
    _others: [Listener; 2],
}

enum Body {
    Bytes(Vec<u8>),
    File(PathBuf, u64),
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

impl Answer {
    fn new(status: u16) -> Answer {
        let body = Body::Bytes(Vec::new());
        Answer {
            status,
            headers: Vec::new(),
            body,
        }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    fn body(self, bytes: impl Into<Vec<u8>>) -> Answer {
        Answer {
            body: Body::Bytes(bytes.into()),
            ..self
        }
    }

    fn refusal((status, code, message): Refusal) -> Answer {
        let error = json!({"errors": [{"code": code, "message": message}]});
        Answer::new(status)
            .header("Content-Type", "application/json")
            .body(error.to_string())
    }

    fn length(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File(path, start) => content::length(path) - start,
        }
    }
}

/// What was asked, taken apart.
struct Asked<'head> {
    host: Host,
    head: &'head Head,
    method: &'head str,
    url: reqwest::Url,
    /// `NAME`, then what follows it: `blobs`, `manifests` …, then the rest.
    parts: Option<(String, String, String)>,
}

impl<'head> Asked<'head> {
    fn new(host: Host, head: &'head Head) -> Asked<'head> {
        // Whoever takes it for a proxy asks for the whole address.
        let address = format!("http://{}", head.header("Host").unwrap_or("tests"));
        let whole = reqwest::Url::parse(head.word(1));
        let url = whole.or_else(|_| reqwest::Url::parse(&format!("{address}{}", head.word(1))));
        let url = url.expect("a target is a path");
        let path = url.path().strip_prefix("/v2/");
        let parts = path.and_then(|path| {
            let mut kinds = ["/blobs/uploads/", "/blobs/", "/manifests/", "/tags/"].into_iter();
            kinds.find_map(|kind| {
                let (name, rest) = path.split_once(kind)?;
                Some((name.to_owned(), kind.to_owned(), rest.to_owned()))
            })
        });
        let method = head.word(0);
        Asked {
            host,
            head,
            method,
            url,
            parts,
        }
    }

    /// Path and query.
    fn target(&self) -> String {
        let path = self.url.path();
        let query = self.url.query().map(|query| format!("{path}?{query}"));
        query.unwrap_or_else(|| path.to_owned())
    }

    fn query(&self, name: &str) -> Option<String> {
        let mut pairs = self.url.query_pairs();
        let found = pairs.find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned())
    }

    fn authorization(&self) -> Option<&str> {
        self.head.header("Authorization")
    }
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

    /// A name of a private registry of ECR's, for who goes through this one as a proxy.
    pub(crate) fn real_name(repository: &str) -> String {
        format!("{REAL}/{repository}")
    }

    /// The password that is good now.
    pub(crate) fn password(&self) -> String {
        self.shared.password(&self.shared.state())
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
        match self.behaviour.token_life {
            Some(_) => format!("{PASSWORD}{}", state.password.0),
            None => PASSWORD.to_owned(),
        }
    }

    fn serve(&self, host: Host, connection: &mut Connection, head: &Head) -> io::Result<bool> {
        let asked = Asked::new(host, head);
        let number = self.note(&asked);
        let trouble = self.trouble(&asked);
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

    // --- who may ask --------------------------------------------------------------------------------

    fn challenge(&self, asked: &Asked<'_>) -> Answer {
        let address = asked.url.authority();
        let challenge = match self.behaviour.login {
            Login::Bearer => {
                format!(
                    "Bearer realm=\"http://{address}/token/\",service=\"{address}\",scope=\"aws\""
                )
            }
            Login::Basic | Login::Nobody => {
                format!("Basic realm=\"http://{address}/\",service=\"ecr\"")
            }
        };
        let words = "Not Authorized".to_owned();
        Answer::refusal((401, "DENIED", words)).header("WWW-Authenticate", challenge)
    }

    fn is_allowed(&self, asked: &Asked<'_>) -> bool {
        let mut state = self.state();
        let value = asked.authorization().unwrap_or_default();
        match self.behaviour.login {
            Login::Nobody => true,
            Login::Basic => {
                if value != self.basic(&state) {
                    return false;
                }
                state.password.1 += 1;
                if Some(state.password.1) == self.behaviour.token_life {
                    state.password = (state.password.0 + 1, 0);
                }
                true
            }
            Login::Bearer => {
                let token = value.strip_prefix("Bearer ").unwrap_or_default();
                let may_write = token.ends_with("-all") || ["GET", "HEAD"].contains(&asked.method);
                match state.tokens.get_mut(token) {
                    Some(left) if *left > 0 && may_write => {
                        *left -= 1;
                        true
                    }
                    _ => false,
                }
            }
        }
    }

    fn basic(&self, state: &State) -> String {
        let pair = format!("{USER}:{}", self.password(state));
        format!("Basic {}", STANDARD.encode(pair))
    }

    fn token(&self, asked: &Asked<'_>) -> Answer {
        let mut state = self.state();
        let may = match asked.authorization() {
            None => "read",
            Some(value) if value == self.basic(&state) => "all",
            Some(_) => return Answer::refusal((403, "DENIED", "wrong password".to_owned())),
        };
        let token = format!("{TOKEN}-{}-{may}", state.tokens.len());
        let life = self.behaviour.token_life.unwrap_or(u64::MAX);
        state.tokens.insert(token.clone(), life);
        Answer::new(200)
            .header("Content-Type", "application/json")
            .body(json!({"token": token}).to_string())
    }

    // --- what is asked --------------------------------------------------------------------------------

    /// The answer; none where the connection is to be cut.
    fn answer(&self, asked: &Asked<'_>, body: &mut dyn Read) -> io::Result<Option<Answer>> {
        if asked.host == Host::Registry {
            if asked.url.path().starts_with("/token") {
                return Ok(Some(self.token(asked)));
            }
            if !self.is_allowed(asked) {
                return Ok(Some(self.challenge(asked)));
            }
        } else if asked.authorization().is_some() {
            let words = "Only one auth mechanism allowed".to_owned();
            return Ok(Some(Answer::refusal((400, "InvalidArgument", words))));
        }
        let Some((name, kind, rest)) = &asked.parts else {
            return Ok(Some(Answer::new(if asked.url.path() == "/v2/" {
                200
            } else {
                404
            })));
        };
        if let ControlFlow::Break(missing) = self.missing(asked, name) {
            return Ok(missing);
        }
        let answer = match (asked.method, kind.as_str()) {
            ("POST", "/blobs/uploads/") => self.begin(asked, name),
            ("PATCH" | "PUT", "/blobs/uploads/") => self.upload(asked, name, rest, body)?,
            ("GET" | "HEAD", "/blobs/") => self.blob(asked, name, rest),
            ("GET" | "HEAD", "/manifests/") => self.manifest(name, rest),
            ("PUT", "/manifests/") => self.put_manifest(asked, name, rest, body)?,
            ("GET", "/tags/") => {
                let tags = self.state().content.tags(name);
                let tags = tags.keys().collect::<Vec<_>>();
                Answer::new(200).body(json!({"name": name, "tags": tags}).to_string())
            }
            _ => Answer::refusal((405, "UNSUPPORTED", "not asked of a registry".to_owned())),
        };
        Ok(Some(answer))
    }

    /// What is answered in a repository that is not there; nothing where the connection is to be cut.
    fn missing(&self, asked: &Asked<'_>, name: &str) -> ControlFlow<Option<Answer>> {
        let mut state = self.state();
        if state.content.has(name) {
            return ControlFlow::Continue(());
        }
        let is_push = asked.method == "POST";
        let words = format!("The repository with name '{name}' does not exist in the registry");
        match self.behaviour.missing {
            Missing::Created if is_push => {
                state.content.create(name);
                ControlFlow::Continue(())
            }
            Missing::Cut if is_push => ControlFlow::Break(None),
            _ => ControlFlow::Break(Some(Answer::refusal((404, "NAME_UNKNOWN", words)))),
        }
    }

    fn begin(&self, asked: &Asked<'_>, name: &str) -> Answer {
        let mut state = self.state();
        if let (Some(digest), Some(from), true) = (
            asked.query("mount"),
            asked.query("from"),
            self.behaviour.mounts,
        ) && state.content.is_referenced(&from, &digest)
            && state.content.blob(&from, &digest).is_some()
        {
            state.content.link(name, &digest);
            return Answer::new(201).header("Location", format!("/v2/{name}/blobs/{digest}"));
        }
        let session = state.content.begin_upload();
        let path = format!("/v2/{name}/blobs/uploads/{session}?state={SIGNATURE}");
        let location = match self.behaviour.location {
            Location::Relative => path,
            Location::Absolute => format!("http://{}{path}", asked.url.authority()),
            Location::OtherHost => format!("http://{}{path}", self.address("uploads")),
        };
        Answer::new(202)
            .header("Location", location)
            .header("Range", "0-0")
    }

    fn upload(
        &self,
        asked: &Asked<'_>,
        name: &str,
        session: &str,
        body: &mut dyn Read,
    ) -> io::Result<Answer> {
        if asked.query("state").as_deref() != Some(SIGNATURE) {
            self.state()
                .faults
                .push("an upload without its state".to_owned());
            return Ok(Answer::refusal((
                400,
                "BLOB_UPLOAD_INVALID",
                "no state".to_owned(),
            )));
        }
        let range = asked.head.header("Content-Range");
        let start = range.and_then(|range| range.split('-').next()?.parse().ok());
        let part = match self.state().content.append_to(session, start) {
            Ok(part) => part,
            Err(refusal) => return Ok(Answer::refusal(refusal)),
        };
        let (count, mut is_whole) = content::append(&part, body)?;
        is_whole &= asked.head.is_chunked() || asked.head.length() == Some(count);
        if asked.method == "PUT" && asked.head.length().is_none() {
            let fault = "a PUT without Content-Length".to_owned();
            self.state().faults.push(fault);
            return Ok(Answer::new(411));
        }
        let told = self.state().content.note(session, count, is_whole);
        if !is_whole {
            return Ok(Answer::refusal((
                400,
                "SIZE_INVALID",
                "the body broke off".to_owned(),
            )));
        }
        if asked.method == "PATCH" {
            let location = asked.target();
            // The specification has 202.
            return Ok(Answer::new(201)
                .header("Location", location)
                .header("Range", format!("0-{told}")));
        }
        let (wanted, actual) = (
            asked.query("digest").unwrap_or_default(),
            content::digest_of(&part)?,
        );
        let finished = self
            .state()
            .content
            .finish(session, name, (&wanted, &actual));
        Ok(match finished {
            Ok(()) => Answer::new(201).header("Docker-Content-Digest", wanted),
            Err(refusal) => Answer::refusal(refusal),
        })
    }

    fn blob(&self, asked: &Asked<'_>, name: &str, digest: &str) -> Answer {
        if self.behaviour.refuses_blob_head && asked.method == "HEAD" {
            return self.challenge(asked);
        }
        let Some(path) = self.state().content.blob(name, digest) else {
            return Answer::refusal((404, "BLOB_UNKNOWN", digest.to_owned()));
        };
        let is_signed = asked.query("X-Amz-Signature").as_deref() == Some(SIGNATURE);
        if asked.host == Host::Bucket && !is_signed {
            return Answer::refusal((403, "AccessDenied", "no signature".to_owned()));
        }
        if asked.host == Host::Registry && asked.method == "GET" && self.behaviour.redirects {
            let bucket = self.address("bucket");
            let place =
                format!("http://{bucket}/v2/{name}/blobs/{digest}?X-Amz-Signature={SIGNATURE}");
            return Answer::new(307).header("Location", place);
        }
        let size = content::length(&path);
        let range = asked.head.header("Range");
        let start = range.and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        let answer = match start {
            Some(start) if start >= size => return Answer::new(416),
            Some(start) => Answer::new(206).header(
                "Content-Range",
                format!("bytes {start}-{}/{size}", size - 1),
            ),
            None => Answer::new(200),
        };
        let body = Body::File(path, start.unwrap_or(0));
        Answer {
            body,
            ..answer.header("Docker-Content-Digest", digest)
        }
    }

    fn manifest(&self, name: &str, version: &str) -> Answer {
        let mut state = self.state();
        let found = state.content.manifest(name, version);
        let is_late = found.as_ref().is_some_and(|(digest, _, _)| {
            let left = state.late.get_mut(digest);
            left.is_some_and(|left| {
                let is_late = *left > 0;
                *left = left.saturating_sub(1);
                is_late
            })
        });
        match found {
            Some((digest, media_type, content)) if !is_late => Answer::new(200)
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", digest)
                .body(content),
            _ => Answer::refusal((
                404,
                "MANIFEST_UNKNOWN",
                format!("Requested image not found: {version}"),
            )),
        }
    }

    fn put_manifest(
        &self,
        asked: &Asked<'_>,
        name: &str,
        version: &str,
        body: &mut dyn Read,
    ) -> io::Result<Answer> {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        let mut state = self.state();
        let is_tag = !version.starts_with("sha256:");
        // Even the same image again is refused.
        if is_tag && self.behaviour.immutable && state.content.tags(name).contains_key(version) {
            let words = format!(
                "The image tag '{version}' already exists in the '{name}' repository and cannot be overwritten because the tag is immutable."
            );
            return Ok(Answer::refusal((400, "TAG_INVALID", words)));
        }
        let media_type = asked.head.header("Content-Type").unwrap_or_default();
        Ok(
            match state
                .content
                .put_manifest(name, version, (media_type, bytes))
            {
                Ok(digest) => {
                    let late = self.behaviour.late;
                    state.late.entry(digest.clone()).or_insert(late);
                    Answer::new(201).header("Docker-Content-Digest", digest)
                }
                Err(refusal) => Answer::refusal(refusal),
            },
        )
    }
}

/// Sends an answer with what is to go wrong with it; whether the connection can have another.
fn send(
    connection: &mut Connection,
    answer: Answer,
    trouble: Option<Trouble>,
    is_head: bool,
) -> io::Result<bool> {
    let mut answer = answer;
    if let (Some(Trouble::Truncated), Body::Bytes(bytes)) = (trouble, &mut answer.body) {
        bytes.truncate(bytes.len() / 2);
    }
    let whole = answer.length();
    let said = match trouble {
        Some(Trouble::Length(more)) => whole.saturating_add_signed(more),
        _ => whole,
    };
    let mut head = Head {
        first: format!("HTTP/1.1 {} As Said", answer.status),
        ..Head::default()
    };
    for (name, value) in &answer.headers {
        head.set(name, value);
    }
    if trouble == Some(Trouble::Lie) {
        head.set("Docker-Content-Digest", &digest(b"a lie"));
    }
    if head.header("Content-Length").is_none() {
        head.set("Content-Length", &said.to_string());
    }
    connection.send_head(&head)?;
    if is_head {
        return Ok(true);
    }
    let limit = match trouble {
        Some(Trouble::CutAnswer(count)) => count,
        _ => said,
    };
    let source: &mut dyn Read = match &mut answer.body {
        Body::Bytes(bytes) => &mut bytes.as_slice(),
        Body::File(path, start) => {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(*start))?;
            &mut { file }
        }
    };
    let mut source = source.take(limit);
    if trouble == Some(Trouble::Corrupt) {
        let mut first = [0; 1];
        let count = source.read(&mut first)?;
        connection.writer.write_all(&[first[0] ^ 1][..count])?;
    }
    io::copy(&mut source, &mut connection.writer)?;
    Ok(limit == whole && said == whole)
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
