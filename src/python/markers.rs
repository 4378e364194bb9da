//! Environment markers: whether a requirement or a locked package is meant for a target.
//!
//! Follows the dependency specifiers specification, with the two variables that PEP 751 adds for locks
//! (`extras`, `dependency_groups`), and takes doubtful comparisons as `packaging` does. Every part of a
//! marker is looked at, for half a marker is another marker. `pep508_rs` 0.9 does this too, but it panics
//! on `'' ~= os_name`, which anyone can write into a lock. No file is ever read here.

use std::collections::BTreeSet;
use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifier};

use crate::python::{Target, normalize_name};

/// Deeper than any marker a tool writes; parentheses are read by recursion.
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
    target: Target,
    extras: BTreeSet<String>,
    groups: BTreeSet<String>,
    /// What `extra` is equal to.
    active: BTreeSet<String>,
}

impl Markers {
    /// The target alone: no extra and no dependency group is wanted.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            extras: BTreeSet::new(),
            groups: BTreeSet::new(),
            active: BTreeSet::new(),
        }
    }

    /// The same with a value for `extra`: it is equal to each of these at once, as poetry takes it.
    #[must_use]
    pub fn with_active<N: AsRef<str>>(mut self, extras: impl IntoIterator<Item = N>) -> Self {
        let normal = extras.into_iter().map(|name| normalize_name(name.as_ref()));
        self.active = normal.collect();
        self
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

    /// Makes `extra` equal to a name beside those that it is equal to already, as uv's locks test for what of
    /// a conflict is active; whether it was not yet.
    pub fn activate(&mut self, name: &str) -> bool {
        self.active.insert(name.to_owned())
    }

    /// Takes [`Self::activate`] back.
    pub fn deactivate(&mut self, name: &str) {
        self.active.remove(name);
    }

    /// Whether `extra` is equal to the name.
    pub fn is_active(&self, name: &str) -> bool {
        self.active.contains(name)
    }

    /// Whether `marker` holds.
    ///
    /// # Errors
    /// When any part of it has no meaning.
    pub fn hold(&self, marker: &str) -> Result<bool, Error> {
        self.evaluate(marker).map_err(|reason| Error {
            marker: marker.to_owned(),
            reason,
        })
    }

    fn evaluate(&self, marker: &str) -> Result<bool, String> {
        let tokens = tokens(marker)?;
        let mut parser = Parser {
            markers: self,
            tokens: &tokens,
            depth: 0,
        };
        let holds = parser.any()?;
        match parser.tokens.first() {
            Some(token) => Err(format!("`{token}` is one too many")),
            None => Ok(holds),
        }
    }

    fn operand<'a>(&'a self, token: &'a str) -> Result<Operand<'a>, String> {
        let variable = |value: &str| Operand::Variable(value.to_owned());
        let full_version = || Operand::Version(self.target.full_version().to_string());
        Ok(match token {
            "python_version" => Operand::Version(self.target.python.to_string()),
            "python_full_version" | "implementation_version" => full_version(),
            "os_name" | "os.name" => variable("posix"),
            "sys_platform" | "sys.platform" => variable("linux"),
            "platform_system" => variable("Linux"),
            "platform_machine" | "platform.machine" => variable(self.target.machine.as_str()),
            "implementation_name" => variable("cpython"),
            "platform_python_implementation"
            | "platform.python_implementation"
            | "python_implementation" => variable("CPython"),
            "extra" if !self.active.is_empty() => Operand::Active(&self.active),
            // The first three name a kernel, which nobody knows yet; the last has a value only while the
            // metadata of a project are read for one of its extras.
            "platform_release" | "platform_version" | "platform.version" | "extra" => variable(""),
            "extras" => Operand::Set(&self.extras),
            "dependency_groups" => Operand::Set(&self.groups),
            quoted => match unquoted(quoted) {
                Some(text) => Operand::Text(text),
                None => return Err(format!("`{quoted}` is no variable")),
            },
        })
    }
}

enum Operand<'a> {
    Text(&'a str),
    Variable(String),
    /// A variable that is compared as a version.
    Version(String),
    Set(&'a BTreeSet<String>),
    /// The variable that has many values at once.
    Active(&'a BTreeSet<String>),
}

struct Parser<'a> {
    markers: &'a Markers,
    /// What is left to read.
    tokens: &'a [&'a str],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        let (first, rest) = self.tokens.split_first().ok_or("it ends too early")?;
        self.tokens = rest;
        Ok(first)
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.tokens.first() == Some(&wanted);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut holds = self.all()?;
        while self.take("or") {
            holds |= self.all()?;
        }
        Ok(holds)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut holds = self.one()?;
        while self.take("and") {
            holds &= self.one()?;
        }
        Ok(holds)
    }

    fn one(&mut self) -> Result<bool, String> {
        if !self.take("(") {
            return self.comparison();
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("its parentheses are nested too deep".to_owned());
        }
        let holds = self.any()?;
        self.depth -= 1;
        if self.take(")") {
            Ok(holds)
        } else {
            Err("a parenthesis is not closed".to_owned())
        }
    }

    fn comparison(&mut self) -> Result<bool, String> {
        let left = self.markers.operand(self.next()?)?;
        let operator = match self.next()? {
            "not" if self.take("in") => "not in",
            operator => operator,
        };
        let right = self.markers.operand(self.next()?)?;
        match (left, right) {
            (Operand::Text(name), Operand::Set(set)) => member(name, operator, set),
            (Operand::Active(set), Operand::Text(name))
            | (Operand::Text(name), Operand::Active(set)) => one_is(name, operator, set),
            (Operand::Version(left), Operand::Text(right)) => {
                compare_version(&left, operator, right)
            }
            (Operand::Text(left), Operand::Version(right)) => {
                compare_version(left, operator, &right)
            }
            (Operand::Variable(left), Operand::Text(right)) => compare_text(&left, operator, right),
            (Operand::Text(left), Operand::Variable(right)) => compare_text(left, operator, &right),
            _ => Err("it does not compare a variable with a text".to_owned()),
        }
    }
}

