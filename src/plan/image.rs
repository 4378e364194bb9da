//! How the image is run, and what goes into it beside the function: the words of the settings become values here.
//!
//! Pure, as the plan is. Whether a file is there, and what Lambda makes of a command, is not known.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{Error, bad_value, read_image};
use crate::aws::layers::LayerArn;
use crate::config::{Config, Row, Setting};
use crate::file_tree::{ImagePath, PathError};
use crate::http;
use crate::lambda::ENTRY_POINT;
use crate::lambda::function::RESERVED;
use crate::oci::image::{BASE_DIGEST, BASE_NAME};
use crate::oci::layout::Place;
use crate::oci::reference::Reference;

/// How the labels begin that this tool's images speak to it by.
const OWN_LABELS: &str = "lambimg.";
/// Where Lambda has what layers bring.
const OPT: &str = "opt";
/// Directories that are Lambda's own where the image runs, whatever it has there.
const NOT_THE_IMAGES: [&str; 4] = ["dev", "proc", "sys", "tmp"];

/// What the image's config says beside what the base and the handler decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// Variables, by name.
    pub env: BTreeMap<String, String>,
    /// Labels, by key.
    pub labels: BTreeMap<String, String>,
    /// What the entry point is given, in place of a handler.
    pub cmd: Option<Vec<String>>,
    /// Another entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Another working directory.
    pub workdir: Option<String>,
    /// The user, whom Lambda does not ask for.
    pub user: Option<String>,
}

impl Running {
    /// Whether the program that Lambda starts is another than the one that takes a handler.
    pub fn has_own_program(&self) -> bool {
        let program = self.entrypoint.as_ref().and_then(|entry| entry.first());
        program.is_some_and(|program| !program.ends_with(ENTRY_POINT))
    }
}

/// A file, or a directory with all that is in it, that goes into the image beside the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFile {
    /// As written.
    pub written: String,
    /// Where it lies.
    pub from: PathBuf,
    /// Whether it may lie outside of the project: an absolute path was written.
    pub may_be_outside: bool,
    /// Where it goes; a file that goes into a directory keeps its name there.
    pub to: ImagePath,
    /// Whether `to` is that directory.
    pub into: bool,
    /// Whether it may be run; nothing where the file itself says.
    pub executable: Option<bool>,
}

/// Something that `/opt` is given, as a layer of Lambda's would bring it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// As written: the layer, the archive, the image or the directory.
    pub written: String,
    /// Where it is.
    pub source: Source,
    /// Where it goes; a file that goes into a directory keeps its name there.
    pub to: ImagePath,
    /// Whether `to` is that directory.
    pub into: bool,
}

/// Where an extension is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory or a file.
    Directory(ExtraFile),
    /// A layer's archive.
    Zip(PathBuf),
    /// A layer in AWS.
    Layer(LayerArn),
    /// Another image, and where in it.
    Image {
        /// The image.
        from: Elsewhere,
        /// The directory or file in it.
        path: ImagePath,
    },
}

/// An image that somebody else made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// In a registry.
    Registry(Reference),
    /// A layout or archive on disk.
    Place(Place),
}

/// Reads what `/opt` is given.
pub(super) fn extensions(rows: &[Row], root: &Path) -> Result<Vec<Extension>, Error> {
    rows.iter().map(|row| extension(row, root)).collect()
}

