//! A tar's entries in their order, from any bytes: POSIX ustar and pax, and GNU's long names and sparse files.
//!
//! It is read as Go's `archive/tar` does, which every applier of layers uses, with its limits; what it would
//! refuse ends the reading. A reader of a crate's own would hold headers of any size in memory. Layers are not known
//! here.

use std::io::{self, BufRead, Read};

use super::{Entry, Kind, Reader};

const BLOCK: usize = 512;
/// No header that belongs to another one is larger, in bytes.
const MAX_SPECIAL: u64 = 1 << 20;
/// No path is longer, in bytes.
const MAX_NAME: usize = 4096;
/// No path has more parts: each makes a directory, and each of those has its whole path for a key.
const MAX_PARTS: usize = 256;
/// No file is larger, in bytes: what a sparse one says of itself costs nothing.
const MAX_FILE: u64 = 1 << 41;
/// No layer has more entries: an archive of nothing but headers packs very well.
const MAX_ENTRIES: usize = 4 << 20;

/// What the headers before an entry's own say of it.
#[derive(Default)]
struct Extra {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<u64>,
    /// The size of a sparse file.
    real_size: Option<u64>,
    is_sparse: bool,
}

/// Lists a tar to its end; where in it each entry ends is put into `ends`.
pub(super) fn list<S, F>(
    tar: &mut impl BufRead,
    entries: &mut Vec<Entry<S>>,
    ends: &mut Vec<u64>,
    reader: F,
) -> io::Result<()>
where
    F: Fn(&Entry<S>) -> Option<Box<dyn Reader<Seen = S>>>,
{
    let tar = &mut Counted { inner: tar, at: 0 };
    let mut extra = Extra::default();
    while let Some(block) = next_header(tar)? {
        let header = tar::Header::from_byte_slice(&block);
        let kind = header.entry_type();
        let stated = match kind.as_byte() {
            // GNU's label of a volume has no size at all.
            b'V' => 0,
            _ => header
                .entry_size()
                .map_err(|_| bad("a size that is none"))?,
        };
        match kind.as_byte() {
            b'L' => extra.name = Some(text_of(special(tar, stated)?)),
            b'K' => extra.target = Some(text_of(special(tar, stated)?)),
            b'x' => extra.take(&special(tar, stated)?)?,
            // Of the whole archive; appliers leave it out.
            b'g' => drop(special(tar, stated)?),
            _ => {
                if entries.len() == MAX_ENTRIES {
                    return Err(bad(&format!("more than {MAX_ENTRIES} entries")));
                }
                let extra = std::mem::take(&mut extra);
                entries.push(take(tar, header, &extra, &reader)?);
                ends.push(tar.at);
            }
        }
    }
    Ok(())
}

/// Counts what is taken.
struct Counted<'a, R> {
    inner: &'a mut R,
    at: u64,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.at += count as u64;
    }
}

/// Reads one entry and its contents.
fn take<S, F>(
    tar: &mut impl BufRead,
    header: &tar::Header,
    extra: &Extra,
    reader: &F,
) -> io::Result<Entry<S>>
where
    F: Fn(&Entry<S>) -> Option<Box<dyn Reader<Seen = S>>>,
{
    let mut entry = entry_of(header, extra);
    let target = entry.target.as_ref().map_or(0, |target| target.len());
    let longest = entry.name.len().max(target);
    // No path of Linux is longer, and all directories of one are made.
    if longest > MAX_NAME {
        return Err(bad(&format!("a name of {longest} bytes")));
    }
    let parts = entry.name.split('/').count();
    if parts > MAX_PARTS {
        return Err(bad(&format!("a name of {parts} parts")));
    }
    let mut is_sparse = extra.is_sparse;
    let mut stored = extra.size.or_else(|| header.entry_size().ok()).unwrap_or(0);
    if let Some(gnu) = header
        .as_gnu()
        .filter(|_| header.entry_type().is_gnu_sparse())
    {
        entry.size = gnu.real_size().unwrap_or(entry.size);
        is_sparse = true;
        let mut more = gnu.is_extended();
        while more {
            let block = block(tar)?.ok_or_else(|| ends_inside(&entry.name))?;
            more = block[BLOCK - 8] == 1;
        }
    }
    if entry.size > MAX_FILE {
        return Err(bad(&format!("a file of {} bytes", entry.size)));
    }
    if !matches!(entry.kind, Kind::File | Kind::Other(_)) {
        (stored, entry.size) = (0, 0);
    }
    // What is stored of a sparse file is not what is in it.
    let looked_at = entry.kind == Kind::File && !is_sparse;
    let mut reader = looked_at.then(|| reader(&entry)).flatten();
    let whole = body(tar, stored, |bytes| {
        if let Some(reader) = &mut reader {
            reader.bytes(bytes);
        }
    })?;
    if !whole {
        return Err(ends_inside(&entry.name));
    }
    entry.seen = reader.map(Reader::end);
    Ok(entry)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the tar has {what}"))
}

fn ends_inside(name: &str) -> io::Error {
    bad(&format!("an end inside `{name}`"))
}

