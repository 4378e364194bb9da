//! Base images made of this machine's CPythons, in the shape of those that Lambda offers: a manifest
//! list of two architectures, Docker's media types, `/var/lang`, `/var/runtime`, the AWS entry point.
//!
//! Two more shapes: the same with OCI media types, and a plain Python image that knows nothing of
//! Lambda. The other architecture is there too, valid but nearly empty. All are made once and kept
//! by a registry whose directory outlives the tests; nothing else may be pushed there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use serde_json::Value;
use serde_json::json;

use crate::support::architecture;
use crate::support::archive::Layer;
use crate::support::archive::Tree;
use crate::support::cpython::Cpython;
use crate::support::cpython::copy_closure;
use crate::support::cpython::ground;
use crate::support::digest;
use crate::support::process::run;
use crate::support::registry::Registry;
use crate::support::tool;
use crate::support::tools;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Aws,
    AwsOci,
    Bare,
}

/// The media types of one family of images.
struct Family {
    list: &'static str,
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

const DOCKER: Family = Family {
    list: "application/vnd.docker.distribution.manifest.list.v2+json",
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

const OCI: Family = Family {
    list: "application/vnd.oci.image.index.v1+json",
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};

/// A base image for one Python.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Base {
    shape: Shape,
    python: String,
}

impl Base {
    /// As Lambda's own: Docker's media types, the runtime client inside.
    pub(crate) fn aws(python: &str) -> Base {
        Base {
            shape: Shape::Aws,
            python: python.to_owned(),
        }
    }

    /// As Lambda's own, were its media types OCI's.
    pub(crate) fn aws_oci(python: &str) -> Base {
        Base {
            shape: Shape::AwsOci,
            python: python.to_owned(),
        }
    }

    /// A plain Python image: `/usr/local`, no runtime client, an index with an attestation in it.
    pub(crate) fn bare(python: &str) -> Base {
        Base {
            shape: Shape::Bare,
            python: python.to_owned(),
        }
    }

    /// The base's name in the registry that keeps all bases; makes it if it is not there yet.
    pub(crate) fn reference(&self) -> String {
        type Made = BTreeMap<Base, Arc<OnceLock<()>>>;
        static MADE: Mutex<Made> = Mutex::new(Made::new());
        let once = {
            let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(made.entry(self.clone()).or_default())
        };
        once.get_or_init(|| {
            if keeper().manifest(self.repository(), &self.python).is_none() {
                self.make(keeper());
            }
        });
        format!("{}:{}", keeper().name(self.repository()), self.python)
    }

    /// Copies the base into another registry, under the same repository and tag.
    pub(crate) fn copy_to(&self, registry: &Registry) -> String {
        self.reference();
        let repository = self.repository();
        let list = keeper()
            .manifest(repository, &self.python)
            .expect("the base was made");
        let parsed: Value = serde_json::from_slice(&list).expect("a manifest list is JSON");
        for entry in parsed["manifests"]
            .as_array()
            .expect("a manifest list has manifests")
        {
            let name = entry["digest"].as_str().expect("an entry has a digest");
            let manifest = keeper()
                .manifest(repository, name)
                .expect("the entry is kept");
            let parsed: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
            let layers = parsed["layers"].as_array().expect("a manifest has layers");
            for blob in layers.iter().chain([&parsed["config"]]) {
                let blob = blob["digest"].as_str().expect("a descriptor has a digest");
                registry.put_blob(
                    repository,
                    keeper().blob(repository, blob).expect("the blob is kept"),
                );
            }
            let media_type = parsed["mediaType"]
                .as_str()
                .expect("the media type is named");
            registry.put_manifest(repository, name, media_type, manifest);
        }
        let media_type = parsed["mediaType"]
            .as_str()
            .expect("the media type is named");
        registry.put_manifest(repository, &self.python, media_type, list);
        format!("{}:{}", registry.name(repository), self.python)
    }

    fn repository(&self) -> &'static str {
        match self.shape {
            Shape::Aws => "lambda/python",
            Shape::AwsOci => "lambda/python-oci",
            Shape::Bare => "library/python",
        }
    }

