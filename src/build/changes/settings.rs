//! What the configs of two images say otherwise. Values that are secrets by their names or by themselves stay here.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::build::changes::Image;
use crate::build::inventory::is_bytecode;
use crate::lambda::check;
use crate::lambda::check::subject::Documents;
use crate::oci::image::{BASE_DIGEST, BASE_NAME};

/// Labels by which lambimg knows its own images again begin so.
const OURS: &str = "lambimg.";

/// What can be set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// The processor.
    Architecture,
    /// The release line of the Python that the function runs on.
    Python,
    /// `Cmd`: the handler, where the entry point is Lambda's.
    Handler,
    /// `Entrypoint`.
    EntryPoint,
    /// `WorkingDir`.
    WorkingDirectory,
    /// `User`.
    User,
    /// Whether what was added is compiled.
    Bytecode,
    /// A variable of the environment.
    Variable(String),
    /// A label.
    Label(String),
}

/// A value as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// Itself.
    Plain(String),
    /// It is a secret.
    Secret,
}

/// A setting that is not the same in both images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// Which.
    pub setting: Setting,
    /// In the first image, if it is set.
    pub first: Option<Text>,
    /// In the second, if it is set.
    pub second: Option<Text>,
}

/// All settings that are not the same, in the order of [`Setting`].
pub(super) fn changes(first: &Image<'_>, second: &Image<'_>) -> Vec<SettingChange> {
    let (mut left, mut right) = (settings(first), settings(second));
    let [of_first, of_second] = [first, second].map(|image| &image.subject.documents);
    let mut names: Vec<_> = left.keys().chain(right.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let changes = names.into_iter().filter_map(|setting| {
        let (first, second) = (left.remove(&setting), right.remove(&setting));
        if first == second {
            return None;
        }
        let shown = |value: Option<String>, of| value.map(|value| shown(&setting, value, of));
        Some(SettingChange {
            first: shown(first, of_first),
            second: shown(second, of_second),
            setting,
        })
    });
    changes.collect()
}

fn shown(setting: &Setting, value: String, documents: &Documents) -> Text {
    let words = |field| written(&check::shown(&documents.list(field))).unwrap_or_default();
    let name = match setting {
        Setting::Handler => return Text::Plain(words("Cmd")),
        Setting::EntryPoint => return Text::Plain(words("Entrypoint")),
        Setting::Variable(name) | Setting::Label(name) => name,
        _ => "",
    };
    if check::is_secret(name, &value) {
        Text::Secret
    } else {
        Text::Plain(value)
    }
}

fn settings(image: &Image<'_>) -> BTreeMap<Setting, String> {
    let documents = &image.subject.documents;
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let python = image.subject.python.as_ref();
    let of_image = [
        (Setting::Architecture, text(documents.architecture())),
        (
            Setting::Python,
            python.map(|python| python.version.to_string()),
        ),
        (Setting::Handler, written(&documents.list("Cmd"))),
        (Setting::EntryPoint, written(&documents.list("Entrypoint"))),
        (
            Setting::WorkingDirectory,
            Some(documents.working_dir().to_owned()),
        ),
        (Setting::User, documents.run("User").as_str().and_then(text)),
        (
            Setting::Bytecode,
            has_bytecode(image).then(|| "compiled".to_owned()),
        ),
    ];
    let of_image = of_image
        .into_iter()
        .filter_map(|(setting, value)| Some((setting, value?)));
    let variables = documents.variables().into_iter();
    let variables =
        variables.map(|(name, value)| (Setting::Variable(name.to_owned()), value.to_owned()));
    of_image.chain(variables).chain(labels(documents)).collect()
}

/// A list as one would write it: its only item, or all of them as JSON.
fn written<T: AsRef<str>>(words: &[T]) -> Option<String> {
    let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
    match &*words {
        [] => None,
        [only] => Some((*only).to_owned()),
        all => Some(Value::from(all.to_vec()).to_string()),
    }
}

/// What the base is has a word of its own, and so have lambimg's notes no meaning for others.
fn labels(documents: &Documents) -> impl Iterator<Item = (Setting, String)> {
    let labels = documents.run("Labels").as_object().into_iter().flatten();
    let labels = labels.filter(|(name, _)| {
        !name.starts_with(OURS) && ![BASE_DIGEST, BASE_NAME].contains(&name.as_str())
    });
    labels.map(|(name, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (Setting::Label(name.clone()), value)
    })
}

fn has_bytecode(image: &Image<'_>) -> bool {
    let base = image.base();
    let mut files = image.inventory.files.iter();
    files.any(|file| file.layer >= base && is_bytecode(file.path))
}
