//! The house keeps its shape: which room of `src/` may use which, and what only the cli may touch.
//!
//! The compiler allows any module to use any other; this holds the direction. It reads lines, not
//! syntax, which is why imports in groups are refused: it could not see into them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Bottom to top: a room may use the rooms before it.
const ROOMS: [&str; 14] = [
    "digest",
    "progress",
    "zip",
    "http",
    "file_tree",
    "blob_store",
    "oci",
    "python",
    "lambda",
    "aws",
    "registry",
    "config",
    "plan",
    "build",
];

/// What makes a run depend on more than its input, or speaks to the user: the cli's alone.
const CLI_ALONE: [&str; 9] = [
    "std::env",
    "env::var",
    "env::current_dir",
    "env::temp_dir",
    "println!",
    "print!",
    "dbg!",
    "SystemTime::now",
    "process::exit",
];

#[test]
fn rooms_use_only_rooms_below() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    for path in rust_files(&source) {
        let name = path
            .strip_prefix(&source)
            .expect("the file is below src")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).expect("a source file is text");
        faults.extend(
            faults_of(&name, &text)
                .into_iter()
                .map(|fault| format!("src/{name}: {fault}")),
        );
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn faults_are_found() {
    let faults = |name: &str, text: &str| faults_of(name, &format!("//! Reason.\n{text}"));
    assert!(
        faults(
            "oci/mod.rs",
            "use crate::digest::Digest; // crate::build\n/* crate::plan */"
        )
        .is_empty()
    );
    assert_eq!(
        faults("oci/mod.rs", "use crate::build::run;"),
        ["oci may not use build"]
    );
    assert_eq!(
        faults("digest.rs", "fn f() { crate::oci::read() }"),
        ["digest may not use oci"]
    );
    assert_eq!(
        faults("digest.rs", "use super::oci::read;"),
        ["digest may not use oci"]
    );
    assert_eq!(
        faults("oci/layer.rs", "use super::super::build;"),
        ["super::super leaves the room"]
    );
    assert_eq!(
        faults("oci/mod.rs", "use crate::{digest, build};"),
        ["imports from the crate stand one a line"]
    );
    assert_eq!(faults("attic.rs", ""), ["attic is no room of the house"]);
    assert_eq!(
        faults("plan.rs", "let x = std::env::var(name);"),
        ["std::env is the cli's alone", "env::var is the cli's alone"]
    );
    assert_eq!(
        faults("plan.rs", "eprintln!();"),
        ["println! is the cli's alone"]
    );
    assert!(faults("plan.rs", "const TEXT: &str = \"println! crate::build\";").is_empty());
    assert_eq!(
        faults_of("plan.rs", "use std::fs;"),
        ["does not open with //! and its reason"]
    );
    assert!(
        faults(
            "cli/main.rs",
            "use lambimg::build; use crate::terminal; eprintln!();"
        )
        .is_empty()
    );
    assert_eq!(
        faults("cli/main.rs", "use crate::build;"),
        ["the cli enters by lambimg::build"]
    );
    assert_eq!(
        faults("plan.rs", "use lambimg::oci;"),
        ["only the cli says lambimg::"]
    );
}

fn faults_of(name: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let room = name
        .split(['/', '.'])
        .next()
        .expect("a name has a first part");
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push("does not open with //! and its reason".to_owned());
    }
    if code.contains("crate::{") || code.contains("lambimg::{") {
        faults.push("imports from the crate stand one a line".to_owned());
    }
    if room == "cli" {
        let entered = words_after(&code, "crate::").filter(|word| ROOMS.contains(word));
        faults.extend(entered.map(|word| format!("the cli enters by lambimg::{word}")));
        return faults;
    }
    // The map of the house names every room and uses none.
    if room != "lib" && !ROOMS.contains(&room) {
        faults.push(format!("{room} is no room of the house"));
        return faults;
    }
    if words_after(&code, "lambimg::").next().is_some() {
        faults.push("only the cli says lambimg::".to_owned());
    }
    if code.contains("super::super") {
        faults.push("super::super leaves the room".to_owned());
    }
    let allowed = ROOMS.iter().position(|other| *other == room).unwrap_or(0);
    // In a room of one file, `super` is the crate too.
    let above = if name.contains('/') {
        None
    } else {
        Some("super::")
    };
    let used = ["crate::"]
        .into_iter()
        .chain(above)
        .flat_map(|start| words_after(&code, start));
    let refused =
        used.filter(|word| *word != room && ROOMS.iter().skip(allowed).any(|other| other == word));
    faults.extend(refused.map(|word| format!("{room} may not use {word}")));
    let touched = CLI_ALONE.iter().filter(|word| code.contains(**word));
    faults.extend(touched.map(|word| format!("{word} is the cli's alone")));
    faults
}

/// The identifiers that follow a start such as `crate::`.
fn words_after<'code>(code: &'code str, start: &'code str) -> impl Iterator<Item = &'code str> {
    code.match_indices(start).filter_map(move |(place, _)| {
        let before = code[..place].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            return None;
        }
        let rest = &code[place + start.len()..];
        let end = rest
            .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .unwrap_or(rest.len());
        Some(&rest[..end])
    })
}

/// The text without its comments and without what stands in string literals.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string_hashes(rest) {
            let close = format!("\"{hashes}");
            let open = hashes.len() + 2;
            rest[open..]
                .find(&close)
                .map_or(rest.len(), |end| open + end + close.len())
        } else if letter == '"' {
            string_length(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            // A quotation mark as a character opens no string.
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else {
            code.push(letter);
            letter.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// The hashes of a raw string that begins here.
fn raw_string_hashes(text: &str) -> Option<&str> {
    let after = text.strip_prefix('r')?;
    let count = after.chars().take_while(|letter| *letter == '#').count();
    after[count..].starts_with('"').then(|| &after[..count])
}

/// The length of the string literal that begins here, with both its quotation marks.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (place, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the directory can be read");
    let paths = entries.map(|entry| entry.expect("the directory can be read").path());
    let mut files = paths
        .flat_map(|path| {
            if path.is_dir() {
                rust_files(&path)
            } else {
                vec![path]
            }
        })
        .collect::<Vec<_>>();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.sort();
    files
}
