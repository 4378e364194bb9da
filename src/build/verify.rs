//! The proof of an image: it is built again from its sources and locks, and compared.
//!
//! Nothing of the user's store goes into that build: it has one of its own, which its caller removes. Where the two
//! are not the same, each difference is told with what it most likely comes from. That is a guess by names and
//! paths, and nothing else relies on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::blob_store::{self, BlobStore};
use crate::build::{self, Error, Tools, explicit};
use crate::digest::Digest;
use crate::lambda::check;
use crate::lambda::{ENTRY_POINT, RUNTIME_DIR};
use crate::oci::Descriptor;
use crate::oci::compare::{self, Change, Difference, Place, Side};
use crate::oci::image::{self, BASE_DIGEST, BASE_NAME, Image};
use crate::oci::layout;
use crate::plan::Plan;
use crate::registry::pull;

/// As many files of one place are told; of the others only the number.
const MOST_FILES: usize = 20;

/// What a comparison found.
#[derive(Debug)]
pub struct Report {
    /// The first image.
    pub first: Digest,
    /// The second.
    pub second: Digest,
    /// Whether they are one image, be it in other media types.
    pub same: bool,
    /// What differs, the documents before the layers.
    pub findings: Vec<Finding>,
    /// How many more files differ in which layers.
    pub further: Vec<(Place, usize)>,
}

/// A difference, and where it comes from.
#[derive(Debug)]
pub struct Finding {
    /// The difference.
    pub difference: Difference,
    /// The likely cause, if there is one.
    pub cause: Option<Cause>,
}

/// What makes two builds differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// They stand on two bases.
    Base,
    /// Other packages were locked.
    Lock(Vec<Package>),
    /// The bytecode is another interpreter's; its magic numbers, where they differ.
    Interpreter(Option<(u16, u16)>),
    /// Other interpreters compiled, as the images say.
    Compilers(String, String),
    /// One of the two has no bytecode.
    Bytecode,
    /// `SOURCE_DATE_EPOCH`.
    Epoch,
    /// The function's own files.
    Sources,
    /// Flags, variables or the project's configuration.
    Settings,
    /// What layers were made for differs, and what came of it does not.
    Tools,
    /// Another version of this tool.
    Lambimg,
}

/// A package that two images have in other versions, or as other wheels of one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// As its directory in the image has it.
    pub name: String,
    /// The version in the first image, if it is there.
    pub first: Option<String>,
    /// The version in the second.
    pub second: Option<String>,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (&self.first, &self.second) {
            (Some(first), Some(second)) if first == second => {
                write!(f, "another wheel of {name} {first}")
            }
            (Some(first), Some(second)) => write!(f, "{name} {first}, not {second}"),
            (Some(version), None) | (None, Some(version)) => {
                write!(f, "{name} {version} in one alone")
            }
            (None, None) => f.write_str(name),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("another base"),
            Self::Lock(packages) => {
                f.write_str("another lock")?;
                for (number, package) in packages.iter().take(3).enumerate() {
                    write!(f, "{}{package}", if number == 0 { ": " } else { "; " })?;
                }
                match packages.len().saturating_sub(3) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
            Self::Interpreter(Some((first, second))) => write!(
                f,
                "another interpreter: bytecode of magic number {first}, not {second}"
            ),
            Self::Interpreter(None) => f.write_str("another interpreter of the same Python"),
            Self::Compilers(first, second) => {
                write!(f, "another interpreter: {first}, not {second}")
            }
            Self::Tools => {
                f.write_str("another interpreter of the same Python, or another lambimg")
            }
            Self::Bytecode => f.write_str("bytecode in one alone"),
            Self::Epoch => f.write_str("another SOURCE_DATE_EPOCH"),
            Self::Sources => f.write_str("the function's sources"),
            Self::Settings => f.write_str("other settings"),
            Self::Lambimg => f.write_str("another lambimg"),
        }
    }
}

/// An image, and the stores that may have its layers.
struct Subject {
    image: Image,
    store: BlobStore,
}

