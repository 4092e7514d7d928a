//! One server of a hub: what is known of it, and its living conversations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcpm_shared::access::Principal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Hub;
use super::known::Known;
use super::turn::Turn;
use crate::gateway::GatewayError;
use crate::gateway::upstream::{Conn, Opening, Target};
use crate::mcp::era::Era;

/// How many failed starts in a row are a crash loop.
const LOOP: u32 = 5;
/// How long the first failed start rests, and the longest rest.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How long a server must live for its earlier failures to be forgotten.
const STABLE: Duration = Duration::from_secs(60);

/// Who shares one conversation with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Everybody.
    #[default]
    Shared,
    /// All requests of one principal.
    Principal,
    /// One legacy session; requests of the modern era, which has none, by principal.
    Session,
}

/// Names a conversation among those of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum SlotKey {
    /// By era too, here and below: a server of both eras talks with each client in its own.
    Shared(Era),
    Principal(Principal, Era),
    Session(u64),
}

/// One server of the hub.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) isolation: Isolation,
    /// Held while what is known is written down.
    pub(super) saving: Mutex<()>,
    known: Mutex<Known>,
    slots: Mutex<HashMap<SlotKey, Arc<Slot>>>,
}

impl Member {
    pub(super) fn new(
        index: usize,
        name: &str,
        target: Target,
        isolation: Isolation,
        known: Known,
    ) -> Self {
        let (known, slots) = (Mutex::new(known), Mutex::default());
        let (name, saving) = (name.to_owned(), Mutex::default());
        Self { index, name, target, isolation, saving, known, slots }
    }

    /// Returns what is known of the server.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<SlotKey, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the place of a conversation, which may be empty.
    pub(super) fn slot(&self, key: SlotKey) -> Arc<Slot> {
        self.slots().entry(key.clone()).or_insert_with(|| Arc::new(Slot::new(key))).clone()
    }

    /// Returns the era of the shared conversation that lives or starts.
    pub(super) fn shared_era(&self) -> Option<Era> {
        let slots = self.slots();
        let taken =
            |era: &Era| slots.get(&SlotKey::Shared(*era)).is_some_and(|slot| !slot.is_vacant());
        [Era::Legacy, Era::Modern].into_iter().find(taken)
    }

    /// Returns whose a conversation is.
    pub(super) fn key_of(&self, conn: &Arc<Conn>) -> Option<SlotKey> {
        let slots = self.slots();
        let its = |slot: &Arc<Slot>| slot.current().is_some_and(|its| Arc::ptr_eq(&its, conn));
        slots.iter().find(|(_, slot)| its(slot)).map(|(key, _)| key.clone())
    }

    /// Notes the era of a shared conversation, which a server may have chosen otherwise than it was
    /// tried.
    pub(super) fn rehome(&self, slot: &Arc<Slot>, era: Era) {
        let mut slots = self.slots();
        let before = slot.key();
        let key = SlotKey::Shared(era);
        // Where there is one in that era already this one ends after its calls, see `sweep`.
        if matches!(before, SlotKey::Shared(tried) if tried != era) && !slots.contains_key(&key) {
            slots.remove(&before);
            *slot.key.lock().unwrap_or_else(PoisonError::into_inner) = key.clone();
            slots.insert(key, slot.clone());
        }
    }

    /// Returns the conversations that live.
    pub(super) fn living(&self) -> Vec<Arc<Conn>> {
        self.slots().values().filter_map(|slot| slot.current()).collect()
    }

    /// Drops the places of a session.
    pub(super) fn forget(&self, session: u64) {
        if let Some(slot) = self.slots().remove(&SlotKey::Session(session)) {
            slot.close();
        }
    }

