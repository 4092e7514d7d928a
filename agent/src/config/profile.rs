//! Profiles: tags on servers, and `profiles_metadata.json` for what is said about them.

use serde_json::{Value, json};

use super::document::Document;
use super::{ConfigError, GlobalConfigManager, nearest};
use crate::fs::Paths;

/// Stands in the entry of a profile while it gets its name, and says the one it had.
const RENAMED_FROM: &str = "renamed_from";

/// One profile: a named group of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What the user says about it.
    pub description: Option<String>,
    /// The names of its servers, in the order of `servers.json`, faulty entries too.
    pub servers: Vec<String>,
}

/// Reads and edits profiles.
#[derive(Debug)]
pub struct ProfileConfigManager {
    global: GlobalConfigManager,
    metadata: Document,
}

impl ProfileConfigManager {
    /// Reads both files.
    ///
    /// # Errors
    /// When one of them cannot be read or parsed.
    pub fn open(paths: &Paths) -> Result<Self, ConfigError> {
        let metadata = Document::open(paths.profiles_metadata())?;
        Ok(Self { global: GlobalConfigManager::open(paths)?, metadata })
    }

    /// Returns all profiles: those with metadata first, then those that only exist as tags.
    #[must_use]
    pub fn list_profiles(&self) -> Vec<Profile> {
        let mut profiles: Vec<Profile> = self
            .metadata
            .iter()
            .map(|(name, entry)| Profile {
                name: name.to_owned(),
                description: entry["description"].as_str().map(str::to_owned),
                servers: Vec::new(),
            })
            .collect();
        for (server, tags) in self.global.tags() {
            for tag in tags {
                match profiles.iter_mut().find(|profile| profile.name == tag) {
                    Some(profile) => profile.servers.push(server.to_owned()),
                    None => profiles.push(Profile {
                        name: tag,
                        description: None,
                        servers: vec![server.to_owned()],
                    }),
                }
            }
        }
        profiles
    }

    /// Returns one profile.
    ///
    /// # Errors
    /// When neither metadata nor a tag has this name.
    pub fn profile(&self, name: &str) -> Result<Profile, ConfigError> {
        let mut profiles = self.list_profiles();
        match profiles.iter().position(|profile| profile.name == name) {
            Some(index) => Ok(profiles.swap_remove(index)),
            None => Err(ConfigError::UnknownProfile {
                name: name.to_owned(),
                near: nearest(name, profiles.iter().map(|profile| profile.name.as_str())),
            }),
        }
    }

    /// Creates an empty profile.
    ///
    /// # Errors
    /// When it exists or the file cannot be written.
    pub fn create_profile(
        &mut self,
        name: &str,
        description: Option<&str>,
    ) -> Result<(), ConfigError> {
        if self.profile(name).is_ok() {
            return Err(ConfigError::Exists { what: "profile", name: name.to_owned() });
        }
        let entry = json!({ "name": name, "api_key": Value::Null, "description": description });
        Ok(self.metadata.set(name, Some(&entry))?)
    }

    /// Tags a server with a profile; does nothing when it has the tag.
    ///
    /// # Errors
    /// When the server is unknown or the file cannot be written.
    pub fn add_server_to_profile(
        &mut self,
        profile: &str,
        server: &str,
    ) -> Result<(), ConfigError> {
        self.change_servers(profile, &ServersChange::Add(vec![server.to_owned()]))
    }

    /// Takes the tag of a profile from a server; does nothing when it has none.
    ///
    /// # Errors
    /// When the server is unknown or the file cannot be written.
    pub fn remove_server_from_profile(
        &mut self,
        profile: &str,
        server: &str,
    ) -> Result<(), ConfigError> {
        self.change_servers(profile, &ServersChange::Remove(vec![server.to_owned()]))
    }

