//! The verb `event`: what a source sends to a function, changed as the user wants it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Read as _;

use clap::Args;
use lambimg::lambda::event::Changes;
use lambimg::lambda::event::SOURCES;
use lambimg::lambda::event::Source;

use crate::failure::Failure;
use crate::terminal::Terminal;

/// What is the same in all sources and where they differ.
const AFTER_HELP: &str = "\
Examples:
  lambimg event sqs --body '{\"order\": 17}'
  lambimg event apigateway-v2 --method GET --path '/orders?open=yes' --header 'Authorization: Bearer x'
  lambimg event s3 --set Records.0.s3.bucket.name=mine | lambimg invoke app:1";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct EventArguments {
    /// The source, as sqs or apigateway-v2; without one, all are listed
    #[arg(value_name = "SOURCE")]
    source: Option<String>,

    /// The method of a request; GET, HEAD, DELETE and OPTIONS have no body unless one is given
    #[arg(long, requires = "source")]
    method: Option<String>,

    /// The path of a request, with its query: /orders?open=yes
    #[arg(long, requires = "source")]
    path: Option<String>,

    /// A header of a request (repeatable)
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header, requires = "source")]
    headers: Vec<(String, String)>,

    /// What the sender says, encoded as the source does; @FILE reads a file, @- standard input
    #[arg(long, value_name = "TEXT", requires = "source")]
    body: Option<String>,

    /// Put a value anywhere, as Records.0.s3.object.key=a.txt: JSON, else text; where a text stands, text (repeatable)
    #[arg(long = "set", value_name = "PLACE=VALUE", value_parser = assignment, requires = "source")]
    values: Vec<(String, String)>,
}

/// Prints the event, or the list of all.
pub(crate) fn event(wanted: &EventArguments, terminal: &Terminal) -> Result<(), Failure> {
    let Some(name) = &wanted.source else {
        return terminal.print(&list());
    };
    let source: &Source = name.parse()?;
    let changes = Changes {
        method: wanted.method.clone(),
        path: wanted.path.clone(),
        headers: wanted.headers.clone(),
        body: wanted.body.as_deref().map(read).transpose()?,
        values: wanted.values.clone(),
    };
    terminal.print(&format!("{:#}\n", source.event(&changes)?))
}

fn list() -> String {
    let mut text = format!("{:<16} EVENT\n", "SOURCE");
    for source in SOURCES {
        let _ = writeln!(text, "{:<16} {}", source.name, source.about);
    }
    text
}

/// The text itself, or what is in the file that it names.
fn read(text: &str) -> Result<String, Failure> {
    let Some(path) = text.strip_prefix('@') else {
        return Ok(text.to_owned());
    };
    let mut content = String::new();
    let read = match path {
        "-" => io::stdin().read_to_string(&mut content).map(|_| content),
        _ => fs::read_to_string(path),
    };
    read.map_err(|error| Failure::no_body(path, &error))
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("there is no colon")?;
    let name = name.trim();
    if name.is_empty() {
        return Err("there is no name before the colon".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (place, value) = text.split_once('=').ok_or("there is no `=`")?;
    Ok((place.to_owned(), value.to_owned()))
}
