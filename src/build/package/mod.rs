//! The deployment package: the function as Lambda's own runtime takes it from a zip file, and such a file as a function.
//!
//! It has what the image has in its task root, dependencies first and the function over them, and neither base nor
//! runtime client, which Lambda brings. The base of the image does not count: wheels run on the glibc of Lambda's
//! runtime, programs name its interpreter. What an image is made of otherwise is not known here.

pub mod reading;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;

use crate::blob_store;
use crate::build::base::Base;
use crate::build::compiling::Compiler;
use crate::build::dependencies::{self, Dependencies};
use crate::build::{self, Tools, has_handler, outputs};
use crate::digest::{Digest, Hasher};
use crate::file_tree::{Content, Entry, FileTree, ImagePath, Node};
use crate::lambda::TASK_ROOT;
use crate::plan::{self, Plan};
use crate::zip::{Date, Kind, Writer};

/// The level of layers.
const LEVEL: u32 = 4;
/// Lambda unpacks no more, layers of the function included: 250 MB, in bytes.
pub const MOST_UNPACKED: u64 = 262_144_000;
/// Lambda takes no more in a call, and the rest from S3: 50 MB, in bytes.
pub const MOST_SENT: u64 = 52_428_800;
/// The end of the repository that Lambda's own bases are in, mirrors among them.
const OWN_BASE: &str = "lambda/python";

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Lambda would not unpack it.
    #[error(
        "the deployment package is {unpacked} bytes unpacked, and Lambda takes {MOST_UNPACKED}, the layers of the function included"
    )]
    TooLarge {
        /// The bytes of its files.
        unpacked: u64,
    },
    /// A file of it could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Where it was to go.
        path: ImagePath,
        /// Why.
        source: io::Error,
    },
    /// A file of it is not the one that was listed or compiled.
    #[error("{0} changed while it was read")]
    Changed(ImagePath),
    /// It could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The zip file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The files of a package, and what is known of their contents.
pub(super) struct Package {
    tree: FileTree,
    known: BTreeMap<ImagePath, Digest>,
    /// What the user should know of it.
    pub(super) warnings: Vec<String>,
}

/// Puts together what goes into the package; `function` are the function's files without their bytecode.
pub(super) async fn gather(
    plan: &Arc<Plan>,
    base: &Base,
    dependencies: &Dependencies,
    function: FileTree,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<Package, build::Error> {
    let mut tree = dependencies::packaged(plan, base, dependencies, compiler, tools).await?;
    let (function, known) = match compiler.cloned() {
        Some(compiler) => {
            let (is_archive, owned) = (plan.is_archive, tools.clone());
            // It was compiled for the image just now.
            let compile = move || build::compiled(is_archive, function, &compiler, false, &owned);
            let (tree, _, known) = tools.block(compile).await??;
            (tree, known)
        }
        None => (function, BTreeMap::new()),
    };
    tree.merge(function)?;
    let mut warnings = Vec::new();
    if let Some(handler) = plan.handler.as_ref().filter(|_| !has_handler(plan, &tree)) {
        warnings.push(format!(
            "the handler `{handler}` is the base's, and the deployment package does not have it"
        ));
    }
    warnings.extend(left_out(plan));
    warnings.extend(tell_base(plan, base, dependencies, tools));
    let unpacked = tree.iter().filter_map(|(_, entry)| match &entry.node {
        Node::File { content, .. } => Some(content.size()),
        Node::Directory | Node::Symlink(_) => None,
    });
    let unpacked = unpacked.fold(0, u64::saturating_add);
    if unpacked > MOST_UNPACKED {
        return Err(Error::TooLarge { unpacked }.into());
    }
    Ok(Package {
        tree,
        known,
        warnings,
    })
}

/// What only the image has: a package is unpacked into the task root, and Lambda starts its own runtime.
fn left_out(plan: &Plan) -> Option<String> {
    let left_out = [
        ("files", !plan.files.is_empty()),
        ("extensions", !plan.extensions.is_empty()),
        (
            "settings of how it is started",
            plan.running.has_own_program(),
        ),
    ];
    let left_out = left_out.iter().filter(|(_, is_there)| *is_there);
    let names: Vec<_> = left_out.map(|(name, _)| *name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "the deployment package has nothing of the image's {}: on Lambda they come from its layers and configuration",
            names.join(", ")
        )
    })
}

