//! Tests of the rules of installed distributions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::digest::Digest;
use crate::lambda::check::installed;
use crate::lambda::check::testing::{Forge, aws, only};
use crate::lambda::check::wheels::{fields, values};
use crate::python::elf::testing::Made;

/// Adds a distribution of one module: its files, what they are recorded as, metadata and tags.
fn install(forge: Forge, name: &str, version: &str, fields: &str, tag: &str) -> Forge {
    let module = format!("{name}.py");
    let hash = URL_SAFE_NO_PAD.encode(Digest::of("x = 1\n").as_bytes());
    let info = format!("{name}-{version}.dist-info");
    let record = format!(
        "{module},sha256={hash},6\n../../bin/{name},sha256=x,1\n__pycache__/{name}.cpython-312.pyc,,\n\
         {info}/METADATA,,\n{info}/RECORD,,\n"
    );
    let metadata = format!(
        "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{fields}\nRequires-Dist: no\n"
    );
    let wheel = format!("Wheel-Version: 1.0\nTag: {tag}\n");
    forge
        .file(&format!("var/task/{module}"), "x = 1\n")
        .file(&format!("var/task/{info}/METADATA"), metadata)
        .file(&format!("var/task/{info}/WHEEL"), wheel)
        .file(&format!("var/task/{info}/RECORD"), record)
}

fn pure(forge: Forge, name: &str, fields: &str) -> Forge {
    install(forge, name, "1.0", fields, "py3-none-any")
}

fn told(forge: Forge) -> String {
    let findings = forge.findings();
    let seventies = only(&findings, "LMB07", '6'..='9');
    [seventies, only(&findings, "LMB08", '0'..='5')]
        .join("\n")
        .trim()
        .to_owned()
}

#[test]
fn sound_distributions_are_not_reported() {
    let fields = "Requires-Python: >=3.9,!=3.12.0\nRequires-Dist: b (>=1.0)\nRequires-Dist: win ; os_name == 'nt'\n\
                  Requires-Dist: more ; extra == 'x'\nRequires-Dist: vendored\n";
    let image = pure(aws("app.handler"), "a", fields).file("var/task/vendored/__init__.py", "");
    let image = install(image, "b", "1.5", "", "cp312-cp312-manylinux_2_17_x86_64");
    let image = install(image, "c", "1.5", "", "cp39-abi3-linux_x86_64");
    assert_eq!(told(image), "");
    let base = pure(Forge::new(), "a", "Requires-Dist: gone\n");
    assert_eq!(told(base), "");
}

