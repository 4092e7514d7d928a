//! One JSON-RPC message as a view into its own bytes, and edits that touch nothing else.
//!
//! The gateway forwards what it does not understand, so it never re-serializes: unknown fields,
//! member order, numbers beyond `f64` and white space all survive an edit.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// JSON-RPC code of text that is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON-RPC code of JSON that is not a valid request.
pub const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC code of a method that does not exist.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC code of wrong or missing parameters.
pub const INVALID_PARAMS: i64 = -32602;
/// JSON-RPC code of a failure inside the server.
pub const INTERNAL_ERROR: i64 = -32603;
/// MCP code of headers that contradict the body (2026-07-28 §Streamable HTTP).
pub const HEADER_MISMATCH: i64 = -32020;
/// MCP code of a client capability that a request needed (2026-07-28).
pub const MISSING_CAPABILITY: i64 = -32021;
/// MCP code of a protocol version that is not served (2026-07-28).
pub const UNSUPPORTED_VERSION: i64 = -32022;

/// Why some bytes are not a JSON-RPC message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The bytes are not UTF-8.
    #[error("the message is not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    /// The text is not JSON, or a member that we read came twice.
    #[error("the message is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON, but neither a request, a notification, a response nor a batch of them.
    #[error("the message is not JSON-RPC")]
    Shape,
    /// It is a batch of nothing (JSON-RPC 2.0 §6).
    #[error("the batch is empty")]
    EmptyBatch,
}

impl MessageError {
    /// Returns the JSON-RPC code that answers such a message.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Self::Shape | Self::EmptyBatch => INVALID_REQUEST,
            Self::Utf8(_) | Self::Json(_) => PARSE_ERROR,
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an id: somebody waits for an answer.
    Request,
    /// It has a method and no id.
    Notification,
    /// It has a result or an error.
    Response,
}

/// A view of one message.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    text: &'a str,
    kind: Kind,
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    /// What was read of the parameters, and of their `_meta`; many ask, and each look costs.
    peeked: Params<'a>,
    meta: Meta<'a>,
}

