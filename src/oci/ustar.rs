//! Headers of tar entries: POSIX ustar, and a PAX header only where a value does not fit.
//!
//! Written here because their bytes are part of every digest. Nothing about a file but its path, kind,
//! execute bit and size has a place in them; owner and group are 0. It never knows how a tar is compressed.

use crate::file_tree::{ImagePath, Node};

/// What sizes in a tar are rounded up to.
pub(super) const BLOCK: usize = 512;
/// ustar has eleven octal digits for a size.
const MAX_OCTAL_SIZE: u64 = 0o77_777_777_777;

/// The header of the entry for `node` at `path`, dated `epoch` (seconds since 1970).
pub(super) fn header(path: &ImagePath, node: &Node, epoch: u64) -> Vec<u8> {
    let path = path.as_str();
    let mut header = match node {
        Node::Directory => Header::new(b'5', format!("{path}/"), 0o755, epoch),
        Node::Symlink(target) => Header {
            link: target.clone(),
            ..Header::new(b'2', path.to_owned(), 0o777, epoch)
        },
        Node::File { executable, .. } => {
            let mode = if *executable { 0o755 } else { 0o644 };
            Header::new(b'0', path.to_owned(), mode, epoch)
        }
    };
    if let Node::File { content, .. } = node {
        header.size = content.size();
    }
    header.bytes()
}

/// How many zeros stand behind contents of `size` bytes.
pub(super) fn padding(size: u64) -> usize {
    let over = size % BLOCK as u64;
    (BLOCK - usize::try_from(over).unwrap_or_default()) % BLOCK
}

/// A header before it is laid out.
struct Header {
    kind: u8,
    name: String,
    mode: u32,
    size: u64,
    epoch: u64,
    link: String,
}

impl Header {
    fn new(kind: u8, name: String, mode: u32, epoch: u64) -> Self {
        Self {
            kind,
            name,
            mode,
            size: 0,
            epoch,
            link: String::new(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let split = split_name(&self.name);
        if split.is_none() {
            pax_record(&mut records, "path", &self.name);
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            pax_record(&mut records, "linkpath", &self.link);
        }
        if self.size > MAX_OCTAL_SIZE {
            pax_record(&mut records, "size", &self.size.to_string());
        }
        let mut out = Vec::with_capacity(BLOCK);
        if !records.is_empty() {
            let size = records.len() as u64;
            out.extend(ustar(b'x', ("", "pax"), 0o644, size, self.epoch, ""));
            out.extend(records);
            out.resize(out.len() + padding(size), 0);
        }
        let name = split.unwrap_or(("", cut(&self.name)));
        let size = if self.size > MAX_OCTAL_SIZE {
            0
        } else {
            self.size
        };
        let link = cut(&self.link);
        out.extend(ustar(self.kind, name, self.mode, size, self.epoch, link));
        out
    }
}

/// What fits into a name field of a header whose PAX record has the whole.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(100)]
}

/// Splits a name into ustar's prefix and name, if it fits there.
fn split_name(name: &str) -> Option<(&str, &str)> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some(("", name));
    }
    // The slash between the two is not kept; a directory's last one belongs to the name.
    let at = name
        .match_indices('/')
        .map(|(at, _)| at)
        .find(|at| name.len() - at - 1 <= 100)?;
    let (prefix, rest) = (&name[..at], &name[at + 1..]);
    (prefix.len() <= 155 && !prefix.is_empty() && !rest.is_empty()).then_some((prefix, rest))
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax_record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend(format!("{length} {key}={value}\n").into_bytes());
}

fn ustar(
    kind: u8,
    (prefix, name): (&str, &str),
    mode: u32,
    size: u64,
    epoch: u64,
    link: &str,
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{epoch:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
