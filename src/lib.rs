//! Container images for Python functions on AWS Lambda, without Docker.
pub mod blob_store;
pub mod digest;
pub mod file_tree;
pub mod http;
pub mod oci;
pub mod progress;
pub mod registry;
pub mod python;
pub mod zip;
