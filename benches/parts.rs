//! Inner parts, each alone: hashing, inflating, listing an archive, and making layers.
//!
//! The input is the same on every machine: text and noise, half of each, from a generator with a fixed seed.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot run has nothing to tell"
)]

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::BytesCount;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use lambimg::blob_store::BlobStore;
use lambimg::digest::Digest;
use lambimg::file_tree::{Content, FileTree, ImagePath};
use lambimg::oci::layer::{self, Blind, Options, Packing};
use lambimg::progress::Progress;
use lambimg::zip;
use tempfile::TempDir;

const MEMBERS: u32 = 64;
const MEMBER_SIZE: usize = 512 << 10;

/// An archive of a wheel's kind, in a directory that goes with the process.
struct Archive {
    _directory: TempDir,
    path: PathBuf,
}

static ARCHIVE: LazyLock<Archive> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("members.zip");
    std::fs::write(&path, archive()).unwrap();
    Archive {
        _directory: directory,
        path,
    }
});

fn main() {
    divan::main();
}

#[divan::bench]
fn sha256(bencher: Bencher<'_, '_>) {
    let bytes = member(1).repeat(16);
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .bench(|| Digest::of(&bytes));
}

#[divan::bench]
fn list_archive(bencher: Bencher<'_, '_>) {
    let path = &ARCHIVE.path;
    bencher.bench(|| zip::open(path).unwrap().len());
}

/// Inflated, with size and CRC-32 checked.
#[divan::bench]
fn read_archive(bencher: Bencher<'_, '_>) {
    let members = zip::open(&ARCHIVE.path).unwrap();
    bencher
        .counter(BytesCount::new(MEMBERS as usize * MEMBER_SIZE))
        .bench(|| {
            for member in &members {
                io::copy(&mut member.open(), &mut io::sink()).unwrap();
            }
        });
}

#[divan::bench(args = [Packing::Spliced, Packing::Recompressed], sample_count = 10)]
fn layer_of_archive(bencher: Bencher<'_, '_>, packing: Packing) {
    let mut tree = FileTree::default();
    for member in zip::open(&ARCHIVE.path).unwrap() {
        let path = ImagePath::new(&member.name).unwrap();
        tree.insert_file(path, Content::Member(member), false, &"bench".into())
            .unwrap();
    }
    make_layer(bencher, &tree, packing);
}

#[divan::bench(sample_count = 10)]
fn layer_of_bytes(bencher: Bencher<'_, '_>) {
    let mut tree = FileTree::default();
    for number in 0..MEMBERS {
        let path = ImagePath::new(&format!("module{number}.py")).unwrap();
        let content = Content::bytes(member(number));
        tree.insert_file(path, content, false, &"bench".into())
            .unwrap();
    }
    make_layer(bencher, &tree, Packing::default());
}

fn make_layer(bencher: Bencher<'_, '_>, tree: &FileTree, packing: Packing) {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let options = Options { epoch: 0, packing };
    let task = Progress::default().task("bench", None);
    bencher
        .counter(BytesCount::new(MEMBERS as usize * MEMBER_SIZE))
        .bench(|| {
            let layer = layer::write(&store, tree, options, &Blind, &task).unwrap();
            layer.commit().unwrap()
        });
}

/// Half noise, half text; another for each number.
fn member(number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let mut bytes = Vec::with_capacity(MEMBER_SIZE + 64);
    while bytes.len() < MEMBER_SIZE / 2 {
        bytes.extend(noise().to_le_bytes());
    }
    while bytes.len() < MEMBER_SIZE {
        let name = noise() % 1000;
        writeln!(
            bytes,
            "def function_{name}(value):\n    return value * {name}"
        )
        .unwrap();
    }
    bytes.truncate(MEMBER_SIZE);
    bytes
}

/// A zip archive of all members, deflated; no crate of ours writes one.
fn archive() -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for number in 0..MEMBERS {
        let bytes = member(number);
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(&bytes).unwrap();
        let deflated = encoder.finish().unwrap();
        let name = format!("module{number}.py");
        let lengths = [deflated.len(), bytes.len()].map(|length| u32::try_from(length).unwrap());
        let mut common = Vec::new();
        common.extend([20, 0, 0, 0, 8, 0, 0, 0, 0x21, 0]);
        common.extend(crc32fast::hash(&bytes).to_le_bytes());
        common.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
        common.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        common.extend([0, 0]);
        let offset = u32::try_from(out.len()).unwrap();
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(deflated);
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(MEMBERS).unwrap().to_le_bytes();
    let sizes = [directory.len(), out.len()].map(|size| u32::try_from(size).unwrap());
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count, count].concat());
    out.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
    out.extend([0, 0]);
    out
}
