//! What a push does when a registry does not do what it should: one answer at a time is bent.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::bent::Kept;
use crate::support::bent::Registry;
use crate::support::bent::other;
use crate::support::bent::said;
use crate::support::digest;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;

const REFUSED: i32 = 1;
const NETWORK: i32 = 4;

/// An image of the name `app`, on a base of another registry.
fn built() -> Project {
    let project = Project::with_handler();
    build(&project);
    project
}

fn build(project: &Project) {
    let base = Base::aws("3.12").reference();
    project
        .lambimg(["build", "--base", &base, "-t", "app"])
        .succeed();
}

#[test]
fn failed_uploads_begin_anew() {
    let registry = Registry::bent(|asked, kept| {
        let is_upload = asked.method == "PUT" && asked.target.contains("/uploads/");
        let is_bent = if kept.bent == 0 {
            asked.method == "POST"
        } else {
            is_upload && kept.bent < 4
        };
        is_bent.then(|| {
            kept.bent += 1;
            if is_upload {
                return Reply::status(500);
            }
            Reply::status(429).header("Retry-After", "1")
        })
    });
    let target = registry.name("1");
    let outcome = built().lambimg(["push", "-v", "app", &target]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(
        outcome
            .stderr
            .contains("429 Too Many Requests; try 2 in 1 s"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("500 Internal Server Error; try 2"),
        "{}",
        outcome.stderr
    );
    let puts = registry.asked("PUT", "/uploads/");
    let sessions: BTreeSet<_> = puts
        .iter()
        .map(|asked| asked.target.split('?').next())
        .collect();
    assert_eq!(sessions.len(), puts.len(), "no session is used again");
    assert!(registry.kept().manifests.contains_key("1"));
    assert!(!outcome.stderr.contains("presigned"), "{}", outcome.stderr);
}

/// Of the answers that were lost it is only seen that the blob is there.
#[test]
fn a_blob_whose_answers_were_lost_is_looked_for() {
    let registry = Registry::bent(|asked, kept| {
        let is_upload = asked.method == "PUT" && asked.target.contains("/uploads/");
        is_upload.then(|| {
            kept.answer(asked);
            Reply::status(502)
        })
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
    assert!(registry.kept().manifests.contains_key("1"));
}

#[test]
fn registry_that_stays_busy() {
    let registry = Registry::bent(|asked, _| (asked.method == "POST").then(|| Reply::status(503)));
    let begun = Instant::now();
    let outcome = built()
        .lambimg(["push", "--progress", "none", "app", &registry.name("1")])
        .run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "one budget, not one in another"
    );
    assert!(registry.kept().manifests.is_empty());
    assert_said!(outcome);
}

#[test]
fn repository_is_missing() {
    let registry = Registry::bent(|asked, _| {
        let message =
            "The repository with name 'functions/app' does not exist in the registry with id '1'";
        (asked.method == "POST").then(|| said(404, "NAME_UNKNOWN", message))
    });
    let outcome = built().lambimg(["push", "app", &registry.name("1")]).run();
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

// --- tags ---------------------------------------------------------------------------------------

fn immutable() -> Registry {
    let registry = Registry::bent(|asked, kept| {
        let tag = asked.target.rsplit('/').next().unwrap();
        let is_taken = asked.method == "PUT" && kept.manifests.contains_key(tag);
        let message = "The image tag 'x' already exists in the 'functions/app' repository and cannot be \
                       overwritten because the tag is immutable.";
        (is_taken && asked.target.contains("/manifests/") && !tag.starts_with("sha256"))
            .then(|| said(400, "TAG_INVALID", message))
    });
    registry.kept().put_manifest("taken", &other());
    registry
}

#[test]
fn tag_is_another_images_for_good() {
    let registry = immutable();
    let project = built();
    let (taken, free) = (registry.name("taken"), registry.name("free"));
    let outcome = project
        .lambimg(["push", "--progress", "none", "app", &free, &taken])
        .run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert!(
        outcome.stderr.contains(&digest(&other())),
        "{}",
        outcome.stderr
    );
    let kept = registry.kept();
    assert_eq!(kept.manifests["taken"], other());
    assert!(
        !kept.manifests.contains_key("free"),
        "none moves where one cannot"
    );
    assert_said!(outcome);
}

#[test]
fn the_same_again_is_no_error_where_tags_stay() {
    let registry = immutable();
    let project = built();
    let name = registry.name("1");
    let printed = project.lambimg(["push", "app", &name]).succeed();
    let before = registry.server.asked().len();
    let again = project.lambimg(["push", "app", &name]).run();
    assert_eq!((again.code, &again.stdout), (Some(0), &printed));
    assert!(
        again.stderr.contains("is already there"),
        "{}",
        again.stderr
    );
    assert_eq!(
        registry.server.asked().len() - before,
        2,
        "the digest and the tag"
    );
}

/// Between the look and the put somebody pushes the same.
#[test]
fn another_run_was_faster_with_the_same() {
    let registry = Registry::bent(|asked, kept| {
        let is_tag = asked.method == "PUT" && asked.target.ends_with("/manifests/1");
        is_tag.then(|| {
            kept.put_manifest("1", &asked.body);
            said(400, "TAG_INVALID", "the tag is immutable")
        })
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
}

#[test]
fn tags_stay_where_the_user_says_so() {
    let registry = Registry::bent(|_, _| None);
    registry.kept().put_manifest("taken", &other());
    let project = built();
    let taken = registry.name("taken");
    let outcome = project
        .lambimg(["push", "app", &taken])
        .env("LAMBIMG_IMMUTABLE_TAGS", "true")
        .run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert!(registry.asked("POST", "").is_empty(), "nothing was sent");
    assert_said!(outcome);
    project
        .lambimg(["push", "--force", "app", &taken])
        .env("LAMBIMG_IMMUTABLE_TAGS", "true")
        .succeed();
    assert_ne!(registry.kept().manifests["taken"], other());
    // By default a tag moves.
    registry.kept().put_manifest("taken", &other());
    project.lambimg(["push", "app", &taken]).succeed();
}

// --- what moves ---------------------------------------------------------------------------------

#[test]
fn what_the_tag_refers_to_is_not_asked_for() {
    let registry = Registry::bent(|_, _| None);
    let project = built();
    let name = registry.name("1");
    project.lambimg(["push", "app", &name]).succeed();
    project.file(
        "app.py",
        "def handler(event, context):\n    return 'changed'\n",
    );
    build(&project);
    let before = registry.server.asked().len();
    let file = project.beside("made.json");
    project
        .lambimg([
            "push",
            "app",
            &name,
            "--metadata-file",
            file.to_str().unwrap(),
        ])
        .succeed();
    let asked = registry.server.asked().split_off(before);
    let lines: Vec<_> = asked
        .iter()
        .map(|asked| format!("{} {}", asked.method, asked.target))
        .collect();
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        count("HEAD /v2/functions/app/blobs/"),
        2,
        "layer and config: {lines:#?}"
    );
    assert_eq!(count("POST"), 2, "{lines:#?}");
    assert_eq!(lines.len(), 11, "{lines:#?}");

    let made: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let pushed = &made["pushed"][0];
    let reference = format!(
        "{}@{}",
        name.trim_end_matches(":1"),
        made["digest"].as_str().unwrap()
    );
    assert_eq!(pushed["reference"], reference);
    assert_eq!(pushed["tags"], serde_json::json!(["1"]));
    assert_eq!(pushed["already_there"], false);
    assert!(
        pushed["skipped"].as_u64() > pushed["uploaded"].as_u64(),
        "{made:#}"
    );
}

#[test]
fn a_manifest_whose_blobs_are_gone_is_not_believed_twice() {
    let registry = Registry::bent(|_, _| None);
    let project = built();
    let name = registry.name("1");
    project.lambimg(["push", "app", &name]).succeed();
    let all: BTreeSet<_> = registry.kept().blobs.keys().cloned().collect();
    project.file(
        "app.py",
        "def handler(event, context):\n    return 'changed'\n",
    );
    build(&project);
    registry.kept().blobs.clear();
    project.lambimg(["push", "app", &name]).succeed();
    let kept = registry.kept();
    let again = kept.blobs.keys().filter(|blob| all.contains(*blob)).count();
    assert!(again > 0 && !kept.lacks_blobs_of(&kept.manifests["1"]));
}

#[test]
fn a_digest_that_does_not_show_at_once_is_waited_for() {
    let registry = Registry::bent(|asked, kept| {
        let is_look = asked.method == "HEAD" && asked.target.contains("/manifests/sha256");
        (is_look && kept.manifests.len() > 1 && kept.bent < 3).then(|| {
            kept.bent += 1;
            Reply::status(404)
        })
    });
    let outcome = built()
        .lambimg(["push", "-v", "app", &registry.name("1")])
        .run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(
        outcome.stderr.contains("not there yet; look 3"),
        "{}",
        outcome.stderr
    );
}

// --- safety -------------------------------------------------------------------------------------

/// A registry that takes uploads on another host, which answers as `bend` says where that says something.
fn with_bucket(
    bend: impl Fn(&Asked, &mut Kept) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Server) {
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let shared = Arc::clone(&kept);
    let bucket = Server::start(move |asked| {
        let mut kept = shared.lock().unwrap();
        bend(asked, &mut kept).unwrap_or_else(|| kept.answer(asked))
    });
    let address = bucket.address();
    let server = Server::start(move |asked| {
        if asked.header("Authorization").is_none() {
            return Reply::status(401).header("WWW-Authenticate", "Basic realm=\"tests\"");
        }
        let mut kept = kept.lock().unwrap();
        let mut reply = kept.answer(asked);
        for (name, value) in &mut reply.headers {
            if *name == "Location" {
                *value = format!("http://{address}{value}");
            }
        }
        reply
    });
    (server, bucket)
}

fn push_to(server: &Server, told: &[&str]) -> Outcome {
    let project = built();
    project.login(&server.address(), "me", "s3cr3t");
    let target = format!("{}/functions/app:1", server.address());
    let arguments = [&["push", "app", &target], told].concat();
    project.lambimg(arguments).run()
}

#[test]
fn an_upload_elsewhere_gets_no_credentials() {
    let (server, bucket) = with_bucket(|_, _| None);
    let outcome = push_to(&server, &["-v"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let uploads = bucket.asked();
    assert!(!uploads.is_empty());
    assert!(
        uploads
            .iter()
            .all(|asked| asked.header("Authorization").is_none())
    );
    assert!(!outcome.stderr.contains("presigned") && !outcome.stderr.contains("s3cr3t"));
}

/// A presigned address may be good no more when the bytes come.
#[test]
fn an_upload_that_is_refused_elsewhere_has_another_address() {
    let (server, _bucket) = with_bucket(|_, kept| {
        kept.bent += 1;
        (kept.bent <= 2).then(|| said(403, "Expired", "Request has expired"))
    });
    let outcome = push_to(&server, &["-v"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
}

#[test]
fn an_upload_that_stays_refused_elsewhere_is_not_the_registrys_refusal() {
    let (server, bucket) = with_bucket(|_, _| Some(said(403, "Expired", "Request has expired")));
    let outcome = push_to(&server, &["--progress", "none"]);
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    let error = outcome
        .stderr
        .lines()
        .find(|line| line.starts_with("error: "));
    let host = format!(
        "error: `{}`, where `{}`",
        bucket.address(),
        server.address()
    );
    assert!(error.unwrap().starts_with(&host), "{}", outcome.stderr);
    assert_said!(outcome);
}

#[test]
fn secrets_that_a_registry_repeats_are_not_shown() {
    let server = Server::start(|asked| match asked.header("Authorization") {
        None => Reply::status(401).header("WWW-Authenticate", "Basic realm=\"tests\""),
        Some(sent) if asked.method == "POST" => {
            let message = format!("no leave for {sent} at https://b.test/x?X-Amz-Signature=abc");
            said(403, "DENIED", &message)
        }
        Some(_) => Reply::status(404),
    });
    let project = built();
    project.login(&server.address(), "me", "s3cr3t");
    let target = format!("{}/functions/app:1", server.address());
    let outcome = project.lambimg(["push", "-v", "app", &target]).run();
    assert_eq!(outcome.code, Some(NETWORK));
    assert_said!(outcome);
}

#[test]
fn a_proxy_without_an_address_is_named() {
    let outcome = built()
        .lambimg(["push", "app", "registry.test/app:1"])
        .env("HTTPS_PROXY", "http://proxy.invalid:3128")
        .run();
    assert_eq!(outcome.code, Some(NETWORK));
    let told = "the host name `proxy.invalid` does not resolve";
    assert!(outcome.stderr.contains(told), "{}", outcome.rendering());
}

/// A certificate of nobody's authority, and a file that is none.
#[test]
fn authority_file_is_none() {
    let project = built();
    project.file("ca.pem", "nothing of the kind");
    let outcome = project
        .lambimg(["push", "app", "registry.test/app", "--ca-file", "ca.pem"])
        .run();
    assert_eq!(outcome.code, Some(2));
    assert_said!(outcome);
}

// --- mirrors ------------------------------------------------------------------------------------

#[test]
fn a_mirror_leaves_no_trace_in_the_image() {
    let base = Base::aws("3.12").reference();
    let (keeper, _) = base.split_once('/').unwrap();
    let original = "registry.test";
    let named = base.replace(keeper, original);
    let project = Project::with_handler();
    let build = |project: &Project, base: &str| {
        let arguments = ["build", "--base", base, "-t", "app"];
        let mirror = format!("{original}={keeper}");
        let file = project.beside("made.json");
        let arguments = arguments
            .into_iter()
            .chain(["--mirror", &mirror, "--metadata-file"]);
        project
            .lambimg(arguments.chain([file.to_str().unwrap()]))
            .succeed();
        fs::read_to_string(file).unwrap()
    };
    let made = build(&project, &named);
    assert!(!made.contains(keeper), "{made}");
    assert!(made.contains(original), "{made}");
    // One that fails is told of, and the registry itself asked.
    let absent = format!("{keeper}=127.0.0.1:1");
    let outcome = Project::with_handler()
        .lambimg([
            "build", "-v", "--base", &base, "-t", "app", "--mirror", &absent,
        ])
        .run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(
        outcome.stderr.contains("the mirror 127.0.0.1:1/"),
        "{}",
        outcome.stderr
    );
}

// --- signals ------------------------------------------------------------------------------------

#[test]
fn a_signal_ends_a_push_at_once() {
    let project = built();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let registry = Registry::bent(|asked, _| {
            if asked.method == "PUT" && asked.target.contains("/uploads/") {
                std::thread::sleep(Duration::from_secs(20));
            }
            None
        });
        let mut child = project
            .lambimg(["push", "app", &registry.name("1")])
            .start();
        let begun = Instant::now();
        while registry.asked("PUT", "/uploads/").is_empty() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "no upload begins"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let sent = Instant::now();
        let killed = Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status();
        assert!(killed.unwrap().success());
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), Some(code));
        assert!(
            sent.elapsed() < Duration::from_secs(10),
            "{:?}",
            sent.elapsed()
        );
    }
}
