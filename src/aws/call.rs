//! One signed call of ECR's API, and what its refusals mean.

use bytes::Bytes;
use serde_json::Value;

use super::ecr::Registry;
use super::sdk::Identity;
use super::{Aws, Error};
use crate::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use crate::http::retry::{self, Trouble};
use crate::http::{self, Method, Request, StatusCode, Url};

const MAX_ANSWER: u64 = 4 << 20;
const JSON_1_1: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

/// A call that failed.
struct Failed {
    error: Error,
    /// Set where it may pass.
    trouble: Option<Trouble>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let trouble = match &error {
            Error::Http(error) => Trouble::of_error(error),
            _ => None,
        };
        Self { error, trouble }
    }
}

impl From<http::Error> for Failed {
    fn from(error: http::Error) -> Self {
        Error::from(error).into()
    }
}

impl Aws {
    /// Makes a call as whoever the chain of credentials finds.
    pub(super) async fn call(
        &self,
        registry: &Registry,
        action: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let now = (self.0.settings.now)();
        // What is made of AWS's own crates is large, and seldom needed.
        let identity = Box::pin(self.0.sdk.identity(registry, now)).await?;
        Box::pin(self.call_as(&identity, registry, action, body)).await
    }

    pub(super) async fn call_as(
        &self,
        identity: &Identity,
        registry: &Registry,
        action: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let settings = &self.0.settings;
        let endpoint = self.endpoint(registry).await?;
        let mut retry = settings.client.retry(&endpoint);
        let what = format!("{}:{action}", registry.service().policy);
        loop {
            // Signed anew each time: a signature is good for minutes only.
            let called = self.call_once(identity, registry, &endpoint, action, body);
            let Failed { error, trouble } = match called.await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            match trouble {
                Some(trouble) if retry.again(&what, &trouble, &settings.progress).await => {}
                _ => return Err(error),
            }
        }
    }

    async fn call_once(
        &self,
        identity: &Identity,
        registry: &Registry,
        endpoint: &Url,
        action: &str,
        body: &Value,
    ) -> Result<Value, Failed> {
        let settings = &self.0.settings;
        let mut request = Request::new(Method::POST, endpoint.clone());
        let service = registry.service();
        let unfit = || Error::Endpoint {
            endpoint: http::redact(&request.url),
            reason: "cannot be asked for this",
        };
        let target = HeaderValue::from_str(&format!("{}.{action}", service.target));
        let target = target.map_err(|_| unfit())?;
        request.headers.insert(CONTENT_TYPE, JSON_1_1);
        request.headers.insert(TARGET, target);
        request.body = Some(Bytes::from(body.to_string()));
        if identity
            .sign(&mut request, registry, (settings.now)())
            .is_none()
        {
            let error = Error::Endpoint {
                endpoint: http::redact(&request.url),
                reason: "is none that a request can be signed for",
            };
            return Err(error.into());
        }
        let response = settings.client.send_as_is(&request).await?;
        let (status, after) = (response.status(), retry::retry_after(response.headers()));
        let answer = http::read_limited(response, MAX_ANSWER).await?;
        let action = format!("{}:{action}", service.policy);
        if status != StatusCode::OK {
            let error = refusal(action, status, &answer, &identity.secrets());
            let trouble = match &error {
                Error::Answer { code, .. } if is_throttling(code) => {
                    Trouble::of_status(StatusCode::TOO_MANY_REQUESTS, after)
                }
                _ => Trouble::of_status(status, after),
            };
            return Err(Failed { error, trouble });
        }
        let unread = |_| Error::Answer {
            action,
            status: status.as_u16(),
            code: "no JSON".to_owned(),
            message: "the answer cannot be read".to_owned(),
        };
        Ok(serde_json::from_slice(&answer).map_err(unread)?)
    }

    /// Where the API answers: what the user says, else what AWS does.
    async fn endpoint(&self, registry: &Registry) -> Result<Url, Error> {
        let configured = self.0.sdk.endpoint(registry).await;
        let text = configured.unwrap_or_else(|| registry.endpoint().to_owned());
        let error = |endpoint: String, reason| Error::Endpoint { endpoint, reason };
        // What stands before the first colon may be a name, with a password behind it.
        let url = Url::parse(&text).ok().filter(Url::has_host);
        let url = url.ok_or_else(|| error(http::redact_name(&text), "is no URL"))?;
        let plain = self.0.settings.client.is_plain(&http::host_and_port(&url));
        match url.scheme() {
            "https" => Ok(url),
            "http" if plain => Ok(url),
            _ => Err(error(http::redact(&url), "is not reached over TLS")),
        }
    }
}

fn is_throttling(code: &str) -> bool {
    code.starts_with("Throttling")
        || matches!(code, "RequestLimitExceeded" | "TooManyRequestsException")
}

/// JSON 1.1's errors: a code with or without a namespace before and an address behind it, and a message.
fn refusal(action: String, status: StatusCode, answer: &[u8], secrets: &[&str]) -> Error {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let code = text("__type").split(':').next().unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default().to_owned();
    let code = if code.is_empty() {
        "no code".to_owned()
    } else {
        code
    };
    // Services differ in its first letter, and some say both.
    let message = match text("message") {
        "" => text("Message"),
        message => message,
    };
    // A refused signature is explained by all that was signed.
    let first = message.lines().next().unwrap_or_default();
    let hide = |text: String, secret: &&str| text.replace(secret, "[secret]");
    let message = secrets.iter().fold(first.trim().to_owned(), hide);
    let message = if message.is_empty() {
        "it gives no reason".to_owned()
    } else {
        message
    };
    match code.as_str() {
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Error::Expired {
            action,
            code,
            message,
        },
        "AccessDenied"
        | "AccessDeniedException"
        | "UnauthorizedOperation"
        | "OptInRequired"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken" => Error::Denied {
            action,
            code,
            message,
        },
        _ => Error::Answer {
            action,
            status: status.as_u16(),
            code,
            message,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_and_keep_secrets() {
        let read = |body: &str| {
            let action = "ecr:GetAuthorizationToken".to_owned();
            refusal(
                action,
                StatusCode::BAD_REQUEST,
                body.as_bytes(),
                &["session/token"],
            )
        };
        let told = |body: &str| read(body).to_string();
        assert_eq!(
            told(
                r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"User: x is not authorized"}"#
            ),
            "AWS refuses `ecr:GetAuthorizationToken`: User: x is not authorized (AccessDeniedException)"
        );
        let expired = r#"{"__type":"ExpiredTokenException","message":"The token is expired"}"#;
        assert!(matches!(read(expired), Error::Expired { .. }));
        let signature = r#"{"__type":"InvalidSignatureException","message":"It differs\nx-amz-security-token:session/token"}"#;
        assert!(!told(signature).contains("session"), "{}", told(signature));
        let both = r#"{"__type":"KmsException","message":"no key","Message":"no key"}"#;
        assert!(told(both).ends_with("no key (KmsException)"));
        let other = r#"{"__type":"ServerException:http://x/","message":"for session/token"}"#;
        assert_eq!(
            told(other),
            "AWS answered 400 to `ecr:GetAuthorizationToken`: for [secret] (ServerException)"
        );
        assert_eq!(
            told("<html>"),
            "AWS answered 400 to `ecr:GetAuthorizationToken`: it gives no reason (no code)"
        );
    }
}
