//! Any text as a uv.lock beside a project, and what it chooses for a target.

#![no_main]

use lambimg::python::lock::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| lambimg_fuzz::lock(Format::Uv, text));
