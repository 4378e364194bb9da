//! Layers put on one another: which entry is at which path when all are there.
//!
//! It is what containerd and umoci leave on a disk: whiteouts hide lower layers alone, an entry goes through the
//! symbolic links that its parents are, never beyond the root, and replaces what is not a directory. What is in a
//! file is not known here.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use super::{Entry, Kind, Layer, normal};

/// What hides a file of a lower layer begins so.
const WHITEOUT: &str = ".wh.";
/// What hides all files of lower layers in its directory.
const OPAQUE: &str = ".wh..wh..opq";
/// What AUFS kept for itself begins so; appliers leave it out.
const META: &str = ".wh..wh.";
/// As many symbolic links are followed one after another, as by Linux.
const MAX_LINKS: usize = 40;

/// A file in the flattened tree.
#[derive(Debug)]
pub struct Found<'a, T> {
    /// Which layer has it, counted from 0, the lowest.
    pub layer: usize,
    /// The entry there.
    pub entry: &'a Entry<T>,
}

impl<T> Clone for Found<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Found<'_, T> {}

/// All layers' files, upper ones over lower ones.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Layer and entry of each path, for a hard link those of its file; `None` for a directory that no layer lists.
    files: BTreeMap<Box<str>, Option<(usize, usize)>>,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// There is nothing at this path.
    Nothing(String),
    /// Symbolic links go round in circles.
    Loop(String),
}

/// A directory as an entry names it, and where that leads now: entries of one directory mostly follow one another.
#[derive(Default)]
struct Last {
    named: String,
    real: Option<String>,
}

impl Tree {
    /// Stacks layers, lowest first.
    pub fn new<T>(layers: &[Layer<T>]) -> Self {
        let mut tree = Self::default();
        for number in 0..layers.len() {
            tree.stack(number, layers);
        }
        tree
    }

    /// Stacks the layer of this number onto those before it.
    pub fn stack<T>(&mut self, number: usize, layers: &[Layer<T>]) {
        let layer = &layers[number];
        self.hide(&layer.entries, layers);
        let mut last = Last::default();
        for entry in 0..layer.entries.len() {
            self.insert((number, entry), layers, &mut last);
        }
    }

    /// Removes what a layer's whiteouts hide, before any of its own files comes.
    fn hide<T>(&mut self, entries: &[Entry<T>], layers: &[Layer<T>]) {
        for entry in entries.iter().filter(|e| e.name.contains(WHITEOUT)) {
            let path = cleaned(&entry.name);
            let (directory, name) = split(&path);
            if !name.starts_with(WHITEOUT)
                || directory.split('/').any(|part| part.starts_with(META))
            {
                continue;
            }
            let Ok(directory) = self.resolve(directory, layers) else {
                continue;
            };
            if name == OPAQUE {
                self.remove_below(&directory);
            } else if !name.starts_with(META)
                && let Some(hidden) = name.strip_prefix(WHITEOUT)
                && !matches!(hidden, "" | "." | "..")
            {
                let hidden = join(&directory, hidden);
                self.files.remove(&*hidden);
                self.remove_below(&hidden);
            }
        }
    }

    fn remove_below(&mut self, directory: &str) {
        let below: Vec<_> = self.paths_below(directory).map(str::to_owned).collect();
        for path in below {
            self.files.remove(&*path);
        }
    }

    fn insert<T>(&mut self, at: (usize, usize), layers: &[Layer<T>], last: &mut Last) {
        let entry = &layers[at.0].entries[at.1];
        let path = cleaned(&entry.name);
        let (directory, name) = split(&path);
        let is_meta = directory.contains(META) && directory.split('/').any(|p| p.starts_with(META));
        if path.is_empty() || name.starts_with(WHITEOUT) || is_meta {
            return;
        }
        if last.real.is_none() || last.named != directory {
            directory.clone_into(&mut last.named);
            last.real = self.make(directory, layers);
        }
        let Some(directory) = &last.real else { return };
        let path = join(directory, name);
        let spot = match entry.kind {
            Kind::Hardlink => self.linked(entry, layers).unwrap_or(at),
            _ => at,
        };
        let before = self.files.insert((&*path).into(), Some(spot));
        let is_directory = entry.kind == Kind::Directory;
        if before.is_some() && !is_directory {
            self.remove_below(&path);
        }
        // What was on the way to somewhere may be so no more.
        if entry.kind == Kind::Symlink || before.is_some() {
            last.real = None;
        }
    }

