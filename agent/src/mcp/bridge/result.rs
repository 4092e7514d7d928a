//! Results between the eras.

use serde_json::value::RawValue;

use super::{META, SERVER_INFO};
use crate::mcp::object::{Object, array, text};

/// The methods whose results carry hints for caches (2026-07-28 §Caching).
const CACHEABLE: [&str; 6] = [
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
];

/// A result of a type that the legacy era does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a result of type `{0}` has no form in the legacy era")]
pub struct Untranslatable(pub String);

/// Makes the result of a legacy server a modern one, given by the server that `server_info` names.
///
/// A legacy server says nothing of caches, so nobody may keep its results. Tasks are not carried
/// between the eras, so tools do not offer them.
#[must_use]
pub fn modern_result(method: &str, result: &RawValue, server_info: Option<&RawValue>) -> String {
    let Some(mut members) = Object::of(result) else { return result.get().to_owned() };
    if !members.contains("resultType") {
        members.set_str("resultType", "complete");
    }
    let complete = members.get_str("resultType").is_some_and(|kind| kind == "complete");
    if complete && CACHEABLE.contains(&method) {
        uncached(&mut members);
    }
    members.edit_in(META, |meta| match server_info {
        Some(info) => meta.set(SERVER_INFO, info.to_owned()),
        None => drop(meta.remove(SERVER_INFO)),
    });
    if method == "tools/list" {
        edit_tools(&mut members, |tool| tool.remove("execution").is_some());
    }
    members.to_string()
}

/// Says that nobody may keep a result, unless it says otherwise.
pub(super) fn uncached(result: &mut Object) {
    if !result.contains("ttlMs") {
        result.set_int("ttlMs", 0);
    }
    if !result.contains("cacheScope") {
        result.set_str("cacheScope", "private");
    }
}

/// Makes the result of a modern server a legacy one.
///
/// # Errors
/// The result is of a type that the legacy era does not have; [`super::InputRequired`] is to be
/// looked for before.
pub fn legacy_result(method: &str, result: &RawValue) -> Result<String, Untranslatable> {
    let Some(mut members) = Object::of(result) else { return Ok(result.get().to_owned()) };
    if let Some(kind) = members.remove("resultType") {
        let kind = crate::mcp::message::string(&kind).map_or(kind.get().to_owned(), Into::into);
        if kind != "complete" {
            return Err(Untranslatable(kind));
        }
    }
    if CACHEABLE.contains(&method) {
        drop(members.remove("ttlMs"));
        drop(members.remove("cacheScope"));
    }
    drop(members.edit_in(META, |meta| meta.remove(SERVER_INFO)));
    match method {
        "tools/call" => plain_content(&mut members),
        "tools/list" => edit_tools(&mut members, plain_tool),
        _ => {}
    }
    Ok(members.to_string())
}

/// Structured content is an object in the legacy era; what is none becomes text where no other
/// content tells it.
fn plain_content(result: &mut Object) {
    let Some(value) = result.get("structuredContent") else { return };
    if value.get().starts_with('{') {
        return;
    }
    let Some(value) = result.remove("structuredContent") else { return };
    if result.get_array("content").is_none_or(|content| content.is_empty()) {
        let mut block = Object::new();
        block.set_str("type", "text");
        block.set("text", text(value.get()));
        result.set("content", array(&[block.to_raw()]));
    }
}

/// Takes what the legacy era does not know from a tool; tells whether there was anything.
fn plain_tool(tool: &mut Object) -> bool {
    let execution = tool.remove("execution").is_some();
    let of_object = |schema: &RawValue| {
        Object::of(schema).is_some_and(|schema| schema.get_str("type").as_deref() == Some("object"))
    };
    match tool.get("outputSchema") {
        Some(schema) if !of_object(schema) => tool.remove("outputSchema").is_some(),
        _ => execution,
    }
}

