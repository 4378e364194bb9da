//! From a registry's challenge to the header that answers it.
//!
//! Follows the distribution project's token specification and RFC 7617. Credentials come from Docker's
//! config files and credential helpers, whose paths the caller gives. A secret prints as nothing, and
//! goes only to the registry it is for and to the token server that this registry names.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Mutex;

use crate::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use crate::http::{self, Client, Method, Request, Response, Secret, StatusCode, Url};

const MAX_TOKEN: u64 = 1 << 20;
/// The key under which `docker login` keeps Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// A helper says with this user name that its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A config file cannot be read.
    #[error("cannot read the credentials in `{}`: {detail}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A credential helper failed.
    #[error("the credential helper `{helper}` failed for `{registry}`: {detail}")]
    Helper {
        /// The program.
        helper: String,
        /// For whom it was asked.
        registry: String,
        /// What it said.
        detail: String,
    },
    /// The registry asks in a way that nobody here can answer.
    #[error("`{registry}` asks for authentication in a way that is not understood: {challenge}")]
    Challenge {
        /// The registry.
        registry: String,
        /// Its words.
        challenge: String,
    },
    /// The token server refused.
    #[error("the token server of `{registry}` answered {status}")]
    TokenServer {
        /// The registry.
        registry: String,
        /// The status code.
        status: u16,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// The token server could not be reached.
    #[error(transparent)]
    Http(#[from] http::Error),
}

/// Who someone is for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password(String, Secret),
    /// A token that the token server changes for others.
    Identity(Secret),
}

impl Credentials {
    fn basic(&self) -> Option<Secret> {
        match self {
            Self::Password(user, password) => {
                let pair = format!("{user}:{}", password.reveal());
                Some(Secret::new(format!("Basic {}", BASE64.encode(pair))))
            }
            Self::Identity(_) => None,
        }
    }
}

/// Docker's config files, the first that knows a registry counting.
#[derive(Debug, Clone, Default)]
pub struct Keychain {
    /// The files, which need not exist.
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, AuthEntry>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl std::fmt::Debug for AuthEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthEntry")
    }
}

impl AuthEntry {
    fn credentials(&self) -> Option<Credentials> {
        let some = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if let Some(token) = some(&self.identitytoken) {
            return Some(Credentials::Identity(Secret::new(token)));
        }
        if let (Some(user), Some(password)) = (some(&self.username), some(&self.password)) {
            return Some(Credentials::Password(user, Secret::new(password)));
        }
        let decoded = BASE64.decode(some(&self.auth)?.trim()).ok()?;
        let pair = String::from_utf8(decoded).ok()?;
        let (user, password) = pair.split_once(':')?;
        let password = password.trim_end_matches('\0');
        Some(Credentials::Password(
            user.to_owned(),
            Secret::new(password),
        ))
    }
}

impl Keychain {
    /// The credentials for `repository` of `registry` (host with port if any), if any are kept.
    ///
    /// # Errors
    /// When a file or a helper is broken.
    pub async fn credentials(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credentials>, Error> {
        for path in &self.files {
            let text = match fs::read(path) {
                Ok(text) => text,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    return Err(Error::Config {
                        path: path.clone(),
                        detail: e.to_string(),
                    });
                }
            };
            // serde's own text could quote a secret; the position is enough to mend the file.
            let config: DockerConfig =
                serde_json::from_slice(&text).map_err(|e| Error::Config {
                    path: path.clone(),
                    detail: format!("no valid JSON of that kind at line {}", e.line()),
                })?;
            if let Some(found) = config.credentials(registry, repository).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn is_docker_hub(registry: &str) -> bool {
    matches!(
        registry,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    )
}

/// How much of a key of `auths` names `host/repository`, if it does: podman's keys may have a path, and the
/// longest counts; Docker's may be URLs of an API, whose path says nothing.
fn key_fits(key: &str, registry: &str, repository: &str) -> Option<usize> {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let bare = bare.unwrap_or(key).trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    if host != registry && !(is_docker_hub(host) && is_docker_hub(registry)) {
        return None;
    }
    if matches!(path, "" | "v1" | "v2") {
        return Some(0);
    }
    let rest = repository.strip_prefix(path)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(path.len())
}

impl DockerConfig {
    async fn credentials(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credentials>, Error> {
        let fits = |key: &str| key_fits(key, registry, repository);
        let helper = self
            .cred_helpers
            .iter()
            .find(|(key, _)| fits(key).is_some());
        let helper = helper
            .map(|(_, helper)| helper)
            .or(self.creds_store.as_ref());
        if let Some(helper) = helper.filter(|name| !name.is_empty())
            && let Some(found) = ask_helper(helper, registry).await?
        {
            return Ok(Some(found));
        }
        let fitting = self
            .auths
            .iter()
            .filter_map(|(key, entry)| Some((fits(key)?, key, entry)));
        let mut fitting: Vec<_> = fitting.collect();
        fitting.sort_by_key(|(length, key, _)| (std::cmp::Reverse(*length), *key));
        Ok(fitting
            .into_iter()
            .find_map(|(_, _, entry)| entry.credentials()))
    }
}

/// Runs `docker-credential-NAME get`.
async fn ask_helper(name: &str, registry: &str) -> Result<Option<Credentials>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let helper = format!("docker-credential-{name}");
    let failed = |detail: String| Error::Helper {
        helper: helper.clone(),
        registry: registry.to_owned(),
        detail,
    };
    let server = if is_docker_hub(registry) {
        DOCKER_HUB_KEY
    } else {
        registry
    };
    let mut child = tokio::process::Command::new(&helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not listen says why on its way out.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let output = child
        .wait_with_output()
        .await
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(said));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is no credentials".to_owned()))?;
    let secret = Secret::new(answer.secret);
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials::Identity(secret)
    } else {
        Credentials::Password(answer.username, secret)
    }))
}

