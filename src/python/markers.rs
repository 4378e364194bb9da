//! Environment markers: whether a requirement or a locked package is meant for a target.
//!
//! Follows the dependency specifiers specification, with the two variables that PEP 751 adds for locks
//! (`extras`, `dependency_groups`), which the library used here does not know. What it would pass over
//! with a warning is an error, because half a marker is another marker. No file is ever read here.

use std::collections::BTreeSet;

use pep508_rs::{MarkerEnvironment, MarkerTree, MarkerWarningKind};

use crate::python::{Target, normalize_name};

/// Deeper than any marker a tool writes; the library reads parentheses by recursion.
const DEEPEST: usize = 64;

/// A marker that has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the marker `{marker}` cannot be evaluated: {reason}")]
pub struct Error {
    /// The marker.
    pub marker: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What markers are held against.
#[derive(Debug, Clone)]
pub struct Markers {
    environment: MarkerEnvironment,
    extras: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Markers {
    /// The target alone: no extra and no dependency group is wanted.
    pub fn new(target: Target) -> Self {
        Self {
            environment: target.marker_environment(),
            extras: BTreeSet::new(),
            groups: BTreeSet::new(),
        }
    }

    /// The same with extras and dependency groups, as `extras` and `dependency_groups` in a lock test for.
    #[must_use]
    pub fn with<N: AsRef<str>>(
        mut self,
        extras: impl IntoIterator<Item = N>,
        groups: impl IntoIterator<Item = N>,
    ) -> Self {
        let normal = |name: N| normalize_name(name.as_ref());
        self.extras.extend(extras.into_iter().map(normal));
        let normal = |name: N| normalize_name(name.as_ref());
        self.groups.extend(groups.into_iter().map(normal));
        self
    }

    /// Whether `marker` holds.
    ///
    /// # Errors
    /// When any part of it has no meaning.
    pub fn hold(&self, marker: &str) -> Result<bool, Error> {
        let error = |reason: String| Error {
            marker: marker.to_owned(),
            reason,
        };
        let plain = self.settle_sets(marker).map_err(|e| error(e.to_owned()))?;
        let mut ignored = None;
        let mut report = |_: MarkerWarningKind, warning: String| {
            ignored.get_or_insert(one_line(&warning).replace(", will be ignored", ""));
        };
        let tree = MarkerTree::parse_reporter(&plain, &mut report)
            .map_err(|e| error(one_line(&e.message.to_string())))?;
        match ignored {
            Some(warning) => Err(error(warning)),
            None => Ok(tree.evaluate(&self.environment, &[])),
        }
    }

    /// Puts a comparison that is true or false where membership of `extras` and `dependency_groups` is tested.
    fn settle_sets(&self, marker: &str) -> Result<String, &'static str> {
        let tokens = tokens(marker)?;
        let mut rest = &tokens[..];
        let mut settled: Vec<&str> = Vec::new();
        while let [first, tail @ ..] = rest {
            let test = match rest {
                [quoted, "in", set, ..] => Some((quoted, set, true, 3)),
                [quoted, "not", "in", set, ..] => Some((quoted, set, false, 4)),
                _ => None,
            };
            let known = test.and_then(|(quoted, set, wanted, length)| {
                let name = unquoted(quoted)?;
                let members = match *set {
                    "extras" => &self.extras,
                    "dependency_groups" => &self.groups,
                    _ => return None,
                };
                Some((members.contains(&normalize_name(name)) == wanted, length))
            });
            if let Some((holds, length)) = known {
                settled.push(if holds { ALWAYS } else { NEVER });
                rest = &rest[length..];
            } else {
                settled.push(first);
                rest = tail;
            }
        }
        Ok(settled.join(" "))
    }
}

const ALWAYS: &str = "python_version >= '3'";
const NEVER: &str = "python_version < '3'";

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unquoted(token: &str) -> Option<&str> {
    let quote = token.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    token.strip_prefix(quote)?.strip_suffix(quote)
}

fn tokens(marker: &str) -> Result<Vec<&str>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = marker.trim_start();
    let mut depth = 0_usize;
    while let Some(first) = rest.chars().next() {
        let is_operator = |c: char| "<>=!~".contains(c);
        let is_word = |c: char| !c.is_whitespace() && !"()'\"".contains(c) && !is_operator(c);
        let end = match first {
            '\'' | '"' => rest[1..].find(first).ok_or("a quote is not closed")? + 2,
            '(' | ')' => 1,
            c if is_operator(c) => rest.find(|c| !is_operator(c)).unwrap_or(rest.len()),
            _ => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        };
        match first {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err("its parentheses are nested too deep");
        }
        tokens.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::tests::target;
    use proptest::prelude::*;

    fn markers() -> Markers {
        Markers::new(target("3.12", Machine::Aarch64, "2.34"))
    }

    #[test]
    fn markers_are_held_against_the_target() {
        let mut target = target("3.12", Machine::Aarch64, "2.34");
        target.patch = Some(4);
        let markers = Markers::new(target);
        for marker in [
            "python_version >= '3.9'",
            "python_version in '3.11 3.12'",
            "python_full_version < '3.12.5' and python_full_version > '3.12.3'",
            "sys_platform == 'linux' and(platform_machine == \"aarch64\" or os_name == 'nt')",
            "'linux' in sys_platform",
            "platform_python_implementation != 'PyPy' and implementation_name == 'cpython'",
            "platform_system == 'Linux'",
        ] {
            assert_eq!(markers.hold(marker), Ok(true), "{marker}");
        }
        for marker in [
            "python_version < '3.9'",
            "sys_platform == 'win32'",
            "platform_machine == 'x86_64'",
            "extra == 'test'",
        ] {
            assert_eq!(markers.hold(marker), Ok(false), "{marker}");
        }
    }

    #[test]
    fn the_sets_of_a_lock_are_known() {
        let none = markers();
        let some = markers().with(["Dev_Tools"], ["test"]);
        for (marker, without, with) in [
            ("'dev-tools' in extras", false, true),
            ("'dev-tools' not in extras", true, false),
            (
                "('test' in dependency_groups) and os_name=='posix'",
                false,
                true,
            ),
            (
                "os_name == 'nt' or \"docs\" in dependency_groups",
                false,
                false,
            ),
        ] {
            assert_eq!(none.hold(marker), Ok(without), "{marker}");
            assert_eq!(some.hold(marker), Ok(with), "{marker}");
        }
    }

    #[test]
    fn markers_without_meaning_are_refused() {
        let deep = "(".repeat(100_000);
        let refused: Vec<String> = [
            "python_version >= 'three'",
            "sys_platform ~= 'linux'",
            "extras == 'test'",
            "os_name == posix",
            "os_name == 'posix",
            "",
            &deep,
        ]
        .map(|marker| markers().hold(marker).unwrap_err().reason)
        .into();
        insta::assert_snapshot!(refused.join("\n"), @"
        Expected PEP 440 version to compare with python_version, found three: expected version to start with a number, but no leading ASCII digits were found
        Can't compare strings with `~=`
        Expected a quoted string or a valid marker name, found `extras`
        Expected a quoted string or a valid marker name, found `posix`
        a quote is not closed
        Expected marker value, found end of dependency specification
        its parentheses are nested too deep
        ");
    }

    proptest! {
        #[test]
        fn any_text_is_evaluated_or_refused(text in "((python_version|os_name|extras|'[a-z0-9. é]{0,4}'|[()]|and|or|not in|in|<=|==|~=|[a-zé\"]) ?){0,12}") {
            let _ = markers().hold(&text);
        }
    }
}
