//! Any bytes or members as a wheel: examined, held against a target and placed; whatever is taken stays below the
//! root and can be read.

#![no_main]

use ignore::gitignore::Gitignore;
use lambimg::file_tree::ImagePath;
use lambimg::python::WheelFilename;
use lambimg::python::examination;
use lambimg::python::wheel::{self, Archive, Placement};
use lambimg::zip;
use libfuzzer_sys::fuzz_target;

const NAME: &str = "demo-1.0-cp312-cp312-manylinux_2_17_x86_64.whl";
/// More is no news, and slow.
const MOST: u64 = 16 << 20;

fuzz_target!(|bytes: &[u8]| {
    let file = lambimg_fuzz::file_of(&lambimg_fuzz::archive_of(bytes));
    let Ok(members) = zip::open(&file) else {
        return;
    };
    if members
        .iter()
        .map(|member| member.size.min(MOST))
        .sum::<u64>()
        >= MOST
    {
        return;
    }
    let scratch = file.parent().expect("a file has a directory");
    let Ok(archive) = Archive::open(&file, "demo", "1.0") else {
        return;
    };
    let root = ImagePath::new("var/task").expect("a path");
    let placement = Placement {
        root: &root,
        interpreter: "/var/lang/bin/python3.12",
        exclude: &Gitignore::empty(),
    };
    let placed = wheel::file_tree(&archive, &placement);
    let examined = examination::examine(archive, scratch);
    if let Ok(found) = &examined {
        let name = WheelFilename::parse(NAME).expect("a wheel's name");
        let _ = found.fit(&name, lambimg_fuzz::target(), |_| true);
    }
    let Ok(placed) = placed else {
        return;
    };
    for (path, _) in placed.tree.iter() {
        let below = path.as_str().starts_with("var");
        assert!(below && !path.as_str().split('/').any(|part| part == ".."));
    }
    // What was examined whole can be read whole.
    assert!(examined.is_err() || placed.tree.digest().is_ok());
});
