//! Logins and repositories of ECR: credentials from everywhere that AWS's own tools find them, whose login
//! goes to which registry, and what is said when there is none.
//!
//! moto plays ECR's control API and STS; small servers play what moto does not. The registries have their
//! real names, behind a proxy that ends TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;

use crate::support::aws::ACCOUNT;
use crate::support::aws::Ecr;
use crate::support::aws::PRIVATE;
use crate::support::aws::PUBLIC;
use crate::support::aws::moto;
use crate::support::ecr;
use crate::support::ecr::Behaviour;
use crate::support::ecr::Login;
use crate::support::ecr::Missing;
use crate::support::ecr::Trouble;
use crate::support::ecr::Troubled;
use crate::support::http;
use crate::support::layout::Layout;
use crate::support::process::run;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;

const USAGE: i32 = 2;
const NETWORK: i32 = 4;
const AWS: i32 = 5;

/// What must never be seen outside of requests and the directory of logins.
const SECRETS: [&str; 5] = [
    KEY,
    SESSION,
    "stale-password",
    "auth-token",
    "web-identity-secret",
];
const KEY: &str = "wJalrXUtnFEMIbPxRfiCYSECRETKEY";
const SESSION: &str = "SESSION/TOKEN/SECRET";
/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:1";

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// What moto's login is, as the registry is told it.
pub(crate) fn motos_login() -> String {
    basic("AWS", &format!("{ACCOUNT}-auth-token"))
}

/// A private registry without images, which takes this login alone and refuses others as ECR does.
fn registry_for(login: String) -> Ecr {
    Ecr::start(move |asked| {
        match asked.header("Authorization") {
        None => Reply::status(401).header("WWW-Authenticate", format!("Basic realm=\"https://{PRIVATE}/\"")),
        Some(given) if given == login => Reply::status(404)
            .body(json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such image"}]}).to_string()),
        Some(_) => Reply::status(403).body(
            json!({"errors": [{"code": "DENIED", "message": "Your authorization token has expired."}]}).to_string(),
        ),
    }
    })
}

/// A build that looks for its base in `registry`, with nothing of AWS configured but moto's address.
pub(crate) fn pull<'project>(
    project: &'project Project,
    ecr: &Ecr,
    registry: &str,
) -> Run<'project> {
    pull_by(project, ecr, registry, &[])
}

fn pull_by<'project>(
    project: &'project Project,
    ecr: &Ecr,
    registry: &str,
    flags: &[&str],
) -> Run<'project> {
    let base = format!("{registry}/base:1");
    let build = ["build", "-v", "--base", &base];
    project
        .lambimg(build.iter().chain(flags))
        .env("HTTPS_PROXY", ecr.proxy())
        .env("https_proxy", ecr.proxy())
        .env("SSL_CERT_FILE", ecr.authority())
        .env("AWS_ENDPOINT_URL", moto())
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

