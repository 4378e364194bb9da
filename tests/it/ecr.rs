//! What ECR does that the specification does not have, one test each, as the user meets it: a push that
//! succeeds all the same, or the message that says what to do.

use std::fs;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use lambimg::blob_store::BlobStore;
use lambimg::http::Client;
use lambimg::http::Settings;
use lambimg::oci::layout;
use lambimg::oci::reference::Reference;
use lambimg::progress::Progress;
use lambimg::registry::Registries;
use lambimg::registry::auth::Keychain;
use lambimg::registry::push::Options;
use lambimg::registry::push::Push;

use crate::support::ecr::Behaviour;
use crate::support::ecr::Ecr;
use crate::support::ecr::Host;
use crate::support::ecr::Location;
use crate::support::ecr::Login;
use crate::support::ecr::Missing;
use crate::support::ecr::REAL;
use crate::support::ecr::Request;
use crate::support::ecr::Trouble;
use crate::support::ecr::Troubled;
use crate::support::ecr::USER;
use crate::support::image::Image;
use crate::support::image::files_of;
use crate::support::layout::Layout;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::registry::Registry;

const REFUSED: i32 = 1;
const NETWORK: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(40);
/// Two layers, a large one and a small one.
const LAYERS: [(u64, u64); 2] = [(1, 2_000_000), (2, 30_000)];

/// An image of noise beside a project.
fn image(project: &Project) -> Layout {
    Layout::make(&project.beside("image"), &LAYERS)
}

fn push(project: &Project, image: &str, target: &str) -> Outcome {
    let run = project.lambimg(["push", "-q", image, target]);
    run.spawn().outcome(PATIENCE)
}

/// Pushes to success, and has the registry say that the tag leads to the image.
fn push_to(ecr: &Ecr, project: &Project) -> Layout {
    let image = image(project);
    let target = ecr.name("functions/hello:1");
    let outcome = push(project, &image.name(), &target);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let name = ecr.name("functions/hello");
    assert_eq!(outcome.stdout, format!("{name}@{}\n", image.digest));
    ecr.assert_has("functions/hello", "1", &image.digest);
    image
}

/// Pushes to a failure after which nothing is tagged.
fn fail_to(ecr: &Ecr, project: &Project, code: i32) -> Outcome {
    let image = image(project);
    let outcome = push(project, &image.name(), &ecr.name("functions/hello:1"));
    assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    assert!(ecr.tags("functions/hello").is_empty());
    assert_eq!(ecr.faults(), Vec::<String>::new());
    outcome
}

fn count(ecr: &Ecr, wanted: impl Fn(&Request) -> bool) -> usize {
    ecr.requests().iter().filter(|asked| wanted(asked)).count()
}

fn is_upload(asked: &Request) -> bool {
    asked.target.contains("/blobs/uploads/") && asked.method != "POST"
}

// --- uploads ------------------------------------------------------------------------------------

/// A PATCH is answered by 201 there, with a range that stands still: what is never sent cannot mislead.
#[test]
fn a_blob_goes_up_in_one_request() {
    let ecr = Ecr::start(Behaviour::private());
    let image = push_to(&ecr, &Project::new());
    assert_eq!(count(&ecr, |asked| asked.method == "PATCH"), 0);
    assert_eq!(count(&ecr, is_upload), image.blobs.len());
    let sent: u64 = ecr
        .requests()
        .iter()
        .filter(|asked| is_upload(asked))
        .map(|asked| asked.sent)
        .sum();
    assert_eq!(sent, image.size());
}

/// What began again in a session that broke off would be refused by 416.
#[test]
fn an_upload_that_breaks_off_has_another_session() {
    let cut = Trouble::CutRequest(100_000);
    let ecr = Ecr::start(Behaviour::troubled([Troubled {
        times: 2,
        ..Troubled::once(cut, "PUT", "/blobs/uploads/")
    }]));
    push_to(&ecr, &Project::new());
    assert_eq!(count(&ecr, |asked| asked.status == 416), 0);
}

