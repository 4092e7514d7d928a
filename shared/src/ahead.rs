//! A stream that reads far ahead while much comes, and holds next to nothing while little does.
//!
//! The WebSocket of a session reads into a buffer of its own, whose size is fixed. A large one
//! is what most of the memory of a resting agent would be; with a small one, bulk answers would take
//! a system call for each few kilobytes. So they do with TLS, where rustls reads 4 KiB at a time
//! though a record may be four times as long.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes that a reader should ask for at a time: a few requests or answers.
pub const SMALL: usize = 2 * 1024;
/// Bytes that are read at a time while much comes. More would spare few calls, and let a connection run
/// further ahead of its visitors before it is another task's turn: 64 KiB cost 15 MB at the peak.
const LARGE: usize = 16 * 1024;

/// Reads a stream, ahead where it is worth it. Writes pass.
#[derive(Debug)]
pub struct Ahead<S> {
    stream: S,
    /// What was read and not asked for yet. Room for it is kept from one read to the next, and given
    /// back when little came, or nothing.
    ahead: BytesMut,
    /// Whether the last read found more than fits a small buffer.
    much: bool,
}

impl<S> Ahead<S> {
    /// Reads `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: BytesMut::new(), much: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() && !this.much {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            this.much = buf.remaining() == 0 && buf.filled().len() > before;
            return Poll::Ready(Ok(()));
        }
        if this.ahead.is_empty() {
            this.ahead.reserve(LARGE);
            let read = poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.ahead);
            let Poll::Ready(read) = read else {
                this.ahead = BytesMut::new();
                return Poll::Pending;
            };
            this.much = read? > SMALL;
        }
        let taken = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..taken]);
        this.ahead.advance(taken);
        if this.ahead.is_empty() && !this.much {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_whatever_is_asked_for_at_a_time() {
        let sent: Vec<u8> = (0..500_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for asked in [1, 7, SMALL, LARGE, 3 * LARGE] {
            let (mut near, far) = tokio::io::duplex(100_000);
            let mut reader = Ahead::new(far);
            let (mut got, mut piece) = (Vec::new(), vec![0; asked]);
            let read = async {
                loop {
                    match reader.read(&mut piece).await.unwrap() {
                        0 => return,
                        read => got.extend_from_slice(&piece[..read]),
                    }
                }
            };
            let write = async {
                near.write_all(&sent).await.unwrap();
                near.shutdown().await.unwrap();
            };
            tokio::join!(read, write);
            assert_eq!(got, sent, "{asked}");
        }
    }

    #[tokio::test]
    async fn room_for_much_is_given_back_when_little_comes() {
        let (mut near, far) = tokio::io::duplex(2 * LARGE);
        let mut reader = Ahead::new(far);
        let mut piece = vec![0; SMALL];
        near.write_all(&vec![1; LARGE]).await.unwrap();
        for _ in 0..LARGE / SMALL {
            reader.read_exact(&mut piece).await.unwrap();
        }
        assert!(reader.much && reader.ahead.capacity() > 0);
        assert!(reader.read(&mut piece).now_or_never().is_none());
        assert_eq!(reader.ahead.capacity(), 0);
        near.write_all(&vec![1; LARGE]).await.unwrap();
        reader.read_exact(&mut piece).await.unwrap();
        assert!(reader.ahead.capacity() > 0);
        reader.read_exact(&mut vec![0; LARGE - SMALL]).await.unwrap();
        for _ in 0..2 {
            near.write_all(b"ping").await.unwrap();
            assert_eq!(reader.read(&mut piece).await.unwrap(), 4);
        }
        assert_eq!(reader.ahead.capacity(), 0);
    }
}
