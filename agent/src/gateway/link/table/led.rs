//! What a legacy server says to somebody who leads the conversation for several clients, and what
//! comes over one of several streams (Streamable HTTP).

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{Arrival, Call, Ids, Packet, Table};
use crate::mcp::message::{self, Incoming, Key, Kind, Message};

/// How many questions of a server are remembered with the request that they went with.
const MAX_ASKED: usize = 256;

impl Table {
    /// Makes the conversation one of the modern era, which a probe has shown.
    pub(in crate::gateway) fn turn_modern(&mut self) {
        self.ids = Ids::Remap;
    }

    /// Tells how ids are treated, and whether somebody leads for several clients.
    pub(in crate::gateway) fn manner(&self) -> (Ids, bool) {
        (self.ids, self.led)
    }

    /// Returns how many requests are in flight.
    pub(in crate::gateway) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// A log line that comes while one request runs is about that request; of everything else it
    /// is not known.
    pub(super) fn told(&mut self, message: &Message<'_>, line: &Bytes) -> Arrival {
        let sink = match message.method() {
            "notifications/cancelled" => self.of_question(message).or_else(|| self.latest()),
            "notifications/message" => self.only_running(),
            _ => None,
        };
        let sink = sink.or_else(|| self.open_listener());
        self.give(sink, line)
    }

    /// A question goes with the latest request, the best guess where there is one stream for all.
    pub(super) fn asked(&mut self, message: &Message<'_>, line: &Bytes) -> Arrival {
        let Some(id) = message.id() else { return Arrival::Noise };
        if message.method() == "ping" {
            return Arrival::Answer(pong(id));
        }
        let latest = self.running().max_by_key(|call| call.1.order).map(|(key, _)| key.clone());
        let sink = match latest {
            Some(key) => {
                if self.asked.len() >= MAX_ASKED {
                    self.asked.pop_front();
                }
                self.asked.push_back((Key::of(id), key.clone()));
                self.calls.get(&key).map(|call| call.sink.clone())
            }
            None => self.open_listener(),
        };
        self.give(sink, line)
    }

    /// Decides over one message of a stream; `via` is the request whose stream it is.
    pub(in crate::gateway) fn arrive_via(&mut self, line: &Bytes, via: Option<&Key>) -> Arrival {
        let Ok(Incoming::One(message)) = Incoming::parse(line) else { return Arrival::Noise };
        self.last_used = tokio::time::Instant::now();
        let owner = via.and_then(|key| self.calls.get(key).map(|call| (key, call)));
        match message.kind() {
            Kind::Response => self.answered(&message, via, line),
            Kind::Request if self.ids == Ids::Remap => {
                Arrival::Dropped("a request of a modern server")
            }
            Kind::Request if message.method() == "ping" => match message.id() {
                Some(id) => Arrival::Answer(pong(id)),
                None => Arrival::Noise,
            },
            Kind::Notification if message.method() == "notifications/progress" => {
                let token = message.peek().progress_token.map(Key::of);
                let of = token.and_then(|token| self.tokens.get(&token));
                match (of, via) {
                    (Some(of), Some(via)) if of != via => {
                        Arrival::Dropped("progress on the stream of another request")
                    }
                    _ => self.progress(&message, line),
                }
            }
            Kind::Request | Kind::Notification => match owner {
                Some((key, call)) if !call.opens => {
                    let subscription = message.meta().subscription_id;
                    let ours = subscription.filter(|id| Key::of(id) == *key);
                    let edit = ours.map(|id| message.edit(id, &call.id));
                    self.hand(&call.sink, &message, line, edit)
                }
                _ => {
                    let listener = self.open_listener();
                    self.give(listener, line)
                }
            },
        }
    }

    /// An error without an id that comes over the stream of a request answers that request.
    fn answered(&mut self, message: &Message<'_>, via: Option<&Key>, line: &Bytes) -> Arrival {
        let id = message.id();
        let known = id.is_some_and(|id| self.calls.contains_key(&Key::of(id)));
        let Some(via) = via.filter(|_| !known && message.error().is_some()) else {
            return self.response(message, line);
        };
        // Some servers name an id of their own in an error, such as `server-error`.
        if id.is_some_and(|id| matches!(Key::of(id), Key::Integer(_))) {
            return Arrival::Dropped("an answer that nobody waits for");
        }
        let Some(call) = self.remove(via) else {
            return Arrival::Dropped("an answer that nobody waits for");
        };
        let error = message.error().map_or("null", RawValue::get);
        let text = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, call.id);
        Arrival::For(call.sink, Packet { message: text.into(), last: true })
    }

    /// Tells whether a request waits for its answer.
    pub(in crate::gateway) fn waits(&self, key: &Key) -> bool {
        self.calls.contains_key(key)
    }

    /// Forgets a request; returns whether it was waiting.
    pub(in crate::gateway) fn forget(&mut self, key: &Key) -> bool {
        self.remove(key).is_some()
    }

    /// Takes no more requests; those in flight are answered by whoever runs them.
    pub(in crate::gateway) fn shut(&mut self) {
        self.closed = true;
        self.listener = None;
    }

    /// Tells whether a request is in flight that is no subscription.
    pub(in crate::gateway) fn is_working(&self) -> bool {
        self.live().any(|call| !call.listens)
    }

    fn of_question(&mut self, message: &Message<'_>) -> Option<mpsc::Sender<Packet>> {
        let question = Key::of(message.peek().request_id?);
        let at = self.asked.iter().position(|(id, _)| *id == question)?;
        let (_, key) = self.asked.remove(at)?;
        self.calls.get(&key).map(|call| call.sink.clone()).filter(|sink| !sink.is_closed())
    }

    fn running(&self) -> impl Iterator<Item = (&Key, &Call)> {
        self.calls.iter().filter(|(_, call)| !call.opens && !call.sink.is_closed())
    }

    fn latest(&self) -> Option<mpsc::Sender<Packet>> {
        self.running().max_by_key(|(_, call)| call.order).map(|(_, call)| call.sink.clone())
    }

    fn only_running(&self) -> Option<mpsc::Sender<Packet>> {
        let mut running = self.running();
        let (_, only) = running.next()?;
        running.next().is_none().then(|| only.sink.clone())
    }
}

fn pong(id: &RawValue) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.get()).into_bytes()
}

/// Returns the line that tells a server to stop working on a request.
pub(in crate::gateway) fn cancellation(key: &Key) -> Option<Bytes> {
    match key {
        Key::Integer(ours) => Some(super::cancellation(*ours).into()),
        _ => None,
    }
}

/// Returns the answer to a request that failed on its way.
pub(in crate::gateway) fn failure(id: &str, text: &str, reason: &str) -> Packet {
    let data = serde_json::json!({ "reason": reason });
    let message = message::error_response(Some(id), message::INTERNAL_ERROR, text, Some(&data));
    Packet { message: message.into(), last: true }
}