    /// Stops what was not used for `idle`, and drops empty places.
    pub(super) fn sweep(&self, idle: Option<Duration>, now: Instant) {
        self.slots().retain(|key, slot| {
            let astray =
                |conn: &Conn| matches!(key, SlotKey::Shared(tried) if *tried != conn.facts().era);
            if let Some(conn) = slot.current()
                && !conn.is_busy()
                && (astray(&conn) || idle.is_some_and(|idle| now - conn.last_used() >= idle))
            {
                tracing::debug!(server = %self.name, "an idle server is stopped");
                conn.stop();
            }
            // Somebody who holds a place may be about to take it.
            !slot.is_vacant() || Arc::strong_count(slot) > 1
        });
    }

    /// Makes room for one more conversation, whose start is counted already: stops the longest idle
    /// one when there are more than `max`.
    pub(super) fn make_room(&self, max: usize) -> bool {
        let living = self.living();
        let starting = self.slots().values().filter(|slot| slot.is_starting()).count();
        if living.len() + starting <= max {
            return true;
        }
        let idlest =
            living.iter().filter(|conn| !conn.is_busy()).min_by_key(|conn| conn.last_used());
        idlest.map(|conn| conn.stop()).is_some()
    }

    /// Stops everything.
    pub(super) fn stop(&self) {
        for (_, slot) in self.slots().drain() {
            slot.close();
        }
    }
}

/// Why a server cannot be used now; what a client is told.
#[derive(Clone, Debug, thiserror::Error)]
#[error("server `{server}` is unavailable: {reason}")]
pub(super) struct Unavailable {
    pub(super) server: String,
    pub(super) reason: String,
    /// What its owner is told.
    pub(super) cause: Option<Arc<GatewayError>>,
}

/// Why a conversation was not opened: for the visitor, and for the owner.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) cause: Option<Arc<GatewayError>>,
}

impl Unavailable {
    /// Tells the owner, for whom the client's answer says too little.
    pub(super) fn log(&self) {
        if let Some(cause) = &self.cause {
            tracing::error!(error = &**cause as &dyn std::error::Error, "cannot use a server");
        }
    }
}

impl Failure {
    fn of(self, member: &Member) -> Unavailable {
        let Self { reason, cause } = self;
        Unavailable { server: member.name.clone(), reason, cause }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self { reason: reason.to_owned(), cause: None }
    }
}

type Started = Result<Arc<Conn>, Unavailable>;

/// The place of one conversation.
#[derive(Debug)]
pub(super) struct Slot {
    key: Mutex<SlotKey>,
    state: Mutex<State>,
    /// Telling it the level of logs.
    pub(super) levels: Turn,
    /// Telling it which resources its clients want to hear of.
    pub(super) wishes: Turn,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    failures: u32,
    /// Nobody will come any more: what starts now is to be stopped.
    closed: bool,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Empty,
    Starting(watch::Receiver<Option<Started>>),
    Up {
        conn: Arc<Conn>,
        since: Instant,
    },
    /// It failed, and is not tried again before `until`.
    Resting {
        until: Instant,
        failure: Failure,
    },
}

