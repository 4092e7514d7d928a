//! Requests that switch protocols (WebSocket), on shares of mode `http`.

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mcpm_shared::scope::Scope;

use super::body::{EdgeBody, LaneBody};
use crate::config::Config;
use crate::error::EdgeError;
use crate::metrics::Metrics;
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
    in_flight: InFlight,
    mut request: Request<Incoming>,
    metrics: &Metrics,
) -> Result<Response<EdgeBody>, EdgeError> {
    let visitor = hyper::upgrade::on(&mut request);
    let request = request.map(|body| VisitorBody::new(body, config.limits.max_body_bytes, None));
    let lane = share.fresh_lane(config.limits.max_header_bytes).await.map_err(|error| {
        tracing::debug!(%error, "no lane");
        EdgeError::Offline
    })?;
    let answer = lane.exchange_upgradable(request, |driver| scope.spawn_until_cancelled(driver));
    let mut response = tokio::time::timeout(config.timing.idle, answer)
        .await
        .map_err(|_| EdgeError::Idle)?
        .map_err(|_| EdgeError::AgentFailed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let share = Arc::clone(share);
        return Ok(response.map(|incoming| {
            let idle = config.timing.idle;
            let body =
                LaneBody::new(incoming, None, share, in_flight, metrics.clone(), false, idle);
            EdgeBody::Lane(Box::new(body))
        }));
    }
    let agent = hyper::upgrade::on(&mut response);
    scope.spawn_until_cancelled(async move {
        let _in_flight = in_flight;
        let (Ok(visitor), Ok(agent)) = tokio::join!(visitor, agent) else { return };
        let (mut visitor, mut agent) = (TokioIo::new(visitor), TokioIo::new(agent));
        if let Err(error) = tokio::io::copy_bidirectional(&mut visitor, &mut agent).await {
            tracing::debug!(%error, "upgraded exchange ended");
        }
    });
    Ok(response.map(|_| EdgeBody::empty()))
}
