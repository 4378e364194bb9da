//! Images opened for Lambda's rules, wherever they are.

use crate::build::approval::subject_of;
use crate::build::{self, Error, Tools, base, no_image};
use crate::lambda::Architecture;
use crate::lambda::check::subject::{Document, Documents, Subject};
use crate::oci::image::Image;
use crate::oci::layout;
use crate::oci::reference::Reference;

/// Finds an image by what the user calls it, as [`build::open`], and reads it for every rule. Of an index it is the
/// image for `architecture`, in OCI's word.
///
/// # Errors
/// See [`Error`].
pub async fn open(
    text: &str,
    architecture: Option<&str>,
    today: &str,
    tools: &Tools,
) -> Result<Subject, Error> {
    let wanted = architecture.and_then(|word| word.parse().ok());
    let wanted = wanted.map(Architecture::oci);
    let image = if let Some(rest) = text.strip_prefix("docker://") {
        let reference = Reference::read(rest).map_err(|_| no_image(text, tools))?;
        let image = base::fetch(&reference, wanted, &tools.registries, &tools.store).await?;
        base::with_origins(image, &reference)
    } else if let Ok(place) = text.parse::<layout::Place>() {
        let store = tools.store.clone();
        let read = move || layout::read(&place, wanted, &store);
        tools.block(read).await??
    } else {
        build::open(text, tools).await?
    };
    subject_of(image, wanted, today, tools).await
}

/// The documents of an image that is at hand.
pub fn of_image(image: &Image, today: &str, wanted: Option<&'static str>) -> Documents {
    let manifest = &image.manifest;
    let config = &manifest.config;
    Documents {
        index: None,
        manifest: Some(Document::new(
            manifest.raw.clone(),
            Some(manifest.descriptor().media_type),
            None,
        )),
        config: Document::new(
            image.config.raw.clone(),
            Some(config.media_type.clone()),
            Some((config.digest, config.size)),
        ),
        wanted,
        today: today.to_owned(),
    }
}
