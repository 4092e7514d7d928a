//! MCP mode: what of HTTP an MCP share lets through. Pure.
//!
//! A relay that served anything under other people's names would be a phishing host; one that
//! passes only MCP is useless for that.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use crate::error::EdgeError;

/// What a request to an MCP share asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    /// MCP traffic, for this path at the agent.
    Exchange(&'a str),
    /// A browser's cross-origin question (CORS preflight).
    Preflight,
    /// A person opened the share in a browser.
    Page,
}

/// Decides what `method` on `path` asks for.
///
/// # Errors
/// When it is not part of MCP.
pub(super) fn ask<'a>(
    method: &Method,
    path: &'a str,
    headers: &HeaderMap,
) -> Result<Ask<'a>, EdgeError> {
    let path = match path {
        // The same endpoint without a redirect: clients lose their token on redirects.
        "/mcp" | "/mcp/" => "/mcp",
        // A client that was given the bare address of a share asks there for events too.
        "/" if method == Method::HEAD => return Ok(Ask::Page),
        "/" if method == Method::GET && !wants_events(headers) => return Ok(Ask::Page),
        "/" => "/mcp",
        "/sse" | "/sse/" => "/sse",
        "/messages" | "/messages/" => "/messages",
        _ => return Err(EdgeError::NotMcp),
    };
    match *method {
        Method::OPTIONS => Ok(Ask::Preflight),
        Method::GET | Method::DELETE => Ok(Ask::Exchange(path)),
        Method::POST if is_json(headers) => Ok(Ask::Exchange(path)),
        Method::POST => Err(EdgeError::ContentType),
        _ => Err(EdgeError::Method),
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok());
    accepted.any(|types| types.to_ascii_lowercase().contains("text/event-stream"))
}

fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media| media.eq_ignore_ascii_case("application/json"))
}

/// Returns the media type of a message, without parameters; `None` where it names none, or several:
/// of these a browser takes the last, and others the first.
#[must_use]
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    Some(value.to_str().ok()?.split(';').next().unwrap_or_default().trim())
}

/// Tells whether an answer is one that MCP servers give.
#[must_use]
pub(super) fn is_mcp_answer(status: StatusCode, headers: &HeaderMap) -> bool {
    if status.is_redirection() {
        return false;
    }
    let known = ["application/json", "text/event-stream", "text/plain"];
    match media_type(headers) {
        Some(media) => known.iter().any(|known| media.eq_ignore_ascii_case(known)),
        // One that cannot be read here may be read elsewhere.
        None => !headers.contains_key(header::CONTENT_TYPE),
    }
}

/// Makes an answer harmless to a browser that should show it as a page, and unbuffered.
pub(super) fn harden(headers: &mut HeaderMap) {
    let set = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.remove(header::SET_COOKIE);
    headers.remove(header::REFRESH);
    headers.remove(header::LOCATION);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json() -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_static("application/json; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, value);
        headers
    }

    #[test]
    fn both_spellings_of_the_endpoint_and_a_post_to_the_root_are_one() {
        for path in ["/mcp", "/mcp/", "/"] {
            assert_eq!(ask(&Method::POST, path, &json()), Ok(Ask::Exchange("/mcp")));
        }
        assert_eq!(ask(&Method::GET, "/mcp/", &HeaderMap::new()), Ok(Ask::Exchange("/mcp")));
        assert_eq!(ask(&Method::GET, "/", &HeaderMap::new()), Ok(Ask::Page));
        let mut events = HeaderMap::new();
        events.insert(header::ACCEPT, HeaderValue::from_static("text/html"));
        assert_eq!(ask(&Method::GET, "/", &events), Ok(Ask::Page));
        events.append(header::ACCEPT, HeaderValue::from_static("a/b, Text/Event-Stream"));
        assert_eq!(ask(&Method::GET, "/", &events), Ok(Ask::Exchange("/mcp")));
    }

    #[test]
    fn what_is_not_mcp_is_refused() {
        let none = HeaderMap::new();
        for path in ["/login", "/.well-known/oauth-protected-resource", "/mcp/x", "/mcp%2f"] {
            assert_eq!(ask(&Method::GET, path, &none), Err(EdgeError::NotMcp), "{path}");
        }
        assert_eq!(ask(&Method::PUT, "/mcp", &none), Err(EdgeError::Method));
        assert_eq!(ask(&Method::POST, "/mcp", &none), Err(EdgeError::ContentType));
    }

    #[test]
    fn only_the_answers_of_mcp_pass() {
        let mut headers = json();
        assert!(is_mcp_answer(StatusCode::OK, &headers));
        assert!(is_mcp_answer(StatusCode::ACCEPTED, &HeaderMap::new()));
        assert!(!is_mcp_answer(StatusCode::FOUND, &HeaderMap::new()));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert!(!is_mcp_answer(StatusCode::OK, &headers));
    }

    #[test]
    fn an_answer_that_a_browser_could_take_for_a_page_does_not_pass() {
        let mut two = json();
        two.append(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        let mut unreadable = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"text/html;\xff").unwrap();
        unreadable.insert(header::CONTENT_TYPE, value);
        for headers in [two, unreadable] {
            assert!(!is_mcp_answer(StatusCode::OK, &headers), "{headers:?}");
            assert!(ask(&Method::POST, "/mcp", &headers).is_err(), "{headers:?}");
        }
    }
}
