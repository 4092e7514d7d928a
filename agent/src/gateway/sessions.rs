//! The sessions of HTTP clients of the legacy era.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcpm_shared::access::Principal;
use mcpm_shared::scope::Scope;
use tokio::time::Instant;

use super::events::{Budget, Log};
use super::http::Port;
use super::talk::Conversation;

/// By which transport a legacy session is held.
#[derive(Debug)]
pub(super) enum Way {
    /// Streamable HTTP.
    Streams(Arc<Log>),
    /// HTTP+SSE (2024-11-05).
    Wire(Arc<Port>),
}

/// A legacy session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    principal: Principal,
    pub(super) talk: Arc<dyn Conversation>,
    pub(super) way: Way,
    started: AtomicBool,
}

impl Session {
    /// Tells whether the session must stay: it is being opened, somebody is handling a request of
    /// it, or it waits for something. Sessions are only cloned under the lock of the table, so
    /// whoever holds that lock sees all clones.
    fn is_busy(self: &Arc<Self>) -> bool {
        !self.is_started() || Arc::strong_count(self) > 1 || self.talk.is_busy()
    }

    fn is_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }
}

/// Every place is taken by somebody who is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many sessions are open")]
pub(super) struct Full;

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    /// In total.
    pub(super) total: usize,
    /// Of one principal. Anonymous visitors may be many people and have only the total.
    pub(super) principal: usize,
}

/// The sessions of one gateway.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    state: Mutex<State>,
    /// What the event logs of all sessions may hold together.
    budget: Budget,
}

#[derive(Debug, Default)]
struct State {
    legacy: HashMap<String, Arc<Session>>,
    swept: bool,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more session: evicts the longest idle one when there are too many,
    /// and one of the principal itself when it has too many.
    ///
    /// # Errors
    /// All of them are busy.
    pub(super) fn make_room(&self, caps: Caps, principal: &Principal) -> Result<(), Full> {
        let mut state = self.lock();
        state.drop_dead();
        while *principal != Principal::Anonymous && state.count_of(principal) >= caps.principal {
            state.evict_idlest(Some(principal)).ok_or(Full)?;
        }
        while state.legacy.len() >= caps.total {
            state.evict_idlest(None).ok_or(Full)?;
        }
        Ok(())
    }

    /// Makes the event log of a session to come.
    pub(super) fn log(&self, idle: Duration, scope: Scope) -> Arc<Log> {
        Log::new(self.budget.clone(), idle, scope)
    }

    /// Adds a session that is still being opened; its id is not known to anybody yet.
    pub(super) fn open(
        self: &Arc<Self>,
        principal: &Principal,
        talk: Arc<dyn Conversation>,
        way: Way,
    ) -> Opening {
        let (id, principal) = (mint(), principal.clone());
        let session = Session { id: id.clone(), principal, talk, way, started: false.into() };
        self.lock().legacy.insert(id.clone(), Arc::new(session));
        Opening { sessions: self.clone(), id: Some(id) }
    }

    /// Returns a session of this principal.
    pub(super) fn find(&self, id: &str, principal: &Principal) -> Option<Arc<Session>> {
        let mut state = self.lock();
        let session = state.legacy.get(id).filter(|session| session.principal == *principal)?;
        if session.talk.is_over() {
            state.legacy.remove(id);
            return None;
        }
        Some(session.clone())
    }

    /// Ends a session.
    pub(super) fn end(&self, session: &Session) {
        self.lock().legacy.remove(&session.id);
        session.talk.stop();
    }

    /// Ends everything.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        for (_, session) in state.legacy.drain() {
            session.talk.stop();
        }
    }

    /// Ends what was not used for `idle` and is not busy; forgets old events.
    pub(super) fn sweep(&self, idle: Duration, now: Instant) {
        let old = |talk: &dyn Conversation| now.duration_since(talk.last_used()) >= idle;
        let mut state = self.lock();
        state.drop_dead();
        state.legacy.retain(|_, session| {
            let keep = session.is_busy() || !old(&*session.talk);
            if !keep {
                session.talk.stop();
            }
            keep
        });
        for session in state.legacy.values() {
            if let Way::Streams(log) = &session.way {
                log.prune(now);
            }
        }
    }

    /// Tells once that somebody should sweep.
    pub(super) fn wants_sweeper(&self) -> bool {
        !std::mem::replace(&mut self.lock().swept, true)
    }
}

impl State {
    fn drop_dead(&mut self) {
        self.legacy.retain(|_, session| !session.talk.is_over());
    }

    fn count_of(&self, principal: &Principal) -> usize {
        self.legacy.values().filter(|session| session.principal == *principal).count()
    }

    /// Ends the longest idle session, of one principal if one is given.
    fn evict_idlest(&mut self, whose: Option<&Principal>) -> Option<()> {
        let his = |principal: &Principal| whose.is_none_or(|whose| whose == principal);
        let idlest = self
            .legacy
            .values()
            .filter(|session| his(&session.principal) && !session.is_busy())
            .map(|session| (session.talk.last_used(), session.id.clone()))
            .min();
        let ended = idlest.and_then(|(_, id)| self.legacy.remove(&id));
        ended?.talk.stop();
        Some(())
    }
}

