//! Every kind of client on one tour of a server: connect, list the tools, call some of them.

use harness::process::{Ended, Program, command};
use serde_json::{Value, json};
use tokio::process::Command;

use super::sdks::{Events, Sdk, node, npm};
use super::stage::Stage;

/// One client that people use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// A library: an official SDK, or `FastMCP`'s client.
    Library(Sdk),
    /// `mcp-remote`: stdio in front, HTTP behind; the TypeScript SDK 1.x in front of it.
    McpRemote,
    /// MCP Inspector's command line in the legacy era, its default: one process a request.
    Inspector,
    /// MCP Inspector's command line in the modern era.
    InspectorModern,
}

impl Client {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Library(Sdk::TypeScript1),
        Self::Library(Sdk::TypeScript2),
        Self::Library(Sdk::TypeScript2Auto),
        Self::Library(Sdk::Python),
        Self::Library(Sdk::PythonLegacy),
        Self::Library(Sdk::FastMcp),
        Self::Library(Sdk::FastMcpLegacy),
        Self::McpRemote,
        Self::Inspector,
        Self::InspectorModern,
    ];

    /// Whether it can go through this door.
    pub(super) fn fits(self, door: &Door) -> bool {
        self != Self::McpRemote || matches!(door, Door::Url { .. })
    }

    /// Whether each request is a process of its own.
    pub(super) fn is_inspector(self) -> bool {
        matches!(self, Self::Inspector | Self::InspectorModern)
    }

    /// Whether it uses the modern era where the server has it.
    pub(super) fn is_modern(self) -> bool {
        match self {
            Self::Library(sdk) => sdk.is_modern(),
            Self::McpRemote | Self::Inspector => false,
            Self::InspectorModern => true,
        }
    }

    /// Lists the tools behind the door and makes the calls.
    ///
    /// # Panics
    /// When the client fails, or a tool says that it failed.
    pub(super) async fn tour(self, stage: &Stage, door: &Door, calls: &[Call]) -> Seen {
        let who = format!("{self:?} through {door:?}");
        match self {
            Self::Library(sdk) => library(stage, sdk, door, calls, &who).await,
            Self::McpRemote => {
                let door = Door::Stdio(mcp_remote(door));
                let mut seen = library(stage, Sdk::TypeScript1, &door, calls, &who).await;
                // What the SDK says of itself is not what was spoken behind it.
                seen.protocol = None;
                seen
            }
            Self::Inspector => by_inspector(stage, "legacy", door, calls, &who).await,
            Self::InspectorModern => by_inspector(stage, "modern", door, calls, &who).await,
        }
    }

    /// Checks that the client is not let in, and that it ends with an error.
    pub(super) async fn is_refused(self, stage: &Stage, door: &Door) {
        let list = ["--method", "tools/list"];
        let command = match self {
            Self::Library(sdk) => library_command(sdk, door, &[]),
            Self::McpRemote => {
                library_command(Sdk::TypeScript1, &Door::Stdio(mcp_remote(door)), &[])
            }
            Self::Inspector => inspector("legacy", door, &list),
            Self::InspectorModern => inspector("modern", door, &list),
        };
        let ended = run(stage, command).await;
        assert!(ended.code.is_some_and(|code| code != 0), "{self:?} through {door:?}: {ended:?}");
        assert!(!ended.stdout.contains("\"tools\""), "{self:?} through {door:?}: {ended:?}");
    }
}

/// A way into `mcpm`.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// A command that speaks MCP over stdio.
    Stdio(Vec<String>),
    /// Streamable HTTP, with a bearer token or without.
    Url { url: String, token: Option<String> },
}

/// One call of a tool, and what must be in its answer.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The tool, as the client sees it.
    pub(super) tool: String,
    /// Its arguments.
    pub(super) args: Value,
    /// A part of the text that comes back.
    pub(super) part: String,
}

impl Call {
    /// Makes one.
    pub(super) fn new(tool: &str, args: Value, part: impl Into<String>) -> Self {
        Self { tool: tool.to_owned(), args, part: part.into() }
    }

    /// Checks an answer to it.
    fn check(&self, who: &str, text: &str, failed: bool) {
        assert!(!failed && text.contains(&self.part), "{who}: {self:?} was answered with {text}");
    }
}

