//! Who the user is for an index, and where that may be told.
//!
//! Resolvers take names and passwords out of the URLs that they write, so they are put back here by where a URL
//! leads: scheme, host and port have to be those that they were given for, and where several were given for one
//! origin, the one whose path goes furthest along. After them come `.netrc` and, where the user asks for it, the
//! program keyring. Nobody but the origin itself is ever sent any. PyPI is sent what was given for it by name.
//! Where all this is written down, and what is fetched, is not known here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::http::{self, Client, Secret, Url};
use crate::python::lock::percent_decoded;
use crate::python::netrc::{Login, Netrc};

/// Hosts that everyone may read: no entry for all hosts is meant for them.
const PUBLIC: [&str; 2] = ["pypi.org", "files.pythonhosted.org"];

/// What keyring answered, by place and name.
type Answers = BTreeMap<(String, String), Option<Secret>>;

/// The user's credentials. Cheap enough to clone, and what keyring answered is shared.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    given: Vec<Given>,
    netrc: Netrc,
    keyring: Option<PathBuf>,
    variables: BTreeMap<String, Secret>,
    answers: Arc<Mutex<Answers>>,
}

/// What the user said of a place.
#[derive(Debug, Clone)]
struct Given {
    /// Where, without user information.
    place: Url,
    user: Option<Secret>,
    password: Option<Secret>,
}

impl Credentials {
    /// Takes a URL of an index or a file, with the name and password that may be in it. What was added first is
    /// asked first.
    pub fn add_url(&mut self, url: &Url) {
        if !matches!(url.scheme(), "http" | "https") {
            return;
        }
        let user = Some(url.username()).filter(|user| !user.is_empty());
        self.given.push(Given {
            place: without_user(url),
            user: user.map(|user| Secret::new(percent_decoded(user))),
            password: url.password().map(|p| Secret::new(percent_decoded(p))),
        });
    }

    /// Takes the text of a URL in which `${NAME}` stands for a variable, as requirements files may have it.
    /// What is no URL is left to whoever reads that file to its end.
    pub fn add_text(&mut self, text: &str) {
        if let Ok(url) = self.expanded(text).parse() {
            self.add_url(&url);
        }
    }

    /// These, and before them those in the texts of such URLs.
    #[must_use]
    pub fn with_texts(&self, texts: &[Secret]) -> Self {
        let mut with = Self {
            given: Vec::new(),
            ..self.clone()
        };
        for text in texts {
            with.add_text(text.reveal());
        }
        with.given.extend(self.given.iter().cloned());
        with
    }

    /// Takes a name or a password, or both, that stand beside the URL that they are for.
    pub fn add_pair(&mut self, url: &Url, user: Option<Secret>, password: Option<Secret>) {
        let own = Some(url.username()).filter(|user| !user.is_empty());
        self.given.push(Given {
            place: without_user(url),
            user: user.or_else(|| own.map(|user| Secret::new(percent_decoded(user)))),
            password: password.or_else(|| url.password().map(|p| Secret::new(percent_decoded(p)))),
        });
    }

    /// Takes a `.netrc`.
    pub fn set_netrc(&mut self, netrc: Netrc) {
        self.netrc = netrc;
    }

    /// Has the program keyring asked for the password of a name.
    pub fn set_keyring(&mut self, program: PathBuf) {
        self.keyring = Some(program);
    }

    /// Takes what `${NAME}` stands for.
    pub fn set_variables(&mut self, variables: BTreeMap<String, Secret>) {
        self.variables = variables;
    }

