//! What is in an image: its layers and what each is, its packages with their sizes, every file and whose it is.
//!
//! Pure, and of any image, whoever made it: what is known of it is what its documents and its files say. Sizes are in
//! bytes. Who shows it, and how, is not known here.

use std::collections::HashMap;

use serde_json::Value;

use crate::digest::Digest;
use crate::lambda::check::contents::Seen;
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{self, Installed};
use crate::oci::flatten::{Entry, Found, Kind};
use crate::oci::image::{BASE_COMMENT, BASE_DIGEST, BASE_NAME, MADE_BY, layer_steps};

/// What is in an image. Layers, packages and files name one another by their places in these lists.
#[derive(Debug)]
pub struct Inventory<'a> {
    /// Which image it stands on, as far as it says so.
    pub base: Option<Base>,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// The distributions in it: those on the module path of its Python first, by that path's order, and of one
    /// directory by path.
    pub packages: Vec<Package<'a>>,
    /// All regular files that no upper layer hides, by path; one with several names has one.
    pub files: Vec<File<'a>>,
}

/// The image that another one stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its name, if it has one that means something elsewhere.
    pub name: Option<String>,
    /// The digest of its manifest.
    pub digest: Option<String>,
    /// When the newest of its layers was made, in RFC 3339, if the history says so.
    pub created: Option<String>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What is in it by the word of who made it: `function`, the names of wheels, a step of a Dockerfile without the
    /// secrets that it sets.
    pub what: String,
    /// Whether it is the base's.
    pub is_base: bool,
    /// The digest of its blob.
    pub digest: Digest,
    /// The digest of its tar.
    pub diff_id: Option<Digest>,
    /// The length of its blob.
    pub size: u64,
    /// The length of its tar.
    pub unpacked: u64,
    /// Regular files in it.
    pub files: usize,
    /// Bytes of its files that an upper layer hides or has again.
    pub hidden: u64,
    /// Bytes of its blob that these take, about.
    pub hidden_packed: u64,
}

/// An installed distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package<'a> {
    /// Its own documents.
    pub installed: Installed<'a>,
    /// Whether a layer of the base has it.
    pub is_base: bool,
    /// How many of its files are there, with what was compiled of them.
    pub files: usize,
    /// Bytes of these files.
    pub unpacked: u64,
    /// Bytes of the layers' blobs that they take, about.
    pub packed: u64,
    /// Files that its `RECORD` states and that are not there: left out when it was installed, or removed.
    pub left_out: Vec<String>,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File<'a> {
    /// Below the root.
    pub path: &'a str,
    /// Its layer.
    pub layer: usize,
    /// Its bytes.
    pub size: u64,
    /// Bytes of its layer's blob that it takes, about.
    pub packed: u64,
    /// Permissions with the set-id and sticky bits.
    pub mode: u32,
    /// The package that has it.
    pub package: Option<usize>,
    /// The digest of its bytes, where these were looked at: of files that may be a distribution's or the function's.
    pub digest: Option<Digest>,
}

impl<'a> Inventory<'a> {
    /// What is in an image.
    pub fn of(image: &'a Subject) -> Self {
        let history = layer_steps(&image.documents.config.value);
        let base = image.base;
        let mut packages = packages(image);
        let files = files(image, &mut packages);
        Self {
            base: base_of(image, &history[..base.min(history.len())]),
            layers: layers(image, &history, &files),
            packages,
            files,
        }
    }

    /// The length of all blobs of layers.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// The length of all tars of layers: what Lambda counts.
    pub fn unpacked(&self) -> u64 {
        self.layers.iter().map(|layer| layer.unpacked).sum()
    }
}

fn text<'a>(step: &'a Value, key: &str) -> &'a str {
    step[key].as_str().unwrap_or_default()
}

fn base_of(image: &Subject, history: &[&Value]) -> Option<Base> {
    let label = |key: &str| Some(image.documents.run("Labels")[key].as_str()?.to_owned());
    let created = history.iter().filter_map(|step| step["created"].as_str());
    let base = Base {
        name: label(BASE_NAME),
        digest: label(BASE_DIGEST),
        // All are in UTC and of the same form where one tool wrote them.
        created: created.max().map(str::to_owned),
    };
    (base.name.is_some() || base.digest.is_some() || !history.is_empty()).then_some(base)
}

