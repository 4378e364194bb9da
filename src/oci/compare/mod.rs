//! Two images: where they differ, down to the first byte.
//!
//! Documents are compared by their values, layers by digest, then by `diff_id`, and only what is left is read: each
//! side's entries by path (see `files`). Layers are put side by side from both ends, so that one that only one
//! image has does not make all others differ. What a difference comes from is not known here, nor where blobs are.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::ops::Range;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::oci::image::{self, BASE_DIGEST, BASE_NAME, Image};
use crate::oci::{Config, Descriptor, Family};

pub use files::{At, Change, Kind};

/// Which of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Why two images cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer cannot be read.
    #[error("cannot read layer {layer}")]
    Read {
        /// Whose.
        side: Side,
        /// Which.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer is not what the config says.
    #[error("the tar in layer {layer} is {actual}, and its image's config says {stated}")]
    DiffId {
        /// Which.
        layer: Digest,
        /// What the config says.
        stated: Digest,
        /// What it is.
        actual: Digest,
    },
}

/// Layers that stand for each other, numbered from the lowest, and what is in them by the image's own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Those of the first image.
    pub first: Range<usize>,
    /// Those of the second.
    pub second: Range<usize>,
    /// What a history says of them.
    pub what: Option<String>,
}

/// One thing in which two images differ.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// The same image, but for the media types of its manifest.
    Types {
        /// The first image's.
        first: Family,
        /// The second's.
        second: Family,
    },
    /// A key of the config, as `config.Env.PATH`, or of the manifest's annotations.
    Document {
        /// The key.
        key: String,
        /// Its value in the first image, if it is there.
        first: Option<Value>,
        /// Its value in the second.
        second: Option<Value>,
    },
    /// A document says the same in other bytes.
    Spelling {
        /// `config` or `manifest`.
        what: &'static str,
        /// Digest of the first image's.
        first: Digest,
        /// Digest of the second's.
        second: Digest,
    },
    /// The lowest layers are those of two bases, and were not read.
    Base {
        /// The first image's.
        first: String,
        /// The second's.
        second: String,
        /// Their layers.
        place: Place,
    },
    /// A layer has the same tar, compressed differently.
    Compression {
        /// The layer.
        place: Place,
    },
    /// The same files with the same contents, but another tar: order, or form of headers.
    Form {
        /// The layers.
        place: Place,
    },
    /// Files have another date.
    Dates {
        /// The layers.
        place: Place,
        /// In the first image, in seconds since 1970.
        first: u64,
        /// In the second.
        second: u64,
        /// How many files.
        files: usize,
    },
    /// A file.
    File {
        /// The layers.
        place: Place,
        /// Its path, without a slash at either end.
        path: String,
        /// In what.
        change: Change,
    },
}

/// Whether the images are one but for the media types that their manifests use.
pub fn is_retyped(first: &Image, second: &Image) -> bool {
    // Docker's documents have no annotations.
    let same_annotations = |one: &BTreeMap<_, _>, other: &BTreeMap<_, _>| {
        one == other
            || (first.manifest.family == Family::Docker && one.is_empty())
            || (second.manifest.family == Family::Docker && other.is_empty())
    };
    let layers = first.manifest.layers.iter().zip(&second.manifest.layers);
    let annotated = layers.map(|(one, other)| (&one.annotations, &other.annotations));
    let of_manifests = (&first.manifest.annotations, &second.manifest.annotations);
    let mut annotated = annotated.chain([of_manifests]);
    first.manifest.family != second.manifest.family
        && annotated.all(|(one, other)| same_annotations(one, other))
        && first.manifest.config.digest == second.manifest.config.digest
        && first.manifest.layer_digests() == second.manifest.layer_digests()
}

/// The layers that have to be read to compare the two images.
pub fn layers_to_read<'a>(first: &'a Image, second: &'a Image) -> [Vec<&'a Descriptor>; 2] {
    let (_, places) = align(first, second);
    let of = |image: &'a Image, range: fn(&Place) -> Range<usize>| {
        let numbers: BTreeSet<usize> = places.iter().flat_map(range).collect();
        let layers = numbers
            .into_iter()
            .map(|number| &image.manifest.layers[number]);
        layers.collect()
    };
    [
        of(first, |place| place.first.clone()),
        of(second, |place| place.second.clone()),
    ]
}

