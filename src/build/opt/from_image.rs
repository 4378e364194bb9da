//! A part of another image: its layers as they are where they have nothing else in them, else its files once more.
//!
//! The image is read as what all its layers leave. Which image it is the lock decides, as it does the base. What
//! the files are good for is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Error, Given, given, unfit, what, wrong};
use crate::blob_store::{BlobStore, UNFINISHED};
use crate::build::earlier::Key;
use crate::build::pinning::Pinning;
use crate::build::{Error as BuildError, Tools, base, bring_here};
use crate::file_tree::{Content, FileTree, ImagePath, Node};
use crate::oci::flatten::{self, Kind, Missing, Packing, Reader, Tree};
use crate::oci::image::Image;
use crate::oci::layer::{self, Layer};
use crate::oci::{Descriptor, layout};
use crate::plan::Plan;
use crate::plan::image::{Elsewhere, Extension};

/// How a name begins that removes something of lower layers.
const WHITEOUT: &str = ".wh.";

/// A layer with where its file went.
type Read = flatten::Layer<io::Result<PathBuf>>;

/// A layer that is known to be what is wanted, and its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    layer: Layer,
    /// What it was made for, where it was made here.
    key: Option<Key>,
    paths: Vec<String>,
}

/// What an image has at a path.
enum Part {
    /// Layers of nothing else.
    Whole(Vec<Kept>),
    /// Files, which lie in a directory as long as that is there.
    Files(FileTree, TempDir),
}

/// The layers of what an image has at `path`.
///
/// # Errors
/// Those of registries and places; [`BuildError::Extension`].
pub(super) async fn layers(
    extension: &Extension,
    from: &Elsewhere,
    path: &ImagePath,
    plan: &Arc<Plan>,
    tools: &Tools,
) -> Result<Vec<Given>, BuildError> {
    let image = resolve(extension, from, plan, tools).await?;
    let options = plan.layer_options();
    let manifest = image.manifest.digest();
    let inputs = [
        &b"part 3"[..],
        manifest.as_bytes(),
        path.as_str().as_bytes(),
        extension.to.as_str().as_bytes(),
        &[u8::from(extension.into)],
    ];
    let memo = layer::memo_key(options, inputs);
    let known = tools.store.recall::<Vec<Kept>>(&memo);
    let is_there = |kept: &Kept| {
        let Layer { digest, size, .. } = kept.layer;
        tools.store.contains(&digest, size) || image.origins.contains_key(&digest)
    };
    let known = known.filter(|all| all.iter().all(is_there) && !plan.policy.no_cache);
    let kept = if let Some(kept) = known {
        kept
    } else {
        bring_here(&image, tools).await?;
        let (owned, store) = (image.clone(), tools.store.clone());
        let (path, own) = (path.clone(), extension.clone());
        let work = move || part(&owned, &path, &own, &store);
        let part = tools.block(work).await?;
        let kept = match part.map_err(|error| wrong(extension, error))? {
            Part::Whole(kept) => kept,
            Part::Files(tree, files) => {
                let made = given(tree, extension, plan, tools).await?;
                drop(files);
                vec![Kept {
                    layer: made.layer,
                    key: Some(made.key),
                    paths: made.paths,
                }]
            }
        };
        tools.store.remember(&memo, &kept)?;
        kept
    };
    let taken_over = |layer: &Layer| {
        Key::from(&layer::memo_key(
            options,
            [b"part", &layer.digest.as_bytes()[..]],
        ))
    };
    let layers = kept.into_iter().map(|Kept { layer, key, paths }| Given {
        key: key.unwrap_or_else(|| taken_over(&layer)),
        what: what(extension),
        origin: image.origins.get(&layer.digest).cloned(),
        layer,
        paths,
    });
    Ok(layers.collect())
}

/// The image's documents, as the lock decides which image it is.
///
/// # Errors
/// Those of registries and places, and of a lock that must not change; [`BuildError::Extension`].
pub(super) async fn resolve(
    extension: &Extension,
    from: &Elsewhere,
    plan: &Plan,
    tools: &Tools,
) -> Result<Image, BuildError> {
    let found = documents(from, plan, tools).await;
    found.map_err(|error| unfit(error, extension))
}

