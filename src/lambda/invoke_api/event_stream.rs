//! Messages of `application/vnd.amazon.eventstream`, the form of AWS's answers in parts.
//!
//! What the events are, and when they are sent, is not known here.

use bytes::Bytes;

/// The form's media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.amazon.eventstream";

/// The lengths of the message and its headers, and the checksum of both.
const PRELUDE: usize = 12;
/// A checksum's length.
const CHECKSUM: usize = 4;
/// The type of a header that is text.
const TEXT: u8 = 7;

/// An event of this type, whose payload has this media type and is shorter than the form's 16 MiB.
pub(super) fn event(kind: &'static str, media_type: &'static str, payload: &[u8]) -> Bytes {
    let mut headers = Vec::new();
    for (name, value) in [
        (":message-type", "event"),
        (":event-type", kind),
        (":content-type", media_type),
    ] {
        headers.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        headers.extend_from_slice(name.as_bytes());
        headers.push(TEXT);
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        headers.extend_from_slice(&length.to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let total = PRELUDE + headers.len() + payload.len() + CHECKSUM;
    let mut message = Vec::with_capacity(total);
    for length in [total, headers.len()] {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        message.extend_from_slice(&length.to_be_bytes());
    }
    seal(&mut message);
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload);
    seal(&mut message);
    message.into()
}

/// Adds the checksum of everything so far.
fn seal(message: &mut Vec<u8>) {
    let checksum = crc32fast::hash(message);
    message.extend_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_the_format_has_it() {
        // As botocore's decoder reads it: tests/it/streaming.rs has that read what comes over the wire.
        let message = event("PayloadChunk", "application/octet-stream", b"\x00\xffhi");
        let number = |at: usize| {
            let bytes = message[at..at + 4].try_into().unwrap();
            u32::from_be_bytes(bytes)
        };
        let (total, headers) = (number(0) as usize, number(4) as usize);
        assert_eq!(total, message.len());
        assert_eq!(number(8), crc32fast::hash(&message[..8]));
        assert_eq!(number(total - 4), crc32fast::hash(&message[..total - 4]));
        assert_eq!(&message[12 + headers..total - 4], b"\x00\xffhi");
        let text = String::from_utf8_lossy(&message[12..12 + headers]).into_owned();
        assert_eq!(
            text,
            "\u{d}:message-type\u{7}\0\u{5}event\u{b}:event-type\u{7}\0\u{c}PayloadChunk\
             \u{d}:content-type\u{7}\0\u{18}application/octet-stream"
        );
    }
}
