//! The agent's half of the visitor gate, and the count of what passed it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mcpm_shared::access::AccessPolicy;
use tokio::sync::Notify;

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
    /// From how many requests in flight on another connection is wanted.
    busy_at: AtomicUsize,
    busy: Notify,
}

/// Counts one request in flight while it is held.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a Gate);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn new(policy: AccessPolicy) -> Self {
        Self {
            policy: RwLock::new(Arc::new(policy)),
            requests: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            busy_at: AtomicUsize::new(usize::MAX),
            busy: Notify::new(),
        }
    }

    pub(super) fn policy(&self) -> Arc<AccessPolicy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_policy(&self, policy: AccessPolicy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    pub(super) fn count(&self) -> Counted<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let active = self.active.fetch_add(1, Ordering::Relaxed) + 1;
        if active == self.busy_at.load(Ordering::Relaxed) {
            self.busy.notify_one();
        }
        Counted(self)
    }

    /// Asks to be told when so many requests are in flight.
    pub(super) fn tell_at(&self, active: usize) {
        self.busy_at.store(active, Ordering::Relaxed);
    }

    /// Waits to be told. Cancel-safe.
    pub(super) async fn busy(&self) {
        self.busy.notified().await;
    }

    pub(super) fn stats(&self) -> TunnelStats {
        TunnelStats {
            requests: self.requests.load(Ordering::Relaxed),
            active: self.active.load(Ordering::Relaxed),
        }
    }
}
