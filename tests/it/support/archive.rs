//! A tree of files made in code, and the layer that it becomes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::digest;

enum Entry {
    Directory(u32),
    File(Vec<u8>, u32),
    Link(String),
}

/// Paths without a leading slash; parents come by themselves and before their children.
#[derive(Default)]
pub(crate) struct Tree(BTreeMap<String, Entry>);

/// A layer's compressed bytes, and the digest of what they hold.
pub(crate) struct Layer {
    pub(crate) content: Vec<u8>,
    pub(crate) diff_id: String,
}

impl Tree {
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> &mut Tree {
        self.parents(path);
        self.0.insert(path.to_owned(), Entry::Directory(mode));
        self
    }

    pub(crate) fn file(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> &mut Tree {
        self.parents(path);
        self.0
            .insert(path.to_owned(), Entry::File(content.into(), mode));
        self
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> &mut Tree {
        self.parents(path);
        self.0
            .insert(path.to_owned(), Entry::Link(target.to_owned()));
        self
    }

    /// A file of this machine, followed if it is a link; only whether it may be executed is taken over.
    pub(crate) fn copy(&mut self, path: &str, source: &Path) -> &mut Tree {
        let content =
            fs::read(source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let mode = fs::metadata(source)
            .expect("the file was just read")
            .permissions()
            .mode();
        self.file(path, content, if mode & 0o100 == 0 { 0o644 } else { 0o755 })
    }

    /// All files below a directory of this machine, without the names that `leave_out` picks.
    pub(crate) fn copy_all(
        &mut self,
        path: &str,
        source: &Path,
        leave_out: &dyn Fn(&str) -> bool,
    ) -> &mut Tree {
        self.directory(path, 0o755);
        for entry in
            fs::read_dir(source).unwrap_or_else(|error| panic!("{}: {error}", source.display()))
        {
            let entry = entry.expect("a directory can be read");
            let name = entry.file_name().into_string().expect("names are text");
            if leave_out(&name) {
                continue;
            }
            let below = format!("{path}/{name}");
            if entry.path().is_dir() {
                self.copy_all(&below, &entry.path(), leave_out);
            } else {
                self.copy(&below, &entry.path());
            }
        }
        self
    }

    pub(crate) fn layer(&self) -> Layer {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let written = match entry {
                Entry::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), &[][..])
                }
                Entry::File(content, mode) => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, path, content.as_slice())
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, target)
                }
            };
            written.unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        let tar = archive.into_inner().expect("memory takes everything");
        // The lowest level: bases are made once and read on loopback.
        let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
        compressed.write_all(&tar).expect("memory takes everything");
        Layer {
            content: compressed.finish().expect("memory takes everything"),
            diff_id: digest(&tar),
        }
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.0
                .entry(path[..end].to_owned())
                .or_insert(Entry::Directory(0o755));
        }
    }
}
