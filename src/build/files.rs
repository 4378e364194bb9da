//! Files that go into the image beside the function: models, certificates, libraries.
//!
//! Whoever names one means it: no pattern leaves anything of it out, and of a directory nothing is left out but what
//! builds themselves write. What is named here by a path of the project is
//! no part of the function as well. It knows nothing of layers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::{function, own_files, real};
use crate::file_tree::{self, Content, FileTree, Node};
use crate::plan::Plan;
use crate::plan::image::{ExtraFile, Source};

/// The files, as they will stand in the image.
///
/// # Errors
/// See [`function::Error`]; also where two of them are to be at one place.
pub fn tree(plan: &Plan) -> Result<FileTree, function::Error> {
    let mut tree = FileTree::default();
    for file in &plan.files {
        let own = of(file, plan)?;
        put(&mut tree, own)?;
    }
    Ok(tree)
}

/// All files of this machine that go in beside the function, archives as they are; what cannot be listed is left out.
pub(super) fn watched(plan: &Plan) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut trees = vec![tree(plan)];
    for extension in &plan.extensions {
        match &extension.source {
            Source::Directory(directory) => trees.push(of(directory, plan)),
            Source::Zip(path) => paths.push(path.clone()),
            Source::Layer(_) | Source::Image { .. } => {}
        }
    }
    for tree in trees.into_iter().flatten() {
        let files = tree.iter().filter_map(|(_, entry)| match &entry.node {
            Node::File {
                content: Content::File(path, _),
                ..
            } => Some(path.clone()),
            _ => None,
        });
        paths.extend(files);
    }
    paths
}

/// Where these files lie, so that they are not taken for the function's.
pub(super) fn sources(plan: &Plan) -> impl Iterator<Item = PathBuf> {
    let extensions = plan.extensions.iter();
    let extensions = extensions.filter_map(|extension| match &extension.source {
        Source::Directory(file) => Some(&file.from),
        Source::Zip(path) => Some(path),
        Source::Layer(_) | Source::Image { .. } => None,
    });
    let files = plan.files.iter().map(|file| &file.from);
    files.chain(extensions).filter_map(|path| real(path))
}

/// Puts `over` over a tree in which nothing else may be at its places.
///
/// # Errors
/// See [`file_tree::Error`].
pub(super) fn put(tree: &mut FileTree, over: FileTree) -> Result<(), file_tree::Error> {
    match tree.merge(over)?.into_iter().next() {
        Some(collision) => Err(file_tree::Error::Twice(collision)),
        None => Ok(()),
    }
}

/// Whether this is what the run itself writes.
pub(super) fn writes(plan: &Plan, path: &Path) -> bool {
    let mut own = plan.own_files.iter();
    own.any(|own| real(own).is_some_and(|own| own == path))
}

/// One of them.
///
/// # Errors
/// See [`function::Error`].
pub(super) fn of(file: &ExtraFile, plan: &Plan) -> Result<FileTree, function::Error> {
    let read_error = |source| function::Error::Read {
        path: file.from.clone(),
        source,
    };
    let from = file.from.canonicalize().map_err(read_error)?;
    if !file.may_be_outside && !from.starts_with(&plan.project) {
        return Err(function::Error::LeavesProject {
            path: file.from.clone(),
            target: from,
        });
    }
    if writes(plan, &from) {
        return Err(function::Error::OwnOutput(from));
    }
    let owner: Arc<str> = format!("`{}`", file.written).into();
    let mut tree = FileTree::default();
    let metadata = fs::metadata(&from).map_err(read_error)?;
    if metadata.is_dir() {
        tree.insert(file.to.clone(), Node::Directory, &owner)?;
        // What a run writes there would move the next one's image.
        let mut skip = own_files(plan);
        skip.extend(plan.locks.iter().filter_map(|lock| real(lock)));
        function::whole_directory(&from, &file.to, &owner, &skip, &mut tree)?;
        return Ok(match file.executable {
            Some(executable) => with_mode(&tree, executable, &owner)?,
            None => tree,
        });
    }
    if !metadata.is_file() {
        return Err(function::Error::Special(file.from.clone()));
    }
    let to = if file.into {
        let name = file.from.file_name().unwrap_or_default().to_str();
        let name = name.ok_or_else(|| function::Error::Name(file.from.clone()))?;
        file.to.join(name)?
    } else {
        file.to.clone()
    };
    let own = metadata.permissions().mode() & 0o111 != 0;
    let content = Content::File(from, metadata.len());
    tree.insert_file(to, content, file.executable.unwrap_or(own), &owner)?;
    Ok(tree)
}

/// The same with this mode for all files.
fn with_mode(
    tree: &FileTree,
    executable: bool,
    owner: &Arc<str>,
) -> Result<FileTree, file_tree::Error> {
    let mut again = FileTree::default();
    for (path, entry) in tree.iter() {
        let node = match &entry.node {
            Node::File { content, .. } => Node::File {
                content: content.clone(),
                executable,
            },
            other => other.clone(),
        };
        again.insert(path.clone(), node, owner)?;
    }
    Ok(again)
}
