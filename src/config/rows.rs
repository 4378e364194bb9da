//! Settings of several parts, as they are written: `{ from = "a", to = "/b" }`, and tables of the user's own keys.
//!
//! As strict as all else there, and each part keeps its place. What a part means is not known.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::{Error, Place, Setting};

/// A table of the user's own keys, each with its value and its place.
pub type Named = BTreeMap<String, Setting>;

/// One of a list of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it begins.
    pub place: Place,
    parts: BTreeMap<&'static str, Setting>,
}

impl Row {
    /// One of its parts.
    pub fn get(&self, part: &str) -> Option<&Setting> {
        self.parts.get(part)
    }

    /// The parts that it has, by name.
    pub fn parts(&self) -> impl Iterator<Item = &'static str> {
        self.parts.keys().copied()
    }
}

/// Reads a table of texts.
pub(super) fn named(
    name: &str,
    value: &Spanned<DeValue<'_>>,
    place_of: &impl Fn(Range<usize>) -> Place,
) -> Result<Named, Error> {
    let kind = |span| Error::Kind {
        key: name.to_owned(),
        place: place_of(span),
        wanted: "a table of texts",
    };
    let table = value.get_ref().as_table();
    let table = table.ok_or_else(|| kind(value.span()))?;
    let pairs = table.iter().map(|(key, value)| {
        let text = value.get_ref().as_str();
        let text = text.ok_or_else(|| kind(value.span()))?.to_owned();
        let setting = Setting {
            value: text,
            place: place_of(key.span()),
        };
        Ok((key.get_ref().clone().into_owned(), setting))
    });
    pairs.collect()
}

/// Reads a list of tables that have some of `known` as their parts, and nothing else.
pub(super) fn rows(
    name: &str,
    value: &Spanned<DeValue<'_>>,
    known: &[&'static str],
    place_of: &impl Fn(Range<usize>) -> Place,
) -> Result<Vec<Row>, Error> {
    let kind = |span| Error::Kind {
        key: name.to_owned(),
        place: place_of(span),
        wanted: "a list of tables of texts",
    };
    let list = value.get_ref().as_array();
    let list = list.ok_or_else(|| kind(value.span()))?;
    let mut rows = Vec::new();
    for item in list {
        let table = item.get_ref().as_table();
        let table = table.ok_or_else(|| kind(item.span()))?;
        let mut parts = BTreeMap::new();
        for (key, value) in table {
            let part = known.iter().find(|part| **part == *key.get_ref());
            let place = place_of(key.span());
            let Some(part) = part else {
                return Err(Error::UnknownKey {
                    key: format!("{name}.{}", key.get_ref()),
                    place,
                    nearest: super::nearest_of(key.get_ref(), known.iter().copied()),
                });
            };
            let text = value.get_ref().as_str();
            let text = text.ok_or_else(|| kind(value.span()))?.to_owned();
            parts.insert(*part, Setting { value: text, place });
        }
        let place = place_of(item.span());
        rows.push(Row { place, parts });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(text: &str) -> Result<Config, Error> {
        Ok(Config::from_toml(text, "lambimg.toml")?.unwrap_or_default())
    }

    #[test]
    fn every_part_keeps_its_place() {
        let config = read(
            "files = [\n  { from = 'a', to = '/b' },\n  { from = 'c', to = '/d', mode = '0755' },\n]\n[env]\nA = '1'\nB = '2'\n",
        );
        let config = config.unwrap();
        let lines = config.files.iter().map(|row| {
            let parts: Vec<_> = row.parts().collect();
            format!("{} {}", row.place, parts.join(" "))
        });
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "`lambimg.toml` line 2 from to",
                "`lambimg.toml` line 3 from mode to"
            ]
        );
        let mode = config.files[1].get("mode").unwrap();
        assert_eq!(mode.value, "0755");
        assert_eq!(config.env["B"].place.to_string(), "`lambimg.toml` line 7");
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let told = |text: &str| read(text).unwrap_err().to_string();
        insta::assert_snapshot!(told("files = 'a'"), @"`files` in `lambimg.toml` line 1 must be a list of tables of texts");
        insta::assert_snapshot!(told("files = ['a']"), @"`files` in `lambimg.toml` line 1 must be a list of tables of texts");
        insta::assert_snapshot!(told("files = [{ from = 'a',\nto = '/b', mode = 644 }]"), @"`files` in `lambimg.toml` line 2 must be a list of tables of texts");
        insta::assert_snapshot!(told("files = [{ form = 'a' }]"), @"unknown key `files.form` in `lambimg.toml` line 1");
        insta::assert_snapshot!(told("[labels]\na = 1"), @"`labels` in `lambimg.toml` line 2 must be a table of texts");
        let error = Config::from_variables([("LAMBIMG_ENV".to_owned(), "A=1".to_owned())]);
        insta::assert_snapshot!(error.unwrap_err(), @"`env` in the variable `LAMBIMG_ENV` must be in a file of the project");
    }
}
