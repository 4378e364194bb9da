//! Rules of what makes an image large, and need not.

use std::collections::BTreeMap;

use bytesize::ByteSize;

use crate::lambda;
use crate::lambda::check::paths;
use crate::lambda::check::subject::Subject;
use crate::lambda::check::{Fault, Level, Look, Rule, folded, may_be_users, wheels};
use crate::oci::flatten::Kind;

/// The most that an image may have unpacked, in bytes. AWS writes 10 GB; what is between that and 10 GiB is told
/// as a warning.
const MOST_UNPACKED: u64 = 10 << 30;
const SAFE: u64 = 10_000_000_000;

/// Less is not worth a word, in bytes: of tests and caches together, of a file.
const WORTH: u64 = 64 << 10;
const WORTH_FILE: u64 = 1 << 20;
/// Directories that tools of developers leave.
const CACHES: [&str; 3] = [".mypy_cache", ".pytest_cache", ".ruff_cache"];
/// What is shipped and never seen may be so much, in bytes.
const WORTH_HIDDEN: u64 = 10 << 20;
/// As many findings of one rule are shown.
const MOST: usize = 5;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB101",
        level: Level::Error,
        title: "All layers unpacked are no more than 10 GB",
        why: "Lambda takes images of up to 10 GB uncompressed, all layers counted, and what upper layers hide counts too.",
        remedy: "Leave packages out, or put large files elsewhere than in the image.",
        look: Look::Layers(fits),
    },
    Rule {
        id: "LMB102",
        level: Level::Note,
        title: "No tests and caches are shipped",
        why: "Nothing reads them when the function runs; the image is pushed, pulled and kept with them.",
        remedy: "Exclude them from the packages, and build with `pip install --no-cache-dir`.",
        look: Look::Files(ships_no_tests),
    },
    Rule {
        id: "LMB103",
        level: Level::Note,
        title: "A large file is there once",
        why: "Both copies are pushed, pulled and kept.",
        remedy: "Make one of them a symbolic link to the other, or leave it out.",
        look: Look::Files(has_large_files_once),
    },
    Rule {
        id: "LMB104",
        level: Level::Note,
        title: "The AWS SDK is there once",
        why: "AWS's base images have it, and those bytes are cached near every function.",
        remedy: "Leave boto3 and botocore out of the requirements, unless the version matters.",
        look: Look::Files(has_the_sdk_once),
    },
    Rule {
        id: "LMB105",
        level: Level::Note,
        title: "No layer ships much that an upper layer hides",
        why: "What an upper layer replaces or removes is pushed, pulled and counted all the same.",
        remedy: "Add and remove the files in one step of the build, or leave them out.",
        look: Look::Files(ships_little_unseen),
    },
];

fn fits(image: &Subject) -> Vec<Fault> {
    let layers = image.layers.iter().filter(|layer| layer.is_whole());
    let sum: u64 = layers.map(|layer| layer.unpacked).sum();
    if sum <= SAFE {
        return Vec::new();
    }
    let fault = Fault::new(format!("the layers have {sum} bytes unpacked")).value(sum.to_string());
    vec![if sum > MOST_UNPACKED {
        fault
    } else {
        fault.level(Level::Warning)
    }]
}

/// A size as people read it.
fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}

/// Whether a file is of the function's own tests, or what tools leave beside them.
fn is_of_own_tests(image: &Subject, path: &str) -> bool {
    let Some(below) = paths::below(lambda::TASK_ROOT, path) else {
        return false;
    };
    let (first, rest) = below.split_once('/').unwrap_or(("", below));
    let name = paths::name(rest);
    let is_test = matches!(first, "tests" | "test")
        && (name.starts_with("test_") && paths::has_ending(name, "py") || name == "conftest.py");
    let python = image.python.as_ref();
    (is_test || CACHES.contains(&first))
        && !python.is_some_and(|python| wheels::is_recorded(image, python, path))
}

