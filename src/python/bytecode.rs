//! Source becomes bytecode: a few interpreters of the target's version, each asked over pipes for one file after
//! another, so that only the first pays for its start.
//!
//! A `.pyc` is what PEP 552 has as unchecked: its header is the hash of its source, which nobody holds against the
//! file, so neither dates nor a read-only disk make it stale. Compiling executes nothing of what it compiles. What
//! comes out follows from path, source and the interpreter's version alone: `marshal` sees to the form, a fixed hash
//! seed, a stack of one depth and an empty environment to the rest. That a file does not compile is said only where
//! the compiler says so; what befalls an interpreter is an error. Where files lie and what they are for is not known
//! here.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crate::python::interpreter::{self, Interpreter};
use crate::python::marshal;

/// Changes whenever the bytes made of the same source by the same interpreter do.
pub const FORMAT: &str = "pyc 1: unchecked hash; canonical marshal";
/// Processes at most; more would wait for memory.
const MAX_PARALLEL: usize = 4;
/// Files that wait for a process: memory is bounded by them, and no process waits for a file to be read.
const QUEUE: usize = 16;
/// As long as one file may take, in seconds of the interpreter's own time, so that a busy machine changes nothing.
const LIMIT: u32 = 60;
/// As long as an interpreter may take until it is there.
const PATIENCE: Duration = Duration::from_mins(1);
/// More than any file system takes for a name, in bytes.
const LONGEST_NAME: usize = 255;
/// More than any module; an answer that says to be longer is none.
const LONGEST: u32 = 1 << 30;
/// The status of an answer that is bytecode.
const COMPILED: u8 = 0;
/// The status of why a file does not compile; any other is that of an accident.
const REFUSED: u8 = 1;

/// Runs the interpreter of its arguments without its environment, but for what the loader needs to find libraries.
/// It itself is started as one is that is asked what it is, so that whoever answers there comes as far here.
const STARTER: &str = r#"
import os, sys
kept = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH" or name.startswith("DYLD_")}
kept["PYTHONHASHSEED"] = "0"
os.execve(sys.argv[1], sys.argv[1:], kept)
"#;

/// Serves one file after another until its input ends. Of the interpreter's own directories none is the current one.
const SERVER: &str = r#"
import sys
sys.path[:] = [place for place in sys.path if place]
import gc, importlib.util, marshal, signal, struct, threading

limit = float(sys.argv[1])
commands, answers = sys.stdin.buffer, sys.stdout.buffer
# The default ends the process: nothing else gets out of a compiler.
signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
# Trees of syntax are freed without it.
gc.disable()

def take():
    length = commands.read(4)
    if len(length) < 4:
        sys.exit(0)
    return commands.read(struct.unpack("<I", length)[0])

def answer(status, data):
    answers.write(struct.pack("<BI", status, len(data)) + data)
    answers.flush()

def refuses(error, source):
    if isinstance(error, (SyntaxError, ValueError, OverflowError, RecursionError)):
        return True
    if not isinstance(error, MemoryError):
        return False
    # The parser's own limit, which is a count; before 3.12 it has no words.
    if sys.version_info >= (3, 12):
        return "Parser stack overflowed" in str(error)
    if str(error) or len(source) > 1 << 20:
        return False
    try:
        # More than so small a source can take: where it is to be had, memory was not short.
        bytearray(256 << 20)
    except MemoryError:
        return False
    return True

magic = importlib.util.MAGIC_NUMBER

def serve():
    answer(0, magic + ("%s %s" % (sys.implementation.name, sys.version.split()[0])).encode())
    while True:
        path, source = take().decode(), take()
        signal.setitimer(signal.ITIMER_VIRTUAL, limit)
        try:
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
            data = magic + struct.pack("<I", 1) + importlib.util.source_hash(source) + marshal.dumps(code)
            code, status = None, 0
        except Exception as error:
            data = ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace")[:1000]
            status = 1 if refuses(error, source) else 2
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        answer(status, data)

# How deep code may be nested must not follow from the limits of whoever started this.
threading.stack_size(64 << 20)
thread = threading.Thread(target=serve)
thread.start()
thread.join()
"#;

