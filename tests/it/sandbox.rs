//! The sandbox with real programs in it: what they see, what they may do, and that nothing of them stays.
//!
//! The library is used as the command uses it, with the command as the helper.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use lambimg::blob_store::BlobStore;
use lambimg::digest::Digest;
use lambimg::lambda::sandbox::{
    Error, Exit, MAX_LAYERS, Process, Program, Sandbox, SpawnError, Spec,
};
use lambimg::oci::Descriptor;
use lambimg::oci::unpack::unpack;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

const MIB: u64 = 1 << 20;
/// Where the test that is killed says which sandbox it had.
const OWNER: &str = "LAMBIMG_TEST_OWNER";

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A layer with a shell, a few programs and this machine's Python, made once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sandbox-image-2");
        if !place.exists() {
            let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let root = work.path().join("root");
            make_image(&root);
            // Another process may have been faster.
            let _ = fs::rename(root, &place);
        }
        place
    })
}

fn make_image(root: &Path) {
    let script = "import os, sys, sysconfig; \
        print(os.path.realpath(sys.executable)); print(sysconfig.get_path('stdlib'))";
    let found = output(Command::new("python3").args(["-c", script]));
    let (python, library) = found.trim().split_once('\n').unwrap();
    let place = root
        .join("py/lib")
        .join(Path::new(library).file_name().unwrap());
    fs::create_dir_all(&place).unwrap();
    for entry in fs::read_dir(library).unwrap() {
        let entry = entry.unwrap();
        let left_out = [
            "site-packages",
            "dist-packages",
            "test",
            "idlelib",
            "ensurepip",
        ];
        if !left_out.contains(&&*entry.file_name().to_string_lossy()) {
            output(Command::new("cp").arg("-rL").arg(entry.path()).arg(&place));
        }
    }
    let copy = |from: &str, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    let mut libraries = BTreeSet::new();
    // Its `ctypes` needs one more.
    let script = "import _ctypes; print(_ctypes.__file__)";
    let ctypes = output(Command::new("python3").args(["-c", script]));
    for (from, to) in [
        (ctypes.trim(), "py/ctypes.so"),
        (python, "py/bin/python3"),
        ("/bin/sh", "bin/sh"),
        ("/bin/cat", "bin/cat"),
        ("/bin/sleep", "bin/sleep"),
        ("/usr/bin/id", "bin/id"),
        ("/bin/ls", "bin/ls"),
    ] {
        copy(from, to);
        let listed = output(Command::new("ldd").arg(from));
        libraries.extend(
            listed
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
                .map(str::to_owned),
        );
    }
    for library in libraries {
        copy(&library, &library);
    }
    fs::create_dir_all(root.join("var/task")).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A store of its own, where an unprivileged user may have one too.
struct Shelf {
    directory: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn spec(&self, above: &[PathBuf]) -> Spec {
        let below = [image().to_owned()];
        Spec {
            layers: below.iter().chain(above).cloned().collect(),
            places: self.directory.path().join("places"),
            memory: 512 * MIB,
            tmp: 16 * MIB,
            network: true,
        }
    }

    async fn start(&self) -> Sandbox {
        start(&self.spec(&[])).await
    }

    /// A layer in the store.
    fn layer(&self, tar: Tar) -> PathBuf {
        let store = BlobStore::open(self.directory.path().join("store")).unwrap();
        tar.unpack(&store).unwrap()
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // Its owner may not enter all of it.
        let _ = lambimg::blob_store::remove_tree(self.directory.path());
    }
}

fn helper() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lambimg"))
}

async fn start(spec: &Spec) -> Sandbox {
    Sandbox::start(helper(), spec).await.unwrap()
}

/// A tar in the making.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: tar::EntryType, name: &str, mode: u32, rest: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        let is_link = matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink);
        header.set_size(if is_link { 0 } else { rest.len() as u64 });
        // As it is: the library's own way refuses what is bad.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if is_link {
            header.as_old_mut().linkname[..rest.len()].copy_from_slice(rest.as_bytes());
        }
        header.set_cksum();
        let content = if is_link { &[] } else { rest.as_bytes() };
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, mode: u32, content: &str) -> Self {
        self.entry(tar::EntryType::Regular, name, mode, content)
    }

    fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(tar::EntryType::Directory, name, mode, "")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, name, 0o777, target)
    }

    fn unpack(self, store: &BlobStore) -> Result<PathBuf, lambimg::oci::unpack::Error> {
        let tar = self.0.into_inner().unwrap();
        let diff_id = Digest::of(&tar);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar).unwrap();
        let blob = gzip.finish().unwrap();
        let stated = Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", &blob);
        unpack(store, &stated, &diff_id, || Ok(&*blob))
    }
}

fn program(command: &[&str]) -> Program {
    Program {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        variables: vec![("PATH".to_owned(), "/py/bin:/bin".to_owned())],
        working_dir: "/var/task".to_owned(),
        framed_log: false,
    }
}

async fn finish(mut process: Process) -> (Exit, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    let both = async {
        tokio::join!(
            process.stdout.read_to_string(&mut out),
            process.stderr.read_to_string(&mut err)
        )
    };
    let patience = Duration::from_mins(1);
    let (read, errors) = tokio::time::timeout(patience, both).await.unwrap();
    read.and(errors).unwrap();
    let exit = tokio::time::timeout(patience, process.handle.wait())
        .await
        .unwrap();
    (exit, out, err)
}

