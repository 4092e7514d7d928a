//! One server of a hub: what is known of it, and its living conversations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcpm_shared::access::Principal;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Hub;
use crate::gateway::upstream::{Conn, Facts, Opening, Target};
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
    Shared,
    Principal(Principal),
    Session(u64),
}

/// Items of a list as the server wrote them.
pub(super) type Items = Arc<Vec<Box<RawValue>>>;

/// What is known of a server without asking it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) era: Option<Era>,
    pub(super) facts: Option<Arc<Facts>>,
    pub(super) lists: [Option<Items>; 4],
    /// Which lists a client got that the server has not confirmed in this run.
    pub(super) unconfirmed: [bool; 4],
    /// Its last list was late: what is known is served at once until it answers again.
    pub(super) slow: bool,
    /// Tells conversations of the modern era that what clients want to hear of has changed.
    pub(super) resubscribe: Arc<tokio::sync::Notify>,
}

/// One server of the hub.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) isolation: Isolation,
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
        Self { index, name: name.to_owned(), target, isolation, known, slots }
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
        self.slots().retain(|_, slot| {
            if let (Some(conn), Some(idle)) = (slot.current(), idle)
                && !conn.is_busy()
                && now.duration_since(conn.last_used()) >= idle
            {
                tracing::debug!(server = %self.name, "an idle server is stopped");
                conn.stop();
            }
            !slot.is_vacant()
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
}

type Started = Result<Arc<Conn>, Unavailable>;

/// The place of one conversation.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: SlotKey,
    state: Mutex<State>,
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
        reason: String,
    },
}

impl Slot {
    fn new(key: SlotKey) -> Self {
        Self { key, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let lost = || Unavailable { server: member.name.clone(), reason: "it was stopped".into() };
        let outcome = started.wait_for(Option::is_some).await;
        outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or_else(|| Err(lost()))
    }

    fn enter(&self, member: &Member) -> Entry {
        let mut state = self.state();
        match &state.phase {
            Phase::Up { conn, .. } if !conn.is_over() => return Entry::Done(Ok(conn.clone())),
            Phase::Starting(started) => return Entry::Wait(started.clone()),
            Phase::Resting { until, reason } if Instant::now() < *until => {
                let reason = match state.failures {
                    LOOP.. => format!("it keeps failing ({reason})"),
                    _ => reason.clone(),
                };
                return Entry::Done(Err(Unavailable { server: member.name.clone(), reason }));
            }
            Phase::Up { since, .. } if since.elapsed() >= STABLE => state.failures = 0,
            Phase::Up { .. } | Phase::Empty | Phase::Resting { .. } => {}
        }
        let (told, started) = watch::channel(None);
        state.phase = Phase::Starting(started.clone());
        Entry::Start(told, started)
    }

    fn settle(&self, member: &Member, opened: Result<Arc<Conn>, String>) -> Started {
        let mut state = self.state();
        match opened {
            Ok(conn) if state.closed => {
                conn.stop();
                state.phase = Phase::Empty;
                let reason = "its client has gone".to_owned();
                Err(Unavailable { server: member.name.clone(), reason })
            }
            Ok(conn) => {
                state.phase = Phase::Up { conn: conn.clone(), since: Instant::now() };
                Ok(conn)
            }
            Err(reason) => {
                state.failures += 1;
                let until = Instant::now() + rest(state.failures);
                state.phase = Phase::Resting { until, reason: reason.clone() };
                Err(Unavailable { server: member.name.clone(), reason })
            }
        }
    }

    /// Notes that the conversation ended by itself: soon after its start, that is a failure too.
    pub(super) fn died(&self, reason: &str) {
        let mut state = self.state();
        let Phase::Up { since, .. } = &state.phase else { return };
        if since.elapsed() >= STABLE {
            state.failures = 0;
            state.phase = Phase::Empty;
            return;
        }
        state.failures += 1;
        // One early end may be a chance; from then on there is a rest.
        let pause = if state.failures > 1 { rest(state.failures) } else { Duration::ZERO };
        state.phase = Phase::Resting { until: Instant::now() + pause, reason: reason.to_owned() };
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
