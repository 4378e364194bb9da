//! The reader against locks that poetry 1.1, 1.8 and 2.5 wrote, and against what their own export says of them.

use super::*;
use crate::python::Machine;
use crate::python::lock::Wanted;
use crate::python::lock::tests::plain;
use crate::python::requirement::Requirement;
use crate::python::tests::target;
use proptest::prelude::*;

const LOCKS: [(&str, &str, &str); 4] = [
    (
        "poetry-1.1",
        include_str!("../fixtures/poetry-1.1.lock"),
        include_str!("../fixtures/poetry-1.1.toml"),
    ),
    (
        "poetry-1.8",
        include_str!("../fixtures/poetry-1.8.lock"),
        include_str!("../fixtures/poetry-1.8.toml"),
    ),
    (
        "poetry-2",
        include_str!("../fixtures/poetry-2.lock"),
        include_str!("../fixtures/poetry-2.toml"),
    ),
    (
        "poetry-2-project",
        include_str!("../fixtures/poetry-2-project.lock"),
        include_str!("../fixtures/poetry-2-project.toml"),
    ),
];
/// Under `== LOCK EXTRAS : GROUPS` what `poetry export` prints.
const EXPORTS: &str = include_str!("../fixtures/poetry-exports.txt");

fn lock_of(name: &str) -> (&'static str, &'static str) {
    let found = LOCKS.iter().find(|(own, _, _)| *own == name);
    found.map(|(_, lock, project)| (*lock, *project)).unwrap()
}

fn wanted(extras: &str, groups: &str) -> Wanted {
    let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    Wanted {
        extras: names(extras),
        groups: names(groups),
    }
}

fn read(
    (lock, project): (&str, &str),
    target: Target,
    wanted: &Wanted,
) -> Result<Vec<Entry>, Error> {
    let request = Request {
        wanted,
        pyproject: Some(project),
        ..plain(target)
    };
    entries(lock, &request)
}

fn lambda() -> Target {
    target("3.12", Machine::X86_64, "2.34")
}

/// The names of an export that are meant for a target, with their versions where it gives them.
fn exported(text: &str, target: Target) -> BTreeMap<String, Option<String>> {
    let markers = Markers::new(target);
    let mut names = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with("--")) {
        let line = match line.strip_prefix("-e file:///tmp/fixture/") {
            Some(name) => name,
            None => line,
        };
        let Some(requirement) = Requirement::parse(line) else {
            assert_eq!(line, "");
            continue;
        };
        let marker = requirement
            .marker
            .unwrap_or("os_name == 'posix'".to_owned());
        if markers.hold(&marker).unwrap() {
            let version = requirement.specifiers.strip_prefix("==").map(str::to_owned);
            assert!(names.insert(requirement.name, version).is_none(), "{line}");
        }
    }
    names
}

#[test]
fn entries_are_what_poetry_exports() {
    let targets = [
        ("3.9", Machine::Aarch64, "2.26"),
        ("3.11", Machine::X86_64, "2.26"),
        ("3.12", Machine::X86_64, "2.34"),
        ("3.13", Machine::Aarch64, "2.34"),
    ];
    for export in EXPORTS.split("== poetry").skip(1) {
        let (heading, lines) = export.split_once('\n').unwrap();
        let (name, asked) = heading.split_once(' ').unwrap();
        let (extras, groups) = asked.split_once(':').unwrap();
        for (python, machine, glibc) in targets {
            let target = target(python, machine, glibc);
            let lock = lock_of(&format!("poetry{name}"));
            let entries = read(lock, target, &wanted(extras, groups)).unwrap();
            let own: BTreeMap<_, _> = entries.iter().map(|e| (e.name.clone(), e)).collect();
            assert_eq!(own.len(), entries.len(), "{heading} {target}");
            let exported = exported(lines, target);
            let missing: Vec<_> = exported.keys().filter(|n| !own.contains_key(*n)).collect();
            // Poetry 1.1 exports it for exceptiongroup's sake alone, though anyio requires it up to 3.12.
            let forgotten = |n: &str| name == "-1.1" && n == "typing-extensions";
            let surplus: Vec<_> = own
                .keys()
                .filter(|n| !exported.contains_key(*n) && !forgotten(n))
                .collect();
            assert!(
                missing.is_empty() && surplus.is_empty(),
                "{heading}, {target}: without {missing:?}, with {surplus:?}"
            );
            for (name, version) in exported {
                let same = version.is_none() || own[&name].version == version;
                assert!(same, "{heading}, {target}: {name}");
            }
        }
    }
}