#[test]
fn wheels_for_others_are_found() {
    let tags = [
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp312-cp312-manylinux_2_17_aarch64",
        "cp312-cp312-manylinux_2_39_x86_64",
        "cp312-cp312-musllinux_1_2_x86_64",
        "py2-none-any",
    ];
    let found = tags.map(|tag| told(install(aws("app.handler"), "a", "1.0", "", tag)));
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn the_images_own_c_library_is_what_wheels_are_held_against() {
    let image = |handler: &str, libc: &str| {
        let versions = [&*format!("GLIBC_{libc}"), "GLIBC_2.17"];
        let libc = Made {
            soname: "libc.so.6",
            defines: &versions,
            ..Made::default()
        };
        let mut image = Forge::new()
            .link("usr/local/bin/python", "python3")
            .link("usr/local/bin/python3", "python3.12")
            .program("usr/local/bin/python3.12", "")
            .file("lib/x86_64-linux-gnu/libc.so.6", libc.bytes())
            .layer();
        let python = "/usr/local/bin/python";
        image.run = json!({"Entrypoint": [python, "-m", "awslambdaric"], "Cmd": [handler], "WorkingDir": "/var/task"});
        install(image, "a", "1.0", "", "cp312-cp312-manylinux_2_36_x86_64")
    };
    assert_eq!(told(image("app.handler", "2.36")), "");
    insta::assert_snapshot!(told(image("app.handler", "2.31")), @"LMB076 error 1 var/task/a-1.0.dist-info: a 1.0 needs glibc 2.36, and the image is python 3.12, x86_64, glibc 2.31");
}

#[test]
fn a_distribution_without_its_metadata_is_found() {
    let without = |forge: Forge, name: &str| {
        forge
            .layer()
            .file(&format!("var/task/a-1.0.dist-info/.wh.{name}"), "")
    };
    let image = || pure(aws("app.handler"), "a", "");
    insta::assert_snapshot!(told(without(image(), "METADATA")), @"LMB077 warning 1 var/task/a-1.0.dist-info: a 1.0 has no `METADATA`: pip skips it, and `importlib.metadata` does not know its version");
    assert_eq!(told(without(image(), "RECORD")), "");
    assert_eq!(told(without(image(), "WHEEL")), "");
    // As Debian and conda install, and other programs.
    let directory = "var/task/b-1.0.dist-info";
    let image = aws("app.handler")
        .file(&format!("{directory}/METADATA"), "Name: b\nVersion: 1.0\n")
        .file(&format!("{directory}/INSTALLER"), "debian\n")
        .file(
            "var/task/c-1.0.egg-info/PKG-INFO",
            "Name: c\nVersion: 1.0\n",
        );
    assert_eq!(told(image), "");
    let base = Forge::new()
        .file("var/task/a-1.0.dist-info/RECORD", "")
        .layer();
    assert_eq!(told(base), "");
}

#[test]
fn records_that_are_not_true_are_found() {
    let missing = pure(aws("app.handler"), "a", "")
        .layer()
        .file("var/task/.wh.a.py", "");
    let changed = pure(aws("app.handler"), "a", "").file("var/task/a.py", "x = 2\n");
    let over = pure(aws("app.handler"), "a", "")
        .layer()
        .file("var/task/a.py", "x = 2\n");
    let found = [missing, changed, over].map(told);
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn of_a_record_that_is_too_long_nothing_is_told() {
    let image = |length: usize| {
        let row = "__pycache__/one_of_many.cpython-312.pyc,,\n";
        let rows = row.repeat(length / row.len());
        let record = format!("{rows}gone.py,sha256=x,1\nhelper.py,,\n");
        aws("app.handler")
            .file(
                "var/task/app.py",
                "import helper\ndef handler(a, b): pass\n",
            )
            .file("var/task/helper.py", "import nowhere\n")
            .dir("var/task/a-1.0.dist-info")
            .file(
                "var/task/a-1.0.dist-info/METADATA",
                "Name: a\nVersion: 1.0\n",
            )
            .file("var/task/a-1.0.dist-info/RECORD", record)
            .findings()
    };
    insta::assert_snapshot!(image(5 << 20), @"LMB077 warning 1 var/task/gone.py: a 1.0 has no file here");
    insta::assert_snapshot!(image(17 << 20), @"LMB072 note 1 var/task/a-1.0.dist-info/RECORD: it is too long, or its layer has too many of its kind; what it says is not checked");
}

#[test]
fn a_module_path_may_be_a_link() {
    let mut image = Forge::new()
        .program("usr/local/bin/python3.12", "")
        .layer()
        .link("app", "srv/app")
        .file(
            "srv/app/a-1.0.dist-info/METADATA",
            "Name: a\nVersion: 1.0\nRequires-Dist: gone\n",
        );
    let python = "/usr/local/bin/python3.12";
    image.run = json!({"Entrypoint": [python, "-m", "awslambdaric"], "Cmd": ["app.handler"], "WorkingDir": "/app"});
    insta::assert_snapshot!(told(image), @"LMB078 warning 1 srv/app/a-1.0.dist-info: a 1.0 requires `gone`, and it is not in the image");
}

#[test]
fn texts_that_may_be_data_are_missed() {
    let image = |row: &str| {
        let record = format!("a.py,,\n{row},sha256=x,1\n");
        pure(aws("app.handler"), "a", "").file("var/task/a-1.0.dist-info/RECORD", record)
    };
    for row in [
        "a/LICENSE.txt",
        "a/readme.txt",
        "a-1.0.dist-info/top_level.txt",
    ] {
        assert_eq!(told(image(row)), "", "{row}");
    }
    assert_eq!(
        told(image("a/schema.txt")),
        "LMB077 warning 1 var/task/a/schema.txt: a 1.0 has no file here"
    );
}

#[test]
fn what_requirements_lack_is_found() {
    let fields = "Requires-Python: <3.12\nRequires-Dist: gone>=2\nRequires-Dist: b<1\n";
    let image = pure(pure(aws("app.handler"), "a", fields), "b", "");
    insta::assert_snapshot!(told(image));
}

#[test]
fn the_runtime_finds_its_own_first() {
    let image = |own: &str| {
        let image = aws("app.handler")
            .file(
                "var/runtime/client-1.0.dist-info/METADATA",
                "Name: client\nVersion: 1.0\nRequires-Dist: b>=2\n",
            )
            .file(
                "var/task/b-1.0.dist-info/METADATA",
                "Name: b\nVersion: 1.0\n",
            );
        if own.is_empty() {
            return image;
        }
        image.file("var/runtime/b-2.0.dist-info/METADATA", own)
    };
    assert_eq!(told(image("Name: b\nVersion: 2.0\n")), "");
    insta::assert_snapshot!(told(image("")), @"LMB078 warning 1 var/runtime/client-1.0.dist-info: client 1.0 requires `b>=2`, and version 1.0 is in the image");
}

#[test]
fn a_requirement_that_is_repeated_is_told_once() {
    let fields = "Requires-Dist: gone\n".repeat(200_000);
    insta::assert_snapshot!(told(pure(aws("app.handler"), "a", &fields)), @"LMB078 warning 1 var/task/a-1.0.dist-info: a 1.0 requires `gone`, and it is not in the image");
}

#[test]
fn requirements_that_are_not_there_are_one_finding() {
    let fields = "Requires-Dist: b\nRequires-Dist: c>=1\nRequires-Dist: d\n";
    let image = pure(aws("app.handler"), "a", fields);
    insta::assert_snapshot!(told(image), @"LMB078 warning 1 var/task/a-1.0.dist-info: a 1.0 requires `b`, `c>=1`, `d`, and they are not in the image");
    let many: Vec<_> = (1..=12)
        .map(|number| format!("Requires-Dist: g{number}\n"))
        .collect();
    let image = pure(aws("app.handler"), "a", &many.concat());
    insta::assert_snapshot!(told(image), @"LMB078 warning 1 var/task/a-1.0.dist-info: a 1.0 requires `g1`, `g2`, `g3`, `g4`, `g5`, `g6`, `g7`, `g8`, `g9`, `g10` and 2 more, and they are not in the image");
}

#[test]
fn two_versions_in_a_directory_are_one_finding() {
    let image = pure(aws("app.handler"), "a", "Requires-Dist: gone\n");
    let image = install(image, "a", "2.0", "", "py3-none-any");
    insta::assert_snapshot!(told(image));
}

fn listed(forge: Forge) -> String {
    let image = forge.subject();
    let all = installed(&image).into_iter();
    let lines = all.map(|one| {
        let files = one.files.into_iter().collect::<Vec<_>>();
        format!(
            "{} {} {} {}",
            one.name,
            one.version,
            one.info,
            files.join(" ")
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What is there is listed, whether Python would look there or not.
#[test]
fn all_that_is_installed_is_listed() {
    let fill = |image: Forge| {
        let info = |version: &str| format!("Name: Some.Thing\nVersion: {version}\n");
        let image = [
            "var/task",
            "var/runtime",
            "opt/python",
            "opt/python/lib/python3.12/site-packages",
            "srv/venv/lib/python3.12/site-packages",
            "usr/lib/python3/dist-packages",
            "srv/other",
            "var/task/pip/_vendor",
        ]
        .iter()
        .zip(1..)
        .fold(image, |image, (directory, number)| {
            let info = info(&number.to_string());
            let path = format!("{directory}/some_thing-{number}.dist-info/METADATA");
            image.file(&path, info)
        });
        image
            .file(
                "usr/lib/python3/dist-packages/one-1.0-py3.9.egg-info",
                "Name: one\nVersion: 1.0\n",
            )
            .file(
                "usr/lib/python3/dist-packages/two.egg-info/PKG-INFO",
                "Name: two\n",
            )
            .file(
                "usr/lib/python3/dist-packages/two.egg-info/installed-files.txt",
                "../two.py\nPKG-INFO\n",
            )
            .file("var/task/gone-1.dist-info/METADATA", "Name: gone\n")
            .layer()
            .file("var/task/gone-1.dist-info/.wh.METADATA", "")
    };
    let lambdas = listed(fill(aws("app.handler")));
    insta::assert_snapshot!(lambdas);
    let mut lines: Vec<_> = lambdas.lines().collect();
    lines.sort_unstable();
    for run in [
        json!({"Entrypoint": ["/var/task/run"], "WorkingDir": "/opt"}),
        json!({"Entrypoint": ["/usr/bin/node"], "Cmd": ["a", "b"]}),
        json!({}),
    ] {
        let mut image = aws("app.handler");
        image.run = run.clone();
        let others = listed(fill(image));
        let mut others: Vec<_> = others.lines().collect();
        others.sort_unstable();
        assert_eq!(others, lines, "{run}");
    }
    let own = Forge::new().file("srv/app/a-1.dist-info/METADATA", "Name: a\nVersion: 1\n");
    let mut image = own.link("app", "srv/app");
    image.run = json!({"Entrypoint": ["/app/run"], "WorkingDir": "/app"});
    assert_eq!(listed(image), "a 1 srv/app/a-1.dist-info ");
}

#[test]
fn lines_that_continue_a_field_are_none_themselves() {
    let text = "Name: a\r\nLicense: Copyright: me\n        License: MIT\n        \n\tName: b\nlicense:  BSD \nLicense:\n  text\nno field\n Name: c\nVersion: 1";
    assert_eq!(fields(text, "Name").collect::<Vec<_>>(), ["a"]);
    let licences = fields(text, "License").collect::<Vec<_>>();
    assert_eq!(licences, ["Copyright: me", "BSD", ""]);
    let whole: Vec<_> = values(text, "License").collect();
    let long = "Copyright: me\n        License: MIT\n        \n\tName: b";
    assert_eq!(whole, [long, "BSD", "\n  text"]);
    assert_eq!(fields(text, "Version").collect::<Vec<_>>(), ["1"]);
    assert_eq!(fields("", "Version").next(), None);
}
