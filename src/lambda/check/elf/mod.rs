//! Rules of programs and libraries: processor, versions of libraries, what they need.
//!
//! All look at what layers above the base bring. What cannot be judged is not: where a base has no C library of its
//! own (it is made for tests, or from nothing), the system's libraries are taken for present.

mod files;
mod loader;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use files::{Binary, Foreign, Module, Owners, Role};
use loader::{Directories, Edge, Hit, Loader, links_of};

use crate::lambda;
use crate::lambda::check::paths::{self, below};
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{
    Fault, Level, Look, MOST, Rule, entry, folded, may_be_users, program, wheels,
};
use crate::python::elf::{Links, Watched, need_of};
use crate::python::{Glibc, Machine};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB066",
        level: Level::Error,
        title: "Programs and extension modules are for Linux and the image's processor",
        why: "The loader takes no file of another processor or system: `Runtime.ImportModuleError: Unable to import module 'app': \
              …: cannot open shared object file: No such file or directory`, or `exec format error` for a program.",
        remedy: "Install the packages for the image's architecture: give pip `--platform manylinux2014_x86_64` (or \
                 `manylinux2014_aarch64`) and `--only-binary=:all:`.",
        look: Look::Files(is_for_this_processor),
    },
    Rule {
        id: "LMB067",
        level: Level::Error,
        title: "No file needs a newer C library than the image has",
        why: "The loader refuses the file when it is imported: `Runtime.ImportModuleError: Unable to import module \
              'app': /lib64/libm.so.6: version 'GLIBC_2.27' not found (required by /var/task/….so)`.",
        remedy: "Take a wheel for an older glibc (its tag `manylinux_2_X` is at most the base's), or a newer base.",
        look: Look::Files(needs_no_newer_glibc),
    },
    Rule {
        id: "LMB068",
        level: Level::Error,
        title: "Every version that a file needs of a library is in the library",
        why: "The loader refuses the file when it is imported: `Runtime.ImportModuleError: Unable to import module \
              'app': /lib64/libstdc++.so.6: version 'GLIBCXX_3.4.30' not found (required by /var/task/….so)`.",
        remedy: "Take a wheel that was built for an older system, a newer base, or bring the newer library along.",
        look: Look::Files(needs_no_newer_library),
    },
    Rule {
        id: "LMB069",
        level: Level::Error,
        title: "Every library that a program or extension module needs is where the loader looks for it",
        why: "The loader refuses the file when it is imported: `Runtime.ImportModuleError: Unable to import module \
              'app': libxyz.so.1: cannot open shared object file: No such file or directory`.",
        remedy: "Bring the library along, in a directory of `LD_LIBRARY_PATH` (such as `/var/task/lib`), or install a \
                 wheel that bundles it.",
        look: Look::Files(finds_its_libraries),
    },
    Rule {
        id: "LMB070",
        level: Level::Error,
        title: "The loader that a program asks for is in the image",
        why: "The kernel answers `No such file or directory` when the program is started, although its own file is \
              there: for an extension the function fails with `Extension.LaunchError`.",
        remedy: "Take the program as it is built for glibc, or linked statically.",
        look: Look::Files(finds_its_loader),
    },
    Rule {
        id: "LMB071",
        level: Level::Warning,
        title: "Extension modules are of the image's Python",
        why: "Python passes over a file whose name has another version's tag: `Runtime.ImportModuleError: Unable to \
              import module 'app': No module named '…'`.",
        remedy: "Install the packages with the image's version of Python: give pip `--python-version`.",
        look: Look::Files(is_of_this_python),
    },
    Rule {
        id: "LMB072",
        level: Level::Note,
        title: "What every library needs and every document says can be read",
        why: "The rules of libraries look at tables in each file; of one that is damaged, or has them in unusual \
              places, they can say nothing. Nor can others of documents that are longer than is kept of them.",
        remedy: "Install the package again if the file is damaged.",
        look: Look::Files(can_be_read),
    },
];

