//! The verbs that prove images and move them: `verify` and `rebase`.

use std::path::Path;

use clap::Args;
use lambimg::build::{Tools, cache, rebase, verify};
use lambimg::config::{Config, Project};
use lambimg::oci::layout::Place;
use lambimg::oci::reference::{Name, Reference};
use lambimg::plan::{self, Policy, Request, functions, reach};

use crate::Arguments;
use crate::Format;
use crate::FormatArguments;
use crate::FunctionArguments;
use crate::NeedsArguments;
use crate::PushingArguments;
use crate::block_on;
use crate::differences;
use crate::failure::Failure;
use crate::functions::ChoiceArguments;
use crate::results::ResultArguments;
use crate::surroundings::{self, Surroundings};
use crate::terminal::Terminal;
use crate::tools;

#[derive(Debug, Args)]
pub(crate) struct RebaseArguments {
    /// A name in the store, oci:DIR, oci-archive:FILE, docker-archive:FILE or a registry reference behind `docker://`
    image: String,

    /// The new base (default: what the old one's name is now)
    #[arg(long, value_name = "REFERENCE")]
    onto: Option<String>,

    /// Name for the moved image (default: the image's own; repeatable)
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,

    /// Push every name that is in a registry
    #[arg(long)]
    push: bool,

    #[command(flatten)]
    pushing: PushingArguments,

    #[command(flatten)]
    results: ResultArguments,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// A name in the store, oci:DIR, oci-archive:FILE, docker-archive:FILE or a registry reference behind `docker://`
    image: String,

    #[command(flatten)]
    needs: NeedsArguments,

    #[command(flatten)]
    function: FunctionArguments,

    #[command(flatten)]
    choice: ChoiceArguments,

    /// Compare with another image, and build nothing
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["NeedsArguments", "FunctionArguments", "ChoiceArguments"])]
    against: Option<String>,

    #[command(flatten)]
    format: FormatArguments,
}

/// Moves an image to a newer base.
pub(crate) fn rebase(
    arguments: &Arguments,
    wanted: &RebaseArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let onto = wanted.onto.as_ref().map(|text| {
        let text = text.strip_prefix("docker://").unwrap_or(text);
        Reference::read(text)
    });
    let names: Result<_, _> = wanted.tags.iter().map(|name| name.parse()).collect();
    let results = wanted.results.open(terminal)?;
    let project = Project::read(Path::new("."))?;
    let config = config_of(&project, &wanted.pushing.config(), arguments)?;
    let bases = functions::choose(&project, &[])?
        .into_iter()
        .filter_map(|function| {
            let config = config_of(&function, &wanted.pushing.config(), arguments).ok()?;
            match plan::base(&function, &config) {
                Ok(plan::Base::Registry(base)) => Some(base),
                // One that says none of its own accord is built on no base that could be followed.
                _ => None,
            }
        });
    let request = rebase::Request {
        image: wanted.image.clone(),
        onto: onto.transpose()?,
        names: names?,
        push: wanted.push,
        project: (project.root.clone(), bases.collect()),
    };
    let reach = reach::reach(&project.root, &config)?;
    let tools = tools(None, &reach, false, terminal)?;
    let done = block_on(rebase::rebase(&request, &tools))?;
    cache::tell_damage(&tools);
    let rebased = results.or_partly(done)?;
    terminal.step(&if rebased.from == rebased.to {
        format!("the base {} is current: {}", rebased.base, rebased.to)
    } else {
        format!(
            "moved from the base {} to {}@{}",
            rebased.from, rebased.base, rebased.to
        )
    });
    terminal.pushed(&rebased.pushed);
    let names = rebased.names.iter().map(Name::without_version);
    results.named(&rebased.image, names, &rebased.pushed)
}

