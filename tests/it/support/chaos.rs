//! A bad network in front of a real registry: a proxy that cuts connections at a random byte, waits,
//! answers 5xx in the registry's place and sends requests twice, by a seed that failures tell.
//!
//! With nothing of that switched on it only counts what passes. It knows HTTP, and of registries no more
//! than that an upload is a PUT or PATCH.

use std::fmt;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::layout::Random;
use crate::support::wire::Connection;
use crate::support::wire::Head;
use crate::support::wire::Listener;
use crate::support::wire::PATIENCE;

/// A body that is sent twice has to be kept meanwhile.
const LARGEST_TWICE: u64 = 1 << 20;

/// How bad the network is: of 1000 requests, how many meet what.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// The connection ends somewhere in the request.
    pub(crate) cut_requests: u64,
    /// The connection ends somewhere in the answer.
    pub(crate) cut_answers: u64,
    /// Somebody between answers 500, 502, 503 or 504.
    pub(crate) refusals: u64,
    /// The registry gets the request twice.
    pub(crate) twice: u64,
    /// How long a request waits at most.
    pub(crate) delay: Duration,
}

/// A request that passed, or did not.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Bytes of its body that went through.
    pub(crate) sent: u64,
    /// 0 where the connection was cut.
    pub(crate) status: u16,
}

impl Passed {
    /// Whether it changed something in the registry.
    pub(crate) fn is_change(&self) -> bool {
        !["GET", "HEAD"].contains(&self.method.as_str())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    CutRequest,
    CutAnswer,
    Refuse,
    Twice,
}

pub(crate) struct Chaos {
    listener: Listener,
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    weather: Mutex<Weather>,
    registry: SocketAddr,
    count: AtomicU64,
    /// Requests that are on their way.
    busy: AtomicU64,
    passed: Mutex<Vec<Passed>>,
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, weather) = (self.shared.seed, *self.weather());
        write!(f, "seed {seed}, {weather:?}")
    }
}

