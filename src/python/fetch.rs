//! Locked files into the store: each proven by its hash before it gets a name.
//!
//! A file that is there already costs no request. The user's credentials, and those in a URL itself, become
//! a header and go to the URL's own origin alone. It does not know what is in a file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::blob_store::{self, BlobStore, BlobWriter};
use crate::digest::Mismatch;
use crate::http::{self, Client, Method, Request, Response, Url};
use crate::progress::{Progress, Task};
use crate::python::credentials::{Credentials, without_user};
use crate::python::index::sent;
use crate::python::lock::{Location, LockedFile};

/// Downloads at once: enough to fill a link with small wheels, few enough for an index's patience.
const PARALLEL: usize = 8;
const CHUNK: usize = 256 << 10;
/// How often a file is begun anew when its bytes stop coming.
const ATTEMPTS: u32 = 3;
/// Where the lock does not say how long a file is, more than this is no file of a package.
const LONGEST: u64 = 10 << 30;

/// Why a file is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network failed.
    #[error("cannot fetch `{file}` of {package}")]
    Http {
        /// The package and version.
        package: String,
        /// The file.
        file: String,
        /// Why.
        source: http::Error,
    },
    /// The host does not let us in.
    #[error("cannot fetch `{file}` of {package}: `{host}` answered {status} {}", sent(*.with_credentials))]
    Refused {
        /// The package and version.
        package: String,
        /// The file.
        file: String,
        /// The host, with port if it is named.
        host: String,
        /// The status code.
        status: u16,
        /// Whether we had sent any credentials.
        with_credentials: bool,
    },
    /// The index answered something else.
    #[error("cannot fetch `{file}` of {package}: {url} answered {status}")]
    Status {
        /// The package and version.
        package: String,
        /// The file.
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
        /// The file.
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
        /// The file.
        file: String,
        /// Without secrets.
        url: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] blob_store::Error),
}

/// Brings all `files` into `store`; paths among their locations are meant from `directory`, the lock's.
///
/// # Errors
/// See [`Error`]; files that came before it stay.
pub async fn fetch(
    client: &Client,
    credentials: &Credentials,
    store: &BlobStore,
    directory: &Path,
    files: &[LockedFile],
    progress: &Progress,
) -> Result<(), Error> {
    let fetching = fetch_each(
        client,
        credentials,
        store,
        directory,
        files,
        progress,
        &|_| {},
    );
    fetching.await
}

