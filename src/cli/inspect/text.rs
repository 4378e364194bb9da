//! What is in an image, for people: a few short tables, what is the base's folded.
//!
//! Names may be anybody's, so all are escaped before they are shown.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use indicatif::HumanBytes;
use lambimg::build::inventory::{File, Layer, Package};
use lambimg::lambda::check;

use super::{Inspected, LARGEST, LIMIT};
use crate::terminal::{counted, table, visible};

/// Columns of the names of settings.
const INDENT: usize = 19;
/// Characters of a value that are enough to know it by.
const LONG: usize = 72;
/// As many of the base's layers are one line.
const MANY: usize = 2;

/// Everything; `all` unfolds what is the base's.
pub(super) fn text(inspected: &Inspected<'_>, all: bool) -> String {
    let parts = [
        head(inspected),
        config(inspected),
        base(inspected),
        layers(inspected, all),
        packages(inspected, all),
        left_out(inspected, all),
        largest(inspected, all),
    ];
    let told: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    told.join("\n")
}

fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// The text escaped, and its beginning if it is long.
fn short(text: &str) -> String {
    let text = visible(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    match text.char_indices().nth(LONG) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Settings, a line each; of several values each has one.
fn settings(rows: &[(&str, Vec<String>)]) -> String {
    let mut text = String::new();
    for (name, values) in rows {
        let names = [*name].into_iter().chain(std::iter::repeat(""));
        for (name, value) in names.zip(values) {
            let _ = writeln!(text, "{name:<INDENT$}{value}");
        }
    }
    text
}

fn head(inspected: &Inspected<'_>) -> String {
    let inventory = &inspected.inventory;
    let unpacked = inventory.unpacked();
    let counts = [
        counted(inventory.layers.len(), "layer"),
        counted(inventory.packages.len(), "package"),
        counted(inventory.files.len(), "file"),
    ];
    let digest = inspected.digest().map(|digest| digest.to_string());
    // Tenths of a per cent, the nearest.
    let share = (unpacked.saturating_mul(1000) + LIMIT / 2) / LIMIT;
    settings(&[
        ("image", vec![visible(inspected.name)]),
        ("digest", digest.into_iter().collect()),
        ("holds", vec![counts.join(", ")]),
        ("compressed", vec![bytes(inventory.size())]),
        (
            "unpacked",
            vec![format!(
                "{}, {}.{} % of the {} that Lambda takes",
                bytes(unpacked),
                share / 10,
                share % 10,
                bytes(LIMIT)
            )],
        ),
    ])
}

fn config(inspected: &Inspected<'_>) -> String {
    let documents = &inspected.subject.documents;
    let words = |field: &str| {
        let words = check::shown(&documents.list(field));
        let words: Vec<_> = words.iter().map(|word| visible(word)).collect();
        if words.is_empty() {
            Vec::new()
        } else {
            vec![words.join(" ")]
        }
    };
    let setting = |name: &str, value: &str| {
        let value = if check::is_secret(name, value) {
            check::HIDDEN.to_owned()
        } else {
            short(value)
        };
        format!("{}={value}", visible(name))
    };
    let variables = documents.variables().into_iter();
    let labels = documents.run("Labels").as_object().into_iter().flatten();
    let labels = labels.map(|(name, value)| setting(name, value.as_str().unwrap_or_default()));
    let python = inspected.subject.python.as_ref();
    let user = documents.run("User").as_str().filter(|it| !it.is_empty());
    settings(&[
        ("entry point", words("Entrypoint")),
        ("command", words("Cmd")),
        ("working directory", vec![visible(documents.working_dir())]),
        ("user", user.map(visible).into_iter().collect()),
        ("architecture", vec![visible(documents.architecture())]),
        (
            "python",
            python
                .iter()
                .map(|python| python.version.to_string())
                .collect(),
        ),
        (
            "variables",
            variables
                .map(|(name, value)| setting(name, value))
                .collect(),
        ),
        ("labels", labels.collect()),
    ])
}

fn base(inspected: &Inspected<'_>) -> String {
    let Some(base) = &inspected.inventory.base else {
        return String::new();
    };
    let escaped = |text: &Option<String>| text.iter().map(|text| visible(text)).collect();
    let created = base.created.as_deref().map(|created| {
        let day = visible(created.split('T').next().unwrap_or_default());
        match inspected.age_of_base() {
            Some(0) => format!("{day}, today"),
            Some(1) => format!("{day}, 1 day old"),
            Some(days) => format!("{day}, {days} days old"),
            None => day,
        }
    });
    settings(&[
        ("base", escaped(&base.name)),
        ("base digest", escaped(&base.digest)),
        ("base made", created.into_iter().collect()),
    ])
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn layers(inspected: &Inspected<'_>, all: bool) -> String {
    let layers = &inspected.inventory.layers;
    let base = layers.iter().take_while(|layer| layer.is_base).count();
    let folded = if all || base < MANY { 0 } else { base };
    let mut rows = vec![row([
        "LAYER",
        "WHAT",
        "COMPRESSED",
        "UNPACKED",
        "FILES",
        "HIDDEN",
    ])];
    if folded > 0 {
        let what = format!("the base's {}", counted(folded, "layer"));
        rows.push(layers_row(&layers[..folded], 0..folded, what));
    }
    for number in folded..layers.len() {
        let layer = &layers[number];
        let what = match (short(&layer.what), layer.is_base) {
            (what, false) => what,
            (what, true) => format!("base: {what}"),
        };
        rows.push(layers_row(
            &layers[number..=number],
            number..number + 1,
            what,
        ));
    }
    table(&rows, 2)
}

fn layers_row(layers: &[Layer], numbers: Range<usize>, what: String) -> Vec<String> {
    let sum = |size: fn(&Layer) -> u64| layers.iter().map(size).sum::<u64>();
    let number = if numbers.len() == 1 {
        numbers.end.to_string()
    } else {
        format!("{}-{}", numbers.start + 1, numbers.end)
    };
    let hidden = sum(|layer| layer.hidden);
    vec![
        number,
        what,
        bytes(sum(|layer| layer.size)),
        bytes(sum(|layer| layer.unpacked)),
        layers
            .iter()
            .map(|layer| layer.files)
            .sum::<usize>()
            .to_string(),
        if hidden == 0 {
            String::new()
        } else {
            bytes(hidden)
        },
    ]
}

/// The packages that are told one by one, the largest first, and those that are told together.
fn sorted<'a>(
    inspected: &'a Inspected<'_>,
    all: bool,
) -> (Vec<&'a Package<'a>>, Vec<&'a Package<'a>>) {
    let mut packages: Vec<_> = inspected.inventory.packages.iter().collect();
    packages.sort_by_key(|package| (Reverse(package.unpacked), package.installed.name));
    packages
        .into_iter()
        .partition(|package| all || !package.is_base)
}

fn packages(inspected: &Inspected<'_>, all: bool) -> String {
    let (told, folded) = sorted(inspected, all);
    if told.is_empty() && folded.is_empty() {
        return String::new();
    }
    let mut rows = vec![row([
        "PACKAGE",
        "VERSION",
        "UNPACKED",
        "COMPRESSED",
        "FILES",
        "LAYER",
    ])];
    rows.extend(told.iter().map(|package| {
        vec![
            short(package.installed.name),
            short(package.installed.version),
            bytes(package.unpacked),
            bytes(package.packed),
            package.files.to_string(),
            (package.installed.layer + 1).to_string(),
        ]
    }));
    if !folded.is_empty() {
        let sum = |size: fn(&Package<'_>) -> u64| folded.iter().map(|one| size(one)).sum::<u64>();
        rows.push(vec![
            format!("the base's {}", counted(folded.len(), "package")),
            String::new(),
            bytes(sum(|package| package.unpacked)),
            bytes(sum(|package| package.packed)),
            folded
                .iter()
                .map(|package| package.files)
                .sum::<usize>()
                .to_string(),
            String::new(),
        ]);
    }
    table(&rows, 2)
}

/// What packages lack of what they say that they have, and what the build left out: by its directory, for of which
/// package it would be is said nowhere any more.
fn left_out(inspected: &Inspected<'_>, all: bool) -> String {
    let (told, _) = sorted(inspected, all);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for package in told {
        if !package.left_out.is_empty() {
            *counts.entry(short(package.installed.name)).or_default() += package.left_out.len();
        }
    }
    let asked = inspected.left_out.as_ref();
    for path in asked.iter().flat_map(|asked| &asked.files) {
        let directory = path.split_inclusive('/').next().unwrap_or_default();
        *counts.entry(short(directory)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let packages = asked.iter().flat_map(|asked| &asked.packages);
    let packages = packages.map(|name| vec![short(name), "all".to_owned()]);
    let counts = counts.into_iter();
    let counts = counts.map(|(name, count)| vec![name, count.to_string()]);
    let rows: Vec<_> = packages.chain(counts).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = vec![row(["LEFT OUT OF", "FILES"])];
    table(&[head, rows].concat(), 1)
}

fn largest(inspected: &Inspected<'_>, all: bool) -> String {
    let files = inspected.by_size();
    let (mut told, mut folded): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|file| all || !inspected.is_of_base(file));
    // Of a base alone these are all there is.
    if told.is_empty() {
        told = std::mem::take(&mut folded);
    }
    if told.is_empty() {
        return String::new();
    }
    let mut rows = vec![row(["LARGEST FILES", "UNPACKED", "COMPRESSED", "LAYER"])];
    rows.extend(told.iter().take(LARGEST).map(|file| {
        vec![
            visible(file.path),
            bytes(file.size),
            bytes(file.packed),
            (file.layer + 1).to_string(),
        ]
    }));
    if !folded.is_empty() {
        let sum = |size: fn(&File<'_>) -> u64| folded.iter().map(|file| size(file)).sum::<u64>();
        rows.push(vec![
            format!("the base's {}", counted(folded.len(), "file")),
            bytes(sum(|file| file.size)),
            bytes(sum(|file| file.packed)),
            String::new(),
        ]);
    }
    table(&rows, 1)
}
