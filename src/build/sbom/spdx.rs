//! The document as SPDX 2.3 has it, in JSON.
//!
//! What is in an image is found out elsewhere.

use serde_json::{Value, json};

use crate::build::sbom::licence::{Licence, Term};
use crate::build::sbom::{Component, Materials, Named, TOOL, TOOL_VERSION, number};
use crate::http::Url;

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const BASE: &str = "SPDXRef-Base";
const NOTHING: &str = "NOASSERTION";
/// The date of an image that says none; SPDX has no document without.
const NO_DATE: &str = "1970-01-01T00:00:00Z";

pub(super) fn document(materials: &Materials) -> Value {
    let image = &materials.image;
    let mut extracted = Extracted::default();
    let mut packages = vec![container(image, IMAGE)];
    packages.extend(materials.base.iter().map(|base| container(base, BASE)));
    let all = materials.packages.iter().enumerate();
    packages.extend(all.map(|(place, package)| library(place, package, &mut extracted)));
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": image.name,
        "creationInfo": {
            "created": image.created.as_deref().unwrap_or(NO_DATE),
            "creators": [format!("Tool: {TOOL}-{TOOL_VERSION}")],
        },
        "packages": packages,
        "relationships": relationships(materials),
    });
    if !extracted.0.is_empty() {
        document["hasExtractedLicensingInfos"] = json!(extracted.0);
    }
    let namespace = format!("https://spdx.org/spdxdocs/{TOOL}-{}", number(&document));
    document["documentNamespace"] = json!(namespace);
    document
}

/// Licences that SPDX's list does not have.
#[derive(Default)]
struct Extracted(Vec<Value>);

impl Extracted {
    /// The identifier of a licence of this name.
    fn of_name(&mut self, name: &str) -> String {
        let mut known = self.0.iter();
        if let Some(known) = known.find(|info| info["name"] == name) {
            return known["licenseId"].as_str().unwrap_or_default().to_owned();
        }
        let id = format!("LicenseRef-{TOOL}-{}", self.0.len() + 1);
        self.add(&id, name);
        id
    }

    fn add(&mut self, id: &str, name: &str) {
        if !self.0.iter().any(|info| info["licenseId"] == id) {
            let text = format!("METADATA says `{name}`");
            self.0
                .push(json!({"licenseId": id, "name": name, "extractedText": text}));
        }
    }
}

fn purl(purl: &str) -> Value {
    json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}])
}

fn sha256(hex: &str) -> Value {
    json!([{"algorithm": "SHA256", "checksumValue": hex}])
}

fn container(image: &Named, id: &str) -> Value {
    let mut package = json!({
        "SPDXID": id,
        "name": image.name,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
    });
    if let Some(digest) = &image.digest {
        package["versionInfo"] = json!(digest);
        package["checksums"] = sha256(digest.trim_start_matches("sha256:"));
    }
    if let Some(url) = &image.purl {
        package["externalRefs"] = purl(url);
    }
    package
}

/// The identifier of a package. Names may be there twice, and in versions there are letters that none has.
fn id_of(place: usize, package: &Component) -> String {
    let name = package.name.chars();
    let name: String = name
        .map(|letter| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => letter,
            _ => '-',
        })
        .collect();
    format!("SPDXRef-Package-{}-{name}", place + 1)
}

fn library(place: usize, package: &Component, extracted: &mut Extracted) -> Value {
    let (declared, comment) = licence(&package.licence, extracted);
    let url = package.wheel.and_then(|wheel| wheel.url.as_deref());
    let mut whose = format!("layer {}, {}", package.layer, package.info);
    if package.is_base {
        whose = format!("of the base: {whose}");
    }
    let mut value = json!({
        "SPDXID": id_of(place, package),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": url.filter(|url| is_location(url)).unwrap_or(NOTHING),
        "filesAnalyzed": false,
        "primaryPackagePurpose": "LIBRARY",
        "licenseConcluded": NOTHING,
        "licenseDeclared": declared,
        "copyrightText": NOTHING,
        "externalRefs": purl(&package.purl),
        "comment": whose,
    });
    if let Some(comment) = comment {
        value["licenseComments"] = json!(comment);
    }
    if let Some(summary) = package.summary {
        value["summary"] = json!(summary);
    }
    for (key, who) in [
        ("supplier", &package.supplier),
        ("originator", &package.author),
    ] {
        if let Some(who) = who {
            value[key] = json!(match &who.email {
                Some(email) => format!("Person: {} ({email})", who.name),
                None => format!("Person: {}", who.name),
            });
        }
    }
    if let Some(wheel) = package.wheel {
        value["packageFileName"] = json!(wheel.file);
        if let Some(url) = url {
            value["sourceInfo"] = json!(format!("the lock has {url}"));
        }
        value["checksums"] = sha256(&wheel.sha256.hex());
    }
    value
}

/// Whether readers of SPDX take a URL for a location: SPDX's own tools want a host whose last part has two to five
/// letters, so that an index inside a house, `localhost` or an address is none.
fn is_location(url: &str) -> bool {
    let url = Url::parse(url);
    let host = url.ok().and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| {
        let labels = |label: &str| {
            label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let last = host.rsplit_once('.').map(|(_, last)| last);
        host.split('.').all(labels)
            && last.is_some_and(|last| {
                (2..=5).contains(&last.len()) && last.bytes().all(|b| b.is_ascii_lowercase())
            })
    })
}

/// What is declared, and what else is to be said of it.
fn licence(licence: &Licence, extracted: &mut Extracted) -> (String, Option<String>) {
    match licence {
        Licence::Expression { text, refs, .. } => {
            for id in refs {
                extracted.add(id, id);
            }
            (text.clone(), None)
        }
        Licence::Names(terms) => match &**terms {
            [] => (NOTHING.to_owned(), None),
            [Term::Id(id)] => ((*id).to_owned(), None),
            [Term::Name(name)] => (extracted.of_name(name), None),
            // Whether all apply or one may be chosen is not said.
            several => {
                let names: Vec<_> = several.iter().map(Term::as_str).collect();
                let comment = format!("METADATA names {}", names.join("; "));
                (NOTHING.to_owned(), Some(comment))
            }
        },
    }
}

fn relationships(materials: &Materials) -> Vec<Value> {
    let related = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let packages = &materials.packages;
    let id = |place: usize| id_of(place, &packages[place]);
    let mut all = vec![related(DOCUMENT, "DESCRIBES", IMAGE)];
    if materials.base.is_some() {
        all.push(related(IMAGE, "DESCENDANT_OF", BASE));
    }
    for (place, package) in packages.iter().enumerate() {
        all.push(related(IMAGE, "CONTAINS", &id(place)));
        if package.is_base && materials.base.is_some() {
            all.push(related(BASE, "CONTAINS", &id(place)));
        }
    }
    let edges = packages.iter().enumerate().flat_map(|(place, package)| {
        let requires = package.requires.iter();
        requires.map(move |other| (place, *other))
    });
    all.extend(edges.map(|(from, to)| related(&id(from), "DEPENDS_ON", &id(to))));
    all
}

#[cfg(test)]
mod tests {
    use super::is_location;

    #[test]
    fn locations_are_those_that_tools_take() {
        assert!(is_location(
            "https://files.pythonhosted.org/packages/a/a-1-py3-none-any.whl"
        ));
        for url in [
            "http://127.0.0.1:8080/a.whl",
            "http://localhost/a.whl",
            "https://pypi.corp.internal/a.whl",
            "no URL",
        ] {
            assert!(!is_location(url), "{url}");
        }
    }
}
