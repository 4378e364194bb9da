//! Package indexes: where the files of a lock can be had, when the lock knows only what they are.
//!
//! Follows the simple repository API (PEP 503, 691, 700) and pip's `--find-links`. A file is taken for what the
//! lock says by its sha256, so that it does not matter who lists it, and one index cannot slip in what another
//! has; fetching proves it again. What was located once is remembered. The settings that say which indexes there
//! are have their readers in [`settings`]; what a file is chosen for is not known here.

pub mod page;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pep440_rs::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::blob_store::{self, BlobStore, MemoKey};
use crate::digest::Digest;
use crate::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use crate::http::{self, Client, Method, Request, Url};
use crate::progress::Progress;
use crate::python::credentials::{Credentials, without_user};
use crate::python::index::page::{Link, Malformed};
use crate::python::lock::{ARCHIVES, Entry, File, Location, Source};
use crate::python::{WheelFilename, normalize_name};

/// The index of everyone who names none.
pub const PYPI: &str = "https://pypi.org/simple";

/// Pages asked for at once.
const PARALLEL: usize = 8;
/// How often a page is asked for when its bytes stop coming.
const ATTEMPTS: u32 = 3;
/// The largest pages of PyPI are a tenth of it.
const LONGEST_PAGE: u64 = 128 << 20;

/// The user's places of packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes {
    /// The index asked first; nothing is [`PYPI`].
    pub index: Option<Url>,
    /// Those asked after it.
    pub extra: Vec<Url>,
    /// Pages and directories that list files of any package.
    pub find_links: Vec<Location>,
    /// Whether no index is asked, but `find_links` alone.
    pub no_index: bool,
}

impl Indexes {
    /// Takes names and passwords out of the URLs, once [`Credentials`] have them, and what stands there twice.
    pub fn remove_secrets(&mut self) {
        self.index = self.index.as_ref().map(without_user);
        let mut extra = Vec::new();
        for url in self.extra.iter().map(without_user) {
            if !extra.contains(&url) {
                extra.push(url);
            }
        }
        self.extra = extra;
        let mut places = Vec::new();
        for place in self.find_links.drain(..) {
            let place = match place {
                Location::Url(url) => Location::Url(without_user(&url)),
                path @ Location::Path(_) => path,
            };
            if !places.contains(&place) {
                places.push(place);
            }
        }
        self.find_links = places;
    }
}

/// Why files are not located.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network failed.
    #[error("cannot look up `{package}` at {index}")]
    Http {
        /// The package.
        package: String,
        /// Whom we asked, without secrets.
        index: String,
        /// Why.
        source: http::Error,
    },
    /// The index does not let us in.
    #[error("cannot look up `{package}`: `{host}` answered {status} {}", sent(*.with_credentials))]
    Refused {
        /// The package.
        package: String,
        /// The host, with port if it is named.
        host: String,
        /// The status code.
        status: u16,
        /// Whether we had sent any credentials.
        with_credentials: bool,
    },
    /// The index answered something else.
    #[error("cannot look up `{package}`: {index} answered {status}")]
    Status {
        /// The package.
        package: String,
        /// Whom we asked, without secrets.
        index: String,
        /// The status code.
        status: u16,
    },
    /// Its page cannot be read.
    #[error("the page of `{package}` at {index} cannot be read: {source}")]
    Page {
        /// The package.
        package: String,
        /// Whom we asked, without secrets.
        index: String,
        /// Why.
        source: Malformed,
    },
    /// A place on this machine cannot be read.
    #[error("cannot read `{}`, where files of packages are looked for", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody has the files.
    #[error(
        "no file of `{package}` that the lock has is at {}: {}{}",
        or_nowhere(.asked), outline(.wanted), instead(.offered)
    )]
    NotFound {
        /// The package and version.
        package: String,
        /// The files by name, or by hash where the lock has no names.
        wanted: Vec<String>,
        /// The files of that version that there are, with their hashes.
        offered: Vec<String>,
        /// Whom we asked, without secrets.
        asked: Vec<String>,
    },
    /// The lock has hashes alone, and the page has names alone.
    #[error("the lock has only hashes of the files of `{package}`, and {} has none", asked.join(" or "))]
    NoHashes {
        /// The package and version.
        package: String,
        /// Whom we asked, without secrets.
        asked: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
}

