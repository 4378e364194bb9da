//! `inspect`: what is in an image, told in text, as JSON and on a page that a browser shows without any network.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use crate::support::base::Base;
use crate::support::browser::Browser;
use crate::support::forge::Archive;
use crate::support::forge::Forge;
use crate::support::forge::OCI;
use crate::support::forge::Packing;
use crate::support::index::Index;
use crate::support::project::Project;
use crate::support::project::assert_said;
use crate::support::tools;
use crate::support::wheel::Wheel;

/// Names that would be markup, end a script, end a line of one, or be read from right to left.
const HOSTILE: [&str; 5] = [
    "var/task/<img src=x onerror=alert(1)>.txt",
    "var/task/a</script><script>alert(2)</script>",
    "var/task/<!--<script>\u{2028}\u{2029}{{data}}",
    "var/task/\u{202e}txt.exe",
    "var/task/a\u{200b}b\u{e0041}",
];

/// Wheels of PyPI, as `tests/tools.py` has installed them, go into a layer.
fn install(layer: &mut Archive, name: &str) {
    let root = tools().join("wheels").join(name);
    let mut files = Vec::new();
    list(&root, &mut files);
    files.sort();
    for file in files {
        let path = file.strip_prefix(&root).expect("it is below").to_str();
        let path = format!("var/task/{}", path.expect("wheels have plain names"));
        layer.file(&path, fs::read(&file).expect("a file of ours"));
    }
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("tests/tools.py installs it") {
        let path = entry.expect("a directory can be read").path();
        if path.is_dir() {
            list(&path, files);
        } else if !path.ends_with(".lock") {
            // uv's own lock of the directory is none of the wheel's.
            files.push(path);
        }
    }
}

/// An image of two packages of PyPI and a function with names by nobody's friend, beside the project.
fn forged(project: &Project) -> String {
    let mut forge = Forge::sound();
    forge.family = OCI;
    forge.run["Labels"] = json!({"team": "orders", "token": "b1946ac92492d2347c6235b4d2611184"});
    let variables = forge.run["Env"].as_array_mut().unwrap();
    variables.push(json!("DB_PASSWORD=correcthorsebattery"));
    variables.push(json!(format!("LONG={}", "x".repeat(200))));
    let mut packages = Archive::default();
    for name in ["cffi", "pycparser"] {
        install(&mut packages, name);
    }
    packages.file("var/task/data.bin", vec![0; 300_000]);
    forge.base.push(packages);
    // As large as that is, and packed to nearly nothing: it is hidden below and counts all the same.
    forge.function.file("var/task/data.bin", "now small");
    for name in HOSTILE {
        forge.function.file(name, "hostile");
    }
    forge.write_beside(project)
}

fn report(project: &Project, image: &str) -> Value {
    let told = project.lambimg(["inspect", image, "--format", "json"]);
    serde_json::from_str(&told.succeed()).unwrap()
}

#[test]
fn an_image_is_told_in_words() {
    let project = Project::new();
    let image = forged(&project);
    assert_said!(project.lambimg(["inspect", &image]).run());
    let all = project.lambimg(["inspect", "-v", &image]).succeed();
    assert!(!all.contains("the base's"), "{all}");
    assert!(!all.contains("correcthorse"), "{all}");
}

