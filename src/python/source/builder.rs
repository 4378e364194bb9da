//! The programs that a build runs: uv or pip around the project's own backend, and git.
//!
//! Each gets its environment as it is, since where packages come from is the user's setting, but for what
//! would let the moment or the machine into a wheel. All that they say of a failure is kept, secrets aside.
//! What their results are good for is not known here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::http;

/// Runs pip as `-m pip` does, but without the working directory among the places of modules.
const RUN_PIP: &str = "import sys; sys.path[:] = [p for p in sys.path if p]; import runpy; \
                       runpy.run_module('pip', run_name='__main__', alter_sys=True)";

/// Unpacks an archive; what it holds will be run, so this need not distrust it.
const UNPACK: &str = "import shutil, sys; shutil.unpack_archive(sys.argv[1], sys.argv[2])";

/// Who drives the backend, by absolute paths, and the interpreter that the wheel is built under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Builder {
    Uv { program: PathBuf, python: PathBuf },
    Pip { python: PathBuf },
}

/// A program that did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot run `{}`", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("{said}")]
    Failed { said: String },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Builder {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Uv { .. } => "uv",
            Self::Pip { .. } => "pip",
        }
    }

    fn python(&self) -> &Path {
        match self {
            Self::Uv { python, .. } | Self::Pip { python } => python,
        }
    }

    /// Builds the directory or archive `sources` into a wheel in the directory `out`.
    pub(super) async fn build(
        &self,
        sources: &Path,
        out: &Path,
        epoch: u64,
        offline: bool,
        compiler_flags: &[(&'static str, String)],
    ) -> Result<(), Error> {
        let mut command = match self {
            Self::Uv { program, python } => {
                let mut command = Command::new(program);
                command.args(["build", "--wheel", "--no-progress", "--no-python-downloads"]);
                command.args(["--no-create-gitignore", "--color", "never", "--out-dir"]);
                command.arg(out).arg("--python").arg(python);
                command.args(offline.then_some("--offline"));
                // uv takes the nearest settings above its directory, and above this one anyone may write.
                let settings = out.join("uv.toml");
                fs::write(&settings, "").map_err(|source| Error::Write {
                    path: settings,
                    source,
                })?;
                command
            }
            Self::Pip { python } => {
                let mut command = Command::new(python);
                command.args([
                    "-c",
                    RUN_PIP,
                    "wheel",
                    "--no-deps",
                    "--no-cache-dir",
                    "--quiet",
                ]);
                command.args(["--no-input", "--no-color", "--disable-pip-version-check"]);
                command.args(offline.then_some("--no-index"));
                // Rules for installing: nothing is installed here.
                command.env("PIP_REQUIRE_VIRTUALENV", "0");
                command.arg("--wheel-dir").arg(out);
                command
            }
        };
        command.arg(sources);
        // No earlier than zip archives can say.
        command.env("SOURCE_DATE_EPOCH", epoch.max(EARLIEST).to_string());
        command.env("PYTHONHASHSEED", "0");
        for (name, flags) in compiler_flags {
            // Debug information would hold the directory that this is built in.
            command.env(name, format!("{flags} -g0").trim_start());
        }
        run(command, out).await.map(drop)
    }

    /// Unpacks an archive into `directory`.
    pub(super) async fn unpack(&self, archive: &Path, directory: &Path) -> Result<(), Error> {
        let mut command = Command::new(self.python());
        command.args(["-I", "-c", UNPACK]);
        command.arg(archive).arg(directory);
        run(command, directory).await.map(drop)
    }
}

/// What git sets for a hook that this may run in: it leads to another repository than the one at hand.
const OF_A_REPOSITORY: [&str; 9] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// 1980-01-01T00:00:00Z.
const EARLIEST: u64 = 315_532_800;

/// Brings `commit` of the repository at `url` to the new directory `to`, with its submodules.
///
/// As pip does, without the contents of other commits but with the history: backends take versions from tags.
pub(super) async fn check_out(
    git: &Path,
    url: &str,
    commit: &str,
    to: &Path,
    offline: bool,
) -> Result<(), Error> {
    let run_git = async |command, directory| run_git(command, directory, offline).await;
    let above = to.parent().unwrap_or(to);
    let mut clone = Command::new(git);
    clone.args([
        "clone",
        "--quiet",
        "--no-checkout",
        "--filter=blob:none",
        "--",
    ]);
    clone.arg(url).arg(to);
    run_git(clone, above).await?;
    let in_tree = |arguments: &[&str]| {
        let mut command = Command::new(git);
        command.args(arguments);
        command
    };
    let checkout = ["checkout", "--quiet", "--detach", commit];
    if run_git(in_tree(&checkout), to).await.is_err() {
        // What no branch or tag leads to has to be asked for.
        run_git(in_tree(&["fetch", "--quiet", "origin", commit]), to).await?;
        run_git(in_tree(&checkout), to).await?;
    }
    // What has the form of a hash may be the name of a tag, which leads elsewhere tomorrow.
    let head = run_git(in_tree(&["rev-parse", "HEAD"]), to).await?.stdout;
    let head = String::from_utf8_lossy(&head).trim().to_owned();
    if !head.eq_ignore_ascii_case(commit) {
        let said = format!("{commit} is no commit, but leads to {head}");
        return Err(Error::Failed { said });
    }
    let submodules = ["submodule", "update", "--init", "--recursive", "--quiet"];
    run_git(in_tree(&submodules), to).await.map(drop)
}

async fn run_git(mut command: Command, directory: &Path, offline: bool) -> Result<Output, Error> {
    command.env("GIT_TERMINAL_PROMPT", "0");
    if offline {
        // A repository of this machine may have submodules elsewhere.
        command.env("GIT_ALLOW_PROTOCOL", "file");
    }
    run(command, directory).await
}

async fn run(mut command: Command, directory: &Path) -> Result<Output, Error> {
    let program = PathBuf::from(command.as_std().get_program());
    // Backends ask git too.
    for name in OF_A_REPOSITORY {
        command.env_remove(name);
    }
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = command.output().await;
    let output = output.map_err(|source| Error::Run { program, source })?;
    if output.status.success() {
        return Ok(output);
    }
    // Backends complain on either.
    let texts = [&output.stdout, &output.stderr];
    let texts = texts.map(|text| String::from_utf8_lossy(text).trim().to_owned());
    let said = texts.into_iter().filter(|text| !text.is_empty());
    let mut said = http::redact_text(&said.collect::<Vec<_>>().join("\n"));
    if said.is_empty() {
        said = output.status.to_string();
    }
    Err(Error::Failed { said })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn settings_above_the_room_do_not_count() {
        let room = tempfile::tempdir().unwrap();
        fs::write(
            room.path().join("uv.toml"),
            "index-url = 'http://thief.test'",
        )
        .unwrap();
        let out = room.path().join("out");
        fs::create_dir(&out).unwrap();
        let program = room.path().join("uv");
        fs::write(
            &program,
            "#!/bin/sh\ntest -f uv.toml && ! test -s uv.toml\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let python = "python3".into();
        let builder = Builder::Uv { program, python };
        builder
            .build(room.path(), &out, 0, false, &[])
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_hooks_repository_is_not_the_one_at_hand() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "env | grep ^GIT_; true"]);
        command.envs(OF_A_REPOSITORY.map(|name| (name, "elsewhere")));
        command.env("GIT_CONFIG_COUNT", "0");
        let output = run(command, Path::new("/")).await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.contains("GIT_CONFIG_COUNT") && !said.contains("elsewhere"),
            "{said}"
        );
    }

    /// A repository of one commit, and the hash of that.
    fn repository(directory: &Path) -> String {
        git(directory, &["init", "--quiet", "--initial-branch=main"]);
        fs::write(directory.join("a.py"), "a").unwrap();
        git(directory, &["add", "."]);
        git(directory, &["commit", "--quiet", "-m", "first"]);
        git(directory, &["rev-parse", "HEAD"])
    }

    fn git(directory: &Path, arguments: &[&str]) -> String {
        let mut command = std::process::Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@b.invalid"]);
        for name in OF_A_REPOSITORY {
            command.env_remove(name);
        }
        let output = command.current_dir(directory).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[tokio::test]
    async fn a_tag_of_a_hashs_form_is_no_commit() {
        let room = tempfile::tempdir().unwrap();
        let origin = room.path().join("origin");
        fs::create_dir(&origin).unwrap();
        let commit = repository(&origin);
        let tag = "ab".repeat(32);
        git(&origin, &["tag", &tag]);
        let url = origin.display().to_string();
        let get = async |commit: &str, to: &str| {
            let to = room.path().join(to);
            check_out("git".as_ref(), &url, commit, &to, true).await
        };
        get(&commit, "one").await.unwrap();
        assert!(room.path().join("one/a.py").is_file());
        let error = get(&tag, "two").await.unwrap_err().to_string();
        assert_eq!(error, format!("{tag} is no commit, but leads to {commit}"));
    }

    #[tokio::test]
    async fn submodules_elsewhere_are_not_asked_for_offline() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let room = tempfile::tempdir().unwrap();
        let origin = room.path().join("origin");
        fs::create_dir(&origin).unwrap();
        let first = repository(&origin);
        let module = format!(
            "[submodule \"m\"]\npath = m\nurl = http://{}/m\n",
            listener.local_addr().unwrap()
        );
        fs::write(origin.join(".gitmodules"), module).unwrap();
        let link = format!("160000,{first},m");
        git(&origin, &["add", ".gitmodules"]);
        git(&origin, &["update-index", "--add", "--cacheinfo", &link]);
        git(&origin, &["commit", "--quiet", "-m", "second"]);
        let commit = git(&origin, &["rev-parse", "HEAD"]);
        let url = origin.display().to_string();
        let to = room.path().join("to");
        let done = check_out("git".as_ref(), &url, &commit, &to, true).await;
        let error = done.unwrap_err().to_string();
        assert!(error.contains("transport 'http' not allowed"), "{error}");
        assert!(listener.accept().is_err(), "somebody was asked");
    }
}