pub(crate) fn with_keys(run: Run<'_>) -> Run<'_> {
    run.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", KEY)
}

/// Runs to the end, which tells no secret, nor does what it leaves in the store.
fn outcome(project: &Project, run: Run<'_>) -> Outcome {
    let outcome = run.run();
    let told = outcome.rendering();
    assert!(![Some(0), Some(70), None].contains(&outcome.code), "{told}");
    for secret in SECRETS {
        assert!(!told.contains(secret), "{secret}:\n{told}");
        let grep = Command::new("grep")
            .args(["-rl", "--exclude-dir=login", secret])
            .arg(project.cache())
            .output()
            .unwrap();
        let found = String::from_utf8(grep.stdout).unwrap();
        assert_eq!(found, "", "{secret}");
    }
    outcome
}

/// Holds that the registry was given this header last and then looked for the image.
fn assert_logged_in(ecr: &Ecr, outcome: &Outcome, login: &str) {
    let told = outcome.rendering();
    let asked = ecr.asked();
    let last = asked
        .last()
        .unwrap_or_else(|| panic!("nobody asked:\n{told}"));
    assert_eq!(last.header("Authorization"), Some(login), "{told}");
    assert_eq!(outcome.code, Some(NETWORK), "{told}");
    assert!(outcome.stderr.contains("no such image"), "{told}");
}

/// The logins on disk.
fn logins(project: &Project) -> Vec<PathBuf> {
    let directory = project.cache().join("login");
    assert_eq!(
        fs::metadata(&directory).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let entries = fs::read_dir(directory).unwrap();
    let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    for path in &paths {
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    paths
}

/// Has the only login on disk be so many hours old and last for so many more, and sets more of it.
fn change_login(project: &Project, age: u64, left: i64, more: &[(&str, &str)]) {
    let [path] = <[PathBuf; 1]>::try_from(logins(project)).unwrap();
    let mut login: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    login["issued"] = json!(now() - age * 3600);
    login["expires"] = json!(now().checked_add_signed(left * 3600).unwrap());
    for (key, value) in more {
        login[key] = json!(value);
    }
    fs::write(&path, login.to_string()).unwrap();
}

fn aws_config(project: &Project, text: &str) {
    fs::create_dir_all(project.home().join(".aws")).unwrap();
    fs::write(project.home().join(".aws/config"), text).unwrap();
}

#[test]
fn keys_of_variables_give_a_login() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let outcome = outcome(&project, with_keys(pull(&project, &ecr, PRIVATE)));
    assert_logged_in(&ecr, &outcome, &motos_login());
    assert_eq!(ecr.asked().len(), 2, "one refusal, one answer");
}

/// A control API whose logins last as long as AWS's do: moto's are over before they are given.
pub(crate) fn lasting_logins() -> Server {
    Server::start(|_| {
        let token = STANDARD.encode(format!("AWS:{ACCOUNT}-auth-token"));
        let expires = json!(now() + 12 * 3600);
        let data =
            json!({"authorizationData": [{"authorizationToken": token, "expiresAt": expires}]});
        Reply::status(200).body(data.to_string())
    })
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// A build with keys that looks for its base in the private registry, and has logins of `api`.
pub(crate) fn pull_with<'project>(
    project: &'project Project,
    ecr: &Ecr,
    api: &Server,
) -> Run<'project> {
    let endpoint = format!("http://{}", api.address());
    with_keys(pull(project, ecr, PRIVATE)).env("AWS_ENDPOINT_URL", endpoint)
}

#[test]
fn a_login_is_kept_for_half_its_life() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let api = lasting_logins();
    let had = "a login was had from AWS";
    let run = || pull_with(&project, &ecr, &api);
    let dead = || run().env("AWS_ENDPOINT_URL", NOBODY);
    assert!(outcome(&project, run()).stderr.contains(had));
    let second = outcome(&project, dead());
    assert_logged_in(&ecr, &second, &motos_login());
    change_login(&project, 5, 7, &[]);
    assert!(!outcome(&project, run()).stderr.contains(had));
    change_login(&project, 7, 5, &[]);
    let unrenewed = outcome(&project, dead());
    assert_logged_in(&ecr, &unrenewed, &motos_login());
    assert!(
        unrenewed.stderr.contains("cannot be renewed"),
        "{}",
        unrenewed.stderr
    );
    assert!(outcome(&project, run()).stderr.contains(had));
    // What is over, or not to be read, is as none.
    change_login(&project, 13, -1, &[]);
    assert_eq!(outcome(&project, dead()).code, Some(NETWORK));
    assert!(outcome(&project, run()).stderr.contains(had));
    for path in logins(&project) {
        fs::write(path, "{").unwrap();
    }
    assert!(outcome(&project, run()).stderr.contains(had));
    project.lambimg(["cache", "prune", "--all"]).succeed();
    assert!(!project.cache().join("login").exists());
}

#[test]
fn other_credentials_get_a_login_of_their_own() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let api = lasting_logins();
    for key in ["AKIAIOSFODNN7EXAMPLE", "AKIAI44QH8DHBEXAMPLE"] {
        let run = pull_with(&project, &ecr, &api).env("AWS_ACCESS_KEY_ID", key);
        let outcome = outcome(&project, run);
        assert!(outcome.stderr.contains("a login was had from AWS"), "{key}");
    }
    assert_eq!(logins(&project).len(), 2);
}

#[test]
fn a_login_that_is_refused_is_had_anew() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let api = lasting_logins();
    outcome(&project, pull_with(&project, &ecr, &api));
    change_login(&project, 1, 11, &[("password", "stale-password")]);
    let outcome = outcome(&project, pull_with(&project, &ecr, &api));
    assert_logged_in(&ecr, &outcome, &motos_login());
    let asked = ecr.asked();
    let stale = basic("AWS", "stale-password");
    assert_eq!(
        asked[asked.len() - 2].header("Authorization"),
        Some(&*stale)
    );
}

/// A new login that is refused as well is not asked for again and again.
#[test]
fn a_refusal_of_a_new_login_stands() {
    let project = Project::with_handler();
    let ecr = registry_for("nobody's".to_owned());
    let api = lasting_logins();
    let outcome = outcome(&project, pull_with(&project, &ecr, &api));
    assert_eq!((ecr.asked().len(), api.asked().len()), (2, 1));
    assert_said!(outcome);
}

#[test]
fn stale_credentials_of_docker_give_way() {
    let project = Project::with_handler();
    project.login(PRIVATE, "AWS", "stale-password");
    let ecr = registry_for(motos_login());
    let outcome = outcome(&project, with_keys(pull(&project, &ecr, PRIVATE)));
    assert_logged_in(&ecr, &outcome, &motos_login());
    assert_said!(outcome);
}

#[test]
fn good_credentials_of_docker_come_before_awss() {
    let project = Project::with_handler();
    project.login(PRIVATE, "AWS", "stale-password");
    let ecr = registry_for(basic("AWS", "stale-password"));
    let run = with_keys(pull(&project, &ecr, PRIVATE)).env("AWS_ENDPOINT_URL", NOBODY);
    let outcome = outcome(&project, run);
    assert_logged_in(&ecr, &outcome, &basic("AWS", "stale-password"));
}

