//! What an image's ELF files are there for, by their names and places, and whose they are.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::lambda;
use crate::lambda::check::contents::Seen;
use crate::lambda::check::paths::{below, directory, name};
use crate::lambda::check::subject::Subject;
use crate::lambda::check::wheels;
use crate::oci::flatten::{Found, Kind};
use crate::python::elf::{Facts, Watched};
use crate::python::{Machine, PythonVersion};

/// Words in names and directories that tell for which processor a file is, for packages that bring one for each.
const MACHINE_WORDS: &[&str] = &[
    "x86",
    "x64",
    "x32",
    "ia32",
    "i386",
    "i486",
    "i586",
    "i686",
    "amd64",
    "x86_64",
    "x86-64",
    "arm",
    "arm64",
    "armv6",
    "armv7",
    "armv7l",
    "armhf",
    "aarch64",
    "ppc64",
    "ppc64le",
    "s390x",
    "riscv64",
    "loong64",
    "loongarch64",
    "mips",
    "mips64",
    "32",
    "32bit",
];

/// Words in names and directories that tell for which system a file is, for packages that bring one for each.
const SYSTEM_WORDS: &[&str] = &[
    "apple", "darwin", "ios", "mac", "macos", "macosx", "osx", "win", "win32", "win64", "windows",
];

/// What a file is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Python can import it.
    Module,
    /// It can be run, and is where the image's programs are.
    Program,
    /// It can be run if someone knows where it is.
    Tool,
    /// Something loads it, or nothing.
    Library,
}

/// An added ELF file that its name says is a program, a module or a library.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binary<'a> {
    pub(super) path: &'a str,
    pub(super) found: Found<'a, Seen>,
    pub(super) facts: &'a Facts,
    pub(super) role: Role,
}

impl<'a> Binary<'a> {
    /// Those of an image, sorted.
    pub(super) fn all(image: &'a Subject) -> impl Iterator<Item = Self> {
        let binary = |(path, found)| Self::of(image, path, found);
        image.added().filter_map(binary)
    }

    /// A file, if it is one.
    pub(super) fn of(image: &Subject, path: &'a str, found: Found<'a, Seen>) -> Option<Self> {
        let Watched::Elf(Ok(facts)) = &found.entry.seen.as_ref()?.elf else {
            return None;
        };
        Some(Self {
            path,
            found,
            facts,
            role: role(image, path, &found)?,
        })
    }

    /// Whether it is for another processor, and does not say by its name that it is for one of several.
    pub(super) fn is_for_another(&self, machine: Machine) -> bool {
        !self.facts.is_for(machine) && !names_a_machine(self.path, machine)
    }
}

/// What a file is there for; nothing for data, as object files and programs for the kernel.
pub(super) fn role(image: &Subject, path: &str, found: &Found<'_, Seen>) -> Option<Role> {
    let name = name(path);
    if let Some(module) = Module::of(name) {
        let is_importable = importable(image, path) && !module.is_of_other_python(image);
        return Some(if is_importable {
            Role::Module
        } else {
            Role::Library
        });
    }
    if name.strip_suffix(".so").is_some() || name.contains(".so.") {
        return Some(Role::Library);
    }
    let seen = found.entry.seen.as_ref()?;
    let links = seen.links.as_ref();
    let has_loader = links.is_some_and(|links| links.interpreter.is_some());
    let is_program = found.entry.kind == Kind::File
        && found.entry.mode & 0o111 != 0
        && (has_loader || !name.contains('.'))
        && !matches!(&seen.elf, Watched::Elf(Ok(facts)) if facts.is_for_device());
    is_program.then(|| {
        if is_where_programs_are(image, path) {
            Role::Program
        } else {
            Role::Tool
        }
    })
}

fn is_where_programs_are(image: &Subject, path: &str) -> bool {
    let directory = directory(path);
    let on_path = image.documents.variable("PATH").unwrap_or_default();
    let mut on_path = on_path.split(':').map(|path| path.trim_matches('/'));
    directory == "opt/extensions"
        || directory == lambda::TASK_ROOT
        || name(directory) == "bin"
        || on_path.any(|on_path| on_path == directory)
}