/// How an answer of 401 or 403 is to be understood.
pub(crate) fn sent(with_credentials: bool) -> &'static str {
    if with_credentials {
        "to the credentials that it was sent"
    } else {
        "and was sent no credentials"
    }
}

/// What is there in place of what the lock has: another file than the one that was trusted, perhaps.
fn instead(offered: &[String]) -> String {
    if offered.is_empty() {
        return String::new();
    }
    format!("\n  there is {}", outline(offered))
}

fn or_nowhere(asked: &[String]) -> String {
    if asked.is_empty() {
        "any place, for none may be asked".to_owned()
    } else {
        asked.join(" or ")
    }
}

fn outline(wanted: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = wanted[..wanted.len().min(SHOWN)].join(", ");
    if wanted.len() > SHOWN {
        text = format!("{text} and {} more", wanted.len() - SHOWN);
    }
    text
}

/// Finds out where the files of those entries are whose lock does not say so. A lock's own index is asked before
/// the user's others, and those only while something is missing. Of an entry whose files are named, those that
/// nobody has stay without a location; one of which nobody has any is an error.
///
/// # Errors
/// See [`Error`].
pub async fn locate(
    entries: &mut [Entry],
    sources: &Indexes,
    client: &Client,
    store: &BlobStore,
    credentials: &Credentials,
    progress: &Progress,
) -> Result<(), Error> {
    let pages = sources.find_links.iter().map(|_| OnceCell::new());
    let asker = Asker {
        sources,
        client,
        store,
        credentials,
        progress,
        pages: pages.collect(),
    };
    let unlocated = entries.iter_mut().filter(|entry| !is_located(entry));
    let work: Vec<_> = unlocated.map(|entry| asker.locate(entry)).collect();
    let work = stream::iter(work).buffer_unordered(PARALLEL);
    work.try_collect().await
}

/// The files that an entry has by name, or by hash alone.
fn files(entry: &Entry) -> impl Iterator<Item = &File> {
    let source = match &entry.source {
        Some(Source::Archive { file, .. }) => Some(file),
        _ => None,
    };
    entry.wheels.iter().chain(source)
}

fn is_located(entry: &Entry) -> bool {
    if entry.wheels.is_empty() && entry.source.is_none() {
        return entry.hashes.is_empty();
    }
    files(entry).all(|file| file.location.is_some())
}

/// What is looked for of a package.
#[derive(Debug, Default)]
struct Wanted {
    /// By name, with the hash if that is a sha256.
    names: BTreeMap<String, Option<Digest>>,
    /// By hash alone.
    hashes: BTreeSet<Digest>,
}

impl Wanted {
    fn of(entry: &Entry) -> Self {
        let mut wanted = Self::default();
        if entry.wheels.is_empty() && entry.source.is_none() {
            wanted.hashes.clone_from(&entry.hashes);
        }
        for file in files(entry).filter(|file| file.location.is_none()) {
            match (&file.name, sha256(file)) {
                (Some(name), digest) => drop(wanted.names.insert(name.clone(), digest)),
                (None, Some(digest)) => drop(wanted.hashes.insert(digest)),
                (None, None) => {}
            }
        }
        wanted
    }

    /// Whether it is a file that is looked for; its hash decides where both sides have one.
    fn has(&self, name: &str, digest: Option<Digest>) -> bool {
        let Some(digest) = digest else {
            return self.names.contains_key(name);
        };
        let named = self.names.get(name);
        self.hashes.contains(&digest)
            || self.names.values().any(|wanted| *wanted == Some(digest))
            || named == Some(&None)
    }

    fn missing(&self, found: &[Found]) -> Vec<String> {
        let names = self.names.iter().filter(|(name, digest)| {
            let is_it = |found: &Found| {
                found.name == **name || (digest.is_some() && found.sha256 == **digest)
            };
            !found.iter().any(is_it)
        });
        let hashes = self
            .hashes
            .iter()
            .filter(|digest| !found.iter().any(|found| found.sha256 == Some(**digest)));
        let names = names.map(|(name, _)| name.clone());
        names.chain(hashes.map(Digest::to_string)).collect()
    }

    fn inputs(&self) -> impl Iterator<Item = String> {
        let names = self.names.iter();
        let names = names.map(|(name, digest)| {
            let digest = digest.map(|digest| digest.hex());
            format!("{name} {}", digest.unwrap_or_default())
        });
        names.chain(self.hashes.iter().map(Digest::hex))
    }
}

