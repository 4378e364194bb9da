//! What the handler's name stands for once its module is run: followed over aliases and imports to where it is
//! defined, inside the function's own modules.
//!
//! Only what is certain is told. A name that is bound twice, or under a condition, or in a module that changes
//! names as it runs, stands for something unknown. What is wrong with what was found is the rules' to say.

use crate::lambda::check::handler::{
    Source, is_builtin, is_of_every_module, is_own, source, start_of,
};
use crate::lambda::check::modules::{self, Lookup, Module};
use crate::lambda::check::subject::{Python, Subject};
use crate::lambda::check::syntax::{self, Binding, Import};
use crate::python::standard_library;

/// As many aliases and imports are followed one after another.
const MAX_STEPS: usize = 16;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A function without decorators.
    Function { is_async: bool, takes_two: bool },
    /// Something that cannot be called: this.
    Value(String),
    /// Nothing: it is imported from a module that does not define it.
    Nothing { module: String },
}

/// A name, and where it gets its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    /// The file.
    pub(super) path: String,
    pub(super) layer: usize,
    /// The line, from 1.
    pub(super) line: usize,
    /// The name that it has there.
    pub(super) name: String,
    pub(super) what: What,
}

/// A module under way, as it was read.
struct Place<'a> {
    source: &'a Source,
    module: &'a syntax::Module,
}

impl Place<'_> {
    fn bound(&self, line: usize, name: &str, what: What) -> Bound {
        Bound {
            path: self.source.path.clone(),
            layer: self.source.layer,
            line,
            name: name.to_owned(),
            what,
        }
    }
}

/// What a name of a module stands for, where that is certain.
pub(super) fn bound(
    image: &Subject,
    python: &Python,
    source: &Source,
    module: &syntax::Module,
    name: &str,
) -> Option<Bound> {
    followed(image, python, &Place { source, module }, name, MAX_STEPS)
}

fn followed(
    image: &Subject,
    python: &Python,
    place: &Place<'_>,
    name: &str,
    steps: usize,
) -> Option<Bound> {
    let steps = steps.checked_sub(1)?;
    if place.module.is_dynamic {
        return None;
    }
    let [only] = &**place.module.bindings.get(name)? else {
        return None;
    };
    match only {
        Binding::Function {
            line,
            is_async,
            takes_two,
        } => {
            let (is_async, takes_two) = (*is_async, *takes_two);
            let what = What::Function {
                is_async,
                takes_two,
            };
            Some(place.bound(*line, name, what))
        }
        Binding::Value { line, what } => {
            Some(place.bound(*line, name, What::Value((*what).to_owned())))
        }
        Binding::Alias(of) => followed(image, python, place, of, steps),
        Binding::Module(import) => {
            let what = of_module(image, python, &import.module)?;
            Some(place.bound(import.line, name, what))
        }
        Binding::Member(import, member) => {
            of_member(image, python, place, (name, import, member), steps)
        }
        Binding::Other => None,
    }
}

/// What a module itself is, which nobody can call unless it puts something else in its place as it runs.
fn of_module(image: &Subject, python: &Python, dotted: &str) -> Option<What> {
    let first = dotted.split('.').next()?;
    let what = || What::Value(format!("the module `{dotted}`"));
    if is_known(python, first) {
        return Some(what());
    }
    let Lookup::Found(way) = modules::look_up(image, &python.path, dotted) else {
        return None;
    };
    is_plain(image, python, &way).then(what)
}

/// Whether modules of this name are the interpreter's or the standard library's, or may be.
fn is_known(python: &Python, first: &str) -> bool {
    is_builtin(first, python) || standard_library::has(python.version, first)
}

/// Whether all modules on the way are the user's and change no names as they run.
fn is_plain(image: &Subject, python: &Python, way: &[Module]) -> bool {
    way.iter().all(|module| match module.file() {
        Some(file) => read(image, python, file)
            .is_some_and(|source| source.read.is_ok_and(|module| !module.is_dynamic)),
        None => true,
    })
}

/// One of the user's own modules.
fn read(image: &Subject, python: &Python, file: &str) -> Option<Source> {
    is_own(image, python, file).then(|| source(image, python, file, None))?
}

/// What a module has under a name: `from module import member`, which `name` is bound to.
fn of_member(
    image: &Subject,
    python: &Python,
    place: &Place<'_>,
    (name, import, member): (&str, &Import, &str),
    steps: usize,
) -> Option<Bound> {
    let first = import.module.split('.').next()?;
    if import.level == 0 && is_known(python, first) || !modules::is_certain(image, python) {
        return None;
    }
    let directories = start_of(import.level, place.source, python)?;
    let (inside, file) = if import.module.is_empty() {
        let file = init_of(image, &directories);
        (Some(directories), file)
    } else {
        let Lookup::Found(way) = modules::look_up(image, &directories, &import.module) else {
            return None;
        };
        let (last, around) = way.split_last()?;
        let own = last.directories();
        let package = around.last().and_then(Module::directories);
        let package = package.or_else(|| (import.level > 0).then_some(directories));
        let file = last
            .file()
            .map(|file| (file.to_owned(), own.clone().or(package)));
        (own, file)
    };
    if let Some((file, package)) = file {
        if !is_own(image, python, &file) {
            return None;
        }
        let mut source = source(image, python, &file, package)?;
        let module = std::mem::replace(&mut source.read, Ok(syntax::Module::default())).ok()?;
        if module.is_dynamic || module.changes_path || is_of_every_module(member) {
            return None;
        }
        if module.bindings.contains_key(member) {
            let place = Place {
                source: &source,
                module: &module,
            };
            return followed(image, python, &place, member, steps);
        }
    }
    let dotted = format!("{}{}", ".".repeat(import.level as usize), import.module);
    let found = inside
        .as_ref()
        .map(|inside| modules::look_up(image, inside, member));
    let what = match found {
        Some(Lookup::Found(way)) if is_plain(image, python, &way) => {
            let dot = if dotted.ends_with('.') { "" } else { "." };
            What::Value(format!("the module `{dotted}{dot}{member}`"))
        }
        Some(Lookup::Found(_)) => return None,
        _ => What::Nothing { module: dotted },
    };
    let named = if matches!(what, What::Nothing { .. }) {
        member
    } else {
        name
    };
    Some(place.bound(import.line, named, what))
}

/// The file of the package that is these directories, and its own.
fn init_of(image: &Subject, directories: &[String]) -> Option<(String, Option<Vec<String>>)> {
    let [only] = directories else { return None };
    let (around, name) = only.rsplit_once('/')?;
    match modules::find_in(image, &[around.to_owned()], name)? {
        Module::Package(init, directory) => Some((init, Some(vec![directory]))),
        Module::File(_) | Module::Namespace(_) => None,
    }
}
