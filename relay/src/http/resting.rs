//! How long a visitor on HTTP/2 may ask nothing, and how long it may take nothing.
//!
//! On HTTP/1 the time for the next head and the socket bound it (`patience`). On HTTP/2 a visitor
//! that answers pings could keep any number of connections for ever. With windows of zero it takes
//! no answer either, while its socket is never stuck: hyper then keeps one frame of each body and
//! polls the body no more, so that no timer in there runs. The one here runs whatever the visitor
//! does.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use mcpm_shared::scope::Scope;
use tokio::sync::Notify;

use super::patience::{HEAD_TIMEOUT, IDLE_TIMEOUT};

/// The requests that are open on one connection, with the bodies of their answers.
#[derive(Debug, Default)]
pub(super) struct Open {
    now: AtomicUsize,
    ever: AtomicU64,
    /// How many frames of bodies were handed out and not taken yet, at most one of each body: those
    /// of this window of patience, and those of the one before.
    untaken: [AtomicUsize; 2],
    /// Which of the two are those of this window.
    window: AtomicUsize,
    /// How many frames were taken, ever.
    taken: AtomicU64,
    /// Tells when the last one has ended.
    rests: Notify,
    /// Tells when the first one has begun.
    first: Notify,
}

/// Counts one request while it lives.
#[derive(Debug)]
pub(super) struct One {
    open: Arc<Open>,
    /// Among which untaken frames that of its body is, where one was handed out and not taken yet.
    untaken: Option<usize>,
}

impl Drop for One {
    fn drop(&mut self) {
        self.take();
        if self.open.now.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.open.rests.notify_one();
        }
    }
}

impl One {
    /// Counts it as long as the body of its answer lasts.
    pub(super) fn until_end<B>(self, body: B) -> Counted<B> {
        Counted { body, one: self }
    }

    /// Notes that a frame was handed out, which waits for its visitor from now on.
    fn hand_out(&mut self) {
        let window = self.open.window.load(Ordering::Relaxed);
        self.open.untaken[window].fetch_add(1, Ordering::Relaxed);
        self.untaken = Some(window);
    }

    /// Notes that the frame which was handed out is gone: whoever holds it asks for the next one,
    /// or the body has ended.
    fn take(&mut self) {
        if let Some(window) = self.untaken.take() {
            self.open.untaken[window].fetch_sub(1, Ordering::Relaxed);
            self.open.taken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Open {
    /// Counts one more request.
    pub(super) fn one(self: &Arc<Self>) -> One {
        self.now.fetch_add(1, Ordering::Relaxed);
        if self.ever.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first.notify_one();
        }
        One { open: Arc::clone(self), untaken: None }
    }

    /// Cancels `scope` once `goaways` is and the visitor has asked something: one that was just let
    /// in asks first, because many a library does not try again elsewhere when a new connection
    /// takes no request at all. Never ends.
    pub(super) async fn told(&self, goaways: &Scope, scope: &Scope) {
        goaways.cancelled().await;
        self.first.notified().await;
        scope.cancel();
        std::future::pending::<()>().await;
    }

    /// Waits until the connection must end at once: the visitor should have asked its first question
    /// and has not, or it takes nothing of something that it asked for, for `patience` and at most
    /// twice that. Of one that has asked and then rested for long, `scope` is cancelled, so that its
    /// connection is closed in good order; what is left of it then may take `patience` too.
    /// Where `many` visitors share the connection, it goes on while anything is taken: one of them must
    /// not end the answers of the others.
    pub(super) async fn rested(&self, patience: Duration, many: bool, scope: &Scope) {
        tokio::select! {
            () = self.stuck(patience, many) => {}
            () = self.asks_nothing(patience, scope) => {}
        }
    }

    async fn asks_nothing(&self, patience: Duration, scope: &Scope) {
        tokio::time::sleep(HEAD_TIMEOUT).await;
        if self.ever.load(Ordering::Relaxed) == 0 {
            return tracing::debug!("visitor asked nothing");
        }
        let mut told = false;
        loop {
            while self.now.load(Ordering::Relaxed) > 0 {
                self.rests.notified().await;
            }
            let before = self.ever.load(Ordering::Relaxed);
            tokio::time::sleep(if told { patience } else { IDLE_TIMEOUT }).await;
            let still = self.now.load(Ordering::Relaxed) == 0;
            if !still || self.ever.load(Ordering::Relaxed) != before {
                continue;
            }
            if told {
                // The end of an answer lies in a buffer below, where nobody fetches it.
                return tracing::debug!("visitor does not take the last of its answers");
            }
            tracing::debug!("visitor rested for long");
            scope.cancel();
            told = true;
        }
    }

    /// Waits until a frame was not taken for `patience`, and at most twice that. An answer that is
    /// quiet does not count, and neither does what is taken of others, unless these are of `many`.
    async fn stuck(&self, patience: Duration, many: bool) {
        loop {
            let taken = self.taken.load(Ordering::Relaxed);
            tokio::time::sleep(patience).await;
            let before = 1 - self.window.load(Ordering::Relaxed);
            if self.untaken[before].load(Ordering::Relaxed) == 0 {
                // Nothing is left of the window before, so that the next one may count there.
                self.window.store(before, Ordering::Relaxed);
            } else if !many || self.taken.load(Ordering::Relaxed) == taken {
                return tracing::debug!("visitor takes nothing");
            }
        }
    }
}

/// The body of an answer, whose request counts as open until it ends.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    one: One,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        // Whoever asks for a frame has got rid of the last one.
        self.one.take();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.one.hand_out();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);
    const SECOND: Duration = Duration::from_secs(1);

