//! Bytecode for what goes into layers: which interpreter compiles, and what it has compiled before.
//!
//! Lambda's file system is read-only, so that without bytecode in the image each cold start compiles every module it
//! imports. The bytecode of one wheel, of the function, or of a base made here is one archive in the store, whose members lie beside
//! their sources in a layer. How a file is compiled is `python::bytecode`'s to know; what is in a layer is that of
//! whoever makes it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::blob_store::{BlobStore, MemoKey};
use crate::build::{Error, Tools, pins};
use crate::digest::{Digest, Hasher};
use crate::file_tree::{self, Content, Entry, FileTree, ImagePath, Node};
use crate::oci::layer;
use crate::plan::{self, Plan};
use crate::progress::Progress;
use crate::python::PythonVersion;
use crate::python::bytecode::{self, Compiled, Pending, Pool};
use crate::python::interpreter::{self, Interpreter, Tried};
use crate::python::marshal;
use crate::zip;

/// Members of so many bytes are deflated: a layer takes these over bit for bit, and has the others compressed together.
const LARGE: usize = 16 << 10;
/// The level of layers.
const LEVEL: u32 = 4;
/// Changes whenever the archive of the same bytecode does.
pub(super) const FORMAT: &str = "zip 1: stored below 16 KiB, else zlib-rs 0.6.8 level 4";
/// Files between being read and being written: as many as keep all interpreters busy.
const IN_FLIGHT: usize = 32;
/// No module is larger, in bytes; what is, is data in Python's dress. Nor are all that wait together.
const MAX_SOURCE: u64 = 16 << 20;

/// Compiles for one build. Cheap to clone; the interpreters it starts, none before there is something to compile, end
/// with the last clone.
#[derive(Debug, Clone)]
pub struct Compiler {
    by: By,
    python: PythonVersion,
    /// Implementation and version, in words.
    name: String,
    implementation: String,
    version: String,
}

/// What compiles.
#[derive(Debug, Clone)]
enum By {
    Pool(Pool),
    /// Nothing, because the lock wants another than this.
    Nobody(pins::Bytecode),
}

/// How many files were compiled, and how many do not compile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Files that have bytecode beside them.
    pub compiled: u64,
    /// Files that were left as they are.
    pub failed: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.compiled += other.compiled;
        self.failed += other.failed;
    }
}

/// What an image's bytecode was made by, and how much of it there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who made the interpreter, as `cpython`.
    pub implementation: String,
    /// Its exact version, as `3.12.7`.
    pub version: String,
    /// The files.
    pub counts: Counts,
}

/// An archive of bytecode in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Archived {
    digest: Digest,
    compiled: u64,
    /// Paths of what does not compile, each with why.
    failed: Vec<(String, String)>,
}

/// The bytecode of some files.
#[derive(Debug, Default)]
pub(super) struct Bytecode {
    /// By the path of its source: where it goes, and what it is.
    members: BTreeMap<ImagePath, (ImagePath, zip::Member)>,
    failed: Vec<(String, String)>,
    /// By the path of a source that has none: where another's would be taken for it.
    masks: BTreeMap<ImagePath, ImagePath>,
}

impl Bytecode {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            compiled: self.members.len() as u64,
            failed: self.failed.len() as u64,
        }
    }

    /// The files that do not compile, in a few words.
    pub(super) fn told(&self) -> Option<String> {
        const NAMED: usize = 3;
        let named = self.failed.iter().take(NAMED);
        let named: Vec<_> = named.map(|(path, why)| format!("{path} ({why})")).collect();
        let more = match self.failed.len().checked_sub(NAMED) {
            Some(more @ 1..) => format!(" and {more} more"),
            _ => String::new(),
        };
        let named = named.join(", ");
        (!named.is_empty()).then(|| format!("left uncompiled: {named}{more}"))
    }

    /// Puts into `tree` the bytecode of those of its files that are `owner`'s, unless `is_out` keeps it out; an empty
    /// file where there is none (see [`masks`]).
    pub(super) fn put_into(
        &self,
        tree: &mut FileTree,
        owner: &str,
        is_out: impl Fn(&str) -> bool,
    ) -> Result<(), file_tree::Error> {
        // Not the wheel's own: nobody looks for it there.
        let ours: Arc<str> = format!("bytecode of {owner}").into();
        let members = self.members.iter();
        let members =
            members.map(|(source, (path, member))| (source, path, Content::Member(member.clone())));
        let masks = self.masks.iter();
        let masks = masks.map(|(source, path)| (source, path, Content::bytes("")));
        for (source, path, content) in members.chain(masks) {
            let is_its = |entry: &Entry| *entry.owner == *owner;
            if tree.get(source.as_str()).is_some_and(is_its) && !is_out(path.as_str()) {
                tree.insert_file(path.clone(), content, false, &ours)?;
            }
        }
        Ok(())
    }
}

