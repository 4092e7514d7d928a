//! Headers that mirror the arguments of a tool: `Mcp-Param-*` (2026-07-28 §Streamable HTTP).
//!
//! A tool asks for them by `x-mcp-header` in its schema; nothing else of a schema is read. Those
//! that we send are made here, and those that we get are checked here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::era::{decode_header, encode_header};
use super::lists::{member, name_of};
use super::message::{Key, string};

/// The member of a property's schema that asks for a header.
const ANNOTATION: &str = "x-mcp-header";
/// How many tools that ask for headers are remembered, and how many bytes of what they ask.
const MAX_TOOLS: usize = 1024;
const MAX_BYTES: usize = 1024 * 1024;

/// Tells whether a text may hold a tool that asks for headers; nearly none does.
#[must_use]
pub fn may_ask(text: &[u8]) -> bool {
    memmem::find(text, ANNOTATION.as_bytes()).is_some()
}

/// What the tools of one server ask for.
#[derive(Debug, Default)]
pub struct Mirrors {
    tools: HashMap<String, Arc<[Mirror]>>,
    bytes: usize,
}

/// One argument that a header mirrors.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    header: HeaderName,
    path: Vec<String>,
}

impl Mirrors {
    /// Tells whether no tool asks for a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Returns how many tools ask for headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tools.len()
    }

    /// Remembers what a tool asks for, and forgets what it asked for before.
    pub fn learn(&mut self, tool: &RawValue) {
        #[derive(Deserialize)]
        struct Tool {
            #[serde(rename = "inputSchema")]
            schema: Value,
        }
        let asks = may_ask(tool.get().as_bytes());
        if !asks && self.is_empty() {
            return;
        }
        let Some(name) = name_of(tool) else { return };
        let schema = asks.then(|| serde_json::from_str::<Tool>(tool.get()).ok()).flatten();
        let mirrors = schema.and_then(|tool| mirrors_of(&tool.schema));
        self.set(name.into_owned(), mirrors.unwrap_or_default());
    }

    /// Returns what a tool asks for, if it asks for anything.
    #[must_use]
    pub fn of(&self, tool: &str) -> Option<Arc<[Mirror]>> {
        self.tools.get(tool).cloned()
    }

    fn set(&mut self, name: String, mirrors: Vec<Mirror>) {
        let size = |name: &str, mirrors: &[Mirror]| {
            name.len() + mirrors.iter().map(Mirror::size).sum::<usize>()
        };
        if let Some(old) = self.tools.remove(&name) {
            self.bytes -= size(&name, &old);
        }
        if mirrors.is_empty() {
            return;
        }
        let bytes = size(&name, &mirrors);
        if self.tools.len() >= MAX_TOOLS || self.bytes + bytes > MAX_BYTES {
            (self.tools, self.bytes) = (HashMap::new(), 0);
        }
        if bytes <= MAX_BYTES {
            self.bytes += bytes;
            self.tools.insert(name, mirrors.into());
        }
    }
}

/// Returns the headers that a call with these arguments must have. An argument that is absent,
/// `null`, or no text, number or flag has none.
#[must_use]
pub fn headers(mirrors: &[Mirror], arguments: Option<&RawValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for mirror in mirrors {
        let text = mirror.value(arguments).and_then(text_of);
        let value = text.and_then(|text| HeaderValue::try_from(encode_header(&text)).ok());
        if let Some(value) = value {
            headers.insert(mirror.header.clone(), value);
        }
    }
    headers
}

/// Returns what a header says of a value.
fn text_of(value: &RawValue) -> Option<String> {
    match value.get() {
        text if text.starts_with(['{', '[']) => None,
        text if text.starts_with('"') => string(value).map(std::borrow::Cow::into_owned),
        text => Some(text.to_owned()),
    }
}

impl Mirror {
    fn size(&self) -> usize {
        self.header.as_str().len() + self.path.iter().map(String::len).sum::<usize>()
    }

