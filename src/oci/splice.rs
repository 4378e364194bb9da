//! A tar becomes one gzip member; what an archive holds deflated already is taken over bit for bit.
//!
//! Follows RFC 1951 and RFC 1952. The one deflate stream has three kinds of parts, each of which begins and
//! ends at a whole byte. *Segments* are tar bytes compressed here, each with the 32 KiB before it as its
//! dictionary and an empty stored block at its end, so that processors can share them and their number
//! reaches no byte. *Spliced* parts are a member's own deflate stream, the mark of its last block
//! cleared, an empty stored block behind it. *Stored* parts are what an archive holds as it is. A member's
//! stream starts with an empty window and inflates alone, so it cannot reach into what was there before.
//!
//! A producer fills parts, workers compress segments, a finisher puts all in order: it hashes the tar and
//! the result, and shows files to whoever wants to see them. What waits between them is bounded. It
//! knows neither tar headers nor where the result goes.

use std::io::{self, Read, Write};
use std::mem;
use std::panic;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crc32fast::Hasher as Crc;
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::digest::{Digest, Hasher};
use crate::oci::inflate::{Damaged, Inflater, Step};
use crate::oci::layer::Look;
use crate::progress::Task;
use crate::zip::{self, Member, Method};

/// Less time than gzip's own 6 for a few thousandths more bytes. A change is a change of every digest.
const LEVEL: u32 = 4;
/// Tar bytes of a segment: enough for the compressor to have seen something, few enough to hold many.
const SEGMENT: usize = 256 << 10;
/// How far back deflate can refer.
const WINDOW: usize = 32 << 10;
/// Segments shorter than this are not worth another thread.
const SHORT: usize = 8 << 10;
/// Parts under way between producer and finisher.
const QUEUED: usize = 4;
/// More workers would wait for the finisher.
const MAX_WORKERS: usize = 4;
/// Compressed bytes of a member that are read at once.
const INPUT: usize = 64 << 10;
/// More of a result than any honest part has.
const MAX_DEFLATED: usize = 2 * SEGMENT;
/// A stored block says its length in sixteen bits.
const MAX_STORED: usize = 0xffff;

/// No name, no date, no operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A last block with nothing in it.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// An empty stored block behind its header: its length, and the complement of that.
const EMPTY_BLOCK: [u8; 4] = [0, 0, 0xff, 0xff];

/// What a stream can fail at.
#[derive(Debug)]
pub(super) enum Error {
    /// What goes in cannot be read, or is not what it should be.
    Read(io::Error),
    /// The finisher has failed, and says why; or nobody waits for the result.
    Stopped,
}

/// What came of a stream.
pub(super) struct Finished<W> {
    /// Where the result went.
    pub(super) out: W,
    /// The digest of the tar.
    pub(super) diff_id: Digest,
}

/// Writes what `produce` gives, about `expected` bytes, as one gzip member. `task` hears of the tar's bytes.
///
/// # Errors
/// Those of writing; beside the result comes what the producer says.
pub(super) fn gzip<'l, W: Write + Send, R>(
    out: W,
    expected: u64,
    task: &'l Task,
    produce: impl FnOnce(&mut Stream<'l>) -> R,
) -> io::Result<(Finished<W>, R)> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let segments = usize::try_from(expected / SEGMENT as u64).unwrap_or(usize::MAX);
    let workers = processors.min(MAX_WORKERS).min(segments);
    let (items, incoming) = mpsc::sync_channel(QUEUED);
    let (jobs, queue) = mpsc::channel();
    let (used, spare) = mpsc::channel();
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(&queue));
        }
        let finisher = scope.spawn(move || finish(out, &incoming, &used, task));
        let mut stream = Stream {
            task,
            items,
            spare,
            jobs: (workers > 0).then_some(jobs),
            compressor: Compressor::new(),
            inflater: Inflater::new(),
            input: Vec::new(),
            part: Part::new(Buffers::default()),
            before: Vec::new(),
        };
        let produced = produce(&mut stream);
        // It can only fail where the finisher did.
        let _ = stream.end_segment().and_then(|()| stream.end_part());
        drop(stream);
        let result = finisher.join();
        let result = result.unwrap_or_else(|cause| panic::resume_unwind(cause))?;
        Ok((result, produced))
    })
}

