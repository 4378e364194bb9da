//! Rules of what should be in no image: keys and passwords, in files, variables, labels and history.
//!
//! Only added layers are looked at, and not what distributions bring, for their tests and samples have keys of
//! nobody. A secret itself is never shown.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::lambda::check::contents::Seen;
use crate::lambda::check::subject::{Documents, Subject};
use crate::lambda::check::{Fault, Level, Look, Rule, folded};
use crate::oci::flatten::{Entry, Kind};

/// As many findings of one rule are shown.
const MOST: usize = 10;
/// Larger files are not searched, in bytes.
const MAX_SEARCHED: u64 = 1 << 20;
/// As many bytes behind a key's beginning tell whether it is one.
const BEHIND: usize = 256;
/// Length of an access key's identifier, in bytes.
const ACCESS_KEY: usize = 20;
/// Length of its secret part, in characters.
const SECRET_KEY: usize = 40;
/// A private key is no shorter in base64, in characters.
const SHORTEST_KEY: usize = 32;
/// Shorter values are no secrets, in characters.
const SHORTEST_VALUE: usize = 8;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB098",
        level: Level::Warning,
        title: "No added file is one of those that hold credentials",
        why: "Whoever can pull the image can read it, in every layer, also where an upper layer hides it.",
        remedy: "Leave it out of the image, change what it holds, and give the function its secrets by its role, Secrets \
                 Manager or Parameter Store.",
        look: Look::Files(has_no_files_of_credentials),
    },
    Rule {
        id: "LMB099",
        level: Level::Warning,
        title: "No added file has an AWS access key or a private key in it",
        why: "Whoever can pull the image can read it, in every layer, also where an upper layer hides it.",
        remedy: "Remove the key from the file, withdraw it where it was given, and give the function its secrets by its \
                 role, Secrets Manager or Parameter Store.",
        look: Look::Files(has_no_keys),
    },
    Rule {
        id: "LMB100",
        level: Level::Warning,
        title: "No variable, label or build step of the config has a secret",
        why: "Whoever can pull the image can read its config, build arguments in its history included.",
        remedy: "Remove it, withdraw it where it was given, and set it on the function or read it from Secrets Manager; \
                 give builds their secrets by `RUN --mount=type=secret`.",
        look: Look::Documents(has_no_secrets_in_the_config),
    },
];

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

static ACCESS_KEYS: LazyLock<[(&str, Finder<'static>); 2]> =
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
static PRIVATE_KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("PRIVATE KEY-----"));
static TOKENS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["_authToken=", "\"auth\""].map(Finder::new));

/// Looks for secrets in a text file that streams by. It keeps no more than the last few bytes.
#[derive(Debug)]
pub(super) struct Search {
    tokens: bool,
    left: u64,
    before: Vec<u8>,
    started: bool,
    found: Option<Secret>,
}

