//! The event streams of a legacy session, which survive the connections that carry them.
//!
//! Every event has an id that names its stream, `p<stream>-<number>` for the answers to a POST and
//! `g<stream>-<number>` for what comes unasked, and is kept for a while. When a client goes away,
//! its request goes on and its events are kept; a GET with `Last-Event-ID` resumes that stream
//! (2025-03-26 §Resumability). From 2025-11-25 on a stream opens with an event without data, so
//! that there is an id to resume after even if nothing else was said.

mod ring;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

pub(super) use self::ring::Budget;
use self::ring::{Ring, TTL};
use super::link::{Busy, Claim, INBOX, Packet};
use super::talk::Conversation;
use crate::mcp::sse;

/// After how long a client should come back that lost a stream, in milliseconds.
const RETRY_MS: u32 = 1000;

/// The first revision whose streams open with an event without data.
const PRIMING_SINCE: &str = "2025-11-25";

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The answers to one POST, and what comes before them.
    Answers,
    /// What belongs to no request.
    Unasked,
}

/// The id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventId {
    kind: Kind,
    stream: u64,
    seq: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Answers => 'p',
            Kind::Unasked => 'g',
        };
        write!(f, "{kind}{}-{}", self.stream, self.seq)
    }
}

/// It is no id of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event id")]
pub(super) struct NoEventId;

impl FromStr for EventId {
    type Err = NoEventId;

    fn from_str(text: &str) -> Result<Self, NoEventId> {
        let (kind, rest) = match (text.strip_prefix('p'), text.strip_prefix('g')) {
            (Some(rest), _) => (Kind::Answers, rest),
            (_, Some(rest)) => (Kind::Unasked, rest),
            (None, None) => return Err(NoEventId),
        };
        let (stream, seq) = rest.split_once('-').ok_or(NoEventId)?;
        let number = |text: &str| text.parse().map_err(|_| NoEventId);
        Ok(Self { kind, stream: number(stream)?, seq: number(seq)? })
    }
}

/// Why a stream cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoStream {
    /// Somebody else listens to the same conversation.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Its events are kept no more; who waits for its answer waits for nothing.
    #[error("the stream to resume is gone")]
    Gone,
}

/// The packets of one POST, before or after its head was sent.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) queue: mpsc::Receiver<Packet>,
    pub(super) claims: Vec<Claim>,
    /// How many answers are still to come.
    pub(super) left: usize,
}

#[derive(Debug)]
struct Stream {
    kind: Kind,
    queue: Option<mpsc::Receiver<Packet>>,
    /// Dropped with the stream, which gives up what is not answered.
    claims: Vec<Claim>,
    /// How many answers are still to come; `None` when the stream does not end with answers.
    left: Option<usize>,
    next: u64,
    /// The latest reader; others have been displaced. 0 is nobody.
    reader: u64,
    waker: Option<Waker>,
}

impl Stream {
    fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    /// Ends the reading of whoever reads.
    fn displace(&mut self) {
        self.reader = 0;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn end(&mut self) {
        (self.queue, self.left) = (None, Some(0));
        self.claims.clear();
    }
}

#[derive(Debug)]
struct Inner {
    ring: Ring,
    streams: HashMap<u64, Stream>,
    last_stream: u64,
    last_reader: u64,
    /// The stream that what comes unasked goes to.
    listener: Option<u64>,
    /// What a client that went away did not take any more; for the next stream of its kind.
    waiting: VecDeque<Bytes>,
}

/// All streams of one legacy session.
#[derive(Debug)]
pub(super) struct Log {
    inner: Mutex<Inner>,
    primes: AtomicBool,
    /// How long a request goes on that nobody listens to.
    patience: Duration,
    scope: Scope,
}

impl Log {
    /// Makes the log of a new session; what goes on without a client runs in `scope`, and for as
    /// long as a session may be `idle`.
    pub(super) fn new(budget: Budget, idle: Duration, scope: Scope) -> Arc<Self> {
        let inner = Inner {
            ring: Ring::new(budget),
            streams: HashMap::new(),
            last_stream: 0,
            last_reader: 0,
            listener: None,
            waiting: VecDeque::new(),
        };
        let (inner, primes) = (Mutex::new(inner), AtomicBool::new(false));
        Arc::new(Self { inner, primes, patience: idle.min(TTL), scope })
    }

