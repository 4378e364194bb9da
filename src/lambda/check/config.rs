//! Rules of the image's config: what it says it is for, working directory, command, variables. Those of the
//! entry point itself are in [`entry`](super::entry).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::lambda;
use crate::lambda::Architecture;
use crate::lambda::check::entry;
use crate::lambda::check::program;
use crate::lambda::check::secrets;
use crate::lambda::check::subject::{Documents, Subject};
use crate::lambda::check::{Fault, Level, Look, Rule};
use crate::lambda::function::RESERVED;
use crate::oci::flatten::{Kind, Missing};

const INVALID_ENTRY: &str = "The function fails before its first line: `Runtime.InvalidEntrypoint` and \
                             `fork/exec …`, after the image was taken without complaint.";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "LMB015",
        level: Level::Error,
        title: "The config's operating system is `linux`",
        why: "Lambda runs Linux images alone, and refuses others with `InvalidParameterValueException`.",
        remedy: "Build the image for `linux`.",
        look: Look::Documents(is_for_linux),
    },
    Rule {
        id: "LMB016",
        level: Level::Error,
        title: "The config's architecture is `amd64` or `arm64`, and the one that was asked for",
        why: "A function is `x86_64` or `arm64`; an image of another kind fails at its start with \
              `Runtime.InvalidEntrypoint` and `exec format error`.",
        remedy: "Build the image for the function's architecture.",
        look: Look::Documents(has_architecture),
    },
    Rule {
        id: "LMB017",
        level: Level::Error,
        title: "The config's architecture is that of the image's programs",
        why: "Lambda goes by the config: the function starts on the wrong processor and fails with \
              `Runtime.InvalidEntrypoint` and `exec format error`.",
        remedy: "Build from a base of the architecture that the config names, or correct the config.",
        look: Look::Files(says_its_architecture),
    },
    Rule {
        id: "LMB018",
        level: Level::Error,
        title: "The image says what to run",
        why: "With neither `Entrypoint` nor `Cmd` there is nothing to start: `Runtime.InvalidEntrypoint`.",
        remedy: "Set `ENTRYPOINT`, and the handler as `CMD`.",
        look: Look::Documents(says_what_to_run),
    },
    Rule {
        id: "LMB019",
        level: Level::Error,
        title: "The entry point is an absolute path",
        why: "AWS asks for an absolute path; a relative one ends in `Runtime.InvalidEntrypoint`, and a name that \
              `PATH` finds relies on what is not promised.",
        remedy: "Give the program's whole path in `ENTRYPOINT`.",
        look: Look::Files(entry::is_absolute),
    },
    Rule {
        id: "LMB020",
        level: Level::Error,
        title: "The entry point is in the image",
        why: INVALID_ENTRY,
        remedy: "Copy the program to this path, or correct `ENTRYPOINT`.",
        look: Look::Files(entry::is_there),
    },
    Rule {
        id: "LMB021",
        level: Level::Error,
        title: "The entry point is a regular file, and no symbolic link",
        why: "AWS asks that it be no symbolic link; what is no file cannot be started: `Runtime.InvalidEntrypoint`.",
        remedy: "Name the file itself in `ENTRYPOINT`.",
        look: Look::Files(entry::is_a_file),
    },
    Rule {
        id: "LMB022",
        level: Level::Error,
        title: "The entry point can be run by others than its owner",
        why: "Lambda's user owns no file of the image: `Runtime.InvalidEntrypoint`, `fork/exec …: permission denied`.",
        remedy: "Give it mode 0755.",
        look: Look::Files(entry::is_executable),
    },
    Rule {
        id: "LMB023",
        level: Level::Error,
        title: "The entry point's interpreter or loader is in the image and can be run",
        why: "Linux starts the program that a script's first line names, or the loader that a program asks for: \
              `Runtime.InvalidEntrypoint`, `fork/exec …: no such file or directory` though the entry point is there.",
        remedy: "Name an interpreter that is in the image, or add it.",
        look: Look::Files(entry::has_its_interpreter),
    },
    Rule {
        id: "LMB024",
        level: Level::Error,
        title: "The entry point is a program or a script",
        why: "Without `#!` or an ELF header Linux does not know how to start it: `Runtime.InvalidEntrypoint`, `exec \
              format error`.",
        remedy: "Begin the script with `#!` and its interpreter's path.",
        look: Look::Files(entry::is_a_program),
    },
    Rule {
        id: "LMB025",
        level: Level::Error,
        title: "The entry point's first line ends in LF alone",
        why: "Linux takes the CR for a part of the interpreter's name and finds no such file: \
              `Runtime.InvalidEntrypoint`, `no such file or directory`.",
        remedy: "Save the script with Unix line endings.",
        look: Look::Files(entry::has_unix_lines),
    },
    Rule {
        id: "LMB026",
        level: Level::Error,
        title: "The entry point and its interpreter are for the image's architecture",
        why: "`Runtime.InvalidEntrypoint`, `fork/exec …: exec format error`.",
        remedy: "Copy the program that was built for the image's architecture.",
        look: Look::Files(entry::is_for_the_machine),
    },
    Rule {
        id: "LMB027",
        level: Level::Error,
        title: "The working directory is absolute, and a directory of the image",
        why: "The function fails at its start with `Runtime.InvalidWorkingDir`.",
        remedy: "Set `WORKDIR` to a directory of the image, as `/var/task`.",
        look: Look::Files(has_its_working_dir),
    },
    Rule {
        id: "LMB028",
        level: Level::Error,
        title: "With AWS's entry point the command is the handler alone",
        why: "`/lambda-entrypoint.sh` says `entrypoint requires the handler name to be the first argument` and exits \
              142.",
        remedy: "Set `CMD [\"module.function\"]`, in its JSON form, with one element.",
        look: Look::Documents(has_one_command),
    },
    Rule {
        id: "LMB029",
        level: Level::Warning,
        title: "`PYTHONPATH` is not set where AWS's bootstrap runs",
        why: "The bootstrap then leaves `/opt/python` and the base's own site-packages out of `sys.path`: modules of \
              layers and of the base are not found, with `Runtime.ImportModuleError`.",
        remedy: "Put modules into `/var/task` or `/opt/python`, and remove the variable.",
        look: Look::Documents(has_no_python_path),
    },
    Rule {
        id: "LMB030",
        level: Level::Note,
        title: "The image names no user",
        why: "Lambda runs every function as a user of its own, whatever the image says: files that only the named user \
              may read are not read.",
        remedy: "Remove `USER`, and make files readable by all.",
        look: Look::Documents(has_no_user),
    },
    Rule {
        id: "LMB031",
        level: Level::Warning,
        title: "No variable is set that Lambda reserves",
        why: "Lambda overwrites these variables: what the image says of them is not what the function sees.",
        remedy: "Remove the variable, or use another name.",
        look: Look::Documents(sets_no_reserved_variable),
    },
    Rule {
        id: "LMB032",
        level: Level::Error,
        title: "The config's fields are of their kinds, and its variables `NAME=value`",
        why: "What cannot be read as the image specification has it is refused, or is not there when the function runs.",
        remedy: "Write the config with a tool that knows the image specification.",
        look: Look::Documents(is_well_formed),
    },
    Rule {
        id: "LMB033",
        level: Level::Error,
        title: "A Python function has a runtime client",
        why: "Nothing asks Lambda for events: `Runtime.ExitError`, or `No module named awslambdaric` in the log.",
        remedy: "Install `awslambdaric`, or build from AWS's base image.",
        look: Look::Files(entry::has_a_runtime_client),
    },
    Rule {
        id: "LMB034",
        level: Level::Error,
        title: "The wrapper script that the image names can be run",
        why: "AWS's bootstrap exits 127 where the file is not there, and 126 where it cannot be run.",
        remedy: "Add the script with mode 0755, or remove `AWS_LAMBDA_EXEC_WRAPPER`; wrappers of layers for .zip \
                 functions are not for images.",
        look: Look::Files(has_its_wrapper),
    },
];

