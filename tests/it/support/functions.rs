//! Functions that run: one image for each Python with a function that does what its event names, called by
//! lambimg's own verbs.
//!
//! The images are made once for all tests, in a directory of this run that a later run removes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::support::archive::Tree;
use crate::support::base::Base;
use crate::support::digest;
use crate::support::http;
use crate::support::image::Image;
use crate::support::process::command;
use crate::support::process::run;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Running;

/// The function.
const APP: &str = include_str!("functions/app.py");
/// One in a folder.
const DEEP: &str = include_str!("functions/pkg/sub/deep.py");
/// A runtime.
const STREAMER: &str = include_str!("functions/streamer.py");
/// An external extension, given its name.
pub(crate) const OBSERVER: &str = include_str!("functions/observer.py");

/// An image that can be called.
#[derive(Clone)]
pub(crate) struct Built {
    /// The OCI directory that has it alone.
    pub(crate) directory: PathBuf,
    /// The store that all images share.
    store: PathBuf,
}

/// The directory of this run.
fn ground() -> &'static Path {
    static GROUND: OnceLock<PathBuf> = OnceLock::new();
    GROUND.get_or_init(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("functions");
        for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
            let running = Path::new("/proc").join(entry.file_name());
            if !running.exists() {
                // Another run of the tests may be doing the same.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let ground = parent.join(std::process::id().to_string());
        // One that had this number before.
        let _ = fs::remove_dir_all(&ground);
        fs::create_dir_all(&ground).expect("a directory can be made");
        ground
    })
}

/// What is made once by each name.
fn once(name: &str, write: impl FnOnce(&Path)) -> Built {
    type Made = BTreeMap<String, Arc<OnceLock<()>>>;
    static MADE: Mutex<Made> = Mutex::new(Made::new());
    let once = {
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(made.entry(name.to_owned()).or_default())
    };
    let directory = ground().join(name);
    once.get_or_init(|| write(&directory));
    Built {
        directory,
        store: ground().join("store"),
    }
}

impl Built {
    /// On this machine's Python, with a runtime in place of its own that streams.
    pub(crate) fn with_own_runtime() -> Built {
        let mut files = Tree::default();
        let start = "#!/bin/sh\nexec python3 /opt/streamer.py\n";
        files.file("opt/streamer.py", STREAMER, 0o644);
        files.file("lambda-entrypoint.sh", start, 0o755);
        Built::on_host("3.12").with("streamer", &files)
    }

    /// On this machine's Python.
    pub(crate) fn on_host(python: &str) -> Built {
        once(&format!("host-{python}"), |directory| {
            build(directory, python, "host");
        })
    }

    /// On a base in the shape of Lambda's own.
    pub(crate) fn on_aws(python: &str) -> Built {
        once(&format!("aws-{python}"), |directory| {
            build(directory, python, &Base::aws_oci(python).reference());
        })
    }

    /// The same with these files above all others; `name` stands for them.
    pub(crate) fn with(&self, name: &str, files: &Tree) -> Built {
        let own = self.directory.file_name().expect("it has a name");
        once(&format!("{}-{name}", own.display()), |directory| {
            stack(&self.directory, files, |_| (), directory);
        })
    }

    /// The same where the config says it starts elsewhere.
    pub(crate) fn in_working_dir(&self, path: &str) -> Built {
        let own = self.directory.file_name().expect("it has a name");
        let name = format!("{}-in{}", own.display(), path.replace('/', "-"));
        once(&name, |directory| {
            let change = |config: &mut Value| config["config"]["WorkingDir"] = json!(path);
            stack(&self.directory, &Tree::default(), change, directory);
        })
    }

    /// The same with an observer in `/opt/extensions`.
    pub(crate) fn with_observer(&self) -> Built {
        let mut files = Tree::default();
        let start = "#!/bin/sh\nexec python3 /opt/observer/observer.py observer\n";
        files.file("opt/observer/observer.py", OBSERVER, 0o644);
        files.file("opt/extensions/observer", start, 0o755);
        // What extensions bring along is none of them.
        files.file("opt/extensions/lib/data", "", 0o644);
        self.with("observer", &files)
    }

    /// As the command line has it.
    pub(crate) fn name(&self) -> String {
        format!("oci:{}", self.directory.display())
    }

