//! Whether a wheel is what it says: its bytes against its own RECORD, its programs against a target.
//!
//! A wheel is examined once, every byte of it: by whoever reads its members anyway and shows their bytes
//! here, the rest by as many threads as there are processors. What was found can be kept beside the wheel
//! and held against any target later. Of an ELF file that streams by the parts are kept that matter; where
//! they turn out to be others it is copied to where it can be sought in. It never knows what a package index
//! said of the wheel, nor images.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use icu_normalizer::ComposingNormalizerBorrowed;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::python::elf::{self, Facts, Watch, Watched};
use crate::python::wheel::{self, Archive, Error, Row};
use crate::python::{Target, WheelFilename};
use crate::zip::Member;

/// ELF files up to this size are held in memory while they are read.
const IN_MEMORY: usize = 8 << 20;
/// More threads would wait for the disk.
const MAX_THREADS: usize = 4;
/// As many names as a line lists.
const NAMED: usize = 3;

/// Real tags stand for a dozen others at most, all of a wheel's for a few dozen.
const MAX_EXPANDED: usize = 1_000;
/// Longer than any real tag of several platforms.
const MAX_TAG: usize = 10_000;
/// As much of such a tag as is worth showing.
const MAX_SHOWN: usize = 100;

/// What was found in a wheel that is not refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// What its user should know.
    pub warnings: Vec<String>,
    /// What only someone who looks for a fault wants to know.
    pub details: Vec<String>,
    /// Its ELF files by member.
    elf: BTreeMap<String, Facts>,
    /// The tags in its WHEEL file.
    tags: BTreeSet<String>,
}

/// Reads every byte of a wheel; programs that have to be sought in are copied to `scratch`, a directory, without
/// a name.
///
/// # Errors
/// A damaged member, and a RECORD that is not there or lies.
pub fn examine(archive: Archive, scratch: &Path) -> Result<Examination, Error> {
    Examiner::of(archive)?.finish(scratch)
}

/// A wheel that is being examined. Its members are seen in any order, by any number of threads.
#[derive(Debug)]
pub struct Examiner {
    files: Vec<Member>,
    places: BTreeMap<String, usize>,
    rows: BTreeMap<String, Row>,
    exempt: [String; 3],
    tags: BTreeSet<String>,
    seen: Mutex<BTreeMap<usize, Seen>>,
}

/// What was seen of a member.
type Seen = Result<Watched, Error>;

impl Examiner {
    /// Begins to examine a wheel.
    ///
    /// # Errors
    /// A RECORD that is not there or lies about a size, and damaged metadata.
    pub fn of(archive: Archive) -> Result<Self, Error> {
        let record = archive.metadata("RECORD")?;
        let record = record.ok_or_else(|| archive.lacks("RECORD"))?;
        let rows = wheel::read_record(&record).map_err(Error::RecordTwice)?;
        let tags = read_tags(&archive.metadata("WHEEL")?.unwrap_or_default());
        let exempt = wheel::UNRECORDED.map(|file| archive.own(file));
        let mut rows = rows;
        // What it says of these cannot be true of them all, and nobody holds it against them.
        rows.retain(|name, _| !exempt.contains(name));
        let members = archive.members.into_iter();
        let files: Vec<_> = members.filter(|member| !member.is_directory()).collect();
        for member in &files {
            check_size(member, rows.get(&member.name))?;
        }
        let places = files.iter().enumerate();
        Ok(Self {
            places: places.map(|(n, file)| (file.name.clone(), n)).collect(),
            files,
            rows,
            exempt,
            tags,
            seen: Mutex::default(),
        })
    }

