//! What the store is still to be told: leases that ended, leases that were given from memory while
//! it did not answer, and the audit trail.
//!
//! Nobody waits for these. While the store is away they wait here, in bounded number and in their
//! order; when it is back they are settled one after the other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Tunnels;
use super::table::{Left, Presence};
use crate::admission::unix_now;
use crate::store::{AuditEvent, Health, Lease, Store, StoreError};

/// How many leases wait for a store that is slow or away: all shares of a node, several times over.
const MAX_DEBTS: usize = 64 * 1024;
/// How many events wait; later ones are dropped, and counted in the log.
const MAX_EVENTS: usize = 8 * 1024;
/// How often a store that answers, yet not this, is asked again.
const ATTEMPTS: u32 = 3;
/// How long to wait before that.
const PAUSE: Duration = Duration::from_millis(500);

/// One thing that the store is to be told about a lease.
#[derive(Clone, Debug)]
pub enum Debt {
    /// It ended.
    Ended(Left),
    /// It was given, or given a new end, while the store did not answer.
    Given(Lease),
}

/// Everything that the store is still to be told.
#[derive(Debug)]
pub struct Debts {
    leases: mpsc::Sender<Debt>,
    events: mpsc::Sender<AuditEvent>,
    ledger: Mutex<Option<Ledger>>,
}

/// The other ends, until they are settled.
#[derive(Debug)]
struct Ledger {
    leases: mpsc::Receiver<Debt>,
    events: mpsc::Receiver<AuditEvent>,
}

impl Default for Debts {
    fn default() -> Self {
        let (leases, owed) = mpsc::channel(MAX_DEBTS);
        let (events, trail) = mpsc::channel(MAX_EVENTS);
        let ledger = Ledger { leases: owed, events: trail };
        Self { leases, events, ledger: Mutex::new(Some(ledger)) }
    }
}

impl Debts {
    /// Adds a debt; `false` when there are too many.
    #[must_use]
    pub fn owe(&self, debt: Debt) -> bool {
        self.leases.try_send(debt).is_ok()
    }

    /// Notes that a lease ended, if there is room: else it ends by its own time, or with the node.
    pub fn ended(&self, left: Left) {
        if !self.owe(Debt::Ended(left)) {
            tracing::warn!("the store is too slow: a lease is not ended in it");
        }
    }

    /// Adds to the audit trail.
    pub fn audit(&self, action: &str, actor: &str, object: &str, detail: impl Into<String>) {
        let event = AuditEvent {
            at: unix_now(),
            action: action.to_owned(),
            actor: actor.to_owned(),
            object: object.to_owned(),
            detail: detail.into(),
        };
        if self.events.try_send(event).is_err() {
            tracing::warn!(action, "the store is too slow: an audit event is lost");
        }
    }

    /// Waits until nothing waits here any more, but for what is being told at that moment.
    pub async fn settled(&self) {
        // All of the room is free when nothing takes any.
        let _leases = self.leases.reserve_many(MAX_DEBTS).await;
        let _events = self.events.reserve_many(MAX_EVENTS).await;
    }

    /// Settles debts as they come, until dropped. Only the first call does anything.
    pub async fn settle(&self, tunnels: &Tunnels, health: watch::Receiver<Health>) {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Ledger { mut leases, mut events }) = ledger else {
            return std::future::pending().await;
        };
        let store = &tunnels.store;
        let settle_leases = async {
            while let Some(debt) = leases.recv().await {
                settle_lease(tunnels, debt, &health).await;
            }
        };
        let write_events = async {
            while let Some(event) = events.recv().await {
                insist(&health, || store.audit(event.clone())).await;
            }
        };
        tokio::join!(settle_leases, write_events);
    }
}

async fn settle_lease(tunnels: &Tunnels, debt: Debt, health: &watch::Receiver<Health>) {
    let store: &Arc<dyn Store> = &tunnels.store;
    match debt {
        Debt::Ended(Left { name, owner, generation }) => {
            insist(health, || store.release(&name, &owner, generation, unix_now())).await;
        }
        Debt::Given(lease) => {
            let restored = insist(health, || store.restore(lease.clone())).await;
            if restored == Some(false) {
                supersede(tunnels, &lease);
            }
        }
    }
}

/// Ends the share of a lease that the store does not want: somebody claimed the name since, at
/// another node or before its last owner was known here.
fn supersede(tunnels: &Tunnels, lease: &Lease) {
    let Some(entry) = tunnels.table.find(&lease.name) else { return };
    if let Presence::Live(share) = entry.presence()
        && share.facts.generation == lease.generation
    {
        tracing::info!(share.name = %lease.name, "a lease from memory was overtaken");
        tunnels.table.away(&share, false);
        share.session.revoke(share.facts.id, super::control::superseded(&lease.name));
    }
}

/// Asks until the store has answered; gives up what it answers with an error.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(
    health: &watch::Receiver<Health>,
    ask: impl Fn() -> F,
) -> Option<T> {
    let mut health = health.clone();
    let mut attempts = 0;
    loop {
        let error = match ask().await {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        let away = *health.borrow() == Health::Down;
        attempts += u32::from(!away);
        if !error.is_unreachable() || attempts >= ATTEMPTS {
            tracing::warn!(error = &error as &dyn std::error::Error, "the store was not told");
            return None;
        }
        if away {
            health.wait_for(|health| *health == Health::Up).await.ok()?;
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;
