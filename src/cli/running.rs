//! What `invoke` and `serve` have in common: which function, with which settings, made ready to run here.
//!
//! Reads flags and the machine; who calls the function, and how often, is not known here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use lambimg::build::running::{self, Glance, Runnable, Settings};
use lambimg::build::{self, Tools};
use lambimg::config::Config;
use lambimg::digest::Digest;
use lambimg::lambda::Architecture;
use lambimg::lambda::fleet::{Fleet, Places};
use lambimg::lambda::function::{DEFAULT_MEMORY, Function, Log, LogFormat, MAX_TIMEOUT};
use lambimg::oci::image::Image;
use lambimg::oci::layout::Place;
use lambimg::oci::reference::Name;
use lambimg::plan::{self, Plan};

use crate::Arguments;
use crate::failure::Failure;
use crate::functions;
use crate::limit_store;
use crate::opening::{Opening, OpeningArguments};
use crate::surroundings;
use crate::target::Target;
use crate::terminal::Terminal;
use crate::text_flag;
use crate::variables::{Given, REGIONS, VariableArguments};

/// This program, whatever becomes of its file.
const HELPER: &str = "/proc/self/exe";
/// The account of AWS's own examples.
const ACCOUNT: &str = "123456789012";
/// The region where nobody says one.
const REGION: &str = "us-east-1";
/// As many letters as a function's name may have.
const LONGEST_NAME: usize = 64;

#[derive(Debug, Args)]
#[command(mut_arg("handler", |handler| handler
    .long(None)
    .index(2)
    .help("Another handler than the image's or the project's, as app.handler")))]
pub(crate) struct RunArguments {
    #[command(flatten)]
    opening: OpeningArguments,

    /// How long a call may take, as 30s or 2m; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = timeout)]
    timeout: Duration,

    /// The function's memory in megabytes, 128 to 10240
    #[arg(long, value_name = "MB", default_value_t = DEFAULT_MEMORY, value_parser = memory)]
    memory: u32,

    #[command(flatten)]
    variables: VariableArguments,

    /// Give the function no network
    #[arg(long)]
    no_network: bool,

    /// The function's name (default: that of the image, or in the project, or of the directory)
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,

    /// The log's form, as the function's configuration would have it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogForm,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogForm {
    /// Lines as they are written
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string())?,
    };
    if duration.is_zero() || duration.subsec_nanos() > 0 || duration > MAX_TIMEOUT {
        return Err("Lambda has whole seconds from 1s to 15m".to_owned());
    }
    Ok(duration)
}

fn memory(text: &str) -> Result<u32, String> {
    let megabytes = text.parse().ok();
    let megabytes = megabytes
        .filter(|mb| (DEFAULT_MEMORY..=lambimg::lambda::function::MAX_MEMORY).contains(mb));
    megabytes.ok_or_else(|| "Lambda has from 128 to 10240 megabytes".to_owned())
}

fn name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(is_of_name);
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("a function's name has 1 to 64 letters, digits, `-` and `_`".to_owned())
    }
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-' || letter == '_'
}

/// As much of `text` as a function may be called.
fn name_of(text: &str) -> String {
    let letters = text.chars().map(|c| if is_of_name(c) { c } else { '-' });
    let name: String = letters.take(LONGEST_NAME).collect();
    match name.trim_matches('-') {
        "" => "function".to_owned(),
        name => name.to_owned(),
    }
}

/// A function that is to run.
pub(crate) struct Run<'a> {
    arguments: &'a Arguments,
    wanted: &'a RunArguments,
    terminal: &'a Terminal,
    target: Target,
    machine: Architecture,
    settings: Settings,
}

/// A function made ready.
pub(crate) struct Ready {
    image: Digest,
    runnable: Runnable,
    /// What was built, if it was.
    pub(crate) built: Option<Built>,
    /// Holds the store, so that nothing in use is removed from it.
    pub(crate) tools: Tools,
}

/// What was built, and of what.
pub(crate) struct Built {
    pub(crate) plan: Arc<Plan>,
    /// The project's files before anything was made of them.
    pub(crate) seen: Glance,
}

impl Ready {
    /// The function, and where it runs.
    pub(crate) fn parts(&self) -> (Function, Places) {
        let places = self.runnable.places(PathBuf::from(HELPER));
        (self.runnable.function.clone(), places)
    }

    /// Its environments, none started yet, at most so many.
    pub(crate) fn fleet(&self, size: u32, terminal: &Terminal) -> Fleet {
        let (function, places) = self.parts();
        let terminal = terminal.clone();
        let log = Log::new(move |lines| terminal.log(lines));
        Fleet::new(function, places, size, log, SystemTime::now)
    }

    /// Whether it is the very image that `other` is.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.image == other.image
    }
}

impl<'a> Run<'a> {
    /// Reads what says which function is to run, and how.
    pub(crate) fn new(
        arguments: &'a Arguments,
        wanted: &'a RunArguments,
        terminal: &'a Terminal,
    ) -> Result<Self, Failure> {
        if !cfg!(target_os = "linux") {
            return Err(Failure::not_linux());
        }
        let kind = std::env::consts::ARCH;
        let machine = kind.parse().map_err(|()| Failure::no_such_machine(kind))?;
        let target = wanted.opening.target(terminal)?;
        let Given { variables, region } = wanted.variables.read()?;
        let here = || {
            let named = REGIONS.map(|name| surroundings::variable(name).ok().flatten());
            named.into_iter().flatten().find(|name| !name.is_empty())
        };
        let settings = Settings {
            name: wanted
                .name
                .clone()
                .unwrap_or_else(|| target.function_name()),
            account: ACCOUNT.to_owned(),
            region: region.or_else(here).unwrap_or_else(|| REGION.to_owned()),
            memory: wanted.memory,
            timeout: wanted.timeout,
            handler: None,
            variables,
            log_format: match wanted.log_format {
                LogForm::Text => LogFormat::Text,
                LogForm::Json => LogFormat::Json,
            },
            network: !wanted.no_network,
        };
        Ok(Self {
            arguments,
            wanted,
            terminal,
            target,
            machine,
            settings,
        })
    }

