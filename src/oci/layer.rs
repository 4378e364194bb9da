//! A file tree becomes a layer: one deterministic tar in one gzip member.
//!
//! What stands in the tar, and in which order, is said here; `ustar` lays headers out, `splice` makes the
//! gzip member. Lambda's unpacker wants each directory before what is in it and knows no hard links; all
//! directories come first, and a [`FileTree`] cannot say a hard link.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::blob_store::{self, BlobStore, BlobWriter, MemoKey};
use crate::digest::{Digest, Hasher};
use crate::file_tree::{Content, Entry, FileTree, ImagePath, Node, TreeHasher};
use crate::oci::splice::{self, Stream};
use crate::oci::ustar;
use crate::progress::Task;

/// Names the order of entries, what is spliced, the compressor and its level; a change of any changes this.
pub const FORMAT: &str = "layer 2: ustar; directories, files below 16 KiB, others; segments of 256 KiB; zlib-rs 0.6.8 level 4";
/// Smaller files, in bytes, are compressed together: they have more in common than their own streams show.
const LARGE: u64 = 16 << 10;

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Number of compressed bytes.
    pub size: u64,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
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
    let size = tree.iter().filter_map(|(_, entry)| match &entry.node {
        Node::File { content, .. } => Some(content.size()),
        Node::Directory | Node::Symlink(_) => None,
    });
    let expected = size.fold(0, u64::saturating_add);
    let out = store.writer()?;
    let made = splice::gzip(out, expected, task, |stream| {
        write_tar(tree, options, witness, stream)
    });
    let (finished, produced) = made.map_err(Error::Write)?;
    produced?;
    Ok(Unnamed {
        blob: finished.out,
        diff_id: finished.diff_id,
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
    make_expecting(store, tree, options, &BTreeMap::new(), task)
}

/// As [`make`], of files whose contents must be those that are `expected`, because others follow from them.
///
/// # Errors
/// See [`Error`], with [`Error::Changed`] for a file that is another one; no part of a layer is left then.
pub fn make_expecting(
    store: &BlobStore,
    tree: &FileTree,
    options: Options,
    expected: &BTreeMap<ImagePath, Digest>,
    task: &Task,
) -> Result<(Layer, Digest), Error> {
    let seen = Contents::default();
    let layer = write(store, tree, options, &seen, task)?;
    let digests = seen.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut others = expected.iter();
    if let Some((path, _)) = others.find(|&(path, digest)| digests.get(path) != Some(digest)) {
        return Err(Error::Changed { path: path.clone() });
    }
    Ok((layer.commit()?, digest_of(tree, &digests)))
}

fn digest_of(tree: &FileTree, digests: &BTreeMap<ImagePath, Digest>) -> Digest {
    let mut hasher = TreeHasher::default();
    for (path, entry) in tree.iter() {
        hasher.entry(path, &entry.node, digests.get(path).copied());
    }
    hasher.finish()
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

/// Directories, then small files and links, then the rest, each in the order of their paths: what is small
/// compresses best side by side, and every file has its directories before it.
fn write_tar<'l>(
    tree: &FileTree,
    options: Options,
    witness: &'l dyn Witness,
    stream: &mut Stream<'l>,
) -> Result<(), Error> {
    for wanted in [Class::Directory, Class::Small, Class::Large] {
        let entries = tree.iter().filter(|(_, entry)| Class::of(entry) == wanted);
        for (path, entry) in entries {
            let written = write_entry(path, entry, options, witness, stream);
            written.map_err(|error| match error {
                Fault::Changed => Error::Changed { path: path.clone() },
                Fault::Stream(splice::Error::Read(source)) => Error::Read {
                    path: path.clone(),
                    source,
                },
                Fault::Stream(splice::Error::Stopped) => stopped(),
            })?;
        }
    }
    // Two blocks of zeros end an archive.
    let ended = stream.bytes(&[0; 2 * ustar::BLOCK]);
    ended.map_err(|_| stopped())
}

/// Never seen: why writing failed is known where it did, and told instead, as is why nobody waits.
fn stopped() -> Error {
    Error::Write(io::Error::other("stopped"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Directory,
    Small,
    Large,
}

impl Class {
    fn of(entry: &Entry) -> Self {
        match &entry.node {
            Node::Directory => Self::Directory,
            Node::File { content, .. } if content.size() >= LARGE => Self::Large,
            Node::File { .. } | Node::Symlink(_) => Self::Small,
        }
    }
}

/// What an entry can fail at.
enum Fault {
    Stream(splice::Error),
    Changed,
}

impl From<splice::Error> for Fault {
    fn from(error: splice::Error) -> Self {
        Self::Stream(error)
    }
}

fn write_entry<'l>(
    path: &ImagePath,
    entry: &Entry,
    options: Options,
    witness: &'l dyn Witness,
    stream: &mut Stream<'l>,
) -> Result<(), Fault> {
    stream.bytes(&ustar::header(path, &entry.node, options.epoch))?;
    let Node::File { content, .. } = &entry.node else {
        return Ok(());
    };
    let look = witness.look(path, entry);
    let is_seen = look.is_some();
    if let Some(look) = look {
        stream.begin(look);
    }
    let splice = options.packing == Packing::Spliced && Class::of(entry) == Class::Large;
    match content {
        Content::Bytes(bytes) => stream.bytes(bytes)?,
        Content::Member(member) if splice => stream.splice(member)?,
        Content::Member(member) => stream.member(member)?,
        Content::File(_, size) => {
            let file = content.open().map_err(splice::Error::Read)?;
            if stream.reader(file, *size)? != *size {
                return Err(Fault::Changed);
            }
        }
    }
    if is_seen {
        stream.end();
    }
    stream.bytes(&[0; ustar::BLOCK][..ustar::padding(content.size())])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::zip::{self, testing::Builder};
    use proptest::prelude::*;
    use std::io::Read as _;

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

    fn unzipped(store: &BlobStore, layer: &Layer) -> Vec<u8> {
        let bytes = store.read(&layer.digest).unwrap();
        let mut decoder = flate2::bufread::GzDecoder::new(&*bytes);
        let mut tar = Vec::new();
        decoder.read_to_end(&mut tar).unwrap();
        let rest = decoder.into_inner();
        assert!(rest.is_empty(), "one member, nothing behind it");
        tar
    }

    fn tar_of(tree: &FileTree) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let (layer, _) = make(&store, tree, dated(315_532_800), &task()).unwrap();
        unzipped(&store, &layer)
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
    fn what_others_follow_from_must_be_what_they_followed_from() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let mut tree = FileTree::default();
        let path = ImagePath::new("app.py").unwrap();
        let content = Content::bytes("x = 1\n");
        tree.insert_file(path.clone(), content, false, &"function".into())
            .unwrap();
        let make = |text: &str| {
            let expected = BTreeMap::from([(path.clone(), Digest::of(text))]);
            let made = make_expecting(&store, &tree, Options::default(), &expected, &task());
            made.map(|(_, digest)| digest == tree.digest_with(&expected).unwrap())
        };
        assert!(make("x = 1\n").unwrap());
        let error = make("x = 2\n").unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
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
        let tar = unzipped(&store, &layer);
        assert_eq!(Digest::of(&tar), layer.diff_id);
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
        // Longer than two segments, and members of an archive that are spliced.
        let long_text = text.repeat(5);
        let mut builder = Builder::default();
        builder.add("deflated", "deflated", mixed.as_bytes(), true);
        builder.add("stored", "stored", mixed.as_bytes(), false);
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("archive");
        std::fs::write(&archive, builder.finish()).unwrap();
        let mut tree = tree(&[
            ("long", &long_text, false),
            ("a/ü", "x", false),
            (&long, "y", true),
            ("mixed", &mixed, false),
        ]);
        for member in zip::open(&archive).unwrap() {
            let path = ImagePath::new(&member.name).unwrap();
            tree.insert_file(path, Content::Member(member), false, &"zip".into())
                .unwrap();
        }
        let store = BlobStore::open(directory.path().join("store")).unwrap();
        let (layer, _) = make(&store, &tree, dated(315_532_800), &task()).unwrap();
        insta::assert_snapshot!(layer.diff_id.hex(), @"493660368747b004788c091e48c7a1deb5fd12a4341a2f8a72a323b929ea8ef0");
        insta::assert_snapshot!(layer.digest.hex(), @"2b790227a4b05d594cce151c7f73d933713c120ec4c035bd90c4277b2863bb9a");
        // The other packing is the oracle: the same tar.
        let options = Options {
            packing: Packing::Recompressed,
            ..dated(315_532_800)
        };
        let (anew, _) = make(&store, &tree, options, &task()).unwrap();
        assert_eq!(anew.diff_id, layer.diff_id);
        insta::assert_snapshot!(anew.digest.hex(), @"9bcc06f988236d86bb9841719ee1812549ea0733eabbefa839d2d9f3389e2959");
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
        let store = BlobStore::open(directory.path().join("store")).unwrap();
        let error = make(&store, &tree, dated(0), &task()).unwrap_err();
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
            let mut names: Vec<String> = archive.entries().unwrap()
                .map(|e| e.unwrap().path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned())
                .collect();
            names.sort();
            let expected: Vec<&str> = tree.iter().map(|(p, _)| p.as_str()).collect();
            prop_assert_eq!(names, expected);
        }
    }
}
