//! Spliced layers as others read them: every decoder of gzip and every reader of tar that people have
//! between a registry and a running function, and the same tar from the path that splices nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::image::Image;
use crate::support::index::Index;
use crate::support::is_root;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Project;
use crate::support::wheel::Wheel;

/// Text that deflate makes something of, other text for each seed.
fn text(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut word = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 20
    };
    let words = std::iter::repeat_with(move || format!("{} ", word() % 700));
    words.flat_map(String::into_bytes).take(length).collect()
}

/// A wheel of small files and of large ones, both stored and deflated; streams end at any bit.
fn wheel() -> (Wheel, BTreeMap<String, Vec<u8>>) {
    let mut files = BTreeMap::new();
    for number in 0..60 {
        let size = [0, 1, 511, 512, 16_383, 16_384, 70_001, 400_007][number % 8] + number / 8;
        let seed = u32::try_from(number).unwrap();
        files.insert(format!("demo/d{}/f{number}", number % 7), text(size, seed));
    }
    let mut wheel = Wheel::tagged("demo", "1.0", "py3-none-any");
    for (number, (path, contents)) in files.iter().enumerate() {
        let declared = u32::try_from(contents.len()).unwrap();
        wheel = match number % 5 {
            0 => wheel.member(path, contents.clone()),
            _ => wheel.deflated(path, contents.clone(), declared),
        };
    }
    (wheel, files)
}

/// Builds with the wheel, and gives the place of the layer that has it and its entry in the metadata.
fn build(project: &Project, wheel: &Wheel, flags: &[&str]) -> (PathBuf, Value) {
    let index = Index::start();
    index.serve(wheel);
    project.file("requirements.txt", "demo\n");
    let base = Base::aws("3.12").reference();
    let metadata = project.beside("metadata.json");
    let metadata_file = metadata.display().to_string();
    let build = [
        "build",
        "--base",
        &base,
        "-t",
        "some:1",
        "--metadata-file",
        &metadata_file,
    ];
    project
        .lambimg(build.iter().chain(flags))
        .index(&index.url())
        .succeed();
    let document: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    let layers = document["layers"].as_array().unwrap();
    let has_demo = |layer: &&Value| layer["what"].as_str().unwrap().contains("demo 1.0");
    let layer = layers.iter().find(has_demo).unwrap().clone();
    let hex = &layer["digest"].as_str().unwrap()[7..];
    (project.cache().join("blobs/sha256").join(hex), layer)
}

#[test]
fn decoders_of_gzip_all_give_the_tar() {
    let project = Project::with_handler();
    let (wheel, _) = wheel();
    let (blob, layer) = build(&project, &wheel, &[]);
    let python = program("python3", "python3");
    let zlib = "import sys, zlib; d = zlib.decompressobj(31); b = d.decompress(sys.stdin.buffer.read());\
                assert d.eof and not d.unused_data; sys.stdout.buffer.write(b)";
    let gzip =
        "import gzip, sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    let decoders: [(PathBuf, &[&str]); 5] = [
        (program("gzip", "gzip"), &["-dc"]),
        (program("pigz", "pigz"), &["-dc"]),
        (program("libdeflate-gunzip", "libdeflate-tools"), &["-c"]),
        (python.clone(), &["-c", zlib]),
        (python, &["-c", gzip]),
    ];
    for (decoder, arguments) in decoders {
        let mut command = Command::new(&decoder);
        command
            .args(arguments)
            .stdin(fs::File::open(&blob).unwrap());
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{}", decoder.display());
        assert_eq!(
            digest(&output.stdout),
            layer["diff_id"],
            "{}",
            decoder.display()
        );
    }
    let mut test = Command::new(program("gzip", "gzip"));
    let test = test.arg("-t").stdin(fs::File::open(&blob).unwrap());
    assert!(test.status().unwrap().success());
}

#[test]
fn readers_of_tar_all_give_the_files() {
    let project = Project::with_handler();
    let (wheel, files) = wheel();
    let directory = project.beside("layout");
    let output = format!("oci:{}:some", directory.display());
    let (blob, _) = build(&project, &wheel, &["-o", &output]);
    Image::in_directory(&directory).assert_accepted_by_lambda();
    let unpack = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])";
    let python = program("python3", "python3");
    let readers: [(&str, PathBuf, &[&str]); 3] = [
        ("gnu", program("tar", "tar"), &["-xzf", "BLOB", "-C", "TO"]),
        (
            "bsd",
            program("bsdtar", "libarchive-tools"),
            &["-xf", "BLOB", "-C", "TO"],
        ),
        ("python", python, &["-c", unpack, "BLOB", "TO"]),
    ];
    for (name, reader, arguments) in readers {
        let to = project.beside(name);
        fs::create_dir(&to).unwrap();
        let mut command = Command::new(reader);
        command.args(arguments.iter().map(|argument| match *argument {
            "BLOB" => blob.as_os_str(),
            "TO" => to.as_os_str(),
            other => other.as_ref(),
        }));
        run(&mut command);
        assert_files(&to, &files, name);
    }
    // What skopeo and umoci read is all that the registries' and engines' own library reads.
    let copy = format!("dir:{}", project.beside("copy").display());
    let mut skopeo = Command::new(program("skopeo", "skopeo"));
    run(skopeo.args([
        "copy",
        "--insecure-policy",
        "--dest-decompress",
        &output,
        &copy,
    ]));
    let bundle = project.beside("bundle");
    let mut umoci = Command::new(program("umoci", "umoci"));
    umoci.args(["unpack", "--keep-dirlinks", "--image"]);
    umoci.arg(format!("{}:some", directory.display()));
    if !is_root() {
        umoci.arg("--rootless");
    }
    run(umoci.arg(&bundle));
    assert_files(&bundle.join("rootfs"), &files, "umoci");
}

fn assert_files(root: &Path, files: &BTreeMap<String, Vec<u8>>, reader: &str) {
    for (path, contents) in files {
        let there = fs::read(root.join("var/task").join(path)).unwrap();
        assert!(there == *contents, "{reader}: {path}");
    }
}

#[test]
fn what_is_spliced_is_the_tar_that_is_compressed_anew() {
    let project = Project::with_handler();
    let (wheel, _) = wheel();
    let (_, spliced) = build(&project, &wheel, &[]);
    let (_, anew) = build(&project, &wheel, &["--recompress"]);
    assert_eq!(spliced["diff_id"], anew["diff_id"]);
    assert_ne!(spliced["digest"], anew["digest"]);
    let (_, again) = build(&project, &wheel, &["--no-cache"]);
    assert_eq!(spliced, again);
}