/// Empty bytecode for each module of `tree`, links among them, that has no bytecode there. Python passes over what is
/// empty and compiles the source, where that of another file, of a package or of the base, would lie below and be
/// taken unseen for that of one in its place.
pub(super) fn masks(minor: u8, tree: &FileTree) -> Result<FileTree, file_tree::Error> {
    let mut masks = FileTree::default();
    for (path, entry) in tree.iter() {
        if matches!(entry.node, Node::Directory) {
            continue;
        }
        let cached = bytecode::cached_path(minor, path.as_str());
        if let Some(cached) = cached.filter(|cached| tree.get(cached).is_none()) {
            let ours: Arc<str> = format!("bytecode of {}", entry.owner).into();
            masks.insert_file(ImagePath::new(&cached)?, Content::bytes(""), false, &ours)?;
        }
    }
    Ok(masks)
}

/// A file to compile.
struct Source<'a> {
    path: &'a ImagePath,
    content: &'a Content,
    cached: ImagePath,
}

impl Source<'_> {
    fn is_too_large(&self) -> bool {
        self.content.size() > MAX_SOURCE
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        let size = self.content.size();
        let mut text = Vec::new();
        let opened = self.content.open().map_err(|e| unreadable(self, e))?;
        let read = opened.take(size + 1).read_to_end(&mut text);
        match read.map_err(|e| unreadable(self, e))? as u64 {
            read if read == size => Ok(text),
            _ => Err(Error::Layer(layer::Error::Changed {
                path: self.path.clone(),
            })),
        }
    }
}

/// Finds the interpreter that compiles for the plan's runtime, of the version that is `demanded` if one is, or says
/// why each that was tried does not.
///
/// Its architecture does not count but for floating-point constants, which compilers fold by the machine's own
/// library of mathematics: the magic number and the bytecode are those of a release line, on whatever
/// machine (<https://docs.python.org/3/library/importlib.html#importlib.util.MAGIC_NUMBER>).
///
/// # Errors
/// [`Error::Interpreter`] when the one that the user names will not do whatever is demanded.
pub(super) async fn find(
    plan: &Plan,
    demanded: Option<&str>,
    tools: &Tools,
) -> Result<Result<Compiler, Vec<Tried>>, Error> {
    let minor = plan.runtime.python.minor();
    let given = match (&plan.interpreter, &plan.base) {
        (Some(path), _) | (None, plan::Base::Host(Some(path))) => Some(path.clone()),
        (None, _) => None,
    };
    let must_be = given.is_some() && demanded.is_none();
    let no_cache = plan.policy.no_cache;
    let (directories, installations) = (tools.directories.clone(), tools.installations.clone());
    let (store, demanded) = (tools.store.clone(), demanded.map(str::to_owned));
    let find = move || {
        let candidates = match given {
            Some(path) => vec![path],
            None => scripts_last(interpreter::candidates(minor, &directories, &installations)),
        };
        let ask = |path: &Path| probed(path, &store, no_cache);
        first_fit(minor, demanded.as_deref(), &candidates, ask)
    };
    match tools.block(find).await? {
        Ok(interpreter) => {
            let path = interpreter.executable.display();
            let text = format!("bytecode by {path}, Python {}", interpreter.version);
            tools.progress.detail(text);
            Ok(Ok(Compiler::new(plan.runtime.python, interpreter)))
        }
        Err(tried) if must_be => Err(interpreter::Error::NotFound { minor, tried }.into()),
        Err(tried) => Ok(Err(tried)),
    }
}

/// Says what it costs that nothing compiles.
pub(super) fn tell_none(python: PythonVersion, tried: &[Tried], progress: &Progress) {
    for tried in tried {
        progress.detail(format!("not compiled with: {tried}"));
    }
    progress.warn(format!(
        "no CPython {python} was found to compile with, so each cold start compiles every module that it imports: \
         Lambda's file system is read-only. Install one (`uv python install {python}`), name it by `--interpreter`, \
         or set `bytecode = false`"
    ));
}

