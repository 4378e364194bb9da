"""An external extension: it tells each event in a line, and keeps what telemetry brings in a file."""

import http.server
import json
import os
import sys
import threading
import time
import urllib.request

API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}"
NAME = sys.argv[1]
PORT = 8181


def ask(method, path, headers, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.status, answer.headers, answer.read()


class Subscriber(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("/tmp/telemetry", "a") as file:
            for event in events:
                file.write(json.dumps(event) + "\n")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words):
        pass


def main():
    _, headers, said = ask(
        "POST", "/2020-01-01/extension/register", {"Lambda-Extension-Name": NAME}, {"events": ["INVOKE", "SHUTDOWN"]}
    )
    print(f"{NAME}: registered {said.decode()}", flush=True)
    identifier = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
    if os.environ.get("TELEMETRY"):
        server = http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Subscriber)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        wanted = {
            "schemaVersion": "2022-12-13",
            "types": ["platform", "function", "extension"],
            "buffering": {"maxItems": 1000, "maxBytes": 262144, "timeoutMs": 25},
            "destination": {"protocol": "HTTP", "URI": f"http://sandbox.localdomain:{PORT}"},
        }
        status, _, said = ask("PUT", "/2022-07-01/telemetry", {**identifier, "Content-Type": "application/json"}, wanted)
        print(f"{NAME}: subscribed {status} {said.decode()}", flush=True)
    while True:
        _, headers, said = ask("GET", "/2020-01-01/extension/event/next", identifier)
        event = json.loads(said)
        print(f"{NAME}: event {json.dumps(event)}", flush=True)
        if event["eventType"] == "SHUTDOWN":
            if os.environ.get("STAY"):
                time.sleep(600)
            break


main()
