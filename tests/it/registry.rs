//! What passes between lambimg and registries: who it says it is and to whom, which bytes move and
//! which need not, and every kind of image that `push` takes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::http;
use crate::support::image::Image;
use crate::support::image::assert_whole;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::registry::PASSWORD;
use crate::support::registry::Registry;
use crate::support::registry::USER;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;
use crate::support::tokens::IDENTITY;
use crate::support::tokens::SERVICE;
use crate::support::tokens::TokenServer;
use crate::support::wheel::Wheel;

const NETWORK: i32 = 4;
const USAGE: i32 = 2;

// --- tokens -------------------------------------------------------------------------------------

const REPOSITORIES: [&str; 2] = ["lambda/python", "functions/hello"];

#[test]
fn tokens_are_asked_for_what_is_to_be_done() {
    let tokens = TokenServer::start();
    let registry = Registry::start_with_tokens(&tokens, &REPOSITORIES);
    let base = Base::aws("3.12").copy_to(&registry);
    let project = Project::with_handler();
    project
        .lambimg(["build", "--base", &base, "-t", "hello"])
        .succeed();
    let asked = tokens.requests();
    assert!(!asked.is_empty());
    for request in &asked {
        assert!(!request.with_credentials, "{request:?}");
        assert_eq!(request.service, SERVICE);
        assert_eq!(request.scopes, ["repository:lambda/python:pull"]);
    }

    project.login(registry.address(), USER, PASSWORD);
    let target = registry.name("functions/hello:1");
    project.lambimg(["push", "hello", &target]).succeed();
    let image = Image::in_registry(&registry, &target);
    image.assert_accepted_by_lambda();
    let new = &tokens.requests()[asked.len()..];
    assert_eq!(new.len(), 2, "one token to push, one to mount: {new:#?}");
    let scopes = [
        "repository:functions/hello:pull,push",
        "repository:lambda/python:pull",
    ];
    assert_eq!(new[0].scopes, scopes[..1]);
    assert_eq!(new[1].scopes, scopes);
    for request in new {
        assert!(request.with_credentials);
        assert_eq!(request.service, SERVICE);
    }
    let mounts = registry.log().matches("mount=sha256").count();
    assert!(mounts > 0, "the token allowed to mount the base's layers");
}

#[test]
fn token_without_credentials_is_refused() {
    let tokens = TokenServer::start();
    let registry = Registry::start_with_tokens(&tokens, &REPOSITORIES);
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let target = registry.name("functions/hello:1");
    let outcome = project
        .lambimg(["build", "--base", &base, "-t", &target, "--push"])
        .run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_eq!(registry.tags("functions/hello"), Vec::<String>::new());
    assert_said!(outcome);
}

#[test]
fn token_server_refuses_credentials() {
    let tokens = TokenServer::start();
    let registry = Registry::start_with_tokens(&tokens, &REPOSITORIES);
    let project = Project::with_handler();
    project.login(registry.address(), USER, "wrong");
    let base = Base::aws("3.12").reference();
    let target = registry.name("functions/hello:1");
    let outcome = project
        .lambimg(["build", "--base", &base, "-t", &target, "--push"])
        .run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
}

// --- credential helpers -------------------------------------------------------------------------

/// A helper that knows one registry, says so as Docker's own do, and notes what it was asked.
fn helper(registry: &Registry) -> String {
    format!(
        "read -r server\n\
         echo \"$1 $server\" >> \"$HOME/asked\"\n\
         if [ \"$1 $server\" != 'get {address}' ]; then\n\
         echo 'credentials not found in native keychain'; exit 1\n\
         fi\n\
         echo '{{\"ServerURL\": \"{address}\", \"Username\": \"{USER}\", \"Secret\": \"{PASSWORD}\"}}'\n",
        address = registry.address()
    )
}

