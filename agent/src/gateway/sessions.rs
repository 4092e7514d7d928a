//! The children that serve HTTP clients: one per legacy session, one per principal otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcpm_shared::access::Principal;
use tokio::time::Instant;

use super::link::Link;

/// A legacy session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    principal: Principal,
    pub(super) link: Arc<Link>,
    started: bool,
}

/// Every place is taken by somebody who is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many sessions are open")]
pub(super) struct Full;

/// The sessions and children of one gateway.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    state: Mutex<State>,
    /// Held while a modern child starts: requests that come together must not start one each.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    legacy: HashMap<String, Session>,
    modern: HashMap<Principal, Arc<Link>>,
    /// What `server/discover` was answered by a server that does not know it.
    legacy_only: Option<Vec<u8>>,
    answered_initialize: bool,
    swept: bool,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more child: evicts the longest idle one when `max` are there.
    ///
    /// # Errors
    /// All of them are busy.
    pub(super) fn make_room(&self, max: usize) -> Result<(), Full> {
        let mut state = self.lock();
        state.drop_dead();
        while state.legacy.len() + state.modern.len() >= max {
            state.evict_idlest().ok_or(Full)?;
        }
        Ok(())
    }

    /// Adds a session that is still being opened; its id is not known to anybody yet.
    pub(super) fn open(self: &Arc<Self>, principal: &Principal, link: Arc<Link>) -> Opening {
        let id = mint();
        let session =
            Session { id: id.clone(), principal: principal.clone(), link, started: false };
        self.lock().legacy.insert(id.clone(), session);
        Opening { sessions: self.clone(), id: Some(id) }
    }

    /// Returns the conversation of a session of this principal.
    pub(super) fn find(&self, id: &str, principal: &Principal) -> Option<Arc<Link>> {
        let mut state = self.lock();
        let session = state.legacy.get(id).filter(|session| session.principal == *principal)?;
        if session.link.is_over() {
            state.legacy.remove(id);
            return None;
        }
        Some(session.link.clone())
    }

    /// Ends a session of this principal.
    pub(super) fn end(&self, id: &str, principal: &Principal) -> bool {
        let mut state = self.lock();
        if state.legacy.get(id).is_none_or(|session| session.principal != *principal) {
            return false;
        }
        if let Some(session) = state.legacy.remove(id) {
            session.link.stop();
        }
        true
    }

    /// Waits for the turn to start a modern child. Cancel-safe.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.starting.lock().await
    }

    /// Returns the living child of a principal.
    pub(super) fn modern(&self, principal: &Principal) -> Option<Arc<Link>> {
        let mut state = self.lock();
        let link = state.modern.get(principal)?.clone();
        if link.is_over() {
            state.modern.remove(principal);
            return None;
        }
        Some(link)
    }

    /// Keeps the child of a principal.
    pub(super) fn keep_modern(&self, principal: &Principal, link: Arc<Link>) {
        self.lock().modern.insert(principal.clone(), link);
    }

    /// Notes that the server is legacy-only and stops the children that were started to see.
    pub(super) fn set_legacy_only(&self, answer: &[u8]) {
        let mut state = self.lock();
        state.legacy_only = Some(answer.to_vec());
        for (_, link) in state.modern.drain() {
            link.stop();
        }
    }

    /// Notes that the server knows `initialize`.
    pub(super) fn set_answered_initialize(&self) {
        self.lock().answered_initialize = true;
    }

    /// Tells whether the server is known to know `initialize`.
    pub(super) fn answered_initialize(&self) -> bool {
        self.lock().answered_initialize
    }

    /// Returns what a legacy-only server answered to `server/discover`.
    pub(super) fn legacy_only(&self) -> Option<Vec<u8>> {
        self.lock().legacy_only.clone()
    }

    /// Returns how many legacy sessions are open.
    pub(super) fn count(&self) -> usize {
        let mut state = self.lock();
        state.drop_dead();
        state.legacy.values().filter(|session| session.started).count()
    }

    /// Ends everything.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        for session in state.legacy.drain() {
            session.1.link.stop();
        }
        for link in state.modern.drain() {
            link.1.stop();
        }
    }

    /// Ends what was not used for `idle` and is not busy.
    pub(super) fn sweep(&self, idle: Duration, now: Instant) {
        let stale = |link: &Link| !link.is_busy() && now.duration_since(link.last_used()) >= idle;
        let mut state = self.lock();
        state.drop_dead();
        state.legacy.retain(|_, session| !session.started || !stale(&session.link));
        state.modern.retain(|_, link| !stale(link));
    }

    /// Tells once that somebody should sweep.
    pub(super) fn wants_sweeper(&self) -> bool {
        !std::mem::replace(&mut self.lock().swept, true)
    }
}

