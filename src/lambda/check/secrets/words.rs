//! Words of a command line without what is secret in them, for whoever shows them.
//!
//! More is hidden than is reported: a word behind `--password` is one, however short it is.

use super::{is_named, is_private, is_secret};

/// What stands for a secret.
pub const HIDDEN: &str = "…";
const QUOTES: [char; 2] = ['"', '\''];

/// The words of a command line with `…` for each secret: what an option or a variable of such a name is given, keys,
/// tokens and addresses with passwords. A word may be a shell's whole command, or a step of a build.
pub fn shown(words: &[&str]) -> Vec<String> {
    let mut cover = Cover::default();
    words.iter().map(|word| cover.word(word)).collect()
}

/// Where in a shell's word a secret begins.
enum Secret {
    At(usize),
    /// It is the next word.
    Next,
}

/// What the words before say of the next one.
#[derive(Default)]
struct Cover {
    /// Whether it is a secret.
    is_next: bool,
    /// Whether it is of a list of variables, whose values builders write without quotes.
    is_listed: bool,
    /// Whether such a value goes on.
    is_open: bool,
}

impl Cover {
    fn word(&mut self, word: &str) -> String {
        let is_option = word.starts_with('-');
        let is_next = std::mem::take(&mut self.is_next) && !is_option;
        if is_next && is_scheme(word) {
            self.is_next = true;
            return word.to_owned();
        }
        if is_next || is_private(word) {
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
        (self.is_listed, self.is_open) = (false, false);
        self.text(word)
    }

    /// What a shell would run.
    fn text(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let space = rest.len() - rest.trim_start().len();
            let start = at + space;
            let mut end = end_of_word(text, start);
            let part = &text[start..end];
            at = end;
            // Of a value that goes on all is hidden, and said to be already.
            if self.goes_on(part) {
                continue;
            }
            out.push_str(&rest[..space]);
            let secret = self.secret_of(part);
            self.is_next = self.is_next || matches!(secret, Some(Secret::Next));
            let Some(Secret::At(secret)) = secret else {
                out.push_str(part);
                continue;
            };
            // A quote that something else has opened may end where the value's begins.
            end = end.max(end_of_word(text, start + secret));
            at = end;
            self.is_open = self.is_listed;
            out.push_str(&part[..secret]);
            out.push_str(HIDDEN);
            let opened = part.chars().next().filter(|first| QUOTES.contains(first));
            let closed = opened.filter(|quote| secret > 0 && text[..end].ends_with(*quote));
            out.extend(closed);
        }
        out
    }

    /// Whether this is more of a value without quotes that is hidden.
    fn goes_on(&mut self, part: &str) -> bool {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let named = part.split_once('=').map(|(name, _)| name);
        let is_other = named.is_some_and(|name| name.chars().all(is_name)) || part.starts_with('/');
        self.is_open = self.is_open && !is_other;
        self.is_open
    }

    fn secret_of(&mut self, part: &str) -> Option<Secret> {
        let is_count = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
        self.is_listed = match part {
            "ENV" | "ARG" | "LABEL" => true,
            _ if part.strip_prefix('|').is_some_and(is_count) => true,
            _ => self.is_listed && !part.starts_with('/'),
        };
        if part.trim_matches(QUOTES).is_empty() {
            return None;
        }
        if std::mem::take(&mut self.is_next) && !part.starts_with('-') {
            self.is_next = is_scheme(part);
            return (!self.is_next).then_some(Secret::At(0));
        }
        // `ENV NAME value`, as it was written once.
        self.is_next = self.is_listed && !part.contains('=') && is_named(part);
        secret_in(part)
    }
}

/// Whether a word says how somebody shows who he is, and what he shows follows.
fn is_scheme(word: &str) -> bool {
    let schemes = ["basic", "bearer", "token"];
    schemes.iter().any(|it| word.eq_ignore_ascii_case(it))
}

/// Where a shell's word ends that begins here: at white space that is neither quoted nor in a command of its own.
fn end_of_word(text: &str, start: usize) -> usize {
    let (mut quote, mut depth) = (None, 0_usize);
    let mut chars = text[start..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quote != Some('\'') => drop(chars.next()),
            _ if quote == Some(c) => quote = None,
            _ if quote.is_some() => {}
            '"' | '\'' | '`' => quote = Some(c),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if c.is_whitespace() && depth == 0 => return start + at,
            _ => {}
        }
    }
    text.len()
}

/// The first secret of a shell's word, which may have words of its own in quotes.
fn secret_in(word: &str) -> Option<Secret> {
    let named = word.match_indices(['=', ':']).find_map(|(at, sign)| {
        if !is_name_of_secret(&word[..at], sign == ":") {
            return None;
        }
        let is_empty = word[at + 1..].trim_matches(QUOTES).is_empty();
        (!is_empty || sign == ":").then_some((at + 1, is_empty))
    });
    let behind_option = || {
        let mut at = 0;
        word.split_inclusive(char::is_whitespace).find_map(|part| {
            at += part.len();
            let bare = part.trim_end().trim_matches(QUOTES);
            let bare = bare.trim_start_matches(['(', '`']);
            let is_option = bare.starts_with('-') && is_named(bare.trim_start_matches('-'));
            let is_one = is_option || bare.eq_ignore_ascii_case("bearer");
            is_one.then(|| (at, word[at..].trim_matches(QUOTES).is_empty()))
        })
    };
    let by_itself = || {
        let is_one = |text: &str| is_secret("", text.trim_matches(QUOTES));
        let before = word.find('=').map_or(0, |at| at + 1);
        let before = if is_one(&word[..before]) { 0 } else { before };
        is_one(word).then_some((before, false))
    };
    // Whichever begins first.
    let all = [named, behind_option(), by_itself()].into_iter().flatten();
    let (at, is_next) = all.min()?;
    Some(if is_next {
        Secret::Next
    } else {
        Secret::At(at)
    })
}

