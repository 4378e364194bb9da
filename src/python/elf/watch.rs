//! An ELF file as it streams by: what of it is kept, so that it can be read when its last byte has come.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use object::Endianness;
use object::elf::{FileHeader64, PT_DYNAMIC, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::{Error, Facts, Links, MAGIC, MAX_DYNAMIC, facts, links};

/// As much is kept of a file's beginning as it streams by, in bytes: symbols' names and needed versions lie
/// there. Of 485 files in 18 wheels of PyPI none needed more.
const KEPT_HEAD: u64 = 4 << 20;
/// And of its end, where tools that change library paths put names.
const KEPT_TAIL: u64 = 64 << 10;
/// For [`links`] that much of what is loaded first, where all tables are as a linker leaves them (needed
/// versions up to 6.8 MB into `PyTorch`'s largest library),
const LINKS_HEAD: u64 = 16 << 20;
/// and of the end, where all names are in a file whose library path was changed (6 MB there).
const LINKS_TAIL: u64 = 8 << 20;
/// It is kept in pieces of so many bytes; a file's program headers lie in the first.
const CHUNK: usize = 64 << 10;

/// Sees a file of any kind stream by and keeps what [`facts`] will want of an ELF file: both its ends, and
/// between them its dynamic section, whose place the beginning tells.
#[derive(Debug)]
pub struct Watch {
    parts: Vec<Part>,
    size: u64,
    seen: u64,
    /// Whether [`links`] are wanted, too.
    linked: bool,
}

/// What a [`Watch`] saw.
#[derive(Debug, Clone)]
pub enum Watched {
    /// No ELF file.
    Other,
    /// An ELF file, and what it says of itself.
    Elf(Result<Facts, Error>),
    /// An ELF file whose tables lie where nothing was kept.
    Elsewhere,
}

/// What has come so far of a range of the file, in chunks: an allocator gives large blocks back late.
#[derive(Debug)]
struct Part {
    range: Range<u64>,
    chunks: Vec<Vec<u8>>,
    length: u64,
}

impl Part {
    fn new(range: Range<u64>) -> Self {
        Self {
            range,
            chunks: Vec::new(),
            length: 0,
        }
    }

    /// Takes of `bytes`, which are those from `at` on, what belongs here.
    fn take(&mut self, bytes: &[u8], at: u64) {
        let inside = |place: u64| {
            let within = place.saturating_sub(at).min(bytes.len() as u64);
            usize::try_from(within).unwrap_or(bytes.len())
        };
        let mut new = &bytes[inside(self.range.start)..inside(self.range.end)];
        self.length += new.len() as u64;
        while !new.is_empty() {
            let last = self.chunks.last_mut().filter(|last| last.len() < CHUNK);
            let Some(last) = last else {
                self.chunks.push(Vec::with_capacity(CHUNK));
                continue;
            };
            let (now, rest) = new.split_at(new.len().min(CHUNK - last.len()));
            last.extend_from_slice(now);
            new = rest;
        }
    }

    fn is_full(&self) -> bool {
        self.length == self.range.end - self.range.start
    }

    /// The first of its bytes, as many as are in one chunk.
    fn start(&self) -> &[u8] {
        self.chunks.first().map_or(&[], Vec::as_slice)
    }

    /// Some bytes from `place` on, if they are here.
    fn from(&self, place: u64) -> Option<&[u8]> {
        let within = usize::try_from(place.checked_sub(self.range.start)?).ok()?;
        let rest = self.chunks.get(within / CHUNK)?.get(within % CHUNK..)?;
        (!rest.is_empty()).then_some(rest)
    }
}

impl Watch {
    /// For a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self {
            parts: vec![Part::new(0..size.min(KEPT_HEAD))],
            size,
            seen: 0,
            linked: false,
        }
    }

    /// For a file of `size` bytes of which [`Self::end_linked`] is wanted.
    pub fn linked(size: u64) -> Self {
        Self {
            linked: true,
            ..Self::new(size)
        }
    }

    /// The next bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let at = self.seen;
        self.seen += bytes.len() as u64;
        // Most files are told by their first bytes, and need not be kept.
        if at == 0 && bytes.len() >= MAGIC.len() && !bytes.starts_with(MAGIC) {
            self.parts.clear();
        }
        if self.parts.is_empty() {
            return;
        }
        self.take(bytes, at);
        let [head] = &self.parts[..] else { return };
        if head.length >= MAGIC.len() as u64 && !head.start().starts_with(MAGIC) {
            self.parts.clear();
        } else if head.is_full() && head.range.end < self.size {
            let segments = segments_range(head.start()).unwrap_or_default();
            let (loaded, dynamic) = ranges(head.start()).unwrap_or_default();
            let (head, tail) = if self.linked {
                (LINKS_HEAD, LINKS_TAIL)
            } else {
                (KEPT_HEAD, KEPT_TAIL)
            };
            let end = self.size.saturating_sub(tail);
            let middle = |place: u64| place.clamp(KEPT_HEAD, self.size);
            self.parts.extend([
                Part::new(KEPT_HEAD..middle(loaded.end.min(head))),
                Part::new(middle(dynamic.start)..middle(dynamic.end)),
                Part::new(middle(segments.start)..middle(segments.end)),
                Part::new(middle(end)..self.size),
            ]);
            // They may begin in these very bytes.
            for part in &mut self.parts[1..] {
                part.take(bytes, at);
            }
        }
    }

    fn take(&mut self, bytes: &[u8], at: u64) {
        for part in &mut self.parts {
            part.take(bytes, at);
        }
    }

    /// What it was, once all bytes have come.
    pub fn end(self) -> Watched {
        self.kept().map_or(Watched::Other, |mut kept| kept.facts())
    }

    /// The same, and what it says to the loader if it can be loaded by a machine of ours and was to be read.
    pub fn end_linked(self) -> (Watched, Option<Box<Links>>) {
        let Some(mut kept) = self.kept() else {
            return (Watched::Other, None);
        };
        let watched = kept.facts();
        let Watched::Elf(Ok(facts)) = &watched else {
            return (watched, None);
        };
        if !facts.is_for_any() {
            return (watched, None);
        }
        kept.at = 0;
        let links = links(&mut kept);
        if kept.missed {
            return (Watched::Elsewhere, None);
        }
        match links {
            Ok(links) => (watched, Some(Box::new(links))),
            Err(error) => (Watched::Elf(Err(error)), None),
        }
    }

    fn kept(self) -> Option<Kept> {
        let head = self.parts.first()?;
        head.start().starts_with(MAGIC).then_some(Kept {
            watch: self,
            at: 0,
            missed: false,
        })
    }
}