/// Room for tar bytes, and for what they are in the result.
type Buffers = (Vec<u8>, Vec<u8>);

/// A run of the tar, and what it is in the result.
struct Part<'l> {
    /// Room for a segment, of which this much is filled.
    tar: Vec<u8>,
    filled: usize,
    /// How much of that is in `deflated` already; the rest waits to be compressed.
    done: usize,
    deflated: Vec<u8>,
    /// Of the tar bytes that are done.
    crc: Crc,
    marks: Vec<Mark<'l>>,
}

/// Something that happens behind so many of a part's tar bytes.
enum Mark<'l> {
    Begin(usize, Box<dyn Look + Send + 'l>),
    End(usize),
}

impl Part<'_> {
    /// The buffers are those of a part that is done with, or empty.
    fn new((mut tar, mut deflated): Buffers) -> Self {
        tar.resize(SEGMENT, 0);
        deflated.clear();
        Self {
            tar,
            filled: 0,
            done: 0,
            deflated,
            crc: Crc::new(),
            marks: Vec::new(),
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.tar[..self.filled]
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.tar[self.filled..]
    }
}

enum Item<'l> {
    Ready(Part<'l>),
    Coming(Receiver<Part<'l>>),
}

/// A segment to compress.
struct Job<'l> {
    part: Part<'l>,
    dictionary: Vec<u8>,
    reply: SyncSender<Part<'l>>,
}

/// The producer's side.
pub(super) struct Stream<'l> {
    task: &'l Task,
    items: SyncSender<Item<'l>>,
    spare: Receiver<Buffers>,
    jobs: Option<Sender<Job<'l>>>,
    compressor: Compressor,
    inflater: Inflater,
    /// Room for compressed bytes of a member.
    input: Vec<u8>,
    /// The part that is being filled.
    part: Part<'l>,
    /// The end of the tar bytes right before it, if those were compressed here: its dictionary.
    before: Vec<u8>,
}

