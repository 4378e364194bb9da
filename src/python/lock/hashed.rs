//! A requirements file that is a lock: every requirement in it is one version with the hashes of its files.
//!
//! pip calls this hash-checking mode; `pip-compile --generate-hashes`, `uv export` and `poetry export` write
//! such files. `--hash` asks for it: a hash in an address binds that file and says nothing of what it
//! requires. What is less than that is for a resolver, and no error here. The files of an index are known by
//! their sha256 alone.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use crate::digest::Digest;
use crate::http::Url;
use crate::python::index::Indexes;
use crate::python::lock::{ARCHIVES, Entry, Location, is_archive};
use crate::python::markers::Markers;
use crate::python::requirement::Requirement;
use crate::python::requirements::{self, Line, Part, Requirements};
use crate::python::{Target, WheelFilename, normalize_name};

/// The user's `own` indexes with what requirements and the files they include name for themselves: an index takes
/// the place of the user's, of several the last. Relative paths are meant from `directory`. Names and passwords
/// are left out.
pub fn indexes(lines: &[Line], directory: &Path, own: &Indexes) -> Indexes {
    let mut indexes = own.clone();
    for line in lines {
        let url = || Url::parse(option(&line.text).1).ok();
        match option(&line.text) {
            ("-i" | "--index-url", _) => indexes.index = url().or(indexes.index),
            ("--extra-index-url", _) => indexes.extra.extend(url()),
            ("-f" | "--find-links", place) => indexes.find_links.push(match url() {
                Some(url) => Location::Url(url),
                None => Location::Path(directory.join(place)),
            }),
            ("--no-index", _) => indexes.no_index = true,
            _ => {}
        }
    }
    indexes.remove_secrets();
    indexes
}

/// Whether lines name the index that takes the place of the user's own.
pub fn names_index(lines: &[Line]) -> bool {
    let names = |line: &Line| matches!(option(&line.text).0, "-i" | "--index-url" | "--no-index");
    lines.iter().any(names)
}

/// An option and its value.
fn option(line: &str) -> (&str, &str) {
    // A short option may touch its value.
    let short = ["-i", "-f"]
        .into_iter()
        .find(|option| line.starts_with(option));
    let end = match short {
        Some(option) => option.len(),
        None => line
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(line.len()),
    };
    let (name, value) = line.split_at(end);
    let value = value.trim_start_matches(|c: char| c == '=' || c.is_whitespace());
    (name, value.trim_matches(|c| c == '"' || c == '\''))
}

/// The packages that are asked for on a target, by name; nothing when the requirements are no lock.
///
/// # Errors
/// When a file cannot be read.
pub fn entries(
    requirements: &Requirements,
    target: Target,
) -> Result<Option<Vec<Entry>>, requirements::Error> {
    let lines = requirements::read(requirements, target)?.lines;
    Ok(all_of(&lines, &Markers::new(target)))
}

/// A requirement that is bound to bytes, or may be by a constraint.
#[derive(Debug, Clone, Default)]
struct Pinned {
    version: Option<String>,
    location: Option<Location>,
    hashes: BTreeSet<Digest>,
}

fn all_of(lines: &[Line], markers: &Markers) -> Option<Vec<Entry>> {
    if !lines.iter().any(|line| asks_for_hashes(&line.text)) {
        return None;
    }
    let mut pins: BTreeMap<String, Pinned> = BTreeMap::new();
    let mut constraints: BTreeMap<String, Pinned> = BTreeMap::new();
    for line in lines.iter().filter(|line| !says_how(&line.text)) {
        match (said(&line.text, markers), line.part) {
            (Said::Unbound, _) => return None,
            (Said::Elsewhere, _) => {}
            (Said::Pin(name, pin), Part::Requirements) => {
                merge(pins.entry(name), pin, |own, new| own | new)?;
            }
            (Said::Pin(name, pin), Part::Constraints) => {
                merge(constraints.entry(name), pin, |own, new| own & new)?;
            }
        }
    }
    let entry = |(name, pinned): (String, Pinned)| {
        let pinned = match constraints.remove(&name) {
            Some(constraint) => pinned.under(constraint)?,
            None => pinned,
        };
        pinned.entry(name)
    };
    let entries: Option<Vec<Entry>> = pins.into_iter().map(entry).collect();
    entries.filter(|entries| !entries.is_empty())
}

/// Whether a line has pip take nothing that is not listed with its hash.
fn asks_for_hashes(line: &str) -> bool {
    line.contains(" --hash") || line == "--require-hashes"
}

