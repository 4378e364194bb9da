//! What a program writes, cut into pieces of a log: lines, or the frames of the log's own descriptor.
//!
//! A frame is four numbers, big-endian, and text: its kind and level (32 bits), its length (32 bits), its time in
//! microseconds of the epoch (64 bits). Pure: bytes come in, pieces go out.

/// The longest line that is kept whole, in bytes: Lambda's own limit for a piece of a log.
const MAX_LINE: usize = 256 << 10;
/// The first half of the kind of every frame.
const MAGIC: u32 = 0xA55A_0000;
/// The length of what stands before a frame's text.
const HEADER: usize = 16;

/// What is written to a stream, line by line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes bytes, and gives each line that is whole, without its end.
    pub(super) fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    self.begun.extend_from_slice(end);
                    line(&self.begun);
                    self.begun.clear();
                }
                None => self.begun.extend_from_slice(part),
            }
            if self.begun.len() >= MAX_LINE {
                line(&self.begun);
                self.begun.clear();
            }
        }
    }

    /// Gives the line that has no end yet.
    pub(super) fn rest(&mut self, line: impl FnOnce(&[u8])) {
        if !self.begun.is_empty() {
            line(&self.begun);
            self.begun.clear();
        }
    }
}

/// What is written to the log's descriptor, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Frames {
    begun: Vec<u8>,
    /// How much text the frame that has begun still has, by its own account.
    left: Option<usize>,
    /// Whether something else than frames came: then all is taken as text.
    lost: bool,
}

impl Frames {
    /// Takes bytes, and gives the text of each frame that is whole; of a long one, pieces.
    pub(super) fn take(&mut self, bytes: &[u8], mut text: impl FnMut(&[u8])) {
        self.begun.extend_from_slice(bytes);
        let mut place = 0;
        while !self.lost {
            let rest = &self.begun[place..];
            if let Some(left) = self.left {
                // Whoever writes states a length as it likes: no more than a line is waited for.
                let Some(piece) = rest.get(..left.min(MAX_LINE)) else {
                    break;
                };
                text(piece);
                place += piece.len();
                self.left = Some(left - piece.len()).filter(|left| *left > 0);
                continue;
            }
            let (Some(kind), Some(length)) = (number(rest, 0), number(rest, 4)) else {
                break;
            };
            if kind & 0xFFFF_0000 != MAGIC {
                self.lost = true;
            } else if rest.len() < HEADER {
                break;
            } else {
                self.left = usize::try_from(length).ok();
                place += HEADER;
            }
        }
        self.begun.drain(..place);
        if self.lost {
            self.rest(text);
        }
    }

    /// Gives what is there of a frame that is not whole.
    pub(super) fn rest(&mut self, text: impl FnOnce(&[u8])) {
        if !self.begun.is_empty() {
            text(&self.begun);
            self.begun.clear();
        }
    }
}

fn number(bytes: &[u8], place: usize) -> Option<u32> {
    let four = bytes.get(place..place + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_given_when_they_end() {
        let mut lines = Lines::default();
        let mut given = Vec::new();
        for part in ["one\ntw", "o\n\nthr", "ee"] {
            lines.take(part.as_bytes(), |line| given.push(line.to_vec()));
        }
        assert_eq!(given, [&b"one"[..], b"two", b""]);
        lines.rest(|line| given.push(line.to_vec()));
        assert_eq!(given.last().unwrap(), b"three");
        lines.rest(|_| panic!("nothing is left"));
    }

    #[test]
    fn a_line_without_end_does_not_grow_for_ever() {
        let mut lines = Lines::default();
        let mut given = 0;
        for _ in 0..3 {
            lines.take(&vec![b'a'; MAX_LINE / 2], |line| given += line.len());
        }
        assert_eq!(given, MAX_LINE);
    }

    fn frame(text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap();
        let mut bytes = 0xA55A_000B_u32.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend(1_u64.to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn frames_are_given_wherever_they_are_cut() {
        let bytes = [frame("a\nb\n"), frame(""), frame("last")].concat();
        for cut in 0..bytes.len() {
            let mut frames = Frames::default();
            let mut given = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                frames.take(part, |text| {
                    given.push(String::from_utf8(text.to_vec()).unwrap());
                });
            }
            assert_eq!(given, ["a\nb\n", "", "last"], "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_of_any_stated_length_keeps_no_more_than_a_line() {
        let mut bytes = frame("");
        bytes[4..8].copy_from_slice(&0xFFFF_FFF0_u32.to_be_bytes());
        let mut frames = Frames::default();
        let mut given = 0;
        frames.take(&bytes, |text| given += text.len());
        for _ in 0..8 {
            frames.take(&vec![b'a'; MAX_LINE / 2], |text| given += text.len());
        }
        assert_eq!(given, 4 * MAX_LINE);
        assert!(frames.begun.is_empty());
    }

    #[test]
    fn a_long_frame_is_given_in_pieces_and_the_next_one_after_it() {
        let long = "a".repeat(MAX_LINE + 1);
        let mut given = Vec::new();
        let bytes = [frame(&long), frame("next")].concat();
        Frames::default().take(&bytes, |text| given.push(text.to_vec()));
        let pieces = [&long.as_bytes()[1..], b"a", b"next"];
        assert_eq!(given, pieces);
    }

    #[test]
    fn what_is_no_frame_is_text() {
        let mut frames = Frames::default();
        let mut given = Vec::new();
        frames.take(b"somebody else writes here\n", |text| {
            given.extend_from_slice(text);
        });
        assert_eq!(given, b"somebody else writes here\n");
    }
}
