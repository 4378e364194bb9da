"""Small seeds for a fuzz target, written into its corpus: seeds.py TARGET."""

import base64
import gzip
import hashlib
import io
import marshal
import pathlib
import struct
import sys
import tarfile
import zipfile
import zlib


def elf(machine=62, need=b"GLIBC_2.17"):
    """A library of little more than headers and one needed version."""
    strings = b"\0libc.so.6\0" + need + b"\0"
    header, dynamic = 64, 64 + 2 * 56
    needs = dynamic + 4 * 16
    names = needs + 32
    length = names + len(strings)
    file = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    file += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, header, 0, 0, 64, 56, 2, 0, 0, 0)
    for kind, offset, size in [(1, 0, length), (2, dynamic, 64)]:
        address = offset + 4096
        file += struct.pack("<IIQQQQQQ", kind, 4, offset, address, address, size, size, 8)
    for entry in [(5, names + 4096), (10, len(strings)), (0x6FFFFFFE, needs + 4096), (0, 0)]:
        file += struct.pack("<QQ", *entry)
    return file + struct.pack("<HHIIIIHHII", 1, 1, 1, 16, 0, 0, 0, 0, 11, 0) + strings


def deflated(level, strategy):
    """A raw deflate stream with a flush of each kind in it."""
    compress = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    stream = b""
    for flush in (zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_BLOCK):
        stream += compress.compress(b"def f(x):\n    return x + 1\n" * 3) + compress.flush(flush)
    return stream + compress.flush()


def wheel(compression):
    """A wheel with a true RECORD, and files in every scheme."""
    information = "demo-1.0.dist-info/"
    files = {
        "demo/__init__.py": b"x = 1\n",
        "demo/native.so": elf(),
        "demo-1.0.data/scripts/run": b"#!python\nimport demo\n",
        "demo-1.0.data/data/share/d": b"d",
        "demo-1.0.data/headers/h.h": b"h",
        information + "WHEEL": b"Wheel-Version: 1.0\nTag: cp312-cp312-manylinux_2_17_x86_64\n",
        information + "entry_points.txt": b"[console_scripts]\ndemo = demo.cli:main [extra]\n",
    }
    rows = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
        rows += f"{name},sha256={digest.decode()},{len(content)}\n"
    files[information + "RECORD"] = (rows + information + "RECORD,,\n").encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as zip:
        for name, content in files.items():
            zip.writestr(name, content)
    return archive.getvalue()


def parts():
    """A wheel as `archive_of` takes it: its members one by one."""
    seed = b""
    with zipfile.ZipFile(io.BytesIO(wheel(0))) as archive:
        for name in archive.namelist():
            # The longest that one byte says; what is cut from RECORD is not in it.
            content = archive.read(name)[:255]
            seed += bytes([len(name), len(content), 0x81]) + name.encode() + content
    return seed


