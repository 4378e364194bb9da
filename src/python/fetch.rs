//! Locked wheels into the store: each proven by its hash before it gets a name.
//!
//! A wheel that is there already costs no request. User names and passwords in a URL become a header
//! and go to the URL's own host alone. It does not know what is in a wheel.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::blob_store::{self, BlobStore, BlobWriter};
use crate::digest::Mismatch;
use crate::http::{self, Client, Method, Request, Secret, Url};
use crate::progress::{Progress, Task};
use crate::python::lock::{Location, LockedWheel};

/// Downloads at once: enough to fill a link with small wheels, few enough for an index's patience.
const PARALLEL: usize = 8;
const CHUNK: usize = 256 << 10;

/// Why a wheel is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network failed.
    #[error("cannot fetch `{file}` of {package}")]
    Http {
        /// The package and version.
        package: String,
        /// The wheel.
        file: String,
        /// Why.
        source: http::Error,
    },
    /// The index answered something else.
    #[error("cannot fetch `{file}` of {package}: {url} answered {status}")]
    Status {
        /// The package and version.
        package: String,
        /// The wheel.
        file: String,
        /// Without secrets.
        url: String,
        /// The status code.
        status: u16,
    },
    /// The bytes are not the locked ones.
    #[error("`{file}` of {package} from {from} is not the file that the lock names: {mismatch}")]
    Hash {
        /// The package and version.
        package: String,
        /// The wheel.
        file: String,
        /// Where it came from.
        from: String,
        /// The difference.
        mismatch: Mismatch,
    },
    /// A file of this machine cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address that is neither of HTTP nor of a file.
    #[error("`{file}` of {package} is at {url}, which is no address of HTTP or of a file")]
    Scheme {
        /// The package and version.
        package: String,
        /// The wheel.
        file: String,
        /// Without secrets.
        url: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
}

/// Brings all `wheels` into `store`; paths among their locations are meant from `directory`, the lock's.
///
/// # Errors
/// See [`Error`]; wheels that came before it stay.
pub async fn fetch(
    client: &Client,
    store: &BlobStore,
    directory: &Path,
    wheels: &[LockedWheel],
    progress: &Progress,
) -> Result<(), Error> {
    let is_absent = |wheel: &&LockedWheel| {
        let found = store.size(&wheel.digest);
        found.is_none() || wheel.size.is_some_and(|size| found != Some(size))
    };
    stream::iter(wheels.iter().filter(is_absent))
        .map(|wheel| fetch_one(client, store, directory, wheel, progress))
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

async fn fetch_one(
    client: &Client,
    store: &BlobStore,
    directory: &Path,
    wheel: &LockedWheel,
    progress: &Progress,
) -> Result<(), Error> {
    let label = format!("fetch {}", package(wheel));
    let task = progress.task(label, wheel.size);
    match &wheel.location {
        Location::Path(path) => copy(store, &directory.join(path), wheel, &task),
        Location::Url(url) if url.scheme() == "file" => match url.to_file_path() {
            Ok(path) => copy(store, &path, wheel, &task),
            Err(()) => Err(bad_scheme(wheel, url)),
        },
        Location::Url(url) if matches!(url.scheme(), "http" | "https") => {
            download(client, store, url, wheel, &task).await
        }
        Location::Url(url) => Err(bad_scheme(wheel, url)),
    }
}

fn package(wheel: &LockedWheel) -> String {
    format!("{} {}", wheel.name, wheel.version)
}

fn bad_scheme(wheel: &LockedWheel, url: &Url) -> Error {
    Error::Scheme {
        package: package(wheel),
        file: wheel.filename.as_str().to_owned(),
        url: http::redact(url),
    }
}

fn copy(store: &BlobStore, path: &Path, wheel: &LockedWheel, task: &Task) -> Result<(), Error> {
    let read_error = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(read_error)?;
    let mut writer = store.writer()?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = file.read(&mut buffer).map_err(read_error)?;
        if count == 0 {
            break;
        }
        write(&mut writer, &buffer[..count], store, wheel)?;
        task.advance(count as u64);
    }
    commit(writer, wheel, path.display().to_string())
}

async fn download(
    client: &Client,
    store: &BlobStore,
    url: &Url,
    wheel: &LockedWheel,
    task: &Task,
) -> Result<(), Error> {
    let failed = |source| Error::Http {
        package: package(wheel),
        file: wheel.filename.as_str().to_owned(),
        source,
    };
    let mut response = client.send(&request(url)).await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        return Err(Error::Status {
            package: package(wheel),
            file: wheel.filename.as_str().to_owned(),
            url: http::redact(url),
            status: status.as_u16(),
        });
    }
    let mut writer = store.writer()?;
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|e| failed(http::classify(url, e)))?;
        let Some(chunk) = chunk else { break };
        write(&mut writer, &chunk, store, wheel)?;
        task.advance(chunk.len() as u64);
    }
    commit(writer, wheel, http::redact(url))
}

/// A request whose URL says nothing that a log may not say.
fn request(url: &Url) -> Request {
    let mut bare = url.clone();
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    let mut request = Request::new(Method::GET, bare);
    if !url.username().is_empty() {
        let pair = format!(
            "{}:{}",
            decoded(url.username()),
            decoded(url.password().unwrap_or_default())
        );
        request.authorization = Some(Secret::new(format!("Basic {}", BASE64.encode(pair))));
    }
    request
}

/// Undoes the percent signs that a URL's user information may have.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let value = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match value {
            Some(value) if *first == b'%' => {
                bytes.push(value);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn write(
    writer: &mut BlobWriter<'_>,
    bytes: &[u8],
    store: &BlobStore,
    wheel: &LockedWheel,
) -> Result<(), Error> {
    writer.write_all(bytes).map_err(|source| {
        Error::Store(blob_store::Error::Io {
            action: "write",
            path: store.path(&wheel.digest),
            source,
        })
    })
}

fn commit(writer: BlobWriter<'_>, wheel: &LockedWheel, from: String) -> Result<(), Error> {
    match writer.commit_as(wheel.digest, wheel.size) {
        Ok(_) => Ok(()),
        Err(blob_store::Error::Mismatch(mismatch)) => Err(Error::Hash {
            package: package(wheel),
            file: wheel.filename.as_str().to_owned(),
            from,
            mismatch,
        }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_url() {
        let url: Url = "https://me:p%40ss@index.test/a.whl".parse().unwrap();
        let request = request(&url);
        assert_eq!(request.url.as_str(), "https://index.test/a.whl");
        let expected = format!("Basic {}", BASE64.encode("me:p@ss"));
        assert_eq!(request.authorization, Some(Secret::new(expected)));
        assert_eq!(decoded("100%"), "100%");
    }
}