#[test]
fn an_upload_may_have_a_place_of_any_form() {
    for location in [Location::Relative, Location::Absolute, Location::OtherHost] {
        for login in [Login::Nobody, Login::Basic, Login::Bearer] {
            let ecr = Ecr::start(Behaviour {
                login,
                location,
                ..Behaviour::private()
            });
            let project = Project::new();
            project.login(&ecr.address(), USER, &ecr.password());
            // No fault: another host had no credentials.
            let image = push_to(&ecr, &project);
            let elsewhere = count(&ecr, |asked| asked.host == Host::Uploads && asked.sent > 0);
            let wanted = if location == Location::OtherHost {
                image.blobs.len()
            } else {
                0
            };
            assert_eq!(elsewhere, wanted);
        }
    }
}

// --- the repository -----------------------------------------------------------------------------

#[test]
fn a_repository_is_created_by_the_push() {
    let ecr = Ecr::start(Behaviour {
        missing: Missing::Created,
        ..Behaviour::private()
    });
    push_to(&ecr, &Project::new());
}

#[test]
fn a_repository_is_missing() {
    let ecr = Ecr::start(Behaviour {
        missing: Missing::NameUnknown,
        ..Behaviour::private()
    });
    assert_said!(fail_to(&ecr, &Project::new(), NETWORK));
}

#[test]
fn a_repository_is_missing_and_nobody_answers() {
    let ecr = Ecr::start(Behaviour {
        missing: Missing::Cut,
        ..Behaviour::private()
    });
    assert_said!(fail_to(&ecr, &Project::new(), NETWORK));
}

#[test]
fn an_image_to_pull_is_missing() {
    let ecr = Ecr::start(Behaviour::private());
    let project = Project::new();
    let source = format!("docker://{}", ecr.name("functions/hello:1"));
    let outcome = push(&project, &source, &ecr.name("functions/other:1"));
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
}

// --- tags ---------------------------------------------------------------------------------------

#[test]
fn an_immutable_tag_that_is_there_already() {
    let ecr = Ecr::start(Behaviour {
        immutable: true,
        ..Behaviour::private()
    });
    let project = Project::new();
    push_to(&ecr, &project);
    let before = ecr.requests().len();
    push_to(&ecr, &project);
    let again = &ecr.requests()[before..];
    let changes = again
        .iter()
        .filter(|asked| !["GET", "HEAD"].contains(&asked.method.as_str()));
    assert_eq!(changes.count(), 0, "{again:#?}");
}

/// A manifest that was just put may not be there for a moment, in the public ECR at least.
#[test]
fn a_manifest_that_comes_late() {
    for immutable in [false, true] {
        let ecr = Ecr::start(Behaviour {
            late: 3,
            immutable,
            ..Behaviour::private()
        });
        let project = Project::new();
        push_to(&ecr, &project);
    }
}

// --- mounting -----------------------------------------------------------------------------------

/// An image in one repository, then in another of the same registry.
fn copied(mounts: bool) -> (Ecr, Layout, Vec<Request>) {
    let ecr = Ecr::start(Behaviour {
        mounts,
        ..Behaviour::private()
    });
    let project = Project::new();
    let image = push_to(&ecr, &project);
    let before = ecr.requests().len();
    let source = format!("docker://{}", ecr.name("functions/hello:1"));
    let outcome = push(&project, &source, &ecr.name("functions/copy:1"));
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    ecr.assert_has("functions/copy", "1", &image.digest);
    let requests = ecr.requests().split_off(before);
    (ecr, image, requests)
}

#[test]
fn layers_are_mounted() {
    let (_ecr, image, requests) = copied(true);
    let sent: u64 = requests
        .iter()
        .filter(|asked| is_upload(asked))
        .map(|asked| asked.sent)
        .sum();
    let config = image.blobs.last().unwrap().1;
    assert!(sent <= config, "no layer was sent: {requests:#?}");
}

/// ECR refuses by 202, which begins an upload, and not to be told from mounting that is not enabled.
#[test]
fn layers_that_are_not_mounted_are_sent() {
    let (ecr, image, requests) = copied(false);
    let sent = requests.iter().filter(|asked| is_upload(asked));
    assert_eq!(sent.map(|asked| asked.sent).sum::<u64>(), image.size());
    let begun = requests
        .iter()
        .filter(|asked| asked.method == "POST")
        .count();
    assert_eq!(
        begun,
        image.blobs.len(),
        "the session of a refusal is used: {requests:#?}"
    );
    assert_eq!(ecr.faults(), Vec::<String>::new());
}

