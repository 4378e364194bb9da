//! The verb `inspect`: what is in an image or in what a project gives, and what takes how much room.
//!
//! It judges nothing: the page alone has the findings of `check` beside it. How it is told is `text`'s, `report`'s
//! and `page`'s.

mod report;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use lambimg::build::inventory::{File, Inventory};
use lambimg::build::{self, Tools, checking};
use lambimg::config::Config;
use lambimg::digest::Digest;
use lambimg::http;
use lambimg::lambda::Architecture;
use lambimg::lambda::check::subject::Subject;
use lambimg::lambda::check::{self, Finding};
use lambimg::plan;

use crate::Arguments;
use crate::block_on;
use crate::failure::Failure;
use crate::findings::Checked;
use crate::limit_store;
use crate::opening::{Opening, OpeningArguments};
use crate::page;
use crate::surroundings;
use crate::target::Target;
use crate::terminal::{Terminal, visible};

/// The most that Lambda takes, in bytes of all layers unpacked.
pub(crate) const LIMIT: u64 = 10 << 30;
/// Before this day Lambda ran nothing: a base that says so says nothing of its age.
const FIRST_DAY: &str = "2014-11-13";
/// As many files are told of as the largest.
const LARGEST: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    #[command(flatten)]
    opening: OpeningArguments,

    /// Write a page that shows it, with the findings of `check`: one file that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// What to print (default: text, or nothing where a page is written)
    #[arg(long, value_enum)]
    format: Option<InspectFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InspectFormat {
    /// For people
    Text,
    /// For programs; see docs/inspect.md
    Json,
}

/// Shows an image.
pub(crate) fn inspect(
    arguments: &Arguments,
    wanted: &InspectArguments,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let run = Run {
        wanted,
        terminal,
        opening: wanted.opening.opening(arguments, terminal),
        today: surroundings::today(),
    };
    match wanted.opening.target(terminal)? {
        Target::Image(image) => run.image(&image),
        Target::Project(path) => run.project(&path),
    }
}

/// An image, looked at.
pub(crate) struct Inspected<'a> {
    /// What the user calls it.
    pub(crate) name: &'a str,
    /// The image.
    pub(crate) subject: &'a Subject,
    /// What is in it.
    pub(crate) inventory: Inventory<'a>,
    /// The day, as `YYYY-MM-DD`.
    pub(crate) today: &'a str,
    /// What its build left out, where that was just now.
    pub(crate) left_out: Option<LeftOut>,
}

/// What a build leaves out on request, of which an image says nothing.
pub(crate) struct LeftOut {
    /// For the base to bring.
    packages: Vec<String>,
    /// Of packages, paths below the task root.
    files: Vec<String>,
}

impl Inspected<'_> {
    /// The digest of the manifest, if the image has one.
    fn digest(&self) -> Option<Digest> {
        let manifest = self.subject.documents.manifest.as_ref();
        manifest.map(|manifest| Digest::of(&manifest.raw))
    }

    /// All files, the largest unpacked first.
    fn by_size(&self) -> Vec<&File<'_>> {
        let mut files: Vec<_> = self.inventory.files.iter().collect();
        files.sort_by_key(|file| (std::cmp::Reverse(file.size), file.path));
        files
    }

    /// The same as JSON, without the many smaller files; `docs/inspect.md` tells of its keys.
    pub(crate) fn json(&self) -> serde_json::Value {
        report::value(self)
    }

    /// Whether a file lies in one of the base's layers.
    fn is_of_base(&self, file: &File<'_>) -> bool {
        self.inventory.layers[file.layer].is_base
    }

    /// The few largest files, and the few largest above the base, as that has them.
    pub(crate) fn largest_json(&self) -> Vec<serde_json::Value> {
        let (mut all, mut above) = (0, 0);
        let mut files = self.by_size();
        files.retain(|file| {
            let is_above = !self.is_of_base(file);
            all += 1;
            above += usize::from(is_above);
            all <= LARGEST || is_above && above <= LARGEST
        });
        files.iter().map(|file| report::file(self, file)).collect()
    }

    /// How many days old the base is, if it says so.
    fn age_of_base(&self) -> Option<u64> {
        let created = self.inventory.base.as_ref()?.created.as_deref()?;
        age(created, self.today)
    }
}

/// Days from a date in RFC 3339 to a day.
fn age(created: &str, today: &str) -> Option<u64> {
    let time = |text: &str| humantime::parse_rfc3339_weak(text).ok();
    let midnight = |day: &str| time(&format!("{day} 00:00:00"));
    // Of a zone elsewhere the day is near enough.
    let day = created.get(..10)?;
    let created = midnight(day).filter(|created| Some(*created) >= midnight(FIRST_DAY))?;
    let since: Result<_, _> = SystemTime::duration_since(&midnight(today)?, created);
    since.ok().map(|since| since.as_secs() / 86_400)
}

