//! Profiles: tags on servers, and `profiles_metadata.json` for what is said about them.

use serde_json::{Value, json};

use super::document::Document;
use super::{ConfigError, GlobalConfigManager, nearest};
use crate::fs::Paths;

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
        let mut server = self.global.server(server)?;
        if server.profile_tags.iter().any(|tag| tag == profile) {
            return Ok(());
        }
        server.profile_tags.push(profile.to_owned());
        self.global.add_server(&server, true)
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
        let mut server = self.global.server(server)?;
        let before = server.profile_tags.len();
        server.profile_tags.retain(|tag| tag != profile);
        if server.profile_tags.len() == before {
            return Ok(());
        }
        self.global.add_server(&server, true)
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
}
