//! A token server as the distribution project specifies it: signed tokens, made by openssl's key, that
//! docker-registry itself verifies. Who gives no credentials may read and nothing else.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::process::run;
use crate::support::program;
use crate::support::registry::PASSWORD;
use crate::support::registry::USER;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;

pub(crate) const ISSUER: &str = "tests";
pub(crate) const SERVICE: &str = "registry of the tests";
/// What a helper may have in place of a password: a token that is changed for others.
pub(crate) const IDENTITY: &str = "identity of the tests";

/// What was asked of the token server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    pub(crate) with_credentials: bool,
    pub(crate) service: String,
    pub(crate) scopes: Vec<String>,
}

pub(crate) struct TokenServer {
    server: Server,
    signer: Arc<Signer>,
}

struct Signer {
    directory: TempDir,
    certificate: String,
}

impl TokenServer {
    pub(crate) fn start() -> TokenServer {
        let signer = Arc::new(Signer::make());
        let of_server = Arc::clone(&signer);
        let server = Server::start(move |asked| answer(asked, &of_server));
        TokenServer { server, signer }
    }

    /// Where a registry sends its clients.
    pub(crate) fn realm(&self) -> String {
        format!("http://{}/token", self.server.address())
    }

    /// The certificate that a registry verifies tokens by.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.signer.path("certificate.pem")
    }

    /// A header's value that allows everything in these repositories.
    pub(crate) fn authorization(&self, repositories: &[&str]) -> String {
        let access = repositories
            .iter()
            .map(|name| json!({"type": "repository", "name": name, "actions": ["pull", "push"]}));
        format!("Bearer {}", self.signer.token(&access.collect()))
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<TokenRequest> {
        let asked = self.server.asked();
        let requests = asked.iter().map(|asked| TokenRequest {
            with_credentials: asked.header("Authorization").is_some() || asked.method == "POST",
            service: values(asked, "service").concat(),
            scopes: scopes(asked),
        });
        requests.collect()
    }
}

impl Signer {
    fn make() -> Signer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut openssl = Command::new(program("openssl", "openssl"));
        openssl.current_dir(&directory);
        openssl.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ]);
        openssl.args(["-subj", "/CN=tests", "-keyout", "key.pem"]);
        run(openssl.args(["-out", "certificate.pem"]));
        let certificate = fs::read_to_string(directory.path().join("certificate.pem"));
        let certificate = certificate.expect("openssl wrote the certificate");
        let lines = certificate.lines().filter(|line| !line.starts_with("---"));
        Signer {
            certificate: lines.collect(),
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A JSON web token, RFC 7519, with its certificate in the header.
    fn token(&self, access: &Vec<Value>) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("it is after 1970").as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": "somebody", "aud": SERVICE, "jti": now.to_string(),
            "iat": now, "nbf": now - 60, "exp": now + 600, "access": access,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let mut openssl = Command::new(program("openssl", "openssl"));
        openssl.args(["dgst", "-sha256", "-sign"]);
        openssl.arg(self.path("key.pem"));
        let openssl = openssl.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = openssl.spawn().expect("openssl starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(text).expect("openssl reads");
        drop(stdin);
        let output = child.wait_with_output().expect("openssl ends");
        assert!(output.status.success(), "openssl: {}", output.status);
        output.stdout
    }
}

/// Everything in the scopes for who knows a secret, reading for who gives none.
fn answer(asked: &Asked, signer: &Signer) -> Reply {
    let pair = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let known = match (asked.method.as_str(), asked.header("Authorization")) {
        ("POST", None) => values(asked, "refresh_token") == [IDENTITY],
        ("GET", None) => false,
        ("GET", Some(value)) if value == format!("Basic {pair}") => true,
        _ => return Reply::status(401),
    };
    let is_exchange = values(asked, "grant_type") == ["refresh_token"];
    if values(asked, "service") != [SERVICE] || is_exchange != (asked.method == "POST") {
        return Reply::status(400);
    }
    let access = scopes(asked).into_iter().map(|scope| {
        let (repository, actions) = scope.rsplit_once(':').expect("a scope has actions");
        let name = repository
            .strip_prefix("repository:")
            .expect("a repository");
        let actions = actions
            .split(',')
            .filter(|action| known || *action == "pull");
        json!({"type": "repository", "name": name, "actions": actions.collect::<Vec<_>>()})
    });
    let token = signer.token(&access.collect());
    let name = if is_exchange { "access_token" } else { "token" };
    Reply::status(200)
        .header("Content-Type", "application/json")
        .body(json!({name: token}).to_string())
}

/// The scopes: one a parameter in a query, all in one in a form.
fn scopes(asked: &Asked) -> Vec<String> {
    let scopes = values(asked, "scope");
    let words = scopes.iter().flat_map(|scopes| scopes.split(' '));
    words.map(str::to_owned).collect()
}

/// The values of a parameter, in the address of a GET or in the form of a POST.
fn values(asked: &Asked, name: &str) -> Vec<String> {
    let form = String::from_utf8_lossy(&asked.body);
    let url = match asked.method.as_str() {
        "POST" => format!("http://tests/?{form}"),
        _ => format!("http://tests{}", asked.target),
    };
    let url = reqwest::Url::parse(&url).expect("a path and a query");
    let pairs = url.query_pairs().filter(|(key, _)| key == name);
    pairs.map(|(_, value)| value.into_owned()).collect()
}
