//! The store under everything that happens to one: many at once, `kill -9`, a full disk, damage, a limit;
//! and what `cache` shows and removes. Other tools read it as it stands.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::image::files_of;
use crate::support::index::Index;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::registry::Registry;
use crate::support::wheel::Wheel;

const REFUSED: i32 = 1;
const DAY: Duration = Duration::from_hours(24);

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..count).map(next).collect()
}

/// A project with two wheels of an index of its own, and a lock that was made with neither in the store.
struct Shop {
    project: Project,
    index: Index,
    base: String,
}

impl Shop {
    fn open() -> Shop {
        Shop::with_wheel_of(200_000)
    }

    fn with_wheel_of(bytes: usize) -> Shop {
        let index = Index::start();
        index.serve(&Wheel::pure("upper", "2.0").requires("lower>=1"));
        index.serve(&Wheel::pure("lower", "1.5").member("lower/data.bin", noise(bytes)));
        let project = Project::with_handler();
        project.file("requirements.txt", "upper\n");
        let base = Base::aws("3.12").reference();
        let shop = Shop {
            project,
            index,
            base,
        };
        shop.run(&["lock", "--base", &shop.base]).succeed();
        fs::remove_dir_all(shop.project.cache()).unwrap();
        shop
    }

    fn run(&self, arguments: &[&str]) -> Run<'_> {
        self.project.lambimg(arguments).index(&self.index.url())
    }

    /// `build` as `name`, with these flags; what it made is told in a file beside the project.
    fn build(&self, name: &str, flags: &[&str]) -> Run<'_> {
        let told = self.told_in();
        let told = told.to_str().unwrap();
        let build = [
            "build",
            "--locked",
            "--base",
            &self.base,
            "-t",
            name,
            "--metadata-file",
            told,
        ];
        self.run(&[&build, flags].concat())
    }

    fn told_in(&self) -> PathBuf {
        self.project.beside("made.json")
    }

    fn told(&self) -> Value {
        serde_json::from_slice(&fs::read(self.told_in()).unwrap()).unwrap()
    }

    /// The layer whose description begins so, as it lies in the store.
    fn layer(&self, what: &str) -> PathBuf {
        let told = self.told();
        let layers = told["layers"].as_array().unwrap();
        let is_it = |layer: &&Value| layer["what"].as_str().unwrap().starts_with(what);
        let layer = layers.iter().find(is_it).unwrap();
        blob(&self.project.cache(), layer["digest"].as_str().unwrap())
    }

    fn wheel(&self, name: &str) -> PathBuf {
        let told = self.told();
        let packages = told["packages"].as_array().unwrap();
        let package = packages.iter().find(|package| package["name"] == name);
        let hex = package.unwrap()["sha256"].as_str().unwrap();
        blob(&self.project.cache(), &format!("sha256:{hex}"))
    }

    fn cache(&self, arguments: &[&str]) -> Run<'_> {
        self.run(&[&["cache"], arguments].concat())
    }

    fn size(&self) -> Value {
        serde_json::from_str(&self.cache(&["size", "--format", "json"]).succeed()).unwrap()
    }
}

fn blob(store: &Path, digest: &str) -> PathBuf {
    store.join("blobs").join(digest.replace(':', "/"))
}

