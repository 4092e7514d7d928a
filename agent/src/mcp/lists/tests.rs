//! Tests of raw lists.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

#[test]
fn one_faulty_item_does_not_fail_its_list() {
    let result =
        raw(r#"{"tools":[{"name":"a","x":1e400},7,{"name":5},null,["name"],{"name":"b"}]}"#);
    let Items { items, skipped } = items(&result, "tools").unwrap();
    let texts: Vec<_> = items.iter().map(|item| item.get()).collect();
    assert_eq!(texts, [r#"{"name":"a","x":1e400}"#, r#"{"name":"b"}"#]);
    assert_eq!(skipped, 4);
}

#[test]
fn each_list_has_its_own_identity() {
    let result = raw(
        r#"{"resources":[{"uri":"x:1"},{"name":"n"}],"resourceTemplates":[{"uriTemplate":"x:{a}"}]}"#,
    );
    let found = |key| {
        let items = items(&result, key).unwrap();
        (
            items.items.iter().map(|i| identity(i, key).unwrap().into_owned()).collect(),
            items.skipped,
        )
    };
    assert_eq!(found("resources"), (vec!["x:1".to_owned()], 1));
    assert_eq!(found("resourceTemplates"), (vec!["x:{a}".to_owned()], 0));
}

#[test]
fn what_is_no_list_is_said() {
    let error = |text: &str| items(&raw(text), "tools").unwrap_err().to_string();
    assert_eq!(error("[]"), "the result is not an object");
    for text in ["{}", r#"{"tools":null}"#, r#"{"tools":{"a":1}}"#, r#"{"tools":"[]"}"#] {
        assert_eq!(error(text), "the result has no list `tools`");
    }
}

#[test]
fn an_empty_cursor_is_a_cursor_and_null_is_none() {
    let cursor = |text: &str| next_cursor(&raw(text)).map(|cursor| cursor.get().to_owned());
    assert_eq!(cursor(r#"{"nextCursor":""}"#).as_deref(), Some(r#""""#));
    assert_eq!(cursor(r#"{"nextCursor": "\u00e9" }"#).as_deref(), Some(r#""\u00e9""#));
    assert_eq!(cursor(r#"{"nextCursor":null}"#), None);
    assert_eq!(cursor(r#"{"tools":[{"nextCursor":"x"}]}"#), None);
}

#[test]
fn a_name_is_changed_however_it_is_spelled_and_an_inner_one_is_not() {
    let item = r#"{ "inputSchema":{"properties":{"name":{"name":"x"}}},"n\u0061me" : "a\"b" ,"z":0.10, "title":"name"}"#;
    assert_eq!(name_of(&raw(item)).unwrap(), "a\"b");
    assert_eq!(rename(&raw(item), "s_\"q"), item.replace(r#""a\"b""#, r#""s_\"q""#));
}

#[test]
fn a_name_that_comes_twice_is_changed_twice_and_read_as_parsers_do() {
    let item = raw(r#"{"name":"a","name":"b"}"#);
    assert_eq!(name_of(&item).unwrap(), "b");
    assert_eq!(rename(&item, "c"), r#"{"name":"c","name":"c"}"#);
}

#[test]
fn what_has_no_name_is_not_renamed() {
    for item in [r#"{"a":{"name":1}}"#, "[]", "7", "{ }"] {
        assert_eq!(rename(&raw(item), "x"), item);
    }
}

#[test]
fn members_are_taken_out_wherever_they_stand() {
    let strip = |text: &str| strip(&raw(text), &["x", "y"]);
    assert_eq!(strip(r#"{"x":1 , "a" : {"x":1} }"#), r#"{ "a" : {"x":1} }"#);
    assert_eq!(strip(r#"{ "a":1e400 , "x":",", "b":2}"#), r#"{ "a":1e400, "b":2}"#);
    assert_eq!(strip(r#"{"a":1,"\u0078":2}"#), r#"{"a":1}"#);
    assert_eq!(strip(r#"{"x":1,"y":2, "a":3,"x":4}"#), r#"{ "a":3}"#);
    assert_eq!(strip(r#"{"x":1, "y":2 }"#), "{ }");
    assert_eq!(strip(r#"{ "a" : 1 }"#), r#"{ "a" : 1 }"#);
    assert_eq!(strip("{}"), "{}");
    assert_eq!(strip("[1]"), "[1]");
}

#[test]
fn a_list_is_joined_of_raw_items_and_further_members() {
    assert_eq!(
        join("tools", ["{\"name\" : 1e400}", "{}"], &[]),
        r#"{"tools":[{"name" : 1e400},{}]}"#
    );
    assert_eq!(
        join("prompts", [], &[("ttlMs", "0"), ("nextCursor", "\"\"")]),
        r#"{"prompts":[],"ttlMs":0,"nextCursor":""}"#
    );
}

#[test]
fn nesting_beyond_what_a_parser_recurses_is_kept() {
    let deep = format!(r#"{{"name":"a","d":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert_eq!(rename(&raw(&deep), "b"), deep.replacen("\"a\"", "\"b\"", 1));
}

/// One member of an object as text: white space, key, value; keys collide and are escaped often.
fn member_text() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just(r#""title""#.to_owned()),
        Just(r#""names""#.to_owned()),
        any::<String>()
            .prop_filter("not the name", |key| key != "name")
            .prop_map(|key| Value::from(key).to_string()),
    ];
    let value = prop_oneof![
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        "-?[1-9][0-9]{0,40}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?",
        Just(r#"{"name":"inner", "x":[{"name":null}]}"#.to_owned()),
        Just(r#"[ "name" , ":", "," ]"#.to_owned()),
    ];
    let space = "[ \t\r\n]{0,2}";
    (space, key, space, space, value, space)
        .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"))
}

fn joined(before: &[String], middle: Option<&str>, after: &[String]) -> String {
    let all: Vec<&str> = before
        .iter()
        .map(String::as_str)
        .chain(middle)
        .chain(after.iter().map(String::as_str))
        .collect();
    format!("{{{}}}", all.join(","))
}

proptest! {
    #[test]
    fn renaming_changes_the_name_and_no_other_byte(
        before in proptest::collection::vec(member_text(), 0..4),
        after in proptest::collection::vec(member_text(), 0..4),
        key in prop_oneof![Just("name"), Just("n\\u0061me")],
        old in any::<String>(),
        new in any::<String>(),
    ) {
        let with = |name: &str| {
            joined(&before, Some(&format!("\n\"{key}\" : {} ", Value::from(name))), &after)
        };
        let item = raw(&with(&old));
        prop_assert_eq!(name_of(&item).unwrap(), &*old);
        let renamed = rename(&item, &new);
        prop_assert_eq!(&renamed, &with(&new));
        prop_assert_eq!(rename(&raw(&renamed), &old), with(&old));
    }

    #[test]
    fn stripping_leaves_the_other_members_as_they_are(
        before in proptest::collection::vec(member_text(), 1..4),
        after in proptest::collection::vec(member_text(), 0..4),
    ) {
        let item = raw(&joined(&before, Some(r#" "name" : {"a":[1,2]}"#), &after));
        prop_assert_eq!(strip(&item, &["name"]).replace(char::is_whitespace, ""),
            joined(&before, None, &after).replace(char::is_whitespace, ""));
        prop_assert!(serde_json::from_str::<&RawValue>(&strip(&item, &["name", "title"])).is_ok());
    }
}