/// Many have Docker configured for Amazon's helper, which is not needed here.
#[test]
fn a_helper_that_is_absent_is_no_fault() {
    let project = Project::with_handler();
    project.docker_config(&json!({"credHelpers": {PRIVATE: "ecr-login"}}));
    let ecr = registry_for(motos_login());
    let outcome = outcome(&project, with_keys(pull(&project, &ecr, PRIVATE)));
    assert_logged_in(&ecr, &outcome, &motos_login());
}

#[test]
fn given_credentials_come_first_and_go_nowhere_else() {
    let project = Project::with_handler();
    project.login(PRIVATE, "AWS", "from-docker");
    let ecr = registry_for(basic("me", "stale-password"));
    let given = |registry: &str| {
        with_keys(pull(&project, &ecr, PRIVATE))
            .env("LAMBIMG_REGISTRY", registry)
            .env("LAMBIMG_REGISTRY_USER", "me")
            .env("LAMBIMG_REGISTRY_PASSWORD", "stale-password")
    };
    let own = outcome(&project, given(PRIVATE));
    assert_logged_in(&ecr, &own, &basic("me", "stale-password"));
    let in_capitals = outcome(&project, given(&PRIVATE.to_ascii_uppercase()));
    assert_logged_in(&ecr, &in_capitals, &basic("me", "stale-password"));
    let before = ecr.asked().len();
    outcome(&project, given("other.example"));
    let own = basic("me", "stale-password");
    let later = ecr.asked().split_off(before);
    assert!(later.len() > 1);
    assert!(
        later
            .iter()
            .all(|asked| asked.header("Authorization") != Some(&own))
    );
}

