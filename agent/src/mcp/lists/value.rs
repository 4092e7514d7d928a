//! Whether two raw values mean the same.

use serde_json::value::RawValue;

use super::{Member, members};
use crate::mcp::message::string;

/// How deep two values are compared by meaning; below that, by text.
const MAX_DEPTH: usize = 64;

/// Tells whether two values are the same but for white space, the order of members and how strings
/// are escaped. Numbers are the same when they are written alike, so that none is too large.
#[must_use]
pub fn same_value(a: &RawValue, b: &RawValue) -> bool {
    same(a, b, MAX_DEPTH)
}

fn same(a: &RawValue, b: &RawValue, depth: usize) -> bool {
    if a.get() == b.get() {
        return true;
    }
    let starts = |value: &RawValue| value.get().as_bytes().first().copied();
    if depth == 0 || starts(a) != starts(b) {
        return false;
    }
    match starts(a) {
        Some(b'{') => same_objects(a, b, depth - 1),
        Some(b'[') => {
            let items = |value| serde_json::from_str::<Vec<&RawValue>>(value).ok();
            let (Some(a), Some(b)) = (items(a.get()), items(b.get())) else { return false };
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same(a, b, depth - 1))
        }
        Some(b'"') => string(a).is_some_and(|a| string(b).is_some_and(|b| a == b)),
        _ => false,
    }
}

fn same_objects(a: &RawValue, b: &RawValue, depth: usize) -> bool {
    let sorted = |value| {
        let mut members: Vec<Member<'_>> = members(value)?;
        // Members of one key stay in their order, which tells the one that counts.
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(members)
    };
    let (Some(a), Some(b)) = (sorted(a), sorted(b)) else { return false };
    let same_member =
        |((a_key, a), (b_key, b)): (&Member<'_>, &Member<'_>)| a_key == b_key && same(a, b, depth);
    a.len() == b.len() && a.iter().zip(&b).all(same_member)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(a: &str, b: &str) -> bool {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        same_value(&raw(a), &raw(b))
    }

    #[test]
    fn layout_order_of_members_and_escapes_do_not_matter() {
        assert!(equal(r#"{"a":[1, {"x":"\u0041"}],"b":null}"#, r#"{"b":null,"a":[1,{"x":"A"}]}"#));
        assert!(equal("[ ]", "[]"));
    }

    #[test]
    fn values_and_the_order_of_items_do() {
        assert!(!equal("[1,2]", "[2,1]"));
        assert!(!equal("[1]", "[1,1]"));
        assert!(!equal(r#"{"a":1}"#, r#"{"a":1,"b":1}"#));
        assert!(!equal(r#"{"a":1}"#, r#"{"b":1}"#));
        assert!(!equal("true", "false"));
        assert!(!equal(r#""1""#, "1"));
    }

    #[test]
    fn numbers_beyond_a_float_are_told_apart() {
        assert!(!equal("[12345678901234567890123]", "[12345678901234567890124]"));
        assert!(!equal("1e400", "1e401"));
    }

    #[test]
    fn nesting_without_end_is_bounded() {
        let deep = |space: &str| format!("{}{space}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(!equal(&deep(""), &deep(" ")));
        assert!(equal(&deep(""), &deep("")));
    }
}
