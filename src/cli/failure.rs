//! Any library error → what is said, what to do about it, and the exit code.
//!
//! The library states facts; flags, keys and commands are named only here. Every variant is matched, so
//! that a new one does not compile until its remedy is decided.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use lambimg::aws;
use lambimg::blob_store;
use lambimg::build::pinning::{Asker, Refusal};
use lambimg::build::pins::Bytecode;
use lambimg::build::verify::{Cause, Report};
use lambimg::build::{self, host_base, pins, rebase, running};
use lambimg::config;
use lambimg::http;
use lambimg::lambda::Architecture;
use lambimg::lambda::check::{Finding, NoRule};
use lambimg::lambda::event;
use lambimg::lambda::fleet;
use lambimg::lambda::function;
use lambimg::lambda::sandbox;
use lambimg::oci::{self, layer, layout, reference, unpack};
use lambimg::plan;
use lambimg::python::index::{self, settings};
use lambimg::python::{fetch, interpreter, lock, pyproject, requirements, resolve, source, wheel};
use lambimg::registry;
use lambimg::registry::auth::{self, Source};

/// The exit codes as `--help` tells them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   findings, refused, or a function's error
  2   usage or configuration
  3   the input cannot be built (no wheel for the target, hash differs)
  4   network or registry
  5   AWS
  70  a bug in lambimg
  130, 143  interrupted, terminated";

/// Findings, or refused.
pub(crate) const REFUSED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
const INPUT: u8 = 3;
const NETWORK: u8 = 4;
const AWS: u8 = 5;
/// A bug of ours.
pub(crate) const BUG: u8 = 70;

/// What the user is told, and what the shell.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The fact.
    pub(crate) message: String,
    /// What led to it, outermost first.
    pub(crate) causes: Vec<String>,
    /// The remedy.
    pub(crate) hint: Option<String>,
    /// The exit code.
    pub(crate) code: u8,
}

/// The remedy and the code.
type Advice = (Option<String>, u8);

fn hint(text: impl Into<String>, code: u8) -> Advice {
    (Some(text.into()), code)
}

