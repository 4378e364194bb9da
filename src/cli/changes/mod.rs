//! What has changed between two images, for people: in a sentence, and in tables that text and Markdown share.
//!
//! How either form is written is the affair of the files below; here names are as the images have them, and may be
//! anybody's.

mod json;
mod markdown;
mod sentence;
mod text;

use std::fmt::Write as _;

use indicatif::HumanBytes;
use lambimg::build::changes::{
    Area, Changes, FileChange, How, PackageChange, Pair, Setting, SettingChange, Text,
};
use lambimg::build::inventory::Base;

use crate::terminal::{Terminal, counted};

/// As many characters of a value as a table has room for.
const WIDEST: usize = 60;
/// As many of a digest tell it from others.
const SHORT_DIGEST: usize = "sha256:".len() + 12;
/// As many of a date are its day.
const DAY: usize = "2026-11-23".len();

/// Two images that were compared.
pub(crate) struct Compared<'a> {
    /// What the user calls them.
    pub(crate) names: Pair<String>,
    /// What has changed.
    pub(crate) changes: &'a Changes,
}

/// What has become of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Added,
    Removed,
    Changed,
}

/// One thing that has changed.
struct Row {
    mark: Mark,
    word: &'static str,
    name: String,
    before: String,
    after: String,
    note: String,
}

/// Changes of a kind.
struct Section {
    title: &'static str,
    rows: Vec<Row>,
    /// Whether it goes with something that is told already.
    is_aside: bool,
}

impl Compared<'_> {
    /// Says what could not be compared.
    pub(crate) fn warn(&self, terminal: &Terminal) {
        for text in self.unread() {
            terminal.warn(&text);
        }
    }

    fn unread(&self) -> Vec<String> {
        let unread = &self.changes.unread;
        let sides = [
            (&self.names.first, &unread.first),
            (&self.names.second, &unread.second),
        ];
        let sides = sides.into_iter().filter(|(_, layers)| !layers.is_empty());
        let told = sides.map(|(name, layers)| {
            let numbers: Vec<_> = layers.iter().map(|layer| (layer + 1).to_string()).collect();
            let s = if layers.len() == 1 { "" } else { "s" };
            let numbers = numbers.join(", ");
            format!(
                "layer{s} {numbers} of `{name}` cannot be read: what is in there is not compared"
            )
        });
        told.collect()
    }

    /// All tables but those of sizes and findings; none is empty.
    fn sections(&self) -> Vec<Section> {
        let changes = self.changes;
        let files = |area| {
            let files = changes.files.iter().filter(move |file| file.area == area);
            files.map(of_file)
        };
        let packages = |areas: &'static [Area]| {
            let packages = changes.packages.iter();
            let of_areas = packages.filter(move |package| areas.contains(&package.area));
            of_areas.map(of_package)
        };
        let base = changes.base.as_ref().map(of_base);
        let all = [
            ("Base", base.into_iter().collect()),
            ("Packages of the base", packages(&[Area::Base]).collect()),
            ("Packages", packages(&[Area::Dependencies]).collect()),
            ("Files of the function", files(Area::Function).collect()),
            (
                "Settings",
                changes.settings.iter().map(of_setting).collect(),
            ),
            (
                "Runtime client and entry point",
                packages(&[Area::Bootstrap])
                    .chain(files(Area::Bootstrap))
                    .collect(),
            ),
            (
                "Extensions and layers in /opt",
                packages(&[Area::Extensions])
                    .chain(files(Area::Extensions))
                    .collect(),
            ),
            ("Files elsewhere", files(Area::Elsewhere).collect()),
        ];
        let all = all.into_iter().map(|(title, rows)| Section {
            title,
            rows,
            is_aside: title == "Packages of the base",
        });
        all.filter(|section| !section.rows.is_empty()).collect()
    }

    /// Rows of kind, both unpacked sizes and both packed ones; the last is of all. None where nothing has changed.
    fn sizes(&self) -> Vec<[String; 7]> {
        let (sizes, total) = (&self.changes.sizes, &self.changes.total);
        let areas = sizes.iter().map(|size| (area(size.area), &size.sizes));
        let all: Vec<_> = areas.chain([("all", total)]).collect();
        if all.iter().all(|(_, sizes)| sizes.first == sizes.second) {
            return Vec::new();
        }
        let rows = all.into_iter().map(|(what, sizes)| {
            let (first, second) = (sizes.first, sizes.second);
            let bytes = |bytes| HumanBytes(bytes).to_string();
            [
                what.to_owned(),
                bytes(first.unpacked),
                bytes(second.unpacked),
                difference(first.unpacked, second.unpacked),
                bytes(first.packed),
                bytes(second.packed),
                difference(first.packed, second.packed),
            ]
        });
        rows.collect()
    }

    /// How many findings are new and gone, in words, if any are.
    fn findings(&self) -> Option<String> {
        let (new, gone) = (&self.changes.new, &self.changes.gone);
        let told = [(new, "new"), (gone, "gone")].map(|(findings, what)| {
            let mut counts: Vec<(String, usize)> = Vec::new();
            for finding in findings {
                let level = finding.level.to_string();
                match counts.last_mut().filter(|(last, _)| *last == level) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((level, 1)),
                }
            }
            let counts = counts.iter().map(|(level, count)| counted(*count, level));
            let counts: Vec<_> = counts.collect();
            (!counts.is_empty()).then(|| format!("{what}: {}", counts.join(", ")))
        });
        let told: Vec<_> = told.into_iter().flatten().collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// What is said where nothing has changed.
    fn sameness(&self) -> &'static str {
        let (first, second) = (&self.changes.digests.first, &self.changes.digests.second);
        if self.changes.is_same_image() {
            "nothing changed: it is the same image"
        } else if first.is_none() || second.is_none() {
            "nothing changed"
        } else {
            "nothing changed but bytes that no function reads, as dates or compression: `lambimg verify A --against B` \
             shows them"
        }
    }
}

