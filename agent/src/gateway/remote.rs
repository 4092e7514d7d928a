//! A remote server over Streamable HTTP, and the byte-transparent exchange with it.

mod endpoint;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use mcpm_shared::access::Principal;
use tokio_util::sync::CancellationToken;

pub(super) use self::endpoint::Endpoint;
use super::GatewayError;
use super::body::{BoxError, GatewayBody};
use super::reply;
use crate::mcp::era::{METHOD_HEADER, MODERN, SESSION_HEADER, VERSION_HEADER};
use crate::mcp::line::MAX_LINE;
use crate::mcp::message::{INTERNAL_ERROR, INVALID_REQUEST, Incoming, Message};
use crate::mcp::sse;
use crate::model::Vars;

/// How many sessions of visitors are remembered with their owner.
const MAX_OWNERS: usize = 4096;

/// Headers that travel to the server, besides `mcp-…`. A list of what passes, because credentials,
/// addresses and cookies of a visitor are nothing to the server.
const TO_SERVER: [&str; 9] = [
    "accept",
    "accept-language",
    "baggage",
    "content-length",
    "content-type",
    "last-event-id",
    "traceparent",
    "tracestate",
    "user-agent",
];
/// Headers that travel back, besides `mcp-…`.
const TO_CLIENT: [&str; 9] = [
    "allow",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "etag",
    "last-modified",
    "retry-after",
    "x-accel-buffering",
];

/// A remote server.
#[derive(Debug)]
pub(super) struct Remote {
    endpoint: Endpoint,
    owners: Mutex<Owners>,
}

/// Whose a session is, so that a stolen session id is worth nothing without its credential. A session
/// that is not known is nobody's: its client opens another one.
#[derive(Debug, Default)]
struct Owners {
    of: HashMap<String, Owner>,
    clock: u64,
}

#[derive(Debug)]
struct Owner {
    principal: Principal,
    used: u64,
}

impl Owners {
    /// Tells whether a session is this principal's, and notes that it is in use.
    fn admit(&mut self, id: &str, principal: &Principal) -> bool {
        self.clock += 1;
        match self.of.get_mut(id) {
            Some(owner) if owner.principal == *principal => {
                owner.used = self.clock;
                true
            }
            _ => false,
        }
    }

    /// Notes a session that was opened; one that is somebody's already stays theirs.
    fn note(&mut self, id: &str, principal: &Principal) {
        self.clock += 1;
        if self.of.contains_key(id) {
            return;
        }
        if self.of.len() >= MAX_OWNERS {
            let idle = self.of.iter().min_by_key(|(_, owner)| owner.used);
            if let Some(idle) = idle.map(|(id, _)| id.clone()) {
                self.of.remove(&idle);
            }
        }
        let owner = Owner { principal: principal.clone(), used: self.clock };
        self.of.insert(id.to_owned(), owner);
    }
}

impl Remote {
    pub(super) fn new(server: &str, url: &str, headers: &Vars) -> Result<Self, GatewayError> {
        let endpoint = Endpoint::new(server, url, headers)?;
        Ok(Self { endpoint, owners: Mutex::default() })
    }

