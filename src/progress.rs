//! What a long job says while it runs: work begun, bytes moved, work done, notes.
//!
//! The library is mute; whoever calls it passes a listener that draws or prints. The other way round a long
//! job hears here that nobody waits for it any more. This room never knows what is drawn, and no result may
//! depend on who listens.

use std::error::Error;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A task began.
    Started {
        /// Tells this task from others of the same run.
        task: u64,
        /// What it is, as `fetch numpy 2.1.0`.
        label: String,
        /// Bytes it will move, if known.
        total: Option<u64>,
    },
    /// A task moved this many more bytes.
    Advanced {
        /// The task.
        task: u64,
        /// Bytes since the last event.
        bytes: u64,
    },
    /// A task ended.
    Finished {
        /// The task.
        task: u64,
        /// Whether its work was done, not given up.
        done: bool,
    },
    /// One step of the job is done; a line for a log.
    Step(String),
    /// What only someone who looks for a fault wants to read.
    Detail(String),
    /// Something the user should know that stops nothing.
    Warning(String),
}

type Listener = dyn Fn(Event) + Send + Sync;

/// Where events go. Cheap to clone; the default goes nowhere.
#[derive(Clone, Default)]
pub struct Progress {
    listener: Option<Arc<Listener>>,
    /// What each text begins with.
    heading: Option<Arc<str>>,
    given_up: Arc<AtomicBool>,
}

/// Something that is tried; once this is dropped, threads that still work for it are wanted no more.
#[derive(Debug)]
pub struct Attempt(Arc<AtomicBool>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Progress {
    /// Sends every event to `listener`, from any thread.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self {
            listener: Some(Arc::new(listener)),
            heading: None,
            given_up: Arc::default(),
        }
    }

    /// Where the events of one attempt go: the same listener.
    pub fn attempt(&self) -> (Self, Attempt) {
        let progress = Self {
            listener: self.listener.clone(),
            heading: self.heading.clone(),
            given_up: Arc::default(),
        };
        let attempt = Attempt(Arc::clone(&progress.given_up));
        (progress, attempt)
    }

    /// Has all texts begin with `heading`, unless there is none.
    #[must_use]
    pub fn headed(&self, heading: Option<String>) -> Self {
        Self {
            heading: heading.map(Arc::from),
            ..self.clone()
        }
    }

    fn text(&self, text: String) -> String {
        match &self.heading {
            Some(heading) => format!("{heading}{text}"),
            None => text,
        }
    }

    fn send(&self, event: Event) {
        if let Some(listener) = &self.listener {
            listener(event);
        }
    }

    /// Says that one step is done.
    pub fn step(&self, text: impl Into<String>) {
        self.send(Event::Step(self.text(text.into())));
    }

    /// Tells a detail.
    pub fn detail(&self, text: impl Into<String>) {
        self.send(Event::Detail(self.text(text.into())));
    }

    /// Warns.
    pub fn warn(&self, text: impl Into<String>) {
        self.send(Event::Warning(self.text(text.into())));
    }

    /// Begins a task of `total` bytes; it ends when the value is dropped, and is given up unless it was done.
    pub fn task(&self, label: impl Into<String>, total: Option<u64>) -> Task {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let task = NEXT.fetch_add(1, Ordering::Relaxed);
        self.send(Event::Started {
            task,
            label: self.text(label.into()),
            total,
        });
        Task {
            progress: self.clone(),
            number: task,
            done: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// A task under way.
#[derive(Debug)]
pub struct Task {
    progress: Progress,
    number: u64,
    done: AtomicBool,
}

impl Task {
    /// Says that `bytes` more have moved.
    pub fn advance(&self, bytes: u64) {
        self.progress.send(Event::Advanced {
            task: self.number,
            bytes,
        });
    }

    /// Whether anybody still waits for what comes of it.
    pub fn is_wanted(&self) -> bool {
        !self.progress.given_up.load(Ordering::Relaxed)
    }

    /// Says that the work is done.
    pub fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.progress.send(Event::Finished {
            task: self.number,
            done: self.done.load(Ordering::Relaxed),
        });
    }
}

/// An error with what caused it, in one line.
pub fn in_words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            let _ = write!(text, ": {why}");
        }
        cause = error.source();
    }
    text
}
