//! Any library error → what is said, what to do about it, and the exit code.
//!
//! The library states facts; flags, keys and commands are named only here. Every variant is matched, so
//! that a new one does not compile until its remedy is decided.

mod build;
mod python;
mod registry;
mod running;

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::io;
use std::path::Path;

use lambimg::build::verify::Report;
use lambimg::config;
use lambimg::http;
use lambimg::lambda::check::NoRule;
use lambimg::oci::reference;
use lambimg::python::index::settings;

use build::of_cause;

/// The exit codes as `--help` tells them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   findings, refused, or a function's error
  2   usage or configuration
  3   the input cannot be built (no wheel for the target, hash differs)
  4   network or registry
  5   AWS
  70  a bug in lambimg
  129, 130, 143  hung up, interrupted, terminated";

/// Findings, or refused.
pub(crate) const REFUSED: u8 = 1;

pub(crate) const USAGE: u8 = 2;

const INPUT: u8 = 3;

const NETWORK: u8 = 4;

const AWS: u8 = 5;

/// A bug of ours.
pub(crate) const BUG: u8 = 70;

/// What the user is told, and what the shell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The fact.
    pub(crate) message: String,
    /// What led to it, outermost first.
    pub(crate) causes: Vec<String>,
    /// The remedy.
    pub(crate) hint: Option<String>,
    /// The exit code.
    pub(crate) code: u8,
}

/// The remedy and the code.
type Advice = (Option<String>, u8);

fn hint(text: impl Into<String>, code: u8) -> Advice {
    (Some(text.into()), code)
}

