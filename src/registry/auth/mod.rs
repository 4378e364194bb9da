//! From a registry's challenge to the header that answers it.
//!
//! Follows the distribution project's token specification and RFC 7617. Credentials are, in this order, those
//! that the user gives for one registry, those of Docker's config files and helpers, AWS's for ECR, and none.
//! Where those of Docker's are refused by ECR, they are out of date, and the next ones count. A secret prints as
//! nothing, and goes only to the registry it is for and to a token server on the same site.

mod challenge;
mod docker;

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::sync::Mutex;

use crate::aws::{self, Aws, ecr};
use crate::http::{self, Client, Response, Secret, StatusCode};
use crate::progress::Progress;
use challenge::Challenge;

/// So many characters of what others say are told.
const LONGEST_WORDS: usize = 300;

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A config file cannot be read.
    #[error("cannot read the credentials in `{}`: {detail}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A credential helper failed.
    #[error("the credential helper `{helper}` failed for `{registry}`: {detail}")]
    Helper {
        /// The program.
        helper: String,
        /// For whom it was asked.
        registry: String,
        /// What it said.
        detail: String,
    },
    /// The registry asks in a way that nobody here can answer.
    #[error("`{registry}` asks for authentication in a way that is not understood: {challenge}")]
    Challenge {
        /// The registry.
        registry: String,
        /// Its words.
        challenge: String,
    },
    /// The token server refused.
    #[error("the token server of `{registry}` answered {status}")]
    TokenServer {
        /// The registry.
        registry: String,
        /// The status code.
        status: u16,
        /// Whose credentials were sent.
        credentials: Source,
    },
    /// The registry wants credentials sent to strangers.
    #[error("`{registry}` wants its credentials sent to `{server}`, which is on another site")]
    OtherSite {
        /// The registry.
        registry: String,
        /// The host of the token server that it names.
        server: String,
    },
    /// AWS gives no login.
    #[error(transparent)]
    Aws(#[from] aws::Error),
    /// The token server could not be reached.
    #[error(transparent)]
    Http(#[from] http::Error),
}

/// Who someone is for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password(String, Secret),
    /// A token that the token server changes for others.
    Identity(Secret),
}

impl Credentials {
    fn basic(&self) -> Option<Secret> {
        match self {
            Self::Password(user, password) => {
                let pair = format!("{user}:{}", password.reveal());
                Some(Secret::new(format!("Basic {}", BASE64.encode(pair))))
            }
            Self::Identity(_) => None,
        }
    }
}

/// Credentials that the user gives for one registry.
#[derive(Debug, Clone)]
pub struct Explicit {
    /// The registry, with port if any; nobody else gets them.
    pub registry: String,
    /// The name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// Where credentials come from, the first that has some for a registry counting.
#[derive(Debug, Clone, Default)]
pub struct Keychain {
    /// What the user gives for this run.
    pub explicit: Option<Explicit>,
    /// Docker's config files, which need not exist.
    pub files: Vec<PathBuf>,
    /// AWS, for registries of ECR.
    pub aws: Option<Aws>,
    /// Who is told which credentials are refused.
    pub progress: Progress,
}

/// Whose credentials these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// What the user gives for this run.
    Explicit,
    /// Docker's config files or a helper.
    Stored,
    /// A login that AWS gave.
    Aws,
    /// There are none.
    Anonymous,
}

/// What a registry minds about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The credentials, or that there are none.
    Credentials,
    /// The credentials or what is wanted: ECR answers a look by 403 for both.
    Unclear,
    /// That strangers ask so much.
    Haste,
}

/// The credentials that count for a repository now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    source: Source,
    credentials: Option<Credentials>,
    /// Those that these stand in for, which may not have been at fault.
    instead_of: Option<Box<Held>>,
    /// Whether others have stood in for them and were refused as well.
    is_proven: bool,
}

impl Held {
    fn of(source: Source, credentials: Credentials) -> Self {
        Self {
            source,
            credentials: Some(credentials),
            ..Self::ANONYMOUS
        }
    }

    const ANONYMOUS: Self = Self {
        source: Source::Anonymous,
        credentials: None,
        instead_of: None,
        is_proven: false,
    };

