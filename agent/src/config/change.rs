//! A change to one entry of `servers.json`: only the keys it names are touched.

use serde_json::Value;

use super::text::Text;
use super::{ConfigError, GlobalConfigManager, unknown_server};
use crate::model::{Server, Transport, Vars};

/// What is to become of a server. Whatever is not named stays as it is.
#[derive(Clone, Debug, Default)]
pub struct ServerChange {
    /// Its new name.
    pub name: Option<String>,
    /// Its new command.
    pub command: Option<String>,
    /// Its new arguments, in place of all it has.
    pub args: Option<Vec<String>>,
    /// Variables to set beside those it has.
    pub env: Vars,
    /// Names of variables to take away.
    pub remove_env: Vec<String>,
    /// Its new URL.
    pub url: Option<String>,
    /// Headers to set beside those it has.
    pub headers: Vars,
    /// Names of headers to take away.
    pub remove_headers: Vec<String>,
}

impl ServerChange {
    /// Tells whether nothing is to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && !self.is_about("stdio") && !self.is_about("remote")
    }

    /// Tells whether the name is all that is to change.
    #[must_use]
    pub fn is_rename(&self) -> bool {
        self.name.is_some() && !self.is_about("stdio") && !self.is_about("remote")
    }

    /// Tells whether it names what only servers of a kind have.
    fn is_about(&self, kind: &str) -> bool {
        let Self { name: _, command, args, env, remove_env, url, headers, remove_headers } = self;
        match kind {
            "stdio" => {
                command.is_some() || args.is_some() || !env.is_empty() || !remove_env.is_empty()
            }
            _ => url.is_some() || !headers.is_empty() || !remove_headers.is_empty(),
        }
    }
}

impl GlobalConfigManager {
    /// Changes one server; tells whether anything changed.
    ///
    /// # Errors
    /// When there is no such server, its new name is taken, it is of a kind that has no such keys,
    /// or the file cannot be written.
    pub fn edit_server(&mut self, name: &str, change: &ServerChange) -> Result<bool, ConfigError> {
        self.document.edit(|text| {
            let before = text.as_str().to_owned();
            let entry = entry(text, name)?;
            let server = Server::from_entry(name, &entry)
                .map_err(|source| ConfigError::InvalidServer { name: name.to_owned(), source })?;
            fits(&server, change)?;
            apply(text, &server, &entry, change);
            if let Some(new) = change.name.as_deref().filter(|new| *new != name) {
                rename(text, name, new, &entry)?;
            }
            Ok(text.as_str() != before)
        })
    }
}

fn entry(text: &Text, name: &str) -> Result<Value, ConfigError> {
    text.get(&[name]).ok_or_else(|| {
        let tags = |name: &String| text.get(&[name]).map(|entry| Server::tags_of(&entry));
        let known = text.entries();
        let known = known.keys().map(|name| (name.as_str(), tags(name).unwrap_or_default()));
        unknown_server(name, known)
    })
}

fn fits(server: &Server, change: &ServerChange) -> Result<(), ConfigError> {
    let kind = server.transport.kind();
    let wrong = ["stdio", "remote"].into_iter().find(|it| *it != kind && change.is_about(it));
    match wrong {
        Some(wrong) => {
            Err(ConfigError::OtherKind { name: server.name.clone(), kind, asked: wrong })
        }
        None => Ok(()),
    }
}

fn apply(text: &mut Text, server: &Server, entry: &Value, change: &ServerChange) {
    let name = server.name.as_str();
    let set = |text: &mut Text, key: &str, value: Value| {
        if entry[key] != value {
            text.set(&[name, key], &value);
        }
    };
    if let Some(command) = &change.command {
        set(text, "command", command.as_str().into());
    }
    if let Some(args) = &change.args {
        set(text, "args", args.clone().into());
    }
    if let Some(url) = &change.url {
        set(text, "url", url.as_str().into());
    }
    match &server.transport {
        Transport::Stdio { env, .. } => {
            let same = |a: &str, b: &str| a == b;
            vars(text, &[name, "env"], env, (&change.env, change.remove_env.as_slice()), same);
        }
        Transport::Remote { headers, .. } => {
            let new = (&change.headers, change.remove_headers.as_slice());
            vars(text, &[name, "headers"], headers, new, str::eq_ignore_ascii_case);
        }
        Transport::Custom { .. } => {}
    }
}

