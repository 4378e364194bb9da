//! What registries, AWS and the network say.
//!
//! Facts about images and projects are told elsewhere.

use lambimg::aws;
use lambimg::http;
use lambimg::registry;
use lambimg::registry::auth::{self, Source};

use super::build::{of_document, of_store};
use super::{AWS, Advice, Failure, NETWORK, REFUSED, USAGE, hint};

impl From<http::Error> for Failure {
    fn from(error: http::Error) -> Self {
        Self::new(&error, of_http(&error))
    }
}

pub(super) fn of_http(error: &http::Error) -> Advice {
    match error {
        http::Error::Offline { .. } => hint(
            "build once without `--offline`; what is in the cache then needs no network",
            NETWORK,
        ),
        http::Error::Resolve { .. } => hint(
            "check the spelling of the host, and the machine's network",
            NETWORK,
        ),
        http::Error::Connect { reason, .. } if reason.contains("certificate") => hint(
            "name the file of its authority by `--ca-file` or in SSL_CERT_FILE, PIP_CERT or REQUESTS_CA_BUNDLE; certificates are \
             always checked, whatever PIP_TRUSTED_HOST and UV_INSECURE_HOST say",
            NETWORK,
        ),
        http::Error::Connect { .. } => hint(
            "check that it runs there and speaks TLS (`--plain-http HOST` if it does not), and the \
             proxy variables",
            NETWORK,
        ),
        http::Error::Exchange { .. }
        | http::Error::TooLarge { .. }
        | http::Error::Redirect { .. } => hint(
            "try again; if it stays, the fault is at the other end or in a proxy between",
            NETWORK,
        ),
        http::Error::Setup(_) => hint("check the machine's CA certificates", NETWORK),
    }
}

pub(super) fn of_registry(error: &registry::Error) -> Advice {
    match error {
        registry::Error::Http(error) => of_http(error),
        registry::Error::Unauthorized {
            registry,
            credentials,
            ..
        } => hint(login_hint(registry, *credentials), NETWORK),
        registry::Error::NotFound { .. } => {
            hint("check the spelling of the repository and the tag", NETWORK)
        }
        registry::Error::NoRepository {
            registry,
            repository,
            ..
        } => hint(create_hint(registry, repository), NETWORK),
        registry::Error::Create { source, .. } => of_aws(source),
        registry::Error::TagTaken { refusal: None, .. } => hint(
            "push under another tag, push by digest alone (as `REPOSITORY@sha256:…`), or move the tag by `--force`",
            REFUSED,
        ),
        registry::Error::TagTaken {
            refusal: Some(words),
            ..
        } => hint(
            format!(
                "the registry lets no tag move ({words}): push under another tag, or by digest alone (as \
                 `REPOSITORY@sha256:…`)"
            ),
            REFUSED,
        ),
        registry::Error::NoList { .. } => hint(
            "that tag is for the list alone, where a registry keeps none itself: find out who put something else there, \
             and remove it",
            REFUSED,
        ),
        registry::Error::Status { .. } => hint(
            "the registry's words say what it minds; try again if it was busy",
            NETWORK,
        ),
        registry::Error::Elsewhere { .. } => hint(
            "the registry chose that address, and none of your credentials go there: try again; if it stays, ask who \
             runs the registry",
            NETWORK,
        ),
        registry::Error::Protocol { .. }
        | registry::Error::Digest { .. }
        | registry::Error::Length { .. } => hint(
            "try again; if it stays, the fault is at the registry or in a proxy between",
            NETWORK,
        ),
        registry::Error::Document { source, .. } => of_document(source),
        registry::Error::Credentials(error) => of_credentials(error),
        registry::Error::Store(error) => of_store(error),
        registry::Error::Missing(_) | registry::Error::Read { .. } => {
            hint("build the image again, then push", REFUSED)
        }
    }
}

/// How a repository is made: ECR's by a command, others by whoever runs them.
pub(super) fn create_hint(registry: &str, repository: &str) -> String {
    let Some(ecr) = aws::ecr::Registry::parse(registry) else {
        return "create the repository first, and check its spelling".to_owned();
    };
    let (name, region) = (ecr.name_of(repository), ecr.region());
    let service = if ecr.is_public() { "ecr-public" } else { "ecr" };
    let account = ecr.account();
    let account = account.map(|account| format!("; it is to be in the account {account}"));
    format!(
        "push with `--create-repository`, or create it by `aws {service} create-repository --repository-name \
         {name} --region {region}`{}",
        account.unwrap_or_default()
    )
}

