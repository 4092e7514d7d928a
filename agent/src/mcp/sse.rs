//! The framing of MCP over server-sent events (WHATWG HTML §9.2).

use bytes::{Buf, Bytes, BytesMut};

/// The comment that keeps an idle stream alive; clients ignore it.
pub const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// Returns a message as one event.
#[must_use]
pub fn encode(message: &[u8]) -> Bytes {
    const HEAD: &[u8] = b"event: message\ndata: ";
    let mut out = BytesMut::with_capacity(HEAD.len() + message.len() + 2);
    out.extend_from_slice(HEAD);
    let mut rest = message;
    // A raw break inside the message is white space between tokens; it splits the data line, and
    // the decoder joins the parts again.
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"\ndata: ");
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

/// One decoded event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type; empty means `message`.
    pub name: String,
    /// Its data; may be empty, as in the priming event of MCP 2025-11-25.
    pub data: Bytes,
    /// The id to resume after, when the event carried one.
    pub id: Option<String>,
    /// The delay before reconnecting that the server asks for, in milliseconds.
    pub retry_ms: Option<u64>,
}

impl Event {
    /// Tells whether the event carries a message.
    #[must_use]
    pub fn is_message(&self) -> bool {
        (self.name.is_empty() || self.name == "message") && !self.data.is_empty()
    }
}

/// An event beyond the bound: the stream cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {0} bytes")]
pub struct TooLong(pub usize);

/// Decodes a stream of events, each byte looked at once.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buffer: BytesMut,
    scanned: usize,
    started: bool,
    after_cr: bool,
    event: Event,
    data: BytesMut,
    any: bool,
}

impl Decoder {
    /// Makes a decoder that refuses events of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: BytesMut::new(),
            scanned: 0,
            started: false,
            after_cr: false,
            event: Event::default(),
            data: BytesMut::new(),
            any: false,
        }
    }

    /// Adds a chunk of the stream.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Returns the next whole event, or `None` until more is pushed.
    ///
    /// # Errors
    /// An event or a line passed the bound.
    pub fn next_event(&mut self) -> Result<Option<Event>, TooLong> {
        while let Some(line) = self.next_line() {
            if let Some(event) = self.line(&line)? {
                return Ok(Some(event));
            }
        }
        if self.buffer.len() > self.limit { Err(TooLong(self.limit)) } else { Ok(None) }
    }

    fn next_line(&mut self) -> Option<BytesMut> {
        if self.after_cr && self.buffer.first() == Some(&b'\n') {
            // The second half of CR LF, which may come in a later chunk.
            self.buffer.advance(1);
            self.scanned = self.scanned.saturating_sub(1);
        }
        if !self.buffer.is_empty() {
            self.after_cr = false;
        }
        let Some(found) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let mut line = self.buffer.split_to(self.scanned + found);
        self.scanned = 0;
        self.after_cr = self.buffer.first() == Some(&b'\r');
        self.buffer.advance(1);
        if !std::mem::replace(&mut self.started, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.advance(3);
        }
        Some(line)
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Event>, TooLong> {
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) => return Ok(None),
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &b""[..]),
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match field {
            b"event" => self.event.name = text(),
            b"data" => self.add_data(value)?,
            b"id" if !value.contains(&0) => self.event.id = Some(text()),
            b"retry" => self.event.retry_ms = text().parse().ok(),
            _ => return Ok(None),
        }
        self.any = true;
        Ok(None)
    }

    fn add_data(&mut self, value: &[u8]) -> Result<(), TooLong> {
        if self.data.len() + value.len() > self.limit {
            return Err(TooLong(self.limit));
        }
        if self.any && !self.data.is_empty() {
            self.data.extend_from_slice(b"\n");
        }
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn dispatch(&mut self) -> Option<Event> {
        let mut event = std::mem::take(&mut self.event);
        event.data = self.data.split().freeze();
        std::mem::take(&mut self.any).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<Event> {
        let mut decoder = Decoder::new(1000);
        let mut out = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(event) = decoder.next_event().unwrap() {
                out.push(event);
            }
        }
        out
    }

    #[test]
    fn a_message_is_one_event_golden_bytes() {
        assert_eq!(&encode(br#"{"a":1}"#)[..], b"event: message\ndata: {\"a\":1}\n\n");
        assert_eq!(&encode(b"{\r\"a\":1}")[..], b"event: message\ndata: {\ndata: \"a\":1}\n\n");
    }

    #[test]
    fn fields_comments_and_breaks_of_all_kinds_are_understood() {
        let text = b"\xef\xbb\xbf: hi\nid: 7\ndata:\n\nevent: message\rdata: a\r\ndata:  b\r\n\r\nretry: 300\n\n";
        let events = decode(&[text]);
        assert_eq!(events.len(), 3);
        assert_eq!(events[0].id.as_deref(), Some("7"));
        assert!(!events[0].is_message());
        assert_eq!(&events[1].data[..], b"a\n b");
        assert!(events[1].is_message());
        assert_eq!(events[2].retry_ms, Some(300));
    }

    #[test]
    fn an_event_beyond_the_bound_is_refused() {
        let mut decoder = Decoder::new(8);
        decoder.push(b"data: 0123456789");
        assert_eq!(decoder.next_event(), Err(TooLong(8)));
        let mut decoder = Decoder::new(8);
        decoder.push(b"data:1234\ndata:56789\n\n");
        assert_eq!(decoder.next_event(), Err(TooLong(8)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_wherever_the_chunks_are_cut(
            message in "\\{\"[a-z\"\\\\ ]{0,40}\\}", cut in 1_usize..7
        ) {
            let bytes = encode(message.as_bytes());
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let events = decode(&chunks);
            prop_assert_eq!(events.len(), 1);
            prop_assert_eq!(&events[0].data[..], message.as_bytes());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(50);
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_event() {}
        }
    }
}
