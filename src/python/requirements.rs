//! Requirements: what a lock is made from, and what they ask for by name.
//!
//! Follows pip's requirements file format as far as these two questions go: logical lines, comments,
//! and the files that `-r` and `-c` include. What a line means is the resolver's to say, and what the
//! network holds behind a URL, or a variable of the environment, is not read. What a `pyproject.toml`
//! asks for is gathered from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hasher};
use crate::http::{self, Secret};
use crate::python::lock::{Location, Wanted};
use crate::python::markers::Markers;
use crate::python::pyproject::{self, Pyproject};
use crate::python::{Target, WheelFilename, normalize_name};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirements {
    /// A requirements file.
    File(PathBuf),
    /// The lines of one, and the directory that relative paths in them start from.
    Lines {
        /// The lines.
        text: String,
        /// The directory.
        directory: PathBuf,
    },
    /// What a project says in its `pyproject.toml`.
    Project {
        /// The `pyproject.toml`.
        pyproject: PathBuf,
        /// Which of its extras and groups are wanted, beside what it always needs.
        wanted: Wanted,
    },
}

impl Requirements {
    /// The directory that a lock's relative paths start from: the lock has to lie there.
    pub fn directory(&self) -> &Path {
        match self {
            Self::File(path)
            | Self::Project {
                pyproject: path, ..
            } => match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            },
            Self::Lines { directory, .. } => directory,
        }
    }
}

impl fmt::Display for Requirements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path)
            | Self::Project {
                pyproject: path, ..
            } => path.display().fmt(f),
            Self::Lines { text, .. } => f.write_str(&text.lines().collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Why it is not known what is asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A requirements file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A project does not say it, or asks for something else.
    #[error("`{}`: {source}", path.display())]
    Project {
        /// Its `pyproject.toml`.
        path: PathBuf,
        /// Why.
        source: pyproject::Error,
    },
}

/// What decides a lock, as far as files say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// Checksum of all lines with those of included files; comments and blank lines do not count.
    pub checksum: Digest,
    /// Normal names of what is asked for itself, constraints aside.
    pub requested: BTreeSet<String>,
    /// For those that `--hash=sha256:…` binds, by normal name, the hashes that a file may have. uv does not
    /// look at them when it resolves, so whoever uses the answer has to.
    pub hashes: BTreeMap<String, BTreeSet<Digest>>,
    /// The URLs that may say who the user is, as written: those of indexes, and those with a name in them.
    pub urls: Vec<Secret>,
    /// Normal names of the projects in directories of this machine that are asked for, as far as their
    /// `pyproject.toml` says them.
    pub directories: BTreeSet<String>,
    /// The lines themselves with those of included files in their places; an include stays where it is of the
    /// network.
    pub lines: Vec<Line>,
}

/// Reads requirements and the files that they include.
///
/// # Errors
/// When a file cannot be read, or a project is for another Python or has no such extra or group.
pub fn read(requirements: &Requirements, target: Target) -> Result<Inputs, Error> {
    let mut reader = Reader {
        hasher: Hasher::default(),
        markers: Markers::new(target),
        requested: BTreeSet::new(),
        hashes: BTreeMap::new(),
        urls: Vec::new(),
        directories: BTreeSet::new(),
        lines: Vec::new(),
        visited: BTreeSet::new(),
    };
    match requirements {
        Requirements::File(path) => reader.file(path, Part::Requirements)?,
        Requirements::Lines { text, directory } => {
            reader.lines(text, directory, Part::Requirements)?;
        }
        Requirements::Project { pyproject, wanted } => {
            reader.project(pyproject, wanted, target)?;
        }
    }
    Ok(Inputs {
        checksum: reader.hasher.finish(),
        requested: reader.requested,
        hashes: reader.hashes,
        lines: reader.lines,
        urls: reader.urls,
        directories: reader.directories,
    })
}

