//! What becomes of tags when a registry does not tell what is under them, or others move them meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::bent::Registry;
use crate::support::bent::other;
use crate::support::bent::said;
use crate::support::digest;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::server::Asked;
use crate::support::server::Reply;

const REFUSED: i32 = 1;
const NETWORK: i32 = 4;

fn built() -> Project {
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    project
        .lambimg(["build", "--base", &base, "-t", "app"])
        .succeed();
    project
}

fn is_look(asked: &Asked) -> bool {
    matches!(asked.method.as_str(), "GET" | "HEAD") && asked.target.contains("/manifests/")
}

#[test]
fn a_look_that_fails_moves_no_tag_that_is_to_stay() {
    for status in [403, 400, 500] {
        let registry = Registry::bent(move |asked, _| {
            let is_tag = asked.target.ends_with("/taken");
            (is_look(asked) && is_tag).then(|| Reply::status(status))
        });
        registry.kept().put_manifest("taken", &other());
        let outcome = built()
            .lambimg(["push", "--immutable-tags", "app", &registry.name("taken")])
            .run();
        assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
        assert_eq!(registry.kept().manifests["taken"], other());
        assert!(registry.asked("POST", "").is_empty(), "nothing was sent");
    }
}

#[test]
fn a_registry_that_does_not_tell_digests_is_read() {
    let registry = Registry::bent(|asked, kept| {
        let mut reply = kept.answer(asked);
        reply
            .headers
            .retain(|(name, _)| *name != "Docker-Content-Digest");
        Some(reply)
    });
    let project = built();
    let push = |tags: &[&str]| {
        let names = tags.iter().map(|tag| registry.name(tag));
        let names: Vec<_> = names.collect();
        let names = names.iter().map(String::as_str);
        let arguments = ["push", "--immutable-tags", "app"];
        project.lambimg(arguments.into_iter().chain(names)).run()
    };
    registry.kept().put_manifest("taken", &other());
    let outcome = push(&["free", "taken"]);
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_eq!(registry.kept().manifests["taken"], other());
    assert_eq!(push(&["free", "more"]).code, Some(0));
    let again = push(&["free", "more"]);
    assert_eq!(again.code, Some(0), "{}", again.rendering());
    assert!(
        again.stderr.contains("is already there"),
        "{}",
        again.stderr
    );
}

/// While blobs are on their way somebody else takes the tag.
#[test]
fn a_tag_that_is_taken_meanwhile_stays() {
    let registry = Registry::bent(|asked, kept| {
        if asked.method == "PUT" && asked.target.contains("/uploads/") {
            kept.manifests.insert("new".to_owned(), other());
        }
        None
    });
    let outcome = built()
        .lambimg(["push", "--immutable-tags", "app", &registry.name("new")])
        .run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_eq!(registry.kept().manifests["new"], other());
}

#[test]
fn nothing_is_sent_early_for_a_tag_that_is_to_stay() {
    let registry = Registry::bent(|_, _| None);
    registry.kept().put_manifest("taken", &other());
    let base = Base::aws("3.12").reference();
    let name = registry.name("taken");
    let outcome = Project::with_handler()
        .lambimg([
            "build",
            "--push",
            "--immutable-tags",
            "--base",
            &base,
            "-t",
            &name,
        ])
        .run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert!(registry.asked("POST", "").is_empty(), "nothing was sent");
}

#[test]
fn tags_of_all_repositories_are_looked_at_first() {
    let (one, two) = (Registry::bent(|_, _| None), Registry::bent(|_, _| None));
    two.kept().put_manifest("taken", &other());
    let names = [one.name("new"), two.name("taken"), one.name("taken")];
    let project = built();
    for (first, second) in [(&names[0], &names[1]), (&names[1], &names[0])] {
        let outcome = project
            .lambimg(["push", "--immutable-tags", "app", first, second])
            .run();
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        assert!(one.kept().manifests.is_empty() && one.asked("POST", "").is_empty());
    }
}

/// The second repository refuses its tag when the first has its own.
#[test]
fn what_is_done_before_a_failure_is_told() {
    let registry = Registry::bent(|asked, _| {
        let is_second = asked.target.ends_with("/second/app/manifests/1");
        (is_second && asked.method == "PUT").then(|| said(403, "DENIED", "not you"))
    });
    let second = registry.name("1").replace("functions/app", "second/app");
    let first = registry.name("1");
    let outcome = built()
        .lambimg(["push", "--progress", "none", "app", &first, &second])
        .run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    let pushed = digest(&registry.kept().manifests["1"]);
    let name = registry.name("1");
    let reference = format!("{}@{pushed}\n", name.trim_end_matches(":1"));
    assert_eq!(outcome.stdout, reference);
    assert_said!(outcome);
}

