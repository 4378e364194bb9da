//! Where the image's own loader finds a library.
//!
//! Follows `ld.so(8)` of glibc: a file's own paths, `LD_LIBRARY_PATH`, the cache, the built-in directories; a
//! candidate for another processor is passed over. Variants for newer processors (`glibc-hwcaps`) are too, for
//! they stand beside the plain file. This file never knows rules.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CStr;
use std::rc::Rc;

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
/// As many patterns of files to include are followed; systems have one.
const MAX_INCLUDED: usize = 64;
/// As many directories are looked into for one file: wheels name thirty.
const MAX_DIRECTORIES: usize = 256;
/// As many paths of the cache are tried for one name: it has one for each kind of processor.
const MAX_CACHED: usize = 16;

/// Real paths of directories, in the order in which they are searched.
pub(super) type Directories = Rc<[Rc<str>]>;

/// Finds libraries for files of one processor.
pub(super) struct Loader<'a> {
    image: &'a Subject,
    machine: Machine,
    /// The directories of `LD_LIBRARY_PATH`.
    environment: Directories,
    /// Names and paths of the cache.
    cache: HashMap<&'a str, Vec<&'a str>>,
    /// The configured directories where there is no cache, and the built-in ones.
    system: Vec<Rc<str>>,
    /// What names come to that no file's own word is for.
    of_system: RefCell<HashMap<String, Hit>>,
    /// The directories that files name themselves, by the files' paths.
    own: RefCell<HashMap<String, Directories>>,
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

impl Hit {
    /// The first library that is found, or else the first for another processor.
    fn first(hits: impl Iterator<Item = Self>) -> Self {
        let mut other = Self::Nothing;
        for hit in hits {
            match hit {
                Self::Found(_) => return hit,
                Self::Other(_) if other == Self::Nothing => other = hit,
                Self::Other(_) | Self::Nothing => {}
            }
        }
        other
    }
}

/// What was read of the loader's configuration so far.
#[derive(Default)]
struct Included {
    files: HashSet<String>,
    patterns: HashSet<String>,
}

/// A library that a file needs, and what the loader gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    /// The path of the file.
    pub(super) file: String,
    /// The library's name as it is needed.
    pub(super) name: String,
    /// What is found.
    pub(super) hit: Hit,
}

