//! Calls of modern clients that wait at a legacy server for an answer of their user.
//!
//! The modern era has no requests from servers: the call is answered with the question, and what
//! it was lies here until the client comes again with the answer (2026-07-28 §MRTR). The handle it
//! brings back is sealed to the principal and the request it was made for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcpm_shared::access::Principal;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::drive::Asked;
use crate::gateway::link::Receiver;
use crate::gateway::seal::{Binding, Payload, SealError, Sealer};
use crate::gateway::upstream::Conn;

/// How long a user may take to answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// How many calls may wait in all, and for one principal.
const MAX: usize = 1024;
const MAX_OF_ONE: usize = 64;

/// A question of a legacy server that is open.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) key: String,
    pub(super) id: Box<RawValue>,
    pub(super) method: String,
    pub(super) params: Option<Box<RawValue>>,
}

/// A call that waits. Dropping it cancels it at the server.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) conn: Arc<Conn>,
    /// Held for what dropping it does.
    pub(super) asked_for: Asked,
    pub(super) packets: Receiver,
    pub(super) questions: Vec<Question>,
    /// How many questions it has asked.
    pub(super) asked: usize,
}

#[derive(Debug)]
struct Parked {
    waiting: Waiting,
    principal: Principal,
    until: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Parking {
    sealer: Sealer,
    calls: Mutex<(u64, HashMap<String, Parked>)>,
}

impl Default for Parking {
    fn default() -> Self {
        let sealer = Sealer::random().expect("the system has randomness");
        Self { sealer, calls: Mutex::default() }
    }
}

impl Parking {
    fn calls(&self) -> MutexGuard<'_, (u64, HashMap<String, Parked>)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call aside; returns the handle for the client, or the call when too many wait.
    pub(super) fn park(
        &self,
        binding: Binding,
        principal: &Principal,
        member: usize,
        waiting: Waiting,
    ) -> Result<String, Box<Waiting>> {
        let mut calls = self.calls();
        let own = calls.1.values().filter(|parked| parked.principal == *principal).count();
        if calls.1.len() >= MAX || own >= MAX_OF_ONE {
            return Err(waiting.into());
        }
        calls.0 += 1;
        let inner = calls.0.to_string();
        let until = Instant::now() + PATIENCE;
        let parked = Parked { waiting, principal: principal.clone(), until };
        calls.1.insert(inner.clone(), parked);
        drop(calls);
        let upstream = u32::try_from(member).unwrap_or(u32::MAX);
        let expires = now() + PATIENCE.as_secs();
        Ok(self.sealer.seal(&Payload { binding, upstream, inner, expires }))
    }

    /// Takes a call up again by its handle.
    ///
    /// # Errors
    /// The handle is not one of ours, not for this, or too old.
    pub(super) fn take(&self, handle: &str, binding: &Binding) -> Result<Waiting, SealError> {
        let payload = self.sealer.open(handle, binding, now())?;
        let parked = self.calls().1.remove(&payload.inner).ok_or(SealError::Expired)?;
        Ok(parked.waiting)
    }

    /// Gives up calls that nobody came back for.
    pub(super) fn sweep(&self, now: Instant) {
        let gone: Vec<_> = {
            let mut calls = self.calls();
            calls
                .1
                .extract_if(|_, parked| parked.until <= now || parked.waiting.conn.is_over())
                .collect()
        };
        // Cancelling takes locks of others.
        drop(gone);
    }

    /// Gives up all.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut self.calls().1);
        drop(gone);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
