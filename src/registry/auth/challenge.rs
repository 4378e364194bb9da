//! What a registry asks for, and the token server that it names.
//!
//! Follows RFC 9110 and the distribution project's token specification. Credentials go to a token server only
//! on the registry's own site. Whose they are is not known here.

use serde::Deserialize;

use super::{Credentials, Error, Held};
use crate::aws::ecr;
use crate::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use crate::http::{self, Client, Method, Request, Response, Secret, StatusCode, Url};

const MAX_TOKEN: u64 = 1 << 20;

/// Registries whose token server is known to be on another site, both as their last labels: Docker Hub by its
/// older name, `LinuxServer`'s name for GitHub's registry, and Scaleway's.
const KNOWN_PAIRS: [(&str, &str); 3] = [
    ("hub.docker.com", "auth.docker.io"),
    ("lscr.io", "ghcr.io"),
    ("scw.cloud", "api.scaleway.com"),
];

/// Domains of AWS, where a host's neighbours are anybody's, however many labels they share.
const OF_AWS: [&str; 5] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "api.aws",
    "on.aws",
];

/// Domains below which strangers have theirs, beside those of two labels below a country.
const SHARED: [&str; 10] = [
    "azurecr.io",
    "azurewebsites.net",
    "cloudfront.net",
    "github.io",
    "gitlab.io",
    "googleusercontent.com",
    "jfrog.io",
    "pkg.dev",
    "run.app",
    "workers.dev",
];

/// Second labels that are as public as the country's own behind them.
const SECOND_LABELS: [&str; 9] = ["ac", "co", "com", "edu", "go", "gov", "ne", "net", "org"];

/// Whether `host` is `end` or below it.
fn is_below(host: &str, end: &str) -> bool {
    host.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The registrable domain of a host, near enough: two labels, or three where two are nobody's own. None for
/// addresses, names of one label and those of AWS.
fn site(host: &str) -> Option<&str> {
    let is_address =
        host.starts_with('[') || host.rsplit('.').next()?.bytes().all(|b| b.is_ascii_digit());
    if is_address || OF_AWS.iter().any(|end| is_below(host, end)) {
        return None;
    }
    let from_end = |count: usize| {
        let (at, _) = host.rmatch_indices('.').nth(count - 1)?;
        Some(&host[at + 1..])
    };
    let two = if host.matches('.').count() == 1 {
        host
    } else {
        from_end(2)?
    };
    let (second, top) = two.split_once('.')?;
    let is_public = SHARED.contains(&two) || (top.len() == 2 && SECOND_LABELS.contains(&second));
    if !is_public {
        return Some(two);
    }
    if host.matches('.').count() == 2 {
        Some(host)
    } else {
        from_end(3)
    }
}

/// Whether credentials for `registry` may go to `server`, both without ports.
fn is_same_site(registry: &str, server: &str) -> bool {
    if registry == server {
        return true;
    }
    // ECR's tokens are given by the host itself; the gallery has a second name.
    if ecr::Registry::parse(registry).is_some() {
        return (registry, server) == ("ecr-public.aws.com", "public.ecr.aws");
    }
    (http::is_loopback(registry) && http::is_loopback(server))
        || site(registry).is_some_and(|of_registry| site(server) == Some(of_registry))
        || KNOWN_PAIRS
            .iter()
            .any(|(one, other)| is_below(registry, one) && is_below(server, other))
}

pub(super) struct TokenServer {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
}

impl TokenServer {
    /// Refuses a server to which no credentials for `registry` may go.
    pub(super) fn expect_site_of(&self, registry: &str) -> Result<(), Error> {
        let server = self.realm.host_str().unwrap_or_default();
        // Docker Hub's name is not the host that answers for it; both are on one site.
        let of_registry = Url::parse(&format!("https://{registry}/")).ok();
        let of_registry = of_registry.as_ref().and_then(Url::host_str);
        if of_registry.is_some_and(|registry| is_same_site(registry, server)) {
            return Ok(());
        }
        Err(Error::OtherSite {
            registry: registry.to_owned(),
            server: http::host_and_port(&self.realm),
        })
    }

    fn url(self) -> Url {
        let mut url = self.realm;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
        }
        url
    }
}

pub(super) fn token_server(
    bearer: &Challenge,
    scopes: &[String],
    client: &Client,
) -> Option<TokenServer> {
    let realm = Url::parse(bearer.value("realm")?).ok()?;
    // Without TLS a token server may only be where registries may be too.
    let secure = match realm.scheme() {
        "https" => true,
        "http" => client.is_plain(&http::host_and_port(&realm)),
        _ => false,
    };
    secure.then(|| TokenServer {
        realm,
        service: bearer.value("service").map(str::to_owned),
        scopes: scopes.to_vec(),
    })
}

pub(super) async fn ask_token(
    client: &Client,
    registry: &str,
    server: TokenServer,
    held: &Held,
) -> Result<Secret, Error> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let request = if let Some(Credentials::Identity(token)) = &held.credentials {
        identity_request(server, token)
    } else {
        let mut request = Request::new(Method::GET, server.url());
        request.authorization = held.basic();
        request
    };
    let response = client.send(&request).await?;
    let status = response.status();
    let refused = Error::TokenServer {
        registry: registry.to_owned(),
        status: status.as_u16(),
        credentials: held.source,
    };
    if status != StatusCode::OK {
        return Err(refused);
    }
    let body = http::read_limited(response, MAX_TOKEN).await?;
    let answer: Option<Answer> = serde_json::from_slice(&body).ok();
    let token = answer.and_then(|a| a.token.or(a.access_token));
    token
        .map(|token| Secret::new(format!("Bearer {token}")))
        .ok_or(refused)
}

