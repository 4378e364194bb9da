//! A function's variables as flags and files give them, in docker's format.
//!
//! `NAME=VALUE`, or `NAME` alone, which takes the user's own value: so credentials come in only where they are named.
//! What Lambda would not take for a function's configuration is refused, but for what it gives to a function by
//! itself and nobody else gives here: credentials, and the region.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use lambimg::lambda::function::{MAX_VARIABLES, RESERVED};
use serde_json::json;

use crate::failure::Failure;
use crate::surroundings;

/// A region's names.
pub(crate) const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// Reserved on Lambda, where a function has them of its role.
const CREDENTIALS: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

/// What the function is given.
pub(crate) struct Given {
    /// Its variables.
    pub(crate) variables: BTreeMap<String, String>,
    /// Its region, where a variable names it.
    pub(crate) region: Option<String>,
}

#[derive(Args)]
pub(crate) struct VariableArguments {
    /// Set a variable, or take the value it has here (repeatable)
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    set: Vec<String>,

    /// Set the variables in a file, as docker reads it: NAME=VALUE a line; those of `--env` win (repeatable)
    #[arg(long = "env-file", value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Without the variables, whose values may be secrets.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Without the variables as well.
impl fmt::Debug for VariableArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VariableArguments")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl VariableArguments {
    /// The variables that a function may have, with their values.
    pub(crate) fn read(&self) -> Result<Given, Failure> {
        let mut variables = self.named()?;
        let regions = REGIONS.map(|name| variables.remove(name));
        let region = regions.into_iter().flatten().find(|name| !name.is_empty());
        let mut own = variables.clone();
        own.retain(|name, _| !CREDENTIALS.contains(&name.as_str()));
        if let Some(name) = own.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(Failure::variable_is_reserved(name));
        }
        if let Some(name) = own.keys().find(|name| !is_name(name)) {
            return Err(Failure::no_variable_name(name));
        }
        let size = json!(own).to_string().len();
        if size > MAX_VARIABLES {
            return Err(Failure::variables_too_large(size));
        }
        Ok(Given { variables, region })
    }

    /// The variables with their values.
    fn named(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut variables = BTreeMap::new();
        for path in &self.files {
            let text =
                fs::read(path).map_err(|error| Failure::no_variables(path, &error.to_string()))?;
            let text = String::from_utf8(text);
            let text = text.map_err(|_| Failure::no_variables(path, "it is not UTF-8"))?;
            for (number, line) in lines(&text) {
                let (name, value) = split(line)
                    .map_err(|why| Failure::no_variables(path, &format!("line {number}: {why}")))?;
                // One that is not set here is not set there, as with docker.
                if let Some(value) =
                    value.map_or_else(|| surroundings::variable(name), |v| Ok(Some(v)))?
                {
                    variables.insert(name.to_owned(), value);
                }
            }
        }
        for text in &self.set {
            let (name, value) = split(text).map_err(|why| Failure::no_variable(text, why))?;
            let value = match value {
                Some(value) => value,
                None => {
                    surroundings::variable(name)?.ok_or_else(|| Failure::variable_not_set(name))?
                }
            };
            variables.insert(name.to_owned(), value);
        }
        Ok(variables)
    }
}