#[test]
fn an_image_is_told_as_json() {
    let project = Project::new();
    let image = forged(&project);
    let told = report(&project, &image);
    let packages = told["packages"].as_array().unwrap();
    let names: BTreeSet<_> = packages.iter().map(|one| one["name"].as_str()).collect();
    assert_eq!(names, [Some("cffi"), Some("pycparser")].into());
    for package in packages {
        assert_eq!(package["layer"], 3);
        assert!(package["unpacked"].as_u64() > package["packed"].as_u64());
        assert!(package["packed"].as_u64() > Some(10_000));
    }
    // What a package has on disk is what is told of it.
    let mut files = Vec::new();
    list(&tools().join("wheels/cffi"), &mut files);
    let sizes = files.iter().map(|file| fs::metadata(file).unwrap().len());
    let cffi = packages.iter().find(|one| one["name"] == "cffi").unwrap();
    let recorded = cffi["files"].as_u64().unwrap();
    assert_eq!(recorded, files.len() as u64, "{cffi}");
    assert_eq!(cffi["unpacked"], sizes.sum::<u64>());
    let layers = told["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    assert_eq!(layers[2]["hidden"]["unpacked"], 300_000);
    assert_eq!(layers[3]["hidden"]["unpacked"], 0);
    let sum = |key: &str| -> u64 {
        let sizes = layers.iter().map(|layer| layer[key].as_u64().unwrap());
        sizes.sum()
    };
    assert_eq!(told["packed"], sum("packed"));
    assert_eq!(told["unpacked"], sum("unpacked"));
    let variables = told["config"]["variables"].as_array().unwrap();
    let password = variables.iter().find(|one| one["name"] == "DB_PASSWORD");
    assert_eq!(password.unwrap()["value"], Value::Null);
    assert_eq!(
        told["config"]["labels"],
        json!({"team": "orders", "token": null})
    );
}

/// Words of a command with a secret each, in text, as JSON and on the page.
#[test]
fn a_command_is_told_without_its_secrets() {
    let project = Project::new();
    let mut forge = Forge::sound();
    forge.run["Entrypoint"] = json!(["/bin/sh", "-c", "API_KEY='hunter2' exec run"]);
    forge.run["Cmd"] = json!([
        "app.handler",
        "--token",
        "hunter2",
        "--password=hunter2",
        "postgres://app:hunter2@db/orders"
    ]);
    let image = forge.write_beside(&project);
    let text = project.lambimg(["inspect", &image]).succeed();
    let of_command = |line: &&str| line.starts_with("entry point") || line.starts_with("command");
    let lines: Vec<_> = text.lines().filter(of_command).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    entry point        /bin/sh -c API_KEY=… exec run
    command            app.handler --token … --password=… …
    ");
    let config = report(&project, &image)["config"].clone();
    let told = [&config["entry_point"], &config["command"]];
    insta::assert_snapshot!(json!(told).to_string(), @r#"[["/bin/sh","-c","API_KEY=… exec run"],["app.handler","--token","…","--password=…","…"]]"#);
    let page = project.beside("page.html");
    let html = ["inspect", "--html", page.to_str().unwrap(), &image];
    let shown = project.lambimg(html).succeed();
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("--token") && !page.contains("hunter2"));
    let checked = project.lambimg(["check", "--format", "json", &image]).run();
    assert!(checked.stdout.contains("LMB100"), "{}", checked.rendering());
    for told in [text, shown, checked.rendering()] {
        assert!(!told.contains("hunter2"), "{told}");
    }
}

/// A build of ours: what it left out, what its base is, and the same whether image or project is named.
#[test]
fn a_build_is_told_with_what_it_left_out() {
    let project = Project::with_handler();
    let index = Index::start();
    let one = Wheel::pure("one", "1.0")
        .member("one/tests/test_one.py", "x = 1\n")
        .member("one/tests/data.txt", "x");
    let two = Wheel::pure("two", "2.0").member("two/large.bin", vec![7; 200_000]);
    for wheel in [&one, &two] {
        index.serve(wheel);
    }
    project.file("requirements.txt", "one\ntwo\n");
    let base = Base::aws("3.12").reference();
    let flags = ["--base", &base, "--exclude-in-packages", "tests/"];
    let build = [&["build", "-t", "app:1"][..], &flags].concat();
    project.lambimg(build).index(&index.url()).succeed();
    let told = report(&project, "app:1");
    let packages = told["packages"].as_array().unwrap().iter();
    let mut of_one = packages.filter(|package| package["name"] == "one");
    assert_eq!(of_one.next().unwrap()["base"], false);
    assert_eq!(told["base"]["reference"], base);
    // What is written there is right, so only whoever built it knows what it lacks.
    assert_eq!(told["left_out"], Value::Null);
    let large = told["files"].as_array().unwrap().iter();
    let large = large.filter(|file| file["path"] == "var/task/two/large.bin");
    let large: Vec<_> = large.collect();
    assert_eq!(large.len(), 1);
    assert_eq!(large[0]["package"], "two");
    let what = told["layers"].as_array().unwrap().iter();
    let what = what.filter(|layer| layer["base"] == false);
    let what: Vec<_> = what.map(|layer| layer["what"].as_str().unwrap()).collect();
    assert_eq!(what.last(), Some(&"function"));
    let inspect = [&["inspect", ".", "--format", "json"][..], &flags].concat();
    let anew = project.lambimg(inspect).index(&index.url()).succeed();
    let mut anew: Value = serde_json::from_str(&anew).unwrap();
    assert_eq!(anew["image"], ".");
    anew["image"] = json!("app:1");
    let gone = ["one/tests/data.txt", "one/tests/test_one.py"];
    assert_eq!(anew["left_out"]["files"], json!(gone));
    anew["left_out"] = Value::Null;
    assert_eq!(anew, told);
    let inspect = [&["inspect"][..], &flags].concat();
    let text = project.lambimg(inspect).index(&index.url()).succeed();
    assert!(
        text.contains("LEFT OUT OF  FILES\none/             2\n"),
        "{text}"
    );
}

#[test]
fn a_layer_that_cannot_be_read_is_told() {
    let project = Project::new();
    let mut forge = Forge::sound();
    forge.packing = Packing::Zstd;
    let image = forge.write_beside(&project);
    assert_said!(project.lambimg(["inspect", &image]).run());
    assert_eq!(report(&project, &image)["unread"], json!([3]));
}

#[test]
fn a_page_in_the_project_is_no_file_of_its_function() {
    let project = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let inspect = ["inspect", ".", "--base", &base, "--html", "page.html"];
    let told = || {
        let told = project.lambimg(inspect.iter().chain(&["--format", "json"]));
        serde_json::from_str::<Value>(&told.succeed()).unwrap()
    };
    let first = told();
    assert!(project.path().join("page.html").is_file());
    assert_eq!(told()["digest"], first["digest"]);
}

#[test]
fn a_page_that_has_no_place_is_a_failure() {
    let project = Project::new();
    let image = forged(&project);
    let page = ["inspect", &image, "--html", "absent/page.html"];
    assert_said!(project.lambimg(page).run());
}

#[test]
fn the_documentation_has_each_key() {
    let project = Project::new();
    let mut said = BTreeSet::new();
    keys(&report(&project, &forged(&project)), "", &mut said);
    let built = Project::with_handler();
    let base = Base::aws("3.12").reference();
    let told = built.lambimg(["inspect", "--base", &base, "--format", "json"]);
    keys(
        &serde_json::from_str(&told.succeed()).unwrap(),
        "",
        &mut said,
    );
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/inspect.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<_> = rows
        .map(|row| row.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(said, listed);
}

/// Every key with those above it, as `layers[].what`; labels are the user's own.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(_) if path == "config.labels" => {}
        Value::Object(object) => {
            for (key, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{key}");
                found.insert(path.clone());
                keys(value, &path, found);
            }
        }
        Value::Array(list) => {
            for value in list {
                keys(value, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

// --- The page -----------------------------------------------------------------------------------

/// The page of the image with hostile names, written twice.
fn page(project: &Project) -> PathBuf {
    let image = forged(project);
    for name in ["first.html", "page.html"] {
        let inspect = ["inspect", &image, "--html", name];
        assert_eq!(project.lambimg(inspect).succeed(), "", "stdout is free");
    }
    let read = |name: &str| fs::read(project.path().join(name)).unwrap();
    assert!(read("first.html") == read("page.html"), "the same bytes");
    project.path().join("page.html")
}

/// How much of the map its boxes of the first level cover.
const COVERED: &str = "(() => { const map = document.getElementById('map');
    const area = boxes.filter(one => one.node.parent === here)
        .reduce((sum, one) => sum + one.rectangle.w * one.rectangle.h, 0);
    return area / (map.clientWidth * map.clientHeight); })()";
const NAMES: &str =
    "[...document.querySelectorAll('#packages tbody tr')].map(row => row.cells[0].textContent)";

#[test]
fn the_map_of_the_page_works_in_a_browser() {
    let project = Project::new();
    let page = page(&project);
    let mut browser = Browser::open(&page);

    // The map: all of it is covered, no box lies over its neighbour, and each has room for what it is.
    let covered = browser.value(COVERED).as_f64().unwrap();
    assert!((0.95..=1.001).contains(&covered), "{covered}");
    assert_eq!(browser.value("here.kids.length"), 4);
    let overlaps = "(() => { const own = boxes.filter(one => one.node.parent === here).map(one => one.rectangle);
        return own.flatMap((a, i) => own.slice(i + 1).filter(b => Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x) > 0.01
            && Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y) > 0.01)).length; })()";
    assert_eq!(browser.value(overlaps), 0);
    let proportional = "boxes.filter(one => one.node.parent === here).every(({ node, rectangle: { w, h } }) =>
        Math.abs(w * h / (map.clientWidth * map.clientHeight) - node.sizes[measure] / here.sizes[measure]) < 1e-6)";
    assert_eq!(browser.value(proportional), true);

    // Files of a large package are in sight at once, in its own box.
    let nested = "boxes.filter(one => one.node.parent.parent && one.node.parent.parent.parent === here).every(one => {
        const { x, y, w, h } = boxes.find(other => other.node === one.node.parent).rectangle, own = one.rectangle;
        return own.x >= x && own.y >= y && own.x + own.w <= x + w + 0.01 && own.y + own.h <= y + h + 0.01; })";
    assert_eq!(browser.value(nested), true);
    let rendered =
        "boxes.every(({ element, rectangle }) => Math.abs(element.offsetWidth - rectangle.w) <= 1
        && Math.abs(element.offsetHeight - rectangle.h) <= 1)";
    assert_eq!(
        browser.value(rendered),
        true,
        "no box is larger than its place"
    );
    let file = "boxes.some(one => one.node.name.startsWith('_cffi_backend'))";
    assert_eq!(browser.value(file), true);

    // By mouse into a package, by keys back and on.
    browser.click("[aria-label^='cffi ']");
    assert!(
        browser
            .value("find('trail').textContent")
            .as_str()
            .unwrap()
            .contains("cffi 2.1.1")
    );
    let covered = browser.value(COVERED).as_f64().unwrap();
    assert!((0.95..=1.001).contains(&covered), "{covered}");
    assert_eq!(browser.value(overlaps), 0);
    assert_eq!(browser.value("find('tip').hidden"), false);
    browser.press("Escape");
    browser.press("Escape");
    assert_eq!(browser.value("here === root"), true);
    let at = "boxes.find(one => one.element === document.activeElement).node.name";
    assert!(
        browser.value(at).as_str().unwrap().starts_with("layer 3"),
        "where it was left"
    );
    browser.press("ArrowDown");
    let below = browser.value(at);
    assert_ne!(below, "", "an arrow leads on");
    browser.press("Enter");
    assert_eq!(browser.value("here === root"), false);
    browser.press("Escape");

    browser.press("Escape");
    assert_eq!(browser.value("here === root"), true);

    // What is too small for a box of its own is in one with its like, which opens.
    let shares = "boxes.filter(one => one.element.matches('.frame')).map(({ node, rectangle: { w, h } }) => {
        const area = boxes.filter(one => one.node.parent === node)
            .reduce((sum, one) => sum + one.rectangle.w * one.rectangle.h, 0);
        return area / ((w - 6) * (h - HEAD - 3)); })";
    let least = format!("Math.min(...{shares})");
    let least = browser.value(&least).as_f64().unwrap();
    assert!(least > 0.9, "{least} of a frame is covered");
    let together = "boxes.find(one => one.node.together)";
    let (name, count) = (
        browser.value(&format!("{together}.node.name")),
        browser.value(&format!(
            "{together}.node.kids.reduce((sum, kid) => sum + (kid.count || 1), 0)"
        )),
    );
    assert_eq!(name, format!("{count} smaller files"));
    browser.value(&format!("({together}.element.click(), 0)"));
    assert_eq!(browser.value("here.name"), name);
    assert_eq!(browser.value(proportional), true);
    for _ in ["package", "layer", "image"] {
        browser.press("Escape");
    }
    assert_eq!(browser.value("here === root"), true);

    // The other size, and without the base.
    browser.click("input[value='2']");
    assert_eq!(browser.value("measure"), 2);
    assert_eq!(browser.value(proportional), true);
    browser.click("input[name='base']");
    assert_eq!(browser.value("here.kids.length"), 2);
    browser.click("input[name='base']");
    browser.click("input[value='1']");

    assert_eq!(browser.requests(), [format!("file://{}", page.display())]);
    // Of too many boxes the smallest are left out, wherever they are.
    browser.value(
        "here = linked(node('x', [
            node('many', Array.from({ length: 6000 }, (_, n) => leaf('f' + n, 100, 1)), { hue: 0, layer: {} }),
            node('few', [leaf('large', 300000, 1)], { hue: 0, layer: {} }),
        ])); draw()",
    );
    assert_eq!(browser.value("boxes.length"), 3000);
    assert_eq!(
        browser.value("boxes.some(one => one.node.name === 'large')"),
        true
    );
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn the_tables_of_the_page_work_in_a_browser() {
    let project = Project::new();
    let page = page(&project);
    let mut browser = Browser::open(&page);

    // The table sorts and filters.
    assert_eq!(browser.value(NAMES), json!(["cffi", "pycparser"]));
    browser.click("[data-key='name']");
    browser.click("[data-key='name']");
    assert_eq!(browser.value(NAMES), json!(["pycparser", "cffi"]));
    let sorted = "document.querySelector('[aria-sort=descending]').textContent";
    assert_eq!(browser.value(sorted), "Package");
    browser.click("[data-key='packed']");
    assert_eq!(browser.value(NAMES), json!(["cffi", "pycparser"]));
    browser.value("find('filter').focus()");
    browser.type_text("PARSER");
    assert_eq!(browser.value(NAMES), json!(["pycparser"]));
    assert!(
        browser
            .value("find('shown').textContent")
            .as_str()
            .unwrap()
            .starts_with("1 package,")
    );
    browser.click("#packages tbody .link");
    assert!(
        browser
            .value("here.name")
            .as_str()
            .unwrap()
            .starts_with("pycparser")
    );

    // The rest is there, and what nobody should see is not.
    let count = |browser: &mut Browser, of: &str| {
        browser.value(&format!("document.querySelectorAll('{of}').length"))
    };
    assert_eq!(count(&mut browser, "#layers tbody tr"), 4);
    assert_eq!(count(&mut browser, "#files tbody tr"), 10);
    // The base's files go with the base.
    let first = "document.querySelector('#files tbody td').textContent";
    browser.value(
        "data.files.unshift({ ...data.files[0], path: 'of-the-base', layer: 1 }); drawFiles()",
    );
    assert_eq!(browser.value(first), "/of-the-base");
    browser.click("[name='base']");
    assert_ne!(browser.value(first), "/of-the-base");
    assert_eq!(count(&mut browser, "#files tbody tr"), 10);
    browser.click("[name='base']");
    assert_eq!(browser.value(first), "/of-the-base");
    let findings = browser.value("find('findings').textContent");
    let findings = findings.as_str().unwrap();
    assert!(
        findings.contains("LMB100") && findings.contains("DB_PASSWORD"),
        "{findings}"
    );
    // On a narrow screen values have room beside long names.
    browser.value("document.body.style.width = '440px'");
    let narrowest =
        "Math.min(...[...document.querySelectorAll('#config td')].map(one => one.clientWidth))";
    let narrowest = browser.value(narrowest).as_f64().unwrap();
    assert!(narrowest > 200.0, "{narrowest}");
    browser.value("document.body.style.width = ''");
    let text = browser.value("document.body.textContent");
    assert!(!text.as_str().unwrap().contains("correcthorse"));

    if let Some(directory) = std::env::var_os("LAMBIMG_PICTURES") {
        browser.value("go(root); scrollTo(0, 0)");
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            let name = Path::new(&directory).join(format!("{scheme}.png"));
            fs::write(name, browser.picture()).unwrap();
        }
    }
    assert_eq!(browser.requests(), [format!("file://{}", page.display())]);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn hostile_names_are_text_on_the_page() {
    let project = Project::new();
    let mut browser = Browser::open(&page(&project));
    // The directory of what no package has.
    browser.value("go(root.kids.flatMap(one => one.kids).find(one => one.name === '/var/task' && one.kids.length > 3))");
    let names = browser.value("here.kids.map(kid => kid.path).sort()");
    let names = names.as_array().unwrap().iter();
    let names: BTreeSet<_> = names.filter_map(Value::as_str).collect();
    for name in HOSTILE {
        let path = format!("/{name}");
        assert!(names.contains(path.as_str()), "{name:?} in {names:?}");
    }
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);
    assert_eq!(browser.value("document.scripts.length"), 2);
    let told =
        browser.value("boxes.map(one => one.element.textContent + one.element.ariaLabel).join()");
    let told = told.as_str().unwrap();
    assert!(told.contains("<img src=x onerror=alert(1)>"), "{told}");
    assert!(told.contains("\\u{202e}txt.exe"), "{told}");
    assert!(told.contains("a\\u{200b}b\\u{e0041}"), "{told}");
    assert!(
        !told.contains(['\u{202e}', '\u{2028}', '\u{200b}']),
        "{told}"
    );
    assert_eq!(browser.complaints(), [""; 0]);
    // Even were one of them markup, the policy keeps it from running.
    browser.value("document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = true' }))");
    assert_eq!(browser.value("window.ran === undefined"), true);
}

#[test]
fn the_page_can_be_read_in_dark_and_in_light() {
    let project = Project::new();
    let mut browser = Browser::open(&page(&project));
    // Of the text of all kinds against what it stands on, as WCAG reckons it; 4.5 is enough for small text.
    let least = "(() => {
        const light = color => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number)
            .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = element => { const color = getComputedStyle(element).backgroundColor;
            return color === 'rgba(0, 0, 0, 0)' ? ground(element.parentElement) : color; };
        const texts = document.querySelectorAll('h1, dd, dt, td, th, .box span, #findings b, #findings p, .quiet, .link');
        return Math.min(...[...texts].map(text => {
            const [a, b] = [light(getComputedStyle(text).color), light(ground(text))];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })); })()";
    let mut grounds = BTreeSet::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        let contrast = browser.value(least).as_f64().unwrap();
        assert!(contrast >= 4.5, "{scheme}: {contrast}");
        let ground = browser.value("getComputedStyle(document.body).backgroundColor");
        grounds.insert(ground.as_str().unwrap().to_owned());
    }
    assert_eq!(grounds.len(), 2, "{grounds:?}");
}
