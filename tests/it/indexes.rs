//! Private indexes: who the user is is found wherever pip and uv are told it, goes to the index alone, and is
//! found nowhere afterwards. Authorities of one's own are trusted where they are named.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::base::Base;
use crate::support::digest;
use crate::support::image::files_of;
use crate::support::image::inflate;
use crate::support::index::Index;
use crate::support::process::Process;
use crate::support::process::command;
use crate::support::process::run;
use crate::support::program;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::wheel::Wheel;

const NETWORK: i32 = 4;

const USER: &str = "robot";
/// Its end stands the same however it is written.
const PASSWORD: &str = "s3cr@t/T0kenEnd";
const ENCODED: &str = "s3cr%40t%2FT0kenEnd";
const END: &str = "T0kenEnd";

fn private_index() -> Index {
    let index = Index::guarded(USER, PASSWORD);
    index.serve(&Wheel::pure("upper", "2.0").requires("lower>=1"));
    index.serve(&Wheel::pure("lower", "1.5"));
    index
}

/// The index's URL with the name and a password in it.
fn url_with(index: &Index, password: &str) -> String {
    index
        .url()
        .replace("://", &format!("://{USER}:{password}@"))
}

fn project() -> Project {
    let project = Project::with_handler();
    project.file("requirements.txt", "upper\n");
    project
}

fn build<'project>(project: &'project Project, flags: &[&str]) -> Run<'project> {
    let base = Base::aws("3.12").reference();
    let build = ["build", "-v", "--base", &base, "-t", "some:1"];
    let run = project.lambimg(build.iter().chain(flags));
    run.no_index()
}

/// The files below a directory that hold the password in any form, packed or not.
fn traces(directory: &Path) -> Vec<PathBuf> {
    let pair = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let holds = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        [END, &pair].iter().any(|needle| text.contains(needle))
    };
    let mut files = files_of(directory);
    files.retain(|path| {
        let bytes = fs::read(path).unwrap();
        holds(&bytes) || (bytes.starts_with(&[0x1f, 0x8b]) && holds(&inflate(&bytes)))
    });
    files
}

/// Builds twice, resolving and then from the lock alone with an empty store, and looks everywhere for what must
/// not be kept. `told` are the project's own files that hold the password.
fn assert_builds_without_a_trace<'p>(
    project: &'p Project,
    resolver: &str,
    told: &[&str],
    with: impl Fn(Run<'p>) -> Run<'p>,
) {
    for locked in [false, true] {
        let image = project.beside(if locked { "second" } else { "first" });
        let output = format!("oci:{}", image.display());
        let mut flags = vec!["--resolver", resolver, "-o", &output];
        flags.extend(["--metadata-file", "made.json"]);
        flags.extend(locked.then_some("--locked"));
        let outcome = with(build(project, &flags)).run();
        let said = outcome.rendering();
        assert_eq!(outcome.code, Some(0), "{said}");
        assert!(!said.contains(END), "{said}");
        assert_eq!(traces(&image), Vec::<PathBuf>::new());
        assert_eq!(traces(&project.cache()), Vec::<PathBuf>::new());
        let told: Vec<_> = told.iter().map(|name| project.path().join(name)).collect();
        assert_eq!(traces(&project.path()), told);
        // The resolvers keep what they keep elsewhere.
        for entry in fs::read_dir(project.cache()).unwrap() {
            let name = entry.unwrap().file_name();
            let name = name.to_string_lossy();
            assert!(
                ["blobs", "memo", "tmp", "lock", "index.json", "oci-layout"].contains(&&*name),
                "{name}"
            );
        }
        fs::remove_dir_all(project.cache()).unwrap();
    }
    let lock = fs::read_to_string(project.path().join("pylock.toml")).unwrap();
    assert_eq!(
        lock.contains("created-by = \"uv\""),
        resolver == "uv",
        "{lock}"
    );
    assert!(!lock.contains('@'), "{lock}");
}

#[test]
fn variables_tell_who_the_user_is() {
    let index = private_index();
    for resolver in ["uv", "pip"] {
        let url = url_with(&index, ENCODED);
        assert_builds_without_a_trace(&project(), resolver, &[], |run| run.index(&url));
        index.speak_json();
    }
}

#[test]
fn netrc_tells_who_the_user_is() {
    let index = private_index();
    for resolver in ["uv", "pip"] {
        let project = project();
        let netrc = format!("machine 127.0.0.1 login {USER} password {PASSWORD}\n");
        fs::write(project.home().join(".netrc"), netrc).unwrap();
        assert_builds_without_a_trace(&project, resolver, &[], |run| run.index(&index.url()));
    }
}

#[test]
fn requirements_tell_who_the_user_is() {
    let index = private_index();
    for resolver in ["uv", "pip"] {
        let project = Project::with_handler();
        let line = format!("--index-url {}\nupper\n", url_with(&index, ENCODED));
        project.file("requirements.txt", line);
        project.file(".lambimgignore", "requirements.txt\n");
        assert_builds_without_a_trace(&project, resolver, &["requirements.txt"], |run| run);
        // Another password is not another question, and a variable may hold it.
        let line = format!("--index-url {}\nupper\n", url_with(&index, "${TOKEN}"));
        project.file("requirements.txt", line);
        let again = build(&project, &["--locked"]).env("TOKEN", ENCODED);
        again.succeed();
    }
}

