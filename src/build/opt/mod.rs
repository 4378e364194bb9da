//! What `/opt` is given: directories, layers' archives and parts of other images, in the project's order.
//!
//! An image can have no layers of Lambda's attached to it, so what they bring goes into it here, each in layers of its
//! own. Later ones go over earlier ones. What an extension does, and what Lambda asks of one, is not known.

mod from_aws;
mod from_image;
mod zip_layer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::aws;
use crate::build::earlier::Key;
use crate::build::{Error as BuildError, Known, Tools, files, function, real};
use crate::digest::{Digest, Mismatch};
use crate::file_tree::{self, FileTree, ImagePath, Node, PathError};
use crate::lambda::{ENTRY_POINT, RUNTIME_DIR};
use crate::oci::layer::Layer;
use crate::oci::reference::Reference;
use crate::oci::{self, layout};
use crate::plan::Plan;
use crate::plan::image::{Extension, Source};
use crate::progress::Progress;
use crate::python::fetch;
use crate::registry;
use crate::zip;

/// As many places are told where one goes over another.
const TOLD: usize = 5;

/// Why something cannot be given to an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be read.
    #[error(transparent)]
    Zip(#[from] zip::Error),
    /// A member's name is no path below `/opt`.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Two parts of it contradict each other.
    #[error(transparent)]
    Tree(#[from] file_tree::Error),
    /// A link's target cannot be read.
    #[error("its link `{name}` leads nowhere that can be read")]
    Link {
        /// The member.
        name: String,
        /// Why.
        source: Option<io::Error>,
    },
    /// The image has nothing there.
    #[error("it has nothing at `/{0}`")]
    Nothing(String),
    /// There is something that no function has a use for.
    #[error("its `/{0}` is neither a file nor a directory nor a link")]
    Special(String),
    /// A layer of it is not what it should be.
    #[error("its layer {0} {1}")]
    Layer(Digest, String),
    /// The image is for other platforms.
    #[error(transparent)]
    Platform(oci::Error),
    /// AWS does not say what the layer is.
    #[error(transparent)]
    Aws(#[from] aws::Error),
    /// The bytes are not those of the layer's archive.
    #[error("`{file}` of {layer} from {from} is not the file that AWS says it is: {mismatch}")]
    Archive {
        /// The layer.
        layer: String,
        /// A name for its archive.
        file: String,
        /// Where it came from, without secrets.
        from: String,
        /// The difference.
        mismatch: Mismatch,
    },
    /// The layer's archive cannot be had.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// Something cannot be read or written.
    #[error("cannot use `{}`", path.display())]
    File {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One layer, and what is in it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) layer: Layer,
    pub(super) key: Key,
    pub(super) what: String,
    /// A repository that has it too.
    pub(super) origin: Option<Reference>,
    paths: Vec<String>,
}

impl Given {
    /// Its files and links, below the root.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }
}

/// Makes or fetches the layers, lowest first.
///
/// # Errors
/// Those of files, registries and places; [`BuildError::Extension`].
pub(super) async fn layers(plan: &Arc<Plan>, tools: &Tools) -> Result<Vec<Given>, BuildError> {
    let mut all: Vec<(&str, Given)> = Vec::new();
    for extension in &plan.extensions {
        let more = of(extension, plan, tools).await?;
        tell_replaced(&all, &extension.written, &more, &tools.progress);
        all.extend(more.into_iter().map(|given| (&*extension.written, given)));
    }
    Ok(all.into_iter().map(|(_, given)| given).collect())
}

/// Has the lock decide which images and layers they are.
///
/// # Errors
/// Those of registries and places, and of a lock that must not change.
pub(super) async fn pin(plan: &Plan, tools: &Tools) -> Result<(), BuildError> {
    for extension in &plan.extensions {
        match &extension.source {
            Source::Image { from, .. } => {
                from_image::resolve(extension, from, plan, tools).await?;
            }
            Source::Layer(arn) => {
                from_aws::resolve(arn, extension, plan, tools).await?;
            }
            Source::Directory(_) | Source::Zip(_) => {}
        }
    }
    Ok(())
}

async fn of(
    extension: &Extension,
    plan: &Arc<Plan>,
    tools: &Tools,
) -> Result<Vec<Given>, BuildError> {
    let tree = match &extension.source {
        Source::Image { from, path } => {
            return from_image::layers(extension, from, path, plan, tools).await;
        }
        Source::Directory(directory) => {
            let (plan, directory) = (Arc::clone(plan), directory.clone());
            tools.block(move || files::of(&directory, &plan)).await??
        }
        Source::Zip(path) => {
            if real(path).is_some_and(|path| files::writes(plan, &path)) {
                return Err(function::Error::OwnOutput(path.clone()).into());
            }
            unpacked(path, extension, tools).await?
        }
        Source::Layer(arn) => {
            let digest = from_aws::fetch(arn, extension, plan, tools).await?;
            unpacked(&tools.store.path(&digest), extension, tools).await?
        }
    };
    Ok(vec![given(tree, extension, plan, tools).await?])
}

async fn unpacked(
    path: &Path,
    extension: &Extension,
    tools: &Tools,
) -> Result<FileTree, BuildError> {
    let (path, own) = (path.to_owned(), extension.clone());
    let tree = tools.block(move || zip_layer::tree(&path, &own)).await?;
    let tree = tree.map_err(|error| wrong(extension, error))?;
    tell_unrunnable(&tree, extension, &tools.progress);
    Ok(tree)
}

/// The layer of what is at these places.
async fn given(
    tree: FileTree,
    extension: &Extension,
    plan: &Plan,
    tools: &Tools,
) -> Result<Given, BuildError> {
    let what = what(extension);
    let paths = tree.iter();
    let paths = paths.filter(|(_, entry)| !matches!(entry.node, Node::Directory));
    let paths = paths.map(|(path, _)| path.as_str().to_owned()).collect();
    let options = plan.layer_options();
    let made = tools.layer_of(plan, options, tree, Known::default(), &what);
    let (layer, key) = made.await?;
    Ok(Given {
        layer,
        key,
        what,
        origin: None,
        paths,
    })
}

/// What the image's history says of it.
fn what(extension: &Extension) -> String {
    match &extension.source {
        Source::Layer(arn) => format!("extension {}", arn.name()),
        _ => format!("extension {}", extension.written),
    }
}

fn wrong(extension: &Extension, source: impl Into<Error>) -> BuildError {
    BuildError::Extension {
        written: extension.written.clone(),
        source: source.into(),
    }
}

/// What went wrong with an extension's image, told of the extension where the image is for other platforms.
pub(super) fn unfit(error: BuildError, extension: &Extension) -> BuildError {
    let is_other = |error: &oci::Error| {
        matches!(
            error,
            oci::Error::Architecture { .. } | oci::Error::OtherArchitecture { .. }
        )
    };
    match error {
        BuildError::Document(source)
        | BuildError::Layout(layout::Error::Document(source))
        | BuildError::Registry(registry::Error::Document { source, .. })
            if is_other(&source) =>
        {
            wrong(extension, Error::Platform(source))
        }
        other => other,
    }
}

/// Says where files go over those of others that came before.
fn tell_replaced(before: &[(&str, Given)], written: &str, given: &[Given], progress: &Progress) {
    let there = before
        .iter()
        .flat_map(|(owner, given)| given.paths().map(|path| (path, *owner)));
    let paths = given.iter().flat_map(Given::paths);
    tell("extensions", written, &there.collect(), paths, progress);
}

/// Says where the project's files go over those of extensions, and over what starts the function.
pub(super) fn tell_covered(extensions: &[Given], files: &FileTree, progress: &Progress) {
    let there = extensions.iter().flat_map(|given| {
        let owner = given.what.strip_prefix("extension ").unwrap_or(&given.what);
        given.paths().map(move |path| (path, owner))
    });
    let paths = files
        .iter()
        .filter(|(_, entry)| !matches!(entry.node, Node::Directory));
    let paths: Vec<_> = paths.map(|(path, _)| path.as_str()).collect();
    let own = paths.iter().copied();
    tell("files", "`files`", &there.collect(), own, progress);
    let is_lambdas = |path: &&&str| {
        **path == ENTRY_POINT || is_below(path, RUNTIME_DIR) || is_below(RUNTIME_DIR, path)
    };
    for path in paths.iter().filter(is_lambdas).take(TOLD) {
        progress.warn(format!(
            "/{path} of `files` goes over what starts the function"
        ));
    }
}

/// Whether a path is this one or below it.
fn is_below(path: &str, root: &str) -> bool {
    let rest = path.strip_prefix(root);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Says what is `there`, by its path and owner, and no more behind these paths: what is at one, below one that is no
/// directory any more, or was none itself.
fn tell<'a>(
    room: &str,
    written: &str,
    there: &BTreeMap<&str, &str>,
    paths: impl Iterator<Item = &'a str>,
    progress: &Progress,
) {
    let mut told = BTreeSet::new();
    for path in paths {
        if let Some(owner) = there.get(path) {
            told.insert(format!(
                "/{path} of {owner} is replaced by that of {written}"
            ));
        }
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        told.extend(above.filter_map(|above| {
            let owner = there.get(above)?;
            Some(format!(
                "/{above} of {owner} is replaced by a directory of {written}"
            ))
        }));
        // The character behind the slash.
        let (first, end) = (format!("{path}/"), format!("{path}0"));
        let mut hidden: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, owner) in there.range(&*first..&*end) {
            *hidden.entry(owner).or_default() += 1;
        }
        told.extend(hidden.into_iter().map(|(owner, count)| {
            let files = if count == 1 { "file" } else { "files" };
            format!("/{path} of {written} hides a directory of {owner} with {count} {files}")
        }));
    }
    for line in told.iter().take(TOLD) {
        progress.step(format!("{room}: {line}"));
    }
    if let Some(more) = told.len().checked_sub(TOLD).filter(|more| *more > 0) {
        progress.step(format!(
            "{room}: {more} more places are replaced by those of {written}"
        ));
    }
}

/// Warns of programs that nobody can start: an archive may have no modes at all.
fn tell_unrunnable(tree: &FileTree, extension: &Extension, progress: &Progress) {
    let directory = ImagePath::new("opt/extensions").ok();
    for (path, entry) in tree.iter() {
        let is_file = matches!(
            entry.node,
            Node::File {
                executable: false,
                ..
            }
        );
        if is_file && path.parent() == directory {
            progress.warn(format!(
                "{path} of {} has no execute bit, and Lambda cannot start it: set it with `chmod 0755` before the \
                 archive is made",
                extension.written
            ));
        }
    }
}
