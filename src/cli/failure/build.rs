//! What goes wrong while an image is planned, built, pinned, verified and kept.
//!
//! What packages, locks and indexes say is told elsewhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use lambimg::aws;
use lambimg::blob_store;
use lambimg::build::package::{self, reading};
use lambimg::build::pinning::{Asker, Refusal};
use lambimg::build::pins::Bytecode;
use lambimg::build::sbom::Format;
use lambimg::build::verify::Cause;
use lambimg::build::{self, host_base, pins, rebase};
use lambimg::http;
use lambimg::lambda::check::Finding;
use lambimg::oci::{self, layer, layout};
use lambimg::plan;
use lambimg::python::{fetch, interpreter};
use lambimg::registry;
use lambimg::zip;

use super::python::{
    of_fetch, of_index, of_lock, of_project, of_requirements, of_resolve, of_source, of_wheel,
};
use super::registry::{is_not_allowed, of_aws, of_http, of_registry};
use super::{AWS, Advice, Failure, INPUT, NETWORK, REFUSED, USAGE, hint, of_no_rule};

impl From<blob_store::Error> for Failure {
    fn from(error: blob_store::Error) -> Self {
        Self::new(&error, of_store(&error))
    }
}

/// Why Lambda would refuse, what to do, and how to go on all the same.
fn reasons(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut rules = BTreeSet::new();
    for finding in findings {
        let _ = writeln!(text, "{}: {}", finding.rule.id, finding.remedy);
        if rules.insert(format!("{:?}", finding.rule.id)) {
            let _ = writeln!(text, "  {}", finding.rule.why);
        }
    }
    let rules = rules.into_iter().collect::<Vec<_>>().join(", ");
    let _ = write!(
        text,
        "no name was given to it; `ignore = [{rules}]` under `[tool.lambimg.check]` has it built all the same"
    );
    text
}

