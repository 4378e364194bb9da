//! The walk over a module's tree, in the order in which CPython meets what is there.
//!
//! What a scope makes of a name is not known here.

use rustpython_ruff_python_ast as ast;
use rustpython_ruff_python_ast::visitor::{self, Visitor};
use rustpython_ruff_python_ast::{Expr, ExprContext, Pattern, PythonVersion, Stmt};

use super::{Walk, is_future_of_a_package};
use crate::lambda::check::syntax::names::{
    Block, GLOBAL, IMPORT, Kind, LOCAL, NONLOCAL, TYPE_PARAMETER, USE,
};

impl<'a> Visitor<'a> for Walk<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        if !is_future_of_a_package(statement) {
            let mut checker = std::mem::take(&mut self.checker);
            checker.visit_stmt(statement, self);
            self.checker = checker;
        }
        match statement {
            Stmt::FunctionDef(function) => self.function(function),
            Stmt::ClassDef(class) => self.class(class),
            Stmt::TypeAlias(alias) => self.alias(alias),
            Stmt::AnnAssign(assign) => self.annotated(assign),
            Stmt::Global(global) => self.declare(&global.names, GLOBAL, global.range),
            Stmt::Nonlocal(nonlocal) => self.declare(&nonlocal.names, NONLOCAL, nonlocal.range),
            Stmt::For(repeat) => {
                self.visit_expr(&repeat.iter);
                self.visit_expr(&repeat.target);
                self.in_block(Block::Loop, repeat, |walk| walk.visit_body(&repeat.body));
                self.visit_body(&repeat.orelse);
            }
            Stmt::While(repeat) => {
                self.visit_expr(&repeat.test);
                self.in_block(Block::Loop, repeat, |walk| walk.visit_body(&repeat.body));
                self.visit_body(&repeat.orelse);
            }
            Stmt::With(with) => self.with(with),
            Stmt::Try(attempt) => self.attempt(attempt),
            Stmt::Break(_) | Stmt::Continue(_) => self.jump(statement),
            Stmt::Return(_) => {
                self.jump(statement);
                visitor::walk_stmt(self, statement);
            }
            Stmt::Expr(expression) => {
                self.no_star(&expression.value);
                visitor::walk_stmt(self, statement);
            }
            _ => visitor::walk_stmt(self, statement),
        }
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        if self.uncompiled == 0 {
            let mut checker = std::mem::take(&mut self.checker);
            checker.visit_expr(expression, self);
            self.checker = checker;
        }
        match expression {
            Expr::Name(name) => {
                let marks = if name.ctx == ExprContext::Load {
                    USE
                } else {
                    LOCAL
                };
                self.mark(&name.id, marks, name);
            }
            Expr::Attribute(attribute) => {
                if attribute.ctx == ExprContext::Store {
                    self.unassignable(&attribute.attr);
                }
                self.visit_expr(&attribute.value);
            }
            Expr::Named(named) => self.named(named),
            Expr::Lambda(lambda) => {
                if let Some(parameters) = &lambda.parameters {
                    self.defaults(parameters);
                }
                self.enter(Kind::Lambda);
                if let Some(parameters) = &lambda.parameters {
                    self.parameters(parameters);
                }
                self.visit_expr(&lambda.body);
                self.leave();
            }
            Expr::ListComp(made) => {
                self.comprehension(made.range, &made.generators, &[&made.elt], false);
            }
            Expr::SetComp(made) => {
                self.comprehension(made.range, &made.generators, &[&made.elt], false);
            }
            Expr::DictComp(made) => {
                let values: [&Expr; 2] = [&made.key, &made.value];
                self.comprehension(made.range, &made.generators, &values, false);
            }
            Expr::Generator(made) => {
                self.comprehension(made.range, &made.generators, &[&made.elt], true);
            }
            Expr::Yield(_) | Expr::YieldFrom(_) => {
                self.out_of_place(expression, "yield");
                visitor::walk_expr(self, expression);
            }
            Expr::Await(_) => {
                self.out_of_place(expression, "await");
                self.with_scope(|scope| scope.is_coroutine = true);
                visitor::walk_expr(self, expression);
            }
            _ => visitor::walk_expr(self, expression),
        }
    }

    fn visit_keyword(&mut self, keyword: &'a ast::Keyword) {
        if let Some(name) = &keyword.arg {
            self.unassignable(name);
        }
        visitor::walk_keyword(self, keyword);
    }

    fn visit_alias(&mut self, alias: &'a ast::Alias) {
        let name = alias.asname.as_ref().unwrap_or(&alias.name);
        let first = name.split('.').next().unwrap_or_default();
        if first != "*" {
            self.unassignable_name(first, name.range);
            self.mark(first, IMPORT, name);
        }
    }

    fn visit_with_item(&mut self, item: &'a ast::WithItem) {
        if let Some(target) = &item.optional_vars {
            self.no_star(target);
        }
        visitor::walk_with_item(self, item);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        match pattern {
            Pattern::MatchAs(one) => {
                let name = one.name.as_ref();
                if let Some(name) = name.filter(|name| one.pattern.is_some() && *name == "_") {
                    self.refuse(name, "cannot use `_` as a target");
                }
                self.bind(name);
            }
            Pattern::MatchSequence(one) => {
                let starred = one.patterns.iter().filter(|one| one.is_match_star());
                if let Some(second) = starred.into_iter().nth(1) {
                    self.refuse(second, "multiple starred names in sequence pattern");
                }
            }
            Pattern::MatchValue(one) if one.value.is_f_string_expr() => {
                self.refuse(
                    one,
                    "patterns may only match literals and attribute lookups",
                );
            }
            Pattern::MatchStar(one) => self.bind(one.name.as_ref()),
            Pattern::MatchMapping(one) => self.bind(one.rest.as_ref()),
            Pattern::MatchOr(one) => {
                let before = one.patterns.iter().rev().skip(1);
                if let Some(taker) = before.into_iter().find(|one| one.is_irrefutable()) {
                    self.refuse(taker, "this makes remaining patterns unreachable");
                }
            }
            _ => {}
        }
        visitor::walk_pattern(self, pattern);
    }

    fn visit_type_param(&mut self, parameter: &'a ast::TypeParam) {
        self.mark(parameter.name(), TYPE_PARAMETER | LOCAL, parameter);
        self.enter(Kind::Generic);
        visitor::walk_type_param(self, parameter);
        self.leave();
    }

    fn visit_f_string(&mut self, string: &'a ast::FString) {
        let is_old = self.version < PythonVersion::PY312;
        if is_old && !ast::StringFlags::is_triple_quoted(string.flags) {
            for field in string.elements.interpolations() {
                let text = self
                    .text
                    .get(field.range.to_std_range())
                    .unwrap_or_default();
                if text.contains(['\n', '\r']) {
                    let reason = format!(
                        "a replacement field of an f-string in single quotes cannot hold a line's end on Python {} (it can since 3.12)",
                        self.version
                    );
                    self.refuse(field, reason);
                }
            }
        }
        // The format of another field, or an expression in one: only the first counts.
        let fields = std::mem::take(&mut self.fields);
        visitor::walk_f_string(self, string);
        self.fields = fields;
    }

    fn visit_interpolated_string_element(&mut self, element: &'a ast::InterpolatedStringElement) {
        let ast::InterpolatedStringElement::Interpolation(field) = element else {
            return;
        };
        self.fields += 1;
        let most = if self.version < PythonVersion::PY312 {
            2
        } else {
            3
        };
        if self.fields > most {
            self.refuse(field, "f-string: expressions nested too deeply");
        }
        self.no_star(&field.expression);
        visitor::walk_interpolated_string_element(self, element);
        self.fields -= 1;
    }
}