/// Where the program headers are, by a file's beginning.
fn segments_range(head: &[u8]) -> Option<Range<u64>> {
    let header = FileHeader64::<Endianness>::parse(head).ok()?;
    let endian = header.endian().ok()?;
    let length =
        u64::from(header.e_phnum(endian)) * size_of::<ProgramHeader64<Endianness>>() as u64;
    let start = header.e_phoff(endian);
    Some(start..start.saturating_add(length))
}

/// Where that is what is loaded first, and the dynamic section, by a file's beginning.
///
/// A tool that changes library paths may move the program headers far back, to where they come too late. It
/// leaves those of the linker behind the header, one less, and they still tell what is where.
fn ranges(head: &[u8]) -> Option<(Range<u64>, Range<u64>)> {
    let mut header = *FileHeader64::<Endianness>::parse(head).ok()?;
    let endian = header.endian().ok()?;
    let size = size_of::<FileHeader64<Endianness>>() as u64;
    if header.e_phoff(endian) >= head.len() as u64 {
        header.e_phoff.set(endian, size);
        header
            .e_phnum
            .set(endian, header.e_phnum(endian).saturating_sub(1));
    }
    let segments = header.program_headers(endian, head).ok()?;
    let range = |kind, longest: u64| {
        let mut segments = segments.iter();
        let segment = segments.find(|segment| segment.p_type(endian) == kind)?;
        let start = segment.p_offset(endian);
        let length = segment.p_filesz(endian).min(longest);
        Some(start..start.saturating_add(length))
    };
    let loaded = range(PT_LOAD, u64::MAX).unwrap_or_default();
    Some((loaded, range(PT_DYNAMIC, MAX_DYNAMIC)?))
}

