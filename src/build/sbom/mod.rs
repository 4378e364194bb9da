//! A bill of materials: the software that an image has, in two standard forms for programs.
//!
//! What is in it is what is installed in the image, whoever made it; the lock that a layer was built from adds where
//! each wheel came from and what its bytes hash to. Pure but for that memory, which is by layers: another base or
//! another image with the same layer changes nothing of it, and for a label large images have too many wheels. No clock is read and nothing is counted from
//! run to run, so that the same image has the same document, whose number follows from its content.

mod cyclonedx;
mod licence;
mod purl;
mod spdx;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use pep440_rs::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::blob_store::{self, BlobStore, MemoKey};
use crate::build::Error;
use crate::build::inventory::{Inventory, Package};
use crate::build::sbom::licence::Licence;
use crate::digest::Digest;
use crate::http;
use crate::lambda;
use crate::lambda::check;
use crate::lambda::check::Installed;
use crate::lambda::check::subject::Subject;
use crate::oci::reference::Name;
use crate::python::lock::{Location, LockedWheel};
use crate::python::markers::Markers;
use crate::python::requirement::Requirement;

/// Who made the document.
const TOOL: &str = "lambimg";
const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");
/// What tools before ours wrote where nothing was to be said.
const UNKNOWN: &str = "UNKNOWN";
/// The fields with a name and an address of who wrote a distribution, and of who looks after it. Who supplies it no
/// field says; whoever looks after it is nearest.
const AUTHOR: [&str; 2] = ["Author", "Author-email"];
const MAINTAINER: [&str; 2] = ["Maintainer", "Maintainer-email"];

/// A form of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `CycloneDX` 1.6, as JSON.
    CycloneDx,
    /// SPDX 2.3, as JSON.
    Spdx,
}

impl Format {
    /// The media type, by which an attached document is found.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::CycloneDx => "application/vnd.cyclonedx+json",
            Self::Spdx => "application/spdx+json",
        }
    }
}

/// A wheel that something in an image was installed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wheel {
    /// The project's normal name.
    name: String,
    /// The version.
    version: String,
    /// The wheel's file name.
    file: String,
    /// What its bytes hash to.
    sha256: Digest,
    /// Where it was had, if that means something elsewhere; without credentials.
    url: Option<String>,
}

impl Wheel {
    /// What of a locked wheel is to be known to others.
    pub(super) fn of(wheel: &LockedWheel) -> Self {
        let url = match &wheel.location {
            Location::Url(url) if matches!(url.scheme(), "http" | "https") => {
                Some(http::redact(url))
            }
            Location::Url(_) | Location::Path(_) => None,
        };
        Self {
            name: wheel.name.clone(),
            version: wheel.version.clone(),
            file: wheel.filename.to_string(),
            sha256: wheel.digest,
            // What was built here can be had nowhere.
            url: url.filter(|_| wheel.built.is_none()),
        }
    }

    fn is_of(&self, package: &Installed) -> bool {
        let same_version = || {
            let ours = Version::from_str(&self.version).ok();
            ours.is_some() && ours == Version::from_str(package.version).ok()
        };
        self.name == package.name && (self.version == package.version || same_version())
    }
}

/// What a layer was made of.
#[derive(Serialize, Deserialize)]
struct Sources {
    layer: Digest,
    wheels: Vec<Wheel>,
}

pub(super) fn key(layer: &Digest) -> MemoKey {
    MemoKey::new("materials 2", [layer.as_bytes()])
}

/// Remembers which wheels are in a layer, if any: whichever image has it, it is the same.
pub(super) fn remember(
    store: &BlobStore,
    layer: Digest,
    wheels: Option<Vec<&LockedWheel>>,
) -> Result<(), blob_store::Error> {
    let wheels = wheels.into_iter().flatten().map(Wheel::of).collect();
    store.remember(&key(&layer), &Sources { layer, wheels })
}

/// The wheels in layers of an image, by the digests of those whose builds were made or taken part in here.
pub type Wheels = BTreeMap<Digest, Vec<Wheel>>;