fn login_hint(registry: &str, credentials: Source) -> String {
    let stored = format!(
        "where Docker's config has credentials for it, `docker logout {registry}` has AWS's own used"
    );
    match credentials {
        Source::Explicit => "the credentials in LAMBIMG_REGISTRY_USER and LAMBIMG_REGISTRY_PASSWORD are refused: mend \
             the variables, unset them, or check what these credentials may do"
            .to_owned(),
        _ if aws::ecr::Registry::parse(registry).is_some_and(|ecr| !ecr.is_public()) => format!(
            "check what the role or user and the repository's policy allow (`ecr:BatchGetImage` and \
             `ecr:GetDownloadUrlForLayer` to pull, `ecr:BatchCheckLayerAvailability`, \
             `ecr:InitiateLayerUpload`, `ecr:UploadLayerPart`, `ecr:CompleteLayerUpload` and `ecr:PutImage` \
             to push); {stored}"
        ),
        Source::Aws => "check what the role or user may do: `ecr-public:*` with `sts:GetServiceBearerToken` to push to \
             the public gallery"
            .to_owned(),
        Source::Stored => format!(
            "the credentials in Docker's config are refused: run `docker login {registry}` again, or check what \
             they may do"
        ),
        Source::Anonymous => format!(
            "no credentials were found in Docker's config: run `docker login {registry}`"
        ),
    }
}

pub(super) fn of_aws(error: &aws::Error) -> Advice {
    match error {
        aws::Error::NotBuiltIn { of: registry } => hint(
            format!(
                "install a lambimg that was built with its feature `aws`, or log in by another program: \
                 `aws ecr get-login-password | docker login --username AWS --password-stdin {registry}`"
            ),
            AWS,
        ),
        aws::Error::NoCredentials { .. } => hint(
            "log in with `aws sso login`, name a profile in AWS_PROFILE, or set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY; in GitHub's actions give the job `permissions: id-token: write` and run \
             aws-actions/configure-aws-credentials before",
            AWS,
        ),
        aws::Error::Credentials { detail, .. } => hint(
            if detail.to_ascii_lowercase().contains("sso") || detail.contains("Session token") {
                "log in again with `aws sso login --profile NAME`, where NAME is what AWS_PROFILE says"
            } else {
                "check the profile that AWS_PROFILE names, the role that it assumes and who may assume it; in \
                 GitHub's actions the job needs `permissions: id-token: write`"
            },
            AWS,
        ),
        aws::Error::Expired { .. } => hint(
            "have new ones: `aws sso login --profile NAME`, or new keys in the variables AWS_ACCESS_KEY_ID, \
             AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            AWS,
        ),
        aws::Error::Denied { action, code, .. } => hint(of_denial(action, code), AWS),
        aws::Error::Answer { .. } => hint(
            "AWS's words say what it minds; try again if it was busy",
            AWS,
        ),
        aws::Error::Endpoint { .. } => hint(
            "mend AWS_ENDPOINT_URL_ECR, AWS_ENDPOINT_URL_ECR_PUBLIC, AWS_ENDPOINT_URL_LAMBDA, AWS_ENDPOINT_URL or `endpoint_url` in the \
             profile; `--plain-http HOST` allows one without TLS",
            USAGE,
        ),
        aws::Error::Http(error) => of_http(error),
    }
}

/// Whether AWS knows who asks, and does not let him.
pub(super) fn is_not_allowed(code: &str) -> bool {
    matches!(
        code,
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "OptInRequired"
    )
}

fn of_denial(action: &str, code: &str) -> String {
    match code {
        code if is_not_allowed(code) => format!(
            "have `{action}` allowed for the role or user that AWS's words name, or choose another by AWS_PROFILE"
        ),
        "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            "check AWS_SECRET_ACCESS_KEY or the profile's secret key, and the machine's clock".to_owned()
        }
        "RequestExpired" | "RequestTimeTooSkewed" => {
            "set the machine's clock right: AWS takes requests of some minutes ago at most".to_owned()
        }
        _ => "the keys are not valid there: check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or choose a profile by \
              AWS_PROFILE"
            .to_owned(),
    }
}

fn of_credentials(error: &auth::Error) -> Advice {
    match error {
        auth::Error::Config { .. } => hint("mend the file, or run `docker login` again", USAGE),
        auth::Error::Helper { .. } => hint(
            "install or mend it, or take it out of Docker's config.json",
            NETWORK,
        ),
        auth::Error::Challenge { .. } => hint(
            "it should ask by Basic or by Bearer with an address of TLS",
            NETWORK,
        ),
        auth::Error::TokenServer {
            registry,
            credentials,
            ..
        } => hint(login_hint(registry, *credentials), NETWORK),
        auth::Error::OtherSite { registry, server } => hint(
            format!(
                "credentials go to the registry's own site alone: have `{registry}` name a token server there, or \
                 reach both by one host, through a proxy; if `{server}` is known to be its token server, report \
                 the two"
            ),
            NETWORK,
        ),
        auth::Error::Aws(error) => of_aws(error),
        auth::Error::Http(error) => of_http(error),
    }
}
