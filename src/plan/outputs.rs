//! Where a run writes beside the store: no output is in the place of another, or inside it.
//!
//! Pure, as the plan is: paths are compared as they are written, so that where links lead is not known here.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::{Error, Plan};
use crate::oci::layout::{Form, Place};

/// One place that a run writes to; the order is that of paths, what is inside a directory behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// From the root, without detours.
    path: PathBuf,
    /// The image's name in a layout, which has room for several of other names; empty where it has none.
    image: Option<String>,
    /// `KIND:PATH`.
    written: String,
    /// Whose it is, of several functions.
    function: Option<String>,
}

/// Two outputs of which one would be written over the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash([Output; 2]);

impl Clash {
    /// Whether two functions have one output by the same text.
    pub fn is_of_functions(&self) -> bool {
        let Self([one, other]) = self;
        one.written == other.written && one.function != other.function
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([one, other]) = self;
        let mut functions = one.function.iter().zip(&other.function);
        let functions = functions.find(|(one, other)| one != other);
        let (first, second) = (&one.written, &other.written);
        match functions {
            Some((one, other)) if first == second => {
                return write!(
                    f,
                    "the functions `{one}` and `{other}` would both go to `{first}`"
                );
            }
            _ if first == second => write!(f, "the output `{first}` is named twice")?,
            _ if one.path == other.path => {
                write!(f, "the outputs `{first}` and `{second}` are one path")?;
            }
            _ => write!(f, "the output `{second}` is inside the output `{first}`")?,
        }
        match functions {
            Some((one, other)) => write!(f, ", of the functions `{one}` and `{other}`"),
            None => Ok(()),
        }
    }
}

/// Whether all outputs of these plans can stand beside each other; their paths are meant from `directory`.
///
/// # Errors
/// [`Error::SameOutput`].
pub(super) fn check(plans: &[Plan], directory: &Path) -> Result<(), Error> {
    let mut outputs: Vec<_> = plans.iter().flat_map(|plan| of(plan, directory)).collect();
    outputs.sort();
    let clash = |one: &Output, other: &Output| {
        let is_beside = one.path == other.path
            && one.image.is_some()
            && other.image.is_some()
            && one.image != other.image;
        other.path.starts_with(&one.path) && !is_beside
    };
    // What is inside a directory comes right behind it, or behind others that are inside it too.
    let found = outputs.windows(2).find(|two| clash(&two[0], &two[1]));
    match found {
        Some([one, other]) => Err(Error::SameOutput(Box::new(Clash([
            one.clone(),
            other.clone(),
        ])))),
        _ => Ok(()),
    }
}

fn of(plan: &Plan, directory: &Path) -> impl Iterator<Item = Output> {
    let output = |path: &Path, written: String, image| Output {
        path: whole(path, directory),
        image,
        written,
        function: plan.function.clone(),
    };
    let packages = plan.packages.iter();
    let packages = packages.map(move |path| output(path, format!("zip:{}", path.display()), None));
    let image = |place: &Place| {
        let is_layout = place.form == Form::OciDirectory;
        is_layout.then(|| place.name.clone().unwrap_or_default())
    };
    let places = plan.outputs.iter();
    packages.chain(places.map(move |place| output(&place.path, place.to_string(), image(place))))
}

/// A path from the root, without `.` and `..`.
fn whole(path: &Path, directory: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(whole.pop()),
            part => whole.push(part),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Project, Setting};
    use crate::plan::functions::check_together;
    use crate::plan::{Request, make};

    fn told(outputs: &[&str]) -> Option<String> {
        let request = Request {
            config: Config {
                handler: Some(Setting::flag("a.b".to_owned(), "--handler")),
                ..Config::default()
            },
            outputs: outputs.iter().map(|&output| output.to_owned()).collect(),
            ..Request::default()
        };
        let project = Project {
            root: PathBuf::from("/src"),
            ..Project::default()
        };
        let plan = make(&project, request).unwrap();
        let checked = check_together(&[plan], Path::new("/here"));
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn no_output_is_where_another_is() {
        let refused = |outputs: &[&str]| told(outputs).unwrap();
        insta::assert_snapshot!(refused(&["oci-archive:x", "docker-archive:x"]), @"the outputs `docker-archive:x` and `oci-archive:x` are one path");
        insta::assert_snapshot!(refused(&["zip:x", "oci:./a/../x"]), @"the outputs `zip:x` and `oci:./a/../x` are one path");
        insta::assert_snapshot!(refused(&["zip:x", "zip:/here/x"]), @"the outputs `zip:/here/x` and `zip:x` are one path");
        insta::assert_snapshot!(refused(&["zip:x", "zip:x"]), @"the output `zip:x` is named twice");
        insta::assert_snapshot!(refused(&["oci:x:1", "oci:y", "oci:x:1"]), @"the output `oci:x:1` is named twice");
        insta::assert_snapshot!(refused(&["oci-archive:x:1", "oci-archive:x:2"]), @"the outputs `oci-archive:x:1` and `oci-archive:x:2` are one path");
        insta::assert_snapshot!(refused(&["zip:out/f.zip", "oci:out-2", "oci:out"]), @"the output `zip:out/f.zip` is inside the output `oci:out`");
        insta::assert_snapshot!(refused(&["oci:x:1", "oci:x:2", "oci:x/y"]), @"the output `oci:x/y` is inside the output `oci:x:2`");
        insta::assert_snapshot!(refused(&["zip:../f", "oci:../../../.."]), @"the output `zip:../f` is inside the output `oci:../../../..`");
    }

    #[test]
    fn others_stand_beside_each_other() {
        let outputs = [
            "oci:x",
            "oci:x:1",
            "oci:./x:2",
            "zip:x.zip",
            "oci:y/x",
            "oci:y/z",
        ];
        assert_eq!(told(&outputs), None);
    }
}
