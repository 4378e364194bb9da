//! A wheel becomes a tree of files, as `pip install --target` would leave it.
//!
//! Follows the binary distribution format (PEP 427) and the record of installed projects (PEP 376,
//! PEP 627). Nothing is unpacked: a file of the tree is a member of the archive. Of what an archive says
//! of a member only the name, the bytes and the execute bit are believed. In one thing it differs from
//! pip on purpose: `--target` loses what `.data/data` has below `lib/`, which is where pip keeps modules
//! meanwhile, and with it the shared libraries of tbb and its like. It never knows images.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use ignore::gitignore::Gitignore;
use pep440_rs::Version;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::file_tree::{self, Content, FileTree, ImagePath, PathError};
use crate::python::{Glibc, Machine, normalize_name};
use crate::zip::{self, Member};

/// Metadata files are text that someone wrote; more is no metadata.
const MAX_METADATA: u64 = 16 << 20;
/// No image may unpack to more than 10 GiB, so no wheel may.
const MAX_UNPACKED: u64 = 10 << 30;
/// The lengths of all paths with all their directories, in bytes; the largest wheels have about 20 MB.
const MAX_PATHS: usize = 256 << 20;
/// As many members as an archive may have.
const MAX_ROWS: usize = 250_000;
/// Real wheels have a dozen.
const MAX_SCRIPTS: usize = 10_000;
const INSTALLER: &str = "lambimg\n";
/// A file cannot hold its own hash, and a signature of it was never to be listed (PEP 815).
pub(super) const UNRECORDED: [&str; 3] = ["RECORD", "RECORD.jws", "RECORD.p7s"];

