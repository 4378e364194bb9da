//! How often something is tried again, and after what pauses.
//!
//! What counts is failures in a row: whoever sees something move says so, and the count begins anew. Pauses
//! double; a server that names one (RFC 9110 §10.2.3) is waited for so long at least. Dates are read against
//! the same answer's own `Date`, never a clock of ours.

use std::fmt;
use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use crate::http::Error;
use crate::progress::Progress;

/// So many failures in a row are the end.
const ATTEMPTS: u32 = 6;
/// As many where nobody even takes the connection: more often a wrong address than a bad moment.
const CONNECT_ATTEMPTS: u32 = 4;
/// As many where the host had answered before: its network is gone for a moment, half a minute at most.
const RECONNECT_ATTEMPTS: u32 = 8;
/// As many where all went well, and what came was wrong.
const RARE_ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// As long as anybody's wish is followed.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// A failure that may be none the next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    why: String,
    attempts: u32,
    /// Whether not even a connection was had.
    unconnected: bool,
    after: Option<Duration>,
}

impl Trouble {
    /// A failure in words.
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            attempts: ATTEMPTS,
            unconnected: false,
            after: None,
        }
    }

    /// A failure that hardly ever passes, in words.
    pub fn rare(why: impl Into<String>) -> Self {
        Self {
            attempts: RARE_ATTEMPTS,
            ..Self::new(why)
        }
    }

    /// What is wrong with a status, if it may pass; `after` is how long the server wants to be left alone.
    pub fn of_status(status: StatusCode, after: Option<Duration>) -> Option<Self> {
        let passes = match status.as_u16() {
            // What is not implemented will not be so soon.
            501 | 505 => false,
            408 | 429 | 500..=599 => true,
            _ => false,
        };
        passes.then(|| Self {
            after,
            ..Self::new(status.to_string())
        })
    }

    /// As [`Self::of_status`], for a whole answer.
    pub fn of_response(response: &Response) -> Option<Self> {
        Self::of_status(response.status(), retry_after(response.headers()))
    }

    /// What is wrong with an exchange, if it may pass.
    pub fn of_error(error: &Error) -> Option<Self> {
        let (attempts, unconnected) = match error {
            Error::Connect { .. } => (CONNECT_ATTEMPTS, true),
            // A name that never had an address is a wrong one, where somebody says so.
            Error::Resolve { is_temporary, .. } if *is_temporary => (CONNECT_ATTEMPTS, true),
            Error::Resolve { .. } => (1, true),
            Error::Exchange { .. } => (ATTEMPTS, false),
            Error::Offline { .. }
            | Error::TooLarge { .. }
            | Error::Redirect { .. }
            | Error::Setup(_) => return None,
        };
        Some(Self {
            attempts,
            unconnected,
            ..Self::new(error.to_string())
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// The budget of one piece of work.
#[derive(Debug, Default)]
pub struct Retry {
    failures: u32,
    is_known: bool,
    /// So many failures are the end, whatever failed; none: as many as that has.
    most: Option<u32>,
}

impl Retry {
    /// The budget with a host that has answered before, if it has.
    pub(super) fn with_host(is_known: bool) -> Self {
        Self {
            is_known,
            ..Self::default()
        }
    }

    /// Gives up after `failures` in a row at the latest.
    #[must_use]
    pub fn at_most(self, failures: u32) -> Self {
        Self {
            most: Some(failures),
            ..self
        }
    }

    /// Something moved: what failed before does not count any more.
    pub fn moved(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure, unless it was the last.
    fn pause(&mut self, trouble: &Trouble) -> Option<Duration> {
        self.failures += 1;
        let doubled = FIRST_PAUSE * 2_u32.saturating_pow(self.failures - 1);
        let wished = trouble.after.unwrap_or_default();
        let attempts = if self.is_known && trouble.unconnected {
            RECONNECT_ATTEMPTS
        } else {
            trouble.attempts
        };
        let attempts = self.most.map_or(attempts, |most| most.min(attempts));
        (self.failures < attempts).then(|| doubled.max(wished).min(LONGEST_PAUSE))
    }

    /// Waits until `what` may be tried again, and says so; false when it has failed too often.
    pub async fn again(&mut self, what: &str, trouble: &Trouble, progress: &Progress) -> bool {
        let Some(pause) = self.pause(trouble) else {
            return false;
        };
        let (number, pause_shown) = (self.failures + 1, pause.as_secs_f32());
        progress.detail(format!(
            "{what}: {trouble}; try {number} in {pause_shown} s"
        ));
        tokio::time::sleep(pause).await;
        true
    }
}

/// How long the server wants to be left alone, if it says so: a number of seconds, or a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(text(DATE)?).ok()?;
    then.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(reqwest::header::HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let seconds = |pairs: &[_]| retry_after(&headers(pairs)).map(|after| after.as_secs());
        assert_eq!(seconds(&[(RETRY_AFTER, "7")]), Some(7));
        let date = (RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT");
        let now = (DATE, "Sun, 06 Nov 1994 08:49:30 GMT");
        assert_eq!(seconds(&[date.clone(), now]), Some(7));
        assert_eq!(seconds(&[date]), None, "nothing to read it against");
        assert_eq!(seconds(&[(RETRY_AFTER, "soon")]), None);
        assert_eq!(seconds(&[]), None);
    }

    #[test]
    fn failures_in_a_row_are_counted() {
        let trouble = Trouble::new("cut");
        let mut retry = Retry::default();
        let pauses: Vec<_> = std::iter::from_fn(|| retry.pause(&trouble)).collect();
        let millis = pauses.iter().map(Duration::as_millis);
        assert_eq!(millis.collect::<Vec<_>>(), [250, 500, 1000, 2000, 4000]);
        retry.moved();
        assert_eq!(retry.pause(&trouble), Some(FIRST_PAUSE));
        let asks = |seconds| Trouble {
            after: Some(Duration::from_secs(seconds)),
            ..Trouble::new("busy")
        };
        assert_eq!(retry.pause(&asks(9)), Some(Duration::from_secs(9)));
        assert_eq!(retry.pause(&asks(9000)), Some(LONGEST_PAUSE));
        let nobody = Error::Connect {
            host: "r.test".into(),
            reason: "refused".into(),
        };
        let nobody = Trouble::of_error(&nobody).unwrap();
        for (is_known, pauses) in [(false, 3), (true, 7)] {
            let mut retry = Retry::with_host(is_known);
            let had = std::iter::from_fn(|| retry.pause(&nobody)).count();
            assert_eq!(had, pauses);
        }
    }

    #[test]
    fn a_name_that_is_not_known_is_looked_for_once() {
        for (is_temporary, pauses) in [(false, 0), (true, 3)] {
            let host = "r.test".to_owned();
            let error = Error::Resolve { host, is_temporary };
            let trouble = Trouble::of_error(&error).unwrap();
            let mut retry = Retry::default();
            let had = std::iter::from_fn(|| retry.pause(&trouble)).count();
            assert_eq!(had, pauses);
        }
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        let passes = |status| {
            let status = StatusCode::from_u16(status).unwrap();
            Trouble::of_status(status, None).is_some()
        };
        assert!(
            [408, 429, 500, 502, 503, 504, 507, 520]
                .into_iter()
                .all(passes)
        );
        assert!(
            ![200, 307, 400, 401, 404, 416, 501, 505]
                .into_iter()
                .any(passes)
        );
    }
}
