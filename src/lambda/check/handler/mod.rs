//! Rules of the handler, its module and what may be in its way.
//!
//! They follow what the runtime client does with the handler's text: it splits it, imports the module, and takes the
//! name from it. Where that cannot be told without running anything, nothing is said.

mod bound;

use std::collections::BTreeSet;
use std::sync::PoisonError;

use bound::{Bound, What};

use crate::lambda::check::modules::{self, Lookup, Module, PthLine};
use crate::lambda::check::paths::{self, below, joined};
use crate::lambda::check::subject::{Python, Subject};
use crate::lambda::check::syntax::{self, Binding};
use crate::lambda::check::{Fault, Level, Look, MOST, Rule, folded, wheels};
use crate::lambda::{Handler, RUNTIME_DIR};
use crate::oci::flatten::Kind;
use crate::python::standard_library;

/// Sources of the user's that are followed, at most.
const MOST_SOURCES: usize = 1000;

/// `sys.builtin_module_names` of `CPython` 3.9 to 3.14 on Linux.
const BUILTIN: &[&str] = &[
    "_abc",
    "_ast",
    "_codecs",
    "_collections",
    "_functools",
    "_imp",
    "_io",
    "_locale",
    "_operator",
    "_signal",
    "_sre",
    "_stat",
    "_string",
    "_symtable",
    "_thread",
    "_tracemalloc",
    "_warnings",
    "_weakref",
    "atexit",
    "builtins",
    "errno",
    "faulthandler",
    "gc",
    "itertools",
    "marshal",
    "posix",
    "pwd",
    "sys",
    "time",
];
/// The one that is no more, and the last line that has it.
const BUILTIN_UNTIL: (&str, u8) = ("xxsubtype", 11);
/// Modules of the standard library that a build may have inside the interpreter.
const COMPILED_IN: &[&str] = &[
    "array",
    "audioop",
    "binascii",
    "cmath",
    "crypt",
    "fcntl",
    "grp",
    "math",
    "mmap",
    "nis",
    "ossaudiodev",
    "parser",
    "pyexpat",
    "readline",
    "resource",
    "select",
    "spwd",
    "syslog",
    "termios",
    "unicodedata",
    "zlib",
];
/// What Lambda's bases have installed.
const BROUGHT: &[&str] = &[
    "boto3",
    "botocore",
    "dateutil",
    "jmespath",
    "pip",
    "runtime_client",
    "s3transfer",
    "simplejson",
    "six",
    "snapshot_restore_py",
    "urllib3",
];
/// Names that stand for nothing which programs import.
const HARMLESS: &[&str] = &[
    "test",
    "this",
    "antigravity",
    "idlelib",
    "turtledemo",
    "site",
    "sitecustomize",
];

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB050",
        level: Level::Error,
        title: "The handler names a module and a function",
        why: "The runtime client splits it at the last dot: without one it ends with `Runtime.MalformedHandlerName: Bad \
              handler`.",
        remedy: "Write the handler as `module.function`.",
        look: Look::Files(names_a_function),
    },
    Rule {
        id: "LMB051",
        level: Level::Error,
        title: "The handler's module is none of the interpreter's own",
        why: "`Runtime.BuiltInModuleConflict: Cannot use built-in module`: the client refuses a module whose first part is \
              built into the interpreter.",
        remedy: "Give the module another name.",
        look: Look::Files(is_not_builtin),
    },
    Rule {
        id: "LMB052",
        level: Level::Error,
        title: "The handler's module is in the image",
        why: "`Runtime.ImportModuleError: Unable to import module`: it is in no directory where the image's Python looks \
              for modules.",
        remedy: "Copy the module below the task root, or correct the handler.",
        look: Look::Files(is_there),
    },
    Rule {
        id: "LMB053",
        level: Level::Error,
        title: "The function's modules are of the syntax of the image's Python",
        why: "`Runtime.UserCodeSyntaxError: Syntax error in module`.",
        remedy: "Correct the source, or choose a base with the Python that it is written for.",
        look: Look::Files(has_syntax),
    },
    Rule {
        id: "LMB054",
        level: Level::Error,
        title: "The handler's module has the function",
        why: "`Runtime.HandlerNotFound: Handler missing on module`.",
        remedy: "Define the function at the module's top level, or correct the handler.",
        look: Look::Files(has_function),
    },
    Rule {
        id: "LMB055",
        level: Level::Error,
        title: "The handler is no coroutine",
        why: "The runtime client does not await it: each invocation ends with `Runtime.MarshalError: Unable to marshal \
              response: Object of type coroutine is not JSON serializable`.",
        remedy: "Make it a plain function that calls `asyncio.run`.",
        look: Look::Files(is_plain),
    },
    Rule {
        id: "LMB056",
        level: Level::Warning,
        title: "The handler takes event and context",
        why: "The runtime client calls it with two positional arguments: each invocation ends with `TypeError`.",
        remedy: "Give it the parameters `event` and `context`.",
        look: Look::Files(takes_two),
    },
    Rule {
        id: "LMB057",
        level: Level::Warning,
        title: "No module has the place of one of the standard library",
        why: "The task root is searched before the standard library: whatever imports that name gets the other module, or \
              the module is never imported because Lambda's own has been before.",
        remedy: "Give the module another name, or leave out the distribution that brings it.",
        look: Look::Files(shadows_nothing),
    },
    Rule {
        id: "LMB058",
        level: Level::Note,
        title: "The runtime client is not in the image twice",
        why: "The bootstrap imports its own before it looks into the task root: the function's copy is never run.",
        remedy: "Leave `awslambdaric` out of the function's requirements.",
        look: Look::Files(has_one_client),
    },
    Rule {
        id: "LMB059",
        level: Level::Note,
        title: "No `.pth` file of the function runs code or leads nowhere",
        why: "The bootstrap reads the `.pth` files of the task root at each cold start and runs the lines that begin with \
              `import`.",
        remedy: "Leave the file out if nothing needs it.",
        look: Look::Files(has_plain_pth_files),
    },
    Rule {
        id: "LMB060",
        level: Level::Error,
        title: "What the function's modules import is in the image",
        why: "`Runtime.ImportModuleError: Unable to import module: No module named`, or of a relative import outside of a \
              package `attempted relative import with no known parent package`.",
        remedy: "Install the distribution that brings the module, or copy it below the task root.",
        look: Look::Files(has_its_imports),
    },
    Rule {
        id: "LMB061",
        level: Level::Error,
        title: "The handler can be called",
        why: "The module is imported without complaint, and each invocation ends with `TypeError: object is not callable`.",
        remedy: "Give the handler's name to a function that takes `event` and `context`.",
        look: Look::Files(can_be_called),
    },
];