    /// Notes the protocol version that was agreed on.
    pub(super) fn set_version(&self, version: &str) {
        self.primes.store(version >= PRIMING_SINCE, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the stream of a POST, which begins with the messages `first`.
    pub(super) fn answer(
        self: &Arc<Self>,
        first: impl IntoIterator<Item = Bytes>,
        source: Source,
    ) -> Reader {
        let mut inner = self.lock();
        let Source { queue, claims, left } = source;
        let stream = inner.open(Kind::Answers, Some(queue), claims, Some(left));
        let mut events: VecDeque<Bytes> = self.prime(Kind::Answers, stream).into_iter().collect();
        events.extend(first.into_iter().filter_map(|message| inner.record(stream, &message)));
        let at = inner.streams.get(&stream).map_or(1, |stream| stream.next);
        self.reader(&mut inner, stream, at, events)
    }

    /// Opens the stream of what belongs to no request, or resumes the stream of an event. The
    /// latest client displaces others: it came back before their end was noticed.
    pub(super) fn listen(
        self: &Arc<Self>,
        talk: &dyn Conversation,
        after: Option<EventId>,
    ) -> Result<Reader, NoStream> {
        let mut inner = self.lock();
        inner.prune(Instant::now());
        let known =
            after.filter(|id| inner.streams.get(&id.stream).is_some_and(|s| s.kind == id.kind));
        match (after, known) {
            (Some(EventId { kind: Kind::Answers, .. }), None) => return Err(NoStream::Gone),
            (_, Some(id)) if id.kind == Kind::Answers => {
                if let Some(stream) = inner.streams.get_mut(&id.stream) {
                    stream.displace();
                }
                return Ok(self.reader(&mut inner, id.stream, id.seq + 1, VecDeque::new()));
            }
            _ => {}
        }
        let queue = match inner.take_listener() {
            Some(queue) => queue,
            None => talk.listen()?,
        };
        let (stream, at, events) = if let Some(id) = known {
            if let Some(stream) = inner.streams.get_mut(&id.stream) {
                (stream.queue, stream.left) = (Some(queue), None);
            }
            (id.stream, id.seq + 1, VecDeque::new())
        } else {
            let stream = inner.open(Kind::Unasked, Some(queue), Vec::new(), None);
            (stream, 1, self.prime(Kind::Unasked, stream).into_iter().collect())
        };
        inner.listener = Some(stream);
        Ok(self.reader(&mut inner, stream, at, events))
    }

    /// Keeps a request going whose client went away before it was told of a stream.
    pub(super) fn adopt(self: &Arc<Self>, source: Source) {
        let Source { mut queue, claims, mut left } = source;
        let patience = self.patience;
        self.scope.spawn_until_cancelled(async move {
            let ended = async {
                while left > 0 {
                    let Some(packet) = queue.recv().await else { return };
                    left -= usize::from(packet.last);
                }
            };
            drop(timeout(patience, ended).await);
            drop(claims);
        });
    }

    /// Forgets what is too old.
    pub(super) fn prune(&self, now: Instant) {
        self.lock().prune(now);
    }

    fn prime(&self, kind: Kind, stream: u64) -> Option<Bytes> {
        let id = EventId { kind, stream, seq: 0 };
        let event = || format!("id: {id}\nretry: {RETRY_MS}\ndata: \n\n").into();
        self.primes.load(Ordering::Relaxed).then(event)
    }

    fn reader(
        self: &Arc<Self>,
        inner: &mut Inner,
        stream: u64,
        at: u64,
        first: VecDeque<Bytes>,
    ) -> Reader {
        inner.last_reader += 1;
        let reader = inner.last_reader;
        if let Some(stream) = inner.streams.get_mut(&stream) {
            stream.reader = reader;
        }
        Reader { log: self.clone(), stream, reader, at, first, over: false }
    }

    /// A reader is gone: its request goes on, its place is free.
    fn left_alone(self: &Arc<Self>, stream: u64, reader: u64) {
        if !self.lock().leave(stream, reader) {
            return;
        }
        let log = self.clone();
        self.scope.spawn_until_cancelled(async move {
            let recorded = poll_fn(|cx| log.lock().poll_recorded(stream, reader, cx));
            if timeout(log.patience, recorded).await.is_err() {
                let forgotten = log.lock().forget(stream, reader);
                // Not under the lock: it tells the server that nobody waits any more.
                drop(forgotten);
            }
        });
    }
}

impl Inner {
    fn open(
        &mut self,
        kind: Kind,
        queue: Option<mpsc::Receiver<Packet>>,
        claims: Vec<Claim>,
        left: Option<usize>,
    ) -> u64 {
        self.prune(Instant::now());
        self.last_stream += 1;
        let stream = Stream { kind, queue, claims, left, next: 1, reader: 0, waker: None };
        self.streams.insert(self.last_stream, stream);
        self.last_stream
    }

    /// Numbers and keeps a message; returns its event.
    fn record(&mut self, number: u64, message: &[u8]) -> Option<Bytes> {
        let stream = self.streams.get_mut(&number)?;
        let id = EventId { kind: stream.kind, stream: number, seq: stream.next };
        stream.next += 1;
        let event = with_id(id, message);
        self.ring.push(number, id.seq, &event, Instant::now());
        Some(event)
    }

    /// Takes the next message out of a stream's queue.
    fn poll_event(&mut self, number: u64, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(stream) = self.streams.get_mut(&number) else { return Poll::Ready(None) };
        if stream.kind == Kind::Unasked
            && let Some(message) = self.waiting.pop_front()
        {
            return Poll::Ready(self.record(number, &message));
        }
        let Some(queue) = &mut stream.queue else { return Poll::Ready(None) };
        match queue.poll_recv(cx) {
            Poll::Ready(Some(packet)) => {
                if packet.last {
                    stream.left = stream.left.map(|left| left.saturating_sub(1));
                }
                if stream.is_over() {
                    stream.end();
                }
                Poll::Ready(self.record(number, &packet.message))
            }
            Poll::Ready(None) => {
                stream.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                stream.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Keeps the events of a stream without a client until it is over or a client is back.
    fn poll_recorded(&mut self, number: u64, reader: u64, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let stream = self.streams.get(&number);
            if stream.is_none_or(|stream| stream.reader != reader || stream.is_over()) {
                return Poll::Ready(());
            }
            std::task::ready!(self.poll_event(number, cx));
        }
    }

    /// Frees the place of a reader; tells whether the stream has to be kept going.
    fn leave(&mut self, number: u64, reader: u64) -> bool {
        let Some(stream) = self.streams.get_mut(&number) else { return false };
        if stream.reader != reader {
            return false;
        }
        if stream.kind == Kind::Answers && !stream.is_over() {
            return true;
        }
        stream.reader = 0;
        if self.listener == Some(number)
            && let Some(mut queue) = self.take_listener()
        {
            queue.close();
            self.keep_waiting(&mut queue);
        }
        false
    }

    /// Takes the queue of unasked messages away from the stream that has it.
    fn take_listener(&mut self) -> Option<mpsc::Receiver<Packet>> {
        let stream = self.streams.get_mut(&self.listener.take()?)?;
        stream.displace();
        let mut queue = stream.queue.take()?;
        stream.left = Some(0);
        if queue.is_closed() {
            self.keep_waiting(&mut queue);
            return None;
        }
        Some(queue)
    }

    fn keep_waiting(&mut self, queue: &mut mpsc::Receiver<Packet>) {
        while let Ok(packet) = queue.try_recv() {
            self.waiting.push_back(packet.message);
        }
        while self.waiting.len() > INBOX {
            self.waiting.pop_front();
        }
    }

    fn forget(&mut self, number: u64, reader: u64) -> Option<Stream> {
        let mine = self.streams.get(&number).is_some_and(|stream| stream.reader == reader);
        mine.then(|| self.streams.remove(&number)).flatten()
    }

    fn prune(&mut self, now: Instant) {
        self.ring.prune(now);
        let ring = &self.ring;
        self.streams
            .retain(|number, stream| stream.reader != 0 || !stream.is_over() || ring.has(*number));
    }
}

/// Reads one stream for one connection. Dropped, it leaves the stream to whoever resumes it.
#[derive(Debug)]
pub(super) struct Reader {
    log: Arc<Log>,
    stream: u64,
    reader: u64,
    at: u64,
    first: VecDeque<Bytes>,
    over: bool,
}

impl Reader {
    /// Tells whether nothing follows.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Returns the next event. Cancel-safe: what is taken is returned.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let event = if let Some(event) = self.first.pop_front() {
            Some(event)
        } else {
            std::task::ready!(self.poll_stream(cx))
        };
        self.over = event.is_none() || (self.first.is_empty() && self.is_at_end());
        Poll::Ready(event)
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut inner = self.log.lock();
        let Some(stream) = inner.streams.get(&self.stream) else { return Poll::Ready(None) };
        let (next, over) = (stream.next, stream.is_over());
        if stream.reader != self.reader {
            return Poll::Ready(None);
        }
        if self.at < next {
            if let Some((seq, event)) = inner.ring.next(self.stream, self.at) {
                self.at = seq + 1;
                return Poll::Ready(Some(event));
            }
            self.at = next;
        }
        if over {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(inner.poll_event(self.stream, cx));
        self.at += u64::from(event.is_some());
        Poll::Ready(event)
    }

    fn is_at_end(&self) -> bool {
        let inner = self.log.lock();
        let stream = inner.streams.get(&self.stream);
        stream.is_none_or(|stream| stream.is_over() && self.at >= stream.next)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.left_alone(self.stream, self.reader);
    }
}

/// Returns a message as an event with an id.
fn with_id(id: EventId, message: &[u8]) -> Bytes {
    let event = sse::encode(message);
    let id = format!("id: {id}\n");
    let mut out = BytesMut::with_capacity(id.len() + event.len());
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(&event);
    out.freeze()
}

#[cfg(test)]
mod tests;