/// Proves an image, or compares two.
pub(crate) fn verify(
    arguments: &Arguments,
    wanted: &VerifyArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    if wanted.needs.offline {
        return Err(Failure::offline_proof());
    }
    // Removed with all that is in it when this ends.
    let own = tempfile::Builder::new().prefix("lambimg-verify-").tempdir();
    let own = own.map_err(|error| Failure::no_directory(&std::env::temp_dir(), &error))?;
    let report = match &wanted.against {
        Some(other) => {
            let tools = tools_for_images(arguments, false, terminal)?;
            block_on(verify::compare(&wanted.image, other, own.path(), &tools))??
        }
        None => build_again(arguments, wanted, own.path(), terminal)?,
    };
    print_report(&report, wanted, terminal)
}

/// Flags, then variables, then the project's file.
pub(crate) fn config_of(
    project: &Project,
    flags: &Config,
    arguments: &Arguments,
) -> Result<Config, Failure> {
    Ok(flags
        .clone()
        .or(arguments.config())
        .or(Config::from_variables(surroundings::settings()?)?)
        .or(project.config.clone()))
}

/// Tools for work on images; of the project at hand only what is said of registries counts.
pub(crate) fn tools_for_images(
    arguments: &Arguments,
    offline: bool,
    terminal: &Terminal,
) -> Result<Tools, Failure> {
    let project = Project::read(Path::new("."))?;
    let config = config_of(&project, &Config::default(), arguments)?;
    let reach = reach::reach(&project.root, &config)?;
    tools(None, &reach, offline, terminal)
}

fn build_again(
    arguments: &Arguments,
    wanted: &VerifyArguments,
    directory: &Path,
    terminal: &Terminal,
) -> Result<verify::Report, Failure> {
    let project = wanted.choice.of(&Project::read(&wanted.needs.path)?)?;
    let config = wanted
        .function
        .config()
        .or(wanted.needs.config())
        .or(arguments.config())
        .or(Config::from_variables(surroundings::settings()?)?)
        .or(project.config.clone());
    let reach = reach::reach(&project.root, &config)?;
    let image = wanted.image.parse::<Place>().ok().map(|place| place.path);
    let request = Request {
        config,
        // The image may lie in its own project.
        own_files: image
            .into_iter()
            .chain(Surroundings::read().cache())
            .collect(),
        policy: Policy {
            locked: true,
            // A proof takes nothing from anybody.
            no_cache: true,
            ..Policy::default()
        },
        epoch: surroundings::variable("SOURCE_DATE_EPOCH")?,
        today: surroundings::today(),
        ..Request::default()
    };
    let plan = plan::make(&project, request)?;
    let tools = tools(Some(&project.root), &reach, false, terminal)?;
    block_on(verify::verify(&wanted.image, plan, directory, &tools))?.map_err(Failure::from)
}

fn print_report(
    report: &verify::Report,
    wanted: &VerifyArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let image = &wanted.image;
    if report.same && report.first != report.second {
        let (first, second) = (report.first, report.second);
        terminal.step(&format!(
            "the same image in other media types: {first} and {second}"
        ));
    }
    match wanted.format.format {
        Format::Json => terminal.print(&differences::json(report))?,
        Format::Table if report.same => {
            let text = image.strip_prefix("docker://").unwrap_or(image);
            let is_place = image.parse::<Place>().is_ok();
            let name: Option<Name> = text.parse().ok().filter(|_| !is_place);
            let digest = report.first;
            terminal.print(&match name {
                Some(name) => format!("{}@{digest}\n", name.without_version()),
                None => format!("{digest}\n"),
            })?;
        }
        Format::Table => {
            let sides = match wanted.against {
                Some(_) => ["FIRST", "SECOND"],
                None => ["IMAGE", "BUILT AGAIN"],
            };
            terminal.print(&differences::table(report, sides))?;
        }
    }
    if report.same {
        return Ok(());
    }
    let other = wanted.against.as_ref().map(|other| format!("`{other}`"));
    let other = other.unwrap_or_else(|| "what the project gives".to_owned());
    Err(Failure::differs(image, &other, report))
}
