//! Bytes read ahead on a thread of their own, through a few buffers that go round.
//!
//! One stage reads, the next takes whole chunks; both run at once and neither has more than a few chunks. What the
//! bytes are is not known here.

use std::io::{self, BufRead, Read};
use std::panic;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::{Scope, ScopedJoinHandle};

use crate::digest::{Digest, Hasher};

/// Chunks under way between two threads.
const CHUNKS: usize = 4;

/// What another thread reads.
pub(super) struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    hasher: Option<Hasher>,
    size: u64,
    /// Bytes that the next stage took.
    taken: u64,
}

/// Reads `source` on a thread, to its end or until nobody takes more of it. The thread gives `source` back.
pub(super) fn start<'scope, R: Read + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    source: R,
    chunk: usize,
) -> (Ahead, ScopedJoinHandle<'scope, R>) {
    let (full, taken) = mpsc::sync_channel(CHUNKS);
    let (empty, spent) = mpsc::channel();
    let thread = scope.spawn(move || read(source, chunk, &full, &spent));
    let ahead = Ahead {
        full: taken,
        empty,
        chunk: Vec::new(),
        at: 0,
        hasher: None,
        size: 0,
        taken: 0,
    };
    (ahead, thread)
}

fn read<R: Read>(
    mut source: R,
    chunk: usize,
    full: &SyncSender<io::Result<Vec<u8>>>,
    spent: &Receiver<Vec<u8>>,
) -> R {
    loop {
        let mut buffer = spent.try_recv().unwrap_or_default();
        buffer.resize(chunk, 0);
        let (count, error) = fill(&mut source, &mut buffer);
        buffer.truncate(count);
        // What came before an error is given out before it.
        let is_last = count < chunk;
        if count > 0 && full.send(Ok(buffer)).is_err() {
            return source;
        }
        if let Some(error) = error {
            let _ = full.send(Err(error));
            return source;
        }
        if is_last {
            return source;
        }
    }
}

/// Fills the buffer as far as there are bytes.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut count = 0;
    while count < buffer.len() {
        match source.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (count, Some(error)),
        }
    }
    (count, None)
}

/// What a thread came to; its panic goes on here.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|why| panic::resume_unwind(why))
}

impl Ahead {
    /// From now on all that comes is hashed.
    pub(super) fn hashing(mut self) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(&self.chunk[self.at..]);
        self.hasher = Some(hasher);
        self.size = (self.chunk.len() - self.at) as u64;
        self
    }

    /// The number of bytes that were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The digest and number of bytes that came.
    pub(super) fn finish(self) -> (Option<Digest>, u64) {
        (self.hasher.map(Hasher::finish), self.size)
    }

    /// Whether the next bytes are these, which may lie in two chunks.
    pub(super) fn starts_with(&mut self, bytes: [u8; 2]) -> bool {
        if self.chunk.len() - self.at == 1 {
            // One byte is left of this chunk: what follows it is put behind it.
            let first = self.chunk[self.at];
            if let Ok(Ok(next)) = self.full.recv() {
                self.size += next.len() as u64;
                self.chunk = [&[first], &*next].concat();
                self.at = 0;
            }
        }
        self.fill_buf().is_ok_and(|there| there.starts_with(&bytes))
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len()
            && let Ok(next) = self.full.recv()
        {
            let next = next?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&next);
            }
            self.size += next.len() as u64;
            let spent = std::mem::replace(&mut self.chunk, next);
            self.at = 0;
            // Nobody reads on where the end was reached.
            let _ = self.empty.send(spent);
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = self.chunk.len().min(self.at + count);
        self.taken += count as u64;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        self.consume(count);
        Ok(count)
    }
}
