//! The files of an image as the layers' stack leaves them: each layer read once, in parallel, and of each
//! file only what its reader asks for.
//!
//! Nothing is taken on trust here and nothing is refused: a layer that is damaged, of another size, or
//! compressed in another way is told as it is, for what that means is a rule's affair. Whiteouts and opaque
//! directories follow the image-spec's layer page. Memory grows with the number of entries.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Bound;

use flate2::bufread::GzDecoder;

use crate::digest::{Digest, HashingWriter};
use crate::oci::Descriptor;

/// What hides a file of a lower layer begins so.
const WHITEOUT: &str = ".wh.";
/// What hides all files of lower layers in its directory.
const OPAQUE: &str = ".wh..wh..opq";
/// As many symbolic links are followed one after another, as by Linux.
const MAX_LINKS: usize = 40;
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

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
    /// A character or block device.
    Device,
    /// A pipe.
    Fifo,
    /// Something else, by the tar's letter.
    Other(u8),
}

/// An entry of a layer. `T` is what its contents' reader made of them.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// The name as the tar has it.
    pub name: Box<str>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with the set-id and sticky bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u64,
    /// The group's number.
    pub gid: u64,
    /// Number of bytes.
    pub size: u64,
    /// When it was changed, in seconds since 1970.
    pub modified: u64,
    /// Where a link leads, as written.
    pub target: Option<Box<str>>,
    /// What was seen of its contents.
    pub seen: Option<T>,
}

impl<T> Entry<T> {
    /// The path below the root, without slashes and `.` around it: `var/task/app.py`; empty for the root.
    pub fn path(&self) -> String {
        normal(&self.name)
    }
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip of so many members.
    Gzip(u32),
    /// Not at all.
    Tar,
    /// zstd, which is not read.
    Zstd,
    /// Something else, which is not read.
    Unknown,
}

/// A layer as its bytes are.
#[derive(Debug, Clone)]
pub struct Layer<T> {
    /// What the manifest says of it.
    pub stated: Descriptor,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// How it is packed.
    pub packing: Packing,
    /// Bytes behind the last gzip member that are none.
    pub trailing: u64,
    /// The digest of its tar; none where it could not be unpacked to the end.
    pub diff_id: Option<Digest>,
    /// The number of bytes of its tar.
    pub unpacked: u64,
    /// Its entries in the tar's order.
    pub entries: Vec<Entry<T>>,
    /// Where reading ended, if before the end.
    pub damage: Option<String>,
}

/// A file in the flattened tree.
#[derive(Debug)]
pub struct Found<'a, T> {
    /// Which layer has it, counted from 0, the lowest.
    pub layer: usize,
    /// The entry there.
    pub entry: &'a Entry<T>,
}

impl<T> Clone for Found<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Found<'_, T> {}

/// All layers' files, upper ones over lower ones.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Layer and entry of each path; `None` for a directory that no layer lists.
    files: BTreeMap<Box<str>, Option<(usize, usize)>>,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// There is nothing at this path.
    Nothing(String),
    /// Symbolic links go round in circles.
    Loop(String),
}

/// Sees an entry's contents stream by.
pub trait Reader {
    /// What comes of it.
    type Seen;
    /// The next bytes.
    fn bytes(&mut self, bytes: &[u8]);
    /// All have come.
    fn end(self: Box<Self>) -> Self::Seen;
}

/// The name of an entry as a path below the root.
pub fn normal(name: &str) -> String {
    let parts = name.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.collect::<Vec<_>>().join("/")
}

impl Tree {
    /// Stacks layers, lowest first.
    pub fn new<T>(layers: &[Layer<T>]) -> Self {
        let mut tree = Self::default();
        for (layer, contents) in layers.iter().enumerate() {
            tree.hide(&contents.entries);
            for (number, entry) in contents.entries.iter().enumerate() {
                tree.insert(layer, number, entry);
            }
        }
        tree
    }

