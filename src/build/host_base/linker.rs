//! What a program loads: read from ELF headers, found where this machine's loader would find it.
//!
//! Follows `ld.so(8)`: what a file says of itself, then `/etc/ld.so.conf`, then the directories built
//! into the loader. Its cache is not read, for that only repeats these, nor is anything run. Variants
//! for newer processors (`glibc-hwcaps`) are passed over, because an image moves between machines.
//!
//! This room knows a [`Host`] and files on it, never images or Python.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use object::Endianness;
use object::elf::{
    DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, Dyn64, DynamicTag, EM_AARCH64,
    EM_NONE, EM_X86_64, FileHeader64, Machine, ProgramHeader64,
};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::read::{ReadCache, ReadRef, StringTable};

use super::Error;
use super::host::{Host, read_error};
use crate::python::elf;

/// The loader's own configuration.
const CONFIGURATION: &str = "/etc/ld.so.conf";

/// Configuration files that include each other deeper than this are taken for a circle.
const DEEPEST_INCLUDE: usize = 8;

/// Finds libraries for the programs of one processor.
pub(super) struct Linker<'a> {
    host: &'a Host,
    machine: Machine,
    /// Searched after what a file itself says: the configured directories, then the built-in ones.
    directories: Vec<PathBuf>,
    /// A library that was seen loaded, wherever it was found.
    known: Option<PathBuf>,
    read: BTreeMap<PathBuf, Option<Rc<Elf>>>,
}

impl<'a> Linker<'a> {
    /// Finds what fits `program`; `known` is found under its own name without a search.
    pub(super) fn new(
        host: &'a Host,
        program: &Path,
        known: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let mut linker = Self {
            host,
            machine: EM_NONE,
            directories: Vec::new(),
            known,
            read: BTreeMap::new(),
        };
        let elf = linker.elf(program)?.ok_or_else(|| Error::NotElf {
            path: program.to_owned(),
        })?;
        linker.machine = elf.machine;
        linker.directories = configured_directories(host, Path::new(CONFIGURATION), 0)?;
        linker.directories.extend(default_directories(elf.machine));
        Ok(linker)
    }

    /// What the file at `path` says of itself, unless it is not a 64-bit ELF file.
    pub(super) fn elf(&mut self, path: &Path) -> Result<Option<Rc<Elf>>, Error> {
        if let Some(elf) = self.read.get(path) {
            return Ok(elf.clone());
        }
        let on_disk = self.host.on_disk(&self.host.walk(path)?.real);
        let elf = Elf::read(&on_disk)?.map(Rc::new);
        self.read.insert(path.to_owned(), elf.clone());
        Ok(elf)
    }

    /// Where all that the program at `path` loads is looked for, because the program says so.
    pub(super) fn handed_on(&mut self, path: &Path) -> Result<Vec<PathBuf>, Error> {
        let elf = self.elf(path)?;
        Ok(elf.map_or_else(Vec::new, |elf| elf.search_path(path, Vec::new()).1))
    }

    /// The libraries that the file at `path` needs, directly or not, by the names they are asked
    /// for; `inherited` is what the program that loads the file hands on.
    ///
    /// As in a process, a name is looked for once, by whoever asks first.
    pub(super) fn closure(
        &mut self,
        path: &Path,
        inherited: &[PathBuf],
    ) -> Result<BTreeMap<String, PathBuf>, Error> {
        let mut found = BTreeMap::new();
        let mut pending = VecDeque::from([(path.to_owned(), inherited.to_owned())]);
        while let Some((path, inherited)) = pending.pop_front() {
            let Some(elf) = self.elf(&path)? else {
                continue;
            };
            let (first, handed_on) = elf.search_path(&path, inherited);
            for name in &elf.needed {
                if found.contains_key(name) {
                    continue;
                }
                let library = self.find(name, &first)?.ok_or_else(|| Error::NoLibrary {
                    name: name.clone(),
                    wanted_by: path.clone(),
                    searched: self.searched(&first),
                })?;
                found.insert(name.clone(), library.clone());
                pending.push_back((library, handed_on.clone()));
            }
        }
        Ok(found)
    }