/// The image's own is overwritten; a function's configuration may set it.
const TIME_ZONE: &str = "TZ";

/// Whether the config is a document at all; that it is none another rule says.
fn is_read(image: &Documents) -> bool {
    image.config.value.is_object()
}

fn is_for_linux(image: &Documents) -> Vec<Fault> {
    match &image.config.value["os"] {
        _ if !is_read(image) => Vec::new(),
        Value::String(os) if os == "linux" => Vec::new(),
        Value::String(os) => vec![Fault::new(format!("the image is for `{os}`")).value(os)],
        _ => vec![Fault::new("the config names no operating system")],
    }
}

fn has_architecture(image: &Documents) -> Vec<Fault> {
    let named = image.architecture();
    let known = [Architecture::X86_64, Architecture::Arm64].map(Architecture::oci);
    let message = match image.wanted {
        _ if !is_read(image) => return Vec::new(),
        _ if named.is_empty() => "the config names no architecture".to_owned(),
        _ if !known.contains(&named) => match named.parse::<Architecture>() {
            Ok(meant) => format!("`{named}` is not how images say `{}`", meant.oci()),
            Err(()) => format!("the image is for `{named}`"),
        },
        Some(wanted) if wanted != named => {
            format!("the image is for `{named}`, and `{wanted}` was asked for")
        }
        _ => return Vec::new(),
    };
    vec![Fault::new(message).value(named)]
}

