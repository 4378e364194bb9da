//! Everything printed: results on stdout, all else on stderr.
//!
//! On a terminal bars show what moves; elsewhere each finished step is a line, so that a log stays
//! readable. Colour is used only on a terminal, and not where `NO_COLOR` is set.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use lambimg::blob_store::Held;
use lambimg::build::cache::{Contents, Freed, Named};
use lambimg::build::compiling::Compiler;
use lambimg::build::dependencies::Outline;
use lambimg::build::outdated::Outdated;
use lambimg::build::pins::Role;
use lambimg::build::{Built, Made, Pushed};
use lambimg::digest::Digest;
use lambimg::file_tree::{FileTree, Node};
use lambimg::lambda;
use lambimg::plan::Plan;
use lambimg::progress::{Event, Progress};
use serde_json::{Value, json};

use crate::backlog::Backlog;
use crate::failure::{self, Failure};
use crate::surroundings;

/// Columns of results that are not for a terminal.
const WIDTH: usize = 100;
/// How long somebody who reads no log is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// A terminal that says it has fewer columns is not believed.
const NARROWEST: usize = 20;

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars on a terminal, else lines
    #[default]
    Auto,
    /// A line a step
    Plain,
    /// Nothing
    None,
}

/// The two output streams.
#[derive(Clone)]
pub(crate) struct Terminal {
    bars: Option<MultiProgress>,
    steps: bool,
    warnings: bool,
    verbose: bool,
    colour: bool,
    result_colour: bool,
    /// A function's log, from its first line on; nothing where it is written at once.
    log: Arc<OnceLock<Option<Backlog>>>,
}

