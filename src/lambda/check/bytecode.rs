//! Rules of compiled modules: whether Python takes them.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