    /// The text with its variables put in; an unknown one stays as it stands.
    pub fn expanded(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, tail) = rest.split_at(at);
            result.push_str(before);
            let Some(end) = tail.find('}') else {
                rest = tail;
                break;
            };
            let value = tail.get(2..end).and_then(|name| self.variables.get(name));
            result.push_str(value.map_or(&tail[..=end], Secret::reveal));
            rest = &tail[end + 1..];
        }
        result.push_str(rest);
        result
    }

    /// The value of the `Authorization` header for a request to `url`, if there are credentials for it.
    pub async fn authorization(&self, url: &Url, client: &Client) -> Option<Secret> {
        let login = self.login(url, client).await?;
        let pair = format!("{}:{}", login.user.reveal(), login.password.reveal());
        Some(Secret::new(format!("Basic {}", BASE64.encode(pair))))
    }

    async fn login(&self, url: &Url, client: &Client) -> Option<Login> {
        let mut own = Self::default();
        own.add_url(url);
        let own = own.given.pop()?;
        let nearest = self.nearest(url, own.user.as_ref());
        let mut with_password = [Some(&own), nearest].into_iter().flatten();
        let given = with_password.find_map(Given::login);
        if given.is_some() {
            return given;
        }
        let user = own.user.as_ref();
        let user = user.or_else(|| nearest.and_then(|given| given.user.as_ref()));
        if let Some(login) = self.in_netrc(url, client)
            && user.is_none_or(|user| *user == login.user)
        {
            return Some(login.clone());
        }
        let user = user?;
        let place = nearest.map_or(&own.place, |given| &given.place);
        let password = self.in_keyring(place, user).await;
        Some(Login {
            user: user.clone(),
            // A token may stand where the name does, and nothing behind it.
            password: password.unwrap_or_else(|| Secret::new("")),
        })
    }

    /// What was given for the origin, if that is not someone else: of several the one whose path shares most with
    /// the URL's, and of equals the first.
    fn nearest(&self, url: &Url, user: Option<&Secret>) -> Option<&Given> {
        let fits = |given: &&Given| {
            given.place.origin() == url.origin()
                && given.user.is_some()
                && user.is_none_or(|user| given.user.as_ref() == Some(user))
        };
        // The last of equals is the greatest to `max_by_key`.
        let fitting = self.given.iter().rev().filter(fits);
        fitting.max_by_key(|given| shared_segments(&given.place, url))
    }

    fn in_netrc(&self, url: &Url, client: &Client) -> Option<&Login> {
        let host = url.host_str()?;
        // `.netrc` names hosts alone: without TLS it counts where nobody listens, or where the user leads.
        let is_safe = url.scheme() == "https"
            || client.is_plain(&http::host_and_port(url))
            || self.given.iter().any(|g| g.place.origin() == url.origin());
        let for_all = || self.netrc.for_all().filter(|_| !PUBLIC.contains(&host));
        let found = self.netrc.machine(host).or_else(for_all);
        found.filter(|_| is_safe)
    }

    /// Asks as uv does: for the place, then for the host.
    async fn in_keyring(&self, place: &Url, user: &Secret) -> Option<Secret> {
        let program = self.keyring.as_ref()?;
        let services = [place.to_string(), http::host_and_port(place)];
        // A name may be a lock's, and must not be an option.
        let words = services.iter().map(String::as_str).chain([user.reveal()]);
        if words.into_iter().any(|word| word.starts_with('-')) {
            return None;
        }
        let key = (services[0].clone(), user.reveal().to_owned());
        // Held while asking, so that many requests at once ask once.
        let mut answers = self.answers.lock().await;
        if let Some(answer) = answers.get(&key) {
            return answer.clone();
        }
        let mut answer = None;
        for service in &services {
            let mut command = Command::new(program);
            command.args(["get", service, user.reveal()]);
            command.stdin(Stdio::null()).stderr(Stdio::null());
            let output = command.kill_on_drop(true).output().await.ok();
            let output = output.filter(|output| output.status.success());
            let text = output.and_then(|output| String::from_utf8(output.stdout).ok());
            let password = text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
            answer = password.filter(|p| !p.is_empty()).map(Secret::new);
            if answer.is_some() {
                break;
            }
        }
        answers.insert(key, answer.clone());
        answer
    }
}

impl Given {
    fn login(&self) -> Option<Login> {
        Some(Login {
            user: self.user.clone()?,
            password: self.password.clone()?,
        })
    }
}

