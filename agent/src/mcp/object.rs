//! A JSON object one level deep: its members in order, their values as they are written.
//!
//! Where a message must change shape, between the eras or in an aggregate, only the level that
//! changes is taken apart. White space between members and the spelling of names are not kept on
//! that level; every byte of the values is.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use serde_json::value::{RawValue, to_raw_value};

use super::message;

/// An ordered object over raw values. Of members with one name the last counts.
#[derive(Clone, Debug, Default)]
pub struct Object {
    members: IndexMap<String, Box<RawValue>>,
}

impl Object {
    /// Makes an object without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the text of an object; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(|members| Self { members })
    }

    /// Reads a value that is an object; `None` for any other value.
    #[must_use]
    pub fn of(value: &RawValue) -> Option<Self> {
        if value.get().starts_with('{') { Self::parse(value.get()) } else { None }
    }

    /// Returns the value of a member as it is written.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.members.get(name).map(|value| &**value)
    }

    /// Returns the text of a member that is a string.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).and_then(message::string)
    }

    /// Returns a member that is an object.
    #[must_use]
    pub fn get_object(&self, name: &str) -> Option<Self> {
        self.get(name).and_then(Self::of)
    }

    /// Returns the elements of a member that is an array.
    #[must_use]
    pub fn get_array(&self, name: &str) -> Option<Vec<&RawValue>> {
        self.get(name).and_then(|value| serde_json::from_str(value.get()).ok())
    }

    /// Tells whether there is a member of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Tells whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns how many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns the members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.members.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// Sets a member: in its place where it exists, else at the end.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        self.members.insert(name.to_owned(), value);
    }

    /// Sets a member to a string.
    pub fn set_str(&mut self, name: &str, value: &str) {
        self.set(name, text(value));
    }

    /// Sets a member to a whole number.
    pub fn set_int(&mut self, name: &str, value: i64) {
        self.set(name, to_raw_value(&value).expect("a number is JSON"));
    }

    /// Sets a member to an object.
    pub fn set_object(&mut self, name: &str, value: &Self) {
        self.set(name, value.to_raw());
    }

    /// Removes a member and returns its value; the others keep their order.
    pub fn remove(&mut self, name: &str) -> Option<Box<RawValue>> {
        self.members.shift_remove(name)
    }

    /// Keeps the members that `keep` wants.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &RawValue) -> bool) {
        self.members.retain(|name, value| keep(name, value));
    }

    /// Edits a member that is an object, or one to be.
    ///
    /// A missing member, and one that is no object, is given to `edit` as an empty object, and
    /// stays as it is if `edit` leaves it empty. A member that becomes empty is removed; one that
    /// was empty before stays.
    pub fn edit_in<T>(&mut self, name: &str, edit: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.get_object(name);
        let existed = before.as_ref().is_some_and(|object| !object.is_empty());
        let mut object = before.unwrap_or_default();
        let outcome = edit(&mut object);
        if !object.is_empty() {
            self.set_object(name, &object);
        } else if existed {
            drop(self.remove(name));
        }
        outcome
    }

    /// Returns the object as a value.
    #[must_use]
    pub fn to_raw(&self) -> Box<RawValue> {
        to_raw_value(&self.members).expect("names and raw values are JSON")
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_raw().get())
    }
}

impl<N: Into<String>> FromIterator<(N, Box<RawValue>)> for Object {
    fn from_iter<I: IntoIterator<Item = (N, Box<RawValue>)>>(members: I) -> Self {
        Self { members: members.into_iter().map(|(name, value)| (name.into(), value)).collect() }
    }
}

impl IntoIterator for Object {
    type Item = (String, Box<RawValue>);
    type IntoIter = indexmap::map::IntoIter<String, Box<RawValue>>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

/// Writes a string as a JSON value.
#[must_use]
pub fn text(value: &str) -> Box<RawValue> {
    to_raw_value(value).expect("a string is JSON")
}

/// Writes an array of values.
#[must_use]
pub fn array(values: &[Box<RawValue>]) -> Box<RawValue> {
    to_raw_value(values).expect("raw values are JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn members_keep_their_order_and_values_their_bytes_golden() {
        let mut object =
            Object::parse(r#" { "b":{ "y" : 1.0 }, "a":1e400 ,"n":123456789012345678901234 } "#)
                .unwrap();
        object.set_str("a", "é\n");
        object.set_int("z", 0);
        assert_eq!(
            object.to_string(),
            r#"{"b":{ "y" : 1.0 },"a":"é\n","n":123456789012345678901234,"z":0}"#
        );
        assert_eq!(object.remove("b").unwrap().get(), r#"{ "y" : 1.0 }"#);
        assert_eq!(object.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "n", "z"]);
        assert_eq!(object.get_str("a").as_deref(), Some("é\n"));
        assert_eq!(object.get_str("z"), None);
    }

    #[test]
    fn of_members_with_one_name_the_last_counts() {
        let object = Object::parse(r#"{"a":1,"b":2,"\u0061":3}"#).unwrap();
        assert_eq!(object.to_string(), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn what_is_no_object_is_not_read() {
        for text in ["[]", "null", "1", r#""{}""#, "{", "{} x", "", r#"[["a",1]]"#] {
            assert!(Object::parse(text).is_none(), "{text}");
        }
        assert!(Object::of(&raw("[1]")).is_none());
        assert!(Object::of(&raw("{}")).unwrap().is_empty());
    }

    #[test]
    fn a_member_that_an_edit_empties_goes_and_one_that_was_empty_stays() {
        let edited = |text: &str| {
            let mut object = Object::parse(text).unwrap();
            drop(object.edit_in("m", |member| member.remove("x")));
            object.to_string()
        };
        assert_eq!(edited(r#"{"m":{"x":1},"k":2}"#), r#"{"k":2}"#);
        assert_eq!(edited(r#"{"m":{"x":1,"y":2}}"#), r#"{"m":{"y":2}}"#);
        assert_eq!(edited(r#"{"m":{}}"#), r#"{"m":{}}"#);
        assert_eq!(edited(r#"{"m":[1]}"#), r#"{"m":[1]}"#);
        assert_eq!(edited("{}"), "{}");
    }

    #[test]
    fn an_edit_makes_the_member_it_needs() {
        for text in ["{}", r#"{"m":null}"#, r#"{"m":{}}"#] {
            let mut object = Object::parse(text).unwrap();
            object.edit_in("m", |member| member.set_str("x", "1"));
            assert_eq!(object.to_string(), r#"{"m":{"x":"1"}}"#);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_read_is_written(text in "\\{[ -~]{0,60}\\}") {
            if let Some(object) = Object::parse(&text) {
                let again = Object::parse(&object.to_string()).unwrap();
                prop_assert_eq!(object.to_string(), again.to_string());
            }
        }
    }
}