impl Failure {
    fn new(error: &dyn StdError, (hint, code): Advice) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            // Some end in a line of their own.
            causes.push(cause.to_string().trim_end().to_owned());
            next = cause.source();
        }
        Self {
            message: error.to_string(),
            causes,
            hint,
            code,
        }
    }

    fn plain(message: String, advice: Advice) -> Self {
        Self {
            message,
            causes: Vec::new(),
            hint: advice.0,
            code: advice.1,
        }
    }

    /// What went wrong with these functions of a project, if it has several.
    pub(crate) fn of_functions(mut self, names: &[String]) -> Self {
        let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        self.message = match &*quoted {
            [] => self.message,
            [one] => format!("function {one}: {}", self.message),
            several => format!("functions {}: {}", several.join(", "), self.message),
        };
        self
    }

    /// There is nowhere to keep the store.
    pub(crate) fn no_cache_directory() -> Self {
        Self::plain(
            "there is no directory for the store: neither LAMBIMG_CACHE_DIR nor HOME is set".into(),
            hint(
                "set LAMBIMG_CACHE_DIR to a directory that lambimg may write to",
                USAGE,
            ),
        )
    }

    /// Credentials for a registry are given in part.
    pub(crate) fn incomplete_credentials(absent: &str) -> Self {
        Self::plain(
            format!("credentials for a registry are given by variables, but `{absent}` is not set"),
            hint(
                "set all of LAMBIMG_REGISTRY (the host they are for), LAMBIMG_REGISTRY_USER and \
                 LAMBIMG_REGISTRY_PASSWORD, or none",
                USAGE,
            ),
        )
    }

    /// Credentials are given for what is no registry.
    pub(crate) fn credentials_of_nowhere(text: &str) -> Self {
        let text = http::redact_name(text);
        Self::plain(
            format!("the variable `LAMBIMG_REGISTRY` is `{text}`, which is no registry's host"),
            hint(
                "write the host as it stands before the first slash of an image's name, with its port if any",
                USAGE,
            ),
        )
    }

    /// The store's limit is no size.
    pub(crate) fn no_cache_size(text: &str) -> Self {
        Self::plain(
            format!("the variable `LAMBIMG_CACHE_SIZE` is `{text}`, which is no size"),
            hint("write a size, as `20GB`, or `none`", USAGE),
        )
    }

    /// A name to push to has no registry.
    pub(crate) fn no_registry(name: &str) -> Self {
        let name = http::redact_name(name);
        Self::plain(
            format!("`{name}` names no registry to push to"),
            hint(
                "give the whole reference, as `lambimg push IMAGE REGISTRY/REPOSITORY:TAG`",
                USAGE,
            ),
        )
    }

    /// A body cannot be read.
    pub(crate) fn no_body(path: &str, error: &io::Error) -> Self {
        let mut failure = Self::plain(
            format!("the body cannot be read from `{path}`"),
            hint(
                "give a file of text in UTF-8, or `@-` for standard input; a body that begins with `@` comes from a file",
                USAGE,
            ),
        );
        failure.causes.push(error.to_string());
        failure
    }

    /// What was compared is not the same.
    pub(crate) fn differs(image: &str, other: &str, report: &Report) -> Self {
        let causes: Vec<_> = report.findings.iter().map(|found| &found.cause).collect();
        let advice = causes.iter().find_map(|cause| cause.as_ref());
        Self::plain(
            format!(
                "`{image}` is {}, and {other} is {}",
                report.first, report.second
            ),
            (advice.map(|cause| of_cause(cause).to_owned()), REFUSED),
        )
    }

    /// A proof takes nothing from the cache.
    pub(crate) fn offline_proof() -> Self {
        Self::plain(
            "`verify` builds with an empty cache, and cannot without a network".to_owned(),
            hint(
                "leave out `--offline`; `--against IMAGE` compares with another image, and builds nothing",
                USAGE,
            ),
        )
    }

    /// What is to be checked is nothing.
    pub(crate) fn neither_image_nor_project(text: &str, known: &BTreeSet<String>) -> Self {
        let text = http::redact_name(text);
        let names: Vec<_> = known.iter().map(String::as_str).collect();
        let known = if names.is_empty() {
            "which is empty".to_owned()
        } else {
            format!("only {}", names.join(", "))
        };
        Self::plain(
            format!("`{text}` is neither an image in the store, {known}, nor a directory"),
            hint(
                format!(
                    "an image elsewhere is `docker://{text}`, `oci:DIR`, `oci-archive:FILE` or `docker-archive:FILE`; \
                     a project is its directory's path"
                ),
                USAGE,
            ),
        )
    }

    /// Flags of a build are given for what is built already.
    pub(crate) fn image_is_not_built(image: &str) -> Self {
        let image = http::redact_name(image);
        Self::plain(
            format!("`{image}` is an image, and flags of a build are given"),
            hint(
                "leave them out, or give a project's directory, as `./app`; an image may have `--arch` alone",
                USAGE,
            ),
        )
    }

    /// A form that rules or findings are not told in.
    pub(crate) fn no_rules_to_tell(format: &str) -> Self {
        let told = if format == "sarif" {
            "findings, and not rules alone"
        } else {
            "the list of rules, and not findings"
        };
        Self::plain(
            format!("`--format {format}` is for {told}"),
            hint("take `text` or `json`", USAGE),
        )
    }

    /// There is no job to tell.
    pub(crate) fn no_github_job(variable: &str) -> Self {
        Self::plain(
            format!(
                "`--github` is for jobs of GitHub's actions, and the variable `{variable}` is not set"
            ),
            hint(
                "leave it out elsewhere: `--metadata-file FILE` has all of it as JSON",
                USAGE,
            ),
        )
    }

    /// A file that was asked for cannot be written.
    pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Self {
        Self::plain(
            format!("cannot write `{}`: {error}", path.display()),
            hint("name another path for the file", REFUSED),
        )
    }

    /// A page cannot be written.
    pub(crate) fn no_page(path: &Path, error: &io::Error) -> Self {
        Self::plain(
            format!("cannot write `{}`: {error}", path.display()),
            hint(
                "name a file in a directory that is there for `--html`",
                REFUSED,
            ),
        )
    }

    /// There is no room of this run's own.
    pub(crate) fn no_directory(path: &Path, error: &io::Error) -> Self {
        Self::plain(
            format!("cannot make a directory in `{}`: {error}", path.display()),
            hint(
                "set TMPDIR to a directory that lambimg may write to",
                REFUSED,
            ),
        )
    }

    /// A variable is not of text.
    pub(crate) fn variable_is_no_text(name: &str) -> Self {
        Self::plain(
            format!("the variable `{name}` is not UTF-8"),
            hint("set it to text, or unset it", USAGE),
        )
    }

    /// A file with settings of pip or uv cannot be read.
    pub(crate) fn cannot_read_settings(path: &Path, error: &io::Error) -> Self {
        Self::plain(
            format!(
                "cannot read the settings of indexes in `{}`: {error}",
                path.display()
            ),
            hint("check the file's permissions; pip or uv read it too", USAGE),
        )
    }

    /// What pip is to trust is nothing to trust.
    pub(crate) fn no_certificates(from: &str, path: &Path, why: &str) -> Self {
        Self::plain(
            format!(
                "cannot read the certificates in `{}`, which {from} names: {why}",
                path.display()
            ),
            hint("name a file of certificates in PEM, or unset it", USAGE),
        )
    }

    /// Nobody takes the results.
    pub(crate) fn cannot_print(error: &io::Error) -> Self {
        Self::plain(format!("cannot write to stdout: {error}"), (None, REFUSED))
    }

    /// A signal ended what was being made.
    pub(crate) fn signalled(signal: i32) -> Self {
        Self::interrupted(signal, "no name was given to anything that is not whole")
    }

    /// The code is the one that shells give.
    fn interrupted(signal: i32, what: &str) -> Self {
        let code = u8::try_from(128 + signal).unwrap_or(REFUSED);
        Self::plain(format!("interrupted: {what}"), (None, code))
    }

    /// What should not happen did.
    pub(crate) fn bug(message: &str) -> Self {
        Self::plain(message.to_owned(), (None, BUG))
    }
}

