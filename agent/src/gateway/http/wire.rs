//! HTTP+SSE (2024-11-05), for clients that know no newer transport: a GET opens a stream, whose
//! first event names where to POST to, and everything is answered on that stream. The session is
//! the connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use mcpm_shared::access::Passes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::super::body::BoxError;
use super::super::link::{Claim, INBOX, Packet, Refusal};
use super::super::reply;
use super::super::sessions::{Session, Sessions, Way};
use super::legacy::{cancelled, pass};
use super::{Answer, Face, MESSAGES_PATH, SESSION_ERROR, bad_request, not_allowed, refused};
use crate::mcp::message::{Incoming, Key, Kind, Message};
use crate::mcp::sse;

/// How many requests of one session may be in flight.
const MAX_CALLS: usize = 1024;

impl Face<'_> {
    /// Opens a session: its stream is the answer.
    pub(super) fn connect<B>(&self, request: &Request<B>) -> Answer {
        if request.method() != Method::GET {
            return not_allowed("GET");
        }
        let talk = match self.start() {
            Ok(talk) => talk,
            Err(answer) => return *answer,
        };
        let (port, queue) = Port::new();
        let port = Arc::new(port);
        let way = Way::Wire(port.clone());
        let opening = self.sessions.open(self.principal, talk.clone(), way);
        let (Ok(listener), Some(session)) = (talk.listen(), opening.done()) else {
            return reply::error(StatusCode::CONFLICT, None, SESSION_ERROR, "the server is taken");
        };
        let prefix = public_prefix(request.headers());
        // An absolute path: only the client knows under which origin it reached us.
        // Who came by a link is known again by a pass: the query of the link is not this one's.
        let passes = request.extensions().get::<Passes>();
        let query = passes.map_or_else(
            || format!("sessionId={}", session.id),
            |passes| passes.query(&session.id),
        );
        let endpoint = format!("event: endpoint\ndata: {prefix}{MESSAGES_PATH}?{query}\n\n");
        let (first, listener, sessions) =
            (Some(endpoint.into()), Some(listener), self.sessions.clone());
        reply::stream(Wire { first, queue, listener, port, session, sessions })
    }

    /// Takes messages of a session; what they are answered goes to its stream.
    pub(super) async fn take<B>(&self, request: Request<B>) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return not_allowed("POST");
        }
        let Some(id) = session_id(head.uri.query()) else {
            return bad_request(SESSION_ERROR, "the query must hold `sessionId`");
        };
        let session = self.sessions.find(id, self.principal);
        let Some((session, port)) = session.and_then(|session| match &session.way {
            Way::Wire(port) => Some((session.clone(), port.clone())),
            Way::Streams(_) => None,
        }) else {
            let text = "the session has ended; open another one with GET /sse";
            return reply::error(StatusCode::NOT_FOUND, None, SESSION_ERROR, text);
        };
        let body = match self.read(&head.headers, body).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let incoming = match Incoming::parse(&body) {
            Ok(incoming) => incoming,
            Err(error) => return bad_request(error.code(), &error.to_string()),
        };
        for message in incoming.messages() {
            if let Err(refusal) = port.pass(&session, message).await {
                return refused(refusal, message.id().map(RawValue::get), self.server());
            }
        }
        reply::accepted()
    }
}

/// Where the POSTs of a session leave their requests.
#[derive(Debug)]
pub(in crate::gateway) struct Port(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Where all answers go; `None` when the server is gone.
    sink: Option<mpsc::Sender<Packet>>,
    /// The requests in flight; without a claim while they are on their way.
    calls: HashMap<Key, Option<Claim>>,
}

