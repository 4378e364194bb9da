//! Rules of the layers as archives: names, kinds, modes, whiteouts, links.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Bound;

use crate::lambda;
use crate::lambda::check::contents::Seen;
use crate::lambda::check::elf;
use crate::lambda::check::handler;
use crate::lambda::check::modes;
use crate::lambda::check::modules;
use crate::lambda::check::paths::{below, directory, is_within, name};
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{Fault, Level, Look, MOST, Rule, folded};
use crate::oci::flatten::{self, Entry, Kind, Layer, Missing, Tree};

/// What an entry's name begins with that hides one of a lower layer.
const WHITEOUT: &str = ".wh.";
/// What an entry's name begins with that says something of its directory.
const MARK: &str = ".wh..wh.";
/// The entry that hides all that lower layers have in its directory.
const OPAQUE: &str = ".wh..wh..opq";
/// Where files come from that the image need not have.
const OF_THE_SYSTEM: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];
const UNSUPPORTED: &str = "Lambda's unpacker, unlike Docker's, does not take it: the function's state becomes \
                           `Failed` with `InvalidImage (ImageLayerFailure: UnsupportedImageLayerDetected)`.";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB035",
        level: Level::Error,
        title: "A layer lists each directory before what is in it",
        why: UNSUPPORTED,
        remedy: "Make the layer with the directories above each file in it, before the file.",
        look: Look::Layers(lists_directories_first),
    },
    Rule {
        id: "LMB036",
        level: Level::Error,
        title: "A layer has no hard links",
        why: UNSUPPORTED,
        remedy: "Make each of the two names a file of its own, or one a symbolic link.",
        look: Look::Layers(has_no_hard_links),
    },
    Rule {
        id: "LMB037",
        level: Level::Error,
        title: "A layer has files, directories and links alone",
        why: "Lambda's unpacker is stricter than Docker's, and devices and pipes are nothing that a function could use: \
              expect `InvalidImage (ImageLayerFailure: UnsupportedImageLayerDetected)`.",
        remedy: "Leave devices and pipes out of the image; `/dev` is Lambda's.",
        look: Look::Layers(has_no_devices),
    },
    Rule {
        id: "LMB038",
        level: Level::Error,
        title: "Names in a layer do not begin with a slash",
        why: "The image specification has names below the root; unpackers strip the slash, or refuse the layer: expect \
              `InvalidImage (ImageLayerFailure: UnsupportedImageLayerDetected)`.",
        remedy: "Make the layer from within the directory that becomes the root.",
        look: Look::Layers(has_relative_names),
    },
    Rule {
        id: "LMB039",
        level: Level::Error,
        title: "Names in a layer do not have `..` in them",
        why: "Unpackers refuse such a layer, or leave the file out, for it would be written outside the image: expect \
              `InvalidImage (ImageLayerFailure: UnsupportedImageLayerDetected)`.",
        remedy: "Make the layer from within the directory that becomes the root.",
        look: Look::Layers(stays_below_the_root),
    },
    Rule {
        id: "LMB040",
        level: Level::Warning,
        title: "A layer has each name once",
        why: "Which of the two is in the function's file system is the unpacker's choice; Docker takes the last.",
        remedy: "Make the layer anew instead of appending to it.",
        look: Look::Layers(has_each_name_once),
    },
    Rule {
        id: "LMB041",
        level: Level::Warning,
        title: "A whiteout hides a file of a lower layer",
        why: "It removes nothing: the file that was meant is still in the image under another path, or never was.",
        remedy: "Correct the whiteout's path, or remove it.",
        look: Look::Layers(hides_something),
    },
    Rule {
        id: "LMB042",
        level: Level::Warning,
        title: "A layer does not hide what it has itself",
        why: "A whiteout is for lower layers; whether the layer's own file is there is the unpacker's choice.",
        remedy: "Remove either the file or the whiteout from the layer.",
        look: Look::Layers(does_not_hide_its_own),
    },
    Rule {
        id: "LMB043",
        level: Level::Error,
        title: "Lambda's user can read the function's files",
        why: "The function runs as a user who owns no file of the image: `PermissionError`, or \
              `Runtime.ImportModuleError: Unable to import module`.",
        remedy: "Give directories mode 0755 and files 0644, as `COPY --chmod=u=rwX,go=rX` does.",
        look: Look::Files(modes::can_be_read),
    },
    Rule {
        id: "LMB044",
        level: Level::Warning,
        title: "No added program changes its user",
        why: "Lambda's sandbox gives no other user's rights: the set-user-id or set-group-id bit has no effect there, \
              and is a risk elsewhere.",
        remedy: "Remove the bit with `chmod ug-s`.",
        look: Look::Files(modes::changes_no_user),
    },
    Rule {
        id: "LMB045",
        level: Level::Warning,
        title: "Names in a layer are UTF-8",
        why: "Python finds such a file under a name of replacement characters only, and tools that read the image may \
              refuse it.",
        remedy: "Rename the file.",
        look: Look::Files(has_utf8_names),
    },
    Rule {
        id: "LMB046",
        level: Level::Warning,
        title: "Symbolic links in the task root lead to a file of the image",
        why: "Opening it fails with `FileNotFoundError`, importing it with `Runtime.ImportModuleError`: what a link leads to \
              on the machine that built the image is not in it.",
        remedy: "Copy the file itself, or what the link leads to beside it.",
        look: Look::Files(links_lead_somewhere),
    },
];

