//! The file `.netrc`: who someone is for a host, as curl, pip and uv read it.
//!
//! Follows Python's own `netrc`, but for what that refuses: a text that makes no sense up to its end is read as
//! far as it does, for it holds credentials of other programs too. Where the file lies is not known here.

use crate::http::Secret;

/// What a `.netrc` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Netrc {
    machines: Vec<(String, Login)>,
    default: Option<Login>,
}

/// A name and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name, which may itself be a token.
    pub user: Secret,
    /// The password.
    pub password: Secret,
}

impl Netrc {
    /// Reads the text of such a file.
    pub fn parse(text: &str) -> Self {
        let mut words = Words(text);
        let mut netrc = Self::default();
        let mut open: Option<Open> = None;
        while let Some(word) = words.next() {
            match word.as_str() {
                "machine" => {
                    netrc.close(open.take());
                    open = words.next().map(|host| Open::of(Some(host)));
                }
                "default" => {
                    netrc.close(open.take());
                    open = Some(Open::of(None));
                }
                "login" | "user" => set(&mut open, words.next(), |open| &mut open.user),
                "password" => set(&mut open, words.next(), |open| &mut open.password),
                "account" => drop(words.next()),
                "macdef" => words.skip_macro(),
                comment if comment.starts_with('#') => words.skip_line(),
                _ => {}
            }
        }
        netrc.close(open);
        netrc
    }

    /// The entry of this very host.
    pub fn machine(&self, host: &str) -> Option<&Login> {
        // Of two for one host the later counts, as with Python.
        let mut machines = self.machines.iter().rev();
        let found = machines.find(|(name, _)| name.eq_ignore_ascii_case(host));
        found.map(|(_, login)| login)
    }

    /// The entry for every host that has none of its own.
    pub fn for_all(&self) -> Option<&Login> {
        self.default.as_ref()
    }

    fn close(&mut self, open: Option<Open>) {
        let Some(Open {
            host,
            user,
            password: Some(password),
        }) = open
        else {
            return;
        };
        let user = Secret::new(user.unwrap_or_default());
        let password = Secret::new(password);
        let login = Login { user, password };
        match host {
            Some(host) => self.machines.push((host, login)),
            None => self.default = Some(login),
        }
    }
}

/// An entry that is being read.
struct Open {
    host: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

impl Open {
    fn of(host: Option<String>) -> Self {
        Self {
            host,
            user: None,
            password: None,
        }
    }
}

fn set(
    open: &mut Option<Open>,
    value: Option<String>,
    field: fn(&mut Open) -> &mut Option<String>,
) {
    if let (Some(open), Some(value)) = (open, value) {
        *field(open) = Some(value);
    }
}

/// The words of the text that were not read yet.
struct Words<'a>(&'a str);

impl Words<'_> {
    fn skip_line(&mut self) {
        // The word before may have been the last of its line, whose end is then still there.
        let end = self.0.find('\n').map_or(self.0.len(), |at| at + 1);
        self.0 = &self.0[end..];
    }

    /// A macro ends at the first blank line.
    fn skip_macro(&mut self) {
        self.skip_line();
        while !self.0.is_empty() {
            let is_blank = self.0.lines().next().is_some_and(|l| l.trim().is_empty());
            self.skip_line();
            if is_blank {
                return;
            }
        }
    }

    fn next(&mut self) -> Option<String> {
        let text = self.0.trim_start();
        let mut letters = text.char_indices();
        let quoted = text.starts_with('"');
        if quoted {
            letters.next();
        }
        let mut word = String::new();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => word.extend(letters.next().map(|(_, escaped)| escaped)),
                '"' if quoted => {
                    self.0 = &text[at + 1..];
                    return Some(word);
                }
                letter if !quoted && letter.is_whitespace() => {
                    self.0 = &text[at..];
                    return Some(word);
                }
                letter => word.push(letter),
            }
        }
        self.0 = "";
        (!text.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn login(user: &str, password: &str) -> Login {
        Login {
            user: Secret::new(user),
            password: Secret::new(password),
        }
    }

    #[test]
    fn entries_are_found_by_host() {
        let text = "# a comment\n\
            machine index.test login me password pw # another\n\
            machine other.test\n\tlogin \"two words\"\n\tpassword \"a \\\"b\\\" c\"\n\
            machine hash.test login # password #1\n\
            macdef init\ncd /machine index.test login thief password thief\n\n\
            machine incomplete.test login me\n\
            machine twice.test login a password a\n\
            machine twice.test login b account x password b\\ c\n\
            default login any password d";
        let netrc = Netrc::parse(text);
        let of = |host: &str| netrc.machine(host).cloned();
        assert_eq!(of("Index.test"), Some(login("me", "pw")));
        assert_eq!(of("other.test"), Some(login("two words", "a \"b\" c")));
        assert_eq!(of("hash.test"), Some(login("#", "#1")));
        assert_eq!(of("incomplete.test"), None);
        assert_eq!(of("twice.test"), Some(login("b", "b c")));
        assert_eq!(netrc.for_all(), Some(&login("any", "d")));
        assert!(!format!("{netrc:?}").contains("pw"));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "((machine|login|password|macdef|default|#|\"|\\\\)?[ \n\u{e9}a]{0,3}){0,12}") {
            let _ = Netrc::parse(&text);
        }

        #[test]
        fn what_is_quoted_is_read_back(user in "[^\\s]{1,9}", password in "\\PC{0,12}") {
            let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let text = format!("machine h login {} password {}\n", quoted(&user), quoted(&password));
            let netrc = Netrc::parse(&text);
            prop_assert_eq!(netrc.machine("h"), Some(&login(&user, &password)));
        }
    }
}