impl Failure {
    fn new(error: &dyn StdError, (hint, code): Advice) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            // Some end in a line of their own.
            causes.push(cause.to_string().trim_end().to_owned());
            next = cause.source();
        }
        Self {
            message: error.to_string(),
            causes,
            hint,
            code,
        }
    }

    fn plain(message: String, advice: Advice) -> Self {
        Self {
            message,
            causes: Vec::new(),
            hint: advice.0,
            code: advice.1,
        }
    }

    /// There is nowhere to keep the store.
    pub(crate) fn no_cache_directory() -> Self {
        Self::plain(
            "there is no directory for the store: neither LAMBIMG_CACHE_DIR nor HOME is set".into(),
            hint(
                "set LAMBIMG_CACHE_DIR to a directory that lambimg may write to",
                USAGE,
            ),
        )
    }

    /// Credentials for a registry are given in part.
    pub(crate) fn incomplete_credentials(absent: &str) -> Self {
        Self::plain(
            format!("credentials for a registry are given by variables, but `{absent}` is not set"),
            hint(
                "set all of LAMBIMG_REGISTRY (the host they are for), LAMBIMG_REGISTRY_USER and \
                 LAMBIMG_REGISTRY_PASSWORD, or none",
                USAGE,
            ),
        )
    }

    /// Credentials are given for what is no registry.
    pub(crate) fn credentials_of_nowhere(text: &str) -> Self {
        let text = http::redact_name(text);
        Self::plain(
            format!("the variable `LAMBIMG_REGISTRY` is `{text}`, which is no registry's host"),
            hint(
                "write the host as it stands before the first slash of an image's name, with its port if any",
                USAGE,
            ),
        )
    }

    /// The store's limit is no size.
    pub(crate) fn no_cache_size(text: &str) -> Self {
        Self::plain(
            format!("the variable `LAMBIMG_CACHE_SIZE` is `{text}`, which is no size"),
            hint("write a size, as `20GB`, or `none`", USAGE),
        )
    }

    /// A name to push to has no registry.
    pub(crate) fn no_registry(name: &str) -> Self {
        let name = http::redact_name(name);
        Self::plain(
            format!("`{name}` names no registry to push to"),
            hint(
                "give the whole reference, as `lambimg push IMAGE REGISTRY/REPOSITORY:TAG`",
                USAGE,
            ),
        )
    }

    /// A body cannot be read.
    pub(crate) fn no_body(path: &str, error: &io::Error) -> Self {
        let mut failure = Self::plain(
            format!("the body cannot be read from `{path}`"),
            hint(
                "give a file of text in UTF-8, or `@-` for standard input; a body that begins with `@` comes from a file",
                USAGE,
            ),
        );
        failure.causes.push(error.to_string());
        failure
    }

    /// What was compared is not the same.
    pub(crate) fn differs(image: &str, other: &str, report: &Report) -> Self {
        let causes: Vec<_> = report.findings.iter().map(|found| &found.cause).collect();
        let advice = causes.iter().find_map(|cause| cause.as_ref());
        Self::plain(
            format!(
                "`{image}` is {}, and {other} is {}",
                report.first, report.second
            ),
            (advice.map(|cause| of_cause(cause).to_owned()), REFUSED),
        )
    }

    /// A proof takes nothing from the cache.
    pub(crate) fn offline_proof() -> Self {
        Self::plain(
            "`verify` builds with an empty cache, and cannot without a network".to_owned(),
            hint(
                "leave out `--offline`; `--against IMAGE` compares with another image, and builds nothing",
                USAGE,
            ),
        )
    }

    /// What is to be checked is nothing.
    pub(crate) fn neither_image_nor_project(text: &str, known: &BTreeSet<String>) -> Self {
        let text = http::redact_name(text);
        let names: Vec<_> = known.iter().map(String::as_str).collect();
        let known = if names.is_empty() {
            "which is empty".to_owned()
        } else {
            format!("only {}", names.join(", "))
        };
        Self::plain(
            format!("`{text}` is neither an image in the store, {known}, nor a directory"),
            hint(
                format!(
                    "an image elsewhere is `docker://{text}`, `oci:DIR`, `oci-archive:FILE` or `docker-archive:FILE`; \
                     a project is its directory's path"
                ),
                USAGE,
            ),
        )
    }

    /// Flags of a build are given for what is built already.
    pub(crate) fn image_is_not_built(image: &str) -> Self {
        let image = http::redact_name(image);
        Self::plain(
            format!("`{image}` is an image, and flags of a build are given"),
            hint(
                "leave them out, or give a project's directory, as `./app`; an image may have `--arch` alone",
                USAGE,
            ),
        )
    }

    /// There is no other system that runs functions.
    pub(crate) fn not_linux() -> Self {
        Self::new(
            &sandbox::Error::NotLinux,
            of_sandbox(&sandbox::Error::NotLinux),
        )
    }

    /// This is a machine that Lambda has none of.
    pub(crate) fn no_such_machine(kind: &str) -> Self {
        Self::plain(
            format!("Lambda has functions on x86_64 and arm64, and this machine is {kind}"),
            hint("run it on one of these; all other verbs work here", USAGE),
        )
    }

    /// A function is for other machines than this one.
    pub(crate) fn other_machine(wanted: Architecture, machine: Architecture) -> Self {
        Self::plain(
            format!("the function is to be for {wanted}, and this machine is {machine}"),
            hint(
                format!("`--arch {machine}` builds it for this machine"),
                USAGE,
            ),
        )
    }

    /// An image has no files that change.
    pub(crate) fn nothing_to_watch() -> Self {
        Self::plain(
            "`--watch` is for a project, and this is an image".to_owned(),
            hint(
                "give the project's directory, as `./app`, or leave it out",
                USAGE,
            ),
        )
    }

    /// What a function is to be called with is nothing.
    pub(crate) fn no_event(place: &str, why: &str) -> Self {
        Self::plain(
            format!("{place} has no event: {why}"),
            hint(
                "an event is a JSON document; `lambimg event` lists samples",
                USAGE,
            ),
        )
    }

    /// An event is larger than any that Lambda has.
    pub(crate) fn event_too_large(place: &str, size: usize) -> Self {
        let most = function::MAX_PAYLOAD;
        Self::plain(
            format!("the event in {place} has {size} bytes, and Lambda takes {most}"),
            hint(
                "keep what is large in a bucket, and its key in the event",
                USAGE,
            ),
        )
    }

    /// What is given as the client's context is none.
    pub(crate) fn no_client_context(why: &str) -> Self {
        Self::plain(
            format!("`--client-context` is none: {why}"),
            hint(
                "give a JSON object of at most 2,686 bytes, or the file that has it",
                USAGE,
            ),
        )
    }

    /// A file of variables is none.
    pub(crate) fn no_variables(path: &Path, why: &str) -> Self {
        Self::plain(
            format!("cannot take the variables in `{}`: {why}", path.display()),
            hint(
                "write NAME=VALUE a line, without `export` and quotes",
                USAGE,
            ),
        )
    }

    /// A variable is none.
    pub(crate) fn no_variable(text: &str, why: &str) -> Self {
        // Never the value, which may be a secret.
        let name = text.split('=').next().unwrap_or_default();
        Self::plain(
            format!("`--env {name}` sets no variable: {why}"),
            hint(
                "write NAME=VALUE, or NAME alone for the value that it has here",
                USAGE,
            ),
        )
    }

    /// A variable is to be handed on that nobody has set.
    pub(crate) fn variable_not_set(name: &str) -> Self {
        Self::plain(
            format!("`--env {name}` names a variable that is not set here"),
            hint(
                format!("set it, or give the value, as `--env {name}=VALUE`"),
                USAGE,
            ),
        )
    }

    /// A port cannot be had.
    pub(crate) fn cannot_listen(port: u16, error: &io::Error) -> Self {
        Self::plain(
            format!("cannot listen on port {port}: {error}"),
            hint("choose another by `--port`; 0 is any that is free", USAGE),
        )
    }

    /// A form that rules or findings are not told in.
    pub(crate) fn no_rules_to_tell(format: &str) -> Self {
        let told = if format == "sarif" {
            "findings, and not rules alone"
        } else {
            "the list of rules, and not findings"
        };
        Self::plain(
            format!("`--format {format}` is for {told}"),
            hint("take `text` or `json`", USAGE),
        )
    }

    /// There is no job to tell.
    pub(crate) fn no_github_job(variable: &str) -> Self {
        Self::plain(
            format!(
                "`--github` is for jobs of GitHub's actions, and the variable `{variable}` is not set"
            ),
            hint(
                "leave it out elsewhere: `--metadata-file FILE` has all of it as JSON",
                USAGE,
            ),
        )
    }

    /// A file that was asked for cannot be written.
    pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Self {
        Self::plain(
            format!("cannot write `{}`: {error}", path.display()),
            hint(
                "the image itself is in the store; name another path for the file",
                REFUSED,
            ),
        )
    }

    /// There is no room of this run's own.
    pub(crate) fn no_directory(path: &Path, error: &io::Error) -> Self {
        Self::plain(
            format!("cannot make a directory in `{}`: {error}", path.display()),
            hint(
                "set TMPDIR to a directory that lambimg may write to",
                REFUSED,
            ),
        )
    }

    /// A variable is not of text.
    pub(crate) fn variable_is_no_text(name: &str) -> Self {
        Self::plain(
            format!("the variable `{name}` is not UTF-8"),
            hint("set it to text, or unset it", USAGE),
        )
    }

    /// A file with settings of pip or uv cannot be read.
    pub(crate) fn cannot_read_settings(path: &Path, error: &io::Error) -> Self {
        Self::plain(
            format!(
                "cannot read the settings of indexes in `{}`: {error}",
                path.display()
            ),
            hint("check the file's permissions; pip or uv read it too", USAGE),
        )
    }

    /// What pip is to trust is nothing to trust.
    pub(crate) fn no_certificates(from: &str, path: &Path, why: &str) -> Self {
        Self::plain(
            format!(
                "cannot read the certificates in `{}`, which {from} names: {why}",
                path.display()
            ),
            hint("name a file of certificates in PEM, or unset it", USAGE),
        )
    }

    /// Nobody takes the results.
    pub(crate) fn cannot_print(error: &io::Error) -> Self {
        Self::plain(format!("cannot write to stdout: {error}"), (None, REFUSED))
    }

    /// A signal ended the work; the code is the one that shells give.
    pub(crate) fn signalled(signal: i32) -> Self {
        let code = u8::try_from(128 + signal).unwrap_or(REFUSED);
        Self::plain(
            "interrupted: no name was given to anything that is not whole".to_owned(),
            (None, code),
        )
    }

    /// What should not happen did.
    pub(crate) fn bug(message: &str) -> Self {
        Self::plain(message.to_owned(), (None, BUG))
    }
}

