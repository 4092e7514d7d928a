//! One configuration file of a client as text that is edited in place: comments, order, unknown
//! keys, indentation and line ends stay. This module is pure; files are the business of `file`.
//!
//! Each format edits with a library or by itself, and none is trusted: after every change the new
//! text is parsed again, and unless it says exactly what was meant the change is refused.

mod jsonc;
mod toml;
mod yaml;

use serde_json::{Map, Value};

/// How a configuration file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, with comments and trailing commas where the user wrote them.
    Json,
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
}

/// Where in a document the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The keys that lead to them; one key in YAML.
    pub(super) path: &'static [&'static str],
    /// In a list of entries, the key of an entry that names it; otherwise entries are a map.
    pub(super) named_by: Option<&'static str>,
}

/// Why a document cannot be read or edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The text does not parse.
    #[error("{0}")]
    Syntax(String),
    /// Something is not a map or list where servers belong.
    #[error("`{0}` does not hold entries")]
    Shape(String),
    /// The edited text would say something else than was meant.
    #[error("the file is laid out in a way that mcpm cannot edit without changing more")]
    Unfaithful,
}

/// A parsed document.
#[derive(Debug)]
pub(super) struct Document {
    format: Format,
    place: Place,
    text: String,
    value: Value,
    /// Whether all its lines end in CR LF; inside they end in LF.
    crlf: bool,
    /// Whether it begins with a byte order mark; inside it does not.
    marked: bool,
}

impl Document {
    /// Parses a text; the servers are at the first of `places` that is there, else at the last.
    pub(super) fn parse(format: Format, places: &[Place], text: &str) -> Result<Self, Fault> {
        let (marked, text) = match text.strip_prefix('\u{feff}') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let lines = text.matches('\n').count();
        let crlf = lines > 0 && text.matches("\r\n").count() == lines;
        let text = if crlf { text.replace("\r\n", "\n") } else { text.to_owned() };
        let value = read(format, &text)?;
        let there = places.iter().find(|place| container(&value, place).is_some_and(holds_entries));
        let Some(place) = there.or(places.last()).copied() else {
            return Err(Fault::Shape(String::new()));
        };
        if !matches!(value, Value::Object(_) | Value::Null) {
            return Err(Fault::Shape("the document".to_owned()));
        }
        let document = Self { format, place, text, value, crlf, marked };
        match container(&document.value, &place) {
            None | Some(Value::Null) => Ok(document),
            Some(found) if found.is_array() == place.named_by.is_some() && holds_some(found) => {
                Ok(document)
            }
            Some(_) => Err(Fault::Shape(place.path.join("."))),
        }
    }

