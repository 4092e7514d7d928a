//! The modern era: no sessions; one conversation per principal, ids remapped.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::hub::Caller;
use super::super::link::{INBOX, Ids};
use super::super::reply::{self, Accept, Reply, Status};
use super::super::talk::Conversation;
use super::{Answer, Behind, Face, Learner, bad_request, first_answer, refused, with_id};
use crate::mcp::era::{self, Era, MODERN};
use crate::mcp::message::{
    HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, Incoming, Kind, Message,
    UNSUPPORTED_VERSION, error_response, string,
};

const DISCOVER: &str = "server/discover";

/// How many versions a server may name.
const MAX_VERSIONS: usize = 32;

/// How long a server may take to tell that it is modern; a silent one is taken for a legacy one,
/// as clients do (2026-07-28 §Versioning).
const PROBE: Duration = Duration::from_secs(10);

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
        let talk = match self.modern_talk(message, &version).await {
            Ok(talk) => talk,
            Err(answer) => return answer,
        };
        if let Err(supported) = self.sessions.supports(&version) {
            return unsupported(id, &version, &supported);
        }
        if let Err(text) = self.sessions.params.check(headers, message) {
            return reply::error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &text);
        }
        let (sink, queue) = mpsc::channel(INBOX);
        let claims = match talk.begin(message, sink).await {
            Ok(claim) => vec![claim],
            Err(refusal) => return refused(refusal, id, self.server()),
        };
        drop(talk);
        let status = if message.method() == DISCOVER { Status::BadRequest } else { Status::ByCode };
        let learner = Learner::of(message, &self.sessions.params);
        let accept = Accept::of(headers);
        Reply { queue, claims, accept, batch: false, status, log: None, learner }.answer().await
    }

    /// Over HTTP a modern client cancels by closing the stream, and its ids mean nothing to the
    /// child; everything else passes.
    async fn modern_notification(&self, message: &Message<'_>) -> Answer {
        if !matches!(message.method(), "notifications/cancelled" | "notifications/progress")
            && let Some(talk) = self.sessions.modern(self.principal)
            && talk.tell(message).await.is_err()
        {
            tracing::debug!("a notification came too late");
        }
        reply::accepted()
    }

    /// Returns the conversation of this principal. A new server is asked first what it speaks,
    /// because a legacy one may answer a modern request by accident.
    async fn modern_talk(
        &self,
        message: &Message<'_>,
        version: &str,
    ) -> Result<Arc<dyn Conversation>, Answer> {
        let id = message.id().map(RawValue::get);
        // The hub knows its callers itself, by what they see: one that was found by the principal
        // alone could see more than this request chose.
        if let Behind::Hub(hub, seen) = self.behind {
            self.sessions.set_supported(vec![MODERN.to_owned()]);
            return Ok(seen.caller(hub, self.principal));
        }
        if let Some(talk) = self.sessions.modern(self.principal) {
            return Ok(talk);
        }
        let _turn = self.sessions.turn().await;
        if let Some(answer) = self.sessions.legacy_only() {
            return self.bridged().ok_or_else(|| fall_back(&answer, id));
        }
        if let Some(talk) = self.sessions.modern(self.principal) {
            return Ok(talk);
        }
        let talk = self.start(Ids::Remap).map_err(|answer| with_id(*answer, id, self.server()))?;
        let limit = self.gateway.options.start_timeout.min(PROBE);
        let probe = discover(message, version);
        let probe = Message::parse(&probe).expect("the request is well-formed");
        let answer = timeout(limit, first_answer(&*talk, &probe)).await;
        let answer = answer.ok().flatten().and_then(|mut all| all.pop());
        let Some(answer) = answer.filter(|_| !talk.is_over()) else {
            // Some legacy servers end at a request before `initialize`; others never answer it.
            let text = format!("server `{}` did not answer `{DISCOVER}`", self.server());
            let answer = error_response(Some("0"), INTERNAL_ERROR, &text, None);
            if self.sessions.answered_initialize() {
                self.sessions.set_legacy_only(&answer);
                return self.bridged().ok_or_else(|| fall_back(&answer, id));
            }
            // Otherwise it may as well be broken; `initialize` will tell.
            return Err(fall_back(&answer, id));
        };
        if is_legacy(&answer) {
            self.sessions.set_legacy_only(&answer);
            return self.bridged().ok_or_else(|| fall_back(&answer, id));
        }
        self.sessions.set_supported(supported(&answer));
        self.sessions.keep_modern(self.principal, talk.clone());
        Ok(talk)
    }
}

impl Face<'_> {
    /// Returns a conversation with a legacy server for a client of the modern era.
    fn bridged(&self) -> Option<Arc<dyn Conversation>> {
        let Behind::Child(_, hub) = self.behind else { return None };
        hub.set_era(Era::Legacy);
        self.sessions.set_supported(vec![MODERN.to_owned()]);
        let caller = hub.caller(self.principal, &hub.everything(), None);
        Some(Arc::new(Caller(caller)))
    }
}

/// Returns a `server/discover` with the same `_meta` as a request, but for the progress token, and
/// in a version that may exist.
fn discover(message: &Message<'_>, version: &str) -> String {
    let version = if era::is_modern(version) { version } else { MODERN };
    let capabilities = message.meta().client_capabilities.map_or("{}", RawValue::get);
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"{DISCOVER}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}","io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    )
}

/// Any error but a modern one shows a legacy server (2026-07-28 §Versioning).
fn is_legacy(answer: &[u8]) -> bool {
    let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return true };
    answer.error().is_some() && !answer.error_code().is_some_and(era::is_modern_error)
}

/// Returns the modern versions that a server says it speaks.
fn supported(answer: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Discovered {
        #[serde(rename = "supportedVersions")]
        versions: Vec<String>,
    }
    let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return Vec::new() };
    let found = answer.result().map(|result| serde_json::from_str::<Discovered>(result.get()));
    let mut versions = found.and_then(Result::ok).map_or_else(Vec::new, |found| found.versions);
    versions.truncate(MAX_VERSIONS);
    versions
}

fn unsupported(id: Option<&str>, requested: &str, supported: &[String]) -> Answer {
    let data = serde_json::json!({ "supported": supported, "requested": requested });
    let text = format!("protocol version `{requested}` is not supported");
    let body = error_response(id, UNSUPPORTED_VERSION, &text, Some(&data));
    reply::json(StatusCode::BAD_REQUEST, body)
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
