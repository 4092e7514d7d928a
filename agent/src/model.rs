//! What the configuration files describe: servers and how they are reached.
//!
//! The shapes are those of the Python `mcpm` 2.x. A server's kind is inferred from its keys, and
//! keys that we do not know are kept, so that writing an entry back loses nothing. This module
//! only converts; reading and writing files is the business of `config`.

pub mod reference;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

// Keys of an entry that this module interprets.
const NAME: &str = "name";
const TAGS: &str = "profile_tags";
const COMMAND: &str = "command";
const ARGS: &str = "args";
const ENV: &str = "env";
const CWD: &str = "cwd";
const URL: &str = "url";
const HEADERS: &str = "headers";
const CONFIG: &str = "config";

/// One MCP server of `servers.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// The key of the entry: the name that users type.
    pub name: String,
    /// The profiles this server belongs to.
    pub profile_tags: Vec<String>,
    /// How the server is reached.
    pub transport: Transport,
    /// Keys of the entry that we do not interpret, in their order.
    pub extra: Extra,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// A child process that speaks MCP over its standard input and output.
    Stdio {
        /// The program to start: a path or a name looked up in `PATH`.
        command: String,
        /// The arguments of the program.
        args: Vec<String>,
        /// Environment variables added to the safe list the child inherits.
        env: Vars,
        /// The working directory of the child; ours when absent.
        cwd: Option<PathBuf>,
    },
    /// A server reached over HTTP.
    Remote {
        /// The URL of the MCP endpoint.
        url: String,
        /// Headers sent with every request.
        headers: Vars,
    },
    /// An entry for one client application only, which mcpm cannot run.
    Custom {
        /// The opaque configuration of that client.
        config: Map<String, Value>,
    },
}

impl Transport {
    /// Returns the word for this kind of transport: `stdio`, `remote` or `custom`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Stdio { .. } => "stdio",
            Self::Remote { .. } => "remote",
            Self::Custom { .. } => "custom",
        }
    }
}

/// Environment variables or headers: names to values, in file order.
///
/// The values are often secrets, so `Debug` shows the names only. Values that are not strings
/// keep their JSON form and are handed out as text.
#[derive(Clone, Default, PartialEq)]
pub struct Vars(Map<String, Value>);

impl Vars {
    /// Iterates over the names and the values as text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.0.iter().map(|(name, value)| {
            let text = match value {
                Value::String(text) => Cow::Borrowed(text.as_str()),
                other => Cow::Owned(other.to_string()),
            };
            (name.as_str(), text)
        })
    }

    /// Returns whether there is no variable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many variables there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns these with every value as `change` makes it.
    ///
    /// # Errors
    /// What `change` says about the first value it cannot change.
    pub fn try_map<E>(
        &self,
        mut change: impl FnMut(&str, &str) -> Result<String, E>,
    ) -> Result<Self, E> {
        self.iter().map(|(name, value)| Ok((name, change(name, &value)?))).collect()
    }

    /// Sets one variable and returns self, for building by hand.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), Value::String(value.into()));
        self
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Vars {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        pairs.into_iter().fold(Self::default(), |vars, (name, value)| vars.with(name, value))
    }
}

impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Keys that we do not interpret; `Debug` shows their names only, since they may hold secrets.
#[derive(Clone, Default, PartialEq)]
pub struct Extra(Map<String, Value>);

impl Extra {
    /// Returns the value of one key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why an entry of `servers.json` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The entry is not a JSON object.
    #[error("the entry is not an object")]
    NotAnObject,
    /// The entry has none of the keys that tell what kind of server it is.
    #[error("the entry has none of `command`, `url` and `config`")]
    NoTransport,
    /// A key has a value of the wrong type.
    #[error("`{key}` must be {expected}")]
    WrongType {
        /// The key at fault.
        key: &'static str,
        /// What the key must hold, with its article.
        expected: &'static str,
    },
}

impl Server {
    /// Makes a stdio server, as demos and tests need one.
    #[must_use]
    pub fn stdio(
        name: impl Into<String>,
        command: impl Into<String>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let transport = Transport::Stdio {
            command: command.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vars::default(),
            cwd: None,
        };
        Self::new(name, transport)
    }

    /// Makes a remote server.
    #[must_use]
    pub fn remote(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self::new(name, Transport::Remote { url: url.into(), headers: Vars::default() })
    }

    /// Makes a server without profiles.
    #[must_use]
    pub fn new(name: impl Into<String>, transport: Transport) -> Self {
        Self { name: name.into(), profile_tags: Vec::new(), transport, extra: Extra::default() }
    }

    /// Reads the entry stored under `key`.
    ///
    /// # Errors
    /// Returns what is wrong with the entry; other entries of the file are not affected.
    pub fn from_entry(key: &str, entry: &Value) -> Result<Self, EntryError> {
        let mut keys = entry.as_object().cloned().ok_or(EntryError::NotAnObject)?;
        // Python does not force the inner name to equal the key. The key is what users type; a
        // differing inner name stays among the unknown keys.
        if keys.get(NAME).and_then(Value::as_str) == Some(key) {
            keys.shift_remove(NAME);
        }
        let profile_tags = take_strings(&mut keys, TAGS)?;
        let transport = take_transport(&mut keys)?;
        Ok(Self { name: key.to_owned(), profile_tags, transport, extra: Extra(keys) })
    }

