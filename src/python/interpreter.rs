//! A real interpreter of some machine: found among candidates, asked what it is, and believed.
//!
//! A path says little about an interpreter: it may be a shim, a virtual environment or another
//! version. Only running it tells. This room never knows images, nor where to look: whoever reads
//! `PATH` passes the directories.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, PipeReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long an interpreter may take to say what it is: a shim that waits for a network does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a running interpreter is looked at while it says nothing.
const GLANCE: Duration = Duration::from_millis(10);

/// How long the pipe of one that has ended may be silent before it counts as empty.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// More than any answer; what comes after it is not read.
const LONGEST_ANSWER: u64 = 1 << 20;

/// What outlives `-I` in a shim that is a script, and then bends the interpreter behind it.
const BENDING_VARIABLES: [&str; 4] = [
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONPLATLIBDIR",
    "__PYVENV_LAUNCHER__",
];

/// Prints the facts as one line of JSON, the last one; works from Python 3.4 to the newest.
const QUESTION: &str = r#"
import json, os, platform, site, sys, sysconfig

abi_flags = getattr(sys, "abiflags", "")
named = "python%d.%d" % sys.version_info[:2]

def executable():
    beside = os.path.join(sys.base_prefix, "bin", named + abi_flags)
    for path in (beside, getattr(sys, "_base_executable", None), sys.executable):
        if path and os.path.isfile(path):
            return os.path.realpath(path)

def glibc():
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return [int(part) for part in version.split(".")[:2]] if name == "glibc" else None
    except (AttributeError, OSError, ValueError):
        return None

def shared_library():
    try:
        with open("/proc/self/maps", "rb") as maps:
            mapped = [line.split(None, 5)[5].strip() for line in maps if line.count(b"/")]
    except OSError:
        return None
    for path in mapped:
        if os.path.basename(path).startswith(b"lib" + named.encode()):
            return os.path.realpath(os.fsdecode(path))

def lib_dynload(stdlib):
    for path in sys.path + [os.path.join(stdlib, "lib-dynload")]:
        if os.path.basename(path) == "lib-dynload" and os.path.isdir(path):
            return os.path.realpath(path)

def certificate_file():
    try:
        import ssl
        return ssl.get_default_verify_paths().openssl_cafile or None
    except Exception:
        return None

paths = sysconfig.get_paths()
print("\n" + json.dumps({
    "executable": executable(),
    "implementation": sys.implementation.name,
    "major": sys.version_info[0],
    "minor": sys.version_info[1],
    "version": platform.python_version(),
    "abi_flags": abi_flags,
    "machine": platform.machine(),
    "glibc": glibc(),
    "prefix": os.path.realpath(sys.prefix),
    "base_prefix": os.path.realpath(sys.base_prefix),
    "library_directory": getattr(sys, "platlibdir", "lib"),
    "stdlib": os.path.realpath(paths["stdlib"]),
    "platstdlib": os.path.realpath(paths["platstdlib"]),
    "lib_dynload": lib_dynload(paths["platstdlib"]),
    "site_packages": site.getsitepackages([sys.base_prefix]),
    "shared_library": shared_library(),
    "certificate_file": certificate_file(),
}))
"#;

/// What one interpreter said of itself. Every path is absolute and, but for one, without symlinks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// The file that runs, never a shim nor the link of a virtual environment.
    pub executable: PathBuf,
    /// Who made it: `cpython`, `pypy`.
    pub implementation: String,
    /// The first number of the version.
    pub major: u8,
    /// The second number of the version.
    pub minor: u8,
    /// The version in full, as `3.12.1` or `3.15.0rc2`.
    pub version: String,
    /// How its binary interface differs from the usual one: `t` free-threaded, `d` debug.
    pub abi_flags: String,
    /// The processor, as `x86_64` or `aarch64`.
    pub machine: String,
    /// The C library's version if that is glibc, as `(2, 36)`.
    pub glibc: Option<(u16, u16)>,
    /// The root of its installation.
    pub prefix: PathBuf,
    /// The root of the installation that it was made from; another one in virtual environments only.
    pub base_prefix: PathBuf,
    /// The directory's name under the prefix where its library lies: `lib`, or `lib64` on Fedora.
    pub library_directory: String,
    /// The directory of the standard library.
    pub stdlib: PathBuf,
    /// The directory of what in the standard library depends on the machine; mostly the same one.
    pub platstdlib: PathBuf,
    /// The directory of the extension modules, if they are not all built in.
    pub lib_dynload: Option<PathBuf>,
    /// Where its `site` module looks for packages under its prefix, best first.
    pub site_packages: Vec<PathBuf>,
    /// The `libpython` it runs from, if it was built as a shared library.
    pub shared_library: Option<PathBuf>,
    /// Where its OpenSSL looks for certificates, links and all, whether or not a file is there.
    pub certificate_file: Option<PathBuf>,
}