/// Changes one byte in the middle of a file and keeps its size.
fn damage(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

/// All that the store has, as if it had last been used so many days ago.
fn age(store: &Path, days: u32) {
    let then = SystemTime::now() - days * DAY;
    for path in files_of(store) {
        File::open(path).unwrap().set_modified(then).unwrap();
    }
}

fn blobs(store: &Path) -> BTreeSet<PathBuf> {
    files_of(&store.join("blobs")).into_iter().collect()
}

/// Every name of the store leads to whole documents, now.
fn assert_names_are_whole(store: &Path) {
    let Ok(index) = fs::read(store.join("index.json")) else {
        return;
    };
    let index: Value = serde_json::from_slice(&index).expect("the index is whole");
    for entry in index["manifests"].as_array().unwrap() {
        let proven = |name: &Value| {
            let name = name.as_str().unwrap();
            let content = fs::read(blob(store, name)).unwrap();
            assert_eq!(digest(&content), name);
            content
        };
        let manifest: Value = serde_json::from_slice(&proven(&entry["digest"])).unwrap();
        proven(&manifest["config"]["digest"]);
        if let Some(other) = entry["annotations"].get("dev.lambimg.manifest") {
            proven(other);
        }
    }
}

fn skopeo_inspect(store: &Path, name: &str) -> Value {
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    let said = run(skopeo.args(["inspect", &format!("oci:{}:{name}", store.display())]));
    serde_json::from_str(&said).unwrap()
}

// --- others -------------------------------------------------------------------------------------

/// skopeo 1.9 finds no manifest of Docker's types by its name, so it is given another of the same image.
#[test]
fn skopeo_reads_an_image_of_dockers_types() {
    let shop = Shop::open();
    let store = shop.project.cache();
    let printed = shop.build("some:1", &[]).succeed();
    let told = shop.told();
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(told["media_type"], docker);
    let own = told["digest"].as_str().unwrap();
    assert_eq!(printed, format!("some:1@{own}\n").replace("some:1", "some"));
    assert_eq!(skopeo_inspect(&store, "some:1")["Os"], "linux");
    assert_names_are_whole(&store);

    // With the base's layers there too, it copies.
    let layout = shop.project.beside("layout");
    let output = format!("oci:{}:1", layout.display());
    shop.build("some:1", &["-o", &output]).succeed();
    let copy = shop.project.beside("copy");
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args(["--insecure-policy", "copy", "--quiet"]);
    skopeo.arg(format!("oci:{}:some:1", store.display()));
    run(skopeo.arg(format!("oci:{}:copy", copy.display())));
    let copy = Image::in_directory(&copy);
    copy.assert_accepted_by_lambda();
    assert_eq!(copy.digest(), Image::in_directory(&layout).digest());

    // What is pushed is the image that was built.
    let registry = Registry::start();
    let name = registry.name("some:1");
    let pushed = shop.run(&["push", "some:1", &name]).succeed();
    assert!(pushed.ends_with(&format!("@{own}\n")), "{pushed}");
    shop.cache(&["prune"]).succeed();
    assert_eq!(skopeo_inspect(&store, "some:1")["Os"], "linux");
    let again = registry.name("again:1");
    let pushed = shop.run(&["push", "some:1", &again]).succeed();
    assert!(pushed.ends_with(&format!("@{own}\n")), "{pushed}");
}

#[test]
fn ten_builds_at_once() {
    let shops: Vec<_> = (0..5).map(|_| Shop::open()).collect();
    for (number, shop) in shops.iter().enumerate() {
        shop.project
            .file("more.py", format!("NUMBER = {}\n", number / 2));
    }
    let store = shops[0].project.cache();
    let names: Vec<_> = (0..10).map(|number| format!("some-{number}:1")).collect();
    let build = |number: usize| {
        let shop = &shops[number % shops.len()];
        let base = &shop.base;
        let build = ["build", "--locked", "--base", base, "-t", &names[number]];
        shop.run(&build).env("LAMBIMG_CACHE_DIR", &store).succeed()
    };
    let first: Vec<String> = thread::scope(|scope| {
        let started: Vec<_> = (0..10)
            .map(|number| scope.spawn(move || build(number)))
            .collect();
        started
            .into_iter()
            .map(|build| build.join().unwrap())
            .collect()
    });
    assert_whole(&store);
    assert_names_are_whole(&store);
    for (number, name) in names.iter().enumerate() {
        assert_eq!(skopeo_inspect(&store, name)["Os"], "linux");
        assert_eq!(build(number), first[number]);
    }
    let digests: BTreeSet<_> = first
        .iter()
        .map(|line| line.split('@').next_back())
        .collect();
    assert_eq!(digests.len(), 3, "{first:?}");
}

// --- ends ---------------------------------------------------------------------------------------

/// Builds into an empty store are killed at moments spread over the time that one takes.
#[test]
fn killed_at_fifty_moments() {
    const MOMENTS: u32 = 50;
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    fs::remove_dir_all(shop.project.cache()).unwrap();
    let start = Instant::now();
    shop.build("some:1", &[]).succeed();
    let whole = start.elapsed();
    let one = |moment: u32| {
        let store = shop.project.beside(&format!("cache-{moment}"));
        let base = &shop.base;
        let run = |arguments: &[&str]| shop.run(arguments).env("LAMBIMG_CACHE_DIR", &store);
        let build = ["build", "--locked", "--base", base, "-t", "some:1"];
        let mut child = run(&build).start();
        thread::sleep(whole * moment / MOMENTS);
        // One that is done already has ended by itself.
        let _ = child.kill();
        let killed = child.wait().unwrap().code().is_none();
        assert_names_are_whole(&store);
        assert_eq!(run(&build).succeed(), expected, "moment {moment}");
        run(&["cache", "prune"]).succeed();
        assert_whole(&store);
        assert_names_are_whole(&store);
        assert_eq!(files_of(&store.join("tmp")), Vec::<PathBuf>::new());
        fs::remove_dir_all(&store).unwrap();
        killed
    };
    let halves = thread::scope(|scope| {
        let half = |first: u32| {
            (first..MOMENTS)
                .step_by(2)
                .map(one)
                .filter(|killed| *killed)
                .count()
        };
        let other = scope.spawn(move || half(1));
        [half(0), other.join().unwrap()]
    });
    let killed: usize = halves.iter().sum();
    assert!(
        killed > 25,
        "only {killed} were killed before they were done"
    );
}

/// The store is on a file system of so many pages; wherever that ends, nothing half written stays, and
/// with room the image is the same.
#[test]
fn disk_is_full_at_any_moment() {
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    let mut failed = 0;
    for pages in [1, 3, 6, 30, 70, 110, 130] {
        let left = shop.project.beside(&format!("left-{pages}"));
        let script = format!(
            "mkdir -p \"$LAMBIMG_CACHE_DIR\" && mount -t tmpfs -o nr_blocks={pages} tmpfs \"$LAMBIMG_CACHE_DIR\" || exit 70\n\
             \"$@\"\ncode=$?\ncp -R \"$LAMBIMG_CACHE_DIR\" {}\nexit $code\n",
            left.display()
        );
        let mut unshare = Command::new(program("unshare", "util-linux"));
        unshare.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        unshare.arg(env!("CARGO_BIN_EXE_lambimg"));
        unshare.args(["build", "--locked", "--base", &shop.base, "-t", "some:1"]);
        let run = shop.project.run_by(unshare).index(&shop.index.url());
        let outcome = run.run();
        let told = outcome.rendering();
        if outcome.code != Some(0) {
            failed += 1;
            assert_eq!(outcome.code, Some(REFUSED), "{pages}: {told}");
            assert!(told.contains("No space left on device"), "{pages}: {told}");
            assert!(told.contains("`lambimg cache prune`"), "{pages}: {told}");
            assert!(
                told.contains(shop.project.cache().to_str().unwrap()),
                "{pages}: {told}"
            );
        }
        assert_whole(&left);
        assert_names_are_whole(&left);
        let again = shop.build("some:1", &[]).env("LAMBIMG_CACHE_DIR", &left);
        assert_eq!(again.succeed(), expected);
    }
    assert!(failed > 3, "only {failed} disks were too small");
}

// --- damage -------------------------------------------------------------------------------------

#[test]
fn damaged_layer_is_made_again() {
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    let digest_of = |printed: &str| printed.trim_end().rsplit('@').next().unwrap().to_owned();
    for (number, what) in ["dependencies", "function"].into_iter().enumerate() {
        damage(&shop.layer(what));
        let output = format!("oci:{}:1", shop.project.beside(what).display());
        let outcome = shop
            .build("some:1", &["-o", &output, "--progress", "none"])
            .run();
        assert_eq!(outcome.stdout, expected, "{}", outcome.rendering());
        assert_whole(&shop.project.cache());
        let told = outcome.stderr.matches("was damaged and is dropped");
        assert_eq!(told.count(), 1, "{}", outcome.rendering());
        if number == 0 {
            assert_said!(outcome);
        }

        damage(&shop.layer(what));
        let registry = Registry::start();
        let name = registry.name("some:1");
        let outcome = shop.build(&name, &["--push"]).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_eq!(digest_of(&outcome.stdout), digest_of(&expected));
        assert_whole(&shop.project.cache());
        Image::in_registry(&registry, &name).assert_accepted_by_lambda();
    }
}

/// Each damaged blob is found by whoever reads it, one at a time; one more try has to do for all.
#[test]
fn several_damaged_blobs_are_made_again_at_once() {
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    for what in ["dependencies", "function"] {
        damage(&shop.layer(what));
    }
    let layout = shop.project.beside("layout");
    let output = format!("oci:{}:1", layout.display());
    let outcome = shop.build("some:1", &["-o", &output]).run();
    assert_eq!(outcome.stdout, expected, "{}", outcome.rendering());
    let told = outcome.stderr.matches("was damaged and is dropped");
    assert_eq!(told.count(), 2, "{}", outcome.rendering());
    // What lies in an output is proven, too.
    damage(&blob(
        &layout,
        shop.told()["layers"][0]["digest"].as_str().unwrap(),
    ));
    shop.build("some:1", &["-o", &output]).succeed();
    assert_whole(&layout);
}

/// What a damaged layer is made of may be damaged as well, and that is seen only when it is made.
#[test]
fn damage_below_damage_is_mended() {
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    damage(&shop.layer("dependencies"));
    damage(&shop.wheel("lower"));
    let output = format!("oci:{}:1", shop.project.beside("layout").display());
    let outcome = shop.build("some:1", &["-o", &output]).run();
    assert_eq!(outcome.stdout, expected, "{}", outcome.rendering());
    let told = outcome.stderr.matches("was damaged and is dropped");
    assert_eq!(told.count(), 2, "{}", outcome.rendering());
    assert_whole(&shop.project.cache());
}

/// The mode of a wheel's member has no check sum but the wheel's own.
#[test]
fn damage_that_no_check_sum_shows_is_noticed() {
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    let wheel = shop.wheel("lower");
    let mut bytes = fs::read(&wheel).unwrap();
    let entry = bytes.windows(4).position(|four| four == b"PK\x01\x02");
    bytes[entry.unwrap() + 40] ^= 0o100;
    fs::write(&wheel, bytes).unwrap();
    let outcome = shop.build("some:1", &["--no-cache"]).run();
    assert_eq!(outcome.stdout, expected, "{}", outcome.rendering());
    assert!(outcome.stderr.contains("was damaged and is dropped"));
    // Where nothing is remembered of the wheel all of it is read.
    let mut bytes = fs::read(&wheel).unwrap();
    bytes[entry.unwrap() + 40] ^= 0o100;
    fs::write(&wheel, bytes).unwrap();
    fs::remove_dir_all(shop.project.cache().join("memo")).unwrap();
    let outcome = shop.build("some:1", &[]).run();
    assert_eq!(outcome.stdout, expected, "{}", outcome.rendering());
    assert!(outcome.stderr.contains("was damaged and is dropped"));
}

/// A lock without sizes has them found out by the wheels that are there, which may be damaged.
#[test]
fn sizes_of_damaged_wheels_are_not_remembered() {
    let shop = Shop::with_wheel_of(600_000);
    let lock = fs::read_to_string(shop.project.path().join("pylock.toml")).unwrap();
    assert!(!lock.contains("size = "), "{lock}");
    let expected = shop.build("some:1", &[]).succeed();
    let wheel = shop.wheel("lower");
    shop.cache(&["prune", "--layers"]).succeed();
    fs::remove_dir_all(shop.project.cache().join("memo")).unwrap();
    fs::write(&wheel, "").unwrap();
    let outcome = shop.build("some:1", &["--no-cache"]).run();
    assert_eq!(outcome.stdout, expected, "{}", outcome.rendering());
    assert_eq!(shop.build("some:1", &["--no-cache"]).succeed(), expected);
}

#[test]
fn damaged_layer_of_a_push_is_told() {
    let shop = Shop::open();
    shop.build("some:1", &[]).succeed();
    damage(&shop.layer("function"));
    let registry = Registry::start();
    let name = registry.name("some:1");
    let push = ["push", "some:1", &name, "--progress", "none"];
    let outcome = shop.run(&push).run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_eq!(registry.manifest("some", "1"), None);
    assert_said!(outcome);
}

/// A wheel is read in pieces; whichever is damaged, it is fetched again.
#[test]
fn damaged_wheel_is_fetched_again() {
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    let wheel = shop.wheel("lower");
    let whole = fs::read(&wheel).unwrap();
    let end = whole.len() - 10;
    for (what, place) in [("member", whole.len() / 2), ("directory", end)] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&wheel, bytes).unwrap();
        let before = shop.index.requests().len();
        let outcome = shop.build("some:1", &["--no-cache"]).run();
        assert_eq!(outcome.stdout, expected, "{what}: {}", outcome.rendering());
        assert_eq!(shop.index.requests().len(), before + 1, "{what}");
        let said = format!("warning: blob {} of the store was damaged", digest(&whole));
        assert!(
            outcome.stderr.contains(&said),
            "{what}: {}",
            outcome.rendering()
        );
        assert_whole(&shop.project.cache());
    }
}

