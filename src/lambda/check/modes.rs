//! Rules of the layers' modes: what Lambda's user may read, and whose rights programs take. Their place in the
//! table of rules is in [`layers`](super::layers).

use std::collections::BTreeSet;

use crate::lambda;
use crate::lambda::check::paths::is_within;
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{Fault, Level, MOST, elf, entry, folded, may_be_users};
use crate::oci::flatten::{self, Kind};

/// Where a distribution's package manager puts programs.
const OF_PACKAGES: [&str; 5] = ["bin/", "lib/", "lib64/", "sbin/", "usr/"];

/// Directories whose files the function reads.
fn roots(image: &Subject) -> Vec<String> {
    let mut roots: Vec<String> = [lambda::TASK_ROOT, lambda::RUNTIME_DIR, "opt"]
        .map(str::to_owned)
        .into();
    let python = image.python.iter().flat_map(|python| &python.path);
    roots.extend(python.map(|directory| flatten::normal(directory)));
    roots.push(flatten::normal(image.documents.working_dir()));
    roots.retain(|root| !root.is_empty());
    roots
}

pub(super) fn can_be_read(image: &Subject) -> Vec<Fault> {
    let mut roots = roots(image);
    // Where links lead, too: what is there is under its own path alone.
    let led = roots
        .iter()
        .filter_map(|root| image.tree.resolve(root, &image.layers).ok());
    let led: Vec<_> = led.filter(|root| !root.is_empty()).collect();
    roots.extend(led);
    let entry = entry::path_of(image).map(|path| flatten::normal(&path));
    // On the way to the function's files, the directories alone matter.
    let above_roots: BTreeSet<&str> = roots
        .iter()
        .chain(&entry)
        .flat_map(|root| root.match_indices('/').map(|(end, _)| &root[..end]))
        .collect();
    let programs = elf::told_elsewhere(image);
    // The root's own mode is left alone: `tar -C "$(mktemp -d)" .` writes it as 0700 into every layer.
    let mut faults = Vec::new();
    let mut closed: Vec<&str> = Vec::new();
    for (path, found) in image.added() {
        let is_root = roots.iter().any(|root| is_within(root, path));
        let is_above = above_roots.contains(path);
        // What is in a closed directory needs no word of its own; of programs their own rules speak.
        let is_program = programs.contains(path);
        if !(is_root || is_above) || closed.iter().any(|directory| is_within(directory, path)) {
            continue;
        }
        let mode = found.entry.mode;
        let (needed, what) = match found.entry.kind {
            // Python lists directories; others are only passed through.
            Kind::Directory if is_root => (0o005, "look into this directory"),
            Kind::Directory => (0o001, "pass through this directory"),
            Kind::File if is_root && !is_program => (0o004, "read this file"),
            _ => continue,
        };
        // Of a program that is run with another's rights its own rule tells.
        let is_told = found.entry.kind == Kind::File && changes_user(mode) && mode & 0o001 != 0;
        if mode & needed == needed || is_told {
            continue;
        }
        if found.entry.kind == Kind::Directory {
            closed.push(path);
        }
        let message = format!("others than its owner may not {what} (mode {mode:04o})");
        let fault = Fault::new(message).layer(found.layer).path(path);
        let is_code = [".py", ".pyc", ".so"].iter().any(|end| path.ends_with(end));
        faults.push(if found.entry.kind == Kind::File && !is_code {
            fault.level(Level::Warning)
        } else {
            fault
        });
    }
    folded(faults, MOST)
}

/// Whether a file of this mode is run with the rights of its owner or group.
fn changes_user(mode: u32) -> bool {
    // Set-group-id without the right to run it was a kind of lock once.
    mode & 0o4000 != 0 || mode & 0o2010 == 0o2010
}