    /// The library `name` in the directories of `first`, or else in those of the machine.
    pub(super) fn find(&mut self, name: &str, first: &[PathBuf]) -> Result<Option<PathBuf>, Error> {
        if let Some(known) = &self.known
            && known.file_name() == Some(OsStr::new(name))
        {
            return Ok(Some(known.clone()));
        }
        for directory in self.searched(first) {
            let path = directory.join(name);
            if self.fits(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Whether `path` is the library that was known from the start.
    pub(super) fn is_known(&self, path: &Path) -> bool {
        self.known.as_deref() == Some(path)
    }

    fn searched(&self, first: &[PathBuf]) -> Vec<PathBuf> {
        first.iter().chain(&self.directories).cloned().collect()
    }

    /// Whether a file is there that the program can load; the loader passes over others.
    fn fits(&mut self, path: &Path) -> Result<bool, Error> {
        let walk = self.host.walk(path)?;
        if !walk.metadata.is_some_and(|found| found.is_file()) {
            return Ok(false);
        }
        let machine = self.machine;
        Ok(self.elf(path)?.is_some_and(|elf| elf.machine == machine))
    }
}

/// The directories that a configuration file and those that it includes name, in order.
fn configured_directories(host: &Host, file: &Path, depth: usize) -> Result<Vec<PathBuf>, Error> {
    let mut directories = Vec::new();
    if depth > DEEPEST_INCLUDE {
        return Ok(directories);
    }
    for line in host.text(file)?.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("include") => {
                for pattern in words {
                    for included in matching(host, &file.with_file_name(pattern))? {
                        directories.extend(configured_directories(host, &included, depth + 1)?);
                    }
                }
            }
            // An old form says after the directory which C library it is for.
            Some(word) if word.starts_with('/') => {
                directories.push(word.split('=').next().unwrap_or(word).into());
            }
            _ => {}
        }
    }
    Ok(directories)
}

/// The files that match a pattern with at most one `*`, which is in its last name.
fn matching(host: &Host, pattern: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = pattern.file_name().and_then(OsStr::to_str);
    let (Some((start, end)), Some(directory)) =
        (name.and_then(|name| name.split_once('*')), pattern.parent())
    else {
        return Ok(vec![pattern.to_owned()]);
    };
    if host.walk(directory)?.metadata.is_none() {
        return Ok(Vec::new());
    }
    let names = host.names(directory)?;
    let fitting = names.iter().filter(|name| {
        let rest = name.to_str().and_then(|name| name.strip_prefix(start));
        rest.is_some_and(|rest| rest.ends_with(end))
    });
    Ok(fitting.map(|name| directory.join(name)).collect())
}

/// Where loaders look by themselves: Debian's have the processor in the path, others `lib64`.
fn default_directories(machine: Machine) -> Vec<PathBuf> {
    let triple = match machine {
        EM_X86_64 => Some("x86_64-linux-gnu"),
        EM_AARCH64 => Some("aarch64-linux-gnu"),
        _ => None,
    };
    let of_debian = triple
        .into_iter()
        .flat_map(|triple| [format!("/lib/{triple}"), format!("/usr/lib/{triple}")]);
    let of_all = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(str::to_owned);
    of_debian.chain(of_all).map(PathBuf::from).collect()
}

/// What the headers of one ELF file say to the loader.
#[derive(Debug)]
pub(super) struct Elf {
    machine: Machine,
    /// The loader it asks for, if it is a program.
    pub(super) loader: Option<PathBuf>,
    /// The libraries it needs, as `libz.so.1`.
    needed: Vec<String>,
    /// Where to look for them and for all that they need.
    rpath: Vec<String>,
    /// Where to look for them alone; with it the other does not count.
    runpath: Vec<String>,
}

impl Elf {
    fn read(path: &Path) -> Result<Option<Self>, Error> {
        let file = File::open(path).map_err(read_error(path))?;
        Self::parse(&ReadCache::new(file)).map_err(|source| Error::Damaged {
            path: path.to_owned(),
            source,
        })
    }

    fn parse<'data, R: ReadRef<'data>>(data: R) -> object::read::Result<Option<Self>> {
        let Ok(header) = FileHeader64::<Endianness>::parse(data) else {
            return Ok(None);
        };
        let endian = header.endian()?;
        let mut elf = Self {
            machine: header.e_machine(endian),
            loader: None,
            needed: Vec::new(),
            rpath: Vec::new(),
            runpath: Vec::new(),
        };
        let segments = header.program_headers(endian, data)?;
        for segment in segments {
            if let Some(loader) = segment.interpreter(endian, data)? {
                elf.loader = Some(String::from_utf8_lossy(loader).into_owned().into());
            }
            if let Some(entries) = segment.dynamic(endian, data)? {
                let strings = dynamic_strings(entries, segments, endian, data);
                for entry in entries {
                    match entry.d_tag(endian) {
                        DT_NULL => break,
                        tag => elf.take(tag, || entry.string(endian, strings))?,
                    }
                }
            }
        }
        Ok(Some(elf))
    }

    fn take<'data>(
        &mut self,
        tag: DynamicTag,
        string: impl FnOnce() -> object::read::Result<&'data [u8]>,
    ) -> object::read::Result<()> {
        let list = match tag {
            DT_NEEDED => &mut self.needed,
            DT_RPATH => &mut self.rpath,
            DT_RUNPATH => &mut self.runpath,
            _ => return Ok(()),
        };
        let string = String::from_utf8_lossy(string()?).into_owned();
        if tag == DT_NEEDED {
            list.push(string);
        } else {
            list.extend(string.split(':').map(str::to_owned));
        }
        Ok(())
    }

    /// Where this file's libraries are looked for first, and what is handed on to them.
    fn search_path(&self, path: &Path, inherited: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<PathBuf>) {
        if !self.runpath.is_empty() {
            return (directories(&self.runpath, path), inherited);
        }
        let mut all = directories(&self.rpath, path);
        all.extend(inherited);
        (all.clone(), all)
    }
}

/// The table that the dynamic entries' strings are in; found by address, as the loader does, since
/// stripped files may have no sections.
fn dynamic_strings<'data, R: ReadRef<'data>>(
    entries: &[Dyn64<Endianness>],
    segments: &[ProgramHeader64<Endianness>],
    endian: Endianness,
    data: R,
) -> StringTable<'data, R> {
    let value = |tag| {
        let entry = entries.iter().find(|entry| entry.d_tag(endian) == tag)?;
        Some(entry.d_val(endian))
    };
    let place = || {
        let start = elf::offset(value(DT_STRTAB)?, segments, endian)?;
        Some((start, start.checked_add(value(DT_STRSZ)?)?))
    };
    place().map_or_else(StringTable::default, |(start, end)| {
        StringTable::new(data, start, end)
    })
}

/// The directories of a search path in the file at `path`; `$LIB` and `$PLATFORM` mean something
/// else to each loader and are not followed.
fn directories(search_path: &[String], path: &Path) -> Vec<PathBuf> {
    let origin = path.parent().and_then(Path::to_str).unwrap_or_default();
    search_path
        .iter()
        .map(|directory| {
            directory
                .replace("${ORIGIN}", origin)
                .replace("$ORIGIN", origin)
        })
        .filter(|directory| directory.starts_with('/') && !directory.contains('$'))
        .map(PathBuf::from)
        .collect()
}
