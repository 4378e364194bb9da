//! What CPython's compiler refuses of a module after its parser has taken it.
//!
//! ruff's checker knows what a node alone tells and is asked for that; what hangs on scopes is told here by one walk in
//! the order of CPython's own, version by version. What it might refuse wrongly is left out: a false alarm is worse
//! than a miss. It recurses as deep as the source nests, so it wants the parser's stack. How a module is read, and
//! what is done with a refusal, is not known here.

mod context;
mod visit;

use std::cell::RefCell;

use rustpython_ruff_python_ast as ast;
use rustpython_ruff_python_ast::visitor::Visitor;
use rustpython_ruff_python_ast::{Expr, PythonVersion, Stmt};
use rustpython_ruff_python_parser::semantic_errors::{
    SemanticSyntaxChecker, SemanticSyntaxContext,
};
use rustpython_ruff_text_size::{Ranged, TextRange};

use super::names::{
    ANNOTATED, Block, GLOBAL, ITERATION, Kind, LOCAL, Marks, NONLOCAL, PARAMETER, Scope, mangled,
};

/// The first thing in a module that a Python's compiler refuses: its first byte, and what is wrong.
pub(super) fn refusal(
    module: &ast::ModModule,
    text: &str,
    version: PythonVersion,
) -> Option<(usize, String)> {
    let mut walk = Walk {
        text,
        version,
        has_future_annotations: module.body.iter().any(is_future_annotations),
        scopes: vec![Scope::new(Kind::Module, 0)],
        classes: Vec::new(),
        uncompiled: 0,
        fields: 0,
        checker: SemanticSyntaxChecker::new(),
        faults: RefCell::default(),
    };
    walk.visit_body(&module.body);
    walk.leave();
    let faults = walk.faults.into_inner();
    let first = faults.into_iter().min_by_key(|(place, _)| place.start())?;
    Some((usize::from(first.0.start()), first.1))
}

fn is_future_annotations(statement: &Stmt) -> bool {
    let Stmt::ImportFrom(import) = statement else {
        return false;
    };
    import.level == 0
        && import.module.as_deref() == Some("__future__")
        && import.names.iter().any(|name| &name.name == "annotations")
}

/// `from .__future__ import x`: until 3.13 CPython took it for the real one, and the checker does.
fn is_future_of_a_package(statement: &Stmt) -> bool {
    let Stmt::ImportFrom(import) = statement else {
        return false;
    };
    import.level > 0 && import.module.as_deref() == Some("__future__")
}

struct Walk<'a> {
    text: &'a str,
    version: PythonVersion,
    has_future_annotations: bool,
    /// Innermost last; the module's is left last.
    scopes: Vec<Scope>,
    /// Names of the classes around, innermost last.
    classes: Vec<String>,
    /// More than none inside of what CPython keeps names of and makes no code of.
    uncompiled: usize,
    /// Replacement fields around, each in the format of the one before.
    fields: usize,
    checker: SemanticSyntaxChecker,
    faults: RefCell<Vec<(TextRange, String)>>,
}

impl<'a> Walk<'a> {
    fn refuse(&self, place: impl Ranged, reason: impl Into<String>) {
        let fault = (place.range(), reason.into());
        self.faults.borrow_mut().push(fault);
    }

    fn enter(&mut self, kind: Kind) {
        let iterables = self.scopes.last().map_or(0, |scope| scope.iterables);
        self.scopes.push(Scope::new(kind, iterables));
    }

    /// Ends a scope; whether it awaits.
    fn leave(&mut self) -> bool {
        let Some(scope) = self.scopes.pop() else {
            return false;
        };
        let is_coroutine = scope.is_coroutine;
        if !is_coroutine {
            for place in &scope.waiting {
                self.refuse(*place, OUTSIDE_ASYNCHRONOUS);
            }
        }
        let (open, lost) = scope.close();
        if let Some(around) = self.scopes.last_mut() {
            around.ask(open);
        }
        for (place, reason) in lost {
            self.refuse(place, reason);
        }
        is_coroutine
    }

    fn kind(&self) -> Kind {
        self.scopes.last().map_or(Kind::Module, |scope| scope.kind)
    }

    fn with_scope(&mut self, change: impl FnOnce(&mut Scope)) {
        if let Some(scope) = self.scopes.last_mut() {
            change(scope);
        }
    }

    fn mangled(&self, name: &str) -> String {
        mangled(name, self.classes.last())
    }