/// Opens an image; what is in no store of the user's comes into `scratch`.
async fn subject(text: &str, tools: &Tools, scratch: &BlobStore) -> Result<Subject, Error> {
    let elsewhere = text.starts_with("docker://") || text.parse::<layout::Place>().is_ok();
    let store = if elsewhere { scratch } else { &tools.store }.clone();
    let tools = Tools {
        store: store.clone(),
        ..tools.clone()
    };
    let image = build::open(text, &tools).await?;
    Ok(Subject { image, store })
}

/// A store in `directory`, which is this run's own.
fn own_store(directory: &Path, name: &str) -> Result<BlobStore, Error> {
    Ok(BlobStore::open(directory.join(name))?)
}

/// Builds the image anew, in `directory`, and compares it with the one that the user calls `image`.
///
/// # Errors
/// Those of opening and of building; [`Error::Compare`].
pub async fn verify(
    image: &str,
    plan: Plan,
    directory: &Path,
    tools: &Tools,
) -> Result<Report, Error> {
    let scratch = own_store(directory, "image")?;
    // First, because it costs little and may be misspelt.
    let first = subject(image, tools, &scratch).await?;
    let fresh = Tools {
        store: own_store(directory, "build")?,
        ..tools.clone()
    };
    let built = build::build(plan, &fresh).await?;
    let second = Subject {
        image: built.image,
        store: fresh.store,
    };
    compare_subjects(first, second, &scratch, tools).await
}

/// Compares two images by what the user calls them; `directory` takes what has to be fetched.
///
/// # Errors
/// Those of opening; [`Error::Compare`].
pub async fn compare(
    first: &str,
    second: &str,
    directory: &Path,
    tools: &Tools,
) -> Result<Report, Error> {
    let scratch = own_store(directory, "image")?;
    let first = subject(first, tools, &scratch).await?;
    let second = subject(second, tools, &scratch).await?;
    compare_subjects(first, second, &scratch, tools).await
}

async fn compare_subjects(
    first: Subject,
    second: Subject,
    scratch: &BlobStore,
    tools: &Tools,
) -> Result<Report, Error> {
    let digests = (
        first.image.manifest.digest(),
        second.image.manifest.digest(),
    );
    if digests.0 == digests.1 || compare::is_retyped(&first.image, &second.image) {
        return Ok(Report {
            first: digests.0,
            second: digests.1,
            same: true,
            findings: Vec::new(),
            further: Vec::new(),
        });
    }
    let [left, right] = compare::layers_to_read(&first.image, &second.image);
    for (subject, layers) in [(&first, left), (&second, right)] {
        for layer in layers {
            if subject.store.contains(&layer.digest, layer.size)
                || scratch.contains(&layer.digest, layer.size)
            {
                continue;
            }
            let origin = subject.image.origins.get(&layer.digest);
            let origin = origin.ok_or(layout::Error::Missing(layer.digest))?;
            let (registries, progress) = (&tools.registries, &tools.progress);
            pull::fetch_blob(layer, origin, scratch, registries, progress).await?;
        }
    }
    let scratch = scratch.clone();
    tools.progress.step("comparing");
    let work = move || {
        let open = |side, layer: &Descriptor| {
            let own = if side == Side::First { &first } else { &second };
            let reader = match own.store.reader(&layer.digest) {
                Err(blob_store::Error::Missing(_)) => scratch.reader(&layer.digest),
                reader => reader,
            };
            reader.map_err(io::Error::other)
        };
        let found = compare::compare(&first.image, &second.image, open);
        let found = found.map_err(|error| or_damage(error, [&first.store, &second.store]))?;
        Ok(report(digests, found))
    };
    tools.block(work).await?
}

/// What does not read as a layer may be damage of the store, which is told as such.
fn or_damage(error: compare::Error, stores: [&BlobStore; 2]) -> Error {
    let compare::Error::Read { side, layer, .. } = &error else {
        return error.into();
    };
    let store = stores[usize::from(*side == Side::Second)];
    let seen = store.take_damaged().contains(layer);
    match store.prove(layer) {
        _ if seen => blob_store::Error::Damaged(*layer).into(),
        Err(damaged @ blob_store::Error::Damaged(_)) => {
            store.take_damaged();
            damaged.into()
        }
        _ => error.into(),
    }
}

