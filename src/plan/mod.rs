//! What will be done, with nothing left to decide: the words of [`Config`] become values here.
//!
//! No I/O, no clock, no environment: the same words give the same plan. What only a base or a lock can
//! tell (a digest, a wheel) is not part of it.

pub mod functions;
pub mod image;
pub mod outputs;
pub mod reach;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::aws::layers::NoLayer;
use crate::config::{self, Config, Listed, Place, Project, Setting};
use crate::file_tree::PathError;
use crate::http;
use crate::lambda::check::{self, NoRule, Rule};
use crate::lambda::{self, Architecture, Handler, HandlerError, Runtime};
use crate::oci::layer::{self, Packing};
use crate::oci::layout;
use crate::oci::reference::{self, Name, Reference};
use crate::python::lock::{Builds, Format, Wanted};
use crate::python::{Glibc, PythonVersion, normalize_name};

/// The earliest date that a zip archive can say: 1980-01-01T00:00:00Z, in seconds since 1970.
pub const DEFAULT_EPOCH: u64 = 315_532_800;
/// The last second that the eleven octal digits of a tar header can say, in the year 2242.
const LAST_EPOCH: u64 = 0o77_777_777_777;
/// As many layers as dependencies take where nobody says otherwise. `cargo bench --bench layering` shows what
/// releases move by it.
const DEFAULT_LAYERS: usize = 20;
/// As many as anybody may ask for: with a base's own and the function's, the manifest stays far below the 25,400
/// bytes that Lambda advises.
const MOST_LAYERS: usize = 60;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No handler was given.
    #[error("no handler is set")]
    NoHandler {
        /// Whether the function is one of several of its project.
        of_several: bool,
    },
    /// The handler cannot be one.
    #[error("{error} ({place})")]
    Handler {
        /// What is wrong.
        error: HandlerError,
        /// Where it stands.
        place: Place,
    },
    /// Lambda has no such Python.
    #[error("Lambda has no runtime for Python `{value}` ({place}), only for {known}")]
    Python {
        /// As written.
        value: String,
        /// Where it stands.
        place: Place,
        /// The versions there are.
        known: String,
    },
    /// Something has no name.
    #[error("a {what} has no name ({place})")]
    Unnamed {
        /// `variable` or `label`.
        what: &'static str,
        /// Where it stands.
        place: Place,
    },
    /// A value means nothing here.
    #[error("`{value}` ({place}) is {wanted}")]
    Value {
        /// As written.
        value: String,
        /// Where it stands.
        place: Place,
        /// What it is not, as `no architecture; …`.
        wanted: &'static str,
    },
    /// No version of a layer.
    #[error("`{}` ({place}) is {why}", http::redact_name(.value))]
    Layer {
        /// As written.
        value: String,
        /// Where it stands.
        place: Place,
        /// Why it is none.
        why: NoLayer,
    },
    /// Both say what the entry point is given.
    #[error(
        "both {handler} and {cmd} say what the entry point is given, as `handler` and as `cmd`"
    )]
    HandlerAndCmd {
        /// Where the handler stands.
        handler: Place,
        /// Where the command stands.
        cmd: Place,
    },
    /// A variable is not the image's to set.
    #[error("Lambda decides what the variable `{name}` is ({place})")]
    Reserved {
        /// The variable.
        name: String,
        /// Where it stands.
        place: Place,
    },
    /// A label is not the user's to set.
    #[error("the label `{name}` is lambimg's own ({place})")]
    OwnLabel {
        /// The label.
        name: String,
        /// Where it stands.
        place: Place,
    },
    /// One of a list of tables lacks a part.
    #[error("one of `{table}` ({place}) has no `{part}`")]
    Part {
        /// The list.
        table: &'static str,
        /// The part.
        part: &'static str,
        /// Where it stands.
        place: Place,
    },
    /// A path cannot be one of an image.
    #[error("{error} ({place})")]
    Path {
        /// What is wrong.
        error: PathError,
        /// Where it stands.
        place: Place,
    },
    /// A name cannot be one.
    #[error("{error} ({place})")]
    Name {
        /// What is wrong.
        error: reference::ParseError,
        /// Where it stands.
        place: Place,
    },
    /// A name to build under has a digest in it.
    #[error("`{name}` ({place}) has a digest, which a build finds out and cannot be told")]
    NameWithDigest {
        /// The name.
        name: Name,
        /// Where it stands.
        place: Place,
    },
    /// An output is no place.
    #[error("{0}, nor `zip:FILE`")]
    Output(#[from] layout::PlaceError),
    /// What says how a project becomes a function, of a function that is whole.
    #[error(
        "{setting} is for a project, and `{}` is a deployment package, which is built as it is",
        package.display()
    )]
    OfProject {
        /// The setting.
        setting: String,
        /// The package.
        package: PathBuf,
    },
    /// There is nowhere to push to.
    #[error("none of the names is in a registry: {}", names.join(", "))]
    NothingToPush {
        /// The names.
        names: Vec<String>,
    },
    /// The project says what it needs in a form that is not read yet.
    #[error("the project's dependencies are in `{file}`, which this version does not read")]
    Needs {
        /// The file, or the table of `pyproject.toml`.
        file: &'static str,
    },
    /// Several locks, and no word which.
    #[error("there are several locks: {}", names.join(", "))]
    SeveralLocks {
        /// Their names.
        names: Vec<String>,
    },
    /// An extra or a group is wanted of what has none.
    #[error("`{name}` is wanted, and {} has neither extras nor groups", said_by(.file.as_deref()))]
    NoneToWant {
        /// The extra or group.
        name: String,
        /// What says what the function needs, if anything does.
        file: Option<PathBuf>,
    },
    /// A function is named of a project that has none.
    #[error("there is no function `{name}`: the project has no functions of their own")]
    NoFunctions {
        /// What was named.
        name: String,
    },
    /// The project has other functions.
    #[error("the project has no function `{name}`, only {}", known.join(", "))]
    NoFunction {
        /// What was named.
        name: String,
        /// Its functions.
        known: Vec<String>,
        /// The one that looks most like it.
        nearest: Option<String>,
    },
    /// One function is to be taken, and which is not said.
    #[error("the project has several functions: {}", known.join(", "))]
    SeveralFunctions {
        /// Its functions.
        known: Vec<String>,
    },
    /// A function's name is to be put in where there is none.
    #[error(
        "`{text}` ({place}) is to have a function's name in it, and the project has no functions of their own"
    )]
    Placeholder {
        /// As written.
        text: String,
        /// Where it stands.
        place: Place,
    },
    /// Two images would have one name.
    #[error("the functions `{}` and `{}` would both be `{name}`", functions[0], functions[1])]
    SameName {
        /// The name.
        name: String,
        /// The two.
        functions: [String; 2],
    },
    /// Two outputs would go to one place, or one into the other.
    #[error("{0}")]
    SameOutput(Box<outputs::Clash>),
    /// Several functions would have one handler.
    #[error("{place} says the handler of one function, and there are {}: {}", functions.len(), functions.join(", "))]
    SharedHandler {
        /// Where it stands.
        place: Place,
        /// The functions.
        functions: Vec<String>,
    },
    /// A rule is to be left out that there is none of.
    #[error("{place} leaves out the rule `{}`, and there is no such rule", error.text)]
    NoRule {
        /// What was written, and the rule that is most like it.
        error: NoRule,
        /// Where it stands.
        place: Place,
    },
    /// `SOURCE_DATE_EPOCH` is no date.
    #[error(
        "SOURCE_DATE_EPOCH is `{0}`, which is no number of seconds since 1970 up to the year 2242"
    )]
    Epoch(String),
}

