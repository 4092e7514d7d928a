//! A lane: one data stream that carries HTTP/1.1 exchanges to one share, one after the other.
//!
//! The lane has no task of its own: whoever waits for the answer, or for the next piece of its
//! body, drives it. Bodies pass as the bytes that came. Dropping a lane amid an exchange resets its
//! stream, which cancels the exchange at the agent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use mcpm_shared::http1::{BodyReader, FramingError, MAX_HEAD, response_head_with};
use mcpm_shared::mux::{MuxError, MuxStream, Opener};
use mcpm_shared::proto::head::{StreamHead, Verdict};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep};

use super::visitor_body::{RequestBody, VisitorBody, VisitorBodyError};
use crate::headers::Forwarded;
use crate::metrics::Tracked;

/// A body of at most this size is sent together with its head: one frame instead of two.
const TOGETHER: u64 = 16 * 1024;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// No stream could be opened: nothing reached the agent.
    #[error("no stream to the agent could be opened")]
    Open(#[source] MuxError),
    /// The agent refused the stream.
    #[error("the agent refused the stream: {0}")]
    Refused(Verdict),
    /// The stream failed.
    #[error("the stream to the agent failed")]
    Stream(#[source] io::Error),
    /// The agent's answer is not HTTP.
    #[error("the agent's answer is not HTTP")]
    Framing(#[from] FramingError),
    /// Nothing came for too long.
    #[error("the agent did not answer in time")]
    Idle,
    /// The visitor's body failed, or is too long.
    #[error(transparent)]
    Visitor(#[from] VisitorBodyError),
}

/// An open lane.
#[derive(Debug)]
pub struct Lane {
    stream: MuxStream,
    /// What came and belongs to nothing yet.
    input: Bytes,
    accepted: bool,
    /// Whether another exchange may follow the present one.
    reusable: bool,
    idle_since: Instant,
    /// Made by the first exchange and set anew only when it fires too early: a timer costs more
    /// than the exchange's other waits.
    timer: Option<Pin<Box<Sleep>>>,
    /// When bytes last moved in either direction.
    moved: Instant,
    /// A head of which only a part has come.
    partial: BytesMut,
    _open: Tracked,
}

/// A request on its way: its head and what is ready of its body. It outlives a lane that fails
/// before the first byte was sent.
#[derive(Debug)]
pub struct Outgoing {
    method: Method,
    buffer: BytesMut,
    /// How long the head is at the beginning of the buffer, while nothing was sent.
    head: usize,
    body: Option<VisitorBody>,
    chunked: bool,
    started: bool,
}

impl Lane {
    /// Opens a stream to a share and makes a lane of it. Costs no round trip.
    ///
    /// # Errors
    /// When no stream can be had.
    pub async fn open(opener: &Opener, head: StreamHead, open: Tracked) -> Result<Self, LaneError> {
        let mut stream = opener.open().await.map_err(LaneError::Open)?;
        let ended = |_| LaneError::Open(MuxError::Closed);
        stream.write_all(&head.encode()).await.map_err(ended)?;
        Ok(Self {
            stream,
            input: Bytes::new(),
            accepted: false,
            reusable: false,
            idle_since: Instant::now(),
            timer: None,
            moved: Instant::now(),
            partial: BytesMut::new(),
            _open: open,
        })
    }

    /// Sends a request and waits for the head of its answer; [`Lane::poll_body`] then gives the
    /// body by the reader that comes beside it.
    ///
    /// # Errors
    /// When the stream or the visitor fails first. Not cancel-safe: drop the lane then, which
    /// cancels the exchange.
    pub async fn exchange(
        &mut self,
        request: &mut Outgoing,
        patience: Duration,
    ) -> Result<Response<BodyReader>, LaneError> {
        self.reusable = false;
        self.moved = Instant::now();
        std::future::poll_fn(|cx| match request.poll_together(cx) {
            Poll::Pending => self.poll_patience(patience, cx),
            gathered @ Poll::Ready(_) => gathered,
        })
        .await?;
        std::future::poll_fn(|cx| {
            let sent = self.poll_send(request, cx);
            // An agent that answers early and reads no further has said what there is to say.
            match (self.poll_head(&request.method, cx), sent) {
                (Poll::Ready(Ok(response)), _) => Poll::Ready(Ok(response)),
                (_, Poll::Ready(Err(error))) | (Poll::Ready(Err(error)), _) => {
                    Poll::Ready(Err(error))
                }
                (Poll::Pending, _) => {
                    self.poll_patience(patience, cx).map(|_| Err(LaneError::Idle))
                }
            }
        })
        .await
    }

    /// Waits until nothing has moved for `patience` and fails then.
    fn poll_patience(
        &mut self,
        patience: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LaneError>> {
        let deadline = self.moved + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(Err(LaneError::Idle));
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Sends on what is ready of a request whose answer has begun; `true` once all is sent. When the
    /// agent reads no further, the rest is dropped and the lane is not used again.
    pub fn poll_rest(&mut self, request: &mut Outgoing, cx: &mut Context<'_>) -> bool {
        match self.poll_send(request, cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "rest of a request dropped");
                self.reusable = false;
                true
            }
        }
    }

    /// Tells whether the lane rests and lives: nothing came unasked, not even the end.
    pub fn is_ready(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_input(&mut cx) {
            Poll::Pending => self.input.is_empty(),
            Poll::Ready(_) => false,
        }
    }

    fn poll_send(
        &mut self,
        request: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LaneError>> {
        loop {
            while !request.buffer.is_empty() {
                let stream = Pin::new(&mut self.stream);
                let written = ready!(stream.poll_write(cx, &request.buffer));
                request.buffer.advance(written.map_err(LaneError::Stream)?);
                request.started = true;
                self.moved = Instant::now();
            }
            if request.body.is_none() {
                return Pin::new(&mut self.stream).poll_flush(cx).map_err(LaneError::Stream);
            }
            ready!(request.poll_gather(cx))?;
        }
    }

    /// Fetches what came next into the input, which must be empty; `false` at the end.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, LaneError>> {
        let came = ready!(self.stream.poll_bytes(cx)).map_err(LaneError::Stream)?;
        let Some(mut bytes) = came else { return Poll::Ready(Ok(false)) };
        if !self.accepted {
            // The agent's verdict precedes everything (protocol §4).
            match Verdict::decode(bytes.split_to(1)[0]) {
                Verdict::Accepted => self.accepted = true,
                refusal => return Poll::Ready(Err(LaneError::Refused(refusal))),
            }
            if bytes.is_empty() {
                return self.poll_input(cx);
            }
        }
        self.moved = Instant::now();
        self.input = bytes;
        Poll::Ready(Ok(true))
    }

    fn poll_head(
        &mut self,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<BodyReader>, LaneError>> {
        loop {
            if !self.input.is_empty() {
                if !self.partial.is_empty() {
                    self.join_partial();
                }
                if let Some(response) = self.parse_head(method)? {
                    return Poll::Ready(Ok(response));
                }
                self.keep_partial()?;
            }
            if !ready!(self.poll_input(cx))? {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Poll::Ready(Err(LaneError::Stream(error)));
            }
        }
    }

    /// Puts an incomplete head aside until more comes.
    fn keep_partial(&mut self) -> Result<(), LaneError> {
        self.partial.extend_from_slice(&std::mem::take(&mut self.input));
        if self.partial.len() > MAX_HEAD { Err(FramingError::TooLong.into()) } else { Ok(()) }
    }

    /// Adds what came to an incomplete head. While it has no end, it is not parsed anew: a head that
    /// comes byte by byte must not cost its square.
    fn join_partial(&mut self) {
        let seen = self.partial.len().saturating_sub(3);
        self.partial.extend_from_slice(&std::mem::take(&mut self.input));
        let fresh = &self.partial[seen..];
        let ends = |window: &[u8]| window == b"\n\r\n" || window.starts_with(b"\n\n");
        if fresh.windows(3).any(ends) || fresh.ends_with(b"\n\n") {
            self.input = self.partial.split().freeze();
        }
    }

    /// Takes a final head off the input; interim ones are dropped.
    fn parse_head(&mut self, method: &Method) -> Result<Option<Response<BodyReader>>, LaneError> {
        loop {
            if self.input.is_empty() {
                return Ok(None);
            }
            let mut headers = http::HeaderMap::with_capacity(16);
            let bytes = self.input.clone();
            let mut malformed = false;
            let head = response_head_with(&bytes, method.as_str(), |field| {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
                match (name, value) {
                    (Ok(name), Ok(value)) => {
                        headers.append(name, value);
                    }
                    _ => malformed = true,
                }
            })?;
            let Some(head) = head else { return Ok(None) };
            self.input.advance(head.len);
            if head.status < 200 && head.status != 101 {
                continue;
            }
            let status = StatusCode::from_u16(head.status).map_err(|_| FramingError::Head)?;
            if malformed {
                return Err(FramingError::Head.into());
            }
            self.reusable = head.keep_alive && head.status != 101;
            let mut response = Response::new(BodyReader::new(head.body));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            return Ok(Some(response));
        }
    }

    /// Waits for the next piece of an answer's body; `None` at its end.
    ///
    /// # Errors
    /// When the stream ends before the body does.
    pub fn poll_body(
        &mut self,
        body: &mut BodyReader,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, LaneError>>> {
        loop {
            match body.take(&mut self.input) {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) if body.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            debug_assert!(self.input.is_empty(), "a body takes all that came");
            match ready!(self.poll_input(cx)) {
                Ok(true) => {}
                Ok(false) if body.ends_with_connection() => return Poll::Ready(None),
                Ok(false) => {
                    let error = LaneError::Stream(io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Some(Err(error)));
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Tells whether the lane can carry another exchange, now that the answer's body has ended.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.reusable && self.input.is_empty()
    }

    /// Gives up the stream for another protocol, with what came of it already.
    #[must_use]
    pub fn into_stream(self) -> (MuxStream, Bytes) {
        (self.stream, self.input)
    }

    /// Returns when bytes last moved in either direction.
    #[must_use]
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// Notes that the lane rests from now on.
    pub fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Returns since when the lane rests.
    #[must_use]
    pub fn idle_since(&self) -> Instant {
        self.idle_since
    }
}

impl Outgoing {
    /// Writes the head of a request, whose headers are those to be sent except for its framing and
    /// for what is told of the visitor.
    #[must_use]
    pub fn new(parts: &Parts, body: VisitorBody, forwarded: &Forwarded) -> Self {
        let mut buffer = BytesMut::with_capacity(1024);
        for part in [parts.method.as_str(), " ", parts.uri.path()] {
            buffer.extend_from_slice(part.as_bytes());
        }
        if let Some(query) = parts.uri.query() {
            buffer.extend_from_slice(b"?");
            buffer.extend_from_slice(query.as_bytes());
        }
        buffer.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &parts.headers {
            buffer.extend_from_slice(name.as_str().as_bytes());
            buffer.extend_from_slice(b": ");
            buffer.extend_from_slice(value.as_bytes());
            buffer.extend_from_slice(b"\r\n");
        }
        forwarded.write(&mut buffer);
        let empty = body.is_end_stream();
        let chunked = !empty && !parts.headers.contains_key(header::CONTENT_LENGTH);
        if chunked {
            buffer.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        buffer.extend_from_slice(b"\r\n");
        let body = (!empty).then_some(body);
        let head = buffer.len();
        Self { method: parts.method.clone(), buffer, head, body, chunked, started: false }
    }

    /// Takes what is not sent yet, if anything.
    pub fn take_rest(&mut self) -> Option<Self> {
        if self.body.is_none() && self.buffer.is_empty() {
            return None;
        }
        Some(Self {
            method: self.method.clone(),
            buffer: std::mem::take(&mut self.buffer),
            head: self.head,
            body: self.body.take(),
            chunked: self.chunked,
            started: self.started,
        })
    }

    /// Tells whether a byte of it was handed to a stream: from then on it is never sent again.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Returns the visitor's body as it came, for a request that goes another way altogether; `None`
    /// once a byte was handed to a stream, or where its framing was made already.
    #[must_use]
    pub fn unsent(mut self) -> Option<RequestBody> {
        let read = self.buffer.split_off(self.head.min(self.buffer.len())).freeze();
        if self.started || (self.chunked && !read.is_empty()) {
            return None;
        }
        Some(match self.body {
            Some(body) => body.back(read),
            None => RequestBody::whole(read),
        })
    }

    /// Waits for a small body of known length, so that it leaves together with the head.
    fn poll_together(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        let small = |body: &VisitorBody| body.size_hint().exact().is_some_and(|n| n <= TOGETHER);
        while self.body.as_ref().is_some_and(small) {
            ready!(self.poll_gather(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece of the body into the buffer.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                    if self.chunked {
                        self.buffer.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                    }
                    self.buffer.extend_from_slice(data);
                    if self.chunked {
                        self.buffer.extend_from_slice(b"\r\n");
                    }
                }
                if body.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
            None => self.end(),
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) {
        self.body = None;
        if self.chunked {
            self.buffer.extend_from_slice(b"0\r\n\r\n");
        }
    }
}