/// The layers above the base that could be read to their end.
fn whole_added(image: &Subject) -> impl Iterator<Item = (usize, &Layer<Seen>)> {
    let layers = image.layers.iter().enumerate().skip(image.base);
    layers.filter(|(_, layer)| layer.is_whole())
}

/// Faults of single entries of added layers, one a layer: what makes one such entry makes many. What a base has,
/// Lambda is known to take.
fn of_entries(image: &Subject, say: impl Fn(&Entry<Seen>) -> Option<Fault>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, layer) in whole_added(image) {
        let entries = layer.entries.iter();
        let found = entries.filter_map(|entry| {
            let fault = say(entry)?;
            Some(fault.layer(number).path(entry.path()))
        });
        faults.extend(folded(found.collect(), 1));
    }
    folded(faults, MOST)
}

fn leaves_the_root(entry: &Entry<Seen>) -> bool {
    entry.name.split('/').any(|part| part == "..")
}

fn lists_directories_first(image: &Subject) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, layer) in whole_added(image) {
        let missing = unlisted(layer);
        let Some((directory, child)) = missing.first() else {
            continue;
        };
        let child = layer.entries[*child].path();
        let listed = layer.entries.iter().any(|entry| entry.path() == *directory);
        let what = if listed {
            format!("the directory comes after `{child}`, which is in it")
        } else {
            format!("the layer has `{child}` and does not list this directory")
        };
        let more = match missing.len() {
            1 => String::new(),
            2 => ", nor one more before what is in it".to_owned(),
            count => format!(", nor {} more before what is in them", count - 1),
        };
        let fault = Fault::new(format!("{what}{more}"));
        let fault = fault.layer(number).path(directory);
        let is_around = are_around(image, number, &missing);
        if is_around && !has_users(image, layer) {
            continue;
        }
        faults.push(if is_around && is_of_umoci(image, number) {
            fault.level(Level::Note)
        } else {
            fault
        });
    }
    faults
}

/// Whether a layer has anything in the directories that are the user's. The last of a base's may come after all that
/// bases are known by, and AWS's leave out directories.
fn has_users(image: &Subject, layer: &Layer<Seen>) -> bool {
    let mut roots = modules::roots(&image.documents);
    roots.push("opt".to_owned());
    let mut paths = layer.entries.iter().map(Entry::path);
    paths.any(|path| roots.iter().any(|root| below(root, &path).is_some()))
}

/// Whether what is missing are but directories around listed ones, and a lower layer has them.
fn are_around(image: &Subject, number: usize, missing: &[(String, usize)]) -> bool {
    let (lower, layer) = (&image.layers[..number], &image.layers[number]);
    let is_around = |(directory, child): &(String, usize)| {
        let is_listed =
            |entry: &Entry<Seen>| entry.kind == Kind::Directory && entry.path() == *directory;
        let has = |layer: &Layer<Seen>| !layer.is_whole() || layer.entries.iter().any(is_listed);
        layer.entries[*child].kind == Kind::Directory && lower.iter().any(has)
    };
    // More are no change by hand, and would be looked for long.
    missing.len() <= MOST && missing.iter().all(is_around)
}

