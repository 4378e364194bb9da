//! The changes as GitHub's Markdown, for a pull request. Long tables are folded and end early.
//!
//! Names, versions and values are anybody's: they stand in `code` elements, where nothing is a mention, with
//! everything that means something to Markdown or HTML written as a character reference.

use std::fmt::Write as _;

use lambimg::lambda::check::Level;

use super::{Compared, Section};
use crate::findings::in_words;
use crate::terminal::{counted, visible};

/// A longer table is folded.
const FOLDED: usize = 10;
/// As many rows a table has: a comment has room for 65536 characters.
const MOST: usize = 60;

impl Compared<'_> {
    /// The sentence, which two images, and the tables.
    pub(crate) fn markdown(&self) -> String {
        let changes = self.changes;
        let mut text = format!("**{}**\n\n", self.sentence(&code));
        let digests = &changes.digests;
        let sides = [
            (&self.names.first, digests.first),
            (&self.names.second, digests.second),
        ];
        let [first, second] = sides.map(|(name, digest)| match digest {
            Some(digest) => format!("{} ({})", code(name), code(&digest.to_string())),
            None => code(name),
        });
        let _ = writeln!(text, "{first} → {second}");
        for unread in self.unread() {
            let _ = writeln!(text, "\n> {}", escaped(&unread));
        }
        for section in self.sections() {
            text.push_str(&table(&section));
        }
        text.push_str(&of_sizes(&self.sizes()));
        if let Some(findings) = self.findings() {
            let _ = writeln!(text, "\n#### Findings of check\n\n{findings}");
            let errors = changes.new.iter();
            let errors = errors.filter(|finding| finding.level == Level::Error);
            for (number, finding) in errors.enumerate() {
                let start = if number == 0 { "\n" } else { "" };
                let message = code(&in_words(finding));
                let path = finding
                    .path
                    .as_deref()
                    .map(|path| format!(" {}", code(path)));
                let _ = writeln!(
                    text,
                    "{start}- **{}**{}: {message}",
                    finding.rule.id,
                    path.unwrap_or_default()
                );
            }
        }
        text
    }
}

fn table(section: &Section) -> String {
    let rows = &section.rows;
    let mut text = String::from("| | | before | after | |\n|---|---|---|---|---|\n");
    for row in rows.iter().take(MOST) {
        let cells = [&row.name, &row.before, &row.after].map(|cell| code(cell));
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            row.word,
            cells.join(" | "),
            escaped(&row.note)
        );
    }
    if rows.len() > MOST {
        let _ = writeln!(text, "\nand {} more", rows.len() - MOST);
    }
    let title = section.title;
    if section.is_aside || rows.len() > FOLDED {
        let count = counted(rows.len(), "change");
        format!("\n<details><summary>{title}: {count}</summary>\n\n{text}\n</details>\n")
    } else {
        format!("\n#### {title}\n\n{text}")
    }
}

fn of_sizes(rows: &[[String; 7]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n#### Size\n\n| | unpacked before | after | | compressed before | after | |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// As a name: in a `code` element, or nothing for nothing.
fn code(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("<code>{}</code>", escaped(text))
}

/// With references for all that Markdown or HTML would take for its own.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let is_www = |text: &str| {
        let end = text
            .len()
            .checked_sub(3)
            .and_then(|start| text.get(start..));
        end.is_some_and(|end| end.eq_ignore_ascii_case("www"))
    };
    for character in visible(text).chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' | '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '~' | '#'
            | '@' | '$' | '!' | ':' => {
                let _ = write!(escaped, "&#{};", u32::from(character));
            }
            // GitHub makes a link of what follows, in a `code` element too.
            '.' if is_www(&escaped) => escaped.push_str("&#46;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_nothing_to_markdown_and_html() {
        let hostile = "a|b`c`<img src=x>*d*_e_[f](http://g)@h#1~~i~~\\\n| j |\u{1b}[2J&amp;";
        let written = code(hostile);
        let inner = written
            .strip_prefix("<code>")
            .and_then(|rest| rest.strip_suffix("</code>"))
            .unwrap();
        // Every `&` and `#` is of a reference.
        let references = inner.replace("&#", "");
        assert!(
            !references.contains([
                '|', '`', '<', '>', '*', '_', '[', '@', '#', '~', '\\', '\n', '\u{1b}', ':', '&'
            ]),
            "{inner}"
        );
        assert!(
            inner.starts_with("a&#124;b&#96;c&#96;&#60;img src=x&#62;"),
            "{inner}"
        );
        let links = code("www.example.com/(WWW.b.c)");
        assert_eq!(links, "<code>www&#46;example.com/(WWW&#46;b.c)</code>");
        assert_eq!(code(""), "");
        assert_eq!(code("urllib3"), "<code>urllib3</code>");
    }
}
