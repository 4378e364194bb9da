//! A base from a machine made for the test, laid out as no system is, and from this one, run.
//!
//! The made machine has ELF files of a few hundred bytes that hold only what a loader reads, so the
//! whole tree can be shown; this one proves that what is read is what loaders do.

use super::linker::Linker;
use super::*;
use crate::progress::Event;
use crate::python::interpreter;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::{Command, Output};
use std::sync::Mutex;
use tempfile::TempDir;

const X86_64: u16 = 62;
const AARCH64: u16 = 183;
const NEEDED: u64 = 1;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;

/// An ELF file: header, two or three program headers, dynamic entries, strings.
fn elf(machine: u16, loader: Option<&str>, entries: &[(u64, &str)]) -> Vec<u8> {
    // In memory all lies higher than in the file, so that addresses are no offsets.
    const BASE: u64 = 0x40_0000;
    let segments = 2 + u64::from(loader.is_some());
    let dynamic = 64 + 56 * segments;
    let strings = dynamic + 16 * (entries.len() as u64 + 3);
    let mut text = vec![0];
    let mut table = Vec::new();
    for (tag, string) in entries {
        table.extend([*tag, text.len() as u64]);
        text.extend(string.bytes().chain([0]));
    }
    table.extend([5, BASE + strings, 10, text.len() as u64, 0, 0]);
    let interpreter = strings + text.len() as u64;
    text.extend(loader.unwrap_or_default().bytes().chain([0]));
    let end = strings + text.len() as u64;

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend([0, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    let halves = [64, 56, u16::try_from(segments).unwrap(), 64, 0, 0];
    file.extend(halves.map(u16::to_le_bytes).concat());
    let mut segment = |kind: u32, start: u64, size: u64| {
        file.extend([kind, 4].map(u32::to_le_bytes).concat());
        let fields = [start, BASE + start, BASE + start, size, size, 8];
        file.extend(fields.map(u64::to_le_bytes).concat());
    };
    segment(1, 0, end);
    segment(2, dynamic, strings - dynamic);
    if let Some(loader) = loader {
        segment(3, interpreter, loader.len() as u64 + 1);
    }
    file.extend(table.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(text);
    file
}

/// A machine in a temporary directory.
struct Made {
    directory: TempDir,
}

impl Made {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.directory.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(path), bytes).unwrap();
        self
    }

    fn library(&self, path: &str, needed: &[&str]) -> &Self {
        let entries: Vec<_> = needed.iter().map(|name| (NEEDED, *name)).collect();
        self.file(path, elf(X86_64, None, &entries))
    }

    fn program(&self, path: &str, entries: &[(u64, &str)]) -> &Self {
        self.file(path, elf(X86_64, Some("/lib64/ld.so"), entries));
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(path), executable).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        symlink(target, self.path(path)).unwrap();
        self
    }

    fn without(&self, path: &str) -> &Self {
        fs::remove_file(self.path(path)).unwrap();
        self
    }

    fn host(&self) -> Host {
        Host::at(self.directory.path())
    }

    fn closure(&self, program: &str) -> Result<Vec<String>, Error> {
        let host = self.host();
        let mut linker = Linker::new(&host, Path::new(program), None)?;
        let found = linker.closure(Path::new(program), &[])?;
        let paths = found.values().map(|path| host.walk(path).unwrap().real);
        Ok(paths.map(|path| path.display().to_string()).collect())
    }
}

