//! Any bytes as an archive: no member reaches beyond what the archive says of it.

#![no_main]

use std::io::Read as _;

use libfuzzer_sys::fuzz_target;

/// More is no news, and slow.
const MOST: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let file = lambimg_fuzz::file_of(bytes);
    let Ok(members) = lambimg::zip::open(&file) else {
        return;
    };
    for member in members {
        let mut contents = Vec::new();
        let read = member.open().take(MOST).read_to_end(&mut contents);
        assert!(read.is_err() || contents.len() as u64 == member.size.min(MOST));
    }
});
