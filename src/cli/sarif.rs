//! What a check found, in SARIF 2.1.0, as code scanning in CI takes it.
//!
//! A finding in a file of the project points to that file in the repository, any other to the path in the image.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lambimg::digest::Digest;
use lambimg::lambda::TASK_ROOT;
use lambimg::lambda::check::{self, Finding, Rule};
use serde_json::{Value, json};

use crate::findings::{Checked, in_words};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// Under which key results of two runs are compared; another number where it is made of other things.
const FINGERPRINT: &str = "lambimg/v1";

/// Where a project's files are.
pub(crate) struct Sources {
    project: PathBuf,
    /// Where those of the function lie.
    source: PathBuf,
    /// What addresses in the report begin at.
    top: PathBuf,
}

impl Sources {
    /// Those of the project at `project`, the function's at `source`, told from the repository that it is in, or else from `here`.
    pub(crate) fn of(project: &Path, source: &Path, here: &Path) -> Self {
        let mut above = project.ancestors();
        let repository = above.find(|directory| directory.join(".git").exists());
        let here = Some(here).filter(|here| project.starts_with(here));
        let top = repository.or(here).unwrap_or(project);
        Self {
            project: project.to_owned(),
            source: source.to_owned(),
            top: top.to_owned(),
        }
    }

    /// The address of a file in the repository, if it is one.
    fn uri(&self, path: &Path) -> Option<String> {
        if !path.is_file() {
            return None;
        }
        let path = path.strip_prefix(&self.top).ok()?;
        Some(encoded(path.to_str()?))
    }

    /// The file that a path in the image was made of.
    fn of_path(&self, path: &str) -> Option<String> {
        let below = path.strip_prefix(TASK_ROOT)?.strip_prefix('/')?;
        self.uri(&self.source.join(below))
    }

    /// Where the project says what it is.
    fn settings(&self) -> Option<String> {
        let files = ["lambimg.toml", "pyproject.toml"];
        let paths = files.map(|file| self.project.join(file));
        paths.iter().find_map(|path| self.uri(path))
    }
}

/// The whole report.
pub(crate) fn report(checked: &Checked<'_>, sources: Option<&Sources>) -> String {
    let rules: Vec<_> = check::rules().collect();
    let mut seen = BTreeMap::new();
    let results: Vec<_> = checked
        .findings
        .iter()
        .map(|finding| {
            let index = rules.iter().position(|rule| rule.id == finding.rule.id);
            let (uri, line) = address(checked, finding, sources);
            let mut physical = json!({"artifactLocation": {"uri": uri}});
            if let Some(line) = line {
                physical["region"] = json!({"startLine": line});
            }
            let mut location = json!({"physicalLocation": physical});
            if let (Some(layer), Some(digest)) = (finding.layer, checked.layer_digest(finding)) {
                location["logicalLocations"] = json!([{
                    "name": format!("layer {}", layer + 1),
                    "fullyQualifiedName": digest,
                    "kind": "module",
                }]);
            }
            json!({
                "ruleId": finding.rule.id,
                "ruleIndex": index,
                "level": finding.level.to_string(),
                "message": {"text": format!("{}\n{}", in_words(finding), finding.remedy)},
                "locations": [location],
                "partialFingerprints": {FINGERPRINT: fingerprint(finding, &mut seen)},
            })
        })
        .collect();
    let driver = json!({
        "name": "lambimg",
        "version": env!("CARGO_PKG_VERSION"),
        "semanticVersion": env!("CARGO_PKG_VERSION"),
        "rules": rules.iter().map(|rule| descriptor(rule)).collect::<Vec<_>>(),
    });
    let value = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    });
    format!("{value:#}\n")
}

fn descriptor(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "name": name_of(rule.title),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": rule.level.to_string()},
    })
}

/// A title as one word: `ALayerHasNoHardLinks`.
fn name_of(title: &str) -> String {
    let words = title.split(|letter: char| !letter.is_ascii_alphanumeric());
    let capital = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    words.map(capital).collect()
}

/// Where a viewer is led, and to which line: to the project's file, else to the path in the image. What is of the
/// image as a whole leads to the project's settings, or has the image's own name.
fn address(
    checked: &Checked<'_>,
    finding: &Finding,
    sources: Option<&Sources>,
) -> (String, Option<u64>) {
    let Some(path) = &finding.path else {
        let settings = sources.and_then(Sources::settings);
        return (settings.unwrap_or_else(|| encoded(checked.name)), None);
    };
    match sources.and_then(|sources| sources.of_path(path)) {
        Some(uri) => (uri, line_of(&finding.message)),
        None => (encoded(path), None),
    }
}

/// The line that a message about a source file names, as `line 3`.
fn line_of(message: &str) -> Option<u64> {
    let (_, rest) = message.split_once("line ")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|line| *line > 0)
}

/// What stays the same while the finding does, whatever else of the image changes: no message, for it may count.
fn fingerprint(finding: &Finding, seen: &mut BTreeMap<Digest, u32>) -> String {
    let path = finding.path.as_deref().unwrap_or_default();
    let value = finding.value.as_deref().unwrap_or_default();
    let digest = Digest::of([finding.rule.id, path, value].join("\0"));
    let count = seen.entry(digest).or_default();
    *count += 1;
    format!("{}:{count}", digest.hex())
}

/// A path as a relative reference (RFC 3986).
fn encoded(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_titles_are_put_in_sarifs_way() {
        assert_eq!(encoded("var/täsk/a b:c%"), "var/t%C3%A4sk/a%20b%3Ac%25");
        assert_eq!(name_of("A layer's 2 links"), "ALayerS2Links");
        assert_eq!(line_of("`x` at line 12, column 3"), Some(12));
        assert_eq!(line_of("an outline of it"), None);
    }

    #[test]
    fn files_are_told_from_the_repository() {
        let temporary = tempfile::tempdir().unwrap();
        let top = temporary.path();
        let project = top.join("functions/one");
        std::fs::create_dir_all(&project).unwrap();
        std::fs::write(project.join("app.py"), "").unwrap();
        let of_path =
            |here: &Path| Sources::of(&project, &project, here).of_path("var/task/app.py");
        assert_eq!(of_path(top).unwrap(), "functions/one/app.py");
        assert_eq!(of_path(Path::new("/nowhere")).unwrap(), "app.py");
        std::fs::create_dir(top.join(".git")).unwrap();
        assert_eq!(
            of_path(Path::new("/nowhere")).unwrap(),
            "functions/one/app.py"
        );
        let sources = Sources::of(&project, &project, top);
        assert_eq!(sources.of_path("opt/app.py"), None);
        assert_eq!(sources.of_path("var/task/other.py"), None);
    }
}
