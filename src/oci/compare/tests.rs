//! Two images that differ in one thing at a time.

use super::*;
use crate::blob_store::BlobStore;
use crate::file_tree::{Content, FileTree, ImagePath, Node};
use crate::oci;
use crate::oci::image::{Addition, Edit, in_oci_types, stack};
use crate::oci::layer::{self, Options, Packing};
use crate::oci::{Config, Manifest};
use crate::progress::Progress;

fn scratch(family: Family) -> Image {
    let config = oci::to_json(&json!({"architecture": "arm64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []}}));
    let manifest = oci::to_json(&json!({"schemaVersion": 2, "layers": [],
        "mediaType": family.manifest(),
        "config": Descriptor::of(family.config(), &config)}));
    Image {
        manifest: Manifest::read(manifest).unwrap(),
        config: Config::read(config).unwrap(),
        origins: BTreeMap::new(),
    }
}

fn tree(files: &[(&str, &str)]) -> FileTree {
    let mut tree = FileTree::default();
    for (path, text) in files {
        let path = ImagePath::new(path).unwrap();
        let executable = path.as_str() == "a/was.sh";
        tree.insert_file(path, Content::bytes(*text), executable, &"test".into())
            .unwrap();
    }
    tree
}

fn image(store: &BlobStore, layers: &[(&str, &FileTree)], options: Options) -> Image {
    let make = |(what, tree): &(&str, &FileTree)| {
        let task = Progress::default().task("make", None);
        let (layer, _) = layer::make(store, tree, options, &task).unwrap();
        let what = (*what).to_owned();
        Addition { layer, what }
    };
    let additions: Vec<_> = layers.iter().map(make).collect();
    let edit = Edit {
        epoch: options.epoch,
        cmd: vec!["app.handler".to_owned()],
        ..Edit::default()
    };
    stack(&scratch(Family::Docker), &additions, &edit).unwrap()
}

fn differences(store: &BlobStore, first: &Image, second: &Image) -> Vec<Difference> {
    let open = |_: Side, layer: &Descriptor| store.reader(&layer.digest).map_err(io::Error::other);
    let found = compare(first, second, open).unwrap();
    let none =
        |_: Side, _: &Descriptor| -> io::Result<io::Empty> { panic!("nothing is to be read") };
    assert_eq!(compare(first, first, none).unwrap(), []);
    found
}

fn told_files(found: &[Difference]) -> Vec<String> {
    let line = |difference: &Difference| match difference {
        Difference::File {
            place,
            path,
            change,
        } => Some(format!(
            "{:?}/{:?} {path} {change:?}",
            place.first, place.second
        )),
        _ => None,
    };
    found.iter().filter_map(line).collect()
}

#[test]
fn files_are_told_to_the_first_byte() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let mut one = tree(&[
        ("a/gone", ""),
        ("a/same", "s"),
        ("a/text", "some text"),
        ("a/was.sh", "x"),
    ]);
    let mut other = tree(&[
        ("a/new", ""),
        ("a/same", "s"),
        ("a/text", "some test, longer"),
        ("a/z", "z"),
    ]);
    for (tree, target) in [(&mut one, "same"), (&mut other, "text")] {
        let link = ImagePath::new("a/link").unwrap();
        tree.insert(link, Node::Symlink(target.into()), &"test".into())
            .unwrap();
    }
    let path = ImagePath::new("a/was.sh").unwrap();
    other
        .insert_file(path, Content::bytes("x"), false, &"test".into())
        .unwrap();
    let options = Options::default();
    let (first, second) = (
        image(&store, &[("f", &one)], options),
        image(&store, &[("f", &other)], options),
    );
    let found = differences(&store, &first, &second);
    assert_eq!(
        told_files(&found),
        [
            "0..1/0..1 a/gone OnlyFirst",
            "0..1/0..1 a/link Target { first: \"same\", second: \"text\" }",
            "0..1/0..1 a/new OnlySecond",
            "0..1/0..1 a/text Contents { sizes: (9, 17), heads: ([115, 111, 109, 101, 32, 116, 101, 120, 116], \
             [115, 111, 109, 101, 32, 116, 101, 115, 116, 44, 32, 108, 111, 110, 103, 101]), at: Some(At { offset: 7, \
             first: [120, 116], second: [115, 116, 44, 32, 108, 111, 110, 103] }) }",
            "0..1/0..1 a/was.sh Mode { first: 493, second: 420 }",
            "0..1/0..1 a/z OnlySecond",
        ]
    );
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn a_layer_more_leaves_the_others_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let trees: Vec<_> = ["a", "b", "c"].map(|name| tree(&[(name, name)])).into();
    let [a, b, c] = &*trees else { unreachable!() };
    let options = Options::default();
    let first = image(&store, &[("a", a), ("c", c)], options);
    let second = image(&store, &[("a", a), ("b", b), ("c", c)], options);
    let found = differences(&store, &first, &second);
    assert_eq!(told_files(&found), ["1..1/1..2 b OnlySecond"]);
    let [left, right] = layers_to_read(&first, &second);
    assert_eq!((left.len(), right), (0, vec![&second.manifest.layers[1]]));
}

#[test]
fn dates_and_compression_are_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let files = tree(&[("a/one", "1"), ("a/two", "2")]);
    let options = |epoch, packing| Options { epoch, packing };
    let first = image(&store, &[("f", &files)], options(60, Packing::Spliced));
    let later = image(&store, &[("f", &files)], options(120, Packing::Spliced));
    let found = differences(&store, &first, &later);
    let [
        Difference::Document { key, .. },
        Difference::Dates {
            files: 3,
            first: 60,
            second: 120,
            ..
        },
    ] = &*found
    else {
        panic!("{found:?}")
    };
    assert_eq!(key, "created");
    // The same tar in another stream.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let blob = store.read(&first.manifest.layers[0].digest).unwrap();
    io::copy(&mut flate2::read::GzDecoder::new(&*blob), &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    let text = String::from_utf8(first.manifest.raw.clone()).unwrap();
    let (old, new) = (&first.manifest.layers[0], Digest::of(&packed));
    let text = text.replace(&old.digest.hex(), &new.hex()).replace(
        &format!("\"size\":{}", old.size),
        &format!("\"size\":{}", packed.len()),
    );
    let repacked = Image {
        manifest: Manifest::read(text.into_bytes()).unwrap(),
        ..first.clone()
    };
    let found = differences(&store, &first, &repacked);
    assert!(
        matches!(&*found, [Difference::Compression { .. }]),
        "{found:?}"
    );
}

#[test]
fn documents_are_told_by_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let files = tree(&[("a", "1")]);
    let first = image(&store, &[("f", &files)], Options::default());
    let retyped = in_oci_types(&first).unwrap();
    assert!(is_retyped(&first, &retyped) && !is_retyped(&first, &first));
    let found = differences(&store, &first, &retyped);
    assert!(matches!(&*found, [Difference::Types { .. }]), "{found:?}");

    // Docker's own documents cannot have one, so where both sides do they are compared.
    let mut annotated = [first.clone(), retyped];
    for (number, image) in annotated.iter_mut().enumerate() {
        let value = number.to_string();
        image.manifest.annotations.insert("a".to_owned(), value);
    }
    assert!(!is_retyped(&annotated[0], &annotated[1]));

    let mut value = first.config.value.clone();
    value["config"]["Env"] = json!(["A=1", "B=2"]);
    value["history"][0]["comment"] = json!("other");
    let other = with_config(&first, &oci::to_json(&value));
    let mut again = value.clone();
    again["config"]["Env"] = json!(["B=3", "A=1"]);
    let again = with_config(&first, &oci::to_json(&again));
    let keys = |found: &[Difference]| {
        let key = |difference: &Difference| match difference {
            Difference::Document { key, .. } => key.clone(),
            other => panic!("{other:?}"),
        };
        found.iter().map(key).collect::<Vec<_>>()
    };
    let found = differences(&store, &first, &other);
    assert_eq!(keys(&found), ["config.Env", "history.0.comment"]);
    assert_eq!(keys(&differences(&store, &other, &again)), ["config.Env.B"]);
    let spelled = with_config(&other, &serde_json::to_vec_pretty(&value).unwrap());
    let found = differences(&store, &other, &spelled);
    assert!(
        matches!(&*found, [Difference::Spelling { what: "config", .. }]),
        "{found:?}"
    );
}

fn with_config(image: &Image, config: &[u8]) -> Image {
    let mut manifest: Value = serde_json::from_slice(&image.manifest.raw).unwrap();
    manifest["config"] = json!(Descriptor::of(image.manifest.family.config(), config));
    Image {
        manifest: Manifest::read(oci::to_json(&manifest)).unwrap(),
        config: Config::read(config.to_vec()).unwrap(),
        ..image.clone()
    }
}

#[test]
fn a_tar_that_the_config_does_not_mean_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let (one, other) = (tree(&[("a", "1")]), tree(&[("a", "2")]));
    let first = image(&store, &[("f", &one)], Options::default());
    let second = image(&store, &[("f", &other)], Options::default());
    let mut value = second.config.value.clone();
    value["rootfs"]["diff_ids"] = json!([Digest::of("lie")]);
    let second = with_config(&second, &oci::to_json(&value));
    let open = |_: Side, layer: &Descriptor| store.reader(&layer.digest).map_err(io::Error::other);
    let error = compare(&first, &second, open).unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error}");
    let cut = |_: Side, layer: &Descriptor| -> io::Result<io::Take<_>> {
        let reader = store.reader(&layer.digest).map_err(io::Error::other)?;
        Ok(reader.take(layer.size - 9))
    };
    let error = compare(&first, &second, cut).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Read {
                side: Side::First,
                ..
            }
        ),
        "{error}"
    );
}

