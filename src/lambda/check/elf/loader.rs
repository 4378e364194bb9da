//! Where the image's own loader finds a library.
//!
//! Follows `ld.so(8)` of glibc: a file's own paths, `LD_LIBRARY_PATH`, the cache, the built-in directories; a
//! candidate for another processor is passed over. Variants for newer processors (`glibc-hwcaps`) are too, for
//! they stand beside the plain file. This file never knows rules.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};

use crate::lambda::check::contents::Seen;
use crate::lambda::check::paths;
use crate::lambda::check::subject::Subject;
use crate::oci::flatten::{Found, Kind};
use crate::python::Machine;
use crate::python::elf::{Links, Watched};

/// What `ldconfig` makes of the configured directories.
const CACHE: &str = "etc/ld.so.cache";
/// How its present form begins; an older one may stand before it.
const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const CACHE_HEADER: usize = 48;
const CACHE_ENTRY: usize = 24;
/// No path is longer, in bytes.
const MAX_PATH: usize = 4096;
const CONFIGURATION: &str = "etc/ld.so.conf";

/// Finds libraries for files of one processor.
pub(super) struct Loader<'a> {
    image: &'a Subject,
    machine: Machine,
    /// The directories of `LD_LIBRARY_PATH`.
    environment: Vec<String>,
    /// Names and paths of the cache.
    cache: HashMap<String, Vec<String>>,
    /// The configured directories where there is no cache, and the built-in ones.
    system: Vec<String>,
    /// Where directories' paths lead.
    led: RefCell<HashMap<String, Option<String>>>,
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hit {
    /// The library, by its real path.
    Found(String),
    /// Only one for another processor.
    Other(String),
    /// Nothing.
    Nothing,
}

/// A library that a file needs, and what the loader gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge<'a> {
    /// The path of the file.
    pub(super) file: String,
    /// What it says.
    pub(super) links: &'a Links,
    /// The library's name as it is needed.
    pub(super) name: &'a str,
    /// What is found.
    pub(super) hit: Hit,
}

/// Where a file's libraries are looked for before `LD_LIBRARY_PATH`, and after it.
struct Paths {
    before: Vec<String>,
    after: Vec<String>,
}

/// What an entry of the image says to the loader of a machine, if it can load it.
pub(super) fn links_of<'a>(found: &Found<'a, Seen>, machine: Machine) -> Option<&'a Links> {
    let seen = found.entry.seen.as_ref()?;
    match &seen.elf {
        Watched::Elf(Ok(facts)) if facts.is_for(machine) => seen.links.as_deref(),
        _ => None,
    }
}

impl<'a> Loader<'a> {
    /// The loader of an image that runs on this machine.
    pub(super) fn new(image: &'a Subject, machine: Machine) -> Self {
        let mut loader = Self {
            image,
            machine,
            environment: Vec::new(),
            cache: HashMap::new(),
            system: Vec::new(),
            led: RefCell::default(),
        };
        let environment = image.documents.variable("LD_LIBRARY_PATH");
        let environment = environment.filter(|paths| !paths.is_empty());
        if let Some(paths) = environment {
            loader.environment = paths
                .split([':', ';'])
                .map(|path| loader.started_from(path))
                .collect();
        }
        match loader.text(CACHE) {
            Some(cache) => loader.cache = cached(cache, machine).unwrap_or_default(),
            None => loader.system = loader.configured(CONFIGURATION, &mut HashSet::new()),
        }
        loader.system.extend(built_in(machine));
        loader
    }

    /// The processor that it is for.
    pub(super) fn machine(&self) -> Machine {
        self.machine
    }

