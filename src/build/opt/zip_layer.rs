//! A layer zip becomes a tree, as Lambda would unpack it into `/opt`.
//!
//! Of modes only whether a file may be run counts. Where the archive came from, and who uses it, is not known.

use std::path::Path;
use std::sync::Arc;

use super::Error;
use crate::file_tree::{Content, FileTree, Node};
use crate::plan::image::Extension;
use crate::zip::{self, Member};

/// No link's target is longer, in bytes.
const MAX_TARGET: u64 = 4096;

/// The members of an archive at their places.
///
/// # Errors
/// When it cannot be read, or a member has no place below `/opt`.
pub(super) fn tree(path: &Path, extension: &Extension) -> Result<FileTree, Error> {
    let owner: Arc<str> = extension.written.as_str().into();
    let mut tree = FileTree::default();
    for member in zip::open(path)? {
        let Some(name) = name(&member) else {
            continue;
        };
        let place = extension.to.join(name)?;
        let node = if member.is_directory() {
            Node::Directory
        } else if member.is_symlink() {
            Node::Symlink(target(&member)?)
        } else {
            Node::File {
                executable: may_run(&member),
                content: Content::Member(member),
            }
        };
        tree.insert(place, node, &owner)?;
    }
    Ok(tree)
}

/// Its name below the archive's root, which some archives write in front as `./`; nothing for the root itself.
fn name(member: &Member) -> Option<&str> {
    let mut name = member.name.as_str();
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    // Only the root has nothing behind it, and a member always has a name.
    (!name.is_empty() || member.name.is_empty()).then_some(name)
}

/// Whether any execute bit is set. Many write modes without saying that this is a file, and unzip takes them.
fn may_run(member: &Member) -> bool {
    member.unix_mode.is_some_and(|mode| mode & 0o111 != 0)
}

fn target(member: &Member) -> Result<String, Error> {
    let error = |source| Error::Link {
        name: member.name.clone(),
        source,
    };
    let bytes = member
        .read(MAX_TARGET)
        .map_err(|cause| error(Some(cause)))?;
    let text = String::from_utf8(bytes).ok();
    let text = text.filter(|text| !text.is_empty() && !text.contains('\0'));
    text.ok_or_else(|| error(None))
}
