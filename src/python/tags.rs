//! Wheel file names, the tags a target accepts, and why a wheel does not fit.
//!
//! Follows the platform compatibility tags specification (PEP 425, 600, 656) and the file name
//! convention of the binary distribution format, in the order that `packaging.tags` gives for a `CPython`
//! on a glibc. A misfit is told by its reason, because what to do about it differs. Contents of wheels
//! are never looked at, and `linux_*` is never accepted: it names no C library.

use std::fmt;
use std::str::FromStr;

use pep440_rs::Version;

use crate::python::{Glibc, Machine, PythonVersion, Target, normalize_name, plain_number};

/// The old names of three manylinux levels, by the glibc they stand for.
const LEGACY_MANYLINUX: [(&str, u16); 3] = [
    ("manylinux2014", 17),
    ("manylinux2010", 12),
    ("manylinux1", 5),
];

/// The first `CPython` with a stable ABI.
const OLDEST_STABLE_ABI: u8 = 2;

/// Which of two builds of one version comes later: a number, then text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildTag {
    number: u64,
    rest: String,
}

/// A wheel's file name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelFilename {
    text: String,
    /// The project's normal name.
    pub name: String,
    /// The version.
    pub version: Version,
    /// The build tag; a wheel without one is earlier than any with one.
    pub build: Option<BuildTag>,
    /// Interpreters it is for; it fits when one of each set fits.
    pub python: Vec<String>,
    /// ABIs it is for.
    pub abi: Vec<String>,
    /// Platforms it is for.
    pub platform: Vec<String>,
}

/// A text that is no wheel's file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a wheel's file name: {reason}", text.escape_debug())]
pub struct FilenameError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl WheelFilename {
    /// Takes a file name apart: `name-version(-build)-python-abi-platform.whl`.
    ///
    /// # Errors
    /// When it is of another form, or its version is none.
    pub fn parse(text: &str) -> Result<Self, FilenameError> {
        Self::from_parts(text).map_err(|reason| FilenameError {
            text: text.to_owned(),
            reason,
        })
    }

    fn from_parts(text: &str) -> Result<Self, &'static str> {
        let stem = text.strip_suffix(".whl").ok_or("it does not end in .whl")?;
        let parts: Vec<&str> = stem.split('-').collect();
        let (name, version, build, tags) = match parts[..] {
            [name, version, ref tags @ ..] if tags.len() == 3 => (name, version, None, tags),
            [name, version, build, ref tags @ ..] if tags.len() == 3 => {
                (name, version, Some(build), tags)
            }
            _ => return Err("it has not five or six parts"),
        };
        if !is_name(name) {
            return Err("its name has other characters than letters, digits, `.` and `_`");
        }
        Ok(Self {
            text: text.to_owned(),
            name: normalize_name(name),
            version: Version::from_str(&version.replace('_', "-"))
                .map_err(|_| "its version is none")?,
            build: build.map(parse_build).transpose()?,
            python: tag_set(tags[0])?,
            abi: tag_set(tags[1])?,
            platform: tag_set(tags[2])?,
        })
    }

    /// The tags, one by one.
    pub fn tags(&self) -> impl Iterator<Item = Tag> {
        let pairs = self
            .python
            .iter()
            .flat_map(|python| self.abi.iter().map(move |abi| (python, abi)));
        pairs.flat_map(|(python, abi)| {
            self.platform.iter().map(|platform| Tag {
                python: python.clone(),
                abi: abi.clone(),
                platform: platform.clone(),
            })
        })
    }

    /// The oldest C library that the name says is enough on this machine.
    pub fn promised_glibc(&self, machine: Machine) -> Option<Glibc> {
        let platforms = self.platform.iter().map(|tag| Platform::parse(tag));
        let promised = platforms.filter_map(|platform| match platform {
            Platform::Manylinux(glibc, other) if other == machine.as_str() => Some(glibc),
            _ => None,
        });
        promised.min()
    }

    /// The file name as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for WheelFilename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'_';
    name.bytes().any(|b| b.is_ascii_alphanumeric()) && name.bytes().all(allowed)
}