#[test]
fn settings_of_pip_tell_who_the_user_is() {
    let index = private_index();
    // uv does not read them, and would ask PyPI for what only the private index is to be asked for.
    for resolver in ["pip", "uv"] {
        let project = project();
        let config = project.home().join(".config/pip");
        fs::create_dir_all(&config).unwrap();
        let text = format!("[global]\nindex-url = {}\n", url_with(&index, ENCODED));
        fs::write(config.join("pip.conf"), text).unwrap();
        assert_builds_without_a_trace(&project, resolver, &[], |run| run);
    }
}

#[test]
fn a_resolver_that_is_not_let_in_is_no_matter_of_wheels() {
    let index = private_index();
    let project = Project::with_handler();
    let lines = format!("--index-url {}\nupper\n", index.url());
    project.file("requirements.txt", lines);
    let outcome = build(&project, &["--resolver", "uv"]).run();
    let said = outcome.rendering();
    assert_eq!(outcome.code, Some(4), "{said}");
    assert!(said.contains("401 Unauthorized"), "{said}");
    assert!(said.contains("hint: the index wants credentials"), "{said}");
}

#[test]
fn settings_of_uv_tell_who_the_user_is() {
    let index = private_index();
    let project = project();
    project.file(
        "uv.toml",
        format!(
            "[[index]]\nname = \"team\"\nurl = \"{}\"\ndefault = true\n",
            index.url()
        ),
    );
    assert_builds_without_a_trace(&project, "uv", &[], |run| {
        run.env("UV_INDEX_TEAM_USERNAME", USER)
            .env("UV_INDEX_TEAM_PASSWORD", PASSWORD)
    });
}

fn expect_network_failure(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_eq!(outcome.stdout, "");
    assert!(!outcome.stderr.contains(END), "{}", outcome.stderr);
    outcome
}

/// A project with a lock whose only wheel is at this address.
fn locked_project(address: &str, wheel: &Wheel) -> Project {
    let project = Project::with_handler();
    let hash = digest(&wheel.bytes()).replace("sha256:", "");
    project.file(
        "pylock.toml",
        format!(
            "lock-version = \"1.0\"\n[[packages]]\nname = \"{}\"\nversion = \"1.5\"\n\
             wheels = [{{ url = \"{address}/files/{}\", hashes = {{ sha256 = \"{hash}\" }} }}]\n",
            wheel.name(),
            wheel.file_name()
        ),
    );
    project
}

/// The build of a project with a lock, whose steps do not matter.
fn quiet_build(project: &Project) -> Run<'_> {
    let base = Base::aws("3.12").reference();
    let build = ["build", "-q", "--base", &base];
    project.lambimg(build).no_index()
}

#[test]
fn a_wrong_password() {
    let index = private_index();
    let wheel = Wheel::pure("lower", "1.5");
    let project = locked_project(&format!("http://{}", index.address()), &wheel);
    let url = url_with(&index, &format!("not{ENCODED}"));
    let outcome = quiet_build(&project).index(&url).run();
    assert_said!(expect_network_failure(outcome));
}

#[test]
fn no_password() {
    let index = private_index();
    let wheel = Wheel::pure("lower", "1.5");
    let project = locked_project(&format!("http://{}", index.address()), &wheel);
    let outcome = quiet_build(&project).index(&index.url()).run();
    assert_said!(expect_network_failure(outcome));
}

