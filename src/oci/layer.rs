//! A file tree becomes a layer: one deterministic tar in one gzip member.
//!
//! Headers are POSIX ustar, with a PAX header only where a value does not fit: this room writes them
//! itself because their bytes are part of every digest. Nothing about a file but its path, kind,
//! execute bit and contents has a place in them. Lambda's unpacker wants each directory before what
//! is in it and knows no hard links; a [`FileTree`] gives the first and cannot say the second.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};

use crate::blob_store::{self, BlobStore, BlobWriter, MemoKey};
use crate::digest::{Digest, Hasher, HashingWriter};
use crate::file_tree::{Entry, FileTree, ImagePath, Node, TreeHasher};
use crate::progress::Task;

/// Names the compressor, its level and the order of entries; a change of any changes this.
const FORMAT: &str = "layer 1: ustar, sorted; zlib-rs 0.6.8 level 6";
const LEVEL: u32 = 6;
const BLOCK: usize = 512;
/// ustar has eleven octal digits for a size.
const MAX_OCTAL_SIZE: u64 = 0o77_777_777_777;

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Number of compressed bytes.
    pub size: u64,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Number of bytes of the uncompressed tar.
    pub unpacked_size: u64,
}

/// Why a layer was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the tree could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Where it was to go.
        path: ImagePath,
        /// Why.
        source: io::Error,
    },
    /// A file is not as long as it was when it was listed.
    #[error("{path} changed while it was read")]
    Changed {
        /// Where it was to go.
        path: ImagePath,
    },
    /// The layer could not be written.
    #[error("cannot write a layer into the store")]
    Write(#[source] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
}

/// How the bytes of files come into the compressed stream. Both give the same tar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packing {
    /// What an archive has compressed already is taken over as it is.
    #[default]
    Spliced,
    /// Everything is compressed anew.
    Recompressed,
}

/// What beside the tree decides a layer's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The date of every entry, in seconds since 1970.
    pub epoch: u64,
    /// How it is compressed.
    pub packing: Packing,
}

/// Sees the bytes of files as they go into a layer, so that nobody has to read them again.
pub trait Witness: Sync {
    /// What is to see the file that is about to come, if anything is.
    fn look(&self, path: &ImagePath, entry: &Entry) -> Option<Box<dyn Look + Send + '_>>;
}

/// Sees one file: its bytes in order, then its end. What it finds is for its witness to keep.
pub trait Look {
    /// The next bytes.
    fn bytes(&mut self, bytes: &[u8]);

    /// There are no more.
    fn end(self: Box<Self>);
}

/// Sees nothing.
pub struct Blind;

impl Witness for Blind {
    fn look(&self, _: &ImagePath, _: &Entry) -> Option<Box<dyn Look + Send + '_>> {
        None
    }
}

/// A layer that is whole but has no name in the store yet.
pub struct Unnamed<'a> {
    blob: BlobWriter<'a>,
    diff_id: Digest,
    unpacked_size: u64,
}

impl Unnamed<'_> {
    /// Gives it its name.
    ///
    /// # Errors
    /// Those of writing.
    pub fn commit(self) -> Result<Layer, Error> {
        let (digest, size) = self.blob.commit()?;
        Ok(Layer {
            digest,
            size,
            diff_id: self.diff_id,
            unpacked_size: self.unpacked_size,
        })
    }
}

/// Writes a layer of `tree` into `store`, which gets its name when the caller, too, is content. `task` hears
/// of the tar's bytes.
///
/// # Errors
/// See [`Error`]; no part of a layer is left then.
pub fn write<'s>(
    store: &'s BlobStore,
    tree: &FileTree,
    options: Options,
    witness: &dyn Witness,
    task: &Task,
) -> Result<Unnamed<'s>, Error> {
    let gzip = GzBuilder::new()
        .operating_system(255)
        .write(store.writer()?, Compression::new(LEVEL));
    let mut tar = HashingWriter::new(gzip);
    write_tar(tree, options.epoch, witness, task, &mut tar)?;
    let (gzip, diff_id, unpacked_size) = tar.finish();
    Ok(Unnamed {
        blob: gzip.finish().map_err(Error::Write)?,
        diff_id,
        unpacked_size,
    })
}

