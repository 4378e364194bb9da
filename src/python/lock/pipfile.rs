//! `Pipfile.lock`, as pipenv writes it (pipfile-spec 6).
//!
//! It knows the files of an index by their sha256 alone, and does not say who requires whom. The variables
//! in its indexes' addresses are never looked up, and the Pipfile is not read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::digest::Digest;
use crate::http::Url;
use crate::python::lock::{
    Entry, Error, Location, Request, Source, check_known, is_archive, nowhere,
};
use crate::python::markers::Markers;
use crate::python::{Target, normalize_name};

/// The lock's name.
const LOCK: &str = "Pipfile.lock";
/// The version of the format.
const SPEC: u64 = 6;
/// The category of what is always needed.
const DEFAULT: &str = "default";
/// That of the development's tools, and what else it is called.
const DEVELOP: &str = "develop";
const ALSO_DEVELOP: [&str; 2] = ["dev", "dev-packages"];
/// The index that is meant where none is named; which one that is, is the user's to say.
const USUAL_INDEX: &str = "pypi.org";
/// What early releases wrote beside `markers`, as a marker without its variable.
const VARIABLES: [&str; 11] = [
    "implementation_name",
    "implementation_version",
    "os_name",
    "platform_machine",
    "platform_python_implementation",
    "platform_release",
    "platform_system",
    "platform_version",
    "python_full_version",
    "python_version",
    "sys_platform",
];

