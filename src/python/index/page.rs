//! A page of links to packages' files: the simple repository API in JSON or HTML, or any other page of HTML.
//!
//! The bytes are a stranger's, and are read to their end whatever they are. Of HTML only what an index may use is
//! understood: anchors, the base, comments and entities; there is no reader of it among our dependencies, and a
//! whole one would be larger than all that reads wheels. Who serves a page, and which file is wanted, is not
//! known here.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::http::Url;
use crate::python::credentials::without_user;
use crate::python::lock::Location;

/// What is asked for, the best first.
pub(super) const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// A link to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The file's name.
    pub name: String,
    /// Where it is, without fragment and user information.
    pub url: Url,
    /// Its hash, if the page says so.
    pub sha256: Option<Digest>,
    /// Its length in bytes, if the page says so.
    pub size: Option<u64>,
    /// The versions of Python that it is for, as written.
    pub requires_python: Option<String>,
}

/// A page of links is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is no JSON, or not of the API.
    #[error("it is not JSON of the simple repository API")]
    Json,
    /// It follows another version of the API.
    #[error("it follows version {0} of the simple repository API, not 1.x")]
    Version(String),
}

/// Reads the links of a page that lies at `base`.
///
/// # Errors
/// See [`Malformed`]; a link that leads nowhere is left out.
pub fn read(bytes: &[u8], content_type: &str, base: &Url) -> Result<Vec<Link>, Malformed> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.ends_with("json") {
        read_json(bytes, base)
    } else {
        read_html(&String::from_utf8_lossy(bytes), base)
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    meta: Meta,
    files: Vec<Item>,
}

#[derive(Deserialize, Default)]
struct Meta {
    #[serde(rename = "api-version")]
    version: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    size: Option<u64>,
    #[serde(rename = "requires-python")]
    requires_python: Option<String>,
}

fn read_json(bytes: &[u8], base: &Url) -> Result<Vec<Link>, Malformed> {
    let page: Page = serde_json::from_slice(bytes).map_err(|_| Malformed::Json)?;
    check_version(page.meta.version.as_deref())?;
    let link = |item: Item| {
        let sha256 = item.hashes.get("sha256").and_then(|hex| digest(hex));
        Some(Link {
            name: plain_name(item.filename)?,
            url: bare(&base.join(&item.url).ok()?)?,
            sha256,
            size: item.size,
            requires_python: item.requires_python,
        })
    };
    Ok(page.files.into_iter().filter_map(link).collect())
}

fn check_version(version: Option<&str>) -> Result<(), Malformed> {
    match version {
        Some(version) if version.split('.').next() != Some("1") => {
            Err(Malformed::Version(version.chars().take(16).collect()))
        }
        _ => Ok(()),
    }
}

fn digest(hex: &str) -> Option<Digest> {
    Digest::from_hex(&hex.to_ascii_lowercase()).ok()
}

/// A name that is one of a file and of nothing else.
fn plain_name(name: String) -> Option<String> {
    (!name.is_empty() && !name.contains(['/', '\\'])).then_some(name)
}

fn bare(url: &Url) -> Option<Url> {
    let mut url = without_user(url);
    url.set_fragment(None);
    matches!(url.scheme(), "http" | "https" | "file").then_some(url)
}

fn read_html(text: &str, page: &Url) -> Result<Vec<Link>, Malformed> {
    let mut base = page.clone();
    let mut links = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = after(comment, "-->");
            continue;
        }
        let tag;
        (tag, rest) = read_tag(rest);
        match tag.name.as_str() {
            // What stands in these is no HTML.
            "script" => rest = after(rest, "</script"),
            "style" => rest = after(rest, "</style"),
            "base" => {
                let joined = tag.attribute("href").and_then(|href| page.join(href).ok());
                base = joined.unwrap_or(base);
            }
            "meta" if tag.attribute("name") == Some("pypi:repository-version") => {
                check_version(tag.attribute("content"))?;
            }
            "a" => links.extend(tag.link(&base)),
            _ => {}
        }
    }
    Ok(links)
}

fn after<'a>(text: &'a str, end: &str) -> &'a str {
    let found = text.find(end);
    found.map_or("", |at| &text[at + end.len()..])
}

#[derive(Debug, Default)]
struct Tag {
    name: String,
    /// Names in small letters, values without entities.
    attributes: Vec<(String, String)>,
}

