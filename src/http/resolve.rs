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

impl Unresolved {
    /// Whether nobody could say just now what address the name has: `EAI_AGAIN`, which the standard library keeps
    /// only in the words of the C library (glibc's and Apple's, then musl's).
    pub(super) fn is_temporary(&self) -> bool {
        let words = self.source.to_string();
        words.ends_with("Temporary failure in name resolution") || words.ends_with("Try again")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_stays_so() {
        let is_temporary = |words: &str| {
            let source = format!("failed to lookup address information: {words}");
            let host = "r.test".to_owned();
            let source = std::io::Error::other(source);
            Unresolved { host, source }.is_temporary()
        };
        assert!(is_temporary("Temporary failure in name resolution"));
        assert!(is_temporary("Try again"));
        for words in [
            "Name or service not known",
            "nodename nor servname provided, or not known",
            "Name does not resolve",
            "No address associated with hostname",
            "Non-recoverable failure in name resolution",
        ] {
            assert!(!is_temporary(words), "{words}");
        }
    }
}