/// All differences: first those of the documents, then those of the layers, the lowest first. `open` gives a layer's
/// compressed bytes, and fails on damage.
///
/// # Errors
/// When a layer cannot be read.
pub fn compare<R: Read>(
    first: &Image,
    second: &Image,
    open: impl Fn(Side, &Descriptor) -> io::Result<R>,
) -> Result<Vec<Difference>, Error> {
    if first.manifest.raw == second.manifest.raw {
        return Ok(Vec::new());
    }
    let mut found = documents(first, second);
    let (of_layers, places) = align(first, second);
    found.extend(of_layers);
    for place in places {
        let read = |side, number: usize| {
            let image = if side == Side::First { first } else { second };
            let blob = &image.manifest.layers[number];
            let stated = image.config.diff_ids.get(number).copied();
            files::Layer { side, blob, stated }
        };
        let left = place.first.clone().map(|number| read(Side::First, number));
        let right = place
            .second
            .clone()
            .map(|number| read(Side::Second, number));
        let (left, right): (Vec<_>, Vec<_>) = (left.collect(), right.collect());
        found.extend(files::compare(&place, &left, &right, &open)?);
    }
    if found.is_empty() {
        found.push(Difference::Spelling {
            what: "manifest",
            first: first.manifest.digest(),
            second: second.manifest.digest(),
        });
    }
    Ok(found)
}

fn documents(first: &Image, second: &Image) -> Vec<Difference> {
    let mut found = Vec::new();
    let (one, other) = (&first.manifest, &second.manifest);
    if one.family != other.family {
        found.push(Difference::Types {
            first: one.family,
            second: other.family,
        });
    }
    values(
        "manifest.annotations",
        Some(&json!(one.annotations)),
        Some(&json!(other.annotations)),
        &mut found,
    );
    for (number, (one, other)) in one.layers.iter().zip(&other.layers).enumerate() {
        if one.digest == other.digest {
            values(
                &format!("manifest.layers.{number}.annotations"),
                Some(&json!(one.annotations)),
                Some(&json!(other.annotations)),
                &mut found,
            );
        }
    }
    found.extend(configs(first, second));
    found
}

fn configs(first: &Image, second: &Image) -> Vec<Difference> {
    let mut found = Vec::new();
    let (one, other) = (&first.config, &second.config);
    if one.raw == other.raw {
        return found;
    }
    let (left, right) = (readable(&one.value), readable(&other.value));
    values("", Some(&left), Some(&right), &mut found);
    // Of one name the last counts, for some readers; for others it is the first.
    let lists = [one, other].map(|config| json!(config.env));
    if left["config"]["Env"] == right["config"]["Env"] {
        let [left, right] = &lists;
        let sorted = |config: &Config| config.env.iter().cloned().collect::<BTreeSet<_>>();
        let is_repeated = |config: &Config| {
            let names = config.env.iter().map(|line| line.split('=').next());
            names.collect::<BTreeSet<_>>().len() != config.env.len()
        };
        if sorted(one) != sorted(other) || (is_repeated(one) && one.env != other.env) {
            values("config.Env", Some(left), Some(right), &mut found);
        }
    }
    let same_layers = |(number, id): (usize, &Digest)| {
        let blob = |image: &Image| image.manifest.layers.get(number).map(|layer| layer.digest);
        let theirs = other.diff_ids.get(number)?;
        (blob(first) == blob(second) && theirs != id).then_some((number, *id, *theirs))
    };
    for (number, ours, theirs) in one.diff_ids.iter().enumerate().filter_map(same_layers) {
        found.push(Difference::Document {
            key: format!("rootfs.diff_ids.{number}"),
            first: Some(json!(ours)),
            second: Some(json!(theirs)),
        });
    }
    if found.is_empty() && one.diff_ids == other.diff_ids {
        found.push(Difference::Spelling {
            what: "config",
            first: first.manifest.config.digest,
            second: second.manifest.config.digest,
        });
    }
    found
}

/// A config with its variables by name, and without what its layers or its date tell too.
fn readable(config: &Value) -> Value {
    let mut value = config.clone();
    let Some(root) = value.as_object_mut() else {
        return value;
    };
    root.remove("rootfs");
    let created = root.get("created").cloned();
    if let Some(Value::Array(history)) = root.get_mut("history") {
        for entry in history.iter_mut().filter_map(Value::as_object_mut) {
            if entry.get("created") == created.as_ref() {
                entry.remove("created");
            }
        }
    }
    let env = root.get_mut("config").and_then(|run| run.get_mut("Env"));
    if let Some(env) = env
        && let Some(lines) = env.as_array()
    {
        let pairs = lines.iter().filter_map(Value::as_str);
        let pairs = pairs.map(|line| line.split_once('=').unwrap_or((line, "")));
        let named: BTreeMap<_, _> = pairs.collect();
        *env = json!(named);
    }
    value
}

