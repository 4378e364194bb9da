//! `lambimg.lock` at work: what it decides a build takes, and what it lacks it is told.
//!
//! Whoever needs a decision asks here first, and says here what came of it. With `--locked` the lock is never
//! written, and what it does not decide is refused with the part and the reason. It knows no registry, no
//! resolver and no interpreter.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::aws::layers::LayerArn;
use crate::build::locking::{Upgrade, directory_of, is_read_only, read_optional, write_lock};
use crate::build::pins::{
    self, BaseKey, Built, Bytecode, Found, LayerPin, Pins, Role, RuntimeClient,
};
use crate::build::{self, Error, compiling, wheel_layers};
use crate::digest::Digest;
use crate::lambda::Architecture;
use crate::oci::layer;
use crate::oci::layout::Place;
use crate::oci::reference::Reference;
use crate::plan::image::{Elsewhere, Source};
use crate::plan::{self, Plan};
use crate::progress::Progress;
use crate::python::lock::{Locked, LockedSource, Origin};
use crate::python::resolve::relative_path;
use crate::python::{PythonVersion, Target, bytecode, source};

/// Why a lock that must not change does not do, as a clause that follows its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("is not there, and {0} has to be in it")]
    Absent(String),
    /// It does not say a part.
    #[error("does not have {0}")]
    Lacks(String),
    /// A part of it was made from something else.
    #[error("has {part}, which was made from {from}")]
    Stale {
        /// The part.
        part: String,
        /// From what.
        from: &'static str,
    },
    /// This version makes other bytes.
    #[error("was made for the formats `{has}`, and this lambimg has `{wanted}`")]
    Formats {
        /// Those of the lock.
        has: String,
        /// Our own.
        wanted: String,
    },
    /// A base on this machine is another now.
    #[error("has {base} as {locked}, and it is {actual}")]
    Base {
        /// The base.
        base: String,
        /// In the lock.
        locked: Digest,
        /// As it is.
        actual: Digest,
    },
    /// A version of a layer, which never changes, is another now.
    #[error("has {layer} as {locked}, and AWS says that it is {actual}")]
    Layer {
        /// The layer.
        layer: String,
        /// In the lock.
        locked: Digest,
        /// As AWS says.
        actual: Digest,
    },
    /// The interpreter is another.
    #[error("has {locked} for the bytecode of Python {python}, and there is {actual}")]
    Interpreter {
        /// The Python.
        python: PythonVersion,
        /// In the lock.
        locked: Bytecode,
        /// What is to be had.
        actual: Bytecode,
    },
    /// A wheel came out otherwise.
    #[error(
        "has {locked} for what is in the wheel built of `{package}`, and it came out as {actual}"
    )]
    Built {
        /// The package.
        package: String,
        /// In the lock.
        locked: Digest,
        /// As it was built.
        actual: Digest,
    },
}

/// What is not taken from the lock when it is made anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewal {
    /// Whether the base is looked up again.
    pub base: bool,
    /// What else.
    pub others: Upgrade,
}

/// For whom a lock is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The project's directory, without links in it.
    pub project: PathBuf,
    /// What flags gave, as they are written.
    pub flags: Vec<(&'static str, String)>,
}

/// The lock of one run; without one nothing is decided and nothing kept. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pinning(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    asker: Asker,
    locked: bool,
    renewal: Renewal,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As it was read or last written.
    text: Option<String>,
    /// What it said then.
    before: Pins,
    pins: Pins,
    /// What differs from that.
    notes: Vec<String>,
    /// A tag that nothing but this run's own look at it decided.
    floating: Option<String>,
}

/// Names of all that decides bytes beside what goes in.
fn formats() -> String {
    let all = [
        layer::FORMAT,
        wheel_layers::FORMAT,
        source::FORMAT,
        bytecode::FORMAT,
        compiling::FORMAT,
        build::FORMAT,
    ];
    all.join("; ")
}

/// What the lock calls the plan's base.
pub(super) fn base_key(plan: &Plan) -> BaseKey {
    let (reference, python) = match &plan.base {
        plan::Base::Registry(reference) => (reference.to_string(), None),
        plan::Base::Place(place) => (from_project(plan, place).to_string(), None),
        // The one name stands for the Python of each version.
        plan::Base::Host(_) => ("host".to_owned(), Some(plan.runtime.python.to_string())),
    };
    BaseKey {
        role: Role::Base,
        reference,
        python,
    }
}

