//! uv as the resolver: one platform of its own choice a question, and its answer is a lock already.
//!
//! uv knows few levels of glibc. Where the target's lies between two of them (Amazon Linux 2 has 2.26, uv
//! knows 2.17 and 2.28), the lower one hides wheels that fit (pandas 3.1.1 and pyzmq 27.3.0 among them), and
//! the higher one gives wheels that do not load. So uv is asked for both: what of the higher answer does not
//! fit is held to the version of the lower one, whose wheels fit for sure, and the higher is asked again. On
//! 13 requirement sets for Python 3.10 and 3.11 this came to the versions that pip finds, which takes every
//! level, in all 26 cases; the lower level alone in 17. What a lock needs of images is not known here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::slice;

use tokio::process::Command;

use crate::http::{self, Url};
use crate::python::lock::pylock::Pylock;
use crate::python::lock::{self, Builds, Wanted};
use crate::python::pyproject;
use crate::python::requirements::{self, Requirements};
use crate::python::resolve::{Answer, Error, Request, relative_path, remove_credentials, run};

/// The glibc levels that uv 0.13 offers as platforms, as the number after `2.`.
const LEVELS: [u16; 12] = [17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];

/// More questions than any set of requirements took; each takes a fraction of a second, for uv keeps what the
/// index said.
const ROUNDS: usize = 12;

/// Asks uv.
pub(super) async fn ask(
    request: &Request,
    directory: &Path,
    builds: &Builds,
) -> Result<Answer, Error> {
    let question = Question {
        request,
        directory,
        builds,
    };
    let glibc = request.target.glibc.minor;
    let at_most = LEVELS.into_iter().rev().find(|level| *level <= glibc);
    let above = LEVELS.into_iter().find(|level| *level > glibc);
    match (at_most, above) {
        (Some(level), Some(above)) if level < glibc => question.between(level, above).await,
        (Some(level), _) => question.at(level, &[]).await,
        // Older than whatever uv knows: choosing the wheels finds out whether they fit.
        (None, _) => question.at(LEVELS[0], &[]).await,
    }
}

struct Question<'a> {
    request: &'a Request,
    directory: &'a Path,
    builds: &'a Builds,
}