fn says_its_architecture(image: &Subject) -> Vec<Fault> {
    // What is none of the two names is told as that.
    if !has_architecture(&image.documents).is_empty() {
        return Vec::new();
    }
    let Some((machine, count)) = program::other_machine(image) else {
        return Vec::new();
    };
    let named = image.documents.architecture();
    let message = format!(
        "the config says `{named}`, and {count} of its programs and libraries are for {machine}"
    );
    vec![Fault::new(message).value(named)]
}

fn says_what_to_run(image: &Documents) -> Vec<Fault> {
    let malformed = ["Entrypoint", "Cmd"].map(|field| !is_texts(image.run(field)));
    if !is_read(image) || malformed.contains(&true) || !image.command().is_empty() {
        return Vec::new();
    }
    vec![Fault::new("the config has neither `Entrypoint` nor `Cmd`")]
}

fn has_its_working_dir(image: &Subject) -> Vec<Fault> {
    let directory = image.documents.working_dir();
    let message = if directory.starts_with('/') {
        match image.tree.resolve(directory, &image.layers) {
            Err(Missing::Nothing(path)) if path == directory.trim_matches('/') => {
                "it is not in the image".to_owned()
            }
            Err(Missing::Nothing(path)) => format!("there is nothing at `/{path}`"),
            Err(Missing::Loop(path)) => {
                format!("symbolic links go round in circles at `/{path}`")
            }
            // The root, and directories that no layer lists, have no entry.
            Ok(path) => match image.get(&path) {
                Some(found) if found.entry.kind != Kind::Directory => {
                    "it is no directory".to_owned()
                }
                _ => return Vec::new(),
            },
        }
    } else {
        "it is relative".to_owned()
    };
    let message = format!("the working directory is `{directory}`: {message}");
    vec![Fault::new(message).value(directory)]
}

