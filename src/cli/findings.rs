//! What a check found, and the rules themselves: for people and as JSON.
//!
//! The JSON's shape is an interface, numbered by `version` and told in `docs/check.md`; keys are only ever added
//! within one.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use lambimg::digest::Digest;
use lambimg::lambda::check;
use lambimg::lambda::check::subject::Subject;
use lambimg::lambda::check::{Finding, Level, Rule};
use serde_json::{Value, json};

use crate::terminal::{Terminal, counted, visible};

/// The version of the shapes.
const VERSION: u32 = 1;
/// Text below a finding stands in by so many columns.
const INDENT: usize = 4;

/// An image that was checked.
pub(crate) struct Checked<'a> {
    /// What the user calls it.
    pub(crate) name: &'a str,
    /// The image.
    pub(crate) subject: &'a Subject,
    /// What was found and counts, the worst first.
    pub(crate) findings: Vec<Finding>,
    /// As many were left out as the user wished.
    pub(crate) ignored: usize,
}

impl Checked<'_> {
    fn count(&self, level: Level) -> usize {
        let findings = self.findings.iter();
        findings.filter(|finding| finding.level == level).count()
    }

    /// Whether the exit code is to say so.
    pub(crate) fn fails(&self, strict: bool) -> bool {
        self.count(Level::Error) > 0 || (strict && self.count(Level::Warning) > 0)
    }

    /// The digest of the manifest, if the image has one.
    fn digest(&self) -> Option<Digest> {
        let manifest = self.subject.documents.manifest.as_ref();
        manifest.map(|manifest| Digest::of(&manifest.raw))
    }

    /// The findings in words, each with what to do.
    pub(crate) fn text(&self, terminal: &Terminal) -> String {
        let mut text = String::new();
        let mut last = None;
        for finding in &self.findings {
            if last.is_some_and(|level| level != finding.level) {
                text.push('\n');
            }
            last = Some(finding.level);
            text.push_str(&told(finding, terminal));
        }
        text
    }

    /// How many of what, in one line.
    pub(crate) fn summary(&self) -> String {
        let kinds = [
            (Level::Error, "error"),
            (Level::Warning, "warning"),
            (Level::Note, "note"),
        ];
        let counts = kinds.map(|(level, word)| (self.count(level), word));
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<_> = told.map(|(count, word)| counted(*count, word)).collect();
        let told = if told.is_empty() {
            "no findings".to_owned()
        } else {
            told.join(", ")
        };
        let ignored = match self.ignored {
            0 => String::new(),
            count => format!(" and {count} ignored"),
        };
        let layers = &self.subject.layers;
        let bytes = HumanBytes(layers.iter().map(|layer| layer.unpacked).sum());
        let layers = counted(layers.len(), "layer");
        format!(
            "{told}{ignored} in {layers}, {bytes} unpacked{}",
            self.unapplied()
        )
    }

    /// What was not looked at, if anything.
    fn unapplied(&self) -> String {
        let unread: Vec<_> = self.unread().iter().map(usize::to_string).collect();
        match &*unread {
            [] => String::new(),
            [only] => format!("; rules of files were not applied, for layer {only} cannot be read"),
            [some @ .., last] => {
                let some = some.join(", ");
                format!(
                    "; rules of files were not applied, for layers {some} and {last} cannot be read"
                )
            }
        }
    }

    /// The layers that could not be read, counted from 1.
    fn unread(&self) -> Vec<usize> {
        let unread = check::unread(self.subject).into_iter();
        unread.map(|layer| layer + 1).collect()
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> String {
        format!("{:#}\n", self.value())
    }

    /// What the JSON says.
    pub(crate) fn value(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "rule": finding.rule.id,
                "level": finding.level.to_string(),
                "message": finding.message,
                "where": {
                    "layer": finding.layer.map(|layer| layer + 1),
                    "digest": self.layer_digest(finding),
                    "path": finding.path,
                    "value": finding.value,
                },
                "remedy": finding.remedy,
            })
        });
        json!({
            "version": VERSION,
            "image": self.name,
            "digest": self.digest(),
            "findings": findings.collect::<Vec<_>>(),
            "summary": {
                "errors": self.count(Level::Error),
                "warnings": self.count(Level::Warning),
                "notes": self.count(Level::Note),
                "ignored": self.ignored,
                "unread": self.unread(),
            },
        })
    }

    /// The digest of the layer that a finding is in.
    pub(crate) fn layer_digest(&self, finding: &Finding) -> Option<Digest> {
        let layer = self.subject.layers.get(finding.layer?)?;
        Some(layer.digest)
    }
}

/// A finding in words, with what to do.
pub(crate) fn told(finding: &Finding, terminal: &Terminal) -> String {
    let width = Terminal::width();
    let level = terminal.paint_result(colour(finding.level), &finding.level.to_string());
    let place = place(finding);
    let message = visible(&in_words(finding));
    let mut text = format!("{level} {}{place}: {message}\n", finding.rule.id);
    if terminal.is_verbose() {
        text.push_str(&wrapped(finding.rule.why, INDENT, width));
    }
    text.push_str(&wrapped(&visible(&finding.remedy), INDENT, width));
    text
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Error => "31;1",
        Level::Warning => "33;1",
        Level::Note => "36;1",
    }
}

/// Where it is, with a space before it, if it is anywhere.
fn place(finding: &Finding) -> String {
    let mut place = String::new();
    if let Some(layer) = finding.layer {
        let _ = write!(place, " layer {}", layer + 1);
    }
    if let Some(path) = &finding.path {
        let _ = write!(place, " {}", visible(path));
    }
    place
}

