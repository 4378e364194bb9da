//! What ruff's checker asks of the walk, and which of its answers count.
//!
//! It never tells by itself what a Python refuses.

use rustpython_ruff_python_ast::PythonVersion;
use rustpython_ruff_python_parser::semantic_errors::{
    AwaitOutsideAsyncFunctionKind, LazyImportContext, SemanticSyntaxContext, SemanticSyntaxError,
    SemanticSyntaxErrorKind, WriteToDebugKind,
};
use rustpython_ruff_text_size::TextRange;

use super::Walk;
use crate::lambda::check::syntax::names::{Block, Kind};

/// What the checker asks; what it says of scopes that CPython judges otherwise is left out by kind.
impl SemanticSyntaxContext for Walk<'_> {
    fn report_semantic_error(&self, error: SemanticSyntaxError) {
        use SemanticSyntaxErrorKind as Error;
        let is_taken = matches!(
            error.kind,
            Error::WriteToDebug(WriteToDebugKind::Delete(_)) if self.version < PythonVersion::PY310
        );
        let is_told_here = matches!(
            error.kind,
            Error::ReboundComprehensionVariable
                | Error::InvalidExpression(..)
                | Error::LoadBeforeGlobalDeclaration { .. }
                | Error::LoadBeforeNonlocalDeclaration { .. }
                | Error::AsyncComprehensionInSyncComprehension(_)
                | Error::AwaitOutsideAsyncFunction(
                    AwaitOutsideAsyncFunctionKind::AsyncComprehension
                )
                | Error::NonlocalAndGlobal(_)
                | Error::AnnotatedGlobal(_)
                | Error::AnnotatedNonlocal(_)
                | Error::NonlocalWithoutBinding(_)
                | Error::GlobalParameter(_)
                | Error::DuplicateParameter(_)
        );
        if !is_taken && !is_told_here {
            self.refuse(&error, error.to_string());
        }
    }

    fn python_version(&self) -> PythonVersion {
        self.version
    }

    fn source(&self) -> &str {
        self.text
    }

    fn future_annotations_or_stub(&self) -> bool {
        self.has_future_annotations
    }

    fn lazy_import_context(&self) -> Option<LazyImportContext> {
        match self.kind() {
            Kind::Function { .. } => Some(LazyImportContext::Function),
            Kind::Class => Some(LazyImportContext::Class),
            _ => None,
        }
    }

    /// Told by the marks of scopes here.
    fn global(&self, _: &str) -> Option<TextRange> {
        None
    }

    /// Told here when all scopes around are known.
    fn has_nonlocal_binding(&self, _: &str) -> bool {
        true
    }

    /// Told by the marks of scopes here.
    fn is_bound_parameter(&self, _: &str) -> bool {
        false
    }

    fn in_async_context(&self) -> bool {
        let kind = self.kind();
        matches!(
            kind,
            Kind::Function { is_async: true } | Kind::Comprehension
        )
    }

    fn in_await_allowed_context(&self) -> bool {
        self.in_function_scope() || self.kind() == Kind::Comprehension
    }

    fn in_yield_allowed_context(&self) -> bool {
        self.in_function_scope()
    }

    fn in_sync_comprehension(&self) -> bool {
        false
    }

    fn in_module_scope(&self) -> bool {
        self.kind() == Kind::Module
    }

    fn in_function_scope(&self) -> bool {
        matches!(self.kind(), Kind::Function { .. } | Kind::Lambda)
    }

    /// A generator's scope counts as asynchronous already.
    fn in_generator_context(&self) -> bool {
        false
    }

    fn in_notebook(&self) -> bool {
        false
    }

    fn in_loop_context(&self) -> bool {
        let scope = self.scopes.last();
        scope.is_some_and(|scope| scope.blocks.contains(&Block::Loop))
    }
}