/// Whether a file is one that tells the loader's paths.
pub(super) fn is_read_whole(path: &str) -> bool {
    path.starts_with("etc/ld.so.c")
}

/// Findings that are told as one: those of one owner's files about one thing.
#[derive(Default)]
struct Groups(BTreeMap<(String, String), (Fault, usize)>);

impl Groups {
    fn add(&mut self, owner: &str, about: impl Into<String>, fault: Fault) {
        let group = self.0.entry((owner.to_owned(), about.into()));
        group
            .and_modify(|(first, more)| {
                *more += 1;
                first.level = first.level.max(fault.level);
            })
            .or_insert((fault, 0));
    }

    fn faults(self) -> Vec<Fault> {
        let faults = self.0.into_iter().map(|((owner, _), (mut fault, more))| {
            if more > 0 {
                let files = if more == 1 { "file" } else { "files" };
                let more = format!(" (so it is with {more} more {files} of `{owner}`)");
                fault.message.push_str(&more);
            }
            fault
        });
        let mut faults: Vec<_> = faults.collect();
        faults.sort_by_key(|fault| std::cmp::Reverse(fault.level));
        folded(faults, MOST)
    }
}

fn is_for_this_processor(image: &Subject) -> Vec<Fault> {
    let mut groups = Groups::default();
    let owners = Owners::new(image);
    let Some(machine) = program::machine_of_base(image) else {
        return Vec::new();
    };
    let told = told_elsewhere(image);
    for binary in Binary::all(image) {
        if !binary.is_for_another(machine) || told.contains(binary.path) {
            continue;
        }
        let name = binary.facts.machine_name();
        let message = format!("it is for {name}, and the image is for {machine}");
        let fault = Fault::new(message).layer(binary.found.layer);
        groups.add(
            owners.of(binary.path),
            "",
            fault.path(binary.path).value(name),
        );
    }
    for foreign in Foreign::all(image) {
        let system = foreign.system;
        let fault = Fault::new(format!("it is for {system}, and the image is for Linux"));
        let fault = fault.layer(foreign.found.layer).path(foreign.path);
        groups.add(owners.of(foreign.path), "", fault.value(system));
    }
    groups.faults()
}

/// Whether a file at this real path is told to be for another processor than this one.
pub(super) fn is_for_another(image: &Subject, machine: Machine, path: &str) -> bool {
    let found = image.get(path);
    let binary = found.and_then(|found| Binary::of(image, path, found));
    binary.is_some_and(|binary| binary.is_for_another(machine))
}

/// The libraries and extension modules that are told to be for another system.
pub(super) fn foreign(image: &Subject) -> BTreeSet<&str> {
    let all = Foreign::all(image).into_iter();
    all.map(|foreign| foreign.path).collect()
}

/// The programs that the rules of extensions and of the entry point look at, and those that start them.
pub(super) fn told_elsewhere(image: &Subject) -> BTreeSet<String> {
    let extensions = image.tree.paths_below("opt/extensions");
    let extensions = extensions.filter(|path| paths::directory(path) == "opt/extensions");
    let mut programs: Vec<_> = extensions.map(str::to_owned).collect();
    programs.extend(entry::programs_of(image));
    let chains = programs.iter();
    chains
        .flat_map(|path| program::started_by(image, path))
        .collect()
}

/// What all added files need: found out once for an image.
#[derive(Debug)]
pub(super) struct Needs {
    machine: Machine,
    /// The path of the C library.
    libc: Option<String>,
    /// Everything needed, once, with what the file that needs it is there for.
    edges: Vec<(Edge, Role)>,
}

impl Needs {
    fn of(image: &Subject) -> Option<Self> {
        let machine = program::machine_of_base(image)?;
        let loader = Loader::new(image, machine);
        let libc = loader.system_library("libc.so.6").map(|(path, _)| path);
        let mut needs = Self {
            machine,
            libc,
            edges: Vec::new(),
        };
        needs.follow(image, &loader);
        Some(needs)
    }

