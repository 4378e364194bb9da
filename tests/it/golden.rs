//! Golden digests: the same bytes went in, so the same bytes have to come out, in this version and in the next. Whoever
//! changes one of them makes every user's images others, takes every cache from them, and has to mean it.
//!
//! Nothing here is asked of a network or a clock. What goes in has digests, too, so that a change in what the tests
//! make is not taken for one in what lambimg makes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use crate::support::digest;
use crate::support::image::Image;
use crate::support::index::Index;
use crate::support::project::Project;
use crate::support::python_directories;
use crate::support::registry::Registry;
use crate::support::wheel::Wheel;

/// What goes in.
const INPUTS: [(&str, &str); 4] = [
    (
        "base of Docker's types",
        "sha256:1cba408457fac592578627a554db27b002ce7ef77ed777b0c6038597f9ee24b0",
    ),
    (
        "base of OCI's types",
        "sha256:00f991ee199525856087b2f3d30f148448376b2cfe2d716e941c00a619742428",
    ),
    (
        "base without runtime client",
        "sha256:fdf35d1151d4ff46ba99d55912e78535ffdebde7eafcd63ebe424e6dedd844c5",
    ),
    (
        "wheel",
        "sha256:4d3194f1961c85107b47eaaac71471ff1b8fdd71f0214084ffb8382b0b2fef76",
    ),
];

/// What comes out, and whose format it is.
const OUTPUTS: [(&str, &str, &str); 10] = [
    (
        "function layer",
        LAYER,
        "sha256:54b6fe394a9b2f9580572b3d5804bdb2139434d313838d2b0daddf505c5f696b",
    ),
    (
        "dependency layer",
        LAYERS,
        "sha256:16a396e83cdefe921c76aae9637a300cd2d1c247084568c2102fbb5ef86f1e3e",
    ),
    (
        "dependency layer, recompressed",
        LAYERS,
        "sha256:39dadd6b04c7521ff7ca6783a50954d0683c14a25039dc12a75ca8f6bd4974fd",
    ),
    (
        "Docker's types: config",
        DOCUMENTS,
        "sha256:8002a5c3c1cd483015a0dbe6f6ae26e6e24203b54ef0f9b05da669323a28127b",
    ),
    (
        "Docker's types: manifest",
        DOCUMENTS,
        "sha256:290bb63e166a50a7ee1a51539a485dcc80875f5427a87b4026ca37a93676e8c7",
    ),
    (
        "Docker's types: lambimg's own labels",
        KEYS,
        "sha256:442304ba90b7d5d208a18179e75997c89de3a57bf1bdf793d3a59adb1b9673d6",
    ),
    (
        "OCI's types: config",
        DOCUMENTS,
        "sha256:fdf41f60dae003addab8c7675611300fcc67490d04c6a9d011458197dce9e8fe",
    ),
    (
        "OCI's types: manifest",
        DOCUMENTS,
        "sha256:1b3aacaee0435ee0e00fa1bf9a15bdbc524b1e1740972e6d9845c269f53ceaf9",
    ),
    (
        "bootstrap layer",
        LAYERS,
        "sha256:8183ccd6a443610121b0e0a6cd6adff87a80dd07bab6fcefdf0e5fc978186991",
    ),
    (
        "bootstrap config",
        DOCUMENTS,
        "sha256:1b387d0d360160d214351482598ccaf912e2fd656cb9c6a0903edc2f5132ae56",
    ),
];

/// A dependency layer with bytecode, by the exact version of the CPython that compiled it.
const BYTECODE: [(&str, &str); 6] = [
    (
        "3.9.18",
        "sha256:160c72eb6fe699ecc838eb94416446c0e8a80f579b39acfa7193cfa0af61667b",
    ),
    (
        "3.10.13",
        "sha256:e50bdc49e43928396ba2fa4b270cc1606796e54c550a6d33113695e1dd6e50d0",
    ),
    (
        "3.11.2",
        "sha256:9a8f74276ff8f42351783c91d8ed83132abd74baa141ac50ad792b2d08ebe72c",
    ),
    (
        "3.11.7",
        "sha256:9a8f74276ff8f42351783c91d8ed83132abd74baa141ac50ad792b2d08ebe72c",
    ),
    (
        "3.12.1",
        "sha256:441f9f0a45077f8f0706213d02062b3cac7452ff121ea1ed60cf3e2525b7ace5",
    ),
    (
        "3.13.0",
        "sha256:87193baec74039fecd3d3d956215a6e78861644a72f4bc6433a834dd46b75f91",
    ),
];

