//! What goes wrong where a function runs on this machine, and with what it is called with.
//!
//! How its image came to be is told elsewhere.

use std::io;
use std::path::Path;

use lambimg::build::running;
use lambimg::lambda::Architecture;
use lambimg::lambda::event;
use lambimg::lambda::fleet;
use lambimg::lambda::function;
use lambimg::lambda::sandbox;
use lambimg::oci::unpack;

use super::build::{of_build, of_write};
use super::{Advice, Failure, INPUT, REFUSED, USAGE, hint};

impl Failure {
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

    /// A variable is Lambda's own.
    pub(crate) fn variable_is_reserved(name: &str) -> Self {
        Self::plain(
            format!("`{name}` is a variable that Lambda reserves"),
            hint(
                "take another name: Lambda takes no function whose configuration has this one",
                USAGE,
            ),
        )
    }

    /// A variable's name is none to Lambda.
    pub(crate) fn no_variable_name(name: &str) -> Self {
        Self::plain(
            format!(
                "`{name}` is no name that Lambda takes for a variable: `[a-zA-Z]([a-zA-Z0-9_])+`"
            ),
            hint(
                "take another name: a letter, and one or more letters, digits and underscores",
                USAGE,
            ),
        )
    }

    /// The variables are more than Lambda takes.
    pub(crate) fn variables_too_large(size: usize) -> Self {
        let most = function::MAX_VARIABLES;
        Self::plain(
            format!("the function's variables have {size} bytes as JSON, and Lambda takes {most}"),
            hint(
                "keep what is large in a file of the image, in Parameter Store or in Secrets Manager",
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

    /// A signal ended calls.
    pub(crate) fn calls_signalled(signal: i32) -> Self {
        Self::interrupted(signal, "not every call was answered")
    }

    /// A signal ended a function that was not served yet, or a second one the time that it had to shut down.
    pub(crate) fn serving_signalled(signal: i32) -> Self {
        Self::interrupted(signal, "nothing is served")
    }
}

impl From<running::Error> for Failure {
    fn from(error: running::Error) -> Self {
        let advice = match &error {
            running::Error::Machine { machine, .. } => hint(
                format!("take the image for {machine}, or build the project by `--arch {machine}`"),
                USAGE,
            ),
            running::Error::Layers { .. } => hint(
                "have it built with fewer layers, as by `buildah build --squash`; Lambda advises few too",
                INPUT,
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
        sandbox::Error::Setup { action, source }
            if action == "make its places" && source.kind() == io::ErrorKind::PermissionDenied =>
        {
            hint(
                "the cache is another user's: set LAMBIMG_CACHE_DIR to a directory of your own",
                REFUSED,
            )
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let anothers = hint_of(sandbox::Error::Setup {
            action: "make its places".to_owned(),
            source: os_error(rustix::io::Errno::ACCESS),
        });
        assert!(anothers.contains("LAMBIMG_CACHE_DIR"), "{anothers}");
        let full = hint_of(sandbox::Error::Refused {
            action: "make a pipe",
            source: os_error(rustix::io::Errno::MFILE),
        });
        assert!(full.contains("ulimit -n"), "{full}");
    }
}
