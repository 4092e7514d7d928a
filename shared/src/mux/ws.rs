//! A byte pipe of binary WebSocket messages for yamux.
//!
//! yamux flushes after every frame. Here its flush does nothing: bytes gather, and the driver of
//! the connection sends them as one message when yamux has no more to say ([`Flusher`]).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::proto::MAX_MESSAGE;

/// Returns the WebSocket limits and buffer sizes of a tunnel connection.
#[must_use]
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        // We hand over whole messages and flush: a second gathering buffer would only copy.
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// When bytes last came from the peer. Clones share the clock.
#[derive(Clone, Debug)]
pub struct Activity {
    origin: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { origin: Instant::now(), last_ms: Arc::default() }
    }
}

impl Activity {
    fn touch(&self) {
        let elapsed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed, Ordering::Relaxed);
    }

    /// Returns how long the peer has been silent.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(last)
    }
}

struct Inner<S> {
    socket: WebSocketStream<S>,
    read: Bytes,
    write: BytesMut,
    activity: Activity,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            // What was read out lets go of its buffer, for the next message to take it.
            self.read = Bytes::new();
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(message)) => {
                    self.activity.touch();
                    match message {
                        Message::Binary(bytes) => self.read = bytes,
                        Message::Close(_) => break,
                        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                        Message::Text(_) => {
                            return Poll::Ready(Err(invalid("a text message came")));
                        }
                    }
                }
                Some(Err(
                    Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                ))
                | None => break,
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands what has gathered to the socket as one message.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let message = Message::Binary(self.write.split().freeze());
        Poll::Ready(Pin::new(&mut self.socket).start_send(message).map_err(into_io))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// yamux's view of the socket. Only one task ever locks, so the lock never waits.
pub(super) struct WsIo<S>(Arc<Mutex<Inner<S>>>);

/// The driver's view: sends what has gathered.
pub(super) struct Flusher<S>(Arc<Mutex<Inner<S>>>);

impl<S: AsyncRead + AsyncWrite + Unpin> WsIo<S> {
    pub(super) fn new(socket: WebSocketStream<S>, activity: Activity) -> (Self, Flusher<S>) {
        activity.touch();
        let inner = Inner { socket, read: Bytes::new(), write: BytesMut::new(), activity };
        let inner = Arc::new(Mutex::new(inner));
        (Self(Arc::clone(&inner)), Flusher(inner))
    }
}

fn lock<S>(inner: &Mutex<Inner<S>>) -> MutexGuard<'_, Inner<S>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Flusher<S> {
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_flush(cx)
    }

    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.socket).poll_close(cx).map_err(into_io)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> futures_util::io::AsyncRead for WsIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_fill(cx))?;
        let n = inner.read.len().min(buf.len());
        inner.read.copy_to_slice(&mut buf[..n]);
        Poll::Ready(Ok(n))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> futures_util::io::AsyncWrite for WsIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        if inner.write.len() == MAX_MESSAGE {
            ready!(inner.poll_send(cx))?;
        }
        let n = buf.len().min(MAX_MESSAGE - inner.write.len());
        inner.write.extend_from_slice(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_flush(cx)
    }
}
