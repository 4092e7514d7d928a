//! The events of one session that may be asked for again: bounded, the oldest go first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// How many events a session keeps, and how many bytes of them.
const MAX_EVENTS: usize = 256;
const MAX_BYTES: usize = 1024 * 1024;
/// How many bytes all sessions of a gateway keep.
const MAX_TOTAL: usize = 64 * 1024 * 1024;
/// How long an event is kept, and how long a request goes on whose client went away.
pub(super) const TTL: Duration = Duration::from_secs(300);

/// The bytes that the sessions of one gateway keep together.
#[derive(Clone, Debug, Default)]
pub(in crate::gateway) struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= MAX_TOTAL);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Stored {
    stream: u64,
    seq: u64,
    event: Bytes,
    at: Instant,
}

/// The events that one session keeps.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Stored>,
    bytes: usize,
    budget: Budget,
}

impl Ring {
    pub(super) fn new(budget: Budget) -> Self {
        Self { events: VecDeque::new(), bytes: 0, budget }
    }

    /// Keeps an event. The latest is kept even when it is large, for it may be an answer; only
    /// when the whole gateway has no room for it, it is not.
    pub(super) fn push(&mut self, stream: u64, seq: u64, event: &Bytes, now: Instant) {
        let full =
            |ring: &Self| ring.events.len() >= MAX_EVENTS || ring.bytes + event.len() > MAX_BYTES;
        while full(self) && self.drop_oldest() {}
        while !self.budget.take(event.len()) {
            if !self.drop_oldest() {
                return tracing::debug!("no room for an event, not kept");
            }
        }
        self.bytes += event.len();
        self.events.push_back(Stored { stream, seq, event: event.clone(), at: now });
    }

    /// Returns the first event of a stream from number `seq` on, and its number.
    pub(super) fn next(&self, stream: u64, seq: u64) -> Option<(u64, Bytes)> {
        let found = self.events.iter().find(|stored| stored.stream == stream && stored.seq >= seq);
        found.map(|stored| (stored.seq, stored.event.clone()))
    }

    /// Tells whether events of a stream are kept.
    pub(super) fn has(&self, stream: u64) -> bool {
        self.events.iter().any(|stored| stored.stream == stream)
    }

    /// Drops what is too old.
    pub(super) fn prune(&mut self, now: Instant) {
        let old = |stored: &Stored| now.duration_since(stored.at) >= TTL;
        while self.events.front().is_some_and(old) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.events.pop_front() else { return false };
        self.bytes -= oldest.event.len();
        self.budget.give_back(oldest.event.len());
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(len: usize) -> Bytes {
        vec![b'x'; len].into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_keeps_its_latest_events_within_its_bounds() {
        let budget = Budget::default();
        let mut ring = Ring::new(budget.clone());
        let now = Instant::now();
        for seq in 1..=300 {
            ring.push(1, seq, &of(1), now);
        }
        assert_eq!((ring.events.len(), ring.next(1, 1).unwrap().0), (256, 45));
        ring.push(2, 1, &of(MAX_BYTES - 1), now);
        assert_eq!((ring.events.len(), ring.bytes), (2, MAX_BYTES));
        ring.push(2, 2, &of(2 * MAX_BYTES), now);
        assert_eq!((ring.events.len(), ring.has(1), ring.next(2, 1).unwrap().0), (1, false, 2));
        drop(ring);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_sessions_together_keep_no_more_than_the_gateway_may() {
        let budget = Budget::default();
        let now = Instant::now();
        let (mut one, mut two) = (Ring::new(budget.clone()), Ring::new(budget.clone()));
        one.push(1, 1, &of(MAX_TOTAL - 10), now);
        two.push(1, 1, &of(10), now);
        two.push(1, 2, &of(11), now);
        assert!(one.has(1) && !two.has(1));
        assert_eq!(budget.0.load(Ordering::Relaxed), MAX_TOTAL - 10);
    }

    #[tokio::test(start_paused = true)]
    async fn old_events_go() {
        let mut ring = Ring::new(Budget::default());
        ring.push(1, 1, &of(1), Instant::now());
        tokio::time::advance(TTL - Duration::from_secs(1)).await;
        ring.push(1, 2, &of(1), Instant::now());
        ring.prune(Instant::now());
        assert_eq!(ring.next(1, 1).unwrap().0, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        ring.prune(Instant::now());
        assert_eq!(ring.next(1, 1).unwrap().0, 2);
    }
}