    fn mark(&mut self, name: &str, marks: Marks, place: impl Ranged) {
        let name = self.mangled(name);
        let clash = self
            .scopes
            .last_mut()
            .and_then(|scope| scope.mark(&name, marks));
        if let Some(reason) = clash {
            self.refuse(place, reason);
        }
    }

    fn declare(&mut self, names: &[ast::Identifier], marks: Marks, place: TextRange) {
        for name in names {
            let name = self.mangled(name);
            let fault = self
                .scopes
                .last_mut()
                .and_then(|scope| scope.declare(&name, marks, place));
            if let Some(reason) = fault {
                self.refuse(place, reason);
            }
        }
    }

    /// Walks what stands in a block of its scope.
    fn in_block(&mut self, block: Block, place: impl Ranged, inside: impl FnOnce(&mut Self)) {
        let is_open = self.open(block, place);
        inside(self);
        if is_open {
            self.close(1);
        }
    }

    /// Whether a block is opened. One too many is refused, and not counted: what foreign sources nest has no end.
    fn open(&mut self, block: Block, place: impl Ranged) -> bool {
        let most = if self.version >= PythonVersion::PY313 {
            21
        } else {
            20
        };
        let blocks = self.scopes.last().map_or(0, |scope| {
            let counted = scope
                .blocks
                .iter()
                .filter(|block| **block != Block::ExceptStar);
            counted.count()
        });
        let is_one_too_many = blocks == most && block != Block::ExceptStar;
        if is_one_too_many {
            self.refuse(place, "too many statically nested blocks");
        } else {
            self.with_scope(|scope| scope.blocks.push(block));
        }
        !is_one_too_many
    }

    /// Ends the innermost blocks.
    fn close(&mut self, count: usize) {
        self.with_scope(|scope| scope.blocks.truncate(scope.blocks.len() - count));
    }

    /// Refuses a jump out of `except*`.
    fn jump(&self, statement: &Stmt) {
        let Some(scope) = self.scopes.last() else {
            return;
        };
        let is_return = statement.is_return_stmt();
        let mut crossed = scope.blocks.iter().rev();
        let stop = crossed
            .find(|block| **block == Block::ExceptStar || (**block == Block::Loop && !is_return));
        if stop == Some(&Block::ExceptStar) {
            let reason = "`break`, `continue` and `return` cannot appear in an `except*` block";
            self.refuse(statement, reason);
        }
    }

    fn function(&mut self, function: &'a ast::StmtFunctionDef) {
        self.mark(&function.name, LOCAL, &function.name);
        for decorator in &function.decorator_list {
            self.visit_decorator(decorator);
        }
        self.defaults(&function.parameters);
        if let Some(parameters) = &function.type_params {
            self.enter(Kind::Generic);
            self.visit_type_params(parameters);
        }
        let annotations = function.parameters.iter();
        let annotations = annotations.filter_map(ast::AnyParameterRef::annotation);
        for annotation in annotations.chain(function.returns.as_deref()) {
            self.annotation(annotation);
        }
        self.enter(Kind::Function {
            is_async: function.is_async,
        });
        self.parameters(&function.parameters);
        self.visit_body(&function.body);
        self.leave();
        if function.type_params.is_some() {
            self.leave();
        }
    }

    fn defaults(&mut self, parameters: &'a ast::Parameters) {
        for default in parameters.iter().filter_map(ast::AnyParameterRef::default) {
            self.visit_expr(default);
        }
    }

    fn parameters(&mut self, parameters: &'a ast::Parameters) {
        for parameter in parameters {
            let name = parameter.name();
            let twice = self.mangled(name);
            let is_twice = self
                .scopes
                .last()
                .is_some_and(|scope| scope.marks(&twice) & PARAMETER != 0);
            if is_twice {
                self.refuse(name, format!("duplicate parameter `{twice}`"));
            }
            self.unassignable(name);
            self.mark(name, PARAMETER, name);
        }
    }

    fn class(&mut self, class: &'a ast::StmtClassDef) {
        self.mark(&class.name, LOCAL, &class.name);
        for decorator in &class.decorator_list {
            self.visit_decorator(decorator);
        }
        if let Some(parameters) = &class.type_params {
            self.enter(Kind::Generic);
            self.visit_type_params(parameters);
        }
        if let Some(arguments) = &class.arguments {
            if let [Expr::Generator(only)] = &*arguments.args
                && !only.parenthesized
            {
                self.refuse(only, "a generator is no base of a class");
            }
            self.visit_arguments(arguments);
        }
        self.enter(Kind::Class);
        self.classes.push(class.name.to_string());
        self.visit_body(&class.body);
        self.classes.pop();
        self.leave();
        if class.type_params.is_some() {
            self.leave();
        }
    }

