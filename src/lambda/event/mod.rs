//! What the usual sources send to a function: a sample of each, and changes to it.
//!
//! The samples are data, one file each, with values of our own in the form that AWS documents. Nothing in one is
//! of today: the same words give the same event. What is done with an event is not known here.

mod http;
mod place;

use std::fmt;
use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::Digest as _;
use serde_json::Value;
use thiserror::Error;

/// A source of events.
#[derive(Debug)]
pub struct Source {
    /// Its name, as `apigateway-v2`.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The sample as JSON; what is packed on the way is readable there.
    sample: &'static str,
    form: Form,
}

/// Where a source puts what a sender says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A request through API Gateway's REST API.
    RestApi,
    /// A request in the payload's format 2.0.
    HttpApi,
    /// A request through a load balancer.
    Alb,
    /// Text, at this place.
    Text(&'static str),
    /// A message of SQS: text, and its MD5.
    Sqs,
    /// Bytes in base64, at this place.
    Base64(&'static str),
    /// JSON, at this place.
    Json(&'static str),
    /// The log's lines, gzip in base64.
    Logs,
    /// Nothing.
    Nothing,
}

macro_rules! source {
    ($name:literal, $form:expr, $about:literal) => {
        Source {
            name: $name,
            about: $about,
            sample: include_str!(concat!("samples/", $name, ".json")),
            form: $form,
        }
    };
}

/// All sources, by name.
pub const SOURCES: &[Source] = &[
    source!("alb", Form::Alb, "Application Load Balancer: a request"),
    source!(
        "apigateway",
        Form::RestApi,
        "API Gateway, REST API: a request (payload 1.0)"
    ),
    source!(
        "apigateway-v2",
        Form::HttpApi,
        "API Gateway, HTTP API: a request (payload 2.0)"
    ),
    source!(
        "cloudwatch-logs",
        Form::Logs,
        "CloudWatch Logs: lines of a subscription, packed"
    ),
    source!(
        "dynamodb",
        Form::Nothing,
        "DynamoDB Streams: an item made, changed and removed"
    ),
    source!(
        "eventbridge",
        Form::Json("detail"),
        "EventBridge: an event that a rule matched"
    ),
    source!(
        "firehose",
        Form::Base64("records.0.data"),
        "Data Firehose: a record to transform"
    ),
    source!(
        "function-url",
        Form::HttpApi,
        "Function URL: a request (payload 2.0)"
    ),
    source!(
        "kafka",
        Form::Base64("records.orders-0.0.value"),
        "Managed Streaming for Apache Kafka: a record"
    ),
    source!(
        "kinesis",
        Form::Base64("Records.0.kinesis.data"),
        "Kinesis Data Streams: a record"
    ),
    source!("s3", Form::Nothing, "S3: an object was created"),
    source!(
        "schedule",
        Form::Json("detail"),
        "EventBridge: a rule's schedule came round"
    ),
    source!("sns", Form::Text("Records.0.Sns.Message"), "SNS: a message"),
    source!("sqs", Form::Sqs, "SQS: a message"),
];

/// What is to be other than in the sample.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The request's method.
    pub method: Option<String>,
    /// The request's path, with its query if it has one.
    pub path: Option<String>,
    /// The request's headers: name and value.
    pub headers: Vec<(String, String)>,
    /// What the sender says.
    pub body: Option<String>,
    /// Place and value, applied last and in this order; the value is JSON, else text.
    pub values: Vec<(String, String)>,
}

/// Why there is no such event.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// Nothing is called so.
    #[error("there is no sample event `{name}`")]
    NoSource {
        /// What was written.
        name: String,
        /// The name that looks most like it.
        nearest: &'static str,
    },
    /// The source's events are no requests.
    #[error("an event of `{source_name}` has no {what}")]
    Without {
        /// The source.
        source_name: &'static str,
        /// What it does not have.
        what: &'static str,
    },
    /// The source has JSON there.
    #[error("the body of an event of `{source_name}` is JSON, and what is given is not")]
    NoJson {
        /// The source.
        source_name: &'static str,
    },
    /// Nothing can stand at a place.
    #[error("`{place}` leads nowhere in this event: `{step}` {why}")]
    Nowhere {
        /// What was written.
        place: String,
        /// The first part of it that cannot be followed.
        step: String,
        /// Why not.
        why: &'static str,
    },
}

