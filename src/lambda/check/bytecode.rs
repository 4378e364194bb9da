//! Rules of compiled modules: whether Python takes them, and whether they are of the source beside them.
//!
//! An empty `.pyc` is never wrong: it hides one of a lower layer, and Python compiles the source as if there were
//! none. What only the base's layers are about is the base's.

use std::collections::BTreeMap;

use crate::lambda::check::contents::Seen;
use crate::lambda::check::paths::{below, has_ending};
use crate::lambda::check::subject::{Python, Subject};
use crate::lambda::check::{Fault, Level, Look, MOST, Rule, folded, wheels};
use crate::oci::flatten::{Found, Kind};
use crate::python::pyc::{self, Check, Header};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB086",
        level: Level::Error,
        title: "Bytecode is of the image's Python",
        why: "Python leaves bytecode with another magic number aside and compiles the source at each cold start, for the \
              file system is read-only; where there is no source, the import fails with `ImportError: bad magic number`.",
        remedy: "Compile with the Python that is in the image, or leave the `.pyc` files out.",
        look: Look::Files(is_of_the_images_python),
    },
    Rule {
        id: "LMB087",
        level: Level::Warning,
        title: "Bytecode is not stale",
        why: "Python holds a `.pyc` against the date and size, or the hash, of its source; where they differ it compiles \
              the source again at each cold start, for the file system is read-only.",
        remedy: "Compile after the last change of sources and dates, or with `--invalidation-mode unchecked-hash`.",
        look: Look::Files(is_not_stale),
    },
    Rule {
        id: "LMB088",
        level: Level::Warning,
        title: "Unchecked bytecode is that of its source",
        why: "Python runs an unchecked `.pyc` without a look at the source beside it: the function runs old code, and \
              nothing says so.",
        remedy: "Compile the source again.",
        look: Look::Files(is_that_of_its_source),
    },
];

/// A `.pyc` of the image's Python.
struct Compiled<'a> {
    path: &'a str,
    found: Found<'a, Seen>,
    header: Option<Header>,
    /// Its module's source.
    source: Option<(String, Found<'a, Seen>)>,
    /// Whether it is where only modules without a source are looked for.
    alone: bool,
}

impl Compiled<'_> {
    /// The highest layer that it or its source is from.
    fn layer(&self) -> usize {
        let source = self.source.as_ref().map_or(0, |(_, found)| found.layer);
        self.found.layer.max(source)
    }
}

/// All `.pyc` files that the image's Python would look at, but for empty ones and what the base has.
fn compiled<'a>(image: &'a Subject, python: &Python) -> Vec<Compiled<'a>> {
    let tag = format!(".cpython-3{}", python.version.minor());
    let all = image.tree.paths().filter(|path| has_ending(path, "pyc"));
    let all = all.filter_map(|path| {
        let found = image.get(path)?;
        let (directory, name) = path.rsplit_once('/')?;
        let stem = name.strip_suffix(".pyc")?;
        let (source, alone) = match directory.strip_suffix("/__pycache__") {
            Some(package) => {
                let (stem, optimised) = stem.split_once(&tag)?;
                let is_tag = optimised.is_empty() || optimised.starts_with(".opt-");
                is_tag.then(|| (format!("{package}/{stem}.py"), false))?
            }
            None => (format!("{directory}/{stem}.py"), true),
        };
        let source = image.find(&source);
        let source = source.filter(|(_, found)| found.entry.kind == Kind::File);
        // In the one place nobody looks without a source, in the other nobody with one.
        if found.entry.kind != Kind::File || found.entry.size == 0 || alone == source.is_some() {
            return None;
        }
        let seen = found.entry.seen.as_ref()?;
        let header = Header::read(&seen.head);
        let one = Compiled {
            path,
            found,
            header,
            source,
            alone,
        };
        (one.layer() >= image.base).then_some(one)
    });
    all.collect()
}

/// The directory of the module path, or the package right below it, that a file is in.
fn place_of(path: &str, python: &Python) -> Option<String> {
    let mut directories = python
        .path
        .iter()
        .filter(|directory| below(directory, path).is_some());
    let mut directory = directories.next()?;
    for other in directories {
        if other.len() > directory.len() {
            directory = other;
        }
    }
    let rest = below(directory, path)?;
    Some(match rest.split_once('/') {
        Some((package, _)) if package != "__pycache__" => format!("{directory}/{package}"),
        _ => directory.clone(),
    })
}

