//! What a module's source says without being run: whether a Python takes it, what it defines and what it imports.
//!
//! The parser is ruff's. Sources come from anywhere, so how deep one is nested is counted before: what a stack of
//! known size might not hold is not parsed, and then nothing is said. That is all that is done against a parser that
//! fails: a panic of ruff's ends the process where the release is built to abort. What an image is, is not known here.

mod compiler;
#[cfg(test)]
mod differential;
mod names;

use std::collections::{BTreeMap, HashSet};
use std::thread;

use rustpython_ruff_python_ast as ast;
use rustpython_ruff_python_ast::token::TokenKind;
use rustpython_ruff_python_ast::visitor::{self, Visitor};
use rustpython_ruff_python_ast::{Expr, ExprContext, Stmt};
use rustpython_ruff_python_parser::{
    InterpolatedStringErrorType, LexicalErrorType, Mode, ParseErrorType, ParseOptions, lexer,
    parse_unchecked,
};
use rustpython_ruff_text_size::{Ranged as _, TextSize};

use crate::python::PythonVersion;

/// Bytes of stack for a parse.
const STACK: usize = 256 << 20;
/// As deep as expressions may go, in tokens that may nest; so many levels need a fraction of the stack.
const DEEPEST: usize = 4000;

/// What a module says.
#[derive(Debug, Clone, Default)]
pub(super) struct Module {
    /// Names that its top level binds, each as often as it does.
    pub(super) bindings: BTreeMap<String, Vec<Binding>>,
    /// What it imports whenever it is run, unguarded.
    pub(super) imports: Vec<Import>,
    /// Whether its names can be told only by running it.
    pub(super) is_dynamic: bool,
    /// Whether it changes where modules are looked for.
    pub(super) changes_path: bool,
}

/// What a name is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Binding {
    /// A function without decorators.
    Function {
        /// Its line, from 1.
        line: usize,
        is_async: bool,
        /// Whether it can be called with two positional arguments.
        takes_two: bool,
    },
    /// What certainly cannot be called, bound at the top level and under no condition.
    Value {
        /// Its line, from 1.
        line: usize,
        /// What it is.
        what: &'static str,
    },
    /// The same as another name of the module, in the same way.
    Alias(String),
    /// The module that is imported, in the same way.
    Module(Import),
    /// What the module that is imported has under this name, in the same way.
    Member(Import, String),
    /// Something that cannot be told.
    Other,
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    /// Its line, from 1.
    pub(super) line: usize,
    /// Dots before the name.
    pub(super) level: u32,
    /// The dotted name; empty for `from . import x`.
    pub(super) module: String,
    /// What is taken from it; nothing by a plain `import`.
    pub(super) names: Vec<String>,
}

/// Why Python does not take a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Line and column from 1, where there is a place.
    pub(super) place: Option<(usize, usize)>,
    /// What is wrong.
    pub(super) reason: String,
}

/// What a source says, or why Python does not take it.
pub(super) type Reading = Result<Module, Refusal>;

/// Reads a module's source for a Python; nothing where it cannot be told what that would say.
pub(super) fn read(source: &[u8], version: PythonVersion) -> Option<Reading> {
    let text = match decoded(source)? {
        Ok(text) => text,
        Err(refusal) => return Some(Err(refusal)),
    };
    let parse = || is_shallow(&text).then(|| parsed(&text, version)).flatten();
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(STACK);
        let running = builder.spawn_scoped(scope, parse).ok()?;
        running.join().ok()?
    })
}