    /// Returns the entries in the order of the file.
    pub(super) fn entries(&self) -> Vec<(String, Value)> {
        match (container(&self.value, &self.place), self.place.named_by) {
            (Some(Value::Object(map)), None) => {
                map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
            }
            (Some(Value::Array(items)), Some(by)) => items
                .iter()
                .filter_map(|item| Some((item.get(by)?.as_str()?.to_owned(), item.clone())))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Adds an entry, or sets these fields of the one that is there and leaves its others alone.
    pub(super) fn put(&mut self, key: &str, fields: &Map<String, Value>) -> Result<(), Fault> {
        let old = self.entries().into_iter().find(|(name, _)| name == key).map(|(_, value)| value);
        let Some(Value::Object(old)) = old else {
            if old.is_some() {
                self.remove(key)?;
            }
            let mut wanted = self.value.clone();
            insert_value(&mut wanted, &self.place, key, fields);
            let text = match self.format {
                Format::Json => jsonc::insert(&self.text, &self.place, key, fields),
                Format::Yaml => yaml::insert(&self.text, &self.place, key, fields),
                Format::Toml => toml::insert(&self.text, &self.place, key, fields),
            }?;
            return self.accept(text, wanted);
        };
        for (field, value) in fields {
            if old.get(field) == Some(value) {
                continue;
            }
            let mut wanted = self.value.clone();
            if let Some(entry) = entry_mut(&mut wanted, &self.place, key) {
                entry.insert(field.clone(), value.clone());
            }
            let text = match self.format {
                Format::Json => jsonc::set(&self.text, &self.place, key, field, value),
                Format::Yaml => yaml::set(&self.text, &self.place, key, field, value),
                Format::Toml => toml::set(&self.text, &self.place, key, field, value),
            }?;
            self.accept(text, wanted)?;
        }
        Ok(())
    }

    /// Removes an entry, and the comment that belongs to it alone.
    pub(super) fn remove(&mut self, key: &str) -> Result<(), Fault> {
        let mut wanted = self.value.clone();
        remove_value(&mut wanted, &self.place, key);
        let text = match self.format {
            Format::Json => jsonc::remove(&self.text, &self.place, key),
            Format::Yaml => yaml::remove(&self.text, &self.place, key),
            Format::Toml => toml::remove(&self.text, &self.place, key),
        }?;
        self.accept(text, wanted)
    }

    /// Returns the text, with the line ends it came with.
    pub(super) fn text(&self) -> String {
        let text = if self.crlf { self.text.replace('\n', "\r\n") } else { self.text.clone() };
        if self.marked { format!("\u{feff}{text}") } else { text }
    }

    /// Takes over a new text, if it says what is wanted and nothing else.
    fn accept(&mut self, text: String, wanted: Value) -> Result<(), Fault> {
        let value = read(self.format, &text).map_err(|_| Fault::Unfaithful)?;
        // An emptied container may be written as nothing, as `{}`, or be gone with its header.
        if pruned(value.clone(), &self.place) != pruned(wanted, &self.place) {
            return Err(Fault::Unfaithful);
        }
        self.text = text;
        self.value = value;
        Ok(())
    }
}

fn read(format: Format, text: &str) -> Result<Value, Fault> {
    match format {
        Format::Json => jsonc::value(text),
        Format::Yaml => yaml::value(text),
        Format::Toml => toml::value(text),
    }
}

/// Returns what is at the place of the servers.
fn container<'a>(value: &'a Value, place: &Place) -> Option<&'a Value> {
    place.path.iter().try_fold(value, |value, key| value.get(key))
}

/// Tells whether this is certainly a collection of entries, and not one entry itself.
fn holds_entries(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(Value::is_object),
        Value::Array(_) => true,
        _ => false,
    }
}

fn holds_some(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

/// Returns the container, made where it is not there.
fn container_mut<'a>(value: &'a mut Value, place: &Place) -> &'a mut Value {
    let mut at = value;
    for key in place.path {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[*key];
    }
    if at.is_null() {
        *at = match place.named_by {
            Some(_) => Value::Array(Vec::new()),
            None => Value::Object(Map::new()),
        };
    }
    at
}

fn insert_value(value: &mut Value, place: &Place, key: &str, fields: &Map<String, Value>) {
    match container_mut(value, place) {
        Value::Object(map) => {
            map.insert(key.to_owned(), Value::Object(fields.clone()));
        }
        Value::Array(items) => items.push(Value::Object(fields.clone())),
        _ => {}
    }
}

fn entry_mut<'a>(
    value: &'a mut Value,
    place: &Place,
    key: &str,
) -> Option<&'a mut Map<String, Value>> {
    match container_mut(value, place) {
        Value::Object(map) => map.get_mut(key)?.as_object_mut(),
        Value::Array(items) => {
            let by = place.named_by?;
            items.iter_mut().find(|item| item[by].as_str() == Some(key))?.as_object_mut()
        }
        _ => None,
    }
}

fn remove_value(value: &mut Value, place: &Place, key: &str) {
    match container_mut(value, place) {
        Value::Object(map) => {
            map.shift_remove(key);
        }
        Value::Array(items) => {
            let found = place.named_by.and_then(|by| {
                items.iter().position(|item| item.get(by).and_then(Value::as_str) == Some(key))
            });
            found.map(|index| items.remove(index));
        }
        _ => {}
    }
}

/// Returns the value without a container that has no entry, and without what led only to it.
fn pruned(mut value: Value, place: &Place) -> Value {
    for depth in (0..place.path.len()).rev() {
        let (above, last) = (&place.path[..depth], place.path[depth]);
        let Some(Value::Object(map)) =
            above.iter().try_fold(&mut value, |value, key| value.get_mut(*key))
        else {
            continue;
        };
        let empty = match map.get(last) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            map.shift_remove(last);
        }
    }
    match value {
        Value::Null => Value::Object(Map::new()),
        value => value,
    }
}

#[cfg(test)]
mod tests;
