//! The functions of a project that has several: a table each, `functions.NAME`, of what is said of it alone.
//!
//! What a function does not say the project does. As strict as all else there; what a value means is not known.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Error, KEYS, Place, Project, Setting, nearest_of, texts};
use crate::oci::reference::Name;

/// The key of the table that has a table for each function.
pub(super) const TABLE: &str = "functions";
/// What a function's names are called in its table.
const IMAGE: &str = "image";
/// As many letters as Lambda lets a function's name have.
const LONGEST_NAME: usize = 64;

/// What is said of a project and not of one function.
const PROJECT_ALONE: [&str; 9] = [
    "resolver",
    "cache-from",
    "tags",
    "plain-http",
    "mirrors",
    "ca-file",
    "immutable-tags",
    "create-repository",
    "repository",
];

/// Functions by their names.
pub type Functions = BTreeMap<String, Function>;

/// One of a project's functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Where its table begins.
    pub place: Place,
    /// What is said of it alone.
    pub config: Config,
}

/// The function of several that a project is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// What is said of it alone.
    pub own: Config,
    /// What is said of all.
    pub shared: Config,
}

impl Project {
    /// The same project, taken for one of its functions.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Self> {
        let own = self.config.functions.get(name)?.config.clone();
        let shared = self.config.clone();
        Some(Self {
            config: own.clone().or(shared.clone()),
            function: Some(Chosen {
                name: name.to_owned(),
                own,
                shared,
            }),
            ..self.clone()
        })
    }
}

/// Reads the tables of all functions.
pub(super) fn read(
    value: &Spanned<DeValue<'_>>,
    place_of: &impl Fn(Range<usize>) -> Place,
) -> Result<Functions, Error> {
    let tables = table(TABLE, value, place_of)?;
    let mut functions = Functions::new();
    for (key, value) in tables {
        let name = key.get_ref().as_ref();
        let place = place_of(key.span());
        if !is_name(name) {
            return Err(Error::FunctionName {
                name: name.to_owned(),
                place,
            });
        }
        let lower = name.to_lowercase();
        if let Some(other) = functions.keys().find(|other| other.to_lowercase() == lower) {
            return Err(Error::SameFunction {
                names: [other.clone(), name.to_owned()],
                place,
            });
        }
        let below = table(&format!("{TABLE}.{name}"), value, place_of)?;
        let config = function(below, place_of)?;
        functions.insert(name.to_owned(), Function { place, config });
    }
    Ok(functions)
}

fn table<'a, 'text>(
    name: &str,
    value: &'a Spanned<DeValue<'text>>,
    place_of: &impl Fn(Range<usize>) -> Place,
) -> Result<&'a DeTable<'text>, Error> {
    value.get_ref().as_table().ok_or_else(|| Error::Kind {
        key: name.to_owned(),
        place: place_of(value.span()),
        wanted: "a table",
    })
}

/// Whether a function of Lambda's may be called so, and with small letters a part of an image's name. No lock's name
/// has a dot in its middle.
fn is_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let of_image: Option<Name> = format!("project/{}", name.to_lowercase()).parse().ok();
    name.bytes().all(letters) && name.len() <= LONGEST_NAME && of_image.is_some()
}

/// Reads one function's table.
fn function(
    table: &DeTable<'_>,
    place_of: &impl Fn(Range<usize>) -> Place,
) -> Result<Config, Error> {
    let mut config = Config::default();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let place = || place_of(key.span());
        if name == IMAGE {
            let one = value.get_ref().as_str().map(|text| vec![text.to_owned()]);
            let names = one.or_else(|| texts(value)).ok_or_else(|| Error::Kind {
                key: name.to_owned(),
                place: place(),
                wanted: "text in quotes or a list of texts",
            })?;
            config.tags = Some(Setting {
                value: names,
                place: place(),
            });
            continue;
        }
        if PROJECT_ALONE.contains(&name) {
            return Err(Error::ProjectAlone {
                key: name.to_owned(),
                place: place(),
            });
        }
        match config.read(key, value, place_of) {
            Err(Error::UnknownKey { key, place, .. }) if key == name => {
                return Err(Error::UnknownKey {
                    nearest: nearest_of(name, known()),
                    key,
                    place,
                });
            }
            result => result?,
        }
    }
    Ok(config)
}