/// The image with its config edited.
fn edited(image: &Image, edit: impl Fn(&mut Value)) -> Image {
    let mut value = image.config.value.clone();
    edit(&mut value);
    let config = oci::to_json(&value);
    let mut manifest: Value = serde_json::from_slice(&image.manifest.raw).unwrap();
    manifest["config"] = json!(Descriptor::of(image.manifest.family.config(), &config));
    Image {
        manifest: Manifest::read(oci::to_json(&manifest)).unwrap(),
        config: Config::read(config).unwrap(),
        origins: BTreeMap::new(),
    }
}

fn keys(found: &[Difference]) -> Vec<&str> {
    let mut keys = Vec::new();
    for difference in found {
        keys.push(match difference {
            Difference::Document { key, .. } => key.as_str(),
            Difference::Spelling { .. } => "spelling",
            _ => "other",
        });
    }
    keys
}

#[test]
fn what_means_something_else_is_no_spelling() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let files = tree(&[("a/b", "x")]);
    let one = image(&store, &[("function", &files)], Options::default());
    let with_env = |env: &[&str]| edited(&one, |config| config["config"]["Env"] = json!(env));
    let env = |first: &[&str], second: &[&str]| {
        let found = differences(&store, &with_env(first), &with_env(second));
        keys(&found).join(" ")
    };
    assert_eq!(env(&["A=1", "B=2"], &["B=2", "A=1"]), "spelling");
    assert_eq!(env(&["A=1", "A=2"], &["A=2", "A=1", "A=2"]), "config.Env");
    assert_eq!(env(&["A=1", "A=2"], &["A=2"]), "config.Env");
    assert_eq!(env(&["A=1"], &["A=2"]), "config.Env.A");
    let other = edited(&one, |config| {
        config["rootfs"]["diff_ids"] = json!([Digest::of("other")]);
    });
    let found = differences(&store, &one, &other);
    assert_eq!(keys(&found), ["rootfs.diff_ids.0"]);
}