    fn make(&self, registry: &Registry) {
        let cpython = Cpython::find(&self.python);
        let (family, full, nearly_empty, config) = match self.shape {
            Shape::Bare => (
                OCI,
                bare_layers(&cpython),
                vec![debian_marks()],
                bare_config(&cpython),
            ),
            Shape::Aws | Shape::AwsOci => {
                let family = if self.shape == Shape::Aws {
                    DOCKER
                } else {
                    OCI
                };
                let nearly_empty = vec![lambda_scripts(&cpython), entry_point()];
                (family, aws_layers(&cpython), nearly_empty, aws_config())
            }
        };
        let full = full.iter().map(Tree::layer).collect::<Vec<_>>();
        let nearly_empty = nearly_empty.iter().map(Tree::layer).collect::<Vec<_>>();
        let mut entries = Vec::new();
        for name in ["amd64", "arm64"] {
            let layers = if name == architecture() {
                &full
            } else {
                &nearly_empty
            };
            entries.push(put_image(
                registry,
                self.repository(),
                &family,
                name,
                &config,
                layers,
            ));
        }
        if self.shape == Shape::Bare {
            entries.push(put_attestation(registry, self.repository(), &entries[0]));
        }
        let list = json!({"schemaVersion": 2, "mediaType": family.list, "manifests": entries});
        registry.put_manifest(
            self.repository(),
            &self.python,
            family.list,
            list.to_string().into_bytes(),
        );
    }
}

/// A base in Lambda's shape with nothing in it but this tree, for both architectures.
pub(crate) fn of_tree(registry: &Registry, tree: &Tree) -> String {
    let layers = [tree.layer()];
    let repository = "lambda/python";
    let entries = ["amd64", "arm64"]
        .map(|name| put_image(registry, repository, &DOCKER, name, &aws_config(), &layers));
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER.list, "manifests": entries});
    let list = list.to_string().into_bytes();
    registry.put_manifest(repository, "3.12", DOCKER.list, list);
    registry.name(&format!("{repository}:3.12"))
}

/// The registry that keeps the bases. Its directory is named by all that decides their content, so that
/// an edited recipe or another CPython makes new ones.
fn keeper() -> &'static Registry {
    static KEEPER: OnceLock<Registry> = OnceLock::new();
    KEEPER.get_or_init(|| {
        let recipe = [
            include_str!("base.rs"),
            include_str!("archive.rs"),
            include_str!("cpython.rs"),
        ]
        .concat();
        let pythons = fs::read_to_string(tool("pythons.json")).expect("the list is text");
        let key = digest((recipe + &pythons).as_bytes());
        let name = format!("bases-{}", &key["sha256:".len()..][..16]);
        let stale = fs::read_dir(tools())
            .expect("the tools have a directory")
            .filter_map(Result::ok);
        for entry in stale.filter(|entry| entry.file_name().to_string_lossy().starts_with("bases-"))
        {
            if entry.file_name() != *name {
                // Another run of the tests may be doing the same.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Registry::start_in(&tools().join(name))
    })
}

/// Puts an image and tells how a list refers to it.
fn put_image(
    registry: &Registry,
    repository: &str,
    family: &Family,
    architecture: &str,
    config: &Value,
    layers: &[Layer],
) -> Value {
    let created = "1970-01-01T00:00:00Z";
    let config = json!({
        "architecture": architecture,
        "config": config,
        "created": created,
        "history": layers.iter().map(|_| json!({"created": created})).collect::<Vec<_>>(),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
    });
    let config = config.to_string().into_bytes();
    for layer in layers {
        registry.put_blob(repository, layer.content.clone());
    }
    registry.put_blob(repository, config.clone());
    let layers = layers
        .iter()
        .map(|layer| descriptor(family.layer, &layer.content))
        .collect::<Vec<_>>();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": family.manifest,
        "config": descriptor(family.config, &config),
        "layers": layers,
    });
    let mut entry = put_manifest(registry, repository, family.manifest, &manifest);
    entry["platform"] = json!({"architecture": architecture, "os": "linux"});
    entry
}

