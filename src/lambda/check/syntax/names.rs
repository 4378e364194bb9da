//! One scope and the names in it, as CPython's symbol table (`Python/symtable.c`) keeps them while it goes down.
//!
//! Marks are what a scope has met of a name so far: the order of a declaration and a use is what CPython judges by.
//! What a statement or an expression is, is not known here.

use std::collections::HashMap;

use rustpython_ruff_text_size::TextRange;

/// What a scope has met of a name; several at once.
pub(super) type Marks = u16;

pub(super) const PARAMETER: Marks = 1;
/// Assigned, or bound as an assignment does.
pub(super) const LOCAL: Marks = 1 << 1;
pub(super) const IMPORT: Marks = 1 << 2;
pub(super) const USE: Marks = 1 << 3;
pub(super) const ANNOTATED: Marks = 1 << 4;
pub(super) const GLOBAL: Marks = 1 << 5;
pub(super) const NONLOCAL: Marks = 1 << 6;
/// The variable of a comprehension's `for`.
pub(super) const ITERATION: Marks = 1 << 7;
pub(super) const TYPE_PARAMETER: Marks = 1 << 8;

/// A name that a `nonlocal` wants of a scope around it, and where that is.
pub(super) type Asked = (String, TextRange);
/// Where something is wrong, and what.
pub(super) type Lost = (TextRange, String);

/// What opens a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Module,
    Class,
    Function {
        is_async: bool,
    },
    Lambda,
    Comprehension,
    /// An annotation that is not run where it stands.
    Annotation,
    /// Type parameters and what stands beside them, bounds, and what a type alias is for.
    Generic,
}

/// What is around a statement, inside its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Loop,
    With,
    Try,
    ExceptStar,
}

/// A scope on the way down.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) kind: Kind,
    names: HashMap<String, Marks>,
    /// Whether it awaits, or a comprehension in it does on its behalf.
    pub(super) is_coroutine: bool,
    /// Iterables of comprehensions around this place, in scopes above too.
    pub(super) iterables: usize,
    /// Whether this place is the target of a comprehension's `for`.
    pub(super) in_target: bool,
    /// Innermost last.
    pub(super) blocks: Vec<Block>,
    /// Asynchronous comprehensions that are refused unless this scope turns out to await.
    pub(super) waiting: Vec<TextRange>,
    /// Names that scopes within want of a scope around them.
    asked: Vec<Asked>,
    declared: Vec<Asked>,
}

impl Scope {
    pub(super) fn new(kind: Kind, iterables: usize) -> Self {
        Self {
            kind,
            names: HashMap::new(),
            is_coroutine: kind == Kind::Function { is_async: true },
            iterables,
            in_target: false,
            blocks: Vec::new(),
            waiting: Vec::new(),
            asked: Vec::new(),
            declared: Vec::new(),
        }
    }

    pub(super) fn marks(&self, name: &str) -> Marks {
        self.names.get(name).copied().unwrap_or_default()
    }

    /// Marks a name; a reason against it where a comprehension's variable has been assigned before.
    pub(super) fn mark(&mut self, name: &str, marks: Marks) -> Option<String> {
        let in_target = self.in_target;
        let known = self.names.entry(name.to_owned()).or_default();
        let clashes = in_target && *known & (GLOBAL | NONLOCAL) != 0;
        *known |= marks | if in_target { ITERATION } else { 0 };
        clashes.then(|| {
            format!("comprehension inner loop cannot rebind assignment expression target `{name}`")
        })
    }

    /// A `global` or `nonlocal` of a name; a reason against it.
    pub(super) fn declare(&mut self, name: &str, scope: Marks, place: TextRange) -> Option<String> {
        let word = if scope == GLOBAL {
            "global"
        } else {
            "nonlocal"
        };
        let met = self.marks(name);
        self.mark(name, scope);
        if scope == NONLOCAL && self.kind != Kind::Module {
            self.declared.push((name.to_owned(), place));
        }
        if met & PARAMETER != 0 {
            Some(format!("name `{name}` is parameter and {word}"))
        } else if met & USE != 0 {
            Some(format!("name `{name}` is used prior to {word} declaration"))
        } else if met & ANNOTATED != 0 {
            Some(format!("annotated name `{name}` can't be {word}"))
        } else if met & LOCAL != 0 {
            Some(format!(
                "name `{name}` is assigned to before {word} declaration"
            ))
        } else if (met | scope) & (GLOBAL | NONLOCAL) == GLOBAL | NONLOCAL {
            Some(format!("name `{name}` is nonlocal and global"))
        } else {
            None
        }
    }

    /// Ends the scope: what is still asked of those around it, and what cannot be had.
    pub(super) fn close(self) -> (Vec<Asked>, Vec<Lost>) {
        let mut open = Vec::new();
        let mut lost = Vec::new();
        for (name, place) in &self.asked {
            let marks = self.marks(name);
            let is_bound = marks & (LOCAL | PARAMETER | IMPORT) != 0 && marks & NONLOCAL == 0;
            match self.kind {
                Kind::Module => lost.push((*place, no_binding(name))),
                Kind::Class if name == "__class__" => {}
                Kind::Generic if marks & TYPE_PARAMETER != 0 => lost.push((
                    *place,
                    format!("nonlocal binding not allowed for type parameter `{name}`"),
                )),
                Kind::Function { .. } | Kind::Lambda if marks & GLOBAL != 0 => {
                    lost.push((*place, no_binding(name)));
                }
                Kind::Function { .. } | Kind::Lambda if is_bound => {}
                _ => open.push((name.clone(), *place)),
            }
        }
        open.extend(self.declared);
        (open, lost)
    }

    pub(super) fn ask(&mut self, names: Vec<Asked>) {
        self.asked.extend(names);
    }
}

fn no_binding(name: &str) -> String {
    format!("no binding for nonlocal `{name}` found")
}

/// A name as it is kept inside a class: private ones carry the class's.
pub(super) fn mangled(name: &str, class: Option<&String>) -> String {
    let is_private = name.starts_with("__") && !name.ends_with("__") && !name.contains('.');
    match class.map(|class| class.trim_start_matches('_')) {
        Some(class) if is_private && !class.is_empty() => format!("_{class}{name}"),
        _ => name.to_owned(),
    }
}