    /// Changes which servers have the tag of a profile, all at once or not at all. Faulty entries
    /// may be named too.
    ///
    /// # Errors
    /// When a server is unknown or the file cannot be written.
    pub fn change_servers(
        &mut self,
        profile: &str,
        change: &ServersChange,
    ) -> Result<(), ConfigError> {
        for name in change.names() {
            if !self.global.document.names().any(|known| known == name) {
                return self.global.server(name).map(|_| ());
            }
        }
        self.global.retag(|server, tags| {
            let has = tags.iter().any(|tag| tag == profile);
            let wanted = change.wants(server, has);
            match (has, wanted) {
                (false, true) => tags.push(profile.to_owned()),
                (true, false) => tags.retain(|tag| tag != profile),
                _ => {}
            }
            has != wanted
        })
    }

    /// Gives a profile another name. What is said about it goes along.
    ///
    /// Two files say what a profile is. What is said about it is copied first, then the servers
    /// change sides all at once, then the old entry goes: whoever looks after an interruption finds
    /// the whole profile under one of the two names, and the same call goes on from there.
    ///
    /// # Errors
    /// When there is no such profile, the new name is taken, or a file cannot be written.
    pub fn rename_profile(&mut self, old: &str, new: &str) -> Result<(), ConfigError> {
        self.profile(old)?;
        if old == new {
            return Ok(());
        }
        let is_resumed = self.is_half_renamed(old, new);
        if !is_resumed {
            if self.profile(new).is_ok() {
                return Err(ConfigError::Exists { what: "profile", name: new.to_owned() });
            }
            self.announce(old, new)?;
        }
        if let Err(error) = self.move_tags(old, new) {
            // Nothing has moved, so nobody should see the copy; of an earlier call that is not known.
            if !is_resumed && self.metadata.get(new).is_some() {
                self.metadata.set(new, None)?;
            }
            return Err(error);
        }
        self.retire(old, new)
    }

    /// Tells whether a profile was about to get this name when something interrupted it.
    fn is_half_renamed(&self, old: &str, new: &str) -> bool {
        self.metadata.get(new).is_some_and(|entry| entry[RENAMED_FROM] == old)
    }

    /// Copies what is said about a profile; no file tells anything of one that is only a tag.
    fn announce(&mut self, old: &str, new: &str) -> Result<(), ConfigError> {
        self.metadata.edit(|text| {
            if text.get(&[old]).is_some_and(|entry| entry.is_object()) {
                text.copy(old, new);
                if text.get(&[new, "name"]).is_some_and(|name| name == old) {
                    text.set(&[new, "name"], &new.into());
                }
                text.set(&[new, RENAMED_FROM], &old.into());
            }
            Ok(())
        })
    }

    fn move_tags(&mut self, old: &str, new: &str) -> Result<(), ConfigError> {
        self.global.retag(|_, tags| {
            let mut renamed = false;
            for tag in tags.iter_mut().filter(|tag| *tag == old) {
                new.clone_into(tag);
                renamed = true;
            }
            renamed
        })
    }

    fn retire(&mut self, old: &str, new: &str) -> Result<(), ConfigError> {
        self.metadata.edit(|text| {
            text.remove(&[old]);
            text.remove(&[new, RENAMED_FROM]);
            Ok(())
        })
    }

    /// Forgets a profile; its servers stay.
    ///
    /// # Errors
    /// When there is no such profile or a file cannot be written.
    pub fn remove_profile(&mut self, name: &str) -> Result<(), ConfigError> {
        self.profile(name)?;
        self.global.retag(|_, tags| {
            let before = tags.len();
            tags.retain(|tag| tag != name);
            tags.len() != before
        })?;
        if self.metadata.get(name).is_some() {
            self.metadata.set(name, None)?;
        }
        Ok(())
    }
}

/// What becomes of the servers of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServersChange {
    /// These come beside those that are in it.
    Add(Vec<String>),
    /// These go.
    Remove(Vec<String>),
    /// Exactly these are in it.
    Set(Vec<String>),
}