/// The second repository takes no blob.
#[test]
fn no_tag_moves_before_all_repositories_have_the_image() {
    let registry = Registry::bent(|asked, _| {
        let is_second = asked.target.contains("/second/");
        (is_second && asked.method == "PUT").then(|| said(403, "DENIED", "not you"))
    });
    let first = registry.name("1");
    let second = first.replace("functions/app", "second/app");
    let outcome = built().lambimg(["push", "app", &first, &second]).run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    assert!(!registry.kept().manifests.contains_key("1"));
}

/// The second tag fails when the first has moved.
#[test]
fn tags_that_moved_before_a_failure_are_told() {
    let registry = Registry::bent(|asked, _| {
        let is_second = asked.method == "PUT" && asked.target.ends_with("/manifests/t2");
        is_second.then(|| said(403, "DENIED", "not this one"))
    });
    let project = built();
    let file = project.beside("pushed.json");
    let (first, second) = (registry.name("t1"), registry.name("t2"));
    let arguments = ["push", "--progress", "none", "app", &first, &second];
    let metadata = ["--metadata-file", file.to_str().unwrap()];
    let outcome = project.lambimg([&arguments[..], &metadata].concat()).run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    let there = digest(&registry.kept().manifests["t1"]);
    let name = first.trim_end_matches(":t1");
    assert_eq!(outcome.stdout, format!("{name}@{there}\n"));
    let told: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(told["digest"], there);
    assert_eq!(told["pushed"][0]["tags"], serde_json::json!(["t1"]));
    assert_eq!(told["pushed"].as_array().unwrap().len(), 1);
    assert_said!(outcome);
}

#[test]
fn a_mount_that_is_cut_is_followed_by_an_upload() {
    let registry = Registry::bent(|asked, _| {
        let is_second = asked.target.contains("/second/");
        if is_second && asked.target.contains("mount=") {
            return Some(Reply::hang_up());
        }
        let is_look = asked.method == "HEAD" && asked.target.contains("/blobs/");
        (is_second && is_look).then(|| Reply::status(404))
    });
    let first = registry.name("1");
    let second = first.replace("functions/app", "second/app");
    built().lambimg(["push", "app", &first, &second]).succeed();
    assert!(!registry.asked("POST", "mount=").is_empty());
    let uploads = registry.asked("PUT", "/second/app/blobs/uploads/");
    assert!(!uploads.is_empty());
}

/// A layer in the store is damaged, and nobody else has it.
#[test]
fn damage_of_the_store_is_no_fault_of_the_registry() {
    let registry = Registry::bent(|_, _| None);
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let file = project.beside("made.json");
    let file = file.to_str().unwrap();
    let arguments = [
        "build",
        "--base",
        &base,
        "-t",
        "app",
        "--metadata-file",
        file,
    ];
    project.lambimg(arguments).succeed();
    let made: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let layer = made["layers"].as_array().unwrap().last().unwrap();
    let layer = layer["digest"].as_str().unwrap();
    let path = project.cache().join("blobs").join(layer.replace(':', "/"));
    let mut content = fs::read(&path).unwrap();
    content[20] ^= 1;
    fs::write(&path, content).unwrap();
    let outcome = project.lambimg(["push", "app", &registry.name("1")]).run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    let told = format!("blob {layer} of the store was damaged and is dropped");
    assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("exchange"), "{}", outcome.stderr);
}