impl Search {
    /// For a file of this path and size; none where nothing would be looked for.
    pub(super) fn new(path: &str, size: u64) -> Option<Self> {
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
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
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
    pub(super) fn end(self) -> Option<Secret> {
        self.found
    }
}

/// Whether there is the identifier of an access key at this place, that is a word of its own and no sample.
fn is_access_key(bytes: &[u8], at: usize) -> bool {
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
fn is_private_key(bytes: &[u8]) -> bool {
    let rest = &bytes[b"PRIVATE KEY-----".len()..bytes.len().min(BEHIND)];
    // A line's end may be one, or written as in JSON.
    let skipped = rest.iter().take_while(|byte| b"\r\n\\nr".contains(byte));
    let skipped = skipped.count();
    let body = &rest[skipped..];
    let is_base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let of_base64 = body.iter().take_while(is_base64).count();
    skipped > 0 && (of_base64 >= SHORTEST_KEY || body.starts_with(b"Proc-Type:"))
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a file of this path is one where a token has a name of its own.
fn may_have_tokens(path: &str) -> bool {
    name_of(path) == ".npmrc" || path.ends_with(".docker/config.json")
}

/// What a file is by its name, if it is one that holds credentials.
fn kind_by_name(path: &str, found: Option<Secret>) -> Option<&'static str> {
    let name = name_of(path);
    let samples = ["dist", "example", "sample", "template"];
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let is_environment = name == ".env" || name.starts_with(".env.");
    match name {
        "id_rsa" | "id_ed25519" | "id_ecdsa" | "id_dsa" => Some("a private key of SSH"),
        ".netrc" => Some("passwords of servers"),
        ".pypirc" => Some("passwords of package indexes"),
        ".git-credentials" => Some("passwords of repositories"),
        "credentials" if path.ends_with(".aws/credentials") => Some("access keys of AWS"),
        _ if is_environment && !samples.contains(&ending) => Some("variables of some environment"),
        "config" if path.ends_with(".kube/config") => Some("the access to a cluster"),
        _ if ending == "ppk" => Some("a private key of SSH"),
        _ if ending == "jks" => Some("a store of keys"),
        _ if matches!(ending, "p12" | "pfx") => Some("a certificate with its private key"),
        _ if matches!(ending, "pem" | "key") && found == Some(Secret::PrivateKey) => {
            Some("a private key")
        }
        _ if may_have_tokens(path) && found.is_some() => Some("tokens"),
        _ => None,
    }
}

/// A file of an added layer.
struct Own<'a> {
    /// Its layer, and its place there.
    at: (usize, usize),
    path: String,
    entry: &'a Entry<Seen>,
}

/// The files of added layers that are the user's own, hidden ones too.
fn own_files(image: &Subject) -> impl Iterator<Item = Own<'_>> {
    let layers = image.layers.iter().enumerate().skip(image.base);
    let entries = layers.flat_map(|(layer, its)| {
        let entries = its.entries.iter().enumerate();
        entries.map(move |(number, entry)| ((layer, number), entry))
    });
    let files = entries.filter(|(_, entry)| entry.kind == Kind::File && entry.size > 0);
    files.map(|(at, entry)| Own {
        at,
        path: entry.path(),
        entry,
    })
}

/// Directories of what others made: systems and their packages.
const OF_OTHERS: [&str; 9] = [
    "etc/pki/",
    "etc/ssl/",
    "usr/lib/",
    "usr/lib64/",
    "usr/libexec/",
    "usr/local/lib/",
    "usr/share/",
    "var/lang/",
    "var/runtime/",
];

/// Whether a file came with a distribution or a package of the system, or is there for tests.
fn is_of_others(image: &Subject, path: &str) -> bool {
    let mut parts: Vec<_> = path.split('/').collect();
    parts.pop();
    let installed = [
        "site-packages",
        "dist-packages",
        "node_modules",
        "test",
        "tests",
        "testing",
        "testdata",
        "fixtures",
        "examples",
        "SelfTest",
    ];
    let is_in = |directory: &&str| path.starts_with(*directory);
    // Where there is no telling the base from the rest, the system's settings are its own.
    let is_systems = image.base == 0 && ["etc/", "usr/"].iter().any(is_in);
    is_systems
        || OF_OTHERS.iter().any(is_in)
        || parts.iter().any(|part| installed.contains(part))
        || (1..=parts.len()).any(|depth| is_recorded(image, &parts[..depth].join("/"), path))
}

/// Whether a `RECORD` of a distribution that was installed into `directory` lists the file.
fn is_recorded(image: &Subject, directory: &str, path: &str) -> bool {
    let Some(below) = path.strip_prefix(directory) else {
        return false;
    };
    let below = below.trim_start_matches('/');
    let lists = |record: &str| {
        let found = image.get(record);
        let seen = found.and_then(|found| found.entry.seen.as_ref());
        // What is not known may list it.
        if seen.is_some_and(|seen| seen.is_dropped) {
            return true;
        }
        let text = seen.and_then(|seen| seen.kept.as_deref());
        let text = String::from_utf8_lossy(text.unwrap_or_default());
        text.lines().any(|line| {
            let name = line.trim_start_matches('"');
            let rest = name.strip_prefix(below);
            rest.is_some_and(|rest| rest.starts_with([',', '"']))
        })
    };
    let mut records = image.tree.paths_below(directory).filter(|path| {
        let inside = path[directory.len() + 1..].strip_suffix(".dist-info/RECORD");
        inside.is_some_and(|name| !name.contains('/'))
    });
    records.any(lists)
}