#[test]
fn damaged_documents_are_written_again() {
    let shop = Shop::open();
    let expected = shop.build("some:1", &[]).succeed();
    let told = shop.told();
    let store = shop.project.cache();
    for document in ["digest", "config_digest"] {
        let path = blob(&store, told[document].as_str().unwrap());
        damage(&path);
        let outcome = shop.run(&["push", "some:1", "127.0.0.1:1/some:1"]).run();
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        assert!(
            outcome.stderr.contains("was damaged and is dropped"),
            "{}",
            outcome.rendering()
        );
        assert!(outcome.stderr.contains("hint: build the image again"));
        assert_eq!(shop.build("some:1", &[]).succeed(), expected);
        damage(&path);
        assert_eq!(shop.build("some:1", &[]).succeed(), expected);
        assert_whole(&store);
    }
}

// --- what is removed ----------------------------------------------------------------------------

#[test]
fn prune_leaves_what_named_images_need() {
    let shop = Shop::open();
    let store = shop.project.cache();
    shop.build("some:1", &[]).succeed();
    let old = [
        shop.layer("function"),
        blob(&store, shop.told()["digest"].as_str().unwrap()),
    ];
    let (wheels, layer) = (
        [shop.wheel("upper"), shop.wheel("lower")],
        shop.layer("dep"),
    );
    shop.project
        .file("app.py", "def handler(event, context):\n    return 2\n");
    let expected = shop.build("some:1", &[]).succeed();
    fs::write(store.join("tmp/.lambimg-half"), "half").unwrap();
    let older = store
        .join("memo")
        .join(&digest(b"older")["sha256:".len()..]);
    fs::write(&older, "of an older release").unwrap();
    fs::create_dir(store.join("tmp/theirs")).unwrap();

    let outcome = shop.cache(&["prune", "--layers"]).run();
    assert_eq!((outcome.code, &*outcome.stdout), (Some(0), ""));
    assert_said!(outcome);
    assert!(!old[0].exists() && old[1].exists() && layer.exists());
    assert!(wheels.iter().all(|wheel| wheel.exists()));
    assert!(!store.join("tmp/.lambimg-half").exists() && !older.exists());
    assert!(store.join("tmp/theirs").exists(), "what is not ours stays");
    fs::remove_dir(store.join("tmp/theirs")).unwrap();

    shop.cache(&["prune"]).succeed();
    assert!(!old[1].exists() && layer.exists());
    assert!(!wheels.iter().any(|wheel| wheel.exists()));
    assert_whole(&store);
    assert_eq!(skopeo_inspect(&store, "some:1")["Os"], "linux");
    let left = blobs(&store);
    shop.cache(&["prune"]).succeed();
    assert_eq!(blobs(&store), left, "nothing is left to remove");
    let before = shop.index.requests().len();
    assert_eq!(shop.build("some:1", &[]).succeed(), expected);
    assert_eq!(
        shop.index.requests().len(),
        before,
        "the layer is taken as it is"
    );

    shop.cache(&["prune", "--all"]).succeed();
    assert_eq!(blobs(&store), BTreeSet::new());
    let size = shop.size();
    assert_eq!(
        (&size["images"], &size["bytes"]),
        (&Value::Array(vec![]), &0.into())
    );
    assert_eq!(shop.build("some:1", &[]).succeed(), expected);
}

