//! How the entry of a program looks in each client.

use serde_json::{Map, Value, json};

use super::entry::{Launch, Target};

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

impl Shape {
    /// Returns the name and the fields of an entry of ours that is to start something else; none
    /// when it does not start mcpm in a way that we know.
    pub(super) fn retargeted(
        self,
        key: &str,
        entry: &Value,
        target: &Target,
    ) -> Option<(String, Map<String, Value>)> {
        let from = Target::of_entry(key, entry)?;
        let mut fields = entry.as_object()?.clone();
        rename(&mut fields, &from, target)?;
        // A name that the user chose stays.
        let new = if *key == from.key() { target.key() } else { key.to_owned() };
        let bare = Launch { program: String::new(), args: Vec::new(), env: Vec::new() };
        let (before, after) = (self.entry(key, &bare), self.entry(&new, &bare));
        for label in ["name", "key", "description"] {
            if fields.get(label).is_some_and(|value| before.get(label) == Some(value))
                && let Some(after) = after.get(label)
            {
                fields.insert(label.to_owned(), after.clone());
            }
        }
        Some((new, fields))
    }
}

/// Puts another name into the command line of an entry.
fn rename(fields: &mut Map<String, Value>, from: &Target, to: &Target) -> Option<()> {
    let lead: &[&str] = match (from, to) {
        (Target::Server(_), Target::Server(_)) => &["run"],
        (Target::Profile(_), Target::Profile(_)) => &["profile", "run"],
        _ => return None,
    };
    ["args", "command"].into_iter().find_map(|field| {
        // A list that begins with the program is one further.
        let skipped = usize::from(field == "command");
        let words = fields.get_mut(field)?.as_array_mut()?;
        let mut expected = lead.iter().copied().chain([from.name()]).enumerate();
        let fits = expected
            .all(|(at, word)| words.get(skipped + at).and_then(Value::as_str) == Some(word));
        if !fits {
            return None;
        }
        *words.get_mut(skipped + lead.len())? = to.name().into();
        Some(())
    })
}

/// Returns letters and digits only, not beginning with a digit, as 5ire asks for.
fn five_ire_key(name: &str) -> String {
    let key: String = name.chars().filter(|char| char.is_alphanumeric()).collect();
    if key.starts_with(|char: char| char.is_numeric()) { format!("key{key}") } else { key }
}
