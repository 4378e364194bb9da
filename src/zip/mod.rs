//! A strict reader of zip archives: what two readers could take two ways is refused.
//!
//! Follows PKWARE's APPNOTE 6.3 as far as wheels and Lambda's zips need it: methods 0 and 8, zip64,
//! data descriptors. The central directory and the local headers must agree, names must be unique, and
//! members must lie one behind the other from the first byte on: a reader that starts at the front
//! finds what one finds that starts at the end. Where readers differ and nothing is hidden by it, what
//! Python's `zipfile` makes of an archive holds, for that is what pip installs from. It knows nothing of
//! wheels; whether a name may become a path is for the room that makes it one.

mod writer;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::DeflateDecoder;

use crate::digest::Digest;

pub use writer::{Date, Kind, Writer};

const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const LOCAL_SIZE: u64 = 30;
/// As much extra field as is read with a local header: a date and an owner, or a zip64 field.
const USUAL_EXTRA: usize = 32;
const END_SIZE: u64 = 22;
const MAX_COMMENT: u64 = 65_535;
/// Ten times the members of the largest wheels; each costs memory here and an entry in the layer.
const MAX_MEMBERS: u64 = 250_000;
/// A quarter of a million members have directories of about 30 MB.
const MAX_DIRECTORY: u64 = 64 << 20;

/// Of the contents, strongly, or of the directory's names.
const FLAGS_ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const FLAG_DESCRIPTOR: u16 = 1 << 3;
const FLAG_PATCH: u16 = 1 << 5;
const FLAG_UTF8: u16 = 1 << 11;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
    /// It is no zip archive, or only a part of one.
    #[error("not a whole zip archive: {0}")]
    Malformed(&'static str),
    /// A member cannot be taken as it is.
    #[error("member `{}` {reason}", name.escape_debug())]
    Member {
        /// The member's name.
        name: String,
        /// What is wrong with it, as a clause that follows the name.
        reason: &'static str,
    },
}

fn member_error(name: &str, reason: &'static str) -> Error {
    Error::Member {
        name: name.to_owned(),
        reason,
    }
}

/// How a member's bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As they are.
    Stored,
    /// As a raw deflate stream.
    Deflated,
}

/// One member; holds its archive open, so it can be read at any time from any thread.
#[derive(Debug, Clone)]
pub struct Member {
    file: Arc<File>,
    /// The name as written; a directory's ends in `/`.
    pub name: String,
    /// How the bytes are kept.
    pub method: Method,
    /// CRC-32 of the contents.
    pub crc32: u32,
    /// Length in the archive, in bytes.
    pub compressed_size: u64,
    /// Length of the contents, in bytes.
    pub size: u64,
    /// Where the bytes begin in the archive file.
    pub offset: u64,
    /// The Unix mode with file type, if there is one; like pip, whatever system made the archive.
    pub unix_mode: Option<u32>,
}

const S_IFMT: u32 = 0o170_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFREG: u32 = 0o100_000;

impl Member {
    /// Whether this is a directory's entry.
    pub fn is_directory(&self) -> bool {
        self.name.ends_with('/')
    }

