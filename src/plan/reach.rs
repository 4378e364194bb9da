//! How registries are reached and what a push may do there: the words of [`Config`] as values.
//!
//! Nothing of it decides a byte of an image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::aws::repository::{EncryptionType, RepositorySettings, TagMutability};
use crate::config::{Config, Place, Setting};
use crate::http::{self, Url};
use crate::plan::{Error, bad_value, read_bool};
use crate::registry::pull::Mirror;

/// How registries are reached, and what a push may do there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Hosts, with port if any, that are spoken to without TLS.
    pub plain_http: BTreeSet<String>,
    /// A file of authorities that are trusted beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Where registries are read first.
    pub mirrors: BTreeMap<String, Mirror>,
    /// Whether a tag that is another image's stays so.
    pub immutable_tags: bool,
    /// What a missing repository is to be like, where it is to be made.
    pub create: Option<RepositorySettings>,
}

/// What `config` says of registries; paths in a file are meant from `project`.
///
/// # Errors
/// When a value has no meaning.
pub fn reach(project: &Path, config: &Config) -> Result<Reach, Error> {
    let creates = read_bool(config.create_repository.as_ref())?;
    // What is written wrong is told also where nothing is made.
    let new = new_repository(config)?;
    Ok(Reach {
        plain_http: hosts(config.plain_http.as_ref())?,
        ca_file: config.ca_file.as_ref().map(|setting| match setting.place {
            Place::File(..) => project.join(&setting.value),
            Place::Flag(_) | Place::Variable(_) => PathBuf::from(&setting.value),
        }),
        mirrors: mirrors(config.mirrors.as_ref())?,
        immutable_tags: read_bool(config.immutable_tags.as_ref())?,
        create: creates.then_some(new),
    })
}

fn hosts(setting: Option<&Setting<Vec<String>>>) -> Result<BTreeSet<String>, Error> {
    let mut hosts = BTreeSet::new();
    let Some(setting) = setting else {
        return Ok(hosts);
    };
    for text in &setting.value {
        let host = read_host(text).ok_or_else(|| Error::Value {
            value: http::redact_name(text),
            place: setting.place.clone(),
            wanted: "no host alone; write HOST or HOST:PORT, as images' names begin",
        })?;
        hosts.insert(host);
    }
    Ok(hosts)
}

/// A host, with port if any, as those of references and addresses are compared with it.
fn read_host(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    // A scheme of no meaning: it has no default port, which would be left out.
    let url = Url::parse(&format!("host://{text}")).ok()?;
    let is_alone = url.path().is_empty() && url.query().is_none() && url.fragment().is_none();
    (is_alone && http::host_and_port(&url) == text && !text.is_empty()).then_some(text)
}

fn mirrors(setting: Option<&Setting<Vec<String>>>) -> Result<BTreeMap<String, Mirror>, Error> {
    let mut mirrors = BTreeMap::new();
    let Some(setting) = setting else {
        return Ok(mirrors);
    };
    for text in &setting.value {
        let (host, place) = pair(text, setting, "no mirror; write HOST=HOST/PREFIX")?;
        let no_name = |error| Error::Name {
            error,
            place: setting.place.clone(),
        };
        let registry = Mirror::read_registry(host).map_err(no_name)?;
        let mirror = Mirror::read(place).map_err(no_name)?;
        mirrors.insert(registry, mirror);
    }
    Ok(mirrors)
}

fn pair<'a>(
    text: &'a str,
    setting: &Setting<Vec<String>>,
    wanted: &'static str,
) -> Result<(&'a str, &'a str), Error> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.ok_or_else(|| Error::Value {
        value: http::redact_name(text),
        place: setting.place.clone(),
        wanted,
    })
}