    /// An answer in so many pieces.
    fn pieces(count: usize) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let piece = |_| Ok(Frame::data(Bytes::from("piece")));
        StreamBody::new(futures_util::stream::iter((0..count).map(piece)))
    }

    /// Returns after how long the connection is told to end while `ask` is its visitor.
    async fn rest(ask: impl AsyncFnOnce(&Arc<Open>)) -> Duration {
        rest_of(false, ask).await
    }

    async fn rest_of(many: bool, ask: impl AsyncFnOnce(&Arc<Open>)) -> Duration {
        let (open, scope, start) = (Arc::<Open>::default(), Scope::new(), Instant::now());
        let resting = async {
            tokio::select! {
                () = open.rested(PATIENCE, many, &scope) => {}
                () = scope.cancelled() => {}
            }
            start.elapsed()
        };
        tokio::join!(resting, ask(&open)).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_asked_ends() {
        assert_eq!(rest(async |_| {}).await, HEAD_TIMEOUT);
        let rested = rest(async |open| drop(open.one())).await;
        assert!(rested >= IDLE_TIMEOUT && rested <= IDLE_TIMEOUT + HEAD_TIMEOUT + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_lasts_keeps_its_connection() {
        let lasting = 10 * IDLE_TIMEOUT;
        let rested = rest(async |open| {
            let body = open.one().until_end(String::new());
            tokio::time::sleep(lasting).await;
            drop(body);
        })
        .await;
        assert!(rested >= lasting + IDLE_TIMEOUT && rested <= lasting + IDLE_TIMEOUT + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_that_takes_nothing_is_given_up() {
        let rested = rest(async |open| {
            let mut body = open.one().until_end(String::from("never taken"));
            body.frame().await.unwrap().unwrap();
            tokio::time::sleep(10 * PATIENCE).await;
        })
        .await;
        assert!(rested >= PATIENCE && rested <= 2 * PATIENCE + SECOND, "{rested:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_that_takes_nothing_of_one_answer_is_given_up_whatever_else_it_takes() {
        let ask = async |open: &Arc<Open>| {
            tokio::time::sleep(SECOND).await;
            let mut stuck = open.one().until_end(String::from("never taken"));
            stuck.frame().await.unwrap().unwrap();
            let mut read = open.one().until_end(pieces(1000));
            while read.frame().await.is_some() {
                let mut small = open.one().until_end(String::from("taken"));
                small.frame().await.unwrap().unwrap();
                tokio::time::sleep(SECOND).await;
            }
            tokio::time::sleep(10 * PATIENCE).await;
        };
        let rested = rest(ask).await;
        assert!(rested >= PATIENCE && rested <= 2 * PATIENCE + SECOND, "{rested:?}");
        // The others behind a proxy keep theirs, as long as any is taken.
        let rested = rest_of(true, ask).await;
        assert!(rested >= 1000 * SECOND && rested <= 1000 * SECOND + 2 * PATIENCE, "{rested:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_that_takes_a_little_now_and_then_is_kept() {
        let rested = rest(async |open| {
            let mut body = open.one().until_end(pieces(10));
            while body.frame().await.is_some() {
                tokio::time::sleep(PATIENCE - SECOND).await;
            }
        })
        .await;
        assert!(rested >= 10 * (PATIENCE - SECOND), "{rested:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_end_when_told_is_cut() {
        let (open, scope, start) = (Arc::<Open>::default(), Scope::new(), Instant::now());
        drop(open.one());
        open.rested(PATIENCE, false, &scope).await;
        assert!(scope.is_cancelled());
        assert!(start.elapsed() <= HEAD_TIMEOUT + IDLE_TIMEOUT + PATIENCE + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_that_asks_now_and_then_keeps_its_connection() {
        let rested = rest(async |open| {
            for _ in 0..10 {
                drop(open.one());
                tokio::time::sleep(IDLE_TIMEOUT - SECOND).await;
            }
        })
        .await;
        assert!(rested >= 10 * (IDLE_TIMEOUT - SECOND), "{rested:?}");
    }
}