fn names_a_function(image: &Subject) -> Vec<Fault> {
    let Some(text) = modules::handler_text(image).filter(|_| image.python.is_some()) else {
        return Vec::new();
    };
    let error = text.parse::<Handler>().err();
    error
        .map(|error| Fault::new(error.to_string()).value(text))
        .into_iter()
        .collect()
}

fn first_part(handler: &Handler) -> &str {
    handler.module().split('.').next().unwrap_or_default()
}

fn is_builtin(name: &str, python: &Python) -> bool {
    let (gone, until) = BUILTIN_UNTIL;
    BUILTIN.contains(&name) || name == gone && python.version.minor() <= until
}

/// The handler and the Python that imports it, where both are sound.
fn handled(image: &Subject) -> Option<(Handler, &Python)> {
    let python = image.python.as_ref()?;
    let handler = modules::handler(image)?;
    (!is_builtin(first_part(&handler), python)).then_some((handler, python))
}

fn is_not_builtin(image: &Subject) -> Vec<Fault> {
    let (Some(python), Some(handler)) = (&image.python, modules::handler(image)) else {
        return Vec::new();
    };
    let name = first_part(&handler);
    let (builtin, version) = (is_builtin(name, python), python.version);
    let message = format!("`{name}` is built into Python {version}");
    let fault = builtin.then(|| Fault::new(message).value(handler.to_string()));
    fault.into_iter().collect()
}

