//! Which Python an image runs its function on, where that looks for modules, and what it finds there.
//!
//! The order is `CPython`'s own, then that of whoever starts the function: AWS's bootstrap puts the task root and the
//! directories of Lambda layers in front, `python -m` the working directory. Nothing is executed, so what a `.pth`
//! file's code would add cannot be told: [`is_certain`] says so.

use std::collections::HashSet;

use crate::lambda::check::contents::Seen;
use crate::lambda::check::entry;
use crate::lambda::check::paths::{self, below, has_ending, joined};
use crate::lambda::check::subject::{Documents, Python, Subject};
use crate::lambda::{Architecture, ENTRY_POINT, Handler, RUNTIME_DIR, TASK_ROOT};
use crate::oci::flatten::{Entry, Found, Kind, normal};
use crate::python::PythonVersion;

/// What starts the runtime client in AWS's images.
pub(super) const BOOTSTRAP: &str = "var/runtime/bootstrap";
/// The client's module.
const CLIENT: &str = "awslambdaric";
/// The Pythons that are looked for where nothing names one.
const MINORS: std::ops::RangeInclusive<u8> = 8..=19;

/// Whether AWS's bootstrap, or one that behaves as it does, starts the function.
pub(super) fn is_lambdas(documents: &Documents) -> bool {
    let command = documents.command();
    let first = command.first().map(|first| normal(first));
    first.is_some_and(|first| first == ENTRY_POINT || first == BOOTSTRAP)
}

/// The handler's text, where the first word of the command is a program that gives it to the runtime client.
pub(super) fn stated_handler(documents: &Documents) -> Option<&str> {
    let command = documents.command();
    if normal(command.first()?) == ENTRY_POINT {
        return command.get(1).copied().filter(|_| command.len() == 2);
    }
    if let Some(at) = command.iter().position(|word| *word == CLIENT) {
        return command.get(at + 1).copied();
    }
    match &*documents.list("Cmd") {
        [only] => Some(only),
        _ => None,
    }
}

/// The handler's text as the runtime client is given it; none where nobody can tell.
pub(super) fn handler_text(image: &Subject) -> Option<String> {
    let stated = stated_handler(&image.documents)?;
    let command = image.documents.command();
    let first = normal(command.first()?);
    if first == ENTRY_POINT || command.contains(&CLIENT) {
        return Some(stated.to_owned());
    }
    let script = image.find(&first)?.1;
    let head = script.entry.seen.as_ref().map(|seen| &*seen.head)?;
    let calls_client = head.starts_with(b"#!") && String::from_utf8_lossy(head).contains(CLIENT);
    calls_client.then(|| stated.to_owned())
}

fn python_path(documents: &Documents) -> Vec<String> {
    let entries = documents.variable("PYTHONPATH").unwrap_or_default();
    let entries = entries.split(':').filter(|entry| entry.starts_with('/'));
    entries.map(normal).collect()
}

/// The directories of the user's that modules are looked for in, as far as the documents tell.
pub(super) fn roots(documents: &Documents) -> Vec<String> {
    // Lambda says itself what `LAMBDA_TASK_ROOT` is, whatever the image does.
    let mut roots = vec![TASK_ROOT.to_owned(), "opt/python".to_owned()];
    roots.push(normal(documents.working_dir()));
    roots.extend(python_path(documents));
    roots.retain(|root| !root.is_empty());
    roots
}

/// The release line that the documents state.
pub(super) fn stated_version(documents: &Documents) -> Option<PythonVersion> {
    let label = documents.run("Labels")["lambimg.python"].as_str();
    let stated = label.or_else(|| documents.variable("PYTHON_VERSION"))?;
    let mut parts = stated.split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    format!("{major}.{minor}").parse().ok()
}

/// `3.12` of `python3.12`.
fn version_in(program: &str) -> Option<PythonVersion> {
    let name = program.rsplit('/').next()?;
    name.strip_prefix("python")?.parse().ok()
}

