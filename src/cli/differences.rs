//! What `verify` found, as a table and as JSON.
//!
//! The JSON's shape is an interface, numbered by `version`; keys are only ever added within one.

use std::ops::Range;

use lambimg::build::verify::{Finding, Report};
use lambimg::oci::compare::{Change, Difference, Kind, Place};
use lambimg::oci::image;
use serde_json::{Value, json};

use crate::terminal::{self, visible};

/// The version of the shape.
const VERSION: u32 = 1;
/// As many characters of a value as a table has room for.
const WIDEST: usize = 56;

/// One difference in words: where, and what either side has there.
struct Row {
    kind: &'static str,
    place: String,
    first: String,
    second: String,
}

const NOTHING: &str = "-";

/// The differences as a table; `sides` names the two images.
pub(crate) fn table(report: &Report, sides: [&str; 2]) -> String {
    let mut lines = vec![["WHERE", sides[0], sides[1], "LIKELY CAUSE"].map(str::to_owned)];
    lines.extend(report.findings.iter().map(|finding| {
        let row = row(&finding.difference);
        let cause = finding.cause.as_ref();
        [
            row.place,
            row.first,
            row.second,
            cause.map_or(String::new(), ToString::to_string),
        ]
        .map(|cell| visible(&cell))
    }));
    lines.extend(report.further.iter().map(|(place, count)| {
        let files = if *count == 1 { "file" } else { "files" };
        let text = format!("{}: {count} more {files}", layers(place));
        [visible(&text), String::new(), String::new(), String::new()]
    }));
    terminal::table(&lines, 4)
}

