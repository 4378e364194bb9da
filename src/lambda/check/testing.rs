//! Images for the rules' tests: layers of plain tar and gzip, read by the real reader.

use std::ops::Range;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::lambda::check::contents::Contents;
use crate::lambda::check::subject::{Document, Documents, Subject};
use crate::lambda::check::{Finding, check};
use crate::oci::flatten;
use crate::oci::{Descriptor, Family};
use crate::python::elf::testing::elf;

/// An image under way.
pub(super) struct Forge {
    layers: Vec<tar::Builder<Vec<u8>>>,
    /// The config's `config` object.
    pub(super) run: Value,
    /// The config around it, and the manifest: merged over what is made.
    pub(super) config: Value,
    pub(super) manifest: Value,
    pub(super) wanted: Option<&'static str>,
    pub(super) today: &'static str,
    /// How the files are looked at.
    pub(super) contents: Contents,
}

impl Forge {
    /// An image of one empty layer.
    pub(super) fn new() -> Self {
        Self {
            layers: vec![tar::Builder::new(Vec::new())],
            run: json!({}),
            config: json!({"os": "linux", "architecture": "amd64"}),
            manifest: json!({}),
            wanted: None,
            today: "2026-11-23",
            contents: Contents::default(),
        }
    }

    /// A function on a base as AWS's are, of programs that are little more than their headers; further files go
    /// into the function's layer, the second.
    pub(super) fn sound() -> Self {
        let program = elf(62, &["GLIBC_2.17"]);
        let mut image = Self::new();
        for directory in [
            "etc",
            "opt",
            "tmp",
            "usr",
            "usr/bin",
            "var",
            "var/lang",
            "var/lang/bin",
        ] {
            image = image.dir(directory);
        }
        let mut image = image
            .link("bin", "usr/bin")
            .file(
                "etc/os-release",
                "NAME=\"Amazon Linux\"\nID=\"amzn\"\nVERSION_ID=\"2023\"\n",
            )
            .program("lambda-entrypoint.sh", "#!/bin/sh\n")
            .program("usr/bin/env", &program)
            .program("usr/bin/sh", &program)
            .program("var/lang/bin/python3.12", &program)
            .link("var/lang/bin/python3", "python3.12")
            .dir("var/runtime")
            .program("var/runtime/bootstrap", "#!/bin/sh\n")
            .layer()
            .dir("var")
            .dir("var/task")
            .file(
                "var/task/app.py",
                "def handler(event, context):\n    return event\n",
            );
        image.run = json!({
            "Cmd": ["app.handler"],
            "Entrypoint": ["/lambda-entrypoint.sh"],
            "Env": [
                "LANG=en_US.UTF-8",
                "TZ=:/etc/localtime",
                "PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
                "LAMBDA_TASK_ROOT=/var/task",
                "LAMBDA_RUNTIME_DIR=/var/runtime",
            ],
            "WorkingDir": "/var/task",
        });
        image
    }

    /// Further files go into a new layer.
    pub(super) fn layer(mut self) -> Self {
        self.layers.push(tar::Builder::new(Vec::new()));
        self
    }

    /// A directory of mode 0755; its parents are not made.
    pub(super) fn dir(self, path: &str) -> Self {
        self.entry(path, tar::EntryType::Directory, 0o755, b"", None)
    }

