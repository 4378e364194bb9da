//! `rebase`: an image is moved to a newer base by its documents, and is then the one that a build there gives.

use std::fs;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::support::archive::Tree;
use crate::support::base::Base;
use crate::support::base::of_tree;
use crate::support::digest;
use crate::support::image::Image;
use crate::support::index::Index;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::registry::Registry;
use crate::support::wheel::Wheel;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;

/// What is in a base of Amazon's, reduced to what tells one from another.
fn base_tree(text: &str, system: &str) -> Tree {
    let mut tree = Tree::default();
    let release = format!("NAME=\"Some\"\nID=\"some\"\nVERSION_ID=\"{system}\"\n");
    tree.file("etc/base", text, 0o644)
        .file("etc/os-release", release, 0o644)
        .file("var/lang/bin/python3.12", "", 0o755)
        .directory("var/task", 0o755);
    tree
}

fn project() -> Project {
    let project = Project::with_handler();
    project.file("requirements.txt", "one\n");
    project
}

fn index() -> Index {
    let index = Index::start();
    index.serve(&Wheel::pure("one", "1.0"));
    for (name, version) in [
        ("awslambdaric", "4.2.2"),
        ("simplejson", "4.3.0"),
        ("snapshot_restore_py", "1.0.0"),
    ] {
        index.serve(&Wheel::pure(name, version));
    }
    index
}

fn build(project: &Project, index: &Index, base: &str, name: &str) -> String {
    let build = ["build", "--base", base, "-t", name];
    project.lambimg(build).index(&index.url()).succeed()
}

fn rebase(project: &Project, arguments: &[&str]) -> Outcome {
    let rebase = ["rebase", "--progress", "plain"];
    let outcome = project.lambimg([&rebase[..], arguments].concat()).run();
    if outcome.code == Some(0) {
        return outcome;
    }
    assert_eq!(outcome.stdout, "", "{}", outcome.rendering());
    outcome
}

/// What `NAME@DIGEST` says after the `@`.
fn digest_of(printed: &str) -> &str {
    printed.trim().split_once('@').unwrap().1
}

/// Gives a base of OCI's types in `registry` another environment and one more layer, under the same tag.
fn renew(registry: &Registry, repository: &str, tag: &str) {
    let mut tree = Tree::default();
    let layer = tree.file("etc/renewed", "renewed", 0o644).layer();
    registry.put_blob(repository, layer.content.clone());
    edit_images(registry, repository, [tag, tag], |manifest, config| {
        let env = config["config"]["Env"].as_array_mut().unwrap();
        env[0] = json!("PATH=/renewed/bin:/usr/local/bin:/usr/bin:/bin");
        env.push(json!("RENEWED=1"));
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().unwrap();
        diff_ids.push(json!(layer.diff_id));
        let history = config["history"].as_array_mut().unwrap();
        history.push(json!({"created_by": "renewed", "created": "2026-01-01T00:00:00Z"}));
        let layers = manifest["layers"].as_array_mut().unwrap();
        let media_type = layers[0]["mediaType"].clone();
        layers.push(descriptor(&layer.content, &media_type));
    });
}

fn descriptor(content: &[u8], media_type: &Value) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

/// Puts under the second tag what is under the first, each image with its documents edited.
fn edit_images(
    registry: &Registry,
    repository: &str,
    [from, to]: [&str; 2],
    edit: impl Fn(&mut Value, &mut Value),
) {
    let list = registry.manifest(repository, from).unwrap();
    let mut list: Value = serde_json::from_slice(&list).unwrap();
    for entry in list["manifests"].as_array_mut().unwrap() {
        if entry["platform"]["os"] == "unknown" {
            continue;
        }
        let manifest = registry.manifest(repository, entry["digest"].as_str().unwrap());
        let mut manifest: Value = serde_json::from_slice(&manifest.unwrap()).unwrap();
        let config = registry.blob(repository, manifest["config"]["digest"].as_str().unwrap());
        let mut config: Value = serde_json::from_slice(&config.unwrap()).unwrap();
        edit(&mut manifest, &mut config);
        let config = config.to_string().into_bytes();
        registry.put_blob(repository, config.clone());
        manifest["config"] = descriptor(&config, &manifest["config"]["mediaType"]);
        let manifest_bytes = manifest.to_string().into_bytes();
        let media_type = manifest["mediaType"].as_str().unwrap();
        let name = digest(&manifest_bytes);
        registry.put_manifest(repository, &name, media_type, manifest_bytes.clone());
        entry["digest"] = json!(name);
        entry["size"] = json!(manifest_bytes.len());
    }
    let media_type = list["mediaType"].as_str().unwrap().to_owned();
    registry.put_manifest(repository, to, &media_type, list.to_string().into_bytes());
}

