//! Rules of the image's manifest and what the name led to, and of its layers as they are packed.
//!
//! One defect is told once: what a media type says of a layer is not said again of its bytes, and of bytes that are
//! others than were named nothing further is.

use serde_json::Value;

use crate::digest::Digest;
use crate::lambda::check::contents::Seen;
use crate::lambda::check::subject::{Document, Documents, Subject};
use crate::lambda::check::{Fault, Level, Look, MOST, Rule, folded};
use crate::oci::Family;
use crate::oci::flatten::{Layer, Packing};

/// What AWS advises, in bytes.
const ADVISED_SIZE: usize = 25_400;

const UNSUPPORTED_TYPE: &str = "Lambda answers `InvalidParameterValueException: The image manifest, config or layer media \
                                type for the source image is not supported.`";
const REBUILD: &str =
    "Build the image again and push it with a tool that computes its descriptors.";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB001",
        level: Level::Error,
        title: "The image is one image, not an index of several",
        why: "Lambda takes no image index (manifest list), not even of one platform, and answers \
              `InvalidParameterValueException: The image manifest, config or layer media type for the source image is not \
              supported.`; `docker buildx` makes an index when it adds attestations.",
        remedy: "Push the single image: build with `--provenance=false --sbom=false`, or give Lambda the digest of the image \
                 in the index.",
        look: Look::Documents(is_one_image),
    },
    Rule {
        id: "LMB002",
        level: Level::Error,
        title: "The manifest is Docker's of schema 2, or OCI's",
        why: UNSUPPORTED_TYPE,
        remedy: "Push the image in the format `oci` or `v2s2`, as by `skopeo copy --format v2s2`.",
        look: Look::Documents(has_known_manifest),
    },
    Rule {
        id: "LMB003",
        level: Level::Error,
        title: "Manifest, config and layers are all of Docker's media types, or all of OCI's",
        why: UNSUPPORTED_TYPE,
        remedy: "Convert the image as a whole, as by `skopeo copy --format v2s2`.",
        look: Look::Documents(is_unmixed),
    },
    Rule {
        id: "LMB004",
        level: Level::Error,
        title: "The config's media type is that of an image's config",
        why: UNSUPPORTED_TYPE,
        remedy: "Give Lambda a container image, not another kind of artifact.",
        look: Look::Documents(has_image_config),
    },
    Rule {
        id: "LMB005",
        level: Level::Error,
        title: "Every layer's media type is that of a tar packed by gzip",
        why: "Lambda takes gzip layers alone. It answers `InvalidParameterValueException: The image manifest, config or layer \
              media type for the source image is not supported.`, or the function ends in `Failed` with `InvalidImage \
              (ImageLayerFailure: UnsupportedImageLayerDetected)`.",
        remedy: "Have the layers packed by gzip, as by `skopeo copy --dest-compress-format gzip --dest-force-compress-format`.",
        look: Look::Documents(has_gzip_types),
    },
    Rule {
        id: "LMB006",
        level: Level::Error,
        title: "Every layer that is said to be gzip is gzip",
        why: "Lambda unpacks a layer as its media type says, and the function ends in `Failed` with `InvalidImage \
              (ImageLayerFailure: UnsupportedImageLayerDetected)`.",
        remedy: "Have the layers packed by gzip, as by `skopeo copy --dest-compress-format gzip --dest-force-compress-format`.",
        look: Look::Layers(is_gzip),
    },
    Rule {
        id: "LMB007",
        level: Level::Error,
        title: "Every layer is one gzip member, with nothing behind it",
        why: "A reader of gzip may end with the first member, and what is in those behind it is lost without a word; nobody \
              has reported that Lambda reads them.",
        remedy: "Have the layer packed anew by a tool that writes one member.",
        look: Look::Layers(is_one_member),
    },
    Rule {
        id: "LMB008",
        level: Level::Warning,
        title: "The manifest is smaller than 25,400 bytes",
        why: "AWS advises so for optimal performance of functions made from images.",
        remedy: "Make fewer layers, and fewer annotations.",
        look: Look::Documents(is_small),
    },
    Rule {
        id: "LMB009",
        level: Level::Warning,
        title: "The manifest is an image's own, without `subject` and `artifactType`",
        why: "AWS does not say that Lambda takes a manifest that refers to another one or is an artifact.",
        remedy: "Keep both fields off the manifest that is deployed; signatures and lists of contents refer to it.",
        look: Look::Documents(is_plain),
    },
    Rule {
        id: "LMB010",
        level: Level::Error,
        title: "Manifest and config have the digests and sizes by which they are named",
        why: "Whoever pulls the image finds other bytes than were promised and refuses it; ECR refuses its push with \
              `InvalidParameterValueException` or `DIGEST_INVALID`.",
        remedy: REBUILD,
        look: Look::Documents(has_true_documents),
    },
    Rule {
        id: "LMB011",
        level: Level::Error,
        title: "Layers have the digests and sizes by which they are named",
        why: "Whoever pulls the image finds other bytes than were promised and refuses it: the function ends in `Failed` \
              with `InvalidImage`.",
        remedy: REBUILD,
        look: Look::Layers(has_true_layers),
    },
    Rule {
        id: "LMB012",
        level: Level::Error,
        title: "The config's `diff_ids` are the digests of the unpacked layers, one for each",
        why: "They prove what was unpacked; where they are others, the image is refused: the function ends in `Failed` with \
              `InvalidImage`.",
        remedy: REBUILD,
        look: Look::Layers(has_true_diff_ids),
    },
    Rule {
        id: "LMB013",
        level: Level::Warning,
        title: "The config's history tells of as many layers as there are",
        why: "Tools that show or take apart images by their history fail on one that does not fit; what Lambda makes of it \
              is not known.",
        remedy: "Build the image again with a tool that keeps the history in step, or leave the history out.",
        look: Look::Documents(has_fitting_history),
    },
    Rule {
        id: "LMB014",
        level: Level::Error,
        title: "Every layer is there and can be unpacked to its end",
        why: "The function ends in `Failed` with `InvalidImage (ImageLayerFailure: UnsupportedImageLayerDetected)`; what is \
              in the layer is not checked further.",
        remedy: "Push or write the image again, from where it is whole.",
        look: Look::Layers(can_be_unpacked),
    },
];

