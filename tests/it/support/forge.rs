//! Images put together by hand, of plain tar, gzip and JSON, so that each can be wrong in one way.
//!
//! They stand on a base in the shape of Lambda's own, small enough that a test can have dozens. What the base's
//! programs hold is no more than what says which machine they are for.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use serde_json::json;

use crate::support::architecture;
use crate::support::digest;
use crate::support::elf;
use crate::support::project::Project;
use crate::support::registry::Registry;

/// The date of all that is made: 1980-01-01.
const DATE: u64 = 315_532_800;
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The media types of manifest, config and layers.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    pub(crate) manifest: &'static str,
    pub(crate) config: &'static str,
    pub(crate) layer: &'static str,
}

pub(crate) const DOCKER: Family = Family {
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

pub(crate) const OCI: Family = Family {
    manifest: OCI_MANIFEST,
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};

/// How a layer is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    /// Two members, each with half of the tar.
    TwoMembers,
    Zstd,
    Plain,
}

/// A tar under way.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    listed: BTreeSet<String>,
}

impl Archive {
    /// A file of mode 0644 behind its directories.
    pub(crate) fn file(&mut self, path: &str, content: impl AsRef<[u8]>) -> &mut Archive {
        self.mode(path, 0o644, content)
    }

    /// A file of mode 0755 behind its directories.
    pub(crate) fn program(&mut self, path: &str, content: impl AsRef<[u8]>) -> &mut Archive {
        self.mode(path, 0o755, content)
    }

    /// A file of any mode behind its directories.
    pub(crate) fn mode(
        &mut self,
        path: &str,
        mode: u32,
        content: impl AsRef<[u8]>,
    ) -> &mut Archive {
        self.parents(path);
        self.raw(path, b'0', mode, content.as_ref(), "")
    }

    /// A directory behind those above it, once.
    pub(crate) fn directory(&mut self, path: &str) -> &mut Archive {
        self.parents(path);
        if self.listed.insert(path.to_owned()) {
            self.raw(&format!("{path}/"), b'5', 0o755, b"", "");
        }
        self
    }

    /// A symbolic link behind its directories.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> &mut Archive {
        self.parents(path);
        self.raw(path, b'2', 0o777, b"", target)
    }

    /// One entry as it is given, by the letter of its kind, and nothing else.
    pub(crate) fn raw(
        &mut self,
        name: &str,
        kind: u8,
        mode: u32,
        content: &[u8],
        target: &str,
    ) -> &mut Archive {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(DATE);
        header.set_uid(0);
        header.set_gid(0);
        if matches!(kind, b'3' | b'4') {
            header.set_device_major(1).expect("a small number");
            header.set_device_minor(3).expect("a small number");
        }
        let ustar = header.as_ustar_mut().expect("it was made so");
        let (prefix, name) = match name[..name.len().min(156)].rfind('/') {
            Some(at) if name.len() > 100 => (&name[..at], &name[at + 1..]),
            _ => ("", name),
        };
        ustar.prefix[..prefix.len()].copy_from_slice(prefix.as_bytes());
        ustar.name[..name.len()].copy_from_slice(name.as_bytes());
        ustar.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn tar(&self) -> Vec<u8> {
        [&self.bytes[..], &[0; 1024]].concat()
    }
}

/// An image under way.
pub(crate) struct Forge {
    pub(crate) family: Family,
    pub(crate) architecture: &'static str,
    /// What the config says of running.
    pub(crate) run: Value,
    /// Layers of the base, lowest first.
    pub(crate) base: Vec<Archive>,
    /// The layer on top.
    pub(crate) function: Archive,
    /// What is in `app.py`.
    pub(crate) app: Option<String>,
    /// How the top layer is packed, and what is said of it.
    pub(crate) packing: Packing,
    pub(crate) media_type: Option<&'static str>,
    /// The last word on config and manifest.
    pub(crate) bend_config: fn(&mut Value),
    pub(crate) bend_manifest: fn(&mut Value),
    /// Whether an index with an attestation leads to it, as `docker buildx` makes it.
    pub(crate) attested: bool,
}