    /// A file of mode 0644.
    pub(super) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, tar::EntryType::Regular, 0o644, content.as_ref(), None)
    }

    /// A file of mode 0755.
    pub(super) fn program(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, tar::EntryType::Regular, 0o755, content.as_ref(), None)
    }

    /// A symbolic link.
    pub(super) fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, 0o777, b"", Some(target))
    }

    /// Any entry, its name as given.
    pub(super) fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        content: &[u8],
        target: Option<&str>,
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(315_532_800);
        // The crate's own setters refuse `..` and absolute names, which are what some rules are about.
        let raw = header.as_old_mut();
        raw.name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(target) = target {
            raw.linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        let layer = self.layers.last_mut().expect("there is a layer");
        layer
            .append(&header, content)
            .expect("a vector is written to");
        self
    }

    /// How its files are looked at: as the rules need it, and what the test wants.
    fn looked_at(&self) -> Contents {
        let config = json!({ "config": self.run }).to_string().into_bytes();
        let mut contents = Contents::of(&Documents {
            index: None,
            manifest: None,
            config: Document::new(config, None, None),
            wanted: None,
            today: self.today.to_owned(),
        });
        contents.wanted.extend(self.contents.wanted.clone());
        contents
    }

    /// The image, read.
    pub(super) fn subject(self) -> Subject {
        let mut layers = Vec::new();
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        let contents = self.looked_at().of_layers(&vec![1; self.layers.len()]);
        for (contents, layer) in contents.into_iter().zip(self.layers) {
            let tar = layer.into_inner().expect("a tar ends");
            let blob = gzip(&tar);
            let descriptor = Descriptor::of(Family::Docker.layer(), &blob);
            let read = flatten::read(&descriptor, &*blob, |entry| contents.reader(entry));
            layers.push(read.expect("bytes can be read"));
            descriptors.push(descriptor);
            diff_ids.push(Digest::of(&tar).to_string());
        }
        let mut config = json!({
            "config": self.run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        merge(&mut config, self.config);
        let raw = config.to_string().into_bytes();
        let descriptor = Descriptor::of(Family::Docker.config(), &raw);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": Family::Docker.manifest(),
            "config": &descriptor,
            "layers": descriptors,
        });
        merge(&mut manifest, self.manifest);
        let documents = Documents {
            index: None,
            manifest: Some(Document::new(
                manifest.to_string().into_bytes(),
                Some(Family::Docker.manifest().to_owned()),
                None,
            )),
            config: Document::new(
                raw,
                Some(descriptor.media_type),
                Some((descriptor.digest, descriptor.size)),
            ),
            wanted: self.wanted,
            today: self.today.to_owned(),
        };
        Subject::new(documents, layers)
    }

    /// What the rules of a range of identifiers find, as [`Forge::findings`].
    pub(super) fn findings_of(self, range: Range<&str>) -> String {
        let findings = check(&self.subject());
        let of_range = findings
            .iter()
            .filter(|finding| range.contains(&finding.rule.id));
        of_range.map(line).collect::<Vec<_>>().join("\n")
    }

    /// What all rules find, a line each: rule, level, layer, path, message.
    pub(super) fn findings(self) -> String {
        told(&self.subject())
    }

    /// The digest of a layer's tar.
    pub(super) fn diff_id(&self, layer: usize) -> String {
        Digest::of(tar_of(self.layers[layer].get_ref())).to_string()
    }

    /// The descriptor of the lowest layer.
    pub(super) fn lowest(&self) -> Descriptor {
        let tar = tar_of(self.layers[0].get_ref());
        Descriptor::of(Family::Docker.layer(), &gzip(&tar))
    }
}

/// What all rules find in an image, a line each: rule, level, layer, path, message.
pub(super) fn told(subject: &Subject) -> String {
    let lines: Vec<_> = check(subject).iter().map(line).collect();
    lines.join("\n")
}

/// A tar with its end.
fn tar_of(entries: &[u8]) -> Vec<u8> {
    [entries, &[0; 1024]].concat()
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(tar).expect("a vector is written to");
    gzip.finish().expect("a vector is written to")
}

/// What is found, as a line.
pub(super) fn line(finding: &Finding) -> String {
    let layer = finding.layer.map(|layer| format!(" {layer}"));
    let path = finding.path.as_ref().map(|path| format!(" {path}"));
    format!(
        "{} {}{}{}: {}",
        finding.rule.id,
        finding.level,
        layer.unwrap_or_default(),
        path.unwrap_or_default(),
        finding.message
    )
}

/// Puts the fields of `over` over those of `into`; null removes one.
fn merge(into: &mut Value, over: Value) {
    if let (Some(into), Value::Object(over)) = (into.as_object_mut(), over) {
        for (key, value) in over {
            if value.is_null() {
                into.remove(&key);
            } else {
                into.insert(key, value);
            }
        }
    }
}

/// An image as one of AWS's Python 3.12 bases makes it, as far as rules look: the base's layer, and one above.
pub(super) fn aws(handler: &str) -> Forge {
    let mut forge = Forge::new();
    forge.run = json!({
        "Entrypoint": ["/lambda-entrypoint.sh"],
        "Cmd": [handler],
        "WorkingDir": "/var/task",
        "Env": ["LAMBDA_TASK_ROOT=/var/task", "LAMBDA_RUNTIME_DIR=/var/runtime"],
    });
    for directory in [
        "var",
        "var/lang",
        "var/lang/bin",
        "var/lang/lib",
        "var/lang/lib/python3.12",
    ] {
        forge = forge.dir(directory);
    }
    for module in ["os", "typing", "pathlib"] {
        forge = forge.file(&format!("var/lang/lib/python3.12/{module}.py"), "");
    }
    forge
        .dir("var/lang/lib/python3.12/json")
        .file("var/lang/lib/python3.12/json/__init__.py", "")
        .program("var/lang/bin/python3.12", "")
        .dir("var/runtime")
        .program(
            "var/runtime/bootstrap",
            "#!/bin/bash\nexec /var/lang/bin/python3.12 /var/runtime/bootstrap.py\n",
        )
        .program("lambda-entrypoint.sh", "#!/bin/sh\n")
        .dir("var/task")
        .layer()
        .dir("var")
        .dir("var/task")
}

/// The lines of rules whose identifiers are a prefix and one of some last digits.
pub(super) fn only(findings: &str, prefix: &str, last: std::ops::RangeInclusive<char>) -> String {
    let wanted = |line: &&str| {
        let rest = line
            .strip_prefix(prefix)
            .and_then(|rest| rest.chars().next());
        rest.is_some_and(|digit| last.contains(&digit))
    };
    findings
        .lines()
        .filter(wanted)
        .collect::<Vec<_>>()
        .join("\n")
}