/// A mirror and the registry behind it each get their own credentials.
#[test]
fn a_mirror_has_credentials_of_its_own() {
    let own = basic("own", "stale-password");
    let mirrors = basic("mirror", "web-identity-secret");
    let wanted = [own.clone(), mirrors.clone()];
    let ecr = Ecr::start(move |asked| {
        let is_mirror = asked.header("Host") == Some(PRIVATE);
        match asked.header("Authorization") {
            Some(given) if given == wanted[usize::from(is_mirror)] => Reply::status(404).body(
                json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such image"}]})
                    .to_string(),
            ),
            _ => Reply::status(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        }
    });
    let project = Project::with_handler();
    let encoded = |header: &str| header.trim_start_matches("Basic ").to_owned();
    project.docker_config(&json!({"auths": {
        "other.example": {"auth": encoded(&own)},
        PRIVATE: {"auth": encoded(&mirrors)},
    }}));
    let mirror = ["--mirror", &format!("other.example={PRIVATE}")];
    let run = pull_by(&project, &ecr, "other.example", &mirror);
    let outcome = outcome(&project, run);
    assert_logged_in(&ecr, &outcome, &own);
    let sent = ecr.asked().into_iter().filter_map(|asked| {
        let header = asked.header("Authorization")?.to_owned();
        Some((asked.header("Host")?.to_owned(), header))
    });
    let expected = [
        (PRIVATE.to_owned(), mirrors),
        ("other.example".to_owned(), own),
    ];
    assert_eq!(sent.collect::<Vec<_>>(), expected);
}

/// The same authority, by the flag and by nothing.
#[test]
fn an_authority_of_the_users_is_trusted() {
    let project = Project::with_handler();
    let ecr = registry_for("nobody's".to_owned());
    let run = |arguments: &[&str]| {
        let base = ["build", "-v", "--base", "other.example/base:1"];
        let run = project.lambimg(base.iter().chain(arguments));
        let run = run
            .env("HTTPS_PROXY", ecr.proxy())
            .env("https_proxy", ecr.proxy());
        outcome(&project, run)
    };
    let untrusted = run(&[]);
    assert_eq!((untrusted.code, ecr.asked().len()), (Some(NETWORK), 0));
    let authority = ecr.authority();
    let trusted = run(&["--ca-file", authority.to_str().unwrap()]);
    assert_eq!(ecr.asked().len(), 1, "{}", trusted.rendering());
}

#[test]
fn credentials_that_are_given_in_part() {
    let project = Project::with_handler();
    let run = project.lambimg(["build", "--base", "other.example/base:1"]);
    let run = run
        .env("LAMBIMG_REGISTRY_USER", "me")
        .env("LAMBIMG_REGISTRY_PASSWORD", "stale-password");
    let outcome = outcome(&project, run);
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn given_credentials_are_refused() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let run = with_keys(pull(&project, &ecr, PRIVATE))
        .env("LAMBIMG_REGISTRY", PRIVATE)
        .env("LAMBIMG_REGISTRY_USER", "me")
        .env("LAMBIMG_REGISTRY_PASSWORD", "stale-password");
    let outcome = outcome(&project, run);
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

/// No image's name begins so, and the credentials would never be used.
#[test]
fn credentials_that_are_given_for_no_host() {
    let project = Project::with_handler();
    for registry in ["https://other.example", "other.example/", "other.example?"] {
        let run = project
            .lambimg(["build", "--base", "other.example/base:1"])
            .env("LAMBIMG_REGISTRY", registry)
            .env("LAMBIMG_REGISTRY_USER", "me")
            .env("LAMBIMG_REGISTRY_PASSWORD", "stale-password");
        let outcome = outcome(&project, run);
        assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
        let said = format!("`LAMBIMG_REGISTRY` is `{registry}`");
        assert!(outcome.stderr.contains(&said), "{}", outcome.rendering());
        if registry.ends_with('/') {
            assert_said!(outcome);
        }
    }
}

/// The keys of a session are new each run, so that nobody would ever find the login again.
#[test]
fn no_login_is_kept_for_a_session() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let api = lasting_logins();
    let run = pull_with(&project, &ecr, &api).env("AWS_SESSION_TOKEN", SESSION);
    let outcome = outcome(&project, run);
    assert_logged_in(&ecr, &outcome, &motos_login());
    assert!(!project.cache().join("login").exists());
}

#[test]
fn every_source_of_credentials_gives_a_login() {
    let credentials = json!({"AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": KEY, "Token": SESSION,
        "Expiration": "2099-01-01T00:00:00Z"});
    let container = Server::start(move |_| Reply::status(200).body(credentials.to_string()));
    let role = "arn:aws:iam::123456789012:role/builder";
    let keys = format!("aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {KEY}\n");
    let process =
        json!({"Version": 1, "AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": KEY});
    let token = "web-identity-secret";
    let cases = [
        ("profile", format!("[profile work]\n{keys}")),
        (
            "assumed role",
            format!(
                "[profile base]\n{keys}[profile work]\nrole_arn = {role}\nsource_profile = base\n"
            ),
        ),
        (
            "process",
            "[profile work]\ncredential_process = cat process.json\n".to_owned(),
        ),
        (
            "web identity in a profile",
            format!("[profile work]\nrole_arn = {role}\nweb_identity_token_file = token\n"),
        ),
        ("web identity", String::new()),
        ("container", String::new()),
    ];
    for (name, config) in cases {
        let project = Project::with_handler();
        project.file("process.json", process.to_string());
        project.file("token", token);
        aws_config(&project, &config);
        let ecr = registry_for(motos_login());
        let mut run = pull(&project, &ecr, PRIVATE);
        run = match name {
            "web identity" => run
                .env("AWS_ROLE_ARN", role)
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", project.path().join("token")),
            "container" => run.env(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                format!("http://{}/credentials", container.address()),
            ),
            _ => run.env("AWS_PROFILE", "work"),
        };
        let outcome = outcome(&project, run);
        let told = outcome.rendering();
        assert!(told.contains("a login was had from AWS"), "{name}: {told}");
        assert_logged_in(&ecr, &outcome, &motos_login());
    }
    assert_eq!(container.asked().len(), 1);
}

/// Single sign-on, with the token that `aws sso login` leaves; the portal knows it or not.
fn sso(is_known: bool) -> (Project, Ecr, Outcome, Vec<Asked>) {
    let project = Project::with_handler();
    let start = "https://example.awsapps.com/start";
    aws_config(
        &project,
        &format!(
            "[profile work]\nsso_start_url = {start}\nsso_region = eu-west-1\nsso_account_id = {ACCOUNT}\n\
             sso_role_name = builder\n"
        ),
    );
    let cache = project.home().join(".aws/sso/cache");
    fs::create_dir_all(&cache).unwrap();
    let mut sum = Command::new("sha1sum");
    fs::write(project.beside("start"), start).unwrap();
    let sum = run(sum.arg(project.beside("start")));
    let name = sum.split(' ').next().unwrap();
    let token = json!({"accessToken": "web-identity-secret", "expiresAt": "2099-01-01T00:00:00Z", "region": "eu-west-1",
        "startUrl": start});
    fs::write(cache.join(format!("{name}.json")), token.to_string()).unwrap();
    let portal = Server::start(move |_| {
        if !is_known {
            let words = json!({"message": "Session token not found or invalid"});
            return Reply::status(401)
                .header("x-amzn-ErrorType", "UnauthorizedException")
                .body(words.to_string());
        }
        let role = json!({"roleCredentials": {"accessKeyId": "ASIAIOSFODNN7EXAMPLE", "secretAccessKey": KEY,
            "sessionToken": SESSION, "expiration": 4_070_908_800_000_u64}});
        Reply::status(200)
            .header("Content-Type", "application/json")
            .body(role.to_string())
    });
    let ecr = registry_for(motos_login());
    let run = pull(&project, &ecr, PRIVATE)
        .env("AWS_PROFILE", "work")
        .env(
            "AWS_ENDPOINT_URL_SSO",
            format!("http://{}", portal.address()),
        );
    let outcome = outcome(&project, run);
    (project, ecr, outcome, portal.asked())
}

#[test]
fn single_sign_on_gives_a_login() {
    let (_project, ecr, outcome, asked) = sso(true);
    assert_logged_in(&ecr, &outcome, &motos_login());
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].header("x-amz-sso_bearer_token"),
        Some("web-identity-secret")
    );
}

