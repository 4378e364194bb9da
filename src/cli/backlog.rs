//! A function's log on its way out: a thread of its own writes it, so that whoever does not read it holds up nothing.
//!
//! Who reads slowly slows the function down; who does not read at all loses lines, and is told how many. What they
//! say, and where they go, is not known here.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::terminal::counted;

/// As many bytes may wait to be written.
const ROOM: usize = 1 << 20;

/// Lines that wait to be written. Clones are the same.
#[derive(Clone)]
pub(crate) struct Backlog(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// How long a writer that takes nothing is waited for.
    patience: Duration,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Vec<u8>>,
    /// In all of them, and in the one that is being written.
    bytes: usize,
    /// How many lines were left out since the last that was not.
    lost: usize,
    /// Nothing was taken for as long as that is waited for.
    is_stuck: bool,
}

impl Backlog {
    /// Has `write` called for all that comes, by one thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn new(
        patience: Duration,
        write: impl Fn(&[u8]) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            patience,
        });
        let writing = Arc::clone(&shared);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || writing.write_all(write))?;
        Ok(Self(shared))
    }

    /// Writes whole lines, soon. Where too many wait already they are left out, if that does not change soon.
    pub(crate) fn write(&self, lines: &[u8]) {
        let is_full = |queue: &mut Queue| queue.bytes >= ROOM;
        let mut queue = self.0.until_not(is_full);
        if is_full(&mut queue) {
            queue.lost += lines.split_inclusive(|byte| *byte == b'\n').count();
        } else {
            queue.tell_lost();
            queue.add(lines.to_vec());
        }
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Waits until all is written, if anything is.
    pub(crate) fn flush(&self) {
        let _all = self.0.until_not(|queue| queue.bytes > 0 || queue.lost > 0);
    }
}

impl Queue {
    fn add(&mut self, piece: Vec<u8>) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn tell_lost(&mut self) {
        if self.lost > 0 {
            let lines = counted(std::mem::take(&mut self.lost), "line");
            let told = format!(
                "warning: {lines} of the log not shown: nothing was read here for too long\n"
            );
            self.add(told.into_bytes());
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is so no more, unless the writer is stuck.
    fn until_not(&self, is_so: impl Fn(&mut Queue) -> bool) -> MutexGuard<'_, Queue> {
        let queue = self.queue();
        let waited = self
            .changed
            .wait_timeout_while(queue, self.patience, |queue| {
                !queue.is_stuck && is_so(queue)
            });
        let (mut queue, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        // Nobody else waits as long for it.
        queue.is_stuck |= waited.timed_out();
        queue
    }

    fn write_all(&self, write: impl Fn(&[u8])) {
        loop {
            let piece = self.next();
            write(&piece);
            let mut queue = self.queue();
            queue.bytes -= piece.len();
            queue.is_stuck = false;
            drop(queue);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = self.queue();
        loop {
            if queue.pieces.is_empty() {
                queue.tell_lost();
            }
            if let Some(piece) = queue.pieces.pop_front() {
                return piece;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A backlog whose writer writes one piece each time that it is let.
    fn backlog(patience: Duration) -> (Backlog, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (lets, is_let) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&written);
        let backlog = Backlog::new(patience, move |piece| {
            is_let.recv().unwrap();
            to.lock().unwrap().extend_from_slice(piece);
        });
        (backlog.unwrap(), lets, written)
    }

    #[test]
    fn whoever_writes_is_not_held_up_and_what_is_lost_is_told() {
        let (backlog, lets, written) = backlog(Duration::from_millis(10));
        let line = [&*vec![b'a'; ROOM / 4 - 1], b"\n"].concat();
        for _ in 0..6 {
            backlog.write(&line);
        }
        // Nobody waits for more than there is patience.
        backlog.flush();
        assert_eq!(*written.lock().unwrap(), b"");
        for _ in 0..5 {
            lets.send(()).unwrap();
        }
        let is_left = |queue: &Queue| queue.bytes > 0 || queue.lost > 0;
        while is_left(&backlog.0.queue()) {
            thread::yield_now();
        }
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = written.lines().collect();
        assert_eq!(lines.len(), 5);
        insta::assert_snapshot!(lines[4], @"warning: 2 lines of the log not shown: nothing was read here for too long");
    }

    #[test]
    fn a_slow_reader_loses_nothing() {
        let (backlog, lets, written) = backlog(Duration::from_mins(1));
        let piece = vec![b'\n'; ROOM / 2];
        let reading = thread::spawn(move || {
            for _ in 0..8 {
                thread::sleep(Duration::from_millis(5));
                lets.send(()).unwrap();
            }
            lets
        });
        for _ in 0..8 {
            backlog.write(&piece);
        }
        backlog.flush();
        assert_eq!(written.lock().unwrap().len(), 4 * ROOM);
        drop(reading.join());
    }
}