    /// What is to see the bytes of a member of this name, if there is one.
    pub fn look(&self, member: &str) -> Option<Look<'_>> {
        Some(Look::new(self, *self.places.get(member)?))
    }

    /// Reads what nobody has seen, and gives what was found.
    ///
    /// # Errors
    /// A damaged member, and a RECORD that lies; the first member in the archive's order decides.
    pub fn finish(self, scratch: &Path) -> Result<Examination, Error> {
        self.read_rest(scratch);
        let seen = self.seen.into_inner();
        let seen = seen.unwrap_or_else(PoisonError::into_inner);
        let mut found = Examination {
            tags: self.tags,
            ..Examination::default()
        };
        for (place, seen) in seen {
            if let Watched::Elf(elf) = seen? {
                found.take_elf(&self.files[place].name, elf);
            }
        }
        let names: BTreeSet<_> = self.places.keys().map(String::as_str).collect();
        let is_exempt = |name: &str| self.exempt.iter().any(|exempt| exempt == name);
        let unlisted = names.iter().filter(|name| !self.rows.contains_key(**name));
        found.warn_of(
            unlisted.filter(|name| !is_exempt(name)),
            "not in its RECORD",
        );
        let absent = self.rows.keys();
        let absent = absent.filter(|name| !names.contains(name.as_str()));
        found.detail_of(absent, "in its RECORD and not there");
        let weak = self
            .rows
            .iter()
            .filter(|(name, row)| names.contains(name.as_str()) && Strong::of(row).is_none());
        found.detail_of(
            weak.map(|(name, _)| name),
            "without a strong hash in its RECORD",
        );
        found.warn_of_look_alikes(&names);
        Ok(found)
    }

    /// Reads the members that nobody has seen whole, the largest first.
    fn read_rest(&self, scratch: &Path) {
        let rest: BTreeSet<_> = {
            let seen = self.seen();
            let done =
                |place: &usize| !matches!(seen.get(place), None | Some(Ok(Watched::Elsewhere)));
            (0..self.files.len()).filter(|place| !done(place)).collect()
        };
        let mut rest: Vec<_> = rest.into_iter().collect();
        rest.sort_by_key(|&place| Reverse(self.files[place].size));
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(&place) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.read(place, scratch);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(MAX_THREADS).min(rest.len());
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }

    /// Reads one member to its end, and once more where its tables turn out to lie elsewhere.
    fn read(&self, place: usize, scratch: &Path) {
        let member = &self.files[place];
        let read_error = |source| Error::Read {
            member: member.name.clone(),
            source,
        };
        if !self.seen().contains_key(&place) {
            let mut look = Look::new(self, place);
            let mut reader = member.open();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break look.end(),
                    Ok(count) => look.bytes(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return self.note(place, Err(read_error(error))),
                }
            }
        }
        let is_elsewhere = matches!(self.seen().get(&place), Some(Ok(Watched::Elsewhere)));
        if is_elsewhere {
            let mut copy = tempfile::spooled_tempfile_in(IN_MEMORY, scratch);
            let mut reader = member.open();
            let copied = io::copy(&mut reader, &mut copy).and_then(|_| copy.rewind());
            let facts = copied.map(|()| Watched::Elf(elf::facts(copy)));
            self.note(place, facts.map_err(Error::Scratch));
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<usize, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, place: usize, seen: Seen) {
        self.seen().insert(place, seen);
    }
}

/// Sees the bytes of one member, in order.
#[derive(Debug)]
pub struct Look<'a> {
    examiner: &'a Examiner,
    place: usize,
    hash: Option<Strong>,
    elf: Watch,
}

impl<'a> Look<'a> {
    fn new(examiner: &'a Examiner, place: usize) -> Self {
        let member = &examiner.files[place];
        Self {
            examiner,
            place,
            hash: examiner.rows.get(&member.name).and_then(Strong::of),
            elf: Watch::new(member.size),
        }
    }

    /// The next bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.elf.bytes(bytes);
    }

    /// There are no more.
    pub fn end(self) {
        let name = &self.examiner.files[self.place].name;
        let recorded = self.examiner.rows.get(name).map(|(hash, _)| hash);
        let lie = self.hash.zip(recorded).and_then(|(hash, recorded)| {
            let actual = hash.finish();
            (recorded.trim_end_matches('=') != actual).then(|| Error::RecordHash {
                member: name.clone(),
                recorded: recorded.clone(),
                actual,
            })
        });
        let seen = lie.map_or_else(|| Ok(self.elf.end()), Err);
        self.examiner.note(self.place, seen);
    }
}

