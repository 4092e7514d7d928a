//! The agent's half of the visitor gate, and the count of what passed it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mcpm_shared::access::{AccessPolicy, Principal};
use tokio::sync::{Notify, watch};

use crate::gateway::admission::until_denied;

/// What a share has served. Cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelStats {
    /// Requests since the start.
    pub requests: u64,
    /// Requests in flight.
    pub active: usize,
}

/// The policy of a share, which may change while it is up, and its counters.
#[derive(Debug)]
pub(super) struct Gate {
    policy: RwLock<Arc<AccessPolicy>>,
    requests: AtomicU64,
    active: AtomicUsize,
    load: Arc<Load>,
}

/// What all shares of a session carry together.
#[derive(Debug)]
pub(super) struct Load {
    /// Requests in flight, those that move much counted several times.
    load: AtomicUsize,
    /// From which load on another connection is wanted.
    busy_at: AtomicUsize,
    busy: Notify,
    /// Changes with the policy of any share: one for all takes less room than one each, and policies
    /// change rarely.
    policies: watch::Sender<()>,
}

/// From how many bytes on an exchange is a bulk transfer, and for how many others it then counts.
/// Small exchanges that share a connection share its messages too, so many of them fit; a few bulk
/// transfers keep a connection, and the core that drives it, busy.
const BULK: u64 = 1024 * 1024;
const BULK_LOAD: usize = 256;

/// Counts one request in flight while it is held.
#[derive(Debug)]
pub(super) struct Counted {
    gate: Arc<Gate>,
    moved: AtomicU64,
}

impl Counted {
    /// Notes that bytes of a body passed.
    pub(super) fn moved(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self.moved.fetch_add(bytes, Ordering::Relaxed);
        if before < BULK && before.saturating_add(bytes) >= BULK {
            self.gate.load.add(BULK_LOAD);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let bulk = self.moved.load(Ordering::Relaxed) >= BULK;
        let load = if bulk { 1 + BULK_LOAD } else { 1 };
        self.gate.load.load.fetch_sub(load, Ordering::Relaxed);
        self.gate.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Load {
    fn default() -> Self {
        Self {
            load: AtomicUsize::new(0),
            busy_at: AtomicUsize::new(usize::MAX),
            busy: Notify::new(),
            policies: watch::Sender::new(()),
        }
    }
}

impl Load {
    fn add(&self, more: usize) {
        let before = self.load.fetch_add(more, Ordering::Relaxed);
        let busy_at = self.busy_at.load(Ordering::Relaxed);
        if before < busy_at && before.saturating_add(more) >= busy_at {
            self.busy.notify_one();
        }
    }

    /// Returns the load: requests in flight, bulk transfers counted for many.
    pub(super) fn now(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Asks to be told when the load is so high.
    pub(super) fn tell_at(&self, load: usize) {
        self.busy_at.store(load, Ordering::Relaxed);
    }

    /// Waits to be told. Cancel-safe.
    pub(super) async fn busy(&self) {
        self.busy.notified().await;
    }
}

impl Gate {
    pub(super) fn new(policy: impl Into<Arc<AccessPolicy>>, load: Arc<Load>) -> Self {
        Self {
            policy: RwLock::new(policy.into()),
            requests: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            load,
        }
    }

    pub(super) fn policy(&self) -> Arc<AccessPolicy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_policy(&self, policy: impl Into<Arc<AccessPolicy>>) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy.into();
        self.load.policies.send_replace(());
    }

    /// Waits until somebody who was admitted is so no longer. Cancel-safe.
    pub(super) fn denied(
        self: &Arc<Self>,
        principal: Principal,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let gate = Arc::clone(self);
        let admits = move |(): &(), now| gate.policy().admits(&principal, now);
        until_denied(self.load.policies.subscribe(), admits)
    }

    pub(super) fn count(self: &Arc<Self>) -> Counted {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        self.load.add(1);
        Counted { gate: Arc::clone(self), moved: AtomicU64::new(0) }
    }

    pub(super) fn stats(&self) -> TunnelStats {
        TunnelStats {
            requests: self.requests.load(Ordering::Relaxed),
            active: self.active.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bulk_transfer_counts_for_many_requests_while_it_runs() {
        let load = Arc::new(Load::default());
        let gate = Arc::new(Gate::new(AccessPolicy::default(), Arc::clone(&load)));
        let (small, large) = (gate.count(), gate.count());
        large.moved(1024);
        assert_eq!(load.now(), 2);
        large.moved(2 * 1024 * 1024);
        large.moved(2 * 1024 * 1024);
        assert_eq!((load.now(), gate.stats().active), (2 + BULK_LOAD, 2));
        drop((small, large));
        assert_eq!((load.now(), gate.stats().active), (0, 0));
    }

    #[tokio::test]
    async fn shares_of_one_session_are_busy_together_and_counted_apart() {
        let load = Arc::new(Load::default());
        let gate = || Arc::new(Gate::new(AccessPolicy::default(), Arc::clone(&load)));
        let (one, two) = (gate(), gate());
        load.tell_at(2);
        let _first = one.count();
        let _second = two.count();
        load.busy().await;
        assert_eq!((one.stats().active, two.stats().active, load.now()), (1, 1, 2));
    }
}
