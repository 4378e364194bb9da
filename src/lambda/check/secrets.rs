//! Rules of what should be in no image: keys and passwords.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
