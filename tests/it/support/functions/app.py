"""A function that does what its event names. One image of it serves all tests that run functions."""

import ctypes
import datetime
import decimal
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

calls = 0
seen = []
refused = []


def handler(event, context):
    global calls
    calls += 1
    return globals()["do_" + event["do"]](event, context)


# --- what is returned -------------------------------------------------------------------------


def do_value(event, context):
    return event["value"]


def do_none(event, context):
    pass


def do_tuple(event, context):
    return (1, [2.5, "drei"], {"vier": None, "5": True})


def do_decimal(event, context):
    return {"price": decimal.Decimal("1.10")}


def do_bytes(event, context):
    return b'{"raw": true}'


def do_text_of(event, context):
    return event["letter"] * event["count"]


def do_date(event, context):
    return datetime.date(2026, 1, 15)


def do_nan(event, context):
    return float("nan")


def do_count(event, context):
    return calls


def do_echo_slowly(event, context):
    time.sleep(event.get("seconds", 0))
    return {"number": event["number"], "request": context.aws_request_id, "process": os.getpid()}


# --- what is raised ---------------------------------------------------------------------------


class OrderLost(Exception):
    pass


def do_raise(event, context):
    raise ValueError("so nicht: ü ☃")


def do_raise_own(event, context):
    def inner():
        raise OrderLost(17, "lamp")

    inner()


def do_raise_chained(event, context):
    try:
        return {}["absent"]
    except KeyError as error:
        raise RuntimeError("line one\nline two") from error


def do_raise_empty(event, context):
    raise Exception


def do_exit(event, context):
    print("about to exit", flush=True)
    os._exit(event["code"])


def do_system_exit(event, context):
    sys.exit(event["code"])


def do_kill(event, context):
    os.kill(os.getpid(), signal.SIGKILL)


def do_crash(event, context):
    ctypes.string_at(0)


# --- what is logged ---------------------------------------------------------------------------


def do_print(event, context):
    print("to stdout: ü")
    print("to stderr", file=sys.stderr)
    print("two\nlines")
    return "printed"


def do_log(event, context):
    logger = logging.getLogger("orders")
    root = logging.getLogger()
    if event.get("level"):
        root.setLevel(event["level"])
    for level in ["debug", "info", "warning", "error", "critical"]:
        getattr(logger, level)("at %s", level)
    logger.warning("with more", extra={"order": 17})
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("divided")
    return "logged"


def do_much_log(event, context):
    for number in range(event["lines"]):
        print(f"line {number:06} " + "-" * 80)
    return event["lines"]


# --- what is around it ------------------------------------------------------------------------


def do_context(event, context):
    left = context.get_remaining_time_in_millis()
    identity, client = context.identity, context.client_context
    names = ["aws_request_id", "function_name", "function_version", "invoked_function_arn", "log_group_name"]
    names += ["log_stream_name", "memory_limit_in_mb", "tenant_id"]
    said = {name: getattr(context, name, "none such") for name in names}
    said["identity"] = [identity.cognito_identity_id, identity.cognito_identity_pool_id]
    said["client_context"] = client and {
        "custom": client.custom,
        "env": client.env,
        "client": client.client and vars_of(client.client),
    }
    said["left"] = left
    said["left_is"] = type(left).__name__
    context.log("by the context\n")
    return said


def vars_of(thing):
    names = ["installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name"]
    return {name: getattr(thing, name) for name in names}


def do_left(event, context):
    before = context.get_remaining_time_in_millis()
    time.sleep(0.2)
    return [before, context.get_remaining_time_in_millis()]


def do_env(event, context):
    return {name: os.environ.get(name) for name in event["names"]}


def do_all_env(event, context):
    return dict(os.environ)


def do_where(event, context):
    try:
        open("/var/task/new", "w")
        written = "written"
    except OSError as error:
        written = error.strerror
    return {
        "python": list(sys.version_info[:2]),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "cwd": os.getcwd(),
        "path": sys.path[0],
        "written": written,
        "handler": os.environ["_HANDLER"],
        "shm": os.path.exists("/dev/shm"),
        "own": os.path.basename(os.path.dirname(__file__)),
    }


def do_boto3(event, context):
    import boto3

    return boto3.__version__


def do_remember(event, context):
    with open("/tmp/remembered", "a") as file:
        file.write(event["word"] + "\n")
    with open("/tmp/remembered") as file:
        return file.read().split()


def do_read(event, context):
    with open(event["path"]) as file:
        return file.read()


def do_connect(event, context):
    try:
        socket.create_connection(("127.0.0.1", event["port"]), timeout=2).close()
        return "connected"
    except OSError as error:
        return error.strerror


