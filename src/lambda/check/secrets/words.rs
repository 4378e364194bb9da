//! Words of a command line without what is secret in them, for whoever shows them.
//!
//! More is hidden than is reported: a word behind `--password` is one, however short it is.

use super::{is_named, is_private, is_secret};

/// What stands for a secret.
pub const HIDDEN: &str = "…";

/// The words of a command line with `…` for each secret: what an option or a variable of such a name is given, keys,
/// tokens and addresses with passwords. A word may be a shell's whole command.
pub fn shown(words: &[&str]) -> Vec<String> {
    let mut cover = Cover::default();
    words.iter().map(|word| cover.word(word)).collect()
}

/// What the words before say of the next one.
#[derive(Default)]
struct Cover {
    /// Whether it is a secret.
    is_next: bool,
    /// The quote that ends it, where it has begun.
    quote: Option<char>,
}

impl Cover {
    fn word(&mut self, word: &str) -> String {
        let is_option = word.starts_with('-');
        if is_private(word) || (std::mem::take(&mut self.is_next) && !is_option) {
            return HIDDEN.to_owned();
        }
        // Where it is an option, all that is behind the first sign of equality is its value.
        if let Some((name, value)) = word.split_once('=')
            && is_option
            && is_named(name.trim_start_matches('-'))
            && !value.is_empty()
        {
            return format!("{name}={HIDDEN}");
        }
        self.quote = None;
        let parts = word.split_inclusive(char::is_whitespace);
        let parts = parts.map(|part| {
            let text = part.trim_end();
            format!("{}{}", self.part(text), &part[text.len()..])
        });
        parts.collect()
    }

    /// What a shell would take for a word.
    fn part(&mut self, part: &str) -> String {
        if let Some(quote) = self.quote {
            self.quote = (!part.contains(quote)).then_some(quote);
            return String::new();
        }
        let bare = part.trim_matches(['"', '\'']);
        if bare.is_empty() {
            return part.to_owned();
        }
        if std::mem::take(&mut self.is_next) && !part.starts_with('-') {
            return self.hidden("", part);
        }
        let is_in_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        for (at, _) in part.match_indices('=') {
            let (before, value) = (&part[..at], &part[at + 1..]);
            let start = before.rfind(|c| !is_in_name(c)).map_or(0, |at| at + 1);
            let name = before.get(start..).unwrap_or_default();
            if !value.is_empty() && is_named(name.trim_start_matches('-')) {
                return self.hidden(&part[..=at], value);
            }
        }
        let (before, value) = part.split_once('=').unwrap_or(("", part));
        if is_secret("", bare) {
            let before = if before.is_empty() {
                String::new()
            } else {
                format!("{before}=")
            };
            return self.hidden(&before, value);
        }
        let is_option = part.starts_with('-') && !part.contains('=');
        self.is_next = bare.eq_ignore_ascii_case("bearer")
            || ((is_option || bare.ends_with(':'))
                && is_named(bare.trim_matches(['-', ':', '"', '\''])));
        part.to_owned()
    }

    fn hidden(&mut self, before: &str, value: &str) -> String {
        let first = |text: &str| text.chars().next().filter(|c| ['"', '\''].contains(c));
        // The quote may begin before the name: `"TOKEN=a b"`.
        self.quote = match (first(value), first(before)) {
            (Some(quote), _) => Some(quote).filter(|quote| !value[1..].contains(*quote)),
            (None, quote) => quote.filter(|quote| !value.contains(*quote)),
        };
        format!("{before}{HIDDEN}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_command_line_are_not_shown() {
        let key = concat!("AK", "IAQ3EGP5XWTF7MNB2Z");
        let of = |words: &[&str]| shown(words).join(" | ");
        let all = [
            of(&["app.handler"]),
            of(&["python", "-m", "awslambdaric", "app.handler"]),
            of(&["--tokenizer", "fast", "--pass-through", "x", "tokens=5"]),
            of(&["app", "--token", "hunter2", "app.handler"]),
            of(&["app", "--token", "--verbose", "x"]),
            of(&["app", "--token", "hunter2 and more", "x"]),
            of(&["app", "--db-password=hunter2 and more", "-password=x", "y"]),
            of(&["DB_PASSWORD=hunter2", "--env=TOKEN=hunter2", "A=b"]),
            of(&[
                "https://u:hunter2@host/",
                "https://host/?a=b&token=hunter2",
                "postgres://db/orders",
            ]),
            of(&["--database=postgres://u:hunter2@db/x", key, "x"]),
            of(&[
                "/bin/sh",
                "-c",
                "TOKEN='hunter2 hunter2' app --secret \"hunter2 more\" -x && y",
            ]),
            of(&["sh", "-c", "env 'TOKEN=hunter2 hunter2' app"]),
            of(&[
                "curl",
                "-H",
                "X-Api-Key: hunter2",
                "-H",
                "Authorization: Bearer hunter2",
                "x",
            ]),
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        app.handler
        python | -m | awslambdaric | app.handler
        --tokenizer | fast | --pass-through | x | tokens=5
        app | --token | … | app.handler
        app | --token | --verbose | x
        app | --token | … | x
        app | --db-password=… | -password=… | y
        DB_PASSWORD=… | --env=TOKEN=… | A=b
        … | https://host/?a=b&token=… | postgres://db/orders
        --database=… | … | x
        /bin/sh | -c | TOKEN=…  app --secret …  -x && y
        sh | -c | env 'TOKEN=…  app
        curl | -H | X-Api-Key: … | -H | Authorization: Bearer … | x
        ");
        assert!(!all.concat().contains("hunter2"));
    }
}
