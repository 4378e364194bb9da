//! Layers by their ARNs: what AWS is asked, with whose credentials, where the archive comes from, and what the lock
//! makes of it.
//!
//! moto has no `GetLayerVersionByArn`, and its layers no address: a small server plays Lambda's API, another the
//! bucket. What was signed is held against botocore.

use std::fs;
use std::sync::Arc;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use crate::beside::WATCHER;
use crate::beside::archive;
use crate::beside::layers;
use crate::beside::project;
use crate::beside::starter;
use crate::ecr_api::with_keys;
use crate::support::aws::Ecr;
use crate::support::base::Base;
use crate::support::digest;
use crate::support::image::Image;
use crate::support::process::command;
use crate::support::project::Outcome;
use crate::support::project::Project;
use crate::support::project::Run;
use crate::support::project::assert_said;
use crate::support::python;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;
use crate::support::tool;

const ARN: &str = "arn:aws:lambda:ap-south-1:210987654321:layer:watch_Tools-V3:17";
const SIGNATURE: &str = "presigned-signature-secret";
const KEY: &str = "wJalrXUtnFEMIbPxRfiCYSECRETKEY";
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const INPUT: i32 = 3;
const NETWORK: i32 = 4;
const AWS: i32 = 5;

/// Status, code and message.
type Refusal = (u16, &'static str, &'static str);

/// Lambda's API, and the bucket that it sends everybody to.
struct Lambda {
    api: Server,
    bucket: Server,
    /// What the API says instead.
    refusal: Arc<Mutex<Option<Refusal>>>,
    /// The archive.
    stored: Arc<Mutex<Vec<u8>>>,
    /// What the API says that the archive is.
    stated: Arc<Mutex<Vec<u8>>>,
}

impl Lambda {
    fn start(zip: Vec<u8>, architecture: &'static str) -> Lambda {
        let stored = Arc::new(Mutex::new(zip.clone()));
        let stated = Arc::new(Mutex::new(zip));
        let refusal = Arc::new(Mutex::new(None));
        let own = Arc::clone(&stored);
        let bucket = Server::start(move |asked| {
            if asked.header("Authorization").is_some() || !asked.target.contains(SIGNATURE) {
                return Reply::status(403).body("<Error><Code>AccessDenied</Code></Error>");
            }
            Reply::status(200).body(own.lock().unwrap().clone())
        });
        let location = format!(
            "http://{}/snapshots/210987654321/watch?X-Amz-Security-Token=t&X-Amz-Signature={SIGNATURE}",
            bucket.address()
        );
        let (own, no) = (Arc::clone(&stated), Arc::clone(&refusal));
        let api = Server::start(move |_| {
            if let Some((status, code, message)) = *no.lock().unwrap() {
                let body = json!({"Message": message, "Type": "User"});
                let reply = Reply::status(status).header("x-amzn-ErrorType", code);
                return reply.body(body.to_string());
            }
            let zip = own.lock().unwrap().clone();
            let answer = json!({
                "LayerVersionArn": ARN, "Version": 17, "Description": "", "CreatedDate": "2026-11-01T00:00:00.000+0000",
                "CompatibleArchitectures": [architecture], "CompatibleRuntimes": ["python3.11", "python3.12"],
                "Content": {"CodeSha256": STANDARD.encode(Sha256::digest(&zip)), "CodeSize": zip.len(), "Location": location},
            });
            Reply::status(200).body(answer.to_string())
        });
        Lambda {
            api,
            bucket,
            refusal,
            stored,
            stated,
        }
    }

    /// Who has keys, and asks here.
    fn asks<'project>(&self, run: Run<'project>) -> Run<'project> {
        let endpoint = format!("http://{}", self.api.address());
        with_keys(nobody(run)).env("AWS_ENDPOINT_URL_LAMBDA", endpoint)
    }

    fn build(&self, project: &Project, flags: &[&str]) -> Outcome {
        told(self.asks(run_build(project, flags)).run())
    }

    fn asked(&self) -> [usize; 2] {
        [self.api.asked().len(), self.bucket.asked().len()]
    }
}

