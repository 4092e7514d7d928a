//! What a client is told that belongs to no request of its own: a stream in the legacy era,
//! subscriptions in the modern one.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::kinds::List;
use crate::gateway::link::{Busy, INBOX, Packet};
use crate::mcp::bridge::SUBSCRIPTION_ID;
use crate::mcp::object::Object;

/// How many messages wait for a stream that is not open, and how many bytes of them.
const MAX_BACKLOG: usize = INBOX;
const MAX_BACKLOG_BYTES: usize = 1024 * 1024;
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
    sink: mpsc::Sender<Packet>,
}

#[derive(Debug, Default)]
struct State {
    listener: Option<mpsc::Sender<Packet>>,
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    subscribers: Vec<Subscriber>,
    next: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outlet(Mutex<State>);

impl Outlet {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the legacy stream; what waited for it comes first.
    pub(super) fn listen(&self) -> Result<mpsc::Receiver<Packet>, Busy> {
        let mut state = self.state();
        if state.listener.as_ref().is_some_and(|listener| !listener.is_closed()) {
            return Err(Busy);
        }
        let (sink, receiver) = mpsc::channel(INBOX);
        state.backlog_bytes = 0;
        for message in std::mem::take(&mut state.backlog) {
            // The backlog is no longer than the channel.
            drop(sink.try_send(Packet { message, last: false }));
        }
        state.listener = Some(sink);
        Ok(receiver)
    }

    pub(super) fn is_open(&self) -> bool {
        let state = self.state();
        state.listener.as_ref().is_some_and(|listener| !listener.is_closed())
            || !state.subscribers.is_empty()
    }

    /// Says something on the legacy stream, or keeps it until one is open.
    pub(super) fn say(&self, message: Bytes) {
        let mut state = self.state();
        let open = state.listener.as_ref().filter(|listener| !listener.is_closed());
        if let Some(listener) = open {
            // A client that does not read loses notifications rather than hold up the server.
            if listener.try_send(Packet { message, last: false }).is_err() {
                tracing::debug!("a client does not read its stream");
            }
            return;
        }
        state.backlog_bytes += message.len();
        state.backlog.push_back(message);
        while state.backlog.len() > MAX_BACKLOG || state.backlog_bytes > MAX_BACKLOG_BYTES {
            let Some(oldest) = state.backlog.pop_front() else { break };
            state.backlog_bytes -= oldest.len();
        }
    }

    /// Tells of a changed list: on the stream if it is open, and to those who subscribed to it. It
    /// is not kept: who opens a stream later asks for the list anyway.
    pub(super) fn changed(&self, list: List, message: &Bytes) {
        let state = self.state();
        if let Some(listener) = &state.listener {
            drop(listener.try_send(Packet { message: message.clone(), last: false }));
        }
        tell(state.subscribers.iter().filter(|s| s.filter.lists[list.at()]), message);
    }

    /// Tells subscribers that a resource changed; the legacy stream is the caller's to decide.
    pub(super) fn updated(&self, uri: &str, message: &Bytes) {
        let state = self.state();
        tell(state.subscribers.iter().filter(|s| s.filter.uris.contains(uri)), message);
    }

    /// Adds a subscription; returns its number, or `None` when there are too many.
    pub(super) fn subscribe(
        &self,
        id: &str,
        filter: Filter,
        sink: mpsc::Sender<Packet>,
    ) -> Option<u64> {
        let mut state = self.state();
        state.subscribers.retain(|subscriber| !subscriber.sink.is_closed());
        if state.subscribers.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        state.next += 1;
        let number = state.next;
        state.subscribers.push(Subscriber { number, id: id.to_owned(), filter, sink });
        Some(number)
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&self, number: u64) {
        self.state().subscribers.retain(|subscriber| subscriber.number != number);
    }

    /// Returns every resource somebody here is subscribed to.
    pub(super) fn uris(&self) -> HashSet<String> {
        let state = self.state();
        state.subscribers.iter().flat_map(|s| s.filter.uris.iter().cloned()).collect()
    }
}

/// Sends a notification marked with each subscription it is for (2026-07-28 §Subscriptions).
fn tell<'a>(subscribers: impl Iterator<Item = &'a Subscriber>, message: &Bytes) {
    for subscriber in subscribers {
        let Some(marked) = mark(message, &subscriber.id) else { continue };
        drop(subscriber.sink.try_send(Packet { message: marked, last: false }));
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
