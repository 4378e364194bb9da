//! The Telemetry API's other half: who subscribed, what is kept for them, and how it gets to them.
//!
//! Each subscriber has one task, which sends what is kept when it is much, or old. What events mean is not known here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::Request;
use hyper::Uri;
use hyper::header::CONTENT_TYPE;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::place::Place;
use crate::lambda::function::Clock;

/// How long a subscriber may take for a delivery.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many full buffers are kept for a subscriber who does not take them.
const KEPT_BUFFERS: usize = 4;

/// Where events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stream {
    /// The platform.
    Platform,
    /// What the function writes.
    Function,
    /// What extensions write.
    Extension,
}

impl Stream {
    /// Its name.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Function => "function",
            Self::Extension => "extension",
        }
    }

    /// Its name in lines of the log.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Platform => "Platform",
            Self::Function => "Function",
            Self::Extension => "Extension",
        }
    }
}

/// An event, in the platform's order.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Record {
    /// When.
    pub time: String,
    /// Its type, as `platform.start`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it says.
    #[serde(rename = "record")]
    pub content: Value,
}

/// What an extension asks for, as it is posted.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subscription {
    schema_version: String,
    /// Which events.
    pub types: Vec<Stream>,
    #[serde(default)]
    buffering: Buffering,
    destination: Destination,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Buffering {
    max_items: usize,
    max_bytes: usize,
    timeout_ms: u64,
}

