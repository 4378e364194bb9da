//! Tests of the rules of keys and passwords.

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
        .file("root/.aws/credentials", KEY)
        .file("root/.netrc", "x")
        .file("root/.npmrc", "//registry/:_authToken=abc\n");
    insta::assert_snapshot!(found(image), @"
    LMB098 warning 1 var/task/.env: by its name it holds variables of some environment (3 bytes)
    LMB098 warning 1 var/task/.env.production: by its name it holds variables of some environment (20 bytes)
    LMB098 warning 1 var/task/id_ed25519: by its name it holds a private key of SSH (110 bytes)
    LMB098 warning 1 var/task/server.key: by its name it holds a private key (110 bytes)
    LMB098 warning 1 var/task/store.p12: by its name it holds a certificate with its private key (1 bytes)
    LMB098 warning 1 root/.aws/credentials: by its name it holds access keys of AWS (20 bytes)
    LMB098 warning 1 root/.netrc: by its name it holds passwords of servers (1 bytes)
    LMB098 warning 1 root/.npmrc: by its name it holds tokens (27 bytes)
    ");
    let image = Forge::sound()
        .file("var/task/store.jks", "x")
        .file("var/task/login.ppk", "x")
        .file("root/.kube/config", "x");
    insta::assert_snapshot!(found(image), @"
    LMB098 warning 1 var/task/store.jks: by its name it holds a store of keys (1 bytes)
    LMB098 warning 1 var/task/login.ppk: by its name it holds a private key of SSH (1 bytes)
    LMB098 warning 1 root/.kube/config: by its name it holds the access to a cluster (1 bytes)
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
    image.run["Labels"] = json!({"db-password": "hunter2hunter2", "API_KEY": "0123456789", "a": 1});
    insta::assert_snapshot!(found(image), @"
    LMB100 warning: the label `API_KEY` is a secret by its name, of 10 characters
    LMB100 warning: the label `db-password` is a secret by its name, of 14 characters
    ");
    let of_command = |entry: serde_json::Value, command: serde_json::Value| {
        let mut image = Forge::sound();
        image.run["Entrypoint"] = entry;
        image.run["Cmd"] = command;
        found(image)
    };
    let start = json!(["/var/lang/bin/python3.12", "-m", "awslambdaric"]);
    insta::assert_snapshot!(of_command(start.clone(), json!(["app.handler", "--token", "hunter2hunter2", "--api-key=0123456789"])), @"
    LMB100 warning: the command's `token` is a secret by its name, of 14 characters
    LMB100 warning: the command's `api-key` is a secret by its name, of 10 characters
    ");
    insta::assert_snapshot!(of_command(json!(["/bin/sh", "-c", "DB_PASSWORD='hunter2hunter2' run postgres://a:hunter2@db"]), json!(null)), @"
    LMB100 warning: the command's `DB_PASSWORD` is a secret by its name, of 14 characters
    LMB100 warning: a word of the command is an address with a password in it
    ");
    assert_eq!(of_command(start, json!(["app.handler"])), "");
}

#[test]
fn what_begins_like_a_token_again_and_again_is_looked_at_in_a_moment() {
    let long = "xoxb-".repeat(40_000);
    assert_eq!(secret_value("A", &long), None);
    let token = format!("github_pat_{}", "a1b2c3d4e5".repeat(8));
    assert!(secret_value("A", &token).is_some());
    let second = "http://a.test/,postgres://me:horsebattery@b.test/";
    assert!(secret_value("A", second).is_some());
    assert!(
        secret_value("mysqlPwd", "x").is_none()
            && secret_value("DB_PWD", "B1946ac92492d").is_some()
    );
    assert!(secret_value("clientSecret", "B1946ac92492d").is_some());
}