fn extension(row: &Row, root: &Path) -> Result<Extension, Error> {
    let unclear = || Error::Part {
        table: "extensions",
        part: "layer`, `zip`, `image` or `path",
        place: row.place.clone(),
    };
    let to = row.get("to").map(place_in_opt).transpose()?;
    // A file cannot be `/opt` itself.
    let written = row.get("to").map(|to| to.value.as_str());
    let ends = written.is_some_and(|to| to.ends_with('/'));
    let into = ends || to.as_ref().is_some_and(|to| to.as_str() == OPT);
    let (path, opt) = (row.get("path"), || default_place(row));
    let is_alone = row.parts().filter(|part| *part != "to").count() == 1;
    if let Some(layer) = row.get("layer").filter(|_| is_alone) {
        let arn = layer.value.parse().map_err(|why| Error::Layer {
            value: layer.value.clone(),
            place: layer.place.clone(),
            why,
        });
        return Ok(Extension {
            written: layer.value.clone(),
            source: Source::Layer(arn?),
            to: to.map_or_else(opt, Ok)?,
            into,
        });
    }
    match (row.get("zip"), row.get("image"), path) {
        _ if row.get("layer").is_some() => Err(several(row)),
        (Some(zip), None, None) => {
            let to = to.map_or_else(opt, Ok)?;
            let ExtraFile { written, from, .. } = extra(zip, to.clone(), root)?;
            Ok(Extension {
                written,
                source: Source::Zip(from),
                to,
                into,
            })
        }
        (None, Some(image), _) if image.value == "host" => Err(bad_value(
            image,
            "no image of an extension: this machine's Python is a base alone",
        )),
        (None, Some(image), path) => {
            let to = match (to, path) {
                (Some(to), _) => to,
                (None, Some(path)) => place_in_opt(path)?,
                (None, None) => opt()?,
            };
            let path = path.map_or_else(opt, place_in_image)?;
            Ok(Extension {
                written: http::redact_name(&image.value),
                source: Source::Image {
                    from: read_image(image, root)?,
                    path,
                },
                to,
                into,
            })
        }
        (None, None, Some(path)) => {
            let into = into || to.is_none();
            let to = to.map_or_else(opt, Ok)?;
            let file = extra(path, to.clone(), root)?;
            Ok(Extension {
                written: path.value.clone(),
                source: Source::Directory(ExtraFile { into, ..file }),
                to,
                into,
            })
        }
        (Some(_), _, _) => Err(several(row)),
        (None, None, None) => Err(unclear()),
    }
}

fn several(row: &Row) -> Error {
    Error::Value {
        value: row.parts().collect::<Vec<_>>().join(", "),
        place: row.place.clone(),
        wanted: "more than one extension: a `layer` or a `zip` has nothing beside it but `to`",
    }
}

/// Where Lambda unpacks layers.
fn default_place(row: &Row) -> Result<ImagePath, Error> {
    ImagePath::new(OPT).map_err(|error| Error::Path {
        error,
        place: row.place.clone(),
    })
}

/// A place that a layer of Lambda's could bring.
fn place_in_opt(setting: &Setting) -> Result<ImagePath, Error> {
    let path = place_in_image(setting)?;
    let (first, _) = path.as_str().split_once('/').unwrap_or((path.as_str(), ""));
    if first != OPT {
        return Err(bad_value(
            setting,
            "not in /opt, and an extension goes there by its `to`; `files` go anywhere",
        ));
    }
    Ok(path)
}

/// Reads how the image is run.
pub(super) fn running(config: &Config) -> Result<Running, Error> {
    for (name, setting) in &config.env {
        let place = || setting.place.clone();
        if RESERVED.contains(&&**name) {
            let name = name.clone();
            return Err(Error::Reserved {
                name,
                place: place(),
            });
        }
        if name.is_empty() {
            return Err(Error::Unnamed {
                what: "variable",
                place: place(),
            });
        }
        if name.contains(['=', '\0']) || setting.value.contains('\0') {
            return Err(Error::Value {
                value: name.clone(),
                place: place(),
                wanted: "no variable: its name has a `=`, or there is a NUL",
            });
        }
    }
    for (name, setting) in &config.labels {
        if name.is_empty() {
            return Err(Error::Unnamed {
                what: "label",
                place: setting.place.clone(),
            });
        }
        if name.starts_with(OWN_LABELS) || [BASE_NAME, BASE_DIGEST].contains(&&**name) {
            return Err(Error::OwnLabel {
                name: name.clone(),
                place: setting.place.clone(),
            });
        }
    }
    let texts = |named: &BTreeMap<String, Setting>| {
        let pairs = named.iter();
        let pairs = pairs.map(|(name, setting)| (name.clone(), setting.value.clone()));
        pairs.collect()
    };
    let words = |setting: &Option<Setting<Vec<String>>>| {
        let setting = setting.as_ref();
        setting.map(|setting| setting.value.clone())
    };
    if let Some(entry) = &config.entrypoint
        && entry.value.first().is_none_or(String::is_empty)
    {
        return Err(Error::Value {
            value: entry.value.join(" "),
            place: entry.place.clone(),
            wanted: "no entry point: it names no program",
        });
    }
    let workdir = config.workdir.as_ref().map(|setting| {
        let is_plain = setting.value.starts_with('/') && !setting.value.contains('\0');
        is_plain
            .then(|| setting.value.clone())
            .ok_or_else(|| bad_value(setting, "no absolute path"))
    });
    if let Some(user) = &config.user
        && (user.value.is_empty() || user.value.contains('\0'))
    {
        return Err(bad_value(user, "no user"));
    }
    Ok(Running {
        env: texts(&config.env),
        labels: texts(&config.labels),
        cmd: words(&config.cmd),
        entrypoint: words(&config.entrypoint),
        workdir: workdir.transpose()?,
        user: config.user.as_ref().map(|setting| setting.value.clone()),
    })
}

