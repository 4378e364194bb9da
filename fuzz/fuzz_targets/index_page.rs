//! Any bytes as a page of a package index, in both of its forms.

#![no_main]

use lambimg::http::Url;
use lambimg::python::index::page;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let base = Url::parse("https://index.test/simple/demo/").expect("it is a URL");
    for kind in ["text/html", "application/vnd.pypi.simple.v1+json"] {
        let _ = page::read(bytes, kind, &base);
    }
});