fn is_python(word: &str) -> bool {
    let rest = paths::name(word).strip_prefix("python");
    rest.is_some_and(|rest| {
        rest.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

fn words_of(file: Option<(String, Found<'_, Seen>)>) -> Vec<String> {
    let seen = file.and_then(|(_, file)| file.entry.seen.as_ref());
    let bytes = seen.map(|seen| seen.kept.as_deref().unwrap_or(&seen.head));
    let text = String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let lines = text.lines().enumerate();
    // The first line names the script's own interpreter.
    let lines = lines.filter(|(number, line)| *number == 0 || !line.trim_start().starts_with('#'));
    let words = lines.flat_map(|(_, line)| line.split([' ', '\t', '"', '\'', '!']));
    words
        .filter(|word| is_python(word))
        .map(str::to_owned)
        .collect()
}

/// The paths of Pythons that AWS's bootstrap names, or else of those that a layer has where AWS's bases have theirs.
pub(super) fn started_by_bootstrap(image: &Subject) -> Vec<String> {
    let mut named = words_of(image.find(BOOTSTRAP));
    named.retain(|word| word.starts_with('/'));
    if named.is_empty() {
        let entries = image.layers.iter().flat_map(|layer| &layer.entries);
        let paths = entries.map(Entry::path);
        let is_one = |path: &String| {
            let name = path.strip_prefix("var/lang/bin/python3.");
            name.is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
        };
        named.extend(paths.filter(is_one));
    }
    named
}

/// The programs that may be the function's Python, the likeliest first.
fn candidates(image: &Subject) -> Vec<String> {
    let documents = &image.documents;
    let command = documents.command();
    let mut words = Vec::new();
    if is_lambdas(documents) {
        words.extend(words_of(image.find(BOOTSTRAP)));
        let label = documents.run("Labels")["lambimg.interpreter"].as_str();
        words.extend(label.map(|label| label.trim_start_matches("/usr/bin/env ").to_owned()));
        for directory in ["/var/lang/bin", "/usr/local/bin", "/usr/bin"] {
            words.extend(MINORS.map(|minor| format!("{directory}/python3.{minor}")));
        }
        return words;
    }
    words.extend(
        command
            .iter()
            .filter(|word| is_python(word))
            .map(|word| (*word).to_owned()),
    );
    if let Some(first) = command.first().filter(|first| first.starts_with('/')) {
        words.extend(words_of(image.find(first)));
    }
    words.extend(["python3".to_owned(), "python".to_owned()]);
    words
}

/// A program's path as it is started: as written, or where `PATH` has it.
fn started(image: &Subject, word: &str) -> Option<String> {
    if word.contains('/') {
        return image.find(word).map(|_| normal(word));
    }
    let path = image.documents.variable("PATH");
    let path = path.unwrap_or("/usr/local/bin:/usr/bin:/bin");
    let mut places = path.split(':').map(|directory| joined(directory, word));
    places.find(|place| image.find(place).is_some())
}

/// Which Python an image runs its function on.
pub(super) fn python_of(image: &Subject) -> Option<Python> {
    // Another one that is there is not the one that runs the function.
    if entry::lost_its_python(image) {
        return None;
    }
    let documents = &image.documents;
    let known = candidates(image).into_iter().find_map(|word| {
        let started = started(image, &word)?;
        let real = image.find(&started)?.0;
        let prefix = prefix_of(&real);
        let version = version_in(&real).or_else(|| version_in(&started));
        let version = version.or_else(|| version_below(image, &prefix))?;
        Some((version, started, prefix))
    });
    let (version, interpreter, prefix) = known.or_else(|| {
        let version = stated_version(documents).filter(|_| is_lambdas(documents))?;
        let interpreter = format!("var/lang/bin/python{version}");
        Some((version, interpreter, "var/lang".to_owned()))
    })?;
    let mut python = Python {
        version,
        interpreter,
        path: Vec::new(),
        standard: standard(image, &prefix, version),
    };
    let sites = sites(image, &python, &prefix);
    let client = is_lambdas(documents);
    let mut path = Vec::new();
    let mut read_pth = sites.clone();
    if client {
        read_pth.insert(0, TASK_ROOT.to_owned());
        path.push(TASK_ROOT.to_owned());
        if documents.variable("PYTHONPATH").is_none() {
            let layer = format!("opt/python/lib/python{version}/site-packages");
            let layers = [layer, "opt/python".to_owned()];
            read_pth.extend(layers.clone());
            path.extend(layers);
            path.push(format!("{prefix}/lib/python{version}/site-packages"));
        }
        path.push(RUNTIME_DIR.to_owned());
    } else {
        path.push(normal(documents.working_dir()));
    }
    path.extend(python_path(documents));
    path.extend(python.standard.clone());
    path.extend(sites);
    for line in read_pth.iter().flat_map(|site| pth_lines(image, site)) {
        if let PthLine::Directory(directory) = line.1 {
            path.push(directory);
        }
    }
    let mut seen = HashSet::new();
    path.retain(|directory| seen.insert(directory.clone()));
    python.path = path;
    Some(python)
}

fn prefix_of(interpreter: &str) -> String {
    paths::directory(paths::directory(interpreter)).to_owned()
}

fn version_below(image: &Subject, prefix: &str) -> Option<PythonVersion> {
    let versions = MINORS.rev().filter_map(PythonVersion::new);
    let mut there = versions.filter(|version| {
        let os = format!("lib/python{version}/os.py");
        image.find(&joined(prefix, &os)).is_some()
    });
    there.next()
}

fn standard(image: &Subject, prefix: &str, version: PythonVersion) -> Vec<String> {
    let lib = joined(prefix, &format!("lib/python{version}"));
    let lib64 = joined(prefix, &format!("lib64/python{version}"));
    let libs = [lib, lib64].into_iter().enumerate();
    // Fedora's family has its own in both.
    let libs = libs.filter(|(number, lib)| *number == 0 || image.tree.contains(lib));
    libs.flat_map(|(_, lib)| [format!("{lib}/lib-dynload"), lib].into_iter().rev())
        .collect()
}

/// Where distributions are: of the virtual environment, if the interpreter is one's, else of the prefix.
fn sites(image: &Subject, python: &Python, prefix: &str) -> Vec<String> {
    let version = python.version;
    let of = |prefix: &str| {
        ["lib", "lib64"].map(|lib| joined(prefix, &format!("{lib}/python{version}/site-packages")))
    };
    let own = prefix_of(&python.interpreter);
    let mut sites = Vec::new();
    if let Some((_, config)) = image.find(&joined(&own, "pyvenv.cfg")) {
        sites.extend(of(&own));
        let head = config
            .entry
            .seen
            .as_ref()
            .map(|seen| seen.head.to_ascii_lowercase());
        let text = String::from_utf8_lossy(&head.unwrap_or_default()).replace(' ', "");
        if !text.contains("include-system-site-packages=true") {
            return sites;
        }
    }
    sites.extend(of(prefix));
    if prefix == "usr" {
        sites.push(format!("usr/local/lib/python{version}/dist-packages"));
        sites.push("usr/lib/python3/dist-packages".to_owned());
    }
    sites
}

/// What a line of a `.pth` file does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PthLine {
    /// It adds a directory, which is there.
    Directory(String),
    /// It names a directory that is not in the image.
    Nowhere(String),
    /// It runs code.
    Code(String),
}

/// As many lines of one directory's `.pth` files are looked at: each may put a directory on the path.
const MOST_LINES: usize = 1000;

/// The lines of all `.pth` files in a directory, each after the file's path; at most [`MOST_LINES`].
pub(super) fn pth_lines(image: &Subject, directory: &str) -> Vec<(String, PthLine)> {
    let Ok(real) = image.tree.resolve(directory, &image.layers) else {
        return Vec::new();
    };
    let paths = image.tree.paths_below(&real);
    let files = paths.filter(|path| {
        let name = below(&real, path).unwrap_or(path);
        has_ending(name, "pth") && !name.contains('/')
    });
    let mut lines = Vec::new();
    for path in files {
        for line in text_at(image, path).unwrap_or_default().lines() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let meaning = if line.starts_with("import ") || line.starts_with("import\t") {
                PthLine::Code(line.to_owned())
            } else {
                let target = if line.starts_with('/') {
                    line.to_owned()
                } else {
                    format!("{real}/{line}")
                };
                match image.tree.resolve(&target, &image.layers) {
                    Ok(directory) => PthLine::Directory(directory),
                    Err(_) => PthLine::Nowhere(line.to_owned()),
                }
            };
            lines.push((path.to_owned(), meaning));
            if lines.len() == MOST_LINES {
                return lines;
            }
        }
    }
    lines
}

/// The text that was kept of a file.
pub(super) fn text_at(image: &Subject, path: &str) -> Option<String> {
    let bytes = bytes_at(image, path)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// The bytes that were kept of a file.
pub(super) fn bytes_at<'a>(image: &'a Subject, path: &str) -> Option<&'a [u8]> {
    let (_, found) = image.find(path)?;
    found.entry.seen.as_ref()?.kept.as_deref()
}

/// What a name is on the module path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Module {
    /// A file; its path.
    File(String),
    /// A package; its `__init__` and its directory.
    Package(String, String),
    /// Directories without an `__init__`.
    Namespace(Vec<String>),
}