/// Nothing of AWS but what is said.
fn nobody(run: Run<'_>) -> Run<'_> {
    run.env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
}

fn run_build<'project>(project: &'project Project, flags: &[&str]) -> Run<'project> {
    let base = Base::aws_oci("3.12").reference();
    let build = ["build", "--base", &base, "-t", "some:1"];
    project.lambimg(build.iter().chain(flags))
}

/// No secret is in what was said.
fn told(outcome: Outcome) -> Outcome {
    let said = outcome.rendering();
    for secret in [SIGNATURE, KEY, "X-Amz-"] {
        assert!(!said.contains(secret), "{said}");
    }
    outcome
}

fn with_layer() -> (Project, Lambda) {
    with_layer_for("x86_64")
}

/// A project with a layer that says it is for this architecture.
fn with_layer_for(architecture: &'static str) -> (Project, Lambda) {
    let project = project(&format!("extensions = [{{ layer = '{ARN}' }}]\n"));
    let zip = project.beside("layer.zip");
    let members = [
        ("watch/watcher.py", WATCHER, 0o100_644),
        ("extensions/of-layer", &starter("of-layer"), 0o100_755),
        (
            "python/lib/python3.12/site-packages/of_version.py",
            "x = 2\n",
            0o100_600,
        ),
        ("python/of_layer.py", "x = 1\n", 0),
    ];
    archive(&zip, &members);
    let lambda = Lambda::start(fs::read(zip).unwrap(), architecture);
    (project, lambda)
}

