//! One client in front of a hub: a legacy session, or the modern requests of one principal.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use mcpm_shared::access::Principal;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::drive::{self, Drive};
use super::kinds::List;
use super::lanes::Lanes;
use super::ledger::Ledger;
use super::member::{Isolation, Member, SlotKey, Unavailable};
use super::outlet::{Outlet, Said};
use super::questions::Questions;
use super::{Hub, filter, lists};
use crate::gateway::http::Params;
use crate::gateway::link::{Busy, Packet, Refusal};
use crate::gateway::upstream::{Conn, Opening};
use crate::mcp::era::{Era, LATEST_LEGACY};
use crate::mcp::message::{Key, Kind, Message};

/// How many requests of one client may be in flight.
const MAX_CALLS: usize = 1024;
/// How many resources one client may subscribe to.
const MAX_SUBSCRIPTIONS: usize = 1024;
/// What we declare to servers that several clients share: whatever a client of ours may be able to
/// do. Who cannot, has it declined for him.
const SHARED_CAPABILITIES: &str =
    r#"{"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},"roots":{}}"#;

/// Which servers a client sees.
#[derive(Debug)]
pub(in crate::gateway) struct View {
    pub(super) members: Vec<Arc<Member>>,
    /// Whether names carry their server's.
    pub(super) prefixed: bool,
    /// The lists that its clients got last.
    pub(super) merged: super::merged::Merged,
    /// What its tools want to be mirrored in headers: the same name may be another tool elsewhere.
    pub(in crate::gateway) params: Arc<Params>,
}

impl View {
    /// Returns the one server of a view without prefixes.
    pub(super) fn single(&self) -> Option<&Arc<Member>> {
        self.members.first().filter(|_| !self.prefixed)
    }

    pub(super) fn has(&self, index: usize) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| member.index == index)
    }
}

/// What a legacy client said of itself.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) info: String,
    pub(super) capabilities: String,
    pub(super) version: String,
    /// All it said, as it wrote it.
    pub(super) params: Option<String>,
}

impl Client {
    /// What we say of ourselves to servers.
    pub(super) fn ourselves() -> Self {
        Self {
            info: super::our_info(),
            capabilities: "{}".to_owned(),
            version: LATEST_LEGACY.to_owned(),
            params: None,
        }
    }

    /// Returns what a server is told of a client of this era.
    pub(super) fn opening(self, era: Era) -> Opening {
        let Self { info, capabilities, version, params } = self;
        Opening { client_info: info, capabilities, version, era, params, sole: false }
    }
}

/// A request in flight.
#[derive(Clone, Debug)]
struct Running {
    cancel: CancellationToken,
    taken_back: TakenBack,
}

/// Where it is noted how a client took a request back: its `notifications/cancelled`.
pub(super) type TakenBack = Arc<OnceLock<String>>;

