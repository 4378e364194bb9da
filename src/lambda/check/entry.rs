//! Rules of the program that Lambda starts. Each of them takes one of the ways in which it cannot be started,
//! so that an image that is broken in one way has one finding.

use crate::lambda::check::config;
use crate::lambda::check::contents::Seen;
use crate::lambda::check::layers;
use crate::lambda::check::modules;
use crate::lambda::check::paths;
use crate::lambda::check::program::{self, Obstacle};
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{Fault, Level};
use crate::oci::flatten::{self, Kind, Layer};

/// How the image names its program.
enum Program {
    /// By a path from the root: this.
    Absolute(String),
    /// By a name that `PATH` finds here.
    InPath(String),
    /// By a name that `PATH` does not find.
    NotInPath,
    /// By a path from some directory.
    Relative,
}

fn program_of(image: &Subject) -> Option<(&str, Program)> {
    // What is no list of texts another rule tells.
    if !["Entrypoint", "Cmd"]
        .map(|field| config::is_texts(image.documents.run(field)))
        .eq(&[true; 2])
    {
        return None;
    }
    let named = *image.documents.command().first()?;
    let program = if named.starts_with('/') {
        Program::Absolute(named.to_owned())
    } else if named.contains('/') {
        Program::Relative
    } else {
        program::in_path(image, named).map_or(Program::NotInPath, Program::InPath)
    };
    Some((named, program))
}

/// The program's path, if it has one.
pub(super) fn path_of(image: &Subject) -> Option<String> {
    match program_of(image)?.1 {
        Program::Absolute(path) | Program::InPath(path) => Some(path),
        Program::NotInPath | Program::Relative => None,
    }
}

/// The program's path, and that of what it runs.
pub(super) fn programs_of(image: &Subject) -> Vec<String> {
    path_of(image)
        .into_iter()
        .chain(bootstrap_of(image))
        .chain(config::wrapper_of(&image.documents).map(str::to_owned))
        .collect()
}

/// A fault if the program cannot be started, and so that `say` has a word for it.
fn fault(image: &Subject, say: impl Fn(&Obstacle) -> Option<String>) -> Vec<Fault> {
    let own = path_of(image).map(|path| ("is", path));
    let run = bootstrap_of(image).map(|path| ("runs", path));
    let faults = own.into_iter().chain(run).filter_map(|(verb, path)| {
        let message = program::obstacle(image, &path).and_then(|obstacle| say(&obstacle))?;
        let fault = Fault::new(format!("the entry point {verb} `{path}`: {message}"));
        let at = image.find(&path);
        let fault = at
            .iter()
            .fold(fault, |fault, (_, found)| fault.layer(found.layer));
        Some(fault.path(path.trim_start_matches('/')).value(&path))
    });
    faults.collect()
}

/// What AWS's entry point runs, where it is another than the base's own.
fn bootstrap_of(image: &Subject) -> Option<String> {
    let path = modules::BOOTSTRAP;
    let found = image.get(path)?;
    let is_added = image.documents.has_aws_entry_point() && image.base > 0;
    (is_added && found.layer >= image.base).then(|| format!("/{path}"))
}

pub(super) fn is_absolute(image: &Subject) -> Vec<Fault> {
    let Some((named, program)) = program_of(image) else {
        return Vec::new();
    };
    let (message, level) = match program {
        Program::Absolute(_) => return Vec::new(),
        Program::InPath(path) => (format!("`PATH` finds it at `{path}`"), Level::Note),
        Program::Relative => ("it is relative".to_owned(), Level::Error),
        Program::NotInPath => ("no directory of `PATH` has it".to_owned(), Level::Error),
    };
    let entry = image.documents.list("Entrypoint");
    let what = if entry.is_empty() {
        "there is no `Entrypoint`, and `Cmd` begins with"
    } else {
        "the entry point is"
    };
    vec![
        Fault::new(format!("{what} `{named}`: {message}"))
            .value(named)
            .level(level),
    ]
}