#[test]
fn credential_helpers_are_asked() {
    let registry = Registry::start_with_password();
    let base = Base::aws("3.12").reference();
    let address = registry.address();
    let stale = STANDARD.encode("lambimg:stale");
    let settings = [
        json!({"credHelpers": {address: "test"}, "credsStore": "absent"}),
        json!({"credsStore": "test"}),
        // Docker leaves an empty entry where a store has the secret.
        json!({"auths": {address: {}}, "credsStore": "test"}),
        json!({"auths": {address: {"auth": stale}}, "credHelpers": {address: "test"}}),
    ];
    for (number, config) in settings.iter().enumerate() {
        let project = Project::with_handler();
        project.docker_config(config);
        let target = registry.name(&format!("functions/helped:{number}"));
        project
            .lambimg(["build", "--base", &base, "-t", &target, "--push"])
            .script("docker-credential-test", &helper(&registry))
            .succeed();
        let asked = fs::read_to_string(project.home().join("asked")).unwrap();
        let of_registry = asked.matches(&format!("get {address}\n")).count();
        assert_eq!(of_registry, 1, "{config}: asked once and no more: {asked}");
    }
}

#[test]
fn credentials_beside_a_helper_that_has_none() {
    let registry = Registry::start_with_password();
    let base = Base::aws("3.12").reference();
    let project = Project::with_handler();
    let pair = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let auths = json!({registry.address(): {"auth": pair}});
    project.docker_config(&json!({"auths": auths, "credsStore": "test"}));
    let nothing = "echo 'credentials not found in native keychain'; exit 1\n";
    project
        .lambimg([
            "build",
            "--base",
            &base,
            "-t",
            &registry.name("some:1"),
            "--push",
        ])
        .script("docker-credential-test", nothing)
        .succeed();
}

/// A helper that has no password but a token says so by the name of the user.
#[test]
fn identity_token_is_changed_for_others() {
    let tokens = TokenServer::start();
    let registry = Registry::start_with_tokens(&tokens, &REPOSITORIES);
    let project = Project::with_handler();
    project.docker_config(&json!({"credsStore": "test"}));
    let base = Base::aws("3.12").reference();
    let target = registry.name("functions/hello:1");
    let helper = helper(&registry)
        .replace(USER, "<token>")
        .replace(PASSWORD, IDENTITY);
    project
        .lambimg(["build", "--base", &base, "-t", &target, "--push"])
        .script("docker-credential-test", &helper)
        .succeed();
    Image::in_registry(&registry, &target).assert_accepted_by_lambda();
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "{asked:#?}");
    assert!(asked[0].with_credentials);
    assert_eq!(asked[0].scopes, ["repository:functions/hello:pull,push"]);
}

#[test]
fn credential_helper_fails() {
    let registry = Registry::start_with_password();
    let project = Project::with_handler();
    project.docker_config(&json!({"credHelpers": {registry.address(): "test"}}));
    let base = Base::aws("3.12").reference();
    let outcome = project
        .lambimg([
            "build",
            "--base",
            &base,
            "-t",
            &registry.name("some:1"),
            "--push",
        ])
        .script(
            "docker-credential-test",
            "echo 'the keyring is locked' >&2; exit 1\n",
        )
        .run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
}

#[test]
fn credential_helper_is_absent() {
    let registry = Registry::start_with_password();
    let project = Project::with_handler();
    project.docker_config(&json!({"credsStore": "no-such-store"}));
    let base = Base::aws("3.12").reference();
    let target = registry.name("some:1");
    let outcome = project
        .lambimg(["build", "--base", &base, "-t", &target, "--push"])
        .run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
}

// --- redirects ----------------------------------------------------------------------------------

