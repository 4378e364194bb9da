//! The programs of an environment: started, listened to, and seen to their end.
//!
//! Each has one task that waits for it, and one for each stream that it writes. What an end means is not known here.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::frames::Frames;
use super::frames::Lines;
use super::place::Reader;
use super::place::Running;
use super::place::Started;
use super::shared::Shared;
use crate::lambda::sandbox::Program;
use crate::lambda::sandbox::SpawnError;

/// Asks a program to end.
pub(super) const SIGTERM: i32 = 15;
/// Ends a program at once.
pub(super) const SIGKILL: i32 = 9;
/// How long what is written already may take to be read; who never stops to write is not waited for.
const DRAIN: Duration = Duration::from_millis(100);

/// Who a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// The runtime.
    Runtime,
    /// The external extension of this name.
    Extension(String),
}

/// All programs of an environment.
#[derive(Default)]
pub(super) struct Programs {
    all: Vec<Handle>,
    listeners: Vec<mpsc::Sender<oneshot::Sender<()>>>,
    tasks: JoinSet<()>,
}

struct Handle {
    who: Who,
    signals: mpsc::Sender<i32>,
    has_ended: watch::Receiver<bool>,
}

impl Programs {
    /// Starts one.
    pub(super) async fn start(
        &mut self,
        who: Who,
        program: &Program,
        shared: &Arc<Shared>,
    ) -> Result<(), SpawnError> {
        let started = shared.place.spawn(program).await?;
        let Started {
            stdout,
            stderr,
            framed,
            process,
        } = started;
        for reader in [stdout, stderr] {
            self.listen(reader, Pieces::Lines(Lines::default()), &who, shared);
        }
        if let Some(reader) = framed {
            self.listen(reader, Pieces::Frames(Frames::default()), &who, shared);
        }
        let (signals, asked) = mpsc::channel(4);
        let (ended, has_ended) = watch::channel(false);
        let waited = wait_for(process, asked, who.clone(), Arc::clone(shared), ended);
        self.tasks.spawn(waited);
        self.all.push(Handle {
            who,
            signals,
            has_ended,
        });
        Ok(())
    }

    fn listen(&mut self, reader: Reader, pieces: Pieces, who: &Who, shared: &Arc<Shared>) {
        let (asks, asked) = mpsc::channel(1);
        self.listeners.push(asks);
        let is_runtime = *who == Who::Runtime;
        self.tasks.spawn(listen_to(
            reader,
            pieces,
            is_runtime,
            Arc::clone(shared),
            asked,
        ));
    }

    /// Waits until all that was written so far is in the log, lines without an end too.
    pub(super) async fn drain(&mut self) {
        let all_read = async {
            for listener in &self.listeners {
                let (done, is_done) = oneshot::channel();
                // A stream that is closed was read to its end.
                if listener.send(done).await.is_ok() {
                    let _ = is_done.await;
                }
            }
        };
        // Who writes and writes is heard later.
        let _ = tokio::time::timeout(DRAIN, all_read).await;
    }

    fn handle(&self, who: &Who) -> Option<&Handle> {
        self.all.iter().find(|handle| handle.who == *who)
    }

    /// Sends a signal to one, if it runs.
    pub(super) async fn signal(&self, who: &Who, signal: i32) {
        if let Some(handle) = self.handle(who) {
            // Its task is gone when it has ended.
            let _ = handle.signals.send(signal).await;
        }
    }

    /// Waits for the end of one; returns at once where it does not run.
    pub(super) async fn ended(&self, who: &Who) {
        if let Some(handle) = self.handle(who) {
            let mut has_ended = handle.has_ended.clone();
            // Its task is gone when it has ended.
            let _ = has_ended.wait_for(|ended| *ended).await;
        }
    }

    /// Forgets them all, after they were killed.
    pub(super) async fn forget(&mut self) {
        self.drain().await;
        self.all.clear();
        self.listeners.clear();
        self.tasks.shutdown().await;
    }
}

async fn wait_for(
    mut process: Box<dyn Running>,
    mut asked: mpsc::Receiver<i32>,
    who: Who,
    shared: Arc<Shared>,
    ended: watch::Sender<bool>,
) {
    let exit = loop {
        tokio::select! {
            exit = process.wait() => break exit,
            // One that has ended meanwhile needs no signal.
            Some(signal) = asked.recv() => drop(process.signal(signal).await),
        }
    };
    shared.step(|states| match &who {
        Who::Runtime => states.runtime_exited(exit),
        Who::Extension(name) => states.extension_exited(name, exit),
    });
    ended.send_replace(true);
}

/// How a stream is cut.
enum Pieces {
    Lines(Lines),
    Frames(Frames),
}

impl Pieces {
    fn take(&mut self, bytes: &[u8], piece: impl FnMut(&[u8])) {
        match self {
            Self::Lines(lines) => lines.take(bytes, piece),
            Self::Frames(frames) => frames.take(bytes, piece),
        }
    }

    fn rest(&mut self, piece: impl FnOnce(&[u8])) {
        match self {
            Self::Lines(lines) => lines.rest(piece),
            // A frame is written at once: half of one is on its way.
            Self::Frames(_) => {}
        }
    }

    fn end(&mut self, piece: impl FnOnce(&[u8])) {
        match self {
            Self::Lines(lines) => lines.rest(piece),
            Self::Frames(frames) => frames.rest(piece),
        }
    }
}

async fn listen_to(
    mut reader: Reader,
    mut pieces: Pieces,
    is_runtime: bool,
    shared: Arc<Shared>,
    mut asked: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let write = |text: &[u8]| {
        if is_runtime {
            shared.journal.function(text);
        } else {
            shared.journal.extension(text);
        }
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        tokio::select! {
            // What is there is read before anybody is told that nothing is there.
            biased;
            read = reader.read(&mut buffer) => match read {
                Ok(length) if length > 0 => pieces.take(&buffer[..length], write),
                _ => break,
            },
            Some(done) = asked.recv() => {
                pieces.rest(write);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }
    pieces.end(write);
}
