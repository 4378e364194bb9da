//! uv's own answer beside ours: what `uv export` says that a lock wants on a target.
//!
//! Here the library is asked itself, for the command shows what was chosen and not what was wanted.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use lambimg::python::Target;
use lambimg::python::lock::Request;
use lambimg::python::lock::Source;
use lambimg::python::lock::Wanted;
use lambimg::python::lock::uv;

use crate::support::index::Index;
use crate::support::project::Project;
use crate::support::python;
use crate::support::tool;
use crate::support::wheel::Wheel;

/// A project of a workspace, and what is wanted of it.
struct Case {
    member: &'static str,
    extras: &'static [&'static str],
    groups: &'static [&'static str],
}

const ROOT: &str = r#"
[project]
name = "Root.Project"
version = "1"
requires-python = ">=3.10"
dependencies = ["upper[fast]", "member ; python_version > '3'", "forked", "windows; sys_platform == 'win32'"]
[project.optional-dependencies]
old = ["lower<2"]
new = ["lower>=2"]
both = ["root-project[new, more]"]
more = ["extra-one >= 1.0"]
empty = []
[dependency-groups]
dev = ["tool", { include-group = "lint" }]
lint = ["linter"]
a = ["forked<2"]
[tool.uv]
conflicts = [[{ extra = "old" }, { extra = "new" }, { extra = "both" }], [{ group = "a" }, { group = "dev" }]]
[tool.uv.sources]
member = { workspace = true }
[tool.uv.workspace]
members = ["packages/*"]
"#;

const MEMBER: &str = r#"
[project]
name = "member"
version = "1"
requires-python = ">=3.10"
dependencies = ["lower", "other"]
[project.optional-dependencies]
x = ["extra-one"]
[build-system]
requires = ["backend"]
build-backend = "backend"
[tool.uv.sources]
other = { workspace = true }
"#;

const OTHER: &str = r#"
[project]
name = "other"
version = "1"
requires-python = ">=3.10"
dependencies = ["arm ; platform_machine == 'aarch64'", "member[x]", "upper; python_version < '3.12'"]
[tool.uv.sources]
member = { workspace = true }
"#;

fn served() -> Index {
    let index = Index::start();
    for wheel in [
        Wheel::pure("upper", "1.0")
            .provides_extra("fast")
            .requires("lower")
            .requires("speed ; extra == 'fast'")
            .requires("linter ; extra == 'slow'"),
        Wheel::pure("lower", "1.5"),
        Wheel::pure("lower", "2.5").requires("forked"),
        Wheel::pure("speed", "1.0").requires("older ; python_version < '3.12'"),
        Wheel::pure("older", "1.0").requires("speed"),
        Wheel::pure("forked", "1.0"),
        Wheel::pure("forked", "2.0").requires_python(">=3.11"),
        Wheel::pure("forked", "3.0").requires_python(">=3.13"),
        Wheel::pure("windows", "1.0"),
        Wheel::pure("arm", "1.0"),
        Wheel::pure("extra_one", "1.2"),
        Wheel::pure("tool", "1.0").requires("upper"),
        Wheel::pure("linter", "1.0"),
    ] {
        index.serve(&wheel);
    }
    index
}

#[test]
fn the_same_is_wanted_as_by_uv() {
    let index = served();
    let project = Project::new();
    project.file("pyproject.toml", ROOT);
    project.file("packages/member/pyproject.toml", MEMBER);
    project.file("packages/other/pyproject.toml", OTHER);
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(tool("uv"));
        command.args(arguments).args(["--quiet", "--python"]);
        command.arg(python("3.12"));
        project.run_by(command).index(&index.url()).succeed()
    };
    ask(&["lock"]);
    let cases = [
        ("", &[][..], &[][..]),
        ("", &["old"], &["a"]),
        ("", &["new", "empty"], &["dev"]),
        ("", &["both"], &["lint"]),
        ("", &["more"], &[]),
        ("packages/member", &["x"], &[]),
        ("packages/member", &[], &[]),
        ("packages/other", &[], &[]),
    ];
    for (member, extras, groups) in cases {
        let case = Case {
            member,
            extras,
            groups,
        };
        let requirements = ask(&case.export());
        for (version, machine) in [
            ("3.10", "x86_64"),
            ("3.12", "x86_64"),
            ("3.12", "aarch64"),
            ("3.13", "aarch64"),
        ] {
            // Versions that are exact and without their own dependencies: all that is left are the markers.
            project.file("exported.txt", from_index(&requirements));
            let platform = format!("{machine}-manylinux_2_34");
            let theirs = ask(&[
                "pip",
                "compile",
                "exported.txt",
                "--no-deps",
                "--no-header",
                "--no-annotate",
                "--python-version",
                version,
                "--python-platform",
                &platform,
            ]);
            let theirs: BTreeSet<&str> = theirs.lines().collect();
            let ours = case.read(&project.path(), version, machine);
            let ours: BTreeSet<&str> = ours.iter().map(String::as_str).collect();
            assert_eq!(
                ours, theirs,
                "{member} {extras:?} {groups:?} {version} {machine}"
            );
        }
    }
}

/// Without the workspace's own projects, which have no version to pin.
fn from_index(requirements: &str) -> String {
    let lines = requirements.lines().filter(|line| line.contains("=="));
    lines.collect::<Vec<_>>().join("\n")
}

impl Case {
    fn export(&self) -> Vec<&str> {
        let mut arguments = vec![
            "export",
            "--frozen",
            "--no-hashes",
            "--no-emit-workspace",
            "--no-header",
            "--no-annotate",
            "--no-default-groups",
            "--package",
            match self.member {
                "" => "root-project",
                path => path.trim_start_matches("packages/"),
            },
        ];
        arguments.extend(self.extras.iter().flat_map(|extra| ["--extra", extra]));
        arguments.extend(self.groups.iter().flat_map(|group| ["--group", group]));
        arguments
    }

    /// What our reader says is wanted, the workspace's own projects aside.
    fn read(&self, directory: &Path, version: &str, machine: &str) -> Vec<String> {
        let text = std::fs::read_to_string(directory.join("uv.lock")).unwrap();
        let pyproject = directory.join(self.member).join("pyproject.toml");
        let pyproject = std::fs::read_to_string(pyproject).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Wanted {
            extras: names(self.extras),
            groups: names(self.groups),
        };
        let request = Request {
            target: Target::new(
                version.parse().unwrap(),
                machine.parse().unwrap(),
                "2.34".parse().unwrap(),
            ),
            wanted: &wanted,
            pyproject: Some(&pyproject),
            member: Path::new(self.member),
        };
        let entries = uv::entries(&text, &request).unwrap().into_iter();
        let from_index = entries.filter(|e| !matches!(e.source, Some(Source::Directory(_))));
        from_index
            .map(|entry| format!("{}=={}", entry.name, entry.version.unwrap()))
            .collect()
    }
}
