//! Wheels made in code, among them ones that no honest tool would make.

use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine as _;
use sha2::Digest as _;

/// A wheel that is being made.
#[derive(Clone)]
pub(crate) struct Wheel {
    name: String,
    version: String,
    tag: String,
    requirements: Vec<String>,
    extras: Vec<String>,
    fields: Vec<String>,
    requires_python: Option<String>,
    entry_points: Vec<String>,
    members: Vec<Member>,
    record: fn(String) -> Option<String>,
    archive: fn(Vec<u8>) -> Vec<u8>,
}

#[derive(Clone)]
struct Member {
    path: String,
    content: Vec<u8>,
    mode: u32,
    /// What the archive holds and how large it says the contents are, when they are deflated.
    packed: Option<(Vec<u8>, u32)>,
}

impl Member {
    fn stored(path: &str, content: Vec<u8>, mode: u32) -> Member {
        Member {
            path: path.to_owned(),
            content,
            mode,
            packed: None,
        }
    }
}

impl Wheel {
    /// A pure wheel with one module, named as the project is, that holds the project's version.
    pub(crate) fn pure(name: &str, version: &str) -> Wheel {
        let module = format!("VERSION = {version:?}\n");
        Wheel::tagged(name, version, "py3-none-any").member(&format!("{name}/__init__.py"), module)
    }

    /// An empty wheel for a tag such as `cp312-cp312-manylinux_2_17_x86_64`.
    pub(crate) fn tagged(name: &str, version: &str, tag: &str) -> Wheel {
        Wheel {
            name: name.to_owned(),
            version: version.to_owned(),
            tag: tag.to_owned(),
            requirements: Vec::new(),
            extras: Vec::new(),
            fields: Vec::new(),
            requires_python: None,
            entry_points: Vec::new(),
            members: Vec::new(),
            record: Some,
            archive: |bytes| bytes,
        }
    }

    /// A file with any name at all, hostile ones too.
    pub(crate) fn member(self, path: &str, content: impl Into<Vec<u8>>) -> Wheel {
        self.member_with_mode(path, content, 0o100_644)
    }

    pub(crate) fn member_with_mode(
        mut self,
        path: &str,
        content: impl Into<Vec<u8>>,
        mode: u32,
    ) -> Wheel {
        self.members
            .push(Member::stored(path, content.into(), mode));
        self
    }

    /// A deflated file of which the archive says that it has `declared` bytes.
    pub(crate) fn deflated(mut self, path: &str, content: Vec<u8>, declared: u32) -> Wheel {
        let level = flate2::Compression::best();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(&content).expect("memory can be written");
        let packed = encoder.finish().expect("memory can be written");
        let mut member = Member::stored(path, content, 0o100_644);
        member.packed = Some((packed, declared));
        self.members.push(member);
        self
    }

    /// Changes the true RECORD into another, or none.
    pub(crate) fn record(mut self, change: fn(String) -> Option<String>) -> Wheel {
        self.record = change;
        self
    }

    /// Changes the bytes of the archive.
    pub(crate) fn archive(mut self, change: fn(Vec<u8>) -> Vec<u8>) -> Wheel {
        self.archive = change;
        self
    }

    /// A requirement as `Requires-Dist` says it.
    pub(crate) fn requires(mut self, requirement: &str) -> Wheel {
        self.requirements.push(requirement.to_owned());
        self
    }

    /// An extra, which only requirements with a marker for it belong to.
    pub(crate) fn provides_extra(mut self, name: &str) -> Wheel {
        self.extras.push(name.to_owned());
        self
    }

