//! Paths of an image as text: below its root, parts with slashes between them, none before the first.
//!
//! What is at a path is not known here, nor are links.

use crate::oci::flatten::normal;

/// What a path's last part is.
pub(super) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The directory that a path is in; empty for what is right below the root.
pub(super) fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// What follows a directory in a path below it; a root of no name has everything below it.
pub(super) fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    if directory.is_empty() {
        return Some(path);
    }
    path.strip_prefix(directory)?.strip_prefix('/')
}

/// Whether a path is a directory or something in it.
pub(super) fn is_within(directory: &str, path: &str) -> bool {
    path == directory || below(directory, path).is_some()
}

/// Whether a file's name ends in `.` and this.
pub(super) fn has_ending(path: &str, ending: &str) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, last)| last == ending)
}

/// The path of what has this name in a directory.
pub(super) fn joined(directory: &str, name: &str) -> String {
    normal(&format!("{directory}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_beginnings() {
        assert_eq!((name("a/b.c"), directory("a/b.c")), ("b.c", "a"));
        assert_eq!((name("b"), directory("b")), ("b", ""));
        assert_eq!(below("a", "a/b/c"), Some("b/c"));
        assert_eq!((below("a", "ab/c"), below("a", "a")), (None, None));
        assert_eq!(below("", "a/b"), Some("a/b"));
        assert!(is_within("a", "a") && is_within("a", "a/b") && !is_within("a", "ab"));
        assert!(has_ending("a/b.py", "py") && !has_ending("a/bpy", "py"));
        assert_eq!(joined("/a/", "./b"), "a/b");
    }
}