/// Makes a layer of `tree` in `store`. Beside it comes the digest of the tree as it was read for this layer:
/// files may have changed since they were last looked at.
///
/// # Errors
/// See [`Error`]; no part of a layer is left then.
pub fn make(
    store: &BlobStore,
    tree: &FileTree,
    options: Options,
    task: &Task,
) -> Result<(Layer, Digest), Error> {
    let seen = Contents::default();
    let layer = write(store, tree, options, &seen, task)?;
    Ok((layer.commit()?, seen.digest_of(tree)))
}

/// The digests of all files of a tree, as they were read.
#[derive(Default)]
struct Contents(Mutex<BTreeMap<ImagePath, Digest>>);

struct ContentLook<'a> {
    contents: &'a Contents,
    path: ImagePath,
    hasher: Hasher,
}

impl Witness for Contents {
    fn look(&self, path: &ImagePath, _: &Entry) -> Option<Box<dyn Look + Send + '_>> {
        Some(Box::new(ContentLook {
            contents: self,
            path: path.clone(),
            hasher: Hasher::default(),
        }))
    }
}

impl Look for ContentLook<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    fn end(self: Box<Self>) {
        let mut digests = self.contents.0.lock();
        let digests = digests.as_mut().unwrap_or_else(PoisonError::get_mut);
        digests.insert(self.path, self.hasher.finish());
    }
}

impl Contents {
    fn digest_of(self, tree: &FileTree) -> Digest {
        let digests = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut hasher = TreeHasher::default();
        for (path, entry) in tree.iter() {
            hasher.entry(path, &entry.node, digests.get(path).copied());
        }
        hasher.finish()
    }
}

/// The key of a layer whose tree these inputs decide: digests of wheels and where they are placed, or
/// the tree's own digest.
pub fn memo_key<I: AsRef<[u8]>>(options: Options, inputs: impl IntoIterator<Item = I>) -> MemoKey {
    let packing: &[u8] = match options.packing {
        Packing::Spliced => b"spliced",
        Packing::Recompressed => b"recompressed",
    };
    let fixed = [
        FORMAT.as_bytes().to_vec(),
        options.epoch.to_le_bytes().to_vec(),
        packing.to_vec(),
    ];
    let inputs = inputs.into_iter().map(|input| input.as_ref().to_vec());
    MemoKey::new("layer", fixed.into_iter().chain(inputs))
}

/// The layer made before for `key`, if it is still in the store.
pub fn recall(store: &BlobStore, key: &MemoKey) -> Option<Layer> {
    let layer: Layer = store.recall(key)?;
    store.contains(&layer.digest, layer.size).then_some(layer)
}

/// Remembers `layer` as the one for `key`.
///
/// # Errors
/// Those of writing.
pub fn remember(store: &BlobStore, key: &MemoKey, layer: &Layer) -> Result<(), Error> {
    Ok(store.remember(key, layer)?)
}

fn write_tar(
    tree: &FileTree,
    epoch: u64,
    witness: &dyn Witness,
    task: &Task,
    out: &mut impl Write,
) -> Result<(), Error> {
    for (path, entry) in tree.iter() {
        match &entry.node {
            Node::Directory => {
                let header = Header::new(b'5', format!("{}/", path.as_str()), 0o755, epoch);
                header.write(out).map_err(Error::Write)?;
            }
            Node::Symlink(target) => {
                let mut header = Header::new(b'2', path.as_str().to_owned(), 0o777, epoch);
                header.link.clone_from(target);
                header.write(out).map_err(Error::Write)?;
            }
            Node::File {
                content,
                executable,
            } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                let mut header = Header::new(b'0', path.as_str().to_owned(), mode, epoch);
                header.size = content.size();
                header.write(out).map_err(Error::Write)?;
                let mut reader = content.open().map_err(|source| Error::Read {
                    path: path.clone(),
                    source,
                })?;
                let look = witness.look(path, entry);
                copy_exactly(&mut reader, header.size, path, look, task, out)?;
            }
        }
    }
    // Two blocks of zeros end an archive.
    out.write_all(&[0; 2 * BLOCK]).map_err(Error::Write)
}