/// The outermost directory of a path that holds tests or a cache.
fn useless(path: &str) -> Option<&str> {
    let caches = [
        "root/.cache",
        "var/cache/dnf",
        "var/cache/yum",
        "var/cache/apt",
        "var/lib/apt/lists",
    ];
    let cache = caches.into_iter().find(|cache| {
        let rest = path.strip_prefix(cache);
        rest.is_some_and(|rest| rest.starts_with('/'))
    });
    if let Some(cache) = cache {
        return Some(&path[..cache.len()]);
    }
    let installed = path.contains("/site-packages/")
        || path.starts_with(lambda::TASK_ROOT)
        || path.starts_with("opt/python/");
    let mut ends = path.match_indices('/');
    let (end, _) = ends.find(|(end, _)| {
        let name = path[..*end].rsplit('/').next();
        name.is_some_and(|name| matches!(name, "tests" | "test") || CACHES.contains(&name))
    })?;
    installed.then_some(&path[..end])
}

fn ships_no_tests(image: &Subject) -> Vec<Fault> {
    let mut sizes: BTreeMap<(&str, usize), u64> = BTreeMap::new();
    // The function's own are told however small they are.
    let mut has_own = false;
    for (path, found) in image
        .added()
        .filter(|(_, found)| found.entry.kind == Kind::File)
    {
        if let Some(directory) = useless(path).filter(|_| may_be_users(image, path)) {
            *sizes.entry((directory, found.layer)).or_default() += found.entry.size;
            has_own |= is_of_own_tests(image, path);
        }
    }
    let sum = sizes.values().sum();
    let largest = sizes.iter().max_by_key(|(_, size)| **size);
    let Some(((directory, layer), _)) = largest.filter(|_| sum >= WORTH || has_own) else {
        return Vec::new();
    };
    let more = match sizes.len() - 1 {
        0 => String::new(),
        more => format!(", with {more} more directories of the kind"),
    };
    let message = format!("{} that no function reads{more}", ByteSize(sum));
    vec![Fault::new(message).layer(*layer).path(*directory)]
}

fn has_large_files_once(image: &Subject) -> Vec<Fault> {
    let mut first = BTreeMap::new();
    let mut faults = Vec::new();
    for (path, found) in image.added() {
        let seen = found.entry.seen.as_ref();
        let digest = seen.and_then(|seen| seen.digest);
        let (Some(digest), true) = (digest, found.entry.size >= WORTH_FILE) else {
            continue;
        };
        match first.get(&digest.to_string()) {
            // Two names of one file are one file.
            Some((_, number)) if std::ptr::eq(*number, found.entry) => {}
            Some((other, _)) => {
                let message = format!("it is `{other}` again, {}", ByteSize(found.entry.size));
                faults.push(Fault::new(message).layer(found.layer).path(path));
            }
            None => {
                first.insert(digest.to_string(), (path, found.entry));
            }
        }
    }
    folded(faults, 1)
}

/// The version of a distribution that is installed in a directory.
fn version_in<'a>(
    image: &'a Subject,
    directory: &str,
    name: &str,
    is_added: bool,
) -> Option<(&'a str, &'a str)> {
    let mut paths = image.tree.paths_below(directory);
    paths.find_map(|path| {
        let rest = path.strip_prefix(directory)?.strip_prefix('/')?;
        let version = rest.strip_prefix(name)?.strip_prefix('-')?;
        let version = version.strip_suffix(".dist-info/METADATA")?;
        let layer = image.get(path)?.layer;
        let fits = !version.contains('/') && (layer >= image.base) == is_added;
        fits.then_some((path, version))
    })
}

