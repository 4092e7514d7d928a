//! The body of the gateway's answers: whole bytes, a stream of events, or an upstream's own body.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::events::Reader;
use super::http::{Learner, Wire};
use super::link::{Claim, Packet};
use crate::mcp::sse;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an event stream may be silent before a comment shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The body of an answer of the gateway.
pub struct GatewayBody {
    kind: Kind,
    /// When it comes, the body breaks off.
    end: Option<BoxFuture<'static, ()>>,
}

impl fmt::Debug for GatewayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GatewayBody").field(&self.kind).finish()
    }
}

/// The visitor is admitted no longer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the visitor is admitted no longer")]
struct Revoked;

#[derive(Debug)]
enum Kind {
    Full(Bytes),
    Events(Box<Events>),
}

impl GatewayBody {
    /// Makes a body without bytes.
    #[must_use]
    pub fn empty() -> Self {
        Kind::Full(Bytes::new()).into()
    }

    /// Makes a body of these bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Kind::Full(bytes.into()).into()
    }

    pub(super) fn events(events: impl Into<Events>) -> Self {
        Kind::Events(Box::new(events.into())).into()
    }

    /// Tells whether nothing of the body is still to come from elsewhere.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.kind, Kind::Full(_))
    }

    /// Has the body break off when `end` comes, for streams may last longer than their visitor's
    /// right.
    #[must_use]
    pub fn ended_by(mut self, end: BoxFuture<'static, ()>) -> Self {
        if !self.is_whole() {
            self.end = Some(end);
        }
        self
    }
}

impl From<Kind> for GatewayBody {
    fn from(kind: Kind) -> Self {
        Self { kind, end: None }
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            self.kind = Kind::Full(Bytes::new());
            self.end = None;
            return Poll::Ready(Some(Err(Revoked.into())));
        }
        match &mut self.kind {
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Events(events) => {
                events.poll_next(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Events(events) => events.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Events(_) => SizeHint::default(),
        }
    }
}

/// Messages as server-sent events, with a comment now and then that shows that the stream lives.
#[derive(Debug)]
pub(super) struct Events {
    source: Source,
    silence: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Source {
    /// The answer to one modern request, which ends with its connection.
    Once(Once),
    /// A stream of a legacy session.
    Kept(Reader),
    /// A connection of the HTTP+SSE transport.
    Wire(Wire),
}

/// The packets of one request, each sent once.
#[derive(Debug)]
pub(super) struct Once {
    pub(super) first: VecDeque<Bytes>,
    pub(super) queue: mpsc::Receiver<Packet>,
    /// How many answers are still to come.
    pub(super) left: usize,
    /// Dropped with the stream: that is how an upstream learns that nobody listens any more.
    pub(super) claims: Vec<Claim>,
    /// Told of the answer.
    pub(super) learner: Option<Learner>,
}

impl Once {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(message) = self.first.pop_front() {
            return Poll::Ready(Some(sse::encode(&message)));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Some(packet) = ready!(self.queue.poll_recv(cx)) else { return Poll::Ready(None) };
        if packet.last {
            self.left -= 1;
            if let Some(learner) = &self.learner {
                learner.learn(&packet.message);
            }
            if self.left == 0 {
                self.claims.clear();
            }
        }
        Poll::Ready(Some(sse::encode(&packet.message)))
    }
}

impl From<Once> for Events {
    fn from(once: Once) -> Self {
        Self::new(Source::Once(once))
    }
}

impl From<Reader> for Events {
    fn from(reader: Reader) -> Self {
        Self::new(Source::Kept(reader))
    }
}

impl From<Wire> for Events {
    fn from(wire: Wire) -> Self {
        Self::new(Source::Wire(wire))
    }
}

impl Events {
    fn new(source: Source) -> Self {
        Self { source, silence: Box::pin(tokio::time::sleep(KEEP_ALIVE)) }
    }

    fn is_over(&self) -> bool {
        match &self.source {
            Source::Once(once) => once.first.is_empty() && once.left == 0,
            Source::Kept(reader) => reader.is_over(),
            Source::Wire(_) => false,
        }
    }

    /// Cancel-safe: nothing is taken from a queue that is not returned.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = match &mut self.source {
            Source::Once(once) => once.poll_next(cx),
            Source::Kept(reader) => reader.poll_next(cx),
            Source::Wire(wire) => wire.poll_next(cx),
        };
        let event = if let Poll::Ready(event) = next {
            event
        } else {
            ready!(self.silence.as_mut().poll(cx));
            Some(sse::KEEP_ALIVE)
        };
        self.silence.as_mut().reset(Instant::now() + KEEP_ALIVE);
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn packet(message: &'static str, last: bool) -> Packet {
        Packet { message: Bytes::from_static(message.as_bytes()), last }
    }

    fn once(first: VecDeque<Bytes>, queue: mpsc::Receiver<Packet>, left: usize) -> GatewayBody {
        GatewayBody::events(Once { first, queue, left, claims: Vec::new(), learner: None })
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_last_answer_and_keeps_the_order() {
        let (queue, receiver) = mpsc::channel(4);
        let first = VecDeque::from([Bytes::from_static(b"1")]);
        let body = once(first, receiver, 1);
        queue.try_send(packet("2", false)).unwrap();
        queue.try_send(packet("3", true)).unwrap();
        let all = body.collect().await.unwrap().to_bytes();
        let expected = [1, 2, 3].map(|n| format!("event: message\ndata: {n}\n\n")).concat();
        assert_eq!(&all[..], expected.as_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_every_15_seconds_that_it_lives() {
        let (queue, receiver) = mpsc::channel(4);
        let mut body = once(VecDeque::new(), receiver, 1);
        let start = Instant::now();
        for n in 1..=3 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(frame, sse::KEEP_ALIVE);
            assert_eq!(start.elapsed().as_secs(), 15 * n);
        }
        drop(queue);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_full_body_knows_its_length() {
        let body = GatewayBody::full("abc");
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(&body.collect().await.unwrap().to_bytes()[..], b"abc");
        assert!(GatewayBody::empty().is_end_stream());
    }
}
