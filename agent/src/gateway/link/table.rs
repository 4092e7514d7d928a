//! Who waits for what: the decisions of a link, without any waiting.

mod arrive;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

pub(in crate::gateway) use self::arrive::{Arrival, refusal};
use super::inbox::{self, Budget, Inbox, Receiver};
use crate::mcp::era::Era;
use crate::mcp::message::{self, Key, Message};

/// How many requests may be in flight with one server.
const MAX_CALLS: usize = 1024;

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Asker {
    /// The client with this number, to whom more may come than the answer.
    Client(u64),
    /// We do: nothing but its answer is for us.
    Ourselves,
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

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It opens the conversation; it is never cancelled.
    Opening,
    /// It stays open for what the server has to tell.
    Listening,
    /// We want to know something.
    Inquiry,
    /// This client wants something: what else the server says may be about it.
    Call(u64),
}

impl Purpose {
    fn of(method: &str, asker: Asker) -> Self {
        match (method, asker) {
            ("initialize" | "server/discover", _) => Self::Opening,
            ("subscriptions/listen", _) => Self::Listening,
            (_, Asker::Ourselves) => Self::Inquiry,
            (_, Asker::Client(client)) => Self::Call(client),
        }
    }
}

#[derive(Debug)]
struct Call {
    /// The id as the client wrote it.
    id: String,
    /// The progress token as the client wrote it; on the wire it is the same as our id.
    token: Option<String>,
    /// Our id.
    number: u64,
    purpose: Purpose,
    /// How its client took it back, in a notification with our id.
    taken_back: Option<Bytes>,
    sink: Inbox,
}

impl Call {
    /// Notes a request and numbers it; returns it with what the server is to read.
    fn new(request: &Message<'_>, number: u64, asker: Asker, sink: Inbox) -> (Self, Bytes) {
        let Some(id) = request.id() else { unreachable!("a request has an id") };
        let (token, ours) = (request.meta().progress_token, number.to_string());
        let mut edits = vec![request.edit(id, &ours)];
        edits.extend(token.map(|token| request.edit(token, &ours)));
        let call = Self {
            id: id.get().to_owned(),
            token: token.map(|token| token.get().to_owned()),
            number,
            purpose: Purpose::of(request.method(), asker),
            taken_back: None,
            sink,
        };
        (call, message::one_line(request.rewrite(edits).into()))
    }
}

/// A request that was registered.
#[derive(Debug)]
pub(in crate::gateway) struct Begun {
    pub(in crate::gateway) key: Key,
    /// What the server is to read.
    pub(in crate::gateway) line: Bytes,
    /// Where its packets go, and where they come.
    pub(in crate::gateway) sink: Inbox,
    pub(in crate::gateway) packets: Receiver,
}

/// The requests in flight with one server, and the stream for everything else. Ids and progress
/// tokens on the wire are ours: one conversation may serve several clients.
#[derive(Debug)]
pub(in crate::gateway) struct Table {
    era: Era,
    /// Whether one legacy client has the server for itself.
    sole: bool,
    next: u64,
    calls: HashMap<Key, Call>,
    /// Which request a question of the server went with.
    asked: VecDeque<(Key, Key)>,
    budget: Budget,
    listener: Option<Inbox>,
    /// The other end of `listener` until somebody listens.
    unheard: Option<Receiver>,
    last_used: Instant,
    closed: bool,
}

impl Table {
    /// Makes the table of a conversation; `sole` is whether one legacy client has it for itself.
    pub(in crate::gateway) fn new(era: Era, sole: bool) -> Self {
        Self {
            era,
            sole,
            next: 0,
            calls: HashMap::new(),
            asked: VecDeque::new(),
            budget: Budget::default(),
            listener: None,
            unheard: None,
            last_used: Instant::now(),
            closed: false,
        }
    }

    /// Makes the conversation one of the modern era, which a probe has shown.
    pub(super) fn turn_modern(&mut self) {
        self.era = Era::Modern;
    }