/// What a script of the shell's prints.
async fn shell(sandbox: &Sandbox, script: &str) -> String {
    let process = sandbox
        .spawn(&program(&["sh", "-c", script]))
        .await
        .unwrap();
    let (exit, out, err) = finish(process).await;
    assert_eq!((exit, &*err), (Exit::Code(0), ""), "{script}: {out}");
    out
}

/// What a script of Python's prints, and how it ends.
async fn python(sandbox: &Sandbox, script: &str) -> (Exit, String, String) {
    let python = program(&["python3", "-ISc", script]);
    finish(sandbox.spawn(&python).await.unwrap()).await
}

#[tokio::test]
async fn programs_are_nobody_in_a_root_of_their_own() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    assert_eq!(
        shell(&sandbox, "id -u; id -g; pwd").await,
        "993\n990\n/var/task\n"
    );
    let seen = shell(
        &sandbox,
        "echo /proc/[0-9]*; ls /dev; cat /proc/sys/kernel/hostname",
    )
    .await;
    let mut lines = seen.lines();
    assert_eq!(lines.next().unwrap().split(' ').count(), 2, "{seen}");
    let devices = "fd full null random stderr stdin stdout tty urandom zero";
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest.join(" "), format!("{devices} sandbox"));
    let capabilities = "cat /proc/self/status";
    let status = shell(&sandbox, capabilities).await;
    for line in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert!(
            status.contains(&format!("{line}:\t0000000000000000")),
            "{status}"
        );
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    sandbox.end().await;
}

#[tokio::test]
async fn nothing_but_tmp_can_be_written() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let script = "
import errno, os
def attempt(path):
    try:
        open(path, 'w').close()
        return 'written'
    except OSError as error:
        return errno.errorcode[error.errno]
for path in ['/x', '/var/task/x', '/dev/x', '/dev/shm', '/etc/hosts', '/proc/sys/kernel/core_pattern',
             '/proc/sysrq-trigger', '/tmp/x']:
    print(path, attempt(path))
open('/dev/null', 'w').write('x')
written = 0
try:
    with open('/tmp/large', 'wb', 0) as file:
        while True:
            written += file.write(bytes(1 << 16))
except OSError as error:
    print(errno.errorcode[error.errno], written >> 20)
";
    let (exit, out, err) = python(&sandbox, script).await;
    assert_eq!((exit, &*err), (Exit::Code(0), ""));
    let lines: Vec<_> = out.lines().collect();
    // Not every kernel has the trigger.
    let refusals = [" EROFS", " EACCES", " ENOENT"];
    let is_refused = |line: &&str| refusals.iter().any(|end| line.ends_with(end));
    assert!(lines[..7].iter().all(is_refused), "{out}");
    assert_eq!(lines[7], "/tmp/x written");
    assert_eq!(lines[8], "ENOSPC 16", "{out}");
    sandbox.kill_all().await.unwrap();
    assert_eq!(shell(&sandbox, "ls /tmp").await, "large\nx\n");
    sandbox.end().await;
    assert!(!shelf.directory.path().join("places/tmp/x").exists());
}

/// What a function can do to the file that the sandbox's first process is executed from, each with what came of it.
/// Some `helper` makes the sandbox.
async fn done_to_the_first_process_s_file(helper: &Path) -> Vec<(String, String)> {
    let shelf = Shelf::new();
    let sandbox = Sandbox::start(helper, &shelf.spec(&[])).await.unwrap();
    let waiting = "import os; os.mkfifo('/tmp/fifo')";
    assert_eq!(python(&sandbox, waiting).await.0, Exit::Code(0));
    // Until somebody writes to what it is told to load, the loader waits, and the kernel shows what it executes.
    let mut executed = program(&["/proc/self/exe"]);
    let preload = ("LD_PRELOAD".to_owned(), "/tmp/fifo".to_owned());
    executed.variables = vec![preload];
    let _executed = sandbox.spawn(&executed).await.unwrap();
    let script = "
import errno, os
numbers = [number for number in os.listdir('/proc') if number.isdigit() and int(number) not in (1, os.getpid())]
assert len(numbers) == 1, numbers
file = '/proc/%s/exe' % numbers[0]
print('files', os.stat(file).st_size)
def append():
    with open(file, 'ab', 0) as opened:
        opened.write(b'x')
for name, attempt in [
    ('append', append),
    ('truncate', lambda: os.truncate(file, 0)),
    ('chmod', lambda: os.chmod(file, 0o600)),
    ('chown', lambda: os.chown(file, os.getuid(), os.getgid())),
    ('utime', lambda: os.utime(file, (0, 0))),
    ('setxattr', lambda: os.setxattr(file, 'user.x', b'x')),
    ('link', lambda: os.link(file, '/tmp/link', follow_symlinks=True)),
]:
    try:
        attempt()
        print(name, 'done')
    except OSError as error:
        print(name, errno.errorcode[error.errno])
";
    let (exit, out, err) = python(&sandbox, script).await;
    assert_eq!((exit, &*err), (Exit::Code(0), ""), "{out}");
    sandbox.end().await;
    let words = |line: &str| {
        let (name, came) = line.split_once(' ').unwrap();
        (name.to_owned(), came.to_owned())
    };
    out.lines().map(words).collect()
}