/// Whether Lambda takes a variable of this name: `[a-zA-Z]([a-zA-Z0-9_])+`.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.len() > 0
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The lines that say something, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // Some editors mark a text as UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate();
    let lines = lines.map(|(number, line)| (number + 1, line.trim_start()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A name, and the value if one is written, which is all behind the first `=`.
fn split(text: &str) -> Result<(&str, Option<String>), &'static str> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text.trim_end(), None),
    };
    if name.is_empty() {
        return Err("there is no name before the `=`");
    }
    if name.contains(char::is_whitespace) {
        return Err("the name has white space in it");
    }
    if text.contains('\0') {
        return Err("it has a NUL in it");
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_docker_reads_them() {
        let text = "\u{feff}# a comment\n\n  A=1 \nB=a=b # all of it\r\nC=\nD='quoted'\nHOME\n";
        let found: Vec<_> = lines(text)
            .map(|(number, line)| (number, split(line).unwrap()))
            .collect();
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                (3, ("A", value("1 "))),
                (4, ("B", value("a=b # all of it"))),
                (5, ("C", value(""))),
                (6, ("D", value("'quoted'"))),
                (7, ("HOME", None)),
            ]
        );
    }

    #[test]
    fn values_are_not_shown() {
        let arguments = VariableArguments {
            set: vec!["A=secret".to_owned()],
            files: vec!["variables".into()],
        };
        let shown = format!("{arguments:?}");
        assert!(
            shown.contains("variables") && !shown.contains("secret"),
            "{shown}"
        );
    }

    #[test]
    fn what_is_no_variable_is_told() {
        let told = |text: &str| split(text).unwrap_err();
        insta::assert_snapshot!(told("=x"), @"there is no name before the `=`");
        insta::assert_snapshot!(told("export A=1"), @"the name has white space in it");
        insta::assert_snapshot!(told("A=\0"), @"it has a NUL in it");
    }

    #[test]
    fn flags_win_over_files_and_take_what_is_set_here() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("variables");
        fs::write(
            &file,
            "OF_BOTH=file\nOF_FILE=file\nLAMBIMG_TEST_NOT_SET\nPATH\n",
        )
        .unwrap();
        let arguments = VariableArguments {
            set: vec!["OF_BOTH=flag".to_owned(), "HOME=".to_owned()],
            files: vec![file.clone()],
        };
        let read = arguments.read().unwrap().variables;
        let names: Vec<_> = read.keys().map(String::as_str).collect();
        assert_eq!(names, ["HOME", "OF_BOTH", "OF_FILE", "PATH"]);
        assert_eq!(
            (&*read["OF_BOTH"], &*read["OF_FILE"], &*read["HOME"]),
            ("flag", "file", "")
        );
        assert_eq!(read["PATH"], std::env::var("PATH").unwrap());
        let unset = VariableArguments {
            set: vec!["LAMBIMG_TEST_NOT_SET".to_owned()],
            files: Vec::new(),
        };
        insta::assert_snapshot!(unset.read().unwrap_err().message, @"`--env LAMBIMG_TEST_NOT_SET` names a variable that is not set here");
        fs::write(&file, "A=1\nB 2=x\n").unwrap();
        let refused = arguments.read().unwrap_err().message;
        let refused = refused.replace(&*file.to_string_lossy(), "FILE");
        insta::assert_snapshot!(refused, @"cannot take the variables in `FILE`: line 2: the name has white space in it");
    }

    #[test]
    fn what_lambda_would_not_take_is_refused() {
        let read = |set: &[&str]| {
            let set = set.iter().map(|text| (*text).to_owned()).collect();
            let files = Vec::new();
            VariableArguments { set, files }.read()
        };
        for name in RESERVED {
            let is_given = REGIONS.contains(&name) || CREDENTIALS.contains(&name);
            assert_eq!(read(&[&format!("{name}=x")]).is_ok(), is_given, "{name}");
        }
        let refused = read(&["AWS_LAMBDA_FUNCTION_NAME=secret"]).unwrap_err();
        insta::assert_snapshot!(refused.message, @"`AWS_LAMBDA_FUNCTION_NAME` is a variable that Lambda reserves");
        for name in ["1A", "A-B", "A.B", "_A", "A", "ÄB", "A\u{1b}"] {
            let refused = read(&[&format!("{name}=secret")]).unwrap_err().message;
            assert!(
                refused.starts_with(&format!("`{name}` is no name")),
                "{refused}"
            );
        }
        assert!(read(&["AB=", "a1=", "A_=", "a__B2="]).is_ok());
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "GOOD=1\n1A=secret\n").unwrap();
        let arguments = VariableArguments {
            set: Vec::new(),
            files: vec![file.path().to_owned()],
        };
        insta::assert_snapshot!(arguments.read().unwrap_err().message, @"`1A` is no name that Lambda takes for a variable: `[a-zA-Z]([a-zA-Z0-9_])+`");
        let given = read(&["AWS_DEFAULT_REGION=a", "AWS_REGION=b", "TZ=c"]).unwrap();
        assert_eq!(given.region.as_deref(), Some("b"));
        assert_eq!(
            given.variables.len(),
            1,
            "the region has a place of its own"
        );
        assert_eq!(read(&["AWS_REGION="]).unwrap().region, None);
        // As Lambda measures: with names, quotes and all, and without credentials.
        let most = format!("AB={}", "x".repeat(MAX_VARIABLES - r#"{"AB":""}"#.len()));
        let credentials = format!("AWS_SESSION_TOKEN={}", "x".repeat(2000));
        assert!(read(&[&most, &credentials]).is_ok());
        let refused = read(&[&format!("{most}x")]).unwrap_err();
        insta::assert_snapshot!(refused.message, @"the function's variables have 4097 bytes as JSON, and Lambda takes 4096");
    }
}