/// As [`fetch`], the first of `files` first; `arrived` hears the place of each among them once it is there.
///
/// # Errors
/// See [`Error`]; files that came before it stay.
pub async fn fetch_each(
    client: &Client,
    credentials: &Credentials,
    store: &BlobStore,
    directory: &Path,
    files: &[LockedFile],
    progress: &Progress,
    arrived: &(dyn Fn(usize) + Sync),
) -> Result<(), Error> {
    let is_there = |file: &LockedFile| {
        let found = store.size(&file.digest);
        found.is_some() && file.size.is_none_or(|size| found == Some(size))
    };
    let (there, absent): (Vec<_>, Vec<_>) = files
        .iter()
        .enumerate()
        .partition(|(_, file)| is_there(file));
    for (place, _) in there {
        arrived(place);
    }
    stream::iter(absent)
        .map(|(place, file)| async move {
            fetch_one(client, credentials, store, directory, file, progress).await?;
            arrived(place);
            Ok(())
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

async fn fetch_one(
    client: &Client,
    credentials: &Credentials,
    store: &BlobStore,
    directory: &Path,
    file: &LockedFile,
    progress: &Progress,
) -> Result<(), Error> {
    let task = || progress.task(format!("fetch {}", file.package), file.size);
    match &file.location {
        Location::Path(path) => copy(store, &directory.join(path), file, &task()),
        Location::Url(url) if url.scheme() == "file" => match url.to_file_path() {
            Ok(path) => copy(store, &path, file, &task()),
            Err(()) => Err(bad_scheme(file, url)),
        },
        Location::Url(url) if matches!(url.scheme(), "http" | "https") => {
            let mut attempt = 1;
            loop {
                let result = download(client, credentials, store, url, file, &task()).await;
                match result {
                    // The client itself tries again until an answer begins.
                    Err(Broken::Body(_)) if attempt < ATTEMPTS => attempt += 1,
                    result => return result.map_err(Broken::into_error),
                }
            }
        }
        Location::Url(url) => Err(bad_scheme(file, url)),
    }
}

/// What a download failed at.
enum Broken {
    /// The answer broke off.
    Body(Error),
    /// Something that the next time will be the same.
    Other(Error),
}

impl Broken {
    fn into_error(self) -> Error {
        match self {
            Self::Body(error) | Self::Other(error) => error,
        }
    }
}

impl<E: Into<Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// How many bytes may come before it is certain that they are the wrong ones.
fn limit(file: &LockedFile) -> u64 {
    file.size.unwrap_or(LONGEST)
}

fn bad_scheme(file: &LockedFile, url: &Url) -> Error {
    Error::Scheme {
        package: file.package.clone(),
        file: file.filename.clone(),
        url: http::redact(url),
    }
}

fn copy(store: &BlobStore, path: &Path, file: &LockedFile, task: &Task) -> Result<(), Error> {
    let read_error = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let reader = File::open(path).map_err(read_error)?;
    // A device has no end.
    let mut reader = reader.take(limit(file).saturating_add(1));
    let mut writer = store.writer()?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).map_err(read_error)?;
        if count == 0 {
            break;
        }
        write(&mut writer, &buffer[..count], store, file)?;
        task.advance(count as u64);
    }
    commit(writer, file, path.display().to_string())?;
    task.done();
    Ok(())
}

async fn download(
    client: &Client,
    credentials: &Credentials,
    store: &BlobStore,
    url: &Url,
    file: &LockedFile,
    task: &Task,
) -> Result<(), Broken> {
    let failed = |source| Error::Http {
        package: file.package.clone(),
        file: file.filename.clone(),
        source,
    };
    let mut request = Request::new(Method::GET, without_user(url));
    request.authorization = credentials.authorization(url, client).await;
    let mut response = client.send(&request).await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        return Err(Broken::Other(unsuccessful(url, file, &request, &response)));
    }
    let mut writer = store.writer()?;
    let mut received = 0;
    while received <= limit(file) {
        let chunk = response.chunk().await;
        let chunk = chunk.map_err(|e| Broken::Body(failed(http::classify(url, e))))?;
        let Some(chunk) = chunk else { break };
        write(&mut writer, &chunk, store, file)?;
        task.advance(chunk.len() as u64);
        received += chunk.len() as u64;
    }
    commit(writer, file, http::redact(url))?;
    task.done();
    Ok(())
}

fn unsuccessful(url: &Url, file: &LockedFile, request: &Request, response: &Response) -> Error {
    let (package, file) = (file.package.clone(), file.filename.clone());
    match response.status().as_u16() {
        status @ (401 | 403) => Error::Refused {
            package,
            file,
            host: http::host_and_port(response.url()),
            status,
            // A redirect to another origin leaves them behind.
            with_credentials: request.authorization.is_some()
                && response.url().origin() == url.origin(),
        },
        status => Error::Status {
            package,
            file,
            url: http::redact(url),
            status,
        },
    }
}

fn write(
    writer: &mut BlobWriter<'_>,
    bytes: &[u8],
    store: &BlobStore,
    file: &LockedFile,
) -> Result<(), Error> {
    writer.write_all(bytes).map_err(|source| {
        Error::Store(blob_store::Error::Io {
            action: "write",
            path: store.path(&file.digest),
            source,
        })
    })
}

