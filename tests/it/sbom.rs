//! `sbom` and `push --sbom`: documents that other tools hold to be right, of exactly what is installed, and where they
//! are found in a registry.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use serde_json::Value;
use serde_json::json;

use crate::support::base::Base;
use crate::support::bent;
use crate::support::digest;
use crate::support::forge::Forge;
use crate::support::forge::Packing;
use crate::support::index::Index;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::registry::Registry;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;
use crate::support::tool;
use crate::support::wheel::Wheel;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const INPUT: i32 = 3;
const NETWORK: i32 = 4;
const CYCLONEDX: &str = "application/vnd.cyclonedx+json";
const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// Runs a script with the tools that judge documents.
fn ask(script: &str, file: &Path) -> String {
    let mut command = Command::new(python("3.12"));
    command.env("PYTHONPATH", tool("sbom"));
    run(command.args(["-c", script]).arg(file))
}

/// Holds a document against the rules of its form, as others read them.
fn assert_valid(project: &Project, document: &str) {
    let file = project.beside("document.json");
    fs::write(&file, document).unwrap();
    let cyclonedx = "import sys\n\
                     from cyclonedx.schema import SchemaVersion\n\
                     from cyclonedx.validation.json import JsonStrictValidator\n\
                     print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()) or 'sound')";
    let spdx = "import sys\n\
                from spdx_tools.spdx.parser.json import json_parser\n\
                from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document\n\
                document = json_parser.parse_from_file(sys.argv[1])\n\
                found = validate_full_spdx_document(document, 'SPDX-2.3')\n\
                print([message.validation_message for message in found] or 'sound')";
    let value: Value = serde_json::from_str(document).unwrap();
    let script = if value["bomFormat"] == "CycloneDX" {
        cyclonedx
    } else {
        spdx
    };
    let said = ask(script, &file);
    assert_eq!(said.trim(), "sound", "{document}");
    let purls = "import json, sys\n\
                 from packageurl import PackageURL\n\
                 text = json.dumps(json.load(open(sys.argv[1])))\n\
                 found = [part.split('\"')[0] for part in text.split('\"pkg:')[1:]]\n\
                 assert found\n\
                 for purl in found:\n\
                 \x20   purl = 'pkg:' + purl\n\
                 \x20   again = PackageURL.from_string(purl).to_string()\n\
                 \x20   assert purl == again, (purl, again)";
    ask(purls, &file);
}

fn documents(project: &Project, target: &str, flags: &[&str]) -> [Value; 2] {
    ["cyclonedx", "spdx"].map(|format| {
        let sbom = ["sbom", target, "--format", format];
        let document = project.lambimg(sbom.iter().chain(flags)).succeed();
        let again = project.lambimg(sbom.iter().chain(flags)).succeed();
        assert_eq!(document, again);
        assert_valid(project, &document);
        serde_json::from_str(&document).unwrap()
    })
}

/// `name version` of all components or packages that are distributions, in their order.
fn listed(document: &Value) -> Vec<String> {
    let (list, version) = match document.get("components") {
        Some(components) => (components, "version"),
        None => (&document["packages"], "versionInfo"),
    };
    let all = list.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all =
        all.filter(|one| one["type"] == "library" || one["primaryPackagePurpose"] == "LIBRARY");
    all.map(|one| format!("{} {}", text(&one["name"]), text(&one[version])))
        .collect()
}

fn component<'a>(document: &'a Value, name: &str) -> &'a Value {
    let mut all = document["components"].as_array().unwrap().iter();
    all.find(|component| component["name"] == name).unwrap()
}