    /// Follows modules and programs first: what they load is no plugin that may never be.
    fn follow(&mut self, image: &Subject, loader: &Loader<'_>) {
        let python = image.python.as_ref();
        let python = python.and_then(|python| image.find(&python.interpreter));
        let none = Directories::default();
        let inherited = python.map(|(path, _)| loader.handed_on(&path));
        let inherited = inherited.unwrap_or_default();
        let mut binaries: Vec<_> = Binary::all(image)
            .filter(|binary| binary.facts.is_for(self.machine))
            .filter(|binary| may_be_users(image, binary.path))
            .filter(|binary| !is_of_other_python(image, binary.path))
            .collect();
        binaries.sort_by_key(|binary| match binary.role {
            Role::Module | Role::Program => 0,
            Role::Tool => 1,
            Role::Library => 2,
        });
        let mut known: BTreeSet<(String, String)> = BTreeSet::new();
        let mut followed: BTreeSet<String> = BTreeSet::new();
        for binary in binaries {
            if binary.role == Role::Library && followed.contains(binary.path) {
                continue;
            }
            let own = matches!(binary.role, Role::Program | Role::Tool);
            let inherited = if own { &none } else { &inherited };
            for edge in loader.edges(binary.path, inherited) {
                followed.insert(edge.file.clone());
                if known.insert((edge.file.clone(), edge.name.clone())) {
                    self.edges.push((edge, binary.role));
                }
            }
        }
    }
}

/// The same in its image.
struct Linked<'a> {
    image: &'a Subject,
    owners: Owners<'a>,
    machine: Machine,
    /// The C library's own definitions.
    libc: Option<&'a Links>,
    edges: &'a [(Edge, Role)],
}

impl<'a> Linked<'a> {
    fn new(image: &'a Subject) -> Option<Self> {
        let needs = image
            .known
            .needs
            .get_or_init(|| Needs::of(image))
            .as_ref()?;
        let libc = needs.libc.as_ref().and_then(|path| image.get(path));
        let libc = libc.and_then(|found| links_of(&found, needs.machine));
        Some(Self {
            image,
            owners: Owners::new(image),
            machine: needs.machine,
            libc: libc.filter(|links| newest(&links.defined, "GLIBC_").is_some()),
            edges: &needs.edges,
        })
    }

