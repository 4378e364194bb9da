//! What the rules look at: an image's documents as their bytes are, its layers, and the flattened tree.
//!
//! Documents are read leniently: a rule is to say what is wrong with one, so nothing here fails on a field
//! that is missing or of another kind. This file never opens anything itself.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;

use crate::digest::Digest;
use crate::lambda::check::contents::Seen;
use crate::lambda::check::elf::Needs;
use crate::lambda::check::syntax;
use crate::lambda::check::wheels::Distribution;
use crate::lambda::{self, Runtime};
use crate::oci::flatten::{Found, Layer, Tree};
use crate::oci::image::base_layers;
use crate::python::{Machine, PythonVersion};

/// A document and what was said of it where it is named.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its bytes.
    pub raw: Vec<u8>,
    /// The same as JSON; null where they are none.
    pub value: Value,
    /// The media type that it came with: of the descriptor or the registry's answer.
    pub media_type: Option<String>,
    /// What the document that names it says of it, if one does.
    pub stated: Option<(Digest, u64)>,
}

impl Document {
    /// A document of these bytes.
    pub fn new(raw: Vec<u8>, media_type: Option<String>, stated: Option<(Digest, u64)>) -> Self {
        Self {
            value: serde_json::from_slice(&raw).unwrap_or_default(),
            raw,
            media_type,
            stated,
        }
    }
}

/// An image's documents.
#[derive(Debug, Clone)]
pub struct Documents {
    /// The index that the image's name led to, where it led to one.
    pub index: Option<Document>,
    /// The manifest; none where the image's form has none, as Docker's archives.
    pub manifest: Option<Document>,
    /// The config.
    pub config: Document,
    /// The architecture that the user asked for, in OCI's word.
    pub wanted: Option<&'static str>,
    /// The day, as `YYYY-MM-DD`.
    pub today: String,
}

impl Documents {
    /// What the config says of running: a field of its `config` object, null if absent.
    pub fn run(&self, field: &str) -> &Value {
        &self.config.value["config"][field]
    }

    /// A list of texts of that object; what is no text is left out.
    pub fn list(&self, field: &str) -> Vec<&str> {
        let items = self.run(field).as_array().into_iter().flatten();
        items.filter_map(Value::as_str).collect()
    }

    /// The entry point and its arguments, as Lambda runs them.
    pub fn command(&self) -> Vec<&str> {
        [self.list("Entrypoint"), self.list("Cmd")].concat()
    }

    /// The variables in their order, as name and value.
    pub fn variables(&self) -> Vec<(&str, &str)> {
        let split = |line: &'_ str| {
            line.split_once('=')
                .map_or((line.len(), line.len()), |(n, _)| (n.len(), n.len() + 1))
        };
        let lines = self.list("Env").into_iter();
        lines
            .map(|line| {
                let (end, start) = split(line);
                (&line[..end], &line[start..])
            })
            .collect()
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let mut all = self.variables().into_iter().rev();
        all.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// `amd64` or whatever the config says; empty if nothing.
    pub fn architecture(&self) -> &str {
        self.config.value["architecture"]
            .as_str()
            .unwrap_or_default()
    }

    /// The directory that the function starts in; the root where none is said.
    pub fn working_dir(&self) -> &str {
        match self.run("WorkingDir").as_str() {
            None | Some("") => "/",
            Some(directory) => directory,
        }
    }

    /// Whether the entry point is that of AWS's own base images, which takes the handler alone.
    pub fn has_aws_entry_point(&self) -> bool {
        let entry = self.list("Entrypoint");
        entry
            .first()
            .is_some_and(|first| first.trim_start_matches('/') == lambda::ENTRY_POINT)
    }
}

/// Which Python the function runs on, and where it looks for modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// The release line.
    pub version: PythonVersion,
    /// The interpreter's path in the image, below the root.
    pub interpreter: String,
    /// Directories of `sys.path` below the root, in Python's order; they may be missing.
    pub path: Vec<String>,
    /// Which of them are the standard library's.
    pub standard: Vec<String>,
}

/// What is found out of an image once, whichever rule asks first.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The processor that nearly all of the base's programs are for, if the config names another.
    pub(super) majority: OnceLock<Option<(Machine, usize)>>,
    /// Whether a C library of glibc's is there.
    pub(super) has_libc: OnceLock<bool>,
    /// What added programs and libraries need.
    pub(super) needs: OnceLock<Option<Needs>>,
    /// The distributions that can be imported.
    pub(super) distributions: OnceLock<Vec<Distribution>>,
    /// All distributions.
    pub(super) installed: OnceLock<Vec<Distribution>>,
    /// The paths that their `RECORD`s list.
    pub(super) recorded: OnceLock<HashSet<String>>,
    /// Directories with a distribution whose `RECORD` was too long to be kept.
    pub(super) unknown: OnceLock<BTreeSet<String>>,
    /// The sources that were parsed, by their paths.
    pub(super) sources: Mutex<HashMap<String, Option<syntax::Reading>>>,
}

