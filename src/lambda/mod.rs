//! What Lambda is to an image: its runtimes, its paths, its architectures, its handler strings, its rules; and how it
//! runs a function, done on this machine.
//!
//! The runtimes are data, one file each in `base-images/`, embedded. Nothing here calls AWS or knows an
//! account; dates are compared as the texts they are, with a today that the caller gives.

pub mod check;
pub mod environment;
pub mod event;
pub mod fleet;
pub mod function;
pub mod invoke_api;
pub mod sandbox;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::python::{Glibc, Machine, PythonVersion};

/// Where the function and its dependencies go, below the root.
pub const TASK_ROOT: &str = "var/task";
/// Where the runtime client goes.
pub const RUNTIME_DIR: &str = "var/runtime";
/// What the platform runs.
pub const ENTRY_POINT: &str = "lambda-entrypoint.sh";
/// The variable that tells a Lambda base from any other.
pub const RUNTIME_DIR_VARIABLE: &str = "LAMBDA_RUNTIME_DIR";

/// A runtime of Lambda and the base image that carries it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Runtime {
    /// Lambda's name of it, as `python3.12`.
    pub identifier: String,
    /// The Python version.
    #[serde(deserialize_with = "from_text")]
    pub python: PythonVersion,
    /// The operating system of the base.
    pub os: String,
    /// The base's C library.
    #[serde(deserialize_with = "from_text")]
    pub glibc: Glibc,
    /// The public base image.
    pub image: String,
    /// The interpreter's path in the base.
    pub interpreter: String,
    /// The entry point of the base.
    pub entrypoint: Vec<String>,
    /// The working directory of the base.
    pub working_dir: String,
    /// Requirements for a runtime client where the base has none.
    pub runtime_client: Vec<String>,
    /// The variables of the base's config.
    pub variables: BTreeMap<String, String>,
    /// When it comes and goes.
    pub lifecycle: Lifecycle,
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// Dates of a runtime's life, as `YYYY-MM-DD`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lifecycle {
    /// When these dates were read.
    pub as_of: String,
    /// Not for production yet.
    pub preview: bool,
    /// Since when it can be tried.
    pub preview_since: Option<String>,
    /// From when on it gets no more updates.
    pub deprecation: Option<String>,
    /// From when on its operating system is maintained no more.
    pub os_end: Option<String>,
}

impl Lifecycle {
    /// `supported`, `preview` or `deprecated`, on the day `today`.
    pub fn state(&self, today: &str) -> &'static str {
        match &self.deprecation {
            _ if self.preview => "preview",
            Some(date) if date.as_str() <= today => "deprecated",
            _ => "supported",
        }
    }
}

impl Runtime {
    /// What someone who builds with this on the day `today` should know.
    pub fn warning(&self, today: &str) -> Option<String> {
        let (name, life) = (&self.identifier, &self.lifecycle);
        match (life.state(today), &life.deprecation, &life.preview_since) {
            ("deprecated", Some(date), _) => Some(format!(
                "{name} is deprecated since {date}: its base image gets no more security updates \
                 (dates as of {})",
                life.as_of
            )),
            ("preview", _, since) => Some(format!(
                "{name} is a preview{}: it may change and is not for production (as of {})",
                since
                    .as_ref()
                    .map_or(String::new(), |date| format!(" since {date}")),
                life.as_of
            )),
            _ => None,
        }
    }
}

/// All runtimes, oldest first.
pub fn runtimes() -> &'static [Runtime] {
    static RUNTIMES: LazyLock<Vec<Runtime>> = LazyLock::new(|| {
        let files = include!(concat!(env!("OUT_DIR"), "/runtimes.rs"));
        let parsed = files.map(toml::from_str::<Runtime>);
        let mut runtimes: Vec<_> = parsed.into_iter().filter_map(Result::ok).collect();
        debug_assert_eq!(
            runtimes.len(),
            files.len(),
            "a runtime's file cannot be read"
        );
        runtimes.sort_by_key(|runtime| runtime.python);
        runtimes
    });
    &RUNTIMES
}

/// The newest runtime that is no preview: by its data alone, for no clock may choose what is built.
pub fn newest() -> &'static Runtime {
    let all = runtimes();
    let released = all.iter().rfind(|runtime| !runtime.lifecycle.preview);
    released.unwrap_or(&all[all.len() - 1])
}

/// The runtime of a Python version.
pub fn runtime(python: PythonVersion) -> Option<&'static Runtime> {
    runtimes().iter().find(|runtime| runtime.python == python)
}

/// What a function runs on, in Lambda's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `x86_64`.
    X86_64,
    /// `arm64`.
    Arm64,
}