/// What is known here of the wheels in an image.
pub fn wheels(store: &BlobStore, image: &Subject) -> Wheels {
    let layers = image.layers.iter().map(|layer| layer.digest);
    let known = layers.filter_map(|layer| store.recall::<Sources>(&key(&layer)));
    known.map(|known| (known.layer, known.wheels)).collect()
}

/// Whether more may be known elsewhere: an own layer has distributions, and which wheels are in it is not known here.
pub(super) fn lacks(image: &Subject, wheels: &Wheels) -> bool {
    let own = check::installed(image).into_iter();
    let mut own = own.filter(|one| one.layer >= image.base);
    own.any(|one| !wheels.contains_key(&image.layers[one.layer].digest))
}

/// The document of an image, which has this name, if any. It ends in a line's end.
///
/// # Errors
/// [`Error::Unlisted`]: a document that lacks something is worse than none.
pub fn document(
    image: &Subject,
    name: Option<&Name>,
    wheels: &Wheels,
    format: Format,
) -> Result<String, Error> {
    if let Some(number) = check::unread(image).into_iter().next() {
        let why = image.layers[number].damage.clone();
        return Err(Error::Unlisted {
            layer: number + 1,
            why: why.unwrap_or_else(|| "it is packed in a way that is not read".to_owned()),
        });
    }
    let inventory = Inventory::of(image);
    let materials = Materials::of(image, &inventory, name, wheels);
    let value = match format {
        Format::CycloneDx => cyclonedx::document(&materials),
        Format::Spdx => spdx::document(&materials),
    };
    Ok(format!("{value:#}\n"))
}

/// When an image was made, in RFC 3339, if it says so.
pub(super) fn created(image: &Subject) -> Option<String> {
    let created = image.documents.config.value["created"].as_str();
    created.and_then(to_the_second)
}

/// The digest that an image is known by; that of its config where it has no manifest.
fn digest_of(image: &Subject) -> Digest {
    let manifest = image.documents.manifest.as_ref();
    Digest::of(&manifest.unwrap_or(&image.documents.config).raw)
}

/// The number of a document that has none yet.
fn number(document: &Value) -> Uuid {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"https://pypi.org/project/lambimg/");
    Uuid::new_v5(&namespace, document.to_string().as_bytes())
}

/// An image, as a document names it.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    name: String,
    digest: Option<String>,
    purl: Option<String>,
    /// In RFC 3339, to the second.
    created: Option<String>,
}

/// All that a document says, whatever its form.
#[derive(Debug)]
struct Materials<'a> {
    image: Named,
    base: Option<Named>,
    packages: Vec<Component<'a>>,
}

/// An installed distribution.
#[derive(Debug)]
struct Component<'a> {
    /// As its author writes it.
    name: &'a str,
    version: &'a str,
    purl: String,
    /// Its `.dist-info`, which nothing else in the image has.
    info: &'a str,
    layer: Digest,
    is_base: bool,
    summary: Option<&'a str>,
    author: Option<Author>,
    /// Who releases it, as far as it says so.
    supplier: Option<Author>,
    licence: Licence,
    wheel: Option<&'a Wheel>,
    /// The components that it requires, by their places.
    requires: BTreeSet<usize>,
}

/// Who made something.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Author {
    name: String,
    email: Option<String>,
}

impl<'a> Materials<'a> {
    fn of(
        image: &Subject,
        inventory: &'a Inventory,
        name: Option<&Name>,
        wheels: &'a Wheels,
    ) -> Self {
        let digest = digest_of(image).to_string();
        let architecture = image.documents.architecture();
        let base = inventory.base.as_ref().map(|base| {
            let name = base.name.as_deref().and_then(|text| text.parse().ok());
            let digest = base.digest.as_deref().filter(|text| is_digest(text));
            Named {
                name: base
                    .name
                    .clone()
                    .or_else(|| base.digest.clone())
                    .unwrap_or_else(|| "base".to_owned()),
                digest: digest.map(str::to_owned),
                purl: name
                    .zip(digest)
                    .map(|(name, digest)| purl::of_image(&name, digest, architecture)),
                created: base.created.as_deref().and_then(to_the_second),
            }
        });
        // By whichever tag it is called, it is the same.
        let untagged = name.map(|name| Name {
            tag: None,
            ..name.clone()
        });
        Self {
            image: Named {
                name: name.map_or_else(|| digest.clone(), Name::without_version),
                purl: untagged.map(|name| purl::of_image(&name, &digest, architecture)),
                digest: Some(digest),
                created: created(image),
            },
            base,
            packages: components(image, inventory, wheels),
        }
    }

