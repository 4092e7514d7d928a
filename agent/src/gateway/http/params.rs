//! Headers that mirror the arguments of a tool: `Mcp-Param-*` (2026-07-28 §Streamable HTTP).
//!
//! A tool asks for them by `x-mcp-header` in its schema. We read no schema for its own sake; what
//! tools ask for is remembered when a list of them passes by, and calls are checked against that.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderName};
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::era::decode_header;
use crate::mcp::message::{Incoming, Key, Message, string};

/// The member of a property's schema that asks for a header.
const ANNOTATION: &str = "x-mcp-header";
/// How many tools that ask for headers are remembered, and how many bytes of what they ask.
const MAX_TOOLS: usize = 1024;
const MAX_BYTES: usize = 1024 * 1024;

/// What the tools of one gateway ask for.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Params(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    tools: HashMap<String, Arc<[Mirror]>>,
    bytes: usize,
}

/// One argument that a header mirrors.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    header: HeaderName,
    path: Vec<String>,
}

/// Reads the answer to one `tools/list`.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Learner(Arc<Params>);

impl Learner {
    /// Returns what reads the answer to a request, when there is something to learn from it.
    pub(super) fn of(request: &Message<'_>, params: &Arc<Params>) -> Option<Self> {
        (request.method() == "tools/list").then(|| Self(params.clone()))
    }

    /// Remembers what the tools of an answer ask for.
    pub(in crate::gateway) fn learn(&self, answer: &[u8]) {
        self.0.learn(answer);
    }
}

impl Params {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, answer: &[u8]) {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            tools: Vec<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        #[derive(Deserialize)]
        struct Tool {
            #[serde(rename = "inputSchema")]
            schema: Value,
        }
        let annotated = memmem::Finder::new(ANNOTATION);
        // Nearly all lists are without, and are not read at all.
        if annotated.find(answer).is_none() && self.lock().tools.is_empty() {
            return;
        }
        let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return };
        let list = answer.result().map(|result| serde_json::from_str::<List<'_>>(result.get()));
        let Some(Ok(list)) = list else { return };
        for tool in list.tools {
            let Ok(Named { name }) = serde_json::from_str(tool.get()) else { continue };
            let mirrors = annotated
                .find(tool.get().as_bytes())
                .and_then(|_| serde_json::from_str::<Tool>(tool.get()).ok())
                .and_then(|tool| mirrors_of(&tool.schema));
            self.lock().set(name, mirrors.unwrap_or_default());
        }
    }

    /// Checks the headers of a call.
    ///
    /// # Errors
    /// Says which header is missing or contradicts the body; the answer is HTTP 400 and -32020.
    pub(super) fn check(&self, headers: &HeaderMap, call: &Message<'_>) -> Result<(), String> {
        if call.method() != "tools/call" {
            return Ok(());
        }
        let name = call.peek().name.and_then(string);
        let mirrors = name.and_then(|name| self.lock().tools.get(&*name).cloned());
        let (Some(mirrors), Some(params)) = (mirrors, call.params()) else { return Ok(()) };
        let arguments = member(params, "arguments");
        mirrors.iter().try_for_each(|mirror| mirror.check(headers, arguments))
    }
}

impl Known {
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

impl Mirror {
    fn size(&self) -> usize {
        self.header.as_str().len() + self.path.iter().map(String::len).sum::<usize>()
    }

    fn check(&self, headers: &HeaderMap, arguments: Option<&RawValue>) -> Result<(), String> {
        let name = &self.header;
        let value = arguments.and_then(|arguments| {
            self.path.iter().try_fold(arguments, |value, key| member(value, key))
        });
        let value = value.filter(|value| value.get() != "null");
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

/// Returns a member of an object.
fn member<'a>(object: &'a RawValue, key: &str) -> Option<&'a RawValue> {
    serde_json::from_str::<HashMap<String, &'a RawValue>>(object.get()).ok()?.remove(key)
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

    fn learned(schema: &Value) -> Params {
        let params = Params::default();
        let tools = json!([{ "name": "t", "inputSchema": schema }]);
        params.learn(json!({ "id": 1, "result": { "tools": tools } }).to_string().as_bytes());
        params
    }

    fn check(params: &Params, arguments: &str, heads: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in heads {
            headers.append(*name, value.parse().unwrap());
        }
        let call = format!(
            r#"{{"id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        params.check(&headers, &Message::parse(&call).unwrap()).is_ok()
    }

    #[test]
    fn the_headers_of_a_call_must_say_what_its_arguments_are() {
        let params = learned(&json!({ "properties": {
            "s": { "type": "string", "x-mcp-header": "Text" },
            "o": { "properties": { "i": { "type": "integer", "x-mcp-header": "Whole" } } },
            "b": { "type": "boolean", "x-mcp-header": "Flag" },
        }}));
        let ok = |arguments: &str, heads: &[_]| check(&params, arguments, heads);
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
    fn a_tool_that_asks_wrongly_or_no_more_is_not_checked() {
        let wrong = [
            json!({ "n": { "type": "number", "x-mcp-header": "N" } }),
            json!({ "n": { "type": "string", "x-mcp-header": "not a token" } }),
            json!({ "n": { "type": "string", "x-mcp-header": "" } }),
            json!({ "n": { "type": "string", "x-mcp-header": "A" },
                    "m": { "type": "string", "x-mcp-header": "a" } }),
        ];
        for properties in wrong {
            let params = learned(&json!({ "properties": properties }));
            assert!(check(&params, r#"{"n":"x"}"#, &[]), "{properties}");
        }
        let params =
            learned(&json!({ "properties": { "n": { "type": "string", "x-mcp-header": "N" } } }));
        assert!(!check(&params, r#"{"n":"x"}"#, &[]));
        params.learn(br#"{"id":1,"result":{"tools":[{"name":"t","inputSchema":{}}]}}"#);
        assert!(check(&params, r#"{"n":"x"}"#, &[]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let params = Params::default();
        let tools: Vec<Value> = (0..MAX_TOOLS + 5)
            .map(|n| {
                let property = json!({ "type": "string", "x-mcp-header": "N" });
                json!({ "name": format!("t{n}"), "inputSchema": { "properties": { "n": property } } })
            })
            .collect();
        params.learn(json!({ "id": 1, "result": { "tools": tools } }).to_string().as_bytes());
        assert_eq!(params.lock().tools.len(), 5);
    }
}