/// One fault a place for many files.
fn by_place<'a>(
    python: &Python,
    wrong: impl Iterator<Item = &'a Compiled<'a>>,
    tell: impl Fn(&Compiled<'_>, &str) -> Fault,
) -> Vec<Fault> {
    let mut places: BTreeMap<String, (u64, &Compiled<'_>)> = BTreeMap::new();
    for one in wrong {
        let place = place_of(one.path, python).unwrap_or_default();
        places.entry(place).or_insert((0, one)).0 += 1;
    }
    let faults = places.into_iter().map(|(place, (count, first))| {
        let others = match count {
            1 => String::new(),
            _ => format!("; so are {} others in `{place}`", count - 1),
        };
        let others = others.replace("are 1 others", "is 1 other");
        tell(first, &others)
            .layer(first.found.layer)
            .path(first.path)
    });
    folded(faults.collect(), MOST)
}

fn is_of_the_images_python(image: &Subject) -> Vec<Fault> {
    let Some((python, magic)) = expected(image) else {
        return Vec::new();
    };
    let all = compiled(image, python);
    let wrong = |one: &&Compiled<'_>| {
        let reached = !one.alone || place_of(one.path, python).is_some();
        reached && one.header.is_none_or(|header| header.magic != magic)
    };
    by_place(python, all.iter().filter(wrong), |one, others| {
        let is = match one.header {
            Some(header) => format!("has the magic number {}", header.magic),
            None => "has no header".to_owned(),
        };
        let version = python.version;
        let message = format!("it {is}, and that of Python {version} is {magic}{others}");
        let level = if one.alone {
            Level::Error
        } else {
            Level::Warning
        };
        Fault::new(message).level(level)
    })
}

fn expected(image: &Subject) -> Option<(&Python, u16)> {
    let python = image.python.as_ref()?;
    Some((python, pyc::magic(python.version.minor())?))
}

fn is_not_stale(image: &Subject) -> Vec<Fault> {
    let Some((python, magic)) = expected(image) else {
        return Vec::new();
    };
    let all = compiled(image, python);
    let is_stale = |one: &&Compiled<'_>| {
        one.header.is_some_and(|header| header.magic == magic) && difference(one, python).is_some()
    };
    let stale: Vec<_> = all.iter().filter(is_stale).collect();
    if stale.is_empty() {
        return Vec::new();
    }
    let tell = |one: &Compiled<'_>, others: &str| {
        let difference = difference(one, python).unwrap_or_default();
        Fault::new(format!("it is stale: {difference}{others}"))
    };
    // What a wheel brings so is its maker's to mend; what an installer compiles has no hash.
    let brought = wheels::with_hash(image, python, ".pyc");
    let (brought, own): (Vec<_>, Vec<_>) = stale
        .into_iter()
        .partition(|one| brought.contains(one.path));
    if own.is_empty() {
        by_place(python, brought.into_iter(), |one, others| {
            tell(one, others).level(Level::Note)
        })
    } else {
        by_place(python, own.into_iter(), tell)
    }
}

/// In what the source is another than the one that a checked `.pyc` was made of.
fn difference(one: &Compiled<'_>, python: &Python) -> Option<String> {
    let source = one.source.as_ref()?.1.entry;
    let low = |number: u64| u32::try_from(number & 0xffff_ffff).unwrap_or_default();
    match one.header?.check {
        Check::Date { size, .. } if size != low(source.size) => Some(format!(
            "its source had {size} bytes when it was compiled, and has {}",
            source.size
        )),
        Check::Date { modified, .. } if modified != low(source.modified) => Some(format!(
            "it was made of a source of the date {modified}, and the date is {} (seconds since 1970)",
            source.modified
        )),
        Check::Hash(hash) if is_other(one, python, hash) => {
            Some("it was made of a source with another hash".to_owned())
        }
        _ => None,
    }
}

/// Whether the source has another hash, where its hash is known.
fn is_other(one: &Compiled<'_>, python: &Python, hash: u64) -> bool {
    let seen = one
        .source
        .as_ref()
        .and_then(|(_, found)| found.entry.seen.as_ref());
    let hashes = seen.map(|seen| &*seen.source_hashes).unwrap_or_default();
    let minor = python.version.minor();
    let mut of_line = hashes.iter().filter(|(line, _)| *line == minor);
    of_line.any(|(_, other)| *other != hash)
}

