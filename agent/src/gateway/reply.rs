//! One HTTP answer: JSON when a single message does, a stream of events when it does not.
//!
//! The head is committed late, because its status and type depend on the first message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use tokio::sync::mpsc;

use super::body::{Events, GatewayBody, Once};
use super::events::{Log, Source};
use super::http::Learner;
use super::link::{Claim, Packet};
use crate::mcp::message::{self, Incoming};

/// How long a head waits for the first message before it commits to a stream, so that nobody on
/// the way takes a long call for a dead server.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// What a client accepts; lenient, for clients send all kinds of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) json: bool,
    pub(super) events: bool,
}

impl Accept {
    /// Reads the `Accept` headers; absent or unreadable means everything.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut accept = Self { json: false, events: false };
        for value in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
            for range in value.split(',') {
                let kind = range.split(';').next().unwrap_or_default().trim();
                let is = |kinds: [&str; 3]| kinds.iter().any(|k| kind.eq_ignore_ascii_case(k));
                accept.json |= is(["application/json", "application/*", "*/*"]);
                accept.events |= is(["text/event-stream", "text/*", "*/*"]);
            }
        }
        if accept.json || accept.events { accept } else { Self { json: true, events: true } }
    }
}

/// Which rules the status of an answer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Always 200 (legacy).
    Ok,
    /// By error code (2026-07-28 §Streamable HTTP).
    ByCode,
    /// 400 for every error: the answer to `server/discover`, which must never look like a
    /// missing endpoint.
    BadRequest,
}

impl Status {
    fn of(self, answer: &[u8]) -> StatusCode {
        // Most answers are results, and long ones are.
        if self == Self::Ok || memchr::memmem::find(answer, b"\"error\"").is_none() {
            return StatusCode::OK;
        }
        let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return StatusCode::OK };
        match answer.error_code() {
            None => StatusCode::OK,
            Some(_) if self == Self::BadRequest => StatusCode::BAD_REQUEST,
            Some(code) if crate::mcp::era::is_modern_error(code) => StatusCode::BAD_REQUEST,
            Some(message::METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
            Some(_) => StatusCode::OK,
        }
    }
}

/// What is to be answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) queue: mpsc::Receiver<Packet>,
    pub(super) claims: Vec<Claim>,
    pub(super) accept: Accept,
    /// Whether the request was a batch; then so is an answer in JSON.
    pub(super) batch: bool,
    pub(super) status: Status,
    /// The streams of a legacy session: there a lost connection is no cancellation.
    pub(super) log: Option<Arc<Log>>,
    /// Told of the answer.
    pub(super) learner: Option<Learner>,
}

impl Reply {
    /// Waits for what decides the head, then answers. Dropping the future gives the claims up,
    /// but for those of a legacy session.
    pub(super) async fn answer(self) -> Response<GatewayBody> {
        let Self { queue, claims, accept, batch, status, log, learner } = self;
        let left = claims.len();
        let mut waiting = Waiting { source: Some(Source { queue, claims, left }), log };
        let mut first: VecDeque<Bytes> = VecDeque::new();
        let patience = tokio::time::sleep(HEAD_PATIENCE);
        tokio::pin!(patience);
        while accept.json && waiting.left() > 0 {
            let packet = tokio::select! {
                // An answer that is there already needs no timer.
                biased;
                packet = waiting.next() => packet,
                () = &mut patience, if accept.events => break,
            };
            let Some(packet) = packet else { break };
            if packet.last {
                if let Some(learner) = &learner {
                    learner.learn(&packet.message);
                }
                first.push_back(packet.message);
            } else if accept.events {
                first.push_back(packet.message);
                break;
            } else {
                tracing::debug!("a message was dropped: the client takes only its answer");
            }
        }
        if accept.json && waiting.left() == 0 {
            return in_json(status, batch, &first.into());
        }
        let (source, log) = waiting.done();
        match (source, log) {
            // Cancelled: there is no answer, and none is waited for.
            _ if !accept.events => accepted(),
            (Some(source), Some(log)) => stream(log.answer(first, source)),
            (Some(Source { queue, claims, left }), None) => {
                stream(Once { first, queue, left, claims, learner })
            }
            (None, _) => accepted(),
        }
    }
}

/// Requests whose answer has no head yet.
struct Waiting {
    source: Option<Source>,
    log: Option<Arc<Log>>,
}

impl Waiting {
    fn left(&self) -> usize {
        self.source.as_ref().map_or(0, |source| source.left)
    }

    /// Returns the next packet. Cancel-safe.
    async fn next(&mut self) -> Option<Packet> {
        let source = self.source.as_mut()?;
        let packet = source.queue.recv().await?;
        source.left -= usize::from(packet.last);
        Some(packet)
    }

    fn done(mut self) -> (Option<Source>, Option<Arc<Log>>) {
        (self.source.take(), self.log.take())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let (Some(source), Some(log)) = (self.source.take(), &self.log)
            && source.left > 0
        {
            log.adopt(source);
        }
    }
}

fn in_json(status: Status, batch: bool, answers: &Vec<Bytes>) -> Response<GatewayBody> {
    match answers.as_slice() {
        [answer] if !batch => json(status.of(answer), answer.clone()),
        answers => {
            let all = answers.join(&b","[..]);
            json(StatusCode::OK, [&b"["[..], &all[..], &b"]"[..]].concat())
        }
    }
}

/// Returns an answer in JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::full(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Returns a JSON-RPC error.
pub(super) fn error(
    status: StatusCode,
    id: Option<&str>,
    code: i64,
    text: &str,
) -> Response<GatewayBody> {
    json(status, message::error_response(id, code, text, None))
}

/// Returns a stream of events that nothing on the way may buffer.
pub(super) fn stream(events: impl Into<Events>) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::events(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Returns 202: taken, and there is nothing to say.
pub(super) fn accepted() -> Response<GatewayBody> {
    empty(StatusCode::ACCEPTED)
}

/// Returns an answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: Option<&str>) -> (bool, bool) {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(ACCEPT, value.parse().unwrap());
        }
        let accept = Accept::of(&headers);
        (accept.json, accept.events)
    }

    #[test]
    fn accept_is_read_leniently() {
        assert_eq!(accept(None), (true, true));
        assert_eq!(accept(Some("*/*")), (true, true));
        assert_eq!(accept(Some("application/json, text/event-stream")), (true, true));
        assert_eq!(accept(Some("Application/JSON;q=0.9")), (true, false));
        assert_eq!(accept(Some("text/event-stream")), (false, true));
        assert_eq!(accept(Some("image/png")), (true, true));
    }

    #[test]
    fn the_status_follows_the_era() {
        let answer = |code: i64| format!(r#"{{"id":1,"error":{{"code":{code},"message":""}}}}"#);
        let status = |rule: Status, code| rule.of(answer(code).as_bytes()).as_u16();
        assert_eq!(status(Status::Ok, -32601), 200);
        assert_eq!(status(Status::ByCode, -32601), 404);
        assert_eq!(status(Status::ByCode, -32022), 400);
        assert_eq!(status(Status::ByCode, -32603), 200);
        assert_eq!(status(Status::BadRequest, -32601), 400);
        assert_eq!(Status::BadRequest.of(br#"{"id":1,"result":{}}"#), 200);
    }
}
