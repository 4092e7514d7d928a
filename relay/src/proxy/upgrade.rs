//! Requests that switch protocols (WebSocket), on shares of mode `http`.

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mcpm_shared::scope::Scope;
use tokio::io::AsyncWriteExt as _;

use super::body::{EdgeBody, LaneBody};
use crate::config::Config;
use crate::error::EdgeError;
use crate::headers::{self, Forwarded};
use crate::metrics::Metrics;
use crate::tunnel::lane::Outgoing;
use crate::tunnel::share::{InFlight, Share};
use crate::tunnel::visitor_body::VisitorBody;

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
    (mut request, forwarded): (Request<Incoming>, Forwarded),
    metrics: &Arc<Metrics>,
) -> Result<Response<EdgeBody>, EdgeError> {
    let visitor = hyper::upgrade::on(&mut request);
    let request = request.map(|body| {
        let counter = metrics.bytes_in.clone();
        VisitorBody::new(body, config.limits.max_body_bytes, None, counter)
    });
    let mut lane = share.fresh_lane(&mut in_flight).await.map_err(|error| {
        tracing::debug!(%error, "no lane");
        EdgeError::Offline
    })?;
    let mut request = Outgoing::new(request, &forwarded);
    let mut response = lane.exchange(&mut request, config.timing.idle).await.map_err(|error| {
        tracing::debug!(%error, "upgrade failed");
        EdgeError::AgentFailed
    })?;
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
    let (mut agent, first) = lane.into_stream();
    scope.spawn_until_cancelled(async move {
        let _in_flight = in_flight;
        let Ok(visitor) = visitor.await else { return };
        let mut visitor = TokioIo::new(visitor);
        let carried = async {
            visitor.write_all(&first).await?;
            // With TLS what was written may not have left yet, and copying flushes its own only.
            visitor.flush().await?;
            tokio::io::copy_bidirectional(&mut visitor, &mut agent).await
        };
        if let Err(error) = carried.await {
            tracing::debug!(%error, "upgraded exchange ended");
        }
    });
    Ok(response.map(|_| EdgeBody::empty()))
}