fn is_there(image: &Subject) -> Vec<Fault> {
    let Some((handler, python)) = handled(image) else {
        return Vec::new();
    };
    if !modules::is_certain(image, python) {
        return Vec::new();
    }
    let module = handler.module();
    let message = match modules::look_up(image, &python.path, module) {
        Lookup::Found(_) => return Vec::new(),
        Lookup::NoPackage(part) => format!("`{part}` is a module, so there is no `{module}` in it"),
        // What lies in its place and is no file at all another rule tells.
        Lookup::Missing(part) if is_odd(image, python, &part) => return Vec::new(),
        Lookup::Missing(part) => {
            let first = python.path.first().map_or("", |directory| directory);
            let first = if first.is_empty() { "/" } else { first };
            format!("there is no module `{part}` in `{first}` or elsewhere on the module path")
        }
    };
    vec![Fault::new(message).value(handler.to_string())]
}

/// Whether an added device, pipe or the like has the place of a module.
fn is_odd(image: &Subject, python: &Python, dotted: &str) -> bool {
    let source = format!("{}.py", dotted.replace('.', "/"));
    let mut places = python.path.iter().map(|place| joined(place, &source));
    places.any(|place| {
        image.get(&place).is_some_and(|found| {
            let kind = found.entry.kind;
            found.layer >= image.base && matches!(kind, Kind::Device | Kind::Fifo | Kind::Other(_))
        })
    })
}

/// Names of modules that are missed, as paths: of the handler's rules each has told that nothing is there.
pub(super) fn missed(image: &Subject) -> Vec<String> {
    let mut missed = Vec::new();
    if let Some((handler, python)) = handled(image) {
        let module = handler.module();
        match modules::look_up(image, &python.path, module) {
            Lookup::Missing(part) => missed.push(part.replace('.', "/")),
            Lookup::Found(_) if is_namespace(image).is_some() => missed.push(handler.stem()),
            Lookup::Found(_) | Lookup::NoPackage(_) => {}
        }
    }
    let imports = has_its_imports(image).into_iter();
    let imports = imports.filter_map(|fault| fault.value);
    missed.extend(imports.map(|name| name.trim_start_matches('.').replace('.', "/")));
    missed
}

/// A source of the user's that is run when the function starts.
struct Source {
    path: String,
    layer: usize,
    /// The package that relative imports start from, as directories; nothing where they cannot work.
    package: Option<Vec<String>>,
    /// How many packages are around it, itself included if it is one; nothing where that depends on who imports it.
    depth: Option<u32>,
    read: syntax::Reading,
}

fn source(
    image: &Subject,
    python: &Python,
    path: &str,
    package: Option<Vec<String>>,
) -> Option<Source> {
    if !paths::has_ending(path, "py") {
        return None;
    }
    let (path, found) = image.find(path)?;
    let bytes = found.entry.seen.as_ref()?.kept.as_deref()?;
    // A module that was not kept to its end says nothing.
    if bytes.len() as u64 != found.entry.size {
        return None;
    }
    Some(Source {
        read: read_once(image, &path, || syntax::read(bytes, python.version))?,
        layer: found.layer,
        path,
        package,
        depth: None,
    })
}

/// What a source says: several rules ask, and parsing costs.
fn read_once(
    image: &Subject,
    path: &str,
    read: impl FnOnce() -> Option<syntax::Reading>,
) -> Option<syntax::Reading> {
    let known = image.known.sources.lock();
    let mut known = known.unwrap_or_else(PoisonError::into_inner);
    known.entry(path.to_owned()).or_insert_with(read).clone()
}

/// The handler's module and the packages around it, the module last.
fn sources(image: &Subject, handler: &Handler, python: &Python) -> Vec<Source> {
    let Lookup::Found(way) = modules::look_up(image, &python.path, handler.module()) else {
        return Vec::new();
    };
    let mut around = None;
    let mut sources = Vec::new();
    for (depth, module) in (0..).zip(way) {
        let own = module.directories();
        let package = own.clone().or_else(|| around.clone());
        if let Some(file) = module.file() {
            let mut source = source(image, python, file, package);
            if let Some(source) = &mut source {
                source.depth = Some(depth + u32::from(own.is_some()));
            }
            sources.extend(source);
        }
        around = own;
    }
    sources
}

