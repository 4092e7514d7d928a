//! A relay, a home with servers, and the commands of `mcpm` there; nothing outlives it.

use harness::home::Home;
use harness::process::{Ended, Program, built};
use harness::{TestRelay, eventually, soon, visitor};
use serde_json::{Value, json};

/// A relay and a home.
#[derive(Debug)]
pub(super) struct World {
    pub(super) relay: TestRelay,
    pub(super) home: Home,
}

impl World {
    /// Starts a relay. The home has the server `x`, which the profile `work` has too, and `broken`.
    pub(super) async fn start() -> Self {
        let relay = TestRelay::start().await;
        let mut home = Home::new();
        let upstream = built("conformance-upstream");
        let tags = json!(["work"]);
        home.add("x", json!({ "command": upstream, "args": ["--stdio"], "profile_tags": tags }));
        home.add("broken", json!({ "command": "sh", "args": ["-c", "exit 3"] }));
        Self { relay, home }
    }

    /// The address of the relay.
    pub(super) fn address(&self) -> String {
        self.relay.url("")
    }

    /// Runs `mcpm` to its end.
    pub(super) async fn run(&self, args: &[&str]) -> Ended {
        Program::start(self.home.command("mcpm", args)).ended().await
    }

    /// Starts a share in the background and returns what the command says of it.
    pub(super) async fn detach(&self, args: &[&str]) -> Value {
        let address = self.address();
        let more = ["--detach", "--json", "--address", &address];
        let up = ended_well(self.run(&[args, &more].concat()).await);
        assert_eq!(up["event"], "up", "{up}");
        up
    }

    /// What `mcpm shares --json` says.
    pub(super) async fn shares(&self) -> Value {
        ended_well(self.run(&["shares", "--json"]).await)
    }

    /// Waits until no process knows of the home.
    pub(super) async fn nothing_is_left(&self) {
        eventually("nothing is left", || async { self.home.processes().is_empty().then_some(()) })
            .await;
        let left = std::fs::read_dir(self.home.path("config/shares/live"));
        let left = left.into_iter().flatten().map(|entry| entry.unwrap().path());
        let running = left.filter(|path| path.extension().is_some_and(|end| end == "stop"));
        assert_eq!(running.count(), 0);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that fails must not leave shares behind.
        for process in self.home.processes() {
            let pid = process.split(' ').next().unwrap_or_default();
            let _gone = std::process::Command::new("kill").args(["-s", "KILL", pid]).status();
        }
    }
}

/// The only value that a command which ended well has printed.
pub(super) fn ended_well(ended: Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// The text of a key.
pub(super) fn only(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {value}")).to_owned()
}

/// Opens a session at a URL, and returns the status of the answer.
pub(super) async fn answers(url: &str, token: Option<&str>) -> u16 {
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": { "name": "background", "version": "1" },
    } });
    let mut request = visitor().post(url).json(&initialize);
    request = request.header("accept", "application/json, text/event-stream");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    soon("an answer", request.send()).await.map_or(0, |answer| answer.status().as_u16())
}

/// Sends a signal to a process.
pub(super) async fn signal(pid: u64, signal: &str) {
    let mut command = tokio::process::Command::new("kill");
    let sent = command.args(["-s", signal, &pid.to_string()]).status().await;
    assert!(sent.unwrap().success(), "kill {pid}");
}