impl Module {
    /// The file that is run when it is imported.
    pub(super) fn file(&self) -> Option<&str> {
        match self {
            Self::File(file) | Self::Package(file, _) => Some(file),
            Self::Namespace(_) => None,
        }
    }

    /// Where modules in it are looked for; nothing for what is no package.
    pub(super) fn directories(&self) -> Option<Vec<String>> {
        match self {
            Self::File(_) => None,
            Self::Package(_, directory) => Some(vec![directory.clone()]),
            Self::Namespace(directories) => Some(directories.clone()),
        }
    }
}

/// Looks for one name in directories, as `CPython`'s path finder does.
pub(super) fn find_in(image: &Subject, directories: &[String], name: &str) -> Option<Module> {
    let mut portions = Vec::new();
    for directory in directories {
        let Ok(real) = image.tree.resolve(directory, &image.layers) else {
            continue;
        };
        let stem = joined(&real, name);
        let package = image.tree.resolve(&stem, &image.layers).ok();
        let package = package.filter(|path| is_directory(image, path));
        if let Some(package) = &package
            && let Some(init) = file_of(image, &joined(package, "__init__"))
        {
            return Some(Module::Package(init, package.clone()));
        }
        if let Some(file) = file_of(image, &stem) {
            return Some(Module::File(file));
        }
        portions.extend(package);
    }
    (!portions.is_empty()).then_some(Module::Namespace(portions))
}

