//! Container images for Python functions on AWS Lambda, without Docker.
//!
//! The rooms, bottom to top. A room uses those before it and never one after it; `tests/it/house.rs`
//! holds that. A room is an outside document, a decision of ours, or a cellar good with no opinion.
//!
//! | room | what it is | what it must never know |
//! |---|---|---|
//! | [`digest`] | the sha256 value; hashing writers, verifying readers | files, networks |
//! | [`progress`] | what a long job says while it runs | who listens |
//! | [`zip`] | a strict reader of archives; a writer of plain ones | wheels, functions |
//! | [`http`] | one client: time-outs, retry, redirects, redaction | registries, indexes |
//! | [`file_tree`] | files bound for an image, sorted, with their owners | time, owner, raw mode; tar |
//! | [`blob_store`] | bytes by digest on disk; answers by the digest of their inputs | what blobs mean |
//! | [`oci`] | the image specification, and Docker's schema 2 | registries, Python, Lambda |
//! | [`python`] | what the PyPA specifications and the tools' locks say; indexes, resolvers, sources, bytecode | images |
//! | [`lambda`] | Lambda's runtimes, paths, handlers; its rules for images; functions run as it runs them | AWS accounts; where an image comes from |
//! | [`aws`] | the few calls of AWS: ECR's logins and repositories, Lambda's layers | what is pushed, and how |
//! | [`registry`] | the distribution specification | Python, Lambda, what is in a layer |
//! | [`config`] | what the user wrote, and where | what it means; defaults |
//! | [`plan`] | what will be done, nothing left to decide | files, networks, clocks |
//! | [`build`] | plan → image → destinations | flags, terminals |
//!
//! The binary (`src/cli`) is another crate: the only reader of argv, environment and clock, the only
//! writer to the terminal, and the only place that gives advice and exit codes.
//!
//! ```text
//!  argv, env ─► Flags ─┐
//!  pyproject ─► Config ┴─► Plan ──┬─ base          reference → pinned manifest and config
//!                                 ├─ bootstrap     runtime client + entry point → layer
//!                                 ├─ dependencies  lock → wheels, verified → layers
//!                                 └─ function      source → layer
//!                                         │
//!                                   oci::image::stack ─► Image + where each blob can be had
//!                                         │
//!                                store · oci dir · archives · registry · lambda::check
//!
//!  a deployment package is read as the function, and written from the trees of dependencies and function
//! ```
//!
//! Lasting decisions: the library neither prints nor reads environment, home or clock; AWS's own chain of
//! credentials does, for that is what it is for. Errors state
//! facts. Documents are kept as the bytes they came in, and edited as JSON values. Every date in an image
//! is `SOURCE_DATE_EPOCH`, by default the earliest that a zip archive can say. The local store is an OCI
//! layout; names are its index, everything else is content-addressed. A layer takes over what a wheel has
//! deflated already; where its deflate blocks end only zlib's own interface tells, so `oci/inflate.rs` has
//! `unsafe` in it, and beside it only the call with which a sandbox's helper keeps to itself what it was started
//! with (`lambda/sandbox/init/descriptors.rs`), and those by which signals do there what they do by default
//! (`signals.rs` beside it).

pub mod aws;
pub mod blob_store;
pub mod build;
pub mod config;
pub mod digest;
pub mod file_tree;
pub mod http;
pub mod lambda;
pub mod oci;
pub mod plan;
pub mod progress;
pub mod python;
pub mod registry;
pub mod zip;