fn said_by(file: Option<&Path>) -> String {
    file.map_or_else(
        || "the project".to_owned(),
        |file| format!("`{}`", file.display()),
    )
}

/// Where the base comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A registry.
    Registry(Reference),
    /// A layout or archive on disk.
    Place(layout::Place),
    /// This machine's own Python, by this interpreter if one was named.
    Host(Option<PathBuf>),
}

/// What says which packages the function needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needs {
    /// Nothing does.
    Nothing,
    /// Requirements, with the lock that is or will be kept of them.
    Requirements {
        /// The requirements.
        file: PathBuf,
        /// Their `pylock.toml`.
        lock: PathBuf,
    },
    /// The project's own table, with the lock that is or will be kept of it.
    Project {
        /// The `pyproject.toml`.
        file: PathBuf,
        /// Its `pylock.toml`.
        lock: PathBuf,
    },
    /// A lock alone.
    Lock {
        /// The lock.
        file: PathBuf,
        /// Who speaks in it.
        format: Format,
    },
}

impl Needs {
    /// The file that says it.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Nothing => None,
            Self::Requirements { file, .. }
            | Self::Project { file, .. }
            | Self::Lock { file, .. } => Some(file),
        }
    }

    /// The lock that is or will be kept of it.
    fn lock_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Requirements { lock, .. } | Self::Project { lock, .. } => Some(lock),
            Self::Nothing | Self::Lock { .. } => None,
        }
    }
}

/// Which program resolves requirements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolverChoice {
    /// uv where there is one, else pip.
    Auto,
    /// uv.
    Uv,
    /// pip.
    Pip,
}

/// How the build treats what it finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Never change a lock.
    pub locked: bool,
    /// Never use the network.
    pub offline: bool,
    /// Never take a layer made before.
    pub no_cache: bool,
    /// How layers are compressed; the digests of layers differ by it, never that of the tar in them.
    pub packing: Packing,
}

/// All that was asked for, beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The merged configuration.
    pub config: Config,
    /// The locks of all functions; to be shared by requests that differ in nothing but the function.
    pub locks: functions::Locks,
    /// `KIND:PATH`, as written.
    pub outputs: Vec<String>,
    /// Further files that the run writes, which are no part of the function.
    pub own_files: Vec<PathBuf>,
    /// Push every name that is in a registry.
    pub push: bool,
    /// How to treat what is found.
    pub policy: Policy,
    /// `SOURCE_DATE_EPOCH`, if set.
    pub epoch: Option<String>,
    /// The day, as `YYYY-MM-DD`, for warnings alone.
    pub today: String,
}