/// Reads the `pyproject.toml` at `path`.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read_project(path: &Path) -> Result<Pyproject, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    text.parse().map_err(|source| Error::Project {
        path: path.to_owned(),
        source,
    })
}

/// A logical line, without its comment.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    /// What it says.
    pub text: String,
    /// What it is.
    pub part: Part,
}

/// A line may say who the user is.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.part, http::redact_text(&self.text))
    }
}

/// What the lines of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What is asked for.
    Requirements,
    /// What holds for it if it is asked for.
    Constraints,
}

struct Reader {
    hasher: Hasher,
    markers: Markers,
    requested: BTreeSet<String>,
    hashes: BTreeMap<String, BTreeSet<Digest>>,
    urls: Vec<Secret>,
    directories: BTreeSet<String>,
    lines: Vec<Line>,
    visited: BTreeSet<(PathBuf, Part)>,
}

impl Reader {
    fn project(&mut self, path: &Path, wanted: &Wanted, target: Target) -> Result<(), Error> {
        let project = read_project(path)?;
        let error = |source| Error::Project {
            path: path.to_owned(),
            source,
        };
        project.check_python(target).map_err(error)?;
        let lines = project.lines(wanted, &self.markers).map_err(error)?;
        self.hasher.field("project");
        self.hasher.field(project.requires_python().unwrap_or("*"));
        self.hasher.field(project.uv_settings());
        if let Some(fields) = project.dynamic() {
            // Who knows what a backend looks at; these are what it mostly does.
            self.hasher.field(fields);
            let beside = |name: &str| fs::read(path.with_file_name(name)).unwrap_or_default();
            for name in [
                "pyproject.toml",
                "setup.cfg",
                "setup.py",
                "requirements.txt",
            ] {
                self.hasher.field(beside(name));
            }
            for name in wanted.extras.iter().chain(&wanted.groups) {
                self.hasher.field(name);
            }
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        self.lines(&lines.join("\n"), directory, Part::Requirements)
    }

    fn file(&mut self, path: &Path, part: Part) -> Result<(), Error> {
        let error = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let canonical = path.canonicalize().map_err(error)?;
        if !self.visited.insert((canonical, part)) {
            return Ok(());
        }
        let bytes = fs::read(path).map_err(error)?;
        let text = String::from_utf8_lossy(&bytes);
        let directory = path.parent().unwrap_or(Path::new(""));
        self.lines(text.trim_start_matches('\u{feff}'), directory, part)
    }

    fn lines(&mut self, text: &str, directory: &Path, part: Part) -> Result<(), Error> {
        for line in logical_lines(text) {
            // A new password asks for nothing new.
            self.hasher.field(http::redact_text(&line));
            self.urls.extend(urls(&line));
            self.directories.extend(directory_name(&line, directory));
            if let Some((included, part)) = included(&line, part) {
                // The resolver alone knows the values of variables.
                if !included.contains("://") && !included.contains("${") {
                    self.file(&directory.join(included), part)?;
                    continue;
                }
            } else if let Some(name) = requested_name(&line, &self.markers) {
                let hashes: BTreeSet<_> = hashes(&line).collect();
                if !hashes.is_empty() {
                    self.hashes.entry(name.clone()).or_default().extend(hashes);
                }
                if part == Part::Requirements {
                    self.requested.insert(name);
                }
            }
            self.lines.push(Line { text: line, part });
        }
        self.hasher.field("end");
        Ok(())
    }
}

/// Lines joined where they end in a backslash, without comments and blank ones.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in text.lines() {
        // A comment ends with its line, whatever its last letter.
        let is_comment = line.trim_start().starts_with('#');
        if let Some(continued) = line.strip_suffix('\\').filter(|_| !is_comment) {
            open.push_str(continued);
            continue;
        }
        open.push_str(if is_comment { "" } else { line });
        lines.push(without_comment(&std::mem::take(&mut open)));
    }
    lines.push(without_comment(&open));
    lines.retain(|line| !line.is_empty());
    lines
}

