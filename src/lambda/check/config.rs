//! Rules of the image's config: entry point, command, working directory, variables.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
