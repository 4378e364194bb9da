//! What the user wrote, where they wrote it: flags, variables, the project's file, in this order.
//!
//! Strict and without defaults. Every value keeps the place it came from, so that whoever cannot use
//! it can say where it stands; what a value means is `plan`'s to know.

mod functions;
mod rows;

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::zip;

pub use functions::{Chosen, Function, Functions};
pub use rows::{Named, Row};

/// The file of its own that a project may have.
pub const OWN_FILE: &str = "lambimg.toml";
const PYPROJECT: &str = "pyproject.toml";
const VARIABLE_PREFIX: &str = "LAMBIMG_";
/// The variables that are no settings of a project.
const OTHER_VARIABLES: [&str; 5] = [
    "CACHE_DIR",
    "CACHE_SIZE",
    "REGISTRY",
    "REGISTRY_PASSWORD",
    "REGISTRY_USER",
];

/// What cannot be taken as written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no project there.
    #[error("there is no project at `{}`", .0.display())]
    NoProject(PathBuf),
    /// The directory that lambimg was started in is there no more.
    #[error("the current directory has been removed")]
    NoCurrentDirectory,
    /// A file or directory cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("`{file}` line {line} is not valid TOML: {detail}")]
    Syntax {
        /// The file's name.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        detail: String,
    },
    /// Nobody knows this key.
    #[error("unknown key `{key}` in {place}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        place: Place,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// Nobody knows this variable.
    #[error("unknown variable `{name}`")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The known one that looks most like it.
        nearest: Option<String>,
    },
    /// A value is of the wrong kind.
    #[error("`{key}` in {place} must be {wanted}")]
    Kind {
        /// The key.
        key: String,
        /// Where it stands.
        place: Place,
        /// What it should be.
        wanted: &'static str,
    },
    /// A function cannot be called so.
    #[error("`{name}` ({place}) cannot be a function's name")]
    FunctionName {
        /// As written.
        name: String,
        /// Where it stands.
        place: Place,
    },
    /// Two functions would be one image.
    #[error("the functions `{}` and `{}` ({place}) differ in nothing but the case of letters", names[0], names[1])]
    SameFunction {
        /// The two.
        names: [String; 2],
        /// Where the second stands.
        place: Place,
    },
    /// A function says what only its project can.
    #[error("`{key}` ({place}) is the project's alone")]
    ProjectAlone {
        /// The key.
        key: String,
        /// Where it stands.
        place: Place,
    },
    /// The function's files are to be where no directory of the project is.
    #[error("`{value}` ({place}) is no directory of the project")]
    Source {
        /// As written.
        value: String,
        /// Where it stands.
        place: Place,
    },
    /// Two files say what one should.
    #[error("both `{OWN_FILE}` and `[tool.lambimg]` in `{PYPROJECT}` configure this project")]
    TwoFiles,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A flag, as `--python`.
    Flag(&'static str),
    /// An environment variable.
    Variable(String),
    /// A line of a file of the project.
    File(String, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "`{flag}`"),
            Self::Variable(name) => write!(f, "the variable `{name}`"),
            Self::File(file, line) => write!(f, "`{file}` line {line}"),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T = String> {
    /// As written.
    pub value: T,
    /// Where.
    pub place: Place,
}

impl<T> Setting<T> {
    /// A value that a flag gave.
    pub fn flag(value: T, flag: &'static str) -> Self {
        Self {
            value,
            place: Place::Flag(flag),
        }
    }
}

/// All that can be configured; what nobody wrote is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The Python version.
    pub python: Option<Setting>,
    /// The architecture.
    pub arch: Option<Setting>,
    /// The handler.
    pub handler: Option<Setting>,
    /// `true` where the base brings the handler's module.
    pub handler_in_base: Option<Setting>,
    /// The directory of the project whose files are the function.
    pub source: Option<Setting>,
    /// The requirements or lock file.
    pub requirements: Option<Setting>,
    /// The base image.
    pub base: Option<Setting>,
    /// The C library of a base that does not say it.
    pub glibc: Option<Setting>,
    /// The interpreter for `base = "host"`, and for bytecode.
    pub interpreter: Option<Setting>,
    /// `true` or `false`: whether bytecode goes into the image.
    pub bytecode: Option<Setting>,
    /// `auto`, `uv` or `pip`.
    pub resolver: Option<Setting>,
    /// `true` or `false`: whether the project goes in as its wheel.
    pub package: Option<Setting>,
    /// The date that no package may be newer than.
    pub exclude_newer: Option<Setting>,
    /// Extras of the project that are wanted.
    pub extras: Option<Setting<Vec<String>>>,
    /// Dependency groups of the project that are wanted.
    pub groups: Option<Setting<Vec<String>>>,
    /// Packages that may be built from source.
    pub build: Option<Setting<Vec<String>>>,
    /// Packages that the base brings, to leave out.
    pub exclude_packages: Option<Setting<Vec<String>>>,
    /// Patterns of files to leave out of packages.
    pub exclude_in_packages: Option<Setting<Vec<String>>>,
    /// As many layers as dependencies may take.
    pub layers: Option<Setting>,
    /// Images that layers are taken over from.
    pub cache_from: Option<Setting<Vec<String>>>,
    /// Names for the image.
    pub tags: Option<Setting<Vec<String>>>,
    /// Patterns of files to leave out.
    pub exclude: Option<Setting<Vec<String>>>,
    /// Variables of the image.
    pub env: Named,
    /// Labels of the image.
    pub labels: Named,
    /// What the image's entry point is given, in place of a handler.
    pub cmd: Option<Setting<Vec<String>>>,
    /// Another entry point.
    pub entrypoint: Option<Setting<Vec<String>>>,
    /// Another working directory.
    pub workdir: Option<Setting>,
    /// A user, whom Lambda does not ask for.
    pub user: Option<Setting>,
    /// Further files, each `from` and `to` and perhaps a `mode`.
    pub files: Vec<Row>,
    /// What `/opt` is given, in order: each a `zip`, an `image` or a `path`, and perhaps where it goes.
    pub extensions: Vec<Row>,
    /// Registries without TLS.
    pub plain_http: Option<Setting<Vec<String>>>,
    /// Registries that are read elsewhere first, as `HOST=HOST/PREFIX`.
    pub mirrors: Option<Setting<Vec<String>>>,
    /// A file of authorities to trust.
    pub ca_file: Option<Setting>,
    /// `true` where tags of other images stay.
    pub immutable_tags: Option<Setting>,
    /// `true` where a missing repository is made.
    pub create_repository: Option<Setting>,
    /// What a repository that is made is like.
    pub repository: Repository,
    /// How images are checked.
    pub check: Check,
    /// The functions of a project that has several, of which each one's configuration has them all.
    pub functions: Arc<Functions>,
}

