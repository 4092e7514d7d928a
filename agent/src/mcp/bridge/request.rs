//! Requests and notifications between the eras.

use serde_json::value::RawValue;

use super::{
    CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL, Level, META, PROTOCOL_VERSION, SUBSCRIPTION_ID,
    may_ask,
};
use crate::mcp::message::Message;
use crate::mcp::object::Object;

/// The keys of `_meta` that describe the connection: they are of one hop.
const CONNECTION: [&str; 4] = [PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL];

/// What a modern request says of its sender.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The version of the protocol.
    pub version: &'a str,
    /// What the client can do: an object.
    pub capabilities: &'a RawValue,
    /// Who the client is: an object.
    pub client_info: Option<&'a RawValue>,
    /// The least log level that it wants to hear of; none means no log messages.
    pub log_level: Option<Level>,
}

impl Stamp<'_> {
    fn put_on(&self, meta: &mut Object) {
        for key in CONNECTION {
            drop(meta.remove(key));
        }
        meta.set_str(PROTOCOL_VERSION, self.version);
        meta.set(CLIENT_CAPABILITIES, self.capabilities.to_owned());
        if let Some(info) = self.client_info {
            meta.set(CLIENT_INFO, info.to_owned());
        }
        if let Some(level) = self.log_level {
            meta.set_str(LOG_LEVEL, level.as_str());
        }
    }
}

/// Makes a modern request a legacy one: without what describes the connection, and without the
/// answers and the state of a retry, which the gateway has used.
#[must_use]
pub fn legacy_request(message: &Message<'_>) -> String {
    edit_params(message, |params| {
        params.edit_in(META, |meta| CONNECTION.map(|key| meta.remove(key)));
        if may_ask(message.method()) {
            drop(params.remove("inputResponses"));
            drop(params.remove("requestState"));
        }
    })
}

/// Makes a legacy request a modern one, or gives a modern one another sender.
#[must_use]
pub fn modern_request(message: &Message<'_>, stamp: &Stamp<'_>) -> String {
    edit_params(message, |params| params.edit_in(META, |meta| stamp.put_on(meta)))
}

/// Makes a notification of a legacy server one of a modern subscription; `subscription` is the id
/// of the `subscriptions/listen` request as its sender wrote it.
#[must_use]
pub fn modern_notice(message: &Message<'_>, subscription: &RawValue) -> String {
    edit_params(message, |params| {
        params.edit_in(META, |meta| meta.set(SUBSCRIPTION_ID, subscription.to_owned()));
    })
}

/// Makes a notification of a modern server a legacy one, which belongs to no subscription.
#[must_use]
pub fn legacy_notice(message: &Message<'_>) -> String {
    edit_params(message, |params| {
        drop(params.edit_in(META, |meta| meta.remove(SUBSCRIPTION_ID)));
    })
}

