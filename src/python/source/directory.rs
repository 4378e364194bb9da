//! A directory of sources: what of it a build sees, by what it is known again, and a copy to build in.
//!
//! Backends write into the directory that they build, so they never get the user's own. What tools leave
//! behind is not copied: `setuptools` puts an old `build/` into the wheel, and an environment or an image may
//! be larger than all sources. It does not know what is built, or by whom.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hasher};

/// What no build reads, wherever it lies.
const LEFT_OUT: [&str; 10] = [
    "__pycache__",
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".nox",
    ".pytest_cache",
    ".ruff_cache",
    ".svn",
    ".tox",
    ".venv",
];

/// Where builds leave their results, at the top alone: a package may have a module of that name.
const RESULTS: [&str; 2] = ["build", "dist"];

/// Files that mark a directory as a virtual environment or as an image.
const MARKS: [&str; 2] = ["pyvenv.cfg", "oci-layout"];

/// A path that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct Error {
    /// A verb.
    action: &'static str,
    /// Which.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error {
        action,
        path,
        source,
    }
}

/// What stands at a path of the directory.
#[derive(Debug)]
enum Node {
    Directory,
    /// A file, where it really lies.
    File {
        real: PathBuf,
        executable: bool,
    },
    /// A link that stays inside.
    Link(PathBuf),
}

/// A directory of sources as a build sees it.
#[derive(Debug)]
pub(super) struct Directory {
    nodes: BTreeMap<PathBuf, Node>,
    /// Its repository, if it is the top of one.
    repository: Option<PathBuf>,
}

impl Directory {
    /// Lists the directory at `root` without `leave_out`, which are absolute paths.
    pub(super) fn list(root: &Path, leave_out: &[PathBuf]) -> Result<Self, Error> {
        let root = root.canonicalize().map_err(error("read", root))?;
        let mut walk = Walk {
            root: &root,
            leave_out,
            within: vec![root.clone()],
            nodes: BTreeMap::new(),
        };
        walk.directory(&root, Path::new(""))?;
        Ok(Self {
            nodes: walk.nodes,
            repository: repository(&root),
        })
    }

    /// The digest of all that a build can see of it: paths, bytes, execute bits, and where its repository
    /// stands, from which some backends take the version.
    pub(super) fn digest(&self) -> Result<Digest, Error> {
        let mut hasher = Hasher::default();
        for (path, node) in &self.nodes {
            hasher.field(path.as_os_str().as_bytes());
            match node {
                Node::Directory => hasher.field("directory"),
                Node::Link(target) => {
                    hasher.field("link");
                    hasher.field(target.as_os_str().as_bytes());
                }
                Node::File { real, executable } => {
                    let read = |file: File| Digest::of_reader(&mut io::BufReader::new(file));
                    let (digest, _) = File::open(real)
                        .and_then(read)
                        .map_err(error("read", real))?;
                    hasher.field(if *executable { "program" } else { "file" });
                    hasher.field(digest.as_bytes());
                }
            }
        }
        for fact in self.repository.iter().flat_map(|git| standing(git)) {
            hasher.field(fact);
        }
        Ok(hasher.finish())
    }

    /// Copies it to `to`, which must not be there yet.
    pub(super) fn copy_to(&self, to: &Path) -> Result<(), Error> {
        fs::create_dir_all(to).map_err(error("create", to))?;
        for (path, node) in &self.nodes {
            let place = to.join(path);
            let made = match node {
                Node::Directory => fs::create_dir(&place),
                Node::Link(target) => symlink(target, &place),
                Node::File { real, executable } => copy_file(real, &place, *executable),
            };
            made.map_err(error("write", &place))?;
        }
        if let Some(repository) = &self.repository {
            let place = to.join(".git");
            copy_repository(repository, &place).map_err(error("write", &place))?;
        }
        Ok(())
    }
}

