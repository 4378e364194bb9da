//! Which packages two images have, by name, and whose version is the newer by PEP 440.
//!
//! Of one version the files are compared too: a wheel for another machine, or one from which files were left out, is
//! not the same. What an installer notes of its own work is no difference.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use pep440_rs::Version;

use crate::build::changes::{Area, EXTENSIONS};
use crate::build::inventory::{File, Inventory, Package, is_bytecode};
use crate::lambda::RUNTIME_DIR;

/// What installers write beside a wheel's own papers, each in its own way.
const PAPERS: [&str; 4] = ["INSTALLER", "RECORD", "REQUESTED", "direct_url.json"];

/// A package that is not the same in both images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageChange {
    /// The project's normal name.
    pub name: String,
    /// Whose it is.
    pub area: Area,
    /// What has become of it.
    pub how: How,
    /// What the first image has.
    pub first: Option<Side>,
    /// What the second has.
    pub second: Option<Side>,
}

/// What has become of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The second image alone has it.
    Added,
    /// The first image alone has it.
    Removed,
    /// The second image has a newer one.
    Upgraded,
    /// The second image has an older one.
    Downgraded,
    /// It has another version, and which is newer is not known.
    Changed,
    /// It has other files under the same version: so many more, fewer, and of other contents or modes.
    Files {
        /// In the second image alone.
        added: usize,
        /// In the first alone.
        removed: usize,
        /// In both.
        changed: usize,
    },
}

/// A package in one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Its version as written.
    pub version: String,
    /// The directory of the module path that it is in, below the root.
    pub directory: String,
    /// Bytes of its files.
    pub unpacked: u64,
    /// Bytes of the layers' blobs that they take, about.
    pub packed: u64,
}

impl Side {
    fn of(package: &Package<'_>) -> Self {
        Self {
            version: package.installed.version.to_owned(),
            directory: package.installed.directory.to_owned(),
            unpacked: package.unpacked,
            packed: package.packed,
        }
    }
}

/// A package with its files, by their paths from its directory on.
struct Whole<'a> {
    package: &'a Package<'a>,
    files: BTreeMap<&'a str, &'a File<'a>>,
}

/// Whether it is the base's, and its name.
type Key<'a> = (bool, &'a str);

/// All packages that are not the same, by area and name.
pub(super) fn changes(first: &Inventory<'_>, second: &Inventory<'_>) -> Vec<PackageChange> {
    let (mut left, mut right) = (by_name(first), by_name(second));
    let keys: BTreeSet<Key<'_>> = left.keys().chain(right.keys()).copied().collect();
    let mut changes: Vec<_> = keys
        .into_iter()
        .flat_map(|key| {
            let left = left.remove(&key).unwrap_or_default();
            paired(left, right.remove(&key).unwrap_or_default())
        })
        .filter_map(|(first, second)| change(first.as_ref(), second.as_ref()))
        .collect();
    // Stable: those of one name keep the order of the module path.
    changes.sort_by(|one, other| (one.area, &one.name).cmp(&(other.area, &other.name)));
    changes
}

fn by_name<'a>(image: &'a Inventory<'a>) -> BTreeMap<Key<'a>, Vec<Whole<'a>>> {
    let mut files: Vec<BTreeMap<&str, &File<'_>>> = vec![BTreeMap::new(); image.packages.len()];
    for file in &image.files {
        let Some(place) = file.package else { continue };
        let directory = image.packages[place].installed.directory;
        let below = file.path.strip_prefix(directory);
        let path = below.map_or(file.path, |path| path.trim_start_matches('/'));
        if !is_bytecode(path) && !is_paper(path) {
            files[place].insert(path, file);
        }
    }
    let mut by_name: BTreeMap<Key<'_>, Vec<Whole<'_>>> = BTreeMap::new();
    for (package, files) in image.packages.iter().zip(files) {
        let key = (package.is_base, package.installed.name);
        by_name
            .entry(key)
            .or_default()
            .push(Whole { package, files });
    }
    by_name
}

fn is_paper(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let name = parts.next().unwrap_or_default();
    PAPERS.contains(&name)
        && parts
            .next()
            .is_some_and(|info| info.ends_with(".dist-info"))
}