fn check_size(member: &Member, row: Option<&Row>) -> Result<(), Error> {
    match row {
        Some((_, size)) if !size.is_empty() && size.parse() != Ok(member.size) => {
            Err(Error::RecordSize {
                member: member.name.clone(),
                recorded: size.clone(),
                actual: member.size,
            })
        }
        _ => Ok(()),
    }
}

/// Examines a wheel on disk and holds it against the target; gives what is worth telling.
///
/// # Errors
/// Those of [`Archive::open`], of [`examine`] and of [`Examination::fit`].
pub fn check(
    path: &Path,
    filename: &WheelFilename,
    scratch: &Path,
    target: Target,
) -> Result<Examination, Error> {
    let version = filename.version.to_string();
    let archive = Archive::open(path, &filename.name, &version)?;
    let mut examination = examine(archive, scratch)?;
    let details = examination.fit(filename, target, |_| true)?;
    examination.details.extend(details);
    Ok(examination)
}

impl Examination {
    fn take_elf(&mut self, member: &str, elf: Result<Facts, elf::Error>) {
        match elf {
            Ok(facts) => {
                self.elf.insert(member.to_owned(), facts);
            }
            Err(error) => self.details.push(format!(
                "`{}` is a damaged ELF file: {error}",
                member.escape_debug()
            )),
        }
    }

    fn warn_of(&mut self, names: impl Iterator<Item = impl AsRef<str>>, what: &str) {
        self.warnings.extend(line(names, what));
    }

    fn detail_of(&mut self, names: impl Iterator<Item = impl AsRef<str>>, what: &str) {
        self.details.extend(line(names, what));
    }

    /// Names that some file systems take for one: of other case, or composed of other characters.
    fn warn_of_look_alikes(&mut self, names: &BTreeSet<&str>) {
        let normalizer = ComposingNormalizerBorrowed::new_nfc();
        let mut spellings: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in names {
            let folded = normalizer.normalize(&name.to_lowercase()).into_owned();
            spellings.entry(folded).or_default().push(name);
        }
        let alike = spellings.into_values().filter(|names| names.len() > 1);
        let pairs = alike.map(|names| names.join("` and `"));
        self.warn_of(
            pairs,
            "one file where case or composition of letters does not count",
        );
    }

    /// Whether the target can load the programs among the members that are taken; gives what is worth
    /// telling someone who looks for a fault.
    ///
    /// # Errors
    /// [`Error::Glibc`] for a file that needs a newer C library, and [`Error::Machine`] for a wheel of
    /// extension modules none of which is for the target's processor.
    pub fn fit(
        &self,
        filename: &WheelFilename,
        target: Target,
        is_taken: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, Error> {
        let taken: Vec<_> = self.elf.iter().filter(|(name, _)| is_taken(name)).collect();
        let (here, foreign): (Vec<_>, Vec<_>) = taken
            .into_iter()
            .partition(|(_, facts)| facts.is_for(target.machine));
        let needs = here
            .iter()
            .filter_map(|(member, facts)| Some((*member, facts.glibc.as_ref()?)));
        let newest = needs.max_by_key(|(_, need)| need.version);
        if let Some((member, need)) = newest.filter(|(_, need)| need.version > target.glibc) {
            return Err(Error::Glibc {
                member: member.clone(),
                symbol: need.symbol.clone(),
                needed: need.version,
                has: target.glibc,
            });
        }
        let module = foreign
            .iter()
            .find(|(member, _)| is_module(member, filename));
        if let (true, Some((member, facts))) = (here.is_empty(), module) {
            return Err(Error::Machine {
                member: (*member).clone(),
                has: facts.machine_name(),
                wanted: target.machine,
            });
        }
        let mut details: Vec<_> = foreign
            .iter()
            .map(|(member, facts)| {
                format!(
                    "`{}` is for {}",
                    member.escape_debug(),
                    facts.machine_name()
                )
            })
            .collect();
        let promised = filename.promised_glibc(target.machine);
        if let (Some(promised), Some((member, need))) = (promised, newest)
            && need.version > promised
        {
            details.push(format!(
                "`{}` needs {}, and its name promises glibc {promised}",
                member.escape_debug(),
                need.symbol.escape_debug()
            ));
        }
        let named: BTreeSet<_> = filename.tags().map(|tag| tag.to_string()).collect();
        if named != self.tags {
            let inside = self.tags.iter().map(String::as_str).collect::<Vec<_>>();
            details.push(format!(
                "its WHEEL file has other tags than its name: {}",
                inside.join(", ").escape_debug()
            ));
        }
        Ok(details)
    }
}

/// Whether Python would import this file. In a wheel for any machine a library may be some tool's own,
/// so there only a name that no other file has counts.
fn is_module(member: &str, wheel: &WheelFilename) -> bool {
    let file = member.rsplit('/').next().unwrap_or(member);
    let for_any = wheel.platform.iter().any(|platform| platform == "any");
    let tagged = file.contains(".cpython-3") || file.ends_with(".abi3.so");
    file.strip_suffix(".so").is_some() && (tagged || !for_any)
}

/// WHAT: `a`, `b` and 7 more; nothing where there is no name.
fn line(names: impl Iterator<Item = impl AsRef<str>>, what: &str) -> Option<String> {
    let names: Vec<_> = names
        .map(|name| format!("`{}`", name.as_ref().escape_debug()))
        .collect();
    let more = names.len().saturating_sub(NAMED);
    let shown = names[..names.len() - more].join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (_, 0) => Some(format!("{what}: {shown}")),
        (_, more) => Some(format!("{what}: {shown} and {more} more")),
    }
}

