//! What an ELF file asks of the machine that loads it: its processor, and how new a C library.
//!
//! Follows the System V ABI and the GNU version-needs extension. Whatever the file holds, reading it is
//! bounded: tables are found by address as the loader finds them, for stripped files may have no
//! sections, and a table larger than any real one is a fault. It never knows wheels, nor which machine
//! is the target.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use object::Endianness;
use object::elf::{
    DT_NULL, DT_STRSZ, DT_STRTAB, DT_VERNEED, DynamicTag, FileHeader64, PT_DYNAMIC, PT_LOAD,
    ProgramHeader64, VER_FLG_WEAK, Vernaux, Verneed,
};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::read::{ReadCache, ReadRef};
use serde::{Deserialize, Serialize};

use crate::python::{Glibc, Machine};

/// What every ELF file begins with.
pub const MAGIC: &[u8; 4] = b"\x7fELF";

/// The bytes in which class, byte order and machine stand.
const START: usize = 20;
const CLASS_64: u8 = 2;
const BIG_ENDIAN: u8 = 2;

/// Real files have about ten segments, forty dynamic entries and a hundred needed versions.
const MAX_SEGMENTS: u16 = 1_000;
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_NEEDS: usize = 20_000;
/// A version's name, as `GLIBC_2.17`, with room.
const MAX_NAME: u64 = 256;

/// As much is kept of a file's beginning as it streams by, in bytes: symbols' names and needed versions lie
/// there. Of 485 files in 18 wheels of PyPI none needed more.
const KEPT_HEAD: u64 = 4 << 20;
/// And of its end, where tools that change library paths put names.
const KEPT_TAIL: u64 = 64 << 10;
/// It is kept in pieces of so many bytes; a file's program headers lie in the first.
const CHUNK: usize = 64 << 10;

/// What a loader has to be able to do is asked for by such names; this is since when there are any. Later ones
/// need a later loader.
const FEATURES: (&str, Glibc) = (
    "GLIBC_ABI_",
    Glibc {
        major: 2,
        minor: 36,
    },
);

/// What one file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The processor, by ELF's own number.
    pub machine: u16,
    /// Whether it is of 64 bits.
    pub wide: bool,
    /// The newest version of the C library that it cannot do without.
    pub glibc: Option<Need>,
}

/// A version of the C library, and by what name it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The first version that has it.
    pub version: Glibc,
    /// The symbol version, as `GLIBC_2.34`.
    pub symbol: String,
}