async fn documents(from: &Elsewhere, plan: &Plan, tools: &Tools) -> Result<Image, BuildError> {
    let key = Pinning::extension_key(plan, from);
    match from {
        Elsewhere::Registry(reference) => base::pinned(plan, &key, reference, tools).await,
        Elsewhere::Place(place) => {
            let (place, store) = (place.clone(), tools.store.clone());
            let architecture = plan.architecture.oci();
            let read = move || layout::read(&place, Some(architecture), &store);
            let image = tools.block(read).await??;
            let found = base::found_in(&image, plan);
            tools.pins.settle_image(plan, &key, None, found)?;
            Ok(image)
        }
    }
}

fn part(
    image: &Image,
    path: &ImagePath,
    extension: &Extension,
    store: &BlobStore,
) -> Result<Part, Error> {
    let stated = &image.manifest.layers;
    let open = |number: usize| File::open(store.path(&stated[number].digest));
    let mut layers: Vec<Read> = Vec::new();
    for (number, read) in flatten::read_all(stated, open, |_, _| None)
        .into_iter()
        .enumerate()
    {
        let layer = read.map_err(|source| Error::File {
            path: store.path(&stated[number].digest),
            source,
        })?;
        prove(&layer, image, number)?;
        layers.push(layer);
    }
    let tree = Tree::new(&layers);
    let real = tree.resolve(path.as_str(), &layers).map_err(|missing| {
        let (Missing::Nothing(at) | Missing::Loop(at)) = missing;
        Error::Nothing(at)
    })?;
    if *path == extension.to
        && real == path.as_str()
        && let Some(whole) = whole(&layers, &tree, &real)
    {
        return Ok(Part::Whole(whole));
    }
    files(&layers, &tree, &real, path, extension, store)
}

fn prove(layer: &Read, image: &Image, number: usize) -> Result<(), Error> {
    let stated = layer.stated.digest;
    let wrong = |why: &str| Error::Layer(stated, why.to_owned());
    if layer.digest != stated {
        return Err(wrong("has other bytes"));
    }
    if let Some(damage) = &layer.damage {
        return Err(Error::Layer(stated, format!("is damaged: {damage}")));
    }
    match layer.diff_id {
        None => Err(wrong("is packed in a way that is not read")),
        Some(found) if image.config.diff_ids.get(number) == Some(&found) => Ok(()),
        Some(_) => Err(wrong("has another tar than the config says")),
    }
}

/// The layers that have something below a directory, if each has nothing else and all of it counts.
fn whole(layers: &[Read], tree: &Tree, directory: &str) -> Option<Vec<Kept>> {
    let prefix = format!("{directory}/");
    let mut kept = Vec::new();
    let mut all = BTreeSet::new();
    for layer in layers {
        let touches = |path: &String| path == directory || path.starts_with(&prefix);
        if !layer
            .entries
            .iter()
            .map(flatten::Entry::path)
            .any(|path| touches(&path))
        {
            continue;
        }
        if layer.packing != Packing::Gzip(1) || layer.trailing > 0 {
            return None;
        }
        let mut paths = Vec::new();
        let mut seen = BTreeSet::new();
        for entry in &layer.entries {
            let path = entry.path();
            let is_below = path.starts_with(&prefix);
            let is_on_the_way =
                path.is_empty() || path == directory || prefix.starts_with(&format!("{path}/"));
            let fits = match entry.kind {
                Kind::Directory if is_below => entry.mode & 0o7555 == 0o555,
                Kind::Directory => {
                    is_on_the_way && entry.mode == 0o755 && (entry.uid, entry.gid) == (0, 0)
                }
                Kind::File => is_below && entry.mode & 0o7444 == 0o444,
                Kind::Symlink => is_below,
                _ => false,
            };
            if !fits || path.contains(WHITEOUT) || path.contains("..") || !seen.insert(path.clone())
            {
                return None;
            }
            if entry.kind != Kind::Directory {
                all.insert(path.clone());
                paths.push(path);
            }
        }
        kept.push(Kept {
            layer: Layer {
                digest: layer.digest,
                size: layer.size,
                diff_id: layer.diff_id?,
            },
            key: None,
            paths,
        });
    }
    let is_file = |path: &&str| {
        let found = tree.get(path, layers);
        found.is_some_and(|found| found.entry.kind != Kind::Directory)
    };
    // What an upper layer hid is not to come back.
    let counted = tree.paths_below(directory).filter(is_file);
    let is_all = counted.map(str::to_owned).collect::<BTreeSet<_>>() == all;
    (is_all && !kept.is_empty()).then_some(kept)
}