/// Whether Python looks for modules there or above.
pub(super) fn importable(image: &Subject, path: &str) -> bool {
    let Some(python) = &image.python else {
        return true;
    };
    let mut places = python.path.iter();
    places.any(|place| below(place, path).is_some())
}

/// A file that is named as a library or extension module of Linux and is one of another system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Foreign<'a> {
    pub(super) path: &'a str,
    pub(super) found: Found<'a, Seen>,
    /// As people call it.
    pub(super) system: &'static str,
}

impl<'a> Foreign<'a> {
    /// Those that Python may come upon, sorted.
    pub(super) fn all(image: &'a Subject) -> Vec<Self> {
        let mut all: Vec<_> = image
            .added()
            .filter_map(|(path, found)| Self::of(image, path, found))
            .collect();
        if all.is_empty() {
            return all;
        }
        let own = Binary::all(image).filter_map(|binary| {
            let module = Module::of(name(binary.path))?;
            let is_own = !module.is_of_other_python(image);
            is_own.then_some((directory(binary.path), module.stem))
        });
        let own: BTreeSet<(&str, &str)> = own.collect();
        // Who brings a module for each system, or a source for the others, means this one too.
        all.retain(|foreign| {
            let name = name(foreign.path);
            let Some(module) = Module::of(name) else {
                return true;
            };
            let directory = directory(foreign.path);
            let source = format!("{directory}/{}.py", module.stem);
            let has_source = name.contains("-darwin.") && image.tree.contains(&source);
            !own.contains(&(directory, module.stem)) && !has_source
        });
        all
    }

    fn of(image: &Subject, path: &'a str, found: Found<'a, Seen>) -> Option<Self> {
        let name = name(path);
        let versioned = name.split_once(".so.").map(|(_, version)| version);
        let versioned =
            versioned.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()));
        let is_library = name.strip_suffix(".so").is_some() || versioned;
        let system = other_system(&found.entry.seen.as_ref()?.head)?;
        let of_interest = is_library && importable(image, path) && !names_a_system(path);
        of_interest.then_some(Self {
            path,
            found,
            system,
        })
    }
}

/// The system that files are for that begin so, where it is another than Linux: the numbers of Mach-O in both byte
/// orders, of its files for several processors, and that of Windows' programs.
pub(super) fn other_system(head: &[u8]) -> Option<&'static str> {
    let magic = u32::from_be_bytes(
        head.get(..4)
            .and_then(|magic| magic.try_into().ok())
            .unwrap_or_default(),
    );
    let is_macho = [magic, magic.swap_bytes()]
        .iter()
        .any(|magic| matches!(magic, 0xfeed_face | 0xfeed_facf | 0xcafe_babe | 0xcafe_babf));
    if is_macho {
        Some("macOS")
    } else if head.starts_with(b"MZ") {
        Some("Windows")
    } else {
        None
    }
}

/// Whether a path says itself that the file is for one of several systems, other than in a module's tag.
fn names_a_system(path: &str) -> bool {
    let plain = untagged(path).to_lowercase();
    let mut words = plain.split(|c: char| !c.is_alphanumeric());
    words.any(|word| SYSTEM_WORDS.contains(&word))
}

/// An extension module, by the name of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Module<'a> {
    pub(super) stem: &'a str,
    /// `cpython-312`, `abi3`, or empty.
    pub(super) tag: &'a str,
}

impl<'a> Module<'a> {
    pub(super) fn of(name: &'a str) -> Option<Self> {
        let name = name.strip_suffix(".so")?;
        let (stem, tag) = name.split_once('.').unwrap_or((name, ""));
        let is_identifier = |text: &str| {
            let mut characters = text.chars();
            characters
                .next()
                .is_some_and(|c| c.is_alphabetic() || c == '_')
                && characters.all(|c| c.is_alphanumeric() || c == '_')
        };
        let known = tag.is_empty()
            || tag == "abi3"
            || tag.starts_with("cpython-")
            || tag.starts_with("pypy");
        let is_library = tag.is_empty() && stem.len() > 3 && stem.starts_with("lib");
        // The processor and the C library follow the version.
        let parts = tag.match_indices('-').nth(1);
        let tag = parts.map_or(tag, |(at, _)| &tag[..at]);
        (known && !is_library && is_identifier(stem)).then_some(Self { stem, tag })
    }