#[test]
fn several_packages_of_a_name_are_told_apart() {
    // `poetry export` 1.8 gives up on this one; its installer takes what the main group asks for.
    let all = wanted("aws fast-http", "dev worker");
    let entries = read(lock_of("poetry-1.8"), lambda(), &all).unwrap();
    let names = entries.iter().map(|entry| {
        let users: Vec<&str> = entry.required_by.iter().map(String::as_str).collect();
        let version = entry.version.as_deref().unwrap_or_default();
        format!("{} {version} {}", entry.name, users.join(" "))
    });
    let names: Vec<String> = names.collect();
    insta::assert_snapshot!(names.join("\n"), @"
    anyio 4.12.1 httpx
    attrs 26.1.0 
    backoff 2.2.1 
    certifi 2026.10.18 httpcore httpx
    click 8.1.8 
    h11 0.16.0 httpcore
    h2 4.3.0 
    hpack 4.1.0 h2
    httpcore 1.0.9 httpx
    httpx 0.27.2 
    hyperframe 6.1.0 h2
    idna 3.20 anyio httpx
    iniconfig 2.0.0 
    itsdangerous 2.2.0 tools-kit
    jmespath 1.1.0 
    packaging 24.1 
    pluggy 1.6.0 
    shared 1.2.0 
    six 1.16.0 
    sniffio 1.3.1 httpx
    socksio 1.0.0 httpx
    tenacity 9.2.1 
    toml 0.10.2 shared
    tools-kit 0.3 
    typing-extensions 4.16.0 anyio
    webencodings 0.5.1 shared
    zipp 3.23.1 shared
    ");
}

#[test]
fn sources_are_read() {
    for name in ["poetry-1.8", "poetry-2"] {
        let entries = read(lock_of(name), lambda(), &wanted("", "")).unwrap();
        let shown = entries.iter().filter(|entry| {
            [
                "iniconfig",
                "packaging",
                "shared",
                "six",
                "tools-kit",
                "zipp",
            ]
            .contains(&entry.name.as_str())
        });
        let shown: Vec<String> = shown.map(|entry| format!("{entry:?}")).collect();
        let shown = shown.join("\n");
        if name == "poetry-1.8" {
            insta::assert_snapshot!(shown, @r#"
            Entry { name: "iniconfig", version: Some("2.0.0"), requires_python: Some(">=3.7"), wheels: [File { name: None, location: Some(Path("wheels/iniconfig-2.0.0-py3-none-any.whl")), size: None, hashes: {"sha256": "b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374"} }], source: None, hashes: {}, index: None, required_by: {}, first_party: true }
            Entry { name: "packaging", version: Some("24.1"), requires_python: Some(">=3.8"), wheels: [File { name: Some("packaging-24.1-py3-none-any.whl"), location: None, size: None, hashes: {"sha256": "5b8f2217dbdbd2f7f384c41c628544e6d52f2d0f53c6d0c3ea61aa5d1d7ff124"} }], source: Some(Archive { file: File { name: Some("packaging-24.1.tar.gz"), location: None, size: None, hashes: {"sha256": "026ed72c8ed3fcce5bf8950572258698927fd1dbda10a5e981cdf0ac37f4f002"} }, subdirectory: None }), hashes: {}, index: Some(Url { scheme: "https", cannot_be_a_base: false, username: "", password: None, host: Some(Domain("pypi.org")), port: None, path: "/simple", query: None, fragment: None }), required_by: {}, first_party: false }
            Entry { name: "shared", version: Some("1.2.0"), requires_python: Some(">=3.9, <4"), wheels: [], source: Some(Directory("../shared")), hashes: {}, index: None, required_by: {}, first_party: false }
            Entry { name: "six", version: Some("1.16.0"), requires_python: Some(">=2.7, !=3.0.*, !=3.1.*, !=3.2.*"), wheels: [File { name: None, location: Some(Url(Url { scheme: "https", cannot_be_a_base: false, username: "", password: None, host: Some(Domain("files.pythonhosted.org")), port: None, path: "/packages/d9/5a/e7c31adbe875f2abbb91bd84cf2dc52d792b5a01506781dbcf25c91daf11/six-1.16.0-py2.py3-none-any.whl", query: None, fragment: None })), size: None, hashes: {"sha256": "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"} }], source: None, hashes: {}, index: None, required_by: {}, first_party: false }
            Entry { name: "tools-kit", version: Some("0.3"), requires_python: Some(">=3.8"), wheels: [], source: Some(Repository { url: "file:///tmp/fixture/tools-repo", commit: "6ce0a5326a421fee2ada9cea7870da6ae1f011a4", subdirectory: Some("sub") }), hashes: {}, index: None, required_by: {}, first_party: false }
            Entry { name: "zipp", version: Some("3.23.1"), requires_python: Some(">=3.9"), wheels: [File { name: Some("zipp-3.23.1-py3-none-any.whl"), location: None, size: None, hashes: {"sha256": "0b3596c50a5c700c9cb40ba8d86d9f2cc4807e9bedb06bcdf7fac85633e444dc"} }], source: Some(Archive { file: File { name: Some("zipp-3.23.1.tar.gz"), location: None, size: None, hashes: {"sha256": "32120e378d32cd9714ad503c1d024619063ec28aad2248dc6672ad13edfa5110"} }, subdirectory: None }), hashes: {}, index: None, required_by: {"shared"}, first_party: false }
            "#);
        } else {
            let files = ["wheels/iniconfig-2.0.0-py3-none-any.whl", "../shared"];
            assert!(files.iter().all(|file| shown.contains(file)));
        }
    }
}

#[test]
fn what_does_not_fit_the_project_is_refused() {
    let refusal = |lock: &str, project: Option<&str>, wanted: &Wanted, python: &str| {
        let request = Request {
            wanted,
            pyproject: project,
            ..plain(target(python, Machine::X86_64, "2.26"))
        };
        entries(lock, &request).unwrap_err().to_string()
    };
    let none = wanted("", "");
    let (old, project) = lock_of("poetry-1.8");
    let (new, other) = lock_of("poetry-2");
    let more = project.replace("click = \"^8.1\"", "click = \"^8.1\"\nRuamel_Yaml = \"*\"");
    let refused = [
        refusal(old, Some(project), &wanted("aw", ""), "3.12"),
        refusal(new, Some(other), &wanted("", "work"), "3.12"),
        refusal(new, None, &wanted("", "work"), "3.12"),
        refusal(old, Some(project), &none, "3.8"),
        refusal(old, None, &none, "3.12"),
        refusal(old, Some(&more), &none, "3.12"),
        refusal(new, Some(&more), &none, "3.12"),
        refusal(
            &old.replace("\"socksio\"", "\"sock\""),
            Some(project),
            &none,
            "3.12",
        ),
        refusal(
            &old.replace("\"2.0\"", "\"3.0\""),
            Some(project),
            &none,
            "3.12",
        ),
        refusal("[[package]", Some(project), &none, "3.12"),
        refusal(old, Some("[tool"), &none, "3.12"),
        refusal(
            old,
            Some(&project.replace("<3.12", "<three")),
            &none,
            "3.12",
        ),
        refusal(
            &new.replace("sys_platform ==", "sys_platform ~="),
            None,
            &none,
            "3.12",
        ),
    ];
    insta::assert_snapshot!(refused.join("\n"), @"
    the project has no extra `aw`, only aws, fast-http
    the project has no dependency group `work`, only dev, worker
    the project has no dependency group `work`, only dev, worker
    the lock requires Python ^3.9, which 3.8.20 is not
    `poetry.lock` does not say what the project itself asks for, and there is no pyproject.toml
    `poetry.lock` has no `ruamel-yaml`, which pyproject.toml asks for
    `poetry.lock` has no `ruamel-yaml`, which pyproject.toml asks for
    `poetry.lock` has no `socksio`, which httpx asks for
    `poetry.lock` is of version `3.0`, not 1.x or 2.x
    `poetry.lock` cannot be read
    `pyproject.toml` cannot be read
    `<three` of `attrs` is no version constraint
    package `backoff` cannot be read
    ");
    // What is asked for elsewhere alone, or is the project itself, need not be there.
    let fine = more.replace(
        "Yaml = \"*\"",
        "Yaml = {version = \"*\", platform = \"win32\"}",
    );
    assert!(read((old, &fine), lambda(), &none).is_ok());
    let fine = more.replace("Ruamel_Yaml", "orders");
    assert!(read((new, &fine), lambda(), &none).is_ok());
}

#[test]
fn extras_of_a_package_may_ask_for_others_of_its_own() {
    let lock = "
[[package]]
name = \"a\"
version = \"1\"
python-versions = \"*\"
[package.dependencies]
b = {version = \"*\", optional = true}
a = {version = \"*\", extras = [\"one\"], optional = true, markers = \"extra == 'all'\"}
setuptools = \"*\"
project = \"*\"
[package.extras]
one = [\"b (>=1)\"]
all = [\"A[one]\"]
[[package]]
name = \"b\"
version = \"1\"
[package.source]
type = \"directory\"
url = \".\"
[metadata]
lock-version = \"1.0\"
python-versions = \"*\"
[metadata.files]
a = [{file = \"a-1.tar.gz\", hash = \"sha256:00\"}, {file = \"a-1.zip\", hash = \"sha256:00\"}, {file = \"a-1.egg\", hash = \"sha256:00\"}]
";
    let asks = |extra: &str| {
        format!(
            "[tool.poetry]\nname = \"project\"\n[tool.poetry.dependencies]\na = {{version = \"*\", extras = [{extra}]}}\n"
        )
    };
    let of = |lock: &str, extra: &str| {
        let entries = read((lock, &asks(extra)), lambda(), &wanted("", "")).unwrap();
        let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        names.join(" ")
    };
    assert_eq!(of(lock, ""), "a");
    let elsewhere = lock.replace("url = \".\"", "url = \"../b\"");
    assert_eq!(of(&elsewhere, ""), "a");
    assert_eq!(of(&elsewhere, "\"one\""), "a b");
    assert_eq!(of(&elsewhere, "\"all\""), "a b");
    // The directory of the lock is the project.
    assert_eq!(of(lock, "\"all\""), "a");
}

proptest! {
    #[test]
    fn any_change_is_read_or_refused(which in 0usize..4, at in 0usize..30_000, text in "[\"\\[\\]{}=\n0-9a-z.,%é^~|*-]{0,8}", cut in 0usize..60) {
        let (_, lock, project) = LOCKS[which];
        let change = |text: &str, at: usize, with: &str| {
            let boundary = |at: usize| (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap();
            let start = boundary(at % text.len());
            let end = boundary((start + cut).min(text.len()));
            format!("{}{with}{}", &text[..start], &text[end..])
        };
        let all = wanted("aws", "worker");
        let _ = read((&change(lock, at, &text), project), lambda(), &all);
        let _ = read((lock, &change(project, at, &text)), lambda(), &wanted("", ""));
    }
}