/// One client. Dropping the last hold ends its conversations.
#[derive(Debug)]
pub(in crate::gateway) struct Session {
    pub(super) hub: Arc<Hub>,
    pub(super) number: u64,
    pub(super) era: Era,
    pub(super) principal: Principal,
    pub(super) view: Arc<View>,
    pub(super) client: Client,
    /// Whether ids of its requests are unique.
    pub(super) unique: bool,
    /// Where its calls are noted.
    pub(super) usage: Option<Ledger>,
    pub(super) outlet: Outlet,
    pub(super) questions: Questions,
    pub(super) lanes: Lanes,
    level: Mutex<Option<String>>,
    subscribed: Mutex<HashSet<String>>,
    calls: Mutex<HashMap<Key, Running>>,
    /// How many requests are in flight, and who waits until there is none.
    flying: AtomicUsize,
    landed: Notify,
    used: Mutex<Instant>,
    over: CancellationToken,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Session {
    pub(super) fn new(
        hub: Arc<Hub>,
        number: u64,
        era: Era,
        principal: Principal,
        view: Arc<View>,
        client: Client,
        unique: bool,
    ) -> Self {
        let usage = Ledger::of(&hub.options, era, &client.info);
        Self {
            usage,
            hub,
            number,
            era,
            principal,
            view,
            client,
            unique,
            outlet: Outlet::default(),
            questions: Questions::default(),
            lanes: Lanes::default(),
            level: Mutex::default(),
            subscribed: Mutex::default(),
            calls: Mutex::default(),
            flying: AtomicUsize::new(0),
            landed: Notify::new(),
            used: Mutex::new(Instant::now()),
            over: CancellationToken::new(),
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Begins a request: its packets come to `sink`, in order, the last one answers. Dropping what
    /// this returns gives the request up.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    pub(in crate::gateway) fn begin(
        self: &Arc<Self>,
        message: &Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> Result<DropGuard, Refusal> {
        self.touch();
        let Some(id) = message.id() else { unreachable!("a request has an id") };
        let key = Key::of(id);
        let cancel = self.over.child_token();
        let taken_back = TakenBack::default();
        // A subscription waits for nothing in particular, and the outlet counts those.
        let listens = message.method() == "subscriptions/listen";
        {
            let mut calls = self.calls();
            if self.over.is_cancelled() {
                return Err(Refusal::Gone);
            }
            if self.flying.load(Ordering::Acquire) >= MAX_CALLS {
                return Err(Refusal::TooMany);
            }
            if self.unique {
                if calls.contains_key(&key) {
                    return Err(Refusal::Duplicate);
                }
                let running = Running { cancel: cancel.clone(), taken_back: taken_back.clone() };
                calls.insert(key.clone(), running);
            }
            if !listens {
                self.flying.fetch_add(1, Ordering::AcqRel);
            }
        }
        let text = Bytes::copy_from_slice(message.text().as_bytes());
        let (session, stop) = (self.clone(), cancel.clone());
        let mut call = Box::pin(async move {
            let drive = Drive {
                key: session.unique.then(|| key.clone()),
                ..Drive::new(&session, &text, &sink, taken_back.clone())
            };
            stop.run_until_cancelled(drive::run(drive)).await;
            session.finished(&key, &taken_back);
            if !listens {
                session.land();
            }
            session.touch();
        });
        // Where its server runs the request is on the wire after the first step: requests go out
        // in the order of their arrival.
        let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
        // The budget of whoever reads requests must not decide over their order.
        let first = pin!(tokio::task::coop::unconstrained(call.as_mut())).poll(&mut nobody);
        if first.is_pending() {
            self.hub.scope().spawn_until_cancelled(call);
        }
        Ok(cancel.drop_guard())
    }

    /// Answers a request for which nobody has to be asked, without beginning it.
    pub(in crate::gateway) fn at_once(self: &Arc<Self>, request: &Message<'_>) -> Option<Bytes> {
        let list = List::of_method(request.method())?;
        if self.is_over() || filter::is_shady(self, request) {
            return None;
        }
        let result = lists::at_once(self, request, list)?;
        if let Some(ledger) = &self.usage {
            ledger.saw(self, request);
        }
        self.touch();
        Some(drive::result(request, &result))
    }

    /// Takes a notification or a response of the client.
    pub(in crate::gateway) async fn tell(self: &Arc<Self>, message: &Message<'_>) {
        self.touch();
        // No server is started for a client that has gone.
        if self.over.is_cancelled() {
            return;
        }
        if filter::is_shady(self, message) {
            return tracing::debug!(method = message.method(), "a message is dropped");
        }
        match message.kind() {
            Kind::Response => {
                if let Some((conn, line)) = self.questions.answered(message) {
                    self.deliver(&conn, line).await;
                }
            }
            Kind::Notification => self.told(message).await,
            Kind::Request => {}
        }
    }

    async fn told(self: &Arc<Self>, message: &Message<'_>) {
        match message.method() {
            "notifications/cancelled" => {
                if let Some(id) = message.peek().request_id {
                    self.taken_back(&Key::of(id), message);
                }
            }
            // Conversations with servers are opened by us.
            "notifications/initialized" => {}
            "notifications/roots/list_changed" => self.pass_on(message, &self.view.members).await,
            _ => match self.view.single() {
                Some(only) => {
                    // What is not understood may matter to the server, so it is started for it.
                    let slot = only.slot(self.slot_key(only));
                    let started = slot.conn(&self.hub, only, || self.opening(&slot.key())).await;
                    drop(started.inspect_err(Unavailable::log));
                    self.pass_on(message, std::slice::from_ref(only)).await;
                }
                None => match self.questions.of_progress(message) {
                    Some(conn) => {
                        let line = Bytes::copy_from_slice(message.text().as_bytes());
                        self.deliver(&conn, line).await;
                    }
                    None => tracing::debug!(method = message.method(), "notification dropped"),
                },
            },
        }
    }

    async fn pass_on(&self, message: &Message<'_>, members: &[Arc<Member>]) {
        for member in members {
            if let Some(conn) = member.slot(self.slot_key(member)).current()
                && conn.facts().era == self.era
            {
                let line = Bytes::copy_from_slice(message.text().as_bytes());
                self.deliver(&conn, line).await;
            }
        }
    }

    /// Sends a server what is no request. A client of one server waits until that reads; one of
    /// several must not wait for one of them.
    async fn deliver(&self, conn: &Arc<Conn>, line: Bytes) {
        if self.view.single().is_some() {
            drop(conn.notify(line).await);
        } else {
            self.lanes.send(self.hub.scope(), conn, line);
        }
    }

    /// Gives up questions that the client leaves without an answer.
    pub(super) fn tidy(&self, now: Instant) {
        for (conn, line) in self.questions.tidy(now) {
            self.lanes.send(self.hub.scope(), &conn, line);
        }
    }

    /// Forgets a request, by its id and what is its alone: the id may be another one's by now.
    pub(super) fn finished(&self, id: &Key, its: &TakenBack) {
        let mut calls = self.calls();
        if calls.get(id).is_some_and(|running| Arc::ptr_eq(&running.taken_back, its)) {
            calls.remove(id);
        }
    }

    /// Gives up the request with this id, which its client takes back.
    fn taken_back(&self, id: &Key, notice: &Message<'_>) {
        if let Some(running) = self.calls().remove(id) {
            drop(running.taken_back.set(notice.text().to_owned()));
            running.cancel.cancel();
        }
    }

    /// Opens the stream of what belongs to no request.
    ///
    /// # Errors
    /// One is open already.
    pub(in crate::gateway) fn listen(&self) -> Result<Said, Busy> {
        self.touch();
        self.outlet.listen(None)
    }

    pub(in crate::gateway) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    pub(in crate::gateway) fn is_busy(&self) -> bool {
        self.flying.load(Ordering::Acquire) > 0 || self.outlet.is_open()
    }

    /// Waits until no request is in flight.
    pub(super) async fn idle(&self) {
        loop {
            // Before the look: what lands between the two is told of.
            let landed = self.landed.notified();
            if self.flying.load(Ordering::Acquire) == 0 {
                return;
            }
            landed.await;
        }
    }

    /// Counts a request that is in flight no longer.
    fn land(&self) {
        if self.flying.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.landed.notify_waiters();
        }
    }

    /// Returns what is cancelled at the end of the session.
    pub(super) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    pub(in crate::gateway) fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session and its own conversations.
    pub(in crate::gateway) fn stop(&self) {
        self.leave();
    }

    fn leave(&self) {
        self.over.cancel();
        self.hub.forget(self.number, &self.view);
        let uris: Vec<String> = std::mem::take(&mut *self.subscribed()).into_iter().collect();
        self.hub.release(self, &uris);
    }

    /// Returns which conversation with a server is this client's.
    pub(super) fn slot_key(&self, member: &Member) -> SlotKey {
        match (member.isolation, self.era) {
            (Isolation::Shared, era) => {
                // There is one process, whatever else it could speak.
                let living = member.shared_era();
                let era = living.or_else(|| member.known().hop(era)).unwrap_or(era);
                SlotKey::Shared(era)
            }
            (Isolation::Session, Era::Legacy) => SlotKey::Session(self.number),
            (Isolation::Session, Era::Modern) | (Isolation::Principal, _) => {
                SlotKey::Principal(self.principal.clone(), self.era)
            }
        }
    }

    /// Tells whether a conversation is (also) this client's.
    pub(super) fn is_served_by(&self, key: &SlotKey, member: &Member) -> bool {
        match key {
            SlotKey::Shared(_) => self.slot_key(member) == *key,
            SlotKey::Principal(principal, era) => *principal == self.principal && *era == self.era,
            SlotKey::Session(number) => *number == self.number,
        }
    }

    /// Returns what a server is told when its conversation opens for this client.
    pub(super) fn opening(&self, key: &SlotKey) -> Opening {
        let client = match key {
            SlotKey::Session(_) => self.client.clone(),
            SlotKey::Shared(_) | SlotKey::Principal(..) => shared_client(),
        };
        Opening { sole: matches!(key, SlotKey::Session(_)), ..client.opening(self.era) }
    }

    /// Notes the level of log messages the client asked for.
    pub(super) fn set_level(&self, level: &str) {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = Some(level.to_owned());
    }

    pub(super) fn level(&self) -> Option<String> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a subscription; `false` when there are too many.
    pub(super) fn subscribe(&self, uri: &str) -> bool {
        let mut subscribed = self.subscribed();
        if subscribed.len() >= MAX_SUBSCRIPTIONS && !subscribed.contains(uri) {
            return false;
        }
        subscribed.insert(uri.to_owned());
        true
    }

    /// Tells the client that a list changed.
    pub(super) fn tell_changed(&self, list: List) {
        let method = list.changed();
        let text = format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#);
        self.say_changed(list, &text.into());
    }
}

/// What servers are told that several clients share.
pub(super) fn shared_client() -> Client {
    Client { capabilities: SHARED_CAPABILITIES.to_owned(), ..Client::ourselves() }
}

/// Returns the JSON text of a string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Makes the text of a raw value of ours.
pub(super) fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).expect("what we write is JSON")
}