/// All of a file that its owner can change.
fn state(file: &fs::File) -> (u32, u64, i64, i64, i64, Digest) {
    let seen = file.metadata().unwrap();
    let mut bytes = Vec::new();
    (&*file).seek(SeekFrom::Start(0)).unwrap();
    (&*file).read_to_end(&mut bytes).unwrap();
    let changed = (seen.ctime(), seen.ctime_nsec());
    (
        seen.mode(),
        seen.nlink(),
        changed.0,
        changed.1,
        seen.mtime(),
        Digest::of(&bytes),
    )
}

/// A copy of the command, for what might be done to it; a file that is open for writing could not be executed.
fn copied_helper(directory: &Path) -> (PathBuf, fs::File) {
    let path = directory.join("lambimg");
    output(Command::new("cp").arg(helper()).arg(&path));
    let file = fs::File::open(&path).unwrap();
    (path, file)
}

#[tokio::test]
async fn the_program_itself_cannot_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, file) = copied_helper(directory.path());
    let before = state(&file);
    let done = done_to_the_first_process_s_file(&path).await;
    assert_eq!(state(&file), before);
    let size = file.metadata().unwrap().len();
    assert_eq!(done[0], ("files".to_owned(), size.to_string()));
    for (name, came) in &done[1..] {
        let refusals: &[&str] = match &**name {
            "link" => &["EXDEV"],
            // Before all else the kernel may see that it is being executed.
            "append" | "truncate" => &["EROFS", "ETXTBSY"],
            _ => &["EROFS"],
        };
        assert!(refusals.contains(&&**came), "{name} {came}");
    }
}

#[tokio::test]
async fn nor_can_it_where_it_has_been_removed_or_replaced() {
    let directory = tempfile::tempdir().unwrap();
    for is_replaced in [false, true] {
        let (path, file) = copied_helper(directory.path());
        fs::remove_file(&path).unwrap();
        if is_replaced {
            fs::copy("/bin/cat", &path).unwrap();
        }
        let before = state(&file);
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        let done = done_to_the_first_process_s_file(Path::new(&open)).await;
        assert_eq!(state(&file), before);
        let size = file.metadata().unwrap().len();
        assert_eq!(done[0], ("files".to_owned(), size.to_string()));
        let came = |name: &str| {
            let mut done = done.iter();
            done.find(|(attempt, _)| attempt == name).unwrap().1.clone()
        };
        for name in ["append", "truncate"] {
            assert!(["EPERM", "ETXTBSY"].contains(&&*came(name)), "{done:?}");
        }
        // Of its own sandbox's copy, which nobody else has.
        assert_eq!(came("chmod"), "done");
    }
}

#[tokio::test]
async fn names_of_hosts_are_found() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let hosts = shell(&sandbox, "cat /etc/hosts; cat /etc/resolv.conf").await;
    assert!(
        hosts.contains("127.0.0.1 localhost sandbox.localdomain"),
        "{hosts}"
    );
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(hosts.ends_with(&resolver), "{hosts}");
    let script = "import socket; print(socket.gethostbyname('sandbox.localdomain'))";
    let (_, out, err) = python(&sandbox, script).await;
    assert_eq!((&*out, &*err), ("127.0.0.1\n", ""));
}

#[tokio::test]
async fn layers_hide_what_they_remove() {
    let shelf = Shelf::new();
    let lower = Tar::new()
        .directory("a/", 0o755)
        .file("a/gone", 0o644, "1")
        .file("a/stays", 0o644, "1")
        .directory("b/", 0o755)
        .file("b/old", 0o644, "1")
        .directory("c/", 0o755)
        .file("c/old", 0o644, "1")
        .file("secret", 0o600, "1")
        .file("setuid", 0o4755, "1")
        .directory("closed/", 0o700)
        .file("closed/x", 0o644, "1")
        .entry(tar::EntryType::Link, "hard", 0o644, "a/stays")
        .link("soft", "a/stays");
    let upper = Tar::new()
        .directory("a/", 0o755)
        .file("a/.wh.gone", 0o644, "")
        .directory("b/", 0o755)
        .file("b/.wh..wh..opq", 0o644, "")
        .file("b/new", 0o644, "2")
        .file(".wh.c", 0o644, "")
        .directory("c/", 0o755)
        .file("c/new", 0o644, "2");
    let layers = [shelf.layer(lower), shelf.layer(upper)];
    let sandbox = start(&shelf.spec(&layers)).await;
    let seen = shell(&sandbox, "echo /a/* /b/* /c/*; cat /hard /soft").await;
    assert_eq!(seen, "/a/stays /b/new /c/new\n11");
    let refused = "cat /secret 2>/dev/null || echo no; ls /closed 2>/dev/null || echo no; [ -u /setuid ] || echo no";
    assert_eq!(shell(&sandbox, refused).await, "no\nno\nno\n");
    assert_eq!(sandbox.list("/a").await.unwrap(), ["stays"]);
    assert_eq!(
        sandbox.list("/").await.unwrap(),
        ["hard", "secret", "setuid", "soft"]
    );
    // As the system's own packages have it: nobody may write there.
    let strict = shelf.layer(Tar::new().directory("./", 0o555).file("f", 0o444, "strict"));
    let strict = start(&shelf.spec(&[strict])).await;
    assert_eq!(shell(&strict, "cat /f").await, "strict");
    // A layer that hides all the others leaves nothing to execute.
    let all = shelf.layer(Tar::new().file(".wh..wh..opq", 0o644, ""));
    let sandbox = start(&shelf.spec(&[layers[0].clone(), all])).await;
    assert_eq!(sandbox.list("/a").await.unwrap(), [""; 0]);
    assert_eq!(
        sandbox.list("/etc").await.unwrap(),
        ["hosts", "resolv.conf"]
    );
}

