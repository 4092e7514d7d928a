//! The conversations of HTTP clients: one per legacy session, one per principal otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcpm_shared::access::Principal;
use mcpm_shared::scope::Scope;
use tokio::time::Instant;

use super::events::{Budget, Log};
use super::http::{Params, Port};
use super::talk::Conversation;
use crate::mcp::era::{self, MODERN};

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

/// How many conversations there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    /// In total.
    pub(super) total: usize,
    /// Of one principal. Anonymous visitors may be many people and have only the total.
    pub(super) principal: usize,
}

/// The sessions and conversations of one gateway.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    state: Mutex<State>,
    /// Held while a modern child starts: requests that come together must not start one each.
    starting: tokio::sync::Mutex<()>,
    /// What the event logs of all sessions may hold together.
    budget: Budget,
    modern_only: AtomicBool,
    /// What tools want to be mirrored in headers.
    pub(super) params: Arc<Params>,
}

#[derive(Debug, Default)]
struct State {
    legacy: HashMap<String, Arc<Session>>,
    modern: HashMap<Principal, Arc<dyn Conversation>>,
    /// What `server/discover` was answered by a server that does not know it.
    legacy_only: Option<Vec<u8>>,
    /// The modern versions that the server says it speaks; empty when it did not say.
    supported: Vec<String>,
    answered_initialize: bool,
    swept: bool,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more conversation: evicts the longest idle one when there are too many,
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
        while state.legacy.len() + state.modern.len() >= caps.total {
            state.evict_idlest(None).ok_or(Full)?;
        }
        Ok(())
    }

    /// Makes the event log of a session to come.
    pub(super) fn log(&self, scope: Scope) -> Arc<Log> {
        Log::new(self.budget.clone(), scope)
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

    /// Waits for the turn to start a modern child. Cancel-safe.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.starting.lock().await
    }

    /// Returns the living conversation of a principal.
    pub(super) fn modern(&self, principal: &Principal) -> Option<Arc<dyn Conversation>> {
        let mut state = self.lock();
        let talk = state.modern.get(principal)?.clone();
        if talk.is_over() {
            state.modern.remove(principal);
            return None;
        }
        Some(talk)
    }

    /// Keeps the conversation of a principal.
    pub(super) fn keep_modern(&self, principal: &Principal, talk: Arc<dyn Conversation>) {
        self.lock().modern.insert(principal.clone(), talk);
    }

    /// Notes that the server is legacy-only and stops the children that were started to see.
    pub(super) fn set_legacy_only(&self, answer: &[u8]) {
        let mut state = self.lock();
        state.legacy_only = Some(answer.to_vec());
        for (_, talk) in state.modern.drain() {
            talk.stop();
        }
    }

    /// Notes which modern versions the server says it speaks.
    pub(super) fn set_supported(&self, versions: Vec<String>) {
        self.lock().supported = versions;
    }

    /// Tells whether a modern version is served.
    ///
    /// # Errors
    /// Returns those that are.
    pub(super) fn supports(&self, version: &str) -> Result<(), Vec<String>> {
        let state = self.lock();
        let known = &state.supported;
        let served = if known.is_empty() {
            era::is_modern(version)
        } else {
            known.iter().any(|known| known == version)
        };
        if served {
            return Ok(());
        }
        Err(if known.is_empty() { vec![MODERN.to_owned()] } else { known.clone() })
    }

    /// Notes that the server knows `initialize`.
    pub(super) fn set_answered_initialize(&self) {
        self.lock().answered_initialize = true;
    }

    /// Tells whether the server is known to know `initialize`.
    pub(super) fn answered_initialize(&self) -> bool {
        self.lock().answered_initialize
    }

    /// Notes that the server is modern only; `false` when that was known.
    pub(super) fn set_modern_only(&self) -> bool {
        !self.modern_only.swap(true, Ordering::Relaxed)
    }

    /// Tells whether the server is known to be modern only.
    pub(super) fn is_modern_only(&self) -> bool {
        self.modern_only.load(Ordering::Relaxed)
    }

    /// Returns what a legacy-only server answered to `server/discover`.
    pub(super) fn legacy_only(&self) -> Option<Vec<u8>> {
        self.lock().legacy_only.clone()
    }

    /// Returns how many legacy sessions are open.
    pub(super) fn count(&self) -> usize {
        let mut state = self.lock();
        state.drop_dead();
        state.legacy.values().filter(|session| session.is_started()).count()
    }

    /// Ends everything.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        for (_, session) in state.legacy.drain() {
            session.talk.stop();
        }
        for (_, talk) in state.modern.drain() {
            talk.stop();
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
        state.modern.retain(|_, talk| {
            let keep = is_busy(talk) || !old(&**talk);
            if !keep {
                talk.stop();
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
        self.modern.retain(|_, talk| !talk.is_over());
    }

    fn remove(&mut self, id: &str) -> Option<Arc<dyn Conversation>> {
        self.legacy.remove(id).map(|session| session.talk.clone())
    }

    fn count_of(&self, principal: &Principal) -> usize {
        let sessions = self.legacy.values().filter(|session| session.principal == *principal);
        sessions.count() + usize::from(self.modern.contains_key(principal))
    }

    /// Ends the longest idle conversation, of one principal if one is given.
    fn evict_idlest(&mut self, whose: Option<&Principal>) -> Option<()> {
        let his = |principal: &Principal| whose.is_none_or(|whose| whose == principal);
        let legacy = self
            .legacy
            .values()
            .filter(|session| his(&session.principal) && !session.is_busy())
            .map(|session| (session.talk.last_used(), session.id.clone()))
            .min();
        let modern = self
            .modern
            .iter()
            .filter(|(principal, talk)| his(principal) && !is_busy(talk))
            .map(|(principal, talk)| (talk.last_used(), principal.clone()))
            .min_by_key(|(used, _)| *used);
        let ended = match (legacy, modern) {
            (Some((a, id)), Some((b, _))) if a <= b => self.remove(&id),
            (_, Some((_, principal))) => self.modern.remove(&principal),
            (Some((_, id)), None) => self.remove(&id),
            (None, None) => None,
        };
        ended?.stop();
        Some(())
    }
}

/// As for a session: whoever makes a request has a clone, until the request is on its way.
fn is_busy(talk: &Arc<dyn Conversation>) -> bool {
    Arc::strong_count(talk) > 1 || talk.is_busy()
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
        let way = Way::Streams(sessions.log(Scope::new()));
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
        let way = Way::Streams(sessions.log(Scope::new()));
        drop(sessions.open(&Principal::Anonymous, talk.clone(), way));
        assert!(talk.is_over());
        assert_eq!(sessions.count(), 0);
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
