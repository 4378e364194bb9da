//! What is kept of a file's bytes while its layer streams by: enough for the rules, and little.
//!
//! Which files are looked at is told by their paths and first bytes. Documents that rules read whole are kept
//! up to a limit; of everything else a few words are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{Digest, Hasher};
use crate::lambda::Handler;
use crate::lambda::check::modules;
use crate::lambda::check::paths::{self, has_ending};
use crate::lambda::check::secrets::{Search, Secret};
use crate::lambda::check::subject::Documents;
use crate::oci::flatten::{Entry, Reader};
use crate::python::PythonVersion;
use crate::python::elf::{Links, Watch, Watched};
use crate::python::pyc::SourceHasher;

/// No document of a distribution or a function is read beyond this, in bytes.
const MAX_KEPT: usize = 4 << 20;
/// Nor is a module beside the handler's, or a `.pth` file, larger.
const MAX_SMALL: u64 = 256 << 10;
/// Nor are all together; what comes later is not looked into.
const MAX_ALL: u64 = 64 << 20;
/// As many of a script's first bytes are kept: its first line.
const HEAD: usize = 256;
/// And of other files: what tells their kind, and the header of a `.pyc`.
const SHORT_HEAD: usize = 16;

/// What was seen of a file's contents.
#[derive(Debug)]
pub struct Seen {
    /// The first bytes, at most 256 of a script or a list of settings and 16 of other files.
    pub head: Box<[u8]>,
    /// All bytes of a document that a rule reads; of a `METADATA` those before the first blank line.
    pub kept: Option<Box<[u8]>>,
    /// The digest, where a `RECORD` may state it.
    pub digest: Option<Digest>,
    /// The hashes that a `.pyc` may state of a module's source, each after the minor number of its Python.
    pub source_hashes: Box<[(u8, u64)]>,
    /// What an ELF file says of itself.
    pub elf: Watched,
    /// A key or token in a text file that is not large.
    pub secret: Option<Secret>,
    /// What it says to the loader, if it could be read.
    pub links: Option<Box<Links>>,
}

/// How files of an image are looked at.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Paths to keep beside those of the rules' own.
    pub wanted: Vec<String>,
    handler: Option<Handler>,
    /// Directories of the user's that modules are looked for in.
    roots: Vec<String>,
    python: Option<PythonVersion>,
    /// Bytes that are kept so far, all files together.
    kept: Arc<AtomicU64>,
}

/// How much of a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Whole,
    /// Up to the first blank line.
    Fields,
}

impl Contents {
    /// What the rules need of an image of these documents.
    pub fn of(documents: &Documents) -> Self {
        Self {
            wanted: vec![modules::BOOTSTRAP.to_owned()],
            handler: modules::last_argument(documents).and_then(|text| text.parse().ok()),
            roots: modules::roots(documents),
            python: modules::stated_version(documents),
            kept: Arc::default(),
        }
    }

    /// The reader of an entry's contents.
    pub fn reader(&self, entry: &Entry<Seen>) -> Option<Box<dyn Reader<Seen = Seen>>> {
        let path = entry.path();
        let installed = self.is_installed(&path);
        let keep = self.keep(&path, entry.size);
        let compiled = has_ending(&path, "pyc");
        let source = installed && has_ending(&path, "py");
        let name = paths::name(&path);
        let is_list = matches!(name, "os-release" | "pyvenv.cfg") || has_ending(name, "pth");
        Some(Box::new(Watching {
            head: Vec::new(),
            is_list,
            kept: keep.filter(|_| self.may_keep(entry.size)).map(|keep| Kept {
                bytes: Vec::new(),
                of_fields: keep == Keep::Fields,
                ended: false,
            }),
            hasher: (installed && !compiled).then(Hasher::default),
            source: source.then(|| SourceHasher::new(self.python.map(PythonVersion::minor))),
            search: Search::new(&path, entry.size),
            elf: Watch::linked(entry.size),
        }))
    }

    /// Whether there is room for so many bytes more.
    fn may_keep(&self, size: u64) -> bool {
        let size = size.min(MAX_KEPT as u64);
        let before = self.kept.fetch_add(size, Ordering::Relaxed);
        before + size <= MAX_ALL
    }