#[test]
fn a_single_sign_on_that_is_over() {
    let (_project, ecr, outcome, asked) = sso(false);
    let told = outcome.rendering();
    assert_eq!(outcome.code, Some(AWS), "{told}");
    assert_eq!((ecr.asked().len(), asked.len()), (1, 1), "{told}");
    assert_said!(outcome);
}

#[test]
fn no_credentials_at_all() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let outcome = outcome(&project, pull(&project, &ecr, PRIVATE));
    assert_eq!(outcome.code, Some(AWS));
    assert_said!(outcome);
}

/// A machine that is none of AWS's may let its requests to the address of AWS's own service vanish.
#[test]
fn a_silent_metadata_service_costs_a_second() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let run = pull(&project, &ecr, PRIVATE)
        .env("AWS_EC2_METADATA_DISABLED", "false")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", address);
    let begun = Instant::now();
    let outcome = outcome(&project, run);
    assert_eq!(outcome.code, Some(AWS));
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    // Each time that it is asked costs a second.
    let asked = silent.incoming().map_while(Result::ok).count();
    assert_eq!(asked, 1);
}

/// Nobody but ECR makes AWS be asked for anything.
#[test]
fn other_registries_have_no_part_of_it() {
    let project = Project::with_handler();
    let metadata = Server::start(|_| Reply::status(404));
    let ecr = registry_for("nobody's".to_owned());
    let run = pull(&project, &ecr, "other.example")
        .env("AWS_EC2_METADATA_DISABLED", "false")
        .env(
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            format!("http://{}", metadata.address()),
        )
        .env(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("http://{}/", metadata.address()),
        );
    let outcome = outcome(&project, run);
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_eq!(metadata.asked().len(), 0);
}

/// What is said when AWS answers a login with this.
fn refused(kind: &str, message: &str) -> Outcome {
    let project = Project::with_handler();
    let answer = json!({"__type": kind, "message": message}).to_string();
    let api = Server::start(move |_| Reply::status(400).body(answer.clone()));
    let ecr = registry_for(motos_login());
    let run = with_keys(pull(&project, &ecr, PRIVATE))
        .env("AWS_SESSION_TOKEN", SESSION)
        .env("AWS_ENDPOINT_URL_ECR", format!("http://{}", api.address()));
    let outcome = outcome(&project, run);
    assert_eq!(outcome.code, Some(AWS), "{}", outcome.rendering());
    let asked = &api.asked()[0];
    let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
    assert_eq!(asked.header("X-Amz-Target"), Some(target));
    let signature = asked.header("Authorization").unwrap();
    assert!(
        signature.contains("/eu-west-1/ecr/aws4_request"),
        "the host's region"
    );
    assert_eq!(asked.header("X-Amz-Security-Token"), Some(SESSION));
    outcome
}

#[test]
fn access_denied() {
    let user = "User: arn:aws:iam::123456789012:user/me is not authorized to perform: \
                ecr:GetAuthorizationToken on resource: * because no identity-based policy allows the \
                ecr:GetAuthorizationToken action";
    assert_said!(refused("AccessDeniedException", user));
}

#[test]
fn an_expired_session() {
    assert_said!(refused(
        "ExpiredTokenException",
        "The security token included in the request is expired"
    ));
}

#[test]
fn a_clock_that_is_wrong() {
    assert_said!(refused(
        "RequestExpired",
        "Request has expired. Timestamp date is 2020-01-01T00:00:00Z."
    ));
}

/// Throttled calls are made again, each signed anew, so often as others and no more.
#[test]
fn a_call_that_is_throttled_for_ever() {
    let project = Project::with_handler();
    let busy = json!({"__type": "ThrottlingException", "message": "Rate exceeded"}).to_string();
    let api = Server::start(move |_| Reply::status(400).body(busy.clone()));
    let ecr = registry_for(motos_login());
    let outcome = outcome(&project, pull_with(&project, &ecr, &api));
    assert_eq!(outcome.code, Some(AWS), "{}", outcome.rendering());
    let asked = api.asked();
    assert_eq!(asked.len(), 6, "{}", outcome.rendering());
    let dates = asked.iter().map(|asked| asked.header("X-Amz-Date"));
    let dates: std::collections::BTreeSet<_> = dates.collect();
    assert!(dates.len() > 2, "{dates:?}");
}

#[test]
fn a_wrong_key() {
    let message =
        format!("The request signature does not match.\n\nx-amz-security-token:{SESSION}\n");
    assert_said!(refused("InvalidSignatureException", &message));
}