    fn value<'a>(&self, arguments: Option<&'a RawValue>) -> Option<&'a RawValue> {
        let value = self.path.iter().try_fold(arguments?, |value, key| member(value, key));
        value.filter(|value| value.get() != "null")
    }

    /// Checks the header of a call with these arguments.
    ///
    /// # Errors
    /// Says what is wrong with it; the answer is HTTP 400 and -32020.
    pub fn check(&self, headers: &HeaderMap, arguments: Option<&RawValue>) -> Result<(), String> {
        let (name, value) = (&self.header, self.value(arguments));
        let mut headers = headers.get_all(name).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Err(format!("header `{name}` came more than once"));
        }
        match (value, header) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(format!("header `{name}` mirrors an argument that is absent")),
            (Some(_), None) => Err(format!("header `{name}` is missing")),
            (Some(value), Some(header)) => {
                let header = header.to_str().ok().and_then(decode_header);
                let same = header.is_some_and(|header| is_same(value, &header));
                if same { Ok(()) } else { Err(format!("header `{name}` does not match the body")) }
            }
        }
    }
}

/// Tells whether a header says what a value is; numbers are compared by value. What cannot be in
/// a header is the server's to refuse.
fn is_same(value: &RawValue, header: &str) -> bool {
    if let Some(text) = string(value) {
        return text == header;
    }
    match value.get() {
        text @ ("true" | "false") => text == header,
        text if text.starts_with(['{', '[']) => true,
        _ => {
            let number = RawValue::from_string(header.to_owned());
            number.is_ok_and(|number| Key::of(&number) == Key::of(value))
        }
    }
}

/// Returns the headers that a schema asks for, or `None` when it asks wrongly: clients hide such
/// a tool.
fn mirrors_of(schema: &Value) -> Option<Vec<Mirror>> {
    let mut mirrors = Vec::new();
    collect(schema, &mut Vec::new(), &mut mirrors)?;
    let names: HashSet<&HeaderName> = mirrors.iter().map(|mirror| &mirror.header).collect();
    (names.len() == mirrors.len()).then_some(mirrors)
}

