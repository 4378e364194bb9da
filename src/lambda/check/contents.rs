//! What is kept of a file's bytes while its layer streams by: enough for the rules, and little.
//!
//! Which files are looked at is told by their paths and first bytes. Documents that rules read whole are kept
//! up to a limit; of everything else a few words are.

use crate::digest::{Digest, Hasher};
use crate::lambda::check::secrets::{Search, Secret};
use crate::oci::flatten::{Entry, Reader};
use crate::python::elf::{Links, Watch, Watched};

/// No document of a distribution or a function is read beyond this, in bytes.
const MAX_KEPT: usize = 4 << 20;
/// As many of each file's first bytes are kept: a script's first line.
const HEAD: usize = 256;

/// What was seen of a file's contents.
#[derive(Debug)]
pub struct Seen {
    /// The first bytes, at most 256.
    pub head: Box<[u8]>,
    /// All bytes of a document that a rule reads.
    pub kept: Option<Box<[u8]>>,
    /// The digest, where a `RECORD` may state it.
    pub digest: Option<Digest>,
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
    /// Paths that the config names: the handler's module in all places it may be in.
    pub wanted: Vec<String>,
}

impl Contents {
    /// The reader of an entry's contents.
    pub fn reader(&self, entry: &Entry<Seen>) -> Option<Box<dyn Reader<Seen = Seen>>> {
        let path = entry.path();
        let kept = self.wanted.contains(&path)
            || path.ends_with(".dist-info/RECORD")
            || super::elf::is_read_whole(&path);
        Some(Box::new(Watching {
            head: Vec::new(),
            kept: kept.then(Vec::new),
            hasher: Some(Hasher::default()),
            search: Search::new(&path, entry.size),
            elf: Watch::linked(entry.size),
        }))
    }
}

struct Watching {
    head: Vec<u8>,
    kept: Option<Vec<u8>>,
    hasher: Option<Hasher>,
    elf: Watch,
    search: Option<Search>,
}

impl Reader for Watching {
    type Seen = Seen;

    fn bytes(&mut self, bytes: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(kept) = &mut self.kept {
            let room = MAX_KEPT.saturating_sub(kept.len());
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.elf.bytes(bytes);
        if let Some(search) = &mut self.search {
            search.bytes(bytes);
        }
    }

    fn end(self: Box<Self>) -> Seen {
        let (elf, links) = self.elf.end_linked();
        Seen {
            head: self.head.into(),
            kept: self.kept.map(Into::into),
            digest: self.hasher.map(Hasher::finish),
            secret: self.search.and_then(Search::end),
            elf,
            links,
        }
    }
}