    /// Stands in for `other` until these are refused as well.
    fn instead_of(self, other: &Self) -> Self {
        let other = Self {
            is_proven: true,
            ..other.clone()
        };
        Self {
            instead_of: Some(Box::new(other)),
            ..self
        }
    }

    fn basic(&self) -> Option<Secret> {
        self.credentials.as_ref().and_then(Credentials::basic)
    }
}

/// For whom credentials are wanted, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    registry: String,
    repository: String,
    pushes: bool,
    ecr: Option<ecr::Registry>,
}

impl Asked {
    /// Whether the public gallery is read, which anybody may.
    fn reads_gallery(&self) -> bool {
        !self.pushes && self.ecr.as_ref().is_some_and(ecr::Registry::is_public)
    }
}

/// A header that was given out, and the credentials that it was had with.
#[derive(Debug)]
struct Given {
    header: Secret,
    of: Held,
}

/// A header for a request that was refused.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) header: Secret,
    /// Whether it was made for this request; else it is another's, and may be older.
    pub(super) is_made: bool,
}

/// Values that are each made by one while others wait for it. Who waits for one keeps nobody from the others.
#[derive(Debug)]
struct Slots<Key, Value>(std::sync::Mutex<HashMap<Key, Slot<Value>>>);

type Slot<Value> = Arc<Mutex<Option<Value>>>;

impl<Key, Value> Default for Slots<Key, Value> {
    fn default() -> Self {
        Self(std::sync::Mutex::default())
    }
}

impl<Key: Hash + Eq, Value> Slots<Key, Value> {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Slot<Value>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, key: Key) -> Slot<Value> {
        Arc::clone(self.all().entry(key).or_default())
    }

    fn matching(&self, fits: impl Fn(&Key) -> bool) -> Vec<Slot<Value>> {
        let all = self.all();
        let fitting = all.iter().filter(|(key, _)| fits(key));
        fitting.map(|(_, slot)| Arc::clone(slot)).collect()
    }
}

/// The headers that have been accepted so far, by host and scopes.
#[derive(Debug)]
pub struct Tokens {
    keychain: Keychain,
    known: Slots<(String, Vec<String>), Given>,
    /// Or why there are none, where that stays so.
    held: Slots<Asked, Result<Held, Error>>,
    /// What each host asked for last: a refusal may not say it again.
    challenges: Mutex<HashMap<String, Vec<Challenge>>>,
    warned: AtomicBool,
}

