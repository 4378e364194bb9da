//! The limit: what inflating every member of some wheels and hashing alone takes on all processors.
//!
//! `limit WHEEL...` prints medians in JSON. Each member is inflated once by the inflater that lambimg uses;
//! what is hashed once are its compressed bytes, as a layer's digest wants it, and its inflated ones, as a
//! `diff_id` does. The second figure hashes the inflated bytes twice, for each file's own hash in `RECORD`.
//! No order is kept, nothing is written, checked or looked up: no builder of layers can be faster.
//! It must not use the room of layers, whose share of the limit it is there to tell.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use flate2::{Decompress, FlushDecompress, Status};
use lambimg::zip::{self, Method};
use sha2::{Digest as _, Sha256};

const ROUNDS: usize = 5;
const BUFFER: usize = 64 << 10;

struct Member {
    archive: usize,
    offset: u64,
    compressed: u64,
    size: u64,
    method: Method,
}

struct Input {
    archives: Vec<File>,
    /// Largest first, so that no processor is left alone with one at the end.
    members: Vec<Member>,
}

impl Input {
    fn open(paths: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut input = Self {
            archives: Vec::new(),
            members: Vec::new(),
        };
        for (archive, path) in paths.iter().enumerate() {
            input.archives.push(File::open(path)?);
            let members = zip::open(Path::new(path))?.into_iter();
            input.members.extend(members.map(|member| Member {
                archive,
                offset: member.offset,
                compressed: member.compressed_size,
                size: member.size,
                method: member.method,
            }));
        }
        input
            .members
            .sort_by_key(|member| std::cmp::Reverse(member.size));
        Ok(input)
    }

    /// Inflates and hashes everything; returns seconds.
    fn run(&self, threads: usize, hashes: usize) -> f64 {
        let next = AtomicUsize::new(0);
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut work = Work::new(hashes);
                    while let Some(member) = self.members.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        work.take(&self.archives[member.archive], member);
                    }
                });
            }
        });
        begun.elapsed().as_secs_f64()
    }
}

/// What one thread needs again and again.
struct Work {
    raw: Vec<u8>,
    inflated: Vec<u8>,
    inflater: Decompress,
    of_raw: Sha256,
    of_inflated: Vec<Sha256>,
}

impl Work {
    fn new(hashes: usize) -> Self {
        Self {
            raw: vec![0; BUFFER],
            inflated: vec![0; BUFFER],
            inflater: Decompress::new(false),
            of_raw: Sha256::new(),
            of_inflated: vec![Sha256::new(); hashes],
        }
    }

    fn take(&mut self, archive: &File, member: &Member) {
        self.inflater.reset(false);
        let mut inflated = 0;
        let mut at = 0;
        while at < member.compressed {
            let left = usize::try_from(member.compressed - at).unwrap_or(BUFFER);
            let count = left.min(BUFFER);
            let read = archive.read_exact_at(&mut self.raw[..count], member.offset + at);
            read.expect("a wheel that was listed can be read");
            self.of_raw.update(&self.raw[..count]);
            inflated += match member.method {
                Method::Stored => self.hash_raw(count),
                Method::Deflated => self.inflate(count),
            };
            at += count as u64;
        }
        assert_eq!(inflated, member.size, "a member has the size it says");
    }

    fn hash_raw(&mut self, count: usize) -> u64 {
        for hash in &mut self.of_inflated {
            hash.update(&self.raw[..count]);
        }
        count as u64
    }

    fn inflate(&mut self, count: usize) -> u64 {
        let begun = self.inflater.total_out();
        let first = self.inflater.total_in();
        loop {
            let used = usize::try_from(self.inflater.total_in() - first).unwrap_or(count);
            let before = self.inflater.total_out();
            let status = self.inflater.decompress(
                &self.raw[used..count],
                &mut self.inflated,
                FlushDecompress::None,
            );
            let status = status.expect("a wheel's member inflates");
            let made = usize::try_from(self.inflater.total_out() - before).unwrap_or(BUFFER);
            for hash in &mut self.of_inflated {
                hash.update(&self.inflated[..made]);
            }
            if status == Status::StreamEnd || made < BUFFER {
                return self.inflater.total_out() - begun;
            }
        }
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds `--bench` to what it was given.
    let paths: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let input = Input::open(&paths)?;
    let threads = thread::available_parallelism()?.get();
    let rounds = |hashes| median((0..ROUNDS).map(|_| input.run(threads, hashes)).collect());
    let sum = |of: fn(&Member) -> u64| input.members.iter().map(of).sum::<u64>();
    let figures = serde_json::json!({
        "threads": threads,
        "members": input.members.len(),
        "compressed": sum(|member| member.compressed),
        "inflated": sum(|member| member.size),
        "seconds": rounds(1),
        "seconds_with_record": rounds(2),
    });
    println!("{figures}");
    Ok(())
}
