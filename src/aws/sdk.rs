//! AWS's own crates: the chain of credentials, the user's endpoints, signatures.
//!
//! The chain is the whole default one: variables, profiles (keys, SSO, roles, processes), web identity,
//! containers, the machine itself. Its requests go through our HTTP client, for its proxy, authorities and one
//! TLS provider. No other file knows these crates.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_types::service_config::ServiceConfigKey;
use tokio::sync::{Mutex, OnceCell};

use super::Error;
use super::service::{Api, Variant};
use crate::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use crate::http::{self, Client, Method, Request, Secret, Url};

/// Credentials with less life than this are asked for anew.
const MARGIN: Duration = Duration::from_mins(5);
/// Answers of credential services are small.
const MAX_ANSWER: u64 = 1 << 20;
/// How long anybody may take who gives no limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody to whom AWS has given keys.
#[derive(Debug, Clone)]
pub(super) struct Identity(Credentials);

impl Identity {
    /// No secret, but nobody else's.
    pub(super) fn access_key_id(&self) -> &str {
        self.0.access_key_id()
    }

    /// Whether another run may have the same keys; those of a session are new each time.
    pub(super) fn is_lasting(&self) -> bool {
        self.0.session_token().is_none()
    }

    /// What must not be told.
    pub(super) fn secrets(&self) -> Vec<&str> {
        let token = self.0.session_token().into_iter();
        token.chain([self.0.secret_access_key()]).collect()
    }

    fn is_good(&self, now: SystemTime) -> bool {
        self.0.expiry().is_none_or(|expiry| now + MARGIN < expiry)
    }

    /// Signs a request to this API; nothing where it cannot be signed.
    pub(super) fn sign(&self, request: &mut Request, api: Api<'_>, now: SystemTime) -> Option<()> {
        let identity = self.0.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(api.region)
            .name(api.service.signing_name)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .ok()?;
        let headers = request.headers.iter();
        let headers =
            headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let body = request.body.clone().unwrap_or_default();
        let signable = SignableRequest::new(
            request.method.as_str(),
            request.url.as_str(),
            headers.collect::<Vec<_>>().into_iter(),
            SignableBody::Bytes(&body),
        );
        let (signed, _) = sign(signable.ok()?, &parameters.into()).ok()?.into_parts();
        for (name, value) in signed.headers() {
            add_header(request, name, value)?;
        }
        Some(())
    }
}

/// No header of such a request is printed.
fn add_header(request: &mut Request, name: &str, value: &str) -> Option<()> {
    if name.eq_ignore_ascii_case(AUTHORIZATION.as_str()) {
        request.authorization = Some(Secret::new(value));
        return Some(());
    }
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    request
        .headers
        .insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    Some(())
}

/// What the chain has found so far.
#[derive(Default)]
enum Found {
    #[default]
    Unasked,
    Nobody,
    Somebody(Identity),
}

/// What the user has configured for AWS.
pub(super) struct Sdk {
    connector: Connector,
    config: OnceCell<SdkConfig>,
    found: Mutex<Found>,
}

impl fmt::Debug for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sdk")
    }
}

impl Sdk {
    pub(super) fn new(client: Client) -> Self {
        Self {
            connector: Connector {
                client,
                patience: PATIENCE,
            },
            config: OnceCell::new(),
            found: Mutex::default(),
        }
    }

