//! A deployment package, as somebody else made it, becomes the function's tree.
//!
//! All of it goes in as it is, bytecode with it; of modes only what makes a program is kept. What could lead out of the
//! task root, or is more than an archive of its size has any reason to hold, is refused with its name. Which packages
//! are in it is not known here.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file_tree::{self, Content, FileTree, ImagePath, Node};
use crate::lambda::{Handler, TASK_ROOT};
use crate::zip::{self, Member};

/// What Lambda's console names the function of a package, and its own examples.
const USUAL_HANDLER: &str = "lambda_function.lambda_handler";
/// No link of a file system leads further, in bytes.
const LONGEST_TARGET: u64 = 4096;
/// A member of so many bytes that was deflated further than [`MOST_RATIO`] is no program and no data.
const SUSPECT: u64 = 16 << 20;
const MOST_RATIO: u64 = 200;
/// What no image that Lambda takes may be larger than, in bytes.
const MOST_BYTES: u64 = 10 << 30;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

/// Why a package cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no archive that all readers take alike.
    #[error("cannot take the deployment package `{}`", path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why.
        source: zip::Error,
    },
    /// A member of it cannot be a file of a function.
    #[error("member `{}` of `{}` {reason}", name.escape_debug(), path.display())]
    Member {
        /// The package.
        path: PathBuf,
        /// The member.
        name: String,
        /// Why, as a clause that follows.
        reason: String,
    },
    /// A link of it cannot be read.
    #[error("cannot read member `{}` of `{}`", name.escape_debug(), path.display())]
    Read {
        /// The package.
        path: PathBuf,
        /// The member.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Two members cannot both be there.
    #[error(transparent)]
    Tree(#[from] file_tree::Error),
}

fn members(path: &Path) -> Result<Vec<Member>, Error> {
    zip::open(path).map_err(|source| Error::Archive {
        path: path.to_owned(),
        source,
    })
}

/// The handler that Lambda itself gives a package's function, where its module is in the package at `path`.
///
/// # Errors
/// When the package cannot be read.
pub fn usual_handler(path: &Path) -> Result<Option<&'static str>, Error> {
    let handler: Option<Handler> = USUAL_HANDLER.parse().ok();
    let members = members(path)?;
    let mut names = members.iter().map(|member| below_root(&member.name));
    let is_there = handler.is_some_and(|handler| names.any(|name| handler.is_module(name)));
    Ok(is_there.then_some(USUAL_HANDLER))
}

/// A name without the `./` that some archivers begin each with.
fn below_root(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    name
}

/// The files of the package at `path`, as they will stand in the image. Their contents are read, and proven, when they
/// are needed.
///
/// # Errors
/// See [`Error`].
pub(in crate::build) fn file_tree(path: &Path) -> Result<FileTree, Error> {
    let owner: Arc<str> = "function".into();
    let refused = |member: &Member, reason: &str| Error::Member {
        path: path.to_owned(),
        name: member.name.clone(),
        reason: reason.to_owned(),
    };
    let root = ImagePath::new(TASK_ROOT).map_err(file_tree::Error::from)?;
    let mut tree = FileTree::default();
    tree.insert(root.clone(), Node::Directory, &owner)?;
    let (mut seen, mut bytes) = (HashSet::new(), 0u64);
    for member in members(path)? {
        let name = below_root(&member.name);
        if name.is_empty() {
            continue;
        }
        let place = root.join(name);
        let place = place.map_err(|error| refused(&member, error.reason))?;
        if !seen.insert(place.clone()) {
            return Err(refused(&member, "is there twice"));
        }
        let is_expanded = member.size / member.compressed_size.max(1) > MOST_RATIO;
        if member.size > SUSPECT && is_expanded {
            let text = format!(
                "is {} bytes of which {} are left, more than {MOST_RATIO} times less",
                member.size, member.compressed_size
            );
            return Err(refused(&member, &text));
        }
        bytes = bytes.saturating_add(member.size);
        if bytes > MOST_BYTES {
            let text = "and those before it are more than 10 GiB, the most that an image may be";
            return Err(refused(&member, text));
        }
        let node = if member.is_directory() {
            Node::Directory
        } else if member.is_symlink() {
            let target = link_target(&member, name, path)?;
            Node::Symlink(target)
        } else if is_special(&member) {
            return Err(refused(
                &member,
                "is neither a file nor a directory nor a link",
            ));
        } else {
            Node::File {
                executable: is_executable(&member),
                content: Content::Member(member),
            }
        };
        tree.insert(place, node, &owner)?;
    }
    Ok(tree)
}

/// Whether any execute bit is set. Lambda's unpacker, like others, takes a mode without a type for a file's.
fn is_executable(member: &Member) -> bool {
    member.unix_mode.is_some_and(|mode| mode & 0o111 != 0)
}

fn is_special(member: &Member) -> bool {
    let kind = member.unix_mode.unwrap_or_default() & S_IFMT;
    // A directory's name ends in a slash, so that this would be one that is a file for others.
    kind == S_IFDIR || ![0, S_IFREG].contains(&kind)
}