/// What is so, with the value where the message does not name it.
pub(crate) fn in_words(finding: &Finding) -> String {
    let message = &finding.message;
    match &finding.value {
        Some(value) if !value.is_empty() && !message.contains(value.as_str()) => {
            format!("{message} ({value})")
        }
        _ => message.clone(),
    }
}

/// Lines of at most `width` columns, each behind `indent` spaces; a longer word has a line of its own.
fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            lines.push('\n');
            column = 0;
        }
        if column == 0 {
            let _ = write!(lines, "{:indent$}{word}", "");
            column = indent + length;
        } else {
            let _ = write!(lines, " {word}");
            column += 1 + length;
        }
    }
    lines.push('\n');
    lines
}

/// All that is to be said of a rule.
pub(crate) fn explanation(rule: &Rule, width: usize) -> String {
    format!(
        "{} ({}): {}\n\n{}\n{}",
        rule.id,
        rule.level,
        rule.title,
        wrapped(rule.why, 0, width),
        wrapped(rule.remedy, 0, width),
    )
}

/// Rules as a table.
pub(crate) fn list(rules: &[&'static Rule]) -> String {
    let mut text = format!("{:<6} {:<7} TITLE\n", "ID", "LEVEL");
    for rule in rules {
        let level = rule.level.to_string();
        let _ = writeln!(text, "{} {level:<7} {}", rule.id, rule.title);
    }
    text
}

fn rule_json(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "level": rule.level.to_string(),
        "title": rule.title,
        "why": rule.why,
        "remedy": rule.remedy,
        "build": rule.is_cheap(),
    })
}

/// One rule as JSON.
pub(crate) fn rule_text(rule: &Rule) -> String {
    format!("{:#}\n", rule_json(rule))
}

/// Rules as JSON.
pub(crate) fn list_json(rules: &[&'static Rule]) -> String {
    let rules: Vec<_> = rules.iter().map(|rule| rule_json(rule)).collect();
    format!("{:#}\n", json!({"version": VERSION, "rules": rules}))
}

/// The page `docs/rules.md`.
pub(crate) fn markdown(rules: &[&'static Rule]) -> String {
    let mut text = String::from(
        "# The rules of `lambimg check`\n\n\
         Made by `lambimg check --list --format markdown`. The level is the worst that a rule's findings have: an error is \
         refused by\nLambda or fails there, a warning may, a note is good to know. Rules marked with * need manifest and \
         config alone, and every\n`lambimg build` applies them. An identifier means the same for ever.\n\n\
         | rule | level | |\n|---|---|---|\n",
    );
    for rule in rules {
        let mark = if rule.is_cheap() { " *" } else { "" };
        let anchor = rule.id.to_lowercase();
        let (id, level, title) = (rule.id, rule.level, rule.title);
        let _ = writeln!(text, "| [{id}](#{anchor}){mark} | {level} | {title} |");
    }
    for rule in rules {
        let _ = write!(
            text,
            "\n## {}\n\n**{}** ({}).\n\n{}\n\n*Remedy:* {}\n",
            rule.id, rule.title, rule.level, rule.why, rule.remedy
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use lambimg::lambda::check::subject::{Document, Documents};

    use super::*;
    use crate::terminal::ProgressMode;

    fn subject() -> Subject {
        let documents = Documents {
            index: None,
            manifest: None,
            config: Document::new(b"{}".to_vec(), None, None),
            wanted: None,
            today: "2026-11-23".to_owned(),
        };
        Subject::new(documents, Vec::new())
    }

    fn finding(level: Level) -> Finding {
        Finding {
            rule: check::rules().next().unwrap(),
            level,
            message: "it is so".to_owned(),
            layer: None,
            path: None,
            value: Some("because".to_owned()),
            remedy: "Change it.".to_owned(),
        }
    }

    #[test]
    fn errors_fail_and_with_strict_warnings_do() {
        let subject = subject();
        let checked = |levels: &[Level]| Checked {
            name: "app:1",
            subject: &subject,
            findings: levels.iter().map(|level| finding(*level)).collect(),
            ignored: 1,
        };
        let fails = |levels: &[Level]| {
            let checked = checked(levels);
            (checked.fails(false), checked.fails(true))
        };
        assert_eq!(fails(&[]), (false, false));
        assert_eq!(fails(&[Level::Note]), (false, false));
        assert_eq!(fails(&[Level::Warning, Level::Note]), (false, true));
        assert_eq!(fails(&[Level::Error]), (true, true));
        let all = checked(&[Level::Error, Level::Error, Level::Warning, Level::Note]);
        insta::assert_snapshot!(all.summary(), @"2 errors, 1 warning, 1 note and 1 ignored in 0 layers, 0 B unpacked");
        let terminal = Terminal::new(ProgressMode::None, true, false);
        insta::assert_snapshot!(all.text(&terminal), @"
        error LMB001: it is so (because)
            Change it.
        error LMB001: it is so (because)
            Change it.

        warning LMB001: it is so (because)
            Change it.

        note LMB001: it is so (because)
            Change it.
        ");
    }

    #[test]
    fn lines_end_before_the_edge() {
        assert_eq!(wrapped("one two three", 2, 9), "  one two\n  three\n");
        assert_eq!(wrapped("much-too-long a", 0, 4), "much-too-long\na\n");
        assert_eq!(wrapped("ä ö ü", 0, 5), "ä ö ü\n");
    }
}
