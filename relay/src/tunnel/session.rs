//! A session: one agent, its connections and its shares.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mcpm_shared::mux::Opener;
use mcpm_shared::proto::control::{GoAway, RelayMessage, Revoked};
use mcpm_shared::proto::{MAX_CONNECTIONS, Refusal};
use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::share::Share;
use crate::admission::Admitted;

/// Where what is said to an agent waits. A queue has room for 32 of its items from the start, in
/// each of many sessions: they are small.
pub type Outbox = mpsc::Sender<Box<RelayMessage>>;

/// One agent's session.
#[derive(Debug)]
pub struct Session {
    /// The id that further connections name; unguessable, yet no secret: they prove the same key.
    pub id: String,
    /// What the agent may do.
    pub admitted: Admitted,
    /// Where its first connection came from, as rates count it.
    pub peer: IpAddr,
    /// Since when it is up.
    pub since: Instant,
    /// Ends every task of the session when it is cancelled.
    pub scope: Scope,
    control: Outbox,
    connections: RwLock<Vec<(usize, Opener)>>,
    shares: Mutex<HashMap<u32, Arc<Share>>>,
    next_share: AtomicU32,
    going_away: AtomicBool,
}

impl Session {
    /// Makes a session whose control messages go to `control`.
    #[must_use]
    pub fn new(
        id: String,
        admitted: Admitted,
        peer: IpAddr,
        control: Outbox,
        scope: Scope,
    ) -> Self {
        Self {
            id,
            admitted,
            peer,
            since: Instant::now(),
            scope,
            control,
            connections: RwLock::default(),
            shares: Mutex::default(),
            next_share: AtomicU32::new(1),
            going_away: AtomicBool::new(false),
        }
    }

    /// Tells whether new streams may still be opened: the session lives and its right holds.
    #[must_use]
    pub fn may_serve(&self, now: u64) -> bool {
        !self.scope.is_cancelled() && self.admitted.expires_at.is_none_or(|end| now < end)
    }

    /// Adds a connection; `None` when there are as many as allowed. The slot names it.
    pub fn add_connection(&self, opener: Opener) -> Option<usize> {
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        let free = |slot: &usize| !connections.iter().any(|(taken, _)| taken == slot);
        let slot = (0..usize::from(MAX_CONNECTIONS)).find(free)?;
        connections.push((slot, opener));
        Some(slot)
    }

    /// Forgets a connection.
    pub fn remove_connection(&self, slot: usize) {
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|(taken, _)| *taken != slot);
    }

    /// Returns the living connection with the fewest exchanges in flight.
    pub fn least_loaded(&self) -> Option<(usize, Opener)> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let living = connections.iter().filter(|(_, opener)| !opener.is_closed());
        living.min_by_key(|(_, opener)| opener.in_flight()).cloned()
    }

    /// Returns how many exchanges are in flight on all connections together.
    pub fn in_flight(&self) -> usize {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        connections.iter().map(|(_, opener)| opener.in_flight()).sum()
    }

    /// Returns how many shares the session has.
    pub fn share_count(&self) -> usize {
        self.locked().len()
    }

    /// Tells whether the session shares anything.
    pub fn has_shares(&self) -> bool {
        !self.locked().is_empty()
    }

    /// Returns an id for the next share.
    pub fn next_share_id(&self) -> u32 {
        self.next_share.fetch_add(1, Ordering::Relaxed)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u32, Arc<Share>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a share.
    pub fn add_share(&self, share: Arc<Share>) {
        self.locked().insert(share.facts.id, share);
    }

    /// Returns a share by its id.
    pub fn share(&self, id: u32) -> Option<Arc<Share>> {
        self.locked().get(&id).cloned()
    }

    /// Returns all shares.
    pub fn shares(&self) -> Vec<Arc<Share>> {
        self.locked().values().cloned().collect()
    }

    /// Takes a share out.
    pub fn remove_share(&self, id: u32) -> Option<Arc<Share>> {
        self.locked().remove(&id)
    }

    /// Takes all shares out, at the end of the session.
    pub fn take_shares(&self) -> Vec<Arc<Share>> {
        self.locked().drain().map(|(_, share)| share).collect()
    }

    /// Tells the agent that a share has ended here, and forgets it. Says nothing when the agent
    /// reads too slowly: its streams are refused anyway.
    pub fn revoke(&self, share: u32, refusal: Refusal) {
        if self.remove_share(share).is_some() {
            self.tell(RelayMessage::Revoked(Revoked { share, refusal }));
        }
    }

    /// Ends the session and tells the agent why.
    pub fn end(&self, refusal: &Refusal) {
        if self.scope.is_cancelled() {
            return;
        }
        let shares: Vec<u32> = self.locked().keys().copied().collect();
        for share in shares {
            self.tell(RelayMessage::Revoked(Revoked { share, refusal: refusal.clone() }));
        }
        self.scope.cancel();
    }

    /// Asks the agent to connect again elsewhere; says so once.
    pub fn go_away(&self, reason: &str, grace: std::time::Duration) {
        if !self.going_away.swap(true, Ordering::Relaxed) {
            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            self.tell(RelayMessage::GoAway(GoAway { reason: reason.to_owned(), grace_ms }));
        }
    }

    fn tell(&self, message: RelayMessage) {
        if let Err(error) = self.control.try_send(Box::new(message)) {
            tracing::debug!(session.id = %self.id, %error, "control message not sent");
        }
    }
}