#[tokio::test]
async fn a_start_that_fails_is_told_by_its_step() {
    let shelf = Shelf::new();
    let layer = shelf.layer(
        Tar::new()
            .file("text", 0o755, "no program")
            .file("plain", 0o644, "#!/bin/sh\n")
            .file("lost", 0o755, "#!/not/there\n"),
    );
    let sandbox = start(&shelf.spec(&[layer])).await;
    let mut elsewhere = program(&["sh"]);
    elsewhere.working_dir = "/not/there".to_owned();
    let failed = sandbox.spawn(&elsewhere).await.unwrap_err();
    assert!(matches!(&failed, SpawnError::WorkingDir { path, .. } if path == "/not/there"));
    for (command, errno) in [
        ("/no", 2),
        ("no", 2),
        ("/text", 8),
        ("/plain", 13),
        ("/lost", 2),
        ("/var", 13),
    ] {
        match sandbox.spawn(&program(&[command])).await {
            Err(SpawnError::Exec { path, source }) => {
                assert_eq!((&*path, source.raw_os_error()), (command, Some(errno)));
            }
            other => panic!("{command}: {other:?}"),
        }
    }
    assert_eq!(shell(&sandbox, "echo still here").await, "still here\n");
}

#[tokio::test]
async fn programs_end_as_they_end() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let spawn = async |script| {
        sandbox
            .spawn(&program(&["sh", "-c", script]))
            .await
            .unwrap()
    };
    assert_eq!(finish(spawn("exit 7").await).await.0, Exit::Code(7));
    let mut sleeper = spawn("exec sleep 100").await;
    sleeper.handle.signal(15).await.unwrap();
    assert_eq!(sleeper.handle.wait().await, Exit::Signal(15));
    assert_eq!(sleeper.handle.wait().await, Exit::Signal(15));
    sleeper.handle.signal(15).await.unwrap();
    let mut last = spawn("sleep 100").await;
    sandbox.end().await;
    assert_eq!(last.handle.wait().await, Exit::Signal(9));
    assert!(matches!(last.handle.signal(9).await, Err(Error::Gone)));
}

#[tokio::test]
async fn framed_lines_have_a_pipe() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let mut wanted = program(&[
        "python3",
        "-ISc",
        "import os; os.write(int(os.environ['_LAMBDA_TELEMETRY_LOG_FD']), b'x')",
    ]);
    wanted.framed_log = true;
    let mut process = sandbox.spawn(&wanted).await.unwrap();
    let mut framed = String::new();
    process
        .framed
        .take()
        .unwrap()
        .read_to_string(&mut framed)
        .await
        .unwrap();
    assert_eq!(framed, "x");
    assert_eq!(process.handle.wait().await, Exit::Code(0));
    // The next one has none of it, nor of what the tests were started with.
    let (_, open, _) = python(&sandbox, "import os; print(os.listdir('/proc/self/fd'))").await;
    assert_eq!(open.split_whitespace().count(), 4, "{open}");
}

/// Forks what leaves its session and its parent, and says when all are there.
const STRAYS: &str = "
import os, time
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(1, b'x')
            while True: time.sleep(100)
        os._exit(0)
time.sleep(100)
";

async fn with_strays(sandbox: &Sandbox) -> Process {
    let script = program(&["python3", "-ISc", STRAYS]);
    let mut process = sandbox.spawn(&script).await.unwrap();
    process.stdout.read_exact(&mut [0; 20]).await.unwrap();
    process
}

#[tokio::test]
async fn strays_are_gone_when_all_are_killed() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let mut process = with_strays(&sandbox).await;
    assert!(sandbox.memory().await.now > MIB);
    sandbox.kill_all().await.unwrap();
    assert_eq!(process.handle.wait().await, Exit::Signal(9));
    assert_eq!(sandbox.memory().await.now, 0);
    let left = shell(&sandbox, "echo /proc/[0-9]*").await;
    assert_eq!(left.split_whitespace().count(), 2, "{left}");
}

/// Processes whose root has such a directory in its list of mounts.
fn processes_with(mark: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mounts = all.map(|entry| entry.path().join("mountinfo"));
    let marked =
        mounts.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(mark)));
    marked.map(|path| path.display().to_string()).collect()
}

