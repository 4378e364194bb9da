//! What an ELF file asks of the machine that loads it: its processor, and how new a C library.
//!
//! Follows the System V ABI and the GNU version-needs extension. Whatever the file holds, reading it is
//! bounded: tables are found by address as the loader finds them, for stripped files may have no
//! sections, and a table larger than any real one is a fault. It never knows wheels, nor which machine
//! is the target.

mod watch;

#[cfg(test)]
pub(crate) mod testing;

use std::io::{Read, Seek};
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
const MAX_NEEDS: usize = 20_000;
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