fn parse_build(text: &str) -> Result<BuildTag, &'static str> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(end);
    let number = digits
        .parse()
        .map_err(|_| "its build tag does not begin with a number")?;
    Ok(BuildTag {
        number,
        rest: rest.to_owned(),
    })
}

fn tag_set(text: &str) -> Result<Vec<String>, &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let tags = text.split('.').map(|tag| {
        let proper = !tag.is_empty() && tag.bytes().all(allowed);
        proper.then(|| tag.to_ascii_lowercase())
    });
    let tags: Option<Vec<String>> = tags.collect();
    tags.ok_or("a tag is empty or has foreign characters")
}

/// One tag: what a wheel is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The interpreter, as `cp312` or `py3`.
    pub python: String,
    /// The ABI, as `cp312`, `abi3` or `none`.
    pub abi: String,
    /// The platform, as `manylinux_2_17_x86_64` or `any`.
    pub platform: String,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.python, self.abi, self.platform)
    }
}

/// How well a wheel fits: the place of its best tag among all that the target accepts. Less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(usize);

/// Why a wheel does not fit a target, as a clause that follows the wheel's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It is for another operating system.
    #[error("is for `{platform}`")]
    System {
        /// Its platform tags.
        platform: String,
    },
    /// It is for another architecture.
    #[error("is for {machine}")]
    Architecture {
        /// The architectures it is for.
        machine: String,
    },
    /// It is for the musl C library.
    #[error("is for musl, not glibc")]
    Musl,
    /// It is for certain versions of Python.
    #[error("is for Python {versions}")]
    Python {
        /// Those versions.
        versions: String,
    },
    /// It is for later versions of Python.
    #[error("needs Python {from} or later")]
    LaterPython {
        /// The first it is for.
        from: String,
    },
    /// It is for another implementation of Python.
    #[error("is for `{python}`, not CPython")]
    Implementation {
        /// Its interpreter tags.
        python: String,
    },
    /// It is for the build of `CPython` without the global lock.
    #[error("is for free-threaded Python")]
    FreeThreaded,
    /// It is for another ABI of the same interpreter.
    #[error("is for the ABI `{abi}`")]
    Abi {
        /// Its ABI tags.
        abi: String,
    },
    /// It needs a later C library.
    #[error("needs glibc {needed}")]
    Glibc {
        /// The earliest that it runs on.
        needed: Glibc,
    },
    /// Its platform tag says nothing of the C library.
    #[error("does not say which glibc it needs: its platform is `{platform}`")]
    AnyLinux {
        /// Its platform tags.
        platform: String,
    },
    /// Its tags go together in a way that no interpreter accepts.
    #[error("has tags that no interpreter accepts: `{tags}`")]
    Combination {
        /// The tags.
        tags: String,
    },
}

impl Misfit {
    /// How far from fitting: a later glibc is nearest, another operating system furthest.
    pub fn distance(&self) -> u8 {
        match self {
            Self::Glibc { .. } | Self::AnyLinux { .. } => 0,
            Self::Abi { .. } | Self::FreeThreaded => 1,
            Self::Python { .. } | Self::LaterPython { .. } | Self::Implementation { .. } => 2,
            Self::Musl => 3,
            Self::Architecture { .. } => 4,
            Self::System { .. } | Self::Combination { .. } => 5,
        }
    }
}

/// Interpreter and ABI, in a pair that stands before a platform.
type Pair = (String, String);

impl Target {
    /// Every tag of a wheel that runs on this target, the best first.
    pub fn tags(self) -> Vec<Tag> {
        let platforms = self.platforms();
        let platform_tags = self.platform_pairs().into_iter().flat_map(|(python, abi)| {
            let tag = move |platform: &String| Tag {
                python: python.clone(),
                abi: abi.clone(),
                platform: platform.clone(),
            };
            platforms.iter().map(tag).collect::<Vec<_>>()
        });
        let pure_tags = self.pure_pythons().into_iter().map(|python| Tag {
            python,
            abi: "none".to_owned(),
            platform: "any".to_owned(),
        });
        platform_tags.chain(pure_tags).collect()
    }