/// What will be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which of the project's functions it is, if the project has several.
    pub function: Option<String>,
    /// The project's directory.
    pub project: PathBuf,
    /// The directory whose files are the function: the project's own, or one in it.
    pub source: PathBuf,
    /// The runtime.
    pub runtime: &'static Runtime,
    /// The architecture.
    pub architecture: Architecture,
    /// The handler, unless the entry point is given something else.
    pub handler: Option<Handler>,
    /// Whether the base may bring the handler's module, so that its absence is no error.
    pub handler_in_base: bool,
    /// How the image is run, where the user says it.
    pub running: image::Running,
    /// What goes in beside the function.
    pub files: Vec<image::ExtraFile>,
    /// What `/opt` is given, later ones over earlier ones.
    pub extensions: Vec<image::Extension>,
    /// The base.
    pub base: Base,
    /// The interpreter that the user names, to compile with and to make the base `host` of.
    pub interpreter: Option<PathBuf>,
    /// Whether bytecode goes into the image.
    pub bytecode: bool,
    /// The base's C library, where the user says it.
    pub glibc: Option<Glibc>,
    /// What the function needs.
    pub needs: Needs,
    /// Which of the project's extras and groups are wanted.
    pub wanted: Wanted,
    /// Who resolves it.
    pub resolver: ResolverChoice,
    /// The date that no resolved package may be newer than, as `YYYY-MM-DD` or in RFC 3339.
    pub exclude_newer: Option<String>,
    /// Which packages may be built from source.
    pub builds: Builds,
    /// Whether the project goes in as its wheel; nothing where the project itself decides.
    pub package: Option<bool>,
    /// Normal names of packages that are left out.
    pub exclude_packages: BTreeSet<String>,
    /// Patterns of files that are left out of packages.
    pub exclude_in_packages: Vec<String>,
    /// As many layers as dependencies may take, at least one.
    pub layers: usize,
    /// Patterns of files that stay out.
    pub exclude: Vec<String>,
    /// The image's names.
    pub names: Vec<Name>,
    /// Where else it goes.
    pub outputs: Vec<layout::Place>,
    /// The zip files that the function is written to as deployment packages.
    pub packages: Vec<PathBuf>,
    /// Whether `project` is a deployment package that is to be an image, and no directory.
    pub is_archive: bool,
    /// Files that this run writes; where they lie in the project, they are no part of the function.
    pub own_files: Vec<PathBuf>,
    /// Files that say what any function of the project needs, which are no part of this one either.
    pub others_needs: Vec<PathBuf>,
    /// The locks that builds of the project keep, for any of its functions.
    pub locks: BTreeSet<PathBuf>,
    /// Whether these are the same without flags and variables.
    pub has_own_locks: bool,
    /// References it is pushed to.
    pub push: Vec<Reference>,
    /// References of images that layers are taken over from, beside those it is pushed to.
    pub cache_from: Vec<Reference>,
    /// How to treat what is found.
    pub policy: Policy,
    /// The date of everything, in seconds since 1970.
    pub epoch: u64,
    /// What flags gave, as they are written, for whoever tells the user a command.
    pub flags: Vec<(&'static str, String)>,
    /// What the user should know before.
    pub warnings: Vec<String>,
    /// Identifiers of rules of Lambda's that are not applied to what is built.
    pub ignored: BTreeSet<&'static str>,
    /// The day, as `YYYY-MM-DD`, for what these rules say alone.
    pub today: String,
}

/// Makes the plan for `project`.
///
/// # Errors
/// See [`Error`].
pub fn make(project: &Project, request: Request) -> Result<Plan, Error> {
    let mut config = request.config;
    config.tags = functions::filled_list(config.tags, project)?;
    config.cache_from = functions::filled_list(config.cache_from, project)?;
    let flags = config.flags();
    let ignored = ignored(&config)?;
    let runtime = read_runtime(config.python.as_ref())?;
    let names = read_names(project, config.tags.as_ref())?;
    let push: Vec<_> = names.iter().filter_map(Name::reference).collect();
    if request.push && push.is_empty() {
        return Err(Error::NothingToPush {
            names: names.iter().map(Name::tagged).collect(),
        });
    }
    let (packages, outputs) = read_outputs(&functions::outputs(&request.outputs, project)?)?;
    if project.is_archive {
        refuse_of_project(project, &config, request.policy)?;
    }
    let needs = read_needs(project, config.requirements.as_ref())?;
    let mut needs = functions::with_own_lock(needs, project, &config, &request.locks)?;
    let of_all = request.locks.of(project, &config);
    let of_all = of_all.into_iter().flat_map(|locks| locks.values().cloned());
    let locks = of_all.chain(needs.lock_mut().cloned()).collect();
    let wanted = Wanted {
        extras: read_package_names(config.extras.as_ref())?,
        groups: read_package_names(config.groups.as_ref())?,
    };
    check_wanted(&needs, &wanted)?;
    let has_own_locks = functions::has_own_locks(&config);
    let running = image::running(&config)?;
    let warnings = runtime.warning(&request.today).into_iter();
    let warnings = warnings.chain(image::warning(&config)).collect();
    let mut own_files = request.own_files;
    own_files.extend(outputs_of_all(&request.outputs, project)?);
    Ok(Plan {
        handler: read_handler(&config, &running, project.function.is_some())?,
        handler_in_base: read_bool(config.handler_in_base.as_ref())?,
        architecture: read_architecture(config.arch.as_ref())?,
        base: read_base(&config, project, runtime)?,
        interpreter: config
            .interpreter
            .as_ref()
            .map(|setting| read_path(setting, &project.root)),
        bytecode: match &config.bytecode {
            Some(setting) => read_bool(Some(setting))?,
            None => true,
        },
        glibc: config.glibc.as_ref().map(read_glibc).transpose()?,
        needs,
        wanted,
        resolver: read_resolver(config.resolver.as_ref())?,
        exclude_newer: config.exclude_newer.as_ref().map(read_date).transpose()?,
        builds: read_builds(config.build)?,
        package: config
            .package
            .as_ref()
            .map(|setting| read_bool(Some(setting)))
            .transpose()?,
        exclude_packages: read_package_names(config.exclude_packages.as_ref())?,
        exclude_in_packages: config
            .exclude_in_packages
            .map(|setting| setting.value)
            .unwrap_or_default(),
        layers: read_layers(config.layers.as_ref())?,
        exclude: config
            .exclude
            .map(|setting| setting.value)
            .unwrap_or_default(),
        files: image::files(&config.files, &project.root)?,
        extensions: image::extensions(&config.extensions, &project.root)?,
        running,
        outputs,
        packages,
        is_archive: project.is_archive,
        own_files,
        others_needs: functions::needs_of_all(project),
        locks,
        has_own_locks,
        push: if request.push { push } else { Vec::new() },
        cache_from: read_references(config.cache_from.as_ref())?,
        policy: request.policy,
        flags,
        epoch: read_epoch(request.epoch)?,
        warnings,
        ignored,
        today: request.today,
        function: project.function.as_ref().map(|chosen| chosen.name.clone()),
        source: functions::source(project, config.source.as_ref()),
        project: project.root.clone(),
        names,
        runtime,
    })
}

