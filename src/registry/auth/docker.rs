//! Docker's config files and its credential helpers, as `docker login` and podman's write and use them.
//!
//! It does not know which registries there are, but for the names that Docker Hub goes by.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Credentials, Error, words};
use crate::http::Secret;

/// The key under which `docker login` keeps Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// A helper says with this user name that its secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// How long a helper may take: it may ask the user, who may be away.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    // Programs write what is not configured as `null` too.
    auths: Option<HashMap<String, Option<AuthEntry>>>,
    cred_helpers: Option<HashMap<String, Option<String>>>,
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

/// The credentials for `repository` of `registry` (host with port if any) in the first of `files` that has some.
pub(super) async fn credentials(
    files: &[PathBuf],
    registry: &str,
    repository: &str,
) -> Result<Option<Credentials>, Error> {
    for path in files {
        let text = match fs::read(path) {
            Ok(text) if text.trim_ascii().is_empty() => continue,
            Ok(text) => text,
            // Whoever wants no such file names `/dev/null`, be it as the directory of one.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(e) => {
                return Err(Error::Config {
                    path: path.clone(),
                    detail: e.to_string(),
                });
            }
        };
        // serde's own text could quote a secret; the position is enough to mend the file.
        let config: DockerConfig = serde_json::from_slice(&text).map_err(|e| Error::Config {
            path: path.clone(),
            detail: format!("no valid JSON of that kind at line {}", e.line()),
        })?;
        if let Some(found) = config.credentials(registry, repository).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether two names are of one registry.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    one == other || (is_docker_hub(&one) && is_docker_hub(&other))
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
    if !is_same(host, registry) {
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
        let helper = fitting(self.cred_helpers.as_ref(), fits).into_iter().next();
        let helper = helper.or(self.creds_store.as_ref());
        if let Some(helper) = helper.filter(|name| !name.is_empty())
            && let Some(found) = ask_helper(helper, registry).await?
        {
            return Ok(Some(found));
        }
        Ok(fitting(self.auths.as_ref(), fits)
            .into_iter()
            .find_map(AuthEntry::credentials))
    }
}

/// The entries whose keys fit, the longest first.
fn fitting<Entry>(
    entries: Option<&HashMap<String, Option<Entry>>>,
    fits: impl Fn(&str) -> Option<usize>,
) -> Vec<&Entry> {
    let entries = entries.into_iter().flatten();
    let fitting = entries.filter_map(|(key, entry)| Some((fits(key)?, key, entry.as_ref()?)));
    let mut fitting: Vec<_> = fitting.collect();
    fitting.sort_by_key(|(length, key, _)| (Reverse(*length), *key));
    fitting.into_iter().map(|(_, _, entry)| entry).collect()
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
    let mut command = Command::new(&helper);
    let output = output_of(command.arg("get"), server, PATIENCE).await;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let knows_none =
            |said: &[u8]| String::from_utf8_lossy(said).contains("credentials not found");
        if knows_none(&output.stdout) || knows_none(&output.stderr) {
            return Ok(None);
        }
        return Err(failed(words_of(&output)));
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

/// Runs a program to its end with `input`; one that takes longer than `patience` is ended.
async fn output_of(command: &mut Command, input: &str, patience: Duration) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let running = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not listen says why on its way out.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let late = |_| {
        let seconds = patience.as_secs();
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not end within {seconds} seconds"),
        )
    };
    tokio::time::timeout(patience, running)
        .await
        .map_err(late)?
}

/// Why a helper failed, in its words. What it writes for us may hold the secret and is not told.
fn words_of(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    match said.trim() {
        "" => output.status.to_string(),
        said => words(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_helper_that_does_not_end_is_ended() {
        let patience = Duration::from_secs(1);
        let mut endless = Command::new("sleep");
        let error = output_of(endless.arg("600"), "", patience)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "it did not end within 1 seconds");
        let mut prompt = Command::new("cat");
        let output = output_of(&mut prompt, "r.test", patience).await.unwrap();
        assert_eq!(output.stdout, b"r.test");
    }

    #[tokio::test]
    async fn what_a_helper_writes_for_us_is_not_told() {
        let words = async |script: &str| {
            let mut shell = Command::new("sh");
            let output = output_of(shell.args(["-c", script]), "", PATIENCE).await;
            words_of(&output.unwrap())
        };
        let told = words("echo '{\"Secret\": \"pw\"}'; echo locked >&2; exit 1").await;
        assert_eq!(told, "locked");
        assert_eq!(
            words("echo '{\"Secret\": \"pw\"}'; exit 3").await,
            "exit status: 3"
        );
        let long = words("printf '%01000d' 0 >&2; exit 1").await;
        assert_eq!(long.len(), 300);
    }

    #[tokio::test]
    async fn what_configures_nothing_is_no_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        for nothing in [
            "",
            "\n",
            "{}",
            r#"{"auths": null, "credHelpers": null, "credsStore": null}"#,
            r#"{"auths": {"r.test": null}, "credHelpers": {"r.test": null}, "credsStore": ""}"#,
        ] {
            fs::write(&path, nothing).unwrap();
            let found = credentials(std::slice::from_ref(&path), "r.test", "app").await;
            assert_eq!(found.unwrap(), None, "{nothing}");
        }
        let files = ["/dev/null", "/dev/null/config.json"].map(PathBuf::from);
        assert_eq!(credentials(&files, "r.test", "app").await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_nearest_helper_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let text = r#"{"credHelpers": {"r.test": "far", "r.test/org": "near", "https://r.test/": "first"}}"#;
        fs::write(&path, text).unwrap();
        let asked = async |repository: &str| {
            let found = credentials(std::slice::from_ref(&path), "r.test", repository).await;
            found.unwrap_err().to_string()
        };
        assert!(asked("org/app").await.contains("`docker-credential-near`"));
        assert!(asked("app").await.contains("`docker-credential-first`"));
    }

    #[tokio::test]
    async fn docker_config_is_read_by_host() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let auth = BASE64.encode("me:pass:word");
        let text = format!(
            r#"{{"auths": {{"https://r.test:5000/v2/": {{"auth": "{auth}"}},
                "https://index.docker.io/v1/": {{"identitytoken": "idt"}}, "empty.test": {{}},
                "Q.Test/org": {{"auth": "{auth}"}}, "q.test/other": {{"identitytoken": "other"}}}}}}"#
        );
        fs::write(&path, text).unwrap();
        let files = vec![directory.path().join("absent.json"), path.clone()];
        let found = |host: &'static str| {
            let files = files.clone();
            async move { credentials(&files, host, "org/app").await.unwrap() }
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
        let error = credentials(&files, "r.test", "a")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("no valid JSON of that kind at line 1"),
            "{error}"
        );
    }
}
