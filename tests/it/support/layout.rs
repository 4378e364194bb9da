//! An image in an OCI directory, made in code: layers of noise of any size, written as they come.
//!
//! What `lambimg push oci:DIR` takes, and in a registry a base that says it is Lambda's. The same numbers
//! make the same bytes.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use crate::support::architecture;
use crate::support::digest;
use crate::support::hexadecimal;

/// A layer: its seed and its size in bytes.
pub(crate) type Noise = (u64, u64);

/// An OCI directory with one image.
pub(crate) struct Layout {
    directory: PathBuf,
    /// `sha256:…` of the manifest.
    pub(crate) digest: String,
    /// Digest and size of the layers, and of the configuration as the last.
    pub(crate) blobs: Vec<(String, u64)>,
}

impl Layout {
    pub(crate) fn make(directory: &Path, layers: &[Noise]) -> Layout {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a directory can be made");
        let made = layers.iter().map(|noise| write_layer(&blobs, *noise));
        let (mut descriptors, diff_ids): (Vec<Value>, Vec<String>) = made.unzip();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Cmd": ["app.handler"],
                "Entrypoint": ["/lambda-entrypoint.sh"],
                "Env": ["LAMBDA_RUNTIME_DIR=/var/runtime", "LAMBDA_TASK_ROOT=/var/task"],
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = put(&blobs, "application/vnd.oci.image.config.v1+json", &config);
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
        });
        let manifest = put(&blobs, media_type, &manifest);
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        let version = json!({"imageLayoutVersion": "1.0.0"});
        for (name, value) in [("index.json", index), ("oci-layout", version)] {
            fs::write(directory.join(name), value.to_string()).expect("a file can be written");
        }
        descriptors.push(config);
        let text = |value: &Value| value.as_str().expect("a digest").to_owned();
        let size = |value: &Value| value.as_u64().expect("a size");
        let blobs = descriptors
            .iter()
            .map(|d| (text(&d["digest"]), size(&d["size"])));
        Layout {
            directory: directory.to_owned(),
            digest: text(&manifest["digest"]),
            blobs: blobs.collect(),
        }
    }

    /// As the command line has it.
    pub(crate) fn name(&self) -> String {
        format!("oci:{}", self.directory.display())
    }

    /// The bytes of all its blobs.
    pub(crate) fn size(&self) -> u64 {
        self.blobs.iter().map(|(_, size)| size).sum()
    }
}

fn put(blobs: &Path, media_type: &str, document: &Value) -> Value {
    let content = document.to_string().into_bytes();
    let name = digest(&content);
    fs::write(blobs.join(&name[7..]), &content).expect("a file can be written");
    json!({"mediaType": media_type, "digest": name, "size": content.len()})
}

/// Writes a layer with one file of noise, stored rather than compressed; its descriptor and diff id.
fn write_layer(blobs: &Path, (seed, size): Noise) -> (Value, String) {
    let part = blobs.join("part");
    let file = File::create(&part).expect("a file can be created");
    let compressed = Hashing::new(io::BufWriter::with_capacity(1 << 20, file));
    let inflated = Hashing::new(GzEncoder::new(compressed, Compression::none()));
    let mut archive = tar::Builder::new(inflated);
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    let noise = Random::new(seed).take(size);
    let path = format!("noise{seed}.bin");
    let written = archive.append_data(&mut header, path, noise);
    written.expect("a layer can be written");
    let inflated = archive.into_inner().expect("a layer can be written");
    let (encoder, diff_id, _) = inflated.end();
    let compressed = encoder.finish().expect("a layer can be written");
    let (mut file, name, length) = compressed.end();
    file.flush().expect("a layer can be written");
    fs::rename(part, blobs.join(&name[7..])).expect("our own file");
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    (
        json!({"mediaType": media_type, "digest": name, "size": length}),
        diff_id,
    )
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Hashing<W> {
        let (hasher, length) = (Sha256::new(), 0);
        Hashing {
            inner,
            hasher,
            length,
        }
    }

    fn end(self) -> (W, String, u64) {
        let name = format!("sha256:{}", hexadecimal(&self.hasher.finalize()));
        (self.inner, name, self.length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Numbers by chance that are the same for the same seed: Marsaglia's xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.number();
        random
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.number() >> 16) % limit.max(1)
    }
}

impl Read for Random {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.number().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}