impl ServersChange {
    fn names(&self) -> &[String] {
        match self {
            Self::Add(names) | Self::Remove(names) | Self::Set(names) => names,
        }
    }

    fn wants(&self, server: &str, has: bool) -> bool {
        let named = self.names().iter().any(|name| name == server);
        match self {
            Self::Add(_) => has || named,
            Self::Remove(_) => has && !named,
            Self::Set(_) => named,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Server;

    #[test]
    fn a_profile_exists_by_metadata_or_by_tag_and_keeps_the_file_order() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(
            paths.servers(),
            r#"{"b":{"command":"x","profile_tags":["work","home"]},"a":{"command":"x","profile_tags":["work"]}}"#,
        )
        .unwrap();
        std::fs::write(paths.profiles_metadata(), r#"{"empty":{"description":"none yet"}}"#)
            .unwrap();
        let profiles = ProfileConfigManager::open(&paths).unwrap();
        assert_eq!(profiles.profile("work").unwrap().servers, ["b", "a"]);
        assert_eq!(profiles.profile("home").unwrap().servers, ["b"]);
        assert_eq!(profiles.profile("empty").unwrap().description.unwrap(), "none yet");
        assert!(matches!(profiles.profile("wrk"), Err(ConfigError::UnknownProfile { .. })));
    }

    #[test]
    fn a_faulty_entry_stays_in_its_profile() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let servers =
            r#"{"good":{"command":"x","profile_tags":["w"]},"bad":{"profile_tags":["w","q"]}}"#;
        std::fs::write(paths.servers(), servers).unwrap();
        let profiles = ProfileConfigManager::open(&paths).unwrap();
        assert_eq!(profiles.profile("w").unwrap().servers, ["good", "bad"]);
        assert_eq!(profiles.profile("q").unwrap().servers, ["bad"]);
    }

    #[test]
    fn tags_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut global = GlobalConfigManager::open(&paths).unwrap();
        global.add_server(&Server::stdio("a", "x", ["y"]), false).unwrap();
        let mut profiles = ProfileConfigManager::open(&paths).unwrap();
        profiles.create_profile("work", None).unwrap();
        profiles.add_server_to_profile("work", "a").unwrap();
        profiles.add_server_to_profile("work", "a").unwrap();
        assert_eq!(profiles.profile("work").unwrap().servers, ["a"]);
        profiles.remove_server_from_profile("work", "a").unwrap();
        assert!(profiles.profile("work").unwrap().servers.is_empty());
    }

    const SERVERS: &str = r#"{"a": {"command": "x", "profile_tags": ["w"]}, "bad": {"profile_tags": "w"}, "c": {"command": "y"}}"#;
    const METADATA: &str =
        r#"{"w": {"name": "w", "api_key": "k", "description": "d", "more": 1.50}}"#;