impl Question<'_> {
    /// The answer for a glibc between two levels.
    async fn between(&self, below: u16, above: u16) -> Result<Answer, Error> {
        let low = self.at(below, &[]).await;
        let fallback: BTreeMap<_, _> = match &low {
            Ok(answer) => self.versions(&answer.text)?,
            Err(_) => BTreeMap::new(),
        };
        let mut constraints = Vec::new();
        for _ in 0..ROUNDS {
            let high = match self.at(above, &constraints).await {
                Ok(high) => high,
                // The first words are about what was asked for, not about what was added to it.
                Err(error) if constraints.is_empty() => return low.map_err(|_| error),
                Err(_) => break,
            };
            let unfit = self.unfit(&high.text)?;
            if unfit.is_empty() {
                return Ok(high);
            }
            for (name, version) in unfit {
                let limit = match fallback.get(&name) {
                    Some(fitting) if *fitting != version => format!("{name}<={fitting}"),
                    _ => format!("{name}!={version}"),
                };
                // A limit that did not help is no limit: the version itself goes.
                if constraints.contains(&limit) {
                    constraints.push(format!("{name}!={version}"));
                } else {
                    constraints.push(limit);
                }
            }
        }
        let mut low = low?;
        low.warnings.push(format!(
            "uv knows no glibc between 2.{below} and 2.{above}; newer versions with wheels for {} may be left out",
            self.request.target.glibc
        ));
        Ok(low)
    }

    /// The version of each package that an index has.
    fn versions(&self, text: &str) -> Result<BTreeMap<String, String>, Error> {
        let entries = self.entries(text)?.into_iter();
        let pairs = entries.filter_map(|entry| Some((entry.name, entry.version?)));
        Ok(pairs.collect())
    }

    /// Packages of which there are wheels, and none that fits.
    fn unfit(&self, text: &str) -> Result<Vec<(String, String)>, Error> {
        let unfit = self.entries(text)?.into_iter().filter(|entry| {
            let (target, builds) = (self.request.target, self.builds);
            let chosen = lock::choose(slice::from_ref(entry), target, builds);
            !entry.wheels.is_empty() && matches!(chosen, Err(lock::Error::NoWheel(_)))
        });
        Ok(unfit
            .filter_map(|entry| Some((entry.name, entry.version?)))
            .collect())
    }

    fn entries(&self, text: &str) -> Result<Vec<lock::Entry>, Error> {
        let lock: Pylock = text.parse()?;
        Ok(lock.entries(&lock::Request {
            target: self.request.target,
            wanted: &Wanted::default(),
            pyproject: None,
            member: Path::new(""),
        })?)
    }

    /// The answer for one of uv's levels, with further constraints.
    async fn at(&self, level: u16, constraints: &[String]) -> Result<Answer, Error> {
        let exchange = |source| Error::Exchange {
            resolver: "uv",
            source,
        };
        let temporary = tempfile::tempdir().map_err(exchange)?;
        let place = temporary.path().canonicalize().map_err(exchange)?;
        let (output, further) = (place.join("pylock.toml"), place.join("constraints.txt"));
        // uv keeps the versions that it finds where it is to write.
        if let Some(previous) = &self.request.previous {
            tokio::fs::write(&output, previous)
                .await
                .map_err(exchange)?;
        }
        let mut command = Command::new(self.request.resolver.program());
        let for_uv = self.request.for_uv.iter();
        command.envs(for_uv.map(|(name, value)| (name, value.reveal())));
        let source = source(&self.request.requirements)?;
        command.args(arguments(
            self.request,
            self.builds,
            level,
            source.arguments,
        ));
        command.arg("--output-file").arg(&output);
        if !constraints.is_empty() {
            let text = constraints.join("\n");
            tokio::fs::write(&further, text).await.map_err(exchange)?;
            command.arg("--constraints").arg(&further);
        }
        let said = run(self.request, command, self.directory, &source.input).await?;
        let text = tokio::fs::read(&output).await.map_err(exchange)?;
        let text = String::from_utf8(text).map_err(|_| Error::Answer {
            resolver: "uv",
            reason: "it is not UTF-8".to_owned(),
        })?;
        Ok(Answer {
            text: with_shareable_addresses(&text, &place, self.directory),
            warnings: warnings(&String::from_utf8_lossy(&said.stderr)),
        })
    }
}

/// What uv reads.
struct Source {
    arguments: Vec<OsString>,
    input: String,
}

fn source(requirements: &Requirements) -> Result<Source, Error> {
    let named = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    let (arguments, input) = match requirements {
        Requirements::File(path) => (vec![named(path)], String::new()),
        Requirements::Lines { text, .. } => (vec!["-".into()], text.clone()),
        Requirements::Project { pyproject, wanted } => {
            return project_source(pyproject, wanted);
        }
    };
    Ok(Source { arguments, input })
}

fn project_source(path: &Path, wanted: &Wanted) -> Result<Source, Error> {
    let project = requirements::read_project(path)?;
    let mut arguments: Vec<OsString> = Vec::new();
    let mut input = String::new();
    if project.dynamic().is_some() {
        // uv builds no metadata of a project in a file that it is given, but does so for an editable one.
        let name = project.name.ok_or_else(|| requirements::Error::Project {
            path: path.to_owned(),
            source: pyproject::Error::Form("the project has no name".to_owned()),
        })?;
        let extras: Vec<&str> = wanted.extras.iter().map(String::as_str).collect();
        input = match extras.as_slice() {
            [] => "-e .".to_owned(),
            extras => format!("-e .[{}]", extras.join(",")),
        };
        let options = ["-", "--no-emit-package", &name, "--no-binary", &name];
        arguments.extend(options.map(OsString::from));
    } else {
        arguments.push(path.file_name().unwrap_or_default().to_owned());
        let extras = wanted.extras.iter();
        arguments.extend(extras.flat_map(|name| ["--extra".into(), name.into()]));
    }
    let groups = wanted.groups.iter();
    arguments.extend(groups.flat_map(|name| ["--group".into(), name.into()]));
    Ok(Source { arguments, input })
}

