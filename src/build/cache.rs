//! The store as a whole: what lies in it, and what of it may go.
//!
//! Images that have names need their blobs; all else is there only so that it need not be made or fetched
//! again. What goes is decided in pure functions and then removed by whoever has the store alone. It does
//! not know what anything in the store is good for beyond that.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde_json::Value;

use crate::blob_store::{self, Alone, Answer, BlobStore, Held, Inventory};
use crate::build::{Error, Tools, origin_key, sbom};
use crate::digest::Digest;
use crate::file_tree;
use crate::oci::{Document, layout};
use crate::progress::Progress;

/// The kind of the answers that are layers made here.
const MADE: &str = "layer";
/// Where answers of a kind name the blob without which they are worth nothing.
const NAMING: [(&str, &str); 5] = [
    (MADE, "digest"),
    ("built", "digest"),
    ("base", "manifest"),
    ("bytecode", "digest"),
    ("materials", "layer"),
];

/// An image of the store that has a name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name; other tools may have put images there that have none.
    pub name: Option<String>,
    /// Its manifest.
    pub manifest: Digest,
    /// All its blobs, be they in the store or not.
    pub blobs: BTreeSet<Digest>,
    /// Whether a document of it is gone or damaged, so that nobody can say what it needs.
    pub broken: bool,
}

/// What lies in a store.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The images, in the order of the index.
    pub images: Vec<Named>,
    /// Blobs that are layers made here.
    pub made: BTreeSet<Digest>,
    /// The files.
    pub files: Inventory,
}

impl Contents {
    /// Looks at a store, which need not be there.
    ///
    /// # Errors
    /// When a directory, the index or an image's document cannot be read.
    pub fn of(store: &BlobStore) -> Result<Self, Error> {
        // To look at something is not to use it.
        let store = BlobStore::at(store.root());
        let images = |listed: Vec<layout::Listed>| -> Result<Vec<_>, Error> {
            listed.iter().map(|image| named(image, &store)).collect()
        };
        let files = Inventory::of(&store)?;
        let listed = layout::list(store.root())?;
        let made = files.answers.iter().filter(|answer| answer.kind == MADE);
        let made = made.filter_map(blob_of);
        Ok(Self {
            images: images(listed)?,
            made: made.filter(|blob| files.blobs.contains_key(blob)).collect(),
            files,
        })
    }

    /// Bytes of these blobs, as far as they are here.
    pub fn bytes<'a>(&self, blobs: impl IntoIterator<Item = &'a Digest>) -> u64 {
        let held = blobs
            .into_iter()
            .filter_map(|blob| self.files.blobs.get(blob));
        held.map(|held| held.size).sum()
    }

    /// When an image was last used, as its manifest says.
    fn used(&self, image: &Named) -> SystemTime {
        let manifest = self.files.blobs.get(&image.manifest);
        manifest.map_or(SystemTime::UNIX_EPOCH, |held| held.used)
    }

    fn needed(&self, is_kept: impl Fn(&Named) -> bool) -> BTreeSet<Digest> {
        let kept = self.images.iter().filter(|image| is_kept(image));
        kept.flat_map(|image| image.blobs.iter().copied()).collect()
    }
}

