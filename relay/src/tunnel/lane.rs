//! A lane: one data stream that carries HTTP/1.1 exchanges to one share, one after the other.
//!
//! The lane's HTTP connection has no task of its own. Whoever waits for the answer, or for the next
//! piece of its body, drives it: that saves two task switches an exchange. Dropping a lane amid an
//! exchange resets its stream, which cancels the exchange at the agent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use mcpm_shared::mux::{MuxError, MuxStream, Opener};
use mcpm_shared::proto::head::{StreamHead, Verdict};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::visitor_body::VisitorBody;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// No stream could be opened: nothing reached the agent.
    #[error("no stream to the agent could be opened")]
    Open(#[source] MuxError),
    /// The lane was gone already: nothing of the request was sent, so here it is back.
    #[error("the lane was gone before the request was sent")]
    Unsent(Box<Request<VisitorBody>>),
    /// The agent refused the stream, or it failed.
    #[error("the exchange with the agent failed")]
    Exchange(#[source] hyper::Error),
}

/// A stream with its head sent, whose first byte from the agent is the verdict.
#[derive(Debug)]
struct LaneIo {
    stream: MuxStream,
    accepted: bool,
}

impl LaneIo {
    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0; 1];
        let mut buf = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        match buf.filled().first().map(|byte| Verdict::decode(*byte)) {
            Some(Verdict::Accepted) => {
                self.accepted = true;
                Poll::Ready(Ok(()))
            }
            Some(refusal) => Poll::Ready(Err(io::Error::other(refusal))),
            None => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl AsyncRead for LaneIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.accepted {
            ready!(self.poll_verdict(cx))?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LaneIo {
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
}

/// An open lane.
#[derive(Debug)]
pub struct Lane {
    sender: SendRequest<VisitorBody>,
    connection: Connection<TokioIo<LaneIo>, VisitorBody>,
    idle_since: Instant,
}

impl Lane {
    /// Opens a stream to a share and makes a lane of it. Costs no round trip.
    ///
    /// # Errors
    /// When no stream can be had.
    pub async fn open(
        opener: &Opener,
        head: StreamHead,
        max_head: usize,
    ) -> Result<Self, LaneError> {
        let mut stream = opener.open().await.map_err(LaneError::Open)?;
        let ended = |_| LaneError::Open(MuxError::Closed);
        stream.write_all(&head.encode()).await.map_err(ended)?;
        let io = TokioIo::new(LaneIo { stream, accepted: false });
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(max_head.max(8 * 1024))
            .handshake(io)
            .await
            .map_err(LaneError::Exchange)?;
        Ok(Self { sender, connection, idle_since: Instant::now() })
    }

    /// Sends a request and waits for the head of its answer. The lane comes back to drive the body.
    ///
    /// # Errors
    /// When the stream fails first. Not cancel-safe: dropping the future cancels the exchange.
    pub async fn exchange(
        mut self,
        request: Request<VisitorBody>,
    ) -> Result<(Response<Incoming>, Self), LaneError> {
        let answer = self.sender.try_send_request(request);
        let mut answer = std::pin::pin!(answer);
        let connection = &mut self.connection;
        let mut ended = false;
        let response = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(response) = answer.as_mut().poll(cx) {
                    return Poll::Ready(response);
                }
                // The connection reports its failure to the answer, too; that one is returned.
                if ended || Pin::new(&mut *connection).poll(cx).is_pending() {
                    return answer.as_mut().poll(cx);
                }
                ended = true;
            }
        })
        .await
        .map_err(|mut error| match error.take_message() {
            Some(request) => LaneError::Unsent(Box::new(request)),
            None => LaneError::Exchange(error.into_error()),
        })?;
        Ok((response, self))
    }

    /// Sends a request whose answer may switch protocols. The connection is driven by `spawn`.
    ///
    /// # Errors
    /// When the stream fails first.
    pub async fn exchange_upgradable(
        mut self,
        request: Request<VisitorBody>,
        spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>),
    ) -> Result<Response<Incoming>, LaneError> {
        let driven = self.connection.with_upgrades();
        spawn(Box::pin(async move {
            if let Err(error) = driven.await {
                tracing::debug!(%error, "upgraded lane ended");
            }
        }));
        self.sender.send_request(request).await.map_err(LaneError::Exchange)
    }

    /// Drives the connection while somebody waits for a piece of the body.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.connection).poll(cx).map(|_| ())
    }

    /// Tells, after an exchange or a rest, whether the lane can carry another one.
    pub fn settle(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_drive(&mut cx).is_pending() && self.sender.is_ready()
    }

    /// Notes that the lane rests from now on.
    pub fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Returns since when the lane rests.
    pub fn idle_since(&self) -> Instant {
        self.idle_since
    }
}