    /// A path as it is meant by a process that starts in the working directory.
    fn started_from(&self, path: &str) -> String {
        if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.image.documents.working_dir())
        }
    }

    /// What is in a file that was read whole.
    fn text(&self, path: &str) -> Option<&'a [u8]> {
        let (_, found) = self.image.find(path)?;
        found.entry.seen.as_ref()?.kept.as_deref()
    }

    /// The directories of the loader's configuration; each of its files is read once.
    fn configured(&self, file: &str, read: &mut HashSet<String>) -> Vec<String> {
        let mut directories = Vec::new();
        if !read.insert(file.to_owned()) {
            return directories;
        }
        let text = self.text(file).unwrap_or_default();
        for line in String::from_utf8_lossy(text).lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                // As every system has it: all files of one directory.
                Some("include") => {
                    for pattern in words {
                        let pattern = match pattern.strip_prefix('/') {
                            Some(absolute) => absolute.to_owned(),
                            None => format!("etc/{pattern}"),
                        };
                        let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", &pattern));
                        let end = name.trim_start_matches('*');
                        let all = self.image.tree.paths_below(directory);
                        for file in all.filter(|file| file.ends_with(end)) {
                            directories.extend(self.configured(file, read));
                        }
                    }
                }
                Some(word) if word.starts_with('/') => directories.push(word.to_owned()),
                _ => {}
            }
        }
        directories
    }

    /// The library of this name that is found without any file's own word.
    pub(super) fn system_library(&self, name: &str) -> Option<(String, &'a Links)> {
        let paths = Paths {
            before: Vec::new(),
            after: Vec::new(),
        };
        match self.find(name, &paths) {
            Hit::Found(path) => {
                let links = links_of(&self.image.get(&path)?, self.machine)?;
                Some((path, links))
            }
            _ => None,
        }
    }

    /// Every library that a file needs, directly or by those that layers above the base bring. As in a process a
    /// name is looked for once, by whoever asks first; `inherited` is what the program that loads it hands on.
    pub(super) fn edges(&self, root: &str, inherited: &[String]) -> Vec<Edge<'a>> {
        let mut edges = Vec::new();
        let mut loaded: HashMap<&str, Hit> = HashMap::new();
        let mut visited = HashSet::from([root.to_owned()]);
        let mut pending = VecDeque::from([(root.to_owned(), inherited.to_owned())]);
        while let Some((file, inherited)) = pending.pop_front() {
            let found = self.image.get(&file);
            let Some(links) = found.and_then(|found| links_of(&found, self.machine)) else {
                continue;
            };
            let (paths, handed_on) = self.paths(&file, links, inherited);
            for name in links.needed.iter().map(|name| &**name) {
                let hit = loaded.get(name).cloned();
                let hit = hit.unwrap_or_else(|| self.find(name, &paths));
                loaded.insert(name, hit.clone());
                if let Hit::Found(path) = &hit
                    && let Some(library) = self.image.get(path)
                    && visited.insert(path.clone())
                {
                    let soname = links_of(&library, self.machine);
                    if let Some(soname) = soname.and_then(|links| links.soname.as_deref()) {
                        loaded.entry(soname).or_insert_with(|| hit.clone());
                    }
                    if library.layer >= self.image.base {
                        pending.push_back((path.clone(), handed_on.clone()));
                    }
                }
                edges.push(Edge {
                    file: file.clone(),
                    links,
                    name,
                    hit,
                });
            }
        }
        edges
    }

    /// What a program hands on to all that it loads.
    pub(super) fn handed_on(&self, program: &str) -> Vec<String> {
        let found = self.image.get(program);
        let links = found.and_then(|found| links_of(&found, self.machine));
        links.map_or_else(Vec::new, |links| self.paths(program, links, Vec::new()).1)
    }

    /// Where a file's own libraries are looked for, and what is handed on to them.
    fn paths(&self, file: &str, links: &Links, inherited: Vec<String>) -> (Paths, Vec<String>) {
        if let Some(runpath) = &links.runpath {
            let paths = Paths {
                before: Vec::new(),
                after: self.expanded(runpath, file),
            };
            return (paths, inherited);
        }
        let rpath = links.rpath.as_deref().unwrap_or_default();
        let mut before = self.expanded(rpath, file);
        before.extend(inherited);
        let paths = Paths {
            before: before.clone(),
            after: Vec::new(),
        };
        (paths, before)
    }

    /// The directories of a search path in this file.
    fn expanded(&self, search_path: &str, file: &str) -> Vec<String> {
        let origin = paths::directory(file);
        let (platform, triple) = match self.machine {
            Machine::X86_64 => ("x86_64", "x86_64-linux-gnu"),
            Machine::Aarch64 => ("aarch64", "aarch64-linux-gnu"),
        };
        let paths = search_path.split(':').filter(|path| !path.is_empty());
        let put = |text: &str, name: &str, value: &str| {
            let text = text.replace(&format!("${{{name}}}"), value);
            text.replace(&format!("${name}"), value)
        };
        let mut directories = Vec::new();
        for path in paths {
            let path = put(path, "ORIGIN", &format!("/{origin}"));
            let path = put(&path, "PLATFORM", platform);
            // Debian's loaders and all others differ in what it is.
            for library in ["lib64", &format!("lib/{triple}")] {
                let path = self.started_from(&put(&path, "LIB", library));
                if !directories.contains(&path) {
                    directories.push(path);
                }
            }
        }
        directories
    }

    fn find(&self, name: &str, paths: &Paths) -> Hit {
        let mut other = None;
        let mut take = |path: String| match self.candidate(&path) {
            Hit::Found(path) => Some(path),
            Hit::Other(path) => {
                other.get_or_insert(path);
                None
            }
            Hit::Nothing => None,
        };
        if name.contains('/') {
            let found = take(self.started_from(name));
            return hit(found, other);
        }
        let own = paths.before.iter().chain(&self.environment);
        let own = own.chain(&paths.after);
        let mut found = own
            .filter_map(|directory| self.within(directory, name))
            .find_map(&mut take);
        if found.is_none() {
            let cached = self.cache.get(name).into_iter().flatten();
            found = cached.cloned().find_map(&mut take);
        }
        if found.is_none() {
            let system = self.system.iter();
            found = system
                .filter_map(|directory| self.within(directory, name))
                .find_map(&mut take);
        }
        hit(found, other)
    }

    /// A name's path in a directory, if there is something.
    fn within(&self, directory: &str, name: &str) -> Option<String> {
        let mut led = self.led.borrow_mut();
        let led = led.entry(directory.to_owned());
        let directory = led.or_insert_with(|| {
            let path = self.image.tree.resolve(directory, &self.image.layers);
            path.ok()
        });
        let path = format!("{}/{name}", directory.as_deref()?);
        self.image.tree.contains(&path).then_some(path)
    }

    fn candidate(&self, path: &str) -> Hit {
        let Some((path, found)) = self.image.find(path) else {
            return Hit::Nothing;
        };
        let is_file = matches!(found.entry.kind, Kind::File | Kind::Hardlink);
        match found.entry.seen.as_ref().map(|seen| &seen.elf) {
            Some(Watched::Elf(Ok(facts))) if is_file && !facts.is_for(self.machine) => {
                Hit::Other(path)
            }
            // What could not be read is taken for what its name says.
            Some(Watched::Elf(_) | Watched::Elsewhere) if is_file => Hit::Found(path),
            _ => Hit::Nothing,
        }
    }
}