/// The property that rebasing has to have, on bases of both families, with and without a runtime client.
#[test]
fn a_moved_image_is_the_one_that_a_build_on_the_new_base_gives() {
    let index = index();
    for (base, repository) in [
        (Base::aws("3.12"), "lambda/python"),
        (Base::aws_oci("3.12"), "lambda/python-oci"),
        (Base::bare("3.12"), "library/python"),
    ] {
        let (project, registry) = (project(), Registry::start());
        let reference = base.copy_to(&registry);
        let was = build(&project, &index, &reference, "app:1");
        renew(&registry, repository, "3.12");
        let name = registry.name("functions/app:2");
        let log = registry.log().len();
        let outcome = rebase(&project, &["app:1", "-t", "moved:1", "-t", &name, "--push"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        let uploads = registry.log()[log..].matches("/blobs/uploads/").count();
        let image = Image::in_registry(&registry, &name);
        image.assert_accepted_by_lambda();
        assert!(uploads > 0, "the log tells of uploads");
        // Anew, by somebody else.
        let other = self::project();
        fs::copy(
            project.path().join("pylock.toml"),
            other.path().join("pylock.toml"),
        )
        .unwrap();
        let built = build(&other, &index, &reference, "app:1");
        assert_ne!(digest_of(&was), digest_of(&built));
        assert_eq!(image.digest(), digest_of(&built), "{repository}");
        assert!(
            outcome
                .stdout
                .contains(&format!("moved@{}", image.digest()))
        );
    }
}

/// What a project has set is its own, also where the old base has just the same.
#[test]
fn what_a_project_sets_stays() {
    let index = index();
    let of_aws = "/lambda-entrypoint.sh";
    for (base, repository, entry, other) in [
        (Base::aws_oci("3.12"), "lambda/python-oci", of_aws, of_aws),
        (Base::bare("3.12"), "library/python", "/bin/sh", "/bin/ls"),
    ] {
        let registry = Registry::start();
        let reference = base.copy_to(&registry);
        let say = |tag: &str, (level, directory, user, entry): (&str, &str, &str, &str)| {
            edit_images(&registry, repository, ["3.12", tag], |_, config| {
                let run = &mut config["config"];
                let env = run["Env"].as_array_mut().unwrap();
                env.insert(0, json!(format!("LEVEL={level}")));
                run["Labels"] = json!({"team": level});
                run["WorkingDir"] = json!(directory);
                run["User"] = json!(user);
                run["Entrypoint"] = json!([entry]);
            });
            reference.replace("3.12", tag)
        };
        let old = say("old", ("info", "/var", "1", entry));
        let new = say("new", ("debug", "/", "2", other));
        let with_settings = || {
            let project = project();
            let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
            let own = format!(
                "env = {{ LEVEL = \"info\", A = \"1\" }}\nlabels = {{ team = \"info\" }}\nworkdir = \"/var\"\n\
                 user = \"1\"\nentrypoint = [\"{entry}\"]\n"
            );
            project.file("pyproject.toml", settings + &own);
            project
        };
        let (first, second) = (with_settings(), with_settings());
        build(&first, &index, &old, "app:1");
        let outcome = rebase(&first, &["app:1", "--onto", &new, "-t", "moved:1"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
        for lock in ["pylock.toml", "lambimg.lock"] {
            let from = first.path().join(lock);
            fs::copy(from, second.path().join(lock)).unwrap();
        }
        let built = build(&second, &index, &new, "app:1");
        let told = outcome.rendering();
        assert_eq!(digest_of(&outcome.stdout), digest_of(&built), "{told}");
    }
}

#[test]
fn an_image_follows_its_base_under_its_own_name() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    project.file("pyproject.toml", format!("{settings}base = \"{base}\"\n"));
    let was = build(&project, &index, &base, "app:1");
    let current = rebase(&project, &["app:1"]);
    assert_eq!((current.code, &current.stdout), (Some(0), &was));
    assert_said!(current);
    of_tree(&registry, &base_tree("second", "1"));
    let moved = rebase(&project, &["app:1"]);
    assert_eq!(moved.code, Some(0), "{}", moved.rendering());
    assert_ne!(moved.stdout, was);
    insta::with_settings!({snapshot_suffix => "moved"}, { assert_said!(moved) });
    let name = registry.name("functions/app:1");
    project.lambimg(["push", "app:1", &name]).succeed();
    let image = Image::in_registry(&registry, &name);
    image.assert_accepted_by_lambda();
    assert_eq!(image.digest(), digest_of(&moved.stdout));
    // The proof of it is a build on the base as it is now.
    let verify = ["verify", "app:1", "--base", &base];
    let proof = project.lambimg(verify).index(&index.url()).run();
    assert_eq!(proof.code, Some(0), "{}", proof.rendering());
}

/// Its own layers are the same, and what is known of their wheels goes along.
#[test]
fn a_moved_image_has_the_bill_of_materials_that_it_had() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let own = "workdir = '/opt'\nentrypoint = ['/var/task/run']\nenv = { LEVEL = 'debug' }\n";
    project.file(
        "pyproject.toml",
        settings.replace("handler = \"app.handler\"\n", "") + own,
    );
    project.file("run", "#!/bin/sh\n");
    let base = of_tree(&registry, &base_tree("first", "1"));
    build(&project, &index, &base, "app:1");
    let listed = || {
        let document = project.lambimg(["sbom", "app:1"]).succeed();
        let document: Value = serde_json::from_str(&document).unwrap();
        let all = document["components"].as_array().unwrap();
        let own = all.iter().filter(|one| one["scope"] == "required");
        (own.cloned().collect::<Vec<_>>(), all[0]["version"].clone())
    };
    let (was, old) = listed();
    assert_eq!(was[0]["bom-ref"], "var/task/one-1.0.dist-info");
    assert!(was[0]["hashes"].is_array(), "{was:?}");
    of_tree(&registry, &base_tree("second", "1"));
    let moved = rebase(&project, &["app:1"]);
    assert_eq!(moved.code, Some(0), "{}", moved.rendering());
    let (is, new) = listed();
    assert_eq!(is, was);
    assert_ne!(new, old);
}

/// An image in a registry is moved there, with an empty store; of its own layers no byte moves.
#[test]
fn an_image_in_a_registry_is_moved_in_place() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    build(&project, &index, &base, "app:1");
    let name = registry.name("functions/app:1");
    project.lambimg(["push", "app:1", &name]).succeed();
    let first = Image::in_registry(&registry, &name);
    of_tree(&registry, &base_tree("second", "1"));
    fs::remove_dir_all(project.cache()).unwrap();
    let before = registry.log().len();
    let moved = rebase(&project, &[&format!("docker://{name}"), "--push"]);
    assert_eq!(moved.code, Some(0), "{}", moved.rendering());
    let log = registry.log();
    let image = Image::in_registry(&registry, &name);
    image.assert_accepted_by_lambda();
    assert_eq!(image.digest(), digest_of(&moved.stdout));
    assert_ne!(image.digest(), first.digest());
    assert_eq!(image.layers[1..], first.layers[1..]);
    for layer in first.manifest["layers"].as_array().unwrap() {
        let name = layer["digest"].as_str().unwrap();
        let get = format!("GET /v2/functions/app/blobs/{name}");
        assert!(!log[before..].contains(&get), "{get}");
    }
}

/// What the image has changed of it cannot be told.
#[test]
fn an_image_whose_base_is_gone_is_refused() {
    let (project, index) = (project(), index());
    let directory = project.beside("registry");
    let registry = Registry::start_in(&directory);
    let base = of_tree(&registry, &base_tree("first", "1"));
    build(&project, &index, &base, "app:1");
    let name = registry.name("functions/app:1");
    project.lambimg(["push", "app:1", &name]).succeed();
    fs::remove_dir_all(directory.join("storage/docker/registry/v2/repositories/lambda")).unwrap();
    of_tree(&registry, &base_tree("second", "1"));
    fs::remove_dir_all(project.cache()).unwrap();
    let outcome = rebase(&project, &[&format!("docker://{name}")]);
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_said!(outcome);
}

/// A base that `--onto` names, with its own registry's address.
fn onto(registry: &Registry, tag: &str, tree: &Tree) -> String {
    of_tree(registry, tree);
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let media_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    registry.put_manifest("lambda/python", tag, media_type, list);
    registry.name(&format!("lambda/python:{tag}"))
}

#[test]
fn what_may_not_run_is_refused() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    build(&project, &index, &base, "app:1");
    let other_python = onto(&registry, "3.13", &base_tree("second", "1"));
    let other_kind = Base::bare("3.12").reference();
    let absent = registry.name("lambda/python:none");
    for (what, onto, code) in [
        ("python", &other_python, REFUSED),
        ("kind", &other_kind, REFUSED),
        ("absent", &absent, 4),
    ] {
        let outcome = rebase(&project, &["app:1", "--onto", onto]);
        assert_eq!(outcome.code, Some(code), "{}", outcome.rendering());
        insta::with_settings!({snapshot_suffix => what}, { assert_said!(outcome) });
    }
}