    /// The libraries that are not found, and who needs them.
    fn missing(&self) -> Vec<&'a (Edge, Role)> {
        let missing = |edge: &Edge| match &edge.hit {
            Hit::Found(_) => false,
            // That one is told to be for another processor.
            Hit::Other(path) => {
                let found = self.image.get(path);
                found.is_none_or(|found| found.layer < self.image.base)
            }
            Hit::Nothing => true,
        };
        let edges = self.edges.iter();
        edges
            .filter(|(edge, _)| missing(edge) && !is_the_systems(self, &edge.name))
            .collect()
    }

    /// How bad it is that a library which a file needs is only where the loader does not look; nothing where that
    /// is how packages are made.
    fn when_elsewhere(&self, edge: &Edge, role: Role, places: &[&str]) -> Option<Level> {
        let whose = self.owners.of(&edge.file);
        let is_own = places.iter().any(|place| self.owners.of(place) == whose);
        let is_recorded = self.owners.distribution(&edge.file).is_some();
        let are_recorded = || {
            let mut places = places.iter();
            places.all(|place| self.owners.distribution(place).is_some())
        };
        match role {
            Role::Library if self.is_for_all(&edge.file) => Some(Level::Warning),
            // A package loads its own libraries first, by their paths.
            Role::Library | Role::Tool if is_own => None,
            Role::Library => Some(Level::Note),
            Role::Module if self.is_loaded(places) => (!is_own).then_some(Level::Note),
            Role::Module | Role::Program if !is_recorded => Some(Level::Error),
            // One distribution's libraries for another.
            Role::Module if !is_own && are_recorded() => Some(Level::Note),
            Role::Module | Role::Program | Role::Tool => Some(Level::Warning),
        }
    }

    /// Whether some module finds one of these libraries: once that is imported, it is there for all.
    fn is_loaded(&self, places: &[&str]) -> bool {
        let real = places.iter().filter_map(|place| self.image.find(place));
        let real: Vec<String> = real.map(|(path, _)| path).collect();
        let mut edges = self.edges.iter().filter(|(_, role)| *role == Role::Module);
        edges.any(|(edge, _)| matches!(&edge.hit, Hit::Found(path) if real.contains(path)))
    }

    /// Whether a library is no package's, and is where the user's own search path leads.
    fn is_for_all(&self, path: &str) -> bool {
        let on_path = self.image.documents.variable("LD_LIBRARY_PATH");
        let mut on_path = on_path.unwrap_or_default().split(':');
        let directory = paths::directory(path);
        let is_users = [lambda::TASK_ROOT, "opt"]
            .iter()
            .any(|root| below(root, path).is_some());
        is_users
            && on_path.any(|on_path| on_path.trim_matches('/') == directory)
            && self.owners.distribution(path).is_none()
    }

    /// Versions that added files need and that the library found has not: file, library's name, the newest such
    /// version, the library's path and all that it defines.
    fn unmet(&self) -> Vec<Unmet<'_>> {
        let machine = self.machine;
        let mut unmet = Vec::new();
        // A library may define ten thousands, and many files ask it for as many.
        let mut defined: HashMap<&str, HashSet<&str>> = HashMap::new();
        for (edge, _) in self.edges {
            let Hit::Found(path) = &edge.hit else {
                continue;
            };
            let library = self.image.get(path);
            let Some(library) = library.and_then(|found| links_of(&found, machine)) else {
                continue;
            };
            let defined = defined
                .entry(path)
                .or_insert_with(|| library.defined.iter().map(|version| &**version).collect());
            let file = self.image.get(&edge.file);
            let Some(links) = file.and_then(|found| links_of(&found, machine)) else {
                continue;
            };
            let asked = links.asked_of(&edge.name).into_iter();
            let missing = asked.flat_map(|asked| &asked.versions);
            let missing = missing.filter(|version| !defined.contains(&***version));
            let missing = missing.filter(|version| !is_older(&library.defined, version));
            // Of a library without versions the loader takes any, with a warning.
            let missing = missing.filter(|_| !library.defined.is_empty());
            let Some(version) = missing.max_by(|a, b| natural(a, b)) else {
                continue;
            };
            unmet.push(Unmet {
                file: &edge.file,
                library: &edge.name,
                version,
                path,
                defined: &library.defined,
            });
        }
        unmet.sort_by(|a, b| natural(b.version, a.version).then(a.file.cmp(b.file)));
        unmet
    }
}

/// A version that a library has not.
struct Unmet<'a> {
    file: &'a str,
    library: &'a str,
    version: &'a str,
    path: &'a str,
    defined: &'a [Box<str>],
}

impl Unmet<'_> {
    fn is_of_glibc(&self) -> bool {
        self.version.starts_with("GLIBC_")
    }
}