#[test]
fn prune_by_age_takes_names_too() {
    let shop = Shop::open();
    let store = shop.project.cache();
    shop.build("old:1", &[]).succeed();
    let old = [shop.layer("function"), shop.wheel("upper")];
    age(&store, 40);
    shop.project
        .file("app.py", "def handler(event, context):\n    return 2\n");
    shop.build("new:1", &[]).succeed();
    let new = [shop.layer("function"), shop.layer("dependencies")];
    shop.cache(&["prune", "--older-than", "50d"]).succeed();
    assert!(old.iter().chain(&new).all(|path| path.exists()));
    let outcome = shop.cache(&["prune", "--older-than", "30d"]).run();
    assert_said!(outcome);
    assert!(!old.iter().any(|path| path.exists()));
    // The layer of dependencies is old, but was used today.
    assert!(new.iter().all(|path| path.exists()));
    assert_whole(&store);
    let size = shop.size();
    let names: Vec<_> = size["images"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 1, "{size}");
    assert_eq!(names[0]["name"], "new:1");
    // Where the base's layers are is not forgotten, even where nobody has asked for long.
    age(&store.join("memo"), 40);
    shop.cache(&["prune", "--older-than", "30d"]).succeed();
    let registry = Registry::start();
    let name = registry.name("new:1");
    shop.run(&["push", "new:1", &name]).succeed();
    Image::in_registry(&registry, &name).assert_accepted_by_lambda();
    let outcome = shop.cache(&["prune", "--older-than", "soon"]).run();
    assert_eq!(outcome.code, Some(2), "{}", outcome.rendering());
    let outcome = shop.cache(&["prune", "--all", "--layers"]).run();
    assert_eq!(outcome.code, Some(2), "{}", outcome.rendering());
}

