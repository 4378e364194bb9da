//! The function's source becomes a tree below the task root.
//!
//! What stays out is decided by patterns in gitignore's language: ours first, then the configured ones,
//! then the project's `.lambimgignore`, the last match counting, so that `!.env` brings `.env` back.
//! Git's own ignore files do not count: what is built is often ignored there. It knows nothing of
//! layers.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::build::package::reading;
use crate::file_tree::{self, Content, FileTree, ImagePath, Node, PathError};
use crate::lambda::TASK_ROOT;

/// The project's own list of what stays out.
pub const IGNORE_FILE: &str = ".lambimgignore";

/// What has no business in an image: version control, environments, caches, secrets, leftovers of
/// tests and editors.
const LEFT_OUT: &str = "\
.git
.hg
.svn
.gitignore
.gitattributes
.gitmodules
.venv/
__pycache__
*.py[cod]
.mypy_cache/
.pytest_cache/
.ruff_cache/
.hypothesis/
.tox/
.nox/
.coverage
.coverage.*
htmlcov/
*.egg-info/
.env
.env.*
.DS_Store
.idea/
.vscode/
.aws-sam/
.lambimg-*
";

/// The files that steer the build: they change without the function changing.
const STEERING: &str = "\
.lambimgignore
lambimg.toml
lambimg.lock
pylock.toml
pylock.*.toml
/uv.lock
/poetry.lock
/pdm.lock
/Pipfile
/Pipfile.lock
/requirements.txt
/requirements.in
";

/// Files that mark a directory as a virtual environment or as an image, whatever its name.
const MARKS: [&str; 2] = ["pyvenv.cfg", "oci-layout"];

/// Why the function's files cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pattern means nothing.
    #[error("`{pattern}` is no pattern: {detail}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A link leads to what is not part of the project.
    #[error("the link `{}` leads out of the project, to `{}`", path.display(), target.display())]
    LeavesProject {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// What goes in is what comes out.
    #[error("`{}` is written by this very build", .0.display())]
    OwnOutput(PathBuf),
    /// A link leads to what does not come with the directory that it is in.
    #[error("the link `{}` leads out of `{}`, to `{}`", path.display(), directory.display(), target.display())]
    LeavesDirectory {
        /// The link.
        path: PathBuf,
        /// The directory that was named.
        directory: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Neither file, directory nor link.
    #[error("`{}` is neither a file nor a directory nor a link", .0.display())]
    Special(PathBuf),
    /// A name that Lambda's tools could not read.
    #[error("the name `{}` is not UTF-8", .0.display())]
    Name(PathBuf),
    /// A name that cannot stand in an image.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It is a deployment package that cannot be taken.
    #[error(transparent)]
    Package(#[from] reading::Error),
    /// A path of the tree is taken.
    #[error(transparent)]
    Tree(#[from] file_tree::Error),
}

/// Lists the project's files as they will stand in the image. `exclude` holds configured patterns,
/// `own_outputs` paths that this build itself writes.
///
/// # Errors
/// See [`Error`].
pub fn file_tree(
    project: &Path,
    exclude: &[String],
    own_outputs: &[PathBuf],
) -> Result<FileTree, Error> {
    let walk = Walk {
        project,
        patterns: patterns(project, [LEFT_OUT, STEERING], exclude)?,
        own_outputs,
        owner: "function".into(),
        is_whole: false,
    };
    let mut tree = FileTree::default();
    let root = ImagePath::new(TASK_ROOT)?;
    tree.insert(root.clone(), Node::Directory, &walk.owner)?;
    walk.directory(project, &root, &mut tree)?;
    Ok(tree)
}

/// Puts all that is in a directory below `place`. Its links may lead to what is in it, and nowhere else.
///
/// # Errors
/// See [`Error`].
pub(super) fn whole_directory(
    directory: &Path,
    place: &ImagePath,
    owner: &Arc<str>,
    own_outputs: &[PathBuf],
    tree: &mut FileTree,
) -> Result<(), Error> {
    let walk = Walk {
        project: directory,
        patterns: Gitignore::empty(),
        own_outputs,
        owner: Arc::clone(owner),
        is_whole: true,
    };
    walk.directory(directory, place, tree)?;
    Ok(())
}

/// Tells which of the files that lie directly in a project neither come into the image nor steer how it is built.
///
/// # Errors
/// When the project's patterns cannot be read.
pub(super) fn without_effect(
    project: &Path,
    exclude: &[String],
) -> Result<impl Fn(&Path) -> bool, Error> {
    let left_out = patterns(project, [LEFT_OUT, ""], exclude)?;
    let steering = ignored(project, STEERING.lines())?;
    Ok(move |path: &Path| {
        let is_of = |patterns: &Gitignore| patterns.matched(path, false).is_ignore();
        is_of(&left_out) && !is_of(&steering) && !path.ends_with("pyproject.toml")
    })
}

fn patterns(project: &Path, ours: [&str; 2], exclude: &[String]) -> Result<Gitignore, Error> {
    let file = project.join(IGNORE_FILE);
    let own = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(Error::Read { path: file, source }),
    };
    let lines = ours.into_iter().flat_map(str::lines);
    let lines = lines.chain(exclude.iter().map(String::as_str));
    // Some editors mark a text as UTF-8.
    let own = own.strip_prefix('\u{feff}').unwrap_or(&own).lines();
    ignored(project, lines.chain(own))
}

/// What these lines ignore, the last that matches counting.
fn ignored<'a>(project: &Path, lines: impl Iterator<Item = &'a str>) -> Result<Gitignore, Error> {
    let mut builder = GitignoreBuilder::new(project);
    for line in lines {
        builder.add_line(None, line).map_err(|e| Error::Pattern {
            pattern: line.to_owned(),
            detail: e.to_string(),
        })?;
    }
    builder.build().map_err(|e| Error::Pattern {
        pattern: IGNORE_FILE.to_owned(),
        detail: e.to_string(),
    })
}

struct Walk<'a> {
    project: &'a Path,
    patterns: Gitignore,
    own_outputs: &'a [PathBuf],
    owner: Arc<str>,
    /// Whether nothing stays out.
    is_whole: bool,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The project's, be it left out or not.
    Theirs,
    /// This build's own, or a directory of nothing else, which stands there only since the last build.
    Ours,
}

