//! Where an image and a deployment package go beside the store: looked at before anything is built, written at the end.
//!
//! Directories on the way are made when something is written there, and not before. What is written is not known here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::package::Package;
use crate::build::{Built, Error, Tools, bring_here};
use crate::oci::layout::{self, Form, Place};
use crate::plan::Plan;

/// Whether something may be written to all outputs of a plan: what is there is replaced by its own kind alone, and what
/// is not can be made.
///
/// # Errors
/// Those of the first place that cannot be written to.
pub(super) fn check(plan: &Plan) -> Result<(), Error> {
    // An archive and a package are files alike.
    let packages = plan.packages.iter().map(|path| Place {
        form: Form::OciArchive,
        path: path.clone(),
        name: None,
    });
    for place in plan.outputs.iter().cloned().chain(packages) {
        layout::check_writable(&place)?;
        let directory = match place.form {
            Form::OciDirectory => &place.path,
            Form::OciArchive | Form::DockerArchive => directory_of(&place.path),
        };
        try_to_write(directory).map_err(|source| cannot_write(&place.path, source))?;
    }
    Ok(())
}

fn cannot_write(path: &Path, source: io::Error) -> layout::Error {
    layout::Error::Io {
        action: "write",
        path: path.to_owned(),
        source,
    }
}

/// Whether files can be made in a directory, or where it would have to be made; what is tried leaves nothing.
fn try_to_write(directory: &Path) -> io::Result<()> {
    let mut ancestors = directory.ancestors();
    let is_there = |path: &&Path| fs::symlink_metadata(path).is_ok();
    // The last of a relative path is empty, and the current directory.
    let nearest = ancestors.find(|path| path.as_os_str().is_empty() || is_there(path));
    let nearest = nearest.filter(|path| !path.as_os_str().is_empty());
    tempfile::tempfile_in(nearest.unwrap_or(Path::new("."))).map(drop)
}

/// The directory that a file is or will be in.
pub(super) fn directory_of(path: &Path) -> &Path {
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    directory.unwrap_or(Path::new("."))
}

/// Makes the directory that a file will be in.
fn make_directory_of(path: &Path) -> Result<(), layout::Error> {
    let made = fs::create_dir_all(directory_of(path));
    made.map_err(|source| cannot_write(path, source))
}

/// Writes the image and the package to all outputs of the plan.
pub(super) async fn write(
    built: &Built,
    package: Option<Package>,
    tools: &Tools,
) -> Result<(), Error> {
    let plan = &built.plan;
    if let Some(package) = package {
        let (plan, owned) = (Arc::clone(plan), tools.clone());
        let write = move || {
            let write = |path: &PathBuf| {
                let told = format!("writing zip:{}", path.display());
                owned.progress.step(told);
                make_directory_of(path)?;
                package.write(path, &plan, &owned)?;
                Ok::<_, Error>(())
            };
            plan.packages.iter().try_for_each(write)
        };
        tools.block(write).await??;
    }
    if plan.outputs.is_empty() {
        return Ok(());
    }
    bring_here(&built.image, tools).await?;
    for place in &plan.outputs {
        let (place, image) = (place.clone(), built.image.clone());
        let (names, store) = (plan.names.clone(), tools.store.clone());
        tools.progress.step(format!("writing {place}"));
        let write = move || {
            make_directory_of(&place.path)?;
            layout::write(&place, &image, &names, &store)
        };
        tools.block(write).await??;
    }
    Ok(())
}