fn has_the_sdk_once(image: &Subject) -> Vec<Fault> {
    if image.base == 0 {
        return Vec::new();
    }
    let library = image.tree.paths_below("var/lang/lib").find_map(|path| {
        let version = path.strip_prefix("var/lang/lib/")?;
        (version.starts_with("python3.") && !version.contains('/'))
            .then(|| format!("{path}/site-packages"))
    });
    let bases = [lambda::RUNTIME_DIR.to_owned()].into_iter().chain(library);
    let bases: Vec<_> = bases.collect();
    let mut twice = Vec::new();
    for name in ["boto3", "botocore"] {
        let own = version_in(image, lambda::TASK_ROOT, name, true);
        let mut of_base = bases.iter();
        let of_base = of_base.find_map(|base| version_in(image, base, name, false));
        if let (Some((_, own)), Some((_, base))) = (own, of_base) {
            twice.push(format!("{name} {own}, and the base {base}"));
        }
    }
    let size = |name: &str| -> u64 {
        let below = image
            .tree
            .paths_below(&format!("{}/{name}", lambda::TASK_ROOT));
        let found = below.filter_map(|path| image.get(path));
        found.map(|found| found.entry.size).sum()
    };
    let size = size("boto3") + size("botocore");
    if twice.is_empty() {
        return Vec::new();
    }
    let message = format!(
        "the task root has {} ({})",
        twice.join("; "),
        ByteSize(size)
    );
    vec![Fault::new(message).path(lambda::TASK_ROOT)]
}

