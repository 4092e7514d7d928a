//! Who waits for what: the decisions of a link, without any waiting.

mod led;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(in crate::gateway) use self::led::{cancellation as cancellation_of, failure};
use super::INBOX;
use crate::mcp::message::{self, Edit, Incoming, Key, Kind, Message};

/// How many requests may be in flight with one server.
const MAX_CALLS: usize = 1024;
/// How many messages wait for a stream that is not open, and how many bytes of them.
const MAX_BACKLOG: usize = INBOX;
const MAX_BACKLOG_BYTES: usize = 1024 * 1024;

/// What happens to the ids of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Ids {
    /// They pass as they are: one client owns the server.
    Keep,
    /// Each gets one of ours: several clients share a server of the modern era.
    Remap,
    /// Each gets one of ours, in a legacy conversation that somebody leads for several clients.
    Renumber,
}

/// One message on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Packet {
    pub(in crate::gateway) message: Bytes,
    /// Whether it answers the request; nothing of that request follows.
    pub(in crate::gateway) last: bool,
}

/// Why a request cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::gateway) enum Refusal {
    /// Another request with this id is in flight.
    #[error("a request with this id is in flight")]
    Duplicate,
    /// There are too many.
    #[error("too many requests are in flight")]
    TooMany,
    /// The server is gone.
    #[error("the server is gone")]
    Gone,
}

/// A stream of unsolicited messages is open already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another stream of this session is open")]
pub(in crate::gateway) struct Busy;

/// What is to be done with a line from the server.
#[derive(Debug)]
pub(in crate::gateway) enum Arrival {
    /// Hand it to this reader.
    For(mpsc::Sender<Packet>, Packet),
    /// Answer the server so.
    Answer(Vec<u8>),
    /// It waits for a stream to be opened.
    Kept,
    /// It belongs to nobody.
    Dropped(&'static str),
    /// It is no message.
    Noise,
}

#[derive(Debug)]
struct Call {
    /// The id as the client wrote it.
    id: String,
    /// The progress token as the client wrote it.
    token: Option<(Key, String)>,
    order: u64,
    listens: bool,
    /// It opens the conversation: never cancelled, and nothing else belongs to it.
    opens: bool,
    sink: mpsc::Sender<Packet>,
}

/// The requests in flight with one server, and the stream for everything else.
#[derive(Debug)]
pub(in crate::gateway) struct Table {
    ids: Ids,
    /// Whether somebody leads the conversation for several clients.
    led: bool,
    next: u64,
    calls: HashMap<Key, Call>,
    tokens: HashMap<Key, Key>,
    /// Which request a question of the server went with; only where somebody leads.
    asked: VecDeque<(Key, Key)>,
    listener: Option<mpsc::Sender<Packet>>,
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    last_used: Instant,
    closed: bool,
}

impl Table {
    pub(in crate::gateway) fn new(ids: Ids) -> Self {
        Self {
            ids,
            led: ids == Ids::Renumber,
            next: 0,
            calls: HashMap::new(),
            tokens: HashMap::new(),
            asked: VecDeque::new(),
            listener: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            last_used: Instant::now(),
            closed: false,
        }
    }

