//! A real registry on a free port of loopback: Debian's docker-registry with a directory of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use base64::Engine as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::digest;
use crate::support::http;
use crate::support::process;
use crate::support::process::Process;
use crate::support::program;
use crate::support::tokens::ISSUER;
use crate::support::tokens::SERVICE;
use crate::support::tokens::TokenServer;

pub(crate) const USER: &str = "lambimg";
pub(crate) const PASSWORD: &str = "secret";

/// `USER:PASSWORD` for the registry's own file; bcrypt, with the lowest cost because it guards nothing.
const HTPASSWD: &str = "lambimg:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

pub(crate) struct Registry {
    process: Process,
    address: String,
    authorization: Option<String>,
    _directory: Option<TempDir>,
}

impl Registry {
    /// A registry that takes everything from everyone.
    pub(crate) fn start() -> Registry {
        Registry::start_with(None)
    }

    /// A registry that asks for `USER` and `PASSWORD`.
    pub(crate) fn start_with_password() -> Registry {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        Registry::start_with(Some(format!("Basic {pair}")))
    }

    /// A registry that takes this server's tokens; the tests themselves may do everything in `repositories`.
    pub(crate) fn start_with_tokens(tokens: &TokenServer, repositories: &[&str]) -> Registry {
        let auth = format!(
            "auth: {{token: {{realm: \"{}\", service: \"{SERVICE}\", issuer: \"{ISSUER}\", rootcertbundle: {}}}}}\n",
            tokens.realm(),
            tokens.certificate().display()
        );
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().to_owned();
        let authorization = tokens.authorization(repositories);
        Registry::start_at(&path, &auth, Some(authorization), Some(directory))
    }

    /// A registry whose content outlives it; several may use the same directory.
    pub(crate) fn start_in(directory: &Path) -> Registry {
        fs::create_dir_all(directory).expect("a directory can be made");
        let registry = Registry::start_at(directory, "", None, None);
        // Nothing reads the log of a registry that is never dropped.
        let _ = fs::remove_file(log_path(directory));
        registry
    }

    fn start_with(authorization: Option<String>) -> Registry {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().to_owned();
        let mut auth = String::new();
        if authorization.is_some() {
            let htpasswd = path.join("htpasswd");
            fs::write(&htpasswd, HTPASSWD).expect("a file can be written");
            let htpasswd = htpasswd.display();
            auth = format!("auth: {{htpasswd: {{realm: tests, path: {htpasswd}}}}}\n");
        }
        Registry::start_at(&path, &auth, authorization, Some(directory))
    }

    /// `auth` is a line of the registry's own settings.
    fn start_at(
        directory: &Path,
        auth: &str,
        authorization: Option<String>,
        owned: Option<TempDir>,
    ) -> Registry {
        let mut settings = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {root}/storage}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: loopback}}\n",
            root = directory.display()
        );
        settings.push_str(auth);
        let file = directory.join("registry.yml");
        fs::write(&file, settings).expect("a file can be written");
        let mut command = process::command(program("docker-registry", "docker-registry"));
        command.arg("serve").arg(file).env_clear();
        let mut process = Process::start(command, log_path(directory));
        let address = process.wait_for("docker-registry", listening_on);
        Registry {
            process,
            address,
            authorization,
            _directory: owned,
        }
    }

    /// Host and port, as a reference begins.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The name of a repository here, as references say it.
    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// All that the registry has said so far, a line for each request among it.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// A manifest as it is kept, or nothing.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        let accept = "application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
        let path = format!("/v2/{repository}/manifests/{reference}");
        let answer = self.send("GET", &path, &[("Accept", accept)], Vec::new());
        (answer.status == 200).then_some(answer.body)
    }

    /// A blob as it is kept, or nothing.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let answer = self.send(
            "GET",
            &format!("/v2/{repository}/blobs/{digest}"),
            &[],
            Vec::new(),
        );
        (answer.status == 200).then_some(answer.body)
    }

    /// Every tag of a repository, none when there is no such repository.
    pub(crate) fn tags(&self, repository: &str) -> Vec<String> {
        let answer = self.send(
            "GET",
            &format!("/v2/{repository}/tags/list"),
            &[],
            Vec::new(),
        );
        let list = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        let tags = list["tags"].as_array().cloned().unwrap_or_default();
        let tags = tags.iter().filter_map(Value::as_str).map(str::to_owned);
        // Debian's registry lists them in no order.
        tags.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Keeps a blob unless it is there already.
    pub(crate) fn put_blob(&self, repository: &str, content: Vec<u8>) {
        let digest = digest(&content);
        let kept = self.send(
            "HEAD",
            &format!("/v2/{repository}/blobs/{digest}"),
            &[],
            Vec::new(),
        );
        if kept.status == 200 {
            return;
        }
        let upload = self.send(
            "POST",
            &format!("/v2/{repository}/blobs/uploads/"),
            &[],
            Vec::new(),
        );
        assert_eq!(
            upload.status,
            202,
            "{}\n{}",
            upload.text(),
            self.process.log()
        );
        let location = upload.header("Location");
        let path = location
            .split_once(&self.address)
            .map_or(location, |(_, path)| path);
        let separator = if path.contains('?') { '&' } else { '?' };
        let headers = [("Content-Type", "application/octet-stream")];
        let done = self.send(
            "PUT",
            &format!("{path}{separator}digest={digest}"),
            &headers,
            content,
        );
        assert_eq!(done.status, 201, "{}\n{}", done.text(), self.process.log());
    }

    /// Keeps a manifest under a tag or under its own digest.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        content: Vec<u8>,
    ) {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let done = self.send("PUT", &path, &[("Content-Type", media_type)], content);
        assert_eq!(done.status, 201, "{}\n{}", done.text(), self.process.log());
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> http::Answer {
        let mut headers = headers.to_vec();
        headers.extend(
            self.authorization
                .iter()
                .map(|value| ("Authorization", value.as_str())),
        );
        http::send(
            method,
            &format!("http://{}{path}", self.address),
            &headers,
            body,
        )
        .unwrap_or_else(|error| panic!("docker-registry: {error}\n{}", self.process.log()))
    }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join(format!("log-{}", std::process::id()))
}

/// The address in the registry's log, once it is there: with port 0 the kernel chose it.
fn listening_on(log: &str) -> Option<String> {
    let rest = log.split_once("listening on ")?.1;
    let address: String = rest
        .chars()
        .take_while(|letter| !"\" \n".contains(*letter))
        .collect();
    rest.contains('\n').then_some(address)
}

#[test]
fn keeps_what_is_put() {
    let registry = Registry::start();
    registry.put_blob("some/thing", b"bytes".to_vec());
    assert_eq!(
        registry.blob("some/thing", &digest(b"bytes")),
        Some(b"bytes".to_vec())
    );
    assert_eq!(registry.blob("some/thing", &digest(b"other")), None);
    assert_eq!(registry.manifest("some/thing", "1"), None);
    assert_eq!(registry.tags("some/thing"), Vec::<String>::new());
}

#[test]
fn asks_for_the_password() {
    let registry = Registry::start_with_password();
    registry.put_blob("some/thing", b"bytes".to_vec());
    let refused = http::send(
        "GET",
        &format!("http://{}/v2/", registry.address()),
        &[],
        Vec::new(),
    )
    .unwrap();
    assert_eq!(refused.status, 401);
    assert!(
        refused.header("Www-Authenticate").starts_with("Basic"),
        "{:?}",
        refused.headers
    );
}