    /// Whether a path is in a directory where distributions are.
    fn is_installed(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        parts.any(|part| matches!(part, "site-packages" | "dist-packages"))
            || self
                .roots
                .iter()
                .any(|root| paths::below(root, path).is_some())
    }

    fn keep(&self, path: &str, size: u64) -> Option<Keep> {
        if self.wanted.iter().any(|wanted| wanted == path) || super::elf::is_read_whole(path) {
            return Some(Keep::Whole);
        }
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if directory.ends_with(".dist-info") {
            return match name {
                "RECORD" | "WHEEL" => Some(Keep::Whole),
                "METADATA" => Some(Keep::Fields),
                _ => None,
            };
        }
        let small = size <= MAX_SMALL;
        if has_ending(name, "pth") {
            return (small && self.is_installed(path)).then_some(Keep::Whole);
        }
        let handler = self.handler.as_ref().filter(|_| has_ending(name, "py"))?;
        let of_handler = |below: &str| {
            let init = below.strip_suffix("/__init__.py");
            let on_the_way = init.is_some_and(|package| {
                paths::below(package, &handler.stem()).is_some() || package == handler.stem()
            });
            on_the_way || handler.is_module(below)
        };
        let beside = |below: &str| {
            let package = paths::directory(below);
            let stem = handler.stem();
            small && (package == stem || paths::below(package, &stem).is_some())
        };
        let packages = path
            .find("-packages/")
            .map(|at| &path[at + "-packages/".len()..]);
        let own = self
            .roots
            .iter()
            .filter_map(|root| paths::below(root, path));
        let wanted = packages.is_some_and(of_handler)
            || own
                .into_iter()
                .any(|below| of_handler(below) || beside(below));
        wanted.then_some(Keep::Whole)
    }
}

struct Watching {
    head: Vec<u8>,
    /// Whether rules read more of its beginning than of other files'.
    is_list: bool,
    kept: Option<Kept>,
    hasher: Option<Hasher>,
    source: Option<SourceHasher>,
    elf: Watch,
    search: Option<Search>,
}

impl Watching {
    /// Of most files the first few bytes tell what they are; of a script its first line is wanted.
    fn short_head(&mut self) -> Vec<u8> {
        let mut head = std::mem::take(&mut self.head);
        if !self.is_list && !head.starts_with(b"#!") {
            head.truncate(SHORT_HEAD);
        }
        head
    }
}

impl Reader for Watching {
    type Seen = Seen;

    fn bytes(&mut self, bytes: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(kept) = &mut self.kept {
            kept.take(bytes);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        if let Some(source) = &mut self.source {
            source.update(bytes);
        }
        self.elf.bytes(bytes);
        if let Some(search) = &mut self.search {
            search.bytes(bytes);
        }
    }

    fn end(mut self: Box<Self>) -> Seen {
        let head = self.short_head();
        let (elf, links) = self.elf.end_linked();
        Seen {
            head: head.into(),
            kept: self.kept.map(|kept| kept.bytes.into()),
            digest: self.hasher.map(Hasher::finish),
            source_hashes: self
                .source
                .map_or_else(Vec::new, SourceHasher::finish)
                .into(),
            secret: self.search.and_then(Search::end),
            elf,
            links,
        }
    }
}

/// A document that is kept.
struct Kept {
    bytes: Vec<u8>,
    /// Whether it ends with its fields.
    of_fields: bool,
    /// Whether all that is wanted has come.
    ended: bool,
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        if self.ended {
            return;
        }
        // A blank line may have begun in what came before.
        let from = self.bytes.len().saturating_sub(2);
        let room = MAX_KEPT - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        let end = self.of_fields.then(|| fields_end(&self.bytes, from));
        if let Some(end) = end.flatten() {
            self.bytes.truncate(end);
            self.ended = true;
        }
        self.ended |= self.bytes.len() == MAX_KEPT;
    }
}

/// Where the blank line that ends a document's fields is over, if it has come; it is looked for from a place on.
fn fields_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut ends = (from..bytes.len()).filter(|at| bytes[*at] == b'\n');
    ends.find_map(|at| match bytes.get(at + 1..) {
        Some([b'\n', ..]) => Some(at + 2),
        Some([b'\r', b'\n', ..]) => Some(at + 3),
        _ => None,
    })
}