    /// The file that a hard link names, as it is now: what later takes that name is another file.
    fn linked<T>(&self, entry: &Entry<T>, layers: &[Layer<T>]) -> Option<(usize, usize)> {
        let target = cleaned(entry.target.as_deref()?);
        let (directory, name) = split(&target);
        let directory = self.resolve(directory, layers).ok()?;
        *self.files.get(&*join(&directory, name))?
    }

    /// Makes a directory and its parents where there is none, and tells where that is when links are followed;
    /// none where they go round in circles.
    fn make<T>(&mut self, path: &str, layers: &[Layer<T>]) -> Option<String> {
        let mut todo = parts_reversed(path);
        let mut here = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                here.truncate(here.rfind('/').unwrap_or(0));
                continue;
            }
            let next = join(&here, &part);
            let there = self.get(&next, layers).map(|found| found.entry);
            match there.map(|entry| (entry.kind, entry.target.as_deref())) {
                Some((Kind::Symlink, Some(target))) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        here.clear();
                    }
                    todo.extend(parts_reversed(target));
                    continue;
                }
                Some((Kind::Directory, _)) => {}
                // No applier goes on from here; a directory is the likeliest that was meant.
                Some(_) => {
                    self.files.insert((&*next).into(), None);
                }
                None => {
                    self.files.entry((&*next).into()).or_insert(None);
                }
            }
            here = next;
        }
        Some(here)
    }

    /// All paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(|path| &**path)
    }

    /// All paths that begin so, sorted.
    pub fn paths_from<'a>(&'a self, start: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let start = start.to_owned();
        let from = (Bound::Included(start.as_str()), Bound::Unbounded);
        let from = self.files.range::<str, _>(from);
        from.map(|(path, _)| &**path)
            .take_while(move |path| path.starts_with(&start))
    }

    /// All paths below a directory at any depth, sorted.
    pub fn paths_below<'a>(&'a self, directory: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut prefix = directory.to_owned();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        self.paths_from(&prefix)
    }

    /// Whether there is something at exactly this path; no link is followed.
    pub fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// The entry at exactly this path; none for a directory that no layer lists. No link is followed but a hard
    /// one, which is the file that it names.
    pub fn get<'a, T>(&self, path: &str, layers: &'a [Layer<T>]) -> Option<Found<'a, T>> {
        let (layer, number) = (*self.files.get(path)?)?;
        Some(Found {
            layer,
            entry: layers.get(layer)?.entries.get(number)?,
        })
    }

    /// Layer and number of all entries that are at some path: others of theirs are hidden.
    pub fn shown(&self) -> HashSet<(usize, usize)> {
        self.files.values().copied().flatten().collect()
    }

    /// Where a path leads when every symbolic link on the way is followed, below this image's root.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn resolve<T>(&self, path: &str, layers: &[Layer<T>]) -> Result<String, Missing> {
        let mut todo: Vec<String> = parts_reversed(path);
        let mut here = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                here.truncate(here.rfind('/').unwrap_or(0));
                continue;
            }
            let next = join(&here, &part);
            if !self.contains(&next) {
                return Err(Missing::Nothing(next));
            }
            let link = self.get(&next, layers);
            let link = link.filter(|found| found.entry.kind == Kind::Symlink);
            let Some(target) = link.and_then(|found| found.entry.target.as_deref()) else {
                here = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Missing::Loop(next));
            }
            if target.starts_with('/') {
                here.clear();
            }
            todo.extend(parts_reversed(target));
        }
        Ok(here)
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

fn parts_reversed(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.rev().map(str::to_owned).collect()
}

/// The directory of a path, and what is left.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A name as a path below the root, `..` taken as it is written and never beyond the root.
fn cleaned(name: &str) -> String {
    if !name.contains("..") {
        return normal(name);
    }
    let mut path = String::new();
    for part in parts_reversed(name).into_iter().rev() {
        if part == ".." {
            path.truncate(path.rfind('/').unwrap_or(0));
        } else {
            path = join(&path, &part);
        }
    }
    path
}
