//! Whose credentials go with a request once some were refused, and that no message repeats any.
//!
//! The registries are small servers that refuse in ways of their own, some as a proxy under ECR's real name.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde_json::json;

use crate::ecr_api::basic;
use crate::ecr_api::gallerys_api;
use crate::ecr_api::lasting_logins;
use crate::ecr_api::motos_login;
use crate::ecr_api::pull;
use crate::ecr_api::with_keys;
use crate::support::aws::Ecr;
use crate::support::aws::PRIVATE;
use crate::support::aws::PUBLIC;
use crate::support::digest;
use crate::support::layout::Layout;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;

const NETWORK: i32 = 4;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A refusal with its words.
fn refusal(status: u16, code: &str, message: &str) -> Reply {
    let words = json!({"errors": [{"code": code, "message": message}]});
    Reply::status(status).body(words.to_string())
}

/// A registry that takes whatever nobody objects to.
fn registry(objects: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let there = Mutex::new(BTreeSet::new());
    Server::start(move |asked| {
        if let Some(refusal) = objects(asked) {
            return refusal;
        }
        let (_, last) = asked.target.rsplit_once('/').unwrap();
        let mut there = there.lock().unwrap();
        match &*asked.method {
            "POST" => Reply::status(202).header("Location", "session"),
            "PUT" => {
                let digest = last.split_once("digest=sha256%3A");
                let digest = digest.map(|(_, hex)| format!("sha256:{hex}"));
                there.insert(digest.unwrap_or_else(|| last.to_owned()));
                Reply::status(201)
            }
            _ if there.contains(last) => Reply::status(200),
            _ => Reply::status(404),
        }
    })
}

fn challenge() -> Reply {
    Reply::status(401).header("WWW-Authenticate", "Basic realm=\"ecr\"")
}

/// A push to private ECR, which `registry` plays, with a login of Docker's and another of AWS's.
fn push(project: &Project, host: &str, registry: &Server) -> (Layout, Outcome) {
    project.login(PRIVATE, "AWS", "stale-password");
    let image = Layout::make(&project.beside("image"), &[(1, 20_000)]);
    let api = lasting_logins();
    let target = format!("{host}/functions/hello:1");
    let push = ["push", "-v", &image.name(), &target, "--plain-http", host];
    let run = with_keys(project.lambimg(push))
        .env("http_proxy", format!("http://{}", registry.address()))
        .env("AWS_ENDPOINT_URL_ECR", format!("http://{}", api.address()));
    (image, run.run())
}

fn is_stored(asked: &Asked) -> bool {
    asked.header("Authorization") == Some(&basic("AWS", "stale-password"))
}

fn is_aws(asked: &Asked) -> bool {
    asked.header("Authorization") == Some(&motos_login())
}

fn is_look(asked: &Asked) -> bool {
    asked.method != "PUT" && asked.target.contains("/manifests/")
}

/// Who logged in with a role that may push, and not look, keeps it, whatever keys of AWS lie about.
#[test]
fn a_look_that_is_refused_changes_nobody() {
    let denied = || refusal(403, "DENIED", "User is not authorized to perform this");
    let registry = registry(move |asked| match asked {
        asked if is_stored(asked) => is_look(asked).then(denied),
        asked if is_aws(asked) => Some(denied()),
        _ => Some(challenge()),
    });
    let project = Project::new();
    let (_, outcome) = push(&project, PRIVATE, &registry);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let as_aws = registry
        .asked()
        .iter()
        .filter(|asked| is_aws(asked))
        .count();
    assert_eq!(as_aws, 1, "{}", outcome.rendering());
}

/// A login that is over is done with once ECR says so, though AWS's own may not look.
#[test]
fn a_login_that_is_over_is_not_taken_up_again() {
    let over = "Your authorization token has expired. Reauthenticate and try again.";
    let registry = registry(move |asked| match asked {
        asked if is_stored(asked) => Some(refusal(403, "DENIED", over)),
        asked if is_aws(asked) => {
            is_look(asked).then(|| refusal(403, "DENIED", "User is not authorized"))
        }
        _ => Some(challenge()),
    });
    let project = Project::new();
    let (image, outcome) = push(&project, PRIVATE, &registry);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let asked = registry.asked();
    let sent = asked
        .iter()
        .filter(|asked| asked.method == "PUT" && asked.target.contains("/blobs/uploads/"));
    assert_eq!(sent.count(), image.blobs.len(), "each went once");
}

