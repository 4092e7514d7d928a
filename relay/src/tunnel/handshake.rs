//! The handshake of a tunnel connection: an agent asks to be let in, and is told in plain HTTP.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mcpm_shared::proto::{HANDSHAKE_TIMEOUT, PROTOCOL_VERSION, Refusal, SUBPROTOCOL, code};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Tunnels;
use super::sessions::Sessions;
use super::share::rate_address;
use crate::admission::{Admitted, Refused, unix_now};

/// How many sessions one key may have at once (a person's machines share no key), and one address:
/// an office behind one.
pub(super) const SESSIONS_PER_KEY: usize = 64;
const SESSIONS_PER_ADDRESS: usize = 4096;

impl Tunnels {
    /// Answers `GET /v1/tunnel`: with the switch to WebSocket, or with a refusal.
    pub async fn upgrade(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        peer: IpAddr,
        draining: bool,
    ) -> Response<String> {
        let started = tokio::time::Instant::now();
        let outcome = self.handshake(&request, peer, draining).await;
        self.metrics.handshake_seconds.observe(started.elapsed().as_secs_f64());
        let (admitted, accept) = match outcome {
            Ok(admitted) => admitted,
            Err(refused) => {
                let code = refused.refusal.code.clone().into_owned();
                tracing::info!(code, message = %refused.refusal.message, "agent refused");
                self.metrics.refusal(known_code(&code));
                self.note_refused(peer, known_code(&code), &refused);
                return refusal_response(&refused);
            }
        };
        self.metrics.handshakes.inc();
        let tunnels = Arc::clone(self);
        let upgrade = hyper::upgrade::on(&mut request);
        self.scope.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrade).await {
                Ok(Ok(upgraded)) => {
                    tunnels.connection(TokioIo::new(upgraded), admitted, peer).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "tunnel upgrade failed"),
                Err(_) => tracing::debug!("tunnel upgrade timed out"),
            }
        });
        switching(&accept)
    }

    async fn handshake(
        &self,
        request: &Request<Incoming>,
        peer: IpAddr,
        draining: bool,
    ) -> Result<(Admitted, String), Refused> {
        if draining {
            return Err(unavailable("the relay is restarting"));
        }
        if let Err(wait) = self.handshakes.check(&rate_address(peer)) {
            let refusal =
                Refusal::new(code::RATE_LIMITED, "too many connections from this address")
                    .retry_after(wait.as_secs().max(1));
            return Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, refusal));
        }
        let accept = websocket_key(request)?;
        let admitted = self
            .admission
            .authenticate(bearer(request.headers())?, &self.audiences, unix_now())
            .await?;
        if self.owners.is_blocked(admitted.owner.as_str()) {
            return Err(Refused::new(StatusCode::FORBIDDEN, self.blocked()).of(&admitted.owner));
        }
        self.check_room(&self.locked(), &admitted, rate_address(peer))
            .map_err(|refused| refused.of(&admitted.owner))?;
        Ok((admitted, accept))
    }

    /// Refuses an agent when there are as many sessions as allowed, in all or of its kind.
    /// `address` is as rates count it.
    pub(super) fn check_room(
        &self,
        sessions: &Sessions,
        admitted: &Admitted,
        address: IpAddr,
    ) -> Result<(), Refused> {
        if sessions.len() >= self.config.load().limits.max_sessions {
            return Err(unavailable("the relay is full"));
        }
        if sessions.of_key(&admitted.subject) >= SESSIONS_PER_KEY
            || sessions.of_address(address) >= SESSIONS_PER_ADDRESS
        {
            let refusal =
                Refusal::new(code::RATE_LIMITED, "too many agents of yours are connected")
                    .retry_after(10);
            return Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, refusal));
        }
        Ok(())
    }
}

/// Checks that a request asks for our WebSocket, and returns the key that accepts it (RFC 6455
/// §4.2).
fn websocket_key<B>(request: &Request<B>) -> Result<String, Refused> {
    let headers = request.headers();
    let has = |name: header::HeaderName, token: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let websocket = key.is_some()
        && request.method() == Method::GET
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    if !has(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) || !websocket {
        let mut refusal = Refusal::new(
            code::UNSUPPORTED_VERSION,
            format!("this is the tunnel endpoint of an mcpm relay: it speaks {SUBPROTOCOL}"),
        )
        .hint("Update mcpm, or the relay");
        refusal.versions = vec![PROTOCOL_VERSION];
        return Err(Refused::new(StatusCode::UPGRADE_REQUIRED, refusal));
    }
    Ok(derive_accept_key(key.map(HeaderValue::as_bytes).unwrap_or_default()))
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refused> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    token.map(|(_, token)| token.trim()).ok_or_else(|| {
        let refusal = Refusal::new(code::BAD_CREDENTIAL, "no assertion was sent");
        Refused::new(StatusCode::UNAUTHORIZED, refusal)
    })
}

fn unavailable(message: &str) -> Refused {
    let refusal = Refusal::new(code::UNAVAILABLE, message).retry_after(2);
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, refusal)
}

fn switching(accept: &str) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

fn refusal_response(refused: &Refused) -> Response<String> {
    let body = serde_json::to_string(&refused.refusal).unwrap_or_default();
    let mut response = Response::new(body);
    *response.status_mut() = refused.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = refused.refusal.retry_after_secs {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refused.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    response
}

/// Returns the code as the metrics know it: a label must not grow by what a message says.
fn known_code(text: &str) -> &'static str {
    let known = [
        code::BAD_CREDENTIAL,
        code::CLOCK_SKEW,
        code::REPLAYED,
        code::FORBIDDEN,
        code::UNSUPPORTED_VERSION,
        code::RATE_LIMITED,
        code::UNAVAILABLE,
    ];
    known.into_iter().find(|code| *code == text).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_key_is_no_websocket() {
        let mut request = Request::get("/v1/tunnel")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", SUBPROTOCOL)
            .body(())
            .unwrap();
        let refused = websocket_key(&request).unwrap_err();
        assert_eq!(refused.status, StatusCode::UPGRADE_REQUIRED);
        // The example of RFC 6455 §1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        request.headers_mut().insert(header::SEC_WEBSOCKET_KEY, key);
        assert_eq!(websocket_key(&request).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
