//! Whether Linux can start a file of the image as Lambda's user: what it is, its mode, its first line, the
//! program that its first line names, its processor.
//!
//! Which file is started, and what is said of one that cannot be, is the rules' affair.

use std::fmt;

use crate::lambda::Architecture;
use crate::lambda::check::contents::Seen;
use crate::lambda::check::paths;
use crate::lambda::check::subject::Subject;
use crate::oci::flatten::{Entry, Found, Kind, Missing};
use crate::python::Machine;
use crate::python::elf::{MAGIC, Watched};

/// Where programs are looked for if no `PATH` says it: what container runtimes set.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As many scripts may be each other's interpreters, as by Linux.
const MAX_SCRIPTS: usize = 4;
/// Where systems have programs and libraries.
const SYSTEM: [&str; 10] = [
    "bin",
    "sbin",
    "lib",
    "lib64",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "usr/libexec",
    "busybox",
];
/// From so many ELF files on, they tell what the image is for.
const ENOUGH: usize = 3;

/// Why a file cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Nothing is there; where the path ends.
    Missing(Missing),
    /// It is a name that no directory of `PATH` has.
    NotInPath,
    /// It is no regular file but this.
    NotAFile(&'static str),
    /// Others than the owner may not run it, by this mode.
    NotExecutable(u32),
    /// It is a script that others than the owner may not read, by this mode.
    Unreadable(u32),
    /// It is neither ELF nor a script; what it is instead.
    Format(&'static str),
    /// Its first line ends in CR LF.
    CarriageReturn(String),
    /// The program that its first line names cannot be started.
    Interpreter {
        /// As the line has it.
        named: String,
        /// Why not.
        obstacle: Box<Obstacle>,
    },
    /// The loader that it asks for is not there; which.
    Loader(String),
    /// It is for another processor.
    Machine {
        /// Its own.
        own: String,
        /// The image's.
        image: Machine,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(Missing::Nothing(path)) => write!(f, "there is nothing at `/{path}`"),
            Self::Missing(Missing::Loop(path)) => {
                write!(f, "symbolic links go round in circles at `/{path}`")
            }
            Self::NotInPath => f.write_str("no directory of `PATH` has it"),
            Self::NotAFile(kind) => write!(f, "it is {kind}"),
            Self::NotExecutable(mode) => {
                write!(f, "others than its owner may not run it (mode {mode:04o})")
            }
            Self::Unreadable(mode) => write!(
                f,
                "it is a script, and others than its owner may not read it (mode {mode:04o})"
            ),
            Self::Format(what) => write!(f, "it is neither an ELF file nor a script: {what}"),
            Self::CarriageReturn(line) => {
                write!(f, "its first line, `{line}`, ends in CR LF")
            }
            Self::Interpreter { named, obstacle } => {
                write!(f, "its interpreter `{named}` cannot run: {obstacle}")
            }
            Self::Loader(loader) => {
                write!(f, "it is started by `{loader}`, which is not there")
            }
            Self::Machine { own, image } => {
                write!(f, "it is for {own}, and the image for {image}")
            }
        }
    }
}

/// What keeps Linux from starting the file at `path` of the image, if anything does.
pub(super) fn obstacle(image: &Subject, path: &str) -> Option<Obstacle> {
    started(image, path, 0)
}

fn started(image: &Subject, path: &str, scripts: usize) -> Option<Obstacle> {
    let real = match image.tree.resolve(path, &image.layers) {
        Ok(real) => real,
        Err(missing) => return Some(Obstacle::Missing(missing)),
    };
    // The root, and directories that no layer lists, have no entry.
    let Some(Found { entry, .. }) = image.get(&real) else {
        return Some(Obstacle::NotAFile("a directory"));
    };
    match entry.kind {
        Kind::File => {}
        // Its target is hidden or never was: what it holds cannot be told.
        Kind::Hardlink => return None,
        Kind::Directory => return Some(Obstacle::NotAFile("a directory")),
        _ => return Some(Obstacle::NotAFile("no regular file")),
    }
    if entry.mode & 0o001 == 0 {
        return Some(Obstacle::NotExecutable(entry.mode));
    }
    let seen = entry.seen.as_ref()?;
    if seen.head.starts_with(MAGIC) {
        wrong_machine(image, seen).or_else(|| {
            let loader = missing_loader(image, seen)?;
            Some(Obstacle::Loader(loader.to_owned()))
        })
    } else if seen.head.starts_with(b"#!") {
        script(image, entry, &seen.head, scripts)
    } else {
        Some(Obstacle::Format(match &*seen.head {
            [] => "it is empty",
            [0xef, 0xbb, 0xbf, b'#', b'!', ..] => "a byte order mark stands before its `#!`",
            _ => "its first line does not begin with `#!`",
        }))
    }
}

