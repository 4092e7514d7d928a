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
    /// Whether the visitor went before the end, or broke the framing.
    failed: bool,
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
    pub fn new(body: RequestBody) -> Self {
        let state = State {
            rest: Some(body),
            kept: Vec::new(),
            bytes: 0,
            whole: true,
            failed: false,
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

    /// Keeps nothing more: the answer has begun. What the last attempt has not sent yet of that which
    /// was kept for it goes on its way still.
    pub fn settle(&self) {
        lock(&self.0).whole = false;
    }

    /// Tells whether the visitor did not send all of it: then no node has failed.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        lock(&self.0).failed
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

impl HopBody {
    /// Returns a body with nothing in it.
    #[must_use]
    pub fn empty() -> Self {
        let state =
            State { rest: None, kept: Vec::new(), bytes: 0, whole: true, failed: false, turn: 0 };
        Self { state: Arc::new(Mutex::new(state)), turn: 0, next: 0 }
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
        if !state.whole && this.next > 0 {
            (state.kept, this.next) = (Vec::new(), 0);
        }
        let Some(rest) = &mut state.rest else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(rest).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                state.failed = true;
                return Poll::Ready(Some(Err(HopBodyError::Visitor(error))));
            }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// Hands the body of a request to `see`, while `send` is its visitor.
    async fn body(send: impl AsyncFnOnce(&mut DuplexStream), see: impl AsyncFn(Incoming)) {
        let (mut near, far) = tokio::io::duplex(4096);
        let service = service_fn(async |request: Request<Incoming>| {
            see(request.into_body()).await;
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(far), service);
        let visiting = async {
            let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            near.write_all(head).await.unwrap();
            send(&mut near).await;
            near.shutdown().await.unwrap();
            drop(near.read_to_end(&mut Vec::new()).await);
        };
        let (served, ()) = tokio::join!(serving, visiting);
        drop(served);
    }

    async fn next(body: &mut HopBody) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    async fn rest(body: HopBody) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_second_attempt_that_is_answered_early_still_sends_all_of_it() {
        let send = async |near: &mut DuplexStream| {
            for piece in ["2\r\nab\r\n", "2\r\ncd\r\n", "2\r\nef\r\n0\r\n\r\n"] {
                near.write_all(piece.as_bytes()).await.unwrap();
            }
        };
        body(send, async |incoming| {
            let replay = Replay::new(incoming.into());
            let mut wrong = replay.again().unwrap();
            assert_eq!(
                (next(&mut wrong).await, next(&mut wrong).await),
                ("ab".into(), "cd".into())
            );
            let mut right = replay.again().unwrap();
            assert!(wrong.frame().await.unwrap().is_err(), "it goes another way");
            assert_eq!(next(&mut right).await, "ab");
            replay.settle();
            assert!(replay.again().is_none());
            assert_eq!(rest(right).await, "cdef");
            assert!(!replay.is_cut());
        })
        .await;
    }

    #[tokio::test]
    async fn a_visitor_that_goes_in_the_middle_is_told_from_a_node_that_fails() {
        let send = async |near: &mut DuplexStream| {
            near.write_all(b"2\r\nab\r\n").await.unwrap();
        };
        body(send, async |incoming| {
            let replay = Replay::new(incoming.into());
            let mut sent = replay.again().unwrap();
            assert_eq!(next(&mut sent).await, "ab");
            assert!(!replay.is_cut());
            assert!(sent.frame().await.unwrap().is_err());
            assert!(replay.is_cut());
        })
        .await;
    }
}
