//! The functions of a project that has several: which of them a verb is about, and what went wrong with each.

use clap::Args;
use lambimg::config::Project;
use lambimg::plan::functions;

use crate::failure::Failure;
use crate::terminal::Terminal;

/// Which function a verb is about that is about one.
#[derive(Debug, Args)]
pub(crate) struct ChoiceArguments {
    /// Which of the project's functions, if it has several
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Option<String>,
}

impl ChoiceArguments {
    /// The project as the chosen function's own.
    pub(crate) fn of(&self, project: &Project) -> Result<Project, Failure> {
        Ok(functions::choose_one(project, self.function.as_ref())?)
    }
}

/// The function that a project is taken for, if it has several.
pub(crate) fn name_of(project: &Project) -> Option<&str> {
    let chosen = project.function.as_ref();
    chosen.map(|chosen| chosen.name.as_str())
}

/// Does the same for each function, or gives what went wrong with any.
pub(crate) fn each<T>(
    projects: &[Project],
    terminal: &Terminal,
    work: impl Fn(&Project) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut failures = Failures::default();
    let results = projects.iter().map(|project| (project, work(project)));
    let done = results.filter_map(|(project, result)| failures.none(name_of(project), result));
    let done = done.collect();
    failures.end(terminal)?;
    Ok(done)
}

/// What went wrong with functions, in their order.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<(Vec<String>, Failure)>);

impl Failures {
    /// What was done, or nothing where it failed: a failure that another function had too is that of both.
    pub(crate) fn none<T>(
        &mut self,
        function: Option<&str>,
        result: Result<T, Failure>,
    ) -> Option<T> {
        let failure = match result {
            Ok(done) => return Some(done),
            Err(failure) => failure,
        };
        let function = function.map(str::to_owned);
        match self.0.iter_mut().find(|(_, other)| *other == failure) {
            Some((functions, _)) => functions.extend(function),
            None => self.0.push((function.into_iter().collect(), failure)),
        }
        None
    }

    /// Tells all of them but the last, which is given with the exit code of the first.
    pub(crate) fn end(self, terminal: &Terminal) -> Result<(), Failure> {
        let failures = self.0.into_iter();
        let mut failures: Vec<_> = failures
            .map(|(functions, failure)| failure.of_functions(&functions))
            .collect();
        let Some(last) = failures.pop() else {
            return Ok(());
        };
        let code = failures.first().map_or(last.code, |first| first.code);
        for failure in &failures {
            terminal.failure(failure);
        }
        Err(Failure { code, ..last })
    }
}