pub(super) fn is_there(image: &Subject) -> Vec<Fault> {
    fault(image, |obstacle| match obstacle {
        Obstacle::Missing(_) => Some(obstacle.to_string()),
        _ => None,
    })
}

pub(super) fn is_a_file(image: &Subject) -> Vec<Fault> {
    let faults = fault(image, |obstacle| match obstacle {
        Obstacle::NotAFile(_) => Some(obstacle.to_string()),
        _ => None,
    });
    if faults.is_empty() {
        linked(image).into_iter().collect()
    } else {
        faults
    }
}

/// A link to a program that can be started. A base's own links are known to run.
fn linked(image: &Subject) -> Option<Fault> {
    let path = path_of(image)?;
    let (directory, name) = path.trim_end_matches('/').rsplit_once('/')?;
    let directory = image.tree.resolve(directory, &image.layers).ok()?;
    let link = format!("{directory}/{name}");
    let link = link.trim_start_matches('/');
    let found = image.get(link)?;
    if found.entry.kind != Kind::Symlink || found.layer < image.base {
        return None;
    }
    if program::obstacle(image, &path).is_some() {
        return None;
    }
    let target = found.entry.target.as_deref().unwrap_or_default();
    let fault = Fault::new(format!(
        "the entry point `{path}` is a symbolic link to `{target}`"
    ));
    let fault = fault.layer(found.layer).path(link).value(&path);
    // Images of languages have their interpreters so, and run.
    (!name.starts_with("python")).then_some(fault)
}

pub(super) fn is_executable(image: &Subject) -> Vec<Fault> {
    fault(image, |obstacle| match obstacle {
        Obstacle::NotExecutable(_) | Obstacle::Unreadable(_) => Some(obstacle.to_string()),
        _ => None,
    })
}

/// A program that AWS's entry point comes to start, that a layer brings and a later one takes away.
struct Removed {
    /// Below the root.
    path: String,
    /// The layer that takes it away.
    by: usize,
}

impl Removed {
    /// It, where it was at this path.
    fn at(image: &Subject, path: &str) -> Option<Self> {
        let path = flatten::normal(path);
        if image.find(&path).is_some() {
            return None;
        }
        let brings = |layer: &Layer<Seen>| layer.entries.iter().any(|entry| entry.path() == path);
        let last = image.layers.iter().rposition(brings)?;
        let takes = |layer: &Layer<Seen>| {
            layer
                .entries
                .iter()
                .any(|entry| layers::hides(entry, &path))
        };
        let by = image.layers[last + 1..].iter().position(takes)? + last + 1;
        Some(Self { path, by })
    }
}

/// AWS's bootstrap, where it was removed.
fn removed_bootstrap(image: &Subject) -> Option<Removed> {
    let is_aws = image.documents.has_aws_entry_point();
    is_aws.then(|| Removed::at(image, modules::BOOTSTRAP))?
}

/// The Python that AWS's bootstrap starts, where it was removed.
fn removed_python(image: &Subject) -> Option<Removed> {
    if !image.documents.has_aws_entry_point() || image.find(modules::BOOTSTRAP).is_none() {
        return None;
    }
    let pythons = modules::started_by_bootstrap(image);
    if pythons.iter().any(|path| image.find(path).is_some()) {
        return None;
    }
    pythons.iter().find_map(|path| Removed::at(image, path))
}

/// Whether there is no Python any more for AWS's entry point to start.
pub(super) fn lost_its_python(image: &Subject) -> bool {
    removed_bootstrap(image)
        .or_else(|| removed_python(image))
        .is_some()
}

/// Whether a program cannot be started, but for what is missing in a system that has nothing.
fn is_stopped(image: &Subject, path: &str) -> bool {
    match program::obstacle(image, path) {
        None => false,
        Some(Obstacle::Interpreter { obstacle, .. }) => {
            let is_missing = matches!(*obstacle, Obstacle::Missing(_) | Obstacle::NotInPath);
            !(is_missing && program::is_hollow(image))
        }
        Some(_) => true,
    }
}

