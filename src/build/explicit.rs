//! Which settings of an image the project has set itself, as the image says it in a label.
//!
//! On another base they stay, also those that are as the old base has them. Values are not in it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::build::{base, pins};
use crate::oci::Config;
use crate::plan::image::Running;

/// The names as JSON; `none` where the project sets nothing and the base has layers of ours or a label of this name,
/// which is not to be this image's.
pub(super) const LABEL: &str = "lambimg.settings";

/// Names of settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Explicit {
    /// Variables.
    pub(super) env: BTreeSet<String>,
    /// Labels.
    pub(super) labels: BTreeSet<String>,
    /// Fields of the config's `config`.
    pub(super) fields: BTreeSet<String>,
}

impl Explicit {
    /// What a project has set.
    pub(super) fn of(running: &Running) -> Self {
        let fields = [
            ("Entrypoint", running.entrypoint.is_some()),
            ("User", running.user.is_some()),
            ("WorkingDir", running.workdir.is_some()),
        ];
        let set = fields.into_iter().filter(|(_, is_set)| *is_set);
        Self {
            env: running.env.keys().cloned().collect(),
            labels: running.labels.keys().cloned().collect(),
            fields: set.map(|(name, _)| name.to_owned()).collect(),
        }
    }

    /// What an image says; nothing where it says nothing that is understood.
    pub(super) fn read(config: &Config) -> Self {
        let label = config.labels.get(LABEL);
        label
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    /// The label of an image on this base.
    pub(super) fn label(&self, on: &Config) -> BTreeMap<String, String> {
        let text = if *self == Self::default() {
            let is_hidden = base::is_ours(on) || on.labels.contains_key(LABEL);
            is_hidden.then(|| pins::NONE.to_owned())
        } else {
            serde_json::to_string(self).ok()
        };
        text.map(|text| (LABEL.to_owned(), text))
            .into_iter()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci;
    use serde_json::json;

    #[test]
    fn a_bases_label_is_never_the_images() {
        let label_on = |labels: serde_json::Value| {
            let config = json!({"architecture": "amd64", "os": "linux", "config": {"Labels": labels},
                "rootfs": {"type": "layers", "diff_ids": []}});
            let on = Config::read(oci::to_json(&config)).unwrap();
            Explicit::default().label(&on)
        };
        let none = BTreeMap::from([(LABEL.to_owned(), "none".to_owned())]);
        assert_eq!(label_on(json!({})), BTreeMap::new());
        assert_eq!(label_on(json!({"lambimg.layers": "x"})), none);
        assert_eq!(label_on(json!({LABEL: r#"{"env":["PATH"]}"#})), none);
    }
}
