//! Rules of external extensions: each file directly in `/opt/extensions` is a program that Lambda starts
//! before the function.

use crate::lambda::check::program::{self, Obstacle};
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{Fault, Level, Look, Rule, folded};

/// Where they are.
const DIRECTORY: &str = "opt/extensions";
/// Lambda starts no more than so many.
const MOST: usize = 10;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB090",
        level: Level::Warning,
        title: "What is in `/opt/extensions` is a regular file",
        why: "Lambda starts the files directly in this directory, and passes over what is none: the extension does not \
              run.",
        remedy: "Put the extension's program itself into `/opt/extensions`, and its other files elsewhere below `/opt`.",
        look: Look::Files(are_files),
    },
    Rule {
        id: "LMB091",
        level: Level::Error,
        title: "Extensions can be run by others than their owner",
        why: "Lambda starts every file directly in `/opt/extensions`, and the function does not start: \
              `Extension.LaunchError` with `permission denied`, and `FunctionError.ExtensionInitError` as the \
              function's state.",
        remedy: "Give it mode 0755, or move it out of `/opt/extensions` if it is no extension.",
        look: Look::Files(are_executable),
    },
    Rule {
        id: "LMB092",
        level: Level::Error,
        title: "Extensions can be started in this image",
        why: "The function does not start: `Extension.LaunchError` with `exec format error` or `no such file or \
              directory`.",
        remedy: "Copy the extension that was built for the image's architecture, and the interpreter that it needs.",
        look: Look::Files(can_start),
    },
    Rule {
        id: "LMB093",
        level: Level::Error,
        title: "There are at most ten extensions",
        why: "The function does not start: `FunctionError.TooManyExtensions`.",
        remedy: "Leave out the extensions that the function can do without.",
        look: Look::Files(are_few),
    },
];

/// The paths directly in the directory.
fn extensions(image: &Subject) -> impl Iterator<Item = &str> {
    let below = image.tree.paths_below(DIRECTORY);
    below.filter(|path| !path[DIRECTORY.len() + 1..].contains('/'))
}

/// A fault for each extension that cannot be started, and so that `takes` wants it.
fn faults(image: &Subject, takes: impl Fn(&Obstacle) -> bool) -> Vec<Fault> {
    let faults = extensions(image).filter_map(|path| {
        let obstacle = program::obstacle(image, path).filter(|obstacle| takes(obstacle))?;
        let fault = Fault::new(obstacle.to_string()).path(path);
        let layer = image.get(path).map(|found| found.layer);
        Some(match layer {
            Some(layer) if layer < image.base => fault.layer(layer).level(Level::Note),
            Some(layer) => fault.layer(layer),
            None => fault,
        })
    });
    folded(faults.collect(), MOST)
}

fn is_no_file(obstacle: &Obstacle) -> bool {
    matches!(obstacle, Obstacle::Missing(_) | Obstacle::NotAFile(_))
}

fn is_closed(obstacle: &Obstacle) -> bool {
    matches!(
        obstacle,
        Obstacle::NotExecutable(_) | Obstacle::Unreadable(_)
    )
}

fn are_files(image: &Subject) -> Vec<Fault> {
    faults(image, is_no_file)
}

fn are_executable(image: &Subject) -> Vec<Fault> {
    faults(image, is_closed)
}

fn can_start(image: &Subject) -> Vec<Fault> {
    let hollow = program::is_hollow(image);
    faults(image, |obstacle| {
        let waits = hollow
            && matches!(obstacle, Obstacle::Interpreter { obstacle: inner, .. }
                if matches!(**inner, Obstacle::Missing(_) | Obstacle::NotInPath));
        !is_no_file(obstacle) && !is_closed(obstacle) && !waits
    })
}

