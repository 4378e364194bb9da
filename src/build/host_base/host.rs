//! The machine that files are taken from: where its paths lead, link by link.
//!
//! An image needs the links as well as the files, and a test needs a machine of its own making, so
//! paths are followed here and not by the system. Knows nothing of images, Python or libraries.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::Error;

/// As many links as Linux follows in one path.
pub(super) const MOST_LINKS: usize = 40;

/// A machine, known by the directory that is its root.
pub(super) struct Host {
    root: PathBuf,
    /// What stood at each path when it was first looked at: most paths share most of their directories.
    seen: RefCell<HashMap<PathBuf, Option<Metadata>>>,
}

/// Where a path of the machine leads.
pub(super) struct Walk {
    /// Each link on the way and its target as written.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// The path without links.
    pub(super) real: PathBuf,
    /// What is there, if anything is.
    pub(super) metadata: Option<Metadata>,
}

impl Host {
    /// The machine below `root`: `/`, or what a test has built.
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            seen: RefCell::default(),
        }
    }

    /// Where a path of the machine lies for the system that this runs on.
    pub(super) fn on_disk(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Follows `path`, which is absolute, to its end.
    pub(super) fn walk(&self, path: &Path) -> Result<Walk, Error> {
        let (links, real) = follow(path, |path| self.link(path))?;
        let metadata = self.look(&real)?;
        Ok(Walk {
            links,
            real,
            metadata,
        })
    }

    fn link(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        if !self.look(path)?.is_some_and(|found| found.is_symlink()) {
            return Ok(None);
        }
        let on_disk = self.on_disk(path);
        let target = fs::read_link(&on_disk).map_err(read_error(&on_disk))?;
        Ok(Some(target))
    }

    /// What stands at a path, be it a link.
    fn look(&self, path: &Path) -> Result<Option<Metadata>, Error> {
        if let Some(found) = self.seen.borrow().get(path) {
            return Ok(found.clone());
        }
        let on_disk = self.on_disk(path);
        let found = match fs::symlink_metadata(&on_disk) {
            Ok(metadata) => Some(metadata),
            Err(error) if is_absence(&error) => None,
            Err(error) => return Err(read_error(&on_disk)(error)),
        };
        let mut seen = self.seen.borrow_mut();
        seen.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// The names in a directory, sorted.
    pub(super) fn names(&self, directory: &Path) -> Result<Vec<OsString>, Error> {
        let on_disk = self.on_disk(&self.walk(directory)?.real);
        let entries = fs::read_dir(&on_disk).map_err(read_error(&on_disk))?;
        let names: Result<Vec<_>, _> = entries.map(|entry| Ok(entry?.file_name())).collect();
        let mut names = names.map_err(read_error(&on_disk))?;
        names.sort();
        Ok(names)
    }

    /// The text of a configuration file, empty if there is none.
    pub(super) fn text(&self, path: &Path) -> Result<String, Error> {
        let on_disk = self.on_disk(&self.walk(path)?.real);
        match fs::read(&on_disk) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if is_absence(&error) => Ok(String::new()),
            Err(error) => Err(read_error(&on_disk)(error)),
        }
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn read_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Read { path, source }
}

/// Follows `path`, which is absolute, name by name; `link` tells the target where a link stands.
///
/// Returns the links met, in order, and the path without links.
pub(super) fn follow(
    path: &Path,
    link: impl Fn(&Path) -> Result<Option<PathBuf>, Error>,
) -> Result<(Vec<(PathBuf, PathBuf)>, PathBuf), Error> {
    let mut links = Vec::new();
    let mut real = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = names_of(path).collect();
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let Some(target) = link(&next)? else {
            real = next;
            continue;
        };
        if links.len() == MOST_LINKS {
            let path = path.to_owned();
            return Err(Error::Loop { path });
        }
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        rest = names_of(&target).chain(rest).collect();
        links.push((next, target));
    }
    Ok((links, real))
}

fn names_of(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_within_the_root_and_told() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        fs::create_dir_all(at.join("usr/lib/deep")).unwrap();
        fs::write(at.join("usr/lib/libz.so.1.3"), "z").unwrap();
        symlink("usr/lib", at.join("lib")).unwrap();
        symlink("/lib/libz.so.1", at.join("usr/lib/deep/libz.so")).unwrap();
        symlink("deep/../libz.so.1.3", at.join("usr/lib/libz.so.1")).unwrap();
        let host = Host::at(at);
        let walk = host.walk(Path::new("/lib/deep/libz.so")).unwrap();
        let links: Vec<_> = walk
            .links
            .iter()
            .map(|(link, target)| format!("{} -> {}", link.display(), target.display()))
            .collect();
        insta::assert_snapshot!(links.join("\n"), @r"
        /lib -> usr/lib
        /usr/lib/deep/libz.so -> /lib/libz.so.1
        /lib -> usr/lib
        /usr/lib/libz.so.1 -> deep/../libz.so.1.3
        ");
        assert_eq!(walk.real, Path::new("/usr/lib/libz.so.1.3"));
        assert_eq!(walk.metadata.map(|found| found.len()), Some(1));
        assert_eq!(host.on_disk(&walk.real), at.join("usr/lib/libz.so.1.3"));
    }

    #[test]
    fn nothing_at_the_end_is_no_error_but_a_circle_is() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        symlink("absent/file", at.join("dangling")).unwrap();
        symlink("round", at.join("round")).unwrap();
        fs::write(at.join("file"), "").unwrap();
        let host = Host::at(at);
        let walk = host.walk(Path::new("/dangling")).unwrap();
        assert_eq!(walk.real, Path::new("/absent/file"));
        assert!(walk.metadata.is_none());
        assert!(
            host.walk(Path::new("/file/below"))
                .unwrap()
                .metadata
                .is_none()
        );
        let error = host.walk(Path::new("/round")).err().unwrap();
        insta::assert_snapshot!(error, @"`/round` leads through more than 40 symbolic links");
    }
}
