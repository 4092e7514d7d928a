//! Whom a message of the server is for.

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::super::inbox::{Inbox, Packet};
use super::{Call, Purpose, Table};
use crate::mcp::era::Era;
use crate::mcp::message::{self, Edit, Incoming, Key, Kind, Message};

/// How many questions of a server are remembered with the request that they went with.
const MAX_ASKED: usize = 256;

/// What is to be done with a line from the server.
#[derive(Debug)]
pub(in crate::gateway) enum Arrival {
    /// Hand it to this reader.
    For(Inbox, Packet),
    /// Answer the server so.
    Answer(Vec<u8>),
    /// It belongs to nobody.
    Dropped(&'static str),
    /// It is no message.
    Noise,
}

impl Table {
    /// Decides over one line of the only stream there is.
    pub(in crate::gateway::link) fn arrive(&mut self, line: &[u8]) -> Arrival {
        // Requests go out one by one, so a batch answers nothing of ours.
        let Ok(Incoming::One(message)) = Incoming::parse(line) else { return Arrival::Noise };
        self.last_used = Instant::now();
        match (message.kind(), self.era) {
            (Kind::Response, _) => self.response(&message),
            (Kind::Notification, _) if message.method() == "notifications/progress" => {
                self.progress(&message)
            }
            (Kind::Notification, Era::Modern) => self.related(&message),
            (Kind::Notification, Era::Legacy) => self.told(&message),
            (Kind::Request, Era::Legacy) => self.asked(&message),
            (Kind::Request, Era::Modern) => {
                let id = message.id().map(RawValue::get);
                let text = "the modern era has no requests from servers";
                Arrival::Answer(message::error_response(id, message::METHOD_NOT_FOUND, text, None))
            }
        }
    }

    /// Decides over one message of one of several streams (Streamable HTTP); `via` is the request
    /// whose stream it is.
    pub(in crate::gateway) fn arrive_via(&mut self, text: &[u8], via: Option<&Key>) -> Arrival {
        let Ok(Incoming::One(message)) = Incoming::parse(text) else { return Arrival::Noise };
        self.last_used = Instant::now();
        match message.kind() {
            Kind::Response => self.answered(&message, via),
            Kind::Request if self.era == Era::Modern => {
                Arrival::Dropped("a request of a modern server")
            }
            Kind::Request if message.method() == "ping" => pong(&message),
            Kind::Notification if message.method() == "notifications/progress" => {
                let of = message.peek().progress_token.map(Key::of);
                match (of.filter(|of| self.calls.contains_key(of)), via) {
                    (Some(of), Some(via)) if of != *via => {
                        Arrival::Dropped("progress on the stream of another request")
                    }
                    _ => self.progress(&message),
                }
            }
            Kind::Request | Kind::Notification => {
                let owner = via.and_then(|key| Some((key, self.calls.get(key)?)));
                match owner.filter(|(_, call)| call.may_hear()) {
                    Some((key, call)) => {
                        let subscription = message.meta().subscription_id;
                        let ours = subscription.filter(|id| Key::of(id) == *key);
                        call.hand(&message, ours.map(|id| message.edit(id, &call.id)))
                    }
                    None => give(self.unasked(), &message),
                }
            }
        }
    }

    fn response(&mut self, message: &Message<'_>) -> Arrival {
        let Some(id) = message.id() else { return Arrival::Dropped("an answer without an id") };
        let Some(call) = self.calls.remove(&Key::of(id)) else {
            return Arrival::Dropped("an answer that nobody waits for");
        };
        let mut edits = vec![message.edit(id, &call.id)];
        if call.purpose == Purpose::Listening {
            let subscription = message.result_meta().subscription_id;
            edits.extend(subscription.map(|id| message.edit(id, &call.id)));
        }
        Arrival::For(call.sink, Packet { message: message.rewrite(edits).into(), last: true })
    }

    /// An error without an id that comes over the stream of a request answers that request.
    fn answered(&mut self, message: &Message<'_>, via: Option<&Key>) -> Arrival {
        let id = message.id();
        let known = id.is_some_and(|id| self.calls.contains_key(&Key::of(id)));
        let Some(via) = via.filter(|_| !known && message.error().is_some()) else {
            return self.response(message);
        };
        // Some servers name an id of their own in an error, such as `server-error`.
        if id.is_some_and(|id| matches!(Key::of(id), Key::Integer(_))) {
            return Arrival::Dropped("an answer that nobody waits for");
        }
        let Some(call) = self.calls.remove(via) else {
            return Arrival::Dropped("an answer that nobody waits for");
        };
        let error = message.error().map_or("null", RawValue::get);
        let text = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, call.id);
        Arrival::For(call.sink, Packet { message: text.into(), last: true })
    }

    fn progress(&self, message: &Message<'_>) -> Arrival {
        let Some(token) = message.peek().progress_token else {
            return Arrival::Dropped("progress without a token");
        };
        let call = self.calls.get(&Key::of(token));
        match call.and_then(|call| Some((call, call.token.as_ref()?))) {
            Some((call, theirs)) => call.hand(message, Some(message.edit(token, theirs))),
            None => Arrival::Dropped("progress of an unknown token"),
        }
    }