    /// Whether another Python than the image's alone can import it.
    pub(super) fn is_of_other_python(&self, image: &Subject) -> bool {
        let Some(python) = &image.python else {
            return false;
        };
        !matches!(self.tag, "" | "abi3") && self.tag != tag_of(python.version)
    }
}

/// `cpython-312`.
pub(super) fn tag_of(version: PythonVersion) -> String {
    format!("cpython-{}", version.to_string().replace('.', ""))
}

/// What the image's Python says of itself, where it is a program.
pub(super) fn interpreter(image: &Subject) -> Option<&Facts> {
    let python = image.python.as_ref()?;
    let (_, found) = image.find(&python.interpreter)?;
    match &found.entry.seen.as_ref()?.elf {
        Watched::Elf(Ok(facts)) => Some(facts),
        _ => None,
    }
}

/// A path without a module's tag.
fn untagged(path: &str) -> String {
    match Module::of(name(path)) {
        Some(module) => format!("{}/{}", directory(path), module.stem),
        None => path.to_owned(),
    }
}

/// Whether a path says itself that the file is for one of several processors, other than in a module's tag.
fn names_a_machine(path: &str, machine: Machine) -> bool {
    let plain = untagged(path).to_lowercase();
    let parts = plain.split(['/', '.']);
    let own: &[&str] = match machine {
        Machine::X86_64 => &["x86_64", "x86-64", "amd64", "x64"],
        Machine::Aarch64 => &["aarch64", "arm64"],
    };
    let is_word = |part: &str| {
        MACHINE_WORDS.iter().any(|word| {
            !own.contains(word)
                && part.match_indices(word).any(|(at, _)| {
                    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
                    edge(part[..at].chars().next_back())
                        && edge(part[at + word.len()..].chars().next())
                })
        })
    };
    parts.into_iter().any(is_word)
}

/// Whose files are: of a distribution's those that it records, of others those of a directory.
pub(super) struct Owners<'a> {
    image: &'a Subject,
    /// Path and distribution; made when it is first asked for, for most images have no findings.
    recorded: OnceCell<BTreeMap<String, String>>,
}

impl<'a> Owners<'a> {
    pub(super) fn new(image: &'a Subject) -> Self {
        Self {
            image,
            recorded: OnceCell::new(),
        }
    }

    /// Whose a file is: a distribution's name, or a directory.
    pub(super) fn of<'b>(&'b self, path: &'b str) -> &'b str {
        self.distribution(path)
            .unwrap_or_else(|| owner(self.image, path))
    }

    /// The distribution that records a file.
    pub(super) fn distribution(&self, path: &str) -> Option<&str> {
        let recorded = self
            .recorded
            .get_or_init(|| wheels::owners(self.image, is_native));
        recorded.get(path).map(String::as_str)
    }
}

fn is_native(seen: &Seen) -> bool {
    !matches!(seen.elf, Watched::Other) || other_system(&seen.head).is_some()
}

/// Whose a file is that nothing records: the package's directory, or else the file's own.
fn owner<'a>(image: &Subject, path: &'a str) -> &'a str {
    let packages = ["site-packages/", "dist-packages/"];
    let below = packages
        .iter()
        .find_map(|place| path.rfind(place).map(|at| at + place.len()));
    let python = image.python.iter().flat_map(|python| &python.path);
    let places = python.map(|place| place.trim_matches('/'));
    let places = places.chain([lambda::TASK_ROOT, "opt/python"]);
    let inside = places.filter_map(|place| {
        let rest = path.strip_prefix(place)?.strip_prefix('/')?;
        Some(path.len() - rest.len())
    });
    let Some(at) = below.or_else(|| inside.max()) else {
        return directory(path);
    };
    let rest = &path[at..];
    match rest.split_once('/') {
        Some((first, _)) => first.strip_suffix(".libs").unwrap_or(first),
        None => rest.split('.').next().unwrap_or(rest),
    }
}
