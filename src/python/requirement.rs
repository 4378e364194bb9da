//! One requirement, as metadata and requirements files write it.
//!
//! Follows the dependency specifiers specification as far as its parts go; what the marker says of a target
//! and what the specifiers allow is for others to hold. Options behind a requirement are not of it.

use std::collections::BTreeSet;

use crate::python::normalize_name;

/// A requirement by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirement {
    /// The normal name.
    pub name: String,
    /// Normal names of its extras.
    pub extras: BTreeSet<String>,
    /// Its version specifiers, as written; empty for any version.
    pub specifiers: String,
    /// Where it is, if it says so.
    pub address: Option<String>,
    /// When it is meant.
    pub marker: Option<String>,
}

impl Requirement {
    /// The requirement that `text` is; nothing for what has no name, such as a path.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let (name, rest) = text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()));
        let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !ends_well(name.chars().next()) || !ends_well(name.chars().next_back()) {
            return None;
        }
        let (extras, rest) = extras(rest.trim_start())?;
        let mut requirement = Self {
            name: normalize_name(name),
            extras,
            ..Self::default()
        };
        let marker = if let Some(address) = rest.strip_prefix('@') {
            // An address may have a semicolon in it; one after a space ends it.
            let (address, marker) = split(address.trim(), " ;");
            requirement.address = Some(address.trim().to_owned());
            marker
        } else {
            let (specifiers, marker) = split(rest, ";");
            let specifiers = specifiers.trim();
            let bare = specifiers.strip_prefix('(');
            let bare = bare.and_then(|rest| rest.strip_suffix(')'));
            let specifiers = bare.unwrap_or(specifiers).trim();
            if !specifiers.is_empty() && !specifiers.starts_with(['<', '>', '=', '!', '~']) {
                return None;
            }
            specifiers.clone_into(&mut requirement.specifiers);
            marker
        };
        requirement.marker = marker.map(|marker| marker.trim().to_owned());
        Some(requirement)
    }
}

fn extras(text: &str) -> Option<(BTreeSet<String>, &str)> {
    let Some(inside) = text.strip_prefix('[') else {
        return Some((BTreeSet::new(), text));
    };
    let (names, rest) = inside.split_once(']')?;
    let names = names.split(',').map(str::trim).filter(|n| !n.is_empty());
    Some((names.map(normalize_name).collect(), rest.trim_start()))
}

fn split<'a>(text: &'a str, separator: &str) -> (&'a str, Option<&'a str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> String {
        match Requirement::parse(text) {
            None => "none".to_owned(),
            Some(it) => format!(
                "{} {:?} {:?} {:?} {:?}",
                it.name, it.extras, it.specifiers, it.address, it.marker
            ),
        }
    }

    #[test]
    fn requirements_have_parts() {
        let texts = [
            "Flask",
            "httpx[socks, HTTP_2] (>=0.27,<0.28)",
            "attrs<23 ; python_version < '3.12'",
            "a.b==1;os_name=='posix'",
            "six @ https://x.test/a;b/six.whl#sha256=0 ; os_name == 'posix'",
            "x[y]@file:///a.whl",
            "./x.whl",
            "https://x.test/x.whl",
            "a b",
            "a[b",
            "-e .",
            "a-",
        ];
        insta::assert_snapshot!(texts.map(parts).join("\n"), @r#"
        flask {} "" None None
        httpx {"http-2", "socks"} ">=0.27,<0.28" None None
        attrs {} "<23" None Some("python_version < '3.12'")
        a-b {} "==1" None Some("os_name=='posix'")
        six {} "" Some("https://x.test/a;b/six.whl#sha256=0") Some("os_name == 'posix'")
        x {"y"} "" Some("file:///a.whl") None
        none
        none
        none
        none
        none
        none
        "#);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart(text in "[-a-z\\[\\]();@,.é =<>]{0,20}") {
            let _ = Requirement::parse(&text);
        }
    }
}
