//! A home that two programs share, and what each of them says is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use harness::peers::peers_folder;
use harness::process::{Program, built, command};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::super::sdks::script;

/// The client that both edit.
const CLIENT: &str = "cursor";

/// What a person had in the file of the client before.
const CLIENT_FILE: &str = r#"{
  "mcpServers": {
    "files": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/tmp"]
    }
  }
}
"#;

/// Texts of entries by their names.
type Texts = BTreeMap<String, String>;

/// One home.
pub(super) struct Home {
    folder: TempDir,
    /// What says what the Python program reads; to start it anew for each step takes seconds.
    reader: Program,
}

impl Home {
    /// Makes a home with a client and a catalogue, but without servers.
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        for inside in [".cursor", ".config/mcpm"] {
            std::fs::create_dir_all(home.join(inside)).unwrap();
        }
        std::fs::write(home.join(".cursor/mcp.json"), CLIENT_FILE).unwrap();
        // The Python program asks nobody while its copy is younger than an hour.
        let cache = json!({ "servers": catalogue(), "last_refresh": "2999-01-01T00:00:00" });
        std::fs::write(home.join(".config/mcpm/servers_cache.json"), cache.to_string()).unwrap();
        let mut reader = python("python", &folder);
        reader.arg(script("mcpm_reads.py"));
        let mut reader = Program::start(reader);
        reader.line("that it is ready", |line| (line == "ready").then_some(())).await;
        Self { folder, reader }
    }

    /// Lets the Python program do a step; returns what it printed.
    pub(super) async fn theirs(&mut self, args: &[&str]) -> String {
        let mut program = python("mcpm", &self.folder);
        program.args(args);
        let mut program = Program::start(program);
        program.hang_up();
        let ended = program.ended().await;
        let told = format!("theirs {args:?}\n{}\n{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(0), "{told}");
        self.agree(&told).await;
        ended.stdout
    }

    /// Lets ours do a step that is about these entries; returns what the Python program reads then.
    pub(super) async fn ours(&mut self, args: &[&str], about: &[&str]) -> Value {
        let before = self.texts();
        self.mcpm(args).await;
        let after = self.texts();
        for (name, text) in &before {
            let key = name.rsplit('/').next().unwrap_or_default();
            if !about.contains(&key) {
                assert_eq!(after.get(name), Some(text), "ours {args:?} has touched {name}");
            }
        }
        self.agree(&format!("ours {args:?}")).await
    }

    /// Runs ours to its end and returns what it printed.
    async fn mcpm(&self, args: &[&str]) -> String {
        let mut program = Program::start(self.command(args));
        program.hang_up();
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "ours {args:?}\n{}\n{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(built("mcpm"));
        command.args(args).envs(environment(&self.folder));
        command
    }

    /// Returns what ours knows of use.
    pub(super) async fn usage(&self) -> Value {
        serde_json::from_str(&self.mcpm(&["usage", "--json"]).await).unwrap()
    }

    /// Lets a client use a server through the Python program.
    pub(super) async fn serve_by_theirs(&self, server: &str) {
        let mut program = python("mcpm", &self.folder);
        program.args(["run", server]);
        serve(program).await;
    }

    /// Lets a client use a server through ours.
    pub(super) async fn serve_by_ours(&self, server: &str) {
        serve(self.command(&["run", server])).await;
    }

    /// Asserts that both read the same, and that it is what the files say; returns what the Python program reads.
    async fn agree(&mut self, after: &str) -> Value {
        self.reader.say(CLIENT).await;
        let theirs: Value =
            self.reader.line("what it reads", |line| serde_json::from_str(line).ok()).await;
        for (name, server) in theirs["servers"].as_object().unwrap() {
            let file = self.entries(".config/mcpm/servers.json");
            let written: Map<String, Value> = serde_json::from_str(&file[name]).unwrap();
            for (key, value) in written {
                assert_eq!(server[&key], value, "{after}: `{key}` of `{name}`");
            }
        }
        let ours = self.read_by_ours().await;
        assert_eq!(ours, in_short(&theirs), "{after}\nours (left) and theirs (right) differ");
        theirs
    }

    /// What ours says: servers, profiles and the entries of the client.
    async fn read_by_ours(&self) -> Value {
        let ask = async |args: &[&str]| -> Vec<Value> {
            serde_json::from_str(&self.mcpm(args).await).unwrap()
        };
        let servers = ask(&["ls", "--json"]).await.into_iter().map(|mut server| {
            let name = server["name"].as_str().unwrap().to_owned();
            server.as_object_mut().unwrap().remove("name");
            (name, sorted(server))
        });
        let profiles = ask(&["profile", "ls", "--json"]).await.into_iter().map(|profile| {
            let servers = profile["servers"].as_array().unwrap().iter();
            let names = servers.map(|server| server["name"].clone()).collect::<Value>();
            (profile["name"].as_str().unwrap().to_owned(), names)
        });
        let clients = ask(&["client", "ls", "--json"]).await;
        let client = clients.iter().find(|client| client["client"] == CLIENT).unwrap();
        let names = |key: &str, prefix: &str| -> Vec<String> {
            let names = client[key].as_array().unwrap().iter();
            names.map(|name| format!("{prefix}{}", name.as_str().unwrap())).collect()
        };
        let entries: BTreeSet<String> = names("others", "")
            .into_iter()
            .chain(names("servers", "mcpm_"))
            .chain(names("profiles", "mcpm_profile_"))
            .collect();
        json!({
            "servers": servers.collect::<BTreeMap<_, _>>(),
            "profiles": profiles.collect::<BTreeMap<_, _>>(),
            "client": entries,
        })
    }

    /// All entries of all files, each with the file before its name.
    fn texts(&self) -> Texts {
        let files = ["servers.json", "profiles_metadata.json", "config.json", "sources.json"];
        let ours = files.map(|file| format!(".config/mcpm/{file}"));
        let mut texts = Texts::new();
        for file in &ours {
            texts.extend(
                self.entries(file).into_iter().map(|(n, text)| (format!("{file}/{n}"), text)),
            );
        }
        let client = self.entries(".cursor/mcp.json");
        let inside = parsed(&client["mcpServers"]);
        texts.extend(inside.into_iter().map(|(name, text)| (format!("{CLIENT}/{name}"), text)));
        texts
    }

    fn entries(&self, file: &str) -> Texts {
        let text = std::fs::read_to_string(self.folder.path().join(file));
        text.map(|text| parsed(&text)).unwrap_or_default()
    }
}

