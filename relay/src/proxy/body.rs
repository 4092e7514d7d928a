//! The body of an answer on its way to the visitor: driven, flushed at once, never gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mcpm_shared::http1::BodyReader;
use tokio::time::{Instant, Sleep};

use crate::metrics::{Metrics, Tracked};
use crate::nodes::peer::Held;
use crate::observe::Seen;
use crate::tunnel::lane::{Lane, LaneError, Outgoing};
use crate::tunnel::share::{InFlight, Share};

/// How often an idle event stream gets a comment: below the 60 s at which proxies cut (design §7).
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Why an answer broke off. The visitor's connection is then aborted, so that a cut answer never
/// looks like a whole one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The agent went away in the middle.
    #[error("the agent's answer broke off")]
    Agent(#[source] LaneError),
    /// Nothing moved for too long.
    #[error("the agent's answer stood still for too long")]
    Idle,
    /// The answer broke off at another node.
    #[error("the answer of another node broke off")]
    Node(#[source] hyper::Error),
    /// The operator ended the share, or the bytes of the day are used up.
    #[error("the relay ended the exchange")]
    Cut,
}

/// The body of any answer of the edge.
#[derive(Debug)]
pub enum EdgeBody {
    /// Bytes of the relay's own.
    Whole(Option<Bytes>),
    /// What the agent answers.
    Lane(Box<LaneBody>),
    /// What another node answers.
    Hop(Box<HopAnswer>),
}

impl EdgeBody {
    /// Makes an empty body.
    #[must_use]
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    /// Lets those who look at the request see the rest of the answer.
    pub fn show(&mut self, mut seen: Seen) {
        match self {
            Self::Lane(body) if body.lane.is_some() => body.seen = seen,
            Self::Lane(_) => seen.whole(),
            Self::Hop(body) => body.seen = seen,
            Self::Whole(bytes) => {
                seen.sent(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
                seen.whole();
            }
        }
    }
}

impl From<Bytes> for EdgeBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lane(body) => body.poll_frame(cx),
            Self::Hop(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Lane(body) => body.lane.is_none(),
            Self::Hop(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Lane(body) => match (&body.lane, body.reader.bytes_left()) {
                (None, _) => SizeHint::with_exact(0),
                (Some(_), Some(left)) => SizeHint::with_exact(left),
                (Some(_), None) => SizeHint::default(),
            },
            Self::Hop(body) => body.body.size_hint(),
        }
    }
}

/// What another node answers, which does all that is to be done for it: it counts and comments.
#[derive(Debug)]
pub struct HopAnswer {
    body: Incoming,
    seen: Seen,
    _held: Held,
    _counted: Tracked,
}

impl HopAnswer {
    pub(super) fn new(body: Incoming, held: Held, counted: Tracked) -> Self {
        Self { body, seen: Seen::default(), _held: held, _counted: counted }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Node(error)))),
            None => {
                self.seen.whole();
                return Poll::Ready(None);
            }
        };
        self.seen.sent(frame.data_ref().map_or(0, |data| data.len() as u64));
        if self.body.is_end_stream() {
            self.seen.whole();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// What the agent answers, with the lane it comes over.
#[derive(Debug)]
pub struct LaneBody {
    reader: BodyReader,
    lane: Option<(Option<usize>, Lane)>,
    /// The rest of the request, when the answer began before its end.
    request: Option<Box<Outgoing>>,
    share: Arc<Share>,
    in_flight: Option<InFlight>,
    counted: Option<Tracked>,
    metrics: Arc<Metrics>,
    seen: Seen,
    events: Option<Events>,
    idle: Duration,
    moved: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl LaneBody {
    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange, put together once")]
    /// Makes the body of an exchange over a lane, which rests at its connection's slot afterwards,
    /// if it has one. `events` says that it is an event stream.
    pub(super) fn new(
        reader: BodyReader,
        (slot, lane): (Option<usize>, Lane),
        request: Option<Box<Outgoing>>,
        share: Arc<Share>,
        in_flight: InFlight,
        metrics: Arc<Metrics>,
        events: bool,
        idle: Duration,
    ) -> Self {
        let mut body = Self {
            reader,
            lane: Some((slot, lane)),
            request,
            counted: Some(Tracked::new(&metrics.requests_in_flight)),
            share,
            in_flight: Some(in_flight),
            metrics,
            seen: Seen::default(),
            events: events.then(Events::default),
            idle,
            moved: Instant::now(),
            timer: None,
        };
        body.finish_if_ended();
        body
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.in_flight.as_ref().is_some_and(|it| !it.may_go_on()) {
            self.lane = None;
            self.in_flight = None;
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let Some((_, lane)) = &mut self.lane else { return Poll::Ready(None) };
        if let Some(request) = &mut self.request
            && lane.poll_rest(request, cx)
        {
            self.request = None;
        }
        match lane.poll_body(&mut self.reader, cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.metrics.bytes_out.inc_by(data.len() as u64);
                if let Some(in_flight) = &self.in_flight {
                    in_flight.add_out(data.len() as u64);
                }
                self.seen.sent(data.len() as u64);
                if let Some(events) = &mut self.events {
                    events.saw(&data);
                }
                self.moved = Instant::now();
                self.finish_if_ended();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lane = None;
                Poll::Ready(Some(Err(BodyError::Agent(error))))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_stillness(cx),
        }
    }

    /// Waits for the agent: says a word between events meanwhile, or gives up on a still body.
    fn poll_stillness(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let patience = if self.events.is_some() { KEEP_ALIVE } else { self.idle };
        // For an answer that began before the request's end, what goes to the agent counts too.
        let sending = self.lane.as_ref().filter(|_| self.events.is_none());
        let moved = sending.map_or(self.moved, |(_, lane)| lane.moved().max(self.moved));
        let timer =
            self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(moved + patience)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if moved + patience > Instant::now() {
                timer.as_mut().reset(moved + patience);
                continue;
            }
            let Some(events) = &self.events else {
                return Poll::Ready(Some(Err(BodyError::Idle)));
            };
            timer.as_mut().reset(Instant::now() + patience);
            if events.between() {
                self.moved = Instant::now();
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
            }
        }
    }

    fn finish_if_ended(&mut self) {
        if self.reader.is_done() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some((Some(slot), lane)) = self.lane.take()
            && self.request.is_none()
        {
            self.share.give_back(slot, lane);
        }
        self.request = None;
        self.in_flight = None;
        self.counted = None;
        let mut seen = std::mem::take(&mut self.seen);
        seen.whole();
    }
}

/// Knows whether an event stream stands between two events: only there may a comment be put in
/// (HTML living standard §9.2.5: events end with an empty line).
#[derive(Debug, Default)]
struct Events {
    tail: [u8; 4],
    any: bool,
}

impl Events {
    fn saw(&mut self, data: &[u8]) {
        self.any |= !data.is_empty();
        for byte in &data[data.len().saturating_sub(4)..] {
            self.tail.rotate_left(1);
            self.tail[3] = *byte;
        }
    }

    fn between(&self) -> bool {
        let [.., c, d] = self.tail;
        !self.any
            || (c, d) == (b'\n', b'\n')
            || (c, d) == (b'\r', b'\r')
            || &self.tail == b"\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_only_between_events() {
        let mut events = Events::default();
        assert!(events.between());
        for (piece, between) in [
            (&b"data: 1\n"[..], false),
            (b"\n", true),
            (b"data: 2\r\n\r", false),
            (b"\n", true),
            (b"", true),
            (b"id: 3", false),
            (b"\r\r", true),
        ] {
            events.saw(piece);
            assert_eq!(events.between(), between, "after {piece:?}");
        }
    }
}