    fn alias(&mut self, alias: &'a ast::StmtTypeAlias) {
        self.visit_expr(&alias.name);
        self.enter(Kind::Generic);
        if let Some(parameters) = &alias.type_params {
            self.visit_type_params(parameters);
        }
        self.enter(Kind::Generic);
        self.visit_expr(&alias.value);
        self.leave();
        self.leave();
    }

    /// An annotation: run where it stands, later, or never.
    fn annotation(&mut self, annotation: &'a Expr) {
        let is_later = self.has_future_annotations || self.version >= PythonVersion::PY314;
        if !is_later {
            self.visit_expr(annotation);
        } else if self.version >= PythonVersion::PY310 {
            self.enter(Kind::Annotation);
            self.uncompiled += 1;
            self.visit_expr(annotation);
            self.uncompiled -= 1;
            self.leave();
        } else {
            self.uncompiled += 1;
            self.visit_expr(annotation);
            self.uncompiled -= 1;
        }
    }

    fn annotated(&mut self, assign: &'a ast::StmtAnnAssign) {
        if let Expr::Name(name) = &*assign.target {
            let kept = self.mangled(&name.id);
            let marks = self.scopes.last().map_or(0, |scope| scope.marks(&kept));
            if marks & (GLOBAL | NONLOCAL) != 0 && assign.simple && self.kind() != Kind::Module {
                let word = if marks & GLOBAL != 0 {
                    "global"
                } else {
                    "nonlocal"
                };
                self.refuse(name, format!("annotated name `{kept}` can't be {word}"));
            }
            if assign.simple {
                self.mark(&name.id, ANNOTATED | LOCAL, name);
            } else if assign.value.is_some() {
                self.mark(&name.id, LOCAL, name);
            }
            self.unassignable_name(&name.id, name.range);
        } else {
            self.visit_expr(&assign.target);
        }
        // A function makes no code of the annotations of its variables.
        let never = usize::from(matches!(self.kind(), Kind::Function { .. }));
        self.uncompiled += never;
        self.annotation(&assign.annotation);
        self.uncompiled -= never;
        if let Some(value) = &assign.value {
            self.visit_expr(value);
        }
    }

    fn attempt(&mut self, attempt: &'a ast::StmtTry) {
        self.in_block(Block::Try, attempt, |walk| walk.visit_body(&attempt.body));
        for (index, handler) in attempt.handlers.iter().enumerate() {
            let ast::ExceptHandler::ExceptHandler(inner) = handler;
            if inner.type_.is_none() && index + 1 < attempt.handlers.len() {
                self.refuse(inner, "default `except:` must be last");
            }
            if let Some(kind) = &inner.type_ {
                self.visit_expr(kind);
            }
            if let Some(name) = &inner.name {
                self.mark(name, LOCAL, name);
            }
            if attempt.is_star {
                self.in_block(Block::ExceptStar, inner, |walk| {
                    walk.visit_body(&inner.body);
                });
            } else {
                self.visit_body(&inner.body);
            }
        }
        self.visit_body(&attempt.orelse);
        self.visit_body(&attempt.finalbody);
    }

    /// The items of a `with`, each within those before.
    fn with(&mut self, with: &'a ast::StmtWith) {
        let mut opened = 0;
        for item in &with.items {
            self.visit_with_item(item);
            opened += usize::from(self.open(Block::With, with));
        }
        self.visit_body(&with.body);
        self.close(opened);
    }