/// Why there is no interpreter to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system would not run it.
    #[error("cannot run `{}`", path.display())]
    Run {
        /// The candidate.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ran and did not end.
    #[error("`{}` gave no answer within {limit:?}", path.display())]
    Silent {
        /// The candidate.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It ended badly.
    #[error("`{}` ended with {status}: {said}", path.display())]
    Failed {
        /// The candidate.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The telling line of what it wrote.
        said: String,
    },
    /// It ended well, but what it wrote tells nothing.
    #[error("`{}` answered `{said}`", path.display())]
    Unreadable {
        /// The candidate.
        path: PathBuf,
        /// The telling line of what it wrote.
        said: String,
    },
    /// None of the candidates is the wanted one.
    #[error("no CPython 3.{minor} among {} candidates{}", tried.len(), listed(tried))]
    NotFound {
        /// The wanted version is 3 dot this.
        minor: u8,
        /// All that were asked, in their order.
        tried: Vec<Tried>,
    },
}

/// A candidate that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The candidate.
    pub path: PathBuf,
    /// Why not, as a clause that follows it.
    pub reason: String,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.path.display(), self.reason)
    }
}

fn listed(tried: &[Tried]) -> String {
    if tried.is_empty() {
        return String::new();
    }
    let clauses: Vec<_> = tried.iter().map(ToString::to_string).collect();
    format!(": {}", clauses.join("; "))
}

/// Asks the interpreter at `path`, and then the one behind it when `path` only stands for another.
///
/// # Errors
/// When it does not run, does not end in time, fails or answers something else.
pub fn probe(path: &Path) -> Result<Interpreter, Error> {
    let answer = ask(path, PATIENCE)?;
    if answer.executable == path {
        return Ok(answer);
    }
    ask(&answer.executable, PATIENCE)
}

/// The first of `candidates` that is version 3.`minor` of the reference implementation with the usual binary interface.
///
/// # Errors
/// [`Error::NotFound`] with what each of them was instead.
pub fn find(minor: u8, candidates: &[PathBuf]) -> Result<Interpreter, Error> {
    let mut tried = Vec::new();
    for path in candidates {
        let reason = match probe(path) {
            Ok(interpreter) => match objection(&interpreter, minor) {
                None => return Ok(interpreter),
                Some(reason) => reason,
            },
            Err(error) => clause(&error),
        };
        tried.push(Tried {
            path: path.clone(),
            reason,
        });
    }
    Err(Error::NotFound { minor, tried })
}

/// Why an interpreter is not version 3.`minor` of the reference implementation with the usual binary interface, as a
/// clause that follows it.
pub fn objection(interpreter: &Interpreter, minor: u8) -> Option<String> {
    let Interpreter {
        implementation,
        version,
        abi_flags,
        ..
    } = interpreter;
    if implementation != "cpython" {
        Some(format!("is {implementation} {version}"))
    } else if (interpreter.major, interpreter.minor) != (3, minor) {
        Some(format!("is {version}"))
    } else if !abi_flags.is_empty() {
        // Wheels of the usual binary interface do not load in it.
        Some(format!("is {version} with ABI flags `{abi_flags}`"))
    } else {
        None
    }
}

/// Why there is no interpreter at a path, as a clause that follows it.
pub fn clause(error: &Error) -> String {
    match error {
        Error::Run { source, .. } => format!("does not run: {source}"),
        Error::Silent { limit, .. } => format!("gave no answer within {limit:?}"),
        Error::Failed { status, said, .. } => format!("ended with {status}: {said}"),
        Error::Unreadable { said, .. } => format!("answered `{said}`"),
        Error::NotFound { .. } => error.to_string(),
    }
}

/// The names that Python 3.`minor` goes by, the most exact first.
pub fn candidate_names(minor: u8) -> Vec<String> {
    vec![
        format!("python3.{minor}"),
        "python3".to_owned(),
        "python".to_owned(),
    ]
}

/// The files that may be Python 3.`minor`: in `directories` under any of its names, then in
/// `bin` below each installation in `roots` (pyenv's `versions`, uv's `python`), newest first.
///
/// An exact name in a later directory comes before a loose one in an earlier; a file that was
/// listed already, by whatever link, is not listed again.
pub fn candidates(minor: u8, directories: &[PathBuf], roots: &[PathBuf]) -> Vec<PathBuf> {
    let names = candidate_names(minor);
    let on_path = names.iter().flat_map(|name| {
        directories
            .iter()
            .map(move |directory| directory.join(name))
    });
    let below_roots = roots
        .iter()
        .flat_map(|root| newest_first(root))
        .map(|installation| installation.join("bin").join(&names[0]));
    let mut seen = BTreeSet::new();
    on_path
        .chain(below_roots)
        .filter(|path| path.is_file())
        .filter(|path| fs::canonicalize(path).is_ok_and(|real| seen.insert(real)))
        .collect()
}