const LAYER: &str = "bump `FORMAT` in src/oci/layer.rs";
const LAYERS: &str = "bump `FORMAT` in src/oci/layer.rs or src/build/wheel_layers.rs";
const COMPILED: &str =
    "bump `FORMAT` in src/python/bytecode.rs, src/build/compiling.rs or src/oci/layer.rs";
const KEYS: &str = "no cache of anybody's hits any more: this follows from another `FORMAT`, or the memo keys changed";
const DOCUMENTS: &str =
    "this follows from the digests of layers and keys, or src/oci/image.rs writes other documents";

/// All that is not as it was, and what to do.
#[derive(Default)]
struct Changes(String);

impl Changes {
    fn input(&mut self, what: &str, found: &str) {
        let (_, expected) = INPUTS.iter().find(|(name, _)| *name == what).unwrap();
        if found != *expected {
            let _ = writeln!(
                self.0,
                "{what} is {found}\n  and was {expected}\n  \
                 The tests make another one than before, so this says nothing of the format: mend what makes it."
            );
        }
    }

    fn output(&mut self, what: &str, found: &str) {
        let (_, advice, expected) = OUTPUTS.iter().find(|(name, ..)| *name == what).unwrap();
        self.compare(what, advice, expected, found);
    }

    fn compare(&mut self, what: &str, advice: &str, expected: &str, found: &str) {
        if found != expected {
            let _ = writeln!(
                self.0,
                "{what} is {found}\n  and was {expected}\n  \
                 This is a change of format: every image becomes another. Unless it is meant, undo it; if it is, \
                 {advice}; and write the new digest into tests/it/golden.rs."
            );
        }
    }

