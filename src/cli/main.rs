//! The binary: argument tree, one short function a verb, exit code.
//!
//! Sole reader of argv, environment and clock; the library gets them as values. What is printed is
//! `terminal`'s, what a failure means is `failure`'s.

#![allow(
    clippy::doc_markdown,
    reason = "what documents an argument is its help text"
)]

mod failure;
mod surroundings;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lambimg::build::{self, Tools, metadata};
use lambimg::config::{Config, Project, Setting};
use lambimg::oci::reference::{Name, Reference};
use lambimg::plan::{self, Policy, Request};

use crate::failure::Failure;
use crate::surroundings::Surroundings;
use crate::terminal::{ProgressMode, Terminal};

/// Builds container images for Python functions on AWS Lambda, without Docker.
#[derive(Debug, Parser)]
#[command(name = "lambimg", version, max_term_width = 100, after_help = failure::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,

    /// Say nothing but errors and results
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// Tell of every retry
    #[arg(short, long, global = true)]
    verbose: bool,

    /// How progress is shown
    #[arg(long, global = true, value_enum, default_value_t, value_name = "MODE")]
    progress: ProgressMode,

    /// Speak to HOST without TLS (loopback addresses always are)
    #[arg(long, global = true, value_name = "HOST")]
    plain_http: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build an image from a project into the local store
    Build(Box<BuildArguments>),
    /// Push an image to a registry
    Push(PushArguments),
    /// List the runtimes: Python, system, glibc, image, dates
    Bases(BasesArguments),
}

#[derive(Debug, Args)]
struct BuildArguments {
    /// The project's directory
    #[arg(default_value = ".")]
    path: PathBuf,

    /// Python version, as 3.12
    #[arg(long, value_name = "VERSION")]
    python: Option<String>,

    /// x86_64 or arm64
    #[arg(long)]
    arch: Option<String>,

    /// Module and function, as app.handler
    #[arg(long)]
    handler: Option<String>,

    /// The base brings the handler's module, as images with wrappers do
    #[arg(long)]
    handler_in_base: bool,

    /// Requirements or pylock.toml to install
    #[arg(long, value_name = "FILE")]
    requirements: Option<String>,

    /// Base image: a registry reference, `host`, oci:DIR, oci-archive:FILE or docker-archive:FILE
    #[arg(long)]
    base: Option<String>,

    /// glibc of a base that does not say it, as 2.36
    #[arg(long, value_name = "VERSION")]
    glibc: Option<String>,

    /// CPython that `--base host` is made of
    #[arg(long, value_name = "FILE")]
    interpreter: Option<String>,

    /// Who resolves requirements: auto, uv or pip
    #[arg(long)]
    resolver: Option<String>,

    /// Extra of the project to install (repeatable)
    #[arg(long = "extra", value_name = "NAME")]
    extras: Vec<String>,

    /// Dependency group of the project to install (repeatable)
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,

    /// Package that may be built from source, or :all: (repeatable)
    #[arg(long = "build", value_name = "NAME")]
    builds: Vec<String>,

    /// Whether the project goes in as its wheel: true or false
    #[arg(long, value_name = "BOOL")]
    package: Option<String>,

    /// Resolve as if no package were newer, as 2026-11-01
    #[arg(long, value_name = "DATE")]
    exclude_newer: Option<String>,

    /// Leave out a package that the base brings (repeatable)
    #[arg(long = "exclude-package", value_name = "NAME")]
    exclude_packages: Vec<String>,

    /// Leave files out of packages, by gitignore's rules below the task root (repeatable)
    #[arg(long = "exclude-in-packages", value_name = "PATTERN")]
    exclude_in_packages: Vec<String>,

    /// Name for the image; one in a registry can be pushed (repeatable)
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,

    /// Leave out files by gitignore's rules (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Also write oci:DIR, oci-archive:FILE or docker-archive:FILE (repeatable)
    #[arg(short, long = "output", value_name = "KIND:PATH")]
    outputs: Vec<String>,

    /// Push every name that is in a registry
    #[arg(long)]
    push: bool,

    /// Fail rather than make or change a lock
    #[arg(long)]
    locked: bool,

    /// Use no network
    #[arg(long, conflicts_with = "push")]
    offline: bool,

    /// Make every layer anew
    #[arg(long)]
    no_cache: bool,

    /// Print the plan and the function's files, and build nothing
    #[arg(long)]
    dry_run: bool,

    /// Write what was built as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PushArguments {
    /// A name in the store, oci:DIR, oci-archive:FILE, docker-archive:FILE or a registry reference behind `docker://`
    image: String,

    /// Where to (default: the image's own name)
    references: Vec<String>,

