//! An image as Lambda runs it: pulled by skopeo, unpacked by umoci, its own entry point and command
//! under the genuine runtime interface emulator, on a read-only root directory.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::http;
use crate::support::image::Image;
use crate::support::is_root;
use crate::support::process;
use crate::support::process::Process;
use crate::support::process::run;
use crate::support::program;
use crate::support::tool;

/// The root directory of an image.
pub(crate) struct Root {
    directory: TempDir,
    config: Value,
}

impl Root {
    /// Pulls `reference` from a registry on loopback and unpacks it.
    pub(crate) fn pull(reference: &str) -> Root {
        Root::copy(&format!("docker://{reference}"))
    }

    /// Unpacks an image that skopeo names: `docker://…`, `oci:…`, `oci-archive:…`, `docker-archive:…`.
    pub(crate) fn copy(source: &str) -> Root {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let layout = directory.path().join("image");
        let mut skopeo = Command::new(program("skopeo", "skopeo"));
        skopeo.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            source,
        ]);
        run(skopeo.arg(format!("oci:{}:unpacked", layout.display())));
        let mut umoci = Command::new(program("umoci", "umoci"));
        umoci.args([
            "unpack",
            "--keep-dirlinks",
            "--image",
            &format!("{}:unpacked", layout.display()),
        ]);
        if !is_root() {
            umoci.arg("--rootless");
        }
        run(umoci.arg(directory.path().join("bundle")));
        // A temporary directory is its owner's alone, but the function runs as someone else.
        for path in [directory.path().to_owned(), directory.path().join("bundle")] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .expect("our own directory");
        }
        let config = Image::in_directory(&layout).config["config"].clone();
        Root { directory, config }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("bundle/rootfs")
    }

    /// What a running function answers to one event.
    pub(crate) fn answer(&self, event: &str) -> String {
        self.start().answer(event)
    }

    /// Starts the function; it may be asked several times.
    pub(crate) fn start(&self) -> Function {
        for directory in ["proc", "dev", "tmp", "usr/local/bin"] {
            fs::create_dir_all(self.path().join(directory)).expect("a directory can be made");
        }
        let emulator = if cfg!(target_arch = "aarch64") {
            "aws-lambda-rie-arm64"
        } else {
            "aws-lambda-rie-x86_64"
        };
        let inside = self.path().join("usr/local/bin/aws-lambda-rie");
        fs::copy(tool(emulator), inside).expect("the emulator can be copied");
        let address = free_address();
        let mut command = process::command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        if !is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-c", ENTER, "sh"]).arg(self.path());
        // From here on, what is run inside: its variables, then how its root directory is entered.
        command
            .args(self.strings("Env"))
            .arg(program("unshare", "util-linux"));
        if is_root() {
            command.args(["--setuid", "993", "--setgid", "990"]);
        }
        command
            .arg("--root")
            .arg(self.path())
            .args(["--wd", self.working_directory()]);
        command.arg("/usr/local/bin/aws-lambda-rie");
        command.args([
            "--runtime-interface-emulator-address",
            &address,
            "--runtime-api-address",
            &free_address(),
        ]);
        command
            .args(self.strings("Entrypoint"))
            .args(self.strings("Cmd"));
        Function {
            process: Process::start(command, self.directory.path().join("log")),
            address,
        }
    }

    fn working_directory(&self) -> &str {
        self.config["WorkingDir"]
            .as_str()
            .filter(|path| !path.is_empty())
            .unwrap_or("/")
    }

    fn strings(&self, field: &str) -> Vec<String> {
        let values = self.config[field].as_array().cloned().unwrap_or_default();
        values
            .iter()
            .map(|value| value.as_str().expect("the field holds text").to_owned())
            .collect()
    }
}

/// Lambda's own view: nothing but /tmp can be written, and only the image's variables are set. The shell
/// stays, as the first process of its namespace: it dies with the tests and takes all others along, which
/// the emulator would not do, because a change of user clears the signal that the kernel is to send.
const ENTER: &str = r#"
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
shift
env -i "$@"
exit $?
"#;

/// A function that runs under the emulator, until it is dropped.
pub(crate) struct Function {
    process: Process,
    address: String,
}

impl Function {
    /// Posts one event and gives the body of the answer.
    pub(crate) fn answer(&mut self, event: &str) -> String {
        let url = format!(
            "http://{}/2015-03-31/functions/function/invocations",
            self.address
        );
        let answer = self.process.wait_for("the emulator", |_| {
            http::send("POST", &url, &[], event.as_bytes().to_vec()).ok()
        });
        assert_eq!(
            answer.status,
            200,
            "{}\n{}",
            answer.text(),
            self.process.log()
        );
        answer.text()
    }
}

/// An address on loopback that nobody listens on. Ports below those that the kernel gives away by itself,
/// different ones for each run of the tests, so that nobody takes it before it is used.
pub(crate) fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + (std::process::id() * 97 + step) % 12_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
