//! Requests that switch protocols (WebSocket), on shares of mode `http`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::body::{EdgeBody, LaneBody};
use super::failure::lane_failure;
use crate::config::Config;
use crate::error::EdgeError;
use crate::headers::{self, Forwarded};
use crate::metrics::Metrics;
use crate::observe::Seen;
use crate::tunnel::lane::Outgoing;
use crate::tunnel::share::{InFlight, Share};
use crate::tunnel::visitor_body::{RequestBody, VisitorBody};

/// Tells whether a request asks to switch protocols (RFC 9110 §7.8).
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let named = |value: &http::HeaderValue| {
        value.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade")))
    };
    headers.contains_key(header::UPGRADE) && headers.get_all(header::CONNECTION).iter().any(named)
}

/// Carries such a request over a lane of its own, and the switched protocol after it.
pub(super) async fn run(
    scope: &Scope,
    config: &Config,
    share: &Arc<Share>,
    mut in_flight: InFlight,
    (mut request, forwarded): (Request<RequestBody>, Forwarded),
    metrics: &Arc<Metrics>,
    seen: &mut Seen,
) -> Result<Response<EdgeBody>, EdgeError> {
    let visitor = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let counter = metrics.bytes_in.clone();
    let body = VisitorBody::new(body, config.limits.max_body_bytes, None, counter, &in_flight);
    let failed = |error| lane_failure(share, &error);
    let mut lane = share.fresh_lane(&mut in_flight).await.map_err(failed)?;
    let mut request = Outgoing::new(&parts, body, &forwarded);
    let mut response = lane.exchange(&mut request, config.timing.idle).await.map_err(failed)?;
    headers::remove_relay_claims(response.headers_mut());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        headers::remove_hop_by_hop(response.headers_mut());
        let request = request.take_rest().map(Box::new);
        let (share, metrics) = (Arc::clone(share), Arc::clone(metrics));
        let idle = config.timing.idle;
        return Ok(response.map(|reader| {
            let body = LaneBody::new(
                reader,
                (None, lane),
                request,
                share,
                in_flight,
                metrics,
                false,
                idle,
            );
            EdgeBody::Lane(Box::new(body))
        }));
    }
    let (agent, first) = lane.into_stream();
    let mut seen = std::mem::take(seen);
    seen.answered(StatusCode::SWITCHING_PROTOCOLS);
    scope.spawn_until_cancelled(async move {
        let mut agent = Counted { stream: agent, in_flight };
        let Ok(visitor) = visitor.await else { return };
        let mut visitor = TokioIo::new(visitor);
        let carried = async {
            visitor.write_all(&first).await?;
            // With TLS what was written may not have left yet, and copying flushes its own only.
            visitor.flush().await?;
            agent.in_flight.add_out(first.len() as u64);
            tokio::io::copy_bidirectional(&mut visitor, &mut agent).await
        };
        match carried.await {
            Ok((_, sent)) => {
                seen.sent(sent.saturating_add(first.len() as u64));
                seen.whole();
            }
            Err(error) => tracing::debug!(%error, "upgraded exchange ended"),
        }
    });
    Ok(response.map(|_| EdgeBody::empty()))
}

/// The agent's end of a switched protocol: counts what passes, and ends when it may not go on.
struct Counted<S> {
    stream: S,
    in_flight: InFlight,
}

impl<S> Counted<S> {
    fn check(&self) -> io::Result<()> {
        match self.in_flight.may_go_on() {
            true => Ok(()),
            false => Err(io::Error::other("the exchange may not go on")),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.in_flight.add_out(read as u64);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.in_flight.add_in(written as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
