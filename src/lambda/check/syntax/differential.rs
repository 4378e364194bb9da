//! What is said of sources here, held against what interpreters of this machine say of the same.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::read;
use crate::python::PythonVersion;

const COMPILE: &str = r"
import json, sys, warnings
warnings.simplefilter('ignore')
def told(source):
    try:
        compile(source, 'app.py', 'exec', dont_inherit=True)
    except SyntaxError as error:
        return '%s: %s' % (error.lineno, error.msg)
json.dump([sys.version_info[1], [told(source) for source in json.load(sys.stdin)]], sys.stdout)
";

/// The files of the interpreter's own library: those that its tests keep broken are told by it as such.
const LIBRARY: &str = r"
import json, os, sys, sysconfig, warnings
warnings.simplefilter('ignore')
def told(path):
    try:
        with open(path, 'rb') as file:
            compile(file.read(), path, 'exec', dont_inherit=True)
    except SyntaxError as error:
        return '%s: %s' % (error.lineno, error.msg)
files = []
for folder, folders, names in os.walk(sysconfig.get_path('stdlib')):
    folders[:] = sorted(set(folders) - {'site-packages', 'dist-packages', 'lib2to3', 'test_lib2to3'})
    paths = [os.path.join(folder, name) for name in sorted(names) if name.endswith('.py') and not name.startswith('bad')]
    files += [[path, told(path)] for path in paths if os.path.isfile(path)]
json.dump([sys.version_info[1], files], sys.stdout)
";