#[derive(Debug, Deserialize)]
struct Lock {
    #[serde(rename = "_meta")]
    meta: Meta,
    #[serde(flatten)]
    categories: BTreeMap<String, BTreeMap<String, Package>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Meta {
    pipfile_spec: u64,
    #[serde(default)]
    requires: Requires,
    #[serde(default)]
    sources: Vec<Index>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Requires {
    python_version: Option<String>,
    python_full_version: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    name: String,
    url: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Package {
    version: Option<String>,
    hashes: Vec<String>,
    markers: Option<String>,
    index: Option<String>,
    git: Option<String>,
    #[serde(rename = "ref")]
    commit: Option<String>,
    subdirectory: Option<String>,
    path: Option<String>,
    file: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

/// The packages that are wanted, by name.
///
/// # Errors
/// When the lock is not for the target, or what is wanted is unknown.
pub fn entries(text: &str, request: &Request<'_>) -> Result<Vec<Entry>, Error> {
    let lock: Lock = serde_json::from_str(text).map_err(|error| Error::Unreadable {
        file: LOCK,
        source: Box::new(error),
    })?;
    if lock.meta.pipfile_spec != SPEC {
        return Err(Error::Format {
            file: LOCK,
            version: lock.meta.pipfile_spec.to_string(),
            known: "6",
        });
    }
    lock.check_python(request.target)?;
    check_known("extra", &request.wanted.extras, BTreeSet::new())?;
    let markers = Markers::new(request.target);
    let mut entries: Vec<Entry> = Vec::new();
    for (name, package) in lock.wanted(&request.wanted.groups)? {
        if package.is_meant(name, &markers)? {
            let entry = lock.entry(name, package)?;
            // Categories share packages; what differs in more than its index stays, to be refused.
            if !entries.iter().any(|other| is_same(other, &entry)) {
                entries.push(entry);
            }
        }
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

fn is_same(one: &Entry, other: &Entry) -> bool {
    let unplaced = |entry: &Entry| Entry {
        index: None,
        ..entry.clone()
    };
    one.name == other.name && unplaced(one) == unplaced(other)
}

/// The one name of a category.
fn category(name: &str) -> String {
    let name = normalize_name(name);
    if ALSO_DEVELOP.contains(&name.as_str()) {
        DEVELOP.to_owned()
    } else {
        name
    }
}

impl Lock {
    fn check_python(&self, target: Target) -> Result<(), Error> {
        let requires = &self.meta.requires;
        let asked = [&requires.python_version, &requires.python_full_version];
        for requires in asked.into_iter().flatten() {
            // The patch release is that of the machine that locked; pipenv itself only warns.
            let mut numbers = requires.split('.');
            let line = (numbers.next(), numbers.next());
            let minor = target.python.minor().to_string();
            let is_met = match line {
                (Some("3"), Some(number)) => number == minor || number == "*",
                (Some("3" | "*" | ""), None) => true,
                _ => false,
            };
            if !is_met {
                return Err(Error::RequiresPython {
                    requires: requires.clone(),
                    version: target.full_version(),
                });
            }
        }
        Ok(())
    }

    /// The packages of the wanted categories.
    fn wanted(&self, groups: &BTreeSet<String>) -> Result<Vec<(&String, &Package)>, Error> {
        let mut wanted: BTreeSet<String> = groups.iter().map(|name| category(name)).collect();
        let known: BTreeSet<String> = self.categories.keys().map(|name| category(name)).collect();
        wanted.remove(DEFAULT);
        let others = known.into_iter().filter(|name| name != DEFAULT);
        check_known("dependency group", &wanted, others.collect())?;
        wanted.insert(DEFAULT.to_owned());
        let categories = self.categories.iter();
        let categories = categories.filter(|(name, _)| wanted.contains(&category(name)));
        Ok(categories.flat_map(|(_, packages)| packages).collect())
    }

    fn entry(&self, name: &str, package: &Package) -> Result<Entry, Error> {
        let name = normalize_name(name);
        let version = package.version.as_deref();
        let version = version.map(|text| text.trim_start_matches('=').trim());
        let mut entry = Entry {
            version: version.filter(|text| *text != "*").map(str::to_owned),
            ..Entry::default()
        };
        let hashes = package.digests(&name)?;
        if let Some(url) = &package.git {
            let commit = package.commit.clone().ok_or_else(|| nowhere(&name))?;
            entry.source = Some(Source::Repository {
                url: url.trim_start_matches("git+").to_owned(),
                commit,
                subdirectory: package.subdirectory.clone(),
            });
        } else if let Some(place) = package.file.as_ref().or(package.path.as_ref()) {
            package.take_file(&mut entry, place, hashes);
        } else {
            entry.hashes = hashes;
            entry.index = self.index(package.index.as_deref());
        }
        entry.name = name;
        Ok(entry)
    }

    /// The address of an index; that of the first where none is named.
    fn index(&self, name: Option<&str>) -> Option<Url> {
        let mut sources = self.meta.sources.iter();
        let source = match name {
            Some(name) => sources.find(|source| source.name == name),
            None => sources.next(),
        };
        let url = without_user(&source?.url)?;
        (url.host_str() != Some(USUAL_INDEX)).then_some(url)
    }
}

/// An address without its credentials, if it needs no variable then.
fn without_user(address: &str) -> Option<Url> {
    let (scheme, rest) = address.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if host.contains('$') || path.contains('$') {
        return None;
    }
    Url::parse(&format!("{scheme}://{host}{path}")).ok()
}

impl Package {
    fn is_meant(&self, name: &str, markers: &Markers) -> Result<bool, Error> {
        let holds = |marker: &str| {
            markers.hold(marker).map_err(|source| Error::Marker {
                package: name.to_owned(),
                source,
            })
        };
        for variable in VARIABLES {
            if let Some(serde_json::Value::String(rest)) = self.others.get(variable)
                && !holds(&format!("{variable} {rest}"))?
            {
                return Ok(false);
            }
        }
        self.markers.as_deref().map_or(Ok(true), holds)
    }

    fn digests(&self, name: &str) -> Result<BTreeSet<Digest>, Error> {
        let values = self
            .hashes
            .iter()
            .filter_map(|hash| hash.strip_prefix("sha256:"));
        let digest = |hex: &str| {
            Digest::from_hex(&hex.to_ascii_lowercase()).map_err(|source| Error::Digest {
                filename: name.to_owned(),
                source,
            })
        };
        values.map(digest).collect()
    }

    /// Gives `entry` what is at a place.
    fn take_file(&self, entry: &mut Entry, place: &str, hashes: BTreeSet<Digest>) {
        let location = match Url::parse(place) {
            Ok(url) if place.contains("://") => Location::Url(url),
            _ => Location::Path(place.into()),
        };
        let name = location.filename().unwrap_or_default();
        if matches!(location, Location::Path(_)) && !is_archive(&name) {
            let path = Path::new(place);
            let below = self.subdirectory.as_ref().map(|below| path.join(below));
            entry.source = Some(Source::Directory(below.unwrap_or_else(|| path.into())));
            return;
        }
        entry.put(location, hashes, self.subdirectory.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::lock::Wanted;
    use crate::python::lock::tests::plain;
    use crate::python::tests::target;
    use proptest::prelude::*;

    const REAL: &str = include_str!("fixtures/Pipfile.lock");

    fn read(text: &str, groups: &[&str]) -> Result<Vec<Entry>, Error> {
        let wanted = Wanted {
            groups: groups.iter().map(|name| (*name).to_owned()).collect(),
            ..Wanted::default()
        };
        let request = Request {
            wanted: &wanted,
            ..plain(target("3.12", Machine::X86_64, "2.34"))
        };
        entries(text, &request)
    }

    fn names(groups: &[&str]) -> String {
        let entries = read(REAL, groups).unwrap();
        let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        names.join(" ")
    }

    #[test]
    fn categories_are_read() {
        // As `pipenv requirements` prints them, but for colorama, which is for Windows.
        insta::assert_snapshot!(names(&[]), @"anyio backoff certifi h11 httpcore httpx idna iniconfig itsdangerous packaging shared six sniffio socksio tools-kit typing-extensions zipp");
        for develop in ["develop", "dev", "dev-packages"] {
            assert_eq!(names(&[develop]).matches("hupper pluggy").count(), 0);
            assert!(names(&[develop]).contains(" hupper "));
        }
        assert!(names(&["worker"]).contains(" tenacity "));
        let refused = [
            read(REAL, &["works"]),
            read(&REAL.replace("\"3.12\"", "\"3.11\""), &[]),
            read(
                &REAL.replace("\"pipfile-spec\": 6", "\"pipfile-spec\": 7"),
                &[],
            ),
            read(&REAL.replace("platform_machine ==", "machine =="), &[]),
            read("{", &[]),
        ];
        let refused = refused.map(|result| result.unwrap_err().to_string());
        insta::assert_snapshot!(refused.join("\n"), @"
        the project has no dependency group `works`, only develop, worker
        the lock requires Python 3.11, which 3.12.7 is not
        `Pipfile.lock` is of version `7`, not 6
        package `backoff` cannot be read
        `Pipfile.lock` cannot be read
        ");
        let full = REAL.replace(
            "\"python_version\": \"3.12\"",
            "\"python_full_version\": \"3.12.1\"",
        );
        assert!(read(&full, &[]).is_ok());
        let early = REAL.replace(
            "\"markers\": \"platform_machine == 'x86_64'\"",
            "\"os_name\": \"== 'nt'\"",
        );
        assert!(
            read(&early, &[])
                .unwrap()
                .iter()
                .all(|entry| entry.name != "backoff")
        );
    }

    #[test]
    fn sources_are_read() {
        let entries = read(REAL, &[]).unwrap();
        let shown = entries.iter().filter(|entry| {
            [
                "iniconfig",
                "packaging",
                "shared",
                "six",
                "tools-kit",
                "anyio",
            ]
            .contains(&entry.name.as_str())
        });
        let shown: Vec<String> = shown.map(|entry| format!("{entry:?}")).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        Entry { name: "anyio", version: Some("4.16.0"), requires_python: None, wheels: [], source: None, hashes: {sha256:59bb03251907983d1603d27c3087ddb1e93299ea2163adcdba37899a4fb12ffb, sha256:c66ae634e0b8228396b801741beb3294326d4b6102f7bba4041c0dfb58c29026}, index: None, required_by: {}, first_party: false }
        Entry { name: "iniconfig", version: None, requires_python: None, wheels: [File { name: None, location: Some(Path("wheels/iniconfig-2.0.0-py3-none-any.whl")), size: None, hashes: {} }], source: None, hashes: {sha256:2d91e135bf72d31a410b17c16da610a82cb55f6b0477d1a902134b24a455b8b3, sha256:b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374}, index: None, required_by: {}, first_party: true }
        Entry { name: "packaging", version: Some("26.3"), requires_python: None, wheels: [], source: None, hashes: {sha256:94edc256424af38762eb31306eed28beb9f0efc50a8837492c9d6fd6004aed79, sha256:d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c}, index: None, required_by: {}, first_party: false }
        Entry { name: "shared", version: None, requires_python: None, wheels: [], source: Some(Directory("./shared")), hashes: {}, index: None, required_by: {}, first_party: false }
        Entry { name: "six", version: None, requires_python: None, wheels: [File { name: None, location: Some(Url(Url { scheme: "https", cannot_be_a_base: false, username: "", password: None, host: Some(Domain("files.pythonhosted.org")), port: None, path: "/packages/d9/5a/e7c31adbe875f2abbb91bd84cf2dc52d792b5a01506781dbcf25c91daf11/six-1.16.0-py2.py3-none-any.whl", query: None, fragment: None })), size: None, hashes: {} }], source: None, hashes: {sha256:1e61c37477a1626458e36f7b1d82aa5c9b094fa4802892072e49de9c60c4c926, sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254}, index: None, required_by: {}, first_party: false }
        Entry { name: "tools-kit", version: None, requires_python: None, wheels: [], source: Some(Repository { url: "file:///tmp/fixture/tools-repo", commit: "6ce0a5326a421fee2ada9cea7870da6ae1f011a4", subdirectory: Some("sub") }), hashes: {}, index: None, required_by: {}, first_party: false }
        "#);
        let index = |address: &str| without_user(address).map(|url| url.to_string());
        let variables = "https://${USER}:${PASSWORD}@index.test/simple/";
        assert_eq!(
            index(variables).as_deref(),
            Some("https://index.test/simple/")
        );
        assert_eq!(index("https://index.test/${TOKEN}/simple"), None);
        assert_eq!(index("https://${HOST}/simple"), None);
        let own = REAL.replace("https://pypi.org/simple\"", "https://index.test/simple\"");
        let entries = read(&own, &[]).unwrap();
        let anyio = entries.iter().find(|entry| entry.name == "anyio").unwrap();
        assert_eq!(
            anyio.index.as_ref().unwrap().as_str(),
            "https://index.test/simple"
        );
    }

    proptest! {
        #[test]
        fn any_change_is_read_or_refused(at in 0usize..8_000, text in "[\"\\[\\]{}:\n0-9a-z.,%$=*-]{0,8}", cut in 0usize..60) {
            let mut lock = REAL.to_owned();
            let start = at % lock.len();
            let end = (start + cut).min(lock.len());
            lock.replace_range(start..end, &text);
            let _ = read(&lock, &["develop"]);
        }
    }
}
