//! Headers of a request over Streamable HTTP.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::era::{METHOD_HEADER, NAME_HEADER, VERSION_HEADER, encode_header};
use crate::mcp::message::{Message, string};

/// Returns the headers that mirror a modern message; `version` serves where it names none.
pub(super) fn mirror(message: &Message<'_>, version: &str) -> HeaderMap {
    let stated = message.meta().protocol_version.and_then(string);
    let pairs = [
        (VERSION_HEADER, Some(stated.unwrap_or(Cow::Borrowed(version)))),
        (METHOD_HEADER, Some(Cow::Borrowed(message.method()))),
        (NAME_HEADER, subject(message)),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        if let Some(value) =
            value.and_then(|value| HeaderValue::try_from(encode_header(&value)).ok())
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

/// Returns what a message is about: a tool, a prompt, a resource, or a task (extension).
fn subject<'a>(message: &Message<'a>) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Task<'a> {
        #[serde(borrow, default, rename = "taskId")]
        id: Option<&'a RawValue>,
    }
    let params = message.peek();
    match message.method() {
        "tools/call" | "prompts/get" => params.name.and_then(string),
        "resources/read" => params.uri.and_then(string),
        method if method.starts_with("tasks/") => {
            let params = message.params().filter(|params| params.get().starts_with('{'))?;
            serde_json::from_str::<Task<'a>>(params.get()).ok()?.id.and_then(string)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::era::{MODERN, check_mirror};

    #[test]
    fn what_a_message_is_about_is_mirrored() {
        let name = |text: &str| {
            let headers = mirror(&Message::parse(text).unwrap(), MODERN);
            assert_eq!(headers[VERSION_HEADER], MODERN);
            headers.get(NAME_HEADER).map(|name| name.to_str().unwrap().to_owned())
        };
        let call = r#"{"id":1,"method":"tools/call","params":{"name":"gr\u00f6\u00dfe"}}"#;
        assert_eq!(name(call).as_deref(), Some("=?base64?Z3LDtsOfZQ==?="));
        let read = r#"{"id":1,"method":"resources/read","params":{"uri":"a://b","name":"x"}}"#;
        assert_eq!(name(read).as_deref(), Some("a://b"));
        let task = r#"{"id":1,"method":"tasks/get","params":{"taskId":"t1"}}"#;
        assert_eq!(name(task).as_deref(), Some("t1"));
        assert_eq!(name(r#"{"id":1,"method":"tools/list"}"#), None);
    }

    #[test]
    fn what_is_mirrored_passes_the_check_of_a_server() {
        let text = r#"{"id":1,"method":"prompts/get","params":{"name":" p","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let message = Message::parse(text).unwrap();
        assert_eq!(check_mirror(&mirror(&message, "other"), &message), Ok(()));
    }
}