impl From<plan::Error> for Failure {
    fn from(error: plan::Error) -> Self {
        let advice = match &error {
            plan::Error::NoHandler { of_several: false } => hint(
                "name the function that Lambda calls: `--handler app.handler` or `handler = \
                 \"app.handler\"` under `[tool.lambimg]` in pyproject.toml",
                USAGE,
            ),
            plan::Error::NoHandler { of_several: true } => hint(
                "name what Lambda calls: `handler = \"app.handler\"` in the function's own table, \
                 `[tool.lambimg.functions.NAME]` in pyproject.toml",
                USAGE,
            ),
            plan::Error::Handler { .. } => hint(
                "write MODULE.FUNCTION, as `app.handler` for `def handler` in app.py",
                USAGE,
            ),
            plan::Error::HandlerAndCmd { .. } => hint(
                "leave one of the two out: `handler` is one word, and `cmd` whatever the entry point takes",
                USAGE,
            ),
            plan::Error::Reserved { .. } => hint("leave it out: the function will have it", USAGE),
            plan::Error::OwnLabel { .. } => hint("take another name for it", USAGE),
            plan::Error::Unnamed { .. } => hint("give it a name, or leave it out", USAGE),
            plan::Error::Part { table, .. } => hint(example_of(table), USAGE),
            plan::Error::Path { .. } => hint("write a plain path, as `/opt/models/x.onnx`", USAGE),
            plan::Error::Python { .. } => hint("`lambimg bases` lists the runtimes", USAGE),
            plan::Error::Value { wanted, .. } => hint(of_value(wanted), USAGE),
            plan::Error::Layer { .. } => hint(
                "copy the ARN of the version from the layer's page or from `aws lambda list-layer-versions \
                 --layer-name NAME`",
                USAGE,
            ),
            plan::Error::Name { .. } => hint(
                "write a name as REPOSITORY:TAG or REGISTRY/REPOSITORY:TAG",
                USAGE,
            ),
            plan::Error::NameWithDigest { .. } => hint("leave out what follows the `@`", USAGE),
            plan::Error::Output(_) => hint(
                "say what to write and where, as `-o oci-archive:image.tar`",
                USAGE,
            ),
            plan::Error::OfProject { .. } => hint(
                "leave it out, or build the project that the package is made of",
                USAGE,
            ),
            plan::Error::NothingToPush { .. } => hint(
                "name the image for its registry: `-t REGISTRY/REPOSITORY:TAG --push`",
                USAGE,
            ),
            plan::Error::Needs { file } => hint(needs_hint(file), USAGE),
            plan::Error::SeveralLocks { .. } => {
                hint("name one, as `--requirements pylock.NAME.toml`", USAGE)
            }
            plan::Error::NoneToWant { .. } => hint(
                "leave it out, or list what the project needs in `pyproject.toml`",
                USAGE,
            ),
            plan::Error::NoFunctions { .. } => hint(
                "leave out `--function`; functions are tables such as `[tool.lambimg.functions.orders]` in \
                 pyproject.toml",
                USAGE,
            ),
            plan::Error::NoFunction { nearest, .. } => (
                nearest
                    .as_ref()
                    .map(|name| format!("did you mean `{name}`?")),
                USAGE,
            ),
            plan::Error::SeveralFunctions { known } => {
                let one = known.first().map_or("NAME", String::as_str);
                hint(format!("choose one, as `--function {one}`"), USAGE)
            }
            plan::Error::Placeholder { .. } => hint(
                "leave `{function}` out, or give each function a table such as `[tool.lambimg.functions.orders]`",
                USAGE,
            ),
            plan::Error::SameName { .. } => hint(
                "put `{function}` into the name, as `REGISTRY/{function}:v1`, or give each its own `image`",
                USAGE,
            ),
            plan::Error::SameOutput(clash) if clash.is_of_functions() => hint(
                "put `{function}` into the path, as `-o 'zip:dist/{function}.zip'`",
                USAGE,
            ),
            plan::Error::SameOutput(_) => hint("give each output a path of its own", USAGE),
            plan::Error::SharedHandler { .. } => hint(
                "choose one by `--function NAME`, or write each `handler` in the function's own table",
                USAGE,
            ),
            plan::Error::NoRule { error, .. } => of_no_rule(error),
            plan::Error::Epoch(_) => hint(
                "unset it, or set it as `git log -1 --format=%ct` prints it",
                USAGE,
            ),
        };
        Self::new(&error, advice)
    }
}

/// How one of a list of tables is written.
fn example_of(table: &str) -> &'static str {
    match table {
        "extensions" => {
            "write it as `{ zip = \"layer.zip\" }`, `{ image = \"REGISTRY/REPOSITORY:TAG\", path = \"/opt\" }` or \
             `{ path = \"bin\", to = \"/opt/bin\" }`"
        }
        "files" => "write it as `{ from = \"models/x.onnx\", to = \"/opt/models/x.onnx\" }`",
        _ => "the README shows how it is written",
    }
}

/// What to write instead of a value, by what it is not.
fn of_value(wanted: &str) -> &'static str {
    const HINTS: [(&str, &str); 9] = [
        ("no absolute path", "begin it with a `/`, as `/opt/models`"),
        ("no place for it", "choose another, as one below `/opt`"),
        ("not in /opt", "let it begin with `/opt/`, or take `files`"),
        (
            "outside of the project",
            "copy it into the project, or write the whole path",
        ),
        (
            "more than one extension",
            "give each braces of its own, as `{ zip = \"layer.zip\" }, { path = \"bin\" }`",
        ),
        ("no variable", "write `NAME = \"value\"`"),
        (
            "no entry point",
            "write the program and its arguments, as `[\"/lambda-entrypoint.sh\"]`",
        ),
        (
            "no path",
            "write the path of a file or directory of the project",
        ),
        ("no user", "write a name or a number, or leave it out"),
    ];
    let found = HINTS.iter().find(|(start, _)| wanted.starts_with(start));
    found.map_or("give one of these", |(_, hint)| hint)
}

