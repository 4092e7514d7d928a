//! Which of the two eras of MCP a request belongs to.
//!
//! *Legacy* revisions (2024-11-05 to 2025-11-25) open with `initialize`; in the *modern* one
//! (2026-07-28) every request describes itself in `_meta` and, over HTTP, in headers.

use http::HeaderMap;

use super::message::{self, Message};

/// Header with the protocol version; in the legacy era absent until `initialize` was answered.
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// Header that mirrors the method (modern).
pub const METHOD_HEADER: &str = "mcp-method";
/// Header that mirrors the tool, prompt or resource (modern).
pub const NAME_HEADER: &str = "mcp-name";
/// Header that names a legacy session.
pub const SESSION_HEADER: &str = "mcp-session-id";

/// The first modern revision.
pub const MODERN: &str = "2026-07-28";
/// The last revision with `initialize`.
pub const LATEST_LEGACY: &str = "2025-11-25";
/// The revisions with `initialize`.
pub const LEGACY_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST_LEGACY];

/// An era of MCP; a property of each hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// Sessions that open with `initialize`.
    Legacy,
    /// Requests that describe themselves.
    Modern,
}

/// A version header that fits no era.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported protocol version `{0}`")]
pub struct UnknownVersion(pub String);

/// Tells the era of an HTTP exchange by its version header alone; absent means legacy.
///
/// # Errors
/// The header names a version that is neither a legacy one nor a date from 2026-07-28 on.
pub fn of_headers(headers: &HeaderMap) -> Result<Era, UnknownVersion> {
    let Some(value) = headers.get(VERSION_HEADER) else { return Ok(Era::Legacy) };
    match value.to_str().map(str::trim) {
        Ok(version) if is_modern(version) => Ok(Era::Modern),
        Ok(version) if LEGACY_VERSIONS.contains(&version) => Ok(Era::Legacy),
        _ => Err(UnknownVersion(String::from_utf8_lossy(value.as_bytes()).into_owned())),
    }
}

/// Tells the era of a message by its body: a version in `_meta` is modern, whatever the method;
/// otherwise `initialize` is legacy.
#[must_use]
pub fn of_message(message: &Message<'_>) -> Option<Era> {
    if message.meta().protocol_version.is_some() {
        return Some(Era::Modern);
    }
    (message.method() == "initialize").then_some(Era::Legacy)
}

/// Tells whether a version is a date from 2026-07-28 on.
#[must_use]
pub fn is_modern(version: &str) -> bool {
    let date = version.len() == 10
        && version.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    date && version >= MODERN
}

/// Tells whether an error code shows that the other end speaks the modern era.
#[must_use]
pub fn is_modern_error(code: i64) -> bool {
    matches!(
        code,
        message::HEADER_MISMATCH | message::MISSING_CAPABILITY | message::UNSUPPORTED_VERSION
    )
}

/// Checks the headers that mirror a modern message (2026-07-28 §Streamable HTTP).
///
/// # Errors
/// Says which header is missing or contradicts the body; the answer is HTTP 400 and -32020.
pub fn check_mirror(headers: &HeaderMap, message: &Message<'_>) -> Result<(), String> {
    let version = message.meta().protocol_version.and_then(message::string);
    if let Some(version) = version {
        same(headers, VERSION_HEADER, &version)?;
    }
    same(headers, METHOD_HEADER, message.method())?;
    let params = message.peek();
    let subject = match message.method() {
        "tools/call" | "prompts/get" => params.name,
        "resources/read" => params.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => params.task_id,
        _ => None,
    };
    match subject.and_then(message::string) {
        Some(subject) => same(headers, NAME_HEADER, &subject),
        None => Ok(()),
    }
}

fn same(headers: &HeaderMap, name: &str, expected: &str) -> Result<(), String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| format!("header `{name}` is missing"))?;
    if values.next().is_some() {
        return Err(format!("header `{name}` came more than once"));
    }
    match value.to_str().ok().and_then(decode_header) {
        Some(value) if value == expected => Ok(()),
        _ => Err(format!("header `{name}` does not match the body")),
    }
}

