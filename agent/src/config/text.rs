//! Changes to the text of a JSON object that leave everything around them as it was written: the
//! order of keys, numbers, spaces and line ends. What is new is laid out like its neighbours; in an
//! empty file, like the Python `mcpm` does.

use std::io;
use std::ops::Range;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::value::RawValue;

/// The names and the raw text of the entries of an object.
pub(super) type Entries = IndexMap<String, Box<RawValue>>;

/// The text of a JSON object: valid before and after every change.
#[derive(Debug)]
pub(super) struct Text(String);

/// One key and its value, by where they stand.
struct Member {
    key: Range<usize>,
    value: Range<usize>,
}

impl Text {
    /// Checks that `text` is an object; nothing at all stands for an empty one.
    pub(super) fn parse(text: String) -> serde_json::Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self("{}\n".to_owned()));
        }
        serde_json::from_str::<Entries>(&text)?;
        Ok(Self(text))
    }

    /// Returns the text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the raw entries.
    pub(super) fn entries(&self) -> Entries {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Returns the value at a path of keys.
    pub(super) fn get(&self, path: &[&str]) -> Option<Value> {
        let value = self.find(path)?.value;
        serde_json::from_str(&self.0[value]).ok()
    }

    /// Sets the value at a path of keys, making the objects on the way to it.
    pub(super) fn set(&mut self, path: &[&str], value: &Value) {
        let Some(((last, way), mut object)) = path.split_last().zip(self.root()) else { return };
        for (depth, key) in way.iter().enumerate() {
            let found = self.member(object, key).filter(|member| self.is_object(member));
            let Some(member) = found else {
                let inner = path[depth + 1..].iter().rev().fold(value.clone(), |value, key| {
                    Value::Object([((*key).to_owned(), value)].into_iter().collect())
                });
                return self.put(object, key, &inner);
            };
            object = member.value.start;
        }
        self.put(object, last, value);
    }

    /// Takes the member at a path of keys away, if it is there.
    pub(super) fn remove(&mut self, path: &[&str]) {
        let Some((last, way)) = path.split_last() else { return };
        while let Some(object) = self.object(way) {
            let members = self.members(object);
            let Some(at) = members.iter().rposition(|member| self.is(member, last)) else { return };
            let hole = match (at.checked_sub(1), members.get(at + 1)) {
                (Some(before), _) => members[before].value.end..members[at].value.end,
                (None, Some(after)) => members[at].key.start..after.key.start,
                (None, None) => object + 1..end_of_value(self.0.as_bytes(), object) - 1,
            };
            self.0.replace_range(hole, "");
        }
    }

    /// Gives the member at a path of keys another name, where it stands.
    pub(super) fn rename(&mut self, path: &[&str], name: &str) {
        if let Some(member) = self.find(path) {
            self.0.replace_range(member.key, &Value::from(name).to_string());
        }
    }

    /// Puts a copy of an entry right behind it, under another name.
    pub(super) fn copy(&mut self, key: &str, name: &str) {
        let Some(member) = self.find(&[key]) else { return };
        let indent = self.own_line(member.key.start);
        let gap = indent.map_or(" ".to_owned(), |in_| format!("{}{in_}", self.line_break()));
        let value = &self.0[member.key.end..member.value.end];
        let copy = format!(",{gap}{}{value}", Value::from(name));
        self.0.insert_str(member.value.end, &copy);
    }

    fn put(&mut self, object: usize, key: &str, value: &Value) {
        if let Some(Member { key, value: old }) = self.member(object, key) {
            let indent = self.own_line(key.start);
            let was = &self.0[old.clone()];
            let inline = was.len() > 2 && was.starts_with(['[', '{']) && !was.contains('\n');
            let new = self.render(value, indent.filter(|_| !inline));
            return self.0.replace_range(old, &new);
        }
        let key = Value::from(key);
        let break_ = self.line_break();
        if let Some(last) = self.members(object).pop() {
            let indent = self.own_line(last.key.start);
            let new = self.render(value, indent);
            let gap = indent.map_or(" ".to_owned(), |indent| format!("{break_}{indent}"));
            return self.0.insert_str(last.value.end, &format!(",{gap}{key}: {new}"));
        }
        let inside = object + 1..end_of_value(self.0.as_bytes(), object) - 1;
        if self.is_one_line() {
            let new = self.render(value, None);
            return self.0.replace_range(inside, &format!("{key}: {new}"));
        }
        let outer = self.indent_of_line(object).to_owned();
        let inner = format!("{outer}{}", self.unit());
        let new = self.render(value, Some(&inner));
        let text = format!("{break_}{inner}{key}: {new}{break_}{outer}");
        self.0.replace_range(inside, &text);
    }

    /// Writes a value: on lines of their own below a key with this indentation, or on one line.
    fn render(&self, value: &Value, indent: Option<&str>) -> String {
        let mut out = Vec::new();
        let written = match indent {
            Some(_) => {
                let pretty = PrettyFormatter::with_indent(self.unit().as_bytes());
                value.serialize(&mut Serializer::with_formatter(&mut out, pretty))
            }
            None => value.serialize(&mut Serializer::with_formatter(&mut out, OneLine)),
        };
        let text = String::from_utf8(out).ok().filter(|_| written.is_ok());
        let text = text.unwrap_or_else(|| value.to_string());
        match indent {
            Some(indent) => text.replace('\n', &format!("{}{indent}", self.line_break())),
            None => text,
        }
    }

    fn root(&self) -> Option<usize> {
        self.0.find('{')
    }

    /// Returns where the object at a path of keys begins.
    fn object(&self, path: &[&str]) -> Option<usize> {
        path.iter().try_fold(self.root()?, |object, key| {
            let member = self.member(object, key).filter(|member| self.is_object(member))?;
            Some(member.value.start)
        })
    }

    fn find(&self, path: &[&str]) -> Option<Member> {
        let (last, way) = path.split_last()?;
        self.member(self.object(way)?, last)
    }

    /// Finds a key; of several equal ones the last counts, as for every reader.
    fn member(&self, object: usize, key: &str) -> Option<Member> {
        self.members(object).into_iter().rev().find(|member| self.is(member, key))
    }

    fn is(&self, member: &Member, key: &str) -> bool {
        serde_json::from_str::<String>(&self.0[member.key.clone()]).is_ok_and(|found| found == key)
    }

    fn is_object(&self, member: &Member) -> bool {
        self.0[member.value.clone()].starts_with('{')
    }

    fn members(&self, object: usize) -> Vec<Member> {
        let bytes = self.0.as_bytes();
        let (mut at, mut members) = (object + 1, Vec::new());
        loop {
            at = skip(bytes, at, b" \t\r\n,");
            if bytes.get(at) != Some(&b'"') {
                return members;
            }
            let key = at..end_of_value(bytes, at);
            let start = skip(bytes, key.end, b" \t\r\n:");
            at = end_of_value(bytes, start);
            members.push(Member { key, value: start..at });
        }
    }

    /// Returns the indentation of what stands at `at`, when nothing stands before it on its line.
    fn own_line(&self, at: usize) -> Option<&str> {
        let before = &self.0[..at];
        let line = &before[before.rfind('\n')? + 1..];
        line.trim_start_matches([' ', '\t']).is_empty().then_some(line)
    }

    fn indent_of_line(&self, at: usize) -> &str {
        let line = &self.0[self.0[..at].rfind('\n').map_or(0, |end| end + 1)..];
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    }

    /// Returns the indentation of the file.
    fn unit(&self) -> &str {
        let first = self.root().and_then(|root| self.members(root).into_iter().next());
        let indent = first.and_then(|first| self.own_line(first.key.start));
        indent.filter(|indent| !indent.is_empty()).unwrap_or("  ")
    }

    fn line_break(&self) -> &'static str {
        if self.0.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// Tells whether somebody wrote everything on one line.
    fn is_one_line(&self) -> bool {
        let text = self.0.trim();
        text.len() > 2 && !text.contains('\n')
    }
}

