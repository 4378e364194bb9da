//! `lambimg.lock` as a document: what beside the packages decides an image, and for whom.
//!
//! Read strictly, for what is not understood may decide bytes; written the same way whatever order things were
//! found in. It has a list for each kind of part, keyed by what the part is for, so that another architecture,
//! Python or base adds an entry and takes none away. It reads no files, and what a pin is good for is not known.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::http::Url;
use crate::lambda::Architecture;
use crate::python::lock::{Location, Locked, LockedFile, LockedSource, LockedWheel, Origin};
use crate::python::{PythonVersion, WheelFilename};

/// The name of the document, beside the project's own files.
pub const FILE: &str = "lambimg.lock";

const HEADER: &str = "# Made by lambimg; commit it. `lambimg lock` makes it anew.\n";
const VERSION: u32 = 1;
/// An interpreter's implementation where there is none.
pub(super) const NONE: &str = "none";

/// Why a text is no `lambimg.lock`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two changes of it were not merged.
    #[error("it has the marks of a merge conflict, at line {line}")]
    Conflict {
        /// The first line with such a mark, from 1.
        line: usize,
    },
    /// It is no TOML, or its keys are others.
    #[error("it is not of its form")]
    Form(#[source] Box<toml::de::Error>),
    /// It is of a later form.
    #[error("it is of version {0}, and only version {VERSION} is understood")]
    Version(u32),
    /// A value is none of its kind.
    #[error("its {part} says `{value}`, which is {wanted}")]
    Value {
        /// The part.
        part: String,
        /// As written.
        value: String,
        /// What it is not, as `no wheel's file name`.
        wanted: &'static str,
    },
    /// Two entries are for the same.
    #[error("it has two entries for {0}")]
    Twice(String),
}

/// The whole document; each list is sorted by what its entries are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// Names of what decides bytes beside all inputs.
    pub formats: String,
    /// The bases, and behind them the other images that something is taken from.
    pub bases: Vec<Base>,
    /// The layers of Lambda's, by their ARNs.
    pub layers: Vec<LayerPin>,
    /// The interpreters that compile.
    pub bytecode: Vec<(PythonVersion, Bytecode)>,
    /// The runtime clients.
    pub runtime_clients: Vec<RuntimeClient>,
    /// The wheels that were built.
    pub built: Vec<Built>,
}

/// What an image is taken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// All else stands on it.
    #[default]
    Base,
    /// Something of it goes in.
    Extension,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Extension => "extension",
        })
    }
}

/// What a base is known by, or another image that something is taken from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseKey {
    /// Which of the two.
    pub role: Role,
    /// The reference, `host`, or a place relative to the project.
    pub reference: String,
    /// The Python, where the reference has one of several.
    pub python: Option<String>,
}

impl fmt::Display for BaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} `{}`", self.role, self.reference)?;
        match &self.python {
            Some(python) => write!(f, " with Python {python}"),
            None => Ok(()),
        }
    }
}

/// What a base was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What it is known by.
    pub key: BaseKey,
    /// What there was at that reference.
    pub found: Found,
    /// Of what it was made from.
    pub checksum: Digest,
}

/// What there is at a reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The image's own date, as it says it.
    pub created: Option<String>,
    /// The index, where it is one.
    pub index: Option<Digest>,
    /// The manifest of each architecture; of `host` the digest of its files, which has no date in it.
    pub digests: Digests,
}

/// A digest for each architecture that there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    x86_64: Option<Digest>,
    arm64: Option<Digest>,
}

impl Digests {
    /// That of one architecture.
    pub fn get(&self, architecture: Architecture) -> Option<Digest> {
        match architecture {
            Architecture::X86_64 => self.x86_64,
            Architecture::Arm64 => self.arm64,
        }
    }

    /// With that of one architecture.
    #[must_use]
    pub fn with(mut self, architecture: Architecture, digest: Digest) -> Self {
        match architecture {
            Architecture::X86_64 => self.x86_64 = Some(digest),
            Architecture::Arm64 => self.arm64 = Some(digest),
        }
        self
    }

    /// These, and those of `others` for architectures that these lack.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            x86_64: self.x86_64.or(others.x86_64),
            arm64: self.arm64.or(others.arm64),
        }
    }
}