fn needs_no_newer_glibc(image: &Subject) -> Vec<Fault> {
    let Some(linked) = Linked::new(image) else {
        return Vec::new();
    };
    let mut groups = Groups::default();
    let mut told = BTreeSet::new();
    if let Some(libc) = linked.libc {
        let has = newest(&libc.defined, "GLIBC_").unwrap_or_default();
        for unmet in linked.unmet().iter().filter(|unmet| unmet.is_of_glibc()) {
            if told.insert(unmet.file) {
                let fault = too_new(image, unmet.file, unmet.version, unmet.library, has);
                groups.add(linked.owners.of(unmet.file), "", fault);
            }
        }
        return groups.faults();
    }
    let Some(runtime) = image.runtime().filter(|_| is_of_lambda(image)) else {
        return Vec::new();
    };
    let machine = linked.machine;
    let mut all = Vec::new();
    for binary in Binary::all(image) {
        let links = links_of(&binary.found, machine);
        let asked = links.into_iter().flat_map(|links| &links.asked);
        let versions = asked.flat_map(|asked| {
            let versions = asked.versions.iter();
            versions.map(|version| (&**version, &*asked.library))
        });
        let newer = versions.filter(|(version, _)| {
            need_of(version).is_some_and(|need| need.version > runtime.glibc)
        });
        let newest = newer.max_by(|(a, _), (b, _)| natural(a, b));
        all.extend(newest.map(|(version, library)| (version, library, binary.path)));
    }
    all.sort_by(|a, b| natural(b.0, a.0).then(a.2.cmp(b.2)));
    for (version, library, path) in all {
        if !is_of_other_python(image, path) {
            let fault = too_new(image, path, version, library, &runtime.glibc.to_string());
            groups.add(linked.owners.of(path), "", fault);
        }
    }
    groups.faults()
}

fn too_new(image: &Subject, path: &str, version: &str, library: &str, has: &str) -> Fault {
    let message = format!(
        "it needs `{version}` of `{library}`, which is not in the base's glibc {}",
        has.trim_start_matches("GLIBC_")
    );
    at(image, Fault::new(message), path).value(version)
}

fn needs_no_newer_library(image: &Subject) -> Vec<Fault> {
    let Some(linked) = Linked::new(image) else {
        return Vec::new();
    };
    let mut groups = Groups::default();
    let unmet = linked.unmet();
    // Who needs a newer C library was built on a newer system, and its other libraries are newer, too.
    let told: BTreeSet<_> = unmet
        .iter()
        .filter(|unmet| unmet.is_of_glibc())
        .map(|unmet| linked.owners.of(unmet.file))
        .collect();
    for unmet in unmet.iter().filter(|unmet| !unmet.is_of_glibc()) {
        let whose = linked.owners.of(unmet.file);
        if told.contains(whose) {
            continue;
        }
        let family = unmet.version.trim_end_matches(|c: char| c != '_');
        let has = newest(unmet.defined, family);
        let has = has.map_or(String::new(), |has| format!(", whose newest is `{has}`"));
        let message = format!(
            "it needs `{}` of `{}`, which is not in the image's `{}`{has}",
            unmet.version, unmet.library, unmet.path
        );
        let fault = at(image, Fault::new(message), unmet.file).value(unmet.version);
        groups.add(whose, unmet.library, fault);
    }
    groups.faults()
}

/// The version of the image's own C library, where it says it.
pub(super) fn glibc_of(image: &Subject) -> Option<Glibc> {
    let libc = Linked::new(image)?.libc?;
    need_of(newest(&libc.defined, "GLIBC_")?).map(|need| need.version)
}

/// The names of all libraries that something needs and that are not found.
pub(super) fn missing_libraries(image: &Subject) -> BTreeSet<String> {
    let linked = Linked::new(image);
    let missing = linked.iter().flat_map(Linked::missing);
    missing.map(|(edge, _)| edge.name.clone()).collect()
}

/// A fault in the layer and at the path of an added file.
fn at(image: &Subject, fault: Fault, path: &str) -> Fault {
    let fault = match image.get(path) {
        Some(found) => fault.layer(found.layer),
        None => fault,
    };
    fault.path(path)
}

