//! YAML. A parser says where each node is; what is ours is spliced into the text or cut from it,
//! line by line in block style and between the brackets in flow style.
//!
//! No library edits YAML soundly enough to be trusted with people's files; this does less, and what
//! it cannot do is refused by the check that follows every change.

mod node;
mod text;

use serde_json::{Map, Value};

use self::node::{Kind, Node};
use self::text::{Lines, block, flow, scalar};
use super::{Fault, Place};

/// Parses the whole document.
pub(super) fn value(text: &str) -> Result<Value, Fault> {
    Ok(node::parse(text)?.to_value())
}

/// Adds an entry behind the others.
pub(super) fn insert(
    text: &str,
    place: &Place,
    key: &str,
    fields: &Map<String, Value>,
) -> Result<String, Fault> {
    let root = node::parse(text)?;
    let top = top_key(place)?;
    let fields = Value::Object(fields.clone());
    let Some((name, container)) = root.field(top) else {
        return add_container(text, &root, place, top, key, &fields);
    };
    if container.is_flow() && !container.is_empty() {
        return Ok(insert_flow(text, container, place, key, &fields));
    }
    let mut lines = Lines::new(text);
    let Some(last) = container.children().last().copied() else {
        // `key:`, `key: null`, `key: {}` or `key: []`: what stands behind the colon goes, comments
        // stay.
        if container.is_inline() {
            lines.cut(container.start, container.end);
            lines.trim_end(name.line);
        }
        let column = name.column + 2;
        lines.insert(name.line + 1, &rendered(place, column, 2, key, &fields));
        return Ok(lines.join());
    };
    let column = container.item_column();
    let step = last.step().unwrap_or(2);
    let after = lines.end_of(last.line, column, lines.len());
    lines.insert(after, &rendered(place, column, step, key, &fields));
    Ok(lines.join())
}

/// Sets one field of an entry.
pub(super) fn set(
    text: &str,
    place: &Place,
    key: &str,
    field: &str,
    value: &Value,
) -> Result<String, Fault> {
    let root = node::parse(text)?;
    let entry = entry(&root, place, key)?.1;
    let mut lines = Lines::new(text);
    match entry.field(field) {
        // What is written on one line is replaced where it stands.
        Some((_, old)) if old.is_inline() => {
            lines.replace(old.start, old.end, &flow(value));
            Ok(lines.join())
        }
        Some((name, _)) => {
            let end = lines.end_of(name.line, name.column, lines.len());
            lines.remove(name.line, end);
            lines.insert(name.line, &field_lines(name.column, field, value));
            Ok(lines.join())
        }
        None if entry.is_flow() => {
            Ok(insert_in_brackets(text, entry, &format!("{}: {}", scalar(field), flow(value))))
        }
        None => {
            let last = entry.children().last().copied().ok_or(Fault::Unfaithful)?;
            let column = entry.item_column();
            let after = lines.end_of(last.line, column, lines.len());
            lines.insert(after, &field_lines(column, field, value));
            Ok(lines.join())
        }
    }
}

/// Removes an entry.
pub(super) fn remove(text: &str, place: &Place, key: &str) -> Result<String, Fault> {
    let root = node::parse(text)?;
    let top = top_key(place)?;
    let (name, container) = root.field(top).ok_or(Fault::Unfaithful)?;
    let (index, _) = entry(&root, place, key)?;
    let children = container.children();
    let mut lines = Lines::new(text);
    if container.is_flow() {
        let (start, end) = match (children.get(index + 1), index.checked_sub(1)) {
            (Some(next), _) => (children[index].start, next.start),
            (None, Some(before)) => (children[before].end, children[index].end),
            (None, None) => (container.start + 1, container.end - 1),
        };
        lines.cut(start, end);
        return Ok(lines.join());
    }
    let column = container.item_column();
    let end = lines.end_of(children[index].line, column, lines.len());
    lines.remove(children[index].line, end);
    if children.len() == 1 {
        // A key with nothing behind it is null, which clients do not take for an empty collection.
        let empty = if place.named_by.is_some() { " []" } else { " {}" };
        lines.append_behind_colon(name.line, name.end, empty);
    }
    Ok(lines.join())
}

fn top_key(place: &Place) -> Result<&'static str, Fault> {
    match place.path {
        [top] => Ok(top),
        _ => Err(Fault::Unfaithful),
    }
}

/// Finds an entry: its number among the children of the container, and its own node.
fn entry<'a>(root: &'a Node, place: &Place, key: &str) -> Result<(usize, &'a Node), Fault> {
    let (_, container) = root.field(top_key(place)?).ok_or(Fault::Unfaithful)?;
    let found = match (&container.kind, place.named_by) {
        (Kind::Map(fields), None) => fields
            .iter()
            .position(|(name, _)| name.text() == Some(key))
            .map(|index| (index, &fields[index].1)),
        (Kind::List(items), Some(by)) => items
            .iter()
            .position(|item| item.field(by).is_some_and(|(_, name)| name.text() == Some(key)))
            .map(|index| (index, &items[index])),
        _ => None,
    };
    found.ok_or(Fault::Unfaithful)
}

/// Writes the lines of a new entry whose key or dash stands in `column`.
fn rendered(place: &Place, column: usize, step: usize, key: &str, fields: &Value) -> Vec<String> {
    let indent = " ".repeat(column);
    if place.named_by.is_some() {
        let mut lines = block(fields, column + 2);
        if let Some(first) = lines.first_mut() {
            *first = format!("{indent}- {}", first.trim_start());
        }
        return lines;
    }
    let mut lines = vec![format!("{indent}{}:", scalar(key))];
    lines.extend(block(fields, column + step));
    lines
}

fn field_lines(column: usize, field: &str, value: &Value) -> Vec<String> {
    block(&Value::Object(Map::from_iter([(field.to_owned(), value.clone())])), column)
}

/// Adds the container and its first entry at the end of the document.
fn add_container(
    text: &str,
    root: &Node,
    place: &Place,
    top: &str,
    key: &str,
    fields: &Value,
) -> Result<String, Fault> {
    if root.is_flow() {
        let entry = match place.named_by {
            Some(_) => format!("[{}]", flow(fields)),
            None => format!("{{{}: {}}}", scalar(key), flow(fields)),
        };
        return Ok(insert_in_brackets(text, root, &format!("{}: {entry}", scalar(top))));
    }
    let mut lines = Lines::new(text);
    let column = if root.is_empty() { 0 } else { root.item_column() };
    let mut new = vec![format!("{}{top}:", " ".repeat(column))];
    new.extend(rendered(place, column + 2, 2, key, fields));
    lines.insert(lines.len(), &new);
    Ok(lines.join())
}

fn insert_flow(text: &str, container: &Node, place: &Place, key: &str, fields: &Value) -> String {
    let entry = match place.named_by {
        Some(_) => flow(fields),
        None => format!("{}: {}", scalar(key), flow(fields)),
    };
    insert_in_brackets(text, container, &entry)
}

/// Inserts behind the last child of a flow collection.
fn insert_in_brackets(text: &str, node: &Node, new: &str) -> String {
    let mut lines = Lines::new(text);
    match node.children().last() {
        Some(last) => lines.replace(last.end, last.end, &format!(", {new}")),
        None => lines.replace(node.start + 1, node.start + 1, new),
    }
    lines.join()
}
