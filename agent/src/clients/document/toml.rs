//! TOML. Fields are set with an editor that keeps the rest; whole tables go by their lines, since
//! what stands above the header of a removed table would go with it otherwise.

use std::ops::Range;

use serde_json::{Map, Value};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike};

use super::{Fault, Place};

/// Parses the whole document.
pub(super) fn value(text: &str) -> Result<Value, Fault> {
    Ok(of_table(parse(text)?.as_table()))
}

/// Adds an entry behind the others.
pub(super) fn insert(
    text: &str,
    place: &Place,
    key: &str,
    fields: &Map<String, Value>,
) -> Result<String, Fault> {
    let mut document = parse(text)?;
    let servers = container(&mut document, place)?;
    let inline = servers.iter().next().is_some_and(|(_, item)| item.is_inline_table())
        && !servers.iter().any(|(_, item)| item.is_table());
    let item = if inline || servers_are_inline(servers) {
        Item::Value(toml_edit::Value::InlineTable(inline_table(fields)))
    } else {
        let mut table = Table::new();
        for (field, value) in fields {
            table.insert(field, Item::Value(to_toml(value)));
        }
        Item::Table(table)
    };
    servers.insert(key, item);
    Ok(document.to_string())
}

/// Sets one field of an entry.
pub(super) fn set(
    text: &str,
    place: &Place,
    key: &str,
    field: &str,
    value: &Value,
) -> Result<String, Fault> {
    let mut document = parse(text)?;
    let servers = container(&mut document, place)?;
    let entry = servers.get_mut(key).and_then(Item::as_table_like_mut).ok_or(Fault::Unfaithful)?;
    let mut new = to_toml(value);
    match entry.get_mut(field).and_then(Item::as_value_mut) {
        Some(old) => {
            // What stands around the value, such as a comment behind it, stays.
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => {
            entry.insert(field, Item::Value(new));
        }
    }
    Ok(document.to_string())
}

/// Removes an entry.
pub(super) fn remove(text: &str, place: &Place, key: &str) -> Result<String, Fault> {
    let spanned = toml_edit::Document::parse(text).map_err(syntax)?;
    let mut at: &dyn TableLike = spanned.as_table();
    for part in place.path {
        at = at.get(part).and_then(Item::as_table_like).ok_or(Fault::Unfaithful)?;
    }
    match at.get(key) {
        Some(Item::Table(table)) if !table.is_dotted() => {
            let mut ranges = Vec::new();
            ranges_of(table, &mut ranges);
            if ranges.is_empty() {
                return Err(Fault::Unfaithful);
            }
            ranges.sort_by_key(|range| range.start);
            let mut text = text.to_owned();
            for range in ranges.into_iter().rev() {
                cut_lines(&mut text, range);
            }
            Ok(text)
        }
        _ => {
            let mut document = parse(text)?;
            container(&mut document, place)?.remove(key);
            Ok(document.to_string())
        }
    }
}

fn parse(text: &str) -> Result<DocumentMut, Fault> {
    text.parse().map_err(syntax)
}

fn syntax(error: toml_edit::TomlError) -> Fault {
    Fault::Syntax(error.to_string().trim_end().to_owned())
}

/// Returns the table of the servers, made without a header of its own where it is not there.
fn container<'a>(
    document: &'a mut DocumentMut,
    place: &Place,
) -> Result<&'a mut dyn TableLike, Fault> {
    let mut at: &mut dyn TableLike = document.as_table_mut();
    for key in place.path {
        if !at.contains_key(key) {
            let mut table = Table::new();
            table.set_implicit(true);
            at.insert(key, Item::Table(table));
        }
        let found = at.get_mut(key).and_then(Item::as_table_like_mut);
        at = found.ok_or_else(|| Fault::Shape(place.path.join(".")))?;
    }
    Ok(at)
}

/// Tells whether entries are `servers.x.y = …`, among which no header fits.
fn servers_are_inline(servers: &dyn TableLike) -> bool {
    servers.is_dotted()
        || servers.iter().any(|(_, item)| item.as_table().is_some_and(Table::is_dotted))
}

/// Collects the ranges of a table and of the tables below it, header to last value.
fn ranges_of(table: &Table, ranges: &mut Vec<Range<usize>>) {
    if let Some(header) = table.span().filter(|_| !table.is_implicit() && !table.is_dotted()) {
        ranges.push(header.start..end_of_values(table).max(header.end));
    }
    for (_, item) in table.iter() {
        if let Item::Table(below) = item {
            ranges_of(below, ranges);
        }
    }
}

/// Returns where the last value below a header ends; what has a header of its own does not count.
fn end_of_values(table: &Table) -> usize {
    let ends = table.iter().map(|(_, item)| match item {
        Item::Value(value) => value.span().map_or(0, |span| span.end),
        Item::Table(below) if below.is_dotted() => end_of_values(below),
        _ => 0,
    });
    ends.max().unwrap_or(0)
}

/// Cuts whole lines, with the comment right above them and one of two blank lines around them.
fn cut_lines(text: &mut String, range: Range<usize>) {
    let line_start = |at: usize| text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let mut start = line_start(range.start);
    while start > 0 {
        let above = line_start(start - 1);
        if !text[above..start].trim_start().starts_with('#') {
            break;
        }
        start = above;
    }
    // A span that ends in a line break ends before the next line.
    let last = range.end.max(range.start + 1) - 1;
    let end = text[last..].find('\n').map_or(text.len(), |newline| last + newline + 1);
    let blank_above = text[..start].ends_with("\n\n") || start == 0;
    let blank_below = text[end..].starts_with('\n');
    let at_end = text[end..].trim().is_empty();
    let end = if blank_above && blank_below { end + 1 } else { end };
    text.replace_range(start..end, "");
    if at_end {
        let kept = text.trim_end_matches('\n').len();
        text.truncate(kept);
        if !text.is_empty() {
            text.push('\n');
        }
    }
}

fn of_table(table: &dyn TableLike) -> Value {
    Value::Object(table.iter().map(|(key, item)| (key.to_owned(), of_item(item))).collect())
}

fn of_item(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => of_value(value),
        Item::Table(table) => of_table(table),
        Item::ArrayOfTables(tables) => tables.iter().map(|table| of_table(table)).collect(),
    }
}

fn of_value(value: &toml_edit::Value) -> Value {
    use toml_edit::Value as Toml;
    match value {
        Toml::String(text) => text.value().as_str().into(),
        Toml::Integer(number) => (*number.value()).into(),
        // What JSON has no number for still has a text to compare.
        Toml::Float(number) => serde_json::Number::from_f64(*number.value())
            .map_or_else(|| number.value().to_string().into(), Value::Number),
        Toml::Boolean(value) => (*value.value()).into(),
        Toml::Datetime(time) => time.value().to_string().into(),
        Toml::Array(items) => items.iter().map(of_value).collect(),
        Toml::InlineTable(table) => of_table(table),
    }
}

fn to_toml(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_toml).collect::<Array>().into(),
        Value::Object(map) => inline_table(map).into(),
        // TOML has no null; an entry of ours has none either.
        Value::Null => "".into(),
    }
}

fn inline_table(map: &Map<String, Value>) -> InlineTable {
    map.iter().map(|(key, value)| (key.as_str(), to_toml(value))).collect()
}