impl Chaos {
    /// In front of the registry at this address.
    pub(crate) fn start(registry: &str, seed: u64, weather: Weather) -> Chaos {
        let shared = Arc::new(Shared {
            seed,
            weather: Mutex::new(weather),
            registry: registry.parse().expect("host and port"),
            count: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            passed: Mutex::default(),
        });
        let of_listener = Arc::clone(&shared);
        let listener = Listener::start("127.0.0.1", move |connection, head| {
            of_listener.serve(connection, &head)
        });
        Chaos { listener, shared }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.address.to_string()
    }

    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address())
    }

    pub(crate) fn weather(&self) -> std::sync::MutexGuard<'_, Weather> {
        let weather = self.shared.weather.lock();
        weather.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is on its way any more, as after the end of who sent it.
    pub(crate) fn wait_until_idle(&self) {
        let start = Instant::now();
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            assert!(start.elapsed() < PATIENCE, "{self:?}: still at work");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What has passed since it was last asked.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        let passed = self.shared.passed.lock();
        std::mem::take(&mut passed.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn fate(&self, random: &mut Random) -> Fate {
        let weather = *self.weather.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = u64::try_from(weather.delay.as_micros()).unwrap_or(u64::MAX);
        thread::sleep(Duration::from_micros(random.below(delay + 1)));
        let mut dice = random.below(1000);
        for (fate, share) in [
            (Fate::CutRequest, weather.cut_requests),
            (Fate::CutAnswer, weather.cut_answers),
            (Fate::Refuse, weather.refusals),
            (Fate::Twice, weather.twice),
        ] {
            if dice < share {
                return fate;
            }
            dice -= share;
        }
        Fate::Pass
    }

    fn serve(&self, connection: &mut Connection, head: &Head) -> io::Result<bool> {
        self.busy.fetch_add(1, Ordering::SeqCst);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(self.seed.wrapping_mul(1_000_003).wrapping_add(number));
        let mut passed = Passed {
            method: head.word(0).to_owned(),
            target: head.word(1).to_owned(),
            sent: 0,
            status: 0,
        };
        let fate = self.fate(&mut random);
        let result = self.pass(connection, head, fate, &mut random, &mut passed);
        let log = self.passed.lock();
        log.unwrap_or_else(PoisonError::into_inner).push(passed);
        self.busy.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn pass(
        &self,
        connection: &mut Connection,
        head: &Head,
        fate: Fate,
        random: &mut Random,
        passed: &mut Passed,
    ) -> io::Result<bool> {
        if head.is_chunked() {
            return refuse(connection, 501, passed);
        }
        let length = head.length().unwrap_or(0);
        if fate == Fate::Refuse {
            let statuses = [500, 502, 503, 504];
            let status = statuses[usize::try_from(random.below(4)).unwrap_or(0)];
            // Some are answered before the body has come, and some behind it.
            let read = random.below(2) * length;
            io::copy(&mut connection.body(head).take(read), &mut io::sink())?;
            refuse(connection, status, passed)?;
            return Ok(read == length);
        }
        let mut onward = head.clone();
        onward.set("Connection", "close");
        if fate == Fate::Twice && length <= LARGEST_TWICE {
            let mut body = Vec::new();
            connection.body(head).read_to_end(&mut body)?;
            self.exchange(&onward, &body)?;
            // The client hears of the second alone.
            let (mut registry, answer) = self.exchange(&onward, &body)?;
            passed.sent = length;
            let Some(answer) = answer else {
                return Ok(false);
            };
            passed.status = answer.word(1).parse().unwrap_or_default();
            return answer_with(connection, &mut registry, &answer, head, u64::MAX);
        }
        let mut registry = Connection::to(self.registry)?;
        registry.send_head(&onward)?;
        let limit = match fate {
            Fate::CutRequest => random.below(length + 1),
            _ => length,
        };
        // A registry that refuses early reads no more: its answer says why.
        let copied = io::copy(&mut connection.body(head).take(limit), &mut registry.writer);
        passed.sent = *copied.as_ref().unwrap_or(&0);
        if fate == Fate::CutRequest || passed.sent < limit && copied.is_ok() {
            registry.cut();
            return Ok(false);
        }
        if copied.is_err() {
            // Whichever side has gone, the registry need not wait for more.
            registry.writer.shutdown(std::net::Shutdown::Write)?;
        }
        let Some(answer) = registry.head()? else {
            return Ok(false);
        };
        let limit = match fate {
            // Sometimes before its first byte, sometimes before the last.
            Fate::CutAnswer => random.below(answer.length().unwrap_or(0).max(1)),
            _ => u64::MAX,
        };
        if fate == Fate::CutAnswer && random.below(2) == 0 {
            return Ok(false);
        }
        passed.status = answer.word(1).parse().unwrap_or_default();
        let is_whole = answer_with(connection, &mut registry, &answer, head, limit)?;
        Ok(is_whole && copied.is_ok())
    }
}

impl Shared {
    /// Sends a whole request and has the head of its answer.
    fn exchange(&self, head: &Head, body: &[u8]) -> io::Result<(Connection, Option<Head>)> {
        let mut registry = Connection::to(self.registry)?;
        registry.send_head(head)?;
        registry.writer.write_all(body)?;
        let answer = registry.head()?;
        Ok((registry, answer))
    }
}

/// Answers in the registry's place.
fn refuse(connection: &mut Connection, status: u16, passed: &mut Passed) -> io::Result<bool> {
    passed.status = status;
    let mut head = Head {
        first: format!("HTTP/1.1 {status} By Chance"),
        ..Head::default()
    };
    head.set("Content-Length", "0");
    connection.send_head(&head)?;
    Ok(true)
}

/// Passes the registry's answer on, as far as `limit`; whether all of it went and the connection can be used again.
fn answer_with(
    connection: &mut Connection,
    registry: &mut Connection,
    answer: &Head,
    asked: &Head,
    limit: u64,
) -> io::Result<bool> {
    let mut told = answer.clone();
    let has_length = answer.length().is_some();
    told.set(
        "Connection",
        if has_length { "keep-alive" } else { "close" },
    );
    connection.send_head(&told)?;
    if asked.word(0) == "HEAD" {
        return Ok(limit == u64::MAX);
    }
    // What has no length is in chunks, which go as they are until the registry ends.
    let length = answer.length().unwrap_or(u64::MAX);
    let mut rest = registry.rest().take(length.min(limit));
    io::copy(&mut rest, &mut connection.writer)?;
    Ok(has_length && limit == u64::MAX)
}