/// The zip files to write, and the places of images.
fn read_outputs(written: &[String]) -> Result<(Vec<PathBuf>, Vec<layout::Place>), Error> {
    let (mut packages, mut places) = (Vec::new(), Vec::new());
    for text in written {
        match text.strip_prefix("zip:").filter(|path| !path.is_empty()) {
            Some(path) => packages.push(path.into()),
            None => places.push(text.parse()?),
        }
    }
    Ok((packages, places))
}

/// All that the run can write with these outputs: what is one function's is no part of another.
fn outputs_of_all(
    written: &[String],
    project: &Project,
) -> Result<impl Iterator<Item = PathBuf> + use<>, Error> {
    let (packages, places) = read_outputs(&functions::outputs_of_all(written, project))?;
    let places = places.into_iter().map(|place| place.path);
    Ok(packages.into_iter().chain(places))
}

/// A deployment package has its dependencies in it, so that nothing can be said of them, nor of what is left out.
fn refuse_of_project(project: &Project, config: &Config, policy: Policy) -> Result<(), Error> {
    let ones = [&config.requirements, &config.package];
    let ones = ones.into_iter().flatten().map(|setting| &setting.place);
    let lists = [
        &config.extras,
        &config.groups,
        &config.build,
        &config.exclude,
        &config.exclude_packages,
        &config.exclude_in_packages,
    ];
    let lists = lists.into_iter().flatten().map(|setting| &setting.place);
    let setting = match ones.chain(lists).next() {
        Some(place) => place.to_string(),
        None if policy.locked => "`--locked`".to_owned(),
        None => return Ok(()),
    };
    let package = project.root.clone();
    Err(Error::OfProject { setting, package })
}

/// The runtime asked for, else the newest.
fn read_runtime(setting: Option<&Setting>) -> Result<&'static Runtime, Error> {
    let Some(setting) = setting else {
        return Ok(lambda::newest());
    };
    let version: Option<PythonVersion> = setting.value.parse().ok();
    version.and_then(lambda::runtime).ok_or_else(|| {
        let known = lambda::runtimes()
            .iter()
            .map(|runtime| runtime.python.to_string());
        Error::Python {
            value: setting.value.clone(),
            place: setting.place.clone(),
            known: known.collect::<Vec<_>>().join(", "),
        }
    })
}

/// The handler, which only a program that takes none can do without.
fn read_handler(
    config: &Config,
    running: &image::Running,
    of_several: bool,
) -> Result<Option<Handler>, Error> {
    match (&config.handler, &config.cmd) {
        (Some(handler), Some(cmd)) => Err(image::both_say(handler, cmd)),
        (Some(setting), None) => {
            let handler = setting.value.parse().map_err(|error| Error::Handler {
                error,
                place: setting.place.clone(),
            })?;
            Ok(Some(handler))
        }
        (None, Some(_)) => Ok(None),
        (None, None) if running.has_own_program() => Ok(None),
        (None, None) => Err(Error::NoHandler { of_several }),
    }
}

fn bad_value(setting: &Setting, wanted: &'static str) -> Error {
    Error::Value {
        value: http::redact_name(&setting.value),
        place: setting.place.clone(),
        wanted,
    }
}

/// The identifiers of the rules of Lambda's that are not to be applied.
///
/// # Errors
/// [`Error::NoRule`].
pub fn ignored(config: &Config) -> Result<BTreeSet<&'static str>, Error> {
    let read = |setting: &Setting| {
        let rule: Result<&'static Rule, _> = setting.value.parse();
        let place = setting.place.clone();
        rule.map_or_else(
            |error| Err(Error::NoRule { error, place }),
            |rule| Ok(rule.id),
        )
    };
    config.check.ignore.iter().map(read).collect()
}

/// The architecture, where one is named.
///
/// # Errors
/// [`Error::Value`].
pub fn wanted_architecture(config: &Config) -> Result<Option<Architecture>, Error> {
    let setting = config.arch.as_ref();
    setting
        .map(|setting| read_architecture(Some(setting)))
        .transpose()
}

/// Whether a check takes warnings for errors.
///
/// # Errors
/// [`Error::Value`].
pub fn is_strict(config: &Config) -> Result<bool, Error> {
    read_bool(config.check.strict.as_ref())
}

