//! Servers that the MCP project publishes on npm and `PyPI`, configured as users do it, and calls that they answer.

use std::collections::BTreeSet;
use std::path::PathBuf;

use futures_util::future::join_all;
use harness::Service;
use harness::peers::programs;
use harness::process::{Program, command};
use serde_json::{Value, json};

use super::clients::{Call, Seen};
use super::sdks::{node, node_ready, published_npm, python, python_ready};
use super::stage::{Stage, names};

/// The profile that has all of them.
pub(super) const PROFILE: &str = "work";

/// A world with seven published servers, and with what they work on.
#[derive(Debug)]
pub(super) struct Published {
    /// The world.
    pub(super) stage: Stage,
    servers: Vec<Server>,
    /// A web page for `fetch`.
    web: Service,
}

/// How one of them is started.
#[derive(Debug)]
struct Server {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Server {
    fn npm(name: &'static str, package: &str, args: &[&str]) -> Self {
        let mut line = vec![published_npm(package).display().to_string()];
        line.extend(args.iter().map(|arg| (*arg).to_owned()));
        Self { name, program: node(), args: line, env: Vec::new() }
    }

    fn pypi(name: &'static str, module: &str, args: &[&str]) -> Self {
        let args = [&["-m", module], args].concat().into_iter().map(str::to_owned).collect();
        Self { name, program: python(), args, env: Vec::new() }
    }
}

impl Published {
    /// Makes the world; tells why when something is missing for it.
    pub(super) async fn new() -> Option<Self> {
        if !(node_ready() && python_ready() && programs(&["git"])) {
            return None;
        }
        let mut stage = Stage::new();
        let (files, repo) = (stage.path("files"), stage.path("repo"));
        for folder in [&files, &repo] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(files.join("hello.txt"), "grüße 🙂\n").unwrap();
        std::fs::write(repo.join("notes.txt"), "not committed\n").unwrap();
        let (files, repo) = (files.display().to_string(), repo.display().to_string());
        let made = std::process::Command::new("git").args(["init", "--quiet", &repo]).status();
        assert!(made.unwrap().success());
        let mut memory = Server::npm("memory", "memory", &[]);
        memory.env.push(("MEMORY_FILE_PATH", stage.path("memory.jsonl").display().to_string()));
        let servers = vec![
            Server::npm("everything", "everything", &["stdio"]),
            Server::npm("filesystem", "filesystem", &[&files]),
            memory,
            Server::npm("thinking", "sequential-thinking", &[]),
            Server::pypi("time", "mcp_server_time", &[]),
            Server::pypi(
                "fetch",
                "mcp_server_fetch",
                &["--ignore-robots-txt", "--allow-private-ips"],
            ),
            Server::pypi("git", "mcp_server_git", &["--repository", &repo]),
        ];
        for server in &servers {
            let env: Value = server.env.iter().cloned().collect();
            let entry = json!({
                "command": server.program, "args": server.args, "env": env, "profile_tags": [PROFILE],
            });
            stage.add_entry(server.name, entry);
        }
        Some(Self { stage, servers, web: Service::echo().await })
    }

    /// Makes the world and lets `mcpm` learn the lists of all servers, which it returns as well.
    pub(super) async fn known() -> Option<(Self, Tools)> {
        let world = Self::new().await?;
        let tools = world.tools().await;
        world.stage.learn(PROFILE, &tools.always).await;
        Some((world, tools))
    }

    /// Calls of tools by their names in the profile: one of each server, two of `memory`. `who` marks what is written.
    pub(super) fn calls(&self, who: &str) -> Vec<Vec<Call>> {
        let file = self.stage.path("files/hello.txt");
        let page = format!("{}/page-of-{who}", self.web.url());
        let entity = json!({ "name": who, "entityType": "client", "observations": ["came by"] });
        let thought = json!({
            "thought": who, "thoughtNumber": 1, "totalThoughts": 2, "nextThoughtNeeded": true,
        });
        vec![
            vec![Call::new("everything_echo", json!({ "message": who }), format!("Echo: {who}"))],
            vec![Call::new("filesystem_read_text_file", json!({ "path": file }), "grüße 🙂")],
            vec![
                Call::new("memory_create_entities", json!({ "entities": [entity] }), who),
                Call::new("memory_read_graph", json!({}), who),
            ],
            vec![Call::new("thinking_sequentialthinking", thought, "\"totalThoughts\": 2")],
            vec![Call::new("time_get_current_time", json!({ "timezone": "Asia/Tokyo" }), "+09:00")],
            vec![Call::new(
                "fetch_fetch",
                json!({ "url": page, "raw": true }),
                format!("-of-{who}"),
            )],
            vec![Call::new(
                "git_git_status",
                json!({ "repo_path": self.stage.path("repo") }),
                "notes.txt",
            )],
        ]
    }

    /// What the servers list by themselves, with the names of the profile.
    pub(super) async fn tools(&self) -> Tools {
        let each = self.servers.iter().map(async |server| {
            let tools = self.tools_of(server.name).await;
            let named = |set: BTreeSet<String>| {
                set.into_iter().map(|tool| format!("{}_{tool}", server.name)).collect()
            };
            Tools { always: named(tools.always), possible: named(tools.possible) }
        });
        join_all(each).await.into_iter().reduce(Tools::and).unwrap()
    }

    /// What one server lists by itself.
    pub(super) async fn tools_of(&self, name: &str) -> Tools {
        let server = self.servers.iter().find(|server| server.name == name).unwrap();
        let always = self.listed(server, json!({})).await;
        // Only server-everything looks at what the client can do.
        let possible = match name {
            "everything" => {
                let can = json!({
                    "roots": {}, "sampling": { "tools": {} }, "elicitation": { "form": {}, "url": {} },
                    "tasks": { "requests": {
                        "sampling": { "createMessage": {} }, "elicitation": { "create": {} },
                    } },
                });
                self.listed(server, can).await
            }
            _ => always.clone(),
        };
        Tools { always, possible }
    }

    /// Starts a server and asks it, without anything between.
    async fn listed(&self, server: &Server, capabilities: Value) -> BTreeSet<String> {
        let mut command = command(&server.program);
        let env = server.env.iter().map(|(name, value)| (*name, value.as_str()));
        command.args(&server.args).envs(env).env("HOME", self.stage.path(""));
        let mut program = Program::start(command);
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": capabilities,
            "clientInfo": { "name": "nobody", "version": "1" },
        });
        program.asked(1, "initialize", params).await;
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        program.say(&ready.to_string()).await;
        names(&program.asked(2, "tools/list", json!({})).await)
    }
}

/// Names of tools.
#[derive(Debug)]
pub(super) struct Tools {
    /// What every client must see.
    always: BTreeSet<String>,
    /// What a client may see that can be asked for everything; this includes the others.
    possible: BTreeSet<String>,
}

impl Tools {
    fn and(mut self, other: Self) -> Self {
        self.always.extend(other.always);
        self.possible.extend(other.possible);
        self
    }

    /// Checks what a client saw: each name once, none missing, none made up.
    pub(super) fn check(&self, who: &str, seen: &Seen) {
        let names: BTreeSet<String> = seen.tools.iter().cloned().collect();
        assert_eq!(names.len(), seen.tools.len(), "{who} sees a tool twice: {:?}", seen.tools);
        let missing: Vec<_> = self.always.difference(&names).collect();
        let made_up: Vec<_> = names.difference(&self.possible).collect();
        assert!(missing.is_empty(), "{who} does not see {missing:?}");
        assert!(made_up.is_empty(), "{who} sees {made_up:?}");
    }
}
