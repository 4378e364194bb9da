//! What base images take from this machine: a CPython, a shell, and the shared libraries they need.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::archive::Tree;
use crate::support::process::run;
use crate::support::python;

/// A CPython of this machine.
pub(crate) struct Cpython {
    pub(crate) minor: String,
    pub(crate) version: String,
    pub(crate) executable: PathBuf,
    pub(crate) library: Option<PathBuf>,
    pub(crate) standard_library: PathBuf,
}

impl Cpython {
    pub(crate) fn find(minor: &str) -> Cpython {
        let ask = "import json, os, platform, sys, sysconfig\n\
                   library = sysconfig.get_config_var('INSTSONAME') or ''\n\
                   library = os.path.join(sysconfig.get_config_var('LIBDIR') or '', library)\n\
                   print(json.dumps([platform.python_version(), os.path.realpath(sys.executable), library,\
                   sysconfig.get_path('stdlib')]))";
        let answer = run(Command::new(python(minor)).args(["-I", "-c", ask]));
        let [version, executable, library, standard_library] =
            serde_json::from_str::<[String; 4]>(&answer).expect("the answer is JSON");
        Cpython {
            minor: minor.to_owned(),
            version,
            executable: executable.into(),
            library: library.contains(".so").then(|| library.into()),
            standard_library: standard_library.into(),
        }
    }

    /// Interpreter and standard library, without what a function never needs.
    pub(crate) fn copy_to(&self, tree: &mut Tree, prefix: &str) {
        let minor = &self.minor;
        tree.copy(&format!("{prefix}/bin/python{minor}"), &self.executable);
        tree.link(&format!("{prefix}/bin/python3"), &format!("python{minor}"));
        tree.link(&format!("{prefix}/bin/python"), "python3");
        if let Some(library) = &self.library {
            let name = library
                .file_name()
                .expect("a library has a name")
                .to_string_lossy();
            tree.copy(&format!("{prefix}/lib/{name}"), library);
        }
        let to = format!("{prefix}/lib/python{minor}");
        tree.copy_all(&to, &self.standard_library, &is_left_out);
        tree.directory(&format!("{to}/site-packages"), 0o755);
    }

    /// All that the loader may be asked to load.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let modules =
            fs::read_dir(self.standard_library.join("lib-dynload")).expect("CPython has modules");
        let modules = modules.map(|entry| entry.expect("a directory can be read").path());
        let modules = modules.filter(|path| {
            !path
                .file_name()
                .is_some_and(|name| is_left_out(&name.to_string_lossy()))
        });
        modules
            .chain([self.executable.clone()])
            .chain(self.library.clone())
            .collect()
    }
}

/// Names in the standard library that only developers use.
fn is_left_out(name: &str) -> bool {
    let whole = [
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
    ];
    whole.contains(&name)
        || ["_test", "_tkinter", "config-", "xxlimited"]
            .iter()
            .any(|start| name.starts_with(start))
}

/// What every root directory has: a shell, and places for the kernel's file systems.
pub(crate) fn ground(tree: &mut Tree) {
    let shell = fs::canonicalize("/bin/sh").expect("this machine has a shell");
    tree.copy("usr/bin/sh", &shell);
    tree.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
    tree.file("etc/group", "root:x:0:\n", 0o644);
    for directory in ["dev", "proc", "sys", "run"] {
        tree.directory(directory, 0o755);
    }
    tree.directory("root", 0o700);
}

/// Copies the loader and each shared library that the files and the shell need; `ldd` knows which.
pub(crate) fn copy_closure(tree: &mut Tree, directory: &str, files: &[PathBuf]) {
    let own = files
        .iter()
        .filter_map(|file| file.file_name())
        .collect::<BTreeSet<_>>();
    let said = run(Command::new("ldd").arg("/bin/sh").args(files));
    let found = said.lines().filter_map(|line| {
        let words = line.split_whitespace().collect::<Vec<_>>();
        // Either "name => /path (address)" or, for the loader, "/path (address)".
        let path = words
            .iter()
            .find(|word| word.starts_with('/') && !word.ends_with(':'))?;
        Some(PathBuf::from(*path))
    });
    let found = found.collect::<BTreeSet<_>>();
    for path in &found {
        let name = path.file_name().expect("a library has a name");
        if own.contains(name) {
            continue;
        }
        let name = name.to_string_lossy();
        tree.copy(&format!("{directory}/{name}"), path);
        if name.starts_with("ld-linux") {
            // The kernel looks for the loader where the ABI says: in /lib or /lib64, links to below /usr.
            let place = path
                .parent()
                .expect("a loader has a directory")
                .to_string_lossy();
            let link = format!(
                "usr/{}/{name}",
                place.trim_start_matches("/usr").trim_matches('/')
            );
            if link != format!("{directory}/{name}") {
                tree.link(&link, &format!("/{directory}/{name}"));
            }
        }
    }
    // Packages load these without any module of CPython needing them.
    for name in [
        "libgcc_s.so.1",
        "libstdc++.so.6",
        "libutil.so.1",
        "librt.so.1",
        "libdl.so.2",
        "libpthread.so.0",
    ] {
        if let Some(path) = existing(name) {
            tree.copy(&format!("{directory}/{name}"), &path);
        }
    }
}

/// A library in one of the directories where distributions keep them.
fn existing(name: &str) -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let directories = [multiarch.as_str(), "/usr/lib64", "/usr/lib"];
    directories
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
}
