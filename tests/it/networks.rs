//! Networks and registries that fail: whatever breaks, a push ends in a whole image or in a clear error
//! with nothing tagged, and the next one finishes the work.
//!
//! Each fault alone against the registry of the tests; then real ones, open, with a password and with
//! a token server, behind a proxy that does all of it by chance.

use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::chaos::Chaos;
use crate::support::chaos::Passed;
use crate::support::chaos::Weather;
use crate::support::ecr::Behaviour;
use crate::support::ecr::Ecr;
use crate::support::ecr::Trouble;
use crate::support::ecr::Troubled;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::image::files_of;
use crate::support::layout::Layout;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::registry::PASSWORD;
use crate::support::registry::Registry;
use crate::support::registry::USER;
use crate::support::tokens::TokenServer;

const NETWORK: i32 = 4;
const PATIENCE: Duration = Duration::from_mins(1);
const LAYERS: [(u64, u64); 3] = [(1, 3_000_000), (2, 400_000), (3, 20_000)];
const REPOSITORY: &str = "functions/hello";

fn image(project: &Project) -> Layout {
    Layout::make(&project.beside("image"), &LAYERS)
}

fn push(project: &Project, image: &str, target: &str) -> Outcome {
    let run = project.lambimg(["push", "-v", image, target]);
    run.spawn().outcome(PATIENCE)
}

fn assert_success(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
}

/// One message of the network's, and nothing that a script would take for a result.
fn assert_clear_failure(outcome: &Outcome) {
    let told = outcome.rendering();
    assert_eq!(outcome.code, Some(NETWORK), "{told}");
    assert_eq!(outcome.stdout, "", "{told}");
    assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{told}");
    assert!(!outcome.stderr.contains("panicked"), "{told}");
}

// --- one fault at a time ------------------------------------------------------------------------

const UPLOAD: &str = "/blobs/uploads/upload";
const BUCKET: &str = "X-Amz-Signature";

/// What is to be read with a fault.
#[derive(Clone, Copy)]
enum Of {
    Manifest,
    Config,
    Layer,
}