fn skip(bytes: &[u8], mut at: usize, what: &[u8]) -> usize {
    while bytes.get(at).is_some_and(|byte| what.contains(byte)) {
        at += 1;
    }
    at
}

/// Returns where the value that begins at `at` ends; the text is valid JSON.
fn end_of_value(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'{' | b'[' => (depth, at) = (depth + 1, at + 1),
            b'}' | b']' => (depth, at) = (depth.saturating_sub(1), at + 1),
            // A number or a word, or what stands between the parts of an object.
            _ if depth == 0 => {
                let rest = bytes[at..].iter().position(|byte| b" \t\r\n,}]".contains(byte));
                return rest.map_or(bytes.len(), |length| at + length);
            }
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Writes `{"a": [1, 2]}`, as people and Python do.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(text: &str) -> Text {
        Text::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn a_new_file_looks_as_if_python_had_written_it() {
        let mut text = text("");
        text.set(&["a"], &json!({"args": ["x"], "env": {}}));
        text.set(&["b"], &json!(1));
        let expected = "{\n  \"a\": {\n    \"args\": [\n      \"x\"\n    ],\n    \"env\": {}\n  },\n  \"b\": 1\n}\n";
        assert_eq!(text.as_str(), expected);
    }

    #[test]
    fn only_what_changes_changes() {
        let before = "{\r\n\t\"a\" : { \"n\":1.50,\"l\": [1,2] },\r\n\t\"b\":{}\r\n}";
        let mut text = text(before);
        text.set(&["a", "l"], &json!([3]));
        text.set(&["b", "env", "K"], &json!("v"));
        text.rename(&["b"], "c");
        let after = "{\r\n\t\"a\" : { \"n\":1.50,\"l\": [3] },\r\n\t\"c\":{\r\n\t\t\"env\": {\r\n\t\t\t\"K\": \"v\"\r\n\t\t}\r\n\t}\r\n}";
        assert_eq!(text.as_str(), after);
        text.remove(&["c", "env"]);
        text.remove(&["a", "n"]);
        assert_eq!(text.as_str(), "{\r\n\t\"a\" : { \"l\": [3] },\r\n\t\"c\":{}\r\n}");
    }

    #[test]
    fn one_line_stays_one_line() {
        let mut text = text(r#"{"a": {}}"#);
        text.set(&["a", "k"], &json!(["x", "y"]));
        text.set(&["b"], &json!({"c": 1}));
        assert_eq!(text.as_str(), r#"{"a": {"k": ["x", "y"]}, "b": {"c": 1}}"#);
    }

    #[test]
    fn brackets_and_quotes_in_strings_confuse_nobody() {
        let mut text = text(r#"{"a\"}": "}]\\", "b": ["{", {"x": "\""}], "b": 2}"#);
        text.set(&["a\"}"], &json!("{"));
        assert_eq!(text.get(&["b"]), Some(json!(2)));
        text.remove(&["b"]);
        assert_eq!(text.as_str(), r#"{"a\"}": "{"}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for broken in ["[]", "{", "{} {}", "{\"a\":}", "null"] {
            assert!(Text::parse(broken.to_owned()).is_err(), "{broken}");
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c{}\\[\\]\",\\\\ \n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[ab\"\\\\]{0,2}", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_change_does_what_it_would_do_to_the_value(
            before in proptest::collection::btree_map("[ab\"\\\\]{0,2}", json_value(), 0..4),
            key in "[ab\"\\\\]{0,2}",
            value in json_value(),
            pretty in any::<bool>(),
        ) {
            let mut model = Value::Object(before.into_iter().collect());
            let written = if pretty { serde_json::to_string_pretty(&model) } else { serde_json::to_string(&model) };
            let mut text = text(&written.unwrap());
            let parsed = |text: &Text| serde_json::from_str::<Value>(text.as_str()).unwrap();
            text.set(&[&key], &value);
            model[&key] = value.clone();
            prop_assert_eq!(parsed(&text), model.clone());
            text.set(&[&key, "deep"], &json!(7));
            if !model[&key].is_object() {
                model[&key] = json!({});
            }
            model[&key]["deep"] = json!(7);
            prop_assert_eq!(parsed(&text), model.clone());
            text.remove(&[&key]);
            model.as_object_mut().unwrap().shift_remove(&key);
            prop_assert_eq!(parsed(&text), model);
        }
    }
}