fn read_bool(setting: Option<&Setting>) -> Result<bool, Error> {
    let Some(setting) = setting else {
        return Ok(false);
    };
    let parsed = setting.value.parse();
    parsed.map_err(|_| bad_value(setting, "neither true nor false"))
}

fn read_architecture(setting: Option<&Setting>) -> Result<Architecture, Error> {
    let Some(setting) = setting else {
        // Lambda's own default; the machine at hand must not decide what is built.
        return Ok(Architecture::X86_64);
    };
    let parsed = setting.value.parse();
    parsed.map_err(|()| bad_value(setting, "no architecture; Lambda has x86_64 and arm64"))
}

fn read_glibc(setting: &Setting) -> Result<Glibc, Error> {
    let parsed = setting.value.parse();
    parsed.map_err(|_| bad_value(setting, "no glibc version such as 2.34"))
}

fn read_resolver(setting: Option<&Setting>) -> Result<ResolverChoice, Error> {
    match setting.map(|setting| (setting, setting.value.as_str())) {
        None | Some((_, "auto")) => Ok(ResolverChoice::Auto),
        Some((_, "uv")) => Ok(ResolverChoice::Uv),
        Some((_, "pip")) => Ok(ResolverChoice::Pip),
        Some((setting, _)) => Err(bad_value(
            setting,
            "no resolver; there are auto, uv and pip",
        )),
    }
}

fn read_references(setting: Option<&Setting<Vec<String>>>) -> Result<Vec<Reference>, Error> {
    let Some(setting) = setting else {
        return Ok(Vec::new());
    };
    let read = |text: &String| {
        let text = text.strip_prefix("docker://").unwrap_or(text);
        Reference::read(text).map_err(|error| Error::Name {
            error,
            place: setting.place.clone(),
        })
    };
    setting.value.iter().map(read).collect()
}

fn read_layers(setting: Option<&Setting>) -> Result<usize, Error> {
    let Some(setting) = setting else {
        return Ok(DEFAULT_LAYERS);
    };
    let number = setting.value.parse().ok();
    let number = number.filter(|number| (1..=MOST_LAYERS).contains(number));
    number.ok_or_else(|| bad_value(setting, "no number of layers from 1 to 60"))
}

/// Names of packages, extras or groups, in their normal form.
fn read_package_names(setting: Option<&Setting<Vec<String>>>) -> Result<BTreeSet<String>, Error> {
    let Some(setting) = setting else {
        return Ok(BTreeSet::new());
    };
    let read = |name: &String| {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !name.is_empty() && name.bytes().all(letters) {
            return Ok(normalize_name(name));
        }
        Err(Error::Value {
            value: name.clone(),
            place: setting.place.clone(),
            wanted: "no name of a package, extra or group",
        })
    };
    setting.value.iter().map(read).collect()
}

/// pip's word for every package is `:all:`.
fn read_builds(setting: Option<Setting<Vec<String>>>) -> Result<Builds, Error> {
    let Some(mut setting) = setting else {
        return Ok(Builds::default());
    };
    let before = setting.value.len();
    setting.value.retain(|name| name != ":all:");
    Ok(Builds {
        all: setting.value.len() < before,
        names: read_package_names(Some(&setting))?,
    })
}

/// A day, or a moment in RFC 3339, as both resolvers take them.
fn read_date(setting: &Setting) -> Result<String, Error> {
    let text = setting.value.as_str();
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    match humantime::parse_rfc3339(&whole) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(bad_value(
            setting,
            "no date such as 2026-11-01 or 2026-11-01T12:00:00Z",
        )),
    }
}

/// A path in a file of the project is meant from there; elsewhere from the current directory.
fn read_path(setting: &Setting, root: &Path) -> PathBuf {
    match setting.place {
        Place::File(..) => root.join(&setting.value),
        _ => PathBuf::from(&setting.value),
    }
}

/// The base that `config` names for `project`, or its runtime's own.
///
/// # Errors
/// See [`Error`].
pub fn base(project: &Project, config: &Config) -> Result<Base, Error> {
    read_base(config, project, read_runtime(config.python.as_ref())?)
}

fn read_base(config: &Config, project: &Project, runtime: &Runtime) -> Result<Base, Error> {
    let interpreter = config
        .interpreter
        .as_ref()
        .map(|s| read_path(s, &project.root));
    let default = Setting::flag(runtime.image.clone(), "--base");
    let setting = config.base.as_ref().unwrap_or(&default);
    if setting.value == "host" {
        return Ok(Base::Host(interpreter));
    }
    Ok(match read_image(setting, &project.root)? {
        image::Elsewhere::Registry(reference) => Base::Registry(reference),
        image::Elsewhere::Place(place) => Base::Place(place),
    })
}

/// An image in a registry or in a place.
fn read_image(setting: &Setting, root: &Path) -> Result<image::Elsewhere, Error> {
    let text = setting.value.as_str();
    if let Ok(mut place) = text.parse::<layout::Place>() {
        if matches!(setting.place, Place::File(..)) {
            place.path = root.join(place.path);
        }
        return Ok(image::Elsewhere::Place(place));
    }
    let reference = Reference::read(text.strip_prefix("docker://").unwrap_or(text));
    let reference = reference.map_err(|error| Error::Name {
        error,
        place: setting.place.clone(),
    });
    Ok(image::Elsewhere::Registry(reference?))
}