/// Whether an operator looks for its left side in the right one, or for its absence.
fn contains(operator: &str) -> Option<bool> {
    match operator {
        "in" => Some(true),
        "not in" => Some(false),
        _ => None,
    }
}

fn member(name: &str, operator: &str, set: &BTreeSet<String>) -> Result<bool, String> {
    let wanted =
        contains(operator).ok_or_else(|| format!("`{operator}` does not test what a set holds"))?;
    Ok(set.contains(&normalize_name(name)) == wanted)
}

fn one_is(name: &str, operator: &str, set: &BTreeSet<String>) -> Result<bool, String> {
    match operator {
        "==" => Ok(set.contains(&normalize_name(name))),
        "!=" => Ok(!set.contains(&normalize_name(name))),
        _ => Err(format!("`extra` cannot be compared by `{operator}`")),
    }
}

fn compare_version(left: &str, operator: &str, right: &str) -> Result<bool, String> {
    if contains(operator).is_some() {
        return compare_text(left, operator, right);
    }
    let specifier = VersionSpecifier::from_str(&format!("{operator}{right}"));
    match (specifier, Version::from_str(left)) {
        (Ok(specifier), Ok(version)) => Ok(specifier.contains(&version)),
        _ => Err(format!(
            "`{left}` `{operator}` `{right}` compares no two versions"
        )),
    }
}

fn compare_text(left: &str, operator: &str, right: &str) -> Result<bool, String> {
    Ok(match operator {
        // Texts have no order, so none is before another.
        "==" | "<=" | ">=" => left == right,
        "!=" => left != right,
        "<" | ">" => false,
        "in" => right.contains(left),
        "not in" => !right.contains(left),
        _ => return Err(format!("texts cannot be compared by `{operator}`")),
    })
}

fn unquoted(token: &str) -> Option<&str> {
    let quote = token.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    token.strip_prefix(quote)?.strip_suffix(quote)
}

fn tokens(marker: &str) -> Result<Vec<&str>, &'static str> {
    let is_operator = |c: char| "<>=!~".contains(c);
    let is_word = |c: char| !c.is_whitespace() && !"()'\"".contains(c) && !is_operator(c);
    let mut tokens = Vec::new();
    let mut rest = marker.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '\'' | '"' => rest[1..].find(first).ok_or("a quote is not closed")? + 2,
            '(' | ')' => 1,
            c if is_operator(c) => rest.find(|c| !is_operator(c)).unwrap_or(rest.len()),
            _ => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        };
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
            "'3.9' <= python_version and '3' in python_version and python_version ~= '3.8'",
            "os_name == 'nt' or os_name == 'posix' and sys.platform == 'linux'",
            "(os_name == 'posix' or os_name == 'nt') and extra != 'test'",
        ] {
            assert_eq!(markers.hold(marker), Ok(true), "{marker}");
        }
        for marker in [
            "python_version < '3.9'",
            "sys_platform == 'win32'",
            "platform_machine == 'x86_64'",
            "extra == 'test'",
            "'3.12' > python_version or python_version == '3.1.*'",
            "platform_release >= '5.10'",
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
    fn extra_is_equal_to_all_that_is_active() {
        let mut some = markers();
        assert!(some.activate("extra-1-a-x") && some.activate("group-1-a-g"));
        assert!(!some.activate("group-1-a-g"));
        for marker in [
            "extra == 'extra-1-a-x' and extra == 'group-1-a-g'",
            "'extra-1-a-x' == extra and extra != 'extra-1-a-y'",
        ] {
            assert_eq!(some.hold(marker), Ok(true), "{marker}");
        }
        assert_eq!(some.hold("extra != 'extra-1-a-x'"), Ok(false));
        assert!(some.hold("extra > 'a'").is_err());
        some.deactivate("extra-1-a-x");
        assert!(!some.is_active("extra-1-a-x") && some.is_active("group-1-a-g"));
        assert_eq!(some.hold("extra != 'extra-1-a-x'"), Ok(true));
    }

    #[test]
    fn extra_may_have_values() {
        let some = markers().with_active(["Dev_Tools", "html"]);
        let none = markers().with_active::<&str>([]);
        for (marker, without, with) in [
            ("extra == 'dev-tools'", false, true),
            ("'HTML' == extra and extra == 'dev.tools'", false, true),
            ("extra != 'html'", true, false),
            ("extra == 'x' or os_name == 'nt'", false, false),
        ] {
            assert_eq!(none.hold(marker), Ok(without), "{marker}");
            assert_eq!(some.hold(marker), Ok(with), "{marker}");
        }
        assert!(some.hold("extra < 'x'").is_err());
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
            "'' ~= os_name",
            "(os_name == 'posix'",
            "os_name == 'posix' os_name",
            "'a' == 'a'",
            "os_name not 'posix'",
            "",
            &deep,
        ]
        .map(|marker| markers().hold(marker).unwrap_err().reason)
        .into();
        insta::assert_snapshot!(refused.join("\n"), @"
        `3.12` `>=` `three` compares no two versions
        texts cannot be compared by `~=`
        it does not compare a variable with a text
        `posix` is no variable
        a quote is not closed
        texts cannot be compared by `~=`
        a parenthesis is not closed
        `os_name` is one too many
        it does not compare a variable with a text
        texts cannot be compared by `not`
        it ends too early
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