/// A version of a layer of Lambda's, as AWS says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerPin {
    /// Its ARN.
    pub arn: String,
    /// Of its archive.
    pub digest: Digest,
    /// The archive's length in bytes.
    pub size: u64,
    /// Architectures that it is for; none where it does not say.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Runtimes that it is for; none where it does not say.
    #[serde(default)]
    pub runtimes: Vec<String>,
}

/// What compiles for a Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytecode {
    /// There was nothing that could.
    None,
    /// An interpreter.
    Interpreter {
        /// As `cpython`.
        implementation: String,
        /// The exact version, as `3.12.7`.
        version: String,
    },
}

impl fmt::Display for Bytecode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str(NONE),
            Self::Interpreter {
                implementation,
                version,
            } => write!(f, "{implementation} {version}"),
        }
    }
}

/// The runtime client for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeClient {
    /// The target, in its own words.
    pub target: String,
    /// Of the requirements.
    pub checksum: Digest,
    /// What was chosen: wheels, or archives to build them from.
    pub files: Vec<Locked>,
}

/// A wheel that was built from what a lock has as sources.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Built {
    /// The package's normal name.
    pub name: String,
    /// The target, in its own words.
    pub target: String,
    /// The archive's digest or the commit, and where in it the project is.
    pub source: String,
    /// Of what is in the wheel, without dates.
    pub contents: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    version: u32,
    formats: String,
    #[serde(default)]
    base: Vec<BaseEntry>,
    #[serde(default)]
    extension: Vec<BaseEntry>,
    #[serde(default)]
    layer: Vec<LayerPin>,
    #[serde(default)]
    bytecode: Vec<BytecodeEntry>,
    #[serde(default)]
    runtime_client: Vec<RuntimeClientEntry>,
    #[serde(default)]
    built: Vec<Built>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BaseEntry {
    reference: String,
    python: Option<String>,
    created: Option<String>,
    index: Option<Digest>,
    digests: Digests,
    checksum: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BytecodeEntry {
    python: String,
    implementation: String,
    version: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuntimeClientEntry {
    target: String,
    checksum: Digest,
    wheels: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    name: String,
    version: String,
    url: Option<String>,
    path: Option<String>,
    sha256: String,
    size: Option<u64>,
}

impl FromStr for Pins {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // What TOML makes of a merge's marks would not say what they are.
        let is_mark = |line: &str| {
            ["<<<<<<< ", "||||||| ", ">>>>>>> "].map(|mark| line.starts_with(mark)) != [false; 3]
        };
        let document = read(text).map_err(|error| {
            let at = text.lines().position(is_mark);
            at.map_or(error, |at| Error::Conflict { line: at + 1 })
        })?;
        let bases = document.base.into_iter();
        let bases = bases.map(|entry| entry.read(Role::Base));
        let others = document.extension.into_iter();
        let others = others.map(|entry| entry.read(Role::Extension));
        let bytecode = document.bytecode.into_iter().map(BytecodeEntry::read);
        let clients = document.runtime_client.into_iter();
        let clients = clients.map(RuntimeClientEntry::read);
        let mut pins = Self {
            formats: document.formats,
            bases: bases.chain(others).collect(),
            layers: document.layer,
            bytecode: bytecode.collect::<Result<_, _>>()?,
            runtime_clients: clients.collect::<Result<_, _>>()?,
            built: document.built,
        };
        pins.sort();
        pins.check_once()?;
        Ok(pins)
    }
}

fn read(text: &str) -> Result<Document, Error> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    match toml::from_str::<Document>(text) {
        Ok(document) if document.version == VERSION => Ok(document),
        Ok(document) => Err(Error::Version(document.version)),
        // A later version may have other keys.
        Err(error) => match toml::from_str(text) {
            Ok(Versioned { version }) if version != VERSION => Err(Error::Version(version)),
            _ => Err(Error::Form(Box::new(error))),
        },
    }
}

impl BaseEntry {
    fn read(self, role: Role) -> Base {
        Base {
            key: BaseKey {
                role,
                reference: self.reference,
                python: self.python,
            },
            found: Found {
                created: self.created,
                index: self.index,
                digests: self.digests,
            },
            checksum: self.checksum,
        }
    }
}