fn needs_hint(file: &str) -> String {
    let command = match file {
        "pdm.lock" => "pdm export -f pylock -o pylock.toml",
        "Pipfile" => "pipenv lock",
        "requirements.in" => "uv pip compile requirements.in -o requirements.txt",
        _ => "poetry lock",
    };
    format!("run `{command}`, or name a file by `--requirements`")
}

impl From<build::Error> for Failure {
    fn from(error: build::Error) -> Self {
        Self::new(&error, of_build(&error))
    }
}

const WHOLE_LAYERS: &str = "have the image made with layers that are whole, of plain tar or gzip; `lambimg check` tells \
                            what is wrong";
const HANDLER_ABSENT: &str = "check the spelling and the project's path; `lambimg build --dry-run` lists the files that \
                              go into the image, and `--handler-in-base` says that the base has it";
const OTHER_HASH: &str = "the index has another file than the one you trusted: look before you take it, then put its \
                          hash into the requirements";

pub(super) fn of_build(error: &build::Error) -> Advice {
    match error.own() {
        build::Error::HandlerAbsent { .. } => hint(HANDLER_ABSENT, USAGE),
        build::Error::HostArchitecture { .. } => {
            hint("build on such a machine, or on another base", USAGE)
        }
        build::Error::HostLibrary(_) => hint(
            "Lambda's wheels are made for glibc: take a base from a registry, or another interpreter",
            USAGE,
        ),
        build::Error::NoResolver { .. } => hint(
            "install uv (https://docs.astral.sh/uv, or `pip install uv`), which resolves for every \
             target, or give a pylock.toml",
            USAGE,
        ),
        build::Error::Locked { .. } => {
            hint("build once without `--locked` and commit the lock", REFUSED)
        }
        build::Error::PinsFile { path, source } => of_pins(path, source),
        build::Error::Pinned { asker, refusal, .. } => of_refusal(refusal, asker),
        build::Error::BaseGone { base, source, .. } => of_gone(base, source),
        build::Error::Extension { source, .. } => of_extension(source),
        build::Error::NothingToAsk { .. } => {
            hint("name a base by its tag in a registry, as `--base`", USAGE)
        }
        build::Error::NothingToLock(_) => hint(
            "list what the function needs in requirements.txt, or name the file by `--requirements`",
            USAGE,
        ),
        build::Error::ForeignLock(path) => hint(foreign_lock_hint(path), USAGE),
        build::Error::Requirements(error) => of_requirements(error),
        build::Error::NotInLock { .. } => hint(
            "lock again, or remove the lock and have it made anew by the next build",
            USAGE,
        ),
        build::Error::RequiredHash { .. } => hint(OTHER_HASH, INPUT),
        build::Error::BasePython { .. } => hint(
            "choose the base of that Python, or another `--python`",
            USAGE,
        ),
        build::Error::File { .. } => hint("check the path and its permissions", USAGE),
        build::Error::Wheel { source, .. } => of_wheel(source),
        build::Error::NoImage { .. } => hint(
            "build it first, or name an image as `oci:DIR` or `docker://REFERENCE`",
            USAGE,
        ),
        build::Error::OtherDigest { .. } => {
            hint("leave out the digest, or push the image it is of", USAGE)
        }
        build::Error::Rebase(error) => of_rebase(error),
        build::Error::Compare(_) => hint(
            "the layer is no whole tar in gzip: have its image made again",
            INPUT,
        ),
        build::Error::Refused(findings) => hint(reasons(findings), REFUSED),
        build::Error::Interrupted | build::Error::Shared(_) | build::Error::Undelivered => {
            (None, REFUSED)
        }
        build::Error::HostBase(error) => of_host_base(error),
        build::Error::Interpreter(error) => of_interpreter(error),
        build::Error::Compiling(_) => hint(
            "name another interpreter by `--interpreter`, or build without bytecode by `--no-bytecode`",
            USAGE,
        ),
        build::Error::Bytecode { .. } => hint(
            "the disk may be at fault; remove what was made by `lambimg cache prune --layers`",
            REFUSED,
        ),
        build::Error::Function(error) => of_function(error),
        build::Error::Package(error) => of_package(error),
        build::Error::LockFile { path, source } => of_lock(source, Some(path)),
        build::Error::Unusable { lock, source } => of_lock(source, Some(lock)),
        build::Error::Lock(error) => of_lock(error, None),
        build::Error::Resolve(error) => of_resolve(error),
        build::Error::Index(error) => of_index(error),
        build::Error::Source(error) => of_source(error),
        build::Error::Project(error) => of_project(error),
        build::Error::Fetch(error) => of_fetch(error),
        build::Error::Tree(_) => hint(
            "two of what goes into the image cannot stand together; leave one out",
            INPUT,
        ),
        build::Error::Layer(error) => of_layer(error),
        build::Error::Document(error) => of_document(error),
        build::Error::Layout(error) => of_layout(error),
        build::Error::Unlisted { .. } => hint(WHOLE_LAYERS, INPUT),
        build::Error::Registry(source) | build::Error::PartlyPushed { source, .. } => {
            of_registry(source)
        }
        build::Error::NotAttached {
            image,
            format,
            source,
        } => of_not_attached(image, *format, source),
        build::Error::Http(error) => of_http(error),
        build::Error::Store(error) => of_store(error),
    }
}