/// The URL without its name and password.
pub fn without_user(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail for URLs that can have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

fn shared_segments(one: &Url, other: &Url) -> usize {
    let segments = |url: &Url| -> Vec<String> {
        let path = url.path().split('/');
        path.filter(|s| !s.is_empty()).map(str::to_owned).collect()
    };
    let (one, other) = (segments(one), segments(other));
    let pairs = one.iter().zip(&other);
    pairs.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Settings;
    use std::os::unix::fs::PermissionsExt as _;

    fn given(urls: &[&str]) -> Credentials {
        let mut credentials = Credentials::default();
        for url in urls {
            credentials.add_url(&url.parse().unwrap());
        }
        credentials
    }

    /// `user:password` as it is sent to a URL, or nothing.
    async fn sent(credentials: &Credentials, url: &str) -> String {
        let client = Client::new(Settings::default());
        let url: Url = url.parse().unwrap();
        let Some(header) = credentials.authorization(&url, &client).await else {
            return String::new();
        };
        let encoded = header.reveal().strip_prefix("Basic ").unwrap();
        String::from_utf8(BASE64.decode(encoded).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn credentials_go_to_their_origin_alone() {
        let credentials = given(&["https://me:p%40ss%2F%25@index.test/simple"]);
        for (url, expected) in [
            ("https://index.test/simple/demo/", "me:p@ss/%"),
            ("https://index.test:443/files/demo.whl", "me:p@ss/%"),
            ("http://index.test/simple/", ""),
            ("https://index.test:8443/simple/", ""),
            ("https://files.index.test/demo.whl", ""),
            ("https://pypi.org/simple/demo/", ""),
            ("https://other:own@elsewhere.test/demo.whl", "other:own"),
            ("https://someone@index.test/demo.whl", "someone:"),
            ("https://me@index.test/demo.whl", "me:p@ss/%"),
            ("file:///demo.whl", ""),
        ] {
            assert_eq!(sent(&credentials, url).await, expected, "{url}");
        }
        assert!(!format!("{credentials:?}").contains("p@ss"));
        // A token alone.
        let token = given(&["https://token@index.test/simple"]);
        assert_eq!(sent(&token, "https://index.test/a").await, "token:");
    }

    #[tokio::test]
    async fn the_nearest_path_decides() {
        let credentials = given(&[
            "https://a:1@index.test/team-a/simple",
            "https://b:2@index.test/team-b/simple",
            "https://c:3@index.test/team-b/simple",
        ]);
        let of = async |url| sent(&credentials, url).await;
        assert_eq!(of("https://index.test/team-a/files/x.whl").await, "a:1");
        assert_eq!(of("https://index.test/team-b/simple/x/").await, "b:2");
        // No part of a name is a name.
        assert_eq!(of("https://index.test/team-bb/x.whl").await, "a:1");
        assert_eq!(of("https://c@index.test/team-b/x.whl").await, "c:3");
    }

    #[tokio::test]
    async fn code_artifact_is_a_user_and_a_token() {
        let url = "https://aws:eyJ2%2B%2F%3D.a-b_c@my-123456789012.d.codeartifact.eu-central-1.amazonaws.com\
                   /pypi/team/simple/";
        let credentials = given(&[url]);
        let file = "https://my-123456789012.d.codeartifact.eu-central-1.amazonaws.com/pypi/team/simple/demo/1.0/\
                    demo-1.0-py3-none-any.whl";
        assert_eq!(sent(&credentials, file).await, "aws:eyJ2+/=.a-b_c");
    }

    #[tokio::test]
    async fn netrc_is_for_hosts_over_tls() {
        let text = "machine index.test login me password pw\nmachine pypi.org login p password q\n\
                    default login any password d";
        let mut credentials = given(&[
            "http://plain.test/simple",
            "https://other@index.test/simple",
        ]);
        credentials.set_netrc(Netrc::parse(text));
        for (url, expected) in [
            ("https://me@index.test:8443/a.whl", "me:pw"),
            ("https://index.test:8443/a.whl", "me:pw"),
            ("https://unknown.test/a.whl", "any:d"),
            ("http://unknown.test/a.whl", ""),
            ("http://index.test/a.whl", ""),
            ("http://127.0.0.1:8080/a.whl", "any:d"),
            ("http://plain.test/a.whl", "any:d"),
            ("https://pypi.org/simple/a/", "p:q"),
            ("https://files.pythonhosted.org/a.whl", ""),
            // The user is someone else there.
            ("https://index.test/a.whl", "other:"),
        ] {
            assert_eq!(sent(&credentials, url).await, expected, "{url}");
        }
    }

    #[tokio::test]
    async fn keyring_is_asked_once_for_the_place_then_for_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let (program, log) = (
            directory.path().join("keyring"),
            directory.path().join("asked"),
        );
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{}\n[ \"$2\" = index.test:8443 ] && echo secret\n",
            log.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut credentials = given(&["https://oauth2accesstoken@index.test:8443/simple"]);
        let file = "https://index.test:8443/files/a.whl";
        assert_eq!(sent(&credentials, file).await, "oauth2accesstoken:");
        credentials.set_keyring(program);
        for _ in 0..2 {
            assert_eq!(sent(&credentials, file).await, "oauth2accesstoken:secret");
        }
        assert_eq!(sent(&credentials, "https://else.test/a.whl").await, "");
        let option = "https://--disable@else.test/a.whl";
        assert_eq!(sent(&credentials, option).await, "--disable:");
        assert_eq!(
            std::fs::read_to_string(log).unwrap(),
            "get https://index.test:8443/simple oauth2accesstoken\nget index.test:8443 oauth2accesstoken\n"
        );
    }

    #[tokio::test]
    async fn texts_take_variables_and_come_first() {
        let mut credentials = given(&["https://me:old@index.test/simple"]);
        credentials.set_variables([("TOKEN".to_owned(), Secret::new("t%2Fk"))].into());
        assert_eq!(credentials.expanded("${A}-${TOKEN}-${"), "${A}-t%2Fk-${");
        assert_eq!(credentials.expanded("${é"), "${é");
        let text = Secret::new("https://ci:${TOKEN}@index.test/simple");
        let with = credentials.with_texts(&[text]);
        assert_eq!(sent(&with, "https://index.test/a.whl").await, "ci:t/k");
        assert_eq!(
            sent(&credentials, "https://index.test/a.whl").await,
            "me:old"
        );
    }
}
