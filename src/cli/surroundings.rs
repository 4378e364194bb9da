//! What the machine and its user bring: variables, the day, where things are kept and found.
//!
//! Read here once and handed on as values, so that nothing of it can reach an image unseen.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use lambimg::aws::{self, Aws};
use lambimg::blob_store::BlobStore;
use lambimg::build::Tools;
use lambimg::build::cache;
use lambimg::build::earlier::Earlier;
use lambimg::build::once::Once;
use lambimg::build::pinning::Pinning;
use lambimg::build::pushing::Announcer;
use lambimg::build::running::FileId;
use lambimg::http::{self, Certificate, Client, Secret, Settings, Url};
use lambimg::oci::reference::Name;
use lambimg::plan::reach::Reach;
use lambimg::progress::Progress;
use lambimg::python::index::settings::{self as indexes, ConfigFile};
use lambimg::registry::Registries;
use lambimg::registry::auth::{Explicit, Keychain};
use lambimg::registry::push;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::failure::Failure;

/// How large the store may grow unless the user says otherwise.
const CACHE_SIZE: ByteSize = ByteSize::gib(20);

/// A variable, if it is set.
pub(crate) fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(text) => Ok(Some(text)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::variable_is_no_text(name)),
    }
}

/// Whether a variable is set to anything.
pub(crate) fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// The variables of ours, with their values.
pub(crate) fn settings() -> Result<Vec<(String, String)>, Failure> {
    let own = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let mut own: Vec<_> = own
        .filter(|(name, _)| name.starts_with("LAMBIMG_"))
        .collect();
    // Of two mistakes the same one is told every time.
    own.sort();
    let text = |(name, value): (String, OsString)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        // A path may be of any bytes.
        Err(_) if name == "LAMBIMG_CACHE_DIR" => Ok((name, String::new())),
        Err(_) => Err(Failure::variable_is_no_text(&name)),
    };
    own.into_iter().map(text).collect()
}

/// What the user tells compilers.
fn compiler_flags() -> Result<Vec<(&'static str, String)>, Failure> {
    let flags = |name| Ok((name, variable(name)?.unwrap_or_default()));
    ["CFLAGS", "CXXFLAGS"].into_iter().map(flags).collect()
}

fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The current directory; empty where there is none any more.
pub(crate) fn directory() -> PathBuf {
    env::current_dir().unwrap_or_default()
}

/// The day, as `YYYY-MM-DD`; only warnings are told it.
pub(crate) fn today() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.split('T').next().unwrap_or_default().to_owned()
}

