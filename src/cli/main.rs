//! The binary: argument tree, one short function a verb, exit code.
//!
//! Sole reader of argv, environment and clock; the library gets them as values. What is printed is
//! `terminal`'s, what a failure means is `failure`'s.

#![allow(
    clippy::doc_markdown,
    reason = "what documents an argument is its help text"
)]

mod backlog;
mod changes;
mod check;
mod diff;
mod differences;
mod event;
mod events;
mod failure;
mod findings;
mod functions;
mod inspect;
mod invoke;
mod opening;
mod page;
mod proof;
mod results;
mod running;
mod sarif;
mod sbom;
mod serve;
mod signals;
mod surroundings;
mod target;
mod terminal;
mod variables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lambimg::blob_store::BlobStore;
use lambimg::build::cache::{self, Contents, Selection};
use lambimg::build::locking::Upgrade;
use lambimg::build::outdated::{self, Outdated};
use lambimg::build::pinning::Renewal;
use lambimg::build::{self, Built, Tools, many};
use lambimg::config::{Config, Project, Setting};
use lambimg::lambda::sandbox;
use lambimg::oci::layer::Packing;
use lambimg::oci::reference::{Name, Reference};
use lambimg::plan::functions::Locks;
use lambimg::plan::reach::{self, Reach};
use lambimg::plan::{self, Plan, Policy, Request};
use lambimg::progress::in_words;
use lambimg::python::normalize_name;

use crate::check::CheckArguments;
use crate::diff::DiffArguments;
use crate::event::EventArguments;
use crate::failure::Failure;
use crate::functions::Failures;
use crate::inspect::InspectArguments;
use crate::invoke::InvokeArguments;
use crate::proof::{RebaseArguments, VerifyArguments};
use crate::results::{Done, ResultArguments};
use crate::sbom::{SbomArguments, SbomFormat};
use crate::serve::ServeArguments;
use crate::signals::block_on;
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

    /// Read what is in a registry from another first, as public.ecr.aws=REGISTRY/PREFIX
    #[arg(long = "mirror", global = true, value_name = "HOST=PLACE")]
    mirrors: Vec<String>,

    /// Trust the authorities in a file of PEM too
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<String>,
}

impl Arguments {
    /// The settings of every verb that uses the network.
    fn config(&self) -> Config {
        Config {
            plain_http: list_flag(&self.plain_http, "--plain-http"),
            mirrors: list_flag(&self.mirrors, "--mirror"),
            ca_file: text_flag(self.ca_file.as_ref(), "--ca-file"),
            ..Config::default()
        }
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build an image from a project into the local store
    Build(Box<BuildArguments>),
    /// Resolve what a project needs, pin its base and write both locks
    Lock(Box<LockArguments>),
    /// Push an image to a registry
    Push(PushArguments),
    /// Move an image to the newest of its base, or to another, without building it again
    ///
    /// Where the project in the current directory is configured for that base, and its lambimg.lock pins what the
    /// image leaves, the lock follows.
    Rebase(RebaseArguments),
    /// Build an image again in a fresh cache and compare it byte for byte, or compare two images
    ///
    /// What changed from one release to the next, and not which bytes, is what `lambimg diff` tells.
    Verify(Box<VerifyArguments>),
    /// Tell what changed from one image to another: packages, files, base, settings, sizes
    ///
    /// Bytes that no function reads are no change here, as dates and compression: for them there is
    /// `lambimg verify A --against B`. Exit code 0 whatever changed, but with --exit-code.
    Diff(DiffArguments),
    /// Apply every rule of Lambda's to an image, or to what a project gives; exit code 1 on errors
    Check(Box<CheckArguments>),
    /// Show what is in an image, or in what a project gives: config, base, layers, packages, files, and their sizes
    Inspect(Box<InspectArguments>),
    /// Print what software is in an image, or in what a project gives, as CycloneDX or SPDX
    Sbom(Box<SbomArguments>),
    /// Run an image, or what a project gives, as Lambda would, and call it; exit code 1 if the function fails
    ///
    /// Each response is a line on stdout, in the order of the events; the log is on stderr. Where no event is given
    /// it is read from stdin, as from `lambimg event`; several are called in turn, in the same environment.
    Invoke(Box<InvokeArguments>),
    /// Run an image, or what a project gives, behind the Invoke API on this machine, for boto3 and every SDK of AWS's
    ///
    /// The URL on stdout is what `endpoint_url` takes. The function's name is `function`, or the one that is shown.
    Serve(Box<ServeArguments>),
    /// Ask whether registries have a newer base, or newer images of extensions, than the lock; exit code 1 if so
    Outdated(OutdatedArguments),
    /// List the runtimes: Python, system, glibc, image, dates
    Bases(FormatArguments),
    /// Print what a source such as SQS sends to a function, for `lambimg invoke`; alone, list the sources
    Event(EventArguments),
    /// Look at the store of images, layers and wheels, or remove what is not needed
    #[command(subcommand)]
    Cache(CacheVerb),
}

#[derive(Debug, Subcommand)]
enum CacheVerb {
    /// Print where the store is
    Dir,
    /// Show what takes how much room
    Size(FormatArguments),
    /// Remove what no named image needs, once no other lambimg is at work
    Prune(PruneArguments),
}

#[derive(Debug, Args)]
struct PruneArguments {
    /// Remove made layers alone; wheels stay
    #[arg(long)]
    layers: bool,

