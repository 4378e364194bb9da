//! The page of `inspect --html`: one file with style, script and data in it, and nothing that asks any host.
//!
//! Names of files may be anybody's, so the data stands where a browser takes it for text alone, with every character
//! escaped that could end it; the script puts it on the page as text. A policy in the page has the browser refuse
//! whatever is not this style and this script.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use lambimg::build::inventory::File;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::findings::Checked;
use crate::inspect::Inspected;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Bytes of the data that files may take which are named one by one, the largest first.
const NAMED: usize = 1_500_000;
/// A page with more of them is slow to draw.
const MOST: usize = 12_000;

/// The whole page.
pub(crate) fn page(inspected: &Inspected<'_>, checked: &Checked<'_>) -> String {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        source(SCRIPT),
        source(STYLE)
    );
    let page = HTML.replace("{{policy}}", &policy);
    let page = page.replace("{{style}}", STYLE);
    let page = page.replace("{{script}}", SCRIPT);
    // What is in it is replaced by nothing.
    page.replace("{{data}}", &inert(&data(inspected, checked)))
}

/// What a policy calls this very text.
fn source(text: &str) -> String {
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    format!("'sha256-{hash}'")
}

/// JSON with nothing in it that HTML or a script could take for the end of it.
fn inert(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        if matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
            // Only strings have these, where JSON says them so too.
            let _ = write!(text, "\\u{:04x}", u32::from(character));
        } else {
            text.push(character);
        }
    }
    text
}

fn data(inspected: &Inspected<'_>, checked: &Checked<'_>) -> Value {
    let mut data = inspected.json();
    let found = checked.value();
    data["files"] = json!(inspected.largest_json());
    for package in data["packages"].as_array_mut().into_iter().flatten() {
        package["left_out"] = json!(package["left_out"].as_array().map_or(0, Vec::len));
    }
    data["day"] = json!(inspected.today);
    data["groups"] = json!(groups(inspected));
    data["findings"] = found["findings"].clone();
    data["summary"] = found["summary"].clone();
    data["summary"]["text"] = json!(checked.summary());
    data
}

/// The files of one layer that are one package's, or in one directory.
#[derive(Default)]
struct Group<'a> {
    named: Vec<&'a File<'a>>,
    /// Number of those that are not named, and their bytes, unpacked and compressed.
    others: (usize, u64, u64),
}

/// What the boxes of the map are made of.
fn groups(inspected: &Inspected<'_>) -> Vec<Value> {
    let mut files: Vec<_> = inspected.inventory.files.iter().collect();
    files.sort_by_key(|file| (std::cmp::Reverse(file.size.max(file.packed)), file.path));
    let mut groups: BTreeMap<(usize, Option<usize>, &str), Group<'_>> = BTreeMap::new();
    let mut left = NAMED;
    for (number, file) in files.into_iter().enumerate() {
        let directory = if file.package.is_some() {
            ""
        } else {
            directory(file.path)
        };
        let group = groups.entry((file.layer, file.package, directory));
        let group = group.or_default();
        let length = inert(&row(file)).len() + 1;
        left = if number < MOST {
            left.saturating_sub(length)
        } else {
            0
        };
        if left > 0 {
            group.named.push(file);
        } else {
            let (count, unpacked, packed) = &mut group.others;
            *count += 1;
            *unpacked += file.size;
            *packed += file.packed;
        }
    }
    let groups = groups.into_iter();
    let groups = groups.map(|((layer, package, directory), group)| {
        json!({
            "layer": layer,
            "package": package,
            "directory": directory,
            "files": group.named.iter().map(|file| row(file)).collect::<Vec<_>>(),
            "others": group.others,
        })
    });
    groups.collect()
}

fn row(file: &File<'_>) -> Value {
    json!([file.path, file.size, file.packed])
}

/// What people take for one thing where no package has it: `var/task`, `usr/lib64`, `etc`.
fn directory(path: &str) -> &str {
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    match (slashes.next(), slashes.next()) {
        (_, Some(second)) => &path[..second],
        (Some(first), None) => &path[..first],
        (None, None) => "/",
    }
}

#[cfg(test)]
mod tests {
    use lambimg::build::inventory::{Inventory, Layer};
    use lambimg::digest::Digest;
    use lambimg::lambda::check::subject::{Document, Documents, Subject};

    use super::*;