/// The time that lies so far back, as far as the clock can say it.
pub(crate) fn before(age: Duration) -> SystemTime {
    let then = SystemTime::now().checked_sub(age);
    then.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// How many bytes the store may have, if that is limited.
pub(crate) fn cache_limit() -> Result<Option<u64>, Failure> {
    let text = variable("LAMBIMG_CACHE_SIZE")?;
    let size = match text.as_deref().map(str::trim) {
        None | Some("") => CACHE_SIZE,
        Some("none") => return Ok(None),
        Some(text) => text.parse().map_err(|_| Failure::no_cache_size(text))?,
    };
    Ok(Some(size.as_u64()).filter(|bytes| *bytes > 0))
}

/// Paths of this machine.
pub(crate) struct Surroundings {
    home: Option<PathBuf>,
    cache: Option<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Surroundings {
    /// Reads the environment.
    pub(crate) fn read() -> Self {
        let home = path_variable("HOME");
        // Others than this process use it, from other directories.
        let given = path_variable("LAMBIMG_CACHE_DIR");
        let given = given.map(|path| std::path::absolute(&path).unwrap_or(path));
        let cache = given.or_else(|| {
            let caches = path_variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            let caches = caches.or_else(|| Some(home.as_ref()?.join(".cache")));
            caches.map(|caches| caches.join("lambimg"))
        });
        let path = env::var_os("PATH").unwrap_or_default();
        Self {
            home,
            cache,
            directories: env::split_paths(&path)
                .filter(|path| path.is_absolute())
                .collect(),
        }
    }

    /// Where the store is, if anywhere.
    pub(crate) fn cache(&self) -> Option<PathBuf> {
        self.cache.clone()
    }

    /// Where the store is, or what to do about its being nowhere.
    pub(crate) fn store_directory(&self) -> Result<&Path, Failure> {
        self.cache
            .as_deref()
            .ok_or_else(Failure::no_cache_directory)
    }

    /// The store.
    pub(crate) fn store(&self) -> Result<BlobStore, Failure> {
        let store = BlobStore::open(self.store_directory()?)?;
        Ok(store.used_at(SystemTime::now()))
    }

    /// What a build works with.
    ///
    /// `project` is the directory whose settings of uv count.
    pub(crate) fn tools(
        &self,
        project: Option<&Path>,
        reach: &Reach,
        offline: bool,
        progress: Progress,
    ) -> Result<Tools, Failure> {
        let store = self.store()?;
        let of_indexes = indexes::read(&self.of_indexes(project)?)?;
        let mut authorities = authorities(of_indexes.certificates, &progress)?;
        if let Some(path) = &reach.ca_file {
            let bundle = bundle(path);
            let refused = |why: String| Failure::no_certificates("`ca-file`", path, &why);
            authorities.extend(bundle.map_err(refused)?);
        }
        let settings = Settings {
            offline,
            plain_http: reach.plain_http.clone(),
            authorities,
            progress: progress.clone(),
        };
        let client = Client::new(settings);
        let aws = Aws::new(aws::Settings {
            client: client.clone(),
            directory: Some(store.root().join(cache::LOGIN)),
            now: SystemTime::now,
            progress: progress.clone(),
        });
        let keychain = Keychain {
            explicit: explicit_credentials()?,
            files: self.credential_files(),
            aws: Some(aws.clone()),
            progress: progress.clone(),
        };
        Ok(Tools {
            aws: aws.clone(),
            registries: Registries::new(client.clone(), keychain)
                .with_mirrors(reach.mirrors.clone()),
            client,
            store,
            indexes: of_indexes.indexes,
            credentials: of_indexes.credentials,
            for_uv: of_indexes.for_uv,
            compiler_flags: compiler_flags()?,
            uv: self.program("uv"),
            directories: self.directories.clone(),
            installations: self.installations(),
            pushing: push::Options {
                aws: Some(aws),
                create: reach.create.clone(),
                immutable_tags: reach.immutable_tags,
                ..push::Options::default()
            },
            progress,
            made: Announcer::default(),
            earlier: Earlier::default(),
            pins: Pinning::default(),
            once: Once::default(),
        })
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let candidates = self
            .directories
            .iter()
            .map(|directory| directory.join(name));
        candidates.into_iter().find(is_executable)
    }

    /// What pip and uv are told of indexes, wherever that stands.
    fn of_indexes(&self, project: Option<&Path>) -> Result<indexes::Surroundings, Failure> {
        let here = directory();
        let directory = project.map_or_else(|| here.clone(), |project| here.join(project));
        Ok(indexes::Surroundings {
            variables: variables(),
            pip: read_all(self.pip_files())?,
            uv: read_all(self.uv_files(project.map(|_| &*directory)))?,
            netrc: self.netrc(),
            keyring: self.program("keyring"),
            directory,
        })
    }

    /// pip's files, in the order in which it reads them: the system's, the user's, the virtual environment's, and
    /// that of `PIP_CONFIG_FILE`, which may say that no other counts.
    fn pip_files(&self) -> Vec<PathBuf> {
        let named = path_variable("PIP_CONFIG_FILE");
        if named.as_deref() == Some(Path::new("/dev/null")) {
            return Vec::new();
        }
        let home = |below: &str| Some(self.home.as_ref()?.join(below));
        let mut files: Vec<PathBuf> = list("XDG_CONFIG_DIRS", "/etc/xdg")
            .map(|directory| directory.join("pip/pip.conf"))
            .collect();
        if cfg!(target_os = "macos") {
            files.push("/Library/Application Support/pip/pip.conf".into());
        }
        files.push("/etc/pip.conf".into());
        // The user's do not count beside one that is named.
        if !named.as_deref().is_some_and(Path::exists) {
            files.extend(home(".pip/pip.conf"));
            files.extend(self.config().map(|config| config.join("pip/pip.conf")));
            if cfg!(target_os = "macos") {
                files.extend(home("Library/Application Support/pip/pip.conf"));
            }
        }
        let environment = path_variable("VIRTUAL_ENV");
        files.extend(environment.map(|environment| environment.join("pip.conf")));
        files.extend(named);
        files
    }

    /// uv's files, the nearest first: of the project or the nearest directory above it that has settings, of the
    /// user, of the system.
    fn uv_files(&self, project: Option<&Path>) -> Vec<PathBuf> {
        if let Some(named) = path_variable("UV_CONFIG_FILE") {
            return vec![named];
        }
        if is_set("UV_NO_CONFIG") {
            return Vec::new();
        }
        let nearest = project.and_then(|project| project.ancestors().find_map(uv_file));
        let mut files: Vec<PathBuf> = nearest.into_iter().collect();
        files.extend(self.config().map(|config| config.join("uv/uv.toml")));
        files.extend(list("XDG_CONFIG_DIRS", "/etc/xdg").map(|d| d.join("uv/uv.toml")));
        files.push("/etc/uv/uv.toml".into());
        files
    }

    /// The user's directory of settings.
    fn config(&self) -> Option<PathBuf> {
        let config = path_variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        config.or_else(|| Some(self.home.as_ref()?.join(".config")))
    }

    /// The text of `.netrc`; one that cannot be read is none, as with pip and uv.
    fn netrc(&self) -> Option<String> {
        if let Some(named) = path_variable("NETRC") {
            return fs::read_to_string(named).ok();
        }
        let home = self.home.as_ref()?;
        let mut files = [".netrc", "_netrc"].iter().map(|name| home.join(name));
        files.find_map(|file| fs::read_to_string(file).ok())
    }

    /// Docker's config, then those of podman and its family.
    fn credential_files(&self) -> Vec<PathBuf> {
        let docker = path_variable("DOCKER_CONFIG");
        let docker = docker.or_else(|| Some(self.home.as_ref()?.join(".docker")));
        let runtime = path_variable("XDG_RUNTIME_DIR");
        let config = self.home.as_ref().map(|home| home.join(".config"));
        let podman = [runtime, config].into_iter().flatten();
        path_variable("REGISTRY_AUTH_FILE")
            .into_iter()
            .chain(docker.map(|directory| directory.join("config.json")))
            .chain(podman.map(|directory| directory.join("containers").join("auth.json")))
            .collect()
    }

    /// Where pyenv and uv keep the Pythons that are on nobody's `PATH`.
    fn installations(&self) -> Vec<PathBuf> {
        let home = |below: &str| Some(self.home.as_ref()?.join(below));
        let pyenv = path_variable("PYENV_ROOT").or_else(|| home(".pyenv"));
        let data = path_variable("XDG_DATA_HOME").or_else(|| home(".local/share"));
        let uv = path_variable("UV_PYTHON_INSTALL_DIR");
        let uv = uv.or_else(|| Some(data?.join("uv").join("python")));
        pyenv
            .map(|root| root.join("versions"))
            .into_iter()
            .chain(uv)
            .collect()
    }
}

/// The credentials that variables give for one registry. They name it, so that no base's registry gets what is
/// meant for another.
fn explicit_credentials() -> Result<Option<Explicit>, Failure> {
    let names = [
        "LAMBIMG_REGISTRY",
        "LAMBIMG_REGISTRY_USER",
        "LAMBIMG_REGISTRY_PASSWORD",
    ];
    let mut values = Vec::new();
    for name in names {
        values.push(variable(name)?.filter(|text| !text.is_empty()));
    }
    if values.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut given = Vec::new();
    for (name, value) in names.iter().zip(values) {
        given.push(value.ok_or_else(|| Failure::incomplete_credentials(name))?);
    }
    let Ok([registry, user, password]) = <[String; 3]>::try_from(given) else {
        return Ok(None);
    };
    if !is_host(&registry.to_ascii_lowercase()) {
        return Err(Failure::credentials_of_nowhere(&registry));
    }
    Ok(Some(Explicit {
        registry,
        user,
        password: Secret::new(password),
    }))
}

/// Whether images' names may begin with it: nothing else would ever match.
fn is_host(text: &str) -> bool {
    let name = Name::from_str(&format!("{text}/any"));
    let is_registry = name.is_ok_and(|name| name.registry.as_deref() == Some(text));
    let url = Url::parse(&format!("https://{text}/")).ok();
    let host = url.as_ref().and_then(Url::host_str);
    let rest = host.and_then(|host| text.strip_prefix(host));
    is_registry && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// All variables of text; which of them a requirements file names is not known here.
fn variables() -> BTreeMap<String, Secret> {
    let text = |(name, value): (OsString, OsString)| {
        let value = Secret::new(value.into_string().ok()?);
        Some((name.into_string().ok()?, value))
    };
    env::vars_os().filter_map(text).collect()
}

/// The directories of a variable, or those that it stands for when it is not set.
fn list(name: &str, otherwise: &str) -> impl Iterator<Item = PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    let value = value.unwrap_or_else(|| otherwise.into());
    let directories: Vec<PathBuf> = env::split_paths(&value).collect();
    directories.into_iter().filter(|path| path.is_absolute())
}

fn read_all(files: Vec<PathBuf>) -> Result<Vec<ConfigFile>, Failure> {
    let mut found = Vec::new();
    for path in files {
        match fs::read_to_string(&path) {
            Ok(text) => found.push(ConfigFile { path, text }),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
                _ => return Err(Failure::cannot_read_settings(&path, &error)),
            },
        }
    }
    Ok(found)
}

/// The file in which a directory has settings of uv, if it has any.
fn uv_file(directory: &Path) -> Option<PathBuf> {
    let own = directory.join("uv.toml");
    if own.is_file() {
        return Some(own);
    }
    let project = directory.join("pyproject.toml");
    let text = fs::read_to_string(&project).ok()?;
    // Whether there is a table is for its reader to say; a file without the word has none.
    (text.contains("tool.uv") || text.contains("[tool]")).then_some(project)
}

/// The authorities that the user has pip, or programs like it, trust. What pip alone is told is an error where it
/// is no bundle of certificates, because pip fails at it too; the others may be meant for whatever else runs here.
fn authorities(
    of_pip: Option<(PathBuf, String)>,
    progress: &Progress,
) -> Result<Vec<Certificate>, Failure> {
    let own = path_variable("SSL_CERT_FILE");
    let mut seen: Vec<PathBuf> = own.into_iter().collect();
    let mut found = Vec::new();
    if let Some((path, from)) = of_pip
        && !seen.contains(&path)
    {
        let bundle = bundle(&path);
        found = bundle.map_err(|why| Failure::no_certificates(&from, &path, &why))?;
        seen.push(path);
    }
    for name in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let Some(path) = path_variable(name).filter(|path| !seen.contains(path)) else {
            continue;
        };
        match bundle(&path) {
            Ok(certificates) => found.extend(certificates),
            Err(why) => {
                let path = path.display();
                progress.warn(format!(
                    "the certificates in `{path}`, which {name} names, are not used: {why}"
                ));
            }
        }
        seen.push(path);
    }
    Ok(found)
}

/// The certificates of a file, or of the files in a directory.
fn bundle(path: &Path) -> Result<Vec<Certificate>, String> {
    let mut found = Vec::new();
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| error.to_string())?;
        let files = entries.filter_map(|entry| fs::read(entry.ok()?.path()).ok());
        found.extend(files.flat_map(|pem| http::certificates(&pem)));
    } else {
        let pem = fs::read(path).map_err(|error| error.to_string())?;
        found.extend(http::certificates(&pem));
    }
    if found.is_empty() {
        return Err("it has no certificate in PEM".to_owned());
    }
    Ok(found)
}

fn is_executable(path: &PathBuf) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path);
    metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The files that this process writes its output to.
pub(crate) fn outputs() -> Vec<FileId> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let each = [stdout.as_fd(), stderr.as_fd()].into_iter();
    let found = each.map(|output| fs::File::from(output.try_clone_to_owned()?).metadata());
    found.flatten().map(|found| FileId::of(&found)).collect()
}

/// Asks for as many open files as the machine allows: each wheel of a project stays open while its layers are
/// made, and shells ask for few.
pub(crate) fn allow_many_files() {
    const ENOUGH: u64 = 65_536;
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        // With fewer, most projects build as well.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