/// What is to be known of a user before anything is built.
pub(super) fn warning(config: &Config) -> Option<String> {
    let Setting { value, place } = config.user.as_ref()?;
    Some(format!(
        "the user `{value}` ({place}) goes into the image, and Lambda does not ask: it runs every function as a user \
         of its own"
    ))
}

/// Reads what goes into the image beside the function.
pub(super) fn files(rows: &[Row], root: &Path) -> Result<Vec<ExtraFile>, Error> {
    rows.iter().map(|row| file(row, root)).collect()
}

fn file(row: &Row, root: &Path) -> Result<ExtraFile, Error> {
    let (from, to) = (part(row, "files", "from")?, part(row, "files", "to")?);
    let file = extra(from, place_in_image(to)?, root)?;
    let executable = row.get("mode").map(|mode| match mode.value.as_str() {
        "0644" | "644" => Ok(false),
        "0755" | "755" => Ok(true),
        _ => Err(bad_value(
            mode,
            "neither 0644 nor 0755; Lambda's user, whoever that is, must be able to read it",
        )),
    });
    Ok(ExtraFile {
        into: to.value.ends_with('/'),
        executable: executable.transpose()?,
        ..file
    })
}

/// A file or directory of the project, or anywhere if an absolute path is written.
fn extra(from: &Setting, to: ImagePath, root: &Path) -> Result<ExtraFile, Error> {
    let may_be_outside = Path::new(&from.value).is_absolute();
    if from.value.is_empty() || from.value.contains('\0') {
        return Err(bad_value(from, "no path"));
    }
    if !may_be_outside && leaves(Path::new(&from.value)) {
        return Err(bad_value(
            from,
            "outside of the project, as only an absolute path may be",
        ));
    }
    Ok(ExtraFile {
        written: from.value.clone(),
        from: root.join(&from.value),
        may_be_outside,
        into: false,
        to,
        executable: None,
    })
}

/// A part that a row must have.
pub(super) fn part<'a>(
    row: &'a Row,
    table: &'static str,
    part: &'static str,
) -> Result<&'a Setting, Error> {
    row.get(part).ok_or_else(|| Error::Part {
        table,
        part,
        place: row.place.clone(),
    })
}

/// A place below the image's root that is still the image's where Lambda runs it.
pub(super) fn place_in_image(setting: &Setting) -> Result<ImagePath, Error> {
    let Some(below) = setting.value.strip_prefix('/') else {
        return Err(bad_value(setting, "no absolute path"));
    };
    if below.is_empty() {
        return Err(bad_value(setting, "no place below the root of the image"));
    }
    let path = ImagePath::new(below).map_err(|error| Error::Path {
        // As the user wrote it.
        error: PathError {
            path: setting.value.clone(),
            ..error
        },
        place: setting.place.clone(),
    })?;
    let first = path.as_str().split('/').next().unwrap_or_default();
    if NOT_THE_IMAGES.contains(&first) {
        return Err(bad_value(
            setting,
            "no place for it: Lambda has its own /dev, /proc, /sys and /tmp",
        ));
    }
    Ok(path)
}