/// A host is the same in any letters, for credentials, for ECR and for what is spoken to without TLS.
#[test]
fn a_host_in_capitals() {
    let registry = registry(|asked| (!is_stored(asked)).then(challenge));
    let project = Project::new();
    let (_, outcome) = push(&project, &PRIVATE.to_ascii_uppercase(), &registry);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
}

/// The gallery sends a stranger away for a moment, and does not know whom AWS vouches for.
#[test]
fn a_busy_gallery_that_refuses_awss_own_is_read_as_before() {
    let busy = AtomicU64::new(2);
    let ecr = Ecr::start(move |asked| {
        if asked.target.starts_with("/token/") {
            let name = if asked.header("Authorization").is_some() {
                "friend"
            } else {
                "stranger"
            };
            return Reply::status(200).body(json!({"token": name}).to_string());
        }
        match asked.header("Authorization") {
            Some("Bearer stranger") => {
                let left =
                    busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                Reply::status(if left.is_ok() { 429 } else { 404 })
            }
            Some(_) => Reply::status(403),
            None => Reply::status(401).header(
                "WWW-Authenticate",
                format!(
                    "Bearer realm=\"https://{PUBLIC}/token/\",service=\"{PUBLIC}\",scope=\"aws\""
                ),
            ),
        }
    });
    let api = gallerys_api();
    let project = Project::with_handler();
    let run = with_keys(pull(&project, &ecr, PUBLIC)).env(
        "AWS_ENDPOINT_URL_ECR_PUBLIC",
        format!("http://{}", api.address()),
    );
    let outcome = run.run();
    let told = outcome.rendering();
    assert!(told.contains("is not there: 404"), "{told}");
    let asked = ecr.asked();
    let as_friend = asked
        .iter()
        .filter(|asked| asked.header("Authorization") == Some("Bearer friend"));
    assert_eq!((as_friend.count(), api.asked().len()), (1, 1), "{told}");
}

/// A token server whose tokens are numbered, and what a registry says to each.
fn bearer(answer: impl Fn(&Asked, u64) -> Reply + Send + Sync + 'static) -> Server {
    let tokens = AtomicU64::new(0);
    Server::start(move |asked| {
        if asked.target.starts_with("/token") {
            let token = tokens.fetch_add(1, Ordering::Relaxed) + 1;
            return Reply::status(200).body(json!({"token": token.to_string()}).to_string());
        }
        let token = asked.header("Authorization");
        match token.and_then(|token| token.strip_prefix("Bearer ")?.parse().ok()) {
            Some(token) => answer(asked, token),
            None => bearer_challenge(asked),
        }
    })
}

fn bearer_challenge(asked: &Asked) -> Reply {
    let host = asked.header("Host").unwrap();
    let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
    Reply::status(401).header("WWW-Authenticate", challenge)
}

fn read_base(project: &Project, registry: &Server) -> Outcome {
    let base = format!("{}/base:1", registry.address());
    project.lambimg(["build", "-v", "--base", &base]).run()
}

/// What a registry asks for is known from before.
#[test]
fn a_token_that_is_over_is_refused_without_a_challenge() {
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2});
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
    let registry = bearer(move |asked, token| match token {
        _ if asked.target.contains("/manifests/") => Reply::status(200)
            .header("Content-Type", MANIFEST)
            .body(manifest.to_string()),
        1 => refusal(401, "UNAUTHORIZED", "over"),
        _ => refusal(404, "BLOB_UNKNOWN", "no such blob"),
    });
    let outcome = read_base(&Project::with_handler(), &registry);
    let told = outcome.rendering();
    assert_eq!(outcome.code, Some(NETWORK), "{told}");
    assert!(told.contains("no such blob"), "{told}");
}

