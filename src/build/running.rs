//! An image made ready to run here: its layers unpacked in the store, its config as the function that Lambda would
//! know by it.
//!
//! What is given beside the image, as the function's configuration on Lambda, is the caller's. What is said to the
//! function, and who calls it, is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use crate::build::{self, PARALLEL, Tools, function};
use crate::file_tree::{Content, Node};
use crate::lambda::Architecture;
use crate::lambda::environment::Place;
use crate::lambda::fleet::Places;
use crate::lambda::function::{Function, LogFormat};
use crate::lambda::sandbox::{MAX_LAYERS, Sandbox, Spec};
use crate::oci::image::Image;
use crate::oci::unpack;
use crate::plan::Plan;

/// The room in `/tmp` that Lambda gives where nothing is said, in bytes.
const TMP: u64 = 512 << 20;
/// What sandboxes mount over, beside the layers.
const PLACES: &str = "places";
const MEGABYTE: u64 = 1 << 20;

/// Why an image does not run here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is for other machines.
    #[error("the image is for {image}, and this machine is {machine}")]
    Machine {
        /// What it is for, as its config says it.
        image: String,
        /// This machine.
        machine: Architecture,
    },
    /// It has more layers than can be mounted.
    #[error("the image has {count} layers, and {MAX_LAYERS} can lie under one another here")]
    Layers {
        /// How many there are; one that is there twice is one.
        count: usize,
    },
    /// It says nothing to execute.
    #[error("the image has neither an entry point nor a command")]
    NoCommand,
    /// A layer is none that could be unpacked.
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    /// Its blobs cannot be had.
    #[error(transparent)]
    Build(#[from] Box<build::Error>),
}

impl From<build::Error> for Error {
    fn from(error: build::Error) -> Self {
        Self::Build(Box::new(error))
    }
}

/// What a function's configuration on Lambda would say.
#[derive(Clone)]
pub struct Settings {
    /// The function's name.
    pub name: String,
    /// Its account's number.
    pub account: String,
    /// Its region.
    pub region: String,
    /// Its memory, in megabytes.
    pub memory: u32,
    /// How long a call may take.
    pub timeout: Duration,
    /// The command in place of the image's: a handler, where the entry point takes one.
    pub handler: Option<String>,
    /// Its variables.
    pub variables: BTreeMap<String, String>,
    /// Its log's form.
    pub log_format: LogFormat,
    /// Whether it has the machine's network.
    pub network: bool,
}

/// Without the variables' values, which may be secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("variables", &self.variables.keys())
            .finish_non_exhaustive()
    }
}

/// A function, and what its sandboxes are made of.
#[derive(Debug, Clone)]
pub struct Runnable {
    /// The function.
    pub function: Function,
    /// Its sandboxes.
    pub spec: Spec,
}

impl Runnable {
    /// Sandboxes of it, made by the program at `helper`.
    pub fn places(&self, helper: PathBuf) -> Places {
        let made_of = Arc::new((helper, self.spec.clone()));
        Arc::new(move || {
            let made_of = Arc::clone(&made_of);
            Box::pin(async move {
                let (helper, spec) = &*made_of;
                let sandbox = Sandbox::start(helper, spec).await?;
                Ok(Arc::new(sandbox) as Arc<dyn Place>)
            })
        })
    }
}

/// Opens the image that the user calls `text`, as [`build::open`] understands it; of an index it is the one for
/// `machine`.
///
/// # Errors
/// See [`build::Error`].
pub async fn open(text: &str, machine: Architecture, tools: &Tools) -> Result<Image, build::Error> {
    let wanted = build::open_for(text, Some(machine.oci()), tools).await;
    let Err(error) = wanted else { return wanted };
    // One that is for another machine alone is opened all the same, to be told as that.
    build::open(text, tools).await.map_err(|_| error)
}

/// Brings an image's layers here and unpacks those that are not yet.
///
/// # Errors
/// See [`Error`].
pub async fn prepare(
    image: &Image,
    settings: Settings,
    machine: Architecture,
    tools: &Tools,
) -> Result<Runnable, Error> {
    let config = &image.config;
    if config.require(machine.oci()).is_err() {
        return Err(Error::Machine {
            image: format!("{}/{}", config.os, config.architecture),
            machine,
        });
    }
    let (memory, network) = (u64::from(settings.memory), settings.network);
    let function = function_of(image, settings)?;
    let spec = Spec {
        layers: unpacked(image, tools).await?,
        places: tools.store.trees().join(PLACES),
        memory: memory * MEGABYTE,
        tmp: TMP,
        network,
    };
    Ok(Runnable { function, spec })
}