impl Architecture {
    /// The word of image documents.
    pub fn oci(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The machine that wheels are chosen for.
    pub fn machine(self) -> Machine {
        match self {
            Self::X86_64 => Machine::X86_64,
            Self::Arm64 => Machine::Aarch64,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        })
    }
}

impl FromStr for Architecture {
    type Err = ();

    /// Takes Lambda's words, and those of image documents and kernels for the same.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "arm64" | "aarch64" => Ok(Self::Arm64),
            _ => Err(()),
        }
    }
}

/// A function's handler: a module and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    text: String,
    module: String,
    function: String,
}

/// A text that is no handler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{handler}` is no handler: {reason}")]
pub struct HandlerError {
    /// The text.
    pub handler: String,
    /// Why not.
    pub reason: &'static str,
}

impl FromStr for Handler {
    type Err = HandlerError;

    /// Splits at the last dot, as the runtime client does; `/` in the module counts as a dot.
    fn from_str(text: &str) -> Result<Self, HandlerError> {
        let error = |reason| HandlerError {
            handler: text.to_owned(),
            reason,
        };
        let (module, function) = text
            .rsplit_once('.')
            .ok_or_else(|| error("it has no dot between the module and the function in it"))?;
        let module = module.replace('/', ".");
        if function.is_empty() || module.split('.').any(str::is_empty) {
            return Err(error("the module or the function has no name"));
        }
        if text.contains(char::is_whitespace) {
            return Err(error("it has white space in it"));
        }
        Ok(Self {
            text: text.to_owned(),
            module,
            function: function.to_owned(),
        })
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Handler {
    /// The module, with dots.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The name in it.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The module's path below a directory of `sys.path`, without an ending.
    pub fn stem(&self) -> String {
        self.module.replace('.', "/")
    }

    /// Whether a file at `path` (below a directory of `sys.path`) is this module.
    pub fn is_module(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&self.stem()) else {
            return false;
        };
        let compiled = |rest: &str| rest.starts_with('.') && rest.rsplit('.').next() == Some("so");
        matches!(rest, ".py" | ".pyc" | "/__init__.py" | "/__init__.pyc") || compiled(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_runtime_is_whole() {
        let identifiers: Vec<_> = runtimes().iter().map(|r| r.identifier.as_str()).collect();
        let expected: Vec<_> = (9..=15).map(|minor| format!("python3.{minor}")).collect();
        assert_eq!(identifiers, expected);
        for runtime in runtimes() {
            let version = runtime.python.to_string();
            assert_eq!(runtime.identifier, format!("python{version}"));
            assert!(runtime.image.ends_with(&format!(":{version}")));
            assert!(runtime.interpreter.ends_with(&format!("python{version}")));
            let modern = runtime.os == "Amazon Linux 2023";
            let glibc = if modern { "2.34" } else { "2.26" };
            assert_eq!(runtime.glibc.to_string(), glibc, "{version}");
        }
    }

    #[test]
    fn warnings_give_the_date() {
        let warning = |python: &str, today: &str| {
            runtime(python.parse().unwrap())
                .unwrap()
                .warning(today)
                .unwrap_or_default()
        };
        insta::assert_snapshot!(warning("3.9", "2026-11-22"), @"python3.9 is deprecated since 2025-12-15: its base image gets no more security updates (dates as of 2026-11-22)");
        insta::assert_snapshot!(warning("3.15", "2026-11-22"), @"python3.15 is a preview since 2026-08-25: it may change and is not for production (as of 2026-11-22)");
        assert_eq!(warning("3.12", "2026-11-22"), "");
        assert!(warning("3.12", "2028-10-31").contains("deprecated since 2028-10-31"));
    }

    #[test]
    fn handlers_are_split_as_the_runtime_does() {
        let handler: Handler = "pkg/sub.app.main".parse().unwrap();
        assert_eq!(
            (handler.module(), handler.function()),
            ("pkg.sub.app", "main")
        );
        for path in [
            "pkg/sub/app.py",
            "pkg/sub/app/__init__.py",
            "pkg/sub/app.cpython-312-x86_64-linux-gnu.so",
        ] {
            assert!(handler.is_module(path), "{path}");
        }
        for path in ["pkg/sub/app.txt", "pkg/sub/apple.py", "app.py"] {
            assert!(!handler.is_module(path), "{path}");
        }
        let error = |text: &str| text.parse::<Handler>().unwrap_err().to_string();
        insta::assert_snapshot!(error("handler"), @"`handler` is no handler: it has no dot between the module and the function in it");
        insta::assert_snapshot!(error(".handler"), @"`.handler` is no handler: the module or the function has no name");
        insta::assert_snapshot!(error("app.my handler"), @"`app.my handler` is no handler: it has white space in it");
    }
}