/// The image itself need not be pushed again.
fn of_not_attached(image: &str, format: Format, source: &registry::Error) -> Advice {
    let flag = match format {
        Format::CycloneDx => "--sbom",
        Format::Spdx => "--sbom=spdx",
    };
    let later = format!("`lambimg push {flag} docker://{image} {image}` attaches it later");
    let (why, code) = of_registry(source);
    let text = match why {
        Some(why) => format!("{why}; {later}"),
        None => later,
    };
    hint(text, code)
}

/// Those flags that decide what is locked.
const LOCK_FLAGS: [&str; 11] = [
    "--python",
    "--arch",
    "--requirements",
    "--base",
    "--glibc",
    "--interpreter",
    "--resolver",
    "--exclude-newer",
    "--extra",
    "--group",
    "--build",
];

fn of_rebase(error: &rebase::Refusal) -> Advice {
    match error {
        rebase::Refusal::NoBase
        | rebase::Refusal::OldBaseGone { .. }
        | rebase::Refusal::OtherLayers { .. } => hint("build it again on the new base", REFUSED),
        rebase::Refusal::NoBaseName(_) => hint(
            "name the new base by `--onto`; where the old one is in no registry, build again on the new one",
            REFUSED,
        ),
        rebase::Refusal::Foreign { .. } => hint(
            "move the image that it was put on, and put it on what comes of that: it may have files of the old base",
            REFUSED,
        ),
        rebase::Refusal::Python { .. } => hint(
            "name a base of the image's Python by `--onto`, or build again for the new one: its packages may be others",
            REFUSED,
        ),
        rebase::Refusal::System { .. }
        | rebase::Refusal::Glibc { .. }
        | rebase::Refusal::RuntimeClient { .. }
        | rebase::Refusal::Bytecode { .. }
        | rebase::Refusal::Interpreter { .. } => hint(
            "name a base of the same kind by `--onto`, or build again on the new one",
            REFUSED,
        ),
        rebase::Refusal::Unknown { .. } => hint(
            "build again on the new base, or have it say so by the label `lambimg.python` or in `/etc/os-release`",
            REFUSED,
        ),
        rebase::Refusal::NoName(_) => hint("name it by `-t NAME:TAG`", USAGE),
        rebase::Refusal::NothingToPush(_) => hint(
            "name the image for its registry: `-t REGISTRY/REPOSITORY:TAG --push`",
            USAGE,
        ),
        rebase::Refusal::Read { .. } => hint(
            "the base is damaged where it came from, or no image of Lambda's kind",
            INPUT,
        ),
    }
}