/// The entries of `root`, a later version before an earlier one; none if it cannot be listed.
fn newest_first(root: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (numbers(&name), name.into_owned())
    });
    entries.reverse();
    entries
}

/// The numbers in a name, so that 3.12.10 comes after 3.12.9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn ask(path: &Path, limit: Duration) -> Result<Interpreter, Error> {
    let run = |source| Error::Run {
        path: path.to_owned(),
        source,
    };
    let (child, output) = start(path).map_err(run)?;
    let Some((status, written)) = attend(child, &output, limit).map_err(run)? else {
        return Err(Error::Silent {
            path: path.to_owned(),
            limit,
        });
    };
    let text = String::from_utf8_lossy(&written);
    if !status.success() {
        return Err(Error::Failed {
            path: path.to_owned(),
            status,
            said: telling_line(&text),
        });
    }
    let answer = text.lines().rev().find(|line| line.starts_with('{'));
    answer
        .and_then(|line| serde_json::from_str(line).ok())
        .ok_or_else(|| Error::Unreadable {
            path: path.to_owned(),
            said: telling_line(&text),
        })
}

/// What runs the interpreter at `path` by itself: no variable bends it, nor does the user's own directory.
pub(super) fn isolated(path: &Path) -> Command {
    let mut command = Command::new(path);
    for name in BENDING_VARIABLES {
        command.env_remove(name);
    }
    command.arg("-I");
    command
}

/// Runs it with both of its outputs on one pipe, which a thread drains.
fn start(path: &Path) -> io::Result<(Child, Receiver<Vec<u8>>)> {
    let (reader, writer) = io::pipe()?;
    let mut command = isolated(path);
    let child = command
        .args(["-S", "-B", "-c", QUESTION])
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    // The command holds writing ends of the pipe; with them open it would never be at its end.
    drop(command);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drain(reader.take(LONGEST_ANSWER), &sender));
    Ok((child, receiver))
}

fn drain(mut reader: io::Take<PipeReader>, sender: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        if sender.send(buffer[..count].to_vec()).is_err() {
            return;
        }
    }
}

