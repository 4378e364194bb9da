//! Rules of external extensions in `/opt/extensions`.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];
