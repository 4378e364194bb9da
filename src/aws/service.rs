//! A service of AWS where it answers, and one call of it.
//!
//! Pure values: whose credentials sign a call is not known, nor what its answer means.

use serde_json::Value;

/// A service, as its requests name it.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// The name in variables and profiles, as in `AWS_ENDPOINT_URL_ECR`.
    pub id: &'static str,
    /// The name that signatures are for.
    pub signing_name: &'static str,
    /// What stands before an action in policies.
    pub policy: &'static str,
}

/// Which of a service's addresses the user wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Variant {
    /// Where all cryptography is of FIPS 140.
    pub(super) fips: bool,
    /// That IPv6 reaches too.
    pub(super) dual_stack: bool,
}

/// A service in one region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Api<'a> {
    pub(super) service: &'static Service,
    #[cfg_attr(
        not(feature = "aws"),
        expect(dead_code, reason = "nobody signs for it")
    )]
    pub(super) region: &'a str,
    /// Its address, unless the user names another.
    pub(super) endpoint: &'a str,
    /// What it is asked for: a registry's host, or a layer.
    pub(super) of: &'a str,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) api: Api<'a>,
    /// As policies name it, without the service.
    pub(super) action: &'a str,
    pub(super) form: Form<'a>,
}

/// How a call is put.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'a> {
    /// JSON 1.1: what stands before the action in `X-Amz-Target`, and the body.
    Json(&'static str, &'a Value),
    /// REST: what is got, below the endpoint, and the query.
    Get(&'a [&'a str], &'a [(&'a str, &'a str)]),
}

impl Call<'_> {
    /// The action as policies name it.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.api.service.policy, self.action)
    }
}
