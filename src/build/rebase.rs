//! An image is moved to a newer base, by documents alone.
//!
//! Its packages were chosen for the old base's Python and C library, so the new base must be of the same: what the
//! configs tell is believed, and what they do not is read from the layers. What cannot be known is refused. Of all
//! layers only those are read.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use crate::build::base::{self, GLIBC_LABEL};
use crate::build::explicit::Explicit;
use crate::build::pinning::Follower;
use crate::build::{self, Error, Pushed, Tools, bootstrap};
use crate::digest::Digest;
use crate::lambda::{self, Runtime};
use crate::oci::image::{self, BASE_DIGEST, BASE_NAME, Image, LAYERS};
use crate::oci::layout;
use crate::oci::rebase::{self as documents, Move};
use crate::oci::reference::{Name, Reference};
use crate::python::{Glibc, PythonVersion};
use crate::registry::{self, pull};

/// The directories that may have an image's Python, the one that counts first.
const PYTHONS: [&str; 3] = ["var/lang/bin/", "usr/local/bin/", "usr/bin/"];
const SYSTEM_FILES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];
/// More of such a file is not read, in bytes.
const MAX_SYSTEM_FILE: u64 = 64 << 10;

/// Why an image stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It does not say what it stands on.
    #[error("the image does not say which base it stands on")]
    NoBase,
    /// It says a digest that nobody can be asked for.
    #[error("the image says that its base is {0}, and not where that is")]
    NoBaseName(Digest),
    /// Nobody has the documents of the base that it says any more.
    #[error("the image stands on {base}, and its registry does not have that")]
    OldBaseGone {
        /// The base by the image's word.
        base: Box<Reference>,
        /// What the registry says.
        source: registry::Error,
    },
    /// What it says is not so.
    #[error("the lowest layers of the image are not those of its base {base}")]
    OtherLayers {
        /// The base by its own word.
        base: String,
    },
    /// Somebody has put layers on it.
    #[error(
        "layer {layer} of the image is neither its base's nor one that its label `{LAYERS}` names"
    )]
    Foreign {
        /// The lowest of them, counted from 1.
        layer: usize,
    },
    /// The packages are for another Python.
    #[error("the base `{base}` has Python {has}, and the image is for {wanted}")]
    Python {
        /// The new base.
        base: String,
        /// What it has.
        has: PythonVersion,
        /// What the old one has.
        wanted: PythonVersion,
    },
    /// The system is of another generation.
    #[error("the base `{base}` is {has}, and the image stands on {wanted}")]
    System {
        /// The new base.
        base: String,
        /// What it is.
        has: String,
        /// What the old one is.
        wanted: String,
    },
    /// The C library is another than the one that the packages were chosen for.
    #[error(
        "the base `{base}` has glibc {has}, and the packages of the image were chosen for {wanted}"
    )]
    Glibc {
        /// The new base.
        base: String,
        /// What it has.
        has: Glibc,
        /// What they were chosen for.
        wanted: Glibc,
    },
    /// It is not known what a base has.
    #[error("neither the config of `{base}` nor its layers say which {what} it has")]
    Unknown {
        /// The base.
        base: String,
        /// `Python` or `system`.
        what: &'static str,
    },
    /// One base brings the runtime client, and the other does not.
    #[error("the base `{base}` brings {}", which_client(*.new))]
    RuntimeClient {
        /// The new base.
        base: String,
        /// Whether the new base has it.
        new: bool,
    },
    /// The scripts in the image start another program.
    #[error("the Python of the base `{base}` is `{has}`, and the image starts `{wanted}`")]
    Interpreter {
        /// The new base.
        base: String,
        /// Where it has it.
        has: String,
        /// Where the old one has it.
        wanted: String,
    },
    /// Python takes bytecode of one base without a look at its source, and not that of the other.
    #[error("the base `{base}` {}", whose_layers(*.new))]
    Bytecode {
        /// The new base.
        base: String,
        /// Whether the new base has layers of ours.
        new: bool,
    },
    /// The image has no name of its own.
    #[error("the image `{0}` has no name")]
    NoName(String),
    /// Nothing can be pushed.
    #[error("none of the names is in a registry: {}", .0.join(", "))]
    NothingToPush(Vec<String>),
    /// A layer of a base cannot be read.
    #[error("cannot read layer {layer} of the base `{base}`")]
    Read {
        /// The base.
        base: String,
        /// The layer.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
}

fn which_client(new: bool) -> &'static str {
    if new {
        "the runtime client, and the old one does not"
    } else {
        "no runtime client, and the old one does"
    }
}

