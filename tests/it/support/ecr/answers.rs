//! What the registry answers: who may ask, what is there, what is taken, and how an answer is spoilt.
//!
//! Which request is spoilt is decided above it; what is kept, below (`content`).

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::digest;
use crate::support::ecr::Host;
use crate::support::ecr::Location;
use crate::support::ecr::Login;
use crate::support::ecr::Missing;
use crate::support::ecr::SIGNATURE;
use crate::support::ecr::Shared;
use crate::support::ecr::State;
use crate::support::ecr::TOKEN;
use crate::support::ecr::Trouble;
use crate::support::ecr::USER;
use crate::support::ecr::content;
use crate::support::ecr::content::Refusal;
use crate::support::wire::Connection;
use crate::support::wire::Head;

enum Body {
    Bytes(Vec<u8>),
    File(PathBuf, u64),
}

pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

impl Answer {
    pub(super) fn new(status: u16) -> Answer {
        let body = Body::Bytes(Vec::new());
        Answer {
            status,
            headers: Vec::new(),
            body,
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(self, bytes: impl Into<Vec<u8>>) -> Answer {
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
pub(super) struct Asked<'head> {
    pub(super) host: Host,
    head: &'head Head,
    pub(super) method: &'head str,
    url: reqwest::Url,
    /// `NAME`, then what follows it: `blobs`, `manifests` …, then the rest.
    parts: Option<(String, String, String)>,
}

impl<'head> Asked<'head> {
    pub(super) fn new(host: Host, head: &'head Head) -> Asked<'head> {
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
    pub(super) fn target(&self) -> String {
        let path = self.url.path();
        let query = self.url.query().map(|query| format!("{path}?{query}"));
        query.unwrap_or_else(|| path.to_owned())
    }

    fn query(&self, name: &str) -> Option<String> {
        let mut pairs = self.url.query_pairs();
        let found = pairs.find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned())
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.head.header("Authorization")
    }
}

impl Shared {
    // --- who may ask --------------------------------------------------------------------------------

    fn challenge(&self, asked: &Asked<'_>) -> Answer {
        let address = asked.url.authority();
        if self.behaviour.denies_expired && asked.authorization().is_some() {
            let words = "Your authorization token has expired. Reauthenticate and try again.";
            return Answer::refusal((403, "DENIED", words.to_owned()));
        }
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
                state.password_left = state.password_left.and_then(|left| left.checked_sub(1));
                let is_over = state.password_left == Some(0);
                if is_over || Some(state.password.1) == self.behaviour.token_life {
                    state.password = (state.password.0 + 1, 0);
                    state.password_left = None;
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
    pub(super) fn answer(
        &self,
        asked: &Asked<'_>,
        body: &mut dyn Read,
    ) -> io::Result<Option<Answer>> {
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
pub(super) fn send(
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