/// The next 512 bytes; none at the end.
fn block(tar: &mut impl BufRead) -> io::Result<Option<[u8; BLOCK]>> {
    let mut block = [0; BLOCK];
    let mut count = 0;
    while count < BLOCK {
        let there = tar.fill_buf()?;
        if there.is_empty() {
            break;
        }
        let more = there.len().min(BLOCK - count);
        block[count..count + more].copy_from_slice(&there[..more]);
        tar.consume(more);
        count += more;
    }
    match count {
        0 => Ok(None),
        BLOCK => Ok(Some(block)),
        _ => Err(bad("an end inside a header")),
    }
}

/// The next header; none where the archive ends, be it without the blocks that should say so.
fn next_header(tar: &mut impl BufRead) -> io::Result<Option<[u8; BLOCK]>> {
    let Some(block) = block(tar)?.filter(|block| block.iter().any(|byte| *byte != 0)) else {
        return Ok(None);
    };
    let header = tar::Header::from_byte_slice(&block);
    let own = |at: usize| (148..156).contains(&at);
    let bytes = || block.iter().enumerate().filter(|(at, _)| !own(*at));
    let sum: u32 = bytes().map(|(_, byte)| u32::from(*byte)).sum::<u32>() + 8 * 32;
    // Some old writers added bytes with signs.
    let signed: i32 = bytes()
        .map(|(_, byte)| i32::from(byte.cast_signed()))
        .sum::<i32>()
        + 8 * 32;
    let is_right = |stated: u32| stated == sum || i64::from(stated) == i64::from(signed);
    if header.cksum().is_ok_and(is_right) {
        Ok(Some(block))
    } else {
        Err(bad("a header whose checksum is wrong"))
    }
}

/// Passes so many bytes on and skips what fills up their last block; whether they were all there.
fn body(tar: &mut impl BufRead, size: u64, each: impl FnMut(&[u8])) -> io::Result<bool> {
    let block = BLOCK as u64;
    let whole = pass(tar, size, each)?;
    if whole {
        // umoci ends an archive with the last file's bytes, and Go's reader takes that.
        pass(tar, (block - size % block) % block, |_| {})?;
    }
    Ok(whole)
}

fn pass(tar: &mut impl BufRead, size: u64, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut left = size;
    while left > 0 {
        let there = tar.fill_buf()?;
        if there.is_empty() {
            return Ok(false);
        }
        let count = usize::try_from(left).map_or(there.len(), |left| left.min(there.len()));
        each(&there[..count]);
        tar.consume(count);
        left -= count as u64;
    }
    Ok(true)
}

/// The contents of a header that belongs to another one.
fn special(tar: &mut impl BufRead, size: u64) -> io::Result<Vec<u8>> {
    if size > MAX_SPECIAL {
        return Err(bad(&format!("a header of {size} bytes")));
    }
    let mut bytes = Vec::new();
    if body(tar, size, |more| bytes.extend_from_slice(more))? {
        Ok(bytes)
    } else {
        Err(bad("an end inside a header"))
    }
}

/// What stands before the first zero.
fn text_of(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

impl Extra {
    /// Takes the records of a pax header: each its own length, a space, `key=value` and a line's end.
    fn take(&mut self, mut records: &[u8]) -> io::Result<()> {
        let malformed = || bad("a pax record that cannot be read");
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ');
            let length = space.and_then(|at| str::from_utf8(&records[..at]).ok()?.parse().ok());
            let (space, length): (usize, usize) = space.zip(length).ok_or_else(malformed)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &records[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = record.split_at(equals.ok_or_else(malformed)?);
            self.record(key, &value[1..]);
            records = &records[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) {
        let number = || {
            // Times have a fraction, and may lie before 1970.
            let text = str::from_utf8(value).ok()?;
            text.split('.').next()?.parse::<u64>().ok()
        };
        match key {
            // A sparse file's own name is not that of its parts.
            b"path" if self.is_sparse && self.name.is_some() => {}
            b"path" | b"GNU.sparse.name" => self.name = Some(value.to_vec()),
            b"linkpath" => self.target = Some(value.to_vec()),
            b"size" => self.size = number(),
            b"uid" => self.uid = number(),
            b"gid" => self.gid = number(),
            b"mtime" => self.modified = number(),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.real_size = number(),
            _ => {}
        }
        self.is_sparse |= key.starts_with(b"GNU.sparse.");
    }
}

fn entry_of<S>(header: &tar::Header, extra: &Extra) -> Entry<S> {
    let text = |bytes: &[u8]| -> Box<str> {
        match str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => bytes.escape_ascii().to_string().into(),
        }
    };
    let name = match &extra.name {
        Some(name) => text(name),
        None => text(&header.path_bytes()),
    };
    let own = header.link_name_bytes();
    let target = extra.target.as_deref().or(own.as_deref());
    let size = extra.real_size.or(extra.size);
    Entry {
        kind: match header.entry_type().as_byte() {
            // Before POSIX a directory was known by its name alone.
            0 if name.ends_with('/') => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        },
        name,
        // A field that is empty or none counts as nothing, as elsewhere.
        mode: header.mode().unwrap_or(0) & 0o7777,
        uid: extra.uid.or_else(|| header.uid().ok()).unwrap_or(0),
        gid: extra.gid.or_else(|| header.gid().ok()).unwrap_or(0),
        size: size.or_else(|| header.entry_size().ok()).unwrap_or(0),
        modified: extra.modified.or_else(|| header.mtime().ok()).unwrap_or(0),
        target: target.map(text),
        packed: 0,
        seen: None,
    }
}
