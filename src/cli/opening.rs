//! How the verbs that take an image or a project come to either: by its settings, and with which tools.
//!
//! An image is not built, so flags that say how are refused; a project is planned to be built under no name. What is
//! done with them is not known here.

use std::path::Path;

use clap::Args;
use lambimg::build::package::reading;
use lambimg::build::{self, Tools};
use lambimg::config::{Config, Project, Setting};
use lambimg::plan::reach;
use lambimg::plan::{self, Plan, Policy, Request};

use crate::Arguments;
use crate::FunctionArguments;
use crate::NeedsArguments;
use crate::failure::Failure;
use crate::functions::ChoiceArguments;
use crate::proof::config_of;
use crate::surroundings::{self, Surroundings};
use crate::target::{self, Target};
use crate::terminal::Terminal;
use crate::tools;

/// Which image or project it is, and how a project is built.
#[derive(Debug, Args)]
#[command(mut_arg("path", |path| path.value_name("IMAGE|PATH").help(target::HELP)))]
pub(crate) struct OpeningArguments {
    #[command(flatten)]
    needs: NeedsArguments,

    #[command(flatten)]
    pub(crate) function: FunctionArguments,

    #[command(flatten)]
    choice: ChoiceArguments,

    /// Fail rather than make or change a lock of the project
    #[arg(long)]
    locked: bool,
}

impl OpeningArguments {
    /// What the argument means.
    pub(crate) fn target(&self, terminal: &Terminal) -> Result<Target, Failure> {
        Target::of(&self.needs.path, terminal)
    }

    /// What decides how a project is built.
    pub(crate) fn building(&self) -> Config {
        self.function.config().or(self.needs.config())
    }

    pub(crate) fn opening<'a>(
        &'a self,
        arguments: &'a Arguments,
        terminal: &'a Terminal,
    ) -> Opening<'a> {
        Opening {
            arguments,
            terminal,
            offline: self.needs.offline,
            locked: self.locked,
            choice: &self.choice,
        }
    }
}

/// Has the function of a deployment package called as Lambda itself would, where nobody says otherwise and its module
/// is there.
pub(crate) fn usual_handler(
    project: &Project,
    config: &mut Config,
    terminal: &Terminal,
) -> Result<(), Failure> {
    if !project.is_archive || config.handler.is_some() {
        return Ok(());
    }
    let found = reading::usual_handler(&project.root).map_err(build::function::Error::from);
    if let Some(handler) = found.map_err(build::Error::from)? {
        terminal.note(&format!(
            "the handler is `{handler}`, as Lambda has it where nobody names another"
        ));
        config.handler = Some(Setting::flag(handler.to_owned(), "--handler"));
    }
    Ok(())
}

/// What the command line says of it, beside its settings.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    arguments: &'a Arguments,
    terminal: &'a Terminal,
    offline: bool,
    /// Whether no lock may be made or changed.
    locked: bool,
    /// Which of a project's functions it is.
    choice: &'a ChoiceArguments,
}

impl Opening<'_> {
    /// The settings and the tools for an image. `building` is what flags say of a build, without what an image can be
    /// asked for too.
    pub(crate) fn image(
        &self,
        text: &str,
        building: &Config,
        flags: &Config,
    ) -> Result<(Config, Tools), Failure> {
        if *building != Config::default() || self.locked || self.choice.function.is_some() {
            return Err(Failure::image_is_not_built(text));
        }
        // Of the project at hand only what is said of registries and of checks counts.
        let project = Project::open(Path::new("."))?;
        let config = config_of(&project, flags, self.arguments)?;
        let reach = reach::reach(&project.root, &config)?;
        let tools = tools(None, &reach, self.offline, self.terminal)?;
        Ok((config, tools))
    }

    /// A project, as its one or chosen function's own, and its settings.
    pub(crate) fn project(
        &self,
        path: &Path,
        flags: &Config,
    ) -> Result<(Project, Config), Failure> {
        let project = self.choice.of(&Project::open(path)?)?;
        let mut config = config_of(&project, flags, self.arguments)?;
        usual_handler(&project, &mut config, self.terminal)?;
        Ok((project, config))
    }

    /// How a project is built, in the store under no name, and the tools for it.
    pub(crate) fn plan(&self, project: &Project, config: Config) -> Result<(Plan, Tools), Failure> {
        let reach = reach::reach(&project.root, &config)?;
        let offline = self.offline;
        let request = Request {
            config,
            own_files: Surroundings::read().cache().into_iter().collect(),
            policy: Policy {
                locked: self.locked,
                offline,
                ..Policy::default()
            },
            epoch: surroundings::variable("SOURCE_DATE_EPOCH")?,
            today: surroundings::today(),
            ..Request::default()
        };
        let mut plan = plan::make(project, request)?;
        plan.names.clear();
        let tools = tools(Some(&project.root), &reach, offline, self.terminal)?;
        Ok((plan, tools))
    }
}
