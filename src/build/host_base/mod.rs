//! `--base host`: a base image in AWS's layout, made from this machine's own Python.
//!
//! For machines that reach no registry, and for tests: the files of one interpreter with everything
//! that its loader would ask for, each library at the very path where this machine has it, so that
//! the loader finds there what it finds here. Files are listed and ELF headers read, nothing is run.
//!
//! What tells one machine from another stays behind: no host name, machine id, resolver, clock or
//! time zone; users and name services are generated. A tree has no modes beyond 0755 and 0644, so
//! `/tmp` is not 1777 here: Lambda mounts its own, and whoever runs the image elsewhere must too.
//!
//! An installation is large and changes with the system's packages, so its files are read once and then only
//! listed, see [`Listing`]; this holds for no other files of an image, least of all the function's.
//!
//! This room never knows registries, layers, functions, nor the image's variables and entry point.

mod host;
mod linker;
mod listing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::host::{Host, follow, read_error};
use self::linker::Linker;
pub use self::listing::Listing;
use crate::file_tree::{self, Content, FileTree, ImagePath, Node, PathError};
use crate::progress::Progress;
use crate::python::interpreter::Interpreter;

/// Who brought the files.
const OWNER: &str = "base";

/// Where AWS has the interpreter.
const LANG: &str = "/var/lang";

/// Prefixes that an interpreter shares with the rest of the machine.
const SHARED_PREFIXES: [&str; 3] = ["/", "/usr", "/usr/local"];

/// What the image's users, Lambda or the kernel expect to be there, empty.
const DIRECTORIES: [&str; 8] = [
    "/dev",
    "/opt",
    "/proc",
    "/root",
    "/sys",
    "/tmp",
    "/var/runtime",
    "/var/task",
];

/// Directories that are links on machines with a merged `/usr`.
const MERGED: [&str; 4] = ["/bin", "/sbin", "/lib", "/lib64"];

/// The one tool that an entry point may count on.
const SHELL: &str = "/bin/sh";

/// How the first line of exec wrappers and extensions names their interpreter.
const SHEBANG_TOOLS: [&str; 2] = ["/bin/bash", "/usr/bin/env"];

/// Libraries that manylinux wheels take for granted, and those that glibc loads by itself.
const EXPECTED_LIBRARIES: [&str; 19] = [
    "libanl.so.1",
    "libatomic.so.1",
    "libc.so.6",
    "libcrypt.so.1",
    "libdl.so.2",
    "libexpat.so.1",
    "libgcc_s.so.1",
    "libm.so.6",
    "libmvec.so.1",
    "libnsl.so.1",
    "libnss_compat.so.2",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libstdc++.so.6",
    "libutil.so.1",
    "libz.so.1",
];

/// The library whose directory the loader searches without being told.
const C_LIBRARY: &str = "libc.so.6";

/// Where systems keep the authorities they trust, in one file.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Read-only data that the standard library and glibc look for at these places.
const DATA: [&str; 2] = ["/usr/lib/locale/C.utf8", "/usr/share/zoneinfo"];

