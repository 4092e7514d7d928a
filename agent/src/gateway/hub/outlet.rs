//! What a client is told that belongs to no request of its own: a stream in the legacy era,
//! subscriptions in the modern one.
//!
//! Who says something never waits for the client. What it does not read is bounded in bytes; what
//! does not fit is handed back, for a question must not be lost without an answer.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::kinds::List;
use super::session::Session;
use crate::gateway::link::{Budget, Busy, Inbox, Packet, Receiver, queue, refusal};
use crate::mcp::bridge::SUBSCRIPTION_ID;
use crate::mcp::era::Era;
use crate::mcp::message::Message;
use crate::mcp::object::Object;

/// How many bytes wait for a stream that is not open.
const MAX_BACKLOG: usize = 1024 * 1024;
/// What a message takes besides its text.
const OVERHEAD: usize = 64;
/// How many messages are on their way to a stream that takes them out of a channel.
const AHEAD: usize = 32;
/// How many subscriptions one principal may hold.
const MAX_SUBSCRIBERS: usize = 64;

/// What a subscription of the modern era asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) lists: [bool; 4],
    pub(super) uris: HashSet<String>,
}

/// One open `subscriptions/listen`.
#[derive(Debug)]
struct Subscriber {
    number: u64,
    /// The id of the request, as the client wrote it.
    id: String,
    filter: Filter,
    inbox: Inbox,
}

/// The open stream of a legacy client.
#[derive(Debug)]
struct Listener {
    number: u64,
    inbox: Inbox,
    /// Where its reader passes all on to, if that tells when the client has left.
    to: Option<mpsc::WeakSender<Packet>>,
}

impl Listener {
    fn is_gone(&self) -> bool {
        let to = self.to.as_ref();
        to.is_some_and(|to| to.upgrade().is_none_or(|to| to.is_closed())) || self.inbox.is_closed()
    }
}

#[derive(Debug, Default)]
struct State {
    budget: Budget,
    listener: Option<Listener>,
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    subscribers: Vec<Subscriber>,
    next: u64,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Returns the open stream.
    fn listener(&mut self) -> Option<&Listener> {
        if self.listener.as_ref().is_some_and(Listener::is_gone) {
            self.unlisten(None);
        }
        self.listener.as_ref()
    }

    /// Keeps for the next stream what the last one did not read.
    fn unlisten(&mut self, first: Option<Packet>) {
        let Some(listener) = self.listener.take() else { return };
        for packet in listener.inbox.close().into_iter().rev().chain(first) {
            self.backlog_bytes += packet.message.len() + OVERHEAD;
            self.backlog.push_front(packet.message);
        }
    }

