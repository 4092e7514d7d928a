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
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use mcpm_shared::http1::{BodyReader, FramingError, MAX_HEAD, response_head_with};
use mcpm_shared::mux::{MuxError, MuxStream, Opener};
use mcpm_shared::proto::head::{StreamHead, Verdict};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep};

use super::visitor_body::{VisitorBody, VisitorBodyError};

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
}

/// A request on its way: its head and what is ready of its body. It outlives a lane that fails
/// before the first byte was sent.
#[derive(Debug)]
pub struct Outgoing {
    method: Method,
    buffer: BytesMut,
    body: Option<VisitorBody>,
    chunked: bool,
    started: bool,
}

impl Lane {
    /// Opens a stream to a share and makes a lane of it. Costs no round trip.
    ///
    /// # Errors
    /// When no stream can be had.
    pub async fn open(opener: &Opener, head: StreamHead) -> Result<Self, LaneError> {
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
        let deadline = Instant::now() + patience;
        std::future::poll_fn(|cx| match request.poll_together(cx) {
            Poll::Pending => self.poll_deadline(deadline, cx),
            gathered @ Poll::Ready(_) => gathered,
        })
        .await?;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_send(request, cx) {
                return Poll::Ready(Err(error));
            }
            let Poll::Ready(response) = self.poll_head(&request.method, cx) else {
                return self.poll_deadline(deadline, cx).map(|_| Err(LaneError::Idle));
            };
            let response = response?;
            // An answer that comes before its request has ended leaves the lane in the middle.
            self.reusable &= request.body.is_none() && request.buffer.is_empty();
            Poll::Ready(Ok(response))
        })
        .await
    }

    /// Waits for `deadline` and fails then.
    fn poll_deadline(
        &mut self,
        deadline: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LaneError>> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(Err(LaneError::Idle));
            }
            timer.as_mut().reset(deadline);
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
            }
            if request.body.is_none() {
                return Pin::new(&mut self.stream).poll_flush(cx).map_err(LaneError::Stream);
            }
            ready!(request.poll_gather(cx))?;
        }
    }

    /// Appends what came next to the input; `false` at the end.
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
        if self.input.is_empty() {
            self.input = bytes;
        } else {
            let mut joined = BytesMut::with_capacity(self.input.len() + bytes.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&bytes);
            self.input = joined.freeze();
        }
        Poll::Ready(Ok(true))
    }

    fn poll_head(
        &mut self,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<BodyReader>, LaneError>> {
        loop {
            if !self.input.is_empty()
                && let Some(response) = self.parse_head(method)?
            {
                return Poll::Ready(Ok(response));
            }
            if self.input.len() > MAX_HEAD {
                return Poll::Ready(Err(FramingError::TooLong.into()));
            }
            if !ready!(self.poll_input(cx))? {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Poll::Ready(Err(LaneError::Stream(error)));
            }
        }
    }

    /// Takes a final head off the input; interim ones are dropped.
    fn parse_head(&mut self, method: &Method) -> Result<Option<Response<BodyReader>>, LaneError> {
        loop {
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
    /// Writes the head of a request, whose headers are those to be sent except for its framing.
    #[must_use]
    pub fn new(request: Request<VisitorBody>) -> Self {
        let (parts, body) = request.into_parts();
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
        let empty = body.is_end_stream();
        let chunked = !empty && !parts.headers.contains_key(header::CONTENT_LENGTH);
        if chunked {
            buffer.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        buffer.extend_from_slice(b"\r\n");
        let body = (!empty).then_some(body);
        Self { method: parts.method, buffer, body, chunked, started: false }
    }

    /// Tells whether a byte of it was handed to a stream: from then on it is never sent again.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
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
