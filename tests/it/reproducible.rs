//! The same digest everywhere: one project is built again and again, each time with one thing about the
//! machine changed, and at last with all of them; what it gives is held against one build on this machine.
//!
//! Bytecode is on, the locks are the same, and each build starts with an empty cache where nothing else is said.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;

use crate::support::archive::Tree;
use crate::support::base::Base;
use crate::support::base::of_tree;
use crate::support::cpython::Cpython;
use crate::support::emulator::Root;
use crate::support::image::Image;
use crate::support::image::files_of;
use crate::support::index::Index;
use crate::support::is_root;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::python;
use crate::support::python_directories;
use crate::support::registry::Registry;
use crate::support::tools;
use crate::support::wheel::Wheel;

const LAMBIMG: &str = env!("CARGO_BIN_EXE_lambimg");
const LOCKS: [&str; 2] = ["pylock.toml", "lambimg.lock"];

/// The function: path, text, and whether it may be executed.
const FILES: [(&str, &str, bool); 8] = [
    (
        "app.py",
        "import upper\ndef handler(event, context):\n    return {'a', 'b', None}\n",
        false,
    ),
    ("broken.py", "def\n", false),
    ("assets/words.txt", "eins zwei drei\n", false),
    ("assets/tool.sh", "#!/bin/sh\nexit 0\n", true),
    ("lib/__init__.py", "", false),
    (
        "lib/one.py",
        "NAMES = {'one', 'two', 'three', None}\n",
        false,
    ),
    ("lib/two.py", "from lib.one import NAMES\n", false),
    ("lib/Zoë.txt", "Zoë\n", false),
];

/// What all builds have in common, and what the first of them gave.
struct Shop {
    index: Index,
    _registry: Registry,
    bases: [String; 2],
    locks: [Vec<u8>; 2],
    digests: Vec<String>,
}

/// One base in Lambda's shape, and one without runtime client.
fn shop() -> &'static Shop {
    static SHOP: OnceLock<Shop> = OnceLock::new();
    SHOP.get_or_init(|| {
        let (index, registry) = (index(), Registry::start());
        let mut tree = Tree::default();
        tree.file("etc/os-release", "ID=\"some\"\n", 0o644);
        let bases = [of_tree(&registry, &tree), Base::bare("3.12").reference()];
        let project = unlocked();
        for base in &bases {
            let lock = project.lambimg(["lock", "--base", base]);
            with_bytecode(lock, &index).succeed();
        }
        let locks = LOCKS.map(|name| fs::read(project.path().join(name)).unwrap());
        let build = |base: &String| {
            let (layout, told) = (project.beside("image"), project.beside("told.json"));
            let _ = fs::remove_dir_all(&layout);
            let output = format!("oci:{}", layout.display());
            let told = told.to_str().unwrap();
            let own = ["-o", &output, "--metadata-file", told];
            let command = building(base, &Way::default(), &own);
            let printed = with_bytecode(project.run_by(command), &index).succeed();
            assert_has_everything(&Image::in_directory(&layout), Path::new(told));
            printed
        };
        let digests = bases.iter().map(build).collect();
        Shop {
            index,
            _registry: registry,
            bases,
            locks,
            digests,
        }
    })
}

/// That there is something in the image that could differ.
fn assert_has_everything(image: &Image, told: &Path) {
    image.assert_accepted_by_lambda();
    let files = image.files_below("var/task");
    for path in [
        "__pycache__/app.cpython-312.pyc",
        "bin/upper",
        "lib/__pycache__/one.cpython-312.pyc",
        "lib/Zoë.txt",
        "lower/data.bin",
        "shared/__pycache__/__init__.cpython-312.pyc",
    ] {
        assert!(files.contains_key(path), "{path}: {:?}", files.keys());
    }
    assert_eq!(files["shared/__init__.py"].content, b"WHO = 'upper'\n");
    let told: Value = serde_json::from_slice(&fs::read(told).unwrap()).unwrap();
    assert_eq!(told["bytecode"]["failed"], 2, "{}", told["bytecode"]);
    let layers = told["layers"].as_array().unwrap();
    let of_wheels = |layer: &&Value| layer["what"].as_str().unwrap().contains("dependencies");
    assert!(layers.iter().filter(of_wheels).count() > 1, "{told}");
}

