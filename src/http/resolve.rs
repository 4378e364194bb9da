//! Names to addresses as the machine has it, with failures that tell the name.
//!
//! Behind a proxy that is the proxy's name, which no URL of a request has. This file knows no request.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("the host name `{host}` does not resolve")]
pub(super) struct Unresolved {
    /// The name.
    pub(super) host: String,
    source: std::io::Error,
}

/// The machine's own resolver.
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let addresses = found.map_err(|source| Unresolved {
                host: name.as_str().to_owned(),
                source,
            })?;
            // What is looked up borrows the name.
            let addresses: Vec<_> = addresses.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