    /// What `lambimg invoke` answers and says to these events, with these flags.
    pub(crate) fn invoke(&self, flags: &[&str], events: &[Value]) -> Called {
        let project = Project::new();
        let started = Instant::now();
        let arguments = self.arguments(flags, events);
        let outcome = project
            .lambimg(arguments)
            .env("LAMBIMG_CACHE_DIR", &self.store)
            .run();
        Called {
            outcome,
            took: started.elapsed(),
        }
    }

    /// The arguments of `lambimg invoke`.
    pub(crate) fn arguments(&self, flags: &[&str], events: &[Value]) -> Vec<String> {
        let mut arguments = vec!["invoke".to_owned(), self.name()];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        for event in events {
            arguments.extend(["-d".to_owned(), event.to_string()]);
        }
        arguments
    }

    /// The store that it is unpacked in.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// Keeps it behind the Invoke API.
    pub(crate) fn serve(&self, flags: &[&str]) -> Served {
        let project = Project::new();
        let name = self.name();
        let arguments = ["serve", &name, "--port", "0", "--name", "judged"];
        // Whoever runs the tests may ignore SIGHUP, as `nohup` has it.
        let mut serve = Command::new("env");
        serve.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_lambimg")]);
        serve.args(arguments.iter().chain(flags));
        let running = project
            .run_by(serve)
            .env("LAMBIMG_CACHE_DIR", &self.store)
            .spawn();
        let mut served = Served {
            running,
            url: String::new(),
            _project: project,
        };
        served.url = served.first_line();
        served
    }
}

/// Builds the function for a Python on a base.
fn build(directory: &Path, python: &str, base: &str) {
    let project = Project::new();
    project.file("app.py", APP);
    project.file("pkg/__init__.py", "");
    project.file("pkg/app.py", "from app import handler\n");
    project.file("pkg/sub/deep.py", DEEP);
    project.file(
        "pyproject.toml",
        format!("[tool.lambimg]\npython = \"{python}\"\nhandler = \"app.handler\"\n"),
    );
    let output = format!("oci:{}", directory.display());
    let build = ["build", "--base", base, "-t", "app:1", "-o", &output];
    project
        .lambimg(build)
        .env("LAMBIMG_CACHE_DIR", ground().join("store"))
        .succeed();
}

/// Writes the image in `from` with one more layer on top and its config changed into `to`.
fn stack(from: &Path, files: &Tree, change: impl FnOnce(&mut Value), to: &Path) {
    let image = Image::in_directory(from);
    let blobs = to.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory can be made");
    for entry in fs::read_dir(from.join("blobs/sha256")).expect("an OCI directory has blobs") {
        let entry = entry.expect("a directory can be read");
        fs::hard_link(entry.path(), blobs.join(entry.file_name())).expect("one file system");
    }
    let put = |content: &[u8], media_type: &Value| {
        let name = digest(content);
        fs::write(blobs.join(&name[7..]), content).expect("a file can be written");
        json!({"mediaType": media_type, "digest": name, "size": content.len()})
    };
    let layer = files.layer();
    let (mut config, mut manifest) = (image.config, image.manifest);
    let push = |list: &mut Value, value: Value| list.as_array_mut().expect("a list").push(value);
    push(&mut config["rootfs"]["diff_ids"], json!(layer.diff_id));
    if config["history"].is_array() {
        push(&mut config["history"], json!({"created_by": "tests"}));
    }
    let media_type = manifest["layers"][0]["mediaType"].clone();
    push(&mut manifest["layers"], put(&layer.content, &media_type));
    change(&mut config);
    let media_type = manifest["config"]["mediaType"].clone();
    manifest["config"] = put(config.to_string().as_bytes(), &media_type);
    let media_type = manifest["mediaType"].clone();
    let manifest = put(manifest.to_string().as_bytes(), &media_type);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(to.join("index.json"), index.to_string()).expect("a file can be written");
    fs::copy(from.join("oci-layout"), to.join("oci-layout")).expect("a file can be copied");
}

/// What came of `lambimg invoke`.
pub(crate) struct Called {
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

impl Called {
    /// The responses, after calls that all went well.
    pub(crate) fn answers(&self) -> Vec<Value> {
        let told = self.outcome.rendering();
        assert_eq!(self.outcome.code, Some(0), "{told}");
        self.lines()
    }

