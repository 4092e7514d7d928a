//! A conversation over Streamable HTTP, in either era: each message is a POST of its own, and the
//! packets of a request come over the stream that answers it.

mod exchange;
mod open;
mod stream;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use mcpm_shared::scope::Scope;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::exchange::Outgoing;
pub(super) use self::open::open;
use super::headers::mirror;
use super::{Limits, NOTICE};
use crate::gateway::link::{Asker, Begun, Busy, Claim, Gone, Hold, Receiver, Refusal, Table};
use crate::gateway::upstream::endpoint::Endpoint;
use crate::mcp::era::{Era, SESSION_HEADER, VERSION_HEADER};
use crate::mcp::message::{Key, Message};

/// How many messages that are no requests may wait.
const LANE: usize = 64;
/// How many requests may be in flight: each may be a connection of its own.
const MAX_EXCHANGES: usize = 256;
/// How long the end of a session may take to tell.
const GOODBYE: Duration = Duration::from_secs(2);

/// A conversation over HTTP. Dropping it ends the session.
#[derive(Debug)]
pub(super) struct Http {
    core: Arc<Core>,
}

impl Drop for Http {
    fn drop(&mut self) {
        self.core.end("it was closed");
    }
}

/// What the tasks of a conversation have in common.
#[derive(Debug)]
struct Core {
    endpoint: Arc<Endpoint>,
    era: Era,
    max: usize,
    scope: Scope,
    table: Mutex<Table>,
    session: Mutex<Session>,
    /// What must stay in order goes through one lane; a request starts when the lane has passed
    /// what was said before it.
    lane: mpsc::Sender<Bytes>,
    queued: AtomicU64,
    passed: watch::Sender<u64>,
    stop: CancellationToken,
    why: watch::Sender<Option<String>>,
}

/// What the answer to `initialize` told.
#[derive(Clone, Debug, Default)]
struct Session {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

/// Dropped, it cancels a request, then lets the conversation go.
#[derive(Debug)]
struct OnWire {
    _cancel: DropGuard,
    http: Arc<Http>,
    key: Key,
}

impl Hold for OnWire {
    fn taken_back(&self, notice: &Message<'_>) {
        self.http.core.table().taken_back(&self.key, notice);
    }
}

impl Http {
    /// Begins a request; a task of its own runs it.
    pub(super) fn request(
        self: &Arc<Self>,
        message: &Message<'_>,
        extra: HeaderMap,
        asker: Asker,
    ) -> Result<(Claim, Receiver), Refusal> {
        let core = &self.core;
        let (outgoing, packets) = core.begin(message, extra, asker)?;
        let cancel = CancellationToken::new();
        let turn = core.queued.load(Ordering::Acquire);
        let key = outgoing.key.clone();
        core.scope.spawn(core.clone().run(outgoing, turn, cancel.clone()));
        let wire = OnWire { _cancel: cancel.drop_guard(), http: self.clone(), key };
        Ok((Claim::new(wire), packets))
    }

    /// Sends what is no request, in order; it is on its way when this returns.
    pub(super) async fn send(&self, line: Bytes) -> Result<(), Gone> {
        self.core.enqueue(line).await
    }

    pub(super) fn listen(&self) -> Result<Receiver, Busy> {
        self.core.table().listen()
    }

    pub(super) fn is_over(&self) -> bool {
        self.core.stop.is_cancelled()
    }

    pub(super) fn is_working(&self) -> bool {
        self.core.table().is_working()
    }

    pub(super) fn last_used(&self) -> Instant {
        self.core.table().last_used()
    }

    pub(super) fn end(&self, why: &str) {
        self.core.end(why);
    }

    pub(super) async fn over(&self) -> String {
        let mut why = self.core.why.subscribe();
        // The sender lives in the core, so waiting cannot fail.
        let why = why.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_default()
    }
}

impl Core {
    fn new(
        endpoint: &Arc<Endpoint>,
        era: Era,
        scope: &Scope,
        limits: &Limits,
    ) -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (lane, queue) = mpsc::channel(LANE);
        let core = Self {
            endpoint: endpoint.clone(),
            era,
            max: limits.max_line,
            scope: scope.clone(),
            // Each request has a stream of its own, so for a sole client nothing is guessed.
            table: Mutex::new(Table::new(era, false)),
            session: Mutex::default(),
            lane,
            queued: AtomicU64::new(0),
            passed: watch::Sender::new(0),
            stop: scope.token().child_token(),
            why: watch::Sender::new(None),
        };
        (Arc::new(core), queue)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a request and makes it ready to be sent.
    fn begin(
        &self,
        message: &Message<'_>,
        extra: HeaderMap,
        asker: Asker,
    ) -> Result<(Outgoing, Receiver), Refusal> {
        let mut table = self.table();
        if table.in_flight() >= MAX_EXCHANGES {
            return Err(Refusal::TooMany);
        }
        let Begun { key, line, sink, packets } = table.begin(message, asker)?;
        drop(table);
        let mut headers = self.headers(message);
        headers.extend(extra);
        let id = message.id().map_or_else(|| "null".to_owned(), |id| id.get().to_owned());
        let opens = matches!(message.method(), "initialize" | "server/discover");
        Ok((Outgoing { key, id, line, headers, opens, sink }, packets))
    }

    /// Returns the headers that a message travels with.
    fn headers(&self, message: &Message<'_>) -> HeaderMap {
        match self.era {
            Era::Modern => mirror(message, crate::mcp::era::MODERN),
            Era::Legacy => self.session_headers(),
        }
    }

    fn session_headers(&self) -> HeaderMap {
        let session = self.session();
        let mut headers = HeaderMap::new();
        for (name, value) in [(SESSION_HEADER, &session.id), (VERSION_HEADER, &session.version)] {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
        }
        headers
    }

    fn in_session(&self) -> bool {
        self.session().id.is_some()
    }

    /// Puts a message into the lane.
    async fn enqueue(&self, line: Bytes) -> Result<(), Gone> {
        let room = timeout(NOTICE, self.lane.reserve()).await;
        let Ok(Ok(room)) = room else { return Err(Gone) };
        if self.stop.is_cancelled() {
            return Err(Gone);
        }
        self.queued.fetch_add(1, Ordering::AcqRel);
        room.send(line);
        Ok(())
    }

    /// Ends the conversation; whoever waits for an answer hears why.
    fn end(&self, why: &str) {
        self.why.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert_with(|| why.to_owned());
            first
        });
        self.table().shut();
        self.stop.cancel();
    }

    /// Runs what belongs to the whole conversation until it ends, and takes leave.
    async fn keep(self: Arc<Self>, queue: mpsc::Receiver<Bytes>) {
        let work = async {
            match self.era {
                Era::Legacy => {
                    tokio::join!(self.pass(queue), self.listen_to());
                }
                Era::Modern => self.pass(queue).await,
            }
        };
        self.stop.run_until_cancelled(work).await;
        self.end("the gateway is shutting down");
        self.goodbye().await;
    }

    /// Tells the server that its session is not needed any more.
    async fn goodbye(&self) {
        if self.in_session() {
            let headers = self.session_headers();
            let told = self.endpoint.call(Method::DELETE, headers, Bytes::new());
            drop(timeout(GOODBYE, told).await);
        }
    }
}

#[cfg(test)]
mod tests;