/// Magic number, flags and hash of the source: what stands before the code.
const HEADER: usize = 16;
const MAGIC: usize = 4;

/// Why nothing can be compiled at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interpreter does not start.
    #[error("cannot run `{}` to compile with", path.display())]
    Start {
        /// The interpreter.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is another one than it was.
    #[error("`{}` is {is}, and was {was}", path.display())]
    Other {
        /// The interpreter.
        path: PathBuf,
        /// What it says now.
        is: String,
        /// What it was chosen as.
        was: String,
    },
    /// Something befell the interpreter, which says nothing of the file.
    #[error("the interpreter ended while it compiled {path}: {reason}")]
    Ended {
        /// The file.
        path: String,
        /// What is known of it.
        reason: String,
    },
    /// The threads that serve are gone.
    #[error("compiling was given up")]
    Gone,
}

/// What came of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiled {
    /// The whole `.pyc`.
    Bytecode(Vec<u8>),
    /// It does not compile, and why.
    Not(String),
}

/// Interpreters that compile. Cheap to clone; none is started before there is something to compile, and all end with
/// the last clone.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    executable: PathBuf,
    minor: u8,
    identity: String,
    limit: f64,
    parallel: usize,
    jobs: OnceLock<SyncSender<Job>>,
}

struct Job {
    path: String,
    source: Vec<u8>,
    reply: Sender<Result<Compiled, Error>>,
}

/// A file that is being compiled.
#[derive(Debug)]
pub struct Pending(Receiver<Result<Compiled, Error>>);

impl Pending {
    /// Waits for it.
    ///
    /// # Errors
    /// When there is no interpreter to compile with.
    pub fn wait(self) -> Result<Compiled, Error> {
        self.0.recv().map_err(|_| Error::Gone)?
    }
}

/// Where the import system of `CPython` 3.`minor` looks for the bytecode of the module at `source`, a path that ends
/// in `.py`; nowhere if no file can have such a name.
pub fn cached_path(minor: u8, source: &str) -> Option<String> {
    let (directory, name) = source.rsplit_once('/').unwrap_or(("", source));
    let stem = name.strip_suffix(".py").filter(|stem| !stem.is_empty())?;
    let name = format!("{stem}.cpython-3{minor}.pyc");
    let slash = if directory.is_empty() { "" } else { "/" };
    (name.len() <= LONGEST_NAME).then(|| format!("{directory}{slash}__pycache__/{name}"))
}

impl Pool {
    /// A pool of processes of `interpreter`.
    pub fn new(interpreter: &Interpreter) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with(interpreter, processors.min(MAX_PARALLEL), f64::from(LIMIT))
    }

    fn with(interpreter: &Interpreter, parallel: usize, limit: f64) -> Self {
        Self {
            inner: Arc::new(Inner {
                executable: interpreter.executable.clone(),
                minor: interpreter.minor,
                identity: format!("{} {}", interpreter.implementation, interpreter.version),
                limit,
                parallel,
                jobs: OnceLock::new(),
            }),
        }
    }

    /// Implementation and exact version, as `cpython 3.12.7`: beside path and source all that decides a `.pyc`.
    pub fn identity(&self) -> &str {
        &self.inner.identity
    }

    /// Has `source` compiled as the file at `path`, an absolute one; waits while too many others wait.
    pub fn compile(&self, path: String, source: Vec<u8>) -> Pending {
        let (reply, receiver) = mpsc::channel();
        let jobs = self.inner.jobs.get_or_init(|| self.start());
        // Nobody there to take it is seen by whoever waits.
        let _ = jobs.send(Job {
            path,
            source,
            reply,
        });
        Pending(receiver)
    }

    fn start(&self) -> SyncSender<Job> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..self.inner.parallel {
            let mut server = Server {
                executable: self.inner.executable.clone(),
                minor: self.inner.minor,
                identity: self.inner.identity.clone(),
                limit: self.inner.limit,
                process: None,
            };
            let jobs = Arc::clone(&receiver);
            thread::spawn(move || {
                while let Some(job) = next(&jobs) {
                    // Who asked may have given up.
                    let _ = job.reply.send(server.compile(&job.path, &job.source));
                }
            });
        }
        sender
    }
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    jobs.recv().ok()
}