fn asked<T: serde::de::DeserializeOwned>(python: &str, code: &str, input: &str) -> Option<T> {
    let mut child = Command::new(python)
        .args(["-I", "-c", code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // A shim for a version that is not there ends without reading.
    let _ = child.stdin.take()?.write_all(input.as_bytes());
    let output = child.wait_with_output().ok()?;
    let is_told = output.status.success();
    is_told.then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn ours(source: &[u8], minor: u8) -> Option<String> {
    let version: PythonVersion = format!("3.{minor}").parse().unwrap();
    let refusal = read(source, version)?.err()?;
    Some(format!("{:?} {}", refusal.place, refusal.reason))
}

/// Sources that a compiler judges by their scopes, by their place or by its version.
const SNIPPETS: &[&str] = &[
    "return",
    "class C:\n return",
    "if 0:\n yield",
    "def f(): [(yield) for x in y]",
    "def f(): [x for x in (yield)]",
    "lambda: (yield)",
    "await x",
    "def f(): await x",
    "lambda: (await x)",
    "(await x for x in y)",
    "def f(): [await x for x in y]",
    "async def f(): [await x for x in y]",
    "async def f(): lambda: [x async for x in y]",
    "async def f(): [[x async for x in y] for y in z]",
    "async def f(): ([x async for x in y] for y in z)",
    "async def f(): ([await x async for x in y] async for y in z)",
    "def f(): ([x async for x in y] for y in z)",
    "async def f(): yield from x",
    "async def f():\n yield 1\n return 2",
    "def f():\n async with x: pass",
    "break",
    "while 0: pass\nelse: break",
    "for x in y:\n def f(): break",
    "for x in y:\n class C: continue",
    "for x in y:\n try: pass\n finally: continue",
    "for x in y:\n with z:\n  if a: break",
    "def f():\n try: pass\n except* E: return",
    "while 1:\n try: pass\n except* E: break",
    "try: pass\nexcept* E:\n while 1: break",
    "def f():\n try: pass\n except* E:\n  def g(): return 1",
    "try: pass\nexcept: pass\nexcept E: pass",
    "nonlocal x",
    "def f():\n nonlocal x",
    "def f():\n def g():\n  nonlocal x\n x = 1",
    "def f():\n [x for x in y]\n def g(): nonlocal x",
    "def f():\n [(x := 1) for z in y]\n def g(): nonlocal x",
    "def f():\n global x\n def g(): nonlocal x",
    "def f(x):\n class C:\n  nonlocal x\n  x = 1",
    "class C:\n x = 1\n def g(self): nonlocal x",
    "class C:\n def f(self): nonlocal __class__",
    "def f():\n __x = 1\n class C:\n  def g(self): nonlocal __x",
    "def f(x):\n nonlocal x",
    "def f(x):\n global x",
    "def f(a=x):\n global x",
    "x = 1\nglobal x",
    "import x\nglobal x",
    "def f():\n print(x)\n global x",
    "def f():\n [y for y in x]\n global x",
    "def f():\n [x for y in z]\n global x",
    "def f():\n global x\n nonlocal x",
    "def f():\n global x\n x: int = 1",
    "def f():\n x: y\n global y",
    "global x\nx: int = 1",
    "from __future__ import annotations\ndef f():\n x: y\n global y",
    "from __future__ import annotations\nx: (yield)",
    "from __future__ import annotations\ndef f(x: (y := 1)): pass",
    "def f(x: (yield)): pass",
    "def f():\n x: (await 1)",
    "def f(a, a): pass",
    "lambda a, a: 1",
    "class C:\n def f(self, __x, _C__x): pass",
    "f(a=1, a=2)",
    "from __future__ import nonsense",
    "'a'\nfrom __future__ import annotations",
    "'a'\n'b'\nfrom __future__ import annotations",
    "import x\nfrom __future__ import annotations",
    "def f():\n from x import *",
    "class C:\n from x import *",
    "__debug__ = 1",
    "x.__debug__ = 1",
    "f(__debug__=1)",
    "lambda __debug__: 1",
    "import a.__debug__",
    "*x",
    "f(*x)",
    "*a, *b = c",
    "del *x",
    "x = *a",
    "x = *a,",
    "x[*a]",
    "class C:\n x = [(y := 1) for z in w]",
    "def f(): [(y := 1) for z in w]",
    "[x := 0 for x in y]",
    "[z for x in (y := w)]",
    "[i for i in a if (j := 0) for j in b]",
    "[lambda: (x := 1) for x in y]",
    "match x:\n case y: pass\n case z: pass",
    "match x:\n case (a | 1): pass",
    "match x:\n case [a, a]: pass",
    "match x:\n case [*a, *b]: pass",
    "match x:\n case [1 as _]: pass",
    "match x:\n case f'': pass",
    "with x as *y: pass",
    "class C(x for x in y): pass",
    "class C((x for x in y)): pass",
    "from .__future__ import annotations",
    "del __debug__",
    "class C:\n [[(__x := 2) for _ in y] for __x in y]",
    "class C:\n def f(self): [[(__x := 2) for _ in y] for __x in y]",
    "match x:\n case {1: a, 1: b}: pass",
    "match x:\n case C(a=1, a=2): pass",
    "match x:\n case _ if y: pass\n case z: pass",
    "def f[T, T](): pass",
    "def f[T](T): pass",
    "def f[T](x: (yield)): pass",
    "class C[T]:\n def f(self): nonlocal T",
    "type A = (x for x in y if (z := 1))",
    "f'{\nx}'",
    "f'''{\nx}'''",
    "f'{a['b']}'",
    "f'{a[\"b\"]}'",
    "f'{\"\\n\"}'",
    "f'\\n{x}'",
    "f'a\\\nb{x}'",
    "f'''{x # c\n}'''",
    "f'{\"#\"}'",
    "f'{x:{y}}'",
    "f'{x:{y:{z}}}'",
    "f'{x:{f\"{y:{z}}\"}}'",
    "f'{*a}'",
    "'\\d'",
    "assert (x, y)",
    "x is 1",
];

#[test]
fn snippets_are_refused_by_the_same_pythons() {
    let mut wrong = Vec::new();
    let mut minors = Vec::new();
    let input = serde_json::to_string(SNIPPETS).unwrap();
    for minor in 9..=14 {
        let python = format!("python3.{minor}");
        let said: Option<(u8, Vec<Option<String>>)> = asked(&python, COMPILE, &input);
        let Some((minor, said)) = said else {
            continue;
        };
        minors.push(minor);
        for (snippet, theirs) in SNIPPETS.iter().zip(said) {
            let ours = ours(snippet.as_bytes(), minor);
            if ours.is_some() != theirs.is_some() {
                wrong.push(format!("3.{minor} {snippet:?}\n  {theirs:?}\n  {ours:?}"));
            }
        }
    }
    assert!(!minors.is_empty(), "there is no Python to ask");
    assert!(wrong.is_empty(), "{minors:?} {}", wrong.join("\n"));
}

#[test]
fn the_standard_library_is_taken_as_its_python_takes_it() {
    let (minor, files) = ["python3", "python3.12", "python3.11", "python3.13"]
        .iter()
        .find_map(|python| asked::<(u8, Vec<(String, Option<String>)>)>(python, LIBRARY, ""))
        .expect("a Python to ask");
    assert!(files.len() > 100, "{} files", files.len());
    let mut wrong = Vec::new();
    for (path, theirs) in files {
        let ours = ours(&std::fs::read(&path).unwrap(), minor);
        if ours.is_some() != theirs.is_some() {
            wrong.push(format!("3.{minor} {path}\n  {theirs:?}\n  {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
