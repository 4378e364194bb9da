//! `lambimg.lock`: made and used by builds, held to by `--locked`, made anew by `lambimg lock`, and compared with
//! the registry by `lambimg outdated`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::architecture;
use crate::support::archive::Tree;
use crate::support::base;
use crate::support::base::Base;
use crate::support::digest;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::registry::Registry;
use crate::support::wheel::Wheel;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const NETWORK: i32 = 4;

/// A project whose base is in a registry of its own, so that its tag can be moved.
struct Shop {
    project: Project,
    registry: Registry,
    base: String,
}

impl Shop {
    fn open() -> Shop {
        let registry = Registry::start();
        let base = Base::aws("3.12").copy_to(&registry);
        Shop {
            project: Project::with_handler(),
            registry,
            base,
        }
    }

    fn run(&self, verb: &str, flags: &[&str]) -> Run<'_> {
        let arguments = [&[verb, "--base", &self.base], flags].concat();
        self.project.lambimg(arguments)
    }

    /// The digest that a build prints.
    fn built(&self, flags: &[&str]) -> String {
        let said = self.run("build", flags).succeed();
        let (_, digest) = said.trim_end().split_once('@').expect("a digest");
        digest.to_owned()
    }

    /// Has the base's tag lead to other images for both architectures.
    fn move_tag(&self) {
        let repository = "lambda/python";
        let list = self.registry.manifest(repository, "3.12").unwrap();
        let mut list: Value = serde_json::from_slice(&list).unwrap();
        for entry in list["manifests"].as_array_mut().unwrap() {
            let old = entry["digest"].as_str().unwrap();
            let manifest = self.registry.manifest(repository, old).unwrap();
            let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
            let config = manifest["config"]["digest"].as_str().unwrap();
            let config = self.registry.blob(repository, config).unwrap();
            let mut config: Value = serde_json::from_slice(&config).unwrap();
            config["created"] = json!("2026-11-20T00:00:00Z");
            let config = config.to_string().into_bytes();
            manifest["config"]["digest"] = json!(digest(&config));
            manifest["config"]["size"] = json!(config.len());
            self.registry.put_blob(repository, config);
            let raw = manifest.to_string().into_bytes();
            entry["digest"] = json!(digest(&raw));
            entry["size"] = json!(raw.len());
            let media_type = manifest["mediaType"].as_str().unwrap();
            let name = entry["digest"].as_str().unwrap();
            self.registry
                .put_manifest(repository, name, media_type, raw);
        }
        let media_type = list["mediaType"].as_str().unwrap().to_owned();
        let raw = list.to_string().into_bytes();
        self.registry
            .put_manifest(repository, "3.12", &media_type, raw);
    }
}

fn pins(project: &Project) -> String {
    fs::read_to_string(project.path().join("lambimg.lock")).unwrap()
}

fn table(project: &Project) -> toml::Table {
    pins(project).parse().unwrap()
}

/// Changes the lock as a hand would.
fn edit(project: &Project, from: &str, to: &str) {
    let text = pins(project);
    assert!(text.contains(from), "{from} is in {text}");
    project.file("lambimg.lock", text.replace(from, to));
}

fn expect_failure(code: i32, outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    outcome
}

// --- made and used ------------------------------------------------------------------------------

