//! Results of `tools/list` and its kin as raw text: their items, names, pages, and their union.
//!
//! An item is the server's. What is not ours to change keeps its bytes: unknown members, their
//! order, numbers of any size, white space. One faulty item is skipped and never fails its list.

mod merge;
mod value;

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::message::string;

pub use self::merge::{MAX_INSTRUCTIONS, merge_capabilities, merge_instructions};
pub use self::value::same_value;

/// Why a result is not a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The result is no JSON object.
    #[error("the result is not an object")]
    NotAnObject,
    /// The result has no array where its items should be.
    #[error("the result has no list `{0}`")]
    NoItems(String),
}

/// The items of one page.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    /// The items that can be told apart by a name or URI, in their order.
    pub items: Vec<&'a RawValue>,
    /// How many were left out because they are no objects or have no such name.
    pub skipped: usize,
}

/// Takes the items out of a result; `key` is `tools`, `prompts`, `resources` or
/// `resourceTemplates`.
///
/// # Errors
/// When the result is no object or has no such list. Faulty items are skipped and counted.
pub fn items<'a>(result: &'a RawValue, key: &str) -> Result<Items<'a>, ListError> {
    let members = members(result).ok_or(ListError::NotAnObject)?;
    let list = last(&members, key).ok_or_else(|| ListError::NoItems(key.to_owned()))?;
    let mut items: Vec<&RawValue> = serde_json::from_str(list.get())
        .ok()
        .filter(|_| list.get().starts_with('['))
        .ok_or_else(|| ListError::NoItems(key.to_owned()))?;
    let all = items.len();
    items.retain(|item| identity(item, key).is_some());
    let skipped = all - items.len();
    Ok(Items { items, skipped })
}

/// Tells whether a result holds these items as they are written here, all of them on its one page.
#[must_use]
pub fn holds(result: &RawValue, key: &str, items: &[Box<RawValue>]) -> bool {
    let Some(members) = members(result) else { return false };
    let more = last(&members, "nextCursor").is_some_and(|cursor| cursor.get() != "null");
    let list = last(&members, key).filter(|list| !more && list.get().starts_with('['));
    let list = list.and_then(|list| serde_json::from_str::<Vec<&RawValue>>(list.get()).ok());
    list.is_some_and(|list| {
        list.len() == items.len() && list.iter().zip(items).all(|(a, b)| a.get() == b.get())
    })
}

/// Returns what tells an item from the others of the list `key`: its name, URI or template.
#[must_use]
pub fn identity<'a>(item: &'a RawValue, key: &str) -> Option<Cow<'a, str>> {
    match key {
        "resources" => uri_of(item),
        "resourceTemplates" => uri_template_of(item),
        _ => name_of(item),
    }
}

/// Returns the cursor of the next page as it is written; the empty string is one too.
#[must_use]
pub fn next_cursor(result: &RawValue) -> Option<&RawValue> {
    member(result, "nextCursor").filter(|cursor| cursor.get() != "null")
}

/// Returns the name of a tool, prompt or resource.
#[must_use]
pub fn name_of(item: &RawValue) -> Option<Cow<'_, str>> {
    member(item, "name").and_then(string)
}

/// Returns the URI of a resource.
#[must_use]
pub fn uri_of(item: &RawValue) -> Option<Cow<'_, str>> {
    member(item, "uri").and_then(string)
}

/// Returns the URI template of a resource template.
#[must_use]
pub fn uri_template_of(item: &RawValue) -> Option<Cow<'_, str>> {
    member(item, "uriTemplate").and_then(string)
}

/// Returns a member of an object as it is written; of several alike the last, as JSON parsers do.
#[must_use]
pub fn member<'a>(object: &'a RawValue, key: &str) -> Option<&'a RawValue> {
    last(&members(object)?, key)
}

/// Returns the item under another name and otherwise byte for byte.
///
/// Only its own `name` changes, however that is spelled, and not one of an inner object.
#[must_use]
pub fn rename(item: &RawValue, new_name: &str) -> String {
    let text = item.get();
    let new_name = serde_json::Value::from(new_name).to_string();
    let mut out = String::with_capacity(text.len() + new_name.len());
    let mut done = 0;
    let members = members(item).unwrap_or_default();
    // All of them, if there are several: readers differ about which one counts.
    for (_, value) in members.iter().filter(|(key, _)| key == "name") {
        let at = span(item, value);
        out.push_str(&text[done..at.start]);
        out.push_str(&new_name);
        done = at.end;
    }
    out.push_str(&text[done..]);
    out
}

/// Returns the item without these members, and otherwise byte for byte.
#[must_use]
pub fn strip(item: &RawValue, keys: &[&str]) -> String {
    let text = item.get();
    let Some(members) = members(item) else { return text.to_owned() };
    let mut out = String::with_capacity(text.len());
    out.push('{');
    let (mut done, mut first) = (1, true);
    for (at, (key, value)) in members.iter().enumerate() {
        let end = span(item, value).end;
        if !keys.contains(&&**key) {
            let whole = &text[done..end];
            // What follows a member that is gone still has the comma between the two.
            let whole = if first && at > 0 {
                whole.split_once(',').map_or(whole, |(_, rest)| rest)
            } else {
                whole
            };
            out.push_str(whole);
            first = false;
        }
        done = end;
    }
    out.push_str(&text[done..]);
    out
}

/// Returns a result with these items, followed by `extra` members as JSON text.
#[must_use]
pub fn join<'a>(
    key: &str,
    items: impl IntoIterator<Item = &'a str>,
    extra: &[(&str, &str)],
) -> String {
    let mut out = format!("{{\"{key}\":[");
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(item);
    }
    out.push(']');
    for (key, value) in extra {
        out.push(',');
        push_member(&mut out, key, value);
    }
    out.push('}');
    out
}

/// Writes `"key":value`.
fn push_member(out: &mut String, key: &str, value: &str) {
    out.push_str(&serde_json::Value::from(key).to_string());
    out.push(':');
    out.push_str(value);
}

type Member<'a> = (Cow<'a, str>, &'a RawValue);

/// Returns the members of an object in their order, also those that come twice.
fn members(value: &RawValue) -> Option<Vec<Member<'_>>> {
    struct Members<'a>(Vec<Member<'a>>);
    impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
        fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            input.deserialize_map(Reader).map(Self)
        }
    }
    struct Reader;
    impl<'de> Visitor<'de> for Reader {
        type Value = Vec<Member<'de>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((Key(key), value)) = map.next_entry()? {
                members.push((key, value));
            }
            Ok(members)
        }
    }
    serde_json::from_str::<Members<'_>>(value.get()).ok().map(|members| members.0)
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn last<'a>(members: &[Member<'a>], key: &str) -> Option<&'a RawValue> {
    members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
}

/// Returns where a value that [`members`] gave stands in the text of its object.
fn span(object: &RawValue, value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - object.get().as_ptr() as usize;
    start..start + value.get().len()
}

#[cfg(test)]
mod tests;