impl State {
    fn drop_dead(&mut self) {
        self.legacy.retain(|_, session| !session.link.is_over());
        self.modern.retain(|_, link| !link.is_over());
    }

    fn evict_idlest(&mut self) -> Option<()> {
        let idle = |link: &Arc<Link>| (!link.is_busy()).then(|| link.last_used());
        let legacy = self
            .legacy
            .values()
            .filter(|session| session.started)
            .filter_map(|session| Some((idle(&session.link)?, session.id.clone())))
            .min();
        let modern = self
            .modern
            .iter()
            .filter_map(|(principal, link)| Some((idle(link)?, principal.clone())))
            .min_by_key(|(used, _)| *used);
        // Removing drops the link, which stops the child.
        match (legacy, modern) {
            (Some((a, id)), Some((b, _))) if a <= b => drop(self.legacy.remove(&id)),
            (_, Some((_, principal))) => drop(self.modern.remove(&principal)),
            (Some((_, id)), None) => drop(self.legacy.remove(&id)),
            (None, None) => return None,
        }
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
    /// Ends the opening well and returns the session's id.
    pub(super) fn done(mut self) -> String {
        let id = self.id.take().unwrap_or_default();
        let mut state = self.sessions.lock();
        state.answered_initialize = true;
        if let Some(session) = state.legacy.get_mut(&id) {
            session.started = true;
        }
        drop(state);
        id
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && let Some(session) = self.sessions.lock().legacy.remove(&id)
        {
            session.link.stop();
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
    use mcpm_shared::scope::Scope;
    use tokio::sync::mpsc;

    use super::super::child::Handle;
    use super::super::link::Ids;
    use super::*;
    use crate::mcp::message::Message;

    fn link() -> Arc<Link> {
        let (handle, exit) = Handle::fake("test");
        let scope = Scope::new();
        scope.spawn(async move {
            exit.closed().await;
        });
        Link::new(tokio::io::sink(), Silent, handle, Ids::Keep, 1000, &scope)
    }

    /// A stream on which nothing ever comes.
    struct Silent;

    impl tokio::io::AsyncRead for Silent {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Pending
        }
    }

    fn opened(sessions: &Arc<Sessions>, principal: &Principal) -> (String, Arc<Link>) {
        let link = link();
        (sessions.open(principal, link.clone()).done(), link)
    }

    #[tokio::test]
    async fn a_session_is_only_there_for_its_principal() {
        let sessions = Arc::new(Sessions::default());
        let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
        let (id, _link) = opened(&sessions, &ann);
        assert!(sessions.find(&id, &ann).is_some());
        assert!(sessions.find(&id, &bob).is_none());
        assert!(!sessions.end(&id, &bob));
        assert!(sessions.end(&id, &ann));
        assert!(sessions.find(&id, &ann).is_none());
    }

    #[tokio::test]
    async fn an_opening_that_is_given_up_leaves_nothing() {
        let sessions = Arc::new(Sessions::default());
        let link = link();
        drop(sessions.open(&Principal::Anonymous, link.clone()));
        assert!(link.is_over());
        assert_eq!(sessions.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_session_makes_room_and_busy_ones_stay() {
        let sessions = Arc::new(Sessions::default());
        let (first, busy) = opened(&sessions, &Principal::Anonymous);
        let (sink, _answer) = mpsc::channel(1);
        let request = Message::parse(r#"{"id":1,"method":"x"}"#).unwrap();
        let _claim = busy.begin(&request, sink).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let (second, _) = opened(&sessions, &Principal::Anonymous);
        sessions.make_room(2).unwrap();
        assert!(sessions.find(&first, &Principal::Anonymous).is_some());
        assert!(sessions.find(&second, &Principal::Anonymous).is_none());
        assert_eq!(sessions.make_room(1), Err(Full));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_sessions_are_swept() {
        let sessions = Arc::new(Sessions::default());
        let (id, _link) = opened(&sessions, &Principal::Anonymous);
        let idle = Duration::from_secs(600);
        tokio::time::advance(Duration::from_secs(599)).await;
        sessions.sweep(idle, Instant::now());
        assert!(sessions.find(&id, &Principal::Anonymous).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        sessions.sweep(idle, Instant::now());
        assert!(sessions.find(&id, &Principal::Anonymous).is_none());
    }

    #[test]
    fn session_ids_are_long_and_visible_ascii() {
        let id = mint();
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_ne!(id, mint());
    }
}