/// Whether umoci says that it wrote the layer: it leaves out directories around those that it lists, and nobody is
/// known to have met a refusal of that.
fn is_of_umoci(image: &Subject, number: usize) -> bool {
    let history = image.documents.config.value["history"].as_array();
    let steps = history.into_iter().flatten();
    let mut steps = steps.filter(|step| step["empty_layer"].as_bool() != Some(true));
    let step = steps
        .nth(number)
        .and_then(|step| step["created_by"].as_str());
    step.is_some_and(|step| ["umoci repack", "umoci insert"].contains(&step))
}

/// Directories that a layer has something in before it lists them, with the number of the first such entry.
fn unlisted(layer: &Layer<Seen>) -> Vec<(String, usize)> {
    let mut listed = BTreeSet::new();
    let mut missing = Vec::new();
    for (number, entry) in layer.entries.iter().enumerate() {
        let path = entry.path();
        // A whiteout makes nothing, and needs no directory to be there.
        if leaves_the_root(entry) || name(&path).starts_with(WHITEOUT) {
            continue;
        }
        for (end, _) in path.match_indices('/') {
            let directory = &path[..end];
            if !listed.contains(directory) {
                listed.insert(directory.to_owned());
                missing.push((directory.to_owned(), number));
            }
        }
        listed.insert(path);
    }
    missing
}

/// Those of a base are no fault: Debian's own layers have some, and functions run on them.
fn has_no_hard_links(image: &Subject) -> Vec<Fault> {
    of_entries(image, |entry| {
        let target = entry.target.as_deref().unwrap_or_default();
        let is_link = entry.kind == Kind::Hardlink;
        is_link.then(|| Fault::new(format!("it is a hard link to `{target}`")))
    })
}

fn has_no_devices(image: &Subject) -> Vec<Fault> {
    of_entries(image, |entry| {
        let kind = match entry.kind {
            Kind::Device => "a device".to_owned(),
            Kind::Fifo => "a pipe".to_owned(),
            Kind::Other(letter) => {
                format!("an entry of kind `{}`", letter.escape_ascii())
            }
            _ => return None,
        };
        Some(Fault::new(format!("it is {kind}")))
    })
}

fn has_relative_names(image: &Subject) -> Vec<Fault> {
    of_entries(image, |entry| {
        let is_absolute = entry.name.starts_with('/') && !entry.path().is_empty();
        is_absolute.then(|| Fault::new(format!("its name is `{}`", entry.name)))
    })
}

fn stays_below_the_root(image: &Subject) -> Vec<Fault> {
    of_entries(image, |entry| {
        leaves_the_root(entry).then(|| Fault::new(format!("its name is `{}`", entry.name)))
    })
}

fn has_each_name_once(image: &Subject) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, layer) in whole_added(image) {
        let mut entries = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for (at, entry) in layer.entries.iter().enumerate() {
            let path = entry.path();
            // A directory that is said again as it was said before.
            let same = |earlier: &Entry<Seen>| {
                entry.kind == Kind::Directory
                    && earlier.kind == Kind::Directory
                    && earlier.mode == entry.mode
            };
            if path.is_empty() || leaves_the_root(entry) || matches!(entry.kind, Kind::Other(_)) {
                continue;
            }
            match entries.insert(path, entry) {
                Some(earlier) if !same(earlier) => {
                    twice.insert(at);
                }
                _ => {}
            }
        }
        let found = twice.into_iter().map(|at| {
            let fault = Fault::new("the layer has this name more than once");
            fault.layer(number).path(layer.entries[at].path())
        });
        faults.extend(folded(found.collect(), 1));
    }
    folded(faults, MOST)
}

/// The path that a whiteout hides, if the entry is one that hides a single path.
fn hidden_by(entry: &Entry<Seen>) -> Option<String> {
    let path = entry.path();
    let name = name(&path);
    if name.starts_with(MARK) {
        return None;
    }
    let name = name.strip_prefix(WHITEOUT)?;
    Some(flatten::normal(&format!("{}/{name}", directory(&path))))
}

