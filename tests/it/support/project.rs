//! A function's project in a directory of its own, and the command under test run on it.
//!
//! The command sees no environment but what is given here: its own home and store, the CPythons and
//! tools of the tests, and what this machine needs to reach the package index.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::io::Seek as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::support::example;
use crate::support::python_directories;
use crate::support::tools;

pub(crate) struct Project {
    directory: TempDir,
}

impl Project {
    pub(crate) fn new() -> Project {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["home", "project"] {
            fs::create_dir(directory.path().join(name)).expect("a directory can be made");
        }
        Project { directory }
    }

    /// A handler that answers `"ok"`, with the least configuration.
    pub(crate) fn with_handler() -> Project {
        let project = Project::new();
        project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
        project.file(
            "pyproject.toml",
            "[tool.lambimg]\npython = \"3.12\"\nhandler = \"app.handler\"\n",
        );
        project
    }

    /// A copy of one of the repository's examples.
    pub(crate) fn of_example(name: &str) -> Project {
        let project = Project::new();
        copy_directory(&example(name), &project.path());
        project
    }

    /// The directory that holds the function.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// The store of images and blobs.
    pub(crate) fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    /// A path beside the project, for what a test makes.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("below the project"))
            .expect("a directory can be made");
        fs::write(path, content).expect("a file can be written");
    }

    /// What Docker's login would have written.
    pub(crate) fn login(&self, address: &str, user: &str, password: &str) {
        use base64::Engine as _;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.docker_config(&serde_json::json!({"auths": {address: {"auth": pair}}}));
    }

    /// Docker's own settings, where credentials and their helpers stand.
    pub(crate) fn docker_config(&self, config: &serde_json::Value) {
        fs::create_dir_all(self.home().join(".docker")).expect("a directory can be made");
        fs::write(self.home().join(".docker/config.json"), config.to_string())
            .expect("a file can be written");
    }

    /// The command under test, run in the project's directory.
    pub(crate) fn lambimg<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
    ) -> Run<'_> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lambimg"));
        command.args(arguments);
        self.run_by(command)
    }

    /// The same surroundings for another command, such as a shell that runs lambimg in its own way.
    pub(crate) fn run_by(&self, mut command: Command) -> Run<'_> {
        command
            .current_dir(self.path())
            .env_clear()
            .stdin(Stdio::null());
        let kept = |name: &str| {
            let whole = ["SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR"];
            let lower = name.to_ascii_lowercase();
            whole.contains(&name)
                || name.starts_with("PIP_")
                || name.starts_with("UV_")
                || lower.ends_with("_proxy")
        };
        command.envs(std::env::vars().filter(|(name, _)| kept(name)));
        // Whatever proxy leads outside, loopback is reached without it.
        command
            .env("no_proxy", "127.0.0.1,localhost")
            .env("NO_PROXY", "127.0.0.1,localhost");
        command.env("PATH", search_path());
        command.env("HOME", self.home());
        command.env("LAMBIMG_CACHE_DIR", self.cache());
        // What is held against other tools' files has none; `bytecode` has tests of its own.
        command.env("LAMBIMG_BYTECODE", "false");
        Run {
            project: self,
            command,
        }
    }
}

/// A run of the command that was not started yet.
pub(crate) struct Run<'project> {
    project: &'project Project,
    command: Command,
}

impl Run<'_> {
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Puts a shell script before all other programs.
    pub(crate) fn script(mut self, name: &str, lines: &str) -> Self {
        let directory = self.project.beside("scripts");
        fs::create_dir_all(&directory).expect("a directory can be made");
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}")).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
        let directories = std::env::split_paths(&search_path()).collect::<Vec<_>>();
        let path = std::env::join_paths([directory].into_iter().chain(directories));
        self.command
            .env("PATH", path.expect("no path holds a colon"));
        self
    }

    /// Has pip and uv ask this index and no other.
    pub(crate) fn index(self, url: &str) -> Self {
        let mut run = self.no_index();
        for name in ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"] {
            run.command.env(name, url);
        }
        run
    }

    /// Takes away what variables say of indexes.
    pub(crate) fn no_index(mut self) -> Self {
        for name in [
            "PIP_INDEX_URL",
            "PIP_EXTRA_INDEX_URL",
            "PIP_FIND_LINKS",
            "UV_DEFAULT_INDEX",
            "UV_INDEX_URL",
            "UV_EXTRA_INDEX_URL",
            "UV_FIND_LINKS",
            "UV_INDEX",
        ] {
            self.command.env_remove(name);
        }
        self
    }

    /// Starts it for a test that does something while it runs; what it says is not kept.
    pub(crate) fn start(mut self) -> Child {
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let started = self.command.spawn();
        started.unwrap_or_else(|error| panic!("{:?} does not start: {error}", self.command))
    }

    /// Starts it with what it says kept, for a test that ends it or that cannot wait for ever.
    pub(crate) fn spawn(mut self) -> Running {
        let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
        let shared = |file: &File| file.try_clone().expect("a file can be shared");
        self.command.stdout(shared(&stdout)).stderr(shared(&stderr));
        let started = self.command.spawn();
        Running {
            child: started
                .unwrap_or_else(|error| panic!("{:?} does not start: {error}", self.command)),
            stdout,
            stderr,
            directory: self.project.directory.path().to_owned(),
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        let output = self.command.output();
        let output =
            output.unwrap_or_else(|error| panic!("{:?} does not start: {error}", self.command));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
        Outcome {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            directory: self.project.directory.path().to_owned(),
        }
    }

    /// Runs to success and gives what was printed on stdout.
    pub(crate) fn succeed(self) -> String {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        outcome.stdout
    }
}