fn layers(image: &Subject, history: &[&Value], files: &[File<'_>]) -> Vec<Layer> {
    let mut shown = vec![(0, 0); image.layers.len()];
    for file in files {
        let (unpacked, packed) = &mut shown[file.layer];
        *unpacked += file.size;
        *packed += file.packed;
    }
    let layers = image.layers.iter().enumerate();
    let layers = layers.map(|(number, layer)| {
        let regular = layer.entries.iter();
        let regular = regular.filter(|entry| entry.kind == Kind::File && !is_whiteout(&entry.name));
        let step = history.get(number).copied().unwrap_or(&Value::Null);
        let comment = text(step, "comment");
        let what = match text(step, "created_by") {
            MADE_BY => comment.strip_prefix(BASE_COMMENT).unwrap_or(comment),
            other => other,
        };
        let (unpacked, packed) = shown[number];
        let all = |size: fn(&Entry<Seen>) -> u64| regular.clone().map(size).sum::<u64>();
        Layer {
            what: check::without_secrets(what),
            is_base: number < image.base,
            digest: layer.digest,
            diff_id: layer.diff_id,
            size: layer.size,
            unpacked: layer.unpacked,
            files: regular.clone().count(),
            hidden: all(|entry| entry.size).saturating_sub(unpacked),
            hidden_packed: all(|entry| entry.packed).saturating_sub(packed),
        }
    });
    layers.collect()
}

fn is_whiteout(name: &str) -> bool {
    name.rsplit('/')
        .next()
        .is_some_and(|name| name.starts_with(".wh."))
}

fn packages(image: &Subject) -> Vec<Package<'_>> {
    let all = check::installed(image).into_iter();
    let all = all.map(|installed| Package {
        is_base: installed.layer < image.base,
        files: 0,
        unpacked: 0,
        packed: 0,
        left_out: {
            let stated = installed.files.iter();
            let gone = stated.filter(|path| !image.tree.contains(path) && !is_bytecode(path));
            gone.cloned().collect()
        },
        installed,
    });
    all.collect()
}

/// Whether it is compiled of a source, with which it comes and goes.
pub(super) fn is_bytecode(path: &str) -> bool {
    let ending = path.rsplit_once('.').map(|(_, ending)| ending);
    ending == Some("pyc") && path.split('/').any(|part| part == "__pycache__")
}