fn without_comment(line: &str) -> String {
    // A `#` inside a word belongs to a URL.
    let comment = line.match_indices('#').find(|(at, _)| {
        let before = line[..*at].chars().next_back();
        before.is_none_or(char::is_whitespace)
    });
    let end = comment.map_or(line.len(), |(at, _)| at);
    line[..end].trim().to_owned()
}

/// The file that a line includes, and what its lines are.
fn included(line: &str, part: Part) -> Option<(&str, Part)> {
    let options = [
        ("--requirement", part),
        ("--constraint", Part::Constraints),
        ("-r", part),
        ("-c", Part::Constraints),
    ];
    options.into_iter().find_map(|(option, part)| {
        let rest = line.strip_prefix(option)?;
        // A long option is a word of its own, a short one may touch its value.
        let separated = rest.starts_with(|c: char| c.is_whitespace() || c == '=');
        if option.starts_with("--") && !separated {
            return None;
        }
        let value = rest.trim_start_matches('=').trim();
        let unquoted = value.trim_matches(|c| c == '"' || c == '\'');
        Some((unquoted, part))
    })
}

/// The URLs of a line that may say who the user is.
fn urls(line: &str) -> impl Iterator<Item = Secret> {
    let is_end = |c: char| c.is_whitespace() || "\"'".contains(c);
    let starts = line.match_indices("://");
    let urls = starts.map(move |(at, _)| {
        let before = line[..at].trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let url = &line[before.len()..];
        let is_own = line.starts_with('-') || url.contains('@');
        (&url[..url.find(is_end).unwrap_or(url.len())], is_own)
    });
    let own = urls.filter(|(_, is_own)| *is_own);
    own.map(|(url, _)| Secret::new(url))
}

/// The normal name of the project whose directory a line names.
fn directory_name(line: &str, directory: &Path) -> Option<String> {
    let editable = ["--editable", "-e"]
        .iter()
        .find_map(|option| line.strip_prefix(option));
    let address = match (editable, line.split_once('@')) {
        (Some(rest), _) => rest.trim_start_matches(['=', ' ']),
        (None, Some((_, address))) => address,
        (None, None) => line,
    };
    let path = address.split(';').next()?.split('[').next()?.trim();
    let path = ["file://", "file:"]
        .iter()
        .find_map(|scheme| path.strip_prefix(scheme))
        .unwrap_or(path);
    let is_path = path.starts_with(['.', '/']) || editable.is_some();
    let file = directory.join(path).join("pyproject.toml");
    let name = is_path.then(|| read_project(&file).ok()).flatten()?.name?;
    Some(normalize_name(&name))
}

