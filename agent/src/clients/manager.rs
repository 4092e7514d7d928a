//! Reading and editing the list of servers of one client.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::document::{Document, Fault};
use super::entry::{Launch, Target};
use super::file::{self, Audience};
use super::places::Places;
use super::table::{ALL, Client};
use super::{ClientError, Foreign, foreign};
use crate::fs::{self, Paths};

/// How often an edit is done anew because the client wrote its file meanwhile.
const TRIES: usize = 5;

/// Reads and edits the servers of one client.
#[derive(Debug)]
pub struct ClientConfigManager {
    client: &'static Client,
    file: PathBuf,
}

/// One entry of a client.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// What it serves, when it starts mcpm.
    pub target: Option<Target>,
    value: Value,
}

impl Entry {
    /// Returns the program that the entry starts, if it starts one.
    #[must_use]
    pub fn program(&self) -> Option<String> {
        foreign::command_line(&self.value).map(|(program, _)| program)
    }

    /// Returns a variable that the entry sets, whatever its client calls them.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        let keys = ["env", "envs", "environment"];
        keys.iter().find_map(|key| self.value[*key][name].as_str()).map(str::to_owned)
    }

    /// Reads the entry as a server of ours.
    #[must_use]
    pub fn to_foreign(&self) -> Foreign {
        Foreign::read(&self.key, &self.value)
    }
}

/// One change.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Let the client start this; an entry of ours that is there is brought up to date.
    Put(Target, Launch),
    /// Take out the entry of this name.
    Remove(String),
    /// Switch off the entry of ours that starts this; it stays in the file.
    SwitchOff(Target),
    /// Let the entry of ours of this name start something else of the same kind. What else the
    /// user or the client wrote there stays.
    Retarget(String, Target),
}

/// What an edit did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether the file is another one now.
    pub changed: bool,
    /// The file as it was before.
    pub backup: Option<PathBuf>,
}