fn of_pins(path: &Path, error: &pins::Error) -> Advice {
    let name = file_name(path);
    match error {
        pins::Error::Conflict { .. } | pins::Error::Twice(_) => hint(
            format!("take one side of the merge, or remove `{name}` and run `lambimg lock`"),
            USAGE,
        ),
        pins::Error::Version(_) => hint(
            "a later lambimg made it: use that one, or remove the lock and run `lambimg lock`",
            USAGE,
        ),
        pins::Error::Form(_) | pins::Error::Value { .. } => hint(
            format!(
                "it is not meant to be edited: take it from the last commit, or remove `{name}` and run `lambimg lock`"
            ),
            USAGE,
        ),
    }
}

/// What to do so that two builds have no such difference.
pub(super) fn of_cause(cause: &Cause) -> &'static str {
    match cause {
        Cause::Base => {
            "pin the base: name it with its digest, as `base = \"REPOSITORY:TAG@sha256:…\"`"
        }
        Cause::Lock(_) => "check out the commit that the image was built from, with its locks",
        Cause::Interpreter(_) | Cause::Compilers(..) | Cause::Bytecode => {
            "compile with the very interpreter that the image was built with, or build without bytecode"
        }
        Cause::Epoch => "set SOURCE_DATE_EPOCH to what it was when the image was built",
        Cause::Sources => {
            "check out the commit that the image was built from; `lambimg build --dry-run` lists the function's files"
        }
        Cause::Settings => "give the flags and variables that the image was built with",
        Cause::Tools => "build with the interpreter and the lambimg that the image was built with",
        Cause::Lambimg => "build with the lambimg that the image was built with",
    }
}

/// Whatever the lock lacks or has otherwise, making it anew for the same puts that right.
fn of_refusal(refusal: &Refusal, asker: &Asker) -> Advice {
    let mut command = "lambimg lock".to_owned();
    let is_here = std::env::current_dir().is_ok_and(|here| here == asker.project);
    if !is_here {
        let _ = write!(command, " {}", in_shell(&asker.project.to_string_lossy()));
    }
    let flags = asker.flags.iter();
    for (flag, value) in flags.filter(|(flag, _)| LOCK_FLAGS.contains(flag)) {
        let _ = write!(command, " {flag} {}", in_shell(value));
    }
    let text = match refusal {
        Refusal::Interpreter {
            locked: Bytecode::Interpreter { version, .. },
            ..
        } => format!(
            "have that very version here, as by `uv python install {version}`; or lock again with the one that is \
             here: `{command}`"
        ),
        Refusal::Layer { .. } => "no version of a layer ever changes: find out whose answer this is, and who wrote \
             the lock, before either is trusted; without its `[[layer]]` in the lock, `lambimg lock` takes what AWS says"
            .to_owned(),
        _ => format!("run `{command}`, look at what changed, and commit it"),
    };
    hint(text, REFUSED)
}

/// A word as a shell takes it for one.
fn in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn foreign_lock_hint(path: &Path) -> String {
    let name = file_name(path);
    match lock_command(&name) {
        Some(command) => {
            format!("lock with `{command}`; `lambimg build` takes the lock as it is")
        }
        None if name.starts_with("pylock.") => {
            "lock with the tool that made it, or remove it and let lambimg make one of the requirements".to_owned()
        }
        None => format!("`{name}` binds every file by its hash, so `lambimg build` takes it as it is"),
    }
}

pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The command that makes a lock of this name anew, where only one tool writes such locks.
pub(super) fn lock_command(name: &str) -> Option<&'static str> {
    match name {
        "uv.lock" => Some("uv lock"),
        "poetry.lock" => Some("poetry lock"),
        "pdm.lock" => Some("pdm lock"),
        "Pipfile.lock" => Some("pipenv lock"),
        _ => None,
    }
}

/// How a lock is made anew.
pub(super) fn lock_again(lock: Option<&Path>) -> String {
    let Some(name) = lock.map(file_name) else {
        return "lock again".to_owned();
    };
    match lock_command(&name) {
        Some(command) => format!("lock again by `{command}`"),
        None if name.starts_with("pylock.") => {
            "lock again by the tool that made it: `lambimg lock`, or as `uv export --format pylock.toml -o \
             pylock.toml`"
                .to_owned()
        }
        None => "compile it again, as `uv pip compile --generate-hashes requirements.in -o requirements.txt`"
            .to_owned(),
    }
}