    /// A notification of a modern server says which subscription it belongs to, or it is about a
    /// request: about which one is clear only where one runs.
    fn related(&self, message: &Message<'_>) -> Arrival {
        if let Some(id) = message.meta().subscription_id {
            return match self.calls.get(&Key::of(id)) {
                Some(call) => call.hand(message, Some(message.edit(id, &call.id))),
                None => Arrival::Dropped("a notification of an unknown subscription"),
            };
        }
        match self.only_running().filter(|_| !is_change(message.method())) {
            Some(call) => call.hand(message, None),
            None => Arrival::Dropped("a notification that belongs to no request"),
        }
    }

    /// A log line that comes while one request runs is about that request. Of everything else it
    /// is not known, but one client alone shall hear it in the order it was said.
    fn told(&mut self, message: &Message<'_>) -> Arrival {
        let running = |table: &Self| table.only_running().map(|call| call.sink.clone());
        let sink = match message.method() {
            "notifications/cancelled" => self.of_question(message).or_else(|| self.latest()),
            "notifications/message" => running(self),
            method if self.sole && !is_change(method) => running(self),
            _ => None,
        };
        give(sink.or_else(|| self.unasked()), message)
    }

    /// A question goes with the latest request of the only client that has any. Where there is one
    /// stream for several clients nobody can tell whom it is for, and it is for one of them alone.
    fn asked(&mut self, message: &Message<'_>) -> Arrival {
        if message.method() == "ping" {
            return pong(message);
        }
        let Some(id) = message.id() else { return Arrival::Noise };
        let latest = self.running().max_by_key(|(_, call)| call.number);
        if let Some((_, latest)) = latest
            && self.running().any(|(_, call)| call.purpose != latest.purpose)
        {
            let text = "requests of several clients are in flight: it is not clear whom to ask";
            let answer =
                message::error_response(Some(id.get()), message::INTERNAL_ERROR, text, None);
            return Arrival::Answer(answer);
        }
        let latest = latest.map(|(key, call)| (key.clone(), call.sink.clone()));
        let sink = match latest {
            Some((key, sink)) => {
                if self.asked.len() >= MAX_ASKED {
                    self.asked.pop_front();
                }
                self.asked.push_back((Key::of(id), key));
                Some(sink)
            }
            None => self.unasked(),
        };
        give(sink, message)
    }

    /// Returns where a question went that the server takes back.
    fn of_question(&mut self, message: &Message<'_>) -> Option<Inbox> {
        let question = Key::of(message.peek().request_id?);
        let at = self.asked.iter().position(|(id, _)| *id == question)?;
        let (_, key) = self.asked.remove(at)?;
        self.calls.get(&key).map(|call| call.sink.clone()).filter(|sink| !sink.is_closed())
    }

    /// Returns the requests of clients that read what comes.
    fn running(&self) -> impl Iterator<Item = (&Key, &Call)> {
        let runs = |call: &Call| matches!(call.purpose, Purpose::Call(_)) && !call.sink.is_closed();
        self.calls.iter().filter(move |(_, call)| runs(call))
    }

    fn latest(&self) -> Option<Inbox> {
        self.running().max_by_key(|(_, call)| call.number).map(|(_, call)| call.sink.clone())
    }

    fn only_running(&self) -> Option<&Call> {
        let mut running = self.running();
        let (_, only) = running.next()?;
        running.next().is_none().then_some(only)
    }
}

impl Call {
    /// Tells whether anything but its answer can be for it.
    fn may_hear(&self) -> bool {
        matches!(self.purpose, Purpose::Call(_) | Purpose::Listening)
    }

    fn hand(&self, message: &Message<'_>, edit: Option<Edit>) -> Arrival {
        Arrival::For(self.sink.clone(), on_the_way(message, edit))
    }
}

fn give(sink: Option<Inbox>, message: &Message<'_>) -> Arrival {
    match sink {
        Some(sink) => Arrival::For(sink, on_the_way(message, None)),
        None => Arrival::Dropped("the conversation has ended"),
    }
}

/// Makes a packet that precedes the answer. It is a copy: a short message must not keep the whole
/// buffer that it was read into.
fn on_the_way(message: &Message<'_>, edit: Option<Edit>) -> Packet {
    Packet { message: message.rewrite(edit.into_iter().collect()).into(), last: false }
}

/// Tells whether a notification says that a list changed, which belongs to no request.
fn is_change(method: &str) -> bool {
    method.starts_with("notifications/") && method.ends_with("/list_changed")
}

fn pong(ping: &Message<'_>) -> Arrival {
    let id = ping.id().map_or("null", RawValue::get);
    Arrival::Answer(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into_bytes())
}

/// Returns the answer to a question of a server that nobody takes; `None` when it is no question.
pub(in crate::gateway) fn refusal(text: &[u8]) -> Option<Vec<u8>> {
    let Ok(Incoming::One(message)) = Incoming::parse(text) else { return None };
    let id = message.id().filter(|_| message.kind() == Kind::Request)?;
    let text = "the client does not read, so it cannot be asked";
    Some(message::error_response(Some(id.get()), message::INTERNAL_ERROR, text, None))
}