fn finds_its_libraries(image: &Subject) -> Vec<Fault> {
    let Some(linked) = Linked::new(image) else {
        return Vec::new();
    };
    let missing = linked.missing();
    if missing.is_empty() {
        return Vec::new();
    }
    let names = missing.iter().map(|(edge, _)| &*edge.name).collect();
    let elsewhere = elsewhere(image, linked.machine, &names);
    let musl = missing.iter().filter(|(edge, _)| is_musl(&edge.name));
    let musl: BTreeSet<_> = musl.map(|(edge, _)| linked.owners.of(&edge.file)).collect();
    let optional = optional_modules(&linked, &missing);
    let mut groups = Groups::default();
    for (edge, role) in &missing {
        let whose = linked.owners.of(&edge.file);
        let name = &*edge.name;
        let places = elsewhere.get(name).map_or(&[][..], Vec::as_slice);
        let (message, about, level) = if is_musl(name) {
            let message = format!(
                "it needs musl's C library, `{name}`, and the image's is glibc: it comes from a `musllinux` wheel"
            );
            let level = match role {
                // Some packages bring a library for each system.
                Role::Library => Level::Note,
                _ => Level::Error,
            };
            (message, String::new(), level)
        } else if musl.contains(whose) {
            continue;
        } else if let Some(place) = places.first() {
            let Some(level) = linked.when_elsewhere(edge, *role, places) else {
                continue;
            };
            let message = format!(
                "it needs `{name}`, which the loader does not find; `{place}` has that name, if something loads it \
                 first"
            );
            (message, name.to_owned(), level)
        } else {
            let message = format!("it needs `{name}`, which nothing in the image provides");
            match role {
                Role::Module
                    if optional.contains(&*edge.file) && !wheels::has_recorded(image, name) =>
                {
                    (message, "optional".to_owned(), Level::Note)
                }
                Role::Module | Role::Program => (message, name.to_owned(), Level::Error),
                Role::Tool => (message, name.to_owned(), Level::Warning),
                Role::Library if linked.is_for_all(&edge.file) => {
                    (message, name.to_owned(), Level::Warning)
                }
                // Whoever owns it may never load it.
                Role::Library => (message, "plugins".to_owned(), Level::Note),
            }
        };
        let fault = at(image, Fault::new(message), &edge.file);
        groups.add(whose, about, fault.value(name).level(level));
    }
    groups.faults()
}

/// Extension modules that nobody need import: the standard library's, and those that are few of their owner's, which
/// has others for whoever lacks the library.
fn optional_modules(linked: &Linked<'_>, missing: &[&(Edge, Role)]) -> BTreeSet<String> {
    let modules = |edges: &mut dyn Iterator<Item = &(Edge, Role)>| {
        let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (edge, _) in edges.filter(|(_, role)| *role == Role::Module) {
            let whose = linked.owners.of(&edge.file).to_owned();
            files.entry(whose).or_default().insert(edge.file.clone());
        }
        files
    };
    let (all, lacking) = (
        modules(&mut linked.edges.iter()),
        modules(&mut missing.iter().copied()),
    );
    let standard = linked
        .image
        .python
        .as_ref()
        .map(|python| &python.standard[..]);
    let is_standard = |file: &str| {
        let mut directories = standard.unwrap_or_default().iter();
        directories.any(|directory| below(directory, file).is_some_and(|rest| !rest.contains('/')))
    };
    let files = lacking.into_iter().flat_map(|(whose, files)| {
        let few = files.len() * 2 < all.get(&whose).map_or(0, BTreeSet::len);
        files
            .into_iter()
            .filter(move |file| few || is_standard(file))
    });
    files.collect()
}

fn is_musl(name: &str) -> bool {
    // What glibc has under the second name is for linking alone.
    name.starts_with("libc.musl-") || name == "libc.so"
}

