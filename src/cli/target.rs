//! What the one argument `IMAGE|PATH` means: an image by what the user calls it, or a project's directory.
//!
//! The same for every verb that takes either. What is done with it is not known here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lambimg::blob_store::BlobStore;
use lambimg::oci::layout::{self, Place};
use lambimg::oci::reference::Name;
use lambimg::zip;

use crate::failure::Failure;
use crate::surroundings::Surroundings;
use crate::terminal::Terminal;

/// What the argument may be, as help tells it.
pub(crate) const HELP: &str = "A name in the store, oci:DIR, oci-archive:FILE, docker-archive:FILE or a registry \
                               reference behind `docker://`; or a project's directory or deployment package, which is built first";

/// An image or a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// An image, by what the user calls it.
    Image(String),
    /// A project.
    Project(PathBuf),
}

impl Target {
    /// An image where the text is of an image's form or a name in the store, else a directory.
    pub(crate) fn of(path: &Path, terminal: &Terminal) -> Result<Self, Failure> {
        let project = || Self::Project(path.to_owned());
        let Some(text) = path.to_str() else {
            return Ok(project());
        };
        let image = || Self::Image(text.to_owned());
        if text.starts_with("docker://") || text.parse::<Place>().is_ok() {
            return Ok(image());
        }
        let starts = ["./", "../", "/"];
        if [".", ".."].contains(&text) || starts.iter().any(|start| text.starts_with(start)) {
            return Ok(project());
        }
        let known = names_in_store();
        let name = text.parse::<Name>().ok().map(|name| name.tagged());
        if name.is_some_and(|name| known.contains(&name)) {
            if path.is_dir() {
                terminal.note(&format!(
                    "`{text}` is an image in the store, which is taken, and a directory, which `./{text}` would be"
                ));
            }
            return Ok(image());
        }
        if path.is_dir() || zip::is_archive(path) {
            return Ok(project());
        }
        Err(Failure::neither_image_nor_project(text, &known))
    }
}

/// The names there are; a store that cannot be read has none, and says so itself when it is used.
fn names_in_store() -> BTreeSet<String> {
    let here = Surroundings::read();
    let Ok(directory) = here.store_directory() else {
        return BTreeSet::new();
    };
    let listed = layout::list(BlobStore::at(directory).root()).unwrap_or_default();
    listed.into_iter().filter_map(|image| image.name).collect()
}