impl Port {
    fn new() -> (Self, mpsc::Receiver<Packet>) {
        let (sink, queue) = mpsc::channel(INBOX);
        (Self(Mutex::new(State { sink: Some(sink), calls: HashMap::new() })), queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, session: &Session, message: &Message<'_>) -> Result<(), Refusal> {
        let id = message.id().filter(|_| message.kind() == Kind::Request).map(Key::of);
        let sink = self.reserve(id.as_ref())?;
        match (pass(&*session.talk, message, &sink).await, id) {
            (Ok(claim), Some(id)) => {
                // It may have been answered before we came here.
                if let Some(place) = self.lock().calls.get_mut(&id) {
                    *place = claim;
                }
            }
            (Ok(_), None) => {
                if let Some(id) = cancelled(message) {
                    self.done(&id);
                }
            }
            (Err(refusal), id) => {
                if let Some(id) = id {
                    self.done(&id);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn reserve(&self, id: Option<&Key>) -> Result<mpsc::Sender<Packet>, Refusal> {
        let mut state = self.lock();
        let sink = state.sink.clone().ok_or(Refusal::Gone)?;
        let Some(id) = id else { return Ok(sink) };
        if state.calls.len() >= MAX_CALLS {
            return Err(Refusal::TooMany);
        }
        if state.calls.contains_key(id) {
            return Err(Refusal::Duplicate);
        }
        state.calls.insert(id.clone(), None);
        Ok(sink)
    }

    /// Forgets a request.
    fn done(&self, id: &Key) {
        let call = self.lock().calls.remove(id);
        // Not under the lock: it may tell the server that nobody waits.
        drop(call);
    }

    fn answered(&self, answer: &[u8]) {
        if let Ok(Incoming::One(answer)) = Incoming::parse(answer)
            && let Some(id) = answer.id()
        {
            self.done(&Key::of(id));
        }
    }

    /// Takes no more requests.
    fn close(&self) {
        self.lock().sink = None;
    }
}

/// The stream of a session, which ends with it.
#[derive(Debug)]
pub(in crate::gateway) struct Wire {
    first: Option<Bytes>,
    queue: mpsc::Receiver<Packet>,
    listener: Option<mpsc::Receiver<Packet>>,
    port: Arc<Port>,
    session: Arc<Session>,
    sessions: Arc<Sessions>,
}

impl Wire {
    /// Returns the next event. Cancel-safe: what is taken is returned.
    pub(in crate::gateway) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if let Some(listener) = &mut self.listener {
            match listener.poll_recv(cx) {
                Poll::Ready(Some(packet)) => {
                    return Poll::Ready(Some(sse::encode(&packet.message)));
                }
                Poll::Ready(None) => {
                    // The server is gone; what it still answers ends the stream.
                    self.listener = None;
                    self.port.close();
                }
                Poll::Pending => {}
            }
        }
        let packet = std::task::ready!(self.queue.poll_recv(cx));
        Poll::Ready(packet.map(|packet| {
            if packet.last {
                self.port.answered(&packet.message);
            }
            sse::encode(&packet.message)
        }))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.sessions.end(&self.session);
    }
}

fn session_id(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("sessionId="))
}

/// Returns the path below which the public reaches us, as whoever serves us says: nothing, or a
/// path that begins with one slash and does not end with one.
fn public_prefix(headers: &HeaderMap) -> &str {
    let prefix = headers.get("x-forwarded-prefix").and_then(|prefix| prefix.to_str().ok());
    let prefix = prefix.unwrap_or_default().trim_end_matches('/');
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
    // Two slashes would name another host.
    let good = prefix.starts_with('/') && !prefix.contains("//") && prefix.bytes().all(plain);
    if good { prefix } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_prefix_is_a_plain_path_or_nothing() {
        let prefix = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-prefix", value.parse().unwrap());
            public_prefix(&headers).to_owned()
        };
        assert_eq!(public_prefix(&HeaderMap::new()), "");
        assert_eq!(prefix("/s/name"), "/s/name");
        assert_eq!(prefix("/s/name/"), "/s/name");
        for bad in ["/", "//evil.example", "s/name", "/a//b", "/a?b", "/a b", "https://x"] {
            assert_eq!(prefix(bad), "", "{bad}");
        }
    }

    #[test]
    fn a_session_id_is_found_in_any_place_of_a_query() {
        assert_eq!(session_id(Some("sessionId=a")), Some("a"));
        assert_eq!(session_id(Some("x=1&sessionId=a-b_c&y")), Some("a-b_c"));
        assert_eq!(session_id(Some("mysessionId=a")), None);
        assert_eq!(session_id(None), None);
    }
}
