//! AWS as far as loopback goes: moto for ECR's control API and STS, and a proxy that ends TLS, so that hosts
//! keep their real names.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::http;
use crate::support::process::Process;
use crate::support::process::command;
use crate::support::process::run;
use crate::support::program;
use crate::support::python;
use crate::support::server::Asked;
use crate::support::server::Reply;
use crate::support::server::Server;
use crate::support::tool;

/// The account that moto has everything in, and that has the registry of the tests.
pub(crate) const ACCOUNT: &str = "123456789012";
/// A private registry's name.
pub(crate) const PRIVATE: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
/// The public gallery's name.
pub(crate) const PUBLIC: &str = "public.ecr.aws";
/// Lambda's names in one region, as certificates have them.
const LAMBDA: &str = "DNS:*.ap-south-1.amazonaws.com,DNS:*.ap-south-1.api.aws";

/// Where moto answers; one for all tests.
pub(crate) fn moto() -> &'static str {
    static MOTO: OnceLock<(Process, TempDir, String)> = OnceLock::new();
    let (_, _, address) = MOTO.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut server = command(python("3.12"));
        server.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        server.env("PYTHONPATH", tool("moto"));
        let mut process = Process::start(server, directory.path().join("log"));
        let address = process.wait_for("moto", |log| {
            let (_, rest) = log.split_once("Running on ")?;
            let (address, _) = rest.split_once('\n')?;
            Some(address.trim().to_owned())
        });
        process.wait_for("moto", |_| {
            http::send("GET", &address, &[], Vec::new()).ok()
        });
        (process, directory, address)
    });
    address
}

/// Reads one request of each tunnel and hands it, and what comes back, on without TLS.
const TUNNELS: &str = r#"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
host, port = sys.argv[2].rsplit(":", 1)
def read_head(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise OSError("gone")
        head += byte
    return head
def serve(client):
    try:
        read_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        client = context.wrap_socket(client, server_side=True)
        head = read_head(client)
        lines = head.decode().lower().split("\r\n")
        left = sum(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
        with socket.create_connection((host, int(port))) as server:
            server.sendall(head)
            while left > 0:
                data = client.recv(left)
                server.sendall(data)
                left -= len(data)
            while data := server.recv(65536):
                client.sendall(data)
        client.unwrap()
    except OSError:
        pass
    finally:
        client.close()
listener = socket.create_server(("127.0.0.1", 0))
print("port", listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"#;

/// Answers for the registries of ECR and for Lambda, under their own names and over TLS.
pub(crate) struct Ecr {
    server: Server,
    directory: TempDir,
    proxy: String,
    _process: Process,
}

impl Ecr {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Ecr {
        let server = Server::start(answer);
        let directory = tempfile::tempdir().expect("a temporary directory");
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
            "req {key} -subj /CN=ecr -keyout own.key -out own.csr"
        ));
        let path = |name: &str| directory.path().join(name);
        let names =
            format!("subjectAltName=DNS:{PRIVATE},DNS:{PUBLIC},DNS:other.example,{LAMBDA}\n");
        fs::write(path("names"), names).expect("a file can be written");
        openssl(
            "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out own.crt",
        );
        let both =
            ["own.key", "own.crt"].map(|name| fs::read(path(name)).expect("openssl wrote it"));
        fs::write(path("own.pem"), both.concat()).expect("a file can be written");
        fs::write(path("tunnels.py"), TUNNELS).expect("a file can be written");
        let mut tunnels = command(python("3.12"));
        tunnels.arg(path("tunnels.py")).arg(path("own.pem"));
        tunnels.arg(server.address());
        let mut process = Process::start(tunnels, path("log"));
        let port = process.wait_for("the tunnels", |log| {
            let port = log.lines().find_map(|line| line.strip_prefix("port "));
            port.map(str::to_owned)
        });
        Ecr {
            server,
            proxy: format!("http://127.0.0.1:{port}"),
            directory,
            _process: process,
        }
    }

    /// Where everything outside is reached by.
    pub(crate) fn proxy(&self) -> &str {
        &self.proxy
    }

    /// Who vouches for the names.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.server.asked()
    }
}
