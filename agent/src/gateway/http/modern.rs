//! The modern era over child processes: no sessions; one child per principal, ids remapped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::link::{INBOX, Ids, Link, Refusal};
use super::super::reply::{self, Accept, Reply, Status};
use super::{
    Answer, Face, HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, bad_request, first_answer,
    refused, with_id,
};
use crate::mcp::era;
use crate::mcp::message::{Incoming, Kind, Message, error_response, on_one_line};

const DISCOVER: &str = "server/discover";

/// How long a server may take to tell that it is modern; a silent one is taken for a legacy one,
/// as clients do (2026-07-28 §Versioning).
const PROBE: Duration = Duration::from_secs(10);

impl Face<'_> {
    pub(super) async fn modern(&self, headers: &HeaderMap, message: &Message<'_>) -> Answer {
        let id = message.id().map(RawValue::get);
        match message.kind() {
            Kind::Response => {
                return bad_request(super::INVALID_REQUEST, "this revision takes no responses");
            }
            Kind::Notification => return self.modern_notification(message).await,
            Kind::Request => {}
        }
        if let Err(text) = era::check_mirror(headers, message) {
            return reply::error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &text);
        }
        let meta = message.meta();
        if meta.protocol_version.is_none() || meta.client_capabilities.is_none() {
            let text = "`_meta` must hold io.modelcontextprotocol/protocolVersion and \
                        io.modelcontextprotocol/clientCapabilities";
            return reply::error(StatusCode::BAD_REQUEST, id, INVALID_PARAMS, text);
        }
        let link = match self.modern_child(message).await {
            Ok(link) => link,
            Err(answer) => return answer,
        };
        let (sink, queue) = mpsc::channel(INBOX);
        let begun = match link.begin(message, sink) {
            Ok(begun) => begun,
            Err(refusal) => return refused(refusal, id, &self.spec.server),
        };
        if link.send(begun.line).await.is_err() {
            return refused(Refusal::Gone, id, &self.spec.server);
        }
        let status = if message.method() == DISCOVER { Status::BadRequest } else { Status::ByCode };
        let (accept, claims) = (Accept::of(headers), vec![begun.claim]);
        Reply { queue, claims, accept, batch: false, status }.answer().await
    }

    /// Over HTTP a modern client cancels by closing the stream, and its ids mean nothing to the
    /// child; everything else passes.
    async fn modern_notification(&self, message: &Message<'_>) -> Answer {
        if !matches!(message.method(), "notifications/cancelled" | "notifications/progress")
            && let Some(link) = self.sessions.modern(self.principal)
        {
            let line = Bytes::copy_from_slice(&on_one_line(message.text().as_bytes()));
            if link.send(line).await.is_err() {
                tracing::debug!("a notification came too late");
            }
        }
        reply::accepted()
    }

    /// Returns the child of this principal. A new one is asked first what it speaks, because a
    /// legacy server may answer a modern request by accident.
    async fn modern_child(&self, message: &Message<'_>) -> Result<Arc<Link>, Answer> {
        let id = message.id().map(RawValue::get);
        if let Some(link) = self.sessions.modern(self.principal) {
            return Ok(link);
        }
        let _turn = self.sessions.turn().await;
        if let Some(answer) = self.sessions.legacy_only() {
            return Err(fall_back(&answer, id));
        }
        if let Some(link) = self.sessions.modern(self.principal) {
            return Ok(link);
        }
        let link = self.start(Ids::Remap).map_err(|answer| with_id(*answer, id, self.spec))?;
        let limit = self.gateway.options.start_timeout.min(PROBE);
        let probe = discover(message);
        let probe = Message::parse(&probe).expect("the request is well-formed");
        let answer = timeout(limit, first_answer(&link, &probe)).await;
        let answer = answer.ok().flatten().and_then(|mut all| all.pop());
        let Some(answer) = answer.filter(|_| !link.is_over()) else {
            // Some legacy servers end at a request before `initialize`; others never answer it.
            let text = format!("server `{}` did not answer `{DISCOVER}`", self.spec.server);
            let answer = error_response(Some("0"), INTERNAL_ERROR, &text, None);
            if self.sessions.answered_initialize() {
                self.sessions.set_legacy_only(&answer);
            }
            // Otherwise it may as well be broken; `initialize` will tell.
            return Err(fall_back(&answer, id));
        };
        if is_legacy(&answer) {
            self.sessions.set_legacy_only(&answer);
            return Err(fall_back(&answer, id));
        }
        self.sessions.keep_modern(self.principal, link.clone());
        Ok(link)
    }
}

/// Returns a `server/discover` with the same `_meta` as a request, but for the progress token.
fn discover(message: &Message<'_>) -> String {
    let meta = message.meta();
    let text = |value: Option<&RawValue>, other: &str| {
        value.map_or_else(|| other.to_owned(), |value| value.get().to_owned())
    };
    let version = text(meta.protocol_version, r#""2026-07-28""#);
    let capabilities = text(meta.client_capabilities, "{}");
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"{DISCOVER}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":{version},"io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    )
}

/// Any error but a modern one shows a legacy server (2026-07-28 §Versioning).
fn is_legacy(answer: &[u8]) -> bool {
    let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return true };
    answer.error().is_some() && !answer.error_code().is_some_and(era::is_modern_error)
}

/// Returns the answer after which a client of both eras falls back to `initialize`: HTTP 400 with
/// an error that is not a modern one.
fn fall_back(answer: &[u8], id: Option<&str>) -> Answer {
    let body = match Incoming::parse(answer) {
        Ok(Incoming::One(message)) => match message.id().zip(id) {
            Some((theirs, ours)) => message.rewrite(vec![message.edit(theirs, ours)]),
            None => answer.to_vec(),
        },
        _ => error_response(id, INTERNAL_ERROR, "the server is a legacy one", None),
    };
    reply::json(StatusCode::BAD_REQUEST, body)
}
