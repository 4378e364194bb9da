//! Manifests that are wrong in one thing at a time.

use std::io::Write as _;

use serde_json::json;

use super::*;
use crate::lambda::check::testing::{Forge, told};
use crate::oci::Descriptor;
use crate::oci::flatten;

/// What this room's rules find.
fn findings(subject: &Subject) -> String {
    let all = told(subject);
    let own = all.lines().filter(|line| *line < "LMB015");
    own.collect::<Vec<_>>().join("\n")
}

fn sound() -> Forge {
    Forge::new().dir("var/").layer().dir("var/task/")
}

fn with(manifest: Value) -> String {
    let mut forge = sound();
    forge.manifest = manifest;
    findings(&forge.subject())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "a", &b"abc"[..]).unwrap();
    tar.into_inner().unwrap()
}

/// An image whose upper layer has these bytes, whatever is said of them.
fn layer(stated: &Descriptor, bytes: &[u8]) -> Subject {
    let mut forge = sound();
    let lower = forge.lowest();
    forge.manifest = json!({"layers": [lower, stated]});
    let ids = json!([forge.diff_id(0), Digest::of(tar()).to_string()]);
    forge.config["rootfs"] = json!({"type": "layers", "diff_ids": ids});
    let mut subject = forge.subject();
    subject.layers[1] = flatten::read(stated, bytes, |_| None).unwrap();
    subject
}

fn packed(bytes: &[u8]) -> String {
    findings(&layer(
        &Descriptor::of(Family::Docker.layer(), bytes),
        bytes,
    ))
}

#[test]
fn a_sound_image_has_nothing() {
    assert_eq!(findings(&sound().subject()), "");
    assert_eq!(packed(&gzip(&tar())), "");
}

#[test]
fn documents_of_other_kinds() {
    let of = |field: &str, value: Value| with(json!({ field: value }));
    assert_eq!(
        of(
            "mediaType",
            json!("application/vnd.oci.artifact.manifest.v1+json")
        ),
        "LMB002 error: the manifest is of another kind than images have"
    );
    assert_eq!(
        of("schemaVersion", json!(1)),
        "LMB002 error: the manifest's `schemaVersion` is not 2"
    );
    assert_eq!(
        of("mediaType", json!(Family::Oci.manifest())),
        "LMB003 error: the manifest is OCI's, and its config and 2 layers are Docker's"
    );
    assert_eq!(
        of(
            "config",
            json!({"mediaType": "application/vnd.cncf.helm.config.v1+json"})
        ),
        "LMB004 error: the config is of another kind than images have"
    );
    assert_eq!(
        of("subject", json!({})),
        "LMB009 warning: the manifest has `subject`"
    );
    let large = "x".repeat(25_400);
    let large = of("annotations", json!({ "a": large }));
    assert!(
        large.starts_with("LMB008 warning: the manifest has 2"),
        "{large}"
    );
}

#[test]
fn layers_of_other_types() {
    for (media_type, says) in [
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "packed by zstd",
        ),
        ("application/vnd.docker.image.rootfs.diff.tar", "not packed"),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "one that registries do not hand out",
        ),
        (
            "application/vnd.in-toto+json",
            "of another kind than images have",
        ),
    ] {
        let mut forge = sound();
        let lower = forge.lowest();
        forge.manifest = json!({"layers": [{"mediaType": media_type, "size": 1,
            "digest": Digest::of("a").to_string()}, lower]});
        assert_eq!(
            findings(&forge.subject()),
            format!("LMB005 error 0: the layer is {says}")
        );
    }
}

#[test]
fn layers_of_other_bytes_than_their_type() {
    assert_eq!(
        packed(&tar()),
        "LMB006 error 1: the layer is not packed, and is said to be gzip"
    );
    assert_eq!(
        packed(b"\x28\xb5\x2f\xfd and so on"),
        "LMB006 error 1: the layer is packed by zstd, and is said to be gzip"
    );
    assert_eq!(
        packed(b"<html>"),
        "LMB006 error 1: the layer is no gzip, and is said to be"
    );
    let (tar, half) = (tar(), 700);
    let two = [gzip(&tar[..half]), gzip(&tar[half..])].concat();
    assert_eq!(packed(&two), "LMB007 error 1: the layer has 2 gzip members");
    let behind = [&*gzip(&tar), b"abc"].concat();
    assert_eq!(
        packed(&behind),
        "LMB007 error 1: 3 bytes stand behind the layer's gzip member"
    );
}