/// The same and the user's own modules that these import, and those that these do.
fn all_sources(image: &Subject, handler: &Handler, python: &Python) -> Vec<Source> {
    let mut all = sources(image, handler, python);
    let mut known: BTreeSet<String> = all.iter().map(|one| one.path.clone()).collect();
    let mut next = 0;
    while next < all.len().min(MOST_SOURCES) {
        for (path, package) in imported(image, python, &all[next]) {
            if !known.insert(path.clone()) {
                continue;
            }
            let one = source(image, python, &path, package);
            all.extend(one.filter(|one| one.path == path || known.insert(one.path.clone())));
        }
        next += 1;
    }
    all
}

/// The user's own modules that a source imports: their files, each with the package around it.
fn imported(
    image: &Subject,
    python: &Python,
    source: &Source,
) -> Vec<(String, Option<Vec<String>>)> {
    let mut files = Vec::new();
    let imports = source.read.iter().flat_map(|module| &module.imports);
    for import in imports {
        let Some(directories) = start_of(import.level, source, python) else {
            continue;
        };
        // What is taken from a package may be a module of it.
        let dots = if import.module.is_empty() { "" } else { "." };
        let names = import.names.iter().filter(|name| *name != "*");
        let names = names.map(|name| format!("{}{dots}{name}", import.module));
        let whole = (!import.module.is_empty()).then(|| import.module.clone());
        for dotted in whole.into_iter().chain(names) {
            let Lookup::Found(way) = modules::look_up(image, &directories, &dotted) else {
                continue;
            };
            let mut around = None;
            for module in way {
                let own = module.directories();
                let package = own.clone().or_else(|| around.clone());
                let file = module.file().filter(|file| is_own(image, python, file));
                files.extend(file.map(|file| (file.to_owned(), package)));
                around = own;
            }
        }
    }
    files
}

/// Whether a module is the user's: added, where functions are, and of no distribution.
fn is_own(image: &Subject, python: &Python, path: &str) -> bool {
    let first = python.path.first().map_or("", |first| first);
    below(first, path).is_some()
        && !path.contains("-packages/")
        && image
            .get(path)
            .is_some_and(|found| found.layer >= image.base)
        && !wheels::is_recorded(image, python, path)
}

/// Where an import of some leading dots looks.
fn start_of(level: u32, source: &Source, python: &Python) -> Option<Vec<String>> {
    if level == 0 {
        return Some(python.path.clone());
    }
    let mut directories = source.package.clone()?;
    for _ in 1..level {
        for directory in &mut directories {
            directory.truncate(directory.rfind('/')?);
        }
    }
    Some(directories)
}

fn has_syntax(image: &Subject) -> Vec<Fault> {
    let Some((handler, python)) = handled(image) else {
        return Vec::new();
    };
    let all = all_sources(image, &handler, python);
    let faults = all.into_iter().filter_map(|source| {
        let refusal = source.read.err()?;
        let place = refusal.place.map_or(String::new(), |(line, column)| {
            format!("line {line}, column {column}: ")
        });
        let message = format!("{place}{} (Python {})", refusal.reason, python.version);
        Some(Fault::new(message).layer(source.layer).path(source.path))
    });
    folded(faults.collect(), MOST)
}

/// The handler's module as it was read, and its bindings of the handler's name.
fn function(image: &Subject) -> Option<(Handler, Source, syntax::Module)> {
    let (handler, python) = handled(image)?;
    let Lookup::Found(way) = modules::look_up(image, &python.path, handler.module()) else {
        return None;
    };
    let file = way.last()?.file()?;
    let mut all = sources(image, &handler, python);
    let mut source = all.pop().filter(|source| {
        image
            .find(file)
            .is_some_and(|(real, _)| real == source.path)
    })?;
    let read = std::mem::replace(&mut source.read, Ok(syntax::Module::default()));
    Some((handler, source, read.ok()?))
}