/// Why a wheel cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is not as it must be.
    #[error(transparent)]
    Archive(#[from] zip::Error),
    /// A member cannot be read.
    #[error("cannot read member `{}`", member.escape_debug())]
    Read {
        /// The member.
        member: String,
        /// Why.
        source: io::Error,
    },
    /// A member's name may not be a path.
    #[error("member {0}")]
    Path(#[from] PathError),
    /// A member is a symbolic link.
    #[error("member `{}` is a symbolic link", .0.escape_debug())]
    Symlink(String),
    /// The archive is no wheel of what it should be one of.
    #[error("no wheel of `{expected}`: {}", detail.escape_debug())]
    NotThisWheel {
        /// The project and version expected.
        expected: String,
        /// What is wrong.
        detail: String,
    },
    /// It is of a format to come.
    #[error("Wheel-Version {} is not 1.x", .0.escape_debug())]
    Version(String),
    /// It would unpack to more than any image may.
    #[error("it would unpack to {0} bytes, and no image may be larger than {MAX_UNPACKED}")]
    TooLarge(u64),
    /// It asks for more of something than any real wheel.
    #[error("it asks for more than {limit} {what}")]
    TooMany {
        /// Of what, in the plural.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// Two members would be one file.
    #[error("two members would be {0}")]
    Twice(ImagePath),
    /// An entry point cannot be made a script.
    #[error("entry point `{}` does not name a script and a function", .0.escape_debug())]
    EntryPoint(String),
    /// A `.data` directory of a kind that nobody defined.
    #[error("member `{}` is for an install scheme that does not exist", .0.escape_debug())]
    Scheme(String),
    /// RECORD gives a member another hash than its bytes have.
    #[error("RECORD lies about `{}`: it says {}, and the bytes are {actual}", member.escape_debug(), recorded.escape_debug())]
    RecordHash {
        /// The member.
        member: String,
        /// What RECORD says.
        recorded: String,
        /// What the bytes are, by the same algorithm.
        actual: String,
    },
    /// RECORD gives a member another size than it has.
    #[error("RECORD lies about `{}`: it says {recorded} bytes, and there are {actual}", member.escape_debug())]
    RecordSize {
        /// The member.
        member: String,
        /// What RECORD says.
        recorded: String,
        /// How many bytes there are.
        actual: u64,
    },
    /// RECORD says two things of one file.
    #[error("RECORD lists `{}` twice, and differently", .0.escape_debug())]
    RecordTwice(String),
    /// A program needs a newer C library than the target has.
    #[error("`{}` needs glibc {needed} ({}), and the target has {has}", member.escape_debug(), symbol.escape_debug())]
    Glibc {
        /// The member.
        member: String,
        /// The symbol version, as `GLIBC_2.34`.
        symbol: String,
        /// The first version that has it.
        needed: Glibc,
        /// The target's.
        has: Glibc,
    },
    /// No program in it is for the target's processor.
    #[error("`{}` is for {has}, and nothing in the wheel is for {wanted}", member.escape_debug())]
    Machine {
        /// An extension module.
        member: String,
        /// What it is for.
        has: String,
        /// The target's.
        wanted: Machine,
    },
    /// There is no place to read programs in.
    #[error("cannot write a temporary file")]
    Scratch(#[source] io::Error),
    /// A path is both a file and a directory.
    #[error(transparent)]
    Tree(#[from] file_tree::Error),
}

/// Where a wheel goes, and for whom.
#[derive(Debug, Clone)]
pub struct Placement<'a> {
    /// The directory that is on `sys.path`.
    pub root: &'a ImagePath,
    /// What starts the target's Python, for the first line of scripts.
    pub interpreter: &'a str,
    /// Which paths below the root are left out. As with git, a directory that is left out cannot have
    /// something in it brought back.
    pub exclude: &'a Gitignore,
}

/// A wheel in its place.
#[derive(Debug)]
pub struct Placed {
    /// Its files.
    pub tree: FileTree,
    /// The members that are files of the tree.
    pub members: BTreeSet<String>,
    /// What was left out, by its path below the root.
    pub left_out: Vec<String>,
}

/// An open wheel: what its archive's directory says, read and checked once for all who want it.
#[derive(Debug)]
pub struct Archive {
    /// In the order of the archive's directory.
    pub(super) members: Vec<Member>,
    dist_info: String,
    name: String,
    version: String,
    /// Of the archive's own directory, which has the members' modes.
    pub(crate) digest: Digest,
}

impl Archive {
    /// Opens the wheel of `name` (normal form) `version` at `path`.
    ///
    /// # Errors
    /// A damaged archive, one that is too large, and one that is no wheel of that name.
    pub fn open(path: &Path, name: &str, version: &str) -> Result<Self, Error> {
        let (members, digest) = zip::open_with_digest(path)?;
        let unpacked = members
            .iter()
            .fold(0u64, |sum, member| sum.saturating_add(member.size));
        if unpacked > MAX_UNPACKED {
            return Err(Error::TooLarge(unpacked));
        }
        // Each directory of a path is a name in the image.
        let weight = members.iter().map(|member| {
            let depth = member.name.bytes().filter(|byte| *byte == b'/').count();
            member.name.len().saturating_mul(depth + 1)
        });
        if weight.fold(0, usize::saturating_add) > MAX_PATHS {
            return Err(Error::TooMany {
                what: "bytes of paths",
                limit: MAX_PATHS,
            });
        }
        let stem = distribution_stem(&members, name, version)?;
        Ok(Self {
            digest,
            dist_info: format!("{stem}.dist-info"),
            members,
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }

    /// Project and version, as in `numpy 2.5.5`.
    fn what(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The name of a member in the `.dist-info` directory.
    pub(super) fn own(&self, file: &str) -> String {
        format!("{}/{file}", self.dist_info)
    }

    /// The text of a file in the `.dist-info` directory, if it is there.
    pub(super) fn metadata(&self, file: &str) -> Result<Option<String>, Error> {
        metadata(&self.members, &self.own(file))
    }

    /// The wheel without one of its files.
    pub(super) fn lacks(&self, file: &str) -> Error {
        Error::NotThisWheel {
            expected: self.what(),
            detail: format!("it has no `{}`", self.own(file)),
        }
    }
}

/// Makes a tree of a wheel.
///
/// # Errors
/// See [`Error`]; the contents of members are not read, and so not proven, here.
pub fn file_tree(archive: &Archive, placement: &Placement<'_>) -> Result<Placed, Error> {
    let wheel = Wheel {
        archive,
        placement,
        owner: archive.what().into(),
    };
    wheel.check_version()?;
    wheel.install()
}

/// What is in a wheel, whatever the dates, the order and the compression of its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Of each member, in the order of names, its name, its bytes and whether it can be run.
    pub digest: Digest,
    /// Bytes of all members, uncompressed.
    pub size: u64,
}

/// What is in the wheel at `path`.
///
/// # Errors
/// When it cannot be read.
pub fn contents(path: &Path) -> Result<Contents, Error> {
    let mut members = zip::open(path)?;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = Hasher::default();
    for member in members.iter().filter(|member| !member.is_directory()) {
        let read = Digest::of_reader(&mut member.open());
        let (digest, _) = read.map_err(|source| Error::Read {
            member: member.name.clone(),
            source,
        })?;
        hasher.update((member.name.len() as u64).to_le_bytes());
        hasher.update(&member.name);
        hasher.update([u8::from(member.is_executable())]);
        hasher.update(digest.as_bytes());
    }
    Ok(Contents {
        digest: hasher.finish(),
        size: members.iter().map(|member| member.size).sum(),
    })
}

/// The text of the member `name`, if there is one.
fn metadata(members: &[Member], name: &str) -> Result<Option<String>, Error> {
    let Some(member) = members.iter().find(|member| member.name == name) else {
        return Ok(None);
    };
    let read_error = |source| Error::Read {
        member: name.to_owned(),
        source,
    };
    let bytes = member.read(MAX_METADATA).map_err(read_error)?;
    // Text that is not UTF-8 is as good as damaged: every reader assumes it.
    let text = String::from_utf8(bytes).map_err(|_| {
        read_error(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not UTF-8",
        ))
    })?;
    Ok(Some(text.trim_start_matches('\u{feff}').to_owned()))
}

/// `NAME-VERSION` of the one `.dist-info` at the top; those below are some package's own data.
fn distribution_stem(members: &[Member], name: &str, version: &str) -> Result<String, Error> {
    let not_this = |detail: String| Error::NotThisWheel {
        expected: format!("{name} {version}"),
        detail,
    };
    let tops = members
        .iter()
        .filter_map(|member| member.name.split_once('/'));
    let stems: BTreeSet<_> = tops
        .filter_map(|(top, _)| top.strip_suffix(".dist-info"))
        .collect();
    let mut stems = stems.into_iter();
    let stem = match (stems.next(), stems.next()) {
        (Some(stem), None) => stem,
        (None, _) => return Err(not_this("it has no `.dist-info` directory".to_owned())),
        (Some(_), Some(_)) => {
            return Err(not_this(
                "it has several `.dist-info` directories".to_owned(),
            ));
        }
    };
    // Old tools left hyphens in the name, so where it ends is only known from what it should be.
    let parts = stem.match_indices(['-', '_', '.']).map(|(at, _)| {
        let (before, behind) = stem.split_at(at);
        (before, &behind[1..])
    });
    let is_this = parts
        .into_iter()
        .any(|(before, behind)| normalize_name(before) == name && is_same_version(behind, version));
    if !is_this {
        return Err(not_this(format!("it holds `{}`", stem.escape_debug())));
    }
    Ok(stem.to_owned())
}

/// Whether two texts are one version; an underscore stands for whatever a file's name cannot have.
fn is_same_version(text: &str, other: &str) -> bool {
    let parse = |text: &str| Version::from_str(text).ok();
    let same = |text: &str| text == other || parse(text).is_some_and(|v| Some(v) == parse(other));
    same(text) || same(&text.replace('_', "-")) || same(&text.replacen('_', "+", 1))
}

struct Wheel<'a> {
    archive: &'a Archive,
    placement: &'a Placement<'a>,
    owner: Arc<str>,
}

/// One line of `RECORD`: hash and size as they stand there.
pub(super) type Row = (String, String);

impl Wheel<'_> {
    fn check_version(&self) -> Result<(), Error> {
        let text = self.archive.metadata("WHEEL")?;
        let text = text.ok_or_else(|| self.archive.lacks("WHEEL"))?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let version = fields.filter(|(key, _)| key.eq_ignore_ascii_case("wheel-version"));
        let version = version
            .map(|(_, value)| value.trim())
            .next()
            .unwrap_or_default();
        if version.split('.').next() != Some("1") {
            return Err(Error::Version(version.to_owned()));
        }
        Ok(())
    }

    fn install(&self) -> Result<Placed, Error> {
        let archive = self.archive;
        let recorded = archive.metadata("RECORD")?.unwrap_or_default();
        let recorded = read_record(&recorded).map_err(Error::RecordTwice)?;
        let scripts =
            read_entry_points(&archive.metadata("entry_points.txt")?.unwrap_or_default())?;
        let mut installing = Installing {
            wheel: self,
            placed: Placed {
                tree: FileTree::default(),
                members: BTreeSet::new(),
                left_out: Vec::new(),
            },
            rows: BTreeMap::new(),
        };
        // These are an installer's to write; an archive that has them says nothing by it.
        let ours = ["RECORD", "INSTALLER", "REQUESTED", "direct_url.json"];
        let ours = ours.map(|file| archive.own(file));
        for member in &archive.members {
            if member.is_symlink() {
                return Err(Error::Symlink(member.name.clone()));
            }
            ImagePath::new(&member.name)?;
            if member.is_directory() || ours.contains(&member.name) {
                continue;
            }
            if let Some(place) = place(&member.name, &archive.name, &scripts)? {
                installing.member(&place, member, recorded.get(&member.name))?;
            }
        }
        for (script, call) in &scripts {
            let text = script_text(self.placement.interpreter, call);
            installing.generated(&format!("bin/{script}"), text.into_bytes(), true)?;
        }
        installing.generated(&archive.own("INSTALLER"), INSTALLER.into(), false)?;
        installing.record()
    }
}

/// Where a member goes below the root; nowhere for a script that an entry point makes anew.
fn place(
    member: &str,
    name: &str,
    scripts: &BTreeMap<String, Call>,
) -> Result<Option<Place>, Error> {
    // Like pip, whatever name and version stand before `.data`: a wheel has one of them.
    let top = member.split_once('/');
    let Some((_, rest)) = top.filter(|(top, _)| top.strip_suffix(".data").is_some()) else {
        return Ok(Some(Place::file(member)));
    };
    let scheme = rest.split_once('/').filter(|(_, rest)| !rest.is_empty());
    Ok(match scheme {
        Some(("purelib" | "platlib" | "data", rest)) => Some(Place::file(rest)),
        Some(("headers", rest)) => Some(Place::file(&format!("include/python/{name}/{rest}"))),
        Some(("scripts", rest)) if scripts.contains_key(rest) => None,
        Some(("scripts", rest)) => Some(Place {
            path: format!("bin/{rest}"),
            is_script: true,
        }),
        _ => return Err(Error::Scheme(member.to_owned())),
    })
}

struct Place {
    path: String,
    is_script: bool,
}

impl Place {
    fn file(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            is_script: false,
        }
    }
}

struct Installing<'a> {
    wheel: &'a Wheel<'a>,
    placed: Placed,
    rows: BTreeMap<String, Row>,
}