fn is_that_of_its_source(image: &Subject) -> Vec<Fault> {
    let Some((python, magic)) = expected(image) else {
        return Vec::new();
    };
    let all = compiled(image, python);
    let old = |one: &&Compiled<'_>| match one.header {
        Some(Header {
            magic: its,
            check: Check::Unchecked(hash),
        }) => its == magic && is_other(one, python, hash),
        _ => false,
    };
    by_place(python, all.iter().filter(old), |_, others| {
        Fault::new(format!(
            "it is not of the source beside it, and Python does not look{others}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::{Forge, aws, only};
    use crate::python::pyc::SourceHasher;

    const SOURCE: &str = "x = 1\n";
    /// The date that the forge gives.
    const DATE: u32 = 315_532_800;

    fn header(magic: u16, flags: u32, rest: [u32; 2]) -> Vec<u8> {
        let mut bytes = [&magic.to_le_bytes(), b"\r\n".as_slice()].concat();
        for word in [flags, rest[0], rest[1]] {
            bytes.extend(word.to_le_bytes());
        }
        [bytes, b"code".to_vec()].concat()
    }

    fn hashed(flags: u32, source: &str) -> Vec<u8> {
        let mut hasher = SourceHasher::new(Some(12));
        hasher.update(source.as_bytes());
        let hash = hasher.finish()[0].1;
        let word = |number: u64| u32::try_from(number & 0xffff_ffff).unwrap();
        header(3531, flags, [word(hash), word(hash >> 32)])
    }

    fn findings(pyc: &[u8]) -> String {
        let image = image(pyc);
        only(&image.findings(), "LMB08", '6'..='9')
    }

    fn image(pyc: &[u8]) -> Forge {
        aws("app.handler")
            .file("var/task/app.py", "def handler(event, context): pass\n")
            .file("var/task/m.py", SOURCE)
            .file("var/task/__pycache__/m.cpython-312.pyc", pyc)
    }

    #[test]
    fn stale_bytecode_of_a_wheel_is_its_makers() {
        let stale = header(3531, 0, [1, 6]);
        let image = |row: &str| {
            let image = aws("app.handler")
                .file("var/task/a/m.py", SOURCE)
                .file("var/task/a/__pycache__/m.cpython-312.pyc", &stale)
                .file("var/task/a-1.0.dist-info/RECORD", row);
            only(&image.findings(), "LMB08", '7'..='7')
        };
        let brought = image("a/__pycache__/m.cpython-312.pyc,sha256=x,20\n");
        assert!(brought.starts_with("LMB087 note"), "{brought}");
        let compiled = image("a/__pycache__/m.cpython-312.pyc,,\n");
        assert!(compiled.starts_with("LMB087 warning"), "{compiled}");
    }

    #[test]
    fn sound_bytecode_is_not_reported() {
        let size = u32::try_from(SOURCE.len()).unwrap();
        for pyc in [
            header(3531, 0, [DATE, size]),
            hashed(0b01, SOURCE),
            hashed(0b11, SOURCE),
            Vec::new(),
        ] {
            assert_eq!(findings(&pyc), "");
        }
        let others = aws("app.handler")
            .file("var/task/m.py", SOURCE)
            .file(
                "var/task/__pycache__/m.cpython-311.pyc",
                header(3495, 0, [1, 1]),
            )
            .file("var/task/__pycache__/gone.cpython-312.pyc", "nothing")
            .file("var/task/m.pyc", "nothing");
        assert_eq!(only(&others.findings(), "LMB08", '6'..='9'), "");
    }

    #[test]
    fn bytecode_that_is_not_taken_is_found() {
        let size = u32::try_from(SOURCE.len()).unwrap();
        let found = [
            findings(&header(3495, 0, [DATE, size])),
            findings(b"no bytecode"),
            findings(&header(3531, 0, [DATE + 1, size])),
            findings(&header(3531, 0, [DATE, size + 1])),
            findings(&hashed(0b11, "x = 2\n")),
            findings(&hashed(0b01, "x = 2\n")),
        ];
        insta::assert_snapshot!(found.join("\n"));
    }

    #[test]
    fn many_of_a_package_are_one_finding() {
        let mut image = aws("app.handler");
        for name in ["a", "b", "c"] {
            let pyc = format!("var/task/pkg/__pycache__/{name}.cpython-312.pyc");
            let stale = header(3531, 0, [1, 1]);
            image = image
                .file(&format!("var/task/pkg/{name}.py"), "")
                .file(&pyc, stale);
        }
        let image = image.file("var/task/alone.pyc", header(3495, 0, [1, 1]));
        insta::assert_snapshot!(only(&image.findings(), "LMB08", '6'..='9'));
    }

    #[test]
    fn a_source_replaced_on_top_is_found() {
        let image = image(&hashed(0b01, SOURCE))
            .layer()
            .file("var/task/m.py", "x = 3\n");
        insta::assert_snapshot!(only(&image.findings(), "LMB08", '6'..='9'));
    }
}