    /// Whether the archive says that this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.unix_mode.is_some_and(|mode| mode & S_IFMT == S_IFLNK)
    }

    /// Whether any execute bit is set. As pip has it: it counts where the mode says that this is a regular file.
    pub fn is_executable(&self) -> bool {
        self.unix_mode
            .is_some_and(|mode| mode & S_IFMT == S_IFREG && mode & 0o111 != 0)
    }

    /// Reads the contents; the last read fails when size or CRC-32 are not the promised ones.
    pub fn open(&self) -> impl Read + Send + use<> {
        let buffered = BufReader::with_capacity(32 << 10, self.raw());
        MemberReader {
            body: match self.method {
                Method::Stored => Body::Stored(buffered),
                Method::Deflated => Body::Deflated(DeflateDecoder::new(buffered)),
            },
            proof: self.proof(),
        }
    }

    /// Reads the bytes as they lie in the archive, unproven. Whoever makes the contents of them has a
    /// [`Proof`] to give.
    pub fn raw(&self) -> Range {
        Range {
            file: Arc::clone(&self.file),
            position: self.offset,
            end: self.offset + self.compressed_size,
        }
    }

    /// Begins to hold contents against what the archive says of them.
    pub fn proof(&self) -> Proof {
        Proof {
            name: self.name.clone(),
            expected: (self.compressed_size, self.size, self.crc32),
            crc: crc32fast::Hasher::new(),
            size: 0,
        }
    }

    /// Reads the whole contents, at most `limit` bytes of them.
    ///
    /// # Errors
    /// Those of reading, and a member larger than `limit`.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.size > limit {
            let message = format!(
                "`{}` is larger than {limit} bytes",
                self.name.escape_debug()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut bytes = Vec::new();
        self.open().read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A byte range of a shared file.
pub struct Range {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..length], self.position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// Whether contents are what the archive says: fed with all of them, then asked.
pub struct Proof {
    name: String,
    expected: (u64, u64, u32),
    crc: crc32fast::Hasher,
    size: u64,
}

impl Proof {
    /// Takes in the next bytes of the contents, whose CRC-32 is known already.
    ///
    /// # Errors
    /// When there are more than the archive says.
    pub fn combine(&mut self, crc: &crc32fast::Hasher, count: usize) -> io::Result<()> {
        self.crc.combine(crc);
        self.grow(count)
    }

    fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.grow(bytes.len())
    }

    fn grow(&mut self, count: usize) -> io::Result<()> {
        self.size += count as u64;
        if self.size > self.expected.1 {
            return Err(self.damaged("is longer than the archive says"));
        }
        Ok(())
    }

    /// Proves the whole, which came of `compressed` bytes of the archive.
    ///
    /// # Errors
    /// When anything differs.
    pub fn end(&self, compressed: u64) -> io::Result<()> {
        let (expected_compressed, size, crc) = self.expected;
        if self.size != size {
            return Err(self.damaged("is shorter than the archive says"));
        }
        if compressed != expected_compressed {
            return Err(self.damaged("has bytes behind its compressed data"));
        }
        if self.crc.clone().finalize() != crc {
            return Err(self.damaged("is damaged: its CRC-32 differs"));
        }
        Ok(())
    }

    /// What to say of bytes that are no deflate stream.
    pub fn does_not_inflate(&self) -> io::Error {
        self.damaged("is damaged: it does not inflate")
    }

    fn damaged(&self, what: &str) -> io::Error {
        let message = format!("member `{}` {what}", self.name.escape_debug());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

enum Body {
    Stored(BufReader<Range>),
    Deflated(DeflateDecoder<BufReader<Range>>),
}

struct MemberReader {
    body: Body,
    proof: Proof,
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.body {
            Body::Stored(body) => body.read(buffer)?,
            Body::Deflated(body) => match body.read(buffer) {
                Ok(count) => count,
                Err(error) if tells_of_bytes(error.kind()) => {
                    return Err(self.proof.does_not_inflate());
                }
                Err(error) => return Err(error),
            },
        };
        self.proof.update(&buffer[..count])?;
        if count == 0 && !buffer.is_empty() {
            self.proof.end(match &self.body {
                Body::Stored(_) => self.proof.size,
                Body::Deflated(decoder) => decoder.total_in(),
            })?;
        }
        Ok(count)
    }
}

/// Whether an error is of what was read, and not of reading.
fn tells_of_bytes(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(kind, InvalidData | InvalidInput | UnexpectedEof)
}

/// Whether the file at `path` begins as an archive does; one of no members has its end there.
pub fn is_archive(path: &Path) -> bool {
    let mut start = [0; 4];
    let is_file = path.metadata().is_ok_and(|found| found.is_file());
    is_file
        && File::open(path).is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok())
        && [LOCAL, END].contains(&u32::from_le_bytes(start))
}

/// Reads the list of members of the archive at `path`, in the order of its central directory.
///
/// # Errors
/// See [`Error`]; nothing but headers has been read then.
pub fn open(path: &Path) -> Result<Vec<Member>, Error> {
    open_with_digest(path).map(|(members, _)| members)
}

/// As [`open`], with the digest of the central directory. That alone has no check sum, and has members' modes.
///
/// # Errors
/// As [`open`].
pub fn open_with_digest(path: &Path) -> Result<(Vec<Member>, Digest), Error> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let directory = find_directory(&file, length)?;
    let mut bytes = vec![0; to_usize(directory.size)?];
    file.read_exact_at(&mut bytes, directory.offset)?;

    let file = Arc::new(file);
    let mut cursor = Cursor(&bytes);
    let mut members = Vec::new();
    let mut extents = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..directory.count {
        let (mut member, header) = central_entry(&mut cursor, &file)?;
        let outside = || member_error(&member.name, "lies outside the archive");
        let start = header.offset.checked_add(LOCAL_SIZE);
        if start.is_none_or(|start| start > directory.offset) {
            return Err(outside());
        }
        let offset = check_local_header(&member, &header)?;
        let end = offset.checked_add(member.compressed_size);
        let end = end.filter(|end| *end <= directory.offset);
        let end = end.ok_or_else(outside)?;
        member.offset = offset;
        // A file and a directory of one name are one path.
        if !names.insert(member.name.trim_end_matches('/').to_owned()) {
            return Err(member_error(&member.name, "is there twice"));
        }
        extents.push(Extent {
            start: header.offset,
            end,
            has_descriptor: header.flags & FLAG_DESCRIPTOR != 0,
            member: members.len(),
        });
        members.push(member);
    }
    if !cursor.0.is_empty() {
        return Err(Error::Malformed("bytes are left in its directory"));
    }
    extents.sort_unstable_by_key(|extent| (extent.start, extent.end));
    check_layout(&file, &extents, &members, directory.offset)?;
    Ok((members, Digest::of(&bytes)))
}