    fn comprehension(
        &mut self,
        place: TextRange,
        generators: &'a [ast::Comprehension],
        values: &[&'a Expr],
        is_generator: bool,
    ) {
        let Some((first, rest)) = generators.split_first() else {
            return;
        };
        self.iterable(&first.iter);
        self.enter(Kind::Comprehension);
        self.clause(first);
        for generator in rest {
            self.target(&generator.target);
            self.iterable(&generator.iter);
            self.conditions(generator);
        }
        for value in values {
            self.visit_expr(value);
        }
        if self.leave() && !is_generator {
            self.awaiting(place);
        }
    }

    fn clause(&mut self, first: &'a ast::Comprehension) {
        self.target(&first.target);
        self.conditions(first);
    }

    fn conditions(&mut self, generator: &'a ast::Comprehension) {
        for condition in &generator.ifs {
            self.visit_expr(condition);
        }
        self.with_scope(|scope| scope.is_coroutine |= generator.is_async);
    }

    fn iterable(&mut self, iterable: &'a Expr) {
        self.with_scope(|scope| scope.iterables += 1);
        self.visit_expr(iterable);
        self.with_scope(|scope| scope.iterables -= 1);
    }

    fn target(&mut self, target: &'a Expr) {
        self.with_scope(|scope| scope.in_target = true);
        self.visit_expr(target);
        self.with_scope(|scope| scope.in_target = false);
    }

    /// A comprehension that awaits, and is no generator, makes what is around it await.
    fn awaiting(&mut self, place: TextRange) {
        if self.uncompiled > 0 {
            return;
        }
        if self.version < PythonVersion::PY311 {
            self.with_scope(|scope| scope.waiting.push(place));
            return;
        }
        self.with_scope(|scope| scope.is_coroutine = true);
        if !self.in_async_context() {
            self.refuse(place, OUTSIDE_ASYNCHRONOUS);
        }
    }

    /// An assignment expression.
    fn named(&mut self, named: &'a ast::ExprNamed) {
        self.out_of_place(named, "assignment");
        let Some(scope) = self.scopes.last() else {
            return;
        };
        if scope.iterables > 0 {
            let reason =
                "assignment expression cannot be used in a comprehension iterable expression";
            self.refuse(named, reason);
        } else if scope.kind == Kind::Comprehension
            && let Expr::Name(name) = &*named.target
        {
            self.name_outside(named, &name.id);
        }
        self.visit_expr(&named.value);
        self.visit_expr(&named.target);
    }

    /// Binds a name assigned in a comprehension where that is: in the scope around all comprehensions.
    fn name_outside(&mut self, place: &ast::ExprNamed, name: &str) {
        let plain = name;
        let name = self.mangled(plain);
        // Before 3.13 CPython looked for the plain name among the mangled.
        let is_found = name == plain || self.version >= PythonVersion::PY313;
        let mut reason = None;
        let mut inner = NONLOCAL;
        for scope in self.scopes.iter_mut().rev() {
            match scope.kind {
                Kind::Comprehension => {
                    let marks = scope.marks(&name);
                    if is_found && marks & ITERATION != 0 && marks & LOCAL != 0 {
                        reason = Some(format!(
                            "assignment expression cannot rebind comprehension iteration variable `{name}`"
                        ));
                        break;
                    }
                }
                Kind::Annotation => {}
                Kind::Function { .. } | Kind::Lambda => {
                    inner = if scope.marks(&name) & GLOBAL == 0 {
                        NONLOCAL
                    } else {
                        GLOBAL
                    };
                    scope.mark(&name, LOCAL);
                    break;
                }
                Kind::Module => {
                    inner = GLOBAL;
                    scope.mark(&name, GLOBAL);
                    break;
                }
                Kind::Class | Kind::Generic => {
                    reason = Some(
                        "assignment expression within a comprehension cannot be used in a class body or type"
                            .to_owned(),
                    );
                    break;
                }
            }
        }
        self.with_scope(|scope| {
            scope.mark(&name, inner);
        });
        if let Some(reason) = reason {
            self.refuse(place, reason);
        }
    }

    /// Refuses what annotations and types that are not run where they stand cannot have.
    fn out_of_place(&self, place: impl Ranged, what: &str) {
        if matches!(self.kind(), Kind::Annotation | Kind::Generic) {
            let reason = format!("{what} expression cannot be used within an annotation or type");
            self.refuse(place, reason);
        }
    }

    fn unassignable(&self, name: &ast::Identifier) {
        self.unassignable_name(name, name.range);
    }

    fn unassignable_name(&self, name: &str, place: TextRange) {
        if name == "__debug__" {
            self.refuse(place, "cannot assign to `__debug__`");
        }
    }

    /// Refuses `*x` where it is no element and no argument.
    fn no_star(&self, expression: &Expr) {
        if expression.is_starred_expr() {
            self.refuse(expression, "starred expression cannot be used here");
        }
    }

    fn bind(&mut self, name: Option<&ast::Identifier>) {
        if let Some(name) = name {
            self.mark(name, LOCAL, name);
        }
    }
}

const OUTSIDE_ASYNCHRONOUS: &str = "asynchronous comprehension outside of an asynchronous function";
