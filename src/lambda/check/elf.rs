//! Rules of programs and libraries: processor, C library, what they need.

use crate::lambda::check::Rule;

pub(super) const RULES: &[Rule] = &[];

/// Whether a file is one that tells the loader's paths.
pub(super) fn is_read_whole(path: &str) -> bool {
    path.starts_with("etc/ld.so.c")
}
