//! `lambimg lock`: what is asked of uv and pip, which versions stay, and that both come to the same.
//!
//! Real requirement sets are resolved against the real index, for no index of ours has its oddities.

use std::collections::BTreeMap;
use std::fs;

use crate::support::architecture;
use crate::support::base::Base;
use crate::support::index::Index;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::wheel::Wheel;

const USAGE: i32 = 2;
const NOT_BUILDABLE: i32 = 3;
const RESOLVERS: [&str; 2] = ["uv", "pip"];

/// `lock` for this Python's own base, resolved by that resolver.
fn lock<'project>(
    project: &'project Project,
    python_version: &str,
    resolver: &str,
    flags: &[&str],
) -> Run<'project> {
    let base = Base::aws(python_version).reference();
    let arch = architecture();
    let mut arguments = vec!["lock", "--base", &base, "--python", python_version];
    arguments.extend(["--arch", arch, "--resolver", resolver]);
    arguments.extend(flags);
    let run = project.lambimg(arguments);
    let directory = python(python_version).parent().unwrap().to_owned();
    let tools = crate::support::tool("uv").parent().unwrap().to_owned();
    let path = std::env::join_paths([directory, tools, "/usr/bin".into(), "/bin".into()]);
    run.env("PATH", path.unwrap())
}