/// Whether an entry hides a path of lower layers, or what that is in.
pub(super) fn hides(entry: &Entry<Seen>, path: &str) -> bool {
    let own = entry.path();
    if name(&own) == OPAQUE {
        return path != directory(&own) && is_within(directory(&own), path);
    }
    hidden_by(entry).is_some_and(|hidden| is_within(&hidden, path))
}

/// The whiteouts of a layer, with what each hides.
fn whiteouts(layer: &Layer<Seen>) -> Vec<(&Entry<Seen>, String)> {
    let all = layer.entries.iter();
    all.filter_map(|entry| Some((entry, hidden_by(entry)?)))
        .collect()
}

/// Whether there is something at a path, or below it.
fn has_at(paths: &BTreeSet<String>, path: &str) -> bool {
    let below = format!("{path}/");
    let mut from = paths.range::<str, _>((Bound::Included(&*below), Bound::Unbounded));
    paths.contains(path) || from.next().is_some_and(|next| next.starts_with(&below))
}

/// A whiteout of an added layer.
struct Whiteout<'a> {
    layer: usize,
    entry: &'a Entry<Seen>,
    /// The path that it hides, as its own is written.
    hidden: String,
    /// Whether its own layer has something there.
    is_own: bool,
    /// Whether lower layers have, or may have.
    is_lower: bool,
}

/// The whiteouts of added layers that could be read. Each goes through the links that its parents are in lower layers.
fn added_whiteouts(image: &Subject) -> Vec<Whiteout<'_>> {
    let mut all = Vec::new();
    let mut lower = Tree::default();
    let mut is_known = true;
    for (layer, its) in image.layers.iter().enumerate() {
        let whiteouts = whiteouts(its);
        if layer >= image.base && its.is_whole() && !whiteouts.is_empty() {
            let real = |path: &str| {
                let above = lower.resolve(directory(path), &image.layers).ok()?;
                Some(flatten::normal(&format!("{above}/{}", name(path))))
            };
            let real = |path: String| real(&path).unwrap_or(path);
            let paths = its.entries.iter().map(Entry::path);
            let own = paths.filter(|path| !name(path).starts_with(WHITEOUT));
            let own: BTreeSet<_> = own.map(real).collect();
            all.extend(whiteouts.into_iter().map(|(entry, hidden)| {
                let path = real(hidden.clone());
                Whiteout {
                    layer,
                    entry,
                    is_own: has_at(&own, &path),
                    is_lower: !is_known || lower.contains(&path),
                    hidden,
                }
            }));
        }
        is_known &= its.is_whole();
        lower.stack(layer, &image.layers);
    }
    all
}