/// Wheels and the runtime client are chosen for the C library: a build there may give others.
#[test]
fn a_base_of_another_c_library_is_refused() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = Base::bare("3.12").copy_to(&registry);
    let (repository, mut tags) = ("library/python", Vec::new());
    for glibc in ["2.34", "2.36"] {
        edit_images(&registry, repository, ["3.12", glibc], |_, config| {
            config["config"]["Labels"] = json!({"lambimg.glibc": glibc});
        });
        tags.push(base.replace("3.12", glibc));
    }
    for (from, to) in [(0, 1), (1, 0)] {
        build(&project, &index, &tags[from], "app:1");
        let outcome = rebase(&project, &["-q", "app:1", "--onto", &tags[to]]);
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        let told = format!("has glibc {}", ["2.34", "2.36"][to]);
        assert!(outcome.stderr.contains(&told), "{}", outcome.rendering());
    }
}

/// Who hides a base's bytecode is a build, which knows whether there is any.
#[test]
fn a_base_of_ours_and_one_of_others_are_no_ground_for_each_other() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = Base::bare("3.12").copy_to(&registry);
    edit_images(
        &registry,
        "library/python",
        ["3.12", "ours"],
        |_, config| {
            config["config"]["Labels"] = json!({"lambimg.layers": ""});
        },
    );
    let ours = base.replace("3.12", "ours");
    for (from, to, said) in [
        (&base, &ours, "was made by lambimg"),
        (&ours, &base, "was not made by lambimg"),
    ] {
        build(&project, &index, from, "app:1");
        let outcome = rebase(&project, &["-q", "app:1", "--onto", to]);
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        assert!(outcome.stderr.contains(said), "{}", outcome.rendering());
    }
}