fn whose_layers(new: bool) -> &'static str {
    if new {
        "was made by lambimg, and the old one was not: its bytecode may be taken for that of the image's own files"
    } else {
        "was not made by lambimg, and the old one was: the image has files that hide bytecode of the old one"
    }
}

/// What is to be moved, and where.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the user calls the image.
    pub image: String,
    /// The new base; else what stands under the old one's name now.
    pub onto: Option<Reference>,
    /// Names for what comes of it; none: the image's own.
    pub names: Vec<Name>,
    /// Whether it goes to the registries that are among the names.
    pub push: bool,
    /// The project whose lock is to follow if it pins the base that is left, and the bases that it is built on.
    pub project: (PathBuf, Vec<Reference>),
}

/// What came of it.
#[derive(Debug)]
pub struct Rebased {
    /// The image as it is now.
    pub image: Image,
    /// Its names.
    pub names: Vec<Name>,
    /// The new base's name.
    pub base: Reference,
    /// The digest of the base that it stood on.
    pub from: Digest,
    /// The digest of the base that it stands on.
    pub to: Digest,
    /// What was pushed where.
    pub pushed: Vec<Pushed>,
}

/// Moves an image to a newer base. One that stands on it already stays as it is.
///
/// # Errors
/// [`Error::Rebase`] where it must not be moved; those of registries and the store.
pub async fn rebase(request: &Request, tools: &Tools) -> Result<Rebased, Error> {
    let image = build::open(&request.image, tools).await?;
    let names = names(request)?;
    let references: Vec<_> = names.iter().filter_map(Name::reference).collect();
    if request.push && references.is_empty() {
        return Err(Refusal::NothingToPush(names.iter().map(Name::tagged).collect()).into());
    }
    let (name, from) = base_of(&image)?;
    let onto = request.onto.clone().or_else(|| name.clone());
    let onto = onto.ok_or(Refusal::NoBaseName(from))?;
    let architecture = image.config.architecture.clone();
    let task = tools.progress.task(format!("base {onto}"), None);
    let (registries, store) = (&tools.registries, &tools.store);
    let (fetched, found) = base::look(&onto, Some(&architecture), registries, store).await?;
    task.done();
    let new = base::with_origins(fetched, &onto);
    let to = new.manifest.digest();
    let (is_current, is_renamed) = (to == from, name.as_ref() != Some(&without_digest(&onto)));
    let (project, bases) = &request.project;
    // What is built next is to stand on it, too.
    let follower = if !is_current && bases.contains(&onto) {
        Follower::of(project, &onto, from)?
    } else {
        None
    };
    let moved = if is_current && !is_renamed {
        image
    } else {
        // The name alone may be another image's by now.
        let name = name.map(|name| Reference {
            digest: Some(from),
            ..name
        });
        let old = old_base(name.as_ref(), from, tools).await?;
        moved(&image, (name.as_ref(), &old), (&onto, &new), tools).await?
    };
    // Before the image has its name: whatever fails from here on, another run finds the rest to do.
    if let Some(follower) = follower {
        follower.follow(found, &tools.progress)?;
    }
    build::keep(&moved, &names, tools)?;
    let pushed = if request.push {
        build::push_all(&moved, &references, tools).await?
    } else {
        Vec::new()
    };
    Ok(Rebased {
        image: moved,
        names,
        base: onto,
        from,
        to,
        pushed,
    })
}

/// The names given, else the one that the image was asked for by.
fn names(request: &Request) -> Result<Vec<Name>, Refusal> {
    if !request.names.is_empty() {
        return Ok(request.names.clone());
    }
    let no_name = || Refusal::NoName(request.image.clone());
    if request.image.parse::<layout::Place>().is_ok() {
        return Err(no_name());
    }
    let text = request.image.strip_prefix("docker://");
    let name: Name = text
        .unwrap_or(&request.image)
        .parse()
        .map_err(|_| no_name())?;
    if name.tag.is_none() && name.digest.is_some() {
        return Err(no_name());
    }
    // A digest would be the old image's.
    Ok(vec![Name {
        digest: None,
        ..name
    }])
}

fn without_digest(reference: &Reference) -> Reference {
    Reference {
        digest: None,
        ..reference.clone()
    }
}

/// What an image says of its base.
fn base_of(image: &Image) -> Result<(Option<Reference>, Digest), Refusal> {
    let said = |key: &str| {
        let label = image.config.labels.get(key);
        label.or_else(|| image.manifest.annotations.get(key))
    };
    let digest = said(BASE_DIGEST).and_then(|text| text.parse().ok());
    let name = said(BASE_NAME).and_then(|text| Reference::read(text).ok());
    Ok((name, digest.ok_or(Refusal::NoBase)?))
}