/// What the user names, else what lies in the project: a lock before what would have to be resolved.
fn read_needs(project: &Project, setting: Option<&Setting>) -> Result<Needs, Error> {
    let root = &project.root;
    if project.is_archive {
        return Ok(Needs::Nothing);
    }
    if let Some(setting) = setting {
        return named_needs(read_path(setting, root));
    }
    let has = |name: &str| project.needs.contains(&name);
    let lock = |directory: &Path, name: &str| named_needs(directory.join(name));
    let requirements = || named_needs(root.join("requirements.txt"));
    if has("pylock.toml") && !project.own_lock {
        // What stands beside it is held against it.
        return if has("requirements.txt") {
            requirements()
        } else {
            lock(root, "pylock.toml")
        };
    }
    let has_own = project.needs.iter().any(|name| *name != "pylock.toml");
    if let Some(workspace) = project.workspace.as_ref().filter(|_| !has_own) {
        return lock(workspace, "uv.lock");
    }
    if let Some(name) = ["uv.lock", "poetry.lock", "Pipfile.lock"]
        .into_iter()
        .find(|name| has(name))
    {
        return lock(root, name);
    }
    if has("requirements.txt") {
        return requirements();
    }
    match &*project.named_locks {
        [] => {}
        [name] => return lock(root, name),
        several => {
            let names = several.to_vec();
            return Err(Error::SeveralLocks { names });
        }
    }
    // To build without them would be worse than not to build.
    if let Some(file) = config::UNREAD.into_iter().find(|name| has(name)) {
        return Err(Error::Needs { file });
    }
    match project.listed {
        Some(Listed::Standard) => named_needs(root.join("pyproject.toml")),
        Some(Listed::Poetry) => Err(Error::Needs {
            file: "[tool.poetry.dependencies]",
        }),
        None if has("pylock.toml") => lock(root, "pylock.toml"),
        None => Ok(Needs::Nothing),
    }
}

/// What a file of this name says.
fn named_needs(file: PathBuf) -> Result<Needs, Error> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if let Some(format) = Format::of(&name) {
        return Ok(Needs::Lock { file, format });
    }
    if name == "pyproject.toml" {
        let lock = file.with_file_name("pylock.toml");
        return Ok(Needs::Project { file, lock });
    }
    let unread = config::UNREAD
        .into_iter()
        .filter(|name| *name != "requirements.in");
    if let Some(file) = unread.into_iter().find(|unread| **unread == *name) {
        return Err(Error::Needs { file });
    }
    let lock = file.with_file_name(lock_name(&name));
    Ok(Needs::Requirements { file, lock })
}

/// Extras and groups are a project's: a requirements file has none.
fn check_wanted(needs: &Needs, wanted: &Wanted) -> Result<(), Error> {
    let name = wanted.extras.first().or(wanted.groups.first());
    match (needs, name) {
        (Needs::Nothing | Needs::Requirements { .. }, Some(name)) => Err(Error::NoneToWant {
            name: name.clone(),
            file: needs.file().map(Path::to_owned),
        }),
        _ => Ok(()),
    }
}

/// Whether a lock may be one of this requirements file, for whichever function.
pub fn is_lock_of(lock: &str, requirements: &str) -> bool {
    let own = lock_name(requirements);
    let stem = own.strip_suffix(".toml").unwrap_or(&own);
    let of_function = lock.strip_prefix(stem);
    own == lock || of_function.is_some_and(|part| part.starts_with('-'))
}

/// The lock of a requirements file: each has its own, so that two in a directory do not overwrite each other.
fn lock_name(requirements: &str) -> String {
    let stem = requirements.strip_suffix(".txt").unwrap_or(requirements);
    match stem {
        "requirements" => "pylock.toml".to_owned(),
        // The standard allows no dot between the two of its own.
        stem => format!("pylock.{}.toml", stem.replace('.', "-")),
    }
}

fn read_names(
    project: &Project,
    setting: Option<&Setting<Vec<String>>>,
) -> Result<Vec<Name>, Error> {
    let Some(setting) = setting.filter(|setting| !setting.value.is_empty()) else {
        return Ok(vec![default_name(project)]);
    };
    let read = |text: &String| {
        let place = setting.place.clone();
        let text = text.strip_prefix("docker://").unwrap_or(text);
        match text.parse::<Name>() {
            Ok(name) if name.digest.is_some() => Err(Error::NameWithDigest { name, place }),
            Ok(name) => Ok(name),
            Err(error) => Err(Error::Name { error, place }),
        }
    };
    setting.value.iter().map(read).collect()
}

/// The directory's name in the letters that a repository may have, and below it the function's.
fn default_name(project: &Project) -> Name {
    let lower = project.directory_name().to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let mut repository = if words.is_empty() {
        "function".to_owned()
    } else {
        words.join("-")
    };
    if let Some(chosen) = &project.function {
        repository = format!("{repository}/{}", chosen.name.to_lowercase());
    }
    Name {
        registry: None,
        repository,
        tag: None,
        digest: None,
    }
}

fn read_epoch(text: Option<String>) -> Result<u64, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_EPOCH);
    };
    match text.parse() {
        Ok(epoch) if epoch <= LAST_EPOCH => Ok(epoch),
        _ => Err(Error::Epoch(text)),
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Place(place) => place.fmt(f),
            Self::Host(None) => f.write_str("host"),
            Self::Host(Some(interpreter)) => write!(f, "host, {}", interpreter.display()),
        }
    }
}

impl Plan {
    /// What is told of one function alone begins so.
    pub fn heading(&self) -> Option<String> {
        let function = self.function.as_ref()?;
        Some(format!("function `{function}`: "))
    }