def do_keyring(event, context):
    """A keyring of the machine's and a key in it, and how many user namespaces there may be."""
    import ctypes
    import platform

    library = ctypes.CDLL(None, use_errno=True)
    numbers = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}
    add_key, request_key, keyctl = numbers[platform.machine()]

    def call(*arguments):
        return "done" if library.syscall(*arguments) >= 0 else os.strerror(ctypes.get_errno())

    with open("/proc/sys/user/max_user_namespaces") as setting:
        namespaces = int(setting.read())
    return {
        "session": call(keyctl, 0, -3, 1),
        "link": call(keyctl, 8, event["ring"], -3),
        "read": call(keyctl, 11, event["key"], ctypes.create_string_buffer(9), 9),
        "add": call(add_key, b"user", b"own", b"x", 1, -4),
        "request": call(request_key, b"user", b"lambimg-test", None, -4),
        "namespaces": namespaces,
    }


def do_exists(event, context):
    return os.path.exists(event["path"])


# --- what is left behind ----------------------------------------------------------------------


def do_sleep(event, context):
    print("going to sleep", flush=True)
    time.sleep(event["seconds"])
    return "awake"


def do_fork(event, context):
    """A family that leaves the session, ignores what can be ignored, and would stay."""
    child = """
import os, signal, time
for number in [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]:
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    os.fork()
time.sleep(600)
"""
    for _ in range(3):
        subprocess.Popen([sys.executable, "-c", child], start_new_session=True, stdout=subprocess.DEVNULL)
    if event.get("seconds"):
        time.sleep(event["seconds"])
    return "forked"


def do_eat(event, context):
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1 << 10)) * 4096)


def do_eat_in_child(event, context):
    code = "import os\neaten = []\nwhile True: eaten.append(bytearray(os.urandom(1024)) * 4096)"
    return subprocess.run([sys.executable, "-c", code]).returncode


def do_hold(event, context):
    held = bytearray(os.urandom(1 << 10)) * (event["megabytes"] << 10)
    return len(held)


def do_fill_tmp(event, context):
    written = 0
    try:
        with open("/tmp/full", "wb", buffering=0) as file:
            while written < event["megabytes"] << 20:
                written += file.write(bytes(1 << 20))
    except OSError as error:
        return error.strerror
    finally:
        os.unlink("/tmp/full")
    return written


# --- extensions inside the runtime ------------------------------------------------------------


def ask(path, headers, body=None):
    url = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2020-01-01/extension/{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request) as answer:
        return answer.headers, json.loads(answer.read())


def be_internal(name):
    try:
        headers, _ = ask("register", {"Lambda-Extension-Name": name}, {"events": ["INVOKE"]})
    except urllib.error.HTTPError as error:
        refused.append([name, error.code, json.loads(error.read())])
        return
    identifier = headers["Lambda-Extension-Identifier"]

    def follow():
        while True:
            _, event = ask("event/next", {"Lambda-Extension-Identifier": identifier})
            seen.append([name, event["eventType"], event["requestId"]])

    threading.Thread(target=follow, daemon=True).start()


for number in range(int(os.environ.get("INTERNAL_EXTENSIONS", "0"))):
    be_internal(f"internal-{number}")

if os.environ.get("INTERNAL_SHUTDOWN"):
    try:
        ask("register", {"Lambda-Extension-Name": "late"}, {"events": ["INVOKE", "SHUTDOWN"]})
    except urllib.error.HTTPError as error:
        refused.append(["late", error.code, json.loads(error.read())])


def do_internal(event, context):
    patience = time.time() + 2
    while not any(entry[2] == context.aws_request_id for entry in seen) and time.time() < patience:
        time.sleep(0.01)
    return {"seen": seen, "refused": refused, "request": context.aws_request_id}


# --- a runtime that errs ----------------------------------------------------------------------


def do_stale(event, context):
    """What is said to an answer for an attempt that is over."""
    api, request = os.environ["AWS_LAMBDA_RUNTIME_API"], context.aws_request_id
    url = f"http://{api}/2018-06-01/runtime/invocation/{request}/response"
    headers = {"Lambda-Runtime-Invocation-Id": event["attempt"]}
    try:
        urllib.request.urlopen(urllib.request.Request(url, data=b'"stale"', headers=headers))
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())]
    return "taken"


# --- the end ----------------------------------------------------------------------------------


def on_sigterm(number, frame):
    print("runtime: SIGTERM was seen", flush=True)
    sys.exit(0)


if os.environ.get("ON_SIGTERM") == "tell":
    signal.signal(signal.SIGTERM, on_sigterm)
elif os.environ.get("ON_SIGTERM") == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

if os.environ.get("INIT") == "raise":
    raise RuntimeError("no start")
if os.environ.get("INIT") == "exit":
    os._exit(7)
if os.environ.get("INIT") == "raise once":
    if not os.path.exists("/tmp/tried"):
        open("/tmp/tried", "w").close()
        raise RuntimeError("no start at first")
if os.environ.get("INIT") == "sleep once":
    if not os.path.exists("/tmp/tried"):
        open("/tmp/tried", "w").close()
        time.sleep(12)
