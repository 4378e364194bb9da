//! What the fuzz targets share: a target machine, readings for it, and a file for the bytes of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lambimg::python::lock::{self, Builds, Format, Request, Wanted};
use lambimg::python::{Glibc, Machine, PythonVersion, Target};
use tempfile::TempDir;

/// Python 3.12 on x86-64 with glibc 2.34, as on Amazon Linux 2023.
pub fn target() -> Target {
    let python = PythonVersion::new(12).expect("a release line");
    let glibc = Glibc {
        major: 2,
        minor: 34,
    };
    Target::new(python, Machine::X86_64, glibc)
}

/// A reading for the target.
pub fn request<'a>(wanted: &'a Wanted, pyproject: Option<&'a str>) -> Request<'a> {
    Request {
        target: target(),
        wanted,
        pyproject,
        member: Path::new(""),
    }
}

/// Reads a lock, and behind a NUL the project that it is of, and chooses.
pub fn lock(format: Format, text: &str) {
    let (text, pyproject) = match text.split_once('\0') {
        Some((text, pyproject)) => (text, Some(pyproject)),
        None => (text, None),
    };
    let some = Wanted {
        extras: ["a".to_owned(), "fast".to_owned()].into(),
        groups: ["dev".to_owned()].into(),
    };
    let builds = Builds {
        all: true,
        ..Builds::default()
    };
    for wanted in [&Wanted::default(), &some] {
        if let Ok(entries) = lock::entries(format, text, &request(wanted, pyproject)) {
            let _ = lock::choose(&entries, target(), &builds);
        }
    }
}

/// An empty directory of this process.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| tempfile::tempdir().expect("a temporary directory"))
        .path()
}

/// A file that holds these bytes until the next run.
pub fn file_of(bytes: &[u8]) -> PathBuf {
    let path = directory().join("archive");
    fs::write(&path, bytes).expect("a temporary file");
    path
}

/// The bytes as an archive: as they are where they begin as one, else its members one by one, so that
/// names, modes and contents are tried behind checksums that are right. A member is the length of its
/// name, that of its contents, a byte for its mode, and both.
pub fn archive_of(mut bytes: &[u8]) -> Vec<u8> {
    if bytes.starts_with(b"PK") {
        return bytes.to_vec();
    }
    let mut archive = Archive::default();
    while let [name, content, mode, rest @ ..] = bytes {
        let (name, content) = (usize::from(*name), usize::from(*content));
        if rest.len() < name + content {
            break;
        }
        let (name, rest) = rest.split_at(name);
        let (content, rest) = rest.split_at(content);
        let attributes = u32::from(*mode) << 24 | 0o644 << 16;
        archive.add(name, content, content, attributes);
        bytes = rest;
    }
    archive.finish()
}

/// An archive of one member that says to be `contents`, and is `stream` deflated.
pub fn archive_with(stream: &[u8], contents: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.add(b"m", contents, stream, 0o644 << 16);
    archive.finish()
}

/// An archive of members that are stored, or deflated where their bytes are not their contents.
#[derive(Default)]
struct Archive {
    members: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Archive {
    fn add(&mut self, name: &[u8], content: &[u8], bytes: &[u8], attributes: u32) {
        let size = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
        let method = if content == bytes { 0 } else { 8 };
        let mut common = vec![20, 0, 0, 8, method, 0, 0, 0, 0x21, 0];
        common.extend(crc32fast::hash(content).to_le_bytes());
        common.extend([size(bytes), size(content)].concat());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        self.directory.extend(b"PK\x01\x02\x14\x03");
        self.directory.extend(&common);
        self.directory.extend([0; 6]);
        self.directory.extend(attributes.to_le_bytes());
        let offset = self.members.len() as u32;
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name);
        self.members.extend(b"PK\x03\x04");
        self.members.extend(&common);
        self.members.extend(name);
        self.members.extend(bytes);
        self.count += 1;
    }

    fn finish(self) -> Vec<u8> {
        let count = self.count.to_le_bytes();
        let (start, size) = (self.members.len() as u32, self.directory.len() as u32);
        let mut bytes = [self.members, self.directory].concat();
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([count, count].concat());
        bytes.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
        bytes.extend([0, 0]);
        bytes
    }
}
