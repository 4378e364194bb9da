//! Any bytes as a program.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(facts) = lambimg::python::elf::facts(Cursor::new(bytes)) {
        let _ = facts.machine_name();
    }
});
