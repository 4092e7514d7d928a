//! A JSON file that maps names to entries. What is not touched stays byte for byte.

use std::path::PathBuf;

use serde_json::Value;
use serde_json::value::RawValue;

use super::text::{Entries, Text};
use crate::fs::{self, FsError};

/// One such file, as it was when opened.
#[derive(Debug)]
pub(super) struct Document {
    path: PathBuf,
    entries: Entries,
}

impl Document {
    /// Reads the file; a missing or empty one has no entries.
    pub(super) fn open(path: PathBuf) -> Result<Self, FsError> {
        let entries = fs::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, entries })
    }

    /// Iterates over names and parsed entries, in file order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Value)> {
        self.entries.iter().map(|(name, raw)| (name.as_str(), parse(raw)))
    }

    /// Iterates over the names only, in file order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns one parsed entry.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.entries.get(name).map(|raw| parse(raw))
    }

    /// Sets or removes (`None`) one entry, under the lock and on top of what others wrote since.
    pub(super) fn set(&mut self, name: &str, entry: Option<&Value>) -> Result<(), FsError> {
        self.edit(|text| {
            match entry {
                Some(entry) => text.set(&[name], entry),
                None => text.remove(&[name]),
            }
            Ok(())
        })
    }

    /// Changes the text under the lock and on top of what others wrote since. Nothing is written
    /// when the change fails or changes nothing.
    pub(super) fn edit<T, E: From<FsError>>(
        &mut self,
        change: impl FnOnce(&mut Text) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = fs::lock(&self.path)?;
        let mut text = Text::parse(fs::read(&self.path)?.unwrap_or_default())
            .map_err(|source| FsError::Corrupt { path: self.path.clone(), source })?;
        let before = text.as_str().to_owned();
        let outcome = change(&mut text)?;
        if text.as_str() != before {
            fs::write_private(&self.path, text.as_str().as_bytes())?;
        }
        self.entries = text.entries();
        Ok(outcome)
    }
}

fn parse(raw: &RawValue) -> Value {
    // A raw value was checked when the file was read; only nesting beyond 128 levels can fail
    // here, and `null` is then reported as an entry of the wrong shape.
    serde_json::from_str(raw.get()).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_that_are_not_touched_stay_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers.json");
        let untouched = "\"a\": {\"n\":1.50, \"big\": 123456789012345678901234567890}";
        std::fs::write(&path, format!("{{{untouched},\n\"b\":{{}}}}")).unwrap();
        let mut document = Document::open(path.clone()).unwrap();
        document.set("c", Some(&json!({"k": [1]}))).unwrap();
        document.set("b", None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(untouched), "{text}");
        assert!(text.contains("\"c\": {\n  \"k\": [\n    1\n  ]\n}"), "{text}");
        assert!(!text.contains("\"b\""), "{text}");
    }

    #[test]
    fn a_change_lands_on_top_of_what_another_process_wrote_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers.json");
        let mut ours = Document::open(path.clone()).unwrap();
        Document::open(path).unwrap().set("theirs", Some(&json!(1))).unwrap();
        ours.set("ours", Some(&json!(2))).unwrap();
        assert_eq!(ours.names().collect::<Vec<_>>(), ["theirs", "ours"]);
    }

    #[test]
    fn a_file_that_turned_corrupt_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers.json");
        let mut document = Document::open(path.clone()).unwrap();
        std::fs::write(&path, "{\"a\": {}").unwrap();
        assert!(document.set("b", Some(&json!({}))).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\": {}");
    }
}