    async fn config(&self, region: &str) -> &SdkConfig {
        let load = || async {
            // The region where roles are assumed. AWS's own chain would ask the machine for it, which takes
            // its time where there is nobody to ask.
            let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::new(region.to_owned()));
            let loader = aws_config::defaults(BehaviorVersion::latest());
            let loader = loader.http_client(self.connector.clone()).region(region);
            loader.load().await
        };
        self.config.get_or_init(load).await
    }

    /// The endpoint that the user wants called, by `AWS_ENDPOINT_URL_ECR` and the like, or by a profile.
    pub(super) async fn endpoint(&self, api: Api<'_>) -> Option<String> {
        let config = self.config(api.region).await;
        let key = ServiceConfigKey::builder()
            .service_id(api.service.id)
            .profile("endpoint_url")
            .env("AWS_ENDPOINT_URL")
            .build();
        let own = config
            .service_config()
            .and_then(|services| services.load_config(key.ok()?));
        own.or_else(|| config.endpoint_url().map(str::to_owned))
    }

    /// Which addresses the user wants called in a region where he names none, by `AWS_USE_FIPS_ENDPOINT` and
    /// `AWS_USE_DUALSTACK_ENDPOINT`, or by a profile.
    pub(super) async fn variant(&self, region: &str) -> Variant {
        let config = self.config(region).await;
        Variant {
            fips: config.use_fips().unwrap_or_default(),
            dual_stack: config.use_dual_stack().unwrap_or_default(),
        }
    }

    /// Whoever the chain finds. That there is nobody is found out once.
    pub(super) async fn identity(&self, api: Api<'_>, now: SystemTime) -> Result<Identity, Error> {
        let of = || api.of.to_owned();
        let nobody = || Error::NoCredentials { of: of() };
        let mut found = self.found.lock().await;
        match &*found {
            Found::Somebody(identity) if identity.is_good(now) => return Ok(identity.clone()),
            Found::Nobody => return Err(nobody()),
            Found::Somebody(_) | Found::Unasked => {}
        }
        let config = self.config(api.region).await;
        let provider = config.credentials_provider().ok_or_else(nobody)?;
        match provider.provide_credentials().await {
            Ok(credentials) => {
                let identity = Identity(credentials);
                *found = Found::Somebody(identity.clone());
                Ok(identity)
            }
            Err(CredentialsError::CredentialsNotLoaded(_)) => {
                *found = Found::Nobody;
                Err(nobody())
            }
            Err(error) => Err(Error::Credentials {
                of: of(),
                detail: told(&error),
            }),
        }
    }
}

/// The whole story of an error, each part once.
fn told(error: &dyn StdError) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(part) = next {
        let text = without_secrets(&part.to_string());
        if !parts.iter().any(|known| known.contains(&text)) {
            parts.push(text);
        }
        next = part.source();
    }
    parts.join(": ")
}

/// These crates quote what they were given: an endpoint as it was written, and a whole request, whose body may be a
/// token.
fn without_secrets(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(number, part)| {
        let is_quoted = number % 2 == 1;
        if is_quoted && part.starts_with("Request {") {
            "[request]".to_owned()
        } else if is_quoted {
            http::redact_name(part)
        } else {
            http::redact_text(part)
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

/// Carries the chain's requests over our client, each once: what to try again is the chain's to know.
#[derive(Debug, Clone)]
struct Connector {
    client: Client,
    patience: Duration,
}

impl HttpClient for Connector {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connect = settings.connect_timeout().unwrap_or_default();
        let read = settings.read_timeout().unwrap_or(PATIENCE);
        // The machine's own service answers at once, or is not there: one second for both.
        let patience = connect.max(read);
        SharedHttpConnector::new(Self {
            client: self.client.clone(),
            patience,
        })
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { client, patience } = self.clone();
        HttpConnectorFuture::new(async move {
            let unfit = || ConnectorError::user("a request that HTTP has no form for".into());
            let request = translated(&request).ok_or_else(unfit)?;
            let exchange = async {
                let response = client.send_as_is(&request).await?;
                let (status, headers) = (response.status(), response.headers().clone());
                let body = http::read_limited(response, MAX_ANSWER).await?;
                Ok::<_, http::Error>((status.as_u16(), headers, body))
            };
            let (status, headers, body) = tokio::time::timeout(patience, exchange)
                .await
                .map_err(|late| ConnectorError::timeout(late.into()))?
                .map_err(|error| ConnectorError::io(error.into()))?;
            let status = status.try_into();
            let status = status.map_err(|_| ConnectorError::other("no status".into(), None))?;
            let mut response = HttpResponse::new(status, SdkBody::from(body));
            for (name, value) in &headers {
                if let Ok(value) = value.to_str() {
                    let headers = response.headers_mut();
                    headers.append(name.as_str().to_owned(), value.to_owned());
                }
            }
            Ok(response)
        })
    }
}

fn translated(request: &HttpRequest) -> Option<Request> {
    let method = Method::from_bytes(request.method().as_bytes()).ok()?;
    let mut translated = Request::new(method, Url::parse(request.uri()).ok()?);
    for (name, value) in request.headers() {
        add_header(&mut translated, name, value)?;
    }
    let body = request.body().bytes()?;
    if !body.is_empty() {
        translated.body = Some(body.to_vec().into());
    }
    Some(translated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_crates_quote_is_no_secret() {
        let said = "failed to apply endpoint `me:pw@sts.test` to request `Request { body: b\"Token=s3cr3t\" }`: \
                    no scheme in https://me:pw@sts.test";
        assert_eq!(
            without_secrets(said),
            "failed to apply endpoint `[secret]@sts.test` to request `[request]`: no scheme in https://[secret]@sts.test"
        );
    }
}
