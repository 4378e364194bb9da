//! The files of two stacks of layers, side by side.
//!
//! Each side is read once, from its first byte to its last, and of each path only what fits into a few words is
//! kept: memory grows with the number of files, not with their bytes. The first file of other contents is read
//! again on both sides, to the first byte that differs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::digest::{Digest, HashingWriter};
use crate::oci::Descriptor;
use crate::oci::compare::{Difference, Error, Place, Side};

/// As many of a file's first bytes as are kept: more than any header that says which program made a file.
const HEAD: usize = 16;
/// As many bytes as are shown from the first that differs on.
const SHOWN: usize = 8;

/// What an entry of a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link.
    Hardlink,
    /// A device, a pipe.
    Special,
}

/// The first bytes that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// How many are equal before, in bytes.
    pub offset: u64,
    /// A few from there on in the first image; none where it ends.
    pub first: Vec<u8>,
    /// A few in the second.
    pub second: Vec<u8>,
}

/// In what a file differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is only in the first image.
    OnlyFirst,
    /// It is only in the second.
    OnlySecond,
    /// It is another kind of thing.
    Kind {
        /// In the first image.
        first: Kind,
        /// In the second.
        second: Kind,
    },
    /// Its permissions, with the set-id and sticky bits.
    Mode {
        /// In the first image.
        first: u32,
        /// In the second.
        second: u32,
    },
    /// Its owner's and its group's number.
    Owner {
        /// In the first image.
        first: (u64, u64),
        /// In the second.
        second: (u64, u64),
    },
    /// Which device it is, and extended attributes such as capabilities.
    Attributes {
        /// In the first image.
        first: String,
        /// In the second.
        second: String,
    },
    /// Where it leads.
    Target {
        /// In the first image.
        first: String,
        /// In the second.
        second: String,
    },
    /// Its contents.
    Contents {
        /// Number of bytes in the first image and in the second.
        sizes: (u64, u64),
        /// Its first bytes in either.
        heads: (Vec<u8>, Vec<u8>),
        /// Where they begin to differ; told of one file of a layer.
        at: Option<At>,
    },
}

/// A layer to be read.
pub(super) struct Layer<'a> {
    pub(super) side: Side,
    pub(super) blob: &'a Descriptor,
    /// What the config says that its tar is.
    pub(super) stated: Option<Digest>,
}

impl Layer<'_> {
    fn failed(&self, source: io::Error) -> Error {
        Error::Read {
            side: self.side,
            layer: self.blob.digest,
            source,
        }
    }
}

struct Entry {
    /// Which of the layers, and which entry of it.
    layer: usize,
    number: usize,
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
    date: u64,
    target: String,
    attributes: String,
    size: u64,
    contents: Digest,
    head: Vec<u8>,
}

type Tree = BTreeMap<String, Entry>;

/// Compares what two stacks of layers bring; what an upper one of a stack brings anew counts.
pub(super) fn compare<R: Read>(
    place: &Place,
    left: &[Layer<'_>],
    right: &[Layer<'_>],
    open: &impl Fn(Side, &Descriptor) -> io::Result<R>,
) -> Result<Vec<Difference>, Error> {
    let (one, other) = (read(left, open)?, read(right, open)?);
    let mut found = Vec::new();
    let mut dates: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    let mut is_read_again = false;
    let paths: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    for path in paths {
        let mut tell = |change| {
            found.push(Difference::File {
                place: place.clone(),
                path: path.clone(),
                change,
            });
        };
        let (first, second) = match (one.get(path), other.get(path)) {
            (Some(first), Some(second)) => (first, second),
            (Some(_), None) => {
                tell(Change::OnlyFirst);
                continue;
            }
            _ => {
                tell(Change::OnlySecond);
                continue;
            }
        };
        if first.date != second.date {
            *dates.entry((first.date, second.date)).or_default() += 1;
        }
        attributes(first, second).into_iter().for_each(&mut tell);
        if first.kind == second.kind && first.contents != second.contents {
            let at = if is_read_again {
                None
            } else {
                first_bytes(
                    (&left[first.layer], first),
                    (&right[second.layer], second),
                    open,
                )?
            };
            is_read_again = true;
            tell(Change::Contents {
                sizes: (first.size, second.size),
                heads: (first.head.clone(), second.head.clone()),
                at,
            });
        }
    }
    found.extend(
        dates
            .into_iter()
            .map(|((first, second), files)| Difference::Dates {
                place: place.clone(),
                first,
                second,
                files,
            }),
    );
    if found.is_empty() {
        let place = place.clone();
        found.push(Difference::Form { place });
    }
    Ok(found)
}

fn attributes(first: &Entry, second: &Entry) -> Vec<Change> {
    let mut found = Vec::new();
    if first.kind != second.kind {
        found.push(Change::Kind {
            first: first.kind,
            second: second.kind,
        });
        return found;
    }
    if first.mode != second.mode {
        found.push(Change::Mode {
            first: first.mode,
            second: second.mode,
        });
    }
    if first.owner != second.owner {
        found.push(Change::Owner {
            first: first.owner,
            second: second.owner,
        });
    }
    if first.attributes != second.attributes {
        found.push(Change::Attributes {
            first: first.attributes.clone(),
            second: second.attributes.clone(),
        });
    }
    if first.target != second.target {
        found.push(Change::Target {
            first: first.target.clone(),
            second: second.target.clone(),
        });
    }
    found
}

/// A tar, out of gzip if it is in gzip.
fn unpacked<'a>(blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut blob = BufReader::with_capacity(64 << 10, blob);
    Ok(match blob.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(blob)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            return Err(io::Error::other(
                "it is compressed by zstd, which Lambda does not take",
            ));
        }
        _ => Box::new(blob),
    })
}