/// ECR answers for a blob with the address of a bucket, which refuses who comes with credentials.
#[test]
fn credentials_do_not_follow_a_redirect() {
    let base = Base::aws("3.12").reference();
    let (keeper, _) = base.split_once('/').expect("a registry");
    let bucket = Server::start({
        let keeper = keeper.to_owned();
        move |asked| match asked.header("Authorization") {
            None => pass_on(asked, &keeper),
            Some(_) => Reply::status(400),
        }
    });
    let registry = Server::start({
        let (keeper, bucket) = (keeper.to_owned(), bucket.address());
        let allowed = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        move |asked| {
            if asked.header("Authorization") != Some(&allowed) {
                return Reply::status(401).header("WWW-Authenticate", "Basic realm=\"tests\"");
            }
            if asked.method == "GET" && asked.target.contains("/blobs/") {
                let place = format!("http://{bucket}{}?signature=1", asked.target);
                return Reply::status(307).header("Location", place);
            }
            pass_on(asked, &keeper)
        }
    });
    let project = Project::with_handler();
    project.login(&registry.address(), USER, PASSWORD);
    let base = base.replace(keeper, &registry.address());
    let directory = project.beside("image");
    let output = format!("oci:{}", directory.display());
    // The directory has the base's layers, so they come through the redirect too.
    project
        .lambimg(["build", "--base", &base, "-t", "some:1", "-o", &output])
        .succeed();
    let image = Image::in_directory(&directory);
    image.assert_accepted_by_lambda();
    let fetched = bucket.asked();
    assert_eq!(
        fetched.len(),
        image.layers.len(),
        "the base's configuration and layers"
    );
    for asked in fetched {
        assert_eq!(asked.header("Authorization"), None, "{asked:?}");
    }
}

/// What another registry answers to the same request.
fn pass_on(asked: &Asked, registry: &str) -> Reply {
    let accept = asked.header("Accept").unwrap_or("*/*");
    let url = format!("http://{registry}{}", asked.target);
    let answer = http::send(&asked.method, &url, &[("Accept", accept)], Vec::new()).unwrap();
    Reply::status(answer.status)
        .header("Content-Type", answer.header("Content-Type"))
        .header(
            "Docker-Content-Digest",
            answer.header("Docker-Content-Digest"),
        )
        .body(answer.body)
}

// --- what moves ---------------------------------------------------------------------------------