fn is_one_image(image: &Documents) -> Vec<Fault> {
    let Some(index) = &image.index else {
        return Vec::new();
    };
    let entries = index.value["manifests"].as_array().map_or(0, Vec::len);
    let fault = Fault::new(format!("the name leads to an index of {entries} manifests"));
    vec![fault.value(media_type(index).unwrap_or_default())]
}

/// The media type that a document states, else the one it came with.
fn media_type(document: &Document) -> Option<&str> {
    let own = document.value["mediaType"].as_str();
    own.or(document.media_type.as_deref())
}

/// The families that a manifest's type leaves open.
fn family(manifest: &Document) -> Option<Family> {
    let stated = media_type(manifest);
    let families = [Family::Docker, Family::Oci];
    let named = families
        .into_iter()
        .find(|family| stated == Some(family.manifest()));
    // Where nothing says it, the config does.
    named.or_else(|| {
        let config = manifest.value["config"]["mediaType"].as_str();
        let mut families = families.into_iter();
        families.find(|family| stated.is_none() && config == Some(family.config()))
    })
}

/// What a media type is part of, and whether it says gzip.
fn layer_family(media_type: &str) -> Option<(Family, bool)> {
    let is_docker = media_type.starts_with("application/vnd.docker.image.rootfs.");
    let is_oci = media_type.starts_with("application/vnd.oci.image.layer.");
    let family = if is_docker {
        Family::Docker
    } else if is_oci {
        Family::Oci
    } else {
        return None;
    };
    Some((family, media_type == family.layer()))
}

/// The layers' media types as the manifest has them.
fn layer_types(manifest: &Document) -> impl Iterator<Item = (usize, &str)> {
    let layers = manifest.value["layers"].as_array().into_iter().flatten();
    let types = layers.map(|layer| layer["mediaType"].as_str().unwrap_or_default());
    types.enumerate()
}

