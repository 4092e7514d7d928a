//! The framing of MCP over stdio: one message a line (2026-07-28 §stdio, and every one before).

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// How long a line may be unless told otherwise: results with images reach tens of megabytes.
pub const MAX_LINE: usize = 64 * 1024 * 1024;

/// One line of a stream, without its line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A line within the bound; it is never blank.
    Text(Bytes),
    /// A line beyond the bound was skipped; this many bytes of it.
    TooLong(usize),
}

/// Cuts a byte stream into lines, each byte looked at once.
#[derive(Clone, Debug)]
pub struct LineCodec {
    limit: usize,
    scanned: usize,
    skipped: Option<usize>,
}

impl LineCodec {
    /// Makes a codec that skips lines of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, scanned: 0, skipped: None }
    }

    fn finish(&mut self, mut line: BytesMut) -> Option<Line> {
        self.scanned = 0;
        if let Some(skipped) = self.skipped.take() {
            return Some(Line::TooLong(skipped + line.len()));
        }
        if line.len() > self.limit {
            return Some(Line::TooLong(line.len()));
        }
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        let blank = line.iter().all(u8::is_ascii_whitespace);
        (!blank).then(|| Line::Text(line.freeze()))
    }
}

impl Decoder for LineCodec {
    type Item = Line;
    type Error = std::io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Line>, Self::Error> {
        while let Some(found) = memchr::memchr(b'\n', &input[self.scanned..]) {
            let line = input.split_to(self.scanned + found);
            input.advance(1);
            if let Some(line) = self.finish(line) {
                return Ok(Some(line));
            }
        }
        self.scanned = input.len();
        if self.scanned > self.limit {
            *self.skipped.get_or_insert(0) += self.scanned;
            input.clear();
            self.scanned = 0;
        }
        Ok(None)
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Line>, Self::Error> {
        if let Some(line) = self.decode(input)? {
            return Ok(Some(line));
        }
        if input.is_empty() && self.skipped.is_none() {
            return Ok(None);
        }
        let rest = input.split();
        Ok(self.finish(rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(codec: &mut LineCodec, chunks: &[&[u8]]) -> Vec<Line> {
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(line) = codec.decode(&mut buffer).unwrap() {
                out.push(line);
            }
        }
        while let Some(line) = codec.decode_eof(&mut buffer).unwrap() {
            out.push(line);
        }
        out
    }

    fn text(line: &'static str) -> Line {
        Line::Text(Bytes::from_static(line.as_bytes()))
    }

    #[test]
    fn lines_are_cut_at_breaks_and_blank_ones_are_skipped() {
        let got = lines(&mut LineCodec::new(100), &[b"{\"a\":1}\r\n\n  \n{}", b"\nlast"]);
        assert_eq!(got, [text("{\"a\":1}"), text("{}"), text("last")]);
    }

    #[test]
    fn a_line_beyond_the_bound_is_skipped_and_counted_and_the_next_one_is_read() {
        let got = lines(&mut LineCodec::new(4), &[b"abcd\nabc", b"def", b"g\nok\n", b"12345"]);
        assert_eq!(got, [text("abcd"), Line::TooLong(7), text("ok"), Line::TooLong(5)]);
    }

    proptest! {
        #[test]
        fn where_the_chunks_are_cut_does_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), b'a'..=b'c'], 0..80),
            cut in 1_usize..9,
        ) {
            let whole = lines(&mut LineCodec::new(6), &[&bytes]);
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            prop_assert_eq!(lines(&mut LineCodec::new(6), &chunks), whole);
        }
    }
}