/// A panic is a bug, and says so with its exit code.
pub(crate) fn exit_70_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        #[expect(clippy::exit, reason = "a panic has no way back to main")]
        std::process::exit(BUG.into());
    }));
}

impl From<settings::Error> for Failure {
    fn from(error: settings::Error) -> Self {
        let advice = match &error {
            settings::Error::Url { .. } => {
                hint("write a whole URL, as https://index.example/simple", USAGE)
            }
            settings::Error::Toml { .. } => hint("mend the line; see https://toml.io", USAGE),
        };
        Self::new(&error, advice)
    }
}

impl From<reference::ParseError> for Failure {
    fn from(error: reference::ParseError) -> Self {
        Self::new(
            &error,
            hint("write a name as REGISTRY/REPOSITORY:TAG", USAGE),
        )
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let advice = match &error {
            config::Error::NoProject(path) if path.is_file() => hint(
                "PATH is a project's directory or a deployment package, and this file is no zip archive by its first bytes",
                USAGE,
            ),
            config::Error::NoProject(_) => hint(
                "name the directory that holds the function, or its deployment package, as `lambimg build PATH`",
                USAGE,
            ),
            config::Error::NoCurrentDirectory => hint("go to one that is there, by `cd`", USAGE),
            config::Error::Read { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                hint("save the file as UTF-8", USAGE)
            }
            config::Error::Read { .. } => hint("check the file's permissions", USAGE),
            config::Error::Syntax { .. } => hint("mend the line; see https://toml.io", USAGE),
            config::Error::UnknownKey {
                nearest: Some(nearest),
                ..
            } => hint(format!("did you mean `{nearest}`?"), USAGE),
            config::Error::UnknownKey { nearest: None, .. } => {
                hint("remove it; the README lists the keys", USAGE)
            }
            config::Error::UnknownVariable { nearest, .. } => hint(
                nearest.as_ref().map_or_else(
                    || "unset it; the README lists the settings".to_owned(),
                    |nearest| format!("did you mean `{nearest}`?"),
                ),
                USAGE,
            ),
            config::Error::Kind { key, .. } if config::FILE_ALONE.contains(&&**key) => hint(
                "the README shows how it is written in `pyproject.toml` or `lambimg.toml`",
                USAGE,
            ),
            config::Error::Kind { wanted, .. } => hint(
                match *wanted {
                    "a list of texts" => "write a list of texts, as `[\"orders\"]`".to_owned(),
                    wanted => {
                        format!("write {wanted}, as `python = \"3.12\"` or `tags = [\"orders\"]`")
                    }
                },
                USAGE,
            ),
            config::Error::FunctionName { .. } => hint(
                "write letters and digits with `-` or `_` between them, at most 64 in all",
                USAGE,
            ),
            config::Error::SameFunction { .. } => hint(
                "give one of them another name: images and locks are named in small letters",
                USAGE,
            ),
            config::Error::ProjectAlone { key, .. } if key == "tags" => hint(
                "a function's names are its `image`, a text or a list of texts",
                USAGE,
            ),
            config::Error::ProjectAlone { .. } => hint(
                "write it where all functions have it, beside `functions`",
                USAGE,
            ),
            config::Error::Source { .. } => hint(
                "name a directory that lies in the project, by its path from there, as `src/orders`",
                USAGE,
            ),
            config::Error::TwoFiles => hint(
                format!(
                    "move everything into `{}` or into `pyproject.toml`",
                    config::OWN_FILE
                ),
                USAGE,
            ),
        };
        Self::new(&error, advice)
    }
}

impl From<NoRule> for Failure {
    fn from(error: NoRule) -> Self {
        Self::new(&error, of_no_rule(&error))
    }
}