/// Says what of the image's base the package cannot count on, and gives the warning where it may lack a package.
fn tell_base(
    plan: &Plan,
    base: &Base,
    dependencies: &Dependencies,
    tools: &Tools,
) -> Option<String> {
    let is_own = match &plan.base {
        plan::Base::Registry(reference) => reference.repository.ends_with(OWN_BASE),
        plan::Base::Place(_) | plan::Base::Host(_) => false,
    };
    let runtime = plan.runtime;
    if is_own && base.glibc == runtime.glibc {
        return None;
    }
    tools.progress.step(format!(
        "the deployment package is for Lambda's own {} with glibc {}; the base `{}` has {}",
        runtime.identifier, runtime.glibc, plan.base, base.glibc
    ));
    let is_less = !is_own && !dependencies.left_out_packages.is_empty();
    is_less.then(|| {
        format!(
            "{} is left out of the deployment package too, and Lambda's own {} may not have it",
            dependencies.left_out_packages.join(", "),
            runtime.identifier
        )
    })
}

impl Package {
    /// Writes it to `path`, where it appears whole.
    pub(super) fn write(&self, path: &Path, plan: &Plan, tools: &Tools) -> Result<(), Error> {
        let failed = |source| Error::Write {
            path: path.to_owned(),
            source,
        };
        let file = tempfile::Builder::new()
            .prefix(blob_store::UNFINISHED)
            // As the umask has it.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(outputs::directory_of(path))
            .map_err(failed)?;
        let mut writer = Writer::new(BufWriter::new(file));
        let date = Date::of_epoch(plan.epoch);
        let mut members: Vec<_> = self.tree.iter().filter_map(member).collect();
        members.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        for (name, path, entry) in members {
            let (kind, mut contents) = match &entry.node {
                Node::Directory => (Kind::Directory, Counted::of(&Content::bytes(""), path)?),
                Node::Symlink(target) => {
                    let target = Content::bytes(target.as_bytes());
                    (Kind::Symlink, Counted::of(&target, path)?)
                }
                Node::File {
                    content,
                    executable,
                } => {
                    let kind = if *executable {
                        Kind::Program
                    } else {
                        Kind::File
                    };
                    (kind, Counted::of(content, path)?)
                }
            };
            let is_deflated = matches!(kind, Kind::File | Kind::Program) && contents.size > 0;
            let level = is_deflated.then_some(LEVEL);
            let size = writer.stream(&name, kind, date, &mut contents, level);
            let size = match (size, contents.error) {
                (_, Some(source)) => {
                    let path = path.clone();
                    return Err(Error::Read { path, source });
                }
                (size, None) => size.map_err(failed)?,
            };
            let digest = contents.hasher.finish();
            let is_known = self.known.get(path).is_none_or(|known| *known == digest);
            if size != contents.size || !is_known {
                return Err(Error::Changed(path.clone()));
            }
        }
        let file = writer.finish().map_err(failed)?.into_inner();
        let file = file.map_err(|error| failed(error.into_error()))?;
        let size = file.as_file().metadata().map_err(failed)?.len();
        file.persist(path).map_err(|error| failed(error.error))?;
        tell_size(path, size, tools);
        Ok(())
    }
}

fn tell_size(path: &Path, size: u64, tools: &Tools) {
    let (path, sent) = (path.display(), ByteSize(size));
    if size > MOST_SENT {
        tools.progress.warn(format!(
            "`{path}` is {size} bytes: Lambda takes one of more than {MOST_SENT} from S3 alone, by `--s3-bucket`"
        ));
    } else {
        tools.progress.detail(format!("`{path}` is {sent}"));
    }
}

/// What a path of a tree is called in a package, if it is in one.
fn member<'t>(
    (path, entry): (&'t ImagePath, &'t Entry),
) -> Option<(String, &'t ImagePath, &'t Entry)> {
    let name = path.as_str().strip_prefix(TASK_ROOT)?.strip_prefix('/')?;
    let end = match entry.node {
        Node::Directory => "/",
        Node::File { .. } | Node::Symlink(_) => "",
    };
    Some((format!("{name}{end}"), path, entry))
}

/// Contents as they are read, and why they cannot be.
struct Counted {
    reader: Box<dyn Read + Send>,
    hasher: Hasher,
    size: u64,
    error: Option<io::Error>,
}

impl Counted {
    fn of(content: &Content, path: &ImagePath) -> Result<Self, Error> {
        let reader = content.open().map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            // One byte more proves that it is another.
            reader: Box::new(reader.take(content.size().saturating_add(1))),
            hasher: Hasher::default(),
            size: content.size(),
            error: None,
        })
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reader.read(buffer) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let told = error.kind().into();
                self.error = Some(error);
                Err(told)
            }
        }
    }
}