fn arguments(
    request: &Request,
    builds: &Builds,
    level: u16,
    source: Vec<OsString>,
) -> Vec<OsString> {
    let target = request.target;
    let mut arguments: Vec<OsString> = ["pip", "compile"].map(OsString::from).into();
    arguments.extend(source);
    let platform = format!("{}-manylinux_2_{level}", target.machine);
    let options = [
        ["--format", "pylock.toml"],
        ["--python-platform", &platform],
        ["--python-version", &target.full_version().to_string()],
        ["--color", "never"],
    ];
    arguments.extend(options.iter().flatten().map(OsString::from));
    if !builds.all {
        arguments.extend(["--only-binary", ":all:"].map(OsString::from));
    }
    let mut named = |option: &str, names: &mut dyn Iterator<Item = &String>| {
        arguments.extend(names.flat_map(|name| [option.into(), name.into()]));
    };
    named("--no-binary", &mut builds.names.iter());
    named("--upgrade-package", &mut request.upgrades.iter());
    named("--exclude-newer", &mut request.limits.exclude_newer.iter());
    // A header would hold paths of this machine.
    let switches = ["--no-header", "--no-progress", "--no-python-downloads"];
    arguments.extend(switches.map(OsString::from));
    arguments.extend(request.offline.then(|| "--offline".into()));
    arguments
}

/// The warnings among what uv said. Which Python would build is of no interest where nothing is built.
fn warnings(stderr: &str) -> Vec<String> {
    let warnings = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("warning: "));
    warnings
        .filter(|warning| !warning.contains("will be used to build dependencies"))
        .map(|warning| format!("uv: {}", http::redact_text(warning)))
        .collect()
}

/// Puts paths from `directory` where a text of uv, which it wrote to `place`, has `file:` URLs or paths from
/// there, for a lock is the same on every machine; and takes out user names and passwords, which uv leaves in
/// a requirement's own URL.
fn with_shareable_addresses(text: &str, place: &Path, directory: &Path) -> String {
    const KEYS: [&str; 2] = ["url = \"", "path = \""];
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    let next = |rest: &str| {
        let found = KEYS.iter().filter_map(|key| Some((rest.find(key)?, *key)));
        found.min()
    };
    while let Some((at, key)) = next(rest) {
        let (before, tail) = rest.split_at(at);
        let quoted = &tail[key.len() - 1..];
        let Some(length) = string_length(quoted) else {
            break;
        };
        let value = format!("v = {}", &quoted[..length]).parse::<toml::Table>();
        let value = value
            .ok()
            .and_then(|table| Some(table.get("v")?.as_str()?.to_owned()));
        let shareable = value.and_then(|value| {
            if key.starts_with("path") {
                Some(path_key(&place.join(value), directory))
            } else {
                shareable_url(&value, directory)
            }
        });
        result.push_str(before);
        // What is fit to be seen stays as uv wrote it.
        let end = key.len() - 1 + length;
        result.push_str(shareable.as_deref().unwrap_or(&tail[..end]));
        rest = &tail[end..];
    }
    result.push_str(rest);
    result
}

/// The length of the basic string that a text begins with, quotation marks and all.
fn string_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let is_end = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        is_end
    });
    end.map(|(at, _)| at + 1)
}

fn path_key(path: &Path, directory: &Path) -> String {
    let path = relative_path(path, directory);
    let shown = match path.to_string_lossy() {
        empty if empty.is_empty() => ".".into(),
        path => path,
    };
    format!("path = {}", toml::Value::from(&*shown))
}