/// The files at a path as a tree; `real` is where the path that was asked for leads.
fn files(
    layers: &[Read],
    tree: &Tree,
    real: &str,
    asked: &ImagePath,
    extension: &Extension,
    store: &BlobStore,
) -> Result<Part, Error> {
    let entry = tree.get(real, layers).map(|found| found.entry);
    let is_directory = entry.is_none_or(|entry| entry.kind == Kind::Directory);
    let to = if extension.into && !is_directory {
        let name = asked.as_str().rsplit('/').next().unwrap_or_default();
        extension.to.join(name)?
    } else {
        extension.to.clone()
    };
    let paths = std::iter::once(real).chain(tree.paths_below(real));
    let mut wanted: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for path in paths {
        let entry = tree.get(path, layers);
        if let Some(flatten::Found { layer, entry }) = entry
            && entry.kind == Kind::File
        {
            wanted.entry(layer).or_default().insert(&entry.name);
        }
        found.push((path, entry));
    }
    let directory = room(store)?;
    let files = spool(layers, &wanted, directory.path(), store)?;
    let owner: Arc<str> = extension.written.as_str().into();
    let mut out = FileTree::default();
    for (path, found) in found {
        let below = path[real.len()..].trim_start_matches('/');
        let place = if below.is_empty() {
            to.clone()
        } else {
            to.join(below)?
        };
        let special = || Error::Special(path.to_owned());
        let node = match found {
            None => Node::Directory,
            Some(flatten::Found { layer, entry }) => match entry.kind {
                Kind::Directory => Node::Directory,
                Kind::Symlink => {
                    Node::Symlink(entry.target.as_deref().unwrap_or_default().to_owned())
                }
                Kind::File => {
                    let file = files.get(&(layer, &*entry.name)).ok_or_else(special)?;
                    Node::File {
                        content: Content::File(file.clone(), entry.size),
                        executable: entry.mode & 0o111 != 0,
                    }
                }
                _ => return Err(special()),
            },
        };
        out.insert(place, node, &owner)?;
    }
    Ok(Part::Files(out, directory))
}

/// A directory that goes when it is not needed any more.
fn room(store: &BlobStore) -> Result<TempDir, Error> {
    let trees = store.trees();
    let made = fs::create_dir_all(&trees).and_then(|()| {
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED).tempdir_in(&trees)
    });
    made.map_err(|source| Error::File {
        path: trees,
        source,
    })
}

/// Writes the contents of entries into files, each under a number.
fn spool<'a>(
    layers: &'a [Read],
    wanted: &BTreeMap<usize, BTreeSet<&'a str>>,
    directory: &Path,
    store: &BlobStore,
) -> Result<BTreeMap<(usize, &'a str), PathBuf>, Error> {
    let next = AtomicUsize::new(0);
    let mut files = BTreeMap::new();
    for (number, names) in wanted {
        let stated: &Descriptor = &layers[*number].stated;
        let reader = |entry: &flatten::Entry<io::Result<PathBuf>>| {
            let path = directory.join(next.fetch_add(1, Ordering::Relaxed).to_string());
            let is_wanted = names.contains(&*entry.name);
            is_wanted
                .then(|| Box::new(Spool::new(path)) as Box<dyn Reader<Seen = io::Result<PathBuf>>>)
        };
        let blob = store.path(&stated.digest);
        let error = |source| Error::File {
            path: blob.clone(),
            source,
        };
        let read = File::open(&blob).and_then(|blob| flatten::read(stated, blob, reader));
        for entry in read.map_err(error)?.entries {
            let Some(name) = names.get(&*entry.name) else {
                continue;
            };
            if let Some(seen) = entry.seen {
                files.insert((*number, *name), seen.map_err(error)?);
            }
        }
    }
    Ok(files)
}

/// Writes one file.
struct Spool {
    path: PathBuf,
    file: io::Result<File>,
}

impl Spool {
    fn new(path: PathBuf) -> Self {
        let file = File::create_new(&path);
        Self { path, file }
    }
}

impl Reader for Spool {
    type Seen = io::Result<PathBuf>;

    fn bytes(&mut self, bytes: &[u8]) {
        if let Ok(file) = &mut self.file
            && let Err(error) = file.write_all(bytes)
        {
            self.file = Err(error);
        }
    }

    fn end(self: Box<Self>) -> Self::Seen {
        let Self { path, file } = *self;
        file.map(|_| path)
    }
}
