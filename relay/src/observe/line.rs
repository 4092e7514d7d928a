//! One line of the access log. Pure: what is not in [`Facts`] cannot be in a line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::SystemTime;

use http::{StatusCode, Version};
use serde::Serialize;
use time::OffsetDateTime;

use super::Facts;
use crate::config::AccessLogForm;

/// The longest host or path that is written: what a visitor sends must not fill the disk.
const MAX_TEXT: usize = 2048;
/// What is written when the visitor went before an answer: nginx's number for it, which no server
/// ever sends.
const CLIENT_CLOSED: u16 = 499;

/// Adds the line of one request.
pub(super) fn write(out: &mut String, form: AccessLogForm, facts: &Facts, node: &str) {
    match form {
        AccessLogForm::Text => text(out, facts, node),
        AccessLogForm::Json => json(out, facts, node),
    }
    out.push('\n');
}

/// The common log format, and behind it: host, seconds, node, agent, and how it failed.
fn text(out: &mut String, facts: &Facts, node: &str) {
    let at = OffsetDateTime::from(facts.at);
    let status = status(facts);
    let seconds = facts.took.as_secs_f64();
    // Writing to a string cannot fail.
    let _head = write!(
        out,
        "{} - - [{:02}/{}/{:04}:{:02}:{:02}:{:02} +0000] \"{} ",
        facts.visitor,
        at.day(),
        &at.month().to_string()[..3],
        at.year(),
        at.hour(),
        at.minute(),
        at.second(),
        facts.method,
    );
    escaped(out, facts.path().as_bytes());
    let _middle = write!(out, " {}\" {status} {} \"", protocol(facts.version), facts.bytes);
    escaped(out, facts.host.as_ref().map_or(b"-", |host| host.as_bytes()));
    let _tail = write!(
        out,
        "\" {seconds:.3} {node} {} {}",
        facts.agent.as_deref().unwrap_or("-"),
        facts.code.unwrap_or(if facts.whole { "-" } else { "cut" }),
    );
}

/// What JSON lines hold. Fields are added, never renamed.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    visitor: std::net::IpAddr,
    scheme: &'static str,
    host: Option<String>,
    method: &'a str,
    path: Cow<'a, str>,
    protocol: &'static str,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    complete: bool,
    error: Option<&'static str>,
    node: &'a str,
    share: Option<&'a str>,
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

fn json(out: &mut String, facts: &Facts, node: &str) {
    let host = facts.host.as_ref().map(|host| cut(host.as_bytes()));
    let line = Line {
        time: rfc3339(facts.at),
        visitor: facts.visitor,
        scheme: if facts.https { "https" } else { "http" },
        host: host.map(|host| String::from_utf8_lossy(host).into_owned()),
        method: facts.method.as_str(),
        // Cut amid a character it is still worth a line.
        path: String::from_utf8_lossy(cut(facts.path().as_bytes())),
        protocol: protocol(facts.version),
        status: status(facts),
        bytes: facts.bytes,
        duration_ms: (facts.took.as_secs_f64() * 1e6).round() / 1e3,
        complete: facts.whole,
        error: facts.code,
        node,
        share: facts.share.as_ref().map(mcpm_shared::name::Name::as_str),
        agent: facts.agent.as_deref(),
        trace_id: facts.trace_id.as_deref(),
    };
    out.push_str(&serde_json::to_string(&line).unwrap_or_default());
}

fn status(facts: &Facts) -> u16 {
    facts.status.map_or(CLIENT_CLOSED, |status: StatusCode| status.as_u16())
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(MAX_TEXT)]
}

/// Adds what a visitor sent so that it cannot end a field or a line: as nginx does, by `\xHH`.
fn escaped(out: &mut String, bytes: &[u8]) {
    for byte in cut(bytes) {
        match byte {
            b'"' | b'\\' | ..=b' ' | 0x7f.. => {
                let _written = write!(out, "\\x{byte:02X}");
            }
            _ => out.push(char::from(*byte)),
        }
    }
}

/// The moment as RFC 3339 with milliseconds, in UTC.
fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond(),
    )
}