/// While somebody holds the store, as each build does, nothing goes.
#[test]
fn prune_waits_for_others() {
    let shop = Shop::open();
    shop.build("some:1", &[]).succeed();
    let wheel = shop.wheel("lower");
    let other = File::open(shop.project.cache().join("lock")).unwrap();
    other.lock_shared().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lambimg"));
    command
        .args(["cache", "prune"])
        .env("LAMBIMG_CACHE_DIR", shop.project.cache());
    command.stderr(Stdio::piped());
    let mut prune = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(prune.stderr.as_mut().unwrap())
        .read_line(&mut said)
        .unwrap();
    let who = format!(": the process {}\n", std::process::id());
    assert!(
        said.starts_with("waiting for others that use the store") && said.ends_with(&who),
        "{said}"
    );
    // Neither to look nor to build does anybody wait.
    shop.size();
    assert!(wheel.exists() && prune.try_wait().unwrap().is_none());
    drop(other);
    assert!(prune.wait().unwrap().success());
    assert!(!wheel.exists());
}

#[test]
fn size_is_shown() {
    let shop = Shop::open();
    let store = shop.project.cache();
    let printed = shop.cache(&["dir"]).succeed();
    assert_eq!(printed, format!("{}\n", store.display()));
    assert_eq!(shop.size()["bytes"], 0);
    assert!(!store.exists(), "to look is not to make");
    shop.build("some:1", &[]).succeed();
    let size = shop.size();
    let held = |paths: &[PathBuf]| -> u64 {
        paths
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum()
    };
    let layers = [shop.layer("function"), shop.layer("dependencies")];
    assert_eq!(size["layers"]["bytes"], held(&layers));
    let image = size["images"][0]["bytes"].as_u64().unwrap();
    assert!(image > held(&layers), "{size}");
    assert!(
        size["blobs"]["bytes"].as_u64().unwrap() > held(&[shop.wheel("lower")]),
        "{size}"
    );
    let all: Vec<_> = files_of(&store.join("blobs"));
    let all = held(&all) + held(&files_of(&store.join("memo")));
    assert_eq!(size["bytes"], all);
    let table = shop.cache(&["size"]).succeed();
    let firsts: Vec<_> = table
        .lines()
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    let expected = [
        "WHAT",
        "some:1",
        "made layers",
        "wheels and other blobs",
        "answers",
        "unpacked layers",
        "unfinished files",
        "all files",
    ];
    assert_eq!(firsts, expected, "{table}");
}

