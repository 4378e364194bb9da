//! A call whose answer goes out as the runtime gives it: events of pieces, and one that tells how it ended.
//!
//! No more than a piece or two is held at a time: a runtime that is faster than its caller waits. Requests and
//! headers are not known here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::event_stream::event;
use crate::lambda::fleet::{Error, Fleet};
use crate::lambda::function::{Invocation, Outcome};
use crate::progress::in_words;

/// What a function's error is called, here and in `X-Amz-Function-Error`.
pub(super) const UNHANDLED: &str = "Unhandled";
/// What is called an error of what runs the function.
const SERVICE: &str = "ServiceException";

/// A call under way.
pub(super) struct Streaming {
    pieces: mpsc::Receiver<Bytes>,
    outcome: BoxFuture<'static, Result<Outcome, Error>>,
    ended: Option<Result<Outcome, Error>>,
}

/// What comes of it next.
pub(super) enum Next {
    /// A piece of the response.
    Piece(Bytes),
    /// The end: nothing comes after it.
    End(Result<Outcome, Error>),
}

impl Streaming {
    /// Calls, once [`Self::next`] is waited for. Whoever drops this ends no call.
    pub(super) fn new(fleet: Fleet, mut call: Invocation) -> Self {
        let (to, pieces) = mpsc::channel(1);
        call.pieces = Some(to);
        Self {
            pieces,
            outcome: Box::pin(async move { fleet.invoke(call).await }),
            ended: None,
        }
    }

    pub(super) async fn next(&mut self) -> Next {
        if self.ended.is_none() {
            tokio::select! {
                biased;
                Some(piece) = self.pieces.recv() => return Next::Piece(piece),
                outcome = &mut self.outcome => self.ended = Some(outcome),
            }
            // A runtime that is to be ended for its failure sends nothing after that.
            self.pieces.close();
        }
        match self.pieces.recv().await {
            Some(piece) => Next::Piece(piece),
            None => Next::End(self.ended.take().unwrap_or(Err(Error::Ended))),
        }
    }

    /// The events from `next` on.
    pub(super) fn events(self, next: Next, with_log: bool) -> impl Stream<Item = Bytes> + Send {
        let state = Some((self, Some(next)));
        stream::unfold(state, move |state| async move {
            let (mut streaming, next) = state?;
            let next = match next {
                Some(next) => next,
                None => streaming.next().await,
            };
            Some(match next {
                Next::Piece(piece) => (chunk(&piece), Some((streaming, None))),
                Next::End(outcome) => (end(outcome, with_log), None),
            })
        })
    }
}

fn chunk(piece: &[u8]) -> Bytes {
    event("PayloadChunk", "application/octet-stream", piece)
}

/// The last event, and before it the response that did not come in pieces.
fn end(outcome: Result<Outcome, Error>, with_log: bool) -> Bytes {
    let (mut events, mut told) = (Vec::new(), Map::new());
    match outcome {
        Ok(outcome) => {
            if outcome.is_error {
                let details = String::from_utf8_lossy(&outcome.payload);
                tell_error(&mut told, UNHANDLED, details.into_owned());
            } else if !outcome.payload.is_empty() {
                events.extend_from_slice(&chunk(&outcome.payload));
            }
            if with_log {
                let log = STANDARD.encode(&outcome.log_tail);
                told.insert("LogResult".to_owned(), Value::from(log));
            }
        }
        Err(error) => tell_error(&mut told, SERVICE, in_words(&error)),
    }
    let told = Value::Object(told).to_string();
    events.extend_from_slice(&event(
        "InvokeComplete",
        "application/json",
        told.as_bytes(),
    ));
    events.into()
}

fn tell_error(told: &mut Map<String, Value>, code: &str, details: String) {
    told.insert("ErrorCode".to_owned(), Value::from(code));
    told.insert("ErrorDetails".to_owned(), Value::from(details));
}