/// Whether a relative path leads out of where it begins.
fn leaves(path: &Path) -> bool {
    let mut depth = 0_usize;
    for component in path.components() {
        match component {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    false
}

/// The two words that both say what the entry point is given.
pub(super) fn both_say(handler: &Setting, cmd: &Setting<Vec<String>>) -> Error {
    Error::HandlerAndCmd {
        handler: handler.place.clone(),
        cmd: cmd.place.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Project;
    use crate::plan::{Plan, Request, make};

    fn plan(text: &str) -> Result<Plan, Error> {
        let config = Config::from_toml(text, "lambimg.toml").unwrap();
        let request = Request {
            config: config.unwrap(),
            ..Request::default()
        };
        let project = Project {
            root: PathBuf::from("/src/app"),
            ..Project::default()
        };
        make(&project, request)
    }

    fn error(text: &str) -> String {
        plan(&format!("handler = 'app.handler'\n{text}"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn settings_become_values() {
        let plan = plan(
            "cmd = ['-m', 'x']\nentrypoint = ['/usr/bin/python3']\nworkdir = '/srv'\nuser = 'app'\n\
             files = [{ from = 'models/x.onnx', to = '/opt/models/' }, { from = '/ca.pem', to = '/etc/ca.pem', mode = '0755' }]\n\
             env = { A = 'b=c' }\nlabels = { team = 'x' }\n",
        );
        let plan = plan.unwrap();
        assert!(plan.handler.is_none() && plan.running.has_own_program());
        assert_eq!(plan.running.env["A"], "b=c");
        insta::assert_snapshot!(plan.warnings.join("\n"), @"the user `app` (`lambimg.toml` line 4) goes into the image, and Lambda does not ask: it runs every function as a user of its own");
        let files = plan.files.iter();
        let files =
            files.map(|file| format!("{} {} {:?}", file.from.display(), file.to, file.executable));
        assert_eq!(
            files.collect::<Vec<_>>(),
            [
                "/src/app/models/x.onnx /opt/models None",
                "/ca.pem /etc/ca.pem Some(true)"
            ]
        );
        assert!(plan.files[0].into && !plan.files[1].into);
    }

    #[test]
    fn a_handler_is_needed_unless_another_program_takes_none() {
        insta::assert_snapshot!(plan("workdir = '/'").unwrap_err(), @"no handler is set");
        insta::assert_snapshot!(plan("entrypoint = ['/lambda-entrypoint.sh']").unwrap_err(), @"no handler is set");
        assert!(
            plan("entrypoint = ['/var/task/run']")
                .unwrap()
                .handler
                .is_none()
        );
        assert!(plan("cmd = []").unwrap().handler.is_none());
        insta::assert_snapshot!(error("cmd = ['other.handler']"), @"both `lambimg.toml` line 1 and `lambimg.toml` line 2 say what the entry point is given, as `handler` and as `cmd`");
    }

    #[test]
    fn what_has_no_name_is_refused() {
        insta::assert_snapshot!(error("env = { '' = 'x' }"), @"a variable has no name (`lambimg.toml` line 2)");
        insta::assert_snapshot!(error("labels = { '' = 'x' }"), @"a label has no name (`lambimg.toml` line 2)");
        insta::assert_snapshot!(error("user = ''"), @"`` (`lambimg.toml` line 2) is no user");
        insta::assert_snapshot!(error("extensions = [{ image = 'host' }]"), @"`host` (`lambimg.toml` line 2) is no image of an extension: this machine's Python is a base alone");
        insta::assert_snapshot!(error("extensions = [{ zip = '../layer.zip' }]"), @"`../layer.zip` (`lambimg.toml` line 2) is outside of the project, as only an absolute path may be");
        insta::assert_snapshot!(error("extensions = [{ zip = '' }]"), @"`` (`lambimg.toml` line 2) is no path");
    }

    #[test]
    fn what_opt_is_given() {
        let told = |row: &str| {
            let plan = plan(&format!("handler = 'a.b'\nextensions = [{{ {row} }}]"));
            plan.map(|plan| {
                let line = plan.to_string();
                let mut lines = line.lines().filter(|line| line.starts_with("extension"));
                lines.next().unwrap().to_owned()
            })
        };
        insta::assert_snapshot!(told("zip = 'layer.zip'").unwrap(), @"extension    layer.zip to /opt");
        insta::assert_snapshot!(told("path = 'bin', to = '/opt/bin'").unwrap(), @"extension    bin to /opt/bin");
        insta::assert_snapshot!(told("image = 'r.test/a:1'").unwrap(), @"extension    r.test/a:1 to /opt");
        insta::assert_snapshot!(told("image = 'r.test/a:1', path = '/x', to = '/opt/extensions/x'").unwrap(), @"extension    r.test/a:1 to /opt/extensions/x");
        insta::assert_snapshot!(told("path = 'bin', to = '/etc/bin'").unwrap_err(), @"`/etc/bin` (`lambimg.toml` line 2) is not in /opt, and an extension goes there by its `to`; `files` go anywhere");
        insta::assert_snapshot!(told("zip = 'a.zip', to = '/optional'").unwrap_err(), @"`/optional` (`lambimg.toml` line 2) is not in /opt, and an extension goes there by its `to`; `files` go anywhere");
        insta::assert_snapshot!(told("image = 'r.test/a:1', path = '/x'").unwrap_err(), @"`/x` (`lambimg.toml` line 2) is not in /opt, and an extension goes there by its `to`; `files` go anywhere");
        insta::assert_snapshot!(told("to = '/opt'").unwrap_err(), @"one of `extensions` (`lambimg.toml` line 2) has no `layer`, `zip`, `image` or `path`");
        insta::assert_snapshot!(told("zip = 'a.zip', path = 'b'").unwrap_err(), @"`path, zip` (`lambimg.toml` line 2) is more than one extension: a `layer` or a `zip` has nothing beside it but `to`");
        let layer = "layer = 'arn:aws:lambda:eu-west-1:123456789012:layer:tools";
        insta::assert_snapshot!(told(&format!("{layer}:7'")).unwrap(), @"extension    arn:aws:lambda:eu-west-1:123456789012:layer:tools:7 to /opt");
        insta::assert_snapshot!(told(&format!("{layer}:7', to = '/opt/tools'")).unwrap(), @"extension    arn:aws:lambda:eu-west-1:123456789012:layer:tools:7 to /opt/tools");
        insta::assert_snapshot!(told(&format!("{layer}'")).unwrap_err(), @"`arn:aws:lambda:eu-west-1:123456789012:layer:tools` (`lambimg.toml` line 2) is a layer's ARN without the version, and each version has other files");
        insta::assert_snapshot!(told("layer = 'tools:7'").unwrap_err(), @"`tools:7` (`lambimg.toml` line 2) is no ARN of a layer's version, which is `arn:PARTITION:lambda:REGION:ACCOUNT:layer:NAME:VERSION`");
        insta::assert_snapshot!(told(&format!("{layer}:7', zip = 'a.zip'")).unwrap_err(), @"`layer, zip` (`lambimg.toml` line 2) is more than one extension: a `layer` or a `zip` has nothing beside it but `to`");
        insta::assert_snapshot!(told("image = 'Upper'").unwrap_err(), @"`Upper` is no image name: a repository is made of lower-case letters and digits, with single `.`, `_`, `-` or `/` between them (`lambimg.toml` line 2)");
    }

    #[test]
    fn what_cannot_be_is_named_with_its_place() {
        insta::assert_snapshot!(error("[env]\nX = 'y'\nAWS_REGION = 'eu-west-1'"), @"Lambda decides what the variable `AWS_REGION` is (`lambimg.toml` line 4)");
        insta::assert_snapshot!(error("env = { 'A=' = 'y' }"), @"`A=` (`lambimg.toml` line 2) is no variable: its name has a `=`, or there is a NUL");
        insta::assert_snapshot!(error("labels = { 'lambimg.layers' = 'y' }"), @"the label `lambimg.layers` is lambimg's own (`lambimg.toml` line 2)");
        insta::assert_snapshot!(error("labels = { 'org.opencontainers.image.base.name' = 'y' }"), @"the label `org.opencontainers.image.base.name` is lambimg's own (`lambimg.toml` line 2)");
        insta::assert_snapshot!(error("entrypoint = []"), @"`` (`lambimg.toml` line 2) is no entry point: it names no program");
        insta::assert_snapshot!(error("workdir = 'srv'"), @"`srv` (`lambimg.toml` line 2) is no absolute path");
        let file = |parts: &str| error(&format!("files = [{{ {parts} }}]"));
        insta::assert_snapshot!(file("from = 'a'"), @"one of `files` (`lambimg.toml` line 2) has no `to`");
        insta::assert_snapshot!(file("from = '../a', to = '/b'"), @"`../a` (`lambimg.toml` line 2) is outside of the project, as only an absolute path may be");
        insta::assert_snapshot!(file("from = 'a', to = 'b'"), @"`b` (`lambimg.toml` line 2) is no absolute path");
        insta::assert_snapshot!(file("from = 'a', to = '/'"), @"`/` (`lambimg.toml` line 2) is no place below the root of the image");
        insta::assert_snapshot!(file("from = 'a', to = '/opt/../b'"), @"`/opt/../b` leaves its root by `..` (`lambimg.toml` line 2)");
        insta::assert_snapshot!(file("from = 'a', to = '/tmp/b'"), @"`/tmp/b` (`lambimg.toml` line 2) is no place for it: Lambda has its own /dev, /proc, /sys and /tmp");
        insta::assert_snapshot!(file("from = 'a', to = '/b', mode = '0600'"), @"`0600` (`lambimg.toml` line 2) is neither 0644 nor 0755; Lambda's user, whoever that is, must be able to read it");
    }
}