/// Which bytes of the archive are a member's, without its data descriptor.
struct Extent {
    start: u64,
    end: u64,
    has_descriptor: bool,
    member: usize,
}

/// Members lie one behind the other, with nothing but data descriptors between them: no reader finds one
/// that the directory does not have.
fn check_layout(
    file: &File,
    extents: &[Extent],
    members: &[Member],
    directory: u64,
) -> Result<(), Error> {
    let first = extents.first().map_or(directory, |first| first.start);
    if first != 0 {
        return Err(Error::Malformed("bytes stand before its first member"));
    }
    let nexts = extents
        .iter()
        .skip(1)
        .map(|extent| (extent.start, extent.member));
    let nexts = nexts.chain([(directory, usize::MAX)]);
    for (extent, (next, next_member)) in extents.iter().zip(nexts) {
        let member = &members[extent.member];
        let Some(gap) = next.checked_sub(extent.end) else {
            let name = &members[next_member].name;
            return Err(member_error(name, "overlaps another member"));
        };
        if !extent.has_descriptor && gap > 0 {
            return Err(member_error(
                &member.name,
                "has bytes behind it that are no member's",
            ));
        }
        if extent.has_descriptor && !is_descriptor(file, extent.end, gap, member)? {
            return Err(member_error(
                &member.name,
                "has no data descriptor that fits it",
            ));
        }
    }
    Ok(())
}

/// Whether these bytes say what the directory says of `member`: CRC and sizes in 32 or 64 bits, with a
/// signature before them or without, as writers differ.
fn is_descriptor(file: &File, start: u64, length: u64, member: &Member) -> io::Result<bool> {
    let mut expected = Vec::new();
    if matches!(length, 16 | 24) {
        expected.extend(DESCRIPTOR.to_le_bytes());
    }
    expected.extend(member.crc32.to_le_bytes());
    for size in [member.compressed_size, member.size] {
        match u32::try_from(size) {
            _ if matches!(length, 20 | 24) => expected.extend(size.to_le_bytes()),
            Ok(size) => expected.extend(size.to_le_bytes()),
            Err(_) => return Ok(false),
        }
    }
    if expected.len() as u64 != length {
        return Ok(false);
    }
    let mut actual = vec![0; expected.len()];
    file.read_exact_at(&mut actual, start)?;
    Ok(actual == expected)
}

struct Directory {
    offset: u64,
    size: u64,
    count: u64,
}

fn find_directory(file: &File, length: u64) -> Result<Directory, Error> {
    let tail_length = length.min(END_SIZE + MAX_COMMENT);
    let tail_start = length - tail_length;
    let mut tail = vec![0; to_usize(tail_length)?];
    file.read_exact_at(&mut tail, tail_start)?;
    let at = find_end(&tail)?;
    let end_position = tail_start + at as u64;
    let mut end = Cursor(&tail[at + 4..at + 22]);
    let (disk, directory_disk) = (end.u16()?, end.u16()?);
    let (count_here, count) = (end.u16()?, end.u16()?);
    let (size, offset) = (end.u32()?, end.u32()?);

    let required = count == u16::MAX || size == u32::MAX || offset == u32::MAX;
    let (directory, directory_end) = match find_directory64(file, end_position)? {
        Some(found) => {
            // Readers differ in which of the two counts, so they must agree.
            let agrees = |narrow: u64, most: u64, wide: u64| narrow == most || narrow == wide;
            let directory = &found.0;
            if !agrees(count.into(), u16::MAX.into(), directory.count)
                || !agrees(size.into(), u32::MAX.into(), directory.size)
                || !agrees(offset.into(), u32::MAX.into(), directory.offset)
            {
                return Err(Error::Malformed("its two end records differ"));
            }
            found
        }
        None if required => {
            return Err(Error::Malformed("its zip64 end record is missing"));
        }
        None if disk != 0 || directory_disk != 0 || count_here != count => {
            return Err(Error::Malformed("it is split over several files"));
        }
        None => {
            let directory = Directory {
                offset: offset.into(),
                size: size.into(),
                count: count.into(),
            };
            (directory, end_position)
        }
    };
    if directory.offset.checked_add(directory.size) != Some(directory_end) {
        return Err(Error::Malformed(
            "its directory is not where the end record says",
        ));
    }
    if directory.size > MAX_DIRECTORY {
        return Err(Error::Malformed("its directory is larger than 64 MiB"));
    }
    if directory.count > MAX_MEMBERS {
        return Err(Error::Malformed("it has more than 250000 members"));
    }
    Ok(directory)
}