#[test]
fn a_layer_of_a_zstd_type_and_bytes_is_told_once() {
    let bytes = b"\x28\xb5\x2f\xfd and so on";
    let stated = Descriptor::of("application/vnd.oci.image.layer.v1.tar+zstd", bytes);
    assert_eq!(
        findings(&layer(&stated, bytes)),
        "LMB005 error 1: the layer is packed by zstd"
    );
}

#[test]
fn descriptors_that_are_not_true() {
    let bytes = gzip(&tar());
    let mut stated = Descriptor::of(Family::Docker.layer(), &bytes);
    stated.size += 1;
    let message = findings(&layer(&stated, &bytes));
    let (length, said) = (bytes.len(), stated.size);
    assert_eq!(
        message,
        format!("LMB011 error 1: the layer has {length} bytes, and is named with {said}")
    );
    // Cut off: other bytes, and so nothing else is said.
    let message = findings(&layer(&stated, &bytes[..bytes.len() - 9]));
    assert!(
        message.starts_with("LMB011 error 1: the layer is sha256:"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);

    let mut subject = sound().subject();
    let stated = subject.documents.config.stated.as_mut().unwrap();
    stated.1 += 1;
    let message = findings(&subject);
    assert!(
        message.starts_with("LMB010 error: the config has "),
        "{message}"
    );
    let manifest = subject.documents.manifest.as_mut().unwrap();
    manifest.stated = Some((Digest::of("another"), 7));
    let message = findings(&subject);
    assert!(
        message.starts_with("LMB010 error: the manifest is sha256:"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn a_damaged_layer_is_told_once_and_nothing_that_follows_from_it() {
    let whole = gzip(&tar());
    let cut = &whole[..whole.len() - 9];
    let subject = layer(&Descriptor::of(Family::Docker.layer(), cut), cut);
    let message = told(&subject);
    assert!(
        message.starts_with("LMB014 error 1: the layer cannot be read to its end: "),
        "{message}"
    );
    assert!(!message.contains("LMB012"), "{message}");
}

#[test]
fn diff_ids_and_history() {
    let mut forge = sound();
    let ids = json!([forge.diff_id(0), Digest::of("another").to_string()]);
    forge.config["rootfs"] = json!({"type": "layers", "diff_ids": ids});
    let message = findings(&forge.subject());
    assert!(
        message.starts_with("LMB012 error 1: the layer unpacked is sha256:"),
        "{message}"
    );

    let mut forge = sound();
    forge.config["rootfs"] = json!({"type": "layers", "diff_ids": [forge.diff_id(0)]});
    forge.config["history"] = json!([{}, {}]);
    assert_eq!(
        findings(&forge.subject()),
        "LMB012 error: there are 2 layers, and `diff_ids` for 1"
    );

    let mut forge = sound();
    forge.config["history"] = json!([{}, {"empty_layer": true}]);
    assert_eq!(
        findings(&forge.subject()),
        "LMB013 warning: the history tells of 1 layers, and there are 2"
    );
    let mut forge = sound();
    forge.config["history"] = json!([{}, {"empty_layer": true}, {}]);
    assert_eq!(findings(&forge.subject()), "");
}

#[test]
fn a_layer_of_another_type_that_is_not_there_is_told_once() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let stated = Descriptor::of(foreign, b"x");
    let mut subject = layer(&stated, &gzip(&tar()));
    subject.layers[1] = Layer::unread(stated);
    subject.layers[1].damage = Some("it is not there".to_owned());
    assert_eq!(
        findings(&subject),
        "LMB005 error 1: the layer is one that registries do not hand out"
    );
}

#[test]
fn layers_of_dockers_archives_that_cannot_be_read() {
    let of = |bytes: &[u8]| {
        let stated = Descriptor::of(Family::Docker.layer(), bytes);
        let mut subject = layer(&stated, bytes);
        subject.documents.manifest = None;
        findings(&subject)
    };
    assert_eq!(of(&gzip(&tar())), "");
    assert_eq!(of(&tar()), "");
    assert_eq!(
        of(b"garbage"),
        "LMB014 error 1: the layer cannot be read: it is neither a tar nor packed by gzip"
    );
    assert_eq!(
        of(b"\x28\xb5\x2f\xfdrest"),
        "LMB014 error 1: the layer cannot be read: it is packed by zstd"
    );
    assert_eq!(
        of(b""),
        "LMB014 error 1: the layer cannot be read: it has no bytes"
    );
}
