//! A conversation with one server over a pair of pipes.
//!
//! One pump reads everything the server says and hands each message to whom it belongs, in the
//! order it was said: that order is the promise that progress comes before its result. A
//! [`Claim`] is the right to one answer.

mod table;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::codec::FramedRead;

pub(super) use self::table::{
    Arrival, Busy, Ids, Packet, Refusal, Table, cancellation_of, failure,
};
use super::child::{Exit, Handle};
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{self, Key, Message};

/// How many messages to the server may wait.
const OUTBOX: usize = 64;
/// How many messages of one request may wait for its reader.
pub(super) const INBOX: usize = 256;
/// How long the pump of an unshared server waits for a reader that does not read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long the pump of a server with several clients waits: long enough for one that reads, and
/// the others do not suffer for longer from one that does not.
const PATIENCE_SHARED: Duration = Duration::from_secs(3);
/// How long what a dead server wrote is still read.
const LINGER: Duration = Duration::from_secs(2);
/// How many lines of noise of one server are worth a warning.
const WARNINGS: u32 = 5;
/// Read buffer; most messages fit.
const BUFFER: usize = 16 * 1024;

/// A conversation with one server. Dropping it stops the server.
#[derive(Debug)]
pub(super) struct Link {
    table: Arc<Mutex<Table>>,
    outbox: mpsc::Sender<Bytes>,
    child: Handle,
    scope: Scope,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.child.stop();
    }
}

/// A request that the server has not read yet, and the right to its answer.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) claim: Claim,
    pub(super) line: Bytes,
}

impl Link {
    /// Starts the conversation.
    pub(super) fn new(
        stdin: impl AsyncWrite + Unpin + Send + 'static,
        stdout: impl AsyncRead + Unpin + Send + 'static,
        child: Handle,
        ids: Ids,
        max_line: usize,
        scope: &Scope,
    ) -> Arc<Self> {
        let table = Arc::new(Mutex::new(Table::new(ids)));
        let (outbox, queue) = mpsc::channel(OUTBOX);
        scope.spawn(write(stdin, queue, child.clone()));
        let pump =
            Pump { table: table.clone(), outbox: outbox.clone(), child: child.clone(), warned: 0 };
        scope.spawn(pump.run(stdout, max_line));
        Arc::new(Self { table, outbox, child, scope: scope.clone() })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the process behind the conversation.
    pub(super) fn child(&self) -> &Handle {
        &self.child
    }

    /// Registers a request, so that its answer finds `sink`; it must be sent next.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: &Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> Result<Begun, Refusal> {
        let (key, line) = self.table().begin(request, sink)?;
        Ok(Begun { claim: Claim::new(OnWire { link: self.clone(), key }), line })
    }

    /// Makes a request.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    pub(super) async fn request(
        self: &Arc<Self>,
        request: &Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> Result<Claim, Refusal> {
        let Begun { claim, line } = self.begin(request, sink)?;
        self.send(line).await.map_err(|Gone| Refusal::Gone)?;
        Ok(claim)
    }

    /// Goes on in the modern era, which a probe has shown.
    pub(super) fn turn_modern(&self) {
        self.table().turn_modern();
    }

    /// Tells whether a request is in flight that is no subscription.
    pub(super) fn is_working(&self) -> bool {
        self.table().is_working()
    }

    /// Sends one line to the server; in order with all others.
    ///
    /// # Errors
    /// The server is gone.
    pub(super) async fn send(&self, line: Bytes) -> Result<(), Gone> {
        self.outbox.send(line).await.map_err(|_| Gone)
    }

    /// Forgets a request that the client cancelled, which ends its stream.
    pub(super) fn cancelled(&self, id: &Key) {
        drop(self.table().remove(id));
    }

    /// Opens the stream of messages that belong to no request.
    ///
    /// # Errors
    /// One is open already.
    pub(super) fn listen(&self) -> Result<mpsc::Receiver<Packet>, Busy> {
        self.table().listen()
    }

    /// Tells whether the server is gone.
    pub(super) fn is_over(&self) -> bool {
        self.child.stopping().is_cancelled() || self.table().is_closed()
    }

    /// Tells whether somebody waits for something.
    pub(super) fn is_busy(&self) -> bool {
        self.table().is_busy()
    }

    /// Returns when the last message passed, either way.
    pub(super) fn last_used(&self) -> Instant {
        self.table().last_used()
    }

    /// Stops the server.
    pub(super) fn stop(&self) {
        self.child.stop();
    }
}

/// The server is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is gone")]
pub(super) struct Gone;

/// The right to one answer. Dropped early, it tells a server that is shared to stop working on it;
/// for a legacy session a lost connection is no cancellation (2025-11-25 §Streamable HTTP).
#[derive(Debug)]
pub(super) struct Claim {
    _hold: Box<dyn Hold>,
}

/// What a claim holds: dropping it gives the request up.
trait Hold: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Hold for T {}

impl Claim {
    /// Makes a claim of something whose drop gives the request up.
    pub(super) fn new(hold: impl std::fmt::Debug + Send + Sync + 'static) -> Self {
        Self { _hold: Box::new(hold) }
    }
}