impl BytecodeEntry {
    fn read(self) -> Result<(PythonVersion, Bytecode), Error> {
        let wrong = |value: &str, wanted| Error::Value {
            part: "bytecode".to_owned(),
            value: value.to_owned(),
            wanted,
        };
        let python = self.python.parse();
        let python = python.map_err(|_| wrong(&self.python, "no version such as 3.12"))?;
        let bytecode = match self.version {
            None if self.implementation == NONE => Bytecode::None,
            Some(version) if self.implementation != NONE => Bytecode::Interpreter {
                implementation: self.implementation,
                version,
            },
            Some(version) => return Err(wrong(&version, "a version of no interpreter")),
            None => return Err(wrong(&self.implementation, "an interpreter of no version")),
        };
        Ok((python, bytecode))
    }
}

impl RuntimeClientEntry {
    fn read(self) -> Result<RuntimeClient, Error> {
        let files = self.wheels.into_iter().map(FileEntry::read);
        Ok(RuntimeClient {
            files: files.collect::<Result<_, _>>()?,
            target: self.target,
            checksum: self.checksum,
        })
    }
}

impl FileEntry {
    fn read(self) -> Result<Locked, Error> {
        let Self {
            name,
            version,
            size,
            ..
        } = self;
        let wrong = |value: &str, wanted| Error::Value {
            part: format!("runtime client's {name}"),
            value: value.to_owned(),
            wanted,
        };
        let location = match (self.url, self.path) {
            (Some(url), None) => match Url::parse(&url) {
                Ok(read) => Location::Url(read),
                Err(_) => return Err(wrong(&url, "no URL")),
            },
            (None, Some(path)) => Location::Path(PathBuf::from(path)),
            _ => return Err(wrong("", "neither one `url` nor one `path`")),
        };
        let digest = Digest::from_hex(&self.sha256);
        let digest = digest.map_err(|_| wrong(&self.sha256, "no sha256"))?;
        let filename = location.filename().unwrap_or_default();
        if let Ok(filename) = WheelFilename::parse(&filename) {
            return Ok(Locked::Wheel(LockedWheel {
                name,
                version,
                filename,
                location,
                digest,
                size,
                first_party: false,
                built: None,
            }));
        }
        if !crate::python::lock::is_archive(&filename) {
            return Err(wrong(&filename, "no file name of a package"));
        }
        let file = LockedFile {
            package: format!("{name} {version}"),
            filename,
            location,
            digest,
            size,
        };
        let subdirectory = None;
        Ok(Locked::Source(LockedSource {
            name,
            version: Some(version),
            origin: Origin::Archive { file, subdirectory },
        }))
    }
}

impl Pins {
    fn sort(&mut self) {
        self.bases.sort_by(|a, b| a.key.cmp(&b.key));
        self.layers.sort_by(|a, b| a.arn.cmp(&b.arn));
        self.bytecode.sort_by_key(|(python, _)| *python);
        self.runtime_clients.sort_by(|a, b| a.target.cmp(&b.target));
        let key = |built: &Built| (built.name.clone(), built.target.clone());
        self.built.sort_by_key(key);
    }

    fn check_once(&self) -> Result<(), Error> {
        let bases = self.bases.iter().map(|base| base.key.to_string());
        let layers = self.layers.iter().map(ToString::to_string);
        let pythons = self.bytecode.iter().map(|(python, _)| python);
        let targets = self.runtime_clients.iter().map(|client| &client.target);
        let built = self.built.iter();
        let all = bases
            .chain(layers)
            .chain(pythons.map(|python| format!("the bytecode of Python {python}")))
            .chain(targets.map(|target| format!("the runtime client of {target}")))
            .chain(built.map(|built| format!("{} built for {}", built.name, built.target)));
        let mut seen = BTreeSet::new();
        for key in all {
            if !seen.insert(key.clone()) {
                return Err(Error::Twice(key));
            }
        }
        Ok(())
    }