impl Installing<'_> {
    fn member(&mut self, place: &Place, member: &Member, row: Option<&Row>) -> Result<(), Error> {
        let read_error = |source| Error::Read {
            member: member.name.clone(),
            source,
        };
        if self.leaves_out(&place.path) {
            return Ok(());
        }
        self.placed.members.insert(member.name.clone());
        if place.is_script
            && let Some(text) = self.rewritten(member).map_err(read_error)?
        {
            return self.generated(&place.path, text, member.is_executable());
        }
        let content = Content::Member(member.clone());
        let row = match row {
            Some((hash, _)) if is_strong(hash) => (hash.clone(), member.size.to_string()),
            _ => record_row(&content).map_err(read_error)?,
        };
        self.put(&place.path, content, member.is_executable(), row)
    }

    /// Whether a path stays out, which is noted then. It does when a directory above it does.
    fn leaves_out(&mut self, path: &str) -> bool {
        let exclude = self.wheel.placement.exclude;
        let ends = path.match_indices('/').map(|(end, _)| (end, true));
        let mut prefixes = ends.chain([(path.len(), false)]);
        let out = prefixes
            .any(|(end, is_directory)| exclude.matched(&path[..end], is_directory).is_ignore());
        if out {
            self.placed.left_out.push(path.to_owned());
        }
        out
    }

    fn generated(&mut self, path: &str, bytes: Vec<u8>, executable: bool) -> Result<(), Error> {
        if self.leaves_out(path) {
            return Ok(());
        }
        let content = Content::bytes(bytes);
        let row = record_row(&content).map_err(|source| Error::Read {
            member: path.to_owned(),
            source,
        })?;
        self.put(path, content, executable, row)
    }

    fn put(
        &mut self,
        path: &str,
        content: Content,
        executable: bool,
        row: Row,
    ) -> Result<(), Error> {
        let place = self.wheel.placement.root.join(path)?;
        let owner = &self.wheel.owner;
        if self.rows.insert(path.to_owned(), row).is_some() {
            return Err(Error::Twice(place));
        }
        let tree = &mut self.placed.tree;
        tree.insert_file(place, content, executable, owner)?;
        Ok(())
    }

    /// The text of a script whose first line asks for the installer's Python.
    fn rewritten(&self, member: &Member) -> io::Result<Option<Vec<u8>>> {
        const ASKS: &[u8] = b"#!python";
        let mut start = Vec::new();
        member
            .open()
            .take(ASKS.len() as u64)
            .read_to_end(&mut start)?;
        if start != ASKS {
            return Ok(None);
        }
        let text = member.read(MAX_METADATA)?;
        let line_end = text
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(text.len());
        let mut rewritten = format!("#!{}", self.wheel.placement.interpreter).into_bytes();
        rewritten.extend_from_slice(&text[line_end..]);
        Ok(Some(rewritten))
    }

    fn record(mut self) -> Result<Placed, Error> {
        let own = self.wheel.archive.own("RECORD");
        if self.leaves_out(&own) {
            return Ok(self.placed);
        }
        let unrecorded = UNRECORDED.map(|file| self.wheel.archive.own(file));
        self.rows.retain(|path, _| !unrecorded.contains(path));
        self.rows.insert(own.clone(), Row::default());
        let mut text = String::new();
        for (path, (hash, size)) in &self.rows {
            let _ = writeln!(text, "{},{hash},{size}", quoted(path));
        }
        let place = self.wheel.placement.root.join(&own)?;
        let content = Content::bytes(text);
        let tree = &mut self.placed.tree;
        tree.insert_file(place, content, false, &self.wheel.owner)?;
        Ok(self.placed)
    }
}