/// Whether everything that the path has is in directories, and nothing is added by code.
pub(super) fn is_certain(image: &Subject, python: &Python) -> bool {
    let is_file = |directory: &String| {
        let found = image.find(directory);
        found.is_some_and(|(_, found)| found.entry.kind == Kind::File)
    };
    let runs_code = |directory: &String| {
        let lines = pth_lines(image, directory);
        // What comes after so many is not known.
        lines.len() == MOST_LINES
            || lines.into_iter().any(|(path, line)| {
                matches!(line, PthLine::Code(_)) && !path.ends_with("/distutils-precedence.pth")
            })
    };
    !python
        .path
        .iter()
        .any(|directory| is_file(directory) || runs_code(directory))
}

fn is_directory(image: &Subject, path: &str) -> bool {
    let entry = image.get(path);
    image.tree.contains(path) && entry.is_none_or(|found| found.entry.kind == Kind::Directory)
}

/// Platforms in the names of extension modules.
const PLATFORMS: [&str; 5] = [
    "x86_64-linux-gnu",
    "aarch64-linux-gnu",
    "x86_64-linux-musl",
    "aarch64-linux-musl",
    "darwin",
];

/// The file of a module without its ending: as `CPython`'s finder takes them, extension modules first. One for another
/// Python or processor comes last; what it is worth is another's affair.
fn file_of(image: &Subject, stem: &str) -> Option<String> {
    // Most names are nowhere, and there are many names.
    image.tree.paths_from(&format!("{stem}.")).next()?;
    let is_file = |path: &String| {
        let found = image.find(path);
        found.is_some_and(|(_, found)| found.entry.kind == Kind::File)
    };
    let tagged = |minor: u8, platform: &str| format!("{stem}.cpython-3{minor}-{platform}.so");
    let architecture = image.documents.architecture().parse::<Architecture>();
    let machine = architecture.map(|architecture| architecture.machine().to_string());
    let own = PLATFORMS.iter().filter(|platform| {
        machine
            .as_ref()
            .is_ok_and(|machine| platform.starts_with(machine))
    });
    let own = image.python.iter().flat_map(|python| {
        let minor = python.version.minor();
        own.clone().map(move |platform| tagged(minor, platform))
    });
    let plain = [".abi3.so", ".so", ".py", ".pyc"].map(|ending| format!("{stem}{ending}"));
    let others = MINORS.flat_map(|minor| PLATFORMS.map(|platform| tagged(minor, platform)));
    own.chain(plain).chain(others).find(is_file)
}

/// How far a dotted name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    /// To a module; the packages on the way come first.
    Found(Vec<Module>),
    /// No further than to this part.
    Missing(String),
    /// To a module that is no package and has more behind it.
    NoPackage(String),
}

/// Looks for a dotted name from directories on.
pub(super) fn look_up(image: &Subject, directories: &[String], dotted: &str) -> Lookup {
    let mut directories = directories.to_vec();
    let mut way: Vec<Module> = Vec::new();
    let mut so_far = String::new();
    for part in dotted.split('.') {
        if let Some(last) = way.last() {
            match last.directories() {
                Some(inside) => directories = inside,
                None => return Lookup::NoPackage(so_far),
            }
            so_far.push('.');
        }
        so_far.push_str(part);
        match find_in(image, &directories, part) {
            Some(module) => way.push(module),
            None => return Lookup::Missing(so_far),
        }
    }
    Lookup::Found(way)
}

/// The handler, where its text is one.
pub(super) fn handler(image: &Subject) -> Option<Handler> {
    handler_text(image)?.parse().ok()
}
