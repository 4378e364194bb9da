//! Many pushes of a large image through a bad network into Debian's docker-registry: each ends in a whole
//! image or in a clear error with nothing tagged, and none needs memory for what it moves.
//!
//! Not a part of `cargo test`, because it takes a quarter of an hour: `make storm`. Three kinds of pushes,
//! and the numbers of each are told at the end:
//! - cold, one in ten: no repository has any of its bytes, so that all of the image travels;
//! - a new layer: into a repository that has the others, so that a quarter of the image travels;
//! - unchanged under another tag: nothing but the manifest travels.
//!
//! A cold push costs the registry a copy of the image on disk, so its repositories are thrown away when
//! they are proven. Variables: `LAMBIMG` (the binary), `STORM_PUSHES` (200), `STORM_KILLS` (20),
//! `STORM_MIB` (300), `STORM_SEED` (1).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::doc_markdown, reason = "CPython and BuildKit are words here")]
#![allow(
    clippy::print_stderr,
    reason = "who waits so long wants to see how far it is"
)]
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "what the tests share is more than is needed here"
)]

#[path = "../it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::chaos::Chaos;
use crate::support::chaos::Weather;
use crate::support::digest;
use crate::support::layout::Layout;
use crate::support::layout::Noise;
use crate::support::layout::Random;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::registry::Registry;

const MIB: u64 = 1 << 20;
/// What a push may have resident, in bytes.
const MOST_RESIDENT: u64 = 100_000_000;
const PATIENCE: Duration = Duration::from_mins(5);
const NETWORK: i32 = 4;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// How often what is met, of 1000 requests. A push of four layers takes some fifteen.
const WEATHER: Weather = Weather {
    cut_requests: 50,
    cut_answers: 30,
    refusals: 50,
    twice: 30,
    delay: Duration::from_millis(20),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cold,
    NewLayer,
    Unchanged,
    /// What was left of a cold one that was killed.
    Repeated,
}

/// What became of the pushes of a kind.
#[derive(Debug, Default)]
struct Tally {
    pushes: u32,
    failures: u32,
    /// Bytes that went up, those of broken uploads too.
    sent: u64,
    seconds: f64,
    most_resident: u64,
}

struct Storm {
    directory: tempfile::TempDir,
    registry: Registry,
    network: Chaos,
    project: Project,
    lambimg: PathBuf,
    layer: u64,
    tallies: BTreeMap<Kind, Tally>,
}

impl Storm {
    fn new() -> Storm {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let registry = Registry::start_in(&directory.path().join("registry"));
        let seed = setting("STORM_SEED", 1);
        Storm {
            network: Chaos::start(registry.address(), seed, WEATHER),
            registry,
            project: Project::new(),
            lambimg: std::env::var_os("LAMBIMG").map(PathBuf::from).unwrap(),
            layer: setting("STORM_MIB", 300) * MIB / 4,
            tallies: BTreeMap::new(),
            directory,
        }
    }

    fn storage(&self) -> PathBuf {
        self.directory.path().join("registry/storage")
    }

    /// Four layers, of which each seed makes one.
    fn image(&self, seeds: [u64; 4]) -> Layout {
        let directory = self.directory.path().join("image");
        let _ = fs::remove_dir_all(&directory);
        let layers: [Noise; 4] = seeds.map(|seed| (seed, self.layer));
        Layout::make(&directory, &layers)
    }

    fn start(&self, image: &Layout, target: &str) -> support::project::Running {
        let mut command = Command::new(&self.lambimg);
        command.args(["push", &image.name(), target]);
        self.project.run_by(command).spawn()
    }

    fn push(&mut self, kind: Kind, image: &Layout, (repository, tag): (&str, &str)) -> bool {
        let begun = Instant::now();
        let target = self.network.name(&format!("{repository}:{tag}"));
        let before = self.registry.manifest(repository, tag);
        self.network.passed();
        let mut running = self.start(image, &target);
        let mut resident = 0;
        while !running.has_ended() && begun.elapsed() < PATIENCE {
            resident = resident.max(running.peak());
            thread::sleep(Duration::from_millis(10));
        }
        let outcome = running.outcome(PATIENCE.saturating_sub(begun.elapsed()));
        let said = format!("{kind:?}, {:?}\n{}", self.network, outcome.rendering());
        assert!(
            resident < MOST_RESIDENT,
            "{resident} bytes resident: {said}"
        );
        let is_done = self.judge(&outcome, image, (repository, tag, before), &said);
        let sent = self
            .network
            .passed()
            .iter()
            .map(|passed| passed.sent)
            .sum::<u64>();
        let tally = self.tallies.entry(kind).or_default();
        tally.pushes += 1;
        tally.failures += u32::from(!is_done);
        tally.sent += sent;
        tally.seconds += begun.elapsed().as_secs_f64();
        tally.most_resident = tally.most_resident.max(resident);
        is_done
    }