/// The directories of an image's layers, lowest first. Blobs come here only for those that are not unpacked yet.
async fn unpacked(image: &Image, tools: &Tools) -> Result<Vec<PathBuf>, Error> {
    count_layers(image)?;
    let layers = image.manifest.layers.iter().zip(&image.config.diff_ids);
    let mut absent = image.clone();
    for (layer, diff_id) in layers.clone() {
        if tools.store.tree(diff_id).is_some() {
            absent.origins.remove(&layer.digest);
        }
    }
    build::bring_here(&absent, tools).await?;
    let each = layers.map(|(layer, diff_id)| {
        let (layer, diff_id, store) = (layer.clone(), *diff_id, tools.store.clone());
        async move {
            let work = move || {
                // A reader that proves what it read is not needed: that is what unpacking does.
                let open = || File::open(store.path(&layer.digest));
                unpack::unpack(&store, &layer, &diff_id, open)
            };
            Ok::<_, Error>(tools.block(work).await??)
        }
    });
    stream::iter(each).buffered(PARALLEL).try_collect().await
}

/// Fails where there are more layers than can be mounted; one that is there twice is mounted once.
fn count_layers(image: &Image) -> Result<(), Error> {
    let distinct: BTreeSet<_> = image.config.diff_ids.iter().collect();
    match distinct.len() {
        count if count > MAX_LAYERS => Err(Error::Layers { count }),
        _ => Ok(()),
    }
}

fn function_of(image: &Image, settings: Settings) -> Result<Function, Error> {
    let config = &image.config;
    let arguments = match settings.handler {
        Some(handler) => vec![handler],
        None => config.cmd.clone(),
    };
    let handler = match &arguments[..] {
        [handler] if !config.entrypoint.is_empty() => Some(handler.clone()),
        _ => None,
    };
    let command: Vec<_> = config.entrypoint.iter().cloned().chain(arguments).collect();
    if command.is_empty() {
        return Err(Error::NoCommand);
    }
    let working_dir = match &config.value["config"]["WorkingDir"] {
        Value::String(directory) if !directory.is_empty() => directory.clone(),
        _ => "/".to_owned(),
    };
    let variables = config.env.iter().filter_map(|line| line.split_once('='));
    Ok(Function {
        name: settings.name,
        account: settings.account,
        region: settings.region,
        memory: settings.memory,
        timeout: settings.timeout,
        command,
        handler,
        working_dir,
        image_variables: variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        variables: settings.variables,
        log_format: settings.log_format,
    })
}

/// A file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    /// The file that this is told of.
    pub fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// What tells whether a project has changed: sizes and times of its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glance(BTreeMap<PathBuf, (u64, Option<SystemTime>)>);

impl Glance {
    /// Looks at the files that the function is made of and at those that lie directly in the project, which decide
    /// how, unless they are left out. Nothing is read but the directories, so that it may be done again and again.
    /// `outputs` are files that are written all the time and mean nothing.
    pub fn of(plan: &Plan, outputs: &[FileId]) -> Self {
        let mut seen = Self::default();
        // What cannot be listed now, as in the midst of a change, differs from what will be.
        if let Ok(tree) = build::function_tree(plan) {
            for (_, entry) in tree.iter() {
                if let Node::File {
                    content: Content::File(path, _),
                    ..
                } = &entry.node
                {
                    seen.add(path, outputs);
                }
            }
        }
        for path in build::files::watched(plan) {
            seen.add(&path, outputs);
        }
        if plan.is_archive {
            seen.add(&plan.source, outputs);
        }
        let listed = fs::read_dir(&plan.source).into_iter().flatten().flatten();
        let without_effect = function::without_effect(&plan.source, &plan.exclude).ok();
        for entry in listed {
            let path = entry.path();
            if !without_effect
                .as_ref()
                .is_some_and(|is_without| is_without(&path))
            {
                seen.add(&path, outputs);
            }
        }
        if let Some(file) = plan.needs.file() {
            seen.add(file, outputs);
        }
        seen
    }