    fn home() -> (tempfile::TempDir, Paths, ProfileConfigManager) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), SERVERS).unwrap();
        std::fs::write(paths.profiles_metadata(), METADATA).unwrap();
        let profiles = ProfileConfigManager::open(&paths).unwrap();
        (dir, paths, profiles)
    }

    #[test]
    fn renaming_a_profile_keeps_what_is_said_about_it_and_all_its_servers() {
        let (_dir, paths, mut profiles) = home();
        profiles.rename_profile("w", "work").unwrap();
        let metadata = std::fs::read_to_string(paths.profiles_metadata()).unwrap();
        assert_eq!(metadata, METADATA.replace("\"w\"", "\"work\""));
        assert_eq!(profiles.profile("work").unwrap().servers, ["a", "bad"]);
        assert!(profiles.profile("w").is_err());
        assert!(profiles.rename_profile("w", "v").is_err());
        profiles.create_profile("v", None).unwrap();
        assert!(matches!(profiles.rename_profile("v", "work"), Err(ConfigError::Exists { .. })));
    }

    /// The state of both files after each step of a rename, as an interruption leaves it.
    #[test]
    fn a_rename_that_was_interrupted_loses_nothing_and_goes_on_when_it_is_said_again() {
        type Step = fn(&mut ProfileConfigManager) -> Result<(), ConfigError>;
        let steps: [Step; 3] = [
            |profiles| profiles.announce("w", "work"),
            |profiles| profiles.move_tags("w", "work"),
            |profiles| profiles.retire("w", "work"),
        ];
        for done in 0..=steps.len() {
            let (_dir, paths, mut profiles) = home();
            for step in &steps[..done] {
                step(&mut profiles).unwrap();
            }
            let mut found = ProfileConfigManager::open(&paths).unwrap();
            let whole = |name: &str| {
                found.profile(name).is_ok_and(|profile| {
                    profile.servers == ["a", "bad"] && profile.description.as_deref() == Some("d")
                })
            };
            assert!(whole("w") != whole("work"), "after {done} steps: {found:?}");
            if done < steps.len() {
                found.rename_profile("w", "work").unwrap();
            }
            assert_eq!(found.list_profiles().len(), 1, "after {done} steps");
            let metadata = std::fs::read_to_string(paths.profiles_metadata()).unwrap();
            assert_eq!(metadata, METADATA.replace("\"w\"", "\"work\""), "after {done} steps");
            let servers = std::fs::read_to_string(paths.servers()).unwrap();
            assert!(!servers.contains("\"w\"]"), "after {done} steps: {servers}");
        }
    }

    #[test]
    fn a_rename_that_fails_leaves_both_files_as_they_were() {
        let (_dir, paths, mut profiles) = home();
        std::fs::write(paths.servers(), "{,").unwrap();
        assert!(profiles.rename_profile("w", "work").is_err());
        let metadata = std::fs::read_to_string(paths.profiles_metadata()).unwrap();
        assert_eq!(metadata, METADATA);
    }

    #[test]
    fn a_rename_that_fails_when_it_goes_on_loses_nothing_and_goes_on_later() {
        let (_dir, paths, mut profiles) = home();
        profiles.announce("w", "work").unwrap();
        profiles.move_tags("w", "work").unwrap();
        let moved = std::fs::read_to_string(paths.servers()).unwrap();
        std::fs::write(paths.servers(), "{,").unwrap();
        assert!(profiles.rename_profile("w", "work").is_err());
        std::fs::write(paths.servers(), moved).unwrap();
        ProfileConfigManager::open(&paths).unwrap().rename_profile("w", "work").unwrap();
        let metadata = std::fs::read_to_string(paths.profiles_metadata()).unwrap();
        assert_eq!(metadata, METADATA.replace("\"w\"", "\"work\""));
    }

    #[test]
    fn the_servers_of_a_profile_change_all_at_once_or_not_at_all() {
        let (_dir, paths, mut profiles) = home();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let unknown = ServersChange::Add(names(&["c", "none"]));
        assert!(profiles.change_servers("w", &unknown).is_err());
        assert_eq!(std::fs::read_to_string(paths.servers()).unwrap(), SERVERS);
        profiles.change_servers("w", &ServersChange::Set(names(&["c", "bad"]))).unwrap();
        assert_eq!(profiles.profile("w").unwrap().servers, ["bad", "c"]);
        profiles.change_servers("w", &ServersChange::Remove(names(&["bad"]))).unwrap();
        assert_eq!(profiles.profile("w").unwrap().servers, ["c"]);
    }

    #[test]
    fn removing_a_profile_leaves_its_servers() {
        let (_dir, paths, mut profiles) = home();
        profiles.remove_profile("w").unwrap();
        assert!(profiles.list_profiles().is_empty());
        assert_eq!(GlobalConfigManager::open(&paths).unwrap().list_servers().len(), 3);
        assert!(matches!(profiles.remove_profile("w"), Err(ConfigError::UnknownProfile { .. })));
    }
}
