//! Embeds the runtimes of this directory.
fn main() {}
