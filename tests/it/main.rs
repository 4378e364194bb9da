//! The command as its users meet it: the real binary against real registries, package indexes,
//! unpackers and Lambda's own emulator. One test binary, so that all share what `support` makes.
//!
//! Needs what `tests/tools.py` installs; nothing is skipped when it is absent.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::doc_markdown, reason = "CPython and BuildKit are words here")]

mod beside;
mod build;
mod bytecode;
mod cache;
mod checking;
mod checking_elf;
mod ci;
mod contract;
mod dependencies;
mod diffing;
mod earlier;
mod ecr;
mod ecr_api;
mod emulator;
mod endings;
mod events;
mod extensions_live;
mod failures;
mod function;
mod functions;
mod golden;
mod house;
mod indexes;
mod inputs;
mod inspecting;
mod invoke_service;
mod invoking;
mod layer_arns;
mod layering;
mod layers;
mod logins;
mod many;
mod networks;
mod outputs;
mod packages;
mod pins;
mod pushing;
mod rebasing;
mod registry;
mod reproducible;
mod resolving;
mod sandbox;
mod sbom;
mod sources;
mod streaming;
mod support;
mod tags;
mod uv_lock;
mod verifying;
mod wheels;
