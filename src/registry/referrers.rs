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
use crate::http::header::LINK;
use crate::http::retry::Trouble;
use crate::http::{self, Method, Request, Response, StatusCode, Url};
use crate::oci::{self, Descriptor, Manifest};
use crate::registry::manifests::Put;
use crate::registry::push::Push;
use crate::registry::{Error, Repository, Tries};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What stands for a config where there is nothing to configure.
const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");
/// Pages of a registry's list that are read.
const PAGES: usize = 16;
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
    /// What is said of it, in the lists of referrers too.
    pub annotations: BTreeMap<&'static str, String>,
    /// An annotation of such as say less: they leave the list that is written here when this one gets there.
    pub replaces: Option<(&'static str, &'static str)>,
}

impl Artifact {
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
            "annotations": self.annotations,
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
            "annotations": self.annotations,
        })
    }

    /// Whether it takes the place of one that a list of referrers has.
    fn replaces(&self, entry: &Value) -> bool {
        let of_lesser = self.replaces;
        of_lesser.is_some_and(|(key, value)| {
            entry["artifactType"] == self.media_type && entry["annotations"][key] == value
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
        let is_there = look.ok().flatten() == Some(manifest.digest());
        let listed = if is_there {
            self.repository.referrers(&subject.digest).await?
        } else {
            None
        };
        let is_listed = match (is_there, listed) {
            (true, None) => false,
            (true, Some(list)) if list.iter().any(|other| other["digest"] == *version) => true,
            // It may have come before the registry kept lists.
            _ => self.put_artifact(&manifest, &artifact.document).await?,
        };
        if !is_listed {
            self.repository
                .list_under_tag(&subject.digest, &manifest, artifact)
                .await?;
        }
        Ok(manifest.digest())
    }

    /// The manifest of an artifact of this media type that belongs to the image `subject` already, if one can be seen:
    /// the annotation `key` tells it, whose `values` are those that count, the best of them first.
    pub async fn attached(
        &self,
        subject: &Descriptor,
        media_type: &str,
        (key, values): (&str, &[&str]),
    ) -> Option<Digest> {
        let listed = self.repository.referrers(&subject.digest).await;
        let mut list = listed.ok().flatten().unwrap_or_default();
        // A registry that keeps lists now need not have taken in what is under the tag.
        let tag = list_tag(&subject.digest);
        let found = self.repository.manifest(&tag, self.repository.retry());
        if let Ok((raw, _)) = found.await {
            list.extend(entries(&raw).unwrap_or_default());
        }
        let best = values.iter().find_map(|value| {
            list.iter().find(|entry| {
                entry["artifactType"] == media_type && entry["annotations"][key] == **value
            })
        });
        best?["digest"].as_str()?.parse().ok()
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

/// What a list of referrers has, if it is one.
fn entries(raw: &[u8]) -> Option<Vec<Value>> {
    let list: Value = serde_json::from_slice(raw).ok()?;
    list["manifests"].as_array().cloned()
}

/// Where an answer says that its next page is.
fn next_page(response: &Response) -> Option<Url> {
    let links = response.headers().get_all(LINK).iter();
    let links = links.filter_map(|value| value.to_str().ok());
    let mut links = links.flat_map(|value| value.split('<').skip(1));
    let next = links.find_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let mut parameters = parameters.split([';', ',']).map(str::trim);
        let is_next = parameters.any(|one| matches!(one, "rel=next" | "rel=\"next\""));
        is_next.then_some(target)
    });
    response.url().join(next?).ok()
}

impl Repository {
    /// The image's referrers, where the registry keeps a list of them itself. What is behind many pages, or at another
    /// host, is not asked for.
    async fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Value>>, Error> {
        let mut all = None;
        let mut page = Some(self.url(&format!("referrers/{subject}"))?);
        for _ in 0..PAGES {
            let Some(url) = page.filter(|url| url.origin() == self.base.origin()) else {
                break;
            };
            let answer = self
                .send(Request::new(Method::GET, url), Tries::Many)
                .await?;
            if answer.response.status() != StatusCode::OK {
                break;
            }
            page = next_page(&answer.response);
            let raw = http::read_limited(answer.response, oci::MAX_DOCUMENT).await?;
            let Some(entries) = entries(&raw) else { break };
            all.get_or_insert_with(Vec::new).extend(entries);
        }
        Ok(all)
    }

    /// Has the list under the tag of `subject` an artifact, beside those that others put there.
    async fn list_under_tag(
        &self,
        subject: &Digest,
        manifest: &Manifest,
        artifact: &Artifact,
    ) -> Result<(), Error> {
        let entry = artifact.entry(manifest);
        let tag = list_tag(subject);
        let mut retry = self.retry();
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
            let before = list.len();
            list.retain(|other| !artifact.replaces(other));
            let is_there = list.iter().any(|other| other["digest"] == entry["digest"]);
            if is_there && list.len() == before {
                return Ok(());
            }
            if look > 0 {
                tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(look)).await;
            }
            if !is_there {
                list.push(entry.clone());
            }
            let raw = index.to_string().into_bytes();
            if let Put::BlobsUnknown(error) = self.put_document(&raw, INDEX, &tag).await? {
                // A manifest of the list may be written anew by somebody just now.
                let trouble = Trouble::rare(error.to_string());
                let progress = self.registries.client.progress();
                if !retry.again(&tag, &trouble, progress).await {
                    return Err(error);
                }
            }
        }
        Err(self.protocol(format!(
            "does not keep what is put under `{tag}` of `{}`",
            self.name
        )))
    }
}