/// Whether a library is the system's, which is there in every image whose system can be looked at.
fn is_the_systems(linked: &Linked<'_>, name: &str) -> bool {
    if is_musl(name) {
        return false;
    }
    if name.starts_with("ld-linux") || name.starts_with("linux-vdso") {
        return true;
    }
    if name.starts_with("libpython3") && files::interpreter(linked.image).is_none() {
        return true;
    }
    let family = [
        "libc",
        "libm",
        "libpthread",
        "libdl",
        "librt",
        "libutil",
        "libresolv",
        "libnsl",
        "libanl",
        "libmvec",
        "libcrypt",
        "libgcc_s",
        "libstdc++",
        "libz",
        "libexpat",
    ];
    let stem = name.split(".so").next().unwrap_or(name);
    linked.libc.is_none() && family.contains(&stem)
}

/// Where files of these names are that a machine can load.
fn elsewhere<'a>(
    image: &'a Subject,
    machine: Machine,
    names: &BTreeSet<&'a str>,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for path in image.tree.paths() {
        let file = paths::name(path);
        if !file.contains(".so") {
            continue;
        }
        let Some((_, found)) = image.find(path) else {
            continue;
        };
        let is_library = links_of(&found, machine).is_some();
        if let Some(name) = names.get(file).filter(|_| is_library) {
            places.entry(*name).or_default().push(path);
        }
    }
    places
}

fn finds_its_loader(image: &Subject) -> Vec<Fault> {
    let Some(machine) = program::machine_of_base(image) else {
        return Vec::new();
    };
    let owners = Owners::new(image);
    let told = told_elsewhere(image);
    let mut groups = Groups::default();
    let programs = Binary::all(image).filter(|binary| binary.role == Role::Program);
    for binary in programs.filter(|binary| binary.facts.is_for(machine)) {
        let seen = binary.found.entry.seen.as_ref();
        let Some(loader) = seen.and_then(|seen| program::missing_loader(image, seen)) else {
            continue;
        };
        if told.contains(binary.path) {
            continue;
        }
        let fault = Fault::new(format!("it is started by `{loader}`, which is not there"));
        let fault = fault.layer(binary.found.layer).path(binary.path);
        groups.add(owners.of(binary.path), loader, fault.value(loader));
    }
    groups.faults()
}

/// Whether an extension module is one that the image's Python passes over.
fn is_of_other_python(image: &Subject, path: &str) -> bool {
    Module::of(paths::name(path)).is_some_and(|module| module.is_of_other_python(image))
}

/// The directories and names of the extension modules that the image's Python imports.
fn fitting_modules(image: &Subject) -> BTreeSet<(&str, &str)> {
    let fitting = image.tree.paths().filter_map(|path| {
        let module = Module::of(paths::name(path))?;
        let is_own = !module.is_of_other_python(image);
        is_own.then_some((paths::directory(path), module.stem))
    });
    fitting.collect()
}

/// The distributions whose tags are told to be for others.
struct Unfit {
    names: BTreeSet<String>,
    /// The Pythons of those that record no files, as `cp312`.
    pythons: BTreeSet<String>,
}

impl Unfit {
    fn of(image: &Subject) -> Self {
        let all = wheels::unfit(image);
        let unrecorded = all.iter().filter(|unfit| !unfit.is_recorded);
        let pythons = unrecorded.flat_map(wheels::Unfit::pythons);
        Self {
            pythons: pythons.map(str::to_owned).collect(),
            names: all.into_iter().map(|unfit| unfit.name).collect(),
        }
    }
}