/// The documents of the base that an image stands on, from the store or from where it was.
async fn old_base(name: Option<&Reference>, digest: Digest, tools: &Tools) -> Result<Image, Error> {
    let known = layout::load(&tools.store, &digest).ok();
    let (image, name) = match (known, name) {
        (Some(image), Some(name)) => (image, name),
        (Some(image), None) => return Ok(image),
        (None, None) => return Err(Refusal::NoBaseName(digest).into()),
        (None, Some(name)) => {
            let fetched = base::fetch(name, None, &tools.registries, &tools.store).await;
            let image = fetched.map_err(|error| match error {
                source @ registry::Error::NotFound { .. } => Error::from(Refusal::OldBaseGone {
                    base: Box::new(name.clone()),
                    source,
                }),
                other => other.into(),
            })?;
            (image, name)
        }
    };
    Ok(base::with_origins(image, name))
}

async fn moved(
    image: &Image,
    (old_name, old): (Option<&Reference>, &Image),
    (onto, new): (&Reference, &Image),
    tools: &Tools,
) -> Result<Image, Error> {
    let old = Standing::new(old, old_name);
    let new = Standing::new(new, Some(onto));
    if !documents::stands_on(image, old.image) {
        return Err(Refusal::OtherLayers { base: old.name }.into());
    }
    if let Some(layer) = foreign(image, old.image) {
        return Err(Refusal::Foreign { layer }.into());
    }
    let client = (
        base::has_runtime_client(&old.image.config),
        base::has_runtime_client(&new.image.config),
    );
    if client.0 != client.1 {
        return Err(Refusal::RuntimeClient {
            base: new.name,
            new: client.1,
        }
        .into());
    }
    // Masks, which hide a base's bytecode, are made by a build.
    let ours = [&old, &new].map(|base| base::is_ours(&base.image.config));
    if ours[0] != ours[1] {
        return Err(Refusal::Bytecode {
            base: new.name,
            new: ours[1],
        }
        .into());
    }
    let runtime = same_python(&old, &new, tools).await?;
    let is_bootstrapped = !client.0 && base::has_runtime_client(&image.config);
    let interpreters = [&old, &new].map(|base| base::interpreter(&base.image.config, runtime));
    let [wanted, has] = interpreters;
    if wanted != has {
        return Err(Refusal::Interpreter {
            base: new.name,
            has,
            wanted,
        }
        .into());
    }
    let glibc = same_system(image, &old, &new, runtime, tools).await?;
    let explicit = Explicit::read(&image.config);
    let own_labels = build::OWN_LABELS.map(str::to_owned).into_iter();
    let mut to = Move {
        base: Some((Some(onto.clone()), new.image.manifest.digest())),
        own_labels: own_labels.chain(explicit.labels).collect(),
        own_variables: explicit.env,
        own_fields: explicit.fields,
        ..Move::default()
    };
    if is_bootstrapped {
        let start = ["Entrypoint", "WorkingDir"];
        to.own_fields.extend(start.map(str::to_owned));
        let variables = |base: &Image| bootstrap::variables(runtime, &base.config);
        to.variables = (variables(old.image), variables(new.image));
        to.labels = base::labels(glibc, runtime.python, &has);
    }
    Ok(documents::rebase(image, old.image, new.image, &to)?)
}

/// The lowest layer, counted from 1, of those that somebody has put on an image of ours, or in place of one of its own:
/// it may be made of files of the old base.
fn foreign(image: &Image, old: &Image) -> Option<usize> {
    if !image.config.labels.contains_key(LAYERS) {
        return None;
    }
    let digests = image.manifest.layer_digests();
    let own = image::own_layers(&image.config.value, &digests).unwrap_or_default();
    let mut above = old.manifest.layers.len()..digests.len();
    above
        .find(|place| !own.contains(place))
        .map(|place| place + 1)
}

/// A base, with its name for people.
struct Standing<'a> {
    image: &'a Image,
    reference: Option<&'a Reference>,
    name: String,
}

impl<'a> Standing<'a> {
    fn new(image: &'a Image, reference: Option<&'a Reference>) -> Self {
        let digest = image.manifest.digest();
        Self {
            image,
            reference,
            name: reference.map_or_else(|| digest.to_string(), ToString::to_string),
        }
    }