/// What was given for one origin is not sent to another of the same host.
#[test]
fn another_origin_is_sent_nothing() {
    let (index, other) = (private_index(), private_index());
    let wheel = Wheel::pure("lower", "1.5");
    let project = locked_project(&format!("http://{}", other.address()), &wheel);
    let outcome = quiet_build(&project)
        .index(&url_with(&index, ENCODED))
        .run();
    let outcome = expect_network_failure(outcome);
    assert!(
        outcome.stderr.contains("and was sent no credentials"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn keyring_is_asked_when_the_user_says_so() {
    let index = private_index();
    let wheel = Wheel::pure("lower", "1.5");
    let url = index.url().replace("://", &format!("://{USER}@"));
    let script = format!(
        "[ \"$*\" = 'get {} {USER}' ] && echo '{PASSWORD}'\n",
        index.url()
    );
    for (variable, file) in [
        ("UV_KEYRING_PROVIDER", ""),
        ("PIP_KEYRING_PROVIDER", ""),
        (
            "PIP_CONFIG_FILE",
            "[global]\nkeyring-provider = subprocess\n",
        ),
    ] {
        let project = locked_project(&format!("http://{}", index.address()), &wheel);
        let config = project.beside("pip.conf");
        fs::write(&config, file).unwrap();
        let run = || quiet_build(&project).index(&url).script("keyring", &script);
        expect_network_failure(run().run());
        let value = if file.is_empty() {
            "subprocess"
        } else {
            config.to_str().unwrap()
        };
        run().env(variable, value).succeed();
        assert_eq!(traces(&project.cache()), Vec::<PathBuf>::new());
    }
}

#[test]
fn an_index_that_is_no_url() {
    let project = project();
    let run = quiet_build(&project).env("UV_DEFAULT_INDEX", format!("https://{USER}:{ENCODED}@["));
    let outcome = run.run();
    assert_eq!(outcome.code, Some(2), "{}", outcome.rendering());
    assert!(!outcome.stderr.contains(END), "{}", outcome.stderr);
    assert_said!(outcome);
}

// --- authorities --------------------------------------------------------------------------------

const SERVER: &str = "
import functools, http.server, ssl, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print('port', server.server_port, flush=True)
server.serve_forever()
";

/// Files over TLS, by a certificate of an authority that nobody knows.
struct TlsServer {
    directory: tempfile::TempDir,
    address: String,
    _process: Process,
}

impl TlsServer {
    fn start(wheel: &Wheel) -> TlsServer {
        let directory = tempfile::tempdir().unwrap();
        let openssl = |arguments: &str| {
            let mut openssl = Command::new(program("openssl", "openssl"));
            openssl.current_dir(&directory);
            run(openssl.args(arguments.split(' ')));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!(
            "req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
        ));
        openssl(&format!(
            "req {key} -subj /CN=localhost -keyout own.key -out own.csr"
        ));
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
        fs::write(directory.path().join("names"), names).unwrap();
        openssl(
            "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out own.crt",
        );
        let path = |name: &str| directory.path().join(name);
        let both = [fs::read(path("own.key")), fs::read(path("own.crt"))];
        fs::write(path("own.pem"), both.map(Result::unwrap).concat()).unwrap();
        fs::create_dir_all(path("served/files")).unwrap();
        let file = path("served/files").join(wheel.file_name());
        fs::write(file, wheel.bytes()).unwrap();
        fs::write(path("server.py"), SERVER).unwrap();
        let mut python = command(python("3.12"));
        python.arg(path("server.py"));
        python.args([path("served"), path("own.pem")]);
        let mut process = Process::start(python, path("log"));
        let port = process.wait_for("the TLS server", |log| {
            let port = log.lines().find_map(|line| line.strip_prefix("port "));
            port.map(str::to_owned)
        });
        TlsServer {
            address: format!("https://localhost:{port}"),
            directory,
            _process: process,
        }
    }

    fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

/// Takes away what this machine says of authorities.
fn without_authorities(run: Run<'_>) -> Run<'_> {
    run.env("PIP_CERT", "")
        .env("SSL_CERT_FILE", "")
        .env("SSL_CERT_DIR", "")
}

#[test]
fn authorities_are_trusted_where_they_are_named() {
    let wheel = Wheel::pure("lower", "1.5");
    let server = TlsServer::start(&wheel);
    let authority = server.authority();
    for name in [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "pip.conf",
    ] {
        let project = locked_project(&server.address, &wheel);
        let mut run = without_authorities(quiet_build(&project));
        if name == "pip.conf" {
            let config = project.beside("pip.conf");
            fs::write(
                &config,
                format!("[global]\ncert = {}\n", authority.display()),
            )
            .unwrap();
            run = run.env("PIP_CONFIG_FILE", config);
        } else if name == "SSL_CERT_DIR" {
            let directory = project.beside("authorities");
            fs::create_dir(&directory).unwrap();
            let mut openssl = Command::new(program("openssl", "openssl"));
            openssl.args(["x509", "-hash", "-noout", "-in"]);
            let hash = crate::support::process::run(openssl.arg(&authority));
            fs::copy(&authority, directory.join(format!("{}.0", hash.trim()))).unwrap();
            run = run.env("SSL_CERT_DIR", directory);
        } else {
            run = run.env(name, &authority);
        }
        run.succeed();
    }
}

#[test]
fn a_certificate_of_nobody() {
    let wheel = Wheel::pure("lower", "1.5");
    let server = TlsServer::start(&wheel);
    let project = locked_project(&server.address, &wheel);
    let host = server.address.trim_start_matches("https://");
    let run = without_authorities(quiet_build(&project));
    let run = run.env("PIP_TRUSTED_HOST", host);
    let outcome = expect_network_failure(run.env("UV_INSECURE_HOST", host).run());
    let port = host.split(':').nth(1).unwrap();
    let mut settings = outcome.settings();
    settings.add_filter(port, "[port]");
    settings.bind(|| insta::assert_snapshot!(outcome.rendering()));
}

#[test]
fn a_bundle_without_certificates() {
    let project = Project::with_handler();
    project.file("ca.pem", "none");
    let named = quiet_build(&project).env("PIP_CERT", "ca.pem").run();
    assert_eq!(named.code, Some(2), "{}", named.rendering());
    assert_said!(named);
    let other = quiet_build(&project).env("PIP_CERT", "");
    let other = other.env("REQUESTS_CA_BUNDLE", "/nowhere").run();
    assert_eq!(other.code, Some(0), "{}", other.rendering());
}