fn depends_on(document: &Value, reference: &Value) -> Vec<String> {
    let all = document["dependencies"].as_array().unwrap().iter();
    let mut found = all.filter(|entry| entry["ref"] == *reference);
    let entry = found.next().unwrap();
    assert!(found.next().is_none());
    let list = entry["dependsOn"].as_array().unwrap().iter();
    list.map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// Real wheels with licences of every kind of writing, and edges between them.
#[test]
fn real_wheels_are_listed_and_both_tools_agree() {
    let project = Project::with_handler();
    let lines = "requests==2.32.5\nPyYAML==6.0.3\nmarkupsafe==3.0.3\njinja2==3.1.6\npython-dateutil==2.9.0.post0\nsimplejson==3.19.1\n";
    project.file("requirements.txt", lines);
    let base = Base::aws("3.12").reference();
    project
        .lambimg(["build", "--base", &base, "-t", "orders:1"])
        .succeed();
    let [cyclonedx, spdx] = documents(&project, "orders:1", &[]);

    // What Python itself says is installed, in the tree that the image is.
    let directory = project.beside("layout");
    let output = format!("oci:{}:orders:1", directory.display());
    project
        .lambimg(["build", "--base", &base, "-o", &output])
        .succeed();
    let bundle = project.beside("bundle");
    let mut umoci = Command::new(program("umoci", "umoci"));
    umoci.args(["unpack", "--keep-dirlinks", "--rootless", "--image"]);
    umoci.arg(format!("{}:orders:1", directory.display()));
    run(umoci.arg(&bundle));
    let script = "import sys, importlib.metadata as metadata\n\
                  paths = [sys.argv[1] + path for path in ('/var/task', '/var/runtime',\
                  '/var/lang/lib/python3.12/site-packages')]\n\
                  for found in metadata.distributions(path=paths):\n\
                  \x20   print(found.name, found.version)";
    let installed = ask(script, &bundle.join("rootfs"));
    let installed: BTreeSet<_> = installed.lines().map(str::to_owned).collect();
    assert!(installed.len() > 8, "{installed:?}");
    for document in [&cyclonedx, &spdx] {
        let listed = listed(document);
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), installed);
        assert_eq!(listed.len(), installed.len(), "each once");
    }

    let requests = component(&cyclonedx, "requests");
    assert_eq!(requests["purl"], "pkg:pypi/requests@2.32.5");
    assert_eq!(requests["scope"], "required");
    assert_eq!(requests["licenses"][0]["license"]["id"], "Apache-2.0");
    assert_eq!(
        component(&cyclonedx, "PyYAML")["purl"],
        "pkg:pypi/pyyaml@6.0.3"
    );
    let own: BTreeSet<_> = depends_on(&cyclonedx, &requests["bom-ref"])
        .into_iter()
        .collect();
    let names = ["certifi", "charset_normalizer", "idna", "urllib3"];
    assert_eq!(own.len(), names.len(), "{own:?}");
    for name in names {
        assert!(
            own.iter()
                .any(|info| info.starts_with(&format!("var/task/{name}-"))),
            "{own:?}"
        );
    }
    // The runtime client has its own, whatever the function brings.
    let client = &component(&cyclonedx, "awslambdaric")["bom-ref"];
    let client = depends_on(&cyclonedx, client);
    assert!(
        client
            .iter()
            .any(|info| info.starts_with("var/runtime/simplejson-")),
        "{client:?}"
    );
    let image = depends_on(&cyclonedx, &json!("image"));
    assert!(image.contains(&"base".to_owned()), "{image:?}");
    assert!(
        !image.iter().any(|info| info.contains("/urllib3-")),
        "{image:?}"
    );

    // The hash and the place are those of the lock.
    let lock = fs::read_to_string(project.path().join("pylock.toml")).unwrap();
    for one in cyclonedx["components"].as_array().unwrap() {
        let hash = one["hashes"][0]["content"].as_str().unwrap_or_default();
        let is_of_function = one["scope"] == "required";
        assert_eq!(
            lock.contains(hash) && !hash.is_empty(),
            is_of_function,
            "{one}"
        );
        if is_of_function {
            let url = one["externalReferences"][0]["url"].as_str().unwrap();
            assert!(lock.contains(url), "{url}");
        }
    }

    // The image and its base are named by their digests.
    let root = &cyclonedx["metadata"]["component"];
    assert_eq!(root["name"], "orders");
    let digest = root["version"].as_str().unwrap();
    assert!(
        root["purl"]
            .as_str()
            .unwrap()
            .starts_with(&format!("pkg:oci/orders@{digest}?arch="))
    );
    let of_base = &cyclonedx["components"][0];
    assert_eq!(of_base["bom-ref"], "base");
    assert_eq!(of_base["name"], base.as_str());
    assert!(
        of_base["purl"].as_str().unwrap().contains("&tag=3.12"),
        "{of_base}"
    );
}

