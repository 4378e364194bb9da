//! Logins for registries of ECR: asked for, kept for half their life, in memory and on disk.
//!
//! On disk a login lies under the hash of its registry and of the access key that it was had with, so that
//! nobody gets a login with another's rights; one that was had with the keys of a session lies nowhere, because
//! no other run has these keys. A file that cannot be read is as none.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::ecr::Registry;
use super::sdk::Identity;
use super::{Aws, Error};
use crate::digest::{Digest, Hasher};
use crate::http::Secret;

/// How long a login cannot be refused for its age.
const YOUTH: Duration = Duration::from_mins(1);

/// A name and a password that a registry takes for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password.
    pub password: Secret,
    issued: SystemTime,
    expires: SystemTime,
}

/// A login as it lies on disk, with times in seconds of 1970.
#[derive(Serialize, Deserialize)]
struct Kept {
    user: String,
    password: String,
    issued: u64,
    expires: u64,
}

impl Login {
    /// From what AWS gives: `AWS:password` in base64, and when it ends, in seconds of 1970.
    fn of_answer(answer: &Value, now: SystemTime) -> Option<Self> {
        // The public gallery's answer has one, the other a list.
        let data = &answer["authorizationData"];
        let data = data.get(0).unwrap_or(data);
        let pair = BASE64.decode(data["authorizationToken"].as_str()?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, password) = pair.split_once(':')?;
        let expires = data["expiresAt"].as_f64()?;
        let expires = Duration::try_from_secs_f64(expires).ok()?;
        Some(Self {
            user: user.to_owned(),
            password: Secret::new(password),
            issued: now,
            expires: UNIX_EPOCH.checked_add(expires)?,
        })
    }

    fn of_kept(kept: Kept) -> Option<Self> {
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Some(Self {
            user: kept.user,
            password: Secret::new(kept.password),
            issued: at(kept.issued)?,
            expires: at(kept.expires)?,
        })
    }

    fn kept(&self) -> Kept {
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs()
        };
        Kept {
            user: self.user.clone(),
            password: self.password.reveal().to_owned(),
            issued: seconds(self.issued),
            expires: seconds(self.expires),
        }
    }

    /// How long ago it was had; nothing where the clock was turned back.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.issued).ok()
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        now < self.expires
    }

    /// Whether it has the better half of its life before it.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let life = self.expires.duration_since(self.issued).unwrap_or_default();
        self.age(now).is_some_and(|age| age < life / 2)
    }

    fn is_young(&self, now: SystemTime) -> bool {
        self.age(now).is_some_and(|age| age < YOUTH)
    }
}

fn key(registry: &Registry, identity: &Identity) -> Digest {
    let mut hasher = Hasher::default();
    hasher.field(registry.host());
    hasher.field(identity.access_key_id());
    hasher.finish()
}

fn read(path: &Path) -> Option<Login> {
    Login::of_kept(serde_json::from_slice(&fs::read(path).ok()?).ok()?)
}

fn write(directory: &Path, key: &Digest, login: &Login) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    // A temporary file is its owner's alone, and stays so.
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec(&login.kept())?)?;
    file.persist(directory.join(key.hex()))?;
    Ok(())
}

