//! Rules of what makes an image large, and need not.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
