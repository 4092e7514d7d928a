//! The Streamable HTTP face over child processes: both eras on one URL.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use mcpm_shared::access::Principal;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::body::{BoxError, Events, GatewayBody};
use super::child::{self, Spec};
use super::link::{INBOX, Ids, Link, Packet, Refusal};
use super::reply::{self, Accept, Reply, Status};
use super::sessions::Sessions;
use super::{GatewayError, Inner};
use crate::mcp::era::{self, Era, SESSION_HEADER};
use crate::mcp::message::{
    HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, Incoming, Key, Kind, Message,
    PARSE_ERROR, error_response, on_one_line,
};

mod modern;

/// The error of a request that misses its session, or that there is no room for.
const SESSION_ERROR: i64 = -32000;
/// How many messages a batch may hold.
const MAX_BATCH: usize = 256;

/// One request's view of the gateway.
pub(super) struct Face<'a> {
    pub(super) gateway: &'a Arc<Inner>,
    pub(super) spec: &'a Spec,
    pub(super) sessions: &'a Arc<Sessions>,
    pub(super) principal: &'a Principal,
}

type Answer = Response<GatewayBody>;

impl Face<'_> {
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
            (_, Ok(era)) => not_allowed(*era),
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

    /// Starts a child for this principal and opens the conversation.
    fn start(&self, ids: Ids) -> Result<Arc<Link>, Box<Answer>> {
        if self.sessions.make_room(self.gateway.options.max_sessions).is_err() {
            let text = "too many sessions are open; try again later";
            let mut answer =
                reply::error(StatusCode::SERVICE_UNAVAILABLE, None, SESSION_ERROR, text);
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return Err(answer.into());
        }
        self.sweep();
        let nursery = &self.gateway.nursery;
        let child =
            child::spawn(self.spec, nursery).map_err(|error| Box::new(self.failed(&error)))?;
        let max_line = self.gateway.options.max_line;
        Ok(Link::new(child.stdin, child.stdout, child.handle, ids, max_line, &nursery.scope))
    }

    /// A visitor learns that the server does not start; why is the owner's business.
    fn failed(&self, error: &GatewayError) -> Answer {
        tracing::error!(error = error as &dyn std::error::Error, "cannot serve a visitor");
        let text = format!("server `{}` cannot be started", self.spec.server);
        reply::error(StatusCode::OK, None, INTERNAL_ERROR, &text)
    }

    /// Keeps a task that ends idle children, from the first child on.
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

    async fn initialize(&self, headers: &HeaderMap, message: &Message<'_>) -> Answer {
        if message.kind() != Kind::Request {
            return bad_request(INVALID_REQUEST, "`initialize` is a request");
        }
        let id = message.id().map(serde_json::value::RawValue::get);
        let link = match self.start(Ids::Keep) {
            Ok(link) => link,
            Err(answer) => return with_id(*answer, id, self.spec),
        };
        let opening = self.sessions.open(self.principal, link.clone());
        let limit = self.gateway.options.start_timeout;
        match timeout(limit, first_answer(&link, message)).await {
            Err(_) => {
                let error = GatewayError::StartTimeout {
                    server: self.spec.server.clone(),
                    after: limit,
                    stderr: link.child().stderr_tail(),
                };
                tracing::error!(error = &error as &dyn std::error::Error, "cannot serve a visitor");
                let text = format!(
                    "server `{}` did not answer within {} s",
                    self.spec.server,
                    limit.as_secs()
                );
                reply::error(StatusCode::OK, id, INTERNAL_ERROR, &text)
            }
            Ok(None) => {
                let text = format!("server `{}` stopped before it answered", self.spec.server);
                reply::error(StatusCode::OK, id, INTERNAL_ERROR, &text)
            }
            Ok(Some(messages)) => {
                let failed = messages.last().is_none_or(|answer| is_error(answer));
                let mut answer = opened(messages, Accept::of(headers));
                if !failed {
                    let session = HeaderValue::from_str(&opening.done());
                    let session = session.expect("a session id is base64url");
                    answer.headers_mut().insert(SESSION_HEADER, session);
                }
                answer
            }
        }
    }

    /// Returns the conversation that a request names, or what is wrong with the request.
    fn session(&self, headers: &HeaderMap) -> Result<Arc<Link>, Box<Answer>> {
        let Some(id) = headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()) else {
            let text = "header `Mcp-Session-Id` is missing; open a session with `initialize`";
            return Err(bad_request(SESSION_ERROR, text).into());
        };
        self.sessions.find(id, self.principal).ok_or_else(|| {
            let text = "the session has ended; open another one with `initialize`";
            reply::error(StatusCode::NOT_FOUND, None, SESSION_ERROR, text).into()
        })
    }

    async fn in_session(&self, headers: &HeaderMap, incoming: &Incoming<'_>) -> Answer {
        let link = match self.session(headers) {
            Ok(link) => link,
            Err(answer) => return *answer,
        };
        let messages = incoming.messages();
        let batch = matches!(incoming, Incoming::Many(_));
        if messages.is_empty() || messages.len() > MAX_BATCH {
            return bad_request(INVALID_REQUEST, "a batch must hold 1 to 256 messages");
        }
        if batch && messages.iter().any(|message| message.method() == "initialize") {
            return bad_request(INVALID_REQUEST, "`initialize` must not be in a batch");
        }
        let (sink, queue) = mpsc::channel(INBOX + messages.len());
        let mut claims = Vec::new();
        for message in messages {
            match tell(&link, message, &sink).await {
                Ok(claim) => claims.extend(claim),
                Err(refusal) => {
                    let id = message.id().map(serde_json::value::RawValue::get);
                    return refused(refusal, id, &self.spec.server);
                }
            }
        }
        drop(sink);
        if claims.is_empty() {
            return reply::accepted();
        }
        let accept = Accept::of(headers);
        Reply { queue, claims, accept, batch, status: Status::Ok }.answer().await
    }

    fn get(&self, headers: &HeaderMap) -> Answer {
        let link = match self.session(headers) {
            Ok(link) => link,
            Err(answer) => return *answer,
        };
        if !Accept::of(headers).events {
            let text = "the client must accept text/event-stream";
            return reply::error(StatusCode::NOT_ACCEPTABLE, None, INVALID_REQUEST, text);
        }
        match link.listen() {
            Ok(queue) => reply::stream(Events::new(
                std::collections::VecDeque::new(),
                queue,
                None,
                Vec::new(),
            )),
            Err(busy) => reply::error(StatusCode::CONFLICT, None, SESSION_ERROR, &busy.to_string()),
        }
    }

    fn delete(&self, headers: &HeaderMap) -> Answer {
        if let Err(answer) = self.session(headers) {
            return *answer;
        }
        if let Some(id) = headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()) {
            self.sessions.end(id, self.principal);
        }
        reply::empty(StatusCode::NO_CONTENT)
    }
}

