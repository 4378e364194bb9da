//! What the Python packaging specifications say: versions, wheels, locks, and what a machine accepts of them.
//!
//! A [`Target`] is the machine that will run the code, never the one at hand. This room has never
//! heard of images, layers or Lambda; it looks at no environment and at no Python but one it is given.

pub mod bytecode;
pub mod credentials;
pub mod elf;
pub mod examination;
pub mod fetch;
pub mod index;
pub mod interpreter;
pub mod lock;
pub mod lock_text;
pub mod markers;
pub mod marshal;
pub mod netrc;
pub mod pyc;
pub mod pyproject;
pub mod requirement;
pub mod requirements;
pub mod resolve;
pub mod source;
pub mod standard_library;
pub mod tags;
pub mod wheel;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use tags::{Misfit, Rank, WheelFilename};

/// A `CPython` release line, 3.8 or later: since then an ABI's name has no flags in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PythonVersion {
    minor: u8,
}

/// The first release line whose ABI tag is `cp3X` alone.
const OLDEST_MINOR: u8 = 8;

impl PythonVersion {
    /// Python 3.`minor`; nothing for lines before 3.8.
    pub fn new(minor: u8) -> Option<Self> {
        (minor >= OLDEST_MINOR).then_some(Self { minor })
    }

    /// The number after `3.`.
    pub fn minor(self) -> u8 {
        self.minor
    }

    /// The patch release that is taken to run where nothing is known of it.
    ///
    /// It is the last one that was two years old in November 2026: runtimes that are kept patched have
    /// it, and projects that shun early releases (`!=3.9.0`, `!=3.9.7`, `>=3.8.1`) accept it. Taking
    /// 3.9.0 for 3.9 made pip choose cryptography 43.0.3, and uv 47.0.0, where 50.0.2 fits 3.9.18.
    pub fn assumed_patch(self) -> u8 {
        match self.minor {
            8 | 9 => 20,
            10 => 15,
            11 => 10,
            12 => 7,
            _ => 0,
        }
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "3.{}", self.minor)
    }
}

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseError {
    /// The text.
    pub text: String,
    /// What it should have been, with an example.
    pub expected: &'static str,
}

impl ParseError {
    fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            expected,
        }
    }
}

/// A number as versions have them: digits alone, no sign, no leading zero.
fn plain_number<N: FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

impl FromStr for PythonVersion {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let minor = text.strip_prefix("3.").and_then(plain_number);
        minor
            .and_then(Self::new)
            .ok_or_else(|| ParseError::new(text, "a Python version from `3.8` on"))
    }
}

/// A processor architecture, by the name that `platform.machine()` gives it on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Machine {
    /// 64-bit Intel and AMD.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Machine {
    /// The name, as in platform tags and markers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Machine {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        [Self::X86_64, Self::Aarch64]
            .into_iter()
            .find(|machine| machine.as_str() == text)
            .ok_or_else(|| ParseError::new(text, "`x86_64` or `aarch64`"))
    }
}

/// A version of the GNU C library, older before newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Glibc {
    /// The number before the point: 2 for all that exist.
    pub major: u16,
    /// The number after it.
    pub minor: u16,
}

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Glibc {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = text.split_once('.');
        let numbers = parts.and_then(|(major, minor)| {
            let (major, minor) = (plain_number(major)?, plain_number(minor)?);
            Some(Self { major, minor })
        });
        numbers.ok_or_else(|| ParseError::new(text, "a glibc version such as `2.34`"))
    }
}

/// The machine that will run the code: a `CPython` on Linux with the GNU C library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The interpreter's release line.
    pub python: PythonVersion,
    /// The architecture.
    pub machine: Machine,
    /// The C library.
    pub glibc: Glibc,
    /// The interpreter's patch release, when it is known.
    pub patch: Option<u8>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (python, machine, glibc) = (self.python, self.machine, self.glibc);
        write!(f, "python {python}, {machine}, glibc {glibc}")
    }
}

impl Target {
    /// A target of which no patch release is known.
    pub fn new(python: PythonVersion, machine: Machine, glibc: Glibc) -> Self {
        Self {
            python,
            machine,
            glibc,
            patch: None,
        }
    }

    /// The full version that markers and `requires-python` are held against: the known patch release,
    /// else [`PythonVersion::assumed_patch`].
    pub fn full_version(&self) -> pep440_rs::Version {
        let patch = self.patch.unwrap_or(self.python.assumed_patch());
        pep440_rs::Version::new([3, u64::from(self.python.minor), u64::from(patch)])
    }
}

/// The form of a project's name under which two spellings of it are the same (PEP 503).
pub fn normalize_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            other => normal.extend(other.to_lowercase()),
        }
    }
    normal
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A target from texts, as tests like to write it.
    pub(crate) fn target(python: &str, machine: Machine, glibc: &str) -> Target {
        Target::new(python.parse().unwrap(), machine, glibc.parse().unwrap())
    }

    #[test]
    fn versions_from_text_and_back() {
        for text in ["3.8", "3.12", "3.100"] {
            let version: PythonVersion = text.parse().unwrap();
            assert_eq!(version.to_string(), text);
        }
        for bad in [
            "", "3", "3.7", "2.7", "3.012", "3.+9", "3.12.1", "3.1x", "3.256",
        ] {
            assert!(bad.parse::<PythonVersion>().is_err(), "{bad}");
        }
        let (older, newer): (Glibc, Glibc) = ("2.9".parse().unwrap(), "2.34".parse().unwrap());
        assert!(older < newer);
        assert!("2".parse::<Glibc>().is_err() && "2.34.1".parse::<Glibc>().is_err());
        let error = "python3.12".parse::<PythonVersion>().unwrap_err();
        insta::assert_snapshot!(error, @"`python3.12` is not a Python version from `3.8` on");
        let error = "arm64".parse::<Machine>().unwrap_err();
        insta::assert_snapshot!(error, @"`arm64` is not `x86_64` or `aarch64`");
    }

    #[test]
    fn full_version_is_the_known_or_the_assumed_one() {
        let mut target = target("3.9", Machine::X86_64, "2.26");
        assert_eq!(target.full_version().to_string(), "3.9.20");
        target.patch = Some(25);
        assert_eq!(target.full_version().to_string(), "3.9.25");
        insta::assert_snapshot!(target, @"python 3.9, x86_64, glibc 2.26");
    }

    #[test]
    fn names_have_one_normal_form() {
        for (name, normal) in [
            ("Flask", "flask"),
            ("ruamel.yaml.clib", "ruamel-yaml-clib"),
            ("a-_.b", "a-b"),
            ("jaraco_.text", "jaraco-text"),
        ] {
            assert_eq!(normalize_name(name), normal);
        }
    }

    proptest! {
        #[test]
        fn normal_names_stay(name in "[A-Za-z0-9][A-Za-z0-9._-]{0,12}") {
            let normal = normalize_name(&name);
            prop_assert_eq!(normalize_name(&normal), normal.clone());
        }
    }
}