/// The first of `candidates` that compiles for Python 3.`minor`, of the version `demanded` if one is.
fn first_fit(
    minor: u8,
    demanded: Option<&str>,
    candidates: &[PathBuf],
    ask: impl Fn(&Path) -> Result<Interpreter, interpreter::Error>,
) -> Result<Interpreter, Vec<Tried>> {
    let mut tried = Vec::new();
    for path in candidates {
        let answer = ask(path);
        let reason = match &answer {
            Ok(interpreter) => objection(interpreter, minor, demanded),
            Err(error) => Some(interpreter::clause(error)),
        };
        match (answer, reason) {
            (Ok(interpreter), None) => return Ok(interpreter),
            (_, reason) => tried.push(Tried {
                path: path.clone(),
                reason: reason.unwrap_or_default(),
            }),
        }
    }
    Err(tried)
}

fn objection(interpreter: &Interpreter, minor: u8, demanded: Option<&str>) -> Option<String> {
    let version = &interpreter.version;
    // Before its release a line's magic number changes.
    let is_release = version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let others = || match demanded {
        Some(demanded) if version != demanded => Some(format!("is {version}, not {demanded}")),
        _ if !is_release => Some(format!("is {version}, no release")),
        _ if !marshal::knows(minor) => Some(format!("is {version}, whose bytecode is not known")),
        _ => None,
    };
    interpreter::objection(interpreter, minor).or_else(others)
}

/// What is a script only stands for an interpreter, and is asked anew each time: others come first.
fn scripts_last(candidates: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_script = |path: &PathBuf| {
        let mut start = [0; 2];
        let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == *b"#!"
    };
    let (scripts, mut programs): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_script);
    programs.extend(scripts);
    programs
}

/// By what a file is known to be the one that it was.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp([u64; 4], [i64; 4]);

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        let times = [
            file.mtime(),
            file.mtime_nsec(),
            file.ctime(),
            file.ctime_nsec(),
        ];
        Ok(Self(
            [file.dev(), file.ino(), file.size(), file.mode().into()],
            times,
        ))
    }
}

/// What an interpreter said when it was last asked, and the files that it runs from as they were then.
#[derive(Serialize, Deserialize)]
struct Known {
    interpreter: Interpreter,
    stamps: Vec<Stamp>,
}

/// What the interpreter at `path` says of itself, now or when its files were last other ones.
fn probed(
    path: &Path,
    store: &BlobStore,
    no_cache: bool,
) -> Result<Interpreter, interpreter::Error> {
    let stamps = |interpreter: &Interpreter| -> io::Result<Vec<Stamp>> {
        let files = [
            Some(&interpreter.executable),
            interpreter.shared_library.as_ref(),
        ];
        files
            .into_iter()
            .flatten()
            .map(|path| Stamp::of(path))
            .collect()
    };
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let key = MemoKey::new("interpreter 1", [real.as_os_str().as_encoded_bytes()]);
    let known = store.recall::<Known>(&key).filter(|known| {
        !no_cache && stamps(&known.interpreter).is_ok_and(|stamps| stamps == known.stamps)
    });
    if let Some(known) = known {
        return Ok(known.interpreter);
    }
    let interpreter = interpreter::probe(path)?;
    // What a script says may depend on more than its file.
    if interpreter.executable == real
        && let Ok(stamps) = stamps(&interpreter)
    {
        let known = Known {
            interpreter: interpreter.clone(),
            stamps,
        };
        // To be asked once more is all that it costs.
        let _ = store.remember(&key, &known);
    }
    Ok(interpreter)
}

impl Compiler {
    /// One that compiles by `interpreter`.
    pub(super) fn new(python: PythonVersion, interpreter: Interpreter) -> Self {
        let pool = Pool::new(&interpreter);
        Self {
            python,
            name: pool.identity().to_owned(),
            by: By::Pool(pool),
            implementation: interpreter.implementation,
            version: interpreter.version,
        }
    }

    /// One of the version that the lock demands, which must not change, where there is `instead` only: it has what
    /// was compiled before.
    pub(super) fn absent(
        python: PythonVersion,
        implementation: String,
        version: String,
        instead: pins::Bytecode,
    ) -> Self {
        Self {
            by: By::Nobody(instead),
            python,
            name: format!("{implementation} {version}"),
            implementation,
            version,
        }
    }

