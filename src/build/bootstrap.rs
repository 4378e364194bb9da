//! The bootstrap: runtime client and entry point, for a base that has none of its own.
//!
//! The contract is that of the AWS bases: one argument, the handler; `AWS_EXECUTION_ENV` set, because
//! the client behaves by it; the client imported before the task root can shadow it; `sys.path` with the
//! task root first, then what Lambda layers bring, then the base's own. The client itself comes as
//! wheels like any other.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::build::base::Base;
use crate::build::compiling::Compiler;
use crate::build::dependencies;
use crate::build::wheel_layers::{self, Place, WheelLayer};
use crate::build::{Error, Tools};
use crate::file_tree::{self, Content, FileTree, ImagePath};
use crate::lambda::{ENTRY_POINT, RUNTIME_DIR, Runtime};
use crate::oci::Config;
use crate::plan::Plan;
use crate::python::lock::LockedWheel;

const ENTRY_SCRIPT: &str = r#"#!/bin/sh
# Lambda's entry point: its one argument is the handler.
if [ "$#" -ne 1 ]; then
    echo "lambda-entrypoint.sh takes one argument, the handler, and was given $#" >&2
    exit 142
fi
export _HANDLER="$1"
if [ -n "$AWS_LAMBDA_RUNTIME_API" ]; then
    exec /var/runtime/bootstrap
fi
if [ -x /usr/local/bin/aws-lambda-rie ]; then
    exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
fi
echo "AWS_LAMBDA_RUNTIME_API is not set, and there is no emulator at /usr/local/bin/aws-lambda-rie" >&2
exit 1
"#;