fn modules(wheel: Wheel) -> Wheel {
    let name = wheel.name().to_owned();
    let module = |number: usize| {
        format!(
            "def f(x, *, k='{name}'):\n    return x in {{'a', None, {number}}} and ('{name}', {number}.5)\n"
        )
    };
    (0..12).fold(wheel, |wheel, number| {
        wheel.member(&format!("{name}/m{number}.py"), module(number))
    })
}

/// Packages that bring the same path, a script, data, a file that does not compile, and something large; and the
/// runtime client, reduced to its names.
fn index() -> Index {
    let index = Index::start();
    let noise = (0..150_000_u32).map(|n| n.wrapping_mul(n).to_le_bytes()[1]);
    let words = "many words ".repeat(100_000).into_bytes();
    let size = u32::try_from(words.len()).unwrap();
    let lower = Wheel::pure("lower", "1.5")
        .member("lower/data.bin", noise.collect::<Vec<_>>())
        .member("lower/old.py", "print 'two'\n")
        .member("shared/__init__.py", "WHO = 'lower'\n")
        .member("lower-1.5.data/scripts/lower", "#!python\nimport lower\n")
        .member("lower-1.5.data/data/etc/lower.conf", "a = 1\n");
    let upper = Wheel::pure("upper", "2.0")
        .requires("lower>=1")
        .requires("large")
        .script("upper = upper:main")
        .member("shared/__init__.py", "WHO = 'upper'\n");
    // More than a megabyte makes a layer of its own.
    let large = Wheel::pure("large", "3.1").member("large/stored.txt", words.clone());
    let large = large.deflated("large/words.txt", words, size);
    for wheel in [lower, upper, large] {
        index.serve(&modules(wheel));
    }
    for (name, version) in [
        ("awslambdaric", "4.2.2"),
        ("simplejson", "4.3.0"),
        ("snapshot_restore_py", "1.0.0"),
    ] {
        index.serve(&Wheel::pure(name, version));
    }
    index
}

// --- builds -------------------------------------------------------------------------------------

/// How a build is run: by what command, with what flags and variables beside the usual ones.
#[derive(Default)]
struct Way<'w> {
    before: &'w [&'w str],
    flags: &'w [&'w str],
    variables: &'w [(&'w str, &'w str)],
}

/// The project as it comes out of a repository, with its locks.
fn project() -> Project {
    let project = unlocked();
    lock(&project);
    project
}

fn lock(project: &Project) {
    for (name, content) in LOCKS.iter().zip(&shop().locks) {
        project.file(name, content);
    }
}

fn unlocked() -> Project {
    let project = Project::with_handler();
    fill(&project, FILES.iter(), 0o644);
    project
}