/// What failed is found by the next run, and by the next build.
#[test]
fn the_lock_follows_although_the_push_fails() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    project.file("pyproject.toml", format!("{settings}base = \"{base}\"\n"));
    build(&project, &index, &base, "app:1");
    of_tree(&registry, &base_tree("second", "1"));
    let nowhere = ["app:1", "-t", "127.0.0.1:1/app:1", "--push"];
    let outcome = rebase(&project, &nowhere);
    assert_eq!(outcome.code, Some(4), "{}", outcome.rendering());
    let lock = fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    let new = list["manifests"][0]["digest"].as_str().unwrap();
    assert!(lock.contains(new), "{lock}");
}

/// Each function of a project may have a base of its own.
#[test]
fn the_lock_follows_the_base_of_a_function() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let functions =
        format!("\n[tool.lambimg.functions.one]\nbase = \"{base}\"\nimage = \"app:1\"\n");
    project.file("pyproject.toml", settings + &functions);
    project.lambimg(["build"]).index(&index.url()).succeed();
    of_tree(&registry, &base_tree("second", "1"));
    let outcome = rebase(&project, &["app:1"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let lock = fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    let new = list["manifests"][0]["digest"].as_str().unwrap();
    assert!(lock.contains(new), "{lock}");
}

/// Where neither config nor name tells, the layers do.
#[test]
fn another_system_is_refused() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = renamed(&registry, "company/base:1", &base_tree("first", "1"));
    build(&project, &index, &base, "app:1");
    for (what, tree) in [
        ("system", base_tree("second", "2")),
        ("unknown", Tree::default()),
    ] {
        let onto = renamed(&registry, "company/base:2", &tree);
        let outcome = rebase(&project, &["-q", "app:1", "--onto", &onto]);
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        insta::with_settings!({snapshot_suffix => what}, { assert_said!(outcome) });
    }
    let onto = renamed(&registry, "company/base:2", &base_tree("second", "1"));
    let outcome = rebase(&project, &["app:1", "--onto", &onto]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let name = registry.name("functions/app:1");
    project.lambimg(["push", "app:1", &name]).succeed();
    Image::in_registry(&registry, &name).assert_accepted_by_lambda();
}

/// A base whose name says nothing.
fn renamed(registry: &Registry, name: &str, tree: &Tree) -> String {
    let from = of_tree(registry, tree);
    let to = registry.name(name);
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--all"]);
    skopeo.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
    skopeo.args([format!("docker://{from}"), format!("docker://{to}")]);
    run(&mut skopeo);
    to
}

#[test]
fn an_image_that_does_not_say_its_base_is_refused() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    build(&project, &index, &base, "app:1");
    // A base itself stands on none that it knows of.
    let image = format!("docker://{base}");
    let outcome = rebase(&project, &[&image, "-t", "app:2"]);
    assert_eq!(
        outcome.code,
        Some(3),
        "two platforms: {}",
        outcome.rendering()
    );
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    let entry = list["manifests"][0]["digest"].as_str().unwrap();
    let image = format!("docker://{}@{entry}", registry.name("lambda/python"));
    let outcome = rebase(&project, &[&image, "-t", "app:2"]);
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    insta::with_settings!({snapshot_suffix => "no-base"}, { assert_said!(outcome) });
    let outcome = rebase(&project, &[&image]);
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    insta::with_settings!({snapshot_suffix => "no-name"}, { assert_said!(outcome) });
    let outcome = rebase(&project, &["app:1", "--push"]);
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
}

