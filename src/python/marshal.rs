//! One form for a compiled module, whatever the interpreter that compiled it had done before.
//!
//! `marshal.dumps` marks an object as one to refer to when more than one reference to it is held anywhere in the
//! process, single characters are interned for all modules or none, and older interpreters write sets as their
//! tables happen to lie (bpo-34093, bpo-37596): the same source gives other bytes by what was compiled before. Here a code object is read as
//! `Python/marshal.c` writes it (versions 4 and 5), equal constants become one, as the compiler has them within a
//! function, and it is written anew: references only where an object is used again. It loads as an equal code
//! object. Nothing is executed, and nothing is known of files, of interpreters or of what the code means.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Marks an object that later ones refer to.
const FLAG_REF: u8 = 0x80;
/// What marshal itself allows (`MAX_MARSHAL_STACK_DEPTH`).
const MAX_DEPTH: usize = 2000;
/// No module is this large; four bytes in a reference count them.
const MAX_SIZE: usize = 1 << 30;
/// What all code objects have before their line number: the code itself, what it uses and what it is called.
const PARTS_BEFORE_LINE: usize = 8;

/// Why bytes are no code object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The layout of this release line's code objects is not known here.
    #[error("the code objects of Python 3.{0} are not known")]
    Version(u8),
    /// The bytes end in the midst of an object.
    #[error("it ends too early")]
    Truncated,
    /// Something that no compiler writes.
    #[error("the byte {at} begins an object of the unknown kind {kind:#04x}")]
    Kind {
        /// The offset in bytes.
        at: usize,
        /// The byte without its flag.
        kind: u8,
    },
    /// A length or a reference is out of range.
    #[error("the byte {0} says a number that is out of range")]
    Range(usize),
    /// Objects lie in each other beyond what marshal reads, or there are too many.
    #[error("it is nested too deeply, or too large")]
    Size,
    /// There is more than the code object.
    #[error("bytes are left behind it")]
    Trailing,
    /// What it has is something else.
    #[error("it is no code object")]
    NoCode,
}

/// How the code objects of a release line are laid out.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Bytes of numbers before the parts.
    numbers: usize,
    /// Parts behind the line number: the table of lines, and since 3.11 that of exceptions.
    tables: usize,
}

impl Layout {
    fn of(minor: u8) -> Result<Self, Error> {
        match minor {
            8..=10 => Ok(Self {
                numbers: 6 * 4,
                tables: 1,
            }),
            11..=14 => Ok(Self {
                numbers: 5 * 4,
                tables: 2,
            }),
            _ => Err(Error::Version(minor)),
        }
    }
}

/// Whether the code objects of Python 3.`minor` are known here.
pub fn knows(minor: u8) -> bool {
    Layout::of(minor).is_ok()
}

/// The one form of the code object of Python 3.`minor` in `bytes`, at most five times as long.
///
/// # Errors
/// When it is anything but one whole code object as a compiler makes them. No bytes make it panic or take memory
/// beyond a multiple of their length.
pub fn canonical(bytes: &[u8], minor: u8) -> Result<Vec<u8>, Error> {
    let layout = Layout::of(minor)?;
    if bytes.len() > MAX_SIZE {
        return Err(Error::Size);
    }
    let (nodes, root) = Reader::new(bytes, layout).read()?;
    if nodes[root].kind != b'c' {
        return Err(Error::NoCode);
    }
    Ok(write(&nodes, root))
}

/// An object's place among all that differ.
type Id = usize;

/// An object: equal ones are the same node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node<'a> {
    /// The byte that says what it is.
    kind: u8,
    /// What comes before its parts: a length, numbers, or all there is of it.
    head: &'a [u8],
    /// The line number of a code object, which stands between its parts.
    line: &'a [u8],
    /// The objects that it is made of.
    parts: Vec<Id>,
}

impl Node<'_> {
    /// None, True, False and Ellipsis are never referred to.
    fn is_singleton(&self) -> bool {
        self.head.is_empty() && self.parts.is_empty() && self.kind != b'c'
    }
}