/// Reads what was kept of a file as if it were the whole.
struct Kept {
    watch: Watch,
    at: u64,
    missed: bool,
}

impl Kept {
    fn facts(&mut self) -> Watched {
        let facts = facts(&mut *self);
        if self.missed {
            return Watched::Elsewhere;
        }
        Watched::Elf(facts)
    }
}

impl Read for Kept {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.watch.size || buffer.is_empty() {
            return Ok(0);
        }
        let at = self.at;
        let Some(kept) = self.watch.parts.iter().find_map(|part| part.from(at)) else {
            self.missed = true;
            return Err(io::Error::other("this part was not kept"));
        };
        let count = kept.len().min(buffer.len());
        buffer[..count].copy_from_slice(&kept[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Kept {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.watch.size, by),
            SeekFrom::Current(by) => (self.at, by),
        };
        let at = base.checked_add_signed(by);
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::python::elf::testing;

    /// What a watch sees of these bytes in chunks of `chunk`.
    pub(in crate::python::elf) fn watched(bytes: &[u8], chunk: usize) -> Watched {
        let mut watch = Watch::new(bytes.len() as u64);
        for bytes in bytes.chunks(chunk) {
            watch.bytes(bytes);
        }
        watch.end()
    }

    fn put(bytes: &mut [u8], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn a_large_file_is_read_as_it_streams_by() {
        let small = testing::elf(62, &["GLIBC_2.17"]);
        let here = facts(Cursor::new(&small)).unwrap();
        let mut large = small.clone();
        large.resize(20 << 20, 7);
        // Its dynamic section in the middle, which the beginning tells.
        let (dynamic, middle) = (64 + 2 * 56, 11 << 20);
        large.copy_within(dynamic..dynamic + 64, middle);
        large[dynamic..dynamic + 64].fill(7);
        put(&mut large, 64 + 56 + 8, middle as u64);
        for chunk in [3 << 10, 64 << 10, 1 << 30] {
            let Watched::Elf(found) = watched(&large, chunk) else {
                panic!("all that is wanted was kept");
            };
            assert_eq!(found.unwrap(), here);
        }
        // The names there, too, which nothing tells; and then at the end.
        let names = large.len();
        for (at, kept) in [(names - 1024, true), (middle + 4096, false)] {
            let mut large = large.clone();
            let length = small.len() - (dynamic + 64 + 32);
            large[at..at + length].copy_from_slice(&small[dynamic + 64 + 32..]);
            put(&mut large, middle + 8, at as u64 + 4096);
            put(&mut large, 64 + 32, names as u64);
            let seen = watched(&large, 64 << 10);
            assert_eq!(matches!(seen, Watched::Elsewhere), !kept, "{seen:?}");
            let whole = facts(Cursor::new(&large)).unwrap();
            assert_eq!(whole, here);
            if let Watched::Elf(found) = seen {
                assert_eq!(found.unwrap(), whole);
            }
        }
    }

    #[test]
    fn other_files_are_not_kept() {
        for bytes in [&b"\x7fEL"[..], b"", b"import os\n", b"\x7fELf..."] {
            for chunk in [1, 100] {
                assert!(matches!(watched(bytes, chunk), Watched::Other));
            }
        }
    }
}