// --- reading ------------------------------------------------------------------------------------

/// The bucket refuses who comes with credentials, and no secret of its address may be kept.
#[test]
fn blobs_are_read_from_a_bucket() {
    for login in [Login::Basic, Login::Bearer] {
        let ecr = Ecr::start(Behaviour {
            login,
            ..Behaviour::private()
        });
        let registry = Registry::start();
        let project = Project::new();
        project.login(&ecr.address(), USER, &ecr.password());
        let image = push_to(&ecr, &project);
        let source = format!("docker://{}", ecr.name("functions/hello:1"));
        let target = registry.name("copied:1");
        let other = Project::new();
        other.login(&ecr.address(), USER, &ecr.password());
        let outcome = push(&other, &source, &target);
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_eq!(
            Image::in_registry(&registry, &target).digest(),
            image.digest
        );
        let read = count(&ecr, |asked| {
            asked.host == Host::Bucket && !asked.authorized
        });
        assert_eq!(read, image.blobs.len(), "each blob once");
        assert_eq!(ecr.faults(), Vec::<String>::new());
    }
}

/// The public ECR answers 401 to every look for a blob, and gives it who asks for its bytes.
#[test]
fn the_public_ecr_is_read_without_looks_for_blobs() {
    let ecr = Ecr::start(Behaviour::public());
    let registry = Registry::start();
    let project = Project::new();
    project.login(&ecr.address(), USER, &ecr.password());
    let image = push_to(&ecr, &project);
    let before = ecr.requests().len();
    let anonymous = Project::new();
    let source = format!("docker://{}", ecr.name("functions/hello:1"));
    let target = registry.name("copied:1");
    let outcome = push(&anonymous, &source, &target);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(
        Image::in_registry(&registry, &target).digest(),
        image.digest
    );
    let requests = ecr.requests().split_off(before);
    let looks = requests
        .iter()
        .filter(|asked| asked.method == "HEAD" && asked.target.contains("/blobs/"));
    assert_eq!(looks.count(), 0, "{requests:#?}");
}

// --- how often ----------------------------------------------------------------------------------

#[test]
fn a_burst_of_too_many_requests_is_waited_for() {
    for (method, part) in [
        ("HEAD", "/blobs/"),
        ("POST", "/uploads/"),
        ("PUT", "/manifests/"),
    ] {
        wait_for_a_burst(method, part);
    }
}

fn wait_for_a_burst(method: &'static str, part: &str) {
    let status = Trouble::Status(429, Some(1));
    let burst = Troubled {
        times: 2,
        ..Troubled::once(status, method, part)
    };
    let ecr = Ecr::start(Behaviour::troubled([burst]));
    let start = Instant::now();
    push_to(&ecr, &Project::new());
    assert_eq!(count(&ecr, |asked| asked.status == 429), 2);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(1),
        "{method} {part}: not even {waited:?}"
    );
}

#[test]
fn too_many_requests_for_ever() {
    let status = Trouble::Status(429, Some(0));
    let always = Troubled::always(status, "POST", "/blobs/uploads/");
    let ecr = Ecr::start(Behaviour::troubled([always]));
    assert_said!(fail_to(&ecr, &Project::new(), NETWORK));
}

// --- who asks -----------------------------------------------------------------------------------

#[test]
fn a_token_that_runs_out_is_had_again() {
    // Long enough for a blob not to meet the end of two, which is a refusal.
    for life in [9, 12] {
        let ecr = Ecr::start(Behaviour {
            token_life: Some(life),
            ..Behaviour::public()
        });
        let project = Project::new();
        project.login(&ecr.address(), USER, &ecr.password());
        push_to(&ecr, &project);
        let tokens = count(&ecr, |asked| asked.target.starts_with("/token"));
        assert!(tokens > 1, "one token was not enough");
    }
}

