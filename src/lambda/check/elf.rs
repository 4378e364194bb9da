//! Rules of programs and libraries: processor, C library, what they need.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
