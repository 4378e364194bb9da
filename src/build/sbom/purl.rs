//! Package URLs, by which programs know software whoever names it.
//!
//! Follows the purl specification and its types `pypi` and `oci`. What a package is is not known here.

use std::fmt::Write as _;

use crate::oci::reference::Name;

/// The URL of a distribution of the Python package index, by its normal name.
pub(super) fn of_package(name: &str, version: &str) -> String {
    format!("pkg:pypi/{}@{}", encoded(name, ""), encoded(version, ""))
}

/// The URL of an image, by the digest of its manifest. A name of this machine alone is in no registry.
pub(super) fn of_image(name: &Name, digest: &str, architecture: &str) -> String {
    let last = name.repository.rsplit('/').next().unwrap_or_default();
    let mut url = format!(
        "pkg:oci/{}@{}",
        encoded(&last.to_ascii_lowercase(), ""),
        encoded(digest, "")
    );
    // By the names of the qualifiers, as the specification orders them.
    let place = name.registry.is_some().then(|| name.without_version());
    let qualifiers = [
        (
            "arch",
            Some(architecture.to_owned()).filter(|it| !it.is_empty()),
        ),
        ("repository_url", place),
        ("tag", name.tag.clone()),
    ];
    let mut separator = '?';
    for (key, value) in qualifiers {
        if let Some(value) = value {
            let _ = write!(url, "{separator}{key}={}", encoded(&value, "/"));
            separator = '&';
        }
    }
    url
}

/// Colons stay as they are everywhere; `kept` may stay too.
fn encoded(text: &str, kept: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        let letter = char::from(byte);
        if byte.is_ascii_alphanumeric() || "-._~:".contains(letter) || kept.contains(letter) {
            encoded.push(letter);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_images_have_urls() {
        let image = |name: &str| of_image(&name.parse().unwrap(), "sha256:ab", "arm64");
        let urls = [
            of_package("typing-extensions", "4.16.0"),
            of_package("torch", "2!1.0+cpu"),
            image("orders"),
            image("registry.test:5000/team/orders:1"),
        ];
        insta::assert_snapshot!(urls.join("\n"), @"
        pkg:pypi/typing-extensions@4.16.0
        pkg:pypi/torch@2%211.0%2Bcpu
        pkg:oci/orders@sha256:ab?arch=arm64
        pkg:oci/orders@sha256:ab?arch=arm64&repository_url=registry.test:5000/team/orders&tag=1
        ");
    }
}
