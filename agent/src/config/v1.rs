//! The files of mcpm 1, and what becomes of them: profiles were lists of servers, not tags.
//!
//! Nothing is lost: every file is kept below `backups`, servers stay what they are, and doing it
//! twice changes nothing more, so that it may be interrupted.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::document::Document;
use super::text::Text;
use super::{ConfigError, DEFAULT_PROFILE, Settings, check_name};
use crate::fs::{self, FsError, Paths};

/// Keys of `config.json` that only mcpm 1 read.
const KEYS: [&str; 5] = ["active_target", "active_client", "stashed_servers", "router", "share"];
const STASHED: &str = "stashed_servers";
const TAGS: &str = "profile_tags";

/// What mcpm 1 left behind.
#[derive(Debug)]
pub struct V1 {
    profiles: IndexMap<String, Vec<Value>>,
    stashed: Vec<(String, String, Value)>,
    /// The profile that `mcpm router share` shall share where none is named.
    default: Option<String>,
    notes: Vec<String>,
}

/// What commands of mcpm 1 worked on when they named nothing.
#[derive(Debug)]
enum Active {
    Client(String),
    Profile(String),
}

impl Active {
    /// Says what became of it; `default` is the profile of that setting.
    fn note(&self, default: Option<&str>) -> String {
        match self {
            Self::Client(id) => format!(
                "`@{id}` was the active target; commands name it now, as in `mcpm client edit {id}`"
            ),
            Self::Profile(name) if default == Some(name) => format!(
                "`%{name}` was the active target; `mcpm router share` shares it where no profile is named, and other commands name it, as in `mcpm profile run {name}`"
            ),
            Self::Profile(name) => format!(
                "`%{name}` was the active target; commands name it now, as in `mcpm profile run {name}`"
            ),
        }
    }
}

/// One server that was found, and what it is called now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its name in mcpm 1.
    pub was: String,
    /// Its name now: another one where two servers had the same.
    pub name: String,
    /// The profile it was found in; none for a stashed one.
    pub profile: Option<String>,
}

