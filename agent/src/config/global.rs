//! All servers of the user: `servers.json`.

use super::document::Document;
use super::{ConfigError, unknown_server};
use crate::fs::Paths;
use crate::model::{EntryError, Server};

/// Reads and edits the servers of the user.
#[derive(Debug)]
pub struct GlobalConfigManager {
    pub(super) document: Document,
}

/// One entry of the list: the server, or what is wrong with its entry.
#[derive(Debug)]
pub struct Listed {
    /// The key of the entry.
    pub name: String,
    /// The server, when its entry is valid.
    pub server: Result<Server, EntryError>,
}

impl GlobalConfigManager {
    /// Reads the file; a missing one has no servers.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn open(paths: &Paths) -> Result<Self, ConfigError> {
        Ok(Self { document: Document::open(paths.servers())? })
    }

    /// Returns all entries in file order, faulty ones too.
    #[must_use]
    pub fn list_servers(&self) -> Vec<Listed> {
        let list = |(name, entry): (&str, _)| Listed {
            name: name.to_owned(),
            server: Server::from_entry(name, &entry),
        };
        self.document.iter().map(list).collect()
    }

    /// Iterates over the names of all entries and their profiles, in file order, faulty ones too.
    pub(super) fn tags(&self) -> impl Iterator<Item = (&str, Vec<String>)> {
        self.document.iter().map(|(name, entry)| (name, Server::tags_of(&entry)))
    }

    /// Returns one server.
    ///
    /// # Errors
    /// When there is none of this name, or its entry is not valid.
    pub fn server(&self, name: &str) -> Result<Server, ConfigError> {
        let unknown = || unknown_server(name, self.tags());
        let entry = self.document.get(name).ok_or_else(unknown)?;
        Server::from_entry(name, &entry)
            .map_err(|source| ConfigError::InvalidServer { name: name.to_owned(), source })
    }

    /// Tells whether there is an entry of this name, faulty or not.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.document.get(name).is_some()
    }

    /// Returns the profiles of a server, of a faulty entry too; none when it is unknown.
    #[must_use]
    pub fn profiles_of(&self, name: &str) -> Vec<String> {
        self.document.get(name).map(|entry| Server::tags_of(&entry)).unwrap_or_default()
    }

    /// Adds a server, or replaces the one of the same name when `replace` says so.
    ///
    /// # Errors
    /// When the name is taken or the file cannot be written.
    pub fn add_server(&mut self, server: &Server, replace: bool) -> Result<(), ConfigError> {
        self.document.edit(|text| {
            let name = server.name.as_str();
            if !replace && text.get(&[name]).is_some() {
                return Err(ConfigError::Exists { what: "server", name: name.to_owned() });
            }
            text.set(&[name], &server.to_entry());
            Ok(())
        })
    }

    /// Changes the profiles of all servers at once: `change` gets the name of a server, faulty
    /// entries too, and its profiles, and tells whether it changed them.
    pub(super) fn retag(
        &mut self,
        mut change: impl FnMut(&str, &mut Vec<String>) -> bool,
    ) -> Result<(), ConfigError> {
        let mut planned: Vec<(String, Vec<String>)> = Vec::new();
        self.document.edit(|text| {
            for name in text.entries().keys() {
                let Some(entry) = text.get(&[name]).filter(serde_json::Value::is_object) else {
                    continue;
                };
                let mut tags = Server::tags_of(&entry);
                if change(name, &mut tags) {
                    planned.push((name.clone(), tags));
                }
            }
            for (name, tags) in planned {
                text.set(&[&name, "profile_tags"], &tags.into());
            }
            Ok(())
        })
    }

    /// Removes a server.
    ///
    /// # Errors
    /// When there is none of this name or the file cannot be written.
    pub fn remove_server(&mut self, name: &str) -> Result<(), ConfigError> {
        if self.document.get(name).is_none() {
            return self.server(name).map(|_| ());
        }
        Ok(self.document.set(name, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerChange;
    use crate::hint::Hint as _;

    fn manager(text: &str) -> (tempfile::TempDir, Paths, GlobalConfigManager) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), text).unwrap();
        let manager = GlobalConfigManager::open(&paths).unwrap();
        (dir, paths, manager)
    }

    #[test]
    fn a_faulty_entry_does_not_hide_the_others() {
        let (_dir, _, manager) = manager(r#"{"bad":{"env":1},"good":{"command":"x"}}"#);
        let listed = manager.list_servers();
        assert!(listed[0].server.is_err());
        assert_eq!(listed[1].server.as_ref().unwrap().name, "good");
        assert!(matches!(manager.server("bad"), Err(ConfigError::InvalidServer { .. })));
    }

    #[test]
    fn an_unknown_server_suggests_the_nearest_name() {
        let (_dir, _, manager) = manager(r#"{"github":{"command":"x"},"time":{"command":"x"}}"#);
        let error = manager.server("githb").unwrap_err();
        assert_eq!(error.to_string(), "no server named `githb`");
        assert_eq!(error.hint().unwrap(), "Did you mean `github`? List servers with `mcpm ls`");
        assert_eq!(
            manager.server("zzz").unwrap_err().hint().unwrap(),
            "List servers with `mcpm ls`"
        );
    }

    #[test]
    fn an_unknown_server_that_is_a_profile_or_the_first_one_is_met_with_what_helps() {
        let (_dir, _, mut manager) = manager(r#"{"soll":{"command":"x","profile_tags":["solo"]}}"#);
        let hint = |error: ConfigError| error.hint().unwrap();
        assert!(hint(manager.server("solo").unwrap_err()).contains("`mcpm profile share solo`"));
        let change = ServerChange::default();
        let edited = manager.edit_server("solo", &change).unwrap_err();
        assert!(hint(edited).contains("`edit`"));
        manager.remove_server("soll").unwrap();
        let empty = hint(manager.server("solo").unwrap_err());
        assert!(empty.contains("`mcpm install`") && empty.contains("`mcpm new`"), "{empty}");
    }

    #[test]
    fn servers_are_added_and_removed_on_disk() {
        let (_dir, paths, mut manager) = manager("{}");
        let server = Server::stdio("time", "uvx", ["mcp-server-time"]);
        manager.add_server(&server, false).unwrap();
        assert!(matches!(manager.add_server(&server, false), Err(ConfigError::Exists { .. })));
        manager.add_server(&server, true).unwrap();
        assert_eq!(GlobalConfigManager::open(&paths).unwrap().server("time").unwrap(), server);
        manager.remove_server("time").unwrap();
        assert!(matches!(manager.remove_server("time"), Err(ConfigError::UnknownServer { .. })));
    }
}
