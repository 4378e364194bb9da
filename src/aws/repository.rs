//! Repositories of ECR: whether one is there, and how one is made.

use serde_json::{Map, Value, json};

use super::ecr::Registry;
use super::{Aws, Error};

/// Whether a tag may come to name another image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagMutability {
    /// Tags may move.
    Mutable,
    /// Tags stay where they are.
    Immutable,
}

/// What encrypts a repository's images at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptionType {
    /// A key of S3's.
    Aes256,
    /// A key of the key management service.
    Kms,
    /// The same, in two layers.
    KmsDsse,
}

/// How a repository is made; what is not said is left to AWS. The public gallery knows the tags alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Whether tags may move.
    pub tag_mutability: Option<TagMutability>,
    /// Patterns of tags, with `*`, for which the opposite holds.
    pub except_tags: Vec<String>,
    /// Whether images are scanned when they are pushed.
    pub scan_on_push: Option<bool>,
    /// Keys and values that the repository is marked with.
    pub tags: Vec<(String, String)>,
    /// What encrypts its images, and with which key, by the key's ARN.
    pub encryption: Option<(EncryptionType, Option<String>)>,
}

impl RepositorySettings {
    /// Whether there is more than the public gallery takes.
    fn exceed_gallery(&self) -> bool {
        let Self {
            tag_mutability,
            except_tags,
            scan_on_push,
            tags: _,
            encryption,
        } = self;
        tag_mutability.is_some()
            || !except_tags.is_empty()
            || scan_on_push.is_some()
            || encryption.is_some()
    }

    /// The request that makes `repository` so.
    fn request(&self, registry: &Registry, repository: &str) -> Value {
        let mut request = named(
            registry,
            "repositoryName",
            json!(registry.name_of(repository)),
        );
        if !self.tags.is_empty() {
            let tags = self.tags.iter();
            let tags = tags.map(|(key, value)| json!({"Key": key, "Value": value}));
            request.insert("tags".into(), tags.collect());
        }
        if registry.is_public() {
            return request.into();
        }
        if self.tag_mutability.is_some() || !self.except_tags.is_empty() {
            let mutability = match (self.tag_mutability, self.except_tags.is_empty()) {
                (Some(TagMutability::Immutable), true) => "IMMUTABLE",
                (Some(TagMutability::Immutable), false) => "IMMUTABLE_WITH_EXCLUSION",
                (_, true) => "MUTABLE",
                (_, false) => "MUTABLE_WITH_EXCLUSION",
            };
            request.insert("imageTagMutability".into(), json!(mutability));
        }
        if !self.except_tags.is_empty() {
            let filters = self.except_tags.iter();
            let filters = filters.map(|tags| json!({"filterType": "WILDCARD", "filter": tags}));
            request.insert(
                "imageTagMutabilityExclusionFilters".into(),
                filters.collect(),
            );
        }
        if let Some(scan) = self.scan_on_push {
            request.insert(
                "imageScanningConfiguration".into(),
                json!({"scanOnPush": scan}),
            );
        }
        if let Some((kind, key)) = &self.encryption {
            let kind = match kind {
                EncryptionType::Aes256 => "AES256",
                EncryptionType::Kms => "KMS",
                EncryptionType::KmsDsse => "KMS_DSSE",
            };
            let mut encryption = json!({"encryptionType": kind});
            if let Some(key) = key {
                encryption["kmsKey"] = json!(key);
            }
            request.insert("encryptionConfiguration".into(), encryption);
        }
        request.into()
    }
}

/// A request about the registry's own account: without it AWS takes the caller's, whoever's host it is.
fn named(registry: &Registry, key: &str, value: Value) -> Map<String, Value> {
    let account = registry
        .account()
        .map(|account| ("registryId".to_owned(), json!(account)));
    account
        .into_iter()
        .chain([(key.to_owned(), value)])
        .collect()
}

fn is(error: &Error, wanted: &str) -> bool {
    matches!(error, Error::Answer { code, .. } if code == wanted)
}

impl Aws {
    /// Whether `repository` of `registry` is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn repository_exists(
        &self,
        registry: &Registry,
        repository: &str,
    ) -> Result<bool, Error> {
        let names = json!([registry.name_of(repository)]);
        let request = named(registry, "repositoryNames", names).into();
        match self
            .call(&registry.call("DescribeRepositories", &request))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if is(&error, "RepositoryNotFoundException") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes `repository` in `registry`, and says whether it was not there before. One that is there stays as
    /// it is, whatever the settings say.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_repository(
        &self,
        registry: &Registry,
        repository: &str,
        settings: &RepositorySettings,
    ) -> Result<bool, Error> {
        let request = settings.request(registry, repository);
        match self
            .call(&registry.call("CreateRepository", &request))
            .await
        {
            Ok(_) => {
                if registry.is_public() && settings.exceed_gallery() {
                    self.0.settings.progress.warn(format!(
                        "the public gallery takes only tags for a new repository, and `{repository}` has nothing \
                         else of what is configured"
                    ));
                }
                Ok(true)
            }
            Err(error) if is(&error, "RepositoryAlreadyExistsException") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_said_as_ecr_has_them() {
        let private = Registry::parse("123456789012.dkr.ecr.eu-west-1.amazonaws.com").unwrap();
        let settings = RepositorySettings {
            tag_mutability: Some(TagMutability::Immutable),
            except_tags: vec!["dev-*".to_owned()],
            scan_on_push: Some(true),
            tags: vec![("team".to_owned(), "orders".to_owned())],
            encryption: Some((EncryptionType::Kms, Some("arn:aws:kms:key".to_owned()))),
        };
        assert_eq!(
            settings.request(&private, "team/app"),
            json!({
                "registryId": "123456789012", "repositoryName": "team/app",
                "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
                "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "dev-*"}],
                "imageScanningConfiguration": {"scanOnPush": true},
                "tags": [{"Key": "team", "Value": "orders"}],
                "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": "arn:aws:kms:key"},
            })
        );
        let public = Registry::parse("public.ecr.aws").unwrap();
        assert!(settings.exceed_gallery());
        let tagged = RepositorySettings {
            tags: settings.tags.clone(),
            ..RepositorySettings::default()
        };
        assert!(!tagged.exceed_gallery());
        assert_eq!(
            settings.request(&public, "alias/app"),
            json!({"repositoryName": "app", "tags": [{"Key": "team", "Value": "orders"}]})
        );
        assert_eq!(
            RepositorySettings::default().request(&private, "app"),
            json!({"registryId": "123456789012", "repositoryName": "app"})
        );
        let mutable = RepositorySettings {
            except_tags: vec!["v*".to_owned()],
            ..RepositorySettings::default()
        };
        let request = mutable.request(&private, "app");
        assert_eq!(request["imageTagMutability"], "MUTABLE_WITH_EXCLUSION");
    }
}