#[test]
fn an_endpoint_without_tls() {
    let project = Project::with_handler();
    let ecr = registry_for(motos_login());
    let run =
        with_keys(pull(&project, &ecr, PRIVATE)).env("AWS_ENDPOINT_URL_ECR", "http://ecr.example/");
    let outcome = outcome(&project, run);
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

/// The public gallery; `busy` says whether strangers have read too much of it.
fn gallery(busy: bool) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| {
        let token = |name: &str| Reply::status(200).body(json!({"token": name}).to_string());
        if asked.target.starts_with("/token/") {
            return match asked.header("Authorization") {
                None => token("stranger"),
                Some(login) if login == motos_login() => token("friend"),
                // Tokens are given for logins that are over, and then refused.
                Some(_) => token("stale"),
            };
        }
        match asked.header("Authorization") {
            Some("Bearer stranger") if busy => Reply::status(429),
            Some("Bearer friend" | "Bearer stranger") => Reply::status(404),
            Some(_) => Reply::status(403),
            None => {
                let realm = format!(
                    "Bearer realm=\"https://{PUBLIC}/token/\",service=\"{PUBLIC}\",scope=\"aws\""
                );
                Reply::status(401).header("WWW-Authenticate", realm)
            }
        }
    }
}

/// The public gallery's control API, which moto has not.
pub(crate) fn gallerys_api() -> Server {
    Server::start(|asked| {
        let target = asked.header("X-Amz-Target");
        assert_eq!(target, Some("SpencerFrontendService.GetAuthorizationToken"));
        let token = STANDARD.encode(format!("AWS:{ACCOUNT}-auth-token"));
        let data = json!({"authorizationData": {"authorizationToken": token, "expiresAt": 4_070_908_800_u64}});
        Reply::status(200).body(data.to_string())
    })
}

#[test]
fn the_gallery_is_read_without_credentials() {
    let project = Project::with_handler();
    let ecr = Ecr::start(gallery(false));
    let api = gallerys_api();
    let run = with_keys(pull(&project, &ecr, PUBLIC)).env(
        "AWS_ENDPOINT_URL_ECR_PUBLIC",
        format!("http://{}", api.address()),
    );
    let outcome = outcome(&project, run);
    let last = ecr.asked().pop().unwrap();
    assert_eq!(
        last.header("Authorization"),
        Some("Bearer stranger"),
        "{}",
        outcome.rendering()
    );
    assert_eq!(api.asked().len(), 0);
}

#[test]
fn the_gallery_refuses_stale_credentials() {
    let project = Project::with_handler();
    project.login(PUBLIC, "AWS", "stale-password");
    let ecr = Ecr::start(gallery(false));
    let outcome = outcome(&project, pull(&project, &ecr, PUBLIC));
    let last = ecr.asked().pop().unwrap();
    assert_eq!(last.header("Authorization"), Some("Bearer stranger"));
    assert_said!(outcome);
}

#[test]
fn a_busy_gallery_is_read_as_somebody() {
    let project = Project::with_handler();
    let ecr = Ecr::start(gallery(true));
    let api = gallerys_api();
    let run = with_keys(pull(&project, &ecr, PUBLIC)).env(
        "AWS_ENDPOINT_URL_ECR_PUBLIC",
        format!("http://{}", api.address()),
    );
    let outcome = outcome(&project, run);
    let last = ecr.asked().pop().unwrap();
    assert_eq!(
        last.header("Authorization"),
        Some("Bearer friend"),
        "{}",
        outcome.rendering()
    );
    let asked = api.asked();
    assert_eq!(asked.len(), 1);
    let signature = asked[0].header("Authorization").unwrap();
    assert!(
        signature.contains("/us-east-1/ecr-public/aws4_request"),
        "{signature}"
    );
}

/// Somebody whom it knows is only asked to wait.
#[test]
fn a_busy_gallery_refuses_nobody() {
    let project = Project::with_handler();
    project.login(PUBLIC, "AWS", &format!("{ACCOUNT}-auth-token"));
    let gallery = gallery(false);
    let first = AtomicBool::new(true);
    let ecr = Ecr::start(move |asked| {
        let is_known = asked.header("Authorization") == Some("Bearer friend");
        if is_known && first.swap(false, Ordering::Relaxed) {
            return Reply::status(429).header("Retry-After", "1");
        }
        gallery(asked)
    });
    let begun = Instant::now();
    let outcome = outcome(&project, pull(&project, &ecr, PUBLIC));
    let told = outcome.rendering();
    assert!(begun.elapsed() > Duration::from_secs(1), "{told}");
    let last = ecr.asked().pop().unwrap();
    assert_eq!(
        last.header("Authorization"),
        Some("Bearer friend"),
        "{told}"
    );
    assert!(!told.contains("refuse"), "{told}");
}

/// An upload that comes too soon is tried again as whoever tried it, after the pause that was asked for.
#[test]
fn an_upload_that_comes_too_soon() {
    let busy = Troubled::once(Trouble::Status(429, Some(1)), "PUT", "/blobs/uploads/");
    let control = Control::with(Behaviour {
        login: Login::Basic,
        denies_expired: true,
        ..Behaviour::troubled([busy])
    });
    let project = Project::new();
    project.login(PRIVATE, ecr::USER, &control.registry.password());
    let begun = Instant::now();
    let outcome = control.push(&project, "functions/hello").run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(begun.elapsed() > Duration::from_secs(1), "it waited");
    assert_eq!(control.asked().len(), 0, "AWS was not asked");
}

