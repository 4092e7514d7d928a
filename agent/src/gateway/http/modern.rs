//! The modern era: no sessions; one conversation per principal, ids remapped.

use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::super::hub::Caller;
use super::super::link::INBOX;
use super::super::reply::{self, Accept, Reply, Status};
use super::super::talk::Conversation as _;
use super::{Answer, Face, Learner, bad_request, refused};
use crate::mcp::era::{self, MODERN};
use crate::mcp::message::{
    HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, Kind, Message, UNSUPPORTED_VERSION,
    error_response, string,
};

const DISCOVER: &str = "server/discover";

impl Face<'_> {
    pub(super) async fn modern(&self, headers: &HeaderMap, message: &Message<'_>) -> Answer {
        let id = message.id().map(RawValue::get);
        match message.kind() {
            Kind::Response => {
                return bad_request(INVALID_REQUEST, "this revision takes no responses");
            }
            Kind::Notification => return self.modern_notification(message).await,
            Kind::Request => {}
        }
        if let Err(text) = era::check_mirror(headers, message) {
            return reply::error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &text);
        }
        let meta = message.meta();
        let version = meta.protocol_version.and_then(string);
        let (Some(version), Some(_)) = (version, meta.client_capabilities) else {
            let text = "`_meta` must hold io.modelcontextprotocol/protocolVersion and \
                        io.modelcontextprotocol/clientCapabilities";
            return reply::error(StatusCode::BAD_REQUEST, id, INVALID_PARAMS, text);
        };
        // The hub bridges whatever its servers speak.
        if version != MODERN {
            return unsupported(id, &version);
        }
        if let Err(text) = self.view.params.check(headers, message) {
            return reply::error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &text);
        }
        let talk = self.caller();
        let accept = Accept::of(headers);
        if accept.json
            && let Some(answer) = talk.0.at_once(message)
        {
            if let Some(learner) = Learner::of(message, &self.view.params) {
                learner.learn(&answer);
            }
            return reply::json(StatusCode::OK, answer);
        }
        let (sink, queue) = mpsc::channel(INBOX);
        let claims = match talk.begin(message, sink).await {
            Ok(claim) => vec![claim],
            Err(refusal) => return refused(refusal, id, self.server()),
        };
        let status = if message.method() == DISCOVER { Status::BadRequest } else { Status::ByCode };
        let learner = Learner::of(message, &self.view.params);
        Reply { queue, claims, accept, batch: false, status, log: None, learner }.answer().await
    }

    /// Over HTTP a modern client cancels by closing the stream, and its ids mean nothing to the
    /// server; everything else passes.
    async fn modern_notification(&self, message: &Message<'_>) -> Answer {
        if !matches!(message.method(), "notifications/cancelled" | "notifications/progress")
            && self.caller().tell(message).await.is_err()
        {
            tracing::debug!("a notification came too late");
        }
        reply::accepted()
    }

    /// Returns the conversation of this principal, by what the request sees.
    fn caller(&self) -> Caller {
        let hub = &self.gateway.hub;
        Caller(hub.caller(self.principal, &self.view, self.profile.as_deref()))
    }
}

fn unsupported(id: Option<&str>, requested: &str) -> Answer {
    let data = serde_json::json!({ "supported": [MODERN], "requested": requested });
    let text = format!("protocol version `{requested}` is not supported");
    let body = error_response(id, UNSUPPORTED_VERSION, &text, Some(&data));
    reply::json(StatusCode::BAD_REQUEST, body)
}