fn has_known_manifest(image: &Documents) -> Vec<Fault> {
    let Some(manifest) = &image.manifest else {
        return Vec::new();
    };
    if let Some(other) = media_type(manifest)
        && ![Family::Docker, Family::Oci]
            .iter()
            .any(|family| family.manifest() == other)
    {
        return vec![Fault::new("the manifest is of another kind than images have").value(other)];
    }
    match &manifest.value["schemaVersion"] {
        version if version.as_u64() == Some(2) => Vec::new(),
        Value::Null => vec![Fault::new("the manifest has no `schemaVersion`")],
        other => {
            let fault = Fault::new("the manifest's `schemaVersion` is not 2");
            vec![fault.value(other.to_string())]
        }
    }
}

fn is_unmixed(image: &Documents) -> Vec<Fault> {
    let Some((manifest, family)) = image.manifest.as_ref().and_then(|m| Some((m, family(m)?)))
    else {
        return Vec::new();
    };
    let name = |family| match family {
        Family::Docker => "Docker",
        Family::Oci => "OCI",
    };
    let other = match family {
        Family::Docker => Family::Oci,
        Family::Oci => Family::Docker,
    };
    let config = manifest.value["config"]["mediaType"].as_str();
    // A layer that is no gzip is told by itself.
    let is_mixed = |layer: &(usize, &str)| layer_family(layer.1) == Some((other, true));
    let layers: Vec<_> = layer_types(manifest).filter(is_mixed).collect();
    let config = config.filter(|config| *config == other.config());
    let parts = match (config, layers.len()) {
        (None, 0) => return Vec::new(),
        (Some(_), 0) => "its config is".to_owned(),
        (None, 1) => "a layer is".to_owned(),
        (None, count) => format!("{count} layers are"),
        (Some(_), 1) => "its config and a layer are".to_owned(),
        (Some(_), count) => format!("its config and {count} layers are"),
    };
    let message = format!(
        "the manifest is {}'s, and {parts} {}'s",
        name(family),
        name(other)
    );
    let fault = Fault::new(message).value(config.unwrap_or_else(|| layers[0].1));
    vec![match (&*layers, config) {
        ([(number, _), ..], None) => fault.layer(*number),
        _ => fault,
    }]
}

fn has_image_config(image: &Documents) -> Vec<Fault> {
    let Some(manifest) = &image.manifest else {
        return Vec::new();
    };
    let config = manifest.value["config"]["mediaType"]
        .as_str()
        .unwrap_or_default();
    if [Family::Docker, Family::Oci]
        .iter()
        .any(|family| family.config() == config)
    {
        return Vec::new();
    }
    vec![Fault::new("the config is of another kind than images have").value(config)]
}

fn has_gzip_types(image: &Documents) -> Vec<Fault> {
    let manifest = image.manifest.iter();
    let faults = manifest
        .flat_map(layer_types)
        .filter_map(|(number, media_type)| {
            let what = match layer_family(media_type) {
                Some((_, true)) => return None,
                Some(_) if media_type.ends_with("zstd") => "the layer is packed by zstd",
                Some(_)
                    if media_type.contains("nondistributable")
                        || media_type.contains("foreign") =>
                {
                    "the layer is one that registries do not hand out"
                }
                Some(_) if media_type.ends_with("tar") => "the layer is not packed",
                _ => "the layer is of another kind than images have",
            };
            Some(Fault::new(what).layer(number).value(media_type))
        });
    folded(faults.collect(), MOST)
}

/// The layers whose media types say gzip, and those of a form that has no media types.
fn read_layers(image: &Subject) -> impl Iterator<Item = (usize, &Layer<Seen>)> {
    let has_types = image.documents.manifest.is_some();
    let layers = image.layers.iter().enumerate();
    layers.filter(move |(_, layer)| {
        let is_gzip = layer_family(&layer.stated.media_type).is_some_and(|(_, is_gzip)| is_gzip);
        is_gzip || !has_types
    })
}

/// Whether a layer's bytes are those that the manifest names.
fn is_itself(layer: &Layer<Seen>) -> bool {
    layer.digest == layer.stated.digest
}