/// An image with what it needs; one that another tool put there may be an index of several.
fn named(listed: &layout::Listed, store: &BlobStore) -> Result<Named, Error> {
    let mut image = Named {
        name: listed.name.clone(),
        manifest: listed.manifest,
        blobs: BTreeSet::new(),
        broken: false,
    };
    image.blobs.insert(listed.descriptor.digest);
    let mut documents = vec![(listed.manifest, true)];
    while let Some((digest, is_whole)) = documents.pop() {
        if !image.blobs.insert(digest) && digest != listed.manifest {
            continue;
        }
        let raw = match store.look(&digest) {
            Ok(raw) => raw,
            // Tools take one platform's image over and leave the index as it was.
            Err(blob_store::Error::Missing(_)) if !is_whole => continue,
            Err(blob_store::Error::Missing(_) | blob_store::Error::Damaged(_)) => {
                image.broken = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match Document::read(raw, None) {
            Ok(Document::Manifest(manifest)) => {
                image.blobs.insert(manifest.config.digest);
                let layers = manifest.layers.iter();
                image.blobs.extend(layers.map(|layer| layer.digest));
            }
            Ok(Document::Index(index)) => {
                let entries = index.entries.iter();
                documents.extend(entries.map(|entry| (entry.descriptor.digest, false)));
            }
            // Something of another tool that is no image.
            Err(_) => {}
        }
    }
    Ok(image)
}

/// The blob that an answer is worth nothing without.
fn blob_of(answer: &Answer) -> Option<Digest> {
    let (_, field) = NAMING.iter().find(|(kind, _)| *kind == answer.kind)?;
    answer.read::<Value>()?[field].as_str()?.parse().ok()
}

/// Where logins for registries are kept in the store's directory.
pub const LOGIN: &str = "login";

/// What is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// What no named image needs.
    Unneeded {
        /// Made layers alone.
        only_made_layers: bool,
        /// Only what was not used since; then images, too, lose names that were not used since.
        unused_since: Option<SystemTime>,
    },
    /// Everything.
    All,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Names of images.
    pub names: Vec<String>,
    /// Number of blobs.
    pub blobs: usize,
    /// Number of answers.
    pub answers: usize,
    /// Number of unpacked layers.
    pub trees: usize,
    /// Number of unfinished files and such.
    pub strays: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What is going to be removed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Doomed {
    names: BTreeSet<Option<String>>,
    blobs: BTreeSet<Digest>,
    /// Unpacked layers: whatever needs one can make it again from its blob.
    trees: BTreeSet<Digest>,
    /// Answers not used since then go too, unless named images need them.
    answers_until: Option<SystemTime>,
    every_answer: bool,
}

/// Removes what the selection says, as soon as nobody else has the store open.
///
/// # Errors
/// When something cannot be read or removed; what went before that is gone.
pub fn prune(store: &BlobStore, selection: Selection, progress: &Progress) -> Result<Freed, Error> {
    let alone = store.alone(|| {
        let root = store.root().display();
        let others: Vec<_> = store.others().iter().map(ToString::to_string).collect();
        let others = match &others[..] {
            [] => String::new(),
            [one] => format!(": the process {one}"),
            several => format!(": the processes {}", several.join(", ")),
        };
        progress.step(format!(
            "waiting for others that use the store `{root}`{others}"
        ));
    })?;
    if !store.is_locked() {
        let root = store.root().display();
        progress.warn(format!(
            "the file system of `{root}` has no locks: what another lambimg uses there now may be removed"
        ));
    }
    let contents = Contents::of(store)?;
    for image in contents.images.iter().filter(|image| image.broken) {
        let name = image.name.as_deref().unwrap_or("one without a name");
        progress.warn(format!(
            "the image {name} is damaged and loses its name: build it again"
        ));
    }
    if selection == Selection::All {
        alone.remove_beside(LOGIN)?;
    }
    remove(&alone, &contents, &selected(&contents, selection))
}

/// Removes what was not used for longest until the store has no more than `limit` bytes: first what killed
/// processes have left, then what no named image needs, then names with what they need; never what `store` was
/// used for since it was opened. Does nothing if that brought nothing new, or if others have the store open now.
///
/// # Errors
/// When something cannot be read or removed; what went before that is gone.
pub fn keep_below(store: &BlobStore, limit: u64) -> Result<Freed, Error> {
    if store.written() == 0 {
        return Ok(Freed::default());
    }
    let used = store.used();
    let Some(alone) = store.alone_now() else {
        return Ok(Freed::default());
    };
    let contents = Contents::of(store)?;
    let doomed = beyond(&contents, limit, &used);
    if doomed == Doomed::default() && contents.files.strays.is_empty() {
        return Ok(Freed::default());
    }
    remove(&alone, &contents, &doomed)
}

fn selected(contents: &Contents, selection: Selection) -> Doomed {
    let (only_made_layers, unused_since) = match selection {
        Selection::All => {
            return Doomed {
                names: contents
                    .images
                    .iter()
                    .map(|image| image.name.clone())
                    .collect(),
                blobs: contents.files.blobs.keys().copied().collect(),
                trees: contents.files.trees.keys().copied().collect(),
                answers_until: None,
                every_answer: true,
            };
        }
        Selection::Unneeded {
            only_made_layers,
            unused_since,
        } => (only_made_layers, unused_since),
    };
    // What was noted so long ago may have been used since.
    let surely = |since: SystemTime| since.checked_sub(blob_store::RENEWED_AFTER);
    let unused_since = unused_since.map(|since| surely(since).unwrap_or(SystemTime::UNIX_EPOCH));
    let is_old = |used: SystemTime| unused_since.is_none_or(|since| used < since);
    let loses_name = |image: &Named| {
        let old = unused_since.is_some() && is_old(contents.used(image));
        !only_made_layers && (old || image.broken)
    };
    let needed = contents.needed(|image| !loses_name(image));
    let goes = |blob: &Digest, held: &Held| {
        let selected = !only_made_layers || contents.made.contains(blob);
        selected && is_old(held.used) && !needed.contains(blob)
    };
    let blobs = contents.files.blobs.iter();
    let losing = contents.images.iter().filter(|image| loses_name(image));
    let trees = contents.files.trees.iter();
    Doomed {
        names: losing.map(|image| image.name.clone()).collect(),
        blobs: blobs
            .filter(|(blob, held)| goes(blob, held))
            .map(|(blob, _)| *blob)
            .collect(),
        trees: trees
            .filter(|(_, held)| is_old(held.used))
            .map(|(tree, _)| *tree)
            .collect(),
        answers_until: unused_since.filter(|_| !only_made_layers),
        every_answer: false,
    }
}

fn beyond(contents: &Contents, limit: u64, in_use: &BTreeSet<Digest>) -> Doomed {
    let mut doomed = Doomed::default();
    let strays: u64 = contents.files.strays.values().sum();
    let mut left = contents.files.bytes() - strays;
    let idle = |tree: &&Digest| !in_use.contains(*tree);
    let trees = &contents.files.trees;
    let mut by_use: Vec<_> = trees.keys().filter(idle).collect();
    by_use.sort_by_key(|tree| trees[*tree].used);
    // Nothing is cheaper to have again.
    for tree in by_use {
        if left <= limit {
            break;
        }
        doomed.trees.insert(*tree);
        left -= trees[tree].size;
    }
    let mut drop_unneeded = |doomed: &mut Doomed| {
        let needed = contents.needed(|image| !doomed.names.contains(&image.name));
        let may_go = |blob: &Digest| {
            !needed.contains(blob) && !in_use.contains(blob) && !doomed.blobs.contains(blob)
        };
        let blobs = contents.files.blobs.iter().filter(|(blob, _)| may_go(blob));
        let mut by_use: Vec<_> = blobs
            .map(|(blob, held)| (held.used, *blob, held.size))
            .collect();
        by_use.sort();
        for (_, blob, size) in by_use {
            if left <= limit {
                break;
            }
            doomed.blobs.insert(blob);
            left -= size;
        }
        left <= limit
    };
    let idle = contents
        .images
        .iter()
        .filter(|image| !in_use.contains(&image.manifest));
    let mut by_use: Vec<_> = idle
        .map(|image| (contents.used(image), &image.name))
        .collect();
    by_use.sort();
    let mut names = by_use.into_iter();
    while !drop_unneeded(&mut doomed)
        && let Some((_, name)) = names.next()
    {
        doomed.names.insert(name.clone());
    }
    doomed
}

/// Names go first, so that none is ever left of what is gone.
fn remove(alone: &Alone<'_>, contents: &Contents, doomed: &Doomed) -> Result<Freed, Error> {
    let files = &contents.files;
    if !doomed.names.is_empty() {
        let names: Vec<_> = doomed.names.iter().cloned().collect();
        layout::untag(alone.store().root(), &names)?;
    }
    for blob in &doomed.blobs {
        alone.remove_blob(blob)?;
    }
    for tree in &doomed.trees {
        alone.remove_tree(tree)?;
    }
    let needed = contents.needed(|image| !doomed.names.contains(&image.name));
    // Without them nobody knows where the layers are that stayed in a registry, nor which wheels are in them.
    let kept: BTreeSet<_> = needed
        .iter()
        .flat_map(|blob| [origin_key(blob).digest(), sbom::key(blob).digest()])
        .collect();
    let is_worthless = |answer: &&Answer| {
        let has_no_blob = || match blob_of(answer) {
            Some(blob) => doomed.blobs.contains(&blob) || !files.blobs.contains_key(&blob),
            // One that should name a blob and does not is damaged.
            None => NAMING.iter().any(|(kind, _)| *kind == answer.kind),
        };
        let is_old = doomed
            .answers_until
            .is_some_and(|until| answer.held.used < until);
        doomed.every_answer || (!kept.contains(&answer.key) && (is_old || has_no_blob()))
    };
    let worthless: Vec<_> = files.answers.iter().filter(is_worthless).collect();
    for answer in &worthless {
        alone.remove_answer(answer)?;
    }
    alone.remove_strays(files)?;
    let of_answers: u64 = worthless.iter().map(|answer| answer.held.size).sum();
    let of_strays: u64 = files.strays.values().sum();
    let of_trees: u64 = doomed.trees.iter().map(|tree| files.trees[tree].size).sum();
    Ok(Freed {
        names: doomed.names.iter().flatten().cloned().collect(),
        blobs: doomed.blobs.len(),
        answers: worthless.len(),
        trees: doomed.trees.len(),
        strays: files.strays.len(),
        bytes: contents.bytes(&doomed.blobs) + of_answers + of_strays + of_trees,
    })
}

/// Whether blobs of the store were damaged and are dropped, so that what failed with these errors may do better if
/// it is done again. They are told.
pub(super) async fn has_dropped_damage(
    mut errors: impl Iterator<Item = &Error>,
    tools: &Tools,
) -> bool {
    let known = tell_damage(tools);
    // However many functions have the error in common, blobs are proven once.
    if known || errors.any(reads_unproven) {
        // Where one blob is damaged others may be, and tries are few.
        let store = tools.store.clone();
        if tools.block(move || store.prove_used()).await.is_err() {
            return known;
        }
    }
    tell_damage(tools) || known
}

/// Warns of each blob that was dropped for its damage since this was last called, and says whether there were any.
pub fn tell_damage(tools: &Tools) -> bool {
    let damaged = tools.store.take_damaged();
    for blob in &damaged {
        let text = format!("blob {blob} of the store was damaged and is dropped");
        tools.progress.warn(text);
    }
    !damaged.is_empty()
}

/// Wheels, sources and bytecode are read in pieces, so that damage looks as if they were bad themselves.
fn reads_unproven(error: &Error) -> bool {
    matches!(
        error.own(),
        Error::Wheel { .. }
            | Error::Layer(_)
            | Error::Tree(file_tree::Error::Read { .. })
            | Error::Bytecode { .. }
            | Error::Source(_)
            | Error::Project(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::layer;
    use std::time::Duration;

    const DAYS: fn(u64) -> SystemTime =
        |days| SystemTime::UNIX_EPOCH + Duration::from_hours(24 * days);

    /// Two images that share a blob, a wheel and a made layer beside them; each blob has ten bytes and was last
    /// used on the day of its number.
    struct Shelf {
        contents: Contents,
    }

    fn blob(day: u64) -> Digest {
        Digest::of(day.to_string())
    }

    /// The days of blobs that go, and the names.
    fn told(doomed: &Doomed) -> (Vec<u64>, Vec<String>) {
        let days = (1..=9).filter(|day| doomed.blobs.contains(&blob(*day)));
        (
            days.collect(),
            doomed.names.iter().flatten().cloned().collect(),
        )
    }

    impl Shelf {
        fn new() -> Self {
            let image = |name: &str, manifest, others: &[u64]| Named {
                name: Some(name.to_owned()),
                manifest: blob(manifest),
                broken: false,
                blobs: others
                    .iter()
                    .chain([&manifest])
                    .map(|day| blob(*day))
                    .collect(),
            };
            let held = |day| Held {
                size: 10,
                used: DAYS(day),
            };
            let files = Inventory {
                blobs: (1..=7).map(|day| (blob(day), held(day))).collect(),
                ..Inventory::default()
            };
            Self {
                contents: Contents {
                    // Blob 9 stayed in its registry.
                    images: vec![image("old:1", 2, &[1, 5, 9]), image("new:1", 6, &[5, 9])],
                    made: [1, 4, 5].map(blob).into(),
                    files,
                },
            }
        }

        fn selected(&self, only_made_layers: bool, since: Option<u64>) -> (Vec<u64>, Vec<String>) {
            let selection = Selection::Unneeded {
                only_made_layers,
                // Use is noted to a day.
                unused_since: since.map(|day| DAYS(day + 1)),
            };
            told(&selected(&self.contents, selection))
        }

        fn beyond(&self, limit: u64, in_use: &[u64]) -> (Vec<u64>, Vec<String>) {
            let in_use = in_use.iter().map(|day| blob(*day)).collect();
            told(&beyond(&self.contents, limit, &in_use))
        }
    }

    #[test]
    fn what_named_images_need_stays() {
        let shelf = Shelf::new();
        assert_eq!(shelf.selected(false, None), (vec![3, 4, 7], vec![]));
        assert_eq!(shelf.selected(true, None), (vec![4], vec![]));
    }

    #[test]
    fn what_is_old_goes_with_its_name() {
        let shelf = Shelf::new();
        let old = || vec!["old:1".to_owned()];
        assert_eq!(shelf.selected(false, Some(1)), (vec![], vec![]));
        // The image was used on day 2, whatever of it was used before.
        assert_eq!(shelf.selected(false, Some(2)), (vec![], vec![]));
        assert_eq!(shelf.selected(false, Some(4)), (vec![1, 2, 3], old()));
        assert_eq!(shelf.selected(false, Some(6)), (vec![1, 2, 3, 4], old()));
        assert_eq!(shelf.selected(true, Some(4)), (vec![], vec![]));
        assert_eq!(shelf.selected(true, Some(5)), (vec![4], vec![]));
        let everything = selected(&shelf.contents, Selection::All);
        assert_eq!(told(&everything).0, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn beyond_a_limit_names_go_last_and_what_is_in_use_never() {
        let shelf = Shelf::new();
        let (old, both) = (
            vec!["old:1".to_owned()],
            vec!["new:1".to_owned(), "old:1".to_owned()],
        );
        assert_eq!(shelf.beyond(70, &[]), (vec![], vec![]));
        assert_eq!(shelf.beyond(69, &[]), (vec![3], vec![]));
        assert_eq!(shelf.beyond(50, &[]), (vec![3, 4], vec![]));
        assert_eq!(shelf.beyond(40, &[]), (vec![3, 4, 7], vec![]));
        assert_eq!(shelf.beyond(30, &[]), (vec![1, 3, 4, 7], old.clone()));
        assert_eq!(shelf.beyond(0, &[]), ((1..=7).collect(), both));
        assert_eq!(shelf.beyond(60, &[3]), (vec![4], vec![]));
        assert_eq!(shelf.beyond(0, &[6, 5]), (vec![1, 2, 3, 4, 7], old));
    }

    #[test]
    fn made_layers_are_known_by_their_answers() {
        let key = layer::memo_key(layer::Options::default(), ["x"]);
        assert_eq!(key.kind(), MADE);
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let digest = store.put(b"layer").unwrap();
        let gone = Digest::of("gone");
        for (input, digest) in [("x", digest), ("y", gone)] {
            let key = layer::memo_key(layer::Options::default(), [input]);
            let layer = layer::Layer {
                digest,
                size: 5,
                diff_id: digest,
            };
            layer::remember(&store, &key, &layer).unwrap();
        }
        let contents = Contents::of(&store).unwrap();
        assert_eq!(contents.made, BTreeSet::from([digest]));
        let selection = Selection::Unneeded {
            only_made_layers: true,
            unused_since: Some(SystemTime::UNIX_EPOCH),
        };
        // Nothing is that old, but one answer has lost its blob.
        let freed = prune(&store, selection, &Progress::default()).unwrap();
        assert_eq!((freed.blobs, freed.answers), (0, 1));
        assert_eq!(Contents::of(&store).unwrap().made, contents.made);
    }
}