fn starts_no_python(image: &Subject) -> Option<Fault> {
    let removed = removed_python(image)?;
    let entry = path_of(image)?;
    let bootstrap = format!("/{}", modules::BOOTSTRAP);
    let mut programs = [entry.as_str(), &bootstrap].into_iter();
    if programs.any(|path| is_stopped(image, path)) {
        return None;
    }
    let message = format!(
        "the entry point runs `{bootstrap}`, which starts `/{}`, and this layer removes that",
        removed.path
    );
    Some(Fault::new(message).layer(removed.by).path(removed.path))
}

pub(super) fn has_its_interpreter(image: &Subject) -> Vec<Fault> {
    if let Some(fault) = starts_no_python(image) {
        return vec![fault];
    }
    fault(image, |obstacle| match obstacle {
        Obstacle::Interpreter {
            obstacle: inner, ..
        } => match **inner {
            Obstacle::Machine { .. } => None,
            // Nothing can be missing in a system that has nothing.
            Obstacle::Missing(_) | Obstacle::NotInPath if program::is_hollow(image) => None,
            _ => Some(obstacle.to_string()),
        },
        Obstacle::Loader(_) => Some(obstacle.to_string()),
        _ => None,
    })
}

pub(super) fn is_a_program(image: &Subject) -> Vec<Fault> {
    fault(image, |obstacle| match obstacle {
        Obstacle::Format(_) => Some(obstacle.to_string()),
        _ => None,
    })
}

pub(super) fn has_unix_lines(image: &Subject) -> Vec<Fault> {
    fault(image, |obstacle| match obstacle {
        Obstacle::CarriageReturn(_) => Some(obstacle.to_string()),
        _ => None,
    })
}

pub(super) fn is_for_the_machine(image: &Subject) -> Vec<Fault> {
    fault(image, |obstacle| match obstacle {
        Obstacle::Machine { .. } => Some(obstacle.to_string()),
        Obstacle::Interpreter {
            obstacle: inner, ..
        } => matches!(**inner, Obstacle::Machine { .. }).then(|| obstacle.to_string()),
        _ => None,
    })
}

pub(super) fn has_a_runtime_client(image: &Subject) -> Vec<Fault> {
    let Some(path) = path_of(image) else {
        return Vec::new();
    };
    if let Some(removed) = removed_bootstrap(image).filter(|_| !is_stopped(image, &path)) {
        let path = removed.path;
        let message = format!("the entry point runs `/{path}`, and this layer removes it");
        return vec![Fault::new(message).layer(removed.by).path(path)];
    }
    if program::obstacle(image, &path).is_some() || program::is_hollow(image) {
        return Vec::new();
    }
    let bootstrap = modules::BOOTSTRAP;
    let name = paths::name(&path);
    let missing = if image.documents.has_aws_entry_point() {
        !image.tree.contains(bootstrap)
    } else if name.starts_with("python") {
        // An adapter among the extensions may be the client of any program.
        let adapter = image.tree.paths_below("opt/extensions").next().is_some();
        !adapter && !has_client(image)
    } else {
        false
    };
    if !missing {
        return Vec::new();
    }
    let message = if image.documents.has_aws_entry_point() {
        format!("the entry point runs `/{bootstrap}`, which is not in the image")
    } else {
        // Never its arguments: a password may be one.
        format!("`{path}` runs Python, and `awslambdaric` is nowhere in the image")
    };
    vec![Fault::new(message)]
}