/// A fault of a file: whether it is there or hidden is told by what is shown of all layers.
fn fault(shown: &HashSet<(usize, usize)>, file: &Own<'_>, message: &str) -> Fault {
    let hidden = if shown.contains(&file.at) {
        ""
    } else {
        "; an upper layer hides it, and it is in the image all the same"
    };
    Fault::new(format!("{message}{hidden}"))
        .layer(file.at.0)
        .path(&file.path)
}

fn found_in(entry: &Entry<Seen>) -> Option<Secret> {
    entry.seen.as_ref()?.secret
}

fn has_no_files_of_credentials(image: &Subject) -> Vec<Fault> {
    let shown = image.tree.shown();
    let faults = own_files(image).filter_map(|file| {
        let kind = kind_by_name(&file.path, found_in(file.entry))?;
        if is_of_others(image, &file.path) {
            return None;
        }
        let size = file.entry.size;
        let message = format!("by its name it holds {kind} ({size} bytes)");
        Some(fault(&shown, &file, &message))
    });
    folded(faults.collect(), MOST)
}

fn has_no_keys(image: &Subject) -> Vec<Fault> {
    let shown = image.tree.shown();
    let faults = own_files(image).filter_map(|file| {
        let found = found_in(file.entry)?;
        let is_named = kind_by_name(&file.path, Some(found)).is_some();
        if is_named || is_of_others(image, &file.path) {
            return None;
        }
        let message = match found {
            Secret::AccessKey(start) => {
                format!("it has an access key of AWS, `{start}…` of {ACCESS_KEY} characters")
            }
            Secret::Passphrase => "it has the secret part of an access key of AWS".to_owned(),
            Secret::PrivateKey => "it has a private key".to_owned(),
            Secret::Token => return None,
        };
        Some(fault(&shown, &file, &message))
    });
    folded(faults.collect(), MOST)
}

/// How tokens of services begin, whose they are, and how many letters, digits and other characters at least follow.
const ISSUED: [(&str, &str, usize, &[u8]); 14] = [
    ("ghp_", "a token of GitHub", 36, b""),
    ("gho_", "a token of GitHub", 36, b""),
    ("ghu_", "a token of GitHub", 36, b""),
    ("ghs_", "a token of GitHub", 36, b""),
    ("ghr_", "a token of GitHub", 36, b""),
    ("github_pat_", "a token of GitHub", 60, b"_"),
    ("sk_live_", "a key of Stripe", 24, b""),
    ("rk_live_", "a key of Stripe", 24, b""),
    ("xoxa-", "a token of Slack", 20, b"-"),
    ("xoxb-", "a token of Slack", 20, b"-"),
    ("xoxp-", "a token of Slack", 20, b"-"),
    ("xoxr-", "a token of Slack", 20, b"-"),
    ("xoxs-", "a token of Slack", 20, b"-"),
    ("xoxe-", "a token of Slack", 20, b"-"),
];