/// The text, by the encoding that its first two lines state (PEP 263); nothing for an encoding that is not known here.
fn decoded(source: &[u8]) -> Option<Result<String, Refusal>> {
    let place = |at: usize| {
        let before = &source[..at];
        let line = before.split(|byte| *byte == b'\n').count();
        let start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        Some((line, at - start + 1))
    };
    if let Some(at) = source.iter().position(|byte| *byte == 0) {
        return Some(Err(Refusal {
            place: place(at),
            reason: "source code cannot contain null bytes".to_owned(),
        }));
    }
    let unmarked = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
    match cookie(unmarked).as_deref() {
        None | Some("utf-8" | "utf8" | "u8" | "utf-8-sig" | "ascii" | "us-ascii") => {}
        Some("latin-1" | "latin1" | "iso-8859-1" | "iso8859-1") => {
            return Some(Ok(unmarked.iter().map(|byte| char::from(*byte)).collect()));
        }
        Some(_) => return None,
    }
    Some(match str::from_utf8(unmarked) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let at = error.valid_up_to() + (source.len() - unmarked.len());
            Err(Refusal {
                place: place(at),
                reason: format!(
                    "byte 0x{:02x} is no UTF-8, and no encoding is declared",
                    source[at]
                ),
            })
        }
    })
}

/// The encoding that a comment in the first line states, or in the second behind a line of nothing else.
fn cookie(source: &[u8]) -> Option<String> {
    let is_space = |byte: &u8| b" \t\x0c\r".contains(byte);
    for line in source.split(|byte| *byte == b'\n').take(2) {
        let start = line.iter().position(|byte| !is_space(byte));
        let Some(start) = start else { continue };
        if line[start] != b'#' {
            return None;
        }
        let comment = String::from_utf8_lossy(&line[start..]);
        let stated = comment.split("coding").skip(1).find_map(|rest| {
            let rest = rest.strip_prefix([':', '='])?;
            let name = rest.trim_start_matches([' ', '\t']);
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let name = &name[..name.find(|c| !is_name(c)).unwrap_or(name.len())];
            (!name.is_empty()).then(|| name.to_ascii_lowercase().replace('_', "-"))
        });
        if stated.is_some() {
            return stated;
        }
    }
    None
}

/// Whether nothing in it is nested deeper than a parser with this stack can go: a bound from above, by tokens.
fn is_shallow(text: &str) -> bool {
    let mut lexer = lexer::lex(text, Mode::Module);
    // What is around the innermost bracket, and what has come in it since the last comma.
    let mut around: Vec<usize> = Vec::new();
    let mut depth = 0_usize;
    let mut lambdas = 0_usize;
    let mut blocks = 0_usize;
    loop {
        match lexer.next_token() {
            TokenKind::EndOfFile => return true,
            TokenKind::Newline | TokenKind::Semi if around.is_empty() => (depth, lambdas) = (0, 0),
            TokenKind::Comma => depth = around.last().copied().unwrap_or_default(),
            TokenKind::Lpar | TokenKind::Lsqb | TokenKind::Lbrace => {
                depth += 1;
                around.push(depth);
            }
            TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace => {
                depth = around.pop().unwrap_or_default();
            }
            TokenKind::Lambda => lambdas += 1,
            TokenKind::Indent => blocks += 1,
            TokenKind::Dedent => blocks = blocks.saturating_sub(1),
            TokenKind::String
            | TokenKind::FStringMiddle
            | TokenKind::Comment
            | TokenKind::NonLogicalNewline => {}
            _ => depth += 1,
        }
        if depth + lambdas + blocks > DEEPEST {
            return false;
        }
    }
}

fn parsed(text: &str, version: PythonVersion) -> Option<Reading> {
    let target = ast::PythonVersion {
        major: 3,
        minor: version.minor(),
    };
    let options = ParseOptions::from(Mode::Module).with_target_version(target);
    let parsed = parse_unchecked(text, options);
    let refused = |at: usize, reason: String| Refusal {
        place: Some(place_in(text, at)),
        reason,
    };
    if let Some(error) = parsed.errors().first() {
        if is_by_release(&error.error, version) {
            return None;
        }
        let at = usize::from(error.location.start());
        return Some(Err(refused(at, error.error.to_string())));
    }
    if let Some(error) = parsed.unsupported_syntax_errors().first() {
        let at = usize::from(error.range.start());
        return Some(Err(refused(at, error.to_string())));
    }
    let ast::Mod::Module(module) = parsed.syntax() else {
        return Some(Ok(Module::default()));
    };
    if let Some((at, reason)) = compiler::refusal(module, text, target) {
        return Some(Err(refused(at, reason)));
    }
    let mut reader = TopLevel {
        lines: Lines::of(text),
        module: Module::default(),
        known: HashSet::new(),
        is_plain: false,
    };
    for statement in &module.body {
        reader.import(statement);
        reader.is_plain = true;
        reader.visit_stmt(statement);
        reader.delete(statement);
    }
    let mut module = reader.module;
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let dynamic = [
        "globals(",
        "exec(",
        "sys.modules",
        "setattr(",
        "vars(",
        "locals(",
    ];
    module.is_dynamic |= has(&dynamic) || module.bindings.contains_key("__getattr__");
    let paths = [
        "sys.path",
        "sys.meta_path",
        "addsitedir",
        "sys.modules",
        "__path__",
    ];
    module.changes_path = has(&paths);
    Some(Ok(module))
}