/// Amazon's helper is not needed to read what anybody may.
#[test]
fn the_gallery_is_read_though_a_helper_fails() {
    let project = Project::with_handler();
    project.docker_config(&json!({"credHelpers": {PUBLIC: "ecr-login"}}));
    let ecr = Ecr::start(gallery(false));
    let outcome = outcome(&project, pull(&project, &ecr, PUBLIC));
    let told = outcome.rendering();
    let last = ecr.asked().pop().unwrap();
    assert_eq!(
        last.header("Authorization"),
        Some("Bearer stranger"),
        "{told}"
    );
    assert!(told.contains("read without credentials"), "{told}");
}

/// What the registry refused is the fault to tell; that AWS was of no help is beside it.
#[test]
fn stale_credentials_of_docker_where_aws_refuses_too() {
    let project = Project::with_handler();
    project.login(PRIVATE, "AWS", "stale-password");
    let ecr = registry_for(motos_login());
    let denial =
        json!({"__type": "AccessDeniedException", "message": "User: me is not authorized"});
    let api = Server::start(move |_| Reply::status(400).body(denial.to_string()));
    let outcome = outcome(&project, pull_with(&project, &ecr, &api));
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
}

/// Credentials would leave the registry's site.
#[test]
fn a_token_server_on_another_site() {
    let project = Project::with_handler();
    project.login("other.example", "me", "stale-password");
    let ecr = Ecr::start(|_| {
        let realm = format!("Bearer realm=\"https://{PUBLIC}/token/\",service=\"x\"");
        Reply::status(401).header("WWW-Authenticate", realm)
    });
    let outcome = outcome(&project, pull(&project, &ecr, "other.example"));
    assert_eq!(ecr.asked().len(), 1, "nobody else was asked");
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

/// moto as ECR's control API, beside a registry that has the repositories made there.
struct Control {
    registry: Arc<ecr::Ecr>,
    api: Server,
}

impl Control {
    fn start(missing: Missing) -> Control {
        Control::with(Behaviour {
            missing,
            ..Behaviour::private()
        })
    }

    fn with(behaviour: Behaviour) -> Control {
        let registry = Arc::new(ecr::Ecr::start(behaviour));
        let made = Arc::clone(&registry);
        let api = Server::start(move |asked| {
            let action = asked.header("X-Amz-Target").unwrap_or_default();
            // moto knows nothing of this registry's passwords.
            if action.ends_with(".GetAuthorizationToken") {
                let pair = format!("{}:{}", ecr::USER, made.password());
                let data = json!({"authorizationToken": STANDARD.encode(pair), "expiresAt": now() + 12 * 3600});
                return Reply::status(200).body(json!({"authorizationData": [data]}).to_string());
            }
            let names = [
                "Content-Type",
                "X-Amz-Target",
                "X-Amz-Date",
                "Authorization",
            ];
            let headers = names.map(|name| (name, asked.header(name).unwrap_or_default()));
            let answer = http::send("POST", moto(), &headers, asked.body.clone()).unwrap();
            if action.ends_with(".CreateRepository") && answer.status == 200 {
                let request: Value = serde_json::from_slice(&asked.body).unwrap();
                made.create(request["repositoryName"].as_str().unwrap());
            }
            Reply::status(answer.status).body(answer.body)
        });
        Control { registry, api }
    }

    /// Pushes an image to a repository under ECR's own name.
    fn push<'project>(&self, project: &'project Project, repository: &str) -> Run<'project> {
        let image = Layout::make(&project.beside("image"), &[(1, 20_000)]);
        self.copy(project, &image.name(), PRIVATE, repository)
    }

    /// Pushes `source` to a repository of a registry under its own name.
    fn copy<'project>(
        &self,
        project: &'project Project,
        source: &str,
        registry: &str,
        repository: &str,
    ) -> Run<'project> {
        let target = format!("{registry}/{repository}:1");
        let push = ["push", source, &target, "--plain-http", registry];
        with_keys(project.lambimg(push))
            .env("http_proxy", format!("http://{}", self.registry.address()))
            .env(
                "AWS_ENDPOINT_URL_ECR",
                format!("http://{}", self.api.address()),
            )
    }

    /// What was asked of the API, and in which words.
    fn asked(&self) -> Vec<(String, Value)> {
        let asked = self.api.asked().into_iter().map(|asked| {
            let action = asked.header("X-Amz-Target").unwrap_or_default();
            let action = action.split('.').next_back().unwrap_or_default().to_owned();
            (action, serde_json::from_slice(&asked.body).unwrap())
        });
        asked.collect()
    }
}