/// The place of the end record in the last bytes of a file: its comment ends where the file ends.
fn find_end(tail: &[u8]) -> Result<usize, Error> {
    let size = usize::try_from(END_SIZE).unwrap_or_default();
    let signature = END.to_le_bytes();
    let found = tail
        .windows(size)
        .enumerate()
        .filter(|(_, record)| record.starts_with(&signature));
    let ends_file = |&(at, record): &(usize, &[u8])| {
        let comment = u16::from_le_bytes([record[size - 2], record[size - 1]]);
        at + size + usize::from(comment) == tail.len()
    };
    let mut fitting = found.filter(ends_file).map(|(at, _)| at);
    let at = fitting
        .next()
        .ok_or(Error::Malformed("its end record is missing"))?;
    // Readers that look for the signature from behind would find the other one.
    let comment = &tail[at + size..];
    if comment
        .windows(signature.len())
        .any(|bytes| bytes == signature)
    {
        return Err(Error::Malformed("its comment holds another end record"));
    }
    Ok(at)
}

/// The directory's place as the zip64 record says it, which ends where the other end record and its
/// locator begin.
fn find_directory64(file: &File, end_position: u64) -> Result<Option<(Directory, u64)>, Error> {
    const LOCATOR_SIZE: u64 = 20;
    const RECORD_SIZE: u64 = 56;
    let mut locator = [0; 20];
    let Some(at) = end_position.checked_sub(LOCATOR_SIZE) else {
        return Ok(None);
    };
    file.read_exact_at(&mut locator, at)?;
    let mut cursor = Cursor(&locator);
    let (signature, disk, position, disks) =
        (cursor.u32()?, cursor.u32()?, cursor.u64()?, cursor.u32()?);
    if signature != END64_LOCATOR {
        return Ok(None);
    }
    let damaged = Error::Malformed("its zip64 end record is damaged");
    if disk != 0 || disks > 1 || position.checked_add(RECORD_SIZE) != Some(at) {
        return Err(damaged);
    }
    let mut record = [0; 56];
    file.read_exact_at(&mut record, position)?;
    let mut cursor = Cursor(&record);
    // The size leaves out the signature and itself.
    if cursor.u32()? != END64 || cursor.u64()? != RECORD_SIZE - 12 {
        return Err(damaged);
    }
    cursor.skip(2 + 2)?;
    let (disk, directory_disk, count_here) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
    let directory = Directory {
        count: cursor.u64()?,
        size: cursor.u64()?,
        offset: cursor.u64()?,
    };
    if disk != 0 || directory_disk != 0 || count_here != directory.count {
        return Err(Error::Malformed("it is split over several files"));
    }
    Ok(Some((directory, position)))
}

/// What the central directory says of a member's local header.
struct LocalHeader {
    offset: u64,
    flags: u16,
    method: u16,
    raw_name: Vec<u8>,
}

fn central_entry(
    cursor: &mut Cursor<'_>,
    file: &Arc<File>,
) -> Result<(Member, LocalHeader), Error> {
    if cursor.u32()? != CENTRAL {
        return Err(Error::Malformed("its directory is damaged"));
    }
    cursor.skip(2 + 2)?;
    let (flags, method) = (cursor.u16()?, cursor.u16()?);
    cursor.skip(4)?;
    let crc32 = cursor.u32()?;
    let (compressed_size, size) = (cursor.u32()?, cursor.u32()?);
    let (name_length, extra_length, comment_length) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
    let disk = cursor.u16()?;
    cursor.skip(2)?;
    let attributes = cursor.u32()?;
    let offset = cursor.u32()?;
    let raw_name = cursor.take(name_length.into())?.to_vec();
    let name = decode_name(&raw_name, flags)?;
    let mut extra = Extra::find(cursor.take(extra_length.into())?, &name)?;
    cursor.skip(comment_length.into())?;

    if flags & FLAGS_ENCRYPTED != 0 {
        return Err(member_error(&name, "is encrypted"));
    }
    if flags & FLAG_PATCH != 0 {
        return Err(member_error(&name, "is a patch of another file"));
    }
    if disk != 0 {
        return Err(Error::Malformed("it is split over several files"));
    }
    let mut widen = |value| {
        let wide = extra.widen(value);
        wide.map_err(|_| member_error(&name, "has a size without end, and no zip64 field"))
    };
    let (size, compressed_size) = (widen(size)?, widen(compressed_size)?);
    let offset = widen(offset)?;
    let kept = match method {
        0 if size == compressed_size => Method::Stored,
        0 => return Err(member_error(&name, "is stored with two different sizes")),
        8 => Method::Deflated,
        _ => return Err(member_error(&name, "uses a compression other than deflate")),
    };
    if name.ends_with('/') && size != 0 {
        return Err(member_error(&name, "is a directory with contents"));
    }
    let member = Member {
        file: Arc::clone(file),
        name,
        method: kept,
        crc32,
        compressed_size,
        size,
        offset,
        unix_mode: (attributes >> 16 != 0).then_some(attributes >> 16),
    };
    let header = LocalHeader {
        offset,
        flags,
        method,
        raw_name,
    };
    Ok((member, header))
}