/// Makes the files in this order and with this mode, to which a program's has more.
fn fill<'f>(
    project: &Project,
    files: impl Iterator<Item = &'f (&'f str, &'f str, bool)>,
    mode: u32,
) {
    project.file("requirements.txt", "upper\n");
    for (path, text, executable) in files {
        project.file(path, text);
        let mode = if *executable { mode | 0o100 } else { mode };
        let path = project.path().join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn building(base: &str, way: &Way, flags: &[&str]) -> Command {
    let words = [
        way.before,
        &[LAMBIMG, "build", "--base", base, "-t", "some:1"],
        flags,
        way.flags,
    ]
    .concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn with_bytecode<'p>(run: Run<'p>, index: &Index) -> Run<'p> {
    run.index(&index.url()).env("LAMBIMG_BYTECODE", "true")
}

/// What is printed of the image on one base.
fn digest(project: &Project, base: &str, way: &Way, flags: &[&str]) -> String {
    let command = building(base, way, flags);
    let run = with_bytecode(project.run_by(command), &shop().index);
    let variables = way.variables.iter();
    let run = variables.fold(run, |run, (name, value)| run.env(name, value));
    run.succeed()
}

/// The digests on both bases, by the locks.
fn digests(project: &Project, way: &Way) -> Vec<String> {
    let bases = shop().bases.iter();
    bases
        .map(|base| digest(project, base, way, &["--locked"]))
        .collect()
}

/// A build of the project in this way gives what the first gave.
fn assert_same(project: &Project, way: &Way) {
    let found = digests(project, way);
    assert_eq!(found, shop().digests, "{:?} {:?}", way.before, way.flags);
}

fn forget(project: &Project) {
    // There may be none yet.
    let _ = fs::remove_dir_all(project.cache());
}

// --- one thing at a time ------------------------------------------------------------------------

#[test]
fn umask_and_modes_of_files() {
    for (umask, mode) in [("000", 0o666), ("077", 0o600), ("027", 0o640)] {
        let project = Project::with_handler();
        fill(&project, FILES.iter(), mode);
        lock(&project);
        let script = format!("umask {umask}; exec \"$@\"");
        let before = ["sh", "-c", &script, "sh"];
        let way = Way {
            before: &before,
            ..Way::default()
        };
        assert_same(&project, &way);
    }
}

/// The second is no file of the time zone database, which not every machine has.
#[test]
fn time_zone() {
    for zone in ["Asia/Kathmandu", "XYZ-14:37", "ABC+11"] {
        let variables = [("TZ", zone)];
        let way = Way {
            variables: &variables,
            ..Way::default()
        };
        assert_same(&project(), &way);
    }
}

/// With locks, and where pip resolves under it.
#[test]
fn locale() {
    let way = |variables| Way {
        variables,
        ..Way::default()
    };
    assert_same(&project(), &way(&[("LC_ALL", "C")]));
    assert_same(&project(), &way(&[("LC_ALL", "C.UTF-8"), ("LANG", "C")]));
    assert_same(&project(), &way(&[("LANG", "tr_TR.UTF-8")]));
    let (python, system) = (python_directories()["3.12"].display(), "/usr/bin:/bin");
    let path = format!("{python}:{system}");
    let variables = [("LC_ALL", "tr_TR.ISO-8859-9"), ("PATH", path.as_str())];
    let found = digest(&unlocked(), &shop().bases[0], &way(&variables), &[]);
    assert_eq!(found, shop().digests[0]);
}

/// `faketime` moves the wall clock of all that it starts; files have times of their own.
#[test]
fn clock_and_times_of_files() {
    let faketime = program("faketime", "faketime");
    for (number, time) in ["1999-12-31 23:59:58", "2051-03-04 05:06:07"]
        .iter()
        .enumerate()
    {
        let before = [
            faketime.to_str().unwrap(),
            "--exclude-monotonic",
            "-f",
            &format!("@{time}"),
        ];
        let mut date = Command::new(before[0]);
        let year = run(date.args(&before[1..]).args(["date", "+%Y"]));
        assert_eq!(year.trim(), &time[..4]);
        let project = project();
        age(&project.path(), 1 + number as u64);
        let way = Way {
            before: &before,
            ..Way::default()
        };
        assert_same(&project, &way);
        // What the command says of the day is of that clock: it is not only the shell that was deceived.
        let state = state_of_python(&before, &project);
        let expected = ["supported", "deprecated"][number];
        assert!(state.contains(expected), "{state}");
    }
}

/// What is told of the runtime, which depends on the day.
fn state_of_python(before: &[&str], project: &Project) -> String {
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).args([LAMBIMG, "bases"]);
    let bases = project.run_by(command).succeed();
    let line = bases.lines().find(|line| line.starts_with("python3.12"));
    line.unwrap().to_owned()
}

/// Gives every file a time of its own.
fn age(directory: &Path, factor: u64) {
    for (place, entry) in fs::read_dir(directory).unwrap().enumerate() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, factor);
        }
        let seconds = 1_000_000_000 * factor + 86_400 * place as u64;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(&path).unwrap().set_modified(time).unwrap();
    }
}

/// In a user namespace process and files are another's, to all that can be asked; root can also become another.
#[test]
fn user() {
    let namespace = |arguments: &[&str]| {
        let before = [&["unshare"], arguments, &["--"]].concat();
        let variables = [("USER", "other"), ("LOGNAME", "other")];
        let way = Way {
            before: &before,
            variables: &variables,
            ..Way::default()
        };
        assert_same(&project(), &way);
    };
    namespace(&["--map-root-user"]);
    namespace(&["--map-user=4242", "--map-group=4343"]);
    if is_root() {
        let project = project();
        let mut chown = Command::new("chown");
        run(chown.args(["-R", "4242:4343"]).arg(project.beside("")));
        // Command and interpreter may lie where only their owner gets; nothing is written there.
        let before = [
            "setpriv",
            "--reuid=4242",
            "--regid=4343",
            "--clear-groups",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
            "sh",
            "-c",
            "[ $(id -u) = 4242 ] && exec \"$@\"",
            "sh",
        ];
        let way = Way {
            before: &before,
            variables: &[("USER", "other")],
            ..Way::default()
        };
        assert_same(&project, &way);
    }
}