fn has_function(image: &Subject) -> Vec<Fault> {
    if let Some(fault) = is_namespace(image).or_else(|| is_nowhere(image)) {
        return vec![fault];
    }
    let Some((handler, source, module)) = function(image) else {
        return Vec::new();
    };
    let name = handler.function();
    if module.is_dynamic || module.bindings.contains_key(name) || is_of_every_module(name) {
        return Vec::new();
    }
    let functions = module.bindings.iter().filter(|(_, all)| {
        all.iter().any(|one| {
            matches!(
                one,
                Binding::Function {
                    takes_two: true,
                    ..
                }
            )
        })
    });
    let functions: Vec<_> = functions
        .map(|(name, _)| format!("`{name}`"))
        .take(3)
        .collect();
    let has = match &*functions {
        [] => String::new(),
        some => format!("; it has {}", some.join(", ")),
    };
    let message = format!("no `{name}` is defined or imported at its top level{has}");
    let mut fault = Fault::new(message).layer(source.layer).path(source.path);
    if let [only] = &*functions {
        let right = format!("{}.{}", handler.module(), only.trim_matches('`'));
        fault = fault.remedy(format!("Set the handler to `{right}`, or define `{name}`."));
    }
    vec![fault.value(handler.to_string())]
}

/// A directory without an `__init__` can be imported, and has no names.
fn is_namespace(image: &Subject) -> Option<Fault> {
    let (handler, python) = handled(image)?;
    let Lookup::Found(way) = modules::look_up(image, &python.path, handler.module()) else {
        return None;
    };
    let Some(Module::Namespace(directories)) = way.last() else {
        return None;
    };
    let message = "it is a directory without an `__init__.py`, which defines no function";
    let fault = Fault::new(message).path(directories.first()?);
    modules::is_certain(image, python).then(|| fault.value(handler.to_string()))
}

fn is_of_every_module(name: &str) -> bool {
    name.starts_with("__") && name.ends_with("__")
}

/// What the handler's name stands for, where that is certain, and whether it is so in the handler's own module and
/// under its own name.
fn bound_handler(image: &Subject) -> Option<(Handler, Bound, bool)> {
    let (_, python) = handled(image)?;
    let (handler, source, module) = function(image)?;
    let bound = bound::bound(image, python, &source, &module, handler.function())?;
    let is_direct = bound.path == source.path && bound.name == handler.function();
    Some((handler, bound, is_direct))
}

/// A fault where `tell` has a word for what the handler's name stands for.
fn of_bound(image: &Subject, tell: impl Fn(&What) -> Option<String>) -> Vec<Fault> {
    let Some((handler, bound, is_direct)) = bound_handler(image) else {
        return Vec::new();
    };
    let Some(what) = tell(&bound.what) else {
        return Vec::new();
    };
    let (name, line) = (&bound.name, bound.line);
    let message = if is_direct {
        format!("`{name}` in line {line} {what}")
    } else {
        let own = handler.function();
        format!("`{own}` is `{name}` in line {line}, which {what}")
    };
    let fault = Fault::new(message).layer(bound.layer).path(bound.path);
    vec![fault.value(handler.to_string())]
}

fn is_plain(image: &Subject) -> Vec<Fault> {
    of_bound(image, |what| match what {
        What::Function { is_async: true, .. } => Some("is `async`".to_owned()),
        _ => None,
    })
}

fn takes_two(image: &Subject) -> Vec<Fault> {
    of_bound(image, |what| match what {
        What::Function {
            is_async: false,
            takes_two: false,
        } => Some("cannot be called with two positional arguments".to_owned()),
        _ => None,
    })
}

fn can_be_called(image: &Subject) -> Vec<Fault> {
    of_bound(image, |what| match what {
        What::Value(what) => Some(format!("is {what}")),
        _ => None,
    })
}

/// A name that is imported from a module which does not define it.
fn is_nowhere(image: &Subject) -> Option<Fault> {
    let (handler, bound, _) = bound_handler(image)?;
    let What::Nothing { module } = &bound.what else {
        return None;
    };
    let (name, line) = (&bound.name, bound.line);
    let message = format!("line {line}: `{module}` does not define `{name}`");
    let fault = Fault::new(message).layer(bound.layer).path(bound.path);
    let fault = fault.remedy(format!(
        "Define `{name}` in `{module}`, or correct the import."
    ));
    Some(fault.value(handler.to_string()))
}