/// The whole report as JSON.
pub(crate) fn json(report: &Report) -> String {
    let further = report.further.iter().map(|(place, count)| {
        json!({"first_layers": numbers(&place.first), "second_layers": numbers(&place.second), "files": count})
    });
    let value = json!({
        "version": VERSION,
        "same": report.same,
        "first": report.first,
        "second": report.second,
        "differences": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "further": further.collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn finding_json(finding: &Finding) -> Value {
    let difference = &finding.difference;
    let row = row(difference);
    let mut value = json!({
        "kind": row.kind,
        "first": row.first,
        "second": row.second,
        "cause": finding.cause.as_ref().map(ToString::to_string),
    });
    match difference {
        Difference::Document { key, first, second } => {
            value["key"] = json!(key);
            value["first"] = json!(first);
            value["second"] = json!(second);
        }
        Difference::Types { .. } | Difference::Spelling { .. } => {}
        Difference::Base { place, .. }
        | Difference::Compression { place }
        | Difference::Form { place }
        | Difference::Dates { place, .. }
        | Difference::File { place, .. } => {
            value["first_layers"] = json!(numbers(&place.first));
            value["second_layers"] = json!(numbers(&place.second));
            value["what"] = json!(place.what);
        }
    }
    if let Difference::File { path, change, .. } = difference {
        value["path"] = json!(path);
        if let Change::Contents { at: Some(at), .. } = change {
            value["offset"] = json!(at.offset);
        }
    }
    value
}

/// Layers by number, the lowest being 1.
fn numbers(range: &Range<usize>) -> Vec<usize> {
    range.clone().map(|number| number + 1).collect()
}

fn layers(place: &Place) -> String {
    let range = |range: &Range<usize>| match range.len() {
        0 => None,
        1 => Some((range.start + 1).to_string()),
        _ => Some(format!("{}-{}", range.start + 1, range.end)),
    };
    let text = match (range(&place.first), range(&place.second)) {
        (Some(first), Some(second)) if first != second => format!("layer {first} or {second}"),
        (Some(only), _) | (None, Some(only)) => format!("layer {only}"),
        (None, None) => "no layer".to_owned(),
    };
    match &place.what {
        Some(what) => format!("{text} ({})", shortened(what)),
        None => text,
    }
}

fn row(difference: &Difference) -> Row {
    let row = |kind, place: String, first: String, second: String| Row {
        kind,
        place,
        first,
        second,
    };
    match difference {
        Difference::Types { first, second } => row(
            "media-types",
            "media types".to_owned(),
            first.manifest().to_owned(),
            second.manifest().to_owned(),
        ),
        Difference::Document { key, first, second } => row(
            "document",
            key.clone(),
            value(first.as_ref()),
            value(second.as_ref()),
        ),
        Difference::Spelling {
            what,
            first,
            second,
        } => row(
            "spelling",
            format!("{what}: the same in other bytes"),
            first.to_string(),
            second.to_string(),
        ),
        Difference::Base {
            first,
            second,
            place,
        } => row(
            "base",
            format!("{}: the base's, not read", layers(place)),
            first.clone(),
            second.clone(),
        ),
        Difference::Compression { place } => row(
            "compression",
            format!("{}: the same files, compressed differently", layers(place)),
            NOTHING.to_owned(),
            NOTHING.to_owned(),
        ),
        Difference::Form { place } => row(
            "form",
            format!("{}: the same files in another tar", layers(place)),
            NOTHING.to_owned(),
            NOTHING.to_owned(),
        ),
        Difference::Dates {
            place,
            first,
            second,
            files,
        } => row(
            "dates",
            format!("{}: dates of {files} entries", layers(place)),
            image::date(*first),
            image::date(*second),
        ),
        Difference::File {
            place,
            path,
            change,
        } => {
            let (kind, first, second) = changed(change);
            row(kind, format!("{}: {path}", layers(place)), first, second)
        }
    }
}

fn changed(change: &Change) -> (&'static str, String, String) {
    let there = || "there".to_owned();
    match change {
        Change::OnlyFirst => ("only-first", there(), NOTHING.to_owned()),
        Change::OnlySecond => ("only-second", NOTHING.to_owned(), there()),
        Change::Kind { first, second } => ("type", kind(*first), kind(*second)),
        Change::Mode { first, second } => (
            "mode",
            format!("mode {first:04o}"),
            format!("mode {second:04o}"),
        ),
        Change::Owner { first, second } => (
            "owner",
            format!("owner {}:{}", first.0, first.1),
            format!("owner {}:{}", second.0, second.1),
        ),
        Change::Attributes { first, second } => {
            let side = |text: &String| {
                if text.is_empty() {
                    NOTHING.to_owned()
                } else {
                    shortened(text)
                }
            };
            ("attributes", side(first), side(second))
        }
        Change::Target { first, second } => {
            ("target", format!("-> {first}"), format!("-> {second}"))
        }
        Change::Contents { at: Some(at), .. } => {
            let side = |bytes: &[u8]| format!("byte {}: {}", at.offset, hex(bytes));
            ("contents", side(&at.first), side(&at.second))
        }
        Change::Contents { sizes, .. } => (
            "contents",
            format!("{} bytes", sizes.0),
            format!("{} other bytes", sizes.1),
        ),
    }
}

fn kind(kind: Kind) -> String {
    let text = match kind {
        Kind::File => "a file",
        Kind::Directory => "a directory",
        Kind::Symlink => "a symbolic link",
        Kind::Hardlink => "a hard link",
        Kind::Special => "a device or pipe",
    };
    text.to_owned()
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "the end".to_owned();
    }
    let bytes = bytes.iter().map(|byte| format!("{byte:02x}"));
    bytes.collect::<Vec<_>>().join(" ")
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => NOTHING.to_owned(),
        Some(Value::String(text)) => shortened(text),
        Some(other) => shortened(&other.to_string()),
    }
}

fn shortened(text: &str) -> String {
    let is_digest = text.starts_with("sha256:");
    if is_digest || text.chars().count() <= WIDEST {
        return text.to_owned();
    }
    let start: String = text.chars().take(WIDEST).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lambimg::build::verify::Finding;
    use lambimg::digest::Digest;

    #[test]
    fn names_of_others_steer_no_terminal() {
        let place = Place {
            first: 0..1,
            second: 0..1,
            what: Some("\u{9b}2J".to_owned()),
        };
        let dates = Difference::Dates {
            place: place.clone(),
            first: 1 << 40,
            second: u64::MAX,
            files: 1,
        };
        let file = Difference::File {
            place,
            path: "a\u{1b}[2Jb\nc".to_owned(),
            change: Change::OnlyFirst,
        };
        let finding = |difference| Finding {
            difference,
            cause: None,
        };
        let report = Report {
            first: Digest::of("a"),
            second: Digest::of("b"),
            same: false,
            findings: vec![finding(dates), finding(file)],
            further: Vec::new(),
        };
        let text = table(&report, ["FIRST", "SECOND"]);
        let controls = |c: char| c.is_control() && c != '\n';
        assert!(
            !text.contains(controls) && text.lines().count() == 3,
            "{text}"
        );
        for part in [r"(\u{9b}2J)", r"a\u{1b}[2Jb\nc", "second 1099511627776"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