/// An object whose parts are still being read.
struct Open<'a> {
    node: Node<'a>,
    wanted: usize,
    /// The reference that it will be.
    reference: Option<usize>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    layout: Layout,
    nodes: Vec<Node<'a>>,
    known: HashMap<Node<'a>, Id>,
    /// What references mean; nothing yet for what is still being read.
    references: Vec<Option<Id>>,
    open: Vec<Open<'a>>,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], layout: Layout) -> Self {
        Self {
            bytes,
            at: 0,
            layout,
            nodes: Vec::new(),
            known: HashMap::new(),
            references: Vec::new(),
            open: Vec::new(),
        }
    }

    /// All objects, and which of them is the whole.
    fn read(mut self) -> Result<(Vec<Node<'a>>, Id), Error> {
        loop {
            let mut done = self.object()?;
            // What ends may be the last part of what holds it.
            while let Some(id) = done {
                let Some(holder) = self.open.last_mut() else {
                    return if self.at == self.bytes.len() {
                        Ok((self.nodes, id))
                    } else {
                        Err(Error::Trailing)
                    };
                };
                holder.node.parts.push(id);
                let parts = holder.node.parts.len();
                if holder.node.kind == b'c' && parts == PARTS_BEFORE_LINE {
                    let line = take(self.bytes, &mut self.at, 4)?;
                    holder.node.line = line;
                }
                done = (parts == holder.wanted).then(|| self.close()).flatten();
            }
        }
    }

    /// Reads one object, or its beginning if it has parts.
    fn object(&mut self) -> Result<Option<Id>, Error> {
        let begin = self.at;
        let first = self.take(1)?[0];
        let (kind, flagged) = (first & !FLAG_REF, first & FLAG_REF != 0);
        let body = self.at;
        let mut wanted = 0;
        let head = match kind {
            b'N' | b'T' | b'F' | b'.' => return Ok(Some(self.unify(Node::leaf(kind, &[])))),
            b'r' => {
                let index = self.number()?;
                let known = self.references.get(index).copied().flatten();
                return known.map(Some).ok_or(Error::Range(begin));
            }
            b'i' => self.take(4)?,
            b'g' => self.take(8)?,
            b'y' => self.take(16)?,
            b'l' => {
                let digits = self.take(4)?;
                let digits = i32::from_le_bytes([digits[0], digits[1], digits[2], digits[3]]);
                let digits = usize::try_from(digits.unsigned_abs()).map_err(|_| Error::Size)?;
                self.take(digits.checked_mul(2).ok_or(Error::Size)?)?;
                &self.bytes[body..self.at]
            }
            b'z' | b'Z' => {
                let length = self.take(1)?[0];
                self.take(length.into())?;
                &self.bytes[body..self.at]
            }
            b's' | b't' | b'u' | b'a' | b'A' => {
                let length = self.number()?;
                self.take(length)?;
                &self.bytes[body..self.at]
            }
            b')' => {
                wanted = self.take(1)?[0].into();
                &self.bytes[body..self.at]
            }
            b'(' | b'>' => {
                wanted = self.number()?;
                &self.bytes[body..self.at]
            }
            b':' => {
                wanted = 3;
                &[]
            }
            b'c' => {
                wanted = PARTS_BEFORE_LINE + self.layout.tables;
                self.take(self.layout.numbers)?
            }
            kind => return Err(Error::Kind { at: begin, kind }),
        };
        // Each part has a byte at least.
        if wanted > self.bytes.len() - self.at {
            return Err(Error::Truncated);
        }
        let reference = flagged.then(|| {
            self.references.push(None);
            self.references.len() - 1
        });
        if self.open.len() >= MAX_DEPTH {
            return Err(Error::Size);
        }
        self.open.push(Open {
            node: Node::leaf(one_kind(kind, head), head),
            wanted,
            reference,
        });
        Ok((wanted == 0).then(|| self.close()).flatten())
    }

    /// Ends the innermost object.
    fn close(&mut self) -> Option<Id> {
        let Open {
            mut node,
            reference,
            ..
        } = self.open.pop()?;
        if node.kind == b'>' {
            let nodes = &self.nodes;
            node.parts.sort_by(|a, b| order(nodes, *a, *b));
        }
        let id = self.unify(node);
        if let Some(place) = reference.and_then(|index| self.references.get_mut(index)) {
            *place = Some(id);
        }
        Some(id)
    }

    fn unify(&mut self, node: Node<'a>) -> Id {
        if let Some(id) = self.known.get(&node) {
            return *id;
        }
        let id = self.nodes.len();
        self.nodes.push(node.clone());
        self.known.insert(node, id);
        id
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        take(self.bytes, &mut self.at, count)
    }

    /// A length or an index, which marshal has in 31 bits.
    fn number(&mut self) -> Result<usize, Error> {
        let at = self.at;
        let bytes = self.take(4)?;
        let number = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        usize::try_from(number).map_err(|_| Error::Range(at))
    }
}