fn new_repository(config: &Config) -> Result<RepositorySettings, Error> {
    let written = &config.repository;
    let tag_mutability = match &written.tag_mutability {
        None => None,
        Some(setting) => Some(match setting.value.to_lowercase().as_str() {
            "immutable" => TagMutability::Immutable,
            "mutable" => TagMutability::Mutable,
            _ => return Err(bad_value(setting, "neither mutable nor immutable")),
        }),
    };
    let scan = written.scan_on_push.as_ref();
    // The stronger come last.
    let mut tags = BTreeMap::new();
    for text in written.tags.iter().flat_map(|setting| &setting.value) {
        let Some(setting) = &written.tags else { break };
        let (key, value) = pair(text, setting, "no tag of AWS; write KEY=VALUE")?;
        tags.insert(key.to_owned(), value.to_owned());
    }
    let key = written.kms_key.as_ref();
    let encryption = match (&written.encryption, key) {
        (None, None) => None,
        (None, Some(key)) => Some((EncryptionType::Kms, Some(key.value.clone()))),
        (Some(setting), key) => Some(match (setting.value.as_str(), key) {
            ("AES256", None) => (EncryptionType::Aes256, None),
            ("KMS", key) => (EncryptionType::Kms, key.map(|key| key.value.clone())),
            ("KMS_DSSE", key) => (EncryptionType::KmsDsse, key.map(|key| key.value.clone())),
            ("AES256", Some(key)) => {
                return Err(bad_value(
                    key,
                    "a key for KMS, and the encryption is AES256",
                ));
            }
            _ => return Err(bad_value(setting, "none of AES256, KMS, KMS_DSSE")),
        }),
    };
    let except = written.except_tags.as_ref();
    Ok(RepositorySettings {
        tag_mutability,
        except_tags: except
            .map(|setting| setting.value.clone())
            .unwrap_or_default(),
        scan_on_push: scan.map(|setting| read_bool(Some(setting))).transpose()?,
        tags: tags.into_iter().collect(),
        encryption,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Reach, Error> {
        let config = Config::from_toml(text, "lambimg.toml").unwrap().unwrap();
        reach(Path::new("/project"), &config)
    }

    #[test]
    fn words_become_values() {
        let text = "ca-file = 'ca.pem'\nimmutable-tags = true\ncreate-repository = true\n\
                    mirrors = { 'public.ecr.aws' = 'm.test/ecr' }\n[repository]\n\
                    tag-mutability = 'IMMUTABLE'\nexcept-tags = ['dev-*']\nscan-on-push = false\nkms-key = 'alias/k'\n\
                    tags = { team = 'a=b' }";
        let reach = read(text).unwrap();
        assert_eq!(reach.ca_file, Some("/project/ca.pem".into()));
        assert!(reach.immutable_tags);
        assert_eq!(
            reach.mirrors["public.ecr.aws"],
            Mirror::read("m.test/ecr").unwrap()
        );
        let wanted = RepositorySettings {
            tag_mutability: Some(TagMutability::Immutable),
            except_tags: vec!["dev-*".to_owned()],
            scan_on_push: Some(false),
            tags: [("team".to_owned(), "a=b".to_owned())].into(),
            encryption: Some((EncryptionType::Kms, Some("alias/k".into()))),
        };
        assert_eq!(reach.create, Some(wanted));
        assert_eq!(read("").unwrap(), Reach::default());
    }

    #[test]
    fn hosts_without_tls_are_hosts_alone() {
        for (text, host) in [
            ("r.test", Some("r.test")),
            ("R.Test:5000", Some("r.test:5000")),
            ("registry", Some("registry")),
            ("r.test:80", Some("r.test:80")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("", None),
            ("r.test/", None),
            ("r.test/a", None),
            ("http://r.test", None),
            ("me:pw@r.test", None),
            ("r.test?a", None),
            ("r.test:", None),
            ("r test", None),
        ] {
            assert_eq!(read_host(text).as_deref(), host, "{text}");
        }
    }

    #[test]
    fn the_stronger_tag_wins() {
        let variables = [("LAMBIMG_REPOSITORY_TAGS".to_owned(), "team=b".to_owned())];
        let stronger = Config::from_variables(variables.to_vec()).unwrap();
        let text = "[repository]\ntags = { team = 'a', cost = '1' }";
        let weaker = Config::from_toml(text, "lambimg.toml").unwrap().unwrap();
        let reach = new_repository(&stronger.or(weaker)).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(reach.tags, [pair("cost", "1"), pair("team", "b")]);
    }

    #[test]
    fn words_without_meaning_are_refused() {
        let error = |text: &str| read(text).unwrap_err().to_string();
        insta::assert_snapshot!(error("mirrors = { 'https://a.test' = 'm.test' }"), @"`https://a.test` is no image name: it is not the host of a registry alone (`lambimg.toml` line 1)");
        insta::assert_snapshot!(error("plain-http = ['http://a.test']"), @"`http://a.test` (`lambimg.toml` line 1) is no host alone; write HOST or HOST:PORT, as images' names begin");
        insta::assert_snapshot!(error("mirrors = { 'a.test' = 'nowhere' }"), @"`nowhere` is no image name: it names no registry (`lambimg.toml` line 1)");
        insta::assert_snapshot!(error("[repository]\ntag-mutability = 'some'"), @"`some` (`lambimg.toml` line 2) is neither mutable nor immutable");
        insta::assert_snapshot!(error("[repository]\nencryption = 'none'"), @"`none` (`lambimg.toml` line 2) is none of AES256, KMS, KMS_DSSE");
        insta::assert_snapshot!(error("[repository]\nencryption = 'AES256'\nkms-key = 'k'"), @"`k` (`lambimg.toml` line 3) is a key for KMS, and the encryption is AES256");
    }
}