    fn assert_none(&self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

// --- what goes in -------------------------------------------------------------------------------

/// A gzip member that holds the bytes as they are: no compressor's version is in it.
fn stored(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    gzip.extend(length.to_le_bytes());
    gzip.extend((!length).to_le_bytes());
    gzip.extend(content);
    gzip.extend(crc32fast::hash(content).to_le_bytes());
    gzip.extend(u32::from(length).to_le_bytes());
    gzip
}

/// A base of one layer with nothing in it, under every version's tag; gives the manifest's digest.
fn put_base(registry: &Registry, repository: &str, types: [&str; 3], config: &Value) -> String {
    let tar = vec![0; 1024];
    let layer = stored(&tar);
    let config = json!({
        "architecture": "amd64", "config": config, "created": "2001-02-03T04:05:06Z", "os": "linux",
        "history": [{"created": "2001-02-03T04:05:06Z"}],
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
    });
    let config = config.to_string().into_bytes();
    let [of_manifest, of_config, of_layer] = types;
    let descriptor = |media_type: &str, content: &[u8]| json!({"mediaType": media_type, "digest": digest(content), "size": content.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": of_manifest,
        "config": descriptor(of_config, &config), "layers": [descriptor(of_layer, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    registry.put_blob(repository, layer);
    registry.put_blob(repository, config);
    for minor in 9..=14 {
        let tag = format!("3.{minor}");
        registry.put_manifest(repository, &tag, of_manifest, manifest.clone());
    }
    digest(&manifest)
}

const DOCKER: [&str; 3] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
const OCI: [&str; 3] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
];

/// Text that compresses as text does.
fn words(count: u32) -> Vec<u8> {
    let mut state = 7_u32;
    let mut text = Vec::new();
    for _ in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = ["eins", "zwei", "drei", "vier", "\n"][(state >> 28) as usize % 5];
        text.extend(format!("{word}{} ", state >> 24).bytes());
    }
    text
}

/// Before Python 3.12 the place of `None` in so large a set is that of its address, another one in each process.
fn set_with_none() -> String {
    let names: Vec<_> = (0..700).map(|number| format!("'n{number}'")).collect();
    format!(
        "def f(x):\n    return x in {{None, {}}}\n",
        names.join(", ")
    )
}

/// Large members that were deflated, one of several segments; a large one that was not, small ones, a program.
fn wheel() -> Wheel {
    let deflated = |wheel: Wheel, path: &str, content: Vec<u8>| {
        let size = u32::try_from(content.len()).unwrap();
        wheel.deflated(path, content, size)
    };
    let wheel = Wheel::pure("some", "1.0").script("some = some:main");
    let wheel = deflated(wheel, "some/huge.txt", words(200_000));
    let wheel = deflated(wheel, "some/large.txt", words(8_000));
    let wheel = deflated(wheel, "some/small.txt", words(100));
    wheel
        .member("some/stored.txt", words(9_000))
        .member("some/module.py", MODULE)
        .member("some/sets.py", set_with_none())
        .member("some/nested/__init__.py", "")
        .member_with_mode("some/tool", "#!/bin/sh\n", 0o100_755)
}

/// Something of all that a code object can hold, in words of Python 3.9.
const MODULE: &str = r#"
"""Text."""
import os.path as path
NUMBERS = (0, 1, -1, 2**31, 2**70, 1.5, -0.0, 1e300, 3j, True, None, ...)
TEXTS = ("", "a", "name", "Zoë", "\U0001f40d", "\ud800", b"", b"\xff\x00")
class Some(dict):
    """Text."""
    name: str = "name"
    def method(self, one, /, two=2, *rest, three: int = 3, **more):
        def inner():
            nonlocal two
            two += 1
            return two
        return inner, self.name, [x for x in rest if x in {"b", "a", None, 1}]
async def later(thing):
    async with thing as got:
        async for each in got:
            yield await each
def guard(x):
    try:
        return f"{x!r:>{path.sep}}" if x else lambda *, k="name": k
    except (ValueError, KeyError) as error:
        raise RuntimeError from error
    finally:
        del x
"#;

/// A machine that has nothing but what goes in.
struct Bench {
    project: Project,
    index: Index,
    registry: Registry,
    changes: Changes,
}

impl Bench {
    fn new() -> Bench {
        let (project, index, registry) = (Project::new(), Index::start(), Registry::start());
        let mut changes = Changes::default();
        let of_lambda = json!({
            "Entrypoint": ["/lambda-entrypoint.sh"], "WorkingDir": "/var/task",
            "Env": ["LANG=en_US.UTF-8", "PATH=/var/lang/bin:/usr/bin", "LAMBDA_TASK_ROOT=/var/task", "LAMBDA_RUNTIME_DIR=/var/runtime"],
        });
        let plain = json!({"Cmd": ["python3"], "Env": ["PATH=/usr/local/bin:/usr/bin"]});
        let put = |repository, types, config| put_base(&registry, repository, types, config);
        let docker = put("lambda/python", DOCKER, &of_lambda);
        let oci = put("oci/lambda/python", OCI, &of_lambda);
        let plain = put("plain/python", OCI, &plain);
        changes.input("base of Docker's types", &docker);
        changes.input("base of OCI's types", &oci);
        changes.input("base without runtime client", &plain);
        changes.input("wheel", &digest(&wheel().bytes()));
        index.serve(&wheel());
        for (name, version) in [
            ("awslambdaric", "4.2.2"),
            ("simplejson", "4.3.0"),
            ("snapshot_restore_py", "1.0.0"),
        ] {
            index.serve(&Wheel::pure(name, version));
        }
        project.file("app.py", "def handler(event, context):\n    return 'ok'\n");
        project.file("lib/module.py", MODULE);
        project.file("assets/large.txt", words(50_000));
        project.file("assets/Zoë.txt", "Zoë\n");
        project.file("assets/tool", "#!/bin/sh\n");
        for path in [
            "app.py",
            "lib/module.py",
            "assets/large.txt",
            "assets/Zoë.txt",
            "assets/tool",
        ] {
            let mode = if path.ends_with("tool") { 0o755 } else { 0o644 };
            let path = project.path().join(path);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        project.file("pylock.toml", index.lock(&[&wheel()], true));
        Bench {
            project,
            index,
            registry,
            changes,
        }
    }

    /// What is told of an image on a base that is named as if it were of the internet.
    fn build(&self, base: &str, python: &str, flags: &[&str], bytecode: &str) -> Told {
        let settings =
            format!("[tool.lambimg]\npython = \"{python}\"\nhandler = \"app.handler\"\n");
        self.project.file("pyproject.toml", settings);
        let _ = fs::remove_file(self.project.path().join("lambimg.lock"));
        let (layout, told) = (
            self.project.beside("image"),
            self.project.beside("told.json"),
        );
        let _ = fs::remove_dir_all(&layout);
        let base = format!("base.test/{base}:{python}");
        let mirror = format!("base.test={}", self.registry.address());
        let output = format!("oci:{}", layout.display());
        let own = [
            "build",
            "--arch",
            "x86_64",
            "--base",
            &base,
            "--mirror",
            &mirror,
            "-t",
            "some:1",
            "-o",
            &output,
            "--metadata-file",
            told.to_str().unwrap(),
        ];
        let run = self.project.lambimg(own.iter().chain(flags));
        let run = run.index(&self.index.url());
        run.env("LAMBIMG_BYTECODE", bytecode).succeed();
        let image = Image::in_directory(&layout);
        image.assert_accepted_by_lambda();
        Told {
            told: serde_json::from_slice(&fs::read(told).unwrap()).unwrap(),
            config: image.config,
        }
    }
}

/// The document of a build, and the image's configuration.
struct Told {
    told: Value,
    config: Value,
}

impl Told {
    /// The layer of which it is told that it is this.
    fn layer(&self, what: &str) -> &str {
        let layers = self.told["layers"].as_array().unwrap().iter();
        let mut of_this = layers.filter(|layer| layer["what"].as_str().unwrap().starts_with(what));
        let layer = of_this.next();
        let layer = layer.unwrap_or_else(|| panic!("no layer is {what}: {}", self.told));
        assert!(of_this.next().is_none(), "more than one is {what}");
        layer["digest"].as_str().unwrap()
    }

    fn text(&self, key: &str) -> &str {
        self.told[key].as_str().unwrap()
    }

    /// What the image says its layers were made for.
    fn labels(&self) -> String {
        let labels = self.config["config"]["Labels"].as_object().unwrap().iter();
        let ours: BTreeMap<_, _> = labels
            .filter(|(key, _)| key.starts_with("lambimg."))
            .collect();
        digest(json!(ours).to_string().as_bytes())
    }
}

// --- what comes out -----------------------------------------------------------------------------

#[test]
fn layers_and_documents() {
    let mut bench = Bench::new();
    let docker = bench.build("lambda/python", "3.12", &[], "false");
    let oci = bench.build("oci/lambda/python", "3.12", &[], "false");
    let recompressed = bench.build("lambda/python", "3.12", &["--recompress"], "false");
    let plain = bench.build("plain/python", "3.12", &[], "false");
    let changes = &mut bench.changes;
    changes.output("function layer", docker.layer("function"));
    changes.output("dependency layer", docker.layer("dependencies"));
    let layer = recompressed.layer("dependencies");
    changes.output("dependency layer, recompressed", layer);
    changes.output("Docker's types: config", docker.text("config_digest"));
    changes.output("Docker's types: manifest", docker.text("digest"));
    changes.output("Docker's types: lambimg's own labels", &docker.labels());
    changes.output("OCI's types: config", oci.text("config_digest"));
    changes.output("OCI's types: manifest", oci.text("digest"));
    changes.output("bootstrap layer", plain.layer("runtime client"));
    changes.output("bootstrap config", plain.text("config_digest"));
    changes.assert_none();
    // The layers themselves know nothing of the family.
    assert_eq!(docker.layer("function"), oci.layer("function"));
}

/// Every CPython of this machine makes its own; of those that this file knows, at least one has to be here.
#[test]
fn bytecode_of_each_interpreter() {
    let mut bench = Bench::new();
    let (mut known, mut unknown) = (0, String::new());
    for (minor, directory) in python_directories() {
        let name = format!("python{minor}");
        let interpreters = [directory.join(&name), PathBuf::from("/usr/bin").join(&name)];
        for interpreter in interpreters.iter().filter(|path| path.is_file()) {
            let flags = ["--interpreter", interpreter.to_str().unwrap()];
            let told = bench.build("lambda/python", minor, &flags, "true");
            let version = told.told["bytecode"]["version"].as_str().unwrap();
            let layer = told.layer("dependencies");
            let golden = BYTECODE.iter().find(|(of, _)| *of == version);
            if let Some((_, expected)) = golden {
                known += 1;
                let what = format!("dependency layer with bytecode of {version}");
                bench.changes.compare(&what, COMPILED, expected, layer);
            } else {
                let _ = writeln!(unknown, "    (\"{version}\", \"{layer}\"),");
            }
        }
    }
    bench.changes.assert_none();
    assert!(
        known > 0,
        "no CPython here is one of those that BYTECODE knows. These are:\n{unknown}"
    );
}
