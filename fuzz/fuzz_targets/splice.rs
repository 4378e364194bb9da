//! Any bytes as a member's deflate stream, spliced and compressed anew: both ways refuse it, or both give one tar
//! that holds what the stream says.

#![no_main]

use std::io::Read as _;

use flate2::{Decompress, FlushDecompress, Status};
use lambimg::blob_store::BlobStore;
use lambimg::digest::Digest;
use lambimg::file_tree::{Content, FileTree, ImagePath};
use lambimg::oci::layer::{self, Blind, Options, Packing};
use lambimg::progress::Progress;
use lambimg::zip;
use libfuzzer_sys::fuzz_target;

/// As long as a member has to be to be spliced.
const LARGE: usize = 16 << 10;
/// More is no news, and slow.
const MOST: usize = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    // Stored zeros make it large; the rest is the fuzzer's.
    let length = u16::try_from(LARGE).expect("a short block");
    let mut stream = vec![0];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend([0; LARGE]);
    stream.extend(bytes);
    let mut contents = vec![0; MOST];
    let mut inflate = Decompress::new(false);
    let status = inflate.decompress(&stream, &mut contents, FlushDecompress::Finish);
    contents.truncate(usize::try_from(inflate.total_out()).expect("it fits"));
    if contents.len() == MOST {
        return;
    }
    let is_whole = matches!(status, Ok(Status::StreamEnd)) && inflate.total_in() == stream.len() as u64;

    let archive = lambimg_fuzz::file_of(&lambimg_fuzz::archive_with(&stream, &contents));
    let member = zip::open(&archive).expect("an archive").remove(0);
    let mut tree = FileTree::default();
    let path = ImagePath::new("m").expect("a path");
    tree.insert_file(path, Content::Member(member), false, &"fuzz".into())
        .expect("an empty tree");
    let store = BlobStore::open(lambimg_fuzz::directory().join("store")).expect("a store");
    let task = Progress::default().task("make", None);
    let made = [Packing::Spliced, Packing::Recompressed].map(|packing| {
        let options = Options { epoch: 0, packing };
        let layer = layer::write(&store, &tree, options, &Blind, &task);
        layer.map(|layer| layer.commit().expect("room on the disk"))
    });
    let [Ok(spliced), Ok(anew)] = made else {
        assert!(!is_whole && made.iter().all(Result::is_err));
        return;
    };
    assert!(is_whole);
    assert_eq!(spliced.diff_id, anew.diff_id);
    for layer in [&spliced, &anew] {
        let gzip = store.read(&layer.digest).expect("a blob");
        let mut decoder = flate2::bufread::GzDecoder::new(&*gzip);
        let mut tar = Vec::new();
        decoder.read_to_end(&mut tar).expect("a gzip member");
        assert_eq!(Digest::of(&tar), layer.diff_id);
        assert_eq!(tar[512..512 + contents.len()], contents);
        store.discard(&layer.digest);
    }
});