/// What came of it: each blob, the last of them what the name leads to.
struct Made {
    blobs: Vec<Vec<u8>>,
    top: Value,
    /// The manifest's descriptor, and the index's if there is one.
    manifests: Vec<Value>,
}

impl Forge {
    /// An image that nothing is wrong with, as the documentation of AWS has it made.
    pub(crate) fn sound() -> Forge {
        Forge::of_python("3.12", "2023")
    }

    /// The same with this Python, on this version of Amazon Linux.
    pub(crate) fn of_python(python: &str, system: &str) -> Forge {
        Forge {
            family: DOCKER,
            architecture: architecture(),
            run: json!({
                "Env": [
                    "LANG=en_US.UTF-8",
                    "TZ=:/etc/localtime",
                    "PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
                    "LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
                    "LAMBDA_TASK_ROOT=/var/task",
                    "LAMBDA_RUNTIME_DIR=/var/runtime",
                ],
                "WorkingDir": "/var/task",
                "Entrypoint": ["/lambda-entrypoint.sh"],
                "Cmd": ["app.handler"],
            }),
            base: base(python, system),
            function: Archive::default(),
            app: Some("def handler(event, context):\n    return 'ok'\n".to_owned()),
            packing: Packing::Gzip,
            media_type: None,
            bend_config: |_| (),
            bend_manifest: |_| (),
            attested: false,
        }
    }

    fn make(&self) -> Made {
        let mut function = Archive {
            bytes: self.function.bytes.clone(),
            listed: self.function.listed.clone(),
        };
        if let Some(app) = &self.app {
            function.file("var/task/app.py", app);
        }
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        let archives = self.base.iter().map(|archive| (archive, Packing::Gzip));
        for (archive, packing) in archives.chain([(&function, self.packing)]) {
            let tar = archive.tar();
            let blob = packed(&tar, packing);
            diff_ids.push(digest(&tar));
            layers.push(descriptor(self.family.layer, &blob));
            blobs.push(blob);
        }
        if let (Some(media_type), Some(last)) = (self.media_type, layers.last_mut()) {
            last["mediaType"] = json!(media_type);
        }
        let created = "1980-01-01T00:00:00Z";
        let history = diff_ids.iter();
        let history = history.map(|_| json!({"created": created, "created_by": "by hand"}));
        let mut config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": created,
            "config": self.run,
            "history": history.collect::<Vec<_>>(),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        (self.bend_config)(&mut config);
        let config = config.to_string().into_bytes();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.family.manifest,
            "config": descriptor(self.family.config, &config),
            "layers": layers,
        });
        (self.bend_manifest)(&mut manifest);
        blobs.push(config);
        let manifest = manifest.to_string().into_bytes();
        let mut top = descriptor(self.family.manifest, &manifest);
        blobs.push(manifest);
        let mut manifests = vec![top.clone()];
        if self.attested {
            let [attestation, index] = self.attest(&top, &mut blobs);
            manifests.extend([attestation, index.clone()]);
            top = index;
        }
        Made {
            blobs,
            top,
            manifests,
        }
    }

    /// What BuildKit puts beside an image, and the index of both.
    fn attest(&self, image: &Value, blobs: &mut Vec<Vec<u8>>) -> [Value; 2] {
        let statement = br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#.to_vec();
        let config = json!({"architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(&statement)]}});
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI.config, &config),
            "layers": [descriptor("application/vnd.in-toto+json", &statement)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut first = image.clone();
        first["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        let attestation = descriptor(OCI_MANIFEST, &manifest);
        let mut second = attestation.clone();
        second["platform"] = json!({"architecture": "unknown", "os": "unknown"});
        second["annotations"] = json!({
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        });
        let index =
            json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [first, second]});
        let index = index.to_string().into_bytes();
        let top = descriptor(OCI_INDEX, &index);
        blobs.extend([statement, config, manifest, index]);
        [attestation, top]
    }

    /// Writes it beside a project, and gives the name that the command line has for it.
    pub(crate) fn write_beside(&self, project: &Project) -> String {
        let directory = project.beside("image");
        self.write(&directory);
        format!("oci:{}", directory.display())
    }

    /// Writes it into an OCI directory, under the name `image`.
    pub(crate) fn write(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a directory can be made");
        let made = self.make();
        for blob in &made.blobs {
            let name = digest(blob);
            fs::write(blobs.join(&name["sha256:".len()..]), blob).expect("a file can be written");
        }
        let mut top = made.top;
        top["annotations"] = json!({"org.opencontainers.image.ref.name": "image"});
        let index = json!({"schemaVersion": 2, "manifests": [top]});
        let version = json!({"imageLayoutVersion": "1.0.0"});
        for (name, value) in [("index.json", index), ("oci-layout", version)] {
            fs::write(directory.join(name), value.to_string()).expect("a file can be written");
        }
    }

    /// Puts it into a registry and gives its name there.
    pub(crate) fn push(&self, registry: &Registry, repository: &str, tag: &str) -> String {
        let made = self.make();
        let is_manifest = |blob: &Vec<u8>| {
            let name = digest(blob);
            let mut manifests = made.manifests.iter();
            manifests
                .find(|manifest| manifest["digest"] == name)
                .cloned()
        };
        for blob in &made.blobs {
            match is_manifest(blob) {
                None => registry.put_blob(repository, blob.clone()),
                Some(manifest) => {
                    let media_type = manifest["mediaType"].as_str().expect("it has a type");
                    let name = digest(blob);
                    registry.put_manifest(repository, &name, media_type, blob.clone());
                    if manifest["digest"] == made.top["digest"] {
                        registry.put_manifest(repository, tag, media_type, blob.clone());
                    }
                }
            }
        }
        format!("{}:{tag}", registry.name(repository))
    }
}

