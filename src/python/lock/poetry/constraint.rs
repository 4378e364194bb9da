//! Version constraints as poetry writes them: PEP 440 with carets, tildes and alternatives.
//!
//! Whose version is constrained is not known here. Epochs are not read.

use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifier, VersionSpecifiers};

/// A constraint: a version has to meet all of one alternative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Constraint {
    alternatives: Vec<VersionSpecifiers>,
}

/// A text is no constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaningless;

impl FromStr for Constraint {
    type Err = Meaningless;

    fn from_str(text: &str) -> Result<Self, Meaningless> {
        let alternatives = text.split('|').filter(|part| !part.is_empty());
        let alternatives: Result<Vec<_>, _> = alternatives.map(all_of).collect();
        match alternatives? {
            none if none.is_empty() => Err(Meaningless),
            alternatives => Ok(Self { alternatives }),
        }
    }
}

impl Constraint {
    /// Whether `version` meets it.
    pub(crate) fn allows(&self, version: &Version) -> bool {
        self.met_by(version).is_some()
    }

    /// The alternative that `version` meets, else the first, as PEP 440 has it.
    pub(crate) fn specifiers_for(&self, version: &Version) -> &VersionSpecifiers {
        self.met_by(version).unwrap_or(&self.alternatives[0])
    }

    fn met_by(&self, version: &Version) -> Option<&VersionSpecifiers> {
        let mut alternatives = self.alternatives.iter();
        alternatives.find(|specifiers| specifiers.contains(version))
    }
}

/// Terms that all have to be met; a comma or a space parts them.
fn all_of(text: &str) -> Result<VersionSpecifiers, Meaningless> {
    let is_operator = |c: char| "<>=!~^".contains(c);
    let is_gap = |c: char| c == ',' || c.is_whitespace();
    let mut specifiers = Vec::new();
    let mut rest = text.trim_matches(is_gap);
    while !rest.is_empty() {
        let (operator, after) = rest.split_at(end_of(rest, is_operator));
        let after = after.trim_start();
        let (version, after) = after.split_at(end_of(after, |c| !is_gap(c) && !is_operator(c)));
        if version.is_empty() {
            return Err(Meaningless);
        }
        specifiers.extend(term(operator, version)?);
        rest = after.trim_start_matches(is_gap);
    }
    Ok(specifiers.into_iter().collect())
}

fn end_of(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn term(operator: &str, version: &str) -> Result<Vec<VersionSpecifier>, Meaningless> {
    let wild = version.strip_suffix(".*");
    let wild = wild.or_else(|| version.strip_suffix(".x"));
    let specifier = |text: String| VersionSpecifier::from_str(&text).map_err(|_| Meaningless);
    let exact = |operator: &str| match wild {
        Some(prefix) => specifier(format!("{operator}{prefix}.*")),
        None => specifier(format!("{operator}{version}")),
    };
    let from_to = |next: fn(&[u64]) -> usize| {
        let lowest = Version::from_str(wild.unwrap_or(version)).map_err(|_| Meaningless)?;
        let bound = bumped(&lowest, next(lowest.release())).ok_or(Meaningless)?;
        let bounds = [format!(">={lowest}"), format!("<{bound}")];
        bounds.into_iter().map(specifier).collect()
    };
    match operator {
        "" | "=" | "==" if matches!(version, "*" | "x" | "X") => Ok(Vec::new()),
        "" | "=" | "==" => Ok(vec![exact("==")?]),
        "!=" | "<>" => Ok(vec![exact("!=")?]),
        "^" => from_to(breaking),
        "~" => from_to(|release| release.len().min(2) - 1),
        _ => Ok(vec![specifier(format!(
            "{operator}{}",
            wild.unwrap_or(version)
        ))?]),
    }
}

/// The number of a release whose rise breaks its users: the first that is not 0.
fn breaking(release: &[u64]) -> usize {
    let first = release.iter().position(|number| *number != 0);
    first.unwrap_or(release.len() - 1)
}

/// The first release after `version` with another number at `place`.
fn bumped(version: &Version, place: usize) -> Option<Version> {
    let mut release = version.release().to_vec();
    release.truncate(place + 1);
    let last = release.last_mut()?;
    *last = last.checked_add(1)?;
    Some(Version::new(release).with_epoch(version.epoch()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn constraints_allow_what_poetry_says() {
        for (constraint, allowed, refused) in [
            ("*", "0.1", ""),
            ("^1.2.3", "1.9", "1.2.2 2.0 2.0.1"),
            ("^0.2.3", "0.2.9", "0.3 0.2.2"),
            ("^0.0.3", "0.0.3", "0.0.4"),
            ("^0.0", "0.0.9", "0.1"),
            ("^0", "0.9", "1"),
            ("~1.2.3", "1.2.9", "1.3"),
            ("~1.2", "1.2.9", "1.3"),
            ("~1", "1.9", "2"),
            ("~=1.4.2", "1.4.9", "1.5"),
            ("1.2", "1.2.0", "1.2.1"),
            ("1.2.*", "1.2.7", "1.3"),
            ("==2.1.0", "2.1.0+cpu", "2.1.1"),
            ("2.1.0+cpu", "2.1.0+cpu", "2.1.0"),
            (">= 1.5.6, !=1.5.7 ,<2", "1.5.6 1.9", "1.5.7 2"),
            (">=1.0 <2.0", "1.5", "2.1"),
            ("~3.9 || ^3.11", "3.9.18 3.12.7", "3.10.2 4"),
            (">=6,<8.1.0|>=8.2.0", "7 8.2", "8.1.5"),
        ] {
            let parsed: Constraint = constraint.parse().unwrap();
            let allows = |version: &str| parsed.allows(&version.parse().unwrap());
            assert!(allowed.split(' ').all(allows), "{constraint}");
            let mut others = refused.split_whitespace();
            assert!(!others.any(allows), "{constraint}");
        }
        for bad in ["", "|", ">=", "^x", "^*", "one", "^1!2.3", "< > 1"] {
            assert_eq!(bad.parse::<Constraint>(), Err(Meaningless), "{bad}");
        }
        let either: Constraint = "<3 || ^3.9".parse().unwrap();
        let of = |version: &str| either.specifiers_for(&version.parse().unwrap()).to_string();
        assert_eq!((of("3.12"), of("4")), (">=3.9, <4".into(), "<3".into()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ ,|<>=!~^0-9.*xé+!-]{0,20}") {
            if let Ok(constraint) = text.parse::<Constraint>() {
                constraint.allows(&Version::new([1]));
            }
        }
    }
}
