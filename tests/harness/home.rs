//! A home of `mcpm`: a folder with its files, and the programs that use them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, interval};

use crate::PATIENCE;
use crate::process::{built, command, processes_of};

/// A folder of a test's own with the configuration of `mcpm`. What is started here is found again by it.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    servers: Map<String, Value>,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// Makes an empty one.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), servers: Map::new() }
    }

    /// Adds an entry to `servers.json`; the profiles that it names exist from then on.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn add(&mut self, name: &str, mut entry: Value) {
        entry["name"] = name.into();
        let tags = entry["profile_tags"].as_array().cloned().unwrap_or_default();
        entry["profile_tags"] = tags.into();
        self.servers.insert(name.to_owned(), entry);
        let profiles = self.servers.values().filter_map(|entry| entry["profile_tags"].as_array());
        let profiles: Map<String, Value> =
            profiles.flatten().map(|tag| (tag.as_str().unwrap().to_owned(), json!({}))).collect();
        std::fs::create_dir_all(self.config()).unwrap();
        let write = |file: &str, members: &Map<String, Value>| {
            std::fs::write(self.config().join(file), json!(members).to_string()).unwrap();
        };
        write("servers.json", &self.servers);
        write("profiles_metadata.json", &profiles);
    }

    /// The folder of `mcpm`'s files.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path("config")
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path within the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program of ours, with this home.
    #[must_use]
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = command(built(program));
        command.args(args).env("HOME", self.folder.path()).env("MCPM_CONFIG_DIR", self.config());
        command
    }

    /// The processes that know of this home; nothing where there is no `/proc`.
    #[must_use]
    pub fn processes(&self) -> Vec<String> {
        processes_of(self.folder.path())
    }

    /// Waits until no process knows of this home, but those with the ids `but`.
    ///
    /// # Panics
    /// When some do not end.
    pub async fn nothing_is_left(&self, but: &[u32]) {
        let (mut look, begun) = (interval(Duration::from_millis(20)), Instant::now());
        loop {
            look.tick().await;
            let mut left = self.processes();
            left.retain(|process| !but.iter().any(|id| id_of(process) == id.to_string()));
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "left behind: {left:#?}");
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A test that fails must not leave processes behind.
        for process in self.processes() {
            let _gone = std::process::Command::new("kill")
                .args(["-s", "KILL", id_of(&process)])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The id of a process as [`processes_of`] tells of it.
fn id_of(process: &str) -> &str {
    process.split(' ').next().unwrap_or_default()
}