fn wrong_machine(image: &Subject, seen: &Seen) -> Option<Obstacle> {
    let wanted = machine(image)?;
    match &seen.elf {
        Watched::Elf(Ok(facts)) if !facts.is_for(wanted) => Some(Obstacle::Machine {
            own: facts.machine_name(),
            image: wanted,
        }),
        _ => None,
    }
}

/// The loader that a program asks for and that is not there. A base without a C library is made for tests, or from
/// nothing, and that it has no loader of glibc's either says nothing.
pub(super) fn missing_loader<'a>(image: &Subject, seen: &'a Seen) -> Option<&'a str> {
    let loader = seen.links.as_ref()?.interpreter.as_deref()?;
    if image.find(loader).is_some() {
        return None;
    }
    let is_glibcs = loader
        .rsplit('/')
        .next()
        .is_some_and(|name| name.starts_with("ld-linux"));
    let has_libc = || {
        let has = || image.tree.paths().any(|path| path.ends_with("/libc.so.6"));
        *image.known.has_libc.get_or_init(has)
    };
    let is_unknown = is_glibcs && !has_libc();
    (!is_unknown).then_some(loader)
}

/// The first line of a script.
struct First {
    /// The interpreter, as it is named.
    named: String,
    /// What `env` looks up: its argument, or what its options leave of that.
    program: Option<String>,
}

impl First {
    /// Of a file that begins so; nothing where it names no interpreter.
    fn of(head: &[u8]) -> Option<Self> {
        let line = head
            .strip_prefix(b"#!")?
            .split(|byte| *byte == b'\n')
            .next()?;
        let line = String::from_utf8_lossy(line);
        let blank = [' ', '\t'];
        let line = line.trim_matches(blank);
        let (named, rest) = line.split_once(blank).unwrap_or((line, ""));
        let rest = rest.trim_start_matches(blank);
        // Linux hands all of it over as one argument; an option of `env` may split it.
        let mut words: Vec<_> = vec![rest];
        if rest.starts_with('-') {
            words = rest.split(blank).collect();
        }
        let mut words = words.into_iter().filter(|word| !word.is_empty());
        let program = words.find(|word| !word.starts_with('-') && !word.contains('='));
        (!named.is_empty()).then(|| Self {
            named: named.to_owned(),
            program: program.map(str::to_owned),
        })
    }

    /// The interpreter's path: a relative one is the function's.
    fn interpreter(&self, image: &Subject) -> String {
        if self.named.starts_with('/') {
            self.named.clone()
        } else {
            format!("{}/{}", image.documents.working_dir(), self.named)
        }
    }

    fn is_env(&self) -> bool {
        paths::name(&self.named) == "env"
    }
}

fn script(image: &Subject, entry: &Entry<Seen>, head: &[u8], scripts: usize) -> Option<Obstacle> {
    if entry.mode & 0o004 == 0 {
        return Some(Obstacle::Unreadable(entry.mode));
    }
    let line = head.split(|byte| *byte == b'\n').next()?;
    if line.ends_with(b"\r") {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches('\r');
        return Some(Obstacle::CarriageReturn(line.to_owned()));
    }
    let Some(line) = First::of(head) else {
        return Some(Obstacle::Format("its `#!` names no interpreter"));
    };
    if scripts >= MAX_SCRIPTS {
        return None;
    }
    let failed = |named: &str, obstacle| Obstacle::Interpreter {
        named: named.to_owned(),
        obstacle: Box::new(obstacle),
    };
    if let Some(obstacle) = started(image, &line.interpreter(image), scripts + 1) {
        return Some(failed(&line.named, obstacle));
    }
    let program = line.program.as_ref().filter(|_| line.is_env())?;
    let obstacle = match in_path(image, program) {
        Some(path) => started(image, &path, scripts + 1)?,
        None => Obstacle::NotInPath,
    };
    Some(failed(program, obstacle))
}

