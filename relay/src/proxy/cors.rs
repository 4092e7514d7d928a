//! Cross-origin access to bearer shares. Any origin may call: a visitor's right is in the token,
//! never in a cookie, so there is nothing a foreign page could borrow.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::body::EdgeBody;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
/// What MCP clients send; `Mcp-Param-*` has no wildcard, so asked-for names are repeated.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, accept, last-event-id, mcp-protocol-version, mcp-session-id, \
     mcp-method, mcp-name, x-mcpm-secret, x-mcpm-profile",
);
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "mcp-session-id, mcp-protocol-version, www-authenticate, retry-after, mcpm-relay-error",
);

/// Answers a preflight.
#[must_use]
pub(super) fn preflight(asked: &HeaderMap) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    allow(headers);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let names = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(HEADERS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Lets any origin read an answer, in place of whatever the server behind the share said.
pub(super) fn allow(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
}
