//! A relay, a home with servers, and the commands of `mcpm` there; nothing outlives it.

use harness::TestRelay;
use harness::home::Home;
use harness::process::{Ended, Program, built};
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

    /// Waits until no process knows of the home, and no file says that one is still to stop.
    pub(super) async fn nothing_is_left(&self) {
        self.home.nothing_is_left(&[]).await;
        let left = std::fs::read_dir(self.home.path("config/shares/live"));
        let left = left.into_iter().flatten().map(|entry| entry.unwrap().path());
        let running = left.filter(|path| path.extension().is_some_and(|end| end == "stop"));
        assert_eq!(running.count(), 0);
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

/// Sends a signal to a process.
pub(super) async fn signal(pid: u64, signal: &str) {
    let mut command = tokio::process::Command::new("kill");
    let sent = command.args(["-s", signal, &pid.to_string()]).status().await;
    assert!(sent.unwrap().success(), "kill {pid}");
}