    fn add(&mut self, path: &Path, outputs: &[FileId]) {
        if let Ok(found) = fs::metadata(path)
            && found.is_file()
            && !outputs.contains(&FileId::of(&found))
        {
            self.0
                .insert(path.to_owned(), (found.len(), found.modified().ok()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Project, Setting};
    use crate::oci::{Config, Descriptor, Family, Manifest};
    use crate::plan;
    use serde_json::json;

    fn image(config: &Value) -> Image {
        with_layers(config, &[])
    }

    /// An image whose layers are so many bytes, each of which is a layer of its own.
    fn with_layers(config: &Value, sizes: &[usize]) -> Image {
        let layers = sizes.iter().map(|size| {
            let descriptor = Descriptor::of("", &vec![0; *size]);
            json!({
                "mediaType": Family::Oci.layer(),
                "digest": descriptor.digest.to_string(),
                "size": size,
            })
        });
        let layers: Vec<_> = layers.collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Config::read(config.to_string().into_bytes()).unwrap();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": Family::Oci.manifest(), "layers": layers,
            "config": {
                "mediaType": Family::Oci.config(),
                "digest": Descriptor::of("", &config.raw).digest.to_string(),
                "size": config.raw.len(),
            },
        });
        let manifest = Manifest::read(manifest.to_string().into_bytes()).unwrap();
        Image {
            manifest,
            config,
            origins: BTreeMap::new(),
        }
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        let mut given = settings(None);
        given.variables = BTreeMap::from([("NAME".to_owned(), "secret".to_owned())]);
        let config = json!({"Cmd": ["app.handler"], "Env": ["OTHER=secret"]});
        let shown = format!("{given:?}");
        assert!(
            shown.contains("NAME") && !shown.contains("secret"),
            "{shown}"
        );
        let made = function_of(&image(&config), given).unwrap();
        let shown = format!("{made:?}");
        assert!(
            shown.contains("NAME") && !shown.contains("secret"),
            "{shown}"
        );
    }

    fn settings(handler: Option<&str>) -> Settings {
        Settings {
            name: "orders".to_owned(),
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            memory: 128,
            timeout: Duration::from_secs(3),
            handler: handler.map(str::to_owned),
            variables: BTreeMap::new(),
            log_format: LogFormat::Text,
            network: true,
        }
    }

    #[test]
    fn what_changes_nothing_is_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        for name in [
            "app.py",
            "lambimg.toml",
            "base.txt",
            "notes.log",
            ".coverage",
            "serve.out",
        ] {
            write(name, "");
        }
        write(".lambimgignore", "*.log\n*.toml\n");
        let project = Project::read(directory.path()).unwrap();
        let mut request = plan::Request::default();
        let flag = |text: &str, name| Some(Setting::flag(text.to_owned(), name));
        request.config.handler = flag("app.handler", "--handler");
        request.config.base = flag("r.test/base:1", "--base");
        let plan = plan::make(&project, request).unwrap();
        let output = fs::metadata(directory.path().join("serve.out")).unwrap();
        let look = || Glance::of(&plan, &[FileId::of(&output)]);
        for (name, matters) in [
            ("app.py", true),
            ("lambimg.toml", true),
            ("base.txt", true),
            (".lambimgignore", true),
            ("notes.log", false),
            (".coverage", false),
            ("serve.out", false),
        ] {
            let before = look();
            let text = fs::read_to_string(directory.path().join(name)).unwrap();
            write(name, &format!("{text}#\n"));
            assert_eq!(look() != before, matters, "{name}");
        }
    }

    #[test]
    fn a_function_is_what_the_image_says() {
        let image = image(&json!({
            "Entrypoint": ["/lambda-entrypoint.sh"], "Cmd": ["app.handler"],
            "Env": ["A=1=2", "B="], "WorkingDir": "/var/task",
        }));
        let made = function_of(&image, settings(None)).unwrap();
        assert_eq!(made.command, ["/lambda-entrypoint.sh", "app.handler"]);
        assert_eq!(made.handler.as_deref(), Some("app.handler"));
        assert_eq!(made.working_dir, "/var/task");
        assert_eq!(made.image_variables["A"], "1=2");
        assert_eq!(made.image_variables["B"], "");
        let made = function_of(&image, settings(Some("other.handler"))).unwrap();
        assert_eq!(made.command, ["/lambda-entrypoint.sh", "other.handler"]);
        assert_eq!(made.handler.as_deref(), Some("other.handler"));
    }

    #[test]
    fn layers_are_not_mounted_without_end() {
        let mut many: Vec<_> = (0..MAX_LAYERS).collect();
        many.push(0);
        count_layers(&with_layers(&json!({}), &many)).unwrap();
        many.push(MAX_LAYERS);
        let error = count_layers(&with_layers(&json!({}), &many)).unwrap_err();
        insta::assert_snapshot!(error, @"the image has 500 layers, and 499 can lie under one another here");
    }

    #[test]
    fn what_an_image_does_not_say_is_not_made_up() {
        let made = function_of(&image(&json!({"Cmd": ["/server"]})), settings(None)).unwrap();
        assert_eq!(
            (made.command, made.handler),
            (vec!["/server".to_owned()], None)
        );
        assert_eq!(made.working_dir, "/");
        let two = json!({"Entrypoint": ["python", "-m", "x"], "Cmd": ["a", "b"]});
        assert_eq!(
            function_of(&image(&two), settings(None)).unwrap().handler,
            None
        );
        let error = function_of(&image(&json!({})), settings(None)).unwrap_err();
        insta::assert_snapshot!(error, @"the image has neither an entry point nor a command");
    }
}
