//! Any text as a lock, and what it chooses for a target.

#![no_main]

use lambimg::python::lock::{self, Lock};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(lock) = text.parse::<Lock>() {
        let _ = lock::select(&lock, lambimg_fuzz::target());
    }
});