    /// Whether there is a project whose files can change.
    pub(crate) fn is_project(&self) -> bool {
        matches!(self.target, Target::Project(_))
    }

    /// Brings or builds the image, and unpacks it.
    pub(crate) async fn ready(&self) -> Result<Ready, Failure> {
        let limit = surroundings::cache_limit()?;
        let (image, built, settings, tools) = match &self.target {
            Target::Image(text) => Box::pin(self.image(text)).await?,
            Target::Project(path) => Box::pin(self.project(path)).await?,
        };
        let runnable = Box::pin(running::prepare(&image, settings, self.machine, &tools)).await?;
        limit_store(limit, &tools, self.terminal);
        let image = image.manifest.digest();
        Ok(Ready {
            image,
            runnable,
            built,
            tools,
        })
    }

    async fn image(&self, text: &str) -> Result<Made, Failure> {
        let handler = self.wanted.opening.function.handler.clone();
        let building = self.building();
        let others = Config {
            arch: None,
            handler: None,
            ..building.clone()
        };
        if let Some(wanted) = plan::wanted_architecture(&building)?
            && wanted != self.machine
        {
            return Err(Failure::other_machine(wanted, self.machine));
        }
        let opening = self.opening();
        let (_, tools) = opening.image(text, &others, &Config::default())?;
        let image = Box::pin(running::open(text, self.machine, &tools)).await?;
        let settings = Settings {
            handler,
            ..self.settings.clone()
        };
        Ok((image, None, settings, tools))
    }

    /// What the project gives, in the store under no name.
    async fn project(&self, path: &Path) -> Result<Made, Failure> {
        let opening = self.opening();
        let (project, config) = opening.project(path, &self.building())?;
        let (plan, tools) = opening.plan(&project, config)?;
        if plan.architecture != self.machine {
            return Err(Failure::other_machine(plan.architecture, self.machine));
        }
        let seen = Glance::of(&plan, &surroundings::outputs());
        let made = Box::pin(build::build(plan, &tools)).await?;
        let built = Built {
            plan: made.plan,
            seen,
        };
        let mut settings = self.settings.clone();
        if let (None, Some(name)) = (&self.wanted.name, functions::name_of(&project)) {
            name.clone_into(&mut settings.name);
        }
        Ok((made.image, Some(built), settings, tools))
    }

    fn opening(&self) -> Opening<'_> {
        self.wanted.opening.opening(self.arguments, self.terminal)
    }

    /// What decides how a project is built.
    fn building(&self) -> Config {
        let handler = text_flag(self.wanted.opening.function.handler.as_ref(), "HANDLER");
        let given = Config {
            handler,
            ..Config::default()
        };
        given.or(self.wanted.opening.building())
    }
}

/// An image, what it was built of if it was, its settings, and what it was made with.
type Made = (Image, Option<Built>, Settings, Tools);

impl Target {
    /// What a function of it is called where nobody says.
    fn function_name(&self) -> String {
        let of_path = |path: &Path| {
            let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let name = whole.file_stem().unwrap_or_default();
            name_of(&name.to_string_lossy())
        };
        match self {
            Self::Project(path) => of_path(path),
            Self::Image(text) => {
                let text = text.strip_prefix("docker://").unwrap_or(text);
                if let Ok(place) = text.parse::<Place>() {
                    return of_path(&place.path);
                }
                let repository = text.parse::<Name>().map(|name| name.repository);
                let repository = repository.unwrap_or_default();
                name_of(repository.rsplit('/').next().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_called_what_its_image_is() {
        let image = |text: &str| Target::Image(text.to_owned()).function_name();
        assert_eq!(image("orders"), "orders");
        assert_eq!(
            image("docker://registry.example:5000/team/orders.api:1@sha256:bad"),
            "function"
        );
        assert_eq!(
            image("docker://registry.example:5000/team/orders.api:1"),
            "orders-api"
        );
        assert_eq!(image("oci:/tmp/no-such/image:latest"), "image");
        assert_eq!(image("docker-archive:orders.tar"), "orders");
        let project = Target::Project(PathBuf::from("/no-such/.app")).function_name();
        assert_eq!(project, "app");
        assert_eq!(name_of(&"x".repeat(99)).len(), LONGEST_NAME);
    }

    #[test]
    fn times_are_of_lambda() {
        let read = |text: &str| timeout(text).map(|time| time.as_millis());
        assert_eq!(read("3"), Ok(3_000));
        assert_eq!(read("1m 30s"), Ok(90_000));
        assert_eq!(read("15m"), Ok(900_000));
        for text in ["0", "250ms", "1500ms", "901"] {
            insta::allow_duplicates!(
                insta::assert_snapshot!(timeout(text).unwrap_err(), @"Lambda has whole seconds from 1s to 15m")
            );
        }
        assert!(timeout("soon").is_err());
    }

    #[test]
    fn memory_and_names_are_of_lambda() {
        assert_eq!(memory("128"), Ok(128));
        assert_eq!(memory("10240"), Ok(10_240));
        for text in ["127", "10241", "1GB", ""] {
            assert!(memory(text).is_err(), "{text}");
        }
        assert!(name("my_function-1").is_ok());
        for text in ["", "a.b", "a b", &"x".repeat(65)] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