/// An image, read.
#[derive(Debug)]
pub struct Subject {
    /// Its documents.
    pub documents: Documents,
    /// Its layers, lowest first.
    pub layers: Vec<Layer<Seen>>,
    /// Their files, upper ones over lower ones.
    pub tree: Tree,
    /// How many of the lowest layers are the base's, by the image's own word, else by what is in them: what is wrong
    /// there is not the user's to mend.
    pub base: usize,
    /// The Python of the image, if there is one.
    pub python: Option<Python>,
    pub(super) known: Known,
}

impl Subject {
    /// Puts an image together.
    pub fn new(documents: Documents, layers: Vec<Layer<Seen>>) -> Self {
        let tree = Tree::new(&layers);
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest).collect();
        let stated = base_layers(&documents.config.value, &digests);
        let mut subject = Self {
            base: stated.unwrap_or_else(|| base_of(&layers)),
            python: None,
            known: Known::default(),
            documents,
            layers,
            tree,
        };
        subject.python = super::modules::python_of(&subject);
        subject
    }

    /// The entry at a path, as [`Tree::get`].
    pub fn get(&self, path: &str) -> Option<Found<'_, Seen>> {
        self.tree.get(path, &self.layers)
    }

    /// The entry that a path leads to when links are followed, and its own path.
    pub fn find(&self, path: &str) -> Option<(String, Found<'_, Seen>)> {
        let path = self.tree.resolve(path, &self.layers).ok()?;
        let found = self.get(&path)?;
        Some((path, found))
    }

    /// The files that layers above the base bring and that no upper layer hides: path and entry, sorted.
    pub fn added(&self) -> impl Iterator<Item = (&str, Found<'_, Seen>)> {
        let all = self.tree.paths();
        all.filter_map(|path| Some((path, self.get(path)?)))
            .filter(|(_, found)| found.layer >= self.base)
    }

    /// The runtime of Lambda that the image's Python is.
    pub fn runtime(&self) -> Option<&'static Runtime> {
        lambda::runtime(self.python.as_ref()?.version)
    }
}

/// How many of the lowest layers are the base's, where nothing says so.
///
/// It ends where the last of a system's and a runtime's own files comes for the first time. Where no layer is
/// above that, there is no telling the base from the rest, and nothing is taken for a base.
fn base_of(layers: &[Layer<Seen>]) -> usize {
    let first = |is_mark: &dyn Fn(&str) -> bool| {
        let mut numbered = layers.iter().enumerate();
        numbered
            .find(|(_, layer)| layer.entries.iter().any(|entry| is_mark(&entry.path())))
            .map_or(0, |(number, _)| number + 1)
    };
    let system = first(&|path| path == "etc/os-release" || path == "usr/lib/os-release");
    let runtime = first(&|path| path == lambda::ENTRY_POINT)
        .max(first(&|path| path == "var/runtime/bootstrap"));
    // A base may bring a Python of its own over the system's, and whoever adds to it the system's over that one.
    let python = ["var/lang/bin/", "usr/local/bin/", "usr/bin/"].map(|bin| {
        first(&|path| {
            let minor = path
                .strip_prefix(bin)
                .and_then(|name| name.strip_prefix("python3."));
            minor.is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
        })
    });
    let python = match python {
        [own, ..] if own > 0 || runtime > 0 => own,
        [_, own, system] => [own, system]
            .into_iter()
            .find(|base| *base > 0)
            .unwrap_or(0),
    };
    let base = system.max(runtime).max(python);
    // What has to be missed may be in a layer that cannot be read.
    let unread = layers.iter().rposition(|layer| !layer.is_whole());
    match unread {
        Some(unread) if system == 0 || python == 0 => base.max(unread + 1),
        _ if base < layers.len() => base,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::Forge;

    #[test]
    fn a_python_that_comes_on_top_is_none_of_a_base() {
        // As what is written for the system's own Python brings that along.
        let image = Forge::sound()
            .file("var/task/.env", "A=b")
            .layer()
            .dir("usr")
            .dir("usr/bin")
            .program("usr/bin/python3.9", "")
            .layer()
            .dir("var");
        insta::assert_snapshot!(image.findings(), @"LMB098 warning 1 var/task/.env: by its name it holds variables of some environment (3 bytes)");
        let system = || {
            Forge::new()
                .file("usr/lib/os-release", "")
                .layer()
                .program("usr/bin/python3.11", "")
                .layer()
        };
        assert_eq!(system().dir("app").subject().base, 2);
        let of_docker = || system().program("usr/local/bin/python3.12", "").layer();
        assert_eq!(of_docker().dir("app").subject().base, 3);
        let image = of_docker().program("usr/bin/python3.13", "").layer();
        assert_eq!(image.dir("app").subject().base, 3);
    }
}