/// Generated: the host's own would tell who uses it.
const GENERATED: [(&str, &str); 4] = [
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    (
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
];

/// Why no base can be made from this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Lambda's libraries and manylinux wheels are for glibc.
    #[error("`{}` does not run on glibc", executable.display())]
    NotGlibc {
        /// The interpreter.
        executable: PathBuf,
    },
    /// A program is not of the kind that can be read here.
    #[error("`{}` is not a 64-bit ELF file", path.display())]
    NotElf {
        /// The program.
        path: PathBuf,
    },
    /// An ELF file does not hold what its headers promise.
    #[error("`{}` is a damaged ELF file", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: object::read::Error,
    },
    /// A library is nowhere that the loader would look.
    #[error("library `{name}`, which `{}` needs, is in none of {}", wanted_by.display(), listed(searched))]
    NoLibrary {
        /// Its name, as `libz.so.1`.
        name: String,
        /// The program or library that needs it.
        wanted_by: PathBuf,
        /// The directories searched, in order.
        searched: Vec<PathBuf>,
    },
    /// Something else that the image needs is not on this machine.
    #[error("no {what} at {}", listed(tried))]
    Absent {
        /// What.
        what: &'static str,
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// Links lead in a circle.
    #[error("`{}` leads through more than {} symbolic links", path.display(), host::MOST_LINKS)]
    Loop {
        /// The path that was followed.
        path: PathBuf,
    },
    /// The system refused to read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name is not text.
    #[error("`{}` is not UTF-8", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// A name cannot be one in an image.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Two parts of the base want the same path.
    #[error(transparent)]
    Tree(#[from] file_tree::Error),
}

fn listed(paths: &[PathBuf]) -> String {
    let quoted: Vec<_> = paths.iter().map(|p| format!("`{}`", p.display())).collect();
    quoted.join(", ")
}

/// The files of a base image whose Python is `interpreter`, taken from this machine.
///
/// An extension module of the standard library that cannot be loaded here either, because a library
/// is missing, is left out with a warning.
///
/// # Errors
/// When the interpreter does not run on glibc, when the interpreter, the shell, one of their
/// libraries or the certificates are missing, and those of reading.
pub fn file_tree(interpreter: &Interpreter, progress: &Progress) -> Result<FileTree, Error> {
    collect(&Host::at("/"), interpreter, progress)
}

fn collect(host: &Host, interpreter: &Interpreter, progress: &Progress) -> Result<FileTree, Error> {
    let mut base = Base::new(host, interpreter)?;
    base.put_directories()?;
    base.put_interpreter()?;
    base.put_standard_library()?;
    base.put_extension_modules(progress)?;
    base.put_tools()?;
    base.put_expected_libraries(progress)?;
    base.put_data()?;
    base.put_certificates()?;
    base.put_generated()?;
    base.put_library_links()?;
    Ok(base.tree)
}

/// A base in the making.
struct Base<'a> {
    host: &'a Host,
    interpreter: &'a Interpreter,
    linker: Linker<'a>,
    tree: FileTree,
    owner: Arc<str>,
    /// Where each library is in the image, by the name it is asked for.
    libraries: BTreeMap<String, PathBuf>,
}

impl<'a> Base<'a> {
    fn new(host: &'a Host, interpreter: &'a Interpreter) -> Result<Self, Error> {
        let executable = &interpreter.executable;
        if interpreter.glibc.is_none() {
            return Err(Error::NotGlibc {
                executable: executable.clone(),
            });
        }
        Ok(Self {
            host,
            interpreter,
            linker: Linker::new(host, executable, interpreter.shared_library.clone())?,
            tree: FileTree::default(),
            owner: OWNER.into(),
            libraries: BTreeMap::new(),
        })
    }

    /// Puts `node` at `path` unless something stands there already.
    fn put(&mut self, path: &Path, node: Node) -> Result<(), Error> {
        let path = image_path(path)?;
        if self.tree.get(path.as_str()).is_none() {
            self.tree.insert(path, node, &self.owner)?;
        }
        Ok(())
    }

    /// Puts a file of this machine at `path` of the image.
    fn put_file(&mut self, path: &Path, real: &Path, metadata: &Metadata) -> Result<(), Error> {
        let node = Node::File {
            content: Content::File(self.host.on_disk(real), metadata.len()),
            executable: metadata.permissions().mode() & 0o111 != 0,
        };
        self.put(path, node)
    }