/// The place as it is seen from the project, which may lie elsewhere on another machine.
fn from_project(plan: &Plan, place: &Place) -> Place {
    let path = std::path::absolute(&place.path).unwrap_or_else(|_| place.path.clone());
    let path = path.canonicalize().unwrap_or(path);
    Place {
        path: relative_path(&path, &plan.project),
        ..place.clone()
    }
}

fn checksum_of(key: &BaseKey) -> Digest {
    let python = key.python.as_deref().unwrap_or_default();
    Digest::of(format!("base 1\n{}\n{python}\n", key.reference))
}

/// The checksum of what a runtime client is made from.
pub(super) fn checksum_of_lines(lines: &[String]) -> Digest {
    Digest::of(format!("runtime client 1\n{}\n", lines.join("\n")))
}

impl Pinning {
    /// The lock of the plan's project, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is of other formats and must not change.
    pub fn open(plan: &Plan, renewal: Renewal) -> Result<Self, Error> {
        // A deployment package has no room for a lock of its own.
        if plan.is_archive {
            return Ok(Self::default());
        }
        let path = plan.project.join(pins::FILE);
        let text = read_optional(&path)?;
        let read = text.as_deref().map(|text| parse(&path, text)).transpose()?;
        let mut pins = read.unwrap_or_default();
        let before = pins.clone();
        let mut notes = Vec::new();
        let wanted = formats();
        let has = std::mem::replace(&mut pins.formats, wanted.clone());
        let others = text.is_some() && has != wanted;
        if others {
            // What was built may be built in another way now.
            pins.built.clear();
            notes.push("its formats were another version's".to_owned());
        }
        let inner = Inner {
            path,
            asker: Asker {
                project: plan.project.clone(),
                flags: plan.flags.clone(),
            },
            locked: plan.policy.locked,
            renewal,
            state: Mutex::new(State {
                text,
                before,
                pins,
                notes,
                floating: None,
            }),
        };
        if others && inner.locked {
            return Err(inner.refuse(Refusal::Formats { has, wanted }));
        }
        Ok(Self(Some(Arc::new(inner))))
    }

    /// Where the lock is.
    pub(super) fn path(&self) -> Option<&Path> {
        self.0.as_deref().map(|inner| inner.path.as_path())
    }

    /// Whether what was decided by a resolver or an interpreter is decided again.
    pub(super) fn is_upgrade(&self) -> bool {
        let inner = self.0.as_deref();
        inner.is_some_and(|inner| inner.renewal.others == Upgrade::Everything)
    }

    /// What the lock calls the image that an extension of the plan's is.
    pub(super) fn extension_key(plan: &Plan, image: &Elsewhere) -> BaseKey {
        BaseKey {
            role: Role::Extension,
            reference: match image {
                Elsewhere::Registry(reference) => reference.to_string(),
                Elsewhere::Place(place) => from_project(plan, place).to_string(),
            },
            python: None,
        }
    }