/// Reads until the buffer is full or the file ends.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Compares the local header with the central entry and gives the offset of the data.
fn check_local_header(member: &Member, expected: &LocalHeader) -> Result<u64, Error> {
    let differs = || member_error(&member.name, "differs between directory and local header");
    // Most headers are as long as the directory lets expect; the few others take one more read.
    let mut header = vec![0; to_usize(LOCAL_SIZE)? + expected.raw_name.len() + USUAL_EXTRA];
    let count = read_at_most(&member.file, &mut header, expected.offset)?;
    header.truncate(count);
    let mut cursor = Cursor(&header);
    if cursor.u32()? != LOCAL {
        return Err(member_error(&member.name, "has no local header"));
    }
    cursor.skip(2)?;
    let (flags, method) = (cursor.u16()?, cursor.u16()?);
    cursor.skip(4)?;
    let (crc32, compressed_size, size) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let (name_length, extra_length) = (cursor.u16()?, cursor.u16()?);
    let mut rest = cursor.0.to_vec();
    let here = rest.len();
    rest.resize(usize::from(name_length) + usize::from(extra_length), 0);
    if let Some(absent) = rest.get_mut(here..).filter(|absent| !absent.is_empty()) {
        let start = expected.offset + LOCAL_SIZE + here as u64;
        member.file.read_exact_at(absent, start)?;
    }
    let (raw_name, extra) = rest.split_at(name_length.into());

    let mut telling = FLAGS_ENCRYPTED | FLAG_DESCRIPTOR | FLAG_PATCH;
    if !raw_name.is_ascii() {
        telling |= FLAG_UTF8;
    }
    let same_flags = flags & telling == expected.flags & telling;
    if raw_name != expected.raw_name || method != expected.method || !same_flags {
        return Err(differs());
    }
    let mut extra = Extra::find(extra, &member.name)?;
    let here = (extra.widen(size)?, extra.widen(compressed_size)?, crc32);
    // With a data descriptor these stand behind the data, and each may be zero here.
    let may_be_zero = flags & FLAG_DESCRIPTOR != 0;
    let fits = |here: u64, there: u64| here == there || (may_be_zero && here == 0);
    if !fits(here.0, member.size)
        || !fits(here.1, member.compressed_size)
        || !fits(here.2.into(), member.crc32.into())
    {
        return Err(differs());
    }
    Ok(expected.offset + LOCAL_SIZE + rest.len() as u64)
}

/// The upper half of code page 437, which names are in that are not marked as UTF-8.
const CP437: &str = "\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The name as Python's `zipfile`, and so pip, reads it.
fn decode_name(raw: &[u8], flags: u16) -> Result<String, Error> {
    let lossy = || String::from_utf8_lossy(raw).into_owned();
    if raw.is_empty() || raw.contains(&0) {
        return Err(member_error(&lossy(), "has no proper name"));
    }
    if flags & FLAG_UTF8 != 0 || raw.is_ascii() {
        return String::from_utf8(raw.to_vec())
            .map_err(|_| member_error(&lossy(), "has a name that is not UTF-8"));
    }
    let upper: Vec<char> = CP437.chars().collect();
    let decode = |byte: &u8| match byte.checked_sub(0x80) {
        None => char::from(*byte),
        Some(place) => upper[usize::from(place)],
    };
    Ok(raw.iter().map(decode).collect())
}

/// The zip64 extra field: values that did not fit into 32 bits, in the order they are asked for.
struct Extra<'a>(Cursor<'a>);