impl FromStr for &'static Source {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if let Some(source) = SOURCES.iter().find(|source| source.name == name) {
            return Ok(source);
        }
        let distance = |known: &&str| strsim::damerau_levenshtein(known, name);
        let nearest = SOURCES
            .iter()
            .map(|source| source.name)
            .min_by_key(distance);
        Err(Error::NoSource {
            name: name.to_owned(),
            nearest: nearest.unwrap_or_default(),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

impl Source {
    /// Its event, with these changes.
    ///
    /// # Errors
    ///
    /// Where the source has nothing of the kind that is to be changed, and where a place is nowhere in the event.
    pub fn event(&self, changes: &Changes) -> Result<Value, Error> {
        // Every sample is read by a test.
        let mut event = serde_json::from_str(self.sample).unwrap_or_default();
        match self.form {
            Form::RestApi => http::change_rest_api(&mut event, changes),
            Form::HttpApi => http::change_http_api(&mut event, changes),
            Form::Alb => http::change_alb(&mut event, changes),
            _ => self.say(&mut event, changes)?,
        }
        for (place, value) in &changes.values {
            place::set(&mut event, place, value)?;
        }
        Ok(event)
    }

    /// Puts the body where an event that is no request has it.
    fn say(&self, event: &mut Value, changes: &Changes) -> Result<(), Error> {
        let without = |what| Error::Without {
            source_name: self.name,
            what,
        };
        for (given, what) in [
            (changes.method.is_some(), "method"),
            (changes.path.is_some(), "path"),
            (!changes.headers.is_empty(), "headers"),
            (changes.body.is_some() && self.form == Form::Nothing, "body"),
        ] {
            if given {
                return Err(without(what));
            }
        }
        if self.form == Form::Logs {
            pack_logs(event, changes.body.as_deref());
        }
        let Some(body) = &changes.body else {
            return Ok(());
        };
        match self.form {
            Form::Text(place) => place::put(event, place, body.as_str().into()),
            Form::Base64(place) => place::put(event, place, STANDARD.encode(body).into()),
            Form::Sqs => {
                place::put(event, "Records.0.body", body.as_str().into())?;
                place::put(event, "Records.0.md5OfBody", md5(body).into())
            }
            Form::Json(place) => {
                let json = serde_json::from_str(body).map_err(|_| Error::NoJson {
                    source_name: self.name,
                })?;
                place::put(event, place, json)
            }
            Form::RestApi | Form::HttpApi | Form::Alb | Form::Logs | Form::Nothing => Ok(()),
        }
    }
}

/// The lines as the function gets them: JSON in gzip in base64.
fn pack_logs(event: &mut Value, message: Option<&str>) {
    let data = &mut event["awslogs"]["data"];
    if let Some(message) = message {
        data["logEvents"][0]["message"] = message.into();
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    // Memory takes all that is written.
    let _ = packed.write_all(data.to_string().as_bytes());
    *data = STANDARD.encode(packed.finish().unwrap_or_default()).into();
}

fn md5(text: &str) -> String {
    let sum = md5::Md5::digest(text);
    sum.iter().fold(String::new(), |mut text, byte| {
        // A text takes all that is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn source(name: &str) -> &'static Source {
        name.parse().unwrap()
    }

    fn with_body(name: &str, body: &str) -> Result<Value, Error> {
        source(name).event(&Changes {
            body: Some(body.to_owned()),
            ..Changes::default()
        })
    }

    #[test]
    fn every_sample_is_there_and_unchanged_without_changes() {
        let names: Vec<_> = SOURCES.iter().map(|source| source.name).collect();
        assert!(names.is_sorted());
        for source in SOURCES {
            let sample: Value = serde_json::from_str(source.sample).unwrap();
            let event = source.event(&Changes::default()).unwrap();
            assert!(event.is_object(), "{source}");
            if source.form != Form::Logs {
                assert_eq!(event, sample, "{source}");
            }
        }
    }

    #[test]
    fn what_a_sender_says_is_where_the_source_has_it() {
        let said = |name: &str, place: &str| {
            let event = with_body(name, r#"{"a":"é"}"#).unwrap();
            event.pointer(place).unwrap().clone()
        };
        let text = Value::from(r#"{"a":"é"}"#);
        for (name, place) in [
            ("alb", "/body"),
            ("apigateway", "/body"),
            ("apigateway-v2", "/body"),
            ("function-url", "/body"),
            ("sns", "/Records/0/Sns/Message"),
            ("sqs", "/Records/0/body"),
        ] {
            assert_eq!(said(name, place), text, "{name}");
        }
        for (name, place) in [
            ("firehose", "/records/0/data"),
            ("kafka", "/records/orders-0/0/value"),
            ("kinesis", "/Records/0/kinesis/data"),
        ] {
            assert_eq!(said(name, place), "eyJhIjoiw6kifQ==", "{name}");
        }
        for name in ["eventbridge", "schedule"] {
            assert_eq!(said(name, "/detail/a"), "é", "{name}");
        }
        // What md5sum says of it.
        assert_eq!(
            said("sqs", "/Records/0/md5OfBody"),
            "110df10b56b83299182f70164879d203"
        );
    }

    #[test]
    fn the_samples_sum_is_its_bodys() {
        let event = source("sqs").event(&Changes::default()).unwrap();
        let message = &event["Records"][0];
        assert_eq!(message["md5OfBody"], md5(message["body"].as_str().unwrap()));
    }

    #[test]
    fn lines_of_a_log_are_packed() {
        let event = with_body("cloudwatch-logs", "a line").unwrap();
        let packed = STANDARD
            .decode(event["awslogs"]["data"].as_str().unwrap())
            .unwrap();
        let mut text = String::new();
        let mut reader = flate2::read::GzDecoder::new(packed.as_slice());
        reader.read_to_string(&mut text).unwrap();
        let data: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(data["logEvents"][0]["message"], "a line");
        assert_eq!(data["messageType"], "DATA_MESSAGE");
    }

    #[test]
    fn what_a_source_does_not_have_cannot_be_changed() {
        let error =
            |name: &str, changes: &Changes| source(name).event(changes).unwrap_err().to_string();
        let some = || Some("x".to_owned());
        let body = Changes {
            body: some(),
            ..Changes::default()
        };
        let path = Changes {
            path: some(),
            ..Changes::default()
        };
        let method = Changes {
            method: some(),
            ..Changes::default()
        };
        let headers = Changes {
            headers: vec![(String::new(), String::new())],
            ..Changes::default()
        };
        insta::assert_snapshot!(error("s3", &body), @"an event of `s3` has no body");
        insta::assert_snapshot!(error("sqs", &path), @"an event of `sqs` has no path");
        insta::assert_snapshot!(error("kinesis", &method), @"an event of `kinesis` has no method");
        insta::assert_snapshot!(error("sns", &headers), @"an event of `sns` has no headers");
        insta::assert_snapshot!(error("eventbridge", &body), @"the body of an event of `eventbridge` is JSON, and what is given is not");
    }

    #[test]
    fn a_name_that_is_no_source_has_a_nearest() {
        let error = "apigatewayv2".parse::<&Source>().unwrap_err();
        assert_eq!(
            error,
            Error::NoSource {
                name: "apigatewayv2".to_owned(),
                nearest: "apigateway-v2"
            }
        );
    }
}