/// Removes logins that nobody can use any more; keys that last an hour leave many.
fn remove_expired(directory: &Path, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if read(&path).is_some_and(|login| !login.is_valid(now)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

impl Aws {
    /// A login for `registry`, one that is kept if it has half its life before it. `refused` is a password
    /// that the registry would not take: it is not given again, unless it is so young that its age cannot be
    /// why.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn login(
        &self,
        registry: &Registry,
        refused: Option<&Secret>,
    ) -> Result<Login, Error> {
        let settings = &self.0.settings;
        let now = (settings.now)();
        let identity = self.0.sdk.identity(registry.api(), now).await?;
        let key = key(registry, &identity);
        let slot = Arc::clone(self.0.logins.lock().await.entry(key).or_default());
        // Held while asking, so that many at once ask once.
        let mut kept = slot.lock().await;
        let directory = settings.directory.as_deref();
        let directory = directory.filter(|_| identity.is_lasting());
        let on_disk = || read(&directory?.join(key.hex()));
        let known = kept.clone().or_else(on_disk);
        let known = known.filter(|login| {
            login.is_valid(now) && (refused != Some(&login.password) || login.is_young(now))
        });
        let login = match known {
            Some(login) if login.is_fresh(now) => login,
            older => match self.ask(registry, &identity, now).await {
                Ok(login) => {
                    if let Some(directory) = directory {
                        self.keep(directory, &key, &login, now);
                    }
                    login
                }
                Err(error) => {
                    let older = older.ok_or(error)?;
                    settings.progress.detail(format!(
                        "{}: the login cannot be renewed, and the old one is used",
                        registry.host()
                    ));
                    older
                }
            },
        };
        Ok(kept.insert(login).clone())
    }

    async fn ask(
        &self,
        registry: &Registry,
        identity: &Identity,
        now: SystemTime,
    ) -> Result<Login, Error> {
        let body = json!({});
        let call = registry.call("GetAuthorizationToken", &body);
        let answer = self.call_as(identity, &call).await?;
        let host = registry.host();
        let progress = &self.0.settings.progress;
        progress.detail(format!("{host}: a login was had from AWS"));
        Login::of_answer(&answer, now).ok_or_else(|| Error::Answer {
            action: call.name(),
            status: 200,
            code: "no login".to_owned(),
            message: "the answer has no login".to_owned(),
        })
    }

    fn keep(&self, directory: &Path, key: &Digest, login: &Login, now: SystemTime) {
        let written = write(directory, key, login).and_then(|()| remove_expired(directory, now));
        if let Err(error) = written {
            let directory = directory.display();
            let progress = &self.0.settings.progress;
            progress.detail(format!("`{directory}` keeps no login: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn login() -> Login {
        let token = BASE64.encode("AWS:pass:word");
        let expires = 1_800_000_000 + 12 * 3600;
        let answer =
            json!({"authorizationData": [{"authorizationToken": token, "expiresAt": expires}]});
        Login::of_answer(&answer, noon()).unwrap()
    }

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(500_000)
    }

    #[test]
    fn the_first_half_of_a_life_is_the_better() {
        let login = login();
        let at = |hours| {
            (
                login.is_fresh(noon() + HOUR * hours),
                login.is_valid(noon() + HOUR * hours),
            )
        };
        assert_eq!(
            [at(0), at(5), at(6)],
            [(true, true), (true, true), (false, true)]
        );
        assert_eq!([at(11), at(12)], [(false, true), (false, false)]);
        assert!(!login.is_fresh(noon() - HOUR), "the clock was turned back");
        assert!(login.is_young(noon() + YOUTH / 2) && !login.is_young(noon() + YOUTH));
    }

    #[test]
    fn answers_of_both_services_are_read() {
        let login = login();
        assert_eq!(
            (&*login.user, login.password.reveal()),
            ("AWS", "pass:word")
        );
        assert!(!format!("{login:?}").contains("pass:word"));
        let token = BASE64.encode("AWS:pw");
        let data = json!({"authorizationToken": token, "expiresAt": 1_800_000_000.5});
        let public = json!({"authorizationData": data});
        assert!(Login::of_answer(&public, noon()).is_some());
        for broken in [
            json!({}),
            json!({"authorizationData": []}),
            json!({"authorizationData": [{"authorizationToken": "?", "expiresAt": 1}]}),
            json!({"authorizationData": [{"authorizationToken": token, "expiresAt": -1}]}),
            json!({"authorizationData": [{"authorizationToken": token, "expiresAt": 1e300}]}),
        ] {
            assert_eq!(Login::of_answer(&broken, noon()), None, "{broken}");
        }
    }

    #[test]
    fn what_lies_on_disk_is_read_back_or_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let logins = directory.path().join("login");
        let (old, new) = (Digest::of("old"), Digest::of("new"));
        write(&logins, &old, &login()).unwrap();
        assert_eq!(read(&logins.join(old.hex())), Some(login()));
        let later = Login {
            expires: noon() + HOUR * 20,
            ..login()
        };
        write(&logins, &new, &later).unwrap();
        fs::write(
            logins.join("damaged"),
            r#"{"user": "AWS", "password": "pw", "issued": 1"#,
        )
        .unwrap();
        fs::write(
            logins.join("endless"),
            format!(
                r#"{{"user": "", "password": "", "issued": 0, "expires": {}}}"#,
                u64::MAX
            ),
        )
        .unwrap();
        assert_eq!(read(&logins.join("damaged")), None);
        assert_eq!(read(&logins.join("endless")), None);
        remove_expired(&logins, noon() + HOUR * 13).unwrap();
        assert_eq!(read(&logins.join(old.hex())), None);
        assert_eq!(read(&logins.join(new.hex())), Some(later));
    }
}
