//! The repository as everybody's cache: layers of earlier images are taken over by what they were made for, with
//! no wheel fetched and nothing uploaded but what changed.

use std::fs;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::bent::Registry;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::server::Reply;
use crate::support::wheel::Wheel;

/// A project on a machine that never built it, with an index of its wheels.
struct Runner {
    project: Project,
    index: Index,
}

/// More than a wheel needs for a layer of its own.
const LARGE: usize = 1 << 20;

fn large(name: &str, version: &str) -> Wheel {
    let content = format!("{name} {version}").repeat(LARGE / 8);
    Wheel::pure(name, version).member(&format!("{name}/data.bin"), content)
}

impl Runner {
    fn with(wheels: &[&Wheel]) -> Runner {
        let runner = Runner {
            project: Project::with_handler(),
            index: Index::start(),
        };
        runner.lock(wheels);
        runner
    }

    /// The lock names these from now on.
    fn lock(&self, wheels: &[&Wheel]) {
        for wheel in wheels {
            self.index.serve(wheel);
        }
        let lock = self.index.lock(wheels, true);
        self.project.file("pylock.toml", lock);
    }

    fn changed_handler(&self, text: &str) {
        let text = format!("def handler(event, context):\n    return '{text}'\n");
        self.project.file("app.py", text);
    }

    /// Forgets all that was made or fetched.
    fn forget(&self) {
        let _ = fs::remove_dir_all(self.project.cache());
    }

    fn run(&self, flags: &[&str]) -> Outcome {
        let base = Base::aws("3.12").reference();
        let build = ["build", "--base", &base, "--metadata-file", "../made.json"];
        let run = self.project.lambimg(build.iter().chain(flags));
        run.index(&self.index.url()).run()
    }

    /// Builds on a cold runner, and gives what was fetched from the index, too.
    fn cold(&self, flags: &[&str]) -> (Outcome, Vec<String>) {
        self.forget();
        let before = self.index.requests().len();
        let outcome = self.run(flags);
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_whole(&self.project.cache());
        (outcome, self.index.requests().split_off(before))
    }

    /// The digest of the same image made from nothing.
    fn digest_from_nothing(&self) -> String {
        let (outcome, fetched) = self.cold(&["-t", "alone:1"]);
        assert!(!fetched.is_empty() && taken(self).is_empty());
        digest_of(&outcome)
    }
}

fn digest_of(outcome: &Outcome) -> String {
    let line = outcome.stdout.lines().next().unwrap();
    line.split_once('@').unwrap().1.to_owned()
}

/// What the layers are that were taken over.
fn taken(runner: &Runner) -> Vec<String> {
    let made = fs::read(runner.project.beside("made.json")).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let layers = made["layers"].as_array().unwrap().iter();
    let taken = layers.filter(|layer| !layer["taken_from"].is_null());
    taken
        .map(|layer| layer["what"].as_str().unwrap().to_owned())
        .collect()
}

fn registry() -> Registry {
    Registry::bent(|_, _| None)
}

/// How many blobs were sent so far.
fn sent(registry: &Registry) -> usize {
    registry.asked("PUT", "/uploads/").len()
}

#[test]
fn a_cold_runner_makes_and_sends_only_what_changed() {
    let (big, small) = (large("big", "1.0"), Wheel::pure("small", "1.0"));
    let (runner, registry) = (Runner::with(&[&small, &big]), registry());
    let target = registry.name("main");
    let push = ["--push", "-t", &target];
    runner.run(&push);
    runner.changed_handler("changed");
    let before = sent(&registry);
    let (outcome, fetched) = runner.cold(&push);
    assert_eq!(fetched, Vec::<String>::new());
    assert_eq!(sent(&registry), before + 2, "a layer and the config");
    assert_eq!(
        taken(&runner),
        ["dependencies: big 1.0", "dependencies: small 1.0"]
    );
    outcome.settings().bind(|| {
        let stderr = outcome
            .stderr
            .replace(&registry.server.address(), "[registry]");
        let told: Vec<_> = stderr
            .lines()
            .filter(|line| line.contains("took"))
            .collect();
        insta::assert_snapshot!(told.join("\n"), @"took 2 layers over from [registry]/functions/app:main");
    });
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());

    // What is taken over is fetched where an output needs it.
    let output = format!("oci:{}", runner.project.beside("image").display());
    let (outcome, fetched) = runner.cold(&["--cache-from", &target, "-t", "other", "-o", &output]);
    assert_eq!(fetched, Vec::<String>::new());
    assert_eq!(taken(&runner).len(), 3, "the function, too");
    let image = Image::in_directory(&runner.project.beside("image"));
    image.assert_accepted_by_lambda();
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());
}