/// One thread's process, started when it is needed, and again when it is gone.
struct Server {
    executable: PathBuf,
    minor: u8,
    identity: String,
    limit: f64,
    process: Option<Process>,
}

impl Server {
    fn compile(&mut self, path: &str, source: &[u8]) -> Result<Compiled, Error> {
        let mut reason = format!("it is gone, or took more than {} s", self.limit);
        // An accident need not happen twice.
        for _ in 0..2 {
            let mut process = match self.process.take() {
                Some(process) => process,
                None => self.start()?,
            };
            match process.compile(path, source) {
                Ok((COMPILED, bytes)) if bytes.len() > HEADER => {
                    self.process = Some(process);
                    return Ok(self.in_one_form(&bytes));
                }
                Ok((REFUSED, bytes)) => {
                    self.process = Some(process);
                    return Ok(Compiled::Not(String::from_utf8_lossy(&bytes).into_owned()));
                }
                Ok((COMPILED, _)) => "its answer is too short".clone_into(&mut reason),
                Ok((_, bytes)) => reason = String::from_utf8_lossy(&bytes).into_owned(),
                Err(_) => {}
            }
        }
        Err(Error::Ended {
            path: path.to_owned(),
            reason,
        })
    }

    fn in_one_form(&self, bytes: &[u8]) -> Compiled {
        let (header, code) = bytes.split_at(HEADER);
        match marshal::canonical(code, self.minor) {
            Ok(code) => Compiled::Bytecode([header, &code].concat()),
            Err(error) => Compiled::Not(format!("its bytecode is not understood: {error}")),
        }
    }

    fn start(&self) -> Result<Process, Error> {
        let start = |source| Error::Start {
            path: self.executable.clone(),
            source,
        };
        let started = Process::start(&self.executable, self.limit, PATIENCE);
        let (process, hello) = started.map_err(start)?;
        let is = hello.get(MAGIC..).unwrap_or_default();
        if is == self.identity.as_bytes() {
            return Ok(process);
        }
        Err(Error::Other {
            path: self.executable.clone(),
            is: String::from_utf8_lossy(is).into_owned(),
            was: self.identity.clone(),
        })
    }
}

struct Process {
    child: Child,
    /// Nothing once it is to end.
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// A process, and what it says when it is there. Neither the user's own directories nor `site` nor any variable
    /// reaches it; `-I` would keep the hash seed out, too.
    fn start(executable: &Path, limit: f64, patience: Duration) -> io::Result<(Self, Vec<u8>)> {
        let mut child = interpreter::isolated(executable)
            .args(["-S", "-B", "-c", STARTER])
            .arg(executable)
            .args(["-s", "-S", "-B", "-W", "ignore", "-c", SERVER])
            .arg(limit.to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let input = child.stdin.take().ok_or_else(gone)?;
        let mut output = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let hello = answer(&mut output);
            // Nobody there to take it has given up.
            let _ = sender.send((output, hello));
        });
        let Ok((output, hello)) = receiver.recv_timeout(patience) else {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        };
        let process = Self {
            child,
            input: Some(BufWriter::new(input)),
            output,
        };
        Ok((process, hello?.1))
    }

    fn compile(&mut self, path: &str, source: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        for field in [path.as_bytes(), source] {
            let length = u32::try_from(field.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            input.write_all(&length.to_le_bytes())?;
            input.write_all(field)?;
        }
        input.flush()?;
        answer(&mut self.output)
    }
}