/// Without what follows from the rest: where layers differ, so does what they were made for.
fn telling(mut found: Vec<Difference>) -> Vec<Difference> {
    let is_of_layers = |difference: &Difference| match difference {
        Difference::Types { .. } | Difference::Document { .. } | Difference::Spelling { .. } => {
            false
        }
        Difference::Base { .. }
        | Difference::Compression { .. }
        | Difference::Form { .. }
        | Difference::Dates { .. }
        | Difference::File { .. } => true,
    };
    if found.iter().any(is_of_layers) {
        found.retain(|difference| match difference {
            Difference::Document { key, .. } => !is_of_keys(key),
            _ => true,
        });
    }
    found
}

/// Whether a config's key says what layers were made for.
fn is_of_keys(key: &str) -> bool {
    let label = key.strip_prefix("config.Labels.");
    label == Some(image::LAYERS)
}

fn report(digests: (Digest, Digest), found: Vec<Difference>) -> Report {
    let found = telling(found);
    let clues = Clues::of(&found);
    let mut told: Vec<Finding> = Vec::new();
    let mut further: Vec<(Place, usize)> = Vec::new();
    let mut here: (Option<Place>, usize) = (None, 0);
    for difference in in_order(found) {
        if let Difference::File { place, .. } = &difference {
            if here.0.as_ref() != Some(place) {
                here = (Some(place.clone()), 0);
            }
            here.1 += 1;
            if here.1 > MOST_FILES {
                match further.last_mut() {
                    Some((last, count)) if last == place => *count += 1,
                    _ => further.push((place.clone(), 1)),
                }
                continue;
            }
        }
        let cause = clues.cause(&difference);
        let difference = without_secrets(difference);
        told.push(Finding { difference, cause });
    }
    Report {
        first: digests.0,
        second: digests.1,
        same: false,
        findings: told,
        further,
    }
}

/// With `…` for each secret in what documents say: of it is told where it differs, and not what it is.
fn without_secrets(mut difference: Difference) -> Difference {
    if let Difference::Document { key, first, second } = &mut difference {
        for value in [first, second].into_iter().flatten() {
            hide_secrets(key, value);
        }
    }
    difference
}