impl<'a> Extra<'a> {
    fn find(bytes: &'a [u8], name: &str) -> Result<Self, Error> {
        const ZIP64: u16 = 1;
        const UNICODE_PATH: u16 = 0x7075;
        let mut cursor = Cursor(bytes);
        let mut found = None;
        while cursor.0.len() >= 4 {
            let (id, length) = (cursor.u16()?, cursor.u16()?);
            let data = cursor
                .take(length.into())
                .map_err(|_| member_error(name, "has a damaged extra field"))?;
            match id {
                ZIP64 if found.is_some() => {
                    return Err(member_error(name, "has two zip64 fields"));
                }
                ZIP64 => found = Some(data),
                // Behind a version and a CRC-32 stands the name that some readers take instead.
                UNICODE_PATH if data.get(5..) != Some(name.as_bytes()) => {
                    return Err(member_error(name, "has another name beside this one"));
                }
                _ => {}
            }
        }
        Ok(Self(Cursor(found.unwrap_or_default())))
    }

    fn widen(&mut self, value: u32) -> Result<u64, Error> {
        if value == u32::MAX {
            self.0.u64()
        } else {
            Ok(value.into())
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        if count > self.0.len() {
            return Err(Error::Malformed("a record is cut short"));
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    fn skip(&mut self, count: usize) -> Result<(), Error> {
        self.take(count).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }
}

fn to_usize(value: u64) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| Error::Malformed("it is larger than this machine can hold"))
}

#[cfg(test)]
pub(crate) mod testing {
    //! Archives written field by field, so that each can be made wrong.

    use std::io::Write as _;

    use super::{CENTRAL, END, LOCAL};

    #[derive(Default)]
    pub(crate) struct Builder {
        bytes: Vec<u8>,
        central: Vec<u8>,
        count: u16,
    }

    fn u32_of(length: usize) -> [u8; 4] {
        u32::try_from(length).unwrap().to_le_bytes()
    }

    fn u16_of(length: usize) -> [u8; 2] {
        u16::try_from(length).unwrap().to_le_bytes()
    }

    impl Builder {
        /// A member that is called `local` in its own header and `name` in the directory.
        pub(crate) fn add(&mut self, local: &str, name: &str, contents: &[u8], deflate: bool) {
            self.add_with_mode(local, name, contents, deflate, 0o100_755);
        }

        pub(crate) fn add_with_mode(
            &mut self,
            local: &str,
            name: &str,
            contents: &[u8],
            deflate: bool,
            mode: u32,
        ) {
            let data = if deflate {
                let level = flate2::Compression::new(6);
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(contents).unwrap();
                encoder.finish().unwrap()
            } else {
                contents.to_vec()
            };
            self.add_raw(
                (local, name),
                contents,
                &data,
                if deflate { 8 } else { 0 },
                mode,
            );
        }

        /// A member whose bytes in the archive are `data`, whatever its method would make of them.
        pub(crate) fn add_raw(
            &mut self,
            (local, name): (&str, &str),
            contents: &[u8],
            data: &[u8],
            method: u16,
            mode: u32,
        ) {
            let offset = u32_of(self.bytes.len());
            let mut middle = Vec::new();
            middle.extend(0x0800u16.to_le_bytes());
            middle.extend(method.to_le_bytes());
            middle.extend(0u32.to_le_bytes());
            middle.extend(crc32fast::hash(contents).to_le_bytes());
            middle.extend(u32_of(data.len()));
            middle.extend(u32_of(contents.len()));
            self.bytes.extend(LOCAL.to_le_bytes());
            self.bytes.extend(20u16.to_le_bytes());
            self.bytes.extend(&middle);
            self.bytes.extend(u16_of(local.len()));
            self.bytes.extend(0u16.to_le_bytes());
            self.bytes.extend(local.as_bytes());
            self.bytes.extend(data);
            self.central.extend(CENTRAL.to_le_bytes());
            self.central.extend(0x0314u16.to_le_bytes());
            self.central.extend(20u16.to_le_bytes());
            self.central.extend(&middle);
            self.central.extend(u16_of(name.len()));
            self.central.extend([0; 8]);
            self.central.extend((mode << 16).to_le_bytes());
            self.central.extend(offset);
            self.central.extend(name.as_bytes());
            self.count += 1;
        }

        pub(crate) fn finish(mut self) -> Vec<u8> {
            let offset = u32_of(self.bytes.len());
            self.bytes.extend(&self.central);
            self.bytes.extend(END.to_le_bytes());
            self.bytes.extend([0; 4]);
            self.bytes.extend(self.count.to_le_bytes());
            self.bytes.extend(self.count.to_le_bytes());
            self.bytes.extend(u32_of(self.central.len()));
            self.bytes.extend(offset);
            self.bytes.extend(0u16.to_le_bytes());
            self.bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Builder;
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn open_bytes(bytes: &[u8]) -> Result<Vec<Member>, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        open(file.path())
    }

    fn message(bytes: &[u8]) -> String {
        open_bytes(bytes).unwrap_err().to_string()
    }