/// Whether early releases of a version take it and later ones do not: a line's end in the format of a field of an
/// f-string in single quotes.
fn is_by_release(error: &ParseErrorType, version: PythonVersion) -> bool {
    let is_newline = matches!(
        error,
        ParseErrorType::Lexical(LexicalErrorType::FStringError(
            InterpolatedStringErrorType::NewlineInFormatSpec
        )) | ParseErrorType::FStringError(InterpolatedStringErrorType::NewlineInFormatSpec)
    );
    is_newline && matches!(version.minor(), 12 | 13)
}

/// Line and column of a byte, from 1, in characters.
fn place_in(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

/// Where a text's lines end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(memchr::memchr_iter(b'\n', text.as_bytes()).collect())
    }

    /// The line of a byte, from 1.
    fn at(&self, place: TextSize) -> usize {
        self.0.partition_point(|end| *end < usize::from(place)) + 1
    }
}

/// Collects what a module's own level binds. It does not go into functions, but for what they declare global.
struct TopLevel {
    lines: Lines,
    module: Module,
    /// The imports so far, by level, module and what is taken from it, nothing first: what is imported again is there
    /// already, or is not.
    known: HashSet<(u32, String, String)>,
    /// Whether the next statement is one of the module's own, and not inside another.
    is_plain: bool,
}

impl TopLevel {
    fn bind(&mut self, name: &str, binding: Binding) {
        let bindings = self.module.bindings.entry(name.to_owned());
        bindings.or_default().push(binding);
    }

    /// Imports that nothing guards.
    fn import(&mut self, statement: &Stmt) {
        let mut add = |level, module: &str, names: &[ast::Alias]| {
            let mut is_new =
                |name: &str| (self.known).insert((level, module.to_owned(), name.to_owned()));
            let is_first = is_new("");
            let names = names.iter().map(|alias| alias.name.to_string());
            let names: Vec<_> = names.filter(|name| is_new(name)).collect();
            if is_first || !names.is_empty() {
                self.module.imports.push(Import {
                    line: self.lines.at(statement.range().start()),
                    level,
                    module: module.to_owned(),
                    names,
                });
            }
        };
        match statement {
            Stmt::Import(import) => {
                for alias in &import.names {
                    add(0, alias.name.as_str(), &[]);
                }
            }
            Stmt::ImportFrom(import) => {
                add(
                    import.level,
                    import.module.as_ref().map_or("", ast::Identifier::as_str),
                    &import.names,
                );
            }
            Stmt::ClassDef(class) => self.import_all(&class.body),
            Stmt::Try(attempt) => {
                if !attempt.handlers.iter().any(outlives_a_missing_module) {
                    self.import_all(&attempt.body);
                }
                self.import_all(&attempt.finalbody);
            }
            _ => {}
        }
    }

    fn import_all(&mut self, statements: &[Stmt]) {
        for statement in statements {
            self.import(statement);
        }
    }

    fn delete(&mut self, statement: &Stmt) {
        if let Stmt::Delete(delete) = statement {
            for target in &delete.targets {
                if let Expr::Name(name) = target {
                    self.module.bindings.remove(name.id.as_str());
                }
            }
        }
    }