/// What a value is, without the secret part, if a service's token is in it, as a word of its own and no sample.
fn issued_token(value: &str) -> Option<String> {
    ISSUED.iter().find_map(|(start, what, least, others)| {
        let mut places = value.match_indices(start);
        places.find_map(|(at, _)| {
            let is_word = !value[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let rest = &value.as_bytes()[at + start.len()..];
            let is_of_it = |byte: &&u8| byte.is_ascii_alphanumeric() || others.contains(byte);
            let length = rest.iter().take_while(is_of_it).count();
            let letters: BTreeSet<_> = rest[..length].iter().collect();
            let length = (is_word && length >= *least && letters.len() > 5).then_some(length)?;
            let all = start.len() + length;
            Some(format!("{what}, `{start}…` of {all} characters"))
        })
    })
}

/// Whether a value is an address with a user and a password before its host.
fn has_password(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let password = user.and_then(|user| Some(user.split_once(':')?.1));
    password.is_some_and(|password| {
        let is_word = ["pass", "password", "pw", "pwd", "secret"].contains(&password);
        let is_asked_for = password.starts_with(['$', '{', '<', '*']);
        !password.is_empty() && !is_word && !is_asked_for && !is_placeholder(password)
    })
}

/// Whether a value says that another is to take its place.
fn is_placeholder(value: &str) -> bool {
    let value = value.to_ascii_lowercase().replace(['-', '_', ' '], "");
    let starts = [
        "changeme",
        "changeit",
        "replaceme",
        "placeholder",
        "dummy",
        "example",
        "insert",
        "your",
        "xxxx",
    ];
    starts.iter().any(|start| value.starts_with(start))
}

/// What makes a value a secret, if it is one by its name or by itself. The secret itself is not in it.
pub(super) fn secret_value(name: &str, value: &str) -> Option<String> {
    let bytes = value.as_bytes();
    let mut keys = ACCESS_KEYS.iter();
    let key = keys.find(|(_, finder)| finder.find_iter(bytes).any(|at| is_access_key(bytes, at)));
    if let Some((start, _)) = key {
        return Some(format!(
            "an access key of AWS, `{start}…` of {ACCESS_KEY} characters"
        ));
    }
    if has_password(value) {
        return Some("an address with a password in it".to_owned());
    }
    if let Some(token) = issued_token(value) {
        return Some(token);
    }
    if PRIVATE_KEY
        .find_iter(bytes)
        .any(|at| is_private_key(&bytes[at..]))
    {
        return Some("a private key".to_owned());
    }
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let endings = [
        "ACCESS_KEY",
        "ACCESS_KEY_ID",
        "API_KEY",
        "APIKEY",
        "PASS",
        "PASSWD",
        "PASSWORD",
        "PGPASSWORD",
        "PRIVATE_KEY",
        "SECRET",
        "SECRET_KEY",
        "TOKEN",
    ];
    let is_named = endings.iter().any(|ending| {
        let before = name.strip_suffix(ending);
        before.is_some_and(|before| before.is_empty() || before.ends_with('_'))
    });
    // Where to find a secret is none.
    let leads_elsewhere = ["arn:", "/", "http:", "https:", "$", "{", "<", "ssm:", "s3:"]
        .iter()
        .any(|start| value.starts_with(start));
    let is_sample =
        value.ends_with("EXAMPLE") || value.ends_with("EXAMPLEKEY") || is_placeholder(value);
    // Words are a secret's name in some manager, where it is to be looked up.
    let is_name = |byte: u8| byte.is_ascii_lowercase() || b"-_./".contains(&byte);
    let leads_elsewhere =
        leads_elsewhere || (value.contains(['-', '_', '.', '/']) && value.bytes().all(is_name));
    let is_word = value.len() >= SHORTEST_VALUE && !value.contains(char::is_whitespace);
    (is_named && is_word && !leads_elsewhere && !is_sample).then(|| {
        format!(
            "a secret by its name, of {} characters",
            value.chars().count()
        )
    })
}

fn has_no_secrets_in_the_config(image: &Documents) -> Vec<Fault> {
    let mut known = BTreeSet::new();
    let mut faults = Vec::new();
    let mut look = |place: &str, name: &str, value: &str| {
        let Some(what) = secret_value(name, value) else {
            return;
        };
        // A step of the build that sets a variable is not told twice.
        if known.insert((name.to_owned(), value.to_owned())) {
            faults.push(Fault::new(format!("the {place} `{name}` is {what}")));
        }
    };
    for (name, value) in image.variables() {
        look("variable", name, value);
    }
    for (name, value) in image.run("Labels").as_object().into_iter().flatten() {
        look("label", name, value.as_str().unwrap_or_default());
    }
    let steps = image.config.value["history"].as_array();
    for step in steps.into_iter().flatten() {
        let command = step["created_by"].as_str().unwrap_or_default();
        for (name, value) in assignments(command) {
            look("build step's", &name, &value);
        }
    }
    folded(faults, MOST)
}

/// `NAME=value` in a build step, without quotes around the value.
fn assignments(command: &str) -> impl Iterator<Item = (String, String)> {
    command.split_whitespace().filter_map(|word| {
        let (name, value) = word.trim_matches(['"', '\'']).split_once('=')?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let named = !name.is_empty() && name.bytes().all(is_name);
        named.then(|| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::check::testing::Forge;
    use serde_json::json;

    // In parts, so that this file has none.
    const KEY: &str = concat!("AK", "IAQ3EGP5XWTF7MNB2Z");
    const PEM: &str = concat!(
        "-----BEGIN RSA PRIVATE",
        " KEY-----\n",
        "MIIEpAIBAAKCAQEAx4UbaDzY5xjW6hc9jwN0mX33XpTDVW7\n",
        "-----END RSA PRIVATE",
        " KEY-----\n"
    );

    fn found(image: Forge) -> String {
        image.findings_of("LMB098".."LMB101")
    }

    fn search(path: &str, chunks: &[&[u8]]) -> Option<Secret> {
        let size = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let mut search = Search::new(path, size)?;
        for chunk in chunks {
            search.bytes(chunk);
        }
        search.end()
    }

    #[test]
    fn keys_are_found_wherever_the_stream_is_cut() {
        for (secret, expected) in [(KEY, Secret::AccessKey("AKIA")), (PEM, Secret::PrivateKey)] {
            let text = format!(
                "{}\nkey = \"{secret}\"\n{}",
                "x".repeat(700),
                "y\n".repeat(400)
            );
            for at in 0..text.len() {
                let (one, two) = text.as_bytes().split_at(at);
                assert_eq!(search("a.txt", &[one, two]), Some(expected), "{at}");
            }
            let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
            assert_eq!(search("a.txt", &bytes), Some(expected));
        }
    }

    #[test]
    fn what_only_looks_like_a_key_is_none() {
        let longer = format!("{KEY}A");
        let before = format!("X{KEY}");
        let innocent = [
            "AKIAIOSFODNN7EXAMPLE",
            "AKIAXXXXXXXXXXXXXXXX",
            "AKIA0189018901890189",
            longer.as_str(),
            before.as_str(),
            "-----BEGIN PRIVATE KEY-----",
            "marker = b\"-----BEGIN PRIVATE KEY-----\"\nother = 1\n",
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
            "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKCAQEAx4UbaDzY5xjW6hc9jwN0mX33XpTDVW7\n",
        ];
        for text in innocent {
            let bytes: Vec<_> = text.as_bytes().chunks(7).collect();
            assert_eq!(search("a.py", &[text.as_bytes()]), None, "{text}");
            assert_eq!(search("a.py", &bytes), None, "{text}");
        }
        assert_eq!(search("a.bin", &[b"\0", KEY.as_bytes()]), None);
        assert_eq!(search("a.pyc", &[KEY.as_bytes()]), None);
        let key = "abcdefghij0123456789ABCDEFGHIJ0123456789";
        for text in [
            format!("{{\"SecretAccessKey\": \"{key}\"}}"),
            format!("secret_key: {key}\n"),
        ] {
            let found = search("a.json", &[text.as_bytes()]);
            assert_eq!(found, Some(Secret::Passphrase), "{text}");
        }
        let json = PEM.replace('\n', "\\n");
        assert_eq!(
            search("a.json", &[json.as_bytes()]),
            Some(Secret::PrivateKey)
        );
    }

    #[test]
    fn files_that_hold_credentials() {
        assert_eq!(found(Forge::sound()), "");
        let innocent = Forge::sound()
            .file("var/task/.env.example", "A=b")
            .file("var/task/.env", "")
            .file("var/task/ca.pem", "-----BEGIN CERTIFICATE-----\n")
            .file("var/task/id_rsa.pub", "ssh-rsa A")
            .file("var/task/credentials", "x")
            .file("var/task/.npmrc", "save-exact=true")
            .file("var/task/tests/id_rsa", PEM)
            .file("var/task/site-packages/sample.py", KEY)
            .file("var/task/some/key.pem", PEM)
            .file(
                "var/task/some-1.dist-info/RECORD",
                "some/key.pem,sha256=x,1\n",
            );
        assert_eq!(found(innocent), "");
        let image = Forge::sound()
            .file("var/task/.env", "A=b")
            .file("var/task/.env.production", KEY)
            .file("var/task/id_ed25519", PEM)
            .file("var/task/server.key", PEM)
            .file("var/task/store.p12", "x")
            .file("var/task/store.jks", "x")
            .file("var/task/login.ppk", "x")
            .file("root/.kube/config", "x")
            .file("root/.aws/credentials", KEY)
            .file("root/.netrc", "x")
            .file("root/.npmrc", "//registry/:_authToken=abc\n");
        insta::assert_snapshot!(found(image), @"
        LMB098 warning 1 var/task/.env: by its name it holds variables of some environment (3 bytes)
        LMB098 warning 1 var/task/.env.production: by its name it holds variables of some environment (20 bytes)
        LMB098 warning 1 var/task/id_ed25519: by its name it holds a private key of SSH (110 bytes)
        LMB098 warning 1 var/task/server.key: by its name it holds a private key (110 bytes)
        LMB098 warning 1 var/task/store.p12: by its name it holds a certificate with its private key (1 bytes)
        LMB098 warning 1 var/task/store.jks: by its name it holds a store of keys (1 bytes)
        LMB098 warning 1 var/task/login.ppk: by its name it holds a private key of SSH (1 bytes)
        LMB098 warning 1 root/.kube/config: by its name it holds the access to a cluster (1 bytes)
        LMB098 warning 1 root/.aws/credentials: by its name it holds access keys of AWS (20 bytes)
        LMB098 warning 1 root/.netrc: by its name it holds passwords of servers (1 bytes)
        LMB098 warning 1 root/.npmrc: by its name it holds tokens (27 bytes)
        ");
    }

    #[test]
    fn keys_in_files() {
        let image = Forge::sound()
            .file("var/task/config.py", format!("KEY = '{KEY}'\n"))
            .file("var/task/service.json", PEM.replace('\n', "\\n"))
            .layer()
            .file("var/task/.wh.config.py", "");
        insta::assert_snapshot!(found(image), @"
        LMB099 warning 1 var/task/config.py: it has an access key of AWS, `AKIA…` of 20 characters; an upper layer hides it, and it is in the image all the same
        LMB099 warning 1 var/task/service.json: it has a private key
        ");
        let linked = Forge::sound()
            .link("data", "var/task")
            .layer()
            .file("data/id_rsa", PEM)
            .file("data/settings", KEY);
        insta::assert_snapshot!(found(linked), @"
        LMB098 warning 2 data/id_rsa: by its name it holds a private key of SSH (110 bytes)
        LMB099 warning 2 data/settings: it has an access key of AWS, `AKIA…` of 20 characters
        ");
        let base = Forge::new()
            .file("etc/os-release", KEY)
            .file("id_rsa", PEM)
            .layer()
            .dir("var");
        assert_eq!(found(base), "");
    }

    #[test]
    fn secrets_in_the_config() {
        let of = |variables: &[&str], history: serde_json::Value| {
            let mut image = Forge::sound();
            let own = image.run["Env"].as_array_mut().unwrap();
            own.extend(variables.iter().map(|line| json!(line)));
            image.config = json!({"os": "linux", "architecture": "amd64", "history": history});
            found(image)
        };
        let innocent = [
            "GPG_KEY=7169605F62C751356D054A26A821E680E5FA6305",
            "DB_SECRET=arn:aws:secretsmanager:eu-west-1:1:secret:a",
            "SECRET_NAME=some-database-secret",
            "TOKEN=short",
            "DB_PASSWORD=changeme",
            "DATABASE_URL=postgres://db:5432/orders",
            "BROKER_URL=amqp://user:${PASSWORD}@broker",
            "PROXY=http://user:password@host",
            "COMPASS=0123456789",
            "API_KEY=<your-key-here>",
            "API_TOKEN=YOUR_TOKEN_HERE",
            "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "PASSWORD=$DATABASE_PASSWORD",
            "TOKENIZERS_PARALLELISM=false",
        ];
        assert_eq!(
            of(
                &innocent,
                json!([{"created_by": "RUN pip install --token=x a==1"}])
            ),
            ""
        );
        let variable = format!("SOME={KEY}");
        let step = format!("ENV SOME={KEY}");
        insta::assert_snapshot!(of(&[&variable, "AWS_SECRET_ACCESS_KEY=abcdefghijklmnop"], json!([{"created_by": step}])), @"
        LMB100 warning: the variable `SOME` is an access key of AWS, `AKIA…` of 20 characters
        LMB100 warning: the variable `AWS_SECRET_ACCESS_KEY` is a secret by its name, of 16 characters
        ");
        insta::assert_snapshot!(of(&[], json!([{"created_by": "|1 NPM_TOKEN=npm_0123456789 /bin/sh -c npm ci"}])), @"LMB100 warning: the build step's `NPM_TOKEN` is a secret by its name, of 14 characters");
        let plain = [
            "PGPASSWORD=hunter2hunter2",
            "DB_PASS=hunter2hunter2",
            "DATABASE_URL=postgres://app:hunter2@db:5432/orders",
        ];
        insta::assert_snapshot!(of(&plain, json!([])), @"
        LMB100 warning: the variable `PGPASSWORD` is a secret by its name, of 14 characters
        LMB100 warning: the variable `DB_PASS` is a secret by its name, of 14 characters
        LMB100 warning: the variable `DATABASE_URL` is an address with a password in it
        ");
        let tokens = [
            concat!("gh", "p_16C7e42F292c6912E7710c838347Ae178B4a"),
            concat!(
                "github",
                "_pat_11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ0123456789aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
            ),
            concat!("sk", "_live_4eC39HqLyjWDarjtT1zdp7dc"),
            concat!("xo", "xb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy"),
        ];
        let of_tokens = tokens.map(|token| of(&[&format!("A=https://a:{token}@b")], json!([])));
        insta::assert_snapshot!(of_tokens.join("\n"), @"
        LMB100 warning: the variable `A` is a token of GitHub, `ghp_…` of 40 characters
        LMB100 warning: the variable `A` is a token of GitHub, `github_pat_…` of 92 characters
        LMB100 warning: the variable `A` is a key of Stripe, `sk_live_…` of 32 characters
        LMB100 warning: the variable `A` is a token of Slack, `xoxb-…` of 53 characters
        ");
        let no_tokens = [
            "A=ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "B=ghp_short",
            "C=task_live_4eC39HqLyjWDarjtT1zdp7dc",
            "D=xoxb-",
            "E=sk_test_4eC39HqLyjWDarjtT1zdp7dc",
        ];
        assert_eq!(of(&no_tokens, json!([])), "");
        let mut image = Forge::sound();
        image.run["Labels"] =
            json!({"db-password": "hunter2hunter2", "API_KEY": "0123456789", "a": 1});
        insta::assert_snapshot!(found(image), @"
        LMB100 warning: the label `API_KEY` is a secret by its name, of 10 characters
        LMB100 warning: the label `db-password` is a secret by its name, of 14 characters
        ");
    }
}
