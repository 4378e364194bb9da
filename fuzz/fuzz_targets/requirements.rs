//! Any text as a requirements file, which may be a lock.

#![no_main]

use lambimg::python::lock::hashed;
use lambimg::python::requirements::{self, Requirements};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A line may include another file, and some files of a machine never end.
    if ["dev", "proc", "sys"]
        .iter()
        .any(|name| text.contains(name))
    {
        return;
    }
    let requirements = Requirements::Lines {
        text: text.to_owned(),
        directory: lambimg_fuzz::directory().to_owned(),
    };
    let _ = requirements::read(&requirements, lambimg_fuzz::target());
    let _ = hashed::entries(&requirements, lambimg_fuzz::target());
});