#[test]
fn a_refusal_without_a_challenge_has_its_own_words() {
    let registry = Server::start(|_| refusal(401, "UNAUTHORIZED", "closed on Sundays"));
    let outcome = read_base(&Project::with_handler(), &registry);
    let told = outcome.rendering();
    assert_eq!(outcome.code, Some(NETWORK), "{told}");
    assert!(told.contains("closed on Sundays"), "{told}");
}

/// A refusal that a new token does not mend is none of the token's.
#[test]
fn a_blob_that_is_refused_is_not_sent_again_and_again() {
    let registry = bearer(|asked, _| match &*asked.method {
        "POST" => Reply::status(202).header("Location", "session"),
        "PUT" => bearer_challenge(asked),
        _ => Reply::status(404),
    });
    let project = Project::new();
    let image = Layout::make(&project.beside("image"), &[(1, 20_000)]);
    let target = format!("{}/hello:1", registry.address());
    let outcome = project
        .lambimg(["push", "-v", &image.name(), &target])
        .run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert!(
        outcome.stderr.contains("refuses access"),
        "{}",
        outcome.rendering()
    );
    let mut sent = BTreeMap::new();
    for asked in registry
        .asked()
        .iter()
        .filter(|asked| asked.method == "PUT")
    {
        *sent.entry(asked.target.clone()).or_insert(0) += 1;
    }
    assert_eq!(sent.values().max(), Some(&2), "{sent:?}");
}

/// Names of images and hosts have no user and no password; who writes them all the same does not read them again.
#[test]
fn what_is_written_before_a_host_is_not_told() {
    let project = Project::with_handler();
    let image = Layout::make(&project.beside("image"), &[(1, 2000)]).name();
    let builds: [&[&str]; 9] = [
        &["--mirror", "a.test=me:s3cr3tpw@m.test/x"],
        &["--mirror", "me:s3cr3tpw@a.test=m.test"],
        &["--mirror", "me:s3cr3tpw@a.test"],
        &["--plain-http", "me:s3cr3tpw@r.example"],
        &["--plain-http", "https://me:s3cr3tpw@r.example"],
        &["-t", "me:s3cr3tpw@r.example/x"],
        &["-t", "AWS:s3cr3tpw/+=@r.example/x"],
        &["--base", "me:s3cr3tpw@r.example/x"],
        &["-o", "me:s3cr3tpw@r.example/x"],
    ];
    let mut runs: Vec<_> = builds
        .iter()
        .map(|flags| project.lambimg(["build"].iter().chain(*flags)))
        .collect();
    let target = "me:s3cr3tpw@r.example/x:1";
    let from = format!("docker://{target}");
    for push in [
        &[&*image, target] as &[_],
        &[target],
        &[&from, "r.example/x"],
    ] {
        runs.push(project.lambimg(["push"].iter().chain(push)));
    }
    let build = || project.lambimg(["build", "--base", "r.example/x:1"]);
    for registry in ["me:s3cr3tpw@r.example", "https://me:s3cr3tpw@r.example"] {
        let run = build()
            .env("LAMBIMG_REGISTRY", registry)
            .env("LAMBIMG_REGISTRY_USER", "me")
            .env("LAMBIMG_REGISTRY_PASSWORD", "s3cr3tpw");
        runs.push(run);
    }
    let ecr = Server::start(|_| challenge());
    let reference = format!("{PRIVATE}/x:1");
    let push = ["push", &*image, &*reference, "--plain-http", PRIVATE];
    let run = with_keys(project.lambimg(push))
        .env("http_proxy", format!("http://{}", ecr.address()))
        .env("AWS_ENDPOINT_URL_ECR", "me:s3cr3tpw@ecr.example");
    runs.push(run);
    project.file("token", "s3cr3tpw");
    let role = project
        .lambimg(push)
        .env("http_proxy", format!("http://{}", ecr.address()))
        .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/builder")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", project.path().join("token"))
        .env("AWS_ENDPOINT_URL_STS", "me:s3cr3tpw@sts.example");
    runs.push(role);
    for run in runs {
        let outcome = run.run();
        let told = outcome.rendering();
        assert!(![Some(0), Some(70), None].contains(&outcome.code), "{told}");
        assert!(!told.contains("s3cr3tpw"), "{told}");
        assert!(told.contains("[secret]@"), "{told}");
    }
}