impl Tokens {
    /// None yet.
    pub fn new(keychain: Keychain) -> Self {
        Self {
            keychain,
            known: Slots::default(),
            held: Slots::default(),
            challenges: Mutex::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// The header that worked last.
    pub(super) async fn known(&self, host: &str, scopes: &[String]) -> Option<Secret> {
        let slot = self.known.of((host.to_owned(), scopes.to_vec()));
        let known = slot.lock().await;
        known.as_ref().map(|given| given.header.clone())
    }

    /// Whose credentials for a repository were found.
    pub(super) async fn source(&self, registry: &str, repository: &str) -> Source {
        let is_of =
            |asked: &Asked| (&*asked.registry, &*asked.repository) == (registry, repository);
        for held in self.held.matching(is_of) {
            match &*held.lock().await {
                Some(Ok(held)) if held.source != Source::Anonymous => return held.source,
                _ => {}
            }
        }
        Source::Anonymous
    }

    /// The credentials that count for `asked`.
    async fn held(&self, asked: &Asked) -> Result<Held, Error> {
        let slot = self.held.of(asked.clone());
        let mut known = slot.lock().await;
        match &*known {
            Some(Ok(held)) => return Ok(held.clone()),
            Some(Err(error)) => {
                if let Some(error) = error.lasting() {
                    return Err(error);
                }
            }
            None => {}
        }
        let found = self.first(asked).await;
        let kept = match &found {
            Ok(held) => Some(Ok(held.clone())),
            Err(error) => error.lasting().map(Err),
        };
        *known = kept;
        found
    }

    async fn first(&self, asked: &Asked) -> Result<Held, Error> {
        let Keychain {
            explicit, files, ..
        } = &self.keychain;
        if let Some(explicit) = explicit
            && docker::is_same(&explicit.registry, &asked.registry)
        {
            let (user, password) = (explicit.user.clone(), explicit.password.clone());
            return Ok(Held::of(
                Source::Explicit,
                Credentials::Password(user, password),
            ));
        }
        let stored = docker::credentials(files, &asked.registry, &asked.repository).await;
        let own = asked.ecr.as_ref().filter(|_| !asked.reads_gallery());
        let progress = &self.keychain.progress;
        match (stored, own) {
            (Ok(Some(credentials)), _) => Ok(Held::of(Source::Stored, credentials)),
            (Ok(None), Some(ecr)) => self.of_aws(ecr, None).await,
            // A helper for ECR is not needed here.
            (Err(error @ Error::Helper { .. }), Some(ecr)) => {
                let found = self.of_aws_if_any(ecr).await.ok_or(error)?;
                let registry = &asked.registry;
                progress.detail(format!(
                    "{registry}: the credential helper fails, and AWS's own credentials are used"
                ));
                Ok(found)
            }
            (Err(error @ Error::Helper { .. }), None) if asked.reads_gallery() => {
                progress.detail(format!("{error}; it is read without credentials"));
                Ok(Held::ANONYMOUS)
            }
            (Ok(None), None) => Ok(Held::ANONYMOUS),
            (Err(error), _) => Err(error),
        }
    }

    async fn of_aws(&self, ecr: &ecr::Registry, refused: Option<&Secret>) -> Result<Held, Error> {
        let Some(aws) = &self.keychain.aws else {
            return Ok(Held::ANONYMOUS);
        };
        // What is made of AWS's own crates is large, and seldom needed.
        let login = Box::pin(aws.login(ecr, refused)).await?;
        let credentials = Credentials::Password(login.user, login.password);
        Ok(Held::of(Source::Aws, credentials))
    }

    /// The same, where others were to be used: that AWS gives none is for who asks to know, and no error beside
    /// the one that led here.
    async fn of_aws_if_any(&self, ecr: &ecr::Registry) -> Option<Held> {
        match self.of_aws(ecr, None).await {
            Ok(held) => held.credentials.is_some().then_some(held),
            Err(error) => {
                let progress = &self.keychain.progress;
                progress.detail(format!(
                    "{}: AWS gives no login either: {error}",
                    ecr.host()
                ));
                None
            }
        }
    }

    /// What counts once `held` is refused, if anything does.
    async fn after_refusal(
        &self,
        held: &Held,
        asked: &Asked,
        refusal: Refusal,
    ) -> Result<Option<Held>, Error> {
        let Some(ecr) = &asked.ecr else {
            return Ok(None);
        };
        let (registry, progress) = (&asked.registry, &self.keychain.progress);
        let reads_gallery = asked.reads_gallery();
        let next = match (held.source, &held.credentials) {
            (Source::Stored, _) if reads_gallery => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    progress.warn(format!(
                        "`{registry}` refuses the credentials that Docker's config has for it, and is read \
                         without any; `docker logout {registry}` removes them"
                    ));
                }
                Some(Held::ANONYMOUS)
            }
            // Neither has the right that was wanted, and these are the user's choice.
            (Source::Stored, _) if held.is_proven && refusal == Refusal::Unclear => None,
            (Source::Stored, _) => {
                let next = self.of_aws_if_any(ecr).await;
                if next.is_some() {
                    progress.detail(format!(
                        "{registry}: the credentials that Docker's config has for it are refused, and AWS's own are used"
                    ));
                }
                match refusal {
                    Refusal::Credentials => next,
                    Refusal::Unclear | Refusal::Haste => next.map(|next| next.instead_of(held)),
                }
            }
            (Source::Aws, Some(Credentials::Password(_, password))) => {
                self.after_aws(held, ecr, password, refusal).await?
            }
            // The public gallery lets those read more whom it knows.
            (Source::Anonymous, _)
                if reads_gallery && !held.is_proven && refusal == Refusal::Haste =>
            {
                let next = self.of_aws_if_any(ecr).await;
                next.map(|next| next.instead_of(held))
            }
            (Source::Explicit | Source::Aws | Source::Anonymous, _) => None,
        };
        if let Some(next) = &next {
            *self.held.of(asked.clone()).lock().await = Some(Ok(next.clone()));
        }
        Ok(next)
    }