fn hit(found: Option<String>, other: Option<String>) -> Hit {
    let other = || other.map_or(Hit::Nothing, Hit::Other);
    found.map_or_else(other, Hit::Found)
}

/// The directories that are built into loaders: Debian's have the processor in the path.
fn built_in(machine: Machine) -> impl Iterator<Item = String> {
    let triple = match machine {
        Machine::X86_64 => "x86_64-linux-gnu",
        Machine::Aarch64 => "aarch64-linux-gnu",
    };
    let of_debian = [format!("/lib/{triple}"), format!("/usr/lib/{triple}")];
    let of_all = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(str::to_owned);
    of_debian.into_iter().chain(of_all)
}

/// Names and paths of a cache that are for this machine and any of its processors; none if it cannot be read.
fn cached(bytes: &[u8], machine: Machine) -> Option<HashMap<String, Vec<String>>> {
    let start = bytes
        .windows(CACHE_MAGIC.len())
        .position(|window| window == CACHE_MAGIC)?;
    let cache = &bytes[start..];
    let number = |at: usize| Some(u32::from_le_bytes(cache.get(at..at + 4)?.try_into().ok()?));
    let text = |at: u32| {
        let rest = cache.get(usize::try_from(at).ok()?..)?;
        let rest = &rest[..rest.len().min(MAX_PATH)];
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(str::from_utf8(&rest[..end]).ok()?.to_owned())
    };
    let flags = match machine {
        Machine::X86_64 => 0x0303,
        Machine::Aarch64 => 0x0a03,
    };
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    let entries = cache.get(CACHE_HEADER..)?.len() / CACHE_ENTRY;
    let stated = usize::try_from(number(CACHE_MAGIC.len())?).ok()?;
    for entry in 0..entries.min(stated) {
        let at = CACHE_HEADER + entry * CACHE_ENTRY;
        let plain = number(at + 16)? == 0 && number(at + 20)? == 0;
        if number(at)? == flags
            && plain
            && let (Some(name), Some(path)) = (text(number(at + 4)?), text(number(at + 8)?))
        {
            found.entry(name).or_default().push(path);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_cache_is_read() {
        let bytes = std::fs::read("/etc/ld.so.cache").unwrap();
        let machine = if cfg!(target_arch = "aarch64") {
            Machine::Aarch64
        } else {
            Machine::X86_64
        };
        let found = cached(&bytes, machine).unwrap();
        let paths = &found["libc.so.6"];
        assert!(
            paths
                .iter()
                .all(|path| std::path::Path::new(path).is_file())
        );
    }

    #[test]
    fn a_cache_that_is_cut_off_gives_what_it_has() {
        let bytes = std::fs::read("/etc/ld.so.cache").unwrap();
        for length in (0..bytes.len()).step_by(97) {
            let _ = cached(&bytes[..length], Machine::X86_64);
        }
        assert_eq!(cached(b"none", Machine::X86_64), None);
    }
}
