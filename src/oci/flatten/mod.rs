//! The files of an image as the layers' stack leaves them: each layer read once, in parallel, and of each
//! file only what its reader asks for.
//!
//! Nothing is taken on trust here and nothing is refused: a layer that is damaged, of another size, or
//! compressed in another way is told as it is, for what that means is a rule's affair. Whiteouts and opaque
//! directories follow the image-spec's layer page. Memory grows with the number of entries.

mod ahead;
mod entries;
mod tree;

#[cfg(test)]
mod tests;

pub use tree::{Found, Missing, Tree};

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use flate2::bufread::GzDecoder;

use crate::digest::{Digest, Hasher};
use crate::oci::Descriptor;

/// Bytes of a blob read at a time.
const BLOB_CHUNK: usize = 128 << 10;
/// Bytes of a tar inflated at a time.
const TAR_CHUNK: usize = 256 << 10;
/// After so many bytes of a tar it is noted how many of the blob they took.
const STEP: u64 = 64 << 10;

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
    /// Bytes of the blob that it and its headers take, about.
    pub packed: u64,
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

/// Reads layers, as many at a time as there are processors; the results are in the layers' order.
///
/// `open` gives the bytes of a layer by its number, `reader` tells what of a regular file's contents in the layer of
/// a number is looked at; of one layer it is asked in the order of its entries.
/// Whatever the number of layers, a few megabytes of each of those under way are in memory.
pub fn read_all<S, B, O, F>(layers: &[Descriptor], open: O, reader: F) -> Vec<io::Result<Layer<S>>>
where
    S: Send,
    B: Read + Send,
    O: Fn(usize) -> io::Result<B> + Sync,
    F: Fn(usize, &Entry<S>) -> Option<Box<dyn Reader<Seen = S>>> + Sync,
{
    let mut order: Vec<_> = (0..layers.len()).collect();
    // The longest first: one that began last would be waited for alone.
    order.sort_by_key(|number| std::cmp::Reverse(layers[*number].size));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(&number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let reader = |entry: &Entry<S>| reader(number, entry);
            let layer = open(number).and_then(|blob| read(&layers[number], blob, reader));
            done.push((number, layer));
        }
        done
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<_> = thread::scope(|scope| {
        let count = processors.min(layers.len());
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(ahead::joined).collect()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, layer)| layer).collect()
}

/// Reads one layer to its end. `reader` tells what of a regular file's contents is looked at.
///
/// The blob is read and hashed on one thread, inflated on another, and its tar hashed and listed on the caller's.
///
/// # Errors
/// Those of reading the blob; whatever is wrong with what it holds is told in the layer.
pub fn read<S, F>(stated: &Descriptor, blob: impl Read + Send, reader: F) -> io::Result<Layer<S>>
where
    F: Fn(&Entry<S>) -> Option<Box<dyn Reader<Seen = S>>>,
{
    thread::scope(|scope| {
        let (mut blob, reading) = ahead::start(scope, Hashed::new(blob), BLOB_CHUNK);
        let mut layer = Layer {
            packing: packing_of(blob.fill_buf().unwrap_or_default()),
            ..Layer::unread(stated.clone())
        };
        match layer.packing {
            Packing::Gzip(_) => {
                let (tar, inflating) = ahead::start(scope, Members::new(blob), TAR_CHUNK);
                let ends = layer.list(tar, reader);
                let members = ahead::joined(inflating);
                layer.packing = Packing::Gzip(members.count);
                layer.share_out(&ends, |end| members.packed(end));
                if let Some(mut rest) = members.into_inner() {
                    let rest = io::copy(&mut rest, &mut io::sink()).unwrap_or(0);
                    layer.trailing = if layer.is_whole() { rest } else { 0 };
                }
            }
            Packing::Tar => {
                let ends = layer.list(blob, reader);
                layer.share_out(&ends, |end| end);
            }
            Packing::Zstd | Packing::Unknown => {
                let _ = io::copy(&mut blob, &mut io::sink());
            }
        }
        // Whatever failed, the reading thread alone knows why.
        let hashed = ahead::joined(reading);
        if let Some(error) = hashed.failed {
            return Err(error);
        }
        (layer.digest, layer.size) = (hashed.hasher.finish(), hashed.size);
        Ok(layer)
    })
}

/// How a blob that begins so is packed.
fn packing_of(start: &[u8]) -> Packing {
    match start {
        [0x1f, 0x8b, ..] => Packing::Gzip(0),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        _ if start.get(257..262) == Some(b"ustar") => Packing::Tar,
        // An empty archive is two blocks of nothing.
        _ if start.len() >= 1024 && start[..1024].iter().all(|byte| *byte == 0) => Packing::Tar,
        _ => Packing::Unknown,
    }
}