    /// Remove only what was not used for so long, as 30d, and then names of images too; use is noted to a day
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,

    /// Remove everything, images with names too
    #[arg(long, conflicts_with_all = ["layers", "older_than"])]
    all: bool,
}

#[derive(Debug, Args)]
#[command(mut_arg("path", |path| path.help("The project's directory, or a deployment package: a zip file")))]
struct BuildArguments {
    #[command(flatten)]
    needs: NeedsArguments,

    #[command(flatten)]
    function: FunctionArguments,

    /// Build this function alone of a project that has several (repeatable; default: all)
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,

    /// Name for the image, perhaps with `{function}` in it; one in a registry can be pushed (repeatable)
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,

    /// Also write oci:DIR, oci-archive:FILE or docker-archive:FILE, or zip:FILE for Lambda's zip runtime (repeatable)
    #[arg(short, long = "output", value_name = "KIND:PATH")]
    outputs: Vec<String>,

    /// Push every name that is in a registry
    #[arg(long, conflicts_with = "offline")]
    push: bool,

    /// Attach what software is in it, as cyclonedx (default) or spdx, to each image that is pushed
    #[arg(long, value_enum, value_name = "FORMAT", requires = "push", num_args = 0..=1, require_equals = true, default_missing_value = "cyclonedx")]
    sbom: Option<SbomFormat>,

    #[command(flatten)]
    pushing: PushingArguments,

    /// Fail rather than make or change a lock, or decide what no lock does
    #[arg(long)]
    locked: bool,

    /// Make every layer anew, whoever has it
    #[arg(long)]
    no_cache: bool,

    /// Take over layers of this image, as of those at the tags that are pushed to (repeatable)
    #[arg(long = "cache-from", value_name = "REF")]
    cache_from: Vec<String>,

    /// Compress everything anew, the same files in other bytes: what to try where a layer is suspected
    #[arg(long, hide = true)]
    recompress: bool,

    /// Print the plan and the function's files, and build nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    results: ResultArguments,
}

/// What else decides the files of an image.
#[derive(Debug, Args)]
struct FunctionArguments {
    /// Module and function, as app.handler
    #[arg(long)]
    handler: Option<String>,

    /// The base brings the handler's module, as images with wrappers do
    #[arg(long)]
    handler_in_base: bool,

    /// Whether the project goes in as its wheel: true or false
    #[arg(long, value_name = "BOOL")]
    package: Option<String>,