fn are_few(image: &Subject) -> Vec<Fault> {
    let files = extensions(image).filter(|path| {
        !program::obstacle(image, path).is_some_and(|obstacle| is_no_file(&obstacle))
    });
    match files.count() {
        count if count > MOST => {
            let message = format!("there are {count} extensions");
            vec![Fault::new(message).path(DIRECTORY).value(count.to_string())]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::Forge;
    use crate::python::elf::testing::{Made, elf};

    const X86: u16 = 62;
    const ARM: u16 = 183;

    fn sound() -> Forge {
        Forge::sound().dir("opt").dir("opt/extensions")
    }

    fn found(image: Forge) -> String {
        image.findings_of("LMB090".."LMB094")
    }

    #[test]
    fn sound_extensions_have_no_findings() {
        let image = sound()
            .program("opt/extensions/agent", elf(X86, &[]))
            .program("opt/extensions/script", "#!/bin/sh\n")
            .link("opt/extensions/linked", "agent")
            .dir("opt/agent")
            .file("opt/agent/config", "x");
        assert_eq!(found(image), "");
    }

    /// To look at all files again for each would take hours.
    #[test]
    fn many_extensions_are_looked_at_once() {
        let program = Made {
            interpreter: "/lib64/ld-linux-x86-64.so.2",
            ..Made::default()
        };
        let mut image = sound();
        for number in 0..8_000 {
            let path = format!("opt/extensions/e{number}");
            image = image.program(&path, program.bytes());
        }
        insta::assert_snapshot!(found(image), @"LMB093 error opt/extensions: there are 8000 extensions");
    }

    #[test]
    fn extensions_that_do_not_start() {
        insta::assert_snapshot!(found(sound().dir("opt/extensions/agent").file("opt/extensions/agent/run", "x")), @"LMB090 warning 1 opt/extensions/agent: it is a directory");
        insta::assert_snapshot!(found(sound().link("opt/extensions/agent", "gone")), @"LMB090 warning 1 opt/extensions/agent: there is nothing at `/opt/extensions/gone`");
        insta::assert_snapshot!(found(sound().file("opt/extensions/agent", elf(X86, &[]))), @"LMB091 error 1 opt/extensions/agent: others than its owner may not run it (mode 0644)");
        insta::assert_snapshot!(found(sound().program("opt/extensions/agent", elf(ARM, &[]))), @"LMB092 error 1 opt/extensions/agent: it is for aarch64, and the image for x86_64");
        insta::assert_snapshot!(found(sound().program("opt/extensions/agent", "#!/usr/bin/env node\n")), @"LMB092 error 1 opt/extensions/agent: its interpreter `node` cannot run: no directory of `PATH` has it");
        insta::assert_snapshot!(found(sound().program("opt/extensions/agent", "#!/bin/sh\r\n")), @"LMB092 error 1 opt/extensions/agent: its first line, `#!/bin/sh`, ends in CR LF");
        insta::assert_snapshot!(found(sound().program("opt/extensions/README", "Read me\n")), @"LMB092 error 1 opt/extensions/README: it is neither an ELF file nor a script: its first line does not begin with `#!`");
    }

    #[test]
    fn extensions_are_counted() {
        let of = |count: usize| {
            let image = (0..count).fold(sound(), |image, number| {
                image.program(&format!("opt/extensions/e{number}"), "#!/bin/sh\n")
            });
            found(image)
        };
        assert_eq!(of(10), "");
        insta::assert_snapshot!(of(11), @"LMB093 error opt/extensions: there are 11 extensions");
    }

    #[test]
    fn a_bases_extension_is_a_note() {
        let image = Forge::new()
            .dir("opt")
            .dir("opt/extensions")
            .file("opt/extensions/agent", "#!/bin/sh\n")
            .program("lambda-entrypoint.sh", "#!/bin/sh\n")
            .layer()
            .dir("var");
        insta::assert_snapshot!(found(image), @"LMB091 note 0 opt/extensions/agent: others than its owner may not run it (mode 0644)");
    }
}
