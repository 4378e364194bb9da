//! Images of little files, each wrong in one way, and their innocent cousins.

use serde_json::json;

use crate::lambda::check::check;
use crate::lambda::check::subject::{Python, Subject};
use crate::lambda::check::testing::{Forge, line};
use crate::python::elf::testing::Made;

const LIBC: Made<'_> = Made {
    machine: 62,
    soname: "libc.so.6",
    needed: &["ld-linux-x86-64.so.2"],
    asks: &[],
    defines: &["GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.34", "GLIBC_PRIVATE"],
    rpath: "",
    runpath: "",
    interpreter: "",
};

/// A file that needs the C library in this version.
fn needs(versions: &[&str]) -> Vec<u8> {
    Made {
        needed: &["libc.so.6"],
        asks: &[("libc.so.6", versions)],
        ..Made::default()
    }
    .bytes()
}

/// A file that needs these libraries and no version of them.
fn needing<'a>(needed: &'a [&'a str]) -> Made<'a> {
    Made {
        needed,
        ..Made::default()
    }
}

/// A base as Lambda's, without a system.
fn empty_base() -> Forge {
    let mut image = Forge::new()
        .file("var/lang/bin/python3.12", "no program")
        .file("var/runtime/bootstrap", "#!/bin/bash")
        .file("lambda-entrypoint.sh", "#!/bin/sh");
    image.run = json!({
        "Entrypoint": ["/lambda-entrypoint.sh"],
        "Cmd": ["app.handler"],
        "WorkingDir": "/var/task",
        "Env": [
            "LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/task:/var/task/lib:/opt/lib",
            "PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "LAMBDA_RUNTIME_DIR=/var/runtime",
        ],
    });
    image
}

/// A base with a C library of 2.34 and a C++ one, and an empty layer upon it.
fn base() -> Forge {
    let cxx = Made {
        soname: "libstdc++.so.6",
        needed: &["libc.so.6"],
        defines: &[
            "GLIBCXX_3.4",
            "GLIBCXX_3.4.9",
            "GLIBCXX_3.4.29",
            "CXXABI_1.3.13",
        ],
        ..Made::default()
    };
    empty_base()
        .link("lib64", "usr/lib64")
        .program("usr/lib64/libc.so.6", LIBC.bytes())
        .file("usr/lib64/ld-linux-x86-64.so.2", needing(&[]).bytes())
        .link("usr/lib64/libstdc++.so.6", "libstdc++.so.6.0.29")
        .file("usr/lib64/libstdc++.so.6.0.29", cxx.bytes())
        .layer()
}

fn subject(image: Forge) -> Subject {
    let mut subject = image.subject();
    subject.python = Some(Python {
        version: "3.12".parse().unwrap(),
        interpreter: "var/lang/bin/python3.12".to_owned(),
        path: vec!["var/task".to_owned(), "opt/python".to_owned()],
        standard: Vec::new(),
    });
    subject
}

/// What the rules of this file find.
fn findings(image: Forge) -> String {
    let findings = check(&subject(image)).into_iter();
    let own = findings.filter(|finding| ("LMB066".."LMB076").contains(&finding.rule.id));
    own.map(|finding| line(&finding))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn files_for_another_processor_are_found() {
    let other = Made {
        machine: 183,
        ..Made::default()
    };
    let narrow = Made {
        machine: 3,
        ..Made::default()
    };
    let image = base()
        .file(
            "var/task/some/_one.cpython-312-aarch64-linux-gnu.so",
            other.bytes(),
        )
        .file("var/task/some/two.abi3.so", other.bytes())
        .file("var/task/some.libs/libthree.so.1", other.bytes())
        .file("var/task/native.so", narrow.bytes())
        .program("opt/bin/tool", other.bytes());
    insta::assert_snapshot!(findings(image), @"
    LMB066 error 1 var/task/native.so: it is for i686, and the image is for x86_64
    LMB066 error 1 opt/bin/tool: it is for aarch64, and the image is for x86_64
    LMB066 error 1 var/task/some.libs/libthree.so.1: it is for aarch64, and the image is for x86_64 (so it is with 2 more files of `some`)
    ");
}

#[test]
fn files_that_are_for_several_processors_are_innocent() {
    let other = |machine| {
        Made {
            machine,
            ..Made::default()
        }
        .bytes()
    };
    let image = base()
        .file("var/task/debug/attach_linux_x86.so", other(3))
        .file("var/task/debug/attach_linux_amd64.so", other(62))
        .file("var/task/tool/linux-arm64/libtool.so", other(183))
        .program("var/task/tool/emulator-aarch64", other(183))
        .file("var/task/kernels/one.cubin", other(190))
        .program("var/task/kernels/two.o", other(247))
        .program("opt/extensions/other", other(183));
    assert_eq!(findings(image), "");
}

#[test]
fn a_newer_c_library_is_found() {
    let image = base()
        .file(
            "var/task/some/old.abi3.so",
            needs(&["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.99?"]),
        )
        .file(
            "var/task/some/new.abi3.so",
            needs(&["GLIBC_2.38", "GLIBC_2.39"]),
        )
        .file("var/task/some/also.abi3.so", needs(&["GLIBC_2.38"]))
        .file("var/task/other.so", needs(&["GLIBC_2.35"]));
    insta::assert_snapshot!(findings(image), @"
    LMB067 error 1 var/task/other.so: it needs `GLIBC_2.35` of `libc.so.6`, which is not in the base's glibc 2.34
    LMB067 error 1 var/task/some/new.abi3.so: it needs `GLIBC_2.39` of `libc.so.6`, which is not in the base's glibc 2.34 (so it is with 1 more file of `some`)
    ");
}

#[test]
fn versions_below_the_newest_are_there() {
    let cxx = Made {
        needed: &["libstdc++.so.6"],
        asks: &[(
            "libstdc++.so.6",
            &["GLIBCXX_3.4.21", "CXXABI_1.3.9", "CXXABI_1.3"],
        )],
        ..Made::default()
    };
    let image = base()
        .file(
            "var/task/some/old.abi3.so",
            needs(&["GLIBC_2.3.4", "GLIBC_2.14", "GLIBC_2.33"]),
        )
        .file("var/task/some/cxx.abi3.so", cxx.bytes());
    assert_eq!(findings(image), "");
    let image = base().file("var/task/odd.abi3.so", needs(&["GLIBC_ABI_DT_RELR"]));
    assert!(findings(image).contains("`GLIBC_ABI_DT_RELR`"));
}

#[test]
fn without_a_system_lambdas_own_version_counts() {
    let image = || {
        empty_base()
            .layer()
            .file("var/task/a.abi3.so", needs(&["GLIBC_2.34"]))
    };
    assert_eq!(findings(image()), "");
    let image = image().file("var/task/b.abi3.so", needs(&["GLIBC_2.35"]));
    insta::assert_snapshot!(findings(image), @"LMB067 error 1 var/task/b.abi3.so: it needs `GLIBC_2.35` of `libc.so.6`, which is not in the base's glibc 2.34");
    let mut image = empty_base().layer();
    image.run["Env"] = json!([]);
    let image = image.file("var/task/b.abi3.so", needs(&["GLIBC_2.35"]));
    assert_eq!(findings(image), "");
}

#[test]
fn a_newer_version_of_another_library_is_found() {
    let cxx = |versions: &[&str]| {
        Made {
            needed: &["libstdc++.so.6"],
            asks: &[("libstdc++.so.6", versions)],
            ..Made::default()
        }
        .bytes()
    };
    let image = base()
        .file(
            "var/task/old.abi3.so",
            cxx(&["GLIBCXX_3.4.9", "CXXABI_1.3.13"]),
        )
        .file(
            "var/task/new.abi3.so",
            cxx(&["GLIBCXX_3.4.30", "GLIBCXX_3.4.9"]),
        );
    insta::assert_snapshot!(findings(image), @"LMB068 error 1 var/task/new.abi3.so: it needs `GLIBCXX_3.4.30` of `libstdc++.so.6`, which is not in the image's `usr/lib64/libstdc++.so.6.0.29`, whose newest is `GLIBCXX_3.4.29`");
    // The newer one is brought along; as RUNPATH it would come after `LD_LIBRARY_PATH`, which has the old one.
    let newer = Made {
        soname: "libstdc++.so.6",
        defines: &["GLIBCXX_3.4.30", "GLIBCXX_3.4.9"],
        ..Made::default()
    };
    let with = Made {
        needed: &["libstdc++.so.6"],
        asks: &[("libstdc++.so.6", &["GLIBCXX_3.4.30"])],
        rpath: "$ORIGIN/some.libs",
        ..Made::default()
    };
    let image = base()
        .file("var/task/new.abi3.so", with.bytes())
        .file("var/task/some.libs/libstdc++.so.6", newer.bytes());
    assert_eq!(findings(image), "");
}

#[test]
fn a_library_that_is_missing_is_found() {
    let image = base()
        .file(
            "var/task/some/_one.abi3.so",
            needing(&["libone-1a.so.1", "libc.so.6"]).bytes(),
        )
        .file(
            "var/task/some/_two.abi3.so",
            needing(&["libone-1a.so.1"]).bytes(),
        )
        .program(
            "opt/bin/tool",
            Made {
                interpreter: "/lib64/ld-linux-x86-64.so.2",
                ..needing(&["libtool.so"])
            }
            .bytes(),
        )
        .file(
            "var/task/some/libplugin.so",
            needing(&["libcuda.so.1"]).bytes(),
        )
        .file(
            "var/task/some/libother.so",
            needing(&["libcudnn.so.9"]).bytes(),
        );
    insta::assert_snapshot!(findings(image), @"
    LMB069 error 1 opt/bin/tool: it needs `libtool.so`, which nothing in the image provides
    LMB069 error 1 var/task/some/_one.abi3.so: it needs `libone-1a.so.1`, which nothing in the image provides (so it is with 1 more file of `some`)
    LMB069 note 1 var/task/some/libother.so: it needs `libcudnn.so.9`, which nothing in the image provides (so it is with 1 more file of `some`)
    ");
}

#[test]
fn the_root_may_be_where_modules_are() {
    let file = needing(&["libone.so.1"]).bytes();
    let mut image = subject(base().file("some/_one.abi3.so", file));
    image.python.as_mut().unwrap().path = vec![String::new()];
    let findings = check(&image).into_iter();
    let own = findings.filter(|finding| finding.rule.id == "LMB069");
    let own: Vec<_> = own.map(|finding| line(&finding)).collect();
    insta::assert_snapshot!(own.join("\n"), @"LMB069 error 1 some/_one.abi3.so: it needs `libone.so.1`, which nothing in the image provides");
}

#[test]
fn libraries_are_found_as_the_loader_finds_them() {
    let rpath = Made {
        rpath: "${ORIGIN}/../some.libs:/nowhere",
        ..needing(&["libone.so.1"])
    };
    let own = Made {
        runpath: "/opt/$LIB",
        ..needing(&["libfour.so"])
    };
    let image = base()
        .file("var/task/some/_one.abi3.so", rpath.bytes())
        // It has no path of its own, and needs its neighbour.
        .file(
            "var/task/some.libs/libone.so.1",
            needing(&["libtwo.so.2"]).bytes(),
        )
        .file(
            "var/task/some.libs/libtwo.so.2",
            needing(&["libthree.so.3"]).bytes(),
        )
        .link("var/task/lib/libthree.so.3", "../three/libthree.so.3.1")
        .file("var/task/three/libthree.so.3.1", needing(&[]).bytes())
        .file("opt/lib64/libfour.so", needing(&[]).bytes())
        .file("var/task/own.abi3.so", own.bytes());
    assert_eq!(findings(image), "");
}

#[test]
fn a_library_for_another_processor_is_passed_over() {
    let other = Made {
        machine: 183,
        ..Made::default()
    };
    let needs = needing(&["libone.so.1"]).bytes();
    let image = || {
        base()
            .file("var/task/_one.abi3.so", &needs)
            .file("var/task/libone.so.1", other.bytes())
    };
    let image_with = image().file("opt/lib/libone.so.1", needing(&[]).bytes());
    let with = findings(image_with);
    assert_eq!(findings(image()), with, "the other processor explains it");
    insta::assert_snapshot!(with, @"LMB066 error 1 var/task/libone.so.1: it is for aarch64, and the image is for x86_64");
}

#[test]
fn a_library_that_is_elsewhere_is_told_with_its_place() {
    let image = base()
        .file("var/task/_one.abi3.so", needing(&["libone.so.1"]).bytes())
        .file("opt/other/libone.so.1", needing(&[]).bytes());
    insta::assert_snapshot!(findings(image), @"LMB069 error 1 var/task/_one.abi3.so: it needs `libone.so.1`, which the loader does not find; `opt/other/libone.so.1` has that name, if something loads it first");
    let image = base()
        .file("var/task/vision/_C.so", needing(&["libtorch.so"]).bytes())
        .file("var/task/torch/lib/libtorch.so", needing(&[]).bytes())
        .file(
            "var/task/torch/_C.abi3.so",
            Made {
                rpath: "$ORIGIN/lib",
                ..needing(&["libtorch.so"])
            }
            .bytes(),
        );
    insta::assert_snapshot!(findings(image), @"LMB069 note 1 var/task/vision/_C.so: it needs `libtorch.so`, which the loader does not find; `var/task/torch/lib/libtorch.so` has that name, if something loads it first");
}

#[test]
fn a_library_off_the_path_of_its_own_package_is_found() {
    let module = needing(&["libin.so.1"]).bytes();
    let library = Made {
        soname: "libin.so.1",
        ..needing(&[])
    }
    .bytes();
    let of = |module_at: &str, library_at: &str, record: Option<String>| {
        let mut image = base()
            .file(&format!("var/task/{module_at}"), &module)
            .file(&format!("var/task/{library_at}"), &library);
        if let Some(record) = record {
            image = image.file("var/task/pk-1.dist-info/RECORD", record);
        }
        findings(image)
    };
    let unrecorded = [
        of("pk/_m.abi3.so", "pk.libs/libin.so.1", None),
        of("pk/_m.abi3.so", "pk/lib/libin.so.1", None),
        of("pk/_m.abi3.so", "pk/libin.so.1", None),
        of("pk/_m.abi3.so", "vendor/libin.so.1", None),
        // The name inside the file is not what the loader looks for.
        of("pk/_m.abi3.so", "pk/libin.so.2", None),
    ];
    insta::assert_snapshot!(unrecorded.join("\n"), @"
    LMB069 error 1 var/task/pk/_m.abi3.so: it needs `libin.so.1`, which the loader does not find; `var/task/pk.libs/libin.so.1` has that name, if something loads it first
    LMB069 error 1 var/task/pk/_m.abi3.so: it needs `libin.so.1`, which the loader does not find; `var/task/pk/lib/libin.so.1` has that name, if something loads it first
    LMB069 error 1 var/task/pk/_m.abi3.so: it needs `libin.so.1`, which the loader does not find; `var/task/pk/libin.so.1` has that name, if something loads it first
    LMB069 error 1 var/task/pk/_m.abi3.so: it needs `libin.so.1`, which the loader does not find; `var/task/vendor/libin.so.1` has that name, if something loads it first
    LMB069 error 1 var/task/pk/_m.abi3.so: it needs `libin.so.1`, which nothing in the image provides
    ");
    let record = "pk/_m.abi3.so,,\npk.libs/libin.so.1,,\n".to_owned();
    let recorded = of("pk/_m.abi3.so", "pk.libs/libin.so.1", Some(record));
    insta::assert_snapshot!(recorded, @"LMB069 warning 1 var/task/pk/_m.abi3.so: it needs `libin.so.1`, which the loader does not find; `var/task/pk.libs/libin.so.1` has that name, if something loads it first");
}

#[test]
fn where_all_is_one_layer_the_systems_libraries_are_its_own() {
    let needs = needing(&["libtk.so.1"]).bytes();
    let image = empty_base()
        .file("var/lang/lib/python3.12/lib-dynload/_tk.abi3.so", &needs)
        .file("var/task/_m.abi3.so", &needs);
    insta::assert_snapshot!(findings(image), @"LMB069 error 0 var/task/_m.abi3.so: it needs `libtk.so.1`, which nothing in the image provides");
}

#[test]
fn a_link_in_place_of_a_library_is_told_once() {
    let image = base()
        .file("var/task/_m.abi3.so", needing(&["libin.so.1"]).bytes())
        .link("var/task/lib/libin.so.1", "libin.so.1.0")
        .link("var/task/lib/libother.so.1", "libother.so.1.0");
    let found = check(&subject(image)).into_iter();
    let found = found.filter(|finding| ["LMB046", "LMB069"].contains(&finding.rule.id));
    let found: Vec<_> = found.map(|finding| line(&finding)).collect();
    insta::assert_snapshot!(found.join("\n"), @"
    LMB069 error 1 var/task/_m.abi3.so: it needs `libin.so.1`, which nothing in the image provides
    LMB046 warning 1 var/task/lib/libother.so.1: the symbolic link leads to `libother.so.1.0`, where nothing is
    ");
}

#[test]
fn libraries_on_the_users_search_path_want_theirs() {
    let needs = || needing(&["libgone.so.1"]).bytes();
    let image = base()
        .file("opt/lib/libone.so", needs())
        .file("var/task/lib/libtwo.so", needs())
        .file("var/task/libthree.so", needs())
        .file("var/task/libfour.so", needs())
        .file("var/task/four-1.dist-info/RECORD", "libfour.so,,\n");
    insta::assert_snapshot!(findings(image), @"
    LMB069 warning 1 var/task/lib/libtwo.so: it needs `libgone.so.1`, which nothing in the image provides
    LMB069 warning 1 var/task/libthree.so: it needs `libgone.so.1`, which nothing in the image provides
    LMB069 warning 1 opt/lib/libone.so: it needs `libgone.so.1`, which nothing in the image provides
    LMB069 note 1 var/task/libfour.so: it needs `libgone.so.1`, which nothing in the image provides
    ");
}

#[test]
fn what_the_base_has_is_taken_for_there_where_it_cannot_be_seen() {
    let names = [
        "libc.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "libstdc++.so.6",
        "libz.so.1",
        "ld-linux-x86-64.so.2",
    ];
    let image = empty_base()
        .layer()
        .file("var/task/_one.abi3.so", needing(&names).bytes())
        .program(
            "var/task/bin/tool",
            Made {
                interpreter: "/lib64/ld-linux-x86-64.so.2",
                ..needing(&names)
            }
            .bytes(),
        );
    assert_eq!(findings(image), "");
    let image = empty_base().layer().file(
        "var/task/_one.abi3.so",
        needing(&["libgomp.so.1", "libm.so.6"]).bytes(),
    );
    insta::assert_snapshot!(findings(image), @"LMB069 error 1 var/task/_one.abi3.so: it needs `libgomp.so.1`, which nothing in the image provides");
}

#[test]
fn a_wheel_for_musl_has_its_own_words() {
    let image = base()
        .file(
            "var/task/some/_one.cpython-312-x86_64-linux-musl.so",
            needing(&["libc.musl-x86_64.so.1", "libgfortran-2.so"]).bytes(),
        )
        .file(
            "var/task/some/_two.cpython-312-x86_64-linux-musl.so",
            needing(&["libc.musl-x86_64.so.1"]).bytes(),
        );
    insta::assert_snapshot!(findings(image), @"LMB069 error 1 var/task/some/_one.cpython-312-x86_64-linux-musl.so: it needs musl's C library, `libc.musl-x86_64.so.1`, and the image's is glibc: it comes from a `musllinux` wheel (so it is with 1 more file of `some`)");
}

#[test]
fn a_program_without_its_loader_is_found() {
    let program = |interpreter| {
        Made {
            interpreter,
            ..needing(&[])
        }
        .bytes()
    };
    let image = base()
        // The rules of extensions look at that one.
        .program("opt/extensions/one", program("/lib/ld-musl-x86_64.so.1"))
        .program("opt/bin/one", program("/lib/ld-musl-x86_64.so.1"))
        .program("opt/bin/two", program("/lib64/ld-linux-x86-64.so.2"))
        .program("opt/bin/static", program(""))
        .program("var/task/some/tool", program("/lib/ld-musl-x86_64.so.1"));
    insta::assert_snapshot!(findings(image), @"LMB070 error 1 opt/bin/one: it is started by `/lib/ld-musl-x86_64.so.1`, which is not there");
    let image = base().program("var/task/one", program("/lib/ld-musl-x86_64.so.1"));
    insta::assert_snapshot!(findings(image), @"LMB070 error 1 var/task/one: it is started by `/lib/ld-musl-x86_64.so.1`, which is not there");
}

#[test]
fn modules_of_another_python_are_found() {
    let file = needing(&["libgone.so"]).bytes();
    let image = base()
        .file("var/task/some/_one.cpython-311-x86_64-linux-gnu.so", &file)
        .file("var/task/some/_two.cpython-311-x86_64-linux-gnu.so", &file)
        .file(
            "var/task/both/_one.cpython-311-x86_64-linux-gnu.so",
            needs(&[]),
        )
        .file(
            "var/task/both/_one.cpython-312-x86_64-linux-gnu.so",
            needs(&[]),
        )
        .file(
            "var/task/fall/back.cpython-39-x86_64-linux-gnu.so",
            needs(&[]),
        )
        .file("var/task/fall/back.py", "")
        .file("opt/other/_one.cpython-311-x86_64-linux-gnu.so", needs(&[]));
    insta::assert_snapshot!(findings(image), @"LMB071 warning 1 var/task/some/_one.cpython-311-x86_64-linux-gnu.so: it is for `cpython-311`, and the image's Python 3.12 imports `cpython-312` alone (so it is with 1 more file of `some`)");
    // Its own wheel says so, and other rules tell that; another's says nothing.
    let record = "some/_one.cpython-311-x86_64-linux-gnu.so,,\n";
    let image = base()
        .file(
            "var/task/some-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n",
        )
        .file("var/task/some-1.0.dist-info/RECORD", record)
        .file(
            "var/task/some/_one.cpython-311-x86_64-linux-gnu.so",
            needs(&[]),
        );
    assert_eq!(findings(image), "");
    let image = base()
        .file(
            "var/task/other-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nTag: cp311-abi3-linux_x86_64\n",
        )
        .file(
            "var/task/some/_one.cpython-311-x86_64-linux-gnu.so",
            needs(&[]),
        );
    assert!(findings(image).starts_with("LMB071 warning"));
}

#[test]
fn the_files_of_a_distribution_are_one_finding_wherever_they_are() {
    let other = Made {
        machine: 183,
        ..Made::default()
    };
    let files = ["SOME/_one.abi3.so", "some_other.libs/libtwo.so.1"];
    let record = files.map(|file| format!("{file},,\n")).concat();
    let mut image = base().file("var/task/some_other-1.0.dist-info/RECORD", record);
    for file in files {
        image = image.file(&format!("var/task/{file}"), other.bytes());
    }
    insta::assert_snapshot!(findings(image), @"LMB066 error 1 var/task/SOME/_one.abi3.so: it is for aarch64, and the image is for x86_64 (so it is with 1 more file of `some-other`)");
}

#[test]
fn a_wheel_for_another_processor_is_told_once() {
    let other = Made {
        machine: 183,
        ..Made::default()
    };
    let told = |file: &str, row: &str| {
        let info = "var/task/some-1.0.dist-info";
        let wheel = "Wheel-Version: 1.0\nTag: py3-none-manylinux_2_17_aarch64\n";
        let image = base()
            .program(file, other.bytes())
            .file(&format!("{info}/METADATA"), "Name: some\nVersion: 1.0\n")
            .file(&format!("{info}/WHEEL"), wheel)
            .file(&format!("{info}/RECORD"), format!("{row},,\n"));
        let findings = check(&subject(image)).into_iter();
        let own = findings.filter(|finding| ("LMB066".."LMB081").contains(&finding.rule.id));
        own.map(|finding| line(&finding)).collect::<Vec<_>>()
    };
    let library = "_some_data/libsome_arm64.so";
    let found = [
        told(&format!("var/task/{library}"), library),
        told("var/task/bin/some", "bin/some"),
        told("var/task/bin/some", "../../bin/some"),
    ];
    insta::assert_snapshot!(found.concat().join("\n"), @"
    LMB076 error 1 var/task/some-1.0.dist-info: some 1.0 is for aarch64, and the image is python 3.12, x86_64, glibc 2.34
    LMB066 error 1 var/task/bin/some: it is for aarch64, and the image is for x86_64
    LMB066 error 1 var/task/bin/some: it is for aarch64, and the image is for x86_64
    ");
}

#[test]
fn a_configuration_that_includes_itself_is_read_once() {
    let mut image = base();
    for number in 0..12 {
        let file = format!("etc/ld.so.conf.d/{number}.conf");
        image = image.file(&file, "include /etc/ld.so.conf.d/*.conf\n/opt/own\n");
    }
    let image = image
        .file("etc/ld.so.conf", "include ld.so.conf.d/*.conf\n")
        .file("opt/own/libone.so.1", needing(&[]).bytes())
        .file("var/task/_one.abi3.so", needing(&["libone.so.1"]).bytes());
    assert_eq!(findings(image), "");
}

/// So many would need more stack than there is, were each read by the one before.
#[test]
fn a_chain_of_configurations_has_an_end() {
    let mut image = base().file("etc/ld.so.conf", "include ld.so.conf.d/f0\n");
    for number in 0..8_000 {
        let text = format!("include ld.so.conf.d/f{}\n/opt/own\n", number + 1);
        image = image.file(&format!("etc/ld.so.conf.d/f{number}"), text);
    }
    let image = image
        .file("opt/own/libone.so.1", needing(&[]).bytes())
        .file("var/task/_one.abi3.so", needing(&["libone.so.1"]).bytes());
    assert_eq!(findings(image), "");
}

/// 6000 directories that are not there for each of 4000 libraries.
#[test]
fn search_paths_are_looked_at_once_for_a_file() {
    let needed: Vec<_> = (0..4000).map(|number| format!("l{number}")).collect();
    let needed: Vec<_> = needed.iter().map(String::as_str).collect();
    let mut rpath: Vec<_> = (0..2800).map(|number| format!("/{number:x}")).collect();
    rpath.push("/opt/own".to_owned());
    let file = Made {
        rpath: &rpath.join(":"),
        ..needing(&needed)
    };
    let mut image = base().file("opt/own/l0", needing(&[]).bytes());
    for number in 0..4 {
        image = image.file(&format!("var/task/_{number}.abi3.so"), file.bytes());
    }
    let found = findings(image);
    assert_eq!(found.lines().count(), 10);
    assert!(!found.contains("`l0`"), "{found}");
}

#[test]
fn what_files_need_is_found_out_once() {
    let needing = needing(&["libgone.so"]).bytes();
    let image = || subject(base().file("var/task/_one.abi3.so", &needing));
    let told = |image: &Subject| {
        let findings = check(image);
        let mut findings = findings.iter();
        findings.any(|finding| finding.rule.id == "LMB069")
    };
    assert!(told(&image()));
    let known = image();
    known.known.needs.set(None).unwrap();
    assert!(!told(&known));
}

/// To look for another module beside each would take hours.
#[test]
fn many_modules_of_another_python_are_looked_at_once() {
    let file = needing(&[]).bytes();
    let mut image = base();
    for number in 0..8_000 {
        let path = format!("var/task/m{number:05}.cpython-311-x86_64-linux-gnu.so");
        image = image.file(&path, &file);
    }
    let found = findings(image);
    insta::assert_snapshot!(found.lines().last().unwrap_or_default(), @"LMB071 warning 1 var/task/m00009.cpython-311-x86_64-linux-gnu.so: it is for `cpython-311`, and the image's Python 3.12 imports `cpython-312` alone, and 7990 more of the kind");
}

#[test]
fn a_damaged_file_is_told() {
    let mut file = needs(&["GLIBC_2.17"]);
    file.truncate(200);
    let image = base()
        .file("var/task/some/_one.abi3.so", file)
        .file("var/task/some/notes.txt", "\x7fELF");
    insta::assert_snapshot!(findings(image), @"LMB072 note 1 var/task/some/_one.abi3.so: it is damaged: Invalid ELF dynamic segment offset or size; what it needs is not checked");
}

#[test]
fn what_is_wrong_in_the_base_is_not_told() {
    let image = empty_base()
        .file("usr/lib/libodd.so", needing(&["libgone.so"]).bytes())
        .file("var/lang/lib/old.abi3.so", needs(&["GLIBC_2.99"]))
        .layer()
        .file("var/task/app.py", "");
    assert_eq!(findings(image), "");
}

#[test]
fn many_findings_are_folded() {
    let file = needing(&["libgone.so"]).bytes();
    let mut image = base();
    for number in 0..14 {
        image = image.file(&format!("var/task/m{number:02}.abi3.so"), &file);
    }
    let found = findings(image);
    assert_eq!(found.lines().count(), 10);
    insta::assert_snapshot!(found.lines().last().unwrap_or_default(), @"LMB069 error 1 var/task/m09.abi3.so: it needs `libgone.so`, which nothing in the image provides, and 4 more of the kind");
}

#[test]
fn files_of_other_systems_are_found() {
    let macho = b"\xcf\xfa\xed\xfe\x0c\0\0\x01\0\0\0\0\x08\0\0\0 and more";
    let fat = b"\xca\xfe\xba\xbe\0\0\0\x02\x01\0\0\x07\0\0\0\x03 and more";
    let windows = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0 and more";
    let of = |files: &[(&str, &[u8])]| {
        let files = files.iter();
        findings(files.fold(base(), |image, (path, bytes)| image.file(path, bytes)))
    };
    let found = [
        of(&[("var/task/_one.cpython-312-x86_64-linux-gnu.so", macho)]),
        of(&[("var/task/_one.cpython-312-darwin.so", macho)]),
        of(&[("var/task/one/lib/libone.so", fat)]),
        of(&[("opt/python/_one.so", windows)]),
        of(&[("var/task/one/a.so", macho), ("var/task/one/b.so", macho)]),
    ];
    insta::assert_snapshot!(found.join("\n"));
    for (number, magic) in [
        0xfeed_face_u32,
        0xfeed_facf,
        0xcefa_edfe,
        0xcffa_edfe,
        0xcafe_babe,
        0xcafe_babf,
        0xbeba_feca,
        0xbfba_feca,
    ]
    .into_iter()
    .enumerate()
    {
        let found = of(&[("var/task/_one.so", &magic.to_be_bytes())]);
        assert!(found.starts_with("LMB066 error"), "{number}");
    }
}

#[test]
fn files_of_other_systems_that_nothing_loads_are_innocent() {
    let macho = b"\xcf\xfa\xed\xfe\x0c\0\0\x01";
    let own = needing(&[]).bytes();
    let files: [(&str, &[u8]); 11] = [
        ("var/task/one/libone.dylib", macho),
        ("var/task/one/one.dll", b"MZ"),
        ("var/task/one/_one.pyd", b"MZ"),
        ("var/task/one/setup.exe", b"MZ"),
        ("var/task/one/darwin/libone.so", macho),
        ("var/task/one/bin/macos-arm64/libone.so", macho),
        ("srv/elsewhere/libone.so", macho),
        ("var/task/one/notes.so.txt", macho),
        // The one of this system is beside it, or a source.
        ("var/task/_two.cpython-312-darwin.so", macho),
        ("var/task/_two.cpython-312-x86_64-linux-gnu.so", &own),
        ("var/task/empty.so", b""),
    ];
    let image = files
        .iter()
        .fold(base(), |image, (path, bytes)| image.file(path, bytes));
    let image = image
        .file("var/task/three.cpython-312-darwin.so", macho)
        .file("var/task/three.py", "");
    assert_eq!(findings(image), "");
}

/// Its wheel's tags say the same.
#[test]
fn a_wheel_of_another_system_is_told_once() {
    let info = "var/task/one-1.0.dist-info";
    let module = "_one.cpython-312-darwin.so";
    let image = base()
        .file(&format!("var/task/{module}"), b"\xcf\xfa\xed\xfe")
        .file(&format!("{info}/METADATA"), "Name: one\nVersion: 1.0\n")
        .file(
            &format!("{info}/WHEEL"),
            "Tag: cp312-cp312-macosx_11_0_arm64\n",
        )
        .file(&format!("{info}/RECORD"), format!("{module},,\n"))
        .file("var/task/app.py", "def handler(event, context): pass\n");
    let told = image.findings_of("LMB050".."LMB090");
    insta::assert_snapshot!(told, @"LMB066 error 1 var/task/_one.cpython-312-darwin.so: it is for macOS, and the image is for Linux");
}