    /// Says something on the stream, or keeps it until one is open; returns what was lost by that.
    fn say(&mut self, message: Bytes) -> Vec<Bytes> {
        if let Some(listener) = self.listener() {
            let Err(full) = listener.inbox.push(Packet { message, last: false }) else {
                return Vec::new();
            };
            if full.first {
                tracing::warn!("a client does not read its stream, what does not fit is dropped");
            }
            return vec![full.packet.message];
        }
        self.backlog_bytes += message.len() + OVERHEAD;
        self.backlog.push_back(message);
        let mut lost = Vec::new();
        while self.backlog_bytes > MAX_BACKLOG
            && let Some(oldest) = self.backlog.pop_front()
        {
            self.backlog_bytes -= oldest.len() + OVERHEAD;
            lost.push(oldest);
        }
        lost
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outlet(Arc<Mutex<State>>);

impl Outlet {
    /// Opens the legacy stream; what waited for it comes first. `to` is where its reader will pass
    /// all on to, see [`Said::pass_to`].
    pub(super) fn listen(&self, to: Option<&mpsc::Sender<Packet>>) -> Result<Said, Busy> {
        let mut state = lock(&self.0);
        if state.listener().is_some() {
            return Err(Busy);
        }
        let (inbox, packets) = queue(&state.budget);
        state.backlog_bytes = 0;
        for message in std::mem::take(&mut state.backlog) {
            // It is what an inbox held, or less than one holds.
            drop(inbox.push(Packet { message, last: false }));
        }
        let number = state.number();
        let to = to.map(mpsc::Sender::downgrade);
        state.listener = Some(Listener { number, inbox, to });
        Ok(Said { outlet: Arc::downgrade(&self.0), number, packets, returned: None })
    }

    pub(super) fn is_open(&self) -> bool {
        let mut state = lock(&self.0);
        state.listener().is_some() || !state.subscribers.is_empty()
    }

    /// Says something on the legacy stream, or keeps it until one is open. Returns what is lost by
    /// that: it is the caller's to answer questions among them.
    #[must_use]
    fn say(&self, message: Bytes) -> Vec<Bytes> {
        lock(&self.0).say(message)
    }

    /// Says something that need not be said twice to a stream that opens later.
    #[must_use]
    fn say_once(&self, message: Bytes) -> Vec<Bytes> {
        let mut state = lock(&self.0);
        if state.listener().is_none() && state.backlog.contains(&message) {
            return Vec::new();
        }
        state.say(message)
    }

    /// Tells of a changed list those who subscribed to it.
    fn changed(&self, list: List, message: &Bytes) {
        let state = lock(&self.0);
        tell(state.subscribers.iter().filter(|s| s.filter.lists[list.at()]), message);
    }

    /// Tells subscribers that a resource changed; the legacy stream is the caller's to decide.
    pub(super) fn updated(&self, uri: &str, message: &Bytes) {
        let state = lock(&self.0);
        tell(state.subscribers.iter().filter(|s| s.filter.uris.contains(uri)), message);
    }

    /// Adds a subscription; returns its number and what it is told, or `None` when there are too
    /// many.
    pub(super) fn subscribe(&self, id: &str, filter: Filter) -> Option<(u64, Receiver)> {
        let mut state = lock(&self.0);
        if state.subscribers.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        let (inbox, packets) = queue(&state.budget);
        let number = state.number();
        state.subscribers.push(Subscriber { number, id: id.to_owned(), filter, inbox });
        Some((number, packets))
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&self, number: u64) {
        lock(&self.0).subscribers.retain(|subscriber| subscriber.number != number);
    }

    /// Returns every resource somebody here is subscribed to.
    pub(super) fn uris(&self) -> HashSet<String> {
        let state = lock(&self.0);
        state.subscribers.iter().flat_map(|s| s.filter.uris.iter().cloned()).collect()
    }
}

impl Session {
    /// Says something on the stream of a legacy client; the modern era has none.
    pub(super) fn say(&self, message: Bytes) {
        if self.era == Era::Legacy {
            self.refuse(self.outlet.say(message));
        }
    }

    /// Tells that a list changed.
    pub(super) fn say_changed(&self, list: List, message: &Bytes) {
        if self.era == Era::Legacy {
            self.refuse(self.outlet.say_once(message.clone()));
        }
        self.outlet.changed(list, message);
    }

    /// Answers the questions among what the client will never read.
    fn refuse(&self, lost: Vec<Bytes>) {
        for answer in lost.iter().filter_map(|message| refusal(message)) {
            let Ok(text) = std::str::from_utf8(&answer) else { continue };
            let Ok(answer) = Message::parse(text) else { continue };
            if let Some((conn, line)) = self.questions.answered(&answer) {
                self.lanes.send(self.hub.scope(), &conn, line);
            }
        }
    }

    /// Opens the stream for a reader that takes what is said out of a channel.
    ///
    /// # Errors
    /// One is open already.
    pub(in crate::gateway) fn stream(&self) -> Result<mpsc::Receiver<Packet>, Busy> {
        let (sink, receiver) = mpsc::channel(AHEAD);
        let said = self.outlet.listen(Some(&sink))?;
        let over = self.over();
        self.hub.scope().spawn_until_cancelled(async move {
            over.run_until_cancelled(said.pass_to(sink)).await;
        });
        Ok(receiver)
    }
}

/// The stream of a legacy client. Dropped, it leaves to the next one what was not read.
#[derive(Debug)]
pub(in crate::gateway) struct Said {
    outlet: Weak<Mutex<State>>,
    number: u64,
    packets: Receiver,
    /// What was taken and could not be passed on.
    returned: Option<Packet>,
}

impl Said {
    /// Returns what is said next; `None` at the end of the session. Cancel-safe.
    pub(in crate::gateway) async fn recv(&mut self) -> Option<Packet> {
        self.packets.recv().await
    }

    /// Passes on what is said, until its reader leaves or the session ends. Nobody else fills the
    /// channel.
    pub(super) async fn pass_to(mut self, sink: mpsc::Sender<Packet>) {
        // Nothing is taken before there is room for it.
        while let Ok(room) = sink.reserve().await {
            drop(room);
            let packet = tokio::select! {
                packet = self.packets.recv() => packet,
                () = sink.closed() => return,
            };
            let Some(packet) = packet else { return };
            if let Err(error) = sink.try_send(packet) {
                self.returned = Some(error.into_inner());
                return;
            }
        }
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        let Some(state) = self.outlet.upgrade() else { return };
        let mut state = lock(&state);
        let returned = self.returned.take();
        if state.listener.as_ref().is_some_and(|listener| listener.number == self.number) {
            state.unlisten(returned);
        } else if let Some(packet) = returned {
            // The next stream is open already.
            drop(state.say(packet.message));
        }
    }
}

/// Sends a notification marked with each subscription it is for (2026-07-28 §Subscriptions).
fn tell<'a>(subscribers: impl Iterator<Item = &'a Subscriber>, message: &Bytes) {
    for subscriber in subscribers {
        let Some(marked) = mark(message, &subscriber.id) else { continue };
        if let Err(full) = subscriber.inbox.push(Packet { message: marked, last: false })
            && full.first
        {
            tracing::warn!("a client does not read a subscription, what does not fit is dropped");
        }
    }
}

/// Writes the id of a subscription into a notification.
pub(super) fn mark(message: &[u8], id: &str) -> Option<Bytes> {
    let mut object = Object::parse(std::str::from_utf8(message).ok()?)?;
    let id = RawValue::from_string(id.to_owned()).ok()?;
    object.edit_in("params", |params| {
        params.edit_in("_meta", |meta| meta.set(SUBSCRIPTION_ID, id));
    });
    Some(object.to_string().into())
}

#[cfg(test)]
mod tests;