/// What a client saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// The version of MCP that it speaks with `mcpm`, where the client tells.
    pub(super) protocol: Option<String>,
    /// The tools, as listed.
    pub(super) tools: Vec<String>,
}

async fn library(stage: &Stage, sdk: Sdk, door: &Door, calls: &[Call], who: &str) -> Seen {
    let ended = run(stage, library_command(sdk, door, calls)).await;
    assert_eq!(ended.code, Some(0), "{who}: {ended:#?}");
    let events = Events::parse(&ended.stdout);
    let answers: Vec<&Value> = events.all("answer").collect();
    assert_eq!(answers.len(), calls.len(), "{who}: {events:?}");
    for (call, answer) in calls.iter().zip(answers) {
        call.check(who, answer["text"].as_str().unwrap(), answer["failed"].as_bool().unwrap());
    }
    let protocol = events.one("connected")["protocol"].as_str().map(str::to_owned);
    Seen { protocol, tools: names(&events.one("tools")["names"], |name| name) }
}

fn library_command(sdk: Sdk, door: &Door, calls: &[Call]) -> Command {
    let plan: Vec<Value> =
        calls.iter().map(|call| json!({ "tool": call.tool, "args": call.args })).collect();
    let mut command = sdk.command("tour", &json!({ "calls": plan }));
    match door {
        Door::Stdio(line) => command.env("PEER_COMMAND", json!(line).to_string()),
        Door::Url { url, token } => {
            command.env("PEER_URL", url).env("PEER_TOKEN", token.as_deref().unwrap_or_default())
        }
    };
    command
}

async fn by_inspector(stage: &Stage, era: &str, door: &Door, calls: &[Call], who: &str) -> Seen {
    let ask = async |args: &[&str]| -> Value {
        let ended = run(stage, inspector(era, door, args)).await;
        assert_eq!(ended.code, Some(0), "{who}: {ended:#?}");
        let answer: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{who}: {error} in {ended:#?}"));
        answer["result"].clone()
    };
    let list = ask(&["--method", "tools/list"]).await;
    for call in calls {
        let args = call.args.to_string();
        let what = ["--method", "tools/call", "--tool-name", &call.tool, "--tool-args-json", &args];
        let result = ask(&what).await;
        let content = result["content"].as_array().unwrap_or_else(|| panic!("{who}: {result}"));
        let text: String = content.iter().filter_map(|part| part["text"].as_str()).collect();
        call.check(who, &text, result["isError"] == true);
    }
    // Asked for the modern era it takes no other.
    let protocol = (era == "modern").then(|| "2026-07-28".to_owned());
    Seen { protocol, tools: names(&list["tools"], |tool| &tool["name"]) }
}

/// Runs a client to its end. What it starts is found again by the folder of the stage.
async fn run(stage: &Stage, mut command: Command) -> Ended {
    command.env("HOME", stage.path(""));
    let mut program = Program::start(command);
    program.hang_up();
    program.ended().await
}

/// The command of `mcp-remote` in front of a URL.
pub(super) fn mcp_remote(door: &Door) -> Vec<String> {
    let Door::Url { url, token } = door else { panic!("mcp-remote has no use for {door:?}") };
    let mut line = vec![
        node().display().to_string(),
        npm("mcp-remote/dist/proxy.js").display().to_string(),
        url.clone(),
    ];
    if let Some(token) = token {
        line.extend(["--header".to_owned(), format!("Authorization: Bearer {token}")]);
    }
    line
}

fn inspector(era: &str, door: &Door, args: &[&str]) -> Command {
    // The system's Node.js may be too old for it; `cargo xtask peers` adds one then.
    let own = npm(".bin/node");
    let mut command = command(if own.exists() { own } else { node() });
    command.arg(npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js"));
    command.args(["--cli", "--protocol-era", era, "--format", "json", "--quiet"]);
    match door {
        Door::Stdio(line) => command.args(line),
        Door::Url { url, token } => {
            command.args(["--transport", "http", "--server-url", url]);
            let header = token.iter().map(|token| format!("Authorization: Bearer {token}"));
            command.args(header.flat_map(|header| ["--header".to_owned(), header]))
        }
    };
    command.args(args);
    command
}

fn names<'a>(list: &'a Value, name: impl Fn(&'a Value) -> &'a Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|one| name(one).as_str().unwrap().to_owned()).collect()
}
