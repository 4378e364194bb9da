//! The changes as JSON.
//!
//! The shape is an interface, numbered by `version` and told in `docs/diff.md`; keys are only ever added within one.

use lambimg::build::changes::{
    FileChange, How, PackageChange, Pair, Setting, SettingChange, Side, Size, State, Text,
};
use lambimg::build::inventory::Base;
use lambimg::lambda::check::{Finding, Level};
use serde_json::{Value, json};

use super::{Compared, area, kind};

/// The version of the shape.
const VERSION: u32 = 1;

impl Compared<'_> {
    /// All changes.
    pub(crate) fn json(&self) -> String {
        let changes = self.changes;
        let base = changes.base.as_ref().map(|bases| {
            json!({
                "first": bases.first.as_ref().map(of_base),
                "second": bases.second.as_ref().map(of_base),
            })
        });
        let sizes = changes.sizes.iter().map(|size| {
            let mut value = of_sizes(&size.sizes);
            value["area"] = json!(area(size.area));
            value
        });
        let errors = changes.new.iter();
        let errors = errors.filter(|finding| finding.level == Level::Error);
        let numbers = |layers: &[usize]| layers.iter().map(|layer| layer + 1).collect::<Vec<_>>();
        let value = json!({
            "version": VERSION,
            "first": {"image": self.names.first, "digest": changes.digests.first, "unread": numbers(&changes.unread.first)},
            "second": {"image": self.names.second, "digest": changes.digests.second, "unread": numbers(&changes.unread.second)},
            "changed": !changes.is_empty(),
            "summary": self.sentence(&str::to_owned),
            "base": base,
            "packages": changes.packages.iter().map(of_package).collect::<Vec<_>>(),
            "files": changes.files.iter().map(of_file).collect::<Vec<_>>(),
            "settings": changes.settings.iter().map(of_setting).collect::<Vec<_>>(),
            "sizes": sizes.collect::<Vec<_>>(),
            "total": of_sizes(&changes.total),
            "findings": {
                "new": counts(&changes.new),
                "gone": counts(&changes.gone),
                "new_errors": errors.map(of_error).collect::<Vec<_>>(),
            },
        });
        format!("{value:#}\n")
    }
}

fn of_base(base: &Base) -> Value {
    json!({"name": base.name, "digest": base.digest, "created": base.created})
}

fn of_package(package: &PackageChange) -> Value {
    let side = |side: &Side| {
        json!({
            "version": side.version,
            "directory": side.directory,
            "unpacked": side.unpacked,
            "compressed": side.packed,
        })
    };
    let (change, files) = match package.how {
        How::Added => ("added", None),
        How::Removed => ("removed", None),
        How::Upgraded => ("upgraded", None),
        How::Downgraded => ("downgraded", None),
        How::Changed => ("changed", None),
        How::Files {
            added,
            removed,
            changed,
        } => {
            let counts = json!({"added": added, "removed": removed, "changed": changed});
            ("files", Some(counts))
        }
    };
    json!({
        "name": package.name,
        "area": area(package.area),
        "change": change,
        "first": package.first.as_ref().map(side),
        "second": package.second.as_ref().map(side),
        "files": files,
    })
}

/// What has become of what either image may have.
fn change<T>(first: Option<&T>, second: Option<&T>) -> &'static str {
    match (first, second) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    }
}

fn of_file(file: &FileChange) -> Value {
    let state = |state: &State| {
        json!({
            "size": state.size,
            "mode": format!("{:04o}", state.mode),
            "digest": state.digest,
            "link": state.target,
        })
    };
    json!({
        "path": file.path,
        "area": area(file.area),
        "change": change(file.first.as_ref(), file.second.as_ref()),
        "first": file.first.as_ref().map(state),
        "second": file.second.as_ref().map(state),
    })
}

fn of_setting(setting: &SettingChange) -> Value {
    let name = match &setting.setting {
        Setting::Variable(name) | Setting::Label(name) => Some(name),
        _ => None,
    };
    let sides = [&setting.first, &setting.second];
    let [first, second] = sides.map(|side| match side {
        Some(Text::Plain(text)) => Some(text),
        Some(Text::Secret) | None => None,
    });
    json!({
        "setting": kind(&setting.setting),
        "name": name,
        "change": change(setting.first.as_ref(), setting.second.as_ref()),
        "first": first,
        "second": second,
        "secret": sides.iter().any(|side| **side == Some(Text::Secret)),
    })
}

fn of_sizes(sizes: &Pair<Size>) -> Value {
    let size = |size: Size| json!({"unpacked": size.unpacked, "compressed": size.packed});
    json!({"first": size(sizes.first), "second": size(sizes.second)})
}

fn counts(findings: &[Finding]) -> Value {
    let count = |level| {
        let findings = findings.iter();
        findings.filter(|finding| finding.level == level).count()
    };
    json!({
        "errors": count(Level::Error),
        "warnings": count(Level::Warning),
        "notes": count(Level::Note),
    })
}

fn of_error(finding: &Finding) -> Value {
    json!({
        "rule": finding.rule.id,
        "message": finding.message,
        "layer": finding.layer.map(|layer| layer + 1),
        "path": finding.path,
        "value": finding.value,
        "remedy": finding.remedy,
    })
}
