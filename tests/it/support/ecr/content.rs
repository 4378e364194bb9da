//! What `ecr` keeps: blobs in files, uploads on their way, manifests and tags, as a strict registry would.
//!
//! No blob is ever in memory, and none has a name before its bytes were hashed. Knows no HTTP but the
//! codes of errors that the distribution specification names.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::Value;
use sha2::Digest as _;
use sha2::Sha256;
use tempfile::TempDir;

use crate::support::digest;
use crate::support::hexadecimal;

/// A refusal: status, the specification's code, words.
pub(crate) type Refusal = (u16, &'static str, String);

#[derive(Default)]
struct Repository {
    blobs: BTreeSet<String>,
    /// Media type and bytes by digest.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    tags: BTreeMap<String, String>,
}

/// The bytes that a session got so far.
#[derive(Default)]
struct Upload {
    received: u64,
    /// What a chunk's answer says of them: the first chunk alone, for ever.
    told: u64,
    /// A body broke off in it: nothing can be sent again from its beginning.
    is_broken: bool,
}

pub(crate) struct Content {
    directory: TempDir,
    repositories: BTreeMap<String, Repository>,
    uploads: BTreeMap<String, Upload>,
    count: u64,
}

impl Content {
    pub(crate) fn new() -> Content {
        Content {
            directory: tempfile::tempdir().expect("a temporary directory"),
            repositories: BTreeMap::new(),
            uploads: BTreeMap::new(),
            count: 0,
        }
    }

    /// A file beside the blobs.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn create(&mut self, repository: &str) {
        self.repositories.entry(repository.to_owned()).or_default();
    }

    pub(crate) fn has(&self, repository: &str) -> bool {
        self.repositories.contains_key(repository)
    }

    /// The file of a blob that the repository has.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<PathBuf> {
        let repository = self.repositories.get(repository)?;
        let found = repository.blobs.get(digest)?;
        Some(self.path(&found[7..]))
    }

    /// Digest, media type and bytes of the manifest at a tag or digest.
    pub(crate) fn manifest(
        &self,
        repository: &str,
        version: &str,
    ) -> Option<(String, String, Vec<u8>)> {
        let repository = self.repositories.get(repository)?;
        let tagged = repository.tags.get(version).map(String::as_str);
        let digest = tagged.unwrap_or(version);
        let (media_type, content) = repository.manifests.get(digest)?;
        Some((digest.to_owned(), media_type.clone(), content.clone()))
    }

    pub(crate) fn tags(&self, repository: &str) -> BTreeMap<String, String> {
        let repository = self.repositories.get(repository);
        repository
            .map(|found| found.tags.clone())
            .unwrap_or_default()
    }

    /// Whether the blob is part of an image of that repository: only such blobs can be mounted.
    pub(crate) fn is_referenced(&self, repository: &str, digest: &str) -> bool {
        let manifests = self.repositories.get(repository).into_iter();
        let mut manifests = manifests.flat_map(|found| found.manifests.values());
        let named = |content: &[u8]| String::from_utf8_lossy(content).contains(digest);
        manifests.any(|(_, content)| named(content))
    }

    /// Loses all blobs, not the manifests.
    pub(crate) fn lose_blobs(&mut self) {
        for repository in self.repositories.values_mut() {
            repository.blobs.clear();
        }
    }

    pub(crate) fn link(&mut self, repository: &str, digest: &str) {
        let found = self.repositories.entry(repository.to_owned()).or_default();
        found.blobs.insert(digest.to_owned());
    }

    // --- uploads --------------------------------------------------------------------------------

    pub(crate) fn begin_upload(&mut self) -> String {
        self.count += 1;
        let name = format!("upload-{}", self.count);
        self.uploads.insert(name.clone(), Upload::default());
        name
    }

    /// Where the next bytes of a session go, unless it cannot take any that begin at `start`.
    pub(crate) fn append_to(&self, session: &str, start: Option<u64>) -> Result<PathBuf, Refusal> {
        let Some(upload) = self.uploads.get(session) else {
            return Err((404, "BLOB_UPLOAD_UNKNOWN", "no such upload".to_owned()));
        };
        let start = start.unwrap_or(if upload.is_broken { 0 } else { upload.received });
        if start != upload.received {
            let words = format!(
                "First byte of the layer part is {start} instead of {}",
                upload.received
            );
            return Err((416, "BLOB_UPLOAD_INVALID", words));
        }
        Ok(self.path(session))
    }

    /// Notes what a session got; the last byte of which its answer tells.
    pub(crate) fn note(&mut self, session: &str, count: u64, is_whole: bool) -> u64 {
        let upload = self.uploads.entry(session.to_owned()).or_default();
        upload.received += count;
        upload.is_broken |= !is_whole;
        if upload.told == 0 {
            upload.told = upload.received;
        }
        upload.told.saturating_sub(1)
    }

    /// Gives the bytes of a session their name; the session is over either way.
    pub(crate) fn finish(
        &mut self,
        session: &str,
        repository: &str,
        (wanted, actual): (&str, &str),
    ) -> Result<(), Refusal> {
        self.uploads.remove(session);
        let part = self.path(session);
        if wanted != actual {
            let _ = fs::remove_file(part);
            let words = format!("the bytes have digest {actual}");
            return Err((400, "DIGEST_INVALID", words));
        }
        fs::rename(part, self.path(&wanted[7..])).expect("our own directory");
        self.link(repository, wanted);
        Ok(())
    }

    // --- manifests ------------------------------------------------------------------------------

    /// Takes a manifest when it is one and all its blobs are there; its digest.
    pub(crate) fn put_manifest(
        &mut self,
        repository: &str,
        version: &str,
        (media_type, content): (&str, Vec<u8>),
    ) -> Result<String, Refusal> {
        let actual = digest(&content);
        if version.starts_with("sha256:") && version != actual {
            let words = format!("the manifest has digest {actual}");
            return Err((400, "DIGEST_INVALID", words));
        }
        self.check_manifest(repository, media_type, &content)?;
        let found = self.repositories.entry(repository.to_owned()).or_default();
        let kept = (media_type.to_owned(), content);
        found.manifests.insert(actual.clone(), kept);
        if version != actual {
            found.tags.insert(version.to_owned(), actual.clone());
        }
        Ok(actual)
    }

    fn check_manifest(
        &self,
        repository: &str,
        media_type: &str,
        content: &[u8],
    ) -> Result<(), Refusal> {
        let invalid = |words: String| (400, "MANIFEST_INVALID", words);
        let manifest: Value =
            serde_json::from_slice(content).map_err(|error| invalid(error.to_string()))?;
        if manifest["mediaType"]
            .as_str()
            .is_some_and(|said| said != media_type)
        {
            return Err(invalid(format!("it came as {media_type}")));
        }
        let blobs = |key: &str| manifest[key].as_array().cloned().unwrap_or_default();
        for child in blobs("manifests") {
            let name = child["digest"].as_str().unwrap_or_default();
            if self.manifest(repository, name).is_none() {
                return Err((404, "MANIFEST_UNKNOWN", name.to_owned()));
            }
        }
        let config = manifest.get("config").cloned();
        for blob in blobs("layers").into_iter().chain(config) {
            let name = blob["digest"].as_str().unwrap_or_default();
            let size = self.blob(repository, name).map(|path| length(&path));
            if size.is_none() || size != blob["size"].as_u64() {
                let words = format!(
                    "Layers with digests '[{name}]' required for pushing image into repository with name \
                     '{repository}' in the registry with id '123456789012' do not exist"
                );
                // The specification has MANIFEST_BLOB_UNKNOWN.
                return Err((404, "BLOB_UPLOAD_UNKNOWN", words));
            }
        }
        Ok(())
    }
}

/// The size of a file in bytes.
pub(crate) fn length(path: &std::path::Path) -> u64 {
    fs::metadata(path).expect("our own file").len()
}

/// Appends all of `body` to a file; how much came, and whether that was all.
pub(crate) fn append(path: &std::path::Path, body: &mut dyn Read) -> io::Result<(u64, bool)> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let (mut buffer, mut count) = (vec![0; 64 << 10], 0);
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok((count, true)),
            Ok(more) => {
                file.write_all(&buffer[..more])?;
                count += more as u64;
            }
            Err(_) => return Ok((count, false)),
        }
    }
}

/// `sha256:…` of a file.
pub(crate) fn digest_of(path: &std::path::Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("sha256:{}", hexadecimal(&hasher.finalize()))),
            count => hasher.update(&buffer[..count]),
        }
    }
}