/// What one line or one body holds.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are one message, which a box would cost an allocation each"
)]
pub enum Incoming<'a> {
    /// One message.
    One(Message<'a>),
    /// A batch of at least one (MCP 2025-03-26 only).
    Many(Vec<Message<'a>>),
}

impl<'a> Incoming<'a> {
    /// Looks at the bytes of one line or one body.
    ///
    /// # Errors
    /// Says what is wrong with them; see [`MessageError::code`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let text = std::str::from_utf8(bytes)?;
        if !text.trim_start().starts_with('[') {
            return Message::parse(text).map(Self::One);
        }
        let parts: Vec<&RawValue> = serde_json::from_str(text)?;
        if parts.is_empty() {
            return Err(MessageError::EmptyBatch);
        }
        let messages = parts.into_iter().map(|part| Message::parse(part.get()));
        Ok(Self::Many(messages.collect::<Result<_, _>>()?))
    }

    /// Returns the messages as a slice, whatever their number.
    #[must_use]
    pub fn messages(&self) -> &[Message<'a>] {
        match self {
            Self::One(message) => std::slice::from_ref(message),
            Self::Many(messages) => messages,
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Keeps an explicit `null` apart from a missing member.
fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(input).map(Some)
}

impl<'a> Message<'a> {
    /// Looks at the text of one message.
    ///
    /// # Errors
    /// Says why the text is not a message; members that we do not read may be anything.
    pub fn parse(text: &'a str) -> Result<Self, MessageError> {
        if !text.trim_start().starts_with('{') {
            // Valid JSON that is no object is a fault of shape, not of syntax.
            serde_json::from_str::<serde::de::IgnoredAny>(text)?;
            return Err(MessageError::Shape);
        }
        let Envelope { id, method, params, result, error } = serde_json::from_str(text)?;
        let kind = match (&method, id) {
            (Some(_), Some(id)) if is_id(id) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, _) if result.is_some() || error.is_some() => Kind::Response,
            _ => return Err(MessageError::Shape),
        };
        let peeked: Params<'a> = params.and_then(object).unwrap_or_default();
        let meta = read_meta(peeked.meta);
        Ok(Self { text, kind, id, method, params, result, error, peeked, meta })
    }

    /// Returns the whole text.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Returns what the message is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the id as it is written; `null` only in a response.
    #[must_use]
    pub fn id(&self) -> Option<&'a RawValue> {
        self.id
    }

    /// Returns the method of a request or notification, else an empty string.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// Returns the parameters as they are written.
    #[must_use]
    pub fn params(&self) -> Option<&'a RawValue> {
        self.params
    }

    /// Returns the result of a successful response.
    #[must_use]
    pub fn result(&self) -> Option<&'a RawValue> {
        self.result
    }

    /// Returns the error of a failed response.
    #[must_use]
    pub fn error(&self) -> Option<&'a RawValue> {
        self.error
    }

    /// Returns the code of a failed response.
    #[must_use]
    pub fn error_code(&self) -> Option<i64> {
        #[derive(Deserialize)]
        struct Code {
            code: i64,
        }
        object::<Code>(self.error?).map(|error| error.code)
    }

    /// Returns what the gateway reads of the parameters; empty where they are no object.
    #[must_use]
    pub fn peek(&self) -> Params<'a> {
        self.peeked.clone()
    }

    /// Returns what the gateway reads of `params._meta`.
    #[must_use]
    pub fn meta(&self) -> Meta<'a> {
        self.meta.clone()
    }

    /// Returns what the gateway reads of `result._meta`.
    #[must_use]
    pub fn result_meta(&self) -> Meta<'a> {
        #[derive(Default, Deserialize)]
        struct Peek<'a> {
            #[serde(borrow, default, rename = "_meta")]
            meta: Option<&'a RawValue>,
        }
        read_meta(self.result.and_then(object::<Peek<'a>>).and_then(|peek| peek.meta))
    }

    /// Replaces one value of this message, one that a view of it gave, by other text.
    #[must_use]
    pub fn edit(&self, old: &RawValue, new: &str) -> Edit {
        let start = old.get().as_ptr() as usize - self.text.as_ptr() as usize;
        Edit { at: start..start + old.get().len(), with: new.to_owned() }
    }

    /// Returns the message with the edits made and every other byte as it was.
    #[must_use]
    pub fn rewrite(&self, mut edits: Vec<Edit>) -> Vec<u8> {
        edits.sort_by_key(|edit| edit.at.start);
        let grown: usize = edits.iter().map(|edit| edit.with.len()).sum();
        let mut out = Vec::with_capacity(self.text.len() + grown + 1);
        let mut done = 0;
        for edit in edits {
            out.extend_from_slice(&self.text.as_bytes()[done..edit.at.start]);
            out.extend_from_slice(edit.with.as_bytes());
            done = edit.at.end;
        }
        out.extend_from_slice(&self.text.as_bytes()[done..]);
        out
    }
}

/// One replacement in the text of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    at: Range<usize>,
    with: String,
}

/// What the gateway reads of a message's parameters.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Params<'a> {
    /// `_meta`, as it is written.
    #[serde(borrow, default, rename = "_meta")]
    pub meta: Option<&'a RawValue>,
    /// The token of `notifications/progress`.
    #[serde(borrow, default, rename = "progressToken")]
    pub progress_token: Option<&'a RawValue>,
    /// The id that `notifications/cancelled` is about.
    #[serde(borrow, default, rename = "requestId")]
    pub request_id: Option<&'a RawValue>,
    /// The name of a tool or prompt.
    #[serde(borrow, default)]
    pub name: Option<&'a RawValue>,
    /// The URI of a resource.
    #[serde(borrow, default)]
    pub uri: Option<&'a RawValue>,
    /// Which task a request of `tasks/…` is about.
    #[serde(borrow, default, rename = "taskId")]
    pub task_id: Option<&'a RawValue>,
}

/// What the gateway reads of a `_meta`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Meta<'a> {
    /// The token under which a requester wants progress.
    #[serde(borrow, default, rename = "progressToken")]
    pub progress_token: Option<&'a RawValue>,
    /// The modern era's protocol version of this request.
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    pub protocol_version: Option<&'a RawValue>,
    /// The modern era's client capabilities of this request.
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub client_capabilities: Option<&'a RawValue>,
    /// The id of the `subscriptions/listen` request that a notification belongs to.
    #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
    pub subscription_id: Option<&'a RawValue>,
}