/// An ELF file that is damaged, or of which reading would not end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table is not where a header says.
    #[error(transparent)]
    Damaged(#[from] object::read::Error),
    /// A table is larger than any real one.
    #[error("it has more {0} than any real file")]
    TooMany(&'static str),
    /// A part of it lies behind its end.
    #[error("it ends before its {0}")]
    Short(&'static str),
}

impl Facts {
    /// Whether this machine can load it.
    pub fn is_for(&self, machine: Machine) -> bool {
        let number = match machine {
            Machine::X86_64 => object::elf::EM_X86_64.0,
            Machine::Aarch64 => object::elf::EM_AARCH64.0,
        };
        self.wide && self.machine == number
    }

    /// The processor's name, as people write it.
    pub fn machine_name(&self) -> String {
        let known = [Machine::X86_64, Machine::Aarch64];
        if let Some(known) = known.iter().find(|machine| self.is_for(**machine)) {
            return known.to_string();
        }
        match (object::elf::Machine(self.machine), self.wide) {
            (object::elf::EM_386, _) => "i686".to_owned(),
            (object::elf::EM_X86_64, false) => "x32".to_owned(),
            (object::elf::EM_ARM, _) => "arm of 32 bits".to_owned(),
            (object::elf::EM_PPC64, _) => "ppc64".to_owned(),
            (object::elf::EM_S390, _) => "s390x".to_owned(),
            (object::elf::EM_RISCV, _) => "riscv".to_owned(),
            (object::elf::EM_CUDA, _) => "a graphics card".to_owned(),
            (object::elf::EM_BPF, _) => "the kernel (BPF)".to_owned(),
            (other, _) => format!("ELF machine {}", other.0),
        }
    }
}

/// Reads what an ELF file says of itself; it begins with [`MAGIC`].
///
/// # Errors
/// See [`Error`].
pub fn facts<F: Read + Seek>(file: F) -> Result<Facts, Error> {
    let cache = ReadCache::new(file);
    let data = &cache;
    let start = data.read_bytes_at(0, START as u64);
    let start = start.map_err(|()| Error::Short("header"))?;
    let machine = [start[18], start[19]];
    let mut facts = Facts {
        machine: if start[5] == BIG_ENDIAN {
            u16::from_be_bytes(machine)
        } else {
            u16::from_le_bytes(machine)
        },
        wide: start[4] == CLASS_64,
        glibc: None,
    };
    if [Machine::X86_64, Machine::Aarch64]
        .iter()
        .any(|machine| facts.is_for(*machine))
    {
        facts.glibc = newest_need(data)?;
    }
    Ok(facts)
}

/// Sees a file of any kind stream by and keeps what [`facts`] will want of an ELF file: both its ends, and
/// between them its dynamic section, whose place the beginning tells.
#[derive(Debug)]
pub struct Watch {
    parts: Vec<Part>,
    size: u64,
    seen: u64,
}

/// What a [`Watch`] saw.
#[derive(Debug)]
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
            let dynamic = dynamic_range(head.start()).unwrap_or_default();
            let end = self.size.saturating_sub(KEPT_TAIL);
            let middle = |place: u64| place.clamp(KEPT_HEAD, self.size);
            self.parts.extend([
                Part::new(middle(dynamic.start)..middle(dynamic.end)),
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
        match self.parts.first() {
            Some(head) if head.start().starts_with(MAGIC) => {}
            _ => return Watched::Other,
        }
        let mut kept = Kept {
            watch: self,
            at: 0,
            missed: false,
        };
        let facts = facts(&mut kept);
        if kept.missed {
            return Watched::Elsewhere;
        }
        Watched::Elf(facts)
    }
}

/// Where the dynamic section is, by a file's beginning.
fn dynamic_range(head: &[u8]) -> Option<Range<u64>> {
    let header = FileHeader64::<Endianness>::parse(head).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, head).ok()?;
    let mut segments = segments.iter();
    let dynamic = segments.find(|segment| segment.p_type(endian) == PT_DYNAMIC)?;
    let start = dynamic.p_offset(endian);
    let length = dynamic.p_filesz(endian).min(MAX_DYNAMIC);
    Some(start..start.saturating_add(length))
}

/// Reads what was kept of a file as if it were the whole.
struct Kept {
    watch: Watch,
    at: u64,
    missed: bool,
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

fn newest_need<'data, R: ReadRef<'data>>(data: R) -> Result<Option<Need>, Error> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    if header.e_phnum(endian) > MAX_SEGMENTS {
        return Err(Error::TooMany("segments"));
    }
    let segments = header.program_headers(endian, data)?;
    let dynamic = segments
        .iter()
        .find(|segment| segment.p_type(endian) == PT_DYNAMIC);
    // A program without dynamic libraries asks nothing of the C library, nor does an object file.
    let Some(dynamic) = dynamic else {
        return Ok(None);
    };
    if dynamic.p_filesz(endian) > MAX_DYNAMIC {
        return Err(Error::TooMany("dynamic entries"));
    }
    let entries = dynamic.dynamic(endian, data)?.unwrap_or_default();
    let entries = entries
        .iter()
        .take_while(|entry| entry.d_tag(endian) != DT_NULL);
    let value = |tag: DynamicTag| {
        let mut entries = entries.clone();
        Some(
            entries
                .find(|entry| entry.d_tag(endian) == tag)?
                .d_val(endian),
        )
    };
    let place = |tag| offset(value(tag)?, segments, endian);
    let (Some(needs), Some(names)) = (place(DT_VERNEED), place(DT_STRTAB)) else {
        return Ok(None);
    };
    let names = names..names.saturating_add(value(DT_STRSZ).unwrap_or_default());
    let mut newest: Option<Need> = None;
    each_need(data, needs, endian, |need| {
        if need.vna_flags.get(endian).contains(VER_FLG_WEAK) {
            return;
        }
        let start = names.start.saturating_add(need.vna_name.get(endian).into());
        let name = name_at(data, start..names.end);
        let need = name.and_then(need_of);
        newest = newest
            .take()
            .into_iter()
            .chain(need)
            .max_by_key(|need| need.version);
    })?;
    Ok(newest)
}

/// Walks the versions needed of each library.
fn each_need<'data, R: ReadRef<'data>>(
    data: R,
    first: u64,
    endian: Endianness,
    mut take: impl FnMut(&'data Vernaux<Endianness>),
) -> Result<(), Error> {
    let short = |()| Error::Short("needed versions");
    let mut seen = 0;
    let mut library = first;
    loop {
        let needed: &Verneed<_> = data.read_at(library).map_err(short)?;
        let mut version = library.saturating_add(needed.vn_aux.get(endian).into());
        for _ in 0..needed.vn_cnt.get(endian) {
            seen += 1;
            if seen > MAX_NEEDS {
                return Err(Error::TooMany("needed versions"));
            }
            let need: &Vernaux<_> = data.read_at(version).map_err(short)?;
            take(need);
            version = version.saturating_add(need.vna_next.get(endian).into());
        }
        seen += 1;
        match needed.vn_next.get(endian) {
            0 => return Ok(()),
            _ if seen > MAX_NEEDS => return Err(Error::TooMany("needed versions")),
            next => library = library.saturating_add(next.into()),
        }
    }
}

/// The text up to a NUL; none where a name would be longer than any real one.
fn name_at<'data, R: ReadRef<'data>>(data: R, range: Range<u64>) -> Option<&'data str> {
    let length = range.end.checked_sub(range.start)?.min(MAX_NAME);
    let bytes = data.read_bytes_at(range.start, length).ok()?;
    let end = bytes.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// `GLIBC_2.17` and `GLIBC_2.2.5`, not `GLIBC_PRIVATE`.
fn need_of(symbol: &str) -> Option<Need> {
    let version = if symbol.starts_with(FEATURES.0) {
        FEATURES.1
    } else {
        let mut numbers = symbol.strip_prefix("GLIBC_")?.splitn(3, '.');
        let mut number = || numbers.next()?.parse().ok();
        Glibc {
            major: number()?,
            minor: number()?,
        }
    };
    Some(Need {
        version,
        symbol: symbol.to_owned(),
    })
}

/// Where in the file the byte is that will have `address` in memory.
pub(crate) fn offset(
    address: u64,
    segments: &[ProgramHeader64<Endianness>],
    endian: Endianness,
) -> Option<u64> {
    let mut loaded = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD);
    loaded.find_map(|segment| {
        let within = address.checked_sub(segment.p_vaddr(endian))?;
        let inside = within < segment.p_filesz(endian);
        inside.then(|| segment.p_offset(endian).checked_add(within))?
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! ELF files of little more than headers and needed versions.

    const HEADER: u64 = 64;
    const SEGMENTS: u64 = 2 * 56;
    const DYNAMIC: u64 = HEADER + SEGMENTS;
    const NEEDS: u64 = DYNAMIC + 4 * 16;

    /// A library for `machine` that needs these versions of libc; a name with `?` is a weak need.
    pub(crate) fn elf(machine: u16, needs: &[&str]) -> Vec<u8> {
        let mut strings = b"\0libc.so.6\0".to_vec();
        let mut versions = Vec::new();
        let count = u16::try_from(needs.len()).unwrap();
        versions.extend([1u16.to_le_bytes(), count.to_le_bytes()].concat());
        versions.extend([1u32.to_le_bytes(), 16u32.to_le_bytes(), [0; 4]].concat());
        for need in needs {
            let place = u32::try_from(strings.len()).unwrap();
            strings.extend(need.trim_end_matches('?').as_bytes());
            strings.push(0);
            versions.extend([0; 4]);
            versions.extend((if need.ends_with('?') { 2u16 } else { 0 }).to_le_bytes());
            versions.extend([0; 2]);
            versions.extend(place.to_le_bytes());
            versions.extend(16u32.to_le_bytes());
        }
        let names = NEEDS + versions.len() as u64;
        let length = names + strings.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([3u16.to_le_bytes(), machine.to_le_bytes()].concat());
        file.extend(1u32.to_le_bytes());
        file.extend([0, HEADER, 0].map(u64::to_le_bytes).concat());
        file.extend([0; 4]);
        file.extend([64u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
        // Loaded at its place in the file plus a page.
        for (kind, offset, size) in [(1u32, 0, length), (2, DYNAMIC, 4 * 16)] {
            file.extend([kind, 4].map(u32::to_le_bytes).concat());
            let address = offset + 4096;
            let fields = [offset, address, address, size, size, 8];
            file.extend(fields.map(u64::to_le_bytes).concat());
        }
        let entries = [
            (5, names + 4096),
            (10, strings.len() as u64),
            (0x6fff_fffe, NEEDS + 4096),
            (0, 0),
        ];
        for (tag, value) in entries {
            file.extend([tag, value].map(u64::to_le_bytes).concat());
        }
        file.extend(versions);
        file.extend(strings);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn newest(needs: &[&str]) -> Option<String> {
        let facts = facts(Cursor::new(testing::elf(62, needs))).unwrap();
        assert!(facts.is_for(Machine::X86_64) && !facts.is_for(Machine::Aarch64));
        facts.glibc.map(|need| need.symbol)
    }

    #[test]
    fn the_newest_needed_version_counts() {
        let newest = |needs: &[&str]| newest(needs).unwrap_or_default();
        assert_eq!(
            newest(&["GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.9"]),
            "GLIBC_2.17"
        );
        assert_eq!(newest(&["GLIBC_2.17", "GLIBC_2.38?"]), "GLIBC_2.17");
        assert_eq!(newest(&["GLIBC_PRIVATE", "GCC_4.2.0", "GLIBC_x.1"]), "");
        assert_eq!(
            newest(&["GLIBC_2.4", "GLIBC_ABI_DT_RELR"]),
            "GLIBC_ABI_DT_RELR"
        );
        let relative = need_of("GLIBC_ABI_DT_RELR").unwrap();
        assert_eq!(relative.version.to_string(), "2.36");
    }

    #[test]
    fn this_tests_own_program_is_read() {
        let facts = facts(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let here = if cfg!(target_arch = "aarch64") {
            Machine::Aarch64
        } else {
            Machine::X86_64
        };
        assert_eq!(facts.machine_name(), here.as_str());
        assert!(facts.glibc.unwrap().version >= "2.14".parse().unwrap());
    }

    #[test]
    fn tables_without_end_are_a_fault() {
        let mut bytes = testing::elf(62, &["GLIBC_2.17"]);
        let needs = bytes.len() - "\0libc.so.6\0GLIBC_2.17\0".len() - 32;
        // As many needs as can be said, all of them the first one, in two hundred libraries.
        bytes[needs + 2..needs + 4].copy_from_slice(&u16::MAX.to_le_bytes());
        bytes[needs + 28..needs + 32].copy_from_slice(&0u32.to_le_bytes());
        let error = facts(Cursor::new(bytes)).unwrap_err();
        insta::assert_snapshot!(error, @"it has more needed versions than any real file");
    }

    /// What a watch sees of these bytes in chunks of `chunk`.
    fn watched(bytes: &[u8], chunk: usize) -> Watched {
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

    proptest! {
        #[test]
        fn never_panics_on_foreign_bytes(
            changes in proptest::collection::vec((0usize..400, any::<u8>()), 1..6),
            cut in 0usize..400,
        ) {
            let mut bytes = testing::elf(183, &["GLIBC_2.17", "GLIBC_2.28"]);
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut % bytes.len());
            let whole = facts(Cursor::new(&bytes)).map_err(|error| error.to_string());
            match watched(&bytes, 1 + cut) {
                Watched::Elf(seen) => prop_assert_eq!(seen.map_err(|e| e.to_string()), whole),
                Watched::Other => prop_assert!(!bytes.starts_with(MAGIC)),
                Watched::Elsewhere => prop_assert!(false, "all of it was kept"),
            }
        }
    }
}
