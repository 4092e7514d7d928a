//! A conversation with one server over a pair of pipes.
//!
//! One pump reads everything the server says and hands each message to whom it belongs, in the
//! order it was said: that order is the promise that progress comes before its result. It waits
//! for nobody, so that a reader that does not read holds up no other. A [`Claim`] is the right to
//! one answer.

mod inbox;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_util::codec::FramedRead;

pub(super) use self::inbox::{Budget, Full, Inbox, Packet, Receiver, channel as queue};
pub(super) use self::table::{Arrival, Asker, Begun, Busy, Refusal, Table, refusal};
use super::child::{Exit, Handle};
use crate::mcp::era::Era;
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{self, Key, Message};

/// How many messages to the server may wait.
const OUTBOX: usize = 64;
/// How many messages to a client are on their way out of its inbox, which is what is bounded in bytes.
pub(super) const INBOX: usize = 32;
/// How many answers of ours in a row a server may leave no room for. One that asks so much and
/// reads nothing will not get better.
const MAX_UNSENT: u32 = 1000;
/// How long what a dead server wrote is still read.
const LINGER: Duration = Duration::from_secs(2);
/// How many bytes of a line of noise are shown.
const NOISE: usize = 400;
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

impl Link {
    /// Starts a legacy conversation; `sole` is whether one client has it for itself.
    pub(super) fn new(
        stdin: impl AsyncWrite + Unpin + Send + 'static,
        stdout: impl AsyncRead + Unpin + Send + 'static,
        child: Handle,
        sole: bool,
        max_line: usize,
        scope: &Scope,
    ) -> Arc<Self> {
        let table = Arc::new(Mutex::new(Table::new(Era::Legacy, sole)));
        let (outbox, queue) = mpsc::channel(OUTBOX);
        scope.spawn(write(stdin, queue, child.clone()));
        let pump = Pump {
            table: table.clone(),
            outbox: outbox.clone(),
            child: child.clone(),
            warned: 0,
            unsent: 0,
        };
        scope.spawn(pump.run(stdout, max_line));
        Arc::new(Self { table, outbox, child, scope: scope.clone() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the process behind the conversation.
    pub(super) fn child(&self) -> &Handle {
        &self.child
    }

    /// Makes a request. Cancel-safe: it is not made before there is room for it on the wire.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    pub(super) async fn request(
        self: &Arc<Self>,
        request: &Message<'_>,
        asker: Asker,
    ) -> Result<(Claim, Receiver), Refusal> {
        let room = self.outbox.reserve().await.map_err(|_| Refusal::Gone)?;
        let Begun { key, line, packets, .. } = self.table().begin(request, asker)?;
        room.send(line);
        Ok((Claim::new(OnWire { link: self.clone(), key }), packets))
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

    /// Opens the stream of messages that belong to no request.
    ///
    /// # Errors
    /// One is open already.
    pub(super) fn listen(&self) -> Result<Receiver, Busy> {
        self.table().listen()
    }

    /// Tells whether the server is gone.
    pub(super) fn is_over(&self) -> bool {
        self.child.stopping().is_cancelled() || self.table().is_closed()
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

/// The right to one answer. Dropped early, it tells the server to stop working on it.
#[derive(Debug)]
pub(super) struct Claim {
    hold: Box<dyn Hold>,
}

/// What a claim holds: dropping it gives the request up.
pub(super) trait Hold: std::fmt::Debug + Send + Sync {
    /// Notes how the client takes the request back: its `notifications/cancelled`.
    fn taken_back(&self, _notice: &Message<'_>) {}
}

impl Hold for tokio_util::sync::DropGuard {}

#[cfg(test)]
impl Hold for tokio::sync::oneshot::Sender<()> {}

impl Claim {
    /// Makes a claim of something whose drop gives the request up.
    pub(super) fn new(hold: impl Hold + 'static) -> Self {
        Self { hold: Box::new(hold) }
    }

    /// Makes a claim to something that cannot be given up.
    pub(super) fn settled() -> Self {
        Self::new(tokio_util::sync::CancellationToken::new().drop_guard())
    }

    /// Notes how the client takes the request back, for the server to read when this is dropped.
    pub(super) fn taken_back(&self, notice: &Message<'_>) {
        self.hold.taken_back(notice);
    }
}

/// A request that went out as a line.
#[derive(Debug)]
struct OnWire {
    link: Arc<Link>,
    key: Key,
}

impl Hold for OnWire {
    fn taken_back(&self, notice: &Message<'_>) {
        self.link.table().taken_back(&self.key, notice);
    }
}

impl Drop for OnWire {
    fn drop(&mut self) {
        let Some(line) = self.link.table().release(&self.key) else { return };
        if let Err(TrySendError::Full(line)) = self.link.outbox.try_send(line) {
            let outbox = self.link.outbox.clone();
            self.link.scope.spawn_until_cancelled(async move { drop(outbox.send(line).await) });
        }
    }
}

/// Writes lines to the server until it is told to stop. Who does not read what it is sent cannot
/// answer it, so its end answers instead.
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
        child.stop();
    }
    // Dropping stdin is the first step of ending a server.
}

struct Pump {
    table: Arc<Mutex<Table>>,
    outbox: mpsc::Sender<Bytes>,
    child: Handle,
    /// How many lines of noise there were.
    warned: u32,
    /// How many answers of ours in a row there was no room for.
    unsent: u32,
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
                Some(Ok(Line::Text(line))) => self.arrived(&line).await,
                Some(Ok(Line::TooLong(bytes))) => self.too_long(bytes),
                Some(Err(error)) => {
                    tracing::debug!(server = child.server(), %error, "cannot read");
                    break;
                }
                None => break,
            }
        }
        self.over().await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn arrived(&mut self, line: &[u8]) {
        let arrival = self.table().arrive(line);
        match arrival {
            Arrival::For(sink, packet) => {
                if let Err(full) = sink.push(packet)
                    && let Some(line) = full.explain(self.child.server())
                {
                    self.answer(line.into()).await;
                }
            }
            Arrival::Answer(line) => self.answer(line.into()).await,
            Arrival::Dropped(why) => {
                tracing::debug!(server = self.child.server(), why, "message dropped");
            }
            Arrival::Noise => self.noise(line),
        }
    }

    /// Answers the server ourselves. To wait until it reads could be to wait for ever: it may wait
    /// until we do.
    async fn answer(&mut self, line: Bytes) {
        let mut sent = self.outbox.try_send(line);
        if let Err(TrySendError::Full(line)) = sent {
            // One read may bring more questions than the outbox holds: let answers be written.
            tokio::task::yield_now().await;
            sent = self.outbox.try_send(line);
        }
        let Err(TrySendError::Full(_)) = sent else {
            self.unsent = 0;
            return;
        };
        let server = self.child.server();
        tracing::debug!(server, "the server does not read, our answer is dropped");
        self.unsent += 1;
        if self.unsent == MAX_UNSENT {
            tracing::warn!(server, "it asks and does not read the answers, stopped");
            self.child.stop();
        }
    }

    /// Only where one request waits it is clear whose answer it may have been.
    fn too_long(&self, bytes: usize) {
        let server = self.child.server();
        tracing::warn!(server, bytes, "a line was too long, dropped");
        let only = self.table().forget_only();
        if let Some((sink, id)) = only {
            let text = format!("the answer of server `{server}` was too long: {bytes} bytes");
            drop(sink.push(failure(&id, &text, "answer_too_long")));
        }
    }

    fn noise(&mut self, line: &[u8]) {
        let server = self.child.server();
        let (bytes, text) = (line.len(), shown(line));
        self.warned = self.warned.saturating_add(1);
        if self.warned <= WARNINGS {
            tracing::warn!(server, bytes, text, "a line on stdout is not MCP, dropped");
        } else {
            tracing::trace!(server, bytes, text, "a line on stdout is not MCP, dropped");
        }
    }

    /// Answers what can no longer be answered by the server.
    async fn over(self) {
        self.child.stop();
        let exit = self.child.exited().await;
        let left = self.table().close();
        for (sink, id) in left {
            let message = death_notice(self.child.server(), &exit, Some(&id));
            drop(sink.push(Packet { message: message.into(), last: true }));
        }
    }
}

impl Full {
    /// Notes that a packet was dropped, once for each queue at the level of a warning; returns
    /// what to tell the server when it was a question.
    pub(super) fn explain(&self, server: &str) -> Option<Vec<u8>> {
        if self.first {
            tracing::warn!(server, "a client does not read, what does not fit is dropped");
        }
        refusal(&self.packet.message)
    }
}

/// Returns how a line that is not MCP begins. Of what looks like a message that is broken, or a part
/// of one, nothing is shown: it may hold what belongs to a client.
fn shown(line: &[u8]) -> Option<String> {
    let json = line.trim_ascii_start().first().is_some_and(|first| b"{[\"".contains(first));
    (!json).then(|| String::from_utf8_lossy(&line[..line.len().min(NOISE)]).into_owned())
}

/// Returns the error response to a request whose server died.
pub(super) fn death_notice(server: &str, exit: &Exit, id: Option<&str>) -> Vec<u8> {
    let text = format!("server `{server}` stopped ({}) before it answered", exit.status);
    let data = serde_json::json!({ "reason": "upstream_exited", "status": exit.status });
    message::error_response(id, message::INTERNAL_ERROR, &text, Some(&data))
}

/// Returns the answer to a request that failed on its way.
pub(super) fn failure(id: &str, text: &str, reason: &str) -> Packet {
    let data = serde_json::json!({ "reason": reason });
    let message = message::error_response(Some(id), message::INTERNAL_ERROR, text, Some(&data));
    Packet { message: message.into(), last: true }
}

#[cfg(test)]
mod tests;
