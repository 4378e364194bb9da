//! What the user told pip and uv of indexes, read for our own look-ups and downloads.
//!
//! The resolvers read their settings themselves; this is for what is asked without them. Each is read by its own
//! rules. uv: variables, then the project's `uv.toml` or `pyproject.toml`, the user's, the system's; lists of all
//! of them count, the nearest first. pip: variables, then files of which the last that says a thing counts, with
//! `[install]` before `[global]`. Where both are set, uv's index is taken, and lists are uv's, then pip's; an
//! index that one of them asks is better asked once too often, for what it lists is proven by the lock. Which
//! variables and files there are is the caller's to say: nothing of this machine is read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::http::{Secret, Url};
use crate::python::credentials::Credentials;
use crate::python::index::Indexes;
use crate::python::lock::Location;
use crate::python::netrc::Netrc;

/// What the caller found.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// All variables, or at least those of pip and uv and those that requirements may name as `${NAME}`.
    pub variables: BTreeMap<String, Secret>,
    /// The directory that relative paths in variables and in pip's files start from.
    pub directory: PathBuf,
    /// pip's files, a later one before an earlier one.
    pub pip: Vec<ConfigFile>,
    /// uv's files, an earlier one before a later one. Of a `pyproject.toml` only `[tool.uv]` is read.
    pub uv: Vec<ConfigFile>,
    /// The text of `.netrc`.
    pub netrc: Option<String>,
    /// The program keyring.
    pub keyring: Option<PathBuf>,
}

/// A file of settings; it may hold secrets.
#[derive(Clone)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl std::fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

/// What was said of indexes.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The places to look in.
    pub indexes: Indexes,
    /// Who the user is for them.
    pub credentials: Credentials,
    /// Certificates that pip is to trust, and what says so.
    pub certificates: Option<(PathBuf, String)>,
    /// Variables that tell uv of the indexes, where only pip was told of any: it would ask everyone's.
    pub for_uv: Vec<(&'static str, Secret)>,
}

/// Why settings cannot be read. Values are not told, for they may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An index has no address.
    #[error("{from} is no URL")]
    Url {
        /// What says so.
        from: String,
    },
    /// A file of uv is no TOML.
    #[error("cannot read `{}`: it is no TOML at line {line}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

/// Reads them.
///
/// # Errors
/// See [`Error`].
pub fn read(surroundings: &Surroundings) -> Result<Settings, Error> {
    let mut named = Named::default();
    let uv = uv(surroundings, &mut named)?;
    let pip = pip(surroundings)?;
    let mut credentials = Credentials::default();
    named.add_to(&mut credentials, surroundings);
    for said in [&uv, &pip] {
        let urls = said.index.iter().chain(&said.extra).chain(&said.explicit);
        let links = said.find_links.iter().filter_map(|place| match place {
            Location::Url(url) => Some(url),
            Location::Path(_) => None,
        });
        urls.chain(links).for_each(|url| credentials.add_url(url));
    }
    credentials.set_netrc(Netrc::parse(surroundings.netrc.as_deref().unwrap_or("")));
    if let Some(program) = &surroundings.keyring
        && (uv.keyring || pip.keyring)
    {
        credentials.set_keyring(program.clone());
    }
    credentials.set_variables(surroundings.variables.clone());
    let for_uv = for_uv(&uv, &pip);
    let no_index = uv.no_index;
    let no_index = no_index.unwrap_or(uv.index.is_none() && pip.no_index == Some(true));
    let mut indexes = Indexes {
        index: uv.index.or(pip.index),
        extra: uv.extra.into_iter().chain(pip.extra).collect(),
        find_links: uv.find_links.into_iter().chain(pip.find_links).collect(),
        no_index,
    };
    indexes.remove_secrets();
    Ok(Settings {
        indexes,
        credentials,
        certificates: pip.certificates,
        for_uv,
    })
}

fn for_uv(uv: &Said, pip: &Said) -> Vec<(&'static str, Secret)> {
    if uv.index.is_some() || !uv.extra.is_empty() || !uv.explicit.is_empty() {
        return Vec::new();
    }
    let default = pip.index.as_ref();
    let default = default.map(|url| ("UV_DEFAULT_INDEX", Secret::new(url.as_str())));
    let extra: Vec<_> = pip.extra.iter().map(Url::as_str).collect();
    let extra = (!extra.is_empty()).then(|| ("UV_EXTRA_INDEX_URL", Secret::new(extra.join(" "))));
    default.into_iter().chain(extra).collect()
}