/// Whether a line says how to install, and not what.
fn says_how(line: &str) -> bool {
    const OPTIONS: [&str; 14] = [
        "-i",
        "--index-url",
        "--extra-index-url",
        "-f",
        "--find-links",
        "--no-index",
        "--no-binary",
        "--only-binary",
        "--prefer-binary",
        "--require-hashes",
        "--pre",
        "--trusted-host",
        "--use-feature",
        "--uploaded-prior-to",
    ];
    line.starts_with('-') && OPTIONS.contains(&option(line).0)
}

type Slot<'a> = std::collections::btree_map::Entry<'a, String, Pinned>;

/// Adds what another line says of the same name; nothing when they contradict each other.
fn merge(
    slot: Slot<'_>,
    new: Pinned,
    hashes: fn(&BTreeSet<Digest>, &BTreeSet<Digest>) -> BTreeSet<Digest>,
) -> Option<()> {
    match slot {
        Slot::Vacant(vacant) => drop(vacant.insert(new)),
        Slot::Occupied(mut occupied) => {
            let own = occupied.get_mut();
            if own.version != new.version || own.location != new.location {
                return None;
            }
            own.hashes = hashes(&own.hashes, &new.hashes);
        }
    }
    Some(())
}

/// What a line says.
enum Said {
    /// Nothing that a lock could.
    Unbound,
    /// Something for other machines.
    Elsewhere,
    /// This of that name.
    Pin(String, Pinned),
}

fn said(line: &str, markers: &Markers) -> Said {
    pin(line, markers).unwrap_or(Said::Unbound)
}

/// What a line says; nothing when it is no requirement that a lock can have.
fn pin(line: &str, markers: &Markers) -> Option<Said> {
    // Options of a single requirement stand behind it.
    let text = line.split(" --").next().unwrap_or(line).trim();
    let mut hashes: BTreeSet<Digest> = requirements::hashes(line).collect();
    let (name, marker, version, address) = match Requirement::parse(text) {
        Some(requirement) => {
            let version = exact(&requirement.specifiers);
            if version.is_none() && !requirement.specifiers.is_empty() {
                return None;
            }
            let name = Some(requirement.name);
            (name, requirement.marker, version, requirement.address)
        }
        None if text.starts_with('-') => return None,
        None => {
            let (address, marker) = match text.split_once(" ;") {
                Some((address, marker)) => (address.trim(), Some(marker.trim().to_owned())),
                None => (text, None),
            };
            (None, marker, None, Some(address.to_owned()))
        }
    };
    if let Some(marker) = marker
        && !markers.hold(&marker).ok()?
    {
        return Some(Said::Elsewhere);
    }
    let mut location = None;
    if let Some(address) = address {
        let (address, fragment) = address.split_once('#').unwrap_or((&address, ""));
        hashes.extend(in_fragment(fragment));
        location = Some(place(address)?);
    }
    let name = match (name, &location) {
        (Some(name), _) => name,
        (None, Some(location)) => name_of(&location.filename()?)?,
        (None, None) => return None,
    };
    let pinned = Pinned {
        version,
        location,
        hashes,
    };
    Some(Said::Pin(name, pinned))
}

/// The version of `==1.0` or `===1.0`.
fn exact(specifiers: &str) -> Option<String> {
    let version = specifiers
        .strip_prefix("===")
        .or(specifiers.strip_prefix("=="))?;
    let is_one = !version.contains([',', '*', '<', '>', '=', '!', '~']);
    (is_one && !version.trim().is_empty()).then(|| version.trim().to_owned())
}

fn in_fragment(fragment: &str) -> impl Iterator<Item = Digest> {
    let values = fragment
        .split('&')
        .filter_map(|part| part.strip_prefix("sha256="));
    values.filter_map(|hex| Digest::from_hex(hex).ok())
}

/// Where a file is; nothing for what is no file, as a repository or a directory.
fn place(address: &str) -> Option<Location> {
    if address.contains("://") || address.starts_with("file:") {
        let url = Url::parse(address).ok()?;
        let location = Location::Url(url.clone());
        let is_file = is_archive(&location.filename()?);
        return (is_file && !url.scheme().contains('+')).then_some(location);
    }
    is_archive(address).then(|| Location::Path(address.into()))
}

/// The project that a file's name names.
fn name_of(filename: &str) -> Option<String> {
    if let Ok(wheel) = WheelFilename::parse(filename) {
        return Some(wheel.name);
    }
    let stem = ARCHIVES
        .iter()
        .find_map(|ending| filename.strip_suffix(ending))?;
    let (name, _) = stem.rsplit_once('-')?;
    Some(normalize_name(name))
}

