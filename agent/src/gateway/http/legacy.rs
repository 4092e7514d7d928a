//! The legacy era over Streamable HTTP: sessions whose streams outlive their connections.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{HeaderName, StatusCode};
use mcpm_shared::access::Principal;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::super::events::{EventId, Log, NoStream, Source};
use super::super::link::{Claim, INBOX, Packet, Refusal};
use super::super::reply::{self, Accept, Reply, Status};
use super::super::sessions::{Session, Sessions, Way};
use super::super::talk::Conversation;
use super::{Answer, Face, SESSION_ERROR, bad_request, first_answer, refused};
use crate::mcp::era::SESSION_HEADER;
use crate::mcp::message::{INTERNAL_ERROR, INVALID_REQUEST, Incoming, Key, Kind, Message, string};

/// How many messages a batch may hold.
const MAX_BATCH: usize = 256;
/// Header that names the last event that a client saw.
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

impl Face<'_> {
    pub(super) async fn initialize(&self, headers: &HeaderMap, message: &Message<'_>) -> Answer {
        if message.kind() != Kind::Request {
            return bad_request(INVALID_REQUEST, "`initialize` is a request");
        }
        let id = message.id().map(RawValue::get);
        let talk = match self.start() {
            Ok(talk) => talk,
            Err(answer) => return *answer,
        };
        let gateway = self.gateway;
        let log = self.sessions.log(gateway.options.idle, gateway.nursery.scope.clone());
        let opening = self.sessions.open(self.principal, talk.clone(), Way::Streams(log.clone()));
        let Some(messages) = first_answer(&*talk, message).await else {
            let text = format!("server `{}` stopped before it answered", self.server());
            return reply::error(StatusCode::OK, id, INTERNAL_ERROR, &text);
        };
        let version = messages.last().and_then(|answer| agreed(answer));
        log.set_version(version.as_deref().unwrap_or_default());
        let mut answer = opened(messages, Accept::of(headers), &log);
        if let Some(session) = version.and_then(|_| opening.done()) {
            let id = HeaderValue::from_str(&session.id).expect("a session id is base64url");
            answer.headers_mut().insert(SESSION_HEADER, id);
        }
        answer
    }

    /// Returns the session that a request names, or what is wrong with the request.
    fn session(&self, headers: &HeaderMap) -> Result<Open, Box<Answer>> {
        let Some(id) = headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()) else {
            let text = "header `Mcp-Session-Id` is missing; open a session with `initialize`";
            return Err(bad_request(SESSION_ERROR, text).into());
        };
        find(self.sessions, id, self.principal).ok_or_else(|| {
            let text = "the session has ended; open another one with `initialize`";
            reply::error(StatusCode::NOT_FOUND, None, SESSION_ERROR, text).into()
        })
    }

    pub(super) async fn in_session(&self, headers: &HeaderMap, incoming: &Incoming<'_>) -> Answer {
        let open = match self.session(headers) {
            Ok(open) => open,
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
            match pass(&*open.session.talk, message, &sink).await {
                Ok(claim) => claims.extend(claim),
                Err(refusal) => {
                    let id = message.id().map(RawValue::get);
                    return refused(refusal, id, self.server());
                }
            }
        }
        drop(sink);
        if claims.is_empty() {
            return reply::accepted();
        }
        let (accept, log) = (Accept::of(headers), Some(open.log));
        Reply { queue, claims, accept, batch, status: Status::Ok, log, learner: None }
            .answer()
            .await
    }

    pub(super) fn get(&self, headers: &HeaderMap) -> Answer {
        let open = match self.session(headers) {
            Ok(open) => open,
            Err(answer) => return *answer,
        };
        if !Accept::of(headers).events {
            let text = "the client must accept text/event-stream";
            return reply::error(StatusCode::NOT_ACCEPTABLE, None, INVALID_REQUEST, text);
        }
        // What is no id of ours names no stream, so it is no reason to refuse one.
        let after = headers.get(LAST_EVENT).and_then(|id| id.to_str().ok());
        let after = after.and_then(|id| id.trim().parse::<EventId>().ok());
        match open.log.listen(&*open.session.talk, after) {
            Ok(reader) => reply::stream(reader),
            Err(why @ NoStream::Gone) => bad_request(SESSION_ERROR, &why.to_string()),
            Err(why @ NoStream::Busy(_)) => {
                reply::error(StatusCode::CONFLICT, None, SESSION_ERROR, &why.to_string())
            }
        }
    }

    pub(super) fn delete(&self, headers: &HeaderMap) -> Answer {
        match self.session(headers) {
            Ok(open) => self.sessions.end(&open.session),
            Err(answer) => return *answer,
        }
        reply::empty(StatusCode::NO_CONTENT)
    }
}

/// A session over Streamable HTTP, while a request of it is handled.
struct Open {
    session: Arc<Session>,
    log: Arc<Log>,
}

fn find(sessions: &Sessions, id: &str, principal: &Principal) -> Option<Open> {
    let session = sessions.find(id, principal)?;
    let Way::Streams(log) = &session.way else { return None };
    let log = log.clone();
    Some(Open { session, log })
}

/// Passes one message of a session to its server; a request comes with the claim to its answer.
pub(super) async fn pass(
    talk: &dyn Conversation,
    message: &Message<'_>,
    sink: &mpsc::Sender<Packet>,
) -> Result<Option<Claim>, Refusal> {
    if message.kind() == Kind::Request {
        return talk.begin(message, sink.clone()).await.map(Some);
    }
    talk.tell(message).await?;
    Ok(None)
}

/// Returns the id of the request that a notification cancels.
pub(super) fn cancelled(message: &Message<'_>) -> Option<Key> {
    let told = message.method() == "notifications/cancelled";
    message.peek().request_id.filter(|_| told).map(Key::of)
}

fn opened(mut messages: Vec<Bytes>, accept: Accept, log: &Arc<Log>) -> Answer {
    match messages.pop() {
        Some(answer) if accept.json && (messages.is_empty() || !accept.events) => {
            reply::json(StatusCode::OK, answer)
        }
        answer => {
            let (_, queue) = mpsc::channel(1);
            messages.extend(answer);
            reply::stream(log.answer(messages, Source { queue, claims: Vec::new(), left: 0 }))
        }
    }
}

/// Returns the version that an answer to `initialize` agrees on, empty where it names none, or
/// `None` when it is an error.
fn agreed(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Peek<'a> {
        #[serde(borrow, default, rename = "protocolVersion")]
        version: Option<&'a RawValue>,
    }
    let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return None };
    let result = answer.result().filter(|_| answer.error().is_none())?;
    let peek = serde_json::from_str::<Peek<'_>>(result.get()).ok();
    let version = peek.and_then(|peek| peek.version).and_then(string);
    Some(version.map(std::borrow::Cow::into_owned).unwrap_or_default())
}