/// Waits for the end of `child`, not for that of processes it may have left behind with the pipe.
fn attend(
    mut child: Child,
    output: &Receiver<Vec<u8>>,
    limit: Duration,
) -> io::Result<Option<(ExitStatus, Vec<u8>)>> {
    let deadline = Instant::now() + limit;
    let mut written = Vec::new();
    loop {
        match output.recv_timeout(GLANCE) {
            Ok(bytes) => written.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => thread::sleep(GLANCE / 10),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = child.try_wait()? {
            while let Ok(bytes) = output.recv_timeout(LAST_WORDS) {
                written.extend(bytes);
            }
            return Ok(Some((status, written)));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
}

/// The line that says most: the last of a traceback, else the first.
fn telling_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let line = if first.starts_with("Traceback") {
        lines.next_back().unwrap_or(first)
    } else {
        first
    };
    line.chars().take(200).collect()
}

/// An interpreter of this machine, where systems put theirs: for tests.
#[cfg(test)]
pub(crate) fn installed() -> Interpreter {
    ["/usr/local/bin/python3", "/usr/bin/python3"]
        .iter()
        .find_map(|path| probe(Path::new(path)).ok())
        .expect("a python3 in /usr/local/bin or /usr/bin")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Puts an executable in place by another process: were it open for writing in this one, a
    /// test that forks at that moment would make it busy.
    fn install(from: &Path, to: &Path) {
        let status = Command::new("install")
            .args(["-D", "-m", "755"])
            .args([from, to])
            .status();
        assert!(status.unwrap().success());
    }

    fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
        let path = directory.join(name);
        let text = directory.join("text");
        fs::write(&text, format!("#!/bin/sh\n{body}\n")).unwrap();
        install(&text, &path);
        path
    }

    fn without(directory: &Path, error: &Error) -> String {
        error
            .to_string()
            .replace(directory.to_str().unwrap(), "[dir]")
    }

    #[test]
    fn a_real_one_says_where_its_parts_are() {
        let python = installed();
        assert_eq!((&*python.implementation, python.major), ("cpython", 3));
        assert!(python.version.starts_with(&format!("3.{}.", python.minor)));
        assert!(fs::symlink_metadata(&python.executable).unwrap().is_file());
        assert!(python.stdlib.join("os.py").is_file());
        assert!(python.lib_dynload.is_none_or(|path| path.is_dir()));
        assert!(python.shared_library.is_none_or(|path| path.is_file()));
        assert_eq!(python.prefix, python.base_prefix);
    }

    #[test]
    fn shims_and_virtual_environments_lead_to_the_real_one() {
        let directory = tempfile::tempdir().unwrap();
        let real = installed();
        let shim = script(
            directory.path(),
            "shim",
            &format!(
                "echo noise\nPYTHONHOME=$PYTHONHOME exec {} \"$@\"",
                real.executable.display()
            ),
        );
        let environment = directory.path().join("env");
        fs::create_dir_all(environment.join("bin")).unwrap();
        let home = real.executable.parent().unwrap().display();
        fs::write(
            environment.join("pyvenv.cfg"),
            format!("home = {home}\nversion = {}\n", real.version),
        )
        .unwrap();
        let linked = environment.join("bin/python");
        symlink(&real.executable, &linked).unwrap();
        let copied = environment.join("bin/python3");
        install(&real.executable, &copied);
        for path in [shim, linked, copied] {
            assert_eq!(probe(&path).unwrap(), real, "{}", path.display());
        }
    }

    #[test]
    fn find_tells_what_each_candidate_was() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let real = installed();
        let wrong = real.minor + 1;
        let answer = |implementation: &str, abi_flags: &str| {
            format!(
                r#"echo '{{"executable": "'"$0"'", "implementation": "{implementation}", "major": 3,
                "minor": {wrong}, "version": "3.{wrong}.1", "abi_flags": "{abi_flags}",
                "machine": "m68k", "glibc": null, "prefix": "/p", "base_prefix": "/p",
                "library_directory": "lib", "stdlib": "/p", "platstdlib": "/p",
                "lib_dynload": null, "site_packages": [], "shared_library": null,
                "certificate_file": null}}' | tr -d '\n'"#
            )
        };
        let candidates = [
            at.join("absent"),
            script(at, "shim", "echo 'shim: no version is set' >&2; exit 127"),
            script(
                at,
                "broken",
                "printf 'Traceback (most recent call last):\n  x\nImportError: os\n'; exit 1",
            ),
            script(at, "chatty", "echo hello"),
            script(at, "pypy", &answer("pypy", "")),
            script(at, "threaded", &answer("cpython", "t")),
            script(at, "good", &answer("cpython", "")),
        ];
        let found = find(wrong, &candidates).unwrap();
        assert_eq!(found.executable, at.join("good"));

        let error = find(wrong, &candidates[..6]).unwrap_err();
        let text = without(at, &error)
            .replace(&format!("3.{wrong}"), "3.X")
            .replace("; ", "\n");
        insta::assert_snapshot!(text, @r"
        no CPython 3.X among 6 candidates: `[dir]/absent` does not run: No such file or directory (os error 2)
        `[dir]/shim` ended with exit status: 127: shim: no version is set
        `[dir]/broken` ended with exit status: 1: ImportError: os
        `[dir]/chatty` answered `hello`
        `[dir]/pypy` is pypy 3.X.1
        `[dir]/threaded` is 3.X.1 with ABI flags `t`
        ");
        let error = find(wrong, &[real.executable]).unwrap_err();
        assert!(error.to_string().ends_with(&format!("is {}", real.version)));
    }

    #[test]
    fn one_that_hangs_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let hanging = script(at, "hanging", "while :; do echo busy; sleep 0.01; done");
        let limit = Duration::from_millis(150);
        let error = ask(&hanging, limit).unwrap_err();
        insta::assert_snapshot!(without(at, &error), @"`[dir]/hanging` gave no answer within 150ms");
    }

    #[test]
    fn one_that_leaves_a_process_behind_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let leaving = script(directory.path(), "leaving", "sleep 3 & echo hello");
        let error = ask(&leaving, PATIENCE).unwrap_err();
        insta::assert_snapshot!(without(directory.path(), &error), @"`[dir]/leaving` answered `hello`");
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn candidates_are_listed_by_name_then_place_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for name in [
            "one/python3",
            "two/python",
            "two/python3.12",
            "roots/3.12.9/bin/python3.12",
            "roots/3.12.10/bin/python3.12",
            "roots/3.11.2/bin/python3.11",
        ] {
            script(at, name, "");
        }
        symlink("python3.12", at.join("two/python3")).unwrap();
        symlink("3.12.10", at.join("roots/3.12")).unwrap();
        let directories = [at.join("one"), at.join("absent"), at.join("two")];
        let listed = candidates(12, &directories, &[at.join("none"), at.join("roots")]);
        let relative: Vec<_> = listed
            .iter()
            .map(|path| path.strip_prefix(at).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            relative,
            [
                "two/python3.12",
                "one/python3",
                "two/python",
                "roots/3.12.10/bin/python3.12",
                "roots/3.12.9/bin/python3.12",
            ]
        );
    }
}