/// A panic is a bug, and says so with its exit code.
pub(crate) fn exit_70_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        #[expect(clippy::exit, reason = "a panic has no way back to main")]
        std::process::exit(BUG.into());
    }));
}

impl From<settings::Error> for Failure {
    fn from(error: settings::Error) -> Self {
        let advice = match &error {
            settings::Error::Url { .. } => {
                hint("write a whole URL, as https://index.example/simple", USAGE)
            }
            settings::Error::Toml { .. } => hint("mend the line; see https://toml.io", USAGE),
        };
        Self::new(&error, advice)
    }
}

impl From<reference::ParseError> for Failure {
    fn from(error: reference::ParseError) -> Self {
        Self::new(
            &error,
            hint("write a name as REGISTRY/REPOSITORY:TAG", USAGE),
        )
    }
}

impl From<http::Error> for Failure {
    fn from(error: http::Error) -> Self {
        Self::new(&error, of_http(&error))
    }
}

impl From<blob_store::Error> for Failure {
    fn from(error: blob_store::Error) -> Self {
        Self::new(&error, of_store(&error))
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let advice = match &error {
            config::Error::NoProject(_) => hint(
                "name the directory that holds the function, as `lambimg build PATH`",
                USAGE,
            ),
            config::Error::Read { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                hint("save the file as UTF-8", USAGE)
            }
            config::Error::Read { .. } => hint("check the file's permissions", USAGE),
            config::Error::Syntax { .. } => hint("mend the line; see https://toml.io", USAGE),
            config::Error::UnknownKey {
                nearest: Some(nearest),
                ..
            } => hint(format!("did you mean `{nearest}`?"), USAGE),
            config::Error::UnknownKey { nearest: None, .. } => {
                hint("remove it; the README lists the keys", USAGE)
            }
            config::Error::UnknownVariable { nearest, .. } => hint(
                nearest.as_ref().map_or_else(
                    || "unset it; the README lists the settings".to_owned(),
                    |nearest| format!("did you mean `{nearest}`?"),
                ),
                USAGE,
            ),
            config::Error::Kind { wanted, .. } => hint(
                format!("write {wanted}, as `python = \"3.12\"` or `tags = [\"orders\"]`"),
                USAGE,
            ),
            config::Error::TwoFiles => hint(
                format!(
                    "move everything into `{}` or into `pyproject.toml`",
                    config::OWN_FILE
                ),
                USAGE,
            ),
        };
        Self::new(&error, advice)
    }
}

impl From<running::Error> for Failure {
    fn from(error: running::Error) -> Self {
        let advice = match &error {
            running::Error::Machine { machine, .. } => hint(
                format!("take the image for {machine}, or build the project by `--arch {machine}`"),
                USAGE,
            ),
            running::Error::NoCommand => hint(
                "name what is to be executed, as `lambimg invoke IMAGE app.handler`",
                USAGE,
            ),
            running::Error::Unpack(error) => of_unpack(error),
            running::Error::Build(error) => of_build(error),
        };
        Self::new(&error, advice)
    }
}

impl From<fleet::Error> for Failure {
    fn from(error: fleet::Error) -> Self {
        let advice = match &error {
            fleet::Error::Place(error) => of_sandbox(error),
            fleet::Error::Ended => (None, REFUSED),
        };
        Self::new(&error, advice)
    }
}

fn of_unpack(error: &unpack::Error) -> Advice {
    match error {
        unpack::Error::Read(..) => hint(
            "the disk or the archive may be at fault; try again",
            REFUSED,
        ),
        unpack::Error::Write { source, .. } => of_write(source),
        unpack::Error::Packing(_) => hint(
            "Lambda takes gzip alone: have its image made again, as `lambimg check` says",
            INPUT,
        ),
        unpack::Error::Damaged(..) | unpack::Error::Mismatch { .. } => hint(
            "fetch or build the image again; `lambimg check` says more of it",
            INPUT,
        ),
        unpack::Error::Entry { .. } => {
            hint("have its image made again, as `lambimg check` says", INPUT)
        }
    }
}

fn of_sandbox(error: &sandbox::Error) -> Advice {
    match error {
        sandbox::Error::NotLinux => hint(
            "run it in a virtual machine or a container with Linux; all other verbs work here",
            USAGE,
        ),
        sandbox::Error::Helper { source, .. }
        | sandbox::Error::Setup { source, .. }
        | sandbox::Error::Refused { source, .. }
            if is_out_of_files(source) =>
        {
            hint(
                "each environment takes a dozen open files: allow more with `ulimit -n`, or give a lower `--concurrency`",
                REFUSED,
            )
        }
        sandbox::Error::Helper { .. } => hint(
            "is /proc mounted? lambimg executes itself through it",
            REFUSED,
        ),
        sandbox::Error::NoUserNamespaces {
            setting: Some(setting),
            ..
        } => hint(
            format!("have an administrator allow them: see `sysctl {setting}`"),
            REFUSED,
        ),
        sandbox::Error::NoUserNamespaces { setting: None, .. } => hint(
            "a container's filter may forbid them: start it with `--security-opt seccomp=unconfined`, or run lambimg \
             outside of it",
            REFUSED,
        ),
        sandbox::Error::Mount { what, source }
            if what == "`/proc`" && source.kind() == io::ErrorKind::PermissionDenied =>
        {
            hint(
                "a container whose own /proc is masked allows no other: start it with `--security-opt \
                 systempaths=unconfined`, or run lambimg outside of it",
                REFUSED,
            )
        }
        sandbox::Error::Mount { .. } => hint(
            "functions need Linux 5.11 or later, and a store on a file system that overlays can be made of: set \
             LAMBIMG_CACHE_DIR to a directory on ext4, xfs, btrfs or tmpfs",
            REFUSED,
        ),
        sandbox::Error::Setup { .. } | sandbox::Error::Refused { .. } | sandbox::Error::Gone => {
            (None, REFUSED)
        }
    }
}