/// Wheels of our own, whose every field is known.
#[test]
fn documents_say_what_metadata_says() {
    let index = Index::start();
    let upper = Wheel::pure("upper_case", "2.0")
        .requires("lower>=1")
        .requires("nowhere; sys_platform == 'win32'")
        .requires("only-extra; extra == 'more'")
        .requires("only-extra; python_version < '3'")
        .provides_extra("more")
        .field("Summary", "Upper \"quoted\" ü")
        .field(
            "Author-email",
            "\"Ann (of Upper)\" <ann@upper.test>, b@c.test",
        )
        .field("License-Expression", "MIT AND LicenseRef-Own");
    index.serve(&upper);
    let lower = Wheel::pure("lower", "1.5")
        .field("License", "UNKNOWN")
        .field("Author", "UNKNOWN")
        .field("Classifier", "License :: OSI Approved :: BSD License");
    index.serve(&lower);
    let extra = Wheel::pure("only_extra", "3")
        .field("License", "Sold as seen")
        .field("Author", "Eve")
        .field("Maintainer", "The Maintainers")
        .field("Classifier", "License :: OSI Approved :: MIT License")
        .field(
            "Classifier",
            "License :: OSI Approved :: Apache Software License",
        );
    index.serve(&extra);
    let project = Project::with_handler();
    project.file("requirements.txt", "upper-case\nonly-extra\n");
    let base = Base::aws("3.12").reference();
    project
        .lambimg(["build", "--base", &base, "-t", "orders"])
        .index(&index.url())
        .succeed();
    for format in ["cyclonedx", "spdx"] {
        let outcome = project
            .lambimg(["sbom", "orders", "--format", format])
            .run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        assert_valid(&project, &outcome.stdout);
        let mut value: Value = serde_json::from_str(&outcome.stdout).unwrap();
        // The base's own are another test's.
        for (list, key) in [
            ("components", "purl"),
            ("packages", "name"),
            ("dependencies", "ref"),
        ] {
            if let Some(list) = value.get_mut(list).and_then(Value::as_array_mut) {
                let ours = [
                    "upper-case",
                    "upper_case",
                    "lower",
                    "only-extra",
                    "only_extra",
                    "image",
                    "orders",
                ];
                list.retain(|one| {
                    ours.iter()
                        .any(|name| one[key].as_str().unwrap().contains(name))
                });
            }
        }
        if let Some(list) = value.get_mut("relationships").and_then(Value::as_array_mut) {
            list.retain(|one| {
                one["relationshipType"] == "DEPENDS_ON"
                    || one["spdxElementId"] == "SPDXRef-DOCUMENT"
            });
        }
        value.as_object_mut().unwrap().remove("documentNamespace");
        value.as_object_mut().unwrap().remove("serialNumber");
        let mut settings = outcome.settings();
        settings.add_filter(r"amd64|arm64", "[arch]");
        settings.add_filter(&env!("CARGO_PKG_VERSION").replace('.', r"\."), "[version]");
        let name = format!("documents_say_{format}");
        settings.bind(|| {
            insta::assert_snapshot!(name, format!("{value:#}"));
        });
    }
}

#[test]
fn a_project_gives_the_document_of_its_image() {
    let index = Index::start();
    index.serve(&Wheel::pure("upper", "2.0"));
    let project = Project::with_handler();
    project.file("requirements.txt", "upper\n");
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "orders"];
    project.lambimg(build).index(&index.url()).succeed();
    let of_image = project.lambimg(["sbom", "orders"]).succeed();
    // A document in the project is no file of its function.
    let sbom = ["sbom", ".", "--base", &base, "-o", "sbom.json"];
    for _ in 0..2 {
        project.lambimg(sbom).index(&index.url()).succeed();
    }
    let of_project = fs::read_to_string(project.path().join("sbom.json")).unwrap();
    let [of_image, of_project] =
        [of_image, of_project].map(|text| serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!(of_image["components"], of_project["components"]);
    assert_eq!(
        of_image["metadata"]["component"]["version"],
        of_project["metadata"]["component"]["version"]
    );
    let outcome = project
        .lambimg(["sbom", "orders", "--handler", "a.b"])
        .run();
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
}