    /// Registers a request; returns its key and the line for the server.
    pub(in crate::gateway) fn begin(
        &mut self,
        request: &Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> Result<(Key, Bytes), Refusal> {
        if self.closed {
            return Err(Refusal::Gone);
        }
        if self.calls.len() >= MAX_CALLS {
            return Err(Refusal::TooMany);
        }
        let Some(id) = request.id() else { unreachable!("a request has an id") };
        let token = request.meta().progress_token;
        self.next += 1;
        let order = self.next;
        let (key, token_key, line) = match self.ids {
            Ids::Keep => (Key::of(id), token.map(Key::of), request.text().as_bytes().to_vec()),
            Ids::Remap | Ids::Renumber => {
                let ours = order.to_string();
                let mut edits = vec![request.edit(id, &ours)];
                edits.extend(token.map(|token| request.edit(token, &ours)));
                let key = Key::Integer(order.into());
                (key.clone(), token.map(|_| key), request.rewrite(edits))
            }
        };
        if self.calls.contains_key(&key) {
            return Err(Refusal::Duplicate);
        }
        if let Some(token) = &token_key {
            self.tokens.insert(token.clone(), key.clone());
        }
        let token = token_key.zip(token.map(|token| token.get().to_owned()));
        let listens = request.method() == "subscriptions/listen";
        let opens = matches!(request.method(), "initialize" | "server/discover");
        let call = Call { id: id.get().to_owned(), token, order, listens, opens, sink };
        self.calls.insert(key.clone(), call);
        self.last_used = Instant::now();
        Ok((key, on_one_line(line)))
    }

    /// Decides over one line from the server.
    pub(super) fn arrive(&mut self, line: &Bytes) -> Arrival {
        self.last_used = Instant::now();
        // Requests go out one by one, so a batch answers nothing of ours.
        let Ok(Incoming::One(message)) = Incoming::parse(line) else { return Arrival::Noise };
        match (message.kind(), self.ids) {
            (Kind::Response, _) => self.response(&message, line),
            (Kind::Notification, _) if message.method() == "notifications/progress" => {
                self.progress(&message, line)
            }
            (Kind::Notification, Ids::Keep) => self.unsolicited(&message, line),
            (Kind::Notification, Ids::Remap) => self.related(&message, line),
            (Kind::Notification, Ids::Renumber) => self.told(&message, line),
            (Kind::Request, Ids::Keep) => self.question(line),
            (Kind::Request, Ids::Renumber) => self.asked(&message, line),
            (Kind::Request, Ids::Remap) => {
                let id = message.id().map(RawValue::get);
                let text = "the modern era has no requests from servers";
                Arrival::Answer(message::error_response(id, message::METHOD_NOT_FOUND, text, None))
            }
        }
    }

    fn response(&mut self, message: &Message<'_>, line: &Bytes) -> Arrival {
        let Some(id) = message.id() else { return Arrival::Dropped("an answer without an id") };
        let Some(call) = self.remove(&Key::of(id)) else {
            return Arrival::Dropped("an answer that nobody waits for");
        };
        let message = match self.ids {
            Ids::Keep => line.clone(),
            Ids::Remap | Ids::Renumber => {
                let mut edits = vec![message.edit(id, &call.id)];
                if call.listens {
                    let subscription = message.result_meta().subscription_id;
                    edits.extend(subscription.map(|id| message.edit(id, &call.id)));
                }
                message.rewrite(edits).into()
            }
        };
        Arrival::For(call.sink, Packet { message, last: true })
    }

    fn progress(&self, message: &Message<'_>, line: &Bytes) -> Arrival {
        let Some(token) = message.peek().progress_token else {
            return Arrival::Dropped("progress without a token");
        };
        let call = self.tokens.get(&Key::of(token)).and_then(|key| self.calls.get(key));
        let Some(call) = call else { return Arrival::Dropped("progress of an unknown token") };
        let edit = call.token.as_ref().map(|(_, theirs)| message.edit(token, theirs));
        self.hand(&call.sink, message, line, edit)
    }

    /// A notification of a shared server must say which request it belongs to.
    fn related(&self, message: &Message<'_>, line: &Bytes) -> Arrival {
        if let Some(id) = message.meta().subscription_id {
            return match self.calls.get(&Key::of(id)) {
                Some(call) => {
                    self.hand(&call.sink, message, line, Some(message.edit(id, &call.id)))
                }
                None => Arrival::Dropped("a notification of an unknown subscription"),
            };
        }
        match self.only_call() {
            Some(call) if !call.listens => self.hand(&call.sink, message, line, None),
            _ => Arrival::Dropped("a notification that belongs to no request"),
        }
    }

    fn hand(
        &self,
        sink: &mpsc::Sender<Packet>,
        message: &Message<'_>,
        line: &Bytes,
        edit: Option<Edit>,
    ) -> Arrival {
        let message = match edit.filter(|_| self.ids != Ids::Keep) {
            Some(edit) => message.rewrite(vec![edit]).into(),
            None => line.clone(),
        };
        Arrival::For(sink.clone(), Packet { message, last: false })
    }

    fn unsolicited(&mut self, message: &Message<'_>, line: &Bytes) -> Arrival {
        if message.method() == "notifications/cancelled" {
            return self.question(line);
        }
        let only = self.only_call().map(|call| call.sink.clone());
        // A log line that comes while one request runs is about that request.
        let sink = if message.method() == "notifications/message" {
            only.or_else(|| self.open_listener())
        } else {
            self.open_listener().or(only)
        };
        self.give(sink, line)
    }

    /// A question belongs to the request that runs; the latest is the best guess over stdio.
    fn question(&mut self, line: &Bytes) -> Arrival {
        let latest = self.live().max_by_key(|call| call.order).map(|call| call.sink.clone());
        let sink = latest.or_else(|| self.open_listener());
        self.give(sink, line)
    }

    fn give(&mut self, sink: Option<mpsc::Sender<Packet>>, line: &Bytes) -> Arrival {
        if let Some(sink) = sink {
            return Arrival::For(sink, Packet { message: line.clone(), last: false });
        }
        self.backlog_bytes += line.len();
        self.backlog.push_back(line.clone());
        while self.backlog.len() > MAX_BACKLOG || self.backlog_bytes > MAX_BACKLOG_BYTES {
            let Some(oldest) = self.backlog.pop_front() else { break };
            self.backlog_bytes -= oldest.len();
        }
        Arrival::Kept
    }

    fn live(&self) -> impl Iterator<Item = &Call> {
        self.calls.values().filter(|call| !call.sink.is_closed())
    }

    fn only_call(&self) -> Option<&Call> {
        let mut live = self.live();
        live.next().filter(|_| live.next().is_none())
    }

    fn open_listener(&self) -> Option<mpsc::Sender<Packet>> {
        self.listener.clone().filter(|listener| !listener.is_closed())
    }

    /// Opens the stream for what belongs to no request; what waited for it comes first.
    pub(in crate::gateway) fn listen(&mut self) -> Result<mpsc::Receiver<Packet>, Busy> {
        if self.open_listener().is_some() {
            return Err(Busy);
        }
        let (sink, receiver) = mpsc::channel(INBOX);
        self.backlog_bytes = 0;
        for message in self.backlog.drain(..) {
            // The backlog is no longer than the channel.
            drop(sink.try_send(Packet { message, last: false }));
        }
        if !self.closed {
            self.listener = Some(sink);
        }
        self.last_used = Instant::now();
        Ok(receiver)
    }

    /// Forgets a request.
    pub(super) fn remove(&mut self, key: &Key) -> Option<ForgottenCall> {
        let Call { id, token, listens, opens, sink, .. } = self.calls.remove(key)?;
        if let Some((token, _)) = token
            && self.tokens.get(&token) == Some(key)
        {
            self.tokens.remove(&token);
        }
        Some(ForgottenCall { id, listens, opens, sink })
    }

    /// Gives a request up for its client; returns what to tell the server, if anything.
    pub(super) fn release(&mut self, key: &Key) -> Option<Vec<u8>> {
        match (self.ids, key) {
            (Ids::Remap | Ids::Renumber, Key::Integer(ours)) => {
                let call = self.remove(key)?;
                let silent = self.closed || (call.opens && self.led);
                (!silent).then(|| cancellation(*ours))
            }
            _ => None,
        }
    }

    /// Gives up whatever a reader waits for that does not read.
    pub(in crate::gateway) fn give_up(&mut self, sink: &mpsc::Sender<Packet>) -> Option<Vec<u8>> {
        if self.listener.as_ref().is_some_and(|listener| listener.same_channel(sink)) {
            self.listener = None;
        }
        let key = self.calls.iter().find(|(_, call)| call.sink.same_channel(sink));
        let key = key.map(|(key, _)| key.clone())?;
        let told = self.release(&key);
        drop(self.remove(&key));
        told
    }

    /// Takes no more requests; returns those that nobody will answer, with their ids.
    pub(super) fn close(&mut self) -> Vec<(mpsc::Sender<Packet>, String)> {
        self.closed = true;
        self.listener = None;
        self.tokens.clear();
        let mut left: Vec<Call> = self.calls.drain().map(|(_, call)| call).collect();
        left.sort_by_key(|call| call.order);
        left.into_iter().map(|call| (call.sink, call.id)).collect()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_busy(&self) -> bool {
        self.live().next().is_some() || self.open_listener().is_some()
    }

    pub(in crate::gateway) fn last_used(&self) -> Instant {
        self.last_used
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.backlog.len()
    }
}

/// A request that is in flight no more.
#[derive(Debug)]
pub(in crate::gateway) struct ForgottenCall {
    id: String,
    listens: bool,
    opens: bool,
    sink: mpsc::Sender<Packet>,
}

fn cancellation(id: i128) -> Vec<u8> {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"the client is gone"}}}}"#
    )
    .into_bytes()
}

fn on_one_line(line: Vec<u8>) -> Bytes {
    match message::on_one_line(&line) {
        std::borrow::Cow::Borrowed(_) => line.into(),
        std::borrow::Cow::Owned(line) => line.into(),
    }
}