    /// Write what was pushed as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct BasesArguments {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

fn main() -> ExitCode {
    failure::exit_70_on_panic();
    let arguments = Arguments::parse();
    let terminal = Terminal::new(arguments.progress, arguments.quiet, arguments.verbose);
    let result = run(&arguments, &terminal);
    terminal.finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}

fn run(arguments: &Arguments, terminal: &Terminal) -> Result<(), Failure> {
    match &arguments.verb {
        Verb::Build(wanted) => run_build(arguments, wanted, terminal),
        Verb::Push(push) => run_push(arguments, push, terminal),
        Verb::Bases(bases) => {
            let today = surroundings::today();
            match bases.format {
                Format::Table => terminal.print(&terminal::bases_table(&today)),
                Format::Json => terminal.print(&terminal::bases_json(&today)),
            }
        }
    }
}

fn run_build(
    arguments: &Arguments,
    wanted: &BuildArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let here = Surroundings::read();
    let project = Project::read(&wanted.path)?;
    let config = wanted
        .config(&arguments.plain_http)
        .or(Config::from_variables(surroundings::settings()?)?)
        .or(project.config.clone());
    let plain_http = config
        .plain_http
        .as_ref()
        .map(|setting| setting.value.clone());
    let request = Request {
        config,
        outputs: wanted.outputs.clone(),
        own_files: wanted
            .metadata_file
            .iter()
            .cloned()
            .chain(here.cache())
            .collect(),
        push: wanted.push,
        policy: Policy {
            locked: wanted.locked,
            offline: wanted.offline,
            no_cache: wanted.no_cache,
        },
        epoch: surroundings::variable("SOURCE_DATE_EPOCH")?,
        today: surroundings::today(),
    };
    let plan = plan::make(&project, request)?;
    if wanted.dry_run {
        let tree = build::function_tree(&plan).map_err(build::Error::from)?;
        let is_package = build::project::is_package(&plan)?;
        return terminal.print(&terminal::dry_run(&plan, &tree, is_package));
    }
    let plain_http = plain_http.unwrap_or_default();
    let tools = tools(Some(&project.root), plain_http, wanted.offline, terminal)?;
    let built = block_on(build::build(plan, &tools))??;
    if let Some(path) = &wanted.metadata_file {
        write_metadata(path, &metadata::of_build(&built))?;
    }
    terminal.summary(&built);
    let digest = built.image.manifest.digest();
    terminal.print_references(built.plan.names.iter().map(Name::without_version), digest)
}

fn run_push(
    arguments: &Arguments,
    push: &PushArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let variables = Config::from_variables(surroundings::settings()?)?;
    let mut plain_http = arguments.plain_http.clone();
    plain_http.extend(
        variables
            .plain_http
            .into_iter()
            .flat_map(|setting| setting.value),
    );
    let references = push.references()?;
    let tools = tools(None, plain_http, false, terminal)?;
    let work = async {
        let image = build::open(&push.image, &tools).await?;
        let pushed = build::push_all(&image, &references, &tools).await?;
        Ok::<_, build::Error>((image, pushed))
    };
    let (image, pushed) = block_on(work)??;
    if let Some(path) = &push.metadata_file {
        write_metadata(path, &metadata::of_push(&image, &pushed))?;
    }
    terminal.pushed(&pushed);
    let names = pushed.iter().map(|pushed| pushed.reference.name());
    terminal.print_references(names, image.manifest.digest())
}

impl BuildArguments {
    fn config(&self, plain_http: &[String]) -> Config {
        let text =
            |value: &Option<String>, flag| value.clone().map(|value| Setting::flag(value, flag));
        let list = |value: &[String], flag| {
            (!value.is_empty()).then(|| Setting::flag(value.to_vec(), flag))
        };
        Config {
            python: text(&self.python, "--python"),
            arch: text(&self.arch, "--arch"),
            handler: text(&self.handler, "--handler"),
            handler_in_base: self
                .handler_in_base
                .then(|| Setting::flag("true".to_owned(), "--handler-in-base")),
            requirements: text(&self.requirements, "--requirements"),
            base: text(&self.base, "--base"),
            glibc: text(&self.glibc, "--glibc"),
            interpreter: text(&self.interpreter, "--interpreter"),
            resolver: text(&self.resolver, "--resolver"),
            package: text(&self.package, "--package"),
            exclude_newer: text(&self.exclude_newer, "--exclude-newer"),
            extras: list(&self.extras, "--extra"),
            groups: list(&self.groups, "--group"),
            build: list(&self.builds, "--build"),
            exclude_packages: list(&self.exclude_packages, "--exclude-package"),
            exclude_in_packages: list(&self.exclude_in_packages, "--exclude-in-packages"),
            tags: list(&self.tags, "--tag"),
            exclude: list(&self.exclude, "--exclude"),
            plain_http: list(plain_http, "--plain-http"),
        }
    }
}

impl PushArguments {
    /// The references given, else the one that the image's own name is.
    fn references(&self) -> Result<Vec<Reference>, Failure> {
        let read = |text: &String| {
            let name: Name = text.strip_prefix("docker://").unwrap_or(text).parse()?;
            let reference = name.reference();
            reference.ok_or_else(|| Failure::no_registry(text))
        };
        if !self.references.is_empty() {
            return self.references.iter().map(read).collect();
        }
        let own = self
            .image
            .parse::<Name>()
            .ok()
            .and_then(|name| name.reference());
        own.map(|reference| vec![reference])
            .ok_or_else(|| Failure::no_registry(&self.image))
    }
}

fn tools(
    project: Option<&Path>,
    plain_http: Vec<String>,
    offline: bool,
    terminal: &Terminal,
) -> Result<Tools, Failure> {
    Surroundings::read().tools(project, plain_http, offline, terminal.progress())
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime =
        runtime.map_err(|error| Failure::bug(&format!("cannot start threads: {error}")))?;
    Ok(runtime.block_on(work))
}

fn write_metadata(path: &PathBuf, value: &serde_json::Value) -> Result<(), Failure> {
    let text = format!("{value:#}\n");
    std::fs::write(path, text).map_err(|error| Failure::cannot_write(path, &error))
}