/// Where a link leads, if that is nowhere outside by its text.
fn link_target(member: &Member, name: &str, path: &Path) -> Result<String, Error> {
    let contents = member.read(LONGEST_TARGET).map_err(|source| Error::Read {
        path: path.to_owned(),
        name: member.name.clone(),
        source,
    })?;
    let refused = |reason: String| Error::Member {
        path: path.to_owned(),
        name: member.name.clone(),
        reason,
    };
    let target = String::from_utf8(contents);
    let target = target.map_err(|_| refused("is a link to a name that is not UTF-8".to_owned()))?;
    let is_path = !target.is_empty() && !target.contains('\0');
    if !is_path || leads_out(name, &target) {
        let target = target.escape_debug();
        return Err(refused(format!("is a link that leads out, to `{target}`")));
    }
    Ok(target)
}

fn leads_out(name: &str, target: &str) -> bool {
    let mut depth = name.matches('/').count();
    if target.starts_with('/') {
        return true;
    }
    for step in target.split('/') {
        match step {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zip::{Date, Kind, Writer};

    /// A package of these members.
    fn package(members: &[(&str, Kind, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::new(file);
        for (name, kind, contents) in members {
            let level = (*kind == Kind::File).then_some(4);
            let streamed =
                writer.stream(name, *kind, Date::EARLIEST, &mut contents.as_bytes(), level);
            streamed.unwrap();
        }
        writer.finish().unwrap()
    }

    fn refusal(members: &[(&str, Kind, &str)]) -> String {
        let file = package(members);
        let text = match file_tree(file.path()).unwrap_err() {
            Error::Archive { source, .. } => source.to_string(),
            error => error.to_string(),
        };
        text.replace(&file.path().display().to_string(), "f.zip")
    }

    #[test]
    fn all_of_a_package_is_the_function() {
        let file = package(&[
            ("./app.py", Kind::File, "a"),
            ("bin/run", Kind::Program, "b"),
            ("empty/", Kind::Directory, ""),
            ("lib/link", Kind::Symlink, "../bin/run"),
            ("pkg/__pycache__/m.cpython-311.pyc", Kind::File, "c"),
        ]);
        let tree = file_tree(file.path()).unwrap();
        let told = tree.iter().map(|(path, entry)| match &entry.node {
            Node::Directory => format!("{path}/"),
            Node::Symlink(target) => format!("{path} -> {target}"),
            Node::File { executable, .. } => format!("{path} {executable}"),
        });
        let told: Vec<_> = told
            .filter(|line| line.len() > "/var/task/".len())
            .collect();
        assert_eq!(
            told,
            [
                "/var/task/app.py false",
                "/var/task/bin/",
                "/var/task/bin/run true",
                "/var/task/empty/",
                "/var/task/lib/",
                "/var/task/lib/link -> ../bin/run",
                "/var/task/pkg/",
                "/var/task/pkg/__pycache__/",
                "/var/task/pkg/__pycache__/m.cpython-311.pyc false",
            ]
        );
    }

    #[test]
    fn what_leads_out_is_refused_by_name() {
        let file = |name| refusal(&[("app.py", Kind::File, ""), (name, Kind::File, "")]);
        let link = |name, target| refusal(&[(name, Kind::Symlink, target)]);
        assert_eq!(
            file("../x"),
            "member `../x` of `f.zip` leaves its root by `..`"
        );
        assert_eq!(
            file("/etc/x"),
            "member `/etc/x` of `f.zip` is an absolute path"
        );
        assert_eq!(
            file("a\\..\\x"),
            "member `a\\\\..\\\\x` of `f.zip` has a backslash in it"
        );
        assert_eq!(
            file("./app.py"),
            "member `./app.py` of `f.zip` is there twice"
        );
        assert_eq!(file("app.py"), "member `app.py` is there twice");
        assert_eq!(
            link("a/x", "../../y"),
            "member `a/x` of `f.zip` is a link that leads out, to `../../y`"
        );
        assert_eq!(
            link("x", "/etc/passwd"),
            "member `x` of `f.zip` is a link that leads out, to `/etc/passwd`"
        );
        let through = refusal(&[("d", Kind::Symlink, "."), ("d/x", Kind::File, "")]);
        assert!(
            through.contains("/var/task/d is a directory and a file in"),
            "{through}"
        );
    }

    #[test]
    fn a_bomb_is_refused_by_name() {
        let zeros = "0".repeat(17 << 20);
        let told = refusal(&[("deep/zeros.bin", Kind::File, &zeros)]);
        let start = "member `deep/zeros.bin` of `f.zip` is 17825792 bytes of which ";
        assert!(told.starts_with(start), "{told}");
    }

    #[test]
    fn the_usual_handler_is_found() {
        let of = |name| usual_handler(package(&[(name, Kind::File, "")]).path()).unwrap();
        assert_eq!(of("lambda_function.py"), Some(USUAL_HANDLER));
        assert_eq!(of("./lambda_function/__init__.py"), Some(USUAL_HANDLER));
        assert_eq!(of("app/lambda_function.py"), None);
    }
}
