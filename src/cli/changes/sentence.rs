//! All that has changed in one sentence: what a person would ask for first.

use lambimg::build::changes::{Area, How, PackageChange};
use lambimg::lambda::check::Level;

use super::{Compared, DAY, difference, in_place, setting};
use crate::terminal::counted;

/// As many packages, files and settings are named.
const PACKAGES: usize = 3;
const FILES: usize = 2;
const SETTINGS: usize = 2;

impl Compared<'_> {
    /// The sentence, without an end stop; `name` writes what the images name.
    pub(super) fn sentence(&self, name: &dyn Fn(&str) -> String) -> String {
        let parts = [
            self.base_in_words(name),
            self.packages_in_words(name),
            self.files_in_words(name),
            self.settings_in_words(name),
            self.rest_in_words(),
        ];
        let parts = parts.concat();
        if parts.is_empty() {
            return self.sameness().to_owned();
        }
        parts.join(", ")
    }

    fn base_in_words(&self, name: &dyn Fn(&str) -> String) -> Vec<String> {
        let of_base = self.changes.packages_of_base(true).count();
        let Some(bases) = &self.changes.base else {
            let told = (of_base > 0)
                .then(|| format!("{} changed", counted(of_base, "package of the base")));
            return told.into_iter().collect();
        };
        let day = |base: &Option<lambimg::build::inventory::Base>| {
            let date = base.as_ref()?.created.clone()?;
            date.get(..DAY).map(name)
        };
        let text = match (day(&bases.first), day(&bases.second)) {
            (Some(first), Some(second)) if first != second => {
                format!("base moved from {first} to {second}")
            }
            _ => "another base".to_owned(),
        };
        vec![text]
    }

    fn packages_in_words(&self, name: &dyn Fn(&str) -> String) -> Vec<String> {
        let packages: Vec<_> = self.changes.packages_of_base(false).collect();
        let told = packages.iter().map(|package| in_words(package, name));
        some(told.collect(), PACKAGES, "package")
    }

    fn files_in_words(&self, name: &dyn Fn(&str) -> String) -> Vec<String> {
        let of_function = |area: Area| area == Area::Function;
        let (own, others): (Vec<_>, Vec<_>) = self
            .changes
            .files
            .iter()
            .partition(|file| of_function(file.area));
        let told = own.iter().map(|file| {
            let what = match (&file.first, &file.second) {
                (None, _) => "added",
                (_, None) => "removed",
                _ => "changed",
            };
            format!("{} {what}", name(&in_place(file)))
        });
        let mut told = some(told.collect(), FILES, "file");
        if !others.is_empty() {
            told.push(format!(
                "{} elsewhere changed",
                counted(others.len(), "file")
            ));
        }
        told
    }

    fn settings_in_words(&self, name: &dyn Fn(&str) -> String) -> Vec<String> {
        let told = self.changes.settings.iter().map(|change| {
            let what = match (&change.first, &change.second) {
                (None, _) => "added",
                (_, None) => "removed",
                _ => "changed",
            };
            format!("{} {what}", name(&setting(&change.setting)))
        });
        some(told.collect(), SETTINGS, "setting")
    }

    fn rest_in_words(&self) -> Vec<String> {
        let total = &self.changes.total;
        let size = difference(total.first.unpacked, total.second.unpacked);
        let is_told = !size.is_empty() && !self.changes.is_empty();
        let new = self.changes.new.iter();
        let errors = new.filter(|finding| finding.level == Level::Error).count();
        let errors = (errors > 0).then(|| counted(errors, "new error"));
        let others = self.changes.new.len() + self.changes.gone.len();
        // Where nothing else is told, that is what has changed.
        let is_all = self.changes.base.is_none()
            && self.changes.packages.is_empty()
            && self.changes.files.is_empty()
            && self.changes.settings.is_empty();
        let others = (is_all && errors.is_none() && others > 0)
            .then(|| "other findings of check".to_owned());
        let size = is_told.then_some(size);
        size.into_iter().chain(errors).chain(others).collect()
    }
}

/// The first of them, and how many more there are.
fn some(mut all: Vec<String>, most: usize, what: &str) -> Vec<String> {
    // One more takes no more room than saying so.
    if all.len() > most + 1 {
        let more = all.split_off(most).len();
        all.push(format!("{more} more {what}s"));
    }
    all
}

fn in_words(package: &PackageChange, name: &dyn Fn(&str) -> String) -> String {
    let version = |side: &Option<lambimg::build::changes::Side>| {
        side.as_ref()
            .map(|side| name(&side.version))
            .unwrap_or_default()
    };
    let (first, second) = (version(&package.first), version(&package.second));
    let own = name(&package.name);
    match package.how {
        How::Added => format!("{own} {second} added"),
        How::Removed => format!("{own} {first} removed"),
        How::Upgraded | How::Downgraded | How::Changed => format!("{own} {first} → {second}"),
        How::Files { .. } => format!("{own} {second} with other files"),
    }
}