fn of_function(error: &build::function::Error) -> Advice {
    match error {
        build::function::Error::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            hint(
                "check the spelling: of `files` each `from` is meant from the project",
                USAGE,
            )
        }
        build::function::Error::Read { .. } => hint("check the file's permissions", USAGE),
        build::function::Error::OwnOutput(_) => hint(
            "write it elsewhere, or leave it out of `files` and `extensions`",
            USAGE,
        ),
        build::function::Error::LeavesDirectory { .. } => hint(
            "name a directory that has all of it, or put the file itself in the link's place",
            INPUT,
        ),
        build::function::Error::Pattern { .. } => hint(
            "patterns are those of gitignore; mend it, or put a backslash before it",
            USAGE,
        ),
        build::function::Error::LeavesProject { .. } => hint(
            "copy what it leads to into the project, or leave the link out by `exclude`",
            INPUT,
        ),
        build::function::Error::Special(_)
        | build::function::Error::Name(_)
        | build::function::Error::Path(_) => hint(
            "rename it, or leave it out by `exclude` or in `.lambimgignore`",
            INPUT,
        ),
        build::function::Error::Package(error) => of_reading(error),
        build::function::Error::Tree(_) => hint("leave one of the two out by `exclude`", INPUT),
    }
}

/// An image that its registry has no more.
fn of_gone(base: &pins::BaseKey, source: &registry::Error) -> Advice {
    let (_, code) = of_registry(source);
    let command = match base.role {
        pins::Role::Base => "lambimg lock --upgrade-base",
        pins::Role::Extension => "lambimg lock --upgrade",
    };
    hint(format!("`{command}` takes what the tag is now"), code)
}

fn of_extension(error: &build::opt::Error) -> Advice {
    use build::opt::Error;
    match error {
        Error::Zip(zip::Error::Read(source)) | Error::File { source, .. }
            if source.kind() == io::ErrorKind::NotFound =>
        {
            hint(
                "check the spelling: a path is meant from the project",
                USAGE,
            )
        }
        Error::Zip(_) | Error::Path(_) | Error::Tree(_) | Error::Link { .. } => hint(
            "make the archive anew, as `zip -r layer.zip python bin lib extensions` does",
            INPUT,
        ),
        Error::Nothing(_) => hint(
            "say by `path` where in the image it is, as `path = \"/lambda-adapter\"`",
            USAGE,
        ),
        Error::Special(_) => hint(
            "name a `path` that has files, directories and links alone",
            INPUT,
        ),
        Error::Layer(..) => hint("name another version of the image", INPUT),
        Error::Platform(_) => hint(
            "name an image that is for the function's architecture, leave the extension out, or choose another `--arch`",
            INPUT,
        ),
        Error::Aws(error) => of_layer_version(error),
        Error::Fetch(fetch::Error::Http { source, .. }) => of_http(source),
        Error::Fetch(fetch::Error::Store(error)) => of_store(error),
        Error::Archive { .. } => hint(
            "nothing of it was kept: try again, and if it stays, look at the proxy between or ask whose layer it is",
            INPUT,
        ),
        Error::Fetch(_) => hint(
            "AWS names such an address for ten minutes: try again, and if it stays, look at the proxy between",
            NETWORK,
        ),
        Error::File { source, .. } => of_write(source),
    }
}