/// A login that was had long ago ends at any moment of a push, and the requests to mount are answered with other
/// scopes than those to send.
#[test]
fn a_login_that_ends_in_the_middle_of_a_push() {
    for left in 1..=9 {
        let control = Control::with(Behaviour {
            login: Login::Basic,
            denies_expired: true,
            mounts: left % 2 == 0,
            ..Behaviour::private()
        });
        let project = Project::new();
        let first = control.push(&project, "functions/hello").run();
        assert_eq!(first.code, Some(0), "{}", first.rendering());
        change_login(&project, 1, 11, &[]);
        let before = control.registry.password();
        control.registry.end_password_after(left);
        let source = format!("docker://{PRIVATE}/functions/hello:1");
        let copy = control.copy(&project, &source, PRIVATE, "functions/copy");
        let outcome = copy.run();
        assert_eq!(outcome.code, Some(0), "{left}: {}", outcome.rendering());
        assert_ne!(control.registry.password(), before, "{left}: it ended");
        assert_eq!(control.registry.tags("functions/copy").len(), 1);
    }
}

/// The gallery refuses every look for a blob by 401, which says nothing of who asks.
#[test]
fn the_gallery_is_pushed_to_with_dockers_credentials() {
    let control = Control::with(Behaviour::public());
    let project = Project::new();
    project.login(PUBLIC, ecr::USER, &control.registry.password());
    let image = Layout::make(&project.beside("image"), &[(1, 20_000), (2, 30_000)]);
    for repository in ["alias/hello", "alias/hello", "alias/copy"] {
        let run = control.copy(&project, &image.name(), PUBLIC, repository);
        let outcome = run.env("AWS_ENDPOINT_URL_ECR_PUBLIC", NOBODY).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert!(
            !outcome.stderr.contains("refused"),
            "{}",
            outcome.rendering()
        );
    }
    let requests = control.registry.requests();
    let looks = requests
        .iter()
        .filter(|asked| asked.method == "HEAD" && asked.target.contains("/blobs/"));
    assert_eq!(looks.count(), 0, "{requests:#?}");
    assert_eq!(control.asked().len(), 0, "AWS was not asked");
}

#[test]
fn a_missing_repository_is_made_as_configured() {
    for (number, missing) in [Missing::NameUnknown, Missing::Cut].into_iter().enumerate() {
        let control = Control::start(missing);
        let project = Project::new();
        project.file(
            "lambimg.toml",
            "create-repository = true\n[repository]\ntag-mutability = 'immutable'\n\
             scan-on-push = true\ntags = { team = 'orders' }\nencryption = 'AES256'\n",
        );
        let repository = format!("made/hello-{number}");
        let outcome = control.push(&project, &repository).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        let said = format!("created the repository {PRIVATE}/{repository}");
        assert!(outcome.stderr.contains(&said), "{}", outcome.rendering());
        assert_eq!(control.registry.tags(&repository).len(), 1);
        let creations = control.asked().into_iter();
        let creations = creations.filter(|(action, _)| action == "CreateRepository");
        let wanted = json!({
            "registryId": ACCOUNT, "repositoryName": repository,
            "imageTagMutability": "IMMUTABLE",
            "imageScanningConfiguration": {"scanOnPush": true},
            "tags": [{"Key": "team", "Value": "orders"}],
            "encryptionConfiguration": {"encryptionType": "AES256"},
        });
        assert_eq!(
            creations.map(|(_, said)| said).collect::<Vec<_>>(),
            [wanted]
        );
        // Once it is there nobody is asked.
        let before = control.asked().len();
        let again = control.push(&project, &repository).run();
        assert_eq!(again.code, Some(0), "{}", again.rendering());
        assert_eq!(control.asked().len(), before);
    }
}

/// Somebody else was faster: that is what was wanted.
#[test]
fn a_repository_that_is_there_already_is_no_error() {
    let control = Control::start(Missing::NameUnknown);
    let project = Project::new();
    let first = control.push(&project, "made/faster").run();
    assert_eq!(first.code, Some(NETWORK), "{}", first.rendering());
    let create = |control: &Control| {
        project.file("lambimg.toml", "create-repository = true\n");
        control.push(&project, "made/faster").run()
    };
    assert_eq!(create(&control).code, Some(0));
    // moto has it, and this registry does not show it.
    let other = Control::start(Missing::NameUnknown);
    let outcome = create(&other);
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    let made = other.asked().into_iter();
    assert_eq!(
        made.filter(|(action, _)| action == "CreateRepository")
            .count(),
        1
    );
}

/// ECR hangs up on whoever pushes to nowhere; so do networks. AWS is asked which it was.
#[test]
fn a_connection_that_is_cut_is_explained() {
    let control = Control::start(Missing::Cut);
    let project = Project::new();
    let outcome = control.push(&project, "cut/hello").run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    let asked: Vec<_> = control
        .asked()
        .into_iter()
        .map(|(action, _)| action)
        .collect();
    assert_eq!(asked, ["DescribeRepositories"]);
    assert_said!(outcome);
}