/// How images are checked: the table `check`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Identifiers of rules that are not applied, each with its own place.
    pub ignore: Vec<Setting>,
    /// `true` where warnings count as errors.
    pub strict: Option<Setting>,
}

/// What a repository that is made is like: the table `repository`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repository {
    /// `mutable` or `immutable`.
    pub tag_mutability: Option<Setting>,
    /// Patterns of tags, with `*`, for which the opposite holds.
    pub except_tags: Option<Setting<Vec<String>>>,
    /// `true` or `false`.
    pub scan_on_push: Option<Setting>,
    /// AWS tags, as `KEY=VALUE`.
    pub tags: Option<Setting<Vec<String>>>,
    /// `AES256`, `KMS` or `KMS_DSSE`.
    pub encryption: Option<Setting>,
    /// The key for `KMS`.
    pub kms_key: Option<Setting>,
}

enum Slot<'a> {
    Text(&'a mut Option<Setting>),
    Number(&'a mut Option<Setting>),
    List(&'a mut Option<Setting<Vec<String>>>),
    /// A list of texts whose places are told one by one.
    Each(&'a mut Vec<Setting>),
    /// A table of texts, kept as `KEY=VALUE`.
    Pairs(&'a mut Option<Setting<Vec<String>>>),
    /// A table of texts, in a file alone.
    Named(&'a mut Named),
    /// A list of tables with these parts, in a file alone.
    Rows(&'a mut Vec<Row>, &'static [&'static str]),
}

/// The keys that only a file of the project can say.
pub const FILE_ALONE: [&str; 5] = ["source", "env", "labels", "files", "extensions"];

/// The parts of one of `files`.
const FILE_PARTS: &[&str] = &["from", "to", "mode"];
/// The parts of one of `extensions`.
const EXTENSION_PARTS: &[&str] = &["layer", "zip", "image", "path", "to"];

/// The keys of tables whose keys stand behind them and a dot.
const TABLES: [&str; 2] = ["repository", "check"];

const KEYS: [&str; 43] = [
    "python",
    "arch",
    "handler",
    "handler-in-base",
    "source",
    "requirements",
    "base",
    "glibc",
    "interpreter",
    "bytecode",
    "resolver",
    "package",
    "exclude-newer",
    "extras",
    "groups",
    "build",
    "exclude-packages",
    "exclude-in-packages",
    "layers",
    "cache-from",
    "tags",
    "exclude",
    "env",
    "labels",
    "cmd",
    "entrypoint",
    "workdir",
    "user",
    "files",
    "extensions",
    "plain-http",
    "mirrors",
    "ca-file",
    "immutable-tags",
    "create-repository",
    "repository.tag-mutability",
    "repository.except-tags",
    "repository.scan-on-push",
    "repository.tags",
    "repository.encryption",
    "repository.kms-key",
    "check.ignore",
    "check.strict",
];

impl Config {
    /// What flags gave, as they are written: flag and value, one for each value of a list.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let mut config = self.clone();
        let mut flags = Vec::new();
        for key in KEYS {
            let given = match config.slot(key) {
                Some(Slot::Text(Some(setting)) | Slot::Number(Some(setting))) => {
                    (setting.place.clone(), vec![setting.value.clone()])
                }
                Some(Slot::List(Some(setting)) | Slot::Pairs(Some(setting))) => {
                    (setting.place.clone(), setting.value.clone())
                }
                _ => continue,
            };
            if let (Place::Flag(flag), values) = given {
                flags.extend(values.into_iter().map(|value| (flag, value)));
            }
        }
        flags
    }

    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        Some(match key {
            "python" => Slot::Text(&mut self.python),
            "arch" => Slot::Text(&mut self.arch),
            "handler" => Slot::Text(&mut self.handler),
            "handler-in-base" => Slot::Text(&mut self.handler_in_base),
            "source" => Slot::Text(&mut self.source),
            "requirements" => Slot::Text(&mut self.requirements),
            "base" => Slot::Text(&mut self.base),
            "glibc" => Slot::Text(&mut self.glibc),
            "interpreter" => Slot::Text(&mut self.interpreter),
            "bytecode" => Slot::Text(&mut self.bytecode),
            "resolver" => Slot::Text(&mut self.resolver),
            "package" => Slot::Text(&mut self.package),
            "exclude-newer" => Slot::Text(&mut self.exclude_newer),
            "extras" => Slot::List(&mut self.extras),
            "groups" => Slot::List(&mut self.groups),
            "build" => Slot::List(&mut self.build),
            "exclude-packages" => Slot::List(&mut self.exclude_packages),
            "exclude-in-packages" => Slot::List(&mut self.exclude_in_packages),
            "layers" => Slot::Number(&mut self.layers),
            "cache-from" => Slot::List(&mut self.cache_from),
            "tags" => Slot::List(&mut self.tags),
            "exclude" => Slot::List(&mut self.exclude),
            "env" => Slot::Named(&mut self.env),
            "labels" => Slot::Named(&mut self.labels),
            "cmd" => Slot::List(&mut self.cmd),
            "entrypoint" => Slot::List(&mut self.entrypoint),
            "workdir" => Slot::Text(&mut self.workdir),
            "user" => Slot::Text(&mut self.user),
            "files" => Slot::Rows(&mut self.files, FILE_PARTS),
            "extensions" => Slot::Rows(&mut self.extensions, EXTENSION_PARTS),
            "plain-http" => Slot::List(&mut self.plain_http),
            "mirrors" => Slot::Pairs(&mut self.mirrors),
            "ca-file" => Slot::Text(&mut self.ca_file),
            "immutable-tags" => Slot::Text(&mut self.immutable_tags),
            "create-repository" => Slot::Text(&mut self.create_repository),
            "repository.tag-mutability" => Slot::Text(&mut self.repository.tag_mutability),
            "repository.except-tags" => Slot::List(&mut self.repository.except_tags),
            "repository.scan-on-push" => Slot::Text(&mut self.repository.scan_on_push),
            "repository.tags" => Slot::Pairs(&mut self.repository.tags),
            "repository.encryption" => Slot::Text(&mut self.repository.encryption),
            "repository.kms-key" => Slot::Text(&mut self.repository.kms_key),
            "check.ignore" => Slot::Each(&mut self.check.ignore),
            "check.strict" => Slot::Text(&mut self.check.strict),
            _ => return None,
        })
    }

    /// This where it says something, else `other`. Patterns and hosts add up: a flag that leaves more out must
    /// let nothing else in.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            python: self.python.or(other.python),
            arch: self.arch.or(other.arch),
            handler: self.handler.or(other.handler),
            handler_in_base: self.handler_in_base.or(other.handler_in_base),
            source: self.source.or(other.source),
            requirements: self.requirements.or(other.requirements),
            base: self.base.or(other.base),
            glibc: self.glibc.or(other.glibc),
            interpreter: self.interpreter.or(other.interpreter),
            bytecode: self.bytecode.or(other.bytecode),
            resolver: self.resolver.or(other.resolver),
            package: self.package.or(other.package),
            exclude_newer: self.exclude_newer.or(other.exclude_newer),
            extras: self.extras.or(other.extras),
            groups: self.groups.or(other.groups),
            build: both(self.build, other.build),
            exclude_packages: both(self.exclude_packages, other.exclude_packages),
            exclude_in_packages: both(self.exclude_in_packages, other.exclude_in_packages),
            layers: self.layers.or(other.layers),
            cache_from: self.cache_from.or(other.cache_from),
            tags: self.tags.or(other.tags),
            exclude: both(self.exclude, other.exclude),
            env: named_or(self.env, other.env),
            labels: named_or(self.labels, other.labels),
            cmd: self.cmd.or(other.cmd),
            entrypoint: self.entrypoint.or(other.entrypoint),
            workdir: self.workdir.or(other.workdir),
            user: self.user.or(other.user),
            files: [other.files, self.files].concat(),
            extensions: [other.extensions, self.extensions].concat(),
            plain_http: both(self.plain_http, other.plain_http),
            mirrors: both(self.mirrors, other.mirrors),
            ca_file: self.ca_file.or(other.ca_file),
            immutable_tags: self.immutable_tags.or(other.immutable_tags),
            create_repository: self.create_repository.or(other.create_repository),
            repository: Repository {
                tag_mutability: self
                    .repository
                    .tag_mutability
                    .or(other.repository.tag_mutability),
                except_tags: both(self.repository.except_tags, other.repository.except_tags),
                scan_on_push: self
                    .repository
                    .scan_on_push
                    .or(other.repository.scan_on_push),
                tags: both(self.repository.tags, other.repository.tags),
                encryption: self.repository.encryption.or(other.repository.encryption),
                kms_key: self.repository.kms_key.or(other.repository.kms_key),
            },
            check: Check {
                ignore: [other.check.ignore, self.check.ignore].concat(),
                strict: self.check.strict.or(other.check.strict),
            },
            functions: if self.functions.is_empty() {
                other.functions
            } else {
                self.functions
            },
        }
    }

    /// What the variables `LAMBIMG_PYTHON` and so on say, of those that begin with `LAMBIMG_`; lists are
    /// separated by commas, and an empty variable says nothing.
    ///
    /// # Errors
    /// When one has no meaning.
    pub fn from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let mut config = Self::default();
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else {
                continue;
            };
            if text.is_empty() || OTHER_VARIABLES.contains(&rest) {
                continue;
            }
            let key = rest.to_lowercase().replace('_', "-");
            let below = TABLES.iter().find_map(|table| {
                let rest = key.strip_prefix(table)?.strip_prefix('-')?;
                Some(format!("{table}.{rest}"))
            });
            let key = below.unwrap_or(key);
            let place = Place::Variable(name.clone());
            let kind = || Error::Kind {
                key: key.clone(),
                place: place.clone(),
                wanted: "in a file of the project",
            };
            match config.slot(&key) {
                _ if FILE_ALONE.contains(&&*key) => return Err(kind()),
                Some(Slot::Text(slot) | Slot::Number(slot)) => {
                    *slot = Some(Setting { value: text, place });
                }
                Some(Slot::List(slot) | Slot::Pairs(slot)) => {
                    let value = text.split(',').map(|item| item.trim().to_owned()).collect();
                    *slot = Some(Setting { value, place });
                }
                Some(Slot::Each(slot)) => {
                    let items = text.split(',').map(|item| Setting {
                        value: item.trim().to_owned(),
                        place: place.clone(),
                    });
                    slot.extend(items);
                }
                // A comma may be in any of them.
                Some(Slot::Named(_) | Slot::Rows(..)) => return Err(kind()),
                None => {
                    let nearest = nearest(&key).map(|key| {
                        format!(
                            "{VARIABLE_PREFIX}{}",
                            key.to_uppercase().replace(['-', '.'], "_")
                        )
                    });
                    return Err(Error::UnknownVariable { name, nearest });
                }
            }
        }
        Ok(config)
    }

    /// What a file says: its top level, or its `[tool.lambimg]` if it is a `pyproject.toml`.
    ///
    /// # Errors
    /// When it is not TOML, or has a key or value that has no meaning.
    pub fn from_toml(text: &str, file: &str) -> Result<Option<Self>, Error> {
        let line = |span: Range<usize>| 1 + text[..span.start].matches('\n').count();
        let document = DeTable::parse(text).map_err(|e| Error::Syntax {
            file: file.to_owned(),
            line: line(e.span().unwrap_or_default()),
            detail: e.message().to_owned(),
        })?;
        let table = if file == PYPROJECT {
            let tool = document.get_ref().get("tool");
            match tool.and_then(|tool| tool.get_ref().get("lambimg")) {
                Some(section) => section.get_ref().as_table().ok_or_else(|| Error::Kind {
                    key: "tool.lambimg".to_owned(),
                    place: Place::File(file.to_owned(), line(section.span())),
                    wanted: "a table",
                })?,
                None => return Ok(None),
            }
        } else {
            document.get_ref()
        };
        let place = |span: Range<usize>| Place::File(file.to_owned(), line(span));
        let mut config = Self::default();
        for (key, value) in table {
            if key.get_ref() == functions::TABLE {
                config.functions = Arc::new(functions::read(value, &place)?);
            } else {
                config.read(key, value, &place)?;
            }
        }
        Ok(Some(config))
    }

    /// Reads one key of a file, with all that is below it.
    fn read(
        &mut self,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        place_of: &impl Fn(Range<usize>) -> Place,
    ) -> Result<(), Error> {
        let name = key.get_ref().as_ref();
        let table = value.get_ref().as_table();
        let Some(below) = table.filter(|_| TABLES.contains(&name)) else {
            return self.set(name, value, place_of, key.span());
        };
        for (key, value) in below {
            let name = format!("{name}.{}", key.get_ref());
            self.set(&name, value, place_of, key.span())?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        place_of: &impl Fn(Range<usize>) -> Place,
        key: Range<usize>,
    ) -> Result<(), Error> {
        let place = place_of(key);
        let kind = |wanted| Error::Kind {
            key: name.to_owned(),
            place: place.clone(),
            wanted,
        };
        match self.slot(name) {
            Some(Slot::Text(slot)) => {
                let value = value.get_ref();
                let text = value.as_str().map(str::to_owned);
                // `true` and `false` need no quotes; whether they mean anything is seen later.
                let text = text.or_else(|| Some(value.as_bool()?.to_string()));
                let value = text.ok_or_else(|| kind("text in quotes"))?;
                *slot = Some(Setting { value, place });
            }
            Some(Slot::Number(slot)) => {
                let value = value.get_ref().as_integer();
                let value = value.ok_or_else(|| kind("a whole number"))?.to_string();
                *slot = Some(Setting { value, place });
            }
            Some(Slot::List(slot)) => {
                let value = texts(value).ok_or_else(|| kind("a list of texts"))?;
                *slot = Some(Setting { value, place });
            }
            Some(Slot::Each(slot)) => {
                let items = value.get_ref().as_array();
                for item in items.ok_or_else(|| kind("a list of texts"))? {
                    let text = item.get_ref().as_str();
                    slot.push(Setting {
                        value: text.ok_or_else(|| kind("a list of texts"))?.to_owned(),
                        place: place_of(item.span()),
                    });
                }
            }
            Some(Slot::Pairs(slot)) => {
                let value = pairs(value).ok_or_else(|| kind("a table of texts"))?;
                *slot = Some(Setting { value, place });
            }
            Some(Slot::Named(slot)) => *slot = rows::named(name, value, place_of)?,
            Some(Slot::Rows(slot, known)) => *slot = rows::rows(name, value, known, place_of)?,
            None if TABLES.contains(&name) => return Err(kind("a table")),
            None => {
                return Err(Error::UnknownKey {
                    key: name.to_owned(),
                    place,
                    nearest: nearest(name),
                });
            }
        }
        Ok(())
    }
}

/// The weaker list first: of patterns the last that matches counts.
fn both(
    stronger: Option<Setting<Vec<String>>>,
    weaker: Option<Setting<Vec<String>>>,
) -> Option<Setting<Vec<String>>> {
    match (stronger, weaker) {
        (Some(stronger), Some(weaker)) => Some(Setting {
            value: weaker.value.into_iter().chain(stronger.value).collect(),
            place: stronger.place,
        }),
        (stronger, weaker) => stronger.or(weaker),
    }
}

fn named_or(mut stronger: Named, weaker: Named) -> Named {
    for (name, setting) in weaker {
        stronger.entry(name).or_insert(setting);
    }
    stronger
}

fn texts(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    let items = value.get_ref().as_array()?.iter();
    items
        .map(|item| item.get_ref().as_str().map(str::to_owned))
        .collect()
}

fn pairs(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    let pairs = value.get_ref().as_table()?.iter();
    pairs
        .map(|(key, value)| Some(format!("{}={}", key.get_ref(), value.get_ref().as_str()?)))
        .collect()
}

fn nearest(key: &str) -> Option<&'static str> {
    nearest_of(key, KEYS.into_iter().chain([functions::TABLE]))
}

/// The known word that looks most like this one, if any does.
pub(crate) fn nearest_of<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(key, known);
    let best = known.min_by_key(distance)?;
    (distance(&best) <= 1 + key.len() / 3).then_some(best)
}