/// Name and version of each package of the project's lock; nothing for one that has none.
fn versions(project: &Project) -> BTreeMap<String, String> {
    let text = fs::read_to_string(project.path().join("pylock.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let packages = table["packages"].as_array().unwrap().iter();
    let text = |value: Option<&toml::Value>| {
        let text = value.and_then(toml::Value::as_str).unwrap_or_default();
        text.to_owned()
    };
    packages
        .map(|package| (text(package.get("name")), text(package.get("version"))))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
        .collect()
}

fn expect_failure(code: i32, outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    outcome
}

// --- versions -----------------------------------------------------------------------------------

#[test]
fn versions_stay_until_they_are_to_be_upgraded() {
    for resolver in RESOLVERS {
        let (index, project) = (Index::start(), Project::with_handler());
        let lock = |flags: &[&str]| {
            let said = lock(&project, "3.12", resolver, flags).index(&index.url());
            let directory = project.path().canonicalize().unwrap();
            let paths = ["pylock.toml", "lambimg.lock"].map(|name| directory.join(name));
            let [packages, rest] = paths.map(|path| path.display().to_string());
            assert_eq!(said.succeed(), format!("{packages}\n{rest}\n"));
            versions(&project)
        };
        for name in ["first", "second"] {
            index.serve(&Wheel::pure(name, "1.0"));
        }
        project.file("requirements.txt", "first\nsecond\n");
        assert_eq!(lock(&[]), pairs(&[("first", "1.0"), ("second", "1.0")]));
        let written = fs::read(project.path().join("pylock.toml")).unwrap();

        for name in ["first", "second", "third"] {
            index.serve(&Wheel::pure(name, "1.1"));
        }
        lock(&[]);
        let kept = fs::read(project.path().join("pylock.toml")).unwrap();
        assert_eq!(kept, written, "a lock that stands is left as it is");

        project.file("requirements.txt", "first\nsecond\nthird\n");
        let added = [("first", "1.0"), ("second", "1.0"), ("third", "1.1")];
        assert_eq!(lock(&[]), pairs(&added), "{resolver}");
        let one = [("first", "1.0"), ("second", "1.1"), ("third", "1.1")];
        assert_eq!(
            lock(&["--upgrade-package", "Second"]),
            pairs(&one),
            "{resolver}"
        );
        let all = [("first", "1.1"), ("second", "1.1"), ("third", "1.1")];
        assert_eq!(lock(&["--upgrade"]), pairs(&all), "{resolver}");

        let flags = ["--upgrade-package", "nowhere"];
        let said = self::lock(&project, "3.12", resolver, &flags);
        let said = said.index(&index.url()).run().stderr;
        let told = "warning: nowhere is to be upgraded, but ";
        assert!(said.contains(told), "{said}");

        // What can no longer be kept goes.
        project.file("requirements.txt", "first<1.1\nsecond\n");
        let back = [("first", "1.0"), ("second", "1.1")];
        assert_eq!(lock(&[]), pairs(&back), "{resolver}");
    }
}

#[test]
fn what_is_not_ours_to_lock() {
    let (index, project) = (Index::start(), Project::with_handler());
    let run = |flags: &[&str]| {
        let run = lock(&project, "3.12", "uv", flags);
        run.index(&index.url()).run()
    };
    let pins = project.path().canonicalize().unwrap().join("lambimg.lock");
    let path = format!("{}\n", pins.display());
    let nothing = run(&[]);
    assert_eq!(nothing.stdout, path, "{}", nothing.rendering());
    let one = ["--upgrade-package", "some"];
    let nothing = expect_failure(USAGE, run(&one));
    assert!(nothing.stderr.contains("no requirements to lock"));
    let foreign = "lock-version = \"1.0\"\ncreated-by = \"another\"\npackages = []\n";
    project.file("pylock.toml", foreign);
    project.file("requirements.txt", "");
    let others = run(&["--upgrade"]);
    assert_eq!(others.stdout, path, "{}", others.rendering());
    assert!(
        others.stderr.contains("packages stay as "),
        "{}",
        others.rendering()
    );
    let outcome = expect_failure(USAGE, run(&one));
    let kept = fs::read_to_string(project.path().join("pylock.toml")).unwrap();
    assert_eq!(kept, foreign);
    assert_eq!(index.requests(), Vec::<String>::new());
    assert_said!(outcome);
}

// --- what a requirements file may say -----------------------------------------------------------

/// uv joins no lines within a requirement, and `--pre` and `--prefer-binary` it passes over with a warning.
#[test]
fn both_read_what_a_requirements_file_may_say() {
    for resolver in RESOLVERS {
        let (index, project) = (Index::start(), Project::with_handler());
        let wheel = Wheel::pure("found", "2.0");
        let by_path = Wheel::pure("by_path", "3.0");
        project.file(&format!("links/{}", wheel.file_name()), wheel.bytes());
        project.file(&format!("wheels/{}", by_path.file_name()), by_path.bytes());
        index.serve(&Wheel::pure("pinned", "1.0"));
        index.serve(&Wheel::pure("pinned", "2.0"));
        index.serve(&Wheel::pure("early", "1.0a1"));
        let library = "[project]\nname = \"library\"\nversion = \"1\"\ndynamic = [\"dependencies\"]\n\
                       [build-system]\nrequires = [\"backend\"]\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
        let backend = "def get_requires_for_build_wheel(settings=None): return []\n\
                       get_requires_for_build_editable = get_requires_for_build_wheel\n\
                       def prepare_metadata_for_build_wheel(directory, settings=None):\n    \
                       import os\n    os.mkdir(directory + '/library-1.dist-info')\n    \
                       open(directory + '/library-1.dist-info/METADATA', 'w').write('Metadata-Version: 2.1\\nName: library\\nVersion: 1\\nRequires-Dist: early>=1.0a1\\n')\n    \
                       return 'library-1.dist-info'\n\
                       prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel\n\
                       def build_wheel(*a): raise SystemExit(3)\nbuild_editable = build_wheel\n";
        project.file(
            "library/pyproject.toml",
            library.replace("requires = [\"backend\"]", "requires = []"),
        );
        project.file("library/backend.py", backend);
        project.file("needs/pins.txt", "pinned<2\n");
        project.file("needs/more.txt", "-c pins.txt\npinned\n");
        let text = format!(
            "# a comment \\\n--find-links ./${{LINKS}}\n-r needs/more.txt\n\
             -e ./library\nfound ; python_version >= '3.12'\n\
             ./wheels/{}\nabsent ; sys_platform == 'win32'\n",
            by_path.file_name()
        );
        project.file("requirements.txt", text);
        let run = lock(&project, "3.12", resolver, &[]).index(&index.url());
        run.env("LINKS", "links").succeed();
        let mut found = versions(&project);
        let library = found.remove("library");
        assert!(library.is_some(), "{resolver}: {found:?}");
        let expected = [
            ("by-path", "3.0"),
            ("early", "1.0a1"),
            ("found", "2.0"),
            ("pinned", "1.0"),
        ];
        assert_eq!(found, pairs(&expected), "{resolver}");
        let text = fs::read_to_string(project.path().join("pylock.toml")).unwrap();
        for place in ["path = \"library\"", "path = \"links/", "path = \"wheels/"] {
            assert!(text.contains(place), "{resolver}: {place} in {text}");
        }
        assert!(!text.contains("file:"), "{text}");
    }
}

/// `docopt` has never had a wheel.
#[test]
fn what_has_no_wheel_is_built_only_where_that_is_allowed() {
    for resolver in RESOLVERS {
        let project = Project::with_handler();
        project.file("requirements.txt", "docopt==0.6.2\nsix==1.16.0\n");
        let refused = lock(&project, "3.12", resolver, &[]).run();
        let refused = expect_failure(NOT_BUILDABLE, refused);
        assert!(refused.stderr.contains("docopt"), "{}", refused.rendering());
        assert!(!project.path().join("pylock.toml").exists());
        let flags = ["--build", "docopt", "--build", "six"];
        lock(&project, "3.12", resolver, &flags).succeed();
        let text = fs::read_to_string(project.path().join("pylock.toml")).unwrap();
        let docopt = "49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491";
        assert!(text.contains("sdist = ") && text.contains(docopt), "{text}");
        assert!(
            text.contains("six-1.16.0-py2.py3-none-any.whl"),
            "what has a wheel is not built: {text}"
        );
    }
}

// --- the real index -----------------------------------------------------------------------------

/// The lock's files by package: of each all that there are to choose from.
fn same_from_both(python_version: &str, requirements: &str) {
    let [by_uv, by_pip] = RESOLVERS.map(|resolver| {
        let project = Project::with_handler();
        project.file("requirements.txt", requirements);
        lock(&project, python_version, resolver, &[]).succeed();
        let text = fs::read_to_string(project.path().join("pylock.toml")).unwrap();
        (versions(&project), text)
    });
    assert_eq!(by_uv.0, by_pip.0, "{requirements}");
    for line in by_pip.1.lines().filter(|line| line.starts_with("wheels")) {
        let url = line.split('"').nth(1).unwrap();
        assert!(by_uv.1.contains(url), "uv has not {url}");
    }
}

#[test]
fn uv_and_pip_come_to_the_same() {
    for requirements in [
        "pandas\npyarrow\n",
        "fastapi\nuvicorn[standard]\ncryptography\n",
        "aws-lambda-powertools[all]\n",
        "opentelemetry-instrumentation-flask\nsqlalchemy[asyncio]\n",
    ] {
        same_from_both("3.12", requirements);
    }
}

/// The glibc of Amazon Linux 2 lies between two of uv's levels.
#[test]
fn between_two_levels_of_uv_too() {
    same_from_both("3.11", "pandas\nscipy\npyzmq\n");
}
