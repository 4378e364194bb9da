//! Lambda's rules, one function each: an image as it is → what Lambda would say of it, told before Lambda does.
//!
//! A rule is pure: what it looks at was read before, the documents as their bytes are and of the files what
//! [`contents`] keeps of them. It gives facts, and why Lambda cares; who shows them in which form, and with
//! which exit code, is not known here. Where an image came from is not known either.

pub mod contents;
pub mod subject;

mod bytecode;
mod config;
mod elf;
mod entry;
mod extensions;
mod handler;
mod layers;
mod lifecycle;
mod manifest;
mod modes;
mod modules;
mod paths;
mod program;
mod secrets;
mod size;
mod syntax;
mod wheels;

#[cfg(test)]
mod testing;

use std::cmp::Reverse;
use std::fmt;
use std::panic;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

pub use secrets::{HIDDEN, is_secret, shown, without_secrets};
use subject::{Documents, Subject};
pub use wheels::{Installed, installed, of_base, target};

/// As many findings of one rule are told.
const MOST: usize = 10;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know.
    Note,
    /// It works today or mostly, and may not tomorrow.
    Warning,
    /// Lambda refuses the image, or the function fails.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
enum Look {
    /// Manifest and config alone: cheap enough for every build.
    Documents(fn(&Documents) -> Vec<Fault>),
    /// The layers too, as they are packed, be they whole or not.
    Layers(fn(&Subject) -> Vec<Fault>),
    /// The files too; where a layer cannot be read, what is missing says nothing.
    Files(fn(&Subject) -> Vec<Fault>),
}

/// A rule of Lambda's.
#[derive(Debug)]
pub struct Rule {
    /// `LMB` and three digits, the same for ever.
    pub id: &'static str,
    /// How bad it is at worst.
    pub level: Level,
    /// What should hold, in one line.
    pub title: &'static str,
    /// Why Lambda cares, with the text or code that the user would have met.
    pub why: &'static str,
    /// What to do.
    pub remedy: &'static str,
    look: Look,
}

impl Rule {
    /// Whether it needs manifest and config alone.
    pub fn is_cheap(&self) -> bool {
        matches!(self.look, Look::Documents(_))
    }
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    message: String,
    layer: Option<usize>,
    path: Option<String>,
    value: Option<String>,
    remedy: Option<String>,
    level: Option<Level>,
}

impl Fault {
    /// What is so, in one line without an end stop.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            layer: None,
            path: None,
            value: None,
            remedy: None,
            level: None,
        }
    }

    /// In which layer, counted from 0, the lowest.
    pub(crate) fn layer(mut self, layer: usize) -> Self {
        self.layer = Some(layer);
        self
    }

    /// At which path of the image.
    pub(crate) fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// The value that is wrong.
    pub(crate) fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// What to do, where the rule's own word is too general.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// How bad this one is, where it is less than the rule's worst.
    pub(crate) fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }
}

/// As many faults of one rule are enough; the last says how many more there are.
pub(super) fn folded(mut faults: Vec<Fault>, most: usize) -> Vec<Fault> {
    let more = faults.len().saturating_sub(most);
    faults.truncate(most);
    if let Some(last) = faults.last_mut().filter(|_| more > 0) {
        last.message = format!("{}, and {more} more of the kind", last.message);
    }
    faults
}

/// Whether a file may be the user's. Where there is no telling the base from the rest, it is where the user's are.
pub(super) fn may_be_users(image: &Subject, path: &str) -> bool {
    let mut roots = modules::roots(&image.documents);
    roots.push("opt".to_owned());
    let mut roots = roots.iter().filter(|root| !root.is_empty());
    image.base > 0 || roots.any(|root| paths::below(root, path).is_some())
}

/// What was found, by which rule.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub message: String,
    /// In which layer, counted from 0, the lowest.
    pub layer: Option<usize>,
    /// At which path of the image.
    pub path: Option<String>,
    /// The value that is wrong.
    pub value: Option<String>,
    /// What to do.
    pub remedy: String,
}

/// All rules, by their identifiers.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    let rooms = [
        manifest::RULES,
        config::RULES,
        layers::RULES,
        handler::RULES,
        elf::RULES,
        wheels::RULES,
        bytecode::RULES,
        extensions::RULES,
        lifecycle::RULES,
        secrets::RULES,
        size::RULES,
    ];
    rooms.into_iter().flatten()
}

/// A text that names no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule `{text}`")]
pub struct NoRule {
    /// What was written.
    pub text: String,
    /// The identifier that looks most like it, if one does.
    pub nearest: Option<&'static str>,
}

impl NoRule {
    fn new(text: &str) -> Self {
        let wanted = text.trim().to_uppercase();
        let distance = |id: &&str| strsim::damerau_levenshtein(id, &wanted);
        let nearest = rules().map(|rule| rule.id).min_by_key(distance);
        Self {
            text: text.to_owned(),
            nearest: nearest.filter(|id| distance(id) <= 2),
        }
    }
}

impl FromStr for &'static Rule {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Self, NoRule> {
        let wanted = rules().find(|rule| rule.id.eq_ignore_ascii_case(text.trim()));
        wanted.ok_or_else(|| NoRule::new(text))
    }
}

/// The layers whose files are not all known, counted from 0, the lowest: where there are such, no rule of files is
/// applied.
pub fn unread(subject: &Subject) -> Vec<usize> {
    let layers = subject.layers.iter().enumerate();
    let unread = layers.filter(|(_, layer)| !layer.is_whole());
    unread.map(|(number, _)| number).collect()
}

/// Applies every rule, on all processors, the worst findings first.
pub fn check(subject: &Subject) -> Vec<Finding> {
    // Files of an image without layers, and of one with layers that cannot be read, are not known.
    let is_whole = unread(subject).is_empty() && !subject.layers.is_empty();
    findings(|rule| match rule.look {
        Look::Documents(find) => find(&subject.documents),
        Look::Layers(find) => find(subject),
        Look::Files(find) if is_whole => find(subject),
        Look::Files(_) => Vec::new(),
    })
}

/// Applies the cheap rules.
pub fn check_documents(documents: &Documents) -> Vec<Finding> {
    findings(|rule| match rule.look {
        Look::Documents(find) => find(documents),
        Look::Layers(_) | Look::Files(_) => Vec::new(),
    })
}

/// What comes of each rule stands in the rules' own order, whichever thread came to it.
fn findings(find: impl Fn(&'static Rule) -> Vec<Fault> + Sync) -> Vec<Finding> {
    let rules: Vec<_> = rules().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some(&rule) = rules.get(next.fetch_add(1, Ordering::Relaxed)) {
            found.extend(find(rule).into_iter().map(|fault| found_by(rule, fault)));
        }
        found
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut found: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let joined = |thread: ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|why| panic::resume_unwind(why))
        };
        threads.into_iter().flat_map(joined).collect()
    });
    // Stable, and each rule is all on one thread.
    found.sort_by_key(|finding| {
        let place = rules.iter().position(|rule| rule.id == finding.rule.id);
        (Reverse(finding.level), place)
    });
    found
}

fn found_by(rule: &'static Rule, fault: Fault) -> Finding {
    Finding {
        rule,
        level: fault.level.unwrap_or(rule.level),
        message: fault.message,
        layer: fault.layer,
        path: fault.path,
        value: fault.value,
        remedy: fault.remedy.unwrap_or_else(|| rule.remedy.to_owned()),
    }
}