    /// Has the lock forget the images and layers of extensions that none of the plans, which are all of the project's,
    /// takes.
    pub(super) fn retain_extensions<'a>(&self, plans: impl IntoIterator<Item = &'a Plan>) {
        let Some(inner) = self.0.as_deref().filter(|inner| !inner.locked) else {
            return;
        };
        let (mut images, mut arns) = (Vec::new(), Vec::new());
        for plan in plans {
            for extension in &plan.extensions {
                match &extension.source {
                    Source::Image { from, .. } => images.push(Self::extension_key(plan, from)),
                    Source::Layer(arn) => arns.push(arn.to_string()),
                    Source::Directory(_) | Source::Zip(_) => {}
                }
            }
        }
        let mut state = inner.state();
        for dropped in state.pins.retain_extensions(&images, &arns) {
            state.notes.push(format!("{dropped} is not taken any more"));
        }
    }

    /// At which digest an image is to be read from its registry, if the lock decides it; `asked` is the one that the
    /// reference has.
    ///
    /// # Errors
    /// When the lock must not change and does not decide it, nor does the reference itself.
    pub(super) fn image(
        &self,
        plan: &Plan,
        key: &BaseKey,
        asked: Option<Digest>,
    ) -> Result<Option<Digest>, Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(None);
        };
        if inner.renews(key.role) {
            return Ok(None);
        }
        let state = inner.state();
        let refusal = match state.standing(key, asked) {
            Ok(found) => match found.digests.get(plan.architecture) {
                Some(digest) if asked.is_none_or(|asked| asked == digest) => {
                    return Ok(Some(digest));
                }
                // Which images an index has its own bytes tell, and nothing else may.
                Some(_) => return Ok(None),
                // The others are not to move with it.
                None if !inner.locked && asked.is_none() && found.index.is_some() => {
                    return Ok(found.index);
                }
                None => Refusal::Lacks(format!("{key} for {}", plan.architecture)),
            },
            Err(refusal) => refusal,
        };
        if inner.locked && asked.is_none() {
            return Err(inner.refuse(refusal));
        }
        Ok(None)
    }

    /// Keeps what the plan's base was found to be.
    ///
    /// # Errors
    /// When the lock must not change and has it otherwise or not at all.
    pub(super) fn settle_base(&self, plan: &Plan, found: Found) -> Result<(), Error> {
        self.settle_image(plan, &base_key(plan), digest_of(&plan.base), found)
    }

    /// Keeps what an image was found to be; `asked` is the digest that its reference has.
    ///
    /// # Errors
    /// When the lock must not change and has it otherwise or not at all.
    pub(super) fn settle_image(
        &self,
        plan: &Plan,
        key: &BaseKey,
        asked: Option<Digest>,
        mut found: Found,
    ) -> Result<(), Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(());
        };
        let mut state = inner.state();
        let before = state.standing(key, asked);
        let architecture = plan.architecture;
        let digest_before = before
            .as_ref()
            .ok()
            .and_then(|found| found.digests.get(architecture));
        let actual = found.digests.get(architecture);
        let is_anew = inner.renews(key.role) && before.as_ref() != Ok(&found);
        if digest_before.is_some() && digest_before == actual && !is_anew {
            return Ok(());
        }
        let refusal = match (&before, digest_before, actual) {
            (_, Some(locked), Some(actual)) => Refusal::Base {
                base: key.to_string(),
                locked,
                actual,
            },
            (Ok(_), ..) => Refusal::Lacks(format!("{key} for {architecture}")),
            (Err(refusal), ..) => refusal.clone(),
        };
        if inner.locked {
            // What the reference decides needs no lock, but one that has it otherwise is wrong.
            let is_contradicted = matches!(refusal, Refusal::Base { .. });
            return if asked.is_some() && !is_contradicted {
                Ok(())
            } else {
                Err(inner.refuse(refusal))
            };
        }
        let note = match &refusal {
            Refusal::Base { locked, actual, .. } if locked == actual => {
                format!("{key} was looked up again")
            }
            Refusal::Base { locked, actual, .. } => {
                format!("{key} was {locked} and is {actual}")
            }
            Refusal::Stale { from, .. } => format!("{key} was made from {from}"),
            _ => format!("{key} for {architecture} was not in it"),
        };
        if let Ok(before) = before {
            let seen = found.digests;
            // What was pinned for another architecture stays, and is not replaced unless all is.
            let is_moved = inner.renews(key.role) || digest_before.is_some();
            if is_moved {
                found.digests = found.digests.or(before.digests);
            } else {
                found.digests = before.digests.or(found.digests);
                found.created = before.created.or(found.created);
            }
            // An index is told only as long as all that is pinned is in it.
            if found.digests != seen {
                found.index = before.index.filter(|index| found.index == Some(*index));
            }
        }
        let is_base = key.role == Role::Base;
        if is_base && matches!(plan.base, plan::Base::Registry(_)) && asked.is_none() {
            state.floating = Some(key.reference.clone());
        }
        state.pins.set_base(pins::Base {
            checksum: checksum_of(key),
            key: key.clone(),
            found,
        });
        state.notes.push(note);
        Ok(())
    }

    /// What a version of a layer is, if the lock decides it.
    ///
    /// # Errors
    /// When the lock must not change and does not decide it.
    pub(super) fn layer(&self, arn: &LayerArn) -> Result<Option<LayerPin>, Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(None);
        };
        let state = inner.state();
        let arn = arn.to_string();
        let mut layers = state.pins.layers.iter();
        match layers.find(|layer| layer.arn == arn) {
            Some(layer) => Ok(Some(layer.clone())),
            None if inner.locked => Err(inner.refuse(state.absent(format!("the layer `{arn}`")))),
            None => Ok(None),
        }
    }

    /// Keeps what AWS says that a version of a layer is.
    ///
    /// # Errors
    /// When the lock has it otherwise, whether it may change or not: no version ever does.
    pub(super) fn settle_layer(&self, layer: LayerPin) -> Result<(), Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(());
        };
        let mut state = inner.state();
        let mut others = state.pins.layers.iter();
        match others.find(|other| other.arn == layer.arn) {
            Some(other) if other.digest == layer.digest => return Ok(()),
            Some(other) => {
                return Err(inner.refuse(Refusal::Layer {
                    layer: layer.to_string(),
                    locked: other.digest,
                    actual: layer.digest,
                }));
            }
            None => state.notes.push(format!("{layer} was not in it")),
        }
        state.pins.set_layer(layer);
        Ok(())
    }

    /// What the lock says that an image of the plan's is, which is named by its tag.
    ///
    /// # Errors
    /// When it says nothing of it.
    pub(super) fn pinned_image(&self, plan: &Plan, key: &BaseKey) -> Result<Found, Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(Found::default());
        };
        let found = inner.state().standing(key, None);
        let found = found.map_err(|refusal| inner.refuse(refusal))?;
        if found.digests.get(plan.architecture).is_none() {
            let lacks = Refusal::Lacks(format!("{key} for {}", plan.architecture));
            return Err(inner.refuse(lacks));
        }
        Ok(found)
    }

    /// The runtime client for a target, if the lock decides it.
    ///
    /// # Errors
    /// When the lock must not change and does not decide it.
    pub(super) fn runtime_client(
        &self,
        plan: &Plan,
        target: Target,
        lines: &[String],
    ) -> Result<Option<Vec<Locked>>, Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(None);
        };
        if self.is_upgrade() {
            return Ok(None);
        }
        let mut state = inner.state();
        let part = format!("the runtime client for {target}");
        let mut clients = state.pins.runtime_clients.iter();
        let refusal = match clients.find(|client| client.target == target.to_string()) {
            Some(client) if client.checksum != checksum_of_lines(lines) => Refusal::Stale {
                part: part.clone(),
                from: "other requirements",
            },
            Some(client) if client.files.iter().any(|file| !may_be_had(plan, file)) => {
                Refusal::Stale {
                    part: part.clone(),
                    from: "sources, which may not be built",
                }
            }
            Some(client) => return Ok(Some(client.files.clone())),
            None => state.absent(part.clone()),
        };
        if inner.locked {
            return Err(inner.refuse(refusal));
        }
        state.notes.push(match refusal {
            Refusal::Stale { from, .. } => format!("{part} was made from {from}"),
            _ => format!("{part} was not in it"),
        });
        Ok(None)
    }

    /// Keeps what the runtime client for a target is.
    pub(super) fn settle_runtime_client(
        &self,
        target: Target,
        lines: &[String],
        files: Vec<Locked>,
    ) {
        let Some(inner) = self.0.as_deref() else {
            return;
        };
        let mut state = inner.state();
        state.pins.set_runtime_client(RuntimeClient {
            target: target.to_string(),
            checksum: checksum_of_lines(lines),
            files,
        });
        if self.is_upgrade() {
            let note = format!("the runtime client for {target} was chosen anew");
            state.notes.push(note);
        }
    }

    /// Keeps what is in a wheel that was built from what a lock binds to its bytes.
    ///
    /// # Errors
    /// When the lock must not change and has it otherwise or not at all.
    pub(super) fn settle_built(
        &self,
        sources: &LockedSource,
        target: Target,
        contents: Digest,
    ) -> Result<(), Error> {
        let (Some(inner), Some(source)) = (self.0.as_deref(), source_of(sources)) else {
            return Ok(());
        };
        let built = Built {
            name: sources.name.clone(),
            target: target.to_string(),
            source,
            contents,
        };
        let mut state = inner.state();
        let part = format!("the wheel built of `{}` for {target}", built.name);
        let mut others = state.pins.built.iter();
        let same = |other: &&Built| (&other.name, &other.target) == (&built.name, &built.target);
        let refusal = match others.find(same) {
            Some(other) if *other == built => return Ok(()),
            Some(other) if other.source == built.source => Refusal::Built {
                package: built.name.clone(),
                locked: other.contents,
                actual: contents,
            },
            Some(_) => Refusal::Stale {
                part: part.clone(),
                from: "other sources",
            },
            None => state.absent(part.clone()),
        };
        if inner.locked {
            return Err(inner.refuse(refusal));
        }
        state.notes.push(match refusal {
            Refusal::Built { .. } => format!("{part} came out otherwise"),
            Refusal::Stale { from, .. } => format!("{part} was made from {from}"),
            _ => format!("{part} was not in it"),
        });
        state.pins.set_built(built);
        Ok(())
    }

    /// The interpreter that compiles for a Python, if the lock decides it.
    ///
    /// # Errors
    /// When the lock must not change and does not decide it.
    pub fn bytecode(&self, python: PythonVersion) -> Result<Option<Bytecode>, Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(None);
        };
        if self.is_upgrade() {
            return Ok(None);
        }
        let state = inner.state();
        match state.bytecode(python) {
            Some(pinned) => Ok(Some(pinned.clone())),
            None if inner.locked => Err(inner.refuse(state.absent(of_bytecode(python)))),
            None => Ok(None),
        }
    }

    /// Keeps which interpreter compiles for a Python.
    ///
    /// # Errors
    /// When the lock must not change and names another or none.
    pub fn settle_bytecode(&self, python: PythonVersion, actual: Bytecode) -> Result<(), Error> {
        let Some(inner) = self.0.as_deref() else {
            return Ok(());
        };
        let mut state = inner.state();
        let (refusal, note) = match state.bytecode(python) {
            Some(locked) if *locked == actual => return Ok(()),
            Some(locked) => (
                Refusal::Interpreter {
                    python,
                    locked: locked.clone(),
                    actual: actual.clone(),
                },
                format!("{} was {locked} and is {actual}", of_bytecode(python)),
            ),
            None => (
                state.absent(of_bytecode(python)),
                format!("{} was not in it", of_bytecode(python)),
            ),
        };
        if inner.locked {
            return Err(inner.refuse(refusal));
        }
        state.pins.set_bytecode(python, actual);
        state.notes.push(note);
        Ok(())
    }

    /// Writes the lock, if there is anything new in it, and says so. Where it `must` be kept, a directory that cannot
    /// be written is an error, else a warning.
    ///
    /// # Errors
    /// Those of reading it again and of writing.
    pub(super) fn keep(&self, must: bool, progress: &Progress) -> Result<(), Error> {
        let Some(inner) = self.0.as_deref().filter(|inner| !inner.locked) else {
            return Ok(());
        };
        let mut state = inner.state();
        let (before, pins) = (state.before.clone(), state.pins.clone());
        // A checkout may have other line ends.
        let is_same = |text: &String| text.replace("\r\n", "\n") == pins.write();
        if state.text.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        let path = inner.path.display();
        let merged = |there: Option<Pins>| match there {
            Some(there) => Some(pins.settled_over(&before, there)),
            None => Some(pins.clone()),
        };
        match replace(&inner.path, state.text.as_deref(), merged) {
            Ok(()) if state.text.is_none() => progress.step(format!("made {path}")),
            Ok(()) if state.notes.is_empty() => progress.step(format!("updated {path}")),
            Ok(()) => progress.step(format!("updated {path}: {}", state.notes.join("; "))),
            // A checkout that cannot be written is built all the same.
            Err(Error::File { source, .. }) if !must && is_read_only(&source) => {
                progress.warn(format!(
                    "{path} cannot be kept, so the next build decides anew what it would say"
                ));
                if let Some(reference) = &state.floating {
                    progress.warn(format!(
                        "the base `{reference}` is a tag, which may be another image the next time: commit a \
                         {} that `lambimg lock` makes, or name the base by its digest",
                        pins::FILE
                    ));
                }
            }
            Err(error) => return Err(error),
        }
        state.notes.clear();
        state.text = Some(pins.write());
        state.before = pins;
        Ok(())
    }
}