/// A document that lacks what is in a layer would be believed.
#[test]
fn a_layer_that_cannot_be_read_has_no_document() {
    let project = Project::new();
    let mut forge = Forge::sound();
    forge.packing = Packing::Zstd;
    let image = forge.write_beside(&project);
    let outcome = project.lambimg(["sbom", &image]).run();
    assert_eq!(outcome.code, Some(INPUT), "{}", outcome.rendering());
    assert_said!(outcome);
}

/// An image of ours with one wheel, built on a base of another registry.
fn built() -> Project {
    let index = Index::start();
    index.serve(&Wheel::pure("upper", "2.0"));
    let project = Project::with_handler();
    project.file("requirements.txt", "upper\n");
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "app"];
    project.lambimg(build).index(&index.url()).succeed();
    project
}

fn parsed(bytes: Option<Vec<u8>>) -> Value {
    serde_json::from_slice(&bytes.expect("it is there")).unwrap()
}

/// Debian's registry lists no referrers, so the tag has them.
#[test]
fn a_pushed_document_is_found_by_the_tag() {
    let registry = Registry::start();
    let project = built();
    let name = format!("{}:1", registry.name("app"));
    project.lambimg(["push", "app", &name]).succeed();
    let image = registry.manifest("app", "1").unwrap();
    let tag = digest(&image).replace(':', "-");

    let printed = project.lambimg(["push", "--sbom", "app", &name]).succeed();
    assert_eq!(
        printed.trim(),
        format!("{}@{}", registry.name("app"), digest(&image))
    );
    assert_eq!(
        registry.manifest("app", "1").unwrap(),
        image,
        "a plain manifest"
    );
    let list = registry.manifest("app", &tag);
    let entry = parsed(list.clone())["manifests"][0].clone();
    assert_eq!(entry["artifactType"], CYCLONEDX);
    let artifact = parsed(registry.manifest("app", entry["digest"].as_str().unwrap()));
    assert_eq!(artifact["artifactType"], CYCLONEDX);
    assert_eq!(artifact["subject"]["digest"], digest(&image));
    assert_eq!(artifact["subject"]["size"], image.len());
    assert_eq!(artifact["config"]["digest"], EMPTY);
    let layer = artifact["layers"][0]["digest"].as_str().unwrap();
    let document = String::from_utf8(registry.blob("app", layer).unwrap()).unwrap();
    assert_valid(&project, &document);
    let from_registry = project
        .lambimg(["sbom", &format!("docker://{name}")])
        .succeed();
    assert_eq!(document, from_registry, "as the registry's image has it");

    // The same again changes nothing; another form comes beside it, and what others put there stays.
    let file = project.beside("made.json");
    let made = ["--metadata-file", file.to_str().unwrap()];
    let push = ["push", "--sbom=cyclonedx", "app", &name];
    project.lambimg(push.iter().chain(&made)).succeed();
    assert_eq!(registry.manifest("app", &tag), list);
    let made: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(made["pushed"][0]["sbom"], entry["digest"]);
    project
        .lambimg(["push", "--sbom=spdx", "app", &name])
        .succeed();
    let list = parsed(registry.manifest("app", &tag));
    let types: Vec<_> = list["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["artifactType"])
        .collect();
    assert_eq!(types, [CYCLONEDX, "application/spdx+json"]);
    assert_eq!(list["manifests"][0], entry);
    assert_eq!(registry.tags("app"), ["1".to_owned(), tag]);
}

/// Of a store that knows nothing of the wheels the document would say less.
#[test]
fn a_document_of_an_earlier_push_stays_alone() {
    let registry = Registry::start();
    let project = built();
    let name = format!("{}:1", registry.name("app"));
    project.lambimg(["push", "--sbom", "app", &name]).succeed();
    let image = registry.manifest("app", "1").unwrap();
    let tag = digest(&image).replace(':', "-");
    let list = registry.manifest("app", &tag);
    let other = Project::new();
    let from = format!("docker://{name}");
    let push = |form: &str| {
        let push = ["push", "--progress", "plain", form, &from, &name];
        let outcome = other.lambimg(push).run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        outcome
    };
    let outcome = push("--sbom");
    assert_eq!(registry.manifest("app", &tag), list);
    let told = outcome.stderr.lines().find(|line| line.contains("SBOM"));
    let mut settings = outcome.settings();
    settings.add_filter("sha256:[0-9a-f]{64}", "[digest]");
    settings.bind(|| {
        insta::assert_snapshot!(told.unwrap());
    });
    // The form alone decides.
    push("--sbom=spdx");
    let list = parsed(registry.manifest("app", &tag));
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2);
    // Nor does one that others made count.
    registry.put_manifest("app", &tag, "application/vnd.oci.image.index.v1+json", {
        let mut list = list.clone();
        for entry in list["manifests"].as_array_mut().unwrap() {
            entry["annotations"] = json!({});
        }
        list.to_string().into_bytes()
    });
    push("--sbom");
    let list = parsed(registry.manifest("app", &tag));
    assert_eq!(list["manifests"].as_array().unwrap().len(), 3);
}

