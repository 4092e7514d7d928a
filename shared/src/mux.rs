//! One connection of a session: yamux over binary WebSocket messages.
//!
//! yamux wants one task to drive it; [`connect`] gives that task's future beside the two handles
//! that the rest uses: [`Opener`] opens streams, [`Incoming`] yields those the peer opened.

mod crowd;
mod stream;
mod ws;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use yamux::{Config, Connection, ConnectionError, Mode};

use self::crowd::{Crowd, Streams};
pub use self::stream::MuxStream;
pub use self::ws::{Activity, websocket_config};
use self::ws::{Flusher, WsIo};
use crate::proto::{MAX_STREAMS, WINDOW_BUDGET};
use crate::scope::Over;

/// How many streams may wait to be opened or to be picked up.
const QUEUE: usize = 256;

/// How many streams below yamux's cap no more are opened: a dropped stream counts there until the
/// connection has seen to it.
const HEADROOM: usize = 256;

/// How long a close may take before the connection is simply dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The agent, which dialled: the yamux client.
    Agent,
    /// The relay, which was dialled.
    Relay,
}

/// Why a connection ended or a stream could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// The peer or the network ended the connection.
    #[error("the connection to the peer ended")]
    Closed,
    /// The connection has as many streams as it may have.
    #[error("the connection has as many streams as it may have")]
    TooManyStreams,
    /// The peer broke the protocol or the socket failed.
    #[error("the connection to the peer failed")]
    Failed(#[source] ConnectionError),
}

/// Opens streams on a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Opener {
    requests: mpsc::Sender<oneshot::Sender<Result<MuxStream, MuxError>>>,
    load: Arc<AtomicUsize>,
}

impl Opener {
    /// Opens a stream; costs no round trip.
    ///
    /// # Errors
    /// When the connection is gone or full. Cancel-safe: a stream nobody waits for is reset.
    pub async fn open(&self) -> Result<MuxStream, MuxError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| MuxError::Closed)?;
        answer.await.map_err(|_| MuxError::Closed)?
    }

    /// Tells whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Returns the counter of exchanges in flight here, which whoever spreads load over the
    /// connections of a session keeps.
    #[must_use]
    pub fn load(&self) -> &Arc<AtomicUsize> {
        &self.load
    }

    /// Returns how many exchanges are in flight here.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

/// Yields the streams that the peer opened; `None` when the connection ended.
pub type Incoming = mpsc::Receiver<MuxStream>;

/// Makes a connection out of an upgraded WebSocket. The future drives it until the connection ends
/// or `close` is cancelled, and must run in a task of its own: a panic in the mux then ends only it.
pub fn connect<S>(
    socket: WebSocketStream<S>,
    side: Side,
    activity: Activity,
    close: CancellationToken,
) -> (Opener, Incoming, impl Future<Output = Result<(), MuxError>> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (opener, incoming, driver) = driver(socket, side, activity);
    (opener, incoming, driver.run(close))
}

fn driver<S>(
    socket: WebSocketStream<S>,
    side: Side,
    activity: Activity,
) -> (Opener, Incoming, Driver<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, flusher) = WsIo::new(socket, activity);
    let mode = match side {
        Side::Agent => Mode::Client,
        Side::Relay => Mode::Server,
    };
    let connection = Connection::new(io, config(), mode);
    let (requests, opening) = mpsc::channel(QUEUE);
    let (accepted, incoming) = mpsc::channel(QUEUE);
    let driver = Driver {
        connection,
        flusher,
        opening,
        waiting: None,
        accepted,
        streams: Arc::default(),
        crowd: Crowd::default(),
        yielded: false,
    };
    (Opener { requests, load: Arc::default() }, incoming, driver)
}

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(MAX_STREAMS);
    // yamux counts 256 KiB for each possible stream; the budget is what they may grow beyond.
    config.set_max_connection_receive_window(Some(MAX_STREAMS * 256 * 1024 + WINDOW_BUDGET));
    config.set_split_send_size(16 * 1024);
    config
}

struct Driver<S> {
    connection: Connection<WsIo<S>>,
    flusher: Flusher<S>,
    opening: mpsc::Receiver<oneshot::Sender<Result<MuxStream, MuxError>>>,
    /// A request that yamux made wait: too many streams are unacknowledged.
    waiting: Option<oneshot::Sender<Result<MuxStream, MuxError>>>,
    accepted: mpsc::Sender<MuxStream>,
    streams: Arc<Streams>,
    crowd: Crowd,
    /// Whether others were let by since the last round.
    yielded: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    async fn run(mut self, close: CancellationToken) -> Result<(), MuxError> {
        let work =
            poll_fn(|cx| if self.lets_others_by(cx) { Poll::Pending } else { self.poll(cx) });
        if let Either::Left((ended, _)) = select(work, pin!(Over::from(close))).await {
            return ended;
        }
        // yamux's own close would leave readers of open streams waiting; dropping the connection
        // wakes them. So: say what was queued, close the WebSocket, drop.
        let goodbye = poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.flusher.poll_close(cx).map(|_| ()),
        });
        let _in_time = tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
        Ok(())
    }

    /// Tells whether this round is left to others. A task that is woken runs next, before those that
    /// have waited: woken by the first of many streams it would send their frames one by one. Behind
    /// the others it finds the frames of all, for one message.
    fn lets_others_by(&mut self, cx: &Context<'_>) -> bool {
        self.yielded = !self.yielded && self.crowd.is_there(&self.streams);
        if self.yielded {
            cx.waker().wake_by_ref();
        }
        self.yielded
    }

    /// Does all that can be done now: opens, accepts, reads, writes, and last flushes what yamux
    /// wrote, so that frames that were ready together leave in one message.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        loop {
            self.poll_opening(cx);
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    // A full queue resets the stream: whoever accepts has fallen far behind.
                    if let Err(error) =
                        self.accepted.try_send(MuxStream::new(stream, &self.streams))
                    {
                        tracing::debug!(%error, "inbound stream dropped");
                    }
                }
                Poll::Ready(None | Some(Err(ConnectionError::Closed))) => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(MuxError::Failed(error))),
                Poll::Pending => break,
            }
        }
        match self.flusher.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(MuxError::Failed(error.into()))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) {
        loop {
            let reply = match self.waiting.take() {
                Some(reply) => reply,
                None => match self.opening.poll_recv(cx) {
                    Poll::Ready(Some(reply)) => reply,
                    Poll::Ready(None) | Poll::Pending => return,
                },
            };
            if reply.is_closed() {
                continue;
            }
            // yamux itself would end the whole connection at its cap.
            if self.streams.open() >= MAX_STREAMS - HEADROOM {
                let _unwanted = reply.send(Err(MuxError::TooManyStreams));
                continue;
            }
            let opened = match self.connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => Ok(MuxStream::new(stream, &self.streams)),
                Poll::Ready(Err(ConnectionError::TooManyStreams)) => Err(MuxError::TooManyStreams),
                Poll::Ready(Err(error)) => Err(MuxError::Failed(error)),
                Poll::Pending => {
                    self.waiting = Some(reply);
                    return;
                }
            };
            // Whoever asked may have gone meanwhile; the stream is then reset.
            let _unwanted = reply.send(opened);
        }
    }
}

#[cfg(test)]
mod tests;