/// Whether what ends a text is a secret's name, in quotes or brackets maybe. Before a colon it must begin there.
fn is_name_of_secret(text: &str, is_before_colon: bool) -> bool {
    let text = text.trim_end_matches([' ', '"', '\'', '\\', ']', '+']);
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let name = &text[text.trim_end_matches(is_in_name).len()..];
    let before = text[..text.len() - name.len()].chars().next_back();
    let begins = before.is_none_or(|c| c.is_whitespace() || "\"'\\{[(,;".contains(c));
    let name = name.trim_start_matches('-');
    let is_header = name.eq_ignore_ascii_case("authorization");
    (begins || !is_before_colon) && (is_header || is_named(name))
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
        /bin/sh | -c | TOKEN=… app --secret … -x && y
        curl | -H | X-Api-Key: … | -H | Authorization: Bearer … | x
        ");
        assert!(!all.concat().contains("hunter2"));
    }
    #[test]
    fn secrets_of_shells_and_builders_are_not_shown() {
        let of = |words: &[&str]| shown(words).join(" | ");
        let all = [
            of(&["sh", "-c", "\"TOKEN=hunter2 hunter2\" x"]),
            of(&["TOKEN=hunter2\\ hunter2 TOKEN=\"a\\\" hunter2\" TOKEN=a'b hunter2' x"]),
            of(&["TOKEN=$(echo hunter2 hunter2) (TOKEN=hunter2 x)&&y"]),
            of(&["do'nt TOKEN='a hunter2' x 'y --token hunter2'"]),
            of(&["TOKEN+=hunter2 ${TOKEN:-hunter2} TOKEN:=hunter2 db[password]=hunter2"]),
            of(&[
                "--token",
                "",
                "--token",
                "\"hunter2\"",
                "echo \"--token\" hunter2",
            ]),
            of(&["-d", "{\"password\": \"hunter2\", \"a\": 1}"]),
            of(&["-d", "{\"a\":1,\"password\":\"hunter2\"}"]),
            of(&["curl -d '{\"password\": \"hunter2\", \"a\": 1}' x"]),
            of(&[
                "-H",
                "Authorization: Basic hunter2",
                "-H",
                "authorization:hunter2",
            ]),
            of(&[
                "--hosts=http://a/,https://u:hunter2@b/",
                "https://u:hunter2@b/?a=b",
            ]),
            of(&[
                "--dbPassword",
                "hunter2",
                "--passphrase=hunter2",
                "MYSQL_PWD=hunter2",
            ]),
            of(&["/bin/sh -c #(nop)  ENV A=b DB_PASSWORD=hunter2 hunter2 hunter2 C=d e"]),
            of(&["RUN |2 A=b TOKEN=hunter2 hunter2 /bin/sh -c pip install x # buildkit"]),
            of(&["ENV TOKEN hunter2"]),
            of(&[
                "--token-file",
                "/x",
                "PASSWORD_FILE=/run/x",
                "--key-id",
                "k",
                "PWD=/x",
            ]),
            of(&[
                "arn:aws:secretsmanager:eu-west-1:1:secret:db",
                "http://secret:80/",
                "{\"a\": 1}",
            ]),
            of(&["RUN --mount=type=secret,id=token pip install x && echo 'it is done'"]),
        ];
        insta::assert_snapshot!(all.join("\n"), @r###"
        sh | -c | "TOKEN=…" x
        TOKEN=… TOKEN=… TOKEN=… x
        TOKEN=… (TOKEN=…
        do'nt TOKEN=… x 'y --token …'
        TOKEN+=… ${TOKEN:… TOKEN:… db[password]=…
        --token | … | --token | … | echo "--token" …
        -d | {"password": … "a": 1}
        -d | {"a":1,"password":…
        curl -d '{"password":…' x
        -H | Authorization: Basic … | -H | authorization:…
        --hosts=… | …
        --dbPassword | … | --passphrase=… | MYSQL_PWD=…
        /bin/sh -c #(nop)  ENV A=b DB_PASSWORD=… C=d e
        RUN |2 A=b TOKEN=… /bin/sh -c pip install x # buildkit
        ENV TOKEN …
        --token-file | /x | PASSWORD_FILE=/run/x | --key-id | k | PWD=/x
        arn:aws:secretsmanager:eu-west-1:1:secret:db | http://secret:80/ | {"a": 1}
        RUN --mount=type=secret,id=token pip install x && echo 'it is done'
        "###);
        assert!(!all.concat().contains("hunter2"));
    }
}