/// Whether the entry point is a shell's command that starts AWS's own and loses the handler on the way: the first
/// argument behind the command's text becomes `$0`.
fn is_lost_in_a_shell(image: &Documents) -> bool {
    let command = image.command();
    let [shell, "-c", text, arguments @ ..] = &*command else {
        return false;
    };
    let is_shell = matches!(
        shell.rsplit('/').next(),
        Some("sh" | "bash" | "dash" | "ash")
    );
    let text = text.trim().trim_start_matches("exec ").trim_start();
    let own = text
        .trim_start_matches('/')
        .strip_prefix(lambda::ENTRY_POINT);
    let passed_on = own.map(|rest| rest.trim().trim_matches('"'));
    is_shell
        && match passed_on {
            Some("") => true,
            Some("$@" | "$*" | "$1") => arguments.len() < 2,
            _ => false,
        }
}

fn has_one_command(image: &Documents) -> Vec<Fault> {
    let (entry, command) = (image.list("Entrypoint"), image.list("Cmd"));
    if is_lost_in_a_shell(image) {
        let message = "`Entrypoint` is in its shell form, which does not hand the handler on";
        let fault = Fault::new(message).value(json!(secrets::shown(&entry)).to_string());
        return vec![
            fault.remedy("Set `ENTRYPOINT [\"/lambda-entrypoint.sh\"]`, in its JSON form."),
        ];
    }
    let arguments = entry.len() + command.len() - 1.min(entry.len());
    if !image.has_aws_entry_point() || arguments == 1 || !is_texts(image.run("Cmd")) {
        return Vec::new();
    }
    let message = match (&*command, entry.len()) {
        ([], _) => "there is no `Cmd`, and so no handler".to_owned(),
        ([shell, "-c", ..], 1) if shell.ends_with("sh") => {
            "`Cmd` is in its shell form: three elements instead of one".to_owned()
        }
        (more, 1) => format!("`Cmd` has {} elements instead of one", more.len()),
        _ => format!("with those of `Entrypoint` there are {arguments} arguments instead of one"),
    };
    // Never the arguments: a password may be one.
    let fault = Fault::new(message).value(arguments.to_string());
    vec![if command.is_empty() {
        // Each function of one image may say its own.
        fault
            .level(Level::Warning)
            .remedy("Set `CMD [\"module.function\"]`, or the function's `ImageConfig.Command`.")
    } else {
        fault
    }]
}

fn has_no_python_path(image: &Documents) -> Vec<Fault> {
    match image.variable("PYTHONPATH") {
        Some(value) if image.has_aws_entry_point() && !value.is_empty() => {
            vec![Fault::new(format!("`PYTHONPATH` is `{value}`")).value(value)]
        }
        _ => Vec::new(),
    }
}

fn has_no_user(image: &Documents) -> Vec<Fault> {
    match image.run("User").as_str() {
        // It is what no word of it means.
        None | Some("" | "root" | "0" | "root:root" | "0:0") => Vec::new(),
        Some(user) => {
            vec![Fault::new(format!("Lambda will not run it as `{user}`")).value(user)]
        }
    }
}

fn sets_no_reserved_variable(image: &Documents) -> Vec<Fault> {
    let of_a_base = |name: &str, value: &str| {
        let mut runtimes = lambda::runtimes().iter();
        runtimes.any(|runtime| {
            let own = runtime.variables.get(name);
            own.is_some_and(|own| own == value.trim_end_matches('/'))
        })
    };
    let variables = image.variables().into_iter();
    // Where AWS's bootstrap does not run, it is the image that says it.
    let is_own = |name: &str| name == "AWS_EXECUTION_ENV" && !image.has_aws_entry_point();
    let reserved = variables.filter(|(name, value)| {
        (RESERVED.contains(name) || *name == TIME_ZONE)
            && !of_a_base(name, value)
            && !is_own(name)
            // The rule of secrets tells it, without its value.
            && secrets::secret_value(name, value).is_none()
    });
    reserved
        .map(|(name, value)| {
            let fault = Fault::new(format!("`{name}` is set to `{value}`")).value(value);
            // People set it, and it is obeyed as often as not.
            if name == TIME_ZONE {
                fault.level(Level::Note)
            } else {
                fault
            }
        })
        .collect()
}

