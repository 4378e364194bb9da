//! One HTTP client for the tests, waiting for each answer.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::Runtime;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, empty without one.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("a header is text"))
    }
}

/// Sends one request; an error is one of the connection, never a status.
pub(crate) fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<Answer, reqwest::Error> {
    static CLIENT: OnceLock<(Runtime, reqwest::Client)> = OnceLock::new();
    let (runtime, client) = CLIENT.get_or_init(|| {
        let runtime = Runtime::new().expect("a runtime starts");
        // A proxy is for the outside; all that the tests speak to is on loopback.
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_mins(1));
        (runtime, client.build().expect("a client can be made"))
    });
    let method = method
        .parse::<reqwest::Method>()
        .expect("the method is known");
    let mut request = client.request(method, url).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    runtime.block_on(async {
        let answer = request.send().await?;
        Ok(Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.bytes().await?.to_vec(),
        })
    })
}
