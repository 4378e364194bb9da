//! Any bytes as a layer: it is told as it is, and stacks.

#![no_main]

use libfuzzer_sys::fuzz_target;

use lambimg::digest::Digest;
use lambimg::lambda::check::contents::Contents;
use lambimg::oci::Descriptor;
use lambimg::oci::flatten::{self, Tree};

fuzz_target!(|bytes: &[u8]| {
    let contents = Contents::default();
    let stated = Descriptor::of("layer", bytes);
    let layer = flatten::read(&stated, bytes, |entry| contents.reader(entry));
    let layers = [layer.expect("bytes can be read")];
    assert_eq!(layers[0].digest, Digest::of(bytes));
    assert_eq!(layers[0].size, bytes.len() as u64);
    assert!(layers[0].diff_id.is_none() || layers[0].damage.is_none());
    let tree = Tree::new(&layers);
    for path in tree.paths() {
        let _ = tree.resolve(path, &layers);
    }
});
