//! How long a visitor on HTTP/2 may ask nothing.
//!
//! On HTTP/1 the time for the next head bounds it (`patience`). On HTTP/2 a visitor that answers
//! pings could keep any number of connections for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use mcpm_shared::scope::Scope;
use tokio::sync::Notify;

use super::patience::{HEAD_TIMEOUT, IDLE_TIMEOUT};

/// The requests that are open on one connection, with the bodies of their answers.
#[derive(Debug, Default)]
pub(super) struct Open {
    now: AtomicUsize,
    ever: AtomicU64,
    /// Tells when the last one has ended.
    rests: Notify,
}

/// Counts one request while it lives.
#[derive(Debug)]
pub(super) struct One(Arc<Open>);

impl Drop for One {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.rests.notify_one();
        }
    }
}

impl One {
    /// Counts it as long as the body of its answer lasts.
    pub(super) fn until_end<B>(self, body: B) -> Counted<B> {
        Counted { body, _one: self }
    }
}

impl Open {
    /// Counts one more request.
    pub(super) fn one(self: &Arc<Self>) -> One {
        self.now.fetch_add(1, Ordering::Relaxed);
        self.ever.fetch_add(1, Ordering::Relaxed);
        One(Arc::clone(self))
    }

    /// Waits until the visitor should have asked its first question and has not. Of one that has
    /// asked and then rested for long, `scope` is cancelled, so that its connection is closed in good
    /// order.
    pub(super) async fn rested(&self, scope: &Scope) {
        tokio::time::sleep(HEAD_TIMEOUT).await;
        if self.ever.load(Ordering::Relaxed) == 0 {
            return;
        }
        loop {
            while self.now.load(Ordering::Relaxed) > 0 {
                self.rests.notified().await;
            }
            let before = self.ever.load(Ordering::Relaxed);
            tokio::time::sleep(IDLE_TIMEOUT).await;
            let still = self.now.load(Ordering::Relaxed) == 0;
            if still && self.ever.load(Ordering::Relaxed) == before {
                tracing::debug!("visitor rested for long");
                scope.cancel();
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The body of an answer, whose request counts as open until it ends.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    _one: One,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns after how long the connection is told to end while `ask` is its visitor.
    async fn rest(ask: impl AsyncFnOnce(&Arc<Open>)) -> Duration {
        let (open, scope, start) = (Arc::<Open>::default(), Scope::new(), Instant::now());
        let resting = async {
            tokio::select! {
                () = open.rested(&scope) => {}
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