    fn function(&mut self, function: &ast::StmtFunctionDef) {
        let line = self.lines.at(function.name.range().start());
        let parameters = &function.parameters;
        let required = |parameters: &[ast::ParameterWithDefault]| {
            parameters
                .iter()
                .filter(|one| one.default.is_none())
                .count()
        };
        let most = parameters.posonlyargs.len() + parameters.args.len();
        let least = required(&parameters.posonlyargs) + required(&parameters.args);
        let takes_two = least <= 2
            && (most >= 2 || parameters.vararg.is_some())
            && required(&parameters.kwonlyargs) == 0;
        let binding = if function.decorator_list.is_empty() {
            Binding::Function {
                line,
                is_async: function.is_async,
                takes_two,
            }
        } else {
            Binding::Other
        };
        self.bind(function.name.as_str(), binding);
        for statement in &function.body {
            Globals(self).visit_stmt(statement);
        }
    }
}

impl TopLevel {
    /// What names get by an assignment of the module's own, each whole.
    fn assign<'a>(&mut self, targets: &'a [Expr], value: &'a Expr) {
        let binding = self.value(value);
        for target in targets {
            match target {
                Expr::Name(name) => self.bind(name.id.as_str(), binding.clone()),
                other => self.visit_expr(other),
            }
        }
        self.visit_expr(value);
    }

    fn value(&self, value: &Expr) -> Binding {
        if let Expr::Name(name) = value {
            return Binding::Alias(name.id.to_string());
        }
        let line = self.lines.at(value.range().start());
        // A number with its sign.
        let value = match value {
            Expr::UnaryOp(operation) if operation.operand.is_number_literal_expr() => {
                &operation.operand
            }
            other => other,
        };
        let what = match value {
            Expr::NumberLiteral(_) => "a number",
            Expr::StringLiteral(_) | Expr::FString(_) => "a text",
            Expr::BytesLiteral(_) => "bytes",
            Expr::BooleanLiteral(_) => "a truth value",
            Expr::NoneLiteral(_) => "`None`",
            Expr::EllipsisLiteral(_) => "`...`",
            Expr::List(_) | Expr::ListComp(_) => "a list",
            Expr::Tuple(_) => "a tuple",
            Expr::Dict(_) | Expr::DictComp(_) => "a dictionary",
            Expr::Set(_) | Expr::SetComp(_) => "a set",
            Expr::Generator(_) => "a generator",
            _ => return Binding::Other,
        };
        Binding::Value { line, what }
    }

    /// What an import binds, where nothing guards it.
    fn import_of(&self, place: TextSize, level: u32, module: &str) -> Import {
        Import {
            line: self.lines.at(place),
            level,
            module: module.to_owned(),
            names: Vec::new(),
        }
    }
}