/// A merged `/usr` with `lib64`, a library in a configured directory, and an interpreter that has a
/// prefix of its own, where it finds its library by `$ORIGIN`.
fn made() -> Made {
    let made = Made::new();
    made.link("/bin", "usr/bin")
        .link("/lib", "usr/lib")
        .link("/lib64", "usr/lib64")
        .library("/usr/lib64/ld-2.so", &[])
        .link("/usr/lib64/ld.so", "/lib64/ld-2.so")
        .library("/usr/lib64/libc.so.6", &["ld.so"])
        .library("/usr/lib64/libtinfo.so.6.4", &["libc.so.6"])
        .link("/usr/lib64/libtinfo.so.6", "libtinfo.so.6.4")
        .library("/usr/lib64/libm.so.6", &["libc.so.6"])
        .file("/etc/ld.so.conf", "# none\ninclude ld.so.conf.d/*.conf\n")
        .file("/etc/ld.so.conf.d/a.conf", "/usr/local/lib # ours\n")
        .file("/etc/ld.so.conf.d/a.conf.old", "/old\n")
        .library("/usr/local/lib/libodd.so.1.2", &["libc.so.6"])
        .link("/usr/local/lib/libodd.so.1", "libodd.so.1.2")
        .program("/usr/bin/bash", &[(NEEDED, "libtinfo.so.6")])
        .link("/usr/bin/sh", "bash")
        .file("/usr/bin/env", "#!/usr/bin/all-tools\n")
        .file("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "CA")
        .link(
            "/etc/pki/tls/certs/ca-bundle.crt",
            "../../ca-trust/extracted/pem/tls-ca-bundle.pem",
        )
        .file("/etc/hostname", "secret")
        .file("/usr/lib/locale/C.utf8/LC_CTYPE", "")
        .file("/usr/share/zoneinfo/UTC", "")
        .file("/usr/share/zoneinfo/posix/UTC", "")
        .file("/etc/localtime", "")
        .link("/usr/share/zoneinfo/localtime", "/etc/localtime");
    put_python(&made);
    made
}

fn put_python(made: &Made) {
    let library = "/home/me/py/lib/python3.12";
    let at = |path: &str| format!("{library}/{path}");
    made.program(
        "/home/me/py/bin/python3.12",
        &[
            (NEEDED, "libpython3.12.so.1.0"),
            (NEEDED, "libc.so.6"),
            (RUNPATH, "$ORIGIN/../lib:/elsewhere"),
        ],
    )
    .library("/home/me/py/lib/libpython3.12.so.1.0", &["libm.so.6"])
    .library("/home/me/py/lib/libown.so.1", &[])
    .file(&at("os.py"), "")
    .file(
        &at("_sysconfigdata__linux.py"),
        "{'LIBDIR': '/home/me/py/lib'}",
    )
    .file(
        &at("json/__init__.py"),
        "'/home/me/py stays here: no such path is recorded'",
    )
    .link(&at("linked.py"), "json/__init__.py")
    .link(&at("sitecustomize.py"), "/etc/sitecustomize.py")
    .link(&at("dangling.py"), "nowhere");
    for left in [
        "__pycache__/os.cpython-312.pyc",
        "config-3.12/libpython3.12.a",
        "distutils/command/wininst.exe",
        "ensurepip/__init__.py",
        "json/__pycache__/x.pyc",
        "json/tests/test_json.py",
        "site-packages/pip/__init__.py",
        "test/test_os.py",
        "tkinter/__init__.py",
    ] {
        made.file(&at(left), "");
    }
    made.library(&at("lib-dynload/_ssl.so"), &["libodd.so.1"])
        .file(
            &at("lib-dynload/_own.so"),
            elf(
                X86_64,
                None,
                &[(NEEDED, "libown.so.1"), (RPATH, "$ORIGIN/../..")],
            ),
        )
        .library(&at("lib-dynload/_gdbm.so"), &["libgdbm.so.6"])
        .library(&at("lib-dynload/_testcapi.so"), &["libgdbm.so.6"])
        .library(&at("lib-dynload/_tkinter.so"), &["libtk.so"]);
}

fn interpreter() -> Interpreter {
    let prefix = PathBuf::from("/home/me/py");
    let library = prefix.join("lib/python3.12");
    Interpreter {
        executable: prefix.join("bin/python3.12"),
        implementation: "cpython".to_owned(),
        major: 3,
        minor: 12,
        version: "3.12.1".to_owned(),
        abi_flags: String::new(),
        machine: "x86_64".to_owned(),
        glibc: Some((2, 36)),
        prefix: prefix.clone(),
        base_prefix: prefix.clone(),
        library_directory: "lib64".to_owned(),
        stdlib: library.clone(),
        platstdlib: library.clone(),
        lib_dynload: Some(library.join("lib-dynload")),
        site_packages: vec![library.join("dist-packages")],
        shared_library: Some(prefix.join("lib/libpython3.12.so.1.0")),
        certificate_file: Some("/lib64/ssl/cert.pem".into()),
    }
}

/// Every path with its kind, a letter each: directory, file, executable, link.
fn shown(tree: &FileTree) -> String {
    let line = |(path, entry): (&ImagePath, &file_tree::Entry)| match &entry.node {
        Node::Directory => format!("d {path}"),
        Node::Symlink(target) => format!("l {path} -> {target}"),
        Node::File { executable, .. } => {
            format!("{} {path}", if *executable { 'x' } else { 'f' })
        }
    };
    tree.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn content(tree: &FileTree, path: &str) -> String {
    let entry = tree.get(path).unwrap();
    let Node::File { content, .. } = &entry.node else {
        panic!("{path} is no file");
    };
    io::read_to_string(content.open().unwrap()).unwrap()
}

#[test]
fn a_machine_becomes_a_base() {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let progress = Progress::new(move |event| {
        if let Event::Warning(text) = event {
            heard.lock().unwrap().push(text);
        }
    });
    let made = made();
    let tree = collect(&made.host(), &interpreter(), &progress).unwrap();
    insta::assert_snapshot!(shown(&tree), @r"
    l /bin -> usr/bin
    d /dev
    d /etc
    f /etc/group
    f /etc/hosts
    f /etc/nsswitch.conf
    f /etc/passwd
    d /etc/pki
    d /etc/pki/tls
    d /etc/pki/tls/certs
    l /etc/pki/tls/certs/ca-bundle.crt -> /etc/ssl/certs/ca-certificates.crt
    d /etc/ssl
    d /etc/ssl/certs
    f /etc/ssl/certs/ca-certificates.crt
    l /lib -> usr/lib
    l /lib64 -> usr/lib64
    d /opt
    d /proc
    d /root
    d /sys
    d /tmp
    d /usr
    d /usr/bin
    x /usr/bin/bash
    l /usr/bin/sh -> bash
    d /usr/lib
    d /usr/lib/locale
    d /usr/lib/locale/C.utf8
    f /usr/lib/locale/C.utf8/LC_CTYPE
    d /usr/lib64
    f /usr/lib64/ld-2.so
    l /usr/lib64/ld.so -> /lib64/ld-2.so
    f /usr/lib64/libc.so.6
    f /usr/lib64/libm.so.6
    l /usr/lib64/libodd.so.1 -> /usr/local/lib/libodd.so.1.2
    l /usr/lib64/libown.so.1 -> /var/lang/lib/libown.so.1
    l /usr/lib64/libpython3.12.so.1.0 -> /var/lang/lib/libpython3.12.so.1.0
    l /usr/lib64/libtinfo.so.6 -> libtinfo.so.6.4
    f /usr/lib64/libtinfo.so.6.4
    d /usr/lib64/ssl
    l /usr/lib64/ssl/cert.pem -> /etc/ssl/certs/ca-certificates.crt
    d /usr/local
    d /usr/local/lib
    l /usr/local/lib/libodd.so.1 -> libodd.so.1.2
    f /usr/local/lib/libodd.so.1.2
    d /usr/share
    d /usr/share/zoneinfo
    f /usr/share/zoneinfo/UTC
    d /var
    d /var/lang
    d /var/lang/bin
    l /var/lang/bin/python -> python3.12
    l /var/lang/bin/python3 -> python3.12
    x /var/lang/bin/python3.12
    d /var/lang/lib
    f /var/lang/lib/libown.so.1
    f /var/lang/lib/libpython3.12.so.1.0
    d /var/lang/lib/python3.12
    f /var/lang/lib/python3.12/_sysconfigdata__linux.py
    l /var/lang/lib/python3.12/dist-packages -> site-packages
    d /var/lang/lib/python3.12/json
    f /var/lang/lib/python3.12/json/__init__.py
    d /var/lang/lib/python3.12/lib-dynload
    f /var/lang/lib/python3.12/lib-dynload/_own.so
    f /var/lang/lib/python3.12/lib-dynload/_ssl.so
    f /var/lang/lib/python3.12/linked.py
    f /var/lang/lib/python3.12/os.py
    d /var/lang/lib/python3.12/site-packages
    l /var/lang/lib64 -> lib
    d /var/runtime
    d /var/task
    ");
    insta::assert_snapshot!(warnings.lock().unwrap().join("\n"), @"`/home/me/py/lib/python3.12/lib-dynload/_gdbm.so` is left out of the base: `/home/me/py/lib/python3.12/lib-dynload/_gdbm.so` needs `libgdbm.so.6`, which is not on this machine");
    let read = |path| content(&tree, path);
    insta::assert_snapshot!(read("var/lang/lib/python3.12/_sysconfigdata__linux.py"), @"{'LIBDIR': '/var/lang/lib'}");
    insta::assert_snapshot!(read("var/lang/lib/python3.12/linked.py"), @"'/home/me/py stays here: no such path is recorded'");
    assert_eq!(read("etc/ssl/certs/ca-certificates.crt"), "CA");
    assert!(tree.iter().all(|(_, entry)| &*entry.owner == "base"));
    let elsewhere = self::made();
    let again = collect(&elsewhere.host(), &interpreter(), &progress).unwrap();
    assert_eq!(again.digest().unwrap(), tree.digest().unwrap());
}

#[test]
fn what_is_missing_is_named() {
    let error = |change: &dyn Fn(&Made, &mut Interpreter)| {
        let (made, mut interpreter) = (made(), interpreter());
        change(&made, &mut interpreter);
        let error = collect(&made.host(), &interpreter, &Progress::default()).unwrap_err();
        let root = made.directory.path().display().to_string();
        error.to_string().replace(&root, "")
    };
    let message = error(&|_, python| python.glibc = None);
    insta::assert_snapshot!(message, @"`/home/me/py/bin/python3.12` does not run on glibc");
    let message = error(&|made, _| {
        made.file("/home/me/py/bin/python3.12", "#!/bin/sh");
    });
    insta::assert_snapshot!(message, @"`/home/me/py/bin/python3.12` is not a 64-bit ELF file");
    let gone = |path: &str| {
        error(&|made, _| {
            made.without(path);
        })
    };
    insta::assert_snapshot!(gone("/home/me/py/bin/python3.12"), @"cannot read `/home/me/py/bin/python3.12`");
    insta::assert_snapshot!(gone("/usr/bin/sh"), @"no shell at `/bin/sh`");
    insta::assert_snapshot!(gone("/usr/lib64/libtinfo.so.6"), @"library `libtinfo.so.6`, which `/usr/bin/bash` needs, is in none of `/usr/local/lib`, `/lib/x86_64-linux-gnu`, `/usr/lib/x86_64-linux-gnu`, `/lib64`, `/usr/lib64`, `/lib`, `/usr/lib`");
    insta::assert_snapshot!(gone("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"), @"no bundle of certificates at `/etc/ssl/certs/ca-certificates.crt`, `/etc/pki/tls/certs/ca-bundle.crt`, `/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem`, `/etc/ssl/ca-bundle.pem`, `/etc/ssl/cert.pem`, `/lib64/ssl/cert.pem`");
    let cut = &elf(X86_64, None, &[(NEEDED, "libc.so.6")])[..100];
    let message = error(&|made, _| {
        made.file("/usr/lib64/libm.so.6", cut);
    });
    insta::assert_snapshot!(message, @"`/usr/lib64/libm.so.6` is a damaged ELF file");
}

#[test]
fn a_library_search_path_is_handed_on_by_rpath_alone() {
    let search = |kind| {
        let made = Made::new();
        made.program(
            "/p/bin/program",
            &[(NEEDED, "liba.so"), (kind, "${ORIGIN}/../lib")],
        )
        .library("/p/lib/liba.so", &["libb.so"])
        .library("/p/lib/libb.so", &[]);
        made.closure("/p/bin/program")
            .map_err(|error| error.to_string())
    };
    assert_eq!(search(RPATH).unwrap(), ["/p/lib/liba.so", "/p/lib/libb.so"]);
    insta::assert_snapshot!(search(RUNPATH).unwrap_err(), @"library `libb.so`, which `/p/bin/../lib/liba.so` needs, is in none of `/lib/x86_64-linux-gnu`, `/usr/lib/x86_64-linux-gnu`, `/lib64`, `/usr/lib64`, `/lib`, `/usr/lib`");
}

#[test]
fn libraries_of_another_processor_are_passed_over() {
    let made = Made::new();
    made.program("/program", &[(NEEDED, "liba.so")])
        .file("/lib/x86_64-linux-gnu/liba.so", elf(AARCH64, None, &[]))
        .file("/usr/lib/x86_64-linux-gnu/liba.so", "INPUT(liba.a)")
        .library("/lib64/liba.so", &[]);
    assert_eq!(made.closure("/program").unwrap(), ["/lib64/liba.so"]);
}

#[test]
fn libraries_are_found_where_the_loader_finds_them() {
    let host = Host::at("/");
    let python = interpreter::installed();
    let mut files = vec![
        python.executable.clone(),
        host.walk(Path::new(SHELL)).unwrap().real,
    ];
    if let Some(directory) = &python.lib_dynload {
        let names = host.names(directory).unwrap();
        files.extend(names.iter().map(|name| directory.join(name)));
    }
    let mut linker = Linker::new(&host, &python.executable, None).unwrap();
    let mut found = BTreeSet::new();
    for file in &files {
        let closure = linker.closure(file, &[]).unwrap();
        found.extend(
            closure
                .into_values()
                .map(|path| host.walk(&path).unwrap().real),
        );
    }
    let output = Command::new("ldd")
        .args(&files)
        .env_remove("LD_LIBRARY_PATH")
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let loaded: BTreeSet<_> = output
        .lines()
        .filter_map(|line| line.split_once(" => ")?.1.split_once(" ("))
        .map(|(path, _)| fs::canonicalize(path).unwrap())
        .collect();
    // `ldd` shows the loader by its own path, without an arrow.
    let program = linker.elf(&python.executable).unwrap().unwrap();
    found.remove(&fs::canonicalize(program.loader.as_ref().unwrap()).unwrap());
    assert!(loaded.len() > 3, "{output}");
    assert_eq!(found, loaded);
}

fn materialise(tree: &FileTree, root: &Path) {
    for (path, entry) in tree.iter() {
        let at = root.join(path.as_str());
        match &entry.node {
            Node::Directory => fs::create_dir(&at).unwrap(),
            Node::Symlink(target) => symlink(target, &at).unwrap(),
            Node::File {
                content,
                executable,
            } => {
                let mut file = fs::File::create(&at).unwrap();
                io::copy(&mut content.open().unwrap(), &mut file).unwrap();
                file.flush().unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// Runs `command` with `root` as the root directory, with no variables but `variables`.
fn inside(root: &Path, variables: &[(&str, &str)], command: &[&str]) -> Output {
    let chroot = ["/usr/sbin/chroot", "/usr/bin/chroot"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("chroot in /usr/sbin or /usr/bin");
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut process = if is_root {
        Command::new(chroot)
    } else {
        let mut unshare = Command::new("/usr/bin/unshare");
        unshare.args(["--map-root-user", chroot]);
        unshare
    };
    process.env_clear().envs(variables.iter().copied());
    process.arg(root).args(command).output().unwrap()
}

#[test]
fn python_and_the_shell_run_inside_it() {
    let python = interpreter::installed();
    let tree = file_tree(&python, &Progress::default()).unwrap();
    let root = tempfile::tempdir().unwrap();
    materialise(&tree, root.path());
    let executable = format!("/var/lang/bin/python3.{}", python.minor);
    let program = "import ssl, json, ctypes, sqlite3, decimal, sys, socket, zlib
context = ssl.create_default_context()
print(sys.prefix, sys.version.split()[0], bool(context.get_ca_certs()))
print(sys.stdout.encoding, [path for path in sys.path if 'packages' in path])";
    let on_aws = [
        (
            "LD_LIBRARY_PATH",
            "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
        ),
        ("LANG", "en_US.UTF-8"),
        ("TZ", ":/etc/localtime"),
    ];
    for variables in [&on_aws[..], &[]] {
        let output = inside(root.path(), variables, &[&executable, "-B", "-c", program]);
        let written = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(complaint, "");
        let mut lines = written.lines();
        let expected = format!("/var/lang {} True", python.version);
        assert_eq!(lines.next(), Some(&*expected));
        let packages = lines.next().unwrap();
        assert!(
            packages.starts_with("utf-8 ['/var/lang/lib/python3."),
            "{packages}"
        );
        let output = inside(root.path(), variables, &["/bin/sh", "-c", "echo ok"]);
        assert_eq!(output.stdout, b"ok\n");
    }
}