impl Walk<'_> {
    /// Puts what is in a directory into the tree, and says whose the directory is.
    fn directory(
        &self,
        directory: &Path,
        place: &ImagePath,
        tree: &mut FileTree,
    ) -> Result<Found, Error> {
        let read_error = |source| Error::Read {
            path: directory.to_owned(),
            source,
        };
        let (mut theirs, mut ours) = (0, 0);
        for entry in fs::read_dir(directory).map_err(read_error)? {
            let entry = entry.map_err(read_error)?;
            match self.entry(&entry.path(), &entry.file_name(), place, tree)? {
                Found::Theirs => theirs += 1,
                Found::Ours => ours += 1,
            }
        }
        // One that is still empty is the same as when the next build finds its outputs there.
        let is_to_have = || {
            let mut outputs = self.own_outputs.iter();
            outputs.any(|output| output != directory && output.starts_with(directory))
        };
        Ok(if theirs == 0 && (ours > 0 || is_to_have()) {
            Found::Ours
        } else {
            Found::Theirs
        })
    }

    fn entry(
        &self,
        path: &Path,
        name: &OsStr,
        place: &ImagePath,
        tree: &mut FileTree,
    ) -> Result<Found, Error> {
        let read_error = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        if self.own_outputs.iter().any(|output| output == path) {
            return Ok(Found::Ours);
        }
        let metadata = fs::symlink_metadata(path).map_err(read_error)?;
        if self.stays_out(path, metadata.is_dir()) {
            return Ok(Found::Theirs);
        }
        let name = name.to_str().ok_or_else(|| Error::Name(path.to_owned()))?;
        let place = place.join(name)?;
        if metadata.is_dir() {
            let found = self.directory(path, &place, tree)?;
            if found == Found::Theirs {
                tree.insert(place, Node::Directory, &self.owner)?;
            }
            return Ok(found);
        }
        let node = if metadata.is_symlink() {
            Node::Symlink(self.link_target(path)?)
        } else if metadata.is_file() {
            Node::File {
                content: Content::File(path.to_owned(), metadata.len()),
                executable: metadata.permissions().mode() & 0o111 != 0,
            }
        } else {
            return Err(Error::Special(path.to_owned()));
        };
        tree.insert(place, node, &self.owner)?;
        Ok(Found::Theirs)
    }

    fn stays_out(&self, path: &Path, is_directory: bool) -> bool {
        self.patterns.matched(path, is_directory).is_ignore()
            || (is_directory
                && !self.is_whole
                && MARKS.iter().any(|mark| path.join(mark).is_file()))
    }

    fn link_target(&self, path: &Path) -> Result<String, Error> {
        let target = fs::read_link(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        if !self.stays_inside(path, &target) {
            let path = path.to_owned();
            return Err(if self.is_whole {
                let directory = self.project.to_owned();
                Error::LeavesDirectory {
                    path,
                    directory,
                    target,
                }
            } else {
                Error::LeavesProject { path, target }
            });
        }
        let text = target.to_str().map(str::to_owned);
        text.ok_or(Error::Name(target))
    }

    /// Whether a link's way never leaves the project: step by step, through the links it meets, and by its
    /// text where nothing is there (yet).
    fn stays_inside(&self, link: &Path, target: &Path) -> bool {
        let mut place = link.parent().unwrap_or(self.project).to_owned();
        let mut steps: Vec<PathBuf> = reversed_steps(target);
        let mut links = 0;
        while let Some(step) = steps.pop() {
            match step.components().next() {
                Some(Component::Normal(name)) => place.push(name),
                Some(Component::ParentDir) => {
                    place.pop();
                }
                Some(Component::CurDir) | None => continue,
                Some(Component::RootDir | Component::Prefix(_)) => return false,
            }
            if !place.starts_with(self.project) {
                return false;
            }
            if let Ok(next) = fs::read_link(&place) {
                links += 1;
                if links > MOST_LINKS {
                    return false;
                }
                place.pop();
                steps.extend(reversed_steps(&next));
            }
        }
        true
    }
}