    /// The packages of the base, or those above it, that lead to all others of them by what they require.
    fn roots(&self, is_base: bool) -> Vec<usize> {
        let all = self.packages.iter().enumerate();
        let own: BTreeSet<usize> = all
            .filter(|(_, package)| package.is_base == is_base)
            .map(|(place, _)| place)
            .collect();
        let others_of = |place: &usize| self.packages[*place].requires.iter().copied();
        let required: BTreeSet<usize> = own.iter().flat_map(others_of).collect();
        // Then those of circles that nobody else requires.
        let (free, others): (Vec<_>, Vec<_>) = own.iter().partition(|it| !required.contains(it));
        let mut reached = BTreeSet::new();
        let mut roots = Vec::new();
        for place in free.into_iter().chain(others) {
            if reached.contains(&place) {
                continue;
            }
            roots.push(place);
            let mut open = vec![place];
            while let Some(next) = open.pop() {
                if reached.insert(next) {
                    open.extend(others_of(&next));
                }
            }
        }
        roots
    }
}

fn components<'a>(
    image: &Subject,
    inventory: &'a Inventory,
    wheels: &'a Wheels,
) -> Vec<Component<'a>> {
    let packages = &inventory.packages;
    let markers = check::target(image).map(Markers::new);
    let mut places = BTreeMap::new();
    // The first on the module path is the one that is imported.
    for (place, package) in packages.iter().enumerate() {
        places.entry(package.installed.name).or_insert(place);
    }
    // But the runtime client is before the function's directories are on that path.
    let mut runtime_places = places.clone();
    for (place, package) in packages.iter().enumerate() {
        if package.installed.directory == lambda::RUNTIME_DIR {
            runtime_places.insert(package.installed.name, place);
        }
    }
    let component = |(place, package): (usize, &'a Package)| {
        let installed = &package.installed;
        let is_of_runtime = installed.directory == lambda::RUNTIME_DIR;
        let places = if is_of_runtime {
            &runtime_places
        } else {
            &places
        };
        let mut requires = requires(installed, markers.as_ref(), places);
        requires.remove(&place);
        let layer = inventory.layers[installed.layer].digest;
        // Of a base the same is to be said where it was built and where not.
        let wheels = wheels.get(&layer).filter(|_| !package.is_base);
        let mut wheels = wheels.into_iter().flatten();
        Component {
            name: said(installed, "Name").unwrap_or(installed.name),
            version: installed.version,
            purl: purl::of_package(installed.name, installed.version),
            info: installed.info,
            layer,
            is_base: package.is_base,
            summary: said(installed, "Summary"),
            author: who(installed, AUTHOR).or_else(|| who(installed, MAINTAINER)),
            supplier: who(installed, MAINTAINER),
            licence: Licence::of(installed),
            wheel: wheels.find(|wheel| wheel.is_of(installed)),
            requires,
        }
    };
    packages.iter().enumerate().map(component).collect()
}

/// The first value of a field, if it says something.
fn said<'a>(package: &Installed<'a>, field: &'static str) -> Option<&'a str> {
    let mut values = package.field(field);
    values.find(|value| !value.is_empty() && *value != UNKNOWN)
}

/// What is there of what a distribution requires. Which of its extras are wanted nobody knows any more, so what one of
/// them requires counts where it is there.
fn requires(
    package: &Installed,
    markers: Option<&Markers>,
    places: &BTreeMap<&str, usize>,
) -> BTreeSet<usize> {
    let extras: Vec<_> = package.field("Provides-Extra").collect();
    let with_extras = markers.map(|markers| markers.clone().with_active(extras));
    let is_meant = |marker: &str| {
        let both = markers.into_iter().chain(&with_extras);
        both.into_iter()
            .any(|markers| markers.hold(marker) == Ok(true))
    };
    let required = package
        .field("Requires-Dist")
        .filter_map(Requirement::parse);
    required
        .filter(|required| required.marker.as_deref().is_none_or(is_meant))
        .filter_map(|required| places.get(required.name.as_str()).copied())
        .collect()
}