/// The key and value to write in place of a URL that is not fit to be shared.
fn shareable_url(url: &str, directory: &Path) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    match url.scheme() {
        "file" => Some(path_key(&url.to_file_path().ok()?, directory)),
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            remove_credentials(&mut url);
            Some(format!("url = {}", toml::Value::from(url.as_str())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Machine;
    use crate::python::resolve::Resolver;
    use crate::python::resolve::tests::request;
    use crate::python::tests::target;
    use proptest::prelude::*;

    fn joined(request: &Request, builds: &Builds) -> String {
        let source = source(&request.requirements).unwrap();
        let arguments = arguments(request, builds, 34, source.arguments);
        let arguments: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
        arguments.join(" ")
    }

    #[test]
    fn uv_is_given_the_target_and_what_may_be_built() {
        let target = target("3.12", Machine::X86_64, "2.34");
        let mut request = request(Resolver::Uv("uv".into()), target);
        request.requirements = Requirements::File("some/requirements.txt".into());
        request.offline = true;
        let mut builds = Builds::default();
        insta::assert_snapshot!(joined(&request, &builds), @"pip compile requirements.txt --format pylock.toml --python-platform x86_64-manylinux_2_34 --python-version 3.12.7 --color never --only-binary :all: --no-header --no-progress --no-python-downloads --offline");
        request.offline = false;
        request.upgrades.insert("six".to_owned());
        request.limits.exclude_newer = Some("2026-11-01".to_owned());
        builds.names.insert("docopt".to_owned());
        insta::assert_snapshot!(joined(&request, &builds), @"pip compile requirements.txt --format pylock.toml --python-platform x86_64-manylinux_2_34 --python-version 3.12.7 --color never --only-binary :all: --no-binary docopt --upgrade-package six --exclude-newer 2026-11-01 --no-header --no-progress --no-python-downloads");
        builds.all = true;
        assert!(!joined(&request, &builds).contains("--only-binary"));
    }

    #[test]
    fn a_project_is_given_as_it_is() {
        let guard = tempfile::tempdir().unwrap();
        let pyproject = guard.path().join("pyproject.toml");
        let set = |name: &str| [name.to_owned()].into();
        let wanted = Wanted {
            extras: set("web"),
            groups: set("ops"),
        };
        let source = |text: &str| {
            std::fs::write(&pyproject, text).unwrap();
            let (pyproject, wanted) = (pyproject.clone(), wanted.clone());
            let source = source(&Requirements::Project { pyproject, wanted }).unwrap();
            let arguments: Vec<_> = source
                .arguments
                .iter()
                .map(|a| a.to_string_lossy())
                .collect();
            format!("{} < {}", arguments.join(" "), source.input)
        };
        insta::assert_snapshot!(source("[project]\nname = 'a'"), @"pyproject.toml --extra web --group ops <");
        insta::assert_snapshot!(source("[project]\nname = 'a'\ndynamic = ['dependencies']"), @"- --no-emit-package a --no-binary a --group ops < -e .[web]");
    }

    #[test]
    fn only_warnings_about_packages_are_told() {
        let stderr = "warning: The requested Python version 3.12 is not available; 3.11.7 will be used to build dependencies instead.\n\
                      Resolved 2 packages in 3ms\nwarning: `a==1` is yanked (see https://me:pw@index.test/a)\n";
        assert_eq!(
            warnings(stderr),
            ["uv: `a==1` is yanked (see https://[secret]@index.test/a)"]
        );
    }

    #[test]
    fn addresses_are_fit_to_be_shared() {
        let text = r#"wheels = [{ url = "file:///p/deps/w%20x/six-1-py3-none-any.whl", hashes = {} }, { url = "https://a/file:///b" }]
archive = { url = "file:///q/b.whl" }
directory = { path = "../p/lib", editable = true }
directory = { path = "../p/deps" }
directory = { path = "/q/a \" b" }
secret = { url = "https://me:pw@host/c.whl" }
vcs = { url = "ssh://git@host/c" }
odd = { url = "file://"#;
        insta::assert_snapshot!(with_shareable_addresses(text, Path::new("/t"), Path::new("/p/deps")), @r#"
        wheels = [{ path = "w x/six-1-py3-none-any.whl", hashes = {} }, { url = "https://a/file:///b" }]
        archive = { path = "../../q/b.whl" }
        directory = { path = "../lib", editable = true }
        directory = { path = "." }
        directory = { path = '../../q/a " b' }
        secret = { url = "https://host/c.whl" }
        vcs = { url = "ssh://git@host/c" }
        odd = { url = "file://
        "#);
    }

    proptest! {
        #[test]
        fn any_text_is_rewritten(text in "(url = \"|path = \"|file://|[a-z/%\"@: é]|\\\\){0,12}") {
            let _ = with_shareable_addresses(&text, Path::new("/t"), Path::new("/p/deps"));
            let _ = http::redact_text(&text);
        }
    }
}