/// Credentials that were good at the beginning and are not in the middle: nothing is tagged, and the message
/// says that they were refused.
#[test]
fn a_password_that_runs_out() {
    let ecr = Ecr::start(Behaviour {
        login: Login::Basic,
        token_life: Some(5),
        ..Behaviour::private()
    });
    let project = Project::new();
    project.login(&ecr.address(), USER, &ecr.password());
    assert_said!(fail_to(&ecr, &project, NETWORK));
}

#[test]
fn a_password_is_wrong() {
    for login in [Login::Basic, Login::Bearer] {
        let ecr = Ecr::start(Behaviour {
            login,
            ..Behaviour::private()
        });
        let project = Project::new();
        project.login(&ecr.address(), USER, "wrong");
        let outcome = fail_to(&ecr, &project, NETWORK);
        assert!(outcome.stderr.contains("hint: "), "{}", outcome.rendering());
    }
}

// --- what is not to be told ---------------------------------------------------------------------

/// Everything that a run leaves behind, as one text.
fn traces(project: &Project, outcome: &Outcome) -> String {
    let mut traces = outcome.rendering();
    for file in files_of(&project.cache()) {
        traces += &file.to_string_lossy();
        traces += &String::from_utf8_lossy(&fs::read(file).unwrap());
    }
    let metadata = fs::read_to_string(project.beside("made.json"));
    traces + &metadata.unwrap_or_default()
}

#[test]
fn no_secret_is_told_or_kept() {
    let broken = |trouble, method, part| vec![Troubled::always(trouble, method, part)];
    let cut = Trouble::CutAnswer(1000);
    let behaviours = [
        vec![],
        broken(Trouble::CutRequest(1000), "PUT", "/blobs/uploads/"),
        broken(Trouble::Status(500, Some(0)), "PUT", "/blobs/uploads/"),
        broken(Trouble::Status(403, None), "PUT", "/blobs/uploads/"),
        broken(Trouble::Status(503, Some(0)), "GET", "X-Amz-Signature"),
        broken(Trouble::Status(403, None), "GET", "X-Amz-Signature"),
        broken(cut, "GET", "X-Amz-Signature"),
        broken(Trouble::Corrupt, "GET", "X-Amz-Signature"),
        broken(Trouble::Status(500, Some(0)), "GET", "/token"),
    ];
    let mut runs = Vec::new();
    thread::scope(|scope| {
        let started = [Login::Basic, Login::Bearer].into_iter().flat_map(|login| {
            let behaviours = behaviours.iter().cloned();
            let behaviours = behaviours.map(move |troubles| Behaviour {
                login,
                troubles,
                ..Behaviour::private()
            });
            let start = |behaviour| scope.spawn(move || codes_of_silent_runs(behaviour));
            behaviours.map(start).collect::<Vec<_>>()
        });
        let started: Vec<_> = started.collect();
        runs.extend(started.into_iter().flat_map(|run| run.join().unwrap()));
    });
    let failed = runs.iter().filter(|code| **code != Some(0)).count();
    assert!(failed > 4, "only {failed} runs had anything to tell of");
}

/// Pushes to the registry and from it, proves that no secret is to be found afterwards, and gives the exit codes.
fn codes_of_silent_runs(behaviour: Behaviour) -> [Option<i32>; 2] {
    let ecr = Ecr::start(behaviour);
    let project = Project::new();
    project.login(&ecr.address(), USER, &ecr.password());
    let made = project.beside("made.json").display().to_string();
    let image = Layout::make(&project.beside("image"), &[(3, 50_000)]);
    let source = format!("docker://{}", ecr.name("functions/hello:1"));
    let (there, copy) = (ecr.name("functions/hello:1"), ecr.name("functions/copy:1"));
    [(image.name(), there), (source, copy)].map(|(from, to)| {
        let run = project.lambimg(["push", "-v", &from, &to, "--metadata-file", &made]);
        let run = run.env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace");
        let outcome = run.spawn().outcome(PATIENCE);
        let traces = traces(&project, &outcome);
        for secret in ecr.secrets() {
            assert!(
                !traces.contains(&secret),
                "`{secret}` in\n{}",
                outcome.rendering()
            );
        }
        outcome.code
    })
}