fn of_no_rule(error: &NoRule) -> Advice {
    let list = "`lambimg check --list` has all";
    match error.nearest {
        Some(nearest) => hint(format!("did you mean `{nearest}`? {list}"), USAGE),
        None => hint(list, USAGE),
    }
}

#[cfg(test)]
mod tests {
    use super::registry::create_hint;
    use super::*;
    use lambimg::aws;
    use lambimg::build;
    use lambimg::lambda::check::{self, Finding};

    #[test]
    fn what_lambda_would_refuse_is_told_with_reason_and_remedy() {
        let finding = |value: &str| Finding {
            rule: check::rules().next().unwrap(),
            level: check::Level::Error,
            message: format!("the name leads to {value}"),
            layer: None,
            path: None,
            value: None,
            remedy: format!("Do something about {value}."),
        };
        let error = build::Error::Refused(vec![finding("an index"), finding("another")]);
        let failure = Failure::from(error);
        assert_eq!(failure.code, REFUSED);
        insta::assert_snapshot!(format!("{}\n{}", failure.message, failure.hint.unwrap()), @r#"
        Lambda would refuse this image: the name leads to an index (LMB001); the name leads to another (LMB001)
        LMB001: Do something about an index.
          Lambda takes no image index (manifest list), not even of one platform, and answers `InvalidParameterValueException: The image manifest, config or layer media type for the source image is not supported.`; `docker buildx` makes an index when it adds attestations.
        LMB001: Do something about another.
        no name was given to it; `ignore = ["LMB001"]` under `[tool.lambimg.check]` has it built all the same
        "#);
    }

    #[test]
    fn a_value_that_means_nothing_has_its_own_remedy() {
        let hint_of = |wanted| {
            let place = config::Place::Flag("--flag");
            let value = "x".to_owned();
            let error = lambimg::plan::Error::Value {
                value,
                place,
                wanted,
            };
            Failure::from(error).hint.unwrap()
        };
        insta::assert_snapshot!(hint_of("no absolute path"), @"begin it with a `/`, as `/opt/models`");
        insta::assert_snapshot!(hint_of("no architecture; Lambda has x86_64 and arm64"), @"give one of these");
    }

    #[test]
    fn a_package_made_otherwise_has_its_own_remedy() {
        let hint_of = |reason: &str| {
            let error = build::package::reading::Error::Member {
                path: "f.zip".into(),
                name: "x".to_owned(),
                reason: reason.to_owned(),
            };
            let error = build::function::Error::Package(error);
            Failure::from(build::Error::from(error)).hint.unwrap()
        };
        insta::assert_snapshot!(hint_of("has a backslash in it"), @"make the package anew with `/` between directories, as `zip -r` and Python's `zipfile` do on every system");
        insta::assert_snapshot!(hint_of("is encrypted"), @"make the package anew, without a password");
        insta::assert_snapshot!(hint_of("is there twice"), @"make the package anew, of plain files, directories and links among them, each of them once");
    }

    #[test]
    fn a_region_without_lambdas_host_is_told() {
        let told = |host: &str| {
            let source = http::Error::Resolve {
                host: host.to_owned(),
                is_temporary: false,
            };
            let error = build::Error::Extension {
                written: "arn".to_owned(),
                source: aws::Error::Http(source).into(),
            };
            let failure = Failure::from(error);
            assert_eq!(failure.code, NETWORK);
            failure.hint.unwrap()
        };
        insta::assert_snapshot!(told("lambda-fips.eu-west-1.amazonaws.com"), @"not every region has the endpoint that AWS_USE_FIPS_ENDPOINT or `use_fips_endpoint` in a profile asks for: set the variable to `false`, or name an endpoint in AWS_ENDPOINT_URL_LAMBDA");
        insta::assert_snapshot!(told("lambda.eu-wset-1.amazonaws.com"), @"check the ARN's region, and the machine's network");
        insta::assert_snapshot!(told("proxy.invalid"), @"check the spelling of the host, and the machine's network");
    }

    #[test]
    fn a_repository_of_ecr_is_made_by_a_command() {
        let command = "`aws ecr create-repository --repository-name team/app --region eu-west-1`";
        for host in [
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr-fips.eu-west-1.amazonaws.com",
            "123456789012.dkr-ecr.eu-west-1.on.aws",
        ] {
            let hint = create_hint(host, "team/app");
            assert!(
                hint.contains(command) && hint.contains("--create-repository"),
                "{hint}"
            );
        }
        for host in ["ghcr.io", "registry.test:5000", "public.ecr.aws"] {
            assert!(
                !create_hint(host, "team/app").contains("aws ecr "),
                "{host}"
            );
        }
    }
}