fn collect(schema: &Value, path: &mut Vec<String>, mirrors: &mut Vec<Mirror>) -> Option<()> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return Some(());
    };
    for (key, property) in properties {
        path.push(key.clone());
        if let Some(annotation) = property.get(ANNOTATION) {
            let name = annotation.as_str().filter(|name| !name.is_empty())?;
            let kind = property.get("type").and_then(Value::as_str)?;
            if !matches!(kind, "string" | "integer" | "boolean") {
                return None;
            }
            let header = HeaderName::from_bytes(format!("mcp-param-{name}").as_bytes()).ok()?;
            mirrors.push(Mirror { header, path: path.clone() });
        }
        collect(property, path, mirrors)?;
        path.pop();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).unwrap()
    }

    fn learned(properties: &Value) -> Mirrors {
        let mut mirrors = Mirrors::default();
        let tool = json!({ "name": "t", "inputSchema": { "properties": properties } });
        mirrors.learn(&raw(&tool));
        mirrors
    }

    fn schema() -> Value {
        json!({
            "s": { "type": "string", "x-mcp-header": "Text" },
            "o": { "properties": { "i": { "type": "integer", "x-mcp-header": "Whole" } } },
            "b": { "type": "boolean", "x-mcp-header": "Flag" },
        })
    }

    fn check(mirrors: &Mirrors, arguments: &str, heads: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in heads {
            headers.append(*name, value.parse().unwrap());
        }
        let arguments = RawValue::from_string(arguments.to_owned()).unwrap();
        let asked = mirrors.of("t").unwrap_or_default();
        asked.iter().all(|mirror| mirror.check(&headers, Some(&arguments)).is_ok())
    }

    #[test]
    fn the_headers_of_a_call_must_say_what_its_arguments_are() {
        let mirrors = learned(&schema());
        let ok = |arguments: &str, heads: &[_]| check(&mirrors, arguments, heads);
        assert!(ok("{}", &[]));
        assert!(ok(r#"{"s":null}"#, &[]));
        assert!(!ok(r#"{"s":null}"#, &[("mcp-param-text", "")]));
        assert!(!ok("{}", &[("mcp-param-flag", "true")]));
        assert!(ok(r#"{"s":"a"}"#, &[("mcp-param-text", "a")]));
        assert!(!ok(r#"{"s":"a"}"#, &[]));
        assert!(!ok(r#"{"s":"a"}"#, &[("mcp-param-text", "A")]));
        assert!(!ok(r#"{"s":"a"}"#, &[("mcp-param-text", "a"), ("mcp-param-text", "a")]));
        assert!(ok(r#"{"s":"größe"}"#, &[("mcp-param-text", "=?base64?Z3LDtsOfZQ==?=")]));
        assert!(!ok(r#"{"s":"x"}"#, &[("mcp-param-text", "=?base64?%%?=")]));
        assert!(ok(r#"{"o":{"i":42.0}}"#, &[("mcp-param-whole", "42")]));
        assert!(!ok(r#"{"o":{"i":42}}"#, &[("mcp-param-whole", "43")]));
        assert!(!ok(r#"{"o":{"i":42}}"#, &[("mcp-param-whole", "many")]));
        let large = "12345678901234567890123";
        assert!(ok(&format!(r#"{{"o":{{"i":{large}}}}}"#), &[("mcp-param-whole", large)]));
        assert!(ok(r#"{"b":true}"#, &[("mcp-param-flag", "true")]));
        assert!(!ok(r#"{"b":true}"#, &[("mcp-param-flag", "false")]));
        assert!(ok("{}", &[("mcp-param-unknown", "x")]));
    }

    #[test]
    fn what_we_send_is_what_we_would_take() {
        let mirrors = learned(&schema());
        let asked = mirrors.of("t").unwrap();
        for (arguments, expected) in [
            (r#"{"s":"a","o":{"i":-7},"b":true,"x":1}"#, &["a", "-7", "true"][..]),
            (r#"{"s":" größe","o":{"i":42.0}}"#, &["=?base64?IGdyw7bDn2U=?=", "42.0"]),
            (r#"{"s":"","o":{"i":12345678901234567890123}}"#, &["", "12345678901234567890123"]),
            (r#"{"s":null,"o":[1],"b":false}"#, &["false"]),
            (r#"{"s":{"a":1}}"#, &[]),
        ] {
            let arguments = RawValue::from_string(arguments.to_owned()).unwrap();
            let made = headers(&asked, Some(&arguments));
            let mut values: Vec<_> = made.values().map(|value| value.to_str().unwrap()).collect();
            let mut expected = expected.to_vec();
            values.sort_unstable();
            expected.sort_unstable();
            assert_eq!(values, expected, "{arguments}");
            let nothing_left_out = !arguments.get().contains(r#"{"s":{"#);
            let passes = asked.iter().all(|m| m.check(&made, Some(&arguments)).is_ok());
            assert_eq!(passes, nothing_left_out, "{arguments}");
        }
        assert!(headers(&asked, None).is_empty());
    }

    #[test]
    fn a_tool_that_asks_wrongly_or_no_more_is_not_checked() {
        let wrong = [
            json!({ "n": { "type": "number", "x-mcp-header": "N" } }),
            json!({ "n": { "type": "string", "x-mcp-header": "not a token" } }),
            json!({ "n": { "type": "string", "x-mcp-header": "" } }),
            json!({ "n": { "type": "string", "x-mcp-header": "A" },
                    "m": { "type": "string", "x-mcp-header": "a" } }),
        ];
        for properties in wrong {
            let mirrors = learned(&properties);
            assert!(check(&mirrors, r#"{"n":"x"}"#, &[]), "{properties}");
        }
        let mut mirrors = learned(&json!({ "n": { "type": "string", "x-mcp-header": "N" } }));
        assert!(!check(&mirrors, r#"{"n":"x"}"#, &[]));
        mirrors.learn(&raw(&json!({ "name": "t", "inputSchema": {} })));
        assert!(check(&mirrors, r#"{"n":"x"}"#, &[]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut mirrors = Mirrors::default();
        for n in 0..MAX_TOOLS + 5 {
            let property = json!({ "type": "string", "x-mcp-header": "N" });
            let schema = json!({ "properties": { "n": property } });
            mirrors.learn(&raw(&json!({ "name": format!("t{n}"), "inputSchema": schema })));
        }
        assert_eq!(mirrors.len(), 5);
    }
}