/// What can be done where AWS does not say what a layer is.
fn of_layer_version(error: &aws::Error) -> Advice {
    match error {
        aws::Error::NotBuiltIn { .. } => hint(
            "install a lambimg that was built with its feature `aws`, or download the layer's archive and name it by \
             `zip`",
            AWS,
        ),
        aws::Error::Denied { code, .. } if is_not_allowed(code) => hint(
            "have `lambda:GetLayerVersion` allowed for the role or user that AWS's words name, and where the layer is \
             another account's, have its owner allow that by `aws lambda add-layer-version-permission`; AWS says the \
             same of a layer or version that is not there",
            AWS,
        ),
        aws::Error::Answer { status: 404, .. } => hint(
            "check the ARN's region, account, name and version; `aws lambda list-layer-versions` lists those that are \
             there",
            AWS,
        ),
        aws::Error::Http(http::Error::Resolve { host, .. }) if host.starts_with("lambda-fips.") => {
            hint(
                "not every region has the endpoint that AWS_USE_FIPS_ENDPOINT or `use_fips_endpoint` in a profile asks for: \
             set the variable to `false`, or name an endpoint in AWS_ENDPOINT_URL_LAMBDA",
                NETWORK,
            )
        }
        aws::Error::Http(http::Error::Resolve { host, .. }) if host.starts_with("lambda.") => {
            hint("check the ARN's region, and the machine's network", NETWORK)
        }
        _ => of_aws(error),
    }
}

fn of_reading(error: &reading::Error) -> Advice {
    match error {
        reading::Error::Archive {
            source: zip::Error::Read(_),
            ..
        } => hint("check the file's permissions", USAGE),
        reading::Error::Archive {
            source: zip::Error::Member { reason, .. },
            ..
        } => hint(of_member(reason), INPUT),
        reading::Error::Member { reason, .. } => hint(of_member(reason), INPUT),
        reading::Error::Archive { .. } | reading::Error::Read { .. } | reading::Error::Tree(_) => {
            hint(PLAIN_PACKAGE, INPUT)
        }
    }
}

const PLAIN_PACKAGE: &str =
    "make the package anew, of plain files, directories and links among them, each of them once";

/// What to do about a member of a package, by what is wrong with it.
fn of_member(reason: &str) -> &'static str {
    const HINTS: [(&str, &str); 4] = [
        (
            "backslash",
            "make the package anew with `/` between directories, as `zip -r` and Python's `zipfile` do on every system",
        ),
        ("encrypted", "make the package anew, without a password"),
        (
            "compression other",
            "make the package anew, deflated, as `zip -r` does",
        ),
        ("times less", "leave it out of the package"),
    ];
    let found = HINTS.iter().find(|(part, _)| reason.contains(part));
    found.map_or(PLAIN_PACKAGE, |(_, hint)| hint)
}

fn of_package(error: &package::Error) -> Advice {
    match error {
        package::Error::TooLarge { .. } => hint(
            "deploy the image, which may be of 10 GB; or leave out what is not needed by `exclude-in-packages`",
            INPUT,
        ),
        package::Error::Read { source, .. } if source.kind() == io::ErrorKind::InvalidData => hint(
            "the file is damaged where it came from; what is kept of it in the cache can be removed",
            INPUT,
        ),
        package::Error::Read { .. } => hint("check the file's permissions", USAGE),
        package::Error::Changed(_) => {
            hint("build again when nothing writes to the project", REFUSED)
        }
        package::Error::Write { source, .. } => of_output(source),
    }
}

fn of_layer(error: &layer::Error) -> Advice {
    match error {
        layer::Error::Read { source, .. } if source.kind() == io::ErrorKind::InvalidData => hint(
            "the file is damaged where it came from; what is kept of it in the cache can be removed",
            INPUT,
        ),
        layer::Error::Read { .. } => hint("check the file's permissions", USAGE),
        layer::Error::Changed { .. } => {
            hint("build again when nothing writes to the project", REFUSED)
        }
        layer::Error::Write(source) => of_write(source),
        layer::Error::Store(error) => of_store(error),
    }
}

pub(super) fn of_write(error: &io::Error) -> Advice {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => hint(
            "make room (`lambimg cache prune` removes what no image needs), or set LAMBIMG_CACHE_DIR to a directory \
             with room; nothing half written was kept",
            REFUSED,
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => hint(
            "set LAMBIMG_CACHE_DIR to a directory that lambimg may write to",
            REFUSED,
        ),
        _ => hint(
            "check the path, or set LAMBIMG_CACHE_DIR to another directory",
            REFUSED,
        ),
    }
}

