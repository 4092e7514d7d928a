//! What ends one share of many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Ends a share; made from a token, it is that token, with all that it ends. All clones are the same.
///
/// A token for each of hundreds would take 128 bytes; those of a run share one.
#[derive(Clone, Debug)]
pub struct Stop(Which);

#[derive(Clone, Debug)]
enum Which {
    /// All that the token ends.
    All(CancellationToken),
    /// One of several.
    One(Arc<Several>, usize),
}

#[derive(Debug)]
struct Several {
    all: CancellationToken,
    asked: Box<[AtomicBool]>,
    /// Wakes those who wait, whichever was asked to end.
    news: Notify,
}

impl Stop {
    /// Returns what ends each of so many shares alone; `all` ends every one of them.
    #[must_use]
    pub fn several(all: &CancellationToken, count: usize) -> Vec<Self> {
        let asked = (0..count).map(|_| AtomicBool::new(false)).collect();
        let several = Arc::new(Several { all: all.clone(), asked, news: Notify::new() });
        (0..count).map(|at| Self(Which::One(Arc::clone(&several), at))).collect()
    }

    /// Ends the share; where it was made from a token, this cancels the token.
    pub fn cancel(&self) {
        match &self.0 {
            Which::All(all) => all.cancel(),
            Which::One(several, at) => {
                several.asked[*at].store(true, Ordering::Release);
                several.news.notify_waiters();
            }
        }
    }

    /// Tells whether the share is to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        match &self.0 {
            Which::All(all) => all.is_cancelled(),
            Which::One(several, at) => several.is_cancelled(*at),
        }
    }

    /// Waits until the share is to end. Cancel-safe.
    pub async fn cancelled(&self) {
        match &self.0 {
            Which::All(all) => all.cancelled().await,
            Which::One(several, at) => several.cancelled(*at).await,
        }
    }
}

impl From<CancellationToken> for Stop {
    fn from(all: CancellationToken) -> Self {
        Self(Which::All(all))
    }
}

impl Several {
    fn is_cancelled(&self, at: usize) -> bool {
        self.asked[at].load(Ordering::Acquire) || self.all.is_cancelled()
    }

    async fn cancelled(&self, at: usize) {
        loop {
            // From here on news are heard, so none is missed between the look and the wait.
            let news = self.news.notified();
            if self.is_cancelled(at) {
                return;
            }
            tokio::select! {
                () = news => {}
                () = self.all.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_ends_alone_and_all_with_what_ends_all() {
        let all = CancellationToken::new();
        let stops = Stop::several(&all, 3);
        let ended = || stops.iter().map(Stop::is_cancelled).collect::<Vec<_>>();
        let mut first = Box::pin(stops[0].cancelled());
        let mut other = Box::pin(stops[1].cancelled());
        assert!(first.as_mut().now_or_never().is_none() && other.as_mut().now_or_never().is_none());
        stops[0].clone().cancel();
        assert_eq!(ended(), [true, false, false]);
        first.await;
        assert!(other.as_mut().now_or_never().is_none(), "it is not asked to end");
        all.cancel();
        assert_eq!(ended(), [true; 3]);
        other.await;
        stops[2].cancelled().await;
    }

    #[test]
    fn the_stop_of_all_ends_all() {
        let all = CancellationToken::new();
        Stop::from(all.clone()).cancel();
        assert!(all.is_cancelled());
    }
}