    /// Registers a request, which must be sent next.
    pub(in crate::gateway) fn begin(
        &mut self,
        request: &Message<'_>,
        asker: Asker,
    ) -> Result<Begun, Refusal> {
        if self.closed {
            return Err(Refusal::Gone);
        }
        if self.calls.len() >= MAX_CALLS {
            return Err(Refusal::TooMany);
        }
        self.next += 1;
        let (sink, packets) = inbox::channel(&self.budget);
        let (call, line) = Call::new(request, self.next, asker, sink.clone());
        let key = Key::Integer(self.next.into());
        self.calls.insert(key.clone(), call);
        self.last_used = Instant::now();
        Ok(Begun { key, line, sink, packets })
    }

    /// Opens the stream for what belongs to no request; what waited for it comes first.
    pub(in crate::gateway) fn listen(&mut self) -> Result<Receiver, Busy> {
        if let Some(unheard) = self.unheard.take() {
            return Ok(unheard);
        }
        if self.listener.as_ref().is_some_and(|listener| !listener.is_closed()) {
            return Err(Busy);
        }
        let (sink, receiver) = inbox::channel(&self.budget);
        self.listener = Some(sink).filter(|_| !self.closed);
        Ok(receiver)
    }

    /// Returns where goes what belongs to no request: to the listener, or to the next one.
    fn unasked(&mut self) -> Option<Inbox> {
        if self.closed {
            return None;
        }
        if self.listener.as_ref().is_none_or(Inbox::is_closed) {
            let (sink, receiver) = inbox::channel(&self.budget);
            (self.listener, self.unheard) = (Some(sink), Some(receiver));
        }
        self.listener.clone()
    }

    /// Gives a request up for its client; returns what to tell the server, if anything.
    pub(in crate::gateway) fn release(&mut self, key: &Key) -> Option<Bytes> {
        let call = self.calls.remove(key)?;
        let silent = self.closed || call.purpose == Purpose::Opening;
        (!silent).then(|| call.taken_back.unwrap_or_else(|| cancellation(call.number)))
    }

    /// Notes how the client takes a request back, for the server to read.
    pub(in crate::gateway) fn taken_back(&mut self, key: &Key, notice: &Message<'_>) {
        if let Some(call) = self.calls.get_mut(key)
            && let Some(id) = notice.peek().request_id
        {
            let ours = call.number.to_string();
            let notice = notice.rewrite(vec![notice.edit(id, &ours)]);
            call.taken_back = Some(message::one_line(notice.into()));
        }
    }

    /// Forgets a request; returns whether it was waiting.
    pub(in crate::gateway) fn forget(&mut self, key: &Key) -> bool {
        self.calls.remove(key).is_some()
    }

    /// Forgets the only request that waits for its answer, and returns where that goes and its id;
    /// `None` when there are several.
    pub(super) fn forget_only(&mut self) -> Option<(Inbox, String)> {
        let mut waiting = self.calls.iter().filter(|(_, call)| call.purpose != Purpose::Listening);
        let only = waiting.next().map(|(key, _)| key.clone()).filter(|_| waiting.next().is_none());
        let call = self.calls.remove(&only?)?;
        Some((call.sink, call.id))
    }

    /// Takes no more requests; those in flight are answered by whoever runs them.
    pub(in crate::gateway) fn shut(&mut self) {
        self.closed = true;
        self.listener = None;
    }

    /// Takes no more requests; returns those that nobody will answer, with their ids.
    pub(super) fn close(&mut self) -> Vec<(Inbox, String)> {
        self.shut();
        let mut left: Vec<Call> = self.calls.drain().map(|(_, call)| call).collect();
        left.sort_by_key(|call| call.number);
        left.into_iter().map(|call| (call.sink, call.id)).collect()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns how many requests are in flight.
    pub(in crate::gateway) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Tells whether a request waits for its answer.
    pub(in crate::gateway) fn waits(&self, key: &Key) -> bool {
        self.calls.contains_key(key)
    }

    /// Tells whether a request is in flight that is no subscription.
    pub(in crate::gateway) fn is_working(&self) -> bool {
        let waits = |call: &Call| call.purpose != Purpose::Listening && !call.sink.is_closed();
        self.calls.values().any(waits)
    }

    /// Returns when the last message passed, either way.
    pub(in crate::gateway) fn last_used(&self) -> Instant {
        self.last_used
    }
}

fn cancellation(number: u64) -> Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client is gone"}}}}"#
    )
    .into()
}