/// A layer of one file with this header, as another tool may make it.
fn foreign(store: &BlobStore, header: &mut tar::Header, capability: Option<&[u8]>) -> layer::Layer {
    let mut archive = tar::Builder::new(Vec::new());
    header.set_path("bin/ping").unwrap();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    if let Some(capability) = capability {
        let extension = [("SCHILY.xattr.security.capability", capability)];
        archive.append_pax_extensions(extension).unwrap();
    }
    archive.append(header, io::empty()).unwrap();
    let tar = archive.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &tar).unwrap();
    let blob = gzip.finish().unwrap();
    layer::Layer {
        digest: store.put(&blob).unwrap(),
        size: blob.len() as u64,
        diff_id: Digest::of(&tar),
    }
}

#[test]
fn capabilities_and_devices_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let image = |layer: layer::Layer| {
        let what = "foreign".to_owned();
        let edit = Edit::default();
        stack(&scratch(Family::Docker), &[Addition { layer, what }], &edit).unwrap()
    };
    let told = |first: layer::Layer, second: layer::Layer| {
        told_files(&differences(&store, &image(first), &image(second))).join("\n")
    };
    let mut file = tar::Header::new_ustar();
    let plain = foreign(&store, &mut file, None);
    let capable = foreign(&store, &mut file, Some(b"\x01cap"));
    insta::assert_snapshot!(told(plain, capable), @r#"0..1/0..1 bin/ping Attributes { first: "", second: "security.capability=\\x01cap" }"#);
    let device = |minor| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Char);
        header.set_device_major(1).unwrap();
        header.set_device_minor(minor).unwrap();
        foreign(&store, &mut header, None)
    };
    let (null, zero) = (device(3), device(5));
    insta::assert_snapshot!(told(null, zero), @r#"0..1/0..1 bin/ping Attributes { first: "c 1:3", second: "c 1:5" }"#);
}
