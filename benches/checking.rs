//! Reading an image's layers for its rules against the limit: inflating each and hashing its tar, and no more.
//!
//! `checking LAYER...` prints medians in seconds and the most memory in JSON; layers are files of tar and gzip.
//! Both run over the same files with as many threads as there are processors. `watched` is what `lambimg check`
//! does, `listed` the same without a look into files, so that the difference is what the looks cost.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use lambimg::digest::Digest;
use lambimg::lambda::check::contents::{Contents, Seen};
use lambimg::oci::Descriptor;
use lambimg::oci::flatten::{self, Layer, Tree};

const ROUNDS: usize = 5;

/// Inflates and hashes every layer; returns seconds.
fn limit(paths: &[String], threads: usize) -> f64 {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file =
                        BufReader::with_capacity(256 << 10, File::open(path).expect("it is there"));
                    let mut tar =
                        BufReader::with_capacity(256 << 10, flate2::bufread::GzDecoder::new(file));
                    Digest::of_reader(&mut tar).expect("it inflates");
                }
            });
        }
    });
    begun.elapsed().as_secs_f64()
}

/// Reads every layer and stacks them; returns seconds and layers.
fn check(stated: &[Descriptor], paths: &[String], is_watched: bool) -> (f64, Vec<Layer<Seen>>) {
    let sizes: Vec<_> = stated.iter().map(|layer| layer.size).collect();
    let contents = Contents::default().of_layers(&sizes);
    let begun = Instant::now();
    let open = |number: usize| File::open(&paths[number]);
    let read = flatten::read_all(stated, open, |number, entry| {
        let contents = is_watched.then(|| &contents[number])?;
        contents.reader(entry)
    });
    let layers: io::Result<Vec<_>> = read.into_iter().collect();
    let layers = layers.expect("they can be read");
    drop(Tree::new(&layers));
    (begun.elapsed().as_secs_f64(), layers)
}

/// The most memory that was resident, in bytes.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.ok_or("no VmHWM")?.parse::<u64>()? * 1024)
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds `--bench` to what it was given.
    let paths: Vec<String> = std::env::args()
        .skip(1)
        .filter(|text| !text.starts_with("--"))
        .collect();
    let stated = paths.iter().map(|path| {
        let mut descriptor = Descriptor::of("layer", b"");
        descriptor.size = fs::metadata(path)?.len();
        Ok(descriptor)
    });
    let stated = stated.collect::<io::Result<Vec<_>>>()?;
    let threads = thread::available_parallelism()?.get();
    let (mut limits, mut listed, mut watched) = (Vec::new(), Vec::new(), Vec::new());
    let (mut entries, mut unpacked, mut memory) = (0, 0, 0);
    // In turns, so that what else the machine does falls on all of them.
    for _ in 0..ROUNDS {
        let (seconds, layers) = check(&stated, &paths, true);
        watched.push(seconds);
        entries = layers.iter().map(|layer| layer.entries.len()).sum();
        unpacked = layers.iter().map(|layer| layer.unpacked).sum();
        memory = peak()?;
        drop(layers);
        listed.push(check(&stated, &paths, false).0);
        limits.push(limit(&paths, threads));
    }
    let (limit, listed, watched) = (median(limits), median(listed), median(watched));
    let figures = serde_json::json!({
        "threads": threads, "layers": paths.len(), "entries": entries, "unpacked": unpacked,
        "limit": limit, "listed": listed, "watched": watched, "ratio": watched / limit, "peak": memory,
    });
    println!("{figures}");
    Ok(())
}
