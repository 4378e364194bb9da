//! What the tests stand on: real processes (registry, emulator, skopeo, umoci), things made in code
//! (base images, wheels, a package index), and a project with the command under test.
//!
//! Fakes live at the wire. Nothing here uses lambimg's library, so that a mistake in it is not
//! repeated by its tests; only its validator is asked too (`image`), about bytes read without it.

pub(crate) mod archive;
pub(crate) mod aws;
pub(crate) mod base;
pub(crate) mod bent;
pub(crate) mod browser;
pub(crate) mod chaos;
pub(crate) mod cpython;
pub(crate) mod ecr;
pub(crate) mod elf;
pub(crate) mod emulator;
pub(crate) mod forge;
pub(crate) mod functions;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod index;
pub(crate) mod layout;
pub(crate) mod process;
pub(crate) mod project;
pub(crate) mod registry;
pub(crate) mod server;
pub(crate) mod tokens;
pub(crate) mod wheel;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use sha2::Digest as _;

/// Where `tests/tools.py` puts the programs that it takes out of wheels.
pub(crate) fn tools() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("cargo's tmp is below target");
    target.join("test-tools")
}

/// A program made by `tests/tools.py`.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = tools().join(name);
    assert!(
        path.exists(),
        "{name} is missing: run python3 tests/tools.py first"
    );
    path
}

/// A program of one of Debian's packages.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("PATH is set");
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not on PATH: apt-get install {package}"))
}

/// The directory of each CPython on this machine, by minor version.
pub(crate) fn python_directories() -> &'static BTreeMap<String, PathBuf> {
    static FOUND: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let list = fs::read(tool("pythons.json")).expect("tests/tools.py lists the CPythons");
        serde_json::from_slice(&list).expect("the list of CPythons is JSON")
    })
}

/// The interpreter of a minor version.
pub(crate) fn python(version: &str) -> PathBuf {
    let directory = python_directories().get(version);
    let directory =
        directory.unwrap_or_else(|| panic!("no CPython {version}: run python3 tests/tools.py"));
    directory.join(format!("python{version}"))
}

/// The examples that the README shows.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

/// This machine's architecture as image configurations name it.
pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// Whether the tests may do what only root may, without a user namespace of their own.
pub(crate) fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0
    })
}

/// `sha256:…` of the bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&sha2::Sha256::digest(bytes)))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