/// OAuth 2's exchange of a refresh token, a form in the body.
fn identity_request(server: TokenServer, token: &Secret) -> Request {
    let mut form = server.realm.clone();
    form.query_pairs_mut()
        .clear()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "lambimg")
        .append_pair("service", server.service.as_deref().unwrap_or_default())
        .append_pair("scope", &server.scopes.join(" "))
        .append_pair("refresh_token", token.reveal());
    let mut request = Request::new(Method::POST, server.realm);
    request.body = Some(form.query().unwrap_or_default().to_owned().into());
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.insert(CONTENT_TYPE, kind);
    request
}

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let mut matching = self
            .parameters
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        matching.next().map(|(_, value)| value.as_str())
    }
}

pub(super) fn read_challenges(response: &Response) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    let texts = headers.filter_map(|value| value.to_str().ok());
    texts.flat_map(parse_challenges).collect()
}

/// RFC 9110 §11.6.1: challenges and their parameters are separated by commas alike; a word without
/// `=` begins a challenge.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for part in split_unquoted(text) {
        let (word, parameter) = match part.split_once(' ') {
            Some((word, rest)) if !word.contains('=') => (Some(word), rest.trim()),
            None if !part.contains('=') => (Some(part), ""),
            _ => (None, part),
        };
        if let Some(scheme) = word {
            challenges.push(Challenge {
                scheme: scheme.to_owned(),
                parameters: Vec::new(),
            });
        }
        if let (Some(challenge), Some((key, value))) =
            (challenges.last_mut(), parameter.split_once('='))
        {
            let value = value.trim().trim_matches('"').replace("\\\"", "\"");
            challenge.parameters.push((key.trim().to_owned(), value));
        }
    }
    challenges
}

fn split_unquoted(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_told_apart() {
        let text = r#"Bearer realm="https://auth.test/token",service="r.test",scope="a:b:pull,push", Basic realm="x""#;
        let challenges = parse_challenges(text);
        assert_eq!(challenges.len(), 2);
        assert_eq!(
            challenges[0].value("Realm"),
            Some("https://auth.test/token")
        );
        assert_eq!(challenges[0].value("scope"), Some("a:b:pull,push"));
        assert_eq!(
            (&*challenges[1].scheme, challenges[1].value("realm")),
            ("Basic", Some("x"))
        );
    }

    #[test]
    fn tokens_are_not_asked_for_without_tls() {
        let challenge =
            |realm: &str| parse_challenges(&format!("Bearer realm=\"{realm}\"")).remove(0);
        let client = Client::new(http::Settings::default());
        let asked = |realm: &str| token_server(&challenge(realm), &[], &client).is_some();
        assert!(asked("https://a.test/t") && asked("http://127.0.0.1:1/t"));
        assert!(!asked("http://a.test/t") && !asked("file:///etc/passwd"));
    }

    #[test]
    fn credentials_stay_on_the_registrys_site() {
        for (registry, server) in [
            ("ghcr.io", "ghcr.io"),
            ("quay.io", "quay.io"),
            ("gcr.io", "gcr.io"),
            ("us-docker.pkg.dev", "us-docker.pkg.dev"),
            ("registry.gitlab.com", "gitlab.com"),
            ("myreg.azurecr.io", "myreg.azurecr.io"),
            ("registry-1.docker.io", "auth.docker.io"),
            ("registry.hub.docker.com", "auth.docker.io"),
            ("registry.redhat.io", "registry.redhat.io"),
            ("registry.digitalocean.com", "api.digitalocean.com"),
            ("docker.elastic.co", "docker-auth.elastic.co"),
            ("public.ecr.aws", "public.ecr.aws"),
            ("ecr-public.aws.com", "public.ecr.aws"),
            ("rg.fr-par.scw.cloud", "api.scaleway.com"),
            ("lscr.io", "ghcr.io"),
            ("registry.shop.co.uk", "auth.shop.co.uk"),
            ("127.0.0.1", "localhost"),
            ("10.0.0.1", "10.0.0.1"),
            ("registry", "registry"),
        ] {
            assert!(is_same_site(registry, server), "{registry} {server}");
        }
        for (registry, server) in [
            ("ghcr.io", "evil.io"),
            ("ghcr.io", "ghcr.io.evil.example"),
            ("ghcr.io", "lscr.io"),
            ("evil-hub.docker.com.example", "auth.docker.io"),
            ("registry.a.co.uk", "auth.b.co.uk"),
            ("mine.azurecr.io", "yours.azurecr.io"),
            ("us-docker.pkg.dev", "evil.pkg.dev"),
            ("a.b.amazonaws.com", "evil.elb.amazonaws.com"),
            (
                "1.dkr.ecr.eu-west-1.amazonaws.com",
                "x.execute-api.eu-west-1.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
                "s3.eu-west-1.amazonaws.com",
            ),
            (
                "123456789012.dkr-ecr.eu-west-1.on.aws",
                "x.lambda-url.eu-west-1.on.aws",
            ),
            (
                "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
                "x.c2s.ic.gov",
            ),
            ("a.amazonaws.com.cn", "b.amazonaws.com.cn"),
            ("a.amazonaws.eu", "b.amazonaws.eu"),
            ("public.ecr.aws", "evil.ecr.aws"),
            ("10.0.0.1", "20.0.0.1"),
            ("[2001:db8::1]", "[2001:db8::2]"),
            ("registry", "auth"),
            ("127.0.0.1", "evil.example"),
            ("registry.example", "127.0.0.1"),
        ] {
            assert!(!is_same_site(registry, server), "{registry} {server}");
        }
    }

    proptest! {
        #[test]
        fn any_header_can_be_read(text in "[ -~]{0,60}") {
            let _ = parse_challenges(&text);
        }
    }
}