#[test]
fn a_build_makes_the_lock_and_says_so() {
    let shop = Shop::open();
    let outcome = shop.run("build", &[]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let made = outcome
        .stderr
        .lines()
        .find(|line| line.contains("lambimg.lock"));
    let path = shop.project.path().canonicalize().unwrap();
    let path = path.join("lambimg.lock");
    assert_eq!(made, Some(&*format!("made {}", path.display())));
    let table = table(&shop.project);
    let base = &table["base"][0];
    assert_eq!(base["reference"].as_str(), Some(&*shop.base));
    assert_eq!(base["created"].as_str(), Some("1970-01-01T00:00:00Z"));
    let list = shop.registry.manifest("lambda/python", "3.12").unwrap();
    assert_eq!(base["index"].as_str(), Some(&*digest(&list)));
    let list: Value = serde_json::from_slice(&list).unwrap();
    for (name, entry) in ["x86_64", "arm64"]
        .into_iter()
        .zip(list["manifests"].as_array().unwrap())
    {
        assert_eq!(base["digests"][name].as_str(), entry["digest"].as_str());
    }

    // A lock that stands is left as it is, and nothing is said of it.
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let again = shop.run("build", &[]).run();
    assert!(
        !again.stderr.contains("lambimg.lock"),
        "{}",
        again.rendering()
    );
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn a_tag_that_moved_changes_nothing_until_it_is_to() {
    let shop = Shop::open();
    let (native, arm) = (shop.built(&["--arch", "x86_64"]), ["--arch", "arm64"]);
    shop.move_tag();
    assert_eq!(shop.built(&[]), native);
    fs::remove_dir_all(shop.project.cache()).unwrap();
    assert_eq!(shop.built(&["--locked"]), native, "with an empty store");
    assert_eq!(shop.built(&["--locked", "--offline"]), native);
    // The other architecture was pinned with the first, by their index.
    let other = shop.built(&[&arm[..], &["--locked"]].concat());
    let before = pins(&shop.project);

    let unchanged = shop.run("lock", &[]).succeed();
    assert!(unchanged.ends_with("lambimg.lock\n"), "{unchanged}");
    assert_eq!(pins(&shop.project), before);
    let outcome = shop.run("lock", &["--upgrade-base"]).run();
    assert_ne!(shop.built(&["--locked"]), native);
    assert_ne!(shop.built(&[&arm[..], &["--locked"]].concat()), other);
    assert!(pins(&shop.project).contains("created = \"2026-11-20T00:00:00Z\""));
    assert_eq!(table(&shop.project)["base"].as_array().unwrap().len(), 1);
    assert_said!(outcome);
}

#[test]
fn another_base_adds_an_entry() {
    let shop = Shop::open();
    shop.built(&[]);
    let first = table(&shop.project)["base"][0].clone();
    let second = format!("{}@{}", shop.base, first["index"].as_str().unwrap());
    let build = ["build", "--base", &second, "--locked"];
    shop.project.lambimg(build).succeed();
    assert_eq!(
        table(&shop.project)["base"].as_array().unwrap().len(),
        1,
        "--locked writes nothing"
    );
    let outcome = shop.project.lambimg(["build", "--base", &second]).run();
    assert!(
        outcome.stderr.contains("updated "),
        "{}",
        outcome.rendering()
    );
    let bases = table(&shop.project)["base"].as_array().unwrap().clone();
    assert_eq!(bases[0], first);
    assert_eq!(bases[1]["digests"], first["digests"]);
}

/// Nothing to lock: no requirements, and a base that is named by its digest.
#[test]
fn a_base_by_its_digest_needs_no_lock() {
    let shop = Shop::open();
    let list = shop.registry.manifest("lambda/python", "3.12").unwrap();
    let base = format!("{}@{}", shop.base, digest(&list));
    let build = ["build", "--base", &base, "--locked"];
    shop.project.lambimg(build).succeed();
    assert!(!shop.project.path().join("lambimg.lock").exists());
}

/// What an index has its own bytes tell: a lock that says otherwise is wrong.
#[test]
fn a_digest_in_the_reference_is_stronger_than_the_lock() {
    let mut shop = Shop::open();
    let list = shop.registry.manifest("lambda/python", "3.12").unwrap();
    shop.base = format!("{}@{}", shop.base, digest(&list));
    let first = shop.built(&["--arch", "x86_64"]);
    let list: Value = serde_json::from_slice(&list).unwrap();
    let own = list["manifests"][0]["digest"].as_str().unwrap();
    let other = list["manifests"][1]["digest"].as_str().unwrap();
    edit(
        &shop.project,
        &format!("x86_64 = \"{own}\""),
        &format!("x86_64 = \"{other}\""),
    );
    let locked = shop.run("build", &["--arch", "x86_64", "--locked"]).run();
    let locked = expect_failure(REFUSED, locked);
    assert!(locked.stderr.contains(own), "{}", locked.rendering());
    assert_eq!(first, shop.built(&["--arch", "x86_64"]));
    assert!(pins(&shop.project).contains(&format!("x86_64 = \"{own}\"")));
    // The digest of one architecture's image is none of the other's.
    shop.base = shop.base.replace(&digest_in(&shop.base), own);
    shop.built(&["--arch", "x86_64"]);
    let arm = shop.run("build", &["--arch", "arm64"]).run();
    assert_ne!(arm.code, Some(0), "{}", arm.rendering());
}

fn digest_in(reference: &str) -> String {
    reference.split_once('@').unwrap().1.to_owned()
}

/// Links are for those who read the file elsewhere, and other line ends come from a checkout.
#[test]
fn a_lock_is_written_where_it_is_and_left_where_it_says_the_same() {
    let shop = Shop::open();
    let lock = shop.project.path().join("lambimg.lock");
    std::os::unix::fs::symlink("elsewhere.lock", &lock).unwrap();
    shop.built(&[]);
    assert!(fs::symlink_metadata(&lock).unwrap().is_symlink());
    let text = pins(&shop.project).replace('\n', "\r\n");
    shop.project.file("elsewhere.lock", &text);
    let again = shop.run("build", &[]).run();
    assert!(!again.stderr.contains("lock"), "{}", again.rendering());
    assert_eq!(pins(&shop.project), text);
}

#[test]
fn a_directory_that_cannot_be_written_is_built() {
    let shop = Shop::open();
    let script =
        "mount --bind . . && mount -o remount,ro,bind . && cd \"$PWD\" || exit 70\nexec \"$@\"\n";
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    unshare.args([env!("CARGO_BIN_EXE_lambimg"), "build", "--base", &shop.base]);
    let outcome = shop.project.run_by(unshare).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(!shop.project.path().join("lambimg.lock").exists());
    // What is run to have a lock has failed without.
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    unshare.args([env!("CARGO_BIN_EXE_lambimg"), "lock", "--base", &shop.base]);
    let lock = expect_failure(USAGE, shop.project.run_by(unshare).run());
    let said = lock.stderr.contains("cannot write into");
    assert!(said, "{}", lock.rendering());
    assert_said!(outcome);
}

#[test]
fn this_machines_python_is_pinned_by_its_files() {
    let project = Project::with_handler();
    let build = |flags: &[&str]| {
        let arguments = [
            &["build", "--base", "host", "--arch", architecture()],
            flags,
        ]
        .concat();
        project.lambimg(arguments)
    };
    let first = build(&[]).succeed();
    assert_eq!(build(&["--locked"]).succeed(), first);
    // The date of an image is not in the files.
    let dated = build(&["--locked"]).env("SOURCE_DATE_EPOCH", "1700000000");
    assert_ne!(dated.succeed(), first);
    let digests = table(&project)["base"][0]["digests"].to_string();
    let actual = digests.split('"').nth(1).unwrap().to_owned();
    edit(&project, &actual, &digest(b"another machine"));
    let refused = expect_failure(REFUSED, build(&["--locked"]).run());
    assert!(refused.stderr.contains(&actual), "{}", refused.rendering());
    let updated = build(&[]).run();
    assert!(
        updated.stderr.contains("updated "),
        "{}",
        updated.rendering()
    );
    assert!(pins(&project).contains(&actual));
    assert_said!(refused);
}

// --- the runtime client -------------------------------------------------------------------------

const CLIENT: [(&str, &str); 3] = [
    ("awslambdaric", "4.2.2"),
    ("simplejson", "4.3.0"),
    ("snapshot_restore_py", "1.0.0"),
];

#[test]
fn the_runtime_client_comes_from_the_lock() {
    let (index, project) = (Index::start(), Project::with_handler());
    for (name, version) in CLIENT {
        index.serve(&Wheel::pure(name, version));
    }
    let base = Base::bare("3.12").reference();
    let run = |verb: &str, flags: &[&str]| {
        let arguments = [&[verb, "--base", &base, "--glibc", "2.36"], flags].concat();
        project.lambimg(arguments).index(&index.url())
    };
    run("lock", &[]).succeed();
    let before = pins(&project);
    let lock = table(&project);
    let client = &lock["runtime-client"][0];
    let wheels = client.get("wheels").unwrap_or_else(|| panic!("{client}"));
    let names = wheels.as_array().unwrap().iter();
    let names: Vec<_> = names.map(|wheel| wheel["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["awslambdaric", "simplejson", "snapshot-restore-py"]);

    // With an empty store and nobody who could resolve, each wheel is fetched and no page is asked for.
    fs::remove_dir_all(project.cache()).unwrap();
    let asked = index.requests().len();
    let build = || run("build", &["--locked"]).env("PATH", "/nonexistent");
    let first = build().succeed();
    let asked = index.requests().split_off(asked);
    assert_eq!(asked.len(), CLIENT.len(), "{asked:?}");
    assert!(
        asked.iter().all(|path| path.starts_with("/files/")),
        "{asked:?}"
    );
    assert_eq!(build().succeed(), first);
    assert_eq!(pins(&project), before);

    edit(&project, "4.2.2\"", "4.2.1\"");
    let checksum = table(&project)["runtime-client"][0]["checksum"].clone();
    edit(
        &project,
        checksum.as_str().unwrap(),
        &digest(b"other lines"),
    );
    let stale = expect_failure(REFUSED, build().run());
    let updated = run("build", &[]).run();
    assert!(
        updated.stderr.contains("was made from other requirements"),
        "{}",
        updated.rendering()
    );
    assert_eq!(pins(&project), before);
    let none = run("build", &["--locked", "--arch", "arm64"]).run();
    let none = expect_failure(REFUSED, none);
    assert!(
        none.stderr.contains("does not have the runtime client"),
        "{}",
        none.rendering()
    );
    assert_said!(stale);
}

/// Paths in a lock are meant from its project, whoever reads it from where.
#[test]
fn a_runtime_client_of_a_directory_is_found_from_the_project() {
    let project = Project::with_handler();
    let links = project.beside("links");
    fs::create_dir(&links).unwrap();
    for (name, version) in CLIENT {
        let wheel = Wheel::pure(name, version);
        fs::write(links.join(wheel.file_name()), wheel.bytes()).unwrap();
    }
    let base = Base::bare("3.12").reference();
    let run = |verb: &str, flags: &[&str], from: &Path| {
        let mut lambimg = Command::new(env!("CARGO_BIN_EXE_lambimg"));
        lambimg.args([
            verb,
            "--base",
            &base,
            "--glibc",
            "2.36",
            "--resolver",
            "pip",
        ]);
        lambimg.args(flags).arg(project.path()).current_dir(from);
        let run = project.run_by(lambimg).no_index();
        let run = run.env("UV_NO_INDEX", "1").env("PIP_NO_INDEX", "1");
        let links = links.to_str().unwrap();
        run.env("UV_FIND_LINKS", links).env("PIP_FIND_LINKS", links)
    };
    run("lock", &[], &project.path()).succeed();
    let lock = table(&project);
    let client = &lock["runtime-client"][0];
    let wheels = client.get("wheels").unwrap_or_else(|| panic!("{client}"));
    for wheel in wheels.as_array().unwrap() {
        let path = wheel.get("path").unwrap_or_else(|| panic!("{wheel}"));
        let path = path.as_str().unwrap();
        assert!(path.starts_with("../links/"), "{path}");
    }
    let first = run("build", &["--locked"], &project.path()).succeed();
    fs::remove_dir_all(project.cache()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(
        run("build", &["--locked"], elsewhere.path()).succeed(),
        first
    );
}

// --- what is built from sources -----------------------------------------------------------------

const BACKEND: &str = r#"
import os, zipfile
def build_wheel(out, config_settings=None, metadata_directory=None):
    information = "lower-1.0.dist-info/"
    when = 1980 + int(os.environ["SOURCE_DATE_EPOCH"]) % 7
    with zipfile.ZipFile(os.path.join(out, "lower-1.0-py3-none-any.whl"), "w") as wheel:
        def add(name, text):
            wheel.writestr(zipfile.ZipInfo(name, (when, 1, 1, 0, 0, 0)), text)
        add("lower/__init__.py", os.environ.get("CFLAGS", ""))
        add(information + "METADATA", "Metadata-Version: 2.1\nName: lower\nVersion: 1.0\n")
        add(information + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        add(information + "RECORD", "")
    return "lower-1.0-py3-none-any.whl"
"#;

/// A lock of another tool with a source distribution in it, which comes out as CFLAGS say.
fn sdist(project: &Project) {
    let directory = project.beside("lower-1.0");
    fs::create_dir(&directory).unwrap();
    let system =
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    fs::write(directory.join("pyproject.toml"), system).unwrap();
    fs::write(directory.join("backend.py"), BACKEND).unwrap();
    let archive = project.path().join("lower-1.0.tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["-C", directory.parent().unwrap().to_str().unwrap(), "-czf"]);
    tar.args([archive.to_str().unwrap(), "lower-1.0"]);
    assert!(tar.status().unwrap().success());
    let hash = digest(&fs::read(&archive).unwrap()).replace("sha256:", "");
    project.file(
        "pylock.toml",
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"test\"\n[[packages]]\nname = \"lower\"\nversion = \"1.0\"\n\
             sdist = {{ path = \"lower-1.0.tar.gz\", hashes = {{ sha256 = \"{hash}\" }} }}\n"
        ),
    );
}

#[test]
fn what_is_built_is_locked_by_what_is_in_it() {
    let shop = Shop::open();
    sdist(&shop.project);
    let flags = ["--build", "lower"];
    let locked = [&flags[..], &["--locked"]].concat();
    let lacks = {
        let list = shop.registry.manifest("lambda/python", "3.12").unwrap();
        let base = format!("{}@{}", shop.base, digest(&list));
        let arguments = [&["build", "--base", &base][..], &locked].concat();
        expect_failure(REFUSED, shop.project.lambimg(arguments).run())
    };
    let said = shop.run("lock", &flags).run();
    assert_eq!(said.code, Some(0), "{}", said.rendering());
    assert!(
        said.stderr.contains("packages stay as "),
        "{}",
        said.rendering()
    );
    let first = shop.built(&locked);
    fs::remove_dir_all(shop.project.cache()).unwrap();
    assert_eq!(shop.built(&locked), first);
    // Another date is in the wheel, but not in what it holds.
    let dated = shop
        .run("build", &locked)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    dated.succeed();

    fs::remove_dir_all(shop.project.cache()).unwrap();
    let other = |flags: &[&str]| shop.run("build", flags).env("CFLAGS", "-O0");
    let refused = expect_failure(REFUSED, other(&locked).run());
    let updated = other(&flags).run();
    assert!(
        updated.stderr.contains("came out otherwise"),
        "{}",
        updated.rendering()
    );
    other(&locked).succeed();
    assert_said!(refused);
    assert!(
        lacks.stderr.contains("the wheel built of `lower`"),
        "{}",
        lacks.rendering()
    );
}

// --- refusals of --locked -----------------------------------------------------------------------

#[test]
fn locked_without_a_lock_of_the_base() {
    let shop = Shop::open();
    let outcome = expect_failure(REFUSED, shop.run("build", &["--locked"]).run());
    assert!(!shop.project.path().join("lambimg.lock").exists());
    assert_said!(outcome);
}

#[test]
fn locked_without_an_entry() {
    let shop = Shop::open();
    shop.built(&[]);
    let before = pins(&shop.project);
    let other = Base::aws("3.12").reference();
    let build = ["build", "--base", &other, "--locked"];
    let outcome = expect_failure(REFUSED, shop.project.lambimg(build).run());
    assert_eq!(pins(&shop.project), before);
    assert_said!(outcome);
}

#[test]
fn locked_with_other_formats() {
    let shop = Shop::open();
    shop.built(&[]);
    let before = pins(&shop.project);
    edit(&shop.project, "formats = \"layer", "formats = \"paper");
    let outcome = expect_failure(REFUSED, shop.run("build", &["--locked"]).run());
    let updated = shop.run("build", &[]).run();
    let told = "lambimg.lock: its formats were another version's";
    assert!(updated.stderr.contains(told), "{}", updated.rendering());
    assert_eq!(pins(&shop.project), before);
    let mut settings = outcome.settings();
    settings.add_filter(r"`paper [^`]*`", "`[other formats]`");
    settings.add_filter(r"`layer \d[^`]*`", "`[formats]`");
    settings.bind(|| insta::assert_snapshot!(outcome.rendering()));
}

#[test]
fn locked_with_a_base_of_another_reference() {
    let shop = Shop::open();
    shop.built(&[]);
    let base = table(&shop.project)["base"][0].clone();
    let checksum = base["checksum"].as_str().unwrap();
    edit(&shop.project, checksum, &digest(b"another reference"));
    let outcome = expect_failure(REFUSED, shop.run("build", &["--locked"]).run());
    assert_said!(outcome);
}

/// A registry may forget what no tag names.
#[test]
fn a_pinned_base_is_gone() {
    let shop = Shop::open();
    shop.built(&[]);
    let base = table(&shop.project)["base"][0].clone();
    for name in ["x86_64", "arm64"] {
        let pinned = base["digests"][name].as_str().unwrap();
        edit(&shop.project, pinned, &digest(name.as_bytes()));
    }
    let outcome = expect_failure(NETWORK, shop.run("build", &[]).run());
    assert_said!(outcome);
}

// --- what is no lock ----------------------------------------------------------------------------

#[test]
fn an_unknown_key_in_the_lock() {
    let shop = Shop::open();
    shop.built(&[]);
    edit(
        &shop.project,
        "[[base]]\n",
        "[[base]]\nplatform = \"linux\"\n",
    );
    let outcome = expect_failure(USAGE, shop.run("build", &[]).run());
    assert_said!(outcome);
}

#[test]
fn a_merge_conflict_in_the_lock() {
    let shop = Shop::open();
    shop.built(&[]);
    edit(&shop.project, "[[base]]\n", "<<<<<<< HEAD\n[[base]]\n");
    for verb in ["build", "lock"] {
        let outcome = expect_failure(USAGE, shop.run(verb, &[]).run());
        assert_said!(outcome);
    }
}

// --- lambimg outdated ---------------------------------------------------------------------------

#[test]
fn outdated_compares_the_lock_with_the_registry() {
    let shop = Shop::open();
    // Not the code of a newer base.
    let none = expect_failure(USAGE, shop.run("outdated", &[]).run());
    shop.built(&[]);
    let before = pins(&shop.project);
    let current = shop.run("outdated", &[]).run();
    assert_eq!(current.code, Some(0), "{}", current.rendering());
    shop.move_tag();
    let newer = shop.run("outdated", &["--arch", "arm64"]).run();
    assert_eq!(newer.code, Some(REFUSED), "{}", newer.rendering());
    let json = shop.run("outdated", &["--format", "json"]).run();
    assert_eq!(json.code, Some(REFUSED), "{}", json.rendering());
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["outdated"], json!(true));
    assert_eq!(value["current"]["created"], json!("2026-11-20T00:00:00Z"));
    let pinned = table(&shop.project)["base"][0]["digests"]["x86_64"].clone();
    assert_eq!(value["pinned"]["digest"].as_str(), pinned.as_str());
    assert_eq!(pins(&shop.project), before, "nothing is changed");
    for (name, outcome) in [
        ("none", none),
        ("current", current),
        ("newer", newer),
        ("json", json),
    ] {
        let said = outcome.settings();
        said.bind(|| insta::assert_snapshot!(format!("outdated_{name}"), outcome.rendering()));
    }
}

/// Of these what is named by a tag in a registry, each once.
#[test]
fn outdated_asks_for_images_of_extensions() {
    let shop = Shop::open();
    let registry = Registry::start();
    let mut tree = Tree::default();
    tree.file("opt/extensions/watcher", "#!/bin/sh\n", 0o755);
    let tag = base::of_tree(&registry, &tree);
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let by_digest = format!("{tag}@{}", digest(&list));
    let settings = format!(
        "[tool.lambimg]\npython = '3.12'\nhandler = 'app.handler'\nextensions = [{{ image = '{tag}' }},\n\
         {{ image = '{by_digest}' }}, {{ image = '{tag}', path = '/opt/extensions', to = '/opt/more' }}]\n"
    );
    shop.project.file("pyproject.toml", settings);
    let none = expect_failure(USAGE, shop.run("outdated", &[]).run());
    shop.run("lock", &[]).succeed();
    let before = pins(&shop.project);
    let current = shop.run("outdated", &[]).run();
    assert_eq!(current.code, Some(0), "{}", current.rendering());
    tree.file("opt/extensions/other", "#!/bin/sh\n", 0o755);
    base::of_tree(&registry, &tree);
    let newer = shop.run("outdated", &["--arch", "arm64"]).run();
    assert_eq!(newer.code, Some(REFUSED), "{}", newer.rendering());
    let json = |flags: &[&str]| {
        let outcome = shop
            .run("outdated", &[&["--format", "json"], flags].concat())
            .run();
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()
    };
    let value = json(&[]);
    assert_eq!(value["outdated"], json!(false));
    let extensions = value["extensions"].as_array().unwrap();
    assert_eq!(extensions.len(), 1);
    assert_eq!(extensions[0]["reference"], json!(tag));
    assert_eq!(extensions[0]["outdated"], json!(true));
    let pinned = table(&shop.project)["extension"].as_array().unwrap()[0].clone();
    assert_eq!(
        extensions[0]["pinned"]["digest"].as_str(),
        pinned["digests"][extensions[0]["architecture"].as_str().unwrap()].as_str()
    );
    // A base that has nothing to ask does not stand in their way.
    let own = shop
        .project
        .lambimg(["outdated", "--base", "host", "--format", "json"]);
    let own: Value = serde_json::from_str(&own.run().stdout).unwrap();
    assert_eq!(own, json!({"extensions": extensions}));
    assert_eq!(pins(&shop.project), before, "nothing is changed");
    for (name, outcome) in [("none", none), ("current", current), ("newer", newer)] {
        let said = outcome.settings();
        said.bind(|| {
            insta::assert_snapshot!(format!("outdated_extensions_{name}"), outcome.rendering());
        });
    }
}

#[test]
fn nothing_to_ask_for_a_newer_base() {
    let project = Project::with_handler();
    let layout = format!("oci:{}", Path::new("image").display());
    let by_digest = format!("r.test/base:1@{}", digest(b"base"));
    let said: Vec<_> = ["host", &layout, &by_digest]
        .into_iter()
        .map(|base| {
            let outcome = project.lambimg(["outdated", "--base", base]).run();
            expect_failure(USAGE, outcome).rendering()
        })
        .collect();
    let outcome = project.lambimg(["outdated", "--base", "host"]).run();
    outcome
        .settings()
        .bind(|| insta::assert_snapshot!(said.join("\n")));
}