/// What one of the two tools was told.
#[derive(Default)]
struct Said {
    index: Option<Url>,
    extra: Vec<Url>,
    /// Indexes that are asked for nothing by themselves.
    explicit: Vec<Url>,
    find_links: Vec<Location>,
    no_index: Option<bool>,
    keyring: bool,
    certificates: Option<(PathBuf, String)>,
}

impl Surroundings {
    fn variable(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name).map(Secret::reveal);
        value.map(str::trim).filter(|value| !value.is_empty())
    }
}

/// The URL of an index, which may be written as a path.
fn url(text: &str, directory: &Path, from: &str) -> Result<Url, Error> {
    let parsed = if text.contains("://") {
        text.parse().ok()
    } else {
        Url::from_directory_path(directory.join(text)).ok()
    };
    parsed.ok_or_else(|| Error::Url {
        from: from.to_owned(),
    })
}

fn place(text: &str, directory: &Path, from: &str) -> Result<Location, Error> {
    if text.contains("://") {
        Ok(Location::Url(url(text, directory, from)?))
    } else {
        Ok(Location::Path(directory.join(text)))
    }
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Some(true),
        "0" | "false" | "no" | "off" | "n" | "f" => Some(false),
        _ => None,
    }
}

// --- pip ----------------------------------------------------------------------------------------

fn pip(surroundings: &Surroundings) -> Result<Said, Error> {
    let files: Vec<_> = surroundings
        .pip
        .iter()
        .map(|file| (file, ini(&file.text)))
        .collect();
    // The value of an option, and what says so.
    let option = |name: &str| -> Option<(String, String)> {
        let variable = format!("PIP_{}", name.replace('-', "_").to_ascii_uppercase());
        if let Some(value) = surroundings.variable(&variable) {
            return Some((value.to_owned(), format!("`{variable}`")));
        }
        let key = |section: &str| (section.to_owned(), name.to_owned());
        ["install", "global"].into_iter().find_map(|section| {
            let mut files = files.iter().rev();
            files.find_map(|(file, values)| {
                let value = values.get(&key(section))?;
                let from = format!("`{name}` of [{section}] in `{}`", file.path.display());
                Some((value.clone(), from))
            })
        })
    };
    let directory = &surroundings.directory;
    let mut said = Said::default();
    if let Some((value, from)) = option("index-url") {
        said.index = Some(url(&value, directory, &from)?);
    }
    if let Some((value, from)) = option("extra-index-url") {
        for value in value.split_whitespace() {
            said.extra.push(url(value, directory, &from)?);
        }
    }
    if let Some((value, from)) = option("find-links") {
        for value in value.split_whitespace() {
            said.find_links.push(place(value, directory, &from)?);
        }
    }
    said.no_index = option("no-index").and_then(|(value, _)| switch(&value));
    said.keyring = option("keyring-provider").is_some_and(|(value, _)| value == "subprocess");
    said.certificates = option("cert").map(|(value, from)| (directory.join(value), from));
    Ok(said)
}

/// The values of a file of pip by section and name, as Python's `configparser` reads them.
fn ini(text: &str) -> BTreeMap<(String, String), String> {
    let mut values: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut section = String::new();
    let mut open: Option<(String, String)> = None;
    for line in text.trim_start_matches('\u{feff}').lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with(char::is_whitespace)
            && let Some(value) = open.as_ref().and_then(|key| values.get_mut(key))
        {
            value.push('\n');
            value.push_str(trimmed);
        } else if let Some(name) = trimmed.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            open = None;
        } else if let Some((name, value)) = trimmed.split_once(['=', ':']) {
            let name = name.trim().to_ascii_lowercase().replace('_', "-");
            let name = name.trim_start_matches("--").to_owned();
            let key = (section.clone(), name);
            values.insert(key.clone(), value.trim().to_owned());
            open = Some(key);
        }
    }
    let values = values.into_iter();
    let values = values.map(|(key, value)| (key, value.trim().to_owned()));
    values.filter(|(_, value)| !value.is_empty()).collect()
}

// --- uv -----------------------------------------------------------------------------------------

/// uv's indexes that have names.
#[derive(Default)]
struct Named(Vec<(String, Url)>);