    /// Removes what a layer's whiteouts hide, before any of its own files comes.
    fn hide<T>(&mut self, entries: &[Entry<T>]) {
        for entry in entries {
            let path = entry.path();
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == OPAQUE {
                self.remove_below(directory);
            } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                let hidden = join(directory, hidden);
                self.files.remove(&*hidden);
                self.remove_below(&hidden);
            }
        }
    }

    fn remove_below(&mut self, directory: &str) {
        let below: Vec<_> = self.paths_below(directory).map(str::to_owned).collect();
        for path in below {
            self.files.remove(&*path);
        }
    }

    fn insert<T>(&mut self, layer: usize, number: usize, entry: &Entry<T>) {
        let path = entry.path();
        let name = path.rsplit('/').next().unwrap_or(&path);
        if path.is_empty() || name.starts_with(WHITEOUT) || path.split('/').any(|part| part == "..")
        {
            return;
        }
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            if !self.files.contains_key(parent) {
                self.files.insert(parent.into(), None);
            }
        }
        if entry.kind != Kind::Directory {
            self.remove_below(&path);
        }
        self.files.insert(path.into(), Some((layer, number)));
    }

    /// All paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(|path| &**path)
    }

    /// All paths below a directory at any depth, sorted.
    pub fn paths_below<'a>(&'a self, directory: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut prefix = directory.to_owned();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let from = self.files.range::<str, _>(from);
        from.map(|(path, _)| &**path)
            .take_while(move |path| path.starts_with(&prefix))
    }

    /// Whether there is something at exactly this path; no link is followed.
    pub fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// The entry at exactly this path; none for a directory that no layer lists. No link is followed but a hard
    /// one, which is the file that it names.
    pub fn get<'a, T>(&self, path: &str, layers: &'a [Layer<T>]) -> Option<Found<'a, T>> {
        let (layer, number) = (*self.files.get(path)?)?;
        let mut found = Found {
            layer,
            entry: layers.get(layer)?.entries.get(number)?,
        };
        for _ in 0..MAX_LINKS {
            if found.entry.kind != Kind::Hardlink {
                break;
            }
            let target = normal(found.entry.target.as_deref()?);
            let Some(Some((layer, number))) = self.files.get(&*target) else {
                break;
            };
            found = Found {
                layer: *layer,
                entry: layers.get(*layer)?.entries.get(*number)?,
            };
        }
        Some(found)
    }

    /// Where a path leads when every symbolic link on the way is followed, below this image's root.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn resolve<T>(&self, path: &str, layers: &[Layer<T>]) -> Result<String, Missing> {
        let mut todo: Vec<String> = parts_reversed(path);
        let mut here = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                here.truncate(here.rfind('/').unwrap_or(0));
                continue;
            }
            let next = join(&here, &part);
            if !self.contains(&next) {
                return Err(Missing::Nothing(next));
            }
            let link = self.get(&next, layers);
            let link = link.filter(|found| found.entry.kind == Kind::Symlink);
            let Some(target) = link.and_then(|found| found.entry.target.as_deref()) else {
                here = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Missing::Loop(next));
            }
            if target.starts_with('/') {
                here.clear();
            }
            todo.extend(parts_reversed(target));
        }
        Ok(here)
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

fn parts_reversed(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.rev().map(str::to_owned).collect()
}

/// Reads one layer to its end. `reader` tells what of a regular file's contents is looked at.
///
/// # Errors
/// Those of reading the blob; whatever is wrong with what it holds is told in the layer.
pub fn read<S, F>(stated: &Descriptor, blob: impl Read, reader: F) -> io::Result<Layer<S>>
where
    F: Fn(&Entry<S>) -> Option<Box<dyn Reader<Seen = S>>>,
{
    let mut blob = BufReader::with_capacity(BUFFER, Hashed::new(blob));
    let packing = match blob.fill_buf()? {
        [0x1f, 0x8b, ..] => Packing::Gzip(0),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        start if start.get(257..262) == Some(b"ustar") || start.iter().all(|byte| *byte == 0) => {
            Packing::Tar
        }
        _ => Packing::Unknown,
    };
    let mut layer = Layer {
        stated: stated.clone(),
        digest: stated.digest,
        size: 0,
        packing,
        trailing: 0,
        diff_id: None,
        unpacked: 0,
        entries: Vec::new(),
        damage: None,
    };
    match packing {
        Packing::Gzip(_) => {
            let mut tar = Hashed::new(Members::new(&mut blob));
            layer.damage = list(&mut tar, &mut layer.entries, reader).err();
            layer.packing = Packing::Gzip(tar.inner.count);
            layer.take_tar(tar);
        }
        Packing::Tar => {
            let mut tar = Hashed::new(&mut blob);
            layer.damage = list(&mut tar, &mut layer.entries, reader).err();
            layer.take_tar(tar);
        }
        Packing::Zstd | Packing::Unknown => {}
    }
    let rest = io::copy(&mut blob, &mut io::sink())?;
    if layer.damage.is_none() && matches!(layer.packing, Packing::Gzip(_)) {
        layer.trailing = rest;
    }
    let (_, digest, size) = blob.into_inner().finish();
    (layer.digest, layer.size) = (digest, size);
    Ok(layer)
}