    /// What compiles.
    fn pool(&self, tools: &Tools) -> Result<&Pool, Error> {
        match &self.by {
            By::Pool(pool) => Ok(pool),
            By::Nobody(instead) => {
                tools.pins.settle_bytecode(self.python, instead.clone())?;
                Err(bytecode::Error::Gone.into())
            }
        }
    }

    /// All that decides bytecode beside path and source: what a layer's key has in it.
    pub fn identity(&self) -> String {
        format!("{}; {}; {FORMAT}", self.name, bytecode::FORMAT)
    }

    /// In words: `cpython 3.12.7`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As a lock has it.
    pub(super) fn pinned(&self) -> pins::Bytecode {
        pins::Bytecode::Interpreter {
            implementation: self.implementation.clone(),
            version: self.version.clone(),
        }
    }

    /// What is told of an image with so much bytecode.
    pub fn report(&self, counts: Counts) -> Report {
        Report {
            implementation: self.implementation.clone(),
            version: self.version.clone(),
            counts,
        }
    }

    /// Where the bytecode of the source at `path` lies.
    pub(super) fn cached_path(&self, path: &str) -> Option<String> {
        bytecode::cached_path(self.python.minor(), path)
    }

    /// The bytecode of a wheel's modules. Its programs are started by their paths, which takes no bytecode.
    pub(super) fn of_wheel(
        &self,
        wheel: &Digest,
        tree: &FileTree,
        programs: &str,
        no_cache: bool,
        tools: &Tools,
    ) -> Result<Bytecode, Error> {
        let mut sources = self.sources(tree)?;
        sources.retain(|source| {
            let is_member = matches!(source.content, Content::Member(_));
            is_member && !source.path.as_str().starts_with(programs)
        });
        let listing = sources.iter().map(|source| source.path.as_str());
        let mut inputs = vec!["wheel".to_owned(), self.identity(), wheel.to_string()];
        inputs.extend(listing.map(str::to_owned));
        let key = MemoKey::new("bytecode 2", inputs);
        if let Some(known) = Self::recall(&key, &sources, &tools.store).filter(|_| !no_cache) {
            return Ok(known);
        }
        let (archived, _) = self.archive(&sources, tools)?;
        tools.store.remember(&key, &archived)?;
        read_back(archived, &sources, &tools.store)
    }

    /// `tree`, which is the function's, with bytecode beside its modules; and the digests of what was compiled.
    ///
    /// # Errors
    /// Those of reading, and of interpreters that do not start.
    pub(super) fn with_bytecode(
        &self,
        mut tree: FileTree,
        no_cache: bool,
        tools: &Tools,
    ) -> Result<(FileTree, Counts, BTreeMap<ImagePath, Digest>), Error> {
        let (bytecode, compiled) = self.of_files(&tree, no_cache, tools)?;
        if let Some(told) = bytecode.told() {
            tools.progress.detail(format!("function: {told}"));
        }
        let mut over = FileTree::default();
        let ours: Arc<str> = "bytecode of function".into();
        for (path, member) in bytecode.members.values() {
            over.insert_file(path.clone(), Content::Member(member.clone()), false, &ours)?;
        }
        for path in bytecode.masks.values() {
            over.insert_file(path.clone(), Content::bytes(""), false, &ours)?;
        }
        tree.merge(over)?;
        tree.merge(masks(self.python.minor(), &tree)?)?;
        Ok((tree, bytecode.counts(), compiled))
    }

    /// `tree`, which is a base made of the very interpreter that compiles, with bytecode beside its modules; and the
    /// digests of what was compiled. Nothing is below a base that could be taken for bytecode of its modules.
    ///
    /// # Errors
    /// Those of reading, and of interpreters that do not start.
    pub(super) fn with_bytecode_of_base(
        &self,
        mut tree: FileTree,
        no_cache: bool,
        tools: &Tools,
    ) -> Result<(FileTree, BTreeMap<ImagePath, Digest>), Error> {
        let (bytecode, compiled) = self.of_files(&tree, no_cache, tools)?;
        if let Some(told) = bytecode.told() {
            tools.progress.detail(format!("base: {told}"));
        }
        let ours: Arc<str> = "bytecode of base".into();
        for (path, member) in bytecode.members.into_values() {
            tree.insert_file(path, Content::Member(member), false, &ours)?;
        }
        Ok((tree, compiled))
    }