// --- what only ECR's own name tells ---------------------------------------------------------------

/// Through the registry as a proxy, so that its name is one of ECR's.
fn fail_to_real(missing: Missing) -> Outcome {
    let ecr = Ecr::start(Behaviour {
        missing,
        ..Behaviour::private()
    });
    let project = Project::new();
    let image = image(&project);
    let target = Ecr::real_name("functions/hello:1");
    let run = project.lambimg(["push", &image.name(), &target, "--plain-http", REAL]);
    let run = run.env("http_proxy", format!("http://{}", ecr.address()));
    let outcome = run.spawn().outcome(PATIENCE);
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert!(count(&ecr, |asked| asked.method == "POST") > 0);
    outcome
}

/// The command that makes it, to be copied as it stands.
const CREATE: &str =
    "aws ecr create-repository --repository-name functions/hello --region eu-west-1";

#[test]
fn a_missing_repository_of_ecr_has_its_command() {
    for missing in [Missing::NameUnknown, Missing::Cut] {
        let outcome = fail_to_real(missing);
        let said = outcome
            .stderr
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(said.contains(CREATE), "{}", outcome.rendering());
        assert!(
            said.contains("--create-repository"),
            "{}",
            outcome.rendering()
        );
    }
}

/// Anonymous reading is allowed there, so a login of long ago is no reason to fail.
#[test]
fn a_stale_login_to_the_public_ecr_is_done_without() {
    const PUBLIC: &str = "public.ecr.aws";
    let ecr = Ecr::start(Behaviour::public());
    let registry = Registry::start();
    let project = Project::new();
    project.login(&ecr.address(), USER, &ecr.password());
    let image = push_to(&ecr, &project);
    let stale = Project::new();
    stale.login(PUBLIC, USER, "of long ago");
    let source = format!("docker://{PUBLIC}/functions/hello:1");
    let target = registry.name("copied:1");
    let run = stale.lambimg(["push", &source, &target, "--plain-http", PUBLIC]);
    let run = run.env("http_proxy", format!("http://{}", ecr.address()));
    let outcome = run.spawn().outcome(PATIENCE);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(
        Image::in_registry(&registry, &target).digest(),
        image.digest
    );
    let remedy = format!("docker logout {PUBLIC}");
    assert!(outcome.stderr.contains(&remedy), "{}", outcome.rendering());
}

// --- what is not there yet -----------------------------------------------------------------------

/// Lambda may be told of a digest as soon as a push has ended.
#[test]
fn a_push_ends_when_the_digest_answers() {
    let ecr = Ecr::start(Behaviour {
        late: 3,
        ..Behaviour::private()
    });
    let image = push_to(&ecr, &Project::new());
    let requests = ecr.requests();
    let by_digest = requests
        .iter()
        .filter(|asked| asked.target.ends_with(&image.digest));
    let mut looks = by_digest.filter(|asked| ["GET", "HEAD"].contains(&asked.method.as_str()));
    assert_eq!(
        looks.next_back().map(|asked| asked.status),
        Some(200),
        "{requests:#?}"
    );
}

/// All tags are looked at before any is moved.
#[test]
fn an_immutable_tag_among_others_moves_none() {
    let ecr = Ecr::start(Behaviour {
        immutable: true,
        ..Behaviour::private()
    });
    let project = Project::new();
    push_to(&ecr, &project);
    let before = ecr.tags("functions/hello");
    let other = Layout::make(&project.beside("other"), &[(9, 1000)]);
    let (new, old) = (ecr.name("functions/hello:2"), ecr.name("functions/hello:1"));
    let run = project.lambimg(["push", &other.name(), &new, &old]);
    let outcome = run.spawn().outcome(PATIENCE);
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_eq!(ecr.tags("functions/hello"), before);
}

#[test]
fn a_burst_in_an_upload_is_waited_for() {
    wait_for_a_burst("PUT", "/uploads/");
}

