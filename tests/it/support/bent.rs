//! A registry in memory that does not do what it should: one answer at a time is bent.
//!
//! It takes no manifest whose blobs it lacks; what is bent, and when, is each test's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use serde_json::Value;

use crate::support::digest;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;

pub(crate) const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifests: BTreeMap<String, Vec<u8>>,
    pub(crate) sessions: usize,
    /// How often a test has bent an answer.
    pub(crate) bent: usize,
}

impl Kept {
    pub(crate) fn put_manifest(&mut self, version: &str, bytes: &[u8]) {
        self.manifests.insert(digest(bytes), bytes.to_vec());
        self.manifests.insert(version.to_owned(), bytes.to_vec());
    }

    pub(crate) fn lacks_blobs_of(&self, manifest: &[u8]) -> bool {
        let document: Value = serde_json::from_slice(manifest).unwrap();
        let layers = document["layers"].as_array().into_iter().flatten();
        // An index has neither.
        let mut blobs = layers.chain(document.get("config"));
        blobs.any(|blob| !self.blobs.contains_key(blob["digest"].as_str().unwrap()))
    }

    pub(crate) fn answer(&mut self, asked: &Asked) -> Reply {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        // A connection that was opened and not used.
        let (place, last) = path.rsplit_once('/').unwrap_or_default();
        match (
            asked.method.as_str(),
            place.rsplit('/').next().unwrap_or_default(),
        ) {
            ("GET" | "HEAD", "manifests") => match self.manifests.get(last) {
                Some(bytes) => Reply::status(200)
                    .header("Content-Type", MANIFEST)
                    .header("Docker-Content-Digest", digest(bytes))
                    .body(bytes.clone()),
                None => Reply::status(404),
            },
            ("PUT", "manifests") if self.lacks_blobs_of(&asked.body) => {
                said(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
            }
            ("PUT", "manifests") => {
                self.put_manifest(last, &asked.body);
                Reply::status(201)
            }
            ("GET", "blobs") if self.blobs.contains_key(last) => {
                Reply::status(200).body(self.blobs[last].clone())
            }
            ("HEAD", "blobs") if self.blobs.contains_key(last) => Reply::status(200),
            ("HEAD", "blobs") => Reply::status(404),
            ("POST", "uploads") => {
                self.sessions += 1;
                let session = format!("{path}{}?state=presigned", self.sessions);
                Reply::status(202).header("Location", session)
            }
            ("PUT", "uploads") => {
                let wanted = query.rsplit("digest=").next().unwrap().replace("%3A", ":");
                if digest(&asked.body) != wanted {
                    return said(400, "DIGEST_INVALID", "provided digest did not match");
                }
                self.blobs.insert(wanted, asked.body.clone());
                Reply::status(201)
            }
            _ => Reply::status(405),
        }
    }
}

pub(crate) fn said(status: u16, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
    Reply::status(status).body(body.to_string())
}

pub(crate) struct Registry {
    pub(crate) server: Server,
    pub(crate) kept: Arc<Mutex<Kept>>,
}

impl Registry {
    /// Answers as `bend` says, where it says something.
    pub(crate) fn bent(
        bend: impl Fn(&Asked, &mut Kept) -> Option<Reply> + Send + Sync + 'static,
    ) -> Registry {
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let shared = Arc::clone(&kept);
        let server = Server::start(move |asked| {
            let mut kept = shared.lock().unwrap();
            bend(asked, &mut kept).unwrap_or_else(|| kept.answer(asked))
        });
        Registry { server, kept }
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    pub(crate) fn name(&self, tag: &str) -> String {
        format!("{}/functions/app:{tag}", self.server.address())
    }

    pub(crate) fn asked(&self, method: &str, part: &str) -> Vec<Asked> {
        let asked = self.server.asked().into_iter();
        asked
            .filter(|asked| asked.method == method && asked.target.contains(part))
            .collect()
    }
}

/// A manifest of nobody, under a tag.
pub(crate) fn other() -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}"}}"#).into_bytes()
}
