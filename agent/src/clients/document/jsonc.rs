//! JSON with comments and trailing commas, edited as a concrete syntax tree.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstObjectProp, CstRootNode};
use serde_json::{Map, Value};

use super::{Fault, Place};

/// What clients read: comments and trailing commas, and nothing else that JSON has not.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Parses the whole document; an empty one is `null`.
pub(super) fn value(text: &str) -> Result<Value, Fault> {
    match parse(text)?.value() {
        None => Ok(Value::Null),
        Some(node) => {
            node.to_serde_value().ok_or_else(|| Fault::Syntax("a number is too large".to_owned()))
        }
    }
}

/// Adds an entry behind the others.
pub(super) fn insert(
    text: &str,
    place: &Place,
    key: &str,
    fields: &Map<String, Value>,
) -> Result<String, Fault> {
    let root = parse(text)?;
    let servers = container(&root, place)?;
    servers.append(key, input(&Value::Object(fields.clone())));
    Ok(root.to_string())
}

/// Sets one field of an entry.
pub(super) fn set(
    text: &str,
    place: &Place,
    key: &str,
    field: &str,
    value: &Value,
) -> Result<String, Fault> {
    let root = parse(text)?;
    let entry = property(&container(&root, place)?, key)?;
    let entry = entry.object_value().ok_or(Fault::Unfaithful)?;
    match entry.get(field) {
        Some(property) => property.set_value(input(value)),
        None => {
            entry.append(field, input(value));
        }
    }
    Ok(root.to_string())
}

/// Removes an entry.
pub(super) fn remove(text: &str, place: &Place, key: &str) -> Result<String, Fault> {
    let root = parse(text)?;
    property(&container(&root, place)?, key)?.remove();
    Ok(root.to_string())
}

fn parse(text: &str) -> Result<CstRootNode, Fault> {
    CstRootNode::parse(text, &OPTIONS).map_err(|error| Fault::Syntax(error.to_string()))
}

/// Returns the object of the servers, made where it is not there.
fn container(root: &CstRootNode, place: &Place) -> Result<CstObject, Fault> {
    let wrong = || Fault::Shape(place.path.join("."));
    let mut object = root.object_value_or_create().ok_or_else(wrong)?;
    for key in place.path {
        let property = object.get(key);
        if let Some(property) = property.filter(is_null) {
            property.set_value(CstInputValue::Object(Vec::new()));
        }
        object = object.object_value_or_create(key).ok_or_else(wrong)?;
    }
    Ok(object)
}

fn is_null(property: &CstObjectProp) -> bool {
    property.value().is_some_and(|value| value.as_null_keyword().is_some())
}

fn property(object: &CstObject, key: &str) -> Result<CstObjectProp, Fault> {
    object.get(key).ok_or(Fault::Unfaithful)
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(map) => CstInputValue::Object(
            map.iter().map(|(key, value)| (key.clone(), input(value))).collect(),
        ),
    }
}