    fn unknown(&self, what: &'static str) -> Refusal {
        Refusal::Unknown {
            base: self.name.clone(),
            what,
        }
    }

    /// The Python that its config tells, or its name.
    fn python(&self) -> Option<PythonVersion> {
        base::python_of(&self.image.config, self.reference)
    }

    fn is_lambdas(&self) -> bool {
        self.reference.is_some_and(base::is_lambda_repository)
    }

    fn glibc(&self) -> Option<Glibc> {
        let label = self.image.config.labels.get(GLIBC_LABEL);
        label.and_then(|text| text.parse().ok())
    }
}

async fn same_python(
    old: &Standing<'_>,
    new: &Standing<'_>,
    tools: &Tools,
) -> Result<&'static Runtime, Error> {
    let mut versions = Vec::new();
    for base in [old, new] {
        let told = match base.python() {
            Some(python) => Some(python),
            None => look(base, tools).await?.python,
        };
        versions.push(told.ok_or_else(|| base.unknown("Python"))?);
    }
    let (wanted, has) = (versions[0], versions[1]);
    match lambda::runtime(wanted) {
        Some(runtime) if wanted == has => Ok(runtime),
        _ => Err(Refusal::Python {
            base: new.name.clone(),
            has,
            wanted,
        }
        .into()),
    }
}

/// Proves that both bases are of one generation of one system, and gives the C library to count on.
async fn same_system(
    image: &Image,
    old: &Standing<'_>,
    new: &Standing<'_>,
    runtime: &Runtime,
    tools: &Tools,
) -> Result<Glibc, Error> {
    let label = image.config.labels.get(GLIBC_LABEL);
    let wanted = label.and_then(|text| text.parse().ok());
    let wanted = wanted.or(old.glibc()).unwrap_or(runtime.glibc);
    let has = new.glibc().unwrap_or(wanted);
    // For a newer one a build may choose other wheels, and the keys of its layers have it.
    if has != wanted {
        return Err(Refusal::Glibc {
            base: new.name.clone(),
            has,
            wanted,
        }
        .into());
    }
    let lowest = |base: &Standing<'_>| base.image.manifest.layers.first().map(|l| l.digest);
    // One Python of Lambda's has one system for good.
    let is_known = (old.is_lambdas() && new.is_lambdas()) || lowest(old) == lowest(new);
    if !is_known {
        let (of_old, of_new) = (
            look(old, tools).await?.system,
            look(new, tools).await?.system,
        );
        match (of_old, of_new) {
            (Some(wanted), Some(has)) if wanted != has => {
                return Err(Refusal::System {
                    base: new.name.clone(),
                    has: has.to_string(),
                    wanted: wanted.to_string(),
                }
                .into());
            }
            (Some(_), Some(_)) => {}
            // One that has nothing but a C library.
            (None, None) if old.glibc().is_some() && new.glibc().is_some() => {}
            (None, _) => return Err(old.unknown("system").into()),
            (_, None) => return Err(new.unknown("system").into()),
        }
    }
    Ok(has)
}

/// A system and its generation, as `os-release` tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct System {
    id: String,
    generation: String,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.generation)
    }
}

impl System {
    fn read(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.rfind(|(name, _)| *name == key);
            found.map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
        };
        let id = value("ID")?;
        let version = value("VERSION_ID").unwrap_or_default();
        // Theirs are releases of their own, others' are updates.
        let parts = if ["ubuntu", "alpine"].contains(&&*id) {
            2
        } else {
            1
        };
        let generation = version.split('.').take(parts).collect::<Vec<_>>().join(".");
        Some(Self { id, generation })
    }
}

/// What a base's layers tell.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    python: Option<PythonVersion>,
    system: Option<System>,
}

/// Reads a base's layers, which come into the store.
async fn look(base: &Standing<'_>, tools: &Tools) -> Result<Seen, Error> {
    let layers = base.image.manifest.layers.clone();
    for layer in &layers {
        if tools.store.contains(&layer.digest, layer.size) {
            continue;
        }
        let origin = base.image.origins.get(&layer.digest);
        let origin = origin.ok_or(layout::Error::Missing(layer.digest))?;
        let (registries, progress) = (&tools.registries, &tools.progress);
        pull::fetch_blob(layer, origin, &tools.store, registries, progress).await?;
    }
    let (store, name) = (tools.store.clone(), base.name.clone());
    let work = move || {
        let mut files = Files::default();
        for layer in layers {
            let reader = store.reader(&layer.digest)?;
            files.list(reader).map_err(|source| Refusal::Read {
                base: name.clone(),
                layer: layer.digest,
                source,
            })?;
        }
        Ok(files.seen())
    };
    tools.block(work).await?
}

