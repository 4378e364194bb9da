//! What a layer of packages lays claim to, in so few bytes that a label can say it: enough to see that two layers
//! have no path in common without having either.
//!
//! A package's directory is claimed as a whole; of a directory that several packages may share, such as
//! `bin` or a namespace's, what is in it. Paths are hashed: two that happen to look the same only make somebody
//! look closer. It knows nothing of wheels, and not what is done where layers are not apart.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::file_tree::{FileTree, Node};

/// Changes whenever the claims of the same files do.
pub(super) const FORMAT: &str = "claims 1";
/// Endings of directories that belong to one package, as tools that write wheels name them.
const OWN: [&str; 3] = [".dist-info", ".libs", ".data"];
/// More are no short text any more.
const MOST: usize = 128;
/// Set where a path is claimed, not only led through.
const CLAIMED: u32 = 1;

/// Hashes of claimed paths and of the directories above them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims(BTreeSet<u32>);

impl Claims {
    /// What a tree claims below `root`, unless that is too much to say.
    pub(super) fn of(tree: &FileTree, root: &str) -> Option<Self> {
        let mut claims = BTreeSet::new();
        let files = tree
            .iter()
            .filter(|(_, entry)| !matches!(entry.node, Node::Directory));
        for (path, _) in files {
            let path = path.as_str();
            let below = path.strip_prefix(root).and_then(|p| p.strip_prefix('/'));
            // What lies elsewhere is claimed one by one.
            let begin = below.map_or(0, |below| path.len() - below.len());
            for (end, is_last) in ends(path, begin) {
                let part = &path[..end];
                if is_last || is_own(tree, part) {
                    claims.insert(hash(part) | CLAIMED);
                    break;
                }
                claims.insert(hash(part) & !CLAIMED);
            }
            if claims.len() > MOST {
                return None;
            }
        }
        Some(Self(claims))
    }

    /// Whether the two surely have no file in common, nor one where the other has a directory.
    fn is_apart(&self, other: &Self) -> bool {
        let claimed = |claims: &Self, hash: u32| claims.0.contains(&(hash | CLAIMED));
        let led = |claims: &Self, hash: u32| claims.0.contains(&(hash & !CLAIMED));
        self.0.iter().all(|&hash| {
            let is_claimed = hash & CLAIMED != 0;
            let is_near = claimed(other, hash) || (is_claimed && led(other, hash));
            !is_near
        })
    }

    /// As a label says it.
    pub(super) fn to_text(&self) -> String {
        let bytes: Vec<_> = self.0.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        STANDARD_NO_PAD.encode(bytes)
    }

    /// Reads what a label says.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let bytes = STANDARD_NO_PAD.decode(text).ok()?;
        let (hashes, rest) = bytes.as_chunks();
        let hashes = hashes.iter().map(|hash| u32::from_le_bytes(*hash));
        rest.is_empty().then(|| Self(hashes.collect()))
    }
}

/// Whether no two of several layers have a path in common; not if of one of them that is not known.
pub(super) fn are_apart<'a>(layers: impl Iterator<Item = Option<&'a Claims>>) -> bool {
    let layers: Vec<_> = layers.collect();
    if layers.len() < 2 {
        return true;
    }
    let Some(layers) = layers.into_iter().collect::<Option<Vec<_>>>() else {
        return false;
    };
    let mut pairs = layers
        .iter()
        .enumerate()
        .flat_map(|(at, one)| layers[at + 1..].iter().map(move |other| (one, other)));
    pairs.all(|(one, other)| one.is_apart(other))
}

/// Where each further component of a path ends, and whether it is the last.
fn ends(path: &str, begin: usize) -> impl Iterator<Item = (usize, bool)> {
    let inner = path.match_indices('/').map(|(at, _)| at);
    let inner = inner.filter(move |at| *at > begin);
    inner
        .map(|at| (at, false))
        .chain(std::iter::once((path.len(), true)))
}

fn is_own(tree: &FileTree, directory: &str) -> bool {
    let is_package = || tree.get(&format!("{directory}/__init__.py")).is_some();
    OWN.iter().any(|ending| directory.ends_with(ending)) || is_package()
}

fn hash(path: &str) -> u32 {
    let digest = Digest::of(path);
    u32::from_le_bytes(*digest.as_bytes().first_chunk().unwrap_or(&[0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_tree::{Content, ImagePath};
    use proptest::prelude::*;

    fn tree<'a>(paths: impl IntoIterator<Item = &'a str>) -> FileTree {
        let mut tree = FileTree::default();
        for path in paths {
            let path = ImagePath::new(&format!("var/task/{path}")).unwrap();
            // One that is a directory already cannot be a file.
            let _ = tree.insert_file(path, Content::bytes("x"), false, &"test".into());
        }
        tree
    }

    fn claims(paths: &[&str]) -> Claims {
        Claims::of(&tree(paths.iter().copied()), "var/task").unwrap()
    }

    #[test]
    fn packages_are_claimed_whole_and_shared_directories_by_what_is_in_them() {
        let one = claims(&[
            "one/__init__.py",
            "one/deep/er.py",
            "bin/one",
            "one-1.dist-info/RECORD",
        ]);
        assert_eq!(one.0.len(), 4, "{one:?}");
        let apart = claims(&["two/__init__.py", "bin/two", "google/cloud/two.py"]);
        assert!(one.is_apart(&apart) && apart.is_apart(&one));
        for near in [
            &["one/other.py"][..],
            &["one"],
            &["bin/one"],
            &["bin"],
            &["bin/one/x"],
            &["one/deep/er.py"],
        ] {
            let near = claims(near);
            assert!(!one.is_apart(&near) && !near.is_apart(&one), "{near:?}");
        }
        assert!(are_apart([Some(&one), Some(&apart)].into_iter()));
        assert!(!are_apart([Some(&one), None].into_iter()));
        assert!(!are_apart(
            [Some(&one), Some(&apart), Some(&one)].into_iter()
        ));
    }

    #[test]
    fn what_is_too_much_is_not_said() {
        let paths: Vec<_> = (0..MOST).map(|number| format!("share/{number}")).collect();
        let tree = tree(paths.iter().map(String::as_str));
        assert_eq!(Claims::of(&tree, "var/task"), None);
        // Elsewhere than asked, the way there counts too.
        assert!(Claims::of(&tree, "usr").is_none());
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_apart_is(
            one in proptest::collection::btree_set("[ab]/([ab]|__init__[.]py)(/[ab])?", 0..6),
            two in proptest::collection::btree_set("[ab](/([ab]|__init__[.]py))?", 0..6),
        ) {
            let (one, two) = (
                tree(one.iter().map(String::as_str)),
                tree(two.iter().map(String::as_str)),
            );
            let of = |tree: &FileTree| Claims::of(tree, "var/task").unwrap();
            let both = |path: &ImagePath, other: &FileTree| other.get(path.as_str()).cloned();
            let meet = one.iter().any(|(path, entry)| {
                both(path, &two).is_some_and(|other| {
                    let directories = [&entry.node, &other.node].map(|n| matches!(n, Node::Directory));
                    directories != [true, true]
                })
            });
            let is_apart = of(&one).is_apart(&of(&two));
            prop_assert_eq!(is_apart, of(&two).is_apart(&of(&one)));
            prop_assert!(!(meet && is_apart));
            let text = of(&one).to_text();
            prop_assert_eq!(Claims::from_text(&text), Some(of(&one)));
        }

        #[test]
        fn no_label_is_a_surprise(text in ".{0,40}") {
            let _ = Claims::from_text(&text);
        }
    }
}