#[test]
fn of_a_changed_lock_only_the_changed_wheel_is_fetched() {
    let (big, small) = (large("big", "1.0"), Wheel::pure("small", "1.0"));
    let (runner, registry) = (Runner::with(&[&small, &big]), registry());
    let target = registry.name("main");
    let push = ["--push", "-t", &target];
    runner.run(&push);
    let next = Wheel::pure("small", "1.1");
    runner.lock(&[&next, &big]);
    let before = sent(&registry);
    let (outcome, fetched) = runner.cold(&push);
    assert_eq!(fetched, [format!("/files/{}", next.file_name())]);
    assert_eq!(sent(&registry), before + 2);
    assert_eq!(taken(&runner), ["dependencies: big 1.0", "function"]);
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());
}

/// The later in the lock has a path that two wheels bring, whoever made which layer.
#[test]
fn collisions_come_out_the_same() {
    let shared = |wheel: Wheel, version: &str| {
        let text = format!("NAME = '{} {version}'\n", wheel.name());
        wheel.member("shared.py", text)
    };
    let big = shared(large("big", "1.0"), "1.0");
    let small = |version: &str| shared(Wheel::pure("small", version), version);
    // A large wheel lies below the small ones, so one has to leave the path to the other.
    let first = small("1.0");
    let (runner, registry) = (Runner::with(&[&first, &big]), registry());
    let target = registry.name("main");
    let push = ["--push", "-t", &target];
    runner.run(&push);
    runner.changed_handler("changed");
    let (outcome, fetched) = runner.cold(&push);
    assert_eq!(fetched, Vec::<String>::new(), "{}", outcome.rendering());
    assert_eq!(taken(&runner).len(), 2);
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());

    // Which of the paths of the other layers another wheel brings nobody says, so all are looked at.
    let next = small("1.1");
    runner.lock(&[&next, &big]);
    let (outcome, fetched) = runner.cold(&push);
    assert_eq!(fetched.len(), 2, "{fetched:?}");
    assert_eq!(taken(&runner), ["dependencies: big 1.0", "function"]);
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());

    // Nor does it matter which is the later.
    runner.lock(&[&big, &next]);
    let (outcome, _) = runner.cold(&push);
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());
}

#[test]
fn what_is_taken_is_there_and_may_be() {
    let wheel = large("big", "1.0");
    let (runner, registry) = (Runner::with(&[&wheel]), registry());
    let target = registry.name("main");
    let push = ["--push", "-t", &target];
    let first = runner.run(&push);
    assert_eq!(first.code, Some(0), "{}", first.rendering());

    let (_, fetched) = runner.cold(&["--push", "--no-cache", "-t", &target]);
    assert_eq!((fetched.len(), taken(&runner)), (1, vec![]));
    // Without a push nobody is asked who is not named.
    let (_, fetched) = runner.cold(&["-t", &target]);
    assert_eq!((fetched.len(), taken(&runner)), (1, vec![]));
    // A new tag has nothing; the user names what has.
    let next = registry.name("next");
    let (outcome, _) = runner.cold(&["--push", "-t", &next]);
    assert!(taken(&runner).is_empty(), "{}", outcome.rendering());
    registry.kept().manifests.remove("next");
    let (_, fetched) = runner.cold(&["--push", "-t", &next, "--cache-from", &target]);
    assert_eq!((fetched.len(), taken(&runner).len()), (0, 2));

    // Another architecture's layers are others, and so are those of another date.
    let outcome = runner.project.lambimg([
        "build",
        "--base",
        &Base::aws("3.12").reference(),
        "--metadata-file",
        "../made.json",
        "--cache-from",
        &target,
    ]);
    let outcome = outcome.env("SOURCE_DATE_EPOCH", "1700000000").run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(taken(&runner).is_empty());
}

#[test]
fn a_layer_that_the_repository_lost_is_made_anew() {
    let (big, small) = (large("big", "1.0"), Wheel::pure("small", "1.0"));
    let runner = Runner::with(&[&small, &big]);
    let registry = registry();
    let target = registry.name("main");
    let push = ["--push", "-t", &target];
    let first = runner.run(&push);
    let made = fs::read(runner.project.beside("made.json")).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let layers = made["layers"].as_array().unwrap().iter();
    let is_big = |layer: &&Value| layer["what"] == "dependencies: big 1.0";
    let lost = layers.clone().find(is_big).unwrap()["digest"]
        .as_str()
        .unwrap();
    registry.kept().blobs.remove(lost).unwrap();
    registry
        .kept()
        .manifests
        .retain(|version, _| version == "main");
    runner.changed_handler("changed");
    let (outcome, fetched) = runner.cold(&["-t", "other", "--cache-from", &target]);
    assert_eq!(fetched, [format!("/files/{}", big.file_name())]);
    assert_eq!(taken(&runner), ["dependencies: small 1.0"]);
    assert_ne!(digest_of(&outcome), digest_of(&first));
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());
}

