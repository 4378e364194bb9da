#!/usr/bin/env bash
# Builds examples/hello into an image on this machine's own Python, has Lambda's emulator answer
# from it and pushes it to a registry on loopback. No container engine, and nothing is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
emulator=
registry=

clean_up() {
    [ -z "$emulator" ] || kill -KILL "$emulator" 2>/dev/null || true
    [ -z "$registry" ] || kill "$registry" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Says the command as one would type it, then runs the binary made here.
lambimg() {
    printf '$ lambimg %s\n' "${*//$work/\$work}"
    command lambimg "$@"
}

# One field of the built image's configuration, each element ended by a NUL.
image_field() {
    python3 - "$work/image" "$1" <<'PYTHON'
import json, pathlib, sys
image = pathlib.Path(sys.argv[1])
blob = lambda descriptor: image / "blobs" / descriptor["digest"].replace(":", "/")
manifest = json.loads(blob(json.loads((image / "index.json").read_bytes())["manifests"][0]).read_bytes())
config = json.loads(blob(manifest["config"]).read_bytes())["config"]
values = [str(blob(layer)) for layer in manifest["layers"]] if sys.argv[2] == "layers" else config.get(sys.argv[2]) or []
for value in [values] if isinstance(values, str) else values:
    sys.stdout.write(value + "\0")
PYTHON
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

chosen=$(python3 tests/tools.py --demo)
read -r python directory <<<"$chosen"
tools=$(cd "$target/test-tools" && pwd)

say "The release binary"
cargo build --release
PATH="$(cd "$target/release" && pwd):$directory:$PATH:$tools"
export LAMBIMG_CACHE_DIR="$work/cache"

say "An image of examples/hello on this machine's Python $python"
# A copy, because a build leaves its lock beside the project.
cp -R examples/hello "$work/hello"
lambimg build "$work/hello" --base host --python "$python" -t hello:demo -o "oci:$work/image"

say "Its answer under Lambda's runtime interface emulator, to $(cat examples/hello/event.json)"
mkdir "$work/root"
mapfile -d '' -t layers < <(image_field layers)
for layer in "${layers[@]}"; do
    tar --extract --gzip --no-same-owner --file "$layer" --directory "$work/root"
done
# Only the names: a file does for the null device, and mounts are left to real sandboxes.
mkdir -p "$work/root/usr/local/bin" "$work/root/proc" "$work/root/dev"
[ -e "$work/root/dev/null" ] || : >"$work/root/dev/null"
cp "$tools"/aws-lambda-rie-* "$work/root/usr/local/bin/aws-lambda-rie"
mapfile -d '' -t environment < <(image_field Env)
mapfile -d '' -t command < <(image_field Entrypoint && image_field Cmd)
mapfile -d '' -t directories < <(image_field WorkingDir)

# Ordinary users may change the root directory in a user namespace of their own.
namespaces=(--pid --fork --kill-child --mount-proc)
[ "$(id -u)" = 0 ] || namespaces+=(--map-root-user)
port=$(free_port)
env -i "${environment[@]}" "$(command -v unshare)" "${namespaces[@]}" --root "$work/root" --wd "${directories[0]:-/}" \
    /usr/local/bin/aws-lambda-rie --runtime-interface-emulator-address "127.0.0.1:$port" \
    --runtime-api-address "127.0.0.1:$(free_port)" "${command[@]}" >"$work/emulator.log" 2>&1 &
emulator=$!

if ! python3 - "$port" examples/hello/event.json <<'PYTHON'
import sys, time, urllib.error, urllib.request
address = f"http://127.0.0.1:{sys.argv[1]}/2015-03-31/functions/function/invocations"
# A proxy is for the outside, never for loopback.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for attempt in range(100):
    try:
        with opener.open(address, open(sys.argv[2], "rb").read(), timeout=60) as answer:
            print(answer.read().decode())
        break
    except urllib.error.HTTPError as error:
        sys.exit(f"{error}: {error.read().decode()}")
    except (urllib.error.URLError, ConnectionError) as error:
        time.sleep(0.1)
else:
    sys.exit("the emulator did not answer")
PYTHON
then
    cat "$work/emulator.log" >&2
    exit 1
fi

if ! command -v docker-registry >/dev/null; then
    say "Not pushed: there is no docker-registry here. With Debian: apt-get install docker-registry"
    exit 0
fi

say "Pushed to a registry on loopback"
cat >"$work/registry.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:0"}
YAML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
for _ in $(seq 100); do
    address=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$work/registry.log")
    [ -z "$address" ] || break
    sleep 0.1
done
if [ -z "$address" ]; then
    cat "$work/registry.log" >&2
    exit 1
fi
lambimg push hello:demo "$address/hello:demo"
