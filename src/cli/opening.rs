//! How the verbs that take an image or a project come to either: by its settings, and with which tools.
//!
//! An image is not built, so flags that say how are refused; a project is planned to be built under no name. What is
//! done with them is not known here.

use std::path::Path;

use lambimg::build::Tools;
use lambimg::config::{Config, Project};
use lambimg::plan::reach;
use lambimg::plan::{self, Plan, Policy, Request};

use crate::Arguments;
use crate::NeedsArguments;
use crate::failure::Failure;
use crate::proof::config_of;
use crate::surroundings::{self, Surroundings};
use crate::terminal::Terminal;
use crate::tools;

/// What the command line says of it.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) arguments: &'a Arguments,
    pub(crate) needs: &'a NeedsArguments,
    /// Whether no lock may be made or changed.
    pub(crate) locked: bool,
    pub(crate) terminal: &'a Terminal,
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
        if *building != Config::default() || self.locked {
            return Err(Failure::image_is_not_built(text));
        }
        // Of the project at hand only what is said of registries and of checks counts.
        let (project, config) = self.project(Path::new("."), flags)?;
        let reach = reach::reach(&project.root, &config)?;
        let tools = tools(None, &reach, self.needs.offline, self.terminal)?;
        Ok((config, tools))
    }

    /// A project and its settings.
    pub(crate) fn project(
        &self,
        path: &Path,
        flags: &Config,
    ) -> Result<(Project, Config), Failure> {
        let project = Project::read(path)?;
        let config = config_of(&project, flags, self.arguments)?;
        Ok((project, config))
    }

    /// How a project is built, in the store under no name, and the tools for it.
    pub(crate) fn plan(&self, project: &Project, config: Config) -> Result<(Plan, Tools), Failure> {
        let reach = reach::reach(&project.root, &config)?;
        let offline = self.needs.offline;
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
