//! The HTTP faces over conversations with a server: Streamable HTTP in both eras on one URL, and
//! HTTP+SSE for clients of 2024-11-05.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use mcpm_shared::access::Principal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::body::{BoxError, GatewayBody};
use super::hub::{Seat, View};
use super::link::{INBOX, Refusal};
use super::reply;
use super::sessions::{Caps, Sessions};
use super::talk::Conversation;
use super::{Gateway, Inner};
use crate::mcp::era::{self, Era};
use crate::mcp::message::{
    INTERNAL_ERROR, INVALID_REQUEST, Incoming, Message, PARSE_ERROR, error_response,
};

mod legacy;
mod modern;
mod params;
mod wire;

pub(super) use self::params::{Learner, Params};
pub(super) use self::wire::{Port, Wire};

/// Path of the Streamable HTTP endpoint.
pub(super) const MCP_PATH: &str = "/mcp";
/// Path of the stream of HTTP+SSE, and that of its messages.
pub(super) const SSE_PATH: &str = "/sse";
const MESSAGES_PATH: &str = "/messages";

/// The error of a request that misses its session, or that there is no room for.
const SESSION_ERROR: i64 = -32000;

impl Gateway {
    /// Answers one HTTP request by its path: Streamable HTTP at `/mcp`, HTTP+SSE (2024-11-05) at
    /// `/sse` and `/messages`, each with or without a slash at the end, and 404 elsewhere.
    ///
    /// Whoever serves the gateway below a prefix says so in `X-Forwarded-Prefix`, for clients of
    /// HTTP+SSE are told the path of their messages.
    pub async fn dispatch<B>(
        &self,
        request: Request<B>,
        principal: &Principal,
    ) -> Response<GatewayBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let path = request.uri().path().trim_end_matches('/');
        if path == MCP_PATH {
            return self.handle(request, principal).await;
        }
        if !matches!(path, SSE_PATH | MESSAGES_PATH) {
            return not_found();
        }
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let face = match Face::of(&self.0, &request, principal) {
            Ok(face) => face,
            Err(refusal) => return *refusal,
        };
        match path {
            SSE_PATH => face.connect(&request),
            _ => face.take(request).await,
        }
    }
}

impl Gateway {
    /// Answers a request like [`Gateway::dispatch`], unless its visitor is denied before: what ends
    /// then is what is open too, a stream of events amid its events. `denied` is asked for only
    /// where something has to be waited for; most answers are there at once and whole.
    pub async fn dispatch_unless<B, D>(
        &self,
        request: Request<B>,
        principal: &Principal,
        denied: impl FnOnce() -> D,
    ) -> Option<Response<GatewayBody>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()> + Send + 'static,
    {
        let mut answering = pin!(self.dispatch(request, principal));
        if let Some(answer) = poll_immediate(answering.as_mut()).await {
            if answer.body().is_whole() {
                return Some(answer);
            }
            return Some(answer.map(|body| body.ended_by(Box::pin(denied()))));
        }
        let mut denied = Box::pin(denied());
        tokio::select! {
            biased;
            answer = answering => Some(answer.map(|body| body.ended_by(denied))),
            () = denied.as_mut() => None,
        }
    }
}

/// Header by which a client chooses a profile; the query may do so too.
const PROFILE_HEADER: &str = "x-mcpm-profile";

/// One request's view of the gateway.
pub(super) struct Face<'a> {
    pub(super) gateway: &'a Arc<Inner>,
    pub(super) sessions: &'a Arc<Sessions>,
    pub(super) principal: &'a Principal,
    /// The profile the client chose, and what of the servers it sees by that.
    pub(super) profile: Option<String>,
    pub(super) view: Arc<View>,
}

type Answer = Response<GatewayBody>;

