//! The official SDKs, and `FastMCP`'s client, as scripts in `tests/peers`, one process a scenario.

use std::path::PathBuf;

use harness::peers::{packages, peers_folder};
use harness::process::{Program, command};
use serde_json::Value;
use tokio::process::Command;

/// One client, in one way of opening a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sdk {
    /// TypeScript 1.x: the legacy era.
    TypeScript1,
    /// TypeScript 2.x as it comes: the legacy era.
    TypeScript2,
    /// TypeScript 2.x asked to look for the modern era first.
    TypeScript2Auto,
    /// Python 2.x as it comes: looks for the modern era first.
    Python,
    /// Python 2.x asked to use the legacy era.
    PythonLegacy,
    /// `FastMCP`'s as it comes: looks for the modern era first. It knows the scenario `tour` only.
    FastMcp,
    /// `FastMCP`'s asked to use the legacy era.
    FastMcpLegacy,
}

impl Sdk {
    fn name(self) -> &'static str {
        match self {
            Self::TypeScript1 => "v1",
            Self::TypeScript2 => "v2",
            Self::TypeScript2Auto => "v2-auto",
            Self::Python => "python",
            Self::PythonLegacy => "python-legacy",
            Self::FastMcp => "fastmcp",
            Self::FastMcpLegacy => "fastmcp-legacy",
        }
    }

    fn is_python(self) -> bool {
        matches!(self, Self::Python | Self::PythonLegacy | Self::FastMcp | Self::FastMcpLegacy)
    }

    /// Whether it uses the modern era where the server has it.
    pub(super) fn is_modern(self) -> bool {
        matches!(self, Self::Python | Self::FastMcp | Self::TypeScript2Auto)
    }

    /// Whether it and server-everything (which needs Node.js) can be run.
    pub(super) fn ready(self) -> bool {
        node_ready() && (!self.is_python() || python_ready())
    }

    /// Starts a scenario of the client script.
    pub(super) fn start(
        self,
        scenario: &str,
        url: &str,
        token: Option<&str>,
        options: &Value,
    ) -> Program {
        let mut command = self.command(scenario, options);
        command.env("PEER_URL", url).env("PEER_TOKEN", token.unwrap_or_default());
        Program::start(command)
    }

    /// The client script with a scenario; whom it talks to is still to be said.
    pub(super) fn command(self, scenario: &str, options: &Value) -> Command {
        let (program, script) = match self.is_python() {
            true => (python(), script("client.py")),
            false => (node(), script("client.mjs")),
        };
        let mut command = command(program);
        command.arg(script).arg(scenario).arg(options.to_string());
        command.env("PEER_SDK", self.name()).env("PEER_NODE", peers_folder().join("node"));
        command
    }

    /// Runs a scenario that succeeds and returns its events.
    pub(super) async fn run(
        self,
        scenario: &str,
        url: &str,
        token: Option<&str>,
        options: Value,
    ) -> Events {
        let mut program = self.start(scenario, url, token, &options);
        program.hang_up();
        let ended = program.ended().await;
        let told = || format!("{self:?} {scenario} {options}\n{}", program.transcript());
        assert_eq!(ended.code, Some(0), "{}", told());
        Events::parse(&ended.stdout)
    }

    /// Runs a scenario that cannot connect and returns its `error` event.
    pub(super) async fn run_refused(self, url: &str, token: Option<&str>) -> Value {
        let mut program = self.start("basic", url, token, &Value::Object(serde_json::Map::new()));
        program.hang_up();
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(1), "{self:?}\n{}", program.transcript());
        Events::parse(&ended.stdout).one("error")
    }
}

/// What a client script told.
#[derive(Debug)]
pub(super) struct Events(pub(super) Vec<Value>);

impl Events {
    /// Reads what it wrote.
    pub(super) fn parse(stdout: &str) -> Self {
        Self(stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// The only event of this kind.
    pub(super) fn one(&self, event: &str) -> Value {
        let mut found = self.all(event);
        let one = found.next().unwrap_or_else(|| panic!("no `{event}` in {self:?}")).clone();
        assert!(found.next().is_none(), "several `{event}` in {self:?}");
        one
    }

    /// All events of this kind, in order.
    pub(super) fn all(&self, event: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |value| value["event"] == event)
    }

    /// The events of one of two clients.
    pub(super) fn of_client(&self, number: u64) -> Self {
        Self(self.0.iter().filter(|value| value["client"] == number).cloned().collect())
    }

    /// Checks that all progress came, in order, and then the result; returns its text.
    pub(super) fn progress_then_result(&self, steps: u64) -> String {
        let told: Vec<&Value> =
            self.0.iter().filter(|v| v["event"] == "progress" || v["event"] == "result").collect();
        let (last, progress) = told.split_last().unwrap();
        let progress: Vec<f64> = progress.iter().map(|v| v["progress"].as_f64().unwrap()).collect();
        let expected: Vec<f64> =
            (1..=steps).map(|step| f64::from(u32::try_from(step).unwrap())).collect();
        assert_eq!(progress, expected, "{self:?}");
        assert_eq!(last["event"], "result", "{self:?}");
        last["text"].as_str().unwrap().to_owned()
    }
}

/// Whether the Node.js packages are there.
pub(super) fn node_ready() -> bool {
    packages("node")
}

/// Whether the Python packages are there.
pub(super) fn python_ready() -> bool {
    packages("python")
}

/// Whether the Python `mcpm` is there.
pub(super) fn mcpm_ready() -> bool {
    packages("mcpm")
}

/// The program that runs the TypeScript peers.
pub(super) fn node() -> PathBuf {
    PathBuf::from("node")
}

/// The program that runs the Python peers.
pub(super) fn python() -> PathBuf {
    peers_folder().join("python/bin/python")
}

/// A script of `tests/peers`.
pub(super) fn script(name: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// The entry point of server-everything.
pub(super) fn everything() -> PathBuf {
    published_npm("everything")
}

/// The entry point of one of the servers that the MCP project publishes on npm.
pub(super) fn published_npm(server: &str) -> PathBuf {
    npm(&format!("@modelcontextprotocol/server-{server}/dist/index.js"))
}

/// A file of the installed npm packages.
pub(super) fn npm(file: &str) -> PathBuf {
    peers_folder().join("node/node_modules").join(file)
}

/// Makes a test of each SDK from a function over them.
macro_rules! each_sdk {
    ($test:ident) => {
        mod $test {
            use super::super::sdks::Sdk;

            #[tokio::test]
            async fn typescript_1() {
                super::$test(Sdk::TypeScript1).await;
            }

            #[tokio::test]
            async fn typescript_2() {
                super::$test(Sdk::TypeScript2).await;
            }

            #[tokio::test]
            async fn typescript_2_auto() {
                super::$test(Sdk::TypeScript2Auto).await;
            }

            #[tokio::test]
            async fn python() {
                super::$test(Sdk::Python).await;
            }

            #[tokio::test]
            async fn python_legacy() {
                super::$test(Sdk::PythonLegacy).await;
            }
        }
    };
}
pub(super) use each_sdk;
