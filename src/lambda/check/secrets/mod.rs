//! Rules of what should be in no image: keys and passwords, in files, variables, labels and history.
//!
//! Only added layers are looked at, and not what distributions bring, for their tests and samples have keys of
//! nobody. A secret itself is never shown.

mod search;
mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};

use search::{ACCESS_KEY, ACCESS_KEYS, PRIVATE_KEY, is_access_key, is_private_key};

use crate::lambda::check::contents::Seen;
use crate::lambda::check::paths;
use crate::lambda::check::subject::{Documents, Subject};
use crate::lambda::check::{Fault, Level, Look, MOST, Rule, folded, wheels};
use crate::oci::flatten::{Entry, Kind};

pub(super) use search::{Search, Secret};
pub use words::{HIDDEN, shown};

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
        title: "No variable, label, command or build step of the config has a secret",
        why: "Whoever can pull the image can read its config, build arguments in its history included.",
        remedy: "Remove it, withdraw it where it was given, and set it on the function or read it from Secrets Manager; \
                 give builds their secrets by `RUN --mount=type=secret`.",
        look: Look::Documents(has_no_secrets_in_the_config),
    },
];

/// Whether a file of this path is one where a token has a name of its own.
fn may_have_tokens(path: &str) -> bool {
    paths::name(path) == ".npmrc" || path.ends_with(".docker/config.json")
}

/// What a file is by its name, if it is one that holds credentials.
fn kind_by_name(path: &str, found: Option<Secret>) -> Option<&'static str> {
    let name = paths::name(path);
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
        || image
            .python
            .as_ref()
            .is_some_and(|python| wheels::is_recorded(image, python, path))
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

/// No more of one is looked at, in characters.
const LONGEST_TOKEN: usize = 255;

/// What a value is, without the secret part, if a service's token is in it, as a word of its own and no sample.
fn issued_token(value: &str) -> Option<String> {
    ISSUED.iter().find_map(|(start, what, least, others)| {
        let mut places = value.match_indices(start);
        places.find_map(|(at, _)| {
            let is_word = !value[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let rest = &value.as_bytes()[at + start.len()..];
            let is_of_it = |byte: &&u8| byte.is_ascii_alphanumeric() || others.contains(byte);
            let rest = rest.iter().take(LONGEST_TOKEN);
            let length = rest.clone().take_while(is_of_it).count();
            let letters: BTreeSet<_> = rest.take(length).collect();
            let length = (is_word && length >= *least && letters.len() > 5).then_some(length)?;
            let all = start.len() + length;
            Some(format!("{what}, `{start}…` of {all} characters"))
        })
    })
}

/// Whether a value has an address with a user and a password before its host.
fn has_password(value: &str) -> bool {
    let passwords = value.split("://").skip(1).filter_map(|rest| {
        let authority = rest.split(['/', '?', '#']).next()?;
        let (user, _) = authority.rsplit_once('@')?;
        Some(user.split_once(':')?.1)
    });
    passwords.into_iter().any(|password| {
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

/// Whether a private key is in a text.
fn is_private(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut places = PRIVATE_KEY.find_iter(bytes);
    places.any(|at| is_private_key(&bytes[at..]))
}

/// Whether what has this name is a secret, as a rule.
fn is_named(name: &str) -> bool {
    let mut parts = String::new();
    for c in name.chars() {
        // As in `dbPassword`.
        if c.is_ascii_uppercase() && parts.ends_with(|c: char| c.is_ascii_lowercase()) {
            parts.push('_');
        }
        parts.push(c);
    }
    let name = parts.to_ascii_uppercase().replace(['-', '.'], "_");
    let endings = [
        "ACCESS_KEY",
        "ACCESS_KEY_ID",
        "API_KEY",
        "APIKEY",
        "PASS",
        "PASSPHRASE",
        "PASSWD",
        "PASSWORD",
        "PGPASSWORD",
        "PRIVATE_KEY",
        "SECRET",
        "SECRET_KEY",
        "TOKEN",
    ];
    endings.iter().any(|ending| {
        let before = name.strip_suffix(ending);
        before.is_some_and(|before| before.is_empty() || before.ends_with('_'))
    }) || name.ends_with("_PWD")
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
    if let Some(token) = issued_token(value) {
        return Some(token);
    }
    if has_password(value) {
        return Some("an address with a password in it".to_owned());
    }
    if is_private(value) {
        return Some("a private key".to_owned());
    }
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
    (is_named(name) && is_word && !leads_elsewhere && !is_sample).then(|| {
        format!(
            "a secret by its name, of {} characters",
            value.chars().count()
        )
    })
}

/// Whether the value that a name is given is a secret, by the name or by itself.
pub fn is_secret(name: &str, value: &str) -> bool {
    secret_value(name, value).is_some()
}

/// A step of a build with `…` for each secret in it.
pub fn without_secrets(command: &str) -> String {
    shown(&[command]).concat()
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
            let name = if name.is_empty() {
                String::new()
            } else {
                format!(" `{name}`")
            };
            faults.push(Fault::new(format!("{place}{name} is {what}")));
        }
    };
    for (name, value) in image.variables() {
        look("the variable", name, value);
    }
    for (name, value) in image.run("Labels").as_object().into_iter().flatten() {
        look("the label", name, value.as_str().unwrap_or_default());
    }
    let command = image.command();
    for (name, value) in given(&command) {
        let place = if name.is_empty() {
            "a word of the command"
        } else {
            "the command's"
        };
        look(place, name, value);
    }
    let steps = image.config.value["history"].as_array();
    for step in steps.into_iter().flatten() {
        let command = step["created_by"].as_str().unwrap_or_default();
        for (name, value) in assignments(command) {
            look("the build step's", &name, &value);
        }
    }
    folded(faults, MOST)
}

/// The words of a command, also those of a shell's, and the option or variable that each is given to, if there is one.
fn given<'a>(command: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let quotes = ['"', '\''];
    let words = command.iter().flat_map(|word| word.split_whitespace());
    let mut option = "";
    let given = words.map(|word| {
        let word = word.trim_matches(quotes);
        let is_option = word.starts_with('-');
        let before = std::mem::take(&mut option);
        match word.split_once('=') {
            Some((name, value)) => (name.trim_start_matches('-'), value.trim_matches(quotes)),
            None if is_option => {
                option = word.trim_start_matches('-');
                ("", word)
            }
            None => (before, word),
        }
    });
    given.collect()
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