/// The algorithms whose hashes `RECORD` may keep: the specification wants sha256 or better.
pub(super) const STRONG: [&str; 3] = ["sha256", "sha384", "sha512"];

fn is_strong(hash: &str) -> bool {
    let algorithm = hash.split_once('=').map(|(algorithm, _)| algorithm);
    algorithm.is_some_and(|algorithm| STRONG.contains(&algorithm))
}

fn record_row(content: &Content) -> io::Result<Row> {
    let hash = URL_SAFE_NO_PAD.encode(content.digest()?.as_bytes());
    Ok((format!("sha256={hash}"), content.size().to_string()))
}

/// A CSV field, in quotes where it needs them.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// `RECORD` by path, or the path of which it says two things. What is not of its form is left out; the
/// rows are made anew then.
pub(crate) fn read_record(text: &str) -> Result<BTreeMap<String, Row>, String> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let three = text.lines().filter_map(csv_fields);
    // More than an archive can have members would be said of none.
    for [path, hash, size] in three.take(MAX_ROWS) {
        let sound =
            !hash.contains(['\n', ',', '"']) && size.bytes().all(|byte| byte.is_ascii_digit());
        let row = (hash, size);
        if sound
            && rows
                .insert(path.clone(), row.clone())
                .is_some_and(|other| other != row)
        {
            return Err(path);
        }
    }
    Ok(rows)
}