    /// The only response.
    pub(crate) fn answer(&self) -> Value {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{}", self.outcome.rendering());
        answers.remove(0)
    }

    /// The only response, which is an error's document.
    pub(crate) fn error(&self) -> Value {
        let told = self.outcome.rendering();
        assert_eq!(self.outcome.code, Some(1), "{told}");
        let mut lines = self.lines();
        assert_eq!(lines.len(), 1, "{told}");
        lines.remove(0)
    }

    /// What is on stdout: a document a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.outcome.stdout.lines();
        let read = lines.map(|line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error}: {}", self.outcome.rendering()))
        });
        read.collect()
    }

    /// The log.
    pub(crate) fn log(&self) -> &str {
        &self.outcome.stderr
    }

    /// What follows `start` in each line of the log that has it.
    pub(crate) fn logged(&self, start: &str) -> Vec<String> {
        let rests = self.log().lines().filter_map(|line| {
            let (_, rest) = line.split_once(start)?;
            Some(rest.to_owned())
        });
        rests.collect()
    }
}

/// A function behind the Invoke API, until it is dropped.
pub(crate) struct Served {
    running: Running,
    pub(crate) url: String,
    _project: Project,
}

impl Served {
    fn first_line(&mut self) -> String {
        let start = Instant::now();
        loop {
            let (stdout, stderr) = self.running.so_far();
            if let Some((line, _)) = stdout.split_once('\n') {
                return line.to_owned();
            }
            let ended = self.running.has_ended();
            let patient = start.elapsed() < Duration::from_mins(1);
            assert!(!ended && patient, "no address:\n{stdout}{stderr}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.running.so_far().1
    }

    /// The most memory that the server has had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.running.peak()
    }

    /// What boto3 makes of calls, as `caller.py` says it in JSON.
    pub(crate) fn boto3(&self, what: &[&str]) -> Value {
        let mut python = command(super::python("3.12"));
        python.args(["-c", include_str!("functions/caller.py"), &self.url]);
        python
            .args(what)
            .env("PYTHONPATH", super::tool("moto"))
            .env("AWS_EC2_METADATA_DISABLED", "true");
        // Whatever proxy leads outside, loopback is reached without it.
        python
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        serde_json::from_str(&run(&mut python)).expect("it prints JSON")
    }

    /// One call as the emulator would be called; the answer with its headers.
    pub(crate) fn post(&self, headers: &[(&str, &str)], event: &Value) -> http::Answer {
        let url = format!("{}/2015-03-31/functions/judged/invocations", self.url);
        let body = event.to_string().into_bytes();
        http::send("POST", &url, headers, body).expect("it answers")
    }

    /// Ends it as Ctrl-C does.
    pub(crate) fn end(self, patience: Duration) -> Outcome {
        self.end_by("INT", patience)
    }

    /// Ends it by a signal.
    pub(crate) fn end_by(mut self, signal: &str, patience: Duration) -> Outcome {
        self.running.signal(signal);
        self.running.outcome(patience)
    }
}

/// Runs a command as the first in a namespace of processes and one of mounts of its own, and tells what it left
/// there: its standard output, then a line `left: …` for each process, mount and file that was not there before.
pub(crate) fn run_alone(
    script: &str,
    arguments: &[String],
    environment: &[(&str, &Path)],
) -> String {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !super::is_root() {
        command.arg("--map-root-user");
    }
    let whole = format!("{BEFORE}{script}{AFTER}");
    command.args(["bash", "-c", &whole, "bash"]).args(arguments);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    command.envs(environment.iter().copied());
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("unshare is everywhere");
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

const BEFORE: &str = "before=$(cat /proc/self/mountinfo)\n";
/// What is dead and waits for its parent is gone; the shell and its substitution are known.
const AFTER: &str = r#"
for directory in /proc/[0-9]*; do
    number=${directory#/proc/}
    [ "$number" = 1 ] && continue
    { read -r line < "$directory/stat"; } 2>/dev/null || continue
    case "${line##*) }" in Z*) continue ;; esac
    echo "left: process $line"
done
after=$(cat /proc/self/mountinfo)
[ "$before" = "$after" ] || echo "left: mounts $after"
"#;