/// What an area is called.
fn area(area: Area) -> &'static str {
    match area {
        Area::Base => "base",
        Area::Bootstrap => "bootstrap",
        Area::Extensions => "extensions",
        Area::Dependencies => "dependencies",
        Area::Function => "function",
        Area::Elsewhere => "other",
    }
}

/// The date and digest of a base, as far as they are known.
fn dated(base: Option<&Base>) -> String {
    let Some(base) = base else {
        return "none that is known".to_owned();
    };
    let day = base.created.as_deref().and_then(|date| date.get(..DAY));
    let digest = base.digest.as_deref();
    let digest = digest.map(|digest| digest.get(..SHORT_DIGEST).unwrap_or(digest));
    let parts: Vec<_> = day.into_iter().chain(digest).collect();
    if parts.is_empty() {
        return "one that tells neither date nor digest".to_owned();
    }
    parts.join(" ")
}

fn of_base(bases: &Pair<Option<Base>>) -> Row {
    let name = |base: &Option<Base>| base.as_ref()?.name.clone();
    let name = match (name(&bases.first), name(&bases.second)) {
        (Some(first), Some(second)) if first != second => format!("{first} → {second}"),
        (first, second) => second.or(first).unwrap_or_default(),
    };
    let before = dated(bases.first.as_ref());
    let mut after = dated(bases.second.as_ref());
    if before == after {
        after.push_str(", with other layers");
    }
    Row {
        mark: Mark::Changed,
        word: "moved",
        name,
        before,
        after,
        note: String::new(),
    }
}

fn of_package(package: &PackageChange) -> Row {
    let side = |side: Option<&lambimg::build::changes::Side>| {
        side.map_or((String::new(), 0), |side| {
            (side.version.clone(), side.unpacked)
        })
    };
    let (before, first) = side(package.first.as_ref());
    let (after, second) = side(package.second.as_ref());
    let (mark, word) = match package.how {
        How::Added => (Mark::Added, "added"),
        How::Removed => (Mark::Removed, "removed"),
        How::Upgraded => (Mark::Changed, "upgraded"),
        How::Downgraded => (Mark::Changed, "downgraded"),
        How::Changed => (Mark::Changed, "changed"),
        How::Files { .. } => (Mark::Changed, "other files"),
    };
    let mut note = difference(first, second);
    if let How::Files {
        added,
        removed,
        changed,
    } = package.how
    {
        let counts = [(changed, "changed"), (added, "added"), (removed, "removed")];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        for (count, what) in counts {
            let _ = write!(note, "{}{count} {what}", separator(&note));
        }
    }
    Row {
        mark,
        word,
        name: package.name.clone(),
        before,
        after,
        note,
    }
}

