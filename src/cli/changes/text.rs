//! The changes as text for a terminal. Long lists end early, unless all is to be told.

use std::fmt::Write as _;

use lambimg::lambda::check::Level;

use super::{Compared, Mark, Row, Section};
use crate::findings::told;
use crate::terminal::{self, Terminal, visible};

/// As many rows of a table are shown.
const MOST: usize = 20;
/// And of one that goes with something else.
const MOST_ASIDE: usize = 5;

impl Compared<'_> {
    /// The sentence and the tables.
    pub(crate) fn text(&self, terminal: &Terminal) -> String {
        let sentence = self.sentence(&visible);
        let mut text = format!("{}\n", terminal.paint_result("1", &sentence));
        for section in self.sections() {
            text.push_str(&table(&section, terminal));
        }
        let sizes = self.sizes();
        if !sizes.is_empty() {
            text.push_str(&of_sizes(&sizes, terminal));
        }
        if let Some(findings) = self.findings() {
            let _ = writeln!(
                text,
                "\n{}\n  {findings}",
                title("Findings of check", terminal)
            );
            for finding in &self.changes.new {
                if finding.level == Level::Error || terminal.is_verbose() {
                    text.push_str(&told(finding, terminal));
                }
            }
        }
        text
    }
}

fn title(text: &str, terminal: &Terminal) -> String {
    terminal.paint_result("1", text)
}

fn table(section: &Section, terminal: &Terminal) -> String {
    let most = match section {
        _ if terminal.is_verbose() => usize::MAX,
        Section { is_aside: true, .. } => MOST_ASIDE,
        _ => MOST,
    };
    // One more takes no more room than saying so.
    let shown = if section.rows.len() > most.saturating_add(1) {
        &section.rows[..most]
    } else {
        &section.rows[..]
    };
    let cells: Vec<_> = shown.iter().map(cells).collect();
    let words = shown.iter().map(|row| row.word.len()).max().unwrap_or(0);
    let mut text = format!("\n{}\n", title(section.title, terminal));
    for (row, line) in shown.iter().zip(terminal::table(&cells, 4).lines()) {
        let (word, rest) = line.split_at(words.min(line.len()));
        let word = terminal.paint_result(colour(row.mark), word);
        let _ = writeln!(text, "  {word}{rest}");
    }
    let more = section.rows.len() - shown.len();
    if more > 0 {
        let _ = writeln!(text, "  and {more} more: `-v` shows all");
    }
    text
}

fn cells(row: &Row) -> [String; 4] {
    let what = match (&*row.before, &*row.after) {
        (before, "") => before.to_owned(),
        ("", after) => after.to_owned(),
        (before, after) if before == after => before.to_owned(),
        (before, after) => format!("{before} → {after}"),
    };
    // What is added or removed is so much larger or smaller; that is told already where its size is.
    let note = match row.mark {
        Mark::Added | Mark::Removed if row.note.get(1..) == Some(&*what) => "",
        _ => &row.note,
    };
    [row.word, &row.name, &what, note].map(visible)
}

fn colour(mark: Mark) -> &'static str {
    match mark {
        Mark::Added => "32",
        Mark::Removed => "31",
        Mark::Changed => "33",
    }
}

fn of_sizes(rows: &[[String; 7]], terminal: &Terminal) -> String {
    let head = ["", "unpacked", "", "", "compressed", "", ""].map(str::to_owned);
    let rows: Vec<_> = [&head].into_iter().chain(rows).collect();
    let mut text = format!("\n{}\n", title("Size", terminal));
    for line in terminal::table(&rows, 1).lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}