impl<'l> Stream<'l> {
    /// Compresses these bytes.
    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.part.room();
            let count = room.len().min(bytes.len());
            let (now, rest) = bytes.split_at(count);
            room[..count].copy_from_slice(now);
            bytes = rest;
            self.fill(count)?;
        }
        Ok(())
    }

    /// Shows what comes until [`Stream::end`] to `look`.
    pub(super) fn begin(&mut self, look: Box<dyn Look + Send + 'l>) {
        let mark = Mark::Begin(self.part.filled, look);
        self.part.marks.push(mark);
    }

    /// Ends what was begun.
    pub(super) fn end(&mut self) {
        let mark = Mark::End(self.part.filled);
        self.part.marks.push(mark);
    }

    /// Compresses what `reader` has, and says how much that was. It is read to its end, or to one byte more
    /// than `limit`.
    pub(super) fn reader(&mut self, reader: impl Read, limit: u64) -> Result<u64, Error> {
        let mut reader = reader.take(limit.saturating_add(1));
        let mut total = 0;
        loop {
            match reader.read(self.part.room()) {
                Ok(0) => return Ok(total),
                Ok(count) => {
                    total += count as u64;
                    self.fill(count)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
    }

    /// Compresses a member's contents, proven.
    pub(super) fn member(&mut self, member: &Member) -> Result<(), Error> {
        match member.method {
            Method::Stored => self.reader(member.open(), member.size).map(drop),
            Method::Deflated => self.inflate(member, false),
        }
    }

    /// Takes a member over as its archive has it, its contents proven.
    pub(super) fn splice(&mut self, member: &Member) -> Result<(), Error> {
        self.end_segment()?;
        match member.method {
            Method::Stored => self.store(member)?,
            Method::Deflated => self.inflate(member, true)?,
        }
        // The next segment's compressor would have to see what this one never had.
        self.before.clear();
        Ok(())
    }

    /// Notes that so many bytes more of the part are filled.
    fn fill(&mut self, count: usize) -> Result<(), Error> {
        self.part.filled += count;
        if self.part.filled < SEGMENT {
            return Ok(());
        }
        self.end_segment()?;
        self.end_part()
    }

    /// The same for bytes whose result is in the part already.
    fn fill_spliced(&mut self, count: usize, crc: &Crc) -> Result<(), Error> {
        let part = &mut self.part;
        part.crc.combine(crc);
        part.filled += count;
        part.done = part.filled;
        if part.filled < SEGMENT {
            return Ok(());
        }
        self.end_part()
    }

    fn next_part(&mut self) -> Part<'l> {
        let spare = self.spare.try_recv().unwrap_or_default();
        mem::replace(&mut self.part, Part::new(spare))
    }

    fn send(&self, item: Item<'l>) -> Result<(), Error> {
        if !self.task.is_wanted() {
            return Err(Error::Stopped);
        }
        self.items.send(item).map_err(|_| Error::Stopped)
    }

    /// Has compressed what waits for it: by a worker, if that is worth it and nothing stands before it.
    fn end_segment(&mut self) -> Result<(), Error> {
        let segment = &self.part.tar[self.part.done..self.part.filled];
        if segment.is_empty() {
            return Ok(());
        }
        let dictionary = mem::take(&mut self.before);
        let kept = WINDOW.saturating_sub(segment.len()).min(dictionary.len());
        self.before.extend(&dictionary[dictionary.len() - kept..]);
        let new = segment.len().min(WINDOW);
        self.before.extend(&segment[segment.len() - new..]);
        match &self.jobs {
            Some(jobs) if self.part.done == 0 && segment.len() >= SHORT => {
                let (reply, coming) = mpsc::sync_channel(1);
                let jobs = jobs.clone();
                let job = Job {
                    part: self.next_part(),
                    dictionary,
                    reply,
                };
                jobs.send(job).map_err(|_| Error::Stopped)?;
                self.send(Item::Coming(coming))
            }
            _ => {
                self.compressor.compress(&dictionary, &mut self.part);
                Ok(())
            }
        }
    }

    /// Sends the part, whose result is whole, if there is anything in it.
    fn end_part(&mut self) -> Result<(), Error> {
        let Part {
            filled,
            deflated,
            marks,
            ..
        } = &self.part;
        if *filled == 0 && deflated.is_empty() && marks.is_empty() {
            return Ok(());
        }
        let part = self.next_part();
        self.send(Item::Ready(part))
    }

    /// Takes a stored member over in stored blocks.
    fn store(&mut self, member: &Member) -> Result<(), Error> {
        let mut proof = member.proof();
        let mut raw = member.raw();
        loop {
            let room = self.part.room();
            let most = room.len().min(MAX_STORED);
            let count = read_full(&mut raw, &mut room[..most]).map_err(Error::Read)?;
            if count == 0 {
                break;
            }
            let bytes = &room[..count];
            let mut crc = Crc::new();
            crc.update(bytes);
            proof.combine(&crc, count).map_err(Error::Read)?;
            let length = u16::try_from(count).unwrap_or(u16::MAX);
            let deflated = &mut self.part.deflated;
            deflated.push(0);
            deflated.extend(length.to_le_bytes());
            deflated.extend((!length).to_le_bytes());
            deflated.extend(&self.part.tar[self.part.filled..][..count]);
            self.fill_spliced(count, &crc)?;
        }
        proof.end(member.compressed_size).map_err(Error::Read)
    }

    /// Inflates a member; its own deflate stream becomes part of the result where it is to be spliced.
    fn inflate(&mut self, member: &Member, splice: bool) -> Result<(), Error> {
        let mut proof = member.proof();
        let mut input = Input::new(member, mem::take(&mut self.input));
        self.inflater.reset();
        loop {
            let step = self.inflater.step(input.unread(), self.part.room());
            let step = step.map_err(|Damaged| Error::Read(proof.does_not_inflate()))?;
            let mut crc = Crc::new();
            crc.update(&self.part.room()[..step.written]);
            proof.combine(&crc, step.written).map_err(Error::Read)?;
            if splice {
                self.fill_spliced(step.written, &crc)?;
            } else {
                self.fill(step.written)?;
            }
            if input.take(step) {
                break;
            }
            if step.read == 0 && step.written == 0 && step.boundary.is_none() {
                let done = splice.then_some(&mut self.part.deflated);
                if !input.refill(done).map_err(Error::Read)? {
                    return Err(Error::Read(proof.does_not_inflate()));
                }
                // A stream may be long and say nothing: its blocks may be empty.
                if splice && self.part.deflated.len() > MAX_DEFLATED {
                    self.end_part()?;
                }
            }
        }
        if splice {
            input.end(&mut self.part.deflated);
        }
        proof.end(input.total).map_err(Error::Read)?;
        self.input = input.buffer;
        Ok(())
    }
}

/// Reads until the buffer is full or there is no more.
fn read_full(reader: &mut impl Read, mut buffer: &mut [u8]) -> io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(count) => {
                total += count;
                buffer = &mut buffer[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// A member's deflate stream as it is read, the mark of its last block cleared on the way.
struct Input {
    raw: zip::Range,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are there.
    filled: usize,
    /// Bytes of the buffer that were inflated.
    at: usize,
    /// Bytes of the stream that were inflated.
    total: u64,
    /// Where the next block's header begins: its byte in the buffer and its bit there.
    header: Option<(usize, u8)>,
    /// Whether the block that is being inflated is the last.
    is_last: bool,
    /// How many bits of the last byte are behind the stream.
    unused: u8,
}

impl Input {
    /// `buffer` is that of a member before, or empty.
    fn new(member: &Member, mut buffer: Vec<u8>) -> Self {
        buffer.resize(INPUT + 1, 0);
        Self {
            raw: member.raw(),
            buffer,
            filled: 0,
            at: 0,
            total: 0,
            header: Some((0, 0)),
            is_last: false,
            unused: 0,
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.at..self.filled]
    }

    /// Notes how far a step came, and says whether that was the end of the last block.
    fn take(&mut self, step: Step) -> bool {
        self.at += step.read;
        self.total += step.read as u64;
        let Some(unused) = step.boundary else {
            return false;
        };
        if self.is_last {
            self.unused = unused;
            return true;
        }
        self.header = Some(match unused {
            0 => (self.at, 0),
            unused => (self.at - 1, 8 - unused),
        });
        self.read_header();
        false
    }

    /// Clears the mark of the last block, if the header is here and has it. Where the inflater has not seen it
    /// yet it goes on for ever, and stops at the boundary behind the block all the same.
    fn read_header(&mut self) {
        let Some((byte, bit)) = self.header.filter(|(byte, _)| *byte < self.filled) else {
            return;
        };
        self.header = None;
        self.is_last = self.buffer[byte] & 1 << bit != 0;
        self.buffer[byte] &= !(1 << bit);
    }

    /// Reads on, after what was inflated is put behind `done`; says whether there was anything. The last byte
    /// stays, for bits of it may be the next header's.
    fn refill(&mut self, done: Option<&mut Vec<u8>>) -> io::Result<bool> {
        let kept = self.filled.min(1);
        let gone = self.filled - kept;
        if let Some(done) = done {
            done.extend(&self.buffer[..gone]);
        }
        self.buffer.copy_within(gone..self.filled, 0);
        self.header = self.header.map(|(byte, bit)| (byte - gone, bit));
        self.at = kept;
        let count = read_full(&mut self.raw, &mut self.buffer[kept..])?;
        self.filled = kept + count;
        self.read_header();
        Ok(count > 0)
    }

    /// Puts the rest behind `done`, up to a whole byte: an empty stored block takes what is left of the last.
    fn end(&self, done: &mut Vec<u8>) {
        done.extend(&self.buffer[..self.at]);
        if let Some(last) = done.last_mut() {
            *last &= 0xff >> self.unused;
        }
        // A block's header has three bits, here all of them zero.
        if self.unused < 3 {
            done.push(0);
        }
        done.extend(EMPTY_BLOCK);
    }
}

/// Makes segments of deflate, each the same whatever was compressed before.
struct Compressor(Compress);

impl Compressor {
    fn new() -> Self {
        Self(Compress::new(Compression::new(LEVEL), false))
    }

    /// Compresses what waits in a part, as if `dictionary` had come right before, up to a whole byte.
    fn compress(&mut self, dictionary: &[u8], part: &mut Part<'_>) {
        if dictionary.is_empty() {
            self.0.reset();
        } else {
            // zlib hashes some bytes behind the dictionary as well, which a reset leaves as they were.
            *self = Self::new();
            let set = self.0.set_dictionary(dictionary);
            set.expect("a raw stream takes a dictionary before its first byte");
        }
        let Part { tar, deflated, .. } = part;
        let segment = &tar[part.done..part.filled];
        // One call has to do: where room runs out, zlib's result depends on where it did.
        deflated.reserve(segment.len() + segment.len() / 8 + 256);
        let compressed = self.0.compress_vec(segment, deflated, FlushCompress::Sync);
        let is_whole = matches!(compressed, Ok(Status::Ok))
            && self.0.total_in() == segment.len() as u64
            && deflated.len() < deflated.capacity();
        assert!(is_whole, "a segment has more room than deflate can need");
        part.crc.update(segment);
        part.done = part.filled;
    }
}

/// A worker: compresses segments until there are no more.
fn work(queue: &Mutex<Receiver<Job<'_>>>) {
    let mut compressor = Compressor::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut job) = job else { return };
        compressor.compress(&job.dictionary, &mut job.part);
        // Where nobody waits the finisher has failed.
        let _ = job.reply.send(job.part);
    }
}

/// The finisher: puts the parts in order.
fn finish<W: Write>(
    mut out: W,
    incoming: &Receiver<Item<'_>>,
    used: &Sender<Buffers>,
    task: &Task,
) -> io::Result<Finished<W>> {
    out.write_all(&HEADER)?;
    let (mut crc, mut hasher, mut size) = (Crc::new(), Hasher::default(), 0u64);
    let mut look = None;
    for item in incoming {
        let mut part = match item {
            Item::Ready(part) => part,
            Item::Coming(coming) => coming.recv().map_err(io::Error::other)?,
        };
        let marks = mem::take(&mut part.marks);
        let bytes = part.bytes();
        out.write_all(&part.deflated)?;
        hasher.update(bytes);
        crc.combine(&part.crc);
        size += bytes.len() as u64;
        task.advance(bytes.len() as u64);
        show(bytes, marks, &mut look);
        // Where the producer is done nobody needs it.
        let _ = used.send((part.tar, part.deflated));
    }
    out.write_all(&LAST_BLOCK)?;
    out.write_all(&crc.finalize().to_le_bytes())?;
    // Its lower 32 bits, as the format has it.
    out.write_all(&size.to_le_bytes()[..4])?;
    Ok(Finished {
        out,
        diff_id: hasher.finish(),
    })
}

/// Shows a part's bytes to whoever looks at that time.
fn show<'l>(bytes: &[u8], marks: Vec<Mark<'l>>, look: &mut Option<Box<dyn Look + Send + 'l>>) {
    let mut shown = 0;
    let mut show_until = |at: usize, look: &mut Option<Box<dyn Look + Send + 'l>>| {
        if let Some(look) = look
            && at > shown
        {
            look.bytes(&bytes[shown..at]);
        }
        shown = at;
    };
    for mark in marks {
        match mark {
            Mark::Begin(at, next) => {
                show_until(at, look);
                *look = Some(next);
            }
            Mark::End(at) => {
                show_until(at, look);
                if let Some(look) = look.take() {
                    look.end();
                }
            }
        }
    }
    show_until(bytes.len(), look);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::zip::testing::Builder;
    use proptest::prelude::*;
    use std::sync::Arc;
    use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Strategy as Kind};

    fn member(contents: &[u8], data: &[u8], method: u16) -> Member {
        let mut builder = Builder::default();
        builder.add_raw(("m", "m"), contents, data, method, 0o644);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&builder.finish()).unwrap();
        zip::open(file.path()).unwrap().remove(0)
    }

    fn gzipped(
        produce: impl FnOnce(&mut Stream<'_>) -> Result<(), Error>,
    ) -> Result<Vec<u8>, Error> {
        let task = Progress::default().task("make", None);
        let (finished, produced) = gzip(Vec::new(), 1 << 20, &task, produce).unwrap();
        produced?;
        let mut decoder = flate2::bufread::GzDecoder::new(&*finished.out);
        let mut bytes = Vec::new();
        decoder.read_to_end(&mut bytes).unwrap();
        assert!(
            decoder.into_inner().is_empty(),
            "one member, nothing behind it"
        );
        assert_eq!(Digest::of(&bytes), finished.diff_id);
        Ok(bytes)
    }

    /// What comes out where the same streams are spliced one behind the other, with text between them.
    fn spliced(members: &[Member]) -> Result<Vec<u8>, Error> {
        gzipped(|stream| {
            for member in members {
                stream.bytes(b"before ")?;
                stream.splice(member)?;
            }
            stream.bytes(b" behind")
        })
    }

    fn joined(contents: &[Vec<u8>]) -> Vec<u8> {
        let each = contents.iter().flat_map(|c| [b"before ", &c[..]].concat());
        each.chain(*b" behind").collect()
    }

    fn text(length: usize, seed: u32) -> Vec<u8> {
        let mut state = seed | 1;
        let mut word = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 20
        };
        let words = std::iter::repeat_with(move || format!("{} ", word() % 500));
        words.flat_map(String::into_bytes).take(length).collect()
    }

    /// A deflate stream made by one of zlib's strategies, flushed here and there.
    fn deflated(
        contents: &[u8],
        level: i32,
        kind: Kind,
        flushes: &[(usize, DeflateFlush)],
    ) -> Vec<u8> {
        let config = DeflateConfig {
            level,
            window_bits: -15,
            strategy: kind,
            ..DeflateConfig::default()
        };
        let mut deflate = Deflate::new_with_config(config);
        let mut out = vec![0; contents.len() * 2 + 4096 + flushes.len() * 64];
        let mut written = 0;
        let mut left = contents;
        let ends = flushes.iter().map(|(at, flush)| (at % 5000, *flush));
        for (count, flush) in ends.chain([(usize::MAX, DeflateFlush::Finish)]) {
            let (now, rest) = left.split_at(count.min(left.len()));
            left = rest;
            let before = deflate.total_out();
            deflate.compress(now, &mut out[written..], flush).unwrap();
            written += usize::try_from(deflate.total_out() - before).unwrap();
        }
        out.truncate(written);
        out
    }

    /// Blocks written bit by bit, which no compressor would write.
    #[derive(Default)]
    struct Bits {
        bytes: Vec<u8>,
        used: u8,
    }

    impl Bits {
        fn put(&mut self, value: u32, count: u8) {
            for bit in 0..count {
                if self.used == 0 {
                    self.bytes.push(0);
                }
                let last = self.bytes.last_mut().unwrap();
                *last |= u8::from(value >> bit & 1 == 1) << self.used;
                self.used = (self.used + 1) % 8;
            }
        }

        /// A block of fixed codes: literals below 144 have eight bits, the highest first.
        fn fixed(&mut self, contents: &[u8], last: bool) {
            self.put(u32::from(last), 1);
            self.put(1, 2);
            for byte in contents {
                self.put(u32::from((0x30 + (byte & 0x7f)).reverse_bits()), 8);
            }
            self.put(0, 7);
        }

        fn stored(&mut self, contents: &[u8], last: bool) {
            self.put(u32::from(last), 1);
            self.put(0, 2);
            self.used = 0;
            let length = u16::try_from(contents.len()).unwrap();
            self.bytes.extend(length.to_le_bytes());
            self.bytes.extend((!length).to_le_bytes());
            self.bytes.extend(contents);
        }
    }

    const KINDS: [Kind; 5] = [
        Kind::Default,
        Kind::Filtered,
        Kind::HuffmanOnly,
        Kind::Rle,
        Kind::Fixed,
    ];
    const FLUSHES: [DeflateFlush; 5] = [
        DeflateFlush::NoFlush,
        DeflateFlush::PartialFlush,
        DeflateFlush::SyncFlush,
        DeflateFlush::FullFlush,
        DeflateFlush::Block,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn streams_of_any_compressor_are_spliced(
            streams in prop::collection::vec(
                (0usize..400_000, any::<u32>(), 0i32..=9, 0usize..5,
                 prop::collection::vec((any::<usize>(), 0usize..5), 0..12)),
                1..5,
            ),
        ) {
            let made = streams.into_iter().map(|(length, seed, level, kind, flushes)| {
                let contents = text(length, seed);
                let flushes: Vec<_> = flushes.into_iter().map(|(at, f)| (at, FLUSHES[f])).collect();
                let data = deflated(&contents, level, KINDS[kind], &flushes);
                let member = member(&contents, &data, 8);
                (contents, member)
            });
            let (contents, members): (Vec<_>, Vec<_>) = made.unzip();
            prop_assert_eq!(spliced(&members).unwrap(), joined(&contents));
        }

        #[test]
        fn blocks_that_end_at_any_bit_are_spliced(
            streams in prop::collection::vec(
                prop::collection::vec((any::<bool>(), prop::collection::vec(0u8..128, 0..40)), 1..30),
                1..6,
            ),
        ) {
            let made = streams.into_iter().map(|blocks| {
                let mut bits = Bits::default();
                let count = blocks.len();
                for (number, (stored, contents)) in blocks.iter().enumerate() {
                    let last = number + 1 == count;
                    if *stored { bits.stored(contents, last) } else { bits.fixed(contents, last) }
                }
                let contents: Vec<u8> = blocks.into_iter().flat_map(|(_, contents)| contents).collect();
                let member = member(&contents, &bits.bytes, 8);
                (contents, member)
            });
            let (contents, members): (Vec<_>, Vec<_>) = made.unzip();
            prop_assert_eq!(spliced(&members).unwrap(), joined(&contents));
        }

        #[test]
        fn damaged_streams_are_refused_or_what_they_say(
            (at, bit) in (any::<prop::sample::Index>(), 0u8..8),
            level in 0i32..=9,
        ) {
            let contents = text(50_000, 7);
            let mut data = deflated(&contents, level, Kind::Default, &[(900, DeflateFlush::Block)]);
            let at = at.index(data.len());
            data[at] ^= 1 << bit;
            let member = member(&contents, &data, 8);
            // The bits behind the last block mean nothing.
            if let Ok(bytes) = spliced(&[member]) {
                prop_assert_eq!(bytes, joined(&[contents]));
            }
        }
    }

    /// A segment, compressed behind `before` others by the same compressor.
    fn segment(
        compressor: &mut Compressor,
        dictionary: &[u8],
        bytes: &[u8],
        capacity: usize,
    ) -> Vec<u8> {
        let mut part = Part::new(Buffers::default());
        part.tar[..bytes.len()].copy_from_slice(bytes);
        part.filled = bytes.len();
        part.deflated = Vec::with_capacity(capacity);
        compressor.compress(dictionary, &mut part);
        part.deflated
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_segment_is_the_same_whoever_compresses_it(
            (length, seed) in (1usize..=SEGMENT, any::<u32>()),
            dictionary in 0usize..=WINDOW,
            others in prop::collection::vec((1usize..=SEGMENT, any::<u32>(), 0usize..=WINDOW), 1..4),
            capacity in 0usize..100_000,
        ) {
            let (bytes, dictionary) = (text(length, seed), text(dictionary, seed / 2));
            let alone = segment(&mut Compressor::new(), &dictionary, &bytes, SEGMENT);
            let mut used = Compressor::new();
            for (length, seed, dictionary) in others {
                segment(&mut used, &text(dictionary, seed / 2), &text(length, seed), 0);
            }
            prop_assert!(segment(&mut used, &dictionary, &bytes, SEGMENT) == alone, "history");
            prop_assert!(segment(&mut Compressor::new(), &dictionary, &bytes, capacity) == alone, "room");
        }
    }

    #[test]
    fn zopfli_and_stored_members_are_spliced() {
        let contents = text(300_000, 3);
        let mut data = Vec::new();
        let options = zopfli::Options {
            iteration_count: std::num::NonZeroU64::MIN,
            ..zopfli::Options::default()
        };
        zopfli::compress(options, zopfli::Format::Deflate, &*contents, &mut data).unwrap();
        let members = [member(&contents, &data, 8), member(&contents, &contents, 0)];
        let expected = joined(&[contents.clone(), contents]);
        assert_eq!(spliced(&members).unwrap(), expected);
    }

    #[test]
    fn a_stream_of_empty_blocks_is_not_held() {
        struct Longest(usize);
        impl Write for Longest {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.max(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let contents = text(20_000, 9);
        let mut bits = Bits::default();
        for _ in 0..1_000_000 {
            bits.stored(b"", false);
        }
        bits.stored(&contents, true);
        let member = member(&contents, &bits.bytes, 8);
        let expected = joined(std::slice::from_ref(&contents));
        assert!(spliced(std::slice::from_ref(&member)).unwrap() == expected);
        let task = Progress::default().task("make", None);
        let made = gzip(Longest(0), 0, &task, |stream| stream.splice(&member));
        let (finished, produced) = made.unwrap();
        produced.unwrap();
        let longest = finished.out.0;
        assert!(
            longest <= MAX_DEFLATED + INPUT + 1,
            "{longest} bytes waited"
        );
    }

    #[test]
    fn what_is_not_as_the_archive_says_is_refused() {
        let contents = text(40_000, 5);
        let data = deflated(&contents, 6, Kind::Default, &[]);
        let refused =
            |contents: &[u8], data: &[u8], method| match spliced(&[member(contents, data, method)])
            {
                Err(Error::Read(error)) => error.to_string(),
                other => panic!("{other:?}"),
            };
        let mut other = contents.clone();
        other[20_000] ^= 1;
        let behind = [&data[..], b"\0"].concat();
        let messages = [
            refused(&other, &data, 8),
            refused(&contents[..39_999], &data, 8),
            refused(&[&contents[..], b"x"].concat(), &data, 8),
            refused(&contents, &behind, 8),
            refused(&contents, &data[..data.len() - 1], 8),
            refused(&contents, &[], 8),
            // A match that reaches before the stream's own start.
            refused(&contents, &[0x4b, 0x04, 0x12, 0x00], 8),
            refused(&other, &contents, 0),
        ];
        insta::assert_snapshot!(messages.join("\n"), @"
        member `m` is damaged: its CRC-32 differs
        member `m` is longer than the archive says
        member `m` is shorter than the archive says
        member `m` has bytes behind its compressed data
        member `m` is damaged: it does not inflate
        member `m` is damaged: it does not inflate
        member `m` is damaged: it does not inflate
        member `m` is damaged: its CRC-32 differs
        ");
    }

    #[test]
    fn looks_see_their_file_however_it_goes_in() {
        #[derive(Default)]
        struct Seen(Mutex<Vec<(Vec<u8>, bool)>>);
        struct Watch(Arc<Seen>, usize);
        impl Look for Watch {
            fn bytes(&mut self, bytes: &[u8]) {
                self.0.0.lock().unwrap()[self.1].0.extend(bytes);
            }
            fn end(self: Box<Self>) {
                self.0.0.lock().unwrap()[self.1].1 = true;
            }
        }
        let seen = Arc::new(Seen::default());
        let contents = [text(700_000, 1), text(10, 2), Vec::new(), text(300_000, 3)];
        let all = gzipped(|stream| {
            for (number, contents) in contents.iter().enumerate() {
                seen.0.lock().unwrap().push(Default::default());
                stream.bytes(b"header")?;
                stream.begin(Box::new(Watch(Arc::clone(&seen), number)));
                let data = deflated(contents, 6, Kind::Default, &[]);
                match number {
                    0 => stream.splice(&member(contents, &data, 8))?,
                    1 => stream.member(&member(contents, &data, 8))?,
                    2 => stream.splice(&member(contents, contents, 0))?,
                    _ => drop(stream.reader(&**contents, contents.len() as u64)?),
                }
                stream.end();
            }
            Ok(())
        });
        let expected: Vec<_> = contents.iter().map(|c| (c.clone(), true)).collect();
        assert!(*seen.0.lock().unwrap() == expected);
        let with_headers = contents.iter().flat_map(|c| [b"header", &c[..]].concat());
        assert!(all.unwrap() == with_headers.collect::<Vec<_>>());
    }

    #[test]
    fn a_full_disk_stops_the_producer() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let task = Progress::default().task("make", None);
        let result = gzip(Full, 1 << 30, &task, |stream| {
            let zeros = vec![0; 1 << 20];
            loop {
                if stream.bytes(&zeros).is_err() {
                    return;
                }
            }
        });
        assert_eq!(result.err().unwrap().kind(), io::ErrorKind::StorageFull);
    }
}