/// A base of two layers: the system with the language, and the entry point.
fn base(python: &str, version: &str) -> Vec<Archive> {
    let machine = elf::machine(match architecture() {
        "arm64" => "aarch64",
        _ => "x86_64",
    });
    let binary = elf::library(machine, "GLIBC_2.17");
    let mut system = Archive::default();
    system.link("bin", "usr/bin").link("lib64", "usr/lib64");
    let release = format!("NAME=\"Amazon Linux\"\nID=\"amzn\"\nVERSION_ID=\"{version}\"\n");
    system.file("etc/os-release", release);
    system
        .program("usr/bin/bash", &binary)
        .link("usr/bin/sh", "bash");
    system
        .directory("usr/lib64")
        .directory("opt")
        .directory("tmp");
    let interpreter = format!("python{python}");
    system.program(&format!("var/lang/bin/{interpreter}"), &binary);
    system.link("var/lang/bin/python3", &interpreter);
    let library = format!("var/lang/lib/{interpreter}");
    for module in ["os", "json/__init__", "logging/__init__", "typing"] {
        system.file(&format!("{library}/{module}.py"), "");
    }
    system.directory(&format!("{library}/lib-dynload"));
    system.directory(&format!("{library}/site-packages"));
    let mut runtime = Archive::default();
    runtime.program(
        "lambda-entrypoint.sh",
        "#!/bin/sh\nexec /var/runtime/bootstrap\n",
    );
    runtime.program(
        "var/runtime/bootstrap",
        format!("#!/bin/bash\nexec /var/lang/bin/{interpreter} /var/runtime/bootstrap.py\n"),
    );
    runtime.file("var/runtime/bootstrap.py", "import awslambdaric\n");
    runtime.file("var/runtime/awslambdaric/__init__.py", "");
    runtime.directory("var/task");
    vec![system, runtime]
}

fn packed(tar: &[u8], packing: Packing) -> Vec<u8> {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory takes everything");
        encoder.finish().expect("memory takes everything")
    };
    match packing {
        Packing::Gzip => gzip(tar),
        Packing::TwoMembers => {
            let (first, second) = tar.split_at(tar.len() / 2);
            [gzip(first), gzip(second)].concat()
        }
        Packing::Zstd => zstd(tar),
        Packing::Plain => tar.to_vec(),
    }
}

/// A frame of zstd (RFC 8878) whose blocks are not compressed.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
    frame.extend((bytes.len() as u64).to_le_bytes());
    let blocks = bytes.chunks(1 << 16);
    let last = blocks.len() - 1;
    for (number, block) in blocks.enumerate() {
        let size = u32::try_from(block.len()).expect("a block is small");
        let header = (size << 3) | u32::from(number == last);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}