impl<S> Layer<S> {
    fn take_tar<R>(&mut self, tar: Hashed<R>) {
        let (_, diff_id, size) = tar.finish();
        self.unpacked = size;
        self.diff_id = self.damage.is_none().then_some(diff_id);
    }
}

/// Lists a tar, and reads what is behind its end.
fn list<S, F>(tar: &mut impl Read, entries: &mut Vec<Entry<S>>, reader: F) -> Result<(), String>
where
    F: Fn(&Entry<S>) -> Option<Box<dyn Reader<Seen = S>>>,
{
    let mut archive = tar::Archive::new(&mut *tar);
    let mut buffer = vec![0; BUFFER];
    let listed = archive.entries().and_then(|all| {
        for entry in all {
            let mut contents = entry?;
            let mut entry = entry_of(&contents)?;
            let wanted = entry.kind == Kind::File;
            if let Some(mut reader) = wanted.then(|| reader(&entry)).flatten() {
                loop {
                    match contents.read(&mut buffer)? {
                        0 => break,
                        count => reader.bytes(&buffer[..count]),
                    }
                }
                entry.seen = Some(reader.end());
            }
            entries.push(entry);
        }
        Ok(())
    });
    listed
        .and_then(|()| io::copy(tar, &mut io::sink()))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn entry_of<S>(entry: &tar::Entry<'_, impl Read>) -> io::Result<Entry<S>> {
    let header = entry.header();
    let text = |bytes: &[u8]| -> Box<str> {
        match str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => bytes.escape_ascii().to_string().into(),
        }
    };
    Ok(Entry {
        name: text(&entry.path_bytes()),
        kind: match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                Kind::File
            }
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink,
            tar::EntryType::Link => Kind::Hardlink,
            tar::EntryType::Char | tar::EntryType::Block => Kind::Device,
            tar::EntryType::Fifo => Kind::Fifo,
            other => Kind::Other(other.as_byte()),
        },
        mode: header.mode()? & 0o7777,
        uid: header.uid()?,
        gid: header.gid()?,
        size: entry.size(),
        modified: header.mtime()?,
        target: entry.link_name_bytes().map(|target| text(&target)),
        seen: None,
    })
}

/// Reads gzip members one after another, and stops before what is none.
struct Members<R> {
    open: Option<GzDecoder<R>>,
    count: u32,
}

impl<R: BufRead> Members<R> {
    fn new(blob: R) -> Self {
        Self {
            open: Some(GzDecoder::new(blob)),
            count: 1,
        }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.open {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let mut rest = self.open.take().map(GzDecoder::into_inner);
            if let Some(rest) = rest.take_if(|rest| {
                rest.fill_buf()
                    .is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b]))
            }) {
                self.open = Some(GzDecoder::new(rest));
                self.count += 1;
            }
        }
        Ok(0)
    }
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hash: HashingWriter<io::Sink>,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hash: HashingWriter::new(io::sink()),
        }
    }

    fn finish(self) -> (R, Digest, u64) {
        let (_, digest, size) = self.hash.finish();
        (self.inner, digest, size)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.hash, &buffer[..count])?;
        Ok(count)
    }
}