impl Tag {
    fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.attributes.iter();
        let found = attributes.find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    fn link(&self, base: &Url) -> Option<Link> {
        let url = base.join(self.attribute("href")?.trim()).ok()?;
        let fragment = url.fragment().unwrap_or_default();
        let mut parts = fragment.split('&');
        let sha256 = parts.find_map(|part| digest(part.strip_prefix("sha256=")?));
        let url = bare(&url)?;
        let requires_python = self.attribute("data-requires-python");
        Some(Link {
            name: plain_name(Location::Url(url.clone()).filename()?)?,
            url,
            sha256,
            size: None,
            requires_python: requires_python
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
        })
    }
}

/// The tag that begins here, behind its `<`, and what follows it.
fn read_tag(text: &str) -> (Tag, &str) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "/!-:".contains(c);
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let mut tag = Tag {
        name: text[..end].to_ascii_lowercase(),
        attributes: Vec::new(),
    };
    let mut rest = &text[end..];
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if rest.is_empty() {
            return (tag, rest);
        }
        if let Some(behind) = rest.strip_prefix('>') {
            return (tag, behind);
        }
        // A stray `=` counts as the first letter of a name, so that each turn takes something.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let is_end = |c: char| c.is_whitespace() || "=>/".contains(c);
        let end = rest[first..].find(is_end);
        let end = end.map_or(rest.len(), |at| first + at);
        let name = rest[..end].to_ascii_lowercase();
        let value;
        (value, rest) = read_value(rest[end..].trim_start());
        tag.attributes.push((name, without_entities(value)));
    }
}

/// The value of an attribute whose name stood before, and what follows it.
fn read_value(text: &str) -> (&str, &str) {
    let Some(text) = text.strip_prefix('=') else {
        return ("", text);
    };
    let text = text.trim_start();
    for quote in ['"', '\''] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let end = quoted.find(quote).unwrap_or(quoted.len());
            let behind = quoted.get(end + 1..).unwrap_or_default();
            return (&quoted[..end], behind);
        }
    }
    let is_end = |c: char| c.is_whitespace() || c == '>';
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