    /// Leave out a package that the base brings (repeatable)
    #[arg(long = "exclude-package", value_name = "NAME")]
    exclude_packages: Vec<String>,

    /// Leave files out of packages, by gitignore's rules below the task root (repeatable)
    #[arg(long = "exclude-in-packages", value_name = "PATTERN")]
    exclude_in_packages: Vec<String>,

    /// As many layers as dependencies may take; 1 has them all in one
    #[arg(long, value_name = "N")]
    layers: Option<String>,

    /// Leave out files by gitignore's rules (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Put no bytecode into the image: each cold start then compiles what it imports
    #[arg(long)]
    no_bytecode: bool,
}

/// What decides which packages go into an image.
#[derive(Debug, Args)]
struct NeedsArguments {
    /// The project's directory
    #[arg(default_value = ".")]
    path: PathBuf,

    /// Python version, as 3.12
    #[arg(long, value_name = "VERSION")]
    python: Option<String>,

    /// x86_64 or arm64
    #[arg(long)]
    arch: Option<String>,

    /// What to install: requirements, pyproject.toml, or a lock of uv, poetry, pipenv or the standard
    #[arg(long, value_name = "FILE")]
    requirements: Option<String>,

    /// Base image: a registry reference, `host`, oci:DIR, oci-archive:FILE or docker-archive:FILE
    #[arg(long)]
    base: Option<String>,

    /// glibc of a base that does not say it, as 2.36
    #[arg(long, value_name = "VERSION")]
    glibc: Option<String>,

    /// CPython that `--base host` is made of, and that compiles
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

    /// Resolve as if no package were newer, as 2026-11-01
    #[arg(long, value_name = "DATE")]
    exclude_newer: Option<String>,

    /// Use no network
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, Args)]
struct LockArguments {
    #[command(flatten)]
    needs: NeedsArguments,

    /// Keep no version of the locks there are, but the base
    #[arg(long)]
    upgrade: bool,

    /// Take what the base's tag is now
    #[arg(long, conflicts_with = "offline")]
    upgrade_base: bool,

    /// Do not keep the version of this package (repeatable)
    #[arg(
        long = "upgrade-package",
        value_name = "NAME",
        conflicts_with = "upgrade"
    )]
    upgrade_packages: Vec<String>,
}

#[derive(Debug, Args)]
struct OutdatedArguments {
    /// The project's directory
    #[arg(default_value = ".")]
    path: PathBuf,

    /// Python version, as 3.12
    #[arg(long, value_name = "VERSION")]
    python: Option<String>,

    /// x86_64 or arm64
    #[arg(long)]
    arch: Option<String>,

    /// Base image, by its tag in a registry
    #[arg(long)]
    base: Option<String>,

    #[command(flatten)]
    format: FormatArguments,
}

/// What a push may do.
#[derive(Debug, Args)]
struct PushingArguments {
    /// Create a repository of ECR that is missing; others are by being pushed to
    #[arg(long)]
    create_repository: bool,

    /// Refuse to move a tag that is another image's
    #[arg(long)]
    immutable_tags: bool,

    /// Move such a tag all the same, as far as the registry lets it
    #[arg(long, conflicts_with = "immutable_tags")]
    force: bool,
}

impl PushingArguments {
    fn config(&self) -> Config {
        let flag = |value: bool, flag| value.then(|| Setting::flag("true".to_owned(), flag));
        let forced = self
            .force
            .then(|| Setting::flag("false".to_owned(), "--force"));
        Config {
            create_repository: flag(self.create_repository, "--create-repository"),
            immutable_tags: forced.or(flag(self.immutable_tags, "--immutable-tags")),
            ..Config::default()
        }
    }
}

#[derive(Debug, Args)]
struct PushArguments {
    /// A name in the store, oci:DIR, oci-archive:FILE, docker-archive:FILE or a registry reference behind `docker://`
    image: String,

    /// Where to (default: the image's own name)
    references: Vec<String>,