/// The tags of a WHEEL file, one by one.
fn read_tags(text: &str) -> BTreeSet<String> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let tags = fields.filter(|(key, _)| key.trim().eq_ignore_ascii_case("tag"));
    let expanded = tags.flat_map(|(_, tag)| {
        let tag = tag.trim();
        let shown = || vec![tag.chars().take(MAX_SHOWN).collect()];
        if tag.len() > MAX_TAG {
            return shown();
        }
        let parts: Vec<_> = tag.splitn(3, '-').collect();
        let [pythons, abis, platforms] = parts[..] else {
            return vec![tag.to_owned()];
        };
        let count = |text: &str| text.split('.').count();
        let expanded = [abis, platforms].into_iter().map(count);
        // What would be more is shown as it stands.
        if expanded.fold(count(pythons), usize::saturating_mul) > MAX_EXPANDED {
            return shown();
        }
        let mut tags = Vec::new();
        for python in pythons.split('.') {
            for abi in abis.split('.') {
                let of_platform = |platform| format!("{python}-{abi}-{platform}");
                tags.extend(platforms.split('.').map(of_platform));
            }
        }
        tags
    });
    let expanded = expanded.map(|tag| tag.to_ascii_lowercase());
    expanded.take(MAX_EXPANDED).collect()
}