/// The headers that have been accepted so far, by host and scopes.
#[derive(Debug)]
pub struct Tokens {
    keychain: Keychain,
    known: Mutex<HashMap<(String, Vec<String>), Secret>>,
    credentials: Mutex<HashMap<(String, String), Option<Credentials>>>,
}

impl Tokens {
    /// None yet.
    pub fn new(keychain: Keychain) -> Self {
        Self {
            keychain,
            known: Mutex::default(),
            credentials: Mutex::default(),
        }
    }

    /// The header that worked last.
    pub(super) async fn known(&self, host: &str, scopes: &[String]) -> Option<Secret> {
        let key = (host.to_owned(), scopes.to_vec());
        self.known.lock().await.get(&key).cloned()
    }

    /// Whether credentials for a repository were found.
    pub(super) async fn has_credentials(&self, registry: &str, repository: &str) -> bool {
        let key = (registry.to_owned(), repository.to_owned());
        self.credentials
            .lock()
            .await
            .get(&key)
            .is_some_and(Option::is_some)
    }

    async fn credentials(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credentials>, Error> {
        let key = (registry.to_owned(), repository.to_owned());
        let mut known = self.credentials.lock().await;
        if let Some(found) = known.get(&key) {
            return Ok(found.clone());
        }
        let found = self.keychain.credentials(registry, repository).await?;
        known.insert(key, found.clone());
        Ok(found)
    }

    /// A header that answers the challenge in `response`, unless there is none better than `refused`.
    pub(super) async fn answer(
        &self,
        client: &Client,
        host: &str,
        scopes: &[String],
        refused: Option<Secret>,
        (registry, repository, response): (&str, &str, &Response),
    ) -> Result<Option<Secret>, Error> {
        let key = (host.to_owned(), scopes.to_vec());
        // Held while asking, so that many requests at once ask once.
        let mut known = self.known.lock().await;
        if let Some(newer) = known.get(&key)
            && Some(newer) != refused.as_ref()
        {
            return Ok(Some(newer.clone()));
        }
        let credentials = self.credentials(registry, repository).await?;
        let challenges = read_challenges(response);
        let bearer = challenges
            .iter()
            .find(|c| c.scheme.eq_ignore_ascii_case("bearer"));
        let basic = challenges
            .iter()
            .any(|c| c.scheme.eq_ignore_ascii_case("basic"));
        let fresh = match (bearer, basic) {
            (Some(bearer), _) => {
                let server =
                    token_server(bearer, scopes, client).ok_or_else(|| Error::Challenge {
                        registry: registry.to_owned(),
                        challenge: format!("Bearer with realm {:?}", bearer.value("realm")),
                    })?;
                Some(ask_token(client, registry, server, credentials.as_ref()).await?)
            }
            (None, true) => credentials.as_ref().and_then(Credentials::basic),
            (None, false) => {
                let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
                return Err(Error::Challenge {
                    registry: registry.to_owned(),
                    challenge: if schemes.is_empty() {
                        "it gives no challenge".to_owned()
                    } else {
                        schemes.join(", ")
                    },
                });
            }
        };
        let fresh = fresh.filter(|fresh| Some(fresh) != refused.as_ref());
        if let Some(fresh) = &fresh {
            known.insert(key, fresh.clone());
        }
        Ok(fresh)
    }
}

struct TokenServer {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
}

impl TokenServer {
    fn url(self) -> Url {
        let mut url = self.realm;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
        }
        url
    }
}

fn token_server(bearer: &Challenge, scopes: &[String], client: &Client) -> Option<TokenServer> {
    let realm = Url::parse(bearer.value("realm")?).ok()?;
    // Without TLS a token server may only be where registries may be too.
    let secure = match realm.scheme() {
        "https" => true,
        "http" => client.is_plain(&http::host_and_port(&realm)),
        _ => false,
    };
    secure.then(|| TokenServer {
        realm,
        service: bearer.value("service").map(str::to_owned),
        scopes: scopes.to_vec(),
    })
}

