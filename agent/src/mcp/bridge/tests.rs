//! What must hold for any message that crosses from one era to the other and back.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::mcp::message::Message;
use crate::mcp::object::Object;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// JSON as odd as it comes: numbers beyond any type, white space, names twice.
fn json() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        "-?[1-9][0-9]{0,40}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?",
    ];
    let text = any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap());
    let odd = prop_oneof![Just("null"), Just("true"), Just(r#""\ud83d""#), Just(r#""\/""#)];
    let leaf = prop_oneof![number, text, odd.prop_map(str::to_owned)];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(" , "))),
            object(inner),
        ]
    })
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[a-z_]{1,8}",
        Just("_meta".to_owned()),
        Just("resultType".to_owned()),
        Just("io.modelcontextprotocol/serverInfo".to_owned()),
    ];
    proptest::collection::vec((name, value), 0..4).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(k, v)| format!("\"{k}\" :{v}")).collect();
        format!("{{{}}}", members.join(",\t"))
    })
}

fn member(text: &str, path: &[&str]) -> Option<String> {
    let mut value = raw(text);
    for name in path {
        value = Object::of(&value)?.remove(name)?;
    }
    Some(value.get().to_owned())
}

fn stamped(text: &str) -> String {
    let capabilities = raw(r#"{"elicitation":{}}"#);
    let stamp = Stamp {
        version: "2026-07-28",
        capabilities: &capabilities,
        client_info: None,
        log_level: Some(Level::Info),
    };
    modern_request(&Message::parse(text).unwrap(), &stamp)
}

proptest! {
    #[test]
    fn a_request_that_crosses_twice_keeps_arguments_meta_and_unknown_members(
        arguments in json(), meta in json(), unknown in json(), id in "(0|[1-9][0-9]{0,30})"
    ) {
        let text = format!(
            concat!(
                r#"{{"id":{},"method":"tools/call","params":{{"name":"n","arguments":{} ,"#,
                r#""_meta":{{"own/key": {}}},"unknown":{}}}}}"#
            ),
            id, arguments, meta, unknown
        );
        let modern = stamped(&text);
        let legacy = legacy_request(&Message::parse(&modern).unwrap());
        let again = stamped(&legacy);
        prop_assert_eq!(&again, &modern);
        for crossed in [&modern, &legacy] {
            prop_assert_eq!(member(crossed, &["id"]), Some(id.clone()));
            prop_assert_eq!(member(crossed, &["params", "arguments"]), Some(arguments.clone()));
            prop_assert_eq!(member(crossed, &["params", "_meta", "own/key"]), Some(meta.clone()));
            prop_assert_eq!(member(crossed, &["params", "unknown"]), Some(unknown.clone()));
        }
    }

    #[test]
    fn a_result_that_crosses_twice_keeps_its_unknown_members(
        content in json(), structured in object(json()), unknown in json(), own in json()
    ) {
        let text = format!(
            r#"{{"content":[{content}],"structuredContent":{structured},"unknown":{unknown},"_meta":{{"own/key": {own}}}}}"#
        );
        let info = raw(r#"{"name":"s"}"#);
        let modern = modern_result("tools/call", &raw(&text), Some(&info));
        let legacy = legacy_result("tools/call", &raw(&modern)).unwrap();
        prop_assert_eq!(member(&legacy, &["content"]), Some(format!("[{content}]")));
        prop_assert_eq!(member(&legacy, &["structuredContent"]), Some(structured));
        prop_assert_eq!(member(&legacy, &["unknown"]), Some(unknown));
        prop_assert_eq!(member(&legacy, &["_meta", "own/key"]), Some(own));
        prop_assert_eq!(member(&legacy, &["resultType"]), None);
    }

    #[test]
    fn tools_cross_twice_with_their_schemas(schema in object(json()), unknown in json()) {
        let tool = format!(r#"{{"name":"t", "inputSchema":{schema},"unknown":{unknown}}}"#);
        let text = format!(r#"{{"tools":[{tool},{{"name":"u","execution":{{}}}}]}}"#);
        let modern = modern_result("tools/list", &raw(&text), None);
        let legacy = legacy_result("tools/list", &raw(&modern)).unwrap();
        prop_assert_eq!(legacy, format!(r#"{{"tools":[{tool},{{"name":"u"}}]}}"#));
    }

    #[test]
    fn a_question_and_its_answer_cross_with_their_bytes(params in object(json()), answer in json()) {
        let asked = InputRequired {
            requests: vec![input_request("sampling/createMessage", Some(&raw(&params)), "k")],
            state: None,
        };
        let read = InputRequired::parse(&raw(&asked.to_result())).unwrap();
        let sent = read.requests[0].params.as_ref().unwrap();
        let question = legacy_question("1", &read.requests[0].method, Some(sent), "e");
        prop_assert_eq!(member(&question, &["params"]), Some(sent.get().to_owned()));
        let request = r#"{"id":1,"method":"tools/call","params":{"name":"n"}}"#;
        let retry = read.retry(&Message::parse(request).unwrap(), vec![("k".into(), raw(&answer))]);
        let message = Message::parse(&retry).unwrap();
        let answers = input_responses(message.params().unwrap());
        prop_assert_eq!(answers[0].1.get(), answer);
    }

    #[test]
    fn any_state_comes_back_as_it_was(state in any::<String>()) {
        let asked = InputRequired { requests: Vec::new(), state: Some(state.clone()) };
        let read = InputRequired::parse(&raw(&asked.to_result())).unwrap();
        let request = r#"{"id":1,"method":"prompts/get","params":{"name":"n"}}"#;
        let retry = read.retry(&Message::parse(request).unwrap(), Vec::new());
        let message = Message::parse(&retry).unwrap();
        prop_assert_eq!(request_state(message.params().unwrap()), Some(state));
        prop_assert!(member(&retry, &["params", "inputResponses"]).is_none());
    }

    #[test]
    fn no_value_makes_a_translation_panic(
        value in json(),
        method in prop_oneof![Just("tools/call"), Just("tools/list"), Just("resources/read")]
    ) {
        let value = raw(&value);
        drop(modern_result(method, &value, Some(&value)));
        drop(legacy_result(method, &value));
        drop(modern_error(method, &value, Some(&value)));
        drop((legacy_error(&value), discover_result(&value, &[]), initialize_result(&value, "")));
        drop((InputRequired::parse(&value), input_responses(&value), request_state(&value)));
        drop((modern_client_capabilities(&value), server_capabilities(&value)));
        let text = format!(r#"{{"id":1,"method":"{method}","params":{value}}}"#);
        let message = Message::parse(&text).unwrap();
        drop((legacy_request(&message), stamped(&text), legacy_notice(&message)));
    }
}
