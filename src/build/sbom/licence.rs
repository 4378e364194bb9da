//! Under which licence a distribution is, as far as its `METADATA` says so in words that mean one thing.
//!
//! Follows PEP 639, and before it what the fields `License` and `Classifier` were used for. Nothing is concluded: a
//! name that stands for several licences, as `BSD`, stays a name. Texts of licences are not read.

use spdx::identifiers::LICENSES;
use spdx::{Expression, LicenseItem, ParseMode};

use crate::build::sbom::UNKNOWN;
use crate::lambda::check::Installed;

/// A licence has no longer name; what is longer is the licence itself.
const LONGEST_NAME: usize = 100;
/// Identifiers that have been replaced are still ones.
const MODE: ParseMode = ParseMode {
    allow_deprecated: true,
    ..ParseMode::STRICT
};
/// What the words of a classifier or of the field `License` stand for beside the identifiers, where that is one
/// licence. In small letters.
const NAMES: &[(&str, &str)] = &[
    ("apache 2", "Apache-2.0"),
    ("apache 2.0", "Apache-2.0"),
    ("apache license 2.0", "Apache-2.0"),
    ("apache license, version 2.0", "Apache-2.0"),
    ("apache license version 2.0", "Apache-2.0"),
    ("apache software license 2.0", "Apache-2.0"),
    ("bsd 2-clause license", "BSD-2-Clause"),
    ("bsd 3-clause", "BSD-3-Clause"),
    ("bsd 3-clause license", "BSD-3-Clause"),
    ("3-clause bsd license", "BSD-3-Clause"),
    ("boost software license 1.0 (bsl-1.0)", "BSL-1.0"),
    (
        "cc0 1.0 universal (cc0 1.0) public domain dedication",
        "CC0-1.0",
    ),
    ("european union public licence 1.2 (eupl 1.2)", "EUPL-1.2"),
    ("gnu affero general public license v3", "AGPL-3.0-only"),
    (
        "gnu affero general public license v3 or later (agplv3+)",
        "AGPL-3.0-or-later",
    ),
    ("gnu general public license v2 (gplv2)", "GPL-2.0-only"),
    (
        "gnu general public license v2 or later (gplv2+)",
        "GPL-2.0-or-later",
    ),
    ("gnu general public license v3 (gplv3)", "GPL-3.0-only"),
    (
        "gnu general public license v3 or later (gplv3+)",
        "GPL-3.0-or-later",
    ),
    (
        "gnu lesser general public license v2 (lgplv2)",
        "LGPL-2.0-only",
    ),
    (
        "gnu lesser general public license v2 or later (lgplv2+)",
        "LGPL-2.0-or-later",
    ),
    (
        "gnu lesser general public license v3 (lgplv3)",
        "LGPL-3.0-only",
    ),
    (
        "gnu lesser general public license v3 or later (lgplv3+)",
        "LGPL-3.0-or-later",
    ),
    ("historical permission notice and disclaimer (hpnd)", "HPND"),
    ("isc license", "ISC"),
    ("isc license (iscl)", "ISC"),
    ("mit license", "MIT"),
    ("the mit license", "MIT"),
    ("the mit license (mit)", "MIT"),
    ("mit no attribution license (mit-0)", "MIT-0"),
    ("mozilla public license 2.0 (mpl 2.0)", "MPL-2.0"),
    ("mpl 2.0", "MPL-2.0"),
    ("the unlicense (unlicense)", "Unlicense"),
    ("universal permissive license (upl)", "UPL-1.0"),
    ("zero-clause bsd (0bsd)", "0BSD"),
];

/// What a distribution says of its licence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Licence {
    /// An expression of SPDX.
    Expression {
        /// As written.
        text: String,
        /// The one identifier that it is, if no more.
        id: Option<&'static str>,
        /// What it names beside SPDX's list, as `LicenseRef-Own`.
        refs: Vec<String>,
    },
    /// Names, which stand beside one another in no relation that is said; or none.
    Names(Vec<Term>),
}

/// A name of a licence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    /// Of SPDX's list.
    Id(&'static str),
    /// Any other.
    Name(String),
}

impl Term {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Id(id) => id,
            Self::Name(name) => name,
        }
    }
}

impl Default for Licence {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl Licence {
    /// What a distribution says of its licence, in the clearest of its words.
    pub(super) fn of(package: &Installed) -> Self {
        let expressions = package.values("License-Expression");
        let licences = package.values("License");
        let classifiers = package.field("Classifier").filter_map(classified);
        Self::said(expressions, licences, classifiers)
    }