impl<'a> Visitor<'a> for TopLevel {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        let is_plain = std::mem::take(&mut self.is_plain);
        match statement {
            Stmt::Assign(assign) if is_plain => self.assign(&assign.targets, &assign.value),
            Stmt::AnnAssign(assign) if is_plain => {
                // A name with a type and no value is not bound.
                if let Some(value) = &assign.value {
                    self.assign(std::slice::from_ref(&assign.target), value);
                }
            }
            Stmt::FunctionDef(function) => self.function(function),
            Stmt::ClassDef(class) => {
                self.bind(class.name.as_str(), Binding::Other);
                for statement in &class.body {
                    Globals(self).visit_stmt(statement);
                }
            }
            Stmt::Import(import) => {
                for alias in &import.names {
                    let name = alias.asname.as_ref().unwrap_or(&alias.name).as_str();
                    let first = name.split('.').next().unwrap_or(name);
                    let module = if alias.asname.is_some() {
                        alias.name.as_str()
                    } else {
                        first
                    };
                    let binding = if is_plain {
                        Binding::Module(self.import_of(import.range().start(), 0, module))
                    } else {
                        Binding::Other
                    };
                    self.bind(first, binding);
                }
            }
            Stmt::ImportFrom(import) => {
                for alias in &import.names {
                    self.module.is_dynamic |= alias.name.as_str() == "*";
                    let binding = if is_plain {
                        let module = import.module.as_ref().map_or("", ast::Identifier::as_str);
                        let place = import.range().start();
                        let from = self.import_of(place, import.level, module);
                        Binding::Member(from, alias.name.to_string())
                    } else {
                        Binding::Other
                    };
                    self.bind(alias.asname.as_ref().unwrap_or(&alias.name), binding);
                }
            }
            // What a module does as a program, and not when it is imported.
            Stmt::If(choice) if is_program_test(&choice.test) => {
                for clause in &choice.elif_else_clauses {
                    self.visit_elif_else_clause(clause);
                }
            }
            Stmt::AnnAssign(assign) if assign.value.is_none() => {}
            other => visitor::walk_stmt(self, other),
        }
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        match expression {
            Expr::Name(name) if matches!(name.ctx, ExprContext::Store | ExprContext::Del) => {
                self.bind(name.id.as_str(), Binding::Other);
            }
            other => visitor::walk_expr(self, other),
        }
    }

    fn visit_except_handler(&mut self, handler: &'a ast::ExceptHandler) {
        let ast::ExceptHandler::ExceptHandler(inner) = handler;
        if let Some(name) = &inner.name {
            self.bind(name.as_str(), Binding::Other);
        }
        visitor::walk_except_handler(self, handler);
    }

    fn visit_pattern(&mut self, pattern: &'a ast::Pattern) {
        let name = match pattern {
            ast::Pattern::MatchAs(pattern) => pattern.name.as_ref(),
            ast::Pattern::MatchStar(pattern) => pattern.name.as_ref(),
            ast::Pattern::MatchMapping(pattern) => pattern.rest.as_ref(),
            _ => None,
        };
        if let Some(name) = name {
            self.bind(name.as_str(), Binding::Other);
        }
        visitor::walk_pattern(self, pattern);
    }
}

/// Exceptions that no import of a missing module raises.
const OTHER_ERRORS: [&str; 11] = [
    "AttributeError",
    "FileNotFoundError",
    "IOError",
    "IndexError",
    "KeyError",
    "NameError",
    "OSError",
    "RuntimeError",
    "SyntaxError",
    "TypeError",
    "ValueError",
];

/// Whether the module may run on behind a handler after an import has failed: it may be for that, and does not end
/// with a `raise`.
fn outlives_a_missing_module(handler: &ast::ExceptHandler) -> bool {
    let ast::ExceptHandler::ExceptHandler(handler) = handler;
    let is_other =
        |kind: &Expr| matches!(kind, Expr::Name(name) if OTHER_ERRORS.contains(&name.id.as_str()));
    let is_for_others = match handler.type_.as_deref() {
        None => false,
        Some(Expr::Tuple(kinds)) => kinds.elts.iter().all(is_other),
        Some(kind) => is_other(kind),
    };
    !is_for_others && !matches!(handler.body.last(), Some(Stmt::Raise(_)))
}

/// `__name__ == "__main__"`.
fn is_program_test(test: &Expr) -> bool {
    let Expr::Compare(compare) = test else {
        return false;
    };
    let is_name = |side: &Expr| matches!(side, Expr::Name(name) if name.id == "__name__");
    let is_program =
        |side: &Expr| matches!(side, Expr::StringLiteral(literal) if literal.value == *"__main__");
    match (&*compare.ops, &*compare.comparators) {
        ([ast::CmpOp::Eq], [right]) => {
            (is_name(&compare.left) && is_program(right))
                || (is_program(&compare.left) && is_name(right))
        }
        _ => false,
    }
}

/// Looks for `global` in what is no part of the module's own level.
struct Globals<'a>(&'a mut TopLevel);