#[test]
fn layers_go_up_while_others_are_made() {
    let registry = Arc::new(Registry::start());
    let wheel = Wheel::pure("late", "1.0");
    let (file, bytes) = (wheel.file_name(), wheel.bytes());
    let lock = |host: &str| {
        let hash = &digest(&bytes)[7..];
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"another\"\n\n[[packages]]\nname = \"late\"\nversion = \"1.0\"\n\
             wheels = [{{ url = \"http://{host}/{file}\", hashes = {{ sha256 = \"{hash}\" }} }}]\n"
        )
    };
    // The wheel comes when the function's layer is there, and so never where that waits for the wheel's.
    let (watched, answer) = (Arc::clone(&registry), bytes.clone());
    let index = Server::start(move |_| {
        let start = Instant::now();
        while !is_uploaded(&watched.log()) {
            if start.elapsed() > Duration::from_secs(20) {
                return Reply::status(504);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Reply::status(200).body(answer.clone())
    });
    let project = Project::with_handler();
    project.file("pylock.toml", lock(&index.address()));
    let target = registry.name("functions/early:1");
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", &target, "--push"];
    project.lambimg(build).succeed();
    Image::in_registry(&registry, &target).assert_accepted_by_lambda();
    // Each blob went up once.
    let log = registry.log();
    let uploads: Vec<_> = log.lines().filter(|line| is_uploaded(line)).collect();
    let once: BTreeSet<_> = uploads
        .iter()
        .filter_map(|line| line.split("digest=").nth(1)?.get(..73))
        .collect();
    assert_eq!(uploads.len(), once.len(), "{log}");
}

fn is_uploaded(log: &str) -> bool {
    let mut lines = log.lines();
    lines.any(|line| {
        [
            "response completed",
            "method=PUT",
            "functions/early/blobs/uploads/",
            "status=201",
        ]
        .iter()
        .all(|part| line.contains(part))
    })
}

#[test]
fn base_layers_never_touch_the_disk() {
    let (near, far) = (Registry::start(), Registry::start());
    let base = Base::aws("3.12").copy_to(&near);
    for (registry, is_near) in [(&near, true), (&far, false)] {
        let project = Project::with_handler();
        let target = registry.name("functions/hello:1");
        let made = project.beside("made.json");
        let build = [
            "build",
            "--base",
            &base,
            "-t",
            &target,
            "--push",
            "--metadata-file",
        ];
        let file = made.display().to_string();
        project
            .lambimg(build.into_iter().chain([file.as_str()]))
            .succeed();
        // Reading it proves that the registry has every blob.
        let image = Image::in_registry(registry, &target);
        image.assert_accepted_by_lambda();
        let made: Value = serde_json::from_slice(&fs::read(made).unwrap()).unwrap();
        let layers = made["layers"].as_array().unwrap();
        let (of_base, own): (Vec<_>, Vec<_>) =
            layers.iter().partition(|layer| layer["from"] == "base");
        assert!(of_base.len() > 1 && own.len() == 1, "{made:#}");
        // A layer that stands in the base twice moves once.
        let sizes = of_base.iter().map(|layer| {
            let size = layer["size"].as_u64().unwrap();
            (layer["digest"].to_string(), size)
        });
        let size = sizes.collect::<BTreeMap<_, _>>().into_values().sum::<u64>();
        let moved = if is_near { "mounted" } else { "uploaded" };
        assert!(
            made["pushed"][0][moved].as_u64().unwrap() >= size,
            "{made:#}"
        );
        for layer in of_base {
            let name = layer["digest"].as_str().unwrap().replace(':', "/");
            assert!(
                !project.cache().join("blobs").join(&name).exists(),
                "{name} is in the cache"
            );
        }
        assert_whole(&project.cache());
    }
}

/// The requests of a log that begin or end the upload of anything.
fn changes(registry: &Registry, before: usize) -> Vec<String> {
    let log = registry.log();
    let lines = log[before..].lines().filter(|line| {
        line.contains("response completed")
            && ["POST", "PUT", "PATCH"]
                .iter()
                .any(|method| line.contains(&format!("http.request.method={method}")))
    });
    lines.map(str::to_owned).collect()
}

#[test]
fn pushing_again_moves_nothing() {
    let registry = Registry::start();
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let name = registry.name("functions/hello");
    let (first, second) = (format!("{name}:1"), format!("{name}:2"));
    project
        .lambimg(["build", "--base", &base, "-t", &first])
        .succeed();
    // Without references, an image goes where its name says.
    let printed = project.lambimg(["push", &first]).succeed();
    let before = registry.log().len();
    assert_eq!(project.lambimg(["push", &first]).succeed(), printed);
    assert_eq!(changes(&registry, before), Vec::<String>::new());
    let again = [
        "build",
        "--base",
        &base,
        "-t",
        &first,
        "--push",
        "--no-cache",
    ];
    assert_eq!(project.lambimg(again).succeed(), printed);
    assert_eq!(changes(&registry, before), Vec::<String>::new());

    assert_eq!(
        project.lambimg(["push", &first, &second]).succeed(),
        printed
    );
    let changes = changes(&registry, before);
    assert_eq!(changes.len(), 1, "a tag is one manifest: {changes:#?}");
    assert_eq!(registry.tags("functions/hello"), ["1", "2"]);
}

#[test]
fn one_image_goes_to_many_names() {
    let registry = Registry::start();
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let (one, two) = (registry.name("one"), registry.name("two"));
    let names = [format!("{one}:1"), format!("{one}:2"), format!("{two}:1")];
    let mut build = vec!["build", "--base", &base, "--push"];
    build.extend(names.iter().flat_map(|name| ["-t", name.as_str()]));
    let printed = project.lambimg(build).succeed();
    let digest = Image::in_registry(&registry, &names[0]).digest();
    assert_eq!(printed, format!("{one}@{digest}\n{two}@{digest}\n"));
    assert_eq!(registry.tags("one"), ["1", "2"]);
    assert_eq!(registry.tags("two"), ["1"]);
    for name in &names {
        let image = Image::in_registry(&registry, name);
        image.assert_accepted_by_lambda();
        assert_eq!(image.digest(), digest);
    }

    let more = [registry.name("three:1"), registry.name("four:1")];
    let printed = project
        .lambimg(["push", &names[0], &more[0], &more[1]])
        .succeed();
    assert_eq!(printed.lines().count(), 2, "{printed}");
    for name in &more {
        assert_eq!(Image::in_registry(&registry, name).digest(), digest);
    }
}

#[test]
fn every_kind_of_image_can_be_pushed() {
    let (first, second) = (Registry::start(), Registry::start());
    let project = Project::with_handler();
    // In a layout, only an image on an OCI base keeps its digest.
    let base = Base::aws_oci("3.12").reference();
    let name = first.name("hello:1");
    let place = |kind: &str, file: &str| format!("{kind}:{}", project.beside(file).display());
    let files = [
        place("oci", "directory"),
        place("oci-archive", "archive.tar"),
        place("docker-archive", "docker.tar"),
    ];
    let mut build = vec!["build", "--base", &base, "-t", &name, "--push"];
    build.extend(files.iter().flat_map(|file| ["-o", file.as_str()]));
    project.lambimg(build).succeed();
    let original = Image::in_registry(&first, &name);
    let remote = format!("docker://{name}");
    let sources = files.iter().chain([&name, &remote]);
    for (number, source) in sources.enumerate() {
        // A store of its own has nothing that would help.
        let other = Project::new();
        let project = if source == &name { &project } else { &other };
        let target = second.name(&format!("from-{number}"));
        let printed = project.lambimg(["push", source, &target]).succeed();
        let image = Image::in_registry(&second, &format!("{target}:latest"));
        image.assert_accepted_by_lambda();
        assert_eq!(printed, format!("{target}@{}\n", image.digest()));
        assert_eq!(image.config, original.config, "{source}");
        assert_whole(&project.cache());
        // A docker archive has no manifest of its own, and layouts have one in OCI's types.
        if !files.contains(source) {
            assert_eq!(image.digest(), original.digest(), "{source}");
        }
        let mut skopeo = Command::new(program("skopeo", "skopeo"));
        run(skopeo.args([
            "inspect",
            "--tls-verify=false",
            &format!("docker://{target}"),
        ]));
    }
}

#[test]
fn image_of_no_name_in_an_empty_store() {
    let registry = Registry::start();
    let project = Project::new();
    let outcome = project
        .lambimg(["push", "orders:1", &registry.name("orders:1")])
        .run();
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn image_of_no_name_among_others() {
    let registry = Registry::start();
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    project
        .lambimg(["build", "--base", &base, "-t", "orders:1", "-t", "orders:2"])
        .succeed();
    let outcome = project
        .lambimg(["push", "order:1", &registry.name("orders:1")])
        .run();
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

#[test]
fn image_without_a_place_to_go() {
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    project
        .lambimg(["build", "--base", &base, "-t", "orders:1"])
        .succeed();
    let outcome = project.lambimg(["push", "orders:1"]).run();
    assert_eq!(outcome.code, Some(USAGE));
    assert_said!(outcome);
}

// --- what does not hold yet ---------------------------------------------------------------------

/// A digest in a reference is a promise about the bytes; another image must not be said to be there.
#[test]
fn pushing_to_another_images_digest_is_refused() {
    let registry = Registry::start();
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    project
        .lambimg(["build", "--base", &base, "-t", "orders:1"])
        .succeed();
    let target = registry.name(&format!("orders@sha256:{}", "0".repeat(64)));
    let outcome = project.lambimg(["push", "orders:1", &target]).run();
    assert_ne!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
}

/// Each name once, whatever the order of the tags.
#[test]
fn a_name_is_printed_once() {
    let registry = Registry::start();
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let (one, two) = (registry.name("one"), registry.name("two"));
    let names = [format!("{one}:1"), format!("{two}:1"), format!("{one}:2")];
    let mut build = vec!["build", "--base", &base, "--push"];
    build.extend(names.iter().flat_map(|name| ["-t", name.as_str()]));
    let printed = project.lambimg(build).succeed();
    assert_eq!(printed.lines().count(), 2, "{printed}");
}

#[test]
fn a_directory_that_is_not_there_is_named_as_such() {
    let (registry, project) = (Registry::start(), Project::new());
    let target = registry.name("orders:1");
    let outcome = project.lambimg(["push", "oci:nowhere", &target]).run();
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    assert!(
        !outcome.stderr.contains("`without a name`"),
        "{}",
        outcome.rendering()
    );
}
