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

/// No document of a distribution or a function is kept that is longer, in bytes.
const MAX_KEPT: usize = 4 << 20;
/// But the lists of large distributions' files are.
const MAX_RECORD: usize = 16 << 20;
/// Nor is a module beside the handler's, or a `.pth` file, larger.
const MAX_SMALL: u64 = 256 << 10;
/// Nor another module that the function may have of its own, in bytes.
const MAX_HELPER: u64 = 64 << 10;
/// Nor are all of an image together; what comes later is not looked into.
const MAX_ALL: u64 = 64 << 20;
/// As many of a script's first bytes are kept: its first line.
const HEAD: usize = 256;
/// And of other files: what tells their kind, and the header of a `.pyc`.
const SHORT_HEAD: usize = 16;

/// What was seen of a file's contents.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The first bytes, at most 256 of a script or a list of settings and 16 of other files.
    pub head: Box<[u8]>,
    /// All bytes of a document that a rule reads; of a `METADATA` those before the first blank line.
    pub kept: Option<Box<[u8]>>,
    /// Whether a rule would read it, and it is too long or its layer has too many.
    pub is_dropped: bool,
    /// The digest, where a `RECORD` may state it, or where all are wanted.
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
    /// Whether the digests of all files are wanted, not only of those that a `RECORD` may state.
    pub hashes_all: bool,
    handler: Option<Handler>,
    /// Directories of the user's that modules are looked for in.
    roots: Vec<String>,
    python: Option<PythonVersion>,
    room: Arc<Room>,
}

/// How much of a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Whole,
    /// Up to the first blank line.
    Fields,
    /// All of it, though it is a long list.
    Record,
    /// All of it, also where there is no room for other files any more.
    Module,
    /// All of it if there is much room: a module that may be the function's own or a distribution's.
    Helper,
}

/// The room for what is kept, in bytes.
#[derive(Debug, Default)]
struct Room {
    left: AtomicU64,
    /// What stays free for the handler's modules.
    reserve: u64,
}

impl Room {
    fn new(bytes: u64) -> Self {
        Self {
            left: bytes.into(),
            reserve: bytes / 4,
        }
    }

