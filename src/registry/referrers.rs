//! Documents that belong to an image without being in it: artifacts whose subject is its manifest.
//!
//! Follows the OCI specifications 1.1: such an artifact is a manifest of its own, found by its subject's digest. A
//! registry that keeps no list of an image's referrers says nothing of the subject when it takes one, and then the list
//! is an index under a tag that is made of that digest, which whoever adds to it writes. Between reading and writing it
//! somebody else may do the same, so it is read again. What a document says is not known here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::http::retry::Trouble;
use crate::http::{self, Method, Request, StatusCode};
use crate::oci::{self, Descriptor, Manifest};
use crate::registry::manifests::Put;
use crate::registry::push::Push;
use crate::registry::{Error, Repository, Tries};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What stands for a config where there is nothing to configure.
const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");
/// Looks at the list under the tag, the last of them for what the one before it wrote.
const LOOKS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A document that is to belong to an image.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// What it is, by its media type.
    pub media_type: &'static str,
    /// The document.
    pub document: Vec<u8>,
    /// When the image was made, in RFC 3339: what is made of it again is the same.
    pub created: Option<String>,
}

impl Artifact {
    fn annotations(&self) -> Value {
        match &self.created {
            Some(created) => json!({"org.opencontainers.image.created": created}),
            None => json!({}),
        }
    }

    /// The manifest by which it belongs to `subject`.
    fn manifest(&self, subject: &Descriptor) -> Vec<u8> {
        let config = Descriptor::of(EMPTY.0, EMPTY.1);
        let layer = Descriptor::of(self.media_type, &self.document);
        let subject = Descriptor {
            annotations: BTreeMap::new(),
            ..subject.clone()
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": self.media_type,
            "config": config,
            "layers": [layer],
            "subject": subject,
            "annotations": self.annotations(),
        });
        manifest.to_string().into_bytes()
    }

    /// What a list of referrers has of it.
    fn entry(&self, manifest: &Manifest) -> Value {
        json!({
            "mediaType": MANIFEST,
            "digest": manifest.digest(),
            "size": manifest.raw.len(),
            "artifactType": self.media_type,
            "annotations": self.annotations(),
        })
    }
}

/// The tag that has the list where the registry keeps none.
fn list_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Push {
    /// Has an artifact belong to the image `subject`, which is there already, and gives the digest of its manifest.
    /// The same again changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn attach(&self, subject: &Descriptor, artifact: &Artifact) -> Result<Digest, Error> {
        let manifest = artifact.manifest(subject);
        let manifest = Manifest::read(manifest).map_err(|source| Error::Document {
            reference: self.repository.display(),
            source,
        })?;
        let version = manifest.digest().to_string();
        let look = self.repository.head_manifest(&version, Tries::Many).await;
        // Who may push need not be allowed to look.
        let is_listed = if look.ok().flatten() == Some(manifest.digest()) {
            self.repository.referrers(&subject.digest).await?.is_some()
        } else {
            self.put_artifact(&manifest, &artifact.document).await?
        };
        if !is_listed {
            let entry = artifact.entry(&manifest);
            self.repository
                .list_under_tag(&subject.digest, &entry)
                .await?;
        }
        Ok(manifest.digest())
    }

    /// The manifest of an artifact of the same kind and date that belongs to the image `subject` already, whatever its
    /// document says, if one can be seen.
    pub async fn attached(&self, subject: &Descriptor, artifact: &Artifact) -> Option<Digest> {
        let listed = self.repository.referrers(&subject.digest).await;
        let list = if let Ok(Some(list)) = listed {
            list
        } else {
            let tag = list_tag(&subject.digest);
            let found = self.repository.manifest(&tag, self.repository.retry());
            serde_json::from_slice(&found.await.ok()?.0).ok()?
        };
        let mut entries = list["manifests"].as_array()?.iter();
        let same = entries.find(|entry| {
            entry["artifactType"] == artifact.media_type
                && entry["annotations"] == artifact.annotations()
        });
        same?["digest"].as_str()?.parse().ok()
    }

    /// Puts an artifact with its parts; whether the registry lists it by itself.
    async fn put_artifact(&self, manifest: &Manifest, document: &Vec<u8>) -> Result<bool, Error> {
        let empty = EMPTY.1.to_vec();
        let version = manifest.digest().to_string();
        let mut retry = self.repository.retry();
        loop {
            self.bring(&manifest.config, None, Some(&empty)).await?;
            for layer in &manifest.layers {
                self.bring(layer, None, Some(document)).await?;
            }
            let error = match self.repository.put_manifest(manifest, &version).await? {
                Put::Done { is_listed } => return Ok(is_listed),
                Put::BlobsUnknown(error) => error,
            };
            let trouble = Trouble::rare(error.to_string());
            let what = format!("manifest {version}");
            if !retry.again(&what, &trouble, &self.progress).await {
                return Err(error);
            }
            self.believe_less();
        }
    }
}

impl Repository {
    /// The index of an image's referrers, where the registry keeps it itself.
    async fn referrers(&self, subject: &Digest) -> Result<Option<Value>, Error> {
        let request = Request::new(Method::GET, self.url(&format!("referrers/{subject}"))?);
        let answer = self.send(request, Tries::Many).await?;
        if answer.response.status() != StatusCode::OK {
            return Ok(None);
        }
        let raw = http::read_limited(answer.response, oci::MAX_DOCUMENT).await?;
        let list: Value = serde_json::from_slice(&raw).unwrap_or_default();
        Ok(list["manifests"].is_array().then_some(list))
    }

    /// Has the list under the tag of `subject` an entry, beside those that others put there.
    async fn list_under_tag(&self, subject: &Digest, entry: &Value) -> Result<(), Error> {
        let tag = list_tag(subject);
        for look in 0..LOOKS {
            let found = match self.manifest(&tag, self.retry()).await {
                Ok((raw, _)) => Some(raw),
                Err(Error::NotFound { .. }) => None,
                Err(error) => return Err(error),
            };
            let mut index = match found {
                Some(raw) => serde_json::from_slice(&raw).unwrap_or_default(),
                None => json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
            };
            let no_list = || Error::NoList {
                repository: self.display(),
                tag: tag.clone(),
            };
            let list = index["manifests"].as_array_mut().ok_or_else(no_list)?;
            if list.iter().any(|other| other["digest"] == entry["digest"]) {
                return Ok(());
            }
            if look > 0 {
                tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(look)).await;
            }
            list.push(entry.clone());
            let raw = index.to_string().into_bytes();
            if let Put::BlobsUnknown(error) = self.put_document(&raw, INDEX, &tag).await? {
                return Err(error);
            }
        }
        Err(self.protocol(format!(
            "does not keep what is put under `{tag}` of `{}`",
            self.name
        )))
    }
}