fn is_gzip(image: &Subject) -> Vec<Fault> {
    // Docker's archives have plain layers, which a push packs.
    if image.documents.manifest.is_none() {
        return Vec::new();
    }
    let of_layer = |(number, layer): (usize, &Layer<Seen>)| {
        let what = match layer.packing {
            _ if !is_itself(layer) => return None,
            // It is not there, and another rule says so.
            Packing::Unknown if layer.damage.is_some() => return None,
            Packing::Gzip(_) => return None,
            Packing::Tar => "the layer is not packed, and is said to be gzip",
            Packing::Zstd => "the layer is packed by zstd, and is said to be gzip",
            Packing::Unknown => "the layer is no gzip, and is said to be",
        };
        let fault = Fault::new(what).layer(number);
        Some(fault.value(layer.stated.media_type.clone()))
    };
    folded(read_layers(image).filter_map(of_layer).collect(), MOST)
}

fn is_one_member(image: &Subject) -> Vec<Fault> {
    let of_layer = |(number, layer): (usize, &Layer<Seen>)| {
        let message = match layer.packing {
            _ if !is_itself(layer) || layer.damage.is_some() => return None,
            Packing::Gzip(members @ 2..) => format!("the layer has {members} gzip members"),
            Packing::Gzip(_) if layer.trailing > 0 => {
                format!(
                    "{} bytes stand behind the layer's gzip member",
                    layer.trailing
                )
            }
            _ => return None,
        };
        Some(Fault::new(message).layer(number))
    };
    folded(read_layers(image).filter_map(of_layer).collect(), MOST)
}

fn is_small(image: &Documents) -> Vec<Fault> {
    let manifests = image.manifest.iter().map(|manifest| manifest.raw.len());
    let large = manifests.filter(|size| *size >= ADVISED_SIZE);
    large
        .map(|size| Fault::new(format!("the manifest has {size} bytes")))
        .collect()
}

fn is_plain(image: &Documents) -> Vec<Fault> {
    // What is no image at all is told by its config.
    if !has_image_config(image).is_empty() {
        return Vec::new();
    }
    let manifest = image.manifest.iter();
    let fields = manifest.flat_map(|manifest| {
        let of = |field: &&str| !manifest.value[*field].is_null();
        ["subject", "artifactType"].into_iter().filter(of)
    });
    let fields: Vec<_> = fields.map(|field| format!("`{field}`")).collect();
    if fields.is_empty() {
        return Vec::new();
    }
    vec![Fault::new(format!(
        "the manifest has {}",
        fields.join(" and ")
    ))]
}

/// What is wrong with a document's descriptor, if anything is.
fn untrue(what: &str, document: &Document) -> Option<Fault> {
    let (digest, size) = document.stated?;
    let actual = Digest::of(&document.raw);
    let length = document.raw.len() as u64;
    if actual != digest {
        let fault = Fault::new(format!("the {what} is {actual}, and is named as {digest}"));
        return Some(fault.value(digest.to_string()));
    }
    (length != size).then(|| {
        let fault = Fault::new(format!(
            "the {what} has {length} bytes, and is named with {size}"
        ));
        fault.value(size.to_string())
    })
}

fn has_true_documents(image: &Documents) -> Vec<Fault> {
    if let (true, Some((digest, _))) = (image.config.raw.is_empty(), &image.config.stated) {
        let fault = Fault::new("the config that the manifest names is not there");
        return vec![fault.value(digest.to_string())];
    }
    let manifest = image.manifest.as_ref().and_then(|m| untrue("manifest", m));
    // A manifest that is another one names another config.
    let config = || untrue("config", &image.config);
    manifest.or_else(config).into_iter().collect()
}

fn has_true_layers(image: &Subject) -> Vec<Fault> {
    let nameless = nameless(&image.documents);
    let layers = image.layers.iter().enumerate();
    let faults = layers.filter_map(|(number, layer)| {
        let (stated, digest, size) = (&layer.stated, layer.digest, layer.size);
        let fault = if nameless.contains(&number) {
            Fault::new("the layer's descriptor has no sha256 digest")
        } else if digest != stated.digest {
            let message = format!("the layer is {digest}, and is named as {}", stated.digest);
            Fault::new(message).value(stated.digest.to_string())
        } else if size != stated.size {
            let message = format!(
                "the layer has {size} bytes, and is named with {}",
                stated.size
            );
            Fault::new(message).value(stated.size.to_string())
        } else {
            return None;
        };
        Some(fault.layer(number))
    });
    folded(faults.collect(), MOST)
}