    /// Any other field of its metadata.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Wheel {
        self.fields.push(format!("{name}: {value}"));
        self
    }

    pub(crate) fn requires_python(mut self, specifiers: &str) -> Wheel {
        self.requires_python = Some(specifiers.to_owned());
        self
    }

    /// A console script such as `tool = package.module:function`.
    pub(crate) fn script(mut self, line: &str) -> Wheel {
        self.entry_points.push(line.to_owned());
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{}-{}-{}.whl", self.name, self.version, self.tag)
    }

    /// What an index may serve beside the wheel.
    pub(crate) fn metadata(&self) -> String {
        let mut text = format!(
            "Metadata-Version: 2.1\nName: {}\nVersion: {}\n",
            self.name, self.version
        );
        if let Some(specifiers) = &self.requires_python {
            let _ = writeln!(text, "Requires-Python: {specifiers}");
        }
        for extra in &self.extras {
            let _ = writeln!(text, "Provides-Extra: {extra}");
        }
        for requirement in &self.requirements {
            let _ = writeln!(text, "Requires-Dist: {requirement}");
        }
        for field in &self.fields {
            let _ = writeln!(text, "{field}");
        }
        text
    }

    pub(crate) fn requires_python_specifiers(&self) -> Option<&str> {
        self.requires_python.as_deref()
    }

    /// The archive, with a RECORD that is right for all of its files.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let information = format!("{}-{}.dist-info", self.name, self.version);
        let pure = self.tag.ends_with("-none-any");
        let wheel = format!(
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\nTag: {}\n",
            self.tag
        );
        let mut members = self.members.clone();
        let mut add = |name: &str, text: String| {
            let path = format!("{information}/{name}");
            members.push(Member::stored(&path, text.into_bytes(), 0o100_644));
        };
        add("METADATA", self.metadata());
        add("WHEEL", wheel);
        if !self.entry_points.is_empty() {
            add(
                "entry_points.txt",
                format!("[console_scripts]\n{}\n", self.entry_points.join("\n")),
            );
        }
        let mut record = String::new();
        for member in &members {
            let content = &member.content;
            let hash = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .encode(sha2::Sha256::digest(content));
            let _ = writeln!(record, "{},sha256={hash},{}", member.path, content.len());
        }
        let _ = writeln!(record, "{information}/RECORD,,");
        if let Some(record) = (self.record)(record) {
            let path = format!("{information}/RECORD");
            members.push(Member::stored(&path, record.into_bytes(), 0o100_644));
        }
        (self.archive)(zip(&members))
    }
}

/// A zip archive, each member with the mode that Unix would give it.
fn zip(members: &[Member]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let (path, content) = (&member.path, &member.content);
        let plain = (content.clone(), length(content.len()));
        let (kept, size) = member.packed.as_ref().unwrap_or(&plain);
        let method = if member.packed.is_some() { 8 } else { 0 };
        let offset = length(archive.len());
        // Version 2.0, names in UTF-8, the first of January 1980.
        let mut common = Vec::new();
        common.extend([20, 0, 0, 8, method, 0, 0, 0, 0x21, 0]);
        common.extend(crc32fast::hash(content).to_le_bytes());
        common.extend(length(kept.len()).to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend(
            u16::try_from(path.len())
                .expect("a short name")
                .to_le_bytes(),
        );
        common.extend([0, 0]);
        archive.extend(*b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(path.as_bytes());
        archive.extend(kept);
        // Made by Unix; no comment, first disk, no internal attributes.
        directory.extend(*b"PK\x01\x02\x14\x03");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((member.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(path.as_bytes());
    }
    let count = u16::try_from(members.len())
        .expect("few members")
        .to_le_bytes();
    let start = length(archive.len());
    let size = length(directory.len());
    archive.extend(directory);
    archive.extend(*b"PK\x05\x06\0\0\0\0");
    archive.extend([count, count].concat());
    archive.extend(size.to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a small archive")
}

/// CPython's own reader finds what was put in, and its checksums right.
#[test]
fn is_a_zip_archive() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("some.whl");
    let wheel = Wheel::pure("some", "1.0")
        .script("some = some:main")
        .member("../leaves.py", "");
    std::fs::write(&path, wheel.bytes()).unwrap();
    let ask = "import sys, zipfile; archive = zipfile.ZipFile(sys.argv[1]); print(archive.testzip(), *archive.namelist())";
    let mut python = std::process::Command::new(crate::support::python("3.12"));
    let said = crate::support::process::run(python.args(["-c", ask]).arg(&path));
    assert_eq!(
        said,
        "None some/__init__.py ../leaves.py some-1.0.dist-info/METADATA some-1.0.dist-info/WHEEL \
         some-1.0.dist-info/entry_points.txt some-1.0.dist-info/RECORD\n"
    );
}