    /// The bytecode of the modules of a tree, and the digests of these as they were compiled.
    fn of_files(
        &self,
        tree: &FileTree,
        no_cache: bool,
        tools: &Tools,
    ) -> Result<(Bytecode, BTreeMap<ImagePath, Digest>), Error> {
        let sources = self.sources(tree)?;
        let digest = |source: &Source<'_>| {
            if source.is_too_large() {
                Ok(None)
            } else {
                source.content.digest().map(Some)
            }
        };
        let digests = sources
            .iter()
            .map(|source| digest(source).map_err(|e| unreadable(source, e)));
        let digests: Vec<_> = digests.collect::<Result<_, _>>()?;
        let key = |digests: &[Option<Digest>]| {
            let mut hasher = Hasher::default();
            for (source, digest) in sources.iter().zip(digests) {
                hasher.field(source.path.as_str());
                match digest {
                    Some(digest) => hasher.field(digest.as_bytes()),
                    None => hasher.field(source.content.size().to_string()),
                }
            }
            let files = hasher.finish().to_string();
            MemoKey::new("bytecode 2", ["files".to_owned(), self.identity(), files])
        };
        let compiled = |digests: Vec<Option<Digest>>| {
            let digests = sources.iter().zip(digests);
            let digests =
                digests.filter_map(|(source, digest)| Some((source.path.clone(), digest?)));
            digests.collect()
        };
        let known = Self::recall(&key(&digests), &sources, &tools.store);
        if let Some(known) = known.filter(|_| !no_cache) {
            return Ok((known, compiled(digests)));
        }
        let (archived, digests) = self.archive(&sources, tools)?;
        // Remembered for what was compiled, which an editor may have changed meanwhile.
        tools.store.remember(&key(&digests), &archived)?;
        let bytecode = read_back(archived, &sources, &tools.store)?;
        Ok((bytecode, compiled(digests)))
    }

    /// The modules of a tree.
    fn sources<'t>(&self, tree: &'t FileTree) -> Result<Vec<Source<'t>>, Error> {
        let mut sources = Vec::new();
        for (path, entry) in tree.iter() {
            if let Node::File { content, .. } = &entry.node
                && let Some(cached) = self.cached_path(path.as_str())
            {
                let cached = ImagePath::new(&cached).map_err(file_tree::Error::from)?;
                sources.push(Source {
                    path,
                    content,
                    cached,
                });
            }
        }
        Ok(sources)
    }

    /// The archive made before, unless it is gone or damaged.
    fn recall(key: &MemoKey, sources: &[Source<'_>], store: &BlobStore) -> Option<Bytecode> {
        let archived: Archived = store.recall(key)?;
        let bytecode = read_back(archived, sources, store).ok()?;
        let all = bytecode.members.len() + bytecode.failed.len();
        (all == sources.len()).then_some(bytecode)
    }

    /// Compiles all of `sources` into an archive; beside it come the digests of what was read. No more than a few
    /// files are in memory, and few bytes if they are large.
    fn archive(
        &self,
        sources: &[Source<'_>],
        tools: &Tools,
    ) -> Result<(Archived, Vec<Option<Digest>>), Error> {
        let written = |error| Error::Layer(layer::Error::Write(error));
        let mut writer = Writer {
            zip: zip::Writer::new(tools.store.writer()?),
            compiled: 0,
            failed: Vec::new(),
        };
        let mut digests = Vec::new();
        let mut waiting: VecDeque<(&Source<'_>, u64, Pending)> = VecDeque::new();
        let mut bytes = 0;
        for source in sources {
            if source.is_too_large() {
                digests.push(None);
                writer.fail(source, "is larger than 64 MiB".to_owned());
                continue;
            }
            let size = source.content.size();
            while (waiting.len() >= IN_FLIGHT || bytes + size > MAX_SOURCE)
                && let Some((source, size, pending)) = waiting.pop_front()
            {
                bytes -= size;
                writer.add(source, pending.wait()?).map_err(written)?;
            }
            let text = source.read()?;
            digests.push(Some(Digest::of(&text)));
            bytes += size;
            let pending = self.pool(tools)?.compile(source.path.to_string(), text);
            waiting.push_back((source, size, pending));
        }
        for (source, _, pending) in waiting {
            writer.add(source, pending.wait()?).map_err(written)?;
        }
        let (digest, _) = writer.zip.finish().map_err(written)?.commit()?;
        let archived = Archived {
            digest,
            compiled: writer.compiled,
            failed: writer.failed,
        };
        Ok((archived, digests))
    }
}

/// The members of an archive, each by its source.
fn read_back(
    archived: Archived,
    sources: &[Source<'_>],
    store: &BlobStore,
) -> Result<Bytecode, Error> {
    // To ask for its size is to use it.
    store.size(&archived.digest);
    let path = store.path(&archived.digest);
    let members = zip::open(&path).map_err(|error| Error::Bytecode {
        archive: archived.digest,
        source: error,
    })?;
    let members = members
        .into_iter()
        .map(|member| (member.name.clone(), member));
    let mut members: BTreeMap<_, _> = members.collect();
    let found = sources.iter().filter_map(|source| {
        let member = members.remove(source.cached.as_str())?;
        Some((source.path.clone(), (source.cached.clone(), member)))
    });
    let members: BTreeMap<_, _> = found.collect();
    let absent = sources
        .iter()
        .filter(|source| !members.contains_key(source.path));
    Ok(Bytecode {
        masks: absent
            .map(|source| (source.path.clone(), source.cached.clone()))
            .collect(),
        members,
        failed: archived.failed,
    })
}

struct Writer<W: io::Write> {
    zip: zip::Writer<W>,
    compiled: u64,
    failed: Vec<(String, String)>,
}

impl<W: io::Write> Writer<W> {
    fn add(&mut self, source: &Source<'_>, compiled: Compiled) -> io::Result<()> {
        match compiled {
            Compiled::Bytecode(bytes) => {
                self.compiled += 1;
                let level = (bytes.len() >= LARGE).then_some(LEVEL);
                self.zip.add(source.cached.as_str(), &bytes, level)
            }
            Compiled::Not(reason) => {
                self.fail(source, reason);
                Ok(())
            }
        }
    }

    fn fail(&mut self, source: &Source<'_>, reason: String) {
        self.failed.push((source.path.to_string(), reason));
    }
}

fn unreadable(source: &Source<'_>, error: io::Error) -> Error {
    Error::Layer(layer::Error::Read {
        path: source.path.clone(),
        source: error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_gets_the_version_that_it_demands_or_none() {
        let real = interpreter::installed();
        let minor = real.minor;
        let versions = ["3.1.9", "3.1.10", "3.1.10rc1"].map(PathBuf::from);
        let ask = |path: &Path| {
            let version = path.display().to_string();
            Ok(Interpreter {
                executable: path.to_owned(),
                version,
                ..real.clone()
            })
        };
        let found = |demanded| {
            let found = first_fit(minor, demanded, &versions, ask);
            found.map(|interpreter| interpreter.version)
        };
        assert_eq!(found(None).unwrap(), "3.1.9");
        assert_eq!(found(Some("3.1.10")).unwrap(), "3.1.10");
        let tried = found(Some("3.1.11")).unwrap_err();
        let tried: Vec<_> = tried.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(tried.join("\n"), @r"
        `3.1.9` is 3.1.9, not 3.1.11
        `3.1.10` is 3.1.10, not 3.1.11
        `3.1.10rc1` is 3.1.10rc1, not 3.1.11
        ");
        let tried = first_fit(minor, None, &versions[2..], ask).unwrap_err();
        insta::assert_snapshot!(tried[0], @"`3.1.10rc1` is 3.1.10rc1, no release");
    }

    #[test]
    fn an_interpreter_is_asked_again_when_its_files_are_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path().join("store")).unwrap();
        let real = interpreter::installed().executable;
        let first = probed(&real, &store, false).unwrap();
        assert_eq!(probed(&real, &store, false).unwrap(), first);
        let key = MemoKey::new("interpreter 1", [real.as_os_str().as_encoded_bytes()]);
        let mut known: Known = store.recall(&key).unwrap();
        known.interpreter.version = "3.1.4".to_owned();
        store.remember(&key, &known).unwrap();
        assert_eq!(probed(&real, &store, false).unwrap().version, "3.1.4");
        assert_eq!(probed(&real, &store, true).unwrap(), first);
        known.stamps[0].0[2] += 1;
        store.remember(&key, &known).unwrap();
        assert_eq!(probed(&real, &store, false).unwrap(), first);
    }

    #[test]
    fn scripts_come_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (shim, program) = (path("shim", "#!/bin/sh\n"), path("program", "\x7fELF"));
        let empty = path("empty", "");
        let sorted = scripts_last(vec![shim.clone(), program.clone(), empty.clone()]);
        assert_eq!(sorted, [program, empty, shim]);
    }
}
