//! The body of a request on its way to another node, which may turn out to be the wrong one.
//!
//! It streams as it comes, never gathered. What was sent is kept as well, up to a bound, until the
//! other node has begun to answer: a node that says that the share is not there has let no agent see
//! any of it, and the request may go where the share is. Longer ones may not.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::tunnel::visitor_body::{RequestBody, longer};

/// How much of a body is kept: most calls of tools whole.
const KEEP: usize = 256 * 1024;

/// A body that can be sent again.
#[derive(Debug)]
pub struct Replay(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Absent once the body went elsewhere.
    rest: Option<RequestBody>,
    kept: Vec<Bytes>,
    bytes: usize,
    /// Whether everything that was sent is kept.
    whole: bool,
    /// Which attempt may go on: those before it may not.
    turn: u32,
}

/// Why a body stopped on its way to another node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HopBodyError {
    /// The visitor went away or broke the framing.
    #[error("the visitor's body failed")]
    Visitor(#[source] hyper::Error),
    /// The request goes another way.
    #[error("the request goes another way")]
    Overtaken,
}

impl Replay {
    /// Takes the body of a visitor's request.
    #[must_use]
    pub fn new(incoming: Incoming) -> Self {
        let state = State {
            rest: Some(RequestBody::from(incoming)),
            kept: Vec::new(),
            bytes: 0,
            whole: true,
            turn: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the body from its beginning, for one more attempt; those before it end. `None` when
    /// not all of it is kept.
    pub fn again(&self) -> Option<HopBody> {
        let mut state = lock(&self.0);
        if !state.whole {
            return None;
        }
        state.turn += 1;
        Some(HopBody { state: Arc::clone(&self.0), turn: state.turn, next: 0 })
    }

    /// Keeps nothing more: the answer has begun.
    pub fn settle(&self) {
        let mut state = lock(&self.0);
        state.whole = false;
        state.kept = Vec::new();
    }

    /// Returns the first piece that was sent, empty when there is none: it may hold the id of the
    /// request.
    #[must_use]
    pub fn first(&self) -> Bytes {
        lock(&self.0).kept.first().cloned().unwrap_or_default()
    }

    /// Returns the body from its beginning, to be served here. `None` when not all of it is kept.
    #[must_use]
    pub fn back(&self) -> Option<RequestBody> {
        let mut state = lock(&self.0);
        if !state.whole {
            return None;
        }
        state.turn += 1;
        state.whole = false;
        let kept = std::mem::take(&mut state.kept);
        state.rest.take().map(|rest| rest.after(kept))
    }
}

/// One attempt to send a body.
#[derive(Debug)]
pub struct HopBody {
    state: Arc<Mutex<State>>,
    turn: u32,
    /// The next of the kept pieces.
    next: usize,
}

impl Body for HopBody {
    type Data = Bytes;
    type Error = HopBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HopBodyError>>> {
        let this = &mut *self;
        let mut state = lock(&this.state);
        let state = &mut *state;
        if state.turn != this.turn {
            return Poll::Ready(Some(Err(HopBodyError::Overtaken)));
        }
        if let Some(piece) = state.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        let Some(rest) = &mut state.rest else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(rest).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(HopBodyError::Visitor(error)))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref().filter(|_| state.whole) {
            state.bytes += data.len();
            if state.bytes <= KEEP {
                state.kept.push(data.clone());
                this.next = state.kept.len();
            } else {
                state.whole = false;
                state.kept = Vec::new();
                this.next = 0;
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        self.next >= state.kept.len() && state.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        let kept: usize = state.kept.iter().skip(self.next).map(Bytes::len).sum();
        let rest = state.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        longer(&rest, kept as u64)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
