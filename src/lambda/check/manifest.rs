//! Rules of the image's manifest and what the name led to.

use crate::lambda::check::subject::Documents;
use crate::lambda::check::{Fault, Level, Look, Rule};

pub(super) const RULES: &[Rule] = &[Rule {
    id: "LMB001",
    level: Level::Error,
    title: "The image is one image, not an index of several",
    why: "Lambda takes no image index (manifest list), not even of one platform, and answers \
          `InvalidParameterValueException: The image manifest, config or layer media type for the source image is not \
          supported.`; `docker buildx` makes an index when it adds attestations.",
    remedy: "Push the single image: build with `--provenance=false --sbom=false`, or give Lambda the digest of the image \
             in the index.",
    look: Look::Documents(is_one_image),
}];

fn is_one_image(image: &Documents) -> Vec<Fault> {
    let Some(index) = &image.index else {
        return Vec::new();
    };
    let entries = index.value["manifests"].as_array().map_or(0, Vec::len);
    let fault = Fault::new(format!("the name leads to an index of {entries} manifests"));
    vec![fault.value(index.media_type.clone().unwrap_or_default())]
}
