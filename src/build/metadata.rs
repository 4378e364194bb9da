//! What was built, for programs: the JSON of `--metadata-file`.
//!
//! Its shape is an interface, numbered by `version`; keys are only ever added within one.

use serde_json::{Value, json};

use crate::build::{Built, Pushed};
use crate::oci::image::Image;
use crate::oci::reference::Name;

/// The version of the shape.
const VERSION: u32 = 1;

/// The document of a build.
pub fn of_build(built: &Built) -> Value {
    let (plan, base) = (&built.plan, &built.base);
    let mut document = of_push(&built.image, &built.pushed);
    document["names"] = json!(plan.names.iter().map(Name::tagged).collect::<Vec<_>>());
    document["layers"] = json!(layers(built));
    document["base"] = json!({
        "reference": base.reference.as_ref().map(ToString::to_string),
        "digest": base.image.manifest.digest(),
        "glibc": base.glibc.to_string(),
    });
    let packages = built.dependencies.wheels().iter().map(|wheel| {
        json!({
            "name": wheel.name,
            "version": wheel.version,
            "file": wheel.filename.as_str(),
            "sha256": wheel.digest.hex(),
        })
    });
    document["packages"] = json!(packages.collect::<Vec<_>>());
    document["bytecode"] = json!(built.bytecode.as_ref().map(|bytecode| {
        json!({
            "implementation": bytecode.implementation,
            "version": bytecode.version,
            "compiled": bytecode.counts.compiled,
            "failed": bytecode.counts.failed,
        })
    }));
    document["left_out"] = json!({
        "packages": built.dependencies.left_out_packages,
        "files": built.dependencies.left_out(),
    });
    document["plan"] = json!({
        "runtime": plan.runtime.identifier,
        "architecture": plan.architecture.to_string(),
        "handler": plan.handler.as_ref().map(ToString::to_string),
        "base": plan.base.to_string(),
        "epoch": plan.epoch,
    });
    document
}

/// The document of a push.
pub fn of_push(image: &Image, pushed: &[Pushed]) -> Value {
    let pushed = pushed.iter().map(|pushed| {
        json!({
            "repository": pushed.reference.name(),
            "reference": format!("{}@{}", pushed.reference.name(), image.manifest.digest()),
            "tags": pushed.tags,
            "already_there": pushed.summary.was_there,
            "uploaded": pushed.summary.uploaded,
            "mounted": pushed.summary.mounted,
            "skipped": pushed.summary.skipped,
            "sbom": pushed.sbom,
        })
    });
    json!({
        "version": VERSION,
        "digest": image.manifest.digest(),
        "config_digest": image.manifest.config.digest,
        "media_type": image.manifest.family.manifest(),
        "pushed": pushed.collect::<Vec<_>>(),
    })
}

fn layers(built: &Built) -> Vec<Value> {
    let manifest = &built.image.manifest;
    let base_layers = manifest.layers.len() - built.made.len();
    let pairs = manifest.layers.iter().zip(&built.image.config.diff_ids);
    pairs
        .enumerate()
        .map(|(number, (layer, diff_id))| {
            let made = number
                .checked_sub(base_layers)
                .map(|number| &built.made[number]);
            let mut layer = json!({
                "digest": layer.digest,
                "size": layer.size,
                "diff_id": diff_id,
                "what": made.map_or("base", |made| &*made.what),
                "from": if made.is_some() { "build" } else { "base" },
            });
            if let Some(taken_from) = made.and_then(|made| made.taken_from.as_ref()) {
                layer["taken_from"] = json!(taken_from.to_string());
            }
            if let Some(packages) = made.and_then(|made| made.packages.as_ref()) {
                layer["packages"] = json!(packages);
            }
            layer
        })
        .collect()
}