fn has_client(image: &Subject) -> bool {
    let mut paths = image.tree.paths();
    let of_client = |path: &str, name: &str| {
        let before = path.strip_suffix(name);
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    paths.any(|path| {
        of_client(path, "awslambdaric/__main__.py") || of_client(path, "awslambdaric/__main__.pyc")
    })
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::{Forge, aws};
    use crate::python::elf::testing::{Made, elf};
    use serde_json::json;

    const ARM: u16 = 183;

    /// What the rules of the config find where this is the entry point.
    fn found(image: Forge, entry: &str) -> String {
        let mut image = image;
        image.run["Entrypoint"] = json!([entry]);
        image.findings_of("LMB015".."LMB035")
    }

    fn of(entry: &str) -> String {
        let image = Forge::sound()
            .dir("app")
            .link("app/link", "run")
            .link("app/python", "../var/lang/bin/python3.12")
            .link("app/nowhere", "gone")
            .link("app/circle", "circle")
            .dir("app/directory")
            .file("app/closed", "#!/bin/sh\n")
            .entry(
                "app/unread",
                tar::EntryType::Regular,
                0o711,
                b"#!/bin/sh\n",
                None,
            )
            .program("app/run", "#!/bin/sh\n")
            .program("app/env", "#!/usr/bin/env -S A=1 sh -e\n")
            .program("app/no-env", "#!/usr/bin/env ruby\n")
            .program("app/env-words", "#!/usr/bin/env sh -e\n")
            .program("app/bash", "#! /bin/bash -e\n")
            .program("app/closed-shell", "#!/app/closed\n")
            .program("app/twice", "#!/app/run\n")
            .program("app/nothing", "#!\n")
            .program("app/plain", "exec sh\n")
            .program("app/bom", b"\xef\xbb\xbf#!/bin/sh\n")
            .program("app/empty", "")
            .program("app/windows", "#!/bin/sh\r\nexit 0\r\n")
            .program("app/elf", elf(62, &[]))
            .program("app/arm", elf(ARM, &[]))
            .program("app/arm-script", "#!/app/arm\n");
        found(image, entry)
    }

    #[test]
    fn programs_that_start_have_no_findings() {
        for entry in ["/app/run", "/app/env", "/app/twice", "/app/elf", "/bin/sh"] {
            assert_eq!(of(entry), "", "{entry}");
        }
    }

    #[test]
    fn names_that_are_no_absolute_paths() {
        insta::assert_snapshot!(of("sh"), @"LMB019 note: the entry point is `sh`: `PATH` finds it at `/usr/bin/sh`");
        insta::assert_snapshot!(of("app/run"), @"LMB019 error: the entry point is `app/run`: it is relative");
        insta::assert_snapshot!(of("./app/run"), @"LMB019 error: the entry point is `./app/run`: it is relative");
        insta::assert_snapshot!(of("bash"), @"LMB019 error: the entry point is `bash`: no directory of `PATH` has it");
        let mut image = Forge::sound();
        image.run["Entrypoint"] = json!(null);
        insta::assert_snapshot!(image.findings_of("LMB015".."LMB035"), @"LMB019 error: there is no `Entrypoint`, and `Cmd` begins with `app.handler`: no directory of `PATH` has it");
        let mut image = Forge::sound();
        image.run["Entrypoint"] = json!([]);
        image.run["Cmd"] = json!([]);
        insta::assert_snapshot!(image.findings_of("LMB015".."LMB035"), @"LMB018 error: the config has neither `Entrypoint` nor `Cmd`");
    }

    #[test]
    fn files_that_are_none() {
        insta::assert_snapshot!(of("/app/gone"), @"LMB020 error app/gone: the entry point is `/app/gone`: there is nothing at `/app/gone`");
        insta::assert_snapshot!(of("/app/nowhere"), @"LMB020 error app/nowhere: the entry point is `/app/nowhere`: there is nothing at `/app/gone`");
        insta::assert_snapshot!(of("/app/circle"), @"LMB020 error app/circle: the entry point is `/app/circle`: symbolic links go round in circles at `/app/circle`");
        insta::assert_snapshot!(of("/app/directory"), @"LMB021 error 1 app/directory: the entry point is `/app/directory`: it is a directory");
        insta::assert_snapshot!(of("/app/link"), @"LMB021 error 1 app/link: the entry point `/app/link` is a symbolic link to `run`");
        insta::assert_snapshot!(of("/app/python"), @"LMB033 error: `/app/python` runs Python, and `awslambdaric` is nowhere in the image");
    }

    #[test]
    fn files_that_do_not_start() {
        insta::assert_snapshot!(of("/app/closed"), @"LMB022 error 1 app/closed: the entry point is `/app/closed`: others than its owner may not run it (mode 0644)");
        insta::assert_snapshot!(of("/app/unread"), @"LMB022 error 1 app/unread: the entry point is `/app/unread`: it is a script, and others than its owner may not read it (mode 0711)");
        insta::assert_snapshot!(of("/app/plain"), @"LMB024 error 1 app/plain: the entry point is `/app/plain`: it is neither an ELF file nor a script: its first line does not begin with `#!`");
        insta::assert_snapshot!(of("/app/bom"), @"LMB024 error 1 app/bom: the entry point is `/app/bom`: it is neither an ELF file nor a script: a byte order mark stands before its `#!`");
        insta::assert_snapshot!(of("/app/empty"), @"LMB024 error 1 app/empty: the entry point is `/app/empty`: it is neither an ELF file nor a script: it is empty");
        insta::assert_snapshot!(of("/app/nothing"), @"LMB024 error 1 app/nothing: the entry point is `/app/nothing`: it is neither an ELF file nor a script: its `#!` names no interpreter");
        insta::assert_snapshot!(of("/app/windows"), @"LMB025 error 1 app/windows: the entry point is `/app/windows`: its first line, `#!/bin/sh`, ends in CR LF");
        insta::assert_snapshot!(of("/app/arm"), @"LMB026 error 1 app/arm: the entry point is `/app/arm`: it is for aarch64, and the image for x86_64");
    }

    #[test]
    fn interpreters_that_do_not_start() {
        insta::assert_snapshot!(of("/app/bash"), @"LMB023 error 1 app/bash: the entry point is `/app/bash`: its interpreter `/bin/bash` cannot run: there is nothing at `/usr/bin/bash`");
        insta::assert_snapshot!(of("/app/no-env"), @"LMB023 error 1 app/no-env: the entry point is `/app/no-env`: its interpreter `ruby` cannot run: no directory of `PATH` has it");
        insta::assert_snapshot!(of("/app/env-words"), @"LMB023 error 1 app/env-words: the entry point is `/app/env-words`: its interpreter `sh -e` cannot run: no directory of `PATH` has it");
        insta::assert_snapshot!(of("/app/closed-shell"), @"LMB023 error 1 app/closed-shell: the entry point is `/app/closed-shell`: its interpreter `/app/closed` cannot run: others than its owner may not run it (mode 0644)");
        insta::assert_snapshot!(of("/app/arm-script"), @"LMB026 error 1 app/arm-script: the entry point is `/app/arm-script`: its interpreter `/app/arm` cannot run: it is for aarch64, and the image for x86_64");
    }

    #[test]
    fn an_interpreter_for_another_processor_is_told_once() {
        let image = || {
            Forge::sound()
                .dir("opt")
                .dir("opt/bin")
                .program("opt/bin/shell", elf(ARM, &[]))
        };
        let started_by = |line: &str| {
            let mut image = image().program("opt/bin/start", line);
            image.run["Entrypoint"] = json!(["/opt/bin/start"]);
            image.findings()
        };
        let extension = image()
            .dir("opt/extensions")
            .program("opt/extensions/agent", "#!/opt/bin/shell\n");
        let found = [
            started_by("#!/opt/bin/shell\n"),
            started_by("#!/usr/bin/env shell\n"),
            extension.findings(),
            image().findings(),
        ];
        insta::assert_snapshot!(found.join("\n"));
    }

    #[test]
    fn what_the_entry_point_starts_and_a_layer_removed_is_told_once() {
        let base = || {
            let mut base = aws("app.handler").file("var/task/app.py", "def handler(a, b): ...\n");
            base.run["Env"] = json!(["PATH=/var/lang/bin:/usr/bin"]);
            base.layer()
        };
        assert_eq!(base().dir("opt").findings(), "");
        let removed = [
            base().file("var/lang/bin/.wh.python3.12", ""),
            base().file("var/.wh.lang", ""),
            base().file("var/lang/.wh..wh..opq", ""),
            base().file("var/runtime/.wh.bootstrap", ""),
            base().file("var/.wh.runtime", ""),
            base().file("var/.wh.runtime", "").file("var/.wh.lang", ""),
        ];
        insta::assert_snapshot!(removed.map(Forge::findings).join("\n"));
        let other = Forge::sound().layer().file("var/lang/bin/.wh.python3", "");
        assert_eq!(other.findings(), "");
        let removed = Forge::sound()
            .layer()
            .file("var/lang/bin/.wh.python3.12", "");
        insta::assert_snapshot!(removed.findings());
    }

    #[test]
    fn what_starts_with_the_function_is_told_once() {
        let musl = Made {
            interpreter: "/lib/ld-musl-x86_64.so.1",
            ..Made::default()
        };
        let put = |image: Forge, path: &str, mode, bytes: &[u8]| {
            image.entry(path, tar::EntryType::Regular, mode, bytes, None)
        };
        let bootstrap = |mode, bytes: &[u8]| {
            let image = Forge::sound().dir("var/runtime");
            put(image, "var/runtime/bootstrap", mode, bytes).findings()
        };
        let wrapper = |mode, bytes: &[u8]| {
            let image = Forge::sound().dir("opt").dir("opt/bin");
            let mut image = put(image, "opt/bin/wrap", mode, bytes);
            let variables = image.run["Env"].as_array_mut().unwrap();
            variables.push(json!("AWS_LAMBDA_EXEC_WRAPPER=/opt/bin/wrap"));
            image.findings()
        };
        let found = [
            bootstrap(0o755, &elf(ARM, &[])),
            bootstrap(0o700, b"#!/bin/sh\n"),
            wrapper(0o755, &elf(ARM, &[])),
            wrapper(0o700, b"#!/bin/sh\n"),
            wrapper(0o755, &musl.bytes()),
        ];
        insta::assert_snapshot!(found.join("\n"), @"
        LMB026 error 1 var/runtime/bootstrap: the entry point runs `/var/runtime/bootstrap`: it is for aarch64, and the image for x86_64
        LMB022 error 1 var/runtime/bootstrap: the entry point runs `/var/runtime/bootstrap`: others than its owner may not run it (mode 0700)
        LMB034 error: `AWS_LAMBDA_EXEC_WRAPPER` is `/opt/bin/wrap`: it is for aarch64, and the image for x86_64
        LMB034 error: `AWS_LAMBDA_EXEC_WRAPPER` is `/opt/bin/wrap`: others than its owner may not run it (mode 0700)
        LMB034 error: `AWS_LAMBDA_EXEC_WRAPPER` is `/opt/bin/wrap`: it is started by `/lib/ld-musl-x86_64.so.1`, which is not there
        ");
    }

    #[test]
    fn a_base_of_scripts_alone_is_not_judged() {
        let mut image = Forge::new().program("lambda-entrypoint.sh", "#!/bin/sh\n");
        image.run = json!({"Entrypoint": ["/lambda-entrypoint.sh"], "Cmd": ["app.handler"]});
        assert_eq!(image.findings_of("LMB015".."LMB035"), "");
    }

    #[test]
    fn python_without_a_runtime_client() {
        let of = |image: Forge| {
            let mut image = image;
            image.run["Entrypoint"] = json!(["/var/lang/bin/python3.12", "-m", "awslambdaric"]);
            image.findings_of("LMB015".."LMB035")
        };
        insta::assert_snapshot!(of(Forge::sound()), @"LMB033 error: `/var/lang/bin/python3.12` runs Python, and `awslambdaric` is nowhere in the image");
        let with = |path: &str| {
            Forge::sound()
                .dir("opt/python")
                .dir("opt/extensions")
                .program(path, elf(62, &[]))
        };
        assert_eq!(of(with("opt/python/awslambdaric/__main__.py")), "");
        assert_eq!(of(with("awslambdaric/__main__.py")), "");
        assert_eq!(of(with("opt/extensions/lambda-adapter")), "");
        let gone = Forge::sound().layer().file("var/runtime/.wh.bootstrap", "");
        insta::assert_snapshot!(gone.findings_of("LMB015".."LMB035"), @"LMB033 error 2 var/runtime/bootstrap: the entry point runs `/var/runtime/bootstrap`, and this layer removes it");
    }
}
