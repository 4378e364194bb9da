//! Build script: lists this directory's runtimes, so that adding one is adding a file.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("base-images");
    #[expect(
        clippy::print_stdout,
        reason = "it is how a build script speaks to cargo"
    )]
    {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    let entries = fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    files.sort();
    let mut code = String::from("[\n");
    for file in files {
        writeln!(code, "include_str!({:?}),", file.display().to_string())?;
    }
    code.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("runtimes.rs"), code)?;
    Ok(())
}