#[test]
fn what_says_nothing_of_itself_is_no_cache() {
    let runner = Runner::with(&[&large("big", "1.0")]);
    let base = Base::aws("3.12").reference();
    let (outcome, _) = runner.cold(&["-t", "some:1", "--cache-from", &base]);
    assert!(
        outcome
            .stderr
            .contains("does not say what its layers were made for"),
        "{}",
        outcome.rendering()
    );
    let registry = Registry::bent(|asked, _| {
        asked
            .target
            .contains("/manifests/")
            .then(|| Reply::status(403))
    });
    let (outcome, _) = runner.cold(&["-t", "some:1", "--cache-from", &registry.name("main")]);
    assert!(
        outcome.stderr.contains("no layer is taken from"),
        "{}",
        outcome.rendering()
    );
    let outcome = runner.run(&["-t", "some:1", "--cache-from", "Not A Name"]);
    outcome.settings().bind(|| {
        insta::assert_snapshot!(outcome.rendering());
    });
}

/// Whoever may write there is believed; but what makes no sense is left alone.
#[test]
fn labels_without_sense_are_left_alone() {
    let (big, small) = (large("big", "1.0"), Wheel::pure("small", "1.0"));
    let (runner, registry) = (Runner::with(&[&small, &big]), registry());
    let target = registry.name("main");
    let first = runner.run(&["--push", "-t", &target]);
    runner.cold(&["-t", "o", "--cache-from", &target]);
    assert_eq!(taken(&runner).len(), 3);
    let manifest = registry.kept().manifests["main"].clone();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let config: Value = serde_json::from_slice(&registry.kept().blobs[config]).unwrap();
    let labels = config["config"]["Labels"].as_object().unwrap();
    let true_one = labels["lambimg.layers"].as_str().unwrap();
    let (keys, packages) = true_one.split_once(';').unwrap();
    let claims = packages.rsplit(' ').next().unwrap();
    let [one, two] = keys.split(' ').take(2).collect::<Vec<_>>()[..] else {
        panic!("{keys}");
    };
    let lies = [
        "x".to_owned(),
        ",,,,".to_owned(),
        "a b c d e f g h i j".to_owned(),
        format!("{keys};"),
        format!("{keys};{claims}"),
        format!("{keys};x 1 {claims},{claims}"),
        format!("{keys};x 99999999999999999999 {claims}"),
        format!("{keys};x 0 {claims},x"),
        format!("{} {};{packages}", &one[..34], &two[..33]),
        format!("{}:0123456789abcdef {two};{packages}", &one[..32]),
    ];
    for lie in lies {
        let mut config = config.clone();
        config["config"]["Labels"]["lambimg.layers"] = lie.clone().into();
        let config = serde_json::to_vec(&config).unwrap();
        let digest = crate::support::digest(&config);
        let mut manifest = manifest.clone();
        manifest["config"]["digest"] = digest.clone().into();
        manifest["config"]["size"] = config.len().into();
        registry.kept().blobs.insert(digest, config);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        registry.kept().manifests.insert("lie".to_owned(), manifest);
        let (outcome, _) = runner.cold(&["-t", "o", "--cache-from", &registry.name("lie")]);
        assert_eq!(digest_of(&outcome), digest_of(&first), "{lie}");
    }
}

/// What a base says of its own layers is not said of the image's.
#[test]
fn a_base_of_ours_is_not_taken_for_the_image() {
    let (big, small) = (large("big", "1.0"), Wheel::pure("small", "1.0"));
    let (runner, registry) = (Runner::with(&[&small, &big]), registry());
    let (target, base) = (registry.name("main"), registry.name("base"));
    runner.run(&["--push", "-t", &base]);
    let other = Project::with_handler();
    let build = ["build", "--push", "--base", &base, "-t", &target];
    other.lambimg(build).succeed();
    let (outcome, _) = runner.cold(&["--push", "-t", &target]);
    assert_eq!(digest_of(&outcome), runner.digest_from_nothing());
}
