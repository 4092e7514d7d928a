//! How the entry of a program looks in each client.

use serde_json::{Map, Value, json};

use super::entry::Launch;

/// The look of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `command`, `args` and `env`.
    Plain,
    /// The same with `type: stdio`.
    Typed,
    /// The same with its `name`, as an item of a list.
    Named,
    /// Goose: `cmd`, `envs` and a description.
    Goose,
    /// 5ire: an own `key`, and active.
    FiveIre,
    /// `OpenCode`: one list of program and arguments.
    OpenCode,
    /// Zed: a server that no extension brought.
    Zed,
}

impl Shape {
    /// Writes the entry of this name.
    pub(super) fn entry(self, key: &str, launch: &Launch) -> Map<String, Value> {
        let Launch { program, args, env } = launch;
        let env: Value = env.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let plain = json!({ "command": program, "args": args });
        let (entry, env_key) = match self {
            Self::Plain => (plain, "env"),
            Self::Typed => (json!({ "type": "stdio", "command": program, "args": args }), "env"),
            Self::Named => (json!({ "name": key, "command": program, "args": args }), "env"),
            Self::Goose => (
                json!({
                    "cmd": program, "args": args, "type": "stdio",
                    "name": key, "enabled": true, "description": key,
                }),
                "envs",
            ),
            Self::FiveIre => (
                json!({
                    "type": "local", "command": program, "args": args,
                    "key": five_ire_key(key), "isActive": true,
                }),
                "env",
            ),
            Self::OpenCode => {
                let words: Vec<&String> = std::iter::once(program).chain(args).collect();
                (json!({ "type": "local", "command": words }), "environment")
            }
            Self::Zed => (json!({ "source": "custom", "command": program, "args": args }), "env"),
        };
        let mut entry = match entry {
            Value::Object(entry) => entry,
            _ => Map::new(),
        };
        if env.as_object().is_some_and(|env| !env.is_empty()) {
            entry.insert(env_key.to_owned(), env);
        }
        entry
    }
}

/// Returns letters and digits only, not beginning with a digit, as 5ire asks for.
fn five_ire_key(name: &str) -> String {
    let key: String = name.chars().filter(|char| char.is_alphanumeric()).collect();
    if key.starts_with(|char: char| char.is_numeric()) { format!("key{key}") } else { key }
}
