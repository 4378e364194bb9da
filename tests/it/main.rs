//! The command as its users meet it: the real binary against real registries, package indexes,
//! unpackers and Lambda's own emulator. One test binary, so that all share what `support` makes.
//!
//! Needs what `tests/tools.py` installs; nothing is skipped when it is absent.

mod house;
mod support;