fn sha256(file: &File) -> Option<Digest> {
    let hex = file.hashes.get("sha256")?;
    Digest::from_hex(&hex.to_ascii_lowercase()).ok()
}

/// A file that is somewhere.
#[derive(Debug, Clone)]
struct Found {
    name: String,
    location: Location,
    size: Option<u64>,
    sha256: Option<Digest>,
}

/// What is remembered of it.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    /// Whether nothing was missing.
    whole: bool,
    /// Name, URL, size and hash.
    files: Vec<(String, String, Option<u64>, Option<String>)>,
}

impl Remembered {
    /// Nothing where a place is of this machine, which may change, or of an address with a query, which may be a
    /// secret that passes.
    fn of(found: &[Found], whole: bool) -> Option<Self> {
        let file = |found: &Found| match &found.location {
            Location::Url(url) if url.scheme() != "file" && url.query().is_none() => {
                let hash = found.sha256.map(|digest| digest.hex());
                Some((found.name.clone(), url.to_string(), found.size, hash))
            }
            _ => None,
        };
        let files = found.iter().map(file).collect::<Option<_>>()?;
        Some(Self { whole, files })
    }

    fn found(self) -> Option<Vec<Found>> {
        let file = |(name, url, size, hash): (String, String, Option<u64>, Option<String>)| {
            Some(Found {
                name,
                location: Location::Url(url.parse().ok()?),
                size,
                sha256: hash.and_then(|hex| Digest::from_hex(&hex).ok()),
            })
        };
        self.files.into_iter().map(file).collect()
    }
}

/// One place to look in.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// An index, which has a page for each package.
    Index(&'a Url),
    /// The place of this number among those that list files of any package.
    FindLinks(usize),
}

struct Asker<'a> {
    sources: &'a Indexes,
    client: &'a Client,
    store: &'a BlobStore,
    credentials: &'a Credentials,
    progress: &'a Progress,
    /// What the places for files of any package list, once it was asked for.
    pages: Vec<OnceCell<Vec<Link>>>,
}

