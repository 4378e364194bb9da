//! What a function is called with, as the command line gives it: files, texts and stdin, in their order.
//!
//! Each may have several documents of JSON, one after the other, and each document is a call. What comes of a call
//! is not known here.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use lambimg::lambda::function::{MAX_CLIENT_CONTEXT, MAX_PAYLOAD};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::terminal::Terminal;

/// What a call without an event gets.
const NO_EVENT: &[u8] = b"{}";

/// Where events are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Events(Vec<Given>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    File(PathBuf),
    Data(String),
}

// By hand, because the order between the two flags is that of the calls.
impl Args for Events {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("event")
            .short('e')
            .long("event")
            .value_name("FILE");
        let data = Arg::new("data").short('d').long("data").value_name("JSON");
        command
            .arg(
                file.action(ArgAction::Append)
                    .value_parser(value_parser!(PathBuf))
                    .help("Call with the event in a file; `-` is stdin (repeatable)"),
            )
            .arg(
                data.action(ArgAction::Append)
                    .allow_negative_numbers(true)
                    .help("Call with this event (repeatable)"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Events {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let files = matches.get_many::<PathBuf>("event").into_iter().flatten();
        let files = files.cloned().map(Given::File);
        let texts = matches.get_many::<String>("data").into_iter().flatten();
        let texts = texts.cloned().map(Given::Data);
        let places = |id| matches.indices_of(id).into_iter().flatten();
        let mut given: Vec<_> = places("event")
            .zip(files)
            .chain(places("data").zip(texts))
            .collect();
        given.sort_by_key(|(place, _)| *place);
        Ok(Self(given.into_iter().map(|(_, given)| given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Events {
    /// Reads them all; without any, those of stdin, unless that is a terminal.
    pub(crate) fn read(&self, terminal: &Terminal) -> Result<Vec<Bytes>, Failure> {
        if self.0.is_empty() {
            if io::stdin().is_terminal() {
                terminal.note("the event is `{}`: others come by `--data`, `--event` or stdin");
                return Ok(vec![Bytes::from_static(NO_EVENT)]);
            }
            let events = documents("stdin", &read_stdin()?)?;
            let none = || vec![Bytes::from_static(NO_EVENT)];
            return Ok(if events.is_empty() { none() } else { events });
        }
        let mut events = Vec::new();
        for given in &self.0 {
            let (place, text) = match given {
                Given::Data(text) => ("`--data`".to_owned(), text.clone().into_bytes()),
                Given::File(path) if path == Path::new("-") => ("stdin".to_owned(), read_stdin()?),
                Given::File(path) => (format!("`{}`", path.display()), read_file(path)?),
            };
            let found = documents(&place, &text)?;
            if found.is_empty() {
                return Err(Failure::no_event(&place, "it is empty"));
            }
            events.extend(found);
        }
        Ok(events)
    }
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut text);
    read.map_err(|error| Failure::no_event("stdin", &error.to_string()))?;
    Ok(text)
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let place = format!("`{}`", path.display());
    fs::read(path).map_err(|error| Failure::no_event(&place, &error.to_string()))
}

/// The documents in a text, each as it is written.
fn documents(place: &str, text: &[u8]) -> Result<Vec<Bytes>, Failure> {
    // Some editors mark a text as UTF-8.
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let refused = |why: String| Failure::no_event(place, &why);
    std::str::from_utf8(text).map_err(|error| refused(error.to_string()))?;
    let mut reader = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    let (mut found, mut start) = (Vec::new(), 0);
    while let Some(document) = reader.next() {
        document.map_err(|error| refused(error.to_string()))?;
        let end = reader.byte_offset();
        let event = text[start..end].trim_ascii();
        if event.len() > MAX_PAYLOAD {
            return Err(Failure::event_too_large(place, event.len()));
        }
        found.push(Bytes::copy_from_slice(event));
        start = end;
    }
    Ok(found)
}

/// The client context that a flag gives: an object, or the file that has it.
pub(crate) fn client_context(given: &str) -> Result<String, Failure> {
    let text = if given.trim_start().starts_with('{') {
        given.to_owned()
    } else {
        let text = fs::read_to_string(given);
        text.map_err(|error| {
            Failure::no_client_context(&format!("cannot read `{given}`: {error}"))
        })?
    };
    let read = serde_json::from_str::<Map<String, Value>>(&text);
    read.map_err(|error| Failure::no_client_context(&error.to_string()))?;
    if text.len().div_ceil(3) * 4 > MAX_CLIENT_CONTEXT {
        return Err(Failure::no_client_context("it is larger than Lambda takes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(arguments: &[&str]) -> Vec<Given> {
        let command = Events::augment_args(Command::new("invoke"));
        let all = ["invoke"].iter().chain(arguments);
        let matches = command.try_get_matches_from(all).unwrap();
        Events::from_arg_matches(&matches).unwrap().0
    }

    fn texts(text: &str) -> Vec<String> {
        let found = documents("`event.json`", text.as_bytes()).unwrap();
        let found = found
            .iter()
            .map(|event| std::str::from_utf8(event).unwrap().to_owned());
        found.collect()
    }

    #[test]
    fn calls_are_in_the_order_of_the_flags() {
        let file = |path: &str| Given::File(path.into());
        let data = |text: &str| Given::Data(text.to_owned());
        assert_eq!(
            given(&[
                "-d",
                "1",
                "-e",
                "a.json",
                "--data=-2",
                "--event",
                "-",
                "-d",
                "-3"
            ]),
            [data("1"), file("a.json"), data("-2"), file("-"), data("-3")]
        );
        assert_eq!(given(&[]), []);
    }

    #[test]
    fn every_document_is_an_event() {
        assert_eq!(
            texts("{\"a\": 1}\n[2,\n 3]\n\"x\" 4\n"),
            ["{\"a\": 1}", "[2,\n 3]", "\"x\"", "4"]
        );
        assert_eq!(texts("\u{feff}{}"), ["{}"]);
        assert!(texts(" \n").is_empty());
    }

    #[test]
    fn what_is_no_event_is_told_with_its_line() {
        let told = |text: &[u8]| documents("`event.json`", text).unwrap_err().message;
        insta::assert_snapshot!(told(b"{\"a\": 1}\n{'b': 2}"), @"`event.json` has no event: key must be a string at line 2 column 2");
        insta::assert_snapshot!(told(b"\"\xff\""), @"`event.json` has no event: invalid utf-8 sequence of 1 bytes from index 1");
        let large = format!("\"{}\"", "x".repeat(MAX_PAYLOAD));
        insta::assert_snapshot!(told(large.as_bytes()), @"the event in `event.json` has 6291458 bytes, and Lambda takes 6291456");
    }

    #[test]
    fn a_client_context_is_an_object() {
        assert_eq!(
            client_context("{\"custom\": {}}").unwrap(),
            "{\"custom\": {}}"
        );
        let told = |text: &str| client_context(text).unwrap_err().message;
        insta::assert_snapshot!(told("{1}"), @"`--client-context` is none: key must be a string at line 1 column 2");
        insta::assert_snapshot!(told("absent.json"), @"`--client-context` is none: cannot read `absent.json`: No such file or directory (os error 2)");
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(3000));
        insta::assert_snapshot!(told(&long), @"`--client-context` is none: it is larger than Lambda takes");
    }
}