/// The signature that botocore gives the request.
fn signature(asked: &Asked, region: &str) -> String {
    let script = "import json, sys\n\
        from botocore.auth import SigV4Auth\n\
        from botocore.awsrequest import AWSRequest\n\
        from botocore.credentials import Credentials\n\
        url, headers, key, region = json.loads(sys.argv[1])\n\
        request = AWSRequest('GET', url, headers=headers)\n\
        request.context['timestamp'] = headers['x-amz-date']\n\
        auth = SigV4Auth(Credentials('AKIAIOSFODNN7EXAMPLE', key), 'lambda', region)\n\
        text = auth.string_to_sign(request, auth.canonical_request(request))\n\
        print(auth.signature(text, request))\n";
    let host = asked.header("host").unwrap();
    let url = format!("http://{host}{}", asked.target);
    let headers = json!({"host": host, "x-amz-date": asked.header("x-amz-date").unwrap()});
    let mut botocore = command(python("3.12"));
    botocore.env("PYTHONPATH", tool("moto"));
    botocore.args(["-c", script]);
    let output = botocore
        .arg(json!([url, headers, KEY, region]).to_string())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_layer_by_its_arn_is_asked_for_once() {
    let (project, lambda) = with_layer();
    let directory = project.beside("image");
    let output = format!("oci:{}", directory.display());
    let outcome = lambda.build(&project, &["-v", "-o", &output]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert!(
        !outcome.stderr.contains("says that it is for"),
        "{}",
        outcome.stderr
    );
    let image = Image::in_directory(&directory);
    image.assert_accepted_by_lambda();
    assert_eq!(layers(&image), ["extension watch_Tools-V3:17", "function"]);
    let files = image.files_below("opt");
    let modes = files
        .iter()
        .map(|(path, entry)| format!("{path} {:o}", entry.header.mode().unwrap()));
    assert_eq!(
        modes.collect::<Vec<_>>(),
        [
            "extensions/of-layer 755",
            "python/lib/python3.12/site-packages/of_version.py 644",
            "python/of_layer.py 644",
            "watch/watcher.py 644",
        ]
    );
    // The ARN's region is signed for, and nothing of ours goes to the bucket.
    let asked = &lambda.api.asked()[0];
    assert_eq!(
        (&*asked.method, &*asked.target),
        (
            "GET",
            &*format!(
                "/2018-10-31/layers?find=LayerVersion&Arn={}",
                ARN.replace(':', "%3A")
            )
        )
    );
    let authorization = asked.header("Authorization").unwrap();
    assert!(
        authorization.contains("/ap-south-1/lambda/aws4_request"),
        "{authorization}"
    );
    let signed = format!("Signature={}", signature(asked, "ap-south-1"));
    assert!(authorization.ends_with(&signed), "{authorization} {signed}");
    let fetched = &lambda.bucket.asked()[0];
    for header in ["Authorization", "x-amz-date", "x-amz-security-token"] {
        assert_eq!(fetched.header(header), None);
    }
    // Locked and in the store, it costs no request, no credentials and no network.
    let lock = fs::read_to_string(project.path().join("lambimg.lock")).unwrap();
    let zip = lambda.stored.lock().unwrap().clone();
    let pin = format!(
        "\n[[layer]]\narn = \"{ARN}\"\ndigest = \"{}\"\nsize = {}\narchitectures = [\"x86_64\"]\n\
         runtimes = [\"python3.11\", \"python3.12\"]\n",
        digest(&zip),
        zip.len()
    );
    assert!(lock.contains(&pin), "{lock}");
    assert_eq!(lambda.asked(), [1, 1]);
    let again = project.beside("again");
    let output = format!("oci:{}", again.display());
    nobody(run_build(
        &project,
        &["-o", &output, "--locked", "--offline"],
    ))
    .succeed();
    assert_eq!(Image::in_directory(&again).digest(), image.digest());
    assert_eq!(lambda.asked(), [1, 1]);
    // A damaged archive is brought anew, as the lock has it.
    let blob = project
        .cache()
        .join("blobs/sha256")
        .join(&digest(&zip)["sha256:".len()..]);
    fs::write(&blob, vec![0; zip.len()]).unwrap();
    let outcome = lambda.build(&project, &["--locked"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    assert_eq!(lambda.asked(), [2, 2]);
    assert_eq!(fs::read(&blob).unwrap(), zip);
}

#[test]
fn a_layers_extension_runs_and_its_modules_import() {
    let (project, lambda) = with_layer();
    project.file(
        "app.py",
        "import of_layer, of_version\ndef handler(event, context):\n\
        \x20   return [of_layer.x, of_version.x, of_layer.__file__, open('/tmp/of-layer').read()]\n",
    );
    let name = format!("oci:{}", project.beside("image").display());
    let build = [
        "build", "--base", "host", "--python", "3.12", "-t", "some:1", "-o", &name,
    ];
    lambda.asks(project.lambimg(build)).succeed();
    let outcome = project.lambimg(["invoke", &name, "-d", "{}"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
    let answer: Value = serde_json::from_str(outcome.stdout.trim()).unwrap();
    assert_eq!(answer, json!([1, 2, "/opt/python/of_layer.py", "200"]));
}

#[test]
fn a_lock_of_a_layer_needs_no_archive() {
    let (project, lambda) = with_layer();
    let base = Base::aws_oci("3.12").reference();
    let lock = ["lock", "--base", &base];
    lambda.asks(project.lambimg(lock)).succeed();
    assert_eq!(lambda.asked(), [1, 0]);
    lambda
        .asks(project.lambimg(lock.iter().chain(&["--upgrade"])))
        .succeed();
    assert_eq!(lambda.asked(), [1, 0], "no version changes");
    let outcome = lambda.build(&project, &["--locked"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.rendering());
}

#[test]
fn a_layer_that_the_lock_does_not_have() {
    let (project, lambda) = with_layer();
    let base = Base::aws_oci("3.12").reference();
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let (without, _) = settings.split_once("extensions").unwrap();
    project.file("pyproject.toml", without);
    project.lambimg(["lock", "--base", &base]).succeed();
    project.file("pyproject.toml", &settings);
    let outcome = lambda.build(&project, &["--locked", "--quiet"]);
    assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
    assert_said!(outcome);
    assert_eq!(lambda.asked(), [0, 0]);
}

#[test]
fn a_version_of_a_layer_that_changed() {
    let (project, lambda) = with_layer();
    let base = Base::aws_oci("3.12").reference();
    lambda
        .asks(project.lambimg(["lock", "--base", &base]))
        .succeed();
    lambda.stated.lock().unwrap().push(0);
    for flags in [&["--quiet"][..], &["--quiet", "--locked"]] {
        let outcome = lambda.build(&project, flags);
        assert_eq!(outcome.code, Some(REFUSED), "{}", outcome.rendering());
        assert_said!(outcome);
    }
    assert_eq!(lambda.asked(), [3, 0]);
}

#[test]
fn a_layers_archive_of_other_bytes() {
    let (project, lambda) = with_layer();
    let last = lambda.stored.lock().unwrap().len() - 1;
    lambda.stored.lock().unwrap()[last] ^= 1;
    let outcome = lambda.build(&project, &["--quiet"]);
    assert_eq!(outcome.code, Some(INPUT), "{}", outcome.rendering());
    assert_said!(outcome);
    let blobs = project.cache().join("blobs/sha256");
    let zips = fs::read_dir(blobs).unwrap().filter(|blob| {
        let bytes = fs::read(blob.as_ref().unwrap().path()).unwrap();
        bytes.starts_with(b"PK")
    });
    assert_eq!(zips.count(), 0);
}

#[test]
fn a_layer_for_others_is_told() {
    let (project, lambda) = with_layer();
    let lock = ["lock", "--base", "host", "--python", "3.13"];
    let outcome = lambda.asks(project.lambimg(lock)).run();
    let warning = "the layer watch_Tools-V3:17 says that it is for python3.11, python3.12, and the function is for python3.13";
    assert!(outcome.stderr.contains(warning), "{}", outcome.rendering());
    // The lock remembers what it is for.
    let outcome = nobody(project.lambimg(lock)).run();
    assert!(outcome.stderr.contains(warning), "{}", outcome.rendering());
    let (project, lambda) = with_layer_for("m68k");
    let outcome = lambda.build(&project, &["--arch", "x86_64"]);
    let warning =
        "the layer watch_Tools-V3:17 says that it is for m68k, and the function is for x86_64";
    assert!(outcome.stderr.contains(warning), "{}", outcome.rendering());
}

/// What is said where the API refuses so.
fn refused(refusal: Refusal) -> Outcome {
    let (project, lambda) = with_layer();
    *lambda.refusal.lock().unwrap() = Some(refusal);
    let outcome = lambda.build(&project, &["--quiet"]);
    assert_eq!(outcome.code, Some(AWS), "{}", outcome.rendering());
    assert_eq!(lambda.asked(), [1, 0]);
    outcome
}

#[test]
fn a_layer_that_may_not_be_read() {
    assert_said!(refused((
        403,
        "AccessDeniedException",
        "User: arn:aws:iam::123456789012:user/me is not authorized to perform: lambda:GetLayerVersion on resource: \
         arn:aws:lambda:ap-south-1:210987654321:layer:watch_Tools-V3:17 because no resource-based policy allows the \
         lambda:GetLayerVersion action",
    )));
}

#[test]
fn a_layer_that_is_not_there() {
    assert_said!(refused((
        404,
        "ResourceNotFoundException",
        "Layer version arn:aws:lambda:ap-south-1:210987654321:layer:watch_Tools-V3:17 does not exist.",
    )));
}

#[test]
fn a_layer_asked_for_with_an_expired_session() {
    assert_said!(refused((
        403,
        "ExpiredTokenException",
        "The security token included in the request is expired",
    )));
}

#[test]
fn a_layer_without_credentials() {
    let (project, lambda) = with_layer();
    let outcome = nobody(run_build(&project, &["--quiet"])).run();
    assert_eq!(outcome.code, Some(AWS), "{}", outcome.rendering());
    assert_said!(outcome);
    assert_eq!(lambda.asked(), [0, 0]);
}

#[test]
fn a_layer_without_the_network() {
    let (project, lambda) = with_layer();
    // The base is there, the layer is not.
    let settings = fs::read_to_string(project.path().join("pyproject.toml")).unwrap();
    let (without, _) = settings.split_once("extensions").unwrap();
    project.file("pyproject.toml", without);
    run_build(&project, &[]).succeed();
    project.file("pyproject.toml", &settings);
    let outcome = lambda.build(&project, &["--quiet", "--offline"]);
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
    assert_eq!(lambda.asked(), [0, 0]);
}

#[test]
fn a_bucket_that_does_not_give_the_layer() {
    let (project, lambda) = with_layer();
    let elsewhere = Server::start(|_| Reply::status(403).body("<Error/>"));
    let zip = lambda.stored.lock().unwrap().clone();
    let location = format!("http://{}/gone?Signature={SIGNATURE}", elsewhere.address());
    let api = Server::start(move |_| {
        let content = json!({
            "CodeSha256": STANDARD.encode(Sha256::digest(&zip)), "CodeSize": zip.len(), "Location": location,
        });
        Reply::status(200).body(json!({"LayerVersionArn": ARN, "Content": content}).to_string())
    });
    let run = lambda.asks(run_build(&project, &["-q"]));
    let endpoint = format!("http://{}", api.address());
    let outcome = told(run.env("AWS_ENDPOINT_URL_LAMBDA", endpoint).run());
    assert_eq!(outcome.code, Some(NETWORK), "{}", outcome.rendering());
    assert_said!(outcome);
}

/// With which of Lambda's hosts somebody speaks who names no endpoint.
#[test]
fn the_hosts_that_are_asked_are_those_that_the_user_wants() {
    let (project, _) = with_layer();
    let hosts = Ecr::start(|_| Reply::status(403).body("{}"));
    let profile = project.beside("config");
    fs::write(
        &profile,
        "[default]\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\n",
    )
    .unwrap();
    let profile = profile.to_str().unwrap();
    let (fips, dual) = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT");
    let base = Base::aws_oci("3.12").reference();
    for (variables, host) in [
        (&[][..], "lambda.ap-south-1.amazonaws.com"),
        (&[(fips, "true")], "lambda-fips.ap-south-1.amazonaws.com"),
        (&[(dual, "true")], "lambda.ap-south-1.api.aws"),
        (
            &[("AWS_CONFIG_FILE", profile)],
            "lambda-fips.ap-south-1.api.aws",
        ),
        (
            &[("AWS_CONFIG_FILE", profile), (fips, "false")],
            "lambda.ap-south-1.api.aws",
        ),
    ] {
        let run = with_keys(project.lambimg(["lock", "--quiet", "--base", &base]))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HTTPS_PROXY", hosts.proxy())
            .env("https_proxy", hosts.proxy())
            .env("SSL_CERT_FILE", hosts.authority());
        let variables = variables.iter();
        let run = variables.fold(run, |run, (name, value)| run.env(name, value));
        let outcome = told(run.run());
        assert_eq!(outcome.code, Some(AWS), "{}", outcome.rendering());
        let asked = hosts.asked();
        let asked = asked.last().and_then(|asked| asked.header("host"));
        assert_eq!(asked, Some(host), "{}", outcome.rendering());
    }
}

#[test]
fn a_layers_arn_without_its_version() {
    let arn = ARN.rsplit_once(':').unwrap().0;
    let project = project(&format!("extensions = [{{ layer = '{arn}' }}]\n"));
    let outcome = run_build(&project, &["--quiet"]).run();
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.rendering());
    assert_said!(outcome);
}
