//! One test's world: a folder, the files of `mcpm` in it, and the processes that know of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::initialize;
use harness::peers::peers_folder;
use harness::process::{Ended, Program, built, command, processes_of};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::clients::Door;

/// How long something may take to become true. Generous, for a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until `attempt` finds something.
///
/// # Panics
/// When it does not within a minute.
pub(super) async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let mut look = tokio::time::interval(LOOK);
    let found = async {
        loop {
            look.tick().await;
            if let Some(found) = attempt().await {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("it does not come to this: {what}"))
}

/// The names in an answer to `tools/list`.
pub(super) fn names(answer: &Value) -> BTreeSet<String> {
    let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("no list: {answer}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

/// A folder with a configuration of `mcpm`, and the commands that use it.
#[derive(Debug)]
pub(super) struct Stage {
    folder: TempDir,
    servers: Map<String, Value>,
    profiles: Map<String, Value>,
}

impl Stage {
    /// Makes an empty one.
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), servers: Map::new(), profiles: Map::new() }
    }

    /// Adds a server that is a command, with the environment that the peers want.
    pub(super) fn add(&mut self, name: &str, program: &Path, args: &[&str]) {
        self.add_tagged(name, program, args, &[]);
    }

    /// Adds such a server to profiles as well.
    pub(super) fn add_tagged(
        &mut self,
        name: &str,
        program: &Path,
        args: &[&str],
        profiles: &[&str],
    ) {
        let env = json!({
            "PEER_EVENTS": self.events_file(),
            "PEER_NODE": peers_folder().join("node"),
        });
        let entry =
            json!({ "command": program, "args": args, "env": env, "profile_tags": profiles });
        self.add_entry(name, entry);
    }

    /// Adds any entry to `servers.json`, as Python `mcpm` writes it, and makes the profiles that it names.
    pub(super) fn add_entry(&mut self, name: &str, mut entry: Value) {
        entry["name"] = name.into();
        match entry["profile_tags"].as_array() {
            Some(profiles) => {
                let profiles = profiles.iter().filter_map(Value::as_str);
                self.profiles.extend(profiles.map(|profile| (profile.to_owned(), json!({}))));
            }
            None => entry["profile_tags"] = json!([]),
        }
        self.servers.insert(name.to_owned(), entry);
        let text = serde_json::to_string_pretty(&self.servers).unwrap();
        std::fs::create_dir_all(self.config()).unwrap();
        std::fs::write(self.config().join("servers.json"), text).unwrap();
        if !self.profiles.is_empty() {
            let text = serde_json::to_string(&self.profiles).unwrap();
            std::fs::write(self.config().join("profiles_metadata.json"), text).unwrap();
        }
    }

    /// The folder of `mcpm`'s files.
    pub(super) fn config(&self) -> PathBuf {
        self.path("config")
    }

    /// A path within the test's folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn events_file(&self) -> PathBuf {
        self.path("events.jsonl")
    }

    /// What the peers' own servers have written down: `started`, `cancelled`, `finished`.
    pub(super) fn events(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.events_file()).unwrap_or_default();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    }

    /// A program of ours, in this world.
    pub(super) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = command(built(program));
        // What knows of the folder is found again by it, whatever its parents do.
        command.args(args).env("HOME", self.folder.path()).env("MCPM_CONFIG_DIR", self.config());
        command
    }

    /// `mcpm` with arguments, in this world, for programs that start it themselves and may not pass on what they were
    /// started with.
    pub(super) fn mcpm_line(&self, args: &[&str]) -> Vec<String> {
        let config = self.config();
        let place = [built("mcpm").display().to_string(), "--config-dir".to_owned()];
        let args = args.iter().map(|arg| (*arg).to_owned());
        place.into_iter().chain([config.display().to_string()]).chain(args).collect()
    }

    /// Lets `mcpm` learn the lists of a profile's servers, of which these tools are a part.
    ///
    /// Nobody waits long for a server of which nothing is known; on a busy machine several that start at once may take
    /// longer, and what they list is told later. A client that lists once comes after this.
    pub(super) async fn learn(&self, profile: &str, tools: &BTreeSet<String>) {
        let mut program = Program::start(self.command("mcpm", &["profile", "run", profile]));
        program.asked(1, "initialize", initialize()["params"].take()).await;
        program.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        let mut id = 1;
        until("the lists of all servers are known", async || {
            id += 1;
            let listed = names(&program.asked(id, "tools/list", json!({})).await);
            tools.is_subset(&listed).then_some(())
        })
        .await;
        program.hang_up();
        assert_eq!(program.ended().await.code, Some(0), "{}", program.transcript());
    }

    /// Starts `mcpm run` or `mcpm profile run` over HTTP.
    pub(super) async fn serve(&self, args: &[&str]) -> Serving {
        let args = [args, &["--http", "--port", "0"]].concat();
        let mut program = Program::start(self.command("mcpm", &args));
        let url = program
            .line("its URL", |line| line.starts_with("http://").then(|| line.trim().to_owned()))
            .await;
        Serving { program, url }
    }

    /// Runs `mcpm` to its end.
    pub(super) async fn mcpm(&self, args: &[&str]) -> Ended {
        let mut program = Program::start(self.command("mcpm", args));
        program.hang_up();
        program.ended().await
    }

    /// Runs `mcpm` and expects an error that the user can mend: told with a hint, and nothing left behind.
    pub(super) async fn mcpm_fails(&self, args: &[&str]) -> Ended {
        let ended = self.mcpm(args).await;
        let told = format!("{args:?}\n{}\n{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(1), "{told}");
        assert!(ended.stderr.contains("error: ") && ended.stderr.contains("hint: "), "{told}");
        assert!(!ended.stderr.contains("panicked"), "{told}");
        self.nothing_is_left().await;
        ended
    }

    /// Starts a relay on a port of its choice, which keeps its data in this world.
    pub(super) async fn relay(&self, args: &[&str]) -> Relay {
        self.relay_at("127.0.0.1:0", args).await
    }

    /// Starts a relay at an address.
    pub(super) async fn relay_at(&self, addr: &str, args: &[&str]) -> Relay {
        let data = self.path("relay");
        let common = ["serve", "--domain", "localhost", "--admin-listen", "127.0.0.1:0"];
        let start = || {
            let mut command = self.command("mcpm-relay", &common);
            command.args(["--listen", addr]).arg("--data-dir").arg(&data).args(args);
            if !args.contains(&"--auth") {
                command.args(["--auth", "open"]);
            }
            command
        };
        let addresses = |line: &str| {
            let line = line.strip_prefix("listening on http://")?.strip_suffix(')')?;
            let (addr, admin) = line.split_once(" (admin http://")?;
            Some((addr.parse().ok()?, admin.parse().ok()?))
        };
        let (program, (addr, admin)) = Program::listening(start, addresses).await;
        Relay { program, addr, admin }
    }

    /// Starts `mcpm share` and waits until the share is up.
    pub(super) async fn share(&self, relay: &Relay, args: &[&str]) -> Share {
        let address = relay.url();
        let args = [&["share", "--json", "--address", &address], args].concat();
        Share::up(Program::start(self.command("mcpm", &args))).await
    }

    /// Starts `mcpm profile share` and waits until the share is up.
    pub(super) async fn profile_share(&self, relay: &Relay, args: &[&str]) -> Share {
        let address = relay.url();
        let args = [&["profile", "share", "--json", "--address", &address], args].concat();
        Share::up(Program::start(self.command("mcpm", &args))).await
    }

    /// Waits until no process of this world is left, the relays' included.
    pub(super) async fn nothing_is_left(&self) {
        let mut left = Vec::new();
        let gone = until("no process is left", async || {
            left = processes_of(self.folder.path());
            left.is_empty().then_some(())
        });
        if tokio::time::timeout(Duration::from_secs(15), gone).await.is_err() {
            panic!("left behind: {left:#?}");
        }
    }
}

