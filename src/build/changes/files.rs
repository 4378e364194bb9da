//! The files above the base that are of no package: added, changed, removed.

use std::collections::{BTreeMap, BTreeSet};

use crate::build::changes::{Area, Image};
use crate::build::inventory::is_bytecode;
use crate::digest::Digest;
use crate::oci::flatten::Kind;

/// A file that is not the same in both images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// What it is for.
    pub area: Area,
    /// Below the root.
    pub path: String,
    /// As it is called where it belongs: of the function's files the path below its directory, else the whole path.
    pub name: String,
    /// In the first image, if it is there.
    pub first: Option<State>,
    /// In the second, if it is there.
    pub second: Option<State>,
}

/// A file in one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its bytes.
    pub size: u64,
    /// Permissions with the set-id and sticky bits; of a link none that count.
    pub mode: u32,
    /// The digest of its bytes, where these were looked at.
    pub digest: Option<Digest>,
    /// Where it leads, if it is a symbolic link.
    pub target: Option<String>,
}

impl State {
    /// Whether it is the same file but for its mode; of files whose bytes were not looked at the size decides.
    pub fn has_same_contents(&self, other: &Self) -> bool {
        let digests = self.digest.zip(other.digest);
        self.size == other.size
            && self.target == other.target
            && digests.is_none_or(|(one, other)| one == other)
    }
}

/// All files that are not the same, by area and path.
pub(super) fn changes(first: &Image<'_>, second: &Image<'_>) -> Vec<FileChange> {
    let (mut left, mut right) = (states(first), states(second));
    let paths: BTreeSet<_> = left.keys().chain(right.keys()).cloned().collect();
    let changes = paths.into_iter().filter_map(|path| {
        let (one, other) = (left.remove(&path), right.remove(&path));
        if let (Some(one), Some(other)) = (&one, &other)
            && one.mode == other.mode
            && one.has_same_contents(other)
        {
            return None;
        }
        let owner = if other.is_some() { second } else { first };
        let (area, name) = owner.place(&path);
        Some(FileChange {
            area,
            name: name.to_owned(),
            path: path.clone(),
            first: one,
            second: other,
        })
    });
    let mut changes: Vec<_> = changes.collect();
    changes.sort_by(|one, other| (one.area, &one.path).cmp(&(other.area, &other.path)));
    changes
}

fn states(image: &Image<'_>) -> BTreeMap<String, State> {
    let base = image.base();
    let files = image.inventory.files.iter();
    let own = files
        .filter(|file| file.layer >= base && file.package.is_none() && !is_bytecode(file.path));
    let mut states: BTreeMap<_, _> = own
        .map(|file| {
            let state = State {
                size: file.size,
                mode: file.mode,
                digest: file.digest,
                target: None,
            };
            (file.path.to_owned(), state)
        })
        .collect();
    states.extend(links(image, base));
    states
}

/// The symbolic links above the base that no package states.
fn links(image: &Image<'_>, base: usize) -> impl Iterator<Item = (String, State)> {
    let packages = image.inventory.packages.iter();
    let stated: BTreeSet<&str> = packages
        .flat_map(|package| &package.installed.files)
        .map(String::as_str)
        .collect();
    let paths = image.subject.tree.paths();
    paths.filter_map(move |path| {
        let found = image.subject.get(path)?;
        let is_own = found.entry.kind == Kind::Symlink && found.layer >= base;
        let state = || State {
            size: 0,
            mode: 0o777,
            digest: None,
            target: found.entry.target.as_deref().map(str::to_owned),
        };
        (is_own && !stated.contains(path)).then(|| (path.to_owned(), state()))
    })
}