fn of_whiteouts(image: &Subject, say: impl Fn(&Whiteout<'_>) -> Option<String>) -> Vec<Fault> {
    let whiteouts = added_whiteouts(image).into_iter();
    let faults = whiteouts.filter_map(|one| {
        let fault = Fault::new(say(&one)?);
        Some(fault.layer(one.layer).path(one.entry.path()))
    });
    folded(faults.collect(), MOST)
}

fn hides_something(image: &Subject) -> Vec<Fault> {
    of_whiteouts(image, |one| {
        let hides_none = !one.is_lower && !one.is_own;
        hides_none.then(|| format!("no lower layer has `{}`", one.hidden))
    })
}

fn does_not_hide_its_own(image: &Subject) -> Vec<Fault> {
    of_whiteouts(image, |one| {
        one.is_own
            .then(|| format!("the layer has `{}` itself", one.hidden))
    })
}

/// Whether a name was not UTF-8: its bytes beyond ASCII are escaped then, and a backslash is two.
fn is_escaped(name: &str) -> bool {
    let mut rest = name;
    while let Some((_, behind)) = rest.split_once('\\') {
        rest = behind;
        if let Some(after) = behind.strip_prefix('\\') {
            rest = after;
        } else if let [
            b'x',
            b'8'..=b'9' | b'a'..=b'f',
            b'0'..=b'9' | b'a'..=b'f',
            ..,
        ] = behind.as_bytes()
        {
            return true;
        }
    }
    false
}

fn has_utf8_names(image: &Subject) -> Vec<Fault> {
    of_entries(image, |entry| {
        is_escaped(&entry.name).then(|| Fault::new("its name is not UTF-8"))
    })
}

fn links_lead_somewhere(image: &Subject) -> Vec<Fault> {
    let roots = [lambda::TASK_ROOT, "opt"];
    let is_in_circles = Cell::new(false);
    let missed = OnceCell::new();
    let missing = OnceCell::new();
    // So it is with a library that something needs.
    let is_missing = |path: &str| {
        let file = name(path);
        file.contains(".so")
            && missing
                .get_or_init(|| elf::missing_libraries(image))
                .contains(file)
    };
    // Of a module that is looked for, another rule tells that it is not there.
    let is_told = |path: &str| {
        let stem = path.strip_suffix("/__init__.py").unwrap_or(path);
        let stem = stem.strip_suffix(".py").unwrap_or(stem);
        let missed = missed.get_or_init(|| handler::missed(image));
        missed.iter().any(|name| {
            let above = stem.strip_suffix(name.as_str());
            above.is_some_and(|above| above.ends_with('/'))
        })
    };
    let added = image.added();
    let faults = added.filter_map(|(path, found)| {
        let target = found.entry.target.as_deref()?;
        // Those of extensions have their own rule.
        let of_interest =
            roots.iter().any(|root| is_within(root, path)) && directory(path) != "opt/extensions";
        if found.entry.kind != Kind::Symlink || !of_interest || is_made_at_run_time(path, target) {
            return None;
        }
        match image.tree.resolve(path, &image.layers) {
            Ok(_) => return None,
            // Of links that lead to each other one is enough.
            Err(Missing::Loop(_)) if is_in_circles.replace(true) => return None,
            Err(_) if is_told(path) || is_missing(path) => return None,
            Err(_) => {}
        }
        let message = format!("the symbolic link leads to `{target}`, where nothing is");
        Some(
            Fault::new(message)
                .layer(found.layer)
                .path(path)
                .value(target),
        )
    });
    folded(faults.collect(), MOST)
}

/// Whether a link leads where files are only when the function runs.
fn is_made_at_run_time(path: &str, target: &str) -> bool {
    let mut whole: Vec<&str> = if target.starts_with('/') {
        Vec::new()
    } else {
        directory(path).split('/').collect()
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                whole.pop();
            }
            part => whole.push(part),
        }
    }
    whole
        .first()
        .is_some_and(|first| OF_THE_SYSTEM.contains(first))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tar::EntryType;

    use super::is_escaped;
    use crate::lambda::check::subject::Subject;
    use crate::lambda::check::testing::{Forge, told};
    use crate::oci::flatten::Layer;

    fn found(image: Forge) -> String {
        image.findings_of("LMB035".."LMB050")
    }

    #[test]
    fn a_sound_image_has_no_findings() {
        assert_eq!(found(Forge::sound()), "");
        let image = Forge::sound()
            .dir("./")
            .file("./var/task/./ünicode\\x2d.txt", "x")
            .dir("var/task/")
            .link("var/task/data", "/tmp/data")
            .link("var/task/python", "../../var/lang/bin/python3")
            .dir("opt")
            .file("opt/.wh..wh..opq", "")
            .file("opt/.wh..wh.plnk", "")
            .dir("root")
            .entry("root/secret", EntryType::Regular, 0o600, b"", None)
            .dir("etc")
            .entry("etc/shadow", EntryType::Regular, 0o000, b"", None)
            .entry(
                "pax_global_header",
                EntryType::XGlobalHeader,
                0o666,
                b"",
                None,
            )
            .layer()
            .file("var/task/.wh.data", "");
        assert_eq!(found(image), "");
    }

    #[test]
    fn directories_that_are_not_listed_first() {
        let of = |image: Forge| found(image);
        let new = || Forge::sound().layer();
        insta::assert_snapshot!(of(new().file("app/src/main.py", "x").file("app/src/b.py", "x")), @"LMB035 error 2 app: the layer has `app/src/main.py` and does not list this directory, nor one more before what is in it");
        insta::assert_snapshot!(of(new().file("app/main.py", "x").dir("app").dir("app/lib")), @"LMB035 error 2 app: the directory comes after `app/main.py`, which is in it");
        insta::assert_snapshot!(of(new().dir("var").file("var/task/b.py", "x")), @"LMB035 error 2 var/task: the layer has `var/task/b.py` and does not list this directory");
        // What `tar -C root -cf - var/task` writes; umoci alone is known to get through with it.
        let parts = || new().dir("var/task/data");
        insta::assert_snapshot!(of(parts()), @"LMB035 error 2 var: the layer has `var/task/data` and does not list this directory, nor one more before what is in it");
        let by = |step: &str| {
            let mut image = parts();
            image.config["history"] = json!([
                {"created_by": "base"},
                {"created_by": "umoci config", "empty_layer": true},
                {"created_by": "COPY"},
                {"created_by": step},
            ]);
            of(image)
        };
        insta::assert_snapshot!(by("umoci insert"), @"LMB035 note 2 var: the layer has `var/task/data` and does not list this directory, nor one more before what is in it");
        assert!(by("umoci raw add-layer").starts_with("LMB035 error"));
        // The last layer of a base.
        let last = new().dir("var/task").dir("var/log").file("var/log/a", "x");
        assert_eq!(of(last), "");
        let base = Forge::new()
            .file("etc/os-release", "ID=some\n")
            .layer()
            .dir("etc");
        assert_eq!(of(base), "");
    }

    /// As `perl` and `gunzip` are in those of Debian, which AWS names as one to build functions on.
    #[test]
    fn hard_links_of_a_base_are_taken() {
        let base = Forge::new()
            .file("etc/os-release", "ID=debian\n")
            .dir("usr")
            .dir("usr/bin")
            .file("usr/bin/perl", "x")
            .entry(
                "usr/bin/perl5.36.0",
                EntryType::Link,
                0o755,
                b"",
                Some("usr/bin/perl"),
            )
            .layer()
            .dir("var")
            .dir("var/task")
            .file("var/task/app.py", "x");
        assert!(!found(base).contains("LMB036"));
    }

    #[test]
    fn entries_of_other_kinds() {
        let image = Forge::sound()
            .entry(
                "var/task/b",
                EntryType::Link,
                0o644,
                b"",
                Some("var/task/app.py"),
            )
            .entry("var/task/null", EntryType::Char, 0o666, b"", None)
            .entry("var/task/disk", EntryType::Block, 0o666, b"", None)
            .entry("var/task/pipe", EntryType::Fifo, 0o666, b"", None);
        insta::assert_snapshot!(found(image), @"
        LMB036 error 1 var/task/b: it is a hard link to `var/task/app.py`
        LMB037 error 1 var/task/null: it is a device, and 2 more of the kind
        ");
        let base = Forge::new()
            .dir("dev")
            .entry("dev/null", EntryType::Char, 0o666, b"", None)
            .entry("dev/zero", EntryType::Char, 0o666, b"", None)
            .file("os-release", "x")
            .entry("b", EntryType::Link, 0o644, b"", Some("os-release"))
            .dir("etc")
            .file("etc/os-release", "x")
            .layer()
            .dir("etc");
        assert_eq!(found(base), "");
        let many = (0..30).fold(Forge::sound(), |image, number| {
            image.entry(
                &format!("l{number}"),
                EntryType::Link,
                0o644,
                b"",
                Some("var/task/app.py"),
            )
        });
        insta::assert_snapshot!(found(many), @"LMB036 error 1 l0: it is a hard link to `var/task/app.py`, and 29 more of the kind");
    }

    #[test]
    fn names() {
        let image = Forge::sound().file("/var/task/b.py", "x").dir("/");
        insta::assert_snapshot!(found(image), @"LMB038 error 1 var/task/b.py: its name is `/var/task/b.py`");
        let image = Forge::sound().file("var/task/../../evil", "x");
        insta::assert_snapshot!(found(image), @"LMB039 error 1 var/task/../../evil: its name is `var/task/../../evil`");
        let image = Forge::sound()
            .file("var/task/app.py", "x")
            .dir("./var/task");
        insta::assert_snapshot!(found(image), @"LMB040 warning 1 var/task/app.py: the layer has this name more than once");
        assert!(is_escaped("caf\\xe9") && is_escaped("\\\\\\xff"));
        for name in ["café", "a\\x2db", "\\\\xe9", "\\xe", "\\"] {
            assert!(!is_escaped(name), "{name}");
        }
    }

    #[test]
    fn whiteouts() {
        let image = Forge::sound().file("var/task/.wh.gone.py", "");
        insta::assert_snapshot!(found(image), @"LMB041 warning 1 var/task/.wh.gone.py: no lower layer has `var/task/gone.py`");
        let image = Forge::sound().file("var/task/.wh.app.py", "");
        insta::assert_snapshot!(found(image), @"LMB042 warning 1 var/task/.wh.app.py: the layer has `var/task/app.py` itself");
        let image = Forge::sound()
            .layer()
            .file("var/.wh.task", "")
            .dir("var")
            .dir("var/task")
            .file("var/task/b.py", "");
        insta::assert_snapshot!(found(image), @"LMB042 warning 2 var/.wh.task: the layer has `var/task` itself");
    }

    #[test]
    fn whiteouts_go_through_links() {
        let image = Forge::sound().layer().file("bin/.wh.env", "");
        assert_eq!(found(image), "");
        let image = Forge::sound().layer().file("bin/.wh.gone", "");
        insta::assert_snapshot!(found(image), @"LMB041 warning 2 bin/.wh.gone: no lower layer has `bin/gone`");
        let image = Forge::sound()
            .layer()
            .file("bin/.wh.env", "")
            .dir("usr")
            .dir("usr/bin")
            .file("usr/bin/env", "x");
        insta::assert_snapshot!(found(image), @"LMB042 warning 2 bin/.wh.env: the layer has `bin/env` itself");
    }

    /// What is found where the layer of this number cannot be read.
    fn without(image: Forge, number: usize) -> String {
        let Subject {
            documents,
            mut layers,
            ..
        } = image.subject();
        layers[number] = Layer::unread(layers[number].stated.clone());
        layers[number].damage = Some("it is not there".to_owned());
        let found = told(&Subject::new(documents, layers));
        let of_interest =
            |line: &&str| line.starts_with("LMB014") || ("LMB035".."LMB050").contains(line);
        found
            .lines()
            .filter(of_interest)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn layers_beside_one_that_cannot_be_read_are_judged() {
        let link = |image: Forge, path: &str, target: &str| {
            image.entry(path, EntryType::Link, 0o644, b"", Some(target))
        };
        let image = link(Forge::sound(), "var/task/b.py", "var/task/app.py").layer();
        let image = image.dir("var").layer().file("var/.wh.gone", "");
        insta::assert_snapshot!(without(image, 2), @"
        LMB014 error 2: the layer cannot be read to its end: it is not there
        LMB036 error 1 var/task/b.py: it is a hard link to `var/task/app.py`
        ");
        // What was in it may be what tells where the base ends.
        let base = Forge::new().file("file", "x");
        let image = link(base, "other", "file")
            .layer()
            .file("lambda-entrypoint.sh", "")
            .layer();
        insta::assert_snapshot!(without(image.dir("var"), 1), @"LMB014 error 1: the layer cannot be read to its end: it is not there");
    }

    #[test]
    fn links_to_nowhere() {
        let image = Forge::sound()
            .link("var/task/config", "/home/me/config")
            .link("var/task/above", "../../../../../outside")
            .link("var/task/circle", "round")
            .link("var/task/round", "circle")
            .dir("etc")
            .link("etc/nowhere", "gone");
        insta::assert_snapshot!(found(image), @"
        LMB046 warning 1 var/task/above: the symbolic link leads to `../../../../../outside`, where nothing is
        LMB046 warning 1 var/task/circle: the symbolic link leads to `round`, where nothing is
        LMB046 warning 1 var/task/config: the symbolic link leads to `/home/me/config`, where nothing is
        ");
        // Where it is a module that is imported, another rule tells that it is not there.
        for (module, link) in [
            ("other.handler", "var/task/other.py"),
            ("pkg.app.handler", "var/task/pkg"),
            ("own.app.handler", "var/task/own/app.py"),
        ] {
            let mut image = Forge::sound().dir("var/task/own").link(link, "gone");
            image.run["Cmd"] = serde_json::json!([module]);
            let found = image.findings();
            assert!(found.starts_with("LMB052 error"), "{found}");
            assert_eq!(found.lines().count(), 1, "{found}");
        }
    }
}