#[test]
fn path_of_the_project() {
    let project = project();
    let deep = format!("a/{}/some place/Zoë", "very-long-name".repeat(9));
    for place in ["p", &deep, "node_modules/.git/__pycache__"] {
        let place = project.beside(place);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        crate::support::project::copy_directory(&project.path(), &place);
        forget(&project);
        let change = ["sh", "-c", "cd \"$0\" && exec \"$@\""];
        let way = Way {
            before: &[&change[..], &[place.to_str().unwrap()]].concat(),
            ..Way::default()
        };
        assert_same(&project, &way);
    }
}

/// Files made in the opposite order, and all on another kind of file system, which lists them otherwise.
#[test]
fn file_system() {
    const ON_TMPFS: &str = "set -e\n\
        from=$PWD\n\
        mount -t tmpfs tmpfs \"$0\"\n\
        find . -type f | LC_ALL=C sort -r | while read -r path; do\n\
        \x20   mkdir -p \"$0/project/${path%/*}\"; cp \"$path\" \"$0/project/$path\"\n\
        done\n\
        cd \"$0/project\"\n\
        [ \"$(stat -f -c %T .)\" = tmpfs ]\n\
        find . -type f > \"$from/../listed\"\n\
        export LAMBIMG_CACHE_DIR=\"$0/cache\" TMPDIR=\"$0\"\n\
        exec \"$@\"\n";
    let backwards = Project::with_handler();
    fill(&backwards, FILES.iter().rev(), 0o644);
    lock(&backwards);
    assert_same(&backwards, &Way::default());

    let project = project();
    let place = project.beside("tmpfs");
    fs::create_dir(&place).unwrap();
    let before = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        ON_TMPFS,
    ];
    let way = Way {
        before: &[&before[..], &[place.to_str().unwrap()]].concat(),
        ..Way::default()
    };
    assert_same(&project, &way);
    let mut find = Command::new("find");
    let listed = run(find.args([".", "-type", "f"]).current_dir(project.path()));
    let there = fs::read_to_string(project.beside("listed")).unwrap();
    assert_ne!(listed, there, "both list in the same order");
    assert_eq!(listed.lines().count(), there.lines().count());
}

/// As many processes compile as there are processors, and which of them has which file is chance.
#[test]
fn processors_and_order_of_compiling() {
    let before = ["taskset", "-c", "0"];
    let one = Way {
        before: &before,
        variables: &[("PYTHONHASHSEED", "7"), ("TOKIO_WORKER_THREADS", "1")],
        ..Way::default()
    };
    assert_same(&project(), &one);
    let anew = Way {
        flags: &["--no-cache"],
        ..Way::default()
    };
    let project = project();
    for _ in 0..3 {
        assert_same(&project, &anew);
    }
    // The store knows the bytecode of one package already.
    let small = Project::with_handler();
    small.file("requirements.txt", "lower\n");
    let way = Way::default();
    digest(&small, &shop().bases[0], &way, &[]);
    let cache = small.cache();
    let way = Way {
        variables: &[("LAMBIMG_CACHE_DIR", cache.to_str().unwrap())],
        ..Way::default()
    };
    assert_same(&self::project(), &way);
}

#[test]
fn cache() {
    let project = project();
    let way = Way::default();
    // Empty, then warm.
    assert_same(&project, &way);
    assert_same(&project, &way);
    let count = || files_of(&project.cache().join("blobs")).len();
    let whole = count();
    project.lambimg(["cache", "prune", "--layers"]).succeed();
    assert!(count() < whole, "made layers are gone");
    assert_same(&project, &way);
    assert_same(
        &project,
        &Way {
            flags: &["--no-cache"],
            ..Way::default()
        },
    );
}

#[test]
fn layers_taken_over_from_a_registry() {
    let (project, registry) = (project(), Registry::start());
    for (base, expected) in shop().bases.iter().zip(&shop().digests) {
        let name = registry.name("some:1");
        let way = Way::default();
        let made = project.beside("made.json");
        digest(&project, base, &way, &["--locked", "--push", "-t", &name]);
        forget(&project);
        let flags = ["--locked", "--cache-from", &name, "--metadata-file"];
        let flags = [&flags[..], &[made.to_str().unwrap()]].concat();
        assert_eq!(&digest(&project, base, &way, &flags), expected);
        let made: Value = serde_json::from_slice(&fs::read(made).unwrap()).unwrap();
        let layers = made["layers"].as_array().unwrap();
        let taken = layers.iter().filter(|layer| !layer["taken_from"].is_null());
        assert!(taken.count() > 2, "{made}");
        forget(&project);
    }
}