/// What a migration did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Migrated {
    /// The servers, profile by profile.
    pub servers: Vec<Moved>,
    /// The profiles, empty ones too.
    pub profiles: Vec<String>,
    /// Stashed servers that were not brought back, as `scope/name`.
    pub stashed: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl V1 {
    /// Reads what mcpm 1 left in the folder, if anything.
    ///
    /// # Errors
    /// When a file cannot be read or parsed.
    pub fn find(paths: &Paths) -> Result<Option<Self>, ConfigError> {
        let settings = Settings::open(paths)?;
        let is_set = |key: &&str| settings.raw(key).is_some_and(|value| is_truthy(&value));
        let path = paths.v1_profiles();
        if !KEYS.iter().any(is_set) && !path.exists() {
            return Ok(None);
        }
        let (mut profiles, mut notes) = (IndexMap::new(), notes(&settings));
        let active = active(&settings);
        for (name, servers) in Document::open(path)?.iter() {
            match servers {
                Value::Array(servers) => drop(profiles.insert(name.to_owned(), servers)),
                _ => notes.push(format!(
                    "profile `{name}` is no list of servers; it stays in the backup"
                )),
            }
        }
        let default = match (settings.get(DEFAULT_PROFILE)?, &active) {
            (None, Some(Active::Profile(name))) => Some(name.clone()),
            (set, _) => set,
        };
        let default = default
            .filter(|name| profiles.contains_key(name) && check_name("profile", name).is_ok());
        if let Some(active) = &active {
            notes.push(active.note(default.as_deref()));
        }
        Ok(Some(Self { profiles, stashed: stashed(&settings), default, notes }))
    }

    /// Moves everything; the files of mcpm 1 end up in `backup`. Stashed servers come back without a
    /// profile when `restore` says so, and are kept beside the backup otherwise.
    ///
    /// # Errors
    /// When a file cannot be read or written. What was done until then is not undone; the next run
    /// goes on.
    pub fn migrate(
        self,
        paths: &Paths,
        backup: &Path,
        restore: bool,
    ) -> Result<Migrated, ConfigError> {
        keep(paths, backup)?;
        let servers = |text: &mut Text| Ok::<_, ConfigError>(self.place(text, restore));
        let mut done = Document::open(paths.servers())?.edit(servers)?;
        Document::open(paths.profiles_metadata())?.edit(|text| {
            for name in self.profiles.keys() {
                if text.get(&[name]).is_none() {
                    let entry = json!({ "name": name, "api_key": null, "description": null });
                    text.set(&[name], &entry);
                }
            }
            Ok::<_, ConfigError>(())
        })?;
        if !restore && !self.stashed.is_empty() {
            fs::write_json(&stash_file(paths), &self.stash())?;
            done.notes.push(format!(
                "stashed servers are in {}; bring one back with `mcpm new`",
                stash_file(paths).display()
            ));
        }
        let mut settings = Settings::open(paths)?;
        if let Some(name) = &self.default
            && settings.get(DEFAULT_PROFILE)?.is_none()
        {
            settings.set(DEFAULT_PROFILE, name)?;
        }
        settings.drop_keys(&KEYS)?;
        remove(&paths.v1_profiles())?;
        Ok(done)
    }

    /// Tells what a migration would do, and writes nothing.
    ///
    /// # Errors
    /// When `servers.json` cannot be read.
    pub fn plan(&self, paths: &Paths, restore: bool) -> Result<Migrated, ConfigError> {
        let text = fs::read(&paths.servers())?.unwrap_or_default();
        let corrupt = |source| FsError::Corrupt { path: paths.servers(), source };
        let mut text = Text::parse(text).map_err(corrupt)?;
        Ok(self.place(&mut text, restore))
    }

    /// Puts all servers where they belong.
    fn place(&self, text: &mut Text, restore: bool) -> Migrated {
        let profiles = self.profiles.keys().cloned().collect();
        let mut done = Migrated { profiles, notes: self.notes.clone(), ..Migrated::default() };
        for (profile, servers) in &self.profiles {
            for entry in servers {
                let Some(was) = entry["name"].as_str().filter(|name| !name.is_empty()) else {
                    done.notes.push(format!(
                        "a server of profile `{profile}` has no name; it stays in the backup"
                    ));
                    continue;
                };
                let name = settle(text, was, entry, profile);
                tag(text, &name, profile);
                let (was, profile) = (was.to_owned(), Some(profile.clone()));
                done.servers.push(Moved { was, name, profile });
            }
        }
        for (scope, was, entry) in &self.stashed {
            if !restore {
                done.stashed.push(format!("{scope}/{was}"));
                continue;
            }
            let name = settle(text, was, entry, "stashed");
            done.servers.push(Moved { was: was.clone(), name, profile: None });
        }
        done
    }

    fn stash(&self) -> Value {
        let mut stash = Map::new();
        for (scope, name, entry) in &self.stashed {
            let servers = stash.entry(scope.clone()).or_insert_with(|| Value::Object(Map::new()));
            servers[name] = entry.clone();
        }
        stash.into()
    }
}

/// Returns where stashed servers are kept that nobody brought back.
fn stash_file(paths: &Paths) -> PathBuf {
    paths.backups().join("stashed_servers_v1_backup.json")
}

/// Adds a server under its own name, or, where another server has that, under one that says where
/// it comes from. Returns the name; a server that is there already keeps the one it has.
fn settle(text: &mut Text, was: &str, entry: &Value, from: &str) -> String {
    let names = std::iter::once(was.to_owned())
        .chain(std::iter::once(format!("{was}-{from}")))
        .chain((2..).map(|count| format!("{was}-{from}-{count}")));
    for name in names {
        match text.get(&[&name]) {
            Some(known) if body(&known) == body(entry) => return name,
            Some(_) => {}
            None => {
                let mut keys = Map::new();
                keys.insert("name".to_owned(), name.as_str().into());
                keys.insert(TAGS.to_owned(), json!([]));
                let rest = entry.as_object().into_iter().flatten();
                let rest = rest.filter(|(key, _)| !["name", TAGS].contains(&key.as_str()));
                keys.extend(rest.map(|(key, value)| (key.clone(), value.clone())));
                text.set(&[&name], &keys.into());
                return name;
            }
        }
    }
    was.to_owned()
}

/// Returns what makes two entries the same server, whichever way nothing is written.
fn body(entry: &Value) -> Map<String, Value> {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        _ => false,
    };
    let keys = entry.as_object().into_iter().flatten();
    let keys =
        keys.filter(|(key, value)| !["name", TAGS].contains(&key.as_str()) && !is_nothing(value));
    keys.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn tag(text: &mut Text, name: &str, profile: &str) {
    let entry = text.get(&[name]).unwrap_or_default();
    let mut tags = crate::model::Server::tags_of(&entry);
    if !tags.iter().any(|tag| tag == profile) {
        tags.push(profile.to_owned());
        text.set(&[name, TAGS], &tags.into());
    }
}