/// The copy can be written and removed, whatever the original's mode.
fn copy_file(from: &Path, to: &Path, executable: bool) -> io::Result<()> {
    fs::copy(from, to)?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

struct Walk<'a> {
    root: &'a Path,
    leave_out: &'a [PathBuf],
    /// The directories on the way here, for links that lead back.
    within: Vec<PathBuf>,
    nodes: BTreeMap<PathBuf, Node>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, place: &Path) -> Result<(), Error> {
        let entries = fs::read_dir(directory).map_err(error("read", directory))?;
        for entry in entries {
            let entry = entry.map_err(error("read", directory))?;
            self.node(&entry.path(), &place.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn node(&mut self, path: &Path, place: &Path) -> Result<(), Error> {
        let metadata = fs::symlink_metadata(path).map_err(error("read", path))?;
        if self.stays_out(path, place, &metadata) {
            return Ok(());
        }
        if !metadata.is_symlink() {
            return self.real(path.to_owned(), place, &metadata);
        }
        let target = fs::read_link(path).map_err(error("read", path))?;
        match path.canonicalize() {
            // In the copy it would lead elsewhere, so what it leads to is copied.
            Ok(real) if target.is_absolute() || !real.starts_with(self.root) => {
                let metadata = fs::metadata(&real).map_err(error("read", &real))?;
                self.real(real, place, &metadata)
            }
            _ => {
                self.nodes.insert(place.to_owned(), Node::Link(target));
                Ok(())
            }
        }
    }

    fn real(&mut self, real: PathBuf, place: &Path, metadata: &Metadata) -> Result<(), Error> {
        if metadata.is_file() {
            let executable = metadata.permissions().mode() & 0o111 != 0;
            let node = Node::File { real, executable };
            self.nodes.insert(place.to_owned(), node);
        } else if metadata.is_dir() && !self.within[1..].contains(&real) && real != self.root {
            self.nodes.insert(place.to_owned(), Node::Directory);
            self.within.push(real.clone());
            self.directory(&real, place)?;
            self.within.pop();
        }
        // Sockets and their like are no sources.
        Ok(())
    }

    fn stays_out(&self, path: &Path, place: &Path, metadata: &Metadata) -> bool {
        let name = path.file_name().unwrap_or_default();
        let at_top = place.parent() == Some(Path::new(""));
        let is_result = || {
            at_top
                && RESULTS.iter().any(|result| name == *result)
                && !path.join("__init__.py").exists()
        };
        LEFT_OUT.iter().any(|left| name == *left)
            || is_leftover(name)
            || (metadata.is_dir() && is_result())
            || self.leave_out.iter().any(|left| left == path)
            || (metadata.is_dir() && MARKS.iter().any(|mark| path.join(mark).is_file()))
    }
}

fn is_leftover(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let is_lock = name.starts_with("pylock.") && name.ends_with(".toml");
    is_lock
        || name.ends_with(".egg-info")
        || name.ends_with(".pyc")
        || name.starts_with(".lambimg-")
}

/// The repository whose top `root` is.
fn repository(root: &Path) -> Option<PathBuf> {
    let git = root.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    // A worktree's or a submodule's is elsewhere.
    let text = fs::read_to_string(git).ok()?;
    let elsewhere = root.join(text.trim().strip_prefix("gitdir:")?.trim());
    elsewhere.canonicalize().ok()
}

/// Makes a repository that stands where `git` does: its objects are looked up there, all else is a copy, for
/// even to ask git for a status is to write. Backends take versions from it, and the list of files.
fn copy_repository(git: &Path, to: &Path) -> io::Result<()> {
    let common = common_directory(git);
    let objects = to.join("objects").join("info");
    fs::create_dir_all(&objects)?;
    let alternates = [common.join("objects").as_os_str().as_bytes(), b"\n"].concat();
    fs::write(objects.join("alternates"), alternates)?;
    copy_references(&common.join("refs"), &to.join("refs"))?;
    let of_worktree = ["HEAD", "index"].map(|name| (git, name));
    let of_all = ["packed-refs", "shallow"].map(|name| (&*common, name));
    for (directory, name) in of_worktree.into_iter().chain(of_all) {
        let file = directory.join(name);
        if file.is_file() {
            fs::copy(file, to.join(name))?;
        }
    }
    // A submodule's says where its files are.
    let config = fs::read_to_string(common.join("config")).unwrap_or_default();
    let elsewhere = |line: &&str| line.trim_start().starts_with("worktree");
    let lines: Vec<&str> = config.lines().filter(|line| !elsewhere(line)).collect();
    fs::write(to.join("config"), lines.join("\n") + "\n")
}

fn copy_references(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).into_iter().flatten() {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_references(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

/// Where what all worktrees of a repository have is.
fn common_directory(git: &Path) -> PathBuf {
    let common = fs::read_to_string(git.join("commondir"));
    common.map_or_else(|_| git.to_owned(), |text| git.join(text.trim()))
}

/// What decides which commit and which tags a repository stands at, and what it tracks.
fn standing(git: &Path) -> Vec<Vec<u8>> {
    let head = fs::read(git.join("HEAD")).unwrap_or_default();
    let common = common_directory(git);
    let text = String::from_utf8_lossy(&head).into_owned();
    let branch = text.trim().strip_prefix("ref: ");
    let branch = branch.map(|name| fs::read(common.join(name)).unwrap_or_default());
    let packed = fs::read(common.join("packed-refs")).unwrap_or_default();
    let shallow = fs::read(common.join("shallow")).unwrap_or_default();
    let index = fs::read(git.join("index")).unwrap_or_default();
    let tracked = tracked(&index).unwrap_or(index);
    let mut facts = vec![head, branch.unwrap_or_default(), packed, shallow, tracked];
    let mut tags = Vec::new();
    collect_tags(&common.join("refs").join("tags"), &mut tags);
    tags.sort();
    facts.extend(tags);
    facts
}

/// What an index of git says but for the times and numbers of files, which are of a machine and a moment: mode,
/// hash, flags and path of each. Nothing where its form is not the usual one.
fn tracked(index: &[u8]) -> Option<Vec<u8>> {
    const TIMES: usize = 24;
    const OWNERS: std::ops::Range<usize> = 28..40;
    const FIXED: usize = 62;
    const EXTENDED: u8 = 0x40;
    let rest = index.strip_prefix(b"DIRC\0\0\0")?;
    let (version, rest) = rest.split_first()?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let mut facts = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let fixed = rest.get(..FIXED)?;
        let more = match (version, fixed[FIXED - 2] & EXTENDED) {
            (2 | 3, 0) => 0,
            (3, _) => 2,
            _ => return None,
        };
        let path = rest.get(FIXED + more..)?;
        let length = path.iter().position(|byte| *byte == 0)?;
        facts.extend_from_slice(&fixed[TIMES..OWNERS.start]);
        facts.extend_from_slice(rest.get(OWNERS.end..FIXED + more + length + 1)?);
        // Each takes a multiple of eight, with one NUL at least.
        let whole = (FIXED + more + length + 8) & !7;
        rest = rest.get(whole..)?;
    }
    Some(facts)
}

fn collect_tags(directory: &Path, tags: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_tags(&path, tags);
        } else {
            let commit = fs::read(&path).unwrap_or_default();
            tags.push([path.as_os_str().as_bytes(), b" ", &commit].concat());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        directory
    }

    fn paths(root: &Path) -> Vec<String> {
        let listed = Directory::list(root, &[root.join("out")]).unwrap();
        let files = listed
            .nodes
            .iter()
            .filter(|(_, n)| !matches!(n, Node::Directory));
        files.map(|(path, _)| path.display().to_string()).collect()
    }

    #[test]
    fn leftovers_are_no_sources() {
        let directory = tree(&[
            ".git/HEAD",
            ".gitignore",
            ".venv/x",
            "build/lib/old.py",
            "dist/__init__.py",
            "env/pyvenv.cfg",
            "image/oci-layout",
            "out/x",
            "pkg/__pycache__/x.pyc",
            "pkg/build/mod.py",
            "pylock.toml",
            "pyproject.toml",
            "src/demo.egg-info/PKG-INFO",
        ]);
        assert_eq!(
            paths(directory.path()),
            [
                ".gitignore",
                "dist/__init__.py",
                "pkg/build/mod.py",
                "pyproject.toml"
            ]
        );
    }

    #[test]
    fn a_copy_is_whole_and_known_by_its_contents() {
        let shared = tree(&["words/a.txt"]);
        let directory = tree(&["pkg/a.py", "run.sh"]);
        let root = directory.path();
        symlink("a.py", root.join("pkg/same.py")).unwrap();
        symlink(shared.path().join("words"), root.join("pkg/words")).unwrap();
        symlink("..", root.join("pkg/back")).unwrap();
        symlink(root, root.join("pkg/loop")).unwrap();
        fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
        let digest = |root: &Path| Directory::list(root, &[]).unwrap().digest().unwrap();
        let first = digest(root);
        let copy = tempfile::tempdir().unwrap();
        let to = copy.path().join("copy");
        Directory::list(root, &[]).unwrap().copy_to(&to).unwrap();
        assert_eq!(
            fs::read_to_string(to.join("pkg/words/a.txt")).unwrap(),
            "words/a.txt"
        );
        assert_eq!(
            fs::read_link(to.join("pkg/same.py")).unwrap(),
            Path::new("a.py")
        );
        assert_eq!(digest(&to), first, "a copy is the same sources");
        fs::write(shared.path().join("words/a.txt"), "other").unwrap();
        let second = digest(root);
        assert_ne!(second, first, "what a link leads to counts");
        fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_ne!(digest(root), second, "an execute bit counts");
    }

    #[test]
    fn what_is_tracked_counts_and_when_it_was_touched_does_not() {
        let directory = tree(&["a.py", "long/name.py"]);
        let root = directory.path();
        let git = |arguments: &[&str]| {
            let mut command = std::process::Command::new("git");
            for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
                command.env_remove(name);
            }
            let done = command.current_dir(root).args(arguments).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        git(&["init", "--quiet"]);
        let index = || fs::read(root.join(".git/index")).unwrap();
        let digest = || Directory::list(root, &[]).unwrap().digest().unwrap();
        let first = digest();
        git(&["add", "a.py", "long"]);
        let (second, before) = (digest(), index());
        assert_ne!(second, first);
        assert!(tracked(&before).is_some());
        fs::remove_file(root.join("a.py")).unwrap();
        fs::write(root.join("a.py"), "a.py").unwrap();
        let touched = File::options().append(true).open(root.join("a.py"));
        touched
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        git(&["update-index", "--really-refresh"]);
        assert_ne!(index(), before);
        assert_eq!(digest(), second);
        git(&["add", "--intent-to-add", "a.py"]);
        git(&["rm", "--quiet", "--cached", "a.py"]);
        let third = digest();
        assert_ne!(third, second);
        git(&["add", "--intent-to-add", "a.py"]);
        assert!(index().starts_with(b"DIRC\0\0\0\x03") && tracked(&index()).is_some());
        assert_ne!(digest(), third);
        for end in 0..before.len() {
            let _ = tracked(&before[..end]);
        }
    }

    #[test]
    fn a_copy_knows_its_repository() {
        let directory = tree(&["a.py"]);
        let root = directory.path();
        fs::create_dir_all(root.join(".git/refs/tags")).unwrap();
        fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        let digest = || Directory::list(root, &[]).unwrap().digest().unwrap();
        let first = digest();
        fs::write(root.join(".git/refs/tags/v1"), "0".repeat(40)).unwrap();
        assert_ne!(digest(), first);
        let second = digest();
        fs::write(root.join(".git/shallow"), "0".repeat(40)).unwrap();
        assert_ne!(digest(), second);
        let to = root.join("copy");
        Directory::list(root, &[]).unwrap().copy_to(&to).unwrap();
        assert!(to.join(".git/refs/tags/v1").is_file());
        let led = fs::read_to_string(to.join(".git/objects/info/alternates")).unwrap();
        assert!(led.ends_with("/.git/objects\n"), "{led}");
    }
}