/// By the locks nobody is asked who could resolve. Without, both say the same.
#[test]
fn resolver() {
    let python = tempfile::tempdir().unwrap();
    python_elsewhere(python.path());
    let without_pip = python.path().join("bin");
    let joined = |directories: &[&Path]| {
        let path = std::env::join_paths(directories).unwrap();
        path.into_string().unwrap()
    };
    let uv = joined(&[&tools(), &without_pip]);
    let pip = joined(&[&python_directories()["3.12"]]);
    let neither = joined(&[&without_pip]);
    let resolved = |path: &str| {
        let variables = [("PATH", path)];
        let way = Way {
            variables: &variables,
            ..Way::default()
        };
        assert_same(&project(), &way);
        let command = building(&shop().bases[0], &way, &[]);
        let project = unlocked();
        let run = with_bytecode(project.run_by(command), &shop().index);
        run.env("PATH", path).run()
    };
    for path in [&uv, &pip] {
        let outcome = resolved(path);
        assert_eq!(outcome.stdout, shop().digests[0], "{}", outcome.rendering());
    }
    let outcome = resolved(&neither);
    assert_ne!(outcome.code, Some(0), "{}", outcome.rendering());
}

/// The same version: copied, behind a link of a virtual environment, behind a shim.
#[test]
fn interpreter_elsewhere() {
    let project = project();
    let copied = python_elsewhere(&project.beside("a python"));
    let environment = project.beside("environment");
    let mut venv = Command::new(python("3.12"));
    run(venv.args(["-m", "venv", "--without-pip"]).arg(&environment));
    let shim = project.beside("shim");
    let script = format!("#!/bin/sh\nexec '{}' \"$@\"\n", copied.display());
    fs::write(&shim, script).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    for interpreter in [copied, environment.join("bin/python"), shim] {
        forget(&project);
        let flags = ["--interpreter", interpreter.to_str().unwrap()];
        let way = Way {
            flags: &flags,
            ..Way::default()
        };
        assert_same(&project, &way);
    }
}

/// A copy of CPython 3.12 that says it lives here, without pip.
fn python_elsewhere(directory: &Path) -> PathBuf {
    let cpython = Cpython::find("3.12");
    let minor = &cpython.minor;
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::create_dir_all(directory.join("lib")).unwrap();
    let executable = directory.join(format!("bin/python{minor}"));
    fs::copy(&cpython.executable, &executable).unwrap();
    let mut copy = Command::new("sh");
    copy.args(["-c", "tar -cf - --exclude=site-packages --exclude=dist-packages --exclude=__pycache__ --exclude=./test --exclude=ensurepip . | tar -xf - -C \"$0\""]);
    let library = directory.join(format!("lib/python{minor}"));
    fs::create_dir(&library).unwrap();
    run(copy.arg(&library).current_dir(&cpython.standard_library));
    let mut ask = Command::new(&executable);
    let ask = ask.args([
        "-I",
        "-B",
        "-c",
        "import os, sys; print(os.__file__); import pip",
    ]);
    let answer = ask.output().unwrap();
    let told = String::from_utf8(answer.stdout).unwrap();
    assert!(Path::new(told.trim()).starts_with(directory), "{told}");
    assert!(!answer.status.success(), "it has pip");
    executable
}

// --- everything at once -------------------------------------------------------------------------