fn ships_little_unseen(image: &Subject) -> Vec<Fault> {
    let mut faults = Vec::new();
    let shown = image.tree.shown();
    for (number, layer) in image.layers.iter().enumerate().skip(image.base) {
        let entries = layer.entries.iter().enumerate();
        let hidden = entries.filter_map(|(at, entry)| {
            let is_hidden = entry.kind == Kind::File && !shown.contains(&(number, at));
            is_hidden.then(|| (entry.size, entry.path()))
        });
        let (mut size, mut count) = (0, 0);
        let mut largest = (0, String::new());
        for (bytes, path) in hidden {
            size += bytes;
            count += 1;
            largest = largest.max((bytes, path));
        }
        if size >= WORTH_HIDDEN {
            let message = format!(
                "{} in {count} files of this layer are hidden by upper layers, most of it in this one",
                megabytes(size)
            );
            faults.push(Fault::new(message).layer(number).path(largest.1));
        }
    }
    folded(faults, MOST)
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::{Forge, told};

    fn found(image: Forge) -> String {
        image.findings_of("LMB102".."LMB106")
    }

    fn megabytes(count: usize) -> Vec<u8> {
        vec![b'x'; count << 20]
    }

    #[test]
    fn tests_and_caches() {
        assert_eq!(found(Forge::sound()), "");
        let image = Forge::sound()
            .file("var/task/some/tests/data", megabytes(4))
            .file("var/task/some/tests/a/tests/data", megabytes(3))
            .file("var/task/other/tests/data", megabytes(4))
            .file("var/task/contests/data", megabytes(6))
            .file("usr/src/tests/data", megabytes(7))
            .file("root/.cache/pip/http/a", megabytes(8));
        insta::assert_snapshot!(found(image), @"
        LMB102 note 1 root/.cache: 19.0 MiB that no function reads, with 2 more directories of the kind
        LMB103 note 1 var/task/some/tests/data: it is `var/task/other/tests/data` again, 4.0 MiB
        ");
    }

    #[test]
    fn the_functions_own_tests_are_told_however_small() {
        let small = |path: &str| found(Forge::sound().file(path, "x"));
        insta::assert_snapshot!(small("var/task/tests/unit/test_app.py"), @"LMB102 note 1 var/task/tests: 1 B that no function reads");
        insta::assert_snapshot!(small("var/task/.pytest_cache/README.md"), @"LMB102 note 1 var/task/.pytest_cache: 1 B that no function reads");
        for other in ["tests/data.json", "some/tests/test_app.py", "test_app.py"] {
            assert_eq!(small(&format!("var/task/{other}")), "", "{other}");
        }
        let recorded = Forge::sound()
            .file("var/task/tests/test_app.py", "x")
            .file("var/task/a-1.0.dist-info/RECORD", "tests/test_app.py,,\n");
        assert_eq!(found(recorded), "");
    }

    #[test]
    fn files_that_are_there_twice() {
        let image = Forge::sound()
            .file("var/task/a", megabytes(5))
            .file("var/task/b", megabytes(5))
            .entry(
                "var/task/link",
                tar::EntryType::Link,
                0o644,
                b"",
                Some("var/task/a"),
            )
            .file("var/task/small", megabytes(4))
            .file("var/task/small-again", megabytes(4));
        insta::assert_snapshot!(found(image), @"LMB103 note 1 var/task/b: it is `var/task/a` again, 5.0 MiB, and 1 more of the kind");
        let library = [b"\x7fELF".to_vec(), vec![0; 17 << 10]].concat();
        let small = Forge::sound()
            .file("var/task/a.so", &library)
            .file("var/task/b.so", &library);
        assert_eq!(found(small), "");
    }

    #[test]
    fn the_sdk_twice() {
        let base = || {
            Forge::new()
                .program("lambda-entrypoint.sh", "#!/bin/sh\n")
                .file(
                    "var/lang/lib/python3.12/site-packages/boto3-1.40.4.dist-info/METADATA",
                    "",
                )
                .file(
                    "var/lang/lib/python3.12/site-packages/botocore-1.40.4.dist-info/METADATA",
                    "",
                )
                .layer()
        };
        let image = base()
            .file("var/task/boto3-1.43.1.dist-info/METADATA", "")
            .file("var/task/botocore-1.43.1.dist-info/METADATA", "")
            .file("var/task/botocore/data", megabytes(6));
        insta::assert_snapshot!(found(image), @"LMB104 note var/task: the task root has boto3 1.43.1, and the base 1.40.4; botocore 1.43.1, and the base 1.40.4 (6.0 MiB)");
        assert_eq!(
            found(base().file("var/task/botocore/data", megabytes(6))),
            ""
        );
    }

    #[test]
    fn what_upper_layers_hide() {
        let image = Forge::sound()
            .file("var/task/model", megabytes(9))
            .file("var/task/a", megabytes(2))
            .layer()
            .file("var/task/.wh.model", "")
            .file("var/task/a", "small");
        insta::assert_snapshot!(found(image), @"LMB105 note 1 var/task/model: 11 MB in 2 files of this layer are hidden by upper layers, most of it in this one");
        let less = Forge::sound()
            .file("var/task/model", megabytes(9))
            .layer()
            .file("var/task/.wh.model", "");
        assert_eq!(found(less), "");
    }

    #[test]
    fn what_is_reached_through_a_link_is_not_hidden() {
        let image = Forge::sound()
            .layer()
            .file("bin/data", megabytes(11))
            .layer()
            .dir("var");
        assert_eq!(found(image), "");
    }

    #[test]
    fn ten_gigabytes_are_the_most() {
        let of = |sizes: [u64; 2]| {
            let mut subject = Forge::new().dir("a/").layer().dir("a/").subject();
            subject.layers[0].unpacked = sizes[0];
            subject.layers[1].unpacked = sizes[1];
            let all = told(&subject);
            let own = all.lines().find(|line| line.starts_with("LMB101"));
            own.unwrap_or_default().to_owned()
        };
        assert_eq!(of([5_000_000_000; 2]), "");
        assert_eq!(
            of([5_000_000_000, 5_000_000_001]),
            "LMB101 warning: the layers have 10000000001 bytes unpacked"
        );
        assert_eq!(
            of([10 << 30, 1]),
            "LMB101 error: the layers have 10737418241 bytes unpacked"
        );
        // Another layer that cannot be read does not make them smaller.
        let mut subject = Forge::new().dir("a/").layer().dir("a/").subject();
        subject.layers[0].unpacked = 11 << 30;
        subject.layers[1].diff_id = None;
        assert!(told(&subject).contains("LMB101 error"));
    }
}