fn is_of_this_python(image: &Subject) -> Vec<Fault> {
    let Some(python) = &image.python else {
        return Vec::new();
    };
    let own = files::tag_of(python.version);
    let mut groups = Groups::default();
    let machine = program::machine_of_base(image);
    let owners = Owners::new(image);
    let unfit = OnceCell::new();
    let fitting = OnceCell::new();
    for binary in Binary::all(image) {
        let path = binary.path;
        let Some(module) = Module::of(paths::name(path)) else {
            continue;
        };
        let is_fitting = machine.is_some_and(|machine| binary.facts.is_for(machine));
        let is_read = python.path.iter().any(|place| below(place, path).is_some());
        if !module.is_of_other_python(image) || !is_read || !is_fitting {
            continue;
        }
        let directory = paths::directory(path);
        let fitting = fitting.get_or_init(|| fitting_modules(image));
        let has_own = fitting.contains(&(directory, module.stem));
        let has_source = image
            .tree
            .contains(&format!("{directory}/{}.py", module.stem));
        let unfit = unfit.get_or_init(|| Unfit::of(image));
        let is_told = match owners.distribution(path) {
            Some(name) => unfit.names.contains(name),
            None => unfit
                .pythons
                .contains(&module.tag.replace("cpython-", "cp")),
        };
        if has_own || has_source || is_told {
            continue;
        }
        let message = format!(
            "it is for `{}`, and the image's Python {} imports `{own}` alone",
            module.tag, python.version
        );
        let fault = Fault::new(message).layer(binary.found.layer).path(path);
        groups.add(owners.of(path), module.tag, fault.value(module.tag));
    }
    groups.faults()
}

fn can_be_read(image: &Subject) -> Vec<Fault> {
    let owners = Owners::new(image);
    let mut groups = Groups::default();
    for (path, found) in image.added() {
        let seen = found.entry.seen.as_ref();
        if seen.is_some_and(|seen| seen.is_dropped) {
            let message = "it is too long, or its layer has too many of its kind; what it says is not checked";
            let fault = Fault::new(message).layer(found.layer).path(path);
            groups.add(owners.of(path), "documents", fault);
            continue;
        }
        if files::role(image, path, &found).is_none() {
            continue;
        }
        let message = match seen.map(|seen| &seen.elf) {
            Some(Watched::Elsewhere) => "its tables are in an unusual place".to_owned(),
            Some(Watched::Elf(Err(error))) => format!("it is damaged: {error}"),
            _ => continue,
        };
        let fault = Fault::new(format!("{message}; what it needs is not checked"));
        groups.add(owners.of(path), "", fault.layer(found.layer).path(path));
    }
    groups.faults()
}

/// Whether Lambda's own runtime is there, whatever its system's files are.
fn is_of_lambda(image: &Subject) -> bool {
    let bootstrap = format!("{}/bootstrap", lambda::RUNTIME_DIR);
    let variable = image.documents.variable(lambda::RUNTIME_DIR_VARIABLE);
    variable.is_some() && image.find(&bootstrap).is_some()
}

/// The newest version of a family, as `GLIBCXX_3.4.29` of `GLIBCXX_`.
fn newest<'a>(versions: &'a [Box<str>], family: &str) -> Option<&'a str> {
    let versions = versions.iter().map(|version| &**version);
    let numbered = versions.filter(|version| {
        let rest = version.strip_prefix(family);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    numbered.max_by(|a, b| natural(a, b))
}

/// Whether a version is older than the newest of its family that a library has. Those of glibc and of GCC's libraries
/// are kept for ever, so that it is there too, also where the library at hand is one for linking and lists few.
fn is_older(defined: &[Box<str>], version: &str) -> bool {
    let mut families = ["GLIBC_", "GLIBCXX_", "CXXABI_"].into_iter();
    let family = families.find(|family| {
        let rest = version.strip_prefix(family);
        rest.is_some_and(|rest| {
            rest.bytes()
                .all(|byte| byte == b'.' || byte.is_ascii_digit())
        })
    });
    let newest = family.and_then(|family| newest(defined, family));
    newest.is_some_and(|newest| natural(version, newest) == Ordering::Less)
}

/// Compares names with numbers in them as people do.
fn natural(a: &str, b: &str) -> Ordering {
    fn parts(text: &str) -> impl Iterator<Item = (u64, &str)> {
        text.split(['.', '_'])
            .map(|part| (part.parse().unwrap_or(0), part))
    }
    parts(a).cmp(parts(b))
}