/// The normal name of what a line asks for, if it does and its marker holds.
fn requested_name(line: &str, markers: &Markers) -> Option<String> {
    if line.starts_with('-') {
        return None;
    }
    // Options of a single requirement, such as its hashes, stand behind it.
    let requirement = line.split(" --").next().unwrap_or(line);
    let is_address = requirement.starts_with(['.', '/'])
        || requirement.contains(".whl")
        || requirement.split('@').next()?.contains("://");
    let separator = if requirement.contains("://") {
        " ;"
    } else {
        ";"
    };
    let (requirement, marker) = match requirement.split_once(separator) {
        Some((requirement, marker)) => (requirement, Some(marker)),
        None => (requirement, None),
    };
    // A marker that nobody understands is the resolver's to refuse.
    if marker.is_some_and(|marker| markers.hold(marker.trim()) == Ok(false)) {
        return None;
    }
    if is_address && !requirement.contains(" @") {
        return wheel_name(requirement.trim());
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let end = requirement.find(|c| !is_name(c));
    let name = &requirement[..end.unwrap_or(requirement.len())];
    (!name.is_empty()).then(|| normalize_name(name))
}

/// The sha256 values of a line's `--hash` options.
pub(crate) fn hashes(line: &str) -> impl Iterator<Item = Digest> {
    let options = line.split("--hash").skip(1);
    let values = options.map(|rest| rest.trim_start_matches(['=', ' ']));
    let values = values.filter_map(|value| value.strip_prefix("sha256:"));
    values.filter_map(|hex| Digest::from_hex(hex.split_whitespace().next()?).ok())
}

fn wheel_name(address: &str) -> Option<String> {
    let location = address
        .parse()
        .map_or_else(|_| Location::Path(address.into()), Location::Url);
    let filename = WheelFilename::parse(&location.filename()?).ok()?;
    Some(filename.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::tests::target;
    use proptest::prelude::*;

    fn inputs(text: &str, directory: &Path) -> Result<Inputs, Error> {
        let requirements = Requirements::Lines {
            text: text.to_owned(),
            directory: directory.to_owned(),
        };
        read(&requirements, target("3.12", Machine::X86_64, "2.34"))
    }

    fn of(text: &str) -> Inputs {
        inputs(text, Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn hashes_are_kept_by_name() {
        let (one, two) = (Digest::of("1"), Digest::of("2"));
        let text = format!(
            "Six==1.16 --hash=sha256:{} \\\n  --hash=sha256:{} --hash=md5:0\nidna\n",
            one.hex(),
            two.hex()
        );
        let hashes = of(&text).hashes;
        assert_eq!(
            hashes,
            BTreeMap::from([("six".to_owned(), [one, two].into())])
        );
    }

    #[test]
    fn names_are_those_asked_for_here() {
        let text = "\u{20}
            # a comment
            Flask>=2 # another
            ruamel.yaml[jinja2] == 0.18 \\
                --hash=sha256:00
            requests;python_version<'3'
            numpy ; python_version >= '3.9'
            idna @ https://files.test/idna-3.4-py3-none-any.whl#sha256=00
            ./wheels/six-1.16.0-py2.py3-none-any.whl
            https://files.test/x/Torch-2.1%2Bcpu-cp312-cp312-linux_x86_64.whl ; os_name == 'posix'
            git+https://git.test/a/b@main
            --index-url https://me:secret@index.test/simple
            -e ./local
            ";
        let requested: Vec<String> = of(text).requested.into_iter().collect();
        assert_eq!(
            requested,
            ["flask", "idna", "numpy", "ruamel-yaml", "six", "torch"]
        );
    }

    #[test]
    fn urls_tell_who_the_user_is() {
        let inputs = of("--index-url=https://me:${TOKEN}@index.test/simple\n\
             --extra-index-url 'https://extra.test/simple'\n\
             six @ https://a:b@files.test/six-1.0-py3-none-any.whl ; os_name == 'x'\n\
             git+https://c:d@git.test/x\nidna @ https://files.test/idna-1-py3-none-any.whl");
        let urls: Vec<_> = inputs.urls.iter().map(Secret::reveal).collect();
        assert_eq!(
            urls,
            [
                "https://me:${TOKEN}@index.test/simple",
                "https://extra.test/simple",
                "https://a:b@files.test/six-1.0-py3-none-any.whl",
                "https://c:d@git.test/x",
            ]
        );
        assert!(!format!("{inputs:?}").contains("TOKEN"));
    }

    #[test]
    fn the_checksum_is_of_lines_not_of_comments() {
        let checksum = |text: &str| of(text).checksum;
        assert_eq!(
            checksum("a\nb==1\n"),
            checksum("# x\r\na # y\r\n\r\nb\\\n==1")
        );
        assert_eq!(checksum("a\nb"), checksum("# x \\\na\n  # y\\\nb"));
        assert_eq!(checksum("-r ${DIR}/a.txt"), checksum("-r ${DIR}/a.txt # x"));
        assert_ne!(checksum("a\nb"), checksum("b\na"));
        assert_ne!(checksum("a\nb"), checksum("ab"));
        assert_ne!(
            checksum("a @ https://x.test/#b"),
            checksum("a @ https://x.test/")
        );
    }

    #[test]
    fn included_files_count() {
        let guard = tempfile::tempdir().unwrap();
        let at = |name: &str| guard.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        fs::write(
            at("deep/more.txt"),
            "numpy\n-c ../pins.txt\n-r \"../top.txt\"",
        )
        .unwrap();
        fs::write(at("pins.txt"), "pandas==2").unwrap();
        fs::write(
            at("top.txt"),
            "six\n--requirement=deep/more.txt\n-r https://x.test/r.txt",
        )
        .unwrap();
        let file = Requirements::File(at("top.txt"));
        assert_eq!(file.directory(), guard.path());
        let lambda = target("3.12", Machine::X86_64, "2.34");
        let before = read(&file, lambda).unwrap();
        assert_eq!(
            before.requested,
            ["numpy".to_owned(), "six".to_owned()].into()
        );

        fs::write(at("pins.txt"), "pandas==3").unwrap();
        let after = read(&file, lambda).unwrap();
        assert_ne!(before.checksum, after.checksum);

        fs::remove_file(at("pins.txt")).unwrap();
        let error = read(&file, lambda).unwrap_err();
        assert!(matches!(error, Error::Read { path, .. } if path == at("deep/../pins.txt")));
        assert_eq!(
            Requirements::File("r.txt".into()).directory(),
            Path::new(".")
        );
    }

    #[test]
    fn directories_are_known_by_name() {
        let guard = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            fs::create_dir(guard.path().join(name)).unwrap();
            let file = guard.path().join(name).join("pyproject.toml");
            fs::write(file, format!("[project]\nname = 'Its_{name}'")).unwrap();
        };
        for name in ["a", "b", "c", "d"] {
            place(name);
        }
        let text = "-e ./a\n--editable=b[x] ; os_name == 'posix'\n./c\nd @ file:./d\nits @ file://DIR/d\n-e git+https://x.test/y\nnumpy\n";
        let text = text.replace("DIR", &guard.path().to_string_lossy());
        let names: Vec<_> = inputs(&text, guard.path())
            .unwrap()
            .directories
            .into_iter()
            .collect();
        assert_eq!(names, ["its-a", "its-b", "its-c", "its-d"]);
    }

    #[test]
    fn a_project_is_read_for_what_decides() {
        let guard = tempfile::tempdir().unwrap();
        let lambda = target("3.12", Machine::X86_64, "2.34");
        let pyproject = guard.path().join("pyproject.toml");
        let read = |text: &str, extra: &str| {
            fs::write(&pyproject, text).unwrap();
            let wanted = Wanted {
                extras: [extra.to_owned()].into(),
                ..Wanted::default()
            };
            let pyproject = pyproject.clone();
            read(&Requirements::Project { pyproject, wanted }, lambda).unwrap()
        };
        let text = "[project]\nname = 'a'\ndependencies = ['Flask']\n\
                    [project.optional-dependencies]\nx = ['six', 'toml; python_version < \"3\"']\ny = ['six>1']\n";
        let first = read(text, "x");
        assert_eq!(
            first.requested,
            ["flask".to_owned(), "six".to_owned()].into()
        );
        let other = format!("{text}[tool.other]\nz = 1\n[tool.uv.build-backend]\nz = 1");
        assert_eq!(read(&other, "x"), first);
        for (text, extra) in [
            (text.to_owned(), "y"),
            (format!("{text}[tool.uv]\nprerelease = 'allow'"), "x"),
            (text.replace("name = 'a'", "requires-python = '>3'"), "x"),
        ] {
            assert_ne!(read(&text, extra).checksum, first.checksum, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[-a-z;@:/#\\\\ \n'\"=.é]{0,60}") {
            let _ = inputs(&text, Path::new("/nowhere"));
        }
    }
}
