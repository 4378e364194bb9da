//! Two images in human terms: which packages, files and settings one has and the other has not, and what that weighs.
//!
//! Pure, and of any two images, whoever made them. What differs in bytes alone (dates, compression, the order of a
//! tar) is no change here: for that there is the comparison of `verify`. Who shows the changes, and how, is not known
//! here.

mod files;
mod packages;
mod settings;
mod sizes;

use std::collections::BTreeMap;

use crate::build::inventory::{Base, Inventory};
use crate::digest::Digest;
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{self, Finding, Level};
use crate::lambda::{ENTRY_POINT, RUNTIME_DIR, TASK_ROOT};
use crate::oci::flatten::normal;

pub use files::{FileChange, State};
pub use packages::{How, PackageChange, Side};
pub use settings::{Setting, SettingChange, Text};
pub use sizes::{Size, SizeChange};

/// Where extensions and layers are, below the root.
const EXTENSIONS: &str = "opt";

/// The same of both images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair<T> {
    /// The first image's.
    pub first: T,
    /// The second's.
    pub second: T,
}

impl<T> Pair<T> {
    /// Both.
    pub fn new(first: T, second: T) -> Self {
        Self { first, second }
    }
}

/// What a file, a package or a layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The base's.
    Base,
    /// Runtime client and entry point, where the base has none.
    Bootstrap,
    /// What is below `/opt`: extensions, and what Lambda layers bring elsewhere.
    Extensions,
    /// What was installed.
    Dependencies,
    /// The function itself.
    Function,
    /// Files elsewhere.
    Elsewhere,
}

/// What is other in the second image than in the first.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The digests of both manifests, of images that have one.
    pub digests: Pair<Option<Digest>>,
    /// Both bases, where they are not the same.
    pub base: Option<Pair<Option<Base>>>,
    /// Packages, by area and name.
    pub packages: Vec<PackageChange>,
    /// Files above the base that are of no package, by area and path; without what is compiled of sources.
    pub files: Vec<FileChange>,
    /// What the config says, and which Python that is.
    pub settings: Vec<SettingChange>,
    /// The size of each area that either image has, whether it is another or not.
    pub sizes: Vec<SizeChange>,
    /// All areas together.
    pub total: Pair<Size>,
    /// What the rules find in the second image and not in the first, the worst first.
    pub new: Vec<Finding>,
    /// What they find in the first alone.
    pub gone: Vec<Finding>,
    /// The layers that could not be read, counted from 0: files and packages of theirs are not known.
    pub unread: Pair<Vec<usize>>,
}

/// An image, what is in it, and what the rules say of it.
struct Image<'a> {
    subject: &'a Subject,
    inventory: Inventory<'a>,
}

impl Changes {
    /// Compares two images, each with what the rules found in it.
    pub fn between(first: (&Subject, &[Finding]), second: (&Subject, &[Finding])) -> Self {
        let image = |subject| Image {
            subject,
            inventory: Inventory::of(subject),
        };
        let (one, other) = (image(first.0), image(second.0));
        let sizes = sizes::changes(&one, &other);
        Self {
            digests: Pair::new(one.digest(), other.digest()),
            base: base(&one, &other),
            packages: packages::changes(&one.inventory, &other.inventory),
            files: files::changes(&one, &other),
            settings: settings::changes(&one, &other),
            total: sizes::total(&sizes),
            sizes,
            new: lacking(second.1, first.1),
            gone: lacking(first.1, second.1),
            unread: Pair::new(check::unread(first.0), check::unread(second.0)),
        }
    }

    /// Whether nothing has changed. Sizes alone are no change: they may come of another compression.
    pub fn is_empty(&self) -> bool {
        self.base.is_none()
            && self.packages.is_empty()
            && self.files.is_empty()
            && self.settings.is_empty()
            && self.new.is_empty()
            && self.gone.is_empty()
    }

    /// Whether both are one image to the byte, as far as they have digests.
    pub fn is_same_image(&self) -> bool {
        self.digests.first.is_some() && self.digests.first == self.digests.second
    }

    /// The packages that are the base's, or those that are not.
    pub fn packages_of_base(&self, of_base: bool) -> impl Iterator<Item = &PackageChange> {
        let packages = self.packages.iter();
        packages.filter(move |package| (package.area == Area::Base) == of_base)
    }
}

impl Image<'_> {
    fn digest(&self) -> Option<Digest> {
        let manifest = self.subject.documents.manifest.as_ref();
        manifest.map(|manifest| Digest::of(&manifest.raw))
    }

    /// The number of layers that are the base's.
    fn base(&self) -> usize {
        let layers = self.inventory.layers.iter();
        layers.filter(|layer| layer.is_base).count()
    }

    /// Where a file of no package belongs by its path, and how its owner calls it there.
    fn place<'p>(&self, path: &'p str) -> (Area, &'p str) {
        let own = normal(self.subject.documents.working_dir());
        let below = |root: &str| path.strip_prefix(root)?.strip_prefix('/');
        if below(RUNTIME_DIR).is_some() || path == ENTRY_POINT {
            (Area::Bootstrap, path)
        } else if below(EXTENSIONS).is_some() {
            (Area::Extensions, path)
        } else if let Some(name) = below(TASK_ROOT) {
            (Area::Function, name)
        } else if let Some(name) = below(&own).filter(|_| !own.is_empty()) {
            (Area::Function, name)
        } else {
            (Area::Elsewhere, path)
        }
    }
}

/// The bases, where they are two: by their digests if both images say them, else by their layers.
fn base(one: &Image<'_>, other: &Image<'_>) -> Option<Pair<Option<Base>>> {
    let (first, second) = (&one.inventory.base, &other.inventory.base);
    let known = |base: &Option<Base>| base.as_ref().and_then(|base| base.digest.clone());
    let is_other = match (known(first), known(second)) {
        (Some(first), Some(second)) => first != second,
        _ => base_layers(&one.inventory) != base_layers(&other.inventory),
    };
    let name = |base: &Option<Base>| base.as_ref().and_then(|base| base.name.clone());
    let is_renamed = name(first)
        .zip(name(second))
        .is_some_and(|(first, second)| first != second);
    (is_other || is_renamed).then(|| Pair::new(first.clone(), second.clone()))
}

fn base_layers(image: &Inventory<'_>) -> Vec<Digest> {
    let layers = image.layers.iter().filter(|layer| layer.is_base);
    let tars = layers.map(|layer| layer.diff_id.unwrap_or(layer.digest));
    tars.collect()
}

/// A finding as another image would have it: layers have other numbers there, and messages other sizes.
type Key<'a> = (&'static str, Level, Option<&'a str>, Option<&'a str>);

fn key(finding: &Finding) -> Key<'_> {
    let (path, value) = (finding.path.as_deref(), finding.value.as_deref());
    // What is said of no place and no value is of the image as a whole.
    (finding.rule.id, finding.level, path, value)
}

/// The findings that are not among others, each as often as it is there.
fn lacking(findings: &[Finding], others: &[Finding]) -> Vec<Finding> {
    let mut there: BTreeMap<Key<'_>, usize> = BTreeMap::new();
    for other in others {
        *there.entry(key(other)).or_default() += 1;
    }
    let lacking = findings.iter().filter(|finding| {
        let left = there.get_mut(&key(finding)).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_none()
    });
    lacking.cloned().collect()
}