/// A wheel's hash is told where the wheel is, and not of what lies over it under the same name.
#[test]
fn hashes_are_those_of_the_layer() {
    let index = Index::start();
    index.serve(&Wheel::pure("upper", "2.0"));
    let project = Project::with_handler();
    project.file("requirements.txt", "upper\n");
    let info = "lib/site-packages/upper-2.0.dist-info/METADATA";
    project.file(info, "Metadata-Version: 2.1\nName: upper\nVersion: 2.0\n");
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", "app:1"];
    project.lambimg(build).index(&index.url()).succeed();
    let document = |name: &str| {
        let document = project.lambimg(["sbom", name]).succeed();
        serde_json::from_str::<Value>(&document).unwrap()
    };
    let hashed = |document: &Value| {
        let all = document["components"].as_array().unwrap().iter();
        let own = all.filter(|one| one["purl"] == "pkg:pypi/upper@2.0");
        let own = own.map(|one| (one["bom-ref"].clone(), one["hashes"].is_array()));
        own.collect::<Vec<_>>()
    };
    let first = document("app:1");
    assert_eq!(
        hashed(&first),
        [
            (json!("var/task/upper-2.0.dist-info"), true),
            (
                json!("var/task/lib/site-packages/upper-2.0.dist-info"),
                false
            ),
        ]
    );
    // What is built on it has the same layers, and they are its base's.
    let build = ["build", "--base", "oci:IMAGE", "-t", "app:2"];
    let output = format!("oci:{}", project.beside("image").display());
    project
        .lambimg(["build", "--base", &base, "-o", &output])
        .index(&index.url())
        .succeed();
    let upper = Project::with_handler();
    upper
        .lambimg(build.map(|word| if word == "oci:IMAGE" { &*output } else { word }))
        .succeed();
    let second = upper.lambimg(["sbom", "app:2"]).succeed();
    let second: Value = serde_json::from_str(&second).unwrap();
    let is_base = |one: &Value| one["scope"] == "optional" && one.get("hashes").is_none();
    let all = second["components"].as_array().unwrap().iter();
    assert!(all.skip(1).all(is_base), "{second:#}");
    let looked = upper
        .lambimg(["inspect", "app:2", "--format", "json"])
        .succeed();
    let looked: Value = serde_json::from_str(&looked).unwrap();
    let layers = looked["layers"].as_array().unwrap();
    let own = layers.iter().filter(|layer| layer["base"] == false);
    assert_eq!(
        own.map(|layer| &layer["what"]).collect::<Vec<_>>(),
        ["function"]
    );
}