impl Terminal {
    /// Decides what is shown where.
    pub(crate) fn new(mode: ProgressMode, quiet: bool, verbose: bool) -> Self {
        let tty = io::stderr().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let able = tty && !dumb;
        let bars = mode == ProgressMode::Auto && able && !surroundings::is_set("CI") && !quiet;
        let plain = surroundings::is_set("NO_COLOR");
        Self {
            bars: bars.then(MultiProgress::new),
            steps: mode != ProgressMode::None && !quiet,
            warnings: !quiet,
            verbose,
            colour: able && !plain,
            result_colour: io::stdout().is_terminal() && !dumb && !plain,
            log: Arc::default(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// As [`Self::paint`], for stdout.
    pub(crate) fn paint_result(&self, code: &str, text: &str) -> String {
        if self.result_colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// As many columns as results may have.
    pub(crate) fn width() -> usize {
        let size = rustix::termios::tcgetwinsize(io::stdout());
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        if columns < NARROWEST { WIDTH } else { columns }
    }

    /// Whether more is to be told.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Says what may not have been meant.
    pub(crate) fn note(&self, text: &str) {
        if self.warnings {
            self.line(&format!("{} {text}", self.paint("36;1", "note:")));
        }
    }

    /// Writes a line to stderr, above the bars if there are any.
    fn line(&self, text: &str) {
        self.flush_log();
        write_above(self.bars.as_ref(), format!("{text}\n").as_bytes());
    }

    /// A listener for the library.
    pub(crate) fn progress(&self) -> Progress {
        let terminal = self.clone();
        let running: Arc<Mutex<HashMap<u64, Running>>> = Arc::default();
        Progress::new(move |event| {
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            terminal.event(event, &mut running);
        })
    }

    fn event(&self, event: Event, running: &mut HashMap<u64, Running>) {
        match event {
            Event::Started { task, label, total } => {
                let label = visible(&label);
                let bar = self.bars.as_ref().map(|bars| bars.add(bar(&label, total)));
                running.insert(
                    task,
                    Running {
                        label,
                        bar,
                        bytes: 0,
                    },
                );
            }
            Event::Advanced { task, bytes } => {
                if let Some(running) = running.get_mut(&task) {
                    running.bytes += bytes;
                    if let Some(bar) = &running.bar {
                        bar.inc(bytes);
                    }
                }
            }
            Event::Finished { task, done } => {
                let Some(running) = running.remove(&task) else {
                    return;
                };
                if let Some(bar) = running.bar {
                    bar.finish_and_clear();
                } else if self.steps && done {
                    let size = match running.bytes {
                        0 => String::new(),
                        bytes => format!(" {}", HumanBytes(bytes)),
                    };
                    self.line(&format!("{}{size}", running.label));
                }
            }
            Event::Step(text) => {
                if self.steps {
                    self.line(&visible_lines(&text));
                }
            }
            Event::Detail(text) => {
                if self.verbose {
                    self.line(&visible_lines(&text));
                }
            }
            Event::Warning(text) => self.warn(&text),
        }
    }

    /// Takes the bars away, when all is written.
    pub(crate) fn finish(&self) {
        self.flush_log();
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }

    /// Writes a function's log, as it is; lines of several functions are not mixed. It is written soon, and before
    /// whatever is said or printed after it.
    pub(crate) fn log(&self, lines: &[u8]) {
        if !self.warnings {
            return;
        }
        let backlog = self.log.get_or_init(|| {
            let bars = self.bars.clone();
            Backlog::new(PATIENCE, move |lines| write_above(bars.as_ref(), lines)).ok()
        });
        match backlog {
            Some(backlog) => backlog.write(lines),
            None => write_above(self.bars.as_ref(), lines),
        }
    }

    fn flush_log(&self) {
        if let Some(Some(backlog)) = self.log.get() {
            backlog.flush();
        }
    }

    /// Prints a result.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        self.print_bytes(text.as_bytes())
    }

    /// Prints a result of any bytes.
    pub(crate) fn print_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.flush_log();
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // Whoever reads has had enough: `lambimg bases | head -1`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| Failure::cannot_print(&error)),
        }
    }

    /// Says something that is no result.
    pub(crate) fn step(&self, text: &str) {
        if self.steps {
            self.line(&visible_lines(text));
        }
    }

    /// Says something that the user should know.
    pub(crate) fn warn(&self, text: &str) {
        if self.warnings {
            let text = visible_lines(text);
            self.line(&format!("{} {text}", self.paint("33;1", "warning:")));
        }
    }

    /// Says what was built.
    pub(crate) fn summary(&self, built: &Built) {
        if !self.steps {
            return;
        }
        for made in &built.made {
            let size = HumanBytes(made.layer.size);
            self.line(&format!("layer {} {size}", visible(&made.what)));
        }
        self.pushed(&built.pushed);
    }

    /// Says what was built of several functions: a line each, and one of all.
    pub(crate) fn summary_of_all(&self, all: &[Built]) {
        if !self.steps {
            return;
        }
        let mut layers: BTreeMap<Digest, (&Made, usize)> = BTreeMap::new();
        for made in all.iter().flat_map(|built| &built.made) {
            layers.entry(made.layer.digest).or_insert((made, 0)).1 += 1;
        }
        let is_shared = |made: &Made| layers[&made.layer.digest].1 > 1;
        let sum = |made: &[&Made]| {
            let bytes = made.iter().map(|made| made.layer.size).sum();
            format!("{} {}", counted(made.len(), "layer"), HumanBytes(bytes))
        };
        let uploaded = |all: &[Built]| {
            let pushed = all.iter().flat_map(|built| &built.pushed);
            let bytes: Vec<_> = pushed.map(|pushed| pushed.summary.uploaded).collect();
            let told = || format!(", {} uploaded", HumanBytes(bytes.iter().sum()));
            if bytes.is_empty() {
                String::new()
            } else {
                told()
            }
        };
        for built in all {
            let (shared, own): (Vec<_>, Vec<_>) =
                built.made.iter().partition(|made| is_shared(made));
            let layers = built.image.manifest.layers.iter();
            self.line(&format!(
                "function {} {}: {} of its own, {} shared{}",
                built.plan.function.as_deref().unwrap_or_default(),
                HumanBytes(layers.map(|layer| layer.size).sum()),
                sum(&own),
                sum(&shared),
                uploaded(std::slice::from_ref(built)),
            ));
        }
        let distinct: Vec<_> = layers.values().map(|(made, _)| *made).collect();
        let is_taken = |made: &&&Made| made.taken_from.is_some();
        let taken = match distinct.iter().filter(is_taken).count() {
            0 => String::new(),
            count => format!(", {count} of them taken over"),
        };
        self.line(&format!(
            "{}: {} above the base{taken}{}",
            counted(all.len(), "function"),
            sum(&distinct),
            uploaded(all),
        ));
    }

    /// Says what was pushed.
    pub(crate) fn pushed(&self, pushed: &[Pushed]) {
        if !self.steps {
            return;
        }
        for Pushed {
            reference, summary, ..
        } in pushed
        {
            if summary.was_there {
                let size = HumanBytes(summary.skipped);
                self.line(&format!(
                    "{reference} is already there: {size}, nothing sent"
                ));
                continue;
            }
            self.line(&format!(
                "pushed {reference}: {} uploaded, {} mounted, {} there already",
                HumanBytes(summary.uploaded),
                HumanBytes(summary.mounted),
                HumanBytes(summary.skipped),
            ));
        }
    }

    /// Says what was removed from the store.
    pub(crate) fn freed(&self, freed: &Freed) {
        if !self.steps {
            return;
        }
        for name in &freed.names {
            self.line(&format!("removed the name {name}"));
        }
        self.line(&format!(
            "freed {} of the store: {}, {}, {}, {}",
            HumanBytes(freed.bytes),
            counted(freed.blobs, "blob"),
            counted(freed.answers, "answer"),
            counted(freed.trees, "unpacked layer"),
            counted(freed.strays, "unfinished file"),
        ));
    }

    /// Says why it failed, and what to do.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.line(&format!(
            "{} {}",
            self.paint("31;1", "error:"),
            visible_lines(&failure.message)
        ));
        let mut last = failure.message.as_str();
        for cause in &failure.causes {
            if !last.contains(cause.as_str()) {
                self.line(&format!("  caused by: {}", visible_lines(cause)));
            }
            last = cause;
        }
        if let Some(hint) = &failure.hint {
            let hint = visible_lines(hint);
            self.line(&format!("\n{} {hint}", self.paint("36;1", "hint:")));
        }
        if self.verbose && failure.code == failure::BUG {
            self.line("please report this with the command that led to it");
        }
    }
}