#[test]
fn directory_of_something_else_is_no_store() {
    let shop = Shop::open();
    let other = shop.project.beside("thesis");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "years of work").unwrap();
    for arguments in [&["cache", "prune", "--all"][..], &["build"]] {
        let outcome = shop.run(arguments).env("LAMBIMG_CACHE_DIR", &other).run();
        assert_eq!(outcome.code, Some(2), "{}", outcome.rendering());
        assert_eq!(files_of(&other), [other.join("thesis.txt")]);
        if arguments[0] == "cache" {
            assert_said!(outcome);
        }
    }
}

/// What other tools put into the layout may be images of several platforms under one name.
#[test]
fn prune_leaves_all_images_of_an_index() {
    let shop = Shop::open();
    let store = shop.project.cache();
    shop.build("some:1", &[]).succeed();
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--all",
        "--format",
        "oci",
    ]);
    skopeo.args(["--src-tls-verify=false", &format!("docker://{}", shop.base)]);
    run(skopeo.arg(format!("oci:{}:both:1", store.display())));
    shop.cache(&["prune"]).succeed();
    for architecture in ["amd64", "arm64"] {
        let copy = shop.project.beside(architecture);
        let mut skopeo = Command::new(program("skopeo", "skopeo"));
        skopeo.args(["--insecure-policy", "--override-arch", architecture]);
        skopeo.args([
            "copy",
            "--quiet",
            &format!("oci:{}:both:1", store.display()),
        ]);
        run(skopeo.arg(format!("dir:{}", copy.display())));
    }
    assert_whole(&store);
}