/// The keys that a function's table may have.
fn known() -> impl Iterator<Item = &'static str> {
    let is_alone = |key: &str| PROJECT_ALONE.contains(&key.split('.').next().unwrap_or(key));
    let own = KEYS.into_iter().filter(move |key| !is_alone(key));
    own.chain([IMAGE])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn read(text: &str) -> Result<Config, Error> {
        Ok(Config::from_toml(text, "lambimg.toml")?.unwrap_or_default())
    }

    fn told(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn what_a_function_does_not_say_the_project_does() {
        let config = read(
            "python = '3.12'\ngroups = ['all']\ntags = ['shop-{function}']\nexclude = ['*.md']\n\
             files = [{ from = 'a', to = '/a' }]\nenv = { A = '1', B = '2' }\n\
             [functions.Orders]\nhandler = 'app.orders'\nsource = 'orders'\ngroups = ['orders']\n\
             exclude = ['*.txt']\nenv = { B = '3' }\nfiles = [{ from = 'b', to = '/b' }]\n\
             [functions.Orders.check]\nstrict = true\n\
             [functions.pay_all]\nhandler = 'app.pay'\nimage = 'pay:1'\n\
             [functions.c]\nimage = ['c:1', 'c:2']\n",
        );
        let project = Project {
            root: PathBuf::from("/src"),
            config: config.unwrap(),
            ..Project::default()
        };
        let names: Vec<_> = project.config.functions.keys().collect();
        assert_eq!(names, ["Orders", "c", "pay_all"]);
        let place = &project.config.functions["Orders"].place;
        assert_eq!(place.to_string(), "`lambimg.toml` line 7");
        let orders = project.function("Orders").unwrap();
        let chosen = orders.function.as_ref().unwrap();
        assert_eq!(chosen.name, "Orders");
        assert_eq!(chosen.own.python, None);
        let config = &orders.config;
        assert_eq!(config.python.as_ref().unwrap().value, "3.12");
        assert_eq!(config.groups.as_ref().unwrap().value, ["orders"]);
        assert_eq!(config.exclude.as_ref().unwrap().value, ["*.md", "*.txt"]);
        assert_eq!(
            (&*config.env["A"].value, &*config.env["B"].value),
            ("1", "3")
        );
        assert_eq!(config.files.len(), 2);
        assert_eq!(config.check.strict.as_ref().unwrap().value, "true");
        assert_eq!(config.tags.as_ref().unwrap().value, ["shop-{function}"]);
        let tags = |name: &str| project.function(name).unwrap().config.tags.unwrap().value;
        assert_eq!(tags("pay_all"), ["pay:1"]);
        assert_eq!(tags("c"), ["c:1", "c:2"]);
        assert_eq!(project.function("orders"), None);
    }

    #[test]
    fn mistakes_are_placed() {
        insta::assert_snapshot!(told("functions = 1"), @"`functions` in `lambimg.toml` line 1 must be a table");
        insta::assert_snapshot!(told("[functions]\na = 1"), @"`functions.a` in `lambimg.toml` line 2 must be a table");
        insta::assert_snapshot!(told("[functions.a]\n\nhandel = 'a.b'"), @"unknown key `handel` in `lambimg.toml` line 3");
        let nearest = |text: &str| match read(text).unwrap_err() {
            Error::UnknownKey { nearest, .. } => nearest,
            other => panic!("{other}"),
        };
        assert_eq!(nearest("[functions.a]\nimages = 'a'"), Some("image"));
        assert_eq!(nearest("[functions.a]\nplain-htt = []"), None);
        assert_eq!(nearest("[function.a]\nhandler = 'a.b'"), Some("functions"));
        assert_eq!(nearest("[functions.a]\n[functions.a.functions.b]\n"), None);
        insta::assert_snapshot!(told("[functions.a]\nimage = 1"), @"`image` in `lambimg.toml` line 2 must be text in quotes or a list of texts");
        insta::assert_snapshot!(told("[functions.a]\nfiles = [{ form = 'a' }]"), @"unknown key `files.form` in `lambimg.toml` line 2");
        insta::assert_snapshot!(told("[functions.a.check]\nstrit = true"), @"unknown key `check.strit` in `lambimg.toml` line 2");
        insta::assert_snapshot!(told("[functions.a]\nhandler = 'a.b'\n[functions.A]\n"), @"the functions `A` and `a` (`lambimg.toml` line 1) differ in nothing but the case of letters");
        for name in ["a.b", "a b", "ä", "-a", "a-", "a___b", "", &"x".repeat(65)] {
            let text = format!("[functions.{name:?}]\n");
            let expected = format!("`{name}` (`lambimg.toml` line 1) cannot be a function's name");
            assert_eq!(told(&text), expected);
        }
    }

    #[test]
    fn every_key_is_a_functions_or_refused() {
        for key in PROJECT_ALONE.iter().filter(|key| **key != "repository") {
            let text = format!("[functions.a]\n{key} = ''");
            let expected = format!("`{key}` (`lambimg.toml` line 2) is the project's alone");
            assert_eq!(told(&text), expected);
        }
        insta::assert_snapshot!(told("[functions.a.repository]\nscan-on-push = true"), @"`repository` (`lambimg.toml` line 1) is the project's alone");
        for key in known().filter(|key| *key != IMAGE) {
            assert!(Config::default().slot(key).is_some(), "{key}");
        }
        assert_eq!(known().count() + 8 + 6, KEYS.len() + 1);
    }
}