#[test]
fn a_build_attaches_what_it_pushes() {
    let registry = Registry::start();
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let name = format!("{}:1", registry.name("app"));
    let build = [
        "build",
        "--base",
        &base,
        "-t",
        &name,
        "--push",
        "--sbom=spdx",
    ];
    project.lambimg(build).succeed();
    let image = registry.manifest("app", "1").unwrap();
    let list = parsed(registry.manifest("app", &digest(&image).replace(':', "-")));
    assert_eq!(
        list["manifests"][0]["artifactType"],
        "application/spdx+json"
    );
    let outcome = project.lambimg(["build", "--base", &base, "--sbom"]).run();
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
}

/// A registry that knows subjects lists them by itself, and then no tag is made.
#[test]
fn a_registry_that_lists_referrers_gets_no_tag() {
    let registry = bent::Registry::bent(|asked, kept| {
        let manifest: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let subject = manifest["subject"]["digest"].as_str();
        if asked.method == "PUT"
            && let Some(subject) = subject
        {
            return Some(kept.answer(asked).header("OCI-Subject", subject));
        }
        lists(asked).then(|| page(&referrers(kept), None))
    });
    let project = built();
    let name = registry.name("1");
    for _ in 0..2 {
        project.lambimg(["push", "--sbom", "app", &name]).succeed();
    }
    let kept = registry.kept();
    let tags: BTreeMap<_, _> = kept
        .manifests
        .iter()
        .filter(|(key, _)| !key.starts_with("sha256:"))
        .collect();
    assert_eq!(tags.keys().collect::<Vec<_>>(), [&"1"]);
    drop(kept);
    let puts = registry.asked("PUT", "/manifests/sha256:");
    assert_eq!(puts.len(), 2, "image and artifact, once each");
}

fn lists(asked: &Asked) -> bool {
    asked.method == "GET" && asked.target.contains("/referrers/")
}

/// The entries of all artifacts that are kept.
fn referrers(kept: &bent::Kept) -> Vec<Value> {
    let manifests = kept.manifests.iter();
    let manifests = manifests.filter(|(key, _)| key.starts_with("sha256:"));
    let entries = manifests.filter_map(|(digest, raw)| {
        let manifest: Value = serde_json::from_slice(raw).ok()?;
        manifest.get("subject")?;
        Some(json!({
            "mediaType": manifest["mediaType"],
            "digest": digest,
            "size": raw.len(),
            "artifactType": manifest["artifactType"],
            "annotations": manifest["annotations"],
        }))
    });
    entries.collect()
}

/// A page of a list of referrers, and where the next is.
fn page(manifests: &[Value], next: Option<&str>) -> Reply {
    let list = json!({"schemaVersion": 2, "manifests": manifests});
    let reply = Reply::status(200).body(list.to_string());
    match next {
        Some(next) => reply.header("Link", format!("<{next}>; rel=\"next\"")),
        None => reply,
    }
}

/// What others attached by the same media type and on the same date is theirs; ours is on the second page.
#[test]
fn a_document_of_an_earlier_push_is_found_on_a_later_page() {
    let registry = bent::Registry::bent(|asked, kept| {
        let manifest: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let subject = manifest["subject"]["digest"].as_str();
        if asked.method == "PUT"
            && let Some(subject) = subject
        {
            return Some(kept.answer(asked).header("OCI-Subject", subject));
        }
        lists(asked).then(|| {
            if asked.target.contains("?page=2") {
                return page(&referrers(kept), Some("?page=2"));
            }
            let mut others = referrers(kept);
            for other in &mut others {
                let annotations = other["annotations"].as_object_mut().unwrap();
                annotations.retain(|name, _| name.starts_with("org."));
            }
            page(&others, Some("?page=2"))
        })
    });
    let project = built();
    let name = registry.name("1");
    project.lambimg(["push", "--sbom", "app", &name]).succeed();
    let from = format!("docker://{name}");
    let push = ["push", "--sbom", &from, &name];
    Project::new().lambimg(push).succeed();
    assert_eq!(referrers(&registry.kept()).len(), 1);
    let asked = registry.asked("GET", "?page=2");
    assert!((2..40).contains(&asked.len()), "{}", asked.len());
}