/// Copies a file's contents with padding.
fn copy_exactly(
    reader: &mut impl Read,
    size: u64,
    path: &ImagePath,
    mut look: Option<Box<dyn Look + Send + '_>>,
    task: &Task,
    out: &mut impl Write,
) -> Result<(), Error> {
    let mut buffer = vec![0; 64 << 10];
    let mut copied = 0;
    loop {
        // One more read after the last byte proves the contents.
        let count = reader.read(&mut buffer).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        copied += count as u64;
        if copied > size || (count == 0 && copied < size) {
            return Err(Error::Changed { path: path.clone() });
        }
        if count == 0 {
            break;
        }
        if let Some(look) = &mut look {
            look.bytes(&buffer[..count]);
        }
        task.advance(count as u64);
        out.write_all(&buffer[..count]).map_err(Error::Write)?;
    }
    if let Some(look) = look {
        look.end();
    }
    write_padding(size, out).map_err(Error::Write)
}

fn write_padding(size: u64, out: &mut impl Write) -> io::Result<()> {
    let padding = size.next_multiple_of(BLOCK as u64) - size;
    io::copy(&mut io::repeat(0).take(padding), out)?;
    Ok(())
}

/// One entry's header before it is laid out.
struct Header {
    kind: u8,
    name: String,
    mode: u32,
    size: u64,
    epoch: u64,
    link: String,
}

impl Header {
    fn new(kind: u8, name: String, mode: u32, epoch: u64) -> Self {
        Self {
            kind,
            name,
            mode,
            size: 0,
            epoch,
            link: String::new(),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut records = Vec::new();
        let split = split_name(&self.name);
        if split.is_none() {
            pax_record(&mut records, "path", &self.name);
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            pax_record(&mut records, "linkpath", &self.link);
        }
        if self.size > MAX_OCTAL_SIZE {
            pax_record(&mut records, "size", &self.size.to_string());
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            out.write_all(&ustar(b'x', ("", "pax"), 0o644, size, self.epoch, ""))?;
            out.write_all(&records)?;
            write_padding(size, out)?;
        }
        let name = split.unwrap_or(("", cut(&self.name)));
        let size = if self.size > MAX_OCTAL_SIZE {
            0
        } else {
            self.size
        };
        let block = ustar(
            self.kind,
            name,
            self.mode,
            size,
            self.epoch,
            cut(&self.link),
        );
        out.write_all(&block)
    }
}

/// What fits into a name field of a header whose PAX record has the whole.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(100)]
}

/// Splits a name into ustar's prefix and name, if it fits there.
fn split_name(name: &str) -> Option<(&str, &str)> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some(("", name));
    }
    // The slash between the two is not kept; a directory's last one belongs to the name.
    let at = name
        .match_indices('/')
        .map(|(at, _)| at)
        .find(|at| name.len() - at - 1 <= 100)?;
    let (prefix, rest) = (&name[..at], &name[at + 1..]);
    (prefix.len() <= 155 && !prefix.is_empty() && !rest.is_empty()).then_some((prefix, rest))
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax_record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend(format!("{length} {key}={value}\n").into_bytes());
}

