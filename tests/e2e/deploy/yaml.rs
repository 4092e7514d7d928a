//! YAML as JSON, as far as Helm and Compose print it: no anchors, no tags.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Reads all documents of a text.
pub(super) fn documents(text: &str) -> Vec<Value> {
    let events = Parser::new_from_str(text).map(|event| event.expect("it is YAML").0);
    let (mut events, mut found) = (events, Vec::new());
    while let Some(event) = events.next() {
        if matches!(event, Event::DocumentStart(_)) {
            found.push(value(&mut events).unwrap_or_default());
        }
    }
    // A template that is switched off leaves an empty one.
    found.retain(|document| !document.is_null());
    found
}

/// Reads the next value; `None` at the end of a sequence, mapping or document.
fn value<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> Option<Value> {
    match events.next()? {
        Event::Scalar(text, style, ..) => Some(scalar(&text, style)),
        Event::SequenceStart(..) => {
            Some(std::iter::from_fn(|| value(events)).collect::<Vec<_>>().into())
        }
        Event::MappingStart(..) => {
            let mut map = Map::new();
            while let Some(key) = value(events) {
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                map.insert(key, value(events).unwrap_or_default());
            }
            Some(map.into())
        }
        _ => None,
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null") => Value::Null,
        (ScalarStyle::Plain, "true" | "false") => Value::Bool(text == "true"),
        (ScalarStyle::Plain, number) => {
            number.parse::<i64>().map_or_else(|_| text.into(), Value::from)
        }
        _ => text.into(),
    }
}

#[test]
fn yaml_is_read_as_it_is_meant() {
    let text = "a: [1, 'x', true]\nb:\n  c: \"2\"\n  d:\n---\n---\n- e\n";
    let wanted = serde_json::json!([{ "a": [1, "x", true], "b": { "c": "2", "d": null } }, ["e"]]);
    assert_eq!(Value::from(documents(text)), wanted);
}
