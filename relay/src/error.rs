//! How the edge fails, in a way MCP clients survive.
//!
//! A known name never gets 400, 404 or 405 for a failure: clients read those as "session gone" or
//! as an older server. Every failure names itself in `Mcpm-Relay-Error`, and a JSON-RPC request
//! gets a JSON-RPC error that echoes its id.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use mcpm_shared::access::Denied;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::headers::RELAY_ERROR;
use crate::quota::Exhausted;

/// A failure of the relay's own making.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// The host is not one of ours.
    #[error("this relay does not serve that host")]
    WrongHost,
    /// Nobody has a share of that name.
    #[error("there is no share of that name on this relay")]
    UnknownShare,
    /// The share exists and this path is not part of it.
    #[error("this share serves MCP at /mcp and nothing at this path")]
    NotMcp,
    /// The method is none that MCP uses.
    #[error("MCP does not use this method")]
    Method,
    /// The body is not JSON.
    #[error("an MCP request has the content type application/json")]
    ContentType,
    /// The visitor may not come in.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// The request is ambiguous about where its body ends, or otherwise malformed.
    #[error("the request is malformed")]
    Malformed,
    /// The body is longer than allowed.
    #[error("the request body is over the limit")]
    TooLarge,
    /// Too many requests.
    #[error("too many requests; slow down")]
    RateLimited(Duration),
    /// What may be used in a day is used up.
    #[error("{} used up the {} of today", .whose.in_words(), in_words(*.what))]
    Exhausted {
        /// Of whom.
        whose: Party,
        /// What.
        what: Exhausted,
        /// How long until there is more.
        wait: Duration,
    },
    /// The operator lets nobody see the share.
    #[error("the operator of this relay has blocked this share{}", contact(.0.as_deref()))]
    Blocked(Option<Arc<str>>),
    /// As many requests are in flight as allowed.
    #[error("too many requests are in flight on this share")]
    Busy,
    /// The agent is away.
    #[error("the agent behind this share is offline")]
    Offline,
    /// The relay does not know whether there is such a share: its store does not answer.
    #[error("the relay cannot look this share up: its database does not answer")]
    Unavailable,
    /// The relay is about to restart.
    #[error("the relay is restarting")]
    Draining,
    /// Another node passed the request on, and the share is not here.
    #[error("the nodes of this relay do not agree where this share is")]
    Misrouted,
    /// The agent took the request and failed.
    #[error("the agent behind this share failed to answer")]
    AgentFailed,
    /// The agent answered with what is not MCP.
    #[error("the server behind this share answered with something that is not MCP")]
    NotMcpAnswer,
    /// Nothing moved for too long.
    #[error("the server behind this share did not answer in time")]
    Idle,
}

impl EdgeError {
    /// Returns the status and the stable code. Codes are API: add, never rename.
    #[must_use]
    pub fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::WrongHost => (StatusCode::MISDIRECTED_REQUEST, "wrong_host"),
            Self::UnknownShare => (StatusCode::NOT_FOUND, "unknown_share"),
            Self::NotMcp => (StatusCode::NOT_FOUND, "not_mcp"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method"),
            Self::ContentType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type"),
            Self::Denied(denied) => (StatusCode::UNAUTHORIZED, denied.code()),
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Exhausted { .. } => (StatusCode::TOO_MANY_REQUESTS, "quota_exceeded"),
            Self::Blocked(_) => (StatusCode::FORBIDDEN, "blocked"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Self::Offline => (StatusCode::SERVICE_UNAVAILABLE, "offline"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::Misrouted => (StatusCode::BAD_GATEWAY, "misrouted"),
            Self::AgentFailed => (StatusCode::BAD_GATEWAY, "agent_failed"),
            Self::NotMcpAnswer => (StatusCode::BAD_GATEWAY, "not_mcp_answer"),
            Self::Idle => (StatusCode::GATEWAY_TIMEOUT, "idle"),
        }
    }

    /// Returns after how long it makes sense to come back, in whole seconds of at least one.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::RateLimited(wait) | Self::Exhausted { wait, .. } => Some(wait.as_secs().max(1)),
            Self::Busy => Some(1),
            Self::Offline | Self::Unavailable => Some(5),
            Self::Draining => Some(2),
            _ => None,
        }
    }

    /// Builds the answer. `rpc_id` is the id of the JSON-RPC request that failed, where one is
    /// known; `rpc` tells whether it was a JSON-RPC post at all.
    #[must_use]
    pub fn response(&self, rpc: bool, rpc_id: Option<&RawValue>) -> Response<Bytes> {
        let (status, code) = self.parts();
        let mut response = Response::new(Bytes::from(self.body(rpc, rpc_id)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(RELAY_ERROR, HeaderValue::from_static(code));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::Denied(denied) = self {
            let challenge = HeaderValue::from_static(denied.challenge());
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if *self == Self::Method {
            let allow = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
            headers.insert(header::ALLOW, allow);
        }
        response
    }

    fn body(&self, rpc: bool, rpc_id: Option<&RawValue>) -> String {
        let (status, code) = self.parts();
        if !rpc {
            return serde_json::json!({ "code": code, "message": self.to_string() }).to_string();
        }
        // Outside -32768…-32000, which JSON-RPC and MCP keep for themselves.
        let number = -31_000 - i32::from(status.as_u16());
        let error = serde_json::json!({
            "code": number,
            "message": self.to_string(),
            "data": { "relay": { "code": code } },
        });
        let id = rpc_id.map_or("null", RawValue::get);
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    }
}

/// Whose quota it is that ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// That of the share's owner.
    Owner,
    /// That of the visitor's address.
    Address,
}

impl Party {
    fn in_words(self) -> &'static str {
        match self {
            Self::Owner => "the owner of this share has",
            Self::Address => "your address has",
        }
    }
}