fn separator(text: &str) -> &'static str {
    if text.is_empty() { "" } else { ", " }
}

fn of_file(file: &FileChange) -> Row {
    let (first, second) = (file.first.as_ref(), file.second.as_ref());
    let (mark, word) = match (first, second) {
        (None, _) => (Mark::Added, "added"),
        (_, None) => (Mark::Removed, "removed"),
        _ => (Mark::Changed, "changed"),
    };
    let bytes =
        |state: Option<&lambimg::build::changes::State>| state.map_or(0, |state| state.size);
    let mut note = difference(bytes(first), bytes(second));
    if let (Some(first), Some(second)) = (first, second) {
        let is_link = first.target.is_some() || second.target.is_some();
        if note.is_empty() && !is_link && !first.has_same_contents(second) {
            note.push_str("of the same size");
        }
        if first.mode != second.mode {
            let gap = separator(&note);
            let _ = write!(note, "{gap}mode {:04o} → {:04o}", first.mode, second.mode);
        }
    }
    let side = |state: Option<&lambimg::build::changes::State>| match state {
        None => String::new(),
        Some(state) => match &state.target {
            Some(target) => format!("link to {target}"),
            None => HumanBytes(state.size).to_string(),
        },
    };
    Row {
        mark,
        word,
        name: in_place(file),
        before: side(first),
        after: side(second),
        note,
    }
}

/// A file as its owner calls it.
fn in_place(file: &FileChange) -> String {
    match file.area {
        Area::Function => file.name.clone(),
        _ => format!("/{}", file.path),
    }
}

fn of_setting(change: &SettingChange) -> Row {
    let (mark, word) = match (&change.first, &change.second) {
        (None, _) => (Mark::Added, "added"),
        (_, None) => (Mark::Removed, "removed"),
        _ => (Mark::Changed, "changed"),
    };
    Row {
        mark,
        word,
        name: setting(&change.setting),
        before: value(change.first.as_ref()),
        after: value(change.second.as_ref()),
        note: String::new(),
    }
}

fn setting(setting: &Setting) -> String {
    match setting {
        Setting::Variable(name) => format!("variable {name}"),
        Setting::Label(name) => format!("label {name}"),
        other => kind(other).replace('-', " "),
    }
}

/// The kind of a setting as programs are told it.
fn kind(setting: &Setting) -> &'static str {
    match setting {
        Setting::Architecture => "architecture",
        Setting::Python => "python",
        Setting::Handler => "handler",
        Setting::EntryPoint => "entry-point",
        Setting::WorkingDirectory => "working-directory",
        Setting::User => "user",
        Setting::Bytecode => "bytecode",
        Setting::Variable(_) => "variable",
        Setting::Label(_) => "label",
    }
}

fn value(text: Option<&Text>) -> String {
    match text {
        None => String::new(),
        Some(Text::Secret) => "(a secret, not shown)".to_owned(),
        Some(Text::Plain(text)) if text.is_empty() => "(empty)".to_owned(),
        Some(Text::Plain(text)) => shortened(text),
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= WIDEST {
        return text.to_owned();
    }
    let start: String = text.chars().take(WIDEST).collect();
    format!("{start}…")
}

/// By how many bytes it is more or less; nothing where it is the same.
fn difference(first: u64, second: u64) -> String {
    match first.abs_diff(second) {
        0 => String::new(),
        bytes if second > first => format!("+{}", HumanBytes(bytes)),
        bytes => format!("-{}", HumanBytes(bytes)),
    }
}