/// The owner that the next test kills.
#[tokio::test]
#[ignore = "another test starts it"]
async fn an_owner() {
    let place = PathBuf::from(std::env::var_os(OWNER).unwrap());
    let shelf = Shelf::new();
    let mut spec = shelf.spec(&[]);
    spec.places = place.join("places");
    // The size marks its mounts.
    spec.tmp = fs::read_to_string(place.join("size"))
        .unwrap()
        .parse()
        .unwrap();
    let sandbox = start(&spec).await;
    let _process = with_strays(&sandbox).await;
    fs::write(place.join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

/// Whatever becomes of the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_outlives_a_killed_owner() {
    outlives_a_killed_owner(0, |_| {});
}

#[test]
fn nothing_outlives_a_killed_owner_whatever_the_first_process_does() {
    outlives_a_killed_owner(1, stop_first);
}

/// Has the first process of the sandbox with this mark do nothing any more.
fn stop_first(mark: &str) {
    let marked = processes_with(mark);
    let first = marked.iter().find_map(|path| {
        let status = fs::read_to_string(path.replace("mountinfo", "status")).ok()?;
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        let mut numbers = numbers.split_whitespace();
        let (outside, inside) = (numbers.next()?, numbers.next_back()?);
        (inside == "1").then(|| outside.parse().ok()).flatten()
    });
    let first = rustix::process::Pid::from_raw(first.unwrap()).unwrap();
    rustix::process::kill_process(first, rustix::process::Signal::STOP).unwrap();
}

/// A size of `/tmp` that no other test's has, in bytes and as a list of mounts says it.
fn size_of_its_own(offset: u32) -> (u64, String) {
    // In kilobytes that make whole pages.
    let kilobytes = 4 * (5_000 + u64::from(offset) * 5_000_000 + u64::from(std::process::id()));
    (kilobytes << 10, format!("size={kilobytes}k"))
}

#[tokio::test]
async fn a_sandbox_that_does_not_end_its_programs_in_time_is_gone_at_once() {
    let shelf = Shelf::new();
    let (size, mark) = size_of_its_own(2);
    let mut spec = shelf.spec(&[]);
    spec.tmp = size;
    let sandbox = start(&spec).await;
    let mut process = with_strays(&sandbox).await;
    assert!(!sandbox.is_gone());
    stop_first(&mark);
    let failed = sandbox.kill_all().await;
    assert!(matches!(failed, Err(Error::Gone)), "{failed:?}");
    assert!(sandbox.is_gone());
    let refused = sandbox.spawn(&program(&["cat"])).await;
    assert!(matches!(refused, Err(SpawnError::Sandbox(Error::Gone))));
    assert_eq!(process.handle.wait().await, Exit::Signal(9));
    sandbox.end().await;
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

fn outlives_a_killed_owner(offset: u32, before: impl FnOnce(&str)) {
    let place = tempfile::tempdir().unwrap();
    let (size, mark) = size_of_its_own(offset);
    fs::write(place.path().join("size"), size.to_string()).unwrap();
    let owner = Command::new(std::env::current_exe().unwrap())
        .args(["sandbox::an_owner", "--exact", "--ignored"])
        .env(OWNER, place.path())
        // Nobody else cleans up after it.
        .env("TMPDIR", place.path())
        .stdout(Stdio::null())
        .spawn();
    let mut owner = Killed(owner.unwrap());
    wait_until(|| place.path().join("ready").exists());
    assert!(processes_with(&mark).len() > 20);
    before(&mark);
    owner.0.kill().unwrap();
    wait_until(|| processes_with(&mark).is_empty());
}

fn wait_until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn too_much_memory_is_the_end() {
    let shelf = Shelf::new();
    let mut spec = shelf.spec(&[]);
    spec.memory = 64 * MIB;
    let sandbox = start(&spec).await;
    let script = "kept = []\nwhile True: kept.append(bytearray(b'x') * (1 << 20))";
    assert_eq!(python(&sandbox, script).await.0, Exit::Signal(9));
    let memory = sandbox.memory().await;
    assert!(memory.kills == 1 && memory.most > 64 * MIB, "{memory:?}");
    // What is shared counts once.
    let script = "
import os, time
kept = bytearray(b'x') * (40 << 20)
for _ in range(5):
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
time.sleep(0.5)
";
    let (exit, _, err) = python(&sandbox, script).await;
    assert_eq!(
        (exit, &*err),
        (Exit::Code(0), ""),
        "{:?}",
        sandbox.memory().await
    );
}

#[tokio::test]
async fn the_first_process_cannot_be_hindered() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let script = "
import errno, os, resource
def attempt(call, *arguments):
    try:
        call(*arguments)
        return 'done'
    except OSError as error:
        return errno.errorcode[error.errno]
own = os.getpid()
for pid in [1, own]:
    print(attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE, (30, 30)),
          attempt(os.setpriority, os.PRIO_PROCESS, pid, 19),
          attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0)),
          attempt(os.sched_setaffinity, pid, [next(iter(os.sched_getaffinity(0)))]))
print(attempt(os.setpriority, os.PRIO_USER, 0, 19), attempt(os.setpriority, os.PRIO_USER, 993, 19))
print(attempt(os.setpriority, os.PRIO_PROCESS, 0, 19))
";
    let (exit, out, err) = python(&sandbox, script).await;
    assert_eq!(
        (exit, &*out, &*err),
        (
            Exit::Code(0),
            "EPERM EPERM EPERM EPERM\ndone done done done\nEPERM EPERM\ndone\n",
            ""
        )
    );
}

/// The version of Landlock that the kernel has.
fn landlock_version() -> u32 {
    let script = "import ctypes; print(max(0, ctypes.CDLL(None).syscall(444, None, 0, 1)))";
    let told = output(Command::new("python3").args(["-c", script]));
    told.trim().parse().unwrap()
}