fn read<R: Read>(
    layers: &[Layer<'_>],
    open: &impl Fn(Side, &Descriptor) -> io::Result<R>,
) -> Result<Tree, Error> {
    let mut tree = Tree::new();
    for (number, layer) in layers.iter().enumerate() {
        let blob = open(layer.side, layer.blob).map_err(|error| layer.failed(error))?;
        let actual = list(blob, number, &mut tree).map_err(|error| layer.failed(error))?;
        if let Some(stated) = layer.stated
            && stated != actual
        {
            return Err(Error::DiffId {
                layer: layer.blob.digest,
                stated,
                actual,
            });
        }
    }
    Ok(tree)
}

/// Lists a layer into `tree`, and gives the digest of its tar.
fn list(blob: impl Read, layer: usize, tree: &mut Tree) -> io::Result<Digest> {
    let mut tar = Hashed {
        inner: unpacked(blob)?,
        hash: HashingWriter::new(io::sink()),
    };
    let mut archive = tar::Archive::new(&mut tar);
    for (number, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = text(&entry.path_bytes());
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let mut head = Vec::with_capacity(HEAD);
        entry.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
        let (contents, size) = Digest::of_reader(&mut head.as_slice().chain(&mut entry))?;
        let attributes = attributes_of(&mut entry)?;
        let header = entry.header();
        let target = entry.link_name_bytes().map(|target| text(&target));
        tree.insert(
            path,
            Entry {
                layer,
                number,
                kind: kind(header.entry_type()),
                mode: header.mode()? & 0o7777,
                owner: (header.uid()?, header.gid()?),
                date: header.mtime()?,
                target: target.unwrap_or_default(),
                attributes,
                size,
                contents,
                head,
            },
        );
    }
    // What follows the last entry is part of the digests too.
    io::copy(&mut tar, &mut io::sink())?;
    let (_, digest, _) = tar.hash.finish();
    Ok(digest)
}

/// What decides what a file is and does, beside mode and contents.
fn attributes_of(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<String> {
    let mut words = Vec::new();
    let header = entry.header();
    if let tar::EntryType::Char | tar::EntryType::Block = header.entry_type() {
        let kind = char::from(header.entry_type().as_byte());
        let (major, minor) = (header.device_major()?, header.device_minor()?);
        let letter = if kind == '3' { 'c' } else { 'b' };
        words.push(format!(
            "{letter} {}:{}",
            major.unwrap_or_default(),
            minor.unwrap_or_default()
        ));
    }
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let name = extension.key().ok();
        if let Some(name) = name.and_then(|name| name.strip_prefix("SCHILY.xattr.")) {
            let value = extension.value_bytes().escape_ascii();
            words.push(format!("{name}={value}"));
        }
    }
    words.sort();
    Ok(words.join(" "))
}

fn text(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

fn kind(entry: tar::EntryType) -> Kind {
    match entry {
        tar::EntryType::Directory => Kind::Directory,
        tar::EntryType::Symlink => Kind::Symlink,
        tar::EntryType::Link => Kind::Hardlink,
        tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => Kind::Special,
        _ => Kind::File,
    }
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hash: HashingWriter<io::Sink>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.hash, &buffer[..count])?;
        Ok(count)
    }
}

/// Reads one file of either side again, to the first bytes that differ.
fn first_bytes<R: Read>(
    first: (&Layer<'_>, &Entry),
    second: (&Layer<'_>, &Entry),
    open: &impl Fn(Side, &Descriptor) -> io::Result<R>,
) -> Result<Option<At>, Error> {
    let archive = |(layer, _): (&Layer<'_>, &Entry)| {
        let blob = open(layer.side, layer.blob).and_then(unpacked);
        blob.map(tar::Archive::new)
            .map_err(|error| layer.failed(error))
    };
    let (mut one, mut other) = (archive(first)?, archive(second)?);
    // Whichever of the two it is, the first pass has read both.
    let failed = |error| first.0.failed(error);
    let mut one = one.entries().map_err(failed)?;
    let mut other = other.entries().map_err(failed)?;
    let (Some(one), Some(other)) = (one.nth(first.1.number), other.nth(second.1.number)) else {
        return Ok(None);
    };
    let (one, other) = (one.map_err(failed)?, other.map_err(failed)?);
    differing(one, other).map_err(failed)
}

fn differing(one: impl Read, other: impl Read) -> io::Result<Option<At>> {
    let mut one = BufReader::new(one).bytes();
    let mut other = BufReader::new(other).bytes();
    let mut offset = 0;
    loop {
        let (first, second) = (one.next().transpose()?, other.next().transpose()?);
        if first == second {
            if first.is_none() {
                return Ok(None);
            }
            offset += 1;
            continue;
        }
        let from = |byte: Option<u8>, rest: &mut dyn Iterator<Item = io::Result<u8>>| {
            let rest = rest.take(SHOWN - 1);
            byte.into_iter()
                .map(Ok)
                .chain(rest)
                .collect::<io::Result<Vec<_>>>()
        };
        return Ok(Some(At {
            offset,
            first: from(first, &mut one)?,
            second: from(second, &mut other)?,
        }));
    }
}