/// A hash that the specification lets a RECORD have.
#[derive(Debug)]
enum Strong {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Strong {
    fn of((hash, _): &Row) -> Option<Self> {
        match hash.split_once('=')?.0 {
            "sha256" => Some(Self::Sha256(Sha256::new())),
            "sha384" => Some(Self::Sha384(Sha384::new())),
            "sha512" => Some(Self::Sha512(Sha512::new())),
            _ => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// As a RECORD has it.
    fn finish(self) -> String {
        let (name, bytes) = match self {
            Self::Sha256(hash) => ("sha256", hash.finalize().to_vec()),
            Self::Sha384(hash) => ("sha384", hash.finalize().to_vec()),
            Self::Sha512(hash) => ("sha512", hash.finalize().to_vec()),
        };
        format!("{name}={}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::elf::testing;
    use crate::python::tests::target;
    use crate::zip::testing::Builder;
    use std::fmt::Write as _;

    /// What is found in a wheel of these members, all listed rightly unless `record` is given.
    fn examined(members: &[(&str, &[u8])], record: Option<&str>) -> Result<Examination, Error> {
        let mut builder = Builder::default();
        let mut rows = String::new();
        let wheel = "Wheel-Version: 1.0\nTag: cp312-cp312-manylinux_2_17_x86_64\n";
        let wheel = [("demo-1.0.dist-info/WHEEL", wheel.as_bytes())];
        for (name, bytes) in members.iter().chain(&wheel) {
            builder.add(name, name, bytes, true);
            let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(bytes));
            let _ = writeln!(rows, "{name},sha256={hash},{}", bytes.len());
        }
        let record = record.unwrap_or(&rows);
        let name = "demo-1.0.dist-info/RECORD";
        builder.add(name, name, record.as_bytes(), false);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wheel");
        std::fs::write(&path, builder.finish()).unwrap();
        examine(Archive::open(&path, "demo", "1.0")?, directory.path())
    }

    #[test]
    fn what_somebody_else_reads_is_not_read_again() {
        let program = testing::elf(62, &["GLIBC_2.38"]);
        let mut builder = Builder::default();
        let mut add = |name: &str, bytes: &[u8]| builder.add(name, name, bytes, true);
        let hash = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(Sha256::digest(bytes));
        let record = format!(
            "a.py,sha256={},1\nb.so,sha256={},\n",
            hash(b"x"),
            hash(&program)
        );
        add("a.py", b"x");
        add("b.so", &program);
        add("demo-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\n");
        add("demo-1.0.dist-info/RECORD", record.as_bytes());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wheel");
        std::fs::write(&path, builder.finish()).unwrap();
        let archive = || Archive::open(&path, "demo", "1.0").unwrap();
        let alone = examine(archive(), directory.path()).unwrap();

        let open = || Examiner::of(archive()).unwrap();
        let show = |examiner: &Examiner, name: &str, bytes: &[u8]| {
            let mut look = examiner.look(name).unwrap();
            bytes.chunks(3).for_each(|bytes| look.bytes(bytes));
            look.end();
        };
        let examiner = open();
        assert!(examiner.look("c.py").is_none());
        show(&examiner, "b.so", &program);
        // A look that does not come to its end saw nothing.
        examiner.look("a.py").unwrap().bytes(b"y");
        assert_eq!(examiner.finish(directory.path()).unwrap(), alone);

        // What is shown is believed, so it counts as the member's bytes.
        let examiner = open();
        show(&examiner, "a.py", b"y");
        let error = examiner.finish(directory.path()).unwrap_err();
        assert!(matches!(error, Error::RecordHash { member, .. } if member == "a.py"));
    }

    #[test]
    fn tags_without_end_are_not_expanded() {
        let many = vec!["a"; 1 << 20].join(".");
        let tags = read_tags(&format!(
            "Tag: {many}-{many}-{many}\nTag: py2.py3-none-any\n"
        ));
        let shown = tags.iter().map(String::len).collect::<Vec<_>>();
        assert_eq!(
            shown,
            [MAX_SHOWN, "py2-none-any".len(), "py3-none-any".len()]
        );
        let lines: Vec<_> = (0..MAX_EXPANDED * 2)
            .map(|n| format!("Tag: py3-none-p{n}"))
            .collect();
        assert_eq!(read_tags(&lines.join("\n")).len(), MAX_EXPANDED);
    }

    #[test]
    fn record_is_held_against_the_bytes() {
        assert_eq!(examined(&[("a.py", b"x")], None).unwrap().warnings, [""; 0]);
        let refused = |record: &str| {
            let error = examined(&[("a.py", b"x")], Some(record)).unwrap_err();
            error.to_string()
        };
        insta::assert_snapshot!(refused("a.py,sha256=abc,1\n"), @"RECORD lies about `a.py`: it says sha256=abc, and the bytes are sha256=LXEWQrcmsEQBYnyp-6wy9chTD7GQPMTbAiWHF5IaSIE");
        insta::assert_snapshot!(refused("a.py,,2\n"), @"RECORD lies about `a.py`: it says 2 bytes, and there are 1");
        insta::assert_snapshot!(refused("a.py,,1\na.py,,\n"), @"RECORD lists `a.py` twice, and differently");
        for (name, hash) in [
            ("sha384", URL_SAFE_NO_PAD.encode(Sha384::digest(b"x"))),
            ("sha512", URL_SAFE_NO_PAD.encode(Sha512::digest(b"x"))),
        ] {
            let right = format!("a.py,{name}={hash},1\n");
            assert!(examined(&[("a.py", b"x")], Some(&right)).is_ok());
            let wrong = format!("a.py,{name}={},1\n", hash.replace(&hash[..1], "_"));
            assert!(refused(&wrong).contains(name));
        }
        let found = examined(&[("a.py", b"x")], Some("a.py,md5=1,1\nb.py,,\n")).unwrap();
        insta::assert_debug_snapshot!((found.warnings, found.details), @r#"
        (
            [
                "not in its RECORD: `demo-1.0.dist-info/WHEEL`",
            ],
            [
                "in its RECORD and not there: `b.py`",
                "without a strong hash in its RECORD: `a.py`",
            ],
        )
        "#);
    }

    #[test]
    fn look_alikes_are_told() {
        let names = ["A.py", "a.py", "caf\u{e9}", "cafe\u{301}", "b.py"];
        let members = names.map(|name| (name, &b""[..]));
        let found = examined(&members, None).unwrap();
        insta::assert_debug_snapshot!(found.warnings, @r#"
        [
            "one file where case or composition of letters does not count: `A.py` and `a.py`, `cafe\u{301}` and `café`",
        ]
        "#);
    }

    #[test]
    fn programs_are_held_against_the_target() {
        let (old, new) = (
            testing::elf(62, &["GLIBC_2.17"]),
            testing::elf(62, &["GLIBC_2.38"]),
        );
        let arm = testing::elf(183, &["GLIBC_2.17"]);
        let fit = |members: &[(&str, &[u8])], tag: &str| {
            let found = examined(members, None).unwrap();
            let name = WheelFilename::parse(&format!("demo-1.0-{tag}.whl")).unwrap();
            let target = target("3.12", Machine::X86_64, "2.34");
            let details = found.fit(&name, target, |member| member != "left_out.so");
            let text = details.map_or_else(|error| error.to_string(), |lines| lines.join("\n"));
            [found.details.join("\n"), text].concat()
        };
        let tag = "cp312-cp312-manylinux_2_17_x86_64";
        insta::assert_snapshot!(fit(&[("old.so", &old)], tag), @"");
        insta::assert_snapshot!(fit(&[("old.so", &old), ("new.so", &new)], tag), @"`new.so` needs glibc 2.38 (GLIBC_2.38), and the target has 2.34");
        insta::assert_snapshot!(fit(&[("old.so", &old), ("left_out.so", &new)], tag), @"");
        insta::assert_snapshot!(fit(&[("arm.so", &arm)], tag), @"`arm.so` is for aarch64, and nothing in the wheel is for x86_64");
        insta::assert_snapshot!(fit(&[("arm.so", &arm), ("old.so", &old)], tag), @"`arm.so` is for aarch64");
        insta::assert_snapshot!(fit(&[("helper.so", &arm)], "py3-none-any"), @"
        `helper.so` is for aarch64
        its WHEEL file has other tags than its name: cp312-cp312-manylinux_2_17_x86_64
        ");
        insta::assert_snapshot!(fit(&[("a.cpython-312-x86_64-linux-gnu.so", &arm)], "py3-none-any"), @"`a.cpython-312-x86_64-linux-gnu.so` is for aarch64, and nothing in the wheel is for x86_64");
        insta::assert_snapshot!(fit(&[("cut.so", b"\x7fELF\x02")], tag), @"`cut.so` is a damaged ELF file: it ends before its header");
        let lower = "cp312-cp312-manylinux_2_5_x86_64";
        insta::assert_snapshot!(fit(&[("old.so", &old)], lower), @"
        `old.so` needs GLIBC_2.17, and its name promises glibc 2.5
        its WHEEL file has other tags than its name: cp312-cp312-manylinux_2_17_x86_64
        ");
    }
}