/// Copies the files as they are.
fn keep(paths: &Paths, backup: &Path) -> Result<(), FsError> {
    for path in [paths.settings(), paths.v1_profiles()] {
        let read = |path: &Path| match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        };
        let bytes = read(&path).map_err(|source| FsError::Read { path: path.clone(), source })?;
        if let (Some(bytes), Some(name)) = (bytes, path.file_name()) {
            fs::write_private(&backup.join(name), &bytes)?;
        }
    }
    let about = "Files of mcpm 1, as they were before `mcpm migrate`. To go back, copy them one folder up twice.\n";
    fs::write_private(&backup.join("README.md"), about.as_bytes())
}

fn remove(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(FsError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn stashed(settings: &Settings) -> Vec<(String, String, Value)> {
    let Some(Value::Object(scopes)) = settings.raw(STASHED) else { return Vec::new() };
    let servers = scopes.into_iter().flat_map(|(scope, servers)| {
        let servers = match servers {
            Value::Object(servers) => servers,
            _ => Map::new(),
        };
        servers.into_iter().map(move |(name, entry)| (scope.clone(), name, entry))
    });
    servers.collect()
}

/// Reads `active_target`, which is `@client` or `%profile`, or its older form, a client alone.
fn active(settings: &Settings) -> Option<Active> {
    let text = |key| settings.raw(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let target = text("active_target").or_else(|| text("active_client"))?;
    // A scope may go on with the name of a server.
    let scope = target.split('/').next().unwrap_or_default();
    match scope.strip_prefix('%') {
        Some(profile) => Some(Active::Profile(profile.to_owned())),
        None => Some(Active::Client(scope.trim_start_matches('@').to_owned())),
    }
}

fn notes(settings: &Settings) -> Vec<String> {
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let mut notes = Vec::new();
    if let Some(address) =
        text(settings.raw("router").map(|router| router["share_address"].clone()))
    {
        notes.push(format!(
            "the router shared through {address}; name it with `mcpm share --address`"
        ));
    }
    notes
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(keys) => !keys.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GlobalConfigManager, ProfileConfigManager};

    const PROFILES: &str = r#"{
  "work": [
    {"name": "time", "command": "uvx", "args": ["mcp-server-time"], "env": {}},
    {"name": "crm", "url": "https://crm.example/mcp", "headers": {"Authorization": "Bearer t"}}
  ],
  "home": [
    {"name": "time", "command": "uvx", "args": ["mcp-server-time"]},
    {"name": "crm", "url": "https://other.example/mcp", "timeout": 1.50}
  ],
  "empty": []
}"#;
    const CONFIG: &str = r#"{
  "active_target": "%work",
  "node_executable": "bunx",
  "mine": 1.50,
  "router": {"host": "localhost", "share_address": "relay.example:6276"},
  "stashed_servers": {"@cursor": {"old": {"command": "x", "args": ["1"]}}}
}"#;

    fn home() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.v1_profiles(), PROFILES).unwrap();
        std::fs::write(paths.settings(), CONFIG).unwrap();
        (dir, paths)
    }

    fn migrate(paths: &Paths, restore: bool) -> Migrated {
        let backup = paths.backups().join("x");
        V1::find(paths).unwrap().unwrap().migrate(paths, &backup, restore).unwrap()
    }

    /// Defect 24 of the Python `mcpm`: URL servers became invented npx commands, servers of two
    /// profiles were tagged once, and `config.json` was deleted.
    #[test]
    fn a_migration_keeps_url_servers_shared_servers_and_settings() {
        let (_dir, paths) = home();
        let planned = V1::find(&paths).unwrap().unwrap().plan(&paths, false).unwrap();
        assert!(!paths.servers().exists() && !paths.backups().exists());
        let done = migrate(&paths, false);
        assert_eq!(done.servers, planned.servers);
        let servers = std::fs::read_to_string(paths.servers()).unwrap();
        let servers: Value = serde_json::from_str(&servers).unwrap();
        assert_eq!(servers["time"]["profile_tags"], json!(["work", "home"]));
        assert_eq!(servers["crm"]["url"], "https://crm.example/mcp");
        assert_eq!(servers["crm"]["headers"]["Authorization"], "Bearer t");
        assert_eq!(servers["crm-home"]["url"], "https://other.example/mcp");
        assert_eq!(servers["crm-home"]["timeout"].to_string(), "1.5");
        assert_eq!(servers["crm-home"]["name"], "crm-home");
        assert_eq!(servers.as_object().unwrap().len(), 3);
        let config = std::fs::read_to_string(paths.settings()).unwrap();
        let expected = "{\n  \"node_executable\": \"bunx\",\n  \"mine\": 1.50,\n  \"default_profile\": \"work\"\n}";
        assert_eq!(config, expected);
        assert!(done.notes.iter().any(|note| note.contains("relay.example:6276")));
    }

    #[test]
    fn a_migration_keeps_empty_profiles_stashed_servers_and_the_files_themselves() {
        let (_dir, paths) = home();
        let done = migrate(&paths, false);
        assert_eq!(done.stashed, ["@cursor/old"]);
        let profiles = ProfileConfigManager::open(&paths).unwrap();
        assert!(profiles.profile("empty").unwrap().servers.is_empty());
        assert_eq!(profiles.profile("work").unwrap().servers, ["time", "crm"]);
        let backup = paths.backups().join("x");
        let kept = |name: &str| std::fs::read_to_string(backup.join(name)).unwrap();
        assert_eq!((kept("profiles.json"), kept("config.json")), (PROFILES.into(), CONFIG.into()));
        let stash = std::fs::read_to_string(stash_file(&paths)).unwrap();
        assert!(stash.contains("@cursor"), "{stash}");
        assert!(V1::find(&paths).unwrap().is_none());
    }

    #[test]
    fn the_active_target_of_mcpm_1_is_read_in_all_its_forms() {
        for (config, word, default) in [
            (r#"{"active_target": "%work"}"#, "mcpm profile run work", Some("work")),
            (r#"{"active_target": "%work/time"}"#, "mcpm profile run work", Some("work")),
            (r#"{"active_target": "@cursor"}"#, "mcpm client edit cursor", None),
            (r#"{"active_client": "cursor"}"#, "mcpm client edit cursor", None),
            (r#"{"active_target": null, "active_client": "5ire"}"#, "mcpm client edit 5ire", None),
            (r#"{"active_target": "%work", "default_profile": "mine"}"#, "work", Some("mine")),
            (r#"{"active_target": "%gone"}"#, "mcpm profile run gone", None),
        ] {
            let (_dir, paths) = home();
            std::fs::write(paths.settings(), config).unwrap();
            let done = migrate(&paths, false);
            assert!(done.notes.iter().any(|note| note.contains(word)), "{config}: {done:?}");
            let settings = Settings::open(&paths).unwrap();
            assert_eq!(settings.get(DEFAULT_PROFILE).unwrap().as_deref(), default, "{config}");
            assert!(settings.raw("active_target").is_none(), "{config}");
            let is_shared = done.notes.iter().any(|note| note.contains("router share"));
            assert_eq!(is_shared, default == Some("work"), "{config}: {done:?}");
        }
    }

    #[test]
    fn stashed_servers_come_back_when_asked_for() {
        let (_dir, paths) = home();
        migrate(&paths, true);
        let old = GlobalConfigManager::open(&paths).unwrap().server("old").unwrap();
        assert!(old.profile_tags.is_empty());
        assert!(!stash_file(&paths).exists());
    }

    #[test]
    fn an_interrupted_migration_goes_on_and_changes_nothing_twice() {
        let (_dir, paths) = home();
        migrate(&paths, false);
        let servers = std::fs::read_to_string(paths.servers()).unwrap();
        std::fs::write(paths.v1_profiles(), PROFILES).unwrap();
        std::fs::write(paths.settings(), CONFIG).unwrap();
        migrate(&paths, false);
        assert_eq!(std::fs::read_to_string(paths.servers()).unwrap(), servers);
    }

    #[test]
    fn files_that_do_not_parse_are_left_alone() {
        let (_dir, paths) = home();
        std::fs::write(paths.v1_profiles(), "{,").unwrap();
        assert!(V1::find(&paths).is_err());
        assert_eq!(std::fs::read_to_string(paths.settings()).unwrap(), CONFIG);
    }
}
