//! The sandbox with real programs in it: what they see, what they may do, and that nothing of them stays.
//!
//! The library is used as the command uses it, with the command as the helper.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use lambimg::blob_store::BlobStore;
use lambimg::digest::Digest;
use lambimg::lambda::sandbox::{Error, Exit, Helper, Process, Program, Sandbox, SpawnError, Spec};
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
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sandbox-image");
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
    for (from, to) in [
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

fn helper() -> &'static Helper {
    static HELPER: LazyLock<Helper> =
        LazyLock::new(|| Helper::of(Path::new(env!("CARGO_BIN_EXE_lambimg"))).unwrap());
    &HELPER
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
    let place = tempfile::tempdir().unwrap();
    // No other test's, in kilobytes that make whole pages.
    let kilobytes = 4 * (5_000 + u64::from(std::process::id()));
    let mark = format!("size={kilobytes}k");
    fs::write(place.path().join("size"), (kilobytes << 10).to_string()).unwrap();
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
        ("[(1024, 1024), (1024, 1024), (0, 0)]\n", "")
    );
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
    let store = BlobStore::open(deep).unwrap();
    let layer = |number: u32| {
        let tar = Tar::new().file(&format!("file{number}"), 0o644, "x").file(
            "last",
            0o644,
            &number.to_string(),
        );
        tar.unpack(&store).unwrap()
    };
    // One of them twice.
    let layers: Vec<_> = (0..100).chain([3]).map(layer).collect();
    let sandbox = start(&shelf.spec(&layers)).await;
    assert_eq!(
        shell(&sandbox, "echo /file* | cat; cat /last")
            .await
            .split_whitespace()
            .count(),
        101
    );
    assert_eq!(shell(&sandbox, "cat /last").await, "3");
    sandbox.end().await;
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