fn read_meta(meta: Option<&RawValue>) -> Meta<'_> {
    meta.and_then(object).unwrap_or_default()
}

/// Reads an object. serde would also take an array, member by member.
fn object<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    let text = value.get();
    if text.starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

/// Returns the text of a JSON string, or `None` for any other value.
#[must_use]
pub fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

fn is_id(id: &RawValue) -> bool {
    id.get().starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

/// An id or progress token by value, so that `"\u0061"` and `"a"`, or `1.0` and `1`, are the same:
/// servers answer with the value they read, not with the bytes we wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A number that is whole.
    Integer(i128),
    /// A string.
    Text(String),
    /// Anything else, as it is written.
    Other(String),
}

impl Key {
    /// Reads the value of an id or a token.
    #[must_use]
    pub fn of(value: &RawValue) -> Self {
        let text = value.get();
        if let Ok(whole) = text.parse::<i128>() {
            return Self::Integer(whole);
        }
        if let Some(text) = string(value) {
            return Self::Text(text.into_owned());
        }
        match text.parse::<f64>() {
            // Below 2^53 the conversion is exact.
            Ok(number) if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
                #[expect(clippy::cast_possible_truncation, reason = "checked by the guard")]
                let whole = number as i128;
                Self::Integer(whole)
            }
            _ => Self::Other(text.to_owned()),
        }
    }
}

/// Returns an error response; `id` is JSON text, `null` where there is none.
#[must_use]
pub fn error_response(
    id: Option<&str>,
    code: i64,
    message: &str,
    data: Option<&serde_json::Value>,
) -> Vec<u8> {
    let mut error = serde_json::json!({ "code": code, "message": message });
    if let Some(data) = data {
        error["data"] = data.clone();
    }
    let id = id.unwrap_or("null");
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into_bytes()
}

/// Returns the message on one line: in valid JSON a raw line break can only be white space.
#[must_use]
pub fn one_line(text: Bytes) -> Bytes {
    match on_one_line(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(line) => line.into(),
    }
}