/// Writes lines to stderr, above the bars if there are any.
fn write_above(bars: Option<&MultiProgress>, lines: &[u8]) {
    let write = || {
        // Nobody is left to be told that stderr is closed.
        let _ = io::stderr().lock().write_all(lines);
    };
    match bars {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

struct Running {
    label: String,
    bar: Option<ProgressBar>,
    bytes: u64,
}

fn bar(label: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg:32!} {bar:24} {bytes:>10} / {total_bytes} {binary_bytes_per_sec}",
        ),
        None => (ProgressBar::new_spinner(), "{msg:32!} {spinner}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar.with_message(label.to_owned())
}

/// Lines of as many columns each: of the first `left` the beginnings are below one another, of the others the ends.
pub(crate) fn table<R: AsRef<[String]>>(rows: &[R], left: usize) -> String {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.as_ref()[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.as_ref().iter().zip(&widths).enumerate() {
            let _ = if column < left {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The runtimes as a table.
pub(crate) fn bases_table(today: &str) -> String {
    let mut text = format!(
        "{:<12} {:<18} {:<6} {:<11} {:<12} IMAGE\n",
        "RUNTIME", "SYSTEM", "GLIBC", "STATE", "DEPRECATION"
    );
    for runtime in lambda::runtimes() {
        let life = &runtime.lifecycle;
        let _ = writeln!(
            text,
            "{:<12} {:<18} {:<6} {:<11} {:<12} {}",
            runtime.identifier,
            runtime.os,
            runtime.glibc.to_string(),
            life.state(today),
            life.deprecation.as_deref().unwrap_or("-"),
            runtime.image,
        );
    }
    text
}

/// The runtimes as JSON.
pub(crate) fn bases_json(today: &str) -> String {
    let entry = |runtime: &lambda::Runtime| {
        let life = &runtime.lifecycle;
        json!({
            "runtime": runtime.identifier,
            "python": runtime.python.to_string(),
            "os": runtime.os,
            "glibc": runtime.glibc.to_string(),
            "image": runtime.image,
            "state": life.state(today),
            "preview": life.preview,
            "previewSince": life.preview_since,
            "deprecation": life.deprecation,
            "asOf": life.as_of,
        })
    };
    let all: Vec<_> = lambda::runtimes().iter().map(entry).collect();
    format!("{:#}\n", json!(all))
}

/// Images in the lock beside the same in their registries.
pub(crate) fn outdated_table(all: &[Outdated]) -> String {
    let texts: Vec<_> = all.iter().map(outdated_text).collect();
    texts.join("\n")
}

fn outdated_text(found: &Outdated) -> String {
    let mut text = format!("{} {}", found.reference, found.architecture);
    text.push_str(match found.role {
        Role::Base => "\n",
        Role::Extension => " (extension)\n",
    });
    for (what, dated) in [("pinned", &found.pinned), ("current", &found.current)] {
        let digest = dated.digest.map(|digest| digest.to_string());
        let _ = writeln!(
            text,
            "{what:<8} {:<71} {}",
            digest.as_deref().unwrap_or("-"),
            visible(dated.created.as_deref().unwrap_or("-"))
        );
    }
    text
}

/// The same as JSON: lists, but of a base that there can be but one of.
pub(crate) fn outdated_json(all: &[Outdated], is_one: bool) -> String {
    let value = |found: &Outdated| {
        json!({
            "reference": found.reference,
            "architecture": found.architecture.to_string(),
            "outdated": found.is_outdated(),
            "pinned": found.pinned,
            "current": found.current,
        })
    };
    let of = |role| -> Vec<Value> {
        let all = all.iter().filter(|found| found.role == role);
        all.map(value).collect()
    };
    let mut bases = of(Role::Base);
    let mut value = if is_one {
        bases.pop().unwrap_or_else(|| json!({}))
    } else {
        json!({"bases": bases})
    };
    value["extensions"] = of(Role::Extension).into();
    format!("{value:#}\n")
}

/// What takes no room or has a line read otherwise than it is: the categories Cf, Zl and Zp of Unicode 16, and the
/// property `Default_Ignorable_Code_Point`.
const UNSEEN: [RangeInclusive<char>; 25] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// With what would steer a terminal or hide on it escaped: names and texts may be anybody's.
pub(crate) fn visible(text: &str) -> String {
    visible_but(text, &[])
}

/// As [`visible`], of a text of several lines.
fn visible_lines(text: &str) -> String {
    visible_but(text, &['\n', '\t'])
}

fn visible_but(text: &str, kept: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let is_unseen = UNSEEN.iter().any(|range| range.contains(&character));
        if (character.is_control() || is_unseen) && !kept.contains(&character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A number and what is counted, as `2 layers`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Number and bytes of one kind of what lies in a store.
struct Share {
    what: &'static str,
    count: usize,
    bytes: u64,
}

/// What lies in a store, each file once; images are other views of the same blobs.
fn shares(contents: &Contents) -> [Share; 5] {
    let files = &contents.files;
    let others = files
        .blobs
        .keys()
        .filter(|blob| !contents.made.contains(*blob));
    let others: Vec<_> = others.collect();
    let sum = |held: &[Held]| held.iter().map(|held| held.size).sum();
    let answers: Vec<_> = files.answers.iter().map(|answer| answer.held).collect();
    let trees: Vec<_> = files.trees.values().copied().collect();
    let share = |what, count, bytes| Share { what, count, bytes };
    [
        share(
            "made layers",
            contents.made.len(),
            contents.bytes(&contents.made),
        ),
        share(
            "wheels and other blobs",
            others.len(),
            contents.bytes(others),
        ),
        share("answers", answers.len(), sum(&answers)),
        share("unpacked layers", trees.len(), sum(&trees)),
        share(
            "unfinished files",
            files.strays.len(),
            files.strays.values().sum(),
        ),
    ]
}

fn name_of(image: &Named) -> &str {
    image.name.as_deref().unwrap_or("(no name)")
}

/// What takes how much room in the store, as a table. Images may share blobs.
pub(crate) fn cache_table(contents: &Contents) -> String {
    let shares = shares(contents);
    let names = contents.images.iter().map(name_of);
    let names = names.chain(shares.iter().map(|share| share.what));
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut line = |name: &str, count: &str, bytes: u64| {
        let bytes = HumanBytes(bytes).to_string();
        let _ = writeln!(text, "{name:<width$} {count:>6} {bytes:>12}");
    };
    for image in &contents.images {
        let held = image
            .blobs
            .iter()
            .filter(|blob| contents.files.blobs.contains_key(blob));
        line(
            name_of(image),
            &held.count().to_string(),
            contents.bytes(&image.blobs),
        );
    }
    for share in &shares {
        line(share.what, &share.count.to_string(), share.bytes);
    }
    line(
        "all files",
        "",
        shares.iter().map(|share| share.bytes).sum(),
    );
    format!("{:<width$} {:>6} {:>12}\n{text}", "WHAT", "FILES", "SIZE")
}

/// The same as JSON; sizes in bytes.
pub(crate) fn cache_json(directory: &Path, contents: &Contents) -> String {
    let image = |image: &Named| {
        json!({
            "name": image.name,
            "digest": image.manifest.to_string(),
            "bytes": contents.bytes(&image.blobs),
        })
    };
    let shares = shares(contents);
    let share = |number: usize| {
        let Share { count, bytes, .. } = shares[number];
        json!({"files": count, "bytes": bytes})
    };
    let value = json!({
        "directory": directory.to_string_lossy(),
        "images": contents.images.iter().map(image).collect::<Vec<_>>(),
        "layers": share(0),
        "blobs": share(1),
        "answers": share(2),
        "unpacked": share(3),
        "unfinished": share(4),
        "bytes": shares.iter().map(|share| share.bytes).sum::<u64>(),
    });
    format!("{value:#}\n")
}

/// The plan, the layers of what the function needs, and its files.
pub(crate) fn dry_run(
    plan: &Plan,
    outline: &Outline,
    compiler: Option<&Compiler>,
    [extra, tree]: [&FileTree; 2],
    is_package: bool,
) -> String {
    let mut text = plan.to_string();
    let by = compiler.map_or("none", Compiler::name);
    let _ = writeln!(text, "{:<13}{by}", "bytecode");
    match outline {
        Outline::Nothing => {}
        Outline::Unknown(reason) => {
            let _ = writeln!(text, "{:<13}known when it is built: {reason}", "layers");
        }
        Outline::Layers(layers) => {
            for (what, size) in layers {
                let size = size.map(|size| format!(" {}", HumanBytes(size)));
                let _ = writeln!(text, "{:<13}{what}{}", "layer", size.unwrap_or_default());
            }
        }
    }
    list(&mut text, extra);
    if is_package {
        let _ = writeln!(
            text,
            "{:<13}the project's wheel, which a build makes; these files go in if they alone have the handler",
            "package"
        );
    }
    list(&mut text, tree);
    text
}

/// The files of a tree, a line each.
fn list(text: &mut String, tree: &FileTree) {
    for (path, entry) in tree.iter() {
        match &entry.node {
            Node::Directory => {}
            Node::File { content, .. } => {
                let _ = writeln!(text, "{:<13}{path} {}", "file", HumanBytes(content.size()));
            }
            Node::Symlink(target) => {
                let _ = writeln!(text, "{:<13}{path} -> {target}", "link");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_shown_as_its_number() {
        let text =
            "a\u{1b}b\u{ad}c\u{200b}d\u{2028}e\u{202e}f\u{2060}g\u{feff}h\u{3164}i\u{e0041}j\n";
        insta::assert_snapshot!(
            visible(text),
            @r"a\u{1b}b\u{ad}c\u{200b}d\u{2028}e\u{202e}f\u{2060}g\u{feff}h\u{3164}i\u{e0041}j\n"
        );
        let text = "Grüße, Zoe\u{308} λ 名前 🐍 a\u{a0}b";
        assert_eq!(visible(text), text);
        assert_eq!(visible_lines("a\n\tb\u{200b}\n"), "a\n\tb\\u{200b}\n");
        assert!(UNSEEN.is_sorted_by(|first, second| first.end() < second.start()));
    }
}
