//! Any text as a wheel's file name, and whether it fits.

#![no_main]

use lambimg::python::WheelFilename;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = WheelFilename::parse(text) {
        let target = lambimg_fuzz::target();
        let _ = target.fit(&name).map_err(|misfit| misfit.to_string());
        let _ = name.promised_glibc(target.machine);
    }
});