#[test]
fn who_may_not_look_may_push() {
    let registry = Registry::bent(|asked, _| {
        let is_look = matches!(asked.method.as_str(), "GET" | "HEAD");
        is_look.then(|| said(403, "DENIED", "no leave to read"))
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
    assert!(registry.kept().manifests.contains_key("1"));
}

#[test]
fn a_tag_beside_a_digest_is_put() {
    let registry = Registry::bent(|_, _| None);
    let project = built();
    project
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
    let digest = digest(&registry.kept().manifests["1"]);
    let both = format!("{}@{digest}", registry.name("2"));
    let printed = project.lambimg(["push", "app", &both]).succeed();
    assert!(printed.ends_with(&format!("@{digest}\n")), "{printed}");
    let tags: BTreeSet<_> = registry.kept().manifests.keys().cloned().collect();
    assert!(tags.contains("2"), "{tags:?}");
}

/// All answers to the put of the tag are lost, and it has moved all the same.
#[test]
fn a_tag_whose_answers_were_lost_is_looked_at() {
    let registry = Registry::bent(|asked, kept| {
        let is_tag = asked.method == "PUT" && asked.target.ends_with("/manifests/1");
        is_tag.then(|| {
            kept.answer(asked);
            Reply::status(502)
        })
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
}

#[test]
fn a_registry_that_stays_busy_at_the_end_is_not_waited_for_long() {
    let registry = Registry::bent(|asked, kept| {
        let is_look = asked.method == "HEAD" && asked.target.contains("/manifests/sha256");
        (is_look && !kept.manifests.is_empty())
            .then(|| Reply::status(429).header("Retry-After", "60"))
    });
    let outcome = built().lambimg(["push", "app", &registry.name("1")]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(outcome.stderr.contains("does not show it yet"));
    // One before, and one at the end.
    let looks = registry.asked("HEAD", "/manifests/sha256").len();
    assert_eq!(looks, 2);
}

#[test]
fn a_registry_that_is_busy_at_the_end_is_left_alone_as_long_as_it_says() {
    let first = OnceLock::new();
    let registry = Registry::bent(move |asked, kept| {
        let is_look = asked.method == "HEAD" && asked.target.contains("/manifests/sha256");
        let is_busy = is_look
            && !kept.manifests.is_empty()
            && first.get_or_init(Instant::now).elapsed() < Duration::from_secs(3);
        is_busy.then(|| Reply::status(429).header("Retry-After", "3"))
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
    // One before, and two at the end.
    let looks = registry.asked("HEAD", "/manifests/sha256").len();
    assert_eq!(looks, 3);
}

/// A manifest that is refused for blobs that were all sent just now is refused soon.
#[test]
fn blobs_that_were_sent_are_not_missed_again_and_again() {
    let registry = Registry::bent(|asked, _| {
        let is_manifest = asked.method == "PUT" && asked.target.contains("/manifests/");
        is_manifest.then(|| said(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown"))
    });
    let outcome = built().lambimg(["push", "app", &registry.name("1")]).run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_eq!(registry.asked("PUT", "/manifests/").len(), 3);
}

// --- what says yes to everything ----------------------------------------------------------------

/// As the page of a network that wants a login.
#[test]
fn a_yes_to_everything_is_no_push() {
    let registry = Registry::bent(|_, _| Some(Reply::status(200).body("<html>login</html>")));
    let target = registry.name("1");
    let arguments = ["push", "--progress", "none", "app", &target];
    let outcome = built().lambimg(arguments).run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn a_yes_to_an_upload_is_no_blob() {
    let registry = Registry::bent(|asked, _| {
        let is_upload = asked.method == "PUT" && asked.target.contains("/uploads/");
        is_upload.then(|| Reply::status(200))
    });
    let outcome = built().lambimg(["push", "app", &registry.name("1")]).run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    let told = "answered 200 to the upload of blob sha256:";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    assert!(registry.kept().manifests.is_empty());
}

/// The specification has 201.
#[test]
fn another_success_is_one_where_all_is_there() {
    let registry = Registry::bent(|asked, kept| {
        let mut reply = kept.answer(asked);
        if asked.method == "PUT" && reply.status == 201 {
            reply.status = 200;
        }
        Some(reply)
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
    assert!(registry.kept().manifests.contains_key("1"));
}

#[test]
fn another_manifest_under_the_digest_is_not_the_image() {
    let registry = Registry::bent(|asked, kept| {
        let is_early = is_look(asked) && kept.manifests.is_empty();
        let lie = Reply::status(200).header("Docker-Content-Digest", digest(&other()));
        (is_early && asked.target.contains("sha256:")).then_some(lie)
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
    assert!(registry.kept().manifests.contains_key("1"));
    let puts = registry.asked("PUT", "/manifests/sha256");
    assert_eq!(puts.len(), 1, "it is put by its digest, too");
}

/// What stands before the registry has every blob, and the registry none.
#[test]
fn looks_that_are_wrong_are_not_believed_for_ever() {
    let registry = Registry::bent(|asked, _| {
        let is_look = asked.method == "HEAD" && asked.target.contains("/blobs/");
        is_look.then(|| Reply::status(200))
    });
    built()
        .lambimg(["push", "app", &registry.name("1")])
        .succeed();
    assert!(registry.kept().manifests.contains_key("1"));
    let uploads = registry.asked("PUT", "/uploads/").len();
    assert_eq!(uploads, registry.kept().blobs.len(), "each goes once");
}
