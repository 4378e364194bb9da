//! How many bytes a release moves, over real histories of locks: with our layers, with one layer for all
//! dependencies, and with one for each wheel.
//!
//! The sets beside this file are locked as of the first and the fifteenth of each month, by uv and the
//! index's upload dates; the locks are kept below `target/layering`. A wheel's size stands for that of its
//! layer, which differs by a few percent.

#![allow(clippy::unwrap_used, reason = "what cannot go on stops")]
#![allow(clippy::print_stdout, reason = "the report is the result")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lambimg::build::layering::{self, Package, Rule};
use lambimg::digest::Digest;
use lambimg::python::lock::{self, Builds, Format, Locked, LockedWheel, Request, Wanted};
use lambimg::python::{Glibc, Target};

/// First and last month.
const MONTHS: [(u32, u32); 2] = [(2025, 5), (2026, 11)];
const SETS: [&str; 6] = ["small", "powertools", "web", "agents", "data", "learning"];
const MIB: f64 = 1024.0 * 1024.0;

/// The plan's own default.
const DEFAULT_MOST: usize = 20;

/// The wheels of a layer, and their bytes.
type Contents = (Vec<Digest>, u64);
/// The wheels of one release.
type Release = Vec<LockedWheel>;

fn main() {
    let history = |set: &&'static str| {
        let releases = dates().iter().map(|date| release(set, date)).collect();
        (*set, changed(releases))
    };
    let histories: Vec<(&str, Vec<Release>)> = SETS.iter().map(history).collect();
    println!(
        "MiB that a release moves, mean over the releases that change a wheel; in brackets the layers of the"
    );
    println!("last one, and how many of them are new in a release.\n");
    print!("| |");
    for (set, releases) in &histories {
        let packages = releases.last().unwrap().len();
        print!(
            " {set}: {packages} packages, {} releases |",
            releases.len() - 1
        );
    }
    println!(" all |\n|---|{}---|", "---|".repeat(SETS.len()));
    let rule = |most, large| Rule { most, large };
    line("one layer", &histories, rule(1, 0));
    line("a layer a wheel", &histories, rule(1000, 0));
    line("lambimg", &histories, Rule::with_most(DEFAULT_MOST));
    for most in [2, 4, 6, 8, 10, 12, 16] {
        let label = format!("`layers = {most}`");
        line(&label, &histories, Rule::with_most(most));
    }
    for kibibytes in [64, 128, 256, 512, 1024, 2048, 4096] {
        let label = format!("alone from {kibibytes} KiB");
        line(&label, &histories, rule(60, kibibytes << 10));
    }
}

/// A line of the table: what moves by this rule.
fn line(label: &str, histories: &[(&str, Vec<Release>)], rule: Rule) {
    print!("| {label} |");
    let mut sum = 0.0;
    for (_, releases) in histories {
        let layers = releases.iter().map(|release| layers(release, rule));
        let layers: Vec<_> = layers.collect();
        let (mut bytes, mut count) = (0, 0);
        for pair in layers.windows(2) {
            for size in new(&pair[0], &pair[1]) {
                bytes += size;
                count += 1;
            }
        }
        let steps = layers.len() - 1;
        let moved = mean(bytes, steps) / MIB;
        sum += moved;
        let last = layers.last().unwrap().len();
        print!(" {moved:.1} ({last}; {:.1}) |", mean(count, steps));
    }
    println!(" {sum:.1} |");
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mean(sum: u64, count: usize) -> f64 {
    sum as f64 / count as f64
}

/// The layers by what is in them, each with its bytes.
fn layers(release: &[LockedWheel], rule: Rule) -> Vec<Contents> {
    let packages: Vec<_> = release
        .iter()
        .map(|wheel| Package {
            name: &wheel.name,
            size: wheel.size.unwrap(),
            first_party: wheel.first_party,
        })
        .collect();
    let groups = layering::groups(&packages, rule).into_iter();
    groups
        .map(|group| {
            let digests = group.iter().map(|&place| release[place].digest).collect();
            (
                digests,
                group.iter().map(|&place| packages[place].size).sum(),
            )
        })
        .collect()
}

/// The sizes of the layers that were not there before.
fn new(before: &[Contents], after: &[Contents]) -> Vec<u64> {
    let there: BTreeSet<_> = before.iter().map(|(digests, _)| digests).collect();
    let new = after.iter().filter(|(digests, _)| !there.contains(digests));
    new.map(|(_, size)| *size).collect()
}

/// The releases without those that change nothing.
fn changed(mut releases: Vec<Release>) -> Vec<Release> {
    releases.dedup();
    releases
}

fn dates() -> Vec<String> {
    let [(first, from), (last, to)] = MONTHS;
    let months = (first..=last).flat_map(|year| (1..=12).map(move |month| (year, month)));
    let months = months.filter(|month| (first, from) <= *month && *month <= (last, to));
    let days =
        months.flat_map(|(year, month)| [1, 15].map(|day| format!("{year}-{month:02}-{day:02}")));
    days.collect()
}

fn release(set: &str, date: &str) -> Release {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root
        .join("target/layering")
        .join(set)
        .join(date)
        .join("pylock.toml");
    if !path.exists() {
        make_lock(
            &root
                .join("benches/layering/sets")
                .join(set)
                .with_extension("txt"),
            date,
            &path,
        );
    }
    let glibc = Glibc {
        major: 2,
        minor: 34,
    };
    let target = Target::new("3.12".parse().unwrap(), "x86_64".parse().unwrap(), glibc);
    let request = Request {
        target,
        wanted: &Wanted::default(),
        pyproject: None,
        member: Path::new(""),
    };
    let text = fs::read_to_string(&path).unwrap();
    let entries = lock::entries(Format::Pylock, &text, &request).unwrap();
    let chosen = lock::choose(&entries, target, &Builds::default()).unwrap();
    let wheels = chosen.into_iter().map(|locked| match locked {
        Locked::Wheel(wheel) => wheel,
        Locked::Source(source) => panic!("{} has no wheel", source.name),
    });
    wheels.collect()
}

/// Has uv lock the set as it would have on that day.
fn make_lock(set: &Path, date: &str, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/uv");
    let uv = if installed.exists() {
        installed
    } else {
        PathBuf::from("uv")
    };
    let mut command = Command::new(uv);
    command.args([
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--format",
        "pylock.toml",
    ]);
    command.args([
        "--python-platform",
        "x86_64-manylinux_2_34",
        "--python-version",
        "3.12",
    ]);
    command.args([
        "--only-binary",
        ":all:",
        "--exclude-newer",
        date,
        "--output-file",
    ]);
    let status = command.arg(path).arg(set).status().unwrap();
    assert!(status.success(), "{command:?}");
}
