//! HTTP/1.1 framing without bodies in hand: where a head ends, and where its body does. Pure.
//!
//! Only as much of RFC 9112 as a go-between needs that forwards bytes as they are.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes};
use httparse::Status;

/// The longest head, in bytes, and the most fields of one.
pub const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 128;

/// Why bytes are not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// The head does not parse.
    #[error("malformed HTTP head")]
    Head,
    /// The head is over [`MAX_HEAD`].
    #[error("HTTP head over the limit")]
    TooLong,
    /// The body's length is given twice, or is no number.
    #[error("ambiguous HTTP body length")]
    Length,
    /// A chunk is malformed.
    #[error("malformed HTTP chunk")]
    Chunk,
}

/// How long a body is (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Exactly(u64),
    /// In chunks.
    Chunked,
    /// Until the connection closes.
    UntilClose,
}

/// One field of a head, by its place in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, as written.
    pub name: &'a str,
    /// The value, as written.
    pub value: &'a [u8],
}

/// A request head that stands whole at the start of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// Its length in bytes.
    pub len: usize,
    /// The method.
    pub method: &'a str,
    /// The target: path and query.
    pub target: &'a str,
    /// The fields, in order.
    pub fields: Vec<Field<'a>>,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether it asks to switch protocols.
    pub upgrade: bool,
}

/// What frames a response, read from a head that stands whole at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its length in bytes.
    pub len: usize,
    /// The status.
    pub status: u16,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether the connection goes on after it.
    pub keep_alive: bool,
}

/// Reads a request head; `None` when more bytes are needed.
///
/// # Errors
/// When the bytes are no head or leave open where the body ends.
pub fn request_head(buffer: &[u8]) -> Result<Option<RequestHead<'_>>, FramingError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let len = match parsed.parse_with_uninit_headers(buffer, &mut fields) {
        Ok(Status::Complete(len)) if len <= MAX_HEAD => len,
        Ok(Status::Partial) if buffer.len() <= MAX_HEAD => return Ok(None),
        Ok(_) => return Err(FramingError::TooLong),
        Err(_) => return Err(FramingError::Head),
    };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(FramingError::Head);
    };
    let body = declared_length(parsed.headers)?.unwrap_or(BodyLength::Exactly(0));
    let upgrade = parsed.headers.iter().any(|field| field.name.eq_ignore_ascii_case("upgrade"));
    let fields =
        parsed.headers.iter().map(|field| Field { name: field.name, value: field.value }).collect();
    Ok(Some(RequestHead { len, method, target, fields, body, upgrade }))
}

/// Reads the head of the response to a request with `method`; `None` when more bytes are needed.
///
/// # Errors
/// When the bytes are no head or leave open where the body ends.
pub fn response_head(buffer: &[u8], method: &str) -> Result<Option<ResponseHead>, FramingError> {
    response_head_with(buffer, method, |_| ())
}

/// Does the same and shows each field, in order, once the head is whole.
///
/// # Errors
/// When the bytes are no head or leave open where the body ends.
pub fn response_head_with(
    buffer: &[u8],
    method: &str,
    mut show: impl FnMut(Field<'_>),
) -> Result<Option<ResponseHead>, FramingError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
        Ok(Status::Complete(len)) if len <= MAX_HEAD => len,
        Ok(Status::Partial) if buffer.len() <= MAX_HEAD => return Ok(None),
        Ok(_) => return Err(FramingError::TooLong),
        Err(_) => return Err(FramingError::Head),
    };
    let status = parsed.code.ok_or(FramingError::Head)?;
    let bodiless = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
    let body = match declared_length(parsed.headers)? {
        _ if bodiless => BodyLength::Exactly(0),
        Some(length) => length,
        None => BodyLength::UntilClose,
    };
    let connection = |token: &str| has_token(parsed.headers, "connection", token);
    let persistent =
        if parsed.version == Some(1) { !connection("close") } else { connection("keep-alive") };
    for field in parsed.headers.iter() {
        show(Field { name: field.name, value: field.value });
    }
    let keep_alive = persistent && body != BodyLength::UntilClose;
    Ok(Some(ResponseHead { len, status, body, keep_alive }))
}