    /// The platform tags, the newest C library first.
    pub fn platforms(self) -> Vec<String> {
        let oldest = match self.machine {
            Machine::X86_64 => 5,
            Machine::Aarch64 => 17,
        };
        let machine = self.machine;
        let mut platforms = Vec::new();
        for minor in (oldest..=self.glibc.minor).rev() {
            platforms.push(format!("manylinux_2_{minor}_{machine}"));
            let legacy = LEGACY_MANYLINUX.iter().find(|(_, level)| *level == minor);
            platforms.extend(legacy.map(|(name, _)| format!("{name}_{machine}")));
        }
        platforms
    }

    fn platform_pairs(self) -> Vec<Pair> {
        let minor = self.python.minor();
        let native = format!("cp3{minor}");
        let mut pairs: Vec<Pair> = [&native, "abi3", "none"]
            .map(|abi| (native.clone(), abi.to_owned()))
            .into();
        let older = (OLDEST_STABLE_ABI..minor).rev();
        pairs.extend(older.map(|minor| (format!("cp3{minor}"), "abi3".to_owned())));
        let generic = self.generic_pythons().into_iter();
        pairs.extend(generic.map(|python| (python, "none".to_owned())));
        pairs
    }

    fn pure_pythons(self) -> Vec<String> {
        let mut pythons = vec![format!("cp3{}", self.python.minor())];
        pythons.extend(self.generic_pythons());
        pythons
    }

    fn generic_pythons(self) -> Vec<String> {
        let minor = self.python.minor();
        let mut pythons = vec![format!("py3{minor}"), "py3".to_owned()];
        pythons.extend((0..minor).rev().map(|older| format!("py3{older}")));
        pythons
    }

    /// How well a wheel fits this target.
    ///
    /// # Errors
    /// Why it does not; of several reasons the one that is hardest to mend.
    pub fn fit(self, wheel: &WheelFilename) -> Result<Rank, Misfit> {
        let pairs = self.platform_pairs();
        let platforms = self.platforms();
        let pair = pairs
            .iter()
            .position(|(python, abi)| wheel.python.contains(python) && wheel.abi.contains(abi));
        let platform = platforms.iter().position(|p| wheel.platform.contains(p));
        if let (Some(pair), Some(platform)) = (pair, platform) {
            return Ok(Rank(pair * platforms.len() + platform));
        }
        let has = |set: &[String], tag: &str| set.iter().any(|t| t == tag);
        if has(&wheel.abi, "none") && has(&wheel.platform, "any") {
            let mut pythons = self.pure_pythons().into_iter();
            if let Some(python) = pythons.position(|python| wheel.python.contains(&python)) {
                return Ok(Rank(pairs.len() * platforms.len() + python));
            }
        }
        Err(self.misfit(wheel, &platforms))
    }

    fn misfit(self, wheel: &WheelFilename, platforms: &[String]) -> Misfit {
        let accepted = |p: &String| p == "any" || platforms.contains(p);
        let platform = (!wheel.platform.iter().any(accepted))
            .then(|| self.platform_misfit(&wheel.platform))
            .flatten();
        // An interpreter can be changed, an operating system or a processor not so easily; and with a
        // glibc alone being too old, the wheel is as near as can be, so that is told last.
        let near = matches!(
            platform,
            Some(Misfit::Glibc { .. } | Misfit::AnyLinux { .. }) | None
        );
        let told = if near {
            self.python_misfit(wheel).or(platform)
        } else {
            platform
        };
        told.unwrap_or_else(|| Misfit::Combination {
            tags: format!(
                "{}-{}-{}",
                wheel.python.join("."),
                wheel.abi.join("."),
                wheel.platform.join(".")
            ),
        })
    }