fn in_words(what: Exhausted) -> &'static str {
    match what {
        Exhausted::Requests => "requests",
        Exhausted::Bytes => "bytes",
    }
}

fn contact(contact: Option<&str>) -> String {
    contact.map_or(String::new(), |contact| format!("; questions and complaints go to {contact}"))
}

/// Returns the id of the JSON-RPC request in `body`, as it was written.
#[must_use]
pub fn rpc_id(body: &[u8]) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Envelope {
        id: Box<RawValue>,
    }
    let id = serde_json::from_slice::<Envelope>(body).ok()?.id;
    // An id is a string or a number; anything else is not worth an echo.
    id.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_rpc_request_gets_its_id_back_as_it_was_written() {
        let body = br#"{"jsonrpc":"2.0","method":"x","id":12345678901234567890123,"params":{}}"#;
        let response = EdgeError::Offline.response(true, rpc_id(body).as_deref());
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        assert_eq!(response.headers()["mcpm-relay-error"], "offline");
        let text = std::str::from_utf8(response.body()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"jsonrpc":"2.0","id":12345678901234567890123,"error":{"code":-31503,"#,
                r#""message":"the agent behind this share is offline","#,
                r#""data":{"relay":{"code":"offline"}}}}"#,
            )
        );
    }

    #[test]
    fn an_id_that_is_not_known_is_null() {
        assert!(rpc_id(br#"{"id":{"a":1}}"#).is_none());
        assert!(rpc_id(br#"{"id":1,"half"#).is_none());
        let response = EdgeError::AgentFailed.response(true, None);
        assert!(std::str::from_utf8(response.body()).unwrap().contains(r#""id":null"#));
    }

    #[test]
    fn no_failure_of_a_known_share_looks_like_an_ended_session() {
        let failures = [
            EdgeError::Busy,
            EdgeError::Offline,
            EdgeError::Unavailable,
            EdgeError::Draining,
            EdgeError::AgentFailed,
            EdgeError::NotMcpAnswer,
            EdgeError::Idle,
            EdgeError::RateLimited(Duration::from_millis(5)),
            EdgeError::Blocked(None),
            EdgeError::Exhausted {
                whose: Party::Owner,
                what: Exhausted::Bytes,
                wait: Duration::from_secs(60),
            },
        ];
        for failure in failures {
            let (status, _) = failure.parts();
            assert!(![400, 404, 405].contains(&status.as_u16()), "{failure}");
        }
    }

    #[test]
    fn what_a_quota_refuses_says_whose_it_is_and_when_there_is_more() {
        let error = EdgeError::Exhausted {
            whose: Party::Owner,
            what: Exhausted::Requests,
            wait: Duration::from_secs(3600),
        };
        let response = error.response(false, None);
        assert_eq!((response.status().as_u16(), error.retry_after()), (429, Some(3600)));
        assert_eq!(response.headers()["mcpm-relay-error"], "quota_exceeded");
        assert_eq!(error.to_string(), "the owner of this share has used up the requests of today");
        let blocked = EdgeError::Blocked(Some("abuse@example.com".into()));
        assert!(blocked.to_string().ends_with("go to abuse@example.com"), "{blocked}");
    }

    #[test]
    fn a_refused_visitor_is_challenged_without_resource_metadata() {
        let response = EdgeError::Denied(Denied::Missing).response(false, None);
        assert_eq!(response.status(), 401);
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer") && !challenge.contains("resource_metadata"));
    }
}