    fn subject() -> Subject {
        let documents = Documents {
            index: None,
            manifest: None,
            config: Document::new(b"{}".to_vec(), None, None),
            wanted: None,
            today: "2026-11-23".to_owned(),
        };
        Subject::new(documents, Vec::new())
    }

    fn page_of(paths: &[String]) -> String {
        let subject = subject();
        let files = paths.iter().enumerate().map(|(number, path)| File {
            path,
            layer: 0,
            size: number as u64,
            packed: number as u64 / 2,
            mode: 0o644,
            package: None,
            digest: None,
        });
        let inventory = Inventory {
            base: None,
            layers: vec![Layer {
                what: "function".to_owned(),
                is_base: false,
                digest: Digest::of(b""),
                diff_id: None,
                size: 1,
                unpacked: 2,
                files: paths.len(),
                hidden: 0,
                hidden_packed: 0,
            }],
            packages: Vec::new(),
            files: files.collect(),
        };
        let inspected = Inspected {
            name: "app:1",
            subject: &subject,
            inventory,
            today: "2026-11-23",
            left_out: None,
        };
        let checked = Checked {
            name: "app:1",
            subject: &subject,
            findings: Vec::new(),
            ignored: 0,
        };
        page(&inspected, &checked)
    }

    fn data_of(page: &str) -> Value {
        let start = page.find("application/json\">").unwrap() + "application/json\">".len();
        let end = start + page[start..].find("</script>").unwrap();
        serde_json::from_str(&page[start..end]).unwrap()
    }

    #[test]
    fn many_files_are_told_together() {
        let deep = "d".repeat(60);
        let paths: Vec<_> = (0..50_000)
            .map(|number| format!("var/task/{deep}/{number:05}.py"))
            .collect();
        let page = page_of(&paths);
        assert!(page.len() < 3_000_000, "{} bytes", page.len());
        let data = data_of(&page);
        let group = &data["groups"][0];
        let named = group["files"].as_array().unwrap();
        assert_eq!(group["directory"], "var/task");
        // The largest have names, and nothing is lost.
        assert_eq!(named[0][0], json!(paths[49_999]));
        let others = group["others"][0].as_u64().unwrap();
        assert_eq!(named.len() as u64 + others, 50_000);
        let sizes = named
            .iter()
            .map(|file| file[1].as_u64().unwrap())
            .sum::<u64>();
        let others = group["others"][1].as_u64().unwrap();
        assert_eq!(sizes + others, (0..50_000).sum::<u64>());
        // Names as long as a tar can have them are no way around it.
        let long: Vec<_> = (0..5_000)
            .map(|n| format!("{n}/{}", "<".repeat(4_000)))
            .collect();
        assert!(page_of(&long).len() < 3_000_000);
    }

    #[test]
    fn no_name_ends_the_data() {
        let names = [
            "var/task/</script><script>alert(1)</script>",
            "var/task/<!--<script>",
            "var/task/\u{2028}\u{2029}&amp;",
            "var/task/{{data}}{{script}}",
            "var/task/\"]}\\",
        ];
        let mut paths: Vec<_> = names.map(str::to_owned).to_vec();
        let page = page_of(&paths);
        assert_eq!(page.matches("</script>").count(), 2);
        assert_eq!(page.matches("<!--").count(), 0);
        assert!(!page.contains(['\u{2028}', '\u{2029}']));
        let files = data_of(&page)["groups"][0]["files"].clone();
        let files = files.as_array().unwrap().iter();
        let mut found: Vec<_> = files
            .map(|file| file[0].as_str().unwrap().to_owned())
            .collect();
        found.sort();
        paths.sort();
        assert_eq!(found, paths);
    }

    #[test]
    fn the_page_refers_to_nothing() {
        for text in [HTML, STYLE, SCRIPT] {
            for word in [
                "http:", "https:", "//cdn", "@import", "url(", "fetch(", "import(",
            ] {
                assert!(!text.contains(word), "{word}");
            }
            // What the policy allows is told by its hash: neither has another's place in it.
            assert!(std::ptr::eq(text, HTML) || !text.contains("{{"));
        }
    }

    #[test]
    fn directories_are_what_people_know() {
        assert_eq!(directory("var/task/app.py"), "var/task");
        assert_eq!(directory("var/lang/lib/python3.12/os.py"), "var/lang");
        assert_eq!(directory("etc/passwd"), "etc");
        assert_eq!(directory("lambda-entrypoint.sh"), "/");
    }
}