impl<S> Layer<S> {
    /// A layer none of whose bytes could be read; what is stated is not contradicted.
    pub fn unread(stated: Descriptor) -> Self {
        Self {
            digest: stated.digest,
            size: stated.size,
            stated,
            packing: Packing::Unknown,
            trailing: 0,
            diff_id: None,
            unpacked: 0,
            entries: Vec::new(),
            damage: None,
        }
    }

    /// Whether all its entries are known.
    pub fn is_whole(&self) -> bool {
        self.diff_id.is_some()
    }

    /// Lists a tar, and reads what is behind its end; gives where in it each entry ends.
    fn list<F>(&mut self, tar: ahead::Ahead, reader: F) -> Vec<u64>
    where
        F: Fn(&Entry<S>) -> Option<Box<dyn Reader<Seen = S>>>,
    {
        let mut tar = tar.hashing();
        let mut ends = Vec::new();
        let listed = entries::list(&mut tar, &mut self.entries, &mut ends, reader);
        let listed = listed.and_then(|()| io::copy(&mut tar, &mut io::sink()));
        self.damage = listed.err().map(|error| error.to_string());
        if self.damage.is_some() && self.packing == Packing::Tar {
            // The blob is to be hashed to its end; should it break off, its own thread tells.
            let _ = io::copy(&mut tar, &mut io::sink());
        }
        let (diff_id, size) = tar.finish();
        self.unpacked = size;
        self.diff_id = diff_id.filter(|_| self.damage.is_none());
        ends
    }

    /// Tells each entry how much of the blob it takes, by where in the blob each place of the tar is.
    fn share_out(&mut self, ends: &[u64], place: impl Fn(u64) -> u64) {
        let mut from = 0;
        for (entry, end) in self.entries.iter_mut().zip(ends) {
            let to = place(*end);
            entry.packed = to.saturating_sub(from);
            from = to;
        }
    }
}

/// Reads gzip members one after another, and stops before what is none.
struct Members {
    /// The member under way; `rest` has the blob where it was the last.
    open: Option<GzDecoder<ahead::Ahead>>,
    rest: Option<ahead::Ahead>,
    count: u32,
    inflated: u64,
    /// Bytes of the tar and those of the blob that they took, both from the start.
    steps: Vec<(u64, u64)>,
}

impl Members {
    fn new(blob: ahead::Ahead) -> Self {
        Self {
            open: Some(GzDecoder::new(blob)),
            rest: None,
            count: 1,
            inflated: 0,
            steps: vec![(0, 0)],
        }
    }

    fn note(&mut self, count: usize) {
        self.inflated += count as u64;
        let blob = self.open.as_ref().map(GzDecoder::get_ref);
        let last = self.steps.last().map_or(0, |step| step.0);
        if let Some(blob) = blob.filter(|_| self.inflated - last >= STEP || count == 0) {
            self.steps.push((self.inflated, blob.taken()));
        }
    }

    /// Where in the blob a place of the tar is, about: between two steps it is even.
    fn packed(&self, place: u64) -> u64 {
        let after = self.steps.partition_point(|step| step.0 < place);
        let Some(&(to, packed)) = self.steps.get(after) else {
            return self.steps.last().map_or(0, |step| step.1);
        };
        let (from, before) = after.checked_sub(1).map_or((0, 0), |step| self.steps[step]);
        let part = u128::from(place - from) * u128::from(packed - before);
        let part = part / u128::from((to - from).max(1));
        before + u64::try_from(part).unwrap_or_default()
    }

    /// What was not read of the blob.
    fn into_inner(self) -> Option<ahead::Ahead> {
        self.open.map(GzDecoder::into_inner).or(self.rest)
    }
}

impl Read for Members {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.open {
            let count = member.read(buffer)?;
            self.note(count);
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let mut rest = self.open.take().map(GzDecoder::into_inner);
            let is_next = |rest: &mut ahead::Ahead| rest.starts_with([0x1f, 0x8b]);
            if let Some(rest) = rest.take_if(is_next) {
                self.open = Some(GzDecoder::new(rest));
                self.count += 1;
            }
            self.rest = rest;
        }
        Ok(0)
    }
}

/// Hashes and counts what is read.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
    /// What ended it, if not its end; on its way through the other threads it would look like damage.
    failed: Option<io::Error>,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
            size: 0,
            failed: None,
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.inner.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                return Err(kind.into());
            }
        };
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}