impl Asker<'_> {
    async fn locate(&self, entry: &mut Entry) -> Result<(), Error> {
        let wanted = Wanted::of(entry);
        let pypi: Url = PYPI.parse().unwrap_or_else(|_| unreachable!("it is a URL"));
        let places = self.places(entry, &pypi);
        let asked: Vec<String> = places.iter().map(|place| self.name(*place)).collect();
        let inputs = asked.iter().cloned().chain([entry.name.clone()]);
        let key = MemoKey::new("located 1", inputs.chain(wanted.inputs()));
        let known = self.store.recall::<Remembered>(&key);
        let known = known.filter(|known| known.whole || self.client.is_offline());
        if let Some(found) = known.and_then(Remembered::found) {
            fill(entry, &found);
            return Ok(());
        }
        let mut found: Vec<Found> = Vec::new();
        let mut failure = None;
        let mut without_hashes = false;
        let mut offered = Vec::new();
        for place in places {
            if wanted.missing(&found).is_empty() {
                break;
            }
            let listed = match self.listed(&entry.name, place).await {
                Ok(listed) => listed,
                // Another place may have what this one does not give.
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            without_hashes |= listed.iter().any(|found| found.sha256.is_none());
            offered.extend(listed.iter().filter_map(|found| found.of_version(entry)));
            let fits = |found: &Found| wanted.has(&found.name, found.sha256);
            let known: BTreeSet<_> = found.iter().map(|found| found.name.clone()).collect();
            let new = listed.into_iter().filter(fits);
            found.extend(new.filter(|new| !known.contains(&new.name)));
        }
        let missing = wanted.missing(&found);
        if let Some(failure) = failure.filter(|_| !missing.is_empty()) {
            return Err(failure);
        }
        if found.is_empty() {
            let version = entry.version.as_deref().unwrap_or_default();
            let package = format!("{} {version}", entry.name).trim_end().to_owned();
            return Err(if without_hashes && wanted.names.is_empty() {
                Error::NoHashes { package, asked }
            } else {
                Error::NotFound {
                    package,
                    wanted: missing,
                    offered,
                    asked,
                }
            });
        }
        if let Some(answer) = Remembered::of(&found, missing.is_empty()) {
            self.store.remember(&key, &answer)?;
        }
        fill(entry, &found);
        Ok(())
    }

    fn places<'b>(&'b self, entry: &'b Entry, pypi: &'b Url) -> Vec<Place<'b>> {
        let own = self.sources.index.as_ref().unwrap_or(pypi);
        let first = entry.index.as_ref().unwrap_or(own);
        let indexes = [first].into_iter().chain(&self.sources.extra);
        let mut places: Vec<Place<'b>> = Vec::new();
        for index in indexes.filter(|_| !self.sources.no_index) {
            let is_it = |place: &Place<'_>| matches!(place, Place::Index(url) if *url == index);
            if !places.iter().any(is_it) {
                places.push(Place::Index(index));
            }
        }
        places.extend((0..self.sources.find_links.len()).map(Place::FindLinks));
        places
    }

    /// What the place is called, without secrets.
    fn name(&self, place: Place<'_>) -> String {
        match place {
            Place::Index(url) => http::redact(url),
            Place::FindLinks(number) => match &self.sources.find_links[number] {
                Location::Url(url) => http::redact(url),
                Location::Path(path) => path.display().to_string(),
            },
        }
    }

    /// The files of a package that a place lists.
    async fn listed(&self, package: &str, place: Place<'_>) -> Result<Vec<Found>, Error> {
        let links = match place {
            Place::Index(url) => match local(url) {
                Some(path) => return directory(package, &path.join(package)),
                None => self.page(package, &page_of(url, package)).await?,
            },
            Place::FindLinks(number) => {
                let url = match &self.sources.find_links[number] {
                    Location::Path(path) => return directory(package, path),
                    Location::Url(url) => url,
                };
                if let Some(path) = local(url) {
                    return directory(package, &path);
                }
                let links = self.pages[number].get_or_try_init(|| self.page(package, url));
                let of_it = links
                    .await?
                    .iter()
                    .filter(|link| is_of(&link.name, package));
                of_it.cloned().collect()
            }
        };
        Ok(links.into_iter().map(Found::from).collect())
    }

    /// The links of a page; none where there is no page.
    async fn page(&self, package: &str, url: &Url) -> Result<Vec<Link>, Error> {
        let index = http::redact(url);
        self.progress
            .detail(format!("look up {package} at {index}"));
        let failed = |source| Error::Http {
            package: package.to_owned(),
            index: index.clone(),
            source,
        };
        let mut request = Request::new(Method::GET, without_user(url));
        let accept = HeaderValue::from_static(page::ACCEPT);
        request.headers.insert(ACCEPT, accept);
        request.authorization = self.credentials.authorization(url, self.client).await;
        let mut attempt = 1;
        let (bytes, kind, base) = loop {
            let response = self.client.send(&request).await.map_err(failed)?;
            match response.status().as_u16() {
                200 => {}
                404 | 410 => return Ok(Vec::new()),
                status @ (401 | 403) => {
                    return Err(Error::Refused {
                        package: package.to_owned(),
                        host: http::host_and_port(response.url()),
                        status,
                        with_credentials: request.authorization.is_some()
                            && response.url().origin() == url.origin(),
                    });
                }
                status => {
                    return Err(Error::Status {
                        package: package.to_owned(),
                        index,
                        status,
                    });
                }
            }
            let kind = response.headers().get(CONTENT_TYPE);
            let kind = kind
                .and_then(|kind| kind.to_str().ok())
                .unwrap_or("text/html");
            let (kind, base) = (kind.to_owned(), response.url().clone());
            match http::read_limited(response, LONGEST_PAGE).await {
                Ok(bytes) => break (bytes, kind, base),
                // The client itself tries again until an answer begins.
                Err(http::Error::Exchange { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(failed(error)),
            }
        };
        let links = page::read(&bytes, &kind, &base).map_err(|source| Error::Page {
            package: package.to_owned(),
            index,
            source,
        })?;
        // A page from elsewhere has no say about files of this machine.
        let remote = |link: &Link| link.url.scheme() != "file";
        Ok(links.into_iter().filter(remote).collect())
    }
}

impl From<Link> for Found {
    fn from(link: Link) -> Self {
        Self {
            name: link.name,
            location: Location::Url(link.url),
            size: link.size,
            sha256: link.sha256,
        }
    }
}

fn local(url: &Url) -> Option<PathBuf> {
    let path = (url.scheme() == "file").then(|| url.to_file_path());
    path.and_then(Result::ok)
}

/// The page of a package in an index.
fn page_of(index: &Url, package: &str) -> Url {
    let mut url = index.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend([package, ""]);
    }
    url
}