/// Edits the tools of a list; those that an edit does not change keep their bytes.
fn edit_tools(result: &mut Object, edit: impl Fn(&mut Object) -> bool) {
    let Some(tools) = result.get_array("tools") else { return };
    let edited: Vec<Option<Box<RawValue>>> = tools
        .iter()
        .map(|tool| Object::of(tool).and_then(|mut tool| edit(&mut tool).then(|| tool.to_raw())))
        .collect();
    if edited.iter().all(Option::is_none) {
        return;
    }
    let all: Vec<Box<RawValue>> = tools
        .into_iter()
        .zip(edited)
        .map(|(tool, edited)| edited.unwrap_or_else(|| tool.to_owned()))
        .collect();
    result.set("tools", array(&all));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_legacy_result_is_complete_and_names_its_server_golden() {
        let info = raw(r#"{"name":"s","version":"1"}"#);
        let call =
            raw(r#"{"content":[ {"type":"future"} ],"structuredContent":[1.0],"_meta":{"a/b":1}}"#);
        assert_eq!(
            modern_result("tools/call", &call, Some(&info)),
            concat!(
                r#"{"content":[ {"type":"future"} ],"structuredContent":[1.0],"#,
                r#""_meta":{"a/b":1,"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"#,
                r#""resultType":"complete"}"#
            )
        );
        assert_eq!(
            modern_result("resources/read", &raw(r#"{"contents":[]}"#), None),
            r#"{"contents":[],"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#
        );
    }

    #[test]
    fn hints_that_are_there_stay_and_interim_results_get_none() {
        let list = r#"{"tools":[],"resultType":"complete","ttlMs":5,"cacheScope":"public"}"#;
        assert_eq!(modern_result("tools/list", &raw(list), None), list);
        let asks = r#"{"resultType":"input_required","requestState":"s"}"#;
        assert_eq!(modern_result("resources/read", &raw(asks), None), asks);
        assert_eq!(modern_result("x", &raw("[1]"), None), "[1]");
    }

    #[test]
    fn the_name_of_a_server_is_of_one_hop() {
        let result = raw(r#"{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"a"}}}"#);
        assert_eq!(modern_result("x", &result, None), r#"{"resultType":"complete"}"#);
        assert_eq!(legacy_result("x", &result).unwrap(), "{}");
    }

    #[test]
    fn tools_offer_no_tasks_and_the_others_keep_their_bytes() {
        let list = raw(
            r#"{"tools":[{"name":"a","execution":{"taskSupport":"required"},"inputSchema":{ }}, { "name" : "b" }]}"#,
        );
        assert_eq!(
            modern_result("tools/list", &list, None),
            r#"{"tools":[{"name":"a","inputSchema":{ }},{ "name" : "b" }],"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#
        );
    }

    #[test]
    fn a_modern_result_loses_what_the_legacy_era_does_not_have_golden() {
        let list = raw(concat!(
            r#"{"resultType":"complete","tools":[{"name":"a","outputSchema":{"type":"array"}},"#,
            r#"{ "name":"b","outputSchema":{"type":"object"}},{"name":"c","outputSchema":true}],"#,
            r#""ttlMs":60000,"cacheScope":"public","nextCursor":"","future":1e400,"#,
            r#""_meta":{"io.modelcontextprotocol/serverInfo":{},"a/b":1}}"#
        ));
        assert_eq!(
            legacy_result("tools/list", &list).unwrap(),
            concat!(
                r#"{"tools":[{"name":"a"},{ "name":"b","outputSchema":{"type":"object"}},{"name":"c"}],"#,
                r#""nextCursor":"","future":1e400,"_meta":{"a/b":1}}"#
            )
        );
    }

    #[test]
    fn a_result_of_an_unknown_type_is_not_passed_off_as_complete() {
        let of = |text: &str| legacy_result("tools/call", &raw(text));
        assert_eq!(of(r#"{"resultType":"task"}"#), Err(Untranslatable("task".to_owned())));
        assert_eq!(of(r#"{"resultType":7}"#), Err(Untranslatable("7".to_owned())));
        assert!(of(r#"{"resultType":"input_required","requestState":"s"}"#).is_err());
        assert_eq!(of("3").unwrap(), "3");
    }

    #[test]
    fn structured_content_that_is_no_object_is_told_as_text_if_nothing_else_is() {
        let of = |text: &str| legacy_result("tools/call", &raw(text)).unwrap();
        let told = r#"{"content":[{"type":"text","text":"[1, 2]"}]}"#;
        assert_eq!(
            of(r#"{"content":[{"type":"text","text":"[1, 2]"}],"structuredContent":[1]}"#),
            told
        );
        assert_eq!(of(r#"{"content":[],"structuredContent":[1, 2]}"#), told);
        let object = r#"{"content":[],"structuredContent":{ "n":1.0 },"ttlMs":3}"#;
        assert_eq!(of(object), object);
    }
}