/// Passes one message of a session to its server; a request comes with the claim to its answer.
async fn tell(
    link: &Arc<Link>,
    message: &Message<'_>,
    sink: &mpsc::Sender<Packet>,
) -> Result<Option<super::link::Claim>, Refusal> {
    if message.kind() == Kind::Request {
        let begun = link.begin(message, sink.clone())?;
        link.send(begun.line).await.map_err(|_| Refusal::Gone)?;
        return Ok(Some(begun.claim));
    }
    let line = Bytes::copy_from_slice(&on_one_line(message.text().as_bytes()));
    link.send(line).await.map_err(|_| Refusal::Gone)?;
    if message.method() == "notifications/cancelled"
        && let Some(id) = message.peek().request_id
    {
        // In this order: the server hears of it before the stream ends.
        link.cancelled(&Key::of(id));
    }
    Ok(None)
}

/// Makes a request and returns all that came up to its answer, the answer last.
pub(super) async fn first_answer(link: &Arc<Link>, request: &Message<'_>) -> Option<Vec<Bytes>> {
    let (sink, mut queue) = mpsc::channel(INBOX);
    let begun = link.begin(request, sink).ok()?;
    link.send(begun.line).await.ok()?;
    let mut messages = Vec::new();
    while let Some(packet) = queue.recv().await {
        messages.push(packet.message);
        if packet.last {
            return Some(messages);
        }
    }
    None
}

fn opened(mut messages: Vec<Bytes>, accept: Accept) -> Answer {
    match messages.pop() {
        Some(answer) if accept.json && (messages.is_empty() || !accept.events) => {
            reply::json(StatusCode::OK, answer)
        }
        answer => {
            let (_, queue) = mpsc::channel(1);
            messages.extend(answer);
            reply::stream(Events::new(messages.into(), queue, Some(0), Vec::new()))
        }
    }
}

fn is_error(answer: &[u8]) -> bool {
    !matches!(Incoming::parse(answer), Ok(Incoming::One(answer)) if answer.error().is_none())
}

fn with_id(answer: Answer, id: Option<&str>, spec: &Spec) -> Answer {
    if answer.status() != StatusCode::OK {
        return answer;
    }
    let text = format!("server `{}` cannot be started", spec.server);
    reply::error(StatusCode::OK, id, INTERNAL_ERROR, &text)
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

fn bad_request(code: i64, text: &str) -> Answer {
    reply::error(StatusCode::BAD_REQUEST, None, code, text)
}

fn not_allowed(era: Era) -> Answer {
    let mut answer = reply::empty(StatusCode::METHOD_NOT_ALLOWED);
    let allowed = match era {
        Era::Legacy => "GET, POST, DELETE",
        Era::Modern => "POST",
    };
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