/// Sets and removes single variables, under the names that are there already.
fn vars(
    text: &mut Text,
    path: &[&str; 2],
    old: &Vars,
    (set, remove): (&Vars, &[String]),
    same: impl Fn(&str, &str) -> bool,
) {
    for (key, value) in set.iter() {
        let known = old.iter().find(|(known, _)| same(known, key));
        if known.as_ref().is_some_and(|(_, was)| *was == value) {
            continue;
        }
        let key = known.map_or(key, |(known, _)| known);
        text.set(&[path[0], path[1], key], &value.as_ref().into());
    }
    for key in remove {
        let known = old.iter().find(|(known, _)| same(known, key));
        text.remove(&[path[0], path[1], known.map_or(key.as_str(), |(known, _)| known)]);
    }
}

fn rename(text: &mut Text, old: &str, new: &str, entry: &Value) -> Result<(), ConfigError> {
    if text.get(&[new]).is_some() {
        return Err(ConfigError::Exists { what: "server", name: new.to_owned() });
    }
    // An inner name that differed before means something that we do not know.
    if entry["name"] == old {
        text.set(&[old, "name"], &new.into());
    }
    text.rename(&[old], new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Paths;

    const BEFORE: &str = r#"{
  "a": {
    "timeout": 1.50,
    "command": "x", "args": ["1", "2"],
    "name": "a",
    "profile_tags": ["work"],
    "env": {"K": "1", "L": 2}
  },
  "far": {"url": "https://x.example", "headers": {"authorization": "old"}}
}"#;

    fn edited(name: &str, change: &ServerChange) -> (Result<bool, ConfigError>, String) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), BEFORE).unwrap();
        let outcome = GlobalConfigManager::open(&paths).unwrap().edit_server(name, change);
        (outcome, std::fs::read_to_string(paths.servers()).unwrap())
    }

    #[test]
    fn an_edit_touches_only_the_keys_it_names() {
        let change = ServerChange {
            name: Some("b".to_owned()),
            args: Some(vec!["3".to_owned()]),
            env: Vars::default().with("M", "${M}"),
            remove_env: vec!["K".to_owned()],
            ..ServerChange::default()
        };
        let (outcome, after) = edited("a", &change);
        assert!(outcome.unwrap());
        let expected = BEFORE
            .replace("\"a\"", "\"b\"")
            .replace(r#"["1", "2"]"#, r#"["3"]"#)
            .replace(r#"{"K": "1", "L": 2}"#, r#"{"L": 2, "M": "${M}"}"#);
        assert_eq!(after, expected);
    }

    #[test]
    fn a_header_is_known_in_any_case() {
        let headers = Vars::default().with("Authorization", "new");
        let change = ServerChange { headers, ..ServerChange::default() };
        let (outcome, after) = edited("far", &change);
        assert!(outcome.unwrap());
        assert_eq!(after, BEFORE.replace("old", "new"));
    }

    #[test]
    fn an_edit_that_changes_nothing_writes_nothing() {
        let change = ServerChange { command: Some("x".to_owned()), ..ServerChange::default() };
        let (outcome, after) = edited("a", &change);
        assert!(!outcome.unwrap());
        assert_eq!(after, BEFORE);
        assert!(ServerChange::default().is_empty() && !change.is_empty());
    }

    /// Defect 21 of the Python `mcpm`: the edited server was deleted.
    #[test]
    fn renaming_onto_an_existing_name_is_refused_and_deletes_nothing() {
        let change = ServerChange { name: Some("far".to_owned()), ..ServerChange::default() };
        let (outcome, after) = edited("a", &change);
        assert!(matches!(outcome, Err(ConfigError::Exists { .. })));
        assert_eq!(after, BEFORE);
    }

    #[test]
    fn keys_of_the_other_kind_are_refused() {
        let url = ServerChange { url: Some("https://y".to_owned()), ..ServerChange::default() };
        let (outcome, after) = edited("a", &url);
        assert_eq!(outcome.unwrap_err().to_string(), "server `a` is stdio, not remote");
        let args = ServerChange { args: Some(Vec::new()), ..ServerChange::default() };
        assert!(edited("far", &args).0.is_err());
        assert_eq!(after, BEFORE);
    }
}