#[tokio::test]
async fn sockets_without_a_file_are_the_machines() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let name = format!("lambimg-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "
import socket
def attempt(name):
    try:
        socket.socket(socket.AF_UNIX).connect(name)
        return 'connected'
    except OSError as error:
        return error.strerror
own = socket.socket(socket.AF_UNIX)
own.bind('\\0own')
own.listen()
print(attempt('\\0own'), attempt('\\0{name}'))
"
    );
    let (exit, out, err) = python(&sandbox, &script).await;
    // Older kernels cannot keep them apart without a network of its own.
    let wanted = if landlock_version() >= 6 {
        "connected Operation not permitted\n"
    } else {
        "connected connected\n"
    };
    assert_eq!((exit, &*out, &*err), (Exit::Code(0), wanted, ""));
    drop(listener);
}

#[tokio::test]
async fn what_says_where_names_are_found_stays() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let script = "
import errno, os
for path in ['/etc/resolv.conf', '/etc/hosts']:
    for call in [lambda: os.chmod(path, 0o644), lambda: open(path, 'r+').close()]:
        try:
            call()
            print('done')
        except OSError as error:
            print(errno.errorcode[error.errno])
";
    let (exit, out, err) = python(&sandbox, script).await;
    assert_eq!((exit, &*err), (Exit::Code(0), ""));
    let is_refused = |line: &str| ["EROFS", "EACCES"].contains(&line);
    assert!(
        out.lines().all(is_refused) && out.lines().count() == 4,
        "{out}"
    );
}

/// Waits until the memory has been looked at and the most of it is more than this.
async fn most_memory(sandbox: &Sandbox, least: u64) -> u64 {
    let start = Instant::now();
    loop {
        let memory = sandbox.memory().await;
        if memory.most > least {
            return memory.most;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "{memory:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_most_memory_is_of_those_that_run() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let script =
        "kept = bytearray(b'x') * (100 << 20)\nprint(flush=True)\nimport time; time.sleep(100)";
    let large = program(&["python3", "-ISc", script]);
    let mut large = sandbox.spawn(&large).await.unwrap();
    large.stdout.read_exact(&mut [0; 1]).await.unwrap();
    most_memory(&sandbox, 100 * MIB).await;
    sandbox.kill_all().await.unwrap();
    // They can still be told of.
    assert!(sandbox.memory().await.most > 100 * MIB);
    let mut small = sandbox.spawn(&program(&["sleep", "100"])).await.unwrap();
    let most = most_memory(&sandbox, 0).await;
    assert!(most < 50 * MIB, "{most}");
    small.handle.signal(9).await.unwrap();
    small.handle.wait().await;
}

#[tokio::test]
async fn segments_that_are_left_end_the_sandbox() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let segment = |flags: &str| {
        format!(
            "
import ctypes
c = ctypes.CDLL(None)
c.shmat.restype = ctypes.c_void_p
number = c.shmget(0, 8 << 20, 0o1600)
place = c.shmat(number, None, 0)
ctypes.memset(place, 1, 8 << 20)
{flags}
print(number >= 0)
"
        )
    };
    // One that goes with its process is no matter.
    let (exit, out, err) = python(&sandbox, &segment("c.shmctl(number, 0, None)")).await;
    assert_eq!((exit, &*out, &*err), (Exit::Code(0), "True\n", ""));
    sandbox.kill_all().await.unwrap();
    assert!(!sandbox.is_gone());
    let (exit, out, err) = python(&sandbox, &segment("")).await;
    assert_eq!((exit, &*out, &*err), (Exit::Code(0), "True\n", ""));
    let ended = sandbox.kill_all().await;
    assert!(matches!(ended, Err(Error::Gone)), "{ended:?}");
    assert!(sandbox.is_gone());
}

#[tokio::test]
async fn files_in_tmp_are_no_memory() {
    let shelf = Shelf::new();
    let mut spec = shelf.spec(&[]);
    spec.memory = 64 * MIB;
    spec.tmp = 256 * MIB;
    let sandbox = start(&spec).await;
    let script = "
import mmap, time
with open('/tmp/file', 'wb+') as file:
    file.truncate(150 << 20)
    mapped = mmap.mmap(file.fileno(), 0)
for page in range(0, len(mapped), 4096):
    mapped[page] = 1
time.sleep(0.3)
print(len(mapped) >> 20)
";
    let (exit, out, err) = python(&sandbox, script).await;
    assert_eq!((exit, &*out, &*err), (Exit::Code(0), "150\n", ""));
    assert_eq!(sandbox.memory().await.kills, 0);
    // What has no name counts.
    let script = script
        .replace("file.truncate", "# ")
        .replace("file.fileno(), 0", "-1, 150 << 20");
    assert_eq!(python(&sandbox, &script).await.0, Exit::Signal(9));
    assert_eq!(sandbox.memory().await.kills, 1);
}

#[tokio::test]
async fn resources_are_limited() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let script = "
import resource as r
print([r.getrlimit(n) for n in (r.RLIMIT_NOFILE, r.RLIMIT_NPROC, r.RLIMIT_CORE)])
";
    let (_, out, err) = python(&sandbox, script).await;
    assert_eq!(
        (&*out, &*err),
        ("[(1024, 1024), (1024, 1024), (1, 1)]\n", "")
    );
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_program_stops_nothing() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let script = "import os; os.mkfifo('/tmp/program', 0o755); os.chmod('/tmp/program', 0o755)";
    assert_eq!(python(&sandbox, script).await.0, Exit::Code(0));
    let pipe = program(&["/tmp/program"]);
    let started = tokio::time::timeout(Duration::from_secs(20), sandbox.spawn(&pipe));
    let refused = started.await.expect("it answers").unwrap_err();
    assert!(
        matches!(&refused, SpawnError::Exec { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied),
        "{refused:?}"
    );
    assert_eq!(shell(&sandbox, "echo still").await, "still\n");
}

#[tokio::test]
async fn what_is_said_may_be_long() {
    let shelf = Shelf::new();
    let many = shelf.directory.path().join("many");
    fs::create_dir_all(many.join("opt/extensions/directory")).unwrap();
    let names: Vec<_> = (0..9_000).map(|number| format!("{number:040}")).collect();
    for name in &names {
        fs::write(many.join("opt/extensions").join(name), "").unwrap();
    }
    let sandbox = start(&shelf.spec(&[many])).await;
    assert_eq!(sandbox.list("/opt/extensions").await.unwrap(), names);
    for (path, is_there) in [
        (&*format!("/opt/extensions/{}", names[0]), true),
        ("/opt/extensions/absent", false),
        ("/opt/extensions/directory", false),
    ] {
        assert_eq!(sandbox.has_file(path).await.unwrap(), is_there, "{path}");
    }
    // Of one variable the kernel takes 128 KiB.
    let mut counts = program(&[
        "python3",
        "-ISc",
        "import os; print(sum(map(len, os.environ.values())))",
    ]);
    counts.variables = (0..6)
        .map(|number| (format!("V{number}"), "x".repeat(120_000)))
        .collect();
    counts
        .variables
        .push(("PATH".to_owned(), "/py/bin".to_owned()));
    let (exit, out, err) = finish(sandbox.spawn(&counts).await.unwrap()).await;
    assert_eq!((exit, &*out, &*err), (Exit::Code(0), "720007\n", ""));
    counts.variables[0].1 = "x".repeat(140_000);
    let refused = sandbox.spawn(&counts).await.unwrap_err();
    assert!(
        matches!(&refused, SpawnError::Exec { source, .. } if source.kind() == std::io::ErrorKind::ArgumentListTooLong),
        "{refused:?}"
    );
}

/// The owner that the next test starts in its own way.
#[tokio::test]
#[ignore = "another test starts it"]
async fn a_strange_owner() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let status = shell(&sandbox, "cat /proc/self/status").await;
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    // The C library keeps two signals to itself, and lets nobody say what they do.
    let ignored = value("SigIgn:") & !(0b11 << 31);
    let umask = status.contains("Umask:\t0022");
    assert_eq!((umask, value("SigBlk:"), ignored), (true, 0, 0), "{status}");
}

