//! What an ELF file and a loader have to say to each other: which libraries it needs and where it has them
//! looked for, which versions it asks of them, and which it has to offer.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_VERDEF, PT_INTERP, VER_FLG_BASE, VER_FLG_WEAK,
    Verdaux, Verdef,
};
use object::read::elf::ProgramHeader as _;
use object::read::{ReadCache, ReadRef};

use super::{Dynamic, Error, MAX_VERSIONS};

/// Real files need at most some dozens.
const MAX_NEEDED: usize = 4_096;
/// A library path's length in bytes, with room: wheels name thirty directories in theirs.
const MAX_PATH: u64 = 16 << 10;

/// What one file says to the loader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The loader that a program asks for.
    pub interpreter: Option<Box<str>>,
    /// The name that others need it by.
    pub soname: Option<Box<str>>,
    /// The libraries that it needs, in its order.
    pub needed: Vec<Box<str>>,
    /// Where they and all that they need are looked for, with colons; of no weight beside a `runpath`.
    pub rpath: Option<Box<str>>,
    /// Where they alone are looked for, with colons.
    pub runpath: Option<Box<str>>,
    /// The versions that it asks of libraries, by the libraries' names.
    pub asked: Vec<Asked>,
    /// The versions that it defines itself, as `GLIBC_2.34`.
    pub defined: Vec<Box<str>>,
}

/// The versions that a file asks of one library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The library, as it is needed.
    pub library: Box<str>,
    /// Those that must be there.
    pub versions: Vec<Box<str>>,
    /// Those that it can do without.
    pub weak: Vec<Box<str>>,
}

impl Links {
    /// What it asks of a library.
    pub fn asked_of(&self, library: &str) -> Option<&Asked> {
        let asked = &self.asked;
        let at = asked.binary_search_by(|asked| (*asked.library).cmp(library));
        asked.get(at.ok()?)
    }
}

/// Reads what a file of 64 bits says to the loader; nothing where it is loaded alone.
///
/// # Errors
/// See [`Error`].
pub fn links<F: Read + Seek>(file: F) -> Result<Links, Error> {
    read(&ReadCache::new(file))
}

fn read<'data, R: ReadRef<'data>>(data: R) -> Result<Links, Error> {
    let Some(dynamic) = Dynamic::read(data)? else {
        return Ok(Links::default());
    };
    let endian = dynamic.endian;
    let text = |tag| Some(dynamic.text(dynamic.value(tag)?, MAX_PATH)?.into());
    let mut links = Links {
        interpreter: interpreter(&dynamic),
        soname: text(DT_SONAME),
        rpath: text(DT_RPATH),
        runpath: text(DT_RUNPATH),
        ..Links::default()
    };
    for name in dynamic.values(DT_NEEDED) {
        if links.needed.len() == MAX_NEEDED {
            return Err(Error::TooMany("needed libraries"));
        }
        let name = dynamic.name(name);
        links
            .needed
            .push(name.ok_or(Error::Short("needed libraries"))?.into());
    }
    let mut asked: BTreeMap<&str, Asked> = BTreeMap::new();
    dynamic.each_need(|library, version| {
        let name = |within: u32| dynamic.name(within.into());
        let library = name(library.vn_file.get(endian));
        let version_name = name(version.vna_name.get(endian));
        let (Some(library), Some(name)) = (library, version_name) else {
            return;
        };
        let asked = asked.entry(library).or_insert_with(|| Asked {
            library: library.into(),
            versions: Vec::new(),
            weak: Vec::new(),
        });
        let is_weak = version.vna_flags.get(endian).contains(VER_FLG_WEAK);
        let list = if is_weak {
            &mut asked.weak
        } else {
            &mut asked.versions
        };
        list.push(name.into());
    })?;
    links.asked = asked.into_values().collect();
    links.defined = defined(&dynamic)?;
    Ok(links)
}