    /// What is `there` now, with what `self` has otherwise than `before`: what others settled meanwhile stays.
    #[must_use]
    pub fn settled_over(&self, before: &Self, mut there: Self) -> Self {
        if there.formats != self.formats {
            there.formats.clone_from(&self.formats);
            there.built.clear();
        }
        for base in self.bases.iter().filter(|it| !before.bases.contains(it)) {
            let mut base = base.clone();
            let mut others = there.bases.iter();
            if let Some(other) = others.find(|other| other.key == base.key)
                && other.checksum == base.checksum
            {
                base.found.digests = base.found.digests.or(other.found.digests);
            }
            there.set_base(base);
        }
        let layers = self.layers.iter();
        for layer in layers.filter(|it| !before.layers.contains(it)) {
            there.set_layer(layer.clone());
        }
        // What was dropped here is not to come back.
        let has = |pins: &Self, key: &BaseKey| pins.bases.iter().any(|base| base.key == *key);
        there
            .bases
            .retain(|base| has(self, &base.key) || !has(before, &base.key));
        let has = |pins: &Self, arn: &str| pins.layers.iter().any(|layer| layer.arn == arn);
        there
            .layers
            .retain(|layer| has(self, &layer.arn) || !has(before, &layer.arn));
        let bytecode = self.bytecode.iter();
        for (python, bytecode) in bytecode.filter(|it| !before.bytecode.contains(it)) {
            there.set_bytecode(*python, bytecode.clone());
        }
        let clients = self.runtime_clients.iter();
        for client in clients.filter(|it| !before.runtime_clients.contains(it)) {
            there.set_runtime_client(client.clone());
        }
        for built in self.built.iter().filter(|it| !before.built.contains(it)) {
            there.set_built(built.clone());
        }
        there
    }

    /// Puts in the pin of a base, in place of the one that there was.
    pub fn set_base(&mut self, base: Base) {
        self.bases.retain(|other| other.key != base.key);
        self.bases.push(base);
        self.sort();
    }

    /// Puts in a layer, in place of the one that there was.
    pub fn set_layer(&mut self, layer: LayerPin) {
        self.layers.retain(|other| other.arn != layer.arn);
        self.layers.push(layer);
        self.sort();
    }

    /// Drops the images of extensions that are not among `images`, and the layers that are not among `arns`; gives what
    /// was dropped, as a message names it.
    pub fn retain_extensions(&mut self, images: &[BaseKey], arns: &[String]) -> Vec<String> {
        let is_image = |base: &Base| base.key.role != Role::Extension || images.contains(&base.key);
        let is_layer = |layer: &LayerPin| arns.contains(&layer.arn);
        let dropped = self.bases.iter().filter(|base| !is_image(base));
        let mut dropped: Vec<_> = dropped.map(|base| base.key.to_string()).collect();
        let layers = self.layers.iter().filter(|layer| !is_layer(layer));
        dropped.extend(layers.map(ToString::to_string));
        self.bases.retain(is_image);
        self.layers.retain(is_layer);
        dropped
    }

    /// Puts in the interpreter of a Python, in place of the one that there was.
    pub fn set_bytecode(&mut self, python: PythonVersion, bytecode: Bytecode) {
        self.bytecode.retain(|(other, _)| *other != python);
        self.bytecode.push((python, bytecode));
        self.sort();
    }

    /// Puts in the runtime client of a target, in place of the one that there was.
    pub fn set_runtime_client(&mut self, client: RuntimeClient) {
        let others = &mut self.runtime_clients;
        others.retain(|other| other.target != client.target);
        others.push(client);
        self.sort();
    }

    /// Puts in a wheel that was built, in place of the one that there was.
    pub fn set_built(&mut self, built: Built) {
        let same = |other: &Built| (&other.name, &other.target) == (&built.name, &built.target);
        self.built.retain(|other| !same(other));
        self.built.push(built);
        self.sort();
    }

    /// The text: a function of what is in it alone.
    pub fn write(&self) -> String {
        let mut text = format!(
            "{HEADER}version = {VERSION}\nformats = {}\n",
            quoted(&self.formats)
        );
        for base in &self.bases {
            base.write(&mut text);
        }
        for layer in &self.layers {
            layer.write(&mut text);
        }
        for (python, bytecode) in &self.bytecode {
            let _ = write!(text, "\n[[bytecode]]\npython = \"{python}\"\n");
            let _ = match bytecode {
                Bytecode::None => writeln!(text, "implementation = \"{NONE}\""),
                Bytecode::Interpreter {
                    implementation,
                    version,
                } => writeln!(
                    text,
                    "implementation = {}\nversion = {}",
                    quoted(implementation),
                    quoted(version)
                ),
            };
        }
        for client in &self.runtime_clients {
            let _ = write!(
                text,
                "\n[[runtime-client]]\ntarget = {}\nchecksum = \"{}\"\nwheels = [\n",
                quoted(&client.target),
                client.checksum
            );
            for file in &client.files {
                let _ = writeln!(text, "  {},", file_table(file));
            }
            text.push_str("]\n");
        }
        for built in &self.built {
            let _ = write!(
                text,
                "\n[[built]]\nname = {}\ntarget = {}\nsource = {}\ncontents = \"{}\"\n",
                quoted(&built.name),
                quoted(&built.target),
                quoted(&built.source),
                built.contents
            );
        }
        text
    }
}