#[test]
fn how_the_owner_was_started_is_no_matter() {
    image();
    let script = "
import os, signal, sys
os.umask(0o077)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGRTMIN):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMAX})
os.execv(sys.argv[1], [sys.argv[1], 'sandbox::a_strange_owner', '--exact', '--ignored'])
";
    let said = output(
        Command::new("python3")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap()),
    );
    assert!(said.contains("1 passed"), "{said}");
}

/// Where the test that is killed unpacks.
const UNPACKS: &str = "LAMBIMG_TEST_UNPACKS";

/// Begins with a tar, and never ends.
struct Endless {
    begin: std::io::Cursor<Vec<u8>>,
    ready: PathBuf,
}

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match std::io::Read::read(&mut self.begin, buffer)? {
            0 => {
                fs::write(&self.ready, "")?;
                std::thread::sleep(Duration::from_mins(2));
                Ok(0)
            }
            count => Ok(count),
        }
    }
}

fn some_layer() -> Vec<u8> {
    let tar = Tar::new()
        .directory("closed", 0o700)
        .file("closed/file", 0o600, "x")
        .file("file", 0o644, "x");
    tar.0.into_inner().unwrap()
}

/// The one that the next test kills.
#[test]
#[ignore = "another test starts it"]
fn an_unpacking() {
    let place = PathBuf::from(std::env::var_os(UNPACKS).unwrap());
    let store = BlobStore::open(place.join("store")).unwrap();
    let tar = some_layer();
    let stated = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &tar);
    let endless = Endless {
        begin: std::io::Cursor::new(tar[..2000].to_vec()),
        ready: place.join("ready"),
    };
    let _ = unpack(&store, &stated, &Digest::of(&tar), || Ok(endless));
}

#[test]
fn what_a_killed_unpacking_leaves_goes_with_the_next() {
    let place = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let unpacking = Command::new(std::env::current_exe().unwrap())
            .args(["sandbox::an_unpacking", "--exact", "--ignored"])
            .env(UNPACKS, place.path())
            .stdout(Stdio::null())
            .spawn();
        let mut unpacking = Killed(unpacking.unwrap());
        wait_until(|| place.path().join("ready").exists());
        fs::remove_file(place.path().join("ready")).unwrap();
        unpacking.0.kill().unwrap();
        unpacking.0.wait().unwrap();
    }
    let store = BlobStore::open(place.path().join("store")).unwrap();
    let left = || fs::read_dir(store.trees()).unwrap().count();
    assert_eq!(left(), 1, "one for each is too many");
    let tar = some_layer();
    let stated = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &tar);
    unpack(&store, &stated, &Digest::of(&tar), || Ok(&*tar)).unwrap();
    assert_eq!(left(), 1);
    assert!(store.tree(&Digest::of(&tar)).is_some());
}