/// The files of a base that tell something.
#[derive(Default)]
struct Files {
    pythons: [Option<PythonVersion>; PYTHONS.len()],
    systems: [Option<System>; SYSTEM_FILES.len()],
}

impl Files {
    fn list(&mut self, layer: impl Read) -> io::Result<()> {
        let layer = io::BufReader::with_capacity(64 << 10, layer);
        let mut tar = flate2::bufread::MultiGzDecoder::new(layer);
        let mut archive = tar::Archive::new(&mut tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = path.trim_start_matches("./").trim_start_matches('/');
            for (found, directory) in self.pythons.iter_mut().zip(PYTHONS) {
                let version = path.strip_prefix(directory);
                let version = version.and_then(|name| name.strip_prefix("python"));
                let version = version.and_then(|version| version.parse().ok());
                *found = version.or(*found);
            }
            if let Some(number) = SYSTEM_FILES.iter().position(|file| *file == path)
                && entry.header().entry_type().is_file()
            {
                let mut bytes = Vec::new();
                entry
                    .by_ref()
                    .take(MAX_SYSTEM_FILE)
                    .read_to_end(&mut bytes)?;
                self.systems[number] = System::read(&String::from_utf8_lossy(&bytes));
            }
        }
        // To its end, where damage shows.
        io::copy(&mut tar, &mut io::sink()).map(drop)
    }

    fn seen(self) -> Seen {
        Seen {
            python: self.pythons.into_iter().flatten().next(),
            system: self.systems.into_iter().flatten().next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_of_a_generation() {
        let read = |text: &str| System::read(text).map(|system| system.to_string());
        let system =
            |id: &str, version: &str| read(&format!("NAME=x\nID={id}\nVERSION_ID={version}\n"));
        assert_eq!(system("\"amzn\"", "\"2023\"").as_deref(), Some("amzn 2023"));
        assert_eq!(system("debian", "\"12\"").as_deref(), Some("debian 12"));
        assert_eq!(system("rhel", "\"9.4\""), system("rhel", "9.5"));
        assert_ne!(system("ubuntu", "22.04"), system("ubuntu", "22.10"));
        assert_eq!(system("alpine", "3.20.1"), system("alpine", "3.20.2"));
        assert_eq!(read("NAME=x\n"), None);
    }

    #[test]
    fn layers_tell_python_and_system() {
        let layer = |files: &[(&str, &str)]| {
            let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let mut archive = tar::Builder::new(gzip);
            for (path, text) in files {
                let mut header = tar::Header::new_gnu();
                header.set_size(text.len() as u64);
                header.set_mode(0o644);
                archive
                    .append_data(&mut header, path, text.as_bytes())
                    .unwrap();
            }
            archive.into_inner().unwrap().finish().unwrap()
        };
        let mut files = Files::default();
        let lower = layer(&[
            ("usr/bin/python3.9", ""),
            ("usr/lib/os-release", "ID=amzn\nVERSION_ID=2023\n"),
        ]);
        files.list(&*lower).unwrap();
        files
            .list(&*layer(&[
                ("var/lang/bin/python3.12", ""),
                ("var/lang/bin/python3.12-config", ""),
            ]))
            .unwrap();
        let seen = files.seen();
        assert_eq!(seen.python.unwrap().to_string(), "3.12");
        assert_eq!(seen.system.unwrap().to_string(), "amzn 2023");
        assert_eq!(Files::default().seen(), Seen::default());
        assert!(Files::default().list(&lower[..lower.len() - 9]).is_err());
    }

    #[test]
    fn an_image_keeps_its_own_name() {
        let own = |image: &str| {
            let request = Request {
                image: image.to_owned(),
                onto: None,
                names: Vec::new(),
                push: false,
                project: (PathBuf::new(), Vec::new()),
            };
            names(&request).map(|names| names[0].to_string()).ok()
        };
        assert_eq!(own("app:1").as_deref(), Some("app:1"));
        assert_eq!(
            own("docker://r.example/app:1").as_deref(),
            Some("r.example/app:1")
        );
        let digest = Digest::of("x");
        assert_eq!(
            own(&format!("docker://r.example/app:1@{digest}")).as_deref(),
            Some("r.example/app:1")
        );
        assert_eq!(own(&format!("docker://r.example/app@{digest}")), None);
        assert_eq!(own("oci:directory:app"), None);
    }
}
