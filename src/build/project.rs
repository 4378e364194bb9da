//! The project itself, where it is a package: what its wheel holds is the function.
//!
//! Files beside the package go in only where the handler is among them and not in the wheel, or where they are one
//! function's of several. How a wheel is built is not known here.

use std::fs;
use std::io;
use std::sync::Arc;

use crate::build::base::Base;
use crate::build::{Error, Tools, has_handler, many};
use crate::file_tree::FileTree;
use crate::lambda::Handler;
use crate::plan::Plan;
use crate::python::Target;
use crate::python::lock::LockedWheel;
use crate::python::source;

/// Whether the project goes in as its wheel: where the user does not say it, because it has a build system
/// and does not tell its own tool that it is no package.
///
/// # Errors
/// When its `pyproject.toml` cannot be read.
pub fn is_package(plan: &Plan) -> Result<bool, Error> {
    if plan.is_archive {
        return Ok(false);
    }
    if let Some(said) = plan.package {
        return Ok(said);
    }
    let path = plan.project.join("pyproject.toml");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(says_package(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::File {
            action: "read",
            path,
            source,
        }),
    }
}

fn says_package(pyproject: &str) -> bool {
    let table: toml::Table = pyproject.parse().unwrap_or_default();
    let tool = |name: &str, key: &str| {
        let tool = table.get("tool")?.get(name)?;
        tool.get(key)?.as_bool()
    };
    let told = tool("uv", "package").or(tool("poetry", "package-mode"));
    told.unwrap_or(table.contains_key("build-system"))
}

/// Whether a build of these files could bring the handler's module. Backends move files and rename the topmost
/// directory, so only a module below that is sure to keep its name.
pub(super) fn may_hold(plan: &Plan, files: &FileTree) -> bool {
    let module = plan.own_handler().map(Handler::module);
    let Some((_, module)) = module.and_then(|module| module.rsplit_once('.')) else {
        return true;
    };
    let named = |name: &str| name.split('.').next() == Some(module);
    files.iter().any(|(path, _)| named(path.file_name()))
}

/// The project's wheel.
///
/// # Errors
/// Those of building.
pub(super) async fn wheel(
    plan: &Plan,
    target: Target,
    tools: &Tools,
) -> Result<LockedWheel, Error> {
    let workshop = tools.workshop(plan);
    let wheel = source::wheel_of_directory(&plan.project, target, &workshop).await;
    wheel.map_err(|error| Error::Project(Box::new(error)))
}

/// What the project's wheel holds, as it will stand in the image; `files` are the project's own.
///
/// # Errors
/// Those of building and of wheels.
pub(super) async fn tree(
    plan: &Arc<Plan>,
    base: &Base,
    files: &FileTree,
    tools: &Tools,
) -> Result<FileTree, Error> {
    let mut tree = many::project(plan, base, tools).await?;
    let is_apart = plan.source != plan.project;
    if is_apart || (!has_handler(plan, &tree) && has_handler(plan, files)) {
        tree.merge(files.clone())?;
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_system_makes_a_package_unless_a_tool_says_no() {
        let system = "[build-system]\nrequires = []\n";
        let with = |more: &str| says_package(&format!("{system}{more}"));
        assert!(with("") && with("[tool.poetry]\npackage-mode = true\n"));
        assert!(!with("[tool.uv]\npackage = false\n"));
        assert!(!with("[tool.poetry]\npackage-mode = false\n"));
        assert!(!says_package("[project]\nname = 'a'\n"));
        assert!(says_package("[tool.uv]\npackage = true\n"));
    }
}
