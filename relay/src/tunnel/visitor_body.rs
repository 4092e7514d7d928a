//! The body of a visitor's request on its way to the agent: counted and bounded, never gathered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;

use super::share::InFlight;
use crate::quota::Meter;

/// The longest first piece of a body that is kept for naming the request in a failure.
const KEEP: usize = 64 * 1024;

/// Why a request body stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisitorBodyError {
    /// The visitor went away or broke the framing.
    #[error("the visitor's body failed")]
    Visitor(#[source] hyper::Error),
    /// It is longer than allowed.
    #[error("the visitor's body is over the limit")]
    TooLarge,
}

/// The first piece of a body, shared between the body and whoever may have to report a failure.
/// Keeping it copies nothing.
#[derive(Clone, Debug, Default)]
pub struct FirstPiece(Arc<Mutex<Bytes>>);

impl FirstPiece {
    /// Returns the piece, empty when none came or it was long.
    #[must_use]
    pub fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The body of a request as it came, of which some pieces may have been read already.
#[derive(Debug)]
pub struct RequestBody {
    first: VecDeque<Bytes>,
    /// Absent where everything was read.
    rest: Option<Incoming>,
}

impl From<Incoming> for RequestBody {
    fn from(rest: Incoming) -> Self {
        Self { first: VecDeque::new(), rest: Some(rest) }
    }
}

impl RequestBody {
    /// Returns a body that was read to its end.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let first = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self { first: first.into_iter().collect(), rest: None }
    }

    /// Returns the body with pieces before it that were read of it.
    #[must_use]
    pub fn after(mut self, pieces: Vec<Bytes>) -> Self {
        for piece in pieces.into_iter().rev() {
            self.first.push_front(piece);
        }
        self
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.first.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => match &mut self.rest {
                Some(rest) => Pin::new(rest).poll_frame(cx),
                None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first: usize = self.first.iter().map(Bytes::len).sum();
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        longer(&rest, first as u64)
    }
}

/// Returns the hint for a body that has `more` bytes before what is hinted at.
#[must_use]
pub fn longer(hint: &SizeHint, more: u64) -> SizeHint {
    let mut longer = SizeHint::new();
    longer.set_lower(hint.lower().saturating_add(more));
    if let Some(upper) = hint.upper() {
        longer.set_upper(upper.saturating_add(more));
    }
    longer
}

/// The body of one request.
#[derive(Debug)]
pub struct VisitorBody {
    incoming: RequestBody,
    left: u64,
    first: Option<FirstPiece>,
    counter: Counter,
    owner: Arc<Meter>,
    visitor: Option<Arc<Meter>>,
}

impl VisitorBody {
    /// Makes a body of at most `limit` bytes out of what the visitor sends, counted by `counter` and
    /// for the parties of the exchange. With `first`, the first piece is kept there.
    #[must_use]
    pub fn new(
        incoming: RequestBody,
        limit: u64,
        first: Option<FirstPiece>,
        counter: Counter,
        in_flight: &InFlight,
    ) -> Self {
        let (owner, visitor) = in_flight.meters();
        Self { incoming, left: limit, first, counter, owner, visitor }
    }

    /// Returns the visitor's body with what was read of it before it.
    #[must_use]
    pub fn back(self, read: Bytes) -> RequestBody {
        let read = Some(read).filter(|read| !read.is_empty());
        self.incoming.after(read.into_iter().collect())
    }
}

impl Body for VisitorBody {
    type Data = Bytes;
    type Error = VisitorBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, VisitorBodyError>>> {
        let this = &mut *self;
        let frame = match ready!(Pin::new(&mut this.incoming).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(VisitorBodyError::Visitor(error)))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let Some(left) = this.left.checked_sub(length) else {
                return Poll::Ready(Some(Err(VisitorBodyError::TooLarge)));
            };
            this.left = left;
            this.counter.inc_by(length);
            this.owner.add_in(length);
            if let Some(visitor) = &this.visitor {
                visitor.add_in(length);
            }
            if let Some(first) = this.first.take().filter(|_| data.len() <= KEEP) {
                *first.0.lock().unwrap_or_else(PoisonError::into_inner) = data.clone();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