/// What BuildKit adds to an index for each image: a reader that takes it for a platform goes wrong.
fn put_attestation(registry: &Registry, repository: &str, image: &Value) -> Value {
    let statement = json!({"_type": "https://in-toto.io/Statement/v0.1"})
        .to_string()
        .into_bytes();
    let config = json!({"architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(&statement)]}});
    let config = config.to_string().into_bytes();
    registry.put_blob(repository, statement.clone());
    registry.put_blob(repository, config.clone());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "config": descriptor(OCI.config, &config),
        "layers": [descriptor("application/vnd.in-toto+json", &statement)],
    });
    let mut entry = put_manifest(registry, repository, OCI.manifest, &manifest);
    entry["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    entry["annotations"] = json!({
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    });
    entry
}

fn put_manifest(
    registry: &Registry,
    repository: &str,
    media_type: &str,
    manifest: &Value,
) -> Value {
    let manifest = manifest.to_string().into_bytes();
    registry.put_manifest(repository, &digest(&manifest), media_type, manifest.clone());
    descriptor(media_type, &manifest)
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

// --- Lambda's shape ---------------------------------------------------------------------------

/// The configuration that Lambda's images share; they have no command.
fn aws_config() -> Value {
    json!({
        "Env": [
            "LANG=en_US.UTF-8",
            "TZ=:/etc/localtime",
            "PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
            "LAMBDA_TASK_ROOT=/var/task",
            "LAMBDA_RUNTIME_DIR=/var/runtime",
        ],
        "WorkingDir": "/var/task",
        "Entrypoint": ["/lambda-entrypoint.sh"],
    })
}

fn aws_layers(cpython: &Cpython) -> Vec<Tree> {
    let mut language = Tree::default();
    cpython.copy_to(&mut language, "var/lang");
    let mut runtime = lambda_scripts(cpython);
    let client = runtime_client(cpython);
    runtime.copy_all("var/runtime", client.path(), &|name| {
        name == "bin" || name == "__pycache__"
    });
    let mut system = Tree::default();
    for (link, directory) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        system.directory(directory, 0o755).link(link, directory);
    }
    // Amazon's loader looks into /lib64 by itself, Debian's only where Debian keeps its libraries.
    system.link(
        &format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH),
        "../lib64",
    );
    ground(&mut system);
    let amazon = if ["3.9", "3.10", "3.11"].contains(&cpython.minor.as_str()) {
        "2"
    } else {
        "2023"
    };
    system.file(
        "etc/os-release",
        format!("NAME=\"Amazon Linux\"\nID=\"amzn\"\nVERSION_ID=\"{amazon}\"\n"),
        0o644,
    );
    copy_closure(
        &mut system,
        "usr/lib64",
        &[cpython.files(), runtime_modules(client.path())].concat(),
    );
    vec![system, language, runtime, entry_point()]
}

/// The shell scripts and the Python program that lead from the entry point to the runtime client.
fn lambda_scripts(cpython: &Cpython) -> Tree {
    let minor = &cpython.minor;
    let mut tree = Tree::default();
    let start = BOOTSTRAP.replace("MINOR", minor);
    tree.file("var/runtime/bootstrap", start, 0o755);
    tree.file(
        "var/runtime/bootstrap.py",
        BOOTSTRAP_PY.replace("MINOR", minor),
        0o644,
    );
    tree
}

fn entry_point() -> Tree {
    let mut tree = Tree::default();
    tree.file("lambda-entrypoint.sh", ENTRY_POINT, 0o755);
    tree.directory("var/task", 0o755)
        .directory("opt", 0o755)
        .directory("tmp", 0o1777);
    tree
}