fn who(package: &Installed, [name, email]: [&'static str; 2]) -> Option<Author> {
    let (named, email) = said(package, email).map_or((None, None), mailbox);
    let name = said(package, name).map(str::to_owned).or(named);
    let name = name.map(|name| plain(&name)).filter(|it| !it.is_empty());
    Some(Author {
        name: name.or_else(|| email.clone())?,
        email,
    })
}

/// Name and address of the first of a list such as `"A, B" <a@b.test>, c@d.test`.
fn mailbox(list: &str) -> (Option<String>, Option<String>) {
    let mut is_quoted = false;
    let end = list.find(|letter| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    });
    let first = list[..end.unwrap_or(list.len())].trim();
    let (name, address) = match first.split_once('<') {
        Some((name, rest)) => (name, rest.split('>').next().unwrap_or_default()),
        None if first.contains('@') => ("", first),
        None => (first, ""),
    };
    let name = name.trim().trim_matches('"').to_owned();
    let address = address.trim();
    let is_address = address
        .split_once('@')
        .is_some_and(|(local, host)| !local.is_empty() && !host.is_empty())
        && address.bytes().all(|byte| byte.is_ascii_graphic())
        && !address.contains(['(', ')', '"', '\\', ',', ';']);
    (
        (!name.is_empty()).then_some(name),
        is_address.then(|| address.to_owned()),
    )
}

/// SPDX has the address in parentheses behind the name.
fn plain(name: &str) -> String {
    let name = name.replace(['(', ')'], " ");
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_digest(text: &str) -> bool {
    Digest::from_str(text).is_ok()
}

/// A date of RFC 3339 in UTC without fractions, which SPDX does not have.
fn to_the_second(date: &str) -> Option<String> {
    let time = humantime::parse_rfc3339(date).ok()?;
    Some(humantime::format_rfc3339_seconds(time).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authors_are_told_from_addresses() {
        let parts = |text: &str| {
            let (name, address) = mailbox(text);
            format!(
                "{} | {}",
                name.unwrap_or_default(),
                address.unwrap_or_default()
            )
        };
        assert_eq!(parts("A B <a@b.test>, C <c@d.test>"), "A B | a@b.test");
        assert_eq!(parts("\"B, A\" <a@b.test>"), "B, A | a@b.test");
        assert_eq!(parts("a@b.test"), " | a@b.test");
        assert_eq!(parts("The Team"), "The Team | ");
        assert_eq!(parts("A <not an address>"), "A | ");
        assert_eq!(plain("A (of B)"), "A of B");
    }

    #[test]
    fn dates_have_no_fractions() {
        let date = to_the_second("2026-11-20T10:11:12.123456789Z");
        assert_eq!(date.as_deref(), Some("2026-11-20T10:11:12Z"));
        assert_eq!(to_the_second("yesterday"), None);
    }

    fn component(requires: &[usize], is_base: bool) -> Component<'static> {
        Component {
            name: "x",
            version: "1",
            purl: String::new(),
            info: "x",
            layer: Digest::of(""),
            is_base,
            summary: None,
            author: None,
            supplier: None,
            licence: Licence::default(),
            wheel: None,
            requires: requires.iter().copied().collect(),
        }
    }

    #[test]
    fn all_packages_are_reached_from_the_roots() {
        let materials = Materials {
            image: Named {
                name: String::new(),
                digest: None,
                purl: None,
                created: None,
            },
            base: None,
            packages: vec![
                component(&[], true),
                component(&[2], false),
                component(&[0], false),
                // A circle.
                component(&[4], false),
                component(&[3], false),
            ],
        };
        assert_eq!(materials.roots(false), [1, 3]);
        assert_eq!(materials.roots(true), [0]);
    }
}