    /// Passes one HTTP exchange through: streaming both ways, cancelled when it is dropped.
    pub(super) async fn exchange<B>(
        &self,
        request: Request<B>,
        principal: &Principal,
        max_body: usize,
    ) -> Response<GatewayBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        if let Err(refusal) = check(&head, max_body) {
            return *refusal;
        }
        let session = head.headers.get(SESSION_HEADER);
        if let Some(id) = session
            && !id.to_str().is_ok_and(|id| self.owners().admit(id, principal))
        {
            let text = "the session has ended; open another one with `initialize`";
            return reply::error(StatusCode::NOT_FOUND, None, -32000, text);
        }
        // Only what answers `initialize` opens a session, and only that comes without one.
        let opener = session.is_none().then_some(principal);
        let headers = pass(&head.headers, &TO_SERVER);
        let body = Limited::new(body, max_body).boxed_unsync();
        match self.endpoint.send(head.method, headers, body).await {
            Ok(response) => self.answer(response, opener),
            Err(error) if is_too_long(&error) => too_long(max_body),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "upstream failed");
                let text = format!("cannot reach server `{}`", self.server());
                reply::error(StatusCode::BAD_GATEWAY, None, INTERNAL_ERROR, &text)
            }
        }
    }

    /// A refusal of *our* credentials is not one of the visitor's: passed on, it would start a
    /// login that leads nowhere.
    fn answer(
        &self,
        response: Response<hyper::body::Incoming>,
        opener: Option<&Principal>,
    ) -> Response<GatewayBody> {
        let (head, body) = response.into_parts();
        let failed = |text: &str| {
            tracing::warn!(server = %self.server(), status = head.status.as_u16(), "upstream refused");
            reply::error(StatusCode::BAD_GATEWAY, None, INTERNAL_ERROR, text)
        };
        match head.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                failed(&format!("server `{}` refused the credentials of this share", self.server()))
            }
            status if status.is_redirection() => {
                failed(&format!("server `{}` answers with a redirect", self.server()))
            }
            status => {
                let session = head.headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok());
                if let (Some(id), Some(opener)) = (session, opener) {
                    self.owners().note(id, opener);
                }
                let mut response = Response::new(GatewayBody::upstream(body));
                *response.status_mut() = status;
                *response.headers_mut() = pass(&head.headers, &TO_CLIENT);
                if is_events(&head.headers) {
                    let no = HeaderValue::from_static("no");
                    response.headers_mut().insert("x-accel-buffering", no);
                }
                response
            }
        }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request of ours to the server.
    pub(super) async fn call(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        self.endpoint.call(method, headers, body).await
    }

    /// Posts a message of ours; the token is cancelled when a connection has taken it.
    pub(super) async fn post(
        &self,
        mut headers: HeaderMap,
        body: Bytes,
        on_wire: CancellationToken,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A body that is watched does not tell its length.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let watched = Full::new(body).map_frame(move |frame| {
            on_wire.cancel();
            frame
        });
        let body = watched.map_err(|never| match never {}).boxed_unsync();
        self.endpoint.send(Method::POST, headers, body).await
    }

    pub(super) fn unreachable(&self, error: impl Into<BoxError>) -> GatewayError {
        self.endpoint.unreachable(error)
    }

    pub(super) fn server(&self) -> &str {
        self.endpoint.server()
    }

    /// Makes one request of ours and returns the answer to it; a session that opens is ended.
    pub(super) async fn ask(&self, request: &'static str) -> Result<Bytes, GatewayError> {
        let mut headers = HeaderMap::new();
        if request.contains("server/discover") {
            headers.insert(VERSION_HEADER, HeaderValue::from_static(MODERN));
            headers.insert(METHOD_HEADER, HeaderValue::from_static("server/discover"));
        }
        let body = Bytes::from_static(request.as_bytes());
        let response = self.call(Method::POST, headers, body).await?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let (server, status) = (self.server().to_owned(), status.as_u16());
            return Err(GatewayError::Unauthorized { server, status });
        }
        let session = response.headers().get(SESSION_HEADER).cloned();
        let answer = self.read_answer(response).await?;
        if let Some(session) = session {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static(SESSION_HEADER), session)]);
            drop(self.call(Method::DELETE, headers, Bytes::new()).await);
        }
        match answer {
            Some(answer) => Ok(answer),
            None => Err(GatewayError::Url {
                server: self.server().to_owned(),
                url: self.endpoint.path().to_owned(),
                reason: format!("it answers HTTP {} and no MCP", status.as_u16()),
            }),
        }
    }

    async fn read_answer(
        &self,
        response: Response<hyper::body::Incoming>,
    ) -> Result<Option<Bytes>, GatewayError> {
        let unreadable = |error: BoxError| self.unreachable(error);
        if !is_events(response.headers()) {
            let body = Limited::new(response.into_body(), MAX_LINE).collect().await;
            let body = body.map_err(unreadable)?.to_bytes();
            return Ok(Some(body).filter(|body| Incoming::parse(body).is_ok()));
        }
        let mut body = response.into_body();
        let mut events = sse::Decoder::new(MAX_LINE);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unreadable(error.into()))?;
            if let Ok(data) = frame.into_data() {
                events.push(&data);
            }
            while let Some(event) = events.next_event().map_err(|e| unreadable(e.into()))? {
                let text = std::str::from_utf8(&event.data).unwrap_or_default();
                if Message::parse(text)
                    .is_ok_and(|m| m.kind() == crate::mcp::message::Kind::Response)
                {
                    return Ok(Some(event.data));
                }
            }
        }
        Ok(None)
    }
}

fn pass(headers: &HeaderMap, passing: &[&str]) -> HeaderMap {
    let passes =
        |name: &HeaderName| name.as_str().starts_with("mcp-") || passing.contains(&name.as_str());
    let pairs = headers.iter().filter(|(name, _)| passes(name));
    let mut out = HeaderMap::new();
    for (name, value) in pairs {
        out.append(name.clone(), value.clone());
    }
    out
}

/// Refuses what no client of MCP sends: a page can make a browser post text, but not JSON.
fn check(head: &http::request::Parts, max_body: usize) -> Result<(), Box<Response<GatewayBody>>> {
    if head.method != Method::POST {
        return Ok(());
    }
    if !is_kind(&head.headers, "application/json") {
        let (status, text) =
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json");
        return Err(reply::error(status, None, INVALID_REQUEST, text).into());
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length > max_body => Err(too_long(max_body).into()),
        _ => Ok(()),
    }
}

fn too_long(limit: usize) -> Response<GatewayBody> {
    let text = format!("the message is longer than {limit} bytes");
    reply::error(StatusCode::PAYLOAD_TOO_LARGE, None, INVALID_REQUEST, &text)
}

/// Tells whether a request failed because its body was longer than we take.
fn is_too_long(error: &GatewayError) -> bool {
    let first: &dyn std::error::Error = error;
    std::iter::successors(Some(first), |error| error.source())
        .any(<dyn std::error::Error>::is::<LengthLimitError>)
}

/// Tells whether a body is a stream of events.
pub(super) fn is_events(headers: &HeaderMap) -> bool {
    is_kind(headers, "text/event-stream")
}

fn is_kind(headers: &HeaderMap, expected: &str) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(expected)
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