/// Layers that the manifest names by no digest that can be read.
fn nameless(image: &Documents) -> Vec<usize> {
    let manifest = image.manifest.iter();
    let layers = manifest.filter_map(|manifest| manifest.value["layers"].as_array());
    let layers = layers.flatten().enumerate();
    let has_digest = |layer: &Value| {
        let digest = layer["digest"].as_str();
        digest.is_some_and(|digest| digest.parse::<Digest>().is_ok())
    };
    layers
        .filter(|(_, layer)| !has_digest(layer))
        .map(|(number, _)| number)
        .collect()
}

fn has_true_diff_ids(image: &Subject) -> Vec<Fault> {
    let ids = image.documents.config.value["rootfs"]["diff_ids"].as_array();
    if !image.documents.config.value.is_object() {
        // Another rule tells that.
        return Vec::new();
    }
    let ids = ids.map_or(&[][..], Vec::as_slice);
    let (there, told) = (image.layers.len(), ids.len());
    // Layers of another kind have none, and another rule tells them.
    let are_refused = !has_gzip_types(&image.documents).is_empty();
    if there != told && are_refused {
        return Vec::new();
    }
    if there != told {
        let fault = Fault::new(format!(
            "there are {there} layers, and `diff_ids` for {told}"
        ));
        return vec![fault.value(told.to_string())];
    }
    let faults = image.layers.iter().zip(ids).enumerate();
    let faults = faults.filter_map(|(number, (layer, id))| {
        let actual = layer.diff_id.filter(|_| is_itself(layer))?;
        if id.as_str() == Some(&*actual.to_string()) {
            return None;
        }
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let message = format!("the layer unpacked is {actual}, and its `diff_id` is `{id}`");
        Some(Fault::new(message).layer(number).value(id))
    });
    // A list that is out of step is wrong in many places.
    folded(faults.collect(), 1)
}

fn has_fitting_history(image: &Documents) -> Vec<Fault> {
    let value = &image.config.value;
    let (Some(history), Some(ids)) = (
        value["history"]
            .as_array()
            .filter(|history| !history.is_empty()),
        value["rootfs"]["diff_ids"].as_array(),
    ) else {
        return Vec::new();
    };
    let manifest = image.manifest.as_ref();
    let layers = manifest.and_then(|manifest| manifest.value["layers"].as_array());
    // Where not even the layers fit, another rule says so.
    if layers.is_some_and(|layers| layers.len() != ids.len()) {
        return Vec::new();
    }
    let is_empty = |entry: &&Value| entry["empty_layer"].as_bool() == Some(true);
    let told = history.len() - history.iter().filter(is_empty).count();
    if told == ids.len() {
        return Vec::new();
    }
    let message = format!(
        "the history tells of {told} layers, and there are {}",
        ids.len()
    );
    vec![Fault::new(message)]
}

fn can_be_unpacked(image: &Subject) -> Vec<Fault> {
    let nameless = nameless(&image.documents);
    // Of those of other types another rule tells.
    let faults = read_layers(image).filter_map(|(number, layer)| {
        if !is_itself(layer) || nameless.contains(&number) {
            return None;
        }
        let message = match &layer.damage {
            Some(damage) => format!("the layer cannot be read to its end: {damage}"),
            None => format!("the layer cannot be read: {}", unreadable(image, layer)?),
        };
        Some(Fault::new(message).layer(number))
    });
    folded(faults.collect(), MOST)
}

/// Why a layer of a form without media types is not read: where there are such, they have said it.
fn unreadable(image: &Subject, layer: &Layer<Seen>) -> Option<&'static str> {
    match layer.packing {
        _ if image.documents.manifest.is_some() || layer.is_whole() => None,
        Packing::Zstd => Some("it is packed by zstd"),
        _ if layer.size == 0 => Some("it has no bytes"),
        _ => Some("it is neither a tar nor packed by gzip"),
    }
}

#[cfg(test)]
mod tests;