pub(super) fn of_store(error: &blob_store::Error) -> Advice {
    match error {
        blob_store::Error::Io { source, .. } => of_write(source),
        blob_store::Error::Foreign { .. } => hint(
            "set LAMBIMG_CACHE_DIR to a directory of its own; lambimg makes it",
            USAGE,
        ),
        blob_store::Error::Mismatch(_) => hint(
            "try again; if it stays, the source serves other bytes than it promised",
            NETWORK,
        ),
        blob_store::Error::Missing(_) | blob_store::Error::Damaged(_) => {
            hint("build the image again", REFUSED)
        }
    }
}

/// Whether reading failed because a blob of the store is not what its name says.
fn is_damage(error: &io::Error) -> bool {
    match error.get_ref() {
        Some(inner) => inner.is::<blob_store::Error>(),
        None => false,
    }
}

/// A file that the user names could not be written.
fn of_output(error: &io::Error) -> Advice {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            hint("check the spelling of the path", USAGE)
        }
        io::ErrorKind::StorageFull => hint(
            "make room there (`lambimg cache prune` does where the store is); nothing half written was kept",
            REFUSED,
        ),
        _ => hint("check the path and its permissions", REFUSED),
    }
}

fn of_layout(error: &layout::Error) -> Advice {
    match error {
        layout::Error::Io { source, .. } if is_damage(source) => {
            hint("build the image again", REFUSED)
        }
        layout::Error::Io { source, .. } => of_output(source),
        layout::Error::Special(_) => {
            hint("name a file that may be replaced, or a new one", REFUSED)
        }
        layout::Error::Name(_) => hint("write a name as REPOSITORY:TAG", USAGE),
        layout::Error::Occupied(_) => hint("name an empty or a new directory", REFUSED),
        layout::Error::Malformed { .. } => hint("check the path, or write the image anew", USAGE),
        layout::Error::NoImage { .. } => hint("name one of these, as `oci:DIR:NAME`", USAGE),
        layout::Error::Missing(_) => hint("build the image again", REFUSED),
        layout::Error::Document(error) => of_document(error),
        layout::Error::Store(error) => of_store(error),
    }
}

pub(super) fn of_document(error: &oci::Error) -> Advice {
    match error {
        oci::Error::Malformed { .. } | oci::Error::NoImage(_) => {
            hint("check that the reference names a container image", INPUT)
        }
        oci::Error::Architecture { .. } | oci::Error::OtherArchitecture { .. } => hint(
            "choose another `--arch`, or a base that has this one",
            INPUT,
        ),
        oci::Error::Layer { .. } => hint(
            "Lambda takes gzip layers alone: have the base made again with gzip",
            INPUT,
        ),
    }
}

fn of_host_base(error: &host_base::Error) -> Advice {
    match error {
        host_base::Error::NotGlibc { .. } => hint(
            "Lambda's wheels are made for glibc: take a base from a registry, or another interpreter",
            USAGE,
        ),
        host_base::Error::NoLibrary { .. } | host_base::Error::Absent { .. } => hint(
            "install what is missing, or take a base from a registry",
            USAGE,
        ),
        host_base::Error::NotElf { .. }
        | host_base::Error::Damaged { .. }
        | host_base::Error::Loop { .. }
        | host_base::Error::Read { .. }
        | host_base::Error::Name { .. }
        | host_base::Error::Path(_)
        | host_base::Error::Tree(_) => hint(
            "name another interpreter by `--interpreter`, or take a base from a registry",
            USAGE,
        ),
    }
}

fn of_interpreter(error: &interpreter::Error) -> Advice {
    match error {
        interpreter::Error::Run { .. }
        | interpreter::Error::Silent { .. }
        | interpreter::Error::Failed { .. }
        | interpreter::Error::Unreadable { .. } => {
            hint("name another interpreter by `--interpreter`", USAGE)
        }
        interpreter::Error::NotFound { minor, .. } => hint(
            format!(
                "install one (`uv python install 3.{minor}`), name it by `--interpreter`, or choose \
                 another `--python`"
            ),
            USAGE,
        ),
    }
}