/// Those of one name: first what is in the same directory, then the rest in the order of the module path.
fn paired<'a>(
    left: Vec<Whole<'a>>,
    mut right: Vec<Whole<'a>>,
) -> Vec<(Option<Whole<'a>>, Option<Whole<'a>>)> {
    let mut pairs = Vec::new();
    let mut rest = Vec::new();
    for one in left {
        let directory = one.package.installed.directory;
        let same = |other: &Whole<'_>| other.package.installed.directory == directory;
        match right.iter().position(same) {
            Some(place) => pairs.push((Some(one), Some(right.remove(place)))),
            None => rest.push(one),
        }
    }
    let mut right = right.into_iter();
    pairs.extend(rest.into_iter().map(|one| (Some(one), right.next())));
    pairs.extend(right.map(|other| (None, Some(other))));
    pairs
}

fn change(first: Option<&Whole<'_>>, second: Option<&Whole<'_>>) -> Option<PackageChange> {
    let how = match (first, second) {
        (None, Some(_)) => How::Added,
        (Some(_), None) => How::Removed,
        (None, None) => return None,
        (Some(first), Some(second)) => {
            let versions = [first, second].map(|whole| whole.package.installed.version);
            by_version(versions).or_else(|| by_files(first, second))?
        }
    };
    let package = second.or(first)?.package;
    let side = |whole: Option<&Whole<'_>>| whole.map(|whole| Side::of(whole.package));
    Some(PackageChange {
        name: package.installed.name.to_owned(),
        area: area(package),
        how,
        first: side(first),
        second: side(second),
    })
}

pub(super) fn area(package: &Package<'_>) -> Area {
    let directory = package.installed.directory;
    let is_in = |root: &str| {
        let rest = directory.strip_prefix(root);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if package.is_base {
        Area::Base
    } else if is_in(RUNTIME_DIR) {
        Area::Bootstrap
    } else if is_in(EXTENSIONS) {
        Area::Extensions
    } else {
        Area::Dependencies
    }
}

/// What two versions say; nothing where they are the same.
fn by_version([first, second]: [&str; 2]) -> Option<How> {
    if first == second {
        return None;
    }
    let [first, second] = [first, second].map(Version::from_str);
    let (Ok(first), Ok(second)) = (first, second) else {
        return Some(How::Changed);
    };
    match first.cmp(&second) {
        Ordering::Less => Some(How::Upgraded),
        Ordering::Greater => Some(How::Downgraded),
        Ordering::Equal => None,
    }
}

fn by_files(first: &Whole<'_>, second: &Whole<'_>) -> Option<How> {
    let (left, right) = (&first.files, &second.files);
    let both = left
        .iter()
        .filter_map(|(path, file)| Some((file, right.get(path)?)));
    let same = both.clone().filter(|(one, other)| is_same(one, other));
    let (both, same) = (both.count(), same.count());
    let how = How::Files {
        added: right.len() - both,
        removed: left.len() - both,
        changed: both - same,
    };
    (left.len() != same || right.len() != same).then_some(how)
}

/// Whether two files have the same contents and mode.
pub(super) fn is_same(one: &File<'_>, other: &File<'_>) -> bool {
    let digests = one.digest.zip(other.digest);
    one.size == other.size
        && one.mode == other.mode
        && digests.is_none_or(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_pep_440_has_them() {
        let said = |first, second| by_version([first, second]);
        assert_eq!(said("1.9", "1.10"), Some(How::Upgraded));
        assert_eq!(said("2.0rc1", "2.0"), Some(How::Upgraded));
        assert_eq!(said("2.0", "2.0.post1"), Some(How::Upgraded));
        assert_eq!(said("1!1.0", "2.0"), Some(How::Downgraded));
        assert_eq!(said("2.0.dev3", "1.9"), Some(How::Downgraded));
        assert_eq!(said("2.1+cpu", "2.1"), Some(How::Downgraded));
        assert_eq!(said("1.0", "1.0.0"), None, "the same, written otherwise");
        assert_eq!(said("2004d", "2011n"), Some(How::Changed));
        assert_eq!(said("2004d", "2004d"), None);
    }

    #[test]
    fn what_installers_write_is_told_from_a_packages_own() {
        assert!(is_paper("one-1.0.dist-info/RECORD"));
        assert!(!is_paper("one-1.0.dist-info/METADATA"));
        assert!(!is_paper("one/RECORD") && !is_paper("RECORD"));
    }
}
