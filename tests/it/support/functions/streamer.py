"""A runtime of its own: each answer goes out in parts as its event has them, and may end in an error or not at all."""

import base64
import http.client
import json
import os
import random
import socket
import time

API = os.environ["AWS_LAMBDA_RUNTIME_API"]
PATH = "/2018-06-01/runtime/invocation/"
TYPE, BODY = "Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"


def post(path, headers, body):
    connection = http.client.HTTPConnection(API)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return [answer.status, json.loads(answer.read() or "null")]


def parts(event):
    """Texts that the event has, bytes that its seed stands for, or many bytes."""
    yield from (part.encode() for part in event.get("parts", []))
    chance = random.Random(event.get("seed"))
    yield from (chance.randbytes(chance.randrange(1, 100_000)) for _ in range(event.get("count", 0)))
    yield from (bytes(65536) for _ in range(event.get("mebibytes", 0) * 16))


def stream(request, event):
    """By hand: http.client sends no trailers."""
    host, port = API.split(":")
    lines = [f"POST {PATH}{request}/response HTTP/1.1", f"Host: {API}", "Transfer-Encoding: chunked"]
    lines += ["Lambda-Runtime-Function-Response-Mode: streaming", "Content-Type: text/plain"]
    lines += [f"Trailer: {TYPE}, {BODY}", "Connection: close"]
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("".join(line + "\r\n" for line in [*lines, ""]).encode())
        for data in parts(event):
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
            time.sleep(event.get("pause", 0.1))
        if event.get("then") == "exit":
            os._exit(3)
        if event.get("then") == "sleep":
            time.sleep(60)
        if event.get("then") == "break off":
            return
        connection.sendall(b"0\r\n")
        if "error" in event:
            document = base64.b64encode(json.dumps(event["error"]).encode()).decode()
            connection.sendall(f"{TYPE}: {event['error']['errorType']}\r\n{BODY}: {document}\r\n".encode())
        connection.sendall(b"\r\n")
        while connection.recv(65536):
            pass


while True:
    connection = http.client.HTTPConnection(API)
    connection.request("GET", PATH + "next")
    answer = connection.getresponse()
    request, event = answer.headers["Lambda-Runtime-Aws-Request-Id"], json.loads(answer.read())
    if event.keys() & {"parts", "count", "mebibytes"}:
        stream(request, event)
        continue
    if "whole" in event:
        post(f"{PATH}{request}/response", {}, json.dumps(event["whole"]))
        continue
    if "wrong" in event:
        post(f"{PATH}{request}/error", {TYPE: event["wrong"]["errorType"]}, json.dumps(event["wrong"]))
        continue
    if "process" in event:
        post(f"{PATH}{request}/response", {}, json.dumps(os.getpid()))
        continue
    # What a runtime is refused, and what it may then answer all the same.
    said = {
        "another": post(PATH + "4d7e4d2e-0000-4000-8000-000000000000/response", {}, "1"),
        "mode": post(f"{PATH}{request}/response", {"Lambda-Runtime-Function-Response-Mode": "whole"}, "1"),
        "late": post("/2018-06-01/runtime/init/error", {}, "{}"),
        "headers": sorted(name.lower() for name in answer.headers),
    }
    post(f"{PATH}{request}/response", {}, json.dumps(said))