    fn said<'a>(
        expressions: impl Iterator<Item = &'a str>,
        licences: impl Iterator<Item = &'a str>,
        classifiers: impl Iterator<Item = &'a str>,
    ) -> Self {
        // What has lines is a licence's own text, however its first one reads.
        let is_name = |text: &&str| !text.is_empty() && *text != UNKNOWN && !text.contains('\n');
        let licences = licences.filter(is_name);
        let licences: Vec<_> = licences.collect();
        let mut written = expressions.chain(licences.iter().copied());
        if let Some(expression) = written.find_map(expression) {
            return expression;
        }
        let of_field = licences.iter().copied().find_map(known);
        if let Some(id) = of_field {
            return Self::Names(vec![Term::Id(id)]);
        }
        let mut terms: Vec<_> = classifiers.map(term).collect();
        terms.dedup();
        if terms.is_empty() {
            let short = licences.into_iter().filter(|it| it.len() <= LONGEST_NAME);
            terms.extend(short.take(1).map(term));
        }
        Self::Names(terms)
    }
}

/// The last words of a classifier of licences, unless it is a heading alone.
fn classified(classifier: &str) -> Option<&str> {
    let rest = classifier.strip_prefix("License ::")?.trim();
    let last = rest.rsplit("::").next()?.trim();
    (last != "OSI Approved").then_some(last)
}

fn term(name: &str) -> Term {
    known(name).map_or_else(|| Term::Name(name.to_owned()), Term::Id)
}

/// The identifier that a name is or stands for.
fn known(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let stands = NAMES.iter().find(|(known, _)| *known == lower);
    let stands = stands.map(|(_, id)| *id);
    let mut all = LICENSES.iter();
    stands.or_else(|| {
        all.find(|known| known.name.eq_ignore_ascii_case(name))
            .map(|known| known.name)
    })
}

fn expression(text: &str) -> Option<Licence> {
    let parsed = Expression::parse_mode(text, MODE).ok()?;
    let required: Vec<_> = parsed.requirements().map(|it| &it.req).collect();
    let refs = required.iter().filter_map(|required| {
        let is_listed = matches!(required.license, LicenseItem::Spdx { .. });
        (!is_listed).then(|| required.license.to_string())
    });
    let id = match &*required {
        [only] if only.license.id().is_some_and(|id| id.name == text) => {
            only.license.id().map(|id| id.name)
        }
        _ => None,
    };
    Some(Licence::Expression {
        text: text.to_owned(),
        id,
        refs: refs.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(expression: &[&str], licence: &[&str], classifiers: &[&str]) -> String {
        let classifiers = classifiers.iter().copied().filter_map(classified);
        let licence = Licence::said(
            expression.iter().copied(),
            licence.iter().copied(),
            classifiers,
        );
        match licence {
            Licence::Expression { text, id, refs } => format!("{text} {id:?} {refs:?}"),
            Licence::Names(terms) => format!("{terms:?}"),
        }
    }

    #[test]
    fn the_clearest_words_count() {
        let mit = "License :: OSI Approved :: MIT License";
        let bsd = "License :: OSI Approved :: BSD License";
        let long = "Permission is hereby granted ".repeat(9);
        let lines = [
            said(&["MIT"], &["Apache-2.0"], &[bsd]),
            said(&["Apache-2.0 OR BSD-3-Clause"], &[], &[]),
            said(&["MIT AND LicenseRef-Own"], &[], &[]),
            said(&[], &["BSD-3-Clause"], &[]),
            said(&[], &["Apache 2.0"], &[mit]),
            said(&[], &["mit"], &[]),
            said(&[], &["BSD"], &["License :: OSI Approved", bsd]),
            said(&[], &["Dual License"], &[bsd, mit]),
            said(&[], &["Proprietary"], &[]),
            said(&[], &["UNKNOWN"], &["Programming Language :: Python"]),
            said(&["no, licence"], &[&long], &[]),
            said(&[], &["MIT\n        Copyright (c) me"], &[]),
            said(&[], &["Apache 2.0\n        \n        Copyright"], &[bsd]),
            said(&[], &["\n  Copyright (c) me"], &[]),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        MIT Some("MIT") []
        Apache-2.0 OR BSD-3-Clause None []
        MIT AND LicenseRef-Own None ["LicenseRef-Own"]
        BSD-3-Clause Some("BSD-3-Clause") []
        [Id("Apache-2.0")]
        [Id("MIT")]
        [Name("BSD License")]
        [Name("BSD License"), Id("MIT")]
        [Name("Proprietary")]
        []
        []
        []
        [Name("BSD License")]
        []
        "#);
    }

    #[test]
    fn names_stand_for_identifiers() {
        for (name, id) in NAMES {
            assert!(spdx::license_id(id).is_some(), "{id}");
            assert_eq!(*name, name.to_ascii_lowercase());
        }
    }
}