impl<'a> Face<'a> {
    /// Reads which profile a request chooses.
    ///
    /// # Errors
    /// There is none of that name: the answer is a refusal, never more than was asked for.
    pub(super) fn of<B>(
        gateway: &'a Arc<Inner>,
        request: &Request<B>,
        principal: &'a Principal,
    ) -> Result<Self, Box<Answer>> {
        let header = request.headers().get(PROFILE_HEADER).map(|name| name.to_str().unwrap_or(""));
        let query = request.uri().query().unwrap_or_default();
        let queried =
            url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "profile");
        let profile = match (header, queried) {
            (Some(header), _) => Some(header.to_owned()),
            (None, Some((_, name))) => Some(name.into_owned()),
            (None, None) => None,
        };
        match gateway.hub.view(profile.as_deref()) {
            Some(view) => {
                Ok(Self { gateway, sessions: &gateway.sessions, principal, profile, view })
            }
            None => {
                let text = "there is no such profile here";
                Err(reply::error(StatusCode::FORBIDDEN, None, INVALID_REQUEST, text).into())
            }
        }
    }

    pub(super) async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let era = era::of_headers(&head.headers);
        match (&head.method, &era) {
            (&Method::POST, _) => {
                let body = match self.read(&head.headers, body).await {
                    Ok(body) => body,
                    Err(answer) => return answer,
                };
                self.post(&head.headers, era, &body).await
            }
            (_, Err(error)) => bad_request(SESSION_ERROR, &error.to_string()),
            (&Method::GET, Ok(Era::Legacy)) => self.get(&head.headers),
            (&Method::DELETE, Ok(Era::Legacy)) => self.delete(&head.headers),
            (_, Ok(Era::Legacy)) => not_allowed("GET, POST, DELETE"),
            (_, Ok(Era::Modern)) => not_allowed("POST"),
        }
    }

    async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, Answer>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let text = "the content type must be application/json";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(reply::error(status, None, INVALID_REQUEST, text));
        }
        let limit = self.gateway.options.max_body;
        let too_large = || {
            let text = format!("the message is longer than {limit} bytes");
            reply::error(StatusCode::PAYLOAD_TOO_LARGE, None, INVALID_REQUEST, &text)
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if length.and_then(|length| length.parse::<usize>().ok()).is_some_and(|n| n > limit) {
            return Err(too_large());
        }
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
            Err(_) => Err(bad_request(PARSE_ERROR, "the request ended early")),
        }
    }

    async fn post(
        &self,
        headers: &HeaderMap,
        era: Result<Era, era::UnknownVersion>,
        body: &Bytes,
    ) -> Answer {
        let incoming = match Incoming::parse(body) {
            Ok(incoming) => incoming,
            Err(error) => return bad_request(error.code(), &error.to_string()),
        };
        if let Incoming::One(message) = &incoming {
            match (era::of_message(message), &era) {
                (Some(Era::Legacy), _) => return self.initialize(headers, message).await,
                (Some(Era::Modern), _) | (None, Ok(Era::Modern)) => {
                    return self.modern(headers, message).await;
                }
                (None, _) => {}
            }
        }
        match era {
            Err(error) => bad_request(SESSION_ERROR, &error.to_string()),
            Ok(Era::Modern) => bad_request(INVALID_REQUEST, "this revision has no batches"),
            Ok(Era::Legacy) => self.in_session(headers, &incoming).await,
        }
    }

    /// Returns what messages call the server.
    pub(super) fn server(&self) -> &str {
        &self.gateway.server
    }

    /// Makes room for a session of this principal and takes its seat.
    fn start(&self) -> Result<Arc<dyn Conversation>, Box<Answer>> {
        let options = &self.gateway.options;
        let caps =
            Caps { total: options.max_sessions, principal: options.max_sessions_per_principal };
        if self.sessions.make_room(caps, self.principal).is_err() {
            let text = "too many sessions are open; try again later";
            let mut answer =
                reply::error(StatusCode::SERVICE_UNAVAILABLE, None, SESSION_ERROR, text);
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return Err(answer.into());
        }
        self.sweep();
        Ok(Arc::new(Seat::new(&self.gateway.hub, self.view.clone(), self.principal)))
    }

    /// Keeps a task that ends idle sessions, from the first one on.
    fn sweep(&self) {
        if !self.sessions.wants_sweeper() {
            return;
        }
        let idle = self.gateway.options.idle;
        let sessions = Arc::downgrade(self.sessions);
        self.gateway.nursery.scope.spawn_until_cancelled(async move {
            let mut tick =
                tokio::time::interval((idle / 10).max(std::time::Duration::from_secs(1)));
            loop {
                tick.tick().await;
                let Some(sessions) = sessions.upgrade() else { return };
                sessions.sweep(idle, Instant::now());
            }
        });
    }
}

/// Makes a request and returns all that came up to its answer, the answer last.
pub(super) async fn first_answer(
    talk: &dyn Conversation,
    request: &Message<'_>,
) -> Option<Vec<Bytes>> {
    let (sink, mut queue) = mpsc::channel(INBOX);
    let _claim = talk.begin(request, sink).await.ok()?;
    let mut messages = Vec::new();
    while let Some(packet) = queue.recv().await {
        messages.push(packet.message);
        if packet.last {
            return Some(messages);
        }
    }
    None
}

fn refused(refusal: Refusal, id: Option<&str>, server: &str) -> Answer {
    match refusal {
        Refusal::Duplicate => {
            let body = error_response(id, INVALID_REQUEST, &refusal.to_string(), None);
            reply::json(StatusCode::BAD_REQUEST, body)
        }
        Refusal::TooMany => {
            let body = error_response(id, SESSION_ERROR, &refusal.to_string(), None);
            reply::json(StatusCode::TOO_MANY_REQUESTS, body)
        }
        Refusal::Gone => {
            let text = format!("server `{server}` has stopped");
            reply::error(StatusCode::OK, id, INTERNAL_ERROR, &text)
        }
    }
}

fn not_found() -> Answer {
    let mut answer = Response::new(GatewayBody::full("the MCP endpoint is /mcp\n"));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

fn bad_request(code: i64, text: &str) -> Answer {
    reply::error(StatusCode::BAD_REQUEST, None, code, text)
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = reply::empty(StatusCode::METHOD_NOT_ALLOWED);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
