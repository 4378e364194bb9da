//! Writes an archive of what was made here, for the reader beside it: one pass, nothing of machine or time in it.
//!
//! Members have names in UTF-8, the mode of a plain file and the earliest date there is. It refuses
//! what would need zip64 fields in a member, which nothing made here comes near; it knows nothing of what members are.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::{CENTRAL, END, END64, END64_LOCATOR, FLAG_UTF8, LOCAL};

/// Made by Unix, for readers of version 2.0.
const MADE_BY: [u8; 2] = [20, 3];
const NEEDED: u16 = 20;
/// Midnight of 1 January 1980: time, then date.
const DATE: [u8; 4] = [0, 0, 0x21, 0];
/// The attributes of a regular file of mode 0644.
const MODE: u32 = 0o100_644 << 16;

/// An archive that grows member by member.
pub struct Writer<W> {
    out: W,
    offset: u64,
    directory: Vec<u8>,
    count: u64,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            offset: 0,
            directory: Vec::new(),
            count: 0,
        }
    }

    /// Adds a member, deflated at `level` if there is one. Names must differ, which the reader holds.
    ///
    /// # Errors
    /// Those of writing, and a name or an archive beyond the 32-bit fields.
    pub fn add(&mut self, name: &str, contents: &[u8], level: Option<u32>) -> io::Result<()> {
        let deflated = level.map(|level| deflate(contents, level)).transpose()?;
        let bytes = deflated.as_deref().unwrap_or(contents);
        let method: u16 = if deflated.is_some() { 8 } else { 0 };
        let name_length = u16::try_from(name.len()).map_err(|_| too_large())?;
        let mut common = Vec::new();
        for field in [NEEDED, FLAG_UTF8, method] {
            common.extend(field.to_le_bytes());
        }
        common.extend(DATE);
        common.extend(crc32fast::hash(contents).to_le_bytes());
        common.extend(narrow(bytes.len() as u64)?);
        common.extend(narrow(contents.len() as u64)?);
        common.extend(name_length.to_le_bytes());
        common.extend([0, 0]);

        self.directory.extend(CENTRAL.to_le_bytes());
        self.directory.extend(MADE_BY);
        self.directory.extend(&common);
        // No comment, the first disk, no text.
        self.directory.extend([0; 6]);
        self.directory.extend(MODE.to_le_bytes());
        self.directory.extend(narrow(self.offset)?);
        self.directory.extend(name.as_bytes());
        self.count += 1;

        self.put(&LOCAL.to_le_bytes())?;
        self.put(&common)?;
        self.put(name.as_bytes())?;
        self.put(bytes)
    }

    /// Ends the archive and gives what it was written to.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<W> {
        let (start, size) = (self.offset, self.directory.len() as u64);
        let directory = std::mem::take(&mut self.directory);
        self.put(&directory)?;
        let narrow_count = u16::try_from(self.count).unwrap_or(u16::MAX);
        let is_narrow = narrow_count != u16::MAX && narrow(start).is_ok() && narrow(size).is_ok();
        if !is_narrow {
            self.end64(start, size)?;
        }
        let mut end = END.to_le_bytes().to_vec();
        end.extend([0; 4]);
        end.extend(narrow_count.to_le_bytes());
        end.extend(narrow_count.to_le_bytes());
        end.extend(narrow(size).unwrap_or([u8::MAX; 4]));
        end.extend(narrow(start).unwrap_or([u8::MAX; 4]));
        end.extend([0, 0]);
        self.put(&end)?;
        Ok(self.out)
    }

    fn end64(&mut self, start: u64, size: u64) -> io::Result<()> {
        let position = self.offset;
        let mut record = END64.to_le_bytes().to_vec();
        record.extend(44u64.to_le_bytes());
        record.extend([45, 3, 45, 0]);
        record.extend([0; 8]);
        for field in [self.count, self.count, size, start] {
            record.extend(field.to_le_bytes());
        }
        record.extend(END64_LOCATOR.to_le_bytes());
        record.extend([0; 4]);
        record.extend(position.to_le_bytes());
        record.extend(1u32.to_le_bytes());
        self.put(&record)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

fn deflate(contents: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(contents)?;
    encoder.finish()
}

fn narrow(number: u64) -> io::Result<[u8; 4]> {
    let number = u32::try_from(number).ok().filter(|n| *n != u32::MAX);
    number.map(u32::to_le_bytes).ok_or_else(too_large)
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "an archive that is made here would be too large",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::zip::{self, Member, Method};

    fn read(bytes: &[u8]) -> Vec<Member> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        zip::open(file.path()).unwrap()
    }

    #[test]
    fn an_archive_of_more_members_than_fit_is_read_back() {
        let mut writer = Writer::new(Vec::new());
        for number in 0..70_000 {
            writer.add(&number.to_string(), b"", None).unwrap();
        }
        let members = read(&writer.finish().unwrap());
        assert_eq!(members.len(), 70_000);
        assert_eq!(members[69_999].name, "69999");
        assert!(read(&Writer::new(Vec::new()).finish().unwrap()).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            files in prop::collection::btree_map("[a-zé]{1,8}", (prop::collection::vec(0u8..4, 0..300), any::<bool>()), 0..8),
        ) {
            let mut writer = Writer::new(Vec::new());
            for (name, (contents, deflated)) in &files {
                writer.add(name, contents, deflated.then_some(4)).unwrap();
            }
            let members = read(&writer.finish().unwrap());
            prop_assert_eq!(members.len(), files.len());
            for (member, (name, (contents, deflated))) in members.iter().zip(&files) {
                prop_assert_eq!(&member.name, name);
                prop_assert_eq!(&member.read(1 << 10).unwrap(), contents);
                prop_assert_eq!(member.method == Method::Deflated, *deflated);
                prop_assert!(!member.is_executable() && !member.is_symlink());
            }
        }
    }
}