impl Slot {
    fn new(key: SlotKey) -> Self {
        let (state, levels, wishes) = Default::default();
        Self { key: Mutex::new(key), state, levels, wishes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whose conversation it is.
    pub(super) fn key(&self) -> SlotKey {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the conversation, if it lives.
    pub(super) fn current(&self) -> Option<Arc<Conn>> {
        match &self.state().phase {
            Phase::Up { conn, .. } if !conn.is_over() => Some(conn.clone()),
            _ => None,
        }
    }

    fn is_starting(&self) -> bool {
        matches!(self.state().phase, Phase::Starting(_))
    }

    fn is_vacant(&self) -> bool {
        match &self.state().phase {
            Phase::Empty => true,
            Phase::Up { conn, .. } => conn.is_over(),
            Phase::Starting(_) | Phase::Resting { .. } => false,
        }
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        if let Phase::Up { conn, .. } = &state.phase {
            conn.stop();
        }
    }

    /// Returns the conversation; starts it if need be. Whoever comes meanwhile waits for the same
    /// start, which goes on when nobody waits any more. Cancel-safe.
    ///
    /// # Errors
    /// The server does not start, or rests after it did not.
    pub(super) async fn conn(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        member: &Arc<Member>,
        opening: impl FnOnce() -> Opening,
    ) -> Started {
        let mut started = match self.enter(member) {
            Entry::Done(done) => return done,
            Entry::Wait(started) => started,
            Entry::Start(told, started) => {
                let (slot, hub, member) = (self.clone(), hub.clone(), member.clone());
                let opening = opening();
                hub.scope().clone().spawn_until_cancelled(async move {
                    let opened = hub.start(&slot, &member, &opening).await;
                    told.send_replace(Some(slot.settle(&member, opened)));
                });
                started
            }
        };
        let lost = || Failure::from("it was stopped").of(member);
        let outcome = started.wait_for(Option::is_some).await;
        outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or_else(|| Err(lost()))
    }

    fn enter(&self, member: &Member) -> Entry {
        let mut state = self.state();
        // Its process may take its time to end; who comes first notes that it has.
        if let Phase::Up { conn, .. } = &state.phase
            && conn.is_over()
        {
            state.ended("it stopped");
        }
        match &state.phase {
            Phase::Up { conn, .. } if !conn.is_over() => return Entry::Done(Ok(conn.clone())),
            Phase::Starting(started) => return Entry::Wait(started.clone()),
            Phase::Resting { until, failure } if Instant::now() < *until => {
                // Its owner was told when it failed.
                let mut failure = Failure { cause: None, ..failure.clone() };
                if state.failures >= LOOP {
                    failure.reason = format!("it keeps failing ({})", failure.reason);
                }
                return Entry::Done(Err(failure.of(member)));
            }
            Phase::Up { .. } | Phase::Empty | Phase::Resting { .. } => {}
        }
        let (told, started) = watch::channel(None);
        state.phase = Phase::Starting(started.clone());
        Entry::Start(told, started)
    }

    fn settle(&self, member: &Member, opened: Result<Arc<Conn>, Failure>) -> Started {
        let mut state = self.state();
        match opened {
            Ok(conn) if state.closed => {
                conn.stop();
                state.phase = Phase::Empty;
                Err(Failure::from("its client has gone").of(member))
            }
            Ok(conn) => {
                state.phase = Phase::Up { conn: conn.clone(), since: Instant::now() };
                Ok(conn)
            }
            Err(failure) => {
                state.failures += 1;
                let until = Instant::now() + rest(state.failures);
                state.phase = Phase::Resting { until, failure: failure.clone() };
                Err(failure.of(member))
            }
        }
    }

    /// Notes that the conversation ended by itself: soon after its start, that is a failure too.
    pub(super) fn died(&self, gone: &Arc<Conn>, reason: &str) {
        let mut state = self.state();
        let Phase::Up { conn, .. } = &state.phase else { return };
        // While its process took its time to end another one may have come.
        if !Arc::ptr_eq(conn, gone) {
            return;
        }
        state.ended(reason);
    }
}

impl State {
    /// Notes that the conversation is over.
    fn ended(&mut self, reason: &str) {
        let Phase::Up { conn, since } = &self.phase else { return };
        if since.elapsed() >= STABLE {
            self.failures = 0;
        } else if !conn.was_stopped() {
            self.failures += 1;
            // One early end may be a chance; from then on there is a rest.
            let pause = if self.failures > 1 { rest(self.failures) } else { Duration::ZERO };
            let until = Instant::now() + pause;
            self.phase = Phase::Resting { until, failure: reason.into() };
            return;
        }
        self.phase = Phase::Empty;
    }
}

enum Entry {
    Done(Started),
    Wait(watch::Receiver<Option<Started>>),
    Start(watch::Sender<Option<Started>>, watch::Receiver<Option<Started>>),
}

fn rest(failures: u32) -> Duration {
    (FIRST_REST * 2_u32.saturating_pow(failures.saturating_sub(1).min(8))).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_rests_longer_each_time_up_to_a_bound() {
        let rests: Vec<_> = (1..=9).map(|failures| rest(failures).as_millis()).collect();
        assert_eq!(rests, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
    }
}
