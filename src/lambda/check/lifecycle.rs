//! Rules of the time that is left: runtimes that are deprecated or not yet for production, systems at their end.

use crate::lambda;
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{Fault, Level, Look, Rule};
use crate::lambda::{Lifecycle, Runtime};
use crate::python::PythonVersion;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB094",
        level: Level::Warning,
        title: "The runtime is not deprecated",
        why: "AWS's base image of a deprecated runtime gets no more security updates, and AWS sends no notice for \
              functions of images.",
        remedy: "Build from the base image of a newer Python.",
        look: Look::Files(is_supported),
    },
    Rule {
        id: "LMB095",
        level: Level::Warning,
        title: "The runtime is no preview",
        why: "A preview may change without notice and comes without a service level; the runtime client says so in the \
              log at each cold start.",
        remedy: "Build from the base image of a released Python.",
        look: Look::Files(is_released),
    },
    Rule {
        id: "LMB096",
        level: Level::Warning,
        title: "The image's operating system is maintained",
        why: "Its packages get no more security updates of their own; while a Lambda runtime on it is supported AWS mends \
              the worst alone.",
        remedy: "Build from a base image on Amazon Linux 2023.",
        look: Look::Files(has_a_maintained_system),
    },
];

/// The Python of AWS's own runtime, if the image carries one.
fn python_of_aws(image: &Subject) -> Option<PythonVersion> {
    if !image
        .tree
        .contains(&format!("{}/bootstrap", lambda::RUNTIME_DIR))
    {
        return None;
    }
    let mut programs = image.tree.paths_below("var/lang/bin");
    programs.find_map(|path| {
        let version = path.strip_prefix("var/lang/bin/python")?;
        version
            .contains('.')
            .then(|| version.parse().ok())
            .flatten()
    })
}

fn state(image: &Subject, runtime: &Runtime) -> &'static str {
    runtime.lifecycle.state(&image.documents.today)
}

/// A fault if AWS's runtime is in this state.
fn in_state(image: &Subject, wanted: &str) -> Vec<Fault> {
    let runtime = python_of_aws(image).and_then(lambda::runtime);
    let warning = runtime.filter(|runtime| state(image, runtime) == wanted);
    let warning = warning.and_then(|runtime| {
        let text = runtime.warning(&image.documents.today)?;
        Some(Fault::new(text).value(&runtime.identifier))
    });
    warning.into_iter().collect()
}

fn is_supported(image: &Subject) -> Vec<Fault> {
    let oldest = &lambda::runtimes()[0];
    match python_of_aws(image) {
        Some(python) if python < oldest.python => {
            let message = format!(
                "python{python} is deprecated: {} is the oldest runtime whose dates are known (as of {})",
                oldest.identifier, oldest.lifecycle.as_of
            );
            vec![Fault::new(message).value(format!("python{python}"))]
        }
        _ => in_state(image, "deprecated"),
    }
}

fn is_released(image: &Subject) -> Vec<Fault> {
    in_state(image, "preview")
}

fn has_a_maintained_system(image: &Subject) -> Vec<Fault> {
    let Some((path, system)) = system(image) else {
        return Vec::new();
    };
    let mut runtimes = lambda::runtimes().iter();
    let life = runtimes.find_map(|runtime| (runtime.os == system).then_some(&runtime.lifecycle));
    let ended = |life: &Lifecycle| {
        let end = life.os_end.as_deref()?;
        (end <= image.documents.today.as_str()).then(|| (end.to_owned(), life.as_of.clone()))
    };
    let Some((end, as_of)) = life.and_then(ended) else {
        return Vec::new();
    };
    let fault = Fault::new(format!(
        "{system} is at its end since {end} (as of {as_of})"
    ));
    let fault = fault.path(path).value(&system);
    let runtime = python_of_aws(image).map(lambda::runtime);
    match runtime {
        None => vec![fault],
        // Lambda mends the worst as long as it supports the runtime.
        Some(Some(runtime)) if state(image, runtime) != "deprecated" => {
            vec![fault.level(Level::Note)]
        }
        // That the runtime is deprecated says it all.
        Some(_) => Vec::new(),
    }
}

/// The image's operating system in the words of the runtimes' table, and the file that tells it.
fn system(image: &Subject) -> Option<(String, String)> {
    let mut paths = ["etc/os-release", "usr/lib/os-release"].into_iter();
    let (path, found) = paths.find_map(|path| image.find(path))?;
    let text = String::from_utf8_lossy(&found.entry.seen.as_ref()?.head).into_owned();
    let field = |name: &str| {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches(['"', '\'']).to_owned())
    };
    (field("ID")? == "amzn").then_some(())?;
    Some((path, format!("Amazon Linux {}", field("VERSION_ID")?)))
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::Forge;

    fn base(python: &str, system: &str) -> Forge {
        Forge::new()
            .dir("etc")
            .file(
                "etc/os-release",
                format!("NAME=\"Amazon Linux\"\nID=\"amzn\"\nVERSION_ID=\"{system}\"\n"),
            )
            .dir("var")
            .dir("var/lang")
            .dir("var/lang/bin")
            .program("var/lang/bin/python", "")
            .program("var/lang/bin/python3", "")
            .program(&format!("var/lang/bin/python{python}"), "")
            .dir("var/runtime")
            .program("var/runtime/bootstrap", "#!/bin/sh\n")
    }

    fn found(image: Forge) -> String {
        image.findings_of("LMB094".."LMB098")
    }

    #[test]
    fn runtimes_and_systems_at_their_end() {
        assert_eq!(found(base("3.12", "2023")), "");
        insta::assert_snapshot!(found(base("3.9", "2")), @"LMB094 warning: python3.9 is deprecated since 2025-12-15: its base image gets no more security updates (dates as of 2026-11-22)");
        insta::assert_snapshot!(found(base("3.11", "2")), @"LMB096 note etc/os-release: Amazon Linux 2 is at its end since 2026-06-30 (as of 2026-11-22)");
        insta::assert_snapshot!(found(base("3.15", "2023")), @"LMB095 warning: python3.15 is a preview since 2026-08-25: it may change and is not for production (as of 2026-11-22)");
        insta::assert_snapshot!(found(base("3.8", "2")), @"LMB094 warning: python3.8 is deprecated: python3.9 is the oldest runtime whose dates are known (as of 2026-11-22)");
        assert_eq!(found(base("3.99", "2023")), "");
        let on = |day: &'static str| {
            let mut image = base("3.11", "2");
            image.today = day;
            found(image)
        };
        assert_eq!(on("2026-06-29"), "");
        insta::assert_snapshot!(on("2027-06-30"), @"LMB094 warning: python3.11 is deprecated since 2027-06-30: its base image gets no more security updates (dates as of 2026-11-22)");
    }

    #[test]
    fn images_that_are_not_of_aws() {
        let system = |id: &str, version: &str| {
            let text = format!("ID={id}\nVERSION_ID=\"{version}\"\n");
            Forge::new()
                .dir("etc")
                .link("etc/os-release", "../usr/lib/os-release")
                .dir("usr")
                .dir("usr/lib")
                .file("usr/lib/os-release", text)
        };
        insta::assert_snapshot!(found(system("\"amzn\"", "2")), @"LMB096 warning usr/lib/os-release: Amazon Linux 2 is at its end since 2026-06-30 (as of 2026-11-22)");
        assert_eq!(found(system("amzn", "2023")), "");
        assert_eq!(found(system("debian", "2")), "");
        let without_bootstrap = Forge::new()
            .dir("var/lang/bin")
            .program("var/lang/bin/python3.9", "");
        assert_eq!(found(without_bootstrap), "");
    }
}
