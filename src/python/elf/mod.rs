//! What an ELF file asks of the machine that loads it: its processor, and how new a C library.
//!
//! Follows the System V ABI and the GNU version-needs extension. Whatever the file holds, reading it is
//! bounded: tables are found by address as the loader finds them, for stripped files may have no
//! sections, and a table larger than any real one is a fault. It never knows wheels, nor which machine
//! is the target.

mod links;
mod watch;

#[cfg(test)]
pub(crate) mod testing;

use std::io::{Read, Seek};
use std::ops::Range;

use object::Endianness;
use object::elf::{
    DT_NULL, DT_STRSZ, DT_STRTAB, DT_VERNEED, Dyn64, DynamicTag, FileHeader64, PT_DYNAMIC, PT_LOAD,
    ProgramHeader64, VER_FLG_WEAK, Vernaux, Verneed,
};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::read::{ReadCache, ReadRef};
use serde::{Deserialize, Serialize};

use crate::python::{Glibc, Machine};

pub use links::{Asked, Links, links};
pub use watch::{Watch, Watched};

/// What every ELF file begins with.
pub const MAGIC: &[u8; 4] = b"\x7fELF";

/// The bytes in which class, byte order and machine stand.
const START: usize = 20;
const CLASS_64: u8 = 2;
const BIG_ENDIAN: u8 = 2;

/// Real files have about ten segments, forty dynamic entries and a hundred needed versions.
const MAX_SEGMENTS: u16 = 1_000;
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_VERSIONS: usize = 20_000;
/// A version's name, as `GLIBC_2.17`, with room.
const MAX_NAME: u64 = 256;

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
#[derive(Debug, Clone, thiserror::Error)]
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

    /// Whether any machine of ours can load it.
    pub fn is_for_any(&self) -> bool {
        [Machine::X86_64, Machine::Aarch64]
            .iter()
            .any(|machine| self.is_for(*machine))
    }

    /// Whether it is for what no operating system starts programs on: graphics cards, the kernel, nothing.
    pub fn is_for_device(&self) -> bool {
        use object::elf::{EM_AMDGPU, EM_BPF, EM_CUDA, EM_NONE};
        let devices = [EM_AMDGPU, EM_BPF, EM_CUDA, EM_NONE];
        devices.contains(&object::elf::Machine(self.machine))
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
    if facts.is_for_any() {
        facts.glibc = newest_need(data)?;
    }
    Ok(facts)
}

fn newest_need<'data, R: ReadRef<'data>>(data: R) -> Result<Option<Need>, Error> {
    // A program without dynamic libraries asks nothing of the C library, nor does an object file.
    let Some(dynamic) = Dynamic::read(data)? else {
        return Ok(None);
    };
    let mut newest: Option<Need> = None;
    dynamic.each_need(|_, need| {
        if need.vna_flags.get(dynamic.endian).contains(VER_FLG_WEAK) {
            return;
        }
        let name = dynamic.name(need.vna_name.get(dynamic.endian).into());
        let need = name.and_then(need_of);
        newest = newest
            .take()
            .into_iter()
            .chain(need)
            .max_by_key(|need| need.version);
    })?;
    Ok(newest)
}

/// The tables that a loader reads.
struct Dynamic<'data, R> {
    data: R,
    endian: Endianness,
    segments: &'data [ProgramHeader64<Endianness>],
    /// Up to the one that ends them.
    entries: &'data [Dyn64<Endianness>],
    /// Where the names are.
    names: Range<u64>,
}

impl<'data, R: ReadRef<'data>> Dynamic<'data, R> {
    /// Finds them in a file of 64 bits that is loaded with others.
    fn read(data: R) -> Result<Option<Self>, Error> {
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        if header.e_phnum(endian) > MAX_SEGMENTS {
            return Err(Error::TooMany("segments"));
        }
        let segments = header.program_headers(endian, data)?;
        let dynamic = segments
            .iter()
            .find(|segment| segment.p_type(endian) == PT_DYNAMIC);
        let Some(dynamic) = dynamic else {
            return Ok(None);
        };
        if dynamic.p_filesz(endian) > MAX_DYNAMIC {
            return Err(Error::TooMany("dynamic entries"));
        }
        let entries = dynamic.dynamic(endian, data)?.unwrap_or_default();
        let end = entries
            .iter()
            .position(|entry| entry.d_tag(endian) == DT_NULL);
        let mut found = Self {
            data,
            endian,
            segments,
            entries: &entries[..end.unwrap_or(entries.len())],
            names: 0..0,
        };
        if let Some(names) = found.place(DT_STRTAB) {
            let length = found.value(DT_STRSZ).unwrap_or_default();
            found.names = names..names.saturating_add(length);
        }
        Ok(Some(found))
    }

    /// The values of all entries of a kind.
    fn values(&self, tag: DynamicTag) -> impl Iterator<Item = u64> {
        let entries = self.entries.iter();
        let entries = entries.filter(move |entry| entry.d_tag(self.endian) == tag);
        entries.map(|entry| entry.d_val(self.endian))
    }

    fn value(&self, tag: DynamicTag) -> Option<u64> {
        self.values(tag).next()
    }

    /// Where in the file the table is whose address an entry has.
    fn place(&self, tag: DynamicTag) -> Option<u64> {
        offset(self.value(tag)?, self.segments, self.endian)
    }

    /// A version's or library's name.
    fn name(&self, within: u64) -> Option<&'data str> {
        self.text(within, MAX_NAME)
    }

    /// The text of at most so many bytes up to a NUL; none where it would be longer than any real one.
    fn text(&self, within: u64, longest: u64) -> Option<&'data str> {
        let start = self.names.start.saturating_add(within);
        let length = self.names.end.checked_sub(start)?.min(longest);
        let bytes = self.data.read_bytes_at(start, length).ok()?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }

    /// Walks the versions needed, each with the library that it is needed of.
    fn each_need(
        &self,
        mut take: impl FnMut(&'data Verneed<Endianness>, &'data Vernaux<Endianness>),
    ) -> Result<(), Error> {
        let Some(mut library) = self.place(DT_VERNEED) else {
            return Ok(());
        };
        let (data, endian) = (self.data, self.endian);
        let short = |()| Error::Short("needed versions");
        let mut seen = 0;
        loop {
            let needed: &Verneed<_> = data.read_at(library).map_err(short)?;
            let mut version = library.saturating_add(needed.vn_aux.get(endian).into());
            for _ in 0..needed.vn_cnt.get(endian) {
                seen += 1;
                if seen > MAX_VERSIONS {
                    return Err(Error::TooMany("needed versions"));
                }
                let need: &Vernaux<_> = data.read_at(version).map_err(short)?;
                take(needed, need);
                version = version.saturating_add(need.vna_next.get(endian).into());
            }
            seen += 1;
            match needed.vn_next.get(endian) {
                0 => return Ok(()),
                _ if seen > MAX_VERSIONS => return Err(Error::TooMany("needed versions")),
                next => library = library.saturating_add(next.into()),
            }
        }
    }
}

/// `GLIBC_2.17` and `GLIBC_2.2.5`, not `GLIBC_PRIVATE`.
pub(crate) fn need_of(symbol: &str) -> Option<Need> {
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
mod tests {
    use super::watch::tests::watched;
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