/// A project's directory and what of interest lies in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Project {
    /// The directory, absolute.
    pub root: PathBuf,
    /// What its file says.
    pub config: Config,
    /// Files at its top by which Python people say what a project needs, in the order of [`NEEDS`].
    pub needs: Vec<&'static str>,
    /// Whether its `pylock.toml` is of lambimg's making, and so to be made again from something else.
    pub own_lock: bool,
    /// Its `pylock.NAME.toml` of another's making, sorted.
    pub named_locks: Vec<String>,
    /// The directory above with the `uv.lock` of the workspace that it is in.
    pub workspace: Option<PathBuf>,
    /// Where its `pyproject.toml` lists dependencies, if it does.
    pub listed: Option<Listed>,
    /// The function that it is taken for, of several.
    pub function: Option<Chosen>,
    /// Whether it is no directory but a deployment package, a zip file, which configures nothing.
    pub is_archive: bool,
}

/// Which tables of a `pyproject.toml` list dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// The standard's.
    Standard,
    /// Poetry's own alone.
    Poetry,
}

/// The files by which a project can say what it depends on, pylocks aside: locks first, and of locks and
/// requirements those that are read.
pub const NEEDS: [&str; 8] = [
    "pylock.toml",
    "uv.lock",
    "poetry.lock",
    "Pipfile.lock",
    "requirements.txt",
    "pdm.lock",
    "Pipfile",
    "requirements.in",
];