#[tokio::test]
async fn a_family_cannot_grow_without_end() {
    let shelf = Shelf::new();
    let sandbox = shelf.start().await;
    let script = "
import os, signal
count = 0
try:
    while count < 3000:
        if os.fork() == 0:
            signal.pause()
        count += 1
except BlockingIOError:
    pass
print(count < 1500, flush=True)
os.kill(-1, signal.SIGKILL)
";
    let (exit, out, err) = python(&sandbox, script).await;
    assert_eq!((&*out, &*err), ("True\n", ""), "{exit:?}");
}

#[tokio::test]
async fn who_rests_is_seldom_looked_at() {
    let shelf = Shelf::new();
    let mut spec = shelf.spec(&[]);
    spec.memory = 64 * MIB;
    let sandbox = start(&spec).await;
    let waited = async || {
        let script = "
import time
def count():
    with open('/proc/1/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('voluntary'))
before = count()
time.sleep(2)
print(count() - before)
";
        let (_, out, _) = python(&sandbox, script).await;
        out.trim().parse::<u32>().unwrap()
    };
    let closely = waited().await;
    sandbox.watch(false).await;
    let seldom = waited().await;
    assert!(2 * seldom < closely, "{seldom} {closely}");
    // The limit holds all the same.
    let script = "kept = bytearray(b'x') * (100 << 20)\nimport time; time.sleep(100)";
    assert_eq!(python(&sandbox, script).await.0, Exit::Signal(9));
    sandbox.watch(true).await;
    assert!(waited().await > 2 * seldom);
}

#[tokio::test]
async fn there_is_a_loopback_device_without_a_network() {
    let shelf = Shelf::new();
    let mut spec = shelf.spec(&[]);
    spec.network = false;
    let sandbox = start(&spec).await;
    let (listener, address) = sandbox.listen().await.unwrap();
    assert_eq!(address.to_string(), "127.0.0.1:9001");
    let script = "
import socket
own = socket.create_server(('127.0.0.1', 4243))
with socket.create_connection(('127.0.0.1', 9001)) as there:
    there.send(b'from inside')
peer, _ = own.accept()
print(peer.recv(100).decode())
try:
    socket.create_connection(('192.0.2.1', 80), 5)
except OSError as error:
    print(error.strerror)
";
    let process = sandbox
        .spawn(&program(&["python3", "-ISc", script]))
        .await
        .unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut told = String::new();
    peer.read_to_string(&mut told).await.unwrap();
    assert_eq!(told, "from inside");
    let mut stream = sandbox.connect(4243).await.unwrap();
    stream.write_all(b"from outside").await.unwrap();
    drop(stream);
    let (_, out, err) = finish(process).await;
    assert_eq!(
        (&*out, &*err),
        ("from outside\nNetwork is unreachable\n", "")
    );
    let refused = sandbox.connect(4244).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn many_layers_in_a_deep_place() {
    let mut shelf = Shelf::new();
    let deep = shelf.directory.path().join("a:b,c\\d ".repeat(25));
    fs::create_dir(&deep).unwrap();
    // As unpacking would make them, which takes its time.
    let layer = |number: u32| {
        let layer = deep.join(number.to_string());
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join(format!("file{number}")), "x").unwrap();
        fs::write(layer.join("last"), number.to_string()).unwrap();
        layer
    };
    // As many as there can be with the image's own, and one of them twice.
    let own = u32::try_from(MAX_LAYERS).unwrap() - 1;
    let mut layers: Vec<_> = (0..own).map(layer).collect();
    layers.push(layers[3].clone());
    let sandbox = start(&shelf.spec(&layers)).await;
    assert_eq!(
        shell(&sandbox, "echo /file* | cat; cat /last")
            .await
            .split_whitespace()
            .count(),
        MAX_LAYERS
    );
    assert_eq!(shell(&sandbox, "cat /last").await, "3");
    sandbox.end().await;
    // The limit is the kernel's.
    layers.push(layer(own));
    let refused = Sandbox::start(helper(), &shelf.spec(&layers)).await;
    assert!(matches!(refused, Err(Error::Mount { .. })));
    shelf.directory.disable_cleanup(false);
}

#[test]
fn it_works_for_an_unprivileged_user() {
    if !rustix::process::geteuid().is_root() {
        // Then every other test has shown it.
        return;
    }
    image();
    let ran = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "sandbox::",
            "--skip",
            "unprivileged",
            "--skip",
            "user_namespaces",
        ])
        .env("TMPDIR", "/tmp")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.contains(" passed"), "{told}");
    assert!(!told.contains(" 0 passed"), "{told}");
}

/// Starts one where another test has forbidden it.
#[tokio::test]
#[ignore = "another test starts it"]
async fn forbidden() {
    let shelf = Shelf::new();
    let refused = Sandbox::start(helper(), &shelf.spec(&[]))
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            Error::NoUserNamespaces {
                setting: Some("user.max_user_namespaces"),
                ..
            }
        ),
        "{refused:?}"
    );
}

#[test]
fn user_namespaces_that_are_forbidden_are_told() {
    image();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" sandbox::forbidden --exact --ignored";
    output(
        Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap()),
    );
}