impl<'a> Visitor<'a> for Globals<'_> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        if let Stmt::Global(global) = statement {
            for name in &global.names {
                self.0.bind(name.as_str(), Binding::Other);
            }
        }
        visitor::walk_stmt(self, statement);
    }

    fn visit_expr(&mut self, _: &'a Expr) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> PythonVersion {
        text.parse().unwrap()
    }

    fn refusal(source: impl AsRef<[u8]>, python: &str) -> String {
        let refusal = read(source.as_ref(), version(python)).unwrap().unwrap_err();
        format!("{:?} {}", refusal.place, refusal.reason)
    }

    #[test]
    fn refusals_say_where() {
        let found = [
            refusal("def handler(event, context)\n    pass\n", "3.12"),
            refusal("x = (1,\n", "3.12"),
            refusal("if x:\n        a\n    b\n", "3.12"),
            refusal("if x:\n\ta\n        b\n", "3.12"),
            refusal("print 'a'\n", "3.12"),
            refusal("match x:\n    case 1: pass\n", "3.9"),
            refusal("f'{'a'}'\n", "3.11"),
            refusal("type A = int\n", "3.11"),
            refusal("try: pass\nexcept* E: pass\n", "3.10"),
            refusal("a = 1\nb\0", "3.12"),
            refusal(b"# caf\xe9\n", "3.12"),
        ];
        insta::assert_snapshot!(found.join("\n"));
    }

    #[test]
    fn encodings_are_declared_as_pep_263_has_it() {
        let is_taken = |source: &[u8]| read(source, version("3.12")).unwrap().is_ok();
        let declared: [&[u8]; 3] = [
            b"# encoding of names; -*- coding: latin-1 -*-\nx = '\xe9'\n",
            b"\n# vim: set fileencoding=latin-1 :\nx = '\xe9'\n",
            b"#!/usr/bin/python\n\x0c # coding=\tlatin-1\nx = '\xe9'\n",
        ];
        for source in declared {
            assert!(is_taken(source), "{}", source.escape_ascii());
        }
        let plain: [&[u8]; 4] = [
            b"x = 1\n# coding: latin-1\ny = '\xe9'\n",
            b"\n\n# coding: latin-1\nx = '\xe9'\n",
            b"# coding : latin-1\nx = '\xe9'\n",
            b"# coding:\nx = '\xe9'\n",
        ];
        for source in plain {
            assert!(!is_taken(source), "{}", source.escape_ascii());
        }
    }

    #[test]
    fn refusals_of_the_compiler_say_where() {
        let found = [
            refusal("def f():\n    x = 1\nreturn x\n", "3.12"),
            refusal("x = 1\nglobal x\n", "3.12"),
            refusal("def f():\n    def g():\n        nonlocal x\n", "3.12"),
            refusal("x = 'é'; f'{\nx}'\n", "3.11"),
            refusal("break\nreturn\n", "3.12"),
        ];
        insta::assert_snapshot!(found.join("\n"));
    }

    #[test]
    fn what_hangs_on_the_release_is_not_told() {
        assert!(read(b"f'{x:\n}'\n", version("3.12")).is_none());
        assert!(read(b"f'{x:\n}'\n", version("3.11")).unwrap().is_err());
    }

    #[test]
    fn deep_sources_that_are_sound_are_taken() {
        for (before, inner, after, times) in [
            ("not ", "x", "", 3900),
            ("(", "x", ")", 1900),
            ("lambda: ", "x", "", 1300),
            ("[", "x", " for x in y]", 1300),
            ("[x for x in ", "y", "]", 700),
            ("f(a, ", "x", ")", 1300),
            ("", "x", ".y", 1900),
            ("", "x", " + 1", 1900),
            ("a if b else ", "x", "", 900),
        ] {
            let source = format!("{}{inner}{}\n", before.repeat(times), after.repeat(times));
            let module = read(source.as_bytes(), version("3.12"));
            assert!(
                module.is_some_and(|module| module.is_ok()),
                "{before}{after}"
            );
        }
        let blocks = (0..1000).map(|depth| format!("{}if x:\n", " ".repeat(depth)));
        let source = format!("{}{}pass\n", blocks.collect::<String>(), " ".repeat(1000));
        assert!(read(source.as_bytes(), version("3.12")).unwrap().is_ok());
    }

    #[test]
    fn sources_that_python_takes_are_read() {
        for source in [
            &b"# -*- coding: latin-1 -*-\nx = '\xe9'\n"[..],
            b"\xef\xbb\xbfx = 1\r\ny = 2\r\n",
            b"with (open('a') as a, open('b') as b):\n    pass\n",
            b"",
        ] {
            assert!(read(source, version("3.9")).unwrap().is_ok(), "{source:?}");
        }
        assert!(read(b"# coding: koi8-r\nx = '\xe9'\n", version("3.12")).is_none());
    }

    #[test]
    fn deep_sources_do_not_end_the_process() {
        for part in [
            "(",
            "not ",
            "-",
            "lambda: ",
            "[[",
            "x.",
            "f()(",
            "a if b else ",
            "1+",
            "x**",
            "{1:",
            "f(1,not ",
        ] {
            let source = part.repeat(1_000_000);
            assert!(read(source.as_bytes(), version("3.12")).is_none(), "{part}");
            let source = part.repeat(1300);
            let _ = read(source.as_bytes(), version("3.12"));
        }
        let table = format!("x = [{}]\n", "-1, ".repeat(100_000));
        assert!(read(table.as_bytes(), version("3.12")).unwrap().is_ok());
    }

    /// Each is a block within those before.
    #[test]
    fn a_with_of_many_items_is_refused_once_over() {
        let source = |items: usize| format!("with {}a:\n    b = 1\n", "a, ".repeat(items - 1));
        assert!(
            read(source(20).as_bytes(), version("3.12"))
                .unwrap()
                .is_ok()
        );
        insta::assert_snapshot!(refusal(source(21), "3.12"), @"Some((1, 1)) too many statically nested blocks");
        let refused = refusal(source(400_000), "3.12");
        assert_eq!(refused, refusal(source(21), "3.12"));
        let within = format!("with {}a:\n    while b:\n        break\n", "a, ".repeat(20));
        assert_eq!(refusal(within, "3.12"), refused);
    }

    #[test]
    fn names_of_the_top_level_are_bound() {
        let source = "
import a.b, c as d
from e import f, g as h
if x:
    def one(event, context): pass
try:
    y: int = 1
    z: int
except E as error:
    pass
with p() as (q, *r):
    s += 1
for t in u: (v := 1)
def two(event): global made; inner = 1
class Three:
    attribute = 1
def four(a, b): pass
del four
";
        let module = read(source.as_bytes(), version("3.12")).unwrap().unwrap();
        let names: Vec<_> = module.bindings.keys().map(String::as_str).collect();
        insta::assert_snapshot!(names.join(" "), @"Three a d error f h made one q r s t two v y");
        assert!(!module.is_dynamic && !module.changes_path);
        let imports: Vec<_> = module
            .imports
            .iter()
            .map(|import| &*import.module)
            .collect();
        assert_eq!(imports, ["a.b", "c", "e"]);
    }

    #[test]
    fn imports_that_nothing_guards_are_found_wherever_they_are() {
        let source = "
class A: import a
try: import b
finally: import c
try: import d
except ImportError: raise
try: import e
except (ValueError, KeyError): pass
try: import f
except (ValueError, ImportError): pass
try: import g
except Exception: g = None
else: import h
try: import i
except: pass
with x: import j
if y: import k
def z(): import l
try: import m
except ImportError:
    if n: raise
";
        let module = read(source.as_bytes(), version("3.12")).unwrap().unwrap();
        let imports = module.imports.iter().map(|import| &*import.module);
        assert_eq!(imports.collect::<String>(), "abcde");
    }

    /// The time goes up with the length, and not with its square.
    #[test]
    fn a_module_of_many_imports_is_read_in_one_go() {
        let mut imports = String::new();
        for number in 0..100_000 {
            let guarded = format!("try:\n    import m{number}\nexcept ImportError:\n    pass\n");
            imports.push_str(&guarded);
            imports.push_str("import x\n");
        }
        let module = read(imports.as_bytes(), version("3.12")).unwrap().unwrap();
        let found: Vec<_> = module.imports.iter().map(|import| import.line).collect();
        assert_eq!((module.bindings.len(), found), (100_001, vec![5]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(source in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&source, version("3.12"));
        }

        #[test]
        fn any_text_is_read(source in "(def |async |f|\\(|\\)|\\[|\\{|\\}|:|\n|    |\t|'|\"\"\"|f'|\\\\|match |case |import |from |\\.|\\*|=|1|é|#|lambda |if |else |;|,){0,40}") {
            let _ = read(source.as_bytes(), version("3.9"));
        }
    }
}
