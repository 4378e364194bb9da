//! Texts and URLs without what is secret in them.
//!
//! A presigned URL has its secret in the query, others in the user information; who answers us may repeat what
//! we sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Url;

use crate::http::Secret;

/// More of an answer says nothing new.
const LONGEST_ANSWER: usize = 1000;
/// A password that is shorter stands in many a text by chance.
const SHORTEST_PASSWORD: usize = 4;

/// The URL without user information, query and fragment.
pub fn redact(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// The text without the user information of its URLs.
pub fn redact_text(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, tail) = rest.split_at(at + 3);
        result.push_str(before);
        let is_end = |c: char| c.is_whitespace() || "/?#\"'`<>".contains(c);
        let authority = &tail[..tail.find(is_end).unwrap_or(tail.len())];
        // A password may itself hold an `@`; the host is behind the last one.
        rest = match authority.rfind('@') {
            Some(end) => {
                result.push_str("[secret]");
                &tail[end..]
            }
            None => tail,
        };
    }
    result.push_str(rest);
    result
}

/// The text of a host, a name of an image or an address, with or without a scheme, as a user wrote it: without the
/// user information that only an address may have. A digest behind an `@` stays.
pub fn redact_name(text: &str) -> String {
    // Another word before `://` may be a user's name.
    let is_scheme = |text: &str| matches!(text, "http" | "https" | "docker");
    let start = text.find("://").filter(|at| is_scheme(&text[..*at]));
    let (scheme, rest) = text.split_at(start.map_or(0, |at| at + 3));
    let host = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // What stands behind a colon may be a password, which may have a slash.
    let authority = if host.contains(':') { rest } else { host };
    let is_digest = |text: &str| text.starts_with("sha256:") || text.starts_with("sha512:");
    let mut ends = authority.rmatch_indices('@').map(|(at, _)| at);
    match ends.find(|at| !is_digest(&authority[at + 1..])) {
        Some(end) => format!("{scheme}[secret]{}", &rest[end..]),
        None => text.to_owned(),
    }
}

/// What someone at the other end said, fit to be shown: one line of bounded length, without `secrets`, which
/// are values of the `Authorization` header, and without the queries of URLs.
pub fn redact_answer<'a>(text: &str, secrets: impl IntoIterator<Item = &'a Secret>) -> String {
    let mut text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    for secret in secrets {
        for form in forms(secret) {
            text = text.replace(&form, "[secret]");
        }
    }
    let mut text = without_queries(&redact_text(&text));
    if let Some((end, _)) = text.char_indices().nth(LONGEST_ANSWER) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The forms in which a value of `Authorization` may be repeated, the longest first: without its scheme, and a
/// password as the pair and as the word that it was before it was encoded.
fn forms(secret: &Secret) -> Vec<String> {
    let value = secret.reveal();
    let (scheme, bare) = value.split_once(' ').unwrap_or(("", value));
    let mut forms = vec![bare.to_owned()];
    if scheme.eq_ignore_ascii_case("basic")
        && let Some(pair) = BASE64.decode(bare).ok()
        && let Ok(pair) = String::from_utf8(pair)
        && let Some((_, password)) = pair.split_once(':')
        && password.chars().count() >= SHORTEST_PASSWORD
    {
        let password = password.to_owned();
        forms.extend([pair, password]);
    }
    forms.retain(|form| !form.is_empty());
    forms
}

fn without_queries(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let is_end = |c: char| c.is_whitespace() || "\"'`<>".contains(c);
        let end = rest[at..].find(is_end).map_or(rest.len(), |end| at + end);
        let (url, tail) = rest.split_at(end);
        match url[at..].find(['?', '#']) {
            Some(query) => {
                result.push_str(&url[..at + query]);
                result.push_str("?[secret]");
            }
            None => result.push_str(url),
        }
        rest = tail;
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_gives_no_secret_back() {
        let sent = [Secret::new("Bearer tok.en"), Secret::new("Basic bWU6cHc=")];
        let text =
            "no tok.en\nand no bWU6cHc=: see https://me:pw@b.test/k?X-Amz-Signature=abc#d, or ask";
        assert_eq!(
            redact_answer(text, &sent),
            "no [secret] and no [secret]: see https://[secret]@b.test/k?[secret] or ask"
        );
        let basic = |pair: &str| Secret::new(format!("Basic {}", BASE64.encode(pair)));
        let repeated = "wrong: me:pass:word, that is pass:word";
        assert_eq!(
            redact_answer(repeated, [&basic("me:pass:word")]),
            "wrong: [secret], that is [secret]"
        );
        let short = redact_answer("no a is no password", [&basic("me:a")]);
        assert_eq!(short, "no a is no password");
        let long = redact_answer(&"ü".repeat(5000), []);
        assert_eq!(long.chars().count(), LONGEST_ANSWER + 1);
    }

    #[test]
    fn a_name_has_no_user() {
        let secret = [
            ("me:s3cr3t@r.test", "[secret]@r.test"),
            ("me:s3cr3t@r.test:5000/a:1", "[secret]@r.test:5000/a:1"),
            ("s3cr3t@r.test/a", "[secret]@r.test/a"),
            ("me:s3c@r3t/+=@r.test/a", "[secret]@r.test/a"),
            ("me:12/s3cr3t@r.test/a", "[secret]@r.test/a"),
            ("me:a://s3cr3t@r.test/a", "[secret]@r.test/a"),
            ("https://me:s3c/r3t@r.test", "https://[secret]@r.test"),
            ("me:s3cr3t@r.test/a@sha256:1", "[secret]@r.test/a@sha256:1"),
        ];
        for (text, shown) in secret {
            assert_eq!(redact_name(text), shown);
        }
        for text in [
            "r.test:5000/a:1",
            "r.test/a@v1",
            "a@sha256:1",
            "a:1@sha256:1",
            "r.test/a:1@sha256:1",
            "http://r.test/",
            "[::1]:5000",
            "",
        ] {
            assert_eq!(redact_name(text), text);
        }
    }

    proptest! {
        #[test]
        fn any_name_can_be_shown(scheme in "(https?://)?", secret in "[a-z:/@?#]{0,9}", rest in "[a-z0-9./:@-]{0,20}") {
            let shown = redact_name(&format!("{scheme}me:{secret}S@{rest}"));
            prop_assert!(!shown.contains('S') || rest.starts_with("sha"), "{}", shown);
        }

        #[test]
        fn any_answer_can_be_shown(text in ".{0,80}", url in "[a-z:/?#@ü ]{0,40}") {
            let secret = Secret::new("Bearer s3cr3t");
            let shown = redact_answer(&format!("{text} s3cr3t {url}"), [&secret]);
            prop_assert!(!shown.contains("s3cr3t"));
            prop_assert!(!shown.contains(char::is_control));
        }
    }
}