impl Pinned {
    /// The same with what a constraint says of it; nothing when they contradict each other.
    fn under(mut self, constraint: Pinned) -> Option<Self> {
        if let (Some(own), Some(other)) = (&self.version, &constraint.version)
            && own != other
        {
            return None;
        }
        self.version = self.version.or(constraint.version);
        self.location = self.location.or(constraint.location);
        if self.hashes.is_empty() {
            self.hashes = constraint.hashes;
        } else if !constraint.hashes.is_empty() {
            self.hashes = &self.hashes & &constraint.hashes;
        }
        Some(self)
    }

    fn entry(self, name: String) -> Option<Entry> {
        let is_bound = self.version.is_some() || self.location.is_some();
        if !is_bound || self.hashes.is_empty() {
            return None;
        }
        let mut entry = Entry {
            name,
            version: self.version,
            ..Entry::default()
        };
        let Some(location) = self.location else {
            entry.hashes = self.hashes;
            return Some(entry);
        };
        entry.put(location, self.hashes, None);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::lock::{self, Builds};
    use crate::python::tests::target;
    use proptest::prelude::*;
    use std::fs;

    const REAL: [&str; 4] = [
        include_str!("fixtures/requirements-pip-compile.txt"),
        include_str!("fixtures/requirements-uv-compile.txt"),
        include_str!("fixtures/requirements-uv-export.txt"),
        include_str!("fixtures/requirements-poetry-export.txt"),
    ];

    fn read(text: &str) -> Result<Option<Vec<Entry>>, requirements::Error> {
        let requirements = Requirements::Lines {
            text: text.to_owned(),
            directory: "/nowhere".into(),
        };
        entries(&requirements, target("3.12", Machine::X86_64, "2.34"))
    }

    fn shown(text: &str) -> String {
        let Some(entries) = read(text).unwrap() else {
            return "no lock".to_owned();
        };
        let entry = |entry: Entry| {
            let version = entry.version.unwrap_or_default();
            let files = entry.wheels.len() + usize::from(entry.source.is_some());
            format!("{} {version} {}+{files}", entry.name, entry.hashes.len())
        };
        let entries: Vec<String> = entries.into_iter().map(entry).collect();
        entries.join(", ")
    }

    #[test]
    fn what_tools_write_is_a_lock() {
        insta::assert_snapshot!(REAL.map(shown).join("\n"), @"
        anyio 4.16.0 2+0, certifi 2026.10.18 2+0, h11 0.16.0 2+0, httpcore 1.0.9 2+0, httpx 0.27.2 2+0, idna 3.20 2+0, iniconfig  0+1, sniffio 1.3.1 2+0, socksio 1.0.0 2+0, typing-extensions 4.16.0 2+0
        anyio 4.16.0 2+0, certifi 2026.10.18 2+0, h11 0.16.0 2+0, httpcore 1.0.9 2+0, httpx 0.27.2 2+0, idna 3.20 2+0, iniconfig  0+1, sniffio 1.3.1 2+0, socksio 1.0.0 2+0, typing-extensions 4.16.0 2+0
        anyio 4.16.0 2+0, certifi 2026.10.18 2+0, h11 0.16.0 2+0, httpcore 1.0.9 2+0, httpx 0.27.2 2+0, idna 3.20 2+0, sniffio 1.3.1 2+0, socksio 1.0.0 2+0, typing-extensions 4.16.0 2+0
        anyio 4.12.1 2+0, certifi 2026.10.18 2+0, chardet 4.0.0 2+0, h11 0.16.0 2+0, httpcore 1.0.9 2+0, httpx 0.27.2 2+0, hupper 1.12.1 2+0, idna 3.20 2+0, sniffio 1.3.1 2+0, socksio 1.0.0 2+0, toml 0.10.2 2+0
        ");
    }

    #[test]
    fn what_is_less_is_none() {
        let hash = Digest::of("1").hex();
        let other = Digest::of("2").hex();
        let texts = [
            "six==1.16 --hash=sha256:H\nidna==3",
            "six==1.16",
            "six>=1.16 --hash=sha256:H",
            "six==1.* --hash=sha256:H",
            "six==1,==1 --hash=sha256:H",
            "six --hash=sha256:H",
            "six==1 --hash=sha512:H",
            "-e . ",
            "six==1 --hash=sha256:H\n-r https://x.test/r.txt",
            "x @ git+https://x.test/x@main --hash=sha256:H",
            "x @ git+https://x.test/x.zip --hash=sha256:H",
            "./x --hash=sha256:H",
            "six==1 --hash=sha256:H\nsix==2 --hash=sha256:H",
            "six==1; os == 'x' --hash=sha256:H",
            "",
            "# nothing\n--pre",
            // What this file requires is not listed, and pip would look for it.
            "a @ https://x.test/a-1-py3-none-any.whl#sha256=H",
            // And these are.
            // What follows an option is none of the marker, as with pip.
            "six==1 --hash=sha256:H ; os_name ==",
            "six == 1.16 --hash=sha256:H\nidna;os_name=='nt'",
            "six===1.16 --hash sha256:H --hash=sha256:O",
            "--index-url=https://x.test\nsix[a,b]==1.16;os_name=='posix' --hash=sha256:H",
            "six==1 --hash=sha256:H\nSix==1 --hash=sha256:O",
            "--require-hashes\na @ https://x.test/a-1-py3-none-any.whl#sha256=H",
            "six==1 --hash=sha256:H\nhttps://x.test/A_b-1-py3-none-any.whl#egg=a&sha256=H ; os_name == 'posix'",
            "./w/a_c-1.0.tar.gz --hash=sha256:H",
        ];
        let shown = texts.map(|text| shown(&text.replace('H', &hash).replace('O', &other)));
        insta::assert_snapshot!(shown.join("\n"), @"
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        no lock
        six 1 1+0
        six 1.16 1+0
        six 1.16 2+0
        six 1.16 1+0
        six 1 2+0
        a  0+1
        a-b  0+1, six 1 1+0
        a-c  0+1
        ");
    }

    #[test]
    fn of_a_file_at_a_place_one_hash_is_known() {
        let (one, two) = (Digest::of("1").hex(), Digest::of("2").hex());
        let lambda = target("3.12", Machine::X86_64, "2.34");
        let chosen = |hashes: &str| {
            let text = format!("a @ https://x.test/a-1-py3-none-any.whl {hashes}");
            let entries = read(&text).unwrap().unwrap();
            lock::choose(&entries, lambda, &Builds::default())
        };
        let file = format!("--hash=sha256:{one}");
        assert_eq!(chosen(&file).unwrap().len(), 1);
        let error = chosen(&format!("{file} --hash=sha256:{two}")).unwrap_err();
        insta::assert_snapshot!(error, @"the lock has 2 hashes for `a-1-py3-none-any.whl`, and does not say which is its own");
    }

    #[test]
    fn included_files_and_constraints_count() {
        let guard = tempfile::tempdir().unwrap();
        let at = |name: &str| guard.path().join(name);
        let (one, two) = (Digest::of("1"), Digest::of("2"));
        let pin = |hashes: &[Digest]| {
            let hashes = hashes
                .iter()
                .map(|digest| format!(" --hash=sha256:{}", digest.hex()));
            format!("six==1{}\n", hashes.collect::<String>())
        };
        fs::write(at("more.txt"), "six\n-c pins.txt\n--no-index\n-f ./wheels").unwrap();
        fs::write(at("pins.txt"), pin(&[one, two]) + &pin(&[two])).unwrap();
        fs::write(
            at("top.txt"),
            "-ihttps://x.test/simple\n--extra-index-url \"https://y.test\"\n-r more.txt",
        )
        .unwrap();
        let file = Requirements::File(at("top.txt"));
        let lambda = target("3.12", Machine::X86_64, "2.34");
        let entries = entries(&file, lambda).unwrap().unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].version.as_deref(), Some("1"));
        assert_eq!(entries[0].hashes, [two].into());

        let lines = requirements::read(&file, lambda).unwrap().lines;
        let own = Indexes {
            index: Url::parse("https://own.test/simple").ok(),
            extra: vec![Url::parse("https://me:secret@z.test").unwrap()],
            ..Indexes::default()
        };
        let named = indexes(&lines, guard.path(), &own);
        assert_eq!(named.index, Url::parse("https://x.test/simple").ok());
        let extra = ["https://z.test", "https://y.test"].map(|url| Url::parse(url).unwrap());
        assert_eq!(named.extra, extra);
        let wheels = guard.path().join("./wheels");
        assert_eq!(named.find_links, [Location::Path(wheels)]);
        assert!(named.no_index);
    }

    proptest! {
        #[test]
        fn any_change_is_read_or_none(which in 0usize..4, at in 0usize..4_000, text in "[-a-z;@:/#\\\\ \n'\"=.é]{0,8}", cut in 0usize..60) {
            let mut file = REAL[which].to_owned();
            let start = at % file.len();
            let end = (start + cut).min(file.len());
            file.replace_range(start..end, &text);
            let _ = read(&file);
        }
    }
}
