//! The verb `sbom`, and what `--sbom` has done after a push.
//!
//! What is in an image, and how a document says it, is the library's.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lambimg::build::sbom::{self, Format};
use lambimg::build::{self, Pushed, Tools, checking, pushing};
use lambimg::config::Config;
use lambimg::lambda::Architecture;
use lambimg::lambda::check::subject::Subject;
use lambimg::oci::image::Image;
use lambimg::oci::layout::Place;
use lambimg::oci::reference::{Name, Reference};
use lambimg::plan;
use lambimg::plan::functions;

use crate::Arguments;
use crate::block_on;
use crate::failure::Failure;
use crate::limit_store;
use crate::opening::OpeningArguments;
use crate::surroundings;
use crate::target::Target;
use crate::terminal::Terminal;

#[derive(Debug, Args)]
pub(crate) struct SbomArguments {
    #[command(flatten)]
    opening: OpeningArguments,

    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: SbomFormat,

    /// Write it there, and not to stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SbomFormat {
    /// CycloneDX 1.6, JSON
    #[default]
    Cyclonedx,
    /// SPDX 2.3, JSON
    Spdx,
}

impl From<SbomFormat> for Format {
    fn from(format: SbomFormat) -> Self {
        match format {
            SbomFormat::Cyclonedx => Self::CycloneDx,
            SbomFormat::Spdx => Self::Spdx,
        }
    }
}

/// Prints what software is in an image, or in what a project gives.
pub(crate) fn sbom(
    arguments: &Arguments,
    wanted: &SbomArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let document = match wanted.opening.target(terminal)? {
        Target::Image(image) => of_image(arguments, wanted, &image, terminal),
        Target::Project(path) => of_project(arguments, wanted, &path, terminal),
    }?;
    match &wanted.output {
        Some(path) => {
            fs::write(path, document).map_err(|error| Failure::cannot_write(path, &error))
        }
        None => terminal.print(&document),
    }
}

fn of_image(
    arguments: &Arguments,
    wanted: &SbomArguments,
    text: &str,
    terminal: &Terminal,
) -> Result<String, Failure> {
    let building = wanted.opening.building();
    let architecture = plan::wanted_architecture(&building)?.map(Architecture::oci);
    let others = Config {
        arch: None,
        ..building
    };
    let opening = wanted.opening.opening(arguments, terminal);
    let (_, tools) = opening.image(text, &others, &Config::default())?;
    let limit = surroundings::cache_limit()?;
    let today = surroundings::today();
    let subject = block_on(checking::open(text, architecture, &today, &tools))??;
    limit_store(limit, &tools, terminal);
    document(&subject, name_of(text).as_ref(), wanted, &tools)
}

/// What the image is called elsewhere too; where it lies says nothing of that.
fn name_of(text: &str) -> Option<Name> {
    if let Some(rest) = text.strip_prefix("docker://") {
        let reference = Reference::read(rest).ok()?;
        return Some(Name {
            registry: Some(reference.registry),
            repository: reference.repository,
            tag: None,
            digest: None,
        });
    }
    if text.parse::<Place>().is_ok() {
        return None;
    }
    text.parse().ok()
}

fn of_project(
    arguments: &Arguments,
    wanted: &SbomArguments,
    path: &Path,
    terminal: &Terminal,
) -> Result<String, Failure> {
    let limit = surroundings::cache_limit()?;
    let opening = wanted.opening.opening(arguments, terminal);
    let (project, config) = opening.project(path, &wanted.opening.building())?;
    let tags = functions::filled_list(config.tags.clone(), &project)?;
    let mut tags = tags.iter().flat_map(|tags| &tags.value);
    let name = tags.find_map(|tag| tag.parse::<Name>().ok());
    let (mut plan, tools) = opening.plan(&project, config)?;
    plan.own_files.extend(wanted.output.clone());
    let architecture = plan.architecture.oci();
    let today = surroundings::today();
    let work = async {
        let built = build::build(plan, &tools).await?;
        checking::built(&built.image, Some(architecture), &today, &tools).await
    };
    let subject = block_on(work)??;
    limit_store(limit, &tools, terminal);
    document(&subject, name.as_ref(), wanted, &tools)
}

fn document(
    subject: &Subject,
    name: Option<&Name>,
    wanted: &SbomArguments,
    tools: &Tools,
) -> Result<String, Failure> {
    let wheels = sbom::wheels(&tools.store, subject);
    let document = sbom::document(subject, name, &wheels, wanted.format.into());
    document.map_err(Failure::from)
}

/// Attaches a document of this form to what was pushed, if one is wanted.
pub(crate) async fn attach(
    format: Option<SbomFormat>,
    image: &Image,
    pushed: &mut [Pushed],
    tools: &Tools,
) -> Result<(), build::Error> {
    match format {
        Some(format) => pushing::attach(image, pushed, format.into(), tools).await,
        None => Ok(()),
    }
}

/// What was done, and apart from it what became of its document: of an image that is there it is told even where its
/// document is not.
pub(crate) fn apart<T>(
    done: Result<(T, Result<(), build::Error>), build::Error>,
) -> (Result<T, build::Error>, Result<(), build::Error>) {
    match done {
        Ok((done, attached)) => (Ok(done), attached),
        Err(error) => (Err(error), Ok(())),
    }
}