/// Whether a field is a list of texts, or not there.
pub(super) fn is_texts(field: &Value) -> bool {
    let all = |items: &Vec<Value>| items.iter().all(Value::is_string);
    field.is_null() || field.as_array().is_some_and(all)
}

fn is_well_formed(image: &Documents) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !image.config.value.is_object() {
        // One that is not there another rule tells.
        let is_there = !image.config.raw.is_empty();
        faults.extend(is_there.then(|| Fault::new("the config is no JSON object")));
        return faults;
    }
    // Never its value: of variables it may be a secret.
    let mut wrong = |field: &str, kind: &str| {
        faults.push(Fault::new(format!("`{field}` is no {kind}")).value(field));
    };
    if !matches!(image.config.value["config"], Value::Null | Value::Object(_)) {
        return vec![Fault::new("`config` is no object")];
    }
    for field in ["Entrypoint", "Cmd", "Env"] {
        if !is_texts(image.run(field)) {
            wrong(field, "list of texts");
        }
    }
    for field in ["WorkingDir", "User"] {
        if !matches!(image.run(field), Value::Null | Value::String(_)) {
            wrong(field, "text");
        }
    }
    let mut names = BTreeSet::new();
    for line in image.list("Env") {
        let message = match line.split_once('=') {
            None => "`Env` has a line without `=`".to_owned(),
            Some(("", _)) => "`Env` has a value without a name".to_owned(),
            Some((name, _)) if !names.insert(name) => format!("`Env` has `{name}` twice"),
            Some(_) => continue,
        };
        faults.push(Fault::new(message).level(Level::Warning));
    }
    faults
}

/// The path of the wrapper script that AWS's bootstrap runs, if it runs one.
pub(super) fn wrapper_of(image: &Documents) -> Option<&str> {
    let wrapper = image.variable("AWS_LAMBDA_EXEC_WRAPPER");
    wrapper.filter(|path| !path.is_empty() && image.has_aws_entry_point())
}