impl Base {
    fn write(&self, text: &mut String) {
        let Found {
            created,
            index,
            digests,
        } = &self.found;
        let _ = write!(
            text,
            "\n[[{}]]\nreference = {}\n",
            self.key.role,
            quoted(&self.key.reference)
        );
        if let Some(python) = &self.key.python {
            let _ = writeln!(text, "python = {}", quoted(python));
        }
        if let Some(created) = created {
            let _ = writeln!(text, "created = {}", quoted(created));
        }
        if let Some(index) = index {
            let _ = writeln!(text, "index = \"{index}\"");
        }
        let of_each = [("x86_64", digests.x86_64), ("arm64", digests.arm64)];
        let of_each = of_each.into_iter().filter_map(|(name, digest)| {
            let digest = digest?;
            Some(format!("{name} = \"{digest}\""))
        });
        let of_each = of_each.collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            text,
            "digests = {{ {of_each} }}\nchecksum = \"{}\"",
            self.checksum
        );
    }
}

impl fmt::Display for LayerPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the layer `{}`", self.arn)
    }
}

impl LayerPin {
    fn write(&self, text: &mut String) {
        let Self {
            arn,
            digest,
            size,
            architectures,
            runtimes,
        } = self;
        let _ = write!(
            text,
            "\n[[layer]]\narn = {}\ndigest = \"{digest}\"\nsize = {size}\n",
            quoted(arn)
        );
        for (key, list) in [("architectures", architectures), ("runtimes", runtimes)] {
            if !list.is_empty() {
                let _ = writeln!(text, "{key} = {}", toml::Value::from(list.clone()));
            }
        }
    }
}