/// The three fields of a line; nothing where it has more or fewer.
fn csv_fields(line: &str) -> Option<[String; 3]> {
    let mut fields = [const { String::new() }; 3];
    let mut at = 0;
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.get_mut(at)?;
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                field.push('"');
                characters.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => at += 1,
            other => field.push(other),
        }
    }
    (at == 2).then_some(fields)
}

/// What an entry point calls.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    module: String,
    function: String,
}

/// The scripts that `entry_points.txt` asks for, by name.
fn read_entry_points(text: &str) -> Result<BTreeMap<String, Call>, Error> {
    let mut scripts = BTreeMap::new();
    let mut wanted = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            wanted = matches!(section.trim(), "console_scripts" | "gui_scripts");
            continue;
        }
        if wanted && let Some((name, target)) = line.split_once('=') {
            let name = name.trim();
            // A name with a slash would reach out of the directory of scripts.
            if name.is_empty() || name.contains('/') {
                return Err(Error::EntryPoint(line.to_owned()));
            }
            scripts.insert(name.to_owned(), read_call(line, target)?);
            if scripts.len() > MAX_SCRIPTS {
                return Err(Error::TooMany {
                    what: "scripts",
                    limit: MAX_SCRIPTS,
                });
            }
        }
    }
    Ok(scripts)
}