    #[test]
    fn reads_stored_and_deflated_members() {
        let mut builder = Builder::default();
        builder.add("a/", "a/", b"", false);
        builder.add("a/stored", "a/stored", b"plain", false);
        builder.add("a/deflated", "a/deflated", &vec![b'x'; 100_000], true);
        let members = open_bytes(&builder.finish()).unwrap();
        assert!(members[0].is_directory());
        assert_eq!(members[1].read(10).unwrap(), b"plain");
        assert_eq!(members[2].read(1 << 20).unwrap(), vec![b'x'; 100_000]);
        assert!(members[2].is_executable() && !members[2].is_symlink());
        assert!(members[2].read(99_999).is_err());
    }

    #[test]
    fn refuses_what_could_be_read_two_ways() {
        let mut twice = Builder::default();
        twice.add("a", "a", b"1", false);
        twice.add("a", "a", b"2", false);
        insta::assert_snapshot!(message(&twice.finish()), @"member `a` is there twice");

        let mut other = Builder::default();
        other.add("a", "b", b"1", false);
        insta::assert_snapshot!(message(&other.finish()), @"member `b` differs between directory and local header");

        insta::assert_snapshot!(message(b"PK"), @"not a whole zip archive: its end record is missing");
        let mut cut = Builder::default();
        cut.add("a", "a", b"1", false);
        let bytes = cut.finish();
        insta::assert_snapshot!(message(&bytes[1..]), @"not a whole zip archive: its directory is not where the end record says");
    }

    /// One stored member `a` of the contents `1`: 32 bytes, 47 of directory, 22 of end record.
    fn one() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.add("a", "a", b"1", false);
        builder.finish()
    }

    const DIRECTORY: usize = 32;
    const END: usize = 32 + 47;

    fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    }

    #[test]
    fn nothing_lies_between_members() {
        let mut before = b"#!/bin/sh\n".to_vec();
        before.extend(one());
        insta::assert_snapshot!(message(&before), @"not a whole zip archive: its directory is not where the end record says");
        // The same with offsets that count the bytes in front.
        let before = with(before, 10 + DIRECTORY + 42, &10u32.to_le_bytes());
        let before = with(before, 10 + END + 16, &(10 + 32u32).to_le_bytes());
        insta::assert_snapshot!(message(&before), @"not a whole zip archive: bytes stand before its first member");

        let mut behind = one();
        behind.splice(DIRECTORY..DIRECTORY, *b"PK\x03\x04");
        let behind = with(behind, 4 + END + 16, &(4 + 32u32).to_le_bytes());
        insta::assert_snapshot!(message(&behind), @"member `a` has bytes behind it that are no member's");

        let mut twice = Builder::default();
        twice.add("a", "a", b"1", false);
        twice.add("b", "b", b"2", false);
        let bytes = twice.finish();
        // The second entry leads to the first member too, whose name it then has.
        let bytes = with(bytes, 64 + 47 + 42, &0u32.to_le_bytes());
        insta::assert_snapshot!(message(&bytes), @"member `b` differs between directory and local header");
    }

    #[test]
    fn a_comment_holds_no_end_record() {
        let plain = with(one(), END + 20, &4u16.to_le_bytes());
        let commented = |comment: &[u8]| [&plain, comment].concat();
        assert_eq!(open_bytes(&commented(b"text")).unwrap().len(), 1);
        insta::assert_snapshot!(message(&commented(b"PK\x05\x06")), @"not a whole zip archive: its comment holds another end record");
        let inner = with(one(), END + 20, &22u16.to_le_bytes());
        let inner = [&inner[..], &one()[END..]].concat();
        insta::assert_snapshot!(message(&inner), @"not a whole zip archive: its comment holds another end record");
    }

    #[test]
    fn names_are_read_as_python_reads_them() {
        let named = |raw: [u8; 1], flags: u16| {
            let mut bytes = one();
            for (flag, name) in [(6, 30), (DIRECTORY + 8, DIRECTORY + 46)] {
                bytes = with(bytes, flag, &flags.to_le_bytes());
                bytes = with(bytes, name, &raw);
            }
            bytes
        };
        assert_eq!(open_bytes(&named([0x82], 0)).unwrap()[0].name, "é");
        assert_eq!(open_bytes(&named([0xff], 0)).unwrap()[0].name, "\u{a0}");
        insta::assert_snapshot!(message(&named([0x82], FLAG_UTF8)), @"member `\u{fffd}` has a name that is not UTF-8");
        insta::assert_snapshot!(message(&named([0], 0)), @r"member `\0` has no proper name");
        insta::assert_snapshot!(message(&named([b'a'], 1)), @"member `a` is encrypted");
        insta::assert_snapshot!(message(&named([b'a'], FLAG_PATCH)), @"member `a` is a patch of another file");
        // Only one of the two headers marks it.
        let half = with(named([0x82], 0), 6, &FLAG_UTF8.to_le_bytes());
        assert!(message(&half).ends_with("differs between directory and local header"));
    }

