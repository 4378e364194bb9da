//! Inflating that stops between deflate blocks and says at which bit.
//!
//! Splicing has to know where a stream's last block begins and where it ends. zlib has always told that
//! (`Z_BLOCK` and `data_type`), and of its descendants only those with its C interface still do: the one
//! in safe Rust is slower by a third, which is what a layer would be slower by. So this is the one
//! file of the room with `unsafe` in it, and nothing else is in it. It never knows archives.

#![allow(
    unsafe_code,
    reason = "the only interface to block boundaries at full speed is zlib's own"
)]

use std::ffi::c_int;

use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_OK, Z_STREAM_END, inflate, inflateEnd, inflateInit2_, inflateReset,
    z_stream, zlibVersion,
};

/// A raw deflate stream, without header or checksum.
const RAW: c_int = -15;
/// In `data_type`: decoding stands between two blocks.
const AT_BOUNDARY: c_int = 128;
/// In `data_type`: so many bits of the last byte are still to come.
const UNUSED_BITS: c_int = 7;

/// Inflates one stream after another.
pub(super) struct Inflater {
    stream: Box<z_stream>,
}

/// How far one step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Bytes taken of the input.
    pub(super) read: usize,
    /// Bytes put into the output.
    pub(super) written: usize,
    /// Whether it stopped behind a block, and then how many bits of the last byte taken are the next block's.
    pub(super) boundary: Option<u8>,
}

/// The bytes are no deflate stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

impl Inflater {
    /// Ready for the first stream. It has 32 KiB of window and some more.
    pub(super) fn new() -> Self {
        let mut stream = Box::new(z_stream::default());
        let size = c_int::try_from(size_of::<z_stream>()).unwrap_or_default();
        // SAFETY: the stream is valid for writes, its fields are the defaults that ask for zlib's own
        // allocator, and version and size are the library's own.
        let code = unsafe { inflateInit2_(&raw mut *stream, RAW, zlibVersion(), size) };
        assert_eq!(
            code, Z_OK,
            "inflating can be begun wherever memory can be had"
        );
        Self { stream }
    }

    /// Forgets the stream before and is ready for the next.
    pub(super) fn reset(&mut self) {
        // SAFETY: the stream was begun in `new` and ends in `drop`.
        let code = unsafe { inflateReset(&raw mut *self.stream) };
        assert_eq!(code, Z_OK, "a stream that was begun can be begun again");
    }

    /// Inflates from `input` into `output` until one is used up or a block ends. Where neither is and nothing
    /// moved, more input is needed.
    ///
    /// # Errors
    /// When the input is no deflate stream.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Damaged> {
        // A step may be shorter than what is given, and nobody gives four gigabytes.
        let limited = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = limited(input.len());
        self.stream.next_out = output.as_mut_ptr();
        self.stream.avail_out = limited(output.len());
        let (given, room) = (self.stream.avail_in, self.stream.avail_out);
        // SAFETY: the stream was begun in `new`; input and output are valid for the counts beside them, and
        // both outlive the call, after which neither pointer is used again.
        let code = unsafe { inflate(&raw mut *self.stream, Z_BLOCK) };
        if !matches!(code, Z_OK | Z_BUF_ERROR | Z_STREAM_END) {
            return Err(Damaged);
        }
        let state = self.stream.data_type;
        let unused = u8::try_from(state & UNUSED_BITS).unwrap_or_default();
        Ok(Step {
            read: (given - self.stream.avail_in) as usize,
            written: (room - self.stream.avail_out) as usize,
            boundary: (state & AT_BOUNDARY != 0).then_some(unused),
        })
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the stream was begun in `new` and is not used again.
        unsafe { inflateEnd(&raw mut *self.stream) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 1000);
        let mut compress = Compress::new(Compression::new(6), false);
        compress
            .compress_vec(bytes, &mut out, FlushCompress::Finish)
            .unwrap();
        out
    }

    #[test]
    fn every_boundary_is_told_and_a_reset_forgets() {
        let text: Vec<u8> = (0..400_000u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        let mut inflater = Inflater::new();
        for bytes in [&text[..], b"short", &text[7..]] {
            let deflated = deflate(bytes);
            let (mut at, mut got, mut boundaries) = (0, Vec::new(), 0);
            inflater.reset();
            loop {
                let mut out = [0; 5000];
                let end = deflated.len().min(at + 700);
                let step = inflater.step(&deflated[at..end], &mut out).unwrap();
                at += step.read;
                got.extend_from_slice(&out[..step.written]);
                boundaries += usize::from(step.boundary.is_some());
                if at == deflated.len() && step.boundary.is_some() {
                    break;
                }
            }
            assert_eq!(got, bytes);
            assert_eq!(boundaries > 3, bytes.len() > 100);
        }
        inflater.reset();
        assert_eq!(inflater.step(&[0xff; 100], &mut [0; 100]), Err(Damaged));
    }
}
