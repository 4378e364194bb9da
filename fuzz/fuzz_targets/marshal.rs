//! Any bytes as a compiled module: its one form is its own one form.

#![no_main]

use lambimg::python::marshal::canonical;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, code)) = bytes.split_first() else {
        return;
    };
    let minor = 8 + first % 7;
    if let Ok(form) = canonical(code, minor) {
        assert_eq!(canonical(&form, minor).as_ref(), Ok(&form));
    }
});
