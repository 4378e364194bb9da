//! What the machine and its user bring: variables, the day, where things are kept and found.
//!
//! Read here once and handed on as values, so that nothing of it can reach an image unseen.

use std::env;
use std::path::PathBuf;
use std::time::SystemTime;

use lambimg::blob_store::BlobStore;
use lambimg::build::Tools;
use lambimg::http::{Client, Settings};
use lambimg::progress::Progress;
use lambimg::registry::Registries;
use lambimg::registry::auth::Keychain;

use crate::failure::Failure;

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
    let text = |(name, value): (String, std::ffi::OsString)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        // A path may be of any bytes.
        Err(_) if name == "LAMBIMG_CACHE_DIR" => Ok((name, String::new())),
        Err(_) => Err(Failure::variable_is_no_text(&name)),
    };
    own.into_iter().map(text).collect()
}

fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The day, as `YYYY-MM-DD`; only warnings are told it.
pub(crate) fn today() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.split('T').next().unwrap_or_default().to_owned()
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
        let cache = path_variable("LAMBIMG_CACHE_DIR").or_else(|| {
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

    /// What a build works with.
    pub(crate) fn tools(
        &self,
        plain_http: Vec<String>,
        offline: bool,
        progress: Progress,
    ) -> Result<Tools, Failure> {
        let cache = self
            .cache
            .as_ref()
            .ok_or_else(Failure::no_cache_directory)?;
        let settings = Settings {
            offline,
            plain_http: plain_http.into_iter().collect(),
            progress: progress.clone(),
        };
        let client = Client::new(settings)?;
        let keychain = Keychain {
            files: self.credential_files(),
        };
        Ok(Tools {
            registries: Registries::new(client.clone(), keychain),
            client,
            store: BlobStore::open(cache)?,
            uv: self.program("uv"),
            directories: self.directories.clone(),
            installations: self.installations(),
            progress,
        })
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let candidates = self
            .directories
            .iter()
            .map(|directory| directory.join(name));
        candidates.into_iter().find(is_executable)
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

fn is_executable(path: &PathBuf) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path);
    metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