    /// Returns the profiles that an entry names, even when the entry cannot be used.
    #[must_use]
    pub fn tags_of(entry: &Value) -> Vec<String> {
        match &entry[TAGS] {
            Value::String(tag) => vec![tag.clone()],
            Value::Array(tags) => {
                tags.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Writes the entry in the shape and key order of the Python `mcpm`, unknown keys last.
    #[must_use]
    pub fn to_entry(&self) -> Value {
        let mut entry = Map::new();
        entry.insert(NAME.to_owned(), self.name.clone().into());
        entry.insert(TAGS.to_owned(), self.profile_tags.clone().into());
        match &self.transport {
            Transport::Stdio { command, args, env, cwd } => {
                entry.insert(COMMAND.to_owned(), command.clone().into());
                entry.insert(ARGS.to_owned(), args.clone().into());
                entry.insert(ENV.to_owned(), env.0.clone().into());
                if let Some(cwd) = cwd {
                    entry.insert(CWD.to_owned(), cwd.to_string_lossy().into());
                }
            }
            Transport::Remote { url, headers } => {
                entry.insert(URL.to_owned(), url.clone().into());
                entry.insert(HEADERS.to_owned(), headers.0.clone().into());
            }
            Transport::Custom { config } => {
                entry.insert(CONFIG.to_owned(), config.clone().into());
            }
        }
        entry.extend(self.extra.0.clone());
        Value::Object(entry)
    }
}

/// Infers the kind in Python's order: `command` wins over `url`, `url` over `config`.
fn take_transport(keys: &mut Map<String, Value>) -> Result<Transport, EntryError> {
    if let Some(command) = take_string(keys, COMMAND)? {
        let args = take_strings(keys, ARGS)?;
        let env = Vars(take_map(keys, ENV)?);
        let cwd = take_string(keys, CWD)?.map(PathBuf::from);
        return Ok(Transport::Stdio { command, args, env, cwd });
    }
    if let Some(url) = take_string(keys, URL)? {
        return Ok(Transport::Remote { url, headers: Vars(take_map(keys, HEADERS)?) });
    }
    if keys.get(CONFIG).is_some_and(|config| !config.is_null()) {
        return Ok(Transport::Custom { config: take_map(keys, CONFIG)? });
    }
    Err(EntryError::NoTransport)
}

fn take_string(
    keys: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Option<String>, EntryError> {
    match keys.shift_remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(EntryError::WrongType { key, expected: "a string" }),
    }
}

fn take_strings(
    keys: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Vec<String>, EntryError> {
    const EXPECTED: &str = "a list of strings";
    match keys.shift_remove(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                _ => Err(EntryError::WrongType { key, expected: EXPECTED }),
            })
            .collect(),
        Some(_) => Err(EntryError::WrongType { key, expected: EXPECTED }),
    }
}

fn take_map(
    keys: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Map<String, Value>, EntryError> {
    match keys.shift_remove(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(EntryError::WrongType { key, expected: "an object" }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_written_by_python_comes_back_byte_for_byte() {
        for entry in [
            json!({"name":"notes","profile_tags":["work"],"command":"uvx","args":["notes-mcp"],"env":{"B":"2","A":"1"}}),
            json!({"name":"crm","profile_tags":[],"url":"https://crm.example/mcp","headers":{"Authorization":"Bearer t"}}),
            json!({"name":"builtin","profile_tags":[],"config":{"type":"builtin"}}),
        ] {
            let name = entry["name"].as_str().unwrap();
            let server = Server::from_entry(name, &entry).unwrap();
            assert_eq!(server.to_entry().to_string(), entry.to_string());
        }
    }

    #[test]
    fn unknown_keys_and_a_differing_inner_name_are_kept() {
        let entry = json!({"name":"inner","command":"x","url":"https://lost.example","timeout":1.50,"enabled":false});
        let server = Server::from_entry("outer", &entry).unwrap();
        assert_eq!(server.name, "outer");
        assert_eq!(server.transport.kind(), "stdio");
        let written = server.to_entry();
        for key in ["name", "url", "timeout", "enabled"] {
            assert_eq!(written[key], entry[key], "{key}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_said_in_words() {
        let error = |entry| Server::from_entry("x", &entry).unwrap_err().to_string();
        assert_eq!(error(json!([])), "the entry is not an object");
        assert_eq!(error(json!({})), "the entry has none of `command`, `url` and `config`");
        assert_eq!(error(json!({"command": 5})), "`command` must be a string");
        assert_eq!(error(json!({"command": "x", "args": "y"})), "`args` must be a list of strings");
        assert_eq!(error(json!({"command": "x", "env": []})), "`env` must be an object");
    }

    #[test]
    fn the_profiles_of_a_faulty_entry_are_known() {
        let tags = |entry| Server::tags_of(&entry);
        assert_eq!(tags(json!({"profile_tags": ["work", 5, "home"]})), ["work", "home"]);
        assert_eq!(tags(json!({"profile_tags": "work"})), ["work"]);
        assert!(tags(json!({})).is_empty());
        assert!(tags(json!([])).is_empty());
        assert!(tags(json!(null)).is_empty());
    }

    #[test]
    fn debug_output_shows_no_value_of_env_or_headers() {
        let entry = json!({"command":"x","env":{"KEY":"s3cret"},"password":"s3cret"});
        let server = Server::from_entry("x", &entry).unwrap();
        assert!(!format!("{server:?}").contains("s3cret"));
        assert!(format!("{server:?}").contains("KEY"));
    }

    #[test]
    fn values_that_are_not_strings_are_handed_out_as_text() {
        let entry = json!({"url":"https://x.example/mcp","headers":{"X-Limit":5,"X-Name":"n"}});
        let server = Server::from_entry("x", &entry).unwrap();
        let Transport::Remote { headers, .. } = &server.transport else { panic!("not remote") };
        let pairs: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(pairs, ["X-Limit=5", "X-Name=n"]);
    }
}
