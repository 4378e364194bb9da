//! Which Python packages a base brings, as its layers say.
//!
//! Asked only where packages are left out because the base has them: for that its layers have to come
//! here. What they have together is remembered by their digests. Only the names of files are looked at.

use std::collections::BTreeMap;
use std::io;

use crate::blob_store::{BlobStore, MemoKey};
use crate::build::base::Base;
use crate::build::{Error, Tools};
use crate::lambda::check;
use crate::oci::Descriptor;
use crate::oci::flatten::{self, Layer, Tree};

/// Versions by normal name.
pub(super) type Packages = BTreeMap<String, String>;

/// What the base has, as all its layers leave it; of several versions the highest layer's.
///
/// # Errors
/// Those of the registry and the store, and a layer that cannot be read.
pub(super) async fn packages(base: &Base, tools: &Tools) -> Result<Packages, Error> {
    let layers = base.image.manifest.layers.clone();
    let digests = layers.iter().map(|layer| layer.digest.as_bytes());
    let key = MemoKey::new("installed 3", digests);
    if let Some(packages) = tools.store.recall(&key) {
        return Ok(packages);
    }
    super::bring_here(&base.image, tools).await?;
    let store = tools.store.clone();
    let work = move || {
        let packages = read(&layers, &store)?;
        store.remember(&key, &packages)?;
        Ok(packages)
    };
    tools.block(work).await?
}

fn read(stated: &[Descriptor], store: &BlobStore) -> Result<Packages, Error> {
    let open = |number: usize| {
        let reader = store.reader(&stated[number].digest);
        reader.map_err(io::Error::other)
    };
    let mut layers: Vec<Layer<()>> = Vec::new();
    for (layer, stated) in flatten::read_all(stated, open, |_, _| None)
        .into_iter()
        .zip(stated)
    {
        let failed = |source| Error::File {
            action: "read",
            path: store.path(&stated.digest),
            source,
        };
        let layer = layer.map_err(failed)?;
        if !layer.is_whole() {
            let why = layer.damage.as_deref();
            let why = why.unwrap_or("it is packed in a way that is not read");
            return Err(failed(io::Error::other(why.to_owned())));
        }
        layers.push(layer);
    }
    let tree = Tree::new(&layers);
    let found = tree.paths().filter_map(|path| {
        let package = check::of_base(path)?;
        Some((tree.get(path, &layers)?.layer, package))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(layer, _)| *layer);
    Ok(found.into_iter().map(|(_, package)| package).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// A layer of empty files.
    fn layer(store: &BlobStore, paths: &[&str]) -> Descriptor {
        let mut tar = tar::Builder::new(Vec::new());
        for path in paths {
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            tar.append_data(&mut header, path, io::empty()).unwrap();
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&tar.into_inner().unwrap()).unwrap();
        let bytes = packed.finish().unwrap();
        store.put(&bytes).unwrap();
        Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", &bytes)
    }

    #[test]
    fn what_an_upper_layer_removes_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let (site, runtime) = ("var/lang/lib/python3.12/site-packages", "var/runtime");
        let of = |place: &str, info: &str| format!("{place}/{info}.dist-info/METADATA");
        let base = layer(
            &store,
            &[
                &of(site, "kept-1"),
                &of(site, "gone-1"),
                &of(site, "newer-9"),
                &of(runtime, "boto3-1"),
            ],
        );
        let upper = layer(
            &store,
            &[
                &format!("{site}/.wh.gone-1.dist-info"),
                &format!("{site}/newer-10.dist-info/METADATA"),
                &format!("{runtime}/.wh..wh..opq"),
            ],
        );
        let packages = read(&[base, upper], &store).unwrap();
        let packages: Vec<_> = packages
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        assert_eq!(packages, ["kept 1", "newer 10"]);
    }

    #[test]
    fn packages_are_those_that_python_finds() {
        let found =
            |path: &str| check::of_base(path).map(|(name, version)| format!("{name} {version}"));
        let site = "var/lang/lib/python3.12/site-packages";
        assert_eq!(
            found(&format!("{site}/Boto_3-1.34.0.dist-info/METADATA")).unwrap(),
            "boto-3 1.34.0"
        );
        assert_eq!(
            found("var/runtime/botocore-1.34.dist-info/METADATA").unwrap(),
            "botocore 1.34"
        );
        for other in [
            format!("{site}/pip/_vendor/rich-1.dist-info/METADATA"),
            format!("{site}/boto3-1.dist-info/RECORD"),
            format!("{site}/METADATA"),
            "data/var/runtime/botocore-1.34.dist-info/METADATA".to_owned(),
            "METADATA".to_owned(),
        ] {
            assert_eq!(found(&other), None, "{other}");
        }
    }
}
