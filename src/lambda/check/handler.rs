//! Rules of the handler, its module and what may be in its way.

use crate::lambda::check::Rule;
use crate::lambda::check::subject::{Python, Subject};

pub(super) const RULES: &[Rule] = &[];

/// Which Python an image runs its function on.
pub(super) fn python_of(_: &Subject) -> Option<Python> {
    None
}
