//! Rules of the runtime's age.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
