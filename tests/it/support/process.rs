//! Processes that end with the tests, however those end: dropped, panicked or killed.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a process that was just started may take before it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process whose output is kept in a file and which is killed on drop.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts what `command` described, with all its output in `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Process {
        let file = File::create(&log).expect("a log can be created");
        command.stdin(Stdio::null());
        command
            .stdout(file.try_clone().expect("a log can be shared"))
            .stderr(file);
        let child =
            spawn(command).unwrap_or_else(|error| panic!("setpriv does not start: {error}"));
        Process { child, log }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Asks again and again until there is an answer; an end of the process or of patience is a failure.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut ask: impl FnMut(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask(&self.log()) {
                return answer;
            }
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none(),
                "{what}: the process ended ({ended:?}):\n{}",
                self.log()
            );
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: nothing after {PATIENCE:?}:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command whose process the kernel kills when the tests are gone.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Spawns from one thread that lives as long as the tests do: the kernel's signal comes when the
/// *thread* that spawned ends, and a test's own thread may end before others are done with its process.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, received) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in received {
                // Nobody waits for the answer only when the test has panicked meanwhile.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, received) = mpsc::channel();
    let orders = keeper
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    orders.send((command, answer)).expect("the keeper lives");
    received.recv().expect("the keeper answers")
}

/// Runs a command to its end; a failure shows everything that it said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8(output.stdout).expect("output is text")
}