/// What differs between two values, each object by its keys.
fn values(key: &str, first: Option<&Value>, second: Option<&Value>, found: &mut Vec<Difference>) {
    let below = |name: &str| {
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        }
    };
    match (first, second) {
        _ if first == second => {}
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for name in names {
                values(&below(name), one.get(name), other.get(name), found);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other)))
            if one.len() == other.len() && one.iter().all(Value::is_object) =>
        {
            for (number, (one, other)) in one.iter().zip(other).enumerate() {
                values(&below(&number.to_string()), Some(one), Some(other), found);
            }
        }
        _ => found.push(Difference::Document {
            key: key.to_owned(),
            first: first.cloned(),
            second: second.cloned(),
        }),
    }
}

/// How many of the lowest layers are the base's, as far as the image says so.
fn base_layers(image: &Image) -> usize {
    image::base_layers(&image.config.value, &image.manifest.layer_digests()).unwrap_or_default()
}

/// What an image says that its base is: a name if it has one, and the digest.
fn base_of(image: &Image) -> Option<String> {
    let labels = &image.config.labels;
    let digest = labels.get(BASE_DIGEST)?;
    Some(match labels.get(BASE_NAME) {
        Some(name) => format!("{name}@{digest}"),
        None => digest.clone(),
    })
}

/// Puts the layers of two images side by side: what is known to differ already, and what has to be read.
fn align(first: &Image, second: &Image) -> (Vec<Difference>, Vec<Place>) {
    let mut found = Vec::new();
    let mut places = Vec::new();
    let (one, other) = (base_layers(first), base_layers(second));
    let all = (first.manifest.layers.len(), second.manifest.layers.len());
    let bases = (base_of(first), base_of(second));
    let (mut left, mut right) = (0..all.0, 0..all.1);
    let digest = |image: &Image| image.config.labels.get(BASE_DIGEST).cloned();
    if let (Some(of_first), Some(of_second)) = bases
        && digest(first) != digest(second)
        && one > 0
        && other > 0
    {
        found.push(Difference::Base {
            first: of_first,
            second: of_second,
            place: place(first, second, 0..one, 0..other),
        });
        (left, right) = (one..all.0, other..all.1);
    }
    let pair = |a: usize, b: usize| pair_of(first, second, a, b);
    let tell = |a: usize, b: usize, pair: Pair, found: &mut Vec<Difference>| {
        if pair == Pair::SameTar {
            let place = place(first, second, a..a + 1, b..b + 1);
            found.push(Difference::Compression { place });
        }
    };
    while !left.is_empty() && !right.is_empty() {
        let pair = pair(left.start, right.start);
        if pair == Pair::Other {
            break;
        }
        tell(left.start, right.start, pair, &mut found);
        (left.start, right.start) = (left.start + 1, right.start + 1);
    }
    let mut above = Vec::new();
    while !left.is_empty() && !right.is_empty() {
        let pair = pair(left.end - 1, right.end - 1);
        if pair == Pair::Other {
            break;
        }
        (left.end, right.end) = (left.end - 1, right.end - 1);
        tell(left.end, right.end, pair, &mut above);
    }
    if left.len() == right.len() {
        for (a, b) in left.zip(right) {
            match pair(a, b) {
                Pair::Other => places.push(place(first, second, a..a + 1, b..b + 1)),
                pair => tell(a, b, pair, &mut found),
            }
        }
    } else {
        places.push(place(first, second, left, right));
    }
    found.extend(above.into_iter().rev());
    (found, places)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    Same,
    SameTar,
    Other,
}

fn pair_of(first: &Image, second: &Image, a: usize, b: usize) -> Pair {
    let (one, other) = (&first.manifest.layers[a], &second.manifest.layers[b]);
    if one.digest == other.digest {
        return Pair::Same;
    }
    match (first.config.diff_ids.get(a), second.config.diff_ids.get(b)) {
        (Some(one), Some(other)) if one == other => Pair::SameTar,
        _ => Pair::Other,
    }
}

fn place(first: &Image, second: &Image, left: Range<usize>, right: Range<usize>) -> Place {
    let what = |image: &Image, range: &Range<usize>| {
        let told = image::layer_steps(&image.config.value);
        let text = |number: usize| Some(told.get(number)?["comment"].as_str()?.to_owned());
        (range.len() == 1).then(|| text(range.start)).flatten()
    };
    Place {
        what: what(first, &left).or_else(|| what(second, &right)),
        first: left,
        second: right,
    }
}

#[cfg(test)]
mod tests;
