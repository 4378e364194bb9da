//! The names of CPython's standard library, for trees that do not have it: as `sys.stdlib_module_names` lists them,
//! without those that begin with `_` and those of Windows alone.
//!
//! Where a tree has the library itself, that counts and not this.

use crate::python::PythonVersion;

/// In every release line since 3.8.
const ALWAYS: &[&str] = &[
    "abc",
    "antigravity",
    "argparse",
    "array",
    "ast",
    "asyncio",
    "atexit",
    "base64",
    "bdb",
    "binascii",
    "bisect",
    "builtins",
    "bz2",
    "cProfile",
    "calendar",
    "cmath",
    "cmd",
    "code",
    "codecs",
    "codeop",
    "collections",
    "colorsys",
    "compileall",
    "concurrent",
    "configparser",
    "contextlib",
    "contextvars",
    "copy",
    "copyreg",
    "csv",
    "ctypes",
    "curses",
    "dataclasses",
    "datetime",
    "dbm",
    "decimal",
    "difflib",
    "dis",
    "doctest",
    "email",
    "encodings",
    "ensurepip",
    "enum",
    "errno",
    "faulthandler",
    "fcntl",
    "filecmp",
    "fileinput",
    "fnmatch",
    "fractions",
    "ftplib",
    "functools",
    "gc",
    "genericpath",
    "getopt",
    "getpass",
    "gettext",
    "glob",
    "graphlib",
    "grp",
    "gzip",
    "hashlib",
    "heapq",
    "hmac",
    "html",
    "http",
    "idlelib",
    "imaplib",
    "importlib",
    "inspect",
    "io",
    "ipaddress",
    "itertools",
    "json",
    "keyword",
    "linecache",
    "locale",
    "logging",
    "lzma",
    "mailbox",
    "marshal",
    "math",
    "mimetypes",
    "mmap",
    "modulefinder",
    "multiprocessing",
    "netrc",
    "ntpath",
    "nturl2path",
    "numbers",
    "opcode",
    "operator",
    "optparse",
    "os",
    "pathlib",
    "pdb",
    "pickle",
    "pickletools",
    "pkgutil",
    "platform",
    "plistlib",
    "poplib",
    "posix",
    "posixpath",
    "pprint",
    "profile",
    "pstats",
    "pty",
    "pwd",
    "py_compile",
    "pyclbr",
    "pydoc",
    "pydoc_data",
    "pyexpat",
    "queue",
    "quopri",
    "random",
    "re",
    "readline",
    "reprlib",
    "resource",
    "rlcompleter",
    "runpy",
    "sched",
    "secrets",
    "select",
    "selectors",
    "shelve",
    "shlex",
    "shutil",
    "signal",
    "site",
    "smtplib",
    "socket",
    "socketserver",
    "sqlite3",
    "sre_compile",
    "sre_constants",
    "sre_parse",
    "ssl",
    "stat",
    "statistics",
    "string",
    "stringprep",
    "struct",
    "subprocess",
    "symtable",
    "sys",
    "sysconfig",
    "syslog",
    "tabnanny",
    "tarfile",
    "tempfile",
    "termios",
    "textwrap",
    "this",
    "threading",
    "time",
    "timeit",
    "tkinter",
    "token",
    "tokenize",
    "trace",
    "traceback",
    "tracemalloc",
    "tty",
    "turtle",
    "turtledemo",
    "types",
    "typing",
    "unicodedata",
    "unittest",
    "urllib",
    "uuid",
    "venv",
    "warnings",
    "wave",
    "weakref",
    "webbrowser",
    "wsgiref",
    "xml",
    "xmlrpc",
    "zipapp",
    "zipfile",
    "zipimport",
    "zlib",
    "zoneinfo",
];
/// In some lines alone: the first minor number and the last.
const SOMETIMES: &[(&str, u8, u8)] = &[
    ("aifc", 0, 12),
    ("annotationlib", 14, u8::MAX),
    ("asynchat", 0, 11),
    ("asyncore", 0, 11),
    ("audioop", 0, 12),
    ("binhex", 0, 10),
    ("cgi", 0, 12),
    ("cgitb", 0, 12),
    ("chunk", 0, 12),
    ("compression", 14, u8::MAX),
    ("crypt", 0, 12),
    ("distutils", 0, 11),
    ("formatter", 0, 9),
    ("imghdr", 0, 12),
    ("imp", 0, 11),
    ("lib2to3", 0, 12),
    ("mailcap", 0, 12),
    ("nis", 0, 12),
    ("nntplib", 0, 12),
    ("ossaudiodev", 0, 12),
    ("parser", 0, 9),
    ("pipes", 0, 12),
    ("smtpd", 0, 11),
    ("sndhdr", 0, 12),
    ("spwd", 0, 12),
    ("sunau", 0, 12),
    ("symbol", 0, 9),
    ("telnetlib", 0, 12),
    ("tomllib", 11, u8::MAX),
    ("uu", 0, 12),
    ("xdrlib", 0, 12),
];

/// All names, in no order that means something.
pub fn names(python: PythonVersion) -> impl Iterator<Item = &'static str> {
    let minor = python.minor();
    let sometimes = SOMETIMES.iter();
    let sometimes = sometimes.filter(move |(_, first, last)| (*first..=*last).contains(&minor));
    ALWAYS
        .iter()
        .copied()
        .chain(sometimes.map(|(name, ..)| *name))
}

/// Whether a module of that name comes with Python.
pub fn has(python: PythonVersion, name: &str) -> bool {
    names(python).any(|other| other == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::process::Command;

    use crate::python::interpreter;

    /// Python tells of itself since 3.10.
    #[test]
    fn an_interpreter_lists_the_same() {
        let python = interpreter::installed();
        let script = "import sys; print(*sys.stdlib_module_names)";
        let output = Command::new(&python.executable)
            .args(["-c", script])
            .output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        let windows = ["msvcrt", "nt", "winreg", "winsound", "msilib"];
        let listed: BTreeSet<_> = output
            .split_whitespace()
            .filter(|name| !name.starts_with('_') && !windows.contains(name))
            .collect();
        let ours = names(PythonVersion::new(python.minor).unwrap());
        assert_eq!(listed, ours.collect());
    }

    #[test]
    fn what_came_and_went() {
        let has = |minor, name| has(PythonVersion::new(minor).unwrap(), name);
        assert!(has(11, "distutils") && !has(12, "distutils"));
        assert!(!has(10, "tomllib") && has(11, "tomllib") && has(15, "tomllib"));
        assert!(has(9, "json") && !has(12, "requests"));
    }
}