/// A relay process.
#[derive(Debug)]
pub(super) struct Relay {
    /// The process.
    pub(super) program: Program,
    /// Where it listens.
    pub(super) addr: SocketAddr,
    /// Where it listens to operators.
    pub(super) admin: SocketAddr,
}

impl Relay {
    /// What agents use as its address.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops it and waits for its end.
    pub(super) async fn stop(mut self) {
        self.program.signal("TERM");
        let ended = self.program.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

/// An agent process that serves HTTP on this machine.
#[derive(Debug)]
pub(super) struct Serving {
    program: Program,
    url: String,
}

impl Serving {
    /// The way in.
    pub(super) fn door(&self) -> Door {
        Door::Url { url: self.url.clone(), token: None }
    }

    /// Stops it as Ctrl-C does and expects the code that shells expect.
    pub(super) async fn stop(mut self) {
        self.program.signal("INT");
        let ended = self.program.ended().await;
        assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    }
}

/// An agent process with a share that is up.
#[derive(Debug)]
pub(super) struct Share {
    /// The process.
    pub(super) program: Program,
    /// The public URL.
    pub(super) url: String,
    /// The token that opens it.
    pub(super) token: Option<String>,
    /// What `--json` said of it.
    pub(super) up: Value,
}

impl Share {
    /// Waits until a program that shares says so.
    pub(super) async fn up(mut program: Program) -> Self {
        let up = program.event("up").await;
        let text = |key: &str| up[key].as_str().map(str::to_owned);
        Self { program, url: text("url").unwrap(), token: text("token"), up }
    }

    /// The way in.
    pub(super) fn door(&self) -> Door {
        Door::Url { url: self.url.clone(), token: self.token.clone() }
    }

    /// Stops it as Ctrl-C does and expects a clean end.
    pub(super) async fn stop(self) {
        self.stop_by("INT").await;
    }

    /// Stops it by a signal and expects a clean end.
    pub(super) async fn stop_by(mut self, signal: &str) {
        self.program.signal(signal);
        let ended = self.program.ended().await;
        assert_eq!(ended.code, Some(0), "after SIG{signal}: {}", ended.stderr);
    }
}