    /// The handler whose module has to be among what goes onto the base.
    pub fn own_handler(&self) -> Option<&Handler> {
        let is_elsewhere = self.handler_in_base || self.running.has_own_program();
        self.handler.as_ref().filter(|_| !is_elsewhere)
    }

    /// What beside its files decides a layer's bytes.
    pub fn layer_options(&self) -> layer::Options {
        layer::Options {
            epoch: self.epoch,
            packing: self.policy.packing,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<13}{value}");
        if let Some(function) = &self.function {
            line("function", function)?;
        }
        line("project", &self.project.display())?;
        if self.source != self.project {
            line("source", &self.source.display())?;
        }
        line("runtime", &self.runtime.identifier)?;
        line("architecture", &self.architecture)?;
        if let Some(handler) = &self.handler {
            line("handler", handler)?;
        }
        // In the form that they have in a config.
        let words = |words: &[String]| {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            serde_json::json!(check::shown(&words))
        };
        if let Some(entry) = &self.running.entrypoint {
            line("entrypoint", &words(entry))?;
        }
        if let Some(cmd) = &self.running.cmd {
            line("cmd", &words(cmd))?;
        }
        if let Some(directory) = &self.running.workdir {
            line("workdir", directory)?;
        }
        if let Some(user) = &self.running.user {
            line("user", user)?;
        }
        let named = [("env", &self.running.env), ("label", &self.running.labels)];
        for (what, pairs) in named {
            for (name, value) in pairs {
                let is_secret = check::is_secret(name, value);
                let value = if is_secret { check::HIDDEN } else { value };
                line(what, &format_args!("{name}={value}"))?;
            }
        }
        line("base", &self.base)?;
        match &self.needs {
            Needs::Nothing => line("dependencies", &"none")?,
            Needs::Requirements { file, .. }
            | Needs::Project { file, .. }
            | Needs::Lock { file, .. } => line("dependencies", &file.display())?,
        }
        line("date", &crate::oci::image::date(self.epoch))?;
        for extension in &self.extensions {
            line(
                "extension",
                &format_args!("{} to {}", extension.written, extension.to),
            )?;
        }
        for name in &self.names {
            line("name", &name.tagged())?;
        }
        for output in &self.outputs {
            line("output", output)?;
        }
        for package in &self.packages {
            line("output", &format_args!("zip:{}", package.display()))?;
        }
        for reference in &self.push {
            line("push", reference)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(needs: &[&'static str]) -> Project {
        Project {
            root: PathBuf::from("/src/My Function"),
            config: Config::default(),
            needs: needs.to_vec(),
            ..Project::default()
        }
    }

    fn config(pairs: &[(&str, &str)]) -> Config {
        let all: Vec<_> = pairs
            .iter()
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        let read = Config::from_toml(&all.join("\n"), "lambimg.toml").unwrap();
        read.unwrap()
    }

    fn plan(pairs: &[(&str, &str)]) -> Result<Plan, Error> {
        let request = Request {
            config: config(pairs),
            today: "2026-11-22".to_owned(),
            ..Request::default()
        };
        make(&project(&[]), request)
    }

    fn error(pairs: &[(&str, &str)]) -> String {
        plan(pairs).unwrap_err().to_string()
    }

    #[test]
    fn packages_are_no_places_of_images() {
        let read = |written: &[&str]| {
            let written: Vec<_> = written.iter().map(|text| (*text).to_owned()).collect();
            read_outputs(&written)
        };
        let (packages, places) = read(&["zip:a:b.zip", "oci:image"]).unwrap();
        assert_eq!(packages, [PathBuf::from("a:b.zip")]);
        assert_eq!(places.len(), 1);
        assert_eq!(
            read(&["zip:"]).unwrap_err().to_string(),
            "`zip:` is none of `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`, nor `zip:FILE`"
        );
    }

    #[test]
    fn little_is_needed() {
        let plan = plan(&[("handler", "'app.handler'")]).unwrap();
        insta::assert_snapshot!(plan, @r"
        project      /src/My Function
        runtime      python3.14
        architecture x86_64
        handler      app.handler
        base         public.ecr.aws/lambda/python:3.14
        dependencies none
        date         1980-01-01T00:00:00Z
        name         my-function:latest
        ");
        assert!(plan.warnings.is_empty());
    }

    #[test]
    fn what_cannot_be_is_named_with_its_place() {
        insta::assert_snapshot!(error(&[]), @"no handler is set");
        insta::assert_snapshot!(error(&[("handler", "'app'")]), @"`app` is no handler: it has no dot between the module and the function in it (`lambimg.toml` line 1)");
        let with = |key: &str, value: &str| error(&[("handler", "'app.handler'"), (key, value)]);
        insta::assert_snapshot!(with("python", "'3.8'"), @"Lambda has no runtime for Python `3.8` (`lambimg.toml` line 2), only for 3.9, 3.10, 3.11, 3.12, 3.13, 3.14, 3.15");
        insta::assert_snapshot!(with("arch", "'riscv64'"), @"`riscv64` (`lambimg.toml` line 2) is no architecture; Lambda has x86_64 and arm64");
        insta::assert_snapshot!(with("glibc", "'new'"), @"`new` (`lambimg.toml` line 2) is no glibc version such as 2.34");
        insta::assert_snapshot!(with("resolver", "'poetry'"), @"`poetry` (`lambimg.toml` line 2) is no resolver; there are auto, uv and pip");
        insta::assert_snapshot!(with("base", "'Upper'"), @"`Upper` is no image name: a repository is made of lower-case letters and digits, with single `.`, `_`, `-` or `/` between them (`lambimg.toml` line 2)");
    }

    fn needs(project: &Project) -> Result<Needs, Error> {
        let request = Request {
            config: config(&[("handler", "'app.handler'")]),
            ..Request::default()
        };
        Ok(make(project, request)?.needs)
    }

    #[test]
    fn locks_come_before_what_must_be_resolved() {
        let file = |project: &Project| {
            let needs = needs(project).unwrap();
            let name = needs.file().and_then(Path::file_name);
            name.map(|name| name.to_string_lossy().into_owned())
        };
        let all = ["pylock.toml", "uv.lock", "poetry.lock", "Pipfile.lock"];
        for (number, lock) in all.iter().enumerate() {
            assert_eq!(file(&project(&all[number..])).as_deref(), Some(*lock));
        }
        // Another's pylock.toml is held against the requirements beside it, and our own is made of them.
        let both = project(&["pylock.toml", "requirements.txt"]);
        assert_eq!(file(&both).as_deref(), Some("requirements.txt"));
        let own = |needs: &[&'static str], listed| Project {
            own_lock: true,
            listed,
            ..project(needs)
        };
        let listed = Some(Listed::Standard);
        assert_eq!(
            file(&own(&["pylock.toml"], listed)).as_deref(),
            Some("pyproject.toml")
        );
        assert_eq!(
            file(&own(&["pylock.toml"], None)).as_deref(),
            Some("pylock.toml")
        );
        assert_eq!(
            file(&own(&["pylock.toml", "uv.lock"], listed)).as_deref(),
            Some("uv.lock")
        );
        let named = |names: &[&str]| Project {
            named_locks: names.iter().map(|&name| name.to_owned()).collect(),
            ..project(&[])
        };
        assert_eq!(
            file(&named(&["pylock.orders.toml"])).as_deref(),
            Some("pylock.orders.toml")
        );
        insta::assert_snapshot!(needs(&named(&["pylock.a.toml", "pylock.b.toml"])).unwrap_err(), @"there are several locks: pylock.a.toml, pylock.b.toml");
        assert_eq!(file(&project(&[])), None);
    }

    #[test]
    fn what_is_not_read_is_not_left_out() {
        insta::assert_snapshot!(needs(&project(&["pdm.lock"])).unwrap_err(), @"the project's dependencies are in `pdm.lock`, which this version does not read");
        let poetry = Project {
            listed: Some(Listed::Poetry),
            ..project(&[])
        };
        insta::assert_snapshot!(needs(&poetry).unwrap_err(), @"the project's dependencies are in `[tool.poetry.dependencies]`, which this version does not read");
        let request = Request {
            config: config(&[("handler", "'app.handler'"), ("extras", "['Fast_IO']")]),
            ..Request::default()
        };
        insta::assert_snapshot!(make(&project(&["requirements.txt"]), request).unwrap_err(), @"`fast-io` is wanted, and `/src/My Function/requirements.txt` has neither extras nor groups");
    }

    #[test]
    fn packages_and_dates_are_checked() {
        let with = |key: &str, value: &str| plan(&[("handler", "'a.b'"), (key, value)]);
        let builds = with("build", "['Doc_Opt', ':all:']").unwrap().builds;
        assert!(builds.all && builds.names.contains("doc-opt"));
        for date in ["2026-11-01", "2026-11-01T12:00:00Z"] {
            let value = format!("'{date}'");
            assert_eq!(
                with("exclude-newer", &value)
                    .unwrap()
                    .exclude_newer
                    .unwrap(),
                date
            );
        }
        insta::assert_snapshot!(with("exclude-newer", "'last week'").unwrap_err(), @"`last week` (`lambimg.toml` line 2) is no date such as 2026-11-01 or 2026-11-01T12:00:00Z");
        insta::assert_snapshot!(with("build", "['a b']").unwrap_err(), @"`a b` (`lambimg.toml` line 2) is no name of a package, extra or group");
        insta::assert_snapshot!(with("package", "'maybe'").unwrap_err(), @"`maybe` (`lambimg.toml` line 2) is neither true nor false");
    }

    #[test]
    fn bases_are_told_apart() {
        let base = |text: &str| plan(&[("handler", "'a.b'"), ("base", text)]).unwrap().base;
        assert_eq!(base("'host'"), Base::Host(None));
        let place = "oci:/src/My Function/base:x".parse().unwrap();
        assert_eq!(base("'oci:base:x'"), Base::Place(place));
        let reference = Reference::read("r.test/a:1").unwrap();
        assert_eq!(base("'docker://r.test/a:1'"), Base::Registry(reference));
    }

    #[test]
    fn dates_and_pushes_are_checked() {
        assert_eq!(read_epoch(Some("0".into())).unwrap(), 0);
        assert_eq!(read_epoch(None).unwrap(), DEFAULT_EPOCH);
        assert!(read_epoch(Some("-1".into())).is_err());
        assert!(read_epoch(Some("8589934592".into())).is_err());
        let request = Request {
            config: config(&[("handler", "'a.b'"), ("tags", "['orders:1', 'team/b']")]),
            push: true,
            ..Request::default()
        };
        let error = make(&project(&[]), request).unwrap_err().to_string();
        insta::assert_snapshot!(error, @"none of the names is in a registry: orders:1, team/b:latest");
    }
}