fn without_entities(text: &str) -> String {
    // As long as any that an index uses.
    const LONGEST: usize = 10;
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, tail) = rest.split_at(at);
        result.push_str(before);
        let mut near = tail.bytes().take(LONGEST + 1);
        let end = near.position(|byte| byte == b';');
        let letter = end.and_then(|end| entity(&tail[1..end]));
        if let (Some(letter), Some(end)) = (letter, end) {
            result.push(letter);
            rest = &tail[end + 1..];
        } else {
            result.push('&');
            rest = &tail[1..];
        }
    }
    result.push_str(rest);
    result
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let hexadecimal = number.strip_prefix(['x', 'X']);
        let code = match hexadecimal {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?);
    }
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base() -> Url {
        "https://index.test/simple/demo/".parse().unwrap()
    }

    /// The links of a page, a line each.
    fn rendering(links: &[Link]) -> String {
        let line = |link: &Link| {
            let hash = link.sha256.map(|digest| digest.hex()[..4].to_owned());
            let requires = link.requires_python.as_deref().unwrap_or("-");
            let size = link.size.map(|size| size.to_string());
            let [hash, size] = [hash, size].map(|field| field.unwrap_or("-".to_owned()));
            format!("{} {} {hash} {size} {requires}", link.name, link.url)
        };
        links.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn html(text: &str) -> String {
        rendering(&read(text.as_bytes(), "text/html; charset=utf-8", &base()).unwrap())
    }

    #[test]
    fn html_of_indexes_is_read() {
        let hash = "ab".repeat(32);
        let text = format!(
            "<!DOCTYPE html><html><head><meta name=\"pypi:repository-version\" content=\"1.3\">\
             <title>a <b</title><!-- <a href=no.whl> --></head><body>\
             <a href=\"../../files/demo-1.0-py3-none-any.whl#sha256={hash}\" \
             data-requires-python=\"&gt;=3.8,&lt;4\" data-yanked=\"\">demo</a><br/>\n\
             <A class=x HREF='https://me:pw@files.test/demo-1%2Bcpu-py3-none-any.whl?a=1&amp;b=2#egg=d&sha256={upper}'>\
             <a href=demo-1.0.tar.gz#md5=00 data-requires-python>x</a>\
             <a rel=internal>none</a><a href=\"mailto:a@b.test\">mail</a><a href=\"https://[\">broken</a>\
             <a href=\"/\">up</a><script>document.write('<a href=no.whl>')</script>\
             <a href=\"&#x64;emo&#45;2.zip\">unclosed <a href=\"last.whl",
            upper = hash.to_uppercase()
        );
        insta::assert_snapshot!(html(&text), @r"
        demo-1.0-py3-none-any.whl https://index.test/files/demo-1.0-py3-none-any.whl abab - >=3.8,<4
        demo-1+cpu-py3-none-any.whl https://files.test/demo-1%2Bcpu-py3-none-any.whl?a=1&b=2 abab - -
        demo-1.0.tar.gz https://index.test/simple/demo/demo-1.0.tar.gz - - -
        demo-2.zip https://index.test/simple/demo/demo-2.zip - - -
        last.whl https://index.test/simple/demo/last.whl - - -
        ");
    }

    #[test]
    fn a_base_moves_links() {
        let text = "<base href=\"/mirror/\"><a href=a.whl></a>";
        assert_eq!(html(text), "a.whl https://index.test/mirror/a.whl - - -");
    }

    #[test]
    fn json_of_indexes_is_read() {
        let hash = "ab".repeat(32);
        let text = serde_json::json!({
            "meta": {"api-version": "1.4"},
            "name": "demo",
            "versions": ["1.0"],
            "files": [
                {"filename": "demo-1.0-py3-none-any.whl", "url": "../../files/demo-1.0-py3-none-any.whl#x",
                 "hashes": {"sha256": hash, "md5": "00"}, "size": 12, "requires-python": ">=3.8", "yanked": "no"},
                {"filename": "demo-1.0.tar.gz", "url": "https://t@files.test/a/b", "hashes": {}, "yanked": false},
                {"filename": "../demo-1.0.tar.gz", "url": "x", "hashes": {}},
                {"filename": "demo.whl", "url": "ftp://files.test/demo.whl", "hashes": {}}
            ]
        });
        let kind = "application/vnd.pypi.simple.v1+json";
        let links = read(text.to_string().as_bytes(), kind, &base()).unwrap();
        insta::assert_snapshot!(rendering(&links), @r"
        demo-1.0-py3-none-any.whl https://index.test/files/demo-1.0-py3-none-any.whl abab 12 >=3.8
        demo-1.0.tar.gz https://files.test/a/b - - -
        ");
        for text in ["", "{}", "[]", "<a href=x.whl>"] {
            assert_eq!(read(text.as_bytes(), kind, &base()), Err(Malformed::Json));
        }
    }

    #[test]
    fn signs_without_an_end_take_no_time() {
        // Each was once looked for the end of through all that follow.
        let text = "&".repeat(4 << 20);
        assert_eq!(without_entities(&text), text);
        assert_eq!(
            without_entities("&#x1f600;&#12345678;&amp"),
            "\u{1f600}&#12345678;&amp"
        );
    }

    #[test]
    fn another_version_is_refused() {
        let json = "{\"meta\": {\"api-version\": \"2.0\"}, \"files\": []}";
        let html = "<meta name='pypi:repository-version' content='2.0'>";
        let expected = Err(Malformed::Version("2.0".to_owned()));
        assert_eq!(read(json.as_bytes(), "application/json", &base()), expected);
        assert_eq!(read(html.as_bytes(), "text/html", &base()), expected);
    }

    proptest! {
        #[test]
        fn any_page_is_read(text in "(<|>|</?a|</?b|base|meta |href|=|\"|'|&(amp|#x?[0-9a-f]{1,9}|lt);?|!--|-->|[ \n/\u{e9}x:#?]){0,60}") {
            let _ = read(text.as_bytes(), "text/html", &base());
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, "text/html", &base());
            let _ = read(&bytes, "application/json", &base());
        }

        #[test]
        fn a_link_is_read_back(name in "[a-z0-9_.+-]{1,20}\\.whl", quote in "[\"']") {
            let text = format!("<p><a\n href = {quote}{name}{quote} >{name}</a>");
            let links = read(text.as_bytes(), "text/html", &base()).unwrap();
            prop_assert_eq!(links.len(), 1);
            prop_assert_eq!(&links[0].name, &name);
        }
    }
}