/// Runs each check with its fault once and for ever, all at the same time because most of it is pauses
/// between tries; every one that fails is named.
fn each<T: Copy + Send>(faults: &[(&'static str, T)], check: impl Fn(T, bool) + Sync) {
    let failed = thread::scope(|scope| {
        let check = &check;
        let halves = faults
            .iter()
            .flat_map(|fault| [(fault, false), (fault, true)]);
        let running = halves.map(|(&(name, fault), is_lasting)| {
            let how = if is_lasting { "for ever" } else { "once" };
            (
                format!("{name}, {how}"),
                scope.spawn(move || check(fault, is_lasting)),
            )
        });
        let running = running.collect::<Vec<_>>();
        let ended = running
            .into_iter()
            .filter_map(|(name, check)| check.join().err().map(|_| name));
        ended.collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{failed:#?}");
}

fn troubled(trouble: Trouble, method: &'static str, part: &str, is_lasting: bool) -> Behaviour {
    Behaviour::troubled([if is_lasting {
        Troubled::always(trouble, method, part)
    } else {
        Troubled::once(trouble, method, part)
    }])
}

type OfPush = (Trouble, &'static str, &'static str);

/// A fault that happens once is overcome; one that stays is told, and nothing is tagged.
fn push_in_trouble((trouble, method, part): OfPush, is_lasting: bool) {
    let ecr = Ecr::start(troubled(trouble, method, part, is_lasting));
    let project = Project::new();
    let image = image(&project);
    let outcome = push(&project, &image.name(), &ecr.name("functions/hello:1"));
    if is_lasting {
        assert_clear_failure(&outcome);
        assert!(ecr.tags(REPOSITORY).is_empty());
    } else {
        assert_success(&outcome);
        ecr.assert_has(REPOSITORY, "1", &image.digest);
    }
    assert_eq!(ecr.faults(), Vec::<String>::new());
}

/// A registry that has an image and a fault in reading it.
fn with_image(project: &Project, (trouble, of): (Trouble, Of), is_lasting: bool) -> (Ecr, Layout) {
    let image = image(project);
    let config = image.blobs.last().expect("a configuration");
    let part = match of {
        Of::Manifest => "/manifests/".to_owned(),
        Of::Config => format!("{}?{BUCKET}", config.0),
        Of::Layer => format!("{}?{BUCKET}", image.blobs[0].0),
    };
    let ecr = Ecr::start(troubled(trouble, "GET", &part, is_lasting));
    put(&ecr, REPOSITORY, &image);
    put(&ecr, "lambda/python", &image);
    (ecr, image)
}

/// Puts an image there by another tool.
fn put(ecr: &Ecr, repository: &str, image: &Layout) {
    let name = format!("docker://{}", ecr.name(&format!("{repository}:3.12")));
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
    ]);
    run(skopeo.args([image.name(), name]));
}

/// Whether a fault that stays need not be the end: a blob that always breaks off comes piece by piece, and
/// one that is said to be longer than it is has come whole.
fn may_be_overcome((trouble, of): (Trouble, Of)) -> bool {
    let is_blob = !matches!(of, Of::Manifest);
    is_blob && matches!(trouble, Trouble::CutAnswer(1..) | Trouble::Length(1..))
}

/// An image that is read from the registry in trouble and streamed into another.
fn pull_in_trouble(fault: (Trouble, Of), is_lasting: bool) {
    let project = Project::new();
    let (ecr, image) = with_image(&project, fault, is_lasting);
    let registry = Registry::start();
    let source = format!("docker://{}", ecr.name("functions/hello:3.12"));
    let target = registry.name("functions/hello:1");
    let outcome = push(&project, &source, &target);
    if is_lasting && !(may_be_overcome(fault) && outcome.code == Some(0)) {
        assert_clear_failure(&outcome);
        assert_eq!(registry.tags(REPOSITORY), Vec::<String>::new());
        let mut lines = outcome.stderr.lines();
        let error = lines.find(|line| line.starts_with("error: "));
        let blames_target = error.is_some_and(|error| error.contains(registry.address()));
        let told = outcome.rendering();
        assert!(!blames_target, "the fault is at the other registry: {told}");
    } else {
        assert_success(&outcome);
        assert_eq!(
            Image::in_registry(&registry, &target).digest(),
            image.digest
        );
    }
    assert_eq!(ecr.faults(), Vec::<String>::new());
}

#[test]
fn faults_of_a_push() {
    const NOW: Option<u32> = Some(0);
    let faults: [(&str, OfPush); 9] = [
        (
            "an upload cut at once",
            (Trouble::CutRequest(0), "PUT", UPLOAD),
        ),
        (
            "an upload cut on its way",
            (Trouble::CutRequest(100), "PUT", UPLOAD),
        ),
        (
            "an upload refused",
            (Trouble::Status(503, NOW), "PUT", UPLOAD),
        ),
        ("a session cut", (Trouble::CutRequest(0), "POST", "")),
        ("a session refused", (Trouble::Status(500, NOW), "POST", "")),
        (
            "a manifest cut",
            (Trouble::CutRequest(100), "PUT", "/manifests/"),
        ),
        (
            "a manifest refused",
            (Trouble::Status(502, NOW), "PUT", "/manifests/"),
        ),
        (
            "looks for blobs cut",
            (Trouble::CutRequest(0), "HEAD", "/blobs/"),
        ),
        (
            "looks for manifests refused",
            (Trouble::Status(504, NOW), "HEAD", "/manifests/"),
        ),
    ];
    each(&faults, push_in_trouble);
}

/// What is not known to be there is sent.
#[test]
fn looks_that_are_refused_are_done_without() {
    let status = Trouble::Status(408, Some(0));
    let ecr = Ecr::start(troubled(status, "HEAD", "/blobs/", true));
    let project = Project::new();
    let image = image(&project);
    assert_success(&push(
        &project,
        &image.name(),
        &ecr.name("functions/hello:1"),
    ));
    ecr.assert_has(REPOSITORY, "1", &image.digest);
}

#[test]
fn what_is_refused_for_now_is_asked_for_again() {
    let status = Trouble::Status(503, Some(0));
    let faults = [
        ("a manifest", (status, Of::Manifest)),
        ("a configuration", (status, Of::Config)),
        ("a layer", (status, Of::Layer)),
    ];
    each(&faults, pull_in_trouble);
}

/// An answer that is lost is not to be told from a request that is lost; what was done is not done badly twice.
#[test]
fn answers_that_are_lost() {
    for (method, part) in [("PUT", UPLOAD), ("PUT", "/manifests/"), ("POST", "")] {
        let lost = Troubled::once(Trouble::CutAnswer(0), method, part);
        // With a length that is not kept, also an empty answer is cut.
        let longer = Troubled {
            trouble: Trouble::Length(1),
            ..lost
        };
        let ecr = Ecr::start(Behaviour::troubled([longer]));
        let project = Project::new();
        let image = image(&project);
        assert_success(&push(
            &project,
            &image.name(),
            &ecr.name("functions/hello:1"),
        ));
        ecr.assert_has(REPOSITORY, "1", &image.digest);
    }
}

#[test]
fn every_third_request_fails() {
    let troubled = Troubled {
        every: 3,
        ..Troubled::always(Trouble::Status(500, None), "", "")
    };
    let ecr = Ecr::start(Behaviour::troubled([troubled]));
    let (project, registry) = (Project::new(), Registry::start());
    let image = image(&project);
    assert_success(&push(
        &project,
        &image.name(),
        &ecr.name("functions/hello:1"),
    ));
    ecr.assert_has(REPOSITORY, "1", &image.digest);
    let source = format!("docker://{}", ecr.name("functions/hello:1"));
    let target = registry.name("functions/hello:1");
    assert_success(&push(&Project::new(), &source, &target));
    assert_eq!(
        Image::in_registry(&registry, &target).digest(),
        image.digest
    );
    let requests = ecr.requests();
    let failed = requests.iter().filter(|asked| asked.status == 500).count();
    assert!(failed >= requests.len() / 3, "{requests:#?}");
}

#[test]
fn a_registry_that_takes_its_time() {
    let stall = Trouble::Stall(Duration::from_secs(2));
    let slow = [("PUT", UPLOAD), ("GET", BUCKET), ("PUT", "/manifests/")];
    let slow = slow.map(|(method, part)| Troubled::once(stall, method, part));
    let ecr = Ecr::start(Behaviour::troubled(slow));
    let (project, registry) = (Project::new(), Registry::start());
    let image = image(&project);
    assert_success(&push(
        &project,
        &image.name(),
        &ecr.name("functions/hello:1"),
    ));
    let source = format!("docker://{}", ecr.name("functions/hello:1"));
    let target = registry.name("functions/hello:1");
    assert_success(&push(&Project::new(), &source, &target));
    assert_eq!(
        Image::in_registry(&registry, &target).digest(),
        image.digest
    );
}

/// What is streamed from one registry to another is neither held nor written.
#[test]
fn a_large_layer_needs_little_memory() {
    const SIZE: u64 = 80_000_000;
    let ecr = Ecr::start(Behaviour::private());
    let (project, registry) = (Project::new(), Registry::start());
    let image = Layout::make(&project.beside("image"), &[(1, SIZE)]);
    put(&ecr, REPOSITORY, &image);
    let source = format!("docker://{}", ecr.name("functions/hello:3.12"));
    let target = registry.name("functions/hello:1");
    let mut running = project.lambimg(["push", &source, &target]).spawn();
    let (start, mut peak) = (Instant::now(), 0);
    while !running.has_ended() && start.elapsed() < PATIENCE {
        peak = running.peak().max(peak);
        thread::sleep(Duration::from_millis(2));
    }
    assert_success(&running.outcome(PATIENCE));
    assert!((1..SIZE / 2).contains(&peak), "{peak} bytes were resident");
    let kept = files_of(&project.cache());
    let kept = kept.iter().map(|path| path.metadata().unwrap().len());
    let kept = kept.sum::<u64>();
    assert!(kept < 100_000, "{kept} bytes were written");
}

// --- real registries ----------------------------------------------------------------------------

/// A real registry and what is needed to be let in.
struct Place {
    registry: Registry,
    has_password: bool,
    _tokens: Option<TokenServer>,
}

impl Place {
    fn open() -> Place {
        Place {
            registry: Registry::start(),
            has_password: false,
            _tokens: None,
        }
    }

    fn with_password() -> Place {
        let registry = Registry::start_with_password();
        Place {
            registry,
            has_password: true,
            _tokens: None,
        }
    }

    fn with_tokens() -> Place {
        let tokens = TokenServer::start();
        let numbered = (0..20).map(|number| format!("{REPOSITORY}{number}"));
        let names = numbered.chain([REPOSITORY.to_owned()]).collect::<Vec<_>>();
        let names = names.iter().map(String::as_str).collect::<Vec<_>>();
        let registry = Registry::start_with_tokens(&tokens, &names);
        Place {
            registry,
            has_password: true,
            _tokens: Some(tokens),
        }
    }

    /// A network of this weather in front of it, and a project that may push through it.
    fn behind(&self, seed: u64, weather: Weather) -> (Chaos, Project) {
        let chaos = Chaos::start(self.registry.address(), seed, weather);
        let project = Project::new();
        if self.has_password {
            project.login(&chaos.address(), USER, PASSWORD);
        }
        (chaos, project)
    }

    /// Fails unless another client reads the whole image by its tag, every digest as it is said.
    fn assert_has(&self, repository: &str, digest: &str) {
        let name = self.registry.name(&format!("{repository}:1"));
        assert_eq!(Image::in_registry(&self.registry, &name).digest(), digest);
        let copy = tempfile::tempdir().expect("a temporary directory");
        let mut skopeo = Command::new(program("skopeo", "skopeo"));
        skopeo.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
        ]);
        if self.has_password {
            skopeo.args(["--src-creds", &format!("{USER}:{PASSWORD}")]);
        }
        skopeo.args([
            format!("docker://{name}"),
            format!("dir:{}", copy.path().display()),
        ]);
        run(&mut skopeo);
    }
}

fn uploads(passed: &[Passed]) -> Vec<u64> {
    let uploads = passed.iter().filter(|passed| passed.method == "PUT");
    let uploads = uploads.filter(|passed| passed.target.contains("/blobs/uploads/"));
    let mut sizes = uploads.map(|passed| passed.sent).collect::<Vec<_>>();
    sizes.sort_unstable();
    sizes
}

/// All goes once; then nothing; then what has changed.
fn sends_what_is_missing(place: &Place) {
    let (network, project) = place.behind(0, Weather::default());
    let target = network.name("functions/hello:1");
    let first = image(&project);
    assert_success(&push(&project, &first.name(), &target));
    place.assert_has(REPOSITORY, &first.digest);
    let mut sizes = first
        .blobs
        .iter()
        .map(|(_, size)| *size)
        .collect::<Vec<_>>();
    sizes.sort_unstable();
    assert_eq!(uploads(&network.passed()), sizes, "each blob once");

    assert_success(&push(&project, &first.name(), &target));
    let passed = network.passed();
    assert!(
        !passed
            .iter()
            .any(|passed| passed.is_change() && passed.status < 400),
        "{passed:#?}"
    );
    assert!(passed.len() <= 5, "{passed:#?}");

    let layers = [LAYERS[0], LAYERS[1], (4, 25_000)];
    let second = Layout::make(&project.beside("second"), &layers);
    assert_success(&push(&project, &second.name(), &target));
    place.assert_has(REPOSITORY, &second.digest);
    let new = second
        .blobs
        .iter()
        .filter(|blob| !first.blobs.contains(blob));
    let mut sizes = new.map(|(_, size)| *size).collect::<Vec<_>>();
    sizes.sort_unstable();
    assert_eq!(sizes.len(), 2, "a layer and the configuration");
    assert_eq!(uploads(&network.passed()), sizes);
}

/// Each push ends in a whole image or in a clear failure, and the next in fair weather succeeds.
fn bad_weather(place: &Place) {
    let weather = Weather {
        cut_requests: 70,
        cut_answers: 70,
        refusals: 70,
        twice: 50,
        delay: Duration::from_millis(5),
    };
    for seed in 0..6 {
        let (network, project) = place.behind(seed, weather);
        let repository = format!("{REPOSITORY}{seed}");
        let image = image(&project);
        let target = network.name(&format!("{repository}:1"));
        let outcome = push(&project, &image.name(), &target);
        let said = format!("{network:?}\n{}", outcome.rendering());
        if outcome.code == Some(0) {
            place.assert_has(&repository, &image.digest);
            continue;
        }
        assert_eq!(outcome.code, Some(NETWORK), "{said}");
        assert_clear_failure(&outcome);
        assert!(place.registry.tags(&repository).is_empty(), "{said}");
        *network.weather() = Weather::default();
        assert_success(&push(&project, &image.name(), &target));
        place.assert_has(&repository, &image.digest);
    }
}

/// Killed at so many moments from its first to its last, and run again each time.
fn killed(place: &Place, moments: u32) {
    let slow = Weather {
        delay: Duration::from_millis(20),
        ..Weather::default()
    };
    let (network, project) = place.behind(1, slow);
    let image = image(&project);
    let start = Instant::now();
    let target = network.name(&format!("{REPOSITORY}:1"));
    assert_success(&push(&project, &image.name(), &target));
    let whole = start.elapsed();
    let mut tagged = 0;
    for moment in 0..moments {
        let repository = format!("{REPOSITORY}{moment}");
        let target = network.name(&format!("{repository}:1"));
        let mut run = project.lambimg(["push", &image.name(), &target]).spawn();
        thread::sleep(whole * moment / moments);
        run.signal("KILL");
        run.outcome(PATIENCE);
        // What was on its way arrives.
        thread::sleep(Duration::from_millis(60));
        network.wait_until_idle();
        let is_tagged = !place.registry.tags(&repository).is_empty();
        if is_tagged {
            tagged += 1;
            place.assert_has(&repository, &image.digest);
        }
        let missing = image
            .blobs
            .iter()
            .filter(|(digest, _)| place.registry.blob(&repository, digest).is_none());
        let missing = missing.map(|(_, size)| *size).collect::<Vec<_>>();
        network.passed();
        assert_success(&push(&project, &image.name(), &target));
        let sent = uploads(&network.passed());
        // Some of it may have arrived while it was looked for.
        let is_needless = sent.iter().any(|size| !missing.contains(size));
        assert!(!is_needless, "at moment {moment}: {sent:?} of {missing:?}");
        place.assert_has(&repository, &image.digest);
        // Of what was claimed when it was killed a name is left, which nobody holds.
        project.lambimg(["cache", "prune"]).succeed();
        assert_whole(&project.cache());
    }
    assert!(tagged < moments, "none was killed in time");
}

/// Who pushes the same as others at the same time is not in their way.
#[test]
fn pushes_at_once() {
    let place = Place::open();
    let (network, project) = place.behind(1, Weather::default());
    let image = image(&project);
    let start = |number: u32| {
        let target = network.name(&format!("{REPOSITORY}:{}", number % 2));
        project.lambimg(["push", &image.name(), &target]).spawn()
    };
    let running = (0..6).map(start).collect::<Vec<_>>();
    for run in running {
        assert_success(&run.outcome(PATIENCE));
    }
    assert_eq!(place.registry.tags(REPOSITORY), ["0", "1"]);
    place.assert_has(REPOSITORY, &image.digest);
}

#[test]
fn an_open_registry_gets_what_is_missing() {
    sends_what_is_missing(&Place::open());
}

#[test]
fn a_registry_with_a_password_gets_what_is_missing() {
    sends_what_is_missing(&Place::with_password());
}

#[test]
fn a_registry_with_tokens_gets_what_is_missing() {
    sends_what_is_missing(&Place::with_tokens());
}

#[test]
fn bad_weather_before_an_open_registry() {
    bad_weather(&Place::open());
}

#[test]
fn bad_weather_before_a_registry_with_a_password() {
    bad_weather(&Place::with_password());
}

#[test]
fn bad_weather_before_a_registry_with_tokens() {
    bad_weather(&Place::with_tokens());
}

#[test]
fn killed_at_twenty_moments() {
    killed(&Place::open(), 20);
}

#[test]
fn killed_before_a_registry_with_a_password() {
    killed(&Place::with_password(), 4);
}

#[test]
fn killed_before_a_registry_with_tokens() {
    killed(&Place::with_tokens(), 4);
}

// --- faults of reading --------------------------------------------------------------------------

/// What may go wrong with everything that is read.
const FAULTS_OF_READING: [(&str, (Trouble, Of)); 13] = [
    ("a manifest cut", (Trouble::CutAnswer(100), Of::Manifest)),
    (
        "a manifest longer than said",
        (Trouble::Length(-10), Of::Manifest),
    ),
    (
        "a manifest shorter than said",
        (Trouble::Length(10), Of::Manifest),
    ),
    ("half a manifest", (Trouble::Truncated, Of::Manifest)),
    (
        "another byte in a manifest",
        (Trouble::Corrupt, Of::Manifest),
    ),
    ("a digest that lies", (Trouble::Lie, Of::Manifest)),
    ("a configuration cut", (Trouble::CutAnswer(100), Of::Config)),
    (
        "another byte in a configuration",
        (Trouble::Corrupt, Of::Config),
    ),
    ("a layer cut at once", (Trouble::CutAnswer(0), Of::Layer)),
    (
        "a layer cut on its way",
        (Trouble::CutAnswer(1_000_000), Of::Layer),
    ),
    (
        "a layer longer than said",
        (Trouble::Length(-10), Of::Layer),
    ),
    (
        "a layer shorter than said",
        (Trouble::Length(10), Of::Layer),
    ),
    ("another byte in a layer", (Trouble::Corrupt, Of::Layer)),
];

/// A base whose layers are written to disk.
fn build_in_trouble(fault: (Trouble, Of), is_lasting: bool) {
    let project = Project::with_handler();
    let (ecr, _) = with_image(&project, fault, is_lasting);
    let base = ecr.name("lambda/python:3.12");
    let directory = project.beside("built");
    let output = format!("oci:{}", directory.display());
    let build = [
        "build", "-v", "--base", &base, "-t", "hello:1", "-o", &output,
    ];
    let outcome = project.lambimg(build).spawn().outcome(PATIENCE);
    assert_whole(&project.cache());
    if is_lasting && !(may_be_overcome(fault) && outcome.code == Some(0)) {
        assert_clear_failure(&outcome);
    } else {
        assert_success(&outcome);
        let layers = Image::in_directory(&directory).layers.len();
        assert_eq!(layers, LAYERS.len() + 1);
    }
}

#[test]
fn faults_of_reading_on_the_way_to_a_registry() {
    each(&FAULTS_OF_READING, pull_in_trouble);
}

#[test]
fn faults_of_reading_on_the_way_to_disk() {
    each(&FAULTS_OF_READING, build_in_trouble);
}

/// What was read need not be read again: a large blob comes through a network that never lets all of it pass.
#[test]
fn a_blob_that_breaks_off_is_resumed() {
    let cut = Troubled::always(Trouble::CutAnswer(1_000_000), "GET", BUCKET);
    let ecr = Ecr::start(Behaviour::troubled([cut]));
    let (project, registry) = (Project::new(), Registry::start());
    let image = Layout::make(&project.beside("image"), &[(1, 8_000_000)]);
    assert_success(&push(
        &project,
        &image.name(),
        &ecr.name("functions/hello:1"),
    ));
    let source = format!("docker://{}", ecr.name("functions/hello:1"));
    let target = registry.name("functions/hello:1");
    assert_success(&push(&Project::new(), &source, &target));
    assert_eq!(
        Image::in_registry(&registry, &target).digest(),
        image.digest
    );
}

// --- interrupted --------------------------------------------------------------------------------

/// What the shell says of a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// Interrupts a run as soon as a request waits for its answer, and proves that it ends at once and cleanly.
fn interrupt(ecr: &Ecr, project: &Project, arguments: [&str; 3], part: &str) {
    let before = ecr.requests().len();
    let mut run = project
        .lambimg(arguments)
        .env("RUST_BACKTRACE", "1")
        .spawn();
    let start = Instant::now();
    while !ecr.requests()[before..]
        .iter()
        .any(|asked| asked.target.contains(part))
    {
        assert!(start.elapsed() < PATIENCE, "nothing was asked for");
        thread::sleep(Duration::from_millis(5));
    }
    // It sends a little, then waits.
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    run.signal("INT");
    let outcome = run.outcome(PATIENCE);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let told = outcome.rendering();
    assert_eq!(outcome.code, Some(INTERRUPTED), "{told}");
    assert_eq!(outcome.stdout, "");
    for word in ["panicked", "backtrace", "stack"] {
        assert!(!outcome.stderr.contains(word), "{told}");
    }
    assert_whole(&project.cache());
}

fn interrupted_push(method: &'static str, part: &'static str) {
    let stall = Trouble::Stall(Duration::from_secs(50));
    let ecr = Ecr::start(Behaviour::troubled([Troubled::once(stall, method, part)]));
    let project = Project::new();
    let image = image(&project);
    let target = ecr.name("functions/hello:1");
    interrupt(&ecr, &project, ["push", &image.name(), &target], part);
    if part == UPLOAD {
        assert!(ecr.tags(REPOSITORY).is_empty());
    }
    assert_success(&push(&project, &image.name(), &target));
    ecr.assert_has(REPOSITORY, "1", &image.digest);
}

#[test]
fn interrupted_in_an_upload() {
    interrupted_push("PUT", UPLOAD);
}

#[test]
fn interrupted_before_an_upload() {
    interrupted_push("POST", "/blobs/uploads/");
}

#[test]
fn interrupted_at_the_manifest() {
    interrupted_push("PUT", "/manifests/");
}