/// All files, each once: a hard link is the file that it names.
fn files<'a>(image: &'a Subject, packages: &mut [Package<'_>]) -> Vec<File<'a>> {
    let owners = Owners::of(packages);
    let mut seen = std::collections::HashSet::new();
    let mut files = Vec::new();
    for path in image.tree.paths() {
        let Some(Found { layer, entry }) = image.get(path) else {
            continue;
        };
        if entry.kind != Kind::File || !seen.insert(std::ptr::from_ref(entry)) {
            continue;
        }
        let package = owners.owner(path);
        if let Some(package) = package.map(|place| &mut packages[place]) {
            package.files += 1;
            package.unpacked += entry.size;
            package.packed += entry.packed;
        }
        files.push(File {
            path,
            layer,
            size: entry.size,
            packed: entry.packed,
            mode: entry.mode,
            package,
            digest: entry.seen.as_ref().and_then(|seen: &Seen| seen.digest),
        });
    }
    files
}

/// The packages' places by what is theirs.
struct Owners {
    files: HashMap<String, usize>,
    /// Their own papers, or the directories of these.
    infos: HashMap<String, usize>,
}

impl Owners {
    fn of(packages: &[Package<'_>]) -> Self {
        let mut owners = Self {
            files: HashMap::new(),
            infos: HashMap::new(),
        };
        for (place, package) in packages.iter().enumerate() {
            for path in &package.installed.files {
                owners.files.entry(path.clone()).or_insert(place);
            }
            let info = package.installed.info.to_owned();
            owners.infos.insert(info, place);
        }
        owners
    }

    /// The package whose file it is: by its `RECORD`, as what was compiled of one of its modules, or as its own papers.
    fn owner(&self, path: &str) -> Option<usize> {
        if let Some(place) = self.files.get(path) {
            return Some(*place);
        }
        if let Some(source) = source_of(path) {
            return self.files.get(&source).copied();
        }
        let directory = path.rsplit_once('/').map(|(directory, _)| directory);
        let mut infos = [Some(path), directory].into_iter().flatten();
        infos.find_map(|info| self.infos.get(info)).copied()
    }
}

/// The module that a file of `__pycache__` was compiled of.
fn source_of(path: &str) -> Option<String> {
    let (directory, name) = path.rsplit_once("/__pycache__/")?;
    let (stem, _) = name.strip_suffix(".pyc")?.split_once('.')?;
    Some(format!("{directory}/{stem}.py"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;
    use crate::lambda::check::contents::Contents;
    use crate::lambda::check::subject::{Document, Documents};
    use crate::oci::Descriptor;
    use crate::oci::flatten;

    type Files<'a> = &'a [(&'a str, &'a [u8])];

    fn gzip(files: Files<'_>) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&tar.into_inner().unwrap()).unwrap();
        gzip.finish().unwrap()
    }

    fn subject(history: &Value, layers: &[Files<'_>]) -> Subject {
        let config = json!({
            "config": {
                "Entrypoint": ["/lambda-entrypoint.sh"],
                "Cmd": ["app.handler"],
                "Labels": {BASE_NAME: "r.test/base:1"},
            },
            "history": history,
        });
        let documents = Documents {
            index: None,
            manifest: None,
            config: Document::new(config.to_string().into_bytes(), None, None),
            wanted: None,
            today: "2026-11-23".to_owned(),
        };
        let contents = Contents::of(&documents).of_layers(&vec![1; layers.len()]);
        let read = layers.iter().zip(&contents).map(|(files, contents)| {
            let blob = gzip(files);
            let descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", &blob);
            flatten::read(&descriptor, &*blob, |entry| contents.reader(entry)).unwrap()
        });
        let layers = read.collect();
        Subject::new(documents, layers)
    }

    const BASE: Files<'_> = &[
        ("etc/os-release", b"ID=amzn"),
        ("lambda-entrypoint.sh", b"#!/bin/sh"),
        ("var/lang/bin/python3.12", b""),
        ("var/lang/lib/python3.12/os.py", b""),
        ("var/runtime/bootstrap", b"#!/bin/sh"),
    ];
    const WHEELS: Files<'_> = &[
        ("var/task/one/__init__.py", b"a = 1"),
        (
            "var/task/one/__pycache__/__init__.cpython-312.pyc",
            b"bytecode",
        ),
        ("var/task/one/extra.txt", b"nobody's"),
        (
            "var/task/one-1.0.dist-info/METADATA",
            b"Metadata-Version: 2.1\nName: One\nVersion: 1.0\n",
        ),
        (
            "var/task/one-1.0.dist-info/RECORD",
            b"one/__init__.py,,\none/gone.py,,\none/__pycache__/gone.cpython-312.pyc,,\none-1.0.dist-info/RECORD,,\n",
        ),
        ("var/task/one-1.0.dist-info/INSTALLER", b"pip"),
        ("var/task/large.bin", &[0; 5000]),
        ("var/task/again.txt", b"first"),
    ];
    const FUNCTION: Files<'_> = &[
        ("var/task/.wh.large.bin", b""),
        ("var/task/again.txt", b"second"),
        ("var/task/app.py", b"def handler(event, context): ..."),
    ];

    fn history() -> Value {
        json!([
            {"created": "2026-11-02T10:00:00Z", "created_by": "COPY rootfs /"},
            {"created": "2026-11-03T10:00:00Z", "created_by": "ENV A=b", "empty_layer": true},
            {"created": "1980-01-01T00:00:00Z", "created_by": MADE_BY, "comment": "one 1.0"},
            {"created": "1980-01-01T00:00:00Z", "created_by": MADE_BY, "comment": "function"},
        ])
    }

    #[test]
    fn layers_are_what_their_makers_say() {
        let image = subject(&history(), &[BASE, WHEELS, FUNCTION]);
        let inventory = Inventory::of(&image);
        let layers = inventory.layers.iter();
        let told: Vec<_> = layers
            .map(|layer| (&*layer.what, layer.is_base, layer.files, layer.hidden))
            .collect();
        let expected = [
            ("COPY rootfs /", true, 5, 0),
            ("one 1.0", false, 8, 5005),
            // A mark that removes is no file.
            ("function", false, 2, 0),
        ];
        assert_eq!(told, expected);
        let [base, wheels, _] = &*inventory.layers else {
            panic!("{:?}", inventory.layers)
        };
        assert_eq!(base.hidden_packed, 0);
        assert!(wheels.hidden_packed < wheels.size);
        let base = inventory.base.as_ref().unwrap();
        assert_eq!(base.name.as_deref(), Some("r.test/base:1"));
        // A step without a layer is none of those that tell of one.
        assert_eq!(base.created.as_deref(), Some("2026-11-02T10:00:00Z"));
        let sizes = image.layers.iter().map(|layer| layer.size);
        assert_eq!(inventory.size(), sizes.sum::<u64>());
    }

    #[test]
    fn files_are_those_packages_that_record_them() {
        let image = subject(&history(), &[BASE, WHEELS, FUNCTION]);
        let inventory = Inventory::of(&image);
        let [one] = &*inventory.packages else {
            panic!("{:?}", inventory.packages)
        };
        assert_eq!((one.installed.name, one.installed.version), ("one", "1.0"));
        assert!(!one.is_base);
        assert_eq!(one.left_out, ["var/task/one/gone.py"]);
        let own = inventory.files.iter();
        let own: Vec<_> = own.filter(|file| file.package.is_some()).collect();
        let paths: Vec<_> = own.iter().map(|file| file.path).collect();
        let expected = [
            "var/task/one-1.0.dist-info/INSTALLER",
            "var/task/one-1.0.dist-info/METADATA",
            "var/task/one-1.0.dist-info/RECORD",
            "var/task/one/__init__.py",
            "var/task/one/__pycache__/__init__.cpython-312.pyc",
        ];
        assert_eq!(paths, expected);
        assert_eq!(one.files, own.len());
        assert_eq!(one.unpacked, own.iter().map(|file| file.size).sum::<u64>());
        let again = inventory.files.iter();
        let again: Vec<_> = again
            .filter(|file| file.path.ends_with("again.txt"))
            .map(|file| (file.layer, file.size))
            .collect();
        assert_eq!(again, [(2, 6)]);
    }

    #[test]
    fn bytecode_is_told_from_a_packages_own() {
        assert!(is_bytecode("one/__pycache__/a.cpython-312.pyc"));
        assert!(!is_bytecode("one/a.pyc"));
    }

    #[test]
    fn papers_are_their_packages() {
        let files: Files<'_> = &[
            (
                "usr/lib/python3/dist-packages/old-1.egg-info",
                b"Name: old\nVersion: 1\n",
            ),
            (
                "usr/lib/python3/dist-packages/two.egg-info/PKG-INFO",
                b"Name: two\nVersion: 2\n",
            ),
            (
                "usr/lib/python3/dist-packages/two.egg-info/top_level.txt",
                b"two\n",
            ),
        ];
        let image = subject(&Value::Null, &[files]);
        let inventory = Inventory::of(&image);
        let packages = inventory.packages.iter();
        let told: Vec<_> = packages
            .map(|package| {
                (
                    package.installed.name,
                    package.installed.version,
                    package.files,
                )
            })
            .collect();
        assert_eq!(told, [("old", "1", 1), ("two", "2", 2)]);
    }

    #[test]
    fn what_a_layer_is_has_no_secret_in_it() {
        let step = "RUN DB_PASSWORD=correcthorsebattery PORT=80 ./install \"TOKEN=b1946ac92492d2347c6235b4d2611184\"";
        let image = subject(&json!([{"created_by": step}]), &[BASE]);
        let inventory = Inventory::of(&image);
        let what = "RUN DB_PASSWORD=… PORT=80 ./install \"TOKEN=…\"";
        assert_eq!(inventory.layers[0].what, what);
    }

    #[test]
    fn an_image_that_says_nothing_has_layers_all_the_same() {
        let image = subject(&Value::Null, &[FUNCTION]);
        let inventory = Inventory::of(&image);
        assert_eq!(inventory.layers[0].what, "");
        assert!(!inventory.layers[0].is_base);
        assert_eq!(inventory.packages, []);
        assert_eq!(inventory.files.len(), 2);
    }
}