    /// Whether it succeeded; fails unless that is true, or the failure a clear one that left what was `before` under
    /// the tag.
    fn judge(
        &self,
        outcome: &Outcome,
        image: &Layout,
        (repository, tag, before): (&str, &str, Option<Vec<u8>>),
        said: &str,
    ) -> bool {
        let now = self.registry.manifest(repository, tag);
        if outcome.code == Some(0) {
            assert!(outcome.stdout.contains(&image.digest), "{said}");
            let tagged = now.map(|manifest| digest(&manifest));
            assert_eq!(tagged.as_deref(), Some(image.digest.as_str()), "{said}");
            return true;
        }
        assert_eq!(outcome.code, Some(NETWORK), "{said}");
        assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{said}");
        assert!(!outcome.stderr.contains("panicked"), "{said}");
        assert_eq!(outcome.stdout, "", "{said}");
        assert!(now == before, "{said}");
        eprintln!(
            "storm: {}",
            outcome.stderr.lines().last().unwrap_or_default()
        );
        false
    }

    /// Has skopeo read the image of every tag whole, past the bad network; each image once.
    fn prove(&self, repository: &str, wanted: usize) {
        let tags = self.registry.tags(repository);
        assert_eq!(tags.len(), wanted, "{tags:?}");
        let manifest = |tag: &String| self.registry.manifest(repository, tag).unwrap();
        let images = tags.iter().map(manifest).collect::<BTreeSet<_>>();
        for image in images {
            let name = format!("{repository}@{}", digest(&image));
            prove(&self.registry, &name, self.directory.path());
        }
    }

    /// Throws away all that the registry has; the running one looks at its directory for every request.
    fn forget(&self) {
        fs::remove_dir_all(self.storage()).unwrap();
    }

    fn tell(&self) {
        for (kind, tally) in &self.tallies {
            let Tally {
                pushes,
                failures,
                sent,
                seconds,
                most_resident,
            } = tally;
            eprintln!(
                "storm: {kind:?}: {pushes} pushes, {failures} failed clearly, {} MiB sent, {seconds:.0} s, \
                 at most {:.1} MB resident",
                sent / MIB,
                bytes_as_mb(*most_resident),
            );
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "it is only shown")]
fn bytes_as_mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn prove(registry: &Registry, name: &str, directory: &Path) {
    let copy = directory.join("copy");
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
    ]);
    skopeo.arg(format!("docker://{}", registry.name(name)));
    run(skopeo.arg(format!("dir:{}", copy.display())));
    fs::remove_dir_all(copy).unwrap();
}

/// In rounds of ten: a cold push, then three with a new layer and six with none into its repository.
#[test]
fn storm() {
    let mut storm = Storm::new();
    let begun = Instant::now();
    let (pushes, mut done) = (setting("STORM_PUSHES", 200), 0);
    let mut round = 0;
    while done < pushes {
        round += 1;
        let repository = format!("storm/round{round}");
        let seed = round * 100;
        let mut image = storm.image([seed, seed + 1, seed + 2, seed + 3]);
        let mut tagged = 0;
        for number in 0..10.min(pushes - done) {
            let kind = match number {
                0 => Kind::Cold,
                3 | 6 | 9 => Kind::NewLayer,
                _ => Kind::Unchanged,
            };
            if kind == Kind::NewLayer {
                image = storm.image([seed, seed + 1, seed + 2, seed + 3 + number]);
            }
            let tag = format!("v{number}");
            if storm.push(kind, &image, (&repository, &tag)) {
                tagged += 1;
            }
        }
        done += 10.min(pushes - done);
        storm.prove(&repository, tagged);
        storm.forget();
        eprintln!(
            "storm: {done} pushes, {tagged} of the last tagged, {:.0} s",
            begun.elapsed().as_secs_f64()
        );
    }
    storm.tell();
}

/// Killed at random moments of a cold push, then run again to its end in the same weather.
#[test]
fn killed() {
    let mut storm = Storm::new();
    let mut random = Random::new(setting("STORM_SEED", 1));
    let image = storm.image([1, 2, 3, 4]);
    *storm.network.weather() = Weather::default();
    let begun = Instant::now();
    assert!(storm.push(Kind::Cold, &image, ("killed/whole", "v1")));
    let whole = begun.elapsed();
    *storm.network.weather() = WEATHER;
    let kills = setting("STORM_KILLS", 20);
    for number in 0..kills {
        storm.forget();
        let repository = format!("killed/at{number}");
        let target = storm.network.name(&format!("{repository}:v1"));
        let moment = random.below(u64::try_from(whole.as_micros()).unwrap());
        let mut running = storm.start(&image, &target);
        thread::sleep(Duration::from_micros(moment));
        running.signal("KILL");
        running.outcome(PATIENCE);
        // The registry is still at work on what has reached it.
        thread::sleep(Duration::from_millis(500));
        storm.prove(&repository, storm.registry.tags(&repository).len());
        let mut tries = 0;
        while !storm.push(Kind::Repeated, &image, (&repository, "v1")) {
            tries += 1;
            assert!(tries < 5, "{:?}", storm.network);
        }
        storm.prove(&repository, 1);
        eprintln!(
            "storm: killed after {moment} of {} µs, then whole",
            whole.as_micros()
        );
    }
    storm.tell();
}
