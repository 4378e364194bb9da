//! The verb `check`: every rule that Lambda has, applied to an image or to what a project gives.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lambimg::build::{self, checking};
use lambimg::config::{Check, Config, Project, Setting};
use lambimg::http;
use lambimg::lambda::Architecture;
use lambimg::lambda::check::subject::Subject;
use lambimg::lambda::check::{self, Finding, Rule};
use lambimg::plan;

use crate::Arguments;
use crate::block_on;
use crate::failure::{self, Failure};
use crate::findings::{self, Checked};
use crate::limit_store;
use crate::opening::{Opening, OpeningArguments};
use crate::sarif::{self, Sources};
use crate::surroundings;
use crate::target::Target;
use crate::terminal::Terminal;

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    opening: OpeningArguments,

    /// Leave out a rule, as LMB036 (repeatable, or with commas)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,

    /// Exit with 1 on warnings too
    #[arg(long)]
    strict: bool,

    /// Say what a rule wants, why, and what to do, and check nothing
    #[arg(long, value_name = "ID", conflicts_with_all = ["NeedsArguments", "FunctionArguments", "ChoiceArguments"])]
    explain: Option<String>,

    /// List all rules, and check nothing
    #[arg(long, conflicts_with_all = ["explain", "NeedsArguments", "FunctionArguments", "ChoiceArguments"])]
    list: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: CheckFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// For people
    #[default]
    Text,
    /// For programs; see docs/check.md
    Json,
    /// For code scanning in CI: SARIF 2.1.0
    Sarif,
    /// The documentation of all rules
    #[value(hide = true)]
    Markdown,
}

/// Applies the rules, or tells of them.
pub(crate) fn check(
    arguments: &Arguments,
    wanted: &CheckArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    if let Some(id) = &wanted.explain {
        let rule: &'static Rule = id.parse()?;
        return tell(wanted, &[rule], terminal);
    }
    if wanted.list {
        return tell(wanted, &check::rules().collect::<Vec<_>>(), terminal);
    }
    if wanted.format == CheckFormat::Markdown {
        return Err(Failure::no_rules_to_tell("markdown"));
    }
    let run = Run {
        arguments,
        wanted,
        terminal,
        today: surroundings::today(),
    };
    match wanted.opening.target(terminal)? {
        Target::Image(image) => run.image(&image),
        Target::Project(path) => run.project(&path),
    }
}

/// Tells of rules.
fn tell(
    wanted: &CheckArguments,
    rules: &[&'static Rule],
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let is_list = wanted.list;
    let text = match wanted.format {
        CheckFormat::Text if is_list => findings::list(rules),
        CheckFormat::Text => rules
            .iter()
            .map(|rule| findings::explanation(rule, Terminal::width()))
            .collect(),
        CheckFormat::Json if is_list => findings::list_json(rules),
        CheckFormat::Json => rules.iter().map(|rule| findings::rule_text(rule)).collect(),
        CheckFormat::Markdown => findings::markdown(rules),
        CheckFormat::Sarif => return Err(Failure::no_rules_to_tell("sarif")),
    };
    terminal.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl CheckArguments {
    fn config(&self) -> Config {
        let ignore = self.ignore.iter();
        let ignore = ignore.map(|id| Setting::flag(id.trim().to_owned(), "--ignore"));
        let strict = self
            .strict
            .then(|| Setting::flag("true".to_owned(), "--strict"));
        Config {
            check: Check {
                ignore: ignore.collect(),
                strict,
            },
            ..Config::default()
        }
    }
}

/// One check under way.
struct Run<'a> {
    arguments: &'a Arguments,
    wanted: &'a CheckArguments,
    terminal: &'a Terminal,
    today: String,
}

impl Run<'_> {
    fn image(&self, text: &str) -> Result<ExitCode, Failure> {
        let building = self.wanted.opening.building();
        let architecture = plan::wanted_architecture(&building)?.map(Architecture::oci);
        let others = Config {
            arch: None,
            ..building
        };
        let opening = self.opening();
        let (config, tools) = opening.image(text, &others, &self.wanted.config())?;
        let rules = Rules::of(&config)?;
        let limit = surroundings::cache_limit()?;
        let work = async {
            let subject = checking::open(text, architecture, &self.today, &tools).await?;
            checking::judge(subject, &tools).await
        };
        let judged = block_on(work)?;
        limit_store(limit, &tools, self.terminal);
        self.report(&http::redact_name(text), judged?, None, &rules)
    }

    fn project(&self, path: &Path) -> Result<ExitCode, Failure> {
        let limit = surroundings::cache_limit()?;
        let flags = self.wanted.opening.building().or(self.wanted.config());
        let (project, config) = self.opening().project(path, &flags)?;
        let rules = Rules::of(&config)?;
        let (source, judged) = self.build(&project, config, limit)?;
        let sources = Sources::of(&project.root, &source, &surroundings::directory());
        let name = path.to_string_lossy();
        self.report(&name, judged, Some(&sources), &rules)
    }

    fn opening(&self) -> Opening<'_> {
        self.wanted.opening.opening(self.arguments, self.terminal)
    }

    /// What the project gives, in the store under no name, and where the function's files lie.
    fn build(
        &self,
        project: &Project,
        config: Config,
        limit: Option<u64>,
    ) -> Result<(PathBuf, (Subject, Vec<Finding>)), Failure> {
        let (mut plan, tools) = self.opening().plan(project, config)?;
        // All rules are applied to what comes of it, and none twice.
        plan.ignored = check::rules().map(|rule| rule.id).collect();
        let architecture = plan.architecture.oci();
        let source = plan.source.clone();
        let work = async {
            let built = build::build(plan, &tools).await?;
            let wanted = Some(architecture);
            let subject = checking::built(&built.image, wanted, &self.today, &tools).await?;
            checking::judge(subject, &tools).await
        };
        let judged = block_on(work)?;
        limit_store(limit, &tools, self.terminal);
        Ok((source, judged?))
    }

    fn report(
        &self,
        name: &str,
        (subject, found): (Subject, Vec<Finding>),
        sources: Option<&Sources>,
        rules: &Rules,
    ) -> Result<ExitCode, Failure> {
        let total = found.len();
        let findings: Vec<_> = found
            .into_iter()
            .filter(|finding| !rules.ignored.contains(finding.rule.id))
            .collect();
        let checked = Checked {
            name,
            ignored: total - findings.len(),
            subject: &subject,
            findings,
        };
        self.terminal.print(&match self.wanted.format {
            CheckFormat::Json => checked.json(),
            CheckFormat::Sarif => sarif::report(&checked, sources),
            CheckFormat::Text | CheckFormat::Markdown => checked.text(self.terminal),
        })?;
        self.terminal.step(&checked.summary());
        Ok(if checked.fails(rules.strict) {
            ExitCode::from(failure::REFUSED)
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// How the rules are applied.
struct Rules {
    ignored: BTreeSet<&'static str>,
    strict: bool,
}

impl Rules {
    fn of(config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            ignored: plan::ignored(config)?,
            strict: plan::is_strict(config)?,
        })
    }
}