/// The names of modules and packages right in a directory of the standard library.
fn standard_modules(image: &Subject, python: &Python) -> Vec<String> {
    let mut names = Vec::new();
    for directory in &python.standard {
        for path in image.tree.paths_below(directory) {
            let rest = below(directory, path).unwrap_or_default();
            let package = rest.strip_suffix("/__init__.py");
            let name = package.or_else(|| rest.strip_suffix(".py"));
            names.extend(name.filter(|name| !name.contains('/')).map(str::to_owned));
        }
    }
    names.extend(standard_library::names(python.version).map(str::to_owned));
    names.sort();
    names.dedup();
    // What is built in no file can stand before.
    names.retain(|name| !is_builtin(name, python));
    names.retain(|name| !HARMLESS.contains(&&**name) && !name.starts_with("__"));
    names
}

fn shadows_nothing(image: &Subject) -> Vec<Fault> {
    let Some(python) = &image.python else {
        return Vec::new();
    };
    let before = python
        .path
        .iter()
        .take_while(|path| !python.standard.contains(path));
    let before: Vec<&String> = before.filter(|path| *path != RUNTIME_DIR).collect();
    let mut faults = Vec::new();
    for name in standard_modules(image, python) {
        for directory in &before {
            let module = modules::find_in(image, &[(*directory).clone()], &name);
            let Some(file) = module.as_ref().and_then(Module::file) else {
                continue;
            };
            let Some(found) = image.get(file).filter(|found| found.layer >= image.base) else {
                continue;
            };
            let shadowed = modules::find_in(image, &python.standard, &name);
            let shadowed = match shadowed.as_ref().and_then(Module::file) {
                Some(file) => format!("`{file}`"),
                None => "the standard library's".to_owned(),
            };
            let message = format!("it is imported as `{name}` in place of {shadowed}");
            faults.push(Fault::new(message).layer(found.layer).path(file));
        }
    }
    folded(faults, MOST)
}

/// The Python, where AWS's bootstrap starts it.
fn of_lambdas(image: &Subject) -> Option<&Python> {
    let is_lambdas = modules::is_lambdas(&image.documents);
    image.python.as_ref().filter(|_| is_lambdas)
}

fn has_one_client(image: &Subject) -> Vec<Fault> {
    let Some(python) = of_lambdas(image) else {
        return Vec::new();
    };
    let root = &python.path[..1.min(python.path.len())];
    let module = modules::find_in(image, root, "awslambdaric");
    let Some(file) = module.as_ref().and_then(Module::file) else {
        return Vec::new();
    };
    let found = image.get(file).filter(|found| found.layer >= image.base);
    let message = "the bootstrap has imported its own client before it looks here";
    found
        .map(|found| Fault::new(message).layer(found.layer).path(file))
        .into_iter()
        .collect()
}

fn has_plain_pth_files(image: &Subject) -> Vec<Fault> {
    let Some(python) = of_lambdas(image) else {
        return Vec::new();
    };
    let own = python.path.iter().take_while(|path| *path != RUNTIME_DIR);
    let own = own.filter(|path| !path.contains("/lib/python") || path.starts_with("opt/"));
    let lines = own.flat_map(|directory| modules::pth_lines(image, directory));
    // setuptools brings it everywhere.
    let lines = lines.filter(|(path, _)| !path.ends_with("/distutils-precedence.pth"));
    let mut told: Vec<(String, usize, &str)> = Vec::new();
    for (path, line) in lines {
        let what = match line {
            PthLine::Directory(_) => continue,
            PthLine::Nowhere(_) => "leads nowhere",
            PthLine::Code(_) => "runs code",
        };
        let layer = image.get(&path).map_or(0, |found| found.layer);
        if layer >= image.base && !told.iter().any(|(other, _, _)| *other == path) {
            told.push((path, layer, what));
        }
    }
    let Some((first, layer, what)) = told.first() else {
        return Vec::new();
    };
    let more = match told.len() - 1 {
        0 => String::new(),
        more => format!("; and {more} more `.pth` files do as much"),
    };
    let message = format!("it {what} at each cold start{more}");
    vec![Fault::new(message).layer(*layer).path(first)]
}