/// As many links as Linux follows on one way.
const MOST_LINKS: usize = 40;

/// A path's components, the first one last.
fn reversed_steps(path: &Path) -> Vec<PathBuf> {
    let steps = path
        .components()
        .map(|step| PathBuf::from(step.as_os_str()));
    let mut steps: Vec<_> = steps.collect();
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn project(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        directory
    }

    fn listing(directory: &Path, exclude: &[&str]) -> Vec<String> {
        let exclude: Vec<_> = exclude.iter().map(|&e| e.to_owned()).collect();
        let outputs = [directory.join("out")];
        let tree = file_tree(directory, &exclude, &outputs).unwrap();
        let below = |path: &ImagePath| path.as_str().strip_prefix("var/task/").map(str::to_owned);
        tree.iter().filter_map(|(path, _)| below(path)).collect()
    }

    #[test]
    fn leftovers_stay_out() {
        let directory = project(&[
            "app.py",
            "pkg/__init__.py",
            "pkg/__pycache__/x.pyc",
            ".git/config",
            ".env",
            ".venv/bin/python",
            "my-environment/pyvenv.cfg",
            "my-environment/lib/x.py",
            "pylock.toml",
            "out/index.json",
            "image/oci-layout",
            "image/index.json",
            "requirements.txt",
        ]);
        assert_eq!(
            listing(directory.path(), &[]),
            ["app.py", "pkg", "pkg/__init__.py"]
        );
    }

    #[test]
    fn patterns_speak_gitignore_and_the_last_counts() {
        let directory = project(&["app.py", ".env", "tests/a.py", "docs/b.md", "docs/keep.md"]);
        fs::write(
            directory.path().join(IGNORE_FILE),
            "docs/*\n!docs/keep.md\n!.env\n",
        )
        .unwrap();
        assert_eq!(
            listing(directory.path(), &["/tests"]),
            [".env", "app.py", "docs", "docs/keep.md"]
        );
        let error = file_tree(directory.path(), &["{a".to_owned()], &[]).unwrap_err();
        assert!(
            error.to_string().starts_with("`{a` is no pattern: "),
            "{error}"
        );
    }

    #[test]
    fn links_inside_stay_and_others_are_refused() {
        let directory = project(&["pkg/app.py"]);
        let link = directory.path().join("pkg/link.py");
        symlink("../pkg/app.py", &link).unwrap();
        let tree = file_tree(directory.path(), &[], &[]).unwrap();
        let entry = tree.get("var/task/pkg/link.py").unwrap();
        assert!(matches!(&entry.node, Node::Symlink(target) if target == "../pkg/app.py"));
        for outside in ["../../secret", "/etc/passwd", "a/../../../b"] {
            fs::remove_file(&link).unwrap();
            symlink(outside, &link).unwrap();
            let error = file_tree(directory.path(), &[], &[]).unwrap_err();
            assert!(matches!(error, Error::LeavesProject { .. }), "{outside}");
        }
    }

    #[test]
    fn only_the_execute_bit_is_kept() {
        let directory = project(&["run.sh", "data"]);
        let set = |name: &str, mode| {
            let path = directory.path().join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set("run.sh", 0o700);
        set("data", 0o600);
        let tree = file_tree(directory.path(), &[], &[]).unwrap();
        let executable = |path: &str| match tree.get(path).unwrap().node {
            Node::File { executable, .. } => executable,
            _ => false,
        };
        assert!(executable("var/task/run.sh") && !executable("var/task/data"));
    }
}