/// A registry's list is in an order of its own: of two documents that of the better knowledge counts.
#[test]
fn of_the_documents_of_earlier_pushes_the_whole_one_stays() {
    let registry = bent::Registry::bent(|asked, kept| {
        let manifest: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let subject = manifest["subject"]["digest"].as_str();
        if asked.method == "PUT"
            && let Some(subject) = subject
        {
            return Some(kept.answer(asked).header("OCI-Subject", subject));
        }
        lists(asked).then(|| {
            let mut all = referrers(kept);
            // Those that say less come first.
            all.sort_by_key(|entry| entry["annotations"]["lambimg.sbom"] == "whole");
            page(&all, None)
        })
    });
    let project = built();
    let name = registry.name("1");
    project.lambimg(["push", "app", &name]).succeed();
    let from = format!("docker://{name}");
    let less = Project::new();
    less.lambimg(["push", "--sbom", &from, &name]).succeed();
    project.lambimg(["push", "--sbom", "app", &name]).succeed();
    let all = referrers(&registry.kept());
    assert_eq!(all.len(), 2);
    let whole = all
        .iter()
        .find(|one| one["annotations"]["lambimg.sbom"] == "whole");
    let whole = whole.unwrap()["digest"].as_str().unwrap().to_owned();
    let again = less.lambimg(["push", "--sbom", &from, &name]).run();
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let said = format!("is {whole} of an earlier push");
    assert!(again.stderr.contains(&said), "{}", again.stderr);
}

/// With the first page go credentials, and so no page of another host is asked for.
#[test]
fn a_page_at_another_host_is_not_asked_for() {
    let other = Server::start(|_| page(&[], None));
    let next = format!("http://{}/v2/app/referrers/x", other.address());
    let registry =
        bent::Registry::bent(move |asked, _| lists(asked).then(|| page(&[], Some(&next))));
    let project = built();
    let name = registry.name("1");
    for _ in 0..2 {
        project.lambimg(["push", "--sbom", "app", &name]).succeed();
    }
    assert!(!registry.asked("GET", "/referrers/").is_empty());
    assert!(other.asked().is_empty());
}

/// A registry that has learnt to list referrers knows nothing of those that are under the tag.
#[test]
fn a_document_under_the_tag_of_a_registry_that_lists_now_is_found() {
    let knows = Arc::new(AtomicBool::new(false));
    let registry = {
        let knows = Arc::clone(&knows);
        bent::Registry::bent(move |asked, kept| {
            let manifest: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            let subject = manifest["subject"]["digest"].as_str();
            if !knows.load(Ordering::Relaxed) {
                return lists(asked).then(|| Reply::status(404));
            }
            if asked.method == "PUT"
                && let Some(subject) = subject
            {
                return Some(kept.answer(asked).header("OCI-Subject", subject));
            }
            lists(asked).then(|| page(&[], None))
        })
    };
    let project = built();
    let name = registry.name("1");
    project.lambimg(["push", "--sbom", "app", &name]).succeed();
    knows.store(true, Ordering::Relaxed);
    let from = format!("docker://{name}");
    let push = ["push", "--sbom", &from, &name];
    Project::new().lambimg(push).succeed();
    assert_eq!(referrers(&registry.kept()).len(), 1);
    // Whoever has the same document has it taken in.
    let puts = || registry.asked("PUT", "/manifests/sha256:").len();
    let before = puts();
    project.lambimg(["push", "--sbom", "app", &name]).succeed();
    assert_eq!(puts(), before + 1);
}