/// A root directory in which nothing is but a Python, the command and the project: another path, user, home, host
/// name, clock, time zone, locale, mask, file system, processors, place of the interpreter, and no resolver.
#[test]
fn everything_at_once() {
    const ENTER: &str = "set -e\n\
        root=$0\n\
        hostname elsewhere\n\
        mount --bind \"$root\" \"$root\"\n\
        mount --rbind /dev \"$root/dev\"\n\
        mount -t tmpfs -o mode=1777 tmpfs \"$root/tmp\"\n\
        mkdir -m 777 \"$root/tmp/cache\" \"$root/tmp/home\"\n\
        find . -type f | LC_ALL=C sort -r | while read -r path; do\n\
        \x20   mkdir -p \"$root/tmp/src/function/${path%/*}\"; cp \"$path\" \"$root/tmp/src/function/$path\"\n\
        done\n\
        umask 077\n\
        exec env -i PATH=/usr/local/bin:/usr/bin HOME=/tmp/home TZ=XYZ-14 LC_ALL=tr_TR USER=who \\\n\
        \x20   LAMBIMG_CACHE_DIR=/tmp/cache LAMBIMG_BYTECODE=true NO_PROXY=127.0.0.1 \\\n\
        \x20   LD_PRELOAD=/usr/lib/libfaketime.so.1 FAKETIME='@2051-03-04 05:06:07' FAKETIME_DONT_FAKE_MONOTONIC=1 \\\n\
        \x20   \"$@\"\n";
    let root = Root::pull(&Base::bare("3.12").reference());
    let place = root.path();
    for directory in ["tmp", "dev"] {
        fs::create_dir_all(place.join(directory)).unwrap();
    }
    fs::copy(LAMBIMG, place.join("usr/bin/lambimg")).unwrap();
    let ask = "dpkg -L libfaketime | grep '/libfaketime.so.1$'";
    let found = run(Command::new("sh").args(["-c", ask]));
    fs::copy(found.trim(), place.join("usr/lib/libfaketime.so.1")).unwrap();
    let unshare = program("unshare", "util-linux");
    let (unshare, place) = (unshare.to_str().unwrap(), place.to_str().unwrap());
    let map: &[&str] = if is_root() { &[] } else { &["--map-root-user"] };
    let become_other: &[&str] = if is_root() {
        &["--setuid=993", "--setgid=990"]
    } else {
        &[]
    };
    let before = [
        &["taskset", "-c", "0", unshare, "--mount", "--uts"],
        map,
        &["sh", "-c", ENTER, place, unshare],
        become_other,
        &["--root", place, "--wd", "/tmp/src/function"],
    ]
    .concat();
    let project = project();
    let inside = |arguments: &[&str]| {
        let mut command = Command::new(before[0]);
        command.args(&before[1..]).arg("/usr/bin/lambimg");
        command.args(arguments);
        project.run_by(command).succeed()
    };
    assert!(
        inside(&["bases"])
            .lines()
            .all(|line| !line.contains("supported"))
    );
    let bases = shop().bases.iter();
    let found = bases.map(|base| inside(&["build", "--locked", "--base", base, "-t", "some:1"]));
    assert_eq!(found.collect::<Vec<_>>(), shop().digests);
}

// --- what does change it ------------------------------------------------------------------------

/// Every date of ours is the one that `SOURCE_DATE_EPOCH` says, and another gives another image.
#[test]
fn source_date_epoch() {
    let dated = |epoch: &str| {
        let project = project();
        let layout = project.beside("image");
        let output = format!("oci:{}", layout.display());
        let variables = [("SOURCE_DATE_EPOCH", epoch)];
        let way = Way {
            variables: &variables,
            ..Way::default()
        };
        let base = &shop().bases[0];
        let printed = digest(&project, base, &way, &["--locked", "-o", &output]);
        (printed, Image::in_directory(&layout))
    };
    let (first, image) = dated("1700000000");
    assert_eq!(first, dated("1700000000").0);
    assert_ne!(first, dated("1700000001").0);
    assert_ne!(first, shop().digests[0]);
    image.assert_accepted_by_lambda();
    let date = "2023-11-14T22:13:20Z";
    assert_eq!(image.config["created"], date);
    let history = image.config["history"].as_array().unwrap();
    let ours = history.iter().skip(1);
    assert!(ours.clone().count() > 2);
    for entry in ours {
        assert_eq!(entry["created"], date, "{entry}");
    }
    for layer in 1..image.layers.len() {
        for entry in image.entries(layer) {
            let time = entry.header.mtime().unwrap();
            assert_eq!(time, 1_700_000_000, "{}", entry.path);
        }
        // Nor does the compressed file's own header say another.
        assert_eq!(image.layers[layer][4..8], [0; 4]);
    }
    // Without, it is the first that an archive of zip can say.
    assert_eq!(dated("315532800").0, shop().digests[0]);
}

#[test]
fn a_changed_byte_or_mode() {
    let project = project();
    let base = &shop().bases[0];
    let built = || digest(&project, base, &Way::default(), &["--locked"]);
    let path = project.path().join("lib/one.py");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let executable = built();
    assert_ne!(executable, shop().digests[0]);
    project.file("lib/one.py", "NAME = 'changed'\n");
    assert_ne!(built(), executable);
}
