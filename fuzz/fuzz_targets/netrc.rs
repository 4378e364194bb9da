//! Any text as a netrc.

#![no_main]

use lambimg::python::netrc::Netrc;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let netrc = Netrc::parse(text);
    let _ = (netrc.machine("a.test").is_some(), netrc.for_all().is_some());
});