/// An image whose manifest is damaged cannot say what it needs: its name goes, and that is told.
#[test]
fn prune_takes_the_name_of_a_broken_image() {
    let shop = Shop::open();
    let store = shop.project.cache();
    shop.build("broken:1", &[]).succeed();
    let manifest = blob(&store, shop.told()["digest"].as_str().unwrap());
    shop.project
        .file("app.py", "def handler(event, context):\n    return 2\n");
    shop.build("whole:1", &[]).succeed();
    damage(&manifest);
    let before = blobs(&store);
    shop.size();
    assert_eq!(blobs(&store), before, "to look removes nothing");
    let outcome = shop.cache(&["prune"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_said!(outcome);
    assert_eq!(shop.size()["images"].as_array().unwrap().len(), 1);
    assert_whole(&store);
    assert_eq!(skopeo_inspect(&store, "whole:1")["Os"], "linux");
}

/// Use is noted to a day, so what may have been used since is not taken.
#[test]
fn prune_by_age_errs_by_a_day() {
    let shop = Shop::open();
    let store = shop.project.cache();
    shop.build("some:1", &[]).succeed();
    let almost = SystemTime::now() - DAY + Duration::from_mins(1);
    for path in files_of(&store) {
        File::open(path).unwrap().set_modified(almost).unwrap();
    }
    shop.build("some:1", &[]).succeed();
    let before = blobs(&store);
    shop.cache(&["prune", "--older-than", "1h"]).succeed();
    assert_eq!(blobs(&store), before);
    age(&store, 2);
    shop.cache(&["prune", "--older-than", "1h"]).succeed();
    assert_eq!(blobs(&store), BTreeSet::new());
}

#[test]
fn store_stays_below_its_limit() {
    let shop = Shop::open();
    let store = shop.project.cache();
    let edit = |number: u32| {
        let text = format!("def handler(event, context):\n    return {number}\n");
        shop.project.file("app.py", text);
    };
    let limited = |name: &str, limit: &str| shop.build(name, &[]).env("LAMBIMG_CACHE_SIZE", limit);
    let names = || -> Vec<String> {
        let size = shop.size();
        let images = size["images"].as_array().unwrap().iter();
        images
            .map(|image| image["name"].as_str().unwrap().to_owned())
            .collect()
    };
    shop.build("first:1", &[]).succeed();
    let first = shop.layer("function");
    age(&store, 3);
    let before = blobs(&store);
    for limit in ["1", "none", "0"] {
        // What brings nothing new removes nothing.
        limited("first:1", limit).succeed();
        assert_eq!(blobs(&store), before, "{limit}");
    }
    age(&store, 2);
    edit(2);
    limited("second:1", "none").succeed();
    assert!(blobs(&store).is_superset(&before));
    let (second, wheel) = (shop.layer("function"), shop.wheel("lower"));
    age(&second, 1);

    // Wheels go before names. The first image has its manifest in two forms.
    edit(3);
    let bytes = shop.size()["bytes"].as_u64().unwrap();
    limited("third:1", &format!("{}B", bytes - 100_000)).succeed();
    assert!(!wheel.exists() && first.exists() && second.exists());
    assert_eq!(names(), ["first:1", "second:1", "third:1"]);

    // Names of images that were used longest ago go first, but not what was just made.
    edit(4);
    let other = File::open(store.join("lock")).unwrap();
    other.lock_shared().unwrap();
    limited("fourth:1", "1kB").succeed();
    assert_eq!(names().len(), 4, "while others are at work nothing goes");
    drop(other);
    edit(5);
    let outcome = limited("fifth:1", "1kB").run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let removed = outcome
        .stderr
        .lines()
        .filter(|line| line.starts_with("removed the name "));
    assert_eq!(removed.count(), 4, "{}", outcome.rendering());
    assert!(
        outcome.stderr.contains("\nfreed "),
        "{}",
        outcome.rendering()
    );
    assert_eq!(names(), ["fifth:1"]);
    assert!(!first.exists() && shop.layer("function").exists());
    assert!(shop.layer("dependencies").exists());
    assert_whole(&store);
    assert_eq!(skopeo_inspect(&store, "fifth:1")["Os"], "linux");
}

#[test]
fn limit_that_is_no_size() {
    let shop = Shop::open();
    let outcome = shop
        .build("some:1", &[])
        .env("LAMBIMG_CACHE_SIZE", "much")
        .run();
    assert_eq!(outcome.code, Some(2), "{}", outcome.rendering());
    assert_said!(outcome);
}
