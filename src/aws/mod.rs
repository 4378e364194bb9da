//! The few calls made of AWS: a login for ECR's registries, and their repositories; a layer of Lambda's.
//!
//! Follows ECR's API of 2015-09-21 and the public gallery's of 2020-10-30, JSON 1.1, and Lambda's of 2018-10-31,
//! REST with JSON, signed by version 4. Whose
//! credentials are used is for AWS's own chain to say (`sdk`), which alone in this library reads the
//! environment, the home and the clock: that is what it is for. This room must never know what is pushed, nor
//! how a registry is spoken to.

mod call;
pub mod ecr;
pub mod layers;
mod login;
pub mod repository;
#[cfg(feature = "aws")]
mod sdk;
#[cfg(not(feature = "aws"))]
#[path = "no_sdk.rs"]
mod sdk;
mod service;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Mutex;

use crate::digest::Digest;
use crate::http::{self, Client};
use crate::progress::Progress;

pub use login::Login;
pub use service::Service;

/// What AWS can be asked for in vain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Whoever built this left AWS out.
    #[error("`{of}` wants a login of AWS, and this build of lambimg has no AWS support")]
    NotBuiltIn {
        /// What is asked for, as a registry's host.
        of: String,
    },
    /// Nothing in the chain has any credentials.
    #[error("no AWS credentials were found for `{of}`")]
    NoCredentials {
        /// What is asked for, as a registry's host.
        of: String,
    },
    /// Credentials are configured, but cannot be had.
    #[error("the AWS credentials for `{of}` cannot be had: {detail}")]
    Credentials {
        /// What is asked for, as a registry's host.
        of: String,
        /// What went wrong, outermost first.
        detail: String,
    },
    /// The credentials were good once.
    #[error("the AWS credentials have expired: {message} ({code})")]
    Expired {
        /// What was wanted, as policies name it.
        action: String,
        /// AWS's code.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// The credentials are not good for this, or not at all.
    #[error("AWS refuses `{action}`: {message} ({code})")]
    Denied {
        /// What was wanted, as policies name it.
        action: String,
        /// AWS's code.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// Any other answer that is no result.
    #[error("AWS answered {status} to `{action}`: {message} ({code})")]
    Answer {
        /// What was wanted, as policies name it.
        action: String,
        /// The status code.
        status: u16,
        /// AWS's code.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// The user names an endpoint that cannot be one.
    #[error("the endpoint `{endpoint}` {reason}")]
    Endpoint {
        /// As configured, without what may be secret.
        endpoint: String,
        /// Why not, as a clause.
        reason: &'static str,
    },
    /// Nothing came back.
    #[error(transparent)]
    Http(#[from] http::Error),
}

/// What calls of AWS are made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The client that all of it goes through, the chain of credentials too.
    pub client: Client,
    /// Where logins are kept for other runs, if anywhere. Made with mode 0700.
    pub directory: Option<PathBuf>,
    /// The clock.
    pub now: fn() -> SystemTime,
    /// Who is told what was done.
    pub progress: Progress,
}

/// AWS as whoever runs this may use it. Nothing is read or asked before it is needed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Aws(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    sdk: sdk::Sdk,
    /// By registry and access key, each locked for itself while it is asked for.
    logins: Mutex<HashMap<Digest, Arc<Mutex<Option<Login>>>>>,
}

impl Aws {
    /// AWS by these settings.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            sdk: sdk::Sdk::new(settings.client.clone()),
            settings,
            logins: Mutex::default(),
        }))
    }
}
