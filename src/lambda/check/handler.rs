//! Rules of the handler, its module and what may be in its way.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