const ENTRY_POINT: &str = r#"#!/bin/sh
# The handler's name is all that this takes.
if [ $# -ne 1 ]; then
    echo "entrypoint requires the handler name to be the first argument" >&2
    exit 142
fi
export _HANDLER="$1"
if [ -n "$AWS_LAMBDA_RUNTIME_API" ]; then
    exec /var/runtime/bootstrap
fi
exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
"#;

const BOOTSTRAP: &str = r#"#!/bin/sh
# A wrapper, when there is one, is given the runtime's command line.
export AWS_EXECUTION_ENV=AWS_Lambda_pythonMINOR
set -- /var/lang/bin/pythonMINOR /var/runtime/bootstrap.py
if [ -n "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
    if [ ! -e "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
        echo "$AWS_LAMBDA_EXEC_WRAPPER: does not exist" >&2
        exit 127
    elif [ ! -x "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
        echo "$AWS_LAMBDA_EXEC_WRAPPER: is not an executable" >&2
        exit 126
    fi
    set -- "$AWS_LAMBDA_EXEC_WRAPPER" "$@"
fi
exec "$@"
"#;

const BOOTSTRAP_PY: &str = r#"# The runtime's own client is taken before the function's directories can offer another.
import awslambdaric.__main__ as client

import os
import site
import sys


def main():
    task_root = os.environ["LAMBDA_TASK_ROOT"]
    packages = "lib/pythonMINOR/site-packages"
    layers = [f"/opt/python/{packages}", "/opt/python"]
    if "PYTHONPATH" in os.environ:
        sys.path.insert(0, task_root)
    else:
        sys.path[:0] = [task_root, *layers, f"/var/lang/{packages}"]
    for directory in [task_root, *layers]:
        site.addsitedir(directory)
    os.environ["PYTHONPATH"] = os.environ["LAMBDA_RUNTIME_DIR"]
    client.main([task_root, os.environ["_HANDLER"]])


if __name__ == "__main__":
    main()
"#;

/// The runtime client for this Python and what it needs, installed into a directory.
fn runtime_client(cpython: &Cpython) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The last release for Python 3.9 is an old one.
    let version = if cpython.minor == "3.9" {
        "4.0.4"
    } else {
        "4.2.2"
    };
    let mut uv = Command::new(tool("uv"));
    uv.args([
        "pip",
        "install",
        "--quiet",
        "--only-binary",
        ":all:",
        "--target",
    ])
    .arg(directory.path());
    uv.arg("--python")
        .arg(&cpython.executable)
        .arg(format!("awslambdaric=={version}"));
    run(&mut uv);
    directory
}

fn runtime_modules(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the client was installed");
    let paths = entries.map(|entry| entry.expect("a directory can be read").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "so"))
        .collect()
}

// --- A plain Python image ---------------------------------------------------------------------

fn bare_config(cpython: &Cpython) -> Value {
    json!({
        "Env": [
            "PATH=/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            format!("PYTHON_VERSION={}", cpython.version),
        ],
        "Cmd": ["python3"],
        "WorkingDir": "/",
    })
}

fn bare_layers(cpython: &Cpython) -> Vec<Tree> {
    let mut system = debian_marks();
    for (link, directory) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        system.directory(directory, 0o755).link(link, directory);
    }
    ground(&mut system);
    system
        .directory("tmp", 0o1777)
        .directory("var", 0o755)
        .directory("opt", 0o755);
    let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    copy_closure(&mut system, &libraries, &cpython.files());
    let mut language = Tree::default();
    cpython.copy_to(&mut language, "usr/local");
    if let Some(library) = &cpython.library {
        // Where a whole distribution has the loader's cache lead to it.
        let name = library
            .file_name()
            .expect("a library has a name")
            .to_string_lossy();
        language.link(
            &format!("{libraries}/{name}"),
            &format!("/usr/local/lib/{name}"),
        );
    }
    vec![system, language]
}

fn debian_marks() -> Tree {
    let mut tree = Tree::default();
    tree.file(
        "etc/os-release",
        "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n",
        0o644,
    );
    tree
}

/// The base with a layer of our own on top, as an image in `registry`.
#[cfg(test)]
fn with_handler(base: &Base, registry: &Registry, handler: &str) -> String {
    let (repository, tag) = (base.repository(), base.python.as_str());
    base.copy_to(registry);
    let list: Value = serde_json::from_slice(&registry.manifest(repository, tag).unwrap()).unwrap();
    let entries = list["manifests"].as_array().unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry["platform"]["architecture"] == architecture())
        .unwrap();
    let manifest = registry
        .manifest(repository, entry["digest"].as_str().unwrap())
        .unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = registry
        .blob(repository, manifest["config"]["digest"].as_str().unwrap())
        .unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    let mut function = Tree::default();
    let layer = function.file("var/task/app.py", handler, 0o644).layer();
    config["config"]["Cmd"] = json!(["app.handler"]);
    config["rootfs"]["diff_ids"]
        .as_array_mut()
        .unwrap()
        .push(json!(layer.diff_id));
    config["history"]
        .as_array_mut()
        .unwrap()
        .push(json!({"created_by": "tests"}));
    let config = config.to_string().into_bytes();
    let layer_type = manifest["layers"][0]["mediaType"]
        .as_str()
        .unwrap()
        .to_owned();
    let config_type = manifest["config"]["mediaType"].as_str().unwrap().to_owned();
    manifest["layers"]
        .as_array_mut()
        .unwrap()
        .push(descriptor(&layer_type, &layer.content));
    manifest["config"] = descriptor(&config_type, &config);
    registry.put_blob(repository, layer.content);
    registry.put_blob(repository, config);
    let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
    registry.put_manifest(
        repository,
        "function",
        &media_type,
        manifest.to_string().into_bytes(),
    );
    format!("{}:function", registry.name(repository))
}

