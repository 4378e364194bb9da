//! Tests of the handler's rules, and of the Python and the module path that they stand on.

use super::*;
use crate::lambda::check::syntax::Refusal;
use crate::lambda::check::testing::{self, Forge, aws, only};

fn told(forge: Forge) -> String {
    let findings = forge.findings();
    let fifties = only(&findings, "LMB05", '0'..='9');
    [fifties, only(&findings, "LMB06", '0'..='1')]
        .into_iter()
        .filter(|lines| !lines.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn app(source: impl AsRef<[u8]>) -> Forge {
    aws("app.handler").file("var/task/app.py", source)
}

const SOUND: &str = "import json\nimport math, sys\nfrom . import x\nimport helper\n\ndef handler(event, context):\n    pass\n";

#[test]
fn the_builtin_modules_are_those_of_interpreters() {
    let code = "import sys; print(sys.version_info[1], *sys.builtin_module_names)";
    let mut asked = 0;
    for interpreter in [
        "python3",
        "python3.9",
        "python3.10",
        "python3.11",
        "python3.12",
        "python3.13",
        "python3.14",
    ] {
        let output = std::process::Command::new(interpreter)
            .args(["-I", "-c", code])
            .output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            continue;
        };
        let said = String::from_utf8(output.stdout).unwrap();
        let (minor, names) = said.trim().split_once(' ').unwrap();
        let minor: u8 = minor.parse().unwrap();
        let (gone, until) = BUILTIN_UNTIL;
        let names: Vec<_> = names.split(' ').collect();
        assert!(BUILTIN.iter().all(|name| names.contains(name)), "3.{minor}");
        // Builds differ in what they have beside these, and not in what they lack.
        assert!(minor <= until || !names.contains(&gone), "3.{minor}");
        asked += 1;
    }
    assert!(asked > 0, "there is no Python to ask");
}

#[test]
fn sound_handlers_are_not_reported() {
    let images = [
        aws("app.handler")
            .file("var/task/app.py", SOUND.replace("from . import x\n", ""))
            .file("var/task/helper.py", ""),
        aws("pkg/sub.app.handler")
            .file(
                "var/task/pkg/sub/app.py",
                "from .m import handler\nfrom ..n import y\n",
            )
            .file("var/task/pkg/sub/m.py", "def handler(a, b): pass\n")
            .file("var/task/pkg/n.py", ""),
        app("from m import *\n").file("var/task/m.py", ""),
        app("def __getattr__(name): return print\n"),
        app("def f(event): global handler; handler = 1\n"),
        app("@w\nasync def handler(): pass\n"),
        app("def handler(*all): pass\n"),
        app("def handler(event, context, more=1, *, x=2): pass\n"),
        app("import sys\nsys.path.append('x')\nimport nowhere\ndef handler(a, b): pass\n"),
        app("try:\n    import nowhere\nexcept ImportError:\n    pass\ndef handler(a, b): pass\n"),
        app("import nowhere\ndef handler(a, b): pass\n")
            .file("var/task/x.pth", "/var/lang\n#c\n")
            .file("opt/python/nowhere/__init__.py", ""),
        aws("app.handler").file("var/task/app.cpython-312-x86_64-linux-gnu.so", ""),
        aws("app.handler").file(
            "opt/python/lib/python3.12/site-packages/app.py",
            "handler = print",
        ),
    ];
    for (number, image) in images.into_iter().enumerate() {
        assert_eq!(told(image), "", "{number}");
    }
}

#[test]
fn extension_modules_come_before_sources() {
    let image = |name: &str| {
        let image = app("def main(event, context): pass\n");
        told(image.file(&format!("var/task/{name}"), ""))
    };
    assert_eq!(image("app.cpython-312-x86_64-linux-gnu.so"), "");
    assert_eq!(image("app.abi3.so"), "");
    for other in [
        "app.cpython-311-x86_64-linux-gnu.so",
        "app.cpython-312-aarch64-linux-gnu.so",
        "app.pyc",
    ] {
        assert!(image(other).starts_with("LMB054 error"), "{other}");
    }
}

#[test]
fn handlers_that_fail_are_found() {
    let images = [
        aws("handler").file("var/task/app.py", ""),
        aws("time.handler").file("var/task/time.py", "def handler(a, b): pass\n"),
        aws("_io.handler").file("var/task/_io.py", "def handler(a, b): pass\n"),
        aws("other.handler").file("var/task/app.py", ""),
        aws("pkg.app.handler").file("var/task/pkg.py", ""),
        aws("pkg.handler").file("var/task/pkg/app.py", ""),
        app("def handler(event, context)\n    pass\n"),
        app("def main(event, context): pass\n"),
        app("async def handler(event, context): pass\n"),
        app("def handler(event): pass\n"),
        app("import nowhere.x\nfrom .m import y\nimport own.gone\ndef handler(a, b): pass\n")
            .file("var/task/own/__init__.py", ""),
        app("import helper\ndef handler(a, b): pass\n").file("var/task/helper.py", "x = (\n"),
        aws("pkg.app.handler")
            .file("var/task/pkg/__init__.py", "")
            .file(
                "var/task/pkg/app.py",
                "from .gone import a\ndef handler(a, b): pass\n",
            ),
    ];
    insta::assert_snapshot!(images.map(told).join("\n"));
}

#[test]
fn the_functions_own_modules_are_followed() {
    let handler = "\ndef handler(a, b): pass\n";
    let app = |source: &str| app(format!("{source}{handler}"));
    let images = [
        // In a package beside the handler's module, with a file of its own and without.
        app("from services.db import x")
            .file("var/task/services/__init__.py", "")
            .file("var/task/services/db.py", "x = (\n"),
        app("from services import db").file("var/task/services/db.py", "import nowhere\n"),
        app("import pk").file("var/task/pk/__init__.py", "from .gone import x\n"),
        aws("src.app.handler")
            .file(
                "var/task/src/app.py",
                format!("from .svc import db{handler}"),
            )
            .file("var/task/src/svc/db.py", "import nowhere\n"),
        // Through another.
        app("import d1")
            .file("var/task/d1.py", "from d2 import x\n")
            .file("var/task/d2.py", "import d1, d3\n")
            .file("var/task/d3.py", "def f(:\n"),
    ];
    insta::assert_snapshot!(images.map(told).join("\n"), @"
    LMB053 error 1 var/task/services/db.py: line 2, column 1: unexpected EOF while parsing (Python 3.12)
    LMB060 error 1 var/task/services/db.py: line 1: there is no module `nowhere` in the image
    LMB060 error 1 var/task/pk/__init__.py: line 1: there is no module `.gone` in the image
    LMB060 error 1 var/task/src/svc/db.py: line 1: there is no module `nowhere` in the image
    LMB053 error 1 var/task/d3.py: line 1, column 7: Expected a parameter or the end of the parameter list (Python 3.12)
    ");
    let namespace = app("from pk.gone import x").file("var/task/pk/m.py", "");
    insta::assert_snapshot!(told(namespace), @"LMB060 error 1 var/task/app.py: line 1: there is no module `pk.gone` in the image");
    let innocent = [
        app("import google.cloud.x")
            .file("var/task/google/cloud/storage/__init__.py", "")
            .file(
                "var/task/g-1.0.dist-info/RECORD",
                "google/cloud/storage/__init__.py,,\n",
            ),
        // Nobody imports it, or only who can do without; or a distribution brings it.
        app("import d1")
            .file(
                "var/task/d1.py",
                "try:\n    import d2\nexcept ImportError:\n    d2 = None\n",
            )
            .file("var/task/d2.py", "import nowhere\n"),
        app("import d1")
            .file("var/task/d1/__init__.py", "import nowhere\n")
            .file("var/task/d1-1.0.dist-info/RECORD", "d1/__init__.py,,\n"),
    ];
    assert_eq!(innocent.map(told).concat(), "");
}

#[test]
fn a_device_in_place_of_the_module_is_told_as_that() {
    let device = tar::EntryType::Char;
    let image = aws("app.handler").entry("var/task/app.py", device, 0o644, b"", None);
    let found = image.findings();
    assert!(found.starts_with("LMB037 error"), "{found}");
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn the_root_as_the_directory_of_modules_has_its_name() {
    let mut image = Forge::new()
        .program("usr/local/bin/python3.12", "")
        .layer()
        .dir("app");
    image.run = serde_json::json!({
        "Entrypoint": ["/usr/local/bin/python3.12", "-m", "awslambdaric"],
        "Cmd": ["app.main.handler"],
    });
    insta::assert_snapshot!(told(image), @"LMB052 error: there is no module `app.main` in `/` or elsewhere on the module path");
}

#[test]
fn what_is_in_the_way_is_found() {
    let sound = || app("def handler(event, context): pass\n");
    let images = [
        sound().file("var/task/json.py", ""),
        sound()
            .file("var/task/typing.py", "")
            .file("var/task/pathlib/__init__.py", ""),
        sound().file("var/task/json/data.txt", ""),
        sound().file("var/task/awslambdaric/__init__.py", ""),
        sound()
            .file("var/task/a.pth", "import os; x\n")
            .file("var/task/b.pth", "/nowhere\n"),
    ];
    insta::assert_snapshot!(images.map(told).join("\n--\n"));
}

#[test]
fn a_pth_file_that_names_what_is_not_there_is_found() {
    let image = app("def handler(event, context): pass\n").file("var/task/b.pth", "gone\n");
    assert_eq!(
        told(image),
        "LMB059 note 1 var/task/b.pth: it leads nowhere at each cold start"
    );
}

/// What is not looked into may lead to the module, so nothing is said of it.
#[test]
fn so_many_lines_of_pth_files_are_looked_at() {
    let image = |lines: usize| {
        let directories = (0..lines).map(|number| format!("/data/{number}\n"));
        let text: String = directories.collect();
        let app = app("import gone\ndef handler(event, context): pass\n").dir("data");
        let app = app.file("var/lang/lib/python3.12/site-packages/some.pth", text);
        (0..lines).fold(app, |app, number| app.dir(&format!("data/{number}")))
    };
    let path = |lines| image(lines).subject().python.unwrap().path.len();
    let few = path(10);
    assert_eq!(path(3000) - few, 990);
    assert!(told(image(10)).contains("`gone`"), "{}", told(image(10)));
    assert!(!told(image(3000)).contains("`gone`"));
}

#[test]
fn pythons_are_found() {
    let told = |forge: Forge| match forge.subject().python {
        Some(python) => format!(
            "{} {}\n  {}",
            python.version,
            python.interpreter,
            python.path.join("\n  ")
        ),
        None => "none".to_owned(),
    };
    let docker = |entry: &[&str]| {
        let mut forge = Forge::new()
            .link("usr/local/bin/python", "python3")
            .link("usr/local/bin/python3", "python3.11")
            .program("usr/local/bin/python3.11", "");
        forge.run = serde_json::json!({"Entrypoint": entry, "Cmd": ["app.handler"], "WorkingDir": "/function"});
        forge
    };
    let client = ["/usr/local/bin/python", "-m", "awslambdaric"];
    let environment = docker(&["/venv/bin/python", "-m", "awslambdaric"])
        .link("venv/bin/python", "/usr/local/bin/python3")
        .file("venv/pyvenv.cfg", "home = /usr/local/bin\n");
    let mut with_path = aws("app.handler");
    with_path.run["Env"] = serde_json::json!(["PYTHONPATH=/lib/a:/lib/b"]);
    let missing = docker(&client).file("function/other.py", "");
    let found = [
        told(aws("app.handler")),
        told(with_path),
        told(docker(&client)),
        told(docker(&["python", "-m", "awslambdaric"])),
        told(environment),
        told(Forge::new()),
        self::told(missing),
    ];
    insta::assert_snapshot!(found.join("\n"));
}

const FINE: &str = "def main(event, context): pass\n";
const ASYNC: &str = "async def main(event, context): pass\n";

#[test]
fn what_cannot_be_called_is_found() {
    let values = [
        "handler = 1\n",
        "handler: int = -1\n",
        "other = handler = 'text'\n",
        "handler = f'{1}'\n",
        "handler = b''\n",
        "handler = None\n",
        "handler = True\n",
        "handler = [main]\n",
        "handler = (main,)\n",
        "handler = {'main': main}\n",
        "handler = {main}\n",
        "handler = [x for x in y]\n",
        "value = 1\nhandler = value\n",
        "import json as handler\n",
        "import os.path as handler\n",
    ];
    let mut found: Vec<_> = values.into_iter().map(|source| told(app(source))).collect();
    let own = [
        app("from values import handler\n").file("var/task/values.py", "handler = None\n"),
        app("import handler\n").file("var/task/handler.py", FINE),
        aws("pkg.app.handler")
            .file("var/task/pkg/__init__.py", "")
            .file("var/task/pkg/app.py", "from pkg import handler\n")
            .file("var/task/pkg/handler.py", FINE),
        aws("pkg.app.handler")
            .file("var/task/pkg/app.py", "from . import handler\n")
            .file("var/task/pkg/handler.py", FINE),
    ];
    found.extend(own.map(told));
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn handlers_are_followed_to_where_they_are_defined() {
    let images = [
        app(format!("{ASYNC}handler = main\n")),
        app(format!("{ASYNC}one = main\nhandler = one\n")),
        app("from mod import handler\n").file(
            "var/task/mod.py",
            "async def handler(event, context): pass\n",
        ),
        app("from mod import main as handler\n").file("var/task/mod.py", ASYNC),
        aws("pkg.sub.app.handler")
            .file(
                "var/task/pkg/sub/app.py",
                "from pkg.b import main as handler\n",
            )
            .file("var/task/pkg/b.py", "from .c import main\n")
            .file("var/task/pkg/c.py", ASYNC),
        aws("pkg.app.handler")
            .file("var/task/pkg/__init__.py", "from .c import main\n")
            .file("var/task/pkg/app.py", "from pkg import main as handler\n")
            .file("var/task/pkg/c.py", "def main(): pass\n"),
        aws("pkg.app.handler")
            .file("var/task/pkg/app.py", "from .mod import main as handler\n")
            .file("var/task/pkg/mod.py", ASYNC),
    ];
    insta::assert_snapshot!(images.map(told).join("\n"));
}

#[test]
fn names_that_their_module_lacks_are_found() {
    let images = [
        app("from mod import handler\n").file("var/task/mod.py", FINE),
        app("from mod import nothing as handler\n").file("var/task/mod.py", FINE),
        aws("pkg.app.handler")
            .file("var/task/pkg/__init__.py", "")
            .file("var/task/pkg/app.py", "from pkg import handler\n"),
        app("from a import handler\n")
            .file("var/task/a.py", "from b import handler\n")
            .file("var/task/b.py", ""),
        aws("pkg.app.handler")
            .file("var/task/pkg/app.py", "from . import handler\n")
            .file("var/task/pkg/other.py", FINE),
    ];
    insta::assert_snapshot!(images.map(told).join("\n"));
}

#[test]
fn relative_imports_outside_of_packages_are_found() {
    let images = [
        app("from . import helper\ndef handler(a, b): pass\n").file("var/task/helper.py", ""),
        app("import json\nfrom .helper import x\ndef handler(a, b): pass\n")
            .file("var/task/helper.py", "x = 1\n"),
        app("from .helper import handler\n").file("var/task/helper.py", FINE),
        aws("pkg.app.handler").file(
            "var/task/pkg/app.py",
            "from .. import helper\ndef handler(a, b): pass\n",
        ),
    ];
    insta::assert_snapshot!(images.map(told).join("\n"));
}

#[test]
fn what_only_running_tells_is_not_told() {
    let guarded =
        "try:\n    from . import x\nexcept ImportError:\n    x = 1\ndef handler(a, b): pass\n";
    let sources = [
        "handler = 1\nhandler = print\n",
        "handler = None\ndef start():\n    global handler\n    handler = print\n",
        "handler = None\nif x:\n    handler = print\n",
        "if x:\n    handler = 1\n",
        "handler = 1\nglobals()['handler'] = print\n",
        "handler = {}.get\n",
        "handler = lambda *all: 1\n",
        "handler = Handler()\n",
        "handler = wrap(main)\n",
        "handler = main\n",
        "async def main(a, b): pass\nmain = sync(main)\nhandler = main\n",
        "async def main(a, b): pass\nhandler = sync(main)\n",
        "async def main(a, b): pass\nhandler = main\nhandler = sync(handler)\n",
        "handler, other = 1, 2\n",
        "import awslambdaric as handler\n",
        "def handler(a, b): pass\nhandler.timeout = 1\n",
        "handler = handler\n",
        "a = b\nb = a\nhandler = a\n",
        "from json import nothing as handler\n",
        "try:\n    from mod import gone as handler\nexcept ImportError:\n    pass\n",
        "from .mod import *\ndef __getattr__(name): return print\n",
        "if __name__ == '__main__':\n    from . import x\ndef handler(a, b): pass\n",
        "def handler(a, b):\n    from . import x\n",
        guarded,
    ];
    // That one of them is of no package another rule tells.
    let relative = |line: &&str| !line.contains("is relative");
    for source in sources {
        let found = told(app(source).file("var/task/mod.py", ""));
        let found: Vec<_> = found.lines().filter(relative).collect();
        assert_eq!(found.join("\n"), "", "{source}");
    }
    let from_mod = |source: &str| app("from mod import handler\n").file("var/task/mod.py", source);
    let images = [
        from_mod("from other import *\n").file("var/task/other.py", ""),
        from_mod("def __getattr__(name): return print\n"),
        from_mod("try:\n    async def handler(a, b): pass\nexcept E:\n    handler = print\n"),
        from_mod("if x:\n    def handler(a, b): pass\n"),
        from_mod("import sys\nsys.modules[__name__] = X()\n"),
        from_mod("from app import handler\n"),
        from_mod("def handler(a, b): pass\n"),
        app("from mod import handler\n").file("var/task/mod.cpython-312-x86_64-linux-gnu.so", ""),
        // What a distribution brings is its affair.
        app("from mod import handler\n")
            .file("var/task/mod.py", "handler = None\n")
            .file("var/task/mod-1.dist-info/RECORD", "mod.py,,\n"),
        app("import handler\n").file(
            "var/task/handler.py",
            "import sys\nsys.modules[__name__] = print\n",
        ),
        app("from pkg import handler\n").file("var/task/pkg/__init__.py", "__path__.append('x')\n"),
    ];
    for (number, image) in images.into_iter().enumerate() {
        assert_eq!(told(image), "", "{number}");
    }
}

#[test]
fn a_source_is_read_once() {
    let image = app("def handler(event): pass\n").subject();
    let told = || only(&testing::told(&image), "LMB05", '0'..='9');
    assert!(told().starts_with("LMB056"));
    let known = Refusal {
        place: None,
        reason: "known".to_owned(),
    };
    let path = "var/task/app.py".to_owned();
    let before = image
        .known
        .sources
        .lock()
        .unwrap()
        .insert(path, Some(Err(known)));
    assert!(before.is_some());
    insta::assert_snapshot!(told(), @"LMB053 error 1 var/task/app.py: known (Python 3.12)");
}