/// What knows more takes the place of what knew less.
#[test]
fn a_document_that_says_less_leaves_the_list() {
    let registry = Registry::start();
    let project = built();
    let name = format!("{}:1", registry.name("app"));
    project.lambimg(["push", "app", &name]).succeed();
    let image = registry.manifest("app", "1").unwrap();
    let tag = digest(&image).replace(':', "-");
    let from = format!("docker://{name}");
    let push = |form: &str| {
        Project::new()
            .lambimg(["push", form, &from, &name])
            .succeed();
    };
    push("--sbom");
    push("--sbom=spdx");
    let said = || {
        let list = parsed(registry.manifest("app", &tag));
        let list = list["manifests"].as_array().unwrap().iter();
        let said = list.map(|one| {
            let says = &one["annotations"]["lambimg.sbom"];
            format!("{}: {}", one["artifactType"], says).replace('"', "")
        });
        said.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(said(), @"
    application/vnd.cyclonedx+json: without-wheels
    application/spdx+json: without-wheels
    ");
    project.lambimg(["push", "--sbom", "app", &name]).succeed();
    insta::assert_snapshot!(said(), @"
    application/spdx+json: without-wheels
    application/vnd.cyclonedx+json: whole
    ");
    push("--sbom");
    assert_eq!(said().lines().count(), 2);
}

/// Of an image that is there it is told, whatever becomes of its document.
#[test]
fn a_registry_refuses_the_document() {
    let registry = bent::Registry::bent(|asked, _| {
        let manifest: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let is_refused = asked.method == "PUT" && manifest["subject"].is_object();
        is_refused.then(|| bent::said(400, "MANIFEST_INVALID", "subjects are unknown here"))
    });
    let project = built();
    let name = registry.name("1");
    let file = project.beside("made.json");
    let made = ["--metadata-file", file.to_str().unwrap()];
    let push = ["push", "--progress", "none", "--sbom", "app", &name];
    let outcome = project.lambimg(push.iter().chain(&made)).run();
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert!(registry.kept().manifests.contains_key("1"));
    let made: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(made["pushed"][0]["sbom"], Value::Null);
    assert!(outcome.stdout.contains(made["digest"].as_str().unwrap()));
    let base = Base::aws("3.12").reference();
    let build = ["build", "--base", &base, "-t", &name, "--force", "--push"];
    let flags = ["--progress", "none", "--sbom=spdx"];
    let build = Project::with_handler()
        .lambimg(build.iter().chain(&flags))
        .run();
    assert_eq!(build.code, Some(NETWORK), "{}", build.rendering());
    assert!(build.stdout.contains("@sha256:"), "{}", build.rendering());
    assert_said!(outcome);
}

/// By its digest alone, and of the repository itself: no tag moves.
#[test]
fn a_document_is_attached_later() {
    let registry = Registry::start();
    let project = built();
    let name = format!("{}:1", registry.name("app"));
    let pushed = project.lambimg(["push", "app", &name]).succeed();
    let pushed = pushed.trim();
    let from = format!("docker://{pushed}");
    project.lambimg(["push", "--sbom", &from, pushed]).succeed();
    let image = registry.manifest("app", "1").unwrap();
    let tag = digest(&image).replace(':', "-");
    assert_eq!(registry.tags("app"), ["1".to_owned(), tag]);
}

/// As Debian's registry says while somebody else puts the same document there.
#[test]
fn the_list_is_put_again() {
    let registry = bent::Registry::bent(|asked, kept| {
        if lists(asked) {
            return Some(Reply::status(404));
        }
        let is_list = asked.method == "PUT" && asked.target.contains("/manifests/sha256-");
        if !is_list || kept.bent > 0 {
            return None;
        }
        kept.bent += 1;
        Some(bent::said(
            400,
            "MANIFEST_BLOB_UNKNOWN",
            "blob unknown to registry",
        ))
    });
    let project = built();
    let name = registry.name("1");
    project.lambimg(["push", "--sbom", "app", &name]).succeed();
    assert_eq!(registry.asked("PUT", "/manifests/sha256-").len(), 2);
}

/// What somebody else has under the tag is not written over.
#[test]
fn the_tag_is_no_list() {
    let registry = Registry::start();
    let project = built();
    let name = format!("{}:1", registry.name("app"));
    project.lambimg(["push", "app", &name]).succeed();
    let image = registry.manifest("app", "1").unwrap();
    let tag = digest(&image).replace(':', "-");
    registry.put_manifest("app", &tag, bent::MANIFEST, image.clone());
    let outcome = project
        .lambimg(["push", "--progress", "none", "--sbom", "app", &name])
        .run();
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_eq!(registry.manifest("app", &tag).unwrap(), image);
    assert_said!(outcome);
}