/// A run of the command that has begun; it is killed on drop.
pub(crate) struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    directory: PathBuf,
}

impl Running {
    /// The most that it has had resident so far, in bytes; 0 once it has ended.
    pub(crate) fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// Sends a signal, such as `INT`, unless it has ended.
    pub(crate) fn signal(&mut self, name: &str) {
        if self.child.try_wait().expect("our own child").is_none() {
            let mut kill = Command::new("kill");
            let status = kill
                .args(["-s", name, &self.child.id().to_string()])
                .status();
            assert!(status.expect("kill is everywhere").success());
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// What it has printed so far.
    pub(crate) fn stdout(&self) -> String {
        let mut text = Vec::new();
        // Read where its own writing goes on undisturbed.
        let mut place = 0;
        let mut part = [0; 4096];
        while let Ok(size @ 1..) = self.stdout.read_at(&mut part, place) {
            text.extend_from_slice(&part[..size]);
            place += size as u64;
        }
        String::from_utf8(text).expect("output is text")
    }

    /// Waits for its end; to be still at work when `patience` is over is a failure.
    pub(crate) fn outcome(mut self, patience: Duration) -> Outcome {
        let start = Instant::now();
        while !self.has_ended() {
            if start.elapsed() > patience {
                let _ = self.child.kill();
                let said = self.said();
                panic!("still at work after {patience:?}:\n{}", said.rendering());
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.said()
    }

    /// What it has said so far on stdout and on stderr.
    pub(crate) fn so_far(&self) -> (String, String) {
        let read = |file: &File| {
            let mut bytes = vec![
                0;
                usize::try_from(file.metadata().expect("a file of ours").len())
                    .expect("it fits")
            ];
            // Where it writes stays as it is: the position is shared with it.
            file.read_exact_at(&mut bytes, 0).expect("a file of ours");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (read(&self.stdout), read(&self.stderr))
    }

    fn said(&mut self) -> Outcome {
        let status = self.child.wait().expect("our own child");
        let text = |mut file: &File| {
            let mut text = String::new();
            file.rewind().expect("a file of ours");
            file.read_to_string(&mut text).expect("output is text");
            text
        };
        Outcome {
            code: status.code(),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            directory: self.directory.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a run of the command said.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    directory: PathBuf,
}

impl Outcome {
    /// Everything a user would see, for a snapshot or a failed assertion.
    pub(crate) fn rendering(&self) -> String {
        let code = self
            .code
            .map_or("killed".to_owned(), |code| code.to_string());
        format!(
            "exit code: {code}\n--- stdout\n{}--- stderr\n{}",
            self.stdout, self.stderr
        )
    }

    /// Has a snapshot leave out what differs from run to run.
    pub(crate) fn settings(&self) -> insta::Settings {
        let mut settings = insta::Settings::clone_current();
        let directory = self.directory.to_string_lossy();
        let escaped = directory.chars().flat_map(|letter| {
            let special = !letter.is_ascii_alphanumeric() && letter != '/';
            special.then_some('\\').into_iter().chain([letter])
        });
        settings.add_filter(&escaped.collect::<String>(), "[temporary]");
        settings.add_filter(r"127\.0\.0\.1:\d+", "127.0.0.1:[port]");
        settings.add_filter(r"\b[0-9a-f]{64}\b", "[sha256]");
        settings.add_filter(r"\b\d+(\.\d+)? ?(ms|s|seconds)\b", "[duration]");
        settings.add_filter(r"\b\d+(\.\d+)? ?([kKMG]i?B|B|bytes)\b", "[size]");
        settings.add_filter(r"\.lambimg-[A-Za-z0-9]{6}", "[file]");
        // What comes beside other things is a matter of time.
        settings.add_filter(r"(?m)^(base|make) .*\n", "");
        settings.add_filter(r"\b(Python 3\.\d+)\.\d+", "$1.[patch]");
        // uv names the nearest Python of this machine.
        settings.add_filter(r"; 3\.\d+\.\d+ will be used", "; [python] will be used");
        settings.set_omit_expression(true);
        settings.set_prepend_module_to_snapshot(false);
        settings
    }
}

/// Compares everything that a run said with the snapshot named after the test.
macro_rules! assert_said {
    ($outcome:expr) => {{
        let outcome = &$outcome;
        outcome
            .settings()
            .bind(|| insta::assert_snapshot!(outcome.rendering()));
    }};
}
pub(crate) use assert_said;

/// The tests' tools, every CPython, and the system's own programs.
fn search_path() -> OsString {
    let system = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let pythons = python_directories().values().cloned();
    std::env::join_paths([tools()].into_iter().chain(pythons).chain(system))
        .expect("no path holds a colon")
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let entry = entry.expect("a directory can be read");
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
        }
    }
}