/// A request that went out as a line.
#[derive(Debug)]
struct OnWire {
    link: Arc<Link>,
    key: Key,
}

impl Drop for OnWire {
    fn drop(&mut self) {
        let Some(line) = self.link.table().release(&self.key) else { return };
        if let Err(mpsc::error::TrySendError::Full(line)) = self.link.outbox.try_send(line.into()) {
            let outbox = self.link.outbox.clone();
            self.link.scope.spawn_until_cancelled(async move { drop(outbox.send(line).await) });
        }
    }
}

/// Writes lines to the server until it is told to stop.
async fn write(stdin: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>, child: Handle) {
    let mut stdin = BufWriter::with_capacity(BUFFER, stdin);
    let work = async {
        while let Some(line) = queue.recv().await {
            stdin.write_all(&line).await?;
            stdin.write_all(b"\n").await?;
            if queue.is_empty() {
                stdin.flush().await?;
            }
        }
        std::io::Result::Ok(())
    };
    if let Some(Err(error)) = child.stopping().run_until_cancelled(work).await {
        tracing::debug!(server = child.server(), %error, "cannot write");
    }
    // Dropping stdin is the first step of ending a server.
}

struct Pump {
    table: Arc<Mutex<Table>>,
    outbox: mpsc::Sender<Bytes>,
    child: Handle,
    warned: u32,
}

impl Pump {
    async fn run(mut self, stdout: impl AsyncRead + Unpin, max_line: usize) {
        let mut lines = FramedRead::with_capacity(stdout, LineCodec::new(max_line), BUFFER);
        let child = self.child.clone();
        let lingered = async {
            child.exited().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::pin!(lingered);
        loop {
            // `next` of a framed read is cancel-safe.
            let line = tokio::select! {
                biased;
                line = lines.next() => line,
                () = &mut lingered => None,
            };
            match line {
                Some(Ok(Line::Text(line))) => self.arrived(line).await,
                Some(Ok(Line::TooLong(bytes))) => {
                    tracing::warn!(server = child.server(), bytes, "a line was too long, dropped");
                }
                Some(Err(error)) => {
                    tracing::debug!(server = child.server(), %error, "cannot read");
                    break;
                }
                None => break,
            }
        }
        self.over().await;
    }

    async fn arrived(&mut self, line: Bytes) {
        let arrival = self.table.lock().unwrap_or_else(PoisonError::into_inner).arrive(&line);
        match arrival {
            Arrival::For(sink, packet) => self.deliver(&sink, packet).await,
            Arrival::Answer(line) => drop(self.outbox.send(line.into()).await),
            Arrival::Kept => {}
            Arrival::Dropped(why) => {
                tracing::debug!(server = self.child.server(), why, "message dropped");
            }
            Arrival::Noise => self.noise(&line),
        }
    }

    /// A reader that does not read must not hold up others: a shared server does not wait for it.
    async fn deliver(&self, sink: &mpsc::Sender<Packet>, packet: Packet) {
        let Err(mpsc::error::TrySendError::Full(packet)) = sink.try_send(packet) else { return };
        let patience = self.patience();
        let sent = !patience.is_zero() && timeout(patience, sink.send(packet)).await.is_ok();
        if !sent {
            tracing::debug!(server = self.child.server(), "a reader does not read, dropped");
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(line) = table.give_up(sink) {
                drop(self.outbox.try_send(line.into()));
            }
        }
    }

    fn patience(&self) -> Duration {
        match self.table.lock().unwrap_or_else(PoisonError::into_inner).manner() {
            (Ids::Keep, _) => PATIENCE,
            (Ids::Renumber, _) | (Ids::Remap, true) => PATIENCE_SHARED,
            (Ids::Remap, false) => Duration::ZERO,
        }
    }

    fn noise(&mut self, line: &[u8]) {
        let server = self.child.server();
        let text: String = String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned();
        self.warned = self.warned.saturating_add(1);
        if self.warned <= WARNINGS {
            tracing::warn!(server, text, "a line on stdout is not MCP, dropped");
        } else {
            tracing::trace!(server, text, "a line on stdout is not MCP, dropped");
        }
    }

    /// Answers what can no longer be answered by the server.
    async fn over(self) {
        self.child.stop();
        let exit = self.child.exited().await;
        let patience = self.patience();
        let left = self.table.lock().unwrap_or_else(PoisonError::into_inner).close();
        for (sink, id) in left {
            let message = death_notice(self.child.server(), &exit, Some(&id));
            let packet = Packet { message: message.into(), last: true };
            drop(timeout(patience, sink.send(packet)).await);
        }
    }
}

/// Returns the error response to a request whose server died.
pub(super) fn death_notice(server: &str, exit: &Exit, id: Option<&str>) -> Vec<u8> {
    let text = format!("server `{server}` stopped ({}) before it answered", exit.status);
    let data = serde_json::json!({ "reason": "upstream_exited", "status": exit.status });
    message::error_response(id, message::INTERNAL_ERROR, &text, Some(&data))
}

#[cfg(test)]
mod tests;
