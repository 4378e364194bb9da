//! The first sixteen bytes of a `.pyc`: which interpreter takes it, and what it says of its source.
//!
//! Follows PEP 552 and `CPython`'s `Lib/importlib/_bootstrap_external.py`. What is behind the header is `marshal`'s;
//! where a `.pyc` lies, and whether anybody reads it, is not known here.

use std::hash::Hasher as _;

use siphasher::sip::{SipHasher13, SipHasher24};

/// Bytes of the header.
pub const HEADER: usize = 16;
/// Each release line's minor number and the magic number of its releases, which never changes after the first.
const MAGIC: [(u8, u16); 7] = [
    (8, 3413),
    (9, 3425),
    (10, 3439),
    (11, 3495),
    (12, 3531),
    (13, 3571),
    (14, 3627),
];
/// The first line that hashes sources with one round a word and three at the end, not two and four.
const SHORT_ROUNDS: u8 = 11;

/// The magic number of `CPython` 3.`minor`, where it is known.
pub fn magic(minor: u8) -> Option<u16> {
    let mut lines = MAGIC.iter();
    lines
        .find(|(line, _)| *line == minor)
        .map(|(_, magic)| *magic)
}

/// How a `.pyc` is held against its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// By date and size, each modulo 2³².
    Date {
        /// Seconds since 1970.
        modified: u32,
        /// Bytes.
        size: u32,
    },
    /// By its hash.
    Hash(u64),
    /// Not at all; the hash is there for others.
    Unchecked(u64),
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The interpreter's magic number.
    pub magic: u16,
    /// How it is held against its source.
    pub check: Check,
}

impl Header {
    /// The header that a file begins with; nothing if it begins with none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let four = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(four))
        };
        let (first, flags, low, high) = (word(0)?, word(4)?, word(8)?, word(12)?);
        let hash = u64::from(high) << 32 | u64::from(low);
        let check = match flags {
            0 => Check::Date {
                modified: low,
                size: high,
            },
            0b01 => Check::Unchecked(hash),
            0b11 => Check::Hash(hash),
            _ => return None,
        };
        let magic = u16::try_from(first & 0xffff).ok()?;
        (first >> 16 == 0x0a0d).then_some(Self { magic, check })
    }
}

/// Hashes a source as the interpreters of some release lines do.
#[derive(Debug)]
pub struct SourceHasher {
    lines: Vec<(u8, Sip)>,
}

#[derive(Debug)]
enum Sip {
    Long(SipHasher24),
    Short(SipHasher13),
}

impl SourceHasher {
    /// For one line, or for all that are known.
    pub fn new(minor: Option<u8>) -> Self {
        let lines = MAGIC.iter();
        let lines = lines.filter(|(line, _)| minor.is_none_or(|minor| minor == *line));
        let hasher = |(line, magic): &(u8, u16)| {
            let key = 0x0a0d_0000 | u64::from(*magic);
            let sip = if *line < SHORT_ROUNDS {
                Sip::Long(SipHasher24::new_with_keys(key, 0))
            } else {
                Sip::Short(SipHasher13::new_with_keys(key, 0))
            };
            (*line, sip)
        };
        Self {
            lines: lines.map(hasher).collect(),
        }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for (_, sip) in &mut self.lines {
            match sip {
                Sip::Long(sip) => sip.write(bytes),
                Sip::Short(sip) => sip.write(bytes),
            }
        }
    }

    /// Each line's minor number and hash.
    pub fn finish(self) -> Vec<(u8, u64)> {
        let finish = |(line, sip)| match sip {
            Sip::Long(sip) => (line, SipHasher24::finish(&sip)),
            Sip::Short(sip) => (line, SipHasher13::finish(&sip)),
        };
        self.lines.into_iter().map(finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `_imp.source_hash(importlib.util._RAW_MAGIC_NUMBER, b"hello world")` says.
    const SAID: [(u8, u64); 6] = [
        (8, 0x5bee_e8f4_f1a8_e594),
        (9, 0xb42f_8725_bd24_08b9),
        (10, 0xe0fe_90e0_97e8_204a),
        (11, 0xf33a_bdc5_0816_ac07),
        (12, 0x808a_64c4_7ed3_35a1),
        (13, 0x6fa3_8a80_154e_48e4),
    ];

    #[test]
    fn sources_are_hashed_as_interpreters_do() {
        let mut hasher = SourceHasher::new(None);
        hasher.update(b"hello ");
        hasher.update(b"world");
        let ours = hasher.finish();
        for (minor, said) in SAID {
            assert!(ours.contains(&(minor, said.swap_bytes())), "3.{minor}");
        }
        assert_eq!(SourceHasher::new(Some(12)).finish().len(), 1);
    }

    #[test]
    fn headers_are_read() {
        let mut bytes = b"\xcb\x0d\x0d\x0a\0\0\0\0\x01\0\0\0\x02\0\0\0".to_vec();
        assert_eq!(magic(12), Some(0x0dcb));
        let read = |bytes: &[u8]| Header::read(bytes).map(|header| (header.magic, header.check));
        let dated = Check::Date {
            modified: 1,
            size: 2,
        };
        assert_eq!(read(&bytes), Some((0x0dcb, dated)));
        assert_eq!(read(&bytes[..15]), None);
        for (flags, check) in [
            (1, Some(Check::Unchecked(0x0000_0002_0000_0001))),
            (3, Some(Check::Hash(0x0000_0002_0000_0001))),
            (2, None),
        ] {
            bytes[4] = flags;
            assert_eq!(read(&bytes), check.map(|check| (0x0dcb, check)));
        }
        assert_eq!(read(b"not a header at all"), None);
    }
}