fn parsed(object: &str) -> Texts {
    let entries: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).unwrap();
    entries.into_iter().map(|(name, text)| (name, text.get().to_owned())).collect()
}

/// What ours would say of what the Python program reads.
fn in_short(theirs: &Value) -> Value {
    let servers = theirs["servers"].as_object().unwrap().iter().map(|(name, server)| {
        let keys = |key: &str| -> Value {
            let pairs = server[key].as_object().into_iter().flatten();
            pairs.map(|(name, _)| Value::from(name.as_str())).collect()
        };
        let short = match server["command"].is_string() {
            true => json!({
                "type": "stdio", "profiles": server["profile_tags"],
                "command": server["command"], "args": server["args"], "env": keys("env"),
            }),
            false => json!({
                "type": "remote", "profiles": server["profile_tags"],
                "url": server["url"], "headers": keys("headers"),
            }),
        };
        (name.clone(), sorted(short))
    });
    let entries = theirs["client"].as_object().unwrap().keys().cloned();
    json!({
        "servers": servers.collect::<BTreeMap<_, _>>(),
        "profiles": theirs["profiles"].as_object().unwrap().iter().collect::<BTreeMap<_, _>>(),
        "client": entries.collect::<BTreeSet<_>>(),
    })
}

/// The same with its profiles in order: of these the order says nothing, and the Python program changes it.
fn sorted(mut server: Value) -> Value {
    if let Some(profiles) = server["profiles"].as_array_mut() {
        profiles.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    server
}

/// One client's visit.
async fn serve(command: Command) {
    let (answers, _) = Program::start(command).visited("turns").await;
    for answer in answers {
        assert!(answer.get("result").is_some(), "{answer}");
    }
}

/// A program of the Python `mcpm`'s own folder, on this home.
fn python(program: &str, folder: &TempDir) -> Command {
    let mut command = command(peers_folder().join("mcpm/bin").join(program));
    command.envs(environment(folder)).env("NO_COLOR", "1").env("COLUMNS", "200");
    command
}

/// The same for both: nobody is asked, and what the catalogue asks for is there.
fn environment(folder: &TempDir) -> [(&'static str, PathBuf); 4] {
    [
        ("HOME", folder.path().to_owned()),
        ("MCPM_NON_INTERACTIVE", "true".into()),
        ("WEATHER_KEY", "k1".into()),
        ("FAR_KEY", "f1".into()),
    ]
}

fn catalogue() -> Value {
    let about = |name: &str| {
        json!({
            "name": name, "display_name": name, "description": format!("About {name}."),
            "repository": { "type": "git", "url": "https://git.example/x" }, "license": "MIT",
        })
    };
    let with = |name: &str, arguments: Value, method: Value| {
        let mut manifest = about(name);
        manifest["arguments"] = arguments;
        manifest["installations"] = json!({ "only": method });
        manifest
    };
    let required = json!({ "description": "A key", "required": true });
    let optional = json!({ "description": "Units", "required": false });
    json!({
        "clock": with("clock", json!({}), json!({
            "type": "npm", "command": "npx", "args": ["-y", "clock-mcp"],
        })),
        "far": with("far", json!({ "FAR_KEY": required }), json!({
            "type": "http", "url": "https://far.example/mcp",
            "headers": { "Authorization": "Bearer ${FAR_KEY}" },
        })),
        "weather": with("weather", json!({ "WEATHER_KEY": required, "UNITS": optional }), json!({
            "type": "uvx", "command": "uvx", "args": ["weather-mcp", "--units=${UNITS}"],
            "env": { "WEATHER_KEY": "${WEATHER_KEY}" },
        })),
    })
}