def stream():
    """An archive that was written without going back: with data descriptors."""

    class Out(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError

        def tell(self):
            raise OSError

    out = Out()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zip:
        zip.writestr("a", b"contents")
        zip.writestr("b/", b"")
    return out.getvalue()


def layers():
    """A tar of every kind of entry in each form, plain and packed."""
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, kind in [("a", b"5"), ("a/b", b"0"), ("a/l", b"2"), ("a/h", b"1"), ("a/.wh.b", b"0"),
                               ("a/.wh..wh..opq", b"0"), ("d/" * 60 + "e", b"0"), ("p", b"6"), ("c", b"3")]:
                entry = tarfile.TarInfo(name)
                entry.type = kind
                entry.linkname = "b" if kind == b"2" else "a/b" if kind == b"1" else ""
                entry.size = 3 if name == "a/b" else 0
                tar.addfile(entry, io.BytesIO(b"abc"))
        yield out.getvalue()
        yield gzip.compress(out.getvalue(), mtime=0)


def modules():
    """Modules compiled by this interpreter, each behind a byte for its version."""
    sources = (
        "def f(x, *y, z='a'):\n    return x in {1, None, 'b', (2, 3.5)}\n",
        "class C:\n    'doc'\n    a = 10**30, 1j, b'x', ..., 'é'\n    async def g(self):\n        yield self.a\n",
    )
    minor = bytes([(sys.version_info[1] - 8) % 7])
    return [minor + marshal.dumps(compile(source, "/var/task/m.py", "exec")) for source in sources]


def locks(*names):
    """The tests' real locks, each with its project behind a NUL."""
    fixtures = pathlib.Path(__file__).parent.parent / "src/python/lock/fixtures"
    seeds = []
    for name in names:
        project = (fixtures / name).with_suffix(".toml")
        text = (fixtures / name).read_bytes()
        seeds.append(text + (b"\0" + project.read_bytes() if project.exists() else b""))
    return seeds


SEEDS = {
    "uv_lock": lambda: locks("uv-conflicts.lock", "uv-sources.lock", "uv-workspace.lock"),
    "poetry_lock": lambda: locks("poetry-1.1.lock", "poetry-1.8.lock", "poetry-2.lock"),
    "pipfile_lock": lambda: locks("Pipfile.lock"),
    "index_page": lambda: [
        b'<base href="../x/"><a href="a-1.tar.gz#sha256=' + b"0" * 64 + b'" data-requires-python='
        b'"&gt;=3.8" data-yanked>a-1.tar.gz</a>',
        b'{"meta":{"api-version":"1.1"},"name":"a","files":[{"filename":"a-1-py3-none-any.whl",'
        b'"url":"a-1-py3-none-any.whl","size":3,"hashes":{"sha256":"' + b"0" * 64 + b'"}}]}',
    ],
    "netrc": lambda: [
        b"machine a.test login me password \"a b\" # x\ndefault login x password y\nmacdef m\nz\n\n"
    ],
    "layer": lambda: list(layers()),
    "zip": lambda: [wheel(0), wheel(zipfile.ZIP_DEFLATED), stream()],
    "wheel": lambda: [wheel(0), wheel(zipfile.ZIP_DEFLATED), parts()],
    "marshal": modules,
    "elf": lambda: [elf(), elf(183, b"GLIBC_ABI_DT_RELR")],
    "markers": lambda: [
        b"python_version >= '3.8' and (sys_platform == 'linux' or extra == 'x')",
        b"'x' in extras and platform_machine not in 'arm64 aarch64'",
        b"python_full_version ~= '3.12.1' or implementation_name === 'cpython'",
    ],
    "requirements": lambda: [
        b"-r other.txt\na[x,y]>=1,<2 ; python_version<'3.9' --hash=sha256:" + b"0" * 64 + b"\n",
        b"-e .\n--index-url https://user:word@example.com/simple\nb @ file:///x # why\n./c.whl\n",
        *locks("requirements-uv-export.txt", "requirements-poetry-export.txt"),
        b"a \\\n  ==1\n${NAME}\n-c constraints.txt\n",
    ],
    "pylock": lambda: [
        b'lock-version = "1.0"\ncreated-by = "x"\nrequires-python = ">=3.9"\n[[packages]]\n'
        b'name = "a"\nversion = "1.0"\nmarker = "python_version > \'3\'"\nwheels = [{url = '
        b'"https://x/a-1.0-py3-none-any.whl", size = 3, hashes = {sha256 = "' + b"0" * 64 + b'"}}]\n'
    ],
    "splice": lambda: [deflated(level, strategy) for level in (0, 1, 6, 9) for strategy in (0, 2, 4)],
    "wheel_filename": lambda: [
        b"numpy-2.1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        b"a.b_c-1!2.0rc1+local-1x-py2.py3-none-any.whl",
        b"a-1-cp39-abi3-musllinux_1_2_aarch64.whl",
    ],
}


def main():
    target = sys.argv[1]
    corpus = pathlib.Path(__file__).parent / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]()):
        (corpus / f"seed-{number}").write_bytes(seed)


main()
