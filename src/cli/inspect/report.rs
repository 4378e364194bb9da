//! What is in an image, for programs: the JSON of `inspect`, which the page is made of too.
//!
//! Its shape is an interface, numbered by `version` and told in `docs/inspect.md`; keys are only ever added within
//! one.

use lambimg::build::inventory::{File, Layer, Package};
use lambimg::lambda::check;
use serde_json::{Map, Value, json};

use super::{Inspected, LIMIT};

/// The version of the shape.
const VERSION: u32 = 1;
/// Files of fewer bytes are told of together.
const SMALL: u64 = 64 << 10;

/// The whole document.
pub(super) fn value(inspected: &Inspected<'_>) -> Value {
    let inventory = &inspected.inventory;
    let layers = inventory.layers.iter().enumerate();
    let unread = check::unread(inspected.subject).into_iter();
    let (large, small): (Vec<_>, Vec<_>) = inspected
        .by_size()
        .into_iter()
        .partition(|file| file.size >= SMALL);
    json!({
        "version": VERSION,
        "image": inspected.name,
        "digest": inspected.digest(),
        "packed": inventory.size(),
        "unpacked": inventory.unpacked(),
        "limit": LIMIT,
        "config": config(inspected),
        "base": base(inspected),
        "layers": layers.map(|(number, one)| layer(number, one)).collect::<Vec<_>>(),
        "packages": inventory.packages.iter().map(package).collect::<Vec<_>>(),
        "files": large.iter().map(|one| file(inspected, one)).collect::<Vec<_>>(),
        "small_files": {
            "below": SMALL,
            "files": small.len(),
            "packed": small.iter().map(|file| file.packed).sum::<u64>(),
            "unpacked": small.iter().map(|file| file.size).sum::<u64>(),
        },
        "left_out": left_out(inspected),
        "unread": unread.map(|number| number + 1).collect::<Vec<_>>(),
    })
}

fn config(inspected: &Inspected<'_>) -> Value {
    let documents = &inspected.subject.documents;
    let shown =
        |name: &str, value: &str| (!check::is_secret(name, value)).then(|| value.to_owned());
    let variables = documents.variables().into_iter();
    let variables =
        variables.map(|(name, value)| json!({"name": name, "value": shown(name, value)}));
    let labels = documents.run("Labels").as_object().into_iter().flatten();
    let labels = labels.map(|(name, value)| {
        let value = value.as_str().and_then(|value| shown(name, value));
        (name.clone(), json!(value))
    });
    let python = inspected.subject.python.as_ref();
    json!({
        "entry_point": check::shown(&documents.list("Entrypoint")),
        "command": check::shown(&documents.list("Cmd")),
        "working_directory": documents.working_dir(),
        "user": documents.run("User").as_str().unwrap_or_default(),
        "architecture": documents.architecture(),
        "python": python.map(|python| python.version.to_string()),
        "variables": variables.collect::<Vec<_>>(),
        "labels": labels.collect::<Map<_, _>>(),
    })
}

fn base(inspected: &Inspected<'_>) -> Value {
    let base = inspected.inventory.base.as_ref();
    let base = base.map(|base| {
        json!({
            "reference": base.name,
            "digest": base.digest,
            "created": base.created,
            "age": inspected.age_of_base(),
        })
    });
    json!(base)
}

fn left_out(inspected: &Inspected<'_>) -> Value {
    let left_out = inspected.left_out.as_ref();
    json!(left_out.map(|left_out| {
        json!({
            "packages": left_out.packages,
            "files": left_out.files,
        })
    }))
}

fn layer(number: usize, layer: &Layer) -> Value {
    json!({
        "number": number + 1,
        "what": layer.what,
        "base": layer.is_base,
        "digest": layer.digest,
        "diff_id": layer.diff_id,
        "packed": layer.size,
        "unpacked": layer.unpacked,
        "files": layer.files,
        "hidden": {"packed": layer.hidden_packed, "unpacked": layer.hidden},
    })
}

fn package(package: &Package<'_>) -> Value {
    let installed = &package.installed;
    json!({
        "name": installed.name,
        "version": installed.version,
        "directory": installed.directory,
        "layer": installed.layer + 1,
        "base": package.is_base,
        "files": package.files,
        "packed": package.packed,
        "unpacked": package.unpacked,
        "left_out": package.left_out,
    })
}

/// A file, as the document has it.
pub(super) fn file(inspected: &Inspected<'_>, file: &File<'_>) -> Value {
    let package = file
        .package
        .map(|place| &inspected.inventory.packages[place]);
    json!({
        "path": file.path,
        "layer": file.layer + 1,
        "package": package.map(|package| package.installed.name),
        "packed": file.packed,
        "unpacked": file.size,
        "mode": format!("{:04o}", file.mode),
        "digest": file.digest,
    })
}
