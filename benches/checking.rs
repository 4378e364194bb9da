//! `lambimg check` against the limit: inflating each layer of an image and hashing it, and no more.
//!
//! `checking DIR` prints medians in seconds and the most memory in JSON; DIR is an OCI layout whose layers are gzip.
//! The limit reads the same blobs with as many threads as there are processors, each layer on one, and hashes both
//! the blob and its tar: who proves an image does that much.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::cmp::Reverse;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lambimg::digest::{Digest, Hasher};

const ROUNDS: usize = 5;
const BUFFER: usize = 256 << 10;

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Inflates and hashes every layer; returns seconds.
fn limit(layers: &[PathBuf], threads: usize) -> f64 {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(path) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let blob = Hashed {
                        inner: File::open(path).expect("it is there"),
                        hasher: Hasher::default(),
                    };
                    let blob = BufReader::with_capacity(BUFFER, blob);
                    let mut tar = flate2::bufread::GzDecoder::new(blob);
                    let mut inflated = BufReader::with_capacity(BUFFER, &mut tar);
                    Digest::of_reader(&mut inflated).expect("it inflates");
                    tar.into_inner().into_inner().hasher.finish();
                }
            });
        }
    });
    begun.elapsed().as_secs_f64()
}

/// Checks the image; returns seconds and the most memory that was resident, in bytes.
fn check(layout: &Path) -> io::Result<(f64, u64)> {
    let begun = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lambimg"))
        .args(["check", "--quiet"])
        .arg(format!("oci:{}", layout.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut most = 0;
    // The figure only grows, so the last that is seen is nearly the last there was.
    while child.try_wait()?.is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or_default() * 1024);
        thread::sleep(Duration::from_millis(5));
    }
    Ok((begun.elapsed().as_secs_f64(), most))
}

/// The blobs of the layout that are gzip, the largest first.
fn layers(layout: &Path) -> io::Result<Vec<PathBuf>> {
    let mut layers = Vec::new();
    for entry in fs::read_dir(layout.join("blobs/sha256"))? {
        let entry = entry?;
        let mut blob = BufReader::new(File::open(entry.path())?);
        if blob.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            layers.push((Reverse(entry.metadata()?.len()), entry.path()));
        }
    }
    layers.sort();
    Ok(layers.into_iter().map(|(_, path)| path).collect())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds `--bench` to what it was given.
    let layout = std::env::args()
        .skip(1)
        .find(|text| !text.starts_with("--"));
    let layout = PathBuf::from(layout.ok_or("which layout?")?);
    let layers = layers(&layout)?;
    let threads = thread::available_parallelism()?.get();
    let (mut limits, mut checks, mut memory) = (Vec::new(), Vec::new(), 0);
    // In turns, so that what else the machine does falls on both.
    for _ in 0..ROUNDS {
        let (seconds, most) = check(&layout)?;
        checks.push(seconds);
        memory = memory.max(most);
        limits.push(limit(&layers, threads));
    }
    let (limit, check) = (median(limits), median(checks));
    let figures = serde_json::json!({
        "threads": threads, "layers": layers.len(), "limit": limit, "check": check,
        "ratio": check / limit, "peak": memory,
    });
    println!("{figures}");
    Ok(())
}