impl Named {
    /// `UV_INDEX_NAME_USERNAME` and `UV_INDEX_NAME_PASSWORD` of each.
    fn add_to(&self, credentials: &mut Credentials, surroundings: &Surroundings) {
        for (name, url) in &self.0 {
            let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            let name: String = name.to_ascii_uppercase().chars().map(letter).collect();
            let of = |what: &str| {
                let variable = surroundings.variable(&format!("UV_INDEX_{name}_{what}"));
                variable.map(Secret::new)
            };
            let (user, password) = (of("USERNAME"), of("PASSWORD"));
            if user.is_some() || password.is_some() {
                credentials.add_pair(url, user, password);
            }
        }
    }

    /// Reads an index as uv's options and variables have it: a URL, maybe with a name before it.
    fn index(&mut self, text: &str, directory: &Path, from: &str) -> Result<Url, Error> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let named = text.split_once('=');
        let named = named.filter(|(name, _)| !name.is_empty() && name.chars().all(is_name));
        let url = url(named.map_or(text, |(_, url)| url), directory, from)?;
        if let Some((name, _)) = named {
            self.0.push((name.to_owned(), url.clone()));
        }
        Ok(url)
    }
}

fn uv(surroundings: &Surroundings, named: &mut Named) -> Result<Said, Error> {
    let directory = &surroundings.directory;
    let mut said = Said::default();
    for name in ["UV_DEFAULT_INDEX", "UV_INDEX_URL"] {
        if let Some(value) = surroundings.variable(name) {
            let url = named.index(value, directory, &format!("`{name}`"))?;
            said.index.get_or_insert(url);
        }
    }
    for name in ["UV_INDEX", "UV_EXTRA_INDEX_URL"] {
        let value = surroundings.variable(name).unwrap_or_default();
        for value in value.split_whitespace() {
            let url = named.index(value, directory, &format!("`{name}`"))?;
            said.extra.push(url);
        }
    }
    let links = surroundings.variable("UV_FIND_LINKS").unwrap_or_default();
    for value in links.split(',').map(str::trim).filter(|v| !v.is_empty()) {
        let place = place(value, directory, "`UV_FIND_LINKS`")?;
        said.find_links.push(place);
    }
    said.no_index = surroundings.variable("UV_NO_INDEX").and_then(switch);
    let mut keyring = surroundings.variable("UV_KEYRING_PROVIDER");
    let tables = surroundings.uv.iter().map(table);
    let tables = tables.collect::<Result<Vec<_>, _>>()?;
    for (file, table) in surroundings.uv.iter().zip(&tables) {
        let pip = table.get("pip").and_then(Value::as_table);
        for table in [pip, Some(table)].into_iter().flatten() {
            said.read_uv(table, &file.path, named)?;
            keyring = keyring.or_else(|| table.get("keyring-provider")?.as_str());
        }
    }
    said.keyring = keyring == Some("subprocess");
    Ok(said)
}

fn table(file: &ConfigFile) -> Result<Table, Error> {
    let table: Table = file.text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| file.text.get(..span.start));
        Error::Toml {
            path: file.path.clone(),
            line: before.unwrap_or_default().matches('\n').count() + 1,
        }
    })?;
    if file.path.file_name() != Some("pyproject.toml".as_ref()) {
        return Ok(table);
    }
    let own = table.get("tool").and_then(|tool| tool.get("uv"));
    Ok(own.and_then(Value::as_table).cloned().unwrap_or_default())
}

