//! Results for programs: what stdout has, the metadata file, and what a job of GitHub's actions is told.
//!
//! Only what was done comes here, never what is going on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use lambimg::build::{self, Built, Pushed, metadata};
use lambimg::digest::Digest;
use lambimg::oci::image::Image;
use lambimg::oci::reference::Name;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::functions::Failures;
use crate::surroundings;
use crate::terminal::Terminal;

/// Where the actions' runner reads what a step found out.
const OUTPUT: &str = "GITHUB_OUTPUT";
/// Where it reads what people are shown of a step.
const SUMMARY: &str = "GITHUB_STEP_SUMMARY";

#[derive(Debug, Args)]
pub(crate) struct ResultArguments {
    /// Write what was done as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// What to print
    #[arg(long = "format", value_enum, default_value_t)]
    result_format: ResultFormat,

    /// Tell the job of GitHub's actions: outputs `digest` and `image` of one image, `images` of all, and a summary
    #[arg(long)]
    github: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ResultFormat {
    /// One NAME@sha256:… a line
    #[default]
    References,
    /// What --metadata-file has
    Json,
}

/// Where results go.
pub(crate) struct Results<'a> {
    metadata_file: Option<&'a Path>,
    format: ResultFormat,
    github: Option<Job>,
    terminal: &'a Terminal,
}

/// The files of a step of GitHub's actions.
#[derive(Debug)]
struct Job {
    output: PathBuf,
    /// Runners of other makes have none.
    summary: Option<PathBuf>,
}

impl ResultArguments {
    /// Where results go, found out before anything is done.
    pub(crate) fn open<'a>(&'a self, terminal: &'a Terminal) -> Result<Results<'a>, Failure> {
        let github = self.github.then(Job::find).transpose()?;
        let job = github.iter();
        let job = job.flat_map(|job| job.summary.iter().chain([&job.output]));
        for path in self.metadata_file.iter().chain(job) {
            try_to_write(path).map_err(|error| Failure::cannot_write(path, &error))?;
        }
        Ok(Results {
            metadata_file: self.metadata_file.as_deref(),
            format: self.result_format,
            github,
            terminal,
        })
    }
}

/// What came of one function's build.
pub(crate) struct Done {
    /// The function, if the project has several.
    pub(crate) function: Option<String>,
    /// The image, or why there is none.
    pub(crate) built: Result<Built, build::Error>,
    /// What became of its bill of materials.
    pub(crate) attached: Result<(), build::Error>,
}

/// What is told of one image.
struct Told {
    document: Value,
    references: Vec<String>,
    /// What Lambda is to be given.
    image: String,
}

impl Told {
    fn new(document: Value, references: Vec<String>, pushed: &[Pushed]) -> Self {
        let digest = document["digest"].as_str().unwrap_or_default();
        let first = pushed.first();
        let first = first.map(|pushed| format!("{}@{digest}", pushed.reference.name()));
        Self {
            image: first.or(references.first().cloned()).unwrap_or_default(),
            document,
            references,
        }
    }

    fn of_build(built: &Built) -> Self {
        let names = built.plan.names.iter().map(Name::without_version);
        let references = references(names, built.image.manifest.digest());
        Self::new(metadata::of_build(built), references, &built.pushed)
    }

    /// An image that has these names now.
    fn of_names(image: &Image, names: impl Iterator<Item = String>, pushed: &[Pushed]) -> Self {
        let references = references(names, image.manifest.digest());
        Self::new(metadata::of_push(image, pushed), references, pushed)
    }

    fn of_push(image: &Image, pushed: &[Pushed]) -> Self {
        let names = pushed.iter().map(|pushed| pushed.reference.name());
        Self::of_names(image, names, pushed)
    }
}

