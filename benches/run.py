#!/usr/bin/env python3
"""The benchmarks: lambimg against its peers on the same input in the same run.

    benches/run.py [--only a,push] [--runs N] [--sets data] [--wheel-mib 64]

Installs what it needs, builds the release binary, prints ratios beside the targets and writes BENCHMARKS.md; ends
with 1 when a part that it ran missed a target. Parts that are not run keep what BENCHMARKS.md says of them, until
they are taken out of it by hand, and benches/layering/RESULTS.md goes in as it is. Only Python's standard library is used; everything else
happens in target/bench. Every peer gets its best chance: warm caches, no bytecode, the fastest storage driver
that works here, base images pulled before.
"""

import argparse
import base64
import collections
import gzip
import hashlib
import io
import itertools
import json
import os
import platform
import random
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
WORK = TARGET / "bench"
STORE = WORK / "store"
LAMBIMG = TARGET / "release/lambimg"
DOCUMENT = ROOT / "BENCHMARKS.md"
MIB = 1 << 20
MET = "met"
ONE_CHANGED = "wheels, one changed"
# Growth without a step: how much dearer a unit may get, and the seconds that are noise.
NO_STEP, NOISE = 1.4, 0.005
# How a Dockerfile has the dependencies.
COPIED = "dependencies copied in the Dockerfile"
OWN_IMAGE = "dependencies in an image of their own"
PARTS = ["a", "b", "c", "d", "e", "f", "push", "thousand", "inner", "bytecode", "imports", "cache", "functions"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", default="", help=f"parts of {','.join(PARTS)}")
    arguments.add_argument("--runs", type=int, default=5, help="runs of each whole command (default 5)")
    arguments.add_argument("--sets", default="data,large", help="sets of packages (default data,large)")
    arguments.add_argument("--wheel-mib", type=int, default=1024, help="size of the wheel of part d (default 1024)")
    given = arguments.parse_args()
    wanted = [part for part in given.only.split(",") if part] or PARTS
    unknown = set(wanted) - set(PARTS)
    if unknown:
        arguments.error(f"there is no part {', '.join(sorted(unknown))}")
    WORK.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.runs, given.sets.split(","), given.wheel_mib)
    targets = []
    try:
        bench.prepare()
        for name in PARTS:
            if name in wanted:
                say(f"part {name}")
                part = getattr(bench, f"part_{name}")()
                targets += part.targets
                DOCUMENT.write_text(document(DOCUMENT.read_text(), part, bench.machine()))
    finally:
        if bench.registry:
            bench.registry.stop()
    print(targets_table(targets))
    sys.exit(1 if any(row[-1] != MET for row in targets) else 0)


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a command to its end; what it said is shown only when it fails."""
    options.setdefault("env", bench_environment())
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"bench: {shlex.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def bench_environment():
    loopback = "127.0.0.1,localhost"
    return os.environ | {
        "LAMBIMG_CACHE_DIR": str(STORE),
        # Peers compile none either; its own parts turn it on.
        "LAMBIMG_BYTECODE": "false",
        "UV_CACHE_DIR": str(WORK / "uv"),
        "PATH": f"{TARGET / 'test-tools'}:{os.environ['PATH']}",
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


# --- Results ----------------------------------------------------------------------------------


class Part:
    """What a part of the benchmarks found: paragraphs and tables, and what became of its targets."""

    def __init__(self, title):
        self.title, self.text, self.targets = title, [], []

    def say(self, text):
        self.text.append(text)

    def table(self, header, rows):
        lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [header, ["---"] * len(header), *rows]]
        self.text.append("\n".join(lines))
        print(f"\n{self.title}\n" + "\n".join(lines), flush=True)

    def target(self, what, wanted, result, is_met):
        self.targets.append([what, wanted, result, MET if is_met else "**missed**"])


def targets_table(rows):
    header = ["what", "target", "result", ""]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * 4, *rows])


def document(before, part, machine):
    """BENCHMARKS.md with this part in it, anew or in its place."""
    sections = dict(section.strip().split("\n\n", 1) for section in re.split(r"^## ", before, flags=re.M)[1:])
    rows = [line.strip("| ").split(" | ") for line in sections.get("Targets", "").splitlines()[2:]]
    rows = {row[0]: row for row in [*rows, *part.targets]}
    layering, moved = (ROOT / "benches/layering/RESULTS.md").read_text().strip().removeprefix("## ").split("\n\n", 1)
    sections.pop(layering, None)
    sections = {"Targets": "", "Machine": ""} | sections | {part.title: "\n\n".join(part.text)}
    sections |= {"Targets": targets_table(rows.values()), "Machine": machine, layering: moved}
    return "\n\n".join(
        [
            "# Benchmarks",
            "Written by `make bench` (`benches/run.py`), which runs lambimg and its peers on the same input in the same"
            " run; a part alone: `make bench ONLY=a,c`. Times are medians.",
            *(f"## {title}\n\n{text}" for title, text in sections.items()),
        ]
    ) + "\n"


def seconds(value):
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def mib(count):
    return f"{count / MIB:.1f} MiB"


def times(ratio):
    return f"{ratio:.1f} ×" if ratio < 100 else f"{ratio:.0f} ×"


# --- Measuring --------------------------------------------------------------------------------


Command = collections.namedtuple("Command", "name line prepare", defaults=["true"])


def race(commands, runs, warmup=1):
    """The median wall time in seconds of each command, by hyperfine."""
    exported = WORK / "hyperfine.json"
    line = ["hyperfine", "--style", "none", "--warmup", str(warmup), "--runs", str(runs), "--export-json", str(exported)]
    for command in commands:
        line += ["--prepare", command.prepare, "--command-name", command.name, command.line]
    run(*line)
    medians = [result["median"] for result in json.loads(exported.read_text())["results"]]
    for command, median in zip(commands, medians):
        say(f"  {command.name}: {seconds(median)}")
    return medians


def usage(line, runs):
    """Medians of CPU and wall time, in seconds, of a command after a first run that does not count."""
    log = os.open(os.devnull, os.O_WRONLY)
    words, environment = shlex.split(line), bench_environment()
    cpu, wall = [], []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        process = os.posix_spawnp(
            words[0], words, environment, file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        )
        _, status, used = os.wait4(process, 0)
        wall.append(time.perf_counter() - begun)
        cpu.append(used.ru_utime + used.ru_stime)
        if status != 0:
            sys.exit(f"bench: {line} failed")
    os.close(log)
    return statistics.median(cpu[1:]), statistics.median(wall[1:])


def peak(line):
    """The most memory that a command had resident, in bytes, by time(1)."""
    said = WORK / "time.txt"
    run("/usr/bin/time", "-f", "%M", "-o", said, *shlex.split(line))
    return int(said.read_text().split()[-1]) * 1024


def trace_blobs(line):
    """How often a command opens each blob of the store, and how many bytes of it are read or mapped."""
    traces = WORK / "strace"
    shutil.rmtree(traces, ignore_errors=True)
    traces.mkdir()
    calls = "?open,openat,?openat2,read,readv,pread64,preadv,?preadv2,mmap,sendfile,copy_file_range,splice"
    run("strace", "-ff", "-y", "-s", "0", "-qq", "-e", f"trace={calls}", "-o", traces / "of", *shlex.split(line))
    opened, read = collections.Counter(), collections.Counter()
    # A file a thread, so no call is cut in two; an open names the file in its result, a read in what it is given.
    for call in itertools.chain.from_iterable(open(trace) for trace in traces.iterdir()):
        found = re.search(r"<[^<>]*/blobs/sha256/([0-9a-f]{64})>", call)
        result = re.search(r" = (\d+)", call)
        if found and call.startswith("open"):
            opened[found.group(1)] += 1
        elif found and call.startswith("mmap"):
            read[found.group(1)] += int(call.split(", ")[1])
        elif found and result:
            read[found.group(1)] += int(result.group(1))
    return opened, read


def is_archive(path):
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


# --- The peers' and our own surroundings ------------------------------------------------------


class Registry:
    """Debian's docker-registry on a free port of loopback."""

    def __init__(self, name="registry"):
        self.directory = directory = WORK / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        settings = directory / "registry.yml"
        settings.write_text(
            "version: 0.1\nlog: {accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory}/storage}}}}\n"
            'http: {addr: "127.0.0.1:0", secret: loopback}\n'
        )
        log = directory / "log"
        with open(log, "w") as out:
            self.process = subprocess.Popen(["docker-registry", "serve", settings], stdout=out, stderr=out)
        for _ in range(100):
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
            if found:
                self.address = found.group(1)
                return
            time.sleep(0.1)
        sys.exit(f"bench: docker-registry did not start:\n{log.read_text()}")

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Bench:
    def __init__(self, runs, chosen, wheel_mib):
        self.runs, self.chosen, self.wheel_mib = runs, chosen, wheel_mib
        self.registry = None

    def prepare(self):
        chosen = run(sys.executable, ROOT / "tests/tools.py", "--bench").split()
        self.python = Path(chosen[1]) / f"python{chosen[0]}"
        self.version = chosen[0]
        say("building the release binary")
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        shutil.rmtree(STORE, ignore_errors=True)
        self.registry = Registry()
        self.make_base()
        self.find_driver()

    def make_base(self):
        """An image in the shape of Lambda's own, of this machine's Python: no public registry is asked."""
        say("making the base image")
        self.base = f"{self.registry.address}/lambda/python:{self.version}"
        project = self.project("base", {"app.py": "def handler(event, context): pass\n"})
        run(LAMBIMG, "build", project, "--base", "host", "--interpreter", self.python, "-t", self.base, "--push")

    def find_driver(self):
        """The fastest way of buildah's to keep layers that works here."""
        containers = WORK / "containers"
        context = WORK / "driver"
        shutil.rmtree(containers, ignore_errors=True)
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        fuse = "--storage-driver overlay --storage-opt overlay.mount_program=/usr/bin/fuse-overlayfs"
        candidates = {"overlay": "--storage-driver overlay", "fuse-overlayfs": fuse, "vfs": "--storage-driver vfs"}
        for name, options in candidates.items():
            self.buildah = f"buildah --root {containers}/{name} --runroot {containers}/{name}-run {options}"
            tried = f"{self.buildah} bud --isolation chroot -t driver {context}"
            if subprocess.run(shlex.split(tried), capture_output=True).returncode == 0:
                self.driver = name
                say(f"buildah keeps layers by {name}")
                run(*shlex.split(f"{self.buildah} pull --tls-verify=false {self.base}"))
                return
        sys.exit("bench: buildah builds nothing here, by whatever storage driver")

    def bud(self, context, tag, options=""):
        return f"{self.buildah} bud --isolation chroot --pull-never {options} -t {tag} {context}"

    def project(self, name, files):
        """A project with these files, without what earlier runs left in it."""
        directory = WORK / "projects" / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        settings = f'[tool.lambimg]\npython = "{self.version}"\nhandler = "app.handler"\n'
        for path, content in ({"pyproject.toml": settings} | files).items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(content)
        return directory

    def sets(self):
        """The two sets of packages, each as a project with a lock that both sides read."""
        sources = {"data": ROOT / "examples/data", "large": ROOT / "benches/large"}
        for name, source in sources.items():
            if name not in self.chosen:
                continue
            project = self.project(name, {"app.py": (source / "app.py").read_text()})
            self.lock(project, source)
        return self.chosen

    def lock(self, project, source):
        """Locks the requirements of `source` for the project, as both sides read them."""
        run(
            *["uv", "pip", "compile", "--quiet", "--generate-hashes", "--only-binary", ":all:"],
            *["--python-version", self.version, "--python-platform", f"{platform.machine()}-manylinux_2_28"],
            *["-o", project / "pylock.toml", source / "requirements.txt"],
        )

    def build(self, name, options=""):
        return f"{LAMBIMG} build {WORK}/projects/{name} --base {self.base} -t {name} {options}".strip()

    def wheels_only(self):
        """Makes a copy of the store as fetching alone leaves it: wheels, and that they were proven; no layer."""
        kept = WORK / "wheels-only"
        shutil.rmtree(kept, ignore_errors=True)
        (kept / "blobs/sha256").mkdir(parents=True)
        for blob in (STORE / "blobs/sha256").iterdir():
            if is_archive(blob):
                os.link(blob, kept / "blobs/sha256" / blob.name)
        proven = STORE / "memo/directory"
        if proven.exists():
            shutil.copytree(proven, kept / "memo/directory", copy_function=os.link)
        return f"rm -rf {STORE} && cp -al {kept} {STORE}"

    def metadata(self, line):
        said = WORK / "metadata.json"
        run(*shlex.split(f"{line} --metadata-file {said}"))
        return json.loads(said.read_text())

    def machine(self):
        cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
        memory = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemTotal")) / MIB
        version = lambda *command: run(*command).split("\n")[0].strip()
        pigz = subprocess.run(["pigz", "--version"], capture_output=True, text=True)
        facts = {
            "processor": f"{os.cpu_count()} × {cpu}",
            "memory": f"{memory:.0f} GiB",
            "kernel": platform.release(),
            "lambimg": version(LAMBIMG, "--version"),
            "uv": version("uv", "--version"),
            "buildah": f"{version('buildah', '--version')}, storage driver {self.driver}, isolation chroot",
            "gzip": version("gzip", "--version"),
            "pigz": (pigz.stdout + pigz.stderr).strip(),
            "tar": version("tar", "--version"),
            "hyperfine": version("hyperfine", "--version"),
        }
        return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())

    # --- (a), (f) -----------------------------------------------------------------------------

    def part_a(self):
        part = Part("(a) Cold layers, wheels fetched")
        part.say(
            "Before each run of ours the store holds the wheels, proven as they were fetched, and nothing else: no layer,"
            " no base. Before each run of a peer its target directory is gone, uv's cache is warm (it keeps wheels unpacked)"
            " and the base is pulled. uv compiles no bytecode, and neither do we. `buildah bud` compresses nothing,"
            " so it is also timed with what makes gzip layers of its image, as ours are: `buildah push oci:`."
        )
        rows, smallest = [], {}
        for name in self.sets():
            figures = self.cold(name)
            ours = figures["lambimg build"]
            rows += [[name, who, seconds(time), times(time / ours)] for who, time in figures.items()]
            for who in ["buildah", "gzip"]:
                of = [time / ours for key, time in figures.items() if who in key and "push" not in key]
                smallest[who] = min([*of, *([smallest[who]] if who in smallest else [])])
            rows.append([name, "layer bytes, ours / tar and gzip -6", *self.layer_bytes(name, part)])
        part.table(["set", "command", "median", "against ours"], rows)
        part.target("(a) against uv + buildah bud", "≥ 10 ×", times(smallest["buildah"]), smallest["buildah"] >= 10)
        part.target("(a) against uv + tar + gzip -6", "≥ 10 ×", times(smallest["gzip"]), smallest["gzip"] >= 10)
        return part

    def cold(self, name):
        context = WORK / "contexts" / name
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        shutil.copy(WORK / "projects" / name / "app.py", context)
        dockerfile = f'FROM {self.base}\nCOPY deps/ /var/task/\nCOPY app.py /var/task/\nCMD ["app.handler"]\n'
        (context / "Dockerfile").write_text(dockerfile)
        install = (
            f"uv pip install --quiet --no-deps --python {self.python} --target {context}/deps"
            f" -r {WORK}/projects/{name}/pylock.toml"
        )
        run(*shlex.split(install))
        run(*shlex.split(self.build(name)))
        forget = self.wheels_only()
        clean = f"rm -rf {context}/deps {context}/oci; {self.buildah} rmi --prune >/dev/null 2>&1 || true"
        tar = f"tar --sort=name --mtime=@315532800 --owner=0 --group=0 --numeric-owner -C {context}/deps -cf - ."
        bud = f"{install} --offline && {self.bud(context, f'cold-{name}', '--no-cache')}"
        commands = [
            Command("lambimg build", self.build(name), forget),
            Command("uv pip install + tar + gzip -6", f"{install} --offline && {tar} | gzip -6 > {context}.tar.gz", clean),
            Command("uv pip install + tar + pigz", f"{install} --offline && {tar} | pigz > {context}.pigz.tar.gz", clean),
            Command("uv pip install + buildah bud", bud, clean),
            Command(
                "uv pip install + buildah bud + push oci:", f"{bud} && {self.buildah} push cold-{name} oci:{context}/oci:x", clean
            ),
        ]
        return dict(zip((command.name for command in commands), race(commands, self.runs)))

    def dependency_layers(self, metadata):
        return [layer for layer in metadata["layers"] if layer["what"].startswith("dependencies")]

    def layer_bytes(self, name, part):
        made = self.dependency_layers(self.metadata(self.build(name)))
        ours, theirs = sum(layer["size"] for layer in made), (WORK / "contexts" / f"{name}.tar.gz").stat().st_size
        ratio = ours / theirs
        part.target(f"(a) layer bytes against gzip -6, {name}", "≤ 1.02 ×", f"{ratio:.3f} ×", ratio <= 1.02)
        return [f"{mib(ours)} / {mib(theirs)}", f"{ratio:.3f} ×"]

    def part_f(self):
        part = Part("(f) Share of the limit")
        part.say(
            "The limit is what `benches/limit.rs` takes to inflate every member of the wheels once (zlib-rs) and to hash"
            " the compressed and the inflated bytes once, on all processors, with no order kept and nothing written."
            " The second limit hashes the inflated bytes twice: a file's hash in RECORD, which a wheel must be checked"
            " against in the same pass, is another sha256 of the same bytes. It is the least that a build can do, so the"
            " target is judged against it; the first, which no build that checks RECORD can reach, stands beside it."
        )
        rows, worst, worst_without = [], 0, 0
        for name in self.sets():
            wheels = self.wheels_of(name)
            forget = self.wheels_only()
            ours = race([Command(f"lambimg build, {name}", self.build(name), forget)], self.runs)[0]
            said = run("cargo", "bench", "--quiet", "--bench", "limit", "--", *wheels, cwd=ROOT, env=bench_environment())
            limit = json.loads(said)
            ratio, with_record = ours / limit["seconds"], ours / limit["seconds_with_record"]
            worst, worst_without = max(worst, with_record), max(worst_without, ratio)
            sizes = f"{len(wheels)} wheels, {limit['members']} members, {mib(limit['inflated'])}"
            rows.append([name, sizes, seconds(ours), seconds(limit["seconds"]), f"{ratio:.2f} ×"])
            rows.append([f"{name}, with RECORD", sizes, seconds(ours), seconds(limit["seconds_with_record"]), f"{with_record:.2f} ×"])
        part.table(["set", "input", "lambimg build", "limit", "ours / limit"], rows)
        found = f"{worst:.2f} × ({worst_without:.2f} × without RECORD's hashes)"
        part.target("(f) against the limit of inflate + sha256, RECORD's hashes too", "≤ 1.4 ×", found, worst <= 1.4)
        return part

    def wheels_of(self, name):
        packages = self.metadata(self.build(name))["packages"]
        return [STORE / "blobs/sha256" / package["sha256"] for package in packages]

    # --- (b), (c) -----------------------------------------------------------------------------

    def contexts(self, name):
        """Two contexts for buildah: one that copies the dependencies, one on an image that has them."""
        install = WORK / "contexts" / f"{name}-warm"
        bare = WORK / "contexts" / f"{name}-on-image"
        for context in [install, bare]:
            shutil.rmtree(context, ignore_errors=True)
            context.mkdir(parents=True)
            shutil.copy(WORK / "projects" / name / "app.py", context)
        run(
            *f"uv pip install --quiet --no-deps --python {self.python} --target {install}/deps"
            f" -r {WORK}/projects/{name}/pylock.toml".split()
        )
        (install / "Dockerfile").write_text(f"FROM {self.base}\nCOPY deps/ /var/task/\n")
        run(*shlex.split(self.bud(install, f"{name}-dependencies", "--layers")))
        (bare / "Dockerfile").write_text(f'FROM localhost/{name}-dependencies\nCOPY app.py /var/task/\nCMD ["app.handler"]\n')
        (install / "Dockerfile").write_text(
            f'FROM {self.base}\nCOPY deps/ /var/task/\nCOPY app.py /var/task/\nCMD ["app.handler"]\n'
        )
        return {COPIED: install, OWN_IMAGE: bare}

    def part_b(self):
        part = Part("(b) One handler line changed, built and pushed")
        part.say(
            "To a docker-registry on loopback that has everything but the changed layer; `examples/data` and the large set."
            " The target is judged by one Dockerfile that copies the dependencies and then the handler, with its layers"
            " kept by `--layers`. Whoever keeps the dependencies in an image of their own, built by hand when they"
            " change, spares buildah the hashing of all their files; that stands beside it."
        )
        rows, least = [], {}
        for name in self.sets():
            app = WORK / "projects" / name / "app.py"
            app.write_text(app.read_text() + "REVISION = 0\n")
            edit = lambda directory: f"sed -i \"s/^REVISION = .*/REVISION = $(date +%s%N)/\" {directory}/app.py"
            line = f"{self.build(name)} -t {self.registry.address}/ours/{name}:latest --push"
            commands = [Command("lambimg build --push", line, edit(app.parent))]
            contexts = self.contexts(name)
            for how, context in contexts.items():
                tag, remote = f"{name}-warm", f"docker://{self.registry.address}/peer/{name}:latest"
                bud = self.bud(context, tag, "--layers")
                line = f"{bud} && {self.buildah} push --tls-verify=false {tag} {remote}"
                commands.append(Command(f"buildah bud --layers + push, {how}", line, edit(context)))
            medians = race(commands, self.runs)
            rows += [[name, c.name, seconds(m), times(m / medians[0])] for c, m in zip(commands, medians)]
            for how, median in zip(contexts, medians[1:]):
                least[how] = min(median / medians[0], least.get(how, float("inf")))
        part.table(["set", "command", "median", "against ours"], rows)
        copied = least[COPIED]
        found = f"{times(copied)} ({times(least[OWN_IMAGE])} with {OWN_IMAGE})"
        part.target("(b) code change, build + push, against buildah bud --layers + push", "≥ 30 ×", found, copied >= 30)
        return part

    def part_c(self):
        part = Part("(c) Nothing changed")
        part.say("CPU is user and system time of the process and all its children.")
        rows, most = [], collections.defaultdict(float)
        for name in self.sets():
            ours = self.unchanged(name)
            peers = {
                f"buildah bud --layers, {how}": self.bud(context, f"{name}-nothing", "--layers")
                for how, context in self.contexts(name).items()
            }
            for who, line in (ours | peers).items():
                cpu, wall = usage(line, 20 if who in ours else self.runs)
                say(f"  {who}: {seconds(cpu)} of CPU, {seconds(wall)}")
                rows.append([name, who, seconds(cpu), seconds(wall)])
                most[who] = max(most[who], cpu)
        part.table(["set", "command", "CPU", "wall"], rows)
        for who in ours:
            part.target(f"(c) nothing changed, CPU of {who}", "< 50 ms", seconds(most[who]), most[who] < 0.05)
        self.check_reads(part)
        return part

    def unchanged(self, name):
        host = f"{LAMBIMG} build {WORK}/projects/{name} --base host --interpreter {self.python} -t {name}-host"
        return {"lambimg build, base in a registry": self.build(name), "lambimg build, `--base host`": host}

    def check_reads(self, part):
        """Which blobs of the store a build opens and reads that finds everything made."""
        name = self.chosen[-1]
        self.check_trace()
        rows, most_opened, most_read = [], 0, 0
        for who, line in self.unchanged(name).items():
            said = WORK / "reads.json"
            run(*shlex.split(f"{line} --metadata-file {said}"))
            layers = {layer["digest"].removeprefix("sha256:") for layer in json.loads(said.read_text())["layers"]}
            opened, read = trace_blobs(line)
            sizes = {digest: (STORE / "blobs/sha256" / digest).stat().st_size for digest in opened}
            # Wheels and layers are all that is large: the rest are manifests and configurations.
            large = [digest for digest in opened if digest in layers or is_archive(STORE / "blobs/sha256" / digest)]
            most_opened = max(most_opened, *opened.values(), 0)
            most_read = max([most_read, *(read[digest] / sizes[digest] for digest in read)])
            rows.append([name, who, len(opened), max(opened.values(), default=0), sum(read.values()), len(large)])
        part.say(
            "What a build reads of the store, by `strace`; the same trace of `sha256sum BLOB BLOB` shows the blob opened and read"
            " twice. Only manifests and configurations are opened, unless the last column says otherwise."
        )
        part.table(["set", "command", "blobs opened", "most times one", "bytes read", "layers and wheels opened"], rows)
        found = f"opened at most {most_opened} ×, read at most {most_read:.2f} ×"
        part.target("(c) no blob read twice", "≤ 1 ×", found, most_opened <= 1 and most_read <= 1)

    def check_trace(self):
        """A check that sees nothing would always hold: what is read twice must show as such."""
        blob = min((STORE / "blobs/sha256").iterdir())
        opened, read = trace_blobs(f"sha256sum {blob} {blob}")
        if opened[blob.name] != 2 or read[blob.name] != 2 * blob.stat().st_size:
            sys.exit(f"bench: strace does not show that sha256sum reads a blob twice: {opened}, {read}")

    # --- (d) ----------------------------------------------------------------------------------

    def part_d(self):
        part = Part("(d) Peak resident memory")
        wheel = self.giant_wheel()
        part.say(
            f"`/usr/bin/time -f %M`, the most of {self.runs} runs, cold as in (a). The giant is a wheel of"
            f" {mib(wheel.stat().st_size)}: {self.wheel_mib} MiB of noise and as many of text, each in four members."
        )
        rows, most = [], 0
        self.project_of_wheels("giant", [wheel])
        self.sets()
        for name in ["giant", *self.chosen]:
            remote = f"-t {self.registry.address}/memory/{name}:latest --push"
            made = self.dependency_layers(self.metadata(self.build(name)))
            forget = self.wheels_only()
            for what, line in [("build", self.build(name)), ("build --push", self.build(name, remote))]:
                resident = max(self.cold_peak(forget, line) for _ in range(self.runs))
                say(f"  {name}, {what}: {mib(resident)}")
                most = max(most, resident)
                rows.append([name, what, mib(sum(layer["size"] for layer in made)), f"{resident / 1e6:.1f} MB"])
        part.table(["input", "command", "layers made", "peak"], rows)
        part.target("(d) peak resident memory", "< 80 MB", f"{most / 1e6:.1f} MB", most < 80e6)
        return part

    def cold_peak(self, forget, line):
        run("sh", "-c", forget)
        # A push uploads nothing that its registry has, so each run starts with another repository.
        return peak(line.replace("/memory/", f"/memory{time.monotonic_ns()}/"))

    def giant_wheel(self):
        noise, size = random.Random(1), self.wheel_mib * MIB // 4
        line = b"%07d,the quick brown fox jumps over the lazy dog,%07d\n"
        text = b"".join(line % (n, n * 7919 % 9999991) for n in range(0, MIB // 32))

        def members():
            for number in range(4):
                yield f"noise{number}.bin", (noise.randbytes(MIB) for _ in range(size // MIB))
            for number in range(4):
                yield f"text{number}.csv", (text[:MIB] for _ in range(size // MIB))

        return make_wheel("giant", members(), level=1, directory=f"giant{self.wheel_mib}")

    def project_of_wheels(self, name, wheels):
        project = self.project(name, {"app.py": "def handler(event, context):\n    return 1\n"})
        packages = []
        for wheel in wheels:
            package = wheel.name.split("-")[0]
            sha256 = hashlib.file_digest(open(wheel, "rb"), "sha256").hexdigest()
            packages.append(
                f'[[packages]]\nname = "{package}"\nversion = "1.0"\n'
                f'wheels = [{{ name = "{wheel.name}", path = "{os.path.relpath(wheel, project)}",'
                f' hashes = {{ sha256 = "{sha256}" }} }}]\n'
            )
        head = f'lock-version = "1.0"\ncreated-by = "bench"\nrequires-python = ">={self.version}"\n\n'
        (project / "pylock.toml").write_text(head + ("\n".join(packages) or "packages = []\n"))

    # --- (e) ----------------------------------------------------------------------------------

    def part_e(self):
        part = Part("(e) Growth")
        part.say(
            "Wheels of 1 MiB each, cold as in (a); one of them changed; function files of 64 KiB each, half noise, new"
            " (`--no-cache`) and unchanged. The fixed cost is the row of nothing: the same command on a project without"
            " wheels or data. The share of a unit is the time beyond it, over the units: a wheel, a MiB of files, or, where"
            f" one wheel changed, a MiB of layers made anew. No step: from row to row no unit gets more than {NO_STEP}"
            f" times dearer, {seconds(NOISE)} of noise apart. Judged apart by the same measure is what one changed wheel"
            " costs among 100 against among 10: with more wheels than layers, its layer is made anew with others in it."
        )
        rows, steps = [], []
        measured = self.growth()
        for what, points in measured.items():
            fixed = points[0][2]
            shares = [(median - fixed) / units for _, units, median in points[1:]]
            rows.append([what, *points[0][:2], seconds(fixed), "", ""])
            for (count, units, median), share in zip(points[1:], shares):
                of_ten = f"{share / shares[1]:.2f}" if shares[1] > 0 else ""
                rows.append([what, count, f"{units:.3g}", seconds(median), f"{share * 1000:.2f} ms", of_ten])
            for (_, units, median), (count, more, dearer) in itertools.pairwise(points[1:]):
                if dearer - fixed > NO_STEP * more / units * (median - fixed + NOISE):
                    steps.append(f"{what} at {count}")
        part.table(["what", "count", "units", "median", "a unit", "of the unit at 10"], rows)
        among_ten, among_hundred = (median for _, _, median in measured[ONE_CHANGED][2:])
        ratio = among_hundred / among_ten
        part.target("(e) growth with what is new", "linear", "a step: " + ", ".join(steps) if steps else "linear", not steps)
        part.target("(e) one wheel changed of 100, against one of 10", f"≤ {NO_STEP} ×", times(ratio), ratio <= NO_STEP)
        return part

    def growth(self):
        """Of each series its points: count, units of work and seconds; the first is of no units."""
        noise = random.Random(2)
        wheels = [small_wheel(f"part{number:03}", noise) for number in range(100)]
        measured = collections.defaultdict(list)
        for count in [0, 1, 10, 100]:
            name = f"wheels{count}"
            self.project_of_wheels(name, wheels[:count])
            run(*shlex.split(self.build(name)))
            forget = self.wheels_only()
            [cold] = race([Command(f"{name}, cold", self.build(name), forget)], self.runs)
            measured["wheels, cold"].append((count, count, cold))
            changed = self.one_changed(name, wheels[:count])
            measured[ONE_CHANGED].append((count, *changed))
        for count in [0, 1, 10, 100]:
            name = f"files{count}"
            files = {f"data/{number:04}.txt": noise.randbytes(32 << 10).hex() for number in range(count * 16)}
            self.project(name, files | {"app.py": "def handler(event, context):\n    return 1\n"})
            lines = {"new": self.build(name, "--no-cache"), "unchanged": self.build(name)}
            medians = race([Command(f"{name}, {how}", line) for how, line in lines.items()], self.runs)
            for how, median in zip(lines, medians):
                measured[f"MiB of files, {how}"].append((count, count, median))
        return measured

    def one_changed(self, name, wheels):
        """MiB of new layers, and the time of a build where the last wheel is another than when the rest was built."""
        if not wheels:
            [warm] = race([Command(f"{name}, nothing changed", self.build(name))], self.runs)
            return 0, warm
        other = small_wheel(wheels[-1].name.split("-")[0], random.Random(3), "other")
        self.project_of_wheels(name, [*wheels[:-1], other])
        shutil.rmtree(STORE)
        before = {layer["digest"] for layer in self.metadata(self.build(name))["layers"]}
        kept = WORK / "before-change"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(STORE, kept, copy_function=os.link)
        self.project_of_wheels(name, wheels)
        back = f"rm -rf {STORE} && cp -al {kept} {STORE}"
        [median] = race([Command(f"{name}, one changed", self.build(name), back)], self.runs)
        new = [layer["size"] for layer in self.metadata(self.build(name))["layers"] if layer["digest"] not in before]
        return sum(new) / MIB, median

    # --- push ---------------------------------------------------------------------------------

    def part_push(self):
        part = Part("Push")
        part.say(
            "One image of four layers of 64 MiB and a small one, from disk into a docker-registry on loopback that is empty"
            " (cold), has all but the small layer and what names it, or has all of it. lambimg reads its store, skopeo the"
            " same image from an OCI directory, and buildah its own storage, where layers are not compressed: it compresses"
            " them for each push that it cannot tell to be there. Before each run the registry's files are put as they are to be."
        )
        first, changed = self.large_image("pushed", 1), self.large_image("pushed-changed", 2)
        registry, far = Registry("registry-push"), Registry("registry-far")
        try:
            least = self.pushes(part, registry, first, changed)
            remote = f"{registry.address}/peer/image:1"
            run(LAMBIMG, "push", "pushed", remote)
            streams = {
                "lambimg push": f"{LAMBIMG} push docker://{remote} {far.address}/ours:1",
                "skopeo copy": f"skopeo --insecure-policy copy --src-tls-verify=false --dest-tls-verify=false"
                f" docker://{remote} docker://{far.address}/skopeo:1",
            }
            resident = {who: peak(line) for who, line in streams.items()}
        finally:
            registry.stop()
            far.stop()
        part.say("From one registry to another, all of it: what was resident at most.")
        part.table(["command", "peak"], [[who, f"{count / 1e6:.1f} MB"] for who, count in resident.items()])
        for how, wanted in [("cold", 1), ("one small layer changed", 3), ("unchanged", 3)]:
            part.target(f"push, {how}, against the faster of skopeo and buildah", f"≥ {wanted} ×", times(least[how]), least[how] >= wanted)
        ours = resident["lambimg push"]
        part.target("push from registry to registry, peak resident memory", "< 100 MB", f"{ours / 1e6:.1f} MB", ours < 100e6)
        return part

    def large_image(self, name, revision):
        """An image in the store, in an OCI directory and in buildah's storage; the base's layers are the same each time."""
        base, output = WORK / "push-base", WORK / f"{name}-oci"
        if not base.exists():
            say("making an image of 256 MiB")
            large_layout(base)
        shutil.rmtree(output, ignore_errors=True)
        project = self.project(name, {"app.py": f"def handler(event, context): return {revision}\n"})
        run(LAMBIMG, "build", project, "--base", f"oci:{base}", "-t", name, "-o", f"oci:{output}")
        run(*shlex.split(f"{self.buildah} pull oci:{output}"))
        identifier = run(*shlex.split(f"{self.buildah} pull --quiet oci:{output}")).split()[-1]
        run(*shlex.split(f"{self.buildah} tag {identifier} {name}"))
        return name

    def pushes(self, part, registry, first, changed):
        """Times the three pushes; how many times longer the faster peer takes, for each."""
        files, kept = registry.directory / "storage", WORK / "registry-push-kept"
        remote = f"{registry.address}/peer/image:1"
        run(LAMBIMG, "push", first, remote)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(files, kept)
        # The registry waits for its disk with each upload: what prepares a run is not to be waited for too.
        put_back = f"rm -rf {files} && cp -a {kept} {files} && sync"
        rows, least = [], {}
        for how, image, prepare in [
            ("cold", first, f"rm -rf {files} && sync"),
            ("one small layer changed", changed, put_back),
            ("unchanged", first, put_back),
        ]:
            skopeo = "skopeo --insecure-policy copy --quiet --dest-tls-verify=false"
            commands = [
                Command("lambimg push", f"{LAMBIMG} push {image} {remote}", prepare),
                Command("skopeo copy", f"{skopeo} oci:{WORK}/{image}-oci docker://{remote}", prepare),
                Command("buildah push", f"{self.buildah} push --quiet --tls-verify=false {image} docker://{remote}", prepare),
            ]
            medians = race(commands, self.runs)
            rows += [[how, c.name, seconds(m), times(m / medians[0])] for c, m in zip(commands, medians)]
            least[how] = min(medians[1:]) / medians[0]
        part.table(["registry", "command", "median", "against ours"], rows)
        return least

    # --- A thousand, inner parts --------------------------------------------------------------

    def part_thousand(self):
        part = Part("A thousand builds in a row, and ten at once")
        name = self.sets()[0]
        line = shlex.split(self.build(name))
        run(*line)
        forget = self.wheels_only()
        run("sh", "-c", forget)
        alone = self.metadata(self.build(name))["digest"]
        begun, before = time.perf_counter(), store_files()
        for _ in range(1000):
            run(*line)
        took, after = time.perf_counter() - begun, store_files()
        rows = [["after one cold build", *counted(before)], ["after 1000 more", *counted(after)]]
        self.read_back(f"{name}:latest")
        part.target("a thousand builds leave the store as it was", "the same files", "the same files" if before == after else "others", before == after)
        blobs = self.ten_at_once(name, forget, alone)
        rows.append(["after ten at once, cold", *counted(store_files())])
        part.table(["", "files in the store", "bytes in the store"], rows)
        part.say(
            f"The thousand took {seconds(took)}. The ten begin with wheels alone, each for a name of its own, and all make"
            f" image `{alone}`. `skopeo inspect oci:STORE:NAME` reads every image, every blob of"
            " the store has the digest it is named by, and each image goes whole through `lambimg push` and then `skopeo"
            " copy`. (The layers of a base in a registry stay there: `skopeo copy oci:STORE:NAME` does not find them.)"
        )
        is_same = blobs == {path for path in before if path.startswith("blobs/")}
        part.target("ten builds at once make what one makes", "the same blobs", "the same blobs" if is_same else "others", is_same)
        return part

    def ten_at_once(self, name, forget, alone):
        """Ten cold builds begun together in one store; returns its blobs."""
        run("sh", "-c", forget)
        names = [f"at-once-{number}:latest" for number in range(10)]
        lines = [f"{LAMBIMG} build {WORK}/projects/{name} --base {self.base} -t {image}" for image in names]
        builds = [
            subprocess.Popen(shlex.split(line), env=bench_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for line in lines
        ]
        for build, line in zip(builds, lines):
            _, said = build.communicate()
            if build.returncode != 0:
                sys.exit(f"bench: {line}, one of ten at once, failed:\n{said.decode()}")
        for image in names:
            digest = self.read_back(image)
            if digest != alone:
                sys.exit(f"bench: ten at once made {digest}, one alone {alone}")
        return {path for path in store_files() if path.startswith("blobs/")}

    def read_back(self, image):
        """Has skopeo and lambimg read an image of the store with all its bytes; returns its digest."""
        stored, pushed, copy = f"oci:{STORE}:{image}", f"{self.registry.address}/read-back/{image}", WORK / "copied"
        run("skopeo", "inspect", "--config", stored)
        digest = json.loads(run("skopeo", "inspect", stored))["Digest"]
        for path in (STORE / "blobs/sha256").iterdir():
            with open(path, "rb") as blob:
                if hashlib.file_digest(blob, "sha256").hexdigest() != path.name:
                    sys.exit(f"bench: the store's blob {path.name} is damaged")
        # The base's layers stay in their registry, so a whole copy is one of what was pushed.
        run(LAMBIMG, "push", image, pushed)
        shutil.rmtree(copy, ignore_errors=True)
        source = ["--src-tls-verify=false", f"docker://{pushed}"]
        run("skopeo", "--insecure-policy", "copy", "--quiet", *source, f"dir:{copy}")
        return digest

    def part_inner(self):
        part = Part("Inner parts")
        said = run("cargo", "bench", "--quiet", "--bench", "parts", cwd=ROOT)
        part.say("`cargo bench --bench parts` (divan):\n\n```text\n" + re.sub(r"[ \t]+$", "", said, flags=re.M).strip() + "\n```")
        print(said)
        return part


    # --- bytecode, imports --------------------------------------------------------------------

    def part_bytecode(self):
        part = Part("Bytecode")
        part.say(
            "A cold build, wheels fetched as in (a), with bytecode in its layers, against `uv pip install --target` with"
            " `--compile-bytecode` from a warm cache, which makes no layer. Both without bytecode beside them."
        )
        rows = []
        for name in self.sets():
            target = WORK / "contexts" / f"{name}-compiled"
            install = (
                f"uv pip install --quiet --no-deps --offline --python {self.python} --target {target}"
                f" -r {WORK}/projects/{name}/pylock.toml"
            )
            run(*shlex.split(install.replace(" --offline", "")))
            build = self.build(name, f"--interpreter {self.python}")
            run(*shlex.split(build))
            forget, clean = self.wheels_only(), f"rm -rf {target}"
            commands = [
                Command("lambimg build", f"env LAMBIMG_BYTECODE=true {build}", forget),
                Command("uv pip install --compile-bytecode", f"{install} --compile-bytecode", clean),
                Command("lambimg build --no-bytecode", build, forget),
                Command("uv pip install", install, clean),
            ]
            medians = race(commands, self.runs)
            rows += [[name, command.name, seconds(median)] for command, median in zip(commands, medians)]
            ratio = medians[0] / medians[1]
            part.target(f"bytecode against uv's, {name}", "≤ 1 ×", f"{ratio:.2f} ×", ratio <= 1)
        part.table(["set", "command", "median"], rows)
        return part

    def part_imports(self):
        part = Part("Imports")
        part.say(
            "`import app` of two examples from a disk mounted read-only: with our bytecode, with none, and with what"
            " `compileall` leaves by default once a reproducible image has set every date to one. What Python takes to"
            " start is in all of them."
        )
        rows = []
        for name in ["data", "powertools"]:
            trees = {
                "bytecode": self.task_root(name, "true"),
                "none": self.task_root(name, "false"),
                "stale": self.task_root(name, "false", "-stale"),
            }
            run("find", trees["stale"], "-name", "*.py", "-exec", "touch", "-d", "@1700000000", "{}", "+")
            # Some packages have files that do not compile, which it counts as its own failure.
            subprocess.run([self.python, "-m", "compileall", "-qq", trees["stale"]], check=False)
            run("find", trees["stale"], "-name", "*.py", "-exec", "touch", "-d", "@315532800", "{}", "+")
            commands = [Command(f"{name}, {how}", self.importing(tree)) for how, tree in trees.items()]
            medians = race(commands, max(self.runs, 5))
            with_it, without, _ = medians
            rows += [[name, how, seconds(median)] for how, median in zip(trees, medians)]
            faster = 1 - with_it / without
            part.target(f"imports of {name} with bytecode", "≥ 30 % faster", f"{faster:.0%} faster", faster >= 0.3)
        part.table(["example", "bytecode", "median"], rows)
        return part

    def part_cache(self):
        part = Part("A cold runner")
        part.say(
            "`examples/data` with bytecode and its locks, one handler line changed, on a runner whose store is empty: pushed to"
            " the tag that the commit before was pushed to, whose layers are taken over, and to a tag that is new, where"
            " wheels are fetched from the index and layers made. The registry has all but the changed layer both times."
        )
        project = WORK / "projects/cache"
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(ROOT / "examples/data", project)
        app = project / "app.py"
        app.write_text(app.read_text() + "REVISION = 0\n")
        build = f"env LAMBIMG_BYTECODE=true {self.build('cache')} --interpreter {self.python} --push -t {self.registry.address}/cache/data"
        run(*shlex.split(f"{build}:main"))
        edit = f"rm -rf {STORE} && sed -i \"s/^REVISION = .*/REVISION = $(date +%s%N)/\" {app}"
        commands = [
            Command("layers taken over", f"{build}:main", edit),
            Command("a new tag", f"{build}:new-$(date +%s%N)", edit),
        ]
        medians = race(commands, self.runs)
        part.table(["tag", "median", "against the first"], [[c.name, seconds(m), times(m / medians[0])] for c, m in zip(commands, medians)])
        ratio = medians[1] / medians[0]
        part.target("cold runner, one line changed, against the same without a cache", "≥ 10 ×", times(ratio), ratio >= 10)
        return part

    def part_functions(self):
        part = Part("Fifty functions of one project")
        part.say(
            "Functions with the dependencies of `examples/data` and a directory of their own, all fifty or one of them, into"
            " the store. Before each run it holds the wheels, proven as they were fetched, and nothing else, as in (a)."
        )
        names = [f"function{number:02}" for number in range(50)]
        files = {f"{name}/app.py": f"def handler(event, context):\n    return '{name}'\n" for name in names}
        tables = "".join(f'[tool.lambimg.functions.{name}]\nsource = "{name}"\n' for name in names)
        settings = f'[tool.lambimg]\npython = "{self.version}"\nhandler = "app.handler"\n{tables}'
        project = self.project("functions", files | {"pyproject.toml": settings})
        self.lock(project, ROOT / "examples/data")
        fifty = f"{LAMBIMG} build {project} --base {self.base} -t functions/{{function}}"
        run(*shlex.split(fifty))
        forget = self.wheels_only()
        commands = [Command("one", f"{fifty} --function {names[0]}", forget), Command("fifty", fifty, forget)]
        one, all_of_them = race(commands, self.runs)
        ratio = all_of_them / one
        part.table(["functions", "median", "against one"], [["1", seconds(one), times(1)], ["50", seconds(all_of_them), f"{ratio:.2f} ×"]])
        part.target("fifty functions, cold, against one", "< 2 ×", f"{ratio:.2f} ×", ratio < 2)
        return part

    def task_root(self, name, bytecode, suffix=""):
        """What an image of an example has at `/var/task`."""
        project, layout = WORK / "projects" / f"example-{name}", WORK / "contexts/imports"
        tree = WORK / "contexts" / f"{name}-{bytecode}{suffix}"
        for directory in [project, layout, tree]:
            shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(ROOT / "examples" / name, project)
        tree.mkdir(parents=True)
        build = [LAMBIMG, "build", project, "--python", self.version, "--base", self.base, "--interpreter", self.python]
        environment = bench_environment() | {"LAMBIMG_BYTECODE": bytecode}
        run(*build, "-t", f"imports-{name}", "-o", f"oci:{layout}", env=environment)
        blob = lambda descriptor: layout / "blobs/sha256" / descriptor["digest"].split(":")[1]
        [image] = json.loads((layout / "index.json").read_text())["manifests"]
        for layer in json.loads(blob(image).read_text())["layers"][1:]:
            run("tar", "-C", tree, "-xzf", blob(layer), "--no-same-owner")
        return tree / "var/task"

    def importing(self, tree):
        statement = f"import sys; sys.path.insert(0, '{tree}'); import app"
        inside = f"mount --bind {tree} {tree} && mount -o remount,bind,ro {tree} && exec {self.python} -c \"{statement}\""
        variables = "AWS_DEFAULT_REGION=eu-west-1 POWERTOOLS_SERVICE_NAME=imports POWERTOOLS_TRACE_DISABLED=true"
        return f"env {variables} unshare --mount --map-root-user sh -c {shlex.quote(inside)}"


def store_files():
    """The store's files and their sizes."""
    return {str(path.relative_to(STORE)): path.stat().st_size for path in STORE.rglob("*") if path.is_file()}


def counted(files):
    return len(files), sum(files.values())


# --- Images made here -------------------------------------------------------------------------


def large_layout(directory):
    """An OCI directory with an image of four layers of 64 MiB, half noise and half text; it says it is a base of Lambda's."""
    noise = random.Random(4)
    text = b"".join(b"%07d,the quick brown fox jumps over the lazy dog\n" % number for number in range(1 << 19))[: 16 * MIB]
    blobs = directory.with_suffix(".part") / "blobs/sha256"
    shutil.rmtree(blobs.parent.parent, ignore_errors=True)
    blobs.mkdir(parents=True)

    def put(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    layers, diff_ids = [], []
    for number in range(4):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in [("noise", noise.randbytes(60 * MIB)), ("text", text * 2)]:
                member = tarfile.TarInfo(f"{name}{number}")
                member.size, member.mode = len(content), 0o644
                archive.addfile(member, io.BytesIO(content))
        diff_ids.append(f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}")
        layers.append(put(gzip.compress(packed.getvalue(), 1, mtime=0), "layer.v1.tar+gzip"))
    variables = ["LAMBDA_RUNTIME_DIR=/var/runtime", "LAMBDA_TASK_ROOT=/var/task"]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/lambda-entrypoint.sh"], "Env": variables},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    config = put(json.dumps(config).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers}
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (blobs.parent.parent / "index.json").write_text(json.dumps(index))
    (blobs.parent.parent / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    blobs.parent.parent.rename(directory)


# --- Wheels made here -------------------------------------------------------------------------


def small_wheel(name, noise, variant="1"):
    text = "".join(f"def function_{number}(value):\n    return value * {number}\n" for number in range(2000))
    members = [
        (f"{name}/noise.bin", [noise.randbytes(MIB // 2)]),
        (f"{name}/text.py", [text.encode() * 4]),
        *((f"{name}/module{number}.py", [f"VALUE = {number}\n".encode() * 50]) for number in range(50)),
    ]
    return make_wheel(name, members, directory=variant)


def make_wheel(name, members, level=6, directory="1"):
    """A pure wheel of version 1.0; each member is a name and its chunks. Made once."""
    path = WORK / "wheels" / directory / f"{name}-1.0-py3-none-any.whl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"making {path.name}")
    information = f"{name}-1.0.dist-info"
    fixed = [
        (f"{information}/METADATA", [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()]),
        (f"{information}/WHEEL", [b"Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"]),
    ]
    record = []
    with zipfile.ZipFile(path.with_suffix(".part"), "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        for member, chunks in itertools.chain(members, fixed):
            entry = zipfile.ZipInfo(member)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            digest, size = hashlib.sha256(), 0
            with archive.open(entry, "w", force_zip64=True) as out:
                for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    out.write(chunk)
            hashed = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
            record.append(f"{member},sha256={hashed},{size}\n")
        archive.writestr(f"{information}/RECORD", "".join(record) + f"{information}/RECORD,,\n")
    path.with_suffix(".part").rename(path)
    return path


if __name__ == "__main__":
    main()