fn has_its_wrapper(image: &Subject) -> Vec<Fault> {
    let Some(path) = wrapper_of(&image.documents) else {
        return Vec::new();
    };
    let obstacle = program::obstacle(image, path);
    let faults = obstacle.map(|obstacle| {
        let message = format!("`AWS_LAMBDA_EXEC_WRAPPER` is `{path}`: {obstacle}");
        Fault::new(message).value(path)
    });
    faults.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use crate::lambda::check::testing::Forge;
    use serde_json::json;

    /// What the rules of this range find.
    fn found(image: Forge) -> String {
        image.findings_of("LMB015".."LMB035")
    }

    #[test]
    fn a_sound_image_has_no_findings() {
        assert_eq!(Forge::sound().findings(), "");
        let mut image = Forge::sound();
        image.run["Env"]
            .as_array_mut()
            .unwrap()
            .push(json!("AWS_LAMBDA_EXEC_WRAPPER=/var/task/wrap"));
        image.run["WorkingDir"] = json!("/var/task/");
        image.run["Entrypoint"] = json!(["/lambda-entrypoint.sh"]);
        image.run["User"] = json!("root");
        image.wanted = Some("amd64");
        let image = image.program("var/task/wrap", "#!/usr/bin/env -S A=b python3.12 -u\nx");
        assert_eq!(found(image), "");
    }

    #[test]
    fn system_and_architecture() {
        let of = |config: serde_json::Value, wanted| {
            let mut image = Forge::sound();
            image.config = config;
            image.wanted = wanted;
            found(image)
        };
        let linux = |architecture: &str| json!({"os": "linux", "architecture": architecture});
        insta::assert_snapshot!(of(json!({"os": "windows", "architecture": "amd64"}), None), @"LMB015 error: the image is for `windows`");
        insta::assert_snapshot!(of(json!({"architecture": "amd64"}), None), @"LMB015 error: the config names no operating system");
        insta::assert_snapshot!(of(json!({"os": "linux"}), None), @"LMB016 error: the config names no architecture");
        insta::assert_snapshot!(of(linux("x86_64"), None), @"LMB016 error: `x86_64` is not how images say `amd64`");
        insta::assert_snapshot!(of(linux("s390x"), None), @"LMB016 error: the image is for `s390x`");
        insta::assert_snapshot!(of(linux("amd64"), Some("arm64")), @"LMB016 error: the image is for `amd64`, and `arm64` was asked for");
        insta::assert_snapshot!(of(linux("aarch64"), None), @"LMB016 error: `aarch64` is not how images say `arm64`");
        insta::assert_snapshot!(of(linux("arm64"), None), @"LMB017 error: the config says `arm64`, and 3 of its programs and libraries are for x86_64");
    }

    #[test]
    fn the_working_directory() {
        let of = |directory: &str| {
            let mut image = Forge::sound();
            image.run["WorkingDir"] = json!(directory);
            found(image.link("var/task/circle", "circle"))
        };
        assert_eq!(of("/"), "");
        assert_eq!(of("/usr"), "");
        insta::assert_snapshot!(of("var/task"), @"LMB027 error: the working directory is `var/task`: it is relative");
        insta::assert_snapshot!(of("/app"), @"LMB027 error: the working directory is `/app`: it is not in the image");
        insta::assert_snapshot!(of("/app/src"), @"LMB027 error: the working directory is `/app/src`: there is nothing at `/app`");
        insta::assert_snapshot!(of("/var/task/app.py"), @"LMB027 error: the working directory is `/var/task/app.py`: it is no directory");
        insta::assert_snapshot!(of("/var/task/circle"), @"LMB027 error: the working directory is `/var/task/circle`: symbolic links go round in circles at `/var/task/circle`");
    }

    #[test]
    fn the_command() {
        let of = |command: serde_json::Value| {
            let mut image = Forge::sound();
            image.run["Cmd"] = command;
            found(image)
        };
        insta::assert_snapshot!(of(json!(null)), @"LMB028 warning: there is no `Cmd`, and so no handler");
        insta::assert_snapshot!(of(json!(["app.handler", "x"])), @"LMB028 error: `Cmd` has 2 elements instead of one");
        insta::assert_snapshot!(of(json!(["/bin/sh", "-c", "app.handler"])), @"LMB028 error: `Cmd` is in its shell form: three elements instead of one");
        let mut image = Forge::sound();
        image.run["Cmd"] = json!(["app.handler", "--password=hunter2"]);
        let findings = crate::lambda::check::check(&image.subject());
        assert!(!findings.is_empty() && !format!("{findings:?}").contains("hunter2"));
        insta::assert_snapshot!(of(json!("app.handler")), @"LMB032 error: `Cmd` is no list of texts");
        let in_shell = |text: &str, command: serde_json::Value| {
            let mut image = Forge::sound();
            image.run["Entrypoint"] = json!(["/bin/sh", "-c", text]);
            image.run["Cmd"] = command;
            found(image)
        };
        let handler = || json!(["app.handler"]);
        insta::assert_snapshot!(in_shell("/lambda-entrypoint.sh", handler()), @"LMB028 error: `Entrypoint` is in its shell form, which does not hand the handler on");
        assert!(in_shell("exec /lambda-entrypoint.sh \"$@\"", handler()).starts_with("LMB028"));
        let whole = "/lambda-entrypoint.sh app.handler";
        assert_eq!(in_shell(whole, json!(null)), "");
        assert_eq!(in_shell("/lambda-entrypoint.sh \"$0\"", handler()), "");
        let twice = json!(["sh", "app.handler"]);
        assert_eq!(in_shell("/lambda-entrypoint.sh \"$@\"", twice), "");
    }

    #[test]
    fn variables() {
        let of = |lines: &[&str]| {
            let mut image = Forge::sound();
            let variables = image.run["Env"].as_array_mut().unwrap();
            variables.extend(lines.iter().map(|line| json!(line)));
            found(image)
        };
        let innocent = [
            "HOME=/tmp",
            "PYTHONPATH=",
            "AWS_LAMBDA_LOG_FORMAT=JSON",
            "AWS_LAMBDA_SOME_LATER_NAME=1",
            "AWS_XRAY_CONTEXT_MISSING=LOG_ERROR",
            "PYTHONUNBUFFERED=1",
        ];
        assert_eq!(of(&innocent), "");
        insta::assert_snapshot!(of(&["PYTHONPATH=/opt/lib"]), @"LMB029 warning: `PYTHONPATH` is `/opt/lib`");
        insta::assert_snapshot!(of(&["AWS_REGION=eu-west-1"]), @"LMB031 warning: `AWS_REGION` is set to `eu-west-1`");
        insta::assert_snapshot!(of(&["AWS_EXECUTION_ENV=x"]), @"LMB031 warning: `AWS_EXECUTION_ENV` is set to `x`");
        insta::assert_snapshot!(of(&["_HANDLER=x.y"]), @"LMB031 warning: `_HANDLER` is set to `x.y`");
        for name in [
            "AWS_LAMBDA_METADATA_API",
            "AWS_LAMBDA_METADATA_TOKEN",
            "AWS_ACCESS_KEY",
        ] {
            let found = of(&[&format!("{name}=x")]);
            assert_eq!(found, format!("LMB031 warning: `{name}` is set to `x`"));
        }
        // A secret is told as one, and its value never.
        let key = "AWS_SESSION_TOKEN=0123456789abcdefghij";
        assert_eq!(of(&[key]), "");
        insta::assert_snapshot!(of(&["NAME"]), @"LMB032 warning: `Env` has a line without `=`");
        insta::assert_snapshot!(of(&["=value"]), @"LMB032 warning: `Env` has a value without a name");
        insta::assert_snapshot!(of(&["A=1", "A=2"]), @"LMB032 warning: `Env` has `A` twice");
        insta::assert_snapshot!(of(&["AWS_LAMBDA_EXEC_WRAPPER=/opt/bootstrap"]), @"LMB034 error: `AWS_LAMBDA_EXEC_WRAPPER` is `/opt/bootstrap`: there is nothing at `/opt/bootstrap`");
        let mut image = Forge::sound();
        let variables = image.run["Env"].as_array_mut().unwrap();
        variables.retain(|line| {
            !line.as_str().unwrap().starts_with("LAMBDA_TASK_ROOT") && line != "TZ=:/etc/localtime"
        });
        variables.extend([json!("LAMBDA_TASK_ROOT=/function"), json!("TZ=Asia/Tokyo")]);
        image.run["User"] = json!("app");
        insta::assert_snapshot!(found(image), @"
        LMB031 warning: `LAMBDA_TASK_ROOT` is set to `/function`
        LMB030 note: Lambda will not run it as `app`
        LMB031 note: `TZ` is set to `Asia/Tokyo`
        ");
    }

    #[test]
    fn fields_of_another_kind_and_a_config_that_is_none() {
        let mut image = Forge::sound();
        image.run["Entrypoint"] = json!("/lambda-entrypoint.sh");
        image.run["Cmd"] = json!(null);
        image.run["Env"] = json!({"A": "b"});
        image.run["WorkingDir"] = json!(["/"]);
        insta::assert_snapshot!(found(image), @"
        LMB032 error: `Entrypoint` is no list of texts
        LMB032 error: `Env` is no list of texts
        LMB032 error: `WorkingDir` is no text
        ");
        let mut subject = Forge::sound().subject();
        subject.documents.config.value = json!(null);
        let findings = crate::lambda::check::check_documents(&subject.documents);
        let of_config = findings.iter().map(|finding| finding.rule.id);
        let of_config = of_config.filter(|id| ("LMB015".."LMB035").contains(id));
        assert_eq!(of_config.collect::<Vec<_>>(), ["LMB032"]);
    }
}