/// Whether a file's name is one of this package.
fn is_of(filename: &str, package: &str) -> bool {
    if is_wheel(filename) {
        return WheelFilename::parse(filename).is_ok_and(|wheel| wheel.name == package);
    }
    let stem = ARCHIVES.iter().find_map(|end| filename.strip_suffix(end));
    let name = stem.and_then(|stem| stem.rsplit_once('-'));
    name.is_some_and(|(name, _)| normalize_name(name) == package)
}

fn is_wheel(filename: &str) -> bool {
    Path::new(filename).extension() == Some("whl".as_ref())
}

fn is_source(filename: &str) -> bool {
    ARCHIVES.iter().any(|end| filename.ends_with(end))
}

/// The files of a package in a directory, or those that a page on this machine lists.
fn directory(package: &str, path: &Path) -> Result<Vec<Found>, Error> {
    let read_error = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let page = match fs::metadata(path) {
        Ok(data) if data.is_dir() => path.join("index.html"),
        Ok(_) => path.to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error)),
    };
    if page.is_file() {
        let base = Url::from_file_path(&page);
        let bytes = fs::read(&page).map_err(read_error)?;
        let links = base.map(|base| page::read(&bytes, "text/html", &base));
        let links = links.unwrap_or(Ok(Vec::new())).unwrap_or_default();
        let of_it = links.into_iter().filter(|link| is_of(&link.name, package));
        return Ok(of_it.map(Found::from).collect());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        if !is_of(&name, package) {
            continue;
        }
        let digest = fs::File::open(&path).and_then(|mut file| Digest::of_reader(&mut file));
        let (digest, size) = digest.map_err(read_error)?;
        found.push(Found {
            name,
            size: Some(size),
            location: Location::Path(path),
            sha256: Some(digest),
        });
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Puts what was found into the entry.
fn fill(entry: &mut Entry, found: &[Found]) {
    if entry.wheels.is_empty() && entry.source.is_none() {
        let mut found: Vec<&Found> = found.iter().collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        entry.wheels = found.iter().map(|found| found.file()).collect();
    }
    for file in &mut entry.wheels {
        complete(file, found);
    }
    if let Some(Source::Archive { file, .. }) = &mut entry.source {
        complete(file, found);
    }
    let wheels = std::mem::take(&mut entry.wheels);
    let is_named = |file: &File, is: fn(&str) -> bool| {
        let name = file.filename(&entry.name);
        name.is_ok_and(|name| is(&name))
    };
    let (wheels, others): (Vec<_>, _) = wheels
        .into_iter()
        .partition(|file| is_named(file, is_wheel));
    let mut sources = others.into_iter().filter(|file| is_named(file, is_source));
    let source = sources.next().map(|file| Source::Archive {
        file,
        subdirectory: None,
    });
    entry.wheels = wheels;
    entry.source = entry.source.take().or(source);
}

impl Found {
    /// Name and hash, if it is a wheel of the entry's version.
    fn of_version(&self, entry: &Entry) -> Option<String> {
        let wheel = WheelFilename::parse(&self.name).ok()?;
        let version: Version = entry.version.as_deref()?.parse().ok()?;
        let digest = self.sha256.filter(|_| wheel.version == version)?;
        Some(format!("{}, which is {digest}", self.name))
    }

    fn file(&self) -> File {
        let hash = self
            .sha256
            .map(|digest| ("sha256".to_owned(), digest.hex()));
        File {
            name: Some(self.name.clone()),
            location: Some(self.location.clone()),
            size: self.size,
            hashes: hash.into_iter().collect(),
        }
    }
}

fn complete(file: &mut File, found: &[Found]) {
    if file.location.is_some() {
        return;
    }
    let digest = sha256(file);
    let by_hash = |found: &&Found| digest.is_some() && found.sha256 == digest;
    let by_name = |found: &&Found| file.name.as_ref() == Some(&found.name);
    let located = found
        .iter()
        .find(by_hash)
        .or_else(|| found.iter().find(by_name));
    if let Some(located) = located {
        file.location = Some(located.location.clone());
        file.size = file.size.or(located.size);
        file.name.get_or_insert_with(|| located.name.clone());
    }
}

#[cfg(test)]
mod tests;