/// Writes a message on one line, as [`one_line`] does.
#[must_use]
pub fn on_one_line(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut line = text.to_vec();
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Message<'_> {
        Message::parse(text).unwrap()
    }

    #[test]
    fn kinds_are_told_apart_by_their_members() {
        assert_eq!(one(r#"{"id":1,"method":"ping"}"#).kind(), Kind::Request);
        assert_eq!(one(r#"{"method":"notifications/x"}"#).kind(), Kind::Notification);
        assert_eq!(one(r#"{"id":1,"result":null}"#).kind(), Kind::Response);
        assert_eq!(one(r#"{"id":null,"error":{"code":-32700}}"#).kind(), Kind::Response);
        assert_eq!(one(r#"{"id":null,"error":{"code":-32700}}"#).error_code(), Some(-32700));
    }

    #[test]
    fn what_is_not_json_rpc_is_refused_with_its_code() {
        let code = |text: &str| Incoming::parse(text.as_bytes()).unwrap_err().code();
        assert_eq!(code("Listening on port 3000"), PARSE_ERROR);
        assert_eq!(code("{\"a\":"), PARSE_ERROR);
        assert_eq!(code(r#"{"id":1,"id":2,"method":"x"}"#), PARSE_ERROR);
        assert_eq!(code("42"), INVALID_REQUEST);
        assert_eq!(code(" [ ] "), INVALID_REQUEST);
        assert_eq!(code("[1]"), INVALID_REQUEST);
        assert_eq!(code(r#"{"level":"info","msg":"hello"}"#), INVALID_REQUEST);
        assert_eq!(code(r#"{"id":null,"method":"x"}"#), INVALID_REQUEST);
        assert_eq!(code(r#"{"id":{},"method":"x"}"#), INVALID_REQUEST);
        assert_eq!(Incoming::parse(b"\xff\xfe").unwrap_err().code(), PARSE_ERROR);
    }

    #[test]
    fn a_batch_is_seen_message_by_message() {
        let text = br#" [ {"id":1,"method":"a"}, {"method":"b"} ]"#;
        let incoming = Incoming::parse(text).unwrap();
        let methods: Vec<_> = incoming.messages().iter().map(Message::method).collect();
        assert_eq!(methods, ["a", "b"]);
    }

    #[test]
    fn only_the_id_and_the_token_change_golden_bytes() {
        let text = concat!(
            r#"{ "x":1e400,"jsonrpc":"2.0", "id" : "a\u00e9" ,"method":"tools/call","#,
            r#""params":{"_meta":{"progressToken":12345678901234567890123,"z":0.10},"id":7}}"#
        );
        let message = one(text);
        let token = message.meta().progress_token.unwrap();
        let edits =
            vec![message.edit(token, "9"), message.edit(message.id().unwrap(), "18446744073709")];
        assert_eq!(
            String::from_utf8(message.rewrite(edits)).unwrap(),
            concat!(
                r#"{ "x":1e400,"jsonrpc":"2.0", "id" : 18446744073709 ,"method":"tools/call","#,
                r#""params":{"_meta":{"progressToken":9,"z":0.10},"id":7}}"#
            )
        );
    }

    #[test]
    fn ids_are_the_same_by_value_and_not_by_spelling() {
        let key = |text: &str| Key::of(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(key("1"), key("1.0"));
        assert_eq!(key("1e2"), key("100"));
        assert_eq!(key(r#""a""#), key(r#""\u0061""#));
        assert_ne!(key("1"), key(r#""1""#));
        assert_ne!(key("1.5"), key("1"));
        assert_ne!(key("12345678901234567890123"), key("12345678901234567890124"));
    }

    #[test]
    fn the_keys_of_the_modern_era_are_read_even_when_escaped() {
        let text = r#"{"id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol\/protocolVersion":"2026-07-28"}}}"#;
        assert_eq!(one(text).meta().protocol_version.unwrap().get(), r#""2026-07-28""#);
    }

    #[test]
    fn parameters_that_are_no_object_are_simply_not_read() {
        assert!(one(r#"{"id":1,"method":"x","params":[1,2]}"#).peek().meta.is_none());
        assert!(
            one(r#"{"id":1,"method":"x","params":{"_meta":3}}"#).meta().progress_token.is_none()
        );
    }

    #[test]
    fn a_pretty_printed_message_becomes_one_line_of_the_same_value() {
        let text = b"{\r\n  \"a\": \"b\\nc\"\n}";
        let line = on_one_line(text);
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(value(&line), value(text));
    }

    #[test]
    fn an_error_response_echoes_the_id_byte_for_byte() {
        let text = error_response(Some(r#""\u0061""#), -32603, "it \"broke\"", None);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"jsonrpc":"2.0","id":"\u0061","error":{"code":-32603,"message":"it \"broke\""}}"#
        );
    }

    fn json() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            "-?[1-9][0-9]{0,40}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?",
        ];
        let text = any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap());
        let leaf = prop_oneof![number, text, Just("null".to_owned()), Just("true".to_owned())];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(" , "))),
                proptest::collection::vec(("[a-z_]{1,8}", inner), 0..4).prop_map(|members| {
                    let members: Vec<_> =
                        members.iter().map(|(k, v)| format!("\"{k}\" :{v}")).collect();
                    format!("{{{}}}", members.join(",\t"))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn changing_the_id_there_and_back_gives_the_same_bytes(
            before in json(), params in json(), after in json(), id in "(0|[1-9][0-9]{0,30})"
        ) {
            let text = format!(
                r#"{{"before":{before} ,"id":{id},"method":"m","params":{params},"after":{after}}}"#
            );
            let message = one(&text);
            let there = message.rewrite(vec![message.edit(message.id().unwrap(), "\"tmp\"")]);
            let there = String::from_utf8(there).unwrap();
            let message = one(&there);
            let back = message.rewrite(vec![message.edit(message.id().unwrap(), &id)]);
            prop_assert_eq!(back, text.as_bytes());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(incoming) = Incoming::parse(&bytes) {
                for message in incoming.messages() {
                    prop_assert_eq!(message.rewrite(Vec::new()), message.text().as_bytes());
                }
            }
        }
    }
}
