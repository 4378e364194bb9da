//! Rules of installed distributions: tags, records, requirements.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
