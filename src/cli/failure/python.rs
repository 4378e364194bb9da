//! What goes wrong with requirements, locks, packages and the indexes they come from.
//!
//! What is made of them is not known here.

use std::path::Path;

use lambimg::python::index;
use lambimg::python::{fetch, lock, pyproject, requirements, resolve, source, wheel};

use super::build::{file_name, lock_again, lock_command, of_store, of_write};
use super::registry::of_http;
use super::{Advice, INPUT, NETWORK, REFUSED, USAGE, hint};

pub(super) fn of_requirements(error: &requirements::Error) -> Advice {
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

pub(super) fn of_lock(error: &lock::Error, lock: Option<&Path>) -> Advice {
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

pub(super) fn of_source(error: &source::Error) -> Advice {
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
pub(super) fn of_project(error: &source::Error) -> Advice {
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

pub(super) fn of_fetch(error: &fetch::Error) -> Advice {
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

pub(super) fn of_index(error: &index::Error) -> Advice {
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

pub(super) fn of_wheel(error: &wheel::Error) -> Advice {
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

pub(super) fn of_resolve(error: &resolve::Error) -> Advice {
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