/// The file at a path, and the programs that start it if it is a script: those that its first line names, and so on.
pub(super) fn started_by(image: &Subject, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Some((real, found)) = image.find(&path) else {
            continue;
        };
        if all.len() > 2 * MAX_SCRIPTS || all.contains(&real) {
            break;
        }
        all.push(real);
        let head = found.entry.seen.as_ref().map(|seen| &*seen.head);
        pending.extend(head.and_then(First::of).into_iter().flat_map(|line| {
            let program = line.program.as_ref().filter(|_| line.is_env());
            let program = program.and_then(|program| in_path(image, program));
            program.into_iter().chain([line.interpreter(image)])
        }));
    }
    all
}

/// Where a command is found that is a name alone, or any path as it is.
pub(super) fn in_path(image: &Subject, name: &str) -> Option<String> {
    if name.contains('/') {
        return Some(name.to_owned());
    }
    let directories = image.documents.variable("PATH").unwrap_or(USUAL_PATH);
    let paths = directories
        .split(':')
        .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')));
    let mut paths = paths.filter(|path| path.starts_with('/'));
    paths.find(|path| {
        let found = image.find(path);
        found.is_some_and(|(_, found)| found.entry.kind == Kind::File)
    })
}

/// The processor that the config names.
fn stated_machine(image: &Subject) -> Option<Machine> {
    let architecture: Architecture = image.documents.architecture().parse().ok()?;
    Some(architecture.machine())
}

/// The processor that the image's programs are for, and how many there are, where they tell another than the
/// config names: then it is the config that is wrong.
pub(super) fn other_machine(image: &Subject) -> Option<(Machine, usize)> {
    let (other, others) = majority(image)?;
    (others >= ENOUGH).then_some((other, others))
}

/// The processor that nearly all of the base's programs are for, and how many, if it is not the one that the
/// config names.
fn majority(image: &Subject) -> Option<(Machine, usize)> {
    *image.known.majority.get_or_init(|| counted(image))
}

fn counted(image: &Subject) -> Option<(Machine, usize)> {
    let stated = stated_machine(image)?;
    let other = match stated {
        Machine::X86_64 => Machine::Aarch64,
        Machine::Aarch64 => Machine::X86_64,
    };
    let (mut all, mut others) = (0, 0);
    for found in image.tree.paths().filter_map(|path| image.get(path)) {
        let elf = found.entry.seen.as_ref().map(|seen| &seen.elf);
        if let Some(Watched::Elf(Ok(facts))) = elf
            && (image.base == 0 || found.layer < image.base)
        {
            all += 1;
            others += usize::from(facts.is_for(other));
        }
    }
    (others * 10 > all * 9).then_some((other, others))
}

/// The processor that the image is for: its programs' if they contradict the config.
pub(super) fn machine(image: &Subject) -> Option<Machine> {
    let other = other_machine(image).map(|(machine, _)| machine);
    other.or_else(|| stated_machine(image))
}

/// The processor that added files are to be for: as [`machine`], but where the base has few programs, they tell it
/// as well. What is wrong is then the base or the config, and not each package.
pub(super) fn machine_of_base(image: &Subject) -> Option<Machine> {
    let few = majority(image).filter(|(_, count)| image.base > 0 || *count >= ENOUGH);
    few.map(|(machine, _)| machine)
        .or_else(|| stated_machine(image))
}

/// Whether the image has no program where systems have theirs: then it is no system, and what it lacks says
/// nothing.
pub(super) fn is_hollow(image: &Subject) -> bool {
    let mut paths = SYSTEM.iter().flat_map(|top| image.tree.paths_below(top));
    !paths.any(|path| {
        let seen = image.get(path).and_then(|found| found.entry.seen.as_ref());
        seen.is_some_and(|seen| seen.head.starts_with(MAGIC))
    })
}