    fn put_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let target = text(target)?.to_owned();
        self.put(path, Node::Symlink(target))
    }

    /// Puts what this machine has at `path` at the same path, every link on the way included.
    ///
    /// Returns where the links led, or nothing if nothing is there.
    fn place(&mut self, path: &Path) -> Result<Option<PathBuf>, Error> {
        let walk = self.host.walk(path)?;
        let Some(metadata) = walk.metadata else {
            return Ok(None);
        };
        for (link, target) in &walk.links {
            self.put_link(link, target)?;
        }
        if metadata.is_dir() {
            self.put(&walk.real, Node::Directory)?;
        } else {
            self.put_file(&walk.real, &walk.real, &metadata)?;
        }
        Ok(Some(walk.real))
    }

    fn put_directories(&mut self) -> Result<(), Error> {
        for path in MERGED {
            if !self.host.walk(Path::new(path))?.links.is_empty() {
                self.place(Path::new(path))?;
            }
        }
        for path in DIRECTORIES {
            self.put(Path::new(path), Node::Directory)?;
        }
        Ok(())
    }

    fn put_interpreter(&mut self) -> Result<(), Error> {
        let Interpreter {
            executable, minor, ..
        } = self.interpreter;
        let name = PathBuf::from(format!("python3.{minor}"));
        let bin = Path::new(LANG).join("bin");
        let walk = self.host.walk(executable)?;
        let metadata = walk.metadata.ok_or_else(|| Error::Absent {
            what: "interpreter",
            tried: vec![executable.clone()],
        })?;
        self.put_file(&bin.join(&name), &walk.real, &metadata)?;
        self.put_link(&bin.join("python3"), &name)?;
        self.put_link(&bin.join("python"), &name)?;
        let library_directory = &self.interpreter.library_directory;
        if library_directory != "lib" {
            self.put_link(&Path::new(LANG).join(library_directory), Path::new("lib"))?;
        }
        self.put_libraries_of(executable, &[])?;
        self.put_loader_of(executable)
    }

    /// The image's directory for the standard library.
    fn library(&self) -> PathBuf {
        Path::new(LANG).join(format!("lib/python3.{}", self.interpreter.minor))
    }

    fn put_standard_library(&mut self) -> Result<(), Error> {
        let library = self.library();
        self.copy(&self.interpreter.stdlib, &library, &left_behind)?;
        if self.interpreter.platstdlib != self.interpreter.stdlib {
            self.copy(&self.interpreter.platstdlib, &library, &left_behind)?;
        }
        self.put(&library.join("lib-dynload"), Node::Directory)?;
        self.put(&library.join("site-packages"), Node::Directory)?;
        // Debian's interpreter looks for packages under another name, and not at AWS's.
        let renamed = self.interpreter.site_packages.iter().any(|path| {
            path.ends_with(format!("python3.{}/dist-packages", self.interpreter.minor))
        });
        if renamed {
            let path = library.join("dist-packages");
            self.put_link(&path, Path::new("site-packages"))?;
        }
        Ok(())
    }

    /// Copies what is below `from` to below `to`, links as what they lead to, without what `skip`
    /// says of a path relative to `from`.
    fn copy(&mut self, from: &Path, to: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<(), Error> {
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            for name in self.host.names(&from.join(&directory))? {
                let relative = directory.join(name);
                let path = from.join(&relative);
                if skip(&relative) {
                    continue;
                }
                let walk = self.host.walk(&path)?;
                match walk.metadata {
                    Some(metadata) if metadata.is_dir() => pending.push(relative),
                    Some(metadata) if metadata.is_file() => {
                        self.copy_file(&to.join(&relative), &walk.real, &metadata)?;
                    }
                    // A link that leads nowhere, or a device.
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, to: &Path, real: &Path, metadata: &Metadata) -> Result<(), Error> {
        let Some(prefix) = self.own_prefix().filter(|_| names_prefix(to)) else {
            return self.put_file(to, real, metadata);
        };
        let on_disk = self.host.on_disk(real);
        let bytes = fs::read(&on_disk).map_err(read_error(&on_disk))?;
        let moved = match String::from_utf8(bytes) {
            Ok(text) => text.replace(self::text(prefix)?, LANG).into_bytes(),
            Err(error) => error.into_bytes(),
        };
        let node = Node::File {
            content: Content::bytes(moved),
            executable: false,
        };
        self.put(to, node)
    }

    /// The interpreter's prefix when nothing else lives under it: it becomes `/var/lang`.
    fn own_prefix(&self) -> Option<&'a Path> {
        let prefix = &*self.interpreter.base_prefix;
        let shared = SHARED_PREFIXES.iter().any(|s| prefix == Path::new(s));
        (!shared).then_some(prefix)
    }

    fn put_extension_modules(&mut self, progress: &Progress) -> Result<(), Error> {
        let Some(directory) = &self.interpreter.lib_dynload else {
            return Ok(());
        };
        let inherited = self.linker.handed_on(&self.interpreter.executable)?;
        let to = self.library().join("lib-dynload");
        for name in self.host.names(directory)? {
            let from = directory.join(&name);
            let walk = self.host.walk(&from)?;
            let Some(metadata) = walk.metadata.filter(Metadata::is_file) else {
                continue;
            };
            if !is_left_module(&name)
                && self.put_optional_libraries_of(&from, &inherited, progress)?
            {
                self.put_file(&to.join(&name), &walk.real, &metadata)?;
            }
        }
        Ok(())
    }

    fn put_tools(&mut self) -> Result<(), Error> {
        let shell = Path::new(SHELL);
        let real = self.place(shell)?.ok_or_else(|| Error::Absent {
            what: "shell",
            tried: vec![shell.to_owned()],
        })?;
        self.put_libraries_of(&real, &[])?;
        self.put_loader_of(&real)?;
        for tool in SHEBANG_TOOLS {
            let walk = self.host.walk(Path::new(tool))?;
            // Where one binary is all tools, they may be scripts that call it by its path.
            if walk.metadata.is_some() && self.linker.elf(&walk.real)?.is_some() {
                self.place(Path::new(tool))?;
                self.put_libraries_of(&walk.real, &[])?;
            }
        }
        Ok(())
    }

    fn put_expected_libraries(&mut self, progress: &Progress) -> Result<(), Error> {
        for name in EXPECTED_LIBRARIES {
            let Some(path) = self.linker.find(name, &[])? else {
                continue;
            };
            if self.put_optional_libraries_of(&path, &[], progress)? {
                self.put_library(name, &path)?;
            }
        }
        Ok(())
    }

    /// Puts all libraries that the file at `path` needs, and those that these need; what loads it
    /// has them looked for in `inherited` too.
    fn put_libraries_of(&mut self, path: &Path, inherited: &[PathBuf]) -> Result<(), Error> {
        for (name, library) in self.linker.closure(path, inherited)? {
            self.put_library(&name, &library)?;
        }
        Ok(())
    }

    /// As [`Self::put_libraries_of`], but where one is missing none is put and the answer is no.
    fn put_optional_libraries_of(
        &mut self,
        path: &Path,
        inherited: &[PathBuf],
        progress: &Progress,
    ) -> Result<bool, Error> {
        match self.put_libraries_of(path, inherited) {
            Ok(()) => Ok(true),
            Err(Error::NoLibrary {
                name, wanted_by, ..
            }) => {
                progress.warn(format!(
                    "`{}` is left out of the base: `{}` needs `{name}`, which is not on this machine",
                    path.display(),
                    wanted_by.display()
                ));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn put_library(&mut self, name: &str, path: &Path) -> Result<(), Error> {
        let walk = self.host.walk(path)?;
        let mut at = walk.real.clone();
        if let (Some(moved), Some(metadata)) = (self.moved(name, &walk.real), &walk.metadata) {
            self.put_file(&moved, &walk.real, metadata)?;
            at = moved;
        } else {
            self.place(path)?;
        }
        self.libraries.entry(name.to_owned()).or_insert(at);
        Ok(())
    }

    /// Where a library of the interpreter's own goes; its place here means nothing in an image.
    fn moved(&self, name: &str, real: &Path) -> Option<PathBuf> {
        if self.linker.is_known(real) {
            return Some(Path::new(LANG).join("lib").join(name));
        }
        // Below the prefix all stay as they were to each other: `$ORIGIN` counts on it.
        let below = real.parent()?.strip_prefix(self.own_prefix()?).ok()?;
        Some(Path::new(LANG).join(below).join(name))
    }

    fn put_loader_of(&mut self, path: &Path) -> Result<(), Error> {
        let elf = self.linker.elf(path)?;
        let Some(loader) = elf.as_ref().and_then(|elf| elf.loader.as_ref()) else {
            return Ok(());
        };
        let placed = self.place(loader)?;
        placed.map(drop).ok_or_else(|| Error::Absent {
            what: "loader",
            tried: vec![loader.clone()],
        })
    }

    /// Makes every library one that the loader finds in the C library's directory.
    ///
    /// It would not look elsewhere without the host's cache, or where an absolute search path that
    /// was built into the interpreter points; `LD_LIBRARY_PATH` helps only where nobody clears it.
    fn put_library_links(&mut self) -> Result<(), Error> {
        let Some(directory) = self.libraries.get(C_LIBRARY).and_then(|path| path.parent()) else {
            return Ok(());
        };
        let directory = directory.to_owned();
        for (name, path) in std::mem::take(&mut self.libraries) {
            self.put_link(&directory.join(name), &path)?;
        }
        Ok(())
    }

    fn put_data(&mut self) -> Result<(), Error> {
        for path in DATA {
            if let Some(real) = self.place(Path::new(path))? {
                self.copy(&real, &real, &is_left_zone)?;
            }
        }
        Ok(())
    }

    /// Puts the authorities that this machine trusts where Debian, Amazon Linux and the
    /// interpreter's own OpenSSL look for them.
    fn put_certificates(&mut self) -> Result<(), Error> {
        let built_in = self.interpreter.certificate_file.as_deref();
        let tried: Vec<&Path> = BUNDLES.iter().map(Path::new).chain(built_in).collect();
        let (real, metadata) = self.first_file(&tried)?.ok_or_else(|| Error::Absent {
            what: "bundle of certificates",
            tried: tried.iter().map(|&path| path.to_owned()).collect(),
        })?;
        let bundle = Path::new(BUNDLES[0]);
        self.put_file(bundle, &real, &metadata)?;
        for path in [Path::new(BUNDLES[1])].into_iter().chain(built_in) {
            let at = self.place_in_image(path)?;
            self.put_link(&at, bundle)?;
        }
        Ok(())
    }

    /// The first of `paths` that leads to a file with something in it.
    fn first_file(&self, paths: &[&Path]) -> Result<Option<(PathBuf, Metadata)>, Error> {
        for path in paths {
            let walk = self.host.walk(path)?;
            let filled = |metadata: &Metadata| metadata.is_file() && metadata.len() > 0;
            if let Some(metadata) = walk.metadata.filter(filled) {
                return Ok(Some((walk.real, metadata)));
            }
        }
        Ok(None)
    }

    /// Where a new `path` is in the image: directories on the way may be links there.
    fn place_in_image(&self, path: &Path) -> Result<PathBuf, Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(path.to_owned());
        };
        let (_, real) = follow(parent, |path| {
            let node = self
                .tree
                .get(image_path(path)?.as_str())
                .map(|entry| &entry.node);
            Ok(match node {
                Some(Node::Symlink(target)) => Some(PathBuf::from(target)),
                _ => None,
            })
        })?;
        Ok(real.join(name))
    }

    fn put_generated(&mut self) -> Result<(), Error> {
        for (path, text) in GENERATED {
            let node = Node::File {
                content: Content::bytes(text),
                executable: false,
            };
            self.put(Path::new(path), node)?;
        }
        Ok(())
    }
}

/// What of the standard library no function needs, or what belongs to this machine alone.
fn left_behind(relative: &Path) -> bool {
    let name = relative
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    if matches!(name, "__pycache__" | "test" | "tests") {
        return true;
    }
    let top = relative.parent() == Some(Path::new(""));
    // `distutils` has installers for Windows in it.
    if !top {
        return relative.extension() == Some(OsStr::new("exe"));
    }
    let for_desktops = matches!(name, "idlelib" | "tkinter" | "turtle.py" | "turtledemo");
    let for_installers = name == "ensurepip" || name.starts_with("config-");
    let of_this_machine = matches!(
        name,
        "EXTERNALLY-MANAGED"
            | "dist-packages"
            | "site-packages"
            | "sitecustomize.py"
            | "usercustomize.py"
    );
    // Extension modules go one by one, with their libraries.
    for_desktops || for_installers || of_this_machine || name == "lib-dynload"
}

/// Whether an extension module serves the standard library's tests, or desktops.
fn is_left_module(name: &OsStr) -> bool {
    let name = name.to_str().unwrap_or_default();
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    let for_tests = stem.starts_with("_test") || stem.starts_with("xx");
    for_tests || matches!(stem, "_ctypes_test" | "_tkinter" | "_xxtestfuzz")
}

/// Whether a time zone file is this machine's own, or of the sets that count otherwise than UTC.
fn is_left_zone(relative: &Path) -> bool {
    ["localtime", "posix", "right"]
        .iter()
        .any(|name| relative == Path::new(name))
}

/// Whether a file of the standard library records the paths of the installation.
fn names_prefix(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.starts_with("_sysconfigdata")
        || name.starts_with("_sysconfig_vars")
        || name == "build-details.json"
}

fn text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Name {
        path: path.to_owned(),
    })
}

fn image_path(path: &Path) -> Result<ImagePath, Error> {
    Ok(ImagePath::new(text(path)?.trim_start_matches('/'))?)
}