fn interpreter<'data, R: ReadRef<'data>>(dynamic: &Dynamic<'data, R>) -> Option<Box<str>> {
    let mut segments = dynamic.segments.iter();
    let segment = segments.find(|segment| segment.p_type(dynamic.endian) == PT_INTERP)?;
    let length = segment.p_filesz(dynamic.endian).min(MAX_PATH);
    let start = segment.p_offset(dynamic.endian);
    let bytes = dynamic.data.read_bytes_at(start, length).ok()?;
    let text = bytes.split(|&byte| byte == 0).next()?;
    Some(str::from_utf8(text).ok()?.into())
}

/// The names of the versions that a library defines, but for the one that is its own name.
fn defined<'data, R: ReadRef<'data>>(dynamic: &Dynamic<'data, R>) -> Result<Vec<Box<str>>, Error> {
    let mut names = Vec::new();
    let Some(mut place) = dynamic.place(DT_VERDEF) else {
        return Ok(names);
    };
    let short = |()| Error::Short("versions");
    for _ in 0..MAX_VERSIONS {
        let version: &Verdef<_> = dynamic.data.read_at(place).map_err(short)?;
        let first = place.saturating_add(version.vd_aux.get(dynamic.endian).into());
        if !version.vd_flags.get(dynamic.endian).contains(VER_FLG_BASE) {
            let first: &Verdaux<_> = dynamic.data.read_at(first).map_err(short)?;
            let name = dynamic.name(first.vda_name.get(dynamic.endian).into());
            names.extend(name.map(Into::into));
        }
        match version.vd_next.get(dynamic.endian) {
            0 => return Ok(names),
            next => place = place.saturating_add(next.into()),
        }
    }
    Err(Error::TooMany("versions"))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::python::elf::testing::Made;

    #[test]
    fn all_that_a_file_says_is_read() {
        let made = Made {
            soname: "libone.so.1",
            needed: &["libtwo.so.2", "libc.so.6"],
            asks: &[
                ("libc.so.6", &["GLIBC_2.17", "GLIBC_2.38?"]),
                ("libtwo.so.2", &["TWO_1"]),
            ],
            defines: &["ONE_1.0", "ONE_1.1"],
            rpath: "/some:$ORIGIN",
            runpath: "$ORIGIN/../one.libs",
            interpreter: "/lib64/ld-linux-x86-64.so.2",
            ..Made::default()
        };
        let links = links(Cursor::new(made.bytes())).unwrap();
        insta::assert_snapshot!(format!("{links:#?}").replace(",\n", "\n"), @r#"
        Links {
            interpreter: Some(
                "/lib64/ld-linux-x86-64.so.2"
            )
            soname: Some(
                "libone.so.1"
            )
            needed: [
                "libtwo.so.2"
                "libc.so.6"
            ]
            rpath: Some(
                "/some:$ORIGIN"
            )
            runpath: Some(
                "$ORIGIN/../one.libs"
            )
            asked: [
                Asked {
                    library: "libc.so.6"
                    versions: [
                        "GLIBC_2.17"
                    ]
                    weak: [
                        "GLIBC_2.38"
                    ]
                }
                Asked {
                    library: "libtwo.so.2"
                    versions: [
                        "TWO_1"
                    ]
                    weak: []
                }
            ]
            defined: [
                "ONE_1.0"
                "ONE_1.1"
            ]
        }
        "#);
        let facts = crate::python::elf::facts(Cursor::new(made.bytes())).unwrap();
        assert_eq!(facts.glibc.unwrap().symbol, "GLIBC_2.17");
    }

    #[test]
    fn the_systems_own_c_library_defines_versions() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut paths = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5));
        let path = paths.find(|path| path.ends_with("/libc.so.6")).unwrap();
        let links = links(std::fs::File::open(path).unwrap()).unwrap();
        assert_eq!(links.soname.as_deref(), Some("libc.so.6"));
        assert!(links.defined.iter().any(|name| &**name == "GLIBC_2.17"));
        assert!(
            links
                .asked
                .iter()
                .any(|asked| asked.library.starts_with("ld-linux"))
        );
    }
}