impl Results<'_> {
    /// What was built, or why it was not; of pushes that ended on their way the part that is done is told. One that
    /// `is_one` is told as an image, and several as functions.
    pub(crate) fn built(&self, all: Vec<Done>, is_one: bool) -> Result<(), Failure> {
        let (mut failures, mut builds) = (Failures::default(), Vec::new());
        let (mut documents, mut told) = (serde_json::Map::new(), Vec::new());
        for Done {
            function,
            built,
            attached,
        } in all
        {
            let one = match &built {
                Ok(built) => Some(Told::of_build(built)),
                Err(build::Error::PartlyPushed { pushed, image, .. }) => {
                    self.terminal.pushed(pushed);
                    Some(Told::of_push(image, pushed))
                }
                Err(_) => None,
            };
            let name = function.as_deref();
            if let Some(one) = &one {
                documents.insert(name.unwrap_or_default().to_owned(), one.document.clone());
            }
            told.extend(one);
            // Another's failure says why.
            if matches!(built, Err(build::Error::Undelivered)) {
                continue;
            }
            builds.extend(failures.none(name, built.map_err(Failure::from)));
            failures.none(name, attached.map_err(Failure::from));
        }
        match &*builds {
            [built] if is_one => self.terminal.summary(built),
            [] => {}
            builds => self.terminal.summary_of_all(builds),
        }
        let result = match &*told {
            [] => Ok(()),
            [one] if is_one => self.tell(&one.document, &told),
            all => self.tell(&json!({"functions": documents}), all),
        };
        if let Err(failure) = failures.end(self.terminal) {
            // Why it failed is more than that what is done cannot be told.
            if let Err(unsaid) = result {
                self.terminal.warn(&unsaid.message);
            }
            return Err(failure);
        }
        result
    }

    /// What was pushed, or why not.
    pub(crate) fn pushed(
        &self,
        done: Result<(Image, Vec<Pushed>), build::Error>,
    ) -> Result<(), Failure> {
        let (image, pushed) = self.or_partly(done)?;
        self.terminal.pushed(&pushed);
        self.tell_pushed(&image, &pushed)
    }

    /// As [`Self::pushed`], of a push in another verb's work.
    pub(crate) fn or_partly<T>(&self, done: Result<T, build::Error>) -> Result<T, Failure> {
        if let Err(build::Error::PartlyPushed { pushed, image, .. }) = &done {
            self.terminal.pushed(pushed);
            // Why the push ended is more than that this cannot be told.
            if let Err(failure) = self.tell_pushed(image, pushed) {
                self.terminal.warn(&failure.message);
            }
        }
        Ok(done?)
    }

    fn tell_pushed(&self, image: &Image, pushed: &[Pushed]) -> Result<(), Failure> {
        self.tell_one(&Told::of_push(image, pushed))
    }

    /// An image that has these names now.
    pub(crate) fn named(
        &self,
        image: &Image,
        names: impl Iterator<Item = String>,
        pushed: &[Pushed],
    ) -> Result<(), Failure> {
        self.tell_one(&Told::of_names(image, names, pushed))
    }

    fn tell_one(&self, told: &Told) -> Result<(), Failure> {
        self.tell(&told.document, std::slice::from_ref(told))
    }

    fn tell(&self, document: &Value, images: &[Told]) -> Result<(), Failure> {
        let references = images.iter().flat_map(|told| &told.references);
        let text = format!("{document:#}\n");
        let file = self.metadata_file.map_or(Ok(()), |path| {
            let directory = path.parent().unwrap_or(Path::new(""));
            let written = fs::create_dir_all(directory).and_then(|()| fs::write(path, &text));
            written.map_err(|error| Failure::cannot_write(path, &error))
        });
        let github = self.github.as_ref();
        let github = github.map_or(Ok(()), |job| job.tell(images));
        // One that fails keeps no other from being told.
        let printed = self.terminal.print(&match self.format {
            ResultFormat::Json => text,
            ResultFormat::References => lines(references),
        });
        printed.and(file).and(github)
    }
}

/// `NAME@sha256:…`, each name once.
fn references(names: impl Iterator<Item = String>, digest: Digest) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let once = names.filter(|name| seen.insert(name.clone()));
    once.map(|name| format!("{name}@{digest}")).collect()
}

fn lines<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    texts.fold(String::new(), |mut lines, text| {
        let _ = writeln!(lines, "{text}");
        lines
    })
}

impl Job {
    fn find() -> Result<Self, Failure> {
        let file = |name| Ok::<_, Failure>(surroundings::variable(name)?.map(PathBuf::from));
        Ok(Self {
            output: file(OUTPUT)?.ok_or_else(|| Failure::no_github_job(OUTPUT))?,
            summary: file(SUMMARY)?,
        })
    }

    /// Appends, because other steps' words may stand there. No name or digest has a line's end in it.
    fn tell(&self, all: &[Told]) -> Result<(), Failure> {
        let mut output = String::new();
        if let [one] = all {
            let digest = one.document["digest"].as_str().unwrap_or_default();
            let _ = write!(output, "digest={digest}\nimage={}\n", one.image);
        }
        let images = lines(all.iter().flat_map(|told| &told.references));
        let _ = write!(output, "images<<end-of-images\n{images}end-of-images\n");
        append(&self.output, &output)?;
        let summaries = all.iter();
        let summaries = summaries.map(|told| summary(&told.document, &told.image));
        match &self.summary {
            Some(path) => append(path, &summaries.collect::<String>()),
            None => Ok(()),
        }
    }
}

/// What people are shown, in GitHub's Markdown.
fn summary(document: &Value, image: &str) -> String {
    let mut text = format!("### `{image}`\n");
    let layers = document["layers"].as_array();
    if let Some(layers) = layers {
        text.push_str("\n| layer | size | from |\n|---|---:|---|\n");
        for layer in layers.iter().filter(|layer| layer["from"] != "base") {
            let what = layer["what"].as_str().unwrap_or_default();
            let size = HumanBytes(layer["size"].as_u64().unwrap_or_default());
            let from = layer["taken_from"].as_str().unwrap_or("this build");
            let _ = writeln!(text, "| {what} | {size} | {from} |");
        }
    }
    let pushed = document["pushed"].as_array().map_or(&[][..], Vec::as_slice);
    if !pushed.is_empty() {
        text.push_str("\n| repository | tags | uploaded | mounted | there already |\n|---|---|---:|---:|---:|\n");
    }
    for repository in pushed {
        let tags = repository["tags"].as_array().into_iter().flatten();
        let tags: Vec<_> = tags.filter_map(Value::as_str).collect();
        let bytes = |key: &str| HumanBytes(repository[key].as_u64().unwrap_or_default());
        let name = repository["repository"].as_str().unwrap_or_default();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} |",
            tags.join(" "),
            bytes("uploaded"),
            bytes("mounted"),
            bytes("skipped"),
        );
    }
    text.push('\n');
    text
}

/// Finds out whether a file can be written, and leaves what is there.
fn try_to_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        // Whoever reads a pipe would take its closing for the end.
        Ok(file) if !file.is_file() && !file.is_dir() => Ok(()),
        Ok(_) => File::options().append(true).open(path).map(drop),
        Err(_) => match File::create_new(path) {
            Ok(_) => fs::remove_file(path),
            // Its directory is made then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
    }
}

fn append(path: &Path, text: &str) -> Result<(), Failure> {
    let file = File::options().append(true).create(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::cannot_write(path, &error))
}