/// Where a file's libraries are looked for before `LD_LIBRARY_PATH`, and after it.
#[derive(Default)]
struct Paths {
    before: Directories,
    after: Directories,
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
            environment: Directories::default(),
            cache: HashMap::new(),
            system: Vec::new(),
            of_system: RefCell::default(),
            own: RefCell::default(),
        };
        let environment = image.documents.variable("LD_LIBRARY_PATH");
        let environment = environment.filter(|paths| !paths.is_empty());
        if let Some(paths) = environment {
            let paths = paths.split([':', ';']);
            loader.environment = loader.directories(paths.map(|path| loader.started_from(path)));
        }
        let mut system = Vec::new();
        match loader.text(CACHE) {
            Some(cache) => loader.cache = cached(cache, machine).unwrap_or_default(),
            None => loader.configured(CONFIGURATION, &mut Included::default(), &mut system),
        }
        let built_in = loader.directories(built_in(machine));
        let system = loader.directories(system.into_iter());
        loader.system = system.iter().chain(&*built_in).cloned().collect();
        loader
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
    fn configured(&self, file: &str, read: &mut Included, directories: &mut Vec<String>) {
        if !read.files.insert(file.to_owned()) {
            return;
        }
        let text = self.text(file).unwrap_or_default();
        for line in String::from_utf8_lossy(text).lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("include") => {
                    for pattern in words {
                        self.include(pattern, read, directories);
                    }
                }
                Some(word) if word.starts_with('/') => directories.push(word.to_owned()),
                _ => {}
            }
        }
    }

    /// As every system has it: all files of one directory.
    fn include(&self, pattern: &str, read: &mut Included, directories: &mut Vec<String>) {
        let pattern = match pattern.strip_prefix('/') {
            Some(absolute) => absolute.to_owned(),
            None => format!("etc/{pattern}"),
        };
        if read.patterns.len() == MAX_INCLUDED || !read.patterns.insert(pattern.clone()) {
            return;
        }
        let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", &pattern));
        let end = name.trim_start_matches('*');
        let all = self.image.tree.paths_below(directory);
        for file in all.filter(|file| file.ends_with(end)) {
            self.configured(file, read, directories);
        }
    }

    /// Those of some directories that are there, each once.
    fn directories(&self, paths: impl Iterator<Item = String>) -> Directories {
        let mut known = HashSet::new();
        let resolve = |path: String| self.image.tree.resolve(&path, &self.image.layers);
        let there = paths.filter_map(|path| Some(Rc::<str>::from(resolve(path).ok()?)));
        let once = there.filter(|directory| known.insert(Rc::clone(directory)));
        once.take(MAX_DIRECTORIES).collect()
    }

    /// The library of this name that is found without any file's own word.
    pub(super) fn system_library(&self, name: &str) -> Option<(String, &'a Links)> {
        match self.find(name, &Paths::default()) {
            Hit::Found(path) => {
                let links = links_of(&self.image.get(&path)?, self.machine)?;
                Some((path, links))
            }
            _ => None,
        }
    }

    /// Every library that a file needs, directly or by those that layers above the base bring. As in a process a
    /// name is looked for once, by whoever asks first; `inherited` is what the program that loads it hands on.
    pub(super) fn edges(&self, root: &str, inherited: &Directories) -> Vec<Edge> {
        let mut edges = Vec::new();
        let mut loaded: HashMap<&str, Hit> = HashMap::new();
        let mut visited = HashSet::from([root.to_owned()]);
        let mut pending = VecDeque::from([(root.to_owned(), Rc::clone(inherited))]);
        while let Some((file, inherited)) = pending.pop_front() {
            let found = self.image.get(&file);
            let Some(links) = found.and_then(|found| links_of(&found, self.machine)) else {
                continue;
            };
            let (paths, handed_on) = self.paths(&file, links, &inherited);
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
                        pending.push_back((path.clone(), Rc::clone(&handed_on)));
                    }
                }
                edges.push(Edge {
                    file: file.clone(),
                    name: name.to_owned(),
                    hit,
                });
            }
        }
        edges
    }

    /// What a program hands on to all that it loads.
    pub(super) fn handed_on(&self, program: &str) -> Directories {
        let found = self.image.get(program);
        let links = found.and_then(|found| links_of(&found, self.machine));
        let none = Directories::default();
        links.map_or_else(Directories::default, |links| {
            self.paths(program, links, &none).1
        })
    }

    /// Where a file's own libraries are looked for, and what is handed on to them.
    fn paths(&self, file: &str, links: &Links, inherited: &Directories) -> (Paths, Directories) {
        if let Some(runpath) = &links.runpath {
            let paths = Paths {
                after: self.expanded(runpath, file),
                ..Paths::default()
            };
            return (paths, Rc::clone(inherited));
        }
        let rpath = links.rpath.as_deref().unwrap_or_default();
        let own = self.expanded(rpath, file);
        let before = if own.is_empty() {
            Rc::clone(inherited)
        } else {
            let mut known = HashSet::new();
            let all = own.iter().chain(&**inherited);
            let once = all.filter(|directory| known.insert(&***directory));
            once.take(MAX_DIRECTORIES).cloned().collect()
        };
        let paths = Paths {
            before: Rc::clone(&before),
            ..Paths::default()
        };
        (paths, before)
    }

    /// The directories of a search path in this file, made when it is first asked for.
    fn expanded(&self, search_path: &str, file: &str) -> Directories {
        if let Some(known) = self.own.borrow().get(file) {
            return Rc::clone(known);
        }
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
        let paths = paths.flat_map(|path| {
            let path = put(path, "ORIGIN", &format!("/{origin}"));
            let path = put(&path, "PLATFORM", platform);
            // Debian's loaders and all others differ in what it is.
            let of_debian = put(&path, "LIB", &format!("lib/{triple}"));
            let of_all = put(&path, "LIB", "lib64");
            let of_debian = Some(of_debian).filter(|other| *other != of_all);
            [Some(of_all), of_debian].into_iter().flatten()
        });
        let directories = self.directories(paths.map(|path| self.started_from(&path)));
        let mut own = self.own.borrow_mut();
        own.insert(file.to_owned(), Rc::clone(&directories));
        directories
    }

    fn find(&self, name: &str, paths: &Paths) -> Hit {
        if name.contains('/') {
            return self.candidate(&self.started_from(name));
        }
        let own = paths.before.iter().chain(&*self.environment);
        let own = own.chain(&*paths.after);
        let hits = own.map(|directory| self.within(directory, name));
        Hit::first(hits.chain(std::iter::once_with(|| self.in_system(name))))
    }

    /// What a name comes to in the cache and the system's directories.
    fn in_system(&self, name: &str) -> Hit {
        if let Some(known) = self.of_system.borrow().get(name) {
            return known.clone();
        }
        let cached = self.cache.get(name).into_iter().flatten();
        let cached = cached.map(|path| self.candidate(path));
        let system = self.system.iter();
        let hit = Hit::first(cached.chain(system.map(|directory| self.within(directory, name))));
        let mut known = self.of_system.borrow_mut();
        known.insert(name.to_owned(), hit.clone());
        hit
    }

    /// What a name comes to in a directory.
    fn within(&self, directory: &str, name: &str) -> Hit {
        let path = format!("{directory}/{name}");
        if self.image.tree.contains(&path) {
            self.candidate(&path)
        } else {
            Hit::Nothing
        }
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
fn cached(bytes: &[u8], machine: Machine) -> Option<HashMap<&str, Vec<&str>>> {
    let start = bytes
        .windows(CACHE_MAGIC.len())
        .position(|window| window == CACHE_MAGIC)?;
    let cache = &bytes[start..];
    let number = |at: usize| Some(u32::from_le_bytes(cache.get(at..at + 4)?.try_into().ok()?));
    let text = |at: u32| {
        let rest = cache.get(usize::try_from(at).ok()?..)?;
        let text = CStr::from_bytes_until_nul(&rest[..rest.len().min(MAX_PATH)]);
        text.ok()?.to_str().ok()
    };
    let flags = match machine {
        Machine::X86_64 => 0x0303,
        Machine::Aarch64 => 0x0a03,
    };
    let mut found: HashMap<&str, Vec<&str>> = HashMap::new();
    let entries = cache.get(CACHE_HEADER..)?.len() / CACHE_ENTRY;
    let stated = usize::try_from(number(CACHE_MAGIC.len())?).ok()?;
    for entry in 0..entries.min(stated) {
        let at = CACHE_HEADER + entry * CACHE_ENTRY;
        let plain = number(at + 16)? == 0 && number(at + 20)? == 0;
        if number(at)? == flags
            && plain
            && let (Some(name), Some(path)) = (text(number(at + 4)?), text(number(at + 8)?))
        {
            let paths = found.entry(name).or_default();
            if paths.len() < MAX_CACHED && !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::check::testing::Forge;

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

    /// A cache of some entries of this machine: names and paths by what they are found at in the texts.
    fn cache_of(entries: &[(usize, usize)], texts: &[u8]) -> Vec<u8> {
        let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        let mut bytes = CACHE_MAGIC.to_vec();
        bytes.extend(word(entries.len()));
        bytes.resize(CACHE_HEADER, 0);
        let start = CACHE_HEADER + entries.len() * CACHE_ENTRY;
        for (name, path) in entries {
            bytes.extend([word(0x0303), word(start + name), word(start + path)].concat());
            bytes.extend([0; 12]);
        }
        bytes.extend(texts);
        bytes
    }

    #[test]
    fn entries_of_a_cache_own_no_text() {
        const COUNT: usize = 20_000;
        let path = format!("/{}\0", "a/".repeat(2000));
        let names = (0..COUNT).map(|number| format!("lib{number:05}.so\0"));
        let texts = format!("{path}{}", names.collect::<String>());
        let each = "lib00000.so\0".len();
        let entries: Vec<_> = (0..COUNT).map(|n| (path.len() + n * each, 0)).collect();
        let bytes = cache_of(&entries, texts.as_bytes());
        let found = cached(&bytes, Machine::X86_64).unwrap();
        assert_eq!(found.len(), COUNT);
        let texts = found
            .iter()
            .flat_map(|(name, paths)| paths.iter().chain([name]));
        let mut texts = texts.map(|text| text.as_ptr());
        assert!(texts.all(|text| bytes.as_ptr_range().contains(&text)));
    }

    #[test]
    fn a_name_of_a_cache_has_few_paths() {
        let texts = (0..100).map(|number| format!("/lib{number:02}/a\0"));
        let texts = texts.collect::<Vec<_>>().concat();
        let entries: Vec<_> = (0..100)
            .map(|number| (7, number * "/lib00/a\0".len()))
            .collect();
        let bytes = cache_of(&[entries.clone(), entries].concat(), texts.as_bytes());
        let found = cached(&bytes, Machine::X86_64).unwrap();
        assert_eq!(found.len(), 1);
        let paths = &found["a"];
        assert_eq!((paths.len(), paths[0]), (MAX_CACHED, "/lib00/a"));
    }

    #[test]
    fn no_more_directories_are_searched_than_any_file_names() {
        let mut image = Forge::new();
        for number in 0..600 {
            image = image.dir(&format!("d{number:03}"));
        }
        let path = |from: usize| {
            let all = (from..from + 300)
                .map(|number| format!("/d{number:03}:/gone{number}:/d{number:03}"));
            all.collect::<Vec<_>>().join(":")
        };
        let image = image.subject();
        let loader = Loader::new(&image, Machine::X86_64);
        let of = |from: usize, inherited: &Directories| {
            let links = Links {
                rpath: Some(path(from).into()),
                ..Links::default()
            };
            loader.paths(&format!("file{from}"), &links, inherited).1
        };
        let handed_on = of(300, &Directories::default());
        assert_eq!(handed_on.len(), MAX_DIRECTORIES);
        let both = of(0, &handed_on);
        assert_eq!((both.len(), &*both[1]), (MAX_DIRECTORIES, "d001"));
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