impl Said {
    /// Adds what a table of uv says to what those before it did.
    fn read_uv(&mut self, table: &Table, path: &Path, named: &mut Named) -> Result<(), Error> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let from = |key: &str| format!("`{key}` in `{}`", path.display());
        let texts = |key: &str| {
            let values = table.get(key).and_then(Value::as_array);
            let values = values.into_iter().flatten();
            values.filter_map(Value::as_str).map(str::to_owned)
        };
        let indexes = table.get("index").and_then(Value::as_array);
        for index in indexes.into_iter().flatten() {
            self.read_uv_index(index, directory, &from("index"), named)?;
        }
        if let Some(text) = table.get("index-url").and_then(Value::as_str) {
            let url = url(text, directory, &from("index-url"))?;
            self.index.get_or_insert(url);
        }
        for text in texts("extra-index-url") {
            self.extra
                .push(url(&text, directory, &from("extra-index-url"))?);
        }
        for text in texts("find-links") {
            let place = place(&text, directory, &from("find-links"))?;
            self.find_links.push(place);
        }
        let no_index = table.get("no-index").and_then(Value::as_bool);
        self.no_index = self.no_index.or(no_index);
        Ok(())
    }

    /// Adds one of the tables `[[index]]`.
    fn read_uv_index(
        &mut self,
        index: &Value,
        directory: &Path,
        from: &str,
        named: &mut Named,
    ) -> Result<(), Error> {
        let Some(text) = index.get("url").and_then(Value::as_str) else {
            return Ok(());
        };
        let is = |key: &str| index.get(key).and_then(Value::as_bool) == Some(true);
        let url = url(text, directory, from)?;
        if let Some(name) = index.get("name").and_then(Value::as_str) {
            named.0.push((name.to_owned(), url.clone()));
        }
        if is("explicit") {
            self.explicit.push(url);
        } else if index.get("format").and_then(Value::as_str) == Some("flat") {
            self.find_links.push(Location::Url(url));
        } else if is("default") {
            self.index.get_or_insert(url);
        } else {
            self.extra.push(url);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
        let variable = |(name, value): &(&str, &str)| (String::from(*name), Secret::new(*value));
        Surroundings {
            variables: variables.iter().map(variable).collect(),
            directory: "/project".into(),
            ..Surroundings::default()
        }
    }

    fn file(path: &str, text: &str) -> ConfigFile {
        ConfigFile {
            path: path.into(),
            text: text.to_owned(),
        }
    }

    fn rendering(indexes: &Indexes) -> String {
        let links = indexes.find_links.iter().map(|place| match place {
            Location::Url(url) => url.to_string(),
            Location::Path(path) => path.display().to_string(),
        });
        let extra = indexes.extra.iter().map(Url::to_string);
        format!(
            "index: {}\nextra: {}\nlinks: {}\nnone: {}",
            indexes.index.as_ref().map_or("-", Url::as_str),
            extra.collect::<Vec<_>>().join(" "),
            links.collect::<Vec<_>>().join(" "),
            indexes.no_index
        )
    }

    fn of(surroundings: &Surroundings) -> String {
        rendering(&read(surroundings).unwrap().indexes)
    }

    #[test]
    fn pip_is_read_from_variables_and_files() {
        let mut given = surroundings(&[]);
        assert_eq!(rendering(&Indexes::default()), of(&given));
        given.pip = vec![
            file(
                "/etc/pip.conf",
                "[global]\nindex-url = https://a.test/simple\ncert=/ca.pem\nno-index: yes\n",
            ),
            file(
                "/home/pip.conf",
                "# a comment\n[install]\nextra_index_url =\n    https://b.test/simple\n\n    ; another\n    \
                 https://c.test/simple\n[global]\nINDEX-URL=https://d.test/simple\nfind-links = wheels\n",
            ),
        ];
        insta::assert_snapshot!(of(&given), @r"
        index: https://d.test/simple
        extra: https://b.test/simple https://c.test/simple
        links: /project/wheels
        none: true
        ");
        let certificates = read(&given).unwrap().certificates;
        let from = "`cert` of [global] in `/etc/pip.conf`".to_owned();
        assert_eq!(certificates, Some(("/ca.pem".into(), from)));
        // The section of the command goes before the file that is read later.
        given.pip[0].text = "[install]\nindex-url = https://e.test/simple".to_owned();
        assert!(of(&given).contains("index: https://e.test/simple"));

        given.variables = surroundings(&[
            ("PIP_INDEX_URL", "local"),
            ("PIP_EXTRA_INDEX_URL", "https://f.test/x https://g.test/y"),
            ("PIP_FIND_LINKS", "https://h.test/files.html /opt/wheels"),
            ("PIP_NO_INDEX", "0"),
        ])
        .variables;
        insta::assert_snapshot!(of(&given), @r"
        index: file:///project/local/
        extra: https://f.test/x https://g.test/y
        links: https://h.test/files.html /opt/wheels
        none: false
        ");
    }

    #[test]
    fn uv_is_read_from_variables_and_files() {
        let mut given = surroundings(&[]);
        given.uv = vec![
            file(
                "/project/pyproject.toml",
                "[project]\nname = 'x'\n[[tool.uv.index]]\nname = 'Pri.vate'\nurl = 'https://a.test/simple'\n\
                 [[tool.uv.index]]\nurl = 'https://b.test/simple'\ndefault = true\n\
                 [[tool.uv.index]]\nname = 'torch'\nurl = 'https://c.test/simple'\nexplicit = true\n\
                 [[tool.uv.index]]\nurl = './flat'\nformat = 'flat'\n[tool.uv]\nfind-links = ['wheels']\n",
            ),
            file(
                "/home/uv.toml",
                "index-url = 'https://d.test/simple'\nkeyring-provider = 'subprocess'\n\
                 [pip]\nextra-index-url = ['https://e.test/simple']\n",
            ),
        ];
        insta::assert_snapshot!(of(&given), @r"
        index: https://b.test/simple
        extra: https://a.test/simple https://e.test/simple
        links: file:///project/flat/ /project/wheels
        none: false
        ");
        given.variables = surroundings(&[
            ("UV_DEFAULT_INDEX", "main=https://f.test/simple"),
            ("UV_INDEX_URL", "https://old.test/simple"),
            (
                "UV_INDEX",
                "other=https://g.test/simple https://h.test/?a=b",
            ),
            ("UV_EXTRA_INDEX_URL", "https://i.test/simple"),
            ("UV_FIND_LINKS", "links, https://j.test/"),
            ("PIP_INDEX_URL", "https://pip.test/simple"),
            (
                "PIP_EXTRA_INDEX_URL",
                "https://g.test/simple https://k.test/simple",
            ),
            ("PIP_NO_INDEX", "1"),
        ])
        .variables;
        insta::assert_snapshot!(of(&given), @r"
        index: https://f.test/simple
        extra: https://g.test/simple https://h.test/?a=b https://i.test/simple https://a.test/simple https://e.test/simple https://k.test/simple
        links: /project/links https://j.test/ file:///project/flat/ /project/wheels
        none: false
        ");
    }

    #[tokio::test]
    async fn credentials_come_from_all_of_it() {
        let mut given = surroundings(&[
            (
                "UV_DEFAULT_INDEX",
                "main=https://ignored:too@main.test/simple",
            ),
            ("UV_INDEX_MAIN_USERNAME", "named"),
            ("UV_INDEX_MAIN_PASSWORD", "a"),
            ("UV_INDEX_PRI_VATE_PASSWORD", "b"),
            ("PIP_EXTRA_INDEX_URL", "https://pip:c@pip.test/simple"),
            ("UV_FIND_LINKS", "https://links:d@links.test/"),
        ]);
        given.uv = vec![file(
            "/project/uv.toml",
            "[[index]]\nname = 'pri-vate'\nurl = 'https://someone@private.test/simple'\nexplicit = true\n\
             [[index]]\nurl = 'https://exp:e@explicit.test/simple'\nexplicit = true\n",
        )];
        given.netrc = Some("machine netrc.test login net password f".to_owned());
        let settings = read(&given).unwrap();
        assert!(!format!("{settings:?} {given:?}").contains("\"c\""));
        let client = crate::http::Client::new(crate::http::Settings::default());
        for (host, expected) in [
            ("main.test", "bmFtZWQ6YQ=="),
            ("private.test", "c29tZW9uZTpi"),
            ("pip.test", "cGlwOmM="),
            ("links.test", "bGlua3M6ZA=="),
            ("explicit.test", "ZXhwOmU="),
            ("netrc.test", "bmV0OmY="),
        ] {
            let url = format!("https://{host}/demo.whl").parse().unwrap();
            let header = settings.credentials.authorization(&url, &client).await;
            let header = header.map(|header| header.reveal().to_owned());
            assert_eq!(header, Some(format!("Basic {expected}")), "{host}");
        }
    }

    #[test]
    fn mistakes_are_named_without_their_values() {
        let bad = surroundings(&[("UV_INDEX", "https://me:secret@[/simple")]);
        insta::assert_snapshot!(read(&bad).unwrap_err(), @"`UV_INDEX` is no URL");
        let mut bad = surroundings(&[]);
        bad.pip = vec![file(
            "/etc/pip.conf",
            "[global]\nindex-url = https://:secret:@/",
        )];
        insta::assert_snapshot!(read(&bad).unwrap_err(), @"`index-url` of [global] in `/etc/pip.conf` is no URL");
        let mut bad = surroundings(&[]);
        bad.uv = vec![file("/etc/uv/uv.toml", "\nindex-url = secret")];
        insta::assert_snapshot!(read(&bad).unwrap_err(), @"cannot read `/etc/uv/uv.toml`: it is no TOML at line 2");
    }

    proptest! {
        #[test]
        fn any_text_of_pip_is_read(text in "([\\[\\]=:; #\n\ta-]|index-url|\\[global\\]){0,40}") {
            let mut given = surroundings(&[]);
            given.pip = vec![file("/pip.conf", &text)];
            let _ = read(&given);
        }
    }
}
