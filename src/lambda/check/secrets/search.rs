//! Keys in a text as it streams by, of which no more than the last few bytes are kept.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::lambda::check::secrets::may_have_tokens;

/// Larger files are not searched, in bytes.
const MAX_SEARCHED: u64 = 1 << 20;
/// As many bytes behind a key's beginning tell whether it is one.
const BEHIND: usize = 256;
/// Length of an access key's identifier, in bytes.
pub(super) const ACCESS_KEY: usize = 20;
/// Length of its secret part, in characters.
const SECRET_KEY: usize = 40;
/// A private key is no shorter in base64, in characters.
const SHORTEST_KEY: usize = 32;

/// What was found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// The identifier of an access key of AWS; it begins so.
    AccessKey(&'static str),
    /// The secret part of an access key of AWS.
    Passphrase,
    /// A private key.
    PrivateKey,
    /// A password or token, in a file that is for one.
    Token,
}

pub(super) static ACCESS_KEYS: LazyLock<[(&str, Finder<'static>); 2]> =
    LazyLock::new(|| ["AKIA", "ASIA"].map(|start| (start, Finder::new(start))));
static SECRET_KEYS: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    // `SecretAccessKey` and `secretAccessKey` are of AWS's own JSON, the last of settings in YAML.
    [
        "aws_secret_access_key",
        "AWS_SECRET_ACCESS_KEY",
        "ecretAccessKey",
        "secret_key",
    ]
    .map(Finder::new)
});
pub(super) static PRIVATE_KEY: LazyLock<Finder<'static>> =
    LazyLock::new(|| Finder::new("PRIVATE KEY-----"));
static TOKENS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["_authToken=", "\"auth\""].map(Finder::new));

/// Looks for secrets in a text file that streams by. It keeps no more than the last few bytes.
#[derive(Debug)]
pub(in crate::lambda::check) struct Search {
    tokens: bool,
    left: u64,
    before: Vec<u8>,
    started: bool,
    found: Option<Secret>,
}

impl Search {
    /// For a file of this path and size; none where nothing would be looked for.
    pub(in crate::lambda::check) fn new(path: &str, size: u64) -> Option<Self> {
        let compiled = [".pyc", ".so", ".gz", ".whl", ".zip", ".png", ".jpg"];
        if size > MAX_SEARCHED || compiled.iter().any(|ending| path.ends_with(ending)) {
            return None;
        }
        Some(Self {
            tokens: may_have_tokens(path),
            left: size,
            before: Vec::new(),
            started: false,
            found: None,
        })
    }

    /// The next bytes.
    pub(in crate::lambda::check) fn bytes(&mut self, bytes: &[u8]) {
        if !self.started {
            self.started = true;
            // What has such bytes is no text.
            if bytes[..bytes.len().min(BEHIND)].contains(&0) {
                self.left = 0;
            }
        }
        if self.found.is_some() || self.left == 0 {
            return;
        }
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if self.before.is_empty() {
            self.found = self.look(bytes);
            self.keep_end_of(bytes);
        } else {
            let whole = [&self.before, bytes].concat();
            self.found = self.look(&whole);
            self.keep_end_of(&whole);
        }
    }

    /// The end is looked at again with what comes, and the one byte before it tells where a word begins.
    fn keep_end_of(&mut self, bytes: &[u8]) {
        if self.left > 0 {
            self.before = bytes[bytes.len().saturating_sub(BEHIND + 1)..].to_vec();
        }
    }

    fn look(&self, bytes: &[u8]) -> Option<Secret> {
        let end = match self.left {
            0 => bytes.len(),
            _ => bytes.len().saturating_sub(BEHIND),
        };
        let key = ACCESS_KEYS.iter().find_map(|(start, finder)| {
            let mut places = finder.find_iter(bytes).take_while(|at| *at < end);
            let is_key = places.any(|at| is_access_key(bytes, at));
            is_key.then_some(Secret::AccessKey(start))
        });
        let secret = || {
            let is_there = |finder: &Finder<'_>| {
                let places = finder.find_iter(bytes).take_while(|at| *at < end);
                let mut rests = places.map(|at| &bytes[at + finder.needle().len()..]);
                rests.any(is_secret_key)
            };
            let is_key = SECRET_KEYS.iter().any(is_there);
            is_key.then_some(Secret::Passphrase)
        };
        let private = || {
            let mut places = PRIVATE_KEY.find_iter(bytes).take_while(|at| *at < end);
            let is_key = places.any(|at| is_private_key(&bytes[at..]));
            is_key.then_some(Secret::PrivateKey)
        };
        let token = || {
            let has = |finder: &Finder<'_>| finder.find(bytes).is_some();
            (self.tokens && TOKENS.iter().any(has)).then_some(Secret::Token)
        };
        key.or_else(secret).or_else(private).or_else(token)
    }

    /// What was found once all bytes have come.
    pub(in crate::lambda::check) fn end(self) -> Option<Secret> {
        self.found
    }
}

/// Whether there is the identifier of an access key at this place, that is a word of its own and no sample.
pub(super) fn is_access_key(bytes: &[u8], at: usize) -> bool {
    let Some(key) = bytes.get(at..at + ACCESS_KEY) else {
        return false;
    };
    let is_of_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let rest = &key[4..];
    let letters: BTreeSet<_> = rest.iter().collect();
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    rest.iter()
        .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        && !is_of_word(before)
        && !is_of_word(bytes.get(at + ACCESS_KEY))
        && !key.ends_with(b"EXAMPLE")
        // As `XXXXXXXXXXXXXXXX`.
        && letters.len() > 5
}

/// Whether a secret key follows its name: forty characters behind a sign that gives a value, and no sample.
fn is_secret_key(rest: &[u8]) -> bool {
    let between = rest.iter().take_while(|byte| b" \t\"':=,".contains(byte));
    let rest = &rest[between.count()..];
    let is_base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let length = rest.iter().take_while(is_base64).count();
    let letters: BTreeSet<_> = rest.iter().take(length).collect();
    length == SECRET_KEY && letters.len() > 10 && !rest[..length].ends_with(b"EXAMPLEKEY")
}

/// Whether a key follows, and not just the words that begin one: `bytes` begin at `PRIVATE KEY-----`.
pub(super) fn is_private_key(bytes: &[u8]) -> bool {
    let rest = &bytes[b"PRIVATE KEY-----".len()..bytes.len().min(BEHIND)];
    // A line's end may be one, or written as in JSON.
    let skipped = rest.iter().take_while(|byte| b"\r\n\\nr".contains(byte));
    let skipped = skipped.count();
    let body = &rest[skipped..];
    let is_base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let of_base64 = body.iter().take_while(is_base64).count();
    skipped > 0 && (of_base64 >= SHORTEST_KEY || body.starts_with(b"Proc-Type:"))
}
