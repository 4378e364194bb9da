//! Writes an archive of what was made here, for the reader beside it and for others: nothing of machine or time in it.
//!
//! Members have names in UTF-8. Those that are added whole are plain files of the earliest date there is; those that
//! stream in say what they are and when. It refuses what would need zip64 fields in a member, which nothing made
//! here comes near; it knows nothing of what members are.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::{CENTRAL, END, END64, END64_LOCATOR, FLAG_UTF8, LOCAL};

/// Made by Unix, for readers of version 2.0.
const MADE_BY: [u8; 2] = [20, 3];
const NEEDED: u16 = 20;
/// As much as is compressed at a time, always the same.
const CHUNK: usize = 256 << 10;
const LONG_NAME: &str = "a name in an archive that is made here would be too long";

/// When a member was last changed, to two seconds: time, then date, as MS-DOS had them, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date([u8; 4]);

impl Date {
    /// Midnight of 1 January 1980.
    pub const EARLIEST: Self = Self([0, 0, 0x21, 0]);
    /// The last two seconds of 2107.
    const LATEST: Self = Self([0x7d, 0xbf, 0x9f, 0xff]);

    /// Seconds since 1970, or the nearest that an archive can say.
    pub fn of_epoch(seconds: u64) -> Self {
        const FIRST: u64 = 315_532_800;
        const LAST: u64 = 4_354_819_198;
        if seconds <= FIRST {
            return Self::EARLIEST;
        }
        if seconds >= LAST {
            return Self::LATEST;
        }
        let moment = UNIX_EPOCH + Duration::from_secs(seconds);
        // As 1980-01-01T00:00:00Z.
        let text = humantime::format_rfc3339_seconds(moment).to_string();
        let number = |from: usize, to: usize| {
            let digits = text.get(from..to).and_then(|digits| digits.parse().ok());
            digits.unwrap_or_default()
        };
        let (year, month, day): (u16, u16, u16) = (number(0, 4), number(5, 7), number(8, 10));
        let (hour, minute, second): (u16, u16, u16) =
            (number(11, 13), number(14, 16), number(17, 19));
        let time = (hour << 11) | (minute << 5) | (second / 2);
        let date = (year.saturating_sub(1980) << 9) | (month << 5) | day;
        let ([a, b], [c, d]) = (time.to_le_bytes(), date.to_le_bytes());
        Self([a, b, c, d])
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file of mode 0644.
    File,
    /// A file of mode 0755.
    Program,
    /// A directory of mode 0755, which has no contents; its name ends in `/`.
    Directory,
    /// A symbolic link; its contents are where it leads.
    Symlink,
}

impl Kind {
    /// External attributes: Unix's mode, and MS-DOS's bit of directories.
    fn attributes(self) -> u32 {
        match self {
            Self::File => 0o100_644 << 16,
            Self::Program => 0o100_755 << 16,
            Self::Directory => 0o040_755 << 16 | 0x10,
            Self::Symlink => 0o120_777 << 16,
        }
    }
}

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
        let header = Header {
            method,
            date: Date::EARLIEST,
            crc32: crc32fast::hash(contents),
            compressed: bytes.len() as u64,
            size: contents.len() as u64,
        };
        let common = header.bytes(name)?;
        self.list(name, Kind::File, &common)?;
        self.put(&LOCAL.to_le_bytes())?;
        self.put(&common)?;
        self.put(name.as_bytes())?;
        self.put(bytes)
    }

    /// Puts a member that begins here into the directory.
    fn list(&mut self, name: &str, kind: Kind, common: &[u8]) -> io::Result<()> {
        self.directory.extend(CENTRAL.to_le_bytes());
        self.directory.extend(MADE_BY);
        self.directory.extend(common);
        // No comment, the first disk, no text.
        self.directory.extend([0; 6]);
        self.directory.extend(kind.attributes().to_le_bytes());
        self.directory.extend(narrow(self.offset)?);
        self.directory.extend(name.as_bytes());
        self.count += 1;
        Ok(())
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

impl<W: Write + Seek> Writer<W> {
    /// Adds a member whose contents stream by, deflated at `level` if there is one, and gives their length. The
    /// archive begins where what it is written to does. Names must differ.
    ///
    /// # Errors
    /// Those of reading and of writing, and a name, a member or an archive beyond the 32-bit fields.
    pub fn stream(
        &mut self,
        name: &str,
        kind: Kind,
        date: Date,
        contents: &mut dyn Read,
        level: Option<u32>,
    ) -> io::Result<u64> {
        let mut header = Header {
            method: if level.is_some() { 8 } else { 0 },
            date,
            crc32: 0,
            compressed: 0,
            size: 0,
        };
        // In the place of what is known when all of it has gone by.
        let room = header.bytes(name)?;
        let begin = self.offset + LOCAL.to_le_bytes().len() as u64;
        self.out.write_all(&LOCAL.to_le_bytes())?;
        self.out.write_all(&room)?;
        self.out.write_all(name.as_bytes())?;
        let mut hasher = crc32fast::Hasher::new();
        if let Some(level) = level {
            let mut encoder = DeflateEncoder::new(&mut self.out, Compression::new(level));
            header.size = pass(contents, &mut encoder, &mut hasher)?;
            encoder.try_finish()?;
            header.compressed = encoder.total_out();
        } else {
            header.size = pass(contents, &mut self.out, &mut hasher)?;
            header.compressed = header.size;
        }
        header.crc32 = hasher.finalize();
        let common = header.bytes(name)?;
        self.list(name, kind, &common)?;
        self.offset = begin + (common.len() + name.len()) as u64 + header.compressed;
        self.out.seek(SeekFrom::Start(begin))?;
        self.out.write_all(&common)?;
        self.out.seek(SeekFrom::Start(self.offset))?;
        Ok(header.size)
    }
}

/// Passes contents on in pieces that are always the same.
fn pass(
    contents: &mut dyn Read,
    out: &mut impl Write,
    hasher: &mut crc32fast::Hasher,
) -> io::Result<u64> {
    let mut piece = Vec::with_capacity(CHUNK);
    let mut size = 0;
    loop {
        piece.clear();
        let count = contents.take(CHUNK as u64).read_to_end(&mut piece)?;
        hasher.update(&piece);
        out.write_all(&piece)?;
        size += count as u64;
        if count < CHUNK {
            return Ok(size);
        }
    }
}

/// What a member's two headers have in common.
struct Header {
    method: u16,
    date: Date,
    crc32: u32,
    compressed: u64,
    size: u64,
}

impl Header {
    fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let long = |_| io::Error::new(io::ErrorKind::InvalidInput, LONG_NAME);
        let name_length = u16::try_from(name.len()).map_err(long)?;
        let mut bytes = Vec::new();
        for field in [NEEDED, FLAG_UTF8, self.method] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.date.0);
        bytes.extend(self.crc32.to_le_bytes());
        bytes.extend(narrow(self.compressed)?);
        bytes.extend(narrow(self.size)?);
        bytes.extend(name_length.to_le_bytes());
        bytes.extend([0, 0]);
        Ok(bytes)
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

    #[test]
    fn what_streams_is_read_with_its_kind() {
        let mut writer = Writer::new(io::Cursor::new(Vec::new()));
        let date = Date::of_epoch(1_000_000_000);
        let large = b"some words ".repeat(60_000);
        let members: [(&str, Kind, &[u8], Option<u32>); 4] = [
            ("a/", Kind::Directory, b"", None),
            ("a/l", Kind::Symlink, b"../b", None),
            ("b", Kind::Program, &large, Some(4)),
            ("c", Kind::File, &large, None),
        ];
        for (name, kind, mut contents, level) in members {
            let size = contents.len() as u64;
            let streamed = writer.stream(name, kind, date, &mut contents, level);
            assert_eq!(streamed.unwrap(), size);
        }
        writer.add("d", b"whole", Some(4)).unwrap();
        let bytes = writer.finish().unwrap().into_inner();
        let read = read(&bytes);
        for (member, (name, kind, contents, level)) in read.iter().zip(members) {
            assert_eq!(member.name, name);
            assert_eq!(member.read(1 << 20).unwrap(), contents);
            assert_eq!(member.method == Method::Deflated, level.is_some());
            assert_eq!(member.is_executable(), kind == Kind::Program);
            assert_eq!(member.is_symlink(), kind == Kind::Symlink);
        }
        assert_eq!(read[4].read(10).unwrap(), b"whole");
        // 2001-09-09, 01:46:40.
        assert_eq!(bytes[10..14], [0xd4, 0x0d, 0x29, 0x2b]);
    }

    #[test]
    fn a_date_is_one_that_an_archive_can_say() {
        assert_eq!(Date::of_epoch(0), Date::EARLIEST);
        assert_eq!(Date::of_epoch(315_532_801), Date::EARLIEST);
        assert_eq!(Date::of_epoch(315_532_802), Date([1, 0, 0x21, 0]));
        assert_eq!(
            Date::of_epoch(4_354_819_197),
            Date([0x7c, 0xbf, 0x9f, 0xff])
        );
        assert_eq!(Date::of_epoch(u64::MAX), Date::LATEST);
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
