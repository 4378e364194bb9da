//! The sha256 value, and the two ways bytes meet it: hashed while written, proven while read.
//!
//! Follows the digest grammar of the OCI image specification, of which Lambda and ECR accept sha256
//! alone. This room knows nothing of images, files or networks.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A sha256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// The digest of everything `reader` has left, and how many bytes that was.
    ///
    /// # Errors
    /// Those of reading.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<(Self, u64)> {
        let mut writer = HashingWriter::new(io::sink());
        io::copy(reader, &mut writer)?;
        let (_, digest, size) = writer.finish();
        Ok((digest, size))
    }

    /// Takes 64 lower-case hexadecimal digits, as hashes stand in Python lock files.
    ///
    /// # Errors
    /// When `hex` is anything else.
    pub fn from_hex(hex: &str) -> Result<Self, ParseError> {
        let error = || ParseError(hex.to_owned());
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| match c {
                b'0'..=b'9' => Ok(c - b'0'),
                b'a'..=b'f' => Ok(c - b'a' + 10),
                _ => Err(error()),
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }

    /// The 64 hexadecimal digits without the algorithm's name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no sha256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a sha256 digest")]
pub struct ParseError(pub String);

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError(text.to_owned());
        let hex = text.strip_prefix("sha256:").ok_or_else(error)?;
        Self::from_hex(hex).map_err(|_| error())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest that is still being fed.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// Takes in a value whose end must not run into the next one's start: length first.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.update((bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Writes through to `W` and keeps the digest and count of what went by.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    written: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Starts at zero bytes.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
            written: 0,
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The inner writer, the digest and the number of bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.written)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What arrived is not what its digest and size promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, {expected_size} bytes, but got {actual}, {actual_size} bytes")]
pub struct Mismatch {
    /// The digest that was promised.
    pub expected: Digest,
    /// The size that was promised, in bytes.
    pub expected_size: u64,
    /// The digest of the bytes that came.
    pub actual: Digest,
    /// How many bytes came.
    pub actual_size: u64,
}

impl Mismatch {
    /// Compares what was promised with what came.
    ///
    /// # Errors
    /// The mismatch itself.
    pub fn check(expected: (Digest, u64), actual: (Digest, u64)) -> Result<(), Self> {
        if expected == actual {
            return Ok(());
        }
        Err(Self {
            expected: expected.0,
            expected_size: expected.1,
            actual: actual.0,
            actual_size: actual.1,
        })
    }
}

/// Reads through from `R` and fails at the end when the bytes were not the promised ones.
pub struct VerifyingReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    read: u64,
    expected: (Digest, u64),
}

impl<R: Read> VerifyingReader<R> {
    /// Promises that `inner` yields `size` bytes of `digest`.
    pub fn new(inner: R, digest: Digest, size: u64) -> Self {
        Self {
            inner,
            hasher: Some(Hasher::default()),
            read: 0,
            expected: (digest, size),
        }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        let ended = count == 0 && !buffer.is_empty();
        if (ended || self.read > self.expected.1)
            && let Some(hasher) = self.hasher.take()
        {
            Mismatch::check(self.expected, (hasher.finish(), self.read))
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_back() {
        assert_eq!(Digest::of("").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>(), Ok(Digest::of("")));
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &EMPTY.to_uppercase(),
            &EMPTY[7..],
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn writer_counts_and_hashes() {
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"ab").unwrap();
        writer.write_all(b"c").unwrap();
        assert_eq!(writer.finish(), (b"abc".to_vec(), Digest::of("abc"), 3));
    }

    #[test]
    fn reader_refuses_other_bytes_shorter_and_longer() {
        let read = |bytes: &[u8]| {
            let mut out = Vec::new();
            VerifyingReader::new(bytes, Digest::of("abc"), 3)
                .read_to_end(&mut out)
                .map(|_| out)
        };
        assert_eq!(read(b"abc").unwrap(), b"abc");
        for bad in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert_eq!(read(bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn fields_do_not_run_together() {
        let hash = |parts: &[&str]| {
            let mut hasher = Hasher::default();
            for part in parts {
                hasher.field(part);
            }
            hasher.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