/// A session that is being opened. Dropped before it is done, it ends the session.
#[derive(Debug)]
pub(super) struct Opening {
    sessions: Arc<Sessions>,
    id: Option<String>,
}

impl Opening {
    /// Ends the opening well and returns the session.
    pub(super) fn done(mut self) -> Option<Arc<Session>> {
        let id = self.id.take()?;
        let session = self.sessions.lock().legacy.get(&id).cloned()?;
        session.started.store(true, Ordering::Relaxed);
        Some(session)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && let Some(session) = self.sessions.lock().legacy.remove(&id)
        {
            session.talk.stop();
        }
    }
}

/// Returns a session id of 192 random bits.
fn mint() -> String {
    use base64::Engine as _;

    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::gateway::talk::testing::Puppet;
    use crate::mcp::message::Message;

    const CAPS: Caps = Caps { total: 64, principal: 64 };

    fn token(id: &str) -> Principal {
        Principal::Token(id.to_owned())
    }

    fn opened(sessions: &Arc<Sessions>, principal: &Principal) -> (String, Arc<Puppet>) {
        let talk = Arc::new(Puppet::default());
        let way = Way::Streams(sessions.log(Duration::from_secs(600), Scope::new()));
        let session = sessions.open(principal, talk.clone(), way).done().unwrap();
        (session.id.clone(), talk)
    }

    #[tokio::test]
    async fn a_session_is_only_there_for_its_principal() {
        let sessions = Arc::new(Sessions::default());
        let (ann, bob) = (token("ann"), token("bob"));
        let (id, _talk) = opened(&sessions, &ann);
        assert!(sessions.find(&id, &bob).is_none());
        let session = sessions.find(&id, &ann).unwrap();
        sessions.end(&session);
        assert!(sessions.find(&id, &ann).is_none());
        assert!(session.talk.is_over());
    }

    #[tokio::test]
    async fn an_opening_that_is_given_up_leaves_nothing() {
        let sessions = Arc::new(Sessions::default());
        let talk = Arc::new(Puppet::default());
        let way = Way::Streams(sessions.log(Duration::from_secs(600), Scope::new()));
        drop(sessions.open(&Principal::Anonymous, talk.clone(), way));
        assert!(talk.is_over());
        assert!(sessions.lock().legacy.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_session_makes_room_and_busy_ones_stay() {
        let sessions = Arc::new(Sessions::default());
        let everybody = Principal::Anonymous;
        let (first, busy) = opened(&sessions, &everybody);
        let (sink, _answer) = mpsc::channel(1);
        let request = Message::parse(r#"{"id":1,"method":"x"}"#).unwrap();
        let _claim = busy.begin(&request, sink).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let (second, idle) = opened(&sessions, &everybody);
        sessions.make_room(Caps { total: 2, ..CAPS }, &everybody).unwrap();
        assert!(sessions.find(&first, &everybody).is_some());
        assert!(sessions.find(&second, &everybody).is_none() && idle.is_over());
        assert_eq!(sessions.make_room(Caps { total: 1, ..CAPS }, &everybody), Err(Full));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_handles_a_request_is_not_evicted() {
        let sessions = Arc::new(Sessions::default());
        let (id, _talk) = opened(&sessions, &Principal::Anonymous);
        let caps = Caps { total: 1, ..CAPS };
        let found = sessions.find(&id, &Principal::Anonymous).unwrap();
        assert_eq!(sessions.make_room(caps, &Principal::Anonymous), Err(Full));
        drop(found);
        assert_eq!(sessions.make_room(caps, &Principal::Anonymous), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_too_many_sessions_loses_one_of_their_own() {
        let sessions = Arc::new(Sessions::default());
        let (ann, bob) = (token("ann"), token("bob"));
        let (of_bob, _) = opened(&sessions, &bob);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (of_ann, _) = opened(&sessions, &ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (other, _) = opened(&sessions, &ann);
        sessions.make_room(Caps { principal: 2, ..CAPS }, &ann).unwrap();
        assert!(sessions.find(&of_bob, &bob).is_some());
        assert!(sessions.find(&of_ann, &ann).is_none());
        assert!(sessions.find(&other, &ann).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_sessions_are_swept() {
        let sessions = Arc::new(Sessions::default());
        let (id, talk) = opened(&sessions, &Principal::Anonymous);
        let idle = Duration::from_secs(600);
        tokio::time::advance(Duration::from_secs(599)).await;
        sessions.sweep(idle, Instant::now());
        assert!(sessions.find(&id, &Principal::Anonymous).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        sessions.sweep(idle, Instant::now());
        assert!(sessions.find(&id, &Principal::Anonymous).is_none() && talk.is_over());
    }

    #[test]
    fn session_ids_are_long_and_visible_ascii() {
        let id = mint();
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_ne!(id, mint());
    }
}
