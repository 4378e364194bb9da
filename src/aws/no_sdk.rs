//! What a build without AWS support has in place of AWS's own crates: nobody has credentials.
//!
//! It has what `sdk` has, so that the rest of the room is the same in both builds.

use std::convert::Infallible;
use std::time::SystemTime;

use super::Error;
use super::service::{Api, Variant};
use crate::http::{Client, Request};

/// Nobody.
#[derive(Debug)]
pub(super) struct Identity(Infallible);

impl Identity {
    pub(super) fn access_key_id(&self) -> &str {
        match self.0 {}
    }

    pub(super) fn is_lasting(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn secrets(&self) -> Vec<&str> {
        match self.0 {}
    }

    pub(super) fn sign(&self, _: &mut Request, _: Api<'_>, _: SystemTime) -> Option<()> {
        match self.0 {}
    }
}

#[derive(Debug)]
pub(super) struct Sdk;

impl Sdk {
    pub(super) fn new(_: Client) -> Self {
        Self
    }

    #[expect(clippy::unused_async, reason = "the other one waits")]
    pub(super) async fn identity(&self, api: Api<'_>, _: SystemTime) -> Result<Identity, Error> {
        Err(Error::NotBuiltIn {
            of: api.of.to_owned(),
        })
    }

    #[expect(clippy::unused_async, reason = "the other one waits")]
    pub(super) async fn endpoint(&self, _: Api<'_>) -> Option<String> {
        None
    }

    #[expect(clippy::unused_async, reason = "the other one waits")]
    pub(super) async fn variant(&self, _: &str) -> Variant {
        Variant::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::ecr::Registry;
    use crate::aws::{Aws, Settings};
    use crate::http;
    use crate::progress::Progress;

    #[tokio::test]
    async fn a_build_without_aws_says_so() {
        let aws = Aws::new(Settings {
            client: Client::new(http::Settings::default()),
            directory: None,
            now: || SystemTime::UNIX_EPOCH,
            progress: Progress::default(),
        });
        let registry = Registry::parse("public.ecr.aws").unwrap();
        let error = aws.login(&registry, None).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`public.ecr.aws` wants a login of AWS, and this build of lambimg has no AWS support"
        );
    }
}