async fn ask_token(
    client: &Client,
    registry: &str,
    server: TokenServer,
    credentials: Option<&Credentials>,
) -> Result<Secret, Error> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let request = if let Some(Credentials::Identity(token)) = credentials {
        identity_request(server, token)
    } else {
        let mut request = Request::new(Method::GET, server.url());
        request.authorization = credentials.and_then(Credentials::basic);
        request
    };
    let response = client.send(&request).await?;
    let status = response.status();
    let refused = Error::TokenServer {
        registry: registry.to_owned(),
        status: status.as_u16(),
        with_credentials: credentials.is_some(),
    };
    if status != StatusCode::OK {
        return Err(refused);
    }
    let body = http::read_limited(response, MAX_TOKEN).await?;
    let answer: Option<Answer> = serde_json::from_slice(&body).ok();
    let token = answer.and_then(|a| a.token.or(a.access_token));
    token
        .map(|token| Secret::new(format!("Bearer {token}")))
        .ok_or(refused)
}

/// OAuth 2's exchange of a refresh token, a form in the body.
fn identity_request(server: TokenServer, token: &Secret) -> Request {
    let mut form = server.realm.clone();
    form.query_pairs_mut()
        .clear()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "lambimg")
        .append_pair("service", server.service.as_deref().unwrap_or_default())
        .append_pair("scope", &server.scopes.join(" "))
        .append_pair("refresh_token", token.reveal());
    let mut request = Request::new(Method::POST, server.realm);
    request.body = Some(form.query().unwrap_or_default().to_owned().into());
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.insert(CONTENT_TYPE, kind);
    request
}

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn value(&self, name: &str) -> Option<&str> {
        let mut matching = self
            .parameters
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        matching.next().map(|(_, value)| value.as_str())
    }
}

fn read_challenges(response: &Response) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    let texts = headers.filter_map(|value| value.to_str().ok());
    texts.flat_map(parse_challenges).collect()
}

/// RFC 9110 §11.6.1: challenges and their parameters are separated by commas alike; a word without
/// `=` begins a challenge.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for part in split_unquoted(text) {
        let (word, parameter) = match part.split_once(' ') {
            Some((word, rest)) if !word.contains('=') => (Some(word), rest.trim()),
            None if !part.contains('=') => (Some(part), ""),
            _ => (None, part),
        };
        if let Some(scheme) = word {
            challenges.push(Challenge {
                scheme: scheme.to_owned(),
                parameters: Vec::new(),
            });
        }
        if let (Some(challenge), Some((key, value))) =
            (challenges.last_mut(), parameter.split_once('='))
        {
            let value = value.trim().trim_matches('"').replace("\\\"", "\"");
            challenge.parameters.push((key.trim().to_owned(), value));
        }
    }
    challenges
}

fn split_unquoted(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_told_apart() {
        let text = r#"Bearer realm="https://auth.test/token",service="r.test",scope="a:b:pull,push", Basic realm="x""#;
        let challenges = parse_challenges(text);
        assert_eq!(challenges.len(), 2);
        assert_eq!(
            challenges[0].value("Realm"),
            Some("https://auth.test/token")
        );
        assert_eq!(challenges[0].value("scope"), Some("a:b:pull,push"));
        assert_eq!(
            (&*challenges[1].scheme, challenges[1].value("realm")),
            ("Basic", Some("x"))
        );
    }

    #[test]
    fn tokens_are_not_asked_for_without_tls() {
        let challenge =
            |realm: &str| parse_challenges(&format!("Bearer realm=\"{realm}\"")).remove(0);
        let client = Client::new(http::Settings::default());
        let asked = |realm: &str| token_server(&challenge(realm), &[], &client).is_some();
        assert!(asked("https://a.test/t") && asked("http://127.0.0.1:1/t"));
        assert!(!asked("http://a.test/t") && !asked("file:///etc/passwd"));
    }

    #[tokio::test]
    async fn docker_config_is_read_by_host() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let auth = BASE64.encode("me:pass:word");
        let text = format!(
            r#"{{"auths": {{"https://r.test:5000/v2/": {{"auth": "{auth}"}},
                "https://index.docker.io/v1/": {{"identitytoken": "idt"}}, "empty.test": {{}},
                "q.test/org": {{"auth": "{auth}"}}, "q.test/other": {{"identitytoken": "other"}}}}}}"#
        );
        fs::write(&path, text).unwrap();
        let files = vec![directory.path().join("absent.json"), path.clone()];
        let keychain = Keychain { files };
        let found = |host: &'static str| {
            let keychain = keychain.clone();
            async move { keychain.credentials(host, "org/app").await.unwrap() }
        };
        let me = Credentials::Password("me".into(), Secret::new("pass:word"));
        assert_eq!(found("r.test:5000").await, Some(me.clone()));
        assert_eq!(
            found("q.test").await,
            Some(me),
            "the key of this repository"
        );
        assert_eq!(
            found("docker.io").await,
            Some(Credentials::Identity(Secret::new("idt")))
        );
        assert_eq!(found("empty.test").await, None);
        assert_eq!(found("r.test").await, None);
        fs::write(&path, r#"{"auths": {"r.test": {"auth": 7}}}"#).unwrap();
        let error = keychain
            .credentials("r.test", "a")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("no valid JSON of that kind at line 1"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_header_can_be_read(text in "[ -~]{0,60}") {
            let _ = parse_challenges(&text);
        }
    }
}