fn ustar(
    kind: u8,
    (prefix, name): (&str, &str),
    mode: u32,
    size: u64,
    epoch: u64,
    link: &str,
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{epoch:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_tree::Content;
    use crate::progress::Progress;
    use proptest::prelude::*;

    fn tree(files: &[(&str, &str, bool)]) -> FileTree {
        let mut tree = FileTree::default();
        for (path, bytes, executable) in files {
            let path = ImagePath::new(path).unwrap();
            tree.insert_file(path, Content::bytes(*bytes), *executable, &"test".into())
                .unwrap();
        }
        tree
    }

    fn task() -> Task {
        Progress::default().task("make", None)
    }

    fn dated(epoch: u64) -> Options {
        Options {
            epoch,
            ..Options::default()
        }
    }

    fn tar_of(tree: &FileTree) -> Vec<u8> {
        let mut out = Vec::new();
        write_tar(tree, 315_532_800, &Blind, &task(), &mut out).unwrap();
        out
    }

    fn listing(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        let line = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let header = entry.header();
            let link = entry.link_name().unwrap();
            format!(
                "{:?} {:o} {}:{} {} {}{} {text}",
                header.entry_type(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mtime().unwrap(),
                entry.path().unwrap().display(),
                link.map_or(String::new(), |l| format!(" -> {}", l.display())),
            )
        };
        archive.entries().unwrap().map(line).collect()
    }

    #[test]
    fn entries_are_plain_and_fixed() {
        let mut tree = tree(&[("a/run", "x", true), ("a/b/data", "yz", false)]);
        let link = ImagePath::new("a/link").unwrap();
        tree.insert(link, Node::Symlink("b/data".into()), &"test".into())
            .unwrap();
        insta::assert_snapshot!(listing(&tar_of(&tree)).join("\n"), @r"
        Directory 755 0:0 315532800 a/ 
        Directory 755 0:0 315532800 a/b/ 
        Regular 644 0:0 315532800 a/b/data yz
        Symlink 777 0:0 315532800 a/link -> b/data 
        Regular 755 0:0 315532800 a/run x
        ");
    }

    #[test]
    fn a_layer_is_one_member_with_both_digests_and_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let tree = tree(&[("a", "some text", false)]);
        let (layer, digest) = make(&store, &tree, dated(0), &task()).unwrap();
        assert_eq!(digest, tree.digest().unwrap());
        let bytes = store.read(&layer.digest).unwrap();
        let mut decoder = flate2::bufread::GzDecoder::new(&*bytes);
        let mut tar = Vec::new();
        decoder.read_to_end(&mut tar).unwrap();
        assert_eq!(Digest::of(&tar), layer.diff_id);
        assert_eq!(tar.len() as u64, layer.unpacked_size);
        assert!(
            decoder.into_inner().is_empty(),
            "one member, nothing behind it"
        );
        let key = memo_key(dated(0), ["key"]);
        remember(&store, &key, &layer).unwrap();
        assert_eq!(recall(&store, &key), Some(layer.clone()));
        assert_eq!(recall(&store, &memo_key(dated(1), ["key"])), None);
        std::fs::remove_file(store.path(&layer.digest)).unwrap();
        assert_eq!(
            recall(&store, &key),
            None,
            "an answer without its blob is none"
        );
    }

    #[test]
    fn bytes_are_golden() {
        // A change here changes the digest of every image: it must be a decision.
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(140));
        // Text and noise, longer than a window: what the compressor makes of it decides the digest too.
        let mut state = 1u32;
        let noise: String = (0..120_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b' ' + u8::try_from(state >> 26).unwrap())
            })
            .collect();
        let text = "def handler(event, context):\n    return event\n".repeat(3000);
        let mixed = noise.clone() + &text + &noise;
        let tree = tree(&[
            ("a/ü", "x", false),
            (&long, "y", true),
            ("mixed", &mixed, false),
        ]);
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let (layer, _) = make(&store, &tree, dated(315_532_800), &task()).unwrap();
        insta::assert_snapshot!(layer.diff_id.hex(), @"ce223adaa8d145c604e07df675b18526e28bc8061f225b955d691a8aa9f7e57c");
        insta::assert_snapshot!(layer.digest.hex(), @"3677cd229ac51d781617fca4fb3bbf5567aec59273c92f449c2d5ea9b5484249");
    }

    #[test]
    fn a_file_that_grows_meanwhile_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, "four").unwrap();
        let mut tree = FileTree::default();
        let path = ImagePath::new("f").unwrap();
        tree.insert_file(path, Content::File(file, 3), false, &"test".into())
            .unwrap();
        let error = write_tar(&tree, 0, &Blind, &task(), &mut Vec::new()).unwrap_err();
        insta::assert_snapshot!(error, @"/f changed while it was read");
    }

    proptest! {
        #[test]
        fn every_name_comes_back(names in prop::collection::btree_set("[a-zé]{1,90}(/[a-z]{1,110}){0,3}", 1..6)) {
            let mut tree = FileTree::default();
            for name in &names {
                let path = ImagePath::new(name).unwrap();
                // A name may be another's directory; that is not what this test is about.
                let _ = tree.insert_file(path, Content::bytes(name.as_str()), false, &"t".into());
            }
            let bytes = tar_of(&tree);
            let mut archive = tar::Archive::new(&*bytes);
            let names: Vec<String> = archive.entries().unwrap()
                .map(|e| e.unwrap().path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned())
                .collect();
            let expected: Vec<&str> = tree.iter().map(|(p, _)| p.as_str()).collect();
            prop_assert_eq!(names, expected);
        }
    }
}