#[test]
fn answers_under_the_emulator() {
    use crate::support::emulator::Root;
    use crate::support::image::Image;

    let handler = "import getpass, json, os, ssl, sys\n\
                   def handler(event, context):\n\
                   \x20   try:\n\
                   \x20       open('/var/task/new', 'w')\n\
                   \x20   except OSError as error:\n\
                   \x20       written = error.strerror\n\
                   \x20   return {'name': event['name'], 'path': sys.path[:5], 'written': written, 'user': os.getuid(),\n\
                   \x20       'client': sys.modules['awslambdaric'].__file__, 'directory': os.getcwd()}\n";
    let registry = Registry::start();
    for python in ["3.9", "3.12"] {
        let name = with_handler(&Base::aws(python), &registry, handler);
        Image::in_registry(&registry, &name).assert_accepted_by_lambda();
        let answer = Root::pull(&name).answer(r#"{"name": "Zoë"}"#);
        // The runtime leaves text as it is from Python 3.12 on.
        assert_eq!(answer.contains("Zoë"), python == "3.12", "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let packages = format!("lib/python{python}/site-packages");
        let expected = json!({
            "name": "Zoë",
            "path": ["/var/task", format!("/opt/python/{packages}"), "/opt/python", format!("/var/lang/{packages}"), "/var/runtime"],
            "written": "Read-only file system",
            "user": if crate::support::is_root() { 993 } else { 0 },
            "client": "/var/runtime/awslambdaric/__init__.py",
            "directory": "/var/task",
        });
        assert_eq!(answer, expected);
    }
}

#[test]
fn is_read_by_skopeo() {
    let raw = |reference: &str| {
        let mut skopeo = Command::new(crate::support::program("skopeo", "skopeo"));
        let said = run(skopeo
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(format!("docker://{reference}")));
        serde_json::from_str::<Value>(&said).unwrap()
    };
    let platforms = |list: &Value| {
        let entries = list["manifests"].as_array().unwrap().iter();
        entries
            .map(|entry| {
                entry["platform"]["architecture"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    let aws = raw(&Base::aws("3.12").reference());
    assert_eq!(
        (aws["mediaType"].as_str(), platforms(&aws)),
        (Some(DOCKER.list), vec!["amd64".into(), "arm64".into()])
    );
    let oci = raw(&Base::aws_oci("3.12").reference());
    assert_eq!(
        (oci["mediaType"].as_str(), platforms(&oci)),
        (Some(OCI.list), vec!["amd64".into(), "arm64".into()])
    );
    let bare = raw(&Base::bare("3.12").reference());
    assert_eq!(platforms(&bare), ["amd64", "arm64", "unknown"]);
}