pub(super) fn changes_no_user(image: &Subject) -> Vec<Fault> {
    let added = image.added();
    let faults = added.filter_map(|(path, found)| {
        let mode = found.entry.mode;
        let is_one = found.entry.kind == Kind::File && changes_user(mode);
        if !is_one || !may_be_users(image, path) {
            return None;
        }
        let bit = if mode & 0o4000 == 0 { "group" } else { "user" };
        let message = format!("it has the set-{bit}-id bit (mode {mode:04o})");
        let fault = Fault::new(message).layer(found.layer).path(path);
        // Package managers bring such programs, and nobody asked for them.
        let of_packages = OF_PACKAGES.iter().any(|start| path.starts_with(start));
        Some(if of_packages {
            fault.level(Level::Note)
        } else {
            fault
        })
    });
    folded(faults.collect(), MOST)
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use crate::lambda::check::testing::Forge;

    fn found(image: Forge) -> String {
        image.findings_of("LMB035".."LMB050")
    }

    #[test]
    fn modes() {
        let mode = |image: Forge, path: &str, mode| {
            image.entry(path, EntryType::Regular, mode, b"x", None)
        };
        let directory = |image: Forge, path: &str, mode| {
            image.entry(path, EntryType::Directory, mode, b"", None)
        };
        let image = mode(Forge::sound(), "var/task/closed.py", 0o600);
        insta::assert_snapshot!(found(mode(image, "var/task/data.json", 0o640)), @"
        LMB043 error 1 var/task/closed.py: others than its owner may not read this file (mode 0600)
        LMB043 warning 1 var/task/data.json: others than its owner may not read this file (mode 0640)
        ");
        let image = directory(Forge::sound(), "var/task/closed", 0o700);
        insta::assert_snapshot!(found(mode(image, "var/task/closed/b.py", 0o600)), @"LMB043 error 1 var/task/closed: others than its owner may not look into this directory (mode 0700)");
        let image = directory(Forge::sound().layer().dir("var"), "var/task", 0o711);
        insta::assert_snapshot!(found(image), @"LMB043 error 2 var/task: others than its owner may not look into this directory (mode 0711)");
        insta::assert_snapshot!(found(directory(Forge::sound().layer(), "var", 0o750)), @"LMB043 error 2 var: others than its owner may not pass through this directory (mode 0750)");
        // As `mktemp -d` makes the directory that the layer is made of.
        assert_eq!(found(directory(Forge::sound().layer(), "./", 0o700)), "");
        assert_eq!(found(directory(Forge::sound().layer(), "var", 0o711)), "");
        let linked = Forge::sound()
            .dir("srv")
            .dir("srv/app")
            .link("app", "srv/app");
        let mut image = mode(linked, "srv/app/main.py", 0o600);
        image.run["WorkingDir"] = serde_json::json!("/app");
        insta::assert_snapshot!(found(image), @"LMB043 error 1 srv/app/main.py: others than its owner may not read this file (mode 0600)");
        insta::assert_snapshot!(found(mode(Forge::sound(), "var/task/tool", 0o4711)), @"LMB044 warning 1 var/task/tool: it has the set-user-id bit (mode 4711)");
        let image = mode(Forge::sound(), "var/task/tool", 0o4755);
        let image = mode(image, "var/task/group", 0o2755);
        let image = directory(image, "var/task/shared", 0o2755);
        insta::assert_snapshot!(found(mode(image.dir("usr"), "usr/su", 0o4755)), @"
        LMB044 warning 1 var/task/group: it has the set-group-id bit (mode 2755)
        LMB044 warning 1 var/task/tool: it has the set-user-id bit (mode 4755)
        LMB044 note 1 usr/su: it has the set-user-id bit (mode 4755)
        ");
        // Where all is one layer, programs of the system are the system's.
        let program = EntryType::Regular;
        let whole = Forge::new()
            .dir("usr")
            .entry("usr/su", program, 0o4755, b"x", None);
        assert_eq!(found(whole), "");
    }
}
