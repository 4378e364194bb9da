//! An image is moved from one base to another: its own layers stay, the lowest are exchanged.
//!
//! Only documents are made. What the image had changed of the old base's config is changed in the new base's, and
//! what it had not is the new base's, so that the image is the one that a build on the new base gives. Whether it
//! runs there is not known here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::oci::image::{self, Image};
use crate::oci::reference::Reference;
use crate::oci::{self, Config};

/// Names and values, in order.
pub type Variables = Vec<(String, String)>;

/// What is to be known for a move beside the three images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Move {
    /// Name and digest of the new base.
    pub base: Option<(Option<Reference>, Digest)>,
    /// Variables that a build sets by what a base has: on the old one, and on the new one.
    pub variables: (Variables, Variables),
    /// Labels that a build sets by what the new base has.
    pub labels: BTreeMap<String, String>,
    /// Labels that are the image's own, even where the old base has the same.
    pub own_labels: BTreeSet<String>,
    /// Variables that are, in the order in which a build sets them.
    pub own_variables: BTreeSet<String>,
    /// Fields of the config's `config` that are.
    pub own_fields: BTreeSet<String>,
}

/// Whether the lowest layers of `image` are those of `base`, packed and unpacked.
pub fn stands_on(image: &Image, base: &Image) -> bool {
    let digests = image.manifest.layer_digests();
    digests.starts_with(&base.manifest.layer_digests())
        && image.config.diff_ids.starts_with(&base.config.diff_ids)
        && base.manifest.layers.len() == base.config.diff_ids.len()
        && image.manifest.layers.len() == image.config.diff_ids.len()
}

/// Moves `image`, which stands on `old`, to `new`.
///
/// # Errors
/// When a layer is of a kind that Lambda refuses, or a config is no object.
pub fn rebase(image: &Image, old: &Image, new: &Image, to: &Move) -> Result<Image, oci::Error> {
    image::check_base(new)?;
    image::check_base(image)?;
    let family = new.manifest.family;
    let lower = old.manifest.layers.len();
    let own = image.manifest.layers.iter().skip(lower);
    let mut layers = new.manifest.layers.clone();
    layers.extend(own.clone().map(|layer| oci::Descriptor {
        media_type: family.layer().to_owned(),
        ..layer.clone()
    }));
    let mut annotations = image.manifest.annotations.clone();
    annotations.extend(image::base_annotations(to.base.as_ref()));
    let config = config(image, old, new, to)?;
    let mut origins = new.origins.clone();
    origins.extend(own.filter_map(|layer| {
        let origin = image.origins.get(&layer.digest)?;
        Some((layer.digest, origin.clone()))
    }));
    Ok(Image {
        manifest: image::manifest(family, &config, &layers, &annotations)?,
        config: Config::read(config)?,
        origins,
    })
}