impl<'a> Node<'a> {
    fn leaf(kind: u8, head: &'a [u8]) -> Self {
        Self {
            kind,
            head,
            line: &[],
            parts: Vec::new(),
        }
    }
}

/// A character of Latin-1 is one object in the whole process, and so is the empty text: whether it is marked as
/// interned tells who else had it interned, and not whether this module does.
fn one_kind(kind: u8, head: &[u8]) -> u8 {
    match (kind, head) {
        (b'z', [0 | 1, ..]) => b'Z',
        (b'u', [2, 0, 0, 0, 0xc2 | 0xc3, _]) => b't',
        _ => kind,
    }
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, count: usize) -> Result<&'a [u8], Error> {
    let end = at.checked_add(count).ok_or(Error::Truncated)?;
    let taken = bytes.get(*at..end).ok_or(Error::Truncated)?;
    *at = end;
    Ok(taken)
}

/// An order that follows from what objects are alone. Different nodes differ in themselves or in their first
/// part that is another node, so that one way down is all there is to go.
fn order(nodes: &[Node<'_>], mut a: Id, mut b: Id) -> Ordering {
    while a != b {
        let (one, other) = (&nodes[a], &nodes[b]);
        let themselves = |node: &Node<'_>| (node.kind, node.parts.len());
        let ordering = themselves(one)
            .cmp(&themselves(other))
            .then_with(|| one.head.cmp(other.head))
            .then_with(|| one.line.cmp(other.line));
        if ordering != Ordering::Equal {
            return ordering;
        }
        let parts = one.parts.iter().zip(&other.parts);
        let mut differing = parts.filter(|(one, other)| one != other);
        match differing.next() {
            Some((one, other)) => (a, b) = (*one, *other),
            None => return Ordering::Equal,
        }
    }
    Ordering::Equal
}

/// What is still to be written.
enum Step<'a> {
    Object(Id),
    Bytes(&'a [u8]),
}

fn write(nodes: &[Node<'_>], root: Id) -> Vec<u8> {
    let uses = uses(nodes, root);
    let mut indices: Vec<Option<u32>> = vec![None; nodes.len()];
    let mut next_index = 0;
    let mut bytes = Vec::new();
    let mut steps = vec![Step::Object(root)];
    while let Some(step) = steps.pop() {
        let id = match step {
            Step::Bytes(more) => {
                bytes.extend(more);
                continue;
            }
            Step::Object(id) => id,
        };
        let node = &nodes[id];
        if let Some(index) = indices[id] {
            bytes.push(b'r');
            bytes.extend(index.to_le_bytes());
            continue;
        }
        if uses[id] > 1 && !node.is_singleton() {
            bytes.push(node.kind | FLAG_REF);
            indices[id] = Some(next_index);
            next_index += 1;
        } else {
            bytes.push(node.kind);
        }
        bytes.extend(node.head);
        // The last first: it is a stack.
        for (place, &part) in node.parts.iter().enumerate().rev() {
            if place + 1 == PARTS_BEFORE_LINE && !node.line.is_empty() {
                steps.push(Step::Bytes(node.line));
            }
            steps.push(Step::Object(part));
        }
    }
    bytes
}

/// How often each object is a part of others, of those that the root holds.
fn uses(nodes: &[Node<'_>], root: Id) -> Vec<usize> {
    let mut uses = vec![0; nodes.len()];
    let mut waiting = vec![root];
    uses[root] = 1;
    while let Some(id) = waiting.pop() {
        for &part in &nodes[id].parts {
            uses[part] += 1;
            if uses[part] == 1 {
                waiting.push(part);
            }
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::python::interpreter;

    /// Writes `dumps` of modules of the standard library, each with its length before it, in the order that is
    /// asked for; of a sixth of them, so that all release lines take seconds.
    const COMPILE: &str = r#"
import marshal, os, struct, sys, warnings
warnings.simplefilter("ignore")
library = os.path.dirname(os.__file__)
names = []
for folder in ("", "asyncio", "email", "json", "importlib", "concurrent/futures", "xml/dom", "test"):
    folder = os.path.join(library, folder)
    if os.path.isdir(folder):
        names += sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".py"))
names = names[::6]
order = {"forwards": names, "backwards": names[::-1]}[sys.argv[1]]
dumped = {}
for name in order:
    source = open(name, "rb").read()
    try:
        dumped[name] = marshal.dumps(compile(source, "/var/task/m.py", "exec", dont_inherit=True, optimize=0))
    except (SyntaxError, ValueError):
        dumped[name] = b""
for name in names:
    sys.stdout.buffer.write(struct.pack("<I", len(dumped[name])) + dumped[name])
"#;

    /// Holds pairs of dumps against each other.
    const COMPARE: &str = r#"
import marshal, struct, sys
data, at = sys.stdin.buffer.read(), 0
def take():
    global at
    length = struct.unpack_from("<I", data, at)[0]
    at += 4 + length
    return data[at - length:at]
def walk(code):
    yield (code.co_filename, code.co_flags, code.co_stacksize, code.co_names, code.co_varnames, code.co_freevars,
           code.co_cellvars, getattr(code, "co_exceptiontable", None), getattr(code, "co_qualname", None),
           getattr(code, "co_linetable", code.co_lnotab), code.co_firstlineno, code.co_code,
           [repr(const) if isinstance(const, (float, complex)) else const for const in code.co_consts
            if not hasattr(const, "co_code")])
    for const in code.co_consts:
        if hasattr(const, "co_code"):
            for inner in walk(const):
                yield inner
count = 0
while at < len(data):
    dumped = take()
    one, other = marshal.loads(dumped), marshal.loads(take())
    has_nan = one != marshal.loads(dumped)
    assert has_nan or one == other and list(walk(one)) == list(walk(other)), one
    count += 1
print(count)
"#;

    fn run(python: &Path, script: &str, argument: &str, seed: &str, input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(python)
            .args(["-s", "-S", "-B", "-W", "ignore", "-c", script, argument])
            .env("PYTHONHASHSEED", seed)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeding = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let output = child.wait_with_output().unwrap();
        feeding.join().unwrap();
        assert!(output.status.success(), "{}", python.display());
        output.stdout
    }

    fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut frames = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let (frame, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
            frames.push(frame);
            bytes = rest;
        }
        frames
    }

    /// All interpreters of known release lines on this machine.
    fn interpreters() -> Vec<(u8, PathBuf)> {
        let told = Command::new("sh")
            .args([
                "-c",
                "printf '%s\n%s' \"$PATH\" \"${PYENV_ROOT:-$HOME/.pyenv}\"",
            ])
            .output();
        let told = String::from_utf8(told.unwrap().stdout).unwrap();
        let (directories, pyenv) = told.split_once('\n').unwrap();
        let directories: Vec<_> = directories.split(':').map(PathBuf::from).collect();
        let roots = [PathBuf::from(pyenv).join("versions")];
        let found = (8..=14).filter_map(|minor| {
            let candidates = interpreter::candidates(minor, &directories, &roots);
            let found = interpreter::find(minor, &candidates).ok()?;
            Some((minor, found.executable))
        });
        found.collect()
    }

    #[test]
    fn the_standard_library_has_one_form_whatever_was_compiled_before() {
        let interpreters = interpreters();
        assert!(!interpreters.is_empty(), "a CPython of 3.8 to 3.14");
        for (minor, python) in interpreters {
            let forwards = run(&python, COMPILE, "forwards", "0", b"");
            let backwards = run(&python, COMPILE, "backwards", "1", b"");
            let (forwards, backwards) = (frames(&forwards), frames(&backwards));
            assert!(forwards.len() > 30 && forwards.len() == backwards.len());
            let mut pairs = Vec::new();
            let mut count = 0;
            for (one, other) in forwards.iter().zip(&backwards) {
                if one.is_empty() {
                    continue;
                }
                count += 1;
                let form = canonical(one, minor).unwrap();
                assert!(form == canonical(other, minor).unwrap(), "3.{minor}");
                assert!(form == canonical(&form, minor).unwrap(), "3.{minor}");
                for dumped in [*one, &form] {
                    pairs.extend(u32::try_from(dumped.len()).unwrap().to_le_bytes());
                    pairs.extend(dumped);
                }
            }
            let compared = run(&python, COMPARE, "", "0", &pairs);
            assert_eq!(
                String::from_utf8(compared).unwrap().trim(),
                count.to_string()
            );
        }
    }

    /// A code object of 3.12 whose constants are these objects.
    fn code(constants: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"c".to_vec();
        bytes.extend([0; 20]);
        bytes.extend(b"s\x02\0\0\0\x97\0");
        bytes.extend([b')', u8::try_from(constants.len()).unwrap()]);
        bytes.extend(constants.concat());
        bytes.extend(b")\0)\0s\0\0\0\0z\x01mz\x01mz\x01m");
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(b"s\0\0\0\0s\0\0\0\0");
        bytes
    }

    fn refused(bytes: &[u8]) -> String {
        canonical(bytes, 12).unwrap_err().to_string()
    }

    #[test]
    fn equal_constants_become_one_and_sets_are_sorted() {
        let one = code(&[b">\x02\0\0\0z\x01bz\x01a", b"\xda\x01x", b"r\0\0\0\0", b"N"]);
        let other = code(&[b"\xbe\x02\0\0\0z\x01az\x01b", b"Z\x01x", b"Z\x01x", b"N"]);
        let form = canonical(&one, 12).unwrap();
        assert_eq!(form, canonical(&other, 12).unwrap());
        let constants = b")\x04>\x02\0\0\0Z\x01aZ\x01b\xda\x01xr\0\0\0\0N";
        let mut windows = form.windows(constants.len());
        assert!(windows.any(|window| window == constants), "{form:x?}");
        // What the whole process shares says nothing of this module.
        let shared = |kind: &[u8]| canonical(&code(&[kind]), 12).unwrap();
        assert_eq!(shared(b"z\x01{"), shared(b"Z\x01{"));
        assert_eq!(
            shared(b"u\x02\0\0\0\xc3\xa9"),
            shared(b"t\x02\0\0\0\xc3\xa9")
        );
        assert_ne!(shared(b"z\x02{}"), shared(b"Z\x02{}"));
        // Zeros that compare equal are different constants.
        let (zero, minus_zero): ([u8; 9], [u8; 9]) =
            (*b"g\0\0\0\0\0\0\0\0", *b"g\0\0\0\0\0\0\0\x80");
        let form = canonical(&code(&[&zero, &minus_zero]), 12).unwrap();
        let both = [zero, minus_zero].concat();
        assert!(form.windows(both.len()).any(|window| window == both));
    }

    #[test]
    fn what_no_compiler_writes_is_refused() {
        let whole = code(&[b"N"]);
        assert!(canonical(&whole, 12).is_ok());
        for end in 0..whole.len() {
            assert_eq!(canonical(&whole[..end], 12), Err(Error::Truncated), "{end}");
        }
        let mut deep = b")\x01".repeat(3000);
        deep.push(b'N');
        insta::assert_snapshot!(refused(&[&whole[..], b"N"].concat()), @"bytes are left behind it");
        insta::assert_snapshot!(refused(b"N"), @"it is no code object");
        insta::assert_snapshot!(refused(b"[\0\0\0\0"), @"the byte 0 begins an object of the unknown kind 0x5b");
        insta::assert_snapshot!(refused(b"\xa9\x01r\0\0\0\0"), @"the byte 2 says a number that is out of range");
        insta::assert_snapshot!(refused(b"(\xff\xff\xff\xff"), @"the byte 1 says a number that is out of range");
        insta::assert_snapshot!(refused(b"(\xff\xff\xff\x7f"), @"it ends too early");
        insta::assert_snapshot!(refused(&deep), @"it is nested too deeply, or too large");
        insta::assert_snapshot!(canonical(&whole, 15).unwrap_err(), @"the code objects of Python 3.15 are not known");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), minor in 8u8..=14) {
            let _ = canonical(&bytes, minor);
        }

        #[test]
        fn one_form_is_its_own(constants in prop::collection::vec(constant(), 0..6)) {
            let constants: Vec<_> = constants.iter().map(Vec::as_slice).collect();
            let bytes = code(&constants);
            let form = canonical(&bytes, 12).unwrap();
            prop_assert_eq!(&canonical(&form, 12).unwrap(), &form);
            prop_assert!(form.len() <= bytes.len() * 5);
        }
    }

    /// Objects in each other, with equal ones among them.
    fn constant() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            Just(b"N".to_vec()),
            Just(b"T".to_vec()),
            (0u8..3).prop_map(|digit| vec![b'i', digit, 0, 0, 0]),
            (0u8..3).prop_map(|letter| vec![b'z', 1, b'a' + letter]),
            (0u8..3).prop_map(|letter| vec![b'Z', 1, b'a' + letter]),
            Just(b"l\xfe\xff\xff\xff\x01\0\x01\0".to_vec()),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let parts = prop::collection::vec(inner, 0..4);
            (parts, any::<bool>()).prop_map(|(parts, is_set)| {
                let count = u8::try_from(parts.len()).unwrap();
                let mut bytes = if is_set {
                    vec![b'>', count, 0, 0, 0]
                } else {
                    vec![b')', count]
                };
                bytes.extend(parts.concat());
                bytes
            })
        })
    }
}
