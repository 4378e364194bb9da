//! Which wheels share a layer: a function of the lock alone, so that it is the same for whoever builds.
//!
//! A large wheel has a layer of its own, small ones share one, the user's own packages are apart: when one
//! wheel changes, one layer does. Where there are more large ones than layers the lighter are spread over
//! several, with the small ones. Numbers and their reasons come from real locks (`benches/layering`). It
//! knows no files, no store and no network.

use std::cmp::Reverse;

use crate::digest::Digest;

/// A wheel smaller than this is not worth a layer's requests, in bytes.
const LARGE: u64 = 512 << 10;

/// What decides where a wheel goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package<'a> {
    /// The project's normal name.
    pub name: &'a str,
    /// The wheel's length in bytes.
    pub size: u64,
    /// Whether it is the user's own, not an index's.
    pub first_party: bool,
}

/// How wheels are brought into layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// As many layers there are at most, at least one.
    pub most: usize,
    /// A wheel of at least so many bytes has a layer of its own.
    pub large: u64,
}

impl Rule {
    /// The one that is used, with at most so many layers.
    pub fn with_most(most: usize) -> Self {
        Self { most, large: LARGE }
    }
}

/// The wheels of each layer, lowest layer first, by their places in `packages`; in a layer they keep that
/// order.
pub fn groups(packages: &[Package<'_>], rule: Rule) -> Vec<Vec<usize>> {
    if rule.most <= 1 {
        let all: Vec<_> = (0..packages.len()).collect();
        return [all].into_iter().filter(|all| !all.is_empty()).collect();
    }
    let (own, foreign): (Vec<_>, Vec<_>) =
        (0..packages.len()).partition(|&place| packages[place].first_party);
    let room = rule.most - usize::from(!own.is_empty());
    let large = foreign.iter().copied();
    let mut alone: Vec<_> = large
        .filter(|&place| packages[place].size >= rule.large)
        .collect();
    let mut shared = 1;
    if alone.len() > room - usize::from(alone.len() < foreign.len()) {
        let most = alone_of_too_many(packages, &mut alone, room);
        alone.truncate(most);
        shared = room - most;
    }
    alone.sort_by_key(|&place| packages[place].name);
    let mut groups: Vec<_> = alone.iter().map(|&place| vec![place]).collect();
    groups.resize(alone.len() + shared, Vec::new());
    for place in foreign {
        if !alone.contains(&place) {
            groups[alone.len() + shelf(packages[place].name, shared)].push(place);
        }
    }
    groups.push(own);
    groups.retain(|group| !group.is_empty());
    groups
}

/// Where there are more large wheels than layers, sorts them and says how many are worth one each: those that
/// weigh as much as what is left would in each layer that is left, if it were spread evenly. It goes by powers
/// of two, because whose turn it is must not depend on a few bytes more or less.
fn alone_of_too_many(packages: &[Package<'_>], large: &mut [usize], room: usize) -> usize {
    let class = |place: usize| packages[place].size.max(1).ilog2();
    large.sort_by_key(|&place| (Reverse(class(place)), packages[place].name));
    let weights = large.iter().map(|&place| 1u64 << class(place));
    let mut left = weights.fold(0, u64::saturating_add);
    let is_worth_one = |&(alone, &place): &(usize, &usize)| {
        let even = left / (room - alone) as u64;
        left = left.saturating_sub(1 << class(place));
        class(place) >= even.max(1).ilog2()
    };
    let large = large.iter().enumerate();
    large.take(room - 1).take_while(is_worth_one).count()
}

/// In which of so many shared layers a wheel is: its name alone says, so that no other wheel moves it.
fn shelf(name: &str, shared: usize) -> usize {
    let digest = Digest::of(name.as_bytes());
    let number = u64::from_le_bytes(*digest.as_bytes().first_chunk().unwrap_or(&[0; 8]));
    usize::try_from(number % shared as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn package(name: &str, size: u64, first_party: bool) -> Package<'_> {
        Package {
            name,
            size,
            first_party,
        }
    }

    fn with_most(packages: &[Package<'_>], most: usize) -> Vec<Vec<usize>> {
        let rule = Rule {
            most,
            large: 1 << 20,
        };
        groups(packages, rule)
    }

    #[test]
    fn large_ones_alone_small_ones_together_own_ones_apart() {
        let packages = [
            package("a", 10, false),
            package("b", 2 << 20, false),
            package("c", 20, false),
            package("d", 5 << 20, false),
            package("own", 5 << 20, true),
        ];
        let expected = [vec![1], vec![3], vec![0, 2], vec![4]];
        assert_eq!(with_most(&packages, 20), expected);
        assert_eq!(with_most(&packages, 4), expected);
        let tight = [vec![3], vec![0, 1, 2], vec![4]];
        assert_eq!(with_most(&packages, 3), tight);
        assert_eq!(with_most(&packages, 2), [vec![0, 1, 2, 3], vec![4]]);
        assert_eq!(with_most(&packages, 1), [vec![0, 1, 2, 3, 4]]);
        assert!(with_most(&[], 3).is_empty() && with_most(&[], 1).is_empty());
        // Nothing small, so nothing is kept free for it.
        let large = [packages[1].clone(), packages[3].clone()];
        assert_eq!(with_most(&large, 2), [vec![0], vec![1]]);
    }

    #[test]
    fn too_many_large_ones_are_spread_over_the_layers() {
        let names = names(100);
        let packages: Vec<_> = names
            .iter()
            .map(|name| package(name, 1 << 20, false))
            .collect();
        let groups = with_most(&packages, 20);
        assert_eq!(groups.len(), 20);
        let largest = groups.iter().map(Vec::len).max();
        assert!(largest <= Some(12), "{largest:?}");
        // One more moves itself alone.
        let mut more = packages.clone();
        more.push(package("another", 1 << 20, false));
        let changed = named(&more, Rule::with_most(20));
        let changed = changed
            .difference(&named(&packages, Rule::with_most(20)))
            .count();
        assert_eq!(changed, 1);
        // A giant does not share.
        more.push(package("giant", 50 << 20, false));
        assert_eq!(with_most(&more, 20)[0], vec![101]);
    }

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|number| format!("package-{number}"))
            .collect()
    }

    /// The groups by the names in them.
    fn named(packages: &[Package<'_>], rule: Rule) -> BTreeSet<BTreeSet<String>> {
        let name = |place: &usize| packages[*place].name.to_owned();
        let groups = groups(packages, rule);
        groups
            .iter()
            .map(|group| group.iter().map(name).collect())
            .collect()
    }

    proptest! {
        #[test]
        fn every_package_is_in_one_layer_and_no_order_matters(
            sizes in proptest::collection::vec((0u64..6 << 20, any::<bool>()), 0..40),
            most in 1usize..12,
            turn in 0usize..40,
        ) {
            let names = names(sizes.len());
            let mut packages: Vec<_> = sizes.iter().zip(&names)
                .map(|((size, own), name)| package(name, *size, *own))
                .collect();
            let rule = Rule::with_most(most);
            let groups = groups(&packages, rule);
            prop_assert!(groups.len() <= most);
            let mut all: Vec<_> = groups.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..packages.len()).collect::<Vec<_>>());
            for group in &groups {
                prop_assert!(!group.is_empty() && group.is_sorted());
                let own = group.iter().filter(|place| packages[**place].first_party).count();
                prop_assert!(most == 1 || own == 0 || own == group.len());
            }
            let before = named(&packages, rule);
            let middle = turn % packages.len().max(1);
            packages.rotate_left(middle);
            packages.reverse();
            prop_assert_eq!(before, named(&packages, rule));
        }

        #[test]
        fn a_small_package_that_grows_a_little_moves_nothing(
            sizes in proptest::collection::vec(1u64..6 << 20, 1..40),
            most in 1usize..12,
            which in 0usize..40,
        ) {
            let names = names(sizes.len());
            let mut packages: Vec<_> = sizes.iter().zip(&names)
                .map(|(size, name)| package(name, *size, false))
                .collect();
            let rule = Rule::with_most(most);
            let place = which % packages.len();
            packages[place].size %= rule.large - 1;
            let before = groups(&packages, rule);
            packages[place].size += 1;
            prop_assert_eq!(before, groups(&packages, rule));
        }
    }
}