    /// What counts once AWS's own credentials are refused: a newer login, or those that they stood in for.
    async fn after_aws(
        &self,
        held: &Held,
        ecr: &ecr::Registry,
        password: &Secret,
        refusal: Refusal,
    ) -> Result<Option<Held>, Error> {
        let before = held.instead_of.as_deref().cloned();
        let newer = if before.is_some() && refusal == Refusal::Unclear {
            Ok(None)
        } else {
            let login = self.of_aws(ecr, Some(password)).await;
            login.map(|login| (login.credentials != held.credentials).then_some(login))
        };
        match (newer, before) {
            (Ok(Some(login)), _) => Ok(Some(Held {
                instead_of: held.instead_of.clone(),
                ..login
            })),
            (_, Some(before)) => {
                let whose = match before.source {
                    Source::Stored => "those of Docker's config are used again",
                    Source::Explicit | Source::Aws | Source::Anonymous => "it is read without any",
                };
                let progress = &self.keychain.progress;
                progress.detail(format!(
                    "{}: AWS's own credentials are refused too, and {whose}",
                    ecr.host()
                ));
                Ok(Some(before))
            }
            (newer, None) => newer,
        }
    }

    /// What `host` asks for, now or the last time that it said so.
    async fn challenges(&self, host: &str, response: &Response) -> Vec<Challenge> {
        let mut known = self.challenges.lock().await;
        let now = challenge::read_challenges(response);
        if response.status() == StatusCode::UNAUTHORIZED && !now.is_empty() {
            known.insert(host.to_owned(), now.clone());
            return now;
        }
        known.get(host).cloned().unwrap_or_default()
    }

    /// A header that answers the refusal in `response`, unless there is none better than `refused`. `again` says
    /// that this was made for the very same request.
    pub(super) async fn answer(
        &self,
        client: &Client,
        (host, scopes): (&str, &[String]),
        (refused, again): (Option<Secret>, bool),
        (registry, repository, response, refusal): (&str, &str, &Response, Refusal),
    ) -> Result<Option<Fresh>, Error> {
        let asked = Asked {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            pushes: scopes.iter().any(|scope| scope.ends_with("push")),
            ecr: ecr::Registry::parse(registry),
        };
        let denied = response.status() != StatusCode::UNAUTHORIZED;
        let may_help = match refusal {
            // Credentials help with nobody else's haste.
            Refusal::Haste => asked.reads_gallery() && refused.is_some(),
            // ECR refuses a login that is out of date as it refuses one without the right.
            Refusal::Credentials | Refusal::Unclear if denied => {
                asked.ecr.is_some() && refused.is_some()
            }
            Refusal::Credentials | Refusal::Unclear => true,
        };
        if !may_help {
            return Ok(None);
        }
        let slot = self.known.of((host.to_owned(), scopes.to_vec()));
        // Held while asking, so that many requests at once ask once.
        let mut known = slot.lock().await;
        let given = known.as_ref();
        if let Some(newer) = given
            && Some(&newer.header) != refused.as_ref()
        {
            return Ok(Some(Fresh {
                header: newer.header.clone(),
                is_made: false,
            }));
        }
        let of = given.map(|given| given.of.clone());
        let is_stranger = of.as_ref().is_some_and(|of| of.source == Source::Anonymous);
        if refusal == Refusal::Haste && !is_stranger {
            return Ok(None);
        }
        let mut held = self.held(&asked).await?;
        let challenges = self.challenges(host, response).await;
        if challenges.is_empty() {
            // The refusal has words of its own.
            return Ok(None);
        }
        // What was refused may be of a login that others have replaced meanwhile.
        let mut spent = of.as_ref() == Some(&held) && (again || denied || held.basic() == refused);
        loop {
            if spent {
                match self.after_refusal(&held, &asked, refusal).await? {
                    Some(next) => held = next,
                    None => return Ok(None),
                }
            }
            let fresh = header(client, registry, scopes, &challenges, &held).await;
            spent = match fresh {
                Ok(Some(header)) if Some(&header) != refused.as_ref() => {
                    let given = Given {
                        header: header.clone(),
                        of: held,
                    };
                    *known = Some(given);
                    return Ok(Some(Fresh {
                        header,
                        is_made: true,
                    }));
                }
                Ok(_) if held.source == Source::Anonymous => return Ok(None),
                Ok(_) => true,
                Err(error) if error.is_refusal() && held.credentials.is_some() => {
                    let refusal = Refusal::Credentials;
                    match self.after_refusal(&held, &asked, refusal).await? {
                        Some(next) => held = next,
                        None => return Err(error),
                    }
                    false
                }
                Err(error) => return Err(error),
            };
        }
    }
}

