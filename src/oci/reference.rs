//! Names of images: `registry/repository:tag@digest`, and names of the local store, which are the
//! same without a registry.
//!
//! Follows the grammar of the distribution specification. As Docker has it, the first component is a
//! registry only if it has a dot or a port or is `localhost`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::http;

const DEFAULT_TAG: &str = "latest";
const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub's registry really answers.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no image name: {reason}")]
pub struct ParseError {
    /// The text, without what may be a password.
    pub name: String,
    /// Why not.
    pub reason: &'static str,
}

impl ParseError {
    /// What is wrong with `text`.
    pub fn new(text: &str, reason: &'static str) -> Self {
        Self {
            name: http::redact_name(text),
            reason,
        }
    }
}

/// The name of an image, with or without a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Host, with port if any, in small letters.
    pub registry: Option<String>,
    /// The repository.
    pub repository: String,
    /// The tag, if one was written.
    pub tag: Option<String>,
    /// The digest, if one was written.
    pub digest: Option<Digest>,
}

impl FromStr for Name {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = |reason| ParseError::new(text, reason);
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse();
                (
                    rest,
                    Some(digest.map_err(|_| error("its digest is not a sha256 digest"))?),
                )
            }
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(error(
                "a tag is at most 128 of the letters, digits, `_`, `.` and `-`, and begins with none of the last two",
            ));
        }
        let (registry, repository) = match path.split_once('/') {
            // A host is the same in letters of any case.
            Some((first, rest)) if is_registry(first) => (Some(first.to_ascii_lowercase()), rest),
            _ => (None, path),
        };
        if repository.is_empty() {
            return Err(error("it has no repository"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(error(
                "a repository is made of lower-case letters and digits, with single `.`, `_`, `-` or `/` between them",
            ));
        }
        Ok(Self {
            registry,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

fn is_registry(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':'])
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| word(b) || b == b'.' || b == b'-';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(rest)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges = bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric);
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    edges
        && separators
            .into_iter()
            .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

impl Name {
    /// The name with its tag, `latest` where none was written and no digest either.
    pub fn tagged(&self) -> String {
        let name = self.without_version();
        match (&self.tag, &self.digest) {
            (Some(tag), _) => format!("{name}:{tag}"),
            (None, None) => format!("{name}:{DEFAULT_TAG}"),
            (None, Some(_)) => name,
        }
    }

    /// The name without tag and digest.
    pub fn without_version(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }

    /// The reference this name is, if it has a registry.
    pub fn reference(&self) -> Option<Reference> {
        let registry = self.registry.clone()?;
        Some(Reference {
            registry,
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            digest: self.digest,
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_version())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host, with port if any, in small letters.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag, if one was written.
    pub tag: Option<String>,
    /// The digest, if one was written; it counts more than the tag.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference; a name without registry is Docker Hub's, as everywhere.
    ///
    /// # Errors
    /// When it names no image.
    pub fn read(text: &str) -> Result<Self, ParseError> {
        let name: Name = text.parse()?;
        let on_hub = matches!(
            name.registry.as_deref(),
            None | Some(DOCKER_HUB | "index.docker.io")
        );
        let mut repository = name.repository;
        if on_hub && !repository.contains('/') {
            repository = format!("library/{repository}");
        }
        Ok(Self {
            registry: match name.registry {
                Some(registry) if !on_hub => registry,
                _ => DOCKER_HUB.to_owned(),
            },
            repository,
            tag: name.tag,
            digest: name.digest,
        })
    }

    /// The host to speak to, with port if any.
    pub fn host(&self) -> &str {
        if self.registry == DOCKER_HUB {
            DOCKER_HUB_HOST
        } else {
            &self.registry
        }
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Whether `other` names the same repository.
    pub fn same_repository(&self, other: &Self) -> bool {
        self.registry == other.registry && self.repository == other.repository
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match (&self.tag, &self.digest) {
            (Some(tag), _) => write!(f, ":{tag}")?,
            (None, None) => write!(f, ":{DEFAULT_TAG}")?,
            (None, Some(_)) => {}
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn registries_are_told_from_repositories() {
        let parts = |text: &str| {
            let n = name(text);
            (n.registry, n.repository, n.tag)
        };
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(parts("orders"), (None, "orders".into(), None));
        assert_eq!(
            parts("team/orders:1.4"),
            (None, "team/orders".into(), some("1.4"))
        );
        assert_eq!(parts("localhost/a"), (some("localhost"), "a".into(), None));
        assert_eq!(
            parts("127.0.0.1:5000/a/b:c"),
            (some("127.0.0.1:5000"), "a/b".into(), some("c"))
        );
        assert_eq!(
            parts("123456789012.dkr.ecr.eu-west-1.amazonaws.com/orders:1.4"),
            (
                some("123456789012.dkr.ecr.eu-west-1.amazonaws.com"),
                "orders".into(),
                some("1.4")
            )
        );
    }

    #[test]
    fn a_host_is_the_same_in_any_letters() {
        assert_eq!(name("R.Test:5000/a:V1").to_string(), "r.test:5000/a:V1");
        let hub = Reference::read("Index.Docker.IO/python").unwrap();
        assert_eq!(hub.to_string(), "docker.io/library/python:latest");
    }

    #[test]
    fn digests_count_more_than_tags() {
        let digest = Digest::of("x");
        let reference = Reference::read(&format!("r.test/a:1@{digest}")).unwrap();
        assert_eq!(reference.version(), digest.to_string());
        assert_eq!(reference.to_string(), format!("r.test/a:1@{digest}"));
        assert_eq!(name("a").tagged(), "a:latest");
    }

    #[test]
    fn hub_names_are_completed() {
        let reference = Reference::read("python:3.12-slim").unwrap();
        assert_eq!(reference.to_string(), "docker.io/library/python:3.12-slim");
        assert_eq!(reference.host(), "registry-1.docker.io");
    }

    #[test]
    fn bad_names_say_why() {
        let error = |text: &str| text.parse::<Name>().unwrap_err().to_string();
        insta::assert_snapshot!(error("Orders"), @"`Orders` is no image name: a repository is made of lower-case letters and digits, with single `.`, `_`, `-` or `/` between them");
        insta::assert_snapshot!(error("a:b:c"), @"`a:b:c` is no image name: a tag is at most 128 of the letters, digits, `_`, `.` and `-`, and begins with none of the last two");
        insta::assert_snapshot!(error("a@sha256:1"), @"`a@sha256:1` is no image name: its digest is not a sha256 digest");
        insta::assert_snapshot!(error("r.test/"), @"`r.test/` is no image name: it has no repository");
        for bad in [
            "",
            "a//b",
            "-a",
            "a.",
            "a..b",
            "a___b",
            "r.test:5000/",
            ":tag",
            "a/../b",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_back(text in "[a-z0-9.:/@_-]{1,40}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