/// One look under way.
struct Run<'a> {
    wanted: &'a InspectArguments,
    terminal: &'a Terminal,
    opening: Opening<'a>,
    today: String,
}

impl Run<'_> {
    fn image(&self, text: &str) -> Result<(), Failure> {
        let building = self.wanted.opening.building();
        let architecture = plan::wanted_architecture(&building)?.map(Architecture::oci);
        let others = Config {
            arch: None,
            ..building
        };
        let (config, tools) = self.opening.image(text, &others, &Config::default())?;
        let limit = surroundings::cache_limit()?;
        let work = async {
            let subject = checking::open(text, architecture, &self.today, &tools).await?;
            self.judged(subject, &tools).await
        };
        let judged = block_on(work)?;
        limit_store(limit, &tools, self.terminal);
        self.report(&http::redact_name(text), judged?, None, &config)
    }

    /// What the project gives, in the store under no name.
    fn project(&self, path: &Path) -> Result<(), Failure> {
        let limit = surroundings::cache_limit()?;
        let flags = self.wanted.opening.building();
        let (project, config) = self.opening.project(path, &flags)?;
        let (mut plan, tools) = self.opening.plan(&project, config.clone())?;
        // What is wrong with it is `check`'s to say, and the page's.
        plan.ignored = check::rules().map(|rule| rule.id).collect();
        plan.own_files.extend(self.wanted.html.clone());
        let architecture = Some(plan.architecture.oci());
        let work = async {
            let built = build::build(plan, &tools).await?;
            let (image, dependencies) = (&built.image, &built.dependencies);
            let left_out = LeftOut {
                packages: dependencies.left_out_packages.clone(),
                files: dependencies
                    .left_out()
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            };
            let subject = checking::built(image, architecture, &self.today, &tools).await?;
            Ok::<_, build::Error>((self.judged(subject, &tools).await?, left_out))
        };
        let judged = block_on(work)?;
        limit_store(limit, &tools, self.terminal);
        let (judged, left_out) = judged?;
        self.report(&path.to_string_lossy(), judged, Some(left_out), &config)
    }

    /// The image with what is wrong with it, where that is to be shown.
    async fn judged(
        &self,
        subject: Subject,
        tools: &Tools,
    ) -> Result<(Subject, Vec<Finding>), build::Error> {
        if self.wanted.html.is_some() {
            return checking::judge(subject, tools).await;
        }
        Ok((subject, Vec::new()))
    }

    fn report(
        &self,
        name: &str,
        (subject, found): (Subject, Vec<Finding>),
        left_out: Option<LeftOut>,
        config: &Config,
    ) -> Result<(), Failure> {
        for number in check::unread(&subject) {
            let why = subject.layers[number].damage.as_deref();
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            self.terminal.warn(&format!(
                "of layer {} not all files are known{why}",
                number + 1
            ));
        }
        let inspected = Inspected {
            name,
            subject: &subject,
            inventory: Inventory::of(&subject),
            today: &self.today,
            left_out,
        };
        if let Some(path) = &self.wanted.html {
            let ignored = plan::ignored(config)?;
            let all = found.len();
            let kept = found.into_iter();
            let kept = kept.filter(|finding| !ignored.contains(finding.rule.id));
            let findings: Vec<_> = kept.collect();
            let checked = Checked {
                name,
                subject: &subject,
                ignored: all - findings.len(),
                findings,
            };
            let page = page::page(&inspected, &checked);
            fs::write(path, page).map_err(|error| Failure::no_page(path, &error))?;
            let path = path.to_string_lossy();
            self.terminal.step(&format!("wrote {}", visible(&path)));
        }
        match (self.wanted.format, &self.wanted.html) {
            (Some(InspectFormat::Json), _) => {
                self.terminal.print(&format!("{:#}\n", inspected.json()))
            }
            (None, Some(_)) => Ok(()),
            (Some(InspectFormat::Text) | None, _) => {
                let all = self.terminal.is_verbose();
                self.terminal.print(&text::text(&inspected, all))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_whole_days() {
        let today = "2026-11-23";
        assert_eq!(age("2026-11-23T23:59:59.123456789Z", today), Some(0));
        assert_eq!(age("2026-11-22T23:59:59Z", today), Some(1));
        assert_eq!(age("2025-11-23T00:00:00+02:00", today), Some(365));
        // A clock that is ahead, a date that stands for none, and what is no date.
        assert_eq!(age("2026-11-24T00:00:00Z", today), None);
        assert_eq!(age("1980-01-01T00:00:00Z", today), None);
        assert_eq!(age("yesterday", today), None);
        assert_eq!(age("", today), None);
    }
}