impl Record {
    /// As JSON.
    pub(super) fn json(&self) -> String {
        // Text and a value of JSON: nothing in it cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Default for Buffering {
    fn default() -> Self {
        Self {
            max_items: 10_000,
            max_bytes: 256 << 10,
            timeout_ms: 1000,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Destination {
    protocol: String,
    #[serde(rename = "URI")]
    uri: String,
}

/// A subscription that is not taken, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Invalid(String);

impl Subscription {
    /// Reads what an extension posts, by the schemas of 2022-07-01 and 2022-12-13.
    pub(super) fn read(body: &[u8]) -> Result<Self, Invalid> {
        let read = serde_json::from_slice::<Self>(body);
        let subscription = read.map_err(|error| Invalid(error.to_string()))?;
        subscription.check()?;
        Ok(subscription)
    }

    fn check(&self) -> Result<(), Invalid> {
        let refuse = |text: &str| Err(Invalid(text.to_owned()));
        let known = ["2022-07-01", "2022-12-13", "2025-01-29"];
        if !known.contains(&self.schema_version.as_str()) {
            return refuse("schemaVersion is not supported");
        }
        if self.types.is_empty() {
            return refuse("types must not be empty");
        }
        let Buffering {
            max_items,
            max_bytes,
            timeout_ms,
        } = self.buffering;
        if !(1000..=10_000).contains(&max_items) {
            return refuse("maxItems must be between 1000 and 10000");
        }
        if !(262_144..=1_048_576).contains(&max_bytes) {
            return refuse("maxBytes must be between 262144 and 1048576");
        }
        if !(25..=30_000).contains(&timeout_ms) {
            return refuse("timeoutMs must be between 25 and 30000");
        }
        if self.destination.protocol != "HTTP" {
            return refuse("destination protocol must be HTTP");
        }
        self.target().map(drop)
    }

    /// The port and the path to send to.
    fn target(&self) -> Result<(u16, Uri), Invalid> {
        let invalid = || Invalid("destination URI is not valid".to_owned());
        let uri: Uri = self.destination.uri.parse().map_err(|_| invalid())?;
        let ours = matches!(uri.host(), Some("sandbox.localdomain" | "sandbox"));
        if uri.scheme_str() != Some("http") || !ours {
            return Err(invalid());
        }
        Ok((uri.port_u16().unwrap_or(80), uri))
    }
}

/// All subscribers of an environment.
pub(super) struct Telemetry {
    clock: Clock,
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    all: Vec<Subscribed>,
    tasks: JoinSet<()>,
    /// The platform's events before anybody could subscribe; whoever does gets them first.
    early: Vec<String>,
    is_closed: bool,
}

/// An extension that subscribed, and the task that sends to it.
struct Subscribed {
    extension: String,
    subscriber: Arc<Subscriber>,
    task: AbortHandle,
}

struct Subscriber {
    subscription: Subscription,
    kept: Mutex<Kept>,
    changed: Notify,
}

/// What waits for a subscriber.
#[derive(Default)]
struct Kept {
    events: VecDeque<String>,
    bytes: usize,
    since: Option<Instant>,
    /// Whether all of it is to be sent now.
    flush: bool,
    /// Whether a delivery is on its way.
    sending: bool,
    dropped: usize,
    dropped_bytes: usize,
}

impl Kept {
    fn add(&mut self, event: String, limit: usize) {
        self.bytes += event.len();
        self.events.push_back(event);
        self.since.get_or_insert_with(Instant::now);
        while self.bytes > limit {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            self.dropped += 1;
            self.dropped_bytes += oldest.len();
        }
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.sending
    }
}

impl Telemetry {
    /// Nobody subscribed yet.
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            subscribers: Mutex::default(),
        }
    }

    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody can subscribe any more.
    pub(super) fn is_closed(&self) -> bool {
        self.subscribers().is_closed
    }

    /// INIT is over: nobody can subscribe any more.
    pub(super) fn close(&self) {
        let mut subscribers = self.subscribers();
        subscribers.is_closed = true;
        subscribers.early = Vec::new();
    }

    /// Sends events to an extension, those of the platform from INIT's beginning on, unless nobody can subscribe any
    /// more; says whether it does. A second subscription of the same one replaces the first.
    pub(super) fn subscribe(
        &self,
        extension: &str,
        subscription: Subscription,
        place: Arc<dyn Place>,
    ) -> bool {
        let subscriber = Arc::new(Subscriber {
            subscription,
            kept: Mutex::default(),
            changed: Notify::new(),
        });
        let mut subscribers = self.subscribers();
        if subscribers.is_closed {
            return false;
        }
        if subscriber.subscription.types.contains(&Stream::Platform) {
            for event in &subscribers.early {
                subscriber.keep(event.clone());
            }
        }
        subscribers.all.retain(|one| {
            let is_other = one.extension != extension;
            if !is_other {
                one.task.abort();
            }
            is_other
        });
        // Those that have ended are forgotten.
        while subscribers.tasks.try_join_next().is_some() {}
        let (clock, sender) = (self.clock, Arc::clone(&subscriber));
        let task = async move { sender.deliver(place, clock).await };
        let task = subscribers.tasks.spawn(task);
        subscribers.all.push(Subscribed {
            extension: extension.to_owned(),
            subscriber,
            task,
        });
        true
    }

    /// Keeps an event for those who asked for its kind.
    pub(super) fn publish(&self, stream: Stream, record: &Record) {
        let mut subscribers = self.subscribers();
        let is_early = !subscribers.is_closed && stream == Stream::Platform;
        if subscribers.all.is_empty() && !is_early {
            return;
        }
        let event = record.json();
        for Subscribed { subscriber, .. } in &subscribers.all {
            if subscriber.subscription.types.contains(&stream) {
                subscriber.keep(event.clone());
            }
        }
        if is_early {
            subscribers.early.push(event);
        }
    }

    /// Sends all that is kept, and waits for that as long as it may take.
    pub(super) async fn flush(&self, at_most: Duration) {
        let all: Vec<_> = {
            let subscribers = self.subscribers();
            let each = subscribers.all.iter();
            each.map(|one| Arc::clone(&one.subscriber)).collect()
        };
        let empty = all.iter().map(|subscriber| subscriber.flushed());
        let all_empty = futures_util::future::join_all(empty);
        // Who does not take it in time has lost it.
        let _ = tokio::time::timeout(at_most, all_empty).await;
    }

    /// Forgets all subscribers, and ends their tasks.
    pub(super) async fn reset(&self) {
        let mut tasks = {
            let mut subscribers = self.subscribers();
            std::mem::take(&mut *subscribers).tasks
        };
        tasks.shutdown().await;
    }
}

impl Subscriber {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, event: String) {
        let limit = self.subscription.buffering.max_bytes * KEPT_BUFFERS;
        self.kept().add(event, limit);
        self.changed.notify_one();
    }

    async fn flushed(&self) {
        self.kept().flush = true;
        self.changed.notify_one();
        while !self.kept().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.kept().flush = false;
    }

    async fn deliver(&self, place: Arc<dyn Place>, clock: Clock) {
        let Ok((port, uri)) = self.subscription.target() else {
            return;
        };
        loop {
            self.until_due().await;
            let (events, body) = self.batch(clock);
            let sent = post(place.as_ref(), port, &uri, body);
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, sent).await {
                self.kept().sending = false;
            } else {
                self.put_back(events);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Waits until there is enough to send, or it is old enough.
    async fn until_due(&self) {
        let buffering = &self.subscription.buffering;
        loop {
            let due = {
                let kept = self.kept();
                let much = kept.events.len() >= buffering.max_items
                    || kept.bytes >= buffering.max_bytes
                    || kept.flush;
                match kept.since {
                    _ if kept.events.is_empty() => None,
                    Some(_) if much => return,
                    since => since.map(|since| since + Duration::from_millis(buffering.timeout_ms)),
                }
            };
            match due {
                None => self.changed.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => return,
                        () = self.changed.notified() => {}
                    }
                }
            }
        }
    }

    /// Takes as many events as one delivery may have.
    fn batch(&self, clock: Clock) -> (Vec<String>, Bytes) {
        let buffering = &self.subscription.buffering;
        let mut kept = self.kept();
        let (mut events, mut bytes) = (Vec::new(), 0);
        while let Some(event) = kept.events.front() {
            let full = events.len() >= buffering.max_items || bytes >= buffering.max_bytes;
            if full {
                break;
            }
            bytes += event.len();
            events.extend(kept.events.pop_front());
        }
        kept.bytes -= bytes;
        kept.since = (!kept.events.is_empty()).then(Instant::now);
        kept.sending = true;
        if kept.dropped > 0 {
            let lost = Record {
                time: humantime::format_rfc3339_millis(clock()).to_string(),
                kind: "platform.logsDropped",
                content: json!({
                    "reason": "Consumer seems to have fallen behind as it has not acknowledged receipt of logs.",
                    "droppedRecords": kept.dropped,
                    "droppedBytes": kept.dropped_bytes,
                }),
            };
            (kept.dropped, kept.dropped_bytes) = (0, 0);
            events.push(lost.json());
        }
        let body = Bytes::from(format!("[{}]", events.join(",")));
        (events, body)
    }

    fn put_back(&self, events: Vec<String>) {
        let mut kept = self.kept();
        let limit = self.subscription.buffering.max_bytes * KEPT_BUFFERS;
        kept.sending = false;
        let newer = std::mem::take(&mut kept.events);
        kept.bytes = 0;
        for event in events.into_iter().chain(newer) {
            kept.add(event, limit);
        }
    }
}

/// Posts events to an extension.
async fn post(
    place: &dyn Place,
    port: u16,
    uri: &Uri,
    body: Bytes,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = place.connect(port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("sandbox", |host| host.as_str());
    let request = Request::post(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        // Nobody reads what it says, so nothing of it is kept.
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(status)
    };
    tokio::pin!(answered);
    let status = tokio::select! {
        status = &mut answered => status?,
        ended = connection => {
            ended?;
            // The answer may be here whole though the connection is over.
            answered.await?
        }
    };
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("the extension answered {status}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::environment::testing;
    use crate::lambda::environment::testing::Stage;

    type Change = fn(&mut Value);

    fn read(change: impl FnOnce(&mut Value)) -> Result<Subscription, Invalid> {
        let mut body = json!({
            "schemaVersion": "2022-12-13",
            "types": ["platform", "function"],
            "buffering": {"maxItems": 1000, "maxBytes": 262_144, "timeoutMs": 25},
            "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/here"},
        });
        change(&mut body);
        Subscription::read(body.to_string().as_bytes())
    }

    #[test]
    fn subscriptions_are_checked() {
        let taken = read(|_| {}).unwrap();
        let (port, uri) = taken.target().unwrap();
        assert_eq!((port, uri.path()), (8080, "/here"));
        read(|body| body["buffering"] = json!({"timeoutMs": 100})).unwrap();
        let wrong: [(Change, &str); 7] = [
            (|body| body["schemaVersion"] = json!("1"), "schemaVersion"),
            (|body| body["types"] = json!([]), "types"),
            (|body| body["types"] = json!(["other"]), "other"),
            (
                |body| body["buffering"]["maxItems"] = json!(999),
                "maxItems",
            ),
            (|body| body["buffering"]["maxBytes"] = json!(1), "maxBytes"),
            (
                |body| body["buffering"]["timeoutMs"] = json!(24),
                "timeoutMs",
            ),
            (
                |body| body["destination"]["URI"] = json!("http://example.com:80"),
                "destination URI",
            ),
        ];
        for (change, word) in wrong {
            let text = read(change).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }

    #[tokio::test]
    async fn a_subscription_that_is_replaced_is_served_no_more() {
        let telemetry = Telemetry::new(testing::clock);
        for _ in 0..3 {
            let subscription = read(|_| {}).unwrap();
            let place = Arc::new(Stage::default());
            assert!(telemetry.subscribe("watch", subscription, place));
        }
        let left = async {
            loop {
                let left = {
                    let mut subscribers = telemetry.subscribers();
                    while subscribers.tasks.try_join_next().is_some() {}
                    (subscribers.all.len(), subscribers.tasks.len())
                };
                if left == (1, 1) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        let left = tokio::time::timeout(Duration::from_secs(30), left);
        left.await.expect("the others have ended");
    }

    #[test]
    fn what_nobody_takes_is_dropped_and_counted() {
        let mut kept = Kept::default();
        for _ in 0..10 {
            kept.add("12345".to_owned(), 20);
        }
        assert_eq!((kept.events.len(), kept.bytes), (4, 20));
        assert_eq!((kept.dropped, kept.dropped_bytes), (6, 30));
    }
}