fn has_its_imports(image: &Subject) -> Vec<Fault> {
    let Some((handler, python)) = handled(image) else {
        return Vec::new();
    };
    if !modules::is_certain(image, python) {
        return Vec::new();
    }
    let all = all_sources(image, &handler, python);
    let changes = |one: &Source| one.read.as_ref().is_ok_and(|module| module.changes_path);
    if all.iter().any(changes) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for one in &all {
        let Ok(module) = &one.read else { continue };
        let mut told = BTreeSet::new();
        for import in &module.imports {
            // What more is taken from a module that is not there says nothing new.
            if told.contains(&(import.level, &import.module)) {
                continue;
            }
            let line = import.line;
            let fault = if let Some(out) = out_of_packages(one, import) {
                let remedy =
                    "Import it by its whole name, or put the function into a package of its own.";
                Fault::new(format!("line {line}: {out}")).remedy(remedy)
            } else if let Some(missing) = missing(image, python, one, import) {
                let message = format!("line {line}: there is no module `{missing}` in the image");
                Fault::new(message).value(missing)
            } else {
                continue;
            };
            told.insert((import.level, &import.module));
            faults.push(fault.layer(one.layer).path(&one.path));
        }
    }
    folded(faults, MOST)
}

/// What is wrong with a relative import that leads out of the packages around its module.
fn out_of_packages(source: &Source, import: &syntax::Import) -> Option<String> {
    let dots = ".".repeat(import.level as usize);
    let name = format!("`from {dots}{} import`", import.module);
    match source.depth? {
        depth if depth >= import.level => None,
        0 => Some(format!(
            "{name} is relative, and the module is in no package"
        )),
        _ => Some(format!("{name} leads out of the outermost package")),
    }
}

/// The module that an import does not find, where that is certain.
fn missing(
    image: &Subject,
    python: &Python,
    source: &Source,
    import: &syntax::Import,
) -> Option<String> {
    if import.module.is_empty() {
        return None;
    }
    let directories = start_of(import.level, source, python)?;
    let first = import.module.split('.').next()?;
    if import.level == 0 && modules::find_in(image, &python.path, first).is_none() {
        let known = is_builtin(first, python)
            || COMPILED_IN.contains(&first)
            || first.starts_with('_')
            // Imported by then, wherever it is.
            || first == "awslambdaric"
            || (!has_standard_library(image, python) && is_of_a_base(first, python));
        return (!known).then(|| first.to_owned());
    }
    // What a distribution does with its own packages is its affair, as is what the standard library does.
    let is_users = |module: &Module| match module {
        Module::File(file) | Module::Package(file, _) => is_own(image, python, file),
        Module::Namespace(directories) => directories
            .iter()
            .all(|directory| is_own_namespace(image, python, directory)),
    };
    let found = modules::find_in(image, &directories, first);
    let users = import.level > 0 || found.as_ref().is_some_and(is_users);
    match modules::look_up(image, &directories, &import.module) {
        Lookup::Missing(part) if users && is_own(image, python, &source.path) => {
            Some(format!("{}{part}", ".".repeat(import.level as usize)))
        }
        _ => None,
    }
}

/// Whether a directory without an `__init__` has sources right in it, and all are the user's.
fn is_own_namespace(image: &Subject, python: &Python, directory: &str) -> bool {
    let paths = image.tree.paths_below(directory);
    let mut sources = paths
        .filter(|path| paths::has_ending(path, "py"))
        .filter(|path| below(directory, path).is_some_and(|name| !name.contains('/')))
        .peekable();
    sources.peek().is_some() && sources.all(|path| is_own(image, python, path))
}

/// Whether a base whose files are not all there would have a module of this name.
fn is_of_a_base(name: &str, python: &Python) -> bool {
    standard_library::has(python.version, name) || BROUGHT.contains(&name)
}

/// Whether the image has Python's own modules, so that one which is not there is not anywhere.
fn has_standard_library(image: &Subject, python: &Python) -> bool {
    let has = |module: &str| {
        let mut places = python
            .standard
            .iter()
            .map(|directory| joined(directory, module));
        places.any(|place| image.find(&place).is_some())
    };
    has("os.py") && has("json/__init__.py") && has("typing.py")
}

#[cfg(test)]
mod tests;