/// Hides what is secret in the value of a config's or manifest's key, or below it.
fn hide_secrets(key: &str, value: &mut Value) {
    let name = key.rsplit('.').next().unwrap_or_default();
    match value {
        Value::String(text) if check::is_secret(key, text) => check::HIDDEN.clone_into(text),
        Value::String(text) => *text = check::without_secrets(text),
        Value::Array(all) if name == "Env" => {
            for line in all {
                let Some((name, of_name)) = line.as_str().and_then(|line| line.split_once('='))
                else {
                    continue;
                };
                let mut of_name = Value::from(of_name);
                hide_secrets(&format!("{key}.{name}"), &mut of_name);
                *line = format!("{name}={}", of_name.as_str().unwrap_or_default()).into();
            }
        }
        Value::Array(all) => {
            let words: Option<Vec<_>> = all.iter().map(Value::as_str).collect();
            if let Some(words) = words {
                *value = check::shown(&words).into();
            } else {
                for one in all {
                    hide_secrets(key, one);
                }
            }
        }
        Value::Object(all) => {
            for (name, one) in all {
                hide_secrets(&format!("{key}.{name}"), one);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// As they were, but for the files of which the first bytes are known: they come before others of their layers.
fn in_order(mut found: Vec<Difference>) -> Vec<Difference> {
    let rank = |difference: &Difference| match difference {
        Difference::File { place, change, .. } => {
            let is_shown = matches!(change, Change::Contents { at: Some(_), .. });
            Some((place.first.start, place.second.start, !is_shown))
        }
        _ => None,
    };
    // Stable, and only within runs of files.
    for run in found.chunk_by_mut(|a, b| rank(a).is_some() && rank(b).is_some()) {
        run.sort_by_key(rank);
    }
    found
}

/// What all differences together say of where they come from.
struct Clues {
    other_base: bool,
    packages: BTreeSet<Package>,
    /// Paths of files that differ in more than their date.
    changed: BTreeSet<String>,
}

impl Clues {
    fn of(found: &[Difference]) -> Self {
        let mut versions: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
        let mut changed = BTreeSet::new();
        let mut other_base = false;
        for difference in found {
            match difference {
                Difference::Base { .. } => other_base = true,
                Difference::Document { key, .. } if key.ends_with(BASE_DIGEST) => other_base = true,
                Difference::File { path, change, .. } => {
                    changed.insert(path.clone());
                    if let Some((name, version)) = package_of(path) {
                        let (first, second) = versions.entry(name).or_default();
                        if !matches!(change, Change::OnlySecond) {
                            first.insert(version);
                        }
                        if !matches!(change, Change::OnlyFirst) {
                            second.insert(version);
                        }
                    }
                }
                _ => {}
            }
        }
        let package = |(name, (first, second)): (&str, (BTreeSet<&str>, BTreeSet<&str>))| Package {
            name: name.to_owned(),
            first: first.first().map(|&version| version.to_owned()),
            second: second.first().map(|&version| version.to_owned()),
        };
        Self {
            other_base,
            packages: versions.into_iter().map(package).collect(),
            changed,
        }
    }

    fn cause(&self, difference: &Difference) -> Option<Cause> {
        match difference {
            Difference::Types { .. } => self.other_base.then_some(Cause::Base),
            Difference::Document { key, first, second } => {
                Some(self.of_document(key, first.as_ref(), second.as_ref()))
            }
            Difference::Base { .. } => Some(Cause::Base),
            Difference::Spelling { .. }
            | Difference::Compression { .. }
            | Difference::Form { .. } => Some(Cause::Lambimg),
            Difference::Dates { .. } => Some(Cause::Epoch),
            Difference::File {
                place,
                path,
                change,
            } => self.of_file(place, path, change),
        }
    }

    fn of_document(&self, key: &str, first: Option<&Value>, second: Option<&Value>) -> Cause {
        let in_history = key.starts_with("history");
        let of_base = [BASE_DIGEST, BASE_NAME]
            .iter()
            .any(|name| key.ends_with(name));
        let is_set_by_projects = key == "config.Cmd" || key == "architecture";
        if key.ends_with("created") && first.is_some() && second.is_some() {
            Cause::Epoch
        } else if key.strip_prefix("config.Labels.") == Some(build::BYTECODE_LABEL) {
            match (
                first.and_then(Value::as_str),
                second.and_then(Value::as_str),
            ) {
                (Some(first), Some(second)) => {
                    Cause::Compilers(first.to_owned(), second.to_owned())
                }
                _ => Cause::Bytecode,
            }
        } else if is_of_keys(key) {
            Cause::Tools
        } else if key.strip_prefix("config.Labels.") == Some(explicit::LABEL) {
            Cause::Settings
        } else if of_base || key.starts_with("config.Labels.lambimg.") {
            Cause::Base
        } else if in_history && !self.packages.is_empty() {
            self.lock(None)
        } else if self.other_base && !is_set_by_projects {
            Cause::Base
        } else {
            Cause::Settings
        }
    }

    fn of_file(&self, place: &Place, path: &str, change: &Change) -> Option<Cause> {
        if let Some(source) = source_of(path)
            && !self.changed.contains(&source)
        {
            return Some(match change {
                Change::Contents { heads, .. } => Cause::Interpreter(magic_numbers(heads)),
                _ => Cause::Bytecode,
            });
        }
        if place.what.as_deref() == Some("function") {
            return Some(Cause::Sources);
        }
        let is_bootstrap = path.starts_with(RUNTIME_DIR) || path == ENTRY_POINT;
        if !self.packages.is_empty() {
            return Some(self.lock(Some(path)));
        }
        if is_bootstrap {
            return Some(Cause::Lambimg);
        }
        // Layers of packages are named by them; of other tools' nothing is known.
        place.what.is_some().then(|| Cause::Lock(Vec::new()))
    }

    /// The package that a path belongs to by its name, else all that differ.
    fn lock(&self, path: Option<&str>) -> Cause {
        let of_path = |package: &&Package| {
            let mut parts = path.unwrap_or_default().split('/');
            parts.any(|part| {
                let name = part.split_once('-').map_or(part, |(name, _)| name);
                name.eq_ignore_ascii_case(&package.name)
            })
        };
        let own: Vec<_> = self.packages.iter().filter(of_path).cloned().collect();
        Cause::Lock(if own.is_empty() {
            self.packages.iter().cloned().collect()
        } else {
            own
        })
    }
}

/// Name and version of the package whose `*.dist-info` a path is in.
fn package_of(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.split('/');
    parts.find_map(|part| part.strip_suffix(".dist-info")?.rsplit_once('-'))
}

/// The module that a `.pyc` file is compiled from.
fn source_of(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".pyc")?;
    let (directory, name) = stem.rsplit_once("__pycache__/")?;
    let (module, _tag) = name.split_once('.')?;
    Some(format!("{directory}{module}.py"))
}

/// The numbers in the first two bytes of two `.pyc` files, if they differ.
fn magic_numbers(heads: &(Vec<u8>, Vec<u8>)) -> Option<(u16, u16)> {
    let number = |head: &[u8]| Some(u16::from_le_bytes([*head.first()?, *head.get(1)?]));
    let (first, second) = (number(&heads.0)?, number(&heads.1)?);
    (first != second).then_some((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(what: &str, path: &str, change: Change) -> Difference {
        Difference::File {
            place: Place {
                first: 0..1,
                second: 0..1,
                what: Some(what.to_owned()),
            },
            path: path.to_owned(),
            change,
        }
    }

    fn contents(first: &[u8], second: &[u8]) -> Change {
        Change::Contents {
            sizes: (first.len() as u64, second.len() as u64),
            heads: (first.to_vec(), second.to_vec()),
            at: None,
        }
    }

    fn causes(found: Vec<Difference>) -> Vec<String> {
        let report = report((Digest::of("a"), Digest::of("b")), found);
        let cause = |finding: &Finding| finding.cause.as_ref().map_or("-".into(), Cause::to_string);
        report.findings.iter().map(cause).collect()
    }

    #[test]
    fn causes_are_told_by_names_and_paths() {
        let package = |first, second| {
            [
                file(
                    "one 1",
                    &format!("var/task/one-{first}.dist-info/RECORD"),
                    Change::OnlyFirst,
                ),
                file(
                    "one 1",
                    &format!("var/task/one-{second}.dist-info/RECORD"),
                    Change::OnlySecond,
                ),
                file("one 1", "var/task/one/__init__.py", contents(b"1", b"2")),
                file(
                    "one 1",
                    "var/task/one/__pycache__/__init__.cpython-312.pyc",
                    contents(b"1", b"2"),
                ),
                file("function", "var/task/app.py", contents(b"1", b"2")),
            ]
        };
        let lock = "another lock: one 1.0, not 2.0";
        let function = "the function's sources";
        assert_eq!(
            causes(package("1.0", "2.0").into()),
            [lock, lock, lock, lock, function]
        );
        let again = file(
            "one 1",
            "var/task/one-1.dist-info/RECORD",
            contents(b"1", b"2"),
        );
        assert_eq!(
            causes(vec![again]),
            ["another lock: another wheel of one 1"]
        );
        let pyc = |change| {
            file(
                "one 1",
                "var/task/one/__pycache__/a.cpython-312.pyc",
                change,
            )
        };
        let found = vec![
            pyc(contents(&[203, 13, 13, 10], &[167, 13, 13, 10])),
            pyc(contents(&[203, 13, 13, 10, 1], &[203, 13, 13, 10, 2])),
            pyc(Change::OnlySecond),
        ];
        assert_eq!(
            causes(found),
            [
                "another interpreter: bytecode of magic number 3531, not 3495",
                "another interpreter of the same Python",
                "bytecode in one alone",
            ]
        );
        let runtime = file(
            "runtime client and entry point",
            "var/runtime/bootstrap",
            contents(b"1", b"2"),
        );
        assert_eq!(causes(vec![runtime]), ["another lambimg"]);
    }

    #[test]
    fn what_layers_were_made_for_is_told_where_nothing_else_is() {
        let label = |name: &str, first: &str, second: &str| Difference::Document {
            key: format!("config.Labels.{name}"),
            first: Some(first.into()),
            second: Some(second.into()),
        };
        let keys = || label("lambimg.layers", "1", "2");
        let tools = "another interpreter of the same Python, or another lambimg";
        assert_eq!(causes(vec![keys()]), [tools]);
        let glibc = || label("lambimg.glibc", "2.26", "2.34");
        assert_eq!(causes(vec![glibc(), keys()]), ["another base", tools]);
        let set = label("lambimg.settings", "none", "{}");
        assert_eq!(causes(vec![set]), ["other settings"]);
        let compiler = label("lambimg.bytecode", "cpython 3.12.7", "cpython 3.12.8");
        let pyc = file(
            "one 1",
            "a/__pycache__/b.cpython-312.pyc",
            contents(b"1", b"2"),
        );
        assert_eq!(
            causes(vec![compiler, keys(), pyc]),
            [
                "another interpreter: cpython 3.12.7, not cpython 3.12.8",
                "another interpreter of the same Python",
            ]
        );
    }

    #[test]
    fn secrets_of_documents_are_not_shown() {
        let key = concat!("AK", "IAQ3EGP5XWTF7MNB2Z");
        let document = |key: &str, value: Value| Difference::Document {
            key: key.to_owned(),
            first: Some(value),
            second: None,
        };
        let found = vec![
            document("config.Env.DB_PASSWORD", json!("hunter2hunter2")),
            document("config.Env.MODE", json!("fast")),
            document("config.Env.PLAIN", json!(key)),
            document(
                "config.Env",
                json!(["TOKEN=hunter2hunter2", "A=b", "OPTIONS=-password=hunter2"]),
            ),
            document(
                "config",
                json!({"Env": {"A": "b", "TOKEN": "hunter2hunter2"}, "User": "one"}),
            ),
            document("config.Cmd", json!(["app", "--token", "hunter2", "x"])),
            document("config.Labels.org.acme.password", json!("hunter2hunter2")),
            document("manifest.annotations.API_KEY", json!("hunter2hunter2")),
            document("history.2.created_by", json!("RUN TOKEN=hunter2 make")),
            document(
                "history",
                json!([{"created_by": "ENV DB_PASSWORD=hunter2", "empty_layer": true}]),
            ),
        ];
        let report = report((Digest::of("a"), Digest::of("b")), found);
        let told = report.findings.iter().map(|finding| {
            let Difference::Document { key, first, .. } = &finding.difference else {
                unreachable!()
            };
            format!("{key}: {}", first.as_ref().unwrap())
        });
        let told = told.collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(told, @r#"
        config.Env.DB_PASSWORD: "…"
        config.Env.MODE: "fast"
        config.Env.PLAIN: "…"
        config.Env: ["TOKEN=…","A=b","OPTIONS=-password=…"]
        config: {"Env":{"A":"b","TOKEN":"…"},"User":"one"}
        config.Cmd: ["app","--token","…","x"]
        config.Labels.org.acme.password: "…"
        manifest.annotations.API_KEY: "…"
        history.2.created_by: "RUN TOKEN=… make"
        history: [{"created_by":"ENV DB_PASSWORD=…","empty_layer":true}]
        "#);
        assert!(!told.contains("hunter2") && !told.contains(key));
    }

    #[test]
    fn of_many_files_those_with_bytes_come_first() {
        let mut found: Vec<_> = (0..30)
            .map(|number| file("function", &format!("a/{number:02}"), Change::OnlyFirst))
            .collect();
        let at = compare::At {
            offset: 3,
            first: vec![1],
            second: vec![2],
        };
        let shown = Change::Contents {
            sizes: (4, 4),
            heads: (vec![], vec![]),
            at: Some(at),
        };
        found.push(file("function", "z", shown));
        let report = report((Digest::of("a"), Digest::of("b")), found);
        assert_eq!(report.findings.len(), MOST_FILES);
        assert!(
            matches!(&report.findings[0].difference, Difference::File { path, .. } if path == "z")
        );
        assert_eq!(report.further.len(), 1);
        assert_eq!(report.further[0].1, 11);
    }
}
