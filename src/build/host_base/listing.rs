//! What the system says of a base's files without reading them, for files that were read before.
//!
//! As with git's index: where path, kind, mode, size, inode, device and both times of every file are what they were,
//! so are the bytes. Nobody can set the time of the last change of an inode, so a file that was written since
//! makes another listing, whatever its time of modification was set to. Only two changes within one tick of the
//! system's clock look alike, so a listing is settled when its newest file is older than that.
//!
//! This is for the installation of a machine's Python, which is large and changes with the system's packages. A
//! function's files are edited, generated and checked out under all kinds of systems, and are read each time.
//! This file never knows what the answer is good for, nor the time of day: whoever asks brings it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::digest::{Digest, Hasher};
use crate::file_tree::{Content, Error, FileTree, ImagePath, Node};

/// Seconds; no file system of this world counts in larger steps.
const LONGEST_TICK: i64 = 2;

/// All that can be seen of a tree without reading its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// A digest of all that is listed.
    pub digest: Digest,
    /// When the newest file's inode was last changed, in seconds since 1970.
    newest: i64,
}

impl Listing {
    /// Lists a tree. Generated contents are part of the listing themselves.
    ///
    /// # Errors
    /// When a file is not there any more; the error names its path in the image.
    pub fn of(tree: &FileTree) -> Result<Self, Error> {
        let mut hasher = Hasher::default();
        let mut newest = i64::MIN;
        for (path, entry) in tree.iter() {
            hasher.field(path.as_str());
            match &entry.node {
                Node::Directory => hasher.field("d"),
                Node::Symlink(target) => {
                    hasher.field("l");
                    hasher.field(target);
                }
                Node::File {
                    content,
                    executable,
                } => {
                    hasher.field(if *executable { "x" } else { "f" });
                    let changed = list(path, content, &mut hasher)?;
                    newest = newest.max(changed);
                }
            }
        }
        Ok(Self {
            digest: hasher.finish(),
            newest,
        })
    }

    /// Whether every file was last changed so long before `now`, in seconds since 1970 by the system's own clock,
    /// that a later change shows.
    pub fn is_settled(&self, now: i64) -> bool {
        self.newest.saturating_add(LONGEST_TICK) < now
    }
}

/// Lists one file, and gives the second in which it was last changed.
fn list(path: &ImagePath, content: &Content, hasher: &mut Hasher) -> Result<i64, Error> {
    let read_error = |source| Error::Read {
        path: path.clone(),
        source,
    };
    let Content::File(on_disk, _) = content else {
        hasher.field(content.digest().map_err(read_error)?.as_bytes());
        return Ok(i64::MIN);
    };
    let found = fs::symlink_metadata(on_disk).map_err(read_error)?;
    hasher.field(on_disk.as_os_str().as_encoded_bytes());
    for number in [found.dev(), found.ino(), found.size()] {
        hasher.update(number.to_le_bytes());
    }
    hasher.update(found.mode().to_le_bytes());
    let modified = [found.mtime(), found.mtime_nsec()];
    let changed = [found.ctime(), found.ctime_nsec()];
    for number in [modified, changed].concat() {
        hasher.update(number.to_le_bytes());
    }
    Ok(found.ctime())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    fn tree(path: &Path, size: u64) -> FileTree {
        let mut tree = FileTree::default();
        let at = ImagePath::new("lib/os.py").unwrap();
        let content = Content::File(path.to_owned(), size);
        tree.insert_file(at, content, false, &"base".into())
            .unwrap();
        tree
    }

    /// More than one tick of any system's clock.
    fn tick() {
        thread::sleep(Duration::from_millis(30));
    }

    #[test]
    fn whatever_is_done_to_a_file_shows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("os.py");
        fs::write(&path, "old").unwrap();
        let tree = tree(&path, 3);
        let list = || Listing::of(&tree).unwrap();
        let before = list();
        tick();
        assert_eq!(list(), before);

        let metadata = fs::metadata(&path).unwrap();
        let times = FileTimes::new().set_modified(metadata.modified().unwrap());
        fs::write(&path, "new").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(times).unwrap();
        let now = fs::metadata(&path).unwrap();
        assert_eq!((now.len(), now.mtime_nsec()), (3, metadata.mtime_nsec()));
        let written = list();
        assert_ne!(written, before);

        tick();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let runs = list();
        assert_ne!(runs, written);

        tick();
        let other = directory.path().join("other");
        fs::write(&other, "new").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_ne!(list(), runs);
        fs::remove_file(&path).unwrap();
        assert!(matches!(Listing::of(&tree), Err(Error::Read { .. })));
    }

    #[test]
    fn what_was_just_written_is_not_settled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("os.py");
        fs::write(&path, "old").unwrap();
        let listing = Listing::of(&tree(&path, 3)).unwrap();
        let now = fs::metadata(&path).unwrap().ctime();
        let settled =
            [0, LONGEST_TICK, LONGEST_TICK + 1].map(|later| listing.is_settled(now + later));
        assert_eq!(settled, [false, false, true]);
    }

    #[test]
    fn what_is_no_file_of_the_machine_is_listed_as_it_is() {
        let listing = |node: Node, at: &str| {
            let mut tree = FileTree::default();
            tree.insert(ImagePath::new(at).unwrap(), node, &"base".into())
                .unwrap();
            Listing::of(&tree).unwrap()
        };
        let text = |text: &str, executable| Node::File {
            content: Content::bytes(text),
            executable,
        };
        let all = [
            listing(Node::Directory, "a"),
            listing(Node::Directory, "b"),
            listing(Node::Symlink("x".into()), "a"),
            listing(Node::Symlink("y".into()), "a"),
            listing(text("x", false), "a"),
            listing(text("y", false), "a"),
            listing(text("x", true), "a"),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one), "{n} is another's");
            assert!(one.is_settled(0));
        }
    }
}
