//! Rules of the layers as archives.

use crate::lambda::check::subject::Subject;
use crate::lambda::check::{Fault, Level, Look, Rule};
use crate::oci::flatten::Kind;

pub(super) const RULES: &[Rule] = &[Rule {
    id: "LMB036",
    level: Level::Error,
    title: "A layer has no hard links",
    why: "Lambda's unpacker refuses them when it optimises the image: the function's state becomes `Failed` with \
          `InvalidImage (ImageLayerFailure: UnsupportedImageLayerDetected)`.",
    remedy: "Make each of the two names a file of its own, or one a symbolic link.",
    look: Look::Files(has_no_hard_links),
}];

fn has_no_hard_links(image: &Subject) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        let links = layer.entries.iter();
        for entry in links.filter(|entry| entry.kind == Kind::Hardlink) {
            let target = entry.target.as_deref().unwrap_or_default();
            let fault = Fault::new(format!("it is a hard link to `{target}`"));
            faults.push(fault.layer(number).path(entry.path()));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::Forge;

    #[test]
    fn hard_links_are_found() {
        let image =
            Forge::new()
                .file("a", "x")
                .entry("b", tar::EntryType::Link, 0o644, b"", Some("a"));
        insta::assert_snapshot!(image.findings(), @"LMB036 error 0 b: it is a hard link to `a`");
    }
}