/// Edits the parameters and leaves every byte around them as it is.
///
/// Missing parameters are made when the edit needs them; those that are no object (MCP has none
/// such) pass.
pub(super) fn edit_params<T>(message: &Message<'_>, edit: impl FnOnce(&mut Object) -> T) -> String {
    let text = message.text();
    let old = message.params();
    let parsed = match old {
        Some(value) if value.get() != "null" => Object::of(value),
        _ => Some(Object::new()),
    };
    let Some(mut params) = parsed else { return text.to_owned() };
    drop(edit(&mut params));
    match (old, params.is_empty()) {
        (None, true) => text.to_owned(),
        (Some(old), _) => spliced(message, old, &params.to_string()),
        // A message has a method, so another member follows.
        (None, false) => match text.split_once('{') {
            Some((before, rest)) => format!(r#"{before}{{"params":{params},{rest}"#),
            None => text.to_owned(),
        },
    }
}

fn spliced(message: &Message<'_>, old: &RawValue, new: &str) -> String {
    let bytes = message.rewrite(vec![message.edit(old, new)]);
    String::from_utf8(bytes).expect("text in place of a value leaves text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Message<'_> {
        Message::parse(text).unwrap()
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_modern_request_loses_what_describes_its_connection_golden() {
        let text = concat!(
            r#"{ "jsonrpc":"2.0", "id":"\u0061" ,"method":"tools/call","params":{"name":"x","#,
            r#""arguments":{ "n":1.0 ,"n":2},"inputResponses":{"k":{}},"requestState":"s","#,
            r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
            r#""io.modelcontextprotocol/clientCapabilities":{},"#,
            r#""io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"#,
            r#""io.modelcontextprotocol/logLevel":"info","progressToken":7,"a/b":[ 1 ]},"#,
            r#""future":null},"x":1}"#
        );
        assert_eq!(
            legacy_request(&one(text)),
            concat!(
                r#"{ "jsonrpc":"2.0", "id":"\u0061" ,"method":"tools/call","params":{"name":"x","#,
                r#""arguments":{ "n":1.0 ,"n":2},"_meta":{"progressToken":7,"a/b":[ 1 ]},"#,
                r#""future":null},"x":1}"#
            )
        );
    }

    #[test]
    fn a_meta_that_only_described_the_connection_goes() {
        let text = r#"{"id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        assert_eq!(legacy_request(&one(text)), r#"{"id":1,"method":"tools/list","params":{}}"#);
    }

    #[test]
    fn answers_are_taken_only_from_requests_that_may_ask() {
        let text = r#"{"id":1,"method":"vendor/x","params":{"inputResponses":{"k":1},"requestState":"s"}}"#;
        assert_eq!(legacy_request(&one(text)), text);
    }

    #[test]
    fn a_legacy_request_is_stamped_golden() {
        let (capabilities, info) = (raw(r#"{"roots":{}}"#), raw(r#"{"name":"c","version":"1"}"#));
        let mut stamp = Stamp {
            version: "2026-07-28",
            capabilities: &capabilities,
            client_info: Some(&info),
            log_level: Some(Level::Warning),
        };
        let meta = concat!(
            r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
            r#""io.modelcontextprotocol/clientCapabilities":{"roots":{}},"#,
            r#""io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"#,
            r#""io.modelcontextprotocol/logLevel":"warning""#
        );
        let none = r#" {"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        assert_eq!(
            modern_request(&one(none), &stamp),
            format!(
                r#" {{"params":{{"_meta":{{{meta}}}}},"jsonrpc":"2.0","id":1,"method":"tools/list"}}"#
            )
        );
        let some = r#"{"id":1,"method":"m","params":{"_meta":{"progressToken":"t"},"a":[ ]}}"#;
        let stamped = modern_request(&one(some), &stamp);
        assert_eq!(
            stamped,
            format!(
                r#"{{"id":1,"method":"m","params":{{"_meta":{{"progressToken":"t",{meta}}},"a":[ ]}}}}"#
            )
        );
        stamp.log_level = None;
        stamp.client_info = None;
        let again = modern_request(&one(&stamped), &stamp);
        assert!(!again.contains("logLevel") && !again.contains("clientInfo"), "{again}");
    }

    #[test]
    fn parameters_that_are_no_object_pass() {
        let capabilities = raw("{}");
        let stamp = Stamp {
            version: "2026-07-28",
            capabilities: &capabilities,
            client_info: None,
            log_level: None,
        };
        let text = r#"{"id":1,"method":"m","params":[1, 2]}"#;
        assert_eq!(legacy_request(&one(text)), text);
        assert_eq!(modern_request(&one(text), &stamp), text);
        let null = r#"{"id":1,"method":"m","params":null}"#;
        assert!(modern_request(&one(null), &stamp).contains("clientCapabilities"));
    }

    #[test]
    fn a_notice_joins_a_subscription_and_leaves_it() {
        let text = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        let joined = modern_notice(&one(text), &raw("\"s\""));
        assert_eq!(
            joined,
            r#"{"params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"}},"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#
        );
        assert_eq!(
            legacy_notice(&one(&joined)),
            r#"{"params":{},"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#
        );
        assert_eq!(legacy_notice(&one(text)), text);
    }
}