impl ClientConfigManager {
    /// Opens the client of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(id: &str, places: &Places) -> Result<Self, ClientError> {
        let client = Client::find(id)
            .ok_or_else(|| ClientError::Unknown { name: id.to_owned(), near: nearest(id) })?;
        Ok(Self { client, file: client.file(places) })
    }

    /// Uses another file than the usual one.
    #[must_use]
    pub fn with_file(self, file: PathBuf) -> Self {
        Self { file, ..self }
    }

    /// Returns the client.
    #[must_use]
    pub fn client(&self) -> &'static Client {
        self.client
    }

    /// Returns the file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns all entries, in the order of the file; none when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn entries(&self) -> Result<Vec<Entry>, ClientError> {
        let text = self.read()?.unwrap_or_default();
        let entry = |(key, value): (String, Value)| {
            let target = Target::of_entry(&key, &value);
            Entry { key, target, value }
        };
        Ok(self.parse(&text)?.entries().into_iter().map(entry).collect())
    }

    /// Makes all changes in one step, or none. An entry of somebody else that has a name of ours is
    /// replaced only with `force`.
    ///
    /// # Errors
    /// When the file cannot be read, parsed, edited without a loss, or written; it is then as it was.
    pub fn edit(&self, paths: &Paths, edits: &[Edit], force: bool) -> Result<Outcome, ClientError> {
        // Not beside the client's file: a lock of ours is litter there, and in a project even seen.
        let _lock = fs::lock(&paths.dir().join("clients"))?;
        for _ in 0..TRIES {
            let old = self.read()?;
            let mut document = self.parse(old.as_deref().unwrap_or_default())?;
            let before = document.text();
            for edit in edits {
                self.apply(&mut document, edit, force)?;
            }
            let new = document.text();
            if new == before {
                return Ok(Outcome::default());
            }
            let audience = match self.client.is_of_project() {
                true => Audience::Project,
                false => Audience::Owner,
            };
            let replaced = file::replace(&self.file, old.as_deref(), &new, audience)
                .map_err(|source| ClientError::Write { path: self.file.clone(), source })?;
            if let Some(replaced) = replaced {
                return Ok(Outcome { changed: true, backup: replaced.backup });
            }
        }
        Err(ClientError::Busy { path: self.file.clone() })
    }

    fn apply(&self, document: &mut Document, edit: &Edit, force: bool) -> Result<(), ClientError> {
        let entries = document.entries();
        match edit {
            Edit::Remove(key) => {
                if entries.iter().any(|(name, _)| name == key) {
                    document.remove(key).map_err(|fault| self.error(fault))?;
                }
                Ok(())
            }
            Edit::SwitchOff(target) => {
                let Some((field, value)) = self.client.off else {
                    return Err(ClientError::NoSwitch { client: self.client.name });
                };
                let starts_it = |(key, value): &&(String, Value)| {
                    Target::of_entry(key, value).as_ref() == Some(target)
                };
                let Some((key, _)) = entries.iter().find(starts_it) else { return Ok(()) };
                let fields = Map::from_iter([(field.to_owned(), value.into())]);
                document.put(key, &fields).map_err(|fault| self.error(fault))
            }
            Edit::Retarget(key, target) => {
                let Some((_, old)) = entries.iter().find(|(name, _)| name == key) else {
                    return Ok(());
                };
                let there = entries.iter().find(|(name, _)| *name == target.key());
                match there {
                    Some((name, value)) if Target::of_entry(name, value).is_none() => {
                        return Err(ClientError::Taken {
                            path: self.file.clone(),
                            key: name.clone(),
                        });
                    }
                    _ => {}
                }
                let Some((new, fields)) = self.client.shape.retargeted(key, old, target) else {
                    return Ok(());
                };
                let moved = new != *key;
                if moved {
                    document.remove(key).map_err(|fault| self.error(fault))?;
                }
                if moved && there.is_some() {
                    // It starts that already.
                    return Ok(());
                }
                document.put(&new, &fields).map_err(|fault| self.error(fault))
            }
            Edit::Put(target, launch) => {
                let wanted = Some(target);
                let same = |(key, value): &&(String, Value)| {
                    Target::of_entry(key, value).as_ref() == wanted
                };
                // An entry that the user renamed still is the one.
                let found = entries.iter().find(same);
                let key = found.map_or_else(|| target.key(), |(key, _)| key.clone());
                let there = entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
                let foreign = there.is_some_and(|value| Target::of_entry(&key, value).is_none());
                if foreign && !force {
                    return Err(ClientError::Taken { path: self.file.clone(), key });
                }
                if foreign {
                    document.remove(&key).map_err(|fault| self.error(fault))?;
                }
                let fields = self.client.shape.entry(&key, launch);
                let fields = match there.filter(|_| !foreign) {
                    Some(old) => {
                        outdated(fields, old, Target::of_entry(&key, old).as_ref() == wanted)
                    }
                    None => fields,
                };
                document.put(&key, &fields).map_err(|fault| self.error(fault))
            }
        }
    }

    fn read(&self) -> Result<Option<String>, ClientError> {
        file::read(&self.file)
            .map_err(|source| ClientError::Read { path: self.file.clone(), source })
    }

    fn parse(&self, text: &str) -> Result<Document, ClientError> {
        Document::parse(self.client.format, self.client.places, text)
            .map_err(|fault| self.error(fault))
    }

    fn error(&self, fault: Fault) -> ClientError {
        let path = self.file.clone();
        match fault {
            Fault::Unfaithful => ClientError::Unfaithful { path },
            fault => ClientError::Corrupt { path, reason: fault.to_string() },
        }
    }
}

/// Returns the fields of an entry of ours that have to change: what starts mcpm. What else the
/// user or the client wrote there, such as being disabled or further arguments, is theirs.
fn outdated(fields: Map<String, Value>, old: &Value, serves_it: bool) -> Map<String, Value> {
    fields
        .into_iter()
        .filter_map(|(field, new)| match (field.as_str(), &old[field.as_str()]) {
            (_, Value::Null) => Some((field, new)),
            ("args", _) if serves_it => None,
            ("command", Value::Array(words)) if serves_it => {
                let mut words = words.clone();
                *words.first_mut()? = new.get(0)?.clone();
                Some((field, Value::Array(words)))
            }
            ("command" | "cmd", _) => Some((field, new)),
            ("env" | "envs" | "environment", Value::Object(old)) => {
                let mut env = old.clone();
                env.extend(new.as_object().cloned().unwrap_or_default());
                Some((field, Value::Object(env)))
            }
            _ => None,
        })
        .collect()
}

/// Returns the client whose name looks most like this one, if any is near enough to be a slip.
fn nearest(id: &str) -> Option<&'static str> {
    let id = id.to_lowercase();
    ALL.iter()
        .map(|client| (strsim::jaro_winkler(&id, client.id), client.id))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, id)| id)
}

#[cfg(test)]
mod tests;
