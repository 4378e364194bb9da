//! One signed call of AWS, and what its refusals mean.

use bytes::Bytes;
use serde_json::Value;

use super::sdk::Identity;
use super::service::{Api, Call, Form};
use super::{Aws, Error};
use crate::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use crate::http::retry::{self, Trouble};
use crate::http::{self, Method, Request, StatusCode, Url};

const MAX_ANSWER: u64 = 4 << 20;
const JSON_1_1: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// Where REST has the code of an error.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

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
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Value, Error> {
        let now = (self.0.settings.now)();
        // What is made of AWS's own crates is large, and seldom needed.
        let identity = Box::pin(self.0.sdk.identity(call.api, now)).await?;
        Box::pin(self.call_as(&identity, call)).await
    }

    pub(super) async fn call_as(
        &self,
        identity: &Identity,
        call: &Call<'_>,
    ) -> Result<Value, Error> {
        let settings = &self.0.settings;
        let endpoint = self.endpoint(call.api).await?;
        let mut retry = settings.client.retry(&endpoint);
        loop {
            // Signed anew each time: a signature is good for minutes only.
            let Failed { error, trouble } = match self.call_once(identity, call, &endpoint).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let progress = &settings.progress;
            match trouble {
                Some(trouble) if retry.again(&call.name(), &trouble, progress).await => {}
                _ => return Err(error),
            }
        }
    }

    async fn call_once(
        &self,
        identity: &Identity,
        call: &Call<'_>,
        endpoint: &Url,
    ) -> Result<Value, Failed> {
        let settings = &self.0.settings;
        let unfit = |reason| Error::Endpoint {
            endpoint: http::redact(endpoint),
            reason,
        };
        let request = request(call, endpoint);
        let mut request = request.ok_or_else(|| unfit("cannot be asked for this"))?;
        let signed = identity.sign(&mut request, call.api, (settings.now)());
        signed.ok_or_else(|| unfit("is none that a request can be signed for"))?;
        let response = settings.client.send_as_is(&request).await?;
        let (status, after) = (response.status(), retry::retry_after(response.headers()));
        let kind = response.headers().get(ERROR_TYPE).cloned();
        let answer = http::read_limited(response, MAX_ANSWER).await?;
        if status != StatusCode::OK {
            let kind = kind.as_ref().and_then(|kind| kind.to_str().ok());
            let error = refusal(call.name(), status, kind, &answer, &identity.secrets());
            let trouble = match &error {
                Error::Answer { code, .. } if is_throttling(code) => {
                    Trouble::of_status(StatusCode::TOO_MANY_REQUESTS, after)
                }
                _ => Trouble::of_status(status, after),
            };
            return Err(Failed { error, trouble });
        }
        let unread = |_| Error::Answer {
            action: call.name(),
            status: status.as_u16(),
            code: "no JSON".to_owned(),
            message: "the answer cannot be read".to_owned(),
        };
        Ok(serde_json::from_slice(&answer).map_err(unread)?)
    }

    /// Where the API answers: what the user says, else what AWS does.
    async fn endpoint(&self, api: Api<'_>) -> Result<Url, Error> {
        let configured = self.0.sdk.endpoint(api).await;
        let text = configured.unwrap_or_else(|| api.endpoint.to_owned());
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

/// The call without its signature; nothing where the endpoint has no room for it.
fn request(call: &Call<'_>, endpoint: &Url) -> Option<Request> {
    let mut url = endpoint.clone();
    match call.form {
        Form::Json(target, body) => {
            let mut request = Request::new(Method::POST, url);
            let target = format!("{target}.{}", call.action);
            let target = HeaderValue::from_str(&target).ok()?;
            request.headers.insert(CONTENT_TYPE, JSON_1_1);
            request.headers.insert(TARGET, target);
            request.body = Some(Bytes::from(body.to_string()));
            Some(request)
        }
        Form::Get(path, query) => {
            let mut segments = url.path_segments_mut().ok()?;
            segments.pop_if_empty().extend(path);
            drop(segments);
            url.query_pairs_mut().extend_pairs(query);
            Some(Request::new(Method::GET, url))
        }
    }
}

fn is_throttling(code: &str) -> bool {
    code.starts_with("Throttling")
        || matches!(code, "RequestLimitExceeded" | "TooManyRequestsException")
}

/// JSON's errors: a code with or without a namespace before and an address behind it, and a message. `kind` is the
/// code where a header has it.
fn refusal(
    action: String,
    status: StatusCode,
    kind: Option<&str>,
    answer: &[u8],
    secrets: &[&str],
) -> Error {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let code = kind.unwrap_or_else(|| text("__type"));
    let code = code.split(':').next().unwrap_or_default();
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
    let message = http::redact_answer(&message, []);
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
                None,
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
        let presigned = format!(
            r#"{{"__type":"X","message":"no https://u:pw@b.test/z?X-Amz-Signature=s3cr3t {}"}}"#,
            "x".repeat(9000)
        );
        let presigned = told(&presigned);
        assert!(
            presigned.contains("b.test/z") && presigned.len() < 2000,
            "{presigned}"
        );
        assert!(!presigned.contains("s3cr3t") && !presigned.contains("pw"));
        let rest = refusal(
            "lambda:GetLayerVersion".to_owned(),
            StatusCode::FORBIDDEN,
            Some("AccessDeniedException:http://x/"),
            br#"{"Message":"not yours"}"#,
            &[],
        );
        assert_eq!(
            rest.to_string(),
            "AWS refuses `lambda:GetLayerVersion`: not yours (AccessDeniedException)"
        );
    }
}
