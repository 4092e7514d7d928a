//! How long a visitor may be silent, and how long it may take nothing.
//!
//! An answer that is not taken is not asked for either: no timer of an exchange runs then. So the
//! socket itself gives up; on HTTP/2, where the socket goes on without any answer, `resting` does.
//!
//! For heads of HTTP/1, hyper has one timeout for the wait for a request and for the request's head. This makes two of
//! it: a connection that never asked anything, and a head once begun, get [`HEAD_TIMEOUT`]; a
//! connection that was served may rest for [`IDLE_TIMEOUT`]. hyper starts the timeout with a new
//! sleep before it reads, and polls that sleep after each read that found no whole head: the sleep
//! itself can shorten the rest once the stream has heard something.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a visitor may take for a TLS handshake, its first request or a request head (slow
/// loris).
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may rest between requests: above the 60 s that proxies in front rest
/// theirs, so that they rather than this end close it.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Returns the stream and the timer of one connection, which know of each other. The stream fails
/// once its peer has taken nothing for `patience`.
pub(super) fn watch<S>(stream: S, patience: Duration) -> (Watched<S>, HeadTimer) {
    let heard = Arc::new(AtomicBool::new(false));
    let timer = HeadTimer {
        heard: Arc::clone(&heard),
        served: AtomicBool::new(false),
        alarm: Arc::default(),
    };
    (Watched { stream, heard, patience, stuck_since: None, timer: None }, timer)
}

/// A stream that notes when something came, and fails when nothing goes.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    heard: Arc<AtomicBool>,
    patience: Duration,
    /// Since when the peer takes nothing.
    stuck_since: Option<tokio::time::Instant>,
    /// Kept from one time to the next, and set anew only when it fires too early.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<S> Watched<S> {
    /// Passes on what came of a write, unless there was none for too long.
    fn in_time<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck_since = None;
            return written;
        }
        let since = *self.stuck_since.get_or_insert_with(tokio::time::Instant::now);
        let end = since + self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if tokio::time::Instant::now() >= end {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(end);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(written, cx)
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The timer of one HTTP/1 connection. hyper asks it for nothing but the timeout of heads.
#[derive(Debug)]
pub(super) struct HeadTimer {
    heard: Arc<AtomicBool>,
    served: AtomicBool,
    alarm: Arc<Alarm>,
}

/// What wakes a connection that was served, kept from one rest to the next: most rests are ended by the next
/// request, and to enter each among the runtime's timers, and to remove it, takes a lock that all workers share.
#[derive(Debug, Default)]
struct Alarm(Mutex<Option<Pin<Box<tokio::time::Sleep>>>>);

impl Alarm {
    /// Waits until `deadline`; whoever polls last is woken. It may fire for an earlier rest, and is set anew then.
    fn poll(&self, deadline: tokio::time::Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if tokio::time::Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        if !self.served.swap(true, Ordering::Relaxed) {
            return TokioTimer::new().sleep_until(deadline);
        }
        // A part of the next head may have come with the last request: it is not seen here, and
        // such a head may take as long as a rest.
        self.heard.store(false, Ordering::Relaxed);
        Box::pin(Rest {
            // hyper gives it the time for a head from now on.
            deadline: tokio::time::Instant::from_std(deadline + (IDLE_TIMEOUT - HEAD_TIMEOUT)),
            heard: Arc::clone(&self.heard),
            alarm: Arc::clone(&self.alarm),
            begun: false,
        })
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }
}

/// The rest of a connection that was served; then the time for its next head.
struct Rest {
    deadline: tokio::time::Instant,
    heard: Arc<AtomicBool>,
    alarm: Arc<Alarm>,
    begun: bool,
}

impl Sleep for Rest {}

impl Future for Rest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.begun && self.heard.load(Ordering::Relaxed) {
            self.begun = true;
            self.deadline = tokio::time::Instant::now() + HEAD_TIMEOUT;
        }
        self.alarm.poll(self.deadline, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Serves one connection while `visit` is the visitor, and returns how long after the visit
    /// the server ended it.
    async fn patience(visit: impl AsyncFnOnce(&mut DuplexStream)) -> Duration {
        let (mut near, far) = tokio::io::duplex(4096);
        let (far, timer) = watch(far, PATIENCE);
        let mut builder = http1::Builder::new();
        builder.timer(timer).header_read_timeout(HEAD_TIMEOUT);
        let service = service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        let visitor = async {
            visit(&mut near).await;
            let quiet = tokio::time::Instant::now();
            near.read_to_end(&mut Vec::new()).await.unwrap();
            quiet.elapsed()
        };
        tokio::join!(builder.serve_connection(TokioIo::new(far), service), visitor).1
    }

    async fn ask(near: &mut DuplexStream) {
        near.write_all(REQUEST).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(near.read_u8().await.unwrap());
        }
    }

    fn is_about(measured: Duration, wanted: Duration) -> bool {
        measured.abs_diff(wanted) < Duration::from_millis(50)
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_connection_must_ask_soon() {
        assert!(is_about(patience(async |_| {}).await, HEAD_TIMEOUT));
        let begun = patience(async |near| near.write_all(b"GET /").await.unwrap()).await;
        assert!(is_about(begun, HEAD_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_served_connection_may_rest() {
        let rested = patience(async |near| {
            ask(near).await;
            tokio::time::sleep(IDLE_TIMEOUT - Duration::from_secs(5)).await;
            ask(near).await;
        });
        assert!(is_about(rested.await, IDLE_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_was_begun_after_a_rest_must_end_soon() {
        let dripped = patience(async |near| {
            ask(near).await;
            tokio::time::sleep(Duration::from_secs(40)).await;
            near.write_all(b"GET /").await.unwrap();
            tokio::time::sleep(Duration::from_secs(6)).await;
            near.write_all(b"slow").await.unwrap();
        });
        assert!(is_about(dripped.await, HEAD_TIMEOUT - Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_that_takes_nothing_is_given_up() {
        let (_near, far) = tokio::io::duplex(64);
        let (mut far, _timer) = watch(far, PATIENCE);
        let start = tokio::time::Instant::now();
        let error = far.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_that_takes_a_little_now_and_then_gets_all() {
        let (mut near, far) = tokio::io::duplex(64);
        let (mut far, _timer) = watch(far, PATIENCE);
        let read = async {
            for _ in 0..10 {
                tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
                near.read_exact(&mut [0; 64]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(far.write_all(&[0; 640]), read);
        written.unwrap();
    }
}