fn parse(path: &Path, text: &str) -> Result<Pins, Error> {
    text.parse().map_err(|source| Error::PinsFile {
        path: path.to_owned(),
        source,
    })
}

/// Writes what `merged` makes of the lock as it is now, if anything; it is given where it is not what `known` says.
/// Who else does the same waits meanwhile.
fn replace(
    path: &Path,
    known: Option<&str>,
    merged: impl FnOnce(Option<Pins>) -> Option<Pins>,
) -> Result<(), Error> {
    let directory = File::open(directory_of(path));
    // Where nothing can be locked, as on some networks, nobody waits.
    let _guard = directory.ok().filter(|directory| directory.lock().is_ok());
    let there = read_optional(path)?.filter(|text| known != Some(text));
    let there = there.map(|text| parse(path, &text)).transpose()?;
    match merged(there) {
        Some(pins) => write_lock(path, &pins.write()),
        None => Ok(()),
    }
}

/// The lock of a project whose image is moved to another base.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    reference: String,
    from: Digest,
}

impl Follower {
    /// The lock of `project`, if it pins the base that the image leaves.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(
        project: &Path,
        reference: &Reference,
        from: Digest,
    ) -> Result<Option<Self>, Error> {
        let path = project.join(pins::FILE);
        let Some(text) = read_optional(&path)? else {
            return Ok(None);
        };
        let mut pins = parse(&path, &text)?;
        let follower = Self {
            path,
            reference: reference.to_string(),
            from,
        };
        let is_left = follower.left(&mut pins).is_some();
        Ok(is_left.then_some(follower))
    }

    fn left<'a>(&self, pins: &'a mut Pins) -> Option<&'a mut pins::Base> {
        pins.bases.iter_mut().find(|base| {
            let of_each = [Architecture::X86_64, Architecture::Arm64];
            let digests = of_each.map(|each| base.found.digests.get(each));
            let is_base = base.key.role == Role::Base;
            is_base && base.key.reference == self.reference && digests.contains(&Some(self.from))
        })
    }

    /// Has the lock pin the base that the image is on now. One that cannot be written is told.
    ///
    /// # Errors
    /// When it cannot be read any more.
    pub(super) fn follow(&self, found: Found, progress: &Progress) -> Result<(), Error> {
        let moved = |there: Option<Pins>| {
            let mut pins = there?;
            let base = self.left(&mut pins)?;
            // An architecture that is not there now stays where it is.
            let digests = found.digests.or(base.found.digests);
            base.found = Found { digests, ..found };
            Some(pins)
        };
        let path = self.path.display();
        match replace(&self.path, None, moved) {
            Ok(()) => progress.step(format!(
                "updated {path}: the base {} is the new one",
                self.reference
            )),
            Err(Error::File { source, .. }) if is_read_only(&source) => progress.warn(format!(
                "{path} cannot be kept, so the next build is on the base that the image has left"
            )),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an image is looked up again.
    fn renews(&self, role: Role) -> bool {
        match role {
            Role::Base => self.renewal.base,
            Role::Extension => self.renewal.others == Upgrade::Everything,
        }
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        Error::Pinned {
            path: self.path.clone(),
            refusal: Box::new(refusal),
            asker: self.asker.clone(),
        }
    }
}

impl State {
    fn absent(&self, part: String) -> Refusal {
        if self.text.is_some() {
            Refusal::Lacks(part)
        } else {
            Refusal::Absent(part)
        }
    }

    /// What the lock says of a base that is `asked` for by that digest, if by any.
    fn standing(&self, key: &BaseKey, asked: Option<Digest>) -> Result<Found, Refusal> {
        let mut bases = self.pins.bases.iter();
        let Some(base) = bases.find(|base| base.key == *key) else {
            return Err(self.absent(key.to_string()));
        };
        let found = &base.found;
        let is_asked = |digest: Digest| {
            let of_each = [Architecture::X86_64, Architecture::Arm64];
            let mut of_each = of_each.into_iter().filter_map(|it| found.digests.get(it));
            found.index == Some(digest) || of_each.any(|other| other == digest)
        };
        if base.checksum != checksum_of(key) || asked.is_some_and(|digest| !is_asked(digest)) {
            return Err(Refusal::Stale {
                part: key.to_string(),
                from: "another reference",
            });
        }
        Ok(found.clone())
    }

    fn bytecode(&self, python: PythonVersion) -> Option<&Bytecode> {
        let mut all = self.pins.bytecode.iter();
        let (_, bytecode) = all.find(|(other, _)| *other == python)?;
        Some(bytecode)
    }
}

fn of_bytecode(python: PythonVersion) -> String {
    format!("the interpreter for the bytecode of Python {python}")
}

/// The digest that an image is named by, which decides it without a lock.
fn digest_of(image: &plan::Base) -> Option<Digest> {
    match image {
        plan::Base::Registry(reference) => reference.digest,
        plan::Base::Place(_) | plan::Base::Host(_) => None,
    }
}

fn may_be_had(plan: &Plan, file: &Locked) -> bool {
    match file {
        Locked::Wheel(_) => true,
        Locked::Source(source) => plan.builds.allow(&source.name),
    }
}

/// What sources are known by; nothing for a directory, which is the user's own.
fn source_of(sources: &LockedSource) -> Option<String> {
    let (known_by, subdirectory) = match &sources.origin {
        Origin::Archive { file, subdirectory } => (file.digest.to_string(), subdirectory),
        Origin::Repository {
            commit,
            subdirectory,
            ..
        } => (format!("commit {commit}"), subdirectory),
        Origin::Directory(_) => return None,
    };
    Some(match subdirectory {
        Some(subdirectory) => format!("{known_by}, {subdirectory}"),
        None => known_by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::pins::Digests;
    use crate::config::{Project, Setting};
    use std::fs;

    /// The lock of a project in `directory`, as a build with or without `--locked` has it.
    fn open(directory: &Path, locked: bool, renewal: Renewal) -> Result<Pinning, Error> {
        Pinning::open(&plan(directory, locked, "x86_64"), renewal)
    }

    fn plan(directory: &Path, locked: bool, architecture: &str) -> Plan {
        let project = Project::read(directory).unwrap();
        let mut request = plan::Request::default();
        let flag = |text: &str, name| Some(Setting::flag(text.to_owned(), name));
        request.config.handler = flag("app.handler", "--handler");
        request.config.arch = flag(architecture, "--arch");
        request.config.base = flag("r.test/base:1", "--base");
        request.policy.locked = locked;
        plan::make(&project, request).unwrap()
    }

    /// What is at a base's tag: an image for each architecture, or for arm64 alone.
    fn at_tag(x86: Option<&str>, arm: &str) -> Found {
        let arm = Digests::default().with(Architecture::Arm64, Digest::of(arm));
        Found {
            digests: match x86 {
                Some(text) => arm.with(Architecture::X86_64, Digest::of(text)),
                None => arm,
            },
            ..Found::default()
        }
    }

    #[test]
    fn another_architecture_moves_no_pin() {
        let directory = tempfile::tempdir().unwrap();
        let (directory, silent) = (directory.path(), Progress::default());
        let settle = |architecture, renewal, found| {
            let plan = plan(directory, false, architecture);
            let pinning = Pinning::open(&plan, renewal).unwrap();
            pinning.settle_base(&plan, found).unwrap();
            pinning.keep(true, &silent).unwrap();
            let pins: Pins = text(directory).parse().unwrap();
            let digests = pins.bases[0].found.digests;
            [Architecture::X86_64, Architecture::Arm64].map(|each| digests.get(each))
        };
        let some = |text: &str| Some(Digest::of(text));
        let alone = Found {
            digests: Digests::default().with(Architecture::X86_64, Digest::of("x86")),
            ..Found::default()
        };
        let first = settle("x86_64", Renewal::default(), alone);
        assert_eq!(first, [some("x86"), None]);
        let both = at_tag(Some("newer x86"), "arm");
        let second = settle("arm64", Renewal::default(), both);
        assert_eq!(second, [some("x86"), some("arm")]);
        let renewal = || Renewal {
            base: true,
            ..Renewal::default()
        };
        let gone = settle("arm64", renewal(), at_tag(None, "newer arm"));
        assert_eq!(gone, [some("x86"), some("newer arm")]);
        let both = at_tag(Some("newest x86"), "newest arm");
        let all = settle("arm64", renewal(), both);
        assert_eq!(all, [some("newest x86"), some("newest arm")]);
    }

    #[test]
    fn two_builds_at_once_keep_what_both_settled() {
        let directory = tempfile::tempdir().unwrap();
        let (directory, silent) = (directory.path(), Progress::default());
        let [one, other] = [(); 2].map(|()| open(directory, false, Renewal::default()).unwrap());
        one.settle_bytecode(python(), cpython("3.12.7")).unwrap();
        let newer = "3.13".parse().unwrap();
        other.settle_bytecode(newer, cpython("3.13.1")).unwrap();
        one.keep(false, &silent).unwrap();
        other.keep(false, &silent).unwrap();
        let read = open(directory, true, Renewal::default()).unwrap();
        assert_eq!(read.bytecode(python()).unwrap(), Some(cpython("3.12.7")));
        assert_eq!(read.bytecode(newer).unwrap(), Some(cpython("3.13.1")));
    }

    #[test]
    fn an_image_that_moves_takes_its_base_alone_along() {
        let directory = tempfile::tempdir().unwrap();
        let (directory, silent) = (directory.path(), Progress::default());
        let plan = plan(directory, false, "x86_64");
        let reference = Reference::read("r.test/base:1").unwrap();
        let of = |from: &str| Follower::of(directory, &reference, Digest::of(from)).unwrap();
        assert!(of("old").is_none());
        let pinning = Pinning::open(&plan, Renewal::default()).unwrap();
        pinning
            .settle_base(&plan, at_tag(Some("old"), "arm"))
            .unwrap();
        pinning.keep(true, &silent).unwrap();
        assert!(of("another").is_none());
        let new = Found {
            digests: Digests::default().with(Architecture::X86_64, Digest::of("new")),
            ..Found::default()
        };
        of("old").unwrap().follow(new, &silent).unwrap();
        let pins: Pins = text(directory).parse().unwrap();
        assert_eq!(pins.bases[0].found, at_tag(Some("new"), "arm"));
    }

    fn python() -> PythonVersion {
        "3.12".parse().unwrap()
    }

    fn cpython(version: &str) -> Bytecode {
        Bytecode::Interpreter {
            implementation: "cpython".to_owned(),
            version: version.to_owned(),
        }
    }

    fn text(directory: &Path) -> String {
        fs::read_to_string(directory.join(pins::FILE)).unwrap()
    }

    fn refusal(error: &Error) -> String {
        let Error::Pinned { refusal, .. } = error else {
            panic!("{error:?}");
        };
        refusal.to_string()
    }

    #[test]
    fn an_interpreter_is_kept_and_another_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let silent = Progress::default();
        let first = open(directory, false, Renewal::default()).unwrap();
        assert_eq!(first.bytecode(python()).unwrap(), None);
        first.settle_bytecode(python(), cpython("3.12.7")).unwrap();
        first.keep(false, &silent).unwrap();

        let locked = open(directory, true, Renewal::default()).unwrap();
        assert_eq!(locked.bytecode(python()).unwrap(), Some(cpython("3.12.7")));
        locked.settle_bytecode(python(), cpython("3.12.7")).unwrap();
        let other = locked.settle_bytecode(python(), cpython("3.12.8"));
        insta::assert_snapshot!(refusal(&other.unwrap_err()),
            @"has cpython 3.12.7 for the bytecode of Python 3.12, and there is cpython 3.12.8");
        let absent = locked.bytecode("3.13".parse().unwrap());
        insta::assert_snapshot!(refusal(&absent.unwrap_err()),
            @"does not have the interpreter for the bytecode of Python 3.13");
        locked.keep(false, &silent).unwrap();
        let before = text(directory);

        // None to be had is something that a lock can say.
        let next = open(directory, false, Renewal::default()).unwrap();
        next.settle_bytecode("3.13".parse().unwrap(), Bytecode::None)
            .unwrap();
        next.keep(false, &silent).unwrap();
        assert!(text(directory).starts_with(&before), "{}", text(directory));
        let read = open(directory, true, Renewal::default()).unwrap();
        let none = read.bytecode("3.13".parse().unwrap());
        assert_eq!(none.unwrap(), Some(Bytecode::None));

        let renewal = Renewal {
            others: Upgrade::Everything,
            ..Renewal::default()
        };
        let anew = open(directory, false, renewal).unwrap();
        assert_eq!(anew.bytecode(python()).unwrap(), None);
        anew.settle_bytecode(python(), cpython("3.12.9")).unwrap();
        anew.keep(false, &silent).unwrap();
        assert!(text(directory).contains("\"3.12.9\""));
    }

    #[test]
    fn without_a_project_nothing_is_decided() {
        let pinning = Pinning::default();
        assert_eq!(pinning.bytecode(python()).unwrap(), None);
        pinning.settle_bytecode(python(), Bytecode::None).unwrap();
        pinning.keep(false, &Progress::default()).unwrap();
        assert_eq!(pinning.path(), None);
    }

    #[test]
    fn locked_without_a_lock_names_what_it_lacks() {
        let directory = tempfile::tempdir().unwrap();
        let locked = open(directory.path(), true, Renewal::default()).unwrap();
        insta::assert_snapshot!(refusal(&locked.bytecode(python()).unwrap_err()),
            @"is not there, and the interpreter for the bytecode of Python 3.12 has to be in it");
    }
}