/// The label says one base, the layers are another's.
#[test]
fn layers_that_are_not_the_bases_are_refused() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    build(&project, &index, &base, "app:1");
    let name = registry.name("functions/app:1");
    project.lambimg(["push", "app:1", &name]).succeed();
    let manifest = registry.manifest("functions/app", "1").unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = registry.blob(
        "functions/app",
        manifest["config"]["digest"].as_str().unwrap(),
    );
    let mut config: Value = serde_json::from_slice(&config.unwrap()).unwrap();
    of_tree(&registry, &base_tree("second", "1"));
    let list = registry.manifest("lambda/python", "3.12").unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    let entry = &list["manifests"][0]["digest"];
    config["config"]["Labels"]["org.opencontainers.image.base.digest"] = entry.clone();
    let config = config.to_string().into_bytes();
    registry.put_blob("functions/app", config.clone());
    manifest["config"]["digest"] = json!(digest(&config));
    manifest["config"]["size"] = json!(config.len());
    let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
    registry.put_manifest(
        "functions/app",
        "1",
        &media_type,
        manifest.to_string().into_bytes(),
    );
    of_tree(&registry, &base_tree("third", "1"));
    let outcome = rebase(&project, &[&format!("docker://{name}")]);
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_said!(outcome);
}

/// Another tool keeps the label, and forgets what the history says.
#[test]
fn a_layer_that_somebody_has_put_on_it_is_none_of_the_images() {
    let (project, index, registry) = (project(), index(), Registry::start());
    let base = of_tree(&registry, &base_tree("first", "1"));
    let directory = project.beside("image");
    let output = format!("oci:{}", directory.display());
    let build = ["build", "--base", &base, "-t", "app:1", "-o", &output];
    project.lambimg(build).index(&index.url()).succeed();
    // umoci knows no names with a colon.
    let image = format!("{}:some", directory.display());
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    run(skopeo.args(["copy", &output, &format!("oci:{image}")]));
    let mut umoci = Command::new(program("umoci", "umoci"));
    umoci.args(["insert", "--no-history", "--image", &image]);
    let added = project.path().join("app.py");
    run(umoci.arg(added).arg("/var/task/more.py"));

    let image = format!("oci:{image}");
    let told = project.lambimg(["inspect", &image, "--format", "json"]);
    let told: Value = serde_json::from_str(&told.succeed()).unwrap();
    let layers = told["layers"].as_array().unwrap();
    let of_base: Vec<_> = layers.iter().map(|layer| &layer["base"]).collect();
    assert_eq!(of_base, [true, false, false, false]);

    of_tree(&registry, &base_tree("second", "1"));
    let outcome = rebase(&project, &[&image, "-t", "app:2"]);
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_said!(outcome);
}