fn read_call(line: &str, target: &str) -> Result<Call, Error> {
    // Extras behind the target are for installers that would install them.
    let target = target.split('[').next().unwrap_or(target).trim();
    let identifiers = |text: &str| {
        text.split('.').all(|word| {
            let starts = word
                .chars()
                .next()
                .is_some_and(|c| c.is_alphabetic() || c == '_');
            starts && word.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
    };
    match target.split_once(':') {
        Some((module, function)) if identifiers(module.trim()) && identifiers(function.trim()) => {
            Ok(Call {
                module: module.trim().to_owned(),
                function: function.trim().to_owned(),
            })
        }
        _ => Err(Error::EntryPoint(line.to_owned())),
    }
}

fn script_text(interpreter: &str, call: &Call) -> String {
    let imported = call.function.split('.').next().unwrap_or_default();
    format!(
        "#!{interpreter}\nimport sys\n\nfrom {} import {imported}\n\nif __name__ == \"__main__\":\n    \
         sys.exit({}())\n",
        call.module, call.function
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_tree::Node;
    use proptest::prelude::*;
    use std::io::Write as _;

    const RECORD: &str = "demo/__init__.py,sha256=kept,6\ndemo/weak.py,md5=0,1\n\
                          \"demo-1.0.dist-info/RECORD\",,\n";
    const WHEEL: &str = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n";

    /// An archive of text members; a mode marks symbolic links and scripts.
    fn zip_of(files: &[(&str, &str, u32)]) -> tempfile::NamedTempFile {
        let mut builder = zip::testing::Builder::default();
        for (name, text, mode) in files {
            builder.add_with_mode(name, name, text.as_bytes(), false, *mode);
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&builder.finish()).unwrap();
        file
    }

    fn tree_of(files: &[(&str, &str, u32)]) -> Result<FileTree, Error> {
        let mut all = vec![("demo-1.0.dist-info/WHEEL", WHEEL, 0o100_644)];
        all.extend(files);
        let root = ImagePath::new("var/task").unwrap();
        let placement = Placement {
            root: &root,
            interpreter: "/var/lang/bin/python3.12",
            exclude: &Gitignore::empty(),
        };
        let archive = Archive::open(zip_of(&all).path(), "demo", "1.0")?;
        Ok(file_tree(&archive, &placement)?.tree)
    }

    fn listing(tree: &FileTree) -> String {
        let mut text = String::new();
        for (path, entry) in tree.iter() {
            if let Node::File {
                content,
                executable,
            } = &entry.node
            {
                let mark = if *executable { "x" } else { "-" };
                writeln!(text, "{mark} {path} {}", content.size()).unwrap();
            }
        }
        text
    }

    fn text(tree: &FileTree, path: &str) -> String {
        let Node::File { content, .. } = &tree.get(path).unwrap().node else {
            panic!("{path} is a file");
        };
        io::read_to_string(content.open().unwrap()).unwrap()
    }

    #[test]
    fn every_scheme_has_its_place() {
        let tree = tree_of(&[
            ("demo/__init__.py", "x = 1\n", 0o100_600),
            ("demo/tool.sh", "run", 0o100_777),
            ("demo/_vendor/other-2.dist-info/METADATA", "", 0o100_644),
            ("demo-1.0.data/purelib/pure.py", "p", 0o100_644),
            ("demo-1.0.data/data/share/d", "d", 0o100_644),
            ("demo-1.0.data/headers/demo.h", "h", 0o100_644),
            ("demo-1.0.data/scripts/plain", "#!pythonw\nx", 0o100_755),
            ("demo-1.0.data/scripts/elf", "\x7fELF", 0o100_644),
            ("demo-1.0.data/scripts/made", "#!python\nold", 0o100_644),
            (
                "demo-1.0.dist-info/entry_points.txt",
                "[console_scripts]\nmade = demo.cli:app.run [extra]\n[other]\nx = y\n",
                0o100_644,
            ),
            ("demo/typeless", "run", 0o755),
            ("demo/weak.py", "w", 0o100_644),
            ("demo-1.0.dist-info/RECORD", RECORD, 0o100_644),
            ("demo-1.0.dist-info/RECORD.jws", "signed", 0o100_644),
            ("demo-1.0.dist-info/INSTALLER", "other", 0o100_644),
            ("demo-1.0.dist-info/REQUESTED", "", 0o100_644),
            ("demo-1.0.dist-info/direct_url.json", "{}", 0o100_644),
            ("empty/", "", 0o40_755),
        ])
        .unwrap();
        insta::assert_snapshot!(listing(&tree), @"
        - /var/task/bin/elf 4
        x /var/task/bin/made 116
        x /var/task/bin/plain 28
        - /var/task/demo-1.0.dist-info/INSTALLER 8
        - /var/task/demo-1.0.dist-info/RECORD 993
        - /var/task/demo-1.0.dist-info/RECORD.jws 6
        - /var/task/demo-1.0.dist-info/WHEEL 41
        - /var/task/demo-1.0.dist-info/entry_points.txt 64
        - /var/task/demo/__init__.py 6
        - /var/task/demo/_vendor/other-2.dist-info/METADATA 0
        x /var/task/demo/tool.sh 3
        - /var/task/demo/typeless 3
        - /var/task/demo/weak.py 1
        - /var/task/include/python/demo/demo.h 1
        - /var/task/pure.py 1
        - /var/task/share/d 1
        ");
        insta::assert_snapshot!(text(&tree, "var/task/bin/made"), @r#"
        #!/var/lang/bin/python3.12
        import sys

        from demo.cli import app

        if __name__ == "__main__":
            sys.exit(app.run())
        "#);
        assert_eq!(
            text(&tree, "var/task/bin/plain"),
            "#!/var/lang/bin/python3.12\nx"
        );
        insta::assert_snapshot!(text(&tree, "var/task/demo-1.0.dist-info/RECORD"), @"
        bin/elf,sha256=O9u0_oOXzSuEJDCznM_wGoZjx1GUXvXpoJ4mf7ix01k,4
        bin/made,sha256=HXms1R9apHjcuLHaTa8FqgxCbXxERCXxNnL-aZgmGg4,116
        bin/plain,sha256=ci5pjGewuK7aoHB7Jon-kS9UK45fkeuY-mCBSLKLbZA,28
        demo-1.0.dist-info/INSTALLER,sha256=oEiIvVOvIWiY0wyaHf3XE8DYj5wEwOp7A2rm1L-EiF8,8
        demo-1.0.dist-info/RECORD,,
        demo-1.0.dist-info/WHEEL,sha256=pOC2U1k6hCf_vkZe7h2snGRWx-C20Xjuc3a02KQn2OY,41
        demo-1.0.dist-info/entry_points.txt,sha256=dhAQFGCnyOb7CWVga4Tg5nWUEYA-_i4BuKNTwniACVw,64
        demo/__init__.py,sha256=kept,6
        demo/_vendor/other-2.dist-info/METADATA,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0
        demo/tool.sh,sha256=rLolUSEA-AtW_DzNFMZb5V2UgAzad1hcX0Goh-OY-b4,3
        demo/typeless,sha256=rLolUSEA-AtW_DzNFMZb5V2UgAzad1hcX0Goh-OY-b4,3
        demo/weak.py,sha256=UOch5JwBPwDGLPWfIWNUKp2N8CRk7-thXTEFGw_dwyY,1
        include/python/demo/demo.h,sha256=qqlAJmTxpB9A67xSyZk-tmrrNmYClY_fqig7ceZNsSM,1
        pure.py,sha256=FI3pxaekTRnlbNmuGlVL9nhHr7DFj24S-imsfd_KmUA,1
        share/d,sha256=GKw-c0PwFokMUQ6T-TUmEWnZ4_VlQ2Qpgw-vCTT0-OQ,1
        ");
    }

    #[test]
    fn patterns_leave_out_files() {
        let mut patterns = ignore::gitignore::GitignoreBuilder::new("");
        for line in [
            "demo/tests/",
            "*.pyi",
            "!demo/tests/kept.py",
            "!kept.pyi",
            "/bin/",
        ] {
            patterns.add_line(None, line).unwrap();
        }
        let root = ImagePath::new("var/task").unwrap();
        let placement = Placement {
            root: &root,
            interpreter: "python",
            exclude: &patterns.build().unwrap(),
        };
        let entry_points = "[console_scripts]\nrun = demo:run\n";
        let wheel = zip_of(&[
            ("demo-1.0.dist-info/WHEEL", WHEEL, 0),
            ("demo-1.0.dist-info/RECORD", "", 0),
            ("demo-1.0.dist-info/entry_points.txt", entry_points, 0),
            ("demo/tests/deep/a.py", "", 0),
            ("demo/tests/kept.py", "", 0),
            ("demo/stub.pyi", "", 0),
            ("demo/kept.pyi", "", 0),
            ("other/demo/tests/b.py", "", 0),
        ]);
        let archive = Archive::open(wheel.path(), "demo", "1.0").unwrap();
        let placed = file_tree(&archive, &placement).unwrap();
        assert_eq!(
            placed.left_out,
            [
                "demo/tests/deep/a.py",
                "demo/tests/kept.py",
                "demo/stub.pyi",
                "bin/run"
            ]
        );
        assert!(!placed.members.contains("demo/stub.pyi"));
        assert!(placed.members.contains("demo/kept.pyi"));
        insta::assert_snapshot!(listing(&placed.tree), @"
        - /var/task/demo-1.0.dist-info/INSTALLER 8
        - /var/task/demo-1.0.dist-info/RECORD 421
        - /var/task/demo-1.0.dist-info/WHEEL 41
        - /var/task/demo-1.0.dist-info/entry_points.txt 33
        - /var/task/demo/kept.pyi 0
        - /var/task/other/demo/tests/b.py 0
        ");
        let record = text(&placed.tree, "var/task/demo-1.0.dist-info/RECORD");
        assert!(
            !record.contains("demo/tests/deep") && !record.contains("bin/run"),
            "{record}"
        );
    }

    #[test]
    fn hostile_wheels_are_refused_by_the_members_name() {
        let error = |name: &str, mode: u32| tree_of(&[(name, "x", mode)]).unwrap_err().to_string();
        insta::assert_snapshot!(error("../evil.py", 0o100_644), @"member `../evil.py` leaves its root by `..`");
        insta::assert_snapshot!(error("/etc/passwd", 0o100_644), @"member `/etc/passwd` is an absolute path");
        insta::assert_snapshot!(error("demo-1.0.data/scripts/../../../x", 0o100_644), @"member `demo-1.0.data/scripts/../../../x` leaves its root by `..`");
        insta::assert_snapshot!(error("a\\..\\b", 0o100_644), @r"member `a\\..\\b` has a backslash in it");
        insta::assert_snapshot!(error("link", 0o120_777), @"member `link` is a symbolic link");
        insta::assert_snapshot!(error("demo-1.0.data/etc/x", 0o100_644), @"member `demo-1.0.data/etc/x` is for an install scheme that does not exist");
        insta::assert_snapshot!(error("other-1.0.dist-info/x", 0o100_644), @"no wheel of `demo 1.0`: it has several `.dist-info` directories");
        let twice = tree_of(&[("a.py", "1", 0), ("demo-1.0.data/purelib/a.py", "2", 0)]);
        insta::assert_snapshot!(twice.unwrap_err(), @"two members would be /var/task/a.py");
        let entry = |line: &str| {
            let text = format!("[console_scripts]\n{line}\n");
            let tree = tree_of(&[("demo-1.0.dist-info/entry_points.txt", &text, 0)]);
            tree.unwrap_err().to_string()
        };
        let many: Vec<_> = (0..=MAX_SCRIPTS)
            .map(|n| format!("x{n} = os:getcwd"))
            .collect();
        insta::assert_snapshot!(entry(&many.join("\n")), @"it asks for more than 10000 scripts");
        let deep = format!("{}f", "a/".repeat(32_000));
        insta::assert_snapshot!(error(&deep, 0o100_644), @"it asks for more than 268435456 bytes of paths");
        insta::assert_snapshot!(entry("x = os"), @"entry point `x = os` does not name a script and a function");
        insta::assert_snapshot!(entry(" = os:getcwd"), @"entry point `= os:getcwd` does not name a script and a function");
        insta::assert_snapshot!(entry("../x = os:getcwd"), @"entry point `../x = os:getcwd` does not name a script and a function");
    }

    #[test]
    fn a_wheel_of_another_name_or_version_is_not_this_one() {
        let is_this = |stem: &str, name: &str, version: &str| {
            let dist_info = format!("{stem}.dist-info/METADATA");
            let file = zip_of(&[(&dist_info, "", 0)]);
            let members = zip::open(file.path()).unwrap();
            distribution_stem(&members, name, version).is_ok()
        };
        assert!(is_this("demo-1.0", "demo", "1.0"));
        assert!(is_this("Demo_Thing-1.0.0", "demo-thing", "1.0"));
        assert!(is_this("demo.thing-1.0", "demo-thing", "1.0"));
        assert!(is_this("demo-thing-1.0", "demo-thing", "1.0"));
        assert!(is_this("demo-1.0+cpu", "demo", "1.0+cpu"));
        assert!(is_this("demo-1.0_cpu", "demo", "1.0+cpu"));
        assert!(is_this("demo-1.0_1", "demo", "1.0-1"));
        assert!(is_this("demo-2004d", "demo", "2004d"));
        assert!(!is_this("demo-1.1", "demo", "1.0"));
        assert!(!is_this("demo_thing-1.0", "demo", "1.0"));
        assert!(!is_this("demo-1.0", "demo-thing", "1.0"));
        assert!(!is_this("demo", "demo", "1.0"));
    }

    proptest! {
        #[test]
        fn metadata_of_any_kind_can_be_read(text in "[a-z=:,\\[\\]\"\n .#é]{0,80}") {
            let _ = read_record(&text);
            let _ = read_entry_points(&text);
        }

        #[test]
        fn a_record_field_comes_back(path in "[a-z,\"é ]{1,12}") {
            let line = format!("{},b,1", quoted(&path));
            prop_assert_eq!(csv_fields(&line), Some([path, "b".to_owned(), "1".to_owned()]));
        }
    }
}