/// A file with all that it needs to be had again. A file that is known by nothing of this has no place here.
fn file_table(locked: &Locked) -> String {
    let version = match locked {
        Locked::Wheel(wheel) => Some(wheel.version.as_str()),
        Locked::Source(source) => source.version.as_deref(),
    };
    let Some((name, file)) = locked.file() else {
        return String::new();
    };
    let location = match &file.location {
        Location::Url(url) => format!("url = {}", quoted(url.as_str())),
        Location::Path(path) => format!("path = {}", quoted(&path.to_string_lossy())),
    };
    let size = file.size.map(|size| format!(", size = {size}"));
    format!(
        "{{ name = {}, version = {}, {location}, sha256 = \"{}\"{} }}",
        quoted(name),
        quoted(version.unwrap_or_default()),
        file.digest.hex(),
        size.unwrap_or_default()
    )
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn base(reference: &str) -> Base {
        Base {
            key: BaseKey {
                role: Role::Base,
                reference: reference.to_owned(),
                python: None,
            },
            found: Found {
                created: Some("2026-11-01T00:00:00Z".to_owned()),
                index: Some(Digest::of("index")),
                digests: Digests::default()
                    .with(Architecture::Arm64, Digest::of("arm"))
                    .with(Architecture::X86_64, Digest::of("x86")),
            },
            checksum: Digest::of(reference),
        }
    }

    fn layer(name: &str, digest: Digest) -> LayerPin {
        LayerPin {
            arn: format!("arn:aws:lambda:eu-west-1:123456789012:layer:{name}:1"),
            digest,
            size: 7,
            architectures: Vec::new(),
            runtimes: Vec::new(),
        }
    }

    #[test]
    fn what_others_settled_meanwhile_stays() {
        let cpython = |version: &str| Bytecode::Interpreter {
            implementation: "cpython".to_owned(),
            version: version.to_owned(),
        };
        let of = |architecture, text: &str| Base {
            found: Found {
                digests: Digests::default().with(architecture, Digest::of(text)),
                ..Found::default()
            },
            ..base("host")
        };
        let mut before = Pins::default();
        before.set_bytecode("3.12".parse().unwrap(), cpython("3.12.7"));
        let (mut ours, mut there) = (before.clone(), before.clone());
        ours.set_base(of(Architecture::Arm64, "arm"));
        there.set_base(of(Architecture::X86_64, "x86"));
        there.set_bytecode("3.12".parse().unwrap(), cpython("3.12.8"));
        ours.set_layer(layer("ours", Digest::of("ours")));
        there.set_layer(layer("theirs", Digest::of("theirs")));
        let merged = ours.settled_over(&before, there.clone());
        assert_eq!(merged.layers.len(), 2);
        assert_eq!(merged.bytecode, there.bytecode);
        let digests = merged.bases[0].found.digests;
        assert_eq!(digests.get(Architecture::Arm64), Some(Digest::of("arm")));
        assert_eq!(digests.get(Architecture::X86_64), Some(Digest::of("x86")));
    }

    fn file(url: &str) -> Locked {
        let entry = FileEntry {
            name: "awslambdaric".to_owned(),
            version: "3.0.2".to_owned(),
            url: Some(url.to_owned()),
            path: None,
            sha256: Digest::of(url).hex(),
            size: Some(7),
        };
        entry.read().unwrap()
    }

    fn whole() -> Pins {
        let mut pins = Pins {
            formats: "layer 2; wheels 3".to_owned(),
            ..Pins::default()
        };
        pins.set_base(base("r.test/b:3.12"));
        pins.set_base(Base {
            key: BaseKey {
                role: Role::Base,
                reference: "host".to_owned(),
                python: Some("3.12".to_owned()),
            },
            found: Found {
                digests: Digests::default().with(Architecture::X86_64, Digest::of("files")),
                ..Found::default()
            },
            checksum: Digest::of("host"),
        });
        pins.set_layer(layer("b", Digest::of("b")));
        pins.set_layer(LayerPin {
            architectures: vec!["x86_64".to_owned(), "arm64".to_owned()],
            runtimes: vec!["python3.12".to_owned()],
            ..layer("a", Digest::of("a"))
        });
        pins.set_bytecode("3.13".parse().unwrap(), Bytecode::None);
        let interpreter = Bytecode::Interpreter {
            implementation: "cpython".to_owned(),
            version: "3.12.7".to_owned(),
        };
        pins.set_bytecode("3.12".parse().unwrap(), interpreter);
        pins.set_runtime_client(RuntimeClient {
            target: "python 3.12, x86_64, glibc 2.34".to_owned(),
            checksum: Digest::of("lines"),
            files: vec![
                file("https://x.test/awslambdaric-3.0.2-py3-none-any.whl"),
                file("https://x.test/awslambdaric-3.0.2.tar.gz"),
            ],
        });
        pins.set_built(Built {
            name: "docopt".to_owned(),
            target: "python 3.12, x86_64, glibc 2.34".to_owned(),
            source: Digest::of("archive").to_string(),
            contents: Digest::of("contents"),
        });
        pins
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = whole().write();
        let read: Pins = text.parse().unwrap();
        assert_eq!(read, whole());
        assert_eq!(read.write(), text);
        insta::with_settings!({filters => vec![(r"[0-9a-f]{64}", "[sha256]")]}, {
            insta::assert_snapshot!(text, @r#"
            # Made by lambimg; commit it. `lambimg lock` makes it anew.
            version = 1
            formats = "layer 2; wheels 3"

            [[base]]
            reference = "host"
            python = "3.12"
            digests = { x86_64 = "sha256:[sha256]" }
            checksum = "sha256:[sha256]"

            [[base]]
            reference = "r.test/b:3.12"
            created = "2026-11-01T00:00:00Z"
            index = "sha256:[sha256]"
            digests = { x86_64 = "sha256:[sha256]", arm64 = "sha256:[sha256]" }
            checksum = "sha256:[sha256]"

            [[layer]]
            arn = "arn:aws:lambda:eu-west-1:123456789012:layer:a:1"
            digest = "sha256:[sha256]"
            size = 7
            architectures = ["x86_64", "arm64"]
            runtimes = ["python3.12"]

            [[layer]]
            arn = "arn:aws:lambda:eu-west-1:123456789012:layer:b:1"
            digest = "sha256:[sha256]"
            size = 7

            [[bytecode]]
            python = "3.12"
            implementation = "cpython"
            version = "3.12.7"

            [[bytecode]]
            python = "3.13"
            implementation = "none"

            [[runtime-client]]
            target = "python 3.12, x86_64, glibc 2.34"
            checksum = "sha256:[sha256]"
            wheels = [
              { name = "awslambdaric", version = "3.0.2", url = "https://x.test/awslambdaric-3.0.2-py3-none-any.whl", sha256 = "[sha256]", size = 7 },
              { name = "awslambdaric", version = "3.0.2", url = "https://x.test/awslambdaric-3.0.2.tar.gz", sha256 = "[sha256]", size = 7 },
            ]

            [[built]]
            name = "docopt"
            target = "python 3.12, x86_64, glibc 2.34"
            source = "sha256:[sha256]"
            contents = "sha256:[sha256]"
            "#);
        });
    }

    #[test]
    fn an_entry_takes_the_place_of_its_like_alone() {
        let (mut pins, before) = (whole(), whole());
        pins.set_base(base("r.test/b:3.12"));
        pins.set_built(before.built[0].clone());
        pins.set_runtime_client(before.runtime_clients[0].clone());
        assert_eq!(pins, before);
        pins.set_base(base("r.test/b:3.13"));
        assert_eq!(pins.bases.len(), 3);
        pins.set_bytecode("3.13".parse().unwrap(), Bytecode::None);
        assert_eq!(pins.bytecode, before.bytecode);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let error = |change: &dyn Fn(String) -> String| {
            let error = change(whole().write()).parse::<Pins>().unwrap_err();
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            let lines = cause.lines().filter(|line| !line.contains("sha256:"));
            format!("{error}\n{}", lines.collect::<Vec<_>>().join("\n"))
        };
        let replaced = |from: &str, to: &str| {
            let (from, to) = (from.to_owned(), to.to_owned());
            error(&move |text: String| {
                assert!(text.contains(&from), "{from} is in {text}");
                text.replacen(&from, &to, 1)
            })
        };
        let twice = error(&|text| {
            let entry = text.split("\n[[").nth(3).unwrap();
            format!("{text}\n[[{entry}")
        });
        insta::assert_snapshot!([
            replaced("version = 1", "version = 2"),
            replaced("version = 1\n", ""),
            replaced("[[base]]", "<<<<<<< HEAD\n[[base]]"),
            replaced("formats", "format"),
            replaced("\"3.12.7\"", "3.12"),
            replaced("x86_64 = ", "s390x = "),
            replaced("version = \"3.12.7\"", ""),
            replaced("implementation = \"none\"", "implementation = \"none\"\nversion = \"1\""),
            replaced("url = ", "path = \"/a.whl\", url = "),
            replaced("py3-none-any.whl", "any"),
            replaced("url = \"https:", "url = \""),
            twice,
        ].join("\n---\n"), @r#"
        it is of version 2, and only version 1 is understood

        ---
        it is not of its form
        TOML parse error at line 1, column 1
          |
        1 | # Made by lambimg; commit it. `lambimg lock` makes it anew.
          | ^
        missing field `version`
        ---
        it has the marks of a merge conflict, at line 5

        ---
        it is not of its form
        TOML parse error at line 3, column 1
          |
        3 | format = "layer 2; wheels 3"
          | ^^^^^^
        unknown field `format`, expected one of `version`, `formats`, `base`, `extension`, `layer`, `bytecode`, `runtime-client`, `built`
        ---
        it is not of its form
        TOML parse error at line 33, column 11
           |
        33 | version = 3.12
           |           ^^^^
        invalid type: floating point `3.12`, expected a string
        ---
        it is not of its form
        TOML parse error at line 8, column 13
          |
          |             ^^^^^
        unknown field `s390x`, expected `x86_64` or `arm64`
        ---
        its bytecode says `cpython`, which is an interpreter of no version

        ---
        its bytecode says `1`, which is a version of no interpreter

        ---
        its runtime client's awslambdaric says ``, which is neither one `url` nor one `path`

        ---
        its runtime client's awslambdaric says `awslambdaric-3.0.2-any`, which is no file name of a package

        ---
        its runtime client's awslambdaric says `//x.test/awslambdaric-3.0.2-py3-none-any.whl`, which is no URL

        ---
        it has two entries for the layer `arn:aws:lambda:eu-west-1:123456789012:layer:a:1`
        "#);
    }
}
