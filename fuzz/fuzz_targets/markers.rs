//! Any text as an environment marker.

#![no_main]

use lambimg::python::markers::Markers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let markers = Markers::new(lambimg_fuzz::target()).with(["extra"], ["group"]);
    let _ = markers.hold(text);
});