/// Those of [`NEEDS`] that are not read.
pub const UNREAD: [&str; 3] = ["pdm.lock", "Pipfile", "requirements.in"];

impl Project {
    /// Reads the project at `path`, or takes the deployment package that is there, whatever its name.
    ///
    /// # Errors
    /// As [`Project::read`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !zip::is_archive(path) {
            return Self::read(path);
        }
        let root = fs::canonicalize(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            root,
            is_archive: true,
            ..Self::default()
        })
    }

    /// Reads the project at `root`.
    ///
    /// # Errors
    /// When there is none, or its file is not as it should be.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let absolute = match fs::canonicalize(root) {
            Ok(absolute) if absolute.is_dir() => absolute,
            Ok(_) => return Err(Error::NoProject(root.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let is_nowhere = root.is_relative() && fs::canonicalize(".").is_err();
                return Err(if is_nowhere {
                    Error::NoCurrentDirectory
                } else {
                    Error::NoProject(root.to_owned())
                });
            }
            Err(source) => {
                return Err(Error::Read {
                    path: root.to_owned(),
                    source,
                });
            }
        };
        let pyproject = read_optional(&absolute.join(PYPROJECT))?;
        let own = read_optional(&absolute.join(OWN_FILE))?;
        let listed = pyproject.as_deref().and_then(listed);
        let has_pyproject = pyproject.is_some();
        let section = pyproject
            .map(|text| Config::from_toml(&text, PYPROJECT))
            .transpose()?;
        let file = own
            .map(|text| Config::from_toml(&text, OWN_FILE))
            .transpose()?;
        let mut config = match (section.flatten(), file.flatten()) {
            (Some(_), Some(_)) => return Err(Error::TwoFiles),
            (section, file) => section.or(file).unwrap_or_default(),
        };
        let functions = Arc::make_mut(&mut config.functions).values_mut();
        let sources = functions.map(|function| &mut function.config.source);
        for source in sources.chain([&mut config.source]).flatten() {
            settle_source(source, &absolute)?;
        }
        let needs = NEEDS
            .into_iter()
            .filter(|name| absolute.join(name).is_file());
        let needs: Vec<_> = needs.collect();
        let in_workspace = has_pyproject && !needs.contains(&"uv.lock");
        Ok(Self {
            own_lock: is_own_lock(&absolute.join("pylock.toml"))?,
            named_locks: named_locks(&absolute)?,
            workspace: in_workspace.then(|| workspace(&absolute)).flatten(),
            needs,
            root: absolute,
            config,
            listed,
            function: None,
            is_archive: false,
        })
    }

    /// The directory's name, or the archive's without its ending, for an image that got none.
    pub fn directory_name(&self) -> String {
        let name = if self.is_archive {
            self.root.file_stem()
        } else {
            self.root.file_name()
        };
        let name = name.unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// Has the directory of a function's files be named as it lies in the project, without links.
fn settle_source(source: &mut Setting, root: &Path) -> Result<(), Error> {
    let real = fs::canonicalize(root.join(&source.value)).ok();
    let real = real.filter(|real| real.is_dir());
    let below = real.as_ref().and_then(|real| real.strip_prefix(root).ok());
    let Some(below) = below.and_then(Path::to_str) else {
        return Err(Error::Source {
            value: source.value.clone(),
            place: source.place.clone(),
        });
    };
    below.clone_into(&mut source.value);
    Ok(())
}

/// Which tables of a `pyproject.toml` say that the project depends on something.
fn listed(pyproject: &str) -> Option<Listed> {
    let table: toml::Table = pyproject.parse().ok()?;
    let find = |path: &[&str]| {
        let (first, rest) = path.split_first()?;
        let mut value = table.get(*first)?;
        for key in rest {
            value = value.get(key)?;
        }
        Some(value)
    };
    let has_items = |value: &toml::Value| value.as_array().is_some_and(|list| !list.is_empty());
    let is_dynamic = |value: &toml::Value| {
        let mut names = value.as_array().into_iter().flatten();
        names.any(|name| name.as_str() == Some("dependencies"))
    };
    let beside_python = |value: &toml::Value| {
        let mut names = value.as_table().into_iter().flatten();
        names.any(|(name, _)| name != "python")
    };
    if find(&["tool", "poetry", "dependencies"]).is_some_and(beside_python) {
        return Some(Listed::Poetry);
    }
    let standard = find(&["project", "dependencies"]).is_some_and(has_items)
        || find(&["project", "dynamic"]).is_some_and(is_dynamic)
        || find(&["project", "optional-dependencies"]).is_some()
        || find(&["dependency-groups"]).is_some();
    standard.then_some(Listed::Standard)
}

fn is_own_lock(path: &Path) -> Result<bool, Error> {
    let text = read_optional(path)?;
    let table: Option<toml::Table> = text.and_then(|text| text.parse().ok());
    let tool = table.as_ref().and_then(|table| table.get("tool"));
    Ok(tool.and_then(|tool| tool.get("lambimg")).is_some())
}

fn named_locks(root: &Path) -> Result<Vec<String>, Error> {
    let error = |source| Error::Read {
        path: root.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(root).map_err(error)? {
        let entry = entry.map_err(error)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let middle = name.strip_prefix("pylock.");
        let middle = middle.and_then(|rest| rest.strip_suffix(".toml"));
        if middle.is_some_and(|middle| !middle.contains('.')) && !is_own_lock(&entry.path())? {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The nearest directory above whose `uv.lock` has the project among its members.
fn workspace(root: &Path) -> Option<PathBuf> {
    let has_member = |directory: &&Path| {
        let lock = fs::read_to_string(directory.join("uv.lock")).ok();
        let lock: Option<toml::Table> = lock.and_then(|text| text.parse().ok());
        let below = root.strip_prefix(directory).ok().and_then(Path::to_str);
        let packages = lock
            .as_ref()
            .and_then(|lock| lock.get("package")?.as_array());
        let mut packages = packages.into_iter().flatten();
        packages.any(|package| {
            let source = package.get("source");
            let places = ["editable", "virtual"].map(|kind| source?.get(kind)?.as_str());
            places
                .into_iter()
                .flatten()
                .any(|place| Some(place) == below)
        })
    };
    root.ancestors()
        .skip(1)
        .find(has_member)
        .map(Path::to_owned)
}

fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Config {
        Config::from_toml(text, PYPROJECT).unwrap().unwrap()
    }

    fn error(text: &str) -> Error {
        Config::from_toml(text, PYPROJECT).unwrap_err()
    }

    #[test]
    fn values_keep_their_place() {
        let config =
            read("[project]\nname = 'x'\n\n[tool.lambimg]\npython = '3.12'\ntags = ['a']\n");
        let python = config.python.clone().unwrap();
        assert_eq!(
            (&*python.value, python.place.to_string()),
            ("3.12", "`pyproject.toml` line 5".into())
        );
        let flags = Config {
            python: Some(Setting::flag("3.13".to_owned(), "--python")),
            ..Config::default()
        };
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Config::from_variables(pairs.collect::<Vec<_>>())
        };
        let variables = pairs(&[
            ("PATH", "/bin"),
            ("LAMBIMG_PYTHON", "3.11"),
            ("LAMBIMG_TAGS", "b, c"),
            ("LAMBIMG_CACHE_DIR", "/c"),
            ("LAMBIMG_CACHE_SIZE", "1GB"),
            ("LAMBIMG_HANDLER", ""),
        ])
        .unwrap();
        let error = pairs(&[("LAMBIMG_TAG", "x")]).unwrap_err();
        assert!(
            matches!(error, Error::UnknownVariable { nearest: Some(name), .. } if name == "LAMBIMG_TAGS")
        );
        let merged = flags.or(variables).or(config);
        assert_eq!(merged.python.unwrap().value, "3.13");
        assert_eq!(merged.tags.unwrap().value, ["b", "c"]);
    }

    #[test]
    fn every_key_has_a_slot() {
        for key in KEYS {
            assert!(Config::default().slot(key).is_some(), "{key}");
        }
    }

    #[test]
    fn tables_are_read() {
        let text = "[tool.lambimg]\nmirrors = { 'a.test' = 'm.test/a' }\n\
                    [tool.lambimg.repository]\nscan-on-push = true\ntags = { team = 'x=y' }";
        let config = read(text);
        assert_eq!(config.mirrors.unwrap().value, ["a.test=m.test/a"]);
        assert_eq!(config.repository.tags.unwrap().value, ["team=x=y"]);
        let scan = config.repository.scan_on_push.unwrap();
        assert_eq!(
            (&*scan.value, scan.place.to_string()),
            ("true", "`pyproject.toml` line 4".into())
        );
        let variable = ("LAMBIMG_REPOSITORY_KMS_KEY".to_owned(), "k".to_owned());
        let config = Config::from_variables([variable]).unwrap();
        assert_eq!(config.repository.kms_key.unwrap().value, "k");
        insta::assert_snapshot!(error("[tool.lambimg.repository]\nscan = true"), @"unknown key `repository.scan` in `pyproject.toml` line 2");
        insta::assert_snapshot!(error("[tool.lambimg]\nrepository = 1"), @"`repository` in `pyproject.toml` line 2 must be a table");
        let config =
            read("[tool.lambimg.check]\nstrict = true\nignore = [\n 'LMB001',\n 'LMB002'\n]");
        let ignored = config.check.ignore.iter();
        let ignored: Vec<_> = ignored
            .map(|setting| format!("{} {}", setting.value, setting.place))
            .collect();
        assert_eq!(
            ignored,
            [
                "LMB001 `pyproject.toml` line 4",
                "LMB002 `pyproject.toml` line 5"
            ]
        );
        let variable = (
            "LAMBIMG_CHECK_IGNORE".to_owned(),
            "LMB003, LMB004".to_owned(),
        );
        let merged = Config::from_variables([variable]).unwrap().or(config);
        let ids: Vec<_> = merged.check.ignore.iter().map(|id| &*id.value).collect();
        assert_eq!(ids, ["LMB001", "LMB002", "LMB003", "LMB004"]);
        assert_eq!(merged.check.strict.unwrap().value, "true");
        insta::assert_snapshot!(error("[tool.lambimg.check]\nignore = 'LMB001'"), @"`check.ignore` in `pyproject.toml` line 2 must be a list of texts");
        insta::assert_snapshot!(error("[tool.lambimg]\nmirrors = ['a']"), @"`mirrors` in `pyproject.toml` line 2 must be a table of texts");
    }

    #[test]
    fn mistakes_are_placed() {
        insta::assert_snapshot!(error("[tool.lambimg]\n\nhandel = 'a.b'"), @"unknown key `handel` in `pyproject.toml` line 3");
        assert!(matches!(
            error("[tool.lambimg]\nhandel = 'a.b'"),
            Error::UnknownKey {
                nearest: Some("handler"),
                ..
            }
        ));
        assert!(matches!(
            error("[tool.lambimg]\nzzz = 1"),
            Error::UnknownKey { nearest: None, .. }
        ));
        insta::assert_snapshot!(error("[tool.lambimg]\npython = 3.12"), @"`python` in `pyproject.toml` line 2 must be text in quotes");
        insta::assert_snapshot!(error("[tool.lambimg]\nlayers = '3'"), @"`layers` in `pyproject.toml` line 2 must be a whole number");
        insta::assert_snapshot!(error("[tool]\nlambimg = 3"), @"`tool.lambimg` in `pyproject.toml` line 2 must be a table");
        insta::assert_snapshot!(error("a = 1\nb = "), @"`pyproject.toml` line 2 is not valid TOML: string values must be quoted, expected literal string");
        assert_eq!(
            Config::from_toml("[tool.other]\nx = 1", PYPROJECT).unwrap(),
            None
        );
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "[\\[\\]a-z.='\"\n ü]{0,60}") {
            let _ = Config::from_toml(&text, OWN_FILE);
        }
    }
}