    #[test]
    fn a_file_and_a_directory_of_one_name_are_one() {
        let mut builder = Builder::default();
        builder.add("a", "a", b"1", false);
        builder.add("a/", "a/", b"", false);
        insta::assert_snapshot!(message(&builder.finish()), @"member `a/` is there twice");
    }

    /// The sole member with this descriptor behind it, and zeros in its header.
    fn described(descriptor: &[u8]) -> Vec<u8> {
        let mut bytes = one();
        for flags in [6, DIRECTORY + 8] {
            bytes = with(bytes, flags, &(FLAG_UTF8 | FLAG_DESCRIPTOR).to_le_bytes());
        }
        let mut bytes = with(bytes, 14, &[0; 12]);
        bytes.splice(DIRECTORY..DIRECTORY, descriptor.iter().copied());
        let start = u32::try_from(DIRECTORY + descriptor.len()).unwrap();
        with(bytes, END + descriptor.len() + 16, &start.to_le_bytes())
    }

    #[test]
    fn data_descriptors_of_every_form() {
        let crc = crc32fast::hash(b"1").to_le_bytes();
        let (narrow, wide) = (1u32.to_le_bytes(), 1u64.to_le_bytes());
        let signature = b"PK\x07\x08";
        let narrow = [&crc[..], &narrow, &narrow].concat();
        let wide = [&crc[..], &wide, &wide].concat();
        for sizes in [&narrow, &wide] {
            for start in [&b""[..], signature] {
                let members = open_bytes(&described(&[start, sizes].concat())).unwrap();
                assert_eq!(members[0].read(9).unwrap(), b"1");
            }
        }
        insta::assert_snapshot!(message(&described(&[0; 12])), @"member `a` has no data descriptor that fits it");
        insta::assert_snapshot!(message(&described(b"")), @"member `a` has no data descriptor that fits it");
        let other_size = with(described(&narrow), 18, &7u32.to_le_bytes());
        insta::assert_snapshot!(message(&other_size), @"member `a` differs between directory and local header");
    }

    /// The archive with a zip64 record of these values before its end record.
    fn with_zip64(count: u64, size: u64, offset: u64) -> Vec<u8> {
        let mut bytes = one();
        let mut record = END64.to_le_bytes().to_vec();
        record.extend(44u64.to_le_bytes());
        record.extend([45, 0, 45, 0]);
        record.extend([0; 8]);
        for value in [count, count, size, offset] {
            record.extend(value.to_le_bytes());
        }
        record.extend(END64_LOCATOR.to_le_bytes());
        record.extend([0; 4]);
        record.extend((END as u64).to_le_bytes());
        record.extend(1u32.to_le_bytes());
        bytes.splice(END..END, record);
        bytes
    }

    #[test]
    fn both_end_records_say_the_same() {
        assert_eq!(open_bytes(&with_zip64(1, 47, 32)).unwrap().len(), 1);
        let told = "not a whole zip archive: its two end records differ";
        for (count, size, offset) in [(0, 47, 32), (1, 0, 32), (1, 47, 79)] {
            assert_eq!(message(&with_zip64(count, size, offset)), told);
        }
        // What does not fit the narrow record is in the wide one alone.
        let wide = with(with_zip64(1, 47, 32), END + 76 + 8, &[0xff; 12]);
        assert_eq!(open_bytes(&wide).unwrap().len(), 1);
        let many = with(with_zip64(1 << 40, 47, 32), END + 76 + 8, &[0xff; 4]);
        insta::assert_snapshot!(message(&many), @"not a whole zip archive: it has more than 250000 members");
        let none = with(one(), END + 8, &[0xff; 4]);
        insta::assert_snapshot!(message(&none), @"not a whole zip archive: its zip64 end record is missing");
    }

    #[test]
    fn notices_damaged_contents() {
        for deflate in [false, true] {
            let mut builder = Builder::default();
            builder.add("a", "a", b"some contents that matter", deflate);
            let mut bytes = builder.finish();
            bytes[40] ^= 0x55;
            let error = open_bytes(&bytes).unwrap()[0].read(100).unwrap_err();
            assert!(
                error.to_string().contains("member `a` is damaged"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics_on_foreign_bytes(at in 0usize..200, value: u8, cut in 0usize..200) {
            let mut builder = Builder::default();
            builder.add("a/b", "a/b", b"contents", true);
            builder.add("c", "c", b"more", false);
            let mut bytes = builder.finish();
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len() - cut % bytes.len());
            if let Ok(members) = open_bytes(&bytes) {
                for member in members {
                    let _ = member.read(1 << 20);
                }
            }
        }
    }
}