const BOOTSTRAP_SCRIPT: &str = r#"#!/bin/sh
# Starts the runtime client, through the wrapper script if one is set.
export AWS_EXECUTION_ENV=AWS_Lambda_@IDENTIFIER@
if [ -z "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
    exec @PYTHON@ /var/runtime/bootstrap.py
fi
if [ ! -f "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
    echo "the wrapper script $AWS_LAMBDA_EXEC_WRAPPER does not exist" >&2
    exit 127
fi
if [ ! -x "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
    echo "the wrapper script $AWS_LAMBDA_EXEC_WRAPPER is not executable" >&2
    exit 126
fi
exec "$AWS_LAMBDA_EXEC_WRAPPER" @PYTHON@ /var/runtime/bootstrap.py
"#;

const BOOTSTRAP_MODULE: &str = r#""""Runs the function under the runtime client, with Lambda's module search path."""
import os
import site
import sys

# Imported while only the base's own directories are searched: nothing of the function can take its place.
import awslambdaric.__main__ as client

task_root = os.environ["LAMBDA_TASK_ROOT"]
version = "python%d.%d" % sys.version_info[:2]
layer_root = "/opt/python"
layer_site = os.path.join(layer_root, "lib", version, "site-packages")
base_site = os.path.join(sys.prefix, "lib", version, "site-packages")

sys.path.insert(0, task_root)
# Listed for the .pth files in them; the directories themselves keep their places.
directories = [task_root]
if "PYTHONPATH" not in os.environ:
    sys.path[1:1] = [layer_site, layer_root, base_site]
    directories += [layer_site, layer_root]
    os.environ["PYTHONPATH"] = os.environ["LAMBDA_RUNTIME_DIR"]
for directory in directories:
    site.addsitedir(directory, set(sys.path))

client.main([task_root, os.environ["_HANDLER"]])
"#;

/// Makes the layer, of these wheels, unless the base has a runtime client.
///
/// # Errors
/// Those of resolving and fetching the client.
pub(super) async fn layer(
    plan: &Arc<Plan>,
    base: &Base,
    compiler: Option<&Compiler>,
    tools: &Tools,
) -> Result<Option<(WheelLayer, Vec<LockedWheel>)>, Error> {
    if base.has_runtime_client {
        return Ok(None);
    }
    let client = dependencies::of_lines(plan, base, &plan.runtime.runtime_client, tools).await?;
    let place = Place {
        root: RUNTIME_DIR,
        interpreter: base.interpreter.clone(),
        target: dependencies::target(plan, base),
        exclude: Vec::new(),
        over_bytecode: base.is_ours(),
    };
    let scripts = scripts(plan.runtime, &interpreter_command(base))?;
    let (options, no_cache) = (plan.layer_options(), plan.policy.no_cache);
    let made = wheel_layers::make(
        &client,
        &place,
        Some(scripts),
        1,
        options,
        no_cache,
        compiler,
        tools,
    );
    let layer = made.await?.layers.into_iter().next();
    Ok(layer.map(|layer| (layer, client.locked)))
}

/// How a shell starts the base's Python.
fn interpreter_command(base: &Base) -> String {
    base.interpreter
        .trim_start_matches("/usr/bin/env ")
        .to_owned()
}

fn scripts(runtime: &Runtime, python: &str) -> Result<FileTree, file_tree::Error> {
    let bootstrap = BOOTSTRAP_SCRIPT
        .replace("@IDENTIFIER@", &runtime.identifier)
        .replace("@PYTHON@", python);
    let root = ImagePath::new(RUNTIME_DIR)?;
    let files = [
        (ImagePath::new(ENTRY_POINT)?, ENTRY_SCRIPT.to_owned(), true),
        (root.join("bootstrap")?, bootstrap, true),
        (
            root.join("bootstrap.py")?,
            BOOTSTRAP_MODULE.to_owned(),
            false,
        ),
    ];
    let mut tree = FileTree::default();
    for (path, text, executable) in files {
        tree.insert_file(path, Content::bytes(text), executable, &"bootstrap".into())?;
    }
    Ok(tree)
}

/// The variables that Lambda's runtimes rely on, beside those the base has: its own `PATH` and library
/// path stay in front of Lambda's additions.
pub fn variables(runtime: &Runtime, config: &Config) -> Vec<(String, String)> {
    let from_base = |name: &str| config.variable(name).filter(|value| !value.is_empty());
    let merged = |name: &str, value: &str| match from_base(name) {
        // The base's own Python is found by these; only what it lacks is added behind.
        Some(own) if name == "PATH" || name == "LD_LIBRARY_PATH" => {
            let known: BTreeSet<_> = own.split(':').collect();
            let lambdas = value
                .split(':')
                .filter(|part| is_lambdas(part) && !known.contains(part));
            std::iter::once(own)
                .chain(lambdas)
                .collect::<Vec<_>>()
                .join(":")
        }
        Some(own) if !name.starts_with("LAMBDA_") => own.to_owned(),
        _ => value.to_owned(),
    };
    let pairs = runtime.variables.iter();
    pairs
        .map(|(name, value)| (name.clone(), merged(name, value)))
        .collect()
}

/// Whether a directory is one that Lambda fills, not the AWS base.
fn is_lambdas(directory: &str) -> bool {
    ["/var/task", "/var/runtime", "/opt"]
        .iter()
        .any(|root| directory == *root || directory.starts_with(&format!("{root}/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda;
    use crate::oci::to_json;
    use serde_json::json;

    fn config(env: &[&str]) -> Config {
        let raw = to_json(&json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": []}, "history": [], "config": {"Env": env}}));
        Config::read(raw).unwrap()
    }

    fn variable(env: &[&str], name: &str) -> String {
        let runtime = lambda::runtime("3.12".parse().unwrap()).unwrap();
        let all = variables(runtime, &config(env));
        all.into_iter().find(|(key, _)| key == name).unwrap().1
    }

    #[test]
    fn a_base_keeps_its_paths_in_front() {
        let env = ["PATH=/usr/local/bin:/bin", "LANG=C.UTF-8"];
        assert_eq!(variable(&env, "PATH"), "/usr/local/bin:/bin:/opt/bin");
        assert_eq!(variable(&env, "LANG"), "C.UTF-8");
        assert_eq!(variable(&env, "LAMBDA_TASK_ROOT"), "/var/task");
        let runtime = lambda::runtime("3.12".parse().unwrap()).unwrap();
        assert_eq!(variable(&[], "PATH"), runtime.variables["PATH"]);
    }

    #[test]
    fn scripts_are_executable_and_name_the_runtime() {
        let runtime = lambda::runtime("3.12".parse().unwrap()).unwrap();
        let tree = scripts(runtime, "/var/lang/bin/python3.12").unwrap();
        let text = |path: &str| {
            let file_tree::Node::File {
                content,
                executable,
            } = &tree.get(path).unwrap().node
            else {
                panic!("{path} is a file");
            };
            let text = std::io::read_to_string(content.open().unwrap()).unwrap();
            (text, *executable)
        };
        assert!(text("lambda-entrypoint.sh").1);
        let (bootstrap, executable) = text("var/runtime/bootstrap");
        assert!(
            executable && bootstrap.contains("AWS_Lambda_python3.12\n"),
            "{bootstrap}"
        );
        assert!(
            bootstrap.contains("exec /var/lang/bin/python3.12 /var"),
            "{bootstrap}"
        );
    }
}