const SENTINEL: (&str, &str) = ("=?base64?", "?=");

/// Decodes the value of a mirroring header, which may be wrapped in `=?base64?…?=`.
#[must_use]
pub fn decode_header(value: &str) -> Option<String> {
    use base64::Engine as _;

    let inner = value.strip_prefix(SENTINEL.0).and_then(|rest| rest.strip_suffix(SENTINEL.1));
    let Some(inner) = inner else { return Some(value.trim().to_owned()) };
    let bytes = base64::engine::general_purpose::STANDARD.decode(inner).ok()?;
    String::from_utf8(bytes).ok()
}

/// Encodes a value for a mirroring header.
#[must_use]
pub fn encode_header(value: &str) -> String {
    use base64::Engine as _;

    let plain = value.bytes().all(|byte| matches!(byte, 0x20..=0x7e))
        && value.trim() == value
        && !value.starts_with(SENTINEL.0);
    if plain {
        return value.to_owned();
    }
    let inner = base64::engine::general_purpose::STANDARD.encode(value);
    format!("{}{inner}{}", SENTINEL.0, SENTINEL.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_version_header_tells_the_era() {
        let era = |version| of_headers(&headers(&[(VERSION_HEADER, version)]));
        assert_eq!(of_headers(&HeaderMap::new()), Ok(Era::Legacy));
        assert_eq!(era("2025-06-18"), Ok(Era::Legacy));
        assert_eq!(era("2026-07-28"), Ok(Era::Modern));
        assert_eq!(era("2027-01-01"), Ok(Era::Modern));
        assert!(era("2025-01-01").is_err());
        assert!(era("9").is_err());
        assert!(era("latest-ver").is_err());
    }

    #[test]
    fn the_body_tells_the_era_where_it_can() {
        let era = |text| of_message(&Message::parse(text).unwrap());
        assert_eq!(era(r#"{"id":1,"method":"initialize","params":{}}"#), Some(Era::Legacy));
        assert_eq!(era(r#"{"id":1,"method":"tools/list"}"#), None);
        let modern = r#"{"id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        assert_eq!(era(modern), Some(Era::Modern));
    }

    #[test]
    fn mirroring_headers_must_agree_with_the_body() {
        let text = r#"{"id":1,"method":"tools/call","params":{"name":"größe","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let message = Message::parse(text).unwrap();
        let name = encode_header("größe");
        let full = [
            (VERSION_HEADER, "2026-07-28"),
            (METHOD_HEADER, "tools/call"),
            (NAME_HEADER, name.as_str()),
        ];
        assert_eq!(check_mirror(&headers(&full), &message), Ok(()));
        assert!(check_mirror(&headers(&full[..2]), &message).unwrap_err().contains("missing"));
        let wrong = [full[0], (METHOD_HEADER, "tools/list"), full[2]];
        assert!(check_mirror(&headers(&wrong), &message).is_err());
        let twice = [full[0], full[1], full[2], (NAME_HEADER, "other")];
        assert!(check_mirror(&headers(&twice), &message).unwrap_err().contains("more than once"));
    }

    #[test]
    fn requests_about_a_task_mirror_its_id() {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let text = format!(r#"{{"id":1,"method":"{method}","params":{{"taskId":"t1"}}}}"#);
            let message = Message::parse(&text).unwrap();
            let full = [(METHOD_HEADER, method), (NAME_HEADER, "t1")];
            assert_eq!(check_mirror(&headers(&full), &message), Ok(()));
            assert!(check_mirror(&headers(&full[..1]), &message).unwrap_err().contains("missing"));
        }
    }

    #[test]
    fn header_values_survive_encoding() {
        for value in ["plain", " lead", "größe", "=?base64?eA==?=", ""] {
            assert_eq!(decode_header(&encode_header(value)).as_deref(), Some(value));
        }
        assert_eq!(encode_header("plain"), "plain");
    }
}