/// A status and what comes with it.
fn answer(output: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    output.read_exact(&mut head)?;
    let [status, length @ ..] = head;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    if output.take(length.into()).read_to_end(&mut bytes)? as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((status, bytes))
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that waits for a file ends by itself; one that does not is no use to anybody.
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::interpreter;

    fn bytecode(pool: &Pool, source: &str) -> Vec<u8> {
        let pending = pool.compile("/var/task/m.py".to_owned(), source.into());
        match pending.wait().unwrap() {
            Compiled::Bytecode(bytes) => bytes,
            Compiled::Not(reason) => panic!("{reason}"),
        }
    }

    fn refused(pool: &Pool, source: &[u8]) -> String {
        match pool
            .compile("/var/task/m.py".to_owned(), source.to_vec())
            .wait()
        {
            Ok(Compiled::Not(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Distinct modules with constants that one process would share.
    fn modules() -> Vec<String> {
        let module = |n: usize| {
            format!(
                "import os\nA = ('shared', {n}, 1.5, b'x')\nclass C{n}:\n    'doc'\n    def f(self, *, k='shared'):\n        \
                return [x for x in k if x in {{'a', 'b', None, {n}}}]\n"
            )
        };
        (0..40).map(module).collect()
    }

    #[test]
    fn neither_order_nor_the_number_of_processes_changes_a_byte() {
        let python = interpreter::installed();
        let one = Pool::with(&python, 1, 60.0);
        let three = Pool::with(&python, 3, 60.0);
        let modules = modules();
        let compile_all = |pool: &Pool, backwards: bool| {
            let mut order: Vec<_> = modules.iter().enumerate().collect();
            if backwards {
                order.reverse();
            }
            let pending = order.into_iter().map(|(place, module)| {
                let pending = pool.compile(format!("/var/task/m{place}.py"), module.clone().into());
                (place, pending)
            });
            let mut pending: Vec<_> = pending.collect();
            pending.sort_by_key(|(place, _)| *place);
            let done = pending
                .into_iter()
                .map(|(_, pending)| pending.wait().unwrap());
            done.collect::<Vec<_>>()
        };
        let forwards = compile_all(&one, false);
        assert!(
            forwards
                .iter()
                .all(|done| matches!(done, Compiled::Bytecode(_)))
        );
        assert!(forwards == compile_all(&three, true));
        assert!(forwards == compile_all(&one, true));
    }

    #[test]
    fn the_header_is_that_of_an_unchecked_hash_and_the_path_the_one_given() {
        let python = interpreter::installed();
        let pool = Pool::with(&python, 1, 60.0);
        let bytes = bytecode(&pool, "x = 1\n");
        assert_eq!(bytes[4..8], [1, 0, 0, 0]);
        let name = b"/var/task/m.py";
        assert!(bytes.windows(name.len()).any(|window| window == name));
        let tag = python.minor;
        assert_eq!(
            cached_path(tag, "a/b/__init__.py"),
            Some(format!("a/b/__pycache__/__init__.cpython-3{tag}.pyc"))
        );
        assert_eq!(
            cached_path(tag, "m.py"),
            Some(format!("__pycache__/m.cpython-3{tag}.pyc"))
        );
        assert_eq!(cached_path(tag, "m.pyc"), None);
        assert_eq!(cached_path(tag, "a/.py"), None);
        let longest = "m".repeat(LONGEST_NAME - format!(".cpython-3{tag}.pyc").len());
        assert!(cached_path(tag, &format!("a/{longest}.py")).is_some());
        assert_eq!(cached_path(tag, &format!("a/m{longest}.py")), None);
    }

    #[test]
    fn what_does_not_compile_is_told_and_the_next_file_is_compiled() {
        let pool = Pool::with(&interpreter::installed(), 1, 60.0);
        let syntax = refused(&pool, b"print 'two'\n");
        assert!(syntax.starts_with("SyntaxError: "), "{syntax}");
        let encoding = refused(&pool, b"# coding: nonsense\n");
        assert!(encoding.starts_with("SyntaxError: "), "{encoding}");
        assert!(refused(&pool, b"x = 1\0").contains("null bytes"));
        assert!(!bytecode(&pool, "# coding: latin-1\nx = 1\n").is_empty());
    }

    /// Before Python 3.12 the parser says so as if memory were short.
    #[test]
    fn what_is_nested_too_deep_is_left_as_it_is() {
        let pool = Pool::with(&interpreter::installed(), 1, 60.0);
        let chain = "elif x == 1: pass\n".repeat(7_000);
        let reason = refused(&pool, format!("if x: pass\n{chain}").as_bytes());
        assert!(reason.contains("Error"), "{reason}");
        assert!(!bytecode(&pool, "x = 1\n").is_empty());
    }

    #[test]
    fn one_that_takes_too_long_is_an_error_and_replaced() {
        let pool = Pool::with(&interpreter::installed(), 1, 0.05);
        let long = "x = [1, 'a', y, f(z)]\n".repeat(200_000);
        let error = pool
            .compile("/m.py".to_owned(), long.into())
            .wait()
            .unwrap_err();
        insta::assert_snapshot!(error, @"the interpreter ended while it compiled /m.py: it is gone, or took more than 0.05 s");
        assert!(!bytecode(&pool, "x = 1\n").is_empty());
    }

    /// A program that does as `lines` say before it is the interpreter with the same arguments.
    fn wrapped(lines: &str, directory: &Path) -> Interpreter {
        use std::os::unix::fs::PermissionsExt as _;
        let mut python = interpreter::installed();
        let script = directory.join("python");
        let real = python.executable.display();
        let text = format!("#!/bin/sh\n{lines}\nexec {real} \"$@\"\n");
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        python.executable = script;
        python
    }

    #[test]
    fn what_befalls_the_interpreter_says_nothing_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let python = wrapped("ulimit -v 400000", directory.path());
        let pool = Pool::with(&python, 1, 60.0);
        let large = "x = [1, 'a', y, f(z)]\n".repeat(200_000);
        let error = pool
            .compile("/m.py".to_owned(), large.into())
            .wait()
            .unwrap_err();
        assert!(matches!(error, Error::Ended { .. }), "{error}");
        assert!(!bytecode(&pool, "x = 1\n").is_empty());
    }

    #[test]
    fn limits_of_the_stack_change_nothing() {
        let deep = format!("x = {}1\n", "-".repeat(3000));
        let outcome = |lines: &str| {
            let directory = tempfile::tempdir().unwrap();
            let python = wrapped(lines, directory.path());
            let pool = Pool::with(&python, 1, 60.0);
            pool.compile("/m.py".to_owned(), deep.clone().into())
                .wait()
                .unwrap()
        };
        let usual = outcome("");
        assert_eq!(usual, outcome("ulimit -s 512"));
        assert_eq!(usual, outcome("ulimit -s 32768"));
    }

    #[test]
    fn variables_of_the_loader_reach_it_and_others_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let lines = r#"case "$1" in
-I) export LD_LIBRARY_PATH=/nowhere PYTHONOPTIMIZE=2 ;;
*) [ "$LD_LIBRARY_PATH$PYTHONOPTIMIZE" = /nowhere ] || exit 1 ;;
esac"#;
        let python = wrapped(lines, directory.path());
        let pool = Pool::with(&python, 1, 60.0);
        let source = "def f():\n    'doc'\n    assert f\n";
        let plain = Pool::with(&interpreter::installed(), 1, 60.0);
        assert!(bytecode(&pool, source) == bytecode(&plain, source));
    }

    #[test]
    fn one_that_never_says_that_it_is_there_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let python = wrapped("sleep 5", directory.path());
        let started = Process::start(&python.executable, 60.0, Duration::from_millis(50));
        let kind = started.err().map(|error| error.kind());
        assert_eq!(kind, Some(io::ErrorKind::TimedOut));
    }

    #[test]
    fn another_interpreter_than_the_chosen_one_is_no_use() {
        let mut python = interpreter::installed();
        python.version = "3.1.4".to_owned();
        let pool = Pool::with(&python, 1, 60.0);
        let error = pool
            .compile("/m.py".to_owned(), Vec::new())
            .wait()
            .unwrap_err();
        assert!(matches!(error, Error::Other { .. }), "{error}");
        python.executable = PathBuf::from("/nowhere/python");
        let pool = Pool::with(&python, 1, 60.0);
        let error = pool
            .compile("/m.py".to_owned(), Vec::new())
            .wait()
            .unwrap_err();
        insta::assert_snapshot!(error, @"cannot run `/nowhere/python` to compile with");
    }
}