/// Some of what a registry says.
fn words(text: &str) -> String {
    let some: String = text.chars().take(LONGEST_WORDS).collect();
    http::redact_answer(&some, [])
}

/// The header that answers one of `challenges`, where the credentials have a form for it.
async fn header(
    client: &Client,
    registry: &str,
    scopes: &[String],
    challenges: &[Challenge],
    held: &Held,
) -> Result<Option<Secret>, Error> {
    let named = |scheme: &str| {
        let mut challenges = challenges.iter();
        challenges.find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
    };
    if let Some(bearer) = named("bearer") {
        let server = challenge::token_server(bearer, scopes, client);
        let server = server.ok_or_else(|| Error::Challenge {
            registry: registry.to_owned(),
            challenge: match bearer.value("realm") {
                Some(realm) => format!("Bearer with realm `{}`", words(realm)),
                None => "Bearer without realm".to_owned(),
            },
        })?;
        if held.credentials.is_some() {
            server.expect_site_of(registry)?;
        }
        let token = challenge::ask_token(client, registry, server, held).await?;
        return Ok(Some(token));
    }
    if named("basic").is_some() {
        return Ok(held.basic());
    }
    let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
    Err(Error::Challenge {
        registry: registry.to_owned(),
        challenge: words(&schemes.join(", ")),
    })
}

impl Error {
    /// The same error, where to ask again would take its time and bring nothing else: a helper may ask the user.
    fn lasting(&self) -> Option<Self> {
        match self {
            Self::Config { path, detail } => Some(Self::Config {
                path: path.clone(),
                detail: detail.clone(),
            }),
            Self::Helper {
                helper,
                registry,
                detail,
            } => Some(Self::Helper {
                helper: helper.clone(),
                registry: registry.clone(),
                detail: detail.clone(),
            }),
            Self::Challenge { .. }
            | Self::TokenServer { .. }
            | Self::OtherSite { .. }
            | Self::Aws(_)
            | Self::Http(_) => None,
        }
    }

    /// Whether somebody elsewhere gave no login, which need not be wanted for the next request.
    pub(super) fn is_of_others(&self) -> bool {
        match self {
            Self::Aws(_) | Self::TokenServer { .. } | Self::Http(_) => true,
            Self::Config { .. }
            | Self::Helper { .. }
            | Self::Challenge { .. }
            | Self::OtherSite { .. } => false,
        }
    }

    /// Whether a token server would not take the credentials.
    fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::TokenServer {
                status: 400 | 401 | 403,
                ..
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_one_keeps_nobody_from_the_others() {
        let slots: Slots<&str, u8> = Slots::default();
        let slow = slots.of("slow");
        let mut under_way = slow.lock().await;
        assert!(slots.of("slow").try_lock().is_err(), "it is asked for once");
        assert_eq!(*slots.of("other").lock().await, None);
        *under_way = Some(1);
        drop(under_way);
        assert_eq!(*slots.of("slow").lock().await, Some(1));
        assert_eq!(slots.matching(|key| *key == "slow").len(), 1);
    }

    /// A helper is asked once, and a file read once, whatever they say.
    #[tokio::test]
    async fn a_failure_of_ones_own_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let asked = Asked {
            registry: "r.test".into(),
            repository: "a".into(),
            pushes: false,
            ecr: None,
        };
        for broken in [r#"{"credsStore": "lambimg-has-none"}"#, "{"] {
            std::fs::write(&path, broken).unwrap();
            let tokens = Tokens::new(Keychain {
                files: vec![path.clone()],
                ..Keychain::default()
            });
            let first = tokens.held(&asked).await.unwrap_err().to_string();
            std::fs::write(&path, "{}").unwrap();
            let second = tokens.held(&asked).await.unwrap_err().to_string();
            assert_eq!(first, second);
        }
    }

    #[test]
    fn what_a_registry_asks_for_is_told_without_secrets() {
        let told = words("https://me:pw@auth.test/token?key=s3cr3t");
        assert_eq!(told, "https://[secret]@auth.test/token?[secret]");
        assert_eq!(words(&"x".repeat(5000)).len(), LONGEST_WORDS);
    }
}