fn config(image: &Image, old: &Image, new: &Image, to: &Move) -> Result<Vec<u8>, oci::Error> {
    let [of_image, of_old, of_new] = [image, old, new].map(|image| &image.config.value);
    let mut value = json!({});
    let root = image::object(&mut value, "config")?;
    let always = BTreeSet::from(["created".to_owned()]);
    *root = merged(of_image, of_old, of_new, &always);
    root.insert("history".to_owned(), json!(history(image, old, new)));
    let own = image.config.diff_ids.iter().skip(old.config.diff_ids.len());
    let diff_ids: Vec<_> = new.config.diff_ids.iter().chain(own).collect();
    root.insert(
        "rootfs".to_owned(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );
    let mut always = to.own_fields.clone();
    always.insert("Cmd".to_owned());
    let [of_image, of_old, of_new] = [of_image, of_old, of_new].map(|value| &value["config"]);
    let mut run = merged(of_image, of_old, of_new, &always);
    take(&mut run, "Env", of_new);
    let env = variables(&image.config, &old.config, &new.config, to);
    if env != new.config.env {
        run.insert("Env".to_owned(), json!(env));
    }
    take(&mut run, "Labels", of_new);
    let labels = labels(&image.config, &old.config, &new.config, to);
    if !labels.is_empty() {
        run.insert("Labels".to_owned(), json!(labels));
    }
    root.insert("config".to_owned(), Value::Object(run));
    Ok(oci::to_json(&value))
}

/// Has `name` as `from` has it, or not at all.
fn take(object: &mut Map<String, Value>, name: &str, from: &Value) {
    match from.get(name) {
        Some(value) => object.insert(name.to_owned(), value.clone()),
        None => object.remove(name),
    };
}

/// The new object, but for what `image` has otherwise than `old`, and what it `always` says itself.
fn merged(
    image: &Value,
    old: &Value,
    new: &Value,
    always: &BTreeSet<String>,
) -> Map<String, Value> {
    let keys = |value: &Value| {
        let keys = value.as_object().into_iter().flat_map(Map::keys);
        keys.cloned().collect::<BTreeSet<_>>()
    };
    let mut merged = Map::new();
    for key in [image, old, new].iter().flat_map(|value| keys(value)) {
        let own = image.get(&key);
        let is_own = own != old.get(&key) || (own.is_some() && always.contains(&key));
        if let Some(value) = if is_own { own } else { new.get(&key) } {
            merged.insert(key, value.clone());
        }
    }
    merged
}

/// The new base's history, then what the image's says of its own layers.
fn history(image: &Image, old: &Image, new: &Image) -> Vec<Value> {
    let created = image.config.value.get("created").unwrap_or(&Value::Null);
    let complete = |base: &Image| {
        let history = base.config.value.get("history").cloned();
        image::complete_history(history, base.manifest.layers.len(), created)
    };
    let all = complete(image);
    let lower = complete(old);
    let own = match all.strip_prefix(&*lower) {
        Some(own) => own,
        // Of somebody who wrote the base's part anew.
        None => last_of(
            &all,
            image.manifest.layers.len() - old.manifest.layers.len(),
        ),
    };
    let mut history = complete(new);
    history.extend_from_slice(own);
    history
}

/// The end of a history that tells of so many layers.
fn last_of(history: &[Value], layers: usize) -> &[Value] {
    let mut left = layers;
    let mut start = history.len();
    while left > 0 && start > 0 {
        start -= 1;
        left -= usize::from(history[start]["empty_layer"] != json!(true));
    }
    &history[start..]
}

fn variables(image: &Config, old: &Config, new: &Config, to: &Move) -> Vec<String> {
    let name = |line: &String| line.split('=').next().unwrap_or_default().to_owned();
    let on_old = image::merge_env(&old.env, &to.variables.0);
    let mut env = image::merge_env(&new.env, &to.variables.1);
    let own: BTreeSet<_> = image.env.iter().map(name).collect();
    let lost: BTreeSet<_> = on_old
        .iter()
        .map(name)
        .filter(|name| !own.contains(name))
        .collect();
    env.retain(|line| !lost.contains(&name(line)));
    let lines = image.env.iter();
    let lines = lines.map(|line| (line, line.split_once('=').unwrap_or((line, ""))));
    let (mut own, changed): (Vec<_>, Vec<_>) =
        lines.partition(|(_, (name, _))| to.own_variables.contains(*name));
    // A build sets them by their names.
    own.sort_by_key(|(_, (name, _))| *name);
    let changed = changed.into_iter();
    let changed = changed.filter(|(line, _)| !on_old.contains(line));
    let changed = changed.chain(own);
    let changed = changed.map(|(_, (name, value))| (name.to_owned(), value.to_owned()));
    image::merge_env(&env, &changed.collect::<Vec<_>>())
}

fn labels(image: &Config, old: &Config, new: &Config, to: &Move) -> BTreeMap<String, String> {
    let mut labels = new.labels.clone();
    labels.retain(|name, _| !old.labels.contains_key(name) || image.labels.contains_key(name));
    let own = image.labels.iter();
    let own = own.filter(|(name, value)| {
        old.labels.get(*name) != Some(value) || to.own_labels.contains(*name)
    });
    let of_base = [image::BASE_NAME, image::BASE_DIGEST];
    let own = own.filter(|(name, _)| !of_base.contains(&&***name));
    labels.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    labels.extend(to.labels.clone());
    labels.extend(image::base_annotations(to.base.as_ref()));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::image::{Addition, Edit, stack};
    use crate::oci::layer::Layer;
    use crate::oci::{Descriptor, Family, Manifest};

    fn layer(name: &str) -> Layer {
        Layer {
            digest: Digest::of(format!("packed {name}")),
            size: 9,
            diff_id: Digest::of(name),
        }
    }

    fn base(family: Family, layers: &[&str], config: &Value) -> Image {
        let mut value = json!({"architecture": "amd64", "os": "linux", "config": config,
            "created": "2020-01-01T00:00:00Z",
            "history": [{"created_by": "RUN"}, {"created_by": "ENV", "empty_layer": true}]});
        let ids: Vec<_> = layers.iter().map(|name| layer(name).diff_id).collect();
        value["rootfs"] = json!({"type": "layers", "diff_ids": ids});
        let config = oci::to_json(&value);
        let descriptor = |name: &&str| Descriptor {
            media_type: family.layer().to_owned(),
            digest: layer(name).digest,
            size: 9,
            annotations: BTreeMap::new(),
        };
        let layers: Vec<_> = layers.iter().map(descriptor).collect();
        let manifest = image::manifest(family, &config, &layers, &BTreeMap::new()).unwrap();
        Image {
            manifest,
            config: Config::read(config).unwrap(),
            origins: BTreeMap::new(),
        }
    }

    fn build(base: &Image, edit: &Edit) -> Image {
        let additions = ["wheels", "function"].map(|what| Addition {
            layer: layer(what),
            what: what.to_owned(),
        });
        let edit = Edit {
            base: to_base(base),
            ..edit.clone()
        };
        stack(base, &additions, &edit).unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "what both kinds of edits take")]
    fn to_base(base: &Image) -> Option<(Option<Reference>, Digest)> {
        let name = Reference::read("registry.example/base:1").unwrap();
        Some((Some(name), base.manifest.digest()))
    }

    fn old(family: Family) -> Image {
        let config = json!({"Env": ["PATH=/bin", "OLD=1", "BOTH=1"], "Cmd": ["sh"], "WorkingDir": "/",
            "Labels": {"vendor": "old", "gone": "1"}, "User": "1"});
        base(family, &["a", "b"], &config)
    }

    fn new(family: Family) -> Image {
        let config = json!({"Env": ["BOTH=2", "PATH=/sbin", "NEW=1"], "Entrypoint": ["/init"],
            "WorkingDir": "/home", "Labels": {"vendor": "new", "more": "1"}, "StopSignal": "9"});
        base(family, &["a", "c", "d"], &config)
    }

    #[test]
    fn a_moved_image_is_the_one_built_there() {
        let plain = Edit {
            cmd: vec!["app.handler".to_owned()],
            epoch: 60,
            ..Edit::default()
        };
        for (from, onto) in [
            (Family::Docker, Family::Docker),
            (Family::Oci, Family::Oci),
            (Family::Docker, Family::Oci),
            (Family::Oci, Family::Docker),
        ] {
            let (old, new) = (old(from), new(onto));
            let image = build(&old, &plain);
            assert!(stands_on(&image, &old) && !stands_on(&image, &new));
            let to = Move {
                base: to_base(&new),
                ..Move::default()
            };
            let moved = rebase(&image, &old, &new, &to).unwrap();
            assert_eq!(moved, build(&new, &plain));
            // And back, and nowhere.
            let back = Move {
                base: to_base(&old),
                ..Move::default()
            };
            assert_eq!(rebase(&moved, &new, &old, &back).unwrap(), image);
            assert_eq!(rebase(&image, &old, &old, &back).unwrap(), image);
        }
    }

    #[test]
    fn what_a_build_sets_by_the_base_is_set_anew() {
        let pairs = |path: &str| {
            vec![
                ("PATH".to_owned(), path.to_owned()),
                ("L".into(), "1".into()),
            ]
        };
        let edit = |path: &str, glibc: &str| Edit {
            cmd: vec!["app.handler".to_owned()],
            entrypoint: Some(vec!["/entry".to_owned()]),
            working_dir: Some("/".to_owned()),
            env: pairs(path),
            labels: BTreeMap::from([("glibc".to_owned(), glibc.to_owned())]),
            ..Edit::default()
        };
        let (old, new) = (old(Family::Oci), new(Family::Oci));
        let image = build(&old, &edit("/bin:/opt", "2.34"));
        let to = Move {
            base: to_base(&new),
            variables: (pairs("/bin:/opt"), pairs("/sbin:/opt")),
            labels: BTreeMap::from([("glibc".to_owned(), "2.36".to_owned())]),
            own_fields: ["Entrypoint", "WorkingDir"].map(str::to_owned).into(),
            ..Move::default()
        };
        let moved = rebase(&image, &old, &new, &to).unwrap();
        assert_eq!(moved, build(&new, &edit("/sbin:/opt", "2.36")));
    }

    /// The old base may have the same, by chance.
    #[test]
    fn what_a_project_sets_stays() {
        let (old, new) = (old(Family::Oci), new(Family::Oci));
        let edit = Edit {
            working_dir: Some("/".to_owned()),
            user: Some("1".to_owned()),
            env: [("A", "1"), ("BOTH", "1"), ("OLD", "2"), ("PATH", "/bin")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Edit::default()
        };
        let to = Move {
            base: to_base(&new),
            own_variables: ["A", "BOTH", "OLD", "PATH"].map(str::to_owned).into(),
            own_fields: ["User", "WorkingDir"].map(str::to_owned).into(),
            ..Move::default()
        };
        let image = build(&old, &edit);
        let moved = rebase(&image, &old, &new, &to).unwrap();
        assert_eq!(moved, build(&new, &edit));
        // One that does not say it.
        let to = Move {
            base: to_base(&new),
            ..Move::default()
        };
        let moved = rebase(&image, &old, &new, &to).unwrap();
        assert_eq!(moved.config.value["config"]["WorkingDir"], "/home");
    }

    /// The old base may say the same of its layers as the image of its own.
    #[test]
    fn what_a_build_says_of_its_own_layers_stays() {
        let (old, new) = (old(Family::Oci), new(Family::Oci));
        let edit = Edit {
            labels: BTreeMap::from([("vendor".to_owned(), "old".to_owned())]),
            ..Edit::default()
        };
        let to = Move {
            base: to_base(&new),
            own_labels: BTreeSet::from(["vendor".to_owned()]),
            ..Move::default()
        };
        let moved = rebase(&build(&old, &edit), &old, &new, &to).unwrap();
        assert_eq!(moved, build(&new, &edit));
    }

    #[test]
    fn what_somebody_changed_stays_changed() {
        let (old, new) = (old(Family::Oci), new(Family::Oci));
        let mut value = build(&old, &Edit::default()).config.value;
        value["author"] = json!("me");
        value["config"]["Env"] = json!(["PATH=/mine", "BOTH=1", "MINE=1"]);
        value["config"]["Labels"]["vendor"] = json!("me");
        value["history"] = json!([
            {"created_by": "squashed"}, {"created_by": "squashed"}, {"comment": "wheels"},
            {"empty_layer": true}, {"comment": "function"},
        ]);
        let config = oci::to_json(&value);
        let image = build(&old, &Edit::default());
        let mut manifest: Value = serde_json::from_slice(&image.manifest.raw).unwrap();
        manifest["config"] = json!(Descriptor::of(Family::Oci.config(), &config));
        manifest["annotations"]["mine"] = json!("1");
        manifest["layers"][3]["annotations"] = json!({"key": "1"});
        let image = Image {
            manifest: Manifest::read(oci::to_json(&manifest)).unwrap(),
            config: Config::read(config).unwrap(),
            ..image
        };
        let to = Move {
            base: to_base(&new),
            ..Move::default()
        };
        let moved = rebase(&image, &old, &new, &to).unwrap();
        assert_eq!(moved.config.value["author"], "me");
        assert_eq!(
            moved.config.env,
            ["BOTH=2", "PATH=/mine", "NEW=1", "MINE=1"]
        );
        let labels = &moved.config.labels;
        assert_eq!((&*labels["vendor"], &*labels["more"]), ("me", "1"));
        assert_eq!(
            labels[image::BASE_DIGEST],
            new.manifest.digest().to_string()
        );
        let history = moved.config.value["history"].as_array().unwrap();
        assert_eq!(history.len(), 4 + 3);
        assert_eq!(history[4]["comment"], "wheels");
        assert_eq!(moved.manifest.annotations["mine"], "1");
        assert_eq!(moved.manifest.layers[4].annotations["key"], "1");
    }
}