fn declared_length(fields: &[httparse::Header<'_>]) -> Result<Option<BodyLength>, FramingError> {
    let mut length = None;
    let mut chunked = false;
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(field.value).map_err(|_| FramingError::Length)?.trim();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let value = text.parse::<u64>().ok().filter(|_| digits).ok_or(FramingError::Length)?;
            if length.replace(value).is_some() {
                return Err(FramingError::Length);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(FramingError::Length);
            }
            chunked = true;
        }
    }
    match (chunked, length) {
        (true, Some(_)) => Err(FramingError::Length),
        (true, None) => Ok(Some(BodyLength::Chunked)),
        (false, length) => Ok(length.map(BodyLength::Exactly)),
    }
}

fn has_token(fields: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    values.any(|field| {
        field
            .value
            .split(|b| *b == b',')
            .any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// Takes the data of a body out of the bytes that carry it.
#[derive(Clone, Copy, Debug)]
pub struct BodyReader(BodyTracker);

impl BodyReader {
    /// Starts at the first byte of a body.
    #[must_use]
    pub fn new(length: BodyLength) -> Self {
        Self(BodyTracker::new(length))
    }

    /// Tells whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// Tells whether only the end of the connection ends the body.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.0.0, State::UntilClose)
    }

    /// Returns how many bytes are to come, where that was declared.
    #[must_use]
    pub fn bytes_left(&self) -> Option<u64> {
        match self.0.0 {
            State::Done => Some(0),
            State::Bytes(left) => Some(left),
            _ => None,
        }
    }

    /// Takes the next piece of data off the front of `buffer`, and the framing before it; `None`
    /// when more bytes are needed or the body has ended. Copies nothing.
    ///
    /// # Errors
    /// When a chunk is malformed.
    pub fn take(&mut self, buffer: &mut Bytes) -> Result<Option<Bytes>, FramingError> {
        while !buffer.is_empty() {
            match self.0.0 {
                State::Done => return Ok(None),
                State::UntilClose => return Ok(Some(std::mem::take(buffer))),
                State::Bytes(left) | State::Chunk(left) => {
                    let take = usize::try_from(left).map_or(buffer.len(), |l| l.min(buffer.len()));
                    let piece = buffer.split_to(take);
                    self.0.feed(&piece)?;
                    return Ok(Some(piece));
                }
                _ => {
                    self.0.0 = self.0.step(buffer[0])?;
                    buffer.advance(1);
                }
            }
        }
        Ok(None)
    }
}

/// Follows a body through the bytes that pass, to know where it ends.
#[derive(Clone, Copy, Debug)]
pub struct BodyTracker(State);

#[derive(Clone, Copy, Debug)]
enum State {
    Bytes(u64),
    /// In the line with a chunk's size; whether digits are still read.
    Size {
        size: u64,
        any: bool,
        digits: bool,
    },
    Chunk(u64),
    /// In the line end after a chunk.
    ChunkEnd,
    /// In the trailer section; whether the present line is empty so far.
    Trailer {
        empty: bool,
    },
    UntilClose,
    Done,
}

impl BodyTracker {
    /// Starts at the first byte of a body.
    #[must_use]
    pub fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::Exactly(0) => State::Done,
            BodyLength::Exactly(length) => State::Bytes(length),
            BodyLength::Chunked => State::Size { size: 0, any: false, digits: true },
            BodyLength::UntilClose => State::UntilClose,
        })
    }

    /// Tells whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// Takes note of bytes and returns how many of them belong to the body.
    ///
    /// # Errors
    /// When a chunk is malformed.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, FramingError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.0 {
                State::Done => break,
                State::UntilClose => return Ok(bytes.len()),
                State::Bytes(left) | State::Chunk(left) => {
                    let take =
                        usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                    *left -= take as u64;
                    at += take;
                    if *left == 0 {
                        self.0 = match self.0 {
                            State::Chunk(_) => State::ChunkEnd,
                            _ => State::Done,
                        };
                    }
                }
                _ => {
                    self.0 = self.step(rest[0])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// Moves over one byte of a chunk's frame (RFC 9112 §7.1).
    fn step(&self, byte: u8) -> Result<State, FramingError> {
        match (self.0, byte) {
            (State::Size { size, any: true, .. }, b'\n') => {
                Ok(if size == 0 { State::Trailer { empty: true } } else { State::Chunk(size) })
            }
            (State::Size { size, digits: true, .. }, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).ok_or(FramingError::Chunk)?;
                let size = size.checked_mul(16).and_then(|size| size.checked_add(digit.into()));
                Ok(State::Size { size: size.ok_or(FramingError::Chunk)?, any: true, digits: true })
            }
            // An extension or the carriage return: the size stands.
            (State::Size { size, any: true, .. }, byte) if byte != b'\n' => {
                Ok(State::Size { size, any: true, digits: false })
            }
            (State::ChunkEnd, b'\r') => Ok(State::ChunkEnd),
            (State::ChunkEnd, b'\n') => Ok(State::Size { size: 0, any: false, digits: true }),
            (State::Trailer { empty: true }, b'\n') => Ok(State::Done),
            (State::Trailer { .. }, b'\n') => Ok(State::Trailer { empty: true }),
            (State::Trailer { empty }, b'\r') => Ok(State::Trailer { empty }),
            (State::Trailer { .. }, _) => Ok(State::Trailer { empty: false }),
            _ => Err(FramingError::Chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_say_how_long_their_body_is() {
        let post = b"POST /mcp?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let head = request_head(post).unwrap().unwrap();
        assert_eq!((head.method, head.target, head.len), ("POST", "/mcp?x=1", post.len() - 5));
        assert_eq!(head.body, BodyLength::Exactly(5));
        assert_eq!(request_head(&post[..20]), Ok(None));
        let get = request_head(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert_eq!(get.body, BodyLength::Exactly(0));
    }

    #[test]
    fn a_body_of_unclear_length_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: \r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(request_head(head.as_bytes()), Err(FramingError::Length), "{fields}");
        }
    }

    #[test]
    fn responses_without_a_body_are_known() {
        let head = |text: &str, method| response_head(text.as_bytes(), method).unwrap().unwrap();
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(head(length, "GET").body, BodyLength::Exactly(9));
        assert_eq!(head(length, "HEAD").body, BodyLength::Exactly(0));
        assert_eq!(head("HTTP/1.1 204 No\r\n\r\n", "GET").body, BodyLength::Exactly(0));
        let close = head("HTTP/1.1 200 OK\r\n\r\n", "GET");
        assert_eq!((close.body, close.keep_alive), (BodyLength::UntilClose, false));
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", "GET").keep_alive);
        assert!(!head("HTTP/1.1 204 No\r\nConnection: x, Close\r\n\r\n", "GET").keep_alive);
    }

    #[test]
    fn chunks_end_where_they_say() {
        let body = b"5;ext=1\r\nhello\r\n00\r\nTrailer: x\r\n\r\nNEXT";
        for split in 0..body.len() {
            let mut tracker = BodyTracker::new(BodyLength::Chunked);
            let first = tracker.feed(&body[..split]).unwrap();
            let second = tracker.feed(&body[first..]).unwrap();
            assert_eq!((first + second, tracker.is_done()), (body.len() - 4, true));
        }
        let bad = BodyTracker::new(BodyLength::Chunked).feed(b"xyz\r\n");
        assert_eq!(bad, Err(FramingError::Chunk));
        let long = BodyTracker::new(BodyLength::Chunked).feed(b"ffffffffffffffffff\r\n");
        assert_eq!(long, Err(FramingError::Chunk));
    }

    #[test]
    fn the_data_of_chunks_is_taken_without_their_frame() {
        let wire: &[u8] = b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\n\r\nNEXT";
        for split in 0..wire.len() {
            let mut reader = BodyReader::new(BodyLength::Chunked);
            let mut data = Vec::new();
            let mut left = Bytes::new();
            for part in [&wire[..split], &wire[split..]] {
                left = [left, Bytes::copy_from_slice(part)].concat().into();
                while let Some(piece) = reader.take(&mut left).unwrap() {
                    data.extend_from_slice(&piece);
                }
            }
            assert_eq!(
                (data.as_slice(), &left[..], reader.is_done()),
                (&b"hello!"[..], &b"NEXT"[..], true)
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_framing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _request = request_head(&bytes);
            let _response = response_head(&bytes, "GET");
            let _body = BodyTracker::new(BodyLength::Chunked).feed(&bytes);
        }
    }
}
