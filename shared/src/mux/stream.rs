//! One stream of a connection, as the rest of the programs sees it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::{AsyncWrite as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::crowd::{Member, Streams};

/// One stream. Dropping it before it is shut down resets it, which the peer sees at once.
///
/// A reset, or the end of the connection, is read as `ConnectionReset`, and only the peer's own
/// shutdown as the end: an answer that was cut must not look whole.
#[derive(Debug)]
pub struct MuxStream {
    inner: yamux::Stream,
    /// What came and was not read yet.
    rest: Bytes,
    /// Whether this end has shut down: from then on both ends' shutdown looks like a reset.
    shut: bool,
    member: Member,
}

impl MuxStream {
    pub(super) fn new(inner: yamux::Stream, streams: &Arc<Streams>) -> Self {
        Self { inner, rest: Bytes::new(), shut: false, member: Member::new(streams) }
    }

    /// Reads the next bytes as they came, without a copy; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// `ConnectionReset` when the peer reset the stream or the connection is gone.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        loop {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(packet)) if packet.as_ref().is_empty() => {}
                Some(Ok(packet)) => {
                    self.member.talks();
                    return Poll::Ready(Ok(Some(Bytes::from_owner(packet))));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None if !self.shut && self.inner.is_closed() => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                None => return Poll::Ready(Ok(None)),
            }
        }
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(mut bytes) = ready!(self.poll_bytes(cx))? {
            let n = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..n]);
            bytes.advance(n);
            self.rest = bytes;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.member.talks();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