    /// Attach what software is in it, as cyclonedx (default) or spdx
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "cyclonedx")]
    sbom: Option<SbomFormat>,

    #[command(flatten)]
    pushing: PushingArguments,

    #[command(flatten)]
    results: ResultArguments,
}

#[derive(Debug, Args)]
struct FormatArguments {
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
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == sandbox::HELPER)
    {
        return sandbox::run_helper(arguments.next().as_deref());
    }
    failure::exit_70_on_panic();
    surroundings::allow_many_files();
    let arguments = Arguments::parse();
    let terminal = Terminal::new(arguments.progress, arguments.quiet, arguments.verbose);
    let result = run(&arguments, &terminal);
    terminal.finish();
    match result {
        Ok(code) => code,
        Err(failure) => {
            terminal.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}

fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode, Failure> {
    match &arguments.verb {
        Verb::Outdated(wanted) => return run_outdated(arguments, wanted, terminal),
        Verb::Check(wanted) => return check::check(arguments, wanted, terminal),
        Verb::Diff(wanted) => return diff::diff(arguments, wanted, terminal),
        Verb::Sbom(wanted) => sbom::sbom(arguments, wanted, terminal),
        Verb::Invoke(wanted) => return invoke::invoke(arguments, wanted, terminal),
        Verb::Serve(wanted) => return serve::serve(arguments, wanted, terminal),
        Verb::Build(wanted) => run_build(arguments, wanted, terminal),
        Verb::Lock(wanted) => run_lock(arguments, wanted, terminal),
        Verb::Push(push) => run_push(arguments, push, terminal),
        Verb::Rebase(wanted) => proof::rebase(arguments, wanted, terminal),
        Verb::Verify(wanted) => proof::verify(arguments, wanted, terminal),
        Verb::Bases(bases) => {
            let today = surroundings::today();
            match bases.format {
                Format::Table => terminal.print(&terminal::bases_table(&today)),
                Format::Json => terminal.print(&terminal::bases_json(&today)),
            }
        }
        Verb::Inspect(wanted) => inspect::inspect(arguments, wanted, terminal),
        Verb::Event(wanted) => event::event(wanted, terminal),
        Verb::Cache(verb) => run_cache(verb, terminal),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn run_cache(verb: &CacheVerb, terminal: &Terminal) -> Result<(), Failure> {
    // A misspelt variable would have another store looked at than was meant.
    Config::from_variables(surroundings::settings()?)?;
    let here = Surroundings::read();
    let directory = here.store_directory()?;
    match verb {
        CacheVerb::Dir => terminal.print(&format!("{}\n", directory.display())),
        CacheVerb::Size(wanted) => {
            let contents = Contents::of(&BlobStore::at(directory))?;
            terminal.print(&match wanted.format {
                Format::Table => terminal::cache_table(&contents),
                Format::Json => terminal::cache_json(directory, &contents),
            })
        }
        CacheVerb::Prune(wanted) => {
            let store = here.store()?;
            let freed = cache::prune(&store, wanted.selection(), &terminal.progress())?;
            terminal.freed(&freed);
            Ok(())
        }
    }
}

/// Keeps the store from growing without end.
fn limit_store(limit: Option<u64>, tools: &Tools, terminal: &Terminal) {
    let Some(limit) = limit else { return };
    match cache::keep_below(&tools.store, limit) {
        Ok(freed) if freed == cache::Freed::default() => {}
        Ok(freed) => terminal.freed(&freed),
        // The build itself is done.
        Err(error) => tools.progress.warn(format!(
            "the store stays larger than it may be: {}",
            in_words(&error)
        )),
    }
}

fn run_build(
    arguments: &Arguments,
    wanted: &BuildArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let limit = surroundings::cache_limit()?;
    let project = Project::open(&wanted.needs.path)?;
    let flags = wanted
        .config()
        .or(arguments.config())
        .or(Config::from_variables(surroundings::settings()?)?);
    let chosen = plan::functions::choose(&project, &wanted.functions)?;
    plan::functions::check_handler(&flags, &chosen)?;
    let reach = reach::reach(&project.root, &flags.clone().or(project.config.clone()))?;
    let locks = Locks::default();
    let plans = functions::each(&chosen, terminal, |project| {
        let mut config = flags.clone().or(project.config.clone());
        opening::usual_handler(project, &mut config, terminal)?;
        let locks = locks.clone();
        Ok(plan::make(project, wanted.request(config, locks)?)?)
    })?;
    plan::functions::check_together(&plans, &surroundings::directory())?;
    if wanted.dry_run {
        let tools = tools(Some(&project.root), &reach, true, terminal)?;
        return terminal.print(&dry_run(&plans, &tools)?);
    }
    let results = wanted.results.open(terminal)?;
    let offline = wanted.needs.offline;
    let tools = tools(Some(&project.root), &reach, offline, terminal)?;
    // One that is named is told of as if there were no others.
    let is_one = chosen[0].function.is_none() || wanted.functions.len() == 1;
    let work = async {
        let mut all = Vec::new();
        let built = many::build_all(plans, &tools).await;
        for (mut built, project) in built.into_iter().zip(&chosen) {
            let attached = match &mut built {
                Ok(Built { image, pushed, .. }) => {
                    sbom::attach(wanted.sbom, image, pushed, &tools).await
                }
                Err(_) => Ok(()),
            };
            let function = functions::name_of(project).map(str::to_owned);
            all.push(Done {
                function,
                built,
                attached,
            });
        }
        all
    };
    let done = block_on(work)?;
    // What failed has brought wheels and layers too, which the next run takes.
    limit_store(limit, &tools, terminal);
    results.built(done, is_one)
}

/// What would be built, function by function.
fn dry_run(plans: &[Plan], tools: &Tools) -> Result<String, Failure> {
    let mut texts = Vec::new();
    for plan in plans {
        let of_function = |failure: Failure| {
            let name = plan.function.clone();
            failure.of_functions(&name.into_iter().collect::<Vec<_>>())
        };
        texts.push(dry_run_of(plan, tools).map_err(of_function)?);
    }
    Ok(texts.join("\n"))
}

fn dry_run_of(plan: &Plan, tools: &Tools) -> Result<String, Failure> {
    let tree = build::function_tree(plan).map_err(build::Error::from)?;
    let extra = build::files::tree(plan).map_err(build::Error::from)?;
    let is_package = build::project::is_package(plan)?;
    let outline = build::dependencies::outline(plan)?;
    let compiler = block_on(build::foreseen_compiler(plan, tools))??;
    let trees = [&extra, &tree];
    Ok(terminal::dry_run(
        plan,
        &outline,
        compiler.as_ref(),
        trees,
        is_package,
    ))
}

fn run_lock(
    arguments: &Arguments,
    wanted: &LockArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let limit = surroundings::cache_limit()?;
    let project = Project::read(&wanted.needs.path)?;
    let flags = wanted
        .needs
        .config()
        .or(arguments.config())
        .or(Config::from_variables(surroundings::settings()?)?);
    let reach = reach::reach(&project.root, &flags.clone().or(project.config.clone()))?;
    let policy = Policy {
        offline: wanted.needs.offline,
        ..Policy::default()
    };
    let plans = any_plans(&project, &flags, policy, terminal)?;
    let offline = wanted.needs.offline;
    let tools = tools(Some(&project.root), &reach, offline, terminal)?;
    let renewal = Renewal {
        base: wanted.upgrade_base,
        others: wanted.upgrade(),
    };
    let paths = block_on(build::lock(plans, renewal, &tools))?;
    limit_store(limit, &tools, terminal);
    let paths = paths.map_err(|many::Unlocked { function, error }| {
        let function: Vec<_> = function.into_iter().collect();
        Failure::from(error).of_functions(&function)
    })?;
    for path in paths {
        terminal.print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

/// Plans of all functions, whichever handlers they have: neither locks nor bases are decided by those.
fn any_plans(
    project: &Project,
    flags: &Config,
    policy: Policy,
    terminal: &Terminal,
) -> Result<Vec<Plan>, Failure> {
    let all = plan::functions::choose(project, &[])?;
    let locks = Locks::default();
    functions::each(&all, terminal, |project| {
        let mut config = flags.clone().or(project.config.clone());
        any_handler(&mut config);
        let request = Request {
            config,
            locks: locks.clone(),
            policy,
            epoch: surroundings::variable("SOURCE_DATE_EPOCH")?,
            today: surroundings::today(),
            ..Request::default()
        };
        Ok(plan::make(project, request)?)
    })
}

/// Has a plan ask for no handler of whoever needs none.
fn any_handler(config: &mut Config) {
    if config.cmd.is_none() {
        let any = || Setting::flag("any.handler".to_owned(), "--handler");
        config.handler.get_or_insert_with(any);
    }
}

fn run_outdated(
    arguments: &Arguments,
    wanted: &OutdatedArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let project = Project::read(&wanted.path)?;
    let flags = wanted
        .config()
        .or(arguments.config())
        .or(Config::from_variables(surroundings::settings()?)?);
    let reach = reach::reach(&project.root, &flags.clone().or(project.config.clone()))?;
    let plans = any_plans(&project, &flags, Policy::default(), terminal)?;
    let tools = tools(Some(&project.root), &reach, false, terminal)?;
    let mut failures = Failures::default();
    let (mut seen, mut all) = (BTreeSet::new(), Vec::new());
    for plan in &plans {
        for question in outdated::questions(plan) {
            // Functions that have one image have one answer.
            if seen.insert(question.name()) {
                let found = block_on(question.ask(&tools))?.map_err(of_outdated);
                all.extend(failures.none(plan.function.as_deref(), found));
            }
        }
    }
    let is_one = project.config.functions.is_empty();
    if !all.is_empty() {
        terminal.print(&match wanted.format.format {
            Format::Table => terminal::outdated_table(&all),
            Format::Json => terminal::outdated_json(&all, is_one),
        })?;
    }
    failures.end(terminal)?;
    Ok(if all.iter().any(Outdated::is_outdated) {
        ExitCode::from(failure::REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}

fn of_outdated(error: build::Error) -> Failure {
    let is_unpinned = matches!(error, build::Error::Pinned { .. });
    let mut failure = Failure::from(error);
    // That code says that there is a newer base.
    if is_unpinned {
        failure.code = failure::USAGE;
    }
    failure
}

fn run_push(
    arguments: &Arguments,
    push: &PushArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    // Of the project at hand only what is said of registries counts.
    let project = Project::read(Path::new("."))?;
    let config = push
        .pushing
        .config()
        .or(arguments.config())
        .or(Config::from_variables(surroundings::settings()?)?)
        .or(project.config);
    let reach = reach::reach(&project.root, &config)?;
    let references = push.references()?;
    let results = push.results.open(terminal)?;
    let tools = tools(None, &reach, false, terminal)?;
    let work = async {
        let image = build::open(&push.image, &tools).await?;
        let mut pushed = build::push_all(&image, &references, &tools).await?;
        let attached = sbom::attach(push.sbom, &image, &mut pushed, &tools).await;
        Ok::<_, build::Error>(((image, pushed), attached))
    };
    let done = block_on(work)?;
    cache::tell_damage(&tools);
    let (pushed, attached) = sbom::apart(done);
    results.pushed(pushed)?;
    Ok(attached?)
}

fn text_flag(value: Option<&String>, flag: &'static str) -> Option<Setting> {
    value.map(|value| Setting::flag(value.clone(), flag))
}

fn list_flag(value: &[String], flag: &'static str) -> Option<Setting<Vec<String>>> {
    (!value.is_empty()).then(|| Setting::flag(value.to_vec(), flag))
}

impl NeedsArguments {
    fn config(&self) -> Config {
        Config {
            python: text_flag(self.python.as_ref(), "--python"),
            arch: text_flag(self.arch.as_ref(), "--arch"),
            requirements: text_flag(self.requirements.as_ref(), "--requirements"),
            base: text_flag(self.base.as_ref(), "--base"),
            glibc: text_flag(self.glibc.as_ref(), "--glibc"),
            interpreter: text_flag(self.interpreter.as_ref(), "--interpreter"),
            resolver: text_flag(self.resolver.as_ref(), "--resolver"),
            exclude_newer: text_flag(self.exclude_newer.as_ref(), "--exclude-newer"),
            extras: list_flag(&self.extras, "--extra"),
            groups: list_flag(&self.groups, "--group"),
            build: list_flag(&self.builds, "--build"),
            ..Config::default()
        }
    }
}

impl BuildArguments {
    fn request(&self, config: Config, locks: Locks) -> Result<Request, Failure> {
        let own_files = self.results.metadata_file.iter().cloned();
        Ok(Request {
            config,
            locks,
            outputs: self.outputs.clone(),
            own_files: own_files.chain(Surroundings::read().cache()).collect(),
            push: self.push,
            policy: Policy {
                locked: self.locked,
                offline: self.needs.offline,
                no_cache: self.no_cache,
                packing: if self.recompress {
                    Packing::Recompressed
                } else {
                    Packing::Spliced
                },
            },
            epoch: surroundings::variable("SOURCE_DATE_EPOCH")?,
            today: surroundings::today(),
        })
    }

    fn config(&self) -> Config {
        let names = Config {
            tags: list_flag(&self.tags, "--tag"),
            cache_from: list_flag(&self.cache_from, "--cache-from"),
            ..Config::default()
        };
        names
            .or(self.function.config())
            .or(self.needs.config())
            .or(self.pushing.config())
    }
}

impl FunctionArguments {
    fn config(&self) -> Config {
        let in_base = self.handler_in_base.then(|| "true".to_owned());
        let bytecode = self.no_bytecode.then(|| "false".to_owned());
        Config {
            handler: text_flag(self.handler.as_ref(), "--handler"),
            handler_in_base: text_flag(in_base.as_ref(), "--handler-in-base"),
            bytecode: text_flag(bytecode.as_ref(), "--no-bytecode"),
            package: text_flag(self.package.as_ref(), "--package"),
            exclude_packages: list_flag(&self.exclude_packages, "--exclude-package"),
            exclude_in_packages: list_flag(&self.exclude_in_packages, "--exclude-in-packages"),
            layers: text_flag(self.layers.as_ref(), "--layers"),
            exclude: list_flag(&self.exclude, "--exclude"),
            ..Config::default()
        }
    }
}

impl OutdatedArguments {
    fn config(&self) -> Config {
        Config {
            python: text_flag(self.python.as_ref(), "--python"),
            arch: text_flag(self.arch.as_ref(), "--arch"),
            base: text_flag(self.base.as_ref(), "--base"),
            ..Config::default()
        }
    }
}

impl PruneArguments {
    fn selection(&self) -> Selection {
        if self.all {
            return Selection::All;
        }
        Selection::Unneeded {
            only_made_layers: self.layers,
            unused_since: self.older_than.map(surroundings::before),
        }
    }
}

impl LockArguments {
    fn upgrade(&self) -> Upgrade {
        if self.upgrade {
            return Upgrade::Everything;
        }
        let names = self.upgrade_packages.iter();
        let names: BTreeSet<_> = names.map(|name| normalize_name(name)).collect();
        if names.is_empty() {
            Upgrade::Nothing
        } else {
            Upgrade::Packages(names)
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
    reach: &Reach,
    offline: bool,
    terminal: &Terminal,
) -> Result<Tools, Failure> {
    Surroundings::read().tools(project, reach, offline, terminal.progress())
}