#[test]
fn an_immutable_tag_of_another_image_is_refused() {
    let ecr = Ecr::start(Behaviour {
        immutable: true,
        ..Behaviour::private()
    });
    let project = Project::new();
    let first = push_to(&ecr, &project);
    let other = Layout::make(&project.beside("other"), &[(9, 1000)]);
    let outcome = push(&project, &other.name(), &ecr.name("functions/hello:1"));
    ecr.assert_has("functions/hello", "1", &first.digest);
    assert_eq!(outcome.stdout, "");
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    for digest in [&first.digest, &other.digest] {
        assert!(outcome.stderr.contains(digest), "{}", outcome.rendering());
    }
    assert_said!(outcome);
}

// --- many at once ---------------------------------------------------------------------------------

/// Whoever comes second finds each blob there when the first is done with it.
#[test]
fn a_blob_is_sent_once_whoever_pushes_at_the_same_time() {
    let uploads = Troubled::always(
        Trouble::Stall(Duration::from_millis(700)),
        "PUT",
        "/blobs/uploads/",
    );
    let ecr = Ecr::start(Behaviour::troubled([uploads]));
    let project = Project::new();
    let image = image(&project);
    let start = |number: u32| {
        let target = ecr.name(&format!("functions/hello:{number}"));
        project
            .lambimg(["push", "-q", &image.name(), &target])
            .spawn()
    };
    let running: Vec<_> = (0..4).map(start).collect();
    for run in running {
        let outcome = run.outcome(PATIENCE);
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    }
    assert_eq!(ecr.tags("functions/hello").len(), 4);
    // Two layers and the configuration.
    assert_eq!(count(&ecr, is_upload), 3);
}

/// The manifest under the tag refers to blobs that are gone, and ECR says so in words of its own.
#[test]
fn blobs_that_ecr_has_lost_are_sent_again() {
    let ecr = Ecr::start(Behaviour::private());
    let project = Project::new();
    push_to(&ecr, &project);
    ecr.lose_blobs();
    let other = Layout::make(&project.beside("other"), &[LAYERS[0], (3, 20_000)]);
    let outcome = push(&project, &other.name(), &ecr.name("functions/hello:1"));
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    ecr.assert_has("functions/hello", "1", &other.digest);
}

/// Pushes as the command does, but waits for no other run that has stood still for so long.
fn push_with_patience(project: &Project, image: &Layout, target: &str, patience: Duration) {
    let store = BlobStore::open(project.cache()).unwrap();
    let image = layout::read(&image.name().parse().unwrap(), None, &store).unwrap();
    let client = Client::new(Settings::default());
    let registries = Registries::new(client, Keychain::default());
    let (target, progress) = (Reference::read(target).unwrap(), Progress::default());
    let tags = target.tag.iter().cloned().collect();
    let options = Options {
        claim_patience: patience,
        ..Options::default()
    };
    let push = Push::begin(&target, tags, &store, &registries, &options, &progress).unwrap();
    let work = async {
        let look = push.look(&image).await.unwrap();
        push.finish(&image, &look).await.unwrap();
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.unwrap() });
}

/// A run that was stopped has claims for ever.
#[test]
fn a_run_that_stands_still_is_not_waited_for() {
    let stall = Trouble::Deaf(Duration::from_secs(50));
    let uploads = Troubled {
        times: LAYERS.len() as u64,
        ..Troubled::always(stall, "PUT", "/blobs/uploads/")
    };
    let ecr = Ecr::start(Behaviour::troubled([uploads]));
    let project = Project::new();
    let image = image(&project);
    let target = ecr.name("functions/hello:stopped");
    let mut stopped = project.lambimg(["push", &image.name(), &target]).spawn();
    let begun = Instant::now();
    while count(&ecr, is_upload) < LAYERS.len() {
        assert!(begun.elapsed() < PATIENCE, "no upload begins");
        thread::sleep(Duration::from_millis(10));
    }
    stopped.signal("STOP");
    let target = ecr.name("functions/hello:1");
    let begun = Instant::now();
    push_with_patience(&project, &image, &target, Duration::from_secs(2));
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_secs(2), "{lasted:?}");
    ecr.assert_has("functions/hello", "1", &image.digest);
    assert_eq!(ecr.tags("functions/hello").len(), 1);
    assert!(!stopped.has_ended(), "it was to stand still all the time");
}