fn commit(writer: BlobWriter<'_>, file: &LockedFile, from: String) -> Result<(), Error> {
    match writer.commit_as(file.digest, file.size) {
        Ok(_) => Ok(()),
        Err(blob_store::Error::Mismatch(mismatch)) => Err(Error::Hash {
            package: file.package.clone(),
            file: file.filename.clone(),
            from,
            mismatch,
        }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::http::Settings;
    use crate::progress::Event;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    const FILE: &str = "demo-1.0-py3-none-any.whl";

    /// An index on loopback that gives each request the next of these answers, and notes what was asked.
    struct Index {
        address: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Index {
        fn answering(answers: Vec<String>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let noted = Arc::clone(&asked);
            std::thread::spawn(move || {
                for answer in answers {
                    let (mut stream, _) = listener.accept().unwrap();
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let head: Vec<String> = lines
                        .map(Result::unwrap)
                        .take_while(|line| !line.is_empty())
                        .collect();
                    noted.lock().unwrap().push(head.join("\n"));
                    // A client that has seen enough hangs up.
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
            Self { address, asked }
        }

        fn location(&self, credentials: &str) -> Location {
            let url = format!("http://{credentials}{}/{FILE}?token=t", self.address);
            Location::Url(url.parse().unwrap())
        }

        fn asked(&self) -> usize {
            self.asked.lock().unwrap().len()
        }
    }

    fn answer(status: &str, length: usize, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    }

    fn wheel(location: Location, contents: &str, size: Option<u64>) -> LockedFile {
        LockedFile {
            package: "demo 1.0".to_owned(),
            filename: FILE.to_owned(),
            location,
            digest: Digest::of(contents),
            size,
        }
    }

    struct Bench {
        directory: tempfile::TempDir,
        store: BlobStore,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = BlobStore::open(directory.path().join("cache")).unwrap();
            Self { directory, store }
        }

        async fn fetch(&self, wheel: &LockedFile, progress: &Progress) -> Result<(), Error> {
            let client = Client::new(Settings::default());
            let wheels = std::slice::from_ref(wheel);
            fetch(
                &client,
                &Credentials::default(),
                &self.store,
                self.directory.path(),
                wheels,
                progress,
            )
            .await
        }

        /// The message of a refusal, its address left out, after which the store is as it was.
        async fn refusal(&self, wheel: &LockedFile, index: &Index) -> String {
            let error = self.fetch(wheel, &Progress::default()).await.unwrap_err();
            assert_eq!(self.store.size(&wheel.digest), None);
            let temporary = self.store.root().join("tmp");
            assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0);
            error.to_string().replace(&index.address, "INDEX")
        }
    }

    #[tokio::test]
    async fn a_wheel_is_asked_for_once() {
        let bench = Bench::new();
        let index = Index::answering(vec![answer("200 OK", 5, "wheel")]);
        let wheel = wheel(index.location("me:pw@"), "wheel", Some(5));
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let progress = Progress::new(move |event| heard.lock().unwrap().push(event));
        bench.fetch(&wheel, &progress).await.unwrap();
        bench.fetch(&wheel, &progress).await.unwrap();
        assert_eq!(bench.store.read(&wheel.digest).unwrap(), b"wheel");
        assert_eq!(index.asked(), 1);
        let asked = index.asked.lock().unwrap()[0].to_lowercase();
        let secret = "bWU6cHc=".to_lowercase();
        assert!(
            asked.contains(&format!("authorization: basic {secret}")),
            "{asked}"
        );
        let events = events.lock().unwrap();
        let label = match &events[0] {
            Event::Started { label, total, .. } => (label.as_str(), *total),
            other => panic!("{other:?}"),
        };
        assert_eq!(label, ("fetch demo 1.0", Some(5)));
    }

    #[tokio::test]
    async fn other_bytes_get_no_name() {
        let bench = Bench::new();
        let index = Index::answering(vec![
            answer("200 OK", 5, "whale"),
            answer("200 OK", 1 << 20, &"w".repeat(1 << 20)),
            answer("404 Not Found", 0, ""),
            answer("401 Unauthorized", 0, ""),
            answer("403 Forbidden", 0, ""),
        ]);
        let wheel = wheel(index.location("me:pw@"), "wheel", Some(5));
        insta::assert_snapshot!(bench.refusal(&wheel, &index).await, @"`demo-1.0-py3-none-any.whl` of demo 1.0 from http://INDEX/demo-1.0-py3-none-any.whl is not the file that the lock names: expected sha256:ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91, 5 bytes, but got sha256:a5d2ae286d0d9e45c0621a6fc7c18119940dd737baa8d794e6af357d2136a7a1, 5 bytes");
        // More than the lock's length is not read to its end.
        let long = bench.refusal(&wheel, &index).await;
        assert!(
            long.contains("is not the file that the lock names"),
            "{long}"
        );
        insta::assert_snapshot!(bench.refusal(&wheel, &index).await, @"cannot fetch `demo-1.0-py3-none-any.whl` of demo 1.0: http://INDEX/demo-1.0-py3-none-any.whl answered 404");
        insta::assert_snapshot!(bench.refusal(&wheel, &index).await, @"cannot fetch `demo-1.0-py3-none-any.whl` of demo 1.0: `INDEX` answered 401 to the credentials that it was sent");
        let anonymous = LockedFile {
            location: index.location(""),
            ..wheel
        };
        insta::assert_snapshot!(bench.refusal(&anonymous, &index).await, @"cannot fetch `demo-1.0-py3-none-any.whl` of demo 1.0: `INDEX` answered 403 and was sent no credentials");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_begun_anew() {
        let bench = Bench::new();
        let broken = answer("200 OK", 5, "whe");
        let index = Index::answering(vec![broken.clone(), answer("200 OK", 5, "wheel")]);
        let wheel = wheel(index.location(""), "wheel", None);
        bench.fetch(&wheel, &Progress::default()).await.unwrap();
        assert_eq!(index.asked(), 2);

        let bench = Bench::new();
        let index = Index::answering(vec![broken.clone(), broken.clone(), broken]);
        let wheel = LockedFile {
            location: index.location(""),
            ..wheel
        };
        insta::assert_snapshot!(bench.refusal(&wheel, &index).await, @"cannot fetch `demo-1.0-py3-none-any.whl` of demo 1.0");
        assert_eq!(index.asked(), 3);
    }

    #[tokio::test]
    async fn files_of_this_machine_are_copied_and_proven() {
        let bench = Bench::new();
        let path = bench.directory.path().join(FILE);
        std::fs::write(&path, "wheel").unwrap();
        let relative = wheel(Location::Path(FILE.into()), "wheel", None);
        bench.fetch(&relative, &Progress::default()).await.unwrap();
        assert_eq!(bench.store.read(&relative.digest).unwrap(), b"wheel");

        let index = Index::answering(Vec::new());
        let url = Location::Url(Url::from_file_path(&path).unwrap());
        let other = wheel(url, "other", None);
        let message = bench.refusal(&other, &index).await;
        let directory = bench.directory.path().display().to_string();
        insta::assert_snapshot!(message.replace(&directory, "DIRECTORY"), @"`demo-1.0-py3-none-any.whl` of demo 1.0 from DIRECTORY/demo-1.0-py3-none-any.whl is not the file that the lock names: expected sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, 5 bytes, but got sha256:ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91, 5 bytes");
        let foreign = wheel(
            Location::Url("ftp://me:pw@x.test/a".parse().unwrap()),
            "x",
            None,
        );
        insta::assert_snapshot!(bench.refusal(&foreign, &index).await, @"`demo-1.0-py3-none-any.whl` of demo 1.0 is at ftp://x.test/a, which is no address of HTTP or of a file");
        let endless = wheel(Location::Path("/dev/zero".into()), "x", Some(1));
        let message = bench.refusal(&endless, &index).await;
        assert!(message.ends_with(", 2 bytes"), "{message}");
        let absent = wheel(Location::Path("absent.whl".into()), "x", None);
        let message = bench.refusal(&absent, &index).await;
        insta::assert_snapshot!(message.replace(&directory, "DIRECTORY"), @"cannot read `DIRECTORY/absent.whl`");
    }
}