    fn platform_misfit(self, tags: &[String]) -> Option<Misfit> {
        let platforms: Vec<Platform> = tags.iter().map(|tag| Platform::parse(tag)).collect();
        let here = |machine: &str| machine == self.machine.as_str();
        let needed = platforms.iter().filter_map(|platform| match platform {
            Platform::Manylinux(glibc, machine) if here(machine) => Some(*glibc),
            _ => None,
        });
        if let Some(needed) = needed.min() {
            return (needed > self.glibc).then_some(Misfit::Glibc { needed });
        }
        let platform = tags.join(".");
        let is_linux = |p: &Platform| matches!(p, Platform::Linux(machine) if here(machine));
        if platforms.iter().any(is_linux) {
            return Some(Misfit::AnyLinux { platform });
        }
        if platforms
            .iter()
            .any(|p| matches!(p, Platform::Musllinux(machine) if here(machine)))
        {
            return Some(Misfit::Musl);
        }
        let mut machines: Vec<&str> = platforms.iter().filter_map(Platform::machine).collect();
        machines.dedup();
        if machines.is_empty() {
            return Some(Misfit::System { platform });
        }
        let machine = machines.join(", ");
        Some(Misfit::Architecture { machine })
    }

    fn python_misfit(self, wheel: &WheelFilename) -> Option<Misfit> {
        let tags: Vec<PythonTag> = wheel
            .python
            .iter()
            .filter_map(|t| PythonTag::parse(t))
            .collect();
        if tags.is_empty() {
            let python = wheel.python.join(".");
            return Some(Misfit::Implementation { python });
        }
        let minor = self.python.minor();
        let stable = wheel.abi.iter().any(|abi| abi == "abi3");
        if tags.iter().any(|tag| tag.accepts(minor, stable)) {
            let accepted = [&format!("cp3{minor}"), "abi3", "none"];
            let fits = |abi: &String| accepted.contains(&abi.as_str());
            if wheel.abi.iter().any(fits) {
                return None;
            }
            let free = |abi: &String| abi.ends_with('t') && !abi.ends_with("_t");
            if wheel.abi.iter().all(free) {
                return Some(Misfit::FreeThreaded);
            }
            let abi = wheel.abi.join(".");
            return Some(Misfit::Abi { abi });
        }
        let later = tags.iter().filter_map(|tag| tag.first_accepted(stable));
        if let Some(from) = later.min() {
            let from = from.to_string();
            return Some(Misfit::LaterPython { from });
        }
        let versions: Vec<String> = tags.iter().map(ToString::to_string).collect();
        let versions = versions.join(", ");
        Some(Misfit::Python { versions })
    }
}

