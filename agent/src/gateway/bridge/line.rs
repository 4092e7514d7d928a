//! What a line of the client says about its way to the server.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::mcp::era::{METHOD_HEADER, NAME_HEADER, VERSION_HEADER, encode_header};
use crate::mcp::message::{Incoming, Kind, Message, string};

/// How a line travels.
pub(super) enum Lane {
    Ordered,
    Request,
}

/// Tells how a line travels, or the code of what is wrong with it.
pub(super) fn sort(line: &[u8]) -> Result<Lane, i64> {
    let incoming = Incoming::parse(line).map_err(|error| error.code())?;
    let requests = |message: &Message<'_>| message.kind() == Kind::Request;
    let opens = matches!(&incoming, Incoming::One(message) if message.method() == "initialize");
    let asks = incoming.messages().iter().any(requests);
    Ok(if asks && !opens { Lane::Request } else { Lane::Ordered })
}

/// Returns the headers that mirror a modern message.
pub(super) fn mirror(message: &Message<'_>) -> HeaderMap {
    let params = message.peek();
    let subject = match message.method() {
        "tools/call" | "prompts/get" => params.name,
        "resources/read" => params.uri,
        method if method.starts_with("tasks/") => params.task_id,
        _ => None,
    };
    let version = message.meta().protocol_version.and_then(string);
    let method = Some(std::borrow::Cow::Borrowed(message.method()));
    let pairs = [
        (VERSION_HEADER, version),
        (METHOD_HEADER, method),
        (NAME_HEADER, subject.and_then(string)),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let value = value.and_then(|value| HeaderValue::from_str(&encode_header(&value)).ok());
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}