    /// Whether so many bytes more can be kept; then they are.
    fn take(&self, bytes: usize, keep: Keep) -> bool {
        let reserve = match keep {
            Keep::Module => 0,
            Keep::Helper => 2 * self.reserve,
            _ => self.reserve,
        };
        let rest = |left: u64| {
            left.checked_sub(bytes as u64)
                .filter(|rest| *rest >= reserve)
        };
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        bytes == 0 || self.left.fetch_update(set, get, rest).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Contents {
    /// What the rules need of an image of these documents.
    pub fn of(documents: &Documents) -> Self {
        Self {
            wanted: vec![modules::BOOTSTRAP.to_owned()],
            hashes_all: false,
            handler: modules::stated_handler(documents).and_then(|text| text.parse().ok()),
            roots: modules::roots(documents),
            python: modules::stated_version(documents),
            room: Room::new(MAX_ALL).into(),
        }
    }

    /// The same for each layer, by their sizes: layers are read in any order and at once, and what is kept of one is
    /// to be the same each time. All have a part of half the room, large ones more of the other half.
    pub fn of_layers(&self, sizes: &[u64]) -> Vec<Self> {
        let all = sizes
            .iter()
            .fold(0_u64, |all, size| all.saturating_add(*size));
        let equal = MAX_ALL / 2 / sizes.len().max(1) as u64;
        let by_size = |size: u64| {
            let part = u128::from(MAX_ALL / 2) * u128::from(size) / u128::from(all.max(1));
            u64::try_from(part).unwrap_or_default()
        };
        let rooms = sizes.iter().map(|size| Room::new(equal + by_size(*size)));
        rooms
            .map(|room| Self {
                room: room.into(),
                ..self.clone()
            })
            .collect()
    }

    /// Whether another looks at the same, however much of it there is room to keep.
    pub fn sees_same(&self, other: &Self) -> bool {
        let all = |its: &Self| (its.handler.clone(), its.roots.clone(), its.python);
        self.wanted == other.wanted
            && self.hashes_all == other.hashes_all
            && all(self) == all(other)
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
            kept: keep.map(|keep| Kept {
                bytes: Vec::new(),
                keep,
                room: self.room.clone(),
                state: State::Open,
            }),
            hasher: (self.hashes_all || (installed && !compiled)).then(Hasher::default),
            source: source.then(|| SourceHasher::new(self.python.map(PythonVersion::minor))),
            search: Search::new(&path, entry.size),
            elf: Watch::linked(entry.size),
        }))
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
                "RECORD" => Some(Keep::Record),
                "WHEEL" => Some(Keep::Whole),
                "METADATA" => Some(Keep::Fields),
                _ => None,
            };
        }
        if directory.ends_with(".egg-info") {
            return match name {
                "PKG-INFO" => Some(Keep::Fields),
                "installed-files.txt" => Some(Keep::Record),
                _ => None,
            };
        }
        if name.ends_with(".egg-info") {
            return Some(Keep::Fields);
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
        let own = || {
            let roots = self.roots.iter();
            roots.filter_map(|root| paths::below(root, path))
        };
        if packages.is_some_and(of_handler) || own().any(of_handler) {
            return Some(Keep::Module);
        }
        if own().any(beside) {
            return Some(Keep::Whole);
        }
        let mut roots = self.roots.iter().filter(|root| !root.is_empty());
        let is_helper = size <= MAX_HELPER
            && packages.is_none()
            && roots.any(|root| paths::below(root, path).is_some());
        is_helper.then_some(Keep::Helper)
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
        let is_dropped = self
            .kept
            .take_if(|kept| kept.state == State::Dropped)
            .is_some_and(|kept| kept.keep != Keep::Helper);
        Seen {
            head: head.into(),
            kept: self.kept.map(|kept| kept.bytes.into()),
            is_dropped,
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
    keep: Keep,
    room: Arc<Room>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may come.
    Open,
    /// All that is wanted has come.
    Ended,
    /// It is too much.
    Dropped,
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        if self.state != State::Open {
            return;
        }
        let most = match self.keep {
            Keep::Record => MAX_RECORD,
            _ => MAX_KEPT,
        };
        let before = self.bytes.len();
        // One byte more tells that it is too long.
        let room = most + 1 - before;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        // A blank line may have begun in what came before.
        let end =
            (self.keep == Keep::Fields).then(|| fields_end(&self.bytes, before.saturating_sub(2)));
        if let Some(end) = end.flatten() {
            self.bytes.truncate(end);
            self.state = State::Ended;
        }
        let more = self.bytes.len() - before;
        if self.bytes.len() > most || !self.room.take(more, self.keep) {
            self.room.give_back(before);
            self.bytes = Vec::new();
            self.state = State::Dropped;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::check::testing::Forge;
    use crate::oci::flatten::Kind;

    /// What is kept of a file, whether it was dropped.
    fn kept(contents: &Contents, path: &str, bytes: &[u8]) -> (Option<usize>, bool) {
        let entry = Entry {
            name: path.into(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: bytes.len() as u64,
            modified: 0,
            target: None,
            packed: 0,
            seen: None,
        };
        let mut reader = contents.reader(&entry).unwrap();
        for chunk in bytes.chunks(256 << 10) {
            reader.bytes(chunk);
        }
        let seen = reader.end();
        (seen.kept.map(|kept| kept.len()), seen.is_dropped)
    }

    #[test]
    fn what_is_kept_of_a_layer_has_its_own_limit() {
        let documents = Forge::sound().subject().documents;
        let layers = Contents::of(&documents).of_layers(&[1000, 1000]);
        let [one, other] = &*layers else {
            panic!("two layers")
        };
        // Of a METADATA only the fields count.
        let long = [b"Name: a\n\n".to_vec(), vec![b'x'; 3 << 20]].concat();
        for number in 0..20 {
            let path = format!("var/task/a{number}.dist-info/METADATA");
            assert_eq!(kept(one, &path, &long), (Some(9), false));
        }
        let record = vec![b'x'; 7 << 20];
        let path = "var/task/a.dist-info/RECORD";
        let all: Vec<_> = (0..5).map(|_| kept(one, path, &record)).collect();
        let (is, not) = ((Some(record.len()), false), (None, true));
        assert_eq!(all, [is, is, is, not, not]);
        assert_eq!(kept(other, path, &record), is);
        // The handler's own module has its place whatever came before.
        let module = vec![b'x'; 3 << 20];
        let own = kept(one, "var/task/app.py", &module);
        assert_eq!(own, (Some(module.len()), false));
        let endless = vec![b'x'; 17 << 20];
        assert_eq!(kept(other, path, &endless), not);
    }

    #[test]
    fn the_handler_is_the_same_as_that_of_the_rules() {
        let mut image = Forge::sound();
        image.run["Entrypoint"] =
            serde_json::json!(["/var/lang/bin/python3.12", "-m", "awslambdaric"]);
        image.run["Cmd"] = serde_json::json!(["app.handler", "more"]);
        let contents = Contents::of(&image.subject().documents);
        assert_eq!(kept(&contents, "var/task/app.py", b"x"), (Some(1), false));
    }
}