/// Whether this process, or the machine, has as many files open as it may.
fn is_out_of_files(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    errno.is_some_and(|errno| [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].contains(&errno))
}

impl From<NoRule> for Failure {
    fn from(error: NoRule) -> Self {
        Self::new(&error, of_no_rule(&error))
    }
}

fn of_no_rule(error: &NoRule) -> Advice {
    let list = "`lambimg check --list` has all";
    match error.nearest {
        Some(nearest) => hint(format!("did you mean `{nearest}`? {list}"), USAGE),
        None => hint(list, USAGE),
    }
}

impl From<event::Error> for Failure {
    fn from(error: event::Error) -> Self {
        let advice = match &error {
            event::Error::NoSource { nearest, .. } => hint(
                format!("did you mean `{nearest}`? `lambimg event` has all"),
                USAGE,
            ),
            event::Error::Without { source_name, .. } => hint(
                format!(
                    "`lambimg event {source_name}` prints it; `--set PLACE=VALUE` changes what is there"
                ),
                USAGE,
            ),
            event::Error::NoJson { .. } => hint(
                "give JSON, as `--body '{\"order\": 17}'`; a text is in quotation marks there",
                USAGE,
            ),
            event::Error::Nowhere { .. } => hint(
                "write names and numbers with dots between, as `Records.0.body`; a dot in a name is `\\.`",
                USAGE,
            ),
        };
        Self::new(&error, advice)
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
            plan::Error::NoHandler => hint(
                "name the function that Lambda calls: `--handler app.handler` or `handler = \
                 \"app.handler\"` under `[tool.lambimg]` in pyproject.toml",
                USAGE,
            ),
            plan::Error::Handler { .. } => hint(
                "write MODULE.FUNCTION, as `app.handler` for `def handler` in app.py",
                USAGE,
            ),
            plan::Error::Python { .. } => hint("`lambimg bases` lists the runtimes", USAGE),
            plan::Error::Value { .. } => hint("give one of these", USAGE),
            plan::Error::Name { .. } => hint(
                "write a name as REPOSITORY:TAG or REGISTRY/REPOSITORY:TAG",
                USAGE,
            ),
            plan::Error::NameWithDigest { .. } => hint("leave out what follows the `@`", USAGE),
            plan::Error::Output(_) => hint(
                "say what to write and where, as `-o oci-archive:image.tar`",
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
            plan::Error::NoRule { error, .. } => of_no_rule(error),
            plan::Error::Epoch(_) => hint(
                "unset it, or set it as `git log -1 --format=%ct` prints it",
                USAGE,
            ),
        };
        Self::new(&error, advice)
    }
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

fn of_build(error: &build::Error) -> Advice {
    match error {
        build::Error::HandlerAbsent { .. } => hint(
            "check the spelling and the project's path; `lambimg build --dry-run` lists the files that go into \
             the image, and `--handler-in-base` says that the base has it",
            USAGE,
        ),
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
        build::Error::BaseGone { source, .. } => {
            let (_, code) = of_registry(source);
            hint(
                "`lambimg lock --upgrade-base` takes what the tag is now",
                code,
            )
        }
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
        build::Error::RequiredHash { .. } => hint(
            "the index has another file than the one you trusted: look before you take it, then put its hash \
             into the requirements",
            INPUT,
        ),
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
        build::Error::Interrupted => (None, REFUSED),
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
        build::Error::Registry(error) => of_registry(error),
        build::Error::PartlyPushed { source, .. } => of_registry(source),
        build::Error::Http(error) => of_http(error),
        build::Error::Store(error) => of_store(error),
    }
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
        rebase::Refusal::NoBase | rebase::Refusal::OtherLayers { .. } => {
            hint("build it again on the new base", REFUSED)
        }
        rebase::Refusal::NoBaseName(_) => hint(
            "name the new base by `--onto`; where the old one is in no registry, build again on the new one",
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
fn of_cause(cause: &Cause) -> &'static str {
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

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The command that makes a lock of this name anew, where only one tool writes such locks.
fn lock_command(name: &str) -> Option<&'static str> {
    match name {
        "uv.lock" => Some("uv lock"),
        "poetry.lock" => Some("poetry lock"),
        "pdm.lock" => Some("pdm lock"),
        "Pipfile.lock" => Some("pipenv lock"),
        _ => None,
    }
}

/// How a lock is made anew.
fn lock_again(lock: Option<&Path>) -> String {
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

fn of_requirements(error: &requirements::Error) -> Advice {
    match error {
        requirements::Error::Read { .. } => {
            hint("check the path that the requirements name", USAGE)
        }
        requirements::Error::Project { source, .. } => match source {
            pyproject::Error::Form(_) => hint(
                "mend it; see https://packaging.python.org/en/latest/specifications/pyproject-toml/",
                USAGE,
            ),
            pyproject::Error::Unknown { .. } => hint("name one of these, or add it", USAGE),
            pyproject::Error::Cycle(_) => hint("leave one of the `include-group` out", USAGE),
            pyproject::Error::RequiresPython { .. } => hint(
                "choose another `--python`, or widen `requires-python`",
                USAGE,
            ),
            pyproject::Error::NeedsUv(_) => hint(
                "install uv (https://docs.astral.sh/uv, or `pip install uv`), or write what it says into the \
                 dependencies themselves",
                USAGE,
            ),
        },
    }
}

fn of_function(error: &build::function::Error) -> Advice {
    match error {
        build::function::Error::Read { .. } => hint("check the file's permissions", USAGE),
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
        build::function::Error::Tree(_) => hint("leave one of the two out by `exclude`", INPUT),
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

fn of_write(error: &io::Error) -> Advice {
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

fn of_store(error: &blob_store::Error) -> Advice {
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

fn of_layout(error: &layout::Error) -> Advice {
    match error {
        layout::Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            hint("check the spelling of the path", USAGE)
        }
        layout::Error::Io { source, .. } if is_damage(source) => {
            hint("build the image again", REFUSED)
        }
        layout::Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => hint(
            "make room there (`lambimg cache prune` does where the store is); nothing half written was kept",
            REFUSED,
        ),
        layout::Error::Io { .. } => hint("check the path and its permissions", REFUSED),
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

fn of_document(error: &oci::Error) -> Advice {
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

fn of_http(error: &http::Error) -> Advice {
    match error {
        http::Error::Offline { .. } => hint(
            "build once without `--offline`; what is in the cache then needs no network",
            NETWORK,
        ),
        http::Error::Resolve { .. } => hint(
            "check the spelling of the host, and the machine's network",
            NETWORK,
        ),
        http::Error::Connect { reason, .. } if reason.contains("certificate") => hint(
            "name the file of its authority by `--ca-file` or in SSL_CERT_FILE, PIP_CERT or REQUESTS_CA_BUNDLE; certificates are \
             always checked, whatever PIP_TRUSTED_HOST and UV_INSECURE_HOST say",
            NETWORK,
        ),
        http::Error::Connect { .. } => hint(
            "check that it runs there and speaks TLS (`--plain-http HOST` if it does not), and the \
             proxy variables",
            NETWORK,
        ),
        http::Error::Exchange { .. }
        | http::Error::TooLarge { .. }
        | http::Error::Redirect { .. } => hint(
            "try again; if it stays, the fault is at the other end or in a proxy between",
            NETWORK,
        ),
        http::Error::Setup(_) => hint("check the machine's CA certificates", NETWORK),
    }
}

fn of_registry(error: &registry::Error) -> Advice {
    match error {
        registry::Error::Http(error) => of_http(error),
        registry::Error::Unauthorized {
            registry,
            credentials,
            ..
        } => hint(login_hint(registry, *credentials), NETWORK),
        registry::Error::NotFound { .. } => {
            hint("check the spelling of the repository and the tag", NETWORK)
        }
        registry::Error::NoRepository {
            registry,
            repository,
            ..
        } => hint(create_hint(registry, repository), NETWORK),
        registry::Error::Create { source, .. } => of_aws(source),
        registry::Error::TagTaken { refusal: None, .. } => hint(
            "push under another tag, push by digest alone (as `REPOSITORY@sha256:…`), or move the tag by `--force`",
            REFUSED,
        ),
        registry::Error::TagTaken {
            refusal: Some(words),
            ..
        } => hint(
            format!(
                "the registry lets no tag move ({words}): push under another tag, or by digest alone (as \
                 `REPOSITORY@sha256:…`)"
            ),
            REFUSED,
        ),
        registry::Error::Status { .. } => hint(
            "the registry's words say what it minds; try again if it was busy",
            NETWORK,
        ),
        registry::Error::Elsewhere { .. } => hint(
            "the registry chose that address, and none of your credentials go there: try again; if it stays, ask who \
             runs the registry",
            NETWORK,
        ),
        registry::Error::Protocol { .. }
        | registry::Error::Digest { .. }
        | registry::Error::Length { .. } => hint(
            "try again; if it stays, the fault is at the registry or in a proxy between",
            NETWORK,
        ),
        registry::Error::Document { source, .. } => of_document(source),
        registry::Error::Credentials(error) => of_credentials(error),
        registry::Error::Store(error) => of_store(error),
        registry::Error::Missing(_) | registry::Error::Read { .. } => {
            hint("build the image again, then push", REFUSED)
        }
    }
}

/// How a repository is made: ECR's by a command, others by whoever runs them.
fn create_hint(registry: &str, repository: &str) -> String {
    let Some(ecr) = aws::ecr::Registry::parse(registry) else {
        return "create the repository first, and check its spelling".to_owned();
    };
    let (name, region) = (ecr.name_of(repository), ecr.region());
    let service = if ecr.is_public() { "ecr-public" } else { "ecr" };
    let account = ecr.account();
    let account = account.map(|account| format!("; it is to be in the account {account}"));
    format!(
        "push with `--create-repository`, or create it by `aws {service} create-repository --repository-name \
         {name} --region {region}`{}",
        account.unwrap_or_default()
    )
}

fn login_hint(registry: &str, credentials: Source) -> String {
    let stored = format!(
        "where Docker's config has credentials for it, `docker logout {registry}` has AWS's own used"
    );
    match credentials {
        Source::Explicit => "the credentials in LAMBIMG_REGISTRY_USER and LAMBIMG_REGISTRY_PASSWORD are refused: mend \
             the variables, unset them, or check what these credentials may do"
            .to_owned(),
        _ if aws::ecr::Registry::parse(registry).is_some_and(|ecr| !ecr.is_public()) => format!(
            "check what the role or user and the repository's policy allow (`ecr:BatchGetImage` and \
             `ecr:GetDownloadUrlForLayer` to pull, `ecr:BatchCheckLayerAvailability`, \
             `ecr:InitiateLayerUpload`, `ecr:UploadLayerPart`, `ecr:CompleteLayerUpload` and `ecr:PutImage` \
             to push); {stored}"
        ),
        Source::Aws => "check what the role or user may do: `ecr-public:*` with `sts:GetServiceBearerToken` to push to \
             the public gallery"
            .to_owned(),
        Source::Stored => format!(
            "the credentials in Docker's config are refused: run `docker login {registry}` again, or check what \
             they may do"
        ),
        Source::Anonymous => format!(
            "no credentials were found in Docker's config: run `docker login {registry}`"
        ),
    }
}

fn of_aws(error: &aws::Error) -> Advice {
    match error {
        aws::Error::NotBuiltIn { registry } => hint(
            format!(
                "install a lambimg that was built with its feature `aws`, or log in by another program: \
                 `aws ecr get-login-password | docker login --username AWS --password-stdin {registry}`"
            ),
            AWS,
        ),
        aws::Error::NoCredentials { .. } => hint(
            "log in with `aws sso login`, name a profile in AWS_PROFILE, or set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY; in GitHub's actions give the job `permissions: id-token: write` and run \
             aws-actions/configure-aws-credentials before",
            AWS,
        ),
        aws::Error::Credentials { detail, .. } => hint(
            if detail.to_ascii_lowercase().contains("sso") || detail.contains("Session token") {
                "log in again with `aws sso login --profile NAME`, where NAME is what AWS_PROFILE says"
            } else {
                "check the profile that AWS_PROFILE names, the role that it assumes and who may assume it; in \
                 GitHub's actions the job needs `permissions: id-token: write`"
            },
            AWS,
        ),
        aws::Error::Expired { .. } => hint(
            "have new ones: `aws sso login --profile NAME`, or new keys in the variables AWS_ACCESS_KEY_ID, \
             AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            AWS,
        ),
        aws::Error::Denied { action, code, .. } => hint(of_denial(action, code), AWS),
        aws::Error::Answer { .. } => hint(
            "AWS's words say what it minds; try again if it was busy",
            AWS,
        ),
        aws::Error::Endpoint { .. } => hint(
            "mend AWS_ENDPOINT_URL_ECR, AWS_ENDPOINT_URL_ECR_PUBLIC, AWS_ENDPOINT_URL or `endpoint_url` in the \
             profile; `--plain-http HOST` allows one without TLS",
            USAGE,
        ),
        aws::Error::Http(error) => of_http(error),
    }
}

fn of_denial(action: &str, code: &str) -> String {
    match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "OptInRequired" => format!(
            "have `{action}` allowed for the role or user that AWS's words name, or choose another by AWS_PROFILE"
        ),
        "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            "check AWS_SECRET_ACCESS_KEY or the profile's secret key, and the machine's clock".to_owned()
        }
        "RequestExpired" | "RequestTimeTooSkewed" => {
            "set the machine's clock right: AWS takes requests of some minutes ago at most".to_owned()
        }
        _ => "the keys are not valid there: check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or choose a profile by \
              AWS_PROFILE"
            .to_owned(),
    }
}

fn of_credentials(error: &auth::Error) -> Advice {
    match error {
        auth::Error::Config { .. } => hint("mend the file, or run `docker login` again", USAGE),
        auth::Error::Helper { .. } => hint(
            "install or mend it, or take it out of Docker's config.json",
            NETWORK,
        ),
        auth::Error::Challenge { .. } => hint(
            "it should ask by Basic or by Bearer with an address of TLS",
            NETWORK,
        ),
        auth::Error::TokenServer {
            registry,
            credentials,
            ..
        } => hint(login_hint(registry, *credentials), NETWORK),
        auth::Error::OtherSite { registry, server } => hint(
            format!(
                "credentials go to the registry's own site alone: have `{registry}` name a token server there, or \
                 reach both by one host, through a proxy; if `{server}` is known to be its token server, report \
                 the two"
            ),
            NETWORK,
        ),
        auth::Error::Aws(error) => of_aws(error),
        auth::Error::Http(error) => of_http(error),
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

fn of_lock(error: &lock::Error, lock: Option<&Path>) -> Advice {
    match error {
        lock::Error::NoWheel(error) if error.sources.is_some() => hint(
            format!(
                "pin a version that has such a wheel, choose another `--python` or `--arch`, or have it built \
                 by `build = [\"{name}\"]` (`--build {name}`), which runs what is in it",
                name = error.package
            ),
            INPUT,
        ),
        lock::Error::NoWheel(error) if error.offered.is_empty() => hint(lock_again(lock), INPUT),
        lock::Error::NoWheel(_) => hint(
            "pin a version that has such a wheel, choose another `--python` or `--arch`, or build a \
             wheel for the target and lock that",
            INPUT,
        ),
        lock::Error::RequiresPython { .. }
        | lock::Error::Environment { .. }
        | lock::Error::PackagePython { .. } => hint(
            "lock again for this target, or choose another `--python` or `--arch`",
            INPUT,
        ),
        lock::Error::Unknown { .. } => hint(
            "check the spelling, and lock again if it is new to the project",
            USAGE,
        ),
        lock::Error::Uv(error) => of_uv_lock(error),
        lock::Error::Missing { .. } => hint(lock_again(lock), INPUT),
        lock::Error::NoProject { .. } => hint("put the project's pyproject.toml beside it", USAGE),
        lock::Error::Format { .. } => hint(
            format!(
                "{} with a current release of the tool; a newer lambimg may know this version",
                lock_again(lock)
            ),
            USAGE,
        ),
        lock::Error::Unreadable { file, .. } => match lock_command(file) {
            Some(_) => hint(format!("mend it, or {}", lock_again(lock)), USAGE),
            None => hint("mend it; see https://toml.io", USAGE),
        },
        lock::Error::Constraint { .. } => hint(
            format!("mend it in pyproject.toml and {}", lock_again(lock)),
            USAGE,
        ),
        lock::Error::Hash { algorithms, .. }
            if algorithms.is_empty() && lock.is_some_and(|lock| file_name(lock) == "uv.lock") =>
        {
            hint(
                "uv locks no hashes of what it finds in a directory: name the wheel itself in \
                 `tool.uv.sources`, as `NAME = { path = \"wheels/NAME.whl\" }`, and lock again by `uv lock`",
                USAGE,
            )
        }
        lock::Error::SeveralHashes { .. } => hint(
            "leave only the hash of that very file in the lock, or take the package from an index",
            USAGE,
        ),
        lock::Error::Version(_) => hint("a newer lambimg may know this version", USAGE),
        lock::Error::Syntax(_) => hint(format!("mend it, or {}", lock_again(lock)), USAGE),
        lock::Error::EnvironmentMarker(_)
        | lock::Error::Marker { .. }
        | lock::Error::Ambiguous { .. }
        | lock::Error::Hash { .. }
        | lock::Error::Digest { .. }
        | lock::Error::Location { .. } => hint(lock_again(lock), USAGE),
    }
}

fn of_uv_lock(error: &lock::uv::Error) -> Advice {
    match error {
        lock::uv::Error::Version(_) => hint("lock again by a uv that writes version 1", USAGE),
        lock::uv::Error::NoProject { .. } => hint(
            "name a directory that has a project of the workspace, or lock again by `uv lock`",
            USAGE,
        ),
        lock::uv::Error::Conflict { .. } => hint("want only one of them", USAGE),
        lock::uv::Error::Syntax(_)
        | lock::uv::Error::Stale { .. }
        | lock::uv::Error::Dependency { .. } => hint("lock again by `uv lock`", USAGE),
    }
}

fn of_source(error: &source::Error) -> Advice {
    match error {
        source::Error::NoBuilder { .. } => hint(
            "install uv (https://docs.astral.sh/uv, or `pip install uv`) and a Python, or pin a version that \
             has a wheel",
            USAGE,
        ),
        source::Error::NoGit { .. } => hint(
            "install git, or depend on a release of it from an index",
            USAGE,
        ),
        source::Error::Offline { .. } => hint(
            "build once without `--offline`; what was built is then in the cache",
            NETWORK,
        ),
        source::Error::Run { .. } => hint("install the program again", USAGE),
        source::Error::Repository { .. } => hint(
            "git's words above say what it minds: check the address, what you may read there, and that the \
             commit still is there",
            NETWORK,
        ),
        source::Error::Failed { .. } => hint(
            "the builder's words above say what it misses; where it is a compiler or a library, install that, \
             or pin a version that has a wheel for the target",
            INPUT,
        ),
        source::Error::Place { .. } => hint("lock again", USAGE),
        source::Error::Outcome { .. } => hint(
            "lock again; if it stays, its build is at fault: pin another version",
            INPUT,
        ),
        source::Error::Compiled { .. } => hint(
            "build on such a machine with such a Python (an arm64 runner in CI, a manylinux container), or \
             pin a version that has a wheel for the target",
            INPUT,
        ),
        source::Error::Misfit { .. } | source::Error::Unloadable { .. } => hint(
            "build on a machine like the target, as in a manylinux container, or pin a version that has a \
             wheel for the target",
            INPUT,
        ),
        source::Error::Filename(_) => hint("its build is at fault: pin another version", INPUT),
        source::Error::Directory(_) => hint("check the path and its permissions", USAGE),
        source::Error::Exchange { .. } => hint(
            "check that there is room and leave to write in the temporary directory",
            REFUSED,
        ),
        source::Error::Fetch(error) => of_fetch(error),
        source::Error::Store(error) => of_store(error),
        source::Error::Interrupted => (None, REFUSED),
    }
}

/// The project can do without a wheel of its own.
fn of_project(error: &source::Error) -> Advice {
    match of_source(error) {
        _ if matches!(error, source::Error::NoBuilder { .. }) => hint(
            "install uv (https://docs.astral.sh/uv, or `pip install uv`) and a Python, or have the project's \
             files taken as they are by `package = false` (`--package false`)",
            USAGE,
        ),
        (Some(_), code @ (USAGE | INPUT)) => hint(
            "mend its build, or have its files taken as they are by `package = false` (`--package false`)",
            code,
        ),
        advice => advice,
    }
}

fn of_fetch(error: &fetch::Error) -> Advice {
    match error {
        fetch::Error::Http { source, .. } => of_http(source),
        fetch::Error::Refused {
            host,
            with_credentials,
            ..
        } => hint(credentials_hint(host, *with_credentials), NETWORK),
        fetch::Error::Status { .. } => {
            hint("the file is gone: lock again, or check the index", NETWORK)
        }
        fetch::Error::Hash { .. } => hint(
            "nothing of it was kept: if the file was replaced on purpose, lock again; else do not \
             trust its source",
            INPUT,
        ),
        fetch::Error::Read { .. } => hint("check the path in the lock", USAGE),
        fetch::Error::Scheme { .. } => hint("lock it from an index, or from a file", USAGE),
        fetch::Error::Store(error) => of_store(error),
    }
}

fn of_index(error: &index::Error) -> Advice {
    match error {
        index::Error::Http { source, .. } => of_http(source),
        index::Error::Refused {
            host,
            with_credentials,
            ..
        } => hint(credentials_hint(host, *with_credentials), NETWORK),
        index::Error::Status { .. } | index::Error::Page { .. } => hint(
            "check the index's URL, which has to be that of its simple API, as https://pypi.org/simple",
            NETWORK,
        ),
        index::Error::Read { .. } => hint("check the path and its permissions", USAGE),
        index::Error::NotFound { offered, .. } if !offered.is_empty() => hint(
            "the index has another file than the one you trusted: look before you take it, then lock again",
            INPUT,
        ),
        index::Error::NotFound { .. } => hint(
            "name the index that has it, by UV_INDEX or PIP_EXTRA_INDEX_URL, or lock again",
            INPUT,
        ),
        index::Error::NoHashes { .. } => hint(
            "name an index that lists hashes, or lock to a pylock.toml",
            INPUT,
        ),
        index::Error::Store(error) => of_store(error),
    }
}

fn credentials_hint(host: &str, with_credentials: bool) -> String {
    let name = host.split(':').next().unwrap_or(host);
    if with_credentials {
        format!(
            "check that the password or token for {host} still holds; it stands in the index's URL, in \
             UV_INDEX_NAME_PASSWORD or in ~/.netrc"
        )
    } else {
        format!(
            "write `machine {name} login USER password PASSWORD` into ~/.netrc, or put both into the index's URL \
             (UV_DEFAULT_INDEX, PIP_INDEX_URL, pip.conf), as https://USER:PASSWORD@{host}/simple"
        )
    }
}

fn of_wheel(error: &wheel::Error) -> Advice {
    match error {
        wheel::Error::Version(_) => hint("a newer lambimg may know this format", INPUT),
        wheel::Error::TooLarge(_) => hint("depend on a smaller package", INPUT),
        wheel::Error::Glibc { .. } => hint(
            "pin another version of the package, choose another `--base` or `--python` with a newer \
             glibc, or leave the file out by `exclude-in-packages`",
            INPUT,
        ),
        wheel::Error::Machine { .. } => hint(
            "its name promises what is not in it: pin another version, and tell its publisher",
            INPUT,
        ),
        wheel::Error::Scratch(source) => of_write(source),
        wheel::Error::Archive(_)
        | wheel::Error::Read { .. }
        | wheel::Error::Path(_)
        | wheel::Error::Symlink(_)
        | wheel::Error::NotThisWheel { .. }
        | wheel::Error::TooMany { .. }
        | wheel::Error::Twice(_)
        | wheel::Error::EntryPoint(_)
        | wheel::Error::Scheme(_)
        | wheel::Error::RecordHash { .. }
        | wheel::Error::RecordSize { .. }
        | wheel::Error::RecordTwice(_)
        | wheel::Error::Tree(_) => hint(
            "the wheel is broken or hostile, and nothing of it was taken: pin another version, and \
             tell its publisher",
            INPUT,
        ),
    }
}

fn of_resolve(error: &resolve::Error) -> Advice {
    match error {
        resolve::Error::Requirements(error) => of_requirements(error),
        resolve::Error::Run { .. } => {
            hint("install uv again, or name pip by `--resolver pip`", USAGE)
        }
        resolve::Error::Exchange { .. } => hint(
            "check that there is room and leave to write in the temporary directory",
            REFUSED,
        ),
        resolve::Error::Unresolved { stderr, .. } => of_resolver(stderr),
        resolve::Error::Answer { .. } => hint(
            "update the resolver, or choose the other by `--resolver`",
            INPUT,
        ),
        resolve::Error::OldPip(_) => hint(
            "update it (`pip install --upgrade pip`; Python 3.9 has pip 26.0), or install uv",
            USAGE,
        ),
        resolve::Error::Lock(error) => of_lock(error, None),
        resolve::Error::NotAWheel { .. } | resolve::Error::Filename(_) => {
            hint("publish or build a wheel of it, and require that", INPUT)
        }
    }
}

/// What to do depends on what the resolver minds, which only its words tell.
fn of_resolver(said: &str) -> Advice {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["network was disabled", "unexpected argument '--offline'"]) {
        hint(
            "resolve once without `--offline`; the lock then needs no network",
            INPUT,
        )
    } else if says(&["unexpected argument", "no such option", "unrecognized"]) {
        hint(
            "the resolver is too old for this: update it, or choose the other by `--resolver`",
            USAGE,
        )
    } else if says(&[
        "401 Unauthorized",
        "403 Forbidden",
        "401 Client Error",
        "403 Client Error",
    ]) {
        hint(
            "the index wants credentials: write `machine HOST login USER password PASSWORD` into ~/.netrc, or put \
             both into the index's URL (UV_DEFAULT_INDEX, PIP_INDEX_URL, pip.conf)",
            NETWORK,
        )
    } else if says(&[
        "Failed to fetch",
        "client error",
        "Connection",
        "Retrying",
        "SSL",
    ]) {
        hint(
            "check the network, the index's address and the proxy variables",
            NETWORK,
        )
    } else {
        hint(
            "the resolver's words above say what does not go together; only wheels are taken, so pin a \
             version that has one for this target, choose another `--python`, or allow the package to be \
             built by `--build NAME`",
            INPUT,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lambimg::lambda::check;

    #[test]
    fn what_lambda_would_refuse_is_told_with_reason_and_remedy() {
        let finding = |value: &str| Finding {
            rule: check::rules().next().unwrap(),
            level: check::Level::Error,
            message: format!("the name leads to {value}"),
            layer: None,
            path: None,
            value: None,
            remedy: format!("Do something about {value}."),
        };
        let error = build::Error::Refused(vec![finding("an index"), finding("another")]);
        let failure = Failure::from(error);
        assert_eq!(failure.code, REFUSED);
        insta::assert_snapshot!(format!("{}\n{}", failure.message, failure.hint.unwrap()), @r#"
        Lambda would refuse this image: the name leads to an index (LMB001); the name leads to another (LMB001)
        LMB001: Do something about an index.
          Lambda takes no image index (manifest list), not even of one platform, and answers `InvalidParameterValueException: The image manifest, config or layer media type for the source image is not supported.`; `docker buildx` makes an index when it adds attestations.
        LMB001: Do something about another.
        no name was given to it; `ignore = ["LMB001"]` under `[tool.lambimg.check]` has it built all the same
        "#);
    }

    #[test]
    fn what_keeps_a_sandbox_from_being_made_has_its_own_remedy() {
        let hint_of = |error: sandbox::Error| of_sandbox(&error).0.unwrap();
        let os_error = |errno: rustix::io::Errno| io::Error::from(errno);
        let mount = |what: &str| sandbox::Error::Mount {
            what: what.to_owned(),
            source: os_error(rustix::io::Errno::PERM),
        };
        let masked = hint_of(mount("`/proc`"));
        assert!(masked.contains("systempaths=unconfined"), "{masked}");
        assert!(!masked.contains("LAMBIMG_CACHE_DIR"), "{masked}");
        let layers = hint_of(mount("its layers"));
        assert!(layers.contains("LAMBIMG_CACHE_DIR"), "{layers}");
        let full = hint_of(sandbox::Error::Refused {
            action: "make a pipe",
            source: os_error(rustix::io::Errno::MFILE),
        });
        assert!(full.contains("ulimit -n"), "{full}");
    }

    #[test]
    fn a_repository_of_ecr_is_made_by_a_command() {
        let command = "`aws ecr create-repository --repository-name team/app --region eu-west-1`";
        for host in [
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr-fips.eu-west-1.amazonaws.com",
            "123456789012.dkr-ecr.eu-west-1.on.aws",
        ] {
            let hint = create_hint(host, "team/app");
            assert!(
                hint.contains(command) && hint.contains("--create-repository"),
                "{hint}"
            );
        }
        for host in ["ghcr.io", "registry.test:5000", "public.ecr.aws"] {
            assert!(
                !create_hint(host, "team/app").contains("aws ecr "),
                "{host}"
            );
        }
    }
}
