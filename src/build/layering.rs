//! Which wheels share a layer: a function of the lock alone, so that it is the same for whoever builds.
//!
//! A large wheel has a layer of its own, small ones share one, the user's own packages are apart: when one
//! wheel changes, one layer does. It knows no files, no store and no network.

use crate::digest::Digest;

/// A wheel smaller than this is not worth a layer's requests, in bytes.
const LARGE: u64 = 1 << 20;

/// What decides where a wheel goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package<'a> {
    /// The project's normal name.
    pub name: &'a str,
    /// The wheel's digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is the user's own: a directory or a file of the project, not an index's.
    pub first_party: bool,
}

/// The wheels of each layer, lowest layer first, by their places in `packages`; in a layer they keep that
/// order. There are at most `budget` layers, but never fewer than what own and foreign packages need.
pub fn groups(packages: &[Package<'_>], budget: usize) -> Vec<Vec<usize>> {
    let (own, foreign): (Vec<_>, Vec<_>) =
        (0..packages.len()).partition(|&place| packages[place].first_party);
    let mut alone: Vec<_> = foreign
        .iter()
        .copied()
        .filter(|&p| packages[p].size >= LARGE)
        .collect();
    alone.sort_by_key(|&place| {
        (
            std::cmp::Reverse(packages[place].size),
            packages[place].name,
        )
    });
    let shared = 1 + usize::from(!own.is_empty());
    alone.truncate(budget.saturating_sub(shared));
    let together = foreign
        .into_iter()
        .filter(|place| !alone.contains(place))
        .collect();
    alone.sort_by_key(|&place| packages[place].name);
    let mut groups: Vec<_> = alone.iter().map(|&place| vec![place]).collect();
    groups.extend([together, own]);
    groups.retain(|group: &Vec<usize>| !group.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ones_alone_small_ones_together_own_ones_apart() {
        let package = |name, size, first_party| Package {
            name,
            digest: Digest::of(name),
            size,
            first_party,
        };
        let packages = [
            package("a", 10, false),
            package("b", 2 << 20, false),
            package("c", 20, false),
            package("d", 3 << 20, false),
            package("own", 5, true),
        ];
        let expected = [vec![1], vec![3], vec![0, 2], vec![4]];
        assert_eq!(groups(&packages, 20), expected);
        let tight = [vec![3], vec![0, 1, 2], vec![4]];
        assert_eq!(groups(&packages, 3), tight);
        assert_eq!(groups(&packages, 0), [vec![0, 1, 2, 3], vec![4]]);
        assert!(groups(&[], 3).is_empty());
    }
}
