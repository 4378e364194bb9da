//! Which Python packages a base brings, as its layers say.
//!
//! Asked only where packages are left out because the base has them: for that its layers have to come
//! here. What a layer has is remembered by its digest. Only the names of files are looked at.

use std::collections::BTreeMap;
use std::io;

use flate2::read::MultiGzDecoder;

use crate::blob_store::{BlobStore, MemoKey};
use crate::build::base::Base;
use crate::build::{Error, Tools};
use crate::oci::Descriptor;
use crate::python::normalize_name;

/// Directories whose packages Lambda's Python finds.
const PLACES: [&str; 3] = ["/site-packages", "/dist-packages", "/var/runtime"];

/// Versions by normal name.
pub(super) type Packages = BTreeMap<String, String>;

/// What the base has; of several versions the highest layer's.
///
/// # Errors
/// Those of the registry and the store, and a layer that cannot be read.
pub(super) async fn packages(base: &Base, tools: &Tools) -> Result<Packages, Error> {
    let known = |layer| tools.store.recall::<Packages>(&key(layer)).is_some();
    if !base.image.manifest.layers.iter().all(known) {
        super::bring_here(&base.image, tools).await?;
    }
    let mut packages = BTreeMap::new();
    for layer in base.image.manifest.layers.clone() {
        let store = tools.store.clone();
        packages.extend(tools.block(move || of_layer(&store, &layer)).await??);
    }
    Ok(packages)
}

fn key(layer: &Descriptor) -> MemoKey {
    MemoKey::new("installed 1", [layer.digest.as_bytes()])
}

fn of_layer(store: &BlobStore, layer: &Descriptor) -> Result<Packages, Error> {
    if let Some(packages) = store.recall(&key(layer)) {
        return Ok(packages);
    }
    let failed = |source| Error::File {
        action: "read",
        path: store.path(&layer.digest),
        source,
    };
    let packages = read(store.reader(&layer.digest)?).map_err(failed)?;
    store.remember(&key(layer), &packages)?;
    Ok(packages)
}

fn read(layer: impl io::Read) -> io::Result<Packages> {
    let mut archive = tar::Archive::new(MultiGzDecoder::new(layer));
    let mut packages = BTreeMap::new();
    for entry in archive.entries()? {
        packages.extend(package_of(&entry?.path()?.to_string_lossy()));
    }
    Ok(packages)
}

/// The package whose metadata this path is.
fn package_of(path: &str) -> Option<(String, String)> {
    let path = format!("/{}", path.trim_start_matches(['.', '/']));
    let (directory, last) = path.strip_suffix("/METADATA")?.rsplit_once('/')?;
    let information = last.strip_suffix(".dist-info")?;
    let (name, version) = information.split_once('-')?;
    let is_place = PLACES.iter().any(|place| directory.ends_with(place));
    is_place.then(|| (normalize_name(name), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_those_that_python_finds() {
        let found =
            |path: &str| package_of(path).map(|(name, version)| format!("{name} {version}"));
        let site = "var/lang/lib/python3.12/site-packages";
        assert_eq!(
            found(&format!("{site}/Boto_3-1.34.0.dist-info/METADATA")).unwrap(),
            "boto-3 1.34.0"
        );
        assert_eq!(
            found("./var/runtime/botocore-1.34.dist-info/METADATA").unwrap(),
            "botocore 1.34"
        );
        for other in [
            format!("{site}/pip/_vendor/rich-1.dist-info/METADATA"),
            format!("{site}/boto3-1.dist-info/RECORD"),
            format!("{site}/METADATA"),
            "METADATA".to_owned(),
        ] {
            assert_eq!(found(&other), None, "{other}");
        }
    }
}