/// A platform tag, as far as a reason needs it.
enum Platform<'a> {
    Manylinux(Glibc, &'a str),
    Musllinux(&'a str),
    Linux(&'a str),
    Other,
}

impl<'a> Platform<'a> {
    fn parse(tag: &'a str) -> Self {
        for (name, minor) in LEGACY_MANYLINUX {
            if let Some(machine) = tag.strip_prefix(name).and_then(|t| t.strip_prefix('_')) {
                return Self::Manylinux(Glibc { major: 2, minor }, machine);
            }
        }
        if let Some((version, machine)) = versioned(tag, "manylinux_") {
            return Self::Manylinux(version, machine);
        }
        if let Some((_, machine)) = versioned(tag, "musllinux_") {
            return Self::Musllinux(machine);
        }
        tag.strip_prefix("linux_").map_or(Self::Other, Self::Linux)
    }

    fn machine(&self) -> Option<&str> {
        match self {
            Self::Manylinux(_, machine) | Self::Musllinux(machine) | Self::Linux(machine) => {
                Some(machine)
            }
            Self::Other => None,
        }
    }
}

/// Reads `PREFIX2_17_x86_64`.
fn versioned<'a>(tag: &'a str, prefix: &str) -> Option<(Glibc, &'a str)> {
    let mut parts = tag.strip_prefix(prefix)?.splitn(3, '_');
    let (major, minor) = (plain_number(parts.next()?)?, plain_number(parts.next()?)?);
    Some((Glibc { major, minor }, parts.next()?))
}

/// An interpreter tag of `CPython` or of any Python.
struct PythonTag {
    cpython: bool,
    major: u8,
    minor: Option<u8>,
}

impl PythonTag {
    fn parse(tag: &str) -> Option<Self> {
        let (cpython, digits) = match (tag.strip_prefix("cp"), tag.strip_prefix("py")) {
            (Some(digits), _) => (true, digits),
            (_, Some(digits)) => (false, digits),
            _ => return None,
        };
        let (major, minor) = digits.split_at_checked(1)?;
        Some(Self {
            cpython,
            major: plain_number(major)?,
            minor: match minor {
                "" => None,
                minor => Some(plain_number(minor)?),
            },
        })
    }

    /// Whether `CPython` 3.`minor` may run it; `stable` says that it keeps to the stable ABI.
    fn accepts(&self, minor: u8, stable: bool) -> bool {
        match self.minor {
            _ if self.major != 3 => false,
            None => !self.cpython,
            Some(own) if self.cpython && !stable => own == minor,
            Some(own) => own <= minor,
        }
    }

    /// The first version that may run it, when later ones may too.
    fn first_accepted(&self, stable: bool) -> Option<PythonVersion> {
        let forward = !self.cpython || stable;
        let minor = self.minor.filter(|_| self.major == 3 && forward)?;
        PythonVersion::new(minor)
    }
}

impl fmt::Display for PythonTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.major)?;
        self.minor.map_or(Ok(()), |minor| write!(f, ".{minor}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::tests::target;
    use proptest::prelude::*;

    fn wheel(name: &str) -> WheelFilename {
        WheelFilename::parse(name).unwrap()
    }

    #[test]
    fn a_name_is_taken_apart() {
        let numpy =
            wheel("numpy-2.5.5-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl");
        assert_eq!(
            (numpy.name.as_str(), numpy.version.to_string()),
            ("numpy", "2.5.5".into())
        );
        assert_eq!(
            numpy.platform,
            ["manylinux_2_27_x86_64", "manylinux_2_28_x86_64"]
        );
        let built = wheel("Torch_Ext.Core-2.1.0+cpu-12abc-py2.py3-none-any.whl");
        assert_eq!(built.name, "torch-ext-core");
        assert_eq!(built.version.to_string(), "2.1.0+cpu");
        assert_eq!(built.python, ["py2", "py3"]);
        assert_eq!(built.to_string(), built.as_str());
        let builds =
            ["2", "10", "10a", "9z"].map(|b| wheel(&format!("a-1-{b}-py3-none-any.whl")).build);
        assert!(None < builds[0] && builds[0] < builds[3]);
        assert!(builds[3] < builds[1] && builds[1] < builds[2]);
    }

    #[test]
    fn names_of_another_form_are_refused() {
        let refused: Vec<String> = [
            "numpy-2.5.5.tar.gz",
            "numpy-2.5.5-py3-any.whl",
            "a-b-c-d-e-f-g.whl",
            "nu/mpy-1-py3-none-any.whl",
            "numpy-one-py3-none-any.whl",
            "numpy-1-build-py3-none-any.whl",
            "numpy-1-py3.-none-any.whl",
        ]
        .map(|name| WheelFilename::parse(name).unwrap_err().to_string())
        .into();
        insta::assert_snapshot!(refused.join("\n"), @r"
        `numpy-2.5.5.tar.gz` is not a wheel's file name: it does not end in .whl
        `numpy-2.5.5-py3-any.whl` is not a wheel's file name: it has not five or six parts
        `a-b-c-d-e-f-g.whl` is not a wheel's file name: it has not five or six parts
        `nu/mpy-1-py3-none-any.whl` is not a wheel's file name: its name has other characters than letters, digits, `.` and `_`
        `numpy-one-py3-none-any.whl` is not a wheel's file name: its version is none
        `numpy-1-build-py3-none-any.whl` is not a wheel's file name: its build tag does not begin with a number
        `numpy-1-py3.-none-any.whl` is not a wheel's file name: a tag is empty or has foreign characters
        ");
    }

    /// The pairs of interpreter and ABI in their order, each once, with the number of its platforms.
    fn outline(target: Target) -> String {
        let mut lines: Vec<(String, usize)> = Vec::new();
        for tag in target.tags() {
            let any = if tag.platform == "any" { "-any" } else { "" };
            let pair = format!("{}-{}{any}", tag.python, tag.abi);
            match lines.last_mut() {
                Some((last, count)) if *last == pair => *count += 1,
                _ => lines.push((pair, 1)),
            }
        }
        let lines: Vec<String> = lines
            .iter()
            .map(|(pair, n)| format!("{pair} {n}"))
            .collect();
        lines.join(" ")
    }

    // Both outlines, the platforms below and the lengths are what packaging 26 gives.
    #[test]
    fn tags_are_those_of_packaging() {
        let lambda = target("3.12", Machine::X86_64, "2.34");
        assert_eq!(lambda.tags().len(), 906);
        insta::assert_snapshot!(outline(lambda), @"cp312-cp312 33 cp312-abi3 33 cp312-none 33 cp311-abi3 33 cp310-abi3 33 cp39-abi3 33 cp38-abi3 33 cp37-abi3 33 cp36-abi3 33 cp35-abi3 33 cp34-abi3 33 cp33-abi3 33 cp32-abi3 33 py312-none 33 py3-none 33 py311-none 33 py310-none 33 py39-none 33 py38-none 33 py37-none 33 py36-none 33 py35-none 33 py34-none 33 py33-none 33 py32-none 33 py31-none 33 py30-none 33 cp312-none-any 1 py312-none-any 1 py3-none-any 1 py311-none-any 1 py310-none-any 1 py39-none-any 1 py38-none-any 1 py37-none-any 1 py36-none-any 1 py35-none-any 1 py34-none-any 1 py33-none-any 1 py32-none-any 1 py31-none-any 1 py30-none-any 1");
        insta::assert_snapshot!(lambda.platforms().join(" "), @"manylinux_2_34_x86_64 manylinux_2_33_x86_64 manylinux_2_32_x86_64 manylinux_2_31_x86_64 manylinux_2_30_x86_64 manylinux_2_29_x86_64 manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_26_x86_64 manylinux_2_25_x86_64 manylinux_2_24_x86_64 manylinux_2_23_x86_64 manylinux_2_22_x86_64 manylinux_2_21_x86_64 manylinux_2_20_x86_64 manylinux_2_19_x86_64 manylinux_2_18_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux_2_16_x86_64 manylinux_2_15_x86_64 manylinux_2_14_x86_64 manylinux_2_13_x86_64 manylinux_2_12_x86_64 manylinux2010_x86_64 manylinux_2_11_x86_64 manylinux_2_10_x86_64 manylinux_2_9_x86_64 manylinux_2_8_x86_64 manylinux_2_7_x86_64 manylinux_2_6_x86_64 manylinux_2_5_x86_64 manylinux1_x86_64");

        let arm = target("3.9", Machine::Aarch64, "2.26");
        assert_eq!(arm.tags().len(), 243);
        insta::assert_snapshot!(arm.platforms().join(" "), @"manylinux_2_26_aarch64 manylinux_2_25_aarch64 manylinux_2_24_aarch64 manylinux_2_23_aarch64 manylinux_2_22_aarch64 manylinux_2_21_aarch64 manylinux_2_20_aarch64 manylinux_2_19_aarch64 manylinux_2_18_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64");
        assert_eq!(
            arm.tags()[0].to_string(),
            "cp39-cp39-manylinux_2_26_aarch64"
        );
    }

    #[test]
    fn ranks_follow_the_list_of_tags() {
        let target = target("3.12", Machine::X86_64, "2.34");
        for (place, tag) in target.tags().iter().enumerate() {
            assert_eq!(
                target.fit(&wheel(&format!("a-1-{tag}.whl"))),
                Ok(Rank(place)),
                "{tag}"
            );
        }
        let rank = |tags: &str| target.fit(&wheel(&format!("a-1-{tags}.whl"))).unwrap();
        assert!(rank("cp312-cp312-manylinux1_x86_64") < rank("cp38-abi3-manylinux_2_34_x86_64"));
        assert!(rank("py3-none-manylinux1_x86_64") < rank("py2.py3-none-any"));
        let newest = rank("cp312-cp312-manylinux_2_17_x86_64");
        assert_eq!(
            newest,
            rank("cp311.cp312-abi3.cp312-manylinux1_x86_64.manylinux_2_17_x86_64")
        );
    }

    #[test]
    fn misfits_say_why() {
        let target = target("3.12", Machine::X86_64, "2.34");
        let told: Vec<String> = [
            "cp312-cp312-manylinux_2_39_x86_64.manylinux_2_41_x86_64",
            "cp312-cp312-manylinux_2_17_aarch64.manylinux2014_aarch64",
            "cp312-cp312-musllinux_1_2_x86_64",
            "cp312-cp312-musllinux_1_2_aarch64",
            "cp312-cp312-win_amd64",
            "cp313-cp313-macosx_11_0_arm64",
            "cp312-cp312-linux_x86_64",
            "cp313-cp313-manylinux_2_17_x86_64",
            "cp313-abi3-manylinux_2_39_x86_64",
            "cp312-cp312t-manylinux_2_17_x86_64",
            "cp313-cp313t-manylinux_2_17_x86_64",
            "cp312-cp312d-manylinux_2_17_x86_64",
            "pp311-pypy311_pp73-manylinux_2_17_x86_64",
            "py2-none-any",
            "py313-none-any",
            "cp38.cp39-none-any",
            "cp312-cp312-any",
        ]
        .map(|tags| {
            let misfit = target.fit(&wheel(&format!("a-1-{tags}.whl"))).unwrap_err();
            format!("{tags} {misfit}")
        })
        .into();
        insta::assert_snapshot!(told.join("\n"), @"
        cp312-cp312-manylinux_2_39_x86_64.manylinux_2_41_x86_64 needs glibc 2.39
        cp312-cp312-manylinux_2_17_aarch64.manylinux2014_aarch64 is for aarch64
        cp312-cp312-musllinux_1_2_x86_64 is for musl, not glibc
        cp312-cp312-musllinux_1_2_aarch64 is for aarch64
        cp312-cp312-win_amd64 is for `win_amd64`
        cp313-cp313-macosx_11_0_arm64 is for `macosx_11_0_arm64`
        cp312-cp312-linux_x86_64 does not say which glibc it needs: its platform is `linux_x86_64`
        cp313-cp313-manylinux_2_17_x86_64 is for Python 3.13
        cp313-abi3-manylinux_2_39_x86_64 needs Python 3.13 or later
        cp312-cp312t-manylinux_2_17_x86_64 is for free-threaded Python
        cp313-cp313t-manylinux_2_17_x86_64 is for Python 3.13
        cp312-cp312d-manylinux_2_17_x86_64 is for the ABI `cp312d`
        pp311-pypy311_pp73-manylinux_2_17_x86_64 is for `pp311`, not CPython
        py2-none-any is for Python 2
        py313-none-any needs Python 3.13 or later
        cp38.cp39-none-any is for Python 3.8, 3.9
        cp312-cp312-any has tags that no interpreter accepts: `cp312-cp312-any`
        ");
    }

    proptest! {
        #[test]
        fn any_name_is_read_or_refused(text in "[-a-z0-9._+!é]{0,24}(-[a-z0-9._]{0,12}){0,6}(.whl)?") {
            if let Ok(wheel) = WheelFilename::parse(&text) {
                prop_assert_eq!(wheel.as_str(), &text);
                let _ = target("3.12", Machine::X86_64, "2.34").fit(&wheel).map_err(|e| e.to_string());
            }
        }

        #[test]
        fn any_tags_fit_or_tell(tags in "(cp|py|pp)[0-9]{0,4}-(none|abi3|cp[0-9]{0,4}t?)-(any|(many|musl)?linux[0-9_]{0,8}_(x86_64|aarch64))") {
            if let Ok(wheel) = WheelFilename::parse(&format!("a-1-{tags}.whl")) {
                let _ = target("3.9", Machine::Aarch64, "2.26").fit(&wheel).map_err(|e| e.to_string());
            }
        }
    }
}
