"""Calls a function by boto3: what its address is told, and what came back is printed as JSON."""

import base64
import collections
import concurrent.futures
import hashlib
import json
import sys
import threading
import time

import boto3
import botocore.config
import botocore.exceptions

URL, WHAT = sys.argv[1:3]
CLIENTS = 16


def client():
    config = botocore.config.Config(retries={"total_max_attempts": 1}, max_pool_connections=1, read_timeout=120)
    session = boto3.Session("AKIAEXAMPLE", "example", region_name="us-east-1")
    return session.client("lambda", endpoint_url=URL, config=config)


def call(lambda_, event, **more):
    answer = lambda_.invoke(FunctionName="judged", Payload=json.dumps(event).encode(), **more)
    payload = answer["Payload"].read().decode()
    kept = {name: answer[name] for name in ["StatusCode", "FunctionError", "ExecutedVersion"] if name in answer}
    if "LogResult" in answer:
        kept["Log"] = base64.b64decode(answer["LogResult"]).decode()
    headers = answer["ResponseMetadata"]
    return {**kept, "Payload": payload, "RequestId": headers["RequestId"]}


def refused(lambda_, **arguments):
    try:
        lambda_.invoke(**arguments)
    except botocore.exceptions.ClientError as error:
        answer = error.response
        return {
            "class": type(error).__name__,
            "code": answer["Error"]["Code"],
            "status": answer["ResponseMetadata"]["HTTPStatusCode"],
            "message": answer["Error"].get("Message") or answer.get("message"),
        }
    return "not refused"


def each():
    lambda_ = client()
    context = base64.b64encode(json.dumps({"custom": {"wer": "ich ü"}, "env": {}, "client": {}}).encode()).decode()
    said = {
        "sync": call(lambda_, {"do": "value", "value": {"ü": [1, None]}}),
        "by ARN": lambda_.invoke(FunctionName="arn:aws:lambda:us-east-1:123456789012:function:judged", Qualifier="$LATEST", Payload=b'{"do": "none"}')["StatusCode"],
        "dry run": call(lambda_, {"do": "count"}, InvocationType="DryRun"),
        "error": call(lambda_, {"do": "raise"}),
        "tail": call(lambda_, {"do": "print"}, LogType="Tail"),
        "long tail": call(lambda_, {"do": "much_log", "lines": 1000}, LogType="Tail"),
        "context": call(lambda_, {"do": "context"}, ClientContext=context),
        "async": call(lambda_, {"do": "remember", "word": "async"}, InvocationType="Event"),
        "no such function": refused(lambda_, FunctionName="another", Payload=b"{}"),
        "no JSON": refused(lambda_, FunctionName="judged", Payload=b"{broken"),
        "no such qualifier": refused(lambda_, FunctionName="judged", Qualifier="prod", Payload=b"{}"),
        "too large": refused(lambda_, FunctionName="judged", Payload=b'"' + b"x" * (6 << 20) + b'"'),
        "too large async": refused(lambda_, FunctionName="judged", InvocationType="Event", Payload=b'"' + b"x" * (1 << 20) + b'"'),
        "large": len(call(lambda_, {"do": "value", "value": "x" * 5_000_000})["Payload"]),
    }
    patience = time.time() + 10
    while time.time() < patience:
        exists = call(lambda_, {"do": "exists", "path": "/tmp/remembered"})["Payload"]
        if exists == "true":
            break
        time.sleep(0.05)
    said["what the async call left"] = exists
    return said


def many():
    """A thousand calls, each with a number of its own, from clients with a connection each."""
    local = threading.local()

    def one(number):
        if not hasattr(local, "client"):
            local.client = client()
        answer = call(local.client, {"do": "echo_slowly", "number": number, "text": "x" * (number * 7 % 2000)})
        payload = json.loads(answer["Payload"])
        return number, payload["number"], answer["RequestId"], payload["request"], payload["process"]

    # A session is made by one thread at a time, for botocore's loaders are shared.
    client()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(one, range(1000)))
    return {
        "answered": len(done),
        "mixed up": [entry for entry in done if entry[0] != entry[1] or entry[2] != entry[3]],
        "requests": len({entry[2] for entry in done}),
        "calls of each environment": sorted(collections.Counter(entry[4] for entry in done).values()),
    }


def stream(lambda_, event, leave_after=None, wait=0, **more):
    """One call whose answer is streamed; may be left after some bytes, or not be read for a while."""
    answer = lambda_.invoke_with_response_stream(FunctionName="judged", Payload=json.dumps(event).encode(), **more)
    time.sleep(wait)
    began, digest = time.monotonic(), hashlib.sha256()
    said = {"StatusCode": answer["StatusCode"], "type": answer.get("ResponseStreamContentType"), "version": answer.get("ExecutedVersion")}
    said["headers"] = answer["ResponseMetadata"]["HTTPHeaders"]
    said |= {"chunks": [], "times": [], "bytes": 0, "complete": []}
    for one in answer["EventStream"]:
        if "PayloadChunk" in one:
            payload = one["PayloadChunk"]["Payload"]
            digest.update(payload)
            said["bytes"] += len(payload)
            if len(said["chunks"]) < 10:
                said["chunks"].append(payload[:100].decode(errors="replace"))
                said["times"].append(time.monotonic() - began)
            if leave_after and said["bytes"] >= leave_after:
                answer["EventStream"].close()
                return said
        else:
            complete = one["InvokeComplete"]
            if "LogResult" in complete:
                complete["LogResult"] = base64.b64decode(complete["LogResult"]).decode()
            said["complete"].append(complete)
            said["times"].append(time.monotonic() - began)
    said["sha256"] = digest.hexdigest()
    return said


def streams():
    """As its argument has them: a list of an event and more arguments for each call, one after the other."""
    lambda_ = client()
    done = []
    for event, more in json.loads(sys.argv[3]):
        try:
            done.append(stream(lambda_, event, **more))
        except botocore.exceptions.ClientError as error:
            done.append(error.response["Error"])
    return done


print(json.dumps({"each": each, "many": many, "streams": streams}[WHAT]()))
